/* The core of Mamba-3 on cpu against the recurrence token by token in fp64: two writes per token, phases that grow
 * through the document, all rows of all tokens apart. SISO and MIMO, with and without output norm. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/cpu/vec.h"
#include "tests/unit/recurrence.h"

extern const gr_mixer_core gr_mamba3_cpu;

#define TOL (gr_mamba3_cpu.tol)

/* Parts, in the order of the core's `more` from LOGITS on; those of MIMO and of the norm may be missing. */
enum { LOGITS = REC_GATE, Z, DT_B, B_B, C_B, SKIP, M_X, M_Z, M_O, GAIN, MOST = 10 };
static const char *const more_name[MOST] = {"logits", "z",      "dt_bias", "B_bias", "C_bias",
                                            "D",      "mimo_x", "mimo_z",  "mimo_o", "norm"};

/* Where the part `which`, LOGITS ... GAIN, is, or -1. */
static int place(const rec_problem *p, int which)
{
    for (int i = REC_GATE; i < rec_first_state(p); i++)
        if (!strcmp(p->type->part[i].name, more_name[which - LOGITS])) return i;
    return -1;
}

static void args(const rec_problem *p, gr_core_args *a, float *x, float *dx)
{
    for (int i = 0; i < MOST; i++) {
        const int part = place(p, LOGITS + i);

        if (part >= 0) (dx ? a->dmore : a->more)[i] = rec_view(p, dx ? dx : x, part);
    }
}

static void complete(const rec_problem *p, gr_core_args *a)
{
    const int64_t rows = p->N * rec_dim(p, 'R');

    a->aux = gr_view3(take(rows * p->H * p->V, 4), GR_F32, rows, p->H, p->V);
}

/* g_min scales the rates of decay, b_max the step sizes. */
static void draw(const rec_problem *p, float *x)
{
    for (int i = 0; i < rec_n_part(p); i++) {
        float        *xi = x + rec_at(p, i);
        const char   *name = p->type->part[i].name;
        const int64_t n = rec_size(p, i);

        for (int64_t j = 0; j < n; j++) {
            const double u = rec_normal();

            xi[j] = (float)(!strcmp(name, "dt_bias")                          ? log(expm1(p->b_max))
                            : i == place(p, LOGITS)                           ? u
                            : !strcmp(name, "norm") || !strncmp(name, "m", 1) ? 1 + 0.3 * u
                            : rec_is_state(p, i) && !p->carry                 ? 0
                                                                              : u);
            if (i == place(p, LOGITS) && j % p->L >= p->H && j % p->L < 2 * p->H) xi[j] = (float)(p->g_min * fabs(u));
        }
    }
}

/* ---- the recurrence ------------------------------------------------------------------------------------------------
 */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Channel of a key that row j of the state belongs to: first halves of the pairs, second halves, the rest. */
static int channel(const rec_problem *p, int A, int j)
{
    const int half = p->K / 2;

    if (p->R <= 1) return j < A ? 2 * j : j < 2 * A ? 2 * (j - A) + 1 : j;
    return j < A ? j : j < 2 * A ? half + j - A : j < half + A ? j - A : j;
}

/* One head's numbers of one token. */
typedef struct token {
    double dt, tau, rate, alpha, phi[32], q[4 * 64], k[4 * 64], v[4 * 64], o[4 * 64];
} token;

static const double *given(const rec_problem *p, const double *x, int which, int64_t at, const double *other)
{
    return place(p, which) >= 0 ? x + rec_at(p, place(p, which)) + at : other;
}

/* x [K] turned by phases phi. */
static void turn(double *x, const double *phi, int A, double sign)
{
    for (int j = 0; j < A; j++) {
        const double a = x[j], b = x[A + j], c = cos(phi[j]), s = sign * sin(phi[j]);

        x[j] = a * c - b * s;
        x[A + j] = a * s + b * c;
    }
}

static void turn_rows(double *S, const double *phi, int A, int V, double sign)
{
    for (int j = 0; j < A; j++)
        for (int c = 0; c < V; c++) {
            double pair[2] = {S[j * V + c], S[(A + j) * V + c]};

            turn(pair, &phi[j], 1, sign);
            S[j * V + c] = pair[0], S[(A + j) * V + c] = pair[1];
        }
}

