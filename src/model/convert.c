#include "config/options.h"
#include "model/import.h"
#include "model/model.h"
#include "util/mem.h"
#include <stdio.h>
#include <string.h>

typedef struct converter {
    const gr_cfg_convert *cfg;
    gr_weights           *from;
    const gr_params      *ps; /* of the hybrid                                                */
    gr_layout             at;
    gr_mixer_spec         spec;
    gr_init_law           law;
    gr_tensor_info       *info;
    int64_t              *source; /* [ps->n] place in `from`, or -1: a new mixer's                */
    int                   built;  /* block whose mixer is in w, or -1                             */
    float                *w[GR_MIXER_PARAMS];
} converter;

static int64_t elements(const gr_param_spec *p)
{
    int64_t n = 1;

    for (int d = 0; d < p->rank; d++) n *= p->dim[d];
    return n;
}

/* The attention that block i had, as fp32 in host memory, in the order of its params(). */
static gr_status read_attention(converter *cv, int block, float **attn)
{
    gr_status           st = GR_OK;
    const gr_mixer_def *def = gr_mixer_attention()->def;
    gr_param_spec       p[GR_MIXER_PARAMS];
    const int           n = def->params(&cv->spec, p);
    char                name[GR_NAME_MAX];

    for (int j = 0; j < n; j++) {
        const int length = snprintf(name, sizeof name, "model.layers.%d.%s.%s", block, def->prefix, p[j].name);
        GR_CHECK(length < (int)sizeof name, GR_ERR_ARG, "parameter name %s is too long", p[j].name);
        const int64_t i = gr_weights_find(cv->from, name);
        GR_CHECK(i >= 0, GR_ERR_INPUT, "%s: tensor %s is missing", gr_weights_path(cv->from), name);
        GR_TRY(gr_alloc(&attn[j], (uint64_t)elements(&p[j]), sizeof(float), name));
        GR_TRY(gr_weights_read(cv->from, i, 0, p[j].dim[0], attn[j]));
    }
out:
    return st;
}

static void drop(float **w)
{
    for (int j = 0; j < GR_MIXER_PARAMS; j++) gr_free(&w[j]);
}

/* All parameters of block i's new mixer: as its gr_init says, then as its attention says. */
static gr_status build(converter *cv, int block)
{
    gr_status       st = GR_OK;
    const gr_block *b = &cv->at.block[block];
    gr_param_spec   p[GR_MIXER_PARAMS];
    const int       n = b->mixer->def->params(&cv->spec, p);
    float          *attn[GR_MIXER_PARAMS] = {NULL};

    drop(cv->w);
    cv->built = -1;
    for (int j = 0; j < n; j++) {
        if (p[j].init == GR_INIT_DELTA && !strcmp(cv->cfg->conv_init, "normal")) p[j].init = GR_INIT_NORMAL;
        GR_TRY(gr_alloc(&cv->w[j], (uint64_t)elements(&p[j]), sizeof(float), "new mixer"));
        gr_init_fill(cv->w[j], &p[j], cv->ps->p[b->mixer_first + j].name, (uint64_t)cv->cfg->seed, &cv->law);
    }
    if (!strcmp(cv->cfg->init, "attention")) {
        GR_TRY(read_attention(cv, block, attn));
        b->mixer->def->from_attention(&cv->spec, cv->w, (const float *const *)attn);
    }
    cv->built = block;
out:
    drop(attn);
    return st;
}

static gr_status give(void *user, int64_t i, int64_t first, int64_t count, void *data)
{
    gr_status  st = GR_OK;
    converter *cv = user;
    const int  block = cv->ps->p[i].block;
    int64_t    row = 1;

    if (cv->source[i] >= 0) return gr_weights_read_raw(cv->from, cv->source[i], first, count, data);
    if (cv->built != block) GR_TRY(build(cv, block));
    for (int d = 1; d < cv->ps->p[i].rank; d++) row *= cv->ps->p[i].dim[d];
    memcpy(data, cv->w[i - cv->at.block[block].mixer_first] + first * row, (size_t)(count * row) * sizeof(float));
out:
    return st;
}

/* Copied tensors keep their type; those of new mixers are fp32. */
static gr_status plan_tensors(converter *cv)
{
    gr_status st = GR_OK;

    GR_TRY(gr_alloc(&cv->info, (uint64_t)cv->ps->n, sizeof *cv->info, "tensor list"));
    GR_TRY(gr_alloc(&cv->source, (uint64_t)cv->ps->n, sizeof *cv->source, "tensor list"));
    for (int64_t i = 0; i < cv->ps->n; i++) {
        const gr_param *p = &cv->ps->p[i];
        const gr_block *b = p->block >= 0 ? &cv->at.block[p->block] : NULL;
        const bool      fresh =
            b && b->mixer != gr_mixer_attention() && i >= b->mixer_first && i < b->mixer_first + b->n_mixer;

        cv->info[i] = (gr_tensor_info){.name = p->name, .dtype = GR_F32, .rank = p->rank, .dim = {1, 1, 1, 1}};
        for (int d = 0; d < p->rank; d++) cv->info[i].dim[d] = p->dim[d];
        cv->source[i] = fresh ? -1 : gr_weights_find(cv->from, p->name);
        GR_CHECK0(fresh || cv->source[i] >= 0, GR_ERR_INPUT, "%s: tensor %s is missing", gr_weights_path(cv->from),
                  p->name);
        if (!fresh) cv->info[i].dtype = gr_weights_info(cv->from, cv->source[i])->dtype;
    }
out:
    return st;
}

