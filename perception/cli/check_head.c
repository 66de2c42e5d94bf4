/* SPDX-License-Identifier: Apache-2.0
 *
 * The head of a recorded detector: its maps, its best candidates or queries, and the boxes.
 *
 * Heads choose their best cells by heat. Where our choice may differ from the recorded one only among heats
 * closer than CHECK_MARGIN, the line says so: queries are then compared with the recorded ones of the same
 * class and place, and as many boxes may be others.
 */
#include "check_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- while the frame runs ----------------------------------------------------------------------------- */

static const check_kept *kept(const model_check *m, const char *name)
{
    for (int i = 0; i < m->kept_count; i++)
        if (strcmp(m->kept[i].name, name) == 0) return &m->kept[i];
    return NULL;
}

static sv_status keep(model_check *m, const char *name, const void *host, int rows, int channels,
                      bool integer)
{
    SV_CHECK(m->run->c, m->kept_count < CHECK_KEPT, SV_INTERNAL, "more than %d tensors of a head to keep",
             (int)CHECK_KEPT);
    check_kept *k = &m->kept[m->kept_count];
    const size_t bytes = sizeof(float) * (size_t)rows * (size_t)channels;
    k->values = malloc(bytes + 1);
    SV_CHECK(m->run->c, k->values, SV_NO_MEMORY, "no memory");
    memcpy(k->values, host, bytes);
    snprintf(k->name, sizeof k->name, "%s", name);
    k->rows = rows;
    k->channels = channels;
    k->integer = integer;
    m->kept_count++;
    return SV_OK;
}

sv_status check_head_tensor(model_check *m, const char *name, sv_tensor tensor, const void *host, int rows)
{
    const int channels = (int)sv_row_elements(tensor);
    char attribute[128], dataset[128], deviation[128];
    if (rows != m->map_height * m->map_width || tensor.dtype != SV_F32)
        return keep(m, name, host, rows, channels, tensor.dtype == SV_I32);
    if (strcmp(name, "head/hm") == 0) SV_TRY(keep(m, name, host, rows, channels, false));
    snprintf(attribute, sizeof attribute, "maxabs_f64_f32/%s", name);
    snprintf(dataset, sizeof dataset, "%s_crop_hwc", name);
    SV_TRY(check_crop(m, dataset, "head/crop_origin_yx", attribute, host, m->map_width, channels, CHECK_HWC));
    snprintf(dataset, sizeof dataset, "%s_crop_chw", name);
    SV_TRY(check_crop(m, dataset, "head/crop_origin_yx", attribute, host, m->map_width, channels, CHECK_CHW));
    snprintf(dataset, sizeof dataset, "%s_crop_cxy", name);
    snprintf(deviation, sizeof deviation, "%s_crop_origin_xy", name);
    SV_TRY(check_crop(m, dataset, deviation, attribute, host, m->map_width, channels, CHECK_CWH));
    snprintf(dataset, sizeof dataset, "%s_channel_mean", name);
    snprintf(deviation, sizeof deviation, "%s_channel_std", name);
    return check_statistics(m, dataset, deviation, host, rows, channels, attribute);
}

void check_head_free(model_check *m)
{
    for (int i = 0; i < m->kept_count; i++) free(m->kept[i].values);
    m->kept_count = 0;
}

/* ---- picks of a heat map ------------------------------------------------------------------------------ */

/* How many cells the last pick of a heat map may be exchanged for, or be one of those exchanged. */
static void count_ties(model_check *m)
{
    const check_kept *heat = kept(m, "head/hm"), *picked = kept(m, "head/picked_scores");
    if (!heat || !picked || picked->rows == 0) return;
    const float cut = picked->values[picked->rows - 1];
    int above = 0, near = 0;
    for (int64_t i = 0; i < (int64_t)heat->rows * heat->channels; i++) {
        const float score = 1.0f / (1.0f + expf(-heat->values[i]));
        if (fabsf(score - cut) <= CHECK_MARGIN)
            near++;
        else if (score > cut)
            above++;
    }
    const int places = picked->rows - above; /* for those near the cut */
    if (near > places) m->ties = places < near - places ? places : near - places;
}

/* ---- queries ------------------------------------------------------------------------------------------ */

typedef struct recorded_queries {
    sv_h5_array labels, heat, center;
    int count;
} recorded_queries;

static float recorded_heat(const recorded_queries *q, int i)
{
    return q->heat.f[(size_t)q->labels.i[i] * (size_t)q->count + (size_t)i];
}

