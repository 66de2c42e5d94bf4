/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of center-based heads to scored boxes, on the CPU.
 *
 *   x        (code + place) * stride * cell + origin, y likewise      sizes   e^code
 *   z        code, or code - dz / 2 where the top face is coded       heading atan2(sine, cosine)
 *   score    the pick's heat [* sigmoid(confidence)]; kept above min_score with the centre in range
 *            then score^(1-a) * clamp((overlap + 1) / 2, 0, 1)^a, a per channel
 *
 * Source: decode_bbox_from_heatmap and generate_predicted_boxes of the official CenterHead, decode_bbox and
 * get_bboxes of the official TransFusionHead; everything in float32, in their order.
 */
#include "perception/core/ops_cpu.h"
#include "score_key.h"

#include <math.h>
#include <string.h>

typedef struct job {
    const sv_candidates *out;
    const sv_cell_picks *picks;
    const sv_center_codes *codes;
    const sv_center_rule *rule;
    int most;           /* picks of a sample */
    float *boxes;       /* [picks][SV_BOX_FIELDS] */
    float *scores;      /* [picks] */
    sv_score_key *keys; /* [picks]: a sample's kept boxes */
    int32_t *counts;    /* [samples] */
} job;

static const float *at(sv_tensor t, int64_t row)
{
    return sv_is_none(t) ? NULL : sv_f32(t) + row * t.pitch;
}

/* Whether pick i is kept. */
static bool decode(const job *j, int64_t i, float *box, float *score)
{
    const sv_center_codes *codes = j->codes;
    const sv_center_rule *rule = j->rule;
    const int64_t row = codes->gathered ? i : sv_i32(j->picks->row)[i * j->picks->row.pitch];
    const int channel = sv_i32(j->picks->channel)[i * j->picks->channel.pitch];
    const float *center = at(codes->center, row), *place = at(j->picks->place, i),
                *size = at(codes->size, row), *turn = at(codes->rotation, row),
                *velocity = at(codes->velocity, row), *overlap = at(codes->overlap, row),
                *confidence = at(codes->confidence, row);
    for (int axis = 0; axis < 2; axis++) {
        box[axis] = (center[axis] + place[axis]) * rule->stride * rule->cell[axis] + rule->origin[axis];
        box[7 + axis] = velocity ? velocity[axis] : 0;
    }
    for (int axis = 0; axis < 3; axis++) box[3 + axis] = expf(size[axis]);
    box[2] = *at(codes->z, row);
    if (rule->top_face) box[2] -= box[5] * 0.5f;
    box[6] = rule->sine_first ? atan2f(turn[0], turn[1]) : atan2f(turn[1], turn[0]);

    float s = *at(j->picks->score, i);
    if (confidence) s *= 1.0f / (1.0f + expf(-confidence[channel]));
    bool kept = s > rule->min_score;
    for (int axis = 0; axis < 3; axis++)
        kept &= box[axis] >= rule->range_min[axis] && box[axis] <= rule->range_max[axis];
    if (rule->rescore) {
        const float a = rule->rectifier[channel];
        float iou = (*overlap + 1.0f) * 0.5f;
        iou = iou < 0.0f ? 0.0f : iou > 1.0f ? 1.0f : iou;
        s = powf(s, 1.0f - a) * powf(iou, a);
    }
    *score = s;
    return kept;
}

static void decode_sample(void *arg, int sample, int worker)
{
    (void)worker;
    const job *j = arg;
    sv_score_key *keys = j->keys + (size_t)sample * (size_t)j->most;
    int count = 0;
    for (int i = 0; i < j->most; i++) {
        const int64_t pick = (int64_t)sample * j->most + i;
        if (decode(j, pick, j->boxes + pick * SV_BOX_FIELDS, j->scores + pick))
            count = sv_score_heap_add(keys, count, j->most, sv_score_key_of(j->scores[pick], i));
    }
    sv_score_heap_sort(keys, count);
    j->counts[sample] = count;
}

sv_status sv_cpu_center_decode(sv_ctx *c, const sv_candidates *out, const sv_cell_picks *picks,
                               const sv_center_codes *codes, int batch, const sv_center_rule *rule)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job j = {.out = out, .picks = picks, .codes = codes, .rule = rule, .most = picks->row.dim[0] / batch};
    const size_t rows = (size_t)picks->row.dim[0];
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decoded boxes", sizeof(float) * SV_BOX_FIELDS * rows, &memory));
    j.boxes = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decoded scores", sizeof(float) * rows, &memory));
    j.scores = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decoded keys", sizeof *j.keys * rows, &memory));
    j.keys = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decoded counts", sizeof *j.counts * (size_t)batch, &memory));
    j.counts = memory;
    sv_pool_run(c->pool, decode_sample, &j, batch);

    int row = 0;
    out->offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        for (int i = 0; i < j.counts[b]; i++, row++) {
            const int index = sv_score_key_number(j.keys[(size_t)b * (size_t)j.most + (size_t)i]);
            const int64_t pick = (int64_t)b * j.most + index;
            memcpy(sv_f32(out->boxes) + (size_t)row * SV_BOX_FIELDS, j.boxes + pick * SV_BOX_FIELDS,
                   sizeof(float) * SV_BOX_FIELDS);
            sv_f32(out->scores)[row] = j.scores[pick];
            sv_i32(out->labels)[row] = sv_i32(picks->channel)[pick * picks->channel.pitch] + 1;
            if (!sv_is_none(out->index)) sv_i32(out->index)[row] = index;
        }
        out->offsets[b + 1] = row;
    }
    sv_count_work(c, 40.0 * (double)rows, 60.0 * (double)rows);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
