/* SPDX-License-Identifier: Apache-2.0
 *
 * CenterHead and TransFusionHead inside small models: the transformer decoder against the definition in
 * double precision, greedy suppression against what it promises, and what configurations are refused.
 * check_detector.c has the promise of equal bytes.
 */
#include "oracle_heads.h"
#include "perception/geometry/rotated_iou.h"
#include "support_shown.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the transformer decoder -------------------------------------------------------------------------- */

enum { D = 32, HEADS = 4, FFN = 48, CLASSES = 10, SIDE = 32, CELLS = SIDE * SIDE };

/* y = W x + b, rows first.. of the matrix */
static void linear(const shown_frame *r, double *y, const double *x, const char *w, const char *b, int first,
                   int n, int k)
{
    const float *matrix = shown_weight(r, w), *bias = shown_weight(r, b);
    for (int o = 0; o < n; o++) {
        y[o] = (double)bias[first + o];
        for (int i = 0; i < k; i++) y[o] += (double)matrix[(first + o) * k + i] * x[i];
    }
}

/* Linear, BatchNorm, ReLU */
static void linear_norm(const shown_frame *r, double *y, const double *x, const char *base, const char *conv,
                        const char *norm, int n, int k)
{
    char w[96], b[96];
    snprintf(w, sizeof w, "%s.%s.weight", base, conv);
    snprintf(b, sizeof b, "%s.%s.bias", base, conv);
    linear(r, y, x, w, b, 0, n, k);
    const char *parts[4] = {"weight", "bias", "running_mean", "running_var"};
    const float *p[4];
    for (int i = 0; i < 4; i++) {
        snprintf(w, sizeof w, "%s.%s.%s", base, norm, parts[i]);
        p[i] = shown_weight(r, w);
    }
    for (int o = 0; o < n; o++)
        y[o] = fmax(0, (y[o] - (double)p[2][o]) / sqrt((double)p[3][o] + 1e-5) * (double)p[0][o] +
                           (double)p[1][o]);
}

static void embed(const shown_frame *r, double *y, const char *which, double x, double z)
{
    char base[96], w[128], b[128];
    double hidden[D];
    snprintf(base, sizeof base, "decoder.%s.position_embedding_head", which);
    linear_norm(r, hidden, (const double[]){x, z}, base, "0", "1", D, 2);
    snprintf(w, sizeof w, "%s.3.weight", base);
    snprintf(b, sizeof b, "%s.3.bias", base);
    linear(r, y, hidden, w, b, 0, D, D);
}

/* q = LayerNorm(q + part) */
static void add_norm(const shown_frame *r, double *q, const double *part, int number)
{
    char w[40], b[40];
    snprintf(w, sizeof w, "decoder.norm%d.weight", number);
    snprintf(b, sizeof b, "decoder.norm%d.bias", number);
    const float *scale = shown_weight(r, w), *shift = shown_weight(r, b);
    double mean = 0, variance = 0;
    for (int i = 0; i < D; i++) {
        q[i] += part[i];
        mean += q[i] / D;
    }
    for (int i = 0; i < D; i++) variance += (q[i] - mean) * (q[i] - mean) / D;
    for (int i = 0; i < D; i++)
        q[i] = (q[i] - mean) / sqrt(variance + 1e-5) * (double)scale[i] + (double)shift[i];
}

/* Keys and values of all cells, by the definition: W (feature + embedding). */
static void project(const shown_frame *r, float *k, float *v)
{
    const shown *features = shown_tensor(r, "shared_features");
    for (int n = 0; n < CELLS; n++) {
        double position[D], sum[D], out[2 * D];
        embed(r, position, "cross_posembed", n % SIDE + 0.5, n / SIDE + 0.5);
        for (int i = 0; i < D; i++) sum[i] = (double)features->values[n * D + i] + position[i];
        linear(r, out, sum, "decoder.multihead_attn.in_proj_weight", "decoder.multihead_attn.in_proj_bias", D,
               2 * D, D);
        for (int i = 0; i < D; i++) {
            k[n * D + i] = (float)out[i];
            v[n * D + i] = (float)out[D + i];
        }
    }
}

