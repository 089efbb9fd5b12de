/* P ranks are one rank: the same tokens in the same order, the same loss and gradients to rounding, for a Transformer
 * and a hybrid.
 *
 * The oracle is this very rank alone (a NULL communicator) on the whole batch. Gradients are sums over tokens whose
 * order depends on P: fp32 rounding of about 2^-24 per term, over 1e3 terms, grows to some 1e-6; 1e-5 for the loss and
 * 1e-4 for gradients are the bars with room to spare. */
/*TEST
np: 1 2 3 4
timeout: 120
*/
#include "config/options.h"
#include "model/import.h"
#include "tests/tiny.h"
#include "train/steps.h"

enum { BATCH = 8, CONTEXT = 24, STEPS = 20 };

typedef struct rig {
    gr_run     run;
    gr_mesh    mesh;
    gr_config  cfg;
    gr_model  *model;
    gr_loader *loader;
    gr_trainer t;
    double     sums[8];
} rig;

/* A trainer without output directory: what a step needs and no more. */
static void rig_open(rig *r, gr_comm *c, const char *config, const char *weights, const char *corpus)
{
    memset(r, 0, sizeof *r);
    r->cfg.data = (gr_cfg_data){.shards = corpus, .context = CONTEXT, .micro_batch = 2};
    r->cfg.train = (gr_cfg_train){.steps = STEPS, .batch = BATCH, .only = "*", .seed = 5, .log_every = 1000};
    r->cfg.optim =
        (gr_cfg_optim){.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};
    r->cfg.schedule = (gr_cfg_schedule){.kind = "cosine", .warmup = 3, .min_ratio = 0.1};
    r->mesh.data = c;
    r->run = (gr_run){.comm = c,
                      .mesh = &r->mesh,
                      .cfg = &r->cfg,
                      .program = "test",
                      .config_text = "",
                      .threads = 1,
                      .ops = &gr_ops_cpu};
    if (config)
        CHECK(gr_model_create(&r->model, c, &gr_ops_cpu, config, "", "*", 7) == GR_OK, "model");
    else
        CHECK(gr_model_open(&r->model, c, &gr_ops_cpu, weights, GR_WHOLE, "*", 0) == GR_OK, "model");
    CHECK(gr_loader_open(&r->loader, c, c, &gr_ops_cpu, &r->cfg.data, &r->cfg.train, "", TINY_VOCAB) == GR_OK,
          "loader");
    r->t = (gr_trainer){.run = &r->run, .ops = &gr_ops_cpu, .model = r->model, .host_sum = r->sums, .n_sum = 3};
    r->t.sum = gr_view1(NULL, GR_F64, 3);
    CHECK(gr_ops_cpu.alloc(&r->t.sum.data, 3 * sizeof(double), "sums") == GR_OK, "sums");
}

static void rig_close(rig *r)
{
    gr_ops_cpu.free(&r->t.sum.data);
    gr_loader_close(&r->loader);
    gr_model_close(&r->model);
}

/* Rank r of P sees exactly its share of the single rank's sequences. */
static void same_tokens(rig *mine, rig *alone, const gr_comm *c)
{
    int64_t  first = 0, count = 0, seen = 0;
    gr_batch a, b;

    gr_share(BATCH, gr_comm_rank(c), gr_comm_size(c), &first, &count);
    for (int64_t i = 0; i < gr_loader_micros(mine->loader, 3); i++) {
        CHECK(gr_loader_get(mine->loader, 3, i, &a) == GR_OK, "micro-batch %lld", (long long)i);
        for (int64_t s = 0; s < a.seq.n / CONTEXT; s++, seen++) {
            const int64_t at = first + seen;
            CHECK(gr_loader_get(alone->loader, 3, at / 2, &b) == GR_OK, "oracle");
            CHECK(!memcmp((int32_t *)a.ids.data + s * CONTEXT, (int32_t *)b.ids.data + at % 2 * CONTEXT,
                          CONTEXT * sizeof(int32_t)),
                  "sequence %lld differs", (long long)at);
        }
    }
    CHECK(seen == count, "rank sees %lld sequences, expected %lld", (long long)seen, (long long)count);
}

