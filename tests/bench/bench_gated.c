/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_gated [THREADS] [REPEATS]: time of the mLSTM cell, of TTT-Linear, of the norms over heads and of the
 * block-diagonal products for one frame of LION-xLSTM 64 and LION-TTT 64 on KITTI (34 operator calls; xLSTM
 * walks each group twice). Prints the best and the median of the repeats. Numbers are random.
 */
#include "perception/core/context.h"
#include "perception/core/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 64, INNER = 128, HEADS = 4, REPEATS = 100, MAX_SLOTS = 16384 };

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

/* What the four are called with. */
typedef struct inputs {
    sv_tensor qkv, gates, h, az, y, vector, blocks, token, model;
} inputs;

typedef struct timed {
    const char *name;
    int calls; /* per operator call */
    sv_status (*run)(sv_ctx *c, const inputs *in, int slots, int length);
} timed;

static sv_status run_mlstm(sv_ctx *c, const inputs *in, int slots, int length)
{
    const sv_tensor qkv = slots_of(in->qkv, slots), gates = slots_of(in->gates, slots);
    const sv_sequence seq = {.length = length};
    return sv_mlstm(c, slots_of(in->h, slots), sv_columns(qkv, 0, INNER), sv_columns(qkv, INNER, INNER),
                    sv_columns(qkv, 2 * INNER, INNER), sv_columns(gates, 0, HEADS),
                    sv_columns(gates, HEADS, HEADS), HEADS, 1e-6f, &seq);
}

static sv_status run_ttt(sv_ctx *c, const inputs *in, int slots, int length)
{
    const sv_tensor qkv = slots_of(in->qkv, slots);
    const sv_sequence seq = {.length = length};
    sv_tensor norm = in->vector;
    norm.dim[1] = norm.pitch = WIDTH;
    const sv_ttt_weights w = {.heads = HEADS,
                              .eps = 1e-6f,
                              .w = in->model,
                              .b = norm,
                              .norm_weight = norm,
                              .norm_bias = norm,
                              .token = in->token,
                              .rotary = sv_view(in->model.data, SV_F32, 16, WIDTH / HEADS)};
    return sv_ttt_linear(c, sv_columns(slots_of(in->h, slots), 0, WIDTH), sv_columns(qkv, 0, WIDTH),
                         sv_columns(qkv, WIDTH, WIDTH), sv_columns(qkv, 2 * WIDTH, WIDTH),
                         sv_columns(slots_of(in->gates, slots), 0, HEADS), &w, &seq);
}

static sv_status run_norm(sv_ctx *c, const inputs *in, int slots, int length)
{
    (void)length;
    const sv_tensor az = slots_of(in->az, slots);
    const sv_head_norm_spec how = {.groups = HEADS,
                                   .centred = true,
                                   .eps = 1e-5f,
                                   .weight = in->vector,
                                   .bias = in->vector,
                                   .skip = sv_columns(az, 0, INNER),
                                   .skip_weight = in->vector,
                                   .gate = sv_columns(az, INNER, INNER)};
    return sv_head_norm(c, slots_of(in->y, slots), slots_of(in->h, slots), SV_NONE, &how);
}

static sv_status run_blocks(sv_ctx *c, const inputs *in, int slots, int length)
{
    (void)length;
    return sv_block_linear(c, sv_columns(slots_of(in->qkv, slots), 0, INNER), slots_of(in->h, slots), SV_NONE,
                           in->blocks, in->vector);
}

static const timed all[] = {{"mlstm", 2, run_mlstm},
                            {"head_norm", 2, run_norm},
                            {"block_linear", 6, run_blocks},
                            {"ttt_linear", 1, run_ttt}};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Milliseconds of all calls of a frame. */
static double time_frame(sv_ctx *c, const timed *what, const inputs *in)
{
    const double from = sv_clock_ms();
    for (int level = 0; level < LEVELS; level++) {
        const int slots =
            (levels[level].rows + levels[level].length - 1) / levels[level].length * levels[level].length;
        for (int call = 0; call < levels[level].calls * what->calls; call++)
            if (what->run(c, in, slots, levels[level].length) != SV_OK) {
                fprintf(stderr, "%s\n", sv_error_message(c));
                exit(4);
            }
    }
    return sv_clock_ms() - from;
}

int main(int argc, char **argv)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = argc > 1 ? atoi(argv[1]) : 0;
    const int repeats = argc > 2 && atoi(argv[2]) > 0 && atoi(argv[2]) < REPEATS ? atoi(argv[2]) : 5;
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 4;
    const inputs in = {.qkv = filled(MAX_SLOTS, 3 * INNER, -1, 1),
                       .gates = filled(MAX_SLOTS, 2 * HEADS, 0, 0.06f),
                       .h = filled(MAX_SLOTS, INNER, -1, 1),
                       .az = filled(MAX_SLOTS, 2 * INNER, -2, 2),
                       .y = filled(MAX_SLOTS, INNER, 0, 0),
                       .vector = filled(1, INNER, 0.5f, 1),
                       .blocks = filled(INNER, 4, -1, 1),
                       .token = filled(1, 16, 0, 1),
                       .model = filled(WIDTH, WIDTH / HEADS, -0.5f, 0.5f)};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        double ms[REPEATS];
        time_frame(c, &all[i], &in);
        for (int repeat = 0; repeat < repeats; repeat++) ms[repeat] = time_frame(c, &all[i], &in);
        qsort(ms, (size_t)repeats, sizeof *ms, ascending);
        printf("%-14s best %7.2f ms   median %7.2f ms\n", all[i].name, ms[0], ms[repeats / 2]);
    }
    const sv_tensor used[] = {in.qkv, in.gates, in.h, in.az, in.y, in.vector, in.blocks, in.token, in.model};
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++) free(used[i].data);
    sv_ctx_close(c);
    return 0;
}
