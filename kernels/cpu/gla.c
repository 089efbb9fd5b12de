/* Linear attention with scalar decay in chunks: kernels/cpu/gla.h. Equations in brackets are docs/math.md 0.6. */
#include "kernels/cpu/gla.h"
#include "kernels/cpu/vec.h"
#include <string.h>

/* ---- scratch of one thread --------------------------------------------------------------------------------------- */

typedef struct room {
    gr_decay d;
    float   *KT, *A, *E, *Vc, *Vw;    /* K^T [K, m]; Q K^T . P [m, m]; [m, V]: output, w . V, e^(G_end - G) w . V     */
    float   *S;                       /* [K, V]; backward: one before each chunk                                      */
    float   *Q, *Kc, *dQ, *dK;        /* backward: scale q, k and their gradients [m, K]                              */
    float   *dO, *dOe, *dV, *VT, *dA; /* d_o, e^G . d_o, gradient of w . V [m, V]; (w . V)^T [V, m]; [m, m]           */
    float   *dS, *ST, *dST;           /* [K, V]; [V, K] twice                                                         */
} room;

static room furnish(gr_room *r, const gr_head *x, int64_t n_chunk)
{
    const int64_t m = (int64_t)x->C * x->R, ck = m * x->ldk, cv = m * x->ldv, state = (int64_t)x->K * x->ldv;
    room          w = {0};

    gr_decay_furnish(&w.d, r, x, n_chunk > 0);
    w.KT = gr_room_take(r, x->K * (int64_t)x->ldc), w.A = gr_room_take(r, m * x->ldc);
    w.E = gr_room_take(r, cv), w.Vc = gr_room_take(r, cv), w.Vw = gr_room_take(r, cv);
    w.S = gr_room_take(r, (n_chunk > 0 ? n_chunk : 1) * state);
    if (n_chunk == 0) return w;
    w.Q = gr_room_take(r, ck), w.Kc = gr_room_take(r, ck), w.dQ = gr_room_take(r, ck), w.dK = gr_room_take(r, ck);
    w.dO = gr_room_take(r, cv), w.dOe = gr_room_take(r, cv), w.dV = gr_room_take(r, cv);
    w.VT = gr_room_take(r, x->V * (int64_t)x->ldc), w.dA = gr_room_take(r, m * x->ldc);
    w.dS = gr_room_take(r, state);
    w.ST = gr_room_take(r, x->V * (int64_t)x->ldk), w.dST = gr_room_take(r, x->V * (int64_t)x->ldk);
    return w;
}

int64_t gr_gla_room(const gr_head *x, int64_t n_chunk)
{
    gr_room count = {0};

    if (n_chunk == GR_ROOM_TOKEN) return gr_line(x->V) * (1 + x->R);
    furnish(&count, x, n_chunk);
    return count.used;
}

/* ---- products with a triangle, half the work where a token is one row ---------------------------------------------
 */

/* The part of c [m, m] = a b that P will keep; a [m, k], b [k, m]. */
static void product_seen(const gr_head *x, int m, int k, const float *a, int64_t lda, const float *b, float *c,
                         float alpha)
{
    if (x->R == 1)
        gr_tile_gemm_lower(m, k, a, lda, b, x->ldc, c, x->ldc, alpha, 0.0f);
    else
        gr_tile_gemm(m, m, k, a, lda, 1, b, x->ldc, c, x->ldc, alpha, 0.0f);
}

/* c [m, n] += a b, a [m, m] zero where P is. */
static void seen_product(const gr_head *x, int m, int n, const float *a, const float *b, int64_t ldb, float *c)
{
    if (x->R == 1)
        gr_tile_lower_gemm(m, n, a, x->ldc, b, ldb, c, ldb, 1.0f, 1.0f);
    else
        gr_tile_gemm(m, n, m, a, x->ldc, 1, b, ldb, c, ldb, 1.0f, 1.0f);
}

