/* A HuggingFace directory: what graft-export wrote, or the source of an import. [rank 0] */
#include "model/import.h"
#include "model/model.h"
#include "util/mem.h"
#include "verify/room.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { CONFIG_BYTES = 1 << 20 };

static bool is_hybrid(const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));

    return type && !strncmp(type, "hybrid_", strlen("hybrid_"));
}

static json_t *type_config(const json_t *config, const gr_mixer_def *def)
{
    char member[40];

    snprintf(member, sizeof member, "%s_config", def->name);
    return json_object_get(config, member);
}

/* What export made of a type's options, undone. `o` is its TYPE_config. */
static void read_type_config(const gr_mixer_def *def, const json_t *o, json_t *options)
{
    for (const gr_foreign_option *f = def->foreign; f && f->ours; f++) {
        json_t *v = f->theirs ? json_object_get(o, f->theirs) : NULL;

        if (!v) continue;
        if (f->name[0])
            json_object_set_new(options, f->ours, json_string(f->name[json_is_true(v)]));
        else
            json_object_set(options, f->ours, v);
    }
}

/* "*-GDN-*-GDN" to mixers; *options becomes the "graft" member of the hybrid's own config.json. */
static gr_status read_pattern(const char *path, const json_t *config, const gr_mixer **mixer, int n_layer,
                              json_t **options)
{
    gr_status   st = GR_OK;
    const char *p = json_string_value(json_object_get(config, "hybrid_override_pattern"));
    char        symbol[32];

    GR_CHECK(p, GR_ERR_INPUT, "%s: no hybrid_override_pattern", path);
    for (int i = 0; i < n_layer; i++) {
        const size_t n = strcspn(p, "-");
        snprintf(symbol, sizeof symbol, "%.*s", n < sizeof symbol ? (int)n : 0, p);
        mixer[i] = gr_mixer_find_symbol(symbol);
        GR_CHECK(mixer[i], GR_ERR_INPUT, "%s: hybrid_override_pattern: layer %d is \"%s\"", path, i, symbol);
        p += n;
        p += *p == '-';
    }
    for (const gr_mixer *m = gr_mixers; m < gr_mixers + gr_n_mixers; m++) { /* some are only inside another */
        const json_t *o = type_config(config, m->def);
        if (o && !*options) *options = json_object();
        if (o) read_type_config(m->def, o, *options);
    }
    GR_CHECK(!*p, GR_ERR_INPUT, "%s: hybrid_override_pattern is longer than %d layers", path, n_layer);
out:
    return st;
}

/* What export made of the hybrid's config.json, undone: spec and mixers as of the weights file. */
static gr_status read_hybrid(const char *path, json_t *config, gr_model_spec *spec, const gr_mixer ***mixer)
{
    gr_status st = GR_OK;
    int64_t   n_layer = 0;
    json_t   *options = NULL, *plain = json_copy(config);
    char     *text = NULL, member[40];

    GR_TRY(gr_json_get_int(config, path, "num_hidden_layers", 1, 4096, &n_layer));
    GR_TRY(gr_alloc(mixer, (uint64_t)n_layer, sizeof(void *), "pattern"));
    GR_TRY(read_pattern(path, config, *mixer, (int)n_layer, &options));
    for (const gr_mixer *m = gr_mixers; m < gr_mixers + gr_n_mixers; m++) {
        snprintf(member, sizeof member, "%s_config", m->def->name);
        json_object_del(plain, member);
    }
    json_object_del(plain, "hybrid_override_pattern");
    json_object_set_new(plain, "model_type",
                        json_string(json_string_value(json_object_get(config, "model_type")) + strlen("hybrid_")));
    if (options) json_object_set(plain, "graft", options);
    GR_TRY(gr_json_dump(plain, 0, &text));
    GR_TRY(gr_model_spec_parse(spec, text, path));
out:
    gr_free(&text);
    json_decref(options);
    json_decref(plain);
    return st;
}

