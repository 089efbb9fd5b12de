/* Files appear whole or not at all; directories are made, listed and removed. */
/*TEST
np: 1
timeout: 20
*/
#include "tests/check.h"
#include "util/fs.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

static char dir[GR_PATH_MAX];

static const char *in_dir(const char *name)
{
    static char path[32][GR_PATH_MAX];
    static int  turn;

    turn = (turn + 1) % 32;
    CHECK(gr_path(path[turn], "%s/%s", dir, name) == GR_OK, "path");
    return path[turn];
}

static void test_paths(void)
{
    static const char *const of[][2] = {{"a/b", "a"},  {"a", "."},   {"/a", "/"},  {"/", "/"}, {"a/b/", "a"},
                                        {"a//b", "a"}, {"//a", "/"}, {"./a", "."}, {"a/", "."}};
    char                     d[GR_PATH_MAX], longest[GR_PATH_MAX + 1], expected[64];

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        CHECK(gr_dirname(d, of[i][0]) == GR_OK && !strcmp(d, of[i][1]), "directory of %s: %s", of[i][0], d);
    memset(longest, 'x', GR_PATH_MAX);
    longest[GR_PATH_MAX] = 0;
    CHECK(gr_path(d, "%s", longest) == GR_ERR_CONFIG, "a path too long");
    CHECK(gr_path(d, "%s", longest + 1) == GR_OK, "the longest path");
    snprintf(expected, sizeof expected, "a/.tmp-b.h5-%ld", (long)getpid());
    CHECK(gr_temporary(d, "a/b.h5") == GR_OK && !strcmp(d, expected), "temporary name %s", d);
    CHECK(gr_temporary(d, "b.h5") == GR_OK && !strcmp(d, expected + 2), "temporary name %s", d);
}

static void test_read_write(void)
{
    const char *path = in_dir("file"), *full = in_dir("sub");
    char       *text = NULL, **name = NULL, buf[8];
    uint64_t    n = 0;
    int64_t     n_name = 0;
    struct stat sb;

    CHECK(gr_write_file(path, "old", 3) == GR_OK && gr_write_file(path, "newer", 5) == GR_OK, "write twice");
    CHECK(gr_read_file(path, 5, &text, &n) == GR_OK && n == 5 && !strcmp(text, "newer"), "read");
    gr_free(&text);
    CHECK(gr_write_file(in_dir("empty"), NULL, 0) == GR_OK && gr_read_file(in_dir("empty"), 0, &text, &n) == GR_OK &&
              n == 0 && !*text,
          "empty");
    gr_free(&text);
    CHECK(gr_read_file(path, 4, &text, &n) == GR_ERR_INPUT && !text, "limit");
    CHECK(gr_read_file(in_dir("none"), 4, &text, &n) == GR_ERR_INPUT, "missing");
    CHECK(gr_read_file(dir, 4, &text, &n) == GR_ERR_INPUT, "directory");
    CHECK(!mkfifo(in_dir("fifo"), 0600) && gr_read_file(in_dir("fifo"), 4, &text, &n) == GR_ERR_INPUT, "fifo");
    CHECK(!symlink("file", in_dir("link")) && gr_read_file(in_dir("link"), 5, &text, &n) == GR_OK, "link to a file");
    gr_free(&text);

    /* over a directory, the rename is refused: the old thing stays and nothing is left behind */
    CHECK(!mkdir(full, 0700) && gr_write_file(in_dir("sub/x"), "x", 1) == GR_OK, "setting up");
    CHECK(gr_write_file(full, "text", 4) == GR_ERR_IO && !stat(full, &sb) && S_ISDIR(sb.st_mode),
          "write over a directory");
    CHECK(gr_list(dir, &name, &n_name) == GR_OK && n_name == 5, "%lld names", (long long)n_name);
    for (int64_t i = 1; i < n_name; i++) CHECK(strcmp(name[i - 1], name[i]) < 0, "order");
    CHECK(name && !strcmp(name[0], "empty") && !strcmp(name[4], "sub"), "first and last name");
    gr_names_free(&name, n_name);
    CHECK(gr_list(in_dir("none"), &name, &n_name) == GR_ERR_INPUT && !name, "listing nothing");
    CHECK(gr_write_file(in_dir("none/x"), "x", 1) == GR_ERR_IO, "no directory");

    const int fd = open(path, O_RDWR);
    CHECK(gr_pread_all(fd, buf, 6, 0, path) == GR_ERR_INPUT, "reading past the end");
    CHECK(gr_pread_all(fd, buf, 2, 3, path) == GR_OK && !memcmp(buf, "er", 2), "pread");
    CHECK(gr_pwrite_all(-1, buf, 2, 3, path) == GR_ERR_IO, "no file");
    close(fd);
}

