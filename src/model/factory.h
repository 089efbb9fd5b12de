/** @file factory.h  What hybrid-model-factory calls the options of mixers, in its config.json.  [local] */
#ifndef GR_MODEL_FACTORY_H
#define GR_MODEL_FACTORY_H
#include "config/options.h"

GR_C_BEGIN

/** The object TYPE_config: the options that mixers of `type` have, of those it knows. */
gr_status gr_factory_config(const gr_cfg_mixer *o, const char *type, json_t **config);

/** Back: what TYPE_config says, as members of `options` (gr_options_parse reads them). */
gr_status gr_factory_options(const json_t *config, const char *type, json_t *options);

GR_C_END
#endif
