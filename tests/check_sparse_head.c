/* SPDX-License-Identifier: Apache-2.0
 *
 * What stays sparse to the end (Argoverse 2): the best of sparse cells against a sort, and a small model
 * frame by frame against the definition in double precision: how two z cells become one, the branches of
 * SparseCenterHead, decoding, suppression.
 */
#include "oracle_heads.h"
#include "oracle_voxel.h"
#include "perception/geometry/rotated_iou.h"
#include "support_shown.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the best of sparse cells ------------------------------------------------------------------------- */

typedef struct entry {
    float score;
    int channel, row;
} entry;

/* NaN first, then the greater score, the lower channel, the lower row. */
static int by_rank(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    const bool nx = isnan(x->score), ny = isnan(y->score);
    if (nx != ny) return nx ? -1 : 1;
    if (!nx && x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->channel != y->channel ? x->channel - y->channel : x->row - y->row;
}

static sv_cell_picks new_picks(sv_ctx *c, int rows)
{
    sv_cell_picks p;
    assert_ok(c, sv_frame_alloc(c, &p.row, "row", SV_I32, rows, 1, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &p.channel, "channel", SV_I32, rows, 1, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &p.score, "score", SV_F32, rows, 1, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &p.place, "place", SV_F32, rows, 2, SV_NONE));
    return p;
}

static void check_top_sparse(sv_ctx *c, test_rng *rng, const int *sizes, int batch,
                             const sv_channel_groups *groups, int most)
{
    enum { SPARE = 3 };
    int32_t offsets[8] = {0};
    for (int b = 0; b < batch; b++) offsets[b + 1] = offsets[b] + sizes[b];
    const int rows = offsets[batch], channels = groups->end[groups->count - 1], parts = batch * groups->count;
    float *x = malloc(sizeof *x * (size_t)((rows + SPARE) * channels + 1));
    int32_t *coords = malloc(sizeof *coords * 4 * (size_t)(rows + SPARE));
    for (int i = 0; i < (rows + SPARE) * channels; i++) {
        x[i] = (float)(rng_u64(rng) % 50) / 50.0f; /* ties */
        if (rng_u64(rng) % 97 == 0) x[i] = NAN;
    }
    for (int i = 0; i < rows + SPARE; i++) {
        const int32_t cell[4] = {0, 0, (int32_t)(rng_u64(rng) % 1000), (int32_t)(rng_u64(rng) % 1000)};
        memcpy(coords + 4 * i, cell, sizeof cell);
    }
    sv_tensor at = sv_view(coords, SV_I32, rows + SPARE, 4);
    at.offsets = offsets;
    at.batch = (int16_t)batch;
    const sv_cell_picks got = new_picks(c, parts * most);
    assert_ok(c, sv_top_sparse(c, &got, sv_view(x, SV_F32, rows + SPARE, channels), at, groups));
    entry *all = malloc(sizeof *all * (size_t)(rows * channels + 1));
    for (int part = 0; part < parts; part++) {
        const int b = part / groups->count, g = part % groups->count, first = g ? groups->end[g - 1] : 0;
        int count = 0;
        for (int row = offsets[b]; row < offsets[b + 1]; row++)
            for (int ch = first; ch < groups->end[g]; ch++)
                all[count++] = (entry){x[row * channels + ch], ch, row};
        qsort(all, (size_t)count, sizeof *all, by_rank);
        for (int k = 0; k < most; k++) {
            const int p = part * most + k;
            if (k >= count) {
                ck_assert_int_eq(sv_i32(got.row)[p], -1);
                ck_assert(sv_f32(got.score)[p] == -INFINITY);
                continue;
            }
            ck_assert_int_eq(sv_i32(got.row)[p], all[k].row);
            ck_assert_int_eq(sv_i32(got.channel)[p], all[k].channel);
            ck_assert_mem_eq(&sv_f32(got.score)[p], &x[all[k].row * channels + all[k].channel], 4);
            ck_assert(sv_f32(got.place)[2 * p] == (float)coords[4 * all[k].row + 3] &&
                      sv_f32(got.place)[2 * p + 1] == (float)coords[4 * all[k].row + 2]);
        }
    }
    free(all);
    free(x);
    free(coords);
    assert_ok(c, sv_arena_reset(c, &c->frame));
    assert_ok(c, sv_arena_reset(c, &c->scratch));
}

START_TEST(best_sparse_cells_come_in_order)
{
    test_rng rng = {21};
    for (int threads = 1; threads <= 3; threads += 2) {
        sv_ctx *c = test_context(threads);
        for (int round = 0; round < 40; round++) {
            const int batch = 1 + (int)(rng_u64(&rng) % 4);
            int sizes[4];
            for (int b = 0; b < batch; b++) sizes[b] = rng_u64(&rng) % 4 ? (int)(rng_u64(&rng) % 300) : 0;
            sv_channel_groups groups = {.count = 1 + (int)(rng_u64(&rng) % 5)};
            for (int g = 0; g < groups.count; g++)
                groups.end[g] = (g ? groups.end[g - 1] : 0) + 1 + (int)(rng_u64(&rng) % 4);
            check_top_sparse(c, &rng, sizes, batch, &groups, (int)(rng_u64(&rng) % 90));
        }
        /* more rows than one task has */
        check_top_sparse(c, &rng, (const int[]){40000, 5, 33000}, 3, &(sv_channel_groups){2, {1, 3}}, 120);
        sv_channel_groups empty = {.count = 2, .end = {2, 2}};
        const sv_cell_picks picks = new_picks(c, 4);
        int32_t offsets[2] = {0, 1}, cell[4] = {0};
        float x[2] = {0};
        sv_tensor at = sv_view(cell, SV_I32, 1, 4);
        at.offsets = offsets;
        at.batch = 1;
        assert_fails(c, sv_top_sparse(c, &picks, sv_view(x, SV_F32, 1, 2), at, &empty), SV_BAD_SHAPE,
                     "group 1");
        empty = (sv_channel_groups){.count = 3, .end = {1, 2, 3}};
        assert_fails(c, sv_top_sparse(c, &picks, sv_view(x, SV_F32, 1, 2), at, &empty), SV_BAD_SHAPE, "'x'");
        sv_ctx_close(c);
    }
}
END_TEST

/* ---- two z cells become one --------------------------------------------------------------------------- */

enum { D = 16, SIDE = 64, CLASSES = 7, GROUPS = 4, PICKS = 60 };

static void layer_norm(double *x, const float *weight, const float *bias)
{
    double mean = 0, variance = 0;
    for (int i = 0; i < D; i++) mean += x[i] / D;
    for (int i = 0; i < D; i++) variance += (x[i] - mean) * (x[i] - mean) / D;
    for (int i = 0; i < D; i++)
        x[i] = (x[i] - mean) / sqrt(variance + 1e-5) * (double)weight[i] + (double)bias[i];
}

static double *zeros(int rows, int columns)
{
    ck_assert(rows >= 0 && columns >= 0);
    return calloc((size_t)rows * (size_t)columns + 1, sizeof(double));
}

static int32_t *coords_of(const shown *s)
{
    int32_t *coords = malloc(sizeof *coords * 4 * (size_t)s->rows);
    ck_assert_int_eq(s->channels, 4);
    memcpy(coords, s->values, sizeof *coords * 4 * (size_t)s->rows);
    return coords;
}

START_TEST(the_last_merge_leaves_one_z_cell)
{
    shown_frame r = shown_run(SMALL_ARGOVERSE2, NULL, 9);
    const shown *before = shown_tensor(&r, "dow4/coords_bzyx"), *x = shown_tensor(&r, "linear_out/features"),
                *after = shown_tensor(&r, "dow_out/coords_bzyx"), *y = shown_tensor(&r, "dow_out/features"),
                *picks = shown_tensor(&r, "dow_out/topk_indices");
    const int rows = before->rows, copies = (int)(rows * 0.2);
    ck_assert(x->rows == rows && picks->rows == copies && rows > 200);
    /* inputs with their copies, in the order of the definition */
    int32_t *inputs = malloc(sizeof *inputs * 4 * (size_t)(rows + 4 * copies)), *coords = coords_of(before);
    memcpy(inputs, coords, sizeof *inputs * 4 * (size_t)rows);
    static const int dx[4] = {-1, 1, -1, 1}, dy[4] = {1, 1, -1, -1};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < copies; i++) {
            int32_t *to = inputs + 4 * (size_t)(rows + k * copies + i);
            memcpy(to, coords + 4 * (size_t)shown_integer(picks, i), 4 * sizeof *to);
            const int cx = to[3] + dx[k], cy = to[2] + dy[k];
            to[3] = cx < 0 ? 0 : cx >= SIDE ? SIDE - 1 : cx;
            to[2] = cy < 0 ? 0 : cy >= SIDE ? SIDE - 1 : cy;
        }
    const int all = rows + 4 * copies;
    int32_t *merged = malloc(sizeof *merged * 4 * (size_t)all),
            *inverse = malloc(sizeof *inverse * (size_t)all);
    const int count = oracle_merge(merged, inverse, inputs, all, (const int32_t[]){2, SIDE, SIDE},
                                   (const int32_t[]){1, 1, 2});
    ck_assert_int_eq(count, after->rows);
    for (int i = 0; i < 4 * count; i++) ck_assert_int_eq(shown_integer(after, i), merged[i]);
    for (int i = 0; i < count; i++) ck_assert_int_eq(merged[4 * i + 1], 0);

    double *f = zeros(rows, D), *sum = zeros(count, D);
    oracle_subm(f, x->values, coords, rows, shown_weight(&r, "dow_out.sub_conv.0.weight"), D, D);
    double worst = 0;
    for (int i = 0; i < rows; i++) {
        layer_norm(f + i * D, shown_weight(&r, "dow_out.sub_conv.1.weight"),
                   shown_weight(&r, "dow_out.sub_conv.1.bias"));
        for (int k = 0; k < D; k++)
            sum[inverse[i] * D + k] += 0.5 * f[i * D + k] * (1 + erf(f[i * D + k] / sqrt(2)));
    }
    for (int i = 0; i < count; i++) {
        layer_norm(sum + i * D, shown_weight(&r, "dow_out.norm.weight"),
                   shown_weight(&r, "dow_out.norm.bias"));
        for (int k = 0; k < D; k++) worst = fmax(worst, fabs(sum[i * D + k] - (double)y->values[i * D + k]));
    }
    ck_assert_msg(worst < 5e-5, "largest error %g", worst);
    /* and the three layers behind it keep the cells */
    for (int i = 1; i <= 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "linear_bev%d/features", i);
        ck_assert_int_eq(shown_tensor(&r, name)->rows, count);
    }
    free(f), free(sum), free(inputs), free(coords), free(merged), free(inverse);
    shown_free(&r);
}
END_TEST

