/* SPDX-License-Identifier: Apache-2.0
 *
 * The frame cache: the same points as the source, the same bytes for any number of threads, continued after a
 * kill; what has changed or is damaged is told; the program's results do not depend on it.
 */
#include "support_program.h"

#include "datasets/cache.h"
#include "datasets/cache_part.h"
#include "datasets/dataset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 7, LAST = 20000 };

static char root[300], folder[300];

static void put_text(const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", root, name);
    write_file(path, text, strlen(text));
}

/* Clouds of none, a few, exactly a chunk's and more points; one of noise, which does not pack. */
static int points_of(int sample)
{
    static const int counts[SAMPLES] = {300, 0, SV_CACHE_ROWS, SV_CACHE_ROWS + 1, 5, LAST, 2 * SV_CACHE_ROWS};
    return counts[sample];
}

static void put_points(int sample, uint64_t seed)
{
    static float points[4 * LAST];
    char path[600];
    test_rng rng = {seed + (uint64_t)sample};
    for (int i = 0; i < 4 * points_of(sample); i++)
        points[i] = (float)(sample == 5 ? rng_normal(&rng) : 0.125 * (i % 4) + i / 4000);
    if (points_of(sample) > 3) points[9] = -0.0f;
    snprintf(path, sizeof path, "%s/points/f%d.bin", root, sample);
    write_file(path, points, 16 * (size_t)points_of(sample));
}

static void make_set(void)
{
    static const char *const inner[] = {"", "/points", "/labels"};
    char path[400], poses[2000] = "";
    snprintf(root, sizeof root, "%s", test_path("set"));
    snprintf(folder, sizeof folder, "%s", test_path("cache"));
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", root, inner[i]);
        ck_assert_int_eq(mkdir(path, 0777), 0);
    }
    put_text("dataset.txt", "layout xyzi\nclass Car\n");
    for (int i = 0; i < SAMPLES; i++) {
        char name[40], line[100];
        put_points(i, 5);
        snprintf(name, sizeof name, "labels/f%d.txt", i);
        put_text(name, i % 2 ? "Car 1 2 3 4 2 1.5 0.5\nBus 1 2 3 9 3 3 0 1 1\n" : "");
        snprintf(line, sizeof line, "f%d drive %d.5 1 0 0 %d 0 1 0 6 0 0 1 7\n", i, i, 1000 * i);
        strcat(poses, line);
    }
    put_text("poses.txt", poses);
}

static sv_status open_set(sv_ctx *c, const char *cache, sv_dataset **out)
{
    sv_dataset_def def = sv_dataset_def_default("custom", root);
    def.cache = cache;
    return sv_dataset_open(c, &def, out);
}

static void make_cache(sv_ctx *c, const char *to, sv_cache_summary *summary)
{
    sv_dataset *d = NULL;
    assert_ok(c, open_set(c, NULL, &d));
    assert_ok(c, sv_cache_make(c, d, to, 3, NULL, summary));
    sv_dataset_close(d);
}

static void assert_same_file(const char *one, const char *two, const char *name)
{
    char path[2][700];
    size_t size[2];
    snprintf(path[0], sizeof path[0], "%s/%s", one, name);
    snprintf(path[1], sizeof path[1], "%s/%s", two, name);
    void *a = read_file(path[0], &size[0]), *b = read_file(path[1], &size[1]);
    ck_assert_msg(a && b && size[0] == size[1] && memcmp(a, b, size[0]) == 0, "%s differ", name);
    free(a);
    free(b);
}

static const char *const parts[] = {"part-000000.h5", "part-000003.h5", "part-000006.h5"};

