/* SPDX-License-Identifier: Apache-2.0
 *
 * The Waymo reader and evaluator, timed.
 *
 *   bench_waymo decode ROOT [SPLIT]          frames from TFRecords, beside what zlib and memory allow
 *   bench_waymo make PRED.bin GT.bin FRAMES  detections and labels of so many made-up frames, 200 detections each
 *   bench_waymo eval PRED.bin GT.bin         from the files to the scores, on one thread and on all
 *
 * The official program takes the same two files: time compute_detection_metrics_main PRED.bin GT.bin
 */
#include "datasets/tfrecord.h"
#include "datasets/waymo_dataset.h"
#include "datasets/waymo_eval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { ROUNDS = 5, BATCH = 256 };

static void must(const sv_ctx *c, sv_status status)
{
    if (status == SV_OK) return;
    fprintf(stderr, "%s\n", sv_error_message(c));
    exit(1);
}

static sv_ctx *context(int threads)
{
    sv_ctx *c;
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = threads;
    if (sv_ctx_open(&def, &c) != SV_OK) exit(1);
    return c;
}

/* ---- decoding ----------------------------------------------------------------------------------------- */

typedef struct readers {
    const sv_dataset *dataset;
    sv_ctx *c[64];
    sv_sample sample[64];
    unsigned parts;
} readers;

static void read_one(void *arg, int task, int worker)
{
    readers *r = arg;
    must(r->c[worker], sv_dataset_read(r->c[worker], r->dataset, task % sv_dataset_count(r->dataset),
                                       r->parts, &r->sample[worker]));
}

/* The best of some rounds, in seconds per frame. */
static double read_all(const sv_dataset *d, unsigned parts, int threads, int inner)
{
    readers r = {.dataset = d, .parts = parts};
    sv_pool *pool = sv_pool_open(threads);
    const int frames = sv_dataset_count(d) * 4;
    double best = 1e9;
    for (int i = 0; i < threads; i++) r.c[i] = context(inner);
    for (int k = 0; k < ROUNDS; k++) {
        const double began = sv_clock_ms();
        sv_pool_run(pool, read_one, &r, frames);
        best = fmin(best, (sv_clock_ms() - began) * 1e-3 / frames);
    }
    for (int i = 0; i < threads; i++) {
        sv_sample_free(&r.sample[i]);
        sv_ctx_close(r.c[i]);
    }
    sv_pool_close(pool);
    return best;
}

static double inflate_only(const sv_waymo_frame *f, uint8_t *room, size_t size, size_t *packed,
                           size_t *unpacked)
{
    double best = 1e9;
    for (int k = 0; k < ROUNDS; k++) {
        const double began = sv_clock_ms();
        *packed = *unpacked = 0;
        for (int i = 0; i < SV_WAYMO_LASERS; i++)
            for (int s = 0; s < 3; s++) {
                const sv_bytes b = s < 2 ? f->lasers[i].range[s] : f->lasers[i].pose;
                uLongf made = size;
                if (b.size == 0) continue;
                if (uncompress(room, &made, b.data, b.size) != Z_OK) exit(1);
                *packed += b.size;
                *unpacked += made;
            }
        best = fmin(best, (sv_clock_ms() - began) * 1e-3);
    }
    return best;
}

