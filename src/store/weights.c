#include "store/finite.h"
#include "store/seal.h"
#include "store/weights_room.h"
#include "util/fs.h"
#include "util/json.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define KIND "weights"

enum { PIECE_BYTES = 64 << 20 };

static bool is_weight_type(gr_dtype t)
{
    return t == GR_F32 || t == GR_BF16 || t == GR_F16;
}

/* Elements in one row of dimension 0, and bytes; a scalar has one row of one element. */
static int64_t row_of(const gr_tensor_info *t)
{
    int64_t n = 1;

    for (int d = 1; d < t->rank; d++) n *= t->dim[d];
    return n;
}

static int64_t row_bytes(const gr_tensor_info *t)
{
    return row_of(t) * gr_dtype_size(t->dtype);
}

static int64_t rows_of(const gr_tensor_info *t)
{
    return t->rank ? t->dim[0] : 1;
}

/* No NaN, no Inf, in rows from `first` on; the message says where, as [i, j, ...]. */
static gr_status check_finite(const char *path, const gr_tensor_info *t, gr_dtype dtype, int64_t first, int64_t count,
                              const void *data, gr_status code)
{
    gr_status     st = GR_OK;
    const int64_t bad = gr_first_not_finite(dtype, data, count * row_of(t));
    int64_t       at[GR_MAX_DIM] = {0}, rest = bad + first * row_of(t);

    if (bad < 0) goto out;
    for (int d = t->rank - 1; d >= 0; d--) {
        at[d] = rest % t->dim[d];
        rest /= t->dim[d];
    }
    GR_FAIL(code,
            "%s: tensor \"%s\" (%d dimensions): NaN or Inf at [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
            path, t->name, t->rank, at[0], at[1], at[2], at[3]);
out:
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

/* What the file says of itself, and whether it can be a model. */
static gr_status describe(gr_weights *w)
{
    gr_status          st = GR_OK;
    const char *const *name;
    json_t            *config = NULL;

    GR_TRY(gr_h5_get_str(w->f, NULL, "config_json", &w->config_json));
    GR_TRY(gr_json_parse(w->config_json, strlen(w->config_json), "config_json", &config));
    GR_CHECK(json_is_object(config), GR_ERR_INPUT, "%s: config_json is not a JSON object", w->path);
    GR_TRY(gr_h5_get_str(w->f, NULL, "pattern", &w->pattern));
    if (gr_h5_has_attr(w->f, NULL, "tokenizer_json"))
        GR_TRY(gr_h5_get_str(w->f, NULL, "tokenizer_json", &w->tokenizer_json));
    else
        GR_TRY(gr_strdup(&w->tokenizer_json, ""));

    GR_TRY(gr_h5_names(w->f, &name, &w->n));
    GR_CHECK(w->n > 0, GR_ERR_INPUT, "%s: no tensors", w->path);
    GR_TRY(gr_alloc(&w->tensor, (uint64_t)w->n, sizeof *w->tensor, "list of tensors"));
    for (int64_t i = 0; i < w->n; i++) {
        gr_tensor_info *t = &w->tensor[i];
        t->name = name[i];
        GR_TRY(gr_h5_info(w->f, t->name, &t->dtype, &t->rank, t->dim));
        GR_CHECK(is_weight_type(t->dtype), GR_ERR_INPUT, "%s: tensor \"%s\" is %s, expected f32, bf16 or f16", w->path,
                 t->name, gr_dtype_name(t->dtype));
        for (int d = 0; d < t->rank; d++)
            GR_CHECK(t->dim[d] > 0, GR_ERR_INPUT, "%s: tensor \"%s\" has no elements", w->path, t->name);
    }
out:
    json_decref(config);
    return st;
}

/* Rank 0 looks what `path` is; all ranks open the same. */
static gr_status resolve(gr_weights *w, const gr_comm *c, const char *path, bool *checkpoint)
{
    gr_status   st = GR_OK;
    struct stat sb;

    *checkpoint = false;
    if (gr_comm_rank(c) == 0) {
        const bool dir = !stat(path, &sb) && S_ISDIR(sb.st_mode);

        st = gr_path(w->path, dir ? "%s/weights.h5" : "%s", path);
        if (st == GR_OK && dir && !gr_exists(w->path)) *checkpoint = gr_ckpt_is_at(path);
        if (st == GR_OK && *checkpoint) st = gr_path(w->path, "%s", path);
    }
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, w->path, sizeof w->path, 0);
    gr_bcast(c, checkpoint, sizeof *checkpoint, 0);
out:
    return st;
}

