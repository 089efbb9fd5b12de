/* Gated KalmaNet: its core on cpu, then the layer around it (the same on every backend).
 *
 * A head keeps, beside the values S [K, V], the normal matrix H [K, K] of its keys, both fading by e^g. A token does
 * not read S with its query but with the query's ridge regression on the keys seen so far:
 *
 *     k <- (beta + 1e-6) k,  v <- (beta + 1e-6) v
 *     H_t = e^g H_{t-1} + k^T k          x_t = (H_t + ridge |H_t| I)^-1 q_t          q'_t = q_t + alpha (x_t - q_t)
 *     S_t = e^g S_{t-1} + k^T v          o_t = scale q'_t S_t
 *
 * The core is two recurrences, one after the other: from q and k to q' (here), and linear attention with q'
 * (kernels/cpu/gla.h), which sees beta as the write strength (beta + 1e-6)^2. Equations in brackets are those of
 * docs/math.md 3.
 *
 * Long for one file, and one on purpose: a mixer is one file per backend (docs/howto/add_mixer.md). */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gla.h"
#include "kernels/cpu/vec.h"
#include "kernels/layer.h"
#include <math.h>
#include <string.h>

enum { G_DECAY, G_BETA, G_ALPHA }; /* gates of the core; alpha absent: 1 */

static const float BETA_EPS = 1e-6f;

/* The smallest |H| that is solved with; below, x = 0. A lone key of length 3e-8 gives it, and 1 / |H|^2 is still far
 * from overflow. |H| = 0 exactly comes from a zero key at the start of a document. */
static const double F_MIN = 1e-15;

/* ==== from q to q': ridge regression ================================================================================
 *
 * Seen as a recurrence of its own, V is K, o is q', aux is x, and the state is H. */

typedef struct room {
    gr_decay d;
    float   *beta, *alpha;      /* [C] beta + 1e-6; alpha                                                */
    float   *Kc, *KT, *Kw;      /* the chunk's k [C, K], its transpose, a row-scaled copy                 */
    float   *KK, *P, *B;        /* [C, C] K K^T; decay with zeros above the diagonal; B_tj = k_j H_t k_j^T */
    float   *hK, *h, *in;       /* K H_in [C, K]; [C] k_j H_in k_j^T; <H_in, H_t>                          */
    float   *inv_F, *eta, *ee;  /* [C] 1 / |H_t|; step of the iteration; eta e^G                          */
    float   *Pe, *Z;            /* [C, C] eta . P; scratch                                                */
    float   *b, *X[2], *Xe, *M; /* [C, K] the iteration: eta . right side, two iterates, ee . X, H X      */
    float   *H;                 /* [K, K] the state; backward: one before each chunk                      */
    bool     fresh;             /* the state before this chunk is 0: a document begins                    */
    float   *x, *dqp, *dK, *dw; /* backward: x; dq'; dk; what k writes into the last state                */
    float   *Zx, *Om, *c, *om;  /* P . X K^T; Omega; [C] c; omega                                         */
    float   *dH;                /* [K, K] gradient of the state                                           */
} room;

/* n_chunk > 0: for backward. Returns floats. */
static int64_t furnish(room *w, float *base, const gr_head *x, int64_t n_chunk)
{
    const int64_t C = x->C, K = x->K, line = gr_line(C), ck = C * x->ldk, cc = C * x->ldc, state = K * x->ldk;
    float       **lines[] = {&w->beta, &w->alpha, &w->h, &w->in, &w->inv_F, &w->eta, &w->ee};
    float       **keys[] = {&w->Kc, &w->Kw, &w->hK, &w->b, &w->X[0], &w->X[1], &w->Xe, &w->M};
    float       **squares[] = {&w->KK, &w->P, &w->B, &w->Pe, &w->Z};
    float       **keys_back[] = {&w->x, &w->dqp, &w->dK, &w->dw};
    gr_room       r = {.base = base};

    gr_decay_furnish(&w->d, &r, x, n_chunk > 0);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) *lines[i] = gr_room_take(&r, line);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) *keys[i] = gr_room_take(&r, ck);
    for (size_t i = 0; i < sizeof squares / sizeof *squares; i++) *squares[i] = gr_room_take(&r, cc);
    w->KT = gr_room_take(&r, K * x->ldc);
    if (n_chunk > 0) {
        for (size_t i = 0; i < sizeof keys_back / sizeof *keys_back; i++) *keys_back[i] = gr_room_take(&r, ck);
        w->Zx = gr_room_take(&r, cc), w->Om = gr_room_take(&r, cc);
        w->c = gr_room_take(&r, line), w->om = gr_room_take(&r, line);
        w->dH = gr_room_take(&r, state);
    }
    w->H = gr_room_take(&r, (n_chunk > 0 ? n_chunk : 1) * state);
    return r.used;
}

/* ---- a chunk ----------------------------------------------------------------------------------------------------- */

/* Gates, and the keys as they are written. */
static void load_chunk(const gr_head *x, room *w, int64_t t, int n)
{
    const float *alpha = x->gate[G_ALPHA];

    gr_decay_load(x, &w->d, t, n);
    for (int i = 0; i < n; i++) {
        w->beta[i] = x->gate[G_BETA][(t + i) * x->n_head] + BETA_EPS;
        w->alpha[i] = alpha ? alpha[(t + i) * x->n_head] : 1.0f;
    }
    gr_scale_rows(n, x->K, 1, w->beta, x->k + t * x->k_row, x->k_row, w->Kc, x->ldk);
    gr_tile_transpose(n, x->K, w->Kc, x->ldk, w->KT, x->ldc);
}

/* H_out = e^{G_C} H_in + K^T (e^{G_C - G} . K) */
static void advance(const gr_head *x, room *w, int n, float *H)
{
    gr_scale_rows(n, x->K, 1, w->d.e_out, w->Kc, x->ldk, w->Kw, x->ldk);
    gr_tile_gemm(x->K, x->K, n, w->KT, x->ldc, 1, w->Kw, x->ldk, H, x->ldk, 1.0f, w->d.e_all);
}

