#include "kernels/tensor.h"

int gr_dtype_size(gr_dtype t)
{
    static const int size[] = {4, 2, 2, 8, 1, 4, 4, 8, 8, 2};
    return size[t];
}

const char *gr_dtype_name(gr_dtype t)
{
    static const char *const name[] = {"f32", "bf16", "f16", "f64", "u8", "i32", "u32", "i64", "u64", "u16"};
    return name[t];
}
