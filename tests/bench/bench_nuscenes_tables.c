/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables of nuScenes as large as the real ones, and what reading them costs.
 *
 *   bench_nuscenes_tables make FOLDER full|key [SEED]   writes FOLDER/v1.0-trainval: 850 scenes, 34149 key frames,
 *       1.1 million annotations; full: also every sweep, picture and radar scan, 2.6 million rows of sample_data and
 *       ego_pose in no order (3 GB); key: the 150 scenes of the split val alone, with their LiDAR key frames (6019)
 *   bench_nuscenes_tables results FOLDER BOXES FILE     a submission for the split val: the labels moved a little, and
 *       random boxes up to BOXES a sample
 *   bench_nuscenes_tables open FOLDER SPLIT             reads the tables: seconds, rows, peak memory
 *
 * Everything follows from the seed; a row from its number alone.
 */
#define _XOPEN_SOURCE 700
#include "datasets/nuscenes.h"
#include "perception/core/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { SENSORS = 12, INSTANCES = 76, MOST_SAMPLES = 42, KINDS = 12 };
enum {
    TOKEN_SCENE = 1,
    TOKEN_SAMPLE,
    TOKEN_DATA,
    TOKEN_CALIBRATION,
    TOKEN_SENSOR,
    TOKEN_INSTANCE,
    TOKEN_ANNOTATION,
    TOKEN_CATEGORY,
    TOKEN_ATTRIBUTE,
    TOKEN_LOG,
    TOKEN_MAP
};

static const struct {
    const char *channel, *modality;
    int rows; /* of a scene */
} sensors[SENSORS] = {{"LIDAR_TOP", "lidar", 391},        {"CAM_FRONT", "camera", 231},
                      {"CAM_FRONT_RIGHT", "camera", 231}, {"CAM_BACK_RIGHT", "camera", 231},
                      {"CAM_BACK", "camera", 231},        {"CAM_BACK_LEFT", "camera", 231},
                      {"CAM_FRONT_LEFT", "camera", 231},  {"RADAR_FRONT", "radar", 259},
                      {"RADAR_FRONT_LEFT", "radar", 259}, {"RADAR_FRONT_RIGHT", "radar", 259},
                      {"RADAR_BACK_LEFT", "radar", 259},  {"RADAR_BACK_RIGHT", "radar", 259}};
static const struct {
    const char *category, *detection;
    int share, attribute; /* the first that may be, of sv_nuscenes_attribute_names; -1 */
    double size[3], speed;
} kinds[KINDS] = {{"vehicle.car", "car", 38, 5, {1.9, 4.6, 1.7}, 6},
                  {"vehicle.truck", "truck", 8, 5, {2.5, 6.9, 2.8}, 5},
                  {"vehicle.bus.rigid", "bus", 2, 5, {2.9, 11, 3.4}, 5},
                  {"vehicle.trailer", "trailer", 3, 5, {2.9, 12, 3.9}, 2},
                  {"vehicle.construction", "construction_vehicle", 2, 5, {2.8, 6.5, 3.2}, 0},
                  {"human.pedestrian.adult", "pedestrian", 19, 2, {0.7, 0.7, 1.8}, 1.2},
                  {"vehicle.motorcycle", "motorcycle", 2, 0, {0.8, 2.1, 1.5}, 4},
                  {"vehicle.bicycle", "bicycle", 2, 0, {0.6, 1.7, 1.3}, 3},
                  {"movable_object.trafficcone", "traffic_cone", 9, -1, {0.4, 0.4, 1.1}, 0},
                  {"movable_object.barrier", "barrier", 13, -1, {2.5, 0.5, 1.0}, 0},
                  {"static_object.bicycle_rack", "", 1, -1, {3, 6, 1.4}, 0},
                  {"movable_object.debris", "", 1, -1, {0.6, 0.6, 0.5}, 0}};

static uint64_t seed = 1;

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t h = seed * 0x9e3779b97f4a7c15u + a;
    for (int i = 0; i < 3; i++) {
        h ^= (i == 0 ? a : i == 1 ? b : c) * 0xff51afd7ed558ccdu;
        h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
        h ^= h >> 29;
    }
    return h;
}

