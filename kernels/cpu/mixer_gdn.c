/* Gated DeltaNet: its core on cpu, then the layer around it (the same on every backend).
 *
 * A head holds a matrix S [K, V] that maps keys to values. Each token lets it fade (g), then corrects what it answers
 * to the token's key, by a fraction beta of the error (the delta rule):
 *
 *     S_t = e^g (I - beta k^T k) S_{t-1} + beta k^T v          o_t = scale q S_t
 *
 * The core works on chunks of C tokens, so that nearly all of it is products of matrices. Equations in brackets are
 * those of docs/math.md 2.3 [D1] and 2.4 [D2].
 *
 * Long for one file, and one on purpose: a mixer is one file per backend (docs/howto/add_mixer.md). */
#include "kernels/attention.h"
#include "kernels/cpu/chunk.h"
#include "kernels/cpu/tri.h"
#include "kernels/cpu/vec.h"
#include "kernels/layer.h"
#include <math.h>
#include <string.h>

enum { DECAY, BETA }; /* gates */

/* ---- scratch of one thread -------------------------------------------------------------------------------------- */

typedef struct room {
    gr_decay d;
    float   *beta;                            /* [C] write strength                                         */
    float   *KT, *L, *A, *inv;                /* K^T [K, C]; [C, C] twice; inverses of L's diagonal blocks  */
    float   *E, *D, *U, *Uw;                  /* [C, V] scratch, error D (backward: all chunks), U, e_out U */
    float   *S;                               /* [K, V]; backward: one before each chunk                    */
    float   *Q, *Kc, *dO, *dOe, *dU, *X, *Xe; /* backward: chunk of scale q, k, d_o, ...                    */
    float   *UT, *dA, *dL, *dQ, *dKr, *dKw;
    float   *dS, *ST, *dST; /* [K, V], [V, K] twice                                       */
} room;

/* n_chunk > 0: for backward over that many chunks. */
static room furnish(gr_room *r, const gr_head *x, int64_t n_chunk)
{
    const int64_t C = x->C, K = x->K, V = x->V, ck = C * x->ldk, cv = C * x->ldv, cc = C * x->ldc, state = K * x->ldv;
    room          w = {0};

#define TAKE(p, n) (w.p = gr_room_take(r, n))
    gr_decay_furnish(&w.d, r, x, n_chunk > 0);
    TAKE(beta, gr_line(C)), TAKE(KT, K * x->ldc), TAKE(L, cc), TAKE(A, cc), TAKE(inv, C * GR_TRI_BLOCK);
    TAKE(E, cv), TAKE(U, cv), TAKE(Uw, cv);
    if (n_chunk == 0) {
        TAKE(D, cv), TAKE(S, state);
    } else {
        TAKE(Q, ck), TAKE(Kc, ck), TAKE(dQ, ck), TAKE(dKr, ck), TAKE(dKw, ck);
        TAKE(dO, cv), TAKE(dOe, cv), TAKE(dU, cv), TAKE(X, cv), TAKE(Xe, cv);
        TAKE(UT, V * x->ldc), TAKE(dA, cc), TAKE(dL, cc);
        TAKE(dS, state), TAKE(ST, V * x->ldk), TAKE(dST, V * x->ldk);
        TAKE(D, n_chunk * cv), TAKE(S, n_chunk * state);
    }
#undef TAKE
    return w;
}

static int64_t room_size(const gr_head *x, int64_t n_chunk)
{
    gr_room count = {0};

    if (n_chunk == GR_ROOM_TOKEN) return 2 * gr_line(x->V);
    furnish(&count, x, n_chunk);
    return count.used;
}

static void load_gates(const gr_head *x, room *w, int64_t t, int n)
{
    gr_decay_load(x, &w->d, t, n);
    for (int i = 0; i < n; i++) w->beta[i] = x->gate[BETA][(t + i) * x->n_head];
}

/* What the chunk writes into the state: U = beta D, where D is the error each token sees,
 *     d_i = v_i - e^{G_i} k_i S_in - sum_{j<i} P_ij <k_i, k_j> beta_j d_j,
 * that is [U = Tm R] with beta moved out of the system: U / beta, which backward needs, then exists for beta = 0 too.
 */
