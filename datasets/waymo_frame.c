/* SPDX-License-Identifier: Apache-2.0
 *
 * The message Frame. Lasers and cameras come in any order and are put in their places by name.
 */
#include "waymo.h"

#include "perception/model/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const sv_waymo_camera_names[SV_WAYMO_CAMERAS] = {"FRONT", "FRONT_LEFT", "FRONT_RIGHT",
                                                             "SIDE_LEFT", "SIDE_RIGHT"};
const char *const sv_waymo_laser_names[SV_WAYMO_LASERS] = {"TOP", "FRONT", "SIDE_LEFT", "SIDE_RIGHT", "REAR"};
const char *const sv_waymo_type_names[SV_WAYMO_TYPES] = {"Unknown", "Vehicle", "Pedestrian", "Sign",
                                                         "Cyclist"};

typedef struct parser {
    sv_ctx *c;
    const char *name; /* of the record */
} parser;

/* What is wrong with a message, if anything is. */
static sv_status sound(const parser *p, const char *message, const sv_wire *w)
{
    SV_CHECK(p->c, !w->fault, SV_BAD_INPUT,
             "%s: field %d of %s: %s; the file is damaged or of another kind, fetch it again", p->name,
             w->number, message, w->fault);
    return SV_OK;
}

/* ---- transforms --------------------------------------------------------------------------------------- */

/* A row-major 4x4 matrix, whose last row must be (0, 0, 0, 1). */
static sv_status parse_transform(const parser *p, const char *message, sv_bytes bytes, sv_pose *out)
{
    double m[16];
    int count = 0;
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f))
        if (f.number == 1) sv_wire_doubles(&w, &f, m, 16, &count);
    SV_TRY(sound(p, message, &w));
    SV_CHECK(p->c, count == 16, SV_BAD_INPUT, "%s: %s has %d numbers, a pose has 16", p->name, message,
             count);
    for (int i = 0; i < 16; i++)
        SV_CHECK(p->c, isfinite(m[i]) && fabs(m[i]) < 1e9, SV_BAD_INPUT, "%s: %s: number %d is no place (%g)",
                 p->name, message, i, m[i]);
    SV_CHECK(p->c, m[12] == 0 && m[13] == 0 && m[14] == 0 && m[15] == 1, SV_BAD_INPUT,
             "%s: %s: its last row is not (0, 0, 0, 1)", p->name, message);
    *out = sv_pose_from_rows(m);
    sv_pose inverse;
    SV_CHECK(p->c, sv_pose_invert(out, &inverse), SV_BAD_INPUT, "%s: %s is singular", p->name, message);
    return SV_OK;
}

/* ---- the context -------------------------------------------------------------------------------------- */

/* The field 'name' of a message, which says where the rest belongs; 0 when it is none of 1..most. */
static sv_status parse_name(const parser *p, const char *message, sv_bytes bytes, int most, int *out)
{
    int64_t name = 0;
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f))
        if (f.number == 1) sv_wire_int(&w, &f, &name);
    *out = name >= 1 && name <= most ? (int)name : 0;
    return sound(p, message, &w);
}

static sv_status parse_camera_calibration(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    int name;
    SV_TRY(parse_name(p, "CameraCalibration", bytes, SV_WAYMO_CAMERAS, &name));
    if (name == 0) return SV_OK; /* a camera that the perception dataset does not have */
    sv_waymo_camera *camera = &out->cameras[name - 1];
    SV_CHECK(p->c, !camera->calibrated, SV_BAD_INPUT, "%s: the camera %s is calibrated twice", p->name,
             sv_waymo_camera_names[name - 1]);
    int count = 0;
    bool placed = false;
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f)) switch (f.number) {
        case 2:
            sv_wire_doubles(&w, &f, camera->intrinsic, 9, &count);
            break;
        case 3: {
            sv_bytes inner = {0};
            sv_wire_bytes(&w, &f, &inner);
            if (!w.fault)
                SV_TRY(parse_transform(p, "CameraCalibration.extrinsic", inner, &camera->camera_to_ego));
            placed = true;
            break;
        }
        case 4:
            sv_wire_int_within(&w, &f, 0, 1 << 14, &camera->width);
            break;
        case 5:
            sv_wire_int_within(&w, &f, 0, 1 << 14, &camera->height);
            break;
        }
    SV_TRY(sound(p, "CameraCalibration", &w));
    for (int i = 0; i < count; i++)
        SV_CHECK(p->c, isfinite(camera->intrinsic[i]), SV_BAD_INPUT,
                 "%s: an intrinsic value of the camera %s is not finite", p->name,
                 sv_waymo_camera_names[name - 1]);
    camera->calibrated = count >= 4 && placed;
    return SV_OK;
}

