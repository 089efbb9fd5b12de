/* A file of several pieces and blocks of the seal, filled past HDF5 and read past the page cache: every byte arrives
 * once, its seal is that of the whole file, and one wrong byte anywhere is seen by both ways of reading. */
/*TEST
np: 1
timeout: 60
*/
#include "store/direct.h"
#include "store/h5.h"
#include "store/seal.h"
#include "store/stream.h"
#include "tests/check.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATH "filled.h5"

enum { MIB = 1 << 20, BIG = 37 * MIB + 1234, SMALL = 1000, PAGE = 4096 };

static char *fill(char *block)
{
    char *p = block + PAGE - (uintptr_t)block % PAGE;

    for (uint64_t i = 0; i < BIG; i++) p[i] = (char)(i * 2654435761u >> 13);
    return p;
}

/* The big dataset from memory on a page, past the cache, and from memory beside one, through it. */
static void written(const char *data, gr_seal *seal)
{
    const int64_t big[] = {BIG}, small[] = {SMALL};
    gr_h5        *f = NULL;
    gr_direct    *w = NULL;
    gr_h5_slot    slot[3];
    char          tmp[GR_PATH_MAX];
    uint32_t      crc[3] = {0};

    CHECK(gr_h5_create_paged(&f, PATH, "test") == GR_OK, "create");
    CHECK(gr_h5_reserve(f, "even", GR_U8, 1, big) == GR_OK && gr_h5_reserve(f, "small", GR_U8, 1, small) == GR_OK &&
              gr_h5_reserve(f, "odd", GR_U8, 1, (const int64_t[]){BIG - 1}) == GR_OK,
          "reserve");
    CHECK(gr_h5_lay_out(&f, tmp, slot, 3) == GR_OK && gr_direct_open(&w, tmp, NULL) == GR_OK, "lay out");
    CHECK(gr_direct_put(w, &slot[0], data, &crc[0]) == GR_OK && gr_direct_put(w, &slot[1], data, &crc[1]) == GR_OK &&
              gr_direct_put(w, &slot[2], data + 1, &crc[2]) == GR_OK,
          "put");
    CHECK(gr_direct_commit(&w, PATH, "test", seal) == GR_OK, "commit");
    CHECK(crc[0] == gr_crc32c(0, data, BIG) && crc[1] == gr_crc32c(0, data, SMALL) &&
              crc[2] == gr_crc32c(0, data + 1, BIG - 1),
          "checksums of datasets");
}

static void read_back(const char *data, char *back)
{
    gr_h5 *f = NULL;

    CHECK(gr_h5_open(&f, PATH, "test") == GR_OK, "open");
    CHECK(gr_h5_read(f, "even", GR_U8, 0, BIG, back) == GR_OK && !memcmp(back, data, BIG), "even");
    CHECK(gr_h5_read(f, "odd", GR_U8, 0, BIG - 1, back) == GR_OK && !memcmp(back, data + 1, BIG - 1), "odd");
    CHECK(gr_h5_read(f, "small", GR_U8, 0, SMALL, back) == GR_OK && !memcmp(back, data, SMALL), "small");
    gr_h5_close(&f);
}

static bool good(const char *id)
{
    gr_seal         cached = {0}, disk = {0};
    const gr_status st = gr_seal_verify(NULL, PATH, "test", &cached);

    CHECK(gr_seal_verify_disk(PATH, "test", &disk) == st && !strcmp(cached.id, disk.id), "two ways, two answers");
    return st == GR_OK && !strcmp(cached.id, id);
}

static void flip(int fd, uint64_t at)
{
    char c = 0;

    CHECK(pread(fd, &c, 1, (off_t)at) == 1, "pread");
    c ^= 4;
    CHECK(pwrite(fd, &c, 1, (off_t)at) == 1, "pwrite");
}

