/** @file layer_oracle.h  What the tests of mixer layers share: a layer against its formulas, token by token in fp64.
 *
 * A type writes the oracle: y from x and the parameters, which lie in lay_w64 in the order of params(), x after them.
 * Every gradient is compared with central differences of it, everything frozen in turn, decoding with forward.
 */
#ifndef GR_TESTS_UNIT_LAYER_ORACLE_H
#define GR_TESTS_UNIT_LAYER_ORACLE_H
#include "kernels/attention.h"
#include "kernels/mixer.h"
#include "tests/unit/oracle.h"

enum { N = 21, HID = 10, H = 4, G = 2, D = 6, W = 4, HD = H * D, GD = G * D, LAY_PARAMS = GR_MIXER_PARAMS };

typedef struct lay_type {
    const gr_mixer_def  *def;
    const gr_mixer_core *core;

    /** A parameter's element from u, uniform in (-1, 1). */
    double (*draw)(int param, double u);

    /** y [N, HID] of packed documents. */
    void (*oracle)(double *y, const int32_t *doc, int n_doc);
} lay_type;

static const lay_type *lay;
static gr_mixer_spec   lay_spec = {.hidden = HID,
                                   .n_head = H,
                                   .n_kv_head = G,
                                   .head_dim = D,
                                   .norm_eps = 1e-6f,
                                   .conv_width = W,
                                   .chunk = 16,
                                   .init_std = 0.02f};
static const int32_t   lay_docs[] = {0, 9, 10, N};

static const gr_ops *lay_op;
static gr_arena     *lay_keep, *lay_scratch;
static gr_param_spec lay_p[LAY_PARAMS + 1];
static int           lay_n; /* parameters; lay_w[lay_n] is x */
static int64_t       lay_size[LAY_PARAMS + 1];
static float        *lay_w[LAY_PARAMS + 1], *lay_dw[LAY_PARAMS + 1], lay_y[N * HID], lay_dy[N * HID];
static double       *lay_w64[LAY_PARAMS + 1], lay_y64[N * HID];

static uint64_t lay_seed = 3;

static inline double lay_uniform(void) /* (-1, 1), and a float */
{
    lay_seed = lay_seed * 6364136223846793005u + 1442695040888963407u;
    return (double)((float)(lay_seed >> 40) / 8388608.0f - 1.0f);
}

/** Parameters as lay_spec has them, and x, drawn anew. */
static inline void lay_draw(void)
{
    take_back();
    lay_n = lay->def->params(&lay_spec, lay_p);
    for (int i = 0; i <= lay_n; i++) {
        lay_size[i] = i == lay_n ? N * HID : lay_p[i].dim[0] * lay_p[i].dim[1] * lay_p[i].dim[2];
        lay_w[i] = take(lay_size[i], 4), lay_dw[i] = take(lay_size[i], 4), lay_w64[i] = take(lay_size[i], 8);
        for (int64_t j = 0; j < lay_size[i]; j++) {
            const double u = lay_uniform();

            lay_w[i][j] = (float)(i == lay_n ? u : lay->draw(i, u));
            lay_w64[i][j] = lay_w[i][j];
        }
    }
    for (int i = 0; i < N * HID; i++) lay_dy[i] = (float)lay_uniform();
}

/* ---- for oracles ------------------------------------------------------------------------------------------------- */

static inline double lay_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static inline double lay_silu(double x)
{
    return x * lay_sigmoid(x);
}

static inline double lay_softplus(double x)
{
    return log1p(exp(x));
}

/** out [n_out] = m [n_out, n_in] x. */
static inline void lay_linear(double *out, const double *x, const double *m, int n_out, int n_in)
{
    for (int i = 0; i < n_out; i++) {
        out[i] = 0;
        for (int j = 0; j < n_in; j++) out[i] += m[i * n_in + j] * x[j];
    }
}

/** out = silu(conv) at token t of rows z [N, n], in the document that starts at `first`; bias may be NULL. */
static inline void lay_conv(double *out, const double *z, const double *tap, const double *bias, int n, int first,
                            int t)
{
    for (int c = 0; c < n; c++) {
        double sum = bias ? bias[c] : 0;

        for (int j = 0; j < W; j++) {
            const int s = t - (W - 1) + j;
            if (s >= first) sum += tap[c * W + j] * z[s * n + c];
        }
        out[c] = lay_silu(sum);
    }
}

/** y [n] = x rstd w; may be x. w NULL: 1. */
static inline void lay_rmsnorm(double *y, const double *x, const double *w, int n, double eps)
{
    double ms = eps;

    for (int i = 0; i < n; i++) ms += x[i] * x[i] / n;
    for (int i = 0; i < n; i++) y[i] = x[i] / sqrt(ms) * (w ? w[i] : 1);
}