/* One query through the decoder layer. */
static void decode(const shown_frame *r, double *q, int cell, int label, const float *k, const float *v)
{
    const shown *features = shown_tensor(r, "shared_features");
    const float *class_weight = shown_weight(r, "class_encoding.weight"),
                *class_bias = shown_weight(r, "class_encoding.bias");
    double position[D], sum[D], part[D], value[D], wide[FFN];
    int keys = 0;
    for (int i = 0; i < D; i++)
        q[i] = (double)features->values[cell * D + i] + (double)class_weight[i * CLASSES + label] +
               (double)class_bias[i];
    embed(r, position, "self_posembed", cell % SIDE + 0.5, cell / SIDE + 0.5);
    for (int i = 0; i < D; i++) sum[i] = q[i] + position[i];
    linear(r, value, sum, "decoder.self_attn.in_proj_weight", "decoder.self_attn.in_proj_bias", 2 * D, D, D);
    linear(r, part, value, "decoder.self_attn.out_proj.weight", "decoder.self_attn.out_proj.bias", 0, D, D);
    add_norm(r, q, part, 1);
    for (int i = 0; i < D; i++) sum[i] = q[i] + position[i];
    linear(r, part, sum, "decoder.multihead_attn.in_proj_weight", "decoder.multihead_attn.in_proj_bias", 0, D,
           D);
    oracle_window_attention(value, part, k, v, HEADS, D / HEADS, SIDE, 20, 1 / sqrt((double)D / HEADS),
                            cell % SIDE, cell / SIDE, &keys);
    linear(r, part, value, "decoder.multihead_attn.out_proj.weight", "decoder.multihead_attn.out_proj.bias",
           0, D, D);
    add_norm(r, q, part, 2);
    linear(r, wide, q, "decoder.linear1.weight", "decoder.linear1.bias", 0, FFN, D);
    for (int i = 0; i < FFN; i++) wide[i] = fmax(0, wide[i]);
    linear(r, part, wide, "decoder.linear2.weight", "decoder.linear2.bias", 0, D, FFN);
    add_norm(r, q, part, 3);
}

START_TEST(the_decoder_is_that_of_the_paper)
{
    static const struct {
        const char *name;
        int channels;
    } branches[] = {{"center", 2}, {"height", 1}, {"dim", 3},          {"rot", 2},
                    {"vel", 2},    {"iou", 1},    {"heatmap", CLASSES}};
    shown_frame r = shown_run(SMALL_NUSCENES, NULL, 7);
    const shown *labels = shown_tensor(&r, "query_labels"), *cells = shown_tensor(&r, "query_cells");
    ck_assert_int_eq(labels->rows, 100);
    float *k = malloc(sizeof *k * CELLS * D), *v = malloc(sizeof *v * CELLS * D);
    project(&r, k, v);
    double worst = 0;
    for (int i = 0; i < labels->rows; i++) {
        const int cell = shown_integer(cells, i);
        double q[D], hidden[64], out[CLASSES];
        decode(&r, q, cell, shown_integer(labels, i), k, v);
        for (size_t n = 0; n < sizeof branches / sizeof *branches; n++) {
            const shown *got = shown_tensor(&r, branches[n].name);
            char base[64], w[96], b[96];
            snprintf(base, sizeof base, "prediction_head.%s", branches[n].name);
            snprintf(w, sizeof w, "%s.1.weight", base);
            snprintf(b, sizeof b, "%s.1.bias", base);
            linear_norm(&r, hidden, q, base, "0.0", "0.1", 64, D);
            linear(&r, out, hidden, w, b, 0, branches[n].channels, 64);
            for (int ch = 0; ch < branches[n].channels; ch++) {
                if (n == 0) out[ch] += (ch == 0 ? cell % SIDE : cell / SIDE) + 0.5;
                worst = fmax(worst, fabs(out[ch] - (double)got->values[i * got->channels + ch]));
            }
        }
    }
    ck_assert_msg(worst < 2e-5, "largest error %g", worst);
    free(k);
    free(v);
    shown_free(&r);
}
END_TEST

