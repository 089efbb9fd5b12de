/** @file pattern.h  Which mixer each layer has.  [local]
 *
 *     attn,gdn,attn,gdn        one name per layer
 *     attn:2,gdn:2             counts
 *     (attn,gdn)               a group, repeated until every layer has one
 *
 * The canonical form, as stored in weights files, is one name per layer.
 */
#ifndef GR_MODEL_PATTERN_H
#define GR_MODEL_PATTERN_H
#include "mixers/registry.h"

GR_C_BEGIN
/** mixer[n_layer] from text. GR_ERR_CONFIG says what is wrong and which mixers exist. */
gr_status gr_pattern_parse(const char *text, int n_layer, const gr_mixer **mixer);

/** Canonical text (counted memory). */
gr_status gr_pattern_text(const gr_mixer *const *mixer, int n_layer, char **text);
GR_C_END
#endif
