/** @file weights_room.h  What weights.c (files) and weights_checkpoint.c (checkpoints as weights) share; nobody else
 * includes it. */
#ifndef GR_STORE_WEIGHTS_ROOM_H
#define GR_STORE_WEIGHTS_ROOM_H
#include "store/checkpoint.h"
#include "store/h5.h"
#include "store/weights.h"
#include "util/fs.h"

struct gr_weights {
    gr_h5          *f;      /* a file, or NULL: a checkpoint                       */
    gr_tensor_info *tensor; /* sorted by name; names belong to f, base or checkpoint */
    int64_t         n;
    char           *config_json, *tokenizer_json, *pattern;
    char            path[GR_PATH_MAX];
    gr_ckpt        *over; /* a checkpoint: its values lie over those of base     */
    gr_weights     *base; /* NULL: the checkpoint holds every parameter          */
};

/** [collective] Open, to be called with the depth of what refers to it. */
gr_status gr_weights_open_below(gr_weights **w, const gr_comm *c, const char *path, int depth);

/** [collective] Fill w from the checkpoint at w->path. */
gr_status gr_weights_open_over(gr_weights *w, const gr_comm *c, int depth);

/** [local] Rows of tensor i of a checkpoint: as stored, or as fp32. */
gr_status gr_weights_read_over(gr_weights *w, int64_t i, int64_t first, int64_t count, void *data, bool raw);

#endif
