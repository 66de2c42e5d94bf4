/* SPDX-License-Identifier: Apache-2.0 */
#include "once.h"

#include "perception/json_scan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const sv_once_cameras[SV_ONCE_CAMERAS] = {"cam01", "cam03", "cam05", "cam06",
                                                      "cam07", "cam08", "cam09"};
const char *const sv_once_class_names[SV_ONCE_CLASSES] = {"Car", "Bus", "Truck", "Pedestrian", "Cyclist"};

enum { MOST = 1 << 24 };

void sv_once_free(sv_once_sequence *s)
{
    free(s->frames);
    free(s->boxes);
    *s = (sv_once_sequence){.frame_count = 0};
}

/* Room for one more; a lack of memory is the scan's problem. */
static bool grow(sv_json_scan *s, void *pointer, int count, int *room, size_t size)
{
    void **data = pointer;
    if (count < *room) return true;
    const int more = *room ? 2 * *room : 64;
    void *grown = count < MOST ? realloc(*data, size * (size_t)more) : NULL;
    if (!grown) {
        sv_json_wrong(s, "there is no memory for so many entries");
        return false;
    }
    *data = grown;
    *room = more;
    return true;
}

/* ---- calibration -------------------------------------------------------------------------------------- */

/* Rows of numbers. */
static void read_matrix(sv_json_scan *s, double *out, int rows, int columns)
{
    int row = 0;
    if (!sv_json_open(s, '[')) return;
    for (; sv_json_next(s); row++) {
        if (row == rows) {
            sv_json_wrong(s, "a matrix has too many rows");
            return;
        }
        if (!sv_json_numbers(s, out + columns * row, columns)) return;
    }
    if (s->state == SV_JSON_GOOD && row < rows) sv_json_wrong(s, "a matrix has too few rows");
    for (int i = 0; s->state == SV_JSON_GOOD && i < rows * columns; i++)
        if (!(fabs(out[i]) < 1e9)) sv_json_wrong(s, "a matrix holds a number that is not finite, or absurd");
}

static void read_camera(sv_json_scan *s, sv_once_camera *out)
{
    sv_json_span key;
    double m[16];
    int seen = 0;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        if (sv_json_span_is(key, "cam_to_velo")) {
            read_matrix(s, m, 4, 4);
            if (s->state != SV_JSON_GOOD) return;
            sv_pose inverse;
            out->to_lidar = sv_pose_from_rows(m);
            if (!sv_pose_invert(&out->to_lidar, &inverse)) sv_json_wrong(s, "a cam_to_velo is singular");
            seen |= 1;
        } else if (sv_json_span_is(key, "cam_intrinsic")) {
            read_matrix(s, out->intrinsic, 3, 3);
            seen |= 2;
        } else {
            sv_json_skip(s);
        }
    }
    out->there = seen == 3;
    if (s->state == SV_JSON_GOOD && seen != 3)
        sv_json_wrong(s, "a camera has no cam_to_velo or no cam_intrinsic");
}

static void read_calibration(sv_json_scan *s, sv_once_sequence *out)
{
    sv_json_span key;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        int k = 0;
        while (k < SV_ONCE_CAMERAS && !sv_json_span_is(key, sv_once_cameras[k])) k++;
        if (k < SV_ONCE_CAMERAS)
            read_camera(s, &out->cameras[k]);
        else
            sv_json_skip(s);
    }
}

/* ---- frames ------------------------------------------------------------------------------------------- */

