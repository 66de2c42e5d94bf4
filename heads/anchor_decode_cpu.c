/* SPDX-License-Identifier: Apache-2.0
 *
 * Anchor head outputs to scored boxes. Anchor a = ((y W + x) classes + class) rotations + rotation of a sample.
 *
 *   score   sigmoid of the best class logit; label = that class + 1 (the first of equals)
 *   x, y    code * sqrt(dxa^2 + dya^2) + anchor; z: code * dza + anchor; sizes: e^code * anchor; heading: code + anchor
 *   heading limit(heading - offset) + offset + period * argmax(dir),  limit(v) = v - floor(v / period + limit offset) period
 *
 * Few anchors pass the score threshold, so logits are compared with its logit first and only those that pass are decoded.
 * Source: ResidualCoder.decode_torch and AnchorHeadTemplate.generate_predicted_boxes of the official code, in float32.
 */
#include "perception/core/ops_cpu.h"
#include "score_key.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TASK_CELLS = 4096, BINS = 1 << 16 };

typedef struct job {
    sv_tensor cls;
    const sv_anchor_grid *grid;
    float min_score, min_logit;
    int cells, batch, tasks_per_sample;
    int32_t *counts;    /* per task */
    sv_score_key *keys; /* per task at its first anchor's place */
} job;

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Best sigmoid of an anchor's classes; '*label' 0-based. */
static float best_class(const float *logit, int classes, int *label)
{
    float best = sigmoid(logit[0]);
    *label = 0;
    for (int k = 1; k < classes; k++) {
        const float score = sigmoid(logit[k]);
        if (score > best) {
            best = score;
            *label = k;
        }
    }
    return best;
}

static void collect(void *arg, int task, int worker)
{
    (void)worker;
    const job *k = arg;
    const int b = task / k->tasks_per_sample, first = task % k->tasks_per_sample * TASK_CELLS;
    const int last = first + TASK_CELLS < k->cells ? first + TASK_CELLS : k->cells;
    const int per_cell = k->grid->per_cell, classes = k->grid->classes;
    sv_score_key *out = k->keys + ((size_t)b * (size_t)k->cells + (size_t)first) * (size_t)per_cell;
    int count = 0;
    for (int cell = first; cell < last; cell++) {
        const float *logits =
            sv_f32(k->cls) + ((size_t)b * (size_t)k->cells + (size_t)cell) * (size_t)k->cls.pitch;
        for (int a = 0; a < per_cell; a++) {
            const float *logit = logits + a * classes;
            float most = logit[0];
            for (int n = 1; n < classes; n++) most = logit[n] > most ? logit[n] : most;
            if (!(most >= k->min_logit)) continue;
            int label;
            const float score = best_class(logit, classes, &label);
            if (score >= k->min_score) out[count++] = sv_score_key_of(score, cell * per_cell + a);
        }
    }
    k->counts[task] = count;
}

static int by_key(const void *a, const void *b)
{
    const sv_score_key x = *(const sv_score_key *)a, y = *(const sv_score_key *)b;
    return (x > y) - (x < y);
}

/* The 'most' smallest keys to the front, sorted. Keys that cannot be among them are dropped by a count of their high bits. */
static int select_best(sv_score_key *keys, int count, int most, int32_t *bins)
{
    if (count > most) {
        memset(bins, 0, sizeof *bins * BINS);
        for (int i = 0; i < count; i++) bins[keys[i] >> 48]++;
        int bin = 0;
        for (int sum = bins[0]; sum < most; sum += bins[bin]) bin++;
        int kept = 0;
        for (int i = 0; i < count; i++)
            if ((int)(keys[i] >> 48) <= bin) keys[kept++] = keys[i];
        count = kept;
    }
    qsort(keys, (size_t)count, sizeof *keys, by_key);
    return count < most ? count : most;
}