/* ---- branches ----------------------------------------------------------------------------------------- */

static const int group_end[GROUPS] = {1, 3, 6, 7};
static const struct {
    const char *name;
    int channels;
} codes[] = {{"center", 2}, {"center_z", 1}, {"dim", 3}, {"rot", 2}};
enum { CODES = sizeof codes / sizeof *codes };

/* The cells as a table: row of (y, x), or -1. */
static void make_table(const shown *coords, int32_t table[SIDE][SIDE])
{
    memset(table, 0xff, sizeof(int32_t) * SIDE * SIDE);
    for (int i = 0; i < coords->rows; i++)
        table[shown_integer(coords, 4 * i + 2)][shown_integer(coords, 4 * i + 3)] = i;
}

/* Branch 'name' of group g at one cell, by the definition. */
static void branch(const shown_frame *r, double *out, int g, const char *name, int channels,
                   int32_t table[SIDE][SIDE], int y, int x)
{
    const shown *in = shown_tensor(r, "linear_bev3/features");
    char key[96];
    const float *part[7];
    static const char *const suffix[7] = {"0.0.weight",      "0.1.weight", "0.1.bias", "0.1.running_mean",
                                          "0.1.running_var", "1.weight",   "1.bias"};
    for (int i = 0; i < 7; i++) {
        snprintf(key, sizeof key, "heads_list.%d.%s.%s", g, name, suffix[i]);
        part[i] = shown_weight(r, key);
    }
    double hidden[D];
    for (int o = 0; o < D; o++) {
        hidden[o] = 0;
        for (int ky = 0; ky < 3; ky++)
            for (int kx = 0; kx < 3; kx++) {
                const int cy = y + ky - 1, cx = x + kx - 1;
                if (cy < 0 || cx < 0 || cy >= SIDE || cx >= SIDE || table[cy][cx] < 0) continue;
                for (int i = 0; i < D; i++)
                    hidden[o] += (double)part[0][((o * 3 + ky) * 3 + kx) * D + i] *
                                 (double)in->values[table[cy][cx] * D + i];
            }
        hidden[o] =
            fmax(0, (hidden[o] - (double)part[3][o]) / sqrt((double)part[4][o] + 1e-3) * (double)part[1][o] +
                        (double)part[2][o]);
    }
    for (int o = 0; o < channels; o++) {
        out[o] = (double)part[6][o];
        for (int i = 0; i < D; i++) out[o] += (double)part[5][o * D + i] * hidden[i];
    }
}

