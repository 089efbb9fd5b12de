/* The Gated KalmaNet layer: forward against the formulas in fp64 with a dense solve, every gradient against central
 * differences of them, with its options on and off; decoding against forward; initialisation from attention. The solver
 * makes 60 iterations here, so that its error (7e-8) is none. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/mixer.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

extern const gr_mixer_def  gr_gka_def;
extern const gr_mixer_core gr_gka_cpu;

enum { N = 21, HID = 10, H = 4, G = 2, D = 6, W = 4, HD = H * D, GD = G * D };

/* Parameters by name; those of an option that is off are not the layer's. X last, to be differentiated like them. */
enum { WQ, WK, WV, WA, WB, BB, ALOG, DTB, CQ, CK, ON, WO, WAL, BAL, CV, WG, N_ALL, X = N_ALL };
static const char *const name[] = {"q_proj.weight",
                                   "k_proj.weight",
                                   "v_proj.weight",
                                   "a_proj.weight",
                                   "b_proj.weight",
                                   "b_proj.bias",
                                   "A_log",
                                   "dt_bias",
                                   "q_conv1d.weight",
                                   "k_conv1d.weight",
                                   "o_norm.weight",
                                   "o_proj.weight",
                                   "alpha_proj.weight",
                                   "alpha_proj.bias",
                                   "v_conv1d.weight",
                                   "g_proj.weight",
                                   "x"};
static const int64_t     size[] = {HD * HID, GD *HID, GD *HID, H *HID, H *HID, H,     H,       H,     HD *W,
                                   GD *W,    D,       HID *HD, H *HID, H,      GD *W, HD *HID, N *HID};

static const int32_t docs[] = {0, 9, 10, 21};

static const gr_mixer_spec all_on = {.hidden = HID,
                                     .n_head = H,
                                     .n_kv_head = G,
                                     .head_dim = D,
                                     .conv_width = W,
                                     .chunk = 16,
                                     .gka_iterations = 60,
                                     .gka_decode_iterations = 60,
                                     .gka_ridge = 0.02f,
                                     .gka_alpha = true,
                                     .gka_v_conv = true,
                                     .gka_output_gate = true};
static gr_mixer_spec       spec;
static const gr_ops       *op;
static gr_arena           *keep, *scratch;
static float               w[N_ALL + 1][HD * HID], dw[N_ALL + 1][HD * HID], y[N * HID], dy[N * HID];
static double              w64[N_ALL + 1][HD * HID], y64[N * HID];

static uint64_t seed = 3;

static float uniform(void) /* (-1, 1) */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / 8388608.0f - 1.0f;
}

static void draw(void)
{
    for (int i = 0; i <= N_ALL; i++)
        for (int64_t j = 0; j < size[i]; j++) {
            const float u = uniform();

            w[i][j] = i == ON ? 1 + 0.3f * u : i == X ? u : i == DTB ? u - 1 : 0.6f * u;
            w64[i][j] = w[i][j];
        }
    for (int i = 0; i < N * HID; i++) dy[i] = uniform();
}

static bool has(int i)
{
    return (i != WAL && i != BAL) ? (i != CV || spec.gka_v_conv) && (i != WG || spec.gka_output_gate) : spec.gka_alpha;
}

/* ---- the formulas, docs/math.md 3.2, token by token -------------------------------------------------------------- */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void linear(double *out, const double *x, int m, int n_out, int n_in)
{
    for (int i = 0; i < n_out; i++) {
        out[i] = 0;
        for (int j = 0; j < n_in; j++) out[i] += w64[m][i * n_in + j] * x[j];
    }
}

/* silu(conv(x m^T)) at token t of the document that starts at `first`. */
static void short_conv(double *out, int m, int tap, int n, int first, int t)
{
    double z[HD], sum[HD] = {0};

    for (int j = 0; j < W; j++) {
        const int s = t - (W - 1) + j;

        if (s < first) continue;
        linear(z, w64[X] + s * HID, m, n, HID);
        for (int c = 0; c < n; c++) sum[c] += w64[tap][c * W + j] * z[c];
    }
    for (int c = 0; c < n; c++) out[c] = sum[c] * sigmoid(sum[c]);
}

