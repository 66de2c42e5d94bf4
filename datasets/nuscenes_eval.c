/* SPDX-License-Identifier: Apache-2.0 */
#include "nuscenes_eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { K = SV_NUSCENES_CLASSES, D = SV_NUSCENES_DISTANCES, E = SV_NUSCENES_ERRORS, P = SV_NUSCENES_POINTS };
enum { TRANSLATION, SCALE, ORIENTATION, VELOCITY, ATTRIBUTE };
enum { FIRST_POINT = 11, MOST_DETECTIONS = 1 << 30 };

const double sv_nuscenes_distances[D] = {0.5, 1, 2, 4};
const char *const sv_nuscenes_error_names[E] = {"trans_err", "scale_err", "orient_err", "vel_err",
                                                "attr_err"};
static const double pi = 3.14159265358979323846;

/* What is left of a detection. */
typedef struct mark {
    double score;
    int64_t order;
    int32_t match;   /* number in 'matches', at 2 m; -1 */
    uint8_t matched; /* a bit per distance */
} mark;

typedef struct match {
    double error[E];
} match;

typedef struct class_marks {
    mark *marks;
    match *matches;
    int count, room, match_count, match_room;
    int64_t labels, with_velocity, with_attribute;
} class_marks;

struct sv_nuscenes_eval {
    class_marks classes[K];
    int64_t samples, labels, detections, order;
};

/* A frame being matched. */
typedef struct matching {
    int *labels, *boxes; /* of the class at work: numbers in the frame; boxes by score */
    int label_count, box_count;
    double *distance; /* [box, label] */
    size_t distance_room;
    int *taken_by; /* of a label; -1 */
    int *takes[D]; /* of a box: number in 'labels'; -1 */
    bool *label_counts, *box_counts;
} matching;

sv_status sv_nuscenes_eval_open(sv_ctx *c, sv_nuscenes_eval **out)
{
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out, SV_NO_MEMORY, "no memory for the evaluator");
    return SV_OK;
}

void sv_nuscenes_eval_close(sv_nuscenes_eval *e)
{
    if (!e) return;
    for (int k = 0; k < K; k++) {
        free(e->classes[k].marks);
        free(e->classes[k].matches);
    }
    free(e);
}

/* ---- what counts -------------------------------------------------------------------------------------- */

static bool near_enough(const sv_nuscenes_frame *f, const double *translation, int detection_class)
{
    const double x = translation[0] - f->ego[0], y = translation[1] - f->ego[1];
    return sqrt(x * x + y * y) < sv_nuscenes_class_range[detection_class];
}

/* Its faces are part of a rack. */
static bool in_rack(const sv_nuscenes_annotation *rack, const double *point)
{
    const sv_pose pose = sv_pose_from_quaternion(rack->rotation, rack->translation);
    const double half[3] = {rack->size[1] / 2, rack->size[0] / 2, rack->size[2] / 2};
    for (int i = 0; i < 3; i++) {
        double along = 0;
        for (int k = 0; k < 3; k++) along += pose.r[3 * k + i] * (point[k] - pose.t[k]);
        if (!(fabs(along) <= half[i])) return false;
    }
    return true;
}

static bool counts(const sv_nuscenes_frame *f, const double *translation, int detection_class)
{
    if (!near_enough(f, translation, detection_class)) return false;
    if (detection_class != SV_NUSCENES_BICYCLE && detection_class != SV_NUSCENES_MOTORCYCLE) return true;
    for (int i = 0; i < f->label_count; i++)
        if (f->labels[i].detection_class == SV_NUSCENES_RACK && in_rack(&f->labels[i], translation))
            return false;
    return true;
}

/* ---- matching one frame ------------------------------------------------------------------------------- */

static void close_matching(matching *m)
{
    free(m->labels);
    free(m->boxes);
    free(m->distance);
    free(m->taken_by);
    for (int d = 0; d < D; d++) free(m->takes[d]);
    free(m->label_counts);
    free(m->box_counts);
}

