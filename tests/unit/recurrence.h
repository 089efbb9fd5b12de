/** @file recurrence.h  What the tests of recurrent cores share: a core against its recurrence, token by token in fp64.
 *
 * A type says what its inputs are and writes the oracle of one head, forward and backward. Inputs of a problem are one
 * flat array, part after part, [q | k | v | gates ... | states ...]; outputs another, [o | states ...]; a gradient is
 * shaped as the inputs. The scalar differentiated is <w, outputs> with random w = [d_o | dstate_out ...]. The oracle's
 * own gradient is confirmed by central differences along random directions.
 */
#ifndef GR_TESTS_UNIT_RECURRENCE_H
#define GR_TESTS_UNIT_RECURRENCE_H
#include "kernels/mixer.h"
#include "tests/unit/oracle.h"

enum { REC_Q, REC_K, REC_V, REC_GATE, REC_PARTS = 12, REC_DOCS = 8 };

typedef struct rec_problem rec_problem;

/** A part's shape in letters: N tokens, R rows per token, H heads, G key heads, K, V widths. What begins with N belongs
 * to tokens, what begins with H is a state. */
typedef struct rec_part {
    const char *name, *shape;
} rec_part;

typedef struct rec_type {
    const gr_mixer_core *core;
    rec_part             part[REC_PARTS]; /**< q, k, v, gates "NH", states "H.."; the rest empty         */
    bool                 scaled;          /**< q k^T is divided by sqrt(K)                               */

    /** Inputs in fp32, or NULL: q, k unit rows, v and states normal, gate 0 in [g_min, 0], others in [0, b_max]. */
    void (*draw)(const rec_problem *p, float *x);

    /** What the core needs beyond q, k, v, gates and states; memory from take(). Or NULL. */
    void (*complete)(const rec_problem *p, gr_core_args *a);

    /** Outputs y of head h, and (dx not NULL) its share of the gradient, dx +=. */
    void (*oracle)(const rec_problem *p, int h, const double *x, double *y, const double *w, double *dx);
} rec_type;

struct rec_problem {
    const rec_type *type;
    int             N, H, G, K, V, C, n_doc;
    int32_t         doc[REC_DOCS + 1];
    bool            carry;        /**< with states in and their gradients                        */
    double          g_min, b_max; /**< ranges of the gates                                       */
    int             R;            /**< rows per token; 0 means 1                                 */
};

static gr_arena *rec_arena;

/* ---- flat arrays ------------------------------------------------------------------------------------------------- */

static inline int rec_n_part(const rec_problem *p)
{
    int n = 0;

    while (n < REC_PARTS && p->type->part[n].name) n++;
    return n;
}

static inline bool rec_is_state(const rec_problem *p, int part)
{
    return p->type->part[part].shape[0] == 'H';
}

static inline int rec_first_state(const rec_problem *p)
{
    int i = 0;

    while (i < rec_n_part(p) && !rec_is_state(p, i)) i++;
    return i;
}

static inline int rec_n_state(const rec_problem *p)
{
    return rec_n_part(p) - rec_first_state(p);
}

static inline int64_t rec_dim(const rec_problem *p, char letter)
{
    switch (letter) {
    case 'N': return p->N;
    case 'R': return p->R > 1 ? p->R : 1;
    case 'H': return p->H;
    case 'G': return p->G;
    case 'K': return p->K;
    default: return p->V;
    }
}

/** Elements of an input part. */
static inline int64_t rec_size(const rec_problem *p, int part)
{
    int64_t n = 1;

    for (const char *s = p->type->part[part].shape; *s; s++) n *= rec_dim(p, *s);
    return n;
}

/** Where it begins; past the last part: how long all inputs are. */
static inline int64_t rec_at(const rec_problem *p, int part)
{
    int64_t at = 0;

    for (int i = 0; i < part; i++) at += rec_size(p, i);
    return at;
}

