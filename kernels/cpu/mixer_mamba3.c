/* Mamba-3: its core on cpu, then the layer around it (the same on every backend).
 *
 * A head holds a matrix S [K, P], most of whose rows come in pairs: real and imaginary part. A token lets S fade, and
 * writes twice into it, once with its predecessor's key and value and once with its own: the trapezoidal rule. Keys and
 * queries are turned by a phase that grows by an angle of each token's own:
 *
 *     S_t = a_t S_{t-1} + (1 - tau_t) Delta_t a_t k^_{t-1}^T v_{t-1} + tau_t Delta_t k^_t^T v_t      k^_t = R(phi_t)
 * k_t o_t = q^_t S_t + D v_t                                                                         q^_t = R(phi_t)
 * q_t
 *
 * with R rows of q, k, v and o per token (MIMO), or one (SISO): docs/math.md 4.
 *
 * Two writes of one key become one: what token t's key and value bring is kappa_t = tau_t Delta_t + sigma_t, where
 * sigma_t = (1 - tau_{t+1}) Delta_{t+1} is the share its successor will claim, 0 for the last token of a document. So
 * the recurrence is kernels/cpu/gla.h with weights kappa; only the token itself must not see sigma_t yet.
 *
 * Phases restart with every chunk, as the sums of log-decay do: a state is handed on turned back by the chunk's whole
 * angle, R(-phi_C) S, which is the state as its last token sees it. No phase grows with the position, none is part of
 * a state, and the gradient of all later phases is that of this one turn.
 *
 * In scratch and states a key's channels are in the order: first halves of the pairs, second halves, channels that do
 * not turn. Both layouts of pairs look the same from there.
 *
 * Long for one file, and one on purpose: a mixer is one file per backend (docs/howto/add_mixer.md). */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gla.h"
#include "kernels/cpu/vec.h"
#include "kernels/attention.h"
#include "kernels/layer.h"
#include <math.h>
#include <omp.h>
#include <string.h>

/* What the core gets in `more`; gradients of the first two are written, those of parameters added. Its q, k, v are C
 * and B after their norms and x: [N R, H, K], [N R, G, K], [N, G, P]; o [N, H, P] is what the output projection reads;
 * aux [N R, H, P] is what the recurrence returned, before gate and norm. States: S [H, K, P]; and of the last token k,
 * not turned, [H, R, K], and v [H, R, P]. */
enum {
    LOGITS, /* [N, 3 H + A] step size, decay, tau, angles: as projected                           */
    Z,      /* [N, H, P] output gate                                                              */
    DT_B,   /* [H] bias of the step size                                                          */
    B_B,    /* [H, R, K] added to k                                                               */
    C_B,    /* [H, R, K] added to q                                                               */
    SKIP,   /* [H] D                                                                              */
    M_X,    /* [H, R, P] factors of v, of the gate and of the output; all 1 where absent          */
    M_Z,
    M_O,
    GAIN, /* [H, P] weight of the output norm, or none: no norm                                 */
    N_MORE
};

static const double A_FLOOR = 1e-4, PI = 3.14159265358979323846;
static const float  NORM_EPS = 1e-5f;

/* Gradients of a head's parameters, summed over tokens: a line with the parts of more[DT_B ...] one after the other. */
enum { SUM_DT, SUM_B, SUM_C, SUM_SKIP, SUM_MX, SUM_MZ, SUM_MO, SUM_GAIN, N_SUM };

/* ---- one head's view of the arguments --------------------------------------------------------------------------- */

typedef struct head {
    int           K, P, R, A, C; /* widths, rows per token, pairs that turn, tokens per chunk        */
    int           ldk, ldp;      /* row strides of scratch matrices K and P wide                     */
    bool          interleaved;   /* pairs (2i, 2i + 1), else (i, i + K / 2)                          */
    int64_t       q_row, k_row, v_row, o_row, logit_row, angle_row;
    int           sum[N_SUM + 1]; /* where a part begins                                             */
    const double *rate;           /* [N, A] pi tanh(angle)                                            */
    const float  *q, *k, *v, *z, *dt, *decay, *trap, *d_y; /* of this head, at token 0               */
    const float  *b_bias, *c_bias, *mx, *mz, *mo, *gain;   /* ones where the parameter is absent        */
    bool          norm;
    double        dt_bias;
    float         skip;
    const float  *S_in, *k_in, *v_in, *dS_out, *dk_out, *dv_out; /* states, or NULL                  */
    float        *S_out, *k_out, *v_out, *dS_in, *dk_in, *dv_in;
    float        *y, *o;
    float        *dq, *dk, *dv, *dz, *ddt, *ddecay, *dtrap, *dangle;
} head;

/* Buffers of one call that all heads use. */
typedef struct shared {
    gr_tensor rate;           /* F64 [N, A]                                                            */
    gr_tensor ones;           /* [R, P]                                                                */
    gr_tensor dk, dv, dangle; /* per head, until they are summed: [N R, H, K], [N, H, P], [N, H, A]    */
} shared;

static int n_row(const gr_core_args *a)
{
    return a->n_row > 1 ? a->n_row : 1;
}

static int n_angle(const gr_core_args *a)
{
    return (int)gr_row(a->more[LOGITS]) - 3 * a->n_head;
}

/* [R, P] of head h, all 1 where the parameter is absent. */
static const float *factor(const gr_core_args *a, const shared *b, int which, int64_t at)
{
    return a->more[which].data ? gr_at(a->more[which], at) : b->ones.data;
}

/* Elements of a parameter that belong to one head. */
static int share_of(const gr_core_args *a, int part)
{
    const int key = n_row(a) * a->k_dim, value = n_row(a) * a->v_dim;
    const int n[N_SUM] = {1, key, key, 1, value, value, value, a->v_dim};

    return n[part];
}

static head head_of(const gr_core_args *a, const shared *b, int h)
{
    const int     H = a->n_head, G = a->n_kv_head, kv = h / (H / G), K = a->k_dim, P = a->v_dim, R = n_row(a);
    const int     A = n_angle(a);
    const int64_t state = (int64_t)h * K * P, key = (int64_t)h * R * K, value = (int64_t)h * R * P;
    head          x = {.K = K,
                       .P = P,
                       .R = R,
                       .A = A,
                       .C = a->chunk > R ? a->chunk / R : 1,
                       .ldk = gr_tile_ld(K),
                       .ldp = gr_tile_ld(P),
                       .interleaved = R == 1,
                       .q_row = (int64_t)H * K,
                       .k_row = (int64_t)G * K,
                       .v_row = (int64_t)G * P,
                       .o_row = (int64_t)H * P,
                       .logit_row = 3 * H + A,
                       .angle_row = (int64_t)H * A,
                       .rate = b->rate.data,
                       .q = gr_at(a->q, (int64_t)h * K),
                       .k = gr_at(a->k, (int64_t)kv * K),
                       .v = gr_at(a->v, (int64_t)kv * P),
                       .z = gr_at(a->more[Z], (int64_t)h * P),
                       .dt = gr_at(a->more[LOGITS], h),
                       .decay = gr_at(a->more[LOGITS], H + h),
                       .trap = gr_at(a->more[LOGITS], 2 * H + h),
                       .d_y = gr_at(a->d_o, (int64_t)h * P),
                       .b_bias = gr_at(a->more[B_B], key),
                       .c_bias = gr_at(a->more[C_B], key),
                       .mx = factor(a, b, M_X, value),
                       .mz = factor(a, b, M_Z, value),
                       .mo = factor(a, b, M_O, value),
                       .gain = factor(a, b, GAIN, (int64_t)h * P),
                       .norm = a->more[GAIN].data != NULL,
                       .dt_bias = (double)*gr_at(a->more[DT_B], h),
                       .skip = *gr_at(a->more[SKIP], h),
                       .S_in = gr_at(a->state_in[0], state),
                       .k_in = gr_at(a->state_in[1], key),
                       .v_in = gr_at(a->state_in[2], value),
                       .S_out = gr_at(a->state_out[0], state),
                       .k_out = gr_at(a->state_out[1], key),
                       .v_out = gr_at(a->state_out[2], value),
                       .dS_in = gr_at(a->dstate_in[0], state),
                       .dk_in = gr_at(a->dstate_in[1], key),
                       .dv_in = gr_at(a->dstate_in[2], value),
                       .dS_out = gr_at(a->dstate_out[0], state),
                       .dk_out = gr_at(a->dstate_out[1], key),
                       .dv_out = gr_at(a->dstate_out[2], value),
                       .y = gr_at(a->o, (int64_t)h * P),
                       .o = gr_at(a->aux, (int64_t)h * P),
                       .dq = gr_at(a->dq, (int64_t)h * K),
                       .dk = gr_at(b->dk, (int64_t)h * K),
                       .dv = gr_at(b->dv, (int64_t)h * P),
                       .dz = gr_at(a->dmore[Z], (int64_t)h * P),
                       .ddt = gr_at(a->dmore[LOGITS], h),
                       .ddecay = gr_at(a->dmore[LOGITS], H + h),
                       .dtrap = gr_at(a->dmore[LOGITS], 2 * H + h),
                       .dangle = gr_at(b->dangle, (int64_t)h * A)};

    for (int i = 0; i < N_SUM; i++) x.sum[i + 1] = x.sum[i] + share_of(a, i);
    return x;
}