static double uniform(uint64_t a, uint64_t b, uint64_t c, double from, double to)
{
    return from + (to - from) * (double)(mix(a + 1000, b, c) >> 11) * 0x1p-53;
}

static double normal(uint64_t a, uint64_t b, uint64_t c)
{
    const double u = uniform(a, b, 2 * c, 1e-12, 1), v = uniform(a, b, 2 * c + 1, 0, 6.283185307179586);
    return sqrt(-2 * log(u)) * cos(v);
}

/* A few live at a time. */
static const char *token(int kind, uint64_t number)
{
    static char text[8][40];
    static int next;
    char *out = text[next++ % 8];
    snprintf(out, 40, "%016llx%016llx", (unsigned long long)mix((uint64_t)kind, number, 1),
             (unsigned long long)mix((uint64_t)kind, number, 2));
    return out;
}

/* ---- the world ---------------------------------------------------------------------------------------- */

static int scene_names[900], scene_count;

static void choose_scenes(bool val_only)
{
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++) {
        const sv_nuscenes_split *split = &sv_nuscenes_splits[i];
        const bool val = strcmp(split->name, "val") == 0;
        if (!val && (val_only || strcmp(split->name, "train") != 0)) continue;
        for (int r = 0; r < split->run_count; r++)
            for (int n = split->runs[r][0]; n <= split->runs[r][1]; n++) scene_names[scene_count++] = n;
    }
}

/* 6019 in the 150 scenes of val, which come first; 34149 in all */
static int samples_of(int scene)
{
    return scene < 150 ? 40 + (scene < 19) : 40 + (scene - 150 < 130);
}

static int64_t time_of(int scene, int sensor, int row)
{
    return 1532402927647951 + (int64_t)scene * 60000000 + (int64_t)row * 20000000 / (sensors[sensor].rows) +
           sensor * 3000;
}

/* of the first sweep that belongs to the sample */
static int64_t sample_time(int scene, int sample)
{
    const int samples = samples_of(scene), rows = sensors[0].rows;
    return time_of(scene, 0, (sample * rows + samples - 1) / samples);
}

static void ego_at(int scene, double seconds, double out[3])
{
    const double angle = uniform(1, (uint64_t)scene, 0, -3, 3), speed = uniform(2, (uint64_t)scene, 0, 0, 12);
    out[0] = 600 + 10 * (scene % 50) + speed * seconds * cos(angle);
    out[1] = 1600 + 10 * (scene / 50) + speed * seconds * sin(angle);
    out[2] = 0;
}

typedef struct object {
    int kind, first, count;
    double x, y, heading, speed;
} object;

static object object_of(int scene, int instance)
{
    const uint64_t at = (uint64_t)scene * INSTANCES + (uint64_t)instance;
    int share = (int)(mix(3, at, 0) % 100), kind = 0;
    while (share >= kinds[kind].share) share -= kinds[kind++].share;
    object o = {.kind = kind};
    const int samples = samples_of(scene);
    o.first = (int)(mix(4, at, 0) % 24);
    o.count = 1 + (int)(mix(5, at, 0) % 36);
    if (o.first + o.count > samples) o.count = samples - o.first;
    double ego[3];
    ego_at(scene, 0.4875 * o.first, ego);
    o.x = ego[0] + uniform(6, at, 0, -55, 55);
    o.y = ego[1] + uniform(7, at, 0, -55, 55);
    o.heading = uniform(8, at, 0, -3.14, 3.14);
    o.speed = mix(9, at, 0) % 3 == 0 ? kinds[kind].speed : 0;
    return o;
}

static uint64_t annotation_number(int scene, int instance, int sample)
{
    return ((uint64_t)scene * INSTANCES + (uint64_t)instance) * MOST_SAMPLES + (uint64_t)sample;
}

/* ---- writing tables ----------------------------------------------------------------------------------- */

static const char *folder;
static long long rows_written;

