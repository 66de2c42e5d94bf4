/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of queries to a window of map cells around their own, on the CPU.
 *
 *      x - r ... x + r            The window of (x, y) is one stretch of cells for each oy = -r..r: row y + oy
 *   +-------+---+-------+  y - r   of the map, x - r..x + r as far as the map goes. Beyond the map's first or
 *   |       | o |       |          last row it goes on at the other end, one cell to the left or right (see
 *   +-------+---+-------+  y + r   sv_cell_window): with carry = floor((y + oy) / width), in row
 *                                  y + oy - carry width, x - r + carry..x + r + carry
 *
 * Scores of all cells of the window first, then the softmax of each head, then the weighted sum; cells in the
 * order of the stretches, so that a query's bytes depend on nothing else.
 */
#include "attention_kernels.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <string.h>

SV_SIMD_TABLE(sv_attention_kernels);

typedef struct job {
    sv_tensor y, q, k, v, cell;
    const sv_cell_window *window;
    float *scores; /* [threads][heads][most] */
    int most;      /* cells of a window */
} job;

/* The stretch of rows of 't' for offset 'oy' of the query at row 'cell'. */
static sv_attention_rows stretch(const sv_cell_window *window, sv_tensor t, int cell, int oy)
{
    const int width = window->width, cells = width * width;
    const int x = cell % width, y = cell % cells / width + oy;
    const int carry = (y >= 0 ? y : y - width + 1) / width; /* floor */
    int first = x - window->radius + carry, last = x + window->radius + carry;
    if (first < 0) first = 0;
    if (last > width - 1) last = width - 1;
    const int64_t row = cell - cell % cells + (int64_t)(y - carry * width) * width + first;
    return (sv_attention_rows){.rows = sv_f32(t) + row * t.pitch,
                               .pitch = t.pitch,
                               .count = last < first ? 0 : last - first + 1,
                               .heads = window->heads,
                               .width = t.dim[1] / window->heads};
}

static void attend(void *arg, int query, int worker)
{
    const job *j = arg;
    const sv_attention_kernels *kernels = SV_SIMD_PICK(sv_attention_kernels);
    const sv_cell_window *window = j->window;
    const int cell = sv_i32(j->cell)[(int64_t)query * j->cell.pitch], channels = j->y.dim[1];
    const float *q = sv_f32(j->q) + (int64_t)query * j->q.pitch;
    float *y = sv_f32(j->y) + (int64_t)query * j->y.pitch;
    float *scores = j->scores + (size_t)worker * (size_t)window->heads * (size_t)j->most;
    int count = 0;
    for (int oy = -window->radius; oy <= window->radius; oy++) {
        const sv_attention_rows keys = stretch(window, j->k, cell, oy);
        kernels->scores(scores + count, j->most, q, &keys, window->scale);
        count += keys.count;
    }
    float sums[SV_ATTENTION_HEADS];
    for (int h = 0; h < window->heads; h++)
        sums[h] = kernels->weigh(scores + (size_t)h * (size_t)j->most, count);
    memset(y, 0, sizeof *y * (size_t)channels);
    count = 0;
    for (int oy = -window->radius; oy <= window->radius; oy++) {
        const sv_attention_rows values = stretch(window, j->v, cell, oy);
        kernels->add(y, scores + count, j->most, &values);
        count += values.count;
    }
    const int width = channels / window->heads;
    for (int i = 0; i < channels; i++) y[i] /= sums[i / width];
}

sv_status sv_cpu_window_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                  sv_tensor cell, const sv_cell_window *window)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int side = 2 * window->radius + 1, queries = sv_live_rows(y);
    job j = {.y = y, .q = q, .k = k, .v = v, .cell = cell, .window = window, .most = side * side};
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(
        c, &c->scratch, "attention scores",
        sizeof(float) * (size_t)sv_pool_threads(c->pool) * (size_t)window->heads * (size_t)j.most, &memory));
    j.scores = memory;
    sv_pool_run(c->pool, attend, &j, queries);
    const double pairs = (double)queries * j.most;
    sv_count_work(c, pairs * (4.0 * y.dim[1] + 8.0 * window->heads), 8.0 * pairs * y.dim[1]);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
