#include "store/shards.h"
#include "store/h5.h"
#include "store/json_seal.h"
#include "store/seal.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    FORMAT = 1,
    MAX_SHARDS = 1 << 19, /* at most 100 bytes of the index each, which may have 64 MiB */
    MAX_OPEN = 16,        /* shards a reader keeps open                      */
    PIECE = 1 << 20       /* rows per read while verifying: stays in a cache */
};

typedef struct open_shard {
    gr_h5   *file;        /* NULL: free slot */
    int64_t  i;           /* which shard     */
    int64_t *doc_offsets; /* [n_doc + 1]     */
    uint64_t used;        /* when last used  */
} open_shard;

struct gr_shards {
    char           dir[GR_PATH_MAX];
    gr_corpus      corpus;
    gr_shard_info *info;
    int64_t       *first; /* [n_shard + 1] stream position where each begins */
    int64_t        n_shard, n_doc;
    char           digest[17];
    open_shard     open[MAX_OPEN];
    uint64_t       clock;
};

static gr_status shard_path(char path[GR_PATH_MAX], const char *dir, int64_t i)
{
    return gr_path(path, "%s/shard-%05" PRId64 ".h5", dir, i);
}

/* ---- writing --------------------------------------------------------------------------------------- */

/* Of the bytes of the three datasets, one after the other. */
static int64_t content_of(const gr_shard *s)
{
    uint32_t crc = gr_crc32c(0, s->tokens, (size_t)s->n_token * sizeof *s->tokens);

    crc = gr_crc32c(crc, s->loss_mask, (size_t)s->n_token);
    return gr_crc32c(crc, s->doc_offsets, ((size_t)s->n_doc + 1) * sizeof *s->doc_offsets);
}

static gr_status set_attributes(gr_h5 *f, const gr_corpus *corpus, const gr_shard *shard, const char *config)
{
    gr_status st = GR_OK;

    GR_TRY(gr_h5_set_int(f, NULL, "format", FORMAT));
    GR_TRY(gr_h5_set_int(f, NULL, "vocab_size", corpus->vocab_size));
    GR_TRY(gr_h5_set_int(f, NULL, "eos", corpus->eos));
    GR_TRY(gr_h5_set_str(f, NULL, "tokenizer", corpus->tokenizer));
    GR_TRY(gr_h5_set_str(f, NULL, "source", shard->source));
    GR_TRY(gr_h5_set_int(f, NULL, "content", content_of(shard)));
    GR_TRY(gr_h5_set_str(f, NULL, "config", config));
out:
    return st;
}

gr_status gr_shard_write(const char *dir, int64_t i, const gr_corpus *corpus, const gr_shard *shard, const char *config,
                         gr_shard_info *info)
{
    const int64_t n_offset = shard->n_doc + 1;
    gr_status     st = GR_OK;
    gr_h5        *f = NULL;
    gr_seal       seal;
    char          path[GR_PATH_MAX];

    GR_CHECK(i >= 0 && i < MAX_SHARDS, GR_ERR_CONFIG, "%s: more than %d shards: make them larger", dir, MAX_SHARDS);
    GR_TRY(shard_path(path, dir, i));
    GR_TRY(gr_h5_create(&f, path, "shard"));
    GR_TRY(gr_h5_write(f, "tokens", GR_U32, 1, &shard->n_token, shard->tokens));
    GR_TRY(gr_h5_write(f, "loss_mask", GR_U8, 1, &shard->n_token, shard->loss_mask));
    GR_TRY(gr_h5_write(f, "doc_offsets", GR_I64, 1, &n_offset, shard->doc_offsets));
    GR_TRY(set_attributes(f, corpus, shard, config));
    GR_TRY(gr_h5_commit(&f));
    GR_TRY(gr_seal_read(path, "shard", &seal));
    *info = (gr_shard_info){.n_token = shard->n_token, .n_doc = shard->n_doc, .content = content_of(shard)};
    memcpy(info->seal, seal.id, sizeof seal.id);
out:
    gr_h5_close(&f);
    return st;
}

