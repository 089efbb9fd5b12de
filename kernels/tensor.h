/** @file tensor.h  A typed view of memory that belongs to a backend.  [leaf]
 *
 * A gr_tensor owns nothing: it is a pointer, a type and a shape, passed by value. Row-major and
 * contiguous. Whether the pointer may be followed by the host is the backend's business
 * (kernels/backend.h); on cpu it may.
 */
#ifndef GR_KERNELS_TENSOR_H
#define GR_KERNELS_TENSOR_H
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN

enum { GR_MAX_DIM = 4 };

typedef enum gr_dtype { GR_F32, GR_BF16, GR_F16, GR_F64, GR_U8, GR_I32, GR_U32, GR_I64, GR_U64, GR_U16 } gr_dtype;

int         gr_dtype_size(gr_dtype t); /**< bytes per element */
const char *gr_dtype_name(gr_dtype t); /**< "f32", "bf16", ... as in files and messages */

typedef struct gr_tensor {
    void    *data;
    gr_dtype dtype;
    int      rank;            /**< number of dimensions in use */
    int64_t  dim[GR_MAX_DIM]; /**< unused dimensions are 1 */
} gr_tensor;

/** A view over existing memory. Unused trailing dimensions: pass rank accordingly. */
static inline gr_tensor gr_view1(void *data, gr_dtype t, int64_t a)
{
    gr_tensor v = {data, t, 1, {a, 1, 1, 1}};
    return v;
}
static inline gr_tensor gr_view2(void *data, gr_dtype t, int64_t a, int64_t b)
{
    gr_tensor v = {data, t, 2, {a, b, 1, 1}};
    return v;
}
static inline gr_tensor gr_view3(void *data, gr_dtype t, int64_t a, int64_t b, int64_t c)
{
    gr_tensor v = {data, t, 3, {a, b, c, 1}};
    return v;
}

static inline int64_t gr_count(gr_tensor t)
{
    return t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3];
}

/** Elements per index of dimension 0. */
static inline int64_t gr_row(gr_tensor t)
{
    return t.dim[1] * t.dim[2] * t.dim[3];
}

/** Rows [first, first + n) of dimension 0. */
static inline gr_tensor gr_rows(gr_tensor t, int64_t first, int64_t n)
{
    t.data = (char *)t.data + first * gr_row(t) * gr_dtype_size(t.dtype);
    t.dim[0] = n;
    return t;
}

/** The same memory as [a, b]. */
static inline gr_tensor gr_as2(gr_tensor t, int64_t a, int64_t b)
{
    return gr_view2(t.data, t.dtype, a, b);
}
static inline gr_tensor gr_as3(gr_tensor t, int64_t a, int64_t b, int64_t c)
{
    return gr_view3(t.data, t.dtype, a, b, c);
}

/** "absent": gradients of frozen parameters, outputs nobody wants. */
static inline gr_tensor gr_none(void)
{
    gr_tensor v = {0, GR_F32, 0, {0, 0, 0, 0}};
    return v;
}

GR_C_END
#endif
