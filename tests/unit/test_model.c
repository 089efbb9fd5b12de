/* The whole decoder: every parameter's gradient against central differences of the loss, and documents that do not see
 * each other, for both families and for hybrids of every type.
 *
 * The formulas of every op and mixer have float64 oracles of their own (test_ops_*, test_mixer_*); what can still be
 * wrong here is how they are put together. The loss is fp32: along a tensor's own gradient, with a step that moves the
 * loss by some 5e-3, the quotient is good to about 1e-2: rounding, which gka's solver amplifies to 5e-5 of a loss of
 * 300, and the cubic term where a parameter matters least. A wiring error shows as tens of per cent. */
/*TEST
np: 1
timeout: 120
*/
#include "config/options.h"
#include "loss/token.h"
#include "model/import.h"
#include "tests/tiny.h"

enum { N = 60 };

static int32_t       token[N], target[N], pos[N];
static const int32_t doc[] = {0, 1, 18, 20, 47, N}; /* lengths 1, 17, 2, 27, 13 */

static gr_seq packed(void)
{
    for (int d = 0; d + 1 < (int)(sizeof doc / sizeof *doc); d++)
        for (int i = doc[d]; i < doc[d + 1]; i++) {
            token[i] = (int32_t)(TINY_VOCAB * gr_uniform(3, 1, (uint64_t)i));
            pos[i] = i - doc[d];
            target[i] = i + 1 < doc[d + 1] ? (int32_t)(TINY_VOCAB * gr_uniform(3, 1, (uint64_t)i + 1)) : -1;
        }
    return (gr_seq){.n = N,
                    .n_doc = sizeof doc / sizeof *doc - 1,
                    .doc = doc,
                    .doc_dev = gr_view1((void *)doc, GR_I32, sizeof doc / sizeof *doc),
                    .pos = gr_view1(pos, GR_I32, N)};
}

/* Sum of the cross-entropies; with `learn` also every gradient. */
static double loss_of(gr_model *m, const gr_seq *seq, bool learn)
{
    double           sum[3] = {0};
    gr_tensor        h, dh, ids = gr_view1(token, GR_I32, N);
    const gr_targets t = {
        .id = gr_view1(target, GR_I32, N), .top_id = gr_none(), .top_lp = gr_none(), .tail_lp = gr_none()};
    gr_param *head = &m->params->p[m->at.head];

    CHECK(gr_model_forward(m, ids, seq, learn, NULL, NULL, &h) == GR_OK, "forward");
    dh = gr_take2(m->keep, GR_F32, N, m->spec.hidden);
    CHECK(gr_token_loss(m->ops, m->scratch, learn ? dh : gr_none(), learn ? head->grad : gr_none(),
                        gr_view1(sum, GR_F64, 3), h, head->value, &t) == GR_OK,
          "loss");
    if (learn) CHECK(gr_model_backward(m, ids, seq, dh) == GR_OK, "backward");
    CHECK(gr_model_reset(m) == GR_OK, "reset");
    return sum[0];
}

static void check_gradients(gr_model *m, const gr_seq *seq, const char *what)
{
    gr_params_zero_grad(m->params);
    const double base = loss_of(m, seq, true);
    CHECK(base > 0 && base < 1e4, "%s: loss %g", what, base);
    for (int64_t i = 0; i < m->params->n; i++) {
        const gr_param *p = &m->params->p[i];
        const int64_t   n = gr_count(p->value);
        float          *w = p->value.data, *g = p->grad.data, *old = NULL;
        double          norm2 = 0, up, down;

        for (int64_t j = 0; j < n; j++) norm2 += (double)g[j] * g[j];
        CHECK(norm2 > 0, "%s: %s has no gradient", what, p->name);
        const double eps = 5e-3 / norm2; /* loss moves by 5e-3 each way */
        CHECK(gr_alloc(&old, (uint64_t)n, sizeof *old, "old") == GR_OK, "memory");
        memcpy(old, w, (size_t)n * sizeof *w);
        for (int64_t j = 0; j < n; j++) w[j] = (float)(old[j] + eps * g[j]);
        up = loss_of(m, seq, false);
        for (int64_t j = 0; j < n; j++) w[j] = (float)(old[j] - eps * g[j]);
        down = loss_of(m, seq, false);
        memcpy(w, old, (size_t)n * sizeof *w);
        gr_free(&old);
        const double quotient = (up - down) / (2 * eps * norm2);
        CHECK(fabs(quotient - 1) < 2e-2, "%s: %s: difference quotient over gradient is %.4f", what, p->name, quotient);
    }
}

