/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of a simulated nuScenes folder. Every frame's scene is made once more (without rays) for its objects,
 * whose counts the frames left behind; annotations of the same object are chained, and everything is written row by
 * row. Tokens follow from seeds and numbers, so that rows name each other before they are written.
 */
#include "synth_nuscenes.h"

#include "perception/core/file.h"
#include "perception/json.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct annotation {
    int drive, of_drive; /* its key frame */
    uint64_t object;
    sv_sim_kind kind;
    int points, visibility; /* 1..4 */
    double centre[3], size[3], rotation[4], speed;
    int previous, next; /* of the same object; -1: none */
} annotation;

typedef struct tables {
    sv_ctx *c;
    const sv_synth_def *def;
    sv_sim_scene scene;
    annotation *annotations; /* malloc'ed; by frame */
    int count, room;
    sv_json json;
    sv_status status; /* of what writes rows */
} tables;

/* ---- what is labelled --------------------------------------------------------------------------------- */

/* Quarters of an object that are seen: 1 up to 40 percent, 2 to 60, 3 to 80, 4 more. */
static int visibility(const sim_count *count)
{
    const double share = count->alone > 0 ? (double)count->seen / count->alone : 1;
    return share < 0.4 ? 1 : share < 0.6 ? 2 : share < 0.8 ? 3 : 4;
}

static sv_status add_frame(tables *t, const sv_synth_frame *f, const sim_count *counts)
{
    for (int i = 0; i < t->scene.object_count; i++) {
        const sv_sim_object *o = &t->scene.objects[i];
        if (!sim_nuscenes_labelled(o, &counts[i])) continue;
        if (t->count == t->room) {
            const int room = t->room ? 2 * t->room : 1024;
            void *grown = realloc(t->annotations, sizeof *t->annotations * (size_t)room);
            SV_CHECK(t->c, grown, SV_NO_MEMORY, "no memory for %d annotations", room);
            t->annotations = grown;
            t->room = room;
        }
        annotation *a = &t->annotations[t->count++];
        *a = (annotation){.drive = f->drive,
                          .of_drive = f->of_drive,
                          .object = o->id,
                          .kind = o->kind,
                          .points = counts[i].points,
                          .visibility = visibility(&counts[i]),
                          .size = {o->width, o->length, o->height},
                          .speed = hypot(o->velocity[0], o->velocity[1]),
                          .previous = -1,
                          .next = -1};
        const double middle[3] = {0, 0, o->height / 2};
        sv_pose_apply(&o->pose, middle, a->centre);
        sv_pose_quaternion(&o->pose, a->rotation);
    }
    return SV_OK;
}

static sv_status collect(tables *t)
{
    for (int i = 0; i < t->def->frames; i++) {
        const sv_synth_frame f = sv_synth_frame_at(t->def, i);
        char path[1200];
        void *counts = NULL;
        size_t size = 0;
        SV_TRY(sv_sim_scene_at(t->c, &f.world, sim_nuscenes_time(1, f.of_drive), &t->scene));
        sim_nuscenes_counts_file(t->def, i, path);
        SV_TRY(sv_file_read(t->c, path, 1 << 24, &counts, &size));
        const sv_status status =
            size == sizeof(sim_count) * (size_t)t->scene.object_count
                ? add_frame(t, &f, counts)
                : SV_FAIL(t->c, SV_BAD_INPUT,
                          "%s: %zu bytes do not fit the %d objects of the frame: remove it and continue the "
                          "simulation",
                          path, size, t->scene.object_count);
        free(counts);
        SV_TRY(status);
    }
    return SV_OK;
}

static int by_object(const void *x, const void *y)
{
    const annotation *a = *(annotation *const *)x, *b = *(annotation *const *)y;
    if (a->drive != b->drive) return a->drive < b->drive ? -1 : 1;
    if (a->object != b->object) return a->object < b->object ? -1 : 1;
    return a->of_drive < b->of_drive ? -1 : a->of_drive > b->of_drive;
}