static FILE *begin(const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/v1.0-trainval/%s.json", folder, name);
    FILE *file = fopen(path, "w");
    if (!file) {
        fprintf(stderr, "%s cannot be written\n", path);
        exit(1);
    }
    setvbuf(file, NULL, _IOFBF, 1 << 20);
    fputs("[", file);
    rows_written = 0;
    return file;
}

static const char *separator(void)
{
    return rows_written++ ? ",\n" : "\n";
}

static void end(FILE *file, const char *name)
{
    fputs("\n]\n", file);
    if (fclose(file) != 0) {
        fprintf(stderr, "%s.json cannot be written\n", name);
        exit(1);
    }
    printf("%-18s %9lld rows\n", name, rows_written);
}

static void write_small(void)
{
    FILE *f = begin("category");
    for (int i = 0; i < KINDS; i++)
        fprintf(f, "%s{\n\"token\": \"%s\",\n\"name\": \"%s\",\n\"description\": \"\"\n}", separator(),
                token(TOKEN_CATEGORY, (uint64_t)i), kinds[i].category);
    end(f, "category");
    f = begin("attribute");
    for (int i = 0; i < SV_NUSCENES_ATTRIBUTES; i++)
        fprintf(f, "%s{\n\"token\": \"%s\",\n\"name\": \"%s\",\n\"description\": \"\"\n}", separator(),
                token(TOKEN_ATTRIBUTE, (uint64_t)i), sv_nuscenes_attribute_names[i]);
    end(f, "attribute");
    f = begin("visibility");
    for (int i = 1; i <= 4; i++)
        fprintf(f, "%s{\n\"token\": \"%d\",\n\"level\": \"v%d\",\n\"description\": \"\"\n}", separator(), i,
                i);
    end(f, "visibility");
    f = begin("log");
    fprintf(f,
            "%s{\n\"token\": \"%s\",\n\"logfile\": \"log\",\n\"vehicle\": \"n015\",\n\"date_captured\": "
            "\"2018-07-24\",\n\"location\": \"singapore-onenorth\"\n}",
            separator(), token(TOKEN_LOG, 0));
    end(f, "log");
    f = begin("map");
    fprintf(f,
            "%s{\n\"category\": \"semantic_prior\",\n\"token\": \"%s\",\n\"filename\": \"maps/none.png\",\n"
            "\"log_tokens\": [\n\"%s\"\n]\n}",
            separator(), token(TOKEN_MAP, 0), token(TOKEN_LOG, 0));
    end(f, "map");
    f = begin("sensor");
    for (int i = 0; i < SENSORS; i++)
        fprintf(f, "%s{\n\"token\": \"%s\",\n\"channel\": \"%s\",\n\"modality\": \"%s\"\n}", separator(),
                token(TOKEN_SENSOR, (uint64_t)i), sensors[i].channel, sensors[i].modality);
    end(f, "sensor");
}

