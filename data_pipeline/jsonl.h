/** @file jsonl.h  One string out of one line of JSON, quickly.  [local]
 *
 * jansson builds a tree character by character and is slower than the tokenizer; this reader validates the
 * line against RFC 8259 (nesting at most 64) and decodes nothing but the wanted string.
 */
#ifndef GR_DATA_PIPELINE_JSONL_H
#define GR_DATA_PIPELINE_JSONL_H
#include "data_pipeline/buffer.h"
#include <stdbool.h>

GR_C_BEGIN

/** What a line may suffer from. */
typedef struct gr_jsonl_error {
    const char *what; /**< NULL: nothing. "a string is not closed", ... */
    int64_t     at;   /**< byte of the line */
} gr_jsonl_error;

/** Append the string under `field` of the object in line[0..n) to *text; of several, the last (as Python does).
 * The line is valid UTF-8. replace: a lone surrogate (\ud800) becomes U+FFFD, counted in *n_replaced; else it is an
 * error. Returns GR_ERR_INPUT, not logged, with *error; or GR_ERR_NOMEM. */
gr_status gr_jsonl_string(const char *line, int64_t n, const char *field, bool replace, gr_bytes *text,
                          int64_t *n_replaced, gr_jsonl_error *error);

GR_C_END
#endif
