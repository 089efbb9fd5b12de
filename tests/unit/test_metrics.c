/* metrics.jsonl: every line is JSON, a resumed run leaves no trace of the steps it repeats, a full disk is an error. */
/*TEST
np: 1
timeout: 20
*/
#include "run/metrics.h"
#include "tests/check.h"
#include "util/fs.h"
#include "util/json.h"
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[GR_PATH_MAX];

static gr_metrics *begin(int64_t resume_step)
{
    gr_metrics *m = NULL;

    CHECK(gr_metrics_open(&m, NULL, path, resume_step) == GR_OK, "open");
    if (!m) exit(1);
    return m;
}

static void record(gr_metrics *m, int64_t step)
{
    const double x[] = {0.5, NAN, -INFINITY, 1e300};

    gr_metrics_begin(m, step);
    gr_metrics_num(m, "loss", 1.0 / 3);
    gr_metrics_num(m, "bad", INFINITY);
    gr_metrics_int(m, "tokens", INT64_MIN);
    gr_metrics_str(m, "note", "a\"\\\n\xff\xc3\xa9");
    gr_metrics_nums(m, "layer_loss", x, 4);
    gr_metrics_nums(m, "none", NULL, 0);
    CHECK(gr_metrics_end(m) == GR_OK, "step %" PRId64, step);
}

/* The steps in the file, as "1 2 3 "; every line must be a JSON object. */
static const char *steps(void)
{
    static char found[256];
    char       *text = NULL, *line;
    uint64_t    n = 0;
    size_t      used = 0;

    found[0] = 0;
    CHECK(gr_read_file(path, 1 << 20, &text, &n) == GR_OK, "read");
    CHECK(n == 0 || text[n - 1] == '\n', "no newline at the end");
    for (line = text; line && *line; line = strchr(line, '\n') + 1) {
        json_t *tree = NULL;
        int64_t step = -1;

        if (!strchr(line, '\n')) break;
        CHECK(gr_json_parse(line, (size_t)(strchr(line, '\n') - line), "line", &tree) == GR_OK, "not JSON: %s", line);
        CHECK(tree && gr_json_get_int(tree, "line", "step", INT64_MIN, INT64_MAX, &step) == GR_OK, "no step");
        used += (size_t)snprintf(found + used, sizeof found - used, "%" PRId64 " ", step);
        json_decref(tree);
    }
    gr_free(&text);
    return found;
}

static void append(const char *text)
{
    FILE *f = fopen(path, "a");

    CHECK(f && fputs(text, f) >= 0 && !fclose(f), "append");
}

static ino_t inode(void)
{
    struct stat sb = {0};

    CHECK(!stat(path, &sb), "stat");
    return sb.st_ino;
}

static void content(void)
{
    static const char expect[] =
        "{\"step\":7,\"loss\":0.333333333,\"bad\":null,\"tokens\":-9223372036854775808,"
        "\"note\":\"a\\\"\\\\\\u000a\\ufffd\xc3\xa9\",\"layer_loss\":[0.5,null,null,1e+300],\"none\":[]}\n";
    gr_metrics *m = begin(-1);
    char       *text = NULL;
    uint64_t    n = 0;

    record(m, 7);
    gr_metrics_close(&m);
    gr_metrics_close(&m);
    CHECK(gr_read_file(path, 1 << 20, &text, &n) == GR_OK && !strcmp(text, expect), "found\n%sexpected\n%s", text,
          expect);
    gr_free(&text);
}

static void resume(void)
{
    gr_metrics *m = begin(-1); /* a new run drops what was there */
    ino_t       before;

    for (int64_t step = 0; step < 6; step++) record(m, step);
    gr_metrics_close(&m);
    CHECK(!strcmp(steps(), "0 1 2 3 4 5 "), "%s", steps());

    before = inode();
    m = begin(5); /* nothing to drop: not rewritten */
    gr_metrics_close(&m);
    CHECK(inode() == before && !strcmp(steps(), "0 1 2 3 4 5 "), "%s", steps());

    append("{\"step\":6,\"loss\":1"); /* torn by a kill */
    m = begin(3);
    CHECK(!strcmp(steps(), "0 1 2 3 "), "%s", steps());
    record(m, 4);
    gr_metrics_close(&m);
    CHECK(!strcmp(steps(), "0 1 2 3 4 "), "%s", steps());

    append("{\"step\":3}\n{\"step\":99}\nhello\n\n{\"step\":}\n{\"step\":2\n{\"step\":1x}\n{\"step\":"
           "999999999999999999999}\n");
    m = begin(4);
    gr_metrics_close(&m);
    CHECK(!strcmp(steps(), "0 1 2 3 4 3 "), "%s", steps());

    m = begin(-1);
    gr_metrics_close(&m);
    CHECK(!strcmp(steps(), ""), "%s", steps());
    append("{\"step\":0"); /* torn, and nothing else */
    m = begin(10);
    gr_metrics_close(&m);
    CHECK(!strcmp(steps(), ""), "%s", steps());
}

static void failures(void)
{
    gr_metrics         *m = NULL;
    const double        many[100] = {0};
    const struct rlimit small = {.rlim_cur = 600, .rlim_max = RLIM_INFINITY};
    struct rlimit       old;
    gr_status           st = GR_OK;
    char                bad[GR_PATH_MAX];

    CHECK(gr_path(bad, "%s/no/such/dir", path) == GR_OK, "path");
    CHECK(gr_metrics_open(&m, NULL, bad, 0) == GR_ERR_IO && !m, "opened below a file");
    CHECK(gr_metrics_open(&m, NULL, "/dev/full", 0) == GR_ERR_INPUT && !m, "opened a device");

    m = begin(-1);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    setrlimit(RLIMIT_FSIZE, &small); /* as a full disk: a part of a record, then nothing */
    for (int64_t step = 0; step < 10 && st == GR_OK; step++) {
        gr_metrics_begin(m, step);
        gr_metrics_num(m, "x", 0.123456789);
        gr_metrics_nums(m, "many", many, 100);
        st = gr_metrics_end(m);
    }
    CHECK(st == GR_ERR_IO, "a full disk gave %s", gr_status_name(st));
    CHECK(gr_metrics_end(m) == GR_ERR_IO, "and again");
    setrlimit(RLIMIT_FSIZE, &old);
    gr_metrics_close(&m);
    m = begin(100); /* the torn line is gone */
    CHECK(!strcmp(steps(), "0 1 "), "%s", steps());
    gr_metrics_close(&m);
}

int main(void)
{
    const char *dir = getenv("GR_TEST_DIR");
    char        fresh[] = "/tmp/test_metrics.XXXXXX";

    if (!dir) dir = mkdtemp(fresh);
    CHECK(dir && gr_path(path, "%s/metrics.jsonl", dir) == GR_OK, "no directory");
    content();
    resume();
    failures();
    unlink(path);
    if (dir == fresh) rmdir(dir);
    return check_result();
}