typedef struct head {
    const rec_problem *p;
    int                h, g, R, K, V, A;
    const double      *x, *w;
    double            *y, *dx;
    double             one[4 * 64];
    const double      *mx, *mz, *mo, *gain; /* [R, V], [V] or NULL */
} head;

static int64_t logit_at(const head *e, int t, int i)
{
    return rec_at(e->p, LOGITS) + (int64_t)t * e->p->L + i;
}

/* Where row r of token t of part q or k begins. */
static int64_t key_at(const head *e, int part, int t, int r)
{
    const int heads = part == REC_Q ? e->p->H : e->p->G;

    return rec_at(e->p, part) + (((int64_t)t * e->R + r) * heads + (part == REC_Q ? e->h : e->g)) * e->K;
}

static int64_t bias_at(const head *e, int part, int r)
{
    return rec_at(e->p, part == REC_Q ? C_B : B_B) + ((int64_t)e->h * e->R + r) * e->K;
}

static int64_t value_at(const head *e, int t)
{
    return rec_at(e->p, REC_V) + ((int64_t)t * e->p->G + e->g) * e->V;
}

static int64_t out_at(const head *e, int t)
{
    return ((int64_t)t * e->p->H + e->h) * e->V;
}

/* Gates, phase, q, k, v of token t; `before`: its predecessor in the document, or NULL. */
static void load(const head *e, token *n, const token *before, int t)
{
    const double a = e->x[logit_at(e, t, e->p->H + e->h)], f = a >= 0 ? 1 + a : 1 / (1 - a);

    n->dt = log1p(exp(e->x[logit_at(e, t, e->h)] + e->x[rec_at(e->p, DT_B) + e->h]));
    n->tau = sigmoid(e->x[logit_at(e, t, 2 * e->p->H + e->h)]);
    n->rate = -fmax(f, 1e-4);
    n->alpha = exp(n->rate * n->dt);
    for (int j = 0; j < e->A; j++)
        n->phi[j] = (before ? before->phi[j] : 0) + M_PI * tanh(e->x[logit_at(e, t, 3 * e->p->H + j)]) * n->dt;
    for (int r = 0; r < e->R; r++) {
        double *q = n->q + r * e->K, *k = n->k + r * e->K;

        for (int j = 0; j < e->K; j++) {
            const int c = channel(e->p, e->A, j);

            q[j] = e->x[key_at(e, REC_Q, t, r) + c] + e->x[bias_at(e, REC_Q, r) + c];
            k[j] = e->x[key_at(e, REC_K, t, r) + c] + e->x[bias_at(e, REC_K, r) + c];
        }
        turn(q, n->phi, e->A, 1);
        turn(k, n->phi, e->A, 1);
        for (int c = 0; c < e->V; c++) n->v[r * e->V + c] = e->x[value_at(e, t) + c] * e->mx[r * e->V + c];
    }
}

/* S1 = alpha S0 + beta k'^T v' + gamma k^T v, k' and v' [R, ..] of the token before; o = q S1 + D v. */
static void advance(const head *e, token *n, const double *k0, const double *v0, const double *S0, double *S1)
{
    const int    K = e->K, V = e->V;
    const double beta = (1 - n->tau) * n->dt * n->alpha, gamma = n->tau * n->dt, D = e->x[rec_at(e->p, SKIP) + e->h];

    for (int i = 0; i < K * V; i++) S1[i] = n->alpha * S0[i];
    for (int r = 0; r < e->R; r++)
        for (int i = 0; i < K * V; i++)
            S1[i] += beta * k0[r * K + i / V] * v0[r * V + i % V] + gamma * n->k[r * K + i / V] * n->v[r * V + i % V];
    for (int r = 0; r < e->R; r++) {
        for (int c = 0; c < V; c++) n->o[r * V + c] = D * n->v[r * V + c];
        for (int i = 0; i < K * V; i++) n->o[r * V + i % V] += n->q[r * K + i / V] * S1[i];
    }
}

static double rms(const head *e, const double *o)
{
    double sum = 0;

    for (int c = 0; c < e->V; c++) sum += o[c] * o[c] / e->V;
    return e->gain ? 1 / sqrt(sum + 1e-5) : 1;
}