/* Identifies the tokens: no path, no configuration is in it. */
static gr_status digest_of(const gr_corpus *corpus, const gr_shard_info *info, int64_t n, char digest[17])
{
    gr_status     st = GR_OK;
    XXH3_state_t *hash = NULL;

    GR_TRY(gr_alloc(&hash, 1, sizeof *hash, "digest"));
    XXH3_64bits_reset(hash);
    XXH3_64bits_update(hash, corpus->tokenizer, sizeof corpus->tokenizer);
    XXH3_64bits_update(hash, &corpus->eos, sizeof corpus->eos);
    XXH3_64bits_update(hash, &corpus->vocab_size, sizeof corpus->vocab_size);
    for (int64_t i = 0; i < n; i++) {
        XXH3_64bits_update(hash, &info[i].n_token, sizeof info[i].n_token);
        XXH3_64bits_update(hash, &info[i].n_doc, sizeof info[i].n_doc);
        XXH3_64bits_update(hash, &info[i].content, sizeof info[i].content);
    }
    snprintf(digest, 17, "%016" PRIx64, (uint64_t)XXH3_64bits_digest(hash));
out:
    gr_free(&hash);
    return st;
}

gr_status gr_shards_retract(const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX];

    GR_TRY(gr_path(path, "%s/index.json", dir));
    if (!gr_exists(path)) goto out;
    GR_CHECK(unlink(path) == 0, GR_ERR_IO, "%s: cannot be removed", path);
    GR_TRY(gr_fsync_path(dir));
out:
    return st;
}

gr_status gr_shards_publish(const char *dir, const gr_corpus *corpus, const gr_shard_info *info, int64_t n_shard,
                            const char *config)
{
    gr_status st = GR_OK;
    json_t   *tree = NULL, *list = json_array();
    char     *text = NULL, path[GR_PATH_MAX], content[9], digest[17];
    uint64_t  n = 0;
    int64_t   n_token = 0, n_doc = 0;

    GR_TRY(digest_of(corpus, info, n_shard, digest));
    for (int64_t i = 0; i < n_shard; i++) {
        n_token += info[i].n_token;
        n_doc += info[i].n_doc;
        snprintf(content, sizeof content, "%08" PRIx32, (uint32_t)info[i].content);
        GR_CHECK(!json_array_append_new(list,
                                        json_pack("{sI sI ss ss}", "tokens", (json_int_t)info[i].n_token, "documents",
                                                  (json_int_t)info[i].n_doc, "content", content, "seal", info[i].seal)),
                 GR_ERR_NOMEM, "%s: index of shards", dir);
    }
    tree = json_pack("{si ss ss sI ss sI sI sI ss sO}", "format", FORMAT, "kind", "shards", "content", digest,
                     "vocab_size", (json_int_t)corpus->vocab_size, "tokenizer", corpus->tokenizer, "eos",
                     (json_int_t)corpus->eos, "tokens", (json_int_t)n_token, "documents", (json_int_t)n_doc, "config",
                     config, "shards", list);
    GR_CHECK(tree, GR_ERR_ARG, "%s: tokenizer or configuration is not UTF-8", dir);
    GR_TRY(gr_json_seal(tree, &text, &n));
    GR_TRY(gr_path(path, "%s/index.json", dir));
    GR_TRY(gr_write_file(path, text, n));
out:
    gr_free(&text);
    json_decref(tree);
    json_decref(list);
    return st;
}

/* ---- one shard, untrusted ---------------------------------------------------------------------------- */

