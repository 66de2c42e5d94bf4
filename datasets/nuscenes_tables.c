/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables in the order in which they explain each other:
 *
 *     category, sensor, attribute, instance (what an annotation is)     scene, sample (what is chosen)
 *     calibrated_sensor, sample_data (what is kept of it)               ego_pose (of what was kept)
 *     sample_annotation
 *
 * A row is read into the loader's own structure, whose texts point into the window of the file, and taken from there.
 */
#include "nuscenes_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- small tables ------------------------------------------------------------------------------------- */

static sv_status take_category(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->categories, t->category_count, &token));
    SV_TRY(sv_nuscenes_rows_room(c, l, &t->categories, t->category_count, sizeof *t->categories));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->category_classes, t->category_count, sizeof *l->category_classes));
    char *name = t->categories[t->category_count];
    SV_TRY(sv_nuscenes_row_name(c, l, number, "name", l->row.name, name, sizeof *t->categories));
    l->category_classes[t->category_count++] = sv_nuscenes_class_of_category(name);
    return SV_OK;
}

static sv_status take_attribute(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    char name[64];
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->attributes, l->attribute_count, &token));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->attribute_names, l->attribute_count, sizeof *l->attribute_names));
    SV_TRY(sv_nuscenes_row_name(c, l, number, "name", l->row.name, name, sizeof name));
    l->attribute_names[l->attribute_count++] = (signed char)sv_nuscenes_attribute_of(name);
    return SV_OK;
}

static sv_status take_instance(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_token token;
    int category;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->instances, l->instance_count, &token));
    SV_TRY(sv_nuscenes_row_follow(c, l, number, "category_token", l->row.category, &l->categories, "category",
                                  &category));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->instance_categories, l->instance_count,
                                 sizeof *l->instance_categories));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->instance_tokens, l->instance_count, sizeof *l->instance_tokens));
    l->instance_tokens[l->instance_count] = token;
    l->instance_categories[l->instance_count++] = category;
    return SV_OK;
}

static sv_status take_sensor(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->sensors, l->sensor_count, &token));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->sensor_channels, l->sensor_count, sizeof *l->sensor_channels));
    int channel = SV_NUSCENES_CHANNELS - 1;
    while (channel >= 0 && !sv_json_span_is(l->row.channel, sv_nuscenes_channels[channel])) channel--;
    l->sensor_channels[l->sensor_count++] = channel;
    return SV_OK;
}

static sv_status take_calibration(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    const row *r = &l->row;
    sv_nuscenes_token token;
    int sensor;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->calibrations, t->calibration_count, &token));
    SV_TRY(sv_nuscenes_row_follow(c, l, number, "sensor_token", r->sensor, &l->sensors, "sensor", &sensor));
    SV_TRY(sv_nuscenes_row_rotation(c, l, number));
    SV_TRY(sv_nuscenes_row_finite(c, l, number, "translation", r->translation, 3));
    SV_TRY(sv_nuscenes_row_finite(c, l, number, "camera_intrinsic", r->intrinsic.value, 9));
    SV_TRY(sv_nuscenes_rows_room(c, l, &t->calibrations, t->calibration_count, sizeof *t->calibrations));
    sv_nuscenes_calibration *k = &t->calibrations[t->calibration_count++];
    *k = (sv_nuscenes_calibration){.channel = l->sensor_channels[sensor],
                                   .to_ego = sv_pose_from_quaternion(r->rotation, r->translation),
                                   .has_intrinsic = !r->intrinsic.empty};
    memcpy(k->intrinsic, r->intrinsic.value, sizeof k->intrinsic);
    memcpy(k->rotation, r->rotation, sizeof k->rotation);
    return SV_OK;
}

static sv_status take_scene(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->scenes, t->scene_count, &token));
    SV_TRY(sv_nuscenes_rows_room(c, l, &t->scenes, t->scene_count, sizeof *t->scenes));
    sv_nuscenes_scene *scene = &t->scenes[t->scene_count++];
    *scene = (sv_nuscenes_scene){.token = token};
    SV_TRY(sv_nuscenes_row_name(c, l, number, "name", l->row.name, scene->name, sizeof scene->name));
    scene->chosen = !l->split || sv_nuscenes_split_has(l->split, scene->name);
    bool named = l->def->scene_count == 0;
    for (int i = 0; i < l->def->scene_count; i++) named |= strcmp(l->def->scenes[i], scene->name) == 0;
    scene->chosen = scene->chosen && named;
    l->chosen_scenes += scene->chosen;
    return SV_OK;
}