START_TEST(points_come_back_as_they_were)
{
    sv_ctx *c = test_context(1), *three = test_context(3);
    sv_cache_summary s;
    make_set();
    make_cache(c, folder, &s);
    ck_assert_int_eq(s.written, SAMPLES);
    ck_assert_int_eq(s.kept, 0);
    ck_assert_int_eq(s.boxes, 6);
    ck_assert_int_lt(s.stored, s.bytes);
    make_cache(three, test_path("cache3"), &s);
    for (int i = 0; i < 3; i++) assert_same_file(folder, test_path("cache3"), parts[i]);
    sv_dataset *source = NULL, *cached = NULL;
    assert_ok(c, open_set(c, NULL, &source));
    assert_ok(c, open_set(c, folder, &cached));
    sv_sample a = {0}, b = {0};
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < SAMPLES; i++) {
            const int k = round ? SAMPLES - 1 - i : i;
            assert_ok(c, sv_dataset_read(c, source, k, SV_READ_ALL, &a));
            assert_ok(c, sv_dataset_read(c, cached, k, SV_READ_ALL, &b));
            ck_assert_int_eq(b.frame->count, points_of(k));
            ck_assert_mem_eq(a.frame->points, b.frame->points, 16 * (size_t)points_of(k));
            ck_assert(b.has_pose && b.has_labels && b.label_count == a.label_count && b.time == a.time);
            ck_assert_str_eq(b.frame->id, a.id);
            assert_ok(c, sv_dataset_read(c, cached, k, SV_READ_LABELS, &b));
            ck_assert_ptr_null(b.frame);
        }
    assert_ok(c, sv_cache_verify(c, source, folder, NULL));
    sv_sample_free(&a);
    sv_sample_free(&b);
    sv_dataset_close(source);
    sv_dataset_close(cached);
    sv_ctx_close(c);
    sv_ctx_close(three);
}
END_TEST

typedef struct readers {
    const sv_dataset *dataset;
    sv_ctx *c[3];
    int wrong;
} readers;

static void read_some(void *arg, int task, int worker)
{
    readers *r = arg;
    sv_sample s = {0};
    const int k = (task * 5) % SAMPLES;
    const bool good = sv_dataset_read(r->c[worker], r->dataset, k, SV_READ_POINTS, &s) == SV_OK &&
                      s.frame->count == points_of(k);
    if (!good) __atomic_fetch_add(&r->wrong, 1, __ATOMIC_RELAXED);
    sv_sample_free(&s);
}

START_TEST(threads_read_at_a_time)
{
    sv_ctx *c = test_context(3);
    sv_cache_summary s;
    make_set();
    make_cache(c, folder, &s);
    sv_dataset *d = NULL;
    assert_ok(c, open_set(c, folder, &d));
    readers r = {.dataset = d, .c = {test_context(1), test_context(1), test_context(1)}};
    sv_pool_run(c->pool, read_some, &r, 60);
    ck_assert_int_eq(r.wrong, 0);
    for (int i = 0; i < 3; i++) sv_ctx_close(r.c[i]);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

START_TEST(a_killed_run_is_continued)
{
    sv_ctx *c = test_context(1);
    sv_cache_summary s;
    char path[700];
    make_set();
    make_cache(c, folder, &s);
    const struct timespec second = {.tv_sec = 1, .tv_nsec = 100000000};
    nanosleep(&second, NULL); /* no file may hold its time */
    make_cache(c, test_path("whole"), &s);
    snprintf(path, sizeof path, "%s/%s", folder, parts[1]);
    ck_assert_int_eq(unlink(path), 0);
    sv_dataset *d = NULL;
    assert_fails(c, open_set(c, folder, &d), SV_BAD_INPUT, "the part that begins with sample 3 is missing");
    make_cache(c, folder, &s);
    ck_assert_int_eq(s.written, 3);
    ck_assert_int_eq(s.kept, 4);
    for (int i = 0; i < 3; i++) assert_same_file(folder, test_path("whole"), parts[i]);
    snprintf(path, sizeof path, "%s/%s", folder, parts[2]);
    ck_assert_int_eq(unlink(path), 0);
    assert_fails(c, open_set(c, folder, &d), SV_BAD_INPUT, "holds 6 of 7 samples");
    assert_fails(c, open_set(c, test_path("nowhere"), &d), SV_IO, "there is no such cache");
    sv_ctx_close(c);
}
END_TEST

START_TEST(what_has_changed_is_told)
{
    sv_ctx *c = test_context(1);
    sv_cache_summary s;
    sv_dataset *d = NULL;
    sv_sample sample = {0};
    char path[700];
    make_set();
    make_cache(c, folder, &s);
    /* the same size with another content: only a comparison of checksums sees it */
    put_points(5, 77);
    assert_ok(c, open_set(c, NULL, &d));
    assert_fails(c, sv_cache_verify(c, d, folder, NULL), SV_BAD_INPUT,
                 "the files of sample f5 have another content");
    sv_dataset_close(d);
    put_points(5, 5);
    /* boxes and poses */
    put_text("labels/f1.txt", "Car 1 2 3 4 2 1.5 0.6\nBus 1 2 3 9 3 3 0 1 1\n");
    assert_ok(c, open_set(c, folder, &d));
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &sample));
    assert_fails(c, sv_dataset_read(c, d, 1, SV_READ_POINTS | SV_READ_LABELS, &sample), SV_BAD_INPUT,
                 "boxes or poses of sample f1 have changed");
    sv_dataset_close(d);
    put_text("labels/f1.txt", "Car 1 2 3 4 2 1.5 0.5\nBus 1 2 3 9 3 3 0 1 1\n");
    /* another size */
    snprintf(path, sizeof path, "%s/points/f4.bin", root);
    write_file(path, "0123456789abcdef", 16);
    assert_fails(c, open_set(c, folder, &d), SV_BAD_INPUT,
                 "sample f4 has changed since the cache was made (80 bytes then, 16 now)");
    put_points(4, 5);
    /* other settings, in the same folder */
    put_text("dataset.txt", "layout xyz\nclass Car\n");
    assert_fails(c, open_set(c, folder, &d), SV_BAD_INPUT, "was made of other data");
    assert_ok(c, open_set(c, NULL, &d));
    assert_fails(c, sv_cache_make(c, d, folder, 3, NULL, &s), SV_BAD_INPUT, "name another folder");
    sv_dataset_close(d);
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

