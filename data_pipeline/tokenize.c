#include "data_pipeline/tokenize.h"
#include "data_pipeline/tokenizer.h"
#include "store/shards.h"
#include "util/beat.h"
#include "util/fs.h"
#include <stdio.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/* Units each rank works through between two agreements: a failure is noticed soon, and ranks seldom wait. */
enum { UNITS_PER_ROUND = 16 };

/* One rank at work. */
typedef struct worker {
    const gr_tokenize_options *options;
    gr_tokenizer              *tokenizer;
    gr_files                   files;
    gr_corpus                  corpus;
    int64_t                    n_unit;
    gr_documents               documents;
    gr_ids                     ids;
    gr_bytes                   mask;
    int64_t                   *offset; /* documents of the unit at hand */
    int64_t                    cap_offset;
    gr_shard_info             *info; /* of the units of this rank, in order */
    int64_t                    n_info;
    int64_t                    n_kept, n_empty, n_replaced;
} worker;

static void worker_close(worker *w)
{
    gr_tokenizer_close(&w->tokenizer);
    gr_files_close(&w->files);
    gr_documents_close(&w->documents);
    gr_ids_close(&w->ids);
    gr_bytes_close(&w->mask);
    gr_free(&w->offset);
    gr_free(&w->info);
}

/* [collective] Rank 0 looks, all get the same list. */
static gr_status share_files(const gr_comm *c, worker *w)
{
    gr_status st = GR_OK, local = GR_OK;
    gr_bytes  packed = {0};
    int64_t   n = 0;

    if (gr_comm_rank(c) == 0) {
        local = gr_files_open(&w->files, w->options->inputs, w->options->n_input);
        if (local == GR_OK) local = gr_files_pack(&w->files, &packed);
        n = packed.n;
    }
    GR_TRY(gr_agree(c, local));
    gr_bcast(c, &n, sizeof n, 0);
    if (gr_comm_rank(c) != 0) local = gr_bytes_reserve(&packed, n);
    GR_TRY(gr_agree(c, local));
    gr_bcast(c, packed.v, n, 0);
    if (gr_comm_rank(c) != 0) local = gr_files_unpack(&w->files, packed.v, n);
    GR_TRY(gr_agree(c, local));
out:
    gr_bytes_close(&packed);
    return st;
}

/* [local] Tokenizer, corpus and space for this rank's units. */
static gr_status prepare(const gr_comm *c, worker *w)
{
    const gr_tokenize_options *o = w->options;
    gr_status                  st = GR_OK;

    GR_CHECK(o->reading.unit_bytes > 0, GR_ERR_CONFIG, "unit_bytes is %lld, expected more than 0",
             (long long)o->reading.unit_bytes);
    GR_TRY(gr_tokenizer_open(&w->tokenizer, o->tokenizer));
    w->corpus.vocab_size = gr_tokenizer_vocab_size(w->tokenizer);
    memcpy(w->corpus.tokenizer, gr_tokenizer_digest(w->tokenizer), sizeof w->corpus.tokenizer);
    w->corpus.eos = -1;
    if (o->eos && *o->eos) {
        w->corpus.eos = gr_tokenizer_find(w->tokenizer, o->eos);
        GR_CHECK(w->corpus.eos >= 0, GR_ERR_CONFIG, "eos \"%s\" is not a token of %s", o->eos, o->tokenizer);
    }
    w->n_unit = gr_files_units(&w->files, o->reading.unit_bytes);
    GR_CHECK(w->n_unit > 0, GR_ERR_INPUT, "the corpus is empty: %s%s: no file has a byte", o->inputs[0],
             o->n_input > 1 ? ", ..." : "");
    GR_TRY(gr_alloc(&w->info, (uint64_t)(w->n_unit / gr_comm_size(c) + 1), sizeof *w->info, "shards"));
out:
    return st;
}

/* [collective] Rank 0 first: what it refuses is said once, not by every rank. */
static gr_status prepare_all(const gr_comm *c, worker *w)
{
    gr_status st = GR_OK, local = GR_OK;

    if (gr_comm_rank(c) == 0) {
        local = prepare(c, w);
        if (local == GR_OK) local = gr_mkdirs(w->options->out_dir);
        if (local == GR_OK) local = gr_shards_retract(w->options->out_dir);
    }
    GR_TRY(gr_agree(c, local));
    if (gr_comm_rank(c) != 0) local = prepare(c, w);
    GR_TRY(gr_agree(c, local));
out:
    return st;
}

/* Documents and nothing else: equal documents give equal tokens. */
static void source_of(const gr_documents *d, char source[17])
{
    const uint64_t text = XXH3_64bits(d->text.v, (size_t)d->text.n);

    snprintf(source, 17, "%016llx",
             (unsigned long long)XXH3_64bits_withSeed(d->end, (size_t)d->n * sizeof *d->end, text));
}