/* out = row_i P_ij, with zeros above the diagonal. */
static void spread(const gr_head *x, const room *w, int n, const float *row, float *out)
{
    for (int i = 0; i < n; i++) {
        const float *p = w->d.P + (int64_t)i * x->ldc, r = row[i];
        float       *y = out + (int64_t)i * x->ldc;

#pragma omp simd
        for (int j = 0; j < n; j++) y[j] = j <= i ? r * p[j] : 0.0f;
    }
}

/* |H_t| of every token, from three sums of terms >= 0, and what the iteration derives from it:
 *     |H_t|^2 = e^{2G} |H_in|^2 + 2 e^G (P h) + rowsum(P . (P (KK . KK))),   h_j = k_j H_in k_j^T
 * as <H_t, e^G H_in> + sum_j P_tj B_tj with B_tj = k_j H_t k_j^T = e^G h_j + (P (KK . KK))_tj. */
static void measure(const gr_head *x, room *w, int n, const float *H)
{
    const int    K = x->K, ldk = x->ldk, ldc = x->ldc;
    const double HH = gr_inner(K, K, H, H, ldk), step = 2 / (1 + 2 * (double)x->ridge);

    gr_tile_gemm(n, K, K, w->Kc, ldk, 1, H, ldk, w->hK, ldk, 1.0f, 0.0f);
    for (int j = 0; j < n; j++) w->h[j] = gr_dot(K, w->Kc + (int64_t)j * ldk, w->hK + (int64_t)j * ldk);
    gr_tile_gemm(n, n, K, w->Kc, ldk, 1, w->KT, ldc, w->KK, ldc, 1.0f, 0.0f);
    for (int i = 0; i < n; i++) {
        const float *kk = w->KK + (int64_t)i * ldc;
        float       *z = w->Z + (int64_t)i * ldc;
#pragma omp simd
        for (int j = 0; j < n; j++) z[j] = kk[j] * kk[j];
    }
    spread(x, w, n, w->d.one, w->P);
    gr_tile_lower_gemm(n, n, w->P, ldc, w->Z, ldc, w->B, ldc, 1.0f, 0.0f);
    for (int i = 0; i < n; i++) {
        const float *p = w->P + (int64_t)i * ldc, e = w->d.e_in[i];
        float       *b = w->B + (int64_t)i * ldc;
        double       F2, F;

#pragma omp simd
        for (int j = 0; j < n; j++) b[j] += e * w->h[j];
        w->in[i] = (float)((double)e * HH + (double)gr_dot(n, p, w->h));
        F2 = (double)e * (double)w->in[i] + (double)gr_dot(n, p, b), F = sqrt(F2);
        w->inv_F[i] = F < F_MIN ? 0.0f : (float)(1 / F); /* not NaN: that must stay visible */
        w->eta[i] = F < F_MIN ? 0.0f : (float)(step / F);
        w->ee[i] = e * w->eta[i];
    }
    spread(x, w, n, w->eta, w->Pe);
}

/* The rows (H_t + ridge |H_t| I)^-1 y_t: Chebyshev's iteration on the spectrum [ridge, 1 + ridge] |H_t| [3.3]. With r =
 * 1 / (1 + 2 ridge), eta = 2 r / |H_t|, b = eta y, x_0 = b, x_{-1} = 0:
 *     x_n = w_n (r x_{n-1} - eta H_t x_{n-1} + b) + (1 - w_n) x_{n-2},   w_n = 1 / (1 - r^2 / 4 w_{n-1}),   w_0 = 2
 *     eta H_t x = (eta e^G . x) H_in + ((x K^T) . eta P) K
 * Everything it touches, 300 KiB at C 64 and K 128, stays in the second-level cache. */
static const float *solve(const gr_head *x, room *w, int n, const float *H, const float *y)
{
    const int    K = x->K, ldk = x->ldk, ldc = x->ldc;
    const double r = 1 / (1 + 2 * (double)x->ridge);
    double       omega = 2;
    float       *now = w->X[0], *before = w->X[1], *other;

    gr_scale_rows(n, K, 1, w->eta, y, ldk, w->b, ldk);
    memcpy(now, w->b, (size_t)n * (size_t)ldk * sizeof *now);
    memset(before, 0, (size_t)n * (size_t)ldk * sizeof *before);
    gr_scale_rows(n, K, 1, w->ee, now, ldk, w->Xe, ldk);
    for (int step = 0; step < x->iterations; step++) {
        float a, c;

        omega = 1 / (1 - r * r / 4 * omega);
        a = (float)omega, c = (float)(1 - omega);
        gr_tile_gemm_lower(n, K, now, ldk, w->KT, ldc, w->Z, ldc, 1.0f, 0.0f);
        for (int i = 0; i < n; i++) {
            const float *p = w->Pe + (int64_t)i * ldc;
            float       *z = w->Z + (int64_t)i * ldc;
#pragma omp simd
            for (int j = 0; j < n; j++) z[j] = j <= i ? p[j] * z[j] : 0.0f;
        }
        gr_tile_lower_gemm(n, K, w->Z, ldc, w->Kc, ldk, w->M, ldk, 1.0f, 0.0f);
        if (!w->fresh) gr_tile_gemm(n, K, K, w->Xe, ldk, 1, H, ldk, w->M, ldk, 1.0f, 1.0f);
        for (int i = 0; i < n; i++) {
            const int64_t at = (int64_t)i * ldk;
            const float  *M = w->M + at, *b = w->b + at, *X = now + at, e = w->ee[i];
            float        *old = before + at, *Xe = w->Xe + at;
#pragma omp simd
            for (int j = 0; j < K; j++) {
                old[j] = a * ((float)r * X[j] - M[j] + b[j]) + c * old[j];
                Xe[j] = e * old[j];
            }
        }
        other = now, now = before, before = other;
    }
    return now;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void solve_chunk(const gr_head *x, room *w, int64_t t, int n)
{
    const int    K = x->K, ldk = x->ldk;
    const float *q = x->q + t * x->q_row, *X;

    load_chunk(x, w, t, n);
    measure(x, w, n, w->H);
    gr_scale_rows(n, K, 1, NULL, q, x->q_row, w->M, ldk); /* free until the iteration begins */
    X = solve(x, w, n, w->H, w->M);
    for (int i = 0; i < n; i++) {
        const float *qi = q + i * x->q_row, *Xi = X + (int64_t)i * ldk, a = w->alpha[i];
        float       *out = x->o + (t + i) * x->o_row;
#pragma omp simd
        for (int j = 0; j < K; j++) out[j] = qi[j] + a * (Xi[j] - qi[j]);
    }
    if (x->aux) gr_scale_rows(n, K, 1, NULL, X, ldk, x->aux + t * x->q_row, x->q_row);
    advance(x, w, n, w->H);
}

static bool starts_empty(const gr_head *x, const gr_span *doc, int64_t t)
{
    return t == doc->first && !(doc->is_first && x->state_in[0]);
}

static void ridge_forward(const gr_head *x, const gr_span *doc, float *base)
{
    room w;

    furnish(&w, base, x, GR_ROOM_FORWARD);
    gr_state_load(x->K, x->K, doc->is_first ? x->state_in[0] : NULL, w.H, x->ldk);
    for (int64_t t = doc->first; t < doc->end; t += x->C) {
        w.fresh = starts_empty(x, doc, t);
        solve_chunk(x, &w, t, gr_chunk_len(x, t, doc->end));
    }
    if (doc->is_last && x->state_out[0]) gr_state_store(x->K, x->K, w.H, x->ldk, x->state_out[0]);
}

/* ---- backward, by implicit differentiation [3.5] ----------------------------------------------------------------- */

/* x, dq', and through q' = q + alpha (x - q): dalpha, and dq but for the part that comes through x. Leaves alpha dq' =
 * dx in w->M. */
static void recall(const gr_head *x, room *w, int64_t t, int n)
{
    const int    K = x->K, ldk = x->ldk;
    const float *q = x->q + t * x->q_row;

    gr_scale_rows(n, K, 1, NULL, x->aux + t * x->q_row, x->q_row, w->x, ldk);
    gr_scale_rows(n, K, 1, NULL, x->d_o + t * x->o_row, x->o_row, w->dqp, ldk);
    gr_scale_rows(n, K, 1, w->alpha, w->dqp, ldk, w->M, ldk);
    for (int i = 0; i < n && x->dgate[G_ALPHA]; i++) {
        const float *qi = q + i * x->q_row, *Xi = w->x + (int64_t)i * ldk, *d = w->dqp + (int64_t)i * ldk;
        float        sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < K; j++) sum += d[j] * (Xi[j] - qi[j]);
        x->dgate[G_ALPHA][(t + i) * x->n_head] = sum;
    }
}

