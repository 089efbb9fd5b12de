#include "store/seal.h"
#include "store/stream.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FORMAT = 2,
    BLOCK = GR_SEAL_BLOCK,
    PIECE = 1 << 20,     /* read at once: stays in the cache */
    CONTENT = 8 + 16 + 1 /* bytes of "content=<16 hex> "     */
};

#define KIND_CHARS "abcdefghijklmnopqrstuvwxyz0123456789_-"

/* The 512 bytes that say `s`; returns the length of the part that the checksum covers. */
static int compose(const gr_seal *s, char text[GR_SEAL_BYTES])
{
    int n;

    memset(text, 0, GR_SEAL_BYTES);
    n = snprintf(text, GR_SEAL_BYTES, "GRAFT %d %s bytes=%" PRIu64 " %s%s%scrc32c=", FORMAT, s->kind, s->bytes,
                 *s->content ? "content=" : "", s->content, *s->content ? " " : "");
    snprintf(text + n, (size_t)(GR_SEAL_BYTES - n), "%08" PRIx32 "\n", s->crc);
    return n;
}

static void name_it(gr_seal *s)
{
    snprintf(s->id, sizeof s->id, "%08" PRIx32 "%08" PRIx32, (uint32_t)s->bytes, s->crc);
}

/* Strict: what was understood, written again, must be what was read, to the last padding byte. */
static gr_status parse(const char text[GR_SEAL_BYTES], const char *path, gr_seal *out)
{
    gr_status    st = GR_OK;
    gr_seal      s = {0};
    char         line[GR_SEAL_BYTES + 1] = "", again[GR_SEAL_BYTES];
    unsigned int format = 0;
    int          at = 0;

    memcpy(line, text, GR_SEAL_BYTES);
    GR_CHECK(sscanf(line, "GRAFT %9u ", &format) == 1, GR_ERR_INPUT, "%s: not a Graft file (no GRAFT header)", path);
    GR_CHECK(format == FORMAT, GR_ERR_INPUT, "%s: format %u, this Graft reads format %d", path, format, FORMAT);
    GR_CHECK(sscanf(line, "GRAFT %*9u %32[" KIND_CHARS "] bytes=%19" SCNu64 " %n", s.kind, &s.bytes, &at) == 2 &&
                 at > 0,
             GR_ERR_INPUT, "%s: the GRAFT header is damaged: \"%.80s\"", path, line);
    if (sscanf(line + at, "content=%16[0-9a-f] ", s.content) == 1) at += CONTENT;
    GR_CHECK(sscanf(line + at, "crc32c=%8" SCNx32, &s.crc) == 1, GR_ERR_INPUT,
             "%s: the GRAFT header is damaged: \"%.80s\"", path, line);
    compose(&s, again);
    GR_CHECK(!memcmp(text, again, GR_SEAL_BYTES), GR_ERR_INPUT, "%s: the first %d bytes (GRAFT header) are damaged",
             path, GR_SEAL_BYTES);
    name_it(&s);
    *out = s;
out:
    return st;
}

/* Open, read the seal, check kind and size. */
gr_status gr_seal_open(const char *path, const char *kind, gr_seal *out, int *fd)
{
    gr_status st = GR_OK;
    gr_seal   s;
    char      text[GR_SEAL_BYTES] = "";
    uint64_t  size = 0;
    int       file = -1;

    GR_TRY(gr_open_input(path, &file, &size));
    GR_TRY(gr_pread_all(file, text, size < GR_SEAL_BYTES ? size : GR_SEAL_BYTES, 0, path));
    GR_TRY(parse(text, path, &s));
    GR_CHECK(!kind || !strcmp(s.kind, kind), GR_ERR_INPUT, "%s: kind \"%s\", expected \"%s\"", path, s.kind, kind);
    GR_CHECK(size == GR_SEAL_BYTES + s.bytes, GR_ERR_INPUT, "%s: %" PRIu64 " bytes, the header says %" PRIu64 ": %s",
             path, size, GR_SEAL_BYTES + s.bytes,
             size < GR_SEAL_BYTES + s.bytes ? "truncated" : "something was appended");
    *out = s;
    *fd = file;
    file = -1;
out:
    if (file >= 0) close(file);
    return st;
}

gr_status gr_seal_read(const char *path, const char *kind, gr_seal *seal)
{
    int             fd = -1;
    const gr_status st = gr_seal_open(path, kind, seal, &fd);

    if (st == GR_OK) close(fd);
    return st;
}

static int64_t blocks_of(const gr_seal *s)
{
    return (int64_t)(s->bytes / BLOCK + (s->bytes % BLOCK > 0));
}

/* The checksum of a file from those of its blocks, as defined in seal.h. */
uint32_t gr_seal_fold(const gr_seal *s, const int64_t *block)
{
    char     text[GR_SEAL_BYTES];
    uint32_t sum = gr_crc32c(0, text, (size_t)compose(s, text));

    for (int64_t i = 0; i < blocks_of(s); i++) {
        const uint8_t le[4] = {(uint8_t)block[i], (uint8_t)(block[i] >> 8), (uint8_t)(block[i] >> 16),
                               (uint8_t)(block[i] >> 24)};
        sum = gr_crc32c(sum, le, sizeof le);
    }
    return sum;
}

