/* Files that stand by themselves: weights and other sealed HDF5, JSON. */
#include "model/model.h"
#include "product/identity.h"
#include "store/finite.h"
#include "store/h5.h"
#include "store/json_seal.h"
#include "store/seal.h"
#include "util/mem.h"
#include "verify/room.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PIECE_BYTES = 4 << 20 /* read at once: stays in a cache */ };

/* ---- where it comes from -------------------------------------------------------------------------------- */

/* One entry: a path, and what was there then (product/identity.h). `how`: "made from". */
static void trace(gr_checker *k, const char *how, const char *path, const char *content, gr_text *t)
{
    gr_identity now;

    gr_text_add(t, "\n%s %s (content %s), which is ", how, path, content);
    if (gr_identify(&now, path) != GR_OK) {
        gr_text_add(t, "there, but damaged");
        *k->cause = 0; /* a remark, not an error */
    } else if (!*now.hex) {
        gr_text_add(t, "not there");
    } else if (strcmp(now.hex, content) != 0) {
        gr_text_add(t, "there, but different (content %s)", now.hex);
    } else {
        gr_text_add(t, "there and unchanged");
    }
}

gr_status gr_lineage(gr_checker *k, const json_t *inputs, const char *name, gr_text *t)
{
    gr_status   st = GR_OK;
    const char *key, *path, *content;
    json_t     *v;

    GR_CHECK(json_is_object(inputs), GR_ERR_INPUT, "%s: inputs: not a JSON object", name);
    json_object_foreach((json_t *)(uintptr_t)inputs, key, v)
    {
        path = json_string_value(json_object_get(v, "path"));
        content = json_string_value(json_object_get(v, "content"));
        if (path && content)
            trace(k, "made from", path, content, t);
        else
            gr_text_add(t, "\nmade from %zu files and patterns (%s)", json_array_size(json_object_get(v, "path")), key);
    }
    st = t->st;
out:
    return st;
}

/* ---- weights ---------------------------------------------------------------------------------------------- */

/* The tensors of the file are those that its config.json and pattern promise, in their shapes. */
static gr_status compare(const gr_weights *w, const gr_params *ps)
{
    gr_status   st = GR_OK;
    const char *path = gr_weights_path(w);

    for (int64_t i = 0; i < ps->n; i++) {
        const gr_param       *p = &ps->p[i];
        const int64_t         j = gr_weights_find(w, p->name);
        const gr_tensor_info *t;
        bool                  same;

        GR_CHECK(j >= 0, GR_ERR_INPUT, "%s: tensor \"%s\" is missing", path, p->name);
        t = gr_weights_info(w, j);
        same = t->rank == p->rank;
        for (int d = 0; d < p->rank; d++) same = same && t->dim[d] == p->dim[d];
        GR_CHECK(same, GR_ERR_INPUT,
                 "%s: tensor \"%s\" is [%" PRId64 ", %" PRId64 "] (rank %d), its config.json says [%" PRId64
                 ", %" PRId64 "] (rank %d)",
                 path, p->name, t->dim[0], t->dim[1], t->rank, p->dim[0], p->dim[1], p->rank);
    }
    for (int64_t j = 0; j < gr_weights_count(w); j++)
        GR_CHECK(gr_params_find(ps, gr_weights_info(w, j)->name) >= 0, GR_ERR_INPUT,
                 "%s: tensor \"%s\" is not part of this model", path, gr_weights_info(w, j)->name);
out:
    return st;
}

/* "2 attn, 2 gdn" */
static void add_mixers(gr_text *t, const gr_mixer *const *mixer, int n)
{
    const char *sep = "";

    for (int i = 0; i < n; i++) {
        int count = 0, before = 0;
        for (int j = 0; j < n; j++) count += mixer[j] == mixer[i];
        for (int j = 0; j < i; j++) before += mixer[j] == mixer[i];
        if (before) continue;
        gr_text_add(t, "%s%d %s", sep, count, mixer[i]->def->name);
        sep = ", ";
    }
}

