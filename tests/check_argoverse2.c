/* SPDX-License-Identifier: Apache-2.0
 *
 * Argoverse 2: Feather files of all kinds of columns, plain and packed, in one batch and several, and damaged
 * ones; a small dataset, read and scored; the measure on cases whose scores can be told by hand.
 */
#include "support.h"
#include "support_feather.h"

#include "datasets/argoverse2.h"
#include "datasets/argoverse2_results.h"
#include "datasets/argoverse2_roi.h"
#include "datasets/feather.h"
#include "datasets/lz4.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- LZ4 ---------------------------------------------------------------------------------------------- */

START_TEST(frames_are_unpacked)
{
    test_rng rng = {4};
    for (int round = 0; round < 40; round++) {
        const size_t size = (size_t)rng_uniform(&rng, 0, 3000);
        uint8_t data[3000], back[3001];
        for (size_t i = 0; i < size; i++) data[i] = (uint8_t)(i % 700 < 400 ? 7 : rng_u64(&rng));
        size_t packed;
        uint8_t *frame = lz4_frame_make(data, size, &packed);
        ck_assert(sv_lz4_unpack_frame(frame, packed, back, size));
        ck_assert_mem_eq(data, back, size);
        ck_assert(!sv_lz4_unpack_frame(frame, packed, back, size + 1));
        ck_assert(size == 0 || !sv_lz4_unpack_frame(frame, packed, back, size - 1));
        for (size_t cut = 0; cut < packed; cut += 1 + packed / 50)
            ck_assert(!sv_lz4_unpack_frame(frame, cut, back, size));
        free(frame);
    }
    /* a block as it is, and one that reaches before the beginning */
    static const uint8_t raw[] = {4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0, 3, 0,
                                  0, 0x80, 'a',  'b',  'c',  0,    0, 0, 0},
                         before[] = {4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0, 5, 0, 0,
                                     0, 0x10, 'a',  2,    0,    0,    0, 0, 0, 0};
    uint8_t out[8];
    ck_assert(sv_lz4_unpack_frame(raw, sizeof raw, out, 3));
    ck_assert_mem_eq(out, "abc", 3);
    ck_assert(!sv_lz4_unpack_frame(before, sizeof before, out, 5));
}
END_TEST

/* ---- Feather ------------------------------------------------------------------------------------------ */

enum { ROWS = 7 };
static const int64_t times[ROWS] = {1, -2, 315968385323560000, 4, 5, 6, INT64_MIN};
static const uint8_t bytes_of[ROWS] = {0, 1, 127, 128, 255, 7, 8};
static const int8_t signs[ROWS] = {0, 1, 127, -128, -1, 7, 8};
static const uint16_t halves[ROWS] = {0x0000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x3555, 0x8000};
static const float singles[ROWS] = {0, 1.5f, -2, 3e30f, 1e-40f, 7, 8};
static const double doubles[ROWS] = {0, 0.1, -2, 1e300, 5, 6, 7};
static const char *const texts[ROWS] = {"BUS", "", "REGULAR_VEHICLE", "DOG", "a", "b", "c"};
static const feather_column all[] = {{"timestamp_ns", 'i', 8, times}, {"category", 't', 0, texts},
                                     {"intensity", 'u', 1, bytes_of}, {"sign", 'i', 1, signs},
                                     {"x", 'f', 2, halves},           {"y", 'f', 4, singles},
                                     {"z", 'f', 8, doubles}};
enum { COLUMNS = sizeof all / sizeof *all };

static const feather_def kinds[] = {{all, COLUMNS, ROWS, 1, false, 0, 0},
                                    {all, COLUMNS, ROWS, 3, false, 0, 0},
                                    {all, COLUMNS, ROWS, 1, true, 0, 0},
                                    {all, COLUMNS, ROWS, 2, true, 0, 0},
                                    {all, COLUMNS, 0, 1, false, 0, 0}};

