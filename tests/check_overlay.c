/* SPDX-License-Identifier: Apache-2.0
 *
 * Boxes and points in camera pictures: where they must be, what is cut off, how styles differ; PNG files in
 * and out, broken ones too.
 */
#include "perception/overlay.h"
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 320, HEIGHT = 200, GREY = 0x404040 };

/* Looks along x from the origin: u = 160 - 200 y / x, v = 100 - 200 z / x. */
static const double forward[12] = {160, -200, 0, 0, 100, 0, -200, 0, 1, 0, 0, 0};
static const char *const classes[] = {"Car", "Pedestrian"};

static uint32_t pixel(const sv_image *image, int x, int y)
{
    const uint8_t *p = image->rgb + 3 * ((size_t)y * (size_t)image->width + (size_t)x);
    return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
}

static sv_image grey(sv_ctx *c)
{
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, WIDTH, HEIGHT, GREY));
    return image;
}

static int changed(const sv_image *image)
{
    int n = 0;
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) n += pixel(image, x, y) != GREY;
    return n;
}

static sv_image draw(sv_ctx *c, const sv_box *boxes, int count, const sv_camera_options *options)
{
    sv_image image = grey(c);
    assert_ok(c, sv_render_camera(c, &image, forward, boxes, count, classes, 2, options));
    return image;
}

static sv_camera_options plain(void)
{
    sv_camera_options options = sv_camera_options_default();
    options.scores = false;
    return options;
}