/* ---- scratch of one thread -------------------------------------------------------------------------------------- */

/* Of one token, in fp64: phases are sums of multiples of step sizes, and a bias of 1e-7 would be seen after 100 000
 * tokens. */
typedef struct gate {
    double dt, slope; /* Delta, d Delta / d logit */
    double tau;
} gate;

typedef struct room {
    gate   *gate;                 /* [C + 1] of the chunk's tokens and of the next one                               */
    double *rate;                 /* [C] A, the rate of decay                                                        */
    double *phi;                  /* [A] phase of the token at hand                                                  */
    float  *g, *kappa, *sigma;    /* [C] log-decay, weight of the write, what of it the successor claims             */
    float  *cos, *sin;            /* [C, A] of the phases                                                            */
    float  *q, *k, *v, *o, *S;    /* [C R, K] twice, rotated; [C R, P] twice; [K, P]                                 */
    float  *gla;                  /* scratch of gla.h                                                                */
    double *ddt, *dphi;           /* backward: gradients; dphi [A] of the phases from here on                        */
    float  *dg, *dkappa, *dsigma; /* [C]                                                                             */
    float  *dq, *dk, *dv, *d_o;   /* as q, k, v, o                                                                   */
    float  *dS, *states;          /* [K, P]; one before each chunk and one after the last                            */
    float  *sum;                  /* of one chunk                                                                    */
    double *sums;                 /* of the task                                                                     */
} room;

static double *take_doubles(gr_room *r, int64_t n)
{
    return (double *)(void *)gr_room_take(r, 2 * gr_line(n));
}

static gr_head chunk_head(const head *x, const room *w);

/* Point into `base`, or with base NULL only count. Returns floats. n_chunk > 0: room for backward over that many
 * chunks. */
static int64_t furnish(room *w, float *base, const head *x, int64_t n_chunk)
{
    const int64_t C = x->C, m = C * x->R, A = x->A, state = gr_line((int64_t)x->K * x->P);
    gr_room       r = {base, 0};
    gr_head       gla;

    w->gate = (gate *)(void *)take_doubles(&r, 3 * (C + 1));
    w->rate = take_doubles(&r, C), w->phi = take_doubles(&r, A);
    w->g = gr_room_take(&r, gr_line(C)), w->kappa = gr_room_take(&r, gr_line(C));
    w->sigma = gr_room_take(&r, gr_line(C));
    w->cos = gr_room_take(&r, gr_line(C * A)), w->sin = gr_room_take(&r, gr_line(C * A));
    w->q = gr_room_take(&r, m * x->ldk), w->k = gr_room_take(&r, m * x->ldk);
    w->v = gr_room_take(&r, m * x->ldp), w->o = gr_room_take(&r, m * x->ldp);
    w->S = gr_room_take(&r, state);
    if (n_chunk > 0) {
        w->ddt = take_doubles(&r, C), w->dphi = take_doubles(&r, A);
        w->dg = gr_room_take(&r, gr_line(C)), w->dkappa = gr_room_take(&r, gr_line(C));
        w->dsigma = gr_room_take(&r, gr_line(C));
        w->dq = gr_room_take(&r, m * x->ldk), w->dk = gr_room_take(&r, m * x->ldk);
        w->dv = gr_room_take(&r, m * x->ldp), w->d_o = gr_room_take(&r, m * x->ldp);
        w->sum = gr_room_take(&r, gr_line(x->sum[N_SUM]));
        w->dS = gr_room_take(&r, state);
        w->states = gr_room_take(&r, (n_chunk + 1) * state);
    }
    gla = chunk_head(x, w);
    w->gla = gr_room_take(&r, gr_gla_room(&gla, n_chunk > 0));
    return r.used;
}

/* ---- gates, phases, rotations ----------------------------------------------------------------------------------- */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static gate gate_of(const head *x, int64_t t)
{
    const double u = (double)x->dt[t * x->logit_row] + x->dt_bias, e = exp(-fabs(u));

    return (gate){.dt = fmax(u, 0) + log1p(e),
                  .slope = (u >= 0 ? 1 : e) / (1 + e),
                  .tau = sigmoid((double)x->trap[t * x->logit_row])};
}

/* What token t claims of the write of the token before it. */
static double claim_of(gate g)
{
    return (1 - g.tau) * g.dt;
}

static double rate_of_decay(double a)
{
    return -fmax(a >= 0 ? 1 + a : 1 / (1 - a), A_FLOOR);
}

static double rate_of_decay_slope(double a)
{
    const double f = a >= 0 ? 1 + a : 1 / (1 - a);

    return f <= A_FLOOR ? 0 : a >= 0 ? -1 : -f * f;
}

static void load_gates(const head *x, room *w, int64_t t, int n, int64_t end)
{
    for (int i = 0; i <= n && t + i < end; i++) w->gate[i] = gate_of(x, t + i);
    for (int i = 0; i < n; i++) {
        const double sigma = t + i + 1 < end ? claim_of(w->gate[i + 1]) : 0;

        w->rate[i] = rate_of_decay((double)x->decay[(t + i) * x->logit_row]);
        w->g[i] = (float)(w->rate[i] * w->gate[i].dt);
        w->sigma[i] = (float)sigma;
        w->kappa[i] = (float)(w->gate[i].tau * w->gate[i].dt + sigma);
    }
}

static void load_phases(const head *x, room *w, int64_t t, int n)
{
    const int A = x->A;

    for (int j = 0; j < A; j++) w->phi[j] = 0;
    for (int i = 0; i < n; i++) {
        const double *rate = x->rate + (t + i) * A, dt = w->gate[i].dt;
        float        *c = w->cos + (int64_t)i * A, *s = w->sin + (int64_t)i * A;

#pragma omp simd
        for (int j = 0; j < A; j++) w->phi[j] += dt * rate[j];
#pragma omp simd
        for (int j = 0; j < A; j++) gr_sincos(w->phi[j], &s[j], &c[j]);
    }
}

/* Rows of a head are a token apart, too far for the hardware to foresee: ask for one AHEAD rows early. */
enum { AHEAD = 6 };

static void fetch(const float *row, int64_t row_size, int n)
{
    for (int j = 0; j < n; j += 16) __builtin_prefetch(row + AHEAD * row_size + j);
}

static void fetch_to_write(float *row, int64_t row_size, int n)
{
    for (int j = 0; j < n; j += 16) __builtin_prefetch(row + AHEAD * row_size + j, 1);
}

/* to [K] = R(phi) (from + bias), and into the order of scratch. */
static void turn_in(const head *x, float *to, const float *from, const float *bias, const float *c, const float *s)
{
    const int A = x->A, half = x->K / 2;

    if (x->interleaved) {
#pragma omp simd
        for (int j = 0; j < A; j++) {
            const float a = from[2 * j] + bias[2 * j], b = from[2 * j + 1] + bias[2 * j + 1];

            to[j] = a * c[j] - b * s[j];
            to[A + j] = a * s[j] + b * c[j];
        }
        for (int j = 2 * A; j < x->K; j++) to[j] = from[j] + bias[j];
        return;
    }
#pragma omp simd
    for (int j = 0; j < A; j++) {
        const float a = from[j] + bias[j], b = from[half + j] + bias[half + j];

        to[j] = a * c[j] - b * s[j];
        to[A + j] = a * s[j] + b * c[j];
    }
    for (int j = A; j < half; j++) to[A + j] = from[j] + bias[j];
    for (int j = half + A; j < x->K; j++) to[j] = from[j] + bias[j];
}