static sv_status parse_laser_calibration(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    int name;
    SV_TRY(parse_name(p, "LaserCalibration", bytes, SV_WAYMO_LASERS, &name));
    if (name == 0) return SV_OK;
    sv_waymo_laser *laser = &out->lasers[name - 1];
    const char *shown = sv_waymo_laser_names[name - 1];
    SV_CHECK(p->c, !laser->calibrated, SV_BAD_INPUT, "%s: the laser %s is calibrated twice", p->name, shown);
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f)) switch (f.number) {
        case 2:
            sv_wire_doubles(&w, &f, laser->inclination, SV_WAYMO_BEAMS, &laser->beams);
            break;
        case 3:
            sv_wire_double(&w, &f, &laser->inclination_min);
            break;
        case 4:
            sv_wire_double(&w, &f, &laser->inclination_max);
            break;
        case 5: {
            sv_bytes inner = {0};
            sv_wire_bytes(&w, &f, &inner);
            if (!w.fault)
                SV_TRY(parse_transform(p, "LaserCalibration.extrinsic", inner, &laser->laser_to_ego));
            laser->calibrated = true;
            break;
        }
        }
    SV_TRY(sound(p, "LaserCalibration", &w));
    bool finite = isfinite(laser->inclination_min) && isfinite(laser->inclination_max);
    for (int i = 0; i < laser->beams; i++) finite = finite && isfinite(laser->inclination[i]);
    SV_CHECK(p->c, finite, SV_BAD_INPUT, "%s: a beam inclination of the laser %s is not finite", p->name,
             shown);
    return SV_OK;
}

static sv_status parse_stats(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f)) switch (f.number) {
        case 2:
            sv_wire_text(&w, &f, out->time_of_day, sizeof out->time_of_day);
            break;
        case 3:
            sv_wire_text(&w, &f, out->location, sizeof out->location);
            break;
        case 4:
            sv_wire_text(&w, &f, out->weather, sizeof out->weather);
            break;
        }
    return sound(p, "Context.stats", &w);
}

static sv_status parse_context(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        sv_bytes inner = {0};
        if (f.number >= 2 && f.number <= 4) sv_wire_bytes(&w, &f, &inner);
        if (w.fault) break;
        switch (f.number) {
        case 1:
            sv_wire_text(&w, &f, out->context, sizeof out->context);
            break;
        case 2:
            SV_TRY(parse_camera_calibration(p, inner, out));
            break;
        case 3:
            SV_TRY(parse_laser_calibration(p, inner, out));
            break;
        case 4:
            SV_TRY(parse_stats(p, inner, out));
            break;
        }
    }
    return sound(p, "Frame.context", &w);
}

/* ---- pictures and range images ------------------------------------------------------------------------ */

