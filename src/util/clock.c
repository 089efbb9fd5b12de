#include "util/clock.h"
#include <time.h>

double gr_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *gr_utc(void)
{
    static _Thread_local char text[sizeof "2026-01-31T12:00:00Z"];
    struct timespec           t;
    struct tm                 date;

    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &date);
    if (strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &date) == 0) text[0] = 0;
    return text;
}