/* c [m, n] += a^T b. */
static void seen_product_t(const gr_head *x, int m, int n, const float *a, const float *b, int64_t ldb, float *c)
{
    if (x->R == 1)
        gr_tile_lower_t_gemm(m, n, a, x->ldc, b, ldb, c, ldb, 1.0f, 1.0f);
    else
        gr_tile_gemm(m, n, m, a, 1, x->ldc, b, ldb, c, ldb, 1.0f, 1.0f);
}

/* ---- forward [G1] -------------------------------------------------------------------------------------------------
 */

/* w . V and e^{G_end - G} w . V. */
static void written(const gr_head *x, room *w, int64_t t, int n)
{
    const float *v = x->v + t * x->R * x->v_row;

    for (int i = 0; i < n; i++) {
        const float   a = x->gate[1] ? x->gate[1][(t + i) * x->n_head] : 1.0f;
        const int64_t at = (int64_t)i * x->R;
        gr_scale_rows(x->R, x->V, a, NULL, v + at * x->v_row, x->v_row, w->Vc + at * x->ldv, x->ldv);
    }
    gr_scale_rows(n * x->R, x->V, 1, w->d.e_out, w->Vc, x->ldv, w->Vw, x->ldv);
}

/* S_out = e^{G_end} S_in + K^T (e^{G_end - G} w . V) */
static void advance(const gr_head *x, const room *w, int m, float *S)
{
    gr_tile_gemm(x->K, x->V, m, w->KT, x->ldc, 1, w->Vw, x->ldv, S, x->ldv, 1.0f, w->d.e_all);
}

/* O = e^G . (scale Q S_in) + (scale Q K^T . P) (w . V) */
static void forward_chunk(const gr_head *x, room *w, int64_t t, int n)
{
    const int    m = n * x->R;
    const float *q = x->q + t * x->R * x->q_row, *k = x->k + t * x->R * x->k_row;

    gr_decay_load(x, &w->d, t, n);
    written(x, w, t, n);
    gr_tile_transpose(m, x->K, k, x->k_row, w->KT, x->ldc);
    product_seen(x, m, x->K, q, x->q_row, w->KT, w->A, x->scale);
    gr_weigh(x, &w->d, w->A, m, 0, w->d.one, w->d.one);
    gr_tile_gemm(m, x->V, x->K, q, x->q_row, 1, w->S, x->ldv, w->E, x->ldv, x->scale, 0.0f);
    gr_scale_rows(m, x->V, 1, w->d.e_in, w->E, x->ldv, w->E, x->ldv);
    seen_product(x, m, x->V, w->A, w->Vc, x->ldv, w->E);
    gr_scale_rows(m, x->V, 1, NULL, w->E, x->ldv, x->o + t * x->R * x->o_row, x->o_row);
    advance(x, w, m, w->S);
}

void gr_gla_forward(const gr_head *x, const gr_span *doc, float *mem)
{
    gr_room r = {mem, 0};
    room    w = furnish(&r, x, 0);

    gr_state_load(x->K, x->V, doc->is_first ? x->state_in[0] : NULL, w.S, x->ldv);
    for (int64_t t = doc->first; t < doc->end; t += x->C) forward_chunk(x, &w, t, gr_chunk_len(x, t, doc->end));
    if (doc->is_last) gr_state_store(x->K, x->V, w.S, x->ldv, x->state_out[0]);
}

