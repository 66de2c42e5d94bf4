/* SPDX-License-Identifier: Apache-2.0
 *
 * Point files: layouts, raw and .npy, what is dropped and what is refused.
 */
#include "perception/points.h"
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

START_TEST(layouts_are_named)
{
    sv_ctx *c = test_context(1);
    int columns;
    bool half;
    assert_ok(c, sv_points_layout(c, "xyzi", &columns, &half));
    ck_assert(columns == 4 && !half);
    assert_ok(c, sv_points_layout(c, "xyzit:f16", &columns, &half));
    ck_assert(columns == 5 && half);
    assert_ok(c, sv_points_layout(c, "xyzie", &columns, NULL));
    assert_ok(c, sv_points_layout(c, "xyz", &columns, &half));
    ck_assert(columns == 3 && !half);
    static const char *const wrong[] = {"", "xy", "xyzii", "xyzi:f32", "xyzi:", "XYZI", "xyzirt", ":f16"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(c, sv_points_layout(c, wrong[i], &columns, &half), SV_USAGE,
                     "is no point layout: xyz, xyzi, xyzir, xyzit, xyzie");
    assert_fails(c, sv_points_layout(c, NULL, &columns, &half), SV_USAGE,
                 "layout of the points is not known");
    sv_ctx_close(c);
}
END_TEST

START_TEST(raw_floats)
{
    sv_ctx *c = test_context(1);
    const float nan = NAN, inf = INFINITY;
    const float values[5][4] = {
        {1, 2, 3, 0.5f}, {nan, 0, 0, 0}, {4, 5, 6, 0.25f}, {0, 0, 0, -inf}, {-0.0f, 1e-40f, 7, 1}};
    sv_points p;
    write_file(test_path("a.bin"), values, sizeof values);
    assert_ok(c, sv_points_read(c, test_path("a.bin"), "xyzi", &p));
    ck_assert(p.count == 3 && p.columns == 4 && p.dropped == 2);
    ck_assert(memcmp(p.data, values[0], 16) == 0 && memcmp(p.data + 4, values[2], 16) == 0 &&
              memcmp(p.data + 8, values[4], 16) == 0);
    sv_points_free(&p);
    sv_points_free(&p);

    assert_ok(c, sv_points_read(c, test_path("a.bin"), "xyzir",
                                &p)); /* 20 floats are 4 points of 5 as well: no guess is possible */
    ck_assert_int_eq(p.count + p.dropped, 4);
    sv_points_free(&p);
    write_file(test_path("b.bin"), values, 36);
    assert_fails(c, sv_points_read(c, test_path("b.bin"), "xyzi", &p), SV_BAD_INPUT,
                 "b.bin: 36 bytes are no whole number of points of 4 columns ('xyzi', 16 bytes a point)");
    ck_assert(p.data == NULL && p.count == 0);
    write_file(test_path("empty.bin"), values, 0);
    assert_ok(c, sv_points_read(c, test_path("empty.bin"), "xyzie:f16", &p));
    ck_assert(p.count == 0 && p.columns == 5 && p.dropped == 0);
    sv_points_free(&p);
    assert_fails(c, sv_points_read(c, test_path("none.bin"), "xyzi", &p), SV_IO,
                 "none.bin: cannot be opened");
    assert_fails(c, sv_points_read(c, test_path("a.bin"), "xyy", &p), SV_USAGE, "'xyy' is no point layout");
    assert_fails(c, sv_points_read(c, test_path("a.bin"), NULL, &p), SV_USAGE,
                 "a.bin: does not say what its columns are: name the layout");
    write_file(test_path("c.npy"), values, 16);
    assert_fails(c, sv_points_read(c, test_path("c.npy"), "xyzi", &p), SV_BAD_INPUT,
                 "does not start as an .npy file does");
    write_file(test_path("c.pcd"), values, 16);
    assert_fails(c, sv_points_read(c, test_path("c.pcd"), "xyzi", &p), SV_BAD_INPUT,
                 "c.pcd: does not start as a .pcd file does");

    /* one point too many, and a file that is too large to look at (sparse on disk) */
    FILE *file = fopen(test_path("big.bin"), "wb");
    ck_assert_int_eq(ftruncate(fileno(file), ((off_t)SV_POINTS_MAX + 1) * 16), 0);
    fclose(file);
    assert_fails(c, sv_points_read(c, test_path("big.bin"), "xyzi", &p), SV_BAD_INPUT,
                 "2097153 points, at most 2097152 are read");
    ck_assert_int_eq(truncate(test_path("big.bin"), (off_t)SV_POINTS_MAX * 16), 0);
    assert_ok(c, sv_points_read(c, test_path("big.bin"), "xyzi", &p));
    ck_assert_int_eq(p.count, SV_POINTS_MAX);
    sv_points_free(&p);
    ck_assert_int_eq(truncate(test_path("big.bin"), (off_t)1 << 40), 0);
    assert_fails(c, sv_points_read(c, test_path("big.bin"), "xyzi", &p), SV_BAD_INPUT,
                 "1099511627776 bytes are more than 2097152 points");
    sv_ctx_close(c);
}
END_TEST

/* Exact value of a half float, written from its definition. */
static double half_value(unsigned h)
{
    const double sign = h >> 15 ? -1 : 1;
    const int exponent = h >> 10 & 31;
    const double fraction = (h & 1023) / 1024.0;
    if (exponent == 31) return fraction > 0 ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1 + fraction, exponent - 15) : ldexp(fraction, -14));
}