static void pseudo_values(const gr_head *x, room *w, int64_t t, int n, const float *S, float *D)
{
    const float *k = x->k + t * x->k_row, *v = x->v + t * x->v_row;

    gr_tile_transpose(n, x->K, k, x->k_row, w->KT, x->ldc);
    gr_tile_gemm_lower(n, x->K, k, x->k_row, w->KT, x->ldc, w->L, x->ldc, 1.0f, 0.0f);
    gr_weigh(x, &w->d, w->L, n, 1, w->d.one, w->beta);
    gr_tri_invert_blocks(n, w->L, x->ldc, w->inv);

    gr_tile_gemm(n, x->V, x->K, k, x->k_row, 1, S, x->ldv, w->E, x->ldv, 1.0f, 0.0f);
    for (int i = 0; i < n; i++) {
        const float *vi = v + i * x->v_row, e = w->d.e_in[i];
        float       *E = w->E + (int64_t)i * x->ldv;
#pragma omp simd
        for (int j = 0; j < x->V; j++) E[j] = vi[j] - e * E[j];
    }
    gr_tri_solve(n, x->V, w->L, x->ldc, w->inv, w->E, x->ldv, D, x->ldv);
}

/* U and e^{G_C - G} . U from D. */
static void write_strength(const gr_head *x, room *w, int n, const float *D)
{
    gr_scale_rows(n, x->V, 1, w->beta, D, x->ldv, w->U, x->ldv);
    gr_scale_rows(n, x->V, 1, w->d.e_out, w->U, x->ldv, w->Uw, x->ldv);
}

/* S_out = e^{G_C} S_in + K^T (e^{G_C - G} . U) */
static void advance(const gr_head *x, const room *w, int n, float *S)
{
    gr_tile_gemm(x->K, x->V, n, w->KT, x->ldc, 1, w->Uw, x->ldv, S, x->ldv, 1.0f, w->d.e_all);
}

/* ---- forward [D1] ----------------------------------------------------------------------------------------------- */

static void forward_chunk(const gr_head *x, room *w, int64_t t, int n)
{
    const float *q = x->q + t * x->q_row;

    load_gates(x, w, t, n);
    pseudo_values(x, w, t, n, w->S, w->D);
    write_strength(x, w, n, w->D);

    /* O = e^G . (scale Q S_in) + (scale Q K^T . P) U */
    gr_tile_gemm_lower(n, x->K, q, x->q_row, w->KT, x->ldc, w->A, x->ldc, x->scale, 0.0f);
    gr_weigh(x, &w->d, w->A, n, 0, w->d.one, w->d.one);
    gr_tile_gemm(n, x->V, x->K, q, x->q_row, 1, w->S, x->ldv, w->E, x->ldv, x->scale, 0.0f);
    gr_scale_rows(n, x->V, 1, w->d.e_in, w->E, x->ldv, w->E, x->ldv);
    gr_tile_lower_gemm(n, x->V, w->A, x->ldc, w->U, x->ldv, w->E, x->ldv, 1.0f, 1.0f);
    gr_scale_rows(n, x->V, 1, NULL, w->E, x->ldv, x->o + t * x->o_row, x->o_row);

    advance(x, w, n, w->S);
}

static void forward_doc(const gr_head *x, const gr_span *doc, float *mem)
{
    gr_room r = {mem, 0};
    room    w = furnish(&r, x, 0);

    gr_state_load(x->K, x->V, doc->is_first ? x->state_in[0] : NULL, w.S, x->ldv);
    for (int64_t t = doc->first; t < doc->end; t += x->C) forward_chunk(x, &w, t, gr_chunk_len(x, t, doc->end));
    if (doc->is_last) gr_state_store(x->K, x->V, w.S, x->ldv, x->state_out[0]);
}

