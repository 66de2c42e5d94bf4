/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_decay [THREADS] [REPEATS]: time of the decayed outer-product scan and of the token shift for one frame
 * of LION-RetNet 64 (2 heads of 32 keys, 64 values, chunks of 64) and LION-RWKV 64 (4 heads of 16, both
 * directions) on KITTI, 34 operator calls. Each call is repeated; printed is the sum of the best and of the
 * median times.
 * Numbers are random: decays of all speeds, as in a trained model.
 */
#include "perception/core/context.h"
#include "perception/core/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHANNELS = 64, MIXTURES = 5, MOST_REPEATS = 100, MAX_SLOTS = 16384 };

/* Rows, group length and calls of each level; frame 000134, levels below the first rounded. */
static const struct {
    int rows, length, calls;
} levels[] = {
    {6911, 4096, 2}, {2900, 4096, 4},  {1800, 4096, 2}, {9097, 2048, 2}, {3820, 2048, 4},
    {2370, 2048, 2}, {11108, 1024, 2}, {4670, 1024, 4}, {2890, 1024, 2}, {13291, 512, 2},
    {5580, 512, 4},  {3460, 512, 2},   {14220, 256, 2},
};
enum { LEVELS = sizeof levels / sizeof levels[0] };

static uint64_t seed = 1;
static sv_tensor filled(int rows, int columns, float from, float to)
{
    float *values = malloc((size_t)rows * (size_t)columns * sizeof *values);
    if (!values) exit(4);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)rows * columns; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = from + (to - from) * (float)(seed >> 40) * 0x1p-24f;
    }
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

typedef struct inputs {
    sv_tensor qkv, log, heads, bonus, mixed, y;
} inputs;

typedef enum what { RETNET, RWKV, MIX, KINDS } what;

static sv_status run(sv_ctx *c, what kind, const inputs *in, const sv_sequence *seq, int slots)
{
    const sv_tensor q = sv_columns(in->qkv, 0, CHANNELS), k = sv_columns(in->qkv, CHANNELS, CHANNELS);
    if (kind == MIX) return sv_token_mix(c, slots_of(in->mixed, slots), q, slots_of(in->mixed, slots), seq);
    if (kind == RETNET) {
        const sv_decay_rule rule = {
            .heads = 2, .decay = SV_DECAY_HEAD, .read = SV_READ_CHUNK, .chunk = 64, .scale = 1};
        return sv_decay_scan(c, slots_of(in->y, slots), q, k, sv_columns(in->qkv, 2 * CHANNELS, 2 * CHANNELS),
                             in->heads, SV_NONE, &rule, seq, false);
    }
    const sv_decay_rule rule = {.heads = 4, .decay = SV_DECAY_CHANNEL, .read = SV_READ_BEFORE, .scale = 1};
    const sv_tensor y = sv_columns(slots_of(in->y, slots), 0, CHANNELS),
                    v = sv_columns(in->qkv, 2 * CHANNELS, CHANNELS);
    sv_sequence back = *seq;
    back.reverse = true;
    SV_TRY(sv_decay_scan(c, y, q, k, v, in->log, SV_NONE, &rule, &back, false));
    return sv_decay_scan(c, y, q, k, v, in->log, in->bonus, &rule, seq, true);
}

int main(int argc, char **argv)
{
    static const char *const names[KINDS] = {"RetNet scan", "RWKV scans", "RWKV token mix"};
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = argc > 1 ? atoi(argv[1]) : 0;
    const int repeats = argc > 2 && atoi(argv[2]) > 0 && atoi(argv[2]) < MOST_REPEATS ? atoi(argv[2]) : 5;
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 4;
    inputs in = {.qkv = filled(MAX_SLOTS, 4 * CHANNELS, -1, 1),
                 .log = filled(MAX_SLOTS, CHANNELS, -6, 0),
                 .heads = filled(1, 2, -0.03f, -0.01f),
                 .bonus = filled(1, CHANNELS, 0, 1),
                 .mixed = filled(MAX_SLOTS, MIXTURES * CHANNELS, 0, 1),
                 .y = filled(MAX_SLOTS, 2 * CHANNELS, 0, 0)};
    for (int i = 0; i < MAX_SLOTS * CHANNELS; i++) sv_f32(in.log)[i] = -expf(sv_f32(in.log)[i]);
    static int32_t index[MAX_SLOTS];
    for (int kind = 0; kind < KINDS; kind++) {
        double best = 0, median = 0;
        for (int level = 0; level < LEVELS; level++) {
            const int rows = levels[level].rows, length = levels[level].length;
            const int slots = (rows + length - 1) / length * length;
            for (int i = 0; i < slots; i++) index[i] = i % rows;
            const sv_sequence seq = {.index = sv_view(index, SV_I32, slots, 1), .length = length};
            double ms[MOST_REPEATS];
            for (int i = -1; i < repeats; i++) {
                const double start = sv_clock_ms();
                if (run(c, (what)kind, &in, &seq, slots) != SV_OK) {
                    fprintf(stderr, "%s\n", sv_error_message(c));
                    return 4;
                }
                if (i >= 0) ms[i] = sv_clock_ms() - start;
            }
            qsort(ms, (size_t)repeats, sizeof *ms, ascending);
            best += ms[0] * levels[level].calls;
            median += ms[repeats / 2] * levels[level].calls;
        }
        printf("%-16s best %7.2f ms   median %7.2f ms   %d threads\n", names[kind], best, median,
               sv_pool_threads(c->pool));
    }
    sv_ctx_close(c);
    return 0;
}
