#include "data_pipeline/tokenizer_parts.h"
#include "data_pipeline/utf8.h"
#include "util/json.h"
#include <stdlib.h>

enum { ID_LIMIT = 1 << 24 }; /* the largest public vocabulary has 262,208 ids */

/* The file being read: its name leads every message. */
typedef struct source {
    const char *path;
    bool        scanners;
} source;

/* ---- typed members ------------------------------------------------------------------------------- */

static const char *kind_of(const json_t *v)
{
    static const char *const name[] = {"object", "array", "string", "integer", "real", "true", "false", "null"};

    return v ? name[json_typeof(v)] : "nothing";
}

static const char *type_of(const json_t *component)
{
    const char *type = json_string_value(json_object_get(component, "type"));

    return type ? type : "(no type)";
}

/* A boolean member; absent takes `fallback`. */
static gr_status get_bool(const source *f, const char *where, const json_t *obj, const char *key, bool fallback,
                          bool *v)
{
    const json_t *member = json_object_get(obj, key);
    gr_status     st = GR_OK;

    GR_CHECK(!member || json_is_boolean(member), GR_ERR_INPUT, "%s: %s.%s is %s, expected true or false", f->path,
             where, key, kind_of(member));
    *v = member ? json_is_true(member) : fallback;
out:
    return st;
}

/* A member that must be absent, null, false or "" because Graft does not do what it asks. */
static gr_status refuse(const source *f, const char *where, const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    gr_status     st = GR_OK;
    const bool    off = !v || json_is_null(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0);

    GR_CHECK(off, GR_ERR_INPUT, "%s: %s%s%s is set, which Graft does not support", f->path, where, *where ? "." : "",
             key);
out:
    return st;
}

/* ---- normalizer ---------------------------------------------------------------------------------- */

static gr_status load_normalizer(gr_tokenizer *t, const source *f, const json_t *v, int depth)
{
    gr_status     st = GR_OK;
    const json_t *list = json_object_get(v, "normalizers");

    if (!v || json_is_null(v)) goto out;
    if (!strcmp(type_of(v), "NFC")) {
        t->nfc = true;
    } else if (!strcmp(type_of(v), "Sequence") && json_is_array(list) && depth < 4) {
        for (size_t i = 0; i < json_array_size(list); i++)
            GR_TRY(load_normalizer(t, f, json_array_get(list, i), depth + 1));
    } else {
        GR_FAIL(GR_ERR_INPUT, "%s: normalizer %s is not supported; Graft reads null, NFC and Sequence of NFC", f->path,
                type_of(v));
    }
out:
    return st;
}

/* ---- pre_tokenizer ------------------------------------------------------------------------------- */

static gr_status add_stage(gr_tokenizer *t, const source *f, gr_stage_kind kind, const char *pattern)
{
    gr_status st = GR_OK;
    gr_stage *stage = &t->stage[t->n_stage];

    GR_CHECK(t->n_stage < GR_MAX_STAGES, GR_ERR_INPUT, "%s: pre_tokenizer has more than %d steps", f->path,
             GR_MAX_STAGES);
    stage->kind = kind;
    if (pattern) GR_TRY(gr_split_open(&stage->split, t->unicode, pattern, f->path, f->scanners));
    t->n_stage++;
out:
    return st;
}

static gr_status load_split(gr_tokenizer *t, const source *f, const json_t *v)
{
    gr_status     st = GR_OK;
    const json_t *regex = json_object_get(json_object_get(v, "pattern"), "Regex");
    const char   *behavior = json_string_value(json_object_get(v, "behavior"));
    bool          invert = false;

    GR_CHECK(json_is_string(regex) && strlen(json_string_value(regex)) == json_string_length(regex), GR_ERR_INPUT,
             "%s: pre_tokenizer Split: only {\"pattern\": {\"Regex\": string}} is supported", f->path);
    GR_CHECK(behavior && !strcmp(behavior, "Isolated"), GR_ERR_INPUT,
             "%s: pre_tokenizer Split: behavior %s is not supported; Graft reads Isolated", f->path,
             behavior ? behavior : "(none)");
    GR_TRY(get_bool(f, "pre_tokenizer", v, "invert", false, &invert));
    GR_CHECK(!invert, GR_ERR_INPUT, "%s: pre_tokenizer Split: invert true is not supported", f->path);
    GR_TRY(add_stage(t, f, GR_STAGE_SPLIT, json_string_value(regex)));
out:
    return st;
}

