/* Opening, creating and saving models. The computation is in forward.c. */
#include "model/model.h"
#include "util/fs.h"
#include "util/mem.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Tensors travel between file and parameters in pieces of at most this many bytes of fp32. */
enum { PIECE = 64 << 20 };

static void set_inv_freq(gr_model *m, double theta)
{
    const int d = m->spec.head_dim;
    float     f[2048];

    for (int i = 0; i < d / 2; i++) f[i] = (float)pow(theta, -2.0 * i / d);
    m->ops->copy(m->inv_freq.data, f, (uint64_t)(d / 2) * sizeof *f, GR_TO_BACKEND, NULL);
}

/* Block i's core on this backend, and that of the type its mixer contains. */
static gr_status find_cores(gr_model *m, int i)
{
    gr_status       st = GR_OK;
    gr_block       *b = &m->at.block[i];
    const gr_mixer *inner = b->mixer->def->contains ? gr_mixer_find(m->mixer_spec.bmojo_inner->name) : NULL;

    b->core = gr_mixer_core_of(b->mixer, m->ops);
    GR_CHECK0(b->core, GR_ERR_CONFIG, "layer %d: mixer '%s' has no %s backend in this build", i, b->mixer->def->name,
              m->ops->name);
    if (inner) b->inner = gr_mixer_core_of(inner, m->ops);
    GR_CHECK0(!inner || b->inner, GR_ERR_CONFIG, "layer %d: mixer '%s' inside '%s' has no %s backend in this build", i,
              inner->def->name, b->mixer->def->name, m->ops->name);
out:
    return st;
}

/* Everything but the values of the parameters. */
static gr_status prepare(gr_model *m, gr_parts parts, const char *train_only, double rope_theta)
{
    gr_status        st = GR_OK;
    const gr_mixer **mixer = NULL;

    GR_TRY(gr_alloc(&mixer, (uint64_t)m->spec.n_layer, sizeof(void *), "pattern"));
    GR_TRY(gr_pattern_parse(m->pattern, m->spec.n_layer, mixer));
    m->mixer_spec = gr_mixer_spec_of(&m->spec);
    GR_TRY(gr_params_open(&m->params, m->ops));
    GR_TRY(gr_model_layout(m->params, &m->spec, mixer, parts, &m->at));
    for (int i = 0; i < m->spec.n_layer; i++) GR_TRY(find_cores(m, i));
    if (train_only) GR_TRY(gr_params_train_only(m->params, train_only));
    GR_TRY(gr_params_allocate(m->params, train_only != NULL));
    GR_TRY(gr_alloc(&m->tape, (uint64_t)m->spec.n_layer, sizeof *m->tape, "tapes"));
    GR_TRY(gr_arena_open(&m->keep, m->ops, "activations"));
    GR_TRY(gr_arena_open(&m->scratch, m->ops, "temporaries"));
    m->inv_freq = gr_view1(NULL, GR_F32, m->spec.head_dim / 2);
    GR_TRY(m->ops->alloc(&m->inv_freq.data, (uint64_t)m->spec.head_dim / 2 * sizeof(float), "RoPE frequencies"));
    set_inv_freq(m, rope_theta > 0 ? rope_theta : m->spec.rope_theta);
out:
    gr_free(&mixer);
    return st;
}

/* Tensor i of the file has the shape that config.json promises? */
static gr_status check_shape(gr_weights *w, int64_t i, const gr_param *p)
{
    gr_status             st = GR_OK;
    const gr_tensor_info *info = i >= 0 ? gr_weights_info(w, i) : NULL;

    GR_CHECK0(info, GR_ERR_INPUT, "%s: tensor %s is missing", gr_weights_path(w), p->name);
    GR_CHECK0(info->rank == p->rank, GR_ERR_INPUT, "%s: tensor %s has %d dimensions, expected %d", gr_weights_path(w),
              p->name, info->rank, p->rank);
    for (int d = 0; d < p->rank; d++)
        GR_CHECK0(info->dim[d] == p->dim[d], GR_ERR_INPUT, "%s: tensor %s: dimension %d is %lld, config.json says %lld",
                  gr_weights_path(w), p->name, d, (long long)info->dim[d], (long long)p->dim[d]);
out:
    return st;
}

