/* Tiles of queries against tiles of keys, forward, backward, and one query against a cache (softmax.h). */
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec.h"
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

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return max64(low, min64(x, high));
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

/* ---- what a band lets see -------------------------------------------------------------------------- */

static const int64_t ALL = INT32_MAX; /* longer than any document (gr_seq) */

gr_band gr_band_of(int window, int sink)
{
    return (gr_band){.near = 0, .far = window > 0 ? window : ALL, .sink = window > 0 ? sink : 0};
}

static bool sees_all(gr_band b)
{
    return b.near == 0 && b.far >= ALL;
}

/* Of the queries t: the first and one past the last key that any of them sees, sinks aside. */
static int64_t first_key(gr_band b, span t)
{
    return max64(t.doc, t.first - b.far + 1);
}
static int64_t end_of_keys(gr_band b, span t)
{
    return max64(t.last - b.near, min64(t.doc + b.sink, t.last));
}

/* The next tile of keys from k0 on that the queries t may see: one with sinks, or one in the band. */
static int64_t next_tile(gr_band b, span t, int64_t k0)
{
    return k0 < t.doc + b.sink ? k0 : max64(k0, t.doc + (first_key(b, t) - t.doc) / KEYS * KEYS);
}

/* What some queries look at of a tile of keys: its columns [first, end), `first` a multiple of 16. */
typedef struct view {
    int  rows; /* queries of the view: as many as all see the whole tile, else a strip */
    int  first, end;
    bool mask; /* not all of them see all of it */
} view;

/* Queries i, i + 1, ..., at most `most`, and the keys [k0, k0 + n), of the document that starts at doc. */
static view look(gr_band b, int64_t doc, int64_t k0, int n, int64_t i, int64_t most)
{
    const bool    beyond = i - b.far >= k0 + n - 1; /* the band has left the tile: sinks are all that is seen */
    const bool    inside = i - b.near >= k0 + n - 1 && i + most - 1 - b.far < k0; /* all rows see the whole tile */
    const int64_t rows = inside || beyond ? most : min64(STRIP, most);
    const int64_t sinks = min64(n, min64(doc + b.sink, i + rows) - k0);
    int64_t       first = max64(0, i - b.far + 1 - k0), end = beyond ? 0 : min64(n, i + rows - b.near - k0);

    if (sinks > 0) first = 0, end = max64(end, sinks);
    return (view){.rows = (int)rows, .first = (int)(first / 16 * 16), .end = (int)end, .mask = !inside || n < KEYS};
}