static int decode(const char *root, const char *split)
{
    sv_ctx *c = context(1);
    sv_dataset *d;
    sv_dataset_def def = sv_dataset_def_default("waymo", root);
    def.split = split;
    double began = sv_clock_ms();
    must(c, sv_dataset_open(c, &def, &d));
    printf("%s: %d frames, opened in %.2f ms\n", sv_dataset_summary(d), sv_dataset_count(d),
           sv_clock_ms() - began);
    sv_sample sample = {0};
    sv_pool *all = sv_pool_open(0);
    const int threads = sv_pool_threads(all) < 64 ? sv_pool_threads(all) : 64;
    sv_pool_close(all);
    must(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    const size_t size = 64u << 20;
    uint8_t *room = malloc(size);
    size_t packed = 0, unpacked = 0;
    if (!room) return 1;
    memset(room, 1, size);
    const double limit = inflate_only(&sv_waymo_sample_of(&sample)->frame, room, size, &packed, &unpacked);
    double copied = 1e9;
    for (int k = 0; k < ROUNDS; k++) {
        began = sv_clock_ms();
        memcpy(room, room + size / 2, unpacked < size / 2 ? unpacked : size / 2);
        copied = fmin(copied, (sv_clock_ms() - began) * 1e-3);
    }
    printf("first frame: %d points; range images %.2f MB packed, %.2f MB unpacked\n", sample.frame->count,
           (double)packed * 1e-6, (double)unpacked * 1e-6);
    printf("zlib alone, one thread:        %7.2f ms a frame, %6.1f frames/s, %7.1f MB/s unpacked\n",
           limit * 1e3, 1 / limit, (double)unpacked * 1e-6 / limit);
    printf("memcpy of what is unpacked:    %7.2f ms\n", copied * 1e3);
    const struct {
        const char *name;
        unsigned parts;
        int readers, inner;
    } runs[] = {{"labels (checksum of the record)", SV_READ_LABELS, 1, 1},
                {"points, one thread", SV_READ_POINTS | SV_READ_LABELS, 1, 1},
                {"points, all threads in a frame", SV_READ_POINTS | SV_READ_LABELS, 1, threads},
                {"points, a frame per thread", SV_READ_POINTS | SV_READ_LABELS, threads, 1}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const double t = read_all(d, runs[i].parts, runs[i].readers, runs[i].inner);
        printf("%-31s%7.2f ms a frame, %6.1f frames/s, %7.1f MB/s unpacked\n", runs[i].name, t * 1e3, 1 / t,
               (double)unpacked * 1e-6 / t);
    }
    printf("%d threads; best of %d rounds\n", threads, ROUNDS);
    free(room);
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
    return 0;
}

/* ---- made-up results ---------------------------------------------------------------------------------- */

static uint64_t state = 20260101;

static double uniform(double low, double high)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return low + (high - low) * (double)(state >> 11) * 0x1p-53;
}

static sv_waymo_object random_object(int type)
{
    static const double sizes[SV_WAYMO_TYPES][3] = {
        {1, 1, 1}, {4.6, 2.1, 1.7}, {0.9, 0.85, 1.75}, {0.3, 0.8, 0.8}, {1.8, 0.8, 1.75}};
    const double near = type == SV_WAYMO_SIGN ? 75 : uniform(20, 75);
    return (sv_waymo_object){.x = uniform(-near, near),
                             .y = uniform(-near, near),
                             .z = uniform(0.4, 1.6),
                             .length = sizes[type][0] * uniform(0.85, 1.15),
                             .width = sizes[type][1] * uniform(0.9, 1.1),
                             .height = sizes[type][2] * uniform(0.9, 1.1),
                             .heading = uniform(-3.14, 3.14),
                             .score = 1,
                             .type = type,
                             .points = (int)uniform(0, 60)};
}

static int make(const char *detections, const char *labels, int frames)
{
    static const int counts[SV_WAYMO_TYPES] = {0, 35, 18, 12, 2};
    FILE *to[2] = {fopen(detections, "wb"), fopen(labels, "wb")};
    if (!to[0] || !to[1]) return 1;
    for (int k = 0; k < frames; k++) {
        sv_wire_out bytes[2] = {{0}, {0}};
        char context[40];
        int made = 0;
        snprintf(context, sizeof context, "drive_%04d", k / 198);
        const int64_t time = 1550000000000000 + 100000 * (int64_t)(k % 198);
        for (int type = 1; type < SV_WAYMO_TYPES; type++)
            for (int i = 0; i < counts[type]; i++) {
                sv_waymo_object o = random_object(type);
                sv_waymo_put_object(&bytes[1], &o, context, time);
                if (uniform(0, 1) < 0.1) continue;
                /* one or two detections of it */
                for (int n = uniform(0, 1) < 0.3 ? 2 : 1; n > 0; n--, made++) {
                    sv_waymo_object p = o;
                    p.x += uniform(-0.2, 0.2), p.y += uniform(-0.1, 0.1), p.z += uniform(-0.1, 0.1);
                    p.heading += uniform(-0.1, 0.1);
                    p.score = (float)uniform(0.2, 1);
                    p.points = 0;
                    sv_waymo_put_object(&bytes[0], &p, context, time);
                }
            }
        for (; made < 200; made++) {
            sv_waymo_object p =
                random_object(made % 3 ? SV_WAYMO_VEHICLE : SV_WAYMO_PEDESTRIAN + made % 2 * 2);
            p.score = (float)uniform(0.01, 0.5);
            p.points = 0;
            sv_waymo_put_object(&bytes[0], &p, context, time);
        }
        for (int i = 0; i < 2; i++) {
            fwrite(bytes[i].data, 1, bytes[i].size, to[i]);
            sv_wire_free(&bytes[i]);
        }
    }
    return fclose(to[0]) || fclose(to[1]);
}