/* Its transpose: to = R(-phi) from, out of the order of scratch; and sum += to. */
static void turn_out(const head *x, float *to, const float *from, const float *c, const float *s, float *sum)
{
    const int A = x->A, half = x->K / 2;

    if (x->interleaved) {
#pragma omp simd
        for (int j = 0; j < A; j++) {
            to[2 * j] = from[j] * c[j] + from[A + j] * s[j];
            to[2 * j + 1] = from[A + j] * c[j] - from[j] * s[j];
        }
        for (int j = 2 * A; j < x->K; j++) to[j] = from[j];
    } else {
#pragma omp simd
        for (int j = 0; j < A; j++) {
            to[j] = from[j] * c[j] + from[A + j] * s[j];
            to[half + j] = from[A + j] * c[j] - from[j] * s[j];
        }
        for (int j = A; j < half; j++) to[j] = from[A + j];
        for (int j = half + A; j < x->K; j++) to[j] = from[j];
    }
#pragma omp simd
    for (int j = 0; j < x->K; j++) sum[j] += to[j];
}

/* (a, b) = (a cos - b sin, a sin + b cos). */
static void turn_rows(int n, float *a, float *b, float c, float s)
{
#pragma omp simd
    for (int p = 0; p < n; p++) {
        const float ap = a[p], bp = b[p];

        a[p] = ap * c - bp * s;
        b[p] = ap * s + bp * c;
    }
}

/* A row in scratch: R(phi) row, or R(-phi) row for sign -1. */
static void turn_row(int A, float *row, const float *c, const float *s, float sign)
{
#pragma omp simd
    for (int j = 0; j < A; j++) {
        const float a = row[j], b = row[A + j], sj = sign * s[j];

        row[j] = a * c[j] - b * sj;
        row[A + j] = a * sj + b * c[j];
    }
}