/* *closed: ByteLevel has been seen, after which nothing may follow. */
static gr_status load_pre_tokenizer(gr_tokenizer *t, const source *f, const json_t *v, int depth, bool *closed)
{
    gr_status     st = GR_OK;
    const char   *type = type_of(v);
    const json_t *list = json_object_get(v, "pretokenizers");
    bool          a = false, b = false;

    GR_CHECK(!*closed, GR_ERR_INPUT, "%s: pre_tokenizer: %s after ByteLevel is not supported; ByteLevel must be last",
             f->path, type);
    if (!strcmp(type, "Sequence") && json_is_array(list) && depth < 4) {
        for (size_t i = 0; i < json_array_size(list); i++)
            GR_TRY(load_pre_tokenizer(t, f, json_array_get(list, i), depth + 1, closed));
    } else if (!strcmp(type, "Split")) {
        GR_TRY(load_split(t, f, v));
    } else if (!strcmp(type, "Digits")) {
        GR_TRY(get_bool(f, "pre_tokenizer", v, "individual_digits", false, &a));
        GR_TRY(add_stage(t, f, a ? GR_STAGE_DIGIT : GR_STAGE_DIGITS, NULL));
    } else if (!strcmp(type, "ByteLevel")) {
        GR_TRY(get_bool(f, "pre_tokenizer", v, "add_prefix_space", true, &a));
        GR_TRY(get_bool(f, "pre_tokenizer", v, "use_regex", true, &b));
        if (a) GR_TRY(add_stage(t, f, GR_STAGE_ADD_PREFIX, NULL));
        if (b) GR_TRY(add_stage(t, f, GR_STAGE_SPLIT, GR_GPT2_PATTERN));
        *closed = true;
    } else {
        GR_FAIL(GR_ERR_INPUT,
                "%s: pre_tokenizer %s is not supported; Graft reads ByteLevel, Split, Digits and Sequence of those",
                f->path, type);
    }
out:
    return st;
}

/* ---- model ----------------------------------------------------------------------------------------- */

static gr_status load_vocab(gr_tokenizer *t, const source *f, const json_t *vocab)
{
    gr_status   st = GR_OK;
    const char *text = NULL;
    json_t     *id = NULL;
    size_t      n = 0;

    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, text, n, id)
    {
        const json_int_t v = json_integer_value(id);
        GR_CHECK(json_is_integer(id) && v >= 0 && v < ID_LIMIT, GR_ERR_INPUT,
                 "%s: model.vocab: the id of \"%.64s\" must be an integer in [0, %d)", f->path, text, ID_LIMIT);
        st = gr_bpe_add_token(t->bpe, (uint32_t)v, text, (int64_t)n);
        GR_CHECK(st != GR_ERR_INPUT, GR_ERR_INPUT,
                 "%s: model.vocab: \"%.64s\" has id %lld, which another token has too", f->path, text, (long long)v);
        if (st != GR_OK) goto out;
        if (v >= t->vocab_size) t->vocab_size = v + 1;
    }
out:
    return st;
}

/* "left right", or ["left", "right"]. */
static gr_status split_merge(const source *f, const json_t *v, int64_t rank, const char *part[2], int64_t length[2])
{
    gr_status   st = GR_OK;
    const char *text = json_string_value(v), *space;

    if (text) {
        const char *const end = text + json_string_length(v);
        space = memchr(text, ' ', (size_t)(end - text));
        GR_CHECK(space && !memchr(space + 1, ' ', (size_t)(end - space - 1)), GR_ERR_INPUT,
                 "%s: model.merges[%lld]: \"%.64s\" is not two tokens", f->path, (long long)rank, text);
        part[0] = text;
        length[0] = space - text;
        part[1] = space + 1;
        length[1] = end - part[1];
        goto out;
    }
    GR_CHECK(json_array_size(v) == 2 && json_is_string(json_array_get(v, 0)) && json_is_string(json_array_get(v, 1)),
             GR_ERR_INPUT, "%s: model.merges[%lld] is %s, expected \"a b\" or [\"a\", \"b\"]", f->path, (long long)rank,
             kind_of(v));
    for (size_t i = 0; i < 2; i++) {
        part[i] = json_string_value(json_array_get(v, i));
        length[i] = (int64_t)json_string_length(json_array_get(v, i));
    }
out:
    return st;
}