/* One rank reads, all receive: shared storage sees each byte once. */
static gr_status load_param(gr_model *m, const gr_comm *c, gr_weights *w, gr_param *p, int reader, float *piece)
{
    gr_status     st = GR_OK;
    const int64_t i = gr_weights_find(w, p->name), rows = p->dim[0], row = gr_count(p->value) / rows;
    const int64_t step = PIECE / (int64_t)sizeof(float) / row;

    GR_TRY(check_shape(w, i, p));
    for (int64_t first = 0; first < rows; first += step) {
        const int64_t n = first + step < rows ? step : rows - first;
        int           code = GR_OK;
        if (gr_comm_rank(c) == reader) code = gr_weights_read(w, i, first, n, piece);
        gr_bcast(c, &code, sizeof code, reader);
        GR_TRY((gr_status)code);
        gr_bcast(c, piece, n * row * (int64_t)sizeof(float), reader);
        m->ops->copy((float *)p->value.data + first * row, piece, (uint64_t)(n * row) * sizeof(float), GR_TO_BACKEND,
                     NULL);
    }
out:
    return st;
}

gr_status gr_model_open(gr_model **out, const gr_comm *c, const gr_ops *ops, const char *weights, gr_parts parts,
                        const char *train_only, double rope_theta)
{
    gr_status   st = GR_OK;
    gr_model   *m = NULL;
    gr_weights *w = NULL;
    float      *piece = NULL;

    GR_TRY(gr_weights_open(&w, c, weights));
    st = gr_alloc(&m, 1, sizeof *m, "model");
    if (st == GR_OK) {
        m->ops = ops;
        st = gr_strdup(&m->config_json, gr_weights_config_json(w));
        if (st == GR_OK) st = gr_strdup(&m->tokenizer_json, gr_weights_tokenizer_json(w));
        if (st == GR_OK) st = gr_strdup(&m->pattern, gr_weights_pattern(w));
        if (st == GR_OK) st = gr_strdup(&m->source_path, gr_weights_path(w));
        snprintf(m->source, sizeof m->source, "%s", gr_weights_content(w));
        if (st == GR_OK) st = gr_model_spec_parse(&m->spec, m->config_json, gr_weights_path(w));
        if (st == GR_OK) st = prepare(m, parts, train_only, rope_theta);
        if (st == GR_OK) st = gr_alloc(&piece, PIECE, 1, "weights piece");
    }
    GR_TRY(gr_agree(c, st));
    for (int64_t i = 0; i < m->params->n; i++)
        GR_TRY(load_param(m, c, w, &m->params->p[i], (int)(i % gr_comm_size(c)), piece));
    *out = m;
    m = NULL;
out:
    gr_free(&piece);
    gr_weights_close(&w);
    gr_model_close(&m);
    return st;
}

gr_status gr_model_iterate(gr_model *m, const gr_cfg_solver *solver)
{
    gr_status st = GR_OK;
    bool      any = false;

    if (!solver->iterations && !solver->decode_iterations) goto out;
    for (int i = 0; i < m->spec.n_layer; i++) {
        const gr_mixer_def *def = m->at.block[i].mixer->def;
        any |= def->iterates || (def->contains && m->mixer_spec.bmojo_inner->iterates);
    }
    GR_CHECK0(any, GR_ERR_CONFIG, "solver.%s is given, but no mixer of the model iterates (%s)",
              solver->iterations ? "iterations" : "decode_iterations", m->pattern);
    if (solver->iterations) m->mixer_spec.gka_iterations = (int)solver->iterations;
    if (solver->decode_iterations) m->mixer_spec.gka_decode_iterations = (int)solver->decode_iterations;
out:
    return st;
}

gr_status gr_model_create(gr_model **out, const gr_comm *c, const gr_ops *ops, const char *config,
                          const char *tokenizer, const char *train_only, uint64_t seed)
{
    gr_status st = GR_OK;
    gr_model *m = NULL;
    uint64_t  n = 0;

    st = gr_alloc(&m, 1, sizeof *m, "model");
    if (st == GR_OK) {
        m->ops = ops;
        snprintf(m->source, sizeof m->source, "random");
        st = gr_read_file(config, 1 << 20, &m->config_json, &n);
        if (st == GR_OK)
            st = *tokenizer ? gr_read_file(tokenizer, 64 << 20, &m->tokenizer_json, &n)
                            : gr_strdup(&m->tokenizer_json, "");
        if (st == GR_OK) st = gr_model_spec_parse(&m->spec, m->config_json, config);
        if (st == GR_OK) st = gr_alloc(&m->pattern, (uint64_t)m->spec.n_layer * 33 + 1, 1, "pattern");
        if (st == GR_OK) snprintf(m->pattern, 33, "(%s)", gr_mixer_attention()->def->name);
        if (st == GR_OK) st = prepare(m, GR_WHOLE, train_only, 0);
        const gr_init_law law = gr_init_law_of(&m->spec);
        for (int64_t i = 0; st == GR_OK && i < m->params->n; i++) st = gr_params_init(m->params, i, seed, &law);
    }
    GR_TRY(gr_agree(c, st));
    *out = m;
    m = NULL;
out:
    gr_model_close(&m);
    return st;
}

