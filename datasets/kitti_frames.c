/* SPDX-License-Identifier: Apache-2.0
 *
 * Overlaps of a frame's labels and detections, and what takes part in which curve; the rules stand in
 * kitti_eval.c.
 */
#include "kitti_frames.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const neighbour_names[SV_KITTI_CLASSES] = {"Van", "Person_sitting", NULL};
static const double min_height[SV_KITTI_DIFFICULTIES] = {40, 25, 25};
static const int max_occlusion[SV_KITTI_DIFFICULTIES] = {0, 1, 2};
static const double max_truncation[SV_KITTI_DIFFICULTIES] = {0.15, 0.30, 0.50};

bool sv_kitti_list_grow(list *l, size_t more, size_t size)
{
    if (l->count + more <= l->room) return true;
    size_t room = l->room < 64 ? 64 : 2 * l->room;
    while (room < l->count + more) room *= 2;
    void *data = realloc(l->data, room * size);
    if (!data) return false;
    l->data = data;
    l->room = room;
    return true;
}

void sv_kitti_chunk_free(chunk *k)
{
    if (!k) return;
    for (int i = 0; i < SV_KITTI_CLASSES; i++) {
        free(k->part[i].units.data);
        free(k->part[i].labels.data);
        free(k->part[i].detections.data);
        free(k->part[i].pairs.data);
        free(k->part[i].scoreds.data);
    }
    free(k->found.data);
    free(k);
}

static box make_box(const sv_kitti_object *o)
{
    const double cosine = cos(o->ry), sine = -sin(o->ry); /* y points down: ry turns x towards -z */
    const double l = fabs(o->l), w = fabs(o->w);
    return (box){
        .left = o->x1,
        .top = o->y1,
        .right = o->x2,
        .bottom = o->y2,
        .area = (o->x2 - o->x1) * (o->y2 - o->y1),
        .x = o->x,
        .z = o->z,
        .reach_x = 0.5 * (fabs(cosine) * l + fabs(sine) * w),
        .reach_z = 0.5 * (fabs(sine) * l + fabs(cosine) * w),
        .ground = l * w,
        .low = o->y - o->h,
        .high = o->y,
        .volume = o->h * l * w,
        .rectangle = {.x = o->x, .y = o->z, .dx = l, .dy = w, .cosine = cosine, .sine = sine},
    };
}

static double image_intersection(const box *a, const box *b)
{
    const double width = fmin(a->right, b->right) - fmax(a->left, b->left);
    const double height = fmin(a->bottom, b->bottom) - fmax(a->top, b->top);
    return width > 0 && height > 0 ? width * height : 0;
}

static double ratio(double part_, double whole)
{
    return part_ > 0 && whole > 0 ? part_ / whole : 0;
}

/* Overlaps above the smallest minimum of the class, others 0; false when all are. */
static bool overlaps_of(const box *a, const box *b, int kitti_class, double out[3])
{
    out[0] = out[1] = out[2] = 0;
    const double image = image_intersection(a, b);
    if (image > 0) {
        const double o = ratio(image, a->area + b->area - image);
        if (o > sv_kitti_min_overlap(0, kitti_class, SV_KITTI_BBOX)) out[0] = o;
    }
    /* The hulls bound the intersection from above: most pairs need no clipping. */
    const double least = sv_kitti_min_overlap(1, kitti_class, SV_KITTI_BEV);
    const double width =
        fmin(a->x + a->reach_x, b->x + b->reach_x) - fmax(a->x - a->reach_x, b->x - b->reach_x);
    const double depth =
        fmin(a->z + a->reach_z, b->z + b->reach_z) - fmax(a->z - a->reach_z, b->z - b->reach_z);
    if (width > 0 && depth > 0) {
        const double most = fmin(fmin(a->ground, b->ground), width * depth);
        if (most * (1 + 1e-9) > least * (a->ground + b->ground - most)) {
            const double ground = sv_overlap_exact64(&a->rectangle, &b->rectangle);
            const double o = ratio(ground, a->ground + b->ground - ground);
            if (o > least) out[1] = o;
            const double height = fmin(a->high, b->high) - fmax(a->low, b->low);
            if (height > 0) {
                const double volume = ground * height, v = ratio(volume, a->volume + b->volume - volume);
                if (v > sv_kitti_min_overlap(1, kitti_class, SV_KITTI_3D)) out[2] = v;
            }
        }
    }
    return out[0] > 0 || out[1] > 0 || out[2] > 0;
}

