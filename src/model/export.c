#include "config/options.h"
#include "model/import.h"
#include "model/model.h"
#include "store/json_seal.h"
#include "store/safetensors.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/half.h"
#include "util/json.h"
#include "util/mem.h"
#include <stdio.h>
#include <string.h>

/* Tensors are moved in pieces of at most this many bytes of fp32. */
enum { PIECE = 64 << 20 };

/* ---- config.json: hybrid-model-factory's hybrid classes, or the Transformer's own ------------------- */

/* TYPE_config: what the mixer says hybrid-model-factory calls its options. */
static gr_status add_type_config(json_t *config, const gr_mixer_def *def, const json_t *options, const json_t *preset)
{
    gr_status st = GR_OK;
    json_t   *o = json_object();
    char      member[40];

    for (const gr_foreign_option *f = def->foreign; f && f->ours; f++) {
        json_t *v = json_object_get(options, f->ours);

        GR_CHECK0(f->theirs || json_equal(v, json_object_get(preset, f->ours)), GR_ERR_INPUT,
                  "mixer.%s is not its default, and hybrid-model-factory's %s knows no other", f->ours, def->symbol);
        if (!f->theirs) continue;
        if (f->name[0])
            json_object_set_new(o, f->theirs, json_boolean(!strcmp(json_string_value(v), f->name[1])));
        else
            json_object_set(o, f->theirs, v);
    }
    snprintf(member, sizeof member, "%s_config", def->name);
    json_object_set(config, member, o);
out:
    json_decref(o);
    return st;
}

static gr_status hybrid_config(json_t *o, const gr_model_spec *spec, const gr_mixer *const *mixer)
{
    gr_status          st = GR_OK;
    const gr_cfg_mixer normal = gr_options_default();
    json_t            *options = NULL, *preset = NULL;
    char               pattern[4096] = "", type[64], arch[64];
    size_t             at = 0;
    bool               any = false;

    GR_TRY(gr_options_json(&spec->mixer, &options));
    GR_TRY(gr_options_json(&normal, &preset));
    for (int i = 0; i < spec->n_layer; i++) {
        at += (size_t)snprintf(pattern + at, sizeof pattern - at, "%s%s", i ? "-" : "", mixer[i]->def->symbol);
        GR_CHECK0(at < sizeof pattern, GR_ERR_ARG, "pattern of %d layers is too long", spec->n_layer);
        if (mixer[i] == gr_mixer_attention()) continue;
        any = true;
        GR_TRY(add_type_config(o, mixer[i]->def, options, preset));
        if (mixer[i]->def->contains) GR_TRY(add_type_config(o, gr_mixer_spec_of(spec).bmojo_inner, options, preset));
    }
    json_object_del(o, "graft");
    if (!any) goto out;
    snprintf(type, sizeof type, "hybrid_%s", spec->family);
    snprintf(arch, sizeof arch, "Hybrid%c%sForCausalLM", spec->family[0] - 'a' + 'A', spec->family + 1);
    json_object_set_new(o, "model_type", json_string(type));
    json_object_set_new(o, "architectures", json_pack("[s]", arch));
    json_object_set_new(o, "hybrid_override_pattern", json_string(pattern));
    json_object_del(o, "layer_types");
out:
    json_decref(options);
    json_decref(preset);
    return st;
}

/* ---- tensors ------------------------------------------------------------------------------------------ */

typedef struct exporter {
    const gr_comm *c;
    gr_weights    *from;
    gr_dtype       dtype; /* of the output, when `convert`                       */
    bool           convert;
    int64_t        n;
    int           *file; /* [n] which file a tensor goes to                     */
    int            n_file;
    void          *piece; /* PIECE bytes                                         */
} exporter;

static gr_dtype dtype_of(const exporter *ex, int64_t i)
{
    return ex->convert ? ex->dtype : gr_weights_info(ex->from, i)->dtype;
}

static int64_t elements(const gr_tensor_info *t)
{
    int64_t n = 1;

    for (int d = 0; d < t->rank; d++) n *= t->dim[d];
    return n;
}

/* In file order, as many tensors per file as fit into `most` bytes; a larger one has a file of its own. */
static void deal(exporter *ex, int64_t most)
{
    int64_t used = 0;

    ex->n_file = 1;
    for (int64_t i = 0; i < ex->n; i++) {
        const int64_t bytes = elements(gr_weights_info(ex->from, i)) * gr_dtype_size(dtype_of(ex, i));
        if (used > 0 && used + bytes > most) {
            ex->n_file++;
            used = 0;
        }
        ex->file[i] = ex->n_file - 1;
        used += bytes;
    }
}

