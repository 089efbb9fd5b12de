/** @file checkpoint_room.h  What checkpoint.c (directory), checkpoint_write.c and checkpoint_shard.c (saving),
 * checkpoint_read.c (finding) and checkpoint_load.c (verifying, reading) share; nobody else includes it. */
#ifndef GR_STORE_CHECKPOINT_ROOM_H
#define GR_STORE_CHECKPOINT_ROOM_H
#include "store/checkpoint.h"
#include "store/manifest.h"
#include "store/seal.h"
#include "store/writer.h"
#include "util/fs.h"
#include "util/text.h"

#define GR_CKPT_KIND "checkpoint"

/** The save that is under way. While the writer runs, all but phase and keep is its own. */
typedef struct gr_ckpt_flight {
    gr_ckpt_phase  phase;
    bool           beside; /**< on a thread of its own */
    int            keep;
    int64_t        step, bytes;    /**< bytes: of this rank's pieces, and what surrounds them */
    int64_t        shard, n_shard; /**< this rank's, -1 when it owns nothing; of all          */
    gr_ckpt_piece *piece;          /**< [n] none empty; data is ours, or the caller's who waits */
    int64_t        n;
    char          *names, *meta;
    gr_seal        seal;    /**< of this rank's shard                 */
    gr_text        records; /**< gr_piece_record and name, for each piece */
    double         seconds; /**< of the writer                        */
    atomic_bool    cancel;
    char           shard_name[40], tmp[GR_PATH_MAX], path[GR_PATH_MAX];
} gr_ckpt_flight;

struct gr_ckpt_dir {
    const gr_comm *c;
    int            lock;        /* rank 0: descriptor that holds the lock; -1 elsewhere */
    char           attempt[64]; /* generation, pid, time: names what this run is writing */
    char           path[GR_PATH_MAX];
    gr_writer      writer;
    gr_ckpt_flight flight;
    char          *stage; /* copies of pieces, kept from one save to the next */
    uint64_t       stage_bytes;
    gr_ckpt_saved  saved;
};

/** DIR/step-00001200 */
gr_status gr_ckpt_step_path(char dst[GR_PATH_MAX], const char *dir, int64_t step);

/** [rank 0] The steps that are there, rising, whatever their state. Free the array. */
gr_status gr_ckpt_list(const char *dir, int64_t **step, int64_t *n);

/** [rank 0] Rename DIR/step-... to DIR/<prefix>step-...-<attempt>, which it is told in `to`. */
gr_status gr_ckpt_rename(const gr_ckpt_dir *d, int64_t step, const char *prefix, char to[GR_PATH_MAX]);

/** [rank 0] Remember, or forget, that a step was read back and found good. */
void gr_ckpt_mark(const gr_ckpt_dir *d, int64_t step, bool verified);

/** [rank 0] Every checkpoint with at least `keep` newer ones that were read back gives up its name; true: there are
 * some to delete. */
bool gr_ckpt_retain(const gr_ckpt_dir *d, int keep);

/** [writer] user: the directory, of which only the path is looked at. Delete what has given up its name. */
gr_status gr_ckpt_delete_job(void *user);

/** [rank 0] GR_ERR_IO when another attempt owns the directory by now. */
gr_status gr_ckpt_still_mine(const gr_ckpt_dir *d);

struct gr_ckpt {
    gr_manifest *m;
    char         path[GR_PATH_MAX];
};

/* ---- checkpoint_load.c ---- */

/** [collective] Verify every byte of every shard; copy the wanted rows that fit. GR_ERR_INPUT, GR_ERR_IO: damaged. */
gr_status gr_ckpt_load(const gr_ckpt *ck, const gr_comm *c, const gr_ckpt_piece *piece, int64_t n);

/* ---- checkpoint_shard.c ---- */

gr_status gr_ckpt_check_pieces(const gr_ckpt_piece *piece, int64_t n);

/** [local] Copy list, names and text into the flight: what the caller may free. */
gr_status gr_ckpt_take_list(gr_ckpt_flight *s, const gr_ckpt_piece *piece, int64_t n, const char *meta);

/** [local] Room for copies of all pieces, kept for the next save; then the copies, to which the flight's list points.
 */
gr_status gr_ckpt_make_stage(gr_ckpt_dir *d);
void      gr_ckpt_fill_stage(gr_ckpt_dir *d);

/** [writer] user: the flight. Write the shard; read the published one against its seal. */
gr_status gr_ckpt_write_job(void *user);
gr_status gr_ckpt_read_job(void *user);

void gr_ckpt_flight_clear(gr_ckpt_flight *s);

/** [local] Stop the writer and free the flight; false when it does not stop within seconds. */
bool gr_ckpt_flight_close(gr_ckpt_dir *d);

#endif
