/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole frame on the GPU, captured as a CUDA graph: upload, voxelization, VFE, the LION backbone with its merges and
 * voxel generation, scatter to BEV. Compared with the CPU, replayed, in batches of 1 and 2, through overflows that happen
 * while a graph is replayed, with a state that must be committed by good frames only.
 *
 *     check_frame CONFIG.yaml WEIGHTS POINTS.bin [REPLAYS]
 *
 * A plain program without a test framework, so that it runs where there is little but a GPU. Exit code: 0 all met, 1 not,
 * 77 no GPU.
 */
#include "sides.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The step at the place of temporal blocks: shows the map, and carries a running sum of maps. */
static sv_status carry(void *user, sv_ctx *c, sv_state *state, int batch, sv_tensor bev)
{
    (void)user, (void)batch;
    const sv_state_entry *map = NULL, *sum = NULL;
    SV_TRY(sv_state_entry_get(c, state, "map", bev.dim[0], bev.dim[1], &map));
    SV_TRY(sv_state_entry_get(c, state, "sum of maps", bev.dim[0], bev.dim[1], &sum));
    SV_TRY(sv_map1(c, map->next, bev, SV_MAP_identity));
    return sv_map2(c, sum->next, sum->now, bev, SV_MAP_add);
}

/* Frames end with the map, which the step then has. */
static side open_map_side(sv_device_kind kind, const char *config, const char *weights)
{
    sv_detector_def def = sv_detector_def_default();
    def.last = SV_STAGE_BEV;
    def.step.run = carry;
    return open_side_as(kind, SV_FP32, config, weights, def);
}

static sv_frame *first_points(const sv_device *device, const sv_points *points, int count)
{
    sv_frame *frame = sv_frame_new(device, count, points->columns);
    if (!frame) exit(1);
    memcpy(frame->points, points->data, sizeof(float) * (size_t)count * (size_t)points->columns);
    frame->count = count;
    return frame;
}

static void run_frames(side *s, sv_frame *const *frames, int batch, sv_state *state)
{
    static sv_box *boxes;
    int counts[SV_MAX_BATCH];
    if (!boxes) boxes = malloc(sizeof *boxes * 4096);
    const sv_status status = sv_detect(s->detector, frames, batch, state, boxes, counts);
    must(status, "frame", sv_detector_error(s->detector));
}

/* State entry 'name' on the host, malloc'ed. */
static float *entry(side *s, sv_state *state, const char *name, int rows, int columns)
{
    sv_ctx *c = sv_detector_ctx(s->detector);
    const sv_state_entry *e = NULL;
    float *host = malloc(sizeof *host * (size_t)rows * (size_t)columns);
    if (!host) exit(1);
    sv_status status = sv_state_entry_get(c, state, name, rows, columns, &e);
    if (status == SV_OK)
        status = c->device->download(c, host, e->now.data, sizeof *host * (size_t)rows * (size_t)columns);
    must(status, name, sv_error_message(c));
    return host;
}

