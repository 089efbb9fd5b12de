/** @file bpe.h  Byte-pair encoding of one pre-token, by merge rank, with a cache.  [local]
 *
 * Source  Sennrich, Haddow, Birch 2016, "Neural machine translation of rare words with subword units"; the order
 *         of merges (lowest rank, then leftmost) and the byte alphabet are those of GPT-2.
 *
 * The bytes 0..255 are the letters. While more than one symbol is left, the adjacent pair of lowest rank merges, the
 * leftmost first. Words of up to BPE_SHORT symbols scan an array; longer ones use a heap: O(n log n), whatever
 * the input. Results for words of up to 64 bytes are remembered in a table of fixed size.
 */
#ifndef GR_DATA_PIPELINE_BPE_H
#define GR_DATA_PIPELINE_BPE_H
#include "data_pipeline/buffer.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

enum { GR_BPE_NONE = -1 };

typedef struct gr_bpe gr_bpe; /**< one model and its cache: one thread at a time */

/** An empty model of up to n_token tokens and n_merge merges. */
gr_status gr_bpe_open(gr_bpe **m, int64_t n_token, int64_t n_merge);
void      gr_bpe_close(gr_bpe **m);

/** Declare: token `id` spells `text` [n] in vocabulary form (the byte alphabet, as UTF-8).
 * GR_ERR_INPUT, not logged, when the text or the id is taken. */
gr_status gr_bpe_add_token(gr_bpe *m, uint32_t id, const char *text, int64_t n);

/** Declare merge `rank`: left and right become `merged`. A repeated pair keeps the last, as in the reference. */
gr_status gr_bpe_add_merge(gr_bpe *m, uint32_t rank, uint32_t left, uint32_t right, uint32_t merged);

/** All is declared. whole_words: a word that is a token takes its id without merging (`ignore_merges`).
 * A byte may be without a token: it is dropped, as the reference drops it. Returns GR_ERR_INPUT, not logged, when that
 * would lose text, not just control characters and unassigned planes; *missing is that byte. */
gr_status gr_bpe_seal(gr_bpe *m, bool whole_words, int *missing);

/** Append the ids of one pre-token, n >= 1 bytes of UTF-8. `slack`: how many bytes behind the word may be
 * read (never used): 15 or more is fastest. */
gr_status gr_bpe_encode(gr_bpe *m, const char *word, int64_t n, int64_t slack, gr_ids *ids);

/** Bytes dropped so far because they have no token. */
int64_t gr_bpe_lost(const gr_bpe *m);

/** Id of a token by its vocabulary form, or GR_BPE_NONE. */
int64_t gr_bpe_find(const gr_bpe *m, const char *text, int64_t n);

/** Vocabulary form of an id (NULL for a hole); belongs to the model. */
const char *gr_bpe_text(const gr_bpe *m, uint32_t id, int64_t *n);

/** The byte alphabet: code point that stands for a byte, and back (-1 when none). */
uint32_t gr_byte_to_letter(int byte);
int      gr_letter_to_byte(uint32_t c);

GR_C_END
#endif