static void unit_length(double *x)
{
    double s = 0;

    for (int i = 0; i < D; i++) s += x[i] * x[i];
    for (int i = 0; i < D; i++) x[i] /= sqrt(s) + 1e-6;
}

/* x = (A + 0.02 |A| I)^-1 b by elimination; A is positive semidefinite, so nothing needs to change places. */
static void ridge_solve(double A0[D][D], const double *b, double *x)
{
    double A[D][D], norm = 0;

    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) norm += A0[i][j] * A0[i][j];
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) A[i][j] = A0[i][j] + (i == j ? 0.02 * sqrt(norm) : 0);
    memcpy(x, b, D * sizeof *x);
    for (int i = 0; i < D; i++)
        for (int r = i + 1; r < D; r++) {
            const double f = A[r][i] / A[i][i];
            for (int j = i; j < D; j++) A[r][j] -= f * A[i][j];
            x[r] -= f * x[i];
        }
    for (int i = D - 1; i >= 0; i--) {
        for (int j = i + 1; j < D; j++) x[i] -= A[i][j] * x[j];
        x[i] /= A[i][i];
    }
}

/* One head at one token: o [D], from unit q and k, v and the gates. */
static void head(double *o, double S[D][D], double M[D][D], const double *q, const double *k, const double *v, double g,
                 double beta, double alpha)
{
    double x[D];

    for (int r = 0; r < D; r++)
        for (int c = 0; c < D; c++) {
            S[r][c] = exp(g) * S[r][c] + beta * k[r] * beta * v[c];
            M[r][c] = exp(g) * M[r][c] + beta * k[r] * beta * k[c];
        }
    ridge_solve(M, q, x);
    for (int c = 0; c < D; c++) {
        o[c] = 0;
        for (int r = 0; r < D; r++) o[c] += (q[r] + alpha * (x[r] - q[r])) * S[r][c] / sqrt(D);
    }
}

static void oracle(double *out, const int32_t *doc, int n_doc)
{
    static double S[H][D][D], M[H][D][D];

    for (int d = 0; d < n_doc; d++) {
        memset(S, 0, sizeof S);
        memset(M, 0, sizeof M);
        for (int t = doc[d]; t < doc[d + 1]; t++) {
            const double *x = w64[X] + t * HID;
            double        q[HD], k[GD], v[GD], z[HD], a[H], b[H], al[H], h[HD];

            short_conv(q, WQ, CQ, HD, doc[d], t);
            short_conv(k, WK, CK, GD, doc[d], t);
            if (spec.gka_v_conv)
                short_conv(v, WV, CV, GD, doc[d], t);
            else
                linear(v, x, WV, GD, HID);
            for (int i = 0; i < H; i++) unit_length(q + i * D);
            for (int i = 0; i < G; i++) unit_length(k + i * D);
            linear(z, x, WG, HD, HID);
            linear(a, x, WA, H, HID);
            linear(b, x, WB, H, HID);
            linear(al, x, WAL, H, HID);
            for (int i = 0; i < H; i++) {
                const double g = -exp(w64[ALOG][i]) * log1p(exp(a[i] + w64[DTB][i]));
                const double alpha = spec.gka_alpha ? sigmoid(al[i] + w64[BAL][i]) : 1;
                double       o[D], ms = 0;

                head(o, S[i], M[i], q + i * D, k + i / (H / G) * D, v + i / (H / G) * D, g,
                     sigmoid(b[i] + w64[BB][i]) + 1e-6, alpha);
                for (int c = 0; c < D; c++) ms += o[c] * o[c] / D;
                for (int c = 0; c < D; c++) {
                    const double gate = z[i * D + c];
                    h[i * D + c] =
                        o[c] / sqrt(ms + 1e-6) * w64[ON][c] * (spec.gka_output_gate ? gate * sigmoid(gate) : 1);
                }
            }
            linear(out + t * HID, h, WO, HID, HD);
        }
    }
}