gr_status gr_weights_open_below(gr_weights **out, const gr_comm *c, const char *path, int depth)
{
    gr_status   st = GR_OK;
    const int   rank = gr_comm_rank(c);
    gr_weights *w = NULL;
    bool        checkpoint = false;

    GR_TRY(gr_agree(c, gr_alloc(&w, 1, sizeof *w, "weights")));
    GR_TRY(resolve(w, c, path, &checkpoint));
    if (checkpoint) {
        GR_TRY(gr_weights_open_over(w, c, depth));
    } else {
        GR_TRY(gr_h5_open_all(c, &w->f, w->path, KIND));
        st = rank == 0 ? describe(w) : GR_OK; /* first on rank 0: what is wrong is said once */
        GR_TRY(gr_agree(c, st));
        st = rank == 0 ? GR_OK : describe(w);
        GR_TRY(gr_agree(c, st));
    }
    *out = w;
    w = NULL;
out:
    gr_weights_close(&w);
    return st;
}

gr_status gr_weights_open(gr_weights **w, const gr_comm *c, const char *path)
{
    return gr_weights_open_below(w, c, path, 0);
}

void gr_weights_close(gr_weights **pw)
{
    gr_weights *w = *pw;

    if (!w) return;
    gr_h5_close(&w->f);
    gr_ckpt_close(&w->over);
    gr_weights_close(&w->base);
    gr_free(&w->tensor);
    gr_free(&w->config_json);
    gr_free(&w->tokenizer_json);
    gr_free(&w->pattern);
    gr_free(pw);
}

const char *gr_weights_path(const gr_weights *w)
{
    return w->path;
}

const char *gr_weights_content(const gr_weights *w)
{
    return w->over ? gr_ckpt_id(w->over) : gr_h5_content_of(w->f);
}

const char *gr_weights_config_json(const gr_weights *w)
{
    return w->config_json;
}

const char *gr_weights_tokenizer_json(const gr_weights *w)
{
    return w->tokenizer_json;
}

const char *gr_weights_pattern(const gr_weights *w)
{
    return w->pattern;
}

gr_status gr_weights_get(const gr_weights *w, const char *attribute, char **text)
{
    return gr_h5_get_str(w->f, NULL, attribute, text);
}

int64_t gr_weights_count(const gr_weights *w)
{
    return w->n;
}

const gr_tensor_info *gr_weights_info(const gr_weights *w, int64_t i)
{
    return &w->tensor[i];
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const gr_tensor_info *)a)->name, ((const gr_tensor_info *)b)->name);
}

int64_t gr_weights_find(const gr_weights *w, const char *name)
{
    const gr_tensor_info  key = {.name = name};
    const gr_tensor_info *t = bsearch(&key, w->tensor, (size_t)w->n, sizeof *w->tensor, by_name);

    return t ? t - w->tensor : -1;
}

gr_status gr_weights_read(gr_weights *w, int64_t i, int64_t first, int64_t count, float *data)
{
    gr_status             st = GR_OK;
    const gr_tensor_info *t = &w->tensor[i];

    if (w->over)
        GR_TRY(gr_weights_read_over(w, i, first, count, data, false));
    else
        GR_TRY(gr_h5_read_f32(w->f, t->name, first, count, data));
    GR_TRY(check_finite(w->path, t, GR_F32, first, count, data, GR_ERR_INPUT));
out:
    return st;
}

