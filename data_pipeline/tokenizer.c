#include "data_pipeline/tokenizer.h"
#include "data_pipeline/tokenizer_parts.h"
#include "data_pipeline/utf8.h"
#include "util/fs.h"
#include <stdio.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define TOKENIZER_LIMIT (UINT64_C(64) << 20) /* bytes of a tokenizer.json; the largest public ones have 35 MB */

static gr_status open_any(gr_tokenizer **out_t, const char *path, bool scanners)
{
    gr_tokenizer *t = NULL;
    gr_status     st = GR_OK;
    char         *text = NULL;
    uint64_t      n = 0;

    GR_TRY(gr_read_file(path, TOKENIZER_LIMIT, &text, &n));
    GR_TRY(gr_alloc(&t, 1, sizeof *t, "tokenizer"));
    snprintf(t->digest, sizeof t->digest, "%016llx", (unsigned long long)XXH3_64bits(text, (size_t)n));
    GR_TRY(gr_tokenizer_load(t, text, (int64_t)n, path, scanners));
    *out_t = t;
    t = NULL;
out:
    gr_tokenizer_close(&t);
    gr_free(&text);
    return st;
}

gr_status gr_tokenizer_open(gr_tokenizer **t, const char *path)
{
    return open_any(t, path, true);
}

gr_status gr_tokenizer_open_reference(gr_tokenizer **t, const char *path)
{
    return open_any(t, path, false);
}

void gr_tokenizer_close(gr_tokenizer **tp)
{
    gr_tokenizer *t = *tp;

    if (!t) return;
    for (int i = 0; i < t->n_stage; i++) {
        gr_split_close(&t->stage[i].split);
        gr_bytes_close(&t->stage[i].text);
    }
    for (int64_t i = 0; i < t->n_named; i++) gr_free(&t->named[i].content);
    gr_free(&t->named);
    gr_added_close(&t->raw);
    gr_added_close(&t->normalized);
    gr_bpe_close(&t->bpe);
    gr_unicode_close(&t->unicode);
    gr_free(&t->bytes_at);
    gr_bytes_close(&t->bytes);
    gr_bytes_close(&t->nfc_text);
    gr_bytes_close(&t->raw_text);
    gr_free(tp);
}

/* ---- encoding ---------------------------------------------------------------------------------- */

/* Digits alone or in runs, and what is between them. */
static int64_t digits_end(const gr_unicode *u, const char *text, int64_t n, int64_t at, bool single)
{
    int        length = 0;
    const bool first = u->cls[gr_utf8_decode(text + at, &length)] & GR_CLASS_NUMERIC;

    at += length;
    if (first && single) return at;
    while (at < n && !(u->cls[gr_utf8_decode(text + at, &length)] & GR_CLASS_NUMERIC) == !first) at += length;
    return at;
}

/* Cut `text` by stage k and those behind it, and encode the pieces. `slack`: readable bytes behind the text. */
static gr_status encode_pieces(gr_tokenizer *t, int k, const char *text, int64_t n, int64_t slack, gr_ids *ids)
{
    gr_status  st = GR_OK;
    const bool last = k + 1 >= t->n_stage;
    gr_stage  *stage = &t->stage[k];
    gr_cut     c;

    if (k == t->n_stage) return gr_bpe_encode(t->bpe, text, n, slack, ids);
    switch (stage->kind) {
    case GR_STAGE_SPLIT:
        GR_TRY(gr_split_begin(stage->split, text, n, &c));
        for (;;) {
            GR_TRY(gr_split_next(stage->split, &c));
            if (c.end == c.first) break;
            if (last)
                GR_TRY(gr_bpe_encode(t->bpe, text + c.first, c.end - c.first, n - c.end + slack, ids));
            else
                GR_TRY(encode_pieces(t, k + 1, text + c.first, c.end - c.first, n - c.end + slack, ids));
        }
        break;
    case GR_STAGE_DIGIT:
    case GR_STAGE_DIGITS:
        for (int64_t at = 0, end; at < n; at = end) {
            end = digits_end(t->unicode, text, n, at, stage->kind == GR_STAGE_DIGIT);
            GR_TRY(encode_pieces(t, k + 1, text + at, end - at, n - end + slack, ids));
        }
        break;
    case GR_STAGE_ADD_PREFIX:
        if (text[0] == ' ') {
            GR_TRY(encode_pieces(t, k + 1, text, n, slack, ids));
        } else {
            stage->text.n = 0;
            GR_TRY(gr_bytes_push(&stage->text, " ", 1));
            GR_TRY(gr_bytes_push(&stage->text, text, n));
            GR_TRY(encode_pieces(t, k + 1, stage->text.v, n + 1, 0, ids));
        }
        break;
    }
out:
    return st;
}

