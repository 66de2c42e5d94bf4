/* SPDX-License-Identifier: Apache-2.0
 *
 * The sparse half of LION: how points become voxels, how voxels become sequences, how voxels merge, and which
 * voxels are neighbours. This page is the documentation of the folder; its inline functions are the formulas
 * that the CPU and CUDA code share. The operations themselves are declared in perception/core/ops.def.
 *
 * Coordinates are int32 rows (b,z,y,x) and are never negative; 'grid' and 'shape' of a sparse tensor are
 * (z,y,x); windows, scales and sv_grid are (x,y,z). (LION, arXiv 2407.18232; official code happinesslz/LION
 * e33eec8: dynamic_voxel_vfe.py, lion_backbone_one_stride.py.)
 *
 * 1. Voxels (voxelize_cpu.c)
 *
 *      points, any order               cell = floor((p - min) / size)            voxels in key order
 *      p0 (b0) .  .p3                  key  = ((b X + x) Y + y) Z + z            v0:
 * rows[start[0]..start[1]-1] p1 . (NaN: dropped)    ->    equal keys share a voxel           ->     v1:
 * rows[start[1]..start[2]-1]
 *
 *    The key order (b, x, y, z; z minor) is the order of voxel rows everywhere. The mean of a voxel's points
 * is an integer sum of x * 2^32, so that it does not depend on the order of the points.
 *
 * 2. Windows, groups and order (window_cpu.c)
 *
 *    A window partition cuts the grid into boxes of Wx x Wy x Wz cells; 'shift' moves the cuts by half a
 * window. Sorting by (window, place in the window) turns a sample into one sequence, in two directions:
 *
 *        direction x: windows column by column     direction y: windows row by row
 *        y ^                                       y ^                        within a window the
 *          |  +---+---+                              |  +---+---+            cells go the same way
 *          |  | 2 | 4 |   x major, then y, then z    |  | 3 | 4 |            (x: ix, iy, iz;
 *          |  +---+---+                              |  +---+---+             y: iy, ix, iz)
 *          |  | 1 | 3 |                              |  | 1 | 2 |   y major, then x, then z
 *          +--+---+---+--> x                         +--+---+---+--> x
 *
 *    The sequence of a sample, n rows, is cut into groups of g tokens; what lacks in the last group is
 * repeated:
 *
 *        n = 10, g = 4:   0 1 2 3 | 4 5 6 7 | 8 9 [6 7]     the slots one group earlier
 *        n =  3, g = 8:   0 1 2 [0 1 2 0 1]                 the sample again from its start
 *        n =  8, g = 4:   0 1 2 3 | 4 5 6 7                 nothing
 *
 *    Slots hold ranks; slot_row = order[rank] is the row a slot reads, row_slot the one slot whose result a
 * row keeps.
 *
 * 3. Merging (merge_cpu.c)
 *
 *    Rows whose coordinates agree after division by 'scale' become one. The key of a merged row uses the
 * rounded-down sizes, its new shape the rounded-up ones: on a grid that 'scale' does not divide, the last
 * cell of an axis shares its key with the first of the next column (and of the next sample). The official
 * code does this and so do we. Voxel generation adds, for picked rows, copies at the four diagonals before
 * merging:
 *
 *        1 . 2      block 0: (x-1,y+1)    1: (x+1,y+1)    2: (x-1,y-1)    3: (x+1,y-1)
 *        . p .      each clamped to the grid; a copy carries no features, it only makes its merged row exist
 *        3 . 4      input rows of the map: originals, then sample 0: block 0 of K picks .. block 3, then
 * sample 1, ..
 *
 * 4. Neighbours and convolution (neighbours_cpu.c, subm_conv_cpu.c)
 *
 *    table[i][k] is the row at offset (kz,ky,kx) - 1 of row i, k = (kz*3 + ky)*3 + kx, or -1; k = 13 is i
 * itself. y[i] = sum over k ascending of x[table[i][k]] W[k]. A GPU convolves rows that have neighbours at like offsets
 * together (neighbours.cu): that changes no sum.
 */
#ifndef SV_VOXEL_H
#define SV_VOXEL_H

#include "perception/core/ops.h"

enum { SV_AXIS_X, SV_AXIS_Y, SV_AXIS_Z };
enum { SV_DIRECTION_X, SV_DIRECTION_Y };

/* ---- points and cells --------------------------------------------------------------------------------- */

