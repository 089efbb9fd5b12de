/** @file unicode.h  Unicode as the reference tokenizer sees it: classes of code points, and NFC.  [local]
 *
 * Ids must equal HuggingFace's, whose three Unicode libraries follow three editions (letters and spaces: Oniguruma,
 * 16.0; digits: Rust, 17.0; NFC: a crate at 9.0 or 10.0). So the tables are asked of the reference itself
 * (unicode_table.h, scripts/make_unicode_table.py) and do not depend on what this machine's libraries know.
 */
#ifndef GR_DATA_PIPELINE_UNICODE_H
#define GR_DATA_PIPELINE_UNICODE_H
#include "data_pipeline/buffer.h"
#include <stdbool.h>
#include <stdint.h>

GR_C_BEGIN

enum { GR_UNICODE_SIZE = 0x110000, GR_N_GC = 30 };

/** What pre-tokenizer patterns distinguish. */
typedef enum gr_class {
    GR_CLASS_OTHER,   /**< none of those below: punctuation, symbols, controls, unassigned */
    GR_CLASS_LETTER,  /**< \p{L}                                                            */
    GR_CLASS_NUMBER,  /**< \p{N}                                                            */
    GR_CLASS_SPACE,   /**< \s, but not \r \n                                                */
    GR_CLASS_NEWLINE, /**< \r \n                                                            */
    GR_CLASS_MARK,    /**< \p{M}                                                            */
    GR_CLASS_MASK = 7,
    GR_CLASS_WORD = 8,     /**< flag: \w of the regex crate                                 */
    GR_CLASS_NUMERIC = 16, /**< flag: char::is_numeric                                      */
    GR_CLASS_NFC = 32,     /**< flag: NFC may change, reorder or join it to what precedes   */
    GR_CLASS_FOREIGN = 64  /**< flag: this machine's PCRE2 disagrees (split.c)              */
} gr_class;

typedef struct gr_unicode {
    uint8_t *cls;   /**< [GR_UNICODE_SIZE], owned: a gr_class and flags */
    int32_t *point; /**< scratch of gr_nfc, owned                       */
    int64_t  n_point;
} gr_unicode;

gr_status gr_unicode_open(gr_unicode **u);
void      gr_unicode_close(gr_unicode **u);

/** Names of the general categories ("Lu", ...), and the category of a code point as an index into them. */
extern const char *const gr_gc_name[GR_N_GC];
int                      gr_gc(uint32_t c);

static inline gr_class gr_class_of(const gr_unicode *u, uint32_t c)
{
    return (gr_class)(u->cls[c] & GR_CLASS_MASK);
}
static inline bool gr_is_space(const gr_unicode *u, uint32_t c)
{
    const int k = u->cls[c] & GR_CLASS_MASK;
    return k == GR_CLASS_SPACE || k == GR_CLASS_NEWLINE;
}

/** Normalise valid UTF-8 to NFC. *changed false: the text is NFC already and nothing was written;
 * true: `to` holds the result (its former contents are dropped). */
gr_status gr_nfc(gr_unicode *u, const char *text, int64_t n, gr_bytes *to, bool *changed);

GR_C_END
#endif