static double objective(void)
{
    double s = 0;

    oracle(y64, docs, 3);
    for (int i = 0; i < N * HID; i++) s += y64[i] * dy[i];
    return s;
}

/* ---- the layer under test --------------------------------------------------------------------------------------- */

static gr_tensor flat(float *p, int64_t n)
{
    return gr_view1(p, GR_F32, n);
}

/* The layer's parameters in its order, of the arrays here; which[j] says which array the j-th is. */
static int views(gr_tensor *t, float (*p)[HD * HID], int *which)
{
    gr_param_spec s[GR_MIXER_PARAMS];
    const int     n = gr_gka_def.params(&spec, s);
    int           expected = 0;

    for (int i = 0; i < N_ALL; i++) expected += has(i);
    CHECK(n == expected, "%d parameters, not %d", n, expected);
    for (int j = 0; j < n; j++) {
        int i = 0;

        while (i < N_ALL && strcmp(s[j].name, name[i]) != 0) i++;
        CHECK(i < N_ALL && has(i), "parameter %s", s[j].name);
        if (i == N_ALL) exit(1);
        which[j] = i;
        t[j] = (gr_tensor){p[i], GR_F32, s[j].rank, {s[j].dim[0], s[j].dim[1], s[j].dim[2], 1}};
        CHECK(gr_count(t[j]) == size[i], "%s has %lld elements", s[j].name, (long long)gr_count(t[j]));
    }
    return n;
}

/* frozen: bit i set: no gradient of parameter i; bit X: none of x. */
static void run(const int32_t *doc, int n_doc, unsigned frozen, bool with_backward)
{
    gr_tensor          wt[GR_MIXER_PARAMS], dwt[GR_MIXER_PARAMS];
    const gr_seq       seq = {.n = N, .n_doc = n_doc, .doc = doc};
    const gr_mixer_ctx c = {.op = op,
                            .core = &gr_gka_cpu,
                            .spec = &spec,
                            .seq = &seq,
                            .w = wt,
                            .dw = dwt,
                            .keep = keep,
                            .scratch = scratch};
    const gr_tensor    x = gr_as2(flat(w[X], N * HID), N, HID), yt = gr_as2(flat(y, N * HID), N, HID);
    gr_tape            tape;
    int                which[GR_MIXER_PARAMS], n;

    n = views(wt, w, which);
    views(dwt, dw, which);
    for (int j = 0; j < n; j++)
        if (frozen >> which[j] & 1) dwt[j] = gr_none();
    for (int i = 0; i < N * HID; i++) y[i] = dw[X][i] = NAN;
    gr_gka_def.forward(&c, yt, x, with_backward ? &tape : NULL);
    if (with_backward)
        gr_gka_def.backward(&c, frozen >> X & 1 ? gr_none() : gr_as2(flat(dw[X], N * HID), N, HID),
                            gr_as2(flat(dy, N * HID), N, HID), x, &tape);
    CHECK(gr_arena_reset(keep) == GR_OK && gr_arena_reset(scratch) == GR_OK, "arena");
}

static void test_gradients(const char *what)
{
    const double h = 1e-5; /* central: error h^2 ~ 1e-10, rounding 1e-16 / h ~ 1e-11 */
    static float before[N_ALL + 1][HD * HID];

    draw();
    oracle(y64, docs, 3);
    for (int i = 0; i < N_ALL; i++)
        for (int64_t j = 0; j < size[i]; j++) dw[i][j] = before[i][j] = 0.5f; /* gradients are added */
    run(docs, 3, 0, true);
    CHECK_REL(y, y64, N * HID, 2e-5, what); /* short documents: H of rank 1, see test_mixer_gka.c */
    for (int i = 0; i <= N_ALL; i++) {
        double ref[HD * HID];
        char   text[80];

        if (i < N_ALL && !has(i)) continue;
        for (int64_t j = 0; j < size[i]; j++) {
            const double at = w64[i][j];
            double       up, down;

            w64[i][j] = at + h, up = objective();
            w64[i][j] = at - h, down = objective();
            w64[i][j] = at;
            ref[j] = (up - down) / (2 * h);
            if (i != X) dw[i][j] -= before[i][j];
        }
        snprintf(text, sizeof text, "%s: gradient of %s", what, name[i]);
        CHECK_REL(dw[i], ref, size[i], 1e-4, text);
    }
}