static void write_scenes(void)
{
    FILE *f = begin("scene");
    for (int s = 0; s < scene_count; s++) {
        const uint64_t first = (uint64_t)s * MOST_SAMPLES;
        fprintf(
            f,
            "%s{\n\"token\": \"%s\",\n\"log_token\": \"%s\",\n\"nbr_samples\": %d,\n\"first_sample_token\": "
            "\"%s\",\n\"last_sample_token\": \"%s\",\n\"name\": \"scene-%04d\",\n\"description\": "
            "\"made\"\n}",
            separator(), token(TOKEN_SCENE, (uint64_t)s), token(TOKEN_LOG, 0), samples_of(s),
            token(TOKEN_SAMPLE, first), token(TOKEN_SAMPLE, first + (uint64_t)samples_of(s) - 1),
            scene_names[s]);
    }
    end(f, "scene");
    f = begin("calibrated_sensor");
    for (int s = 0; s < scene_count; s++)
        for (int i = 0; i < SENSORS; i++)
            fprintf(
                f,
                "%s{\n\"token\": \"%s\",\n\"sensor_token\": \"%s\",\n\"translation\": [\n0.943713,\n0.0,\n"
                "1.84023\n],\n\"rotation\": "
                "[\n0.7077955119163518,\n-0.006492242056004365,\n0.010646214713995808,\n"
                "-0.7063073142877817\n],\n\"camera_intrinsic\": %s\n}",
                separator(), token(TOKEN_CALIBRATION, (uint64_t)(s * SENSORS + i)),
                token(TOKEN_SENSOR, (uint64_t)i),
                sensors[i].modality[0] == 'c'
                    ? "[\n[\n1266.4,\n0.0,\n816.2\n],\n[\n0.0,\n1266.4,\n491.5\n],\n[\n"
                      "0.0,\n0.0,\n1.0\n]\n]"
                    : "[]");
    end(f, "calibrated_sensor");
    f = begin("sample");
    for (int s = 0; s < scene_count; s++)
        for (int i = 0; i < samples_of(s); i++) {
            const uint64_t at = (uint64_t)s * MOST_SAMPLES + (uint64_t)i;
            fprintf(f,
                    "%s{\n\"token\": \"%s\",\n\"timestamp\": %lld,\n\"prev\": \"%s\",\n\"next\": \"%s\",\n"
                    "\"scene_token\": \"%s\"\n}",
                    separator(), token(TOKEN_SAMPLE, at), (long long)sample_time(s, i),
                    i > 0 ? token(TOKEN_SAMPLE, at - 1) : "",
                    i + 1 < samples_of(s) ? token(TOKEN_SAMPLE, at + 1) : "",
                    token(TOKEN_SCENE, (uint64_t)s));
        }
    end(f, "sample");
}

/* Rows of a scene: sensor after sensor; the key frames are spread evenly. */
typedef struct data_row {
    int scene, sensor, row, sample;
    bool key;
} data_row;

static data_row row_of(int64_t number, int per_scene, bool key_only)
{
    data_row r = {.scene = (int)(number / per_scene), .row = (int)(number % per_scene)};
    const int samples = samples_of(r.scene);
    if (key_only) {
        r.sample = r.row;
        r.key = true;
        return r;
    }
    while (r.row >= sensors[r.sensor].rows) r.row -= sensors[r.sensor++].rows;
    const int rows = sensors[r.sensor].rows;
    r.sample = (int)((int64_t)r.row * samples / rows);
    r.key = r.row == 0 || (int)((int64_t)(r.row - 1) * samples / rows) != r.sample;
    return r;
}