/* y = sum_r mo . norm(o_r) . silu(z . mz); with d_o: backward, d_o [R, V] = and the rest +=. */
static void gated(const head *e, const token *n, int t, double *d_o)
{
    const int     V = e->V;
    const double *z = e->x + rec_at(e->p, Z) + out_at(e, t), *dy = d_o ? e->w + out_at(e, t) : NULL;
    double       *y = e->y + out_at(e, t), *dz = e->dx ? e->dx + rec_at(e->p, Z) + out_at(e, t) : NULL;
    const int64_t at = (int64_t)e->h * e->R * V;

    for (int c = 0; c < V && !d_o; c++) y[c] = 0;
    for (int r = 0; r < e->R; r++) {
        const double *o = n->o + r * V, rstd = rms(e, o);
        double        mean = 0;

        for (int c = 0; c < V; c++) {
            const double mz = e->mz[r * V + c], mo = e->mo[r * V + c], g = e->gain ? e->gain[c] : 1;
            const double s = sigmoid(z[c] * mz), silu = z[c] * mz * s, slope = s * (1 + z[c] * mz * (1 - s));

            if (!d_o) {
                y[c] += mo * o[c] * rstd * g * silu;
                continue;
            }
            dz[c] += dy[c] * mo * o[c] * rstd * g * slope * mz;
            if (place(e->p, M_Z) >= 0) {
                e->dx[rec_at(e->p, place(e->p, M_Z)) + at + r * V + c] += dy[c] * mo * o[c] * rstd * g * slope * z[c];
                e->dx[rec_at(e->p, place(e->p, M_O)) + at + r * V + c] += dy[c] * o[c] * rstd * g * silu;
            }
            if (e->gain)
                e->dx[rec_at(e->p, place(e->p, GAIN)) + (int64_t)e->h * V + c] += dy[c] * mo * silu * o[c] * rstd;
            d_o[r * V + c] = dy[c] * mo * silu * g;
            mean += d_o[r * V + c] * o[c] * rstd / V;
        }
        for (int c = 0; c < V && d_o && e->gain; c++) d_o[r * V + c] = rstd * (d_o[r * V + c] - o[c] * rstd * mean);
    }
}

/* What flows from token to token backward. */
typedef struct flow {
    double *dS;                              /* of the state after the token                        */
    double  dk[4 * 64], dv[4 * 64], phi[32]; /* of its k and v, from its successor; of later phases */
} flow;

