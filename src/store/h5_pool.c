#include "store/h5_pool.h"

gr_status gr_h5_pool_get(gr_h5_pool *p, int64_t i, const char *path, const char *kind, const char *seal, gr_h5 **f)
{
    gr_status st = GR_OK;
    int       at = 0; /* the file, or the place that was unused for longest */

    for (int k = 0; k < GR_POOL_FILES; k++) {
        if (p->entry[k].used && p->entry[k].i == i) {
            at = k;
            break;
        }
        if (p->entry[k].used < p->entry[at].used) at = k;
    }
    if (!p->entry[at].used || p->entry[at].i != i) {
        gr_h5_close(&p->entry[at].f);
        p->entry[at].used = 0;
        GR_TRY(gr_h5_open_known(&p->entry[at].f, path, kind, seal));
        p->entry[at].i = i;
    }
    p->entry[at].used = ++p->clock;
    *f = p->entry[at].f;
out:
    return st;
}

void gr_h5_pool_close(gr_h5_pool *p)
{
    for (int k = 0; k < GR_POOL_FILES; k++) {
        gr_h5_close(&p->entry[k].f);
        p->entry[k].used = 0;
    }
}
