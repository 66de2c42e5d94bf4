/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules, for one class, one difficulty and one metric (a "curve"):
 *
 * Labels: those of the class count; those of a neighbouring class (Van for Car, Person_sitting for
 * Pedestrian) and those beyond the difficulty's limits of height, occlusion and truncation are ignored; all
 * others do not take part.
 *
 * Detections: lower than the difficulty's limit in the image: ignored, whatever their class (so a small
 * detection of another class may absorb a label); else of the class: they count; all others do not take part.
 *
 * Pass 1: every label, in the file's order, takes the free detection with the highest score among those that
 * overlap more than the minimum. The scores of pairs in which both count are sorted, and thresholds are
 * picked from them so that recall grows by about 1/40 from one to the next: at most 41.
 *
 * Pass 2, at every threshold: detections below it are out. Every label takes the free detection of the
 * largest overlap, an ignored one only while there is no other. Pairs in which both count are found; free
 * detections that count are false, unless (bbox only) a DontCare area covers more than the minimum of them.
 *
 * Precision = found / (found + false); from the right its running maximum. Similarity: (1 + cos(difference of
 * alpha)) / 2 instead of 1 for every found label.
 *
 * How it is fast: every pair's overlaps are computed once per frame, and only pairs above the smallest
 * minimum are kept (a frame leaves about a kilobyte). In pass 2 a frame is matched again only where a
 * threshold lets in another detection that overlaps a label; the outcome's change is added to the threshold's
 * row and summed over the rows at the end. Everything that is added up is an integer (similarities have 40
 * bits behind the point), so no order of threads or frames can change a byte.
 */
#include "kitti_frames.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
const char *const sv_kitti_class_names[SV_KITTI_CLASSES] = {"Car", "Pedestrian", "Cyclist"};
const char *const sv_kitti_difficulty_names[SV_KITTI_DIFFICULTIES] = {"easy", "moderate", "hard"};
const char *const sv_kitti_metric_names[SV_KITTI_METRICS] = {"bbox", "bev", "3d", "aos"};
const char *const sv_kitti_overlap_names[SV_KITTI_OVERLAPS] = {"official", "loose"};

/* [overlaps][class][bbox, bev, 3d] */
static const double min_overlap[SV_KITTI_OVERLAPS][SV_KITTI_CLASSES][3] = {
    {{0.7, 0.7, 0.7}, {0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}},
    {{0.7, 0.5, 0.5}, {0.5, 0.25, 0.25}, {0.5, 0.25, 0.25}},
};

static const struct {
    int metric, overlaps;
} sets[SETS] = {{SV_KITTI_BBOX, 0}, {SV_KITTI_BEV, 0}, {SV_KITTI_3D, 0}, {SV_KITTI_BEV, 1}, {SV_KITTI_3D, 1}};

struct sv_kitti_eval {
    sv_kitti_rule rule;
    chunk **chunks;
    size_t chunk_count, chunk_room;
    int64_t frames, labels, detections;
};

/* ---- adding frames ------------------------------------------------------------------------------------ */

typedef struct adding {
    sv_kitti_eval *e;
    const sv_kitti_eval_frame *frames;
    int64_t first; /* number of frames[0] */
    int count;
    size_t chunk; /* of frames[0] */
} adding;

static void add_to_chunk(void *arg, int task, int worker)
{
    (void)worker;
    const adding *a = arg;
    const size_t number = a->chunk + (size_t)task;
    chunk *k = a->e->chunks[number];
    workspace w = {0};
    k->status = SV_OK;
    const int64_t begin = (int64_t)number * FRAMES + k->frames - a->first;
    for (int64_t i = begin; i < a->count && k->frames < FRAMES && k->status == SV_OK; i++) {
        k->bad_frame = (int)i;
        k->status = sv_kitti_chunk_add(k, a->e->rule, &a->frames[i], &w);
    }
    sv_kitti_workspace_free(&w);
}

sv_status sv_kitti_eval_open(sv_ctx *c, sv_kitti_rule rule, sv_kitti_eval **out)
{
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out, SV_NO_MEMORY, "no memory for the evaluator");
    (*out)->rule = rule;
    return SV_OK;
}