/* Token n back: S0, S1 the states around it, k0 and v0 its predecessor's. */
static void retreat(const head *e, const token *n, const double *k0, const double *v0, const double *S0,
                    const double *S1, int t, flow *f)
{
    const int    K = e->K, V = e->V, H = e->p->H;
    const double D = e->x[rec_at(e->p, SKIP) + e->h], beta = (1 - n->tau) * n->dt * n->alpha, gamma = n->tau * n->dt;
    double d_o[4 * 64], dq[4 * 64] = {0}, dk[4 * 64], dv[4 * 64], dbeta = 0, dgamma = 0, dalpha = 0, ddt, dtau, drate;

    gated(e, n, t, d_o);
    memcpy(dk, f->dk, sizeof dk);
    memcpy(dv, f->dv, sizeof dv);
    for (int i = 0; i < e->R * V; i++) {
        e->dx[rec_at(e->p, SKIP) + e->h] += d_o[i] * n->v[i];
        dv[i] += D * d_o[i];
    }
    for (int r = 0; r < e->R; r++)
        for (int i = 0; i < K * V; i++) {
            dq[r * K + i / V] += S1[i] * d_o[r * V + i % V];
            f->dS[i] += n->q[r * K + i / V] * d_o[r * V + i % V];
        }
    memset(f->dk, 0, sizeof f->dk);
    memset(f->dv, 0, sizeof f->dv);
    for (int r = 0; r < e->R; r++)
        for (int i = 0; i < K * V; i++) {
            const int    a = r * K + i / V, b = r * V + i % V;
            const double dS = f->dS[i];

            dgamma += dS * n->k[a] * n->v[b];
            dk[a] += gamma * dS * n->v[b];
            dv[b] += gamma * dS * n->k[a];
            dbeta += dS * k0[a] * v0[b];
            f->dk[a] += beta * dS * v0[b];
            f->dv[b] += beta * dS * k0[a];
        }
    for (int i = 0; i < K * V; i++) {
        dalpha += f->dS[i] * S0[i];
        f->dS[i] *= n->alpha;
    }

    dalpha += (1 - n->tau) * n->dt * dbeta;
    dtau = n->dt * (dgamma - n->alpha * dbeta);
    ddt = (1 - n->tau) * n->alpha * dbeta + n->tau * dgamma + n->rate * n->alpha * dalpha;
    drate = n->dt * n->alpha * dalpha;
    for (int j = 0; j < e->A; j++) {
        const int64_t at = logit_at(e, t, 3 * H + j);
        const double  th = tanh(e->x[at]);

        for (int r = 0; r < e->R; r++) {
            const int a = r * K + j, b = r * K + e->A + j;
            f->phi[j] += n->q[a] * dq[b] - n->q[b] * dq[a] + n->k[a] * dk[b] - n->k[b] * dk[a];
        }
        e->dx[at] += f->phi[j] * M_PI * n->dt * (1 - th * th);
        ddt += f->phi[j] * M_PI * th;
    }
    {
        const double a = e->x[logit_at(e, t, H + e->h)],
                     u = e->x[logit_at(e, t, e->h)] + e->x[rec_at(e->p, DT_B) + e->h];

        e->dx[logit_at(e, t, H + e->h)] -= -n->rate <= 1e-4 ? 0 : a >= 0 ? drate : drate / ((1 - a) * (1 - a));
        e->dx[logit_at(e, t, 2 * H + e->h)] += dtau * n->tau * (1 - n->tau);
        e->dx[logit_at(e, t, e->h)] += ddt * sigmoid(u);
        e->dx[rec_at(e->p, DT_B) + e->h] += ddt * sigmoid(u);
    }
    for (int r = 0; r < e->R; r++) {
        turn(dq + r * K, n->phi, e->A, -1);
        turn(dk + r * K, n->phi, e->A, -1);
        for (int j = 0; j < K; j++) {
            const int c = channel(e->p, e->A, j);

            e->dx[key_at(e, REC_Q, t, r) + c] += dq[r * K + j];
            e->dx[key_at(e, REC_K, t, r) + c] += dk[r * K + j];
            e->dx[bias_at(e, REC_Q, r) + c] += dq[r * K + j];
            e->dx[bias_at(e, REC_K, r) + c] += dk[r * K + j];
        }
        for (int c = 0; c < V; c++) {
            e->dx[value_at(e, t) + c] += dv[r * V + c] * e->mx[r * V + c];
            if (place(e->p, M_X) >= 0)
                e->dx[rec_at(e->p, place(e->p, M_X)) + ((int64_t)e->h * e->R + r) * V + c] +=
                    dv[r * V + c] * e->x[value_at(e, t) + c];
        }
    }
}

/* States that document d leaves are in the frame of its last token: turned back by its phase. */
static void states_out(const head *e, int d, const token *last, const double *S, const double *k, const double *v)
{
    double *const out[3] = {REC_STATE_OUT(e->p, e->y, d, 0, e->h), REC_STATE_OUT(e->p, e->y, d, 1, e->h),
                            REC_STATE_OUT(e->p, e->y, d, 2, e->h)};

    if (!out[0]) return;
    rec_start(out[0], S, (int64_t)e->K * e->V);
    rec_start(out[1], k, (int64_t)e->R * e->K);
    rec_start(out[2], v, (int64_t)e->R * e->V);
    if (!last) return;
    turn_rows(out[0], last->phi, e->A, e->V, -1);
    for (int r = 0; r < e->R; r++) turn(out[1] + r * e->K, last->phi, e->A, -1);
}

