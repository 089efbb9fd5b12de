/** @file h5_room.h  What h5.c (writing) and h5_read.c (reading) share; nobody else includes it. */
#ifndef GR_STORE_H5_ROOM_H
#define GR_STORE_H5_ROOM_H
#include "store/h5.h"
#include "store/seal.h"
#include "util/fs.h"
#include <hdf5.h>

struct gr_h5 {
    hid_t       file;
    bool        writing;
    gr_status   failed; /* first error while writing: commit will refuse                            */
    char        path[GR_PATH_MAX];
    char        tmp[GR_PATH_MAX]; /* writing: the file that exists; it becomes `path` when sealed   */
    char        kind[GR_KIND_MAX + 1];
    gr_seal     seal; /* reading                                                                 */
    char      **name; /* reading: datasets, sorted bytewise, those of long strings ('@') aside;
                         writing: reserved datasets, in order                                    */
    int64_t     n_name, room_name;
    gr_h5_slot *slot; /* writing: where they lie                                                 */
    int64_t     n_slot, room_slot;
};

/* Attributes above this are datasets named "@name" (of the file) or "@dataset@name": HDF5 keeps attributes in object
 * headers, whose messages end at 64 KiB. */
enum { GR_H5_LONG = 60000, GR_H5_PIECE = 1 << 30 };
void gr_h5_long_name(char out[GR_PATH_MAX], const char *dataset, const char *name);

/** The one lock of the process around HDF5. Who has it may take it again. */
void gr_h5_enter(void);
void gr_h5_leave(void);

/** Append to the file's names. */
gr_status gr_h5_note_name(gr_h5 *f, const char *name);

/* All below are called under the lock. */

/** Library set-up, once per process. */
gr_status gr_h5_start(void);

/** File access: serial driver, strong close, no locks, format of HDF5 1.10 at most. */
gr_status gr_h5_access(hid_t *fapl, const char *path);

/** The file type of each gr_dtype; lives as long as the process. */
hid_t gr_h5_type(gr_dtype t);

/** Log `path: what: HDF5's innermost message` and return `code`. */
gr_status gr_h5_refused(const char *src, int line, gr_status code, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Needs `st` and `out:`. A negative value is how HDF5 says no. */
#define GR_H5_CHECK(ok, code, path, ...)                                                                               \
    do {                                                                                                               \
        if (!(ok)) {                                                                                                   \
            st = gr_h5_refused(__FILE__, __LINE__, (code), (path), __VA_ARGS__);                                       \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/** Move rows [first, first + count) between memory and an open dataset, in pieces of about 1 GiB. Exactly one of `in`
 * (memory to file) and `to` (file to memory) is not NULL. */
gr_status gr_h5_move(gr_h5 *f, hid_t dataset, const char *name, gr_dtype dtype, int rank, const int64_t *dim,
                     int64_t first, int64_t count, const void *in, void *to);

/** Close the HDF5 handle and free the struct, leaving files alone. */
void gr_h5_free(gr_h5 **f);

#endif