static void decode(const sv_anchor_grid *grid, int index, const float *code, const float *direction,
                   float *box)
{
    float anchor[7];
    sv_anchor_at(grid, index, anchor);
    const float diagonal = sqrtf(anchor[3] * anchor[3] + anchor[4] * anchor[4]);
    box[0] = code[0] * diagonal + anchor[0];
    box[1] = code[1] * diagonal + anchor[1];
    box[2] = code[2] * anchor[5] + anchor[2];
    for (int i = 3; i < 6; i++) box[i] = expf(code[i]) * anchor[i];
    box[6] = code[6] + anchor[6];
    box[7] = box[8] = 0;
    if (grid->direction_bins > 0) {
        int best = 0;
        for (int n = 1; n < grid->direction_bins; n++)
            if (direction[n] > direction[best]) best = n;
        const float period = (float)(2 * 3.14159265358979323846 / grid->direction_bins);
        const float turned = box[6] - grid->direction_offset;
        const float limited = turned - floorf(turned / period + grid->direction_limit) * period;
        box[6] = limited + grid->direction_offset + period * (float)best;
    }
}

sv_status sv_cpu_anchor_decode(sv_ctx *c, const sv_candidates *out, sv_tensor cls, sv_tensor box,
                               sv_tensor dir, int batch, const sv_anchor_grid *grid, float min_score,
                               int pre_max)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job k = {.cls = cls,
             .grid = grid,
             .min_score = min_score,
             .cells = grid->height * grid->width,
             .batch = batch};
    /* a little below the exact logit: the score itself decides */
    k.min_logit = min_score <= 0   ? -INFINITY
                  : min_score >= 1 ? 15.0f
                                   : logf(min_score / (1 - min_score)) - 1e-3f;
    k.tasks_per_sample = (k.cells + TASK_CELLS - 1) / TASK_CELLS;
    void *memory = NULL;
    const size_t anchors = (size_t)k.cells * (size_t)grid->per_cell;
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "candidate keys", sizeof *k.keys * anchors * (size_t)batch, &memory));
    k.keys = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate counts",
                          sizeof *k.counts * (size_t)(k.tasks_per_sample * batch), &memory));
    k.counts = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate bins", sizeof(int32_t) * BINS, &memory));
    int32_t *bins = memory;
    sv_pool_run(c->pool, collect, &k, k.tasks_per_sample * batch);

    const int room = out->boxes.dim[0] / batch, most = pre_max < room ? pre_max : room;
    int row = 0;
    out->offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        sv_score_key *keys = k.keys + (size_t)b * anchors;
        int count = 0;
        for (int task = 0; task < k.tasks_per_sample; task++) {
            memmove(keys + count, keys + (size_t)task * TASK_CELLS * (size_t)grid->per_cell,
                    sizeof *keys * (size_t)k.counts[b * k.tasks_per_sample + task]);
            count += k.counts[b * k.tasks_per_sample + task];
        }
        count = select_best(keys, count, most, bins);
        for (int i = 0; i < count; i++, row++) {
            const int index = sv_score_key_number(keys[i]), kind = index % grid->per_cell;
            const size_t cell = (size_t)b * (size_t)k.cells + (size_t)(index / grid->per_cell);
            const float *direction = grid->direction_bins > 0 ? sv_f32(dir) + cell * (size_t)dir.pitch +
                                                                    kind * grid->direction_bins
                                                              : NULL;
            int label;
            const float score = best_class(sv_f32(cls) + cell * (size_t)cls.pitch + kind * grid->classes,
                                           grid->classes, &label);
            decode(grid, index, sv_f32(box) + cell * (size_t)box.pitch + kind * 7, direction,
                   sv_f32(out->boxes) + (size_t)row * SV_BOX_FIELDS);
            sv_f32(out->scores)[row] = score;
            sv_i32(out->labels)[row] = label + 1;
            if (!sv_is_none(out->index)) sv_i32(out->index)[row] = index;
        }
        out->offsets[b + 1] = row;
    }
    sv_count_work(c, 0, 4.0 * (double)anchors * grid->classes * batch);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