static inline int64_t rec_n_in(const rec_problem *p)
{
    return rec_at(p, rec_n_part(p));
}

/** Elements of o per token. */
static inline int64_t rec_o_row(const rec_problem *p)
{
    return rec_dim(p, 'R') * p->H * p->V;
}

/** Outputs: part 0 is o, then the states. */
static inline int64_t rec_out_size(const rec_problem *p, int part)
{
    return part == 0 ? p->N * rec_o_row(p) : rec_size(p, rec_first_state(p) + part - 1);
}

static inline int64_t rec_out_at(const rec_problem *p, int part)
{
    int64_t at = 0;

    for (int i = 0; i < part; i++) at += rec_out_size(p, i);
    return at;
}

static inline int64_t rec_n_out(const rec_problem *p)
{
    return rec_out_at(p, 1 + rec_n_state(p));
}

/** A part of x as the tensor the core expects: [dim, dim, dim], with R rows per token [N R, ..]. */
static inline gr_tensor rec_view(const rec_problem *p, float *x, int part)
{
    const char *s = p->type->part[part].shape;
    gr_tensor   t = {x + rec_at(p, part), GR_F32, 0, {1, 1, 1, 1}};

    for (; *s; s++)
        if (*s == 'R')
            t.dim[0] *= rec_dim(p, 'R');
        else
            t.dim[t.rank++] *= rec_dim(p, *s);
    return t;
}

static inline gr_tensor rec_out_view(const rec_problem *p, float *y, int part)
{
    gr_tensor t = gr_view3(y, GR_F32, p->N * rec_dim(p, 'R'), p->H, p->V);

    if (part > 0) {
        t = rec_view(p, y, rec_first_state(p) + part - 1);
        t.data = y + rec_out_at(p, part);
    }
    return t;
}

/** Where token t of head i begins in a token's part "N..". */
static inline int64_t rec_of(const rec_problem *p, int part, int t, int i)
{
    const int64_t row = rec_size(p, part) / p->N;

    return rec_at(p, part) + t * row + i * (row / rec_dim(p, p->type->part[part].shape[1]));
}

/** State s of head h: where document d takes it from in inputs x (NULL: it starts from zero), and where it leaves it in
 * outputs y (NULL: nobody asks). With a gradient dx for x and weights w for y, likewise backward. */
#define REC_STATE_IN(p, x, d, s, h)                                                                                    \
    ((d) == 0 ? (x) + rec_at(p, rec_first_state(p) + (s)) + (h) * (rec_out_size(p, 1 + (s)) / (p)->H) : NULL)
#define REC_STATE_OUT(p, y, d, s, h)                                                                                   \
    ((d) == (p)->n_doc - 1 ? (y) + rec_out_at(p, 1 + (s)) + (h) * (rec_out_size(p, 1 + (s)) / (p)->H) : NULL)

