/** @file added.h  Added tokens: strings cut out of the text before anything else happens to it.  [local]
 *
 * Leftmost-longest matching over a byte trie, then the flags single_word, lstrip and rstrip, as HuggingFace's
 * added_vocabulary.rs does it (its oddities included: what a token strips may overlap the next match).
 */
#ifndef GR_DATA_PIPELINE_ADDED_H
#define GR_DATA_PIPELINE_ADDED_H
#include "data_pipeline/unicode.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_added {
    uint32_t id;
    bool     single_word, lstrip, rstrip;
} gr_added;

typedef struct gr_added_set gr_added_set; /**< a set of patterns */

/** A part of the text: a token (id >= 0) or plain text (id -1). */
typedef struct gr_part {
    int64_t first, end; /**< bytes; a token's part includes what it strips */
    int64_t id;
} gr_part;

/** Iterator over the parts of one text. */
typedef struct gr_parts {
    const gr_added_set *set;
    const gr_unicode   *unicode;
    const char         *text;
    int64_t             n;
    int64_t             search;  /**< where the next match may begin */
    int64_t             from;    /**< end of what has been returned  */
    gr_part             pending; /**< a token found behind plain text; id -1: none */
} gr_parts;

gr_status gr_added_open(gr_added_set **s);
void      gr_added_close(gr_added_set **s);

/** Add a pattern, n >= 1 bytes. GR_ERR_INPUT, not logged, when it is there already. */
gr_status gr_added_push(gr_added_set *s, const char *pattern, int64_t n, gr_added token);

/** Start over `text`; next() returns false at the end. Everything is borrowed. */
gr_parts gr_parts_of(const gr_added_set *s, const gr_unicode *u, const char *text, int64_t n);
bool     gr_parts_next(gr_parts *p, gr_part *part);

GR_C_END
#endif