START_TEST(columns_are_read)
{
    sv_ctx *c = test_context(1);
    const feather_def *def = &kinds[_i];
    size_t size;
    uint8_t *file = feather_make(def, &size);
    sv_feather f;
    int64_t integers[ROWS];
    double floats[ROWS];
    sv_feather_text words[ROWS];
    assert_ok(c, sv_feather_open(c, "file", file, size, &f));
    ck_assert_int_eq(f.rows, def->rows);
    ck_assert_int_eq(f.column_count, COLUMNS);
    assert_ok(c, sv_feather_integers(c, &f, "timestamp_ns", integers));
    for (int i = 0; i < def->rows; i++) ck_assert(integers[i] == times[i]);
    assert_ok(c, sv_feather_integers(c, &f, "sign", integers));
    for (int i = 0; i < def->rows; i++) ck_assert(integers[i] == signs[i]);
    assert_ok(c, sv_feather_floats(c, &f, "intensity", floats));
    for (int i = 0; i < def->rows; i++) ck_assert(floats[i] == bytes_of[i]);
    static const double half_values[ROWS] = {0, 1, -2, 65504, 0x1p-24, 0.333251953125, -0.0};
    assert_ok(c, sv_feather_floats(c, &f, "x", floats));
    for (int i = 0; i < def->rows; i++) ck_assert(floats[i] == half_values[i]);
    assert_ok(c, sv_feather_floats(c, &f, "y", floats));
    for (int i = 0; i < def->rows; i++) ck_assert(floats[i] == (double)singles[i]);
    assert_ok(c, sv_feather_floats(c, &f, "z", floats));
    for (int i = 0; i < def->rows; i++) ck_assert(floats[i] == doubles[i]);
    assert_ok(c, sv_feather_texts(c, &f, "category", words));
    for (int i = 0; i < def->rows; i++)
        ck_assert(words[i].size == strlen(texts[i]) && memcmp(words[i].at, texts[i], words[i].size) == 0);
    assert_fails(c, sv_feather_floats(c, &f, "w", floats), SV_BAD_INPUT, "file: has no column w");
    assert_fails(c, sv_feather_floats(c, &f, "category", floats), SV_BAD_INPUT, "holds texts, not numbers");
    assert_fails(c, sv_feather_integers(c, &f, "z", integers), SV_BAD_INPUT, "holds no integers");
    assert_fails(c, sv_feather_texts(c, &f, "z", words), SV_BAD_INPUT, "holds no texts");
    sv_feather_free(&f);
    free(file);
    sv_ctx_close(c);
}
END_TEST

/* Cut off anywhere, any byte changed: a sentence, or values; never anything else. */
START_TEST(damaged_files_are_refused)
{
    sv_ctx *c = test_context(1);
    size_t size;
    uint8_t *file = feather_make(&kinds[_i], &size);
    int refused = 0, tried = 0;
    for (size_t at = 0; at < 2 * size; at++) {
        uint8_t *copy = malloc(size + 1);
        sv_feather f;
        double floats[ROWS];
        sv_feather_text words[ROWS];
        memcpy(copy, file, size);
        const size_t cut = at < size ? at : size;
        if (at >= size) copy[at - size] ^= (uint8_t)(1 + at % 255);
        uint8_t *exact = malloc(cut + 1); /* so that reading beyond it is found */
        memcpy(exact, copy, cut);
        sv_status status = sv_feather_open(c, "file", exact, cut, &f);
        if (status == SV_OK) {
            if (f.rows <= ROWS) {
                status = sv_feather_floats(c, &f, "z", floats);
                if (status == SV_OK) status = sv_feather_texts(c, &f, "category", words);
            }
            sv_feather_free(&f);
        }
        if (status != SV_OK) ck_assert_ptr_nonnull(strstr(sv_error_message(c), "file"));
        ck_assert(at >= size || status != SV_OK);
        refused += status != SV_OK;
        tried++;
        sv_error_clear(c);
        free(copy);
        free(exact);
    }
    ck_assert_int_gt(refused, tried / 2);
    free(file);
    sv_ctx_close(c);
}
END_TEST

START_TEST(what_is_not_read_is_said)
{
    sv_ctx *c = test_context(1);
    size_t size;
    sv_feather f;
    double values[ROWS];
    feather_def def = kinds[2];
    def.codec = 1;
    uint8_t *file = feather_make(&def, &size);
    assert_fails(c, sv_feather_open(c, "file", file, size, &f), SV_BAD_INPUT, "packed with Zstandard");
    free(file);
    def = kinds[0];
    def.null_count = 2;
    file = feather_make(&def, &size);
    assert_ok(c, sv_feather_open(c, "file", file, size, &f));
    assert_fails(c, sv_feather_floats(c, &f, "timestamp_ns", values), SV_BAD_INPUT,
                 "timestamp_ns are missing (null)");
    assert_ok(c, sv_feather_floats(c, &f, "z", values));
    sv_feather_free(&f);
    free(file);
    const feather_column odd[] = {{"money", 'd', 8, doubles}, {"z", 'f', 8, doubles}};
    def = (feather_def){odd, 2, ROWS, 1, false, 0, 0};
    file = feather_make(&def, &size);
    assert_ok(c, sv_feather_open(c, "file", file, size, &f));
    assert_fails(c, sv_feather_floats(c, &f, "z", values), SV_UNSUPPORTED,
                 "the column money is of a kind that is not read");
    sv_feather_free(&f);
    free(file);
    assert_fails(c, sv_feather_open(c, "file", "PK\3\4 and so on, no Feather", 26, &f), SV_BAD_INPUT,
                 "is no Feather file");
    sv_ctx_close(c);
}
END_TEST

