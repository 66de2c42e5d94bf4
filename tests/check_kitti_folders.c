/* SPDX-License-Identifier: Apache-2.0
 *
 * KITTI's folders, the object benchmark and raw recordings, on files made here; then recorded frames where
 * they are.
 */
#include "datasets/kitti_raw.h"
#include "perception/core/file.h"
#include "perception/geometry/box.h"
#include "perception/points.h"
#include "support_kitti.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- folders ------------------------------------------------------------------------------------------ */

static void write_picture(sv_ctx *c, const char *name, int width, int height)
{
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, width, height, 0x204060));
    assert_ok(c, sv_image_write_png(c, &image, test_path(name)));
    sv_image_free(&image);
}

static void write_scan(const char *name, const float *points, int count)
{
    write_file(test_path(name), points, sizeof *points * 4 * (size_t)count);
}

/* Two training frames and a testing one. With this calibration the points before the car are seen, those
 * behind not. */
static const float scan[5][4] = {
    {10, 0, 0, 0.5f}, {-10, 0, 0, 0.6f}, {20, 1, 0, 0.7f}, {1, 50, 0, 0.8f}, {30, -2, 0, 0.9f}};

static const char *make_benchmark(sv_ctx *c, const char *name)
{
    static const char *const parts[] = {"training/velodyne", "training/image_2", "training/calib",
                                        "training/label_2",  "testing/velodyne", "testing/image_2",
                                        "testing/calib",     "ImageSets"};
    char path[256];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(path, sizeof path, "%s/%s", name, parts[i]);
        kitti_folder(path);
    }
    for (int i = 0; i < 3; i++) {
        const char *part = i < 2 ? "training" : "testing";
        snprintf(path, sizeof path, "%s/%s/velodyne/%06d.bin", name, part, i);
        write_scan(path, scan[0], 5);
        snprintf(path, sizeof path, "%s/%s/image_2/%06d.png", name, part, i);
        write_picture(c, path, 1200, 360);
        snprintf(path, sizeof path, "%s/%s/calib/%06d.txt", name, part, i);
        kitti_text(path, KITTI_P2_LINE KITTI_R0_LINE KITTI_VELO_LINE);
    }
    snprintf(path, sizeof path, "%s/training/label_2/000000.txt", name);
    kitti_text(path, "");
    snprintf(path, sizeof path, "%s/training/label_2/000001.txt", name);
    kitti_text(path, "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n"
                     "Cyclist 0.00 0 0.10 500 150 520 200 1.80 0.60 1.70 -1.00 1.60 20.00 -1.57\n"
                     "Van 0.00 0 0.10 500 150 520 200 1.80 0.60 1.70 -1.00 1.60 20.00 -1.57\n");
    snprintf(path, sizeof path, "%s/ImageSets/train.txt", name);
    kitti_text(path, "000001\n000000\n");
    snprintf(path, sizeof path, "%s/ImageSets/val.txt", name);
    kitti_text(path, "000001\n");
    snprintf(path, sizeof path, "%s/ImageSets/test.txt", name);
    kitti_text(path, "000002\n");
    return test_path(name);
}

static sv_dataset *open_benchmark(sv_ctx *c, const char *root, const char *split, const char *fov)
{
    sv_dataset *d;
    sv_dataset_def def = sv_dataset_def_default("kitti", root);
    def.split = split;
    def.fov = fov;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    return d;
}