/* One token, as in decoding: the state is read once and written once. room: p [V], r [V]. */
static void forward_token(const gr_head *x, float *p)
{
    const int   V = x->V;
    float      *r = p + gr_line(V);
    const float e = gr_expf(x->gate[DECAY][0]), qk = gr_dot(x->K, x->q, x->k);

    memset(p, 0, (size_t)V * sizeof *p);
    memset(r, 0, (size_t)V * sizeof *r);
    if (x->state_in[0])
        for (int i = 0; i < x->K; i++) {
            const float *S = x->state_in[0] + (int64_t)i * V, k = x->k[i], q = x->q[i];
#pragma omp simd
            for (int j = 0; j < V; j++) {
                p[j] += k * S[j]; /* k S_in */
                r[j] += q * S[j]; /* q S_in */
            }
        }
#pragma omp simd
    for (int j = 0; j < V; j++) {
        p[j] = x->gate[BETA][0] * (x->v[j] - e * p[j]); /* u */
        x->o[j] = x->scale * (e * r[j] + qk * p[j]);
    }
    if (x->state_out[0])
        for (int i = 0; i < x->K; i++) {
            const float *S = x->state_in[0] ? x->state_in[0] + (int64_t)i * V : NULL, k = x->k[i];
            float       *out = x->state_out[0] + (int64_t)i * V;
#pragma omp simd
            for (int j = 0; j < V; j++) out[j] = (S ? e * S[j] : 0.0f) + k * p[j];
        }
}

/* ---- backward [D2] ---------------------------------------------------------------------------------------------- */

/* Bring a chunk back: gates, U from D, q k d_o side by side, transposes, L (row form this time: beta_i P_ij <k_i,
 * k_j>), A. */
static void recall(const gr_head *x, room *w, int64_t t, int n, const float *S, const float *D)
{
    const int K = x->K, V = x->V, ldk = x->ldk, ldv = x->ldv, ldc = x->ldc;

    load_gates(x, w, t, n);
    write_strength(x, w, n, D);
    gr_scale_rows(n, K, x->scale, NULL, x->q + t * x->q_row, x->q_row, w->Q, ldk);
    gr_scale_rows(n, K, 1, NULL, x->k + t * x->k_row, x->k_row, w->Kc, ldk);
    gr_scale_rows(n, V, 1, NULL, x->d_o + t * x->o_row, x->o_row, w->dO, ldv);
    gr_scale_rows(n, V, 1, w->d.e_in, w->dO, ldv, w->dOe, ldv);
    gr_tile_transpose(n, K, w->Kc, ldk, w->KT, ldc);
    gr_tile_transpose(n, V, w->U, ldv, w->UT, ldc);
    gr_tile_transpose(K, V, S, ldv, w->ST, ldk);
    gr_tile_transpose(K, V, w->dS, ldv, w->dST, ldk);
    gr_tile_gemm_lower(n, K, w->Kc, ldk, w->KT, ldc, w->L, ldc, 1.0f, 0.0f);
    gr_weigh(x, &w->d, w->L, n, 1, w->beta, w->d.one);
    gr_tri_invert_blocks(n, w->L, ldc, w->inv);
    gr_tile_gemm_lower(n, K, w->Q, ldk, w->KT, ldc, w->A, ldc, 1.0f, 0.0f);
    gr_weigh(x, &w->d, w->A, n, 0, w->d.one, w->d.one);
}