/* S = R(phi) S, or R(-phi) S for sign -1. */
static void turn_state(const head *x, float *S, const float *c, const float *s, float sign)
{
    for (int j = 0; j < x->A; j++)
        turn_rows(x->P, S + (int64_t)j * x->P, S + (int64_t)(x->A + j) * x->P, c[j], sign * s[j]);
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

/* What gla.h gets: the chunk in scratch, as if it were a document. */
static gr_head chunk_head(const head *x, const room *w)
{
    return (gr_head){.K = x->K,
                     .V = x->P,
                     .C = x->C,
                     .R = x->R,
                     .ldk = x->ldk,
                     .ldv = x->ldp,
                     .ldc = gr_tile_ld(x->C * x->R),
                     .q_row = x->ldk,
                     .k_row = x->ldk,
                     .v_row = x->ldp,
                     .o_row = x->ldp,
                     .dk_row = x->ldk,
                     .dv_row = x->ldp,
                     .n_head = 1,
                     .scale = 1,
                     .q = w->q,
                     .k = w->k,
                     .v = w->v,
                     .gate = {w->g, w->kappa},
                     .o = w->o};
}

static void load_keys_values(const head *x, room *w, int64_t t, int n)
{
    for (int i = 0; i < n * x->R; i++) {
        const int    r = i % x->R;
        const float *c = w->cos + (int64_t)(i / x->R) * x->A, *s = w->sin + (int64_t)(i / x->R) * x->A;
        const float *from = x->v + (t + i / x->R) * x->v_row, *mx = x->mx + (int64_t)r * x->P;
        float       *v = w->v + (int64_t)i * x->ldp;

        fetch(x->k + (t * x->R + i) * x->k_row, x->k_row, x->K);
        if (r == 0) fetch(from, x->v_row, x->P);
        turn_in(x, w->k + (int64_t)i * x->ldk, x->k + (t * x->R + i) * x->k_row, x->b_bias + (int64_t)r * x->K, c, s);
#pragma omp simd
        for (int p = 0; p < x->P; p++) v[p] = from[p] * mx[p];
    }
}

static void load_queries(const head *x, room *w, int64_t t, int n)
{
    for (int i = 0; i < n * x->R; i++) {
        const int64_t at = (int64_t)(i / x->R) * x->A;

        fetch(x->q + (t * x->R + i) * x->q_row, x->q_row, x->K);
        turn_in(x, w->q + (int64_t)i * x->ldk, x->q + (t * x->R + i) * x->q_row, x->c_bias + (int64_t)(i % x->R) * x->K,
                w->cos + at, w->sin + at);
    }
}

static void load_chunk(const head *x, room *w, int64_t t, int n, int64_t end)
{
    load_gates(x, w, t, n, end);
    load_phases(x, w, t, n);
    load_keys_values(x, w, t, n);
}

static int chunk_len(const head *x, int64_t t, int64_t end)
{
    return end - t < x->C ? (int)(end - t) : x->C;
}

/* cos and sin of the phase after n tokens. */
static const float *last_phase(const head *x, const float *table, int n)
{
    return table + (int64_t)(n - 1) * x->A;
}

/* The state a span starts from: zero, or the caller's and what its first token claims of the write before. */
static void load_state(const head *x, float *S, const gr_span *doc)
{
    gr_state_load(x->K, x->P, doc->is_first ? x->S_in : NULL, S, x->P);
    if (doc->is_first && x->S_in && doc->first < doc->end)
        gr_tile_gemm(x->K, x->P, x->R, x->k_in, 1, x->K, x->v_in, x->P, S, x->P,
                     (float)claim_of(gate_of(x, doc->first)), 1.0f);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void add_scaled(int n, float *y, float a, const float *x)
{
#pragma omp simd
    for (int j = 0; j < n; j++) y[j] += a * x[j];
}

/* o_tr += D v_tr - sigma_t sum_r' <q_tr, k_tr'> v_tr': a token does not see what its successor claims. Both rotations
 * are by the same phase and cancel. */
static void correct(const head *x, const room *w, int i)
{
    const float *q = w->q + (int64_t)i * x->R * x->ldk, *k = w->k + (int64_t)i * x->R * x->ldk;
    const float *v = w->v + (int64_t)i * x->R * x->ldp;
    float       *o = w->o + (int64_t)i * x->R * x->ldp;

    for (int r = 0; r < x->R; r++)
        for (int s = 0; s < x->R; s++) {
            const float e = w->sigma[i] * gr_dot(x->K, q + (int64_t)r * x->ldk, k + (int64_t)s * x->ldk);

            add_scaled(x->P, o + (int64_t)r * x->ldp, (r == s ? x->skip : 0.0f) - e, v + (int64_t)s * x->ldp);
        }
}

static float reciprocal_rms(const head *x, const float *o)
{
    return x->norm ? 1.0f / sqrtf(gr_dot(x->P, o, o) / (float)x->P + NORM_EPS) : 1.0f;
}

/* y = sum_r mo_r . norm(o_r) . silu(z . mz_r), o [R, P]. */
static void gate_out(const head *x, float *y, const float *o, const float *z)
{
    memset(y, 0, (size_t)x->P * sizeof *y);
    for (int r = 0; r < x->R; r++, o += x->ldp) {
        const float *mz = x->mz + (int64_t)r * x->P, *mo = x->mo + (int64_t)r * x->P;
        const float  rstd = reciprocal_rms(x, o);

#pragma omp simd
        for (int p = 0; p < x->P; p++) y[p] += mo[p] * (o[p] * rstd * x->gain[p]) * gr_siluf(z[p] * mz[p]);
    }
}

/* From the recurrence's o of token t, row i of the chunk, to y. */
static void finish(const head *x, const room *w, int64_t t, int i)
{
    const float *o = w->o + (int64_t)i * x->R * x->ldp;

    fetch(x->z + t * x->o_row, x->o_row, x->P);
    fetch_to_write(x->y + t * x->o_row, x->o_row, x->P);
    for (int r = 0; r < x->R && x->o; r++)
        memcpy(x->o + (t * x->R + r) * x->o_row, o + (int64_t)r * x->ldp, (size_t)x->P * sizeof *o);
    gate_out(x, x->y + t * x->o_row, o, x->z + t * x->o_row);
}

static void forward_chunk(const head *x, room *w, int64_t t, int n, int64_t end)
{
    gr_head       gla = chunk_head(x, w);
    const gr_span span = {0, n, true, true};

    load_chunk(x, w, t, n, end);
    load_queries(x, w, t, n);
    gla.state_in[0] = gla.state_out[0] = w->S;
    gr_gla_forward(&gla, &span, w->gla);
    turn_state(x, w->S, last_phase(x, w->cos, n), last_phase(x, w->sin, n), -1);
    for (int i = 0; i < n; i++) {
        correct(x, w, i);
        finish(x, w, t + i, i);
    }
}

/* k_out = k of token i of the chunk, turned back. */
static void keep_key(const head *x, const room *w, int i)
{
    const float *c = w->cos + (int64_t)i * x->A, *s = w->sin + (int64_t)i * x->A;

    for (int r = 0; r < x->R; r++) {
        float *k = x->k_out + (int64_t)r * x->K;

        memcpy(k, w->k + (int64_t)(i * x->R + r) * x->ldk, (size_t)x->K * sizeof *k);
        turn_row(x->A, k, c, s, -1);
    }
}

/* States after the call's last document, whose last chunk, in scratch, has n tokens; n = 0: the document is empty, and
 * leaves what it found. */
static void leave(const head *x, const room *w, int n, bool is_first)
{
    gr_state_store(x->K, x->P, w->S, x->P, x->S_out);
    if (!x->k_out || !x->v_out) return;
    if (n > 0) {
        keep_key(x, w, n - 1);
        gr_state_store(x->R, x->P, w->v + (int64_t)(n - 1) * x->R * x->ldp, x->ldp, x->v_out);
    } else {
        gr_state_load(x->R, x->K, is_first ? x->k_in : NULL, x->k_out, x->K);
        gr_state_load(x->R, x->P, is_first ? x->v_in : NULL, x->v_out, x->P);
    }
}

static void forward_doc(const head *x, room *w, const gr_span *doc)
{
    int n = 0;

    load_state(x, w->S, doc);
    for (int64_t t = doc->first; t < doc->end; t += x->C)
        forward_chunk(x, w, t, n = chunk_len(x, t, doc->end), doc->end);
    if (doc->is_last) leave(x, w, n, doc->is_first);
}

/* ---- one token, as in decoding: the state is read once and written once -------------------------------------------
 */

/* Row j of the state: row = alpha (S_in + what the token claims of the write before) + gamma sum_r k_r v_r; and what q
 * reads of it. */
static void pass_row(const head *x, room *w, int j, float alpha, float claim, float *row)
{
    const float *in = x->S_in ? x->S_in + (int64_t)j * x->P : NULL;

    if (in)
        gr_scale_rows(1, x->P, alpha, NULL, in, 0, row, 0);
    else
        memset(row, 0, (size_t)x->P * sizeof *row);
    for (int r = 0; r < x->R && in; r++)
        add_scaled(x->P, row, alpha * claim * x->k_in[(int64_t)r * x->K + j], x->v_in + (int64_t)r * x->P);
    for (int r = 0; r < x->R; r++)
        add_scaled(x->P, row, w->kappa[0] * w->k[(int64_t)r * x->ldk + j], w->v + (int64_t)r * x->ldp);
    for (int r = 0; r < x->R; r++) add_scaled(x->P, w->o + (int64_t)r * x->ldp, w->q[(int64_t)r * x->ldk + j], row);
}

static void forward_token(const head *x, room *w)
{
    float *S = x->S_out ? x->S_out : w->S, alpha, claim;

    load_chunk(x, w, 0, 1, 1);
    load_queries(x, w, 0, 1);
    alpha = gr_expf(w->g[0]), claim = (float)claim_of(w->gate[0]);
    memset(w->o, 0, (size_t)(x->R * x->ldp) * sizeof *w->o);
    for (int j = 0; j < x->A; j++) {
        float *a = S + (int64_t)j * x->P, *b = S + (int64_t)(x->A + j) * x->P;

        pass_row(x, w, j, alpha, claim, a);
        pass_row(x, w, x->A + j, alpha, claim, b);
        turn_rows(x->P, a, b, w->cos[j], -w->sin[j]);
    }
    for (int j = 2 * x->A; j < x->K; j++) pass_row(x, w, j, alpha, claim, S + (int64_t)j * x->P);
    correct(x, w, 0);
    finish(x, w, 0, 0);
    if (x->k_out) keep_key(x, w, 0);
    gr_state_store(x->R, x->P, w->v, x->ldp, x->v_out);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Row r of `gate_out` backward: d_o =, dz +=, and sums of the factors' gradients. */
static void gate_out_back_row(const head *x, room *w, int r, float *d_o, float *dz, const float *o, const float *z,
                              const float *dy)
{
    const float *mz = x->mz + (int64_t)r * x->P, *mo = x->mo + (int64_t)r * x->P;
    const float  rstd = reciprocal_rms(x, o);
    float       *dmz = w->sum + x->sum[SUM_MZ] + (int64_t)r * x->P;
    float       *dmo = w->sum + x->sum[SUM_MO] + (int64_t)r * x->P, *dgain = w->sum + x->sum[SUM_GAIN];
    float        mean = 0;

#pragma omp simd reduction(+ : mean)
    for (int p = 0; p < x->P; p++) {
        const float on = o[p] * rstd;
        float       s, ds, dgate, don;

        gr_silu_grad(z[p] * mz[p], &s, &ds);
        dgate = dy[p] * mo[p] * on * x->gain[p] * ds;
        don = dy[p] * mo[p] * s;
        dz[p] += dgate * mz[p];
        dmz[p] += dgate * z[p];
        dmo[p] += dy[p] * on * x->gain[p] * s;
        dgain[p] += don * on;
        d_o[p] = don * x->gain[p];
        mean += d_o[p] * on;
    }
    if (!x->norm) return;
    mean /= (float)x->P;
#pragma omp simd
    for (int p = 0; p < x->P; p++) d_o[p] = rstd * (d_o[p] - o[p] * rstd * mean);
}

static void gate_out_back(const head *x, room *w, int64_t t, int n)
{
    for (int i = 0; i < n; i++) {
        const int64_t at = (t + i) * x->o_row;

        fetch(x->z + at, x->o_row, x->P);
        fetch(x->d_y + at, x->o_row, x->P);
        fetch_to_write(x->dz + at, x->o_row, x->P);
        for (int r = 0; r < x->R; r++) fetch(x->o + ((t + i) * x->R + r) * x->o_row, x->o_row, x->P);
        memset(x->dz + at, 0, (size_t)x->P * sizeof(float));
        for (int r = 0; r < x->R; r++)
            gate_out_back_row(x, w, r, w->d_o + (int64_t)(i * x->R + r) * x->ldp, x->dz + at,
                              x->o + ((t + i) * x->R + r) * x->o_row, x->z + at, x->d_y + at);
    }
}

/* dS is the gradient of S = R(-phi) S', the state after the chunk; it becomes that of S'. What turns with phi is all
 * that comes later: dphi = -<J S, dS>, J (a, b) = (-b, a). S NULL: nothing comes later, dS is 0. */
static void turn_back(const head *x, room *w, int n, const float *S)
{
    for (int j = 0; j < x->A; j++) {
        const float *a = S + (int64_t)j * x->P, *b = S + (int64_t)(x->A + j) * x->P;
        const float *da = w->dS + (int64_t)j * x->P, *db = w->dS + (int64_t)(x->A + j) * x->P;

        w->dphi[j] = S ? (double)gr_dot(x->P, b, da) - (double)gr_dot(x->P, a, db) : 0;
    }
    if (S) turn_state(x, w->dS, last_phase(x, w->cos, n), last_phase(x, w->sin, n), 1);
}

/* Through the recurrence: dq, dk, dv, dg, dkappa; dS becomes the gradient of S, the state before the chunk. */
static void recurrence_back(const head *x, room *w, int n, const float *S)
{
    gr_head       gla = chunk_head(x, w);
    const gr_span span = {0, n, true, true};

    gla.d_o = w->d_o, gla.dq = w->dq, gla.dk = w->dk, gla.dv = w->dv;
    gla.dgate[0] = w->dg, gla.dgate[1] = w->dkappa;
    gla.state_in[0] = S;
    gla.dstate_out[0] = gla.dstate_in[0] = w->dS;
    gr_gla_backward(&gla, &span, w->gla);
}

/* <J x, dx> over the pairs, added to dphi. */
static void add_turn(int A, double *dphi, const float *x, const float *dx)
{
#pragma omp simd
    for (int j = 0; j < A; j++) dphi[j] += (double)(x[j] * dx[A + j]) - (double)(x[A + j] * dx[j]);
}

/* A phase turns its token's q and k, and is part of all later phases. */
static void phases_back(const head *x, room *w, int64_t t, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        const double *rate = x->rate + (t + i) * x->A, dt = w->gate[i].dt;
        float        *dangle = x->dangle + (t + i) * x->angle_row;
        double        ddt = 0;

        for (int64_t m = (int64_t)i * x->R; m < (int64_t)(i + 1) * x->R; m++) {
            add_turn(x->A, w->dphi, w->q + m * x->ldk, w->dq + m * x->ldk);
            add_turn(x->A, w->dphi, w->k + m * x->ldk, w->dk + m * x->ldk);
        }
#pragma omp simd reduction(+ : ddt)
        for (int j = 0; j < x->A; j++) {
            const double tanh = rate[j] * (1 / PI);

            dangle[j] = (float)(w->dphi[j] * PI * dt * (1 - tanh * tanh));
            ddt += w->dphi[j] * rate[j];
        }
        w->ddt[i] = ddt;
    }
}

/* `correct` backward, row i; what it adds to dq and dk turns no phase. */
static void correct_back(const head *x, room *w, int i)
{
    const int64_t key = (int64_t)i * x->R * x->ldk, value = (int64_t)i * x->R * x->ldp;
    float         dsigma = w->dkappa[i];

    for (int r = 0; r < x->R; r++)
        for (int s = 0; s < x->R; s++) {
            const int64_t kr = key + (int64_t)r * x->ldk, ks = key + (int64_t)s * x->ldk;
            const int64_t vr = value + (int64_t)r * x->ldp, vs = value + (int64_t)s * x->ldp;
            const float   e = gr_dot(x->K, w->q + kr, w->k + ks), de = gr_dot(x->P, w->d_o + vr, w->v + vs);

            dsigma -= e * de;
            add_scaled(x->P, w->dv + vs, (r == s ? x->skip : 0.0f) - w->sigma[i] * e, w->d_o + vr);
            add_scaled(x->K, w->dq + kr, -w->sigma[i] * de, w->k + ks);
            add_scaled(x->K, w->dk + ks, -w->sigma[i] * de, w->q + kr);
            if (r == s) w->sum[x->sum[SUM_SKIP]] += de;
        }
    w->dsigma[i] = dsigma;
}

/* Gradient of (1 - tau_t) Delta_t, which the token before t was written with. */
static void claim_back(const head *x, room *w, int64_t t, gate g, double dclaim)
{
    const double ddt = (1 - g.tau) * dclaim * g.slope;

    x->dtrap[t * x->logit_row] -= (float)(g.dt * dclaim * g.tau * (1 - g.tau));
    x->ddt[t * x->logit_row] += (float)ddt;
    w->sums[x->sum[SUM_DT]] += ddt;
}

static void gates_back(const head *x, room *w, int64_t t, int n, int64_t end)
{
    for (int i = 0; i < n; i++) {
        const int64_t at = (t + i) * x->logit_row;
        const gate    g = w->gate[i];
        const double  dg = (double)w->dg[i], dkappa = (double)w->dkappa[i];
        const double  ddt = (w->ddt[i] + w->rate[i] * dg + g.tau * dkappa) * g.slope;

        x->ddecay[at] = (float)(g.dt * dg * rate_of_decay_slope((double)x->decay[at]));
        x->dtrap[at] = (float)(g.dt * dkappa * g.tau * (1 - g.tau));
        x->ddt[at] = (float)ddt;
        w->sums[x->sum[SUM_DT]] += ddt;
    }
    for (int i = 0; i < n && t + i + 1 < end; i++) claim_back(x, w, t + i + 1, w->gate[i + 1], (double)w->dsigma[i]);
}

static void queries_keys_back(const head *x, room *w, int64_t t, int n)
{
    float *db = w->sum + x->sum[SUM_B], *dc = w->sum + x->sum[SUM_C];

    for (int i = 0; i < n * x->R; i++) {
        const int64_t bias = (int64_t)(i % x->R) * x->K, row = t * x->R + i;
        const float  *c = w->cos + (int64_t)(i / x->R) * x->A, *s = w->sin + (int64_t)(i / x->R) * x->A;

        fetch_to_write(x->dq + row * x->q_row, x->q_row, x->K);
        fetch_to_write(x->dk + row * x->q_row, x->q_row, x->K);
        turn_out(x, x->dq + row * x->q_row, w->dq + (int64_t)i * x->ldk, c, s, dc + bias);
        turn_out(x, x->dk + row * x->q_row, w->dk + (int64_t)i * x->ldk, c, s, db + bias);
    }
}

/* v_r = x . mx_r. */
static void values_back(const head *x, room *w, int64_t t, int n)
{
    float *dmx = w->sum + x->sum[SUM_MX];

    for (int i = 0; i < n; i++) {
        const float *v = x->v + (t + i) * x->v_row;
        float       *dx = x->dv + (t + i) * x->o_row;

        fetch_to_write(dx, x->o_row, x->P);
        memset(dx, 0, (size_t)x->P * sizeof *dx);
        for (int64_t r = 0; r < x->R; r++) {
            const float *dv = w->dv + (i * x->R + r) * x->ldp;
#pragma omp simd
            for (int p = 0; p < x->P; p++) {
                dx[p] += dv[p] * x->mx[r * x->P + p];
                dmx[r * x->P + p] += dv[p] * v[p];
            }
        }
    }
}

/* fp32 inside a chunk, fp64 across. */
static void add_sums(const head *x, room *w)
{
    for (int64_t j = 0; j < x->sum[N_SUM]; j++) w->sums[j] += (double)w->sum[j];
    memset(w->sum, 0, (size_t)x->sum[N_SUM] * sizeof *w->sum);
}

/* Gradients of k and v of the call's last token, as states: k does not turn there. */
static void last_token_back(const head *x, room *w, int i)
{
    const float *c = w->cos + (int64_t)i * x->A, *s = w->sin + (int64_t)i * x->A;

    for (int r = 0; r < x->R; r++) {
        float *dk = w->dk + (int64_t)(i * x->R + r) * x->ldk;

        turn_row(x->A, dk, c, s, -1);
        add_scaled(x->K, dk, 1, x->dk_out + (int64_t)r * x->K);
        turn_row(x->A, dk, c, s, 1);
        add_scaled(x->P, w->dv + (int64_t)(i * x->R + r) * x->ldp, 1, x->dv_out + (int64_t)r * x->P);
    }
}

/* S before the chunk; after it, or NULL where no gradient comes from there. */
static void backward_chunk(const head *x, room *w, int64_t t, int n, const gr_span *doc, const float *S,
                           const float *after)
{
    load_chunk(x, w, t, n, doc->end);
    load_queries(x, w, t, n);
    gate_out_back(x, w, t, n);
    turn_back(x, w, n, after);
    recurrence_back(x, w, n, S);
    phases_back(x, w, t, n);
    for (int i = 0; i < n; i++) correct_back(x, w, i);
    if (doc->is_last && t + n == doc->end && x->dk_out && x->dv_out) last_token_back(x, w, n - 1);
    gates_back(x, w, t, n, doc->end);
    queries_keys_back(x, w, t, n);
    values_back(x, w, t, n);
    add_sums(x, w);
}

/* S = R(-phi) (e^{G_C} S + sum_t kappa_t e^{G_C - G_t} k_t^T v_t): the state alone. */
static void replay_chunk(const head *x, room *w, int64_t t, int n, int64_t end, float *S)
{
    double G = 0;

    load_chunk(x, w, t, n, end);
    for (int i = n - 1; i >= 0; i--) {
        const float weight = w->kappa[i] * gr_expf((float)G);

        gr_scale_rows(x->R, x->P, weight, NULL, w->v + (int64_t)i * x->R * x->ldp, x->ldp,
                      w->v + (int64_t)i * x->R * x->ldp, x->ldp);
        G += (double)w->g[i];
    }
    gr_tile_gemm(x->K, x->P, n * x->R, w->k, 1, x->ldk, w->v, x->ldp, S, x->P, 1.0f, gr_expf((float)G));
    turn_state(x, S, last_phase(x, w->cos, n), last_phase(x, w->sin, n), -1);
}

/* load_state backward: dS is the gradient of the state the span starts from. Without k_in, v_in those are 0, and so are
 * their gradients. */
static void load_state_back(const head *x, room *w, int64_t first)
{
    const gate  g = gate_of(x, first);
    const float claim = (float)claim_of(g);
    double      dclaim = 0;

    gr_state_store(x->K, x->P, w->dS, x->P, x->dS_in);
    gr_state_load(x->R, x->K, NULL, w->dk, x->ldk);
    gr_state_load(x->R, x->P, NULL, w->dv, x->ldp);
    for (int r = 0; r < x->R && x->S_in; r++)
        for (int j = 0; j < x->K; j++) {
            const float *dS = w->dS + (int64_t)j * x->P, *v = x->v_in + (int64_t)r * x->P;
            const float  k = x->k_in[(int64_t)r * x->K + j], dk = gr_dot(x->P, dS, v);

            dclaim += (double)(k * dk);
            w->dk[(int64_t)r * x->ldk + j] = claim * dk;
            add_scaled(x->P, w->dv + (int64_t)r * x->ldp, claim * k, dS);
        }
    gr_state_store(x->R, x->K, w->dk, x->ldk, x->dk_in);
    gr_state_store(x->R, x->P, w->dv, x->ldp, x->dv_in);
    if (x->S_in) claim_back(x, w, first, g, dclaim);
    add_sums(x, w);
}

/* An empty document hands through what it gets. */
static void empty_back(const head *x, const gr_span *doc)
{
    if (!doc->is_first || !x->dS_in) return;
    gr_state_load(x->K, x->P, doc->is_last ? x->dS_out : NULL, x->dS_in, x->P);
    if (x->dk_in) gr_state_load(x->R, x->K, doc->is_last ? x->dk_out : NULL, x->dk_in, x->K);
    if (x->dv_in) gr_state_load(x->R, x->P, doc->is_last ? x->dv_out : NULL, x->dv_in, x->P);
}

/* Replay the states of the document, then walk back through its chunks. */
static void backward_doc(const head *x, room *w, const gr_span *doc)
{
    const int64_t n_chunk = (doc->end - doc->first + x->C - 1) / x->C, state = gr_line((int64_t)x->K * x->P);
    const bool    from_right = doc->is_last && x->dS_out;

    load_state(x, w->states, doc);
    for (int64_t c = 0; c < n_chunk - !from_right; c++) { /* without, nobody asks for the last state */
        const int64_t t = doc->first + c * x->C;
        float        *S = w->states + c * state;

        memcpy(S + state, S, (size_t)state * sizeof *S);
        replay_chunk(x, w, t, chunk_len(x, t, doc->end), doc->end, S + state);
    }
    gr_state_load(x->K, x->P, from_right ? x->dS_out : NULL, w->dS, x->P);
    for (int64_t c = n_chunk - 1; c >= 0; c--) {
        const int64_t t = doc->first + c * x->C;
        const float  *S = w->states + c * state;

        backward_chunk(x, w, t, chunk_len(x, t, doc->end), doc, S, c < n_chunk - 1 || from_right ? S + state : NULL);
    }
    if (n_chunk == 0)
        empty_back(x, doc);
    else if (doc->is_first && (x->S_in || x->dS_in))
        load_state_back(x, w, doc->first);
}

/* ---- the core -----------------------------------------------------------------------------------------------------
 */
/* ---- the core: (document, head) pairs in any order on any number of threads, each computed by one of them ---------
 */

static int threads_for(int64_t n_task)
{
    return (int)(n_task < omp_get_max_threads() ? n_task : omp_get_max_threads());
}

static gr_span span_of(const gr_seq *seq, int d)
{
    return (gr_span){.first = seq->doc[d], .end = seq->doc[d + 1], .is_first = d == 0, .is_last = d == seq->n_doc - 1};
}

/* What all heads read: pi tanh(angle) in fp64, and ones. */
static shared share(const gr_core_args *a)
{
    const int     A = n_angle(a), R = n_row(a);
    const int64_t N = a->seq->n, row = gr_row(a->more[LOGITS]);
    shared        b = {.rate = gr_take2(a->scratch, GR_F64, N, A > 0 ? A : 1),
                       .ones = gr_take2(a->scratch, GR_F32, R, a->v_dim)};
    double       *rate = b.rate.data;

    if (gr_arena_status(a->scratch) != GR_OK) return b;
    for (int64_t i = 0; i < gr_count(b.ones); i++) *gr_at(b.ones, i) = 1;
#pragma omp parallel for schedule(static) if (N * A > 1024)
    for (int64_t t = 0; t < N; t++)
        for (int j = 0; j < A; j++) rate[t * A + j] = PI * tanh((double)*gr_at(a->more[LOGITS], (t + 1) * row - A + j));
    return b;
}

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const shared  b = share(a);
    const int64_t n_task = (int64_t)a->seq->n_doc * a->n_head;
    const int     n_thread = threads_for(n_task);
    const bool    token = a->seq->n == 1 && a->seq->n_doc == 1;
    const head    any = head_of(a, &b, 0);
    room          unused = {0};
    const int64_t size = furnish(&unused, NULL, &any, 0);
    gr_tensor     rooms = gr_take2(a->scratch, GR_F32, n_thread, size);

    (void)stream;
    if (gr_arena_status(a->scratch) != GR_OK) goto out;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_thread) if (!token || n_task * any.K * any.P > GR_SERIAL)
    for (int64_t i = 0; i < n_task; i++) {
        const gr_span doc = span_of(a->seq, (int)(i / a->n_head));
        const head    x = head_of(a, &b, (int)(i % a->n_head));
        room          w = {0};

        furnish(&w, gr_at(rooms, omp_get_thread_num() * size), &x, 0);
        if (token)
            forward_token(&x, &w);
        else
            forward_doc(&x, &w, &doc);
    }
out:
    gr_arena_release(a->scratch, mark);
}