void sv_kitti_eval_close(sv_kitti_eval *e)
{
    if (!e) return;
    for (size_t i = 0; i < e->chunk_count; i++) sv_kitti_chunk_free(e->chunks[i]);
    free(e->chunks);
    free(e);
}

static sv_status make_chunks(sv_ctx *c, sv_kitti_eval *e, size_t needed)
{
    if (needed > e->chunk_room) {
        const size_t room = needed > 2 * e->chunk_room ? needed : 2 * e->chunk_room;
        chunk **chunks = realloc(e->chunks, room * sizeof *chunks);
        SV_CHECK(c, chunks, SV_NO_MEMORY, "no memory for %lld frames", (long long)e->frames);
        e->chunks = chunks;
        e->chunk_room = room;
    }
    while (e->chunk_count < needed) {
        chunk *k = calloc(1, sizeof *k);
        SV_CHECK(c, k, SV_NO_MEMORY, "no memory for %lld frames", (long long)e->frames);
        k->first_has_angle = -1;
        e->chunks[e->chunk_count++] = k;
    }
    return SV_OK;
}

sv_status sv_kitti_eval_add(sv_ctx *c, sv_kitti_eval *e, const sv_kitti_eval_frame *frames, int count)
{
    if (count <= 0) return SV_OK;
    const adding a = {
        .e = e, .frames = frames, .first = e->frames, .count = count, .chunk = (size_t)(e->frames / FRAMES)};
    const size_t chunks = (size_t)((e->frames + count + FRAMES - 1) / FRAMES);
    SV_TRY(make_chunks(c, e, chunks));
    sv_pool_run(c->pool, add_to_chunk, (void *)&a, (int)(chunks - a.chunk));
    for (size_t i = a.chunk; i < chunks; i++) {
        const chunk *k = e->chunks[i];
        SV_CHECK(c, k->status != SV_BAD_INPUT, SV_BAD_INPUT,
                 "frame %lld of the evaluation: the score of detection %d is not finite",
                 (long long)(a.first + k->bad_frame), k->bad_detection);
        SV_CHECK(c, k->status == SV_OK, k->status, "no memory to evaluate %lld frames",
                 (long long)(e->frames + count));
    }
    e->frames += count;
    for (int i = 0; i < count; i++) {
        e->labels += frames[i].label_count;
        e->detections += frames[i].detection_count;
    }
    return SV_OK;
}

/* ---- matching ----------------------------------------------------------------------------------------- */

typedef struct curve_rule {
    int kitti_class, difficulty, metric;
    double min;
} curve_rule;

static curve_rule rule_of(int curve)
{
    const int set = curve % SETS, difficulty = curve / SETS % SV_KITTI_DIFFICULTIES,
              kitti_class = curve / SETS / SV_KITTI_DIFFICULTIES;
    return (curve_rule){kitti_class, difficulty, sets[set].metric,
                        min_overlap[sets[set].overlaps][kitti_class][sets[set].metric]};
}

typedef enum role { COUNTS, SMALL, APART } role;

static role role_of(const detection *d, int difficulty)
{
    return d->small >> difficulty & 1 ? SMALL : d->own ? COUNTS : APART;
}

/* Pass 1 of one unit: appends the scores of found labels. */
static bool collect(const part *p, const unit *u, const curve_rule *r, uint8_t *taken, list *found)
{
    const label *labels = (const label *)p->labels.data + u->label;
    const detection *detections = (const detection *)p->detections.data + u->detection;
    const pair *pairs = (const pair *)p->pairs.data + u->pair;
    if (!sv_kitti_list_grow(found, u->labels, sizeof(double))) return false;
    memset(taken, 0, u->detections);
    for (uint32_t at = 0; at < u->pairs;) {
        const uint32_t i = pairs[at].label;
        uint32_t chosen = UINT32_MAX;
        for (; at < u->pairs && pairs[at].label == i; at++) {
            const uint32_t j = pairs[at].detection;
            if (!(pairs[at].overlap[r->metric] > r->min) || taken[j]) continue;
            if (role_of(&detections[j], r->difficulty) == APART) continue;
            if (chosen == UINT32_MAX || detections[j].score > detections[chosen].score) chosen = j;
        }
        if (chosen == UINT32_MAX) continue;
        taken[chosen] = 1;
        if (!(labels[i].ignored >> r->difficulty & 1) &&
            role_of(&detections[chosen], r->difficulty) == COUNTS)
            ((double *)found->data)[found->count++] = detections[chosen].score;
    }
    return true;
}