static sv_status chain(tables *t)
{
    annotation **order = malloc(sizeof(annotation *) * (size_t)(t->count + 1));
    SV_CHECK(t->c, order, SV_NO_MEMORY, "no memory for %d annotations", t->count);
    for (int i = 0; i < t->count; i++) order[i] = &t->annotations[i];
    qsort(order, (size_t)t->count, sizeof *order, by_object);
    for (int i = 1; i < t->count; i++) {
        if (order[i]->drive != order[i - 1]->drive || order[i]->object != order[i - 1]->object) continue;
        order[i]->previous = (int)(order[i - 1] - t->annotations);
        order[i - 1]->next = (int)(order[i] - t->annotations);
    }
    free(order);
    return SV_OK;
}

/* ---- values ------------------------------------------------------------------------------------------- */

static void put_text(tables *t, const char *key, const char *value)
{
    sv_json_key(&t->json, key);
    sv_json_text(&t->json, value);
}

static void put_int(tables *t, const char *key, int64_t value)
{
    sv_json_key(&t->json, key);
    sv_json_int(&t->json, value);
}

static void put_numbers(tables *t, const char *key, const double *values, int count)
{
    sv_json_key(&t->json, key);
    sv_json_array(&t->json, SV_JSON_INLINE);
    for (int i = 0; i < count; i++) sv_json_double(&t->json, values[i]);
    sv_json_end(&t->json);
}

static void put_token(tables *t, const char *key, sv_nuscenes_token token)
{
    char text[SV_NUSCENES_TOKEN_TEXT];
    sv_nuscenes_token_text(token, text);
    put_text(t, key, text);
}

/* The row of 'kind' numbered a, b, c; "" when 'there' is false. */
static void put_link(tables *t, const char *key, const char *kind, uint64_t a, uint64_t b, uint64_t c,
                     bool there)
{
    put_token(t, key, there ? sim_nuscenes_token(t->def, kind, a, b, c) : (sv_nuscenes_token){0, 0});
}

static void begin_row(tables *t, const char *kind, uint64_t a, uint64_t b, uint64_t c)
{
    sv_json_object(&t->json, SV_JSON_INLINE);
    put_link(t, "token", kind, a, b, c, true);
}

static void put_annotation(tables *t, const char *key, int number)
{
    const annotation *a = number >= 0 ? &t->annotations[number] : NULL;
    put_link(t, key, "annotation", a ? (uint64_t)a->drive : 0, a ? (uint64_t)a->of_drive : 0,
             a ? a->object : 0, a != NULL);
}

/* ---- tables of fixed things --------------------------------------------------------------------------- */

static const sv_sim_kind kinds[] = {SV_SIM_CAR, SV_SIM_TRUCK, SV_SIM_PEDESTRIAN, SV_SIM_CYCLIST, SV_SIM_MISC};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Kinds that share a category share its row. */
static uint64_t category_number(sv_sim_kind kind)
{
    uint64_t k = 0;
    while (strcmp(sim_nuscenes_category(kinds[k]), sim_nuscenes_category(kind)) != 0) k++;
    return k;
}

static void categories(tables *t)
{
    for (uint64_t k = 0; k < KINDS; k++) {
        begin_row(t, "category", k, 0, 0);
        put_text(t, "name", sim_nuscenes_category(kinds[k]));
        put_text(t, "description", "simulated");
        sv_json_end(&t->json);
    }
}

static void attributes(tables *t)
{
    for (uint64_t k = 0; k < SV_NUSCENES_ATTRIBUTES; k++) {
        begin_row(t, "attribute", k, 0, 0);
        put_text(t, "name", sv_nuscenes_attribute_names[k]);
        put_text(t, "description", "simulated");
        sv_json_end(&t->json);
    }
}

static void visibilities(tables *t)
{
    static const char *const levels[] = {"v0-40", "v40-60", "v60-80", "v80-100"};
    for (int k = 0; k < 4; k++) {
        char token[4];
        snprintf(token, sizeof token, "%d", k + 1);
        sv_json_object(&t->json, SV_JSON_INLINE);
        put_text(t, "token", token);
        put_text(t, "level", levels[k]);
        put_text(t, "description", "share of the object that all cameras together see");
        sv_json_end(&t->json);
    }
}

