/** @file text.h  Text that grows, and quoting.  [local]
 *
 *     gr_text t = {0};
 *     gr_text_add(&t, "%d of %d\n", i, n);          (as often as needed: the first failure sticks)
 *     GR_TRY(t.st);
 *   out:
 *     gr_text_close(&t);
 */
#ifndef GR_UTIL_TEXT_H
#define GR_UTIL_TEXT_H
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_text {
    char     *s;    /**< NUL-terminated, counted memory; NULL before the first addition */
    uint64_t  n;    /**< bytes, without the NUL                                         */
    uint64_t  room; /**< bytes allocated                                                */
    gr_status st;   /**< GR_OK, or GR_ERR_NOMEM: then s holds what came before          */
} gr_text;

/** Append printf(fmt...), or n bytes. */
void gr_text_add(gr_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void gr_text_put(gr_text *t, const char *s, uint64_t n);

/** Append s in double quotes, in the notation that JSON and YAML have in common. Bytes that are not UTF-8 become
 * U+FFFD. */
void gr_text_quote(gr_text *t, const char *s);

/** Free; t is empty again. */
void gr_text_close(gr_text *t);

/** The code point at s and its length in bytes; 0 at the end of the string, -1 where it is not UTF-8 (Unicode 15,
 * table 3-7: no surrogates, no overlong forms). */
int gr_utf8_next(const char *s, uint32_t *code);

GR_C_END
#endif
