/** @file split.h  Cutting text into pre-tokens by a regular expression.  [local]
 *
 * HuggingFace's Split(Regex, Isolated): every match is a piece, and so is every stretch between matches.
 * The patterns of GPT-2, Llama 3 and Qwen 2 and 3 have scanners of their own (exactly equal,
 * tests/unit/test_tokenizer.c compares them); any other goes through PCRE2 with JIT. The reference's engine is
 * Oniguruma with Ruby syntax: what PCRE2 reads differently is refused, and code points it classifies differently are
 * shown to it as a neighbour of the right category.
 */
#ifndef GR_DATA_PIPELINE_SPLIT_H
#define GR_DATA_PIPELINE_SPLIT_H
#include "data_pipeline/unicode.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

#define GR_GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

typedef struct gr_split gr_split; /**< one pattern; one thread at a time */

/** Pieces of one text, in order. */
typedef struct gr_cut {
    const char *text;
    int64_t     n;
    int64_t     first, end;             /**< the piece gr_split_next found          */
    int64_t     match_first, match_end; /**< PCRE2: a match behind an unmatched gap */
    int64_t     search, last_match;     /**< PCRE2: where to look on; last end      */
    const char *subject;                /**< PCRE2: text, or its stand-in           */
} gr_cut;

/** `name` (the file) leads messages. `u` is borrowed, and marked GR_CLASS_FOREIGN where PCRE2 is used.
 * scanner false: PCRE2 even for the well-known patterns (tests). GR_ERR_INPUT when the pattern is refused. */
gr_status gr_split_open(gr_split **s, gr_unicode *u, const char *pattern, const char *name, bool scanner);
void      gr_split_close(gr_split **s);

/** Begin on valid UTF-8. One cut per split at a time. */
gr_status gr_split_begin(gr_split *s, const char *text, int64_t n, gr_cut *c);

/** Find the next piece; c->end == c->first means the text is used up. GR_ERR_INPUT when the pattern gives up. */
gr_status gr_split_next(gr_split *s, gr_cut *c);

GR_C_END
#endif
