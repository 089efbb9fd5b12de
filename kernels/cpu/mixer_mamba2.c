#include "kernels/cpu/gla.h"
#include "kernels/layer.h"
#include <string.h>

static void core_forward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_chunked_forward(a, &gr_gla);
}

static void core_backward(const gr_core_args *a, gr_stream *stream)
{
    (void)stream;
    gr_chunked_backward(a, &gr_gla);
}

const gr_mixer_core gr_mamba2_cpu = {
    .tol = 1e-5,
    .forward = core_forward,
    .backward = core_backward,
};