/** to [n] = from, or 0 when it is NULL. */
static inline void rec_start(double *to, const double *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = from ? from[i] : 0;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static uint64_t rec_seed = 7;

static inline double rec_uniform(void) /* [0, 1), and a float */
{
    rec_seed = rec_seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(rec_seed >> 40) / 16777216.0;
}

static inline double rec_normal(void) /* variance 1 */
{
    double s = 0;

    for (int i = 0; i < 12; i++) s += rec_uniform();
    return s - 6;
}

static inline void rec_draw_part(const rec_problem *p, float *x, int part)
{
    const int64_t n = rec_size(p, part);

    x += rec_at(p, part);
    for (int64_t i = 0; i < n; i++)
        x[i] = rec_is_state(p, part) ? (p->carry ? (float)rec_normal() : 0.0f)
               : part < REC_GATE     ? (float)rec_normal()
               : part == REC_GATE    ? (float)(p->g_min * rec_uniform())
                                     : (float)(p->b_max * rec_uniform());
    for (int64_t i = 0; part < REC_V && i < n; i += p->K) {
        double sum = 0;

        for (int d = 0; d < p->K; d++) sum += (double)x[i + d] * x[i + d];
        for (int d = 0; d < p->K; d++) x[i + d] = (float)(x[i + d] / sqrt(sum));
    }
}

typedef struct rec_buffers { /* of one problem */
    float  *x, *y, *w, *dx, *y2, *dx2;
    double *x64, *y64, *w64, *dx64;
} rec_buffers;

/** Inputs and weights drawn; take_back() returns the memory. */
static inline rec_buffers rec_open(const rec_problem *p)
{
    const int64_t n = rec_n_in(p), m = rec_n_out(p);
    rec_buffers   b = {.x = take(n, 4),
                       .dx = take(n, 4),
                       .dx2 = take(n, 4),
                       .y = take(m, 4),
                       .y2 = take(m, 4),
                       .w = take(m, 4),
                       .y64 = take(m, 8),
                       .dx64 = take(n, 8)};

    for (int i = 0; i < rec_n_part(p) && !p->type->draw; i++) rec_draw_part(p, b.x, i);
    if (p->type->draw) p->type->draw(p, b.x);
    for (int64_t i = 0; i < m; i++) b.w[i] = i < rec_out_size(p, 0) || p->carry ? (float)rec_normal() : 0.0f;
    return b;
}

/* ---- oracle ------------------------------------------------------------------------------------------------------ */

/** y [outputs]; dx [inputs] or NULL. */
static inline void rec_oracle(const rec_problem *p, const double *x, double *y, const double *w, double *dx)
{
    if (dx) memset(dx, 0, (size_t)rec_n_in(p) * sizeof *dx);
    for (int h = 0; h < p->H; h++) p->type->oracle(p, h, x, y, w, dx);
}

static inline void rec_run_oracle(const rec_problem *p, rec_buffers *b)
{
    b->x64 = widen(b->x, rec_n_in(p)), b->w64 = widen(b->w, rec_n_out(p));
    rec_oracle(p, b->x64, b->y64, b->w64, b->dx64);
}

/** d/dh <w, y(x + h r)> by central differences against <dx, r>, part by part. */
static inline void rec_test_oracle(const rec_problem *p)
{
    const int64_t n = rec_n_in(p), m = rec_n_out(p);
    const double  h = 1e-6;
    rec_buffers   b = rec_open(p);
    double       *r = take(n, sizeof *r), *x1 = take(n, sizeof *x1), *y = take(m, sizeof *y);

    rec_run_oracle(p, &b);
    for (int part = 0; part < rec_n_part(p); part++) {
        double f[2], d;

        memset(r, 0, (size_t)n * sizeof *r);
        for (int64_t i = rec_at(p, part); i < rec_at(p, part + 1); i++) r[i] = rec_normal();
        for (int side = 0; side < 2; side++) {
            for (int64_t i = 0; i < n; i++) x1[i] = b.x64[i] + (side ? h : -h) * r[i];
            rec_oracle(p, x1, y, NULL, NULL);
            f[side] = sum_product(b.w64, y, m);
        }
        d = sum_product(b.dx64, r, n);
        CHECK(fabs((f[1] - f[0]) / (2 * h) - d) <= 1e-6 * (1 + fabs(d)),
              "oracle's d%s: difference quotient %.9g, gradient %.9g", p->type->part[part].name,
              (f[1] - f[0]) / (2 * h), d);
    }
    take_back();
}

/* ---- the core under test ----------------------------------------------------------------------------------------- */

/** Arguments of the core; seq must outlive them. */
static inline gr_core_args rec_args(const rec_problem *p, const gr_seq *seq, float *x, float *y)
{
    gr_core_args a = {
        .seq = seq,
        .n_head = p->H,
        .n_kv_head = p->G,
        .k_dim = p->K,
        .v_dim = p->V,
        .chunk = p->C,
        .n_row = p->R,
        .scale = p->type->scaled ? (float)(1 / sqrt(p->K)) : 1.0f,
        .q = rec_view(p, x, REC_Q),
        .k = rec_view(p, x, REC_K),
        .v = rec_view(p, x, REC_V),
        .o = rec_out_view(p, y, 0),
        .scratch = rec_arena,
    };

    for (int i = REC_GATE; i < rec_first_state(p); i++) a.gate[i - REC_GATE] = rec_view(p, x, i);
    for (int i = 0; i < rec_n_state(p); i++) {
        if (p->carry) a.state_in[i] = rec_view(p, x, rec_first_state(p) + i);
        a.state_out[i] = rec_out_view(p, y, 1 + i);
    }
    if (p->type->complete) p->type->complete(p, &a);
    return a;
}

static inline void rec_add_gradients(const rec_problem *p, gr_core_args *a, float *w, float *dx)
{
    a->d_o = rec_out_view(p, w, 0);
    a->dq = rec_view(p, dx, REC_Q), a->dk = rec_view(p, dx, REC_K), a->dv = rec_view(p, dx, REC_V);
    for (int i = REC_GATE; i < rec_first_state(p); i++) a->dgate[i - REC_GATE] = rec_view(p, dx, i);
    for (int i = 0; p->carry && i < rec_n_state(p); i++) {
        a->dstate_out[i] = rec_out_view(p, w, 1 + i);
        a->dstate_in[i] = rec_view(p, dx, rec_first_state(p) + i);
    }
}

/** Outputs and gradients are poisoned first: whatever is not written shows. w, dx NULL: forward only. */
static inline void rec_run(const rec_problem *p, float *x, float *y, float *w, float *dx)
{
    const int32_t none[2] = {0, 0};
    gr_seq        seq = {.n = p->N, .n_doc = p->n_doc, .doc = p->n_doc ? p->doc : none};
    gr_core_args  a = rec_args(p, &seq, x, y);

    poison(y, rec_n_out(p));
    p->type->core->forward(&a, NULL);
    if (!dx) return;
    poison(dx, rec_n_in(p));
    rec_add_gradients(p, &a, w, dx);
    p->type->core->backward(&a, NULL);
}

static inline void rec_compare(const rec_problem *p, const char *what, double tol, const rec_buffers *b, bool gradients)
{
    char name[128];

    for (int i = 0; i <= rec_n_state(p); i++) {
        snprintf(name, sizeof name, "%s: %s%s", what, i ? "out " : "o",
                 i ? p->type->part[rec_first_state(p) + i - 1].name : "");
        CHECK_REL(b->y + rec_out_at(p, i), b->y64 + rec_out_at(p, i), rec_out_size(p, i), tol, name);
    }
    for (int i = 0; gradients && i < (p->carry ? rec_n_part(p) : rec_first_state(p)); i++) {
        const float *dx = b->dx + rec_at(p, i);

        snprintf(name, sizeof name, "%s: d%s", what, p->type->part[i].name);
        if (p->g_min < -50 && rec_is_state(p, i)) { /* e^-100 or so: subnormal in fp32, without digits */
            CHECK(check_rel(dx, b->dx64 + rec_at(p, i), rec_size(p, i)) < INFINITY, "%s is not finite", name);
            continue;
        }
        CHECK_REL(dx, b->dx64 + rec_at(p, i), rec_size(p, i), tol, name);
    }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

/** Everything of one problem against the oracle. */
static inline void rec_test(const rec_problem *p, const char *what, double tol)
{
    rec_buffers b = rec_open(p);

    rec_run_oracle(p, &b);
    rec_run(p, b.x, b.y, b.w, b.dx);
    rec_compare(p, what, tol, &b, true);
    take_back();
}

/** Every base problem with every chunk length, with and without states carried. */
static inline void rec_test_all(const rec_problem *base, int n_base, double tol)
{
    static const int chunk[] = {16, 32, 64, 256};

    for (int i = 0; i < n_base; i++)
        for (int c = 0; c < 4; c++)
            for (int carry = 0; carry < 2; carry++) {
                rec_problem p = base[i];
                char        what[64];

                p.C = chunk[c], p.carry = carry;
                snprintf(what, sizeof what, "problem %d, chunk %d, carry %d", i, chunk[c], carry);
                rec_test(&p, what, tol);
            }
}

/** Tokens [from, to) of a problem as one of its own. */
static inline rec_problem rec_slice(const rec_problem *p, int from, int to)
{
    rec_problem s = *p;

    s.N = to - from, s.n_doc = 0;
    for (int d = 0; d < p->n_doc; d++) {
        const int a = p->doc[d] > from ? p->doc[d] : from, e = p->doc[d + 1] < to ? p->doc[d + 1] : to;
        if (a < e) s.doc[s.n_doc++] = a - from, s.doc[s.n_doc] = e - from;
    }
    return s;
}

/** Its tokens' inputs, copied out of the whole's or (back) into them. */
static inline void rec_copy(const rec_problem *s, float *part, const rec_problem *p, float *whole, int from, bool back)
{
    for (int i = 0; i < rec_first_state(p); i++) {
        float       *a = part + rec_at(s, i), *b = whole + rec_at(p, i) + from * (rec_size(p, i) / p->N);
        const size_t n = (size_t)rec_size(s, i) * sizeof *a;
        memcpy(back ? b : a, back ? a : b, n);
    }
}

/** Cut at `cut`, the states carried right and their gradients carried left: the same as the whole. */
static inline void rec_test_split(const rec_problem *p, int cut, double tol)
{
    const rec_problem l = rec_slice(p, 0, cut), r = rec_slice(p, cut, p->N);
    const int64_t     row = rec_o_row(p), in = rec_first_state(p), state = rec_n_out(p) - rec_out_at(p, 1);
    rec_buffers       b = rec_open(p), bl = rec_open(&l), br = rec_open(&r);
    bool              fresh = false; /* a document starts at the cut: nothing crosses */
    char              what[32];

    for (int d = 0; d < p->n_doc; d++) fresh |= p->doc[d] == cut;
    rec_run_oracle(p, &b);
    rec_copy(&l, bl.x, p, b.x, 0, false);
    rec_copy(&r, br.x, p, b.x, cut, false);
    memcpy(bl.x + rec_at(&l, (int)in), b.x + rec_at(p, (int)in), (size_t)state * 4);
    memcpy(bl.w, b.w, (size_t)(cut * row) * 4);
    memcpy(br.w, b.w + cut * row, (size_t)((p->N - cut) * row + state) * 4);

    rec_run(&l, bl.x, bl.y, NULL, NULL);
    memcpy(br.x + rec_at(&r, (int)in), bl.y + rec_out_at(&l, 1), (size_t)state * 4);
    if (fresh) memset(br.x + rec_at(&r, (int)in), 0, (size_t)state * 4);
    rec_run(&r, br.x, br.y, br.w, br.dx);
    memcpy(bl.w + rec_out_at(&l, 1), br.dx + rec_at(&r, (int)in), (size_t)state * 4);
    if (fresh) memset(bl.w + rec_out_at(&l, 1), 0, (size_t)state * 4);
    rec_run(&l, bl.x, bl.y, bl.w, bl.dx);

    memcpy(b.y, bl.y, (size_t)(cut * row) * 4);
    memcpy(b.y + cut * row, br.y, (size_t)((p->N - cut) * row + state) * 4);
    rec_copy(&l, bl.dx, p, b.dx, 0, true);
    rec_copy(&r, br.dx, p, b.dx, cut, true);
    memcpy(b.dx + rec_at(p, (int)in), bl.dx + rec_at(&l, (int)in), (size_t)state * 4);
    snprintf(what, sizeof what, "cut at %d", cut);
    rec_compare(p, what, tol, &b, true);
    take_back();
}

/** Token by token with the states updated in place, as decoding does. One document, with carry. */
static inline void rec_test_tokens(const rec_problem *p, double tol)
{
    const int     n_state = rec_n_state(p);
    const int64_t state = rec_n_out(p) - rec_out_at(p, 1);
    rec_buffers   b = rec_open(p);
    rec_problem   one = rec_slice(p, 0, 1);
    const gr_seq  seq = {.n = 1, .n_doc = 1, .doc = one.doc};
    float        *x = take(rec_n_in(&one), 4), *S = x + rec_at(&one, rec_first_state(p));
    float        *y = take(rec_n_out(&one), 4);

    rec_run_oracle(p, &b);
    memcpy(S, b.x + rec_at(p, rec_first_state(p)), (size_t)state * 4);
    for (int t = 0; t < p->N; t++) {
        gr_core_args a = rec_args(&one, &seq, x, y);

        for (int i = 0; i < n_state; i++) a.state_out[i] = a.state_in[i];
        rec_copy(&one, x, p, b.x, t, false);
        poison(y, rec_o_row(p));
        p->type->core->forward(&a, NULL);
        memcpy(b.y + t * rec_o_row(p), y, (size_t)rec_o_row(p) * 4);
    }
    memcpy(b.y + rec_out_at(p, 1), S, (size_t)state * 4);
    rec_compare(p, "token by token", tol, &b, false);
    take_back();
}

/** Bits that must not change: everything when threads change; other documents when token `at` is perturbed. */
static inline void rec_test_bits(const rec_problem *p, int at)
{
    const int64_t n = rec_n_in(p), m = rec_n_out(p);
    const size_t  state = (size_t)(m - rec_out_at(p, 1)) * sizeof(float), row = (size_t)rec_o_row(p) * sizeof(float);
    rec_buffers   b = rec_open(p);

    omp_set_num_threads(1);
    rec_run(p, b.x, b.y, b.w, b.dx);
    omp_set_num_threads(2);
    rec_run(p, b.x, b.y2, b.w, b.dx2);
    CHECK(!memcmp(b.y, b.y2, (size_t)m * 4), "outputs depend on the number of threads");
    CHECK(!memcmp(b.dx, b.dx2, (size_t)n * 4), "gradients depend on the number of threads");

    for (int i = 0; i < rec_first_state(p); i++)
        for (int64_t r = rec_size(p, i) / p->N, j = at * r; j < (at + 1) * r; j++) b.x[rec_at(p, i) + j] *= 0.5f;
    for (int64_t r = rec_o_row(p), j = at * r; j < (at + 1) * r; j++) b.w[j] *= 0.5f;
    rec_run(p, b.x, b.y2, b.w, b.dx2);
    for (int d = 0; d < p->n_doc; d++) {
        const bool own = p->doc[d] <= at && at < p->doc[d + 1];
        bool       changed = false;

        for (int t = p->doc[d]; t < p->doc[d + 1]; t++) {
            changed |= memcmp(b.y + t * rec_o_row(p), b.y2 + t * rec_o_row(p), row) != 0;
            for (int i = 0; i < rec_first_state(p); i++) {
                const int64_t r = rec_size(p, i) / p->N, from = rec_at(p, i) + t * r;
                changed |= memcmp(b.dx + from, b.dx2 + from, (size_t)r * 4) != 0;
            }
        }
        CHECK(changed == own, "token %d perturbed: document %d %s", at, d, own ? "did not change" : "changed");
    }
    CHECK(!memcmp(b.y + rec_out_at(p, 1), b.y2 + rec_out_at(p, 1), state), "a state out changed");
    CHECK(!memcmp(b.dx + rec_at(p, rec_first_state(p)), b.dx2 + rec_at(p, rec_first_state(p)), state),
          "a state's gradient changed");
    take_back();
}
#endif
