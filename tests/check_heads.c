/* SPDX-License-Identifier: Apache-2.0
 *
 * The primitives behind the convolutions of center-based heads, against oracle_heads.h: peaks, the best
 * cells, windowed attention, decoding; and class-wise suppression. The same bytes for one and three threads
 * and for every place in a batch. Decoding and suppression also on recorded queries of the official nuScenes
 * models.
 */
#include "oracle_heads.h"
#include "perception/core/simd.h"
#include "support.h"
#include "support_h5.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- contexts and tensors ----------------------------------------------------------------------------- */

static sv_ctx *contexts[2]; /* of one and three threads */
static test_rng rng;

static void setup(void)
{
    rng = (test_rng){.state = 42};
    for (int i = 0; i < 2; i++) contexts[i] = test_context(i == 0 ? 1 : 3);
}

static void teardown(void)
{
    for (int i = 0; i < 2; i++) sv_ctx_close(contexts[i]);
}

static void fresh(void)
{
    for (int i = 0; i < 2; i++) {
        assert_ok(contexts[i], sv_arena_reset(contexts[i], &contexts[i]->frame));
        assert_ok(contexts[i], sv_arena_reset(contexts[i], &contexts[i]->scratch));
    }
}

static int pick(int from, int to)
{
    return from + (int)(rng_u64(&rng) % (uint64_t)(to - from + 1));
}

static const float SENTINEL = -12345.5f;

/* [rows, columns] with 'gap' numbers between the rows, all of them the sentinel. */
static sv_tensor blank(sv_ctx *c, sv_dtype dtype, int rows, int columns, int gap)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "matrix", dtype, rows, columns + gap, SV_NONE));
    for (int64_t i = 0; i < (int64_t)rows * (columns + gap); i++)
        memcpy((char *)t.data + 4 * i, &SENTINEL, 4);
    return sv_columns(t, gap / 2, columns);
}

static float *at(sv_tensor t, int64_t row)
{
    return (float *)t.data + row * t.pitch;
}

static sv_tensor copy_of(const float *dense, int rows, int columns, int gap)
{
    sv_tensor t = blank(contexts[0], SV_F32, rows, columns, gap);
    for (int64_t i = 0; i < rows; i++) memcpy(at(t, i), dense + i * columns, sizeof(float) * (size_t)columns);
    return t;
}

