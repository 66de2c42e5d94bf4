/* SPDX-License-Identifier: Apache-2.0
 *
 * Diagrams: lines lie where their numbers say, nothing leaves the diagram, odd numbers are gaps.
 */
#include "perception/plot.h"
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 400, HEIGHT = 300 };

static uint32_t pixel(const sv_image *image, int x, int y)
{
    const uint8_t *p = image->rgb + 3 * ((size_t)y * (size_t)image->width + (size_t)x);
    return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
}

/* The colour, or nearly so at the edge of a line. */
static bool is_near(const sv_image *image, int x, int y, uint32_t colour)
{
    const uint32_t p = pixel(image, x, y);
    for (int k = 0; k < 24; k += 8)
        if (abs((int)(p >> k & 255) - (int)(colour >> k & 255)) > 60) return false;
    return true;
}

/* Where the colour is found: its bounds and number of pixels. */
typedef struct patch {
    int left, top, right, bottom, count;
} patch;

static patch find(const sv_image *image, uint32_t colour)
{
    patch p = {image->width, image->height, -1, -1, 0};
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            if (!is_near(image, x, y, colour)) continue;
            p.left = x < p.left ? x : p.left, p.right = x > p.right ? x : p.right;
            p.top = y < p.top ? y : p.top, p.bottom = y > p.bottom ? y : p.bottom;
            p.count++;
        }
    return p;
}

static const uint32_t red = 0xff0000, blue = 0x0000ff;

static sv_image draw(sv_ctx *c, const sv_plot *plot)
{
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, WIDTH, HEIGHT, 0x123456));
    sv_plot_draw(&image, 20, 10, WIDTH - 40, HEIGHT - 20, plot);
    for (int x = 0; x < WIDTH; x++) {
        ck_assert_uint_eq(pixel(&image, x, 9), 0x123456);
        ck_assert_uint_eq(pixel(&image, x, HEIGHT - 10), 0x123456);
    }
    for (int y = 0; y < HEIGHT; y++) {
        ck_assert_uint_eq(pixel(&image, 19, y), 0x123456);
        ck_assert_uint_eq(pixel(&image, WIDTH - 20, y), 0x123456);
    }
    return image;
}

