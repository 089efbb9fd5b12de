/* B'MOJO-F: attention over a window of tokens as they are, and over a second window of older tokens as a recurrent
 * layer remembers them; one softmax over both.
 *
 *   f = inner(x)                                          any type that does not attend, out to its output projection
 *   q = rope(norm(x Wq^T))   k = rope(norm(x Wk^T))   v = x Wv^T           key j is seen by i where  0 <= i - j < W
 *   q'                       k' = ...      (f Wk'^T)  v' = f Wv'^T                       and where  W <= i - j < 2 W
 *   y = softmax over both sets of keys Wo^T
 *
 * Tied: W' = W and q' = q. Untied: Wq', Wk', Wv' and their norms are parameters of their own. Every key is rotated by
 * its own position. The scale is D^-1/2 throughout.
 * Source   Zancato et al. 2024, arXiv:2407.06324; hybrid-model-factory's BMOJOAttention (whose scale without norms is
 *          (hidden / heads)^-1/2: the same wherever head_dim is hidden / heads).  docs/math.md 6. */
#include "kernels/attention.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/vec.h"
#include <stdio.h>
#include <string.h>

/* ---- the core -------------------------------------------------------------------------------------- */

enum { MORE_K, MORE_V, MORE_Q }; /* more: faded keys and values; the query that looks at them, or none: q */

/* The arguments as the softmax over the faded keys has them. */
static gr_core_args faded(const gr_core_args *a)
{
    const bool   tied = !a->more[MORE_Q].data;
    gr_core_args f = *a;

    f.k = a->more[MORE_K], f.v = a->more[MORE_V];
    f.dk = a->dmore[MORE_K], f.dv = a->dmore[MORE_V];
    if (!tied) f.q = a->more[MORE_Q], f.dq = a->dmore[MORE_Q];
    return f;
}

static gr_band near_band(const gr_core_args *a)
{
    return gr_band_of(a->window, 0);
}
static gr_band faded_band(const gr_core_args *a)
{
    return (gr_band){.near = a->window, .far = 2 * (int64_t)a->window, .sink = 0};
}

/* (o, lse) of both sets from those of each, docs/math.md 5.4. Every query sees itself: lse is finite. */
static void merge(const gr_core_args *a, gr_tensor o2, gr_tensor lse2)
{
    const int64_t n = gr_count(a->aux);
    const int     V = a->v_dim;

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float       *o = (float *)a->o.data + i * V, *lse = (float *)a->aux.data + i;
        const float *of = (const float *)o2.data + i * V, lf = ((const float *)lse2.data)[i];
        const float  gap = lf - *lse, share = gr_sigmoidf(gap); /* of the faded keys; -inf gives exactly 0 */

#pragma omp simd
        for (int j = 0; j < V; j++) o[j] += share * (of[j] - o[j]);
        *lse += gr_softplusf(gap);
    }
}

static void attend(const gr_core_args *a)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    gr_core_args  f = faded(a);

    f.o = gr_take3(a->scratch, GR_F32, a->seq->n, a->n_head, a->v_dim);
    f.aux = gr_take2(a->scratch, GR_F32, a->seq->n, a->n_head);
    if (gr_arena_status(a->scratch) == GR_OK) {
        gr_softmax_forward(a, near_band(a));
        gr_softmax_forward(&f, faded_band(a));
        if (gr_arena_status(a->scratch) == GR_OK) merge(a, f.o, f.aux);
    }
    gr_arena_release(a->scratch, mark);
}

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    const gr_core_args f = faded(a);

    (void)stream;
    if (a->decode)
        gr_softmax_decode(a, (gr_keys[]){{a->q, a->k, a->v}, {f.q, f.k, f.v}}, 2);
    else
        attend(a);
}

/* With o and lse of the union each set's backward is that of the one softmax; the shares need none of their own. */
static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    const gr_core_args f = faded(a);

    (void)stream;
    gr_softmax_backward(a, near_band(a), false);
    gr_softmax_backward(&f, faded_band(a), f.dq.data == a->dq.data);
}

