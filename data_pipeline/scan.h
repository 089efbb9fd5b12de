/** @file scan.h  Hand-written scanners of the well-known pre-tokenizer patterns.  [local]
 *
 * A scanner finds, from a position in the text, the end of the match the pattern has there; these patterns match at
 * every position, so there are no gaps. Ten times as fast as the expression; equal to it by test
 * (tests/unit/test_tokenizer.c).
 */
#ifndef GR_DATA_PIPELINE_SCAN_H
#define GR_DATA_PIPELINE_SCAN_H
#include "data_pipeline/unicode.h"
#include <stdint.h>

GR_C_BEGIN

typedef struct gr_scan gr_scan; /**< one well-known pattern; static */

/** The scanner of a pattern, or NULL. */
const gr_scan *gr_scan_find(const char *pattern);

/** End of the piece that begins at `at` < n. */
int64_t gr_scan_next(const gr_scan *s, const gr_unicode *u, const char *text, int64_t n, int64_t at);

GR_C_END
#endif
