/** @file softmax.h  Softmax over a band of keys: what the cores of attn, swa and bmojo share.  [leaf]
 *
 *     o_i = sum_j p_ij v_j,   p_ij = exp(s <q_i, k_j> - lse_i),   lse_i = log sum_j exp(s <q_i, k_j>)
 *
 * j runs over the keys of i's document that the band lets it see. Tiles of keys that nobody in a block of queries sees
 * are not visited: time is O(N (far - near + sink)), memory a few tiles per thread and in backward two numbers per
 * (token, head). lse is kept in natural logarithms.
 * Source   Dao et al. 2022, arXiv:2205.14135 (tiles, streaming softmax, recomputed backward);
 *          Dao 2023, arXiv:2307.08691 (loops exchanged).  docs/math.md 5.2 to 5.5.
 */
#ifndef GR_KERNELS_CPU_SOFTMAX_H
#define GR_KERNELS_CPU_SOFTMAX_H
#include "kernels/mixer.h"

/** Which keys j a query i sees, j <= i and both in one document: near <= i - j < far, and the document's first `sink`.
 */
typedef struct gr_band {
    int64_t near, far, sink;
} gr_band;

/** The last `window` tokens, the query itself included, and the first `sink`; window 0: everything. */
gr_band gr_band_of(int window, int sink);

/** o and aux (lse; may be none) from q, k, v. A query that sees nothing has o = 0 and lse = -inf.
 * The bits do not depend on the number of threads. */
void gr_softmax_forward(const gr_core_args *a, gr_band band);

/** dq, dk, dv (=; dq += with add_dq) from d_o and the forward's q, k, v, o, aux. Where a softmax runs over several sets
 * of keys, o and aux are those of all of them together, and the sets' gradients add up: aux must be finite.
 * The bits do not depend on the number of threads. */
void gr_softmax_backward(const gr_core_args *a, gr_band band, bool add_dq);

/** gr_mixer_core's functions of a type that looks at one set of keys: which, say a->window and a->sink. */
void gr_softmax_core_forward(const gr_core_args *a, gr_stream *stream);
void gr_softmax_core_backward(const gr_core_args *a, gr_stream *stream);

/** A set of keys and values [n, G, K], [n, G, V], in any order, n >= 0, and the query [1, H, K] that looks at all of
 * them. */
typedef struct gr_keys {
    gr_tensor q, k, v;
} gr_keys;

/** Decoding: a->o of one token, one softmax over all keys of all sets. The sets together are not empty. */
void gr_softmax_decode(const gr_core_args *a, const gr_keys *set, int n_set);
#endif
