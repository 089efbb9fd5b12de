/** @file registry.h  The mixers this build has, by name.  [local] */
#ifndef GR_MIXERS_REGISTRY_H
#define GR_MIXERS_REGISTRY_H
#include "kernels/mixer.h"

GR_C_BEGIN

typedef struct gr_mixer {
    const gr_mixer_def  *def;
    const gr_mixer_core *cpu;
} gr_mixer;

extern const gr_mixer gr_mixers[];
extern const int      gr_n_mixers;

/** Find a type by its name, or by its symbol in hybrid-model-factory's patterns; NULL when there is none. Not logged.
 */
const gr_mixer *gr_mixer_find(const char *name);
const gr_mixer *gr_mixer_find_symbol(const char *symbol);

/** What a Transformer has in every layer: the first line of mixers.def. */
const gr_mixer *gr_mixer_attention(void);

/** Its core on a backend, or NULL. */
const gr_mixer_core *gr_mixer_core_of(const gr_mixer *m, const gr_ops *ops);

/** "attn, gdn, ..." for messages. */
const char *gr_mixer_names(void);

GR_C_END
#endif