START_TEST(object_benchmark)
{
    sv_ctx *c = test_context(1);
    const char *root = make_benchmark(c, "k");
    ck_assert_str_eq(sv_dataset_recognise(root), "kitti");
    sv_dataset *d = open_benchmark(c, root, "train", NULL);
    ck_assert_str_eq(sv_dataset_summary(d), "KITTI object benchmark, split train");
    ck_assert_str_eq(sv_dataset_split(d), "train");
    ck_assert_str_eq(sv_dataset_layout(d), "xyzi");
    ck_assert(sv_dataset_class_count(d) == 3 && strcmp(sv_dataset_classes(d)[1], "Pedestrian") == 0);
    ck_assert(sv_dataset_count(d) == 2 && sv_dataset_sequence_count(d) == 2);
    ck_assert_str_eq(sv_dataset_id(d, 0), "000001"); /* the order of the list */
    ck_assert_int_eq(sv_dataset_find(d, "000000"), 1);
    ck_assert_int_eq(sv_dataset_find(d, "1"), 0);
    ck_assert_int_eq(sv_dataset_find(d, "00"), 1);
    ck_assert_int_eq(sv_dataset_find(d, "000002"), -1);
    ck_assert_int_eq(sv_dataset_find(d, ""), -1);
    ck_assert_int_eq(sv_dataset_sequence_of(d, 1), 1);
    ck_assert(sv_dataset_sequence(d, 1)->first == 1 && sv_dataset_sequence(d, 1)->count == 1);

    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &sample));
    ck_assert_str_eq(sample.id, "000001");
    ck_assert(sample.first && sample.sequence == 0 && !sample.has_pose);
    ck_assert(sample.frame->count == 3 && sample.frame->columns == 4 && sample.frame->points[7] == 0.7f);
    ck_assert(sample.camera_count == 1 && sample.cameras[0].width == 1200 && sample.cameras[0].height == 360);
    ck_assert_str_eq(sample.cameras[0].name, "image_2");
    ck_assert(sample.cameras[0].image.width == 1200 && sample.cameras[0].image.rgb[2] == 0x60);
    /* the view's matrix does what the calibration does */
    const sv_kitti_sample *kitti = sv_kitti_sample_of(&sample);
    const double *p = sample.cameras[0].projection, at[3] = {20, 1, -0.5};
    double pixel[3], rect[3];
    kitti_oracle_pixel(&kitti->calibration, at, pixel, rect);
    for (int i = 0; i < 3; i++)
        ck_assert(fabs(p[4 * i] * at[0] + p[4 * i + 1] * at[1] + p[4 * i + 2] * at[2] + p[4 * i + 3] -
                       pixel[i]) < 1e-9);
    ck_assert(sample.has_labels && sample.label_count == 3);
    ck_assert(!sample.labels[0].has_box && sample.labels[0].box.label == 0);
    ck_assert_str_eq(sample.labels[0].type, "DontCare");
    ck_assert(sample.labels[1].has_box && sample.labels[1].box.label == 3 && sample.labels[1].points == -1);
    ck_assert(fabsf(sample.labels[1].box.x - 20.27f) < 1e-5f && fabsf(sample.labels[1].box.y - 1) < 1e-5f &&
              fabsf(sample.labels[1].box.z - (-1.68f + 0.9f)) < 1e-5f);
    ck_assert(sample.labels[2].has_box && sample.labels[2].box.label == 0); /* a van is no car */
    ck_assert(((const sv_kitti_object *)sample.labels[2].record)->truncated == 0);

    /* a frame that someone holds stays as it is; otherwise its memory is used again */
    sv_frame *held = sv_frame_retain(sample.frame);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS | SV_READ_LABELS, &sample));
    ck_assert(sample.frame != held && strcmp(held->id, "000001") == 0 && held->count == 3);
    ck_assert(sample.has_labels && sample.label_count == 0 && sample.camera_count == 0);
    sv_frame *own = sample.frame;
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &sample));
    ck_assert(sample.frame == own && !sample.has_labels);
    sv_frame_release(held);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_CAMERAS, &sample));
    ck_assert(sample.frame == NULL && sample.camera_count == 1 && sample.cameras[0].image.rgb == NULL);
    sv_dataset_close(d);

    /* testing has no labels; every scan of a part */
    d = open_benchmark(c, root, "test", NULL);
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS | SV_READ_LABELS, &sample));
    ck_assert(strcmp(sample.id, "000002") == 0 && !sample.has_labels && sample.label_count == 0);
    sv_dataset_close(d);
    d = open_benchmark(c, root, "testing", "all");
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    ck_assert(sv_dataset_count(d) == 1 && sample.frame->count == 5);
    sv_dataset_close(d);
    d = open_benchmark(c, root, NULL, NULL); /* val */
    ck_assert(sv_dataset_count(d) == 1);
    sv_dataset_close(d);
    sv_sample_free(&sample);
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

START_TEST(points_that_are_not_finite_and_scans_that_are_cut)
{
    sv_ctx *c = test_context(1);
    const char *root = make_benchmark(c, "n");
    float broken[5][4];
    memcpy(broken, scan, sizeof broken);
    broken[2][1] = NAN;
    write_scan("n/training/velodyne/000001.bin", broken[0], 5);
    sv_dataset *d = open_benchmark(c, root, "val", NULL);
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    ck_assert(sample.dropped == 1 && sample.frame->count == 2);
    write_file(test_path("n/training/velodyne/000001.bin"), scan, 70);
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_BAD_INPUT, "000001.bin: 70 bytes");
    ck_assert(sample.frame == NULL && sample.memory == NULL);
    write_file(test_path("n/training/velodyne/000001.bin"), "", 0);
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    ck_assert(sample.frame->count == 0);
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