/* w->dS is the gradient of the state after the chunk, then of the state S before it. D is from pseudo_values. */
static void backward_chunk(const gr_head *x, room *w, int64_t t, int n, const float *S, const float *D)
{
    const int K = x->K, V = x->V, ldk = x->ldk, ldv = x->ldv, ldc = x->ldc;

    recall(x, w, t, n, S, D);

    /* dU = A^T dO + e^{G_C - G} . (K dS_out);   X = Tm^T dU */
    gr_tile_gemm(n, V, K, w->Kc, ldk, 1, w->dS, ldv, w->dU, ldv, 1.0f, 0.0f);
    gr_scale_rows(n, V, 1, w->d.e_out, w->dU, ldv, w->dU, ldv);
    gr_tile_lower_t_gemm(n, V, w->A, ldc, w->dO, ldv, w->dU, ldv, 1.0f, 1.0f);
    gr_tri_solve_t(n, V, w->L, ldc, w->inv, w->dU, ldv, w->X, ldv);

    /* dbeta = <X, D>;   dV = beta . X;   Xe = beta e^G . X */
    for (int i = 0; i < n; i++) {
        const float *X = w->X + (int64_t)i * ldv, b = w->beta[i], be = b * w->d.e_in[i];
        float       *Xe = w->Xe + (int64_t)i * ldv, *dv = x->dv + (t + i) * x->dv_row;

        x->dgate[BETA][(t + i) * x->n_head] = gr_dot(V, X, D + (int64_t)i * ldv);
#pragma omp simd
        for (int j = 0; j < V; j++) {
            dv[j] = b * X[j];
            Xe[j] = be * X[j];
        }
    }

    /* dA = (dO U^T) . P;   dKK = -stril(X U^T) . beta_i P;   dG from P's exponents */
    gr_tile_gemm_lower(n, V, w->dO, ldv, w->UT, ldc, w->dA, ldc, 1.0f, 0.0f);
    gr_weigh_back(x, &w->d, w->dA, w->A, n, 0, w->d.one);
    gr_tile_gemm_lower(n, V, w->X, ldv, w->UT, ldc, w->dL, ldc, -1.0f, 0.0f);
    gr_weigh_back(x, &w->d, w->dL, w->L, n, 1, w->beta);

    /* What comes through the states, and dG from its factors e^{G_i}, e^{G_C - G_i}, e^{G_C}:
     * e^G . (dO S_in^T),   -beta e^G . (X S_in^T),   e^{G_C - G} . (U dS_out^T) */
    gr_tile_gemm(n, K, V, w->dOe, ldv, 1, w->ST, ldk, w->dQ, ldk, 1.0f, 0.0f);
    gr_tile_gemm(n, K, V, w->Xe, ldv, 1, w->ST, ldk, w->dKr, ldk, -1.0f, 0.0f);
    gr_tile_gemm(n, K, V, w->Uw, ldv, 1, w->dST, ldk, w->dKw, ldk, 1.0f, 0.0f);
    gr_decay_back(x, &w->d, t, n, w->Q, w->dQ, w->Kc, w->dKr, w->Kc, w->dKw,
                  (double)w->d.e_all * gr_inner(K, V, S, w->dS, ldv));

    /* dQ~ += dA K;   read role dKr += dKK K;   write role dKw += dKK^T K + dA^T Q~;   dK = dKr + dKw */
    gr_tile_lower_gemm(n, K, w->dA, ldc, w->Kc, ldk, w->dQ, ldk, 1.0f, 1.0f);
    gr_tile_lower_gemm(n, K, w->dL, ldc, w->Kc, ldk, w->dKr, ldk, 1.0f, 1.0f);
    gr_tile_lower_t_gemm(n, K, w->dL, ldc, w->Kc, ldk, w->dKw, ldk, 1.0f, 1.0f);
    gr_tile_lower_t_gemm(n, K, w->dA, ldc, w->Q, ldk, w->dKw, ldk, 1.0f, 1.0f);
    gr_scale_rows(n, K, x->scale, NULL, w->dQ, ldk, x->dq + t * x->q_row, x->q_row);
    for (int i = 0; i < n; i++) {
        const float *r = w->dKr + (int64_t)i * ldk, *c = w->dKw + (int64_t)i * ldk;
        float       *dk = x->dk + (t + i) * x->dk_row;
#pragma omp simd
        for (int j = 0; j < K; j++) dk[j] = r[j] + c[j];
    }

    /* dS_in = e^{G_C} dS_out + (e^G . Q~)^T dO - (beta e^G . K)^T X */
    gr_tile_gemm(K, V, n, w->Q, 1, ldk, w->dOe, ldv, w->dS, ldv, 1.0f, w->d.e_all);
    gr_tile_gemm(K, V, n, w->Kc, 1, ldk, w->Xe, ldv, w->dS, ldv, -1.0f, 1.0f);
}

