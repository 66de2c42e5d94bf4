/* SPDX-License-Identifier: Apache-2.0
 *
 * Drawing operations, PNG files, and the bird's-eye view: what must be where.
 */
#include "perception/font.h"
#include "perception/render.h"
#include "support.h"

#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

static uint32_t pixel(const sv_image *image, int x, int y)
{
    const uint8_t *p = image->rgb + 3 * ((size_t)y * (size_t)image->width + (size_t)x);
    return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
}

static double brightness(const sv_image *image)
{
    double sum = 0;
    for (int i = 0; i < image->width * image->height; i++) sum += image->rgb[3 * i] / 255.0;
    return sum;
}

static sv_image canvas(sv_ctx *c, int width, int height)
{
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, width, height, 0));
    return image;
}

static const sv_paint white = {0xffffff, 1};

START_TEST(shapes_cover_their_area)
{
    sv_ctx *c = test_context(1);
    sv_image image = canvas(c, 64, 48);
    sv_image_blend(&image, 3, 4, (sv_paint){0x102030, 1});
    ck_assert_uint_eq(pixel(&image, 3, 4), 0x102030);
    sv_image_blend(&image, 3, 4, (sv_paint){0xffffff, 0.5f});
    ck_assert_uint_eq(pixel(&image, 3, 4), 0x889098); /* halves, rounded to even */
    sv_image_free(&image);

    /* whole pixels exactly, and nothing around them */
    image = canvas(c, 64, 48);
    sv_image_rectangle(&image, 10, 12, 4, 3, white);
    for (int y = 0; y < 48; y++)
        for (int x = 0; x < 64; x++)
            ck_assert_uint_eq(pixel(&image, x, y), x >= 10 && x < 14 && y >= 12 && y < 15 ? 0xffffff : 0);
    sv_image_free(&image);

    /* a turned rectangle covers its area; the direction of its corners does not matter */
    for (int turn = 0; turn < 2; turn++) {
        image = canvas(c, 64, 48);
        float corners[4][2];
        for (int k = 0; k < 4; k++) {
            const float u = k == 0 || k == 3 ? 12 : -12, w = k < 2 ? 7 : -7;
            corners[turn ? 3 - k : k][0] = 31.3f + u * cosf(0.4f) - w * sinf(0.4f);
            corners[turn ? 3 - k : k][1] = 24.1f + u * sinf(0.4f) + w * cosf(0.4f);
        }
        sv_image_polygon(&image, (const float(*)[2])corners, 4, white);
        ck_assert(fabs(brightness(&image) - 24 * 14) < 6);
        ck_assert_uint_eq(pixel(&image, 31, 24), 0xffffff);
        sv_image_free(&image);
    }

    /* lines: length times width, at any angle */
    for (int angle = 0; angle < 16; angle++) {
        image = canvas(c, 64, 48);
        const float x = 18 * cosf((float)angle * 0.3927f), y = 18 * sinf((float)angle * 0.3927f);
        sv_image_line(&image, 32.5f - x, 24.5f - y, 32.5f + x, 24.5f + y, 2, white);
        ck_assert_msg(fabs(brightness(&image) - 75) < 5, "angle %d: %g", angle, brightness(&image));
        ck_assert_uint_eq(pixel(&image, 32, 24), 0xffffff);
        sv_image_free(&image);
    }

    /* clipped, and nothing for what is not finite */
    image = canvas(c, 16, 16);
    const float nan_corner[3][2] = {{NAN, 0}, {1, 1}, {2, 0}},
                far[3][2] = {{-1e30f, 0}, {1e30f, 1}, {0, 1e30f}};
    sv_image_polygon(&image, nan_corner, 3, white);
    sv_image_polygon(&image, far, 3, white);
    sv_image_line(&image, NAN, 0, 1, 1, 1, white);
    sv_image_line(&image, 0, 0, INFINITY, 1, 1, white);
    sv_image_text(&image, 400, -300, 3, "far away", white);
    sv_image_blend(&image, -1, 0, white);
    sv_image_blend(&image, 0, 16, white);
    ck_assert(brightness(&image) == 0);
    sv_image_line(&image, -900000, 8, 900000, 8, 2, white);
    ck_assert(fabs(brightness(&image) - 32) < 0.5);
    sv_image_line(&image, 8, 8, 8, 8, 4, white); /* a dot */
    sv_image_free(&image);
    sv_image_free(&image);
    assert_fails(c, sv_image_new(c, &image, 0, 5, 0), SV_BAD_INPUT, "0 x 5 pixels");
    assert_fails(c, sv_image_new(c, &image, 5, SV_IMAGE_SIDE + 1, 0), SV_BAD_INPUT,
                 "each side must have 1 to 16384");
    sv_ctx_close(c);
}
END_TEST