/* y [rows, G, D], rows y_row apart, = sum over the heads of each group of x [rows, G rep, D], in the order of heads. */
static void sum_heads(float *y, int64_t y_row, const float *x, int64_t rows, int G, int rep, int D)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t g = 0; g < G; g++) {
            float       *yg = y + i * y_row + g * D;
            const float *xg = x + (i * G + g) * rep * D;

            memcpy(yg, xg, (size_t)D * sizeof *yg);
            for (int64_t r = 1; r < rep; r++) add_scaled(D, yg, 1, xg + r * D);
        }
}

/* Sums over tokens are kept apart for so many groups of documents: whatever the threads, the same sums. */
enum { GROUPS = 8 };

static int group_of(const gr_seq *seq, int n_group, int d)
{
    const int64_t g = seq->n > 0 ? seq->doc[d] * (int64_t)n_group / seq->n : 0;

    return g < n_group ? (int)g : n_group - 1;
}

/* Gradients of parameters: += over groups, in their order. sums [n_group, H, line]. */
static void add_parameters(const gr_core_args *a, const head *x, const double *sums, int n_group)
{
    const int64_t line = x->sum[N_SUM];

    for (int i = 0; i < N_SUM; i++) {
        const int n = share_of(a, i);

        for (int64_t h = 0; h < a->n_head && a->dmore[DT_B + i].data; h++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;

                for (int64_t g = 0; g < n_group; g++) sum += sums[(g * a->n_head + h) * line + x->sum[i] + j];
                *gr_at(a->dmore[DT_B + i], h * n + j) += (float)sum;
            }
    }
}