static sv_status open_with(sv_ctx *c, const char *root, const char *split, const char *fov,
                           const char *sequence)
{
    sv_dataset *d = NULL;
    sv_dataset_def def = sv_dataset_def_default("kitti", root);
    def.split = split;
    def.fov = fov;
    def.sequences = &sequence;
    def.sequence_count = sequence != NULL;
    const sv_status status = sv_dataset_open(c, &def, &d);
    ck_assert((status == SV_OK) == (d != NULL));
    sv_dataset_close(d);
    return status;
}

/* Who scores result files has labels, and perhaps nothing else. */
START_TEST(labels_alone)
{
    sv_ctx *c = test_context(1);
    kitti_folder("alone/training/label_2");
    kitti_text("alone/training/label_2/000007.txt",
               "Car 0.00 0 0.10 100 120 180 170 1.5 1.6 4.0 1.0 1.7 20.0 0.15\n");
    sv_dataset *d = open_benchmark(c, test_path("alone"), "training", NULL);
    ck_assert_int_eq(sv_dataset_count(d), 1);
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &sample));
    ck_assert(sample.has_labels && sample.label_count == 1 && !sample.labels[0].has_box);
    ck_assert_double_eq(sv_kitti_sample_of(&sample)->objects.data[0].z, 20);
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_IO, "calib/000007.txt");
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

START_TEST(folders_that_lack_something)
{
    sv_ctx *c = test_context(1);
    const char *root = make_benchmark(c, "f");
    assert_fails(c, open_with(c, root, "all", NULL, NULL), SV_BAD_INPUT,
                 "has no ImageSets/all.txt; the splits there are: test, train, val");
    assert_fails(c, open_with(c, root, "../val", NULL, NULL), SV_USAGE, "'../val' is no name of a split");
    assert_fails(c, open_with(c, root, "val", "wide", NULL), SV_USAGE, "'wide' is no field of view");
    assert_fails(c, open_with(c, root, "val", NULL, "x"), SV_USAGE, "belong to no sequences");
    assert_fails(c, open_with(c, test_path("nothing"), NULL, NULL, NULL), SV_IO, "there is no such folder");
    assert_fails(c, open_with(c, test_path("f/training"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "name the folder above it");
    kitti_folder("empty");
    assert_fails(c, open_with(c, test_path("empty"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "is no KITTI folder; the object benchmark has training/velodyne");
    kitti_folder("lists/training/velodyne");
    assert_fails(c, open_with(c, test_path("lists"), "val", NULL, NULL), SV_BAD_INPUT, "no folder ImageSets");
    assert_fails(c, open_with(c, test_path("lists"), "test", NULL, NULL), SV_BAD_INPUT,
                 "has no testing/velodyne");
    kitti_text("f/ImageSets/twice.txt", "000000\n000001\n000000\n");
    assert_fails(c, open_with(c, root, "twice", NULL, NULL), SV_BAD_INPUT,
                 "the sample 000000 is listed twice");
    sv_dataset_def def = sv_dataset_def_default("kittens", root);
    sv_dataset *d;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "'kittens' is no dataset: kitti");
    def = sv_dataset_def_default(NULL, test_path("empty"));
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT, "none of the known datasets");
    def = sv_dataset_def_default("kitti", root);
    def.sweeps = 10;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "kitti does not take a number of sweeps");

    sv_sample sample = {0};
    d = open_benchmark(c, root, "val", NULL);
    remove(test_path("f/training/label_2/000001.txt"));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &sample), SV_IO, "label_2/000001.txt");
    kitti_text("f/training/image_2/000001.png", "\xff\xd8\xff\xe0 JFIF and so on");
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_BAD_INPUT,
                 "000001.png: is a JPEG file, not the PNG that its name or place says");
    remove(test_path("f/training/image_2/000001.png"));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_IO, "(--fov all)");
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_CAMERAS, &sample), SV_IO,
                 "000001.png: is not there, but its folder is");
    sv_dataset_close(d);
    /* without any pictures there is no camera, and no filter by it */
    remove(test_path("f/training/image_2/000000.png"));
    remove(test_path("f/training/image_2"));
    d = open_benchmark(c, root, "val", "all");
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS | SV_READ_IMAGES, &sample));
    ck_assert(sample.camera_count == 0 && sample.frame->count == 5 &&
              sv_kitti_sample_of(&sample)->width == 0);
    remove(test_path("f/training/calib/000001.txt"));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_IO, "calib/000001.txt");
    sv_dataset_close(d);
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

