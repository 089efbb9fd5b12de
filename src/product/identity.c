#include "product/identity.h"
#include "data_pipeline/corpus.h"
#include "store/json_seal.h"
#include "store/seal.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { WHOLE = 4 << 20, N_PIECE = 16, PIECE = WHOLE / N_PIECE };

static void set(gr_identity *id, uint64_t hash)
{
    snprintf(id->hex, sizeof id->hex, "%016" PRIx64, hash);
}

/* Fold another identity into a hash of several. */
static uint64_t fold(uint64_t hash, const gr_identity *id)
{
    return XXH3_64bits_withSeed(id->hex, sizeof id->hex, hash);
}

/* ---- files -------------------------------------------------------------------------------------------- */

/* Size and bytes, or the bytes of pieces at equal distances, the first at the start and the last at the end. */
static gr_status hash_file(gr_identity *id, const char *path)
{
    gr_status st = GR_OK;
    int       fd = -1;
    uint64_t  size = 0, n;
    char     *data = NULL;

    GR_TRY(gr_open_input(path, &fd, &size));
    n = size < WHOLE ? size : WHOLE;
    GR_TRY(gr_alloc(&data, n + 1, 1, "bytes to identify"));
    for (uint64_t i = 0; i < N_PIECE && n == WHOLE; i++)
        GR_TRY(gr_pread_all(fd, data + i * PIECE, PIECE, (size - PIECE) * i / (N_PIECE - 1), path));
    if (n < WHOLE) GR_TRY(gr_pread_all(fd, data, n, 0, path));
    set(id, XXH3_64bits_withSeed(data, n, size));
out:
    gr_free(&data);
    if (fd >= 0) close(fd);
    return st;
}

/* By its seal, if it has one. */
static gr_status identify_file(gr_identity *id, const char *path)
{
    gr_status st = GR_OK;
    gr_seal   seal;
    int       fd = -1;
    uint64_t  size = 0;
    char      first[6] = "";

    GR_TRY(gr_open_input(path, &fd, &size));
    if (size >= GR_SEAL_BYTES) GR_TRY(gr_pread_all(fd, first, sizeof first, 0, path));
    if (memcmp(first, "GRAFT ", sizeof first) != 0) {
        GR_TRY(hash_file(id, path));
    } else {
        GR_TRY(gr_seal_read(path, NULL, &seal));
        snprintf(id->hex, sizeof id->hex, "%s", *seal.content ? seal.content : seal.id);
    }
out:
    if (fd >= 0) close(fd);
    return st;
}

/* ---- directories -------------------------------------------------------------------------------------- */

/* File i of an index's list is there, whole, and sealed as the index says. */
static gr_status find_listed(const char *index, const char *kind, int64_t i, const char *seal)
{
    gr_status st = GR_OK;
    char      dir[GR_PATH_MAX], path[GR_PATH_MAX];
    gr_seal   is;

    GR_TRY(gr_dirname(dir, index));
    GR_TRY(gr_path(path, "%s/%s-%05" PRId64 ".h5", dir, kind, i));
    GR_TRY(gr_seal_read(path, kind, &is));
    GR_CHECK(!strcmp(is.id, seal), GR_ERR_INPUT, "%s: seal %s, but %s lists %s", path, is.id, index, seal);
out:
    return st;
}

/* The shards of a corpus or the files of logits: an index whose files are gone identifies nothing. */
static gr_status find_all_listed(const char *index, const json_t *tree)
{
    gr_status     st = GR_OK;
    const json_t *shards = json_object_get(tree, "shards"), *list = shards ? shards : json_object_get(tree, "files");
    const json_t *item;
    const char   *seal;
    size_t        i;

    GR_CHECK(json_is_array(list), GR_ERR_INPUT, "%s: no list of files", index);
    json_array_foreach(list, i, item)
    {
        seal = json_string_value(shards ? json_object_get(item, "seal") : item);
        GR_CHECK(seal, GR_ERR_INPUT, "%s: file %zu has no seal", index, i);
        GR_TRY(find_listed(index, shards ? "shard" : "logits", (int64_t)i, seal));
    }
out:
    return st;
}