START_TEST(every_half_float)
{
    sv_ctx *c = test_context(1);
    uint16_t *raw = calloc(65536, 4 * sizeof *raw);
    for (unsigned h = 0; h < 65536; h++) raw[4 * h + h % 4] = (uint16_t)h;
    sv_points p;
    assert_ok(c, sv_points_parse(c, raw, 65536 * 8, "h.bin", "xyzi:f16", &p));
    ck_assert_int_eq(p.dropped, 2048);
    ck_assert_int_eq(p.count, 65536 - 2048);
    int row = 0;
    for (unsigned h = 0; h < 65536; h++) {
        const double value = half_value(h);
        if (!isfinite(value)) continue;
        ck_assert((double)p.data[4 * row + (int)(h % 4)] == value);
        row++;
    }
    sv_points_free(&p);
    free(raw);
    sv_ctx_close(c);
}
END_TEST

/* An .npy of 'version' with this header text and these values behind it. */
static size_t make_npy(unsigned char *out, int version, const char *header, const void *values, size_t bytes)
{
    const size_t length = strlen(header), start = version == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)version, out[7] = 0;
    for (size_t i = 8; i < start; i++) out[i] = (unsigned char)(length >> (8 * (i - 8)));
    memcpy(out + start, header, length);
    memcpy(out + start + length, values, bytes);
    return start + length + bytes;
}

