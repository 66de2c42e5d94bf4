/* SPDX-License-Identifier: Apache-2.0
 *
 * What the processor can do at most: fused multiply-adds from registers, on every thread of the pool, with the widest
 * instructions in use. Benchmarks state their rates as shares of it.
 */
#ifndef SV_PEAK_H
#define SV_PEAK_H

#include "pool.h"

/* GFLOP/s (2 per multiply-add), the best of several short runs; takes about 0.2 s. */
double sv_peak_gflops(sv_pool *pool);

#endif