/* More rows than a batch has; and none. */
START_TEST(what_is_written_is_read)
{
    enum { MANY = 70001 };
    static const sv_feather_field fields[] = {{"name", SV_FEATHER_TEXT},
                                              {"when", SV_FEATHER_INTEGER},
                                              {"x", SV_FEATHER_FLOAT},
                                              {"what", SV_FEATHER_TEXT}};
    sv_ctx *c = test_context(1);
    const char *path = test_path("written.feather");
    for (int rows = 0; rows <= MANY; rows += MANY) {
        test_rng rng = {8};
        sv_feather_writer w;
        assert_ok(c, sv_feather_writer_open(c, path, fields, 4, &w));
        for (int i = 0; i < rows; i++) {
            char name[24];
            snprintf(name, sizeof name, "%.*s", i % 13, "abcdefghijklm");
            sv_feather_value row[4] = {
                {.text = name}, {.integer = (int64_t)rng_u64(&rng)}, {.number = 0}, {.text = ""}};
            row[2].number = rng_normal(&rng);
            assert_ok(c, sv_feather_writer_add(c, &w, row));
        }
        assert_ok(c, sv_feather_writer_close(c, &w));
        sv_feather_writer_discard(&w);
        size_t size;
        void *bytes = read_file(path, &size);
        sv_feather f;
        assert_ok(c, sv_feather_open(c, "written", bytes, size, &f));
        ck_assert(f.rows == rows && f.column_count == 4);
        ck_assert_int_eq(f.batch_count, rows ? 2 : 0);
        double *x = malloc(sizeof *x * (MANY + 1));
        int64_t *when = malloc(sizeof *when * (MANY + 1));
        sv_feather_text *names = malloc(sizeof *names * (MANY + 1)),
                        *what = malloc(sizeof *what * (MANY + 1));
        assert_ok(c, sv_feather_floats(c, &f, "x", x));
        assert_ok(c, sv_feather_integers(c, &f, "when", when));
        assert_ok(c, sv_feather_texts(c, &f, "name", names));
        assert_ok(c, sv_feather_texts(c, &f, "what", what));
        rng = (test_rng){8};
        for (int i = 0; i < rows; i++) {
            ck_assert(when[i] == (int64_t)rng_u64(&rng) && x[i] == rng_normal(&rng));
            ck_assert(names[i].size == (size_t)(i % 13) &&
                      memcmp(names[i].at, "abcdefghijklm", names[i].size) == 0);
            ck_assert_uint_eq(what[i].size, 0);
        }
        free(x), free(when), free(names), free(what);
        sv_feather_free(&f);
        free(bytes);
    }
    sv_feather_writer w; /* given up: nothing is left */
    assert_ok(c, sv_feather_writer_open(c, test_path("given-up.feather"), fields, 4, &w));
    sv_feather_writer_discard(&w);
    ck_assert_ptr_null(fopen(test_path("given-up.feather"), "rb"));
    assert_fails(c, sv_feather_writer_open(c, test_path("no/such/folder.feather"), fields, 4, &w), SV_IO,
                 "cannot be written");
    sv_ctx_close(c);
}
END_TEST

/* ---- the measure -------------------------------------------------------------------------------------- */

static sv_argoverse2_object car(double x, double y, double heading, double score)
{
    return (sv_argoverse2_object){
        .centre = {x, y, 0}, .size = {4, 2, 1.5}, .heading = heading, .score = score, .points = 10};
}

