/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole detector on the GPU, from points in host memory to boxes in host memory:
 *
 *     - fp32: the CPU's boxes (same number, labels, centres within 1 mm, scores within 1e-4); where it would pick other
 *       voxels to grow from, with the GPU's
 *     - the same bytes over repeats, and for the points in any order
 *     - after warm-up no allocation, and the host waits only for the finished frame (counted at the device's interface;
 *       the captured frame itself is one graph without host nodes)
 *     - in batches and after an overflow in a replayed frame: the bytes of single frames that fitted
 *     - every precision: latency, and its boxes beside those of fp32, with its own choice of voxels to grow from
 *       and with the choice of the fp32 run imposed: with random weights another voxel moves the borders of all
 *       groups behind it, which says nothing about the arithmetic
 *
 *     check_boxes CONFIG WEIGHTS POINTS [FRAMES [LAYOUT]]
 *
 * CONFIG: a file, or the name of a configuration that ships.
 * Exit code: 0 all met, 1 not, 77 no GPU.
 */
#include "picks.h"
#include "sides.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 100, SHUFFLES = 10, WARMUP = 5 };

/* ---- counting
 * -------------------------------------------------------------------------------------------- */

static struct {
    int allocations, waits, downloads;
} count;
static const sv_device *real;

static void *count_alloc(size_t bytes)
{
    count.allocations++;
    return real->alloc(bytes);
}
static void *count_alloc_host(size_t bytes)
{
    count.allocations++;
    return real->alloc_host(bytes);
}
static sv_status count_wait(sv_ctx *c)
{
    count.waits++;
    return real->queue_wait(c);
}
static sv_status count_download(sv_ctx *c, void *host, const void *device, size_t bytes)
{
    count.downloads++;
    return real->download(c, host, device, bytes);
}

static bool same_bytes(const found *a, const found *b)
{
    return a->count == b->count && memcmp(a->boxes, b->boxes, sizeof *a->boxes * (size_t)a->count) == 0;
}

/* Boxes of 'a' with at least 'least' that have a partner in 'b'; a partner serves once. */
static int matched(const found *a, const found *b, float least, float centre, float score, int *looked_at)
{
    int pairs = 0;
    bool *taken = calloc((size_t)b->count + 1, sizeof *taken);
    if (!taken) exit(1);
    *looked_at = 0;
    for (int i = 0; i < a->count; i++) {
        const sv_box *p = &a->boxes[i];
        if (p->score < least) continue;
        (*looked_at)++;
        for (int k = 0; k < b->count; k++) {
            const sv_box *q = &b->boxes[k];
            if (taken[k] || p->label != q->label || fabsf(p->score - q->score) > score ||
                hypotf(hypotf(p->x - q->x, p->y - q->y), p->z - q->z) > centre)
                continue;
            taken[k] = true;
            pairs++;
            break;
        }
    }
    free(taken);
    return pairs;
}

/* ---- the choice of voxels ------------------------------------------------------------------------------ */

/* 'k' learns or imposes the picks of a frame. */
static found detect_with(side *s, sv_frame *frame, choice *k)
{
    sv_ctx *c = sv_detector_ctx(s->detector);
    k->merges = 0;
    c->probe = see_picks;
    c->probe_user = k;
    const found f = detect(s, frame);
    c->probe = NULL;
    k->imposed = true;
    return f;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void shuffle(sv_frame *frame, uint64_t *state)
{
    float swap[16];
    const size_t columns = (size_t)frame->columns, bytes = sizeof(float) * columns;
    for (int i = frame->count - 1; i > 0; i--) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        const size_t j = (size_t)((*state >> 33) % (uint64_t)(i + 1)), k = (size_t)i;
        memcpy(swap, frame->points + k * columns, bytes);
        memcpy(frame->points + k * columns, frame->points + j * columns, bytes);
        memcpy(frame->points + j * columns, swap, bytes);
    }
}

