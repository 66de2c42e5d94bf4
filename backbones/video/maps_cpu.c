/* SPDX-License-Identifier: Apache-2.0
 *
 * The primitives of video blocks on the CPU.
 *
 * Convolution: a product of gathered rows (gemm.h), the cells under the taps of each cell from a table. Its weights are packed
 * in groups of columns that a second-level cache holds; a task takes one group through runs of cells of one or more maps, so
 * that a clip reads the weights seldom and a single 16 x 16 map of a stream still feeds several threads.
 * GroupNorm: moments of 64 cells and a channel at a time in float32, joined in double in a fixed order.
 * Scan: a task takes some cells through all frames. In stretches: first all stretches from zero, then each gets a^k times
 * the state at its beginning.
 */
#include "maps_kernels.h"
#include "perception/core/gemm.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/row_tasks.h"

#include <math.h>
#include <string.h>

/* ---- convolution ---------------------------------------------------------------------------------------- */

enum { GROUP_FLOATS = 200 * 1024, GROUP_STEP = 64, UNIT_ROWS = 128, UNITS = 4, FEW_TASKS = 32 };

/* Columns of a group: as many steps as keep it small. */
static int group_columns(int k, int n)
{
    const size_t step = sv_gemm_packed_count(k, GROUP_STEP);
    const int steps = (int)(GROUP_FLOATS / (step > 0 ? step : 1));
    const int columns = (steps < 1 ? 1 : steps) * GROUP_STEP;
    return columns < n ? columns : n;
}

sv_status sv_cpu_map_conv_prepare(sv_ctx *c, sv_map_conv_weights *out, sv_tensor w, sv_tensor bias,
                                  int kernel, int height, int width)
{
    const int taps = kernel * kernel, k = w.dim[0], n = w.dim[1], cells = height * width;
    const int columns = group_columns(k, n), groups = (n + columns - 1) / columns;
    const size_t each = (sv_gemm_packed_count(k, columns) + 15) / 16 * 16; /* groups begin at 64 bytes */
    sv_map_conv_weights r = {.in = k / taps, .out = n, .kernel = kernel, .height = height, .width = width};
    SV_TRY(sv_arena_alloc(c, c->weights, "packed map convolution", (size_t)groups * each * sizeof(float),
                          &r.packed));
    for (int g = 0; g < groups; g++)
        sv_gemm_pack((float *)r.packed + (size_t)g * each, k,
                     n - g * columns < columns ? n - g * columns : columns, sv_f32(w) + g * columns, w.pitch,
                     1);
    if (!sv_is_none(bias)) SV_TRY(sv_weight_upload(c, &r.bias, bias));
    void *patch = NULL;
    SV_TRY(sv_arena_alloc(c, c->weights, "cells under a kernel",
                          sizeof(int32_t) * (size_t)cells * (size_t)taps, &patch));
    r.patch = sv_view(patch, SV_I32, cells, taps);
    int32_t *at = patch;
    for (int cell = 0; cell < cells; cell++)
        for (int tap = 0; tap < taps; tap++) {
            const int y = cell / width + tap / kernel - kernel / 2,
                      x = cell % width + tap % kernel - kernel / 2;
            *at++ = y >= 0 && y < height && x >= 0 && x < width ? y * width + x : -1;
        }
    *out = r;
    return SV_OK;
}

typedef struct conv {
    const sv_map_conv_weights *w;
    sv_tensor y, x, add;
    sv_map map;
    int cells, tiles;          /* cells of a map, and runs of UNIT_ROWS of them */
    int units, per_task, runs; /* tiles of all maps; those of a task; tasks of a group */
    int columns;               /* of a group */
    size_t each;               /* floats of a group */
} conv;

/* Tile 'unit' of all maps, columns first..first+n-1. */
static void run_unit(const conv *v, int unit, int first, int n, const float *packed)
{
    const sv_map_conv_weights *w = v->w;
    const int64_t base = (int64_t)(unit / v->tiles) * v->cells;
    const int row = unit % v->tiles * UNIT_ROWS, left = v->cells - row;
    const sv_gemm g = {.k = w->in * w->kernel * w->kernel,
                       .n = n,
                       .b = packed,
                       .x = sv_f32(v->x) + base * v->x.pitch,
                       .x_pitch = v->x.pitch,
                       .parts = w->kernel * w->kernel,
                       .index = sv_i32(w->patch),
                       .index_pitch = w->patch.pitch,
                       .y = sv_f32(v->y) + base * v->y.pitch + first,
                       .y_pitch = v->y.pitch,
                       .add = sv_is_none(v->add) ? NULL : sv_f32(v->add) + base * v->add.pitch + first,
                       .add_pitch = v->add.pitch,
                       .bias = sv_is_none(w->bias) ? NULL : sv_f32(w->bias) + first,
                       .map = v->map};
    sv_gemm_run(&g, row, left < UNIT_ROWS ? left : UNIT_ROWS);
}