static gr_status check_dataset(gr_h5 *f, const char *path, const char *name, gr_dtype dtype, int64_t rows)
{
    gr_status st = GR_OK;
    gr_dtype  found = GR_F32;
    int       rank = 0;
    int64_t   dim[GR_MAX_DIM] = {0};

    GR_TRY(gr_h5_info(f, name, &found, &rank, dim));
    GR_CHECK(rank == 1 && found == dtype && dim[0] == rows, GR_ERR_INPUT,
             "%s: %s is %s of rank %d with %" PRId64 " rows, expected %s of rank 1 with %" PRId64, path, name,
             gr_dtype_name(found), rank, dim[0], gr_dtype_name(dtype), rows);
out:
    return st;
}

static gr_status check_int(gr_h5 *f, const char *path, const char *name, int64_t expect)
{
    gr_status st = GR_OK;
    int64_t   v = 0;

    GR_TRY(gr_h5_get_int(f, NULL, name, &v));
    GR_CHECK(v == expect, GR_ERR_INPUT, "%s: %s is %" PRId64 ", expected %" PRId64, path, name, v, expect);
out:
    return st;
}

static gr_status check_str(gr_h5 *f, const char *path, const char *name, const char *expect)
{
    gr_status st = GR_OK;
    char     *v = NULL;

    GR_TRY(gr_h5_get_str(f, NULL, name, &v));
    GR_CHECK(!strcmp(v, expect), GR_ERR_INPUT, "%s: %s is \"%.40s\", expected \"%s\"", path, name, v, expect);
out:
    gr_free(&v);
    return st;
}

static gr_status check_corpus(gr_h5 *f, const char *path, const gr_corpus *corpus)
{
    gr_status st = GR_OK;

    GR_TRY(check_int(f, path, "format", FORMAT));
    GR_TRY(check_int(f, path, "vocab_size", corpus->vocab_size));
    GR_TRY(check_int(f, path, "eos", corpus->eos));
    GR_TRY(check_str(f, path, "tokenizer", corpus->tokenizer));
out:
    return st;
}

/* First 0, strictly increasing, last n_token. */
static gr_status read_offsets(gr_h5 *f, const char *path, int64_t n_doc, int64_t n_token, int64_t *offset)
{
    gr_status st = GR_OK;

    GR_TRY(gr_h5_read(f, "doc_offsets", GR_I64, 0, n_doc + 1, offset));
    GR_CHECK(offset[0] == 0 && offset[n_doc] == n_token, GR_ERR_INPUT,
             "%s: doc_offsets run from %" PRId64 " to %" PRId64 ", expected 0 to %" PRId64, path, offset[0],
             offset[n_doc], n_token);
    for (int64_t d = 0; d < n_doc; d++)
        GR_CHECK(offset[d] < offset[d + 1], GR_ERR_INPUT, "%s: doc_offsets do not increase at document %" PRId64, path,
                 d);
out:
    return st;
}

static gr_status check_values(gr_h5 *f, const char *path, int64_t n_token, int64_t vocab_size)
{
    gr_status st = GR_OK;
    uint32_t *tokens = NULL;
    uint8_t  *mask = NULL;

    GR_TRY(gr_alloc(&tokens, PIECE, sizeof *tokens, "tokens"));
    GR_TRY(gr_alloc(&mask, PIECE, 1, "loss mask"));
    for (int64_t at = 0; at < n_token; at += PIECE) {
        const int64_t n = n_token - at < PIECE ? n_token - at : PIECE;
        uint32_t      top = 0;
        uint8_t       bits = 0;

        GR_TRY(gr_h5_read(f, "tokens", GR_U32, at, n, tokens));
        GR_TRY(gr_h5_read(f, "loss_mask", GR_U8, at, n, mask));
        for (int64_t i = 0; i < n; i++) {
            top = tokens[i] > top ? tokens[i] : top;
            bits |= mask[i];
        }
        GR_CHECK(top < vocab_size, GR_ERR_INPUT, "%s: token id %" PRIu32 ", expected less than %" PRId64, path, top,
                 vocab_size);
        GR_CHECK(bits <= 1, GR_ERR_INPUT, "%s: loss_mask holds values other than 0 and 1", path);
    }
out:
    gr_free(&tokens);
    gr_free(&mask);
    return st;
}

