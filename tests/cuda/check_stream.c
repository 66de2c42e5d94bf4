/* SPDX-License-Identifier: Apache-2.0
 *
 * Detectors that carry states, on the GPU: both branches (MODEL.CAMERA and MODEL.TEMPORAL) with numbers in them, over a
 * simulated drive with ego motion and two cameras, one of which stops for two frames.
 *
 *     - frames that are replayed give the bytes of frames that are not, and most frames are replayed
 *     - fp32 gives the CPU's boxes (centres within 5 mm, scores within 1e-3: a state adds up what differs) once the CPU has the
 *       GPU's picks (picks.h), which may differ from its own by roundings only: at most one in ten thousand
 *
 *     check_stream CONFIG.yaml        of a detector on x, y, z, intensity, without branches
 *
 * Exit code: 0 all met, 1 not, 77 no GPU.
 */
#define _XOPEN_SOURCE 700
#include "picks.h"

#include "datasets/synthetic/sim.h"
#include "perception/detector.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FRAMES = 20, SLOTS = 2, WIDTH = 160, HEIGHT = 96, STOPS = 9, GOES_ON = 11 };

static int failures;

/* 'message' is looked at behind the call. */
#define must(call, what, message)                                                                            \
    do {                                                                                                     \
        const sv_status status_ = (call);                                                                    \
        if (status_ != SV_OK) {                                                                              \
            printf("FAILED  %s: %s (%s)\n", (what), (message), sv_status_text(status_));                     \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static double random_number(void)
{
    static uint64_t state = 7;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 40) / (double)(1 << 24);
}

/* ---- the drive ----------------------------------------------------------------------------------------- */

static sv_frame *frames[FRAMES];
static sv_camera_view views[FRAMES][SLOTS];

static void place_camera(sv_ctx *c, sv_camera_view *view, const char *name, double yaw, bool picture)
{
    const double focal = 100, x = cos(yaw), y = sin(yaw), forward[4] = {x, y, 0, 0.3},
                 right[4] = {y, -x, 0, 0}, down[4] = {0, 0, -1, -0.2};
    snprintf(view->name, sizeof view->name, "%s", name);
    for (int i = 0; i < 4; i++) {
        view->projection[i] = focal * right[i] + WIDTH / 2.0 * forward[i];
        view->projection[4 + i] = focal * down[i] + HEIGHT / 2.0 * forward[i];
        view->projection[8 + i] = forward[i];
    }
    view->width = WIDTH;
    view->height = HEIGHT;
    if (!picture) return;
    must(sv_image_new(c, &view->image, WIDTH, HEIGHT, 0), "picture", sv_error_message(c));
    for (int i = 0; i < 3 * WIDTH * HEIGHT; i++) view->image.rgb[i] = (uint8_t)(256 * random_number());
}

static void drive(sv_ctx *c)
{
    const sv_sim_world world = sv_sim_world_make(6);
    sv_sim_scene scene = {0};
    sv_sim_scan scan = {0};
    sv_sim_lidar_def sensor = *sv_sim_lidar_find("hdl64");
    sensor.columns = 720;
    for (int t = 0; t < FRAMES; t++) {
        must(sv_sim_scene_at(c, &world, 2 + 0.1 * t, &scene), "scene", sv_error_message(c));
        const sv_pose up = sv_pose_from_yaw(0.02 * t, 0, 0, 1.73), pose = sv_pose_compose(&scene.ego, &up);
        must(sv_sim_lidar(c, &scene, &sensor, &pose, 100 + (uint64_t)t, &scan), "scan", sv_error_message(c));
        sv_frame *frame = frames[t] = sv_frame_new(&sv_device_cpu, scan.count, 4);
        for (int i = 0; i < scan.count; i++) {
            const sv_sim_return *r = &scan.returns[i];
            memcpy(frame->points + 4 * (size_t)i, (const float[4]){r->x, r->y, r->z, r->intensity},
                   4 * sizeof(float));
        }
        frame->count = scan.count;
        frame->time = 1000 + 0.1 * t;
        frame->has_pose = true;
        frame->to_world = pose;
        snprintf(frame->id, sizeof frame->id, "%03d", t);
        place_camera(c, &views[t][0], "left", 0.5, t < STOPS || t >= GOES_ON);
        place_camera(c, &views[t][1], "right", -0.4, true);
        frame->cameras = views[t];
        frame->camera_count = SLOTS;
    }
    sv_sim_scan_free(&scan);
    sv_sim_scene_free(&scene);
}

/* ---- detectors ------------------------------------------------------------------------------------------ */

static const char branches[] = "MODEL:\n"
                               "  TEMPORAL: {NAME: ConvS5, CHANNELS: 32, SSM_SIZE: 32}\n"
                               "  CAMERA: {NAME: TRecViT, CAMERAS: [left, right], VARIANT: Ti, DEPTH: 2, "
                               "INPUT: {SIZE: [96, 160], RESIZE: stretch}}\n";

/* The configuration with the branches, a file of its own that lives as long as the program. */
static char path[64];

static void remove_config(void)
{
    remove(path);
}

static void write_config(const char *base)
{
    char absolute[PATH_MAX];
    snprintf(path, sizeof path, "/tmp/check_stream-%ld.yaml", (long)getpid());
    FILE *file = realpath(base, absolute) ? fopen(path, "w") : NULL;
    if (!file) {
        printf("FAILED  %s cannot be read, or %s not written\n", base, path);
        exit(1);
    }
    fprintf(file, "_BASE_CONFIG_: %s\n%s", absolute, branches);
    fclose(file);
    atexit(remove_config);
}

static void fill(sv_weights *w, const char *name, double size)
{
    const sv_tensor t = sv_weights_find(w, name);
    if (sv_is_none(t)) {
        printf("FAILED  there is no tensor '%s'\n", name);
        exit(1);
    }
    for (int64_t i = 0; i < (int64_t)t.dim[0] * sv_row_elements(t); i++)
        sv_f32(t)[i] = (float)(size * (2 * random_number() - 1));
}

typedef struct found {
    sv_box *boxes; /* [FRAMES, most] */
    int counts[FRAMES], most, replays;
    double ms;
} found;

/* 'picks' [FRAMES], or NULL: learnt from this run, or imposed on it. */
static found run(sv_device_kind kind, bool replay, const sv_model_def *def, const sv_weights *w,
                 choice *picks)
{
    sv_detector_def how = sv_detector_def_default();
    sv_ctx *c = NULL;
    sv_model *model = NULL;
    sv_detector *d = NULL;
    sv_state *state = NULL;
    how.ctx.device = kind;
    how.replay = replay;
    const sv_status opened = sv_ctx_open(&how.ctx, &c);
    if (opened == SV_USAGE || opened == SV_NO_KERNEL) {
        printf("SKIPPED: %s\n", c ? sv_error_message(c) : "no memory");
        exit(77);
    }
    must(opened, "device", c ? sv_error_message(c) : "no memory");
    must(sv_model_open_weights(c, def, w, &model), "model", sv_error_message(c));
    must(sv_detector_open(&how, model, &d), "detector", sv_detector_error(d));
    must(sv_detector_stream(d, &state), "state", sv_detector_error(d));
    found f = {.most = sv_model_max_boxes(model)};
    f.boxes = calloc(FRAMES * (size_t)f.most, sizeof *f.boxes);
    for (int t = 0; t < FRAMES; t++) {
        if (picks) {
            picks[t].merges = 0;
            sv_detector_ctx(d)->probe = see_picks;
            sv_detector_ctx(d)->probe_user = &picks[t];
        }
        const double began = sv_clock_ms();
        must(sv_detect(d, &frames[t], 1, state, f.boxes + (size_t)t * (size_t)f.most, &f.counts[t]), "frame",
             sv_detector_error(d));
        f.ms = sv_clock_ms() - began; /* of the last one */
        if (picks) picks[t].imposed = true;
    }
    f.replays = sv_detector_replays(d);
    sv_state_close(state);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
    return f;
}

/* Boxes of 'a' that 'b' has, too. */
static int matched(const found *a, const found *b, int t)
{
    int count = 0;
    for (int i = 0; i < a->counts[t]; i++) {
        const sv_box *p = a->boxes + (size_t)t * (size_t)a->most + i;
        for (int j = 0; j < b->counts[t]; j++) {
            const sv_box *q = b->boxes + (size_t)t * (size_t)b->most + j;
            const double dx = (double)p->x - (double)q->x, dy = (double)p->y - (double)q->y,
                         dz = (double)p->z - (double)q->z;
            if (p->label == q->label && dx * dx + dy * dy + dz * dz < 25e-6 &&
                fabs((double)p->score - (double)q->score) < 1e-3) {
                count++;
                break;
            }
        }
    }
    return count;
}

static void expect(bool met, const char *what, int value, int of)
{
    printf("%s  %s: %d of %d\n", met ? "ok    " : "FAILED", what, value, of);
    failures += !met;
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "check_stream CONFIG.yaml\n");
        return 2;
    }
    write_config(arguments[1]);
    const sv_model_def def = {.config = path};
    sv_ctx_def plain = sv_ctx_def_default();
    sv_ctx *c = NULL;
    must(sv_ctx_open(&plain, &c), "context", "none");
    sv_weights *w = sv_weights_new();
    must(sv_model_init(c, &def, 5, w), "weights", sv_error_message(c));
    fill(w, "temporal.out.weight", 0.2);
    fill(w, "camera.projection.weight", 0.1);
    drive(c);
    choice *picks = calloc(FRAMES, sizeof *picks);
    if (!picks) return 1;
    const found replayed = run(SV_CUDA, true, &def, w, NULL), eager = run(SV_CUDA, false, &def, w, picks),
                cpu = run(SV_CPU, false, &def, w, picks);
    int same = 0, all = 0, hits = 0, picked = 0, other = 0;
    for (int t = 0; t < FRAMES; t++) {
        const size_t at = (size_t)t * (size_t)cpu.most;
        same += replayed.counts[t] == eager.counts[t] &&
                memcmp(replayed.boxes + at, eager.boxes + at, sizeof(sv_box) * (size_t)eager.counts[t]) == 0;
        all += cpu.counts[t] > eager.counts[t] ? cpu.counts[t] : eager.counts[t];
        const int here = matched(&cpu, &eager, t);
        hits += here;
        int missing = 0;
        for (int i = 0; i < picks[t].merges; i++) {
            picked += picks[t].count[i];
            missing += picks[t].missing[i];
        }
        other += missing;
        printf("frame %2d: %d boxes on the CPU, %d on the GPU, %d of them the same; the CPU would have "
               "picked %d other voxels\n",
               t, cpu.counts[t], eager.counts[t], here, missing);
        choice_free(&picks[t]);
    }
    free(picks);
    expect(same == FRAMES, "frames whose replay gives the same bytes", same, FRAMES);
    expect(replayed.replays >= FRAMES / 2, "frames replayed", replayed.replays, FRAMES);
    expect(other <= picked / 10000, "picks of the CPU's own that the GPU had, too", picked - other, picked);
    expect(all > 0 && hits >= all - all / 1000, "boxes of the CPU found by the GPU", hits, all);
    printf("last frame: %.2f ms replayed, %.2f ms eagerly, %.2f ms on the CPU\n", replayed.ms, eager.ms,
           cpu.ms);
    for (int t = 0; t < FRAMES; t++) {
        for (int i = 0; i < SLOTS; i++) sv_image_free(&views[t][i].image);
        sv_frame_release(frames[t]);
    }
    free(replayed.boxes);
    free(eager.boxes);
    free(cpu.boxes);
    sv_weights_free(w);
    sv_ctx_close(c);
    return failures > 0;
}
