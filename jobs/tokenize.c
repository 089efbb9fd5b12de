/**
 * tokenize -- text to token shards; the same bytes for any number of ranks.
 *
 *   reads    tokenize.inputs      plain text or JSONL
 *            tokenize.tokenizer   tokenizer.json of a byte-level BPE
 *   writes   run.out/             shard-*.h5, and index.json when all is done
 *   resumes  keeps the shards that are there
 *
 *   graft-tokenize --encode TOKENIZER.json     filter: JSONL {"text": ...} on stdin to {"ids": [...]} on stdout
 */
#include "data_pipeline/stream.h"
#include "data_pipeline/tokenize.h"
#include "product/product.h"
#include "run/run.h"
#include "util/status.h"
#include <inttypes.h>
#include <string.h>

/* The filter: one process, no MPI, no configuration. */
static int encode(const char *tokenizer)
{
    gr_tokenizer *t = NULL;
    gr_status     st = GR_OK;

    gr_log_identity("graft-tokenize", 0);
    GR_TRY(gr_tokenizer_open(&t, tokenizer));
    GR_TRY(gr_tokenize_encode_stream(t, stdin, stdout));
out:
    gr_tokenizer_close(&t);
    return gr_exit_code(st);
}

static gr_reading reading_of(const gr_cfg_tokenize *cfg)
{
    gr_reading how = {.document = GR_DOCUMENT_FILE, .field = cfg->field, .unit_bytes = cfg->unit_mib << 20};

    how.replace_invalid = !strcmp(cfg->on_invalid_utf8, "replace");
    if (!strcmp(cfg->document, "paragraph")) how.document = GR_DOCUMENT_PARAGRAPH;
    if (!strcmp(cfg->document, "line")) how.document = GR_DOCUMENT_LINE;
    if (!strcmp(cfg->format, "jsonl")) how.document = GR_DOCUMENT_JSONL;
    return how;
}

static gr_status tokenize(gr_run *run)
{
    gr_status                 st = GR_OK;
    const gr_cfg_tokenize    *cfg = &run->cfg->tokenize;
    gr_tokenize_report        done;
    const gr_tokenize_options options = {.inputs = (const char *const *)cfg->inputs.v,
                                         .n_input = cfg->inputs.n,
                                         .reading = reading_of(cfg),
                                         .tokenizer = cfg->tokenizer,
                                         .eos = cfg->eos,
                                         .out_dir = run->cfg->run.out,
                                         .config = run->config_text};

    GR_CHECK0(strcmp(cfg->format, "jsonl") || !strcmp(cfg->document, "file"), GR_ERR_CONFIG,
              "tokenize.document = %s is for plain text; a JSONL document is a line", cfg->document);
    GR_TRY(gr_tokenize_corpus(run->comm, &options, &done));
    gr_log0("wrote %s: %" PRId64 " tokens, %" PRId64 " documents, %" PRId64 " shards (%" PRId64
            " were there), from %" PRId64 " files of %.1f MB; %" PRId64 " empty documents dropped, %" PRId64
            " invalid UTF-8 sequences replaced",
            run->cfg->run.out, done.n_token, done.n_doc, done.n_shard, done.n_kept, done.n_file,
            (double)done.n_byte * 1e-6, done.n_empty, done.n_replaced);
out:
    return st;
}

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_product product = {0}; /* the index, which is published last */
    gr_status  st = GR_OK;

    if (argc == 3 && !strcmp(argv[1], "--encode")) return encode(argv[2]);
    GR_TRY(gr_run_open(&run, argc, argv, "tokenize"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_open(&product, run, "index.json"));
    if (product.finished) goto out;
    GR_TRY(tokenize(run));
    GR_TRY(gr_product_finish(&product));
out:
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