static int class_of(const char *type)
{
    for (int k = 0; k < SV_KITTI_CLASSES; k++)
        if (strcasecmp(type, sv_kitti_class_names[k]) == 0) return k;
    return OTHER_CLASS;
}

static sorted_label sort_label(sv_kitti_rule rule, const sv_kitti_object *o)
{
    for (int k = 0; k < SV_KITTI_CLASSES; k++)
        if (neighbour_names[k] && strcasecmp(o->type, neighbour_names[k]) == 0) return (sorted_label){k, 7};
    sorted_label out = {class_of(o->type), 0};
    const double height = o->y2 - o->y1;
    for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) {
        const bool low = rule == SV_KITTI_PYTHON ? height <= min_height[d] : height < min_height[d];
        if (low || o->occluded > max_occlusion[d] || o->truncated > max_truncation[d])
            out.ignored |= (uint8_t)(1 << d);
    }
    return out;
}

static uint8_t small_bits(const sv_kitti_object *o)
{
    const double height = fabs(o->y2 - o->y1);
    uint8_t bits = 0;
    for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++)
        if (height < min_height[d]) bits |= (uint8_t)(1 << d);
    return bits;
}

static bool covered_by_stuff(const box *b, int kitti_class, const sv_kitti_eval_frame *frame)
{
    for (int i = 0; i < frame->label_count; i++) {
        const sv_kitti_object *o = &frame->labels[i];
        if ((o->type[0] != 'D' && o->type[0] != 'd') || strcasecmp(o->type, "DontCare") != 0) continue;
        const box area = {.left = o->x1, .top = o->y1, .right = o->x2, .bottom = o->y2};
        if (ratio(image_intersection(b, &area), b->area) >
            sv_kitti_min_overlap(0, kitti_class, SV_KITTI_BBOX))
            return true;
    }
    return false;
}

/* Places of the pair's label and detection in the unit, which is the last of its part. */
static bool add_pair(part *p, unit *u, const sv_kitti_eval_frame *frame, uint32_t label_index,
                     uint8_t ignored, bool first_of_label, candidate *cand, uint32_t detection_index,
                     int kitti_class, const double overlap[3])
{
    if (!sv_kitti_list_grow(&p->labels, 1, sizeof(label)) ||
        !sv_kitti_list_grow(&p->detections, 1, sizeof(detection)) ||
        !sv_kitti_list_grow(&p->pairs, 1, sizeof(pair)))
        return false;
    if (first_of_label) {
        ((label *)p->labels.data)[p->labels.count++] = (label){label_index, ignored};
        u->labels++;
    }
    const sv_kitti_object *det = &frame->detections[detection_index];
    if (cand->place == 0) {
        ((detection *)p->detections.data)[p->detections.count++] =
            (detection){.score = det->score,
                        .index = detection_index,
                        .own = cand->kitti_class == kitti_class,
                        .small = cand->small,
                        .stuff = cand->stuff};
        cand->place = ++u->detections;
    }
    pair *out = &((pair *)p->pairs.data)[p->pairs.count++];
    *out = (pair){.label = u->labels - 1, .detection = cand->place - 1};
    memcpy(out->overlap, overlap, sizeof out->overlap);
    if (overlap[SV_KITTI_BBOX] > 0) {
        const double turned = frame->labels[label_index].alpha - det->alpha;
        out->similarity = llrint((1 + cos(turned)) / 2 * SIMILARITY_ONE);
    }
    u->pairs++;
    return true;
}

