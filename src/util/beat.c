#include "util/beat.h"
#include <stdatomic.h>
#include <stdbool.h>

/* Relaxed throughout: nothing is handed over here. The reader wants a number that moves, and names that are valid. */
static struct {
    _Atomic(const char *) doing;
    _Atomic(int64_t)      step;
    atomic_int            layer;
    _Atomic(uint64_t)     beats;
    atomic_bool           waits; /* the watched thread waits for another one */
} life = {.doing = "local work", .layer = -1};

static _Thread_local bool watched;

#define PUT(field, value) atomic_store_explicit(&life.field, (value), memory_order_relaxed)
#define GET(field)        atomic_load_explicit(&life.field, memory_order_relaxed)

/* Not an atomic addition: there is one writer, or several of which the number of beats does not matter. */
static void count(void)
{
    PUT(beats, GET(beats) + 1);
}

/* Does a beat of this thread say what is done? If not, it may still be a sign of life. */
static bool speaks(void)
{
    if (watched) {
        PUT(waits, false);
        count();
    } else if (GET(waits)) {
        count();
    }
    return watched;
}

void gr_beat_watch(void)
{
    watched = true;
}

const char *gr_beat(const char *doing)
{
    const char *before = doing;

    if (speaks()) {
        before = GET(doing);
        PUT(doing, doing);
    }
    return before;
}

void gr_beat_again(void)
{
    speaks();
}

void gr_beat_step(int64_t step)
{
    if (speaks()) PUT(step, step);
}

void gr_beat_layer(int layer)
{
    if (speaks()) PUT(layer, layer);
}

const char *gr_beat_wait(const char *doing)
{
    const char *before = gr_beat(doing);

    if (watched) PUT(waits, true);
    return before;
}

gr_life gr_beat_last(void)
{
    return (gr_life){.doing = GET(doing), .step = GET(step), .layer = GET(layer), .beats = GET(beats)};
}
