/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers as text, whole-file output, JSON and the results file.
 */
#include "perception/core/file.h"
#include "perception/core/text.h"
#include "perception/json.h"
#include "perception/results.h"
#include "support.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yajl_tree.h>

START_TEST(numbers_as_text)
{
    static const struct {
        const char *text;
        double value;
    } good[] = {{"12", 12},      {"-0.5", -0.5},      {".5", 0.5},  {"3.", 3},
                {"+1e-3", 1e-3}, {"1_000.5", 1000.5}, {"1E2", 100}, {"0", 0}};
    static const char *const bad[] = {"",    ".",   "-",     "1e",   "1e+", "e5", "1 ",   " 1", "0x",
                                      "nan", "inf", "1e999", "1..2", "1,5", "_1", "1__0", "1_"};
    double d;
    int64_t i;
    for (size_t k = 0; k < sizeof good / sizeof *good; k++)
        ck_assert(sv_text_number(good[k].text, &d) && d == good[k].value);
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        ck_assert_msg(!sv_text_number(bad[k], &d), "'%s' was read", bad[k]);
    ck_assert(sv_text_integer("-12", &i) && i == -12);
    ck_assert(sv_text_integer("0x1F", &i) && i == 31);
    ck_assert(sv_text_integer("9223372036854775807", &i) && i == INT64_MAX);
    ck_assert(!sv_text_integer("9223372036854775808", &i));
    ck_assert(!sv_text_integer("010", &i) && !sv_text_integer("1.0", &i) && !sv_text_integer("0xg", &i) &&
              !sv_text_integer("", &i));
    char long_text[300];
    memset(long_text, '1', 299);
    long_text[299] = '\0';
    ck_assert(!sv_text_integer(long_text, &i) && !sv_text_number(long_text, &d));

    test_rng rng = {5};
    for (int k = 0; k < 20000; k++) {
        const uint64_t bits = rng_u64(&rng);
        float f;
        double g;
        memcpy(&f, &bits, sizeof f);
        memcpy(&g, &bits, sizeof g);
        char text[SV_NUMBER_TEXT];
        if (isfinite(f)) {
            ck_assert_int_eq(sv_text_from_float(text, f), strlen(text));
            ck_assert(sv_text_number(text, &d) && (float)d == f);
        }
        if (isfinite(g)) {
            sv_text_from_double(text, g);
            ck_assert(sv_text_number(text, &d) && d == g);
        }
    }
    ck_assert_int_eq(sv_text_distance("SHIFT", "SHIFFT", 2), 1);
    ck_assert_int_eq(sv_text_distance("DIRECTION", "direciton", 2), 1);
    ck_assert_int_eq(sv_text_distance("kitten", "sitting", 3), 3);
    ck_assert_int_eq(sv_text_distance("kitten", "sitting", 2), 3);
    ck_assert_int_eq(sv_text_distance("", "ab", 5), 2);
    ck_assert_int_eq(sv_text_distance(long_text, long_text, 5), 6); /* too long to compare */
}
END_TEST

static int files_in(const char *path)
{
    DIR *folder = opendir(path);
    int files = 0;
    for (struct dirent *entry; (entry = readdir(folder));) files += entry->d_name[0] != '.';
    closedir(folder);
    return files;
}