static sv_status open_matching(sv_ctx *c, const sv_nuscenes_frame *f, matching *m)
{
    const size_t labels = (size_t)f->label_count + 1, boxes = (size_t)f->box_count + 1;
    *m = (matching){.labels = malloc(sizeof *m->labels * labels),
                    .boxes = malloc(sizeof *m->boxes * boxes),
                    .taken_by = malloc(sizeof *m->taken_by * labels),
                    .label_counts = malloc(labels),
                    .box_counts = malloc(boxes)};
    bool good = m->labels && m->boxes && m->taken_by && m->label_counts && m->box_counts;
    for (int d = 0; d < D; d++) {
        m->takes[d] = malloc(sizeof *m->takes[d] * boxes);
        good = good && m->takes[d];
    }
    if (!good) {
        close_matching(m);
        return SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for %d boxes", f->name, f->box_count);
    }
    for (int i = 0; i < f->label_count; i++) {
        const sv_nuscenes_annotation *a = &f->labels[i];
        m->label_counts[i] = a->detection_class >= 0 && a->lidar_points + a->radar_points != 0 &&
                             counts(f, a->translation, a->detection_class);
    }
    for (int i = 0; i < f->box_count; i++)
        m->box_counts[i] = counts(f, f->boxes[i].translation, f->boxes[i].detection_class);
    return SV_OK;
}

/* Higher scores first; of equal ones the later in the list. */
static bool before(const sv_nuscenes_box *boxes, int a, int b)
{
    if (boxes[a].score != boxes[b].score) return boxes[a].score > boxes[b].score;
    return boxes[a].order != boxes[b].order ? boxes[a].order > boxes[b].order : a > b;
}

/* Boxes that count, in their order. A sample has few of a class. */
static void sort_boxes(const sv_nuscenes_box *boxes, int *list, int count)
{
    for (int gap = count / 2; gap > 0; gap = gap == 2 ? 1 : (int)(gap / 2.2))
        for (int i = gap; i < count; i++) {
            const int one = list[i];
            int k = i;
            for (; k >= gap && before(boxes, one, list[k - gap]); k -= gap) list[k] = list[k - gap];
            list[k] = one;
        }
}

static void match_at(matching *m, int distance)
{
    int *takes = m->takes[distance];
    for (int i = 0; i < m->label_count; i++) m->taken_by[i] = -1;
    for (int b = 0; b < m->box_count; b++) {
        const double *row = m->distance + (size_t)b * (size_t)m->label_count;
        double least = INFINITY;
        int nearest = -1;
        for (int i = 0; i < m->label_count; i++)
            if (m->taken_by[i] < 0 && row[i] < least) {
                least = row[i];
                nearest = i;
            }
        takes[b] = least < sv_nuscenes_distances[distance] ? nearest : -1;
        if (takes[b] >= 0) m->taken_by[nearest] = b;
    }
}

/* Boxes and labels of a class, and who takes whom at every distance. 'least': of the score. */
static sv_status match_class(sv_ctx *c, const sv_nuscenes_frame *f, matching *m, int detection_class,
                             double least)
{
    m->label_count = m->box_count = 0;
    for (int i = 0; i < f->label_count; i++)
        if (m->label_counts[i] && f->labels[i].detection_class == detection_class)
            m->labels[m->label_count++] = i;
    for (int i = 0; i < f->box_count; i++)
        if (m->box_counts[i] && f->boxes[i].detection_class == detection_class && f->boxes[i].score >= least)
            m->boxes[m->box_count++] = i;
    sort_boxes(f->boxes, m->boxes, m->box_count);
    const size_t cells = (size_t)m->label_count * (size_t)m->box_count;
    if (cells > m->distance_room) {
        free(m->distance);
        m->distance = malloc(sizeof *m->distance * cells);
        m->distance_room = m->distance ? cells : 0;
        SV_CHECK(c, m->distance, SV_NO_MEMORY, "sample %s: no memory for %zu distances", f->name, cells);
    }
    for (int b = 0; b < m->box_count; b++)
        for (int i = 0; i < m->label_count; i++) {
            const double *p = f->boxes[m->boxes[b]].translation, *q = f->labels[m->labels[i]].translation;
            const double x = p[0] - q[0], y = p[1] - q[1];
            m->distance[(size_t)b * (size_t)m->label_count + (size_t)i] = sqrt(x * x + y * y);
        }
    for (int d = 0; d < D; d++) match_at(m, d);
    return SV_OK;
}

/* ---- errors of a match -------------------------------------------------------------------------------- */

static double yaw_of(const double *rotation)
{
    const double origin[3] = {0, 0, 0};
    const sv_pose pose = sv_pose_from_quaternion(rotation, origin);
    return sv_pose_yaw(&pose);
}

static double angle_between(double a, double b, double period)
{
    double d = fmod(a - b + period / 2, period);
    if (d < 0) d += period;
    d -= period / 2;
    return fabs(d > pi ? d - 2 * pi : d);
}

static double scale_error(const double *a, const double *b)
{
    double first = 1, second = 1, both = 1;
    for (int i = 0; i < 3; i++) {
        first *= a[i];
        second *= b[i];
        both *= fmin(a[i], b[i]);
    }
    return 1 - both / (first + second - both);
}

