/* SPDX-License-Identifier: Apache-2.0
 *
 * Drives in the layout of nuScenes: a sweep of the LiDAR every 0.05 s, key frames every half second, six cameras at
 * them, the tables of v1.0-trainval. Streets are called as scenes of the official splits are, every second one as a
 * scene of val, so that official tools find them. A frame is the key frame with the sweeps since the one before.
 *
 * What frames know of objects (returns, visibility) is kept in ROOT/synth until the tables are written.
 */
#include "synth_nuscenes.h"

#include "perception/core/file.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double pi = 3.14159265358979323846;

/* ---- names, times, places ----------------------------------------------------------------------------- */

sv_nuscenes_token sim_nuscenes_token(const sv_synth_def *def, const char *kind, uint64_t a, uint64_t b,
                                     uint64_t c)
{
    uint64_t name = 0;
    for (const char *p = kind; *p; p++) name = sim_mix(name ^ (uint64_t)(unsigned char)*p);
    const uint64_t high = sim_key(sim_key(def->seed, name, a), b, c);
    return (sv_nuscenes_token){high | 1, sim_mix(high)}; /* never both 0, which means none */
}

/* Every second drive is for validation, a single one too. */
static bool validates(const sv_synth_def *def, int drive)
{
    return def->drives == 1 || drive % 2 == 1;
}

void sim_nuscenes_scene(const sv_synth_def *def, int drive, char out[20])
{
    const char *name = validates(def, drive) ? "val" : "train";
    int number = drive / 2;
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++) {
        const sv_nuscenes_split *split = &sv_nuscenes_splits[i];
        if (strcmp(split->name, name) != 0) continue;
        for (int k = 0; k < split->run_count; k++) {
            const int length = split->runs[k][1] - split->runs[k][0] + 1;
            if (number < length) {
                snprintf(out, 20, "scene-%04d", split->runs[k][0] + number);
                return;
            }
            number -= length;
        }
    }
    snprintf(out, 20, "scene-9999"); /* begin() has refused so many drives */
}

int sim_nuscenes_length(const sv_synth_def *def, int drive)
{
    const int length = sv_synth_drive_length(def), left = def->frames - drive * length;
    return left < 0 ? 0 : left < length ? left : length;
}

double sim_nuscenes_time(int channel, int number)
{
    return channel == 0 ? 0.05 * number : 0.5 * number;
}

int64_t sim_nuscenes_stamp(int drive, double time)
{
    return (int64_t)1532402927000000 + (int64_t)drive * 1000000000 + (int64_t)llround(1e6 * time);
}

void sim_nuscenes_file(const sv_synth_def *def, int drive, int channel, int number, char out[160])
{
    char scene[20];
    sim_nuscenes_scene(def, drive, scene);
    const char *name = sv_nuscenes_channels[channel];
    snprintf(out, 160, "%s/%s/%s__%s__%lld.%s",
             channel == 0 && number % SIM_SWEEPS != 0 ? "sweeps" : "samples", name, scene, name,
             (long long)sim_nuscenes_stamp(drive, sim_nuscenes_time(channel, number)),
             channel == 0 ? "pcd.bin" : "jpg");
}

/* The vehicle's frame has its origin on the ground below the rear axle, the LiDAR's x to the right and y forward,
 * the cameras' x right, y down, z forward. */
sv_pose sim_nuscenes_mount(int channel)
{
    static const double at[SV_NUSCENES_CHANNELS][4] = {
        {0.94, 0, 1.84, -90},    {1.70, 0.02, 1.51, 0},   {1.55, -0.49, 1.50, -56}, {1.01, -0.48, 1.56, -110},
        {0.03, 0.00, 1.58, 180}, {1.03, 0.48, 1.56, 110}, {1.52, 0.49, 1.50, 56},
    };
    const double *m = at[channel];
    const sv_pose turned = sv_pose_from_yaw(m[3] * pi / 180, m[0], m[1], m[2]);
    const sv_pose axes = {.r = {0, 0, 1, -1, 0, 0, 0, -1, 0}};
    return channel == 0 ? turned : sv_pose_compose(&turned, &axes);
}

