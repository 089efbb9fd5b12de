/* The Gated DeltaNet layer: forward against the formulas in fp64, every gradient against central differences of them,
 * decoding against forward, initialisation from attention against an index formula. */
/*TEST
np: 1
timeout: 60
*/
#include "kernels/mixer.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

extern const gr_mixer_def  gr_gdn_def;
extern const gr_mixer_core gr_gdn_cpu;

enum { N = 21, HID = 10, H = 4, G = 2, D = 6, W = 4, HD = H * D, GD = G * D };

/* In the order of params(); X last, to be differentiated like them. */
enum { WQ, WK, WV, WB, WGK, ALOG, DTB, CQ, CK, CV, WG, ON, WO, N_PARAM, X = N_PARAM };
static const int64_t size[] = {HD * HID, GD *HID, GD *HID, H *HID,  H *HID, H,       H,
                               HD *W,    GD *W,   GD *W,   HD *HID, D,      HID *HD, N *HID};

static const int32_t docs[] = {0, 9, 10, 21};

static gr_mixer_spec spec = {.hidden = HID, .n_head = H, .n_kv_head = G, .head_dim = D, .conv_width = W, .chunk = 16};
static const gr_ops *op;
static gr_arena     *keep, *scratch;
static float         w[N_PARAM + 1][HD * HID], dw[N_PARAM + 1][HD * HID], y[N * HID], dy[N * HID];
static double        w64[N_PARAM + 1][HD * HID], y64[N * HID];

static uint64_t seed = 3;

static float uniform(void) /* (-1, 1) */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / 8388608.0f - 1.0f;
}

static void draw(void)
{
    for (int i = 0; i <= N_PARAM; i++)
        for (int64_t j = 0; j < size[i]; j++) {
            const float u = uniform();

            w[i][j] = i == ON ? 1 + 0.3f * u : i == X ? u : i == DTB ? u - 1 : 0.6f * u;
            w64[i][j] = w[i][j];
        }
    for (int i = 0; i < N * HID; i++) dy[i] = uniform();
}

/* ---- the formulas, docs/math.md 2.2, token by token ------------------------------------------------------------- */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void linear(double *out, const double *x, const double *m, int n_out, int n_in)
{
    for (int i = 0; i < n_out; i++) {
        out[i] = 0;
        for (int j = 0; j < n_in; j++) out[i] += m[i * n_in + j] * x[j];
    }
}

/* silu(conv(x m^T)) at token t of the document that starts at `first`. */
static void short_conv(double *out, const double *x, const double *m, const double *tap, int n, int first, int t)
{
    double z[HD], sum[HD] = {0};

    for (int j = 0; j < W; j++) {
        const int s = t - (W - 1) + j;

        if (s < first) continue;
        linear(z, x + s * HID, m, n, HID);
        for (int c = 0; c < n; c++) sum[c] += tap[c * W + j] * z[c];
    }
    for (int c = 0; c < n; c++) out[c] = sum[c] * sigmoid(sum[c]);
}

static void unit_length(double *x)
{
    double s = 1e-6;

    for (int i = 0; i < D; i++) s += x[i] * x[i];
    for (int i = 0; i < D; i++) x[i] /= sqrt(s);
}