/* Everything about a shard whose checksum has been verified; *offset is allocated. */
static gr_status check_shard(gr_h5 *f, const char *path, const gr_corpus *corpus, const gr_shard_info *info)
{
    gr_status st = GR_OK;
    int64_t  *offset = NULL;

    GR_TRY(check_corpus(f, path, corpus));
    GR_TRY(check_dataset(f, path, "tokens", GR_U32, info->n_token));
    GR_TRY(check_dataset(f, path, "loss_mask", GR_U8, info->n_token));
    GR_TRY(check_dataset(f, path, "doc_offsets", GR_I64, info->n_doc + 1));
    GR_TRY(gr_alloc(&offset, (uint64_t)info->n_doc + 1, sizeof *offset, "document offsets"));
    GR_TRY(read_offsets(f, path, info->n_doc, info->n_token, offset));
    GR_TRY(check_values(f, path, info->n_token, corpus->vocab_size));
out:
    gr_free(&offset);
    return st;
}

/* Was this shard made from `source` for this corpus? No is no error. */
static gr_status made_for(gr_h5 *f, const gr_corpus *corpus, const char *source, bool *yes)
{
    gr_status st = GR_OK;
    int64_t   vocab_size = 0, eos = 0;
    char     *tokenizer = NULL, *from = NULL;

    GR_TRY(gr_h5_get_int(f, NULL, "vocab_size", &vocab_size));
    GR_TRY(gr_h5_get_int(f, NULL, "eos", &eos));
    GR_TRY(gr_h5_get_str(f, NULL, "tokenizer", &tokenizer));
    GR_TRY(gr_h5_get_str(f, NULL, "source", &from));
    *yes = vocab_size == corpus->vocab_size && eos == corpus->eos && !strcmp(tokenizer, corpus->tokenizer) &&
           !strcmp(from, source);
out:
    gr_free(&tokenizer);
    gr_free(&from);
    return st;
}

gr_status gr_shard_probe(const char *dir, int64_t i, const gr_corpus *corpus, const char *source, gr_shard_info *info)
{
    gr_status     st = GR_OK;
    gr_h5        *f = NULL;
    gr_shard_info found = {0};
    gr_dtype      dtype = GR_F32;
    int           rank = 0;
    int64_t       dim[GR_MAX_DIM] = {0};
    bool          ours = false;
    char          path[GR_PATH_MAX];

    GR_TRY(shard_path(path, dir, i));
    if (!gr_exists(path)) return GR_ERR_INPUT;
    GR_TRY(gr_h5_open(&f, path, "shard"));
    GR_TRY(made_for(f, corpus, source, &ours));
    if (!ours) {
        st = GR_ERR_INPUT;
        goto out;
    }
    GR_TRY(gr_h5_info(f, "tokens", &dtype, &rank, dim));
    found.n_token = dim[0];
    GR_TRY(gr_h5_info(f, "doc_offsets", &dtype, &rank, dim));
    found.n_doc = dim[0] - 1;
    GR_CHECK(found.n_doc >= 0, GR_ERR_INPUT, "%s: doc_offsets is empty", path);
    GR_TRY(check_shard(f, path, corpus, &found));
    GR_TRY(gr_h5_get_int(f, NULL, "content", &found.content));
    GR_CHECK(found.content >= 0 && found.content <= UINT32_MAX, GR_ERR_INPUT,
             "%s: content is %" PRId64 ", expected 32 bits", path, found.content);
    snprintf(found.seal, sizeof found.seal, "%s", gr_h5_seal_of(f));
    *info = found;
out:
    gr_h5_close(&f);
    return st;
}

/* ---- the index, untrusted ------------------------------------------------------------------------------ */