/* The official convolutions see the map with x and y exchanged: the kernel's rows go along x. */
START_TEST(kernels_are_turned_with_the_map)
{
    shown_frame r = shown_run(SMALL_NUSCENES, NULL, 7);
    const shown *in = shown_tensor(&r, "spatial_features_2d"), *out = shown_tensor(&r, "shared_features");
    const float *w = shown_weight(&r, "shared_conv.weight"), *bias = shown_weight(&r, "shared_conv.bias");
    ck_assert(in->rows == CELLS && out->rows == CELLS && out->channels == D);
    double worst = 0, turned_back = 0;
    for (int cell = 0; cell < CELLS; cell += 37)
        for (int o = 0; o < D; o++) {
            double sum = (double)bias[o], other = sum;
            for (int dx = -1; dx <= 1; dx++)
                for (int dy = -1; dy <= 1; dy++) {
                    const int x = cell % SIDE + dx, y = cell / SIDE + dy;
                    if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) continue;
                    for (int i = 0; i < in->channels; i++) {
                        const float *kernel = w + (o * in->channels + i) * 9;
                        const double value = (double)in->values[(y * SIDE + x) * in->channels + i];
                        sum += (double)kernel[(dx + 1) * 3 + dy + 1] * value;
                        other += (double)kernel[(dy + 1) * 3 + dx + 1] * value;
                    }
                }
            worst = fmax(worst, fabs(sum - (double)out->values[cell * D + o]));
            turned_back = fmax(turned_back, fabs(other - (double)out->values[cell * D + o]));
        }
    ck_assert_msg(worst < 2e-5 && turned_back > 1e-2, "errors %g and %g", worst, turned_back);
    shown_free(&r);
}
END_TEST

/* Query i by the definition; whether it is kept. */
static bool decode_query(const shown_frame *r, int i, double *box, double *score)
{
    const oracle_rule rule = {.stride = 2,
                              .cell = {(double)0.2f, (double)0.2f},
                              .origin = {0, (double)-6.4f},
                              .range_min = {-1, -8, -10},
                              .range_max = {14, 8, 10},
                              .rectifier = 0.5,
                              .sine_first = true,
                              .top_face = true,
                              .rescore = true};
    const int label = shown_integer(shown_tensor(r, "query_labels"), i);
    oracle_code code = {.z = (double)shown_tensor(r, "height")->values[i],
                        .overlap = (double)shown_tensor(r, "iou")->values[i],
                        .confidence = (double)shown_tensor(r, "heatmap")->values[i * CLASSES + label],
                        .heat = (double)shown_tensor(r, "query_heat")->values[i],
                        .has_overlap = true,
                        .has_confidence = true};
    for (int a = 0; a < 2; a++) {
        code.center[a] = (double)shown_tensor(r, "center")->values[2 * i + a];
        code.rotation[a] = (double)shown_tensor(r, "rot")->values[2 * i + a];
        code.velocity[a] = (double)shown_tensor(r, "vel")->values[2 * i + a];
    }
    for (int a = 0; a < 3; a++) code.size[a] = (double)shown_tensor(r, "dim")->values[3 * i + a];
    double doubt;
    return oracle_center_decode(box, score, &doubt, &code, &rule);
}