/* Detections get their places in the order in which labels meet them. Pass 1 prefers the first of the file
 * among equal scores and pass 2 the first among equal overlaps: the pairs of a label are in the file's order,
 * which is enough. */
static bool add_class(chunk *k, const sv_kitti_eval_frame *frame, int kitti_class, candidate *candidates,
                      const sorted_label *labels)
{
    part *p = &k->part[kitti_class];
    unit u = {.label = (uint32_t)p->labels.count,
              .detection = (uint32_t)p->detections.count,
              .pair = (uint32_t)p->pairs.count};
    for (int j = 0; j < frame->detection_count; j++) candidates[j].place = 0;
    for (int i = 0; i < frame->label_count; i++) {
        if (labels[i].kitti_class != kitti_class) continue;
        for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) p->valid[d] += !(labels[i].ignored >> d & 1);
        const box b = make_box(&frame->labels[i]);
        bool first = true;
        for (int j = 0; j < frame->detection_count; j++) {
            candidate *cand = &candidates[j];
            double overlap[3];
            if (cand->kitti_class != kitti_class && cand->small == 0) continue;
            if (!overlaps_of(&b, &cand->box, kitti_class, overlap)) continue;
            if (!add_pair(p, &u, frame, (uint32_t)i, labels[i].ignored, first, cand, (uint32_t)j, kitti_class,
                          overlap))
                return false;
            first = false;
        }
    }
    if (u.pairs == 0) return true;
    if (!sv_kitti_list_grow(&p->units, 1, sizeof u)) return false;
    ((unit *)p->units.data)[p->units.count++] = u;
    if (u.detections > k->most_detections) k->most_detections = u.detections;
    return true;
}

sv_status sv_kitti_chunk_add(chunk *k, sv_kitti_rule rule, const sv_kitti_eval_frame *frame, workspace *w)
{
    if (!sv_kitti_list_grow(&w->candidates, (size_t)frame->detection_count, sizeof(candidate)) ||
        !sv_kitti_list_grow(&w->labels, (size_t)frame->label_count, sizeof(sorted_label)))
        return SV_NO_MEMORY;
    candidate *candidates = w->candidates.data;
    sorted_label *labels = w->labels.data;
    bool labelled[SV_KITTI_CLASSES + 1] = {false};
    for (int i = 0; i < frame->label_count; i++) {
        labels[i] = sort_label(rule, &frame->labels[i]);
        labelled[labels[i].kitti_class] = true;
    }
    for (int j = 0; j < frame->detection_count; j++) {
        const sv_kitti_object *o = &frame->detections[j];
        if (!isfinite(o->score)) {
            k->bad_detection = j;
            return SV_BAD_INPUT;
        }
        candidate *cand = &candidates[j];
        *cand = (candidate){.box = make_box(o), .kitti_class = class_of(o->type), .small = small_bits(o)};
        if (o->alpha == -10) k->without_angle = true;
        if (k->first_has_angle < 0) k->first_has_angle = o->alpha != -10;
        if (cand->kitti_class == OTHER_CLASS) continue;
        cand->stuff = covered_by_stuff(&cand->box, cand->kitti_class, frame);
        bool *detected = k->detected[cand->kitti_class];
        detected[SV_KITTI_BBOX] |= o->x1 >= 0;
        detected[SV_KITTI_BEV] |= o->x != -1000;
        detected[SV_KITTI_3D] |= o->y != -1000;
        list *l = &k->part[cand->kitti_class].scoreds;
        if (!sv_kitti_list_grow(l, 1, sizeof(scored))) return SV_NO_MEMORY;
        ((scored *)l->data)[l->count++] = (scored){o->score, cand->small, cand->stuff};
    }
    for (int i = 0; i < SV_KITTI_CLASSES; i++)
        if (labelled[i] && !add_class(k, frame, i, candidates, labels)) return SV_NO_MEMORY;
    k->frames++;
    return SV_OK;
}

void sv_kitti_workspace_free(workspace *w)
{
    free(w->candidates.data);
    free(w->labels.data);
}