gr_status gr_weights_read_raw(gr_weights *w, int64_t i, int64_t first, int64_t count, void *data)
{
    gr_status             st = GR_OK;
    const gr_tensor_info *t = &w->tensor[i];

    if (w->over)
        GR_TRY(gr_weights_read_over(w, i, first, count, data, true));
    else
        GR_TRY(gr_h5_read(w->f, t->name, t->dtype, first, count, data));
    GR_TRY(check_finite(w->path, t, t->dtype, first, count, data, GR_ERR_INPUT));
out:
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Bytes of all tensors, and room for one piece of any of them. */
static gr_status measure(const gr_weights_plan *plan, int64_t *total, int64_t *piece)
{
    gr_status st = GR_OK;
    int64_t   sum = 0, most = 1;

    GR_CHECK(plan->n > 0, GR_ERR_ARG, "weights without tensors");
    for (int64_t i = 0; i < plan->n; i++) {
        const gr_tensor_info *t = &plan->tensor[i];
        int64_t               bytes = gr_dtype_size(t->dtype), row;

        GR_CHECK(is_weight_type(t->dtype), GR_ERR_ARG, "tensor \"%s\" is %s, weights are f32, bf16 or f16", t->name,
                 gr_dtype_name(t->dtype));
        GR_CHECK(t->rank >= 0 && t->rank <= GR_MAX_DIM, GR_ERR_ARG, "tensor \"%s\" has %d dimensions", t->name,
                 t->rank);
        for (int d = 0; d < t->rank; d++)
            GR_CHECK(t->dim[d] > 0 && !__builtin_mul_overflow(bytes, t->dim[d], &bytes), GR_ERR_ARG,
                     "tensor \"%s\": impossible shape", t->name);
        GR_CHECK(!__builtin_add_overflow(sum, bytes, &sum), GR_ERR_ARG, "tensor \"%s\": the sum of bytes overflows",
                 t->name);
        row = row_bytes(t);
        if (row <= PIECE_BYTES && bytes > PIECE_BYTES) bytes = PIECE_BYTES;
        if (row > PIECE_BYTES) bytes = row;
        if (bytes > most) most = bytes;
    }
    *total = sum;
    *piece = most;
out:
    return st;
}

static const char *text_of(const char *s)
{
    return s ? s : "";
}

/* Rank 0: everything but the data. */
static gr_status lay_out(gr_h5 **out, const char *path, const gr_weights_plan *plan)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    char      dir[GR_PATH_MAX];

    GR_CHECK(plan->config_json, GR_ERR_ARG, "%s: weights without config_json", path);
    GR_TRY(gr_dirname(dir, path));
    GR_TRY(gr_mkdirs(dir));
    GR_TRY(gr_h5_create(&f, path, KIND));
    for (int64_t i = 0; i < plan->n; i++) {
        const gr_tensor_info *t = &plan->tensor[i];
        GR_TRY(gr_h5_reserve(f, t->name, t->dtype, t->rank, t->dim));
    }
    GR_TRY(gr_h5_set_str(f, NULL, "config_json", plan->config_json));
    GR_TRY(gr_h5_set_str(f, NULL, "tokenizer_json", text_of(plan->tokenizer_json)));
    GR_TRY(gr_h5_set_str(f, NULL, "pattern", text_of(plan->pattern)));
    GR_TRY(gr_h5_set_str(f, NULL, "config", text_of(plan->by.config)));
    GR_TRY(gr_h5_set_str(f, NULL, "program", text_of(plan->by.program)));
    GR_TRY(gr_h5_set_str(f, NULL, "version", text_of(plan->by.version)));
    GR_TRY(gr_h5_set_str(f, NULL, "commit", text_of(plan->by.commit)));
    GR_TRY(gr_h5_set_str(f, NULL, "created", text_of(plan->by.created)));
    GR_TRY(gr_h5_set_str(f, NULL, "inputs", text_of(plan->by.inputs_json)));
    *out = f;
    f = NULL;
out:
    gr_h5_close(&f);
    return st;
}

/* ---- the content, as defined in weights.h: a sum of hashes, in whatever order, by whatever rank -------- */

static uint64_t seed_of(const gr_tensor_info *t)
{
    return XXH3_64bits(t->name, strlen(t->name));
}

static uint64_t hash_text(uint64_t sum, const char *s)
{
    return XXH3_64bits_withSeed(text_of(s), strlen(text_of(s)), sum);
}

static uint64_t hash_rows(const gr_tensor_info *t, int64_t first, int64_t count, const void *data)
{
    const int64_t row = row_bytes(t);
    uint64_t      sum = 0;

    for (int64_t r = 0; r < count; r++)
        sum += XXH3_64bits_withSeed((const char *)data + r * row, (size_t)row, seed_of(t) + (uint64_t)(first + r));
    return sum;
}

/* All but the rows. */
static uint64_t hash_plan(const gr_weights_plan *plan)
{
    uint64_t sum = hash_text(hash_text(hash_text(0, plan->config_json), plan->tokenizer_json), plan->pattern);

    for (int64_t i = 0; i < plan->n; i++) {
        const gr_tensor_info *t = &plan->tensor[i];
        int64_t               shape[2 + GR_MAX_DIM] = {(int64_t)t->dtype, t->rank};

        for (int d = 0; d < t->rank; d++) shape[2 + d] = t->dim[d];
        sum += XXH3_64bits_withSeed(shape, sizeof shape, ~seed_of(t));
    }
    return sum;
}