/* Queries are the best peaks, column by column among equals; boxes keep their order, and carry a velocity. */
START_TEST(queries_are_the_best_peaks)
{
    shown_frame r = shown_run(SMALL_NUSCENES, NULL, 8);
    const shown *logits = shown_tensor(&r, "dense_heatmap"), *labels = shown_tensor(&r, "query_labels"),
                *cells = shown_tensor(&r, "query_cells"), *heat = shown_tensor(&r, "query_heat"),
                *all = shown_tensor(&r, "query_heatmap_score"), *vel = shown_tensor(&r, "vel");
    ck_assert(logits->rows == CELLS && logits->channels == CLASSES);
    float *scores = malloc(sizeof *scores * CELLS * CLASSES),
          *peaks = malloc(sizeof *peaks * CELLS * CLASSES);
    for (int i = 0; i < CELLS * CLASSES; i++) scores[i] = 1.0f / (1.0f + expf(-logits->values[i]));
    oracle_local_peaks(peaks, scores, 1, SIDE, SIDE, CLASSES, 1, 3u << 8);
    for (int i = 0; i < labels->rows; i++) {
        const int cell = shown_integer(cells, i), label = shown_integer(labels, i);
        ck_assert(fabsf(heat->values[i] - peaks[cell * CLASSES + label]) < 1e-6f);
        ck_assert(all->values[i * CLASSES + label] == heat->values[i]);
        ck_assert(i == 0 || heat->values[i] <= heat->values[i - 1]);
    }
    int better = 0;
    for (int i = 0; i < CELLS * CLASSES; i++) better += peaks[i] > heat->values[labels->rows - 1] + 1e-6f;
    ck_assert_int_le(better, labels->rows);
    ck_assert_int_gt(r.count, 10);
    /* boxes stand in the order of their queries: each is found behind the one before */
    int next = 0;
    for (int i = 0; i < r.count; i++) {
        while (next < labels->rows &&
               (vel->values[2 * next] != r.boxes[i].vx || vel->values[2 * next + 1] != r.boxes[i].vy))
            next++;
        ck_assert_int_lt(next, labels->rows);
        ck_assert_int_eq(shown_integer(labels, next), r.boxes[i].label - 1);
        const sv_box *b = &r.boxes[i];
        const float fields[9] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading, b->vx, b->vy};
        double box[9], score;
        ck_assert(decode_query(&r, next, box, &score) && fabs(score - (double)b->score) < 2e-5);
        for (int k = 0; k < 9; k++) ck_assert(fabs(box[k] - (double)fields[k]) < 5e-5);
        next++;
    }
    /* only pedestrians and cones suppress each other */
    int kept = 0, boxes = 0;
    for (int i = 0; i < labels->rows; i++) {
        double box[9], score;
        if (shown_integer(labels, i) < 8) kept += decode_query(&r, i, box, &score);
    }
    for (int i = 0; i < r.count; i++) boxes += r.boxes[i].label <= 8;
    ck_assert_int_eq(kept, boxes);
    ck_assert_int_gt(kept, 0);
    free(scores);
    free(peaks);
    shown_free(&r);
}
END_TEST

/* ---- CenterHead --------------------------------------------------------------------------------------- */

typedef struct center_case {
    small_kind kind;
    const char *more;
    int picks, classes;
    bool class_wise, turned;
    float threshold[5];
} center_case;

static const center_case center_cases[] = {
    {SMALL_WAYMO, NULL, 100, 3, true, true, {0.75f, 0.6f, 0.55f}},
    {SMALL_WAYMO,
     "MODEL: {DENSE_HEAD: {POST_PROCESSING: {NMS_CONFIG: {EXACT: true, NMS_THRESH: [0.1, 0.2, 0.3]}}}}\n",
     100,
     3,
     true,
     false,
     {0.1f, 0.2f, 0.3f}},
    {SMALL_ONCE, NULL, 200, 5, false, false, {0.3f}},
};

