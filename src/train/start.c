#include "train/start.h"
#include "util/mem.h"

gr_status gr_start_model(gr_model **out, const gr_run *run)
{
    gr_status           st = GR_OK;
    const gr_cfg_start *start = &run->cfg->start;
    const int64_t       context = run->cfg->data.context;
    gr_model           *m = NULL;
    char               *config = NULL;

    GR_CHECK0(!*start->weights != !*start->config, GR_ERR_CONFIG,
              "give start.weights (a model to train on) or start.config (a new model): exactly one");
    if (*start->weights) {
        GR_CHECK0(!*start->tokenizer, GR_ERR_CONFIG, "start.tokenizer is for a new model; %s brings its own",
                  start->weights);
        GR_TRY(
            gr_model_open(&m, run->comm, run->ops, start->weights, GR_WHOLE, run->cfg->train.only, start->rope_theta));
    } else {
        GR_CHECK0(start->rope_theta == 0, GR_ERR_CONFIG, "start.rope_theta changes a trained model; write it into %s",
                  start->config);
        GR_TRY(gr_model_create(&m, run->comm, run->ops, start->config, start->tokenizer, run->cfg->train.only,
                               (uint64_t)run->cfg->train.seed));
    }
    GR_TRY(gr_model_iterate(m, &run->cfg->solver));
    if (start->rope_theta > 0 || context > m->spec.max_position) {
        const double  theta = start->rope_theta > 0 ? start->rope_theta : m->spec.rope_theta;
        const int64_t longest = context > m->spec.max_position ? context : m->spec.max_position;
        st = gr_model_spec_extend(m->config_json, theta, longest, &config);
        GR_TRY(gr_agree(run->comm, st));
        gr_free(&m->config_json);
        m->config_json = config;
        m->spec.rope_theta = theta;
        m->spec.max_position = longest;
        config = NULL;
    }
    *out = m;
    m = NULL;
out:
    gr_free(&config);
    gr_model_close(&m);
    return st;
}
