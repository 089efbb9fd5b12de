/* Stores of many files under one index: token shards, predictions, checkpoints, exports. */
#include "store/json_seal.h"
#include "util/crc32c.h"
#include "util/mem.h"
#include "verify/room.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { POSITIONS = 4096 /* of predictions, read at once */ };

void gr_store_close(gr_checker *k)
{
    gr_shards_close(&k->shards);
    gr_logits_close(&k->logits);
    gr_ckpt_close(&k->ckpt);
    json_decref(k->files);
    k->files = NULL;
    *k->open_path = 0;
}

/* `files` of files.json: {"model.safetensors": {"bytes": ..., "crc32c": "8 hex"}, ...} */
static gr_status open_export(gr_checker *k, const char *dir)
{
    gr_status   st = GR_OK;
    json_t     *tree = NULL, *v;
    char       *text = NULL, path[GR_PATH_MAX];
    const char *name, *crc;
    uint64_t    n = 0;
    int64_t     bytes;

    GR_TRY(gr_path(path, "%s/files.json", dir));
    GR_TRY(gr_read_file(path, GR_JSON_SEAL_LIMIT, &text, &n));
    GR_TRY(gr_json_unseal(text, n, path, &tree));
    v = json_object_get(tree, "files");
    GR_CHECK(json_object_size(v) > 0, GR_ERR_INPUT, "%s: lists no files", path);
    k->files = json_incref(v);
    json_object_foreach(k->files, name, v)
    {
        GR_CHECK(!strchr(name, '/'), GR_ERR_INPUT, "%s: \"%.60s\" is not in this directory", path, name);
        GR_TRY(gr_json_get_int(v, path, "bytes", 1, INT64_MAX, &bytes));
        GR_TRY(gr_json_get_str(v, path, "crc32c", &crc));
    }
out:
    json_decref(tree);
    gr_free(&text);
    return st;
}

gr_status gr_store_open(gr_checker *k, gr_task_kind kind, const char *dir)
{
    gr_status st = GR_OK;

    if (k->open_kind == kind && !strcmp(k->open_path, dir)) goto out;
    gr_store_close(k);
    switch (kind) {
    case GR_TASK_SHARD: GR_TRY(gr_shards_look(&k->shards, NULL, dir)); break;
    case GR_TASK_LOGITS: GR_TRY(gr_logits_look(&k->logits, NULL, dir)); break;
    case GR_TASK_CKPT: GR_TRY(gr_ckpt_look(&k->ckpt, dir)); break;
    default: GR_TRY(open_export(k, dir)); break;
    }
    k->open_kind = kind;
    GR_TRY(gr_path(k->open_path, "%s", dir));
out:
    return st;
}

int64_t gr_store_members(const gr_checker *k)
{
    switch (k->open_kind) {
    case GR_TASK_SHARD: return gr_shards_count(k->shards);
    case GR_TASK_LOGITS: return gr_logits_files(gr_logits_spec_of(k->logits));
    case GR_TASK_CKPT: return gr_ckpt_shards(k->ckpt);
    default: return (int64_t)json_object_size(k->files);
    }
}

/* The name of exported file i, and what files.json says of it. */
static const char *exported(const gr_checker *k, int64_t i, json_t **says)
{
    const char *name;
    json_t     *v;

    json_object_foreach(k->files, name, v)
    {
        *says = v;
        if (i-- == 0) return name;
    }
    return "";
}

gr_status gr_store_path(const gr_checker *k, int64_t i, char path[GR_PATH_MAX])
{
    json_t *says;

    switch (k->open_kind) {
    case GR_TASK_SHARD: return gr_shards_path(k->shards, i, path);
    case GR_TASK_LOGITS: return gr_logits_path(k->logits, i, path);
    case GR_TASK_CKPT: return gr_ckpt_shard_path(k->ckpt, i, path);
    default: return gr_path(path, "%s/%s", k->open_path, exported(k, i, &says));
    }
}

/* ---- what an index says ------------------------------------------------------------------------------- */

static gr_status ckpt_facts(const gr_ckpt *ck, gr_text *t)
{
    gr_status   st = GR_OK;
    json_t     *meta = NULL;
    const char *program;

    GR_TRY(gr_json_parse(gr_ckpt_meta(ck), strlen(gr_ckpt_meta(ck)), "meta", &meta));
    gr_text_add(t, "step %" PRId64 ", %" PRId64 " shards", gr_ckpt_step(ck), gr_ckpt_shards(ck));
    program = json_string_value(json_object_get(meta, "program"));
    if (program) gr_text_add(t, "; made by graft-%s", program);
    st = t->st;
out:
    json_decref(meta);
    return st;
}

