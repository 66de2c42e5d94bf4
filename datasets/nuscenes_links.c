/* SPDX-License-Identifier: Apache-2.0 */
#include "nuscenes_loader.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_PATH = 400 };

/* ---- sample_data and ego_pose ------------------------------------------------------------------------- */

/* Names are parts of a path below the root. */
static bool is_inside(const char *path)
{
    if (path[0] == '/' || path[0] == '\0') return false;
    for (const char *p = path; p; p = strchr(p, '/')) {
        p += *p == '/';
        if (strncmp(p, "../", 3) == 0 || strcmp(p, "..") == 0) return false;
    }
    return true;
}

static sv_status add_file(sv_ctx *c, loader *l, int64_t number, uint32_t *out)
{
    sv_nuscenes_tables *t = l->t;
    char name[LONGEST_PATH];
    SV_CHECK(c, sv_json_span_copy(l->row.file, name, sizeof name) && is_inside(name), SV_BAD_INPUT,
             "%s: entry %lld has the filename '%.*s', which is no path below the dataset's folder", l->path,
             (long long)number, l->row.file.size < 80 ? (int)l->row.file.size : 80, l->row.file.at);
    const size_t size = strlen(name) + 1;
    SV_CHECK(c, l->name_bytes + size < UINT32_MAX, SV_BAD_INPUT, "%s: the filenames are longer than 4 GB",
             l->path);
    if (l->name_bytes + size > l->name_room) {
        const size_t wanted = l->name_room ? 2 * l->name_room : 1 << 16;
        char *grown = realloc(t->names, wanted);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for filenames", l->path);
        t->names = grown;
        l->name_room = wanted;
    }
    memcpy(t->names + l->name_bytes, name, size);
    *out = (uint32_t)l->name_bytes;
    l->name_bytes += size;
    return SV_OK;
}

/* Rows with the same pose are a list, newest first. */
static sv_status want_pose(sv_ctx *c, loader *l, int64_t number, int data)
{
    sv_nuscenes_token pose;
    SV_TRY(sv_nuscenes_row_token(c, l, number, "ego_pose_token", l->row.pose, false, &pose));
    const int32_t first = sv_nuscenes_index_add(&l->poses, pose, data);
    SV_CHECK(c, first >= 0, SV_NO_MEMORY, "%s: no memory for %d entries", l->path, data + 1);
    l->data_pose[data] = pose;
    l->same_pose[data] = -1;
    if (first == data) return SV_OK;
    l->same_pose[data] = l->same_pose[first];
    l->same_pose[first] = data;
    return SV_OK;
}

sv_status sv_nuscenes_take_data(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    const row *r = &l->row;
    int calibration, any_sample;
    SV_TRY(sv_nuscenes_row_follow(c, l, number, "calibrated_sensor_token", r->calibration, &l->calibrations,
                                  "calibrated_sensor", &calibration));
    const int channel = t->calibrations[calibration].channel;
    if (channel < 0 || (channel > 0 && !r->key)) return SV_OK;
    SV_TRY(
        sv_nuscenes_row_follow(c, l, number, "sample_token", r->sample, &l->samples, "sample", &any_sample));
    const int sample = l->sample_numbers[any_sample];
    if (sample < 0) return SV_OK;

    const int at = t->data_count;
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->data, at, &token));
    SV_TRY(sv_nuscenes_rows_room(c, l, &t->data, at, sizeof *t->data));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->data_previous, at, sizeof *l->data_previous));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->data_pose, at, sizeof *l->data_pose));
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->same_pose, at, sizeof *l->same_pose));
    sv_nuscenes_data *d = &t->data[at];
    *d = (sv_nuscenes_data){.token = token,
                            .time = r->time,
                            .previous = -1,
                            .calibration = calibration,
                            .sample = sample,
                            .key = r->key};
    SV_CHECK(c, r->width >= 0 && r->width <= 1 << 16 && r->height >= 0 && r->height <= 1 << 16, SV_BAD_INPUT,
             "%s: entry %lld has a picture of %lld x %lld pixels", l->path, (long long)number,
             (long long)r->width, (long long)r->height);
    d->width = (int32_t)r->width;
    d->height = (int32_t)r->height;
    SV_TRY(sv_nuscenes_row_token(c, l, number, "prev", r->previous, true, &l->data_previous[at]));
    SV_TRY(want_pose(c, l, number, at));
    SV_TRY(add_file(c, l, number, &d->file));
    if (r->key) {
        int32_t *place = &t->samples[sample].data[channel];
        SV_CHECK(c, *place < 0, SV_BAD_INPUT,
                 "%s: entry %lld (token %.*s) is a second key frame of %s in the sample %.*s", l->path,
                 (long long)number, (int)r->token.size, r->token.at, sv_nuscenes_channels[channel],
                 (int)r->sample.size, r->sample.at);
        *place = at;
    }
    t->data_count++;
    return SV_OK;
}