/* Cell of a coordinate in metres, or -1 outside the grid and for NaN. A true division, as in the official
 * code. */
SV_BOTH int sv_grid_cell(const sv_grid *grid, int axis, float p)
{
    const float cell = (p - grid->min[axis]) / grid->size[axis];
    return cell >= 0.0f && cell < (float)grid->cells[axis] ? (int)cell : -1;
}

/* Centre of a cell in metres: three separate float32 roundings, also where the compiler could fuse them. */
SV_BOTH float sv_grid_centre(const sv_grid *grid, int axis, int cell)
{
    const float offset = grid->size[axis] / 2 + grid->min[axis]; /* halving is exact */
#ifdef __CUDA_ARCH__
    return __fadd_rn(__fmul_rn((float)cell, grid->size[axis]), offset);
#else
    return (float)cell * grid->size[axis] + offset;
#endif
}

/* Keys of one sample: 0..sv_voxel_keys()-1. */
SV_BOTH int64_t sv_voxel_keys(const sv_grid *grid)
{
    return (int64_t)grid->cells[0] * grid->cells[1] * grid->cells[2];
}

/* Key of the voxel a point lies in, without the batch term (b * sv_voxel_keys()); -1: outside the grid. */
SV_BOTH int64_t sv_voxel_key(const sv_grid *grid, float px, float py, float pz)
{
    const int x = sv_grid_cell(grid, SV_AXIS_X, px);
    const int y = sv_grid_cell(grid, SV_AXIS_Y, py);
    const int z = sv_grid_cell(grid, SV_AXIS_Z, pz);
    if (x < 0 || y < 0 || z < 0) return -1;
    return ((int64_t)x * grid->cells[1] + y) * grid->cells[2] + z;
}

/* Coordinates (b,z,y,x) of a key of sample b. */
SV_BOTH void sv_voxel_coords(const sv_grid *grid, int b, int64_t key, int32_t coords[4])
{
    const int64_t column = key / grid->cells[2];
    coords[0] = b;
    coords[1] = (int32_t)(key % grid->cells[2]);
    coords[2] = (int32_t)(column % grid->cells[1]);
    coords[3] = (int32_t)(column / grid->cells[1]);
}

/* Fixed point with 32 fractional bits: sums of up to 2^21 coordinates within +-512 m are exact in 64 bits. */
SV_BOTH int64_t sv_fixed(float metres)
{
    return (int64_t)((double)metres * 4294967296.0);
}
SV_BOTH float sv_fixed_mean(int64_t sum, int count)
{
    return (float)((double)sum / ((double)count * 4294967296.0));
}

/* ---- windows and groups ------------------------------------------------------------------------------- */

/* Windows along an axis; one more than needed, for the shift. */
SV_BOTH int sv_window_count(const sv_window *w, int axis)
{
    return (w->grid[2 - axis] + w->window[axis] - 1) / w->window[axis] + 1;
}

/* Keys of one sample, in either direction. */
SV_BOTH int64_t sv_window_keys(const sv_window *w)
{
    int64_t keys = 1;
    for (int axis = 0; axis < 3; axis++) keys *= (int64_t)sv_window_count(w, axis) * w->window[axis];
    return keys;
}

/*
 * What one coordinate adds to the key. The key of direction x is ((wx ny + wy) nz + wz) Wx Wy Wz + (ix Wy +
 * iy) Wz + iz with w = window number and i = place within it; direction y swaps x and y. It is a sum of one
 * term per axis, so a table per axis makes keys without divisions.
 */
SV_BOTH int64_t sv_window_term(const sv_window *w, int direction, int axis, int cell)
{
    const int second =
        direction == SV_DIRECTION_X ? SV_AXIS_Y : SV_AXIS_X; /* the axis below the leading one */
    const int shifted = cell + (w->shift ? w->window[axis] / 2 : 0);
    int64_t number = shifted / w->window[axis], place = shifted % w->window[axis];
    if (axis != SV_AXIS_Z) {
        number *= sv_window_count(w, SV_AXIS_Z);
        place *= w->window[SV_AXIS_Z];
        if (axis != second) {
            number *= sv_window_count(w, second);
            place *= w->window[second];
        }
    }
    return number * ((int64_t)w->window[0] * w->window[1] * w->window[2]) + place;
}

