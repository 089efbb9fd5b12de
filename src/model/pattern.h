/** @file pattern.h  Which mixer each layer has.  [local]
 *
 *     attn,gdn,attn,gdn          one name per layer
 *     attn:12,gka:12,gdn:8       counts, in order
 *     (attn,gdn)                 a group, repeated until every layer has one
 *     uniform(attn:1,gdn:3)      shares, each spread evenly over the depth: a quarter attn, the rest gdn
 *     attn@3+7+12-15,gdn         chosen layers, counted from 0; one name for all others
 *
 * The canonical form, as stored in weights files, is one name per layer. A selection file is a JSON object with a
 * member "pattern", in any of these forms; what else it holds is its maker's.
 */
#ifndef GR_MODEL_PATTERN_H
#define GR_MODEL_PATTERN_H
#include "comm/comm.h"
#include "mixers/registry.h"

GR_C_BEGIN
/** mixer[n_layer] from text. GR_ERR_CONFIG says what is wrong and which mixers exist. */
gr_status gr_pattern_parse(const char *text, int n_layer, const gr_mixer **mixer);

/** [collective] The pattern of a selection file (counted memory). GR_ERR_INPUT. */
gr_status gr_pattern_select(const gr_comm *c, const char *path, char **text);

/** Canonical text (counted memory). */
gr_status gr_pattern_text(const gr_mixer *const *mixer, int n_layer, char **text);
GR_C_END
#endif
