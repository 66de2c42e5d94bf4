/* SPDX-License-Identifier: Apache-2.0
 *
 * 3x3x3 sub-manifold convolution: y[i] = sum over k ascending of x[table[i][k]] W[k]; y [N,out], x [N,in], W
 * [27,in,out].
 *
 * Five to nine of the 27 neighbours exist. A task takes a tile of rows and walks k; the pairs (row,
 * neighbour) that exist at k go through one dense product with W[k], whose result is added to the rows while
 * they are still in the cache. Each row sums in the order of k and, within, of the input channels, whatever
 * tile it is in. (Official: spconv SubMConv3d, weight [out,kz,ky,kx,in].)
 */
#include "perception/core/ops_cpu.h"
#include "subm_conv.h"
#include "voxel.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = 192 }; /* rows: about 8 full register tiles per k, yet many tasks */

sv_status sv_cpu_subm_prepare(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
    const int outputs = w.dim[0], inputs = w.dim[4];
    out->out = outputs;
    out->in = inputs;
    out->packed = NULL; /* the kernels read w */
    assert(c->weights && "weights are prepared while a model is loaded");
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, c->weights, "subm weights",
                          (size_t)SV_SUBM_OFFSETS * inputs * outputs * sizeof(float), &memory));
    float *to = memory;
    for (int k = 0; k < SV_SUBM_OFFSETS; k++) {
        for (int i = 0; i < inputs; i++) {
            for (int o = 0; o < outputs; o++)
                *to++ = sv_f32(w)[((ptrdiff_t)o * SV_SUBM_OFFSETS + k) * inputs + i];
        }
    }
    out->w =
        (sv_tensor){.data = memory, .dim = {SV_SUBM_OFFSETS, inputs, outputs}, .ndim = 3, .dtype = SV_F32};
    out->w.pitch = inputs * outputs;
    return SV_OK;
}

typedef struct subm_task {
    sv_tensor y, x, table;
    const sv_subm_weights *w;
    const subm_kernels *kernels;
    int rows;
    int32_t *pairs; /* [tiles] how many there were, for the count of work */
} subm_task;

static void convolve_tile(void *arg, int tile, int worker)
{
    (void)worker;
    const subm_task *t = arg;
    const int first = tile * TILE, rows = t->rows - first < TILE ? t->rows - first : TILE;
    const int in = t->w->in, out = t->w->out;
    const int32_t *table = sv_i32(t->table) + (ptrdiff_t)first * t->table.pitch;
    float *y = sv_f32(t->y) + (ptrdiff_t)first * t->y.pitch;
    float *to[TILE];
    const float *from[TILE];
    for (int i = 0; i < rows; i++) memset(y + (ptrdiff_t)i * t->y.pitch, 0, (size_t)out * sizeof *y);
    t->pairs[tile] = 0;
    for (int k = 0; k < SV_SUBM_OFFSETS; k++) {
        int pairs = 0;
        for (int i = 0; i < rows; i++) {
            const int neighbour = table[(ptrdiff_t)i * t->table.pitch + k];
            to[pairs] = y + (ptrdiff_t)i * t->y.pitch;
            from[pairs] = sv_f32(t->x) + (ptrdiff_t)(neighbour < 0 ? 0 : neighbour) * t->x.pitch;
            pairs += neighbour >= 0; /* without a branch: presence is as good as random */
        }
        t->kernels->accumulate(to, from, pairs, sv_f32(t->w->w) + (ptrdiff_t)k * in * out, out, in, out);
        t->pairs[tile] += pairs;
    }
}

sv_status sv_cpu_subm_conv(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_neighbourhood *around,
                           const sv_subm_weights *w)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int rows = sv_live_rows(y), tiles = (rows + TILE - 1) / TILE;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "subm pairs", ((size_t)y.dim[0] / TILE + 1) * sizeof(int32_t),
                          &memory));
    subm_task task = {y, x, around->table, w, SV_SIMD_PICK(subm_kernels), rows, memory};
    sv_pool_run(c->pool, convolve_tile, &task, tiles);
    double pairs = 0;
    for (int i = 0; i < tiles; i++) pairs += task.pairs[i];
    sv_count_work(
        c, 2.0 * pairs * w->in * w->out,
        4.0 * ((double)rows * (w->in + w->out + SV_SUBM_OFFSETS) + (double)SV_SUBM_OFFSETS * w->in * w->out));
    sv_arena_rewind(&c->scratch, mark);
    const sv_row_norm *norm = &w->norm;
    return sv_is_none(norm->weight)
               ? SV_OK
               : sv_cpu_norm(c, y, y, norm->weight, norm->bias, norm->eps, norm->map, SV_NONE);
}