static float overlap_of(const center_case *k, const sv_box *a, const sv_box *b)
{
    const float turn = k->turned ? 1.57079632679489662f : 0;
    const sv_rectangle p = sv_rectangle_make(a->x, a->y, a->dx, a->dy, a->heading - turn),
                       q = sv_rectangle_make(b->x, b->y, b->dx, b->dy, b->heading - turn);
    return sv_iou_bev(&p, &q, k->turned ? SV_NMS_BEV_MARGIN : SV_NMS_MARGIN, k->more != NULL);
}

/* The boxes of all picks, decoded from the maps in double precision; returns how many are kept. */
static int decode_picks(const shown_frame *r, const center_case *k, sv_box *out)
{
    const shown *hm = shown_tensor(r, "hm"), *center = shown_tensor(r, "center"),
                *z = shown_tensor(r, "center_z"), *dim = shown_tensor(r, "dim"),
                *rot = shown_tensor(r, "rot"), *iou = k->classes == 3 ? shown_tensor(r, "iou") : NULL;
    const int side = 64, cells = side * side;
    ck_assert(hm->rows == cells && hm->channels == k->classes);
    float *heat = malloc(sizeof *heat * (size_t)(cells * k->classes));
    int32_t *order = malloc(sizeof *order * (size_t)(cells * k->classes));
    for (int i = 0; i < cells * k->classes; i++) heat[i] = 1.0f / (1.0f + expf(-hm->values[i]));
    oracle_order_cells(order, heat, side, side, k->classes, false);
    oracle_rule rule = {.stride = 1,
                        .cell = {(double)0.2f, (double)0.2f},
                        .origin = {0, (double)-6.4f},
                        .range_min = {-1, -8, -10},
                        .range_max = {14, 8, 10},
                        .min_score = (double)0.1f,
                        .rescore = iou != NULL};
    static const double rectifier[3] = {0.68, 0.71, 0.65};
    int count = 0;
    for (int i = 0; i < k->picks; i++) {
        const int cell = order[i] % cells, label = order[i] / cells;
        oracle_code code = {.place = {cell % side, cell / side},
                            .z = (double)z->values[cell],
                            .heat = (double)heat[cell * k->classes + label],
                            .has_overlap = iou != NULL};
        for (int a = 0; a < 2; a++) {
            code.center[a] = (double)center->values[2 * cell + a];
            code.rotation[a] = (double)rot->values[2 * cell + a];
        }
        for (int a = 0; a < 3; a++) code.size[a] = (double)dim->values[3 * cell + a];
        if (iou) {
            code.overlap = (double)iou->values[cell];
            rule.rectifier = rectifier[label];
        }
        double box[9], score, doubt;
        if (!oracle_center_decode(box, &score, &doubt, &code, &rule)) continue;
        out[count++] = (sv_box){.x = (float)box[0],
                                .y = (float)box[1],
                                .z = (float)box[2],
                                .dx = (float)box[3],
                                .dy = (float)box[4],
                                .dz = (float)box[5],
                                .heading = (float)box[6],
                                .score = (float)score,
                                .label = label + 1};
    }
    free(heat);
    free(order);
    return count;
}

static bool same_box(const sv_box *a, const sv_box *b)
{
    const float x[8] = {a->x, a->y, a->z, a->dx, a->dy, a->dz, a->heading, a->score},
                y[8] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading, b->score};
    for (int i = 0; i < 8; i++)
        if (!(fabsf(x[i] - y[i]) <= 2e-5f)) return false;
    return a->label == b->label;
}

/*
 * Every box comes from a pick; kept ones do not overlap too much; and whoever is missing overlaps a better
 * one that is there. Then the list is the greedy one.
 */