static void states_out_back(const head *e, int d, const token *last, const double *S, flow *f)
{
    const int     K = e->K, V = e->V, A = e->A;
    const double *w = REC_STATE_OUT(e->p, e->w, d, 0, e->h);
    double       *own = take((int64_t)K * V, 8);

    memset(f->phi, 0, sizeof f->phi);
    rec_start(f->dS, w, (int64_t)K * V);
    rec_start(f->dk, w ? REC_STATE_OUT(e->p, e->w, d, 1, e->h) : NULL, (int64_t)e->R * K);
    rec_start(f->dv, w ? REC_STATE_OUT(e->p, e->w, d, 2, e->h) : NULL, (int64_t)e->R * V);
    if (!w || !last) return;
    rec_start(own, S, (int64_t)K * V);
    turn_rows(own, last->phi, A, V, -1);
    for (int j = 0; j < A; j++)
        for (int c = 0; c < V; c++)
            f->phi[j] -= own[j * V + c] * w[(A + j) * V + c] - own[(A + j) * V + c] * w[j * V + c];
    turn_rows(f->dS, last->phi, A, V, 1);
    for (int r = 0; r < e->R; r++) { /* the key that is handed on does not turn: undo what `retreat` will see of it */
        const double *k = last->k + r * K;

        turn(f->dk + r * K, last->phi, A, 1);
        for (int j = 0; j < A; j++) f->phi[j] -= k[j] * f->dk[r * K + A + j] - k[A + j] * f->dk[r * K + j];
    }
}

static void oracle(const rec_problem *p, int h, const double *x, double *y, const double *w, double *dx)
{
    head          e = {.p = p, .h = h, .g = h / (p->H / p->G), .R = p->R > 1 ? p->R : 1, .K = p->K, .V = p->V};
    const int64_t KV = (int64_t)p->K * p->V, RV = (int64_t)e.R * p->V;
    double       *S = take((p->N + 1) * KV, 8), k_in[4 * 64], v_in[4 * 64];
    token        *n = take(p->N + 1, sizeof *n);
    flow          f = {.dS = take(KV, 8)};

    e.A = p->L - 3 * p->H, e.x = x, e.y = y, e.w = w, e.dx = dx;
    for (int i = 0; i < 4 * 64; i++) e.one[i] = 1;
    e.mx = given(p, x, M_X, h * RV, e.one), e.mz = given(p, x, M_Z, h * RV, e.one);
    e.mo = given(p, x, M_O, h * RV, e.one), e.gain = given(p, x, GAIN, (int64_t)h * p->V, NULL);
    for (int d = 0; d < p->n_doc; d++) {
        const int    first = p->doc[d], end = p->doc[d + 1];
        const token *last = end > first ? &n[end - 1] : NULL;

        rec_start(S + first * KV, REC_STATE_IN(p, x, d, 0, h), KV);
        rec_start(k_in, REC_STATE_IN(p, x, d, 1, h), (int64_t)e.R * p->K);
        rec_start(v_in, REC_STATE_IN(p, x, d, 2, h), RV);
        for (int t = first; t < end; t++) {
            load(&e, &n[t], t > first ? &n[t - 1] : NULL, t);
            advance(&e, &n[t], t > first ? n[t - 1].k : k_in, t > first ? n[t - 1].v : v_in, S + t * KV,
                    S + (t + 1) * KV);
            gated(&e, &n[t], t, NULL);
        }
        states_out(&e, d, last, S + end * KV, last ? last->k : k_in, last ? last->v : v_in);
        if (!dx) continue;
        states_out_back(&e, d, last, S + end * KV, &f);
        for (int t = end - 1; t >= first; t--)
            retreat(&e, &n[t], t > first ? n[t - 1].k : k_in, t > first ? n[t - 1].v : v_in, S + t * KV,
                    S + (t + 1) * KV, t, &f);
        if (d > 0) continue;
        rec_start(REC_STATE_IN(p, dx, d, 0, h), f.dS, KV);
        rec_start(REC_STATE_IN(p, dx, d, 1, h), f.dk, (int64_t)e.R * p->K);
        rec_start(REC_STATE_IN(p, dx, d, 2, h), f.dv, RV);
    }
}

#define INPUTS                                                                                                         \
    {"q", "NRHK"}, {"k", "NRGK"}, {"v", "NGV"}, {"logits", "NL"}, {"z", "NHV"}, {"dt_bias", "PH"}, {"B_bias", "PHRK"}, \
        {"C_bias", "PHRK"},                                                                                            \
    {                                                                                                                  \
        "D", "PH"                                                                                                      \
    }
#define STATES                                                                                                         \
    {"S", "HKV"}, {"last k", "HRK"},                                                                                   \
    {                                                                                                                  \
        "last v", "HRV"                                                                                                \
    }

static const rec_type siso = {.core = &gr_mamba3_cpu,
                              .part = {INPUTS, STATES},
                              .draw = draw,
                              .complete = complete,
                              .oracle = oracle,
                              .args = args,
                              .one_row = true};