static gr_status load_merges(gr_tokenizer *t, const source *f, const json_t *merges)
{
    gr_status st = GR_OK;
    gr_bytes  whole = {0};
    int64_t   skipped = 0;

    for (int64_t i = 0; i < (int64_t)json_array_size(merges); i++) {
        const json_t *v = json_array_get(merges, (size_t)i);
        const char   *part[2] = {NULL, NULL};
        int64_t       length[2] = {0, 0}, id[3];

        if (json_is_string(v) && !strncmp(json_string_value(v), "#version", 8)) {
            skipped++;
            continue;
        }
        GR_TRY(split_merge(f, v, i, part, length));
        whole.n = 0;
        for (int k = 0; k < 2; k++) {
            id[k] = gr_bpe_find(t->bpe, part[k], length[k]);
            GR_CHECK(id[k] >= 0, GR_ERR_INPUT, "%s: model.merges[%lld]: \"%.*s\" is not in the vocabulary", f->path,
                     (long long)i, (int)(length[k] < 64 ? length[k] : 64), part[k]);
            GR_TRY(gr_bytes_push(&whole, part[k], length[k]));
        }
        id[2] = gr_bpe_find(t->bpe, whole.v, whole.n);
        GR_CHECK(id[2] >= 0, GR_ERR_INPUT, "%s: model.merges[%lld]: the merged \"%.*s\" is not in the vocabulary",
                 f->path, (long long)i, (int)(whole.n < 64 ? whole.n : 64), whole.v);
        GR_TRY(gr_bpe_add_merge(t->bpe, (uint32_t)(i - skipped), (uint32_t)id[0], (uint32_t)id[1], (uint32_t)id[2]));
    }
out:
    gr_bytes_close(&whole);
    return st;
}

static gr_status load_model(gr_tokenizer *t, const source *f, const json_t *model)
{
    static const char *const off[] = {"dropout",  "unk_token",    "continuing_subword_prefix", "end_of_word_suffix",
                                      "fuse_unk", "byte_fallback"};
    const json_t            *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    const char              *type = json_string_value(json_object_get(model, "type"));
    gr_status                st = GR_OK;
    bool                     whole_words = false;
    int                      missing = 0;

    GR_CHECK(json_is_object(model), GR_ERR_INPUT, "%s: model is %s, expected an object", f->path, kind_of(model));
    GR_CHECK(!json_object_get(model, "type") || (type && !strcmp(type, "BPE")), GR_ERR_INPUT,
             "%s: model %s is not supported; Graft reads BPE", f->path, type_of(model));
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) GR_TRY(refuse(f, "model", model, off[i]));
    GR_CHECK(json_is_object(vocab) && json_object_size(vocab) > 0, GR_ERR_INPUT,
             "%s: model.vocab is %s, expected an object of token: id", f->path,
             json_is_object(vocab) ? "empty" : kind_of(vocab));
    GR_CHECK(json_is_array(merges), GR_ERR_INPUT, "%s: model.merges is %s, expected an array", f->path,
             kind_of(merges));
    GR_TRY(get_bool(f, "model", model, "ignore_merges", false, &whole_words));
    GR_TRY(gr_bpe_open(&t->bpe, (int64_t)json_object_size(vocab), (int64_t)json_array_size(merges)));
    GR_TRY(load_vocab(t, f, vocab));
    GR_TRY(load_merges(t, f, merges));
    st = gr_bpe_seal(t->bpe, whole_words, &missing);
    GR_CHECK(st == GR_OK, st, "%s: model.vocab has no token for byte 0x%02x: text would be lost", f->path, missing);
out:
    return st;
}

/* ---- added tokens ------------------------------------------------------------------------------------ */

static int by_id(const void *a, const void *b)
{
    const uint32_t x = ((const gr_named *)a)->id, y = ((const gr_named *)b)->id;

    return (x > y) - (x < y);
}

/* The reference does not read ids: a token of the model keeps the model's, others are numbered from the model's size
 * on. A file that says otherwise would be read differently by it and by us. */
static gr_status check_id(const gr_tokenizer *t, const source *f, const json_t *content, int64_t id, int64_t *next_id)
{
    gr_status     st = GR_OK;
    const int64_t in_model = gr_bpe_find(t->bpe, json_string_value(content), (int64_t)json_string_length(content));
    const int64_t expect = in_model >= 0 ? in_model : (*next_id)++;

    GR_CHECK(id == expect, GR_ERR_INPUT, "%s: added_tokens: \"%.64s\" has id %lld, but HuggingFace gives it %lld",
             f->path, json_string_value(content), (long long)id, (long long)expect);
out:
    return st;
}