static void test_options(void)
{
    test_gradients("all on");
    spec.gka_alpha = false;
    test_gradients("no alpha");
    spec.gka_output_gate = false;
    test_gradients("no alpha, no output gate");
    spec = all_on;
    spec.gka_v_conv = false;
    test_gradients("no v_conv");
    spec = all_on;
}

/* What is frozen is not touched, and makes no difference to the rest. */
static void test_frozen(void)
{
    static float   all[N_ALL + 1][HD * HID];
    const unsigned some = 1u << WQ | 1u << CK | 1u << ALOG | 1u << ON | 1u << BB | 1u << WAL | 1u << X;
    const unsigned others = (1u << (X + 1)) - 1 - some;

    draw();
    memset(dw, 0, sizeof dw);
    run(docs, 3, 0, true);
    memcpy(all, dw, sizeof dw);
    for (int turn = 0; turn < 2; turn++) {
        const unsigned frozen = turn ? others : some;

        memset(dw, 0, sizeof dw);
        run(docs, 3, frozen, true);
        for (int i = 0; i <= N_ALL; i++) {
            int bad = 0;
            for (int64_t j = 0; j < size[i]; j++)
                bad += !(frozen >> i & 1) ? dw[i][j] != all[i][j] : i == X ? !isnan(dw[i][j]) : dw[i][j] != 0;
            CHECK(bad == 0, "%s: %d gradients wrong", name[i], bad);
        }
    }
}

/* All tokens, one by one. */
static void decode(float *y1)
{
    static float   room[4][2 * H * D * D];
    gr_tensor      wt[GR_MIXER_PARAMS];
    gr_mixer_state state;
    gr_mixer_ctx   c = {.op = op, .core = &gr_gka_cpu, .spec = &spec, .w = wt, .scratch = scratch};
    int            which[GR_MIXER_PARAMS], n_state;

    views(wt, w, which);
    memset(room, 0, sizeof room);
    n_state = gr_gka_def.state_shape(&spec, N, &state);
    CHECK(n_state == 3 + spec.gka_v_conv, "%d states", n_state);
    for (int i = 0; i < n_state; i++) {
        CHECK(gr_count(state.t[i]) <= 2 * H * D * D, "state %d", i);
        state.t[i].data = room[i];
    }
    for (int t = 0; t < N; t++)
        gr_gka_def.step(&c, gr_as2(flat(y1 + t * HID, HID), 1, HID), gr_as2(flat(w[X] + t * HID, HID), 1, HID), &state,
                        t);
    CHECK(gr_arena_reset(scratch) == GR_OK, "arena");
}

static void test_decode(void)
{
    static const int32_t whole[] = {0, N};
    float                y1[N * HID];
    double               y2[N * HID];

    for (int conv = 0; conv < 2; conv++) {
        spec.gka_v_conv = conv;
        draw();
        oracle(y64, whole, 1);
        run(whole, 1, 0, false);
        CHECK_REL(y, y64, N * HID, 2e-5, "inference");
        decode(y1);
        CHECK_REL(y1, y64, N * HID, 2e-5, "decoding");
    }
    /* Few iterations in decoding are as few over the sequence, and far from many. */
    spec.gka_decode_iterations = 4;
    decode(y1);
    CHECK(check_rel(y1, y64, N * HID) > 0.02, "4 iterations are as good as 60");
    spec.gka_iterations = 4;
    run(whole, 1, 0, false);
    for (int i = 0; i < N * HID; i++) y2[i] = y[i];
    CHECK_REL(y1, y2, N * HID, 2e-5, "decoding with 4 iterations");
    spec = all_on;
}

