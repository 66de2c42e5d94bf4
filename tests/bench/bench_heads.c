/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_heads [THREADS] [REPEATS]: what the center-based heads do behind their convolutions, at the sizes of
 * the official models: Waymo's map of 472 x 472 cells and 3 classes, nuScenes' of 180 x 180 cells, 10 classes
 * and 200 queries. Prints the best and the median milliseconds of the repeats, and the least processor time
 * of all threads together, which other work on the machine disturbs less. Numbers are random.
 */
#include "perception/core/context.h"
#include "perception/core/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    WIDE = 472,
    WIDE_CLASSES = 3,
    WIDE_PICKS = 500,
    SIDE = 180,
    CLASSES = 10,
    QUERIES = 200,
    CHANNELS = 128
};

static uint64_t seed = 1;
static float next(float from, float to)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return from + (to - from) * (float)(seed >> 40) * 0x1p-24f;
}

static sv_tensor filled(int rows, int columns, float from, float to)
{
    float *values = malloc((size_t)rows * (size_t)columns * sizeof *values);
    if (!values) exit(4);
    for (int64_t i = 0; i < (int64_t)rows * columns; i++) values[i] = next(from, to);
    return sv_view(values, SV_F32, rows, columns);
}

static sv_tensor numbers(int rows, int most)
{
    int32_t *values = malloc((size_t)rows * sizeof *values);
    if (!values) exit(4);
    for (int i = 0; i < rows; i++) values[i] = (int32_t)next(0, (float)most);
    return sv_view(values, SV_I32, rows, 1);
}

typedef struct inputs {
    sv_tensor wide_logits, wide_heat, heat, peaks, q, y, cells, sums, features, position;
    sv_cell_picks wide_picks, picks;
    sv_linear_weights key_value;
} inputs;

static sv_cell_picks picks_of(int rows, int cells, int classes)
{
    return (sv_cell_picks){.row = numbers(rows, cells),
                           .channel = numbers(rows, classes),
                           .score = filled(rows, 1, 0, 1),
                           .place = filled(rows, 2, 0, 100)};
}

static sv_status run_sigmoid(sv_ctx *c, const inputs *in)
{
    return sv_map1(c, in->wide_heat, in->wide_logits, SV_MAP_sigmoid);
}
static sv_status run_wide_top(sv_ctx *c, const inputs *in)
{
    const sv_cell_order order = {.height = WIDE, .width = WIDE};
    return sv_top_cells(c, &in->wide_picks, in->wide_heat, 1, &order);
}
static sv_status run_peaks(sv_ctx *c, const inputs *in)
{
    const sv_peak_rule rule = {.height = SIDE, .width = SIDE, .radius = 1, .alone = 3u << 8};
    return sv_local_peaks(c, in->peaks, in->heat, 1, &rule);
}
static sv_status run_top(sv_ctx *c, const inputs *in)
{
    const sv_cell_order order = {.height = SIDE, .width = SIDE, .by_column = true, .middle = 0.5f};
    return sv_top_cells(c, &in->picks, in->peaks, 1, &order);
}
static sv_status run_positions(sv_ctx *c, const inputs *in)
{
    return sv_map2(c, in->sums, in->features, in->position, SV_MAP_add);
}
static sv_status run_projection(sv_ctx *c, const inputs *in)
{
    return sv_linear(c, in->cells, in->sums, SV_NONE, &in->key_value, SV_MAP_identity);
}
static sv_status run_attention(sv_ctx *c, const inputs *in)
{
    const sv_cell_window window = {.heads = 8, .radius = 20, .width = SIDE, .scale = 0.25f};
    return sv_window_attention(c, in->y, in->q, sv_columns(in->cells, 0, CHANNELS),
                               sv_columns(in->cells, CHANNELS, CHANNELS), in->picks.row, &window);
}

static const struct {
    const char *name;
    sv_status (*run)(sv_ctx *c, const inputs *in);
} all[] = {{"Waymo: sigmoid of the heat map", run_sigmoid},
           {"Waymo: the best 500", run_wide_top},
           {"nuScenes: peaks", run_peaks},
           {"nuScenes: the best 200", run_top},
           {"nuScenes: positions added", run_positions},
           {"nuScenes: keys and values", run_projection},
           {"nuScenes: attention", run_attention}};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = argc > 1 ? atoi(argv[1]) : 0;
    const int repeats = argc > 2 ? atoi(argv[2]) : 20;
    sv_ctx *c = NULL;
    double *times = calloc((size_t)(repeats > 0 ? repeats : 1), sizeof *times);
    if (repeats < 1 || !times || sv_ctx_open(&def, &c) != SV_OK) return 2;
    sv_arena weights;
    sv_arena_init(&weights, "weights", c->device);
    c->weights = &weights;
    inputs in = {.wide_logits = filled(WIDE * WIDE, WIDE_CLASSES, -6, 2),
                 .wide_heat = filled(WIDE * WIDE, WIDE_CLASSES, 0, 1),
                 .heat = filled(SIDE * SIDE, CLASSES, 0, 1),
                 .peaks = filled(SIDE * SIDE, CLASSES, 0, 1),
                 .q = filled(QUERIES, CHANNELS, -1, 1),
                 .y = filled(QUERIES, CHANNELS, -1, 1),
                 .cells = filled(SIDE * SIDE, 2 * CHANNELS, -1, 1),
                 .sums = filled(SIDE * SIDE, CHANNELS, -1, 1),
                 .features = filled(SIDE * SIDE, CHANNELS, -1, 1),
                 .position = filled(SIDE * SIDE, CHANNELS, -1, 1),
                 .wide_picks = picks_of(WIDE_PICKS, WIDE * WIDE, WIDE_CLASSES),
                 .picks = picks_of(QUERIES, SIDE * SIDE, CLASSES)};
    sv_status status = sv_linear_prepare(c, &in.key_value, filled(2 * CHANNELS, CHANNELS, -1, 1),
                                         filled(1, 2 * CHANNELS, -1, 1));
    printf("%d threads, %d repeats\n%-34s %9s %9s %9s\n", sv_pool_threads(c->pool), repeats, "", "best ms",
           "median", "cpu ms");
    for (size_t k = 0; k < sizeof all / sizeof *all && status == SV_OK; k++) {
        double least = 1e9;
        for (int i = 0; i < repeats && status == SV_OK; i++) {
            const clock_t used = clock();
            const double from = sv_clock_ms();
            status = all[k].run(c, &in);
            times[i] = sv_clock_ms() - from;
            const double cpu = 1e3 * (double)(clock() - used) / CLOCKS_PER_SEC;
            if (cpu < least) least = cpu;
        }
        qsort(times, (size_t)repeats, sizeof *times, ascending);
        printf("%-34s %9.3f %9.3f %9.3f\n", all[k].name, times[0], times[repeats / 2], least);
    }
    if (status != SV_OK) fprintf(stderr, "%s\n", sv_error_message(c));
    sv_ctx_close(c);
    sv_arena_free(&weights);
    free(times);
    return status == SV_OK ? 0 : 4;
}