/* What pass 2 counts. */
typedef struct outcome {
    int64_t found;
    int64_t covered;    /* labels that count and have any detection: the others are missed */
    int64_t used;       /* detections that count and have a label (bbox: and are not in a DontCare area) */
    int64_t similarity; /* in 1 / SIMILARITY_ONE */
} outcome;

/* Pass 2 of one unit. 'taken' marks the detections that are out; partner[label] may be NULL, else receives
 * the detection or UINT32_MAX. */
static outcome match(const part *p, const unit *u, const curve_rule *r, uint8_t *taken, uint32_t *partner)
{
    const label *labels = (const label *)p->labels.data + u->label;
    const detection *detections = (const detection *)p->detections.data + u->detection;
    const pair *pairs = (const pair *)p->pairs.data + u->pair;
    outcome out = {0};
    for (uint32_t at = 0; at < u->pairs;) {
        const uint32_t i = pairs[at].label;
        const pair *chosen = NULL;
        bool chosen_small = false;
        double most = 0;
        for (; at < u->pairs && pairs[at].label == i; at++) {
            const pair *candidate_pair = &pairs[at];
            const double overlap = candidate_pair->overlap[r->metric];
            if (!(overlap > r->min) || taken[candidate_pair->detection]) continue;
            const role its = role_of(&detections[candidate_pair->detection], r->difficulty);
            if (its == COUNTS && (overlap > most || chosen_small)) {
                chosen = candidate_pair;
                most = overlap;
                chosen_small = false;
            } else if (its == SMALL && !chosen) {
                chosen = candidate_pair;
                chosen_small = true;
            }
        }
        if (partner) partner[i] = chosen ? chosen->detection : UINT32_MAX;
        if (!chosen) continue;
        taken[chosen->detection] = 1;
        const bool counts = !(labels[i].ignored >> r->difficulty & 1);
        out.covered += counts;
        if (chosen_small) continue;
        out.used += !(r->metric == SV_KITTI_BBOX && detections[chosen->detection].stuff);
        if (!counts) continue;
        out.found++;
        out.similarity += chosen->similarity;
    }
    return out;
}

/* ---- thresholds --------------------------------------------------------------------------------------- */

/* Which of 'count' sorted scores become thresholds; returns how many do. */
static int sample(int64_t count, int64_t valid, int64_t picked[POINTS])
{
    int points = 0;
    double current = 0;
    for (int64_t i = 0; i < count && points < POINTS; i++) {
        const bool last = i == count - 1;
        const double left = (double)(i + 1) / (double)valid,
                     right = last ? left : (double)(i + 2) / (double)valid;
        if (right - current < current - left && !last) continue;
        picked[points++] = i;
        current += 1 / (POINTS - 1.0);
    }
    return points;
}

static void average(const double value[POINTS], double *r11, double *r40)
{
    double at11 = 0, at40 = 0;
    for (int i = 0; i < POINTS; i += 4) at11 += value[i];
    for (int i = 1; i < POINTS; i++) at40 += value[i];
    *r11 = at11 / 11 * 100;
    *r40 = at40 / 40 * 100;
}

void sv_kitti_attainable(int64_t valid, double *r11, double *r40)
{
    int64_t picked[POINTS];
    double value[POINTS] = {0};
    const int points = valid > 0 ? sample(valid, valid, picked) : 0;
    for (int i = 0; i < points; i++) value[i] = 1;
    average(value, r11, r40);
}

double sv_kitti_min_overlap(int overlaps, int kitti_class, int metric)
{
    return min_overlap[overlaps][kitti_class][metric == SV_KITTI_AOS ? SV_KITTI_BBOX : metric];
}