START_TEST(scores_are_those_of_the_rules)
{
    sv_ctx *c = test_context(1);
    sv_argoverse2_eval *e = NULL;
    sv_argoverse2_scores *s = malloc(sizeof *s);
    assert_ok(c, sv_argoverse2_eval_open(c, &e));
    /* labels: two near, one without points, one too far; detections: right with an error, a second one on the
     * same label, a false one, one too far */
    sv_argoverse2_object labels[] = {car(10, 0, 0, 0), car(30, 5, 1, 0), car(50, 0, 0, 0), car(151, 0, 0, 0)};
    labels[2].points = 0;
    sv_argoverse2_object detections[] = {car(10.3, 0.4, 3.0, 0.9), car(10, 0, 0, 0.8), car(31.5, 5, 1, 0.7),
                                         car(80, 0, 0, 0.6), car(151, 0, 0, 0.5)};
    detections[0].size[0] = 5;
    bool found[4], right[5];
    assert_ok(c, sv_argoverse2_eval_add(c, e, "sweep", labels, 4, detections, 5, found, right));
    static const bool found_wanted[4] = {true, true, false, false},
                      right_wanted[5] = {true, false, true, false, false};
    ck_assert_mem_eq(found, found_wanted, sizeof found);
    ck_assert_mem_eq(right, right_wanted, sizeof right);
    assert_ok(c, sv_argoverse2_eval_finish(c, e, s));
    const sv_argoverse2_class *of = &s->of[0];
    ck_assert_int_eq(of->labels, 2);
    ck_assert_int_eq(of->detections, 4);
    /* at 1 m: right, wrong, wrong, wrong: recall 0.5 with precision 1, from there down to 1/4 at the same
     * recall: of places 0..50 those below 0.5 have 1, the one at it the last precision 1/4 */
    double sum = 0;
    for (int k = 0; k <= 100; k++) sum += k < 50 ? 1 : k == 50 ? 0.25 : 0;
    ck_assert_double_eq_tol(of->ap[1], sum / 101, 1e-9);
    /* at 0.5 m the distance 0.5 is not less: nothing is right */
    ck_assert_double_eq_tol(of->ap[0], 0, 1e-12);
    /* at 2 m: right, wrong, right, wrong: precisions 1, 2/3, 2/3, 1/2 at recalls .5 .5 1 1 */
    sum = 0;
    for (int k = 0; k <= 100; k++) sum += k < 50 ? 1 : k < 100 ? 2.0 / 3 : 0.5;
    ck_assert_double_eq_tol(of->ap[2], sum / 101, 1e-9);
    ck_assert_double_eq_tol(of->error[0], (0.5 + 1.5) / 2, 1e-12);
    ck_assert_double_eq_tol(of->error[1], (1 - 4.0 / 5) / 2, 1e-12);
    ck_assert_double_eq_tol(of->error[2], 3.0 / 2, 1e-12);
    const double pi = acos(-1);
    ck_assert_double_eq_tol(of->cds, of->mean_ap * (0.5 + 0.9 + 1 - 1.5 / pi) / 3, 1e-12);
    /* classes without labels take part in the means */
    ck_assert_double_eq_tol(s->mean.mean_ap, of->mean_ap / 26, 1e-12);
    ck_assert_double_eq_tol(s->mean.error[2], (1.5 + 25 * pi) / 26, 1e-9);
    detections[0].score = (double)NAN;
    assert_fails(c, sv_argoverse2_eval_add(c, e, "sweep 7", labels, 4, detections, 5, NULL, NULL),
                 SV_BAD_INPUT, "sweep 7: detection 0");
    sv_argoverse2_eval_close(e);
    free(s);
    sv_ctx_close(c);
}
END_TEST

START_TEST(only_a_hundred_count)
{
    sv_ctx *c = test_context(1);
    sv_argoverse2_eval *e = NULL;
    sv_argoverse2_scores *s = malloc(sizeof *s);
    sv_argoverse2_object label = car(0, 0, 0, 0), detections[150];
    for (int i = 0; i < 150; i++) detections[i] = car(i == 120 ? 0 : 50, 0, 0, 1 - 0.001 * i);
    assert_ok(c, sv_argoverse2_eval_open(c, &e));
    assert_ok(c, sv_argoverse2_eval_add(c, e, "sweep", &label, 1, detections, 150, NULL, NULL));
    assert_ok(c, sv_argoverse2_eval_finish(c, e, s));
    ck_assert_int_eq(s->of[0].detections, 100);
    ck_assert_double_eq(s->of[0].mean_ap,
                        0); /* the first of those at 50 m belongs to the label, too far away */
    sv_argoverse2_eval_close(e);
    free(s);
    sv_ctx_close(c);
}
END_TEST

/* Those outside of the region do not count, but a detection among the hundred stays one of them. */
START_TEST(boxes_outside_the_region_do_not_count)
{
    sv_ctx *c = test_context(1);
    sv_argoverse2_eval *e = NULL;
    sv_argoverse2_scores *s = malloc(sizeof *s);
    sv_argoverse2_object labels[2] = {car(0, 0, 0, 0), car(20, 0, 0, 0)}, detections[101];
    labels[1].outside = true;
    for (int i = 0; i <= 100; i++) {
        detections[i] = car(i == 100 ? 0 : 20, 0, 0, 1 - 0.001 * i);
        detections[i].outside = i < 100;
    }
    for (int count = 100; count <= 101; count++) { /* without the first, the last is the hundredth */
        assert_ok(c, sv_argoverse2_eval_open(c, &e));
        assert_ok(
            c, sv_argoverse2_eval_add(c, e, "sweep", labels, 2, detections + 101 - count, count, NULL, NULL));
        assert_ok(c, sv_argoverse2_eval_finish(c, e, s));
        ck_assert_int_eq(s->of[0].labels, 1);
        ck_assert_int_eq(s->of[0].detections, count == 100);
        ck_assert_double_eq_tol(s->of[0].mean_ap, count == 100 ? 1 : 0, 1e-9);
        sv_argoverse2_eval_close(e);
    }
    free(s);
    sv_ctx_close(c);
}
END_TEST

/* ---- the region of interest --------------------------------------------------------------------------- */

static double distance_to_edge(const double *a, const double *b, double x, double y)
{
    const double dx = b[0] - a[0], dy = b[1] - a[1], length = dx * dx + dy * dy;
    double t = length > 0 ? ((x - a[0]) * dx + (y - a[1]) * dy) / length : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return hypot(x - a[0] - t * dx, y - a[1] - t * dy);
}