START_TEST(branches_are_convolutions_of_occupied_cells)
{
    static int32_t table[SIDE][SIDE];
    shown_frame r = shown_run(SMALL_ARGOVERSE2, NULL, 10);
    const shown *coords = shown_tensor(&r, "dow_out/coords_bzyx"), *heat = shown_tensor(&r, "heatmap"),
                *rows = shown_tensor(&r, "picked_rows"), *scores = shown_tensor(&r, "picked_scores");
    ck_assert(heat->rows == coords->rows && heat->channels == CLASSES && rows->rows == GROUPS * PICKS);
    make_table(coords, table);
    double worst = 0, out[CLASSES];
    for (int i = 0; i < coords->rows; i++)
        for (int g = 0; g < GROUPS; g++) {
            const int first = g ? group_end[g - 1] : 0;
            branch(&r, out, g, "heatmap", group_end[g] - first, table, shown_integer(coords, 4 * i + 2),
                   shown_integer(coords, 4 * i + 3));
            for (int k = first; k < group_end[g]; k++)
                worst = fmax(worst, fabs(out[k - first] - (double)heat->values[i * CLASSES + k]));
        }
    ck_assert_msg(worst < 2e-5, "heat: largest error %g", worst);
    for (int p = 0; p < GROUPS * PICKS; p++) {
        const int row = shown_integer(rows, p), g = p / PICKS;
        ck_assert(row >= 0 && row < coords->rows);
        if (p % PICKS > 0) ck_assert(scores->values[p] <= scores->values[p - 1]);
        for (int which = 0; which < CODES; which++) {
            const shown *got = shown_tensor(&r, codes[which].name);
            branch(&r, out, g, codes[which].name, codes[which].channels, table,
                   shown_integer(coords, 4 * row + 2), shown_integer(coords, 4 * row + 3));
            for (int k = 0; k < codes[which].channels; k++)
                worst = fmax(worst, fabs(out[k] - (double)got->values[p * codes[which].channels + k]));
        }
    }
    ck_assert_msg(worst < 2e-5, "codes: largest error %g", worst);
    shown_free(&r);
}
END_TEST

