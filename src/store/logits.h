/** @file logits.h  The teacher's predictions on disk, indexed by stream position.
 *
 *     DIR/logits-00000.h5 ...   kind "logits": id u32 [n, k], lp f16 [n, k], tail f16 [n];
 *                               positions [i * span, i * span + n)
 *     DIR/index.json            written last
 *
 * For position p of the token stream (store/shards.h): the k most likely *next* tokens in falling order, their
 * natural-log probabilities, and the log of all remaining probability. Log-probabilities are stored as fp16: absolute
 * error <= 2^-11 |lp| (0.5 % of probability at lp = -10), clamped at -60000; -inf (no tail) as -inf. A span is a fixed
 * number of windows of `context` tokens, so files do not depend on the rank count and each is committed alone: a rerun
 * skips those that are there.
 */
#ifndef GR_STORE_LOGITS_H
#define GR_STORE_LOGITS_H
#include "comm/comm.h"
#include "util/status.h"

GR_C_BEGIN

/** What identifies a store; all must match for a file or a store to be used. */
typedef struct gr_logits_spec {
    int64_t k;
    int64_t context; /**< windows the teacher saw; a student must be trained with the same */
    int64_t span;    /**< positions per file, a multiple of context                        */
    int64_t tokens;  /**< length of the stream                                             */
    int64_t vocab_size;
    char    corpus[32];  /**< digest of the shards                                             */
    char    teacher[32]; /**< content of the teacher's weights                                 */
} gr_logits_spec;

int64_t gr_logits_files(const gr_logits_spec *s); /**< number of files */

/** [local] Is file i there, complete (its checksum is verified), and of this spec? */
bool gr_logits_have(const char *dir, const gr_logits_spec *s, int64_t i);

/** [local] Write file i: n positions (span, the last file what is left); id [n, k], lp [n, k], tail [n] in fp32, host
 * memory. GR_ERR_NUMERIC when ids are not in [0, vocab_size), or log-probabilities not finite, falling and <= 0 (1e-3
 * above is rounding, stored as 0). */
gr_status gr_logits_write(const char *dir, const gr_logits_spec *s, int64_t i, int64_t n, const int32_t *id,
                          const float *lp, const float *tail, const char *config);

/** [local; rank 0] Publish the index: all files must be there. It lists their seals, and checksums itself
 * (store/json_seal.h). */
gr_status gr_logits_publish(const char *dir, const gr_logits_spec *s, const char *config);

typedef struct gr_logits gr_logits;

/** [collective] Open and verify: the index, and all files against it, dealt over ranks. GR_ERR_INPUT. */
gr_status             gr_logits_open(gr_logits **l, const gr_comm *c, const char *dir);
void                  gr_logits_close(gr_logits **l);
const gr_logits_spec *gr_logits_spec_of(const gr_logits *l);
const char *gr_logits_digest(const gr_logits *l); /**< identifies the predictions, whatever path or configuration
                                                     made them: 16 hex digits; "content" in the index */

/** [collective] Read the index alone: no file is looked at. To see which of them are sound. */
gr_status gr_logits_look(gr_logits **l, const gr_comm *c, const char *dir);

/** [local] The path of file i. */
gr_status gr_logits_path(const gr_logits *l, int64_t i, char path[4096]);

/** [local] Verify file i: checksum, the index's seal, attributes, shapes. GR_ERR_INPUT. */
gr_status gr_logits_check(const gr_logits *l, int64_t i);

/** [local] Positions [first, first + n): id [n, k], lp [n, k], tail [n], host memory. Values are checked as by
 * gr_logits_write: GR_ERR_INPUT. Files verified at open are not read in full again; up to 32 stay open. */
gr_status gr_logits_read(gr_logits *l, int64_t first, int64_t n, int32_t *id, float *lp, float *tail);

GR_C_END
#endif
