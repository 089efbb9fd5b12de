/** @file chunk.h  What recurrences computed in chunks share: a head's view, decay, states, the walk over documents.
 * [leaf]
 *
 * A recurrent head holds a matrix S [K, V] that fades by e^g (g <= 0) at each token. Written for C tokens at once,
 * nearly all of it is products of matrices (kernels/cpu/tile.h). Here is what does not depend on how the state is
 * written and read: kernels/cpu/gla.h and mixer_gdn.c say that.
 *
 * Symbols  t, first, end: tokens. n: tokens of a chunk, n <= C. R: rows of q, k, v and o per token, 1 except in MIMO
 * recurrences; rows of one token share its gates and see each other. Matrices of a chunk have m = n R rows, row i
 * belongs to token t + i / R. G_i: log-decay from the chunk's start to row i's token, inclusive.
 *
 * Source   docs/math.md 0.6 and 2.3.
 */
#ifndef GR_KERNELS_CPU_CHUNK_H
#define GR_KERNELS_CPU_CHUNK_H
#include "kernels/cpu/tile.h"
#include "kernels/mixer.h"

/* ---- one head ---------------------------------------------------------------------------------------------------- */

/** One head's view of the arguments: pointers to it at token 0 (NULL: absent), and from there the way. */
typedef struct gr_head {
    int          K, V, C, R;                 /**< key and value width, tokens per chunk, rows per token      */
    int          ldk, ldv, ldc;              /**< row strides of scratch matrices K, V and C R wide          */
    int64_t      q_row, k_row, v_row, o_row; /**< from row to row; a token has R                             */
    int64_t      n_head;                     /**< gates, from token to token                                 */
    float        scale;
    const float *q, *k, *v, *d_o, *gate[GR_MIXER_GATES]; /**< gate 0 is the log-decay                       */
    float       *o, *dq, *dk, *dv, *dgate[GR_MIXER_GATES];
    int64_t      dk_row, dv_row; /**< dk, dv are this head's own; the walk sums them over the group          */
    const float *state_in[GR_CORE_STATES], *dstate_out[GR_CORE_STATES];
    float       *state_out[GR_CORE_STATES], *dstate_in[GR_CORE_STATES];
    float       *aux; /**< by-product; the type knows its rows */
    int          iterations;
    float        ridge;
} gr_head;

gr_head gr_head_of(const gr_core_args *a, int h);

/* ---- small parts ------------------------------------------------------------------------------------------------- */

/** t's memory from element `at` on, or NULL when t is absent. */
static inline float *gr_at(gr_tensor t, int64_t at)
{
    return t.data ? (float *)t.data + at : NULL;
}

/** y [n, m] = a row_i x; row NULL: all 1. y may be x. */
static inline void gr_scale_rows(int n, int m, float a, const float *row, const float *x, int64_t ldx, float *y,
                                 int64_t ldy)
{
    for (int i = 0; i < n; i++) {
        const float *xi = x + i * ldx, r = row ? a * row[i] : a;
        float       *yi = y + i * ldy;
#pragma omp simd
        for (int j = 0; j < m; j++) yi[j] = r * xi[j];
    }
}

static inline float gr_dot(int n, const float *a, const float *b)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/** <A, B> of two matrices [n, m], fp64 across rows. */
static inline double gr_inner(int n, int m, const float *a, const float *b, int64_t ld)
{
    double sum = 0;

    for (int i = 0; i < n; i++) sum += (double)gr_dot(m, a + i * ld, b + i * ld);
    return sum;
}

/** A state [K, V] as the caller keeps it (rows V apart; NULL: zero, or unwanted) to scratch (rows ld apart), and back.
 */
void gr_state_load(int K, int V, const float *from, float *S, int64_t ld);
void gr_state_store(int K, int V, const float *S, int64_t ld, float *to);

/** Scratch is one run of floats dealt out in order; with base NULL it is only counted. Ask for multiples of 16. */
typedef struct gr_room {
    float  *base;
    int64_t used;
} gr_room;

static inline float *gr_room_take(gr_room *r, int64_t n)
{
    float *p = r->base ? r->base + r->used : NULL;

    r->used += n;
    return p;
}