/* Keys that ascend where scores descend. */
static uint64_t key_of(double score)
{
    uint64_t bits;
    memcpy(&bits, &score, sizeof bits);
    return ~(bits >> 63 ? ~bits : bits | (uint64_t)1 << 63);
}

static double score_of(uint64_t key)
{
    const uint64_t bits = ~key >> 63 ? ~key & ~((uint64_t)1 << 63) : key;
    double score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Least significant byte first; bytes that all keys share are passed over. Returns where the result is. */
static const uint64_t *sort_keys(uint64_t *keys, uint64_t *spare, size_t count)
{
    enum { BYTES = 8, VALUES = 256 };
    size_t counts[BYTES][VALUES];
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < count; i++)
        for (int b = 0; b < BYTES; b++) counts[b][keys[i] >> (8 * b) & 255]++;
    for (int b = 0; b < BYTES; b++) {
        size_t begin[VALUES], sum = 0;
        if (count == 0 || counts[b][keys[0] >> (8 * b) & 255] == count) continue;
        for (int v = 0; v < VALUES; v++) {
            begin[v] = sum;
            sum += counts[b][v];
        }
        for (size_t i = 0; i < count; i++) spare[begin[keys[i] >> (8 * b) & 255]++] = keys[i];
        uint64_t *sorted = spare;
        spare = keys;
        keys = sorted;
    }
    return keys;
}

/* ---- the scores --------------------------------------------------------------------------------------- */

/* Changes at a threshold; summed over the thresholds up to one they are its counts. */
typedef struct tally {
    int64_t found, covered, used, similarity, shown;
} tally;

typedef struct finishing {
    sv_kitti_eval *e;
    sv_kitti_scores *out;
    uint64_t *keys, *spare; /* scores of pass 1, curve by curve */
    size_t begin[CURVES + 1];
    double threshold[CURVES][PADDED];
    int points[CURVES];
    uint8_t *taken; /* [worker][most] */
    uint8_t *place; /* [worker][most] */
    tally *tallies; /* [worker][CURVES][POINTS] */
    size_t most;
} finishing;

static void collect_chunk(void *arg, int task, int worker)
{
    const finishing *f = arg;
    chunk *k = f->e->chunks[task];
    k->found.count = 0;
    k->status = SV_OK;
    for (int curve = 0; curve < CURVES; curve++) {
        const curve_rule r = rule_of(curve);
        const part *p = &k->part[r.kitti_class];
        const unit *units = p->units.data;
        k->found_begin[curve] = k->found.count;
        for (size_t i = 0; i < p->units.count; i++)
            if (!collect(p, &units[i], &r, f->taken + (size_t)worker * f->most, &k->found))
                k->status = SV_NO_MEMORY;
    }
    k->found_begin[CURVES] = k->found.count;
}

static void choose_thresholds(void *arg, int task, int worker)
{
    (void)worker;
    finishing *f = arg;
    size_t count = 0;
    uint64_t *keys = f->keys + f->begin[task];
    for (size_t i = 0; i < f->e->chunk_count; i++) {
        const chunk *k = f->e->chunks[i];
        const double *found = k->found.data;
        for (size_t at = k->found_begin[task]; at < k->found_begin[task + 1]; at++)
            keys[count++] = key_of(found[at]);
    }
    const uint64_t *sorted = sort_keys(keys, f->spare + f->begin[task], count);
    const curve_rule r = rule_of(task);
    const int64_t valid = f->out->valid[r.kitti_class][r.difficulty];
    int64_t picked[POINTS];
    f->points[task] = valid > 0 ? sample((int64_t)count, valid, picked) : 0;
    for (int i = 0; i < PADDED; i++)
        f->threshold[task][i] = i < f->points[task] ? score_of(sorted[picked[i]]) : -INFINITY;
}

/* The first threshold that lets 'score' in; behind the last when none does. */
static int place_of(const double threshold[PADDED], double score)
{
    int low = 0;
    for (int step = PADDED / 2; step > 0; step /= 2) low += threshold[low + step - 1] > score ? step : 0;
    return low;
}

