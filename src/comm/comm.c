#include "comm/comm.h"
#include "comm/room.h"
#include "util/beat.h"
#include "util/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PIECE = 1 << 20,       /* elements per reduction call             */
    PIECE_BYTES = 1 << 26, /* bytes per broadcast or message          */
    EXIT_DIED = 70,
    TAG = 1
};

/* A call in which ranks wait for one another; what hangs in one is named in the watchdog's report. */
#define GR_WAIT(name, call)                                                                                            \
    do {                                                                                                               \
        const char *before_ = gr_beat(name);                                                                           \
        GR_MPI(call);                                                                                                  \
        gr_beat(before_);                                                                                              \
    } while (0)

void gr_die(const char *file, int line, const char *fmt, ...)
{
    char    text[1024];
    va_list ap;
    int     begun = 0, ended = 0;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    gr_log("fatal, all ranks are stopped: %s  [%s:%d]", text, file, line);
    if (MPI_Initialized(&begun) == MPI_SUCCESS && begun && MPI_Finalized(&ended) == MPI_SUCCESS && !ended)
        MPI_Abort(MPI_COMM_WORLD, EXIT_DIED);
    _exit(EXIT_DIED);
}

void gr_mpi_check(int code, const char *call, const char *file, int line)
{
    char text[MPI_MAX_ERROR_STRING] = "?";
    int  n;

    if (code == MPI_SUCCESS) return;
    MPI_Error_string(code, text, &n);
    gr_die(file, line, "%s: %s", call, text);
}

/* Takes over `mpi`. */
static gr_status comm_open(gr_comm **out, MPI_Comm mpi)
{
    gr_status st = GR_OK;
    gr_comm  *c = NULL;

    GR_MPI(MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN));
    GR_TRY(gr_alloc(&c, 1, sizeof *c, "communicator"));
    c->mpi = mpi;
    GR_MPI(MPI_Comm_rank(mpi, &c->rank));
    GR_MPI(MPI_Comm_size(mpi, &c->size));
    *out = c;
out:
    return st;
}

/* A process that no launcher started is the whole world: it needs neither a daemon nor a network, and looking for these
 * takes Open MPI a third of a second. What the user set for it stays. */
static void start_alone(void)
{
    static const char *const launchers[] = {"PMIX_", "PMI_", "OMPI_COMM_WORLD_"};

    for (char **e = environ; *e; e++)
        for (int i = 0; i < 3; i++)
            if (!strncmp(*e, launchers[i], strlen(launchers[i]))) return;
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_pml", "ob1", 0);
    setenv("OMPI_MCA_btl", "self", 0);
}

gr_status gr_comm_init(gr_comm **world, int *argc, char ***argv)
{
    MPI_Comm copy;
    int      level = MPI_THREAD_SINGLE;

    start_alone();
    GR_WAIT("MPI_Init", MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level));
    GR_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    GR_MPI(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
    if (level < MPI_THREAD_FUNNELED) GR_DIE("this MPI library allows no threads beside it");
    GR_WAIT("communicator copy", MPI_Comm_dup(MPI_COMM_WORLD, &copy));
    if (comm_open(world, copy) != GR_OK) GR_DIE("no communicator: the ranks cannot even agree to leave");
    return GR_OK;
}

void gr_comm_finalize(gr_comm **world)
{
    gr_barrier(*world); /* nobody leaves while others still talk: mpirun kills those that remain */
    gr_comm_close(world);
    GR_WAIT("MPI_Finalize", MPI_Finalize());
}

int gr_comm_rank(const gr_comm *c)
{
    return c ? c->rank : 0;
}

int gr_comm_size(const gr_comm *c)
{
    return c ? c->size : 1;
}

/* [collective] Takes over `mpi`, a part of `parent`. */
static gr_status part(const gr_comm *parent, MPI_Comm mpi, gr_comm **out)
{
    gr_status st = GR_OK;
    gr_comm  *c = NULL;

    GR_TRY(gr_agree(parent, comm_open(&c, mpi)));
    *out = c;
    c = NULL;
out:
    gr_comm_close(&c);
    return st;
}

gr_status gr_comm_split(const gr_comm *parent, int colour, gr_comm **group)
{
    MPI_Comm mpi;

    GR_WAIT("communicator split", MPI_Comm_split(parent->mpi, colour, parent->rank, &mpi));
    return part(parent, mpi, group);
}

gr_status gr_comm_split_host(const gr_comm *parent, gr_comm **host)
{
    MPI_Comm mpi;

    GR_WAIT("communicator split",
            MPI_Comm_split_type(parent->mpi, MPI_COMM_TYPE_SHARED, parent->rank, MPI_INFO_NULL, &mpi));
    return part(parent, mpi, host);
}

void gr_comm_close(gr_comm **c)
{
    if (!*c) return;
    GR_WAIT("communicator free", MPI_Comm_free(&(*c)->mpi));
    gr_free(c);
}

gr_status gr_agree(const gr_comm *c, gr_status local)
{
    struct {
        int code, rank;
    } mine = {(int)local, gr_comm_rank(c)}, worst = mine;

    if (gr_comm_size(c) == 1) return local;
    GR_WAIT("agreement",
            MPI_Allreduce(&mine, &worst, 1, MPI_2INT, MPI_MAXLOC, c->mpi)); /* of equals, the lowest rank */
    if (worst.code != GR_OK && c->rank == 0)
        gr_log("all %d ranks leave: rank %d reported %s", c->size, worst.rank, gr_status_name((gr_status)worst.code));
    return (gr_status)worst.code;
}