static sv_status parse_image(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    int name;
    SV_TRY(parse_name(p, "Frame.images", bytes, SV_WAYMO_CAMERAS, &name));
    if (name == 0) return SV_OK;
    sv_waymo_camera *camera = &out->cameras[name - 1];
    SV_CHECK(p->c, !camera->has_image, SV_BAD_INPUT, "%s: the camera %s has two pictures", p->name,
             sv_waymo_camera_names[name - 1]);
    camera->has_image = true;
    sv_wire w = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&w, &f)) switch (f.number) {
        case 2:
            sv_wire_bytes(&w, &f, &camera->jpeg);
            break;
        case 3: {
            sv_bytes inner = {0};
            sv_wire_bytes(&w, &f, &inner);
            if (!w.fault) SV_TRY(parse_transform(p, "CameraImage.pose", inner, &camera->ego_to_world));
            camera->has_pose = true;
            break;
        }
        }
    return sound(p, "Frame.images", &w);
}

static sv_status parse_laser(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    int name;
    SV_TRY(parse_name(p, "Frame.lasers", bytes, SV_WAYMO_LASERS, &name));
    if (name == 0) return SV_OK;
    sv_waymo_laser *laser = &out->lasers[name - 1];
    SV_CHECK(p->c, !laser->present, SV_BAD_INPUT, "%s: the laser %s is there twice", p->name,
             sv_waymo_laser_names[name - 1]);
    laser->present = true;
    sv_wire w = sv_wire_open(bytes), v;
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        if (f.number != 2 && f.number != 3) continue;
        sv_bytes inner = {0};
        sv_wire_bytes(&w, &f, &inner);
        if (w.fault) break;
        const int which = f.number - 2;
        v = sv_wire_open(inner);
        while (sv_wire_next(&v, &f)) {
            if (f.number == 2) sv_wire_bytes(&v, &f, &laser->range[which]);
            if (f.number == 4 && which == 0) sv_wire_bytes(&v, &f, &laser->pose);
        }
        SV_TRY(sound(p, which ? "Laser.ri_return2" : "Laser.ri_return1", &v));
    }
    return sound(p, "Frame.lasers", &w);
}

/* ---- labels ------------------------------------------------------------------------------------------- */

static void parse_box(sv_wire *w, sv_bytes bytes, sv_waymo_label *out)
{
    double *const places[] = {&out->x,      &out->y,      &out->z,      &out->width,
                              &out->length, &out->height, &out->heading};
    sv_wire v = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&v, &f))
        if (f.number >= 1 && f.number <= 7) sv_wire_double(&v, &f, places[f.number - 1]);
    if (v.fault) w->fault = "a field of its box is broken";
    for (int i = 0; i < 7; i++)
        if (!w->fault && !(fabs(*places[i]) < 1e9)) w->fault = "a value of its box is not finite, or absurd";
}

static void parse_motion(sv_wire *w, sv_bytes bytes, sv_waymo_label *out)
{
    bool x = false, y = false;
    sv_wire v = sv_wire_open(bytes);
    sv_field f;
    while (sv_wire_next(&v, &f)) switch (f.number) {
        case 1:
            sv_wire_double(&v, &f, &out->speed[0]), x = true;
            break;
        case 2:
            sv_wire_double(&v, &f, &out->speed[1]), y = true;
            break;
        case 3:
            sv_wire_double(&v, &f, &out->acceleration[0]);
            break;
        case 4:
            sv_wire_double(&v, &f, &out->acceleration[1]);
            break;
        case 5:
            sv_wire_double(&v, &f, &out->speed[2]);
            break;
        case 6:
            sv_wire_double(&v, &f, &out->acceleration[2]);
            break;
        }
    if (v.fault) w->fault = "a field of its metadata is broken";
    /* an unknown speed is no speed */
    out->has_speed = x && y && isfinite(out->speed[0]) && isfinite(out->speed[1]);
}

