/* The record that a stage writes last (product/product.h), against what it says was made. [rank 0] */
#include "config/config.h"
#include "product/identity.h"
#include "store/json_seal.h"
#include "util/mem.h"
#include "verify/room.h"
#include <stdio.h>
#include <string.h>

/* What the program made: FILE.h5 beside FILE.h5.json, or something in the directory of graft.json, or all of it. */
static gr_status product_of(char product[GR_PATH_MAX], const char *path, const char *program, const gr_config *cfg)
{
    gr_status   st = GR_OK;
    const char *name = "weights.h5", *slash = strrchr(path, '/');
    char        dir[GR_PATH_MAX];

    GR_TRY(gr_dirname(dir, path));
    if (strcmp(slash ? slash + 1 : path, "graft.json") != 0)
        return gr_path(product, "%.*s", (int)strlen(path) - 5, path);
    if (!strcmp(program, "export")) return gr_path(product, "%s", dir);
    if (!strcmp(program, "tokenize") || !strcmp(program, "teacher")) name = "index.json";
    if (!strcmp(program, "evaluate")) name = *cfg->evaluate.ids ? "logits.h5" : "results.json";
    GR_TRY(gr_path(product, "%s/%s", dir, name));
out:
    return st;
}

/* Of a product that is damaged, its own check says so. */
static gr_status check_product(gr_checker *k, const char *product, const char *program, const char *content)
{
    gr_status   st = GR_OK;
    gr_identity is;

    if (gr_identify(&is, product) != GR_OK)
        *k->cause = 0;
    else if (!*is.hex)
        st = gr_find(k, GR_MISSING, "product", product, "graft-%s made this, content %s", program, content);
    else if (strcmp(is.hex, content) != 0)
        st = gr_find(k, GR_DAMAGED, "product", product, "content %s, but graft-%s made %s: changed since, or exchanged",
                     is.hex, program, content);
    return st;
}

typedef struct record {
    json_t     *tree;
    const char *program, *version, *created, *content;
    gr_config  *cfg;
    char        product[GR_PATH_MAX];
} record;

static gr_status read_record(record *r, const char *path)
{
    gr_status   st = GR_OK;
    char       *text = NULL;
    const char *config;
    uint64_t    n = 0;
    int64_t     format;

    GR_TRY(gr_read_file(path, GR_JSON_SEAL_LIMIT, &text, &n));
    GR_TRY(gr_json_unseal(text, n, path, &r->tree));
    GR_TRY(gr_json_get_int(r->tree, path, "format", 1, 1, &format));
    GR_TRY(gr_json_get_str(r->tree, path, "program", &r->program));
    GR_TRY(gr_json_get_str(r->tree, path, "version", &r->version));
    GR_TRY(gr_json_get_str(r->tree, path, "created", &r->created));
    GR_TRY(gr_json_get_str(r->tree, path, "content", &r->content));
    GR_TRY(gr_json_get_str(r->tree, path, "config", &config));
    GR_CHECK(gr_program_find(r->program), GR_ERR_INPUT, "%s: there is no graft-%.40s", path, r->program);
    GR_TRY(gr_config_from_text(&r->cfg, r->program, path, config, strlen(config)));
    GR_TRY(product_of(r->product, path, r->program, r->cfg));
out:
    gr_free(&text);
    return st;
}

gr_status gr_check_record(gr_checker *k, const char *path)
{
    gr_status st = GR_OK;
    gr_text   facts = {0};
    record    r = {0};
    bool      sound;

    st = read_record(&r, path);
    if (st == GR_OK) {
        gr_text_add(&facts, "of graft-%s %s, %s; content %s", r.program, r.version, r.created, r.content);
        st = gr_lineage(k, json_object_get(r.tree, "inputs"), path, &facts);
    }
    sound = st == GR_OK;
    GR_TRY(gr_judge(k, st, "record", path, facts.s ? facts.s : ""));
    if (sound) GR_TRY(check_product(k, r.product, r.program, r.content));
out:
    gr_config_close(&r.cfg);
    json_decref(r.tree);
    gr_text_close(&facts);
    return st;
}
