/** @file options.h  Section `mixer` of the configuration as it travels with a model: member "graft" of its config.json.
 *
 * The section is the one list of options: a new one is a line in keys.def, a member of gr_mixer_spec (kernels/mixer.h)
 * that documents it, and a line in gr_mixer_spec_of (model/layout.c). An option TYPE_... is of that type of mixer
 * alone. [local]
 */
#ifndef GR_CONFIG_OPTIONS_H
#define GR_CONFIG_OPTIONS_H
#include "config/config.h"
#include "util/json.h"

GR_C_BEGIN

/** Every option at its default. Nothing in gr_cfg_mixer is owned by anybody: its strings are alternatives of GR_ENUM.
 */
gr_cfg_mixer gr_options_default(void);

/** {"conv_width": 4, ...}: all of them. */
gr_status gr_options_json(const gr_cfg_mixer *o, json_t **tree);

/** Types, ranges and alternatives are checked as in a configuration; an option that is not there has its default, an
 * unknown one is GR_ERR_INPUT. `name` (a path) leads the message. */
gr_status gr_options_parse(gr_cfg_mixer *o, const json_t *tree, const char *name);

/** An option of `type` alone that does not have its default ("gdn_neg_eigval"), or NULL. */
const char *gr_options_given(const gr_cfg_mixer *o, const char *type);

GR_C_END
#endif