/* Batches of three, run eagerly and replayed: each part has the bytes of its frame alone. */
static void check_batches(side *s, sv_frame *whole, sv_frame *half, const found *of_whole)
{
    enum { BATCH = 3, RUNS = 3 };
    sv_frame *const frames[BATCH] = {whole, half, whole};
    found of_half = detect(s, half);
    const found *const wanted[BATCH] = {of_whole, &of_half, of_whole};
    sv_box *boxes = calloc(BATCH * (size_t)s->most, sizeof *boxes);
    if (!boxes) exit(1);
    bool same = true;
    for (int run = 0; run < RUNS; run++) {
        int counts[BATCH];
        must(sv_detect(s->detector, frames, BATCH, NULL, boxes, counts), "batch",
             sv_detector_error(s->detector));
        for (int i = 0; i < BATCH; i++) {
            const found part = {.boxes = boxes + (size_t)i * (size_t)s->most, .count = counts[i]};
            same = same && same_bytes(&part, wanted[i]);
        }
    }
    expect(same, "the same bytes in batches of %d, %d boxes of half the points among them", BATCH,
           of_half.count);
    free(boxes);
    free(of_half.boxes);
}

/* A detector whose capacities fit half of the points gets all of them. */
static void check_overflow(side *s, sv_frame *whole, sv_frame *half, const found *of_whole)
{
    sv_detector_set_capacity(s->detector, SV_CAP_POINTS, whole->count);
    for (int run = 0; run < 3; run++) {
        found of_half = detect(s, half);
        free(of_half.boxes);
        for (int i = SV_CAP_VOXELS; run == 0 && i < SV_CAPACITIES; i++)
            sv_detector_set_capacity(s->detector, (sv_capacity)i,
                                     sv_detector_needed(s->detector, (sv_capacity)i) + 8);
    }
    const int replays = sv_detector_replays(s->detector), reruns = sv_detector_reruns(s->detector);
    found grown = detect(s, whole);
    expect(sv_detector_replays(s->detector) > replays && sv_detector_reruns(s->detector) > reruns &&
               same_bytes(&grown, of_whole),
           "the same bytes after an overflow in a replayed frame, %d more runs",
           sv_detector_reruns(s->detector) - reruns);
    free(grown.boxes);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        printf("SKIPPED: usage: check_boxes CONFIG WEIGHTS POINTS [FRAMES [LAYOUT]]\n");
        return 77;
    }
    const int frames = argc > 4 ? atoi(argv[4]) : 200;
    side gpu = open_side(SV_CUDA, SV_FP32, argv[1], argv[2]),
         cpu = open_side(SV_CPU, SV_FP32, argv[1], argv[2]);
    const char *layout = argc > 5 ? argv[5] : sv_model_point_layout(gpu.model);
    const int columns = sv_model_point_columns(gpu.model);
    sv_points points = {0};
    must(sv_points_read(cpu.c, argv[3], layout, &points), argv[3], sv_error_message(cpu.c));
    sv_frame *frame = frame_of(SV_CUDA, &points, columns), *shuffled = frame_of(SV_CUDA, &points, columns),
             *half = frame_of(SV_CUDA, &points, columns), *host = frame_of(SV_CPU, &points, columns);
    half->count /= 2; /* the first half */

    choice picks = {.imposed = false}, own = {.imposed = false};
    found recorded = detect_with(&gpu, frame, &picks);
    const found first = detect(&gpu, frame);
    expect(same_bytes(&recorded, &first), "the same bytes with a probe, without capture");
    free(recorded.boxes);
    /* Of two voxels whose scores differ by a rounding the CPU may pick the other: then it gets the GPU's picks. */
    found want = detect_with(&cpu, host, &own);
    int looked_at = 0, all_picks = 0;
    const int other_picks = others(&own, &picks, &all_picks);
    if (other_picks > 0) {
        free(want.boxes);
        want = detect_with(&cpu, host, &picks);
    }
    const int close = matched(&want, &first, 0, 1e-3f, 1e-4f, &looked_at);
    expect(first.count == want.count && close == want.count,
           "fp32: %d boxes, %d on the CPU, %d of them the same; %d of %d picked voxels differed%s",
           first.count, want.count, close, other_picks, all_picks,
           other_picks > 0 ? ", and were imposed" : "");
    bool same = true;
    for (int i = 0; i < REPEATS; i++) {
        found again = detect(&gpu, frame);
        same = same && same_bytes(&first, &again);
        free(again.boxes);
    }
    expect(same, "the same bytes in %d repeats", REPEATS);
    uint64_t state = 1;
    same = true;
    for (int i = 0; i < SHUFFLES; i++) {
        shuffle(shuffled, &state);
        found again = detect(&gpu, shuffled);
        same = same && same_bytes(&first, &again);
        free(again.boxes);
    }
    expect(same, "the same bytes for the points in %d other orders", SHUFFLES);

    sv_ctx *c = sv_detector_ctx(gpu.detector);
    real = c->device;
    sv_device counting = *real;
    counting.alloc = count_alloc;
    counting.alloc_host = count_alloc_host;
    counting.queue_wait = count_wait;
    counting.download = count_download;
    c->device = c->frame.device = c->scratch.device = &counting;
    const int before = sv_detector_replays(gpu.detector);
    for (int i = 0; i < REPEATS; i++) {
        found again = detect(&gpu, frame);
        free(again.boxes);
    }
    c->device = c->frame.device = c->scratch.device = real;
    expect(
        sv_detector_replays(gpu.detector) - before == REPEATS && count.allocations == 0 &&
            count.downloads == 0 && count.waits <= 2 * REPEATS,
        "%d frames: %d replayed graphs, %d allocations, %d reads, %d waits, all behind the boxes' download",
        REPEATS, sv_detector_replays(gpu.detector) - before, count.allocations, count.downloads, count.waits);
    printf("        frames run again for want of room until here: %d\n", sv_detector_reruns(gpu.detector));
    check_batches(&gpu, frame, half, &first);
    close_side(&gpu);
    side small = open_side(SV_CUDA, SV_FP32, argv[1], argv[2]);
    check_overflow(&small, frame, half, &first);
    close_side(&small);

    printf("%-10s %9s %9s %9s %12s %22s %12s %14s\n", "precision", "p50 ms", "p90 ms", "p99 ms", "device MiB",
           "fp32's boxes above 0.3", "found again", "picks imposed");
    for (int p = SV_FP32; p <= SV_FP16_MATH; p++) {
        side s = open_side(SV_CUDA, (sv_precision)p, argv[1], argv[2]);
        double *ms = calloc((size_t)frames + 1, sizeof *ms);
        if (!ms) exit(1);
        found same_picks = detect_with(&s, frame, &picks), last = {0};
        for (int i = -WARMUP; i < frames; i++) {
            free(last.boxes);
            last.boxes = calloc((size_t)s.most, sizeof *last.boxes);
            if (!last.boxes) exit(1);
            const double began = sv_clock_ms();
            must(sv_detect(s.detector, &frame, 1, NULL, last.boxes, &last.count), "frame",
                 sv_detector_error(s.detector));
            if (i >= 0) ms[i] = sv_clock_ms() - began;
        }
        qsort(ms, (size_t)frames, sizeof *ms, by_value);
        const int again = matched(&first, &last, 0.3f, 0.05f, 0.02f, &looked_at),
                  imposed = matched(&first, &same_picks, 0.3f, 0.05f, 0.02f, &looked_at);
        const sv_ctx *d = sv_detector_ctx(s.detector);
        const double memory =
            (double)(d->frame.reserved + d->scratch.reserved + sv_model_weight_bytes(s.model)) / 1048576;
        printf("%-10s %9.3f %9.3f %9.3f %12.1f %22d %11.2f%% %13.2f%%\n", sv_precision_name((sv_precision)p),
               ms[(frames - 1) / 2], ms[(frames * 90 + 99) / 100 - 1], ms[(frames * 99 + 99) / 100 - 1],
               memory, looked_at, looked_at ? 100.0 * again / looked_at : 100.0,
               looked_at ? 100.0 * imposed / looked_at : 100.0);
        free(ms);
        free(same_picks.boxes);
        free(last.boxes);
        close_side(&s);
    }
    choice_free(&picks);
    choice_free(&own);
    free(first.boxes);
    free(want.boxes);
    sv_frame_release(frame);
    sv_frame_release(shuffled);
    sv_frame_release(half);
    sv_frame_release(host);
    sv_points_free(&points);
    close_side(&cpu);
    printf("%s\n", failures ? "the boxes do NOT hold" : "the boxes hold");
    return failures > 0;
}