static gr_status check_model(const gr_weights *w, gr_text *facts)
{
    gr_status        st = GR_OK;
    gr_model_spec    spec;
    gr_params       *ps = NULL;
    const gr_mixer **mixer = NULL;

    GR_TRY(gr_model_spec_parse(&spec, gr_weights_config_json(w), gr_weights_path(w)));
    GR_TRY(gr_alloc(&mixer, (uint64_t)spec.n_layer, sizeof(void *), "pattern"));
    GR_TRY(gr_pattern_parse(gr_weights_pattern(w), spec.n_layer, mixer));
    GR_TRY(gr_params_open(&ps, NULL));
    GR_TRY(gr_model_layout(ps, &spec, mixer, GR_WHOLE, NULL));
    GR_TRY(compare(w, ps));
    add_mixers(facts, mixer, spec.n_layer);
    gr_text_add(facts, ", %.3g M parameters", (double)gr_params_total(ps) * 1e-6);
    st = facts->st;
out:
    gr_params_close(&ps);
    gr_free(&mixer);
    return st;
}

/* [local] This rank's share of the rows of every tensor: no NaN, no Inf. */
static gr_status check_values(gr_weights *w, const gr_comm *c)
{
    gr_status st = GR_OK;
    void     *room = NULL;
    int64_t   most = PIECE_BYTES, first, count, n;

    for (int64_t i = 0; i < gr_weights_count(w); i++) {
        const gr_tensor_info *t = gr_weights_info(w, i);
        int64_t               row = gr_dtype_size(t->dtype);
        for (int d = 1; d < t->rank; d++) row *= t->dim[d];
        if (row > most) most = row;
    }
    GR_TRY(gr_alloc(&room, (uint64_t)most, 1, "piece of a tensor"));
    for (int64_t i = 0; i < gr_weights_count(w); i++) {
        const gr_tensor_info *t = gr_weights_info(w, i);
        int64_t               row = gr_dtype_size(t->dtype);
        for (int d = 1; d < t->rank; d++) row *= t->dim[d];
        gr_share(t->rank ? t->dim[0] : 1, gr_comm_rank(c), gr_comm_size(c), &first, &count);
        for (int64_t at = 0; at < count; at += n) {
            n = count - at < most / row ? count - at : most / row;
            GR_TRY(gr_weights_read_raw(w, i, first + at, n, room));
        }
    }
out:
    gr_free(&room);
    return st;
}

/* "; made by graft-align 0.1.0 (commit abc), 2026-...", then what it was made from. */
static gr_status add_provenance(gr_checker *k, const gr_weights *w, gr_text *facts)
{
    gr_status st = GR_OK;
    char     *program = NULL, *version = NULL, *commit = NULL, *created = NULL, *inputs = NULL;
    json_t   *tree = NULL;

    GR_TRY(gr_weights_get(w, "program", &program));
    GR_TRY(gr_weights_get(w, "version", &version));
    GR_TRY(gr_weights_get(w, "commit", &commit));
    GR_TRY(gr_weights_get(w, "created", &created));
    GR_TRY(gr_weights_get(w, "inputs", &inputs));
    gr_text_add(facts, "; content %s; made by graft-%s %s (commit %s), %s", gr_weights_content(w), program, version,
                commit, created);
    GR_TRY(gr_json_parse(inputs, strlen(inputs), gr_weights_path(w), &tree));
    GR_TRY(gr_lineage(k, tree, gr_weights_path(w), facts));
out:
    json_decref(tree);
    gr_free(&inputs);
    gr_free(&created);
    gr_free(&commit);
    gr_free(&version);
    gr_free(&program);
    return st;
}

/* [local] All but the values. */
static gr_status check_description(gr_checker *k, const gr_weights *w, gr_text *facts, char **config)
{
    gr_status st = GR_OK;

    GR_TRY(check_model(w, facts));
    GR_TRY(add_provenance(k, w, facts));
    GR_TRY(gr_weights_get(w, "config", config));
out:
    return st;
}

gr_status gr_check_weights(gr_checker *k, const char *path, char **config)
{
    gr_status   st = GR_OK;
    gr_weights *w = NULL;
    gr_text     facts = {0};

    *config = NULL;
    st = gr_weights_open(&w, k->c, path);
    if (st == GR_OK) st = gr_agree(k->c, gr_comm_rank(k->c) == 0 ? check_description(k, w, &facts, config) : GR_OK);
    if (st == GR_OK && k->deep) st = gr_agree(k->c, check_values(w, k->c));
    if (st != GR_OK) gr_free(config);
    st = gr_judge(k, st, "weights", path, facts.s ? facts.s : "");
    gr_weights_close(&w);
    gr_text_close(&facts);
    return st;
}