static int channels(const tables *t)
{
    return t->def->images ? SV_NUSCENES_CHANNELS : 1;
}

static void sensors(tables *t)
{
    for (int k = 0; k < channels(t); k++) {
        begin_row(t, "sensor", (uint64_t)k, 0, 0);
        put_text(t, "channel", sv_nuscenes_channels[k]);
        put_text(t, "modality", k == 0 ? "lidar" : "camera");
        sv_json_end(&t->json);
    }
}

static void maps(tables *t)
{
    begin_row(t, "map", 0, 0, 0);
    put_text(t, "category", "semantic_prior");
    put_text(t, "filename", "maps/street.png");
    sv_json_key(&t->json, "log_tokens");
    sv_json_array(&t->json, SV_JSON_INLINE);
    for (int d = 0; d < t->def->drives; d++) {
        char text[SV_NUSCENES_TOKEN_TEXT];
        if (sim_nuscenes_length(t->def, d) == 0) continue;
        sv_nuscenes_token_text(sim_nuscenes_token(t->def, "log", (uint64_t)d, 0, 0), text);
        sv_json_text(&t->json, text);
    }
    sv_json_end(&t->json);
    sv_json_end(&t->json);
}

/* ---- tables of drives --------------------------------------------------------------------------------- */

static void logs(tables *t, int drive)
{
    begin_row(t, "log", (uint64_t)drive, 0, 0);
    put_text(t, "logfile", "simulated");
    put_text(t, "vehicle", "sim");
    put_text(t, "date_captured", "2018-07-24");
    put_text(t, "location", "singapore-onenorth");
    sv_json_end(&t->json);
}

static void scenes(tables *t, int drive)
{
    const int length = sim_nuscenes_length(t->def, drive);
    const uint64_t d = (uint64_t)drive;
    char name[20];
    sim_nuscenes_scene(t->def, drive, name);
    begin_row(t, "scene", d, 0, 0);
    put_link(t, "log_token", "log", d, 0, 0, true);
    put_int(t, "nbr_samples", length);
    put_link(t, "first_sample_token", "sample", d, 0, 0, true);
    put_link(t, "last_sample_token", "sample", d, (uint64_t)length - 1, 0, true);
    put_text(t, "name", name);
    put_text(t, "description", "a simulated street");
    sv_json_end(&t->json);
}

static void samples(tables *t, int drive)
{
    const uint64_t d = (uint64_t)drive, length = (uint64_t)sim_nuscenes_length(t->def, drive);
    for (uint64_t k = 0; k < length; k++) {
        begin_row(t, "sample", d, k, 0);
        put_int(t, "timestamp", sim_nuscenes_stamp(drive, sim_nuscenes_time(1, (int)k)));
        put_link(t, "prev", "sample", d, k - 1, 0, k > 0);
        put_link(t, "next", "sample", d, k + 1, 0, k + 1 < length);
        put_link(t, "scene_token", "scene", d, 0, 0, true);
        sv_json_end(&t->json);
    }
}

static void calibrations(tables *t, int drive)
{
    for (int k = 0; k < channels(t); k++) {
        const sv_pose mount = sim_nuscenes_mount(k);
        double rotation[4];
        sv_pose_quaternion(&mount, rotation);
        begin_row(t, "calibrated_sensor", (uint64_t)drive, (uint64_t)k, 0);
        put_link(t, "sensor_token", "sensor", (uint64_t)k, 0, 0, true);
        put_numbers(t, "translation", mount.t, 3);
        put_numbers(t, "rotation", rotation, 4);
        sv_json_key(&t->json, "camera_intrinsic");
        sv_json_array(&t->json, SV_JSON_INLINE);
        if (k > 0) {
            const sv_sim_camera_def m = sim_nuscenes_camera(k, SIM_NUSCENES_WIDTH);
            const double rows[3][3] = {{m.fx, 0, m.cx}, {0, m.fy, m.cy}, {0, 0, 1}};
            for (int r = 0; r < 3; r++) {
                sv_json_array(&t->json, SV_JSON_INLINE);
                for (int i = 0; i < 3; i++) sv_json_double(&t->json, rows[r][i]);
                sv_json_end(&t->json);
            }
        }
        sv_json_end(&t->json);
        sv_json_end(&t->json);
    }
}

