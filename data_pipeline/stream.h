/** @file stream.h  Tokenizing one line at a time, as a filter.  [local] */
#ifndef GR_DATA_PIPELINE_STREAM_H
#define GR_DATA_PIPELINE_STREAM_H
#include "data_pipeline/tokenizer.h"
#include <stdio.h>

GR_C_BEGIN

/** Read JSONL, one {"text": ...} per line, and write {"ids": [...]} per line; blank lines are skipped.
 * GR_ERR_INPUT: a line that is not such an object (its number is in the message), nothing is written for it.
 * GR_ERR_IO: `in` cannot be read or `out` not be written. */
gr_status gr_tokenize_encode_stream(gr_tokenizer *t, FILE *in, FILE *out_file);

GR_C_END
#endif