START_TEST(letters_are_drawn)
{
    sv_ctx *c = test_context(1);
    sv_image image = canvas(c, 40, 30);
    sv_image_text(&image, 2, 3, 2, "T|", white);
    /* the bar of the T: ten pixels wide, two high */
    for (int x = 2; x < 12; x++)
        ck_assert(pixel(&image, x, 3) == 0xffffff && pixel(&image, x, 4) == 0xffffff);
    ck_assert(pixel(&image, 2, 5) == 0 && pixel(&image, 6, 16) == 0xffffff && pixel(&image, 6, 17) == 0);
    ck_assert(pixel(&image, 14 + 4, 3 + 17) == 0xffffff); /* the stroke goes below the base line */
    sv_image_free(&image);
    ck_assert_int_eq(sv_image_text_width("", 2), 0);
    ck_assert_int_eq(sv_image_text_width("abc", 2), 34);
    /* all letters differ, and stay within five columns */
    for (int a = 32; a < 127; a++)
        for (int b = 32; b < 127; b++) {
            ck_assert(a == b || memcmp(sv_font_glyph((char)a), sv_font_glyph((char)b), SV_FONT_ROWS) != 0);
            for (int row = 0; row < SV_FONT_ROWS; row++) ck_assert(sv_font_glyph((char)a)[row] < 32);
        }
    ck_assert_ptr_eq(sv_font_glyph('\xe4'), sv_font_glyph('\n'));
    sv_ctx_close(c);
}
END_TEST

