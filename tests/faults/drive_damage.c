/* Damages files as disks, users and half-finished copies do.
 *
 *     drive_damage file SEED FILE OTHER
 *
 * One damage to FILE, which is always another file afterwards, or none. OTHER is one it may be mistaken for. Prints
 * what was done.
 *
 *     drive_damage checkpoints SEED COUNT DIR SCRATCH
 *
 * DIR is the checkpoint directory of a real run. COUNT times: a copy of its two newest checkpoints, one file of the
 * newer damaged; opening must set that one aside and give the older, every byte of every tensor. And once in fifty
 * times nothing is damaged, and the newer must be given. Prints what was done, and counts; exit code 1 when a damage
 * went unnoticed.
 */
#include "store/checkpoint.h"
#include "store/manifest.h"
#include "tests/check.h"
#include "util/rng.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT = 1 << 30, CONTROL = 50 };

/* ---- what is drawn ------------------------------------------------------------------------------- */

static struct {
    uint64_t seed, next;
} dice;

static uint64_t draw(uint64_t below)
{
    const uint32_t key[2] = {(uint32_t)dice.seed, (uint32_t)(dice.seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)dice.next, (uint32_t)(dice.next >> 32), 0, 0};
    uint32_t       out[4];

    dice.next++;
    gr_philox(key, counter, out);
    return ((uint64_t)out[1] << 32 | out[0]) % below;
}

/* ---- one damage ---------------------------------------------------------------------------------- */

typedef struct bytes {
    char    *v;
    uint64_t n;
} bytes;

static void overwrite(const char *path, bytes b)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

    CHECK(fd >= 0 && gr_pwrite_all(fd, b.v, b.n, 0, path) == GR_OK, "%s: %s", path, strerror(errno));
    close(fd);
}

/* Two ranges of `n` bytes change places. */
static void exchange(bytes b, uint64_t n)
{
    const uint64_t from = draw(b.n - n + 1), to = draw(b.n - n + 1);
    char           kept[4096];

    memcpy(kept, b.v + from, n);
    memmove(b.v + from, b.v + to, n);
    memcpy(b.v + to, kept, n);
}

typedef enum how { FLIP, BURST, TRUNCATE, EXTEND, DELETE, EMPTY, ZERO, EXCHANGE, MISTAKE, DIRECTORY, N_HOW } how;

static const char *const name_of[N_HOW] = {"flip",  "burst", "truncate", "extend",  "delete",
                                           "empty", "zero",  "exchange", "mistake", "directory"};

/* A damage to the content; b has room for 4096 bytes more. */
static void spoil(how h, bytes *b)
{
    const uint64_t at = draw(b->n), most = b->n - at < 4096 ? b->n - at : 4096, n = 1 + draw(most);

    switch (h) {
    case FLIP: b->v[at] ^= (char)(1 << draw(8)); break;
    case BURST:
        for (uint64_t i = 0; i < n; i++) b->v[at + i] = (char)draw(256);
        break;
    case TRUNCATE: b->n = at; break;
    case EXTEND:
        memset(b->v + b->n, (int)draw(256), n);
        b->n += n;
        break;
    case EMPTY: b->n = 0; break;
    case ZERO: memset(b->v + at, 0, n); break;
    default: exchange(*b, n);
    }
}

static how damage(const char *path, const char *other)
{
    bytes    whole = {0}, b = {0};
    how      h;
    uint64_t n;

    CHECK(gr_read_file(path, LIMIT, &whole.v, &whole.n) == GR_OK, "%s", path);
    do { /* until it makes a difference */
        h = (how)draw(N_HOW);
        gr_free(&b.v);
        if (h == MISTAKE && gr_read_file(other, LIMIT, &b.v, &b.n) != GR_OK) h = FLIP;
        if (h != MISTAKE) {
            CHECK(gr_alloc(&b.v, whole.n + 4096, 1, "bytes") == GR_OK, "memory");
            memcpy(b.v, whole.v, whole.n);
            b.n = whole.n;
            if (h != DELETE && h != DIRECTORY) spoil(h, &b);
        }
        n = b.n;
    } while (h != DELETE && h != DIRECTORY && n == whole.n && !memcmp(b.v, whole.v, n));
    if (h == DELETE || h == DIRECTORY)
        CHECK(!unlink(path) && (h == DELETE || !mkdir(path, 0777)), "%s: %s", path, strerror(errno));
    else
        overwrite(path, b);
    gr_free(&whole.v);
    gr_free(&b.v);
    return h;
}