/* tol: as attention's (mixer_attn.c); merging rounds once more. */
const gr_mixer_core gr_bmojo_cpu = {.tol = 1e-5, .forward = core_forward, .backward = core_backward};

/* ==== the layer, in terms of gr_ops, its core and another layer =====================================================
 */

/* Parameters: attention's; with untied weights a second set without output projection; the inner type's. */
typedef struct places {
    int n_attn;
    int faded[GR_ATTN_PARAMS]; /* where the faded tokens' Q, K, ... are: tied, and O always, attention's own */
    int inner;                 /* the first of the inner type's */
} places;

static places places_of(const gr_mixer_spec *s)
{
    places at = {.n_attn = s->qk_norm ? GR_ATTN_PARAMS : GR_ATTN_Q_NORM};
    int    next = at.n_attn;

    for (int i = 0; i < at.n_attn; i++) at.faded[i] = s->bmojo_tied || i == GR_ATTN_O ? i : next++;
    at.inner = next;
    return at;
}

/* x.weight becomes group.x.weight, and of a faded twin group.x_.weight. One that is too long becomes empty, which
 * gr_params_add refuses. */
static gr_param_spec renamed(const gr_param_spec *from, const char *group, const char *twin)
{
    const int     stem = (int)strcspn(from->name, ".");
    gr_param_spec p = *from;

    if (snprintf(p.name, sizeof p.name, "%s.%.*s%s%s", group, stem, from->name, twin, from->name + stem) >=
        (int)sizeof p.name)
        p.name[0] = '\0';
    return p;
}

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const places  at = places_of(s);
    gr_param_spec own[GR_MIXER_PARAMS];
    int           n;

    gr_attention_params(s, own);
    for (int i = 0; i < at.n_attn; i++) {
        p[i] = renamed(&own[i], "bmojo_attn", "");
        if (at.faded[i] != i) p[at.faded[i]] = renamed(&own[i], "bmojo_attn", "_");
    }
    n = s->bmojo_inner->params(s, own);
    for (int i = 0; i < n; i++) p[at.inner + i] = renamed(&own[i], s->bmojo_inner->prefix, "");
    return at.inner + n;
}

static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    const places at = places_of(s);
    float       *faded_w[GR_ATTN_PARAMS];

    for (int i = 0; i < at.n_attn; i++) faded_w[i] = w[at.faded[i]];
    gr_attention_from_attention(s, w, attn);
    gr_attention_from_attention(s, faded_w, attn); /* twins begin as copies */
    s->bmojo_inner->from_attention(s, w + at.inner, attn);
}

/* This layer's context as the inner layer sees it. */
static gr_mixer_ctx inner_ctx(const gr_mixer_ctx *c)
{
    const int    first = places_of(c->spec).inner;
    gr_mixer_ctx in = *c;

    in.core = c->inner;
    in.inner = NULL;
    in.w = c->w + first;
    in.dw = c->dw ? c->dw + first : NULL;
    return in;
}

/* ---- tape: what is attention's, what is of the faded tokens, what is the inner layer's ----------------------------
 */

enum {
    T_Q,
    T_K = T_Q + GR_HEADS,
    T_V = T_K + GR_HEADS,
    T_O,
    T_LSE,
    T_F,
    T_FQ,
    T_FK = T_FQ + GR_HEADS,
    T_FV = T_FK + GR_HEADS,
    T_INNER
};

_Static_assert(T_INNER + GR_INNER_TAPE <= GR_MIXER_TAPE, "room for the inner type's tape");
_Static_assert(GR_ATTN_PARAMS + 5 + GR_INNER_PARAMS <= GR_MIXER_PARAMS, "room for the inner type's parameters");

