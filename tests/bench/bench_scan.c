/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_scan [THREADS] [REPEATS]: time of the causal convolution and the
 * selective scan for one frame of LION-Mamba 64 on KITTI (34 operator calls, two
 * directions each; 128 channels, 16 states). Prints the best and the median
 * of the repeats. Numbers are random: decays of all speeds, as in a trained model.
 */
#include "perception/core/context.h"
#include "perception/core/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHANNELS = 128, STATES = 16, TAPS = 4, REPEATS = 100 };

/* Rows, group length and calls of each level; frame 000134, levels below the first rounded. */
static const struct {
    int rows, length, calls;
} levels[] = {
    {6911, 4096, 2}, {2900, 4096, 4},  {1800, 4096, 2}, {9097, 2048, 2}, {3820, 2048, 4},
    {2370, 2048, 2}, {11108, 1024, 2}, {4670, 1024, 4}, {2890, 1024, 2}, {13291, 512, 2},
    {5580, 512, 4},  {3460, 512, 2},   {14220, 256, 2},
};
enum { LEVELS = sizeof levels / sizeof levels[0], MAX_SLOTS = 16384 };

static uint64_t seed = 1;
static float uniform(float from, float to)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return from + (to - from) * (float)(seed >> 40) * 0x1p-24f;
}

static sv_tensor filled(int rows, int columns, float from, float to)
{
    float *values = malloc((size_t)rows * (size_t)columns * sizeof *values);
    if (!values) exit(4);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)rows * columns; i++) values[i] = uniform(from, to);
    return sv_view(values, SV_F32, rows, columns);
}

static sv_tensor slots_of(sv_tensor t, int slots)
{
    t.dim[0] = slots;
    return t;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, double *ms, int repeats, double work, const char *unit)
{
    qsort(ms, (size_t)repeats, sizeof *ms, ascending);
    printf("%-16s best %7.2f ms   median %7.2f ms   %6.2f %s\n", what, ms[0], ms[repeats / 2],
           work / ms[0] * 1e-6, unit);
}

int main(int argc, char **argv)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = argc > 1 ? atoi(argv[1]) : 0;
    const int repeats = argc > 2 && atoi(argv[2]) > 0 && atoi(argv[2]) < REPEATS ? atoi(argv[2]) : 5;
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 4;

    const sv_tensor xz = filled(MAX_SLOTS, 2 * CHANNELS, -2, 2), u = filled(MAX_SLOTS, CHANNELS, -2, 2);
    const sv_tensor delta = filled(MAX_SLOTS, CHANNELS, 0.001f, 1), bc = filled(MAX_SLOTS, 2 * STATES, -1, 1);
    const sv_tensor y = filled(MAX_SLOTS, CHANNELS, 0, 0), w = filled(CHANNELS, TAPS, -1, 1);
    const sv_tensor bias = filled(1, CHANNELS, -1, 1), a = filled(CHANNELS, STATES, -16, -0.1f);
    static int32_t index[MAX_SLOTS];
    double conv_ms[REPEATS], scan_ms[REPEATS], exponentials = 0, moved = 0;
    for (int repeat = -1; repeat < repeats; repeat++) {
        double conv = 0, scan = 0;
        exponentials = moved = 0;
        for (int level = 0; level < LEVELS; level++) {
            const int rows = levels[level].rows, length = levels[level].length;
            const int slots = (rows + length - 1) / length * length;
            for (int i = 0; i < slots; i++) index[i] = i % rows;
            sv_sequence seq = {.index = sv_view(index, SV_I32, slots, 1), .length = length};
            for (int call = 0; call < 2 * levels[level].calls; call++) {
                seq.reverse = call % 2 != 0;
                const double start = sv_clock_ms();
                if (sv_causal_conv(c, slots_of(u, slots), sv_columns(xz, 0, CHANNELS), w, bias, &seq,
                                   SV_MAP_silu))
                    break;
                const double middle = sv_clock_ms();
                if (sv_selective_scan(c, slots_of(y, slots), u, delta, a, sv_columns(bc, 0, STATES),
                                      sv_columns(bc, STATES, STATES), bias,
                                      sv_columns(xz, CHANNELS, CHANNELS), &seq, seq.reverse))
                    break;
                conv += middle - start;
                scan += sv_clock_ms() - middle;
                exponentials += (double)slots * CHANNELS * STATES;
                moved += (double)slots * CHANNELS * 8;
            }
        }
        if (c->error.status != SV_OK) {
            fprintf(stderr, "%s\n", sv_error_message(c));
            return 4;
        }
        if (repeat >= 0) conv_ms[repeat] = conv, scan_ms[repeat] = scan;
    }
    printf("%.0f token-directions, %d threads\n", exponentials / (CHANNELS * STATES),
           sv_pool_threads(c->pool));
    print_times("causal_conv", conv_ms, repeats, moved, "GB/s");
    print_times("selective_scan", scan_ms, repeats, exponentials, "Gexp/s");
    sv_ctx_close(c);
    return 0;
}