/* Window key of a row; ascending keys are the sequence order. */
SV_BOTH int64_t sv_window_key(const sv_window *w, int direction, const int32_t coords[4])
{
    return coords[0] * sv_window_keys(w) + sv_window_term(w, direction, SV_AXIS_X, coords[3]) +
           sv_window_term(w, direction, SV_AXIS_Y, coords[2]) +
           sv_window_term(w, direction, SV_AXIS_Z, coords[1]);
}

/* Slots of a sample of 'rows' rows. */
SV_BOTH int sv_window_padded(int rows, int group)
{
    return (rows + group - 1) / group * group;
}

/* Rank (0..rows-1, within its sample) that a slot of the sample reads; the picture above shows the three
 * cases. */
SV_BOTH int sv_window_rank(int slot, int rows, int group)
{
    if (slot < rows) return slot;
    return rows < group ? (slot - rows) % rows : slot - group;
}

/* ---- merging ------------------------------------------------------------------------------------------ */

/* Size of a merged axis. */
SV_BOTH int sv_merged_size(int size, int scale)
{
    return (size + scale - 1) / scale;
}

/* Strides of the merged key: z is 1 apart; 'y', 'x' and 'b' are how far the next y, x and sample are. */
typedef struct sv_merge_strides {
    int64_t y, x, b;
} sv_merge_strides;

/* shape z,y,x; scale x,y,z. Rounded-down sizes: see above. */
SV_BOTH sv_merge_strides sv_merge_strides_of(const int32_t shape[3], const int32_t scale[3])
{
    sv_merge_strides s;
    s.y = shape[0] / scale[2];
    s.x = shape[1] / scale[1] * s.y;
    s.b = shape[2] / scale[0] * s.x;
    return s;
}

SV_BOTH int64_t sv_merge_key(sv_merge_strides s, const int32_t scale[3], const int32_t coords[4])
{
    return coords[0] * s.b + coords[3] / scale[0] * s.x + coords[2] / scale[1] * s.y + coords[1] / scale[2];
}

/* Coordinates of a merged row. Where keys alias, this is not the cell the key was made from. */
SV_BOTH void sv_merge_coords(sv_merge_strides s, int64_t key, int32_t coords[4])
{
    coords[0] = (int32_t)(key / s.b);
    coords[1] = (int32_t)(key % s.y);
    coords[2] = (int32_t)(key % s.x / s.y);
    coords[3] = (int32_t)(key % s.b / s.x);
}

/* Diagonal copy 'block' (0..3) of a picked row, clamped to the grid. */
SV_BOTH void sv_diffusion_copy(const int32_t shape[3], int block, const int32_t from[4], int32_t to[4])
{
    const int y = from[2] + (block < 2 ? 1 : -1);
    const int x = from[3] + (block % 2 ? 1 : -1);
    to[0] = from[0];
    to[1] = from[1];
    to[2] = y < 0 ? 0 : y >= shape[1] ? shape[1] - 1 : y;
    to[3] = x < 0 ? 0 : x >= shape[2] ? shape[2] - 1 : x;
}

/* Row of copy 'block' of pick 'pick' among the inputs of a merge of 'rows' originals; offsets of the picks
 * [B+1]. */
SV_BOTH int sv_diffusion_row(int rows, const int32_t *offsets, int sample, int block, int pick)
{
    const int count = offsets[sample + 1] - offsets[sample];
    return rows + 4 * offsets[sample] + block * count + (pick - offsets[sample]);
}

/* ---- neighbours --------------------------------------------------------------------------------------- */

enum { SV_SUBM_OFFSETS = 27, SV_SUBM_CENTRE = 13 };

/* Key in a grid with a border of one cell, so that a neighbour outside the grid never has the key of a voxel.
 */
SV_BOTH int64_t sv_neighbour_key(const int32_t shape[3], const int32_t coords[4])
{
    return ((coords[0] * (int64_t)(shape[2] + 2) + coords[3] + 1) * (shape[1] + 2) + coords[2] + 1) *
               (shape[0] + 2) +
           coords[1] + 1;
}

/* How far the key of the neighbour at offset k is from the key of its centre. */
SV_BOTH int64_t sv_neighbour_step(const int32_t shape[3], int k)
{
    return ((int64_t)(k % 3 - 1) * (shape[1] + 2) + (k / 3 % 3 - 1)) * (shape[0] + 2) + (k / 9 - 1);
}

#endif