/* Text between tokens of the first kind: normalise, take out tokens of the second kind, encode the rest. */
static gr_status encode_plain(gr_tokenizer *t, const char *text, int64_t n, int64_t slack, gr_ids *ids)
{
    gr_status st = GR_OK;
    bool      changed = false;
    gr_parts  parts;
    gr_part   part;

    if (t->nfc) GR_TRY(gr_nfc(t->unicode, text, n, &t->nfc_text, &changed));
    if (changed) {
        text = t->nfc_text.v;
        n = t->nfc_text.n;
        slack = 0;
    }
    parts = gr_parts_of(t->normalized, t->unicode, text, n);
    while (gr_parts_next(&parts, &part)) {
        if (part.id >= 0)
            GR_TRY(gr_ids_push(ids, (uint32_t)part.id));
        else
            GR_TRY(encode_pieces(t, 0, text + part.first, part.end - part.first, n - part.end + slack, ids));
    }
out:
    return st;
}

gr_status gr_tokenizer_encode(gr_tokenizer *t, const char *text, int64_t n, bool add_special_tokens, gr_ids *ids)
{
    const int64_t valid = gr_utf8_valid(text, n);
    gr_status     st = GR_OK;
    gr_parts      parts;
    gr_part       part;

    GR_CHECK(valid == n, GR_ERR_INPUT, "the text is not UTF-8 at byte %lld (0x%02x)", (long long)valid,
             (unsigned char)text[valid]);
    for (int i = 0; add_special_tokens && i < t->n_before; i++) GR_TRY(gr_ids_push(ids, t->before[i]));
    parts = gr_parts_of(t->raw, t->unicode, text, n);
    while (gr_parts_next(&parts, &part)) {
        if (part.id >= 0)
            GR_TRY(gr_ids_push(ids, (uint32_t)part.id));
        else
            GR_TRY(encode_plain(t, text + part.first, part.end - part.first, n - part.end, ids));
    }
    for (int i = 0; add_special_tokens && i < t->n_after; i++) GR_TRY(gr_ids_push(ids, t->after[i]));
out:
    return st;
}

/* ---- decoding ---------------------------------------------------------------------------------- */

static const gr_named *named_of(const gr_tokenizer *t, uint32_t id)
{
    int64_t lo = 0, hi = t->n_named - 1;

    while (lo <= hi) {
        const int64_t mid = (lo + hi) / 2;
        if (t->named[mid].id == id) return &t->named[mid];
        if (t->named[mid].id < id)
            lo = mid + 1;
        else
            hi = mid - 1;
    }
    return NULL;
}

const char *gr_tokenizer_bytes(const gr_tokenizer *t, uint32_t id, int64_t *n)
{
    *n = 0;
    if (id >= t->vocab_size) return "";
    *n = t->bytes_at[id + 1] - t->bytes_at[id];
    return *n ? t->bytes.v + t->bytes_at[id] : "";
}

gr_status gr_tokenizer_decode(gr_tokenizer *t, const uint32_t *ids, int64_t n, bool skip_special, gr_bytes *text)
{
    gr_status st = GR_OK;
    int64_t   replaced = 0;

    t->raw_text.n = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t           length = 0;
        const char *const bytes = gr_tokenizer_bytes(t, ids[i], &length);
        if (skip_special && gr_tokenizer_special(t, ids[i])) continue;
        GR_TRY(gr_bytes_push(&t->raw_text, bytes, length));
    }
    GR_TRY(gr_utf8_replace(t->raw_text.v, t->raw_text.n, text, &replaced));
out:
    return st;
}

/* ---- facts ------------------------------------------------------------------------------------- */

int64_t gr_tokenizer_lost(const gr_tokenizer *t)
{
    return gr_bpe_lost(t->bpe);
}

int64_t gr_tokenizer_vocab_size(const gr_tokenizer *t)
{
    return t->vocab_size;
}

const char *gr_tokenizer_digest(const gr_tokenizer *t)
{
    return t->digest;
}

int64_t gr_tokenizer_find(const gr_tokenizer *t, const char *content)
{
    const int64_t n = (int64_t)strlen(content);

    for (int64_t i = 0; i < t->n_named; i++)
        if (t->named[i].n == n && !memcmp(t->named[i].content, content, (size_t)n)) return t->named[i].id;
    return gr_bpe_find(t->bpe, content, n);
}

bool gr_tokenizer_special(const gr_tokenizer *t, uint32_t id)
{
    const gr_named *named = named_of(t, id);

    return named && named->special;
}
