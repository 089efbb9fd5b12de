/** @file checkpoint_room.h  What checkpoint.c (directory, saving) and checkpoint_read.c share; nobody else includes it.
 */
#ifndef GR_STORE_CHECKPOINT_ROOM_H
#define GR_STORE_CHECKPOINT_ROOM_H
#include "store/checkpoint.h"
#include "util/fs.h"

#define GR_CKPT_KIND "checkpoint"

struct gr_ckpt_dir {
    const gr_comm *c;
    int            lock;        /* rank 0: descriptor that holds the lock; -1 elsewhere */
    char           attempt[64]; /* generation, pid, time: names what this run is writing */
    char           path[GR_PATH_MAX];
};

/** DIR/step-00001200 */
gr_status gr_ckpt_step_path(char dst[GR_PATH_MAX], const gr_ckpt_dir *d, int64_t step);

/** [rank 0] The steps that are there, rising, whatever their state. Free the array. */
gr_status gr_ckpt_list(const gr_ckpt_dir *d, int64_t **step, int64_t *n);

/** [rank 0] Rename DIR/step-... to DIR/<prefix>step-...-<attempt>, which it is told in `to`. */
gr_status gr_ckpt_rename(const gr_ckpt_dir *d, int64_t step, const char *prefix, char to[GR_PATH_MAX]);

#endif
