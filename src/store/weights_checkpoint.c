/* A checkpoint read as weights: what the run trained, over what it started from. */
#include "store/weights_room.h"
#include "util/crc32c.h"
#include "util/mem.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DEPTH = 8, TOKENIZER_LIMIT = 64 << 20 }; /* runs that started from a checkpoint of a run that started from ... */

static void crc_text(char dst[9], const char *text)
{
    snprintf(dst, 9, "%08" PRIx32, gr_crc32c(0, text, strlen(text)));
}

gr_status gr_weights_refer(const gr_weights_base *b, json_t **out)
{
    gr_status st = GR_OK;
    char      crc[9];
    json_t   *o;

    crc_text(crc, b->tokenizer_json);
    if (b->path)
        o = json_pack("{s:s, s:s, s:s, s:s}", "config_json", b->config_json, "pattern", b->pattern, "weights", b->path,
                      "content", b->content);
    else
        o = json_pack("{s:s, s:s, s:s, s:s}", "config_json", b->config_json, "pattern", b->pattern, "tokenizer",
                      b->tokenizer, "crc32c", crc);
    GR_CHECK(o, GR_ERR_NOMEM, "reference to weights");
    *out = o;
out:
    return st;
}

/* ---- opening ---------------------------------------------------------------------------------- */

/* [collective] The weights below, which must be the very ones. */
static gr_status open_base(gr_weights *w, const gr_comm *c, const json_t *model, int depth)
{
    gr_status   st = GR_OK;
    const char *path = NULL, *content = NULL;

    GR_TRY(gr_json_get_str(model, w->path, "weights", &path));
    GR_TRY(gr_json_get_str(model, w->path, "content", &content));
    GR_CHECK0(depth < DEPTH, GR_ERR_INPUT, "%s: the %dth checkpoint that refers to another", w->path, DEPTH + 1);
    st = gr_weights_open_below(&w->base, c, path, depth + 1);
    if (st != GR_OK) gr_log0("%s lies over the weights %s (content %s), which cannot be read", w->path, path, content);
    GR_TRY(st);
    GR_CHECK0(!strcmp(gr_weights_content(w->base), content), GR_ERR_INPUT,
              "%s lies over the weights %s: their content is %s, expected %s", w->path, path,
              gr_weights_content(w->base), content);
    GR_TRY(gr_agree(c, gr_strdup(&w->tokenizer_json, gr_weights_tokenizer_json(w->base))));
out:
    return st;
}

/* [local] There are no weights below; the tokenizer's file must be the very one. */
static gr_status read_tokenizer(gr_weights *w, const json_t *model)
{
    gr_status   st = GR_OK;
    const char *path = NULL, *expected = NULL;
    char        found[9];
    uint64_t    n = 0;

    GR_TRY(gr_json_get_str(model, w->path, "tokenizer", &path));
    GR_TRY(gr_json_get_str(model, w->path, "crc32c", &expected));
    if (*path)
        GR_TRY(gr_read_file(path, TOKENIZER_LIMIT, &w->tokenizer_json, &n));
    else
        GR_TRY(gr_strdup(&w->tokenizer_json, ""));
    crc_text(found, w->tokenizer_json);
    GR_CHECK(!strcmp(found, expected), GR_ERR_INPUT,
             "%s was made with the tokenizer %s: its checksum is %s, expected %s", w->path, path, found, expected);
out:
    return st;
}

/* The parameter that tensor i of the checkpoint is; NULL: it is something else, a moment. */
static const char *parameter(const gr_ckpt_piece *p)
{
    const size_t n = sizeof GR_VALUE_PREFIX - 1;

    return strncmp(p->name, GR_VALUE_PREFIX, n) ? NULL : p->name + n;
}

static gr_tensor_info info_of(const gr_ckpt_piece *p)
{
    gr_tensor_info info = {.name = parameter(p), .dtype = p->dtype, .rank = p->rank};

    memcpy(info.dim, p->dim, sizeof info.dim);
    return info;
}