bool sv_waymo_parse_label(sv_bytes message, sv_waymo_label *out, sv_wire *outer)
{
    *out = (sv_waymo_label){0};
    sv_wire w = sv_wire_open(message);
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        sv_bytes inner = {0};
        if (f.number <= 2) sv_wire_bytes(&w, &f, &inner);
        if (w.fault) break;
        switch (f.number) {
        case 1:
            parse_box(&w, inner, out);
            break;
        case 2:
            parse_motion(&w, inner, out);
            break;
        case 3:
            sv_wire_int_within(&w, &f, 0, SV_WAYMO_TYPES - 1, &out->type);
            break;
        case 4:
            sv_wire_text(&w, &f, out->id, sizeof out->id);
            break;
        case 5:
            sv_wire_int_within(&w, &f, 0, 2, &out->level);
            break;
        case 6:
            sv_wire_int_within(&w, &f, 0, 2, &out->tracking_level);
            break;
        case 7:
            sv_wire_int_within(&w, &f, INT32_MIN, INT32_MAX, &out->points);
            break;
        case 11:
            sv_wire_text(&w, &f, out->camera, sizeof out->camera);
            break;
        case 13:
            sv_wire_int_within(&w, &f, INT32_MIN, INT32_MAX, &out->top_points);
            break;
        }
    }
    outer->fault = w.fault;
    outer->number = w.number;
    return w.fault == NULL;
}

static sv_status parse_label(const parser *p, sv_bytes bytes, sv_waymo_frame *out)
{
    if (out->label_count == out->label_room) {
        SV_CHECK(p->c, out->label_count < SV_WAYMO_LABELS, SV_BAD_INPUT, "%s: has more than %d labels",
                 p->name, SV_WAYMO_LABELS);
        const int room = out->label_room ? 2 * out->label_room : 64;
        sv_waymo_label *grown = realloc(out->labels, sizeof *grown * (size_t)room);
        SV_CHECK(p->c, grown, SV_NO_MEMORY, "%s: no memory for %d labels", p->name, room);
        out->labels = grown;
        out->label_room = room;
    }
    sv_wire w = {0};
    sv_waymo_label *label = &out->labels[out->label_count];
    SV_CHECK(p->c, sv_waymo_parse_label(bytes, label, &w), SV_BAD_INPUT,
             "%s: label %d of Frame.laser_labels: field %d: %s; the file is damaged, fetch it again", p->name,
             out->label_count, w.number, w.fault);
    out->label_count++;
    return SV_OK;
}

/* ---- the frame ---------------------------------------------------------------------------------------- */

sv_status sv_waymo_parse_frame(sv_ctx *c, sv_bytes record, const char *name, sv_waymo_frame *out)
{
    const parser p = {c, name};
    *out = (sv_waymo_frame){
        .labels = out->labels, .label_room = out->label_room, .ego_to_world = sv_pose_identity()};
    bool timed = false, placed = false;
    sv_wire w = sv_wire_open(record);
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        sv_bytes inner = {0};
        if (f.number != 2 && f.number <= 7) sv_wire_bytes(&w, &f, &inner);
        if (w.fault) break;
        switch (f.number) {
        case 1:
            SV_TRY(parse_context(&p, inner, out));
            break;
        case 2:
            sv_wire_int(&w, &f, &out->timestamp), timed = true;
            break;
        case 3:
            SV_TRY(parse_transform(&p, "Frame.pose", inner, &out->ego_to_world));
            placed = true;
            break;
        case 4:
            SV_TRY(parse_image(&p, inner, out));
            break;
        case 5:
            SV_TRY(parse_laser(&p, inner, out));
            break;
        case 6:
            SV_TRY(parse_label(&p, inner, out));
            break;
        case 7:
            out->zones++;
            break;
        }
    }
    SV_TRY(sound(&p, "Frame", &w));
    SV_CHECK(c, out->context[0] && timed && placed, SV_BAD_INPUT,
             "%s: has no %s: it is no Frame of the perception dataset (motion and end-to-end data are other "
             "kinds)",
             name,
             !out->context[0] ? "context name (field 1)"
             : !timed         ? "timestamp (field 2)"
                              : "pose (field 3)");
    return SV_OK;
}

void sv_waymo_free_frame(sv_waymo_frame *frame)
{
    free(frame->labels);
    *frame = (sv_waymo_frame){0};
}