/* From a place to a polygon; 0 inside. */
static double distance_to_polygon(double (*corner)[2], int count, double x, double y)
{
    double nearest = INFINITY;
    bool inside = false;
    for (int i = 0, j = count - 1; i < count; j = i++) {
        nearest = fmin(nearest, distance_to_edge(corner[j], corner[i], x, y));
        if ((corner[i][1] > y) != (corner[j][1] > y) && x < corner[i][0] + (y - corner[i][1]) *
                                                                               (corner[j][0] - corner[i][0]) /
                                                                               (corner[j][1] - corner[i][1]))
            inside = !inside;
    }
    return inside ? 0 : nearest;
}

/* Stars of random corners: what is clearly within 5 m is inside, what is clearly beyond is not. The raster is
 * of 10 cm, cut at the border. */
START_TEST(the_region_is_what_lies_near_drivable_areas)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {17};
    int in = 0, out = 0;
    for (int round = 0; round < 20; round++) {
        enum { CORNERS = 9 };
        double corner[2][CORNERS][2];
        char json[4000];
        size_t used =
            (size_t)snprintf(json, sizeof json, "{\"lane_segments\": [1, {}], \"drivable_areas\": {");
        for (int k = 0; k < 2; k++) {
            const double x = rng_uniform(&rng, -50, 50), y = rng_uniform(&rng, 900, 980);
            used += (size_t)snprintf(json + used, sizeof json - used,
                                     "%s\"%d\": {\"id\": %d, \"area_boundary\": [", k ? ", " : "", k, k);
            for (int i = 0; i < CORNERS; i++) {
                const double turn = 2 * acos(-1) * i / CORNERS, way = rng_uniform(&rng, 3, 25);
                corner[k][i][0] = x + way * cos(turn);
                corner[k][i][1] = y + way * sin(turn);
                used += (size_t)snprintf(json + used, sizeof json - used,
                                         "%s{\"x\": %.17g, \"y\": %.17g, \"z\": 3}", i ? ", " : "",
                                         corner[k][i][0], corner[k][i][1]);
            }
            used += (size_t)snprintf(json + used, sizeof json - used, "]}");
        }
        used += (size_t)snprintf(json + used, sizeof json - used, "}}");
        sv_argoverse2_roi roi;
        assert_ok(c, sv_argoverse2_roi_parse(c, "map", json, used, &roi));
        for (int i = 0; i < 4000; i++) {
            const double x = rng_uniform(&rng, -90, 90), y = rng_uniform(&rng, 860, 1020);
            const double way = fmin(distance_to_polygon(corner[0], CORNERS, x, y),
                                    distance_to_polygon(corner[1], CORNERS, x, y));
            const bool drawn = x > roi.x_min && y > roi.y_min && x < roi.x_min + roi.width * 0.1 &&
                               y < roi.y_min + roi.height * 0.1;
            if (fabs(way - 5) < 0.25 || fabs(x - roi.x_min) < 0.11 || fabs(y - roi.y_min) < 0.11)
                continue; /* the raster decides */
            ck_assert_msg(sv_argoverse2_roi_holds(&roi, x, y) == (drawn && way < 5), "%g, %g: %g m", x, y,
                          way);
            in += drawn && way < 5;
            out += way > 5;
        }
        ck_assert(!sv_argoverse2_roi_holds(&roi, NAN, 900) && !sv_argoverse2_roi_holds(&roi, 0, INFINITY));
        sv_argoverse2_roi_free(&roi);
    }
    ck_assert(in > 5000 && out > 5000);
    sv_ctx_close(c);
}
END_TEST

START_TEST(damaged_maps_are_refused)
{
    static const struct {
        const char *json, *sentence;
    } maps[] = {
        {"", "map: byte 0"},
        {"{\"drivable_areas\": {}}", "no drivable_areas"},
        {"{\"lanes\": {}}", "no drivable_areas"},
        {"{\"drivable_areas\": {\"1\": {\"id\": 1}}}", "no area_boundary of at least two corners"},
        {"{\"drivable_areas\": {\"1\": {\"area_boundary\": [{\"x\": 1}]}}}", "has no x and y"},
        {"{\"drivable_areas\": {\"1\": {\"area_boundary\": [{\"x\": 1, \"y\": 1e300}]}}}", "within 1e8 m"},
        {"{\"drivable_areas\": {\"1\": {\"area_boundary\": [{\"x\": 1, \"y\": NaN}]}}}", "within 1e8 m"},
        {"{\"drivable_areas\": {\"1\": {\"area_boundary\": [{\"x\": 1, \"y\": 1}, {\"x\": 9e6, \"y\": 1}]}}}",
         "too large a raster"},
        {"{\"drivable_areas\": {\"1\": {\"area_boundary\": [{\"x\": 1", "the file ends early"},
    };
    sv_ctx *c = test_context(1);
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        sv_argoverse2_roi roi;
        const sv_status status = sv_argoverse2_roi_parse(c, "map", maps[i].json, strlen(maps[i].json), &roi);
        ck_assert_msg(status == (i == 7 ? SV_UNSUPPORTED : SV_BAD_INPUT), "%s", maps[i].json);
        ck_assert_msg(strstr(sv_error_message(c), maps[i].sentence) != NULL, "%s", sv_error_message(c));
        ck_assert_ptr_null(roi.cells);
        sv_error_clear(c);
    }
    sv_argoverse2_roi roi;
    assert_fails(c, sv_argoverse2_roi_read(c, test_folder(), &roi), SV_BAD_INPUT, "holds 0 files");
    sv_ctx_close(c);
}
END_TEST