typedef struct reader {
    const sv_dataset *dataset;
    int points;
} reader;

static void *read_often(void *user)
{
    reader *r = user;
    sv_ctx *c = test_context(1);
    sv_sample sample = {0};
    for (int i = 0; i < 40; i++) {
        if (sv_dataset_read(c, r->dataset, i % sv_dataset_count(r->dataset), SV_READ_ALL, &sample) != SV_OK)
            break;
        r->points += sample.frame->count;
    }
    sv_sample_free(&sample);
    sv_ctx_close(c);
    return NULL;
}

START_TEST(several_threads_read_one_dataset)
{
    enum { THREADS = 3 };
    sv_ctx *c = test_context(1);
    sv_dataset *d = open_benchmark(c, make_benchmark(c, "p"), "train", NULL);
    reader readers[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        readers[i] = (reader){d, 0};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_often, &readers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_int_eq(readers[i].points, 40 * 3);
    }
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

/* Does a finding with this key say this? */
static bool finds(const sv_findings *f, bool bad, const char *key, const char *text)
{
    for (int i = 0; i < f->count; i++)
        if (f->data[i].bad == bad && strcmp(f->data[i].key, key) == 0 && strstr(f->data[i].text, text))
            return true;
    return false;
}

START_TEST(inspections)
{
    sv_ctx *c = test_context(1);
    sv_findings f;
    const char *root = make_benchmark(c, "i");
    assert_ok(c, sv_dataset_inspect(c, root, &f));
    ck_assert(f.bad == 0 && finds(&f, false, "training", "2 scans") &&
              finds(&f, false, "testing", "1 scans") && finds(&f, false, "val.txt", "1 frames") &&
              finds(&f, false, "training", "label_2: 2 files"));
    sv_findings_free(&f);
    remove(test_path("i/training/image_2/000001.png"));
    kitti_text("i/training/calib/000000.txt", "P2: 1\n");
    kitti_text("i/ImageSets/val.txt", "000001\n000077\n");
    kitti_text("i/ImageSets/bad.txt", "a b\n");
    write_file(test_path("i/testing/velodyne/000002.bin"), scan, 15);
    assert_ok(c, sv_dataset_inspect(c, root, &f));
    ck_assert_int_eq(f.bad, 5);
    ck_assert(finds(&f, true, "training", "image_2: 1 files, 1 missing, first 000001.png"));
    ck_assert(finds(&f, true, "training", "000000.txt, line 1: P2 has 1 numbers"));
    ck_assert(finds(&f, true, "val.txt", "2 frames, 1 of them without a scan"));
    ck_assert(finds(&f, true, "bad.txt", "one name per line"));
    ck_assert(finds(&f, true, "testing", "1 scans are empty or no whole number of points"));
    sv_findings_free(&f);
    sv_findings_free(&f);
    sv_ctx_close(c);
}
END_TEST

/* ---- raw recordings ----------------------------------------------------------------------------------- */

static void make_drive(sv_ctx *c, const char *drive, int frames)
{
    char path[256];
    snprintf(path, sizeof path, "%s/velodyne_points/data", drive);
    kitti_folder(path);
    snprintf(path, sizeof path, "%s/image_02/data", drive);
    kitti_folder(path);
    for (int i = 0; i < frames; i++) {
        snprintf(path, sizeof path, "%s/velodyne_points/data/%010d.bin", drive, i);
        write_scan(path, scan[0], 5);
        snprintf(path, sizeof path, "%s/image_02/data/%010d.png", drive, i);
        write_picture(c, path, 1200, 360);
    }
}

START_TEST(raw_recordings)
{
    sv_ctx *c = test_context(1);
    make_drive(c, "raw/2011_09_26/2011_09_26_drive_0002_sync", 3);
    make_drive(c, "raw/2011_09_26/2011_09_26_drive_0001_sync", 2);
    kitti_folder("raw/2011_09_26/notes");
    assert_fails(c, open_with(c, test_path("raw"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "calib_cam_to_cam.txt: is not there; the calibration of a day");
    kitti_text("raw/2011_09_26/calib_cam_to_cam.txt", kitti_cam_to_cam);
    kitti_text("raw/2011_09_26/calib_velo_to_cam.txt", kitti_velo_to_cam);
    kitti_text("raw/2011_09_26/calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n");

    sv_dataset *d = open_benchmark(c, test_path("raw"), NULL, NULL);
    ck_assert_str_eq(sv_dataset_summary(d), "KITTI raw recordings, 2 drives");
    ck_assert(sv_dataset_count(d) == 5 && sv_dataset_sequence_count(d) == 2);
    ck_assert_str_eq(sv_dataset_sequence(d, 0)->name, "2011_09_26_drive_0001_sync");
    ck_assert(sv_dataset_sequence(d, 1)->first == 2 && sv_dataset_sequence(d, 1)->count == 3);
    ck_assert_str_eq(sv_dataset_id(d, 4), "2011_09_26_drive_0002_sync_0000000002");
    ck_assert_int_eq(sv_dataset_find(d, "0001_sync_0000000001"), 1);
    ck_assert_int_eq(sv_dataset_find(d, "0000000001"), -1); /* two drives have it */
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 3, SV_READ_ALL, &sample));
    ck_assert(!sample.first && sample.sequence == 1 && fabs(sample.time - 0.1) < 1e-12);
    ck_assert(sample.frame->count == 3 && sample.camera_count == 1 && !sample.has_labels && !sample.has_pose);
    ck_assert_str_eq(sample.cameras[0].name, "image_02");
    /* the LiDAR's origin is 0.8 m before and above the inertial unit, and 0.3 m right of it */
    const double origin[3] = {0, 0, 0};
    double ego[3];
    sv_pose_apply(&sample.lidar_to_ego, origin, ego);
    ck_assert(fabs(ego[0] - 0.8) < 1e-12 && fabs(ego[1] + 0.3) < 1e-12 && fabs(ego[2] - 0.8) < 1e-12);
    sv_dataset_close(d);

    /* a day and a drive are as good, and drives can be chosen */
    d = open_benchmark(c, test_path("raw/2011_09_26"), NULL, NULL);
    ck_assert_int_eq(sv_dataset_count(d), 5);
    sv_dataset_close(d);
    d = open_benchmark(c, test_path("raw/2011_09_26/2011_09_26_drive_0002_sync/"), NULL, NULL);
    ck_assert(sv_dataset_count(d) == 3 &&
              strcmp(sv_dataset_id(d, 0), "2011_09_26_drive_0002_sync_0000000000") == 0);
    ck_assert_int_eq(sv_dataset_find(d, "2"), 2);
    assert_ok(c, sv_dataset_read(c, d, 2, SV_READ_POINTS, &sample));
    sv_dataset_close(d);
    assert_fails(
        c, open_with(c, test_path("raw"), NULL, NULL, "0003"), SV_USAGE,
        "has no drive 0003; the drives there are: 2011_09_26_drive_0001_sync, 2011_09_26_drive_0002_sync");
    assert_ok(c, open_with(c, test_path("raw"), NULL, NULL, "2011_09_26_drive_0001_sync"));
    assert_fails(c, open_with(c, test_path("raw"), "val", NULL, NULL), SV_USAGE,
                 "raw recordings have no splits");
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

START_TEST(raw_times_and_poses)
{
    sv_ctx *c = test_context(1);
    make_drive(c, "t/2011_09_26/2011_09_26_drive_0001_sync", 2);
    kitti_text("t/2011_09_26/calib_cam_to_cam.txt", kitti_cam_to_cam);
    kitti_text("t/2011_09_26/calib_velo_to_cam.txt", kitti_velo_to_cam);
    kitti_folder("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data");
    const char *times = "t/2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/timestamps.txt";
    kitti_text(times,
               "2011-09-26 13:02:25.594360375\n2011-09-26 13:02:25.698000000\n2011-09-26 13:02:25.8\n");
    /* half a second of arc further north, turned to the north, and a little up */
    kitti_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt",
               "49.0 8.4 110 0 0 0 1 2 3\n");
    kitti_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000001.txt",
               "49.00013888888889 8.4 110.5 0 0 1.5707963267948966\n");
    sv_dataset *d = open_benchmark(c, test_path("t"), NULL, "all");
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &sample));
    ck_assert(fabs(sample.time - 1317042145.594360375) < 1e-6); /* date -u -d '2011-09-26 13:02:25' +%s */
    ck_assert(sample.has_pose && sample.ego_to_world.r[0] == 1);
    for (int i = 0; i < 3; i++) ck_assert(sample.ego_to_world.t[i] == 0);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_LABELS, &sample));
    ck_assert(fabs(sample.time - 1317042145.698) < 1e-6 && !sample.first);
    /* 0.5 seconds of arc on a sphere of 6378137 m: 15.461 m */
    ck_assert(fabs(sample.ego_to_world.t[0]) < 1e-6 && fabs(sample.ego_to_world.t[1] - 15.461) < 2e-3 &&
              fabs(sample.ego_to_world.t[2] - 0.5) < 1e-9);
    const double ahead[3] = {10, 0, 0};
    double world[3];
    sv_pose_apply(&sample.ego_to_world, ahead, world);
    ck_assert(fabs(world[0]) < 1e-6 && fabs(world[1] - 25.461) < 2e-3);
    sv_dataset_close(d);
    sv_sample_free(&sample);

    /* leap years, and what is no time */
    static const struct {
        const char *text;
        double seconds;
    } dates[] = {{"1970-01-01 00:00:00", 0},          {"2000-02-29 12:00:00", 951825600},
                 {"2000-03-01 00:00:00", 951868800},  {"2011-12-31 23:59:59.5", 1325375999.5},
                 {"2012-03-01 00:00:00", 1330560000}, {"2100-03-01 00:00:00", 4107542400}};
    double *read;
    int count;
    for (size_t i = 0; i < sizeof dates / sizeof *dates; i++) {
        const sv_kitti_text text = {"times", dates[i].text, strlen(dates[i].text)};
        assert_ok(c, sv_kitti_parse_times(c, &text, &read, &count));
        ck_assert(count == 1 && read[0] == dates[i].seconds);
        free(read);
    }
    static const char *const no_times[] = {
        "2011-09-26",         "2011-13-26 1:2:3",  "2011-09-26 25:00:00",  "x y",
        "2011-09-26 13:02",   "2011-09-26 13:02:", "2011-09-26 13:02:nan", "2011-09-26x 13:02:25",
        "1969-09-26 13:02:25"};
    for (size_t i = 0; i < sizeof no_times / sizeof *no_times; i++) {
        const sv_kitti_text text = {"times", no_times[i], strlen(no_times[i])};
        assert_fails(c, sv_kitti_parse_times(c, &text, &read, &count), SV_BAD_INPUT, "times, line 1: '");
        ck_assert(read == NULL && count == 0);
    }
    kitti_text(times, "2011-09-26 13:02:25.594360375\n");
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "timestamps.txt: has 1 lines, none for the scan 0000000001");
    remove(test_path(times));
    kitti_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt", "90.0 8.4 110 0 0 0\n");
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "line 1: '90.0' is no latitude");
    kitti_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt", "49 8.4 110 0 0\n");
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT, "has no yaw (column 6)");
    kitti_text("t/2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/data/first.bin", "");
    remove(test_path("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt"));
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "first.bin: the name of a scan is its number");
    sv_ctx_close(c);
}
END_TEST

