/* The Mamba-2 layer: forward against the formulas in fp64, every gradient against central differences of them, decoding
 * against forward, initialisation from attention against an index formula; with and without norms of B and C. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/layer_oracle.h"

extern const gr_mixer_def  gr_mamba2_def;
extern const gr_mixer_core gr_mamba2_cpu;

enum { WIN, CONV, CONVB, DTB, ALOG, SKIP, NORM, WOUT, BN, CN, N_PARAM }; /* the order of params() */
enum { MAX_K = 9 };

/* in_proj's rows z, x, B, C, dt; B and C have K channels. */
static int K(void)
{
    return lay_spec.mamba2_state ? lay_spec.mamba2_state : D;
}

enum { ROW_X = HD, ROW_B = HD + GD };

static int row_c(void)
{
    return ROW_B + G * K();
}

static int row_dt(void)
{
    return row_c() + H * K();
}

static double draw(int i, double u)
{
    return i >= BN || i == NORM || i == SKIP ? 1 + 0.3 * u : i == DTB ? u - 1 : 0.6 * u;
}

/* docs/math.md 1.2, token by token. */
static void oracle(double *out, const int32_t *doc, int n_doc)
{
    static double  S[H][MAX_K][D], raw_x[N * GD], raw_b[N * G * MAX_K], raw_c[N * H * MAX_K];
    double *const *w = lay_w64;
    const double  *x0 = w[lay_n];
    const int      k = K(), HK = H * k, GK = G * k;

    for (int t = 0; t < N; t++) {
        double *b = raw_b + t * GK, *c = raw_c + t * HK;

        lay_linear(raw_x + t * GD, x0 + t * HID, w[WIN] + ROW_X * HID, GD, HID);
        lay_linear(b, x0 + t * HID, w[WIN] + ROW_B * HID, GK, HID);
        lay_linear(c, x0 + t * HID, w[WIN] + row_c() * HID, HK, HID);
        for (int i = 0; lay_n == N_PARAM && i < G; i++) lay_rmsnorm(b + i * k, b + i * k, w[BN], k, 1e-6);
        for (int i = 0; lay_n == N_PARAM && i < H; i++) lay_rmsnorm(c + i * k, c + i * k, w[CN], k, 1e-6);
    }
    for (int d = 0; d < n_doc; d++) {
        memset(S, 0, sizeof S);
        for (int t = doc[d]; t < doc[d + 1]; t++) {
            const double *u = x0 + t * HID;
            double        x[GD], B[G * MAX_K], C[H * MAX_K], z[HD], dt[H], n[HD];

            lay_conv(x, raw_x, w[CONV], w[CONVB], GD, doc[d], t);
            lay_conv(B, raw_b, w[CONV] + GD * W, w[CONVB] + GD, GK, doc[d], t);
            lay_conv(C, raw_c, w[CONV] + (GD + GK) * W, w[CONVB] + GD + GK, HK, doc[d], t);
            lay_linear(z, u, w[WIN], HD, HID);
            lay_linear(dt, u, w[WIN] + row_dt() * HID, H, HID);
            for (int i = 0; i < H; i++) {
                const double  delta = lay_softplus(dt[i] + w[DTB][i]), a = exp(-exp(w[ALOG][i]) * delta);
                const double *Bi = B + i / (H / G) * k, *xi = x + i / (H / G) * D;

                for (int c = 0; c < D; c++) {
                    double y = w[SKIP][i] * xi[c];

                    for (int r = 0; r < k; r++) {
                        S[i][r][c] = a * S[i][r][c] + delta * Bi[r] * xi[c];
                        y += C[i * k + r] * S[i][r][c];
                    }
                    n[i * D + c] = y * lay_silu(z[i * D + c]);
                }
                lay_rmsnorm(n + i * D, n + i * D, w[NORM] + i * D, D, 1e-5);
            }
            lay_linear(out + t * HID, n, w[WOUT], HID, HD);
        }
    }
}