static sv_status take_sample(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_token token;
    int scene;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->samples, l->all_sample_count, &token));
    SV_TRY(sv_nuscenes_row_follow(c, l, number, "scene_token", l->row.scene, &l->scenes, "scene", &scene));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->all_samples, l->all_sample_count, sizeof *l->all_samples));
    sv_nuscenes_sample *s = &l->all_samples[l->all_sample_count++];
    *s = (sv_nuscenes_sample){.token = token, .time = l->row.time, .scene = scene};
    for (int i = 0; i < SV_NUSCENES_CHANNELS; i++) s->data[i] = -1;
    return SV_OK;
}

/* ---- the chosen samples ------------------------------------------------------------------------------- */

typedef struct order {
    int64_t time;
    int32_t scene, sample; /* in all_samples */
} order;

static int by_time(const void *a, const void *b)
{
    const order *x = a, *y = b;
    if (x->scene != y->scene) return x->scene < y->scene ? -1 : 1;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    return x->sample < y->sample ? -1 : 1;
}

static sv_status choose_samples(sv_ctx *c, loader *l)
{
    sv_nuscenes_tables *t = l->t;
    const size_t count = (size_t)l->all_sample_count + 1;
    order *list = malloc(sizeof *list * count);
    t->samples = malloc(sizeof *t->samples * count);
    l->sample_numbers = malloc(sizeof *l->sample_numbers * count);
    if (!list || !t->samples || !l->sample_numbers) {
        free(list);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d samples", t->folder, l->all_sample_count);
    }
    for (int i = 0; i < l->all_sample_count; i++) {
        const sv_nuscenes_sample *s = &l->all_samples[i];
        l->sample_numbers[i] = -1;
        if (t->scenes[s->scene].chosen) list[t->sample_count++] = (order){s->time, s->scene, i};
    }
    qsort(list, (size_t)t->sample_count, sizeof *list, by_time);
    for (int i = 0; i < t->sample_count; i++) {
        t->samples[i] = l->all_samples[list[i].sample];
        l->sample_numbers[list[i].sample] = i;
    }
    free(list);
    return SV_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static const field category_fields[] = {FIELD("token", TEXT, token, 0), FIELD("name", TEXT, name, 0)};
static const field instance_fields[] = {FIELD("token", TEXT, token, 0),
                                        FIELD("category_token", TEXT, category, 0)};
static const field sensor_fields[] = {FIELD("token", TEXT, token, 0), FIELD("channel", TEXT, channel, 0)};
static const field calibration_fields[] = {
    FIELD("token", TEXT, token, 0), FIELD("sensor_token", TEXT, sensor, 0),
    FIELD("translation", NUMBERS, translation, 3), FIELD("rotation", NUMBERS, rotation, 4),
    FIELD("camera_intrinsic", MATRIX, intrinsic, 0)};
static const field sample_fields[] = {FIELD("token", TEXT, token, 0), FIELD("timestamp", INTEGER, time, 0),
                                      FIELD("scene_token", TEXT, scene, 0)};
static const field data_fields[] = {
    FIELD("token", TEXT, token, 0),         FIELD("sample_token", TEXT, sample, 0),
    FIELD("ego_pose_token", TEXT, pose, 0), FIELD("calibrated_sensor_token", TEXT, calibration, 0),
    FIELD("timestamp", INTEGER, time, 0),   FIELD("is_key_frame", FLAG, key, 0),
    FIELD("height", INTEGER, height, 0),    FIELD("width", INTEGER, width, 0),
    FIELD("filename", TEXT, file, 0),       FIELD("prev", TEXT, previous, 0)};
static const field pose_fields[] = {FIELD("token", TEXT, token, 0), FIELD("rotation", NUMBERS, rotation, 4),
                                    FIELD("translation", NUMBERS, translation, 3)};
static const field annotation_fields[] = {FIELD("token", TEXT, token, 0),
                                          FIELD("sample_token", TEXT, sample, 0),
                                          FIELD("instance_token", TEXT, instance, 0),
                                          FIELD("attribute_tokens", TEXTS, attributes, 0),
                                          FIELD("translation", NUMBERS, translation, 3),
                                          FIELD("size", NUMBERS, size, 3),
                                          FIELD("rotation", NUMBERS, rotation, 4),
                                          FIELD("prev", TEXT, previous, 0),
                                          FIELD("next", TEXT, next, 0),
                                          FIELD("num_lidar_pts", INTEGER, lidar_points, 0),
                                          FIELD("num_radar_pts", INTEGER, radar_points, 0)};

sv_status sv_nuscenes_version(sv_ctx *c, const char *root, const char *version, const char *split, char *out,
                              size_t size)
{
    char path[SV_NUSCENES_PATH], there[400];
    sv_names names;
    SV_TRY(sv_dataset_list(c, root, "/", &names));
    int found = 0;
    const char *only = NULL, *fitting = NULL;
    for (int i = 0; i < names.count; i++) {
        if (snprintf(path, sizeof path, "%s/%s/sample_data.json", root, names.data[i]) >= (int)sizeof path ||
            !sv_dataset_is_file(path))
            continue;
        only = names.data[i];
        found++;
        for (int k = 0; split && k < SV_NUSCENES_SPLITS; k++) {
            char wanted[32];
            snprintf(wanted, sizeof wanted, "v1.0-%s", sv_nuscenes_splits[k].version);
            if (strcmp(split, sv_nuscenes_splits[k].name) == 0 && strcmp(only, wanted) == 0) fitting = only;
        }
        if (version && strcmp(only, version) == 0) fitting = only;
    }
    sv_names_say(&names, there, sizeof there);
    if (!fitting && !version && found == 1) fitting = only;
    const bool fits = fitting && snprintf(out, size, "%s", fitting) < (int)size;
    sv_names_free(&names);
    if (fits) return SV_OK;
    SV_CHECK(
        c, found > 0, SV_BAD_INPUT,
        "%s: holds no tables; a folder v1.0-trainval, v1.0-test or v1.0-mini with sample_data.json belongs "
        "there; here is %s",
        root, there);
    SV_CHECK(c, !version, SV_BAD_INPUT, "%s: has no tables of the version %.40s; here is %s", root, version,
             there);
    return SV_FAIL(c, SV_USAGE, "%s: holds tables of several versions: choose one (--version); here is %s",
                   root, there);
}

static sv_status find_split(sv_ctx *c, loader *l, const char *name)
{
    sv_nuscenes_tables *t = l->t;
    const char *version = strrchr(t->folder, '/') + 1;
    if (!name) {
        name = "all";
        for (int i = SV_NUSCENES_SPLITS - 1; i >= 0; i--)
            if (strncmp(version, "v1.0-", 5) == 0 &&
                strcmp(version + 5, sv_nuscenes_splits[i].version) == 0 &&
                strcmp(sv_nuscenes_splits[i].name, "train") != 0 &&
                strcmp(sv_nuscenes_splits[i].name, "mini_train") != 0)
                name = sv_nuscenes_splits[i].name;
    }
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++)
        if (strcmp(sv_nuscenes_splits[i].name, name) == 0) l->split = &sv_nuscenes_splits[i];
    SV_CHECK(c, l->split || strcmp(name, "all") == 0, SV_USAGE,
             "nuScenes has no split '%.40s': train, val, test, mini_train, mini_val, or all for every scene "
             "there is",
             name);
    snprintf(t->split, sizeof t->split, "%s", name);
    return SV_OK;
}