/* An option of a type that no layer has was meant for something. */
static gr_status check_options(const gr_model_spec *spec, const gr_mixer *const *mixer, const char *pattern)
{
    gr_status           st = GR_OK;
    const gr_cfg_mixer *options = &spec->mixer;
    const gr_mixer_def *inner = gr_mixer_spec_of(spec).bmojo_inner;

    for (const gr_mixer *m = gr_mixers; m < gr_mixers + gr_n_mixers; m++) {
        const char *given = gr_options_given(options, m->def->name);
        int         i = 0;

        while (i < spec->n_layer && mixer[i] != m && !(mixer[i]->def->contains && inner == m->def)) i++;
        GR_CHECK0(!given || i < spec->n_layer, GR_ERR_CONFIG, "mixer.%s is given, but no layer is %s (pattern %s)",
                  given, m->def->name, pattern);
    }
    GR_CHECK0(options->a_min <= options->a_max, GR_ERR_CONFIG, "mixer.a_min = %g is larger than mixer.a_max = %g",
              options->a_min, options->a_max);
    GR_CHECK0(options->dt_min <= options->dt_max, GR_ERR_CONFIG, "mixer.dt_min = %g is larger than mixer.dt_max = %g",
              options->dt_min, options->dt_max);
out:
    return st;
}

gr_status gr_convert(const gr_comm *c, const char *weights, const gr_cfg_convert *convert, const gr_cfg_mixer *options,
                     const char *out, const gr_provenance *by)
{
    gr_status        st = GR_OK;
    converter        cv = {.cfg = convert, .built = -1};
    gr_params       *ps = NULL;
    gr_model_spec    spec;
    gr_weights_plan  plan = {.by = *by};
    const gr_mixer **mixer = NULL;
    char            *config = NULL, *pattern = NULL, *selected = NULL;
    const char      *wanted = convert->pattern;
    int              n_new = 0;

    GR_CHECK0(!*convert->pattern != !*convert->selection, GR_ERR_CONFIG,
              "either convert.pattern or convert.selection must be given");
    if (*convert->selection) {
        GR_TRY(gr_pattern_select(c, convert->selection, &selected));
        wanted = selected;
    }
    GR_TRY(gr_weights_open(&cv.from, c, weights));
    GR_CHECK0(!strstr(gr_weights_config_json(cv.from), "\"graft\""), GR_ERR_INPUT,
              "%s is a hybrid already (pattern %s): convert starts from a Transformer", gr_weights_path(cv.from),
              gr_weights_pattern(cv.from));
    st = gr_model_spec_options(gr_weights_config_json(cv.from), options, &config);
    if (st == GR_OK) st = gr_model_spec_parse(&spec, config, gr_weights_path(cv.from));
    if (st == GR_OK) st = gr_alloc(&mixer, (uint64_t)spec.n_layer, sizeof(void *), "pattern");
    if (st == GR_OK) st = gr_pattern_parse(wanted, spec.n_layer, mixer);
    if (st == GR_OK) st = gr_pattern_text(mixer, spec.n_layer, &pattern);
    if (st == GR_OK) st = check_options(&spec, mixer, pattern);
    if (st == GR_OK) st = gr_params_open(&ps, NULL);
    if (st == GR_OK) st = gr_model_layout(ps, &spec, mixer, GR_WHOLE, &cv.at);
    cv.ps = ps;
    if (st == GR_OK) {
        cv.spec = gr_mixer_spec_of(&spec);
        cv.law = gr_init_law_of(&spec);
        st = plan_tensors(&cv);
    }
    GR_TRY(gr_agree(c, st));
    for (int i = 0; i < spec.n_layer; i++) n_new += mixer[i] != gr_mixer_attention();
    GR_CHECK0(n_new > 0, GR_ERR_CONFIG, "pattern '%s' replaces no layer", wanted);
    plan.tensor = cv.info;
    plan.n = ps->n;
    plan.config_json = config;
    plan.tokenizer_json = gr_weights_tokenizer_json(cv.from);
    plan.pattern = pattern;
    GR_TRY(gr_weights_write(c, out, &plan, give, &cv));
    gr_log0("wrote %s: %d of %d layers replaced (%s)", out, n_new, spec.n_layer, pattern);
out:
    drop(cv.w);
    gr_free(&cv.source);
    gr_free(&cv.info);
    gr_free(&cv.at.block);
    gr_params_close(&ps);
    gr_free(&pattern);
    gr_free(&selected);
    gr_free(&mixer);
    gr_free(&config);
    gr_weights_close(&cv.from);
    return st;
}