/* ---- evaluation --------------------------------------------------------------------------------------- */

static void judge(const char *const paths[2], int threads)
{
    sv_ctx *c = context(threads);
    sv_waymo_file files[2];
    sv_waymo_keys keys = {0};
    sv_waymo_eval *e;
    sv_waymo_scores *scores = malloc(sizeof *scores);
    const double began = sv_clock_ms();
    for (int i = 0; i < 2; i++)
        must(c, sv_waymo_file_open(c, paths[i], sv_waymo_keys_number, &keys, &files[i]));
    int *order = malloc(sizeof *order * (size_t)(keys.count + 1));
    if (!scores || !order || !sv_waymo_keys_sort(&keys, order)) exit(1);
    must(c, sv_waymo_eval_open(c, &e));
    double matched = 0;
    for (int first = 0; first < keys.count; first += BATCH) {
        sv_waymo_object *objects[BATCH][2];
        sv_waymo_eval_frame frames[BATCH];
        const int n = keys.count - first < BATCH ? keys.count - first : BATCH;
        for (int i = 0; i < n; i++) {
            int counts[2];
            for (int k = 0; k < 2; k++)
                must(c, sv_waymo_file_read(c, &files[k], order[first + i], &objects[i][k], &counts[k]));
            frames[i] = (sv_waymo_eval_frame){objects[i][1], objects[i][0], counts[1], counts[0]};
        }
        const double before = sv_clock_ms();
        must(c, sv_waymo_eval_add(c, e, frames, n));
        matched += sv_clock_ms() - before;
        for (int i = 0; i < n; i++) {
            free(objects[i][0]);
            free(objects[i][1]);
        }
    }
    must(c, sv_waymo_eval_finish(c, e, scores));
    const double took = (sv_clock_ms() - began) * 1e-3;
    printf("%d threads: %.3f s from the files to the scores (%.3f s of it matching), %.0f frames/s; vehicles "
           "L1 %.6f "
           "%.6f\n",
           sv_pool_threads(c->pool), took, matched * 1e-3, keys.count / took,
           (double)scores->curve[0][0].ap[0], (double)scores->curve[0][0].aph[0]);
    sv_waymo_eval_close(e);
    for (int i = 0; i < 2; i++) sv_waymo_file_close(&files[i]);
    sv_waymo_keys_free(&keys);
    free(order);
    free(scores);
    sv_ctx_close(c);
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "decode") == 0) return decode(argv[2], argc > 3 ? argv[3] : NULL);
    if (argc == 5 && strcmp(argv[1], "make") == 0) return make(argv[2], argv[3], atoi(argv[4]));
    if (argc == 4 && strcmp(argv[1], "eval") == 0) {
        const char *const paths[2] = {argv[2], argv[3]};
        for (int i = 0; i < 3; i++) judge(paths, 1);
        judge(paths, 0);
        return 0;
    }
    fprintf(stderr, "bench_waymo decode ROOT [SPLIT] | make PRED.bin GT.bin FRAMES | eval PRED.bin GT.bin\n");
    return 2;
}