/* Cut off anywhere, or with a chunk of points changed: an error, or points of the right number. */
START_TEST(damaged_parts_are_refused)
{
    sv_ctx *c = test_context(1);
    sv_cache_summary s;
    char path[700];
    size_t size = 0;
    make_set();
    make_cache(c, folder, &s);
    snprintf(path, sizeof path, "%s/%s", folder, parts[0]);
    char *whole = read_file(path, &size);
    test_rng rng = {3};
    int refused = 0;
    for (int i = 0; i < 60; i++) {
        sv_dataset *d = NULL;
        sv_sample sample = {0};
        char *copy = malloc(size);
        memcpy(copy, whole, size);
        const size_t cut = i % 3 == 0 ? (size_t)rng_uniform(&rng, 0, (double)size) : size;
        if (cut == size)
            for (int k = 0; k < 20; k++) copy[(size_t)rng_uniform(&rng, 3000, (double)size)] ^= (char)(1 + k);
        write_file(path, copy, cut);
        free(copy);
        sv_status status = open_set(c, folder, &d);
        for (int k = 0; k < 3 && status == SV_OK; k++)
            status = sv_dataset_read(c, d, k, SV_READ_POINTS, &sample);
        if (status != SV_OK) ck_assert_ptr_nonnull(strstr(sv_error_message(c), parts[0]));
        refused += status != SV_OK;
        sv_error_clear(c);
        sv_sample_free(&sample);
        sv_dataset_close(d);
    }
    ck_assert_int_ge(refused, 20);
    write_file(path, "no HDF5 at all", 14);
    sv_dataset *d = NULL;
    assert_fails(c, open_set(c, folder, &d), SV_BAD_INPUT, "is no part of a frame cache");
    free(whole);
    sv_ctx_close(c);
}
END_TEST

