#include "store/stream.h"
#include "store/writer.h"
#include "util/beat.h"
#include "util/fs.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum {
    PAGE = 4096,       /* what O_DIRECT asks of place, length and memory   */
    LARGE = 16 << 20,  /* a piece past the page cache                      */
    SMALL = 1 << 20,   /* a piece through it; less is not worth a thread   */
    AHEAD = 32 * SMALL /* asked for before it is read through the cache    */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t page_of(uint64_t at)
{
    return at - at % PAGE;
}

/* ---- through the page cache --------------------------------------------------------------------- */

static gr_status through_cache(int fd, const char *path, uint64_t begin, uint64_t end, gr_stream_look look, void *user)
{
    gr_status st = GR_OK;
    char     *data = NULL;
    uint64_t  n, asked = begin;

    GR_TRY(gr_alloc(&data, least(end - begin, SMALL), 1, "bytes to check"));
    for (uint64_t at = begin; at < end; at += n) {
        n = least(end - at, SMALL);
        for (; asked < end && asked < at + AHEAD; asked += SMALL) /* one wish may not be larger than a request is */
            posix_fadvise(fd, (off_t)asked, (off_t)least(end - asked, SMALL), POSIX_FADV_WILLNEED);
        GR_TRY(gr_pread_all(fd, data, n, at, path));
        look(user, data, at, n);
    }
out:
    gr_free(&data);
    return st;
}

/* ---- past it ---------------------------------------------------------------------------------------- */

typedef struct piece {
    gr_stream_look look;
    void          *user;
    const char    *data;
    uint64_t       at, n;
} piece;

static gr_status look_at(void *user)
{
    const piece *p = user;

    p->look(p->user, p->data, p->at, p->n);
    return GR_OK;
}

static bool past_cache_is(int fd, bool on)
{
    const int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && !fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

/* n bytes from the page that begins at `at`. What O_DIRECT refuses or leaves is read through the cache. */
static gr_status get(int fd, const char *path, char *to, uint64_t n, uint64_t at, bool *direct)
{
    gr_status st = GR_OK;
    ssize_t   k = 0;

    if (*direct) {
        do k = pread(fd, to, page_of(n + PAGE - 1), (off_t)at);
        while (k < 0 && errno == EINTR);
        GR_CHECK(k >= 0 || errno == EINVAL || errno == EOPNOTSUPP, GR_ERR_IO, "%s: read at byte %" PRIu64 ": %s", path,
                 at, strerror(errno));
        if (k < 0) k = 0;
        gr_beat_again();
    }
    if ((uint64_t)k >= n) goto out;
    if (*direct) *direct = !past_cache_is(fd, false);
    GR_TRY(gr_pread_all(fd, to + k, n - (uint64_t)k, at + (uint64_t)k, path));
out:
    return st;
}

/* What goes on from one piece to the next, through all stretches. */
typedef struct past {
    int         fd;
    const char *path;
    bool        direct;
    char       *page; /* two pieces */
    uint64_t    room, turn;
    gr_writer   beside;
    piece       p; /* being looked at */
} past;

/* Read a piece while the one before is looked at; then look at this one, beside the caller. */
static gr_status read_and_look(past *w, uint64_t at, uint64_t n, uint64_t begin)
{
    char *const     to = w->page + (w->turn++ % 2) * w->room;
    gr_status       st = get(w->fd, w->path, to, n, at, &w->direct);
    const gr_status looked = gr_writer_wait(&w->beside);

    if (st == GR_OK) st = looked;
    if (st != GR_OK) return st;
    w->p.at = at < begin ? begin : at;
    w->p.data = to + (w->p.at - at);
    w->p.n = at + n - w->p.at;
    gr_writer_start(&w->beside, look_at, &w->p, n >= SMALL);
    return GR_OK;
}

static gr_status past_cache_all(int fd, const char *path, const gr_stretch *s, int64_t n_stretch, gr_stream_look look,
                                void *user)
{
    gr_status st = GR_OK, looked;
    past      w = {.fd = fd, .path = path, .direct = true, .p = {.look = look, .user = user}};
    char     *block = NULL;
    uint64_t  n;

    for (int64_t i = 0; i < n_stretch; i++) w.room = most(w.room, page_of(s[i].end - page_of(s[i].begin) + PAGE - 1));
    w.room = least(w.room, LARGE);
    GR_TRY(gr_alloc(&block, 2 * w.room + PAGE, 1, "bytes to check"));
    w.page = block + PAGE - (uintptr_t)block % PAGE;
    for (int64_t i = 0; i < n_stretch; i++)
        for (uint64_t at = page_of(s[i].begin); st == GR_OK && at < s[i].end; at += n) {
            n = least(s[i].end - at, w.room);
            st = read_and_look(&w, at, n, s[i].begin);
        }
    looked = gr_writer_wait(&w.beside);
    if (st == GR_OK) st = looked;
out:
    gr_free(&block);
    return st;
}

gr_status gr_stream(int fd, const char *path, const gr_stretch *s, int64_t n, bool past_cache, gr_stream_look look,
                    void *user)
{
    gr_status st = GR_OK;

    if (past_cache && past_cache_is(fd, true)) {
        st = past_cache_all(fd, path, s, n, look, user);
        past_cache_is(fd, false);
        return st;
    }
    for (int64_t i = 0; i < n && st == GR_OK; i++) st = through_cache(fd, path, s[i].begin, s[i].end, look, user);
    return st;
}
