/* fp32 to f16 and bf16 rounds to nearest, ties to even: every value, every midpoint, and both sides of it. */
/*TEST
np: 1
timeout: 20
*/
#include "tests/check.h"
#include "util/half.h"

typedef uint16_t (*to_half)(float);
typedef float (*from_half)(uint16_t);

/* h and h + 1 are neighbours, lo and hi their values; the midpoint is exact in fp32. */
static void between(const char *what, to_half to, uint16_t h, float lo, float hi)
{
    const float mid = (float)(0.5 * ((double)lo + (double)hi));

    CHECK(to(lo) == h, "%s %04x does not come back", what, h);
    CHECK(to(mid) == (h & 1 ? h + 1 : h), "%s: the middle above %04x goes to %04x", what, h, to(mid));
    CHECK(to(nextafterf(mid, lo)) == h, "%s: below the middle above %04x", what, h);
    CHECK(to(nextafterf(mid, hi)) == h + 1, "%s: above the middle above %04x", what, h);
    CHECK(to(-lo) == (h | 0x8000), "%s: -%04x", what, h);
    CHECK(to(-mid) == ((h & 1 ? h + 1 : h) | 0x8000), "%s: the middle below -%04x", what, h);
}

static void format(const char *what, to_half to, from_half from, uint16_t infinity, double above)
{
    for (uint16_t h = 0; h < infinity - 1; h++) between(what, to, h, from(h), from((uint16_t)(h + 1)));
    CHECK(to(from((uint16_t)(infinity - 1))) == infinity - 1, "%s: the largest", what);
    CHECK(to((float)above) == infinity, "%s: %g is as near to Inf as to the largest", what, above);
    CHECK(to(nextafterf((float)above, 0)) == infinity - 1, "%s: just below %g", what, above);
    CHECK(to(INFINITY) == infinity && to(-INFINITY) == (infinity | 0x8000), "%s: Inf", what);
    CHECK(from(infinity) == INFINITY && from(infinity | 0x8000) == -INFINITY, "%s: from Inf", what);
    CHECK(isnan(from(to(NAN))) && isnan(from(to(gr_f32_of_bits(0x7F800001)))), "%s: NaN", what);
    CHECK(gr_bits_of_f32(from(0x8000)) == 0x80000000u, "%s: -0", what);
}

int main(void)
{
    format("f16", gr_f16_of_f32, gr_f32_of_f16, 0x7C00, 65520);
    format("bf16", gr_bf16_of_f32, gr_f32_of_bf16, 0x7F80, (double)gr_f32_of_bits(0x7F7F8000));
    return check_result();
}