static void oracle(double *out, const int32_t *doc, int n_doc)
{
    static double S[H][D][D];

    for (int d = 0; d < n_doc; d++) {
        memset(S, 0, sizeof S);
        for (int t = doc[d]; t < doc[d + 1]; t++) {
            const double *x = w64[X] + t * HID;
            double        q[HD], k[GD], v[GD], z[HD], a[H], b[H], h[HD];

            short_conv(q, w64[X], w64[WQ], w64[CQ], HD, doc[d], t);
            short_conv(k, w64[X], w64[WK], w64[CK], GD, doc[d], t);
            short_conv(v, w64[X], w64[WV], w64[CV], GD, doc[d], t);
            for (int i = 0; i < H; i++) unit_length(q + i * D);
            for (int i = 0; i < G; i++) unit_length(k + i * D);
            linear(z, x, w64[WG], HD, HID);
            linear(a, x, w64[WGK], H, HID);
            linear(b, x, w64[WB], H, HID);
            for (int i = 0; i < H; i++) {
                const double  g = -exp(w64[ALOG][i]) * log1p(exp(a[i] + w64[DTB][i]));
                const double  beta = (spec.neg_eigval ? 2 : 1) * sigmoid(b[i]);
                const double *ki = k + i / (H / G) * D, *vi = v + i / (H / G) * D;
                double        o[D], ms = 0;

                for (int c = 0; c < D; c++) {
                    double err = vi[c];
                    for (int r = 0; r < D; r++) S[i][r][c] *= exp(g), err -= ki[r] * S[i][r][c];
                    o[c] = 0;
                    for (int r = 0; r < D; r++)
                        S[i][r][c] += ki[r] * beta * err, o[c] += q[i * D + r] * S[i][r][c] / sqrt(D);
                    ms += o[c] * o[c] / D;
                }
                for (int c = 0; c < D; c++) {
                    const double gate = z[i * D + c];
                    h[i * D + c] = o[c] / sqrt(ms + 1e-5) * w64[ON][c] * gate * sigmoid(gate);
                }
            }
            linear(out + t * HID, h, w64[WO], HID, HD);
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

static void views(gr_tensor *t, float (*p)[HD * HID])
{
    gr_param_spec s[GR_MIXER_PARAMS];
    const int     n = gr_gdn_def.params(&spec, s);

    CHECK(n == N_PARAM, "%d parameters", n);
    for (int i = 0; i < n; i++) {
        t[i] = (gr_tensor){p[i], GR_F32, s[i].rank, {s[i].dim[0], s[i].dim[1], s[i].dim[2], 1}};
        CHECK(gr_count(t[i]) == size[i], "%s has %lld elements", s[i].name, (long long)gr_count(t[i]));
    }
}

/* frozen: bit i set: no gradient of parameter i; bit X: none of x. */
static void run(const int32_t *doc, int n_doc, unsigned frozen, bool with_backward)
{
    gr_tensor          wt[N_PARAM], dwt[N_PARAM];
    const gr_seq       seq = {.n = N, .n_doc = n_doc, .doc = doc};
    const gr_mixer_ctx c = {.op = op,
                            .core = &gr_gdn_cpu,
                            .spec = &spec,
                            .seq = &seq,
                            .w = wt,
                            .dw = dwt,
                            .keep = keep,
                            .scratch = scratch};
    const gr_tensor    x = gr_as2(flat(w[X], N * HID), N, HID), yt = gr_as2(flat(y, N * HID), N, HID);
    gr_tape            tape;

    views(wt, w);
    views(dwt, dw);
    for (int i = 0; i < N_PARAM; i++)
        if (frozen >> i & 1) dwt[i] = gr_none();
    for (int i = 0; i < N * HID; i++) y[i] = dw[X][i] = NAN;
    gr_gdn_def.forward(&c, yt, x, with_backward ? &tape : NULL);
    if (with_backward)
        gr_gdn_def.backward(&c, frozen >> X & 1 ? gr_none() : gr_as2(flat(dw[X], N * HID), N, HID),
                            gr_as2(flat(dy, N * HID), N, HID), x, &tape);
    CHECK(gr_arena_reset(keep) == GR_OK && gr_arena_reset(scratch) == GR_OK, "arena");
}

static void test_gradients(bool neg_eigval)
{
    const double h = 1e-5; /* central: error h^2 ~ 1e-10, rounding 1e-16 / h ~ 1e-11 */
    static float before[N_PARAM + 1][HD * HID];

    spec.neg_eigval = neg_eigval;
    draw();
    oracle(y64, docs, 3);
    for (int i = 0; i < N_PARAM; i++)
        for (int64_t j = 0; j < size[i]; j++) dw[i][j] = before[i][j] = 0.5f; /* gradients are added */
    run(docs, 3, 0, true);
    CHECK_REL(y, y64, N * HID, 1e-5, "y");
    for (int i = 0; i <= N_PARAM; i++) {
        double ref[HD * HID];
        char   what[64];

        for (int64_t j = 0; j < size[i]; j++) {
            const double at = w64[i][j];
            double       up, down;

            w64[i][j] = at + h, up = objective();
            w64[i][j] = at - h, down = objective();
            w64[i][j] = at;
            ref[j] = (up - down) / (2 * h);
            if (i != X) dw[i][j] -= before[i][j];
        }
        snprintf(what, sizeof what, "gradient %d%s", i, neg_eigval ? ", beta up to 2" : "");
        CHECK_REL(dw[i], ref, size[i], 1e-4, what);
    }
}

/* What is frozen is not touched, and makes no difference to the rest. */
static void test_frozen(void)
{
    static float all[N_PARAM + 1][HD * HID];

    draw();
    memset(dw, 0, sizeof dw);
    run(docs, 3, 0, true);
    memcpy(all, dw, sizeof dw);
    memset(dw, 0, sizeof dw);
    run(docs, 3, 1u << WQ | 1u << CK | 1u << ALOG | 1u << ON | 1u << X, true);
    for (int i = 0; i <= N_PARAM; i++) {
        const bool frozen = i == WQ || i == CK || i == ALOG || i == ON || i == X;
        int        bad = 0;
        for (int64_t j = 0; j < size[i]; j++)
            bad += !frozen ? dw[i][j] != all[i][j] : i == X ? !isnan(dw[i][j]) : dw[i][j] != 0;
        CHECK(bad == 0, "parameter %d: %d gradients wrong", i, bad);
    }
}

static void test_decode(void)
{
    static const int32_t whole[] = {0, N};
    static float         room[4][HD * HID];
    float                y1[N * HID];
    gr_tensor            wt[N_PARAM];
    gr_mixer_state       state;
    gr_mixer_ctx         c = {.op = op, .core = &gr_gdn_cpu, .spec = &spec, .w = wt, .scratch = scratch};

    draw();
    views(wt, w);
    oracle(y64, whole, 1);
    run(whole, 1, 0, false);
    CHECK_REL(y, y64, N * HID, 1e-5, "inference");
    CHECK(gr_gdn_def.state_shape(&spec, N, &state) == 4, "states");
    for (int i = 0; i < 4; i++) {
        CHECK(gr_count(state.t[i]) <= HD * HID, "state %d", i);
        state.t[i].data = room[i];
    }
    for (int t = 0; t < N; t++)
        gr_gdn_def.step(&c, gr_as2(flat(y1 + t * HID, HID), 1, HID), gr_as2(flat(w[X] + t * HID, HID), 1, HID), &state,
                        t);
    CHECK_REL(y1, y64, N * HID, 1e-5, "decoding");
    CHECK(gr_arena_reset(scratch) == GR_OK, "arena");
}

static void test_from_attention(void)
{
    static float attn[4][HD * HID];
    float       *to[N_PARAM];
    const float *from[4] = {attn[0], attn[1], attn[2], attn[3]};
    const int    rep = H / G;
    int          bad = 0;

    draw();
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < HD * HID; j++) attn[i][j] = uniform();
    for (int i = 0; i < N_PARAM; i++) to[i] = w[i];
    gr_gdn_def.from_attention(&spec, to, from);
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
    for (int i = 0; i < N_PARAM; i++) {
        const bool set = i == WQ || i == WK || i == WV || i == WO || i == WG;
        for (int64_t j = 0; j < size[i] && !set; j++) bad += (double)w[i][j] != w64[i][j];
    }
    CHECK(bad == 0, "%d elements that attention does not determine changed", bad);
}

static void test_cost(void)
{
    const gr_mixer_spec s = {
        .hidden = 4096, .n_head = 32, .n_kv_head = 8, .head_dim = 128, .conv_width = 4, .chunk = 64};
    const gr_mixer_cost c = gr_gdn_def.cost(&s, 8192);

    /* docs/math.md 10: 164 kFLOP per token and head. */
    CHECK(c.core_forward == 32 * 163840.0, "core forward %g", c.core_forward);
    CHECK(c.state_bytes == 4.0 * (32 * 128 * 128 + 3 * 48 * 128), "state %g", c.state_bytes);
    CHECK(c.forward > c.core_forward && c.backward > 2 * c.forward, "layer");
}

int main(void)
{
    char note[256];

    if (gr_backend_open("cpu", 2, &op, note, sizeof note) != GR_OK || gr_arena_open(&keep, op, "keep") != GR_OK ||
        gr_arena_open(&scratch, op, "scratch") != GR_OK)
        return 1;
    test_gradients(false);
    test_gradients(true);
    test_frozen();
    test_decode();
    test_from_attention();
    test_cost();
    gr_arena_close(&keep);
    gr_arena_close(&scratch);
    return check_result();
}