START_TEST(npy_files)
{
    sv_ctx *c = test_context(1);
    const float single[2][4] = {{1, 2, 3, 4}, {5, NAN, 7, 8}};
    const double twice[2][4] = {{1, 2, 3, 4}, {1e300, 6, 7, 8}};
    const uint16_t half[1][4] = {{0x3c00, 0x4000, 0x4200, 0x4400}};
    unsigned char file[512];
    sv_points p;
    size_t n = make_npy(file, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }      \n",
                        single, sizeof single);
    assert_ok(c, sv_points_parse(c, file, n, "any.name", "xyzi", &p));
    ck_assert(p.count == 1 && p.dropped == 1 && memcmp(p.data, single[0], 16) == 0);
    sv_points_free(&p);
    write_file(test_path("d.npy"), file, n);
    assert_ok(c, sv_points_read(c, test_path("d.npy"), "xyzi", &p));
    ck_assert_int_eq(p.count, 1);
    sv_points_free(&p);
    n = make_npy(file, 2, "{\"shape\":(2,4),\"fortran_order\":False,\"descr\":\"<f8\"}", twice, sizeof twice);
    assert_ok(c, sv_points_parse(c, file, n, "d", "xyzi", &p));
    ck_assert(p.count == 1 && p.dropped == 1 && p.data[3] == 4); /* 1e300 is no float */
    sv_points_free(&p);
    n = make_npy(file, 1, "{'descr': '<f2', 'fortran_order': True, 'shape': (1, 4), }", half, sizeof half);
    assert_ok(c, sv_points_parse(c, file, n, "h", "xyzi:f16", &p));
    ck_assert(p.count == 1 && p.data[0] == 1 && p.data[3] == 4);
    sv_points_free(&p);
    n = make_npy(file, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }", single, 0);
    assert_ok(c, sv_points_parse(c, file, n, "e", "xyzi", &p));
    ck_assert(p.count == 0 && p.columns == 4);
    sv_points_free(&p);

    static const struct {
        const char *header, *words;
    } wrong[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5), }",
         "the .npy array has 5 columns, the layout has 4"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (8,), }", "has 1 dimensions, points have 2"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 2), }", "has 3 dimensions"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2, 4), }", "not that of a plain array"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (2, 4), }",
         "the .npy values are '<i4', points must be '<f4', '<f8' or '<f2'"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 4), }", "'>f4'"},
        {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2, 4), }", "not that of a plain array"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 4), }", "Fortran order"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }",
         "32 bytes behind the .npy header, 3 points of 4 columns need 48"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4), }",
         "32 bytes behind the .npy header, 1 points"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 4), }",
         "99999999999 points, at most 2097152"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999, 4), }",
         "not that of a plain array"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)", "not that of a plain array"},
        {"{'descr': '<f4', 'shape': (2, 4), }", "not that of a plain array"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 4), }", "not that of a plain array"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), 'x': 1}", "not that of a plain array"},
        {"", "not that of a plain array"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        n = make_npy(file, 1, wrong[i].header, single, sizeof single);
        assert_fails(c, sv_points_parse(c, file, n, "w", "xyzi", &p), SV_BAD_INPUT, wrong[i].words);
        ck_assert_ptr_null(p.data);
    }
    n = make_npy(file, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }", single,
                 sizeof single);
    assert_fails(c, sv_points_parse(c, file, n, "w", "xyzi:f16", &p), SV_BAD_INPUT,
                 "the layout says half floats");
    for (size_t cut = 6; cut < n; cut++)
        ck_assert_int_eq(sv_points_parse(c, file, cut, "cut", "xyzi", &p), SV_BAD_INPUT);
    sv_error_clear(c);
    file[6] = 9;
    assert_fails(c, sv_points_parse(c, file, n, "w", "xyzi", &p), SV_BAD_INPUT,
                 ".npy version 9 is not known");
    memset(file + 8, 0xff, 2), file[6] = 1;
    assert_fails(c, sv_points_parse(c, file, n, "w", "xyzi", &p), SV_BAD_INPUT,
                 "the .npy header claims 65535 bytes");
    sv_ctx_close(c);
}
END_TEST

START_TEST(sample_files)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char path[512];
    sv_points p;
    snprintf(path, sizeof path, "%s/data/kitti/training/velodyne/000134.bin", reference);
    assert_ok(c, sv_points_read(c, path, "xyzi", &p));
    ck_assert(p.count > 18958 && p.dropped == 0);
    for (int i = 0; i < p.count; i++) ck_assert(p.data[4 * i + 3] >= 0 && p.data[4 * i + 3] <= 1);
    sv_points_free(&p);
    snprintf(path, sizeof path, "%s/data/bench/nuscenes_10sweeps_f16.bin", reference);
    assert_ok(c, sv_points_read(c, path, "xyzit:f16", &p));
    ck_assert(p.count == 271156 && p.columns == 5 && p.dropped == 0);
    for (int i = 0; i < p.count; i++) ck_assert(p.data[5 * i + 4] >= -0.01f && p.data[5 * i + 4] < 1);
    sv_points_free(&p);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("points");
    TCase *tests = tcase_create("points");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, layouts_are_named);
    tcase_add_test(tests, raw_floats);
    tcase_add_test(tests, every_half_float);
    tcase_add_test(tests, npy_files);
    tcase_add_test(tests, sample_files);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