/* ---- reference frames --------------------------------------------------------------------------------- */

static const char *const frames[] = {"000000", "000001", "000008", "000134"};

static void same_files(const char *a, const char *b)
{
    size_t n, m;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    ck_assert_msg(x && y && n == m && memcmp(x, y, n) == 0, "%s and %s differ", a, b);
    free(x);
    free(y);
}

START_TEST(official_texts_are_written_as_they_are)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char path[512];
    for (int i = 0; i < 4; i++) {
        sv_kitti_calibration k;
        snprintf(path, sizeof path, "%s/data/kitti/training/calib/%s.txt", reference, frames[i]);
        assert_ok(c, sv_kitti_read_calibration(c, path, &k));
        assert_ok(c, sv_kitti_write_calibration(c, test_path("again.txt"), &k));
        same_files(path, test_path("again.txt"));
        sv_kitti_objects objects;
        snprintf(path, sizeof path, "%s/data/kitti/training/label_2/%s.txt", reference, frames[i]);
        assert_ok(c, sv_kitti_read_objects(c, path, false, &objects));
        assert_ok(c, sv_kitti_write_objects(c, test_path("again.txt"), objects.data, objects.count));
        same_files(path, test_path("again.txt"));
        sv_kitti_free_objects(&objects);
    }
    sv_ctx_close(c);
}
END_TEST