/* No scene of the split is there, or one that was named is not: say what is. */
static sv_status check_scenes(sv_ctx *c, const loader *l)
{
    const sv_nuscenes_tables *t = l->t;
    const sv_nuscenes_tables_def *def = l->def;
    for (int i = 0; i < def->scene_count; i++) {
        bool found = false;
        for (int k = 0; k < t->scene_count; k++)
            found = found || (t->scenes[k].chosen && strcmp(t->scenes[k].name, def->scenes[i]) == 0);
        SV_CHECK(c, found, SV_USAGE,
                 "%s: the split %s has no scene '%.60s' (%d scenes in the tables, the first is %s)",
                 t->folder, t->split, def->scenes[i], t->scene_count,
                 t->scene_count ? t->scenes[0].name : "none");
    }
    if (l->chosen_scenes > 0) return SV_OK;
    char fits[160] = "";
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++) {
        int count = 0;
        for (int k = 0; k < t->scene_count; k++)
            count += sv_nuscenes_split_has(&sv_nuscenes_splits[i], t->scenes[k].name);
        const size_t used = strlen(fits);
        if (count > 0)
            snprintf(fits + used, sizeof fits - used, "%s%s (%d)", used ? ", " : "",
                     sv_nuscenes_splits[i].name, count);
    }
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: none of its %d scenes is in the split %s; scenes are there of: %s%sall", t->folder,
                   t->scene_count, t->split, fits, fits[0] ? ", " : "");
}