/* ---- boxes -------------------------------------------------------------------------------------------- */

/* The class of a pick: that of the group with its score. */
static int class_of(const shown_frame *r, int p)
{
    const shown *heat = shown_tensor(r, "heatmap");
    const int row = shown_integer(shown_tensor(r, "picked_rows"), p), g = p / PICKS;
    const double score = (double)shown_tensor(r, "picked_scores")->values[p];
    int best = -1;
    double distance = 1;
    for (int k = g ? group_end[g - 1] : 0; k < group_end[g]; k++) {
        const double d = fabs(1 / (1 + exp(-(double)heat->values[row * CLASSES + k])) - score);
        if (d < distance) distance = d, best = k;
    }
    ck_assert(distance < 1e-6);
    return best;
}

static bool decode_pick(const shown_frame *r, int p, sv_box *out)
{
    const shown *coords = shown_tensor(r, "dow_out/coords_bzyx");
    const oracle_rule rule = {.stride = 1,
                              .cell = {(double)0.2f, (double)0.2f},
                              .origin = {0, (double)-6.4f},
                              .range_min = {-1, -8, -10},
                              .range_max = {14, 8, 10},
                              .min_score = (double)0.1f};
    const int row = shown_integer(shown_tensor(r, "picked_rows"), p);
    oracle_code code = {.place = {shown_integer(coords, 4 * row + 3), shown_integer(coords, 4 * row + 2)},
                        .z = (double)shown_tensor(r, "center_z")->values[p],
                        .heat = (double)shown_tensor(r, "picked_scores")->values[p]};
    for (int a = 0; a < 2; a++) {
        code.center[a] = (double)shown_tensor(r, "center")->values[2 * p + a];
        code.rotation[a] = (double)shown_tensor(r, "rot")->values[2 * p + a];
    }
    for (int a = 0; a < 3; a++) code.size[a] = (double)shown_tensor(r, "dim")->values[3 * p + a];
    double box[9], score, doubt;
    if (!oracle_center_decode(box, &score, &doubt, &code, &rule)) return false;
    *out = (sv_box){.x = (float)box[0],
                    .y = (float)box[1],
                    .z = (float)box[2],
                    .dx = (float)box[3],
                    .dy = (float)box[4],
                    .dz = (float)box[5],
                    .heading = (float)box[6],
                    .score = (float)score,
                    .label = class_of(r, p) + 1};
    return true;
}