static void take_activations(gr_arena *arena, const gr_mixer_spec *s, int64_t N, gr_tensor *t)
{
    gr_heads_take(arena, s, N, s->n_head, &t[T_Q]);
    gr_heads_take(arena, s, N, s->n_kv_head, &t[T_K]);
    t[T_V] = gr_take3(arena, GR_F32, N, s->n_kv_head, s->head_dim);
    t[T_O] = gr_take3(arena, GR_F32, N, s->n_head, s->head_dim);
    t[T_LSE] = gr_take2(arena, GR_F32, N, s->n_head);
    t[T_F] = gr_take2(arena, GR_F32, N, s->hidden);
    for (int i = 0; i < GR_HEADS; i++) t[T_FQ + i] = gr_none();
    if (!s->bmojo_tied) gr_heads_take(arena, s, N, s->n_head, &t[T_FQ]);
    gr_heads_take(arena, s, N, s->n_kv_head, &t[T_FK]);
    t[T_FV] = gr_take3(arena, GR_F32, N, s->n_kv_head, s->head_dim);
}

static gr_core_args core_args(const gr_mixer_ctx *c, const gr_tensor *t)
{
    gr_core_args a = gr_attention_args(c, (gr_reach){c->spec->bmojo_window, 0});

    a.q = t[T_Q], a.k = t[T_K], a.v = t[T_V], a.o = t[T_O], a.aux = t[T_LSE];
    a.more[MORE_K] = t[T_FK], a.more[MORE_V] = t[T_FV], a.more[MORE_Q] = t[T_FQ];
    return a;
}

/* From x and f to what the core reads. */
static void core_inputs(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    const places at = places_of(c->spec);

    gr_heads_forward(c, GR_ATTN_Q, GR_ATTN_Q_NORM, &t[T_Q], x);
    gr_heads_forward(c, GR_ATTN_K, GR_ATTN_K_NORM, &t[T_K], x);
    gr_project(c, GR_ATTN_V, gr_token_rows(t[T_V]), x);
    if (!c->spec->bmojo_tied) gr_heads_forward(c, at.faded[GR_ATTN_Q], at.faded[GR_ATTN_Q_NORM], &t[T_FQ], x);
    gr_heads_forward(c, at.faded[GR_ATTN_K], at.faded[GR_ATTN_K_NORM], &t[T_FK], t[T_F]);
    gr_project(c, at.faded[GR_ATTN_V], gr_token_rows(t[T_FV]), t[T_F]);
}

/* ---- forward and backward ------------------------------------------------------------------------------------------
 */

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark      mark = gr_arena_mark(c->scratch);
    const gr_mixer_ctx in = inner_ctx(c);
    gr_tape            unkept, inner, *t = tape ? tape : &unkept;

    take_activations(tape ? c->keep : c->scratch, c->spec, x.dim[0], t->t);
    if (!gr_out_of_memory(c)) c->spec->bmojo_inner->forward(&in, t->t[T_F], x, tape ? &inner : NULL);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, t->t);

        if (tape) memcpy(&t->t[T_INNER], inner.t, GR_INNER_TAPE * sizeof *inner.t);
        core_inputs(c, t->t, x);
        c->core->forward(&a, c->stream);
        gr_project(c, GR_ATTN_O, y, gr_token_rows(a.o));
    }
    gr_arena_release(c->scratch, mark);
}