static void file_name(const exporter *ex, int file, char name[64])
{
    if (ex->n_file == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", file + 1, ex->n_file);
}

/* In place: the first half of the memory becomes the result. */
static void narrow(void *data, int64_t n)
{
    const float *f = data;
    uint16_t    *h = data;

    for (int64_t i = 0; i < n; i++) h[i] = gr_bf16_of_f32(f[i]);
}

static gr_status copy_tensor(exporter *ex, const gr_st_plan *plan, const char *tmp, int64_t i)
{
    gr_status             st = GR_OK;
    const gr_tensor_info *t = gr_weights_info(ex->from, i);
    const int64_t         row = elements(t) / t->dim[0], step = PIECE / (int64_t)sizeof(float) / row;
    const int64_t         size = gr_dtype_size(dtype_of(ex, i));

    for (int64_t first = 0; first < t->dim[0]; first += step) {
        const int64_t n = first + step < t->dim[0] ? step : t->dim[0] - first;
        if (!ex->convert) {
            GR_TRY(gr_weights_read_raw(ex->from, i, first, n, ex->piece));
        } else {
            GR_TRY(gr_weights_read(ex->from, i, first, n, ex->piece));
            if (ex->dtype == GR_BF16) narrow(ex->piece, n * row);
        }
        GR_TRY(gr_st_put(plan, tmp, t->name, (uint64_t)(first * row * size), ex->piece, (uint64_t)(n * row * size)));
    }
out:
    return st;
}

static gr_status write_file(exporter *ex, const char *dir, int file)
{
    gr_status   st = GR_OK;
    gr_st_spec *spec = NULL;
    gr_st_plan *plan = NULL;
    int64_t     n = 0;
    char        path[GR_PATH_MAX], tmp[GR_PATH_MAX] = "", name[64];

    file_name(ex, file, name);
    st = gr_path(path, "%s/%s", dir, name);
    if (st == GR_OK) st = gr_alloc(&spec, (uint64_t)ex->n, sizeof *spec, "tensor list");
    for (int64_t i = 0; st == GR_OK && i < ex->n; i++) {
        const gr_tensor_info *t = gr_weights_info(ex->from, i);
        if (ex->file[i] != file) continue;
        spec[n] = (gr_st_spec){.name = t->name, .dtype = dtype_of(ex, i), .rank = t->rank};
        memcpy(spec[n++].dim, t->dim, sizeof t->dim);
    }
    if (st == GR_OK) st = gr_st_plan_open(&plan, spec, n);
    GR_TRY(gr_agree(ex->c, st));
    GR_TRY(gr_st_start(ex->c, plan, path, tmp));
    for (int64_t i = 0, j = 0; st == GR_OK && i < ex->n; i++)
        if (ex->file[i] == file && j++ % gr_comm_size(ex->c) == gr_comm_rank(ex->c)) st = copy_tensor(ex, plan, tmp, i);
    st = gr_agree(ex->c, st);
    if (st != GR_OK) {
        gr_st_abandon(ex->c, tmp);
        goto out;
    }
    GR_TRY(gr_st_commit(ex->c, plan, tmp, path));
out:
    gr_st_plan_close(&plan);
    gr_free(&spec);
    return st;
}

/* ---- the small files, by rank 0 ------------------------------------------------------------------------- */

static gr_status write_json(const json_t *o, const char *dir, const char *name)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], *text = NULL;

    GR_TRY(gr_path(path, "%s/%s", dir, name));
    GR_TRY(gr_json_dump(o, 2, &text));
    GR_TRY(gr_write_file(path, text, strlen(text)));
out:
    gr_free(&text);
    return st;
}