/* ---- other sealed files ------------------------------------------------------------------------------------- */

/* [local] Types and shapes of all datasets; numbers must be finite where `finite` says so. */
static gr_status check_datasets(gr_h5 *f, const char *path, bool finite, gr_text *facts)
{
    gr_status          st = GR_OK;
    const char *const *name;
    int64_t            n = 0, dim[GR_MAX_DIM], row, part, count;
    gr_dtype           dtype;
    int                rank;
    void              *room = NULL;

    GR_TRY(gr_h5_names(f, &name, &n));
    for (int64_t i = 0; i < n; i++) {
        GR_TRY(gr_h5_info(f, name[i], &dtype, &rank, dim));
        if (!finite || dim[0] == 0 || gr_dtype_size(dtype) > 4) continue;
        row = gr_dtype_size(dtype) * dim[1] * dim[2] * dim[3];
        if (row == 0) continue;
        part = row < PIECE_BYTES ? PIECE_BYTES / row : 1;
        if (part > dim[0]) part = dim[0];
        GR_TRY(gr_realloc(&room, (uint64_t)(part * row), 1, "part of a dataset"));
        for (int64_t at = 0; at < dim[0]; at += count) {
            count = dim[0] - at < part ? dim[0] - at : part;
            GR_TRY(gr_h5_read(f, name[i], dtype, at, count, room));
            GR_CHECK(gr_first_not_finite(dtype, room, count * row / gr_dtype_size(dtype)) < 0, GR_ERR_INPUT,
                     "%s: dataset \"%s\": NaN or Inf", path, name[i]);
        }
    }
    gr_text_add(facts, "%" PRId64 " datasets; seal %s", n, gr_h5_seal_of(f));
    st = facts->st;
out:
    gr_free(&room);
    return st;
}

gr_status gr_check_h5(gr_checker *k, const char *path)
{
    gr_status st = GR_OK;
    gr_h5    *f = NULL;
    gr_seal   seal = {.kind = "hdf5"};
    gr_text   facts = {0};
    char     *config = NULL;
    int64_t   weights = 0;

    if (gr_comm_rank(k->c) == 0) {
        st = gr_seal_read(path, NULL, &seal);
        weights = st == GR_OK && !strcmp(seal.kind, "weights");
    }
    st = gr_agree(k->c, st);
    gr_max_i64(k->c, &weights, 1);
    if (weights) {
        st = gr_check_weights(k, path, &config);
        gr_free(&config);
        return st;
    }
    if (st == GR_OK) st = gr_h5_open_all(k->c, &f, path, NULL);
    if (st == GR_OK)
        st = gr_agree(k->c, gr_comm_rank(k->c)
                                ? GR_OK
                                : check_datasets(f, path, k->deep && !strcmp(seal.kind, "raw-logits"), &facts));
    st = gr_judge(k, st, seal.kind, path, facts.s ? facts.s : "");
    gr_h5_close(&f);
    gr_text_close(&facts);
    return st;
}

/* ---- JSON --------------------------------------------------------------------------------------------------- */

gr_status gr_check_json(gr_checker *k, const char *path, const char *kind, bool sealed)
{
    gr_status   st = GR_OK;
    char       *text = NULL;
    uint64_t    n = 0;
    json_t     *tree = NULL;
    gr_text     facts = {0};
    const char *weights = NULL, *content = NULL;

    st = gr_read_file(path, GR_JSON_SEAL_LIMIT, &text, &n);
    if (st == GR_OK) st = sealed ? gr_json_unseal(text, n, path, &tree) : gr_json_parse(text, n, path, &tree);
    if (st == GR_OK) {
        if (!sealed) gr_text_add(&facts, "has no checksum");
        weights = json_string_value(json_object_get(tree, "weights"));
        content = json_string_value(json_object_get(tree, "content"));
        if (weights && content) trace(k, "of", weights, content, &facts);
    }
    st = gr_judge(k, st, kind, path, facts.s ? facts.s : "");
    gr_text_close(&facts);
    json_decref(tree);
    gr_free(&text);
    return st;
}