static float *numbers(size_t count, double from, double to)
{
    float *x = malloc((count + 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < count; i++) x[i] = (float)rng_uniform(&rng, from, to);
    return x;
}

/* Few different numbers, so that many are equal. */
static float *coarse(size_t count, int steps)
{
    float *x = numbers(count, 0, 1);
    for (size_t i = 0; i < count; i++) x[i] = floorf(x[i] * (float)steps) / (float)steps;
    return x;
}

static void assert_same_rows(sv_tensor a, sv_tensor b)
{
    for (int64_t i = 0; i < a.dim[0]; i++) ck_assert_mem_eq(at(a, i), at(b, i), 4 * (size_t)a.dim[1]);
}

/* ---- peaks -------------------------------------------------------------------------------------------- */

START_TEST(peaks_are_the_greatest_of_their_windows)
{
    for (int round = 0; round < 60; round++) {
        const int batch = pick(1, 3), height = pick(1, 20), width = pick(1, 20), radius = pick(0, 2);
        const int channels = round % 5 == 0 ? 32 : pick(1, 12), rows = batch * height * width;
        const uint32_t alone =
            (uint32_t)rng_u64(&rng) & (channels == 32 ? UINT32_MAX : (1u << channels) - 1u);
        float *x = coarse((size_t)rows * (size_t)channels, pick(1, 30)),
              *want = malloc(sizeof *x * (size_t)rows * (size_t)channels);
        oracle_local_peaks(want, x, batch, height, width, channels, radius, alone);
        const sv_peak_rule rule = {.height = height, .width = width, .radius = radius, .alone = alone};
        const sv_tensor in = copy_of(x, rows, channels, pick(0, 3));
        for (int i = 0; i < 2; i++) {
            const sv_tensor y = blank(contexts[i], SV_F32, rows, channels, pick(0, 3));
            assert_ok(contexts[i], sv_local_peaks(contexts[i], y, in, batch, &rule));
            for (int64_t r = 0; r < rows; r++)
                ck_assert_mem_eq(at(y, r), want + r * channels, sizeof(float) * (size_t)channels);
        }
        free(x);
        free(want);
        fresh();
    }
}
END_TEST

/* ---- the best cells ----------------------------------------------------------------------------------- */

static sv_cell_picks blank_picks(sv_ctx *c, int rows)
{
    return (sv_cell_picks){.row = blank(c, SV_I32, rows, 1, 1),
                           .channel = blank(c, SV_I32, rows, 1, 0),
                           .score = blank(c, SV_F32, rows, 1, 2),
                           .place = blank(c, SV_F32, rows, 2, 1)};
}

static void check_top_cells(int batch, int height, int width, int channels, int most, const float *x)
{
    const int cells = height * width;
    const sv_cell_order order = {
        .height = height, .width = width, .by_column = pick(0, 1), .middle = pick(0, 1) ? 0.5f : 0.0f};
    int32_t *want = malloc(sizeof *want * ((size_t)cells * (size_t)channels + 1));
    const sv_tensor in = copy_of(x, batch * cells, channels, pick(0, 2));
    sv_cell_picks got[2];
    for (int i = 0; i < 2; i++) {
        got[i] = blank_picks(contexts[i], batch * most);
        assert_ok(contexts[i], sv_top_cells(contexts[i], &got[i], in, batch, &order));
    }
    assert_same_rows(got[0].row, got[1].row);
    assert_same_rows(got[0].channel, got[1].channel);
    assert_same_rows(got[0].score, got[1].score);
    assert_same_rows(got[0].place, got[1].place);
    for (int b = 0; b < batch; b++) {
        oracle_order_cells(want, x + (int64_t)b * cells * channels, height, width, channels, order.by_column);
        for (int i = 0; i < most; i++) {
            const int64_t p = (int64_t)b * most + i;
            const int cell = want[i] % cells, cx = order.by_column ? cell / height : cell % width,
                      cy = order.by_column ? cell % height : cell / width;
            ck_assert_int_eq(sv_i32(got[0].channel)[p * got[0].channel.pitch], want[i] / cells);
            ck_assert_int_eq(sv_i32(got[0].row)[p * got[0].row.pitch], b * cells + cy * width + cx);
            ck_assert_mem_eq(at(got[0].score, p),
                             x + (((int64_t)b * cells + cy * width + cx) * channels + want[i] / cells), 4);
            ck_assert(at(got[0].place, p)[0] == (float)cx + order.middle &&
                      at(got[0].place, p)[1] == (float)cy + order.middle);
        }
    }
    free(want);
    fresh();
}

START_TEST(best_cells_come_in_order_ties_by_number)
{
    for (int round = 0; round < 60; round++) {
        const int batch = pick(1, 3), height = pick(1, 30), width = pick(1, 30), channels = pick(1, 12);
        const int places = height * width * channels,
                  most = round % 6 == 0 ? places : pick(0, places < 70 ? places : 70);
        float *x = coarse((size_t)batch * (size_t)places, pick(1, 200));
        for (int i = 0; round % 3 == 0 && i < batch * places;
             i++) /* what sigmoids never give, but maps may hold */
            if (pick(0, 9) == 0)
                x[i] = (const float[]){NAN, -NAN, -0.0f, INFINITY, -INFINITY, -1.5f}[pick(0, 5)];
        check_top_cells(batch, height, width, channels, most, x);
        free(x);
    }
    /* more cells than one task has; a constant map */
    const int height = 190, width = 201, channels = 3;
    float *x = coarse((size_t)2 * 190 * 201 * 3, 1000);
    check_top_cells(2, height, width, channels, 500, x);
    for (int i = 0; i < 190 * 201 * 3; i++) x[i] = 0.25f;
    check_top_cells(1, height, width, channels, 500, x);
    free(x);
}
END_TEST

/* ---- attention ---------------------------------------------------------------------------------------- */

static const int widths[] = {1, 5, 16, 32, 40, 64};
static const sv_isa isas[] = {SV_ISA_SCALAR, SV_ISA_AVX2, SV_ISA_AVX512};
enum { ISAS = sizeof isas / sizeof *isas };

/* Tests run in processes of their own, so that each can have its instruction set. */
static void use_isa(int which)
{
    ck_assert_int_eq(setenv("SAVANNA_ISA", sv_isa_name(isas[which]), 1), 0);
}

START_TEST(attention_is_that_of_the_wrapped_window)
{
    use_isa(_i);
    for (int round = 0; round < 50; round++) {
        const int heads = pick(1, 9), d = widths[pick(0, 5)], batch = pick(1, 3), channels = heads * d;
        const int width = round % 4 == 0 ? pick(1, 9) : pick(10, 50),
                  radius = round % 4 == 1 ? 20 : pick(0, 12);
        const int cells = width * width, queries = pick(0, 12);
        const double scale = rng_uniform(&rng, 0.05, 1), spread = round % 7 == 0 ? 30 : 1;
        float *q = numbers((size_t)queries * (size_t)channels, -spread, spread),
              *kv = numbers((size_t)batch * (size_t)cells * (size_t)(2 * channels), -1, 1);
        float *k = malloc(sizeof *k * (size_t)batch * (size_t)cells * (size_t)channels + 1),
              *v = malloc(sizeof *v * (size_t)batch * (size_t)cells * (size_t)channels + 1);
        for (int64_t i = 0; i < (int64_t)batch * cells; i++) {
            memcpy(k + i * channels, kv + 2 * i * channels, sizeof *k * (size_t)channels);
            memcpy(v + i * channels, kv + (2 * i + 1) * channels, sizeof *v * (size_t)channels);
        }
        const sv_tensor both = copy_of(kv, batch * cells, 2 * channels, pick(0, 1)),
                        from = copy_of(q, queries, channels, 3);
        const sv_tensor cell = blank(contexts[0], SV_I32, queries, 1, 1);
        for (int i = 0; i < queries; i++) {
            const int corner[] = {0, width - 1, cells - width,
                                  cells - 1}; /* the borders are where windows wrap */
            sv_i32(cell)[(int64_t)i * cell.pitch] =
                pick(0, batch - 1) * cells + (i < 4 ? corner[i] : pick(0, cells - 1));
        }
        const sv_cell_window window = {
            .heads = heads, .radius = radius, .width = width, .scale = (float)scale};
        sv_tensor y[2];
        for (int i = 0; i < 2; i++) {
            y[i] = blank(contexts[i], SV_F32, queries, channels, 2);
            assert_ok(contexts[i], sv_window_attention(contexts[i], y[i], from, sv_columns(both, 0, channels),
                                                       sv_columns(both, channels, channels), cell, &window));
        }
        assert_same_rows(y[0], y[1]);
        double *wide = malloc(sizeof *wide * (size_t)channels),
               *want = malloc(sizeof *want * (size_t)channels);
        for (int64_t i = 0; i < queries; i++) {
            const int n = sv_i32(cell)[i * cell.pitch], b = n / cells;
            int keys = 0;
            for (int j = 0; j < channels; j++) wide[j] = (double)q[i * channels + j];
            oracle_window_attention(want, wide, k + (int64_t)b * cells * channels,
                                    v + (int64_t)b * cells * channels, heads, d, width, radius, scale,
                                    n % cells % width, n % cells / width, &keys);
            ck_assert_int_gt(keys, 0);
            for (int j = 0; j < channels; j++) {
                const double error = fabs((double)at(y[0], i)[j] - want[j]);
                if (!(error <= 4e-6 * spread))
                    ck_abort_msg("query %d, channel %d: %g instead of %g", (int)i, j, (double)at(y[0], i)[j],
                                 want[j]);
            }
        }
        free(wide);
        free(want);
        free(q);
        free(kv);
        free(k);
        free(v);
        fresh();
    }
}
END_TEST

/* One key gets all the weight, and cells outside the window are not read. */
START_TEST(attention_reads_its_window_only)
{
    use_isa(_i);
    enum { WIDTH = 20, CHANNELS = 16, RADIUS = 2 };
    sv_ctx *c = contexts[0];
    const sv_tensor k = blank(c, SV_F32, WIDTH * WIDTH, CHANNELS, 0),
                    v = blank(c, SV_F32, WIDTH * WIDTH, CHANNELS, 0), q = blank(c, SV_F32, 1, CHANNELS, 0),
                    y = blank(c, SV_F32, 1, CHANNELS, 0), cell = blank(c, SV_I32, 1, 1, 0);
    const int x0 = 5,
              y0 = WIDTH - 1; /* rows y0 + 1 and y0 + 2 go on in rows 0 and 1, one cell to the right */
    sv_i32(cell)[0] = y0 * WIDTH + x0;
    for (int i = 0; i < CHANNELS; i++) sv_f32(q)[i] = 1;
    for (int64_t n = 0; n < WIDTH * WIDTH; n++) {
        const int nx = (int)(n % WIDTH), ny = (int)(n / WIDTH);
        const bool here = ny >= y0 - RADIUS && nx >= x0 - RADIUS && nx <= x0 + RADIUS;
        const bool beyond = ny < RADIUS && nx >= x0 - RADIUS + 1 && nx <= x0 + RADIUS + 1;
        const bool chosen = ny == 1 && nx == x0 + 3;
        for (int i = 0; i < CHANNELS; i++) {
            at(k, n)[i] = here || beyond ? (chosen ? 9.0f : -9.0f) : NAN;
            at(v, n)[i] = here || beyond ? (float)n + (float)i / 16 : NAN;
        }
    }
    const sv_cell_window window = {.heads = 1, .radius = RADIUS, .width = WIDTH, .scale = 1};
    assert_ok(c, sv_window_attention(c, y, q, k, v, cell, &window));
    for (int i = 0; i < CHANNELS; i++) ck_assert(sv_f32(y)[i] == (float)(WIDTH + x0 + 3) + (float)i / 16);
}
END_TEST

/* ---- decoding ----------------------------------------------------------------------------------------- */

static sv_candidates blank_candidates(sv_ctx *c, int rows, int batch)
{
    sv_candidates out;
    void *memory = NULL;
    assert_ok(c, sv_arena_alloc(c, &c->frame, "offsets", sizeof(int32_t) * ((size_t)batch + 1), &memory));
    out.offsets = memory;
    out.boxes = blank(c, SV_F32, rows, SV_BOX_FIELDS, 0);
    out.boxes.offsets = out.offsets;
    out.boxes.batch = (int16_t)batch;
    out.scores = blank(c, SV_F32, rows, 1, 0);
    out.labels = blank(c, SV_I32, rows, 1, 0);
    out.index = blank(c, SV_I32, rows, 1, 0);
    return out;
}

static void assert_same_candidates(const sv_candidates *a, const sv_candidates *b, int batch)
{
    ck_assert_mem_eq(a->offsets, b->offsets, sizeof(int32_t) * ((size_t)batch + 1));
    const size_t rows = (size_t)a->offsets[batch];
    ck_assert_mem_eq(a->boxes.data, b->boxes.data, sizeof(float) * SV_BOX_FIELDS * rows);
    ck_assert_mem_eq(a->scores.data, b->scores.data, sizeof(float) * rows);
    ck_assert_mem_eq(a->labels.data, b->labels.data, sizeof(int32_t) * rows);
    ck_assert_mem_eq(a->index.data, b->index.data, sizeof(int32_t) * rows);
}

typedef struct decode_case {
    int batch, most, channels, cells;
    sv_cell_picks picks;
    sv_center_codes codes;
    sv_center_rule rule;
} decode_case;

static decode_case random_decode(int round)
{
    decode_case k = {.batch = pick(1, 3), .most = pick(0, 40), .channels = pick(1, 12), .cells = pick(1, 50)};
    const int rows = k.batch * k.most;
    k.codes.gathered = pick(0, 1);
    const int code_rows = k.codes.gathered ? rows : k.batch * k.cells;
    sv_tensor *tensors[] = {&k.codes.center,   &k.codes.z,       &k.codes.size,      &k.codes.rotation,
                            &k.codes.velocity, &k.codes.overlap, &k.codes.confidence};
    const int columns[] = {2, 1, 3, 2, 2, 1, k.channels};
    const bool wanted[] = {true, true, true, true, pick(0, 1), pick(0, 1), pick(0, 1)};
    for (int i = 0; i < 7; i++) {
        if (!wanted[i]) continue;
        float *x = numbers((size_t)code_rows * (size_t)columns[i], -1.5, 1.5);
        *tensors[i] = copy_of(x, code_rows, columns[i], pick(0, 2));
        free(x);
    }
    k.picks = blank_picks(contexts[0], rows);
    for (int64_t i = 0; i < rows; i++) {
        sv_i32(k.picks.row)[i * k.picks.row.pitch] = (int)(i / k.most) * k.cells + pick(0, k.cells - 1);
        sv_i32(k.picks.channel)[i * k.picks.channel.pitch] = pick(0, k.channels - 1);
        *at(k.picks.score, i) = (float)pick(0, 20) / 20;
        at(k.picks.place, i)[0] = (float)pick(0, 99);
        at(k.picks.place, i)[1] = (float)pick(0, 99) + 0.5f;
    }
    k.rule = (sv_center_rule){.channels = k.channels,
                              .stride = (float)pick(1, 4),
                              .cell = {0.3f, 0.25f},
                              .origin = {-20.0f, -15.5f},
                              .range_min = {-15, -12, -1.2f},
                              .range_max = {40, 35, 1.1f},
                              .min_score = round % 4 == 0 ? 2.0f : 0.101f,
                              .sine_first = pick(0, 1),
                              .top_face = pick(0, 1),
                              .rescore = wanted[5] && pick(0, 1)};
    for (int i = 0; i < k.channels; i++) k.rule.rectifier[i] = (float)rng_uniform(&rng, 0, 1);
    return k;
}

/* One pick in double precision. */
static bool decode_pick(const decode_case *k, int64_t i, double *box, double *score, double *doubt)
{
    const int64_t row = k->codes.gathered ? i : sv_i32(k->picks.row)[i * k->picks.row.pitch];
    const int channel = sv_i32(k->picks.channel)[i * k->picks.channel.pitch];
    oracle_code code = {.z = (double)*at(k->codes.z, row),
                        .heat = (double)*at(k->picks.score, i),
                        .has_overlap = !sv_is_none(k->codes.overlap),
                        .has_confidence = !sv_is_none(k->codes.confidence)};
    oracle_rule rule = {.stride = (double)k->rule.stride,
                        .min_score = (double)k->rule.min_score,
                        .rectifier = (double)k->rule.rectifier[channel],
                        .sine_first = k->rule.sine_first,
                        .top_face = k->rule.top_face,
                        .rescore = k->rule.rescore};
    for (int a = 0; a < 3; a++) {
        code.size[a] = (double)at(k->codes.size, row)[a];
        rule.range_min[a] = (double)k->rule.range_min[a];
        rule.range_max[a] = (double)k->rule.range_max[a];
    }
    for (int a = 0; a < 2; a++) {
        code.center[a] = (double)at(k->codes.center, row)[a];
        code.place[a] = (double)at(k->picks.place, i)[a];
        code.rotation[a] = (double)at(k->codes.rotation, row)[a];
        if (!sv_is_none(k->codes.velocity)) code.velocity[a] = (double)at(k->codes.velocity, row)[a];
        rule.cell[a] = (double)k->rule.cell[a];
        rule.origin[a] = (double)k->rule.origin[a];
    }
    if (code.has_overlap) code.overlap = (double)*at(k->codes.overlap, row);
    if (code.has_confidence) code.confidence = (double)at(k->codes.confidence, row)[channel];
    return oracle_center_decode(box, score, doubt, &code, &rule);
}

START_TEST(decoded_boxes_are_the_kept_ones_in_descending_score)
{
    int kept = 0;
    for (int round = 0; round < 80; round++) {
        const decode_case k = random_decode(round);
        sv_candidates got[2];
        for (int i = 0; i < 2; i++) {
            got[i] = blank_candidates(contexts[i], k.batch * k.most, k.batch);
            assert_ok(contexts[i],
                      sv_center_decode(contexts[i], &got[i], &k.picks, &k.codes, k.batch, &k.rule));
        }
        assert_same_candidates(&got[0], &got[1], k.batch);
        ck_assert_int_eq(got[0].offsets[0], 0);
        for (int b = 0; b < k.batch; b++) {
            const int first = got[0].offsets[b], last = got[0].offsets[b + 1];
            bool seen[64] = {false};
            float before = INFINITY;
            int before_index = -1;
            for (int r = first; r < last; r++) {
                const int index = sv_i32(got[0].index)[r];
                const float score = sv_f32(got[0].scores)[r];
                ck_assert(index >= 0 && index < k.most && !seen[index]);
                ck_assert(score < before || (score == before && index > before_index));
                seen[index] = true;
                before = score;
                before_index = index;
                double box[SV_BOX_FIELDS], want = 0, doubt = 0;
                decode_pick(&k, (int64_t)b * k.most + index, box, &want, &doubt);
                ck_assert_int_eq(
                    sv_i32(got[0].labels)[r],
                    sv_i32(k.picks.channel)[((int64_t)b * k.most + index) * k.picks.channel.pitch] + 1);
                ck_assert(fabs((double)score - want) < 2e-6);
                for (int i = 0; i < SV_BOX_FIELDS; i++)
                    if (!(fabs((double)at(got[0].boxes, r)[i] - box[i]) < 1e-5))
                        ck_abort_msg("field %d is %g instead of %g", i, (double)at(got[0].boxes, r)[i],
                                     box[i]);
            }
            for (int index = 0; index < k.most; index++) {
                double box[SV_BOX_FIELDS], want = 0, doubt = 0;
                const bool keep = decode_pick(&k, (int64_t)b * k.most + index, box, &want, &doubt);
                if (doubt > 1e-5) ck_assert_int_eq(seen[index], keep);
                kept += keep;
            }
        }
        fresh();
    }
    ck_assert_int_gt(kept, 300);
}
END_TEST

/* ---- suppression -------------------------------------------------------------------------------------- */

/* Upright rectangles, so that overlap is plain. */
static double upright_iou(const float *a, const float *b)
{
    const double w = fmin((double)a[0] + (double)a[3] / 2, (double)b[0] + (double)b[3] / 2) -
                     fmax((double)a[0] - (double)a[3] / 2, (double)b[0] - (double)b[3] / 2),
                 h = fmin((double)a[1] + (double)a[4] / 2, (double)b[1] + (double)b[4] / 2) -
                     fmax((double)a[1] - (double)a[4] / 2, (double)b[1] - (double)b[4] / 2);
    const double both = w > 0 && h > 0 ? w * h : 0;
    return both / ((double)a[3] * (double)a[4] + (double)b[3] * (double)b[4] - both);
}

START_TEST(classes_suppress_by_their_own_rules)
{
    enum { MOST = 40, CLASSES = 4 };
    int dropped = 0;
    for (int round = 0; round < 60; round++) {
        const int batch = pick(1, 3);
        sv_nms_rule rule = {.classes = CLASSES, .exact = true, .by_index = pick(0, 1)};
        for (int k = 0; k < CLASSES; k++) {
            rule.threshold[k] = k == 1 ? INFINITY : (float)rng_uniform(&rng, 0.05, 0.6);
            rule.pre_max[k] = k == 1 ? INT_MAX : pick(1, 20);
            rule.post_max[k] = k == 1 ? INT_MAX : pick(1, 12);
        }
        const sv_candidates in = blank_candidates(contexts[0], batch * MOST, batch);
        in.offsets[0] = 0;
        for (int b = 0; b < batch; b++) in.offsets[b + 1] = in.offsets[b] + pick(0, MOST);
        for (int r = 0; r < in.offsets[batch]; r++) {
            float *box = at(in.boxes, r);
            for (int i = 0; i < SV_BOX_FIELDS; i++) box[i] = (float)rng_uniform(&rng, i < 3 ? -4 : 1, 4);
            box[6] = 0;
            sv_f32(in.scores)[r] = 1.0f / (float)(r + 2);
            sv_i32(in.labels)[r] = pick(1, CLASSES);
        }
        for (int b = 0; b < batch; b++) { /* numbers in any order */
            const int first = in.offsets[b], count = in.offsets[b + 1] - first;
            for (int i = 0; i < count; i++) {
                const int j = pick(0, i);
                sv_i32(in.index)[first + i] = sv_i32(in.index)[first + j];
                sv_i32(in.index)[first + j] = 3 * i;
            }
        }
        sv_candidates got[2];
        for (int i = 0; i < 2; i++) {
            got[i] = blank_candidates(contexts[i], batch * MOST, batch);
            assert_ok(contexts[i], sv_nms(contexts[i], &got[i], &in, &rule));
        }
        assert_same_candidates(&got[0], &got[1], batch);

        int row = 0;
        for (int b = 0; b < batch; b++) {
            int kept[MOST], count = 0;
            for (int label = 1; label <= CLASSES; label++) {
                int looked = 0, own = count;
                for (int r = in.offsets[b]; r < in.offsets[b + 1]; r++) {
                    if (sv_i32(in.labels)[r] != label) continue;
                    bool keep = looked++ < rule.pre_max[label - 1] && count - own < rule.post_max[label - 1];
                    for (int j = own; j < count && keep; j++)
                        keep = !(upright_iou(at(in.boxes, r), at(in.boxes, kept[j])) >
                                 (double)rule.threshold[label - 1]);
                    if (keep)
                        kept[count++] = r;
                    else
                        dropped++;
                }
            }
            for (int i = 1; i < count && rule.by_index; i++)
                for (int j = i; j > 0 && sv_i32(in.index)[kept[j]] < sv_i32(in.index)[kept[j - 1]]; j--) {
                    const int swap = kept[j];
                    kept[j] = kept[j - 1];
                    kept[j - 1] = swap;
                }
            ck_assert_int_eq(got[0].offsets[b + 1] - got[0].offsets[b], count);
            for (int i = 0; i < count; i++, row++) {
                ck_assert_mem_eq(at(got[0].boxes, row), at(in.boxes, kept[i]), sizeof(float) * SV_BOX_FIELDS);
                ck_assert_int_eq(sv_i32(got[0].index)[row], sv_i32(in.index)[kept[i]]);
                ck_assert_int_eq(sv_i32(got[0].labels)[row], sv_i32(in.labels)[kept[i]]);
                ck_assert(sv_f32(got[0].scores)[row] == sv_f32(in.scores)[kept[i]]);
            }
        }
        fresh();
    }
    ck_assert_int_gt(dropped, 100);
}
END_TEST

/* ---- recorded queries --------------------------------------------------------------------------------- */

/* [channels, queries] of the file as [queries, channels]. */
static sv_tensor recorded(h5_file *file, const char *name, int channels)
{
    h5_array a = h5_floats(file, name);
    ck_assert_uint_eq(a.count % (size_t)channels, 0);
    const int queries = (int)(a.count / (size_t)channels);
    const sv_tensor t = blank(contexts[0], SV_F32, queries, channels, 0);
    for (int i = 0; i < queries; i++)
        for (int ch = 0; ch < channels; ch++) at(t, i)[ch] = a.f[ch * queries + i];
    h5_free(&a);
    return t;
}

/* From the official branches of 200 queries to the official boxes, in their order. */
START_TEST(recorded_queries_give_the_recorded_boxes)
{
    static const char *const models[] = {"nuscenes_mamba_small", "nuscenes_retnet_small"};
    const char *folder = reference_folder();
    if (!folder) return;
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/lion/models/%s.h5", folder, models[_i]);
    h5_file *file = h5_open(path, true);
    enum { CLASSES = 10, QUERIES = 200 };
    sv_ctx *c = contexts[0];
    const sv_center_codes codes = {.gathered = true,
                                   .center = recorded(file, "head/center", 2),
                                   .z = recorded(file, "head/height", 1),
                                   .size = recorded(file, "head/dim", 3),
                                   .rotation = recorded(file, "head/rot", 2),
                                   .velocity = recorded(file, "head/vel", 2),
                                   .overlap = recorded(file, "head/iou", 1),
                                   .confidence = recorded(file, "head/heatmap", CLASSES)};
    const sv_tensor heat = recorded(file, "head/query_heatmap_score", CLASSES);
    h5_array labels = h5_ints(file, "head/query_labels");
    sv_cell_picks picks = {.row = blank(c, SV_I32, QUERIES, 1, 0),
                           .channel = blank(c, SV_I32, QUERIES, 1, 0),
                           .score = blank(c, SV_F32, QUERIES, 1, 0),
                           .place = blank(c, SV_F32, QUERIES, 2, 0)};
    for (int i = 0; i < QUERIES; i++) {
        sv_i32(picks.channel)[i] = labels.i[i];
        *at(picks.score, i) = at(heat, i)[labels.i[i]];
        at(picks.place, i)[0] = at(picks.place, i)[1] = 0; /* the recorded centre has it already */
    }
    sv_center_rule rule = {.channels = CLASSES,
                           .stride = 2,
                           .cell = {0.3f, 0.3f},
                           .origin = {-54, -54},
                           .range_min = {-61.2f, -61.2f, -10},
                           .range_max = {61.2f, 61.2f, 10},
                           .sine_first = true,
                           .top_face = true,
                           .rescore = true};
    sv_nms_rule nms = {.classes = CLASSES, .by_index = true};
    for (int k = 0; k < CLASSES; k++) {
        rule.rectifier[k] = 0.5f;
        nms.threshold[k] = k >= 8 ? 0.175f : INFINITY;
        nms.pre_max[k] = nms.post_max[k] = INT_MAX;
    }
    const sv_candidates decoded = blank_candidates(c, QUERIES, 1), kept = blank_candidates(c, QUERIES, 1);
    assert_ok(c, sv_center_decode(c, &decoded, &picks, &codes, 1, &rule));
    assert_ok(c, sv_nms(c, &kept, &decoded, &nms));

    h5_array boxes = h5_floats(file, "final/boxes"), scores = h5_floats(file, "final/scores"),
             final_labels = h5_ints(file, "final/labels");
    ck_assert_uint_eq((size_t)kept.offsets[1], scores.count);
    for (int r = 0; r < kept.offsets[1]; r++) ck_assert_int_eq(sv_i32(kept.labels)[r], final_labels.i[r]);
    assert_close("boxes", sv_f32(kept.boxes), boxes.f, boxes.count, 2e-5, 1e-6);
    assert_close("scores", sv_f32(kept.scores), scores.f, scores.count, 1e-6, 0);
    h5_free(&boxes);
    h5_free(&scores);
    h5_free(&final_labels);
    h5_free(&labels);
    h5_close(file);
}
END_TEST

/* ---- refusals ----------------------------------------------------------------------------------------- */

START_TEST(what_does_not_fit_is_refused)
{
    sv_ctx *c = contexts[0];
    const sv_tensor map = blank(c, SV_F32, 2 * 6 * 5, 3, 0), y = blank(c, SV_F32, 2 * 6 * 5, 3, 0),
                    wide = blank(c, SV_F32, 30, 40, 0);
    sv_peak_rule peaks = {.height = 6, .width = 5, .radius = 1};
    assert_fails(c, sv_local_peaks(c, y, map, 1, &peaks), SV_BAD_SHAPE, "expected 1 maps of 6 x 5 cells");
    assert_fails(c, sv_local_peaks(c, y, wide, 1, &peaks), SV_BAD_SHAPE, "1 to 32 channels");
    assert_fails(c, sv_local_peaks(c, wide, map, 2, &peaks), SV_BAD_SHAPE, "'y'");
    peaks.radius = 17;
    assert_fails(c, sv_local_peaks(c, y, map, 2, &peaks), SV_UNSUPPORTED, "radius 17");

    const sv_cell_order order = {.height = 6, .width = 5};
    sv_cell_picks picks = blank_picks(c, 2 * 91);
    assert_fails(c, sv_top_cells(c, &picks, map, 2, &order), SV_BAD_SHAPE, "the best 182 of 60 cells");
    picks = blank_picks(c, 3);
    assert_fails(c, sv_top_cells(c, &picks, map, 2, &order), SV_BAD_SHAPE, "3 picks of 2 samples");

    sv_cell_window window = {.heads = 2, .radius = 1, .width = 5, .scale = 1};
    const sv_tensor k = blank(c, SV_F32, 50, 8, 0), q = blank(c, SV_F32, 4, 8, 0),
                    out = blank(c, SV_F32, 4, 8, 0), cell = blank(c, SV_I32, 4, 1, 0),
                    odd = blank(c, SV_F32, 51, 8, 0), few = blank(c, SV_I32, 3, 1, 0);
    assert_fails(c, sv_window_attention(c, out, q, odd, odd, cell, &window), SV_BAD_SHAPE, "51 rows");
    assert_fails(c, sv_window_attention(c, out, q, k, k, few, &window), SV_BAD_SHAPE, "'cell'");
    window.heads = 3;
    assert_fails(c, sv_window_attention(c, out, q, k, k, cell, &window), SV_BAD_SHAPE,
                 "8 channels in 3 heads");

    decode_case d = random_decode(0);
    while (d.most == 0 || !sv_is_none(d.codes.overlap)) d = random_decode(1);
    const sv_candidates room = blank_candidates(c, d.batch * d.most, d.batch);
    d.rule.rescore = true;
    assert_fails(c, sv_center_decode(c, &room, &d.picks, &d.codes, d.batch, &d.rule), SV_BAD_SHAPE,
                 "overlap");
    d.rule.rescore = false;
    sv_tensor size = d.codes.size;
    d.codes.size = d.codes.rotation;
    assert_fails(c, sv_center_decode(c, &room, &d.picks, &d.codes, d.batch, &d.rule), SV_BAD_SHAPE, "'size'");
    d.codes.size = size;
    const sv_candidates tight = blank_candidates(c, d.batch * d.most - 1, d.batch);
    assert_fails(c, sv_center_decode(c, &tight, &d.picks, &d.codes, d.batch, &d.rule), SV_BAD_SHAPE,
                 "'boxes'");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("heads");
    TCase *tests = tcase_create("heads");
    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, peaks_are_the_greatest_of_their_windows);
    tcase_add_test(tests, best_cells_come_in_order_ties_by_number);
    tcase_add_loop_test(tests, attention_is_that_of_the_wrapped_window, 0, ISAS);
    tcase_add_loop_test(tests, attention_reads_its_window_only, 0, ISAS);
    tcase_add_test(tests, decoded_boxes_are_the_kept_ones_in_descending_score);
    tcase_add_test(tests, classes_suppress_by_their_own_rules);
    tcase_add_loop_test(tests, recorded_queries_give_the_recorded_boxes, 0, 2);
    tcase_add_test(tests, what_does_not_fit_is_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