/* dq = (1 - alpha) dq' + y;   c = ridge <y, x> / |H_t| */
static void query_gradient(const gr_head *x, const room *w, int64_t t, int n, const float *Y)
{
    for (int i = 0; i < n; i++) {
        const int64_t at = (int64_t)i * x->ldk;
        const float  *d = w->dqp + at, *y = Y + at, rest = 1.0f - w->alpha[i];
        float        *dq = x->dq + (t + i) * x->q_row;

#pragma omp simd
        for (int j = 0; j < x->K; j++) dq[j] = rest * d[j] + y[j];
        w->c[i] = x->ridge * gr_dot(x->K, y, w->x + at) * w->inv_F[i];
    }
}

/* The gradient of H_t through the system is -(sym(y^T x) + c H_t), the second part because the ridge is a share of
 * |H_t|. Its share of dK and dG by the tokens of this chunk, H_t = e^G H_in + sum_j P_tj k_j^T k_j: dK = -[((K Y^T) .
 * P^T) X + ((K X^T) . P^T) Y] - 2 [omega . (K H_in) + (KK . Omega) K] omega = P^T (c . e^G),   Omega = P^T diag(c) P dG
 * is summed exponent by exponent, so that nothing cancels where the decay is strong. */
static void key_gradient(const gr_head *x, room *w, int n, const float *Y)
{
    const int K = x->K, ldk = x->ldk, ldc = x->ldc;

    gr_tile_gemm_lower(n, K, w->x, ldk, w->KT, ldc, w->Zx, ldc, 1.0f, 0.0f);
    gr_weigh(x, &w->d, w->Zx, n, 0, w->d.one, w->d.one);
    gr_tile_gemm_lower(n, K, Y, ldk, w->KT, ldc, w->Z, ldc, -1.0f, 0.0f);
    gr_weigh_back(x, &w->d, w->Z, w->Zx, n, 0, w->d.one);
    gr_tile_lower_t_gemm(n, K, w->Z, ldc, w->x, ldk, w->dK, ldk, 1.0f, 0.0f);
    gr_tile_lower_t_gemm(n, K, w->Zx, ldc, Y, ldk, w->dK, ldk, -1.0f, 1.0f);

    spread(x, w, n, w->c, w->Z);
    memset(w->om, 0, (size_t)n * sizeof *w->om);
    for (int i = 0; i < n; i++) {
        const float *z = w->Z + (int64_t)i * ldc, e = w->d.e_in[i];
#pragma omp simd
        for (int j = 0; j < n; j++) w->om[j] += e * z[j];
    }
    gr_tile_lower_t_gemm(n, n, w->P, ldc, w->Z, ldc, w->Om, ldc, 1.0f, 0.0f);
    for (int i = 0; i < n; i++) {
        const int64_t at = (int64_t)i * ldc;
        const float  *kk = w->KK + at, *b = w->B + at, c = w->c[i];
        float        *om = w->Om + at, *z = w->Z + at;
#pragma omp simd
        for (int j = 0; j < n; j++) {
            om[j] *= kk[j];
            z[j] = -c * b[j];
        }
        w->d.dG[i] -= (double)w->d.e_in[i] * (double)c * (double)w->in[i];
    }
    gr_weigh_back(x, &w->d, w->Z, w->P, n, 0, w->d.one);
    gr_tile_gemm(n, K, n, w->Om, ldc, 1, w->Kc, ldk, w->dK, ldk, -2.0f, 1.0f);
}

/* The rest of dK and dG, through the states: H_in, and dH, the gradient of the state after the chunk; then dH becomes
 * that of H_in:
 *     dK   += 2 e^{G_C - G} . (K dH)
 *     dH_in = -sym((e^G . Y)^T X) - (sum c e^{2G}) H_in - K^T (omega . K) + e^{G_C} dH */
