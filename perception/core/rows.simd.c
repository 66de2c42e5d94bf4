/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops over whole rows. A segment is reduced in blocks of BLOCK vectors of columns kept in registers, so
 * that its result is written once.
 */
#include "rows_cpu.h"

enum { BLOCK = 4 };

static void copy(float *y, const float *x, int n)
{
    int i = 0;
    for (; i + SV_VL <= n; i += SV_VL) vf_store(y + i, vf_load(x + i));
    if (i < n) vf_store_n(y + i, vf_load_n(x + i, n - i), n - i);
}

static void zero(float *y, int n)
{
    int i = 0;
    for (; i + SV_VL <= n; i += SV_VL) vf_store(y + i, m_set(0.0f));
    if (i < n) vf_store_n(y + i, m_set(0.0f), n - i);
}

static void add(float *y, const float *base, const float *x, int n)
{
    int i = 0;
    for (; i + SV_VL <= n; i += SV_VL) vf_store(y + i, vf_load(base + i) + vf_load(x + i));
    if (i < n) vf_store_n(y + i, vf_load_n(base + i, n - i) + vf_load_n(x + i, n - i), n - i);
}

static inline const float *entry(const sv_row_list *list, int64_t j)
{
    return list->x + (list->rows ? list->rows[j * list->rows_pitch] : j) * list->x_pitch;
}

static inline vf load_of(const float *x, int v, int vectors, int lanes)
{
    return v == vectors - 1 ? vf_load_n(x + v * SV_VL, lanes) : vf_load(x + v * SV_VL);
}

/* 'vectors' vectors of columns from 'i' on, the last of 'lanes' lanes. There is at least one entry. */
static inline void reduce_block(float *y, const sv_row_list *list, int64_t from, int64_t to, int i,
                                int vectors, int lanes, bool maximum)
{
    vf r[BLOCK];
    const float *x = entry(list, from) + i;
    for (int v = 0; v < vectors; v++) r[v] = load_of(x, v, vectors, lanes);
    for (int64_t j = from + 1; j < to; j++) {
        x = entry(list, j) + i;
        for (int v = 0; v < vectors; v++) {
            const vf e = load_of(x, v, vectors, lanes);
            if (maximum)
                r[v] = m_max(r[v], e);
            else
                r[v] = r[v] + e;
        }
    }
    for (int v = 0; v < vectors; v++) vf_store_n(y + i + v * SV_VL, r[v], v == vectors - 1 ? lanes : SV_VL);
}

static inline void reduce(float *y, const sv_row_list *list, int64_t from, int64_t to, int n, bool maximum)
{
    if (from >= to) {
        zero(y, n);
        return;
    }
    int i = 0;
    for (; i + BLOCK * SV_VL <= n; i += BLOCK * SV_VL)
        reduce_block(y, list, from, to, i, BLOCK, SV_VL, maximum);
    for (; i < n; i += SV_VL) reduce_block(y, list, from, to, i, 1, n - i < SV_VL ? n - i : SV_VL, maximum);
}

static void sum(float *y, const sv_row_list *list, int64_t from, int64_t to, int n)
{
    reduce(y, list, from, to, n, false);
}

static void max(float *y, const sv_row_list *list, int64_t from, int64_t to, int n)
{
    reduce(y, list, from, to, n, true);
}

const sv_rows_kernels SV_SIMD(sv_rows_kernels) = {
    .copy = copy, .zero = zero, .add = add, .sum = sum, .max = max};