static const rec_type normed = {.core = &gr_mamba3_cpu,
                                .part = {INPUTS, {"norm", "PHV"}, STATES},
                                .draw = draw,
                                .complete = complete,
                                .oracle = oracle,
                                .args = args,
                                .one_row = true};
static const rec_type mimo = {.core = &gr_mamba3_cpu,
                              .part = {INPUTS, {"mimo_x", "PHRV"}, {"mimo_z", "PHRV"}, {"mimo_o", "PHRV"}, STATES},
                              .draw = draw,
                              .complete = complete,
                              .oracle = oracle,
                              .args = args,
                              .one_row = true};
static const rec_type mimo_normed = {
    .core = &gr_mamba3_cpu,
    .part = {INPUTS, {"mimo_x", "PHRV"}, {"mimo_z", "PHRV"}, {"mimo_o", "PHRV"}, {"norm", "PHV"}, STATES},
    .draw = draw,
    .complete = complete,
    .oracle = oracle,
    .args = args,
    .one_row = true};

/* What breaks careless chunk algorithms. dg of a token that forgets everything is 0 as a sum whose terms cancel; its
 * rate of 1000 multiplies what is left of them, hence that tolerance. */
static void test_hard_inputs(void)
{
    static const rec_problem p = {&siso, 64, 1, 1, 16, 16, 64, 1, {0, 64}, true, -0.01, 0.3, 1, 3 + 4};

    for (int which = 0; which < 4; which++) {
        static const char *const what[] = {"A at its floor", "one decay of -260", "tau 0: all write is the successor's",
                                           "tau 1: plain recurrence"};
        rec_buffers              b = rec_open(&p);

        for (int t = 0; t < p.N; t++) {
            float *logits = b.x + rec_at(&p, LOGITS) + (int64_t)t * p.L;

            if (which == 0) logits[1] = -1e6f;
            if (which >= 2) logits[2] = which == 2 ? -200 : 200;
        }
        if (which == 1) b.x[rec_at(&p, LOGITS) + 20 * p.L + 1] = 999;
        rec_run_oracle(&p, &b);
        rec_run(&p, b.x, b.y, b.w, b.dx);
        rec_compare(&p, what[which], which == 1 ? 1e-4 : TOL, &b, true);
        take_back();
    }
}

/* 128K tokens that all take the same step and hardly forget: what the last ones read of the first has turned by 25 000
 * radians. Measured 2.9e-5: cos and sin of a chunk's turn are rounded, always alike here. With the step size in fp32
 * it is 1.2e-3. */
static void test_phases(void)
{
    static const rec_problem p = {&siso, 131072, 1, 1, 4, 4, 64, 1, {0, 131072}, false, -1e6, 0.05, 1, 3 + 2};
    rec_buffers              b = rec_open(&p);
    head                     e = {.p = &p, .R = 1, .K = 4, .V = 4, .A = 2, .y = b.y64};
    token                    n[2] = {0};
    double                   S[2][16] = {{0}};

    for (int t = 0; t < p.N; t++)
        for (int j = 0; j < p.L; j++)
            if (j != 2) b.x[rec_at(&p, LOGITS) + (int64_t)t * p.L + j] = (const float[]){0.3f, -1e6f, 0, 1.5f, -2}[j];
    e.x = b.x64 = widen(b.x, rec_n_in(&p));
    for (int i = 0; i < 4; i++) e.one[i] = 1;
    e.mx = e.mz = e.mo = e.one;
    for (int t = 0; t < p.N; t++) {
        load(&e, &n[t % 2], &n[(t + 1) % 2], t);
        advance(&e, &n[t % 2], n[(t + 1) % 2].k, n[(t + 1) % 2].v, S[t % 2], S[(t + 1) % 2]);
        gated(&e, &n[t % 2], t, NULL);
    }
    rec_run(&p, b.x, b.y, NULL, NULL);
    CHECK_REL(b.y, b.y64, rec_out_size(&p, 0), 1e-4, "128K tokens");
    CHECK_REL(b.y + rec_out_size(&p, 0) - 4096, b.y64 + rec_out_size(&p, 0) - 4096, 4096, 1e-4, "the last 1K of them");
    take_back();
}