static bool sees_nothing(view v)
{
    return v.end <= v.first;
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

/* -inf where a query does not see a key: that becomes probability 0. s [rows, round16(n)] are the scores of queries i,
 * i + 1, ... with the n keys from k0 on; there are no keys behind those. */
static void mask(gr_band b, int64_t doc, float *s, int64_t i, int rows, int64_t k0, int n)
{
    for (int r = 0; r < rows; r++, s += LD_KEYS) {
        const int64_t lag = i + r - k0; /* of the first column */
        const int64_t sinks = clamp(min64(doc + b.sink - k0, lag + 1), 0, n);
        const int64_t from = clamp(lag - b.far + 1, sinks, n), to = clamp(lag - b.near + 1, from, n);

        for (int64_t j = sinks; j < from; j++) s[j] = -INFINITY;
        for (int64_t j = to; j < round16(n); j++) s[j] = -INFINITY;
    }
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
        const float top = m[i] == -INFINITY ? 0 : m[i]; /* this row has seen nothing: all its p are 0 */

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
static void forward_block(const gr_core_args *a, gr_band band, const forward_buf *b, span t, int g)
{
    const int     H = a->n_head, G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = H / G;
    const int     ldk = gr_tile_ld(K), ldv = gr_tile_ld(V), n_q = t.last - t.first;
    const int64_t q_row = (int64_t)H * K, k_row = (int64_t)G * K, v_row = (int64_t)G * V, o_row = (int64_t)H * V;
    const float  *q = (const float *)a->q.data + t.first * q_row + g * rep * K;
    float        *o = (float *)a->o.data + t.first * o_row + g * rep * V;
    float        *lse = a->aux.data ? (float *)a->aux.data + (int64_t)t.first * H + g * rep : NULL;
    float *const  qp = mine(b->q), *kt = mine(b->kt), *v = mine(b->v), *s = mine(b->s);
    float *const  acc = mine(b->acc), *m = mine(b->m), *l = mine(b->l);
    const bool    one_start = sees_all(band); /* all rows begin with the first tile, which then need not be added */
    const int64_t end = end_of_keys(band, t);

    for (int r = 0; r < rep; r++) pack(qp + r * n_q * ldk, ldk, q + r * K, q_row, n_q, K);
    for (int i = 0; i < rep * n_q; i++) m[i] = -INFINITY, l[i] = 0;

    if (!one_start) memset(acc, 0, (size_t)(rep * n_q * ldv) * sizeof *acc);

    for (int64_t k0 = next_tile(band, t, t.doc); k0 < end; k0 = next_tile(band, t, k0 + KEYS)) {
        const int n = (int)min64(KEYS, (k0 + KEYS <= first_key(band, t) ? t.doc + band.sink : end) - k0);

        pack_transposed(kt, (const float *)a->k.data + k0 * k_row + g * K, k_row, n, K);
        pack(v, ldv, (const float *)a->v.data + k0 * v_row + g * V, v_row, n, V);
        for (int r = 0; r < rep; r++)
            for (int i = 0; i < n_q;) {
                const view x = look(band, t.doc, k0, n, t.first + i, min64(ROWS, n_q - i));
                const int  at = r * n_q + i, seen = x.end - x.first;

                i += x.rows;
                if (sees_nothing(x)) continue;
                gr_tile_gemm(x.rows, round16(seen), K, qp + at * ldk, ldk, 1, kt + x.first, LD_KEYS, s, LD_KEYS,
                             a->scale, 0.0f);
                if (x.mask) mask(band, t.doc, s, t.first + i - x.rows, x.rows, k0 + x.first, seen);
                absorb(acc + at * ldv, ldv, m + at, l + at, s, x.rows, seen, v + x.first * ldv, ldv, V,
                       one_start && k0 == t.doc);
            }
    }
    for (int r = 0; r < rep; r++)
        for (int i = 0; i < n_q; i++) {
            const int   at = r * n_q + i;
            const float scale = l[at] == 0 ? 0 : 1.0f / l[at]; /* 0: it saw nothing, else the largest score adds e^0 */
            float      *out = o + i * o_row + r * V;

#pragma omp simd
            for (int j = 0; j < V; j++) out[j] = acc[at * ldv + j] * scale;
            if (lse) lse[(int64_t)i * H + r] = m[at] + logf(l[at]);
        }
}

void gr_softmax_forward(const gr_core_args *a, gr_band band)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const int     G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = a->n_head / G, T = omp_get_max_threads();
    const int     width = BLOCK / rep > STRIP ? BLOCK / rep : STRIP, rows = width * rep; /* a block: width tokens */
    const span   *spans;
    const int64_t n_span = cut(a->scratch, a->seq, width, &spans);
    forward_buf   b;

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
            forward_block(a, band, &b, spans[n_span - 1 - u % n_span], (int)(u / n_span));
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

/* How many tiles of keys before t come to the queries from token `tile` on: those with sinks, and those in the band. */
static int32_t turn_of(gr_band band, span t, int32_t tile)
{
    const int64_t j = (t.first - t.doc) / KEYS, sinks = (band.sink + KEYS - 1) / KEYS;
    const int64_t first = max64(0, tile - band.far + 1 - t.doc) / KEYS; /* the first one in the band */

    return (int32_t)(j < sinks ? j : j - max64(0, first - sinks));
}

/* Keys t of head g. delta [N, H]; turn [N, H]: how many key tiles have added to dq of the row tile starting there. */
static void backward_tile(const gr_core_args *a, gr_band band, const backward_buf *b, span t, int g, const float *delta,
                          _Atomic int32_t *turn, bool dq_is_set)
{
    const int     H = a->n_head, G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = H / G;
    const int     ldk = gr_tile_ld(K), ldv = gr_tile_ld(V), n = t.last - t.first;
    const int64_t q_row = (int64_t)H * K, k_row = (int64_t)G * K, v_row = (int64_t)G * V, o_row = (int64_t)H * V;
    const int64_t k_at = t.first * k_row + g * K, v_at = t.first * v_row + g * V;
    float *const  k = mine(b->k), *kt = mine(b->kt), *vt = mine(b->vt), *dk = mine(b->dk), *dv = mine(b->dv);
    float *const  q = mine(b->q), *d_o = mine(b->d_o), *s = mine(b->s), *ds = mine(b->ds);
    const bool    sinks = t.first < t.doc + band.sink;
    const int32_t begin = (int32_t)(sinks ? t.first : t.first + band.near); /* queries that may see these keys */
    const int32_t end = (int32_t)(sinks ? t.doc_end : min64(t.doc_end, t.last + band.far - 1));

    pack(k, ldk, (const float *)a->k.data + k_at, k_row, n, K);
    pack_transposed(kt, (const float *)a->k.data + k_at, k_row, n, K);
    pack_transposed(vt, (const float *)a->v.data + v_at, v_row, n, V);
    memset(dk, 0, (size_t)(n * ldk) * sizeof *dk);
    memset(dv, 0, (size_t)(n * ldv) * sizeof *dv);

    for (int32_t tile = t.doc + (begin - t.doc) / ROWS * ROWS; tile < end; tile += ROWS)
        for (int h = g * rep; h < (g + 1) * rep; h++) {
            const int32_t          tile_end = (int32_t)min64(tile + ROWS, t.doc_end), own = turn_of(band, t, tile);
            _Atomic int32_t *const now = turn + (int64_t)tile * H + h;

            for (int32_t i = tile > begin ? tile : begin; i < tile_end;) {
                const view    x = look(band, t.doc, t.first, n, i, tile_end - i);
                const int     seen = x.end - x.first, cols = round16(seen);
                float        *dq = (float *)a->dq.data + i * q_row + h * K;
                const int64_t at = (int64_t)i * H + h;

                i += x.rows;
                if (sees_nothing(x)) continue;
                pack(q, ldk, (const float *)a->q.data + at * K, q_row, x.rows, K);
                pack(d_o, ldv, (const float *)a->d_o.data + at * V, o_row, x.rows, V);
                gr_tile_gemm(x.rows, cols, K, q, ldk, 1, kt + x.first, LD_KEYS, s, LD_KEYS, a->scale, 0.0f);
                gr_tile_gemm(x.rows, cols, V, d_o, ldv, 1, vt + x.first, LD_KEYS, ds, LD_KEYS, 1.0f, 0.0f);
                if (x.mask) mask(band, t.doc, s, i - x.rows, x.rows, t.first + x.first, seen);
                probabilities_back(s, ds, x.rows, cols, (const float *)a->aux.data + at, delta + at, H);
                gr_tile_gemm(seen, V, x.rows, s, 1, LD_KEYS, d_o, ldv, dv + x.first * ldv, ldv, 1.0f, 1.0f);
                gr_tile_gemm(seen, K, x.rows, ds, 1, LD_KEYS, q, ldk, dk + x.first * ldk, ldk, a->scale, 1.0f);
                wait_for_turn(now, own); /* after the first view of a tile it is ours */
                gr_tile_gemm(x.rows, K, seen, ds, LD_KEYS, 1, k + x.first * ldk, ldk, dq, q_row, a->scale,
                             dq_is_set || own > 0 ? 1.0f : 0.0f);
            }
            wait_for_turn(now, own);
            atomic_store_explicit(now, own + 1, memory_order_release); /* the next one's turn */
        }
    for (int i = 0; i < n; i++) {
        memcpy((float *)a->dk.data + k_at + i * k_row, dk + i * ldk, (size_t)K * sizeof(float));
        memcpy((float *)a->dv.data + v_at + i * v_row, dv + i * ldv, (size_t)V * sizeof(float));
    }
}

void gr_softmax_backward(const gr_core_args *a, gr_band band, bool add_dq)
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
    const bool             clear_dq = !add_dq && !sees_all(band); /* else the first tile, seen by all, sets it */
    backward_buf           b;

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
                if (clear_dq) memset((float *)a->dq.data + i * K, 0, (size_t)K * sizeof(float));
                atomic_init(&turn[i], 0);
            }
            /* Not an omp loop, because the order is a promise: who waits, waits for a tile handed out before its own,
             * so the oldest never waits. It is the best order too: a document's first keys have the most queries. */
            for (int64_t u; (u = atomic_fetch_add(&handed_out, 1)) < n_span * G;) {
                const int64_t g = u / (n_span * side) * side, n_side = min64(side, G - g), v = u - g * n_span;

                backward_tile(a, band, &b, spans[v / n_side], (int)(g + v % n_side), delta, turn, clear_dq || add_dq);
            }
        }
    }
    gr_arena_release(a->scratch, mark);
}