static int64_t longest_doc(const gr_seq *seq)
{
    int64_t top = 1;

    for (int d = 0; d < seq->n_doc; d++)
        if (seq->doc[d + 1] - seq->doc[d] > top) top = seq->doc[d + 1] - seq->doc[d];
    return top;
}

static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const int     H = a->n_head, G = a->n_kv_head, A = n_angle(a), R = n_row(a);
    const int     n_group = a->seq->n_doc < GROUPS ? a->seq->n_doc : GROUPS, n_task = n_group * H;
    const int     n_thread = threads_for(n_task);
    const int64_t N = a->seq->n;
    shared        b = share(a);
    const head    any = head_of(a, &b, 0);
    const int64_t n_chunk = (longest_doc(a->seq) + any.C - 1) / any.C, line = any.sum[N_SUM];
    room          unused = {0};
    const int64_t size = furnish(&unused, NULL, &any, n_chunk);
    gr_tensor     rooms, sums;

    (void)stream;
    rooms = gr_take2(a->scratch, GR_F32, n_thread, size);
    sums = gr_take2(a->scratch, GR_F64, n_task, line);
    b.dk = H == G ? a->dk : gr_take3(a->scratch, GR_F32, N * R, H, a->k_dim);
    b.dv = H == G ? a->dv : gr_take3(a->scratch, GR_F32, N, H, a->v_dim);
    b.dangle = gr_take3(a->scratch, GR_F32, N, H, A > 0 ? A : 1);
    if (gr_arena_status(a->scratch) != GR_OK) goto out;
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_thread)
    for (int i = 0; i < n_task; i++) {
        const head x = head_of(a, &b, i % H);
        room       w = {0};

        furnish(&w, gr_at(rooms, omp_get_thread_num() * size), &x, n_chunk);
        w.sums = (double *)sums.data + i * line;
        memset(w.sums, 0, (size_t)line * sizeof *w.sums);
        memset(w.sum, 0, (size_t)line * sizeof *w.sum);
        for (int d = 0; d < a->seq->n_doc; d++) {
            const gr_span doc = span_of(a->seq, d);
            if (group_of(a->seq, n_group, d) == i / H) backward_doc(&x, &w, &doc);
        }
    }
    if (H != G) {
        sum_heads(a->dk.data, any.k_row, b.dk.data, N * R, G, H / G, a->k_dim);
        sum_heads(a->dv.data, any.v_row, b.dv.data, N, G, H / G, a->v_dim);
    }
    sum_heads(gr_at(a->dmore[LOGITS], 3 * H), any.logit_row, b.dangle.data, N, 1, H, A);
    add_parameters(a, &any, sums.data, n_group);
