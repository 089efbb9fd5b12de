#include "kernels/attention.h"
#include <math.h>
#include <string.h>

int gr_attention_params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t hid = s->hidden, D = s->head_dim, HD = s->n_head * D, GD = s->n_kv_head * D;

    p[GR_ATTN_Q] = (gr_param_spec){"q_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[GR_ATTN_K] = (gr_param_spec){"k_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[GR_ATTN_V] = (gr_param_spec){"v_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[GR_ATTN_O] = (gr_param_spec){"o_proj.weight", 2, {hid, HD, 1}, GR_INIT_NORMAL, true};
    if (!s->qk_norm) return GR_ATTN_Q_NORM;
    p[GR_ATTN_Q_NORM] = (gr_param_spec){"q_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[GR_ATTN_K_NORM] = (gr_param_spec){"k_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    return GR_ATTN_PARAMS;
}

void gr_attention_from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    gr_param_spec p[GR_MIXER_PARAMS];
    const int     n = gr_attention_params(s, p);

    for (int i = 0; i < n; i++) memcpy(w[i], attn[i], (size_t)(p[i].dim[0] * p[i].dim[1] * p[i].dim[2]) * sizeof **w);
}

/* ---- parts ---------------------------------------------------------------------------------------- */

void gr_heads_take(gr_arena *arena, const gr_mixer_spec *s, int64_t N, int n_head, gr_tensor t[GR_HEADS])
{
    t[GR_HEADS_OUT] = gr_take3(arena, GR_F32, N, n_head, s->head_dim);
    t[GR_HEADS_RAW] = s->qk_norm ? gr_take3(arena, GR_F32, N, n_head, s->head_dim) : t[GR_HEADS_OUT];
    t[GR_HEADS_RSTD] = s->qk_norm ? gr_take1(arena, GR_F32, N * n_head) : gr_none();
}

void gr_heads_forward(const gr_mixer_ctx *c, int weight, int norm, const gr_tensor t[GR_HEADS], gr_tensor x)
{
    gr_project(c, weight, gr_token_rows(t[GR_HEADS_RAW]), x);
    if (c->spec->qk_norm)
        c->op->rmsnorm(gr_head_rows(t[GR_HEADS_OUT]), t[GR_HEADS_RSTD], gr_head_rows(t[GR_HEADS_RAW]), c->w[norm],
                       c->spec->norm_eps, c->stream);
    c->op->rope(t[GR_HEADS_OUT], c->rope_cs, 1, c->stream);
}

void gr_heads_back(const gr_mixer_ctx *c, int norm, gr_tensor d, const gr_tensor t[GR_HEADS])
{
    const gr_tensor rows = gr_head_rows(d);

    c->op->rope(d, c->rope_cs, -1, c->stream);
    if (c->spec->qk_norm)
        c->op->rmsnorm_back(rows, c->dw[norm], rows, gr_head_rows(t[GR_HEADS_RAW]), t[GR_HEADS_RSTD], c->w[norm],
                            c->stream);
}

gr_core_args gr_attention_args(const gr_mixer_ctx *c, gr_reach r)
{
    const gr_mixer_spec *s = c->spec;

    return (gr_core_args){.seq = c->seq,
                          .n_head = s->n_head,
                          .n_kv_head = s->n_kv_head,
                          .k_dim = s->head_dim,
                          .v_dim = s->head_dim,
                          .window = r.window,
                          .sink = r.sink,
                          .scale = 1.0f / sqrtf((float)s->head_dim),
                          .scratch = c->scratch};
}

int64_t gr_ring_rows(gr_reach r, int64_t capacity)
{
    const int64_t most = (int64_t)r.window + r.sink;

    return r.window > 0 && most < capacity ? most : capacity;
}

int64_t gr_ring_slot(gr_reach r, int64_t pos)
{
    return r.window == 0 || pos < r.sink ? pos : r.sink + (pos - r.sink) % r.window;
}

void gr_cache_write(const gr_mixer_ctx *c, gr_tensor cache, int64_t slot, gr_tensor x)
{
    c->op->copy(gr_rows(cache, slot, 1).data, x.data, (uint64_t)gr_row(cache) * sizeof(float), GR_WITHIN, c->stream);
}

/* ---- forward and backward ------------------------------------------------------------------------- */

enum { T_Q, T_K = T_Q + GR_HEADS, T_V = T_K + GR_HEADS, T_O, T_LSE, N_TAPE };

static void take_activations(gr_arena *arena, const gr_mixer_spec *s, int64_t N, gr_tensor *t)
{
    gr_heads_take(arena, s, N, s->n_head, &t[T_Q]);
    gr_heads_take(arena, s, N, s->n_kv_head, &t[T_K]);
    t[T_V] = gr_take3(arena, GR_F32, N, s->n_kv_head, s->head_dim);
    t[T_O] = gr_take3(arena, GR_F32, N, s->n_head, s->head_dim);
    t[T_LSE] = gr_take2(arena, GR_F32, N, s->n_head);
}

static gr_core_args core_args(const gr_mixer_ctx *c, gr_reach r, const gr_tensor *t)
{
    gr_core_args a = gr_attention_args(c, r);

    a.q = t[T_Q], a.k = t[T_K], a.v = t[T_V], a.o = t[T_O], a.aux = t[T_LSE];
    return a;
}

static void queries_keys_values(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    gr_heads_forward(c, GR_ATTN_Q, GR_ATTN_Q_NORM, &t[T_Q], x);
    gr_heads_forward(c, GR_ATTN_K, GR_ATTN_K_NORM, &t[T_K], x);
    gr_project(c, GR_ATTN_V, gr_token_rows(t[T_V]), x);
}

void gr_attention_forward(const gr_mixer_ctx *c, gr_reach r, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    gr_tape       unkept, *t = tape ? tape : &unkept;

    take_activations(tape ? c->keep : c->scratch, c->spec, x.dim[0], t->t);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, r, t->t);

        queries_keys_values(c, t->t, x);
        c->core->forward(&a, c->stream);
        gr_project(c, GR_ATTN_O, y, gr_token_rows(a.o));
    }
    gr_arena_release(c->scratch, mark);
}

