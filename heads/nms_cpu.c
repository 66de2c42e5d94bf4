/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy non-maximum suppression. A candidate is kept when no box kept before it overlaps it by more than the threshold.
 *
 * The official code computes all pairs and then cuts the kept list; comparing with kept boxes only, and stopping at
 * post_max, gives the same list. The class-wise variant reproduces multi_classes_nms_mmdet: its angle convention turns
 * every box to heading - 90 degrees while dx and dy stay, and its kernel has another margin.
 */
#include "perception/core/ops_cpu.h"
#include "perception/geometry/rotated_iou.h"

#include <math.h>
#include <string.h>

typedef struct job {
    const sv_candidates *in, *out;
    const sv_nms_rule *rule;
    sv_rectangle *kept; /* [samples][most] */
    int32_t *kept_row;
    int most;
    int32_t *counts;
} job;

/* Row i of the input as a rectangle. */
static sv_rectangle rectangle(const sv_candidates *in, const sv_nms_rule *rule, int i)
{
    const float *b = sv_f32(in->boxes) + (size_t)i * SV_BOX_FIELDS;
    const float heading = rule->quarter_turn ? b[6] - 1.57079632679489662f : b[6];
    return sv_rectangle_make(b[0], b[1], b[3], b[4], heading);
}

/* Rows first..last-1 of one class (label 0: all); appends the kept ones. */
static int suppress(const job *k, int first, int last, int label, int rule_index, sv_rectangle *kept,
                    int32_t *kept_row, int room)
{
    const sv_nms_rule *rule = k->rule;
    const float margin = rule->quarter_turn ? SV_NMS_BEV_MARGIN : SV_NMS_MARGIN;
    const int32_t *labels = sv_i32(k->in->labels);
    const bool suppresses = !isinf(rule->threshold[rule_index]);
    int count = 0, looked_at = 0;
    const int most = rule->post_max[rule_index] < room ? rule->post_max[rule_index] : room;
    for (int i = first; i < last && looked_at < rule->pre_max[rule_index] && count < most; i++) {
        if (label > 0 && labels[i] != label) continue;
        looked_at++;
        const sv_rectangle box = rectangle(k->in, rule, i);
        bool free_of_others = true;
        for (int j = 0; suppresses && j < count && free_of_others; j++)
            free_of_others = !sv_rectangles_near(&kept[j], &box, margin) ||
                             !(sv_iou_bev(&kept[j], &box, margin, rule->exact) > rule->threshold[rule_index]);
        if (!free_of_others) continue;
        kept[count] = box;
        kept_row[count++] = i;
    }
    return count;
}

/* Kept rows of one sample in ascending candidate index; a few hundred at most. */
static void order_by_index(const job *k, int32_t *row, int count)
{
    const int32_t *index = sv_is_none(k->in->index) ? NULL : sv_i32(k->in->index);
    for (int i = 1; i < count; i++) {
        const int32_t moved = row[i], number = index ? index[moved] : moved;
        int at = i;
        for (; at > 0 && (index ? index[row[at - 1]] : row[at - 1]) > number; at--) row[at] = row[at - 1];
        row[at] = moved;
    }
}

static void run_sample(void *arg, int b, int worker)
{
    (void)worker;
    const job *k = arg;
    const int first = k->in->boxes.offsets[b], last = k->in->boxes.offsets[b + 1];
    sv_rectangle *kept = k->kept + (size_t)b * (size_t)k->most;
    int32_t *kept_row = k->kept_row + (size_t)b * (size_t)k->most;
    int count = 0;
    if (k->rule->classes == 0) count = suppress(k, first, last, 0, 0, kept, kept_row, k->most);
    for (int label = 1; label <= k->rule->classes; label++)
        count += suppress(k, first, last, label, label - 1, kept + count, kept_row + count, k->most - count);
    if (k->rule->by_index) order_by_index(k, kept_row, count);
    k->counts[b] = count;
}

sv_status sv_cpu_nms(sv_ctx *c, const sv_candidates *out, const sv_candidates *in, const sv_nms_rule *rule)
{
    const int batch = in->boxes.batch;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job k = {.in = in, .out = out, .rule = rule, .most = out->boxes.dim[0] / batch};
    void *memory = NULL;
    const size_t places = (size_t)batch * (size_t)k.most;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept boxes", sizeof *k.kept * places, &memory));
    k.kept = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept rows", sizeof *k.kept_row * places, &memory));
    k.kept_row = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept counts", sizeof *k.counts * (size_t)batch, &memory));
    k.counts = memory;
    sv_pool_run(c->pool, run_sample, &k, batch);

    int row = 0;
    out->offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        for (int i = 0; i < k.counts[b]; i++, row++) {
            const int from = k.kept_row[(size_t)b * (size_t)k.most + (size_t)i];
            memcpy(sv_f32(out->boxes) + (size_t)row * SV_BOX_FIELDS,
                   sv_f32(in->boxes) + (size_t)from * SV_BOX_FIELDS, sizeof(float) * SV_BOX_FIELDS);
            sv_f32(out->scores)[row] = sv_f32(in->scores)[from];
            sv_i32(out->labels)[row] = sv_i32(in->labels)[from];
            if (!sv_is_none(out->index))
                sv_i32(out->index)[row] = sv_is_none(in->index) ? from : sv_i32(in->index)[from];
        }
        out->offsets[b + 1] = row;
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
