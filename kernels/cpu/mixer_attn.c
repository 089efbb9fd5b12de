/* Softmax attention, exact and causal inside each document, with grouped key/value heads.
 *
 *   q = rope(norm(x Wq^T))   k = rope(norm(x Wk^T))   v = x Wv^T   y = attn(q, k, v) Wo^T
 *   o_i = sum_{j <= i} p_ij v_j,   p_ij = exp(s <q_i, k_j> - lse_i),   lse_i = log sum_{j <= i} exp(s <q_i, k_j>)
 *
 * norm is a per-head RMSNorm that Qwen3 has and Llama has not. lse is kept in natural logarithms.
 * Source   Dao et al. 2022, arXiv:2205.14135 (tiles, streaming softmax, recomputed backward);
 *          Dao 2023, arXiv:2307.08691 (loops exchanged).  docs/math.md 5.1 to 5.4.
 * Memory   tiles, one set per thread, and in backward two numbers per (token, head); nothing N x N. */
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"
#include "kernels/layer.h"
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

/* Tile sizes. ROWS is a multiple of 6 and KEYS of 64, which is what gr_tile_gemm likes; beyond that, anything from half
 * to twice of each is within 3 % at head_dim 128 on a core with 48 KiB of L1 and 1 MiB of L2. */
enum {
    KEYS = 128,    /* keys of a tile                                                            */
    ROWS = 96,     /* queries of a tile, where all of them see all its keys                     */
    STRIP = 24,    /* queries of a tile on the diagonal: the shorter, the less is masked away   */
    BLOCK = 384,   /* query rows, of all heads of a group, that share one packing of a key tile */
    LD_KEYS = 144, /* gr_tile_ld(KEYS)                                                          */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int round16(int64_t n)
{
    return (int)((n + 15) / 16 * 16);
}

/* ---- cutting documents into spans of tokens ----------------------------------------------------- */

typedef struct span {
    int32_t doc, doc_end; /* tokens [doc, doc_end) are its document */
    int32_t first, last;  /* tokens [first, last)                   */
} span;

/* Spans of at most `width` tokens that straddle no document border, in rising order. */
static int cut(gr_arena *scratch, const gr_seq *seq, int width, const span **spans)
{
    int   n = 0;
    span *out;

    for (int d = 0; d < seq->n_doc; d++) n += (seq->doc[d + 1] - seq->doc[d] + width - 1) / width;
    out = gr_take2(scratch, GR_I32, n, 4).data;
    *spans = out;
    if (!out) return 0;
    for (int d = 0; d < seq->n_doc; d++) {
        const int32_t first = seq->doc[d], end = seq->doc[d + 1];
        for (int32_t t = first; t < end; t += width) *out++ = (span){first, end, t, (int32_t)min64(t + width, end)};
    }
    return n;
}

/* ---- packing ------------------------------------------------------------------------------------ */

/* This thread's part of a buffer [threads, ...]. */
static float *mine(gr_tensor t)
{
    return (float *)t.data + omp_get_thread_num() * gr_row(t);
}

/* Rows a token apart, side by side: dst [n, width]. */
static void pack(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t n, int width)
{
    for (int64_t i = 0; i < n; i++) memcpy(dst + i * ldd, src + i * lds, (size_t)width * sizeof *dst);
}

/* Their transpose, dst [width, n], with zeros up to the next multiple of 16 columns: whole vectors for the products. */
static void pack_transposed(float *dst, const float *src, int64_t lds, int n, int width)
{
    gr_tile_transpose(n, width, src, lds, dst, LD_KEYS);
    if (n % 16)
        for (int i = 0; i < width; i++) memset(dst + i * LD_KEYS + n, 0, (size_t)(round16(n) - n) * sizeof *dst);
}

/* Row i of a tile on the diagonal sees the first `seen0` + i keys of it. -inf becomes probability 0. */
static void mask(float *s, int rows, int64_t seen0, int cols)
{
    for (int i = 0; i < rows; i++)
        for (int64_t j = seen0 + i > 0 ? seen0 + i : 0; j < cols; j++) s[i * LD_KEYS + j] = -INFINITY;
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* One streaming-softmax update (docs/math.md 5.2) of `rows` queries with the n keys of a tile:
 *   m' = max(m, rowmax s)   c = e^{m - m'}   p = e^{s - m'}   l = l c + rowsum p   acc = acc c + p v
 * s [rows, round16(n)] holds the scaled, masked scores and is overwritten by p.  fresh: nothing absorbed yet. */
static void absorb(float *acc, int64_t ld_acc, float *m, float *l, float *s, int rows, int n, const float *v,
                   int64_t ldv, int width, bool fresh)
{
    const int cols = round16(n);

    /* Two sweeps: within a row each step waits for the one before; rows apart, the processor overlaps them. */
    for (int i = 0; i < rows; i++) {
        const float *si = s + i * LD_KEYS;
        float       *acc_i = acc + i * ld_acc, top = m[i];

#pragma omp simd reduction(max : top)
        for (int j = 0; j < cols; j++) top = si[j] > top ? si[j] : top;
        if (top > m[i]) {
            const float c = gr_expf(m[i] - top);

            m[i] = top;
            l[i] *= c;
            if (!fresh) {
#pragma omp simd
                for (int j = 0; j < width; j++) acc_i[j] *= c;
            }
        }
    }
    for (int i = 0; i < rows; i++) {
        float      *si = s + i * LD_KEYS, sum = 0;
        const float top = m[i];

#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < cols; j++) {
            si[j] = gr_expf(si[j] - top);
            sum += si[j];
        }
        l[i] += sum;
    }
    gr_tile_gemm(rows, width, n, s, LD_KEYS, 1, v, ldv, acc, ld_acc, 1.0f, fresh ? 0.0f : 1.0f);
}

typedef struct forward_buf { /* each [threads, ...] */
    gr_tensor q, acc, m, l;  /* of a block: [rows, K] [rows, V] [rows] [rows] */
    gr_tensor kt, v, s;      /* of a tile: [K, KEYS] [KEYS, V] [ROWS, KEYS]   */
} forward_buf;

/* The queries t of the heads that read key head g: every key tile is packed once for all of them. */
static void forward_block(const gr_core_args *a, const forward_buf *b, span t, int g)
{
    const int     H = a->n_head, G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = H / G;
    const int     ldk = gr_tile_ld(K), ldv = gr_tile_ld(V), n_q = t.last - t.first;
    const int64_t q_row = (int64_t)H * K, k_row = (int64_t)G * K, v_row = (int64_t)G * V, o_row = (int64_t)H * V;
    const float  *q = (const float *)a->q.data + t.first * q_row + g * rep * K;
    float        *o = (float *)a->o.data + t.first * o_row + g * rep * V;
    float        *lse = a->aux.data ? (float *)a->aux.data + (int64_t)t.first * H + g * rep : NULL;
    float *const  qp = mine(b->q), *kt = mine(b->kt), *v = mine(b->v), *s = mine(b->s);
    float *const  acc = mine(b->acc), *m = mine(b->m), *l = mine(b->l);

    for (int r = 0; r < rep; r++) pack(qp + r * n_q * ldk, ldk, q + r * K, q_row, n_q, K);
    for (int i = 0; i < rep * n_q; i++) m[i] = -INFINITY, l[i] = 0;

    for (int32_t k0 = t.doc; k0 < t.last; k0 += KEYS) {
        const int n = (int)min64(KEYS, t.last - k0);

        pack_transposed(kt, (const float *)a->k.data + k0 * k_row + g * K, k_row, n, K);
        pack(v, ldv, (const float *)a->v.data + k0 * v_row + g * V, v_row, n, V);
        for (int r = 0; r < rep; r++)
            for (int i = 0, rows; i < n_q; i += rows) {
                const bool inside = t.first + i >= k0 + n - 1; /* the first row sees the whole tile */
                const int  at = r * n_q + i;
                int        seen;

                rows = (int)min64(inside ? ROWS : STRIP, n_q - i);
                seen = (int)min64(n, t.first + i + rows - k0); /* keys of the last row */
                if (seen <= 0) continue;
                gr_tile_gemm(rows, round16(seen), K, qp + at * ldk, ldk, 1, kt, LD_KEYS, s, LD_KEYS, a->scale, 0.0f);
                if (!inside || n < KEYS) mask(s, rows, t.first + i - k0 + 1, round16(seen));
                absorb(acc + at * ldv, ldv, m + at, l + at, s, rows, seen, v, ldv, V, k0 == t.doc);
            }
    }
    for (int r = 0; r < rep; r++)
        for (int i = 0; i < n_q; i++) {
            const int   at = r * n_q + i;
            const float scale = 1.0f / l[at]; /* l >= 1: the largest score contributes e^0 */
            float      *out = o + i * o_row + r * V;

#pragma omp simd
            for (int j = 0; j < V; j++) out[j] = acc[at * ldv + j] * scale;
            if (lse) lse[(int64_t)i * H + r] = m[at] + logf(l[at]);
        }
}

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const int     G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = a->n_head / G, T = omp_get_max_threads();
    const int     width = BLOCK / rep > STRIP ? BLOCK / rep : STRIP, rows = width * rep; /* a block: width tokens */
    const span   *spans;
    const int64_t n_span = cut(a->scratch, a->seq, width, &spans);
    forward_buf   b;

