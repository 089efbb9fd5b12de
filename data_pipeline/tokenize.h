/** @file tokenize.h  From text on disk to a tokenised corpus, on any number of ranks.
 *
 *     units (data_pipeline/corpus.h)  ->  unit u, on rank u mod ranks  ->  DIR/shard-u.h5  ->  DIR/index.json, last
 *
 * The output does not depend on the rank count, bit for bit. A shard that is already there and was made from the same
 * documents with the same tokenizer is kept: run the job again after a failure. A unit in which no document begins
 * gives an empty shard.
 */
#ifndef GR_DATA_PIPELINE_TOKENIZE_H
#define GR_DATA_PIPELINE_TOKENIZE_H
#include "comm/comm.h"
#include "data_pipeline/corpus.h"
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

/** What to do; everything is borrowed for the duration of the call. */
typedef struct gr_tokenize_options {
    const char *const *inputs; /**< [n_input] files, directories, globs                                */
    int64_t            n_input;
    gr_reading         reading;   /**< documents, unit size (4 MiB is good), invalid UTF-8                */
    const char        *tokenizer; /**< path of tokenizer.json                                             */
    const char        *eos;     /**< content of the token that ends each document ("<|endoftext|>"); NULL or "": none */
    const char        *out_dir; /**< made if missing                                                    */
    const char        *config;  /**< the resolved configuration, kept in every file. For equal bytes on any rank
                                     count it must not name the rank count                              */
} gr_tokenize_options;

/** What was done, the same on every rank. */
typedef struct gr_tokenize_report {
    int64_t n_file, n_byte;  /**< input                                        */
    int64_t n_shard, n_kept; /**< output; kept from an earlier run             */
    int64_t n_doc, n_token;  /**< in all shards; end-of-document ids included  */
    int64_t n_empty;         /**< documents dropped because they held nothing  */
    int64_t n_replaced;      /**< invalid sequences replaced by U+FFFD         */
    int64_t n_lost;          /**< bytes without a token, in shards not kept    */
    int64_t vocab_size;
    char    tokenizer[17];
} gr_tokenize_report;

/** [collective] Tokenise. Whatever fails, on whatever rank, all return the same status and no index.json appears.
 * GR_ERR_CONFIG: `eos` is not a token; unit_bytes out of range.
 * GR_ERR_INPUT: input or tokenizer is missing or malformed, or the corpus is empty. */
gr_status gr_tokenize_corpus(const gr_comm *c, const gr_tokenize_options *o, gr_tokenize_report *report);

GR_C_END
#endif
