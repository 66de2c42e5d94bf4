/* SPDX-License-Identifier: Apache-2.0 */
#include "argoverse2.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846, farthest = 150;
const double sv_argoverse2_thresholds[SV_ARGOVERSE2_THRESHOLDS] = {0.5, 1, 2, 4};
static const double worst[SV_ARGOVERSE2_ERRORS] = {2, 1, 3.14159265358979323846};
enum {
    K = SV_ARGOVERSE2_CLASSES,
    T = SV_ARGOVERSE2_THRESHOLDS,
    E = SV_ARGOVERSE2_ERRORS,
    TRUE_THRESHOLD = 2
};

/* A detection that counts, in the order in which they came. */
typedef struct outcome {
    double score, error[E];
    bool right[T];
    int64_t order;
} outcome;

typedef struct list {
    outcome *data; /* malloc'ed */
    int64_t count, room, labels;
} list;

struct sv_argoverse2_eval {
    list of[K];
    int64_t sweeps, labels, detections;
};

double sv_argoverse2_heading(const sv_pose *pose)
{
    return hypot(pose->r[0], pose->r[3]) < 1e-7 ? 0 : sv_pose_yaw(pose);
}

sv_status sv_argoverse2_eval_open(sv_ctx *c, sv_argoverse2_eval **out)
{
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out, SV_NO_MEMORY, "no memory for the evaluator");
    return SV_OK;
}

void sv_argoverse2_eval_close(sv_argoverse2_eval *e)
{
    for (int k = 0; e && k < K; k++) free(e->of[k].data);
    free(e);
}

/* ---- a class in a sweep ------------------------------------------------------------------------------- */

static double distance(const sv_argoverse2_object *a, const sv_argoverse2_object *b)
{
    const double x = a->centre[0] - b->centre[0], y = a->centre[1] - b->centre[1],
                 z = a->centre[2] - b->centre[2];
    return sqrt(x * x + y * y + z * z);
}

static bool near(const sv_argoverse2_object *o)
{
    const double *p = o->centre;
    return sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]) < farthest;
}

static void errors(const sv_argoverse2_object *detection, const sv_argoverse2_object *label, double out[E])
{
    double both = 1, either = 1;
    for (int i = 0; i < 3; i++) {
        both *= fmin(detection->size[i], label->size[i]);
        either *= fmax(detection->size[i], label->size[i]);
    }
    out[0] = distance(detection, label);
    out[1] = 1 - both / either;
    const double turned = fabs(detection->heading - label->heading);
    out[2] = turned < pi ? turned : pi - fmod(turned, pi);
}

typedef struct ranked {
    double score;
    int place;
} ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

typedef struct sweep {
    const sv_argoverse2_object *labels, *detections;
    int label_count, detection_count;
    ranked *order; /* room for the detections */
    bool *taken;   /* labels that a better detection belongs to */
    bool *found, *right;
} sweep;

static bool counts(const sv_argoverse2_object *label, int kind)
{
    return label->kind == kind && label->points > 0 && !label->outside && near(label);
}

static int nearest(const sweep *s, const sv_argoverse2_object *detection, int kind, double *how_near)
{
    int best = -1;
    for (int i = 0; i < s->label_count; i++) {
        if (!counts(&s->labels[i], kind)) continue;
        const double d = distance(detection, &s->labels[i]);
        if (best >= 0 && d >= *how_near) continue;
        best = i;
        *how_near = d;
    }
    return best;
}

static bool add_outcome(list *l, const outcome *o)
{
    if (l->count == l->room) {
        const int64_t room = l->room ? 2 * l->room : 256;
        outcome *grown = realloc(l->data, sizeof *grown * (size_t)room);
        if (!grown) return false;
        l->data = grown;
        l->room = room;
    }
    l->data[l->count] = *o;
    l->data[l->count].order = l->count;
    l->count++;
    return true;
}

static bool match_class(const sweep *s, int kind, list *l)
{
    int ranks = 0, kept = 0;
    for (int j = 0; j < s->detection_count; j++)
        if (s->detections[j].kind == kind) s->order[ranks++] = (ranked){s->detections[j].score, j};
    if (ranks > 1) qsort(s->order, (size_t)ranks, sizeof *s->order, by_score);
    for (int i = 0; i < s->label_count; i++) l->labels += counts(&s->labels[i], kind);
    for (int n = 0; n < ranks; n++) {
        const int j = s->order[n].place;
        const sv_argoverse2_object *d = &s->detections[j];
        if (!near(d) || kept == SV_ARGOVERSE2_MOST) continue;
        kept++; /* of the 100, those outside as well */
        if (d->outside) continue;
        outcome o = {.score = d->score, .error = {worst[0], worst[1], worst[2]}};
        double how_near = 0;
        const int label = nearest(s, d, kind, &how_near);
        if (label >= 0 && !s->taken[label]) {
            s->taken[label] = true;
            for (int t = 0; t < T; t++) o.right[t] = how_near < sv_argoverse2_thresholds[t];
            if (o.right[TRUE_THRESHOLD]) {
                errors(d, &s->labels[label], o.error);
                if (s->found) s->found[label] = true;
                if (s->right) s->right[j] = true;
            }
        }
        if (!add_outcome(l, &o)) return false;
    }
    return true;
}