/* Replay the states of the document, then walk back through its chunks. */
static void backward_doc(const gr_head *x, const gr_span *doc, float *mem)
{
    const int64_t n_chunk = (doc->end - doc->first + x->C - 1) / x->C, state = (int64_t)x->K * x->ldv,
                  cv = (int64_t)x->C * x->ldv;
    gr_room r = {mem, 0};
    room    w = furnish(&r, x, n_chunk > 0 ? n_chunk : 1);

    gr_state_load(x->K, x->V, doc->is_first ? x->state_in[0] : NULL, w.S, x->ldv);
    for (int64_t c = 0; c < n_chunk; c++) {
        const int64_t t = doc->first + c * x->C;
        const int     n = gr_chunk_len(x, t, doc->end);
        float        *S = w.S + c * state, *D = w.D + c * cv;

        load_gates(x, &w, t, n);
        pseudo_values(x, &w, t, n, S, D);
        if (c == n_chunk - 1) break; /* nobody asks for the last state */
        write_strength(x, &w, n, D);
        memcpy(S + state, S, (size_t)state * sizeof *S);
        advance(x, &w, n, S + state);
    }
    gr_state_load(x->K, x->V, doc->is_last ? x->dstate_out[0] : NULL, w.dS, x->ldv);
    for (int64_t c = n_chunk - 1; c >= 0; c--) {
        const int64_t t = doc->first + c * x->C;

        backward_chunk(x, &w, t, gr_chunk_len(x, t, doc->end), w.S + c * state, w.D + c * cv);
    }
    if (doc->is_first) gr_state_store(x->K, x->V, w.dS, x->ldv, x->dstate_in[0]);
}

/* ---- the core ---------------------------------------------------------------------------------------------------- */

static const gr_recurrence delta_rule = {
    .room = room_size, .token = forward_token, .forward = forward_doc, .backward = backward_doc};

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_chunked_forward(a, &delta_rule);
}

static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_chunked_backward(a, &delta_rule);
}

const gr_mixer_core gr_gdn_cpu = {
    .tol = 1e-5, /* fp32 against fp64; measured 1e-6 at most, whatever the length: decay forgets rounding as it forgets
                    tokens */
    .forward = core_forward,
    .backward = core_backward,
};

/* ==== the layer, in terms of gr_ops and the core ====================================================================
 */

enum { W_Q, W_K, W_V, W_B, W_GK, A_LOG, DT_BIAS, CONV_Q, CONV_K, CONV_V, W_G, O_NORM, W_O, N_PARAM };

/* Kept for backward: projections before the convolutions and before the decay's softplus, gates, the core's output.
 * What is elementwise or a row sum from there (convolutions, both norms) is computed again. */
enum { T_Q, T_K, T_V, T_A, T_DECAY, T_BETA, T_Z, T_O, N_TAPE };

enum { HIST_Q, HIST_K, HIST_V, STATE, N_STATE }; /* decoding: last W - 1 inputs of each convolution; S */