/* Row by row of the state: S_i = e S_i + sum_r k_ri w v_r, then o_r += scale q_ri S_i. */
void gr_gla_token(const gr_head *x, float *mem)
{
    const int     V = x->V;
    const float   e = gr_expf(x->gate[0][0]), strength = x->gate[1] ? x->gate[1][0] : 1.0f;
    const int64_t line = gr_line(V);
    float        *v = mem + line, *S = mem;

    gr_scale_rows(x->R, V, strength, NULL, x->v, x->v_row, v, line);
    for (int r = 0; r < x->R; r++) memset(x->o + r * x->o_row, 0, (size_t)V * sizeof *x->o);
    for (int i = 0; i < x->K; i++) {
        if (x->state_in[0])
            gr_scale_rows(1, V, e, NULL, x->state_in[0] + (int64_t)i * V, V, S, line);
        else
            memset(S, 0, (size_t)V * sizeof *S);
        for (int r = 0; r < x->R; r++) {
            const float k = x->k[r * x->k_row + i], *vr = v + r * line;
#pragma omp simd
            for (int j = 0; j < V; j++) S[j] += k * vr[j];
        }
        for (int r = 0; r < x->R; r++) {
            const float q = x->scale * x->q[r * x->q_row + i];
            float      *o = x->o + r * x->o_row;
#pragma omp simd
            for (int j = 0; j < V; j++) o[j] += q * S[j];
        }
        if (x->state_out[0]) memcpy(x->state_out[0] + (int64_t)i * V, S, (size_t)V * sizeof *S);
    }
}

/* ---- backward [G2] ------------------------------------------------------------------------------------------------
 */

/* Bring a chunk back: gates, q k v d_o side by side, transposes, A. */
static void recall(const gr_head *x, room *w, int64_t t, int n, const float *S)
{
    const int     K = x->K, V = x->V, m = n * x->R;
    const int64_t row = t * x->R;

    gr_decay_load(x, &w->d, t, n);
    written(x, w, t, n);
    gr_scale_rows(m, K, x->scale, NULL, x->q + row * x->q_row, x->q_row, w->Q, x->ldk);
    gr_scale_rows(m, K, 1, NULL, x->k + row * x->k_row, x->k_row, w->Kc, x->ldk);
    gr_scale_rows(m, V, 1, NULL, x->d_o + row * x->o_row, x->o_row, w->dO, x->ldv);
    gr_scale_rows(m, V, 1, w->d.e_in, w->dO, x->ldv, w->dOe, x->ldv);
    gr_tile_transpose(m, K, w->Kc, x->ldk, w->KT, x->ldc);
    gr_tile_transpose(m, V, w->Vc, x->ldv, w->VT, x->ldc);
    gr_tile_transpose(K, V, S, x->ldv, w->ST, x->ldk);
    gr_tile_transpose(K, V, w->dS, x->ldv, w->dST, x->ldk);
    product_seen(x, m, K, w->Q, x->ldk, w->KT, w->A, 1.0f);
    gr_weigh(x, &w->d, w->A, m, 0, w->d.one, w->d.one);
}

/* From dV, the gradient of w . V: dv = w dV, dw = <v, dV> over the token's rows. */
static void written_back(const gr_head *x, const room *w, int64_t t, int n)
{
    for (int i = 0; i < n; i++) {
        const int64_t at = (int64_t)i * x->R, row = (t + i) * x->R, gate = (t + i) * x->n_head;
        const float   a = x->gate[1] ? x->gate[1][gate] : 1.0f, *dV = w->dV + at * x->ldv;
        float         sum = 0;

        gr_scale_rows(x->R, x->V, a, NULL, dV, x->ldv, x->dv + row * x->dv_row, x->dv_row);
        for (int r = 0; r < x->R; r++) sum += gr_dot(x->V, x->v + (row + r) * x->v_row, dV + r * x->ldv);
        if (x->dgate[1]) x->dgate[1][gate] = sum;
    }
}

