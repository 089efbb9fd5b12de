#include "store/logits.h"
#include "store/h5_pool.h"
#include "store/json_seal.h"
#include "store/seal.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/half.h"
#include "util/mem.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define KIND "logits"

enum { FORMAT = 1, N_KEYS = 12 };

static const float LOWEST = -60000; /* fp16 holds it exactly, and nothing below -65504 */
static const float SLACK = 1e-3f;   /* a log-probability above 0 by this much is rounding */

int64_t gr_logits_files(const gr_logits_spec *s)
{
    return s->tokens / s->span + (s->tokens % s->span > 0);
}

static int64_t positions_of(const gr_logits_spec *s, int64_t i)
{
    const int64_t left = s->tokens - i * s->span;

    return left < s->span ? left : s->span;
}

static gr_status file_path(char path[GR_PATH_MAX], const char *dir, int64_t i)
{
    return gr_path(path, "%s/logits-%05" PRId64 ".h5", dir, i);
}

static gr_status check_spec(const gr_logits_spec *s, const char *name, gr_status code)
{
    gr_status st = GR_OK;

    GR_CHECK(s->vocab_size > 0 && s->vocab_size <= INT32_MAX && s->k > 0 && s->k <= s->vocab_size, code,
             "%s: k = %" PRId64 " of a vocabulary of %" PRId64, name, s->k, s->vocab_size);
    GR_CHECK(s->context > 0 && s->span > 0 && s->span % s->context == 0 && s->span <= INT64_MAX / 8 / s->k, code,
             "%s: files of %" PRId64 " positions, windows of %" PRId64, name, s->span, s->context);
    GR_CHECK(s->tokens > 0, code, "%s: an empty stream", name);
    GR_CHECK(memchr(s->corpus, 0, sizeof s->corpus) && memchr(s->teacher, 0, sizeof s->teacher), code,
             "%s: corpus or teacher is not a string", name);
out:
    return st;
}

/* ---- the attributes of a file ---------------------------------------------------------------- */

typedef struct number {
    const char *name;
    int64_t     v;
} number;

enum { N_NUMBERS = 6 };

static void numbers_of(const gr_logits_spec *s, int64_t i, number out[N_NUMBERS])
{
    const number v[N_NUMBERS] = {{"k", s->k},           {"context", s->context},       {"span", s->span},
                                 {"tokens", s->tokens}, {"vocab_size", s->vocab_size}, {"first", i * s->span}};

    memcpy(out, v, sizeof v);
}

static gr_status set_attributes(gr_h5 *f, const gr_logits_spec *s, int64_t i, const char *config)
{
    gr_status st = GR_OK;
    number    v[N_NUMBERS];

    numbers_of(s, i, v);
    for (int a = 0; a < N_NUMBERS; a++) GR_TRY(gr_h5_set_int(f, NULL, v[a].name, v[a].v));
    GR_TRY(gr_h5_set_str(f, NULL, "corpus", s->corpus));
    GR_TRY(gr_h5_set_str(f, NULL, "teacher", s->teacher));
    GR_TRY(gr_h5_set_str(f, NULL, "config", config ? config : ""));
out:
    return st;
}

static gr_status check_string(gr_h5 *f, const char *path, const char *name, const char *expected)
{
    gr_status st = GR_OK;
    char     *found = NULL;

    GR_TRY(gr_h5_get_str(f, NULL, name, &found));
    GR_CHECK(!strcmp(found, expected), GR_ERR_INPUT, "%s: %s is \"%.40s\", expected \"%s\"", path, name, found,
             expected);
out:
    gr_free(&found);
    return st;
}

static gr_status check_dataset(gr_h5 *f, const char *path, const char *name, gr_dtype dtype, int rank, int64_t n,
                               int64_t k)
{
    gr_status st = GR_OK;
    gr_dtype  t;
    int       r;
    int64_t   dim[GR_MAX_DIM];

    GR_TRY(gr_h5_info(f, name, &t, &r, dim));
    GR_CHECK(t == dtype && r == rank && dim[0] == n && dim[1] == k, GR_ERR_INPUT,
             "%s: dataset \"%s\" is %s [%" PRId64 ", %" PRId64 "], expected %s [%" PRId64 ", %" PRId64 "]", path, name,
             gr_dtype_name(t), dim[0], dim[1], gr_dtype_name(dtype), n, k);
out:
    return st;
}