static void write_data(bool key_only)
{
    int per_scene = 0;
    for (int i = 0; i < SENSORS; i++) per_scene += sensors[i].rows;
    if (key_only) per_scene = MOST_SAMPLES;
    const int64_t count = (int64_t)scene_count * per_scene;
    /* a step that has no common divisor with the count visits every row once */
    int64_t step = key_only ? 1 : 1000003;
    FILE *f = begin("sample_data"), *poses = NULL;
    for (int64_t i = 0, n = 0; i < count; i++, n = (n + step) % count) {
        const data_row r = row_of(n, per_scene, key_only);
        if (r.sample >= samples_of(r.scene)) continue;
        const bool first = r.row == 0,
                   last = r.row + 1 == (key_only ? samples_of(r.scene) : sensors[r.sensor].rows);
        const bool camera = sensors[r.sensor].modality[0] == 'c';
        const long long time =
            r.key && r.sensor == 0 ? sample_time(r.scene, r.sample) : time_of(r.scene, r.sensor, r.row);
        fprintf(
            f,
            "%s{\n\"token\": \"%s\",\n\"sample_token\": \"%s\",\n\"ego_pose_token\": \"%s\",\n"
            "\"calibrated_sensor_token\": \"%s\",\n\"timestamp\": %lld,\n\"fileformat\": \"%s\",\n"
            "\"is_key_frame\": %s,\n\"height\": %d,\n\"width\": %d,\n\"filename\": "
            "\"%s/%s/n015-2018-07-24-11-22-45+0800__%s__%lld.%s\",\n\"prev\": \"%s\",\n\"next\": \"%s\"\n}",
            separator(), token(TOKEN_DATA, (uint64_t)n),
            token(TOKEN_SAMPLE, (uint64_t)r.scene * MOST_SAMPLES + (uint64_t)r.sample),
            token(TOKEN_DATA, (uint64_t)n),
            token(TOKEN_CALIBRATION, (uint64_t)(r.scene * SENSORS + r.sensor)), time, camera ? "jpg" : "pcd",
            r.key ? "true" : "false", camera ? 900 : 0, camera ? 1600 : 0, r.key ? "samples" : "sweeps",
            sensors[r.sensor].channel, sensors[r.sensor].channel, time, camera ? "jpg" : "pcd.bin",
            first ? "" : token(TOKEN_DATA, (uint64_t)n - 1), last ? "" : token(TOKEN_DATA, (uint64_t)n + 1));
    }
    end(f, "sample_data");
    poses = begin("ego_pose");
    for (int64_t i = 0, n = 0; i < count; i++, n = (n + step) % count) {
        const data_row r = row_of(n, per_scene, key_only);
        if (r.sample >= samples_of(r.scene)) continue;
        const long long time =
            r.key && r.sensor == 0 ? sample_time(r.scene, r.sample) : time_of(r.scene, r.sensor, r.row);
        double ego[3];
        ego_at(r.scene, 1e-6 * (double)(time - sample_time(r.scene, 0)), ego);
        const double half = 0.5 * uniform(1, (uint64_t)r.scene, 0, -3, 3);
        fprintf(
            poses,
            "%s{\n\"token\": \"%s\",\n\"timestamp\": %lld,\n\"rotation\": [\n%.16g,\n0.0,\n0.0,\n%.16g\n],\n"
            "\"translation\": [\n%.16g,\n%.16g,\n0.0\n]\n}",
            separator(), token(TOKEN_DATA, (uint64_t)n), time, cos(half), sin(half), ego[0], ego[1]);
    }
    end(poses, "ego_pose");
}

/* Where an object is in a sample of its own; also for detections. */
static void place_of(const object *o, int sample, double out[3])
{
    const double seconds = 0.4875 * (sample - o->first);
    out[0] = o->x + o->speed * seconds * cos(o->heading);
    out[1] = o->y + o->speed * seconds * sin(o->heading);
    out[2] = kinds[o->kind].size[2] / 2;
}

static void size_of(int scene, int instance, int kind, double out[3])
{
    const uint64_t at = (uint64_t)scene * INSTANCES + (uint64_t)instance;
    for (int i = 0; i < 3; i++) out[i] = kinds[kind].size[i] * uniform(20, at, (uint64_t)i, 0.85, 1.15);
}