/* Rows of a channel in a drive. */
static int data_count(const tables *t, int drive, int channel)
{
    const int length = sim_nuscenes_length(t->def, drive);
    return channel == 0 ? SIM_SWEEPS * (length - 1) + 1 : length;
}

static void data(tables *t, int drive)
{
    const uint64_t d = (uint64_t)drive;
    for (int k = 0; k < channels(t); k++)
        for (int n = 0; n < data_count(t, drive, k); n++) {
            const uint64_t channel = (uint64_t)k, number = (uint64_t)n;
            char file[160];
            sim_nuscenes_file(t->def, drive, k, n, file);
            begin_row(t, "sample_data", d, channel, number);
            /* sweeps belong to the key frame that they lead to */
            put_link(t, "sample_token", "sample", d, k ? number : (number + SIM_SWEEPS - 1) / SIM_SWEEPS, 0,
                     true);
            put_link(t, "ego_pose_token", "ego_pose", d, channel, number, true);
            put_link(t, "calibrated_sensor_token", "calibrated_sensor", d, channel, 0, true);
            put_int(t, "timestamp", sim_nuscenes_stamp(drive, sim_nuscenes_time(k, n)));
            put_text(t, "fileformat", k ? "jpg" : "pcd");
            sv_json_key(&t->json, "is_key_frame");
            sv_json_bool(&t->json, k || n % SIM_SWEEPS == 0);
            put_int(t, "height", k ? SIM_NUSCENES_HEIGHT : 0);
            put_int(t, "width", k ? SIM_NUSCENES_WIDTH : 0);
            put_text(t, "filename", file);
            put_link(t, "prev", "sample_data", d, channel, number - 1, n > 0);
            put_link(t, "next", "sample_data", d, channel, number + 1, n + 1 < data_count(t, drive, k));
            sv_json_end(&t->json);
        }
}

static void poses(tables *t, int drive)
{
    const sv_synth_frame f = sv_synth_frame_at(t->def, drive * sv_synth_drive_length(t->def));
    for (int k = 0; k < channels(t); k++)
        for (int n = 0; n < data_count(t, drive, k) && t->status == SV_OK; n++) {
            const double time = sim_nuscenes_time(k, n);
            t->status = sv_sim_scene_at(t->c, &f.world, time, &t->scene);
            double rotation[4];
            sv_pose_quaternion(&t->scene.ego, rotation);
            begin_row(t, "ego_pose", (uint64_t)drive, (uint64_t)k, (uint64_t)n);
            put_int(t, "timestamp", sim_nuscenes_stamp(drive, time));
            put_numbers(t, "rotation", rotation, 4);
            put_numbers(t, "translation", t->scene.ego.t, 3);
            sv_json_end(&t->json);
        }
}

/* ---- tables of objects -------------------------------------------------------------------------------- */

static void instances(tables *t)
{
    for (int i = 0; i < t->count; i++) {
        const annotation *a = &t->annotations[i];
        if (a->previous >= 0) continue;
        int count = 1, last = i;
        for (; t->annotations[last].next >= 0; last = t->annotations[last].next) count++;
        begin_row(t, "instance", (uint64_t)a->drive, a->object, 0);
        put_link(t, "category_token", "category", category_number(a->kind), 0, 0, true);
        put_int(t, "nbr_annotations", count);
        put_annotation(t, "first_annotation_token", i);
        put_annotation(t, "last_annotation_token", last);
        sv_json_end(&t->json);
    }
}

static const char *attribute(const annotation *a)
{
    const bool moves = a->speed > 0.2;
    switch (a->kind) {
    case SV_SIM_PEDESTRIAN:
        return moves ? "pedestrian.moving" : "pedestrian.standing";
    case SV_SIM_SITTING:
        return "pedestrian.sitting_lying_down";
    case SV_SIM_CYCLIST:
        return "cycle.with_rider";
    default:
        return moves ? "vehicle.moving" : "vehicle.parked";
    }
}