START_TEST(output_is_whole_or_absent)
{
    sv_ctx *c = test_context(1);
    sv_output o;
    size_t n;
    const char *path = test_path("x.txt");
    const int before = files_in(test_folder());
    assert_ok(c, sv_output_open(c, &o, path));
    fputs("one", o.stream);
    ck_assert(access(path, F_OK) != 0);
    sv_output_discard(&o);
    sv_output_discard(&o);
    ck_assert_int_eq(files_in(test_folder()), before);
    for (int round = 0; round < 2; round++) {
        assert_ok(c, sv_output_open(c, &o, path));
        fprintf(o.stream, "round %d", round);
        assert_ok(c, sv_output_commit(c, &o));
        sv_output_discard(&o);
        char *text = read_file(path, &n);
        ck_assert(text[6] == '0' + round && n == 7);
        free(text);
    }
    ck_assert_int_eq(files_in(test_folder()), before + 1);

    /* a link keeps being one */
    ck_assert_int_eq(symlink(path, test_path("link")), 0);
    assert_ok(c, sv_output_open(c, &o, test_path("link")));
    fputs("through", o.stream);
    assert_ok(c, sv_output_commit(c, &o));
    char *text = read_file(path, &n);
    ck_assert_str_eq(text, "through");
    free(text);
    ck_assert_int_eq(unlink(test_path("link")), 0);

    assert_ok(c, sv_output_open(c, &o, "/dev/null"));
    fputs("x", o.stream);
    assert_ok(c, sv_output_commit(c, &o));
    ck_assert(access("/dev/null", F_OK) == 0);
    assert_ok(c, sv_output_open(c, &o, "/dev/full"));
    fputs("x", o.stream);
    assert_fails(c, sv_output_commit(c, &o), SV_IO, "cannot be written: No space left on device");
    assert_fails(c, sv_output_open(c, &o, test_path("no/such/file")), SV_IO,
                 "no/such/file: cannot be written");
    assert_fails(c, sv_output_open(c, &o, test_folder()), SV_IO, "is a folder");

    void *bytes;
    assert_fails(c, sv_file_read(c, path, 6, &bytes, &n), SV_BAD_INPUT, "larger than the limit of 6 bytes");
    assert_ok(c, sv_file_read(c, path, 7, &bytes, &n));
    ck_assert_str_eq(bytes, "through");
    free(bytes);
    assert_fails(c, sv_file_read(c, "/dev/zero", 100000, &bytes, &n), SV_BAD_INPUT, "larger than the limit");
    ck_assert_ptr_null(bytes);
    sv_ctx_close(c);
}
END_TEST

START_TEST(json_is_json)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    sv_json j = sv_json_begin(out);
    sv_json_object(&j, SV_JSON_LINES);
    sv_json_key(&j, "a\"\\\n\t\x01/");
    sv_json_text(&j, "\xc3\xbc \xf0\x9f\x98\x80 \xff \xc3 \xed\xa0\x80 \xc0\xaf");
    sv_json_key(&j, "n");
    sv_json_array(&j, SV_JSON_INLINE);
    sv_json_int(&j, -7);
    sv_json_float(&j, 0.1f);
    sv_json_double(&j, 0.1);
    sv_json_float(&j, NAN);
    sv_json_bool(&j, true);
    sv_json_null(&j);
    sv_json_object(&j, SV_JSON_LINES);
    sv_json_end(&j);
    sv_json_end(&j);
    sv_json_key(&j, "empty");
    sv_json_array(&j, SV_JSON_LINES);
    sv_json_end(&j);
    sv_json_key(&j, "none");
    sv_json_text(&j, NULL);
    sv_json_end(&j);
    fclose(out);
    ck_assert_str_eq(text, "{\n  \"a\\\"\\\\\\n\\t\\u0001/\": \"\xc3\xbc \xf0\x9f\x98\x80 \\ufffd \\ufffd "
                           "\\ufffd\\ufffd\\ufffd \\ufffd\\ufffd\",\n"
                           "  \"n\": [-7, 0.100000001, 0.10000000000000001, null, true, null, {}],\n  "
                           "\"empty\": [],\n  \"none\": null\n}\n");
    char error[200];
    yajl_val tree = yajl_tree_parse(text, error, sizeof error);
    ck_assert_msg(tree != NULL, "%s", error);
    yajl_tree_free(tree);
    free(text);
}
END_TEST

