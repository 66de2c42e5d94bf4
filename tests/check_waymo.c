/* SPDX-License-Identifier: Apache-2.0
 *
 * The Waymo reader: checksums, the wire format, range images against plain trigonometry and against recorded
 * clouds, drives as a dataset, and files that lie.
 */
#include "support.h"
#include "support_waymo.h"

#include "datasets/crc32c.h"
#include "datasets/tfrecord.h"
#include "datasets/waymo_dataset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yajl/yajl_tree.h>

/* ---- checksums and the wire format -------------------------------------------------------------------- */

static uint32_t plain_crc(const uint8_t *bytes, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

START_TEST(checksums)
{
    ck_assert_uint_eq(sv_crc32c("123456789", 9), 0xe3069283u); /* RFC 3720, and every catalogue */
    static const size_t sizes[] = {0, 1, 7, 8, 63, 64, 65, 4099, 49152, 49151, 49160, 131079};
    test_rng rng = {7};
    uint8_t *bytes = malloc(131079);
    for (size_t i = 0; i < 131079; i++) bytes[i] = (uint8_t)rng_u64(&rng);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        ck_assert_uint_eq(sv_crc32c(bytes, sizes[i]), plain_crc(bytes, sizes[i]));
    free(bytes);
}
END_TEST

START_TEST(wire_values)
{
    sv_wire_out o = {0};
    sv_wire_put_int(&o, 1, -5);
    sv_wire_put_int(&o, 2, INT64_MAX);
    sv_wire_put_double(&o, 3, -0.1);
    sv_wire_put_float(&o, 4, 1.5f);
    sv_wire_put_bytes(&o, 500, "text", 4);
    sv_wire w = sv_wire_open((sv_bytes){o.data, o.size});
    sv_field f;
    int64_t whole = 0;
    double number = 0;
    float small = 0;
    char text[5] = "";
    ck_assert(sv_wire_next(&w, &f));
    sv_wire_int(&w, &f, &whole);
    ck_assert_int_eq(whole, -5);
    ck_assert(sv_wire_next(&w, &f));
    sv_wire_int(&w, &f, &whole);
    ck_assert(whole == INT64_MAX);
    ck_assert(sv_wire_next(&w, &f));
    sv_wire_double(&w, &f, &number);
    ck_assert(number == -0.1);
    ck_assert(sv_wire_next(&w, &f));
    sv_wire_float(&w, &f, &small);
    ck_assert(small == 1.5f);
    ck_assert(sv_wire_next(&w, &f));
    ck_assert_int_eq(f.number, 500);
    sv_wire_text(&w, &f, text, sizeof text);
    ck_assert_str_eq(text, "text");
    ck_assert(!sv_wire_next(&w, &f) && !w.fault);
    /* every shorter message ends between fields or has a fault; nothing beyond it is read */
    for (size_t n = 0; n < o.size; n++) {
        uint8_t *part = malloc(n + 1);
        memcpy(part, o.data, n);
        w = sv_wire_open((sv_bytes){part, n});
        while (sv_wire_next(&w, &f)) ck_assert(f.bytes.size <= n);
        ck_assert(w.fault || n == 11 || n == 21 || n == 30 || n == 35 || n == 0);
        free(part);
    }
    sv_wire_free(&o);
}
END_TEST

START_TEST(wire_lies)
{
    static const struct {
        uint8_t bytes[16];
        size_t size;
        const char *fault;
    } cases[] = {{{0x80}, 1, "tag"},
                 {{0x00, 0x01}, 2, "number"},
                 {{0x0b}, 1, "type"},
                 {{0x0c}, 1, "type"},
                 {{0x0f}, 1, "type"},
                 {{0x0a, 0x05, 1, 2}, 4, "length"},
                 {{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 11, "length"},
                 {{0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, 12, "number"},
                 {{0x09, 1, 2, 3}, 4, "8 bytes"},
                 {{0x0d, 1, 2, 3}, 4, "4 bytes"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sv_wire w = sv_wire_open((sv_bytes){cases[i].bytes, cases[i].size});
        sv_field f;
        while (sv_wire_next(&w, &f)) continue;
        ck_assert_msg(w.fault && strstr(w.fault, cases[i].fault), "case %zu: %s", i,
                      w.fault ? w.fault : "no fault");
    }
}
END_TEST

/* ---- small recordings --------------------------------------------------------------------------------- */

static const small_box boxes[] = {{10, 2, 1, 4.5, 2, 1.6, 0.3, SV_WAYMO_VEHICLE, 120, 0, true},
                                  {-8, 6, 0.9, 0.8, 0.7, 1.8, -2, SV_WAYMO_PEDESTRIAN, 3, 2, false},
                                  {35, -4, 1.5, 0.2, 0.9, 0.9, 1, SV_WAYMO_SIGN, 9, 0, false}};

static small_frame frame_at(const char *context, int k)
{
    small_frame f = {
        .context = context, .timestamp = 1550000000000000 + 100000 * k, .boxes = boxes, .box_count = 3};
    small_pose(0.8 + 0.01 * k, -25211.25 + 0.9 * k, 42391.5 + 0.5 * k, f.pose);
    return f;
}

static void write_drive(const char *path, const char *context, int frames)
{
    sv_wire_out file = {0};
    for (int k = 0; k < frames; k++) {
        small_frame f = frame_at(context, k);
        sv_wire_out message = {0};
        f.unpacked = k % 2;
        small_message(&f, &message);
        small_record(&file, message.data, message.size);
        sv_wire_free(&message);
    }
    write_file(path, file.data, file.size);
    sv_wire_free(&file);
}

static void multiply(const double a[16], const double b[16], double out[16])
{
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) {
            out[4 * i + k] = 0;
            for (int n = 0; n < 4; n++) out[4 * i + k] += a[4 * i + n] * b[4 * n + k];
        }
}

static void turn(char axis, double angle, double out[16])
{
    const double c = cos(angle), s = sin(angle);
    const double x[16] = {1, 0, 0, 0, 0, c, -s, 0, 0, s, c, 0, 0, 0, 0, 1},
                 y[16] = {c, 0, s, 0, 0, 1, 0, 0, -s, 0, c, 0, 0, 0, 0, 1},
                 z[16] = {c, -s, 0, 0, s, c, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    memcpy(out, axis == 'x' ? x : axis == 'y' ? y : z, sizeof x);
}

/* By 4x4 matrices, one pixel at a time. */
static int oracle_points(const small_frame *f, double (*out)[6])
{
    int n = 0;
    for (int laser = 0; laser < SV_WAYMO_LASERS; laser++)
        for (int r = 0; r < 2; r++) {
            const int rows = laser ? SMALL_ROWS : SMALL_TOP_ROWS,
                      columns = laser ? SMALL_COLUMNS : SMALL_TOP_COLUMNS;
            for (int i = 0; i < rows * columns; i++) {
                const int row = i / columns, column = i % columns;
                const double range = (double)small_range(laser, r, row, column), pi = acos(-1);
                double e[16], p[4] = {0, 0, 0, 1}, m[16], a[16], b[16];
                if (range <= 0) continue;
                small_extrinsic(laser, e);
                const double azimuth = ((columns - column - 0.5) / columns * 2 - 1) * pi - atan2(e[4], e[0]);
                const double inclination = small_inclination(laser, row);
                const double at[4] = {cos(azimuth) * cos(inclination) * range,
                                      sin(azimuth) * cos(inclination) * range, sin(inclination) * range, 1};
                memcpy(m, e, sizeof m);
                if (laser == 0) {
                    float pose[6];
                    small_pixel_pose(f, row, column, pose);
                    turn('x', (double)pose[0], a);
                    turn('y', (double)pose[1], b);
                    multiply(b, a, m);
                    turn('z', (double)pose[2], a);
                    multiply(a, m, b);
                    b[3] = (double)pose[3], b[7] = (double)pose[4], b[11] = (double)pose[5];
                    /* the frame's pose is a rotation: its inverse by transposing, the origin moved first */
                    for (int k = 0; k < 3; k++) b[4 * k + 3] -= f->pose[4 * k + 3];
                    const double back[16] = {
                        f->pose[0], f->pose[4], f->pose[8],  0, f->pose[1], f->pose[5], f->pose[9], 0,
                        f->pose[2], f->pose[6], f->pose[10], 0, 0,          0,          0,          1};
                    multiply(back, b, a);
                    multiply(a, e, m);
                }
                for (int k = 0; k < 3; k++)
                    for (int j = 0; j < 4; j++) p[k] += m[4 * k + j] * at[j];
                for (int k = 0; k < 3; k++) out[n][k] = p[k];
                out[n][3] = (double)small_intensity(laser, row, column);
                out[n][4] = (double)(0.1f * (float)r);
                out[n++][5] = i % 5 ? -1 : 1;
            }
        }
    return n;
}

START_TEST(small_frames_are_what_trigonometry_says)
{
    enum { MOST = 2 * (SMALL_TOP_ROWS * SMALL_TOP_COLUMNS + 4 * SMALL_ROWS * SMALL_COLUMNS) };
    static double want[MOST][6];
    static float got[MOST * 6], network[MOST * 5];
    sv_ctx *c = test_context(2);
    for (int unpacked = 0; unpacked < 2; unpacked++) {
        small_frame f = frame_at("drive", 3);
        sv_wire_out message = {0};
        sv_waymo_frame frame = {0};
        sv_waymo_cloud cloud = {0};
        f.unpacked = unpacked;
        small_message(&f, &message);
        assert_ok(c, sv_waymo_parse_frame(c, (sv_bytes){message.data, message.size}, "test", &frame));
        ck_assert_str_eq(frame.context, "drive");
        ck_assert_str_eq(frame.location, "location_test");
        ck_assert_int_eq(frame.timestamp, f.timestamp);
        ck_assert_int_eq(frame.label_count, 3);
        ck_assert_str_eq(frame.labels[2].id, "box2");
        ck_assert(frame.labels[0].length == 4.5 && frame.labels[0].width == 2 && frame.labels[0].has_speed &&
                  frame.labels[0].speed[1] == 4 && frame.labels[1].level == 2 && !frame.labels[1].has_speed);
        assert_ok(c, sv_waymo_unpack(c, &frame, "test", &cloud));
        const int count = oracle_points(&f, want);
        ck_assert_int_eq(cloud.total, count);
        assert_ok(c, sv_waymo_points(c, &frame, "test", &cloud, false, got));
        assert_ok(c, sv_waymo_points(c, &frame, "test", &cloud, true, network));
        for (int i = 0; i < count; i++)
            for (int k = 0; k < 6; k++) {
                ck_assert_double_eq_tol((double)got[6 * i + k], want[i][k], k < 3 ? 2e-6 : 1e-12);
                if (k < 3) ck_assert(network[5 * i + k] == got[6 * i + k]);
                if (k == 3 || k == 4)
                    ck_assert_double_eq_tol((double)network[5 * i + k], tanh(want[i][k]), 3e-7);
            }
        sv_waymo_free_cloud(&cloud);
        sv_waymo_free_frame(&frame);
        sv_wire_free(&message);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- as a dataset ------------------------------------------------------------------------------------- */

static const char *drives(void)
{
    const char *root = test_path("waymo");
    struct stat info;
    char path[600];
    if (stat(root, &info) == 0) return root;
    ck_assert_int_eq(mkdir(root, 0777), 0);
    snprintf(path, sizeof path, "%s/validation", root);
    ck_assert_int_eq(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/validation/segment-b_2_with_camera_labels.tfrecord", root);
    write_drive(path, "b_2", 2);
    snprintf(path, sizeof path, "%s/validation/segment-a_1_with_camera_labels.tfrecord", root);
    write_drive(path, "a_1", 3);
    snprintf(path, sizeof path, "%s/testing", root);
    ck_assert_int_eq(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/testing/segment-c_3_with_camera_labels.tfrecord", root);
    write_drive(path, "c_3", 1);
    return root;
}

START_TEST(drives_are_sequences)
{
    sv_ctx *c = test_context(1);
    const char *root = drives();
    sv_dataset *d;
    sv_sample sample = {0};
    ck_assert_str_eq(sv_dataset_recognise(root), "waymo");
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_str_eq(sv_dataset_split(d), "validation");
    ck_assert_int_eq(sv_dataset_count(d), 5);
    ck_assert_int_eq(sv_dataset_sequence_count(d), 2);
    ck_assert_str_eq(sv_dataset_sequence(d, 0)->name, "a_1");
    ck_assert_str_eq(sv_dataset_id(d, 4), "b_2_1550000000100000");
    ck_assert_int_eq(sv_dataset_find(d, "a_1_1550000000200000"), 2);
    ck_assert_int_eq(sv_dataset_find(d, "200000"), 2);
    ck_assert_int_eq(sv_waymo_find(d, "b_2", 1550000000000000), 3);
    ck_assert_int_eq(sv_waymo_find(d, "b_2", 1550000000200000), -1);
    ck_assert_str_eq(sv_waymo_context(d, 3), "b_2");
    for (int i = 0; i < 5; i++)
        assert_ok(c, sv_dataset_read(c, d, i, SV_READ_POINTS | SV_READ_LABELS, &sample));
    ck_assert(sample.has_labels && sample.has_pose && sample.label_count == 3);
    ck_assert_int_eq(sample.labels[0].box.label, 1);
    ck_assert_int_eq(sample.labels[1].box.label, 2);
    ck_assert_int_eq(sample.labels[2].box.label, 0);
    ck_assert_str_eq(sample.labels[2].type, "Sign");
    ck_assert_int_eq(sample.labels[0].points, 120);
    /* (3, 4) in the world, of a car that looks along 0.81 rad */
    const double yaw = 0.81;
    ck_assert_double_eq_tol((double)sample.labels[0].box.vx, 3 * cos(yaw) + 4 * sin(yaw), 1e-6);
    ck_assert_double_eq_tol((double)sample.labels[0].box.vy, 4 * cos(yaw) - 3 * sin(yaw), 1e-6);
    ck_assert(sample.labels[0].has_velocity && !sample.labels[1].has_velocity);
    ck_assert_double_eq_tol(sample.time, 1550000000.1, 1e-6);
    sv_dataset_close(d);

    def.split = "testing";
    assert_ok(c, sv_dataset_open(c, &def, &d));
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &sample));
    ck_assert(!sample.has_labels);
    sv_dataset_close(d);
    def.split = "training";
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT, "testing, validation");
    def.split = NULL;
    const char *only[] = {"b_2"};
    def.sequences = only;
    def.sequence_count = 1;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 2);
    sv_dataset_close(d);
    only[0] = "z_9";
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "no drive 'z_9'");
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

START_TEST(sweeps_are_moved_to_the_present)
{
    sv_ctx *c = test_context(1);
    sv_dataset *one, *three;
    sv_sample now = {0}, before = {0}, all = {0};
    sv_dataset_def def = sv_dataset_def_default("waymo", drives());
    assert_ok(c, sv_dataset_open(c, &def, &one));
    def.sweeps = 3;
    assert_ok(c, sv_dataset_open(c, &def, &three));
    assert_ok(c, sv_dataset_read(c, one, 2, SV_READ_POINTS, &now));
    assert_ok(c, sv_dataset_read(c, one, 1, SV_READ_POINTS, &before));
    assert_ok(c, sv_dataset_read(c, three, 2, SV_READ_POINTS, &all));
    const int n = now.frame->count;
    ck_assert_int_eq(all.frame->count, 3 * n);
    ck_assert_mem_eq(all.frame->points, now.frame->points, sizeof(float) * 5 * (size_t)n);
    /* a point of the frame before, by its place in the world */
    for (int i = 0; i < n; i += 17) {
        const float *p = before.frame->points + 5 * i, *q = all.frame->points + 5 * (n + i);
        double a[3] = {(double)p[0], (double)p[1], (double)p[2]},
               b[3] = {(double)q[0], (double)q[1], (double)q[2]};
        sv_pose_apply(&before.ego_to_world, a, a);
        sv_pose_apply(&now.ego_to_world, b, b);
        for (int k = 0; k < 3; k++) ck_assert_double_eq_tol(a[k], b[k], 1e-5);
        ck_assert(p[3] == q[3] && p[4] == q[4]);
    }
    /* the first frame of a drive has none before it, also not of another drive */
    assert_ok(c, sv_dataset_read(c, three, 3, SV_READ_POINTS, &all));
    ck_assert_int_eq(all.frame->count, n);
    sv_sample_free(&now);
    sv_sample_free(&before);
    sv_sample_free(&all);
    sv_dataset_close(one);
    sv_dataset_close(three);
    sv_ctx_close(c);
}
END_TEST

/* ---- files that lie ----------------------------------------------------------------------------------- */

/* Opens and reads the first frame of a folder with this one file. */
static sv_status read_bytes(sv_ctx *c, const void *bytes, size_t size)
{
    const char *root = test_path("broken");
    char path[600];
    sv_dataset *d = NULL;
    sv_sample sample = {0};
    mkdir(root, 0777);
    snprintf(path, sizeof path, "%s/segment-x.tfrecord", root);
    write_file(path, bytes, size);
    sv_dataset_def def = sv_dataset_def_default("waymo", root);
    sv_status status = sv_dataset_open(c, &def, &d);
    if (status == SV_OK)
        status = sv_dataset_read(c, d, 0, SV_READ_POINTS | SV_READ_LABELS | SV_READ_CAMERAS, &sample);
    sv_sample_free(&sample);
    sv_dataset_close(d);
    return status;
}

START_TEST(damage_is_named)
{
    sv_ctx *c = test_context(1);
    small_frame f = frame_at("drive", 0);
    sv_wire_out message = {0}, file = {0};
    small_message(&f, &message);
    small_record(&file, message.data, message.size);
    assert_ok(c, read_bytes(c, file.data, file.size));
    /* cut off: in the head, in the data, in the last checksum */
    assert_fails(c, read_bytes(c, file.data, 5), SV_BAD_INPUT, "record 0: is cut off");
    assert_fails(c, read_bytes(c, file.data, file.size / 2), SV_BAD_INPUT, "record 0: is cut off");
    assert_fails(c, read_bytes(c, file.data, file.size - 1), SV_BAD_INPUT, "fetch the file again");
    /* a flipped bit: in the length, its checksum, the data, their checksum */
    const size_t places[] = {0, 9, file.size - 20, file.size - 1};
    static const char *const says[] = {"checksum of its length", "checksum of its length",
                                       "checksum of its data", "checksum of its data"};
    for (int i = 0; i < 4; i++) {
        uint8_t *at = file.data + places[i];
        *at ^= 0x10;
        assert_fails(c, read_bytes(c, file.data, file.size), SV_BAD_INPUT, says[i]);
        *at ^= 0x10;
    }
    sv_wire_free(&message);
    sv_wire_free(&file);
    sv_ctx_close(c);
}
END_TEST

/* Replaces the laser FRONT's first return by a stream, in a frame that has no others. */
static sv_status read_image(sv_ctx *c, const void *stream, size_t size)
{
    small_frame f = frame_at("drive", 0);
    sv_wire_out message = {0}, laser = {0}, image = {0}, file = {0};
    f.no_lasers = true;
    small_message(&f, &message);
    sv_wire_put_int(&laser, 1, 2);
    sv_wire_put_bytes(&image, 2, stream, size);
    sv_wire_put_bytes(&laser, 2, image.data, image.size);
    sv_wire_put_bytes(&message, 5, laser.data, laser.size);
    small_record(&file, message.data, message.size);
    const sv_status status = read_bytes(c, file.data, file.size);
    sv_wire_free(&message);
    sv_wire_free(&laser);
    sv_wire_free(&image);
    sv_wire_free(&file);
    return status;
}

START_TEST(range_images_that_lie)
{
    sv_ctx *c = test_context(1);
    sv_wire_out image = {0};
    float *values = calloc(1 << 23, sizeof *values);
    static const struct {
        size_t count;
        int rows, columns, channels;
        const char *says;
    } cases[] = {{96, 3, 8, 4, NULL},
                 {96, 3, 9, 4, "a shape that its numbers do not fill"},
                 {96, 0, 0, 4, "an absurd shape"},
                 {96, 2000000000, 2000000000, 4, "an absurd shape"},
                 {96, -3, 8, 4, "an absurd shape"},
                 {96, 4, 6, 3, "rows x columns x 4"},
                 {1 << 23, 512, 4096, 4, "unpacks to more"}}; /* 32 MiB in some kilobytes */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small_image(values, cases[i].count, cases[i].rows, cases[i].columns, cases[i].channels, false,
                    &image);
        if (cases[i].says)
            assert_fails(c, read_image(c, image.data, image.size), SV_BAD_INPUT, cases[i].says);
        else
            assert_ok(c, read_image(c, image.data, image.size));
    }
    small_image(values, 96, 3, 8, 4, false, &image);
    assert_fails(c, read_image(c, image.data, image.size - 9), SV_BAD_INPUT,
                 "laser FRONT, return 1, has a zlib stream that is cut off");
    image.data[0] = 0;
    assert_fails(c, read_image(c, image.data, image.size), SV_BAD_INPUT, "no sound zlib stream");
    sv_wire_free(&image);
    free(values);
    sv_ctx_close(c);
}
END_TEST

START_TEST(messages_that_lie)
{
    sv_ctx *c = test_context(1);
    small_frame f = frame_at("drive", 0);
    static const struct {
        int number;
        uint8_t bytes[12];
        size_t size;
        const char *says;
    } cases[] = {{6, {0x0a, 0x7f}, 2, "label 3 of Frame.laser_labels: field 1: its length reaches beyond"},
                 {6, {0x18, 0x63}, 2, "label 3 of Frame.laser_labels: field 3: its value is outside"},
                 {3, {0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}, 10, "Frame.pose has 1 numbers, a pose has 16"},
                 {5, {0x12, 0x03, 0x12, 0x7f, 0}, 5, "Laser.ri_return1"},
                 {4, {0x08, 0x01, 0x12, 0x05}, 4, "field 2 of Frame.images"},
                 {1, {0x1a, 0x02, 0x08, 0xff}, 4, "LaserCalibration"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sv_wire_out message = {0}, file = {0};
        small_message(&f, &message);
        if (cases[i].number == 5) { /* the laser must have a name, and not be there yet */
            sv_wire_free(&message);
            f.no_lasers = true;
            small_message(&f, &message);
            uint8_t named[16] = {0x08, 0x01};
            memcpy(named + 2, cases[i].bytes, cases[i].size);
            sv_wire_put_bytes(&message, 5, named, cases[i].size + 2);
            f.no_lasers = false;
        } else {
            sv_wire_put_bytes(&message, cases[i].number, cases[i].bytes, cases[i].size);
        }
        small_record(&file, message.data, message.size);
        assert_fails(c, read_bytes(c, file.data, file.size), SV_BAD_INPUT, cases[i].says);
        sv_wire_free(&message);
        sv_wire_free(&file);
    }
    /* a record of another kind */
    sv_wire_out file = {0};
    small_record(&file, "\x0a\x03xyz", 5);
    assert_fails(c, read_bytes(c, file.data, file.size), SV_BAD_INPUT, "no Frame of the perception dataset");
    sv_wire_free(&file);
    sv_ctx_close(c);
}
END_TEST

/* ---- recorded data ------------------------------------------------------------------------------------ */

static double number(yajl_val v, const char *key)
{
    yajl_val n = yajl_tree_get(v, (const char *[]){key, NULL}, yajl_t_number);
    ck_assert_msg(n != NULL, "%s is missing", key);
    return YAJL_GET_DOUBLE(n);
}

START_TEST(recorded_clouds)
{
    const char *reference = reference_folder();
    if (!reference) return;
    char path[1024], name[200], message[128];
    size_t size, expected_size;
    snprintf(path, sizeof path, "%s/data/waymo/synthetic/expected.json", reference);
    char *text = read_file(path, &size);
    snprintf(path, sizeof path, "%s/data/waymo/synthetic/expected_points_frame0_every8.bin", reference);
    float *expected = read_file(path, &expected_size);
    if (!text || !expected) {
        printf("skipped: %s is not there\n", path);
        free(text);
        free(expected);
        return;
    }
    yajl_val root = yajl_tree_parse(text, message, sizeof message);
    yajl_val frames = yajl_tree_get(root, (const char *[]){"frames", NULL}, yajl_t_array);
    ck_assert_ptr_nonnull(frames);
    snprintf(path, sizeof path, "%s/data/waymo/synthetic/segment-synthetic_401_0_with_camera_labels.tfrecord",
             reference);
    float *bytes_of[2] = {NULL, NULL};
    size_t count_of[2] = {0, 0};
    for (int threads = 1; threads <= 3; threads += 2) {
        sv_ctx *c = test_context(threads);
        sv_source source;
        sv_waymo_frame frame = {0};
        sv_waymo_cloud cloud = {0};
        assert_ok(c, sv_source_open(c, path, &source));
        uint64_t at = 0;
        for (int k = 0; k < 2; k++) {
            yajl_val want = YAJL_GET_ARRAY(frames)->values[k];
            uint8_t head[SV_TFRECORD_HEAD];
            sv_tfrecord record;
            assert_ok(c, sv_source_read(c, &source, at, head, sizeof head));
            assert_ok(c, sv_tfrecord_head(c, &source, at, k, head, &record));
            uint8_t *data = malloc((size_t)record.length + SV_TFRECORD_TAIL);
            assert_ok(c, sv_tfrecord_read(c, &source, &record, data));
            snprintf(name, sizeof name, "record %d", k);
            assert_ok(c, sv_waymo_parse_frame(c, (sv_bytes){data, record.length}, name, &frame));
            ck_assert(frame.timestamp == (int64_t)number(want, "timestamp_micros"));
            ck_assert_int_eq(frame.label_count, (int)number(want, "labels"));
            int pictures = 0;
            for (int i = 0; i < SV_WAYMO_CAMERAS; i++) pictures += frame.cameras[i].jpeg.size > 0;
            ck_assert_int_eq(pictures, (int)number(want, "images"));
            assert_ok(c, sv_waymo_unpack(c, &frame, name, &cloud));
            ck_assert_int_eq(cloud.total, (int)number(want, "total_points"));
            float *points = malloc(sizeof(float) * 6 * (size_t)cloud.total);
            assert_ok(c, sv_waymo_points(c, &frame, name, &cloud, false, points));
            const float *p = points;
            int outside = 0;
            for (int laser = 0; laser < SV_WAYMO_LASERS; laser++)
                for (int r = 0; r < 2; r++) {
                    yajl_val list = yajl_tree_get(
                        want, (const char *[]){"lasers", sv_waymo_laser_names[laser], NULL}, yajl_t_array);
                    ck_assert_ptr_nonnull(list);
                    yajl_val one = YAJL_GET_ARRAY(list)->values[r];
                    const int n = cloud.points[laser][r];
                    double sum[4] = {0};
                    int inside = 0;
                    ck_assert_int_eq(n, (int)number(one, "points"));
                    for (int i = 0; i < n; i++, p += 6) {
                        for (int j = 0; j < 4; j++) sum[j] += (double)p[j];
                        inside += p[5] > 0;
                    }
                    yajl_val places = yajl_tree_get(one, (const char *[]){"sum_xyz", NULL}, yajl_t_array);
                    for (int j = 0; j < 3; j++)
                        ck_assert_double_eq_tol(sum[j], YAJL_GET_DOUBLE(YAJL_GET_ARRAY(places)->values[j]),
                                                2e-6 * n + 1e-3);
                    ck_assert_double_eq_tol(sum[3], number(one, "sum_intensity"), 1e-3);
                    ck_assert_int_eq(inside, (int)number(one, "nlz_points"));
                    outside += n - inside;
                }
            ck_assert_int_eq(outside, (int)number(want, "points_outside_nlz"));
            if (k == 0) {
                double worst = 0;
                ck_assert_uint_eq(expected_size / 24, ((size_t)cloud.total + 7) / 8);
                for (int i = 0; i < cloud.total; i += 8)
                    for (int j = 0; j < 6; j++)
                        worst =
                            fmax(worst, fabs((double)points[6 * i + j] - (double)expected[6 * (i / 8) + j]));
                printf("largest difference from the recorded cloud: %.3g m\n", worst);
                ck_assert_double_le(worst, 1e-5);
            }
            /* the same bytes for any number of threads */
            if (threads == 1) {
                bytes_of[k] = points;
                count_of[k] = (size_t)cloud.total;
            } else {
                ck_assert_uint_eq(count_of[k], (size_t)cloud.total);
                ck_assert_mem_eq(points, bytes_of[k], sizeof(float) * 6 * count_of[k]);
                free(points);
            }
            free(data);
            at = sv_tfrecord_end(&record);
        }
        ck_assert(at == source.size);
        sv_source_close(&source);
        sv_waymo_free_cloud(&cloud);
        sv_waymo_free_frame(&frame);
        sv_ctx_close(c);
    }
    free(bytes_of[0]);
    free(bytes_of[1]);
    free(text);
    free(expected);
    yajl_tree_free(root);
}
END_TEST

START_TEST(recorded_drives)
{
    const char *reference = reference_folder();
    char root[1024];
    if (!reference) return;
    snprintf(root, sizeof root, "%s/data/waymo", reference);
    struct stat info;
    if (stat(root, &info) != 0) return;
    sv_ctx *c = test_context(1);
    sv_dataset *d;
    sv_sample sample = {0};
    sv_dataset_def def = sv_dataset_def_default("waymo", root);
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 2);
    ck_assert_int_eq(sv_dataset_sequence_count(d), 2);
    static const int labels[2] = {75, 18}, cameras[2] = {5, 0};
    for (int i = 0; i < 2; i++) {
        assert_ok(c, sv_dataset_read(c, d, i, SV_READ_POINTS | SV_READ_LABELS | SV_READ_CAMERAS, &sample));
        ck_assert_int_eq(sample.label_count, labels[i]);
        ck_assert_int_eq(sample.camera_count, cameras[i]);
        for (int k = 0; k < sample.camera_count; k++) { /* the recorded lenses */
            const double *lens = sample.cameras[k].lens;
            ck_assert(lens[0] > 500 && lens[4] != 0 && fabs(lens[4]) < 1 && isfinite(lens[5]));
        }
        ck_assert_int_eq(sample.frame->count, 0);
    }
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("waymo");
    TCase *t = tcase_create("waymo");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, checksums);
    tcase_add_test(t, wire_values);
    tcase_add_test(t, wire_lies);
    tcase_add_test(t, small_frames_are_what_trigonometry_says);
    tcase_add_test(t, drives_are_sequences);
    tcase_add_test(t, sweeps_are_moved_to_the_present);
    tcase_add_test(t, damage_is_named);
    tcase_add_test(t, range_images_that_lie);
    tcase_add_test(t, messages_that_lie);
    tcase_add_test(t, recorded_clouds);
    tcase_add_test(t, recorded_drives);
    suite_add_tcase(suite, t);
    return run_suite(suite, false);
}