/* The recorded scans reduced to the camera's view. */
START_TEST(fields_of_view)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char root[512], path[700];
    snprintf(root, sizeof root, "%s/data/kitti", reference);
    static const char *const rules[] = {"devkit", "training", "all"};
    static const int counts[3][2] = {{20285, 18630}, {20259, 18619}, {115384, 120268}};
    sv_sample sample = {0};
    for (int rule = 0; rule < 3; rule++) {
        sv_dataset *d;
        sv_dataset_def def = sv_dataset_def_default("kitti", root);
        def.split = "trainval";
        def.fov = rules[rule];
        assert_ok(c, sv_dataset_open(c, &def, &d));
        for (int i = 0; i < 2; i++) {
            const int at = sv_dataset_find(d, frames[i]);
            ck_assert_int_ge(at, 0);
            assert_ok(c, sv_dataset_read(c, d, at, SV_READ_POINTS, &sample));
            ck_assert_int_eq(sample.frame->count, counts[rule][i]);
            ck_assert_str_eq(sample.frame->id, frames[i]);
            if (rule > 0) continue;
            snprintf(path, sizeof path, "%s/fov_reduced/%s.bin", root, frames[i]);
            size_t size;
            char *bytes = read_file(path, &size);
            ck_assert_uint_eq(size, 16 * (size_t)sample.frame->count);
            ck_assert_mem_eq(bytes, sample.frame->points, size);
            free(bytes);
        }
        sv_dataset_close(d);
    }
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