START_TEST(center_boxes_are_the_greedy_choice)
{
    const center_case *k = &center_cases[_i];
    shown_frame r = shown_run(k->kind, k->more, 9);
    static sv_box picks[200];
    const int count = decode_picks(&r, k, picks);
    ck_assert_int_gt(r.count, 5);
    ck_assert_int_lt(r.count, count);
    bool used[200] = {false};
    for (int i = 0; i < r.count; i++) {
        int from = -1;
        for (int p = 0; p < count && from < 0; p++)
            if (!used[p] && same_box(&r.boxes[i], &picks[p])) from = p;
        ck_assert_msg(from >= 0, "box %d comes from no pick", i);
        used[from] = true;
        if (i > 0) {
            const sv_box *before = &r.boxes[i - 1];
            ck_assert(k->class_wise && before->label != r.boxes[i].label ? before->label < r.boxes[i].label
                                                                         : before->score >= r.boxes[i].score);
        }
        for (int j = 0; j < i; j++)
            if (!k->class_wise || r.boxes[j].label == r.boxes[i].label)
                ck_assert(overlap_of(k, &r.boxes[j], &r.boxes[i]) <=
                          k->threshold[k->class_wise ? r.boxes[i].label - 1 : 0] + 1e-4f);
    }
    for (int p = 0; p < count && r.count < SHOWN_BOXES; p++) {
        if (used[p]) continue;
        bool suppressed = false;
        for (int i = 0; i < r.count && !suppressed; i++)
            suppressed = (!k->class_wise || r.boxes[i].label == picks[p].label) &&
                         r.boxes[i].score >= picks[p].score - 1e-5f &&
                         overlap_of(k, &r.boxes[i], &picks[p]) >
                             k->threshold[k->class_wise ? picks[p].label - 1 : 0] - 1e-4f;
        ck_assert_msg(suppressed, "pick %d is missing for no reason", p);
    }
    shown_free(&r);
}
END_TEST

/* ---- configurations ----------------------------------------------------------------------------------- */