sv_sim_camera_def sim_nuscenes_camera(int channel, int width)
{
    const double scale = (double)width / SIM_NUSCENES_WIDTH;
    const double focus = scale * (strcmp(sv_nuscenes_channels[channel], "CAM_BACK") == 0 ? 404.6 : 633.2);
    const int height = (int)lround(scale * SIM_NUSCENES_HEIGHT);
    return (sv_sim_camera_def){width, height, focus, focus, scale * 400 - 0.5, scale * 225 - 0.5, false};
}

const char *sim_nuscenes_category(sv_sim_kind kind)
{
    static const char *const names[SV_SIM_KINDS] = {"vehicle.car",
                                                    "vehicle.car",
                                                    "vehicle.truck",
                                                    "human.pedestrian.adult",
                                                    "human.pedestrian.adult",
                                                    "vehicle.bicycle",
                                                    "vehicle.trailer",
                                                    NULL};
    return names[kind];
}

/* Also what has no return, if it can be seen. */
bool sim_nuscenes_labelled(const sv_sim_object *object, const sim_count *count)
{
    return sim_nuscenes_category(object->kind) && (count->points > 0 || count->seen >= 4);
}

void sim_nuscenes_counts_file(const sv_synth_def *def, int index, char out[1200])
{
    snprintf(out, 1200, "%s/synth/%06d.counts", def->folder, index);
}

/* ---- a frame ------------------------------------------------------------------------------------------ */

static sv_status write_bytes(sv_ctx *c, const char *path, const void *bytes, size_t size)
{
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    fwrite(bytes, 1, size, output.stream);
    const sv_status status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}

/* x, y, z, intensity (0..255), ring (0 the lowest). */
static sv_status write_sweep(sv_ctx *c, const sv_synth_def *def, const sv_synth_frame *f, int number,
                             int beams, const sv_sim_scan *scan)
{
    float *data = malloc(sizeof *data * 5 * (size_t)(scan->count + 1));
    SV_CHECK(c, data, SV_NO_MEMORY, "no memory for %d points", scan->count);
    for (int i = 0; i < scan->count; i++) {
        const sv_sim_return *r = &scan->returns[i];
        float *p = data + 5 * (size_t)i;
        p[0] = r->x, p[1] = r->y, p[2] = r->z;
        p[3] = rintf(255 * r->intensity);
        p[4] = (float)(beams - 1 - r->beam);
    }
    char file[160], path[1200];
    sim_nuscenes_file(def, f->drive, 0, number, file);
    snprintf(path, sizeof path, "%s/%s", def->folder, file);
    const sv_status status = write_bytes(c, path, data, sizeof *data * 5 * (size_t)scan->count);
    free(data);
    return status;
}

typedef struct simulation {
    sv_sim_scene scene;
    sv_sim_scan scan;
    sv_sim_view view;
    sim_count *counts; /* malloc'ed; of the scene's objects */
} simulation;

static sv_status cast_sweep(sv_ctx *c, const sv_synth_def *def, const sv_synth_frame *f, int number,
                            simulation *s)
{
    const sv_sim_lidar_def *sensor = sv_sim_lidar_find(def->lidar);
    SV_TRY(sv_sim_scene_at(c, &f->world, sim_nuscenes_time(0, number), &s->scene));
    const sv_pose mount = sim_nuscenes_mount(0), pose = sv_pose_compose(&s->scene.ego, &mount);
    SV_TRY(sv_sim_lidar(c, &s->scene, sensor, &pose, sim_key(f->key, 1, (uint64_t)number), &s->scan));
    return write_sweep(c, def, f, number, sensor->beams, &s->scan);
}