static void write_annotations(void)
{
    FILE *f = begin("instance");
    for (int s = 0; s < scene_count; s++)
        for (int i = 0; i < INSTANCES; i++) {
            const object o = object_of(s, i);
            fprintf(f,
                    "%s{\n\"token\": \"%s\",\n\"category_token\": \"%s\",\n\"nbr_annotations\": %d,\n"
                    "\"first_annotation_token\": \"%s\",\n\"last_annotation_token\": \"%s\"\n}",
                    separator(), token(TOKEN_INSTANCE, (uint64_t)(s * INSTANCES + i)),
                    token(TOKEN_CATEGORY, (uint64_t)o.kind), o.count,
                    token(TOKEN_ANNOTATION, annotation_number(s, i, o.first)),
                    token(TOKEN_ANNOTATION, annotation_number(s, i, o.first + o.count - 1)));
        }
    end(f, "instance");
    f = begin("sample_annotation");
    for (int s = 0; s < scene_count; s++)
        for (int i = 0; i < INSTANCES; i++) {
            const object o = object_of(s, i);
            double size[3], place[3];
            size_of(s, i, o.kind, size);
            for (int k = o.first; k < o.first + o.count; k++) {
                const uint64_t at = annotation_number(s, i, k);
                place_of(&o, k, place);
                char attribute[40] = "";
                if (kinds[o.kind].attribute >= 0 && mix(21, at, 0) % 50 != 0)
                    snprintf(
                        attribute, sizeof attribute, "\n\"%s\"\n",
                        token(TOKEN_ATTRIBUTE, (uint64_t)(kinds[o.kind].attribute + (o.speed > 0 ? 0 : 1))));
                fprintf(
                    f,
                    "%s{\n\"token\": \"%s\",\n\"sample_token\": \"%s\",\n\"instance_token\": \"%s\",\n"
                    "\"visibility_token\": \"%d\",\n\"attribute_tokens\": [%s],\n\"translation\": "
                    "[\n%.3f,\n%.3f,\n"
                    "%.3f\n],\n\"size\": [\n%.3f,\n%.3f,\n%.3f\n],\n\"rotation\": "
                    "[\n%.16g,\n0.0,\n0.0,\n%.16g\n],\n"
                    "\"prev\": \"%s\",\n\"next\": \"%s\",\n\"num_lidar_pts\": %d,\n\"num_radar_pts\": %d\n}",
                    separator(), token(TOKEN_ANNOTATION, at),
                    token(TOKEN_SAMPLE, (uint64_t)s * MOST_SAMPLES + (uint64_t)k),
                    token(TOKEN_INSTANCE, (uint64_t)(s * INSTANCES + i)), 1 + (int)(at % 4), attribute,
                    place[0], place[1], place[2], size[0], size[1], size[2], cos(o.heading / 2),
                    sin(o.heading / 2), k > o.first ? token(TOKEN_ANNOTATION, at - 1) : "",
                    k + 1 < o.first + o.count ? token(TOKEN_ANNOTATION, at + 1) : "",
                    (int)(mix(22, at, 0) % 8 ? mix(23, at, 0) % 60 : 0), (int)(mix(24, at, 0) % 4 == 0));
            }
        }
    end(f, "sample_annotation");
}

static int make(bool key_only)
{
    char path[1200];
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/v1.0-trainval", folder);
    mkdir(path, 0777);
    choose_scenes(key_only);
    write_small();
    write_scenes();
    write_data(key_only);
    write_annotations();
    return 0;
}

/* ---- a submission ------------------------------------------------------------------------------------- */

static void write_box(FILE *f, bool first, const char *sample, int kind, const double place[3],
                      const double size[3], double heading, const double velocity[2], double score,
                      int attribute)
{
    fprintf(
        f,
        "%s{\"sample_token\": \"%s\", \"translation\": [%.16g, %.16g, %.16g], \"size\": [%.16g, %.16g, "
        "%.16g], "
        "\"rotation\": [%.16g, 0.0, 0.0, %.16g], \"velocity\": [%.16g, %.16g], \"detection_name\": \"%s\", "
        "\"detection_score\": %.16g, \"attribute_name\": \"%s\"}",
        first ? "" : ", ", sample, place[0], place[1], place[2], size[0], size[1], size[2], cos(heading / 2),
        sin(heading / 2), velocity[0], velocity[1], kinds[kind].detection, score,
        attribute < 0 ? "" : sv_nuscenes_attribute_names[attribute]);
}