/* Is this file i of the store? */
static gr_status check_file(gr_h5 *f, const char *path, const gr_logits_spec *s, int64_t i)
{
    gr_status     st = GR_OK;
    const int64_t n = positions_of(s, i);
    number        v[N_NUMBERS];
    int64_t       found;

    numbers_of(s, i, v);
    for (int a = 0; a < N_NUMBERS; a++) {
        GR_TRY(gr_h5_get_int(f, NULL, v[a].name, &found));
        GR_CHECK(found == v[a].v, GR_ERR_INPUT, "%s: %s is %" PRId64 ", expected %" PRId64, path, v[a].name, found,
                 v[a].v);
    }
    GR_TRY(check_string(f, path, "corpus", s->corpus));
    GR_TRY(check_string(f, path, "teacher", s->teacher));
    GR_TRY(check_dataset(f, path, "id", GR_U32, 2, n, s->k));
    GR_TRY(check_dataset(f, path, "lp", GR_F16, 2, n, s->k));
    GR_TRY(check_dataset(f, path, "tail", GR_F16, 1, n, 1));
out:
    return st;
}

/* ---- values ------------------------------------------------------------------------------------ */

/* Ids in the vocabulary; log-probabilities finite, at most 0 and falling; the tail at most 0 or -inf. The loop over one
 * row has no exit, so it vectorises; the first bad position is what the message names. */
static gr_status check_values(const gr_logits_spec *s, const char *name, int64_t first, int64_t n, const int32_t *id,
                              const float *lp, const float *tail, gr_status code)
{
    gr_status      st = GR_OK;
    const uint32_t vocab = (uint32_t)s->vocab_size;

    for (int64_t p = 0; p < n; p++) {
        const int32_t *i = id + p * s->k;
        const float   *l = lp + p * s->k;
        int            bad_id = 0, bad_lp = !(l[0] <= SLACK);

        for (int64_t j = 0; j < s->k; j++) {
            bad_id |= (uint32_t)i[j] >= vocab;
            bad_lp |= !(l[j] >= -INFINITY && fabsf(l[j]) < INFINITY);
        }
        for (int64_t j = 1; j < s->k; j++) bad_lp |= !(l[j] <= l[j - 1]);
        GR_CHECK(!bad_id, code, "%s: position %" PRId64 ": a token id is not below %" PRId64, name, first + p,
                 s->vocab_size);
        GR_CHECK(!bad_lp, code, "%s: position %" PRId64 ": log-probabilities are not finite, falling and <= 0", name,
                 first + p);
        GR_CHECK(tail[p] <= SLACK, code, "%s: position %" PRId64 ": the log of the remaining probability is %g", name,
                 first + p, (double)tail[p]);
    }
out:
    return st;
}

/* To fp16. Of the two special cases, what is above 0 by rounding is 0, and only the tail may be -inf. */
static void narrow(const float *x, uint16_t *h, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i] > 0 ? 0 : x[i];
        h[i] = gr_f16_of_f32(v < LOWEST && v > -INFINITY ? LOWEST : v);
    }
}

/* ---- writing ------------------------------------------------------------------------------------- */

/* Identifies the predictions: no path, no configuration is in it. content: CRC-32Cs of the files' datasets. */
static void digest_of(const gr_logits_spec *s, const int64_t *content, char digest[17])
{
    gr_logits_spec clean = {
        .k = s->k, .context = s->context, .span = s->span, .tokens = s->tokens, .vocab_size = s->vocab_size};

    snprintf(clean.corpus, sizeof clean.corpus, "%s", s->corpus);
    snprintf(clean.teacher, sizeof clean.teacher, "%s", s->teacher);
    snprintf(digest, 17, "%016" PRIx64,
             (uint64_t)XXH3_64bits_withSeed(content, (size_t)gr_logits_files(s) * sizeof *content,
                                            XXH3_64bits(&clean, sizeof clean)));
}

