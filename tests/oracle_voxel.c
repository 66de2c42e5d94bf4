/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_voxel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- points ------------------------------------------------------------------------------------------- */

typedef struct cell {
    int b, x, y, z, row;
} cell;

static int compare_cells(const void *left, const void *right)
{
    const cell *l = left, *r = right;
    if (l->b != r->b) return l->b < r->b ? -1 : 1;
    if (l->x != r->x) return l->x < r->x ? -1 : 1;
    if (l->y != r->y) return l->y < r->y ? -1 : 1;
    if (l->z != r->z) return l->z < r->z ? -1 : 1;
    return l->row < r->row ? -1 : l->row > r->row;
}

oracle_voxels oracle_voxelize(const float *points, int columns, const int32_t *offsets, int batch,
                              const sv_grid *grid)
{
    const int n = offsets[batch];
    cell *cells = malloc(sizeof *cells * (size_t)(n + 1));
    oracle_voxels v = {0};
    for (int b = 0; b < batch; b++) {
        for (int i = offsets[b]; i < offsets[b + 1]; i++) {
            const float *p = points + (size_t)i * (size_t)columns;
            if (!isfinite(p[0]) || !isfinite(p[1]) || !isfinite(p[2])) continue;
            float at[3];
            for (int axis = 0; axis < 3; axis++)
                at[axis] = floorf((p[axis] - grid->min[axis]) / grid->size[axis]);
            if (at[0] < 0 || at[1] < 0 || at[2] < 0) continue;
            if (at[0] >= (float)grid->cells[0] || at[1] >= (float)grid->cells[1] ||
                at[2] >= (float)grid->cells[2])
                continue;
            cells[v.points++] = (cell){b, (int)at[0], (int)at[1], (int)at[2], i};
        }
    }
    qsort(cells, (size_t)v.points, sizeof *cells, compare_cells);
    v.coords = malloc(sizeof *v.coords * 4 * (size_t)(v.points + 1));
    v.voxel = malloc(sizeof *v.voxel * (size_t)(v.points + 1));
    v.row = malloc(sizeof *v.row * (size_t)(v.points + 1));
    for (int i = 0; i < v.points; i++) {
        const cell *k = &cells[i], *l = i > 0 ? &cells[i - 1] : NULL;
        if (!l || l->b != k->b || l->x != k->x || l->y != k->y || l->z != k->z) {
            const int32_t coords[4] = {k->b, k->z, k->y, k->x};
            memcpy(v.coords + 4 * (size_t)v.count++, coords, sizeof coords);
        }
        v.voxel[i] = v.count - 1;
        v.row[i] = k->row;
    }
    free(cells);
    return v;
}

void oracle_voxels_free(oracle_voxels *v)
{
    free(v->coords);
    free(v->voxel);
    free(v->row);
}

void oracle_point_features(float *y, const oracle_voxels *v, const float *points, int columns,
                           const sv_grid *grid)
{
    double *sum = calloc((size_t)v->count * 4 + 1, sizeof *sum); /* x, y, z, points */
    for (int i = 0; i < v->points; i++) {
        double *s = sum + 4 * (size_t)v->voxel[i];
        const float *p = points + (size_t)v->row[i] * (size_t)columns;
        for (int axis = 0; axis < 3; axis++) s[axis] += (double)p[axis];
        s[3] += 1;
    }
    for (int i = 0; i < v->points; i++) {
        const double *s = sum + 4 * (size_t)v->voxel[i];
        const int32_t *coords = v->coords + 4 * (size_t)v->voxel[i];
        const float *p = points + (size_t)v->row[i] * (size_t)columns;
        float *to = y + (size_t)i * (size_t)(columns + 6);
        memcpy(to, p, sizeof(float) * (size_t)columns);
        for (int axis = 0; axis < 3; axis++) {
            const double centre = coords[3 - axis] * (double)grid->size[axis] + (double)grid->size[axis] / 2 +
                                  (double)grid->min[axis];
            to[columns + axis] = (float)((double)p[axis] - s[axis] / s[3]);
            to[columns + 3 + axis] = (float)((double)p[axis] - centre);
        }
    }
    free(sum);
}

/* ---- windows ------------------------------------------------------------------------------------------ */

typedef struct keyed {
    long long key;
    int row;
} keyed;

static int compare_keys(const void *left, const void *right)
{
    const keyed *l = left, *r = right;
    if (l->key != r->key) return l->key < r->key ? -1 : 1;
    return l->row < r->row ? -1 : l->row > r->row;
}

