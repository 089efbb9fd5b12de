#include "model/factory.h"
#include <string.h>

static const struct name {
    const char *ours, *theirs;
} names[] = {
    {"conv_width", "conv_size"},
    {"gdn_neg_eigval", "allow_neg_eigval"},
    {"gka_iterations", "num_iter"},
    {"gka_ridge", "ridge_strength"},
    {"gka_alpha", "use_alpha_connection"},
    {"gka_v_conv", "use_v_conv"},
    {"gka_output_gate", "use_gate"},
};

enum { N_SHARED = 1, N_NAMES = sizeof names / sizeof *names }; /* the first is every recurrent type's */

/* An option TYPE_... is that type's. */
static bool is_of(int i, const char *type)
{
    const size_t n = strlen(type);

    return i < N_SHARED || (!strncmp(names[i].ours, type, n) && names[i].ours[n] == '_');
}

gr_status gr_factory_config(const gr_cfg_mixer *o, const char *type, json_t **config)
{
    gr_status st = GR_OK;
    json_t   *options = NULL, *c = json_object();

    GR_TRY(gr_options_json(o, &options));
    for (int i = 0; i < N_NAMES; i++)
        if (is_of(i, type))
            GR_CHECK(!json_object_set(c, names[i].theirs, json_object_get(options, names[i].ours)), GR_ERR_NOMEM,
                     "options of %s", type);
    *config = c;
    c = NULL;
out:
    json_decref(options);
    json_decref(c);
    return st;
}

gr_status gr_factory_options(const json_t *config, const char *type, json_t *options)
{
    gr_status st = GR_OK;

    for (int i = 0; i < N_NAMES; i++) {
        json_t *v = json_object_get(config, names[i].theirs);
        if (v && is_of(i, type))
            GR_CHECK(!json_object_set(options, names[i].ours, v), GR_ERR_NOMEM, "options of %s", type);
    }
out:
    return st;
}
