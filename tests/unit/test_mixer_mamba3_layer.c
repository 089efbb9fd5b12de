/* The Mamba-3 layer, SISO and MIMO: forward against the formulas in fp64, every gradient against central differences of
 * them, decoding against forward, initialisation from attention. */
/*TEST
np: 1
timeout: 60
*/
#include "tests/unit/layer_oracle.h"

extern const gr_mixer_def  gr_mamba3_def;
extern const gr_mixer_core gr_mamba3_cpu;

enum { WIN, DTB, BB, CB, BN, CN, SKIP, WOUT, MX, MZ, MO, MOST_R = 3 }; /* the order of params(); the norm comes last */

static int rows(void)
{
    return lay_spec.mimo_rank > 1 ? lay_spec.mimo_rank : 1;
}

static int norm(void)
{
    return rows() > 1 ? MO + 1 : WOUT + 1;
}

static int n_angle(void)
{
    return (int)(D * (double)lay_spec.rope_fraction) / 2;
}

/* Rows of in_proj: z, x, B, C, then step size, decay, tau, angles. */
static int row_of(char part)
{
    const int R = rows();

    return part == 'z'   ? 0
           : part == 'x' ? HD
           : part == 'B' ? HD + GD
           : part == 'C' ? HD + GD + R * GD
                         : HD + GD + R * (GD + HD);
}

static double draw(int i, double u)
{
    return i == BN || i == CN || i == SKIP || i > WOUT ? 1 + 0.3 * u : i == DTB ? u - 1 : 0.6 * u;
}

/* Channels 2i, 2i + 1, or i, i + D/2, turned by phi_i. */
static void turn(double *x, const double *phi)
{
    for (int i = 0; i < n_angle(); i++) {
        const int    a = rows() > 1 ? i : 2 * i, b = rows() > 1 ? i + D / 2 : 2 * i + 1;
        const double xa = x[a], xb = x[b];

        x[a] = xa * cos(phi[i]) - xb * sin(phi[i]);
        x[b] = xa * sin(phi[i]) + xb * cos(phi[i]);
    }
}

/* Row r of B or C of head h (of `heads` in in_proj), normalised, with bias, turned. */
static void key(double *k, const double *u, char part, int heads, int r, int h, int norm_w, const double *bias,
                const double *phi)
{
    lay_linear(k, u, lay_w64[WIN] + (row_of(part) + (r * heads + h) * D) * HID, D, HID);
    lay_rmsnorm(k, k, lay_w64[norm_w], D, 1e-5);
    for (int i = 0; i < D; i++) k[i] += bias[i];
    turn(k, phi);
}

/* docs/math.md 4.2, token by token. */
static void oracle(double *out, const int32_t *doc, int n_doc)
{
    static double        S[H][D][D], k1[H][MOST_R][D], v1[H][MOST_R][D], phi[H][D];
    const double *const *w = (const double *const *)lay_w64;

    for (int d = 0; d < n_doc; d++) {
        memset(S, 0, sizeof S), memset(k1, 0, sizeof k1), memset(v1, 0, sizeof v1), memset(phi, 0, sizeof phi);
        for (int t = doc[d]; t < doc[d + 1]; t++) {
            const double *u = lay_w64[lay_n] + t * HID;
            double        z[HD], x[GD], logit[3 * H + D], h[HD] = {0};

            lay_linear(z, u, w[WIN] + row_of('z') * HID, HD, HID);
            lay_linear(x, u, w[WIN] + row_of('x') * HID, GD, HID);
            lay_linear(logit, u, w[WIN] + row_of('t') * HID, 3 * H + n_angle(), HID);
            for (int i = 0; i < H; i++) {
                const double dt = lay_softplus(logit[i] + w[DTB][i]), a = logit[H + i],
                             tau = lay_sigmoid(logit[2 * H + i]);
                const double alpha = exp(-dt * fmax(a >= 0 ? 1 + a : 1 / (1 - a), 1e-4));
                double       k[MOST_R][D], v[MOST_R][D], q[D], o[D];

                for (int j = 0; j < n_angle(); j++) phi[i][j] += M_PI * tanh(logit[3 * H + j]) * dt;
                for (int r = 0; r < rows(); r++) {
                    key(k[r], u, 'B', G, r, i / (H / G), BN, w[BB] + (i * rows() + r) * D, phi[i]);
                    for (int c = 0; c < D; c++)
                        v[r][c] = x[i / (H / G) * D + c] * (rows() > 1 ? w[MX][(i * rows() + r) * D + c] : 1);
                }
                for (int e = 0; e < D * D; e++) {
                    double *s = &S[i][e / D][e % D];

                    *s *= alpha;
                    for (int r = 0; r < rows(); r++)
                        *s += (1 - tau) * dt * alpha * k1[i][r][e / D] * v1[i][r][e % D] +
                              tau * dt * k[r][e / D] * v[r][e % D];
                }
                memcpy(k1[i], k, sizeof k);
                memcpy(v1[i], v, sizeof v);
                for (int r = 0; r < rows(); r++) {
                    key(q, u, 'C', H, r, i, CN, w[CB] + (i * rows() + r) * D, phi[i]);
                    for (int c = 0; c < D; c++) {
                        o[c] = w[SKIP][i] * v[r][c];
                        for (int e = 0; e < D; e++) o[c] += q[e] * S[i][e][c];
                    }
                    if (lay_spec.outproj_norm) lay_rmsnorm(o, o, w[norm()] + i * D, D, 1e-5);
                    for (int c = 0; c < D; c++) {
                        const int at = (i * rows() + r) * D + c;
                        h[i * D + c] +=
                            o[c] * lay_silu(z[i * D + c] * (rows() > 1 ? w[MZ][at] : 1)) * (rows() > 1 ? w[MO][at] : 1);
                    }
                }
            }
            lay_linear(out + t * HID, h, w[WOUT], HID, HD);
        }
    }
}

