/** @file token.h  Cross-entropy and KL from hidden states, without ever holding [tokens, vocabulary].
 *
 * The head and the loss are one pass over tiles of token rows: logits of a tile, its loss and gradient, the tile's
 * share of dh and of the head's gradient; then the tile is forgotten. A tile is at most 64 MiB of logits. Source
 * docs/math.md 9.1, 9.2.
 */
#ifndef GR_LOSS_TOKEN_H
#define GR_LOSS_TOKEN_H
#include "kernels/arena.h"
#include "kernels/backend.h"

GR_C_BEGIN

/* All three: GR_ERR_NOMEM, logged, when a tile does not fit; nothing is computed then. */

/** [local] h [N, hid], head [V, hid]; sums over positions, not means: the step divides once, after the global
 * reduction.
 * @param[out] dh     d loss / d h = [N, hid], or none: values only
 * @param[out] dhead  += [V, hid], or none: the head is frozen
 * @param[out] sum    F64 [3] += { cross-entropy, KL, positions }, nats
 */
gr_status gr_token_loss(const gr_ops *op, gr_arena *scratch, gr_tensor dh, gr_tensor dhead, gr_tensor sum, gr_tensor h,
                        gr_tensor head, const gr_targets *t);

/** [local] The k most likely next tokens of every row; outputs as in gr_ops.top_k, N rows. */
gr_status gr_token_top_k(const gr_ops *op, gr_arena *scratch, gr_tensor id, gr_tensor lp, gr_tensor tail, gr_tensor h,
                         gr_tensor head);

/** [local] sum F64 [2] += { full KL(teacher || student) [nats], positions } where id I32 [N] >= 0. */
gr_status gr_token_kl(const gr_ops *op, gr_arena *scratch, gr_tensor sum, gr_tensor h_student, gr_tensor head_student,
                      gr_tensor h_teacher, gr_tensor head_teacher, gr_tensor id);

/** Rows of a tile: as many as keep its logits within 64 MiB, at least 16. */
int64_t gr_token_tile(int64_t n, int64_t vocab);

GR_C_END
#endif