sv_status sv_argoverse2_eval_add(sv_ctx *c, sv_argoverse2_eval *e, const char *name,
                                 const sv_argoverse2_object *labels, int label_count,
                                 const sv_argoverse2_object *detections, int detection_count, bool *found,
                                 bool *right)
{
    for (int j = 0; j < detection_count; j++) {
        const sv_argoverse2_object *o = &detections[j];
        SV_CHECK(
            c,
            isfinite(o->score) && isfinite(o->heading) && isfinite(o->centre[0]) && isfinite(o->centre[1]) &&
                isfinite(o->centre[2]) && o->size[0] > 0 && o->size[1] > 0 && o->size[2] > 0,
            SV_BAD_INPUT,
            "%s: detection %d has a value that is not finite, or a side that is not greater than 0", name, j);
    }
    const size_t room = (size_t)(label_count + detection_count) + 1;
    sweep s = {labels,          detections, label_count, detection_count, malloc(sizeof *s.order * room),
               calloc(room, 1), found,      right};
    bool good = s.order && s.taken;
    for (int i = 0; found && i < label_count; i++) found[i] = false;
    for (int j = 0; right && j < detection_count; j++) right[j] = false;
    for (int k = 0; k < K && good; k++) good = match_class(&s, k, &e->of[k]);
    free(s.order);
    free(s.taken);
    SV_CHECK(c, good, SV_NO_MEMORY, "%s: no memory to score it", name);
    e->sweeps++;
    e->labels += label_count;
    e->detections += detection_count;
    return SV_OK;
}

/* ---- scores ------------------------------------------------------------------------------------------- */

static int by_outcome(const void *a, const void *b)
{
    const outcome *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* The value at 'x' of the line through (places, values); they do not fall, of equal ones the last counts. */
static double interpolate(double x, const double *places, const double *values, int64_t count)
{
    if (x > places[count - 1]) return 0;
    if (x < places[0]) return values[0];
    int64_t low = 0, high = count; /* places[low] <= x, and x < places[high] where there is one */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (places[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    if (low == count - 1) return values[low];
    return values[low] +
           (values[low + 1] - values[low]) / (places[low + 1] - places[low]) * (x - places[low]);
}

static double average_precision(const list *l, int threshold, double *recall, double *precision,
                                double out[SV_ARGOVERSE2_POINTS])
{
    int64_t right = 0;
    double sum = 0;
    for (int64_t i = 0; i < l->count; i++) {
        right += l->data[i].right[threshold];
        precision[i] = (double)right / ((double)(i + 1) + 2.220446049250313e-16);
        recall[i] = (double)right / (double)l->labels;
    }
    for (int64_t i = l->count - 2; i >= 0; i--) precision[i] = fmax(precision[i], precision[i + 1]);
    for (int k = 0; k < SV_ARGOVERSE2_POINTS; k++) {
        out[k] = interpolate(k == SV_ARGOVERSE2_POINTS - 1 ? 1 : k * 0.01, recall, precision, l->count);
        sum += out[k];
    }
    return sum / SV_ARGOVERSE2_POINTS;
}

static void score_class(list *l, double *recall, double *precision, sv_argoverse2_class *out)
{
    *out = (sv_argoverse2_class){
        .labels = l->labels, .detections = l->count, .error = {worst[0], worst[1], worst[2]}};
    if (l->labels == 0 || l->count == 0) return;
    qsort(l->data, (size_t)l->count, sizeof *l->data, by_outcome);
    for (int t = 0; t < T; t++) {
        out->ap[t] = average_precision(l, t, recall, precision, out->precision[t]);
        out->mean_ap += out->ap[t] / T;
    }
    double sum[E] = {0}, good = 0;
    int64_t right = 0;
    for (int64_t i = 0; i < l->count; i++) {
        if (!l->data[i].right[TRUE_THRESHOLD]) continue;
        for (int k = 0; k < E; k++) sum[k] += l->data[i].error[k];
        right++;
    }
    for (int k = 0; k < E; k++) {
        if (right > 0) out->error[k] = sum[k] / (double)right;
        good += (1 - out->error[k] / worst[k]) / E;
    }
    out->cds = out->mean_ap * good;
}

sv_status sv_argoverse2_eval_finish(sv_ctx *c, sv_argoverse2_eval *e, sv_argoverse2_scores *out)
{
    *out = (sv_argoverse2_scores){.sweeps = e->sweeps, .labels = e->labels, .detections = e->detections};
    int64_t most = 1;
    for (int k = 0; k < K; k++)
        if (e->of[k].count > most) most = e->of[k].count;
    double *recall = malloc(2 * sizeof *recall * (size_t)most);
    SV_CHECK(c, recall, SV_NO_MEMORY, "no memory to score %lld detections", (long long)most);
    sv_argoverse2_class *mean = &out->mean;
    for (int k = 0; k < K; k++) {
        sv_argoverse2_class *of = &out->of[k];
        score_class(&e->of[k], recall, recall + most, of);
        mean->labels += of->labels;
        mean->detections += of->detections;
        mean->mean_ap += of->mean_ap / K;
        mean->cds += of->cds / K;
        for (int t = 0; t < T; t++) mean->ap[t] += of->ap[t] / K;
        for (int i = 0; i < E; i++) mean->error[i] += of->error[i] / K;
    }
    free(recall);
    return SV_OK;
}
