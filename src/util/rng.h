/** @file rng.h  Counter-based random numbers: a pure function of (seed, stream, index).  [local]
 *
 * Nothing to save in a checkpoint, nothing that depends on the rank count or on call order.
 * Source  Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3":
 *         Philox 4x32-10 (known-answer vectors in tests/unit/test_rng.c).
 */
#ifndef GR_UTIL_RNG_H
#define GR_UTIL_RNG_H
#include "util/status.h"
#include <stdint.h>

GR_C_BEGIN
/** 128 random bits. */
void gr_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);

/** Uniform in [0, 1), 24 bits. */
float gr_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/** Standard normal (Box-Muller); independent of gr_uniform at the same place. */
float gr_normal(uint64_t seed, uint64_t stream, uint64_t index);

/** A stream number for a name: equal names give equal streams on every machine. */
uint64_t gr_stream_of(const char *name);

/** Image of i, 0 <= i < n, under a pseudo-random permutation of [0, n) keyed by (seed, epoch).
 * -1 when i is outside.  Cycle-walking Feistel network; O(1), no table.
 *
 * Source  Black and Rogaway 2002. */
int64_t gr_permute(uint64_t seed, uint64_t epoch, int64_t i, int64_t n);
GR_C_END
#endif
