/* SPDX-License-Identifier: Apache-2.0
 *
 * Which rows become one when coordinates are divided, with or without voxel generation (section 3 of
 * voxel.h).
 *
 *     coords [N,4], picks [K] -> merged coords [M,4], inverse [N + 4K], start [M+1], rows [N]
 *
 * (Official class: PatchMerging3D, lion_backbone_one_stride.py.)
 */
#include "perception/core/ops_cpu.h"
#include "sort.h"
#include "voxel.h"

enum { TILE = 4096 };

typedef struct merge_task {
    const sv_merge *out;
    sv_tensor coords, picks;
    const int32_t *shape, *scale;
    sv_merge_strides strides;
    const int64_t *term[3]; /* [cells of the axis] what a coordinate x, y, z adds to the key */
    sv_pairs pairs;         /* [N + 4K] */
    int merged;
} merge_task;

static int tiles(int rows)
{
    return (rows + TILE - 1) / TILE;
}
static int tile_end(int tile, int rows)
{
    return (tile + 1) * TILE < rows ? (tile + 1) * TILE : rows;
}

static uint64_t key_of(const merge_task *t, const int32_t *coords)
{
    return (uint64_t)(coords[0] * t->strides.b + t->term[0][coords[3]] + t->term[1][coords[2]] +
                      t->term[2][coords[1]]);
}

static void make_keys(void *arg, int tile, int worker)
{
    (void)worker;
    const merge_task *t = arg;
    for (int i = tile * TILE; i < tile_end(tile, sv_live_rows(t->coords)); i++) {
        t->pairs.key[i] = key_of(t, sv_i32(t->coords) + (ptrdiff_t)i * 4);
        t->pairs.row[i] = i;
    }
}

static void make_copy_keys(void *arg, int sample, int worker)
{
    (void)worker;
    const merge_task *t = arg;
    const int32_t *offsets = t->picks.offsets;
    for (int pick = offsets[sample]; pick < offsets[sample + 1]; pick++) {
        const int32_t *from = sv_i32(t->coords) + (ptrdiff_t)sv_i32(t->picks)[pick] * 4;
        for (int block = 0; block < 4; block++) {
            int32_t copy[4];
            sv_diffusion_copy(t->shape, block, from, copy);
            const int row = sv_diffusion_row(sv_live_rows(t->coords), offsets, sample, block, pick);
            t->pairs.key[row] = key_of(t, copy);
            t->pairs.row[row] = row;
        }
    }
}

/* The first key of each merged row waits in pairs.key[m] for this. */
static void decode_coords(void *arg, int tile, int worker)
{
    (void)worker;
    const merge_task *t = arg;
    for (int m = tile * TILE; m < tile_end(tile, t->merged); m++)
        sv_merge_coords(t->strides, (int64_t)t->pairs.key[m], sv_i32(t->out->coords) + (ptrdiff_t)m * 4);
}

static sv_status make_terms(sv_ctx *c, merge_task *t)
{
    const int64_t stride[3] = {t->strides.x, t->strides.y, 1};
    for (int axis = 0; axis < 3; axis++) {
        void *memory = NULL;
        const int cells = t->shape[2 - axis];
        SV_TRY(sv_arena_alloc(c, &c->scratch, "merge terms", (size_t)cells * sizeof(int64_t), &memory));
        int64_t *term = memory;
        for (int cell = 0; cell < cells; cell++) term[cell] = cell / t->scale[axis] * stride[axis];
        t->term[axis] = term;
    }
    return SV_OK;
}

static int count_keys(const uint64_t *key, int n)
{
    int count = 0;
    for (int i = 0; i < n; i++) count += i == 0 || key[i] != key[i - 1];
    return count;
}

/* Walk the sorted inputs once: number the merged rows and collect the originals of each. */
static void number_rows(const merge_task *t, sv_pairs sorted, int inputs)
{
    const sv_merge *out = t->out;
    const int originals = sv_live_rows(t->coords);
    int32_t *inverse = sv_i32(out->inverse), *start = sv_i32(out->start), *rows = sv_i32(out->rows);
    int merged = -1, place = 0;
    uint64_t last = 0;
    for (int i = 0; i < inputs; i++) {
        const uint64_t key = sorted.key[i];
        if (merged < 0 || key != last) {
            start[++merged] = place;
            sorted.key[merged] = last = key; /* merged <= i: this place has been read */
        }
        const int row = sorted.row[i];
        inverse[row] = merged;
        if (row < originals) rows[place++] = row;
    }
    start[merged + 1] = place;
}

/* Sample b begins at the first row of batch b or above; aliased keys may carry batch B, which ends the last
 * sample. */
static void write_offsets(const sv_merge *out, int batch, int merged)
{
    const int32_t *coords = sv_i32(out->coords);
    int m = 0;
    for (int b = 0; b < batch; b++) {
        while (m < merged && coords[(ptrdiff_t)m * 4] < b) m++;
        out->offsets[b] = m;
    }
    out->offsets[batch] = merged;
}

sv_status sv_cpu_merge_map(sv_ctx *c, const sv_merge *out, sv_tensor coords, const int32_t *shape,
                           const int32_t *scale, sv_tensor picks, int32_t *needed)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int copies = sv_is_none(picks) ? 0 : 4 * sv_live_rows(picks);
    const int inputs = sv_live_rows(coords) + copies;
    merge_task task = {.out = out, .coords = coords, .picks = picks, .shape = shape, .scale = scale};
    task.strides = sv_merge_strides_of(shape, scale);
    SV_TRY(make_terms(c, &task));
    sv_sort_space *space = NULL;
    SV_TRY(sv_sort_spaces(c, &space, 1, coords.dim[0] + (sv_is_none(picks) ? 0 : 4 * picks.dim[0])));
    task.pairs = space->a;
    sv_pool_run(c->pool, make_keys, &task, tiles(sv_live_rows(coords)));
    if (copies > 0) sv_pool_run(c->pool, make_copy_keys, &task, picks.batch);

    const sv_pairs sorted = sv_sort_pairs(space, inputs);
    *needed = count_keys(sorted.key, inputs);
    SV_CHECK(c, *needed <= out->coords.dim[0], SV_OVERFLOW,
             "merge_map: %d merged voxels exceed the capacity of %d", *needed, out->coords.dim[0]);
    number_rows(&task, sorted, inputs);
    task.pairs = sorted;
    task.merged = *needed;
    sv_pool_run(c->pool, decode_coords, &task, tiles(*needed));
    write_offsets(out, coords.batch, *needed);
    sv_count_work(c, 0, 24.0 * inputs + 20.0 * *needed);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