static void test_from_attention(void)
{
    static float attn[4][HD * HID];
    float       *to[GR_MIXER_PARAMS];
    const float *from[4] = {attn[0], attn[1], attn[2], attn[3]};
    gr_tensor    t[GR_MIXER_PARAMS];
    const int    rep = H / G;
    int          bad = 0, which[GR_MIXER_PARAMS], n;

    draw();
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < HD * HID; j++) attn[i][j] = uniform();
    n = views(t, w, which);
    for (int j = 0; j < n; j++) to[j] = t[j].data;
    gr_gka_def.from_attention(&spec, to, from);
    for (int h = 0; h < H; h++) /* channel c of head h: kv head h / rep, channel ((h mod rep) D + c) / rep of it */
        for (int c = 0; c < D; c++)
            for (int j = 0; j < HID; j++) {
                const int row = h / rep * D + (h % rep * D + c) / rep;
                bad += w[WG][(h * D + c) * HID + j] != (attn[3][j * HD + h * D + c] + attn[2][row * HID + j]) / 2;
            }
    CHECK(bad == 0, "%d elements of g_proj", bad);
    CHECK(!memcmp(w[WQ], attn[0], sizeof(float) * HD * HID) && !memcmp(w[WK], attn[1], sizeof(float) * GD * HID) &&
              !memcmp(w[WV], attn[2], sizeof(float) * GD * HID) && !memcmp(w[WO], attn[3], sizeof(float) * HD * HID),
          "projections");
    for (int i = 0; i < N_ALL; i++) {
        const bool set = i == WQ || i == WK || i == WV || i == WO || i == WG;
        for (int64_t j = 0; j < size[i] && !set; j++) bad += (double)w[i][j] != w64[i][j];
    }
    CHECK(bad == 0, "%d elements that attention does not determine changed", bad);
    spec.gka_output_gate = false; /* nowhere to put the gate */
    draw();
    n = views(t, w, which);
    for (int j = 0; j < n; j++) to[j] = t[j].data;
    gr_gka_def.from_attention(&spec, to, from);
    for (int64_t j = 0; j < size[WG]; j++) bad += (double)w[WG][j] != w64[WG][j];
    CHECK(bad == 0 && !memcmp(w[WQ], attn[0], sizeof(float) * HD * HID), "without a gate");
    spec = all_on;
}

static void test_cost(void)
{
    gr_mixer_spec       s = {.hidden = 4096,
                             .n_head = 32,
                             .n_kv_head = 8,
                             .head_dim = 128,
                             .conv_width = 4,
                             .chunk = 64,
                             .gka_iterations = 30,
                             .gka_alpha = true,
                             .gka_v_conv = true,
                             .gka_output_gate = true};
    const gr_mixer_cost c = gr_gka_def.cost(&s, 8192);

    /* docs/math.md 10: per token and head 30 (4 C D + 2 D^2) for the solve, 6 C D + 2 C^2 + 8 D^2 for the rest. */
    CHECK(c.core_forward == 32 * (30 * 65536.0 + 188416.0), "core forward %g", c.core_forward);
    CHECK(c.core_backward == 32 * (30 * 65536.0 + 589824.0), "core backward %g", c.core_backward);
    CHECK(c.state_bytes == 4.0 * (2 * 32 * 128 * 128 + 3 * 48 * 128), "state %g", c.state_bytes);
    CHECK(c.forward > c.core_forward && c.backward > c.core_backward, "layer");
    s.gka_output_gate = s.gka_alpha = s.gka_v_conv = false;
    CHECK(c.forward - gr_gka_def.cost(&s, 8192).forward == 2.0 * 4096 * (32 * 128 + 32), "what options cost");
}

int main(void)
{
    char note[256];

    if (gr_backend_open("cpu", 2, &op, note, sizeof note) != GR_OK || gr_arena_open(&keep, op, "keep") != GR_OK ||
        gr_arena_open(&scratch, op, "scratch") != GR_OK)
        return 1;
    spec = all_on;
    test_options();
    test_frozen();
    test_decode();
    test_from_attention();
    test_cost();
    gr_arena_close(&keep);
    gr_arena_close(&scratch);
    return check_result();
}