static const float L2_EPS = 1e-6f, O_EPS = 1e-5f;

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t hid = s->hidden, H = s->n_head, D = s->head_dim, HD = H * D, GD = s->n_kv_head * D, W = s->conv_width;

    p[W_Q] = (gr_param_spec){"q_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_K] = (gr_param_spec){"k_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_V] = (gr_param_spec){"v_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_B] = (gr_param_spec){"b_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
    p[W_GK] = (gr_param_spec){"gk_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
    p[A_LOG] = (gr_param_spec){"A_log", 1, {H, 1, 1}, GR_INIT_A_LOG, false};
    p[DT_BIAS] = (gr_param_spec){"dt_bias", 1, {H, 1, 1}, GR_INIT_DT_BIAS, false};
    p[CONV_Q] = (gr_param_spec){"q_conv1d.weight", 3, {HD, 1, W}, GR_INIT_DELTA, true};
    p[CONV_K] = (gr_param_spec){"k_conv1d.weight", 3, {GD, 1, W}, GR_INIT_DELTA, true};
    p[CONV_V] = (gr_param_spec){"v_conv1d.weight", 3, {GD, 1, W}, GR_INIT_DELTA, true};
    p[W_G] = (gr_param_spec){"g_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[O_NORM] = (gr_param_spec){"o_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[W_O] = (gr_param_spec){"o_proj.weight", 2, {hid, HD, 1}, GR_INIT_NORMAL, true};
    return N_PARAM;
}

/* Projections are the attention's; its q and k norms have no place here (the L2 norm replaces them). */
static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    const int64_t hid = s->hidden, HD = (int64_t)s->n_head * s->head_dim, GD = (int64_t)s->n_kv_head * s->head_dim;

    memcpy(w[W_Q], attn[GR_ATTN_Q], (size_t)(HD * hid) * sizeof(float));
    memcpy(w[W_K], attn[GR_ATTN_K], (size_t)(GD * hid) * sizeof(float));
    memcpy(w[W_V], attn[GR_ATTN_V], (size_t)(GD * hid) * sizeof(float));
    memcpy(w[W_O], attn[GR_ATTN_O], (size_t)(hid * HD) * sizeof(float));
    gr_gate_from_attention(s, w[W_G], attn[GR_ATTN_O], attn[GR_ATTN_V]);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* What the core gets, besides the gates: q, k normalised to unit length; v. */
typedef struct inputs {
    gr_tensor q, k, v;    /* after convolution and norm      */
    gr_tensor q_rs, k_rs; /* [N H], [N G] reciprocal lengths */
} inputs;

static inputs take_inputs(const gr_mixer_ctx *c, int64_t N)
{
    const int    H = c->spec->n_head, G = c->spec->n_kv_head;
    const inputs in = {gr_take_heads(c->scratch, c->spec, N, H), gr_take_heads(c->scratch, c->spec, N, G),
                       gr_take_heads(c->scratch, c->spec, N, G), gr_take1(c->scratch, GR_F32, N * H),
                       gr_take1(c->scratch, GR_F32, N * G)};
    return in;
}

static void take_tape(gr_arena *a, const gr_mixer_ctx *c, int64_t N, gr_tensor *t)
{
    const int H = c->spec->n_head, G = c->spec->n_kv_head;

    t[T_Q] = gr_take_heads(a, c->spec, N, H);
    t[T_K] = gr_take_heads(a, c->spec, N, G);
    t[T_V] = gr_take_heads(a, c->spec, N, G);
    t[T_A] = gr_take2(a, GR_F32, N, H);
    t[T_DECAY] = gr_take2(a, GR_F32, N, H);
    t[T_BETA] = gr_take2(a, GR_F32, N, H);
    t[T_Z] = gr_take_heads(a, c->spec, N, H);
    t[T_O] = gr_take_heads(a, c->spec, N, H);
}

static float beta_scale(const gr_mixer_ctx *c)
{
    return c->spec->neg_eigval ? 2.0f : 1.0f;
}

/* Everything linear in x, and the gates. */
static void projections(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    gr_project(c, W_Q, gr_token_rows(t[T_Q]), x);
    gr_project(c, W_K, gr_token_rows(t[T_K]), x);
    gr_project(c, W_V, gr_token_rows(t[T_V]), x);
    gr_project(c, W_G, gr_token_rows(t[T_Z]), x);
    gr_project(c, W_GK, t[T_A], x);
    gr_project(c, W_B, t[T_BETA], x);
    c->op->decay(t[T_DECAY], t[T_A], c->w[A_LOG], c->w[DT_BIAS], c->stream);
    c->op->sigmoid(t[T_BETA], t[T_BETA], beta_scale(c), c->stream);
}

/* history: per convolution the rows before x, or NULL at the start of a document. */
static void core_inputs(const gr_mixer_ctx *c, const inputs *in, const gr_tensor *t, const gr_seq *seq,
                        const gr_tensor *history)
{
    const gr_tensor out[] = {in->q, in->k, in->v};

    for (int i = 0; i < 3; i++)
        c->op->conv(gr_token_rows(out[i]), gr_token_rows(t[T_Q + i]), gr_taps(c->w[CONV_Q + i]), gr_none(),
                    history ? history[i] : gr_none(), seq, c->stream);
    c->op->l2norm(gr_head_rows(in->q), in->q_rs, gr_head_rows(in->q), L2_EPS, c->stream);
    c->op->l2norm(gr_head_rows(in->k), in->k_rs, gr_head_rows(in->k), L2_EPS, c->stream);
}

static gr_core_args core_args(const gr_mixer_ctx *c, const inputs *in, const gr_tensor *t, const gr_seq *seq)
{
    const gr_mixer_spec *s = c->spec;
    const gr_core_args   a = {.seq = seq,
                              .n_head = s->n_head,
                              .n_kv_head = s->n_kv_head,
                              .k_dim = s->head_dim,
                              .v_dim = s->head_dim,
                              .chunk = s->chunk,
                              .scale = 1.0f / sqrtf((float)s->head_dim),
                              .q = in->q,
                              .k = in->k,
                              .v = in->v,
                              .gate = {t[T_DECAY], t[T_BETA]},
                              .o = t[T_O],
                              .scratch = c->scratch};
    return a;
}

/* h = rmsnorm(o) silu(z), which the output projection reads. */
static void gated_output(const gr_mixer_ctx *c, gr_tensor h, gr_tensor rstd, const gr_tensor *t)
{
    c->op->gated_norm(gr_head_rows(h), rstd, gr_head_rows(t[T_O]), gr_head_rows(t[T_Z]), c->w[O_NORM], O_EPS,
                      c->stream);
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    const int64_t N = x.dim[0];
    gr_tape       brief, *t = tape ? tape : &brief;
    gr_tensor     rstd;
    inputs        in;

    take_tape(tape ? c->keep : c->scratch, c, N, t->t);
    in = take_inputs(c, N);
    rstd = gr_take1(c->scratch, GR_F32, N * c->spec->n_head);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, &in, t->t, c->seq);

        projections(c, t->t, x);
        core_inputs(c, &in, t->t, c->seq, NULL);
        c->core->forward(&a, c->stream);
        gated_output(c, in.q, rstd, t->t); /* q has been read: its memory serves for h */
        gr_project(c, W_O, y, gr_token_rows(in.q));
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* From gradients of the core's inputs (in `d`, overwritten) to those of the raw projections `raw`. */
static void core_inputs_back(const gr_mixer_ctx *c, const gr_tensor raw[3], const inputs *d, const inputs *in,
                             const gr_tensor *t)
{
    const gr_tensor dy[] = {d->q, d->k, d->v};

    c->op->l2norm_back(gr_head_rows(d->q), gr_head_rows(d->q), gr_head_rows(in->q), in->q_rs, c->stream);
    c->op->l2norm_back(gr_head_rows(d->k), gr_head_rows(d->k), gr_head_rows(in->k), in->k_rs, c->stream);
    for (int i = 0; i < 3; i++)
        c->op->conv_back(gr_token_rows(raw[i]), gr_taps(c->dw[CONV_Q + i]), gr_none(), gr_none(), gr_token_rows(dy[i]),
                         gr_token_rows(t[T_Q + i]), gr_taps(c->w[CONV_Q + i]), gr_none(), gr_none(), c->seq, c->stream);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark    mark = gr_arena_mark(c->scratch);
    const gr_tensor *t = tape->t;
    const int64_t    N = x.dim[0], H = c->spec->n_head;
    const inputs     in = take_inputs(c, N), d = take_inputs(c, N);
    const gr_tensor  rstd = gr_take1(c->scratch, GR_F32, N * H),
                    h = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head);
    const gr_tensor d_o = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head),
                    dz = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head);
    const gr_tensor dg = gr_take2(c->scratch, GR_F32, N, H), dbeta = gr_take2(c->scratch, GR_F32, N, H);

    if (!gr_out_of_memory(c)) {
        const gr_tensor raw[3] = {in.q, in.k, in.v}; /* free again by the time the convolutions go backward */
        gr_core_args    a = core_args(c, &in, t, c->seq);

        /* y = h W_O^T,  h = rmsnorm(o) silu(z) */
        gated_output(c, h, rstd, t);
        gr_project_back(c, W_O, gr_token_rows(d.q), dy, gr_token_rows(h), 0.0f); /* d.q serves for dh */
        c->op->gated_norm_back(gr_head_rows(d_o), gr_head_rows(dz), c->dw[O_NORM], gr_head_rows(d.q),
                               gr_head_rows(t[T_O]), rstd, gr_head_rows(t[T_Z]), c->w[O_NORM], c->stream);

        core_inputs(c, &in, t, c->seq, NULL);
        a.d_o = d_o, a.dq = d.q, a.dk = d.k, a.dv = d.v, a.dgate[0] = dg, a.dgate[1] = dbeta;
        c->core->backward(&a, c->stream);

        core_inputs_back(c, raw, &d, &in, t);
        c->op->decay_back(dg, c->dw[A_LOG], c->dw[DT_BIAS], dg, t[T_DECAY], t[T_A], c->w[A_LOG], c->w[DT_BIAS],
                          c->stream);
        c->op->sigmoid_back(dbeta, dbeta, t[T_BETA], beta_scale(c), c->stream);

        gr_project_back(c, W_Q, dx, gr_token_rows(raw[0]), x, 0.0f);
        gr_project_back(c, W_K, dx, gr_token_rows(raw[1]), x, 1.0f);
        gr_project_back(c, W_V, dx, gr_token_rows(raw[2]), x, 1.0f);
        gr_project_back(c, W_G, dx, gr_token_rows(dz), x, 1.0f);
        gr_project_back(c, W_GK, dx, dg, x, 1.0f);
        gr_project_back(c, W_B, dx, dbeta, x, 1.0f);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    const int64_t D = s->head_dim, before = s->conv_width - 1;

    (void)capacity; /* the point of it all */
    state->t[HIST_Q] = gr_view2(NULL, GR_F32, before, s->n_head * D);
    state->t[HIST_K] = gr_view2(NULL, GR_F32, before, s->n_kv_head * D);
    state->t[HIST_V] = gr_view2(NULL, GR_F32, before, s->n_kv_head * D);
    state->t[STATE] = gr_view3(NULL, GR_F32, s->n_head, D, D);
    return N_STATE;
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    static const int32_t doc[2] = {0, 1};
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_seq         one = {.n = 1, .n_doc = 1, .doc = doc};
    const bool           short_memory = c->spec->conv_width > 1;
    gr_tensor            t[N_TAPE], rstd;
    inputs               in;

    (void)pos;
    take_tape(c->scratch, c, 1, t);
    in = take_inputs(c, 1);
    rstd = gr_take1(c->scratch, GR_F32, c->spec->n_head);
    if (!gr_out_of_memory(c)) {
        gr_core_args a = core_args(c, &in, t, &one);

        projections(c, t, x);
        core_inputs(c, &in, t, &one, short_memory ? &state->t[HIST_Q] : NULL);
        for (int i = 0; i < 3; i++) gr_remember(c, state->t[HIST_Q + i], t[T_Q + i]);
        a.state_in[0] = a.state_out[0] = state->t[STATE];
        c->core->forward(&a, c->stream);
        gated_output(c, in.q, rstd, t);
        gr_project(c, W_O, y, gr_token_rows(in.q));
    }
    gr_arena_release(c->scratch, mark);
}

