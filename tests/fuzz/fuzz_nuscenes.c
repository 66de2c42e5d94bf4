/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as nuScenes: the first byte chooses a list of boxes, a submission, or one table among good ones. What is
 * accepted must be finite and hold together.
 */
#define _XOPEN_SOURCE 700
#include "datasets/nuscenes_results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds) abort();
}

static const char token_a[] = "0123456789abcdef0123456789abcdef";
static char folder[64];

static void save(const char *name, const void *bytes, size_t size)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    must(file && fwrite(bytes, 1, size, file) == size);
    must(fclose(file) == 0);
}

/* Two samples of a scene; every token of a kind is the kind's letter and a number. */
#define T(letter) "0000000000000000000000000000000" letter
static const struct {
    const char *name, *text;
} tables[] = {
    {"scene", "[{\"token\":\"" T("1") "\",\"name\":\"scene-0103\"}]"},
    {"category", "[{\"token\":\"" T("1") "\",\"name\":\"vehicle.car\"}]"},
    {"attribute", "[{\"token\":\"" T("1") "\",\"name\":\"vehicle.moving\"}]"},
    {"sensor", "[{\"token\":\"" T("1") "\",\"channel\":\"LIDAR_TOP\"}]"},
    {"calibrated_sensor",
     "[{\"token\":\"" T("1") "\",\"sensor_token\":\"" T(
         "1") "\",\"translation\":[1,0,2],\"rotation\":[1,0,0,0],\"camera_intrinsic\":[]}]"},
    {"sample",
     "[{\"token\":\"" T("1") "\",\"timestamp\":1000000,\"scene_token\":\"" T("1") "\"},{\"token\":\"" T(
         "2") "\",\"timestamp\":1500000,\"scene_token\":\"" T("1") "\"}]"},
    {"sample_data",
     "[{\"token\":\"" T("1") "\",\"sample_token\":\"" T("1") "\",\"ego_pose_token\":\"" T(
         "1") "\",\"calibrated_sensor_token\":\"" T("1") "\",\"timestamp\":1000000,\"is_key_frame\":true,"
                                                         "\"height\":0,"
                                                         "\"width\":0,\"filename\":\"a.bin\",\"prev\":\"\"},{"
                                                         "\"token\":\"" T("2") "\",\"sample_token\":\"" T("2") "\",\"ego_pose_token\":\"" T(
                                                             "1") "\",\"calibrated_sensor_token\":"
                                                                  "\"" T("1") "\",\"timestamp\":"
                                                                              "1500000,\"is_key_"
                                                                              "frame\":true,"
                                                                              "\"height\":0,"
                                                                              "\"width\":0,"
                                                                              "\"filename\":\"b."
                                                                              "bin\",\"prev\":"
                                                                              "\"" T("1") "\"}]"},
    {"ego_pose", "[{\"token\":\"" T("1") "\",\"rotation\":[1,0,0,0],\"translation\":[0,0,0]}]"},
    {"instance", "[{\"token\":\"" T("1") "\",\"category_token\":\"" T("1") "\"}]"},
    {"sample_annotation",
     "[{\"token\":\"" T("1") "\",\"sample_token\":\"" T("1") "\",\"instance_token\":\"" T(
         "1") "\",\"attribute_tokens\":[\"" T("1") "\"],\"translation\":[1,2,3],\"size\":[1,2,3],"
                                                   "\"rotation\":[1,0,0,0],"
                                                   "\"prev\":\"\",\"next\":\"\",\"num_lidar_pts\":1,"
                                                   "\"num_radar_pts\":0}]"}};
enum { TABLES = sizeof tables / sizeof *tables };

