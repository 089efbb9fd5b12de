/** @file beat.h  Signs of life: what the process is doing, and whether it still moves.  [local]
 *
 * Code that may take long says so: gr_beat("broadcast") on the way in, gr_beat(before) on the way out, and once per
 * piece in between. Each beat counts; the watchdog (run/watchdog.h) ends a process whose count stands still, and says
 * where it stood. A beat is two stores and reads no clock.
 *
 * Beats are those of one thread, the one that called gr_beat_watch: a writer at work behind it must not hide that it
 * hangs. On other threads, and before, a beat does nothing.
 */
#ifndef GR_UTIL_BEAT_H
#define GR_UTIL_BEAT_H
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

/** The calling thread is the one whose beats count. */
void gr_beat_watch(void);

/** A sign of life, and what is done from now on: "allreduce". The string must live as long as the process. Returns what
 * was done before, to be given back. */
const char *gr_beat(const char *doing);

/** A sign of life from within what is being done. */
void gr_beat_again(void);

/** The same, and where: the training step under way, as metrics.jsonl counts them; the layer, -1 for none. */
void gr_beat_step(int64_t step);
void gr_beat_layer(int layer);

/** Like gr_beat, before the watched thread waits for another thread of this process: until its next beat, the beats of
 * all threads count, so that a long piece of work is no alarm and a hanging one is. */
const char *gr_beat_wait(const char *doing);

/** What the last beat left; any thread may ask. */
typedef struct gr_life {
    const char *doing; /**< "local work" where nothing was said */
    int64_t     step;  /**< 0: none                             */
    int         layer; /**< -1: none                            */
    uint64_t    beats; /**< signs of life so far                */
} gr_life;

gr_life gr_beat_last(void);

GR_C_END
#endif