static void state_gradient(const gr_head *x, room *w, int64_t t, int n, const float *H, const float *Y)
{
    const int    K = x->K, ldk = x->ldk;
    const double kept = (double)w->d.e_all * gr_inner(K, K, H, w->dH, ldk);
    float       *YH = w->M, *Ye = w->Xe, *Kw = w->Kw;
    double       fade = 0;

    gr_tile_gemm(n, K, K, Y, ldk, 1, H, ldk, YH, ldk, -1.0f, 0.0f);
    gr_scale_rows(n, K, 1, w->d.e_in, YH, ldk, YH, ldk);
    gr_tile_gemm(n, K, K, w->Kc, ldk, 1, w->dH, ldk, w->dw, ldk, 1.0f, 0.0f);
    gr_scale_rows(n, K, 1, w->d.e_out, w->dw, ldk, w->dw, ldk);
    gr_decay_back(x, &w->d, t, n, w->x, YH, NULL, NULL, w->Kc, w->dw, kept);
    for (int i = 0; i < n; i++) {
        const int64_t at = (int64_t)i * ldk;
        const float  *hK = w->hK + at, *dw = w->dw + at, om = w->om[i], e = w->d.e_in[i];
        float        *dK = w->dK + at;

#pragma omp simd
        for (int j = 0; j < K; j++) dK[j] += 2.0f * (dw[j] - om * hK[j]);
        fade += (double)w->c[i] * (double)e * (double)e;
    }
    gr_scale_rows(n, K, 1, w->d.e_in, Y, ldk, Ye, ldk);
    gr_scale_rows(n, K, 1, w->om, w->Kc, ldk, Kw, ldk);
    gr_tile_gemm(K, K, n, w->x, 1, ldk, Ye, ldk, w->dH, ldk, -0.5f, w->d.e_all);
    gr_tile_gemm(K, K, n, Ye, 1, ldk, w->x, ldk, w->dH, ldk, -0.5f, 1.0f);
    gr_tile_gemm(K, K, n, w->KT, x->ldc, 1, Kw, ldk, w->dH, ldk, -1.0f, 1.0f);
    for (int i = 0; i < K; i++) {
        const float *Hi = H + (int64_t)i * ldk;
        float       *dH = w->dH + (int64_t)i * ldk;
#pragma omp simd
        for (int j = 0; j < K; j++) dH[j] -= (float)fade * Hi[j];
    }
}

static void ridge_chunk_back(const gr_head *x, room *w, int64_t t, int n, const float *H)
{
    const float *Y;

    load_chunk(x, w, t, n);
    measure(x, w, n, H);
    recall(x, w, t, n);
    Y = solve(x, w, n, H, w->M);
    query_gradient(x, w, t, n, Y);
    key_gradient(x, w, n, Y);
    state_gradient(x, w, t, n, H, Y);
    for (int i = 0; i < n; i++) /* k came in without beta */
        x->dgate[G_BETA][(t + i) * x->n_head] = gr_dot(x->K, x->k + (t + i) * x->k_row, w->dK + (int64_t)i * x->ldk);
    gr_scale_rows(n, x->K, 1, w->beta, w->dK, x->ldk, x->dk + t * x->dk_row, x->dk_row);
}

/* dH = sym(from): of H only its symmetric part exists. */
static void load_symmetric(const gr_head *x, const float *from, float *dH)
{
    gr_state_load(x->K, x->K, from, dH, x->ldk);
    for (int i = 0; i < x->K; i++)
        for (int j = 0; j < i; j++) {
            float *a = dH + (int64_t)i * x->ldk + j, *b = dH + (int64_t)j * x->ldk + i;
            *a = *b = 0.5f * (*a + *b);
        }
}

/* Replay the states of the document, then walk back through its chunks. */
static void ridge_backward(const gr_head *x, const gr_span *doc, float *base)
{
    const int64_t n_chunk = (doc->end - doc->first + x->C - 1) / x->C, state = (int64_t)x->K * x->ldk;
    room          w;

    furnish(&w, base, x, n_chunk > 0 ? n_chunk : 1);
    gr_state_load(x->K, x->K, doc->is_first ? x->state_in[0] : NULL, w.H, x->ldk);
    for (int64_t c = 0; c + 1 < n_chunk; c++) {
        float *H = w.H + c * state;

        load_chunk(x, &w, doc->first + c * x->C, x->C);
        memcpy(H + state, H, (size_t)state * sizeof *H);
        advance(x, &w, x->C, H + state);
    }
    load_symmetric(x, doc->is_last ? x->dstate_out[0] : NULL, w.dH);
    for (int64_t c = n_chunk - 1; c >= 0; c--) {
        const int64_t t = doc->first + c * x->C;

        w.fresh = starts_empty(x, doc, t);
        ridge_chunk_back(x, &w, t, gr_chunk_len(x, t, doc->end), w.H + c * state);
    }
    if (doc->is_first && x->dstate_in[0]) gr_state_store(x->K, x->K, w.dH, x->ldk, x->dstate_in[0]);
}

/* ---- one token --------------------------------------------------------------------------------------------------- */

/* The iteration of solve() on one row, H [K, K] being the state after the token. */
static const float *solve_token(const gr_head *x, const float *H, float *b, float *now, float *before, float *M)
{
    const int    K = x->K;
    const double r = 1 / (1 + 2 * (double)x->ridge), F = sqrt(gr_inner(K, K, H, H, x->ldk));
    const float  eta = F < F_MIN ? 0.0f : (float)(2 * r / F);
    double       omega = 2;
    float       *other;

    gr_scale_rows(1, K, eta, NULL, x->q, K, b, K);
    memcpy(now, b, (size_t)K * sizeof *now);
    memset(before, 0, (size_t)K * sizeof *before);
    for (int step = 0; step < x->iterations; step++) {
        float a, c;

        omega = 1 / (1 - r * r / 4 * omega);
        a = (float)omega, c = (float)(1 - omega);
        gr_tile_gemm(1, K, K, now, K, 1, H, x->ldk, M, K, eta, 0.0f);
#pragma omp simd
        for (int j = 0; j < K; j++) before[j] = a * ((float)r * now[j] - M[j] + b[j]) + c * before[j];
        other = now, now = before, before = other;
    }
    return now;
}