START_TEST(lines_lie_where_their_numbers_say)
{
    sv_ctx *c = test_context(1);
    const double x[] = {0, 10}, low[] = {0, 0}, high[] = {4, 4}, rising[] = {0, 4};
    sv_plot_line lines[2] = {{.x = x, .y = low, .count = 2, .colour = red},
                             {.x = x, .y = high, .count = 2, .colour = blue}};
    sv_plot plot = sv_plot_default();
    plot.title = "title", plot.x.label = "x", plot.y.label = "y";
    plot.lines = lines, plot.line_count = 2;
    sv_image image = draw(c, &plot);
    const patch bottom = find(&image, red), top = find(&image, blue);
    ck_assert_int_gt(bottom.count, 200);
    ck_assert_int_gt(top.count, 200);
    ck_assert_int_le(bottom.bottom - bottom.top, 3);
    ck_assert_int_gt(bottom.top, top.bottom + 150);
    ck_assert_int_eq(bottom.left, top.left);
    sv_image_free(&image);
    /* a rising line goes through the middle of both */
    lines[0].y = rising;
    plot.line_count = 1;
    plot.y.low = 0, plot.y.high = 4;
    image = draw(c, &plot);
    const int mx = (bottom.left + bottom.right) / 2, my = (bottom.top + top.bottom) / 2;
    bool there = false;
    for (int dy = -3; dy <= 3; dy++) there |= is_near(&image, mx, my + dy, red);
    ck_assert(there);
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

START_TEST(logarithms_have_equal_steps)
{
    sv_ctx *c = test_context(1);
    const double x[] = {1, 10, 100, 1000}, y[] = {0.01, 0.1, 1, 10};
    sv_plot_line line = {.x = x, .y = y, .count = 4, .colour = red, .points = true};
    sv_plot plot = sv_plot_default();
    plot.lines = &line, plot.line_count = 1;
    plot.x.logarithmic = plot.y.logarithmic = true;
    sv_image image = draw(c, &plot);
    /* a straight line from corner to corner */
    const patch p = find(&image, red);
    for (int k = 1; k < 8; k++) {
        const int px = p.left + (p.right - p.left) * k / 8, py = p.bottom - (p.bottom - p.top) * k / 8;
        bool there = false;
        for (int dy = -5; dy <= 5; dy++) there |= is_near(&image, px, py + dy, red);
        ck_assert_msg(there, "not at %d of 8", k);
    }
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

START_TEST(odd_numbers_are_gaps)
{
    sv_ctx *c = test_context(1);
    const double x[] = {0, 1, 2, 3, 4, 5}, y[] = {1, 1, NAN, 1, INFINITY, -1e300};
    sv_plot_line lines[3] = {{.x = x, .y = y, .count = 6, .colour = red, .name = "a"},
                             {.x = x, .y = y, .count = 0, .colour = blue, .name = "nothing"},
                             {.x = x, .y = y, .count = 1, .colour = blue, .points = true}};
    sv_plot plot = sv_plot_default();
    plot.lines = lines, plot.line_count = 3;
    plot.y.low = 0, plot.y.high = 2;
    for (int corner = 0; corner < 4; corner++) {
        plot.legend = (sv_plot_corner)corner;
        sv_image image = draw(c, &plot);
        ck_assert_int_gt(find(&image, red).count, 30);
        ck_assert_int_gt(find(&image, blue).count, 10); /* the legend's stroke, and a dot */
        sv_image_free(&image);
    }
    /* all the same, nothing at all, sizes that are too small, one that is much too large */
    const double same[] = {3, 3, 3, 3, 3, 3}, none[] = {NAN, NAN, NAN, NAN, NAN, NAN}, zero[6] = {0};
    const double *const data[] = {same, none, zero, y};
    for (int k = 0; k < 4; k++)
        for (int logarithmic = 0; logarithmic < 2; logarithmic++) {
            plot.lines =
                &(sv_plot_line){.x = data[k], .y = data[k], .count = 6, .colour = red, .points = true};
            plot.line_count = 1;
            plot.x = plot.y = (sv_plot_axis){.logarithmic = logarithmic};
            sv_image image = draw(c, &plot);
            sv_plot_draw(&image, 0, 0, 30, 30, &plot);
            sv_plot_draw(&image, -100, -100, 5000, 5000, &plot);
            sv_image_free(&image);
        }
    sv_ctx_close(c);
}
END_TEST

/* Labels are written beside their dots: none upon another, upon a dot or outside, however close the dots are. */
START_TEST(labels_keep_clear)
{
    enum { DOTS = 6 };
    static const uint32_t colours[DOTS] = {red, blue, 0x00ff00, 0xff00ff, 0x00ffff, 0x808000};
    sv_ctx *c = test_context(1);
    double x[DOTS], y[DOTS];
    sv_plot_line lines[DOTS];
    for (int i = 0; i < DOTS; i++) {
        x[i] = 5 + 0.3 * i, y[i] = 2 + 0.02 * (i % 2);
        lines[i] = (sv_plot_line){.x = &x[i],
                                  .y = &y[i],
                                  .count = 1,
                                  .colour = colours[i],
                                  .points = true,
                                  .dot = 8,
                                  .label = "label"};
    }
    sv_plot plot = sv_plot_default();
    plot.x.low = 0, plot.x.high = 10, plot.y.low = 0, plot.y.high = 4;
    plot.lines = lines, plot.line_count = DOTS;
    sv_image image = draw(c, &plot), bare;
    for (int i = 0; i < DOTS; i++) lines[i].label = NULL;
    bare = draw(c, &plot);
    int most = 0, least = WIDTH * HEIGHT;
    for (int i = 0; i < DOTS; i++) {
        const int letters = find(&image, colours[i]).count - find(&bare, colours[i]).count;
        most = letters > most ? letters : most, least = letters < least ? letters : least;
    }
    ck_assert_int_gt(least, 30); /* the same word in every colour, whole (threads add a little) */
    ck_assert_int_lt(most - least, 40);
    sv_image_free(&image);
    sv_image_free(&bare);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plot");
    TCase *tests = tcase_create("plot");
    tcase_add_test(tests, lines_lie_where_their_numbers_say);
    tcase_add_test(tests, logarithms_have_equal_steps);
    tcase_add_test(tests, odd_numbers_are_gaps);
    tcase_add_test(tests, labels_keep_clear);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