bool gr_logits_have(const char *dir, const gr_logits_spec *s, int64_t i)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char      path[GR_PATH_MAX];

    GR_TRY(file_path(path, dir, i));
    if (!gr_exists(path)) return false;
    GR_TRY(gr_h5_open(&f, path, KIND));
    GR_TRY(check_file(f, path, s, i));
out:
    gr_h5_close(&f);
    if (st != GR_OK) gr_log("%s: not usable, it will be made again", path);
    return st == GR_OK;
}

gr_status gr_logits_write(const char *dir, const gr_logits_spec *s, int64_t i, int64_t n, const int32_t *id,
                          const float *lp, const float *tail, const char *config)
{
    gr_status     st = GR_OK;
    gr_h5        *f = NULL;
    uint16_t     *half = NULL;
    char          path[GR_PATH_MAX];
    const int64_t dim[] = {n, s->k};
    uint32_t      crc;

    GR_TRY(check_spec(s, dir, GR_ERR_ARG));
    GR_CHECK(i >= 0 && i < gr_logits_files(s) && n == positions_of(s, i), GR_ERR_ARG,
             "%s: file %" PRId64 " with %" PRId64 " positions", dir, i, n);
    GR_TRY(file_path(path, dir, i));
    GR_TRY(check_values(s, path, i * s->span, n, id, lp, tail, GR_ERR_NUMERIC));
    GR_TRY(gr_alloc(&half, (uint64_t)(n * s->k), sizeof *half, "log-probabilities"));
    GR_TRY(gr_mkdirs(dir));
    GR_TRY(gr_h5_create(&f, path, KIND));
    GR_TRY(set_attributes(f, s, i, config));
    crc = gr_crc32c(0, id, (size_t)(n * s->k) * sizeof *id);
    GR_TRY(gr_h5_write(f, "id", GR_U32, 2, dim, id));
    narrow(lp, half, n * s->k);
    crc = gr_crc32c(crc, half, (size_t)(n * s->k) * sizeof *half);
    GR_TRY(gr_h5_write(f, "lp", GR_F16, 2, dim, half));
    narrow(tail, half, n);
    crc = gr_crc32c(crc, half, (size_t)n * sizeof *half);
    GR_TRY(gr_h5_write(f, "tail", GR_F16, 1, dim, half));
    GR_TRY(gr_h5_set_int(f, NULL, "content", crc));
    GR_TRY(gr_h5_commit(&f));
out:
    gr_h5_close(&f);
    gr_free(&half);
    return st;
}

/* The seals of all files, which must be there, and their contents. */
static gr_status list_files(const char *dir, const gr_logits_spec *s, json_t *list, int64_t *content)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    gr_seal   seal;
    char      path[GR_PATH_MAX];

    for (int64_t i = 0; i < gr_logits_files(s); i++) {
        GR_TRY(file_path(path, dir, i));
        GR_TRY(gr_seal_read(path, KIND,
                            &seal)); /* content was checked when it was written, and will be when it is opened */
        GR_TRY(gr_h5_open_known(&f, path, KIND, seal.id));
        GR_TRY(check_file(f, path, s, i));
        GR_TRY(gr_h5_get_int(f, NULL, "content", &content[i]));
        GR_CHECK(!json_array_append_new(list, json_string(seal.id)), GR_ERR_NOMEM, "%s: list of seals", dir);
        gr_h5_close(&f);
    }
out:
    gr_h5_close(&f);
    return st;
}

gr_status gr_logits_publish(const char *dir, const gr_logits_spec *s, const char *config)
{
    gr_status st = GR_OK;
    json_t   *seals = json_array(), *tree = NULL;
    char     *text = NULL, path[GR_PATH_MAX], digest[17];
    uint64_t  n = 0;
    int64_t  *content = NULL;

    GR_TRY(check_spec(s, dir, GR_ERR_ARG));
    GR_TRY(gr_alloc(&content, (uint64_t)gr_logits_files(s), sizeof *content, "contents of files"));
    GR_TRY(list_files(dir, s, seals, content));
    digest_of(s, content, digest);
    tree = json_pack("{si ss ss sI sI sI sI sI ss ss ss sO}", "format", FORMAT, "kind", KIND, "content", digest, "k",
                     (json_int_t)s->k, "context", (json_int_t)s->context, "span", (json_int_t)s->span, "tokens",
                     (json_int_t)s->tokens, "vocab_size", (json_int_t)s->vocab_size, "corpus", s->corpus, "teacher",
                     s->teacher, "config", config ? config : "", "files", seals);
    GR_CHECK(tree, GR_ERR_ARG, "%s: corpus, teacher or configuration is not UTF-8", dir);
    GR_TRY(gr_json_seal(tree, &text, &n));
    GR_TRY(gr_path(path, "%s/index.json", dir));
    GR_TRY(gr_write_file(path, text, n));
out:
    gr_free(&text);
    json_decref(tree);
    json_decref(seals);
    gr_free(&content);
    return st;
}