static void clean_up(void)
{
    char path[160];
    for (int i = 0; i < TABLES; i++) {
        snprintf(path, sizeof path, "%s/v1.0-mini/%s.json", folder, tables[i].name);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/v1.0-mini", folder);
    rmdir(path);
    snprintf(path, sizeof path, "%s/results.json", folder);
    unlink(path);
    rmdir(folder);
}

static void save_table(int number, const void *bytes, size_t size)
{
    char name[64];
    snprintf(name, sizeof name, "v1.0-mini/%s.json", tables[number].name);
    save(name, bytes, size);
}

static void use_boxes(const sv_nuscenes_boxes *boxes)
{
    must(boxes->count <= SV_NUSCENES_MOST_BOXES);
    for (int i = 0; i < boxes->count; i++) {
        const sv_nuscenes_box *b = &boxes->data[i];
        must(isfinite(b->score) && isfinite(b->translation[0]) && isfinite(b->size[2]) &&
             isfinite(b->rotation[3]));
        must(b->detection_class >= 0 && b->detection_class < SV_NUSCENES_CLASSES);
        must(b->attribute >= -1 && b->attribute < SV_NUSCENES_ATTRIBUTES);
    }
}

static void use_tables(sv_ctx *c)
{
    sv_nuscenes_tables t;
    const sv_nuscenes_tables_def def = {.root = folder, .split = "all"};
    if (sv_nuscenes_tables_open(c, &def, &t) != SV_OK) {
        must(t.samples == NULL && t.sample_count == 0 && sv_error_message(c)[0]);
        return;
    }
    int annotations = 0;
    for (int i = 0; i < t.sample_count; i++) {
        sv_nuscenes_sweep sweeps[SV_NUSCENES_MAX_SWEEPS];
        must(sv_nuscenes_choose_sweeps(&t, &t.samples[i], 10, SV_NUSCENES_TRAINING, sweeps) == 10);
        for (int k = 0; k < 10; k++) must(isfinite(sweeps[k].lag) && isfinite(sweeps[k].to_key.t[0]));
        must(t.samples[i].first == annotations);
        annotations += t.samples[i].count;
    }
    must(annotations == t.annotation_count);
    for (int i = 0; i < t.annotation_count; i++) {
        double box[7], velocity[3];
        must(t.annotations[i].category >= 0 && t.annotations[i].category < t.category_count);
        sv_nuscenes_lidar_box(&t, &t.annotations[i], box, velocity);
        for (int k = 0; k < 7; k++) must(isfinite(box[k]));
    }
    sv_nuscenes_tables_close(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sv_ctx *c;
    if (!c) {
        char path[160];
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        must(sv_ctx_open(&def, &c) == SV_OK);
        snprintf(folder, sizeof folder, "/tmp/fuzz_nuscenes.XXXXXX");
        must(mkdtemp(folder) != NULL);
        snprintf(path, sizeof path, "%s/v1.0-mini", folder);
        must(mkdir(path, 0700) == 0);
        for (int i = 0; i < TABLES; i++) save_table(i, tables[i].text, strlen(tables[i].text));
        atexit(clean_up);
        use_tables(c);
        must(sv_error_message(c)[0] == '\0'); /* the good ones are good */
    }
    if (size == 0) return 0;
    const int what = data[0] % (TABLES + 2);
    data++, size--;
    sv_nuscenes_boxes boxes;
    if (what == 0) {
        sv_nuscenes_token token;
        must(sv_nuscenes_token_parse(token_a, 32, &token));
        if (sv_nuscenes_parse_boxes(c, data, size, "fuzz", token, &boxes) == SV_OK) use_boxes(&boxes);
        free(boxes.data);
    } else if (what == 1) {
        char path[160];
        sv_nuscenes_submission s;
        save("results.json", data, size);
        snprintf(path, sizeof path, "%s/results.json", folder);
        if (sv_nuscenes_submission_open(c, path, &s) == SV_OK)
            for (int i = 0; i < s.count; i++) {
                if (sv_nuscenes_submission_read(c, &s, i, &boxes) == SV_OK) use_boxes(&boxes);
                free(boxes.data);
                sv_error_clear(c);
            }
        sv_nuscenes_submission_close(&s);
    } else {
        save_table(what - 2, data, size);
        use_tables(c);
        save_table(what - 2, tables[what - 2].text, strlen(tables[what - 2].text));
    }
    sv_error_clear(c);
    return 0;
}