static void ridge_token(const gr_head *x, float *mem)
{
    const int     K = x->K;
    const int64_t line = gr_line(K);
    const float   e = gr_expf(x->gate[G_DECAY][0]), beta = x->gate[G_BETA][0] + BETA_EPS;
    const float   alpha = x->gate[G_ALPHA] ? x->gate[G_ALPHA][0] : 1.0f, *X;
    float        *H = mem + 4 * line;

    gr_state_load(K, K, x->state_in[0], H, x->ldk);
    for (int i = 0; i < K; i++) {
        float      *Hi = H + (int64_t)i * x->ldk;
        const float k = beta * x->k[i];
#pragma omp simd
        for (int j = 0; j < K; j++) Hi[j] = e * Hi[j] + k * (beta * x->k[j]);
    }
    if (x->state_out[0]) gr_state_store(K, K, H, x->ldk, x->state_out[0]);
    X = solve_token(x, H, mem, mem + line, mem + 2 * line, mem + 3 * line);
#pragma omp simd
    for (int j = 0; j < K; j++) x->o[j] = x->q[j] + alpha * (X[j] - x->q[j]);
    if (x->aux) memcpy(x->aux, X, (size_t)K * sizeof *X);
}

static int64_t ridge_room(const gr_head *x, int64_t n_chunk)
{
    room unused;

    if (n_chunk == GR_ROOM_TOKEN) return 4 * gr_line(x->K) + (int64_t)x->K * x->ldk;
    return furnish(&unused, NULL, x, n_chunk);
}

static const gr_recurrence ridge = {
    .room = ridge_room, .token = ridge_token, .forward = ridge_forward, .backward = ridge_backward};

/* ==== the core: one after the other =============================================================================== */

/* Buffers of a call, gradients only for backward. */
typedef struct parts {
    gr_tensor qp, strength;           /* q' [N, H, K]; (beta + 1e-6)^2 [N, H] */
    gr_tensor dqp, dstrength, dk, dg; /* of the read-out but dk, dg: of the regression */
} parts;

static parts take_parts(const gr_core_args *a, bool backward)
{
    const int64_t N = a->seq->n, H = a->n_head, K = a->k_dim;
    parts         p = {.qp = gr_take3(a->scratch, GR_F32, N, H, K), .strength = gr_take2(a->scratch, GR_F32, N, H)};

    if (!backward) return p;
    p.dqp = gr_take3(a->scratch, GR_F32, N, H, K);
    p.dstrength = gr_take2(a->scratch, GR_F32, N, H);
    p.dk = gr_take3(a->scratch, GR_F32, N, a->n_kv_head, K);
    p.dg = gr_take2(a->scratch, GR_F32, N, H);
    return p;
}

static void write_strength(const gr_core_args *a, gr_tensor strength)
{
    const int64_t n = a->seq->n * a->n_head;
    const float  *beta = a->gate[G_BETA].data;
    float        *s = strength.data;

#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) s[i] = (beta[i] + BETA_EPS) * (beta[i] + BETA_EPS);
}

/* The arguments as the regression sees them, and as the read-out does. */
static gr_core_args regression_args(const gr_core_args *a, const parts *p)
{
    gr_core_args r = *a;

    r.v_dim = a->k_dim;
    r.v = r.dv = gr_none();
    r.o = p->qp, r.d_o = p->dqp, r.dk = p->dk, r.dgate[G_DECAY] = p->dg;
    for (int i = 0; i < GR_CORE_STATES; i++)
        r.state_in[i] = r.state_out[i] = r.dstate_in[i] = r.dstate_out[i] = gr_none();
    r.state_in[0] = a->state_in[1], r.state_out[0] = a->state_out[1];
    r.dstate_in[0] = a->dstate_in[1], r.dstate_out[0] = a->dstate_out[1];
    return r;
}

static gr_core_args readout_args(const gr_core_args *a, const parts *p)
{
    gr_core_args r = *a;

    r.q = p->qp, r.dq = p->dqp;
    r.gate[1] = p->strength, r.dgate[1] = p->dstrength;
    r.gate[2] = r.dgate[2] = gr_none();
    return r;
}

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    const gr_mark      mark = gr_arena_mark(a->scratch);
    const parts        p = take_parts(a, false);
    const gr_core_args regression = regression_args(a, &p), readout = readout_args(a, &p);

    (void)stream;
    if (p.qp.data && p.strength.data) {
        write_strength(a, p.strength);
        gr_chunked_forward(&regression, &ridge);
        gr_chunked_forward(&readout, &gr_gla);
    }
    gr_arena_release(a->scratch, mark);
}

/* q' once more, from q and x. */
static void blend(const gr_core_args *a, gr_tensor qp)
{
    const int64_t n = a->seq->n * a->n_head, K = a->k_dim;
    const float  *q = a->q.data, *x = a->aux.data, *alpha = a->gate[G_ALPHA].data;
    float        *y = qp.data;

#pragma omp parallel for schedule(static) if (n * K > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) {
        const float w = alpha ? alpha[i] : 1.0f;
#pragma omp simd
        for (int64_t j = i * K; j < (i + 1) * K; j++) y[j] = q[j] + w * (x[j] - q[j]);
    }
}

/* dbeta += what the read-out makes of its write strength. */
static void write_strength_back(const gr_core_args *a, gr_tensor dstrength)
{
    const int64_t n = gr_count(dstrength);
    const float  *beta = a->gate[G_BETA].data, *ds = dstrength.data;
    float        *dbeta = a->dgate[G_BETA].data;

#pragma omp parallel for simd schedule(static) if (parallel : n > GR_SERIAL)
    for (int64_t i = 0; i < n; i++) dbeta[i] += 2 * (beta[i] + BETA_EPS) * ds[i];
}

static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    const gr_mark      mark = gr_arena_mark(a->scratch);
    const parts        p = take_parts(a, true);
    const gr_core_args regression = regression_args(a, &p), readout = readout_args(a, &p);

    if (p.qp.data && p.strength.data && p.dqp.data && p.dstrength.data && p.dk.data && p.dg.data) {
        write_strength(a, p.strength);
        blend(a, p.qp);
        gr_chunked_backward(&readout, &gr_gla);
        gr_chunked_backward(&regression, &ridge);
        gr_cpu_add(a->dk, p.dk, stream);
        gr_cpu_add(a->dgate[G_DECAY], p.dg, stream);
        write_strength_back(a, p.dstrength);
    }
    gr_arena_release(a->scratch, mark);
}