void gr_model_close(gr_model **mp)
{
    gr_model *m = *mp;

    if (!m) return;
    if (m->inv_freq.data) m->ops->free(&m->inv_freq.data);
    gr_arena_close(&m->scratch);
    gr_arena_close(&m->keep);
    gr_free(&m->tape);
    gr_free(&m->at.block);
    gr_params_close(&m->params);
    gr_free(&m->source_path);
    gr_free(&m->pattern);
    gr_free(&m->tokenizer_json);
    gr_free(&m->config_json);
    gr_free(mp);
}

/* ---- saving ------------------------------------------------------------------------------ */

typedef struct saver {
    gr_model   *m;
    gr_weights *base;       /* the file that holds what the model did not load, or NULL */
    int64_t    *from_param; /* [n tensors] place in params, or -1: copy from base       */
} saver;

static gr_status give(void *user, int64_t i, int64_t first, int64_t count, void *data)
{
    const saver  *s = user;
    const int64_t j = s->from_param[i];

    if (j < 0) return gr_weights_read_raw(s->base, i, first, count, data);
    const gr_param *p = &s->m->params->p[j];
    const int64_t   row = gr_count(p->value) / p->dim[0];
    s->m->ops->copy(data, (float *)p->value.data + first * row, (uint64_t)(count * row) * sizeof(float), GR_TO_HOST,
                    NULL);
    return GR_OK;
}

gr_status gr_model_save(gr_model *m, const gr_comm *c, const char *path, const gr_provenance *by)
{
    gr_status        st = GR_OK;
    saver            s = {.m = m};
    gr_tensor_info  *info = NULL;
    char            *pattern = NULL;
    int64_t          n = m->params->n;
    gr_weights_plan  plan = {.config_json = m->config_json, .tokenizer_json = m->tokenizer_json, .by = *by};
    const gr_mixer **mixer = NULL;

    /* A student without its frozen half takes that half, and the order of tensors, from the file it came from. */
    if (m->at.embed < 0) {
        GR_TRY(gr_weights_open(&s.base, c, m->source_path));
        n = gr_weights_count(s.base);
    }
    st = gr_alloc(&info, (uint64_t)n, sizeof *info, "tensor list");
    if (st == GR_OK) st = gr_alloc(&s.from_param, (uint64_t)n, sizeof *s.from_param, "tensor list");
    if (st == GR_OK) st = gr_alloc(&mixer, (uint64_t)m->spec.n_layer, sizeof(void *), "pattern");
    GR_TRY(gr_agree(c, st));
    for (int i = 0; i < m->spec.n_layer; i++) mixer[i] = m->at.block[i].mixer;
    GR_TRY(gr_agree(c, gr_pattern_text(mixer, m->spec.n_layer, &pattern)));
    for (int64_t i = 0; i < n; i++) {
        s.from_param[i] = s.base ? gr_params_find(m->params, gr_weights_info(s.base, i)->name) : i;
        if (s.from_param[i] < 0) {
            info[i] = *gr_weights_info(s.base, i);
            continue;
        }
        const gr_param *p = &m->params->p[s.from_param[i]];
        info[i] = (gr_tensor_info){.name = p->name, .dtype = GR_F32, .rank = p->rank};
        memcpy(info[i].dim, p->dim, sizeof p->dim);
    }
    plan.tensor = info;
    plan.n = n;
    plan.pattern = pattern;
    GR_TRY(gr_weights_write(c, path, &plan, give, &s));
out:
    gr_weights_close(&s.base);
    gr_free(&mixer);
    gr_free(&pattern);
    gr_free(&s.from_param);
    gr_free(&info);
    return st;
}