/*
 * row[i] = our query that is the recorded query i: the nearest of its class among those whose recorded place
 * has about the same heat; -1: none. Returns how many stand elsewhere.
 */
static int match_queries(const recorded_queries *q, const check_kept *labels, const check_kept *center,
                         int32_t *row)
{
    int moved = 0;
    for (int i = 0; i < q->count; i++) {
        double nearest = 1; /* in cells: another query's box is further away */
        row[i] = -1;
        for (int k = 0; k < q->count; k++) {
            if (fabsf(recorded_heat(q, i) - recorded_heat(q, k)) > CHECK_MARGIN && k != i) continue;
            int32_t label;
            memcpy(&label, &labels->values[k], sizeof label);
            const double dx = (double)center->values[2 * k] - (double)q->center.f[i],
                         dy = (double)center->values[2 * k + 1] - (double)q->center.f[q->count + i],
                         distance = sqrt(dx * dx + dy * dy);
            if (label != q->labels.i[i] || !(distance < nearest)) continue;
            nearest = distance;
            row[i] = k;
        }
        moved += row[i] != i;
    }
    return moved;
}

/* One tensor of all queries against "head/<name>", [channels, queries]. */
static sv_status compare_queries(model_check *m, const check_kept *k, const int32_t *row)
{
    sv_h5_array want;
    char attribute[128];
    SV_TRY(check_read(m->run, m->file, k->name, &want));
    snprintf(attribute, sizeof attribute, "maxabs_f64_f32/%s", k->name);
    const size_t count = (size_t)k->rows * (size_t)k->channels;
    float *got = !want.integer && want.count == count ? malloc(sizeof *got * count + 1) : NULL;
    sv_status status = got ? SV_OK
                           : SV_FAIL(m->run->c, SV_BAD_INPUT, "%s: '%s' does not hold %d x %d numbers",
                                     m->file->path, k->name, k->channels, k->rows);
    for (int i = 0; got && i < k->rows; i++)
        for (int ch = 0; ch < k->channels; ch++) {
            const size_t at = (size_t)ch * (size_t)k->rows + (size_t)i;
            got[at] = row[i] < 0 ? want.f[at] : k->values[(size_t)row[i] * (size_t)k->channels + (size_t)ch];
        }
    if (got)
        check_floats(m->run, m->file, k->name, got, want.f, count,
                     check_tolerance(m->run, m->file, attribute, want.f, count));
    free(got);
    sv_h5_array_free(&want);
    return status;
}

static sv_status compare_all_queries(model_check *m)
{
    static const char dataset[] = "head/query_labels";
    const check_kept *labels = kept(m, dataset), *center = kept(m, "head/center");
    if (!check_has(m->file, dataset) || !labels || !center) return SV_OK;
    recorded_queries q = {.count = 0};
    SV_TRY(check_read(m->run, m->file, dataset, &q.labels));
    SV_TRY(check_read(m->run, m->file, "head/query_heatmap_score", &q.heat));
    SV_TRY(check_read(m->run, m->file, "head/center", &q.center));
    q.count = (int)q.labels.count;
    const int classes = sv_model_class_count(m->model);
    bool fits = q.labels.integer && q.center.count == 2 * q.labels.count && labels->rows == q.count &&
                center->rows == q.count && q.heat.count == (size_t)classes * q.labels.count;
    for (int i = 0; fits && i < q.count; i++) fits = q.labels.i[i] >= 0 && q.labels.i[i] < classes;
    int32_t *row = fits ? calloc((size_t)q.count + 1, sizeof *row) : NULL;
    sv_status status =
        row ? SV_OK
            : SV_FAIL(m->run->c, SV_BAD_INPUT, "%s: '%s' does not belong to %d queries of %d classes",
                      m->file->path, dataset, labels->rows, classes);
    if (row) {
        const int moved = match_queries(&q, labels, center, row);
        int missing = 0;
        for (int i = 0; i < q.count; i++) {
            if (row[i] >= 0) continue;
            if (recorded_heat(&q, i) - recorded_heat(&q, q.count - 1) <= CHECK_MARGIN)
                m->ties++;
            else
                missing++;
        }
        if (moved == 0)
            check_result(m->run, m->file, dataset, true, "equal, %d queries", q.count);
        else
            check_result(m->run, m->file, dataset, missing == 0,
                         "%d of %d queries stand elsewhere and %d are others, among heats within %.0e: "
                         "rounding ties; %d differ",
                         moved - m->ties - missing, q.count, m->ties, (double)CHECK_MARGIN, missing);
        for (int i = 0; i < m->kept_count && status == SV_OK; i++)
            if (m->kept[i].rows == q.count && !m->kept[i].integer && check_has(m->file, m->kept[i].name))
                status = compare_queries(m, &m->kept[i], row);
    }
    free(row);
    sv_h5_array_free(&q.labels);
    sv_h5_array_free(&q.heat);
    sv_h5_array_free(&q.center);
    return status;
}