/* [collective] From the sums of all ranks' rows. */
static gr_status content_of(const gr_comm *c, const gr_weights_plan *plan, uint64_t mine, char content[17])
{
    gr_status st = GR_OK;
    uint64_t *sum = NULL, all = hash_plan(plan);

    GR_TRY(gr_agree(c, gr_alloc(&sum, (uint64_t)gr_comm_size(c), sizeof *sum, "content of the ranks")));
    gr_allgather(c, &mine, sizeof mine, sum);
    for (int r = 0; r < gr_comm_size(c); r++) all += sum[r];
    snprintf(content, 17, "%016" PRIx64, all);
    gr_bcast(c, content, 17, 0); /* rank 0 wrote the texts */
out:
    gr_free(&sum);
    return st;
}

/* ---- the data ------------------------------------------------------------------------------------------ */

/* Rows of a tensor whose first byte, counted through all tensors, lies in [lo, hi). `at` is the tensor's own first
 * byte. So every row belongs to exactly one rank, and a tensor may be split. */
static void rows_between(const gr_tensor_info *t, int64_t at, int64_t lo, int64_t hi, int64_t *first, int64_t *last)
{
    const int64_t row = row_bytes(t), rows = rows_of(t);

    *first = lo <= at ? 0 : (lo - at) / row + ((lo - at) % row > 0);
    *last = hi <= at ? 0 : (hi - at) / row + ((hi - at) % row > 0);
    if (*first > rows) *first = rows;
    if (*last > rows) *last = rows;
}

/* [local] This rank's share of the data; *hash is the sum over its rows. */
static gr_status write_share(const gr_comm *c, const char *tmp, const gr_h5_slot *slot, const gr_weights_plan *plan,
                             int64_t total, gr_tensor_source source, void *user, void *piece, uint64_t *hash)
{
    gr_status st = GR_OK;
    int64_t   lo, mine, at = 0, first, last, k;

    gr_share(total, gr_comm_rank(c), gr_comm_size(c), &lo, &mine);
    for (int64_t i = 0; i < plan->n; i++) {
        const gr_tensor_info *t = &plan->tensor[i];
        const int64_t         row = row_bytes(t), most = row < PIECE_BYTES ? PIECE_BYTES / row : 1;

        rows_between(t, at, lo, lo + mine, &first, &last);
        for (int64_t r = first; r < last; r += k) {
            k = last - r < most ? last - r : most;
            GR_TRY(source(user, i, r, k, piece));
            GR_TRY(check_finite(tmp, t, t->dtype, r, k, piece, GR_ERR_NUMERIC));
            GR_TRY(gr_h5_put(tmp, &slot[i], (uint64_t)(r * row), piece, (uint64_t)(k * row)));
            *hash += hash_rows(t, r, k, piece);
        }
        at += row * rows_of(t);
    }
out:
    return st;
}

gr_status gr_weights_write(const gr_comm *c, const char *path, const gr_weights_plan *plan, gr_tensor_source source,
                           void *user)
{
    gr_status   st = GR_OK;
    gr_h5      *f = NULL;
    gr_h5_slot *slot = NULL;
    void       *piece = NULL;
    char        tmp[GR_PATH_MAX], content[17];
    int64_t     total = 0, piece_bytes = 0;
    uint64_t    hash = 0;

    st = measure(plan, &total, &piece_bytes);
    if (st == GR_OK) st = gr_alloc(&slot, (uint64_t)plan->n, sizeof *slot, "slots of tensors");
    if (st == GR_OK) st = gr_alloc(&piece, (uint64_t)piece_bytes, 1, "piece of a tensor");
    if (st == GR_OK && gr_comm_rank(c) == 0) st = lay_out(&f, path, plan);
    GR_TRY(gr_agree(c, st));

    GR_TRY(gr_h5_share(c, &f, tmp, slot, plan->n));
    st = gr_fault(c, "weights");
    if (st == GR_OK) st = write_share(c, tmp, slot, plan, total, source, user, piece, &hash);
    st = gr_agree(c, st);
    if (st == GR_OK) st = content_of(c, plan, hash, content);
    if (st != GR_OK) {
        gr_h5_abandon_shared(c, tmp);
        goto out;
    }
    GR_TRY(gr_seal_publish(c, tmp, path, KIND, content)); /* as gr_h5_commit_shared, with the content */
out:
    gr_h5_close(&f);
    gr_free(&slot);
    gr_free(&piece);
    return st;
}