static gr_status load_added(gr_tokenizer *t, const source *f, const json_t *list, int64_t n_vocab)
{
    gr_status st = GR_OK;
    gr_bytes  scratch = {0};
    int64_t   next_id = n_vocab;

    GR_CHECK(!list || json_is_array(list), GR_ERR_INPUT, "%s: added_tokens is %s, expected an array", f->path,
             kind_of(list));
    GR_TRY(gr_added_open(&t->raw));
    GR_TRY(gr_added_open(&t->normalized));
    GR_TRY(gr_alloc(&t->named, json_array_size(list), sizeof *t->named, "added tokens"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i), *content = json_object_get(v, "content");
        gr_named     *named = &t->named[t->n_named];
        gr_added      token = {0};
        bool          normalized = true, changed = false;
        int64_t       id = 0, n = (int64_t)json_string_length(content);
        const char   *text = json_string_value(content);

        GR_CHECK(text && n > 0, GR_ERR_INPUT,
                 "%s: added_tokens[%zu].content is %s, expected a string that is not empty", f->path, i,
                 kind_of(content));
        GR_TRY(gr_json_get_int(v, f->path, "id", 0, ID_LIMIT - 1, &id));
        GR_TRY(check_id(t, f, content, id, &next_id));
        token.id = (uint32_t)id;
        GR_TRY(get_bool(f, "added_tokens", v, "single_word", false, &token.single_word));
        GR_TRY(get_bool(f, "added_tokens", v, "lstrip", false, &token.lstrip));
        GR_TRY(get_bool(f, "added_tokens", v, "rstrip", false, &token.rstrip));
        GR_TRY(get_bool(f, "added_tokens", v, "normalized", true, &normalized));
        GR_TRY(get_bool(f, "added_tokens", v, "special", false, &named->special));
        GR_TRY(gr_alloc(&named->content, (uint64_t)n + 1, 1, "added token"));
        memcpy(named->content, text, (size_t)n);
        named->n = n;
        named->id = token.id;
        named->normalized = normalized;
        t->n_named++;
        if (normalized && t->nfc) GR_TRY(gr_nfc(t->unicode, text, n, &scratch, &changed));
        st = gr_added_push(normalized ? t->normalized : t->raw, changed ? scratch.v : text, changed ? scratch.n : n,
                           token);
        GR_CHECK(st != GR_ERR_INPUT, GR_ERR_INPUT, "%s: added_tokens: \"%.64s\" is there twice", f->path, text);
        if (st != GR_OK) goto out;
        if (id >= t->vocab_size) t->vocab_size = id + 1;
    }
    qsort(t->named, (size_t)t->n_named, sizeof *t->named, by_id);
out:
    gr_bytes_close(&scratch);
    return st;
}

/* ---- post_processor ------------------------------------------------------------------------------------ */

/* One item of a template: {"SpecialToken": {"id": "<s>"}} or {"Sequence": {"id": "A"}}. */
static gr_status load_template_item(gr_tokenizer *t, const source *f, const json_t *v, const json_t *tokens,
                                    bool *text_seen)
{
    gr_status     st = GR_OK;
    const char   *name = json_string_value(json_object_get(json_object_get(v, "SpecialToken"), "id"));
    const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
    int *const    n = *text_seen ? &t->n_after : &t->n_before;
    uint32_t     *to = *text_seen ? t->after : t->before;

    if (json_is_object(json_object_get(v, "Sequence"))) {
        GR_CHECK(!*text_seen, GR_ERR_INPUT, "%s: post_processor: the template holds the text twice", f->path);
        *text_seen = true;
        goto out;
    }
    GR_CHECK(json_array_size(ids) > 0, GR_ERR_INPUT, "%s: post_processor: the template names %s, which has no ids",
             f->path, name ? name : "nothing");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t    *id = json_array_get(ids, i);
        const json_int_t value = json_integer_value(id);
        GR_CHECK(json_is_integer(id) && value >= 0 && value < t->vocab_size && *n < GR_MAX_TEMPLATE, GR_ERR_INPUT,
                 "%s: post_processor: ids of %s must be in [0, %lld), at most %d", f->path, name,
                 (long long)t->vocab_size, GR_MAX_TEMPLATE);
        to[(*n)++] = (uint32_t)value;
    }
out:
    return st;
}

static gr_status load_post_processor(gr_tokenizer *t, const source *f, const json_t *v, int depth)
{
    gr_status     st = GR_OK;
    const json_t *list = json_object_get(v, "processors"), *single = json_object_get(v, "single");
    bool          text_seen = false;

    if (!v || json_is_null(v) || !strcmp(type_of(v), "ByteLevel")) goto out;
    if (!strcmp(type_of(v), "Sequence") && json_is_array(list) && depth < 4) {
        for (size_t i = 0; i < json_array_size(list); i++)
            GR_TRY(load_post_processor(t, f, json_array_get(list, i), depth + 1));
    } else if (!strcmp(type_of(v), "TemplateProcessing") && json_is_array(single)) {
        GR_CHECK(!t->n_before && !t->n_after, GR_ERR_INPUT, "%s: post_processor: two templates", f->path);
        for (size_t i = 0; i < json_array_size(single); i++)
            GR_TRY(
                load_template_item(t, f, json_array_get(single, i), json_object_get(v, "special_tokens"), &text_seen));
        GR_CHECK(text_seen, GR_ERR_INPUT, "%s: post_processor: the template does not hold the text", f->path);
    } else {
        GR_FAIL(GR_ERR_INPUT, "%s: post_processor %s is not supported; Graft reads ByteLevel and TemplateProcessing",
                f->path, type_of(v));
    }
out:
    return st;
}