/* Names and boxes are two lists of the same length, in any order. */
static void read_annotations(sv_json_scan *s, sv_once_sequence *out, sv_once_frame *frame)
{
    sv_json_span key, text;
    int names = 0, boxes = 0;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        const bool is_names = sv_json_span_is(key, "names");
        int *count = is_names ? &names : &boxes;
        if (!is_names && !sv_json_span_is(key, "boxes_3d")) {
            sv_json_skip(s);
            continue;
        }
        if (*count > 0) {
            sv_json_wrong(s, "names or boxes_3d stand twice");
            return;
        }
        if (!sv_json_open(s, '[')) return;
        for (; sv_json_next(s); ++*count) {
            const int at = frame->first + *count;
            if (!grow(s, &out->boxes, at, &out->box_room, sizeof *out->boxes)) return;
            sv_once_box *box = &out->boxes[at];
            if (is_names ? !sv_json_read_text(s, &text) : !sv_json_numbers(s, box->value, 7)) return;
            if (is_names && !sv_json_span_copy(text, box->type, sizeof box->type)) {
                sv_json_wrong(s, "a name of a class is too long");
                return;
            }
            for (int k = 0; !is_names && k < 7; k++)
                if (!(fabs(box->value[k]) < 1e6) || (k >= 3 && k < 6 && !(box->value[k] > 0))) {
                    sv_json_wrong(
                        s, "a box has a number that is not finite, or a side that is not greater than 0");
                    return;
                }
        }
    }
    if (s->state != SV_JSON_GOOD) return;
    if (names != boxes) {
        sv_json_wrong(s, "names and boxes_3d have different lengths");
        return;
    }
    frame->annotated = true;
    frame->count = names;
    out->box_count += names;
}

static void read_pose(sv_json_scan *s, sv_pose *out)
{
    double v[7];
    if (!sv_json_numbers(s, v, 7)) return;
    const double n = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3],
                 wxyz[4] = {v[3], v[0], v[1], v[2]};
    bool good = n > 0.25 && n < 4;
    for (int i = 4; i < 7; i++) good = good && fabs(v[i]) < 1e9;
    if (!good) sv_json_wrong(s, "a pose is no unit quaternion (x, y, z, w) and place");
    *out = sv_pose_from_quaternion(wxyz, v + 4);
}

static void read_frame(sv_json_scan *s, sv_once_sequence *out)
{
    sv_json_span key, text;
    if (!grow(s, &out->frames, out->frame_count, &out->frame_room, sizeof *out->frames)) return;
    sv_once_frame *frame = &out->frames[out->frame_count];
    *frame = (sv_once_frame){.first = out->box_count, .to_world = sv_pose_identity()};
    int seen = 0;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        if (sv_json_span_is(key, "frame_id")) {
            if (!sv_json_read_text(s, &text)) return;
            if (!sv_json_span_copy(text, frame->id, sizeof frame->id) ||
                strspn(frame->id, "0123456789") != strlen(frame->id) || !frame->id[0])
                sv_json_wrong(s, "a frame_id is no number of milliseconds");
            seen |= 1;
        } else if (sv_json_span_is(key, "pose")) {
            read_pose(s, &frame->to_world);
            seen |= 2;
        } else if (sv_json_span_is(key, "annos")) {
            if (seen & 4) sv_json_wrong(s, "a frame has annos twice");
            if (s->state == SV_JSON_GOOD) read_annotations(s, out, frame);
            seen |= 4;
        } else {
            sv_json_skip(s);
        }
    }
    if (s->state != SV_JSON_GOOD) return;
    if ((seen & 3) != 3)
        sv_json_wrong(s, "a frame has no frame_id or no pose");
    else
        out->frame_count++;
}

sv_status sv_once_parse(sv_ctx *c, const char *name, const void *bytes, size_t size, sv_once_sequence *out)
{
    *out = (sv_once_sequence){.frame_count = 0};
    sv_json_scan s = sv_json_scan_begin(bytes, size, true);
    sv_json_span key;
    bool framed = false;
    if (sv_json_open(&s, '{'))
        while (sv_json_next_key(&s, &key)) {
            if (sv_json_span_is(key, "calib")) {
                read_calibration(&s, out);
            } else if (sv_json_span_is(key, "frames")) {
                framed = true;
                if (sv_json_open(&s, '['))
                    while (sv_json_next(&s)) read_frame(&s, out);
            } else {
                sv_json_skip(&s);
            }
        }
    const long long place = s.at - s.begin;
    const char *problem = s.state == SV_JSON_WRONG ? s.problem
                          : s.state == SV_JSON_SHORT || !sv_json_at_end(&s)
                              ? "the file is cut off, or goes on behind its end"
                          : !framed ? "there is no list of frames"
                                    : NULL;
    if (!problem) return SV_OK;
    const int frames = out->frame_count;
    sv_once_free(out);
    return SV_FAIL(c, SV_BAD_INPUT, "%s: after %d frames (byte %lld): %s", name, frames, place, problem);
}