    (void)stream;
    b.q = gr_take3(a->scratch, GR_F32, T, rows, gr_tile_ld(K));
    b.kt = gr_take3(a->scratch, GR_F32, T, K, LD_KEYS);
    b.v = gr_take3(a->scratch, GR_F32, T, KEYS, gr_tile_ld(V));
    b.s = gr_take3(a->scratch, GR_F32, T, ROWS, LD_KEYS);
    b.acc = gr_take3(a->scratch, GR_F32, T, rows, gr_tile_ld(V));
    b.m = gr_take2(a->scratch, GR_F32, T, round16(rows));
    b.l = gr_take2(a->scratch, GR_F32, T, round16(rows));
    if (gr_arena_status(a->scratch) == GR_OK) {
        /* Late queries have the most keys: the longest work comes first, so that the threads end together. */
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t u = 0; u < n_span * G; u++)
            forward_block(a, &b, spans[n_span - 1 - u % n_span], (int)(u / n_span));
    }
    gr_arena_release(a->scratch, mark);
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* docs/math.md 5.3, one (key head, key tile) at a time:
 *   p = e^{s - lse}   dv += p^T do   ds = p (do v^T - delta)   dk += s ds^T q   dq += s ds k     delta_i = <do_i, o_i>
 *
 * dk and dv belong to the tile; dq collects from all key tiles of its document, in rising order: key tile j waits for
 * its turn at each row tile. So the bits are the same for any number of threads, at five products per pair of tiles.
 * Two passes, one for dk and dv and one for dq, need no turns but seven products: at most 5/7 = 71 % of peak, counted
 * like this pass, which reaches 75 % (16 heads of 128, 2048 to 8192 tokens). Waiting costs nothing measurable: tiles
 * are handed out so that neighbours in time are different heads, and where heads are fewer than threads, the threads
 * follow one another down the rows (1 key head, 2 threads: 73 %). */