static gr_status write_small(const exporter *ex, const char *dir, const gr_model_spec *spec,
                             const gr_mixer *const *mixer)
{
    gr_status   st = GR_OK;
    const char *tokenizer = gr_weights_tokenizer_json(ex->from), *config = gr_weights_config_json(ex->from);
    json_t     *o = NULL, *index = NULL, *map = json_object();
    int64_t     total = 0;
    char        path[GR_PATH_MAX], name[64];

    GR_TRY(gr_json_parse(config, strlen(config), "config_json", &o));
    GR_TRY(hybrid_config(o, spec, mixer));
    GR_TRY(write_json(o, dir, "config.json"));
    if (*tokenizer) {
        GR_TRY(gr_path(path, "%s/tokenizer.json", dir));
        GR_TRY(gr_write_file(path, tokenizer, strlen(tokenizer)));
    }
    for (int64_t i = 0; i < ex->n; i++) {
        file_name(ex, ex->file[i], name);
        json_object_set_new(map, gr_weights_info(ex->from, i)->name, json_string(name));
        total += elements(gr_weights_info(ex->from, i)) * gr_dtype_size(dtype_of(ex, i));
    }
    if (ex->n_file > 1) {
        index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
        GR_TRY(write_json(index, dir, "model.safetensors.index.json"));
    }
out:
    json_decref(map);
    json_decref(index);
    json_decref(o);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

enum { SMALL = 3 };

/* The names of all files that an export may have: first the small ones. */
static void any_name(const exporter *ex, int64_t i, char name[64])
{
    static const char *const small[SMALL] = {"config.json", "tokenizer.json", "model.safetensors.index.json"};

    if (i < SMALL)
        snprintf(name, 64, "%s", small[i]);
    else
        file_name(ex, (int)(i - SMALL), name);
}

/* The bytes and checksum of every file, each read by one rank, in files.json: safetensors has no checksum of its own,
 * and graft-verify wants one. */
static gr_status list_files(const exporter *ex, const char *dir)
{
    gr_status     st = GR_OK;
    const int64_t n = SMALL + ex->n_file;
    int64_t      *sum = NULL; /* [n, 2]: bytes, checksum */
    json_t       *files = json_object(), *tree = NULL;
    char          path[GR_PATH_MAX], name[64], hex[9];
    uint64_t      bytes;
    uint32_t      crc;

    st = gr_alloc(&sum, 2 * (uint64_t)n, sizeof *sum, "checksums of files");
    for (int64_t i = gr_comm_rank(ex->c); st == GR_OK && i < n; i += gr_comm_size(ex->c)) {
        any_name(ex, i, name);
        st = gr_path(path, "%s/%s", dir, name);
        if (st != GR_OK || !gr_exists(path)) continue;
        st = gr_crc32c_file(path, &bytes, &crc);
        sum[2 * i] = (int64_t)bytes;
        sum[2 * i + 1] = crc;
    }
    GR_TRY(gr_agree(ex->c, st));
    gr_sum_i64(ex->c, sum, 2 * n);
    for (int64_t i = 0; i < n; i++) {
        any_name(ex, i, name);
        snprintf(hex, sizeof hex, "%08x", (unsigned)sum[2 * i + 1]);
        if (sum[2 * i] > 0) /* no empty file is written: this one does not exist */
            json_object_set_new(files, name, json_pack("{s:I, s:s}", "bytes", (json_int_t)sum[2 * i], "crc32c", hex));
    }
    tree = json_pack("{s:i, s:O}", "format", 1, "files", files);
    st = gr_path(path, "%s/files.json", dir);
    if (st == GR_OK && gr_comm_rank(ex->c) == 0) st = gr_json_write(tree, path);
    GR_TRY(gr_agree(ex->c, st));
out:
    json_decref(tree);
    json_decref(files);
    gr_free(&sum);
    return st;
}

static gr_status prepare(exporter *ex, const gr_cfg_export *cfg, gr_model_spec *spec, const gr_mixer ***mixer)
{
    gr_status st = GR_OK;
    json_t   *o = NULL;

    ex->convert = strcmp(cfg->dtype, "as_stored") != 0;
    ex->dtype = strcmp(cfg->dtype, "bf16") ? GR_F32 : GR_BF16;
    ex->n = gr_weights_count(ex->from);
    GR_TRY(gr_alloc(&ex->file, (uint64_t)ex->n, sizeof *ex->file, "tensor list"));
    GR_TRY(gr_alloc(&ex->piece, PIECE, 1, "export piece"));
    deal(ex, cfg->shard_mib << 20);
    GR_TRY(gr_model_spec_parse(spec, gr_weights_config_json(ex->from), gr_weights_path(ex->from)));
    GR_TRY(gr_alloc(mixer, (uint64_t)spec->n_layer, sizeof(void *), "pattern"));
    GR_TRY(gr_pattern_parse(gr_weights_pattern(ex->from), spec->n_layer, *mixer));
    GR_TRY(
        gr_json_parse(gr_weights_config_json(ex->from), strlen(gr_weights_config_json(ex->from)), "config_json", &o));
    GR_TRY(hybrid_config(o, spec, *mixer)); /* only whether it can be: before anything is written */
out:
    json_decref(o);
    return st;
}

gr_status gr_export(const gr_comm *c, const char *weights, const gr_cfg_export *cfg, const char *dir)
{
    gr_status        st = GR_OK;
    exporter         ex = {.c = c};
    gr_model_spec    spec;
    const gr_mixer **mixer = NULL;

    GR_TRY(gr_weights_open(&ex.from, c, weights));
    GR_TRY(gr_agree(c, prepare(&ex, cfg, &spec, &mixer)));
    for (int f = 0; f < ex.n_file; f++) GR_TRY(write_file(&ex, dir, f));
    if (gr_comm_rank(c) == 0) st = write_small(&ex, dir, &spec, mixer);
    GR_TRY(gr_agree(c, st));
    GR_TRY(list_files(&ex, dir));
    gr_log0("wrote %lld tensors in %d file%s", (long long)ex.n, ex.n_file, ex.n_file == 1 ? "" : "s");
out:
    gr_free(&mixer);
    gr_free(&ex.piece);
    gr_free(&ex.file);
    gr_weights_close(&ex.from);
    return st;
}
