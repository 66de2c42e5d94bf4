/* SPDX-License-Identifier: Apache-2.0
 *
 * Sparse rows to a dense map seen from above: channel c*Z + z of cell (b,y,x) = x[i][c], zero where empty.
 * x [N,C], coords [N,4] -> map [B*Y*X, C*Z]. (Official module: HeightCompression.)
 */
#include "perception/core/ops_cpu.h"

#include <string.h>

enum { CELL_TILE = 4096, ROW_TILE = 512 };

typedef struct scatter_task {
    sv_tensor map, x, coords;
    const int32_t *shape; /* z, y, x */
    int cells;
    int *outside; /* [tiles of rows] first row that does not fit the map, or -1 */
} scatter_task;

static void clear_cells(void *arg, int tile, int worker)
{
    (void)worker;
    const scatter_task *t = arg;
    const int first = tile * CELL_TILE, end = first + CELL_TILE < t->cells ? first + CELL_TILE : t->cells;
    const size_t bytes = (size_t)t->map.dim[1] * sizeof(float);
    if (t->map.pitch == t->map.dim[1]) {
        memset(sv_f32(t->map) + (ptrdiff_t)first * t->map.pitch, 0, bytes * (size_t)(end - first));
    } else {
        for (int i = first; i < end; i++) memset(sv_f32(t->map) + (ptrdiff_t)i * t->map.pitch, 0, bytes);
    }
}

static void scatter_rows(void *arg, int tile, int worker)
{
    (void)worker;
    const scatter_task *t = arg;
    const int rows = sv_live_rows(t->coords), channels = t->x.dim[1], height = t->shape[0];
    const int first = tile * ROW_TILE, end = first + ROW_TILE < rows ? first + ROW_TILE : rows;
    t->outside[tile] = -1;
    for (int i = first; i < end; i++) {
        const int32_t *at = sv_i32(t->coords) + (ptrdiff_t)i * 4;
        const bool fits = (uint32_t)at[0] < (uint32_t)t->coords.batch &&
                          (uint32_t)at[1] < (uint32_t)t->shape[0] &&
                          (uint32_t)at[2] < (uint32_t)t->shape[1] && (uint32_t)at[3] < (uint32_t)t->shape[2];
        if (!fits) {
            t->outside[tile] = i;
            return;
        }
        const ptrdiff_t cell = ((ptrdiff_t)at[0] * t->shape[1] + at[2]) * t->shape[2] + at[3];
        float *to = sv_f32(t->map) + cell * t->map.pitch + at[1];
        const float *from = sv_f32(t->x) + (ptrdiff_t)i * t->x.pitch;
        for (int channel = 0; channel < channels; channel++) to[(ptrdiff_t)channel * height] = from[channel];
    }
}

sv_status sv_cpu_bev_scatter(sv_ctx *c, sv_tensor map, sv_tensor x, sv_tensor coords, const int32_t *shape)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int rows = sv_live_rows(coords), tiles = (rows + ROW_TILE - 1) / ROW_TILE;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "scatter checks",
                          ((size_t)coords.dim[0] / ROW_TILE + 1) * sizeof(int), &memory));
    scatter_task task = {map, x, coords, shape, coords.batch * shape[1] * shape[2], memory};
    sv_pool_run(c->pool, clear_cells, &task, (task.cells + CELL_TILE - 1) / CELL_TILE);
    sv_pool_run(c->pool, scatter_rows, &task, tiles);
    for (int i = 0; i < tiles; i++) {
        const int row = task.outside[i];
        const int32_t *at = sv_i32(coords) + (ptrdiff_t)(row < 0 ? 0 : row) * 4;
        SV_CHECK(c, row < 0, SV_UNSUPPORTED,
                 "bev_scatter: voxel (%d,%d,%d,%d) (b,z,y,x) lies outside %d maps of %d,%d,%d; a grid that "
                 "the down "
                 "scales divide avoids this",
                 at[0], at[1], at[2], at[3], coords.batch, shape[0], shape[1], shape[2]);
    }
    sv_count_work(c, 0, 4.0 * ((double)task.cells * map.dim[1] + (double)rows * (2.0 * x.dim[1] + 4)));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
