/* Beats of the watched thread name what is done and count; those of others do nothing, unless it waits for them. */
/*TEST
np: 1
timeout: 20
*/
#include "tests/check.h"
#include "util/beat.h"
#include <pthread.h>
#include <string.h>

static void *other(void *user)
{
    const char *before = gr_beat("of another thread");

    gr_beat_step(7);
    gr_beat_layer(8);
    gr_beat_again();
    gr_beat(before);
    return user;
}

static void in_another_thread(void)
{
    pthread_t t;

    CHECK(pthread_create(&t, NULL, other, NULL) == 0, "pthread_create");
    CHECK(pthread_join(t, NULL) == 0, "pthread_join");
}

static void said(const char *doing, int64_t step, int layer, const char *when)
{
    const gr_life l = gr_beat_last();

    CHECK(!strcmp(l.doing, doing) && l.step == step && l.layer == layer, "%s: \"%s\", step %lld, layer %d", when,
          l.doing, (long long)l.step, l.layer);
}

static void test_unwatched(void)
{
    gr_beat("nothing");
    gr_beat_step(3);
    said("local work", 0, -1, "before gr_beat_watch");
    CHECK(gr_beat_last().beats == 0, "a beat counted before gr_beat_watch");
}

static void test_nesting(void)
{
    uint64_t    beats = gr_beat_last().beats;
    const char *outer = gr_beat("forward"), *inner;

    gr_beat_step(118);
    gr_beat_layer(7);
    inner = gr_beat("broadcast");
    said("broadcast", 118, 7, "in a broadcast");
    gr_beat(inner);
    said("forward", 118, 7, "after it");
    gr_beat_layer(-1);
    gr_beat(outer);
    said("local work", 118, -1, "at the end");
    CHECK(gr_beat_last().beats == beats + 7, "%llu beats instead of 7",
          (unsigned long long)(gr_beat_last().beats - beats));
    beats = gr_beat_last().beats;
    gr_beat_again();
    CHECK(gr_beat_last().beats == beats + 1, "gr_beat_again");
}

static void test_threads(void)
{
    uint64_t    beats = gr_beat_last().beats;
    const char *before;

    in_another_thread();
    said("local work", 118, -1, "after another thread");
    CHECK(gr_beat_last().beats == beats, "a thread that nobody waits for counted");

    before = gr_beat_wait("checkpoint writer");
    CHECK(!strcmp(before, "local work"), "gr_beat_wait returned \"%s\"", before);
    in_another_thread();
    said("checkpoint writer", 118, -1, "while waiting");
    CHECK(gr_beat_last().beats == beats + 1 + 5, "%llu beats instead of 6",
          (unsigned long long)(gr_beat_last().beats - beats));
    gr_beat(before);
    beats = gr_beat_last().beats;
    in_another_thread();
    CHECK(gr_beat_last().beats == beats, "the wait did not end with the next beat");
}

static void *beat_on(void *user)
{
    for (int i = 0; i < 20000; i++) gr_beat(i % 2 ? "one" : "two");
    return user;
}

/* A reader beside a writer sees one of the names and a count that only grows. Thread sanitizers look on. */
static void test_reader(void)
{
    pthread_t      t;
    uint64_t       seen = gr_beat_last().beats;
    const uint64_t first = seen;

    gr_beat_wait("start");
    CHECK(pthread_create(&t, NULL, beat_on, NULL) == 0, "pthread_create");
    while (seen < first + 20001) {
        const gr_life l = gr_beat_last();
        CHECK(l.beats >= seen, "the count went back");
        CHECK(!strcmp(l.doing, "start"), "\"%s\"", l.doing);
        seen = l.beats;
    }
    pthread_join(t, NULL);
    gr_beat("end");
}

int main(void)
{
    test_unwatched();
    gr_beat_watch();
    test_nesting();
    test_threads();
    test_reader();
    return check_result();
}