/* ---- a dataset ---------------------------------------------------------------------------------------- */

static char root[300];

static void put_file(const char *name, const feather_def *def)
{
    char path[600];
    size_t size;
    uint8_t *file = feather_make(def, &size);
    snprintf(path, sizeof path, "%s/%s", root, name);
    write_file(path, file, size);
    free(file);
}

#define LOG "adcf7d18-0510-35b0-a2fa-b4cea13a6d76"
static const int64_t stamps[3] = {315968385323560000, 315968385423560000, 315968385323560000};

static void make_set(const char *name)
{
    static const char *const folders[] = {
        "", "/val", "/val/" LOG, "/val/" LOG "/sensors", "/val/" LOG "/sensors/lidar", "/val/" LOG "/map"};
    static const uint16_t x[4] = {0x4900, 0x4910, 0xc900, 0x7e00}, y[4] = {0, 0, 0x3c00, 0};
    static const uint8_t intensity[4] = {1, 2, 255, 4};
    static const double ones[3] = {1, 1, 1}, none[3], at[3] = {10, 20, -30}, up[3] = {0.6, 0.6, 1},
                        turn[3] = {0.8, -0.8, 0}, length[3] = {4.5, 12, 0.8}, width[3] = {2, 3, 0.7};
    static const int64_t points[3] = {5, 0, 77};
    static const char *const categories[3] = {"REGULAR_VEHICLE", "BUS", "OFFICIAL_SIGNALER"};
    static const char *const tracks[3] = {"364174e3-92dd-43e3-8d3f-8de75e85be26", "b", "c"};
    snprintf(root, sizeof root, "%s", test_path(name));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[500];
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        ck_assert_int_eq(mkdir(path, 0777), 0);
    }
    char map[600];
    snprintf(map, sizeof map, "%s/val/" LOG "/map/log_map_archive_x.json", root);
    static const char area[] = "{\"drivable_areas\": {\"7\": {\"area_boundary\": [{\"x\": -50, \"y\": -50}, "
                               "{\"x\": 50, \"y\": -50}, "
                               "{\"x\": 50, \"y\": 50}, {\"x\": -50, \"y\": 50}]}}}";
    write_file(map, area, strlen(area));
    const feather_column cloud[] = {
        {"x", 'f', 2, x}, {"y", 'f', 2, y}, {"z", 'f', 2, y}, {"intensity", 'u', 1, intensity}};
    const feather_def sweep = {cloud, 4, 4, 1, true, 0, 0};
    put_file("val/" LOG "/sensors/lidar/315968385323560000.feather", &sweep);
    put_file("val/" LOG "/sensors/lidar/315968385423560000.feather", &sweep);
    const feather_column pose[] = {{"timestamp_ns", 'i', 8, stamps},
                                   {"qw", 'f', 8, up},
                                   {"qx", 'f', 8, none},
                                   {"qy", 'f', 8, none},
                                   {"qz", 'f', 8, turn},
                                   {"tx_m", 'f', 8, at},
                                   {"ty_m", 'f', 8, at},
                                   {"tz_m", 'f', 8, none}};
    put_file("val/" LOG "/city_SE3_egovehicle.feather", &(feather_def){pose, 8, 2, 1, false, 0, 0});
    const feather_column boxes[] = {{"timestamp_ns", 'i', 8, stamps},
                                    {"track_uuid", 't', 0, tracks},
                                    {"category", 't', 0, categories},
                                    {"length_m", 'f', 8, length},
                                    {"width_m", 'f', 8, width},
                                    {"height_m", 'f', 8, ones},
                                    {"qw", 'f', 8, up},
                                    {"qx", 'f', 8, none},
                                    {"qy", 'f', 8, none},
                                    {"qz", 'f', 8, turn},
                                    {"tx_m", 'f', 8, at},
                                    {"ty_m", 'f', 8, at},
                                    {"tz_m", 'f', 8, none},
                                    {"num_interior_pts", 'i', 8, points}};
    put_file("val/" LOG "/annotations.feather", &(feather_def){boxes, 14, 3, 1, true, 0, 0});
}