START_TEST(edges_are_where_the_corners_project)
{
    sv_ctx *c = test_context(1);
    /* its near face is at x = 10: 20 pixels a metre, 140..180 x 80..120; the far one at x = 20 */
    const sv_box box = {.x = 15, .dx = 10, .dy = 2, .dz = 2, .label = 1};
    const sv_box_style style = {.colour = 0xff0000, .width = 2};
    sv_camera_options options = plain();
    options.styles = &style;
    sv_image image = draw(c, &box, 1, &options);
    for (int i = 145; i < 176; i++) {
        ck_assert_uint_eq(pixel(&image, i, 80), 0xff0000);
        ck_assert_uint_eq(pixel(&image, i, 119), 0xff0000);
    }
    for (int i = 85; i < 116; i++) {
        ck_assert_uint_eq(pixel(&image, 140, i), 0xff0000);
        ck_assert_uint_eq(pixel(&image, 179, i), 0xff0000);
    }
    /* the far face is hidden behind the near one: faint; nothing inside, nothing beyond the rim */
    const uint32_t far = pixel(&image, 160, 90);
    ck_assert(far != GREY && (far >> 16) > 0x60 && (far >> 16) < 0xb0);
    ck_assert_uint_eq(pixel(&image, 160, 84), GREY);
    ck_assert_uint_eq(pixel(&image, 160, 100), GREY);
    ck_assert_uint_eq(pixel(&image, 160, 74), GREY);
    ck_assert_uint_eq(pixel(&image, 132, 100), GREY);
    sv_image_free(&image);

    /* turned round, the front is the near face: it is filled */
    sv_box turned = box;
    turned.heading = 3.14159265f;
    const sv_box_style filled = {.colour = 0xff0000, .width = 2, .fill = 0.5f};
    options.styles = &filled;
    image = draw(c, &turned, 1, &options);
    ck_assert((pixel(&image, 150, 100) >> 16) > 0x90 && (pixel(&image, 150, 100) & 0xff) < 0x30);
    ck_assert_uint_eq(pixel(&image, 134, 100), GREY);
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

START_TEST(what_is_behind_is_cut_off)
{
    sv_ctx *c = test_context(1);
    sv_camera_options options = plain();
    const sv_box behind = {.x = -15, .dx = 10, .dy = 2, .dz = 2, .label = 1},
                 beside = {.x = 10, .y = 40, .dx = 4, .dy = 2, .dz = 2, .label = 1},
                 broken[] = {{.x = NAN, .dx = 1, .dy = 1, .dz = 1, .label = 1},
                             {.x = 9, .dx = INFINITY, .dy = 1, .dz = 1, .label = 1},
                             {.x = 9, .dx = -1, .dy = 1, .dz = 1, .label = 1},
                             {.x = 1e30f, .dx = 1, .dy = 1, .dz = 1, .label = 1}};
    sv_image image = draw(c, &behind, 1, &options);
    ck_assert_int_eq(changed(&image), 0);
    sv_image_free(&image);
    image = draw(c, &beside, 1, &options);
    ck_assert_int_eq(changed(&image), 0);
    sv_image_free(&image);
    image = draw(c, broken, 4, &options);
    ck_assert_int_eq(changed(&image), 0);
    sv_image_free(&image);
    /* a long box to the left that passes the camera: its lower right edge runs from the vanishing point
     * outwards, and nothing appears on the other side */
    const sv_box passing = {.x = 0, .y = 2, .z = -1, .dx = 60, .dy = 1, .dz = 1, .label = 1};
    image = draw(c, &passing, 1, &options);
    ck_assert(changed(&image) > 500);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 162; x < WIDTH; x++) ck_assert_uint_eq(pixel(&image, x, y), GREY);
    for (int y = 0; y < 95; y++)
        for (int x = 0; x < WIDTH; x++) ck_assert_uint_eq(pixel(&image, x, y), GREY);
    /* the edge y = 1.5, z = -1.5 is the diagonal through (160, 100): u falls as v rises */
    for (int i = 12; i < 90; i++) ck_assert(pixel(&image, 160 - i, 100 + i) != GREY);
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

START_TEST(styles_can_be_told_apart)
{
    sv_ctx *c = test_context(1);
    const sv_box box = {.x = 10, .dx = 2, .dy = 4, .dz = 3, .label = 2, .score = 0.5f};
    sv_box_style style = {.colour = 0x00ff00, .width = 2};
    sv_camera_options options = plain();
    options.styles = &style;
    sv_image solid = draw(c, &box, 1, &options);
    style.dashed = true;
    sv_image dashed = draw(c, &box, 1, &options);
    const int whole = changed(&solid), parts = changed(&dashed);
    ck_assert_msg(parts < whole * 9 / 10 && parts > whole / 3, "%d of %d pixels", parts, whole);
    sv_image_free(&dashed);
    /* by class without styles; truth in white, beneath */
    options.styles = NULL;
    sv_image image = draw(c, &box, 1, &options);
    ck_assert(changed(&image) > whole); /* the front face is filled */
    sv_image_free(&image);
    options.truth = &box;
    options.truth_count = 1;
    image = draw(c, NULL, 0, &options);
    int white = 0;
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) white += pixel(&image, x, y) == 0xffffff;
    ck_assert_int_gt(white, 100);
    sv_image_free(&image);
    /* a text of its own, or class and score: more is drawn above the box, nowhere below it */
    options = sv_camera_options_default();
    options.styles = &style;
    style.dashed = false;
    sv_image scores = draw(c, &box, 1, &options);
    style.text = "missed";
    sv_image own = draw(c, &box, 1, &options);
    ck_assert(changed(&scores) > whole && changed(&own) > whole && changed(&scores) > changed(&own));
    for (int y = 75; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) ck_assert_uint_eq(pixel(&scores, x, y), pixel(&solid, x, y));
    sv_image_free(&scores);
    sv_image_free(&own);
    sv_image_free(&solid);
    sv_ctx_close(c);
}
END_TEST