static bool overlaps(const sv_box *a, const sv_box *b)
{
    const sv_rectangle p = sv_rectangle_make(a->x, a->y, a->dx, a->dy, a->heading),
                       q = sv_rectangle_make(b->x, b->y, b->dx, b->dy, b->heading);
    return sv_iou_bev(&p, &q, SV_NMS_MARGIN, false) > 0.2f;
}

/* Greedy by hand, group by group: the best 50 are looked at, 25 kept. */
START_TEST(boxes_are_the_greedy_choice_of_each_group)
{
    shown_frame r = shown_run(SMALL_ARGOVERSE2, NULL, 11);
    int next = 0;
    for (int g = 0; g < GROUPS; g++) {
        sv_box kept[25], box;
        int count = 0, looked_at = 0;
        for (int p = g * PICKS; p < (g + 1) * PICKS && looked_at < 50 && count < 25; p++) {
            if (!decode_pick(&r, p, &box)) continue;
            looked_at++;
            bool good = true;
            for (int k = 0; k < count; k++) good = good && !overlaps(&kept[k], &box);
            if (good) kept[count++] = box;
        }
        ck_assert_int_gt(count, 2);
        ck_assert_int_le(next + count, r.count);
        for (int k = 0; k < count; k++, next++) {
            const sv_box *b = &r.boxes[next], *w = &kept[k];
            const float got[8] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading, b->score},
                        want[8] = {w->x, w->y, w->z, w->dx, w->dy, w->dz, w->heading, w->score};
            for (int i = 0; i < 8; i++)
                ck_assert_msg(fabsf(got[i] - want[i]) < 2e-5f, "box %d, field %d: %g, not %g", next, i,
                              (double)got[i], (double)want[i]);
            ck_assert_int_eq(b->label, w->label);
        }
    }
    ck_assert_int_eq(next, r.count);
    shown_free(&r);
}
END_TEST

/* ---- configurations ----------------------------------------------------------------------------------- */

#define HEAD_KEYS(text) "MODEL: {DENSE_HEAD: {" text "}}\n"
#define POST_KEYS(text) "MODEL: {DENSE_HEAD: {POST_PROCESSING: {" text "}}}\n"

