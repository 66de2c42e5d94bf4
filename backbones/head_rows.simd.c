/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of what is done to the heads of a row: unit length, softmax, one factor per head or column, dot products.
 */
#include "backbones/head_rows_kernels.h"
#include "backbones/row_math.h"

static const float *row_of(sv_tensor t, int row)
{
    return (const float *)t.data + (ptrdiff_t)row * t.pitch;
}
static float *out_row(sv_tensor t, int row)
{
    return (float *)t.data + (ptrdiff_t)row * t.pitch;
}

static void softmax(float *y, const float *x, float factor, int count)
{
    vf most = m_set(-INFINITY);
    SV_LANES(i, n, count)
    {
        float part[SV_VL];
        for (int k = 0; k < SV_VL; k++) part[k] = k < n ? factor * x[i + k] : -INFINITY;
        most = m_max(most, vf_load(part));
    }
    const vf shift = m_set(vf_max(most));
    SV_LANES(i, n, count) row_store(y + i, m_exp(m_set(factor) * row_load(x + i, n) - shift), n);
    row_scale(y, 1.0f / row_sum(y, count), y, count);
}

static void map(const sv_head_job *job, int from, int to)
{
    const int width = job->y.dim[1] / job->heads;
    for (int row = from; row < to; row++)
        for (int h = 0; h < job->heads; h++) {
            const float *x = row_of(job->x, row) + (ptrdiff_t)h * width;
            float *y = out_row(job->y, row) + (ptrdiff_t)h * width;
            if (job->rule == SV_HEAD_SOFTMAX) {
                softmax(y, x, job->number, width);
                continue;
            }
            if (job->rule == SV_HEAD_TIMES) {
                row_scale(y, job->number, x, width);
                continue;
            }
            const float square = row_dot(x, x, width), length = sqrtf(square);
            const float by = job->rule == SV_HEAD_UNIT ? sqrtf(square + job->number)
                             : length > job->number    ? length
                                                       : job->number;
            row_scale(y, 1.0f / by, x, width);
        }
}

static void scale(const sv_head_job *job, int from, int to)
{
    const int heads = job->s.dim[1], width = job->y.dim[1] / heads;
    for (int row = from; row < to; row++)
        for (int h = 0; h < heads; h++) {
            const float s = row_of(job->s, row)[h];
            row_scale(out_row(job->y, row) + (ptrdiff_t)h * width, job->divide ? 1.0f / (s + job->number) : s,
                      row_of(job->x, row) + (ptrdiff_t)h * width, width);
        }
}

static void columns(const sv_head_job *job, int from, int to)
{
    const float *w = sv_f32(job->s);
    for (int row = from; row < to; row++) {
        const float *x = row_of(job->x, row), *base = sv_is_none(job->base) ? NULL : row_of(job->base, row);
        float *y = out_row(job->y, row);
        SV_LANES(i, n, job->y.dim[1])
        {
            vf product = row_load(x + i, n) * row_load(w + i, n);
            if (base) product = row_load(base + i, n) + product;
            row_store(y + i, product, n);
        }
    }
}

static void dots(const sv_head_job *job, int from, int to)
{
    const int heads = job->y.dim[1], width = job->x.dim[1] / heads;
    const float *w = sv_is_none(job->s) ? NULL : sv_f32(job->s);
    for (int row = from; row < to; row++)
        for (int h = 0; h < heads; h++) {
            const float *a = row_of(job->x, row) + (ptrdiff_t)h * width,
                        *b = sv_is_none(job->base) ? NULL : row_of(job->base, row) + (ptrdiff_t)h * width;
            vf sum = m_set(0.0f);
            SV_LANES(i, n, width)
            {
                vf product = row_load(a + i, n);
                if (b) product = product * row_load(b + i, n);
                if (w) product = product * row_load(w + (ptrdiff_t)h * width + i, n);
                sum = sum + product;
            }
            out_row(job->y, row)[h] = vf_sum(sum);
        }
}

const sv_head_kernels SV_SIMD(sv_head_kernels) = {
    .map = map, .scale = scale, .columns = columns, .dots = dots};
