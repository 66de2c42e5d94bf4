/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of heat maps and the best of all cells and channels, on the CPU.
 *
 * local_peaks goes row by row. top_cells cuts a map into tasks of a fixed number of cells; each keeps its
 * best K in a heap, and the heaps of a sample are joined in one more. A score is compared with the worst kept
 * one first, so that almost all are passed over. top_sparse does the same for every group of channels of a
 * sample.
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

/* What is chosen from: maps, or with 'groups' the rows of samples, group of channels by group of channels. */
typedef struct top_job {
    sv_tensor x;
    const sv_cell_order *order;
    const int32_t *offsets; /* rows of the samples */
    const sv_channel_groups *groups;
    int cells, most, choices, tasks_per_choice; /* cells: of the largest choice */
    sv_score_key *heaps;                        /* [tasks][most] */
    int32_t *counts;                            /* [tasks] */
    sv_score_key *best;                         /* [most] of one choice */
} top_job;

typedef struct choice {
    int row, rows, channel, channels; /* the first, and how many */
} choice;

static choice choice_at(const top_job *j, int i)
{
    if (!j->groups) return (choice){i * j->cells, j->cells, 0, j->x.dim[1]};
    const sv_channel_groups *groups = j->groups;
    const int sample = i / groups->count, group = i % groups->count;
    choice at = {.row = j->offsets[sample], .channel = group ? groups->end[group - 1] : 0};
    at.rows = j->offsets[sample + 1] - at.row;
    at.channels = groups->end[group] - at.channel;
    return at;
}

static void collect(void *arg, int task, int worker)
{
    (void)worker;
    const top_job *j = arg;
    const sv_cell_order *order = j->order;
    const choice at = choice_at(j, task / j->tasks_per_choice);
    const int first = task % j->tasks_per_choice * TASK_CELLS;
    const int end = first + TASK_CELLS < at.rows ? first + TASK_CELLS : at.rows;
    sv_score_key *heap = j->heaps + (size_t)task * (size_t)j->most;
    float worst = -INFINITY; /* of the kept ones, once there are enough */
    int count = 0;
    for (int cell = first; cell < end; cell++) {
        const float *x = sv_f32(j->x) + (int64_t)(at.row + cell) * j->x.pitch + at.channel;
        const int place =
            order && order->by_column ? cell % order->width * order->height + cell / order->width : cell;
        for (int ch = 0; ch < at.channels; ch++) {
            if (x[ch] < worst) continue;
            count = sv_score_heap_add(heap, count, j->most, sv_score_key_of(x[ch], ch * at.rows + place));
            if (count == j->most) worst = sv_score_key_score(heap[0]);
        }
    }
    j->counts[task] = count;
}

/* Fills the heaps of all choices; the caller rewinds scratch. */
static sv_status collect_all(sv_ctx *c, top_job *j)
{
    j->tasks_per_choice = (j->cells + TASK_CELLS - 1) / TASK_CELLS;
    const size_t tasks = (size_t)j->tasks_per_choice * (size_t)j->choices, most = (size_t)j->most;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best cells", sizeof *j->heaps * tasks * most, &memory));
    j->heaps = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best cell counts", sizeof *j->counts * tasks, &memory));
    j->counts = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best cells of a sample", sizeof *j->best * most, &memory));
    j->best = memory;
    if (j->most > 0) sv_pool_run(c->pool, collect, j, (int)tasks);
    return SV_OK;
}

/* The best of choice 'i' to j->best, in order; returns how many. */
static int join(const top_job *j, int i)
{
    int count = 0;
    for (int t = i * j->tasks_per_choice; j->most > 0 && t < (i + 1) * j->tasks_per_choice; t++)
        for (int k = 0; k < j->counts[t]; k++)
            count =
                sv_score_heap_add(j->best, count, j->most, j->heaps[(size_t)t * (size_t)j->most + (size_t)k]);
    sv_score_heap_sort(j->best, count);
    return count;
}

static void put_pick(const sv_cell_picks *out, int64_t at, int row, int channel, float score, float x,
                     float y)
{
    sv_i32(out->row)[at * out->row.pitch] = row;
    sv_i32(out->channel)[at * out->channel.pitch] = channel;
    sv_f32(out->score)[at * out->score.pitch] = score;
    float *to = sv_f32(out->place) + at * out->place.pitch;
    to[0] = x;
    to[1] = y;
}

sv_status sv_cpu_top_cells(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, int batch,
                           const sv_cell_order *order)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    top_job j = {.x = x,
                 .order = order,
                 .cells = order->height * order->width,
                 .most = out->row.dim[0] / batch,
                 .choices = batch};
    SV_TRY(collect_all(c, &j));
    for (int b = 0; b < batch; b++) {
        join(&j, b);
        for (int i = 0; i < j.most; i++) {
            const int number = sv_score_key_number(j.best[i]), ch = number / j.cells,
                      place = number % j.cells;
            const int px = order->by_column ? place / order->height : place % order->width,
                      py = order->by_column ? place % order->height : place / order->width;
            const int row = b * j.cells + py * order->width + px;
            put_pick(out, (int64_t)b * j.most + i, row, ch, sv_f32(x)[(int64_t)row * x.pitch + ch],
                     (float)px + order->middle, (float)py + order->middle);
        }
    }
    sv_count_work(c, 0, 4.0 * x.dim[0] * x.dim[1]);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_cpu_top_sparse(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, sv_tensor coords,
                            const sv_channel_groups *groups)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    top_job j = {.x = x,
                 .offsets = coords.offsets,
                 .groups = groups,
                 .choices = coords.batch * groups->count,
                 .most = out->row.dim[0] / (coords.batch * groups->count)};
    for (int b = 0; b < coords.batch; b++) {
        const int rows = coords.offsets[b + 1] - coords.offsets[b];
        if (rows > j.cells) j.cells = rows;
    }
    SV_TRY(collect_all(c, &j));
    for (int i = 0; i < j.choices; i++) {
        const choice from = choice_at(&j, i);
        const int count = join(&j, i);
        for (int k = 0; k < j.most; k++) {
            const int64_t at = (int64_t)i * j.most + k;
            if (k >= count) {
                put_pick(out, at, -1, from.channel, -INFINITY, 0, 0);
                continue;
            }
            const int number = sv_score_key_number(j.best[k]), ch = from.channel + number / from.rows,
                      row = from.row + number % from.rows;
            const int32_t *cell = sv_i32(coords) + (int64_t)row * 4;
            put_pick(out, at, row, ch, sv_f32(x)[(int64_t)row * x.pitch + ch], (float)cell[3],
                     (float)cell[2]);
        }
    }
    sv_count_work(c, 0, 4.0 * sv_live_rows(coords) * x.dim[1]);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
