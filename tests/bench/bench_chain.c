/* SPDX-License-Identifier: Apache-2.0
 *
 * Time, memory and error of the CPU's convolution chain on BaseBEVBackbone with the anchor head (KITTI),
 * random weights.
 *
 *     bench_chain [occupancy.bin] [threads] [rounds]
 *
 * occupancy.bin: int32 rows (b,z,y,x) of the voxels; without it, random walks that fill about as many cells.
 * The error is that of the last 3x3 maps and of the heads against direct products (sums in another order) of
 * the same chain.
 *
 * Recorded on two cores of a Xeon with AMX that were busy otherwise (processor time, so read ratios only),
 * KITTI 000134 with 14220 voxels, sum of both threads: direct, all tiles 6.8 s; leaving out tiles 2.7 s;
 * Winograd alone 3.2 s; both 1.1 s; with matrix tiles 0.95 s in fp32 and 0.65 s in tf32. Greatest error of
 * the heads against direct products (values to 6.6): Winograd 2e-5, matrix tiles 1e-5 in fp32 and 3e-4 in
 * tf32.
 */
#include "backbones/chain_cpu.h"
#include "perception/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { HEIGHT = 400, WIDTH = 352, CHANNELS = 128, HEADS = 3 };

static uint64_t state = 1;
static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53;
}
static double normal(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum - 6;
}

static sv_chain_def def = {.in_channels = CHANNELS, .height = HEIGHT, .width = WIDTH};

static int node(sv_chain_kind kind, int in, int out, int in_channels, int kernel, int stride, int channels,
                int first, bool relu)
{
    const size_t count = (size_t)in_channels * (size_t)channels * (size_t)kernel * (size_t)kernel;
    float *w = malloc(count * sizeof *w), *bias = malloc((size_t)channels * sizeof *bias);
    const double deviation = sqrt(2.0 / (in_channels * (kind == SV_CHAIN_CONV ? kernel * kernel : 1)));
    for (size_t i = 0; i < count; i++) w[i] = (float)(deviation * normal());
    for (int i = 0; i < channels; i++) bias[i] = (float)(0.2 * normal());
    def.nodes[def.node_count++] = (sv_chain_node){.kind = kind,
                                                  .in = in,
                                                  .out = out,
                                                  .kernel = kernel,
                                                  .stride = stride,
                                                  .in_channels = in_channels,
                                                  .out_channels = channels,
                                                  .out_first = first,
                                                  .add = -1,
                                                  .relu = relu,
                                                  .w = w,
                                                  .bias = bias};
    return out;
}

static void check(sv_ctx *c, sv_status status)
{
    if (status == SV_OK) return;
    fprintf(stderr, "%s\n", sv_error_message(c));
    exit(1);
}