/* Pass 2 of one unit at all thresholds. */
static void match_unit(const part *p, const unit *u, const curve_rule *r, const double threshold[PADDED],
                       int points, uint8_t *taken, uint8_t *place, tally *tallies)
{
    const detection *detections = (const detection *)p->detections.data + u->detection;
    const pair *pairs = (const pair *)p->pairs.data + u->pair;
    enum { OUT = 255 };
    memset(place, OUT, u->detections);
    uint64_t places = 0; /* bit t: a detection that can matter comes in at threshold t */
    for (uint32_t at = 0; at < u->pairs; at++) {
        const uint32_t j = pairs[at].detection;
        if (!(pairs[at].overlap[r->metric] > r->min) || place[j] != OUT) continue;
        if (role_of(&detections[j], r->difficulty) == APART) continue;
        const int t = place_of(threshold, detections[j].score);
        if (t >= points) continue;
        place[j] = (uint8_t)t;
        places |= (uint64_t)1 << t;
    }
    outcome before = {0};
    for (; places; places &= places - 1) {
        const int t = __builtin_ctzll(places);
        for (uint32_t j = 0; j < u->detections; j++) taken[j] = place[j] > t;
        const outcome now = match(p, u, r, taken, NULL);
        tallies[t].found += now.found - before.found;
        tallies[t].covered += now.covered - before.covered;
        tallies[t].used += now.used - before.used;
        tallies[t].similarity += now.similarity - before.similarity;
        before = now;
    }
}

static void match_chunk(void *arg, int task, int worker)
{
    const finishing *f = arg;
    const chunk *k = f->e->chunks[task];
    uint8_t *taken = f->taken + (size_t)worker * f->most, *place = f->place + (size_t)worker * f->most;
    for (int curve = 0; curve < CURVES; curve++) {
        if (f->points[curve] == 0) continue;
        const curve_rule r = rule_of(curve);
        const part *p = &k->part[r.kitti_class];
        tally *tallies = f->tallies + ((size_t)worker * CURVES + (size_t)curve) * POINTS;
        const scored *scoreds = p->scoreds.data;
        const double *threshold = f->threshold[curve], least = threshold[f->points[curve] - 1];
        for (size_t i = 0; i < p->scoreds.count; i++) {
            if (scoreds[i].score < least || scoreds[i].small >> r.difficulty & 1 ||
                (r.metric == SV_KITTI_BBOX && scoreds[i].stuff))
                continue;
            tallies[place_of(threshold, scoreds[i].score)].shown++;
        }
        const unit *units = p->units.data;
        for (size_t i = 0; i < p->units.count; i++)
            match_unit(p, &units[i], &r, f->threshold[curve], f->points[curve], taken, place, tallies);
    }
}

static void finish_curve(const finishing *f, int curve, int threads, sv_kitti_curve *out,
                         sv_kitti_curve *angles)
{
    const curve_rule r = rule_of(curve);
    const int64_t valid = f->out->valid[r.kitti_class][r.difficulty];
    tally now = {0};
    *out = (sv_kitti_curve){.points = f->points[curve]};
    *angles = *out;
    for (int t = 0; t < out->points; t++) {
        for (int w = 0; w < threads; w++) {
            const tally *change = f->tallies + ((size_t)w * CURVES + (size_t)curve) * POINTS + t;
            now.found += change->found;
            now.covered += change->covered;
            now.used += change->used;
            now.similarity += change->similarity;
            now.shown += change->shown;
        }
        const int64_t wrong = now.shown - now.used, missed = valid - now.covered;
        const double all = (double)(now.found + wrong), wanted = (double)(now.found + missed);
        out->threshold[t] = angles->threshold[t] = f->threshold[curve][t];
        out->value[t] = all > 0 ? (double)now.found / all : 0;
        angles->value[t] = all > 0 ? (double)now.similarity / SIMILARITY_ONE / all : 0;
        out->recall[t] = angles->recall[t] = wanted > 0 ? (double)now.found / wanted : 0;
    }
    for (int t = out->points - 2; t >= 0; t--) {
        out->value[t] = fmax(out->value[t], out->value[t + 1]);
        angles->value[t] = fmax(angles->value[t], angles->value[t + 1]);
    }
    average(out->value, &out->r11, &out->r40);
    average(angles->value, &angles->r11, &angles->r40);
}