/* [look] Bytes of a file, cut where its blocks end; a block's checksum begins with 0. */
static void sum_blocks(void *block, const char *data, uint64_t offset, uint64_t n)
{
    int64_t *crc = block;

    for (uint64_t at = offset - GR_SEAL_BYTES, k; n > 0; n -= k, at += k, data += k) {
        k = BLOCK - at % BLOCK < n ? BLOCK - at % BLOCK : n;
        crc[at / BLOCK] = gr_crc32c((uint32_t)crc[at / BLOCK], data, k);
    }
}

/* [collective] The checksum of an open file, as defined in seal.h; s->bytes is the same on all ranks. */
static gr_status checksum(const gr_comm *c, int fd, const char *path, const gr_seal *s, bool past_cache, uint32_t *crc)
{
    gr_status st = GR_OK;
    int64_t  *block = NULL, n_block = blocks_of(s), first, count;
    uint64_t  begin, end;

    gr_share(n_block, gr_comm_rank(c), gr_comm_size(c), &first, &count);
    begin = (uint64_t)first * BLOCK;
    end = (uint64_t)(first + count) * BLOCK;
    if (end > s->bytes) end = s->bytes;
    st = gr_alloc(&block, (uint64_t)n_block, sizeof *block, "block checksums");
    if (st == GR_OK)
        st = gr_stream(fd, path, &(gr_stretch){GR_SEAL_BYTES + begin, GR_SEAL_BYTES + end}, 1, past_cache, sum_blocks,
                       block);
    GR_TRY(gr_agree(c, st));

    gr_sum_i64(c, block, n_block); /* each entry is nonzero on one rank only */
    *crc = gr_seal_fold(s, block);
out:
    gr_free(&block);
    return st;
}

static gr_status verify(const gr_comm *c, const char *path, const char *kind, bool past_cache, gr_seal *seal)
{
    gr_status st = GR_OK;
    const int rank = gr_comm_rank(c);
    gr_seal   root = {0}, mine = {0};
    int       fd = -1;
    uint32_t  crc = 0;

    /* Rank 0 first: a bad file is then reported once, not once per rank. */
    if (rank == 0) st = gr_seal_open(path, kind, &root, &fd);
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, &root, sizeof root, 0);
    if (rank != 0) {
        st = gr_seal_open(path, kind, &mine, &fd);
        if (st == GR_OK && strcmp(mine.id, root.id) != 0)
            st = gr_fail(__FILE__, __LINE__, GR_ERR_INPUT, "%s: seal %s here, %s on rank 0: not the same file", path,
                         mine.id, root.id);
    }
    GR_TRY(gr_agree(c, st));
    GR_TRY(checksum(c, fd, path, &root, past_cache, &crc));
    if (crc != root.crc && rank == 0)
        st = gr_fail(__FILE__, __LINE__, GR_ERR_INPUT,
                     "%s: checksum %08" PRIx32 ", expected %08" PRIx32 ": the file is damaged", path, crc, root.crc);
    GR_TRY(gr_agree(c, st));
    *seal = root;
out:
    if (fd >= 0) close(fd);
    return st;
}

gr_status gr_seal_verify(const gr_comm *c, const char *path, const char *kind, gr_seal *seal)
{
    return verify(c, path, kind, false, seal);
}

gr_status gr_seal_verify_disk(const char *path, const char *kind, gr_seal *seal)
{
    return verify(NULL, path, kind, true, seal);
}

static gr_status write_seal(int fd, const char *tmp, const char *path, const gr_seal *s)
{
    gr_status st = GR_OK;
    char      text[GR_SEAL_BYTES];

    compose(s, text);
    GR_TRY(gr_pwrite_all(fd, text, GR_SEAL_BYTES, 0, tmp));
    GR_TRY(gr_fsync(fd, tmp));
    GR_TRY(gr_publish(tmp, path));
out:
    return st;
}

static gr_status measure(int fd, const char *tmp, gr_seal *s)
{
    gr_status   st = GR_OK;
    struct stat sb;

    GR_CHECK(!fstat(fd, &sb), GR_ERR_IO, "%s: fstat: %s", tmp, strerror(errno));
    GR_CHECK(sb.st_size > GR_SEAL_BYTES, GR_ERR_IO, "%s: %lld bytes: nothing to seal", tmp, (long long)sb.st_size);
    s->bytes = (uint64_t)sb.st_size - GR_SEAL_BYTES;
out:
    return st;
}

static gr_status open_complete(const char *tmp, gr_seal *s, int *fd)
{
    gr_status st = GR_OK;

    *fd = open(tmp, O_RDWR | O_CLOEXEC);
    GR_CHECK(*fd >= 0, GR_ERR_IO, "%s: %s", tmp, strerror(errno));
    GR_TRY(measure(*fd, tmp, s));
out:
    return st;
}