/* From the core's gradients to df, then through the inner layer to dx, to which x's own projections add. */
static void core_inputs_back(const gr_mixer_ctx *c, const gr_core_args *a, gr_tensor dx, gr_tensor df, gr_tensor x,
                             const gr_tape *tape)
{
    const places       at = places_of(c->spec);
    const gr_tensor   *t = tape->t;
    const gr_mixer_ctx in = inner_ctx(c);
    gr_tape            inner;

    gr_heads_back(c, at.faded[GR_ATTN_K_NORM], a->dmore[MORE_K], &t[T_FK]);
    gr_project_back(c, at.faded[GR_ATTN_K], df, gr_token_rows(a->dmore[MORE_K]), t[T_F], 0.0f);
    gr_project_back(c, at.faded[GR_ATTN_V], df, gr_token_rows(a->dmore[MORE_V]), t[T_F], 1.0f);

    memcpy(inner.t, &t[T_INNER], GR_INNER_TAPE * sizeof *inner.t);
    c->spec->bmojo_inner->backward(&in, dx, df, x, &inner);
    if (gr_out_of_memory(c)) return;

    gr_heads_back(c, GR_ATTN_Q_NORM, a->dq, &t[T_Q]);
    gr_heads_back(c, GR_ATTN_K_NORM, a->dk, &t[T_K]);
    gr_project_back(c, GR_ATTN_Q, dx, gr_token_rows(a->dq), x, 1.0f);
    gr_project_back(c, GR_ATTN_K, dx, gr_token_rows(a->dk), x, 1.0f);
    gr_project_back(c, GR_ATTN_V, dx, gr_token_rows(a->dv), x, 1.0f);
    if (c->spec->bmojo_tied) return;
    gr_heads_back(c, at.faded[GR_ATTN_Q_NORM], a->dmore[MORE_Q], &t[T_FQ]);
    gr_project_back(c, at.faded[GR_ATTN_Q], dx, gr_token_rows(a->dmore[MORE_Q]), x, 1.0f);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    const int64_t N = x.dim[0], H = c->spec->n_head, G = c->spec->n_kv_head, D = c->spec->head_dim;
    gr_tensor     df;
    gr_core_args  a = core_args(c, tape->t);

    a.d_o = gr_take3(c->scratch, GR_F32, N, H, D);
    a.dq = gr_take3(c->scratch, GR_F32, N, H, D);
    a.dk = gr_take3(c->scratch, GR_F32, N, G, D);
    a.dv = gr_take3(c->scratch, GR_F32, N, G, D);
    a.dmore[MORE_K] = gr_take3(c->scratch, GR_F32, N, G, D);
    a.dmore[MORE_V] = gr_take3(c->scratch, GR_F32, N, G, D);
    if (!c->spec->bmojo_tied) a.dmore[MORE_Q] = gr_take3(c->scratch, GR_F32, N, H, D);
    df = gr_take2(c->scratch, GR_F32, N, c->spec->hidden);
    if (!gr_out_of_memory(c)) {
        gr_project_back(c, GR_ATTN_O, gr_token_rows(a.d_o), dy, gr_token_rows(a.o), 0.0f);
        c->core->backward(&a, c->stream);
        if (!gr_out_of_memory(c)) core_inputs_back(c, &a, dx, df, x, tape);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ------------------------------------------------------------------------------------------------------
 */

/* NEAR: rings of the last W keys and values. FADED: a ring of the W before them, which are in sight; behind it one of
 * the last W, which wait until their turn comes. Then the inner layer's states. */
enum { NEAR_K, NEAR_V, FADED_K, FADED_V, INNER };

_Static_assert(INNER + GR_INNER_STATES <= GR_MIXER_STATES, "room for the inner type's states");

static int64_t faded_rows(const gr_mixer_spec *s, int64_t capacity) /* of those in sight */
{
    const int64_t W = s->bmojo_window;

    return capacity <= W ? 0 : capacity < 2 * W ? capacity - W : W;
}

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    const int64_t  rows = gr_ring_rows((gr_reach){s->bmojo_window, 0}, capacity);
    gr_mixer_state inner = {0};
    const int      n = s->bmojo_inner->state_shape(s, capacity, &inner);

    state->t[NEAR_K] = state->t[NEAR_V] = gr_view3(NULL, GR_F32, rows, s->n_kv_head, s->head_dim);
    state->t[FADED_K] = state->t[FADED_V] =
        gr_view3(NULL, GR_F32, faded_rows(s, capacity) + rows, s->n_kv_head, s->head_dim);
    memcpy(&state->t[INNER], inner.t, (size_t)n * sizeof *inner.t);
    return INNER + n;
}

/* Position pos is new: the one it overwrites in the waiting ring comes into sight. */
static void remember(const gr_mixer_ctx *c, gr_tensor near, gr_tensor faded_cache, gr_tensor x, gr_tensor f,
                     int64_t pos)
{
    const int64_t W = c->spec->bmojo_window, slot = pos % W, waiting = faded_cache.dim[0] - near.dim[0];

    if (pos >= W) gr_cache_write(c, faded_cache, slot, gr_rows(faded_cache, waiting + slot, 1));
    gr_cache_write(c, faded_cache, waiting + slot, f);
    gr_cache_write(c, near, slot, x);
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    static const int32_t doc[2] = {0, 1};
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_seq         one = {.n = 1, .n_doc = 1, .doc = doc};
    const gr_mixer_ctx   in = inner_ctx(c);
    const gr_tensor     *cache = state->t;
    gr_mixer_state       inner = {0};
    gr_tape              t;

    memcpy(inner.t, &cache[INNER], GR_INNER_STATES * sizeof *inner.t);
    take_activations(c->scratch, c->spec, 1, t.t);
    if (!gr_out_of_memory(c)) c->spec->bmojo_inner->step(&in, t.t[T_F], x, &inner, pos);
    if (!gr_out_of_memory(c)) {
        gr_core_args  a = core_args(c, t.t);
        const int64_t n = gr_ring_rows((gr_reach){c->spec->bmojo_window, 0}, pos + 1),
                      n_faded = faded_rows(c->spec, pos + 1);

        core_inputs(c, t.t, x);
        remember(c, cache[NEAR_K], cache[FADED_K], a.k, a.more[MORE_K], pos);
        remember(c, cache[NEAR_V], cache[FADED_V], a.v, a.more[MORE_V], pos);
        a.seq = &one;
        a.decode = true;
        a.k = gr_rows(cache[NEAR_K], 0, n), a.v = gr_rows(cache[NEAR_V], 0, n);
        a.more[MORE_K] = gr_rows(cache[FADED_K], 0, n_faded), a.more[MORE_V] = gr_rows(cache[FADED_V], 0, n_faded);
        c->core->forward(&a, c->stream);
        gr_project(c, GR_ATTN_O, y, gr_token_rows(a.o));
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- cost ----------------------------------------------------------------------------------------------------------
 */

/* Both windows together are one of twice the width; faded tokens are projected once more. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double        H = s->n_head, G = s->n_kv_head, D = s->head_dim, hid = s->hidden;
    const gr_mixer_cost attn = gr_attention_cost(s, (gr_reach){2 * s->bmojo_window, 0}, context);
    const gr_mixer_cost inner = s->bmojo_inner->cost(s, context);
    const double        proj = 2 * hid * (2 * G * D + (s->bmojo_tied ? 0 : H * D));
    const double        rows = (double)gr_ring_rows((gr_reach){s->bmojo_window, 0}, context);

    return (gr_mixer_cost){.forward = attn.forward + proj + inner.forward,
                           .backward = attn.backward + 2 * proj + inner.backward,
                           .core_forward = attn.core_forward + inner.core_forward,
                           .core_backward = attn.core_backward + inner.core_backward,
                           .state_bytes =
                               inner.state_bytes + 4 * 2 * G * D * (2 * rows + (double)faded_rows(s, context))};
}

static const gr_foreign_option foreign[] = {{.ours = "bmojo_window", .theirs = "window_size"},
                                            {.ours = "bmojo_tied", .theirs = "tie_attn_weights"},
                                            {.ours = "bmojo_inner", .theirs = "ssm_mixer"},
                                            {0}};

const gr_mixer_def gr_bmojo_def = {
    .name = "bmojo",
    .symbol = "BMF",
    .prefix = "bmojo_f",
    .source = "Zancato et al. 2024, arXiv:2407.06324; hybrid-model-factory's BMOJO-F; docs/math.md 6",
    .gain = GR_ATTN_O,
    .foreign = foreign,
    .attends = true,
    .contains = true,
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