/* [local] Tokenise the documents at hand. */
static gr_status encode_documents(worker *w, gr_shard *shard)
{
    gr_status           st = GR_OK;
    const gr_documents *d = &w->documents;

    if (d->n + 1 > w->cap_offset) {
        w->cap_offset = 2 * (d->n + 1);
        GR_TRY(gr_realloc(&w->offset, (uint64_t)w->cap_offset, sizeof *w->offset, "documents"));
    }
    w->ids.n = 0;
    shard->n_doc = 0;
    w->offset[0] = 0;
    for (int64_t i = 0, at = 0; i < d->n; at = d->end[i++]) {
        const int64_t before = w->ids.n;
        gr_beat_again();
        GR_TRY(gr_tokenizer_encode(w->tokenizer, d->text.v + at, d->end[i] - at, false, &w->ids));
        if (w->corpus.eos >= 0) GR_TRY(gr_ids_push(&w->ids, (uint32_t)w->corpus.eos));
        if (w->ids.n > before) w->offset[++shard->n_doc] = w->ids.n;
    }
    w->mask.n = 0;
    GR_TRY(gr_bytes_reserve(&w->mask, w->ids.n));
    if (w->ids.n > 0) memset(w->mask.v, 1, (size_t)w->ids.n);
    shard->tokens = w->ids.v;
    shard->n_token = w->ids.n;
    shard->loss_mask = (const uint8_t *)w->mask.v;
    shard->doc_offsets = w->offset;
out:
    return st;
}

/* [local] One unit from text to sealed shard, unless the shard is there. */
static gr_status do_unit(worker *w, int64_t u)
{
    const gr_tokenize_options *o = w->options;
    gr_status                  st = GR_OK;
    gr_shard                   shard = {0};
    gr_shard_info             *info = &w->info[w->n_info];
    char                       source[17];

    GR_TRY(gr_documents_read(&w->documents, &w->files, &o->reading, u));
    w->n_empty += w->documents.n_empty;
    w->n_replaced += w->documents.n_replaced;
    source_of(&w->documents, source);
    if (gr_shard_probe(o->out_dir, u, &w->corpus, source, info) == GR_OK) {
        w->n_kept++;
    } else {
        GR_TRY(encode_documents(w, &shard));
        shard.source = source;
        GR_TRY(gr_shard_write(o->out_dir, u, &w->corpus, &shard, o->config, info));
    }
    w->n_info++;
out:
    return st;
}

/* [collective] All units; ranks agree after every round. */
static gr_status do_units(const gr_comm *c, worker *w)
{
    const int64_t round = (int64_t)UNITS_PER_ROUND * gr_comm_size(c);
    gr_status     st = GR_OK;

    for (int64_t first = 0; first < w->n_unit; first += round) {
        gr_status     local = gr_fault(c, "tokenize");
        const int64_t end = first + round < w->n_unit ? first + round : w->n_unit;

        for (int64_t u = first + gr_comm_rank(c); u < end && local == GR_OK; u += gr_comm_size(c))
            local = do_unit(w, u);
        GR_TRY(gr_agree(c, local));
        if (w->n_unit > round) gr_log0("tokenized %lld of %lld shards", (long long)end, (long long)w->n_unit);
    }
out:
    return st;
}

/* [collective] Rank 0 puts the shards' descriptions in order and publishes the index. */
static gr_status publish(const gr_comm *c, const worker *w, gr_tokenize_report *report)
{
    gr_status      st = GR_OK, local = GR_OK;
    char          *all = NULL;
    int64_t       *offset = NULL;
    gr_shard_info *info = NULL;
    int64_t        n_token = 0;

    GR_TRY(gr_gather_bytes(c, w->info, w->n_info * (int64_t)sizeof *w->info, &all, &offset));
    if (gr_comm_rank(c) == 0) {
        local = gr_alloc(&info, (uint64_t)w->n_unit, sizeof *info, "index of shards");
        for (int64_t u = 0; u < w->n_unit && local == GR_OK; u++) {
            const int64_t rank = u % gr_comm_size(c), i = u / gr_comm_size(c);
            memcpy(&info[u], all + offset[rank] + i * (int64_t)sizeof *info, sizeof *info);
            n_token += info[u].n_token;
            report->n_doc += info[u].n_doc;
        }
        report->n_token = n_token;
        if (local == GR_OK && n_token == 0)
            local = gr_fail(__FILE__, __LINE__, GR_ERR_INPUT, "the corpus is empty: no document holds any text");
        if (local == GR_OK) local = gr_fault(c, "tokenize_publish");
        if (local == GR_OK)
            local = gr_shards_publish(w->options->out_dir, &w->corpus, info, w->n_unit, w->options->config);
    }
    GR_TRY(gr_agree(c, local));
    gr_bcast(c, &report->n_doc, sizeof report->n_doc, 0);
    gr_bcast(c, &report->n_token, sizeof report->n_token, 0);
out:
    gr_free(&all);
    gr_free(&offset);
    gr_free(&info);
    return st;
}

gr_status gr_tokenize_corpus(const gr_comm *c, const gr_tokenize_options *o, gr_tokenize_report *report)
{
    gr_status          st = GR_OK;
    worker             w = {.options = o};
    gr_tokenize_report done = {0};
    int64_t            count[3];

    GR_TRY(share_files(c, &w));
    GR_TRY(prepare_all(c, &w));
    GR_TRY(do_units(c, &w));
    GR_TRY(publish(c, &w, &done));
    count[0] = w.n_kept;
    count[1] = w.n_empty;
    count[2] = w.n_replaced;
    gr_sum_i64(c, count, 3);
    done.n_file = w.files.n;
    done.n_byte = w.files.first[w.files.n];
    done.n_shard = w.n_unit;
    done.n_kept = count[0];
    done.n_empty = count[1];
    done.n_replaced = count[2];
    done.vocab_size = w.corpus.vocab_size;
    memcpy(done.tokenizer, w.corpus.tokenizer, sizeof done.tokenizer);
    *report = done;
out:
    worker_close(&w);
    return st;
}