/* expected_points_in_boxes.json: the counts, in the order of the labels, DontCare left out */
START_TEST(points_in_labelled_boxes)
{
    static const int expected[4][16] = {{376, -1},
                                        {70, 9, 18, -1},
                                        {1424, 1940, 878, 668, 53, 164, -1},
                                        {523, 160, 80, 91, 36, 31, 43, 48, 46, 154, 54, 91, 64, 11, 3, -1}};
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char root[512];
    snprintf(root, sizeof root, "%s/data/kitti", reference);
    sv_sample sample = {0};
    sv_dataset *d;
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    def.split = "training";
    def.fov = "all";
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 4);
    for (int i = 0; i < 4; i++) {
        assert_ok(c, sv_dataset_read(c, d, i, SV_READ_POINTS | SV_READ_LABELS, &sample));
        ck_assert_str_eq(sample.id, frames[i]);
        ck_assert(sample.has_labels && sample.labels[0].type[0] != 'D');
        int n = 0;
        for (int k = 0; k < sample.label_count; k++) {
            if (!sample.labels[k].has_box) continue;
            const sv_kitti_sample *kitti = sv_kitti_sample_of(&sample);
            const int camera = sv_kitti_points_in_object(&kitti->calibration, sample.labels[k].record,
                                                         sample.frame->points, sample.frame->count, 4);
            ck_assert_int_eq(camera, expected[i][n++]);
            /* the LiDAR frame's upright box is nearly the same one */
            const int lidar =
                sv_points_in_box(sample.frame->points, sample.frame->count, 4, &sample.labels[k].box);
            ck_assert_msg(abs(lidar - camera) <= 3 + camera / 10, "%s, label %d: %d and %d", sample.id, k,
                          lidar, camera);
        }
        ck_assert_int_eq(expected[i][n], -1);
    }
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kitti folders");
    TCase *tests = tcase_create("kitti folders");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, object_benchmark);
    tcase_add_test(tests, points_that_are_not_finite_and_scans_that_are_cut);
    tcase_add_test(tests, labels_alone);
    tcase_add_test(tests, folders_that_lack_something);
    tcase_add_test(tests, several_threads_read_one_dataset);
    tcase_add_test(tests, inspections);
    tcase_add_test(tests, raw_recordings);
    tcase_add_test(tests, raw_times_and_poses);
    tcase_add_test(tests, official_texts_are_written_as_they_are);
    tcase_add_test(tests, fields_of_view);
    tcase_add_test(tests, points_in_labelled_boxes);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