/* ---- decoding ------------------------------------------------------------------------------------- */

/* What became of the pieces of all sets, in their order. */
typedef struct pieces { /* each [pieces, H, ...] */
    float *s, *m, *l, *acc;
} pieces;

/* One query against the n <= KEYS keys from `first` on of a set, all heads; keys and values are read once per group. */
static void attend_piece(const gr_core_args *a, const gr_keys *set, int64_t first, const pieces *p, int64_t piece)
{
    const int     H = a->n_head, G = a->n_kv_head, K = a->k_dim, V = a->v_dim, rep = H / G;
    const int     n = (int)min64(KEYS, set->k.dim[0] - first);
    const int64_t k_row = (int64_t)G * K, v_row = (int64_t)G * V;
    const float  *k = (const float *)set->k.data + first * k_row, *v = (const float *)set->v.data + first * v_row;
    float        *s = p->s + piece * H * LD_KEYS, *m = p->m + piece * H, *l = p->l + piece * H;
    float        *acc = p->acc + piece * H * V;

    for (int t = 0; t < n; t++)
        for (int h = 0; h < H; h++) {
            const float *q = (const float *)set->q.data + h * K, *kt = k + t * k_row + h / rep * K;
            float        dot = 0;

#pragma omp simd reduction(+ : dot)
            for (int j = 0; j < K; j++) dot += q[j] * kt[j];
            s[h * LD_KEYS + t] = dot * a->scale;
        }
    for (int h = 0; h < H; h++) {
        m[h] = -INFINITY, l[h] = 0;
        for (int t = n; t < round16(n); t++) s[h * LD_KEYS + t] = -INFINITY;
    }
    for (int h = 0; h < H; h += rep)
        absorb(acc + h * V, V, m + h, l + h, s + h * LD_KEYS, rep, n, v + h / rep * V, v_row, V, true);
}

