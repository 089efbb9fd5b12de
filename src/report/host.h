/** @file host.h  On what a figure was measured.  [local] */
#ifndef GR_REPORT_HOST_H
#define GR_REPORT_HOST_H

enum { GR_CPU_NAME = 128 };

typedef struct gr_host {
    char cpu[GR_CPU_NAME]; /**< "Intel(R) Xeon(R) ...": from /proc/cpuinfo, else the machine's type */
    int  cores;            /**< that this process may use                                           */
} gr_host;

/** Cannot fail: what is not known is said so. */
gr_host gr_host_read(void);

#endif