int main(void)
{
    static const int         cut[] = {1, 15, 16, 30, 31, 47, 89, 90, 99};
    static const rec_problem small[] = {
        {&siso, 23, 2, 1, 5, 7, 16, 2, {0, 9, 23}, true, -0.5, 0.3, 1, 6 + 2},
        {&normed, 23, 2, 2, 6, 7, 16, 2, {0, 9, 23}, true, 2, 0.3, 1, 6 + 3},
        {&mimo, 23, 2, 1, 6, 7, 16, 2, {0, 9, 23}, true, -3, 0.3, 2, 6 + 1},
        {&mimo_normed, 23, 2, 1, 6, 7, 16, 2, {0, 9, 23}, true, -0.5, 0.3, 4, 6 + 3},
    };
    static const rec_problem base[] = {
        {&siso, 61, 2, 2, 16, 20, 0, 1, {0, 61}, false, -0.3, 0.1, 1, 6 + 4},
        {&siso, 61, 4, 2, 16, 20, 0, 4, {0, 13, 14, 37, 61}, false, -3, 0.1, 1, 12 + 8},
        {&normed, 150, 3, 1, 24, 16, 0, 1, {0, 150}, false, -0.3, 0.02, 1, 9 + 5},
        {&siso, 150, 2, 1, 20, 36, 0, 2, {0, 150, 150}, false, 1, 0.5, 1, 6 + 0},
        {&siso, 130, 1, 1, 64, 64, 0, 3, {0, 1, 66, 130}, false, -3, 0.05, 1, 3 + 16},
        {&siso, 1, 6, 2, 16, 20, 0, 1, {0, 1}, false, -0.3, 0.3, 1, 18 + 4},
        {&mimo, 61, 4, 2, 16, 20, 0, 4, {0, 13, 14, 37, 61}, false, -0.3, 0.1, 2, 12 + 4},
        {&mimo_normed, 70, 2, 1, 20, 36, 0, 1, {0, 70}, false, -3, 0.1, 4, 6 + 10},
        {&mimo, 61, 1, 1, 16, 16, 0, 1, {0, 61}, false, 1, 0.3, 3, 3 + 8},
        {&mimo_normed, 1, 6, 2, 16, 20, 0, 1, {0, 1}, false, -0.3, 0.3, 4, 18 + 8},
    };
    static const rec_problem lengthy[] = {{&siso, 4096, 1, 1, 16, 16, 64, 1, {0, 4096}, true, -50, 0.05, 1, 3 + 4},
                                          {&mimo, 4096, 1, 1, 16, 16, 64, 1, {0, 4096}, true, -50, 0.05, 4, 3 + 8}};
    static const rec_problem split[] = {{&siso, 100, 2, 1, 16, 20, 32, 3, {0, 30, 90, 100}, true, -1, 0.1, 1, 6 + 4},
                                        {&mimo, 100, 2, 1, 16, 20, 32, 3, {0, 30, 90, 100}, true, -1, 0.1, 2, 6 + 8}};
    static const rec_problem tokens[] = {{&siso, 50, 4, 2, 16, 20, 16, 1, {0, 50}, true, -0.3, 0.3, 1, 12 + 4},
                                         {&mimo_normed, 50, 4, 2, 16, 20, 16, 1, {0, 50}, true, -0.3, 0.3, 3, 12 + 8}};
    static const rec_problem packed = {&siso, 120, 4,   2, 16,    20, 16, 4, {0, 33, 50, 101, 120},
                                       true,  -1,  0.1, 1, 12 + 4};

    if (gr_arena_open(&rec_arena, &gr_ops_cpu, "test") != GR_OK) return 1;
    omp_set_num_threads(2);
    for (int i = 0; i < 4; i++) rec_test_oracle(&small[i]);
    rec_test_all(base, (int)(sizeof base / sizeof *base), TOL);
    test_hard_inputs();
    for (int i = 0; i < 2; i++) rec_test(&lengthy[i], "4096 tokens", TOL);
    test_phases();
    for (int i = 0; i < 2 * (int)(sizeof cut / sizeof *cut); i++) rec_test_split(&split[i % 2], cut[i / 2], TOL);
    for (int i = 0; i < 2; i++) rec_test_tokens(&tokens[i], TOL);
    rec_test_bits(&packed, 60);
    gr_arena_close(&rec_arena);
    return check_result();
}