static match errors_of(const sv_nuscenes_annotation *label, const sv_nuscenes_box *box)
{
    const double x = box->translation[0] - label->translation[0],
                 y = box->translation[1] - label->translation[1];
    const double vx = box->velocity[0] - label->velocity[0], vy = box->velocity[1] - label->velocity[1];
    match m;
    m.error[TRANSLATION] = sqrt(x * x + y * y);
    m.error[SCALE] = scale_error(label->size, box->size);
    m.error[ORIENTATION] = angle_between(yaw_of(label->rotation), yaw_of(box->rotation),
                                         box->detection_class == SV_NUSCENES_BARRIER ? pi : 2 * pi);
    m.error[VELOCITY] = sqrt(vx * vx + vy * vy);
    m.error[ATTRIBUTE] =
        label->attribute == SV_NUSCENES_ATTRIBUTE_NONE ? (double)NAN : label->attribute != box->attribute;
    return m;
}

/* ---- adding ------------------------------------------------------------------------------------------- */

static sv_status reserve(sv_ctx *c, void *pointer, int *room, int count, int more, size_t size)
{
    void **data = pointer;
    SV_CHECK(c, count <= MOST_DETECTIONS - more, SV_BAD_INPUT, "more than %d detections of a class",
             MOST_DETECTIONS);
    if (count + more <= *room) return SV_OK;
    int wanted = *room ? *room : 256;
    while (wanted < count + more) wanted *= 2;
    void *grown = realloc(*data, size * (size_t)wanted);
    SV_CHECK(c, grown, SV_NO_MEMORY, "no memory for %d detections", wanted);
    *data = grown;
    *room = wanted;
    return SV_OK;
}

static sv_status add_class(sv_ctx *c, sv_nuscenes_eval *e, const sv_nuscenes_frame *f, const matching *m,
                           int detection_class)
{
    class_marks *k = &e->classes[detection_class];
    SV_TRY(reserve(c, &k->marks, &k->room, k->count, m->box_count, sizeof *k->marks));
    SV_TRY(reserve(c, &k->matches, &k->match_room, k->match_count, m->box_count, sizeof *k->matches));
    for (int i = 0; i < m->label_count; i++) {
        const sv_nuscenes_annotation *a = &f->labels[m->labels[i]];
        k->with_velocity += !isnan(a->velocity[0]) && !isnan(a->velocity[1]);
        k->with_attribute += a->attribute != SV_NUSCENES_ATTRIBUTE_NONE;
    }
    k->labels += m->label_count;
    for (int b = 0; b < m->box_count; b++) {
        const sv_nuscenes_box *box = &f->boxes[m->boxes[b]];
        mark *one = &k->marks[k->count++];
        *one = (mark){.score = box->score, .order = box->order, .match = -1};
        if (one->order < 0) one->order = e->order + m->boxes[b];
        for (int d = 0; d < D; d++) one->matched |= (uint8_t)((m->takes[d][b] >= 0) << d);
        for (int d = 0; d < D; d++)
            SV_CHECK(c, m->takes[d][b] < 0 || (box->size[0] > 0 && box->size[1] > 0 && box->size[2] > 0),
                     SV_BAD_INPUT,
                     "sample %s: a detection of %s has the size %g x %g x %g; sizes are above 0", f->name,
                     sv_nuscenes_class_names[detection_class], box->size[0], box->size[1], box->size[2]);
        const int label = m->takes[SV_NUSCENES_ERROR_DISTANCE][b];
        if (label < 0) continue;
        one->match = k->match_count;
        k->matches[k->match_count++] = errors_of(&f->labels[m->labels[label]], box);
    }
    return SV_OK;
}

sv_status sv_nuscenes_eval_add(sv_ctx *c, sv_nuscenes_eval *e, const sv_nuscenes_frame *f)
{
    matching m;
    for (int i = 0; i < f->label_count; i++) {
        char token[SV_NUSCENES_TOKEN_TEXT];
        const sv_nuscenes_annotation *a = &f->labels[i];
        sv_nuscenes_token_text(a->token, token);
        SV_CHECK(c, a->detection_class < 0 || a->attributes <= 1, SV_BAD_INPUT,
                 "sample %s: the annotation %s has %d attributes; an object that is scored has one at most",
                 f->name, token, a->attributes);
        e->labels += a->detection_class >= 0;
    }
    SV_TRY(open_matching(c, f, &m));
    sv_status status = SV_OK;
    for (int k = 0; k < K && status == SV_OK; k++) {
        status = match_class(c, f, &m, k, -INFINITY);
        if (status == SV_OK) status = add_class(c, e, f, &m, k);
    }
    close_matching(&m);
    e->samples++;
    e->detections += f->box_count;
    e->order += f->box_count;
    return status;
}

