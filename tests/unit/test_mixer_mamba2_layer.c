/* The Mamba-2 layer: forward against the formulas in fp64, every gradient against central differences of them, decoding
 * against forward, initialisation from attention against an index formula; with and without norms of B and C. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/layer_oracle.h"

extern const gr_mixer_def  gr_mamba2_def;
extern const gr_mixer_core gr_mamba2_cpu;

enum { WIN, CONV, CONVB, DTB, ALOG, SKIP, NORM, WOUT, BN, CN, N_PARAM };                    /* the order of params() */
enum { ROW_Z, ROW_X = HD, ROW_B = HD + GD, ROW_C = HD + 2 * GD, ROW_DT = 2 * HD + 2 * GD }; /* of in_proj            */

static double draw(int i, double u)
{
    return i >= BN || i == NORM || i == SKIP ? 1 + 0.3 * u : i == DTB ? u - 1 : 0.6 * u;
}

/* docs/math.md 1.2, token by token. */
static void oracle(double *out, const int32_t *doc, int n_doc)
{
    static double  S[H][D][D], raw_x[N * GD], raw_b[N * GD], raw_c[N * HD];
    double *const *w = lay_w64;
    const double  *x0 = w[lay_n];

    for (int t = 0; t < N; t++) {
        double *b = raw_b + t * GD, *c = raw_c + t * HD;

        lay_linear(raw_x + t * GD, x0 + t * HID, w[WIN] + ROW_X * HID, GD, HID);
        lay_linear(b, x0 + t * HID, w[WIN] + ROW_B * HID, GD, HID);
        lay_linear(c, x0 + t * HID, w[WIN] + ROW_C * HID, HD, HID);
        for (int i = 0; lay_n == N_PARAM && i < G; i++) lay_rmsnorm(b + i * D, b + i * D, w[BN], D, 1e-6);
        for (int i = 0; lay_n == N_PARAM && i < H; i++) lay_rmsnorm(c + i * D, c + i * D, w[CN], D, 1e-6);
    }
    for (int d = 0; d < n_doc; d++) {
        memset(S, 0, sizeof S);
        for (int t = doc[d]; t < doc[d + 1]; t++) {
            const double *u = x0 + t * HID;
            double        x[GD], B[GD], C[HD], z[HD], dt[H], n[HD];

            lay_conv(x, raw_x, w[CONV], w[CONVB], GD, doc[d], t);
            lay_conv(B, raw_b, w[CONV] + GD * W, w[CONVB] + GD, GD, doc[d], t);
            lay_conv(C, raw_c, w[CONV] + 2 * GD * W, w[CONVB] + 2 * GD, HD, doc[d], t);
            lay_linear(z, u, w[WIN] + ROW_Z * HID, HD, HID);
            lay_linear(dt, u, w[WIN] + ROW_DT * HID, H, HID);
            for (int i = 0; i < H; i++) {
                const double  delta = lay_softplus(dt[i] + w[DTB][i]), a = exp(-exp(w[ALOG][i]) * delta);
                const double *Bi = B + i / (H / G) * D, *xi = x + i / (H / G) * D;

                for (int c = 0; c < D; c++) {
                    double y = w[SKIP][i] * xi[c];

                    for (int r = 0; r < D; r++) {
                        S[i][r][c] = a * S[i][r][c] + delta * Bi[r] * xi[c];
                        y += C[i * D + r] * S[i][r][c];
                    }
                    n[i * D + c] = y * lay_silu(z[i * D + c]);
                }
                lay_rmsnorm(n + i * D, n + i * D, w[NORM] + i * D, D, 1e-5);
            }
            lay_linear(out + t * HID, n, w[WOUT], HID, HD);
        }
    }
}

static void test_from_attention(bool llama)
{
    const uint64_t norms = llama ? 0 : 1 << BN | 1 << CN;
    const float   *attn[GR_ATTN_PARAMS];
    int            bad = 0;

    lay_spec.qk_norm = true;
    lay_spec.mamba2_llama = llama;
    lay_from_attention(attn, 1 << WIN | 1 << WOUT | norms);
    CHECK(lay_n == (llama ? BN : N_PARAM), "%d parameters", lay_n);
    lay_check_rows(lay_w[WIN], ROW_X, attn[GR_ATTN_V], GD, "x");
    lay_check_rows(lay_w[WIN], ROW_B, attn[GR_ATTN_K], GD, "B");
    lay_check_rows(lay_w[WIN], ROW_C, attn[GR_ATTN_Q], HD, "C");
    lay_check_rows(lay_w[WOUT], 0, attn[GR_ATTN_O], HD, "out_proj"); /* [HID, HD]: as many elements */
    for (int64_t j = ROW_DT * HID; j < lay_size[WIN]; j++) bad += (double)lay_w[WIN][j] != lay_w64[WIN][j];
    for (int64_t j = 0; llama && j < HD * HID; j++) bad += (double)lay_w[WIN][j] != lay_w64[WIN][j];
    CHECK(bad == 0, "%d elements of dt's or z's rows changed", bad);
    if (llama) return;
    lay_check_gate(lay_w[WIN], attn);
    CHECK(!memcmp(lay_w[BN], attn[GR_ATTN_K_NORM], D * sizeof(float)), "B_norm");
    CHECK(!memcmp(lay_w[CN], attn[GR_ATTN_Q_NORM], D * sizeof(float)), "C_norm");
}

static void test_cost(void)
{
    const gr_mixer_spec s = lay_large();
    const gr_mixer_cost c = gr_mamba2_def.cost(&s, 8192);

    /* docs/math.md 10: 98 and 246 kFLOP per token and head; replaying the states is in the second's 10 D^2. */
    CHECK(c.core_forward == 32 * 98304.0 && c.core_backward == 32 * 245760.0, "core %g, %g", c.core_forward,
          c.core_backward);
    CHECK(c.forward - c.core_forward == 2.0 * 4096 * (10272 + 4096), "projections %g", c.forward - c.core_forward);
    CHECK(c.state_bytes == 4.0 * (32 * 128 * 128 + 3 * 48 * 128), "state %g", c.state_bytes);
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
    test_from_attention(false);
    test_from_attention(true);
    test_cost();
    return lay_close();
}