/* ---- reading ----------------------------------------------------------------------------------- */

struct gr_logits {
    gr_logits_spec spec;
    char           content[32];
    char (*seal)[17]; /* [files] */
    gr_h5_pool pool;
    char       dir[GR_PATH_MAX];
};

static gr_status copy_string(const json_t *tree, const char *name, const char *key, char *dst, size_t room)
{
    gr_status   st = GR_OK;
    const char *v;

    GR_TRY(gr_json_get_str(tree, name, key, &v));
    GR_CHECK(strlen(v) < room, GR_ERR_INPUT, "%s: %s: longer than %zu bytes", name, key, room - 1);
    memcpy(dst, v, strlen(v) + 1);
out:
    return st;
}

static gr_status read_spec(gr_logits_spec *s, const json_t *tree, const char *name)
{
    gr_status st = GR_OK;
    char      kind[16];
    int64_t   format;

    GR_TRY(gr_json_get_int(tree, name, "format", FORMAT, FORMAT, &format));
    GR_TRY(copy_string(tree, name, "kind", kind, sizeof kind));
    GR_CHECK(!strcmp(kind, KIND), GR_ERR_INPUT, "%s: kind \"%s\", expected \"%s\"", name, kind, KIND);
    GR_CHECK(json_object_size(tree) == N_KEYS, GR_ERR_INPUT, "%s: %zu members, expected %d", name,
             json_object_size(tree), N_KEYS);
    GR_TRY(gr_json_get_int(tree, name, "k", 1, INT32_MAX, &s->k));
    GR_TRY(gr_json_get_int(tree, name, "context", 1, INT64_MAX, &s->context));
    GR_TRY(gr_json_get_int(tree, name, "span", 1, INT64_MAX, &s->span));
    GR_TRY(gr_json_get_int(tree, name, "tokens", 1, INT64_MAX, &s->tokens));
    GR_TRY(gr_json_get_int(tree, name, "vocab_size", 1, INT32_MAX, &s->vocab_size));
    GR_TRY(copy_string(tree, name, "corpus", s->corpus, sizeof s->corpus));
    GR_TRY(copy_string(tree, name, "teacher", s->teacher, sizeof s->teacher));
    GR_TRY(check_spec(s, name, GR_ERR_INPUT));
out:
    return st;
}

static gr_status read_index(void *user, const char *text, uint64_t n, const char *name)
{
    gr_status  st = GR_OK;
    gr_logits *l = user;
    json_t    *tree = NULL, *files;

    GR_TRY(gr_json_unseal(text, n, name, &tree));
    GR_TRY(read_spec(&l->spec, tree, name));
    GR_TRY(copy_string(tree, name, "content", l->content, sizeof l->content));
    files = json_object_get(tree, "files");
    GR_CHECK(json_is_array(files) && json_array_size(files) == (size_t)gr_logits_files(&l->spec), GR_ERR_INPUT,
             "%s: files: %zu are listed, %" PRId64 " are needed", name, json_array_size(files),
             gr_logits_files(&l->spec));
    GR_TRY(gr_alloc(&l->seal, json_array_size(files), sizeof *l->seal, "seals of files"));
    for (size_t i = 0; i < json_array_size(files); i++) {
        const char *seal = json_string_value(json_array_get(files, i));
        GR_CHECK(seal && strlen(seal) == sizeof *l->seal - 1, GR_ERR_INPUT, "%s: files: entry %zu is not a seal", name,
                 i);
        memcpy(l->seal[i], seal, sizeof *l->seal);
    }
out:
    json_decref(tree);
    return st;
}

