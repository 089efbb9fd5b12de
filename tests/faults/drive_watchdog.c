/* A program that hangs where it is told to, on rank 1:  drive_watchdog PLACE KEY=VALUE...
 *
 *   local      in work of its own, spinning
 *   fsync      in a file system that does not answer
 *   finalize   while leaving, in MPI_Finalize
 *   beats      nowhere: every rank works for seven seconds, and says so
 *   quiet      nowhere: every rank works for three seconds of its own time, and says so only before and after
 */
#include "run/run.h"
#include "util/beat.h"
#include "util/fs.h"
#include <mpi.h>
#include <string.h>
#include <unistd.h>

static bool hangs; /* this rank, from now on, in the calls below */

int fsync(int fd)
{
    while (hangs) pause();
    return fdatasync(fd);
}

int MPI_Finalize(void)
{
    while (hangs) pause();
    return PMPI_Finalize();
}

static gr_status work(const gr_run *run, const char *place)
{
    gr_status    st = GR_OK;
    const bool   mine = gr_comm_rank(run->comm) == 1;
    const double start = gr_now();
    char         path[GR_PATH_MAX];

    gr_beat_step(118);
    gr_beat_layer(7);
    if (!strcmp(place, "beats"))
        for (; gr_now() < start + 7; usleep(1000)) gr_beat_again();
    if (!strcmp(place, "quiet")) {
        gr_log("quiet from now on");
        for (int i = 0; i < 30; i++) usleep(100000); /* not one sleep: it would pass while the process is stopped */
    }
    gr_beat_layer(-1);
    if (!strcmp(place, "local") && mine)
        for (volatile int i = 0;; i = i + 1) continue;
    GR_TRY(gr_path(path, "%s/file", run->cfg->run.out));
    hangs = mine && !strcmp(place, "fsync");
    if (mine) st = gr_write_file(path, "text", 4);
    GR_TRY(gr_agree(run->comm, st));
    gr_barrier(run->comm);
    hangs = mine && !strcmp(place, "finalize");
out:
    return st;
}

int main(int argc, char **argv)
{
    gr_status st = GR_OK;
    gr_run   *run = NULL;

    GR_TRY(gr_run_open(&run, argc - 1, argv + 1, "import"));
    if (run) GR_TRY(work(run, argv[1]));
out:
    return gr_run_close(&run, st);
}