typedef struct backward_buf {    /* each [threads, ...] */
    gr_tensor k, kt, vt, dk, dv; /* of a key tile: [KEYS, K] [K, KEYS] [V, KEYS] [KEYS, K] [KEYS, V] */
    gr_tensor q, d_o, s, ds;     /* of a row tile: [ROWS, K] [ROWS, V] [ROWS, KEYS] [ROWS, KEYS]     */
} backward_buf;

/* p and ds, over s and dp. */
static void probabilities_back(float *s, float *ds, int rows, int cols, const float *lse, const float *delta,
                               int64_t stride)
{
    for (int i = 0; i < rows; i++) {
        float      *si = s + i * LD_KEYS, *dsi = ds + i * LD_KEYS;
        const float lse_i = lse[i * stride], delta_i = delta[i * stride];

#pragma omp simd
        for (int j = 0; j < cols; j++) {
            const float p = gr_expf(si[j] - lse_i);
            si[j] = p;
            dsi[j] = p * (dsi[j] - delta_i);
        }
    }
}

static void wait_for_turn(_Atomic int32_t *turn, int32_t own)
{
    while (atomic_load_explicit(turn, memory_order_acquire) != own) sched_yield();
}

/* Keys t of head g. delta [N, H]; turn [N, H]: how many key tiles have added to dq of the row tile starting there. */
static void backward_tile(const gr_core_args *a, const backward_buf *b, span t, int g, const float *delta,
                          _Atomic int32_t *turn)
{
    const int     H = a->n_head, G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = H / G;
    const int     ldk = gr_tile_ld(K), ldv = gr_tile_ld(V), n = t.last - t.first, j = (t.first - t.doc) / KEYS;
    const int64_t q_row = (int64_t)H * K, k_row = (int64_t)G * K, v_row = (int64_t)G * V, o_row = (int64_t)H * V;
    const int64_t k_at = t.first * k_row + g * K, v_at = t.first * v_row + g * V;
    float *const  k = mine(b->k), *kt = mine(b->kt), *vt = mine(b->vt), *dk = mine(b->dk), *dv = mine(b->dv);
    float *const  q = mine(b->q), *d_o = mine(b->d_o), *s = mine(b->s), *ds = mine(b->ds);

    pack(k, ldk, (const float *)a->k.data + k_at, k_row, n, K);
    pack_transposed(kt, (const float *)a->k.data + k_at, k_row, n, K);
    pack_transposed(vt, (const float *)a->v.data + v_at, v_row, n, V);
    memset(dk, 0, (size_t)(n * ldk) * sizeof *dk);
    memset(dv, 0, (size_t)(n * ldv) * sizeof *dv);

    for (int32_t tile = t.doc + (t.first - t.doc) / ROWS * ROWS; tile < t.doc_end; tile += ROWS)
        for (int h = g * rep; h < (g + 1) * rep; h++) {
            const int32_t end = (int32_t)min64(tile + ROWS, t.doc_end);
            bool          waited = false;

            for (int32_t i = tile > t.first ? tile : t.first, rows; i < end; i += rows) {
                const bool    inside = i >= t.first + n - 1;
                float        *dq = (float *)a->dq.data + i * q_row + h * K;
                const int64_t at = (int64_t)i * H + h;
                int           seen, cols;

                rows = inside ? end - i : (int32_t)min64(STRIP, end - i);
                seen = (int)min64(n, i + rows - t.first);
                cols = round16(seen);
                pack(q, ldk, (const float *)a->q.data + i * q_row + h * K, q_row, rows, K);
                pack(d_o, ldv, (const float *)a->d_o.data + i * o_row + h * V, o_row, rows, V);
                gr_tile_gemm(rows, cols, K, q, ldk, 1, kt, LD_KEYS, s, LD_KEYS, a->scale, 0.0f);
                gr_tile_gemm(rows, cols, V, d_o, ldv, 1, vt, LD_KEYS, ds, LD_KEYS, 1.0f, 0.0f);
                if (!inside || n < KEYS) mask(s, rows, i - t.first + 1, cols);
                probabilities_back(s, ds, rows, cols, (const float *)a->aux.data + at, delta + at, H);
                gr_tile_gemm(seen, V, rows, s, 1, LD_KEYS, d_o, ldv, dv, ldv, 1.0f, 1.0f);
                gr_tile_gemm(seen, K, rows, ds, 1, LD_KEYS, q, ldk, dk, ldk, a->scale, 1.0f);
                if (!waited) wait_for_turn(turn + (int64_t)tile * H + h, j);
                waited = true;
                gr_tile_gemm(rows, K, seen, ds, LD_KEYS, 1, k, ldk, dq, q_row, a->scale, j > 0 ? 1.0f : 0.0f);
            }
            atomic_store_explicit(turn + (int64_t)tile * H + h, j + 1, memory_order_release); /* the next one's turn */
        }
    for (int i = 0; i < n; i++) {
        memcpy((float *)a->dk.data + k_at + i * k_row, dk + i * ldk, (size_t)K * sizeof(float));
        memcpy((float *)a->dv.data + v_at + i * v_row, dv + i * ldv, (size_t)V * sizeof(float));
    }
}