START_TEST(models_say_what_their_boxes_carry)
{
    static const struct {
        bool velocity;
        int side;
    } want[SMALL_KINDS] = {[SMALL_KITTI] = {false, 64},
                           [SMALL_WAYMO] = {false, 64},
                           [SMALL_ONCE] = {false, 64},
                           [SMALL_NUSCENES] = {true, 32},
                           [SMALL_ARGOVERSE2] = {false, 64}};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model_of(c, (small_kind)_i, 3);
    int height = 0, width = 0;
    sv_model_map_size(model, &height, &width);
    ck_assert(height == want[_i].side && width == want[_i].side);
    ck_assert(sv_model_has_velocity(model) == want[_i].velocity);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

#define HEAD_KEYS(text) "MODEL: {DENSE_HEAD: {" text "}}\n"
#define POST_KEYS(text) "MODEL: {DENSE_HEAD: {POST_PROCESSING: {" text "}}}\n"

static const struct {
    small_kind kind;
    const char *more;
    sv_status status; /* SV_OK: it is taken */
    const char *sentence;
} refused[] = {
    {SMALL_WAYMO, HEAD_KEYS("CLASS_NAMES_EACH_HEAD: [[Vehicle], [Pedestrian, Cyclist]]"), SV_UNSUPPORTED,
     "one group"},
    {SMALL_WAYMO, HEAD_KEYS("CLASS_NAMES_EACH_HEAD: [[Vehicle, Cyclist, Pedestrian]]"), SV_UNSUPPORTED,
     "in their order"},
    {SMALL_WAYMO, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {rot: ~}}"), SV_BAD_INPUT, "rot is missing"},
    {SMALL_WAYMO, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {dim: {out_channels: 2}}}"), SV_UNSUPPORTED,
     "2 instead of 3"},
    {SMALL_WAYMO, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {vel: {out_channels: 2, num_conv: 2}}}"),
     SV_UNSUPPORTED, "'vel'"},
    {SMALL_WAYMO, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {size: {out_channels: 2, num_conv: 2}}}"),
     SV_BAD_INPUT, "HEAD_DICT.size"},
    {SMALL_WAYMO, HEAD_KEYS("UPSAMPLE: 2"), SV_UNSUPPORTED, "UPSAMPLE"},
    {SMALL_WAYMO, HEAD_KEYS("UNHEARD_OF: 2"), SV_BAD_INPUT, "UNHEARD_OF"},
    {SMALL_WAYMO, POST_KEYS("IOU_RECTIFIER: [0.5, 0.5]"), SV_BAD_INPUT, "IOU_RECTIFIER"},
    {SMALL_WAYMO, POST_KEYS("MAX_OBJ_PER_SAMPLE: 100000"), SV_UNSUPPORTED, "MAX_OBJ_PER_SAMPLE"},
    {SMALL_WAYMO, POST_KEYS("NMS_CONFIG: {NMS_TYPE: circle_nms}"), SV_UNSUPPORTED, "circle_nms"},
    {SMALL_WAYMO, POST_KEYS("NMS_CONFIG: {NMS_THRESH: [0.5, 0.5]}"), SV_BAD_INPUT, "NMS_THRESH"},
    {SMALL_WAYMO, POST_KEYS("NMS_CONFIG: {NMS_POST_MAXSIZE: [0, 1, 1]}"), SV_BAD_INPUT, "the best 0"},
    {SMALL_WAYMO, POST_KEYS("NMS_CONFIG: {SCORE_THRESH: 0.3}"), SV_BAD_INPUT, "SCORE_THRESH"},
    {SMALL_WAYMO, "MODEL: {BACKBONE_2D: {UPSAMPLE_STRIDES: [1, 2, 2]}}\n", SV_BAD_INPUT,
     "cannot be concatenated"},
    {SMALL_WAYMO, POST_KEYS("USE_IOU_TO_RECTIFY_SCORE: false"), SV_OK, ""},
    {SMALL_WAYMO, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {iou: ~}}"), SV_OK,
     ""}, /* then nothing is rescored */
    {SMALL_WAYMO,
     HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_ORDER: [center, center_z, dim, rot, vel], HEAD_DICT: {vel: "
               "{out_channels: 2, num_conv: 1}}}"),
     SV_OK, ""},
    {SMALL_WAYMO,
     "MODEL: {POST_PROCESSING: {SCORE_THRESH: 0.5, RECALL_THRESH_LIST: [0.3], EVAL_METRIC: waymo}}\n", SV_OK,
     ""},
    {SMALL_WAYMO,
     "DATA_CONFIG: {POINTS_TANH_DIM: [3, 4], CLOUD_DATA_PATH: /cache}\nMODEL: {BACKBONE_3D: {INPUT_TYPE: "
     "MLP}}\n",
     SV_OK, ""},
    {SMALL_ONCE, POST_KEYS("NMS_CONFIG: {NMS_THRESH: [0.1, 0.2]}"), SV_BAD_INPUT, "NMS_THRESH"},
    {SMALL_NUSCENES, HEAD_KEYS("TARGET_ASSIGNER_CONFIG: {DATASET: Waymo}"), SV_UNSUPPORTED,
     "'Waymo' with 10 classes"},
    {SMALL_NUSCENES, HEAD_KEYS("TARGET_ASSIGNER_CONFIG: {FEATURE_MAP_STRIDE: 1}"), SV_BAD_INPUT,
     "FEATURE_MAP_STRIDE"},
    {SMALL_NUSCENES, HEAD_KEYS("NUM_CLASSES: 9"), SV_BAD_INPUT, "NUM_CLASSES"},
    {SMALL_NUSCENES, HEAD_KEYS("NUM_HEADS: 5"), SV_BAD_INPUT, "NUM_HEADS"},
    {SMALL_NUSCENES, HEAD_KEYS("NMS_KERNEL_SIZE: 4"), SV_UNSUPPORTED, "NMS_KERNEL_SIZE"},
    {SMALL_NUSCENES, HEAD_KEYS("ACTIVATION: glu"), SV_UNSUPPORTED, "glu"},
    {SMALL_NUSCENES, HEAD_KEYS("NUM_PROPOSALS: 0"), SV_UNSUPPORTED, "NUM_PROPOSALS"},
    {SMALL_NUSCENES, HEAD_KEYS("LOSS_CONFIG: {LOSS_CLS: {use_sigmoid: false}}"), SV_UNSUPPORTED,
     "use_sigmoid"},
    {SMALL_NUSCENES, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {height: ~}}"), SV_BAD_INPUT,
     "height is missing"},
    {SMALL_NUSCENES, HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {center: {num_conv: 3}}}"), SV_UNSUPPORTED,
     "3 convolutions"},
    {SMALL_NUSCENES, POST_KEYS("NMS_CONFIG: {SCORE_THRES: 0.2}"), SV_UNSUPPORTED, "SCORE_THRES"},
    {SMALL_NUSCENES, POST_KEYS("IOU_RECTIFIER: [0.5, 0.5]"), SV_BAD_INPUT, "IOU_RECTIFIER"},
    {SMALL_NUSCENES, "DATA_CONFIG: {POINT_CLOUD_RANGE: [0, -6.4, -3, 25.6, 6.4, 1]}\n", SV_UNSUPPORTED,
     "square"},
    {SMALL_NUSCENES, POST_KEYS("IOU_RECTIFIER: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]"), SV_OK, ""},
    {SMALL_NUSCENES, POST_KEYS("NMS_CONFIG: {EXACT: true}"), SV_OK, ""},
    {SMALL_NUSCENES, HEAD_KEYS("ACTIVATION: gelu, SEPARATE_HEAD_CFG: {HEAD_DICT: {vel: ~, iou: ~}}"), SV_OK,
     ""},
};