static gr_status read_transformer(const char *path, const char *text, gr_model_spec *spec, const gr_mixer ***mixer)
{
    gr_status st = GR_OK;

    GR_TRY(gr_model_spec_parse(spec, text, path));
    GR_TRY(gr_alloc(mixer, (uint64_t)spec->n_layer, sizeof(void *), "pattern"));
    for (int i = 0; i < spec->n_layer; i++) (*mixer)[i] = gr_mixer_attention();
out:
    return st;
}

/* Headers, names and shapes. A family that Graft does not know has no shapes to compare with. */
static gr_status check_tensors(const char *dir, const char *config_path, const char *text, json_t *config,
                               gr_text *facts)
{
    gr_status        st = GR_OK;
    gr_st           *tensors = NULL;
    gr_params       *ps = NULL;
    gr_model_spec    spec;
    const gr_mixer **mixer = NULL;

    GR_TRY(gr_st_dir_open(&tensors, dir));
    if (is_hybrid(config))
        GR_TRY(read_hybrid(config_path, config, &spec, &mixer));
    else
        GR_TRY(read_transformer(config_path, text, &spec, &mixer));
    GR_TRY(gr_params_open(&ps, NULL));
    GR_TRY(gr_model_layout(ps, &spec, mixer, GR_WHOLE, NULL));
    GR_TRY(gr_import_match(tensors, ps, &spec, dir));
    gr_text_add(facts, "%s, %" PRId64 " tensors, %.3g M parameters", is_hybrid(config) ? "hybrid" : spec.family,
                gr_st_count(tensors), (double)gr_params_total(ps) * 1e-6);
    st = facts->st;
out:
    gr_params_close(&ps);
    gr_free(&mixer);
    gr_st_close(&tensors);
    return st;
}

static gr_status see_files(gr_checker *k, gr_tasks *tasks, const char *dir, const char *mark)
{
    gr_status st = GR_OK;
    gr_text   facts = {0};
    bool      sound;
    char      file[GR_PATH_MAX];

    st = gr_store_open(k, GR_TASK_EXPORT, dir);
    if (st == GR_OK) st = gr_store_facts(k, &facts);
    sound = st == GR_OK;
    GR_TRY(gr_judge(k, st, "export", mark, facts.s ? facts.s : ""));
    for (int64_t i = 0; sound && i < gr_store_members(k); i++) {
        GR_TRY(gr_store_path(k, i, file));
        GR_TRY(gr_tasks_add(tasks, GR_TASK_EXPORT, i, dir, file));
    }
out:
    gr_text_close(&facts);
    return st;
}

gr_status gr_check_export(gr_checker *k, gr_tasks *tasks, const char *dir)
{
    gr_status st = GR_OK;
    char      path[GR_PATH_MAX], mark[GR_PATH_MAX], *text = NULL;
    uint64_t  n = 0;
    json_t   *config = NULL;
    gr_text   facts = {0};

    GR_TRY(gr_path(path, "%s/config.json", dir));
    GR_TRY(gr_path(mark, "%s/files.json", dir));
    st = gr_read_file(path, CONFIG_BYTES, &text, &n);
    if (st == GR_OK) st = gr_json_parse(text, n, path, &config);
    if (st == GR_OK) st = check_tensors(dir, path, text, config, &facts);
    if (gr_exists(mark) || is_hybrid(config)) {
        GR_TRY(gr_judge(k, st, "hf-model", dir, facts.s ? facts.s : ""));
        GR_TRY(see_files(k, tasks, dir, mark));
    } else if (st == GR_OK) {
        GR_TRY(gr_find(k, GR_REMARK, "hf-model", dir, "%s; no export of Graft's: headers and shapes were checked",
                       facts.s));
    } else { /* not ours, so not ours to judge */
        st = gr_find(k, GR_REMARK, "hf-model", dir, "no export of Graft's, nor one that graft-import reads");
        *k->cause = 0;
    }
out:
    gr_text_close(&facts);
    json_decref(config);
    gr_free(&text);
    return st;
}
