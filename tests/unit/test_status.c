/* Exit codes are a contract with slurm/ (requeue or not); the order of codes is what gr_agree uses. */
/*TEST
np: 1
timeout: 10
*/
#include "tests/check.h"
#include "util/status.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    gr_status st;
    int       exit_code;
} expected[] = {/* in order of severity */
                {GR_OK, 0},          {GR_STOP, 85},     {GR_LOCKED, 75},   {GR_ERR_CONFIG, 2},
                {GR_ERR_INPUT, 2},   {GR_ERR_SAVE, 86}, {GR_ERR_ARG, 1},   {GR_ERR_IO, 1},
                {GR_ERR_NUMERIC, 1}, {GR_ERR_NOMEM, 1}, {GR_ERR_DEVICE, 1}};

enum { N_STATUS = sizeof expected / sizeof expected[0] };

static void codes_and_order(void)
{
    CHECK(GR_OK == 0, "success must be zero");
    CHECK(GR_ERR_DEVICE == N_STATUS - 1, "a status is missing from this table");
    for (int i = 0; i < N_STATUS; i++) {
        const gr_status st = expected[i].st;

        CHECK((int)st == i, "%s is number %d, not %d in severity", gr_status_name(st), (int)st, i);
        CHECK(gr_exit_code(st) == expected[i].exit_code, "%s exits with %d, not %d", gr_status_name(st),
              gr_exit_code(st), expected[i].exit_code);
        CHECK(gr_status_name(st) && gr_status_name(st)[0], "status %d has no name", i);
        for (int j = 0; j < i; j++)
            CHECK(strcmp(gr_status_name(st), gr_status_name(expected[j].st)) != 0, "%d and %d are both called %s", i, j,
                  gr_status_name(st));
    }
}

/* Redirect stderr into a file of its own, call, and read back what was logged. */
static gr_status logged(gr_status (*speak)(void), char *text, size_t size)
{
    char      path[] = "test_status.XXXXXX";
    int       keep = dup(STDERR_FILENO), fd = mkstemp(path);
    ssize_t   n;
    gr_status st;

    unlink(path);
    dup2(fd, STDERR_FILENO);
    st = speak();
    fflush(stderr);
    dup2(keep, STDERR_FILENO);
    n = pread(fd, text, size - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
    close(keep);
    return st;
}

static gr_status fail_short(void)
{
    return gr_fail("place.c", 42, GR_ERR_IO, "cannot read %s", "weights.h5");
}

static gr_status fail_long(void)
{
    static char name[8192];

    memset(name, 'x', sizeof name - 1);
    return gr_fail("place.c", 43, GR_ERR_INPUT, "%s", name);
}

static gr_status log_on_rank_3(void)
{
    gr_log0("only rank 0 says this");
    gr_log("step %d", 7);
    return GR_OK;
}

static void messages(void)
{
    char text[16384];

    gr_log_identity("graft-align", 3);
    CHECK(logged(fail_short, text, sizeof text) == GR_ERR_IO, "gr_fail changes the code");
    CHECK(strcmp(text, "graft-align[3]: error (i/o): cannot read weights.h5  [place.c:42]\n") == 0, "message: %s",
          text);

    CHECK(logged(fail_long, text, sizeof text) == GR_ERR_INPUT, "gr_fail changes the code");
    CHECK(strstr(text, "[place.c:43]\n"), "a long message loses its place, or its end of line");

    CHECK(logged(log_on_rank_3, text, sizeof text) == GR_OK, "speak");
    CHECK(strcmp(text, "graft-align[3]: step 7\n") == 0, "message: %s", text);
    gr_log_identity("graft", 0);
}

/* Kept instead of logged: the first error only, also those that rank 0 alone would log, and no other line. */
static gr_status quiet(void)
{
    char kept[64] = "", small[8] = "";

    gr_log_keep(kept, sizeof kept);
    CHECK(log_on_rank_3() == GR_OK && !*kept, "kept a line that is no error: %s", kept);
    CHECK(gr_fail0("place.c", 1, GR_ERR_INPUT, "first %d", 1) == GR_ERR_INPUT && fail_short() == GR_ERR_IO, "codes");
    CHECK(!strcmp(kept, "first 1"), "kept: %s", kept);
    *kept = 0;
    CHECK(fail_short() == GR_ERR_IO && !strcmp(kept, "cannot read weights.h5"), "kept: %s", kept);
    gr_log_keep(small, sizeof small);
    CHECK(fail_long() == GR_ERR_INPUT && !strcmp(small, "xxxxxxx"), "kept: %s", small);
    gr_log_keep(NULL, 0);
    return fail_short();
}

static void keeping(void)
{
    char text[1024];

    gr_log_identity("graft-verify", 3);
    CHECK(logged(quiet, text, sizeof text) == GR_ERR_IO, "speak");
    CHECK(!strcmp(text, "graft-verify[3]: error (i/o): cannot read weights.h5  [place.c:42]\n"), "logged: %s", text);
    gr_log_identity("graft", 0);
}

static int n_after;

static gr_status guarded(gr_status first, int ok)
{
    gr_status st = GR_OK;

    GR_TRY(first);
    GR_CHECK(ok, GR_ERR_ARG, "expected by this test");
    n_after++;
out:
    return st;
}

static gr_status guarded_arg(void)
{
    return guarded(GR_OK, 0);
}

static void macros(void)
{
    char text[1024];

    CHECK(guarded(GR_STOP, 1) == GR_STOP && n_after == 0, "GR_TRY did not leave with the status");
    CHECK(logged(guarded_arg, text, sizeof text) == GR_ERR_ARG && n_after == 0, "GR_CHECK did not leave with its code");
    CHECK(strstr(text, "test_status.c:"), "GR_CHECK does not say where: %s", text);
    CHECK(guarded(GR_OK, 1) == GR_OK && n_after == 1, "the good path");
}

int main(void)
{
    const char *dir = getenv("GR_TEST_DIR");

    CHECK(dir && chdir(dir) == 0, "run me through tests/run.sh");
    codes_and_order();
    messages();
    keeping();
    macros();
    return check_result();
}