/* B's or C's rows of every head from attention's, the first of them where numbers differ; the rest as it was. */
static void check_heads(int first, const float *attn, int n_head, const char *what)
{
    int bad = 0;

    for (int h = 0; h < n_head; h++)
        for (int r = 0; r < K(); r++)
            for (int j = 0; j < HID; j++) {
                const int at = (first + h * K() + r) * HID + j;
                bad += (double)lay_w[WIN][at] != (r < D ? (double)attn[(h * D + r) * HID + j] : lay_w64[WIN][at]);
            }
    CHECK(bad == 0, "%d elements of %s, state %d", bad, what, K());
}

static void test_from_attention(bool llama, int state)
{
    const uint64_t norms = llama ? 0 : 1 << BN | 1 << CN;
    const float   *attn[GR_ATTN_PARAMS];
    const size_t   both = (size_t)(state && state < D ? state : D) * sizeof(float);
    int            bad = 0;

    lay_spec.qk_norm = true;
    lay_spec.mamba2_llama = llama;
    lay_spec.mamba2_state = state;
    lay_from_attention(attn, 1 << WIN | 1 << WOUT | norms);
    CHECK(lay_n == (llama ? BN : N_PARAM), "%d parameters", lay_n);
    lay_check_rows(lay_w[WIN], ROW_X, attn[GR_ATTN_V], GD, "x");
    check_heads(ROW_B, attn[GR_ATTN_K], G, "B");
    check_heads(row_c(), attn[GR_ATTN_Q], H, "C");
    lay_check_rows(lay_w[WOUT], 0, attn[GR_ATTN_O], HD, "out_proj"); /* [HID, HD]: as many elements */
    for (int64_t j = row_dt() * HID; j < lay_size[WIN]; j++) bad += (double)lay_w[WIN][j] != lay_w64[WIN][j];
    for (int64_t j = 0; llama && j < HD * HID; j++) bad += (double)lay_w[WIN][j] != lay_w64[WIN][j];
    CHECK(bad == 0, "%d elements of dt's or z's rows changed", bad);
    if (llama) return;
    lay_check_gate(lay_w[WIN], attn);
    CHECK(!memcmp(lay_w[BN], attn[GR_ATTN_K_NORM], both), "B_norm");
    CHECK(!memcmp(lay_w[CN], attn[GR_ATTN_Q_NORM], both), "C_norm");
}

static void test_cost(void)
{
    gr_mixer_spec s = lay_large();
    gr_mixer_cost c = gr_mamba2_def.cost(&s, 8192);

    /* docs/math.md 10: 98 and 246 kFLOP per token and head; replaying the states is in the second's 10 D^2. */
    CHECK(c.core_forward == 32 * 98304.0 && c.core_backward == 32 * 245760.0, "core %g, %g", c.core_forward,
          c.core_backward);
    CHECK(c.forward - c.core_forward == 2.0 * 4096 * (10272 + 4096), "projections %g", c.forward - c.core_forward);
    CHECK(c.state_bytes == 4.0 * (32 * 128 * 128 + 3 * 48 * 128), "state %g", c.state_bytes);
    s.mamba2_state = 16;
    c = gr_mamba2_def.cost(&s, 8192);
    CHECK(c.core_forward == 32 * (128.0 * 144 + 4 * 16 * 128), "state 16: core %g", c.core_forward);
    CHECK(c.state_bytes == 4.0 * (32 * 16 * 128 + 3 * (8 * 128 + 40 * 16)), "state 16: %g bytes", c.state_bytes);
}

int main(void)
{
    static const lay_type mamba2 = {&gr_mamba2_def, &gr_mamba2_cpu, draw, oracle};

    if (!lay_open(&mamba2)) return 1;
    lay_test_gradients("without norms", 1e-5);
    lay_test_decode(4, 1e-5);
    lay_spec.qk_norm = true;
    lay_test_gradients("with norms", 1e-5);
    lay_test_decode(4, 1e-5);
    lay_test_frozen();
    for (int state = 3; state <= MAX_K; state += MAX_K - 3) {
        char what[32];

        lay_spec.mamba2_state = state;
        snprintf(what, sizeof what, "state of %d rows", state);
        lay_test_gradients(what, 1e-5);
        lay_test_decode(4, 1e-5);
        test_from_attention(false, state);
    }
    test_from_attention(false, 0);
    test_from_attention(true, 0);
    test_cost();
    return lay_close();
}
