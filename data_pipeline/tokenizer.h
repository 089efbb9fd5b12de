/** @file tokenizer.h  Byte-level BPE tokenizers, exactly as HuggingFace's tokenizers encodes and decodes.  [local]
 *
 * Reads tokenizer.json. Supported, everything else is refused by name when the file is opened:
 *
 *     normalizer      null, NFC, Sequence of those
 *     pre_tokenizer   ByteLevel, or a Sequence of Split (Regex, Isolated), Digits, and ByteLevel last
 *     model           BPE without dropout, unk_token, byte_fallback, prefix or suffix; bytes of control characters and
 * of unassigned planes may lack a token, and are dropped as the reference drops them post_processor  null, ByteLevel,
 * TemplateProcessing, Sequence of those decoder         ByteLevel added_tokens    all flags; ids must be those
 * HuggingFace would give
 *
 * A handle and its caches belong to one thread.
 */
#ifndef GR_DATA_PIPELINE_TOKENIZER_H
#define GR_DATA_PIPELINE_TOKENIZER_H
#include "data_pipeline/buffer.h"
#include "util/status.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_tokenizer gr_tokenizer;

/** Open a tokenizer.json. GR_ERR_INPUT names the component, what was found and what is supported. */
gr_status gr_tokenizer_open(gr_tokenizer **t, const char *path);

/** The same with every pattern through PCRE2, no scanner: the reference of tests. */
gr_status gr_tokenizer_open_reference(gr_tokenizer **t, const char *path);
void      gr_tokenizer_close(gr_tokenizer **t);

/** Append the ids of `text`, n bytes (NUL is a character like any other).
 * add_special_tokens: also what the TemplateProcessing post-processor puts around a single text.
 * GR_ERR_INPUT: not valid UTF-8; the message gives the byte offset. */
gr_status gr_tokenizer_encode(gr_tokenizer *t, const char *text, int64_t n, bool add_special_tokens, gr_ids *ids);

/** Append the text of `ids`; bytes that are not UTF-8 become U+FFFD; ids without a token are skipped, and so are
 * special tokens when skip_special. */
gr_status gr_tokenizer_decode(gr_tokenizer *t, const uint32_t *ids, int64_t n, bool skip_special, gr_bytes *text);

/** The bytes one id stands for (a view; they need not be whole characters); *n is 0 for an id without a token. */
const char *gr_tokenizer_bytes(const gr_tokenizer *t, uint32_t id, int64_t *n);

/** Bytes that encoding dropped so far because the vocabulary has no token for them: control characters, and planes of
 * Unicode without characters; a vocabulary that lacks others is refused. */
int64_t gr_tokenizer_lost(const gr_tokenizer *t);

/** Largest id + 1. */
int64_t gr_tokenizer_vocab_size(const gr_tokenizer *t);

/** 16 hex digits: XXH3-64 of tokenizer.json. */
const char *gr_tokenizer_digest(const gr_tokenizer *t);

/** Id of a token by its content, added tokens first ("<|endoftext|>"); -1 when there is none. */
int64_t gr_tokenizer_find(const gr_tokenizer *t, const char *content);

/** Is this id an added token marked special? */
bool gr_tokenizer_special(const gr_tokenizer *t, uint32_t id);

GR_C_END
#endif