static sv_status finish(sv_ctx *c, finishing *f, int threads)
{
    sv_kitti_eval *e = f->e;
    const size_t workers = (size_t)threads, most = f->most;
    f->taken = malloc(workers * most);
    f->place = malloc(workers * most);
    f->tallies = calloc(workers * CURVES * POINTS, sizeof *f->tallies);
    SV_CHECK(c, f->taken && f->place && f->tallies, SV_NO_MEMORY, "no memory to evaluate %lld frames",
             (long long)e->frames);
    sv_pool_run(c->pool, collect_chunk, f, (int)e->chunk_count);
    for (size_t i = 0; i < e->chunk_count; i++) {
        const chunk *k = e->chunks[i];
        SV_CHECK(c, k->status == SV_OK, k->status, "no memory to evaluate %lld frames", (long long)e->frames);
        for (int curve = 0; curve < CURVES; curve++)
            f->begin[curve + 1] += k->found_begin[curve + 1] - k->found_begin[curve];
    }
    for (int curve = 0; curve < CURVES; curve++) f->begin[curve + 1] += f->begin[curve];
    f->keys = malloc(f->begin[CURVES] * sizeof *f->keys + 1);
    f->spare = malloc(f->begin[CURVES] * sizeof *f->spare + 1);
    SV_CHECK(c, f->keys && f->spare, SV_NO_MEMORY, "no memory for %zu scores", f->begin[CURVES]);
    sv_pool_run(c->pool, choose_thresholds, f, CURVES);
    sv_pool_run(c->pool, match_chunk, f, (int)e->chunk_count);
    for (int curve = 0; curve < CURVES; curve++) {
        const curve_rule r = rule_of(curve);
        const int overlaps = sets[curve % SETS].overlaps;
        sv_kitti_curve(*of_class)[SV_KITTI_METRICS][SV_KITTI_DIFFICULTIES] = f->out->curve[overlaps];
        sv_kitti_curve angles;
        finish_curve(f, curve, threads, &of_class[r.kitti_class][r.metric][r.difficulty], &angles);
        if (r.metric == SV_KITTI_BBOX && f->out->aos)
            of_class[r.kitti_class][SV_KITTI_AOS][r.difficulty] = angles;
    }
    for (int k = 0; k < SV_KITTI_CLASSES; k++) {
        sv_kitti_curve(*loose)[SV_KITTI_DIFFICULTIES] = f->out->curve[1][k],
        (*official)[SV_KITTI_DIFFICULTIES] = f->out->curve[0][k];
        memcpy(loose[SV_KITTI_BBOX], official[SV_KITTI_BBOX], sizeof *loose);
        memcpy(loose[SV_KITTI_AOS], official[SV_KITTI_AOS], sizeof *loose);
    }
    return SV_OK;
}

sv_status sv_kitti_eval_finish(sv_ctx *c, sv_kitti_eval *e, sv_kitti_scores *out)
{
    memset(out, 0, sizeof *out);
    out->frames = e->frames;
    out->labels = e->labels;
    out->detections = e->detections;
    finishing f = {.e = e, .out = out, .most = 1};
    bool without_angle = false;
    int first_has_angle = -1;
    for (size_t i = 0; i < e->chunk_count; i++) {
        const chunk *k = e->chunks[i];
        if (k->most_detections > f.most) f.most = k->most_detections;
        without_angle |= k->without_angle;
        if (first_has_angle < 0) first_has_angle = k->first_has_angle;
        for (int n = 0; n < SV_KITTI_CLASSES; n++) {
            for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) out->valid[n][d] += k->part[n].valid[d];
            for (int m = 0; m < 3; m++) out->detected[n][m] |= k->detected[n][m];
        }
    }
    out->aos = e->rule == SV_KITTI_PYTHON ? first_has_angle == 1 : !without_angle;
    for (int n = 0; n < SV_KITTI_CLASSES; n++)
        out->detected[n][SV_KITTI_AOS] = out->aos && out->detected[n][SV_KITTI_BBOX];
    const sv_status status = finish(c, &f, sv_pool_threads(c->pool));
    free(f.keys);
    free(f.spare);
    free(f.taken);
    free(f.place);
    free(f.tallies);
    return status;
}