static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    const gr_mark          mark = gr_arena_mark(a->scratch);
    const int              H = a->n_head, G = a->n_kv_head, K = a->k_dim, V = a->v_dim, T = omp_get_max_threads();
    const int              ldk = gr_tile_ld(K), ldv = gr_tile_ld(V);
    const int64_t          N = a->seq->n, side = min64(T, G); /* heads worked on side by side */
    float *const           delta = gr_take2(a->scratch, GR_F32, N, H).data;
    _Atomic int32_t *const turn = gr_take2(a->scratch, GR_I32, N, H).data;
    const span            *spans;
    const int64_t          n_span = cut(a->scratch, a->seq, KEYS, &spans);
    _Atomic int64_t        handed_out = 0;
    backward_buf           b;

    (void)stream;
    b.k = gr_take3(a->scratch, GR_F32, T, KEYS, ldk);
    b.kt = gr_take3(a->scratch, GR_F32, T, K, LD_KEYS);
    b.vt = gr_take3(a->scratch, GR_F32, T, V, LD_KEYS);
    b.dk = gr_take3(a->scratch, GR_F32, T, KEYS, ldk);
    b.dv = gr_take3(a->scratch, GR_F32, T, KEYS, ldv);
    b.q = gr_take3(a->scratch, GR_F32, T, ROWS, ldk);
    b.d_o = gr_take3(a->scratch, GR_F32, T, ROWS, ldv);
    b.s = gr_take3(a->scratch, GR_F32, T, ROWS, LD_KEYS);
    b.ds = gr_take3(a->scratch, GR_F32, T, ROWS, LD_KEYS);
    if (gr_arena_status(a->scratch) == GR_OK) {
#pragma omp parallel
        {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < N * H; i++) {
                const float *o = (const float *)a->o.data + i * V, *d_o = (const float *)a->d_o.data + i * V;
                float        sum = 0;

#pragma omp simd reduction(+ : sum)
                for (int c = 0; c < V; c++) sum += o[c] * d_o[c];
                delta[i] = sum;
                atomic_init(&turn[i], 0);
            }
            /* Not an omp loop, because the order is a promise: who waits, waits for a tile handed out before its own,
             * so the oldest never waits. It is the best order too: a document's first keys have the most queries. */
            for (int64_t u; (u = atomic_fetch_add(&handed_out, 1)) < n_span * G;) {
                const int64_t g = u / (n_span * side) * side, n_side = min64(side, G - g), v = u - g * n_span;

                backward_tile(a, &b, spans[v / n_side], (int)(g + v % n_side), delta, turn);
            }
        }
    }
    gr_arena_release(a->scratch, mark);
}