static bool is_hex(const char *s, size_t digits)
{
    return strlen(s) == digits && strspn(s, "0123456789abcdef") == digits;
}

static gr_status read_header(gr_shards *s, const char *path, const json_t *root)
{
    gr_status   st = GR_OK;
    const char *tokenizer = NULL, *kind = NULL;
    int64_t     format = 0;

    GR_TRY(gr_json_get_str(root, path, "kind", &kind));
    GR_CHECK(!strcmp(kind, "shards"), GR_ERR_INPUT, "%s: kind is \"%.32s\", expected \"shards\"", path, kind);
    GR_TRY(gr_json_get_int(root, path, "format", FORMAT, FORMAT, &format));
    GR_TRY(gr_json_get_int(root, path, "vocab_size", 1, UINT32_MAX, &s->corpus.vocab_size));
    GR_TRY(gr_json_get_int(root, path, "eos", -1, s->corpus.vocab_size - 1, &s->corpus.eos));
    GR_TRY(gr_json_get_str(root, path, "tokenizer", &tokenizer));
    GR_CHECK(is_hex(tokenizer, 16), GR_ERR_INPUT, "%s: tokenizer is \"%.32s\", expected 16 hex digits", path,
             tokenizer);
    memcpy(s->corpus.tokenizer, tokenizer, sizeof s->corpus.tokenizer);
out:
    return st;
}

static gr_status read_list(gr_shards *s, const char *path, const json_t *list)
{
    const int64_t limit = INT64_C(1) << 40; /* tokens of one shard: beyond any memory */
    gr_status     st = GR_OK;

    GR_CHECK(json_is_array(list) && json_array_size(list) <= MAX_SHARDS, GR_ERR_INPUT,
             "%s: shards is not an array of at most %d", path, MAX_SHARDS);
    s->n_shard = (int64_t)json_array_size(list);
    GR_TRY(gr_alloc(&s->info, (uint64_t)s->n_shard, sizeof *s->info, "index of shards"));
    GR_TRY(gr_alloc(&s->first, (uint64_t)s->n_shard + 1, sizeof *s->first, "index of shards"));
    for (int64_t i = 0; i < s->n_shard; i++) {
        const json_t  *v = json_array_get(list, (size_t)i);
        gr_shard_info *info = &s->info[i];
        const char    *seal = NULL, *content = NULL;

        GR_TRY(gr_json_get_int(v, path, "tokens", 0, limit, &info->n_token));
        GR_TRY(gr_json_get_int(v, path, "documents", 0, info->n_token, &info->n_doc));
        GR_TRY(gr_json_get_str(v, path, "content", &content));
        GR_TRY(gr_json_get_str(v, path, "seal", &seal));
        GR_CHECK(is_hex(content, 8), GR_ERR_INPUT, "%s: shard %" PRId64 ": content is \"%.32s\", expected 8 hex digits",
                 path, i, content);
        GR_CHECK(is_hex(seal, 16), GR_ERR_INPUT, "%s: shard %" PRId64 ": seal is \"%.32s\", expected 16 hex digits",
                 path, i, seal);
        info->content = (int64_t)strtoul(content, NULL, 16);
        memcpy(info->seal, seal, 17);
        s->first[i + 1] = s->first[i] + info->n_token; /* 2^19 shards of 2^40: no overflow */
        s->n_doc += info->n_doc;
    }
    GR_CHECK(s->first[s->n_shard] > 0, GR_ERR_INPUT, "%s: the corpus is empty", path);
    GR_TRY(digest_of(&s->corpus, s->info, s->n_shard, s->digest));
out:
    return st;
}