START_TEST(a_log_is_read)
{
    sv_ctx *c = test_context(1);
    make_set("argoverse");
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    sv_dataset *d = NULL;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_str_eq(sv_dataset_name(d), "argoverse2");
    ck_assert_int_eq(sv_dataset_count(d), 2);
    ck_assert_str_eq(sv_dataset_id(d, 0), LOG "_315968385323560000");
    ck_assert(sv_argoverse2_time(d, 1) == stamps[1]);
    sv_sample s = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &s));
    ck_assert_int_eq(s.frame->count, 3); /* one is no number */
    ck_assert_int_eq(s.dropped, 1);
    ck_assert(s.frame->points[0] == 10 && s.frame->points[8] == -10 && s.frame->points[9] == 1 &&
              s.frame->points[11] == 255);
    ck_assert(s.has_pose && s.ego_to_world.t[0] == 10);
    ck_assert_double_eq_tol(sv_pose_yaw(&s.ego_to_world), 2 * atan2(0.8, 0.6), 1e-12);
    ck_assert(s.has_labels && s.label_count == 2);
    ck_assert(s.labels[0].box.label == 1 && s.labels[0].points == 5 && s.labels[0].box.dx == 4.5f);
    ck_assert_str_eq(s.labels[0].instance, "364174e3-92dd-43e3-8d3f-8de75e85be26");
    ck_assert(s.labels[1].box.label == 0 && s.labels[1].points == 77); /* a category that is not scored */
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_LABELS, &s));
    ck_assert(s.label_count == 1 && s.labels[0].box.label == 13);
    sv_sample_free(&s);
    sv_dataset_close(d);
    def.split = "train";
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "has no split train");
    char path[600];
    snprintf(path, sizeof path, "%s/val/" LOG "/sensors/lidar/12.bin.feather", root);
    write_file(path, "", 0);
    def.split = NULL;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT, "is not named after its time");
    ck_assert_int_eq(remove(path), 0);
    snprintf(path, sizeof path, "%s/val/" LOG "/annotations.feather", root);
    write_file(path, "ARROW1", 6);
    assert_ok(c, sv_dataset_open(c, &def, &d));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &s), SV_BAD_INPUT,
                 "annotations.feather: is no Feather file");
    sv_dataset_close(d);
    sv_findings findings;
    assert_ok(c, sv_dataset_inspect(c, root, &findings));
    ck_assert_int_eq(findings.bad, 1);
    sv_findings_free(&findings);
    sv_ctx_close(c);
}
END_TEST