static gr_status check_kind(const char *path, const char *kind)
{
    gr_status    st = GR_OK;
    const size_t n = strlen(kind);

    GR_CHECK(n > 0 && n <= GR_KIND_MAX && strspn(kind, KIND_CHARS) == n, GR_ERR_ARG,
             "%s: kind \"%s\": 1 to %d of [a-z0-9_-]", path, kind, GR_KIND_MAX);
out:
    return st;
}

gr_status gr_seal_publish(const gr_comm *c, const char *tmp, const char *path, const char *kind, const char *content)
{
    gr_status st = GR_OK;
    const int rank = gr_comm_rank(c);
    gr_seal   s = {0};
    int       fd = -1;

    st = check_kind(path, kind);
    if (st == GR_OK) st = gr_fault(c, "seal");
    if (st == GR_OK) st = gr_fsync_path(tmp); /* what this host holds must reach the others before they read it */
    GR_TRY(gr_agree(c, st));

    snprintf(s.kind, sizeof s.kind, "%s", kind);
    snprintf(s.content, sizeof s.content, "%s", content);
    st = open_complete(tmp, &s, &fd);
    GR_TRY(gr_agree(c, st));
    gr_bcast(c, &s.bytes, sizeof s.bytes, 0);
    GR_TRY(checksum(c, fd, tmp, &s, false, &s.crc));
    if (rank == 0) st = write_seal(fd, tmp, path, &s);
    st = gr_agree(c, st);
out:
    if (fd >= 0) close(fd);
    if (st != GR_OK && rank == 0) unlink(tmp);
    return st;
}

/* ---- a file of which most is known ---------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const uint64_t x = ((const gr_extent *)a)->offset, y = ((const gr_extent *)b)->offset;

    return (x > y) - (x < y);
}

/* Extents as they must be: apart, inside the file, each inside one block. */
static gr_status check_extents(const char *tmp, const gr_seal *s, const gr_extent *e, int64_t n)
{
    gr_status st = GR_OK;
    uint64_t  at = GR_SEAL_BYTES;

    for (int64_t i = 0; i < n; at = e[i].offset + e[i].bytes, i++)
        GR_CHECK(e[i].bytes > 0 && e[i].offset >= at && e[i].offset - GR_SEAL_BYTES < s->bytes &&
                     e[i].bytes <= s->bytes - (e[i].offset - GR_SEAL_BYTES) &&
                     (e[i].offset - GR_SEAL_BYTES) / BLOCK == (e[i].offset + e[i].bytes - 1 - GR_SEAL_BYTES) / BLOCK,
                 GR_ERR_ARG, "%s: %" PRIu64 " bytes at %" PRIu64 " are no extent of it", tmp, e[i].bytes, e[i].offset);
out:
    return st;
}

/* The checksum of bytes [at, end) of the file; *e is the first extent from `at` on, *e == last when there is none. */
static gr_status known_crc(int fd, const char *tmp, uint64_t at, uint64_t end, const gr_extent **e,
                           const gr_extent *last, char *data, int64_t *crc)
{
    gr_status st = GR_OK;
    uint32_t  sum = 0;
    uint64_t  n;

    for (; at < end; at += n) {
        if (*e < last && (*e)->offset == at) {
            n = (*e)->bytes;
            sum = gr_crc32c_combine(sum, (*e)->crc, n);
            ++*e;
            continue;
        }
        n = (*e < last && (*e)->offset < end ? (*e)->offset : end) - at;
        if (n > PIECE) n = PIECE;
        GR_TRY(gr_pread_all(fd, data, n, at, tmp));
        sum = gr_crc32c(sum, data, n);
    }
    *crc = sum;
out:
    return st;
}

gr_status gr_seal_publish_known(int fd, const char *tmp, const char *path, const char *kind, gr_extent *extent,
                                int64_t n, gr_seal *seal)
{
    gr_status        st = GR_OK;
    gr_seal          s = {0};
    int64_t         *block = NULL;
    char            *data = NULL;
    const gr_extent *e = extent;

    GR_TRY(check_kind(path, kind));
    GR_TRY(gr_fault(NULL, "seal"));
    snprintf(s.kind, sizeof s.kind, "%s", kind);
    GR_TRY(measure(fd, tmp, &s));
    if (n) qsort(extent, (size_t)n, sizeof *extent, by_offset);
    GR_TRY(check_extents(tmp, &s, extent, n));
    GR_TRY(gr_alloc(&block, (uint64_t)blocks_of(&s), sizeof *block, "block checksums"));
    GR_TRY(gr_alloc(&data, s.bytes < PIECE ? s.bytes : PIECE, 1, "bytes to check"));
    for (uint64_t i = 0, at = 0; at < s.bytes; at += BLOCK, i++)
        GR_TRY(known_crc(fd, tmp, GR_SEAL_BYTES + at, GR_SEAL_BYTES + (s.bytes - at < BLOCK ? s.bytes : at + BLOCK), &e,
                         extent + n, data, &block[i]));
    s.crc = gr_seal_fold(&s, block);
    name_it(&s);
    GR_TRY(write_seal(fd, tmp, path, &s));
    *seal = s;
out:
    gr_free(&data);
    gr_free(&block);
    return st;
}