sv_status sv_nuscenes_eval_verdicts(sv_ctx *c, const sv_nuscenes_frame *f, double score,
                                    sv_nuscenes_verdict *labels, sv_nuscenes_verdict *boxes)
{
    matching m;
    SV_TRY(open_matching(c, f, &m));
    for (int i = 0; i < f->label_count; i++) labels[i] = SV_NUSCENES_IGNORED;
    for (int i = 0; i < f->box_count; i++) boxes[i] = SV_NUSCENES_IGNORED;
    sv_status status = SV_OK;
    for (int k = 0; k < K && status == SV_OK; k++) {
        status = match_class(c, f, &m, k, score);
        if (status != SV_OK) break;
        for (int i = 0; i < m.label_count; i++) labels[m.labels[i]] = SV_NUSCENES_MISSED;
        for (int b = 0; b < m.box_count; b++) {
            const int label = m.takes[SV_NUSCENES_ERROR_DISTANCE][b];
            boxes[m.boxes[b]] = label >= 0 ? SV_NUSCENES_FOUND : SV_NUSCENES_FALSE;
            if (label >= 0) labels[m.labels[label]] = SV_NUSCENES_FOUND;
        }
    }
    close_matching(&m);
    return status;
}

/* ---- curves ------------------------------------------------------------------------------------------- */

/* Points of a line, x not falling, and where the last question was: questions come with x not falling, too. */
typedef struct line {
    const double *x, *y;
    int count, at;
} line;

/* Straight between neighbours; of equal x the last counts; 'right' beyond the last x, the first y before the first. */
static double read_line(line *l, double x, double right)
{
    if (x < l->x[0]) return l->y[0];
    while (l->at + 1 < l->count && l->x[l->at + 1] <= x) l->at++;
    const int i = l->at;
    if (i == l->count - 1) return x > l->x[i] ? right : l->y[i];
    if (l->x[i] == x) return l->y[i];
    return (l->y[i + 1] - l->y[i]) / (l->x[i + 1] - l->x[i]) * (x - l->x[i]) + l->y[i];
}

static double recall_at(int point)
{
    return point == P - 1 ? 1.0 : 0.01 * point;
}

static int by_score(const void *a, const void *b)
{
    const mark *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->order > y->order ? -1 : x->order < y->order;
}

/* Memory of one class and distance. */
typedef struct curve_space {
    double *recall, *precision, *score; /* of every detection */
    double *confidence, *mean;          /* of every match, from the last to the first */
} curve_space;

static void draw_precision(const class_marks *k, int distance, const curve_space *w, sv_nuscenes_curve *out)
{
    int64_t right = 0;
    for (int i = 0; i < k->count; i++) {
        right += k->marks[i].matched >> distance & 1;
        w->recall[i] = (double)right / (double)k->labels;
        w->precision[i] = (double)right / (double)(i + 1);
        w->score[i] = k->marks[i].score;
    }
    line precision = {w->recall, w->precision, k->count, 0}, confidence = {w->recall, w->score, k->count, 0};
    for (int i = 0; i < P && right > 0; i++) {
        out->precision[i] = read_line(&precision, recall_at(i), 0);
        out->confidence[i] = read_line(&confidence, recall_at(i), 0);
    }
    double sum = 0;
    for (int i = FIRST_POINT; i < P; i++) sum += fmax(out->precision[i] - 0.1, 0);
    out->ap = sum / (P - FIRST_POINT) / 0.9;
}

/* Cumulative means from the last match to the first, without what is not known. */
static void draw_error(const class_marks *k, int error, const curve_space *w, const sv_nuscenes_curve *curve,
                       double out[P])
{
    int known = 0, n = 0;
    double sum = 0;
    for (int i = 0; i < k->count; i++) {
        if (k->marks[i].match < 0) continue;
        const double value = k->matches[k->marks[i].match].error[error];
        const int to = k->match_count - 1 - n++;
        if (!isnan(value)) {
            sum += value;
            known++;
        }
        w->confidence[to] = k->marks[i].score;
        w->mean[to] = known ? sum / known : 0;
    }
    for (int i = 0; i < n && known == 0; i++) w->mean[i] = 1;
    if (n == 0) {
        for (int i = 0; i < P; i++) out[i] = 1;
        return;
    }
    line means = {w->confidence, w->mean, n, 0};
    for (int i = P - 1; i >= 0; i--) out[i] = read_line(&means, curve->confidence[i], w->mean[n - 1]);
}