/* Boxes to the file and back; those of other classes and samples are counted. */
START_TEST(detections_are_written_and_read)
{
    static const char *const classes[3] = {"Dog", "Tank", "School_bus"};
    static const sv_box boxes[4] = {
        {.x = 1.5f,
         .y = -2,
         .z = 0.25f,
         .dx = 1,
         .dy = 0.5f,
         .dz = 0.7f,
         .heading = 3,
         .score = 0.75f,
         .label = 1},
        {.x = 1, .dx = 1, .dy = 1, .dz = 1, .score = 0.5f, .label = 2},
        {.x = -30, .dx = 11, .dy = 3, .dz = 3, .heading = -1.25f, .score = 0.125f, .label = 3},
        {.x = 5, .dx = 1, .dy = 1, .dz = 1, .score = 0.5f, .label = 1}};
    sv_ctx *c = test_context(1);
    make_set("written");
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    sv_dataset *d = NULL;
    sv_evaluator *e = NULL;
    const sv_evaluator_def how = sv_evaluator_def_default();
    assert_ok(c, sv_dataset_open(c, &def, &d));
    assert_ok(c, sv_evaluator_open(c, d, &how, &e));
    ck_assert_str_eq(sv_evaluator_rule(e), "roi");
    const char *path = test_path("detections.feather");
    sv_feather_writer w;
    int other = 0;
    assert_ok(c, sv_argoverse2_writer_open(c, path, &w));
    assert_ok(c, sv_argoverse2_writer_add(c, &w, d, 1, classes, boxes, 3, &other));
    assert_ok(c, sv_argoverse2_writer_add(c, &w, d, 0, classes, boxes + 3, 1, &other));
    assert_ok(c, sv_feather_writer_close(c, &w));
    ck_assert_int_eq(other, 1);
    sv_submission s;
    assert_ok(c, sv_submission_open(c, e, path, &s));
    ck_assert(s.missing == 0 && s.extra == 0);
    for (int sample = 0; sample < 2; sample++) {
        sv_eval_result written = {0}, read = {0};
        assert_ok(c, sv_submission_read(c, e, &s, sample, &read));
        const char *text = test_path("written.txt"), *again = test_path("read.txt");
        sv_sample at = {0};
        assert_ok(c, sv_dataset_read(c, d, sample, SV_READ_LABELS, &at));
        assert_ok(c, sv_eval_result_of_boxes(c, e, &at, classes, sample ? boxes : boxes + 3, sample ? 3 : 1,
                                             &written));
        ck_assert_int_eq(read.count, written.count);
        assert_ok(c, sv_eval_result_write(c, e, text, &written));
        assert_ok(c, sv_eval_result_write(c, e, again, &read));
        size_t sizes[2];
        char *files[2] = {read_file(text, &sizes[0]), read_file(again, &sizes[1])};
        ck_assert_str_eq(files[0], files[1]);
        free(files[0]), free(files[1]);
        sv_eval_result_free(&read), sv_eval_result_free(&written);
        sv_sample_free(&at);
    }
    sv_submission_close(e, &s);
    sv_evaluator_close(e);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

START_TEST(the_program_scores_it)
{
    static const double score[3] = {0.9, 0.8, 0.7}, ones[3] = {1, 1, 1}, none[3], at[3] = {10, 20, -30},
                        up[3] = {0.6, 0.6, 1}, turn[3] = {0.8, -0.8, 0}, length[3] = {4.5, 12, 0.8},
                        width[3] = {2, 3, 0.7};
    static const char *const categories[3] = {"REGULAR_VEHICLE", "BUS", "DOG"};
    static const char *const logs[3] = {LOG, LOG, "another log"};
    make_set("scored");
    const feather_column boxes[] = {{"log_id", 't', 0, logs},
                                    {"timestamp_ns", 'i', 8, stamps},
                                    {"category", 't', 0, categories},
                                    {"length_m", 'f', 8, length},
                                    {"width_m", 'f', 8, width},
                                    {"height_m", 'f', 8, ones},
                                    {"qw", 'f', 8, up},
                                    {"qx", 'f', 8, none},
                                    {"qy", 'f', 8, none},
                                    {"qz", 'f', 8, turn},
                                    {"tx_m", 'f', 8, at},
                                    {"ty_m", 'f', 8, at},
                                    {"tz_m", 'f', 8, none},
                                    {"score", 'f', 8, score}};
    put_file("detections.feather", &(feather_def){boxes, 14, 3, 1, true, 0, 0});
    static const char *const runs[][2] = {
        {"inspect ROOT", "1 logs, 2 sweeps"},
        {"eval --root ROOT --self-check", "1 where there are any"},
        {"eval --root ROOT --results ROOT/detections.feather", "REGULAR_VEHICLE                  1.0000"},
        {"eval --root ROOT --rule everywhere --self-check", "1 where there are any"},
        {"detect -q -c cluster --dataset argoverse2 --root ROOT --format argoverse2 -o ROOT/out.feather", ""},
        {"eval --root ROOT --results ROOT/out.feather", "in the region of interest"},
        {"eval --root ROOT -c cluster --report ROOT/page.html", "CDS"},
        {"cache -q --root ROOT -o ROOT/cache --verify", "no such cache"}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char command[2000], text[16384];
        size_t used = (size_t)snprintf(command, sizeof command, "%s ", getenv("SAVANNA_PROGRAM"));
        for (const char *p = runs[i][0]; *p;) {
            const bool is_root = strncmp(p, "ROOT", 4) == 0;
            used += (size_t)snprintf(command + used, sizeof command - used, "%.*s", is_root ? 300 : 1,
                                     is_root ? root : p);
            p += is_root ? 4 : 1;
        }
        snprintf(command + used, sizeof command - used, " 2>&1");
        FILE *pipe = popen(command, "r");
        ck_assert_ptr_nonnull(pipe);
        text[fread(text, 1, sizeof text - 1, pipe)] = '\0';
        const int state = pclose(pipe);
        ck_assert_msg(WIFEXITED(state) && WEXITSTATUS(state) == (i + 1 == sizeof runs / sizeof *runs ? 3 : 0),
                      "%s: %s", command, text);
        ck_assert_msg(strstr(text, runs[i][1]) != NULL, "%s: %s", command, text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("argoverse2");
    TCase *cases = tcase_create("Argoverse 2");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, frames_are_unpacked);
    tcase_add_loop_test(cases, columns_are_read, 0, (int)(sizeof kinds / sizeof *kinds));
    tcase_add_loop_test(cases, damaged_files_are_refused, 0, 4);
    tcase_add_test(cases, what_is_not_read_is_said);
    tcase_add_test(cases, what_is_written_is_read);
    tcase_add_test(cases, scores_are_those_of_the_rules);
    tcase_add_test(cases, only_a_hundred_count);
    tcase_add_test(cases, boxes_outside_the_region_do_not_count);
    tcase_add_test(cases, the_region_is_what_lies_near_drivable_areas);
    tcase_add_test(cases, damaged_maps_are_refused);
    tcase_add_test(cases, a_log_is_read);
    tcase_add_test(cases, detections_are_written_and_read);
    tcase_add_test(cases, the_program_scores_it);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