void oracle_window_order(int32_t *order, const int32_t *coords, int rows, const sv_window *w, int direction)
{
    keyed *keys = malloc(sizeof *keys * (size_t)(rows + 1));
    const long long wx = w->window[0], wy = w->window[1], wz = w->window[2];
    const long long nx = (long long)ceil((double)w->grid[2] / (double)wx) + 1;
    const long long ny = (long long)ceil((double)w->grid[1] / (double)wy) + 1;
    const long long nz = (long long)ceil((double)w->grid[0] / (double)wz) + 1;
    for (int i = 0; i < rows; i++) {
        const int32_t *at = coords + 4 * (size_t)i;
        const long long x = at[3] + (w->shift ? wx / 2 : 0), y = at[2] + (w->shift ? wy / 2 : 0);
        const long long z = at[1] + (w->shift ? wz / 2 : 0), b = at[0];
        const long long window = direction == 0 ? b * nx * ny * nz + x / wx * ny * nz + y / wy * nz + z / wz
                                                : b * nx * ny * nz + y / wy * nx * nz + x / wx * nz + z / wz;
        const long long place = direction == 0 ? x % wx * wy * wz + y % wy * wz + z % wz
                                               : y % wy * wx * wz + x % wx * wz + z % wz;
        keys[i] = (keyed){window * wx * wy * wz + place, i};
    }
    qsort(keys, (size_t)rows, sizeof *keys, compare_keys);
    for (int i = 0; i < rows; i++) order[i] = keys[i].row;
    free(keys);
}

int oracle_slots(int32_t *ranks, int n, int group)
{
    int slots = 0;
    while (slots < n) slots += group;
    for (int i = 0; i < n; i++) ranks[i] = i;
    if (slots > group) {
        /* the last group - n % group slots copy their counterparts of the group before */
        for (int i = n; i < slots; i++) ranks[i] = ranks[i - group];
    } else {
        for (int i = n, from = 0; i < slots; i++, from = from + 1 == n ? 0 : from + 1) ranks[i] = from;
    }
    return slots;
}

/* ---- scores ------------------------------------------------------------------------------------------- */

static bool above(float a, float b)
{
    if (isnan(a)) return !isnan(b);
    return !isnan(b) && a > b;
}

void oracle_top(int32_t *picks, int k, const float *scores, int first, int rows)
{
    bool *taken = calloc((size_t)rows + 1, sizeof *taken);
    for (int i = 0; i < k; i++) {
        int best = -1;
        for (int r = 0; r < rows; r++) {
            if (!taken[r] && (best < 0 || above(scores[first + r], scores[first + best]))) best = r;
        }
        taken[best] = true;
    }
    for (int r = 0; r < rows; r++)
        if (taken[r]) *picks++ = first + r;
    free(taken);
}

/* ---- merging and neighbours --------------------------------------------------------------------------- */

int oracle_merge(int32_t *merged, int32_t *inverse, const int32_t *inputs, int n, const int32_t shape[3],
                 const int32_t scale[3])
{
    const long long sz = shape[0] / scale[2], sy = shape[1] / scale[1] * sz, sx = shape[2] / scale[0] * sy;
    keyed *keys = malloc(sizeof *keys * (size_t)(n + 1));
    for (int i = 0; i < n; i++) {
        const int32_t *at = inputs + 4 * (size_t)i;
        keys[i] = (keyed){at[0] * sx + at[3] / scale[0] * sy + at[2] / scale[1] * sz + at[1] / scale[2], i};
    }
    qsort(keys, (size_t)n, sizeof *keys, compare_keys);
    int count = 0;
    for (int i = 0; i < n; i++) {
        const long long key = keys[i].key;
        if (i == 0 || keys[i - 1].key != key) {
            int32_t *to = merged + 4 * (size_t)count++;
            to[0] = (int32_t)(key / sx);
            to[1] = (int32_t)(key % sz);
            to[2] = (int32_t)(key % sy / sz);
            to[3] = (int32_t)(key % sx / sy);
        }
        inverse[keys[i].row] = count - 1;
    }
    free(keys);
    return count;
}

int oracle_find(const int32_t *coords, int rows, int b, int z, int y, int x)
{
    for (int i = 0; i < rows; i++) {
        const int32_t *at = coords + 4 * (size_t)i;
        if (at[0] == b && at[1] == z && at[2] == y && at[3] == x) return i;
    }
    return -1;
}

void oracle_subm(double *y, const float *x, const int32_t *coords, int rows, const float *w, int in, int out)
{
    for (int i = 0; i < rows * out; i++) y[i] = 0;
    for (int i = 0; i < rows; i++) {
        for (int k = 0; k < 27; k++) {
            const int32_t *at = coords + 4 * (size_t)i;
            const int j =
                oracle_find(coords, rows, at[0], at[1] + k / 9 - 1, at[2] + k / 3 % 3 - 1, at[3] + k % 3 - 1);
            if (j < 0) continue;
            for (int o = 0; o < out; o++) {
                for (int channel = 0; channel < in; channel++)
                    y[(size_t)i * (size_t)out + (size_t)o] +=
                        (double)w[((size_t)o * 27 + (size_t)k) * (size_t)in + (size_t)channel] *
                        (double)x[(size_t)j * (size_t)in + (size_t)channel];
            }
        }
    }
}
