/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_heads.h"

#include <math.h>
#include <stdlib.h>

void oracle_local_peaks(float *y, const float *x, int batch, int height, int width, int channels, int radius,
                        uint32_t alone)
{
    for (int b = 0; b < batch; b++)
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++)
                for (int ch = 0; ch < channels; ch++) {
                    const int64_t at = (((int64_t)b * height + row) * width + column) * channels + ch;
                    bool keep = true;
                    for (int i = row - radius; i <= row + radius; i++)
                        for (int j = column - radius; j <= column + radius; j++) {
                            if (i < 0 || i >= height || j < 0 || j >= width) {
                                keep = false;
                                continue;
                            }
                            if (x[(((int64_t)b * height + i) * width + j) * channels + ch] > x[at])
                                keep = false;
                        }
                    if (alone & 1u << ch) keep = true;
                    y[at] = keep ? x[at] : 0;
                }
}

typedef struct numbered {
    float score;
    int32_t number;
} numbered;

static int best_first(const void *a, const void *b)
{
    const numbered *p = a, *q = b;
    const bool no_p = isnan(p->score), no_q = isnan(q->score);
    if (no_p != no_q) return no_p ? -1 : 1;
    if (!no_p && p->score != q->score) return p->score > q->score ? -1 : 1;
    return p->number < q->number ? -1 : p->number > q->number;
}

void oracle_order_cells(int32_t *numbers, const float *x, int height, int width, int channels, bool by_column)
{
    const int cells = height * width;
    numbered *all = malloc(((size_t)cells * (size_t)channels + 1) * sizeof *all);
    if (!all) abort();
    int count = 0;
    for (int ch = 0; ch < channels; ch++)
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++)
                all[count++] =
                    (numbered){x[((int64_t)row * width + column) * channels + ch],
                               ch * cells + (by_column ? column * height + row : row * width + column)};
    qsort(all, (size_t)count, sizeof *all, best_first);
    for (int i = 0; i < count; i++) numbers[i] = all[i].number;
    free(all);
}

void oracle_window_attention(double *out, const double *q, const float *k, const float *v, int heads, int d,
                             int width, int radius, double scale, int x, int y, int *keys)
{
    const int side = 2 * radius + 1, channels = heads * d;
    double *score = malloc((size_t)side * (size_t)side * sizeof *score);
    int *row = malloc((size_t)side * (size_t)side * sizeof *row);
    if (!score || !row) abort();
    int count = 0;
    for (int ox = -radius; ox <= radius; ox++)
        for (int oy = -radius; oy <= radius; oy++) {
            const int n = (x + ox) * width + (y + oy);
            if (n < 0 || n >= width * width) continue;
            row[count++] = n % width * width + n / width;
        }
    for (int h = 0; h < heads; h++) {
        double greatest = -INFINITY, sum = 0;
        for (int j = 0; j < count; j++) {
            score[j] = 0;
            for (int i = h * d; i < (h + 1) * d; i++)
                score[j] += q[i] * (double)k[(int64_t)row[j] * channels + i];
            score[j] *= scale;
            greatest = fmax(greatest, score[j]);
        }
        for (int j = 0; j < count; j++) sum += exp(score[j] - greatest);
        for (int i = h * d; i < (h + 1) * d; i++) {
            out[i] = 0;
            for (int j = 0; j < count; j++)
                out[i] += exp(score[j] - greatest) / sum * (double)v[(int64_t)row[j] * channels + i];
        }
    }
    *keys = count;
    free(score);
    free(row);
}

bool oracle_center_decode(double *box, double *score, double *doubt, const oracle_code *code,
                          const oracle_rule *rule)
{
    for (int i = 0; i < 2; i++) {
        box[i] = (code->center[i] + code->place[i]) * rule->stride * rule->cell[i] + rule->origin[i];
        box[7 + i] = code->velocity[i];
    }
    for (int i = 0; i < 3; i++) box[3 + i] = exp(code->size[i]);
    box[2] = rule->top_face ? code->z - box[5] / 2 : code->z;
    const double cosine = code->rotation[rule->sine_first ? 1 : 0],
                 sine = code->rotation[rule->sine_first ? 0 : 1];
    box[6] = atan2(sine, cosine);
    double s = code->heat;
    if (code->has_confidence) s /= 1 + exp(-code->confidence);
    bool kept = s > rule->min_score;
    *doubt = fabs(s - rule->min_score);
    for (int i = 0; i < 3; i++) {
        kept = kept && box[i] >= rule->range_min[i] && box[i] <= rule->range_max[i];
        *doubt = fmin(*doubt, fmin(fabs(box[i] - rule->range_min[i]), fabs(box[i] - rule->range_max[i])));
    }
    if (rule->rescore) {
        const double iou = fmin(fmax((code->overlap + 1) / 2, 0), 1);
        s = pow(s, 1 - rule->rectifier) * pow(iou, rule->rectifier);
    }
    *score = s;
    return kept;
}
