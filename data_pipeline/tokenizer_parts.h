/** @file tokenizer_parts.h  What a tokenizer consists of.  Private to tokenizer.c and tokenizer_json.c. */
#ifndef GR_DATA_PIPELINE_TOKENIZER_PARTS_H
#define GR_DATA_PIPELINE_TOKENIZER_PARTS_H
#include "data_pipeline/added.h"
#include "data_pipeline/bpe.h"
#include "data_pipeline/split.h"
#include "data_pipeline/tokenizer.h"

GR_C_BEGIN

enum { GR_MAX_STAGES = 8, GR_MAX_TEMPLATE = 16 };

/** One step of the pre-tokenizer: each piece of the step before is cut further. */
typedef enum gr_stage_kind {
    GR_STAGE_SPLIT,     /**< by a pattern                       */
    GR_STAGE_DIGIT,     /**< each digit a piece                 */
    GR_STAGE_DIGITS,    /**< each run of digits a piece         */
    GR_STAGE_ADD_PREFIX /**< put a space in front unless one is */
} gr_stage_kind;

typedef struct gr_stage {
    gr_stage_kind kind;
    gr_split     *split; /**< owned; GR_STAGE_SPLIT     */
    gr_bytes      text;  /**< owned; GR_STAGE_ADD_PREFIX */
} gr_stage;

/** An added token, for decoding and look-up. */
typedef struct gr_named {
    uint32_t id;
    bool     special, normalized;
    char    *content; /**< owned, NUL-terminated, n bytes */
    int64_t  n;
    int64_t  bytes_at, n_bytes; /**< what it decodes to */
} gr_named;

struct gr_tokenizer {
    gr_unicode   *unicode;
    gr_bpe       *bpe;
    gr_added_set *raw;        /**< matched before normalisation */
    gr_added_set *normalized; /**< matched after it             */
    bool          nfc;
    gr_stage      stage[GR_MAX_STAGES];
    int           n_stage;
    uint32_t      before[GR_MAX_TEMPLATE], after[GR_MAX_TEMPLATE]; /**< TemplateProcessing around a single text */
    int           n_before, n_after;
    gr_named     *named; /**< added tokens by ascending id */
    int64_t       n_named;
    int64_t       vocab_size;
    int64_t      *bytes_at; /**< [vocab_size + 1]: what id i decodes to, bytes.v + bytes_at[i] .. bytes_at[i + 1] */
    gr_bytes      bytes;
    gr_bytes      nfc_text; /**< scratch */
    gr_bytes      raw_text; /**< scratch of decode */
    char          digest[17];
};

/** Fill an empty tokenizer from the text of a tokenizer.json. scanners: see gr_tokenizer_open_reference. */
gr_status gr_tokenizer_load(gr_tokenizer *t, const char *text, int64_t n, const char *path, bool scanners);

GR_C_END
#endif
