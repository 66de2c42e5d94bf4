/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of heat maps and the best of all cells and channels, on the CPU.
 *
 * local_peaks goes row by row. top_cells cuts a map into tasks of a fixed number of cells; each keeps its
 * best K in a heap, and the heaps of a sample are joined in one more. A score is compared with the worst kept
 * one first, so that almost all are passed over.
 */
#include "perception/core/ops_cpu.h"
#include "score_key.h"

#include <math.h>

/* ---- peaks -------------------------------------------------------------------------------------------- */

typedef struct peak_job {
    sv_tensor y, x;
    const sv_peak_rule *rule;
} peak_job;

/* One row of cells of one map. */
static void find_peaks(void *arg, int task, int worker)
{
    (void)worker;
    const peak_job *j = arg;
    const sv_peak_rule *rule = j->rule;
    const int channels = j->x.dim[1], radius = rule->radius, y = task % rule->height;
    const bool inner_row = y >= radius && y < rule->height - radius;
    for (int x = 0; x < rule->width; x++) {
        const int64_t row = (int64_t)task * rule->width + x;
        const float *here = sv_f32(j->x) + row * j->x.pitch;
        float *out = sv_f32(j->y) + row * j->y.pitch;
        const bool inner = inner_row && x >= radius && x < rule->width - radius;
        bool peak[SV_HEAT_CHANNELS];
        for (int ch = 0; ch < channels; ch++) peak[ch] = inner;
        for (int dy = -radius; inner && dy <= radius; dy++) {
            const float *there = here + ((int64_t)dy * rule->width - radius) * j->x.pitch;
            for (int dx = -radius; dx <= radius; dx++, there += j->x.pitch)
                for (int ch = 0; ch < channels; ch++) peak[ch] &= !(there[ch] > here[ch]);
        }
        for (int ch = 0; ch < channels; ch++)
            out[ch] = peak[ch] || (rule->alone >> ch & 1u) != 0 ? here[ch] : 0.0f;
    }
}

sv_status sv_cpu_local_peaks(sv_ctx *c, sv_tensor y, sv_tensor x, int batch, const sv_peak_rule *rule)
{
    peak_job j = {.y = y, .x = x, .rule = rule};
    sv_pool_run(c->pool, find_peaks, &j, batch * rule->height);
    const double numbers = (double)x.dim[0] * x.dim[1], side = 2 * rule->radius + 1;
    sv_count_work(c, numbers * side * side, 8 * numbers);
    return SV_OK;
}

/* ---- the best cells ----------------------------------------------------------------------------------- */

enum { TASK_CELLS = 32768 };

typedef struct top_job {
    sv_tensor x;
    const sv_cell_order *order;
    int cells, most, tasks_per_sample;
    sv_score_key *heaps; /* [tasks][most] */
    int32_t *counts;     /* [tasks] */
} top_job;

static void collect(void *arg, int task, int worker)
{
    (void)worker;
    const top_job *j = arg;
    const sv_cell_order *order = j->order;
    const int channels = j->x.dim[1], sample = task / j->tasks_per_sample;
    const int first = task % j->tasks_per_sample * TASK_CELLS;
    const int end = first + TASK_CELLS < j->cells ? first + TASK_CELLS : j->cells;
    sv_score_key *heap = j->heaps + (size_t)task * (size_t)j->most;
    float worst = -INFINITY; /* of the kept ones, once there are enough */
    int count = 0;
    for (int cell = first; cell < end; cell++) {
        const float *x = sv_f32(j->x) + ((int64_t)sample * j->cells + cell) * j->x.pitch;
        const int place = order->by_column ? cell % order->width * order->height + cell / order->width : cell;
        for (int ch = 0; ch < channels; ch++) {
            if (x[ch] < worst) continue;
            count = sv_score_heap_add(heap, count, j->most, sv_score_key_of(x[ch], ch * j->cells + place));
            if (count == j->most) worst = sv_score_key_score(heap[0]);
        }
    }
    j->counts[task] = count;
}

sv_status sv_cpu_top_cells(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, int batch,
                           const sv_cell_order *order)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    top_job j = {
        .x = x, .order = order, .cells = order->height * order->width, .most = out->row.dim[0] / batch};
    j.tasks_per_sample = (j.cells + TASK_CELLS - 1) / TASK_CELLS;
    const size_t tasks = (size_t)j.tasks_per_sample * (size_t)batch;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best cells", sizeof *j.heaps * tasks * (size_t)j.most, &memory));
    j.heaps = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best cell counts", sizeof *j.counts * tasks, &memory));
    j.counts = memory;
    sv_score_key *best = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best cells of a sample", sizeof *best * (size_t)j.most, &memory));
    best = memory;
    if (j.most > 0) sv_pool_run(c->pool, collect, &j, (int)tasks);

    for (int b = 0; b < batch && j.most > 0; b++) {
        int count = 0;
        for (int t = b * j.tasks_per_sample; t < (b + 1) * j.tasks_per_sample; t++)
            for (int i = 0; i < j.counts[t]; i++)
                count =
                    sv_score_heap_add(best, count, j.most, j.heaps[(size_t)t * (size_t)j.most + (size_t)i]);
        sv_score_heap_sort(best, count);
        for (int i = 0; i < j.most; i++) {
            const int number = sv_score_key_number(best[i]), ch = number / j.cells, place = number % j.cells;
            const int px = order->by_column ? place / order->height : place % order->width,
                      py = order->by_column ? place % order->height : place / order->width;
            const int row = b * j.cells + py * order->width + px;
            const int64_t at = (int64_t)b * j.most + i;
            sv_i32(out->row)[at * out->row.pitch] = row;
            sv_i32(out->channel)[at * out->channel.pitch] = ch;
            sv_f32(out->score)[at * out->score.pitch] = sv_f32(x)[(int64_t)row * x.pitch + ch];
            float *to = sv_f32(out->place) + at * out->place.pitch;
            to[0] = (float)px + order->middle;
            to[1] = (float)py + order->middle;
        }
    }
    sv_count_work(c, 0, 4.0 * x.dim[0] * x.dim[1]);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
