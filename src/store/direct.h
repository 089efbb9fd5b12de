/** @file direct.h  Filling a laid-out file from memory: no HDF5, and nothing is read a second time.  [local]
 *
 *     gr_h5_lay_out(&f, tmp, slot, n);               (a file of gr_h5_create_paged: on pages, space allocated)
 *     gr_direct_open(&w, tmp, cancel);
 *     gr_direct_put(w, &slot[i], data, &crc);         every dataset, whole, once
 *     gr_direct_commit(&w, path, kind, &seal);        seal, fsync, rename, fsync of the directory
 *
 * Whole pages go past the page cache (O_DIRECT) where dataset and memory begin on a page and the file system lets them;
 * the rest goes through it. The seal is put together from the checksums of what was written, taken from memory by a
 * second thread while the first one writes. So a good seal says: the file holds what was in memory.
 */
#ifndef GR_STORE_DIRECT_H
#define GR_STORE_DIRECT_H
#include "store/h5.h"
#include "store/seal.h"
#include <stdatomic.h>

typedef struct gr_direct gr_direct;

/** `cancel` (may be NULL) is looked at between pieces of 16 MiB: true makes gr_direct_put give GR_STOP. */
gr_status gr_direct_open(gr_direct **w, const char *tmp, const atomic_bool *cancel);

/** Write the slot->bytes bytes of a dataset; *crc is their CRC-32C. */
gr_status gr_direct_put(gr_direct *w, const gr_h5_slot *slot, const void *data, uint32_t *crc);

/** Always closes; on failure `tmp` is removed. */
gr_status gr_direct_commit(gr_direct **w, const char *path, const char *kind, gr_seal *seal);

/** Close, and remove `tmp`. NULL is fine. */
void gr_direct_close(gr_direct **w);

#endif