START_TEST(png_reads_back)
{
    sv_ctx *c = test_context(1);
    sv_image image = canvas(c, 37, 21);
    test_rng rng = {9};
    for (int i = 0; i < 37 * 21 * 3; i++) image.rgb[i] = (uint8_t)rng_u64(&rng);
    assert_ok(c, sv_image_write_png(c, &image, test_path("a.png")));
    png_image png = {.version = PNG_IMAGE_VERSION};
    ck_assert(png_image_begin_read_from_file(&png, test_path("a.png")));
    ck_assert(png.width == 37 && png.height == 21);
    png.format = PNG_FORMAT_RGB;
    uint8_t *rgb = malloc(PNG_IMAGE_SIZE(png));
    ck_assert(png_image_finish_read(&png, NULL, rgb, 0, NULL));
    ck_assert(memcmp(rgb, image.rgb, 37 * 21 * 3) == 0);
    free(rgb);
    assert_fails(c, sv_image_write_png(c, &image, test_path("no/folder.png")), SV_IO, "cannot be written");
    assert_fails(c, sv_image_write_png(c, &image, "/dev/full"), SV_IO, "/dev/full: cannot be written");
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

static const char *const classes[] = {"Car", "Pedestrian"};

static int colour_distance(uint32_t a, uint32_t b)
{
    int sum = 0;
    for (int shift = 0; shift < 24; shift += 8) sum += abs((int)(a >> shift & 255) - (int)(b >> shift & 255));
    return sum;
}

static sv_bev_options plain_options(void)
{
    sv_bev_options o = sv_bev_options_default();
    o.x_min = 0, o.x_max = 20, o.y_min = -10, o.y_max = 10;
    o.pixels_per_metre = 8;
    o.legend = false;
    return o;
}

START_TEST(boxes_lie_where_they_should)
{
    sv_ctx *c = test_context(1);
    const sv_bev_options o = plain_options();
    sv_image image, empty;
    assert_ok(c, sv_render_bev(c, &empty, NULL, NULL, 0, classes, 2, &o));
    ck_assert(empty.width == 160 && empty.height == 160);
    /* 4 m long, 2 m wide, 10 m ahead and 5 m to the left, heading left: the length lies across the picture */
    const sv_box box = {.x = 10,
                        .y = 5,
                        .z = 0,
                        .dx = 4,
                        .dy = 2,
                        .dz = 1.5f,
                        .heading = 1.57079633f,
                        .score = 0.9f,
                        .label = 1};
    assert_ok(c, sv_render_bev(c, &image, NULL, &box, 1, classes, 2, &o));
    const uint32_t colour = sv_class_colour(1);
    ck_assert_uint_ne(colour, sv_class_colour(2));
    /* centre at column (10-5)*8 = 40, row (20-10)*8 = 80; corners 16 columns and 8 rows away */
    for (int x = 40 - 16; x < 40 + 16; x++)
        for (int side = 0; side < 2; side++)
            ck_assert_int_lt(colour_distance(pixel(&image, x, side ? 87 : 72), colour), 80);
    ck_assert_uint_ne(pixel(&image, 40, 76), pixel(&empty, 40, 76)); /* tinted inside */
    ck_assert_uint_eq(pixel(&image, 40, 64), pixel(&empty, 40, 64));
    ck_assert_uint_eq(pixel(&image, 40, 95), pixel(&empty, 40, 95));
    /* the heading mark sticks out on the left, not on the right */
    ck_assert_uint_ne(pixel(&image, 40 - 16 - 5, 80), pixel(&empty, 40 - 16 - 5, 80));
    ck_assert_uint_eq(pixel(&image, 40 + 16 + 5, 80), pixel(&empty, 40 + 16 + 5, 80));
    sv_image_free(&image);

    /* the best box is painted last */
    sv_box two[2] = {box, box};
    two[1].label = 2;
    assert_ok(c, sv_render_bev(c, &image, NULL, two, 2, classes, 2, &o));
    const uint32_t edge = pixel(&image, 40, 71);
    ck_assert_int_lt(colour_distance(edge, colour), 60);
    ck_assert_int_gt(colour_distance(edge, sv_class_colour(2)), 100);
    sv_image_free(&image);

    /* nonsense is not drawn, and labels beyond the classes are no reason to fail */
    const sv_box bad[4] = {{.x = NAN, .dx = 1, .dy = 1, .label = 1},
                           {.x = 1e30f, .dx = 1, .dy = 1, .label = 1},
                           {.x = 5, .dx = INFINITY, .dy = 1, .label = 1},
                           {.x = -1e9f, .y = 3e9f, .dx = 4, .dy = 2, .label = 77}};
    sv_bev_options with = o;
    assert_ok(c, sv_render_bev(c, &image, NULL, bad, 4, classes, 2, &with));
    ck_assert(memcmp(image.rgb, empty.rgb, 160 * 160 * 3) == 0);
    sv_image_free(&image);
    with.legend = with.scores = true;
    with.title = "title";
    with.truth = &box, with.truth_count = 1;
    assert_ok(c, sv_render_bev(c, &image, NULL, bad, 4, classes, 2, &with));
    ck_assert(memcmp(image.rgb, empty.rgb, 160 * 160 * 3) != 0);
    sv_image_free(&image);
    sv_image_free(&empty);
    sv_ctx_close(c);
}
END_TEST

START_TEST(points_lie_where_they_should)
{
    sv_ctx *c = test_context(1);
    sv_bev_options o = plain_options();
    o.colour_min = 0, o.colour_max = 2;
    float data[2][4] = {{15.0625f, -4.9375f, 0, 0.5f}, {2.0625f, 3.0625f, 2, 0.5f}};
    sv_points points = {.data = data[0], .count = 2, .columns = 4};
    sv_image image, empty;
    assert_ok(c, sv_render_bev(c, &empty, NULL, NULL, 0, classes, 2, &o));
    assert_ok(c, sv_render_bev(c, &image, &points, NULL, 0, classes, 2, &o));
    /* (20 - 15.06) * 8 = row 39, (10 + 4.94) * 8 = column 119; the higher point is the lighter one */
    const uint32_t low = pixel(&image, 119, 39), high = pixel(&image, 55, 143);
    ck_assert_uint_ne(low, pixel(&empty, 119, 39));
    ck_assert((high >> 8 & 255) > (low >> 8 & 255) + 60);
    int changed = 0;
    for (int i = 0; i < 160 * 160; i++)
        changed += pixel(&image, i % 160, i / 160) != pixel(&empty, i % 160, i / 160);
    ck_assert(changed >= 2 && changed <= 18);
    sv_image_free(&image);
    sv_image_free(&empty);

    /* the order of the points changes nothing, in any colouring */
    enum { MANY = 20000 };
    float *many = malloc(MANY * 4 * sizeof *many);
    test_rng rng = {1};
    rng_fill(&rng, many, MANY * 4, 6);
    points = (sv_points){.data = many, .count = MANY, .columns = 4};
    o.colour_max = 0;
    o.legend = true;
    for (int by = 0; by < 2; by++) {
        o.colour_by = by ? SV_BEV_INTENSITY : SV_BEV_HEIGHT;
        sv_image again;
        assert_ok(c, sv_render_bev(c, &image, &points, NULL, 0, classes, 2, &o));
        for (int i = MANY - 1; i > 0; i--) {
            const int j = (int)(rng_u64(&rng) % (uint64_t)(i + 1));
            for (int k = 0; k < 4; k++) {
                const float t = many[4 * i + k];
                many[4 * i + k] = many[4 * j + k];
                many[4 * j + k] = t;
            }
        }
        assert_ok(c, sv_render_bev(c, &again, &points, NULL, 0, classes, 2, &o));
        ck_assert(memcmp(image.rgb, again.rgb, 160 * 160 * 3) == 0);
        sv_image_free(&image);
        sv_image_free(&again);
    }
    free(many);
    points = (sv_points){.data = data[0], .count = 2, .columns = 3};
    o.colour_by = SV_BEV_INTENSITY;
    assert_fails(c, sv_render_bev(c, &image, &points, NULL, 0, classes, 2, &o), SV_BAD_INPUT,
                 "points of 3 columns");
    ck_assert_ptr_null(image.rgb);
    sv_ctx_close(c);
}
END_TEST

START_TEST(impossible_pictures_are_refused)
{
    sv_ctx *c = test_context(1);
    sv_image image;
    sv_bev_options o = plain_options();
    o.x_max = o.x_min;
    assert_fails(c, sv_render_bev(c, &image, NULL, NULL, 0, classes, 2, &o), SV_BAD_INPUT, "cannot be drawn");
    o = plain_options();
    o.pixels_per_metre = NAN;
    assert_fails(c, sv_render_bev(c, &image, NULL, NULL, 0, classes, 2, &o), SV_BAD_INPUT, "cannot be drawn");
    o.pixels_per_metre = 5000;
    assert_fails(c, sv_render_bev(c, &image, NULL, NULL, 0, classes, 2, &o), SV_BAD_INPUT,
                 "fewer pixels per metre");
    o = (sv_bev_options){0};
    assert_fails(c, sv_render_bev(c, &image, NULL, NULL, 0, classes, 2, &o), SV_INTERNAL,
                 "sv_bev_options_default");
    /* very small ones are fine, with everything on */
    o = sv_bev_options_default();
    o.pixels_per_metre = 0.02f;
    o.title = "small";
    assert_ok(c, sv_render_bev(c, &image, NULL, NULL, 0, classes, 2, &o));
    ck_assert(image.width == 2 && image.height == 2);
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("render");
    TCase *tests = tcase_create("render");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, shapes_cover_their_area);
    tcase_add_test(tests, letters_are_drawn);
    tcase_add_test(tests, png_reads_back);
    tcase_add_test(tests, boxes_lie_where_they_should);
    tcase_add_test(tests, points_lie_where_they_should);
    tcase_add_test(tests, impossible_pictures_are_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