START_TEST(styles_from_above)
{
    sv_ctx *c = test_context(1);
    const sv_box boxes[2] = {{.x = 20, .y = 8, .dx = 8, .dy = 8, .label = 1},
                             {.x = 20, .y = -8, .dx = 8, .dy = 8, .label = 1}};
    const sv_box_style styles[2] = {{.colour = 0xff0000, .width = 2},
                                    {.colour = 0xff0000, .width = 2, .dashed = true}};
    sv_bev_options bev = sv_bev_options_default();
    bev.x_min = 0;
    bev.x_max = 40;
    bev.y_min = -20;
    bev.y_max = 20;
    bev.legend = false;
    bev.styles = styles;
    sv_image image;
    assert_ok(c, sv_render_bev(c, &image, NULL, boxes, 2, classes, 2, &bev));
    int left = 0, right = 0;
    for (int y = 0; y < 400; y++)
        for (int x = 0; x < 400; x++) {
            const bool red = pixel(&image, x, y) >> 16 == 0xff;
            left += red && x < 200;
            right += red && x >= 200;
        }
    ck_assert_msg(left > 500 && right > left / 4 && right < left * 3 / 4, "%d and %d red pixels", left,
                  right);
    sv_image_free(&image);
    /* a legend of its own in place of the classes: blue occurs nowhere else */
    const sv_legend_line lines[2] = {{{.colour = 0x0000ff, .fill = 1}, "found", 2},
                                     {{.colour = 0x0000ff, .dashed = true, .width = 1}, "missed", 0}};
    bev.legend = true;
    bev.lines = lines;
    bev.line_count = 2;
    assert_ok(c, sv_render_bev(c, &image, NULL, boxes, 2, classes, 2, &bev));
    int blue = 0;
    for (int y = 0; y < 40; y++)
        for (int x = 300; x < 400; x++) blue += pixel(&image, x, y) == 0x0000ff;
    ck_assert_int_eq(blue, 49); /* the swatch of what was found; the other is pale */
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

START_TEST(points_do_not_depend_on_their_order)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {2};
    enum { COUNT = 3000 };
    float forth[COUNT][4], back[COUNT][4];
    for (int i = 0; i < COUNT; i++) {
        const float p[4] = {(float)rng_uniform(&rng, -30, 60), (float)rng_uniform(&rng, -20, 20),
                            (float)rng_uniform(&rng, -2, 2), 0};
        memcpy(forth[i], p, sizeof p);
        memcpy(back[COUNT - 1 - i], p, sizeof p);
    }
    forth[0][0] = back[COUNT - 1][0] = NAN;
    forth[1][1] = back[COUNT - 2][1] = INFINITY;
    sv_camera_options options = plain();
    sv_points points = {.data = forth[0], .count = COUNT, .columns = 4};
    options.points = &points;
    sv_image a = draw(c, NULL, 0, &options);
    points.data = back[0];
    sv_image b = draw(c, NULL, 0, &options);
    ck_assert_mem_eq(a.rgb, b.rgb, 3 * WIDTH * HEIGHT);
    ck_assert(changed(&a) > 1000);
    sv_image_free(&a);
    sv_image_free(&b);
    /* one point at (15, -1.5, 0.75): u = 180, v = 90; a nearer one wins the pixel */
    const float one[2][4] = {{15, -1.5f, 0.75f, 0}, {5, -0.5f, 0.25f, 0}};
    points = (sv_points){.data = (float *)one[0], .count = 1, .columns = 4};
    a = draw(c, NULL, 0, &options);
    points.count = 2;
    b = draw(c, NULL, 0, &options);
    ck_assert(pixel(&a, 180, 90) != GREY && pixel(&a, 184, 90) == GREY && pixel(&a, 180, 94) == GREY);
    ck_assert(pixel(&b, 180, 90) != pixel(&a, 180, 90));
    sv_image_free(&a);
    sv_image_free(&b);
    /* darkened */
    options = plain();
    options.dim = 0.5f;
    a = draw(c, NULL, 0, &options);
    ck_assert_uint_eq(pixel(&a, 5, 5), 0x202020);
    sv_image_free(&a);
    sv_image image = grey(c);
    const double singular[12] = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
    options = plain();
    assert_fails(c, sv_render_camera(c, &image, singular, NULL, 0, classes, 2, &options), SV_BAD_INPUT,
                 "singular");
    options.near_plane = 0;
    assert_fails(c, sv_render_camera(c, &image, forward, NULL, 0, classes, 2, &options), SV_BAD_INPUT,
                 "near plane at 0 m");
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

START_TEST(frames_with_cameras)
{
    sv_ctx *c = test_context(1);
    const float data[4] = {10, 0, 0, 0.5f};
    const sv_points points = {.data = (float *)data, .count = 1, .columns = 4};
    const sv_box box = {.x = 15, .dx = 4, .dy = 2, .dz = 2, .label = 1, .score = 0.5f};
    sv_bev_options bev = sv_bev_options_default();
    bev.x_min = 0;
    bev.x_max = 40;
    bev.y_min = -20;
    bev.y_max = 20;
    sv_image picture = grey(c), out;
    sv_camera_picture cameras[5];
    for (int i = 0; i < 5; i++) cameras[i] = (sv_camera_picture){"camera", &picture, forward};
    /* none: the view from above alone */
    assert_ok(c, sv_render_frame(c, &out, &points, &box, 1, classes, 2, &bev, NULL, 0));
    ck_assert(out.width == 400 && out.height == 400);
    sv_image_free(&out);
    /* one: twice, at its own size, as high as the view from above */
    assert_ok(c, sv_render_frame(c, &out, &points, &box, 1, classes, 2, &bev, cameras, 1));
    ck_assert(out.height == 2 * HEIGHT + 6 && out.width == out.height + 6 + WIDTH);
    ck_assert_uint_eq(pixel(&out, out.width - 1, HEIGHT - 1), GREY);
    ck_assert_uint_ne(pixel(&out, out.width - 1, out.height - 1), GREY); /* darkened */
    sv_image_free(&out);
    /* five: two rows, three and two, made smaller */
    assert_ok(c, sv_render_frame(c, &out, &points, &box, 1, classes, 2, &bev, cameras, 5));
    const int row = (400 - 6) / 2, width = WIDTH * row / HEIGHT;
    ck_assert(out.height == 400 && out.width == 400 + 6 + 3 * width + 2 * 6);
    ck_assert_uint_eq(pixel(&out, 400 + 6 + width - 2, row - 2), GREY);
    ck_assert_uint_ne(pixel(&out, out.width - 2, 398), GREY); /* the place of the sixth is empty */
    sv_image_free(&out);
    ck_assert_int_eq(changed(&picture), 0); /* what was given is left as it is */
    sv_image_free(&picture);
    sv_ctx_close(c);
}
END_TEST

START_TEST(dashes_pastes_and_sizes)
{
    sv_ctx *c = test_context(1);
    sv_image image = grey(c);
    const sv_paint white = {0xffffff, 1};
    sv_image_dashes(&image, 10, 20.5f, 90, 20.5f, 1, 4, 6, white);
    int on = 0;
    for (int x = 0; x < WIDTH; x++) on += pixel(&image, x, 20) == 0xffffff;
    ck_assert_msg(on >= 24 && on <= 40, "%d pixels", on); /* 40 % of 80 */
    ck_assert(pixel(&image, 12, 20) == 0xffffff && pixel(&image, 17, 20) == GREY &&
              pixel(&image, 22, 20) == 0xffffff);
    sv_image_dashes(&image, 0, 0, NAN, 5, 1, 4, 4, white);
    sv_image_dashes(&image, 0, 0, 1e30f, 5, 1, 4, 4, white);
    sv_image_dashes(&image, 0, 50, 300, 50, 1, 0, 0, white); /* strokes of nothing end, too */
    sv_image_free(&image);

    image = grey(c);
    sv_image small;
    assert_ok(c, sv_image_new(c, &small, 4, 3, 0x123456));
    sv_image_paste(&image, &small, -2, -1);
    sv_image_paste(&image, &small, WIDTH - 1, HEIGHT - 1);
    sv_image_paste(&image, &small, 100, 50);
    sv_image_paste(&image, &small, 1000, 50);
    sv_image_paste(&image, &small, -1000, 50);
    ck_assert_int_eq(changed(&image), 4 + 1 + 12);
    ck_assert(pixel(&image, 1, 1) == 0x123456 && pixel(&image, 2, 1) == GREY &&
              pixel(&image, 103, 52) == 0x123456);
    sv_image_free(&image);

    /* means: of whole pixels, of parts, and larger than it was */
    for (int i = 0; i < 36; i++) small.rgb[i] = (uint8_t)(i * 7);
    sv_image out;
    assert_ok(c, sv_image_resize(c, &small, 2, 1, &out));
    double sum = 0, part = 0;
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 2; x++) sum += small.rgb[3 * (4 * y + x)];
    ck_assert_int_eq(out.rgb[0], (int)lrint(sum / 6));
    sv_image_free(&out);
    assert_ok(c, sv_image_resize(c, &small, 3, 3, &out));
    part = (small.rgb[0] + small.rgb[3] / 3.0) / (4.0 / 3);
    ck_assert_int_eq(out.rgb[0], (int)lrint(part));
    sv_image_free(&out);
    assert_ok(c, sv_image_resize(c, &small, 8, 6, &out));
    ck_assert(out.rgb[0] == small.rgb[0] && out.rgb[3] == small.rgb[0] && out.rgb[6] == small.rgb[3]);
    sv_image_free(&out);
    assert_fails(c, sv_image_resize(c, &small, 0, 6, &out), SV_BAD_INPUT, "0 x 6 pixels");
    sv_image_free(&small);
    sv_ctx_close(c);
}
END_TEST