out:
    gr_arena_release(a->scratch, mark);
}

const gr_mixer_core gr_mamba3_cpu = {
    .tol = 5e-5, /* fp32 against fp64: 1e-5 at most, but 2e-5 where a head's dt_bias gets one sum of cancelling terms,
                    and 3e-5 after 128K tokens that all turn alike, from the rounding of each chunk's turn */
    .forward = core_forward,
    .backward = core_backward,
};

/* ==== the layer, in terms of gr_ops and the core ====================================================================
 */

/* The last four only where the options ask for them: indices by index_of. */
enum { IN_PROJ, DT_BIAS, B_BIAS, C_BIAS, B_NORM, C_NORM, D_SKIP, OUT_PROJ, MIMO_X, MIMO_Z, MIMO_O, OUT_NORM };

/* Parts of in_proj's rows, in their order; kept for backward, with what the recurrence returned and what out_proj
 * reads. B and C are normalised again. */
enum { T_Z, T_X, T_B, T_C, T_LOGITS, N_PROJ, T_O = N_PROJ, T_H, N_TAPE };

enum { STATE, LAST_K, LAST_V, N_STATE };

static int rank_of(const gr_mixer_spec *s)
{
    return s->mimo_rank > 1 ? s->mimo_rank : 1;
}

/* Angles of a token: pairs of channels that turn. */
static int angles_of(const gr_mixer_spec *s)
{
    return (int)((double)s->head_dim * (double)s->rope_fraction) / 2;
}

static int index_of(const gr_mixer_spec *s, int param)
{
    return param == OUT_NORM && rank_of(s) == 1 ? OUT_PROJ + 1 : param;
}

/* Rows of in_proj before part i. */
static int64_t part_at(const gr_mixer_spec *s, int i)
{
    const int64_t H = s->n_head, G = s->n_kv_head, D = s->head_dim, R = rank_of(s);
    const int64_t rows[N_PROJ] = {H * D, G * D, R * G * D, R * H * D, 3 * H + angles_of(s)};
    int64_t       at = 0;

    for (int j = 0; j < i; j++) at += rows[j];
    return at;
}

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t hid = s->hidden, H = s->n_head, D = s->head_dim, R = rank_of(s);
    int           n = OUT_PROJ + 1;

    p[IN_PROJ] = (gr_param_spec){"in_proj.weight", 2, {part_at(s, N_PROJ), hid, 1}, GR_INIT_NORMAL, true};
    p[DT_BIAS] = (gr_param_spec){"dt_bias", 1, {H, 1, 1}, GR_INIT_DT_BIAS, false};
    p[B_BIAS] = (gr_param_spec){"B_bias", 3, {H, R, D}, GR_INIT_ONE, false};
    p[C_BIAS] = (gr_param_spec){"C_bias", 3, {H, R, D}, GR_INIT_ONE, false};
    p[B_NORM] = (gr_param_spec){"B_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[C_NORM] = (gr_param_spec){"C_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[D_SKIP] = (gr_param_spec){"D", 1, {H, 1, 1}, GR_INIT_ONE, false};
    p[OUT_PROJ] = (gr_param_spec){"out_proj.weight", 2, {hid, H * D, 1}, GR_INIT_NORMAL, true};
    if (R > 1) {
        p[n++] = (gr_param_spec){"mimo_x", 3, {H, R, D}, GR_INIT_SHARE, false};
        p[n++] = (gr_param_spec){"mimo_z", 3, {H, R, D}, GR_INIT_ONE, false};
        p[n++] = (gr_param_spec){"mimo_o", 3, {H, R, D}, GR_INIT_SHARE, false};
    }
    if (s->outproj_norm) p[n++] = (gr_param_spec){"norm.weight", 1, {H * D, 1, 1}, GR_INIT_ONE, false};
    return n;
}

/* Of rank r's rows [rows, hid]: the attention's, for r > 0 with some of the noise they were drawn with on top. Ranks
 * that are equal have equal gradients, and would stay equal for ever. */
static void inherit(float *w, const float *attn, int64_t n, int rank)
{
    for (int r = 0; r < rank; r++)
        for (int64_t i = 0; i < n; i++) w[r * n + i] = attn[i] + (r > 0 ? 0.1f * w[r * n + i] : 0.0f);
}

/* x from V, B from K, C from Q, each with its heads, out_proj from O; the gate as in Gated DeltaNet (from W_O and W_V,
 * by rows). Norm weights from QK-norm. The biases of B and C start from 0, not from the published 1: on top of keys of
 * unit variance a 1 in every channel adds D to every score, against sqrt(D) of what attention had to say. Step sizes,
 * decay, tau and angles have no counterpart and stay random. */
static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    const int64_t hid = s->hidden, D = s->head_dim, HD = s->n_head * D, GD = s->n_kv_head * D;
    const size_t  bias = (size_t)(HD * rank_of(s)) * sizeof(float), norm = (size_t)D * sizeof(float);

    gr_gate_from_attention(s, w[IN_PROJ], attn[GR_ATTN_O], attn[GR_ATTN_V]);
    memcpy(w[IN_PROJ] + part_at(s, T_X) * hid, attn[GR_ATTN_V], (size_t)(GD * hid) * sizeof(float));
    inherit(w[IN_PROJ] + part_at(s, T_B) * hid, attn[GR_ATTN_K], GD * hid, rank_of(s));
    inherit(w[IN_PROJ] + part_at(s, T_C) * hid, attn[GR_ATTN_Q], HD * hid, rank_of(s));
    memcpy(w[OUT_PROJ], attn[GR_ATTN_O], (size_t)(hid * HD) * sizeof(float));
    memset(w[B_BIAS], 0, bias);
    memset(w[C_BIAS], 0, bias);
    if (!s->qk_norm) return;
    memcpy(w[B_NORM], attn[GR_ATTN_K_NORM], norm);
    memcpy(w[C_NORM], attn[GR_ATTN_Q_NORM], norm);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* in_proj is one matrix in files, and here a projection for each of its parts. */
static gr_tensor part_of(const gr_mixer_spec *s, gr_tensor in_proj, int i)
{
    return gr_part(in_proj, part_at(s, i), part_at(s, i + 1) - part_at(s, i));
}

static gr_tensor by_token(gr_tensor t, int64_t N)
{
    return gr_as2(t, N, gr_count(t) / N);
}

static void take_tape(const gr_mixer_ctx *c, int64_t N, gr_tensor *t, bool keep)
{
    const gr_mixer_spec *s = c->spec;
    gr_arena            *a = keep ? c->keep : c->scratch;
    const int64_t        H = s->n_head, G = s->n_kv_head, D = s->head_dim, NR = N * rank_of(s);

    t[T_Z] = gr_take3(a, GR_F32, N, H, D);
    t[T_X] = gr_take3(a, GR_F32, N, G, D);
    t[T_B] = gr_take3(a, GR_F32, NR, G, D);
    t[T_C] = gr_take3(a, GR_F32, NR, H, D);
    t[T_LOGITS] = gr_take2(a, GR_F32, N, 3 * H + angles_of(s));
    t[T_O] = keep ? gr_take3(a, GR_F32, NR, H, D) : gr_none();
    t[T_H] = gr_take3(a, GR_F32, N, H, D);
}

