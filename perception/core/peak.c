/* SPDX-License-Identifier: Apache-2.0 */
#include "peak.h"

#include "peak_kernels.h"
#include "profile.h"
#include "simd.h"

SV_SIMD_TABLE(sv_peak_kernels);

enum { ROUNDS = 1 << 20, RUNS = 8 };

typedef struct job {
    const sv_peak_kernels *kernels;
    volatile float sink;
} job;

static void run(void *arg, int task, int worker)
{
    (void)worker;
    job *k = arg;
    k->sink = k->kernels->multiply_add(ROUNDS, 1e-3f * (float)(task + 1));
}

double sv_peak_gflops(sv_pool *pool)
{
    job k = {.kernels = SV_SIMD_PICK(sv_peak_kernels)};
    const int threads = sv_pool_threads(pool);
    double best = 0;
    for (int i = 0; i < RUNS; i++) {
        const double began = sv_clock_ms();
        sv_pool_run(pool, run, &k, threads);
        const double gflops =
            2.0 * ROUNDS * SV_PEAK_CHAINS * k.kernels->lanes * threads / ((sv_clock_ms() - began) * 1e6);
        if (gflops > best) best = gflops;
    }
    return best;
}