static gr_status identify_index(gr_identity *id, const char *path)
{
    gr_status   st = GR_OK;
    char       *text = NULL;
    uint64_t    n = 0;
    json_t     *tree = NULL;
    const char *content = NULL;

    GR_TRY(gr_read_file(path, GR_JSON_SEAL_LIMIT, &text, &n));
    GR_TRY(gr_json_unseal(text, n, path, &tree));
    GR_TRY(gr_json_get_str(tree, path, "content", &content));
    GR_CHECK(strlen(content) == 16, GR_ERR_INPUT, "%s: content is \"%.32s\", expected 16 hex digits", path, content);
    GR_TRY(find_all_listed(path, tree));
    memcpy(id->hex, content, sizeof id->hex);
out:
    json_decref(tree);
    gr_free(&text);
    return st;
}

static bool ends_in(const char *s, const char *end)
{
    return strlen(s) >= strlen(end) && !strcmp(s + strlen(s) - strlen(end), end);
}

static bool of_model(const char *name)
{
    return !strcmp(name, "config.json") || !strcmp(name, "tokenizer.json") || ends_in(name, ".safetensors") ||
           ends_in(name, ".safetensors.index.json");
}

/* A directory for HuggingFace's tools: what in it makes the model, with the names. */
static gr_status identify_model(gr_identity *id, const char *dir)
{
    gr_status   st = GR_OK;
    char      **name = NULL, path[GR_PATH_MAX];
    int64_t     n = 0;
    uint64_t    hash = 0;
    gr_identity one;

    GR_TRY(gr_list(dir, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        if (!of_model(name[i])) continue;
        GR_TRY(gr_path(path, "%s/%s", dir, name[i]));
        GR_TRY(identify_file(&one, path));
        hash = fold(XXH3_64bits_withSeed(name[i], strlen(name[i]), hash), &one);
    }
    if (hash) set(id, hash);
out:
    gr_names_free(&name, n);
    return st;
}

/* Checkpoints, if there are any: the newest. */
static gr_status identify_newest(gr_identity *id, const char *dir)
{
    gr_status st = GR_OK;
    char    **name = NULL, path[GR_PATH_MAX];
    int64_t   n = 0, i;

    GR_TRY(gr_list(dir, &name, &n));
    for (i = n - 1; i >= 0 && !*id->hex; i--) {
        if (strncmp(name[i], "step-", 5) != 0) continue;
        GR_TRY(gr_path(path, "%s/%s/manifest.json", dir, name[i]));
        if (gr_exists(path)) GR_TRY(hash_file(id, path));
    }
out:
    gr_names_free(&name, n);
    return st;
}

gr_status gr_identify(gr_identity *id, const char *path)
{
    static const struct {
        const char *name;
        gr_status (*identify)(gr_identity *, const char *);
    } marks[] = {{"weights.h5", identify_file}, {"index.json", identify_index}, {"manifest.json", hash_file}};
    gr_status   st = GR_OK;
    struct stat sb;
    char        inside[GR_PATH_MAX];
    const char *slash = strrchr(path, '/');

    *id = (gr_identity){""};
    if (stat(path, &sb)) goto out;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        if (S_ISDIR(sb.st_mode))
            GR_TRY(gr_path(inside, "%s/%s", path, marks[i].name));
        else if (!strcmp(slash ? slash + 1 : path, marks[i].name))
            GR_TRY(gr_path(inside, "%s", path));
        else
            continue;
        if (gr_exists(inside)) return marks[i].identify(id, inside);
    }
    if (!S_ISDIR(sb.st_mode)) return identify_file(id, path);
    GR_TRY(identify_newest(id, path));
    if (!*id->hex) GR_TRY(identify_model(id, path));
out:
    return st;
}

/* ---- lists --------------------------------------------------------------------------------------------- */

static bool matches(const char *pattern)
{
    glob_t     found = {0};
    const bool yes = gr_exists(pattern) || glob(pattern, GLOB_NOSORT, NULL, &found) == 0;

    globfree(&found);
    return yes;
}

gr_status gr_identify_input(gr_identity *id, const gr_input_key *key)
{
    gr_status   st = GR_OK;
    gr_files    files = {0};
    gr_identity one;
    uint64_t    hash = 0;

    if (!key->pattern) return gr_identify(id, key->path.v[0]);
    *id = (gr_identity){""};
    for (int64_t i = 0; i < key->path.n; i++)
        if (!matches(key->path.v[i])) goto out;
    GR_TRY(gr_files_open(&files, (const char *const *)key->path.v, key->path.n));
    for (int64_t i = 0; i < files.n; i++) {
        GR_TRY(hash_file(&one, files.names.v + files.name_at[i]));
        hash = fold(hash, &one);
    }
    set(id, hash);
out:
    gr_files_close(&files);
    return st;
}
