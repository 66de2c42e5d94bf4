/* SPDX-License-Identifier: Apache-2.0 */
#include "peak.h"

#include "peak_kernels.h"
#include "simd.h"

#include <string.h>

SV_SIMD_TABLE(sv_peak_kernels);

enum { ROUNDS = 1 << 20, TILE_ROUNDS = 1 << 18, RUNS = 8 };

typedef struct job {
    float (*run)(int rounds, float seed);
    int rounds;
    char *to;
    const char *from;
    size_t piece; /* bytes of a thread */
    float sink;
} job;

static void compute(void *arg, int task, int worker)
{
    (void)worker;
    job *k = arg;
    const float value = k->run(k->rounds, 1e-3f * (float)(task + 1));
    if (value == 0x1p-100f) k->sink = value; /* never, which the compiler cannot know */
}

static void copy(void *arg, int task, int worker)
{
    (void)worker;
    const job *k = arg;
    memcpy(k->to + (size_t)task * k->piece, k->from + (size_t)task * k->piece, k->piece);
}

/* Seconds of the fastest run on all threads. */
static double fastest(sv_pool *pool, void (*task)(void *, int, int), job *k)
{
    double best = 0;
    for (int i = 0; i < RUNS; i++) {
        const double began = sv_clock_ms();
        sv_pool_run(pool, task, k, sv_pool_threads(pool));
        const double seconds = 1e-3 * (sv_clock_ms() - began);
        if (i == 0 || seconds < best) best = seconds;
    }
    return best;
}

sv_status sv_cpu_ceilings(sv_ctx *c, sv_ceilings *out)
{
    const sv_peak_kernels *kernels = SV_SIMD_PICK(sv_peak_kernels);
    const double threads = sv_pool_threads(c->pool);
    *out = (sv_ceilings){0};
    job k = {.run = kernels->multiply_add, .rounds = ROUNDS};
    out->vector_gflops =
        2e-9 * ROUNDS * SV_PEAK_CHAINS * kernels->lanes * threads / fastest(c->pool, compute, &k);
    k.run = sv_peak_tiles();
    k.rounds = TILE_ROUNDS;
    if (k.run) {
        out->matrix_products = c->precision == SV_FP32 ? 6 : 3; /* amx.h */
        out->matrix_gflops = 1e-9 * TILE_ROUNDS * SV_PEAK_TILE_FLOP * threads /
                             fastest(c->pool, compute, &k) / out->matrix_products;
    }
    k.to = c->device->alloc(SV_PEAK_BYTES);
    char *from = c->device->alloc(SV_PEAK_BYTES);
    k.from = from;
    k.piece = SV_PEAK_BYTES / (size_t)threads;
    const bool room = k.to && from;
    if (room) {
        memset(from, 1, SV_PEAK_BYTES);
        memset(k.to, 2, SV_PEAK_BYTES); /* both are there before they are timed */
        out->copy_gb = 2e-9 * (double)k.piece * threads / fastest(c->pool, copy, &k);
    }
    c->device->free(from);
    c->device->free(k.to);
    SV_CHECK(c, room, SV_NO_MEMORY, "no memory for a copy of %d MiB", SV_PEAK_BYTES >> 20);
    return SV_OK;
}

sv_status sv_measure_ceilings(sv_ctx *c, sv_ceilings *out)
{
    return c->device->ceilings(c, out);
}
