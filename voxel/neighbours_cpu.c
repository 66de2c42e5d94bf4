/* SPDX-License-Identifier: Apache-2.0
 *
 * The 27 neighbours of every voxel: coords [N,4] -> table [N,27] of rows, -1 where there is none (section 4
 * of voxel.h).
 *
 * In key order (b,x,y,z) the neighbours at one (ky,kx) of consecutive voxels lie at ascending places, three
 * in a row at most: nine walks over the sorted keys, each beside the walk over the centres, find them all.
 */
#include "perception/core/ops_cpu.h"
#include "sort.h"
#include "voxel.h"

/* GUARDS: keys above every voxel's behind the sorted ones, where the walks end. */
enum { TILE = 128, GUARDS = 3 };

typedef struct neighbour_task {
    sv_tensor table;
    sv_pairs sorted;
    const int32_t *shape;
    int rows;
} neighbour_task;

/* First place whose key is not below 'key'. */
static int lower_bound(const uint64_t *keys, int n, uint64_t key)
{
    int from = 0;
    while (n > 0) {
        const int half = n / 2;
        if (keys[from + half] < key) {
            from += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return from;
}

static void find_neighbours(void *arg, int tile, int worker)
{
    (void)worker;
    const neighbour_task *t = arg;
    const uint64_t *key = t->sorted.key;
    const int32_t *row = t->sorted.row;
    const int first = tile * TILE, end = first + TILE < t->rows ? first + TILE : t->rows;
    uint64_t step[9]; /* the border of the keys keeps key + step above 0: no wrap */
    int at[9];
    for (int column = 0; column < 9; column++) {
        step[column] = (uint64_t)sv_neighbour_step(t->shape, column);
        at[column] = lower_bound(key, t->rows, key[first] + step[column]);
    }
    for (int i = first; i < end; i++) {
        int32_t *to = sv_i32(t->table) + (ptrdiff_t)row[i] * t->table.pitch;
        /* nine walks side by side: each is a chain of loads, together they overlap */
        for (int column = 0; column < 9; column++) {
            const uint64_t lowest = key[i] + step[column];
            int place = at[column];
            /* mostly 0 to 2 places further: no branch to mispredict */
            place += key[place] < lowest;
            place += key[place] < lowest;
            while (key[place] < lowest) place++;
            at[column] = place;
            int32_t near[4] = {-1, -1, -1}; /* by kz; the last takes what is further away */
            for (int j = 0; j < 3; j++) {
                const uint64_t above = key[place + j] - lowest;
                near[above < 3 ? above : 3] = row[place + j];
            }
            to[column] = near[0];
            to[9 + column] = near[1];
            to[18 + column] = near[2];
        }
    }
}

sv_status sv_cpu_neighbours(sv_ctx *c, const sv_neighbourhood *out, sv_tensor coords, const int32_t *shape)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int rows = sv_live_rows(coords);
    sv_sort_space *space = NULL;
    SV_TRY(sv_sort_spaces(c, &space, 1, coords.dim[0] + GUARDS));
    for (int i = 0; i < rows; i++) {
        space->a.key[i] = (uint64_t)sv_neighbour_key(shape, sv_i32(coords) + (ptrdiff_t)i * 4);
        space->a.row[i] = i;
    }
    neighbour_task task = {out->table, sv_sort_pairs(space, rows), shape, rows};
    for (int i = rows; i < rows + GUARDS; i++) {
        task.sorted.key[i] = UINT64_MAX;
        task.sorted.row[i] = -1;
    }
    sv_pool_run(c->pool, find_neighbours, &task, (rows + TILE - 1) / TILE);
    sv_count_work(c, 0, (16.0 + 4 * SV_SUBM_OFFSETS) * rows);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