/* What only sample_data and ego_pose needed. */
static void forget_data(loader *l)
{
    free(l->data_previous);
    free(l->data_pose);
    free(l->same_pose);
    l->data_previous = l->data_pose = NULL;
    l->same_pose = NULL;
    sv_nuscenes_index_close(&l->data);
    sv_nuscenes_index_close(&l->poses);
}

static sv_status read_tables(sv_ctx *c, loader *l)
{
    SV_TRY(READ_TABLE(c, l, "scene", category_fields, take_scene));
    SV_TRY(check_scenes(c, l));
    SV_TRY(READ_TABLE(c, l, "category", category_fields, take_category));
    SV_TRY(READ_TABLE(c, l, "attribute", category_fields, take_attribute));
    SV_TRY(READ_TABLE(c, l, "sensor", sensor_fields, take_sensor));
    SV_TRY(READ_TABLE(c, l, "calibrated_sensor", calibration_fields, take_calibration));
    SV_TRY(READ_TABLE(c, l, "sample", sample_fields, take_sample));
    SV_TRY(choose_samples(c, l));
    SV_TRY(READ_TABLE(c, l, "sample_data", data_fields, sv_nuscenes_take_data));
    SV_TRY(READ_TABLE(c, l, "ego_pose", pose_fields, sv_nuscenes_take_pose));
    SV_TRY(sv_nuscenes_link_data(c, l));
    forget_data(l);
    SV_TRY(READ_TABLE(c, l, "instance", instance_fields, take_instance));
    SV_TRY(READ_TABLE(c, l, "sample_annotation", annotation_fields, sv_nuscenes_take_annotation));
    return sv_nuscenes_link_annotations(c, l);
}

static void close_loader(loader *l)
{
    sv_nuscenes_index *const indices[] = {&l->scenes,    &l->samples,    &l->categories,   &l->attributes,
                                          &l->instances, &l->sensors,    &l->calibrations, &l->data,
                                          &l->poses,     &l->annotations};
    void *const arrays[] = {l->sensor_channels,     l->attribute_names, l->category_classes,
                            l->instance_categories, l->instance_tokens, l->data_previous,
                            l->data_pose,           l->same_pose,       l->neighbours,
                            l->all_samples,         l->sample_numbers};
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) sv_nuscenes_index_close(indices[i]);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(l);
}

/* Arrays have doubled: give back what is too much. */
static void shrink(void *pointer, size_t bytes)
{
    void **data = pointer, *smaller = bytes > 0 && *data ? realloc(*data, bytes) : NULL;
    if (smaller) *data = smaller;
}

sv_status sv_nuscenes_tables_open(sv_ctx *c, const sv_nuscenes_tables_def *def, sv_nuscenes_tables *out)
{
    char version[64];
    *out = (sv_nuscenes_tables){0};
    SV_TRY(sv_nuscenes_version(c, def->root, def->version, def->split, version, sizeof version));
    SV_TRY(sv_dataset_path(c, out->folder, sizeof out->folder, "%s/%s", def->root, version));
    loader *l = calloc(1, sizeof *l);
    SV_CHECK(c, l, SV_NO_MEMORY, "%s: no memory", def->root);
    l->t = out;
    l->def = def;
    sv_nuscenes_index *const indices[] = {&l->scenes,    &l->samples,    &l->categories,   &l->attributes,
                                          &l->instances, &l->sensors,    &l->calibrations, &l->data,
                                          &l->poses,     &l->annotations};
    bool good = true;
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++)
        good = sv_nuscenes_index_open(indices[i]) && good;
    sv_status status =
        good ? find_split(c, l, def->split) : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", def->root);
    if (status == SV_OK) status = read_tables(c, l);
    shrink(&out->annotations, sizeof *out->annotations * (size_t)out->annotation_count);
    shrink(&out->data, sizeof *out->data * (size_t)out->data_count);
    shrink(&out->samples, sizeof *out->samples * (size_t)out->sample_count);
    shrink(&out->names, l->name_bytes);
    close_loader(l);
    if (status != SV_OK) sv_nuscenes_tables_close(out);
    return status;
}

void sv_nuscenes_tables_close(sv_nuscenes_tables *t)
{
    free(t->scenes);
    free(t->categories);
    free(t->calibrations);
    free(t->samples);
    free(t->annotations);
    free(t->data);
    free(t->names);
    *t = (sv_nuscenes_tables){0};
}