/* ---- one frame's verdicts ----------------------------------------------------------------------------- */

typedef struct verdicts {
    const sv_kitti_eval_frame *frame;
    sv_kitti_verdict *label, *detection;
    int *partner;
    double score;
} verdicts;

static sv_status judge_class(sv_ctx *c, const chunk *k, const curve_rule *r, const verdicts *v)
{
    const part *p = &k->part[r->kitti_class];
    if (p->units.count == 0) return SV_OK;
    const unit *u = p->units.data;
    const label *labels = p->labels.data;
    const detection *detections = p->detections.data;
    uint8_t *taken = malloc(u->detections);
    uint32_t *partner = malloc(u->labels * sizeof *partner);
    if (taken && partner) {
        for (uint32_t j = 0; j < u->detections; j++) taken[j] = detections[j].score < v->score;
        match(p, u, r, taken, partner);
        for (uint32_t i = 0; i < u->labels; i++) {
            if (partner[i] == UINT32_MAX) continue;
            const detection *d = &detections[partner[i]];
            const bool counts = !(labels[i].ignored >> r->difficulty & 1);
            const bool found = counts && role_of(d, r->difficulty) == COUNTS;
            v->label[labels[i].index] = found ? SV_KITTI_FOUND : SV_KITTI_IGNORED;
            v->detection[d->index] = found ? SV_KITTI_FOUND : SV_KITTI_IGNORED;
            if (found && v->partner) v->partner[d->index] = (int)labels[i].index;
        }
    }
    const bool good = taken && partner;
    free(taken);
    free(partner);
    SV_CHECK(c, good, SV_NO_MEMORY, "no memory to match a frame");
    return SV_OK;
}

sv_status sv_kitti_eval_verdicts(sv_ctx *c, sv_kitti_rule rule, const sv_kitti_eval_frame *frame,
                                 int overlaps, int metric, int difficulty, double score,
                                 sv_kitti_verdict *label_verdicts, sv_kitti_verdict *detection_verdicts,
                                 int *partner)
{
    const verdicts v = {frame, label_verdicts, detection_verdicts, partner, score};
    chunk *k = calloc(1, sizeof *k);
    SV_CHECK(c, k, SV_NO_MEMORY, "no memory to match a frame");
    workspace w = {0};
    k->first_has_angle = -1;
    sv_status status = sv_kitti_chunk_add(k, rule, frame, &w);
    if (status != SV_OK)
        SV_FAIL(c, status, "detection %d cannot be matched: its score is not finite", k->bad_detection);
    for (int i = 0; status == SV_OK && i < frame->label_count; i++) {
        const sorted_label l = ((const sorted_label *)w.labels.data)[i];
        label_verdicts[i] = l.kitti_class == OTHER_CLASS  ? SV_KITTI_OTHER
                            : l.ignored >> difficulty & 1 ? SV_KITTI_IGNORED
                                                          : SV_KITTI_MISSED;
    }
    for (int j = 0; status == SV_OK && j < frame->detection_count; j++) {
        const candidate *d = (const candidate *)w.candidates.data + j;
        detection_verdicts[j] =
            d->kitti_class == OTHER_CLASS || frame->detections[j].score < score   ? SV_KITTI_OTHER
            : d->small >> difficulty & 1 || (metric == SV_KITTI_BBOX && d->stuff) ? SV_KITTI_IGNORED
                                                                                  : SV_KITTI_FALSE;
        if (partner) partner[j] = -1;
    }
    for (int i = 0; status == SV_OK && i < SV_KITTI_CLASSES; i++) {
        const curve_rule r = {i, difficulty, metric, sv_kitti_min_overlap(overlaps, i, metric)};
        status = judge_class(c, k, &r, &v);
    }
    sv_kitti_workspace_free(&w);
    sv_kitti_chunk_free(k);
    return status;
}