/* B and C normalised. */
typedef struct normed {
    gr_tensor b, c, b_rstd, c_rstd;
} normed;

static normed take_normed(const gr_mixer_ctx *c, int64_t N)
{
    const int64_t H = c->spec->n_head, G = c->spec->n_kv_head, D = c->spec->head_dim, NR = N * rank_of(c->spec);
    const normed  in = {gr_take3(c->scratch, GR_F32, NR, G, D), gr_take3(c->scratch, GR_F32, NR, H, D),
                        gr_take1(c->scratch, GR_F32, NR * G), gr_take1(c->scratch, GR_F32, NR * H)};
    return in;
}

static void normalise(const gr_mixer_ctx *c, const normed *in, const gr_tensor *t)
{
    c->op->rmsnorm(gr_head_rows(in->b), in->b_rstd, gr_head_rows(t[T_B]), c->w[B_NORM], NORM_EPS, c->stream);
    c->op->rmsnorm(gr_head_rows(in->c), in->c_rstd, gr_head_rows(t[T_C]), c->w[C_NORM], NORM_EPS, c->stream);
}

/* The core's parameters among w, weights or gradients, into more[DT_B ...]. */
static void give_parameters(const gr_mixer_spec *s, gr_tensor more[N_MORE], const gr_tensor *w)
{
    more[DT_B] = w[DT_BIAS], more[B_B] = w[B_BIAS], more[C_B] = w[C_BIAS], more[SKIP] = w[D_SKIP];
    more[GAIN] = s->outproj_norm ? w[index_of(s, OUT_NORM)] : gr_none();
    for (int i = 0; i < 3; i++) more[M_X + i] = rank_of(s) > 1 ? w[MIMO_X + i] : gr_none();
}

static gr_core_args core_args(const gr_mixer_ctx *c, const normed *in, const gr_tensor *t, const gr_seq *seq)
{
    const gr_mixer_spec *s = c->spec;
    gr_core_args         a = {.seq = seq,
                              .n_head = s->n_head,
                              .n_kv_head = s->n_kv_head,
                              .k_dim = s->head_dim,
                              .v_dim = s->head_dim,
                              .chunk = s->chunk,
                              .n_row = rank_of(s),
                              .scale = 1,
                              .q = in->c,
                              .k = in->b,
                              .v = t[T_X],
                              .o = t[T_H],
                              .aux = t[T_O],
                              .scratch = c->scratch};

    a.more[LOGITS] = t[T_LOGITS], a.more[Z] = t[T_Z];
    give_parameters(s, a.more, c->w);
    return a;
}

static void run_forward(const gr_mixer_ctx *c, const gr_core_args *a, const normed *in, const gr_tensor *t, gr_tensor y,
                        gr_tensor x)
{
    for (int i = 0; i < N_PROJ; i++)
        c->op->gemm(by_token(t[i], x.dim[0]), x, false, part_of(c->spec, c->w[IN_PROJ], i), true, 1.0f, 0.0f,
                    c->stream);
    normalise(c, in, t);
    c->core->forward(a, c->stream);
    gr_project(c, OUT_PROJ, y, gr_token_rows(t[T_H]));
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    gr_tape       brief, *t = tape ? tape : &brief;
    normed        in;

    take_tape(c, x.dim[0], t->t, tape != NULL);
    in = take_normed(c, x.dim[0]);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, &in, t->t, c->seq);
        run_forward(c, &a, &in, t->t, y, x);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* From gradients of the parts of x in_proj^T to those of in_proj and x. */
static void in_proj_back(const gr_mixer_ctx *c, gr_tensor dx, const gr_tensor dpart[N_PROJ], gr_tensor x)
{
    for (int i = 0; i < N_PROJ; i++) {
        const gr_tensor dy = by_token(dpart[i], x.dim[0]), w = part_of(c->spec, c->w[IN_PROJ], i),
                        dw = part_of(c->spec, c->dw[IN_PROJ], i);

        if (dw.data) c->op->gemm(dw, dy, true, x, false, 1.0f, 1.0f, c->stream);
        if (dx.data) c->op->gemm(dx, dy, false, w, false, 1.0f, i > 0 ? 1.0f : 0.0f, c->stream);
    }
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark    mark = gr_arena_mark(c->scratch);
    const gr_tensor *t = tape->t;
    const int64_t    N = x.dim[0];
    const normed     in = take_normed(c, N);
    gr_tensor        d[N_TAPE];

    take_tape(c, N, d, false);
    if (!gr_out_of_memory(c)) {
        gr_core_args a = core_args(c, &in, t, c->seq);

        gr_project_back(c, OUT_PROJ, gr_token_rows(d[T_H]), dy, gr_token_rows(t[T_H]), 0.0f);
        normalise(c, &in, t);
        a.d_o = d[T_H], a.dq = d[T_C], a.dk = d[T_B], a.dv = d[T_X];
        a.dmore[LOGITS] = d[T_LOGITS], a.dmore[Z] = d[T_Z];
        give_parameters(c->spec, a.dmore, c->dw);
        c->core->backward(&a, c->stream);
        c->op->rmsnorm_back(gr_head_rows(d[T_B]), c->dw[B_NORM], gr_head_rows(d[T_B]), gr_head_rows(t[T_B]), in.b_rstd,
                            c->w[B_NORM], c->stream);
        c->op->rmsnorm_back(gr_head_rows(d[T_C]), c->dw[C_NORM], gr_head_rows(d[T_C]), gr_head_rows(t[T_C]), in.c_rstd,
                            c->w[C_NORM], c->stream);
        in_proj_back(c, dx, d, x);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    const int64_t H = s->n_head, D = s->head_dim, R = rank_of(s);

    (void)capacity;
    state->t[STATE] = gr_view3(NULL, GR_F32, H, D, D);
    state->t[LAST_K] = gr_view3(NULL, GR_F32, H, R, D);
    state->t[LAST_V] = gr_view3(NULL, GR_F32, H, R, D);
    return N_STATE;
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    static const int32_t doc[2] = {0, 1};
    const gr_mark        mark = gr_arena_mark(c->scratch);
    const gr_seq         one = {.n = 1, .n_doc = 1, .doc = doc};
    gr_tensor            t[N_TAPE];
    normed               in;

    (void)pos;
    take_tape(c, 1, t, false);
    in = take_normed(c, 1);
    if (!gr_out_of_memory(c)) {
        gr_core_args a = core_args(c, &in, t, &one);

        for (int i = 0; i < N_STATE; i++) a.state_in[i] = a.state_out[i] = state->t[i];
        run_forward(c, &a, &in, t, y, x);
    }
    gr_arena_release(c->scratch, mark);
}

/* docs/math.md 10. A chunk has C rows, that is C / R tokens; the core's backward includes replaying the states. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double H = s->n_head, D = s->head_dim, R = rank_of(s), hid = s->hidden, rows = R * (double)context;
    const double C = rows < s->chunk ? rows : s->chunk;
    const double proj = 2 * hid * ((double)part_at(s, N_PROJ) + H * D);
    const double fwd = H * R * (4 * C * D + 4 * D * D), bwd = H * R * (10 * C * D + 10 * D * D);

    return (gr_mixer_cost){
        .forward = proj + fwd,
        .backward = 2 * proj + bwd,
        .core_forward = fwd,
        .core_backward = bwd,
        .state_bytes = 4 * H * (D * D + 2 * R * D),
    };
}

/* hybrid-model-factory has no Mamba-3: the words of mamba_ssm. */
static const gr_foreign_option foreign[] = {{.ours = "mamba3_mimo_rank", .theirs = "mimo_rank"},
                                            {.ours = "mamba3_rope_fraction", .theirs = "rope_fraction"},
                                            {.ours = "mamba3_outproj_norm", .theirs = "is_outproj_norm"},
                                            {0}};

const gr_mixer_def gr_mamba3_def = {
    .name = "mamba3",
    .symbol = "M3",
    .prefix = "mamba3",
    .source = "Lahoti et al. 2026, arXiv:2603.15569; mamba_ssm's Mamba3; docs/math.md 4",
    .gain = OUT_PROJ,
    .foreign = foreign,
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