/** n rounded up to whole vectors. */
static inline int64_t gr_line(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* ---- decay inside a chunk ---------------------------------------------------------------------------------------- */

/** Only G_i, G_i - G_j (i >= j) and G_end - G_i are ever exponentiated, all <= 0, masked before exp. G is chunk-local
 * and fp64: one token of strong decay must not cost the later pairs their digits. */
typedef struct gr_decay {
    double *G, *dG;       /**< [C R]; dG only for backward                                                          */
    float  *e_in, *e_out; /**< [C R] e^G, e^(G_end - G)                                                             */
    float  *one, *col;    /**< [C R] 1; scratch of gr_weigh_back                                                    */
    float  *P;            /**< [C R, C R] e^(G_i - G_j) where row i sees row j, 0 in the rest of that line of
                             vectors; beyond it nothing is written or read                                          */
    float e_all;          /**< e^G_end                                                                              */
} gr_decay;

void gr_decay_furnish(gr_decay *d, gr_room *r, const gr_head *x, bool backward);

/** For tokens t ... t + n - 1; dG = 0. */
void gr_decay_load(const gr_head *x, gr_decay *d, int64_t t, int n);

/** M [m, m] = P . M, rows times row_i, columns times col_j; zero where P is not defined, and on the diagonal when
 * `strict` (R = 1 only). */
void gr_weigh(const gr_head *x, const gr_decay *d, float *M, int m, int strict, const float *row, const float *col);

/** M, the gradient of P . (something), becomes that of (something): M = P . M, rows times row_i. On the way dG takes
 * its share. W is P . (something) itself, so <M_ij, W_ij> is the gradient of the exponent G_i - G_j of P_ij. Pairs
 * inside a token, where the exponent is always 0, are left out instead of cancelling: with strong decay they are all
 * there is to round. (For the same reason dG = <q, dq> - <k, dk> will not do: both are dominated by the diagonal.) */
void gr_weigh_back(const gr_head *x, gr_decay *d, float *M, const float *W, int m, int strict, const float *row);

/** dG from what passes through states. `in` [m, K] is what each row reads of the state before the chunk, whose factor
 * is e^{G_i}, given as the pair (a, da): <a_i, da_i> is G_i's gradient. Likewise (b, db), or NULL, a second reader.
 * (w, dw) is what each row writes into the state after the chunk, factor e^{G_end - G_i}; the state before enters it
 * with e^{G_end}: `kept` = e^{G_end} <S_in, dS_out>. Closes the chunk: writes the gradient of gate 0. */
void gr_decay_back(const gr_head *x, gr_decay *d, int64_t t, int m, const float *a, const float *da, const float *b,
                   const float *db, const float *w, const float *dw, double kept);

/* ---- the walk: (document, head) pairs in any order on any number of threads, each computed by one of them ----------
 */

/** A document, or what lies of it here. */
typedef struct gr_span {
    int64_t first, end;
    bool    is_first, is_last; /**< of this call: then the caller's states enter or leave */
} gr_span;

/** Tokens of the chunk that starts at t. */
static inline int gr_chunk_len(const gr_head *x, int64_t t, int64_t end)
{
    return end - t < x->C ? (int)(end - t) : x->C;
}

enum { GR_ROOM_TOKEN = -1, GR_ROOM_FORWARD = 0 };

/** A recurrence, head by head. `room`: scratch of the thread, as many floats as room() says, not cleared. */
typedef struct gr_recurrence {
    /** Floats for one token, forward, or (n_chunk > 0) backward over documents of up to n_chunk chunks. */
    int64_t (*room)(const gr_head *x, int64_t n_chunk);
    void (*token)(const gr_head *x, float *room); /**< the call is one token: decoding */
    void (*forward)(const gr_head *x, const gr_span *doc, float *room);
    void (*backward)(const gr_head *x, const gr_span *doc, float *room);
} gr_recurrence;

/** The forward and backward of a gr_mixer_core. v and dv may be absent: a recurrence without values. */
void gr_chunked_forward(const gr_core_args *a, const gr_recurrence *r);
void gr_chunked_backward(const gr_core_args *a, const gr_recurrence *r);
#endif