/* ---- anchors ------------------------------------------------------------------------------------------ */

/* head/top200_*: matched by anchor number, since close scores may swap places. */
static sv_status compare_anchors(model_check *m)
{
    check_run *run = m->run;
    check_file *file = m->file;
    const check_kept *numbers = kept(m, "head/candidate_index"),
                     *all_scores = kept(m, "head/candidate_scores"),
                     *all_boxes = kept(m, "head/candidate_boxes");
    if (!check_has(file, "head/top200_anchor_index") || !numbers || !all_scores || !all_boxes) return SV_OK;
    sv_h5_array index, score;
    SV_TRY(check_read(run, file, "head/top200_anchor_index", &index));
    SV_TRY(check_read(run, file, "head/top200_score", &score));
    const size_t count = index.count;
    float *scores = calloc(count + 1, sizeof *scores), *boxes = calloc(7 * count + 1, sizeof *boxes);
    SV_CHECK(run->c, scores && boxes, SV_NO_MEMORY, "no memory");
    /* The recorded best 200 must be ours as well; beyond the last place a tie of scores may exchange one. */
    const double tolerance = check_tolerance(run, file, "maxabs_f64_f32/final/scores", score.f, count);
    size_t missing = 0;
    for (size_t i = 0; i < count; i++) {
        int at = -1;
        for (int k = 0; k < numbers->rows && k < 2 * (int)count && at < 0; k++)
            if (memcmp(&numbers->values[k], &index.i[i], sizeof(int32_t)) == 0) at = k;
        if (at < 0) {
            missing++;
            continue;
        }
        scores[i] = all_scores->values[at];
        memcpy(boxes + 7 * i, all_boxes->values + (size_t)at * SV_BOX_FIELDS, 7 * sizeof *boxes);
        if (at >= (int)count &&
            fabs((double)all_scores->values[at] - (double)all_scores->values[count - 1]) > tolerance)
            missing++;
    }
    check_result(run, file, "head/top200_anchor_index", missing == 0, "%zu anchors, %zu not among our best",
                 count, missing);
    check_floats(run, file, "head/top200_score", scores, score.f, count, tolerance);
    sv_status status = SV_OK;
    if (check_has(file, "head/top200_decoded_box"))
        status = check_dataset(run, file, "head/top200_decoded_box", boxes, 7 * count,
                               "maxabs_f64_f32/final/boxes");
    if (status == SV_OK && check_has(file, "head/top200_anchor")) {
        status = sv_model_anchors(m->model, index.i, (int)count, boxes)
                     ? check_dataset(run, file, "head/top200_anchor", boxes, 7 * count, NULL)
                     : SV_FAIL(run->c, SV_INTERNAL, "the model's head has no anchors");
    }
    free(scores);
    free(boxes);
    sv_h5_array_free(&index);
    sv_h5_array_free(&score);
    return status;
}

/* ---- boxes -------------------------------------------------------------------------------------------- */

typedef struct recorded_boxes {
    sv_h5_array box, score, label;
    int count, columns;
    double tolerance;
} recorded_boxes;

/* The box of label and centre nearest to recorded box i, among those not taken; -1: none. */
static int nearest_box(const recorded_boxes *r, int i, const sv_box *boxes, int count, const bool *taken)
{
    const float *w = r->box.f + (size_t)i * (size_t)r->columns;
    int best = -1;
    double nearest = INFINITY;
    for (int k = 0; k < count; k++) {
        const double dx = boxes[k].x - w[0], dy = boxes[k].y - w[1], dz = boxes[k].z - w[2],
                     d = dx * dx + dy * dy + dz * dz;
        if (taken[k] || boxes[k].label != r->label.i[i] || d >= nearest) continue;
        nearest = d;
        best = k;
    }
    return best;
}