/* ---- checkpoints ------------------------------------------------------------------------------------ */

static const char *in(const char *dir, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static const char *in(const char *dir, const char *fmt, ...)
{
    static char path[8][GR_PATH_MAX];
    static int  turn;
    char        name[512];
    va_list     ap;

    turn = (turn + 1) % 8;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    CHECK(gr_path(path[turn], "%s/%s", dir, name) == GR_OK, "path");
    return path[turn];
}

/* The files of a checkpoint, from one directory of checkpoints to another. */
static void copy(const char *from, const char *to, const char *step)
{
    char  **name = NULL;
    int64_t n = 0;
    bytes   b;

    CHECK(gr_mkdirs(in(to, "%s", step)) == GR_OK && gr_list(in(from, "%s", step), &name, &n) == GR_OK, "%s", step);
    for (int64_t i = 0; i < n; i++) {
        CHECK(gr_read_file(in(from, "%s/%s", step, name[i]), LIMIT, &b.v, &b.n) == GR_OK, "%s", name[i]);
        overwrite(in(to, "%s/%s", step, name[i]), b);
        gr_free(&b.v);
    }
    gr_names_free(&name, n);
}

/* Every byte of an open checkpoint, in the order of its manifest; read a second time, compared instead. */
static bool equals(gr_ckpt *ck, const gr_manifest *m, char *all, bool first)
{
    bool same = true;
    char read[1 << 20];

    for (int64_t i = 0; i < m->n_tensor && same; i++) {
        const gr_manifest_tensor *t = &m->tensor[i];
        gr_ckpt_piece p = {.name = t->name, .dtype = t->dtype, .rank = t->rank, .count = t->rank ? t->dim[0] : 1};
        uint64_t      n = (uint64_t)gr_dtype_size(t->dtype);

        for (int d = 0; d < t->rank; d++) n *= (uint64_t)t->dim[d];
        memcpy(p.dim, t->dim, sizeof p.dim);
        p.data = first ? all : read;
        same = n <= sizeof read && gr_ckpt_read(ck, &p) == GR_OK && (first || !memcmp(read, all, n));
        all += n;
    }
    return same;
}

typedef struct bench {
    const char  *dir, *scratch;
    char         newer[64], older[64]; /* names: step-... */
    gr_manifest *manifest[2];          /* of the newer, of the older */
    char        *all[2];
} bench;

/* Opens what is in scratch; true when it gives the newer (which 0) or older (1) one, in full. */
static bool gives(bench *b, int which, bool first)
{
    gr_ckpt_dir *d = NULL;
    gr_ckpt     *ck = NULL;
    bool ok = gr_ckpt_dir_open(&d, NULL, b->scratch) == GR_OK && gr_ckpt_open_newest(&ck, d, NULL, 0) == GR_OK && ck &&
              gr_ckpt_step(ck) == b->manifest[which]->step && equals(ck, b->manifest[which], b->all[which], first);

    gr_ckpt_close(&ck);
    gr_ckpt_dir_close(&d);
    return ok;
}

static int64_t count_bad(const char *scratch)
{
    char  **name = NULL;
    int64_t n = 0, bad = 0;

    CHECK(gr_list(scratch, &name, &n) == GR_OK, "%s", scratch);
    for (int64_t i = 0; i < n; i++) bad += !strncmp(name[i], "bad-", 4);
    gr_names_free(&name, n);
    return bad;
}

static void bench_open(bench *b)
{
    char  **name = NULL;
    int64_t n = 0;

    CHECK(gr_list(b->dir, &name, &n) == GR_OK, "%s", b->dir);
    for (int64_t i = 0; i < n; i++) { /* sorted */
        if (strncmp(name[i], "step-", 5) != 0) continue;
        memcpy(b->older, b->newer, sizeof b->older);
        snprintf(b->newer, sizeof b->newer, "%s", name[i]);
    }
    gr_names_free(&name, n);
    CHECK(*b->older, "%s holds no two checkpoints", b->dir);
    for (int which = 0; which < 2 && !check_failed; which++) {
        const char *step = which ? b->older : b->newer, *path = in(b->dir, "%s/manifest.json", step);
        bytes       t = {0};
        CHECK(gr_read_file(path, LIMIT, &t.v, &t.n) == GR_OK &&
                  gr_manifest_parse(&b->manifest[which], t.v, t.n, path) == GR_OK &&
                  gr_alloc(&b->all[which], 64 << 20, 1, "tensors") == GR_OK,
              "%s", path);
        gr_free(&t.v);
        CHECK(gr_remove_tree(b->scratch) == GR_OK, "scratch");
        copy(b->dir, b->scratch, step);
        CHECK(gives(b, which, true), "%s, undamaged", step);
    }
}

/* Which file, and which other one of this or the older checkpoint it may be mistaken for. */
static how damage_one(const bench *b, char file[GR_SHARD_NAME])
{
    const uint64_t shards = (uint64_t)b->manifest[0]->n_shard, one = draw(shards + 1), two = draw(shards + 1);
    char           other[GR_SHARD_NAME] = "manifest.json";

    snprintf(file, GR_SHARD_NAME, "manifest.json");
    if (one < shards) gr_shard_name(file, (int64_t)one, (int64_t)shards);
    if (two < shards) gr_shard_name(other, (int64_t)two, (int64_t)shards);
    return damage(in(b->scratch, "%s/%s", b->newer, file),
                  one == two ? in(b->dir, "%s/%s", b->older, other) : in(b->dir, "%s/%s", b->newer, other));
}

static void damage_checkpoints(bench *b, int64_t count)
{
    int64_t done[N_HOW] = {0};
    char    file[GR_SHARD_NAME];

    bench_open(b);
    for (int64_t i = 0; i < count && !check_failed; i++) {
        dice.next = (uint64_t)i << 32; /* each is drawn for itself */
        CHECK(gr_remove_tree(b->scratch) == GR_OK, "scratch");
        copy(b->dir, b->scratch, b->older);
        copy(b->dir, b->scratch, b->newer);
        if (i % CONTROL == CONTROL - 1)
            CHECK(gives(b, 0, false) && count_bad(b->scratch) == 0, "undamaged, after %" PRId64, i);
        const how h = damage_one(b, file);
        done[h]++;
        printf("damage %" PRId64 ": %s %s\n", i, name_of[h], file);
        fflush(stdout);
        CHECK(gives(b, 1, false), "damage %" PRId64 " (%s %s): the older checkpoint is not given", i, name_of[h], file);
        CHECK(count_bad(b->scratch) == 1, "damage %" PRId64 " (%s %s): not set aside", i, name_of[h], file);
    }
    printf("survived: %" PRId64 " damages to checkpoints:", count);
    for (int h = 0; h < N_HOW; h++) printf(" %" PRId64 " %s%s", done[h], name_of[h], h + 1 < N_HOW ? "," : "\n");
    for (int which = 0; which < 2; which++) {
        gr_manifest_close(&b->manifest[which]);
        gr_free(&b->all[which]);
    }
}

int main(int argc, char **argv)
{
    gr_log_identity("drive_damage", 0);
    if (argc == 5 && !strcmp(argv[1], "file")) {
        dice.seed = strtoull(argv[2], NULL, 10);
        printf("%s\n", name_of[damage(argv[3], argv[4])]);
    } else if (argc == 6 && !strcmp(argv[1], "checkpoints")) {
        bench b = {.dir = argv[4], .scratch = argv[5]};
        dice.seed = strtoull(argv[2], NULL, 10);
        damage_checkpoints(&b, strtoll(argv[3], NULL, 10));
    } else {
        fprintf(stderr, "usage: drive_damage file SEED FILE OTHER | checkpoints SEED COUNT DIR SCRATCH\n");
        return 2;
    }
    return check_result();
}