START_TEST(configurations_are_taken_or_refused_by_name)
{
    sv_ctx *c = test_context(1);
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = small_config_of(refused[_i].kind, refused[_i].more)};
    if (refused[_i].status == SV_OK)
        assert_ok(c, sv_model_init(c, &def, 1, w));
    else
        assert_fails(c, sv_model_init(c, &def, 1, w), refused[_i].status, refused[_i].sentence);
    sv_weights_free(w);
    sv_ctx_close(c);
}
END_TEST

/* Numbers that training changes, by the official count. */
START_TEST(shipped_configurations_have_the_official_size)
{
    static const struct {
        const char *name;
        int64_t parameters;
    } shipped[] = {{"nuscenes_lion_mamba", 16124127},
                   {"waymo_lion_mamba_64", 8608428},
                   {"once_lion_mamba", 15123917},
                   {"argoverse2_lion_mamba", 15752522}};
    sv_ctx *c = test_context(2);
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = shipped[_i].name};
    assert_ok(c, sv_model_init(c, &def, 1, w));
    int64_t parameters = 0;
    for (int i = 0; i < sv_weights_count(w); i++) {
        const sv_tensor t = sv_weights_tensor(w, i);
        if (!strstr(sv_weights_name(w, i), "running_")) parameters += (int64_t)t.dim[0] * sv_row_elements(t);
    }
    ck_assert_int_eq(parameters, shipped[_i].parameters);
    sv_weights_free(w);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("center heads");
    TCase *tests = tcase_create("center heads");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, the_decoder_is_that_of_the_paper);
    tcase_add_test(tests, kernels_are_turned_with_the_map);
    tcase_add_test(tests, queries_are_the_best_peaks);
    tcase_add_loop_test(tests, center_boxes_are_the_greedy_choice, 0,
                        (int)(sizeof center_cases / sizeof *center_cases));
    tcase_add_loop_test(tests, models_say_what_their_boxes_carry, 0, SMALL_KINDS);
    tcase_add_loop_test(tests, configurations_are_taken_or_refused_by_name, 0,
                        (int)(sizeof refused / sizeof *refused));
    tcase_add_loop_test(tests, shipped_configurations_have_the_official_size, 0, 4);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