const gr_mixer_core gr_gka_cpu = {
    .tol = 4e-5, /* fp32 against fp64 with the same number of iterations; measured 2e-5: the rounding of a product,
                    times a condition number of up to 51 (docs/math.md 3.3). The error of 30 iterations is 3e-4 */
    .forward = core_forward,
    .backward = core_backward,
};

/* ==== the layer, in terms of gr_ops and the core ================================================================== */

enum { W_Q, W_K, W_V, W_A, W_B, BIAS_B, A_LOG, DT_BIAS, CONV_Q, CONV_K, O_NORM, W_O, N_ALWAYS };

/* Parameters that options leave out come last; -1: not there. */
typedef struct optional {
    int w_alpha, bias_alpha, conv_v, w_g, n;
} optional;

static optional places(const gr_mixer_spec *s)
{
    optional p = {.n = N_ALWAYS};

    p.w_alpha = s->gka_alpha ? p.n++ : -1;
    p.bias_alpha = s->gka_alpha ? p.n++ : -1;
    p.conv_v = s->gka_v_conv ? p.n++ : -1;
    p.w_g = s->gka_output_gate ? p.n++ : -1;
    return p;
}

/* Kept for backward: projections before the convolutions and before the decay's softplus, gates, the solutions x, the
 * core's output. What is elementwise or a row sum from there is computed again. */
enum { T_Q, T_K, T_V, T_A, T_DECAY, T_BETA, T_ALPHA, T_Z, T_O, T_X, N_TAPE };

enum { HIST_Q, HIST_K, STATE, HIST_V }; /* decoding: inputs of the convolutions; S and H [2, H, D, D] */