/* docs/math.md 5.4: the pieces merged in their order, so that the threads do not matter. */
static void merge_pieces(const gr_core_args *a, const pieces *p, int64_t n_piece)
{
    const int H = a->n_head, V = a->v_dim;

    for (int h = 0; h < H; h++) {
        float *o = (float *)a->o.data + h * V, top = -INFINITY, sum = 0;

        for (int64_t i = 0; i < n_piece; i++) top = fmaxf(top, p->m[i * H + h]);
        for (int64_t i = 0; i < n_piece; i++) sum += p->l[i * H + h] * gr_expf(p->m[i * H + h] - top);
        memset(o, 0, (size_t)V * sizeof *o);
        for (int64_t i = 0; i < n_piece; i++) {
            const float share = gr_expf(p->m[i * H + h] - top) / sum;

#pragma omp simd
            for (int j = 0; j < V; j++) o[j] += share * p->acc[(i * H + h) * V + j];
        }
    }
}

static int64_t pieces_of(const gr_keys *set)
{
    return (set->k.dim[0] + KEYS - 1) / KEYS;
}

void gr_softmax_decode(const gr_core_args *a, const gr_keys *set, int n_set)
{
    const gr_mark mark = gr_arena_mark(a->scratch);
    const int     H = a->n_head;
    int64_t       n_piece = 0;
    pieces        p;

    for (int i = 0; i < n_set; i++) n_piece += pieces_of(&set[i]);
    p.s = gr_take3(a->scratch, GR_F32, n_piece, H, LD_KEYS).data;
    p.m = gr_take2(a->scratch, GR_F32, n_piece, H).data;
    p.l = gr_take2(a->scratch, GR_F32, n_piece, H).data;
    p.acc = gr_take3(a->scratch, GR_F32, n_piece, H, a->v_dim).data;
    if (gr_arena_status(a->scratch) == GR_OK) {
#pragma omp parallel for schedule(static) if (n_piece > 1)
        for (int64_t i = 0; i < n_piece; i++) {
            const gr_keys *x = set;
            int64_t        at = i;

            for (; at >= pieces_of(x); x++) at -= pieces_of(x);
            attend_piece(a, x, at * KEYS, &p, i);
        }
        merge_pieces(a, &p, n_piece);
    }
    gr_arena_release(a->scratch, mark);
}

/* ---- a whole core ---------------------------------------------------------------------------------- */

void gr_softmax_core_forward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    if (a->decode)
        gr_softmax_decode(a, &(gr_keys){a->q, a->k, a->v}, 1);
    else
        gr_softmax_forward(a, gr_band_of(a->window, a->sink));
}

void gr_softmax_core_backward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_softmax_backward(a, gr_band_of(a->window, a->sink), false);
}