/* Around the ends of pieces, of blocks, of the file. */
static void damaged(const gr_seal *seal)
{
    const uint64_t end = GR_SEAL_BYTES + seal->bytes;
    const uint64_t at[] = {600,
                           16 * MIB - 1,
                           16 * MIB,
                           16 * MIB + 511,
                           16 * MIB + 512,
                           32 * MIB + 511,
                           32 * MIB + 512,
                           48 * MIB + 100,
                           64 * MIB + 511,
                           end - 1};
    const int      fd = open(PATH, O_RDWR);

    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        flip(fd, at[i]);
        CHECK(!good(seal->id), "byte %llu is wrong, and nobody sees it", (unsigned long long)at[i]);
        flip(fd, at[i]);
    }
    close(fd);
    CHECK(good(seal->id), "good again");
}

typedef struct seen {
    uint64_t next;
    uint32_t crc;
    bool     gap;
} seen;

/* Slower than the disk: a piece must not be overwritten by the next while it is looked at. */
static void see(void *user, const char *data, uint64_t offset, uint64_t n)
{
    const struct timespec pause = {0, 30000000};
    seen                 *s = user;

    if (n > MIB) nanosleep(&pause, NULL);
    s->gap |= offset != s->next;
    s->next = offset + n;
    s->crc = gr_crc32c(s->crc, data, n);
}

static void streamed(const char *data, uint64_t n)
{
    const uint64_t cut[][2] = {{0, 0},
                               {0, 1},
                               {0, n},
                               {1, n},
                               {4095, 4097},
                               {512, 16 * MIB},
                               {512, 16 * MIB + 512},
                               {16 * MIB - 1, n - 1},
                               {n - 1, n},
                               {5, 33 * MIB}};
    const int      fd = open("plain", O_RDONLY);

    for (size_t i = 0; i < 2 * sizeof cut / sizeof *cut; i++) {
        const uint64_t begin = cut[i / 2][0], end = cut[i / 2][1];
        seen           s = {.next = begin};
        CHECK(gr_stream(fd, "plain", &(gr_stretch){begin, end}, 1, i % 2, see, &s) == GR_OK, "stream");
        CHECK(!s.gap && s.next == end && s.crc == gr_crc32c(0, data + begin, end - begin), "bytes %llu to %llu",
              (unsigned long long)begin, (unsigned long long)end);
        CHECK(gr_stream(fd, "plain", &(gr_stretch){begin, n + 1}, 1, i % 2, see, &s) == GR_ERR_INPUT,
              "the file ends early");
    }
    for (int past = 0; past < 2; past++) { /* several, one after the other: what lies between them is not shown */
        const gr_stretch s[] = {{3, 3 + 17 * MIB}, {17 * MIB + 4, 17 * MIB + 5}, {20 * MIB, n}};
        seen             all = {0};
        uint32_t         crc = 0;

        for (int i = 0; i < 3; i++) crc = gr_crc32c(crc, data + s[i].begin, s[i].end - s[i].begin);
        CHECK(gr_stream(fd, "plain", s, 3, past, see, &all) == GR_OK && all.next == n && all.crc == crc, "stretches");
    }
    CHECK(!(fcntl(fd, F_GETFL) & O_DIRECT), "the descriptor is left as it was");
    close(fd);
}

int main(void)
{
    const char *dir = getenv("GR_TEST_DIR");
    char       *block = NULL, *back = NULL, *data;
    gr_seal     seal = {0};

    CHECK(dir && chdir(dir) == 0, "run me through tests/run.sh");
    CHECK(gr_alloc(&block, BIG + 2 * PAGE, 1, "data") == GR_OK && gr_alloc(&back, BIG, 1, "data") == GR_OK, "memory");
    data = fill(block);
    written(data, &seal);
    CHECK(good(seal.id), "the seal is not that of the file");
    read_back(data, back);
    damaged(&seal);
    CHECK(gr_write_file("plain", data, BIG) == GR_OK, "write");
    streamed(data, BIG);
    gr_free(&block);
    gr_free(&back);
    return check_result();
}
