/* Short causal depthwise convolution, then SiLU: docs/math.md 0.3.
 *
 * Channels do not mix, and a token reads only the W - 1 before it, so the work is cut into tiles of GR_ROWS tokens x
 * COLS channels. Backward recomputes the pre-activations, of its own tokens and of the W - 1 after them.
 *
 * Taps come in fours (one loop body, W <= 4 in one go): where W is no multiple of 4, taps of weight zero stand in
 * front, and a tap that falls outside the document reads a row of zeros.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

enum { COLS = 256, TAPS = (GR_TAPS + 3) / 4 * 4 };

/* What a tile needs to find its rows. */
typedef struct conv {
    const float  *x, *head; /* [N, C]; [W-1, C] or NULL */
    const gr_seq *seq;
    int           W, pad; /* pad + W is a multiple of 4 */
    int64_t       C;
} conv;

/* Weights and bias of COLS channels, tap-major; w[pad + j] is tap j. */
typedef struct taps {
    float w[TAPS][COLS], b[COLS];
} taps;

static const float no_row[COLS];

static conv conv_of(gr_tensor x, gr_tensor head, gr_tensor w, const gr_seq *seq)
{
    const int  W = (int)gr_row(w);
    const conv v = {gr_f(x), gr_f(head), seq, W, (W + 3) / 4 * 4 - W, w.dim[0]};

    return v;
}

static void load_taps(taps *k, const conv *v, const float *w, const float *b, int64_t c0, int n)
{
    for (int c = 0; c < n; c++) {
        for (int j = 0; j < v->pad; j++) k->w[j][c] = 0;
        for (int j = 0; j < v->W; j++) k->w[v->pad + j][c] = w[(c0 + c) * v->W + j];
        k->b[c] = b ? b[c0 + c] : 0.0f;
    }
}