static gr_status read_index(void *user, const char *text, uint64_t n, const char *path)
{
    gr_status   st = GR_OK;
    gr_shards  *s = user;
    json_t     *root = NULL;
    int64_t     n_token = 0, n_doc = 0;
    const char *content = NULL;

    GR_TRY(gr_json_unseal(text, n, path, &root));
    GR_TRY(read_header(s, path, root));
    GR_TRY(read_list(s, path, json_object_get(root, "shards")));
    GR_TRY(gr_json_get_str(root, path, "content", &content));
    GR_CHECK(!strcmp(content, s->digest), GR_ERR_INPUT, "%s: content is \"%.32s\", its shards make %s", path, content,
             s->digest);
    GR_TRY(gr_json_get_int(root, path, "tokens", 0, INT64_MAX, &n_token));
    GR_TRY(gr_json_get_int(root, path, "documents", 0, INT64_MAX, &n_doc));
    GR_CHECK(n_token == s->first[s->n_shard] && n_doc == s->n_doc, GR_ERR_INPUT,
             "%s: says %" PRId64 " tokens in %" PRId64 " documents, but its shards have %" PRId64 " in %" PRId64, path,
             n_token, n_doc, s->first[s->n_shard], s->n_doc);
out:
    json_decref(root);
    return st;
}

/* ---- opening --------------------------------------------------------------------------------------------- */

gr_status gr_shards_check(const gr_shards *s, int64_t i)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char      path[GR_PATH_MAX];

    GR_TRY(shard_path(path, s->dir, i));
    GR_TRY(gr_h5_open(&f, path, "shard"));
    GR_CHECK(!strcmp(gr_h5_seal_of(f), s->info[i].seal), GR_ERR_INPUT, "%s: seal %s, but the index says %s", path,
             gr_h5_seal_of(f), s->info[i].seal);
    GR_TRY(check_int(f, path, "content", s->info[i].content));
    GR_TRY(check_shard(f, path, &s->corpus, &s->info[i]));
out:
    gr_h5_close(&f);
    return st;
}

/* [local] The shards of this rank: checksum and content. */
static gr_status verify_mine(const gr_shards *s, const gr_comm *c)
{
    gr_status st = GR_OK;

    for (int64_t i = gr_comm_rank(c); i < s->n_shard; i += gr_comm_size(c)) GR_TRY(gr_shards_check(s, i));
out:
    return st;
}

gr_status gr_shards_look(gr_shards **out_s, const gr_comm *c, const char *dir)
{
    gr_status  st = GR_OK;
    gr_shards *s = NULL;
    char       path[GR_PATH_MAX];

    st = gr_alloc(&s, 1, sizeof *s, "shards");
    if (st == GR_OK) st = gr_path(s->dir, "%s", dir);
    if (st == GR_OK) st = gr_path(path, "%s/index.json", dir);
    GR_TRY(gr_agree(c, st));
    GR_TRY(gr_json_share(c, path, read_index, s));
    *out_s = s;
    s = NULL;
out:
    gr_shards_close(&s);
    return st;
}

gr_status gr_shards_open(gr_shards **out_s, const gr_comm *c, const char *dir)
{
    gr_status  st = GR_OK;
    gr_shards *s = NULL;

    GR_TRY(gr_shards_look(&s, c, dir));
    GR_TRY(gr_agree(c, verify_mine(s, c)));
    *out_s = s;
    s = NULL;
out:
    gr_shards_close(&s);
    return st;
}

void gr_shards_close(gr_shards **sp)
{
    gr_shards *s = *sp;

    if (!s) return;
    for (int k = 0; k < MAX_OPEN; k++) {
        gr_h5_close(&s->open[k].file);
        gr_free(&s->open[k].doc_offsets);
    }
    gr_free(&s->info);
    gr_free(&s->first);
    gr_free(sp);
}

int64_t gr_shards_count(const gr_shards *s)
{
    return s->n_shard;
}

gr_status gr_shards_path(const gr_shards *s, int64_t i, char path[GR_PATH_MAX])
{
    return shard_path(path, s->dir, i);
}