gr_status gr_store_facts(const gr_checker *k, gr_text *t)
{
    const gr_logits_spec *l;
    const gr_corpus      *corpus;

    switch (k->open_kind) {
    case GR_TASK_SHARD:
        corpus = gr_shards_corpus(k->shards);
        gr_text_add(t,
                    "%" PRId64 " tokens, %" PRId64 " documents, %" PRId64 " shards; vocabulary %" PRId64
                    ", tokenizer %s; text %s",
                    gr_shards_tokens(k->shards), gr_shards_documents(k->shards), gr_shards_count(k->shards),
                    corpus->vocab_size, corpus->tokenizer, gr_shards_digest(k->shards));
        break;
    case GR_TASK_LOGITS:
        l = gr_logits_spec_of(k->logits);
        gr_text_add(
            t, "top %" PRId64 " at %" PRId64 " positions, %" PRId64 " files; context %" PRId64 "; text %s, teacher %s",
            l->k, l->tokens, gr_logits_files(l), l->context, l->corpus, l->teacher);
        break;
    case GR_TASK_CKPT: return ckpt_facts(k->ckpt, t);
    default: gr_text_add(t, "%zu files", json_object_size(k->files));
    }
    return t->st;
}

/* ---- members -------------------------------------------------------------------------------------------- */

/* Every value, through the reader that training uses. */
static gr_status check_logits(gr_checker *k, int64_t i)
{
    gr_status             st = GR_OK;
    const gr_logits_spec *s = gr_logits_spec_of(k->logits);
    const int64_t         end = (i + 1) * s->span < s->tokens ? (i + 1) * s->span : s->tokens;
    int32_t              *id = NULL;
    float                *lp = NULL, *tail = NULL;

    GR_TRY(gr_logits_check(k->logits, i));
    if (!k->deep) goto out;
    GR_TRY(gr_alloc(&id, (uint64_t)(POSITIONS * s->k), sizeof *id, "ids"));
    GR_TRY(gr_alloc(&lp, (uint64_t)(POSITIONS * s->k), sizeof *lp, "log-probabilities"));
    GR_TRY(gr_alloc(&tail, POSITIONS, sizeof *tail, "tails"));
    for (int64_t at = i * s->span; at < end; at += POSITIONS)
        GR_TRY(gr_logits_read(k->logits, at, end - at < POSITIONS ? end - at : POSITIONS, id, lp, tail));
out:
    gr_free(&id);
    gr_free(&lp);
    gr_free(&tail);
    return st;
}

static gr_status check_exported(gr_checker *k, int64_t i, const char *path)
{
    gr_status   st = GR_OK;
    json_t     *says = NULL;
    uint64_t    bytes = 0;
    uint32_t    crc = 0;
    char        found[9];
    const char *expected;

    exported(k, i, &says);
    expected = json_string_value(json_object_get(says, "crc32c"));
    GR_TRY(gr_crc32c_file(path, &bytes, &crc));
    GR_CHECK((json_int_t)bytes == json_integer_value(json_object_get(says, "bytes")), GR_ERR_INPUT,
             "%s: %" PRIu64 " bytes, files.json says %lld", path, bytes,
             (long long)json_integer_value(json_object_get(says, "bytes")));
    snprintf(found, sizeof found, "%08" PRIx32, crc);
    GR_CHECK(!strcmp(found, expected), GR_ERR_INPUT, "%s: checksum %s, files.json says %.8s", path, found, expected);
out:
    return st;
}

gr_status gr_check_member(gr_checker *k, const gr_task *u)
{
    static const char *const name[GR_N_TASK_KINDS] = {[GR_TASK_SHARD] = "shard",
                                                      [GR_TASK_LOGITS] = "logits",
                                                      [GR_TASK_CKPT] = "checkpoint",
                                                      [GR_TASK_EXPORT] = "export"};
    gr_status                st = GR_OK;
    char                     path[GR_PATH_MAX];

    st = gr_store_open(k, u->kind, u->path);
    if (st != GR_OK) return gr_judge(k, st, name[u->kind], u->path, ""); /* it was sound when rank 0 read it */
    GR_TRY(gr_store_path(k, u->member, path));
    switch (u->kind) {
    case GR_TASK_SHARD: st = gr_shards_check(k->shards, u->member); break;
    case GR_TASK_LOGITS: st = check_logits(k, u->member); break;
    case GR_TASK_CKPT: st = gr_ckpt_check(k->ckpt, u->member, k->deep); break;
    default: st = check_exported(k, u->member, path); break;
    }
    st = gr_judge(k, st, name[u->kind], path, "");
out:
    return st;
}