static void write_sample(FILE *f, int scene, int sample, int boxes)
{
    char name[40];
    snprintf(name, sizeof name, "%s", token(TOKEN_SAMPLE, (uint64_t)scene * MOST_SAMPLES + (uint64_t)sample));
    fprintf(f, "\"%s\": [", name);
    double ego[3];
    ego_at(scene, 0.4875 * sample, ego);
    int count = 0;
    for (int i = 0; i < INSTANCES && count < boxes; i++) {
        const object o = object_of(scene, i);
        if (sample < o.first || sample >= o.first + o.count || kinds[o.kind].detection[0] == '\0') continue;
        const uint64_t at = annotation_number(scene, i, sample);
        if (mix(30, at, 0) % 10 == 0) continue;
        double place[3], size[3];
        place_of(&o, sample, place);
        size_of(scene, i, o.kind, size);
        for (int k = 0; k < 2; k++) place[k] += 0.4 * normal(31, at, (uint64_t)k);
        for (int k = 0; k < 3; k++) size[k] *= uniform(32, at, (uint64_t)k, 0.8, 1.2);
        const double velocity[2] = {o.speed * cos(o.heading) + 0.3 * normal(33, at, 0),
                                    o.speed * sin(o.heading) + 0.3 * normal(33, at, 1)};
        const int first = kinds[o.kind].attribute;
        write_box(f, count == 0, name, o.kind, place, size, o.heading + 0.1 * normal(34, at, 0), velocity,
                  uniform(35, at, 0, 0.1, 1), first < 0 ? -1 : first + (int)(mix(36, at, 0) % 2));
        count++;
    }
    for (; count < boxes; count++) {
        const uint64_t at = ((uint64_t)scene * MOST_SAMPLES + (uint64_t)sample) * 500 + (uint64_t)count;
        const int kind = (int)(mix(40, at, 0) % 10), first = kinds[kind].attribute;
        const double place[3] = {ego[0] + uniform(41, at, 0, -52, 52), ego[1] + uniform(42, at, 0, -52, 52),
                                 uniform(43, at, 0, 0, 2)};
        double size[3];
        for (int k = 0; k < 3; k++) size[k] = kinds[kind].size[k] * uniform(44, at, (uint64_t)k, 0.8, 1.2);
        const double velocity[2] = {normal(45, at, 0), normal(45, at, 1)};
        write_box(f, count == 0, name, kind, place, size, uniform(46, at, 0, -3, 3), velocity,
                  uniform(47, at, 0, 0, 0.5) * uniform(48, at, 0, 0, 1), first < 0 ? -1 : first);
    }
    fputc(']', f);
}

static int make_results(int boxes, const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f) {
        fprintf(stderr, "%s cannot be written\n", path);
        return 1;
    }
    setvbuf(f, NULL, _IOFBF, 1 << 20);
    choose_scenes(true);
    fputs("{\"meta\": {\"use_camera\": false, \"use_lidar\": true, \"use_radar\": false, \"use_map\": false, "
          "\"use_external\": false}, \"results\": {",
          f);
    for (int s = 0; s < scene_count; s++)
        for (int i = 0; i < samples_of(s); i++) {
            if (s + i > 0) fputs(", ", f);
            write_sample(f, s, i, boxes);
        }
    fputs("}}\n", f);
    return fclose(f) == 0 ? 0 : 1;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static int open_tables(const char *split)
{
    sv_ctx_def def = sv_ctx_def_default();
    sv_ctx *c = NULL;
    sv_nuscenes_tables t;
    if (sv_ctx_open(&def, &c) != SV_OK) return 1;
    const sv_nuscenes_tables_def tables = {.root = folder, .split = split};
    const double began = sv_clock_ms();
    const sv_status status = sv_nuscenes_tables_open(c, &tables, &t);
    const double ms = sv_clock_ms() - began;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (status == SV_OK)
        printf("split %s: %.2f s, peak memory %.1f MB; %d samples, %d annotations, %d rows of sample_data "
               "kept\n",
               split, ms * 1e-3, (double)usage.ru_maxrss / 1024, t.sample_count, t.annotation_count,
               t.data_count);
    else
        fprintf(stderr, "%s\n", sv_error_message(c));
    sv_nuscenes_tables_close(&t);
    sv_ctx_close(c);
    return status != SV_OK;
}

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "";
    if (count > 2) folder = arguments[2];
    if (strcmp(what, "make") == 0 && count >= 4) {
        if (count > 4) seed = strtoull(arguments[4], NULL, 10);
        return make(strcmp(arguments[3], "key") == 0);
    }
    if (strcmp(what, "results") == 0 && count == 5) return make_results(atoi(arguments[3]), arguments[4]);
    if (strcmp(what, "open") == 0 && count == 4) return open_tables(arguments[3]);
    fprintf(stderr, "usage: %s make FOLDER full|key [SEED] | results FOLDER BOXES FILE | open FOLDER SPLIT\n",
            arguments[0]);
    return 2;
}