static const float UNIT_EPS = 1e-6f, O_EPS = 1e-6f;

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t  hid = s->hidden, H = s->n_head, D = s->head_dim, HD = H * D, GD = s->n_kv_head * D;
    const int64_t  W = s->conv_width;
    const optional o = places(s);

    p[W_Q] = (gr_param_spec){"q_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_K] = (gr_param_spec){"k_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_V] = (gr_param_spec){"v_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_A] = (gr_param_spec){"a_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
    p[W_B] = (gr_param_spec){"b_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
    p[BIAS_B] = (gr_param_spec){"b_proj.bias", 1, {H, 1, 1}, GR_INIT_ZERO, false};
    p[A_LOG] = (gr_param_spec){"A_log", 1, {H, 1, 1}, GR_INIT_A_LOG, false};
    p[DT_BIAS] = (gr_param_spec){"dt_bias", 1, {H, 1, 1}, GR_INIT_DT_BIAS, false};
    p[CONV_Q] = (gr_param_spec){"q_conv1d.weight", 3, {HD, 1, W}, GR_INIT_DELTA, true};
    p[CONV_K] = (gr_param_spec){"k_conv1d.weight", 3, {GD, 1, W}, GR_INIT_DELTA, true};
    p[O_NORM] = (gr_param_spec){"o_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[W_O] = (gr_param_spec){"o_proj.weight", 2, {hid, HD, 1}, GR_INIT_NORMAL, true};
    if (s->gka_alpha) {
        p[o.w_alpha] = (gr_param_spec){"alpha_proj.weight", 2, {H, hid, 1}, GR_INIT_NORMAL, true};
        p[o.bias_alpha] = (gr_param_spec){"alpha_proj.bias", 1, {H, 1, 1}, GR_INIT_ZERO, false};
    }
    if (s->gka_v_conv) p[o.conv_v] = (gr_param_spec){"v_conv1d.weight", 3, {GD, 1, W}, GR_INIT_DELTA, true};
    if (s->gka_output_gate) p[o.w_g] = (gr_param_spec){"g_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    return o.n;
}

/* As Gated DeltaNet: projections are the attention's, the output gate starts as (W_O^T + W_V repeated by rows) / 2. */
static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    enum { ATTN_Q, ATTN_K, ATTN_V, ATTN_O };
    const int64_t hid = s->hidden, HD = (int64_t)s->n_head * s->head_dim, GD = (int64_t)s->n_kv_head * s->head_dim;
    const int     g = places(s).w_g;

    memcpy(w[W_Q], attn[ATTN_Q], (size_t)(HD * hid) * sizeof(float));
    memcpy(w[W_K], attn[ATTN_K], (size_t)(GD * hid) * sizeof(float));
    memcpy(w[W_V], attn[ATTN_V], (size_t)(GD * hid) * sizeof(float));
    memcpy(w[W_O], attn[ATTN_O], (size_t)(hid * HD) * sizeof(float));
    if (g >= 0) gr_gate_from_attention(s, w[g], attn[ATTN_O], attn[ATTN_V]);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* What the core gets, besides the gates: q, k normalised to unit length; v. */
typedef struct inputs {
    gr_tensor q, k, v;      /* after convolution and norm; v the tape's own where it has no convolution */
    gr_tensor q_inv, k_inv; /* [N H], [N G] reciprocal lengths                                          */
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
    const gr_mixer_spec *s = c->spec;
    const int            H = s->n_head, G = s->n_kv_head;

    t[T_Q] = gr_take_heads(a, c->spec, N, H);
    t[T_K] = gr_take_heads(a, c->spec, N, G);
    t[T_V] = gr_take_heads(a, c->spec, N, G);
    t[T_A] = gr_take2(a, GR_F32, N, H);
    t[T_DECAY] = gr_take2(a, GR_F32, N, H);
    t[T_BETA] = gr_take2(a, GR_F32, N, H);
    t[T_ALPHA] = s->gka_alpha ? gr_take2(a, GR_F32, N, H) : gr_none();
    t[T_Z] = s->gka_output_gate ? gr_take_heads(a, c->spec, N, H) : gr_none();
    t[T_O] = gr_take_heads(a, c->spec, N, H);
    t[T_X] = gr_none();
}

/* sigmoid(x W^T + b). */
static void gate(const gr_mixer_ctx *c, gr_tensor y, int w, int bias, gr_tensor x)
{
    gr_project(c, w, y, x);
    c->op->bias(y, c->w[bias], c->stream);
    c->op->sigmoid(y, y, 1.0f, c->stream);
}

/* Everything linear in x, and the gates. */
static void projections(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    const optional o = places(c->spec);

    gr_project(c, W_Q, gr_token_rows(t[T_Q]), x);
    gr_project(c, W_K, gr_token_rows(t[T_K]), x);
    gr_project(c, W_V, gr_token_rows(t[T_V]), x);
    gr_project(c, W_A, t[T_A], x);
    c->op->decay(t[T_DECAY], t[T_A], c->w[A_LOG], c->w[DT_BIAS], c->stream);
    gate(c, t[T_BETA], W_B, BIAS_B, x);
    if (c->spec->gka_alpha) gate(c, t[T_ALPHA], o.w_alpha, o.bias_alpha, x);
    if (c->spec->gka_output_gate) gr_project(c, o.w_g, gr_token_rows(t[T_Z]), x);
}

/* history: the states of decoding, or NULL at the start of a document. */
static void core_inputs(const gr_mixer_ctx *c, inputs *in, const gr_tensor *t, const gr_seq *seq,
                        const gr_tensor *history)
{
    const optional o = places(c->spec);

    c->op->conv(gr_token_rows(in->q), gr_token_rows(t[T_Q]), gr_taps(c->w[CONV_Q]), gr_none(),
                history ? history[HIST_Q] : gr_none(), seq, c->stream);
    c->op->conv(gr_token_rows(in->k), gr_token_rows(t[T_K]), gr_taps(c->w[CONV_K]), gr_none(),
                history ? history[HIST_K] : gr_none(), seq, c->stream);
    if (c->spec->gka_v_conv)
        c->op->conv(gr_token_rows(in->v), gr_token_rows(t[T_V]), gr_taps(c->w[o.conv_v]), gr_none(),
                    history ? history[HIST_V] : gr_none(), seq, c->stream);
    else
        in->v = t[T_V];
    c->op->unit_norm(gr_head_rows(in->q), in->q_inv, gr_head_rows(in->q), UNIT_EPS, c->stream);
    c->op->unit_norm(gr_head_rows(in->k), in->k_inv, gr_head_rows(in->k), UNIT_EPS, c->stream);
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
                              .iterations = s->gka_iterations,
                              .ridge = s->gka_ridge,
                              .q = in->q,
                              .k = in->k,
                              .v = in->v,
                              .gate = {t[T_DECAY], t[T_BETA], t[T_ALPHA]},
                              .o = t[T_O],
                              .aux = t[T_X],
                              .scratch = c->scratch};
    return a;
}

/* h = rmsnorm(o) silu(z), or without the gate; the output projection reads it. */
static void output_norm(const gr_mixer_ctx *c, gr_tensor h, gr_tensor rstd, const gr_tensor *t)
{
    if (c->spec->gka_output_gate)
        c->op->gated_norm(gr_head_rows(h), rstd, gr_head_rows(t[T_O]), gr_head_rows(t[T_Z]), c->w[O_NORM], O_EPS,
                          c->stream);
    else
        c->op->rmsnorm(gr_head_rows(h), rstd, gr_head_rows(t[T_O]), c->w[O_NORM], O_EPS, c->stream);
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    const int64_t N = x.dim[0];
    gr_tape       brief, *t = tape ? tape : &brief;
    gr_tensor     rstd;
    inputs        in;

    take_tape(tape ? c->keep : c->scratch, c, N, t->t);
    if (tape) t->t[T_X] = gr_take_heads(c->keep, c->spec, N, c->spec->n_head);
    in = take_inputs(c, N);
    rstd = gr_take1(c->scratch, GR_F32, N * c->spec->n_head);
    if (!gr_out_of_memory(c)) {
        gr_core_args a;

        projections(c, t->t, x);
        core_inputs(c, &in, t->t, c->seq, NULL);
        a = core_args(c, &in, t->t, c->seq);
        c->core->forward(&a, c->stream);
        output_norm(c, in.q, rstd, t->t); /* q has been read: its memory serves for h */
        gr_project(c, W_O, y, gr_token_rows(in.q));
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* The gradient of o, and of z where there is one, from that of h (overwritten). */
static void output_norm_back(const gr_mixer_ctx *c, gr_tensor d_o, gr_tensor dz, gr_tensor dh, gr_tensor rstd,
                             const gr_tensor *t)
{
    if (c->spec->gka_output_gate)
        c->op->gated_norm_back(gr_head_rows(d_o), gr_head_rows(dz), c->dw[O_NORM], gr_head_rows(dh),
                               gr_head_rows(t[T_O]), rstd, gr_head_rows(t[T_Z]), c->w[O_NORM], c->stream);
    else
        c->op->rmsnorm_back(gr_head_rows(d_o), c->dw[O_NORM], gr_head_rows(dh), gr_head_rows(t[T_O]), rstd,
                            c->w[O_NORM], c->stream);
}

/* From gradients of the core's inputs (in `d`, overwritten) to those of the raw projections `raw`. */
static void core_inputs_back(const gr_mixer_ctx *c, gr_tensor raw[3], const inputs *d, const inputs *in,
                             const gr_tensor *t)
{
    const optional  o = places(c->spec);
    const gr_tensor dy[] = {d->q, d->k, d->v};
    const int       conv[] = {CONV_Q, CONV_K, o.conv_v};

    c->op->unit_norm_back(gr_head_rows(d->q), gr_head_rows(d->q), gr_head_rows(in->q), in->q_inv, c->stream);
    c->op->unit_norm_back(gr_head_rows(d->k), gr_head_rows(d->k), gr_head_rows(in->k), in->k_inv, c->stream);
    for (int i = 0; i < 3; i++)
        if (conv[i] >= 0)
            c->op->conv_back(gr_token_rows(raw[i]), gr_taps(c->dw[conv[i]]), gr_none(), gr_none(), gr_token_rows(dy[i]),
                             gr_token_rows(t[T_Q + i]), gr_taps(c->w[conv[i]]), gr_none(), gr_none(), c->seq,
                             c->stream);
        else
            raw[i] = dy[i];
}

/* From dy, the gradient of a gate (overwritten), to its weights and, added, to dx. */
static void gate_back(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor y, int w, int bias, gr_tensor x)
{
    c->op->sigmoid_back(dy, dy, y, 1.0f, c->stream);
    c->op->bias_back(c->dw[bias], dy, c->stream);
    gr_project_back(c, w, dx, dy, x, 1.0f);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark    mark = gr_arena_mark(c->scratch);
    const gr_tensor *t = tape->t;
    const int64_t    N = x.dim[0], H = c->spec->n_head;
    const optional   o = places(c->spec);
    const inputs     d = take_inputs(c, N);
    inputs           in = take_inputs(c, N);
    const gr_tensor  rstd = gr_take1(c->scratch, GR_F32, N * H),
                    h = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head);
    const gr_tensor d_o = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head),
                    dz = gr_take_heads(c->scratch, c->spec, N, c->spec->n_head);
    const gr_tensor dg = gr_take2(c->scratch, GR_F32, N, H), dbeta = gr_take2(c->scratch, GR_F32, N, H),
                    dalpha = gr_take2(c->scratch, GR_F32, N, H);

    if (!gr_out_of_memory(c)) {
        gr_tensor    raw[3] = {in.q, in.k, in.v}; /* free again by the time the convolutions go backward */
        gr_core_args a;

        /* y = h W_O^T,  h = rmsnorm(o) silu(z) */
        output_norm(c, h, rstd, t);
        gr_project_back(c, W_O, gr_token_rows(d.q), dy, gr_token_rows(h), 0.0f); /* d.q serves for dh */
        output_norm_back(c, d_o, dz, d.q, rstd, t);

        core_inputs(c, &in, t, c->seq, NULL);
        a = core_args(c, &in, t, c->seq);
        a.d_o = d_o, a.dq = d.q, a.dk = d.k, a.dv = d.v, a.dgate[G_DECAY] = dg, a.dgate[G_BETA] = dbeta;
        if (c->spec->gka_alpha) a.dgate[G_ALPHA] = dalpha;
        c->core->backward(&a, c->stream);

        core_inputs_back(c, raw, &d, &in, t);
        c->op->decay_back(dg, c->dw[A_LOG], c->dw[DT_BIAS], dg, t[T_DECAY], t[T_A], c->w[A_LOG], c->w[DT_BIAS],
                          c->stream);

        gr_project_back(c, W_Q, dx, gr_token_rows(raw[0]), x, 0.0f);
        gr_project_back(c, W_K, dx, gr_token_rows(raw[1]), x, 1.0f);
        gr_project_back(c, W_V, dx, gr_token_rows(raw[2]), x, 1.0f);
        gr_project_back(c, W_A, dx, dg, x, 1.0f);
        gate_back(c, dx, dbeta, t[T_BETA], W_B, BIAS_B, x);
        if (c->spec->gka_alpha) gate_back(c, dx, dalpha, t[T_ALPHA], o.w_alpha, o.bias_alpha, x);
        if (c->spec->gka_output_gate) gr_project_back(c, o.w_g, dx, gr_token_rows(dz), x, 1.0f);
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
    state->t[STATE] = (gr_tensor){NULL, GR_F32, 4, {2, s->n_head, D, D}};
    if (s->gka_v_conv) state->t[HIST_V] = gr_view2(NULL, GR_F32, before, s->n_kv_head * D);
    return s->gka_v_conv ? HIST_V + 1 : HIST_V;
}

/* S (0) or H (1) of the state. */
static gr_tensor half(gr_tensor state, int which)
{
    return gr_as3(gr_rows(state, which, 1), state.dim[1], state.dim[2], state.dim[3]);
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
        gr_core_args a;

        projections(c, t, x);
        core_inputs(c, &in, t, &one, short_memory ? state->t : NULL);
        gr_remember(c, state->t[HIST_Q], t[T_Q]);
        gr_remember(c, state->t[HIST_K], t[T_K]);
        if (c->spec->gka_v_conv) gr_remember(c, state->t[HIST_V], t[T_V]);
        a = core_args(c, &in, t, &one);
        a.iterations = c->spec->gka_decode_iterations;
        for (int i = 0; i < 2; i++) a.state_in[i] = a.state_out[i] = half(state->t[STATE], i);
        c->core->forward(&a, c->stream);
        output_norm(c, in.q, rstd, t);
        gr_project(c, W_O, y, gr_token_rows(in.q));
    }
    gr_arena_release(c->scratch, mark);
}

/* docs/math.md 10. The core's backward includes replaying the states; projections cost twice as much backward. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double H = s->n_head, G = s->n_kv_head, D = s->head_dim, hid = s->hidden, I = s->gka_iterations;
    const double C = (double)(context < s->chunk ? context : s->chunk);
    const double gates = 2 + s->gka_alpha, out = s->gka_output_gate ? 3 : 2, conv = s->gka_v_conv ? 2 : 1;
    const double proj = 2 * hid * (out * H * D + 2 * G * D + gates * H);
    const double solve = I * (4 * C * D + 2 * D * D);
    const double fwd = H * (solve + 6 * C * D + 2 * C * C + 8 * D * D), replay = H * 4 * D * D;
    const double bwd = H * (solve + 22 * C * D + 4 * C * C + 20 * D * D) + replay;

    return (gr_mixer_cost){
        .forward = proj + fwd,
        .backward = 2 * proj + bwd,
        .core_forward = fwd,
        .core_backward = bwd,
        .state_bytes = 4 * (2 * H * D * D + (s->conv_width - 1) * (H + conv * G) * D),
    };
}

static const gr_foreign_option foreign[] = {
    {.ours = "conv_width", .theirs = "conv_size"},
    {.ours = "gka_iterations", .theirs = "num_iter"},
    {.ours = "gka_ridge", .theirs = "ridge_strength"},
    {.ours = "gka_alpha", .theirs = "use_alpha_connection"},
    {.ours = "gka_v_conv", .theirs = "use_v_conv"},
    {.ours = "gka_output_gate", .theirs = "use_gate"},
    {0},
};

const gr_mixer_def gr_gka_def = {
    .name = "gka",
    .symbol = "GKA",
    .prefix = "gka",
    .source = "Peng et al. 2025, arXiv:2511.21016; hybrid-model-factory's GatedKalmaNet; docs/math.md 3",
    .gain = O_NORM,
    .foreign = foreign,
    .iterates = true,
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
