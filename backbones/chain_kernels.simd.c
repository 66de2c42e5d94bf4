/* SPDX-License-Identifier: Apache-2.0
 *
 * Products, gathers and Winograd transforms of the convolution chain; chain_kernels.h has the layouts.
 *
 * One-dimensional transforms, points 0, +-a, +-b, infinity:
 *   in    v0 = a2 b2 x0 - (a2+b2) x2 + x4        v1,v2 = (x4 - b2 x2) +- a (x3 - b2 x1)
 *         v5 = a2 b2 x1 - (a2+b2) x3 + x5        v3,v4 = (x4 - a2 x2) +- b (x3 - a2 x1)
 *   out   y0 = m0 + (m1+m2) + (m3+m4)            y1 = a (m1-m2) + b (m3-m4)
 *         y2 = a2 (m1+m2) + b2 (m3+m4)           y3 = a3 (m1-m2) + b3 (m3-m4) + m5
 */
#include "backbones/chain_kernels.h"
#include "perception/core/simd.h"

#if SV_SIMD_ISA == 2
enum { ROWS = 14, VECTORS = 2 };
#elif SV_SIMD_ISA == 1
enum { ROWS = 6, VECTORS = 2 };
#else
enum { ROWS = 4, VECTORS = 8 };
#endif
enum { COLUMNS = VECTORS * SV_VL, LINE = 16 };

#define FLAT static inline __attribute__((always_inline))

static void pack(void *to, const float *w, int k, int n)
{
    float *out = to;
    for (int block = 0; block < n; block += COLUMNS)
        for (int p = 0; p < k; p++, out += COLUMNS)
            memcpy(out, w + (size_t)p * (size_t)n + block, sizeof(float) * COLUMNS);
}

/* ROWS x COLUMNS of C. 'next': what the following panel reads, to be brought nearer, a line a step. */
FLAT void block(float *restrict c, int ldc, const float *restrict a, size_t slab, const float *restrict w,
                int k, const float *next)
{
    vf sum[ROWS][VECTORS];
#pragma GCC unroll 14
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) sum[i][j] = m_set(0.0f);
    for (int s = 0; s < k; s += CHAIN_SLAB, a += slab)
        for (int p = 0; p < CHAIN_SLAB; p++, w += COLUMNS, next += LINE) {
            vf row[VECTORS];
            __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) row[j] = vf_load(w + j * SV_VL);
#pragma GCC unroll 14
            for (int i = 0; i < ROWS; i++) {
                const vf x = m_set(a[i * CHAIN_SLAB + p]);
#pragma GCC unroll 8
                for (int j = 0; j < VECTORS; j++) sum[i][j] = m_fma(x, row[j], sum[i][j]);
            }
        }
#pragma GCC unroll 14
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) vf_store(c + (size_t)i * (size_t)ldc + j * SV_VL, sum[i][j]);
}

static void product(float *c, int ldc, const void *a, const void *w, int m, int n, int k)
{
    const size_t slab = (size_t)m * CHAIN_SLAB;
    const float *panel = w;
    for (int j = 0; j < n; j += COLUMNS, panel += (size_t)k * COLUMNS) {
        const float *next =
            panel + (size_t)k * COLUMNS; /* W of the following product, after the last panel */
        for (int i = 0; i < m; i += ROWS, next += (size_t)k * LINE)
            block(c + (size_t)i * (size_t)ldc + j, ldc, (const float *)a + (size_t)i * CHAIN_SLAB, slab,
                  panel, k, next);
    }
}

/* Where channel ch of row t (of m rows) of A lies. */
FLAT float *place(float *a, int m, int t, int ch)
{
    return a + ((size_t)(ch / CHAIN_SLAB) * (size_t)m + (size_t)t) * CHAIN_SLAB + ch % CHAIN_SLAB;
}

FLAT vf load_some(const float *p, int n)
{
    return n >= SV_VL ? vf_load(p) : vf_load_n(p, n);
}

static void gather(float *a, int m, int first, const float *const *from, int count, int channels, int padded)
{
    for (int t = 0; t < count; t++)
        for (int ch = 0; ch < padded; ch += SV_VL)
            vf_store(place(a, m, t, first + ch),
                     ch < channels ? load_some(from[t] + ch, channels - ch) : m_set(0.0f));
}

/* ---- Winograd ---- */

FLAT void transform_in(vf *v, int step, vf x0, vf x1, vf x2, vf x3, vf x4, vf x5)
{
    const vf a = m_set((float)CHAIN_POINT_A), b = m_set((float)CHAIN_POINT_B);
    const vf na2 = m_set((float)(-CHAIN_POINT_A * CHAIN_POINT_A)),
             nb2 = m_set((float)(-CHAIN_POINT_B * CHAIN_POINT_B));
    const vf product2 = m_set((float)(CHAIN_POINT_A * CHAIN_POINT_A * CHAIN_POINT_B * CHAIN_POINT_B));
    const vf sum2 = m_set((float)(-CHAIN_POINT_A * CHAIN_POINT_A - CHAIN_POINT_B * CHAIN_POINT_B));
    const vf even_a = m_fma(nb2, x2, x4), odd_a = a * m_fma(nb2, x1, x3);
    const vf even_b = m_fma(na2, x2, x4), odd_b = b * m_fma(na2, x1, x3);
    v[0 * step] = m_fma(product2, x0, m_fma(sum2, x2, x4));
    v[1 * step] = even_a + odd_a;
    v[2 * step] = even_a - odd_a;
    v[3 * step] = even_b + odd_b;
    v[4 * step] = even_b - odd_b;
    v[5 * step] = m_fma(product2, x1, m_fma(sum2, x3, x5));
}