/* max over parameters of max|a - b| / max|b| */
static double gradient_distance(const gr_params *a, const gr_params *b)
{
    double worst = 0;

    for (int64_t i = 0; i < a->n; i++) {
        const float *x = a->p[i].grad.data, *y = b->p[i].grad.data;
        double       d = 0, top = 0;
        for (int64_t j = 0; j < gr_count(a->p[i].grad); j++) {
            d = fmax(d, fabs((double)x[j] - y[j]));
            top = fmax(top, fabs((double)y[j]));
        }
        if (top > 0) worst = fmax(worst, d / top);
    }
    return worst;
}

static void compare(gr_comm *world, const char *config, const char *weights, const char *corpus, const char *what)
{
    rig     mine, alone;
    gr_step a = {0}, b = {0};

    rig_open(&mine, world, config, weights, corpus);
    rig_open(&alone, NULL, config, weights, corpus);
    same_tokens(&mine, &alone, world);
    for (int step = 0; step < STEPS; step++) {
        CHECK(gr_token_step(&mine.t, mine.loader, 0, &a) == GR_OK, "%s: step", what);
        CHECK(gr_token_step(&alone.t, alone.loader, 0, &b) == GR_OK, "%s: step alone", what);
        const double off = fabs(a.loss / b.loss - 1);
        CHECK(off <= (step ? 1e-4 : 1e-5), "%s: step %d: loss %.9f, alone %.9f", what, step, a.loss, b.loss);
        if (step == 0) {
            const double d = gradient_distance(mine.model->params, alone.model->params);
            CHECK(d <= 1e-4, "%s: gradients differ by %.2e", what, d);
        }
        mine.t.step = alone.t.step = step + 1;
    }
    CHECK(b.loss < 3.6, "%s: loss %.3f after %d steps: nothing was learnt", what, b.loss, STEPS);
    rig_close(&alone);
    rig_close(&mine);
}

/* Every second layer of a Transformer becomes gdn; chunks of 16, so that windows of 24 have a short one. */
static void make_hybrid(gr_comm *world, const char *config, const char *path)
{
    const gr_provenance  by = {"test", "0", "0", "now", "", "{}"};
    const gr_cfg_convert convert = {
        .pattern = "(attn,gdn)", .selection = "", .init = "attention", .conv_init = "delta", .seed = 3};
    gr_cfg_mixer mixer = gr_options_default();
    gr_model    *m = NULL;
    char         from[GR_PATH_MAX];

    mixer.chunk = 16; /* several to a sequence */
    gr_path(from, "%s/transformer.h5", tiny_dir());
    CHECK(gr_model_create(&m, world, &gr_ops_cpu, config, "", "*", 7) == GR_OK &&
              gr_model_save(m, world, from, &by) == GR_OK,
          "save");
    CHECK(gr_convert(world, from, &convert, &mixer, path, &by) == GR_OK, "convert");
    gr_model_close(&m);
}

int main(int argc, char **argv)
{
    gr_comm *world = NULL;
    char     config[GR_PATH_MAX], llama[GR_PATH_MAX], hybrid[GR_PATH_MAX], corpus[GR_PATH_MAX], note[128];

    const gr_ops *ops = NULL;
    CHECK(gr_comm_init(&world, &argc, &argv) == GR_OK, "communicator");
    CHECK(gr_backend_open("cpu", 1, &ops, note, sizeof note) == GR_OK, "backend");
    if (gr_comm_rank(world) == 0) CHECK(tiny_corpus(corpus, "corpus", 700, 11) == GR_OK, "corpus");
    gr_path(corpus, "%s/corpus", tiny_dir());
    if (gr_comm_rank(world) == 0) CHECK(tiny_write(config, "qwen3.json", tiny_qwen3) == GR_OK, "config");
    if (gr_comm_rank(world) == 0) CHECK(tiny_write(llama, "llama.json", tiny_llama) == GR_OK, "config");
    gr_path(config, "%s/qwen3.json", tiny_dir());
    gr_path(llama, "%s/llama.json", tiny_dir());
    gr_path(hybrid, "%s/hybrid.h5", tiny_dir());
    gr_barrier(world);
    compare(world, config, NULL, corpus, "qwen3");
    compare(world, llama, NULL, corpus, "llama");
    make_hybrid(world, config, hybrid);
    compare(world, NULL, hybrid, corpus, "hybrid");
    const int failed = check_failed;
    gr_comm_finalize(&world);
    return failed | check_result();
}