/* A write cut short, here by a file size limit of 100 bytes: the old content survives. */
static void test_atomic(void)
{
    static char   big[1000];
    const char   *path = in_dir("atomic");
    struct rlimit keep, limit;
    char         *text = NULL, **name = NULL;
    uint64_t      n = 0;
    int64_t       n_name = 0;

    CHECK(gr_write_file(path, "old", 3) == GR_OK, "setting up");
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &keep);
    limit = keep;
    limit.rlim_cur = 100;
    CHECK(!setrlimit(RLIMIT_FSIZE, &limit), "setting up");
    const gr_status st = gr_write_file(path, big, sizeof big);
    setrlimit(RLIMIT_FSIZE, &keep);
    CHECK(st == GR_ERR_IO, "a write that cannot fit: %s", gr_status_name(st));
    CHECK(gr_read_file(path, 100, &text, &n) == GR_OK && n == 3 && !strcmp(text, "old"), "the old content");
    gr_free(&text);
    CHECK(gr_list(dir, &name, &n_name) == GR_OK, "list");
    for (int64_t i = 0; i < n_name; i++) CHECK(strncmp(name[i], ".tmp-", 5) != 0, "left behind: %s", name[i]);
    gr_names_free(&name, n_name);
}

/* A reader beside a writer sees one of the contents, whole. */
static void test_reader_beside_writer(void)
{
    enum { N = 20000 };
    static char data[N];
    const char *path = in_dir("both");
    pid_t       writer;
    int         status = 0, mixed = 0, reads = 0;

    CHECK(gr_write_file(path, data, N) == GR_OK, "setting up");
    writer = fork();
    if (writer == 0) {
        for (int i = 1; i <= 100; i++) {
            memset(data, i, N);
            if (gr_write_file(path, data, N) != GR_OK) _exit(1);
        }
        _exit(0);
    }
    for (; waitpid(writer, &status, WNOHANG) == 0; reads++) {
        char    *text = NULL;
        uint64_t n = 0;
        mixed += gr_read_file(path, N, &text, &n) != GR_OK || n != N || memcmp(text, text + 1, N - 1) != 0;
        gr_free(&text);
    }
    CHECK(status == 0 && mixed == 0, "%d of %d reads saw a mixture", mixed, reads);
}

static void test_trees(void)
{
    CHECK(gr_mkdirs(in_dir("t/a/b")) == GR_OK && gr_exists(in_dir("t/a/b")), "mkdirs");
    CHECK(gr_mkdirs(in_dir("t/a/b")) == GR_OK && gr_mkdirs(in_dir("t//a/c/")) == GR_OK && gr_exists(in_dir("t/a/c")),
          "again");
    CHECK(gr_write_file(in_dir("t/f"), "x", 1) == GR_OK && gr_mkdirs(in_dir("t/f/g")) == GR_ERR_CONFIG,
          "a file in the way");
    CHECK(gr_mkdirs(in_dir("t/f")) == GR_ERR_CONFIG, "a file of that name");
    CHECK(!symlink(dir, in_dir("t/out")) && gr_remove_tree(in_dir("t")) == GR_OK && !gr_exists(in_dir("t")), "remove");
    CHECK(gr_exists(in_dir("file")), "a link was followed out of the tree");
    CHECK(gr_remove_tree(in_dir("t")) == GR_OK, "removing nothing");
    CHECK(gr_fsync_path(dir) == GR_OK && gr_fsync_path(in_dir("t")) == GR_ERR_IO, "fsync");
}

int main(void)
{
    const char *base = getenv("GR_TEST_DIR");

    snprintf(dir, sizeof dir, "%s/graft-fs-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir)) return 1;
    test_paths();
    test_read_write();
    test_atomic();
    test_reader_beside_writer();
    test_trees();
    CHECK(gr_remove_tree(dir) == GR_OK && !gr_exists(dir), "tidy up");
    return check_result();
}