/* The document of token t. */
static int doc_of(const gr_seq *seq, int64_t t)
{
    int lo = 0, hi = seq->n_doc - 1;

    while (lo < hi) {
        const int mid = lo + (hi - lo + 1) / 2;

        if (seq->doc[mid] <= t)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Rows that the taps of token t, in document d, read; from channel c0 on. */
static void find_rows(const float *row[TAPS], const conv *v, int64_t t, int d, int64_t c0)
{
    for (int j = 0; j < v->pad; j++) row[j] = no_row;
    for (int j = 0; j < v->W; j++) {
        const int64_t s = t - v->W + 1 + j;

        if (s >= v->seq->doc[d])
            row[v->pad + j] = v->x + s * v->C + c0;
        else if (d == 0 && v->head && s < 0)
            row[v->pad + j] = v->head + (s + v->W - 1) * v->C + c0;
        else
            row[v->pad + j] = no_row;
    }
}

/* A tile is narrower than a row, so its lines lie apart and the processor does not guess the next ones; we tell it. */
static void prefetch_rows(const float *a, const float *b, int64_t t, const conv *v, int64_t c0, int n)
{
    const int64_t ahead = t + 6 < v->seq->n ? t + 6 : v->seq->n - 1;

    for (int c = 0; c < n; c += 16) {
        __builtin_prefetch(a + ahead * v->C + c0 + c);
        __builtin_prefetch(b + ahead * v->C + c0 + c);
    }
}

/* out = init + sum_i w_i row_i over four taps; out may be init. */
static void four_taps(float *out, const float *init, const float (*w)[COLS], const float *const *row, int n)
{
    const float *r0 = row[0], *r1 = row[1], *r2 = row[2], *r3 = row[3];

#pragma omp simd
    for (int c = 0; c < n; c++)
        out[c] = fmaf(w[3][c], r3[c], fmaf(w[2][c], r2[c], fmaf(w[1][c], r1[c], fmaf(w[0][c], r0[c], init[c]))));
}

static void all_taps(float *out, const float *init, const taps *k, const float *const *row, int W, int n)
{
    four_taps(out, init, k->w, row, n);
    if (W > 4) four_taps(out, out, k->w + 4, row + 4, n);
}

void gr_cpu_conv(gr_tensor y_NC, gr_tensor x_NC, gr_tensor w_CW, gr_tensor b_C, gr_tensor head, const gr_seq *seq,
                 gr_stream *s)
{
    const conv    v = conv_of(x_NC, head, w_CW, seq);
    const int64_t N = seq->n, C = v.C;

    (void)s;
#pragma omp parallel for collapse(2) schedule(static) if (N * C > GR_SERIAL)
    for (int64_t t0 = 0; t0 < N; t0 += GR_ROWS)
        for (int64_t c0 = 0; c0 < C; c0 += COLS) {
            const int64_t t1 = t0 + GR_ROWS < N ? t0 + GR_ROWS : N;
            const int     n = (int)(C - c0 < COLS ? C - c0 : COLS);
            const float  *row[TAPS];
            float         pre[COLS];
            taps          k;

            load_taps(&k, &v, gr_f(w_CW), gr_f(b_C), c0, n);
            for (int64_t t = t0; t < t1; t++) {
                float *y = gr_f(y_NC) + t * C + c0;

                prefetch_rows(v.x, gr_f(y_NC), t, &v, c0, n);
                find_rows(row, &v, t, doc_of(seq, t), c0);
                all_taps(pre, k.b, &k, row, v.W, n);
#pragma omp simd
                for (int c = 0; c < n; c++) y[c] = gr_siluf(pre[c]);
            }
        }
}

/* line: dw tap-major [pad + W, stride], then db [stride], of this block of tokens. */
static void add_weights(float *line, int64_t stride, const float *dpre, const float *const *row, int taps4, int n)
{
    for (int j = 0; j < taps4; j += 4) {
        float       *w0 = line + j * stride, *w1 = w0 + stride, *w2 = w1 + stride, *w3 = w2 + stride;
        const float *r0 = row[j], *r1 = row[j + 1], *r2 = row[j + 2], *r3 = row[j + 3];

#pragma omp simd
        for (int c = 0; c < n; c++) {
            w0[c] = fmaf(dpre[c], r0[c], w0[c]);
            w1[c] = fmaf(dpre[c], r1[c], w1[c]);
            w2[c] = fmaf(dpre[c], r2[c], w2[c]);
            w3[c] = fmaf(dpre[c], r3[c], w3[c]);
        }
    }
    line += taps4 * stride;
#pragma omp simd
    for (int c = 0; c < n; c++) line[c] += dpre[c];
}

/* One tile of backward: tokens [t0, t1), channels [c0, c0 + n). */
static void backward_tile(const conv *v, const taps *k, float *dx, float *dhead, const float *dy, float *line,
                          int64_t stride, int64_t t0, int64_t t1, int64_t c0, int n)
{
    const int64_t N = v->seq->n, C = v->C;
    const int     W = v->W;
    float         dpre[GR_ROWS + GR_TAPS - 1][COLS]; /* of tokens t0, t0 + 1, ... */
    const float  *row[TAPS];
    int64_t       end = t0;

    for (int64_t t = t0; t < N && t < t1 + W - 1; t++, end++) {
        const int    d = doc_of(v->seq, t);
        const float *dy_t = dy + t * C + c0;
        float       *dp = dpre[t - t0];

        if (t >= t1 && v->seq->doc[d] >= t1) break; /* reads nothing before t1 */
        prefetch_rows(v->x, dy, t, v, c0, n);
        find_rows(row, v, t, d, c0);
        all_taps(dp, k->b, k, row, W, n);
#pragma omp simd
        for (int c = 0; c < n; c++) dp[c] = dy_t[c] * gr_dsiluf(dp[c]);
        if (t < t1) add_weights(line, stride, dp, row, v->pad + W, n);
    }

    /* dx_u = sum_j w_j dpre_{u+W-1-j}, inside the document. Rows before 0 are head's. */
    for (int64_t u = t0 == 0 && dhead ? 1 - W : t0; u < t1; u++) {
        const int     d = u < 0 ? 0 : doc_of(v->seq, u);
        const int64_t stop = v->seq->doc[d + 1] < end ? v->seq->doc[d + 1] : end;
        float        *out = u < 0 ? dhead + (u + W - 1) * C + c0 : dx + u * C + c0;

        for (int j = 0; j < W; j++) {
            const int64_t t = u + W - 1 - j;
            row[v->pad + j] = t >= t0 && t < stop ? dpre[t - t0] : no_row;
        }
        for (int j = 0; j < v->pad; j++) row[j] = no_row;
        all_taps(out, no_row, k, row, W, n);
    }
}

void gr_cpu_conv_back(gr_tensor dx_NC, gr_tensor dw_CW, gr_tensor db_C, gr_tensor dhead, gr_tensor dy_NC,
                      gr_tensor x_NC, gr_tensor w_CW, gr_tensor b_C, gr_tensor head, const gr_seq *seq, gr_stream *s)
{
    const conv    v = conv_of(x_NC, head, w_CW, seq);
    const int64_t N = seq->n, n_block = (N + GR_ROWS - 1) / GR_ROWS, lines = v.pad + v.W + 1;
    const int64_t widest = GR_PART / lines / COLS * COLS; /* channels whose sums fit `part`: thousands */
    float         part[GR_PART];                          /* per block of tokens: see add_weights      */

    (void)s;
    for (int64_t first = 0; first < v.C; first += widest) {
        const int64_t C = v.C - first < widest ? v.C - first : widest, flight = gr_flight(lines * C);

        for (int64_t b0 = 0; b0 < n_block; b0 += flight) {
            const int64_t b1 = b0 + flight < n_block ? b0 + flight : n_block;

#pragma omp parallel for collapse(2) schedule(static) if (N * C > GR_SERIAL)
            for (int64_t b = b0; b < b1; b++)
                for (int64_t c0 = 0; c0 < C; c0 += COLS) {
                    const int64_t t0 = b * GR_ROWS, t1 = t0 + GR_ROWS < N ? t0 + GR_ROWS : N;
                    const int     n = (int)(C - c0 < COLS ? C - c0 : COLS);
                    float        *line = part + (b - b0) * lines * C + c0;
                    taps          k;

                    for (int64_t j = 0; j < lines; j++)
                        for (int c = 0; c < n; c++) line[j * C + c] = 0;
                    load_taps(&k, &v, gr_f(w_CW), gr_f(b_C), first + c0, n);
                    backward_tile(&v, &k, gr_f(dx_NC), gr_f(dhead), gr_f(dy_NC), line, C, t0, t1, first + c0, n);
                }
            for (int64_t c = 0; dw_CW.data && c < C; c++)
                for (int j = 0; j < v.W; j++)
                    gr_cpu_add_parts(gr_f(dw_CW) + (first + c) * v.W + j, part + (v.pad + j) * C + c, b1 - b0, 1,
                                     lines * C);
            if (db_C.data) gr_cpu_add_parts(gr_f(db_C) + first, part + (lines - 1) * C, b1 - b0, C, lines * C);
        }
    }
}
