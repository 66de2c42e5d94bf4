/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON scanner: numbers against strtod, what is wrong told with its place, rows that straddle what is in
 * memory.
 */
#define _GNU_SOURCE
#include "perception/json_scan.h"
#include "support.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void scan_number(const char *text, double *out)
{
    sv_json_scan s = sv_json_scan_begin(text, strlen(text), true);
    ck_assert_msg(sv_json_read_number(&s, out), "%s: %s", text, s.problem);
    ck_assert_msg(sv_json_at_end(&s), "%s", text);
}

START_TEST(numbers_are_rounded_as_strtod_does)
{
    test_rng rng = {7};
    static const char *const formats[] = {"%.17g", "%.16g", "%.9f", "%.3f", "%.12e", "%.19g", "%.25f", "%g"};
    for (int i = 0; i < 200000; i++) {
        char text[400];
        const double size = exp(rng_uniform(&rng, -30, 30));
        snprintf(text, sizeof text, formats[i % 8], size * rng_uniform(&rng, -1, 1));
        if (strlen(text) > 99) continue;
        double got;
        scan_number(text, &got);
        const double want = strtod(text, NULL);
        ck_assert_msg(memcmp(&got, &want, sizeof got) == 0, "%s: %.17g instead of %.17g", text, got, want);
    }
    /* halfway between two doubles, and next to it */
    static const char *const hard[] = {"9007199254740993",
                                       "9007199254740993.0",
                                       "9007199254740992.9",
                                       "0.1",
                                       "-0.0",
                                       "0",
                                       "1.00000000000000011102230246251565404",
                                       "4503599627370497.5",
                                       "4503599627370496.5",
                                       "900719925474099.35",
                                       "1e22",
                                       "1e23",
                                       "123456789012345678e-19",
                                       "5e-324"};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) {
        double got;
        scan_number(hard[i], &got);
        const double want = strtod(hard[i], NULL);
        ck_assert_msg(memcmp(&got, &want, sizeof got) == 0, "%s: %.17g instead of %.17g", hard[i], got, want);
    }
    double odd;
    scan_number("NaN", &odd);
    ck_assert(isnan(odd));
    scan_number("-Infinity", &odd);
    ck_assert(odd == -INFINITY);
    scan_number("1e999", &odd);
    ck_assert(odd == INFINITY);
}
END_TEST

START_TEST(wrong_json_is_told)
{
    static const struct {
        const char *text, *problem; /* NULL: cut off */
    } wrong[] = {{"[1, 2", NULL},
                 {"{\"a\": [1, 2}", "a comma or ] is missing"},
                 {"{\"a\" 1}", "a colon is missing behind a key"},
                 {"{\"a\": 1,}", "nothing follows a comma"},
                 {"{\"a\": 1 \"b\": 2}", "a comma or } is missing"},
                 {"{\"a\": nul}", "a value is expected"},
                 {"{\"a\": \"x", NULL},
                 {"{\"a\": \"x\ny\"}", "a text holds a control character"},
                 {"{\"a\": -}", "a number is expected"},
                 {"{\"a\": 1.}", "a number ends with a point"},
                 {"{\"a\": 1e}", "a number ends with e"},
                 {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "it is nested too deeply"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sv_json_scan s = sv_json_scan_begin(wrong[i].text, strlen(wrong[i].text), true);
        ck_assert_msg(!sv_json_skip(&s), "%s", wrong[i].text);
        if (wrong[i].problem)
            ck_assert_msg(s.state == SV_JSON_WRONG && strcmp(s.problem, wrong[i].problem) == 0, "%s: %s",
                          wrong[i].text, s.problem);
        else
            ck_assert_msg(s.state == SV_JSON_SHORT, "%s", wrong[i].text);
    }
    char out[16];
    const char *text = "\"a\\u00e9\\n\\ud83d\\ude00\"";
    sv_json_span span;
    sv_json_scan s = sv_json_scan_begin(text, strlen(text), true);
    ck_assert(sv_json_read_text(&s, &span) && sv_json_span_copy(span, out, sizeof out));
    ck_assert_str_eq(out, "a\xc3\xa9\n\xf0\x9f\x98\x80");
    ck_assert(!sv_json_span_copy(span, out, 5));
}
END_TEST

/* Rows of any length, so that they straddle the window in every way. */
typedef struct sums {
    double x;
    int64_t rows;
    double sum;
} sums;
static void read_sum(sv_json_scan *s, void *user)
{
    sums *to = user;
    sv_json_span key;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        if (sv_json_span_is(key, "x"))
            sv_json_read_number(s, &to->x);
        else
            sv_json_skip(s);
    }
}
static sv_status take_sum(sv_ctx *c, void *user, int64_t row)
{
    (void)c;
    sums *to = user;
    ck_assert_int_eq(row, to->rows);
    to->rows++;
    to->sum += to->x;
    return SV_OK;
}

START_TEST(rows_straddle_the_window)
{
    sv_ctx *c = test_context(1);
    const char *path = test_path("rows.json");
    FILE *file = fopen(path, "w");
    double want = 0;
    int64_t rows = 0;
    test_rng rng = {3};
    fputs(" [ ", file);
    for (long size = 0; size < (5 << 20); rows++) {
        const int pad = rows % 500 == 77 ? 3000000 : (int)rng_uniform(&rng, 0, 400);
        const double x = floor(rng_uniform(&rng, -1000, 1000));
        size += fprintf(file, "%s{\"pad\": \"%*s\", \"x\": %.0f}", rows ? ",\n" : "", pad, "", x);
        want += x;
    }
    fputs("]\n\n", file);
    fclose(file);
    sums got = {0};
    const sv_json_rows reader = {path, &got, read_sum, take_sum};
    assert_ok(c, sv_json_read_rows(c, &reader));
    ck_assert_int_eq(got.rows, rows);
    ck_assert_double_eq(got.sum, want);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json scan");
    TCase *tests = tcase_create("json scan");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, numbers_are_rounded_as_strtod_does);
    tcase_add_test(tests, wrong_json_is_told);
    tcase_add_test(tests, rows_straddle_the_window);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