START_TEST(chunks_survive)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {11};
    static float points[3 * SV_CACHE_ROWS], back[3 * SV_CACHE_ROWS];
    rng_fill(&rng, points, 3 * SV_CACHE_ROWS, 20);
    points[4] = (float)INFINITY, points[5] = (float)NAN;
    static const int rows[] = {0, 1, 777, SV_CACHE_ROWS};
    for (size_t r = 0; r < 4; r++) {
        memset(back, 0, sizeof back);
        for (int k = 0; k < 3; k++) {
            sv_cache_chunk chunk;
            assert_ok(c, sv_cache_pack(c, points, rows[r], 3, k, &chunk));
            assert_ok(c, sv_cache_unpack(c, "part", &chunk, rows[r], 3, k, back));
            chunk.size--;
            assert_fails(c, sv_cache_unpack(c, "part", &chunk, rows[r], 3, k, back), SV_BAD_INPUT,
                         "part: a chunk");
            free(chunk.bytes);
        }
        ck_assert_mem_eq(points, back, sizeof(float) * 3 * (size_t)rows[r]);
    }
    /* noise lies as it is, small whole numbers are packed; what others may have left shuffled but unpacked is
     * read */
    static uint8_t apart[4 * SV_CACHE_ROWS];
    sv_cache_chunk chunk;
    assert_ok(c, sv_cache_pack(c, points, SV_CACHE_ROWS, 3, 0, &chunk));
    ck_assert(chunk.mask == 3 && chunk.size == 4 * SV_CACHE_ROWS);
    free(chunk.bytes);
    for (int i = 0; i < SV_CACHE_ROWS; i++)
        for (int b = 0; b < 4; b++) apart[b * SV_CACHE_ROWS + i] = ((const uint8_t *)&points[3 * i])[b];
    chunk = (sv_cache_chunk){.bytes = apart, .size = sizeof apart, .mask = 2};
    memset(back, 0, sizeof back);
    assert_ok(c, sv_cache_unpack(c, "part", &chunk, SV_CACHE_ROWS, 3, 0, back));
    for (int i = 0; i < SV_CACHE_ROWS; i++) ck_assert_mem_eq(&points[3 * i], &back[3 * i], 4);
    chunk.mask = 1; /* packed, but not shuffled: nobody writes that */
    assert_fails(c, sv_cache_unpack(c, "part", &chunk, SV_CACHE_ROWS, 3, 0, back), SV_BAD_INPUT, "damaged");
    for (int i = 0; i < SV_CACHE_ROWS; i++) points[3 * i] = (float)(i * i % 200);
    assert_ok(c, sv_cache_pack(c, points, SV_CACHE_ROWS, 3, 0, &chunk));
    ck_assert(chunk.mask == 0 && chunk.size < 2 * SV_CACHE_ROWS);
    assert_ok(c, sv_cache_unpack(c, "part", &chunk, SV_CACHE_ROWS, 3, 0, back));
    for (int i = 0; i < SV_CACHE_ROWS; i++) ck_assert_mem_eq(&points[3 * i], &back[3 * i], 4);
    free(chunk.bytes);
    sv_ctx_close(c);
}
END_TEST

START_TEST(the_program_gives_the_same_results)
{
    static const char *const formats[] = {"kitti --beams hdl32", "nuscenes", "waymo"};
    char command[1500], data[300], cache[300];
    snprintf(data, sizeof data, "%s", test_path("drive"));
    snprintf(cache, sizeof cache, "%s", test_path("kept"));
    snprintf(command, sizeof command, "synth %s --format %s --frames 4 --drives 2 --no-images -q", data,
             formats[_i]);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    const char *fov = _i == 0 ? "--fov all" : "";
    snprintf(command, sizeof command, "cache -q --root %s %s -o %s", data, fov, cache);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "cache -q --root %s %s -o %s --verify", data, fov, cache);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "cache -q --root %s %s -o %s --compare", data, fov, cache);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "times as fast"));
    for (int cached = 0; cached < 2; cached++) {
        snprintf(command, sizeof command, "detect -q -c cluster --dataset %.8s --root %s %s -o %s %s %s",
                 _i == 0 ? "kitti" : formats[_i], data, fov, test_path(cached ? "b.json" : "a.json"),
                 cached ? "--cache" : "", cached ? cache : "");
        ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    }
    size_t size[2];
    char *a = read_file(test_path("a.json"), &size[0]), *b = read_file(test_path("b.json"), &size[1]);
    ck_assert(a && b && size[0] == size[1] && memcmp(a, b, size[0]) == 0);
    ck_assert_uint_gt(size[0], 500);
    free(a);
    free(b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cache");
    TCase *cases = tcase_create("frame cache");
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, points_come_back_as_they_were);
    tcase_add_test(cases, threads_read_at_a_time);
    tcase_add_test(cases, a_killed_run_is_continued);
    tcase_add_test(cases, what_has_changed_is_told);
    tcase_add_test(cases, damaged_parts_are_refused);
    tcase_add_test(cases, chunks_survive);
    tcase_add_loop_test(cases, the_program_gives_the_same_results, 0, 3);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