/* ---- the layer under test ---------------------------------------------------------------------------------------- */

static inline gr_tensor lay_rows(float *p, int64_t n)
{
    return gr_view2(p, GR_F32, n, HID);
}

static inline void lay_views(gr_tensor *t, float **p)
{
    for (int i = 0; i < lay_n; i++)
        t[i] = (gr_tensor){p[i], GR_F32, lay_p[i].rank, {lay_p[i].dim[0], lay_p[i].dim[1], lay_p[i].dim[2], 1}};
}

/** frozen: bit i: no gradient of parameter i; bit lay_n: none of x. */
static inline void lay_run(const int32_t *doc, int n_doc, uint64_t frozen, bool with_backward)
{
    gr_tensor          wt[LAY_PARAMS], dwt[LAY_PARAMS];
    const gr_seq       seq = {.n = N, .n_doc = n_doc, .doc = doc};
    const gr_mixer_ctx c = {.op = lay_op,
                            .core = lay->core,
                            .spec = &lay_spec,
                            .seq = &seq,
                            .w = wt,
                            .dw = dwt,
                            .keep = lay_keep,
                            .scratch = lay_scratch};
    const gr_tensor    x = lay_rows(lay_w[lay_n], N), dx = lay_rows(lay_dw[lay_n], N);
    gr_tape            tape;

    lay_views(wt, lay_w);
    lay_views(dwt, lay_dw);
    for (int i = 0; i < lay_n; i++)
        if (frozen >> i & 1) dwt[i] = gr_none();
    poison(lay_y, N * HID);
    poison(lay_dw[lay_n], N * HID);
    lay->def->forward(&c, lay_rows(lay_y, N), x, with_backward ? &tape : NULL);
    if (with_backward) lay->def->backward(&c, frozen >> lay_n & 1 ? gr_none() : dx, lay_rows(lay_dy, N), x, &tape);
    CHECK(gr_arena_reset(lay_keep) == GR_OK && gr_arena_reset(lay_scratch) == GR_OK, "arena");
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static inline double lay_objective(void)
{
    double s = 0;

    lay->oracle(lay_y64, lay_docs, 3);
    for (int i = 0; i < N * HID; i++) s += lay_y64[i] * lay_dy[i];
    return s;
}

/** Forward to `tol`, every gradient to 1e-4: differences are good to 1e-9, the rest is fp32's. */
static inline void lay_test_gradients(const char *what, double tol)
{
    const double h = 1e-5; /* central: error h^2 ~ 1e-10, rounding 1e-16 / h ~ 1e-11 */
    char         name[160];

    lay_draw();
    lay->oracle(lay_y64, lay_docs, 3);
    for (int i = 0; i < lay_n; i++)
        for (int64_t j = 0; j < lay_size[i]; j++) lay_dw[i][j] = 0.5f; /* gradients are added */
    lay_run(lay_docs, 3, 0, true);
    snprintf(name, sizeof name, "%s: y", what);
    CHECK_REL(lay_y, lay_y64, N * HID, tol, name);
    for (int i = 0; i <= lay_n; i++) {
        double *ref = take(lay_size[i], 8);

        for (int64_t j = 0; j < lay_size[i]; j++) {
            const double at = lay_w64[i][j];
            double       up, down;

            lay_w64[i][j] = at + h, up = lay_objective();
            lay_w64[i][j] = at - h, down = lay_objective();
            lay_w64[i][j] = at;
            ref[j] = (up - down) / (2 * h);
            if (i < lay_n) lay_dw[i][j] -= 0.5f;
        }
        snprintf(name, sizeof name, "%s: gradient of %.60s", what, i < lay_n ? lay_p[i].name : "x");
        CHECK_REL(lay_dw[i], ref, lay_size[i], 1e-4, name);
    }
}

/** What is frozen is not touched, and makes no difference to the rest: each alone, then all together. */
static inline void lay_test_frozen(void)
{
    float *all[LAY_PARAMS + 1];

    lay_draw();
    lay_run(lay_docs, 3, 0, true);
    for (int i = 0; i <= lay_n; i++) {
        all[i] = take(lay_size[i], 4);
        memcpy(all[i], lay_dw[i], (size_t)lay_size[i] * 4);
    }
    for (int one = 0; one <= lay_n + 1; one++) {
        const uint64_t frozen = one <= lay_n ? UINT64_C(1) << one : (UINT64_C(2) << lay_n) - 1;

        for (int i = 0; i < lay_n; i++) memset(lay_dw[i], 0, (size_t)lay_size[i] * 4);
        lay_run(lay_docs, 3, frozen, true);
        for (int i = 0; i <= lay_n; i++) {
            int bad = 0;

            for (int64_t j = 0; j < lay_size[i]; j++)
                bad += !(frozen >> i & 1) ? lay_dw[i][j] != all[i][j]
                       : i == lay_n       ? !isnan(lay_dw[i][j])
                                          : lay_dw[i][j] != 0;
            CHECK(bad == 0, "%d frozen: %d gradients of parameter %d are wrong", one, bad, i);
        }
    }
}

/** One document: inference, and then token by token, as the oracle has it. */
static inline void lay_test_decode(int n_state, double tol)
{
    static const int32_t whole[] = {0, N};
    float                y1[N * HID];
    gr_tensor            wt[LAY_PARAMS];
    gr_mixer_state       state;
    gr_mixer_ctx         c = {.op = lay_op, .core = lay->core, .spec = &lay_spec, .w = wt, .scratch = lay_scratch};

    lay_draw();
    lay_views(wt, lay_w);
    lay->oracle(lay_y64, whole, 1);
    lay_run(whole, 1, 0, false);
    CHECK_REL(lay_y, lay_y64, N * HID, tol, "inference");
    CHECK(lay->def->state_shape(&lay_spec, N, &state) == n_state, "states");
    for (int i = 0; i < n_state; i++) state.t[i].data = take(gr_count(state.t[i]), 4);
    poison(y1, N * HID);
    for (int t = 0; t < N; t++)
        lay->def->step(&c, lay_rows(y1 + t * HID, 1), lay_rows(lay_w[lay_n] + t * HID, 1), &state, t);
    CHECK_REL(y1, lay_y64, N * HID, tol, "decoding");
    CHECK(gr_arena_reset(lay_scratch) == GR_OK, "arena");
}

/** Parameters drawn, then from a random attention, whose parameters are returned in `attn`. `set`: bit i: attention
 * determines something of parameter i; the others must be as they were. */
static inline void lay_from_attention(const float *attn[GR_ATTN_PARAMS], uint64_t set)
{
    gr_param_spec p[GR_MIXER_PARAMS];
    const int     n = gr_attention_params(&lay_spec, p);
    int           bad = 0;

    lay_draw();
    for (int i = 0; i < n; i++) attn[i] = uniform(p[i].dim[0] * p[i].dim[1], 40 + (uint64_t)i, -1, 1);
    lay->def->from_attention(&lay_spec, lay_w, attn);
    for (int i = 0; i < lay_n; i++)
        for (int64_t j = 0; j < lay_size[i] && !(set >> i & 1); j++) bad += (double)lay_w[i][j] != lay_w64[i][j];
    CHECK(bad == 0, "%d elements that attention does not determine changed", bad);
}

/** An output gate [HD, HID] as Priming starts it: channel c of head h takes channel ((h mod rep) D + c) / rep of kv
 * head h / rep. */
static inline void lay_check_gate(const float *gate, const float *const *attn)
{
    const int rep = H / G;
    int       bad = 0;

    for (int h = 0; h < H; h++)
        for (int c = 0; c < D; c++)
            for (int j = 0; j < HID; j++) {
                const int row = h / rep * D + (h % rep * D + c) / rep;
                bad += gate[(h * D + c) * HID + j] !=
                       (attn[GR_ATTN_O][j * HD + h * D + c] + attn[GR_ATTN_V][row * HID + j]) / 2;
            }
    CHECK(bad == 0, "%d elements of the gate", bad);
}

/** Are rows [at, at + n) of a matrix with HID columns attention's? */
static inline void lay_check_rows(const float *w, int64_t at, const float *attn, int64_t n, const char *what)
{
    CHECK(!memcmp(w + at * HID, attn, (size_t)(n * HID) * sizeof *w), "%s is not attention's", what);
}

static inline gr_mixer_spec lay_large(void) /* as Qwen3-8B has it */
{
    return (gr_mixer_spec){.hidden = 4096, .n_head = 32, .n_kv_head = 8, .head_dim = 128, .conv_width = 4, .chunk = 64};
}

static inline bool lay_open(const lay_type *type)
{
    char note[256];

    lay = type;
    return gr_backend_open("cpu", 2, &lay_op, note, sizeof note) == GR_OK &&
           gr_arena_open(&lay_keep, lay_op, "keep") == GR_OK && gr_arena_open(&lay_scratch, lay_op, "scratch") == GR_OK;
}

static inline int lay_close(void)
{
    take_back();
    gr_arena_close(&lay_keep);
    gr_arena_close(&lay_scratch);
    return check_result();
}
#endif