/* w->dS is the gradient of the state after the chunk, then of the state S before it. */
static void backward_chunk(const gr_head *x, room *w, int64_t t, int n, const float *S)
{
    const int     K = x->K, V = x->V, ldk = x->ldk, ldv = x->ldv, m = n * x->R;
    const int64_t row = t * x->R;

    recall(x, w, t, n, S);

    /* d(w . V) = A^T dO + e^{G_end - G} . (K dS_out) */
    gr_tile_gemm(m, V, K, w->Kc, ldk, 1, w->dS, ldv, w->dV, ldv, 1.0f, 0.0f);
    gr_scale_rows(m, V, 1, w->d.e_out, w->dV, ldv, w->dV, ldv);
    seen_product_t(x, m, V, w->A, w->dO, ldv, w->dV);
    written_back(x, w, t, n);

    /* dA = (dO (w . V)^T) . P, and dG from P's exponents */
    product_seen(x, m, V, w->dO, ldv, w->VT, w->dA, 1.0f);
    gr_weigh_back(x, &w->d, w->dA, w->A, m, 0, w->d.one);

    /* What comes through the states: e^G . (dO S_in^T), e^{G_end - G} . ((w . V) dS_out^T); dG from those factors */
    gr_tile_gemm(m, K, V, w->dOe, ldv, 1, w->ST, ldk, w->dQ, ldk, 1.0f, 0.0f);
    gr_tile_gemm(m, K, V, w->Vw, ldv, 1, w->dST, ldk, w->dK, ldk, 1.0f, 0.0f);
    gr_decay_back(x, &w->d, t, m, w->Q, w->dQ, NULL, NULL, w->Kc, w->dK,
                  (double)w->d.e_all * gr_inner(K, V, S, w->dS, ldv));

    /* dQ~ += dA K;   dK += dA^T Q~ */
    seen_product(x, m, K, w->dA, w->Kc, ldk, w->dQ);
    seen_product_t(x, m, K, w->dA, w->Q, ldk, w->dK);
    gr_scale_rows(m, K, x->scale, NULL, w->dQ, ldk, x->dq + row * x->q_row, x->q_row);
    gr_scale_rows(m, K, 1, NULL, w->dK, ldk, x->dk + row * x->dk_row, x->dk_row);

    /* dS_in = e^{G_end} dS_out + (e^G . Q~)^T dO */
    gr_tile_gemm(K, V, m, w->Q, 1, ldk, w->dOe, ldv, w->dS, ldv, 1.0f, w->d.e_all);
}

/* The state before each chunk of the document, into w->S. */
static void replay(const gr_head *x, room *w, const gr_span *doc)
{
    const int64_t state = (int64_t)x->K * x->ldv;
    float        *S = w->S;

    gr_state_load(x->K, x->V, doc->is_first ? x->state_in[0] : NULL, S, x->ldv);
    for (int64_t t = doc->first; t + x->C < doc->end; t += x->C, S += state) {
        const int m = x->C * x->R;

        gr_decay_load(x, &w->d, t, x->C);
        written(x, w, t, x->C);
        gr_tile_transpose(m, x->K, x->k + t * x->R * x->k_row, x->k_row, w->KT, x->ldc);
        memcpy(S + state, S, (size_t)state * sizeof *S);
        advance(x, w, m, S + state);
    }
}

void gr_gla_backward(const gr_head *x, const gr_span *doc, float *mem)
{
    const int64_t n_chunk = (doc->end - doc->first + x->C - 1) / x->C;
    gr_room       r = {mem, 0};
    room          w = furnish(&r, x, n_chunk > 0 ? n_chunk : 1);

    replay(x, &w, doc);
    gr_state_load(x->K, x->V, doc->is_last ? x->dstate_out[0] : NULL, w.dS, x->ldv);
    for (int64_t c = n_chunk - 1; c >= 0; c--) {
        const int64_t t = doc->first + c * x->C;

        backward_chunk(x, &w, t, gr_chunk_len(x, t, doc->end), w.S + c * x->K * x->ldv);
    }
    if (doc->is_first) gr_state_store(x->K, x->V, w.dS, x->ldv, x->dstate_in[0]);
}

const gr_recurrence gr_gla = {
    .room = gr_gla_room, .token = gr_gla_token, .forward = gr_gla_forward, .backward = gr_gla_backward};