static double largest_difference(const float *a, const float *b, size_t count, double *magnitude)
{
    double worst = 0;
    *magnitude = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
        if (fabs((double)b[i]) > *magnitude) *magnitude = fabs((double)b[i]);
    }
    return worst;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static sv_state *new_state(side *s)
{
    sv_state *state = NULL;
    must(sv_state_open(sv_detector_ctx(s->detector), &state), "state", "no memory");
    return state;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        printf("SKIPPED: usage: check_frame CONFIG.yaml WEIGHTS POINTS.bin [REPLAYS]\n");
        return 77;
    }
    const int replays = argc > 4 ? atoi(argv[4]) : 100;
    side gpu = open_map_side(SV_CUDA, argv[1], argv[2]), cpu = open_map_side(SV_CPU, argv[1], argv[2]);
    sv_points points = {0};
    const sv_status read = sv_points_read(cpu.c, argv[3], sv_model_point_layout(cpu.model), &points);
    must(read, argv[3], sv_error_message(cpu.c));
    const sv_device *device = sv_device_of(SV_CUDA);
    sv_frame *whole = first_points(device, &points, points.count),
             *half = first_points(device, &points, points.count / 2);
    sv_frame *whole_cpu = first_points(sv_device_of(SV_CPU), &points, points.count);
    const sv_grid *grid = sv_model_grid(gpu.model);
    const int cells = grid->cells[0] * grid->cells[1];

    /* the CPU's map */
    sv_state *cpu_state = new_state(&cpu);
    run_frames(&cpu, &whole_cpu, 1, cpu_state);
    const int columns = (int)(sv_state_bytes(cpu_state) / sizeof(float) / 4 / (size_t)cells);
    const size_t numbers = (size_t)cells * (size_t)columns;
    float *want = entry(&cpu, cpu_state, "map", cells, columns);

    /* batch 1: first eagerly, then replayed */
    sv_state *state = new_state(&gpu);
    run_frames(&gpu, &whole, 1, state);
    expect(sv_detector_replays(gpu.detector) == 0, "the first frame runs eagerly and is captured behind it");
    float *eager = entry(&gpu, state, "map", cells, columns);
    double magnitude = 0, worst = largest_difference(eager, want, numbers, &magnitude);
    expect(worst <= 1e-4 * magnitude,
           "BEV map against the CPU: largest difference %.2e of %.3g (%.1e relative)", worst, magnitude,
           worst / magnitude);
    for (int v = SV_CAP_VOXELS; v < SV_CAPACITIES; v++)
        expect(sv_detector_needed(gpu.detector, (sv_capacity)v) ==
                   sv_detector_needed(cpu.detector, (sv_capacity)v),
               "%s: %d on the GPU, %d on the CPU", sv_capacity_name((sv_capacity)v),
               sv_detector_needed(gpu.detector, (sv_capacity)v),
               sv_detector_needed(cpu.detector, (sv_capacity)v));
    double *ms = calloc((size_t)replays + 1, sizeof *ms);
    bool same = true;
    for (int i = 0; i < replays; i++) {
        const double began = sv_clock_ms();
        run_frames(&gpu, &whole, 1, state);
        ms[i] = sv_clock_ms() - began;
        if (i % 25 == 0) {
            float *again = entry(&gpu, state, "map", cells, columns);
            same = same && memcmp(again, eager, sizeof *eager * numbers) == 0;
            free(again);
        }
    }
    qsort(ms, (size_t)replays, sizeof *ms, by_value);
    expect(sv_detector_replays(gpu.detector) == replays, "%d of %d frames were replayed from the graph",
           sv_detector_replays(gpu.detector), replays);
    expect(same, "replayed frames have the bytes of the eager one");
    printf("        replayed frame with state: p50 %.2f ms, p99 %.2f ms (points in host memory to the "
           "committed state)\n",
           ms[(replays - 1) / 2], ms[(replays * 99 + 99) / 100 - 1]);

    /* the state saw every frame once: a float sum of the same map, frame after frame */
    expect(sv_state_frames(state) == replays + 1, "%d frames committed, %d ran", sv_state_frames(state),
           replays + 1);
    float *sum = entry(&gpu, state, "sum of maps", cells, columns),
          *expected = calloc(numbers, sizeof *expected);
    for (int k = 0; k <= replays; k++)
        for (size_t i = 0; i < numbers; i++) expected[i] += eager[i];
    expect(memcmp(sum, expected, sizeof *sum * numbers) == 0,
           "the carried sum equals the sum of %d maps, byte for byte", replays + 1);
    free(sum);

    /* overflow while a graph is replayed: a detector that has seen only half of the frame gets the whole one */
    side small = open_map_side(SV_CUDA, argv[1], argv[2]);
    sv_state *small_state = new_state(&small);
    sv_detector_set_capacity(small.detector, SV_CAP_POINTS,
                             points.count); /* the buffers fit: only voxels overflow */
    for (int i = 0; i < 3; i++) run_frames(&small, &half, 1, small_state);
    for (int v = SV_CAP_VOXELS; v < SV_CAPACITIES; v++)
        sv_detector_set_capacity(small.detector, (sv_capacity)v,
                                 sv_detector_needed(small.detector, (sv_capacity)v) + 8);
    must(sv_state_reset(sv_detector_ctx(small.detector), small_state), "state", "reset");
    for (int i = 0; i < 2; i++)
        run_frames(&small, &half, 1, small_state); /* captured at the tight capacities, and replayed */
    const int replays_before = sv_detector_replays(small.detector),
              reruns_before = sv_detector_reruns(small.detector);
    float *half_map = entry(&small, small_state, "map", cells, columns);
    run_frames(&small, &whole, 1, small_state);
    expect(sv_detector_replays(small.detector) > replays_before, "the overflow happened in a replayed frame");
    expect(sv_detector_reruns(small.detector) > reruns_before,
           "it was run again %d times with grown capacities",
           sv_detector_reruns(small.detector) - reruns_before);
    float *grown = entry(&small, small_state, "map", cells, columns);
    expect(memcmp(grown, eager, sizeof *grown * numbers) == 0, "and has the bytes of a frame that fitted");
    sum = entry(&small, small_state, "sum of maps", cells, columns);
    for (size_t i = 0; i < numbers; i++) expected[i] = (half_map[i] + half_map[i]) + eager[i];
    expect(memcmp(sum, expected, sizeof *sum * numbers) == 0 && sv_state_frames(small_state) == 3,
           "the state was committed by the three good frames only, not by the overflowed attempts");
    free(sum);
    free(grown);

    /* batch 2, either order; its halves have the bytes of single frames */
    for (int order = 0; order < 2; order++) {
        sv_state *pair_state = new_state(&gpu);
        sv_frame *pair[2] = {order ? half : whole, order ? whole : half};
        for (int i = 0; i < 3; i++) run_frames(&gpu, pair, 2, pair_state);
        float *both = entry(&gpu, pair_state, "map", 2 * cells, columns);
        expect(memcmp(both + (order ? numbers : 0), eager, sizeof *both * numbers) == 0 &&
                   memcmp(both + (order ? 0 : numbers), half_map, sizeof *both * numbers) == 0,
               "batch 2 (%s first), replayed: both parts have the bytes of single frames",
               order ? "half" : "whole");
        free(both);
        sv_state_close(pair_state);
    }

    sv_ctx *g = sv_detector_ctx(gpu.detector);
    printf("        device memory: frame arena %.1f MiB, scratch %.1f MiB, weights %.1f MiB\n",
           (double)g->frame.reserved / 1048576, (double)g->scratch.reserved / 1048576,
           (double)sv_model_weight_bytes(gpu.model) / 1048576);
    printf("%s\n", failures ? "the captured frame does NOT hold" : "the captured frame holds");

    free(want), free(eager), free(expected), free(half_map), free(ms);
    sv_state_close(cpu_state);
    sv_state_close(state);
    sv_state_close(small_state);
    sv_frame_release(whole);
    sv_frame_release(half);
    sv_frame_release(whole_cpu);
    sv_points_free(&points);
    close_side(&small);
    close_side(&gpu);
    close_side(&cpu);
    return failures > 0;
}
