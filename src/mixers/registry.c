#include "mixers/registry.h"
#include <stdio.h>
#include <string.h>

#define GR_MIXER(type)                                                                                                 \
    extern const gr_mixer_def  gr_##type##_def;                                                                        \
    extern const gr_mixer_core gr_##type##_cpu;
#include "mixers/mixers.def"
#undef GR_MIXER

#define GR_MIXER(type) {&gr_##type##_def, &gr_##type##_cpu},
const gr_mixer gr_mixers[] = {
#include "mixers/mixers.def"
};
#undef GR_MIXER

#define GR_MIXER(type) " " #type
static const char names[] =
#include "mixers/mixers.def"
    ;
#undef GR_MIXER

const int gr_n_mixers = (int)(sizeof gr_mixers / sizeof gr_mixers[0]);

const gr_mixer *gr_mixer_find(const char *name)
{
    for (int i = 0; i < gr_n_mixers; i++)
        if (!strcmp(gr_mixers[i].def->name, name)) return &gr_mixers[i];
    return NULL;
}

const gr_mixer *gr_mixer_find_symbol(const char *symbol)
{
    for (int i = 0; i < gr_n_mixers; i++)
        if (!strcmp(gr_mixers[i].def->symbol, symbol)) return &gr_mixers[i];
    return NULL;
}

const gr_mixer *gr_mixer_attention(void)
{
    return &gr_mixers[0];
}

const gr_mixer_core *gr_mixer_core_of(const gr_mixer *m, const gr_ops *ops)
{
    return ops == &gr_ops_cpu ? m->cpu : NULL;
}

const char *gr_mixer_names(void)
{
    return names + 1;
}
