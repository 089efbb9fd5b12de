#include "store/direct.h"
#include "store/writer.h"
#include "util/beat.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum {
    PAGE = GR_H5_PAGE,
    PIECE = 16 << 20, /* written at once                          */
    BESIDE = 1 << 20  /* from here on a thread is worth its start */
};

struct gr_direct {
    int                fd, direct; /* through the page cache; past it, -1 where that is refused */
    const atomic_bool *cancel;
    gr_extent         *extent; /* what is known of the file, by its place in it when sealed  */
    int64_t            n, room;
    char               tmp[GR_PATH_MAX];
};

gr_status gr_direct_open(gr_direct **out, const char *tmp, const atomic_bool *cancel)
{
    gr_status  st = GR_OK;
    gr_direct *w = NULL;

    GR_TRY(gr_alloc(&w, 1, sizeof *w, "file to fill"));
    w->fd = w->direct = -1;
    w->cancel = cancel;
    GR_TRY(gr_path(w->tmp, "%s", tmp));
    w->fd = open(tmp, O_RDWR | O_CLOEXEC);
    GR_CHECK(w->fd >= 0, GR_ERR_IO, "%s: %s", tmp, strerror(errno));
    w->direct = open(tmp, O_WRONLY | O_DIRECT | O_CLOEXEC); /* refused by tmpfs, for example: fine */
    *out = w;
    w = NULL;
out:
    gr_direct_close(&w);
    return st;
}

/* ---- what is known ------------------------------------------------------------------------- */

/* Bytes [offset, offset + n), inside one block of the seal; they lengthen the extent before them if they can. */
static gr_status note(gr_direct *w, uint64_t offset, uint64_t n, uint32_t crc)
{
    gr_status  st = GR_OK;
    gr_extent *last = w->n ? &w->extent[w->n - 1] : NULL;

    if (last && last->offset + last->bytes == offset && (offset - GR_SEAL_BYTES) % GR_SEAL_BLOCK) {
        last->crc = gr_crc32c_combine(last->crc, crc, n);
        last->bytes += n;
        goto out;
    }
    if (w->n == w->room) {
        w->room = w->room ? 2 * w->room : 64;
        GR_TRY(gr_realloc(&w->extent, (uint64_t)w->room, sizeof *w->extent, "checksums of a file"));
    }
    w->extent[w->n++] = (gr_extent){.offset = offset, .bytes = n, .crc = crc};
out:
    return st;
}

typedef struct piece {
    gr_direct  *w;
    uint64_t    offset;
    const char *data;
    uint64_t    n;
    uint32_t    crc;
} piece;

/* [job] The checksum of a piece, cut where blocks of the seal end. */
static gr_status learn(void *user)
{
    gr_status   st = GR_OK;
    piece      *p = user;
    uint64_t    offset = p->offset, k;
    const char *data = p->data;

    p->crc = 0;
    for (uint64_t n = p->n; n > 0; n -= k, offset += k, data += k) {
        const uint64_t left = GR_SEAL_BLOCK - (offset - GR_SEAL_BYTES) % GR_SEAL_BLOCK;
        uint32_t       part;

        k = n < left ? n : left;
        part = gr_crc32c(0, data, k);
        p->crc = gr_crc32c_combine(p->crc, part, k);
        GR_TRY(note(p->w, offset, k, part));
    }
out:
    return st;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool on_page(uint64_t at)
{
    return at % PAGE == 0;
}

/* Whole pages past the page cache: *done of the n bytes, maybe none. Where the file system refuses, never again. */
static gr_status put_pages(gr_direct *w, uint64_t offset, const char *p, uint64_t n, uint64_t *done)
{
    gr_status st = GR_OK;
    ssize_t   k;

    *done = 0;
    n -= n % PAGE;
    if (w->direct < 0 || n == 0 || !on_page(offset) || !on_page((uint64_t)(uintptr_t)p)) goto out;
    do k = pwrite(w->direct, p, n, (off_t)offset);
    while (k < 0 && errno == EINTR);
    if (k < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
        close(w->direct);
        w->direct = -1;
        goto out;
    }
    GR_CHECK(k >= 0, GR_ERR_IO, "%s: write at byte %" PRIu64 ": %s", w->tmp, offset, strerror(errno));
    *done = (uint64_t)k - (uint64_t)k % PAGE;
    gr_beat_again();
out:
    return st;
}

static gr_status put(gr_direct *w, const piece *p)
{
    gr_status st = GR_OK;
    uint64_t  k;

    for (uint64_t at = 0; at < p->n; at += k) {
        GR_TRY(put_pages(w, p->offset + at, p->data + at, p->n - at, &k));
        if (k > 0) continue;
        k = p->n - at;
        GR_TRY(gr_pwrite_all(w->fd, p->data + at, k, p->offset + at, w->tmp));
    }
out:
    return st;
}

/* Written, while another thread takes the checksum; only that one knows of w->extent meanwhile. */
static gr_status put_and_learn(gr_direct *w, piece *p)
{
    gr_writer beside = {0};
    gr_status st, learned;

    gr_writer_start(&beside, learn, p, p->n >= BESIDE);
    st = put(w, p);
    learned = gr_writer_wait(&beside);
    return st != GR_OK ? st : learned;
}

gr_status gr_direct_put(gr_direct *w, const gr_h5_slot *slot, const void *data, uint32_t *crc)
{
    gr_status st = GR_OK;
    piece     p = {.w = w, .offset = slot->offset, .data = data};
    uint32_t  sum = 0;

    for (uint64_t left = slot->bytes; left > 0; left -= p.n, p.offset += p.n, p.data += p.n) {
        p.n = left < PIECE ? left : PIECE;
        if (w->cancel && atomic_load(w->cancel)) return GR_STOP;
        GR_TRY(put_and_learn(w, &p));
        sum = gr_crc32c_combine(sum, p.crc, p.n);
    }
    *crc = sum;
out:
    return st;
}

/* ---- the end ---------------------------------------------------------------------------------- */

gr_status gr_direct_commit(gr_direct **pw, const char *path, const char *kind, gr_seal *seal)
{
    gr_status  st = GR_OK;
    gr_direct *w = *pw;
    int        closed;

    *pw = NULL;
    if (w->direct >= 0) {
        closed = close(w->direct);
        w->direct = -1;
        GR_CHECK(!closed, GR_ERR_IO, "%s: close: %s", w->tmp, strerror(errno));
    }
    GR_TRY(gr_seal_publish_known(w->fd, w->tmp, path, kind, w->extent, w->n, seal));
    *w->tmp = 0;
out:
    gr_direct_close(&w);
    return st;
}

void gr_direct_close(gr_direct **pw)
{
    gr_direct *w = *pw;

    if (!w) return;
    if (w->direct >= 0) close(w->direct);
    if (w->fd >= 0) close(w->fd);
    if (*w->tmp) unlink(w->tmp);
    gr_free(&w->extent);
    gr_free(pw);
}
