/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequence orders of window partitions (section 2 of voxel.h).
 *
 *     coords [N,4] -> per direction: order [N], slot_row [S], row_slot [N], key [N]
 *
 * Every (job, direction, sample) is sorted on its own. A key is the sum of one table entry per axis.
 * (Official class: FlattenedWindowMapping with get_window_coors_shift_v2, lion_backbone_one_stride.py.)
 */
#include "perception/core/ops_cpu.h"
#include "sort.h"
#include "voxel.h"

#include <string.h>

typedef struct order_task {
    sv_window_job *jobs;
    const int *first; /* [count+1] task number of each job's first; a job has 2 * batch */
    int count;
    sv_sort_space *spaces; /* [threads] */
    int64_t **terms;       /* [threads] tables of the three axes */
} order_task;

static void fill_tables(int64_t *term[3], const sv_window *w, int direction)
{
    for (int axis = 0; axis < 3; axis++) {
        for (int cell = 0; cell < w->grid[2 - axis]; cell++)
            term[axis][cell] = sv_window_term(w, direction, axis, cell);
    }
}

static void order_sample(void *arg, int task, int worker)
{
    const order_task *t = arg;
    int number = 0;
    while (task >= t->first[number + 1]) number++;
    const sv_window_job *job = &t->jobs[number];
    const int direction = (task - t->first[number]) % 2, sample = (task - t->first[number]) / 2;
    const sv_order *out = direction == SV_DIRECTION_X ? &job->x : &job->y;
    const sv_window *w = &job->window;
    const int first = job->coords.offsets[sample], rows = job->coords.offsets[sample + 1] - first;
    if (rows == 0) return;

    int64_t *const memory = t->terms[worker];
    int64_t *term[3] = {memory, memory + w->grid[2], memory + w->grid[2] + w->grid[1]};
    fill_tables(term, w, direction);
    const int64_t keys = sv_window_keys(w);
    const sv_sort_space *space = &t->spaces[worker];
    const int32_t *coords = sv_i32(job->coords) + (ptrdiff_t)first * 4;
    for (int i = 0; i < rows; i++, coords += 4) {
        assert(coords[1] < w->grid[0] && coords[2] < w->grid[1] && coords[3] < w->grid[2]);
        /* all of a sample usually have its number, which then needs no digits */
        const int64_t place = term[0][coords[3]] + term[1][coords[2]] + term[2][coords[1]];
        space->a.key[i] = (uint64_t)((coords[0] - sample) * keys + place);
        space->a.row[i] = first + i;
    }
    if (!sv_is_none(out->key)) {
        int64_t *key = (int64_t *)out->key.data + first;
        for (int i = 0; i < rows; i++) key[i] = (int64_t)space->a.key[i] + sample * keys;
    }

    const sv_pairs sorted = sv_sort_pairs(space, rows);
    if (!sv_is_none(out->order))
        memcpy(sv_i32(out->order) + first, sorted.row, (size_t)rows * sizeof(int32_t));
    const int slot = out->slot_offsets[sample], slots = out->slot_offsets[sample + 1] - slot;
    int32_t *slot_row = sv_i32(out->slot_row) + slot, *row_slot = sv_i32(out->row_slot);
    memcpy(slot_row, sorted.row, (size_t)rows * sizeof(int32_t));
    for (int i = 0; i < rows; i++) row_slot[sorted.row[i]] = slot + i;
    for (int i = rows; i < slots; i++) slot_row[i] = sorted.row[sv_window_rank(i, rows, w->group)];
}

static void write_slot_offsets(const sv_window_job *job, int32_t *offsets)
{
    offsets[0] = 0;
    for (int b = 0; b < job->coords.batch; b++) {
        const int rows = job->coords.offsets[b + 1] - job->coords.offsets[b];
        offsets[b + 1] = offsets[b] + sv_window_padded(rows, job->window.group);
    }
}

sv_status sv_cpu_window_orders(sv_ctx *c, sv_window_job *jobs, int count)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    order_task task = {.jobs = jobs, .count = count};
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "window tasks", ((size_t)count + 1) * sizeof(int), &memory));
    int *first = memory, capacity = 0, cells = 0;
    first[0] = 0;
    task.first = first;
    double bytes = 0;
    for (int i = 0; i < count; i++) {
        const int32_t *grid = jobs[i].window.grid;
        first[i + 1] = first[i] + 2 * jobs[i].coords.batch;
        if (jobs[i].coords.dim[0] > capacity) capacity = jobs[i].coords.dim[0];
        if (grid[0] + grid[1] + grid[2] > cells) cells = grid[0] + grid[1] + grid[2];
        write_slot_offsets(&jobs[i], jobs[i].x.slot_offsets);
        write_slot_offsets(&jobs[i], jobs[i].y.slot_offsets);
        bytes += 2.0 * (20.0 * sv_live_rows(jobs[i].coords) + 4.0 * sv_live_rows(jobs[i].x.slot_row));
    }
    const int threads = sv_pool_threads(c->pool);
    SV_TRY(sv_sort_spaces(c, &task.spaces, threads, capacity));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "window tables", (size_t)threads * sizeof *task.terms, &memory));
    task.terms = memory;
    for (int i = 0; i < threads; i++) {
        SV_TRY(sv_arena_alloc(c, &c->scratch, "window terms", (size_t)cells * sizeof(int64_t), &memory));
        task.terms[i] = memory;
    }
    sv_pool_run(c->pool, order_sample, &task, first[count]);
    sv_count_work(c, 0, bytes);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