static const struct {
    const char *more;
    sv_status status;
    const char *sentence;
} refused[] = {
    {HEAD_KEYS("HEAD_CONV_TYPE: spconv"), SV_UNSUPPORTED, "HEAD_CONV_TYPE: spconv"},
    {HEAD_KEYS("USE_BIAS_BEFORE_NORM: true"), SV_UNSUPPORTED, "USE_BIAS_BEFORE_NORM"},
    {HEAD_KEYS("NUM_HM_CONV: 3"), SV_UNSUPPORTED, "'heatmap' of 3 convolutions"},
    {HEAD_KEYS("INPUT_FEATURES: 32"), SV_BAD_INPUT, "but the backbone gives 16"},
    {HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {iou: {out_channels: 1, num_conv: 2}}}"), SV_UNSUPPORTED,
     "5 branches"},
    {HEAD_KEYS("SEPARATE_HEAD_CFG: {HEAD_DICT: {dim: {out_channels: 2}}}"), SV_UNSUPPORTED, "2 instead of 3"},
    {HEAD_KEYS("CLASS_NAMES_EACH_HEAD: [[Regular_vehicle]]"), SV_UNSUPPORTED, "6 of 7 classes"},
    {HEAD_KEYS("CLASS_NAMES_EACH_HEAD: [[Pedestrian], [Regular_vehicle]]"), SV_UNSUPPORTED,
     "'Pedestrian' stands where CLASS_NAMES has 'Regular_vehicle'"},
    {POST_KEYS("NMS_CONFIG: {NMS_TYPE: class_specific_nms}"), SV_UNSUPPORTED, "class_specific_nms"},
    {POST_KEYS("NMS_CONFIG: {NMS_TYPE: multi_class_nms, NMS_THRESH: [1, 1, 1, 1, 1, 1, 1], NMS_PRE_MAXSIZE: "
               "[9, 9, 9, 9, 9, 9, 9], NMS_POST_MAXSIZE: [9, 9, 9, 9, 9, 9, 9]}"),
     SV_UNSUPPORTED, "supports nms_gpu"},
    {"DATA_CONFIG: {POINT_CLOUD_RANGE: [0, -6.4, -3, 12.8, 6.4, 5]}\n", SV_UNSUPPORTED,
     "4 z cells are left before dow_out"},
    {"MODEL: {BACKBONE_3D: {NAME: LION3DBackboneOneStride}}\n", SV_BAD_INPUT, "MAP_TO_BEV"},
    {"MODEL: {BACKBONE_3D: {NAME: LION3DBackbone}}\n", SV_UNSUPPORTED, "LION3DBackboneOneStride_Sparse are"},
    {"MODEL: {MAP_TO_BEV: {NAME: HeightCompression, NUM_BEV_FEATURES: 32}}\n", SV_BAD_INPUT, "MAP_TO_BEV"},
    {"MODEL: {TEMPORAL: {NAME: GatedMemory}}\n", SV_UNSUPPORTED, "TEMPORAL works on a dense map"},
    {HEAD_KEYS("NAME: CenterHead"), SV_UNSUPPORTED, "CenterHead works on a dense map"},
};

START_TEST(configurations_are_refused_by_name)
{
    sv_ctx *c = test_context(1);
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = small_config_of(SMALL_ARGOVERSE2, refused[_i].more)};
    assert_fails(c, sv_model_init(c, &def, 1, w), refused[_i].status, refused[_i].sentence);
    sv_weights_free(w);
    sv_ctx_close(c);
}
END_TEST

/* There is no map to stop at. */
START_TEST(a_sparse_model_has_no_map)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {3};
    sv_model *model = small_model_of(c, SMALL_ARGOVERSE2, 3);
    sv_frame *frame = small_cloud(&rng, 500);
    sv_detector *d = NULL;
    static sv_box boxes[SHOWN_BOXES];
    int count = 0;
    sv_detector_def def = sv_detector_def_default();
    def.last = SV_STAGE_BEV;
    ck_assert_int_eq(sv_detector_open(&def, model, &d), SV_OK);
    assert_fails(sv_detector_ctx(d), sv_detect(d, &frame, 1, NULL, boxes, &count), SV_UNSUPPORTED,
                 "no bird's-eye-view map");
    sv_detector_close(d);
    sv_frame_release(frame);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sparse head");
    TCase *tests = tcase_create("sparse head");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, best_sparse_cells_come_in_order);
    tcase_add_test(tests, the_last_merge_leaves_one_z_cell);
    tcase_add_test(tests, branches_are_convolutions_of_occupied_cells);
    tcase_add_test(tests, boxes_are_the_greedy_choice_of_each_group);
    tcase_add_loop_test(tests, configurations_are_refused_by_name, 0,
                        (int)(sizeof refused / sizeof *refused));
    tcase_add_test(tests, a_sparse_model_has_no_map);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