/* tol: measured 5e-7 at scores of order 1; a score of size S adds S 2^-24, so 1e-5 allows for scores of 100. */
const gr_mixer_core gr_attn_cpu = {.tol = 1e-5, .forward = core_forward, .backward = core_backward};

/* ---- the layer, in terms of gr_ops and the core --------------------------------------------------- */

enum { W_Q, W_K, W_V, W_O, W_Q_NORM, W_K_NORM };                    /* parameters                            */
enum { T_Q, T_K, T_V, T_O, T_LSE, T_Q0, T_K0, T_Q_RSTD, T_K_RSTD }; /* tape; q0, k0 before norm and rotation */

static int params(const gr_mixer_spec *s, gr_param_spec p[GR_MIXER_PARAMS])
{
    const int64_t hid = s->hidden, D = s->head_dim, HD = s->n_head * D, GD = s->n_kv_head * D;

    p[W_Q] = (gr_param_spec){"q_proj.weight", 2, {HD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_K] = (gr_param_spec){"k_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_V] = (gr_param_spec){"v_proj.weight", 2, {GD, hid, 1}, GR_INIT_NORMAL, true};
    p[W_O] = (gr_param_spec){"o_proj.weight", 2, {hid, HD, 1}, GR_INIT_NORMAL, true};
    if (!s->qk_norm) return 4;
    p[W_Q_NORM] = (gr_param_spec){"q_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    p[W_K_NORM] = (gr_param_spec){"k_norm.weight", 1, {D, 1, 1}, GR_INIT_ONE, false};
    return 6;
}

static void from_attention(const gr_mixer_spec *s, float *const *w, const float *const *attn)
{
    gr_param_spec p[GR_MIXER_PARAMS];
    const int     n = params(s, p);

    for (int i = 0; i < n; i++) memcpy(w[i], attn[i], (size_t)(p[i].dim[0] * p[i].dim[1] * p[i].dim[2]) * sizeof **w);
}

static gr_core_args core_args(const gr_mixer_ctx *c, const gr_tape *t)
{
    const gr_mixer_spec *s = c->spec;
    gr_core_args         a = {.seq = c->seq, .n_head = s->n_head, .n_kv_head = s->n_kv_head, .scratch = c->scratch};

    a.k_dim = a.v_dim = s->head_dim;
    a.scale = 1.0f / sqrtf((float)s->head_dim);
    a.q = t->t[T_Q], a.k = t->t[T_K], a.v = t->t[T_V], a.o = t->t[T_O], a.aux = t->t[T_LSE];
    return a;
}

/* Room for everything between x and y: on the tape, or for the moment. */
static void take_activations(gr_arena *arena, const gr_mixer_spec *s, int64_t N, gr_tensor *t)
{
    const int64_t H = s->n_head, G = s->n_kv_head, D = s->head_dim;

    t[T_Q] = gr_take3(arena, GR_F32, N, H, D);
    t[T_K] = gr_take3(arena, GR_F32, N, G, D);
    t[T_V] = gr_take3(arena, GR_F32, N, G, D);
    t[T_O] = gr_take3(arena, GR_F32, N, H, D);
    t[T_LSE] = gr_take2(arena, GR_F32, N, H);
    t[T_Q0] = s->qk_norm ? gr_take3(arena, GR_F32, N, H, D) : t[T_Q];
    t[T_K0] = s->qk_norm ? gr_take3(arena, GR_F32, N, G, D) : t[T_K];
    t[T_Q_RSTD] = s->qk_norm ? gr_take1(arena, GR_F32, N * H) : gr_none();
    t[T_K_RSTD] = s->qk_norm ? gr_take1(arena, GR_F32, N * G) : gr_none();
}

/* q = rope(norm(q0)) and k, v. Without norm q0 and q are the same memory. */
static void queries_keys_values(const gr_mixer_ctx *c, const gr_tensor *t, gr_tensor x)
{
    const float eps = c->spec->norm_eps;

    gr_project(c, W_Q, gr_token_rows(t[T_Q0]), x);
    gr_project(c, W_K, gr_token_rows(t[T_K0]), x);
    gr_project(c, W_V, gr_token_rows(t[T_V]), x);
    if (c->spec->qk_norm) {
        c->op->rmsnorm(gr_head_rows(t[T_Q]), t[T_Q_RSTD], gr_head_rows(t[T_Q0]), c->w[W_Q_NORM], eps, c->stream);
        c->op->rmsnorm(gr_head_rows(t[T_K]), t[T_K_RSTD], gr_head_rows(t[T_K0]), c->w[W_K_NORM], eps, c->stream);
    }
    c->op->rope(t[T_Q], c->rope_cs, 1, c->stream);
    c->op->rope(t[T_K], c->rope_cs, 1, c->stream);
}

static void forward(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_tape *tape)
{
    const gr_mark mark = gr_arena_mark(c->scratch);
    gr_tape       unkept, *t = tape ? tape : &unkept;

    take_activations(tape ? c->keep : c->scratch, c->spec, x.dim[0], t->t);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, t);

        queries_keys_values(c, t->t, x);
        c->core->forward(&a, c->stream);
        gr_project(c, W_O, y, gr_token_rows(a.o));
    }
    gr_arena_release(c->scratch, mark);
}

/* Back through rotation and norm, in place. */
static void query_or_key_back(const gr_mixer_ctx *c, gr_tensor d, int norm, gr_tensor x0, gr_tensor rstd)
{
    const gr_tensor rows = gr_head_rows(d);

    c->op->rope(d, c->rope_cs, -1, c->stream);
    if (c->spec->qk_norm) c->op->rmsnorm_back(rows, c->dw[norm], rows, gr_head_rows(x0), rstd, c->w[norm], c->stream);
}

static void backward(const gr_mixer_ctx *c, gr_tensor dx, gr_tensor dy, gr_tensor x, const gr_tape *tape)
{
    const gr_mark    mark = gr_arena_mark(c->scratch);
    const gr_tensor *t = tape->t;
    const int64_t    N = x.dim[0], H = c->spec->n_head, G = c->spec->n_kv_head, D = c->spec->head_dim;
    gr_core_args     a = core_args(c, tape);

    a.d_o = gr_take3(c->scratch, GR_F32, N, H, D);
    a.dq = gr_take3(c->scratch, GR_F32, N, H, D);
    a.dk = gr_take3(c->scratch, GR_F32, N, G, D);
    a.dv = gr_take3(c->scratch, GR_F32, N, G, D);
    if (!gr_out_of_memory(c)) {
        gr_project_back(c, W_O, gr_token_rows(a.d_o), dy, gr_token_rows(a.o), 0.0f);
        c->core->backward(&a, c->stream);
        query_or_key_back(c, a.dq, W_Q_NORM, t[T_Q0], t[T_Q_RSTD]);
        query_or_key_back(c, a.dk, W_K_NORM, t[T_K0], t[T_K_RSTD]);
        gr_project_back(c, W_Q, dx, gr_token_rows(a.dq), x, 0.0f);
        gr_project_back(c, W_K, dx, gr_token_rows(a.dk), x, 1.0f);
        gr_project_back(c, W_V, dx, gr_token_rows(a.dv), x, 1.0f);
    }
    gr_arena_release(c->scratch, mark);
}

/* ---- decoding ------------------------------------------------------------------------------------- */

enum { CACHE_K, CACHE_V };

static int state_shape(const gr_mixer_spec *s, int64_t capacity, gr_mixer_state *state)
{
    state->t[CACHE_K] = gr_view3(NULL, GR_F32, capacity, s->n_kv_head, s->head_dim);
    state->t[CACHE_V] = state->t[CACHE_K];
    return 2;
}

/* One query against the n <= KEYS keys of a piece of the cache, all heads; keys and values are read once per group.
 * k, v [n, G, D], s [H, KEYS], m, l [H], acc [H, D] */
static void attend_piece(const gr_core_args *a, const float *k, const float *v, int n, float *s, float *m, float *l,
                         float *acc)
{
    const int     H = a->n_head, G = a->n_kv_head, D = a->k_dim, rep = H / G;
    const int64_t row = (int64_t)G * D;

    for (int t = 0; t < n; t++)
        for (int h = 0; h < H; h++) {
            const float *q = (const float *)a->q.data + h * D, *kt = k + t * row + h / rep * D;
            float        dot = 0;

#pragma omp simd reduction(+ : dot)
            for (int j = 0; j < D; j++) dot += q[j] * kt[j];
            s[h * LD_KEYS + t] = dot * a->scale;
        }
    for (int h = 0; h < H; h++) {
        m[h] = -INFINITY, l[h] = 0;
        for (int t = n; t < round16(n); t++) s[h * LD_KEYS + t] = -INFINITY;
    }
    for (int h = 0; h < H; h += rep)
        absorb(acc + h * D, D, m + h, l + h, s + h * LD_KEYS, rep, n, v + h / rep * D, row, D, true);
}

/* o of one query over the cache: pieces in parallel, merged in their order (docs/math.md 5.4). */
static void attend(const gr_core_args *a, const float *k, const float *v, int64_t n_key)
{
    const int     H = a->n_head, D = a->k_dim;
    const int64_t row = (int64_t)a->n_kv_head * D, n_piece = (n_key + KEYS - 1) / KEYS;
    float *const  s = gr_take3(a->scratch, GR_F32, n_piece, H, LD_KEYS).data;
    float *const  m = gr_take2(a->scratch, GR_F32, n_piece, H).data;
    float *const  l = gr_take2(a->scratch, GR_F32, n_piece, H).data;
    float *const  acc = gr_take3(a->scratch, GR_F32, n_piece, H, D).data;

    if (gr_arena_status(a->scratch) != GR_OK) return;
#pragma omp parallel for schedule(static) if (n_piece > 1)
    for (int64_t i = 0; i < n_piece; i++)
        attend_piece(a, k + i * KEYS * row, v + i * KEYS * row, (int)min64(KEYS, n_key - i * KEYS), s + i * H * LD_KEYS,
                     m + i * H, l + i * H, acc + i * H * D);
    for (int h = 0; h < H; h++) {
        float *o = (float *)a->o.data + h * D, top = -INFINITY, sum = 0;

        for (int64_t i = 0; i < n_piece; i++) top = fmaxf(top, m[i * H + h]);
        for (int64_t i = 0; i < n_piece; i++) sum += l[i * H + h] * gr_expf(m[i * H + h] - top);
        memset(o, 0, (size_t)D * sizeof *o);
        for (int64_t i = 0; i < n_piece; i++) {
            const float share = gr_expf(m[i * H + h] - top) / sum;

#pragma omp simd
            for (int j = 0; j < D; j++) o[j] += share * acc[(i * H + h) * D + j];
        }
    }
}

static void step(const gr_mixer_ctx *c, gr_tensor y, gr_tensor x, gr_mixer_state *state, int64_t pos)
{
    const gr_mark   mark = gr_arena_mark(c->scratch);
    const gr_tensor k_cache = state->t[CACHE_K], v_cache = state->t[CACHE_V];
    const uint64_t  row_bytes = (uint64_t)gr_row(k_cache) * sizeof(float);
    gr_tape         t;

    take_activations(c->scratch, c->spec, 1, t.t);
    if (!gr_out_of_memory(c)) {
        const gr_core_args a = core_args(c, &t);

        queries_keys_values(c, t.t, x);
        c->op->copy(gr_rows(k_cache, pos, 1).data, a.k.data, row_bytes, GR_WITHIN, c->stream);
        c->op->copy(gr_rows(v_cache, pos, 1).data, a.v.data, row_bytes, GR_WITHIN, c->stream);
        attend(&a, k_cache.data, v_cache.data, pos + 1);
        gr_project(c, W_O, y, gr_token_rows(a.o));
    }
    gr_arena_release(c->scratch, mark);
}

/* A query at a random position of T tokens sees (T + 1) / 2 keys. Backward recomputes s: five products for two. */
static gr_mixer_cost cost(const gr_mixer_spec *s, int64_t context)
{
    const double H = s->n_head, G = s->n_kv_head, D = s->head_dim, hid = s->hidden;
    const double proj = 2 * (2 * H * D * hid + 2 * G * D * hid);
    const double core = 4 * H * D * ((double)context + 1) / 2;

    return (gr_mixer_cost){.forward = proj + core,
                           .backward = 2 * proj + 2.5 * core,
                           .core_forward = core,
                           .core_backward = 2.5 * core,
                           .state_bytes = 2 * G * D * 4 * (double)context};
}

const gr_mixer_def gr_attn_def = {
    .name = "attn",
    .symbol = "*",
    .prefix = "self_attn",
    .source = "Vaswani et al. 2017, arXiv:1706.03762; Dao 2023, arXiv:2307.08691; docs/math.md 5",
    .gain = W_O,
    .params = params,
    .from_attention = from_attention,
    .forward = forward,
    .backward = backward,
    .state_shape = state_shape,
    .step = step,
    .cost = cost,
};