/* The numbers of a box as recorded box i has them; returns the largest difference. */
static double box_fields(const recorded_boxes *r, int i, const sv_box *b, float *out)
{
    const float *w = r->box.f + (size_t)i * (size_t)r->columns;
    const float fields[9] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading, b->vx, b->vy};
    memcpy(out, fields, sizeof *out * (size_t)(r->columns < 9 ? r->columns : 9));
    /* the same direction may be written a turn apart */
    out[6] += (float)(6.283185307179586 * nearbyint(((double)w[6] - (double)out[6]) / 6.283185307179586));
    double worst = 0;
    for (int k = 0; k < r->columns; k++) worst = fmax(worst, fabs((double)out[k] - (double)w[k]));
    return worst;
}

/* Final lists as sets: same label, nearest centre, one to one. Picks that are rounding ties may give other
 * boxes. */
static sv_status compare_lists(model_check *m, const recorded_boxes *r, const sv_box *boxes, int count)
{
    check_run *run = m->run;
    const size_t wanted = (size_t)r->count, columns = (size_t)r->columns;
    float *found = calloc(wanted * columns + 1, sizeof *found), *scores = calloc(wanted + 1, sizeof *scores);
    int32_t *labels = calloc(wanted + 1, sizeof *labels);
    bool *taken = calloc((size_t)count + 1, sizeof *taken);
    SV_CHECK(run->c, found && scores && labels && taken, SV_NO_MEMORY, "no memory");
    int others = 0;
    for (int i = 0; i < r->count; i++) {
        float *out = found + (size_t)i * columns;
        const int best = nearest_box(r, i, boxes, count, taken);
        const double difference = best < 0 ? INFINITY : box_fields(r, i, &boxes[best], out);
        if (!(difference <= r->tolerance) && others < m->ties) {
            others++;
            memcpy(out, r->box.f + (size_t)i * columns, sizeof *out * columns);
            scores[i] = r->score.f[i];
            labels[i] = r->label.i[i];
        } else if (best >= 0) {
            taken[best] = true;
            scores[i] = boxes[best].score;
            labels[i] = boxes[best].label;
        }
    }
    if (others == 0)
        check_result(run, m->file, "final/num_boxes", count == r->count, "%d boxes, recorded %d", count,
                     r->count);
    else
        check_result(run, m->file, "final/num_boxes", abs(count - r->count) <= others,
                     "%d boxes, recorded %d; %d of the recorded ones come from picks that are rounding ties",
                     count, r->count, others);
    check_ints(run, m->file, "final/labels", labels, r->label.i, wanted);
    check_floats(run, m->file, "final/boxes", found, r->box.f, r->box.count, r->tolerance);
    check_floats(run, m->file, "final/scores", scores, r->score.f, r->score.count,
                 check_tolerance(run, m->file, "maxabs_f64_f32/final/scores", r->score.f, r->score.count));
    free(found);
    free(scores);
    free(labels);
    free(taken);
    return SV_OK;
}

static sv_status compare_boxes(model_check *m, const sv_box *boxes, int count)
{
    recorded_boxes r = {.columns = 7};
    SV_TRY(check_read(m->run, m->file, "final/boxes", &r.box));
    SV_TRY(check_read(m->run, m->file, "final/scores", &r.score));
    SV_TRY(check_read(m->run, m->file, "final/labels", &r.label));
    r.count = (int)r.score.count;
    if (r.count > 0) r.columns = (int)(r.box.count / (size_t)r.count);
    r.tolerance = check_tolerance(m->run, m->file, "maxabs_f64_f32/final/boxes", r.box.f, r.box.count);
    const bool fits = (r.columns == 7 || r.columns == 9) &&
                      r.box.count == (size_t)r.count * (size_t)r.columns && r.label.count == r.score.count &&
                      r.label.integer;
    const sv_status status =
        fits ? compare_lists(m, &r, boxes, count)
             : SV_FAIL(m->run->c, SV_BAD_INPUT, "%s: 'final' is no list of boxes with scores and labels",
                       m->file->path);
    sv_h5_array_free(&r.box);
    sv_h5_array_free(&r.score);
    sv_h5_array_free(&r.label);
    return status;
}

sv_status check_head_boxes(model_check *m, const sv_box *boxes, int count)
{
    SV_TRY(compare_anchors(m));
    SV_TRY(compare_all_queries(m));
    count_ties(m);
    return compare_boxes(m, boxes, count);
}