FLAT void transform_out(vf *y, int step, vf m0, vf m1, vf m2, vf m3, vf m4, vf m5)
{
    const vf a = m_set((float)CHAIN_POINT_A), b = m_set((float)CHAIN_POINT_B);
    const vf a2 = m_set((float)(CHAIN_POINT_A * CHAIN_POINT_A)),
             b2 = m_set((float)(CHAIN_POINT_B * CHAIN_POINT_B));
    const vf a3 = m_set((float)(CHAIN_POINT_A * CHAIN_POINT_A * CHAIN_POINT_A));
    const vf b3 = m_set((float)(CHAIN_POINT_B * CHAIN_POINT_B * CHAIN_POINT_B));
    const vf even_a = m1 + m2, odd_a = m1 - m2, even_b = m3 + m4, odd_b = m3 - m4;
    y[0 * step] = m0 + even_a + even_b;
    y[1 * step] = m_fma(a, odd_a, b * odd_b);
    y[2 * step] = m_fma(a2, even_a, b2 * even_b);
    y[3 * step] = m_fma(a3, odd_a, m_fma(b3, odd_b, m5));
}

static void winograd_in(float *v, size_t xi_step, int m, int t, const float *const *from, int channels,
                        int padded)
{
    for (int ch = 0; ch < padded; ch += SV_VL) {
        vf half[6][6], row[6];
        const int n = channels - ch;
        float *to = place(v, m, t, ch);
        if (n <= 0) {
            for (int xi = 0; xi < CHAIN_PATCH; xi++) vf_store(to + (size_t)xi * xi_step, m_set(0.0f));
            continue;
        }
        for (int x = 0; x < 6; x++)
            transform_in(&half[0][x], 6, load_some(from[x] + ch, n), load_some(from[6 + x] + ch, n),
                         load_some(from[12 + x] + ch, n), load_some(from[18 + x] + ch, n),
                         load_some(from[24 + x] + ch, n), load_some(from[30 + x] + ch, n));
        for (int y = 0; y < 6; y++) {
            transform_in(row, 1, half[y][0], half[y][1], half[y][2], half[y][3], half[y][4], half[y][5]);
            for (int x = 0; x < 6; x++, to += xi_step) vf_store(to, row[x]);
        }
    }
}

static void winograd_out(float *const *to, const float *const *add, const float *m, size_t xi_step,
                         const float *bias, bool relu, int channels)
{
    for (int ch = 0; ch < channels; ch += SV_VL) {
        vf half[4][6], row[4];
        const int n = channels - ch;
        const float *p = m + ch;
        for (int x = 0; x < 6; x++)
            transform_out(&half[0][x], 6, vf_load(p + (size_t)x * xi_step),
                          vf_load(p + (size_t)(6 + x) * xi_step), vf_load(p + (size_t)(12 + x) * xi_step),
                          vf_load(p + (size_t)(18 + x) * xi_step), vf_load(p + (size_t)(24 + x) * xi_step),
                          vf_load(p + (size_t)(30 + x) * xi_step));
        const vf offset = vf_load(bias + ch), zero = m_set(0.0f);
        for (int y = 0; y < 4; y++) {
            transform_out(row, 1, half[y][0], half[y][1], half[y][2], half[y][3], half[y][4], half[y][5]);
            for (int x = 0; x < 4; x++) {
                float *cell = to[y * 4 + x];
                if (!cell) continue;
                vf value = row[x] + offset;
                if (add) value = value + load_some(add[y * 4 + x] + ch, n);
                if (relu) value = m_max(value, zero);
                if (n >= SV_VL)
                    vf_store(cell + ch, value);
                else
                    vf_store_n(cell + ch, value, n);
            }
        }
    }
}

static void finish(float *const *to, const float *const *add, const float *c, int ldc, const float *bias,
                   bool relu, int count, int channels)
{
    const vf zero = m_set(0.0f);
    for (int i = 0; i < count; i++, c += ldc) {
        if (!to[i]) continue;
        for (int ch = 0; ch < channels; ch += SV_VL) {
            const int n = channels - ch;
            vf value = vf_load(c + ch) + vf_load(bias + ch);
            if (add) value = value + load_some(add[i] + ch, n);
            if (relu) value = m_max(value, zero);
            if (n >= SV_VL)
                vf_store(to[i] + ch, value);
            else
                vf_store_n(to[i] + ch, value, n);
        }
    }
}

extern const sv_chain_kernels SV_SIMD(sv_chain_kernels);
const sv_chain_kernels SV_SIMD(sv_chain_kernels) = {
    .rows = ROWS,
    .columns = COLUMNS,
    .bytes = sizeof(float),
    .pack = pack,
    .product = product,
    .gather = gather,
    .winograd_in = winograd_in,
    .winograd_out = winograd_out,
    .finish = finish,
};