sv_status sv_nuscenes_take_pose(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_token(c, l, number, "token", l->row.token, false, &token));
    int32_t at = sv_nuscenes_index_find(&l->poses, token);
    if (at < 0) return SV_OK;
    SV_TRY(sv_nuscenes_row_rotation(c, l, number));
    SV_TRY(sv_nuscenes_row_finite(c, l, number, "translation", l->row.translation, 3));
    SV_CHECK(c, !t->data[at].placed, SV_BAD_INPUT, "%s: the token %.*s stands twice, again in entry %lld",
             l->path, (int)l->row.token.size, l->row.token.at, (long long)number);
    for (; at >= 0; at = l->same_pose[at]) {
        memcpy(t->data[at].rotation, l->row.rotation, sizeof l->row.rotation);
        memcpy(t->data[at].translation, l->row.translation, sizeof l->row.translation);
        t->data[at].placed = true;
    }
    return SV_OK;
}

sv_status sv_nuscenes_link_data(sv_ctx *c, loader *l)
{
    sv_nuscenes_tables *t = l->t;
    char token[SV_NUSCENES_TOKEN_TEXT], named[SV_NUSCENES_TOKEN_TEXT];
    for (int i = 0; i < t->data_count; i++) {
        sv_nuscenes_data *d = &t->data[i];
        sv_nuscenes_token_text(d->token, token);
        if (!d->placed) {
            sv_nuscenes_token_text(l->data_pose[i], named);
            return SV_FAIL(c, SV_BAD_INPUT,
                           "%s/sample_data.json: the entry %s has the ego_pose_token %s, which is not in "
                           "ego_pose.json: the tables do not belong together or one is cut off",
                           t->folder, token, named);
        }
        if (t->calibrations[d->calibration].channel != 0 || sv_nuscenes_token_none(l->data_previous[i]))
            continue;
        d->previous = sv_nuscenes_index_find(&l->data, l->data_previous[i]);
        sv_nuscenes_token_text(l->data_previous[i], named);
        SV_CHECK(c, d->previous >= 0, SV_BAD_INPUT,
                 "%s/sample_data.json: the sweep %s follows (prev) %s, which is not in the table among the "
                 "sweeps of "
                 "its scene: the table is cut off or has been changed",
                 t->folder, token, named);
        SV_CHECK(c,
                 t->calibrations[t->data[d->previous].calibration].channel == 0 &&
                     t->data[d->previous].time < d->time,
                 SV_BAD_INPUT,
                 "%s/sample_data.json: the sweep %s follows (prev) %s, which is no earlier sweep", t->folder,
                 token, named);
    }
    for (int i = 0; i < t->sample_count; i++) {
        sv_nuscenes_token_text(t->samples[i].token, token);
        SV_CHECK(c, t->samples[i].data[0] >= 0, SV_BAD_INPUT,
                 "%s/sample_data.json: the sample %s has no key frame of LIDAR_TOP", t->folder, token);
    }
    return SV_OK;
}

/* ---- annotations -------------------------------------------------------------------------------------- */

sv_status sv_nuscenes_take_annotation(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    const row *r = &l->row;
    int any_sample, instance, attribute;
    t->labelled = true;
    SV_TRY(
        sv_nuscenes_row_follow(c, l, number, "sample_token", r->sample, &l->samples, "sample", &any_sample));
    const int sample = l->sample_numbers[any_sample], at = t->annotation_count;
    if (sample < 0) return SV_OK;
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_add(c, l, number, &l->annotations, at, &token));
    SV_TRY(sv_nuscenes_row_follow(c, l, number, "instance_token", r->instance, &l->instances, "instance",
                                  &instance));
    SV_TRY(sv_nuscenes_rows_room(c, l, &t->annotations, at, sizeof *t->annotations));
    SV_TRY(sv_nuscenes_row_rotation(c, l, number));
    SV_TRY(sv_nuscenes_row_finite(c, l, number, "translation", r->translation, 3));
    SV_TRY(sv_nuscenes_row_finite(c, l, number, "size", r->size, 3));
    SV_CHECK(c, r->size[0] > 0 && r->size[1] > 0 && r->size[2] > 0, SV_BAD_INPUT,
             "%s: entry %lld (token %.*s) has the size %g x %g x %g", l->path, (long long)number,
             (int)r->token.size, r->token.at, r->size[0], r->size[1], r->size[2]);
    SV_CHECK(c,
             r->lidar_points >= 0 && r->lidar_points <= INT32_MAX / 2 && r->radar_points >= 0 &&
                 r->radar_points <= INT32_MAX / 2,
             SV_BAD_INPUT, "%s: entry %lld (token %.*s) counts %lld LiDAR and %lld radar points", l->path,
             (long long)number, (int)r->token.size, r->token.at, (long long)r->lidar_points,
             (long long)r->radar_points);
    sv_nuscenes_annotation *a = &t->annotations[at];
    *a = (sv_nuscenes_annotation){.token = token,
                                  .instance = l->instance_tokens[instance],
                                  .sample = sample,
                                  .category = l->instance_categories[instance],
                                  .lidar_points = (int32_t)r->lidar_points,
                                  .radar_points = (int32_t)r->radar_points,
                                  .attribute = SV_NUSCENES_ATTRIBUTE_NONE,
                                  .attributes =
                                      (unsigned char)(r->attributes.count < 255 ? r->attributes.count : 255)};
    a->detection_class = (signed char)l->category_classes[a->category];
    memcpy(a->translation, r->translation, sizeof a->translation);
    memcpy(a->size, r->size, sizeof a->size);
    memcpy(a->rotation, r->rotation, sizeof a->rotation);
    if (a->attributes > 0) {
        SV_TRY(sv_nuscenes_row_follow(c, l, number, "attribute", r->attributes.first, &l->attributes,
                                      "attribute", &attribute));
        a->attribute = l->attribute_names[attribute];
    }
    SV_TRY(sv_nuscenes_rows_room(c, l, &l->neighbours, at, 2 * sizeof *l->neighbours));
    SV_TRY(sv_nuscenes_row_token(c, l, number, "prev", r->previous, true, &l->neighbours[2 * at]));
    SV_TRY(sv_nuscenes_row_token(c, l, number, "next", r->next, true, &l->neighbours[2 * at + 1]));
    t->samples[sample].count++;
    t->annotation_count++;
    return SV_OK;
}