static void test_from_attention(void)
{
    const float *attn[GR_ATTN_PARAMS];
    float        off = 0;
    int          bad = 0;

    lay_spec.qk_norm = true;
    lay_from_attention(attn, 1 << WIN | 1 << BB | 1 << CB | 1 << BN | 1 << CN | 1 << WOUT);
    lay_check_gate(lay_w[WIN], attn);
    lay_check_rows(lay_w[WIN], row_of('x'), attn[GR_ATTN_V], GD, "x");
    lay_check_rows(lay_w[WIN], row_of('B'), attn[GR_ATTN_K], GD, "B");
    lay_check_rows(lay_w[WIN], row_of('C'), attn[GR_ATTN_Q], HD, "C");
    lay_check_rows(lay_w[WOUT], 0, attn[GR_ATTN_O], HD, "out_proj"); /* [HID, HD]: as many elements */
    CHECK(!memcmp(lay_w[BN], attn[GR_ATTN_K_NORM], D * sizeof(float)), "B_norm");
    CHECK(!memcmp(lay_w[CN], attn[GR_ATTN_Q_NORM], D * sizeof(float)), "C_norm");
    for (int64_t i = 0; i < lay_size[BB]; i++) bad += lay_w[BB][i] != 0 || lay_w[CB][i] != 0;
    for (int64_t i = row_of('t') * HID; i < lay_size[WIN]; i++) bad += (double)lay_w[WIN][i] != lay_w64[WIN][i];
    CHECK(bad == 0, "%d elements of biases and gates", bad);
    for (int i = 0; i < HD * HID; i++) /* rank 1 is near attention, but not rank 0 again */
        off = fmaxf(off, fabsf(lay_w[WIN][(row_of('C') + HD) * HID + i] - attn[GR_ATTN_Q][i]));
    CHECK(rows() == 1 || (off > 0 && off < 0.1f), "rank 1 is off by %g", (double)off);
}

/* mimo_x and mimo_o start as means over the ranks. */
static void test_ranks(void)
{
    gr_param_spec p[GR_MIXER_PARAMS];
    const int     n = gr_mamba3_def.params(&lay_spec, p);

    CHECK(n == MO + 2 && p[MX].init == GR_INIT_SHARE && p[MO].init == GR_INIT_SHARE && p[MX].dim[1] == rows(),
          "params");
}

static void test_cost(void)
{
    gr_mixer_spec s = lay_large();
    gr_mixer_cost c;

    s.rope_fraction = 0.5f;
    c = gr_mamba3_def.cost(&s, 8192);
    CHECK(c.core_forward == 32 * 98304.0 && c.core_backward == 32 * 245760.0, "core %g, %g", c.core_forward,
          c.core_backward);
    CHECK(c.forward - c.core_forward == 2.0 * 4096 * (2 * 4096 + 2 * 1024 + 3 * 32 + 32 + 4096), "projections %g",
          c.forward - c.core_forward);
    CHECK(c.state_bytes == 4.0 * 32 * (128 * 128 + 2 * 128), "state %g", c.state_bytes);
    s.mimo_rank = 4;
    CHECK(gr_mamba3_def.cost(&s, 8192).core_forward == 4 * c.core_forward, "four rows cost four times as much");
}

int main(void)
{
    static const lay_type mamba3 = {&gr_mamba3_def, &gr_mamba3_cpu, draw, oracle};

    lay_spec.rope_fraction = 0.7f;
    if (!lay_open(&mamba3)) return 1;
    lay_test_gradients("SISO", 1e-5);
    lay_test_decode(3, 1e-5);
    test_from_attention();
    lay_spec.mimo_rank = 2, lay_spec.rope_fraction = 1;
    lay_test_gradients("MIMO 2", 1e-5);
    lay_spec.mimo_rank = MOST_R, lay_spec.rope_fraction = 0.4f, lay_spec.outproj_norm = true;
    lay_test_gradients("MIMO 3, output norm", 1e-5);
    lay_test_decode(3, 1e-5);
    lay_test_frozen();
    test_from_attention();
    test_ranks();
    test_cost();
    return lay_close();
}
