/* CRC-32C: the vectors of RFC 3720 B.4, hardware against tables, and parts put together against the whole. */
/*TEST
np: 1
timeout: 10
*/
#include "tests/check.h"
#include "util/crc32c.h"
#include "util/fs.h"
#include "util/rng.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file of more than one piece. */
static void files(void)
{
    enum { N = (1 << 20) + 7 };
    static uint8_t data[N];
    const char    *dir = getenv("GR_TEST_DIR");
    uint64_t       bytes = 0;
    uint32_t       crc = 0;

    CHECK(dir && chdir(dir) == 0, "run me through tests/run.sh");
    for (int i = 0; i < N; i++) data[i] = (uint8_t)(i * i + i / 251);
    CHECK(gr_write_file("some", data, N) == GR_OK && gr_write_file("none", data, 0) == GR_OK, "write");
    CHECK(gr_crc32c_file("some", &bytes, &crc) == GR_OK && bytes == N && crc == gr_crc32c(0, data, N), "some");
    CHECK(gr_crc32c_file("none", &bytes, &crc) == GR_OK && bytes == 0 && crc == 0, "none");
    CHECK(gr_crc32c_file("absent", &bytes, &crc) == GR_ERR_INPUT && gr_crc32c_file(".", &bytes, &crc) == GR_ERR_INPUT,
          "no file");
}

int main(void)
{
    enum { N = 4099, LONG = 200003 };
    static uint8_t data[N], more[LONG];
    uint8_t        b[48] = {0x01, 0xC0, 0, 0, 0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0x14, 0, 0, 0, 0,
                            0,    4,    0, 0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0,    0, 0, 2};

    CHECK(gr_crc32c(0, b, 48) == 0xD9963A56, "an iSCSI read command");
    memset(b, 0, 32);
    CHECK(gr_crc32c(0, b, 32) == 0x8A9136AA, "32 zero bytes");
    memset(b, 0xFF, 32);
    CHECK(gr_crc32c(0, b, 32) == 0x62A8AB43, "32 bytes of ones");
    for (int i = 0; i < 32; i++) b[i] = (uint8_t)i;
    CHECK(gr_crc32c(0, b, 32) == 0x46DD794E, "increasing bytes");
    for (int i = 0; i < 32; i++) b[i] = (uint8_t)(31 - i);
    CHECK(gr_crc32c(0, b, 32) == 0x113FDB5C, "decreasing bytes");
    CHECK(gr_crc32c(0, "123456789", 9) == 0xE3069283, "the check value");
    CHECK(gr_crc32c(7, NULL, 0) == 7, "nothing");

    for (int i = 0; i < N; i++) data[i] = (uint8_t)(256 * gr_uniform(1, 2, (uint64_t)i));
    for (int from = 0; from < 9; from++) {
        for (int n = 0; n < 64; n++) {
            CHECK(gr_crc32c(0, data + from, (size_t)n) == gr_crc32c_portable(0, data + from, (size_t)n),
                  "%d bytes from %d", n, from);
            CHECK(gr_crc32c(gr_crc32c(0, data, (size_t)n), data + n, (size_t)(N - n)) == gr_crc32c(0, data, N),
                  "in two pieces, %d", n);
        }
    }
    CHECK(gr_crc32c(3, data, N) == gr_crc32c_portable(3, data, N), "hardware and tables differ");

    for (int i = 0; i < LONG; i++) more[i] = (uint8_t)((unsigned)i * 2654435761u >> 13);
    for (int n = LONG; n > 0; n -= n > 60000 ? 6151 : 1009) /* none, one, several rounds of three lanes, and tails */
        CHECK(gr_crc32c(9, more + 1, (size_t)n - 1) == gr_crc32c_portable(9, more + 1, (size_t)n - 1), "%d bytes", n);
    for (int n = 0; n <= LONG; n += n < 300 ? 1 : 9973) {
        const uint32_t head = gr_crc32c_portable(0, more, (size_t)n);
        const uint32_t tail = gr_crc32c_portable(0, more + n, (size_t)(LONG - n));
        CHECK(gr_crc32c_combine(head, tail, (uint64_t)(LONG - n)) == gr_crc32c_portable(0, more, LONG),
              "%d and the rest", n);
    }
    CHECK(gr_crc32c_combine(5, 0, 0) == 5 && gr_crc32c_combine(0, 5, 77) == 5, "nothing on one side");
    /* 2^40 zero bytes after "123456789": doubled 40 times instead of read. */
    uint32_t z = gr_crc32c(0, "", 1);
    for (int i = 0; i < 40; i++) z = gr_crc32c_combine(z, z, UINT64_C(1) << i);
    CHECK(gr_crc32c_combine(gr_crc32c_combine(0xE3069283, z, UINT64_C(1) << 40), z, UINT64_C(1) << 40) ==
              gr_crc32c_combine(0xE3069283, gr_crc32c_combine(z, z, UINT64_C(1) << 40), UINT64_C(1) << 41),
          "lengths of 40 bits");
    files();
    return check_result();
}