static void run_conv(void *arg, int task, int worker)
{
    (void)worker;
    const conv *v = arg;
    const int group = task / v->runs, first = group * v->columns, left = v->w->out - first;
    const int from = task % v->runs * v->per_task,
              end = v->units - from < v->per_task ? v->units : from + v->per_task;
    for (int unit = from; unit < end; unit++)
        run_unit(v, unit, first, left < v->columns ? left : v->columns,
                 (const float *)v->w->packed + (size_t)group * v->each);
}

sv_status sv_cpu_map_conv(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_map_conv_weights *w, sv_tensor add,
                          sv_map map)
{
    const int k = w->in * w->kernel * w->kernel, cells = w->height * w->width;
    conv v = {.w = w, .y = y, .x = x, .add = add, .map = map, .cells = cells};
    v.columns = group_columns(k, w->out);
    v.each = (sv_gemm_packed_count(k, v.columns) + 15) / 16 * 16;
    v.tiles = (cells + UNIT_ROWS - 1) / UNIT_ROWS;
    v.units = v.tiles * (y.dim[0] / cells);
    const int groups = (w->out + v.columns - 1) / v.columns;
    v.per_task = v.units * groups < FEW_TASKS ? 1 : UNITS;
    v.runs = (v.units + v.per_task - 1) / v.per_task;
    sv_pool_run(c->pool, run_conv, &v, groups * v.runs);
    sv_count_work(c, 2.0 * y.dim[0] * k * w->out, 4.0 * y.dim[0] * (w->in + w->out) + 4.0 * k * w->out);
    return SV_OK;
}

/* ---- GroupNorm ------------------------------------------------------------------------------------------ */

enum { MOMENT_ROWS = 64 };

typedef struct group_norm {
    const sv_maps_kernels *kernels;
    sv_tensor y, x;
    int cells, groups, blocks;  /* blocks of MOMENT_ROWS cells in a map */
    float *mean, *squares;      /* [maps*blocks, C] */
    float *centre, *factor;     /* [maps, C] */
    const float *weight, *bias; /* [C] */
    float eps;
    sv_map map;
} group_norm;

static void block_moments(void *arg, int task, int worker)
{
    (void)worker;
    const group_norm *g = arg;
    const int channels = g->y.dim[1], first = task % g->blocks * MOMENT_ROWS;
    const int rows = g->cells - first < MOMENT_ROWS ? g->cells - first : MOMENT_ROWS;
    const int64_t row = (int64_t)(task / g->blocks) * g->cells + first;
    g->kernels->moments(sv_f32(g->x) + row * g->x.pitch, g->x.pitch, rows, channels,
                        g->mean + (size_t)task * (size_t)channels,
                        g->squares + (size_t)task * (size_t)channels);
}

/* Of one map: mean and variance of each group out of those of its blocks. */
static void join_moments(void *arg, int task, int worker)
{
    (void)worker;
    const group_norm *g = arg;
    const int channels = g->y.dim[1], width = channels / g->groups;
    for (int group = 0; group < g->groups; group++) {
        double sum = 0, squares = 0;
        for (int b = 0; b < g->blocks; b++) {
            const int rows = b + 1 < g->blocks ? MOMENT_ROWS : g->cells - b * MOMENT_ROWS;
            const size_t at = ((size_t)task * (size_t)g->blocks + (size_t)b) * (size_t)channels;
            for (int i = group * width; i < (group + 1) * width; i++)
                sum += (double)g->mean[at + (size_t)i] * rows;
        }
        const double count = (double)width * g->cells, mean = sum / count;
        for (int b = 0; b < g->blocks; b++) {
            const int rows = b + 1 < g->blocks ? MOMENT_ROWS : g->cells - b * MOMENT_ROWS;
            const size_t at = ((size_t)task * (size_t)g->blocks + (size_t)b) * (size_t)channels;
            for (int i = group * width; i < (group + 1) * width; i++) {
                const double off = (double)g->mean[at + (size_t)i] - mean;
                squares += (double)g->squares[at + (size_t)i] + rows * off * off;
            }
        }
        const double scale = 1.0 / sqrt(squares / count + (double)g->eps);
        for (int i = group * width; i < (group + 1) * width; i++) {
            g->centre[(size_t)task * (size_t)channels + (size_t)i] = (float)mean;
            g->factor[(size_t)task * (size_t)channels + (size_t)i] = (float)(scale * (double)g->weight[i]);
        }
    }
}