/* Milliseconds of processor time, all threads: on a busy machine the better measure. */
static double processor_ms(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return 1e3 * (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-3 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static double resident_mb(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0) kb = atof(line + 6);
    if (f) fclose(f);
    return kb / 1024;
}

int main(int argc, char **argv)
{
    const int threads = argc > 2 ? atoi(argv[2]) : 0, rounds = argc > 3 ? atoi(argv[3]) : 5;
    static const int head[HEADS] = {18, 42, 12};
    int v = 0, next = 1;
    for (int i = 0; i < 6; i++) v = node(SV_CHAIN_CONV, v, next++, 128, 3, 1, 128, 0, true);
    const int low = v;
    v = node(SV_CHAIN_CONV, v, next++, 128, 3, 2, 256, 0, true);
    for (int i = 0; i < 5; i++) v = node(SV_CHAIN_CONV, v, next++, 256, 3, 1, 256, 0, true);
    const int high = v, joined = next++;
    node(SV_CHAIN_DECONV, low, joined, 128, 1, 1, 256, 0, true);
    node(SV_CHAIN_DECONV, high, joined, 256, 2, 2, 256, 256, true);
    int slot[HEADS + 2] = {0};
    for (int i = 0; i < HEADS; i++)
        slot[i] = node(SV_CHAIN_CONV, joined, next++, 512, 1, 1, head[i], 0, false);
    slot[HEADS] = low, slot[HEADS + 1] = high;

    const size_t cells = (size_t)HEIGHT * WIDTH;
    float *in = calloc(cells * CHANNELS, sizeof *in);
    int32_t *coords = malloc(cells * 16), offsets[2] = {0};
    int rows = 0;
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (file)
        rows = (int)fread(coords, 16, cells, file);
    else
        for (int walk = 0; walk < 220; walk++) {
            double y = HEIGHT * uniform(), x = WIDTH * uniform() * uniform();
            for (int i = 0; i < 70; i++, rows++) {
                y = fmin(fmax(y + 1.2 * normal(), 0), HEIGHT - 1);
                x = fmin(fmax(x + 1.2 * normal(), 0), WIDTH - 1);
                memcpy(coords + 4 * rows, (int32_t[4]){0, 0, (int32_t)y, (int32_t)x}, 16);
            }
        }
    if (file) fclose(file);
    offsets[1] = rows;
    for (int i = 0; i < rows; i++) {
        float *cell = in + ((size_t)coords[4 * i + 2] * WIDTH + (size_t)coords[4 * i + 3]) * CHANNELS;
        for (int k = 0; k < CHANNELS; k++) cell[k] = (float)normal();
    }

    sv_ctx_def options = sv_ctx_def_default();
    options.threads = threads;
    sv_ctx *c = NULL;
    if (sv_ctx_open(&options, &c) != SV_OK) return 1;
    c->profile.on = true;
    printf("%s, %d threads, %d voxels\n", sv_isa_name(sv_simd_isa()), sv_pool_threads(c->pool), rows);
    sv_tensor map = sv_view(in, SV_F32, (int)cells, CHANNELS), list = sv_view(coords, SV_I32, rows, 4);
    list.offsets = offsets;
    list.batch = 1;
    float *out[HEADS + 2], *reference[HEADS + 2];
    size_t count[HEADS + 2];
    sv_chain_output outputs[HEADS + 2];
    for (int i = 0; i < HEADS + 2; i++) {
        const int channels = i < HEADS ? head[i] : i == HEADS ? 128 : 256;
        const int n = i == HEADS + 1 ? (int)cells / 4 : (int)cells;
        count[i] = (size_t)n * (size_t)channels;
        out[i] = malloc(count[i] * sizeof(float));
        reference[i] = malloc(count[i] * sizeof(float));
        outputs[i] = (sv_chain_output){slot[i], sv_view(out[i], SV_F32, n, channels)};
    }
    static const struct {
        const char *name;
        sv_precision precision;
        sv_chain_options options;
    } ways[] = {
        {"direct fp32, all tiles", SV_FP32, {false, false, false}},
        {"direct fp32, live tiles", SV_FP32, {false, false, true}},
        {"Winograd fp32, all tiles", SV_FP32, {true, false, false}},
        {"Winograd fp32, live tiles", SV_FP32, {true, false, true}},
        {"matrix tiles fp32, live tiles", SV_FP32, {true, true, true}},
        {"matrix tiles tf32, live tiles", SV_TF32, {true, true, true}},
    };
    printf("%-32s %8s %8s %8s %9s %9s %9s  %s\n", "", "ms", "CPU ms", "GFLOP/s", "scratch", "weights",
           "peak MB", "greatest error (of greatest value): heads, level 0, level 1");
    for (int way = 0; way < (int)(sizeof ways / sizeof *ways); way++) {
        if (argc > 4 && !strchr(argv[4], '0' + way)) continue;
        c->precision = ways[way].precision;
        sv_arena weights;
        sv_arena_init(&weights, "weights", c->device);
        c->weights = &weights;
        sv_chain *chain = NULL;
        check(c, sv_chain_cpu_prepare(c, &chain, &def, ways[way].options));
        check(c, sv_chain_run(c, chain, 1, map, list, outputs, HEADS + 2));
        double error[HEADS + 2] = {0}, greatest[HEADS + 2] = {0};
        for (int i = 0; i < HEADS + 2; i++)
            for (size_t k = 0; k < count[i]; k++) {
                if (way == 0) reference[i][k] = out[i][k];
                error[i] = fmax(error[i], fabs((double)out[i][k] - (double)reference[i][k]));
                greatest[i] = fmax(greatest[i], fabs((double)reference[i][k]));
            }
        sv_arena_free(&c->scratch);
        sv_arena_init(&c->scratch, "scratch", c->device);
        double best = 1e30, processor = 1e30;
        for (int round = 0; round < (way == 0 ? 1 : rounds); round++) {
            sv_profile_frame_begin(c);
            check(c, sv_stage_begin(c, "chain"));
            const double start = sv_clock_ms(), begun = processor_ms();
            check(c, sv_chain_run(c, chain, 1, map, list, outputs, HEADS));
            best = fmin(best, sv_clock_ms() - start);
            processor = fmin(processor, processor_ms() - begun);
            check(c, sv_stage_end(c));
            check(c, sv_arena_reset(c, &c->scratch));
        }
        printf("%-32s %8.1f %8.1f %8.0f %9.1f %9.1f %9.1f  %.2g (%.3g), %.2g (%.3g), %.2g (%.3g)\n",
               ways[way].name, best, processor, 515.0 / best * 1000, (double)c->scratch.peak / 1e6,
               (double)weights.peak / 1e6, resident_mb(), fmax(error[0], fmax(error[1], error[2])),
               fmax(greatest[0], fmax(greatest[1], greatest[2])), error[3], greatest[3], error[4],
               greatest[4]);
        fflush(stdout);
        sv_arena_free(&weights);
    }
    sv_ctx_close(c);
    return 0;
}