/* The difference between the neighbours over the time between them, which must not be too long. */
static void estimate_velocity(const sv_nuscenes_tables *t, const sv_nuscenes_annotation *before,
                              const sv_nuscenes_annotation *after, double longest, double velocity[3])
{
    const double seconds =
        1e-6 * (double)t->samples[after->sample].time - 1e-6 * (double)t->samples[before->sample].time;
    for (int i = 0; i < 3; i++) {
        velocity[i] = (after->translation[i] - before->translation[i]) / seconds;
        if (!(seconds <= longest) || !isfinite(velocity[i])) velocity[i] = (double)NAN;
    }
}

static sv_status neighbour(sv_ctx *c, const loader *l, int at, int which, int *out)
{
    const sv_nuscenes_token token = l->neighbours[2 * at + which];
    *out = -1;
    if (sv_nuscenes_token_none(token)) return SV_OK;
    *out = sv_nuscenes_index_find(&l->annotations, token);
    if (*out >= 0) return SV_OK;
    char own[SV_NUSCENES_TOKEN_TEXT], named[SV_NUSCENES_TOKEN_TEXT];
    sv_nuscenes_token_text(l->t->annotations[at].token, own);
    sv_nuscenes_token_text(token, named);
    return SV_FAIL(
        c, SV_BAD_INPUT,
        "%s/sample_annotation.json: the entry %s names %s as its %s, which is not in the table among the "
        "entries of its scene: the table is cut off or has been changed",
        l->t->folder, own, named, which ? "next" : "prev");
}

sv_status sv_nuscenes_link_annotations(sv_ctx *c, loader *l)
{
    sv_nuscenes_tables *t = l->t;
    for (int i = 0; i < t->annotation_count; i++) {
        sv_nuscenes_annotation *a = &t->annotations[i];
        int before, after;
        SV_TRY(neighbour(c, l, i, 0, &before));
        SV_TRY(neighbour(c, l, i, 1, &after));
        for (int k = 0; k < 3; k++) a->velocity[k] = (double)NAN;
        if (before < 0 && after < 0) continue;
        estimate_velocity(t, before < 0 ? a : &t->annotations[before], after < 0 ? a : &t->annotations[after],
                          before >= 0 && after >= 0 ? 3.0 : 1.5, a->velocity);
    }
    for (int i = 1; i < t->sample_count; i++)
        t->samples[i].first = t->samples[i - 1].first + t->samples[i - 1].count;
    /* most tables are in order already */
    bool sorted = true;
    for (int i = 1; i < t->annotation_count; i++)
        sorted = sorted && t->annotations[i - 1].sample <= t->annotations[i].sample;
    if (sorted) return SV_OK;
    int32_t *places = malloc(sizeof *places * (size_t)t->annotation_count);
    SV_CHECK(c, places, SV_NO_MEMORY, "%s: no memory for %d annotations", t->folder, t->annotation_count);
    for (int i = 0; i < t->annotation_count; i++) places[i] = t->samples[t->annotations[i].sample].first++;
    for (int i = 0; i < t->sample_count; i++) t->samples[i].first -= t->samples[i].count;
    for (int i = 0; i < t->annotation_count; i++)
        while (places[i] != i) {
            const int32_t to = places[i];
            const sv_nuscenes_annotation moved = t->annotations[to];
            t->annotations[to] = t->annotations[i];
            t->annotations[i] = moved;
            places[i] = places[to];
            places[to] = to;
        }
    free(places);
    return SV_OK;
}