gr_status gr_logits_check(const gr_logits *l, int64_t i)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char      path[GR_PATH_MAX];

    GR_TRY(file_path(path, l->dir, i));
    GR_TRY(gr_h5_open(&f, path, KIND));
    GR_CHECK(!strcmp(gr_h5_seal_of(f), l->seal[i]), GR_ERR_INPUT, "%s: seal %s, the index says %s", path,
             gr_h5_seal_of(f), l->seal[i]);
    GR_TRY(check_file(f, path, &l->spec, i));
out:
    gr_h5_close(&f);
    return st;
}

/* Every file is read in full by one rank. */
static gr_status verify_mine(const gr_logits *l, const gr_comm *c)
{
    gr_status     st = GR_OK;
    const int64_t n = gr_logits_files(&l->spec);

    for (int64_t i = gr_comm_rank(c); i < n; i += gr_comm_size(c)) GR_TRY(gr_logits_check(l, i));
out:
    return st;
}

gr_status gr_logits_look(gr_logits **out, const gr_comm *c, const char *dir)
{
    gr_status  st = GR_OK;
    gr_logits *l = NULL;
    char       path[GR_PATH_MAX];

    st = gr_path(path, "%s/index.json", dir);
    if (st == GR_OK) st = gr_alloc(&l, 1, sizeof *l, "logits");
    if (st == GR_OK) st = gr_path(l->dir, "%s", dir);
    GR_TRY(gr_agree(c, st));
    GR_TRY(gr_json_share(c, path, read_index, l));
    *out = l;
    l = NULL;
out:
    gr_logits_close(&l);
    return st;
}

gr_status gr_logits_open(gr_logits **out, const gr_comm *c, const char *dir)
{
    gr_status  st = GR_OK;
    gr_logits *l = NULL;

    GR_TRY(gr_logits_look(&l, c, dir));
    GR_TRY(gr_agree(c, verify_mine(l, c)));
    *out = l;
    l = NULL;
out:
    gr_logits_close(&l);
    return st;
}

void gr_logits_close(gr_logits **pl)
{
    gr_logits *l = *pl;

    if (!l) return;
    gr_h5_pool_close(&l->pool);
    gr_free(&l->seal);
    gr_free(pl);
}

gr_status gr_logits_path(const gr_logits *l, int64_t i, char path[GR_PATH_MAX])
{
    return file_path(path, l->dir, i);
}

const gr_logits_spec *gr_logits_spec_of(const gr_logits *l)
{
    return &l->spec;
}

const char *gr_logits_digest(const gr_logits *l)
{
    return l->content;
}

gr_status gr_logits_read(gr_logits *l, int64_t first, int64_t n, int32_t *id, float *lp, float *tail)
{
    gr_status             st = GR_OK;
    const gr_logits_spec *s = &l->spec;
    gr_h5                *f;
    char                  path[GR_PATH_MAX];
    int64_t               count;

    GR_CHECK(first >= 0 && n >= 0 && first <= s->tokens && n <= s->tokens - first, GR_ERR_ARG,
             "%s: positions %" PRId64 " to %" PRId64 " of %" PRId64, l->dir, first, first + n, s->tokens);
    for (int64_t done = 0; done < n; done += count) {
        const int64_t i = (first + done) / s->span, at = (first + done) % s->span;

        count = positions_of(s, i) - at;
        if (count > n - done) count = n - done;
        GR_TRY(file_path(path, l->dir, i));
        GR_TRY(gr_h5_pool_get(&l->pool, i, path, KIND, l->seal[i], &f));
        GR_TRY(gr_h5_read(f, "id", GR_U32, at, count, id + done * s->k));
        GR_TRY(gr_h5_read_f32(f, "lp", at, count, lp + done * s->k));
        GR_TRY(gr_h5_read_f32(f, "tail", at, count, tail + done));
        GR_TRY(
            check_values(s, path, first + done, count, id + done * s->k, lp + done * s->k, tail + done, GR_ERR_INPUT));
    }
out:
    return st;
}
