/** @file status.h  One result type for the whole suite, and the macros that carry it.
 *
 * The rule (docs/errors.md): whoever first decides that something is an error logs it, once, with
 * the exact cause; callers pass the status on. A function has one exit, the label `out:`.
 */
#ifndef GR_UTIL_STATUS_H
#define GR_UTIL_STATUS_H
#include <stddef.h>

#ifdef __cplusplus /* .cu files are C++; every header they see is wrapped */
#define GR_C_BEGIN extern "C" {
#define GR_C_END   }
#else
#define GR_C_BEGIN
#define GR_C_END
#endif

GR_C_BEGIN

/** Ordered by severity: the larger code wins when ranks agree (comm/comm.h). */
typedef enum gr_status {
    GR_OK = 0,
    GR_STOP,        /**< asked to stop (signal, time limit); state saved; not a failure    exit 85 */
    GR_LOCKED,      /**< another run holds the lock of this output                         exit 75 */
    GR_ERR_CONFIG,  /**< command line or configuration is wrong; do not requeue            exit 2  */
    GR_ERR_INPUT,   /**< an input file is missing, malformed or damaged; do not requeue    exit 2  */
    GR_ERR_SAVE,    /**< a checkpoint could not be written                                 exit 86 */
    GR_ERR_ARG,     /**< a caller broke a contract: a bug in Graft                         exit 1  */
    GR_ERR_IO,      /**< the file system or HDF5 refused                                   exit 1  */
    GR_ERR_NUMERIC, /**< NaN or Inf where none may be                                      exit 1  */
    GR_ERR_NOMEM,   /**< host or device memory exhausted                                   exit 1  */
    GR_ERR_DEVICE   /**< accelerator error, context still alive                            exit 1  */
} gr_status;

const char *gr_status_name(gr_status st);
int         gr_exit_code(gr_status st);

/** Name and rank that prefix every line this process logs. `program` is borrowed. */
void gr_log_identity(const char *program, int rank);

/** Log an error where it is first seen; returns `code` so that it can be passed on. */
gr_status gr_fail(const char *file, int line, gr_status code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/** gr_fail for decisions that every rank takes alike (same input, same outcome): rank 0 alone logs. */
gr_status gr_fail0(const char *file, int line, gr_status code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/** From now on the first error of this process goes to `text`, without place and prefix, and nothing else is logged:
 * for a program whose business errors are. Emptying `text` makes room for the next. NULL: log again. */
void gr_log_keep(char *text, size_t room);

/** One line to stderr, prefixed with program and rank. */
void gr_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** Like gr_log, on rank 0 only. */
void gr_log0(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* All five need `gr_status st` and a label `out:` in the enclosing function. */
#define GR_TRY(call)                                                                                                   \
    do {                                                                                                               \
        if ((st = (call)) != GR_OK) goto out;                                                                          \
    } while (0)
#define GR_FAIL(code, ...)                                                                                             \
    do {                                                                                                               \
        st = gr_fail(__FILE__, __LINE__, (code), __VA_ARGS__);                                                         \
        goto out;                                                                                                      \
    } while (0)
#define GR_CHECK(ok, code, ...)                                                                                        \
    do {                                                                                                               \
        if (!(ok)) GR_FAIL((code), __VA_ARGS__);                                                                       \
    } while (0)
#define GR_FAIL0(code, ...)                                                                                            \
    do {                                                                                                               \
        st = gr_fail0(__FILE__, __LINE__, (code), __VA_ARGS__);                                                        \
        goto out;                                                                                                      \
    } while (0)
#define GR_CHECK0(ok, code, ...)                                                                                       \
    do {                                                                                                               \
        if (!(ok)) GR_FAIL0((code), __VA_ARGS__);                                                                      \
    } while (0)

GR_C_END
#endif