/* Other tokens in document 3 leave the hidden states of all others as they were, bit for bit. */
static void check_isolation(gr_model *m, const gr_seq *seq, const char *what)
{
    static float before[N * 64];
    gr_tensor    h, ids = gr_view1(token, GR_I32, N);
    const size_t row = (size_t)m->spec.hidden * sizeof(float);

    CHECK(gr_model_forward(m, ids, seq, false, NULL, NULL, &h) == GR_OK, "forward");
    memcpy(before, h.data, N * row);
    gr_model_reset(m);
    for (int i = doc[3]; i < doc[4]; i++) token[i] = (token[i] + 5) % TINY_VOCAB;
    CHECK(gr_model_forward(m, ids, seq, false, NULL, NULL, &h) == GR_OK, "forward");
    for (int i = 0; i < N; i++) {
        const bool same = !memcmp((float *)h.data + i * m->spec.hidden, before + i * m->spec.hidden, row);
        CHECK(same == (i < doc[3] || i >= doc[4]), "%s: position %d %s", what, i,
              same ? "did not change" : "saw another document");
    }
    gr_model_reset(m);
    for (int i = doc[3]; i < doc[4]; i++) token[i] = (token[i] + TINY_VOCAB - 5) % TINY_VOCAB;
}

/* A run's number of iterations; m leaves with so many that the solver's error is none: gradients are the solution's. */
static void check_solver(gr_model *m, const gr_seq *seq)
{
    const gr_cfg_solver same = {.iterations = 30}, few = {.decode_iterations = 2, .iterations = 3},
                        many = {.iterations = 60};
    const double loss = loss_of(m, seq, false);

    CHECK(gr_model_iterate(m, &few) == GR_OK && fabs(loss_of(m, seq, false) - loss) > 1e-3 * loss, "3 iterations");
    CHECK(gr_model_iterate(m, &same) == GR_OK && loss_of(m, seq, false) == loss, "30 iterations again");
    CHECK(m->mixer_spec.gka_decode_iterations == 2, "iterations of decoding");
    CHECK(gr_model_iterate(m, &many) == GR_OK, "60 iterations");
}

/* The Transformer `from` with this pattern of mixers. */
static void check_hybrid(const gr_ops *ops, const gr_seq *seq, const char *from, const char *pattern)
{
    const gr_provenance  by = {"test", "0", "0", "now", "", "{}"};
    const gr_cfg_convert convert = {
        .pattern = pattern, .selection = "", .init = "attention", .conv_init = "delta", .seed = 3};
    gr_cfg_mixer mixer = gr_options_default();
    char         to[GR_PATH_MAX];
    gr_model    *m = NULL;

    mixer.chunk = 16;                                                     /* several to a sequence */
    if (strstr(pattern, "swa")) mixer.swa_window = 5, mixer.swa_sink = 2; /* shorter than the documents */
    if (strstr(pattern, "bmojo")) mixer.bmojo_window = 2, mixer.bmojo_tied = false;
    gr_path(to, "%s/hybrid.h5", tiny_dir());
    CHECK(gr_convert(NULL, from, &convert, &mixer, to, &by) == GR_OK, "convert to %s", pattern);
    CHECK(gr_model_open(&m, NULL, ops, to, GR_WHOLE, "*", 0) == GR_OK, "open %s", pattern);
    if (strstr(pattern, "gka")) check_solver(m, seq);
    check_gradients(m, seq, pattern);
    check_isolation(m, seq, pattern);
    gr_model_close(&m);
}

int main(void)
{
    static const char *const hybrid[] = {
        "(gdn,attn)", "(gka,attn)", "(mamba2,attn)", "(mamba3,attn)", "(swa,bmojo)",
    };
    const gr_ops       *ops = NULL;
    const gr_seq        seq = packed();
    const gr_provenance by = {"test", "0", "0", "now", "", "{}"};
    char                path[GR_PATH_MAX], note[160], from[GR_PATH_MAX];
    gr_model           *m = NULL;

    CHECK(gr_backend_open("cpu", 1, &ops, note, sizeof note) == GR_OK, "backend");
    CHECK(tiny_write(path, "llama.json", tiny_llama) == GR_OK &&
              gr_model_create(&m, NULL, ops, path, "", "*", 5) == GR_OK,
          "llama");
    check_gradients(m, &seq, "llama");
    CHECK(gr_model_iterate(m, &(gr_cfg_solver){0}) == GR_OK, "no iterations are asked for");
    CHECK(gr_model_iterate(m, &(gr_cfg_solver){.iterations = 3}) == GR_ERR_CONFIG, "attention does not iterate");
    check_isolation(m, &seq, "llama");
    gr_model_close(&m);

    CHECK(tiny_write(path, "qwen3.json", tiny_qwen3) == GR_OK &&
              gr_model_create(&m, NULL, ops, path, "", "*", 6) == GR_OK,
          "qwen3");
    check_gradients(m, &seq, "qwen3");
    check_isolation(m, &seq, "qwen3");
    gr_path(from, "%s/qwen3.h5", tiny_dir());
    CHECK(gr_model_save(m, NULL, from, &by) == GR_OK, "save");
    gr_model_close(&m);

    for (size_t i = 0; i < sizeof hybrid / sizeof *hybrid; i++) check_hybrid(ops, &seq, from, hybrid[i]);
    return check_result();
}