static double mean_error(const sv_nuscenes_curve *curve, const double *error)
{
    int last = P - 1;
    while (last > 0 && curve->confidence[last] == 0) last--;
    if (last < FIRST_POINT) return 1;
    double sum = 0;
    for (int i = FIRST_POINT; i <= last; i++) sum += error[i];
    return sum / (last - FIRST_POINT + 1);
}

static bool is_defined(int detection_class, int error)
{
    if (detection_class == SV_NUSCENES_TRAFFIC_CONE) return error <= SCALE;
    return detection_class != SV_NUSCENES_BARRIER || error <= ORIENTATION;
}

typedef struct finishing {
    sv_nuscenes_eval *e;
    sv_nuscenes_scores *scores;
    bool failed[K];
} finishing;

static void finish_class(void *arg, int number, int worker)
{
    (void)worker;
    finishing *f = arg;
    class_marks *k = &f->e->classes[number];
    sv_nuscenes_scores *s = f->scores;
    const size_t count = (size_t)k->count + 1;
    double *memory = malloc(sizeof *memory * 5 * count);
    f->failed[number] = !memory;
    if (!memory) return;
    const curve_space space = {memory, memory + count, memory + 2 * count, memory + 3 * count,
                               memory + 4 * count};
    if (k->count > 0) qsort(k->marks, (size_t)k->count, sizeof *k->marks, by_score);
    double sum = 0;
    for (int d = 0; d < D; d++) {
        if (k->labels > 0) draw_precision(k, d, &space, &s->curve[number][d]);
        sum += s->curve[number][d].ap;
    }
    s->class_ap[number] = sum / D;
    const sv_nuscenes_curve *curve = &s->curve[number][SV_NUSCENES_ERROR_DISTANCE];
    for (int i = 0; i < E; i++) {
        double *error = s->error_curve[number][i];
        draw_error(k, i, &space, curve, error);
        s->class_error[number][i] = is_defined(number, i) ? mean_error(curve, error) : (double)NAN;
    }
    free(memory);
}

void sv_nuscenes_sum_up(sv_nuscenes_scores *s)
{
    double sum = 0;
    for (int k = 0; k < K; k++) sum += s->class_ap[k];
    s->mean_ap = sum / K;
    s->nds = 5 * s->mean_ap;
    for (int i = 0; i < E; i++) {
        int count = 0;
        sum = 0;
        for (int k = 0; k < K; k++) {
            if (isnan(s->class_error[k][i])) continue;
            sum += s->class_error[k][i];
            count++;
        }
        s->mean_error[i] = sum / count;
        s->error_score[i] = fmax(0, 1 - s->mean_error[i]);
        s->nds += s->error_score[i];
    }
    s->nds /= 10;
}

sv_status sv_nuscenes_eval_finish(sv_ctx *c, sv_nuscenes_eval *e, sv_nuscenes_scores *out)
{
    memset(out, 0, sizeof *out);
    finishing f = {.e = e, .scores = out};
    out->samples = e->samples;
    out->labels = e->labels;
    out->detections = e->detections;
    for (int k = 0; k < K; k++) {
        out->label_count[k] = e->classes[k].labels;
        out->detection_count[k] = e->classes[k].count;
        out->with_velocity[k] = e->classes[k].with_velocity;
        out->with_attribute[k] = e->classes[k].with_attribute;
    }
    sv_pool_run(c->pool, finish_class, &f, K);
    for (int k = 0; k < K; k++)
        SV_CHECK(c, !f.failed[k], SV_NO_MEMORY, "no memory for the curves of detections");
    sv_nuscenes_sum_up(out);
    return SV_OK;
}

void sv_nuscenes_attainable(const sv_nuscenes_scores *s, sv_nuscenes_scores *out)
{
    memset(out, 0, sizeof *out);
    for (int k = 0; k < K; k++) {
        const bool any = s->label_count[k] > 0;
        out->class_ap[k] = any;
        for (int i = 0; i < E; i++) {
            const bool known = any && (i != VELOCITY || s->with_velocity[k] > 0) &&
                               (i != ATTRIBUTE || s->with_attribute[k] > 0);
            out->class_error[k][i] = !is_defined(k, i) ? (double)NAN : known ? 0 : 1;
        }
    }
    sv_nuscenes_sum_up(out);
}
