/** @file shards.h  A tokenised corpus: one logical token stream, cut into sealed HDF5 files.
 *
 *     DIR/shard-00000.h5 ...   kind "shard": tokens u32 [n], loss_mask u8 [n], doc_offsets i64 [docs + 1]
 *     DIR/index.json           written last; lists the shards with tokens, documents and seals
 *
 * The stream is the concatenation of the shards in order, and does not depend on how many ranks
 * wrote it. A document never spans two shards. Positions are int64 from the start of the stream.
 * One stream serves every context length, batch size and parallel layout: packing is the loader's.
 */
#ifndef GR_STORE_SHARDS_H
#define GR_STORE_SHARDS_H
#include "comm/comm.h"
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

/** What must be the same for every shard of a corpus. */
typedef struct gr_corpus {
    int64_t vocab_size;    /**< every id is in [0, vocab_size)                              */
    char    tokenizer[17]; /**< identifies the tokenizer: 16 hex digits of XXH3-64 of tokenizer.json */
    int64_t eos;           /**< id that ends each document, or -1                           */
} gr_corpus;

/** One shard in host memory, while it is being written. */
typedef struct gr_shard {
    const uint32_t *tokens;      /**< [n_token]                                                 */
    const uint8_t  *loss_mask;   /**< [n_token]; 1: the model is trained to predict this token   */
    const int64_t  *doc_offsets; /**< [n_doc + 1]; first 0, last n_token, strictly increasing    */
    int64_t         n_token, n_doc;
    const char     *source; /**< identifies what it was made from (16 hex digits); "" when nobody asks   */
} gr_shard;

/** What the index says of one shard. */
typedef struct gr_shard_info {
    int64_t n_token, n_doc;
    int64_t
        content; /**< CRC-32C of tokens, loss mask and document offsets: the same text has the same, wherever it lies */
    char seal[32]; /**< of the sealed file (store/h5.h), attributes included */
} gr_shard_info;

/** [local] Write shard `i` of `dir` and describe it in *info. */
gr_status gr_shard_write(const char *dir, int64_t i, const gr_corpus *corpus, const gr_shard *shard, const char *config,
                         gr_shard_info *info);

/** [local] Describe a shard that is already there, if it is complete, of this corpus and made from `source`;
 * GR_ERR_INPUT otherwise: the caller writes it anew. Only a damaged one is logged. */
gr_status gr_shard_probe(const char *dir, int64_t i, const gr_corpus *corpus, const char *source, gr_shard_info *info);

/** [local; rank 0] Take the index away, and with it the claim that the corpus is complete; none there is fine. Before
 * the first shard is written. */
gr_status gr_shards_retract(const char *dir);

/** [local; rank 0] Publish the index: the corpus is complete. `config` is the resolved configuration (YAML text). */
gr_status gr_shards_publish(const char *dir, const gr_corpus *corpus, const gr_shard_info *info, int64_t n_shard,
                            const char *config);

typedef struct gr_shards gr_shards; /**< an open corpus */

/** [collective] Open and verify: every shard's checksum by rank (i mod ranks), ids in range, offsets increasing.
 * GR_ERR_INPUT names the file, what was found, what was expected. An empty corpus is GR_ERR_INPUT. */
gr_status gr_shards_open(gr_shards **s, const gr_comm *c, const char *dir);
void      gr_shards_close(gr_shards **s);

/** [collective] Read the index alone: no shard is looked at. To see which of them are sound. */
gr_status gr_shards_look(gr_shards **s, const gr_comm *c, const char *dir);

int64_t gr_shards_count(const gr_shards *s); /**< of shards */

/** [local] The path of shard i. */
gr_status gr_shards_path(const gr_shards *s, int64_t i, char path[4096]);

/** [local] Verify shard i: checksum, the index's seal, attributes, shapes, ids, offsets. GR_ERR_INPUT. */
gr_status gr_shards_check(const gr_shards *s, int64_t i);

const gr_corpus *gr_shards_corpus(const gr_shards *s);
int64_t          gr_shards_tokens(const gr_shards *s);
int64_t          gr_shards_documents(const gr_shards *s);
const char      *gr_shards_digest(const gr_shards *s); /**< identifies the content, whatever path or configuration made
                                                        it: 16 hex digits; "content" in the index */

/** [local] Stream positions [first, first + n). tokens, loss_mask, doc_start: [n], host memory, any may be NULL;
 * doc_start[i] is 1 where a document begins. */
gr_status gr_shards_read(gr_shards *s, int64_t first, int64_t n, uint32_t *tokens, uint8_t *loss_mask,
                         uint8_t *doc_start);

GR_C_END
#endif
