/* The Gated DeltaNet layer: forward against the formulas in fp64, every gradient against central differences of them,
 * decoding against forward, initialisation from attention against an index formula. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/layer_oracle.h"

extern const gr_mixer_def  gr_gdn_def;
extern const gr_mixer_core gr_gdn_cpu;

enum { WQ, WK, WV, WB, WGK, ALOG, DTB, CQ, CK, CV, WG, ON, WO, N_PARAM }; /* in the order of params() */

static double draw(int i, double u)
{
    return i == ON ? 1 + 0.3 * u : i == DTB ? u - 1 : 0.6 * u;
}

static void unit_length(double *x)
{
    double s = 1e-6;

    for (int i = 0; i < D; i++) s += x[i] * x[i];
    for (int i = 0; i < D; i++) x[i] /= sqrt(s);
}

/* docs/math.md 2.2, token by token. */
static void oracle(double *out, const int32_t *doc, int n_doc)
{
    static double  S[H][D][D], raw_q[N * HD], raw_k[N * GD], raw_v[N * GD];
    double *const *w = lay_w64;
    const double  *x0 = w[N_PARAM];

    for (int t = 0; t < N; t++) {
        lay_linear(raw_q + t * HD, x0 + t * HID, w[WQ], HD, HID);
        lay_linear(raw_k + t * GD, x0 + t * HID, w[WK], GD, HID);
        lay_linear(raw_v + t * GD, x0 + t * HID, w[WV], GD, HID);
    }
    for (int d = 0; d < n_doc; d++) {
        memset(S, 0, sizeof S);
        for (int t = doc[d]; t < doc[d + 1]; t++) {
            const double *x = x0 + t * HID;
            double        q[HD], k[GD], v[GD], z[HD], a[H], b[H], h[HD];

            lay_conv(q, raw_q, w[CQ], NULL, HD, doc[d], t);
            lay_conv(k, raw_k, w[CK], NULL, GD, doc[d], t);
            lay_conv(v, raw_v, w[CV], NULL, GD, doc[d], t);
            for (int i = 0; i < H; i++) unit_length(q + i * D);
            for (int i = 0; i < G; i++) unit_length(k + i * D);
            lay_linear(z, x, w[WG], HD, HID);
            lay_linear(a, x, w[WGK], H, HID);
            lay_linear(b, x, w[WB], H, HID);
            for (int i = 0; i < H; i++) {
                const double  g = -exp(w[ALOG][i]) * lay_softplus(a[i] + w[DTB][i]);
                const double  beta = (lay_spec.neg_eigval ? 2 : 1) * lay_sigmoid(b[i]);
                const double *ki = k + i / (H / G) * D, *vi = v + i / (H / G) * D;
                double        o[D];

                for (int c = 0; c < D; c++) {
                    double err = vi[c];
                    for (int r = 0; r < D; r++) S[i][r][c] *= exp(g), err -= ki[r] * S[i][r][c];
                    o[c] = 0;
                    for (int r = 0; r < D; r++)
                        S[i][r][c] += ki[r] * beta * err, o[c] += q[i * D + r] * S[i][r][c] / sqrt(D);
                }
                lay_rmsnorm(o, o, w[ON], D, 1e-5);
                for (int c = 0; c < D; c++) h[i * D + c] = o[c] * lay_silu(z[i * D + c]);
            }
            lay_linear(out + t * HID, h, w[WO], HID, HD);
        }
    }
}

static void test_from_attention(void)
{
    const float *attn[GR_ATTN_PARAMS];

    lay_from_attention(attn, 1 << WQ | 1 << WK | 1 << WV | 1 << WO | 1 << WG);
    lay_check_gate(lay_w[WG], attn);
    lay_check_rows(lay_w[WQ], 0, attn[GR_ATTN_Q], HD, "q");
    lay_check_rows(lay_w[WK], 0, attn[GR_ATTN_K], GD, "k");
    lay_check_rows(lay_w[WV], 0, attn[GR_ATTN_V], GD, "v");
    lay_check_rows(lay_w[WO], 0, attn[GR_ATTN_O], HD, "o"); /* [HID, HD]: as many elements */
}

static void test_cost(void)
{
    const gr_mixer_spec s = lay_large();
    const gr_mixer_cost c = gr_gdn_def.cost(&s, 8192);

    /* docs/math.md 10: 164 kFLOP per token and head. */
    CHECK(c.core_forward == 32 * 163840.0, "core forward %g", c.core_forward);
    CHECK(c.state_bytes == 4.0 * (32 * 128 * 128 + 3 * 48 * 128), "state %g", c.state_bytes);
    CHECK(c.forward > c.core_forward && c.backward > 2 * c.forward, "layer");
}

int main(void)
{
    static const lay_type gdn = {&gr_gdn_def, &gr_gdn_cpu, draw, oracle};

    if (!lay_open(&gdn)) return 1;
    CHECK(gr_gdn_def.params(&lay_spec, lay_p) == N_PARAM, "parameters");
    lay_test_gradients("beta up to 1", 1e-5);
    lay_spec.neg_eigval = true;
    lay_test_gradients("beta up to 2", 1e-5);
    lay_test_frozen();
    lay_test_decode(4, 1e-5);
    test_from_attention();
    test_cost();
    return lay_close();
}