START_TEST(png_files)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {1};
    sv_image image = grey(c), read;
    for (int i = 0; i < 3 * WIDTH * HEIGHT; i++) image.rgb[i] = (uint8_t)rng_u64(&rng);
    const char *path = test_path("a.png");
    assert_ok(c, sv_image_write_png(c, &image, path));
    assert_ok(c, sv_image_read_png(c, path, &read));
    ck_assert(read.width == WIDTH && read.height == HEIGHT);
    ck_assert_mem_eq(read.rgb, image.rgb, 3 * WIDTH * HEIGHT);
    sv_image_free(&read);
    int width, height;
    assert_ok(c, sv_image_png_size(c, path, &width, &height));
    ck_assert(width == WIDTH && height == HEIGHT);

    size_t size;
    unsigned char *bytes = read_file(path, &size);
    for (size_t cut = 0; cut < size; cut += cut < 100 ? 1 : size / 50) {
        ck_assert_int_eq(sv_image_parse_png(c, bytes, cut, "cut", &read), SV_BAD_INPUT);
        ck_assert_ptr_null(read.rgb);
        sv_error_clear(c);
    }
    bytes[100] ^= 1;
    assert_fails(c, sv_image_parse_png(c, bytes, size, "flip", &read), SV_BAD_INPUT, "flip: a broken PNG: ");
    bytes[100] ^= 1;
    memcpy(bytes + 16, "\0\1\0\0\0\1\0\0", 8);
    assert_fails(c, sv_image_parse_png(c, bytes, size, "huge", &read), SV_BAD_INPUT,
                 "huge: a picture of 65536 x 65536 pixels");
    memcpy(bytes + 16, "\0\0\x40\0\0\0\x40\0", 8);
    assert_fails(c, sv_image_parse_png(c, bytes, size, "large", &read), SV_BAD_INPUT, "16384 x 16384");
    memcpy(bytes + 16, "\0\0\0\0\0\0\0\1", 8);
    assert_fails(c, sv_image_parse_png(c, bytes, size, "flat", &read), SV_BAD_INPUT, "0 x 1 pixels");
    free(bytes);

    static const char *const others[][2] = {
        {"\xff\xd8\xff\xe0", "is a JPEG file, not the PNG"}, {"GIF89a", "is a GIF file"},
        {"<!doctype html>", "is an HTML or XML file"},       {"version https://git-lfs", "is a Git LFS file"},
        {"nothing known", "does not start as a PNG does"},   {"", "is empty, a PNG was expected"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        write_file(path, others[i][0], strlen(others[i][0]));
        assert_fails(c, sv_image_read_png(c, path, &read), SV_BAD_INPUT, others[i][1]);
        assert_fails(c, sv_image_png_size(c, path, &width, &height), SV_BAD_INPUT, others[i][1]);
    }
    assert_fails(c, sv_image_read_png(c, test_path("none.png"), &read), SV_IO, "none.png");
    assert_fails(c, sv_image_png_size(c, test_path("none.png"), &width, &height), SV_IO, "none.png");
    sv_image_free(&image);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("overlay");
    TCase *tests = tcase_create("overlay");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, edges_are_where_the_corners_project);
    tcase_add_test(tests, what_is_behind_is_cut_off);
    tcase_add_test(tests, styles_can_be_told_apart);
    tcase_add_test(tests, styles_from_above);
    tcase_add_test(tests, points_do_not_depend_on_their_order);
    tcase_add_test(tests, frames_with_cameras);
    tcase_add_test(tests, dashes_pastes_and_sizes);
    tcase_add_test(tests, png_files);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