const gr_corpus *gr_shards_corpus(const gr_shards *s)
{
    return &s->corpus;
}

int64_t gr_shards_tokens(const gr_shards *s)
{
    return s->first[s->n_shard];
}

int64_t gr_shards_documents(const gr_shards *s)
{
    return s->n_doc;
}

const char *gr_shards_digest(const gr_shards *s)
{
    return s->digest;
}

/* ---- reading --------------------------------------------------------------------------------------------- */

/* Shard i, open; the least recently used one makes room. */
static gr_status need_shard(gr_shards *s, int64_t i, open_shard **found)
{
    gr_status            st = GR_OK;
    const gr_shard_info *info = &s->info[i];
    open_shard          *slot = &s->open[0];
    char                 path[GR_PATH_MAX];

    for (int k = 0; k < MAX_OPEN; k++) {
        open_shard *o = &s->open[k];
        if (o->file && o->i == i) {
            o->used = ++s->clock;
            *found = o;
            return GR_OK;
        }
        if (!o->file ? slot->file != NULL : slot->file && o->used < slot->used) slot = o;
    }
    gr_h5_close(&slot->file);
    gr_free(&slot->doc_offsets);
    GR_TRY(shard_path(path, s->dir, i));
    GR_TRY(gr_h5_open_known(&slot->file, path, "shard", info->seal));
    GR_TRY(gr_alloc(&slot->doc_offsets, (uint64_t)info->n_doc + 1, sizeof *slot->doc_offsets, "document offsets"));
    GR_TRY(read_offsets(slot->file, path, info->n_doc, info->n_token, slot->doc_offsets));
    slot->i = i;
    slot->used = ++s->clock;
    *found = slot;
out:
    if (st != GR_OK) gr_h5_close(&slot->file);
    return st;
}

/* Largest k with x[k] <= v; x ascending, x[0] <= v. */
static int64_t last_at_most(const int64_t *x, int64_t n, int64_t v)
{
    int64_t lo = 0, hi = n - 1;

    while (lo < hi) {
        const int64_t mid = lo + (hi - lo + 1) / 2;
        if (x[mid] <= v)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Mark the documents that begin at [from, from + n) of a shard. */
static void mark_starts(const open_shard *o, int64_t n_doc, int64_t from, int64_t n, uint8_t *doc_start)
{
    int64_t d = last_at_most(o->doc_offsets, n_doc, from);

    memset(doc_start, 0, (size_t)n);
    if (o->doc_offsets[d] < from) d++;
    for (; d < n_doc && o->doc_offsets[d] < from + n; d++) doc_start[o->doc_offsets[d] - from] = 1;
}

gr_status gr_shards_read(gr_shards *s, int64_t first, int64_t n, uint32_t *tokens, uint8_t *loss_mask,
                         uint8_t *doc_start)
{
    gr_status   st = GR_OK;
    open_shard *o = NULL;

    GR_CHECK(first >= 0 && n >= 0 && first <= gr_shards_tokens(s) && n <= gr_shards_tokens(s) - first, GR_ERR_ARG,
             "%s: positions [%" PRId64 ", + %" PRId64 ") of %" PRId64, s->dir, first, n, gr_shards_tokens(s));
    for (int64_t done = 0, part; done < n; done += part) {
        const int64_t at = first + done, i = last_at_most(s->first, s->n_shard + 1, at), from = at - s->first[i];

        part = s->first[i + 1] - at < n - done ? s->first[i + 1] - at : n - done;
        GR_TRY(need_shard(s, i, &o));
        if (tokens) GR_TRY(gr_h5_read(o->file, "tokens", GR_U32, from, part, tokens + done));
        if (loss_mask) GR_TRY(gr_h5_read(o->file, "loss_mask", GR_U8, from, part, loss_mask + done));
        if (doc_start) mark_starts(o, s->info[i].n_doc, from, part, doc_start + done);
    }
out:
    return st;
}
