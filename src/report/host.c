#include "report/host.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* "model name\t: AMD EPYC ..." -> the part after the colon; 0 when the line says something else */
static int read_model(char cpu[GR_CPU_NAME], char *line)
{
    char *value = strchr(line, ':');

    if (strncmp(line, "model name", 10) != 0 || !value) return 0;
    value += 1 + strspn(value + 1, " \t");
    value[strcspn(value, "\n")] = 0;
    snprintf(cpu, GR_CPU_NAME, "%s", value);
    return cpu[0] != 0;
}

gr_host gr_host_read(void)
{
    gr_host        h = {.cpu = "unknown CPU"};
    FILE          *f = fopen("/proc/cpuinfo", "r");
    struct utsname u;
    cpu_set_t      set;
    char           line[512];
    int            found = 0;

    while (f && !found && fgets(line, sizeof line, f)) found = read_model(h.cpu, line);
    if (f) fclose(f);
    if (!found && uname(&u) == 0) snprintf(h.cpu, sizeof h.cpu, "%s", u.machine);
    h.cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    return h;
}