/* ---- decoding table -------------------------------------------------------------------------------------- */

/* A token decodes to the bytes its letters stand for; one that is not written in the byte alphabet, to itself. */
static gr_status push_decoded(gr_bytes *to, const char *text, int64_t n)
{
    gr_status st = GR_OK;
    bool      letters = true;
    int       length = 0;

    for (int64_t i = 0; i < n && letters; i += length)
        letters = gr_letter_to_byte(gr_utf8_decode(text + i, &length)) >= 0;
    if (!letters) GR_TRY(gr_bytes_push(to, text, n));
    for (int64_t i = 0; i < n && letters; i += length) {
        const char byte = (char)gr_letter_to_byte(gr_utf8_decode(text + i, &length));
        GR_TRY(gr_bytes_push(to, &byte, 1));
    }
out:
    return st;
}

static gr_status build_decoder(gr_tokenizer *t)
{
    gr_status st = GR_OK;
    int64_t   i_named = 0;
    gr_bytes  normal = {0};

    GR_TRY(gr_alloc(&t->bytes_at, (uint64_t)t->vocab_size + 1, sizeof *t->bytes_at, "decoder"));
    for (int64_t id = 0; id < t->vocab_size; id++) {
        int64_t     n = 0;
        const char *text = gr_bpe_text(t->bpe, (uint32_t)id, &n);

        while (i_named < t->n_named && t->named[i_named].id < id) i_named++;
        if (i_named < t->n_named && t->named[i_named].id == id) {
            bool changed = false;
            text = t->named[i_named].content;
            n = t->named[i_named].n;
            if (t->named[i_named].normalized && t->nfc) GR_TRY(gr_nfc(t->unicode, text, n, &normal, &changed));
            if (changed) {
                text = normal.v;
                n = normal.n;
            }
        }
        t->bytes_at[id] = t->bytes.n;
        if (text) GR_TRY(push_decoded(&t->bytes, text, n));
    }
    t->bytes_at[t->vocab_size] = t->bytes.n;
out:
    gr_bytes_close(&normal);
    return st;
}

/* ---- the file ---------------------------------------------------------------------------------------------- */

gr_status gr_tokenizer_load(gr_tokenizer *t, const char *text, int64_t n, const char *path, bool scanners)
{
    const source  f = {path, scanners};
    gr_status     st = GR_OK;
    json_t       *root = NULL;
    const json_t *pre, *decoder, *model;
    bool          closed = false;

    GR_TRY(gr_json_parse(text, (size_t)n, path, &root));
    GR_CHECK(json_is_object(root), GR_ERR_INPUT, "%s is %s, expected an object", path, kind_of(root));
    GR_TRY(refuse(&f, "", root, "truncation"));
    GR_TRY(refuse(&f, "", root, "padding"));
    pre = json_object_get(root, "pre_tokenizer");
    decoder = json_object_get(root, "decoder");
    model = json_object_get(root, "model");
    GR_CHECK(!strcmp(type_of(decoder), "ByteLevel"), GR_ERR_INPUT,
             "%s: decoder %s is not supported; Graft reads ByteLevel", path, type_of(decoder));
    GR_TRY(gr_unicode_open(&t->unicode));
    GR_TRY(load_normalizer(t, &f, json_object_get(root, "normalizer"), 0));
    GR_TRY(load_pre_tokenizer(t, &f, pre, 0, &closed));
    GR_CHECK(closed, GR_ERR_INPUT, "%s: pre_tokenizer has no ByteLevel step; Graft reads byte-level tokenizers", path);
    GR_TRY(load_model(t, &f, model));
    GR_TRY(load_added(t, &f, json_object_get(root, "added_tokens"),
                      (int64_t)json_object_size(json_object_get(model, "vocab"))));
    GR_TRY(load_post_processor(t, &f, json_object_get(root, "post_processor"), 0));
    GR_TRY(build_decoder(t));
out:
    json_decref(root);
    return st;
}