void gr_attention_backward(const gr_mixer_ctx *c, gr_reach r, gr_tensor dx, gr_tensor dy, gr_tensor x,
                           const gr_tape *tape)
{
    const gr_mark    mark = gr_arena_mark(c->scratch);
    const gr_tensor *t = tape->t;
    const int64_t    N = x.dim[0], H = c->spec->n_head, G = c->spec->n_kv_head, D = c->spec->head_dim;
    gr_core_args     a = core_args(c, r, t);

    a.d_o = gr_take3(c->scratch, GR_F32, N, H, D);
    a.dq = gr_take3(c->scratch, GR_F32, N, H, D);
    a.dk = gr_take3(c->scratch, GR_F32, N, G, D);
    a.dv = gr_take3(c->scratch, GR_F32, N, G, D);
    if (!gr_out_of_memory(c)) {
        gr_project_back(c, GR_ATTN_O, gr_token_rows(a.d_o), dy, gr_token_rows(a.o), 0.0f);
        c->core->backward(&a, c->stream);
        gr_heads_back(c, GR_ATTN_Q_NORM, a.dq, &t[T_Q]);
        gr_heads_back(c, GR_ATTN_K_NORM, a.dk, &t[T_K]);
        gr_project_back(c, GR_ATTN_Q, dx, gr_token_rows(a.dq), x, 0.0f);
        gr_project_back(c, GR_ATTN_K, dx, gr_token_rows(a.dk), x, 1.0f);
        gr_project_back(c, GR_ATTN_V, dx, gr_token_rows(a.dv), x, 1.0f);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ------------------------------------------------------------------------------------- */

enum { CACHE_K, CACHE_V, N_CACHE };

int gr_attention_state_shape(const gr_mixer_spec *s, gr_reach r, int64_t capacity, gr_mixer_state *state)
{
    state->t[CACHE_K] = gr_view3(NULL, GR_F32, gr_ring_rows(r, capacity), s->n_kv_head, s->head_dim);
    state->t[CACHE_V] = state->t[CACHE_K];
    return N_CACHE;
}

/* The cache holds exactly what the token sees: sinks, and the last `window` positions, whose oldest the newest
 * overwrites. Keys are rotated by their own positions, so their order in the ring is nobody's business. */
void gr_attention_step(const gr_mixer_ctx *c, gr_reach r, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    static const int32_t doc[2] = {0, 1};
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_seq         one = {.n = 1, .n_doc = 1, .doc = doc};
    const gr_tensor     *cache = state->t;
    const int64_t        slot = gr_ring_slot(r, pos), n = gr_ring_rows(r, pos + 1);
    gr_tape              t;

    take_activations(c->scratch, c->spec, 1, t.t);
    if (!gr_out_of_memory(c)) {
        gr_core_args a = core_args(c, r, t.t);

        queries_keys_values(c, t.t, x);
        gr_cache_write(c, cache[CACHE_K], slot, a.k);
        gr_cache_write(c, cache[CACHE_V], slot, a.v);
        a.seq = &one;
        a.decode = true;
        a.k = gr_rows(cache[CACHE_K], 0, n);
        a.v = gr_rows(cache[CACHE_V], 0, n);
        c->core->forward(&a, c->stream);
        gr_project(c, GR_ATTN_O, y, gr_token_rows(a.o));
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- cost ----------------------------------------------------------------------------------------- */

/* Keys that a query at a random position of T tokens sees: sum over t < T of min(t + 1, window + sink), over T. */
static double keys_seen(gr_reach r, double T)
{
    const double most = r.window > 0 && r.window + r.sink < T ? r.window + r.sink : T;

    return (most * (most + 1) / 2 + (T - most) * most) / T;
}

/* Backward recomputes the scores: five products for two. */
gr_mixer_cost gr_attention_cost(const gr_mixer_spec *s, gr_reach r, int64_t context)
{
    const double H = s->n_head, G = s->n_kv_head, D = s->head_dim, hid = s->hidden;
    const double proj = 2 * (2 * H * D * hid + 2 * G * D * hid);
    const double core = 4 * H * D * keys_seen(r, (double)context);

    return (gr_mixer_cost){.forward = proj + core,
                           .backward = 2 * proj + 2.5 * core,
                           .core_forward = core,
                           .core_backward = 2.5 * core,
                           .state_bytes = 2 * G * D * 4 * (double)gr_ring_rows(r, context)};
}