/* A value must be a parameter of the weights below, of the same shape. */
static gr_status lay_over(gr_weights *w, const gr_ckpt_piece *p)
{
    gr_status      st = GR_OK;
    const int64_t  i = gr_weights_find(w, parameter(p));
    gr_tensor_info info = info_of(p);

    GR_CHECK0(i >= 0 && w->tensor[i].rank == info.rank && !memcmp(w->tensor[i].dim, info.dim, sizeof info.dim),
              GR_ERR_INPUT, "%s: \"%s\" is not in %s, or has another shape there", w->path, info.name,
              gr_weights_path(w->base));
    info.name = w->tensor[i].name;
    w->tensor[i] = info;
out:
    return st;
}

/* [local] What there is: the tensors below with the checkpoint's over them, or the checkpoint's alone. */
static gr_status list_tensors(gr_weights *w)
{
    gr_status     st = GR_OK;
    const int64_t n = gr_ckpt_count(w->over), below = w->base ? gr_weights_count(w->base) : 0;

    GR_TRY(gr_alloc(&w->tensor, (uint64_t)(n > below ? n : below), sizeof *w->tensor, "list of tensors"));
    for (w->n = 0; w->n < below; w->n++) w->tensor[w->n] = *gr_weights_info(w->base, w->n);
    for (int64_t i = 0; i < n; i++) {
        const gr_ckpt_piece p = gr_ckpt_tensor(w->over, i);

        if (!parameter(&p)) continue;
        GR_CHECK0(p.dtype == GR_F32, GR_ERR_INPUT, "%s: tensor \"%s\" is not f32", w->path, p.name);
        if (w->base)
            GR_TRY(lay_over(w, &p));
        else
            w->tensor[w->n++] = info_of(&p);
    }
    GR_CHECK0(w->n > 0, GR_ERR_INPUT, "%s: no tensors", w->path);
out:
    return st;
}

/* [local] */
static gr_status copy_text(gr_weights *w, const json_t *model)
{
    gr_status   st = GR_OK;
    const char *config = NULL, *pattern = NULL;

    GR_TRY(gr_json_get_str(model, w->path, "config_json", &config));
    GR_TRY(gr_json_get_str(model, w->path, "pattern", &pattern));
    GR_TRY(gr_strdup(&w->config_json, config));
    GR_TRY(gr_strdup(&w->pattern, pattern));
out:
    return st;
}

gr_status gr_weights_open_over(gr_weights *w, const gr_comm *c, int depth)
{
    gr_status     st = GR_OK;
    json_t       *meta = NULL;
    const json_t *model = NULL;

    GR_TRY(gr_ckpt_open_at(&w->over, c, w->path));
    snprintf(w->path, sizeof w->path, "%s", gr_ckpt_path(w->over));
    st = gr_json_parse(gr_ckpt_meta(w->over), strlen(gr_ckpt_meta(w->over)), w->path, &meta);
    GR_TRY(gr_agree(c, st));
    model = json_object_get(meta, "model");
    GR_CHECK0(json_is_object(model), GR_ERR_INPUT, "%s: does not say which weights it belongs to", w->path);
    GR_TRY(gr_agree(c, copy_text(w, model)));
    if (json_object_get(model, "weights")) {
        GR_TRY(open_base(w, c, model, depth));
    } else if (gr_comm_rank(c) == 0) {
        st = read_tokenizer(w, model); /* first on rank 0: what is wrong is said once */
    }
    GR_TRY(gr_agree(c, st));
    if (!w->tokenizer_json) st = read_tokenizer(w, model);
    if (st == GR_OK) st = list_tensors(w);
    GR_TRY(gr_agree(c, st));
out:
    json_decref(meta);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------------ */

gr_status gr_weights_read_over(gr_weights *w, int64_t i, int64_t first, int64_t count, void *data, bool raw)
{
    gr_status     st = GR_OK;
    gr_ckpt_piece p = {.dtype = w->tensor[i].dtype, .rank = w->tensor[i].rank, .first = first, .count = count};
    char          name[256];

    snprintf(name, sizeof name, "%s%s", GR_VALUE_PREFIX, w->tensor[i].name);
    p.name = name;
    p.data = data;
    memcpy(p.dim, w->tensor[i].dim, sizeof p.dim);
    if (!w->base || gr_ckpt_has(w->over, name)) {
        GR_TRY(gr_ckpt_read(w->over, &p));
        goto out;
    }
    i = gr_weights_find(w->base, w->tensor[i].name);
    GR_TRY(raw ? gr_weights_read_raw(w->base, i, first, count, data) : gr_weights_read(w->base, i, first, count, data));
out:
    return st;
}
