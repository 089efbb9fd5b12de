#include "model/import.h"
#include "model/model.h"
#include "store/finite.h"
#include "store/safetensors.h"
#include "util/fs.h"
#include "util/mem.h"
#include <string.h>

/* Tensors of real checkpoints that hold no weight of ours: buffers, and the copy of a tied head. */
static bool expendable(const char *name, const gr_model_spec *spec)
{
    const char *dot = strrchr(name, '.');

    return (dot && !strcmp(dot, ".inv_freq")) || (spec->tied && !strcmp(name, "lm_head.weight"));
}

typedef struct importer {
    gr_st          *st;
    gr_tensor_info *info;
} importer;

static gr_status give(void *user, int64_t i, int64_t first, int64_t count, void *data)
{
    gr_status             st = GR_OK;
    const importer       *im = user;
    const gr_tensor_info *t = &im->info[i];
    int64_t               row = 1, bad;

    for (int d = 1; d < t->rank; d++) row *= t->dim[d];
    GR_TRY(gr_st_read(im->st, t->name, first, count, data));
    bad = gr_first_not_finite(t->dtype, data, count * row);
    GR_CHECK(bad < 0, GR_ERR_INPUT, "tensor %s: element %lld is NaN or infinite", t->name,
             (long long)(first * row + bad));
out:
    return st;
}

gr_status gr_import_match(const gr_st *from, const gr_params *ps, const gr_model_spec *spec, const char *dir)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < ps->n; i++) {
        const gr_param *p = &ps->p[i];
        gr_st_info      found;
        GR_CHECK0(gr_st_has(from, p->name), GR_ERR_INPUT, "%s: tensor %s is missing", dir, p->name);
        GR_TRY(gr_st_find(from, p->name, &found));
        bool same = found.rank == p->rank;
        for (int d = 0; d < p->rank; d++) same = same && found.dim[d] == p->dim[d];
        GR_CHECK0(same, GR_ERR_INPUT,
                  "%s: tensor %s has shape [%lld, %lld] (rank %d), config.json says [%lld, %lld] (rank %d)", found.file,
                  p->name, (long long)found.dim[0], (long long)found.dim[1], found.rank, (long long)p->dim[0],
                  (long long)(p->rank > 1 ? p->dim[1] : 1), p->rank);
    }
    for (int64_t i = 0; i < gr_st_count(from); i++) {
        const char *name = gr_st_name(from, i);
        GR_CHECK0(gr_params_find(ps, name) >= 0 || expendable(name, spec), GR_ERR_INPUT,
                  "%s: tensor %s is not part of this model: Graft would drop it", dir, name);
    }
out:
    return st;
}

/* The type of every tensor is the source's. */
static gr_status list_tensors(const importer *im, const gr_params *ps)
{
    gr_status st = GR_OK;

    for (int64_t i = 0; i < ps->n; i++) {
        const gr_param *p = &ps->p[i];
        gr_st_info      found;
        GR_TRY(gr_st_find(im->st, p->name, &found));
        im->info[i] = (gr_tensor_info){.name = p->name, .dtype = found.dtype, .rank = p->rank, .dim = {1, 1, 1, 1}};
        for (int d = 0; d < p->rank; d++) im->info[i].dim[d] = p->dim[d];
    }
out:
    return st;
}

gr_status gr_import(const gr_comm *c, const char *dir, const char *out, const gr_provenance *by)
{
    gr_status        st = GR_OK;
    importer         im = {NULL, NULL};
    gr_params       *ps = NULL;
    gr_model_spec    spec;
    gr_weights_plan  plan = {.by = *by};
    char             path[GR_PATH_MAX], *config = NULL, *tokenizer = NULL, *pattern = NULL;
    const gr_mixer **mixer = NULL;
    uint64_t         n = 0;

    /* Every rank reads and checks the headers: the same files, so the same outcome, except when one rank cannot read.
     */
    st = gr_path(path, "%s/config.json", dir);
    if (st == GR_OK) st = gr_read_file(path, 1 << 20, &config, &n);
    if (st == GR_OK) st = gr_model_spec_parse(&spec, config, path);
    if (st == GR_OK) st = gr_path(path, "%s/tokenizer.json", dir);
    if (st == GR_OK) st = gr_exists(path) ? gr_read_file(path, 64 << 20, &tokenizer, &n) : gr_strdup(&tokenizer, "");
    if (st == GR_OK) st = gr_st_dir_open(&im.st, dir);
    if (st == GR_OK) st = gr_alloc(&mixer, (uint64_t)spec.n_layer, sizeof(void *), "pattern");
    if (st == GR_OK) {
        for (int i = 0; i < spec.n_layer; i++) mixer[i] = gr_mixer_attention();
        st = gr_pattern_text(mixer, spec.n_layer, &pattern);
    }
    if (st == GR_OK) st = gr_params_open(&ps, NULL);
    if (st == GR_OK) st = gr_model_layout(ps, &spec, mixer, GR_WHOLE, NULL);
    if (st == GR_OK) st = gr_alloc(&im.info, (uint64_t)ps->n, sizeof *im.info, "tensor list");
    if (st == GR_OK) st = gr_import_match(im.st, ps, &spec, dir);
    if (st == GR_OK) st = list_tensors(&im, ps);
    GR_TRY(gr_agree(c, st));
    plan.tensor = im.info;
    plan.n = ps->n;
    plan.config_json = config;
    plan.tokenizer_json = tokenizer;
    plan.pattern = pattern;
    GR_TRY(gr_weights_write(c, out, &plan, give, &im));
    gr_log0("wrote %s: %.3f M parameters, %s", out, (double)gr_params_total(ps) * 1e-6, spec.family);
out:
    gr_free(&im.info);
    gr_params_close(&ps);
    gr_free(&pattern);
    gr_free(&mixer);
    gr_st_close(&im.st);
    gr_free(&tokenizer);
    gr_free(&config);
    return st;
}