/* docs/math.md 10. The core's backward includes replaying the states; projections cost twice as much backward. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double H = s->n_head, G = s->n_kv_head, D = s->head_dim, hid = s->hidden;
    const double C = (double)(context < s->chunk ? context : s->chunk);
    const double proj = 2 * hid * (3 * H * D + 2 * G * D + 2 * H);
    const double fwd = H * (8 * C * D + 6 * D * D), replay = H * (4 * C * D + 4 * D * D);
    const double bwd = H * (22 * C * D + 14 * D * D) + replay;

    return (gr_mixer_cost){
        .forward = proj + fwd,
        .backward = 2 * proj + bwd,
        .core_forward = fwd,
        .core_backward = bwd,
        .state_bytes = 4 * (H * D * D + (s->conv_width - 1) * (H + 2 * G) * D),
    };
}

static const gr_foreign_option foreign[] = {
    {.ours = "conv_width", .theirs = "conv_size"}, {.ours = "gdn_neg_eigval", .theirs = "allow_neg_eigval"}, {0}};

const gr_mixer_def gr_gdn_def = {
    .name = "gdn",
    .symbol = "GDN",
    .prefix = "gdn",
    .source = "Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464; hybrid-model-factory's GatedDeltaNet; docs/math.md 2",
    .gain = O_NORM,
    .foreign = foreign,
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