START_TEST(results_read_back)
{
    static const char *const classes[] = {"Car", "Pedestrian \"x\""};
    sv_ctx *c = test_context(1);
    test_rng rng = {3};
    sv_box boxes[3] = {{0}};
    for (int i = 0; i < 3; i++) {
        rng_fill(&rng, &boxes[i].x, 10, 30);
        boxes[i].label = 1 + i % 2;
    }
    sv_results r;
    size_t n, m;
    for (int round = 0; round < 2; round++) {
        assert_ok(c, sv_results_open(c, &r, test_path(round ? "r1.json" : "r0.json"), classes, 2));
        assert_ok(c, sv_results_add(c, &r, "000134", boxes, 3, false));
        assert_ok(c, sv_results_add(c, &r, "empty", NULL, 0, false));
        assert_ok(c, sv_results_add(c, &r, "moving", boxes, 1, true));
        assert_ok(c, sv_results_close(c, &r));
        sv_results_discard(&r);
    }
    char *text = read_file(test_path("r0.json"), &n), *again = read_file(test_path("r1.json"), &m);
    ck_assert(n == m && memcmp(text, again, n) == 0);
    char error[200];
    yajl_val tree = yajl_tree_parse(text, error, sizeof error);
    ck_assert_msg(tree != NULL, "%s", error);
    const char *frames_path[] = {"frames", NULL}, *boxes_path[] = {"boxes", NULL},
               *label_path[] = {"label", NULL}, *score_path[] = {"score", NULL}, *box_path[] = {"box", NULL},
               *velocity_path[] = {"velocity", NULL}, *frame_path[] = {"frame", NULL};
    yajl_val frames = yajl_tree_get(tree, frames_path, yajl_t_array);
    ck_assert_uint_eq(YAJL_GET_ARRAY(frames)->len, 3);
    ck_assert_str_eq(
        YAJL_GET_STRING(yajl_tree_get(YAJL_GET_ARRAY(frames)->values[0], frame_path, yajl_t_string)),
        "000134");
    yajl_val list = yajl_tree_get(YAJL_GET_ARRAY(frames)->values[0], boxes_path, yajl_t_array);
    ck_assert_uint_eq(YAJL_GET_ARRAY(list)->len, 3);
    for (int i = 0; i < 3; i++) {
        yajl_val item = YAJL_GET_ARRAY(list)->values[i];
        ck_assert_str_eq(YAJL_GET_STRING(yajl_tree_get(item, label_path, yajl_t_string)), classes[i % 2]);
        ck_assert((float)YAJL_GET_DOUBLE(yajl_tree_get(item, score_path, yajl_t_number)) == boxes[i].score);
        yajl_val box = yajl_tree_get(item, box_path, yajl_t_array);
        ck_assert_uint_eq(YAJL_GET_ARRAY(box)->len, 7);
        for (int k = 0; k < 7; k++)
            ck_assert((float)YAJL_GET_DOUBLE(YAJL_GET_ARRAY(box)->values[k]) == (&boxes[i].x)[k]);
        ck_assert_ptr_null(yajl_tree_get(item, velocity_path, yajl_t_array));
    }
    list = yajl_tree_get(YAJL_GET_ARRAY(frames)->values[2], boxes_path, yajl_t_array);
    yajl_val velocity = yajl_tree_get(YAJL_GET_ARRAY(list)->values[0], velocity_path, yajl_t_array);
    ck_assert((float)YAJL_GET_DOUBLE(YAJL_GET_ARRAY(velocity)->values[1]) == boxes[0].vy);
    yajl_tree_free(tree);
    free(text), free(again);

    assert_ok(c, sv_results_open(c, &r, test_path("bad.json"), classes, 2));
    boxes[1].heading = NAN;
    assert_fails(c, sv_results_add(c, &r, "f", boxes, 3, false), SV_BAD_INPUT,
                 "frame 'f': box 1 has a value that is not finite");
    boxes[1].heading = 0, boxes[2].label = 3;
    assert_fails(c, sv_results_add(c, &r, "f", boxes, 3, false), SV_BAD_INPUT,
                 "box 2 has label 3 of 2 classes");
    boxes[2].label = 1, boxes[0].vx = INFINITY;
    assert_ok(c, sv_results_add(c, &r, "f", boxes, 3, false)); /* a velocity nobody predicted */
    sv_results_discard(&r);
    ck_assert(access(test_path("bad.json"), F_OK) != 0);
    FILE *full = fopen("/dev/full", "w");
    sv_results_begin(&r, full, classes, 2);
    assert_fails(c, sv_results_close(c, &r), SV_IO, "cannot be written");
    fclose(full);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("results");
    TCase *tests = tcase_create("results");
    tcase_add_test(tests, numbers_as_text);
    tcase_add_test(tests, output_is_whole_or_absent);
    tcase_add_test(tests, json_is_json);
    tcase_add_test(tests, results_read_back);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
