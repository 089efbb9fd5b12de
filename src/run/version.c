#include "run/run.h"

/* The Makefile tells this file, and no other. */
#ifndef GR_VERSION
#define GR_VERSION "unknown"
#endif
#ifndef GR_VERSION_COMMIT
#define GR_VERSION_COMMIT "unknown"
#endif

const char *gr_version(void)
{
    return GR_VERSION;
}

const char *gr_commit(void)
{
    return GR_VERSION_COMMIT;
}
