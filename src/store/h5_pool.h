/** @file h5_pool.h  Verified files, opened when they are needed and kept open for a while.  [local]
 *
 * A store of many files is verified once, its files dealt over the ranks; afterwards any rank may read from any file,
 * in any order, without reading it all again. At most GR_POOL_FILES are open at a time.
 */
#ifndef GR_STORE_H5_POOL_H
#define GR_STORE_H5_POOL_H
#include "store/h5.h"

GR_C_BEGIN

enum { GR_POOL_FILES = 32 };

typedef struct gr_h5_pool { /**< {0} is an empty pool */
    struct {
        int64_t i;    /**< which file of the store                        */
        int64_t used; /**< by the pool's clock; 0: nothing is open here   */
        gr_h5  *f;
    } entry[GR_POOL_FILES];
    int64_t clock;
} gr_h5_pool;

/** File i of the store. *f belongs to the pool and is good until the next call. GR_ERR_INPUT when the file's seal is
 * not `seal`. */
gr_status gr_h5_pool_get(gr_h5_pool *p, int64_t i, const char *path, const char *kind, const char *seal, gr_h5 **f);
void      gr_h5_pool_close(gr_h5_pool *p);

GR_C_END
#endif