static void apply_block(void *arg, int task, int worker)
{
    (void)worker;
    const group_norm *g = arg;
    const int channels = g->y.dim[1], first = task % g->blocks * MOMENT_ROWS;
    const int rows = g->cells - first < MOMENT_ROWS ? g->cells - first : MOMENT_ROWS;
    const int64_t map = task / g->blocks, row = map * g->cells + first;
    for (int64_t i = row; i < row + rows; i++)
        g->kernels->apply[g->map](sv_f32(g->y) + i * g->y.pitch, sv_f32(g->x) + i * g->x.pitch, channels,
                                  g->centre + map * channels, g->factor + map * channels, g->bias);
}

sv_status sv_cpu_map_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, int cells,
                          int groups, float eps, sv_map map)
{
    const int maps = y.dim[0] / cells, channels = y.dim[1];
    const int blocks = (cells + MOMENT_ROWS - 1) / MOMENT_ROWS;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor parts, wholes;
    SV_TRY(sv_scratch_alloc(c, &parts, "moments of cells", SV_F32, 2 * maps * blocks, channels, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &wholes, "moments of maps", SV_F32, 2 * maps, channels, SV_NONE));
    group_norm g = {.kernels = SV_SIMD_PICK(sv_maps_kernels),
                    .y = y,
                    .x = x,
                    .cells = cells,
                    .groups = groups,
                    .blocks = blocks,
                    .mean = sv_f32(parts),
                    .squares = sv_f32(parts) + (size_t)maps * (size_t)blocks * (size_t)channels,
                    .centre = sv_f32(wholes),
                    .factor = sv_f32(wholes) + (size_t)maps * (size_t)channels,
                    .weight = sv_f32(weight),
                    .bias = sv_f32(bias),
                    .eps = eps,
                    .map = map};
    sv_pool_run(c->pool, block_moments, &g, maps * blocks);
    sv_pool_run(c->pool, join_moments, &g, maps);
    sv_pool_run(c->pool, apply_block, &g, maps * blocks);
    sv_count_work(c, 8.0 * y.dim[0] * channels, 12.0 * y.dim[0] * channels);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- whole maps ----------------------------------------------------------------------------------------- */

typedef struct maps_job {
    const sv_maps_kernels *kernels;
    sv_tensor y, x, gate;
    int cells, height, width;
    sv_row_tasks tasks;
} maps_job;

static float *row_of(sv_tensor t, int64_t row)
{
    return sv_f32(t) + row * t.pitch;
}

/* 32 channels of a map; blocks of rows in float32, joined in double. */
static void mean_columns(void *arg, int task, int worker)
{
    (void)worker;
    enum { COLUMNS = 32 };
    const maps_job *j = arg;
    const int parts = (j->x.dim[1] + COLUMNS - 1) / COLUMNS, map = task / parts,
              first = task % parts * COLUMNS;
    const int columns = j->x.dim[1] - first < COLUMNS ? j->x.dim[1] - first : COLUMNS;
    double sum[COLUMNS] = {0};
    float mean[COLUMNS], squares[COLUMNS];
    for (int from = 0; from < j->cells; from += MOMENT_ROWS) {
        const int rows = j->cells - from < MOMENT_ROWS ? j->cells - from : MOMENT_ROWS;
        j->kernels->moments(row_of(j->x, (int64_t)map * j->cells + from) + first, j->x.pitch, rows, columns,
                            mean, squares);
        for (int i = 0; i < columns; i++) sum[i] += (double)mean[i] * rows;
    }
    for (int i = 0; i < columns; i++) row_of(j->y, map)[first + i] = (float)(sum[i] / j->cells);
}

sv_status sv_cpu_map_mean(sv_ctx *c, sv_tensor y, sv_tensor x, int cells)
{
    maps_job j = {.kernels = SV_SIMD_PICK(sv_maps_kernels), .y = y, .x = x, .cells = cells};
    sv_pool_run(c->pool, mean_columns, &j, y.dim[0] * ((x.dim[1] + 31) / 32));
    sv_count_work(c, 1.0 * x.dim[0] * x.dim[1], 4.0 * x.dim[0] * x.dim[1]);
    return SV_OK;
}

static void gate_rows(void *arg, int task, int worker)
{
    (void)worker;
    const maps_job *j = arg;
    const int end = sv_task_end(&j->tasks, task);
    for (int i = task * j->tasks.per_task; i < end; i++)
        j->kernels->multiply(row_of(j->y, i), row_of(j->x, i), row_of(j->gate, i / j->cells), j->y.dim[1]);
}

sv_status sv_cpu_map_gate(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor gate, int cells)
{
    maps_job j = {.kernels = SV_SIMD_PICK(sv_maps_kernels), .y = y, .x = x, .gate = gate, .cells = cells};
    j.tasks = sv_split_rows(x.dim[0], x.dim[1], 32768);
    sv_pool_run(c->pool, gate_rows, &j, j.tasks.count);
    sv_count_work(c, 1.0 * x.dim[0] * x.dim[1], 8.0 * x.dim[0] * x.dim[1]);
    return SV_OK;
}

/* A row of cells of the smaller maps. */
static void half_row(void *arg, int task, int worker)
{
    (void)worker;
    static const float quarter[4] = {0.25f, 0.25f, 0.25f, 0.25f};
    const maps_job *j = arg;
    for (int q = 0; q < j->width / 2; q++) {
        const int64_t from = (int64_t)task * 2 * j->width + 2 * q;
        const float *const x[4] = {row_of(j->x, from), row_of(j->x, from + 1), row_of(j->x, from + j->width),
                                   row_of(j->x, from + j->width + 1)};
        j->kernels->blend(row_of(j->y, (int64_t)task * (j->width / 2) + q), x, quarter, j->y.dim[1]);
    }
}

static void double_row(void *arg, int task, int worker)
{
    (void)worker;
    const maps_job *j = arg;
    const size_t bytes = sizeof(float) * (size_t)j->y.dim[1];
    for (int q = 0; q < 2 * j->width; q++)
        memcpy(row_of(j->y, (int64_t)task * 2 * j->width + q),
               row_of(j->x, (int64_t)(task / 2) * j->width + q / 2), bytes);
}

sv_status sv_cpu_map_half(sv_ctx *c, sv_tensor y, sv_tensor x, int height, int width)
{
    maps_job j = {.kernels = SV_SIMD_PICK(sv_maps_kernels), .y = y, .x = x, .height = height, .width = width};
    sv_pool_run(c->pool, half_row, &j, y.dim[0] / (width / 2));
    sv_count_work(c, 1.0 * x.dim[0] * x.dim[1], 5.0 * x.dim[0] * x.dim[1]);
    return SV_OK;
}

sv_status sv_cpu_map_double(sv_ctx *c, sv_tensor y, sv_tensor x, int height, int width)
{
    maps_job j = {.kernels = SV_SIMD_PICK(sv_maps_kernels), .y = y, .x = x, .height = height, .width = width};
    sv_pool_run(c->pool, double_row, &j, y.dim[0] / (2 * width));
    sv_count_work(c, 0, 20.0 * x.dim[0] * x.dim[1]);
    return SV_OK;
}

/* ---- scan over frames ----------------------------------------------------------------------------------- */

typedef struct scan {
    const sv_maps_kernels *kernels;
    sv_tensor y, x, powers, state_in, state_out;
    int frames, rows, stretch, stretches;
    sv_row_tasks tasks; /* of the rows of a frame */
} scan;

/* Rows from..end-1 of the frames first..last-1. 'before': the state ahead of frame 'first'; none: zero. */
static void walk(const scan *s, int from, int end, int first, int last, sv_tensor before)
{
    const int half = s->y.dim[1] / 2;
    const float *a = sv_f32(s->powers);
    for (int t = first; t < last; t++)
        for (int i = from; i < end; i++) {
            const float *previous = t > first            ? row_of(s->y, (int64_t)(t - 1) * s->rows + i)
                                    : sv_is_none(before) ? NULL
                                                         : row_of(before, i);
            const int64_t row = (int64_t)t * s->rows + i;
            s->kernels->advance(row_of(s->y, row), row_of(s->x, row), a, previous, half);
        }
}

static void walk_stretch(void *arg, int task, int worker)
{
    (void)worker;
    const scan *s = arg;
    const int block = task % s->tasks.count, first = task / s->tasks.count * s->stretch;
    const int last = s->frames - first < s->stretch ? s->frames : first + s->stretch;
    walk(s, block * s->tasks.per_task, sv_task_end(&s->tasks, block), first, last,
         first == 0 ? s->state_in : SV_NONE);
}

static void join_stretches(void *arg, int task, int worker)
{
    (void)worker;
    const scan *s = arg;
    const int half = s->y.dim[1] / 2, from = task * s->tasks.per_task, end = sv_task_end(&s->tasks, task);
    for (int first = s->stretch; first < s->frames; first += s->stretch)
        for (int t = first; t < s->frames && t < first + s->stretch; t++)
            for (int i = from; i < end; i++) {
                float *y = row_of(s->y, (int64_t)t * s->rows + i);
                s->kernels->advance(y, y, row_of(s->powers, t - first),
                                    row_of(s->y, (int64_t)(first - 1) * s->rows + i), half);
            }
}

static void keep_last(void *arg, int task, int worker)
{
    (void)worker;
    const scan *s = arg;
    const int end = sv_task_end(&s->tasks, task);
    for (int i = task * s->tasks.per_task; i < end; i++)
        memcpy(row_of(s->state_out, i), row_of(s->y, (int64_t)(s->frames - 1) * s->rows + i),
               sizeof(float) * (size_t)s->y.dim[1]);
}

sv_status sv_cpu_map_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor powers, int frames,
                          sv_tensor state_in, sv_tensor state_out)
{
    scan s = {.kernels = SV_SIMD_PICK(sv_maps_kernels),
              .y = y,
              .x = x,
              .powers = powers,
              .state_in = state_in,
              .state_out = state_out,
              .frames = frames,
              .rows = y.dim[0] / frames};
    /* Few enough cells for their states to stay in a first-level cache between frames. */
    s.tasks = sv_split_rows(s.rows, y.dim[1], 4096);
    s.stretch = powers.dim[0] == 1 ? frames : powers.dim[0];
    s.stretches = (frames + s.stretch - 1) / s.stretch;
    sv_pool_run(c->pool, walk_stretch, &s, s.tasks.count * s.stretches);
    if (s.stretches > 1) sv_pool_run(c->pool, join_stretches, &s, s.tasks.count);
    if (!sv_is_none(state_out)) sv_pool_run(c->pool, keep_last, &s, s.tasks.count);
    sv_count_work(c, 4.0 * y.dim[0] * y.dim[1], 8.0 * y.dim[0] * y.dim[1]);
    return SV_OK;
}