static void annotations(tables *t)
{
    for (int i = 0; i < t->count; i++) {
        const annotation *a = &t->annotations[i];
        const uint64_t d = (uint64_t)a->drive;
        char text[SV_NUSCENES_TOKEN_TEXT];
        begin_row(t, "annotation", d, (uint64_t)a->of_drive, a->object);
        put_link(t, "sample_token", "sample", d, (uint64_t)a->of_drive, 0, true);
        put_link(t, "instance_token", "instance", d, a->object, 0, true);
        snprintf(text, sizeof text, "%d", a->visibility);
        put_text(t, "visibility_token", text);
        sv_json_key(&t->json, "attribute_tokens");
        sv_json_array(&t->json, SV_JSON_INLINE);
        sv_nuscenes_token_text(
            sim_nuscenes_token(t->def, "attribute", (uint64_t)sv_nuscenes_attribute_of(attribute(a)), 0, 0),
            text);
        sv_json_text(&t->json, text);
        sv_json_end(&t->json);
        put_numbers(t, "translation", a->centre, 3);
        put_numbers(t, "size", a->size, 3);
        put_numbers(t, "rotation", a->rotation, 4);
        put_annotation(t, "prev", a->previous);
        put_annotation(t, "next", a->next);
        put_int(t, "num_lidar_pts", a->points);
        put_int(t, "num_radar_pts", 0);
        sv_json_end(&t->json);
    }
}

/* ---- writing ------------------------------------------------------------------------------------------ */

/* Rows once, or once for every drive. */
static sv_status write_table(tables *t, const char *name, void (*once)(tables *), void (*each)(tables *, int))
{
    char path[1200];
    snprintf(path, sizeof path, "%s/v1.0-trainval/%s.json", t->def->folder, name);
    sv_output output;
    SV_TRY(sv_output_open(t->c, &output, path));
    t->json = sv_json_begin(output.stream);
    t->status = SV_OK;
    sv_json_array(&t->json, SV_JSON_LINES);
    if (once) once(t);
    for (int d = 0; each && d < t->def->drives && t->status == SV_OK; d++)
        if (sim_nuscenes_length(t->def, d) > 0) each(t, d);
    sv_json_end(&t->json);
    if (t->status == SV_OK) t->status = sv_output_commit(t->c, &output);
    sv_output_discard(&output);
    return t->status;
}

static sv_status write_all(tables *t)
{
    SV_TRY(collect(t));
    SV_TRY(chain(t));
    sv_image map = {0};
    char path[1200];
    snprintf(path, sizeof path, "%s/maps/street.png", t->def->folder);
    SV_TRY(sv_image_new(t->c, &map, 8, 8, 0));
    const sv_status status = sv_image_write_png(t->c, &map, path);
    sv_image_free(&map);
    SV_TRY(status);
    SV_TRY(write_table(t, "category", categories, NULL));
    SV_TRY(write_table(t, "attribute", attributes, NULL));
    SV_TRY(write_table(t, "visibility", visibilities, NULL));
    SV_TRY(write_table(t, "sensor", sensors, NULL));
    SV_TRY(write_table(t, "map", maps, NULL));
    SV_TRY(write_table(t, "log", NULL, logs));
    SV_TRY(write_table(t, "scene", NULL, scenes));
    SV_TRY(write_table(t, "sample", NULL, samples));
    SV_TRY(write_table(t, "calibrated_sensor", NULL, calibrations));
    SV_TRY(write_table(t, "ego_pose", NULL, poses));
    SV_TRY(write_table(t, "instance", instances, NULL));
    SV_TRY(write_table(t, "sample_annotation", annotations, NULL));
    return write_table(t, "sample_data", NULL, data); /* last: by it the folder is recognised */
}

sv_status sim_nuscenes_write_tables(sv_ctx *c, const sv_synth_def *def)
{
    tables t = {.c = c, .def = def};
    const sv_status status = write_all(&t);
    free(t.annotations);
    sv_sim_scene_free(&t.scene);
    return status;
}