static void reduce(const gr_comm *c, void *x, int64_t n, int64_t size, MPI_Datatype type, MPI_Op op)
{
    if (gr_comm_size(c) == 1) return;
    for (int64_t i = 0; i < n; i += PIECE) {
        const int k = (int)(n - i < PIECE ? n - i : PIECE);
        GR_WAIT("allreduce", MPI_Allreduce(MPI_IN_PLACE, (char *)x + i * size, k, type, op, c->mpi));
    }
}

void gr_sum_f32(const gr_comm *c, float *x, int64_t n)
{
    reduce(c, x, n, sizeof *x, MPI_FLOAT, MPI_SUM);
}

void gr_sum_f64(const gr_comm *c, double *x, int64_t n)
{
    reduce(c, x, n, sizeof *x, MPI_DOUBLE, MPI_SUM);
}

void gr_sum_i64(const gr_comm *c, int64_t *x, int64_t n)
{
    reduce(c, x, n, sizeof *x, MPI_INT64_T, MPI_SUM);
}

void gr_max_i64(const gr_comm *c, int64_t *x, int64_t n)
{
    reduce(c, x, n, sizeof *x, MPI_INT64_T, MPI_MAX);
}

void gr_bcast(const gr_comm *c, void *data, int64_t n, int root)
{
    if (gr_comm_size(c) == 1) return;
    for (int64_t i = 0; i < n; i += PIECE_BYTES) {
        const int k = (int)(n - i < PIECE_BYTES ? n - i : PIECE_BYTES);
        GR_WAIT("broadcast", MPI_Bcast((char *)data + i, k, MPI_BYTE, root, c->mpi));
    }
}

void gr_allgather(const gr_comm *c, const void *mine, int64_t n, void *all)
{
    const int rank = gr_comm_rank(c), size = gr_comm_size(c);

    if (n <= 0) return;
    if (size > 1 && n <= PIECE_BYTES) {
        GR_WAIT("allgather", MPI_Allgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, c->mpi));
        return;
    }
    memcpy((char *)all + rank * n, mine, (size_t)n);
    for (int r = 0; r < size; r++) gr_bcast(c, (char *)all + r * n, n, r);
}

/* Point to point and in pieces: the total may exceed what MPI_Gatherv can count. */
gr_status gr_gather_bytes(const gr_comm *c, const void *mine, int64_t n, char **all, int64_t **offset)
{
    gr_status st = GR_OK;
    const int rank = gr_comm_rank(c), size = gr_comm_size(c);
    int64_t  *length = NULL, *at = NULL;
    char     *text = NULL;

    st = gr_alloc(&length, (uint64_t)size, sizeof *length, "lengths to gather");
    GR_TRY(gr_agree(c, st));
    gr_allgather(c, &n, sizeof n, length);
    if (rank == 0) {
        st = gr_alloc(&at, (uint64_t)size + 1, sizeof *at, "offsets to gather");
        for (int r = 0; st == GR_OK && r < size; r++) at[r + 1] = at[r] + length[r];
        if (st == GR_OK) st = gr_alloc(&text, (uint64_t)at[size], 1, "bytes to gather");
    }
    GR_TRY(gr_agree(c, st));

    if (rank == 0 && n > 0) memcpy(text, mine, (size_t)n);
    for (int r = 1; r < size; r++) {
        for (int64_t i = 0; i < length[r]; i += PIECE_BYTES) {
            const int k = (int)(length[r] - i < PIECE_BYTES ? length[r] - i : PIECE_BYTES);
            if (rank == 0)
                GR_WAIT("gather", MPI_Recv(text + at[r] + i, k, MPI_BYTE, r, TAG, c->mpi, MPI_STATUS_IGNORE));
            else if (rank == r)
                GR_WAIT("gather", MPI_Send((const char *)mine + i, k, MPI_BYTE, 0, TAG, c->mpi));
        }
    }
    *all = text;
    *offset = at;
    text = NULL;
    at = NULL;
out:
    gr_free(&text);
    gr_free(&at);
    gr_free(&length);
    return st;
}

void gr_barrier(const gr_comm *c)
{
    if (gr_comm_size(c) > 1) GR_WAIT("barrier", MPI_Barrier(c->mpi));
}

void gr_share(int64_t n, int rank, int size, int64_t *first, int64_t *count)
{
    const int64_t each = n / size, extra = n % size;

    *first = rank * each + (rank < extra ? rank : extra);
    *count = each + (rank < extra);
}

gr_status gr_fault(const gr_comm *c, const char *site)
{
    const char  *wish = getenv("GR_FAULT");
    const size_t n = strlen(site);
    char        *end = NULL;

    if (!wish || strncmp(wish, site, n) != 0 || wish[n] != ':') return GR_OK;
    if (strtol(wish + n + 1, &end, 10) != gr_comm_rank(c) || end == wish + n + 1 || *end) return GR_OK;
    return gr_fail(__FILE__, __LINE__, GR_ERR_IO, "fault injected at %s", site);
}