/* ---- warp ----------------------------------------------------------------------------------------------- */

typedef struct warp {
    const sv_maps_kernels *kernels;
    sv_tensor y, x, motion;
    int height, width;
} warp;

/* One row of cells. */
static void warp_row(void *arg, int task, int worker)
{
    (void)worker;
    const warp *w = arg;
    const int channels = w->y.dim[1], sample = task / w->height, r = task % w->height;
    const float *m = row_of(w->motion, sample);
    for (int q = 0; q < w->width; q++) {
        float *y = row_of(w->y, (int64_t)task * w->width + q);
        const float column = m[0] * (float)q + m[1] * (float)r + m[2],
                    row = m[3] * (float)q + m[4] * (float)r + m[5];
        const float *from[4] = {0};
        float share[4];
        /* The comparison also leaves out what is not a number. */
        const bool inside = m[6] != 0.0f && column > -1.0f && column < (float)w->width && row > -1.0f &&
                            row < (float)w->height;
        if (inside) {
            const int left = (int)floorf(column), top = (int)floorf(row);
            const float dx = column - (float)left, dy = row - (float)top;
            for (int k = 0; k < 4; k++) {
                const int across = left + k % 2, down = top + k / 2;
                share[k] = m[6] * (k % 2 ? dx : 1.0f - dx) * (k / 2 ? dy : 1.0f - dy);
                if (share[k] != 0.0f && across >= 0 && across < w->width && down >= 0 && down < w->height)
                    from[k] = row_of(w->x, ((int64_t)sample * w->height + down) * w->width + across);
            }
        }
        w->kernels->blend(y, from, share, channels);
    }
}

sv_status sv_cpu_map_warp(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor motion, int height, int width)
{
    warp w = {.kernels = SV_SIMD_PICK(sv_maps_kernels),
              .y = y,
              .x = x,
              .motion = motion,
              .height = height,
              .width = width};
    sv_pool_run(c->pool, warp_row, &w, y.dim[0] / width);
    sv_count_work(c, 8.0 * y.dim[0] * y.dim[1], 8.0 * y.dim[0] * y.dim[1]);
    return SV_OK;
}