/* Visibility comes from coarse pictures, so that it is the same with pictures and without. */
static sv_status look(sv_ctx *c, const sv_synth_def *def, const sv_synth_frame *f, int channel, simulation *s)
{
    enum { COARSE = SIM_NUSCENES_WIDTH / 4 };
    const sv_pose mount = sim_nuscenes_mount(channel), pose = sv_pose_compose(&s->scene.ego, &mount);
    sv_sim_camera_def camera = sim_nuscenes_camera(channel, COARSE);
    camera.blind = true;
    SV_TRY(sv_sim_camera(c, &s->scene, &camera, &pose, 0, &s->view));
    for (int i = 0; i < s->scene.object_count; i++) {
        s->counts[i].seen += s->view.seen[i];
        s->counts[i].alone += s->view.alone[i];
    }
    if (!def->images) return SV_OK;
    char file[160], path[1200];
    camera = sim_nuscenes_camera(channel, SIM_NUSCENES_WIDTH);
    SV_TRY(sv_sim_camera(c, &s->scene, &camera, &pose, sim_key(f->key, 2, (uint64_t)channel), &s->view));
    sim_nuscenes_file(def, f->drive, channel, f->of_drive, file);
    snprintf(path, sizeof path, "%s/%s", def->folder, file);
    return sv_image_write_jpeg(c, &s->view.image, 92, path);
}

static sv_status simulate(sv_ctx *c, const sv_synth_def *def, int index, simulation *s, long *points,
                          long *labels)
{
    const sv_synth_frame f = sv_synth_frame_at(def, index);
    const int key = SIM_SWEEPS * f.of_drive, first = f.of_drive == 0 ? 0 : key - SIM_SWEEPS + 1;
    for (int n = first; n <= key; n++) {
        SV_TRY(cast_sweep(c, def, &f, n, s));
        *points += s->scan.count;
    }
    const size_t objects = (size_t)s->scene.object_count;
    s->counts = calloc(objects + 1, sizeof *s->counts);
    SV_CHECK(c, s->counts, SV_NO_MEMORY, "no memory for %zu objects", objects);
    for (size_t i = 0; i < objects; i++) s->counts[i].points = s->scan.per_object[i];
    for (int channel = 1; channel < SV_NUSCENES_CHANNELS; channel++) SV_TRY(look(c, def, &f, channel, s));
    for (size_t i = 0; i < objects; i++)
        *labels += sim_nuscenes_labelled(&s->scene.objects[i], &s->counts[i]);
    char path[1200];
    sim_nuscenes_counts_file(def, index, path);
    return write_bytes(c, path, s->counts, sizeof *s->counts * objects); /* last: the frame is complete */
}

static sv_status write_frame(sv_ctx *c, const sv_synth_def *def, int index, long *points, long *labels)
{
    simulation s = {0};
    const sv_status status = simulate(c, def, index, &s, points, labels);
    free(s.counts);
    sv_sim_view_free(&s.view);
    sv_sim_scan_free(&s.scan);
    sv_sim_scene_free(&s.scene);
    return status;
}

static bool have(const sv_synth_def *def, int index)
{
    char path[1200];
    sim_nuscenes_counts_file(def, index, path);
    return access(path, F_OK) == 0;
}

/* ---- the folder --------------------------------------------------------------------------------------- */

static sv_status begin(sv_ctx *c, const sv_synth_def *def)
{
    enum { MOST = 300 };
    SV_CHECK(
        c, def->drives <= MOST, SV_USAGE,
        "%d drives: nuScenes' list of validation scenes has names for %d drives; make fewer, longer ones "
        "(--drives)",
        def->drives, MOST);
    SV_CHECK(
        c, !def->images || sv_image_has_jpeg(), SV_USAGE,
        "nuScenes' pictures are JPEG files, which this build cannot write: install libjpeg-dev and build "
        "again, or leave them out (--no-images)");
    static const char *const folders[] = {"synth", "v1.0-trainval", "maps", "samples/LIDAR_TOP",
                                          "sweeps/LIDAR_TOP"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        SV_TRY(sv_synth_make_folder(c, def->folder, folders[i]));
    for (int i = 1; def->images && i < SV_NUSCENES_CHANNELS; i++) {
        char folder[64];
        snprintf(folder, sizeof folder, "samples/%s", sv_nuscenes_channels[i]);
        SV_TRY(sv_synth_make_folder(c, def->folder, folder));
    }
    return SV_OK;
}

const sv_synth_format sv_synth_format_nuscenes = {"nuscenes", "hdl32",     begin,
                                                  have,       write_frame, sim_nuscenes_write_tables};
