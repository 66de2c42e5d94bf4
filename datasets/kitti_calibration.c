/* SPDX-License-Identifier: Apache-2.0
 *
 * A calibration file is lines "NAME: numbers", matrices row-major:
 *
 *   object benchmark       P0 P1 P2 P3 [3,4], R0_rect [3,3], Tr_velo_to_cam [3,4], Tr_imu_to_velo [3,4]
 *   tracking benchmark     the same, but R_rect, Tr_velo_cam and Tr_imu_velo, and without the colon
 *   raw, calib_cam_to_cam  P_rect_00 .. P_rect_03, R_rect_00, and much that the rectified images do not need
 *   raw, calib_*_to_*      R [3,3] and T [3]
 *
 * Lines of other names are passed over; some of their values are no numbers (calib_time).
 */
#include "kitti.h"

#include "kitti_raw.h"
#include "kitti_text.h"
#include "perception/core/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A line to be found. */
typedef struct field {
    const char *key, *other; /* 'other': its name elsewhere, or NULL */
    double *out;
    int count;
    const char *use; /* why it has to be there; NULL: it need not be */
    int line;        /* where it was found; 0: not yet */
} field;

static field *find_field(field *fields, int count, const char *key)
{
    for (int i = 0; i < count; i++)
        if (strcmp(fields[i].key, key) == 0 || (fields[i].other && strcmp(fields[i].other, key) == 0))
            return &fields[i];
    return NULL;
}

static sv_status parse_fields(sv_ctx *c, const char *text, size_t size, const char *name, field *fields,
                              int count)
{
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    sv_kitti_word word;
    while (sv_kitti_next_line(&lines)) {
        sv_kitti_next_word(&lines, &word);
        const size_t length = strlen(word.text);
        if (word.text[length - 1] == ':') word.text[length - 1] = '\0';
        field *f = find_field(fields, count, word.text);
        if (!f) continue;
        SV_CHECK(c, f->line == 0, SV_BAD_INPUT, "%s, line %d: a second %s, the first is in line %d", name,
                 lines.line, f->key, f->line);
        f->line = lines.line;
        int found = 0;
        for (; sv_kitti_next_word(&lines, &word); found++) {
            double value;
            SV_CHECK(c, sv_kitti_number(&word, &value), SV_BAD_INPUT,
                     "%s, line %d: '%s' in %s is not a number that a calibration can have", name, lines.line,
                     word.text, f->key);
            if (found < f->count) f->out[found] = value;
        }
        SV_CHECK(c, found == f->count, SV_BAD_INPUT, "%s, line %d: %s has %d numbers, it needs %d", name,
                 lines.line, f->key, found, f->count);
    }
    for (int i = 0; i < count; i++)
        SV_CHECK(c, fields[i].line > 0 || !fields[i].use, SV_BAD_INPUT, "%s: has no %s (%s)", name,
                 fields[i].key, fields[i].use);
    return SV_OK;
}

static const char left_camera[] = "the projection onto the left colour camera",
                  rectifying[] = "the rectifying rotation of the cameras",
                  to_camera[] = "the way from the LiDAR to the cameras";

static sv_kitti_calibration empty_calibration(void)
{
    return (sv_kitti_calibration){.imu_to_velo = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}};
}

/* What follows from the lines that were found; the first four fields are the projections. */
static sv_status finish(sv_ctx *c, const char *name, const field *fields, sv_kitti_calibration *k)
{
    for (int i = 0; i < 4; i++)
        if (fields[i].line == 0) memcpy(fields[i].out, k->p2, sizeof k->p2);
    return sv_kitti_derive_calibration(c, name, k);
}

sv_status sv_kitti_derive_calibration(sv_ctx *c, const char *name, sv_kitti_calibration *k)
{
    double rows[12];
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) rows[4 * i + j] = k->r0_rect[3 * i + j];
        rows[4 * i + 3] = 0;
    }
    const sv_pose rectify = sv_pose_from_rows(rows), to_cam = sv_pose_from_rows(k->velo_to_cam),
                  project = sv_pose_from_rows(k->p2);
    sv_pose unused;
    SV_CHECK(c, sv_pose_invert(&project, &unused), SV_BAD_INPUT,
             "%s: P2 is singular, it projects onto a line or a point", name);
    SV_CHECK(c, sv_pose_invert(&rectify, &unused), SV_BAD_INPUT, "%s: R0_rect is singular, it is no rotation",
             name);
    SV_CHECK(c, sv_pose_invert(&to_cam, &unused), SV_BAD_INPUT,
             "%s: Tr_velo_to_cam is singular, it is no motion", name);
    k->lidar_to_rect = sv_pose_compose(&rectify, &to_cam);
    SV_CHECK(c, sv_pose_invert(&k->lidar_to_rect, &k->rect_to_lidar), SV_BAD_INPUT,
             "%s: R0_rect and Tr_velo_to_cam together are singular", name);
    return SV_OK;
}

sv_status sv_kitti_parse_calibration(sv_ctx *c, const char *text, size_t size, const char *name,
                                     sv_kitti_calibration *out)
{
    sv_kitti_calibration k = empty_calibration();
    field fields[] = {{"P0", NULL, k.p0, 12, NULL, 0},
                      {"P1", NULL, k.p1, 12, NULL, 0},
                      {"P2", NULL, k.p2, 12, left_camera, 0},
                      {"P3", NULL, k.p3, 12, NULL, 0},
                      {"R0_rect", "R_rect", k.r0_rect, 9, rectifying, 0},
                      {"Tr_velo_to_cam", "Tr_velo_cam", k.velo_to_cam, 12, to_camera, 0},
                      {"Tr_imu_to_velo", "Tr_imu_velo", k.imu_to_velo, 12, NULL, 0}};
    *out = (sv_kitti_calibration){0};
    SV_TRY(parse_fields(c, text, size, name, fields, sizeof fields / sizeof *fields));
    SV_TRY(finish(c, name, fields, &k));
    *out = k;
    return SV_OK;
}

sv_status sv_kitti_read_calibration(sv_ctx *c, const char *path, sv_kitti_calibration *out)
{
    *out = (sv_kitti_calibration){0};
    void *text;
    size_t size;
    SV_TRY(sv_file_read(c, path, SV_KITTI_TEXT_LIMIT, &text, &size));
    const sv_status status = sv_kitti_parse_calibration(c, text, size, path, out);
    free(text);
    return status;
}

/* R and T as the rows [R | T]. */
static sv_status parse_motion(sv_ctx *c, const sv_kitti_text *text, const char *use, double rows[12])
{
    double r[9], t[3];
    field fields[] = {{"R", NULL, r, 9, use, 0}, {"T", NULL, t, 3, use, 0}};
    SV_TRY(parse_fields(c, text->data, text->size, text->name, fields, 2));
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) rows[4 * i + j] = r[3 * i + j];
        rows[4 * i + 3] = t[i];
    }
    return SV_OK;
}

sv_status sv_kitti_parse_raw_calibration(sv_ctx *c, const sv_kitti_text *cam_to_cam,
                                         const sv_kitti_text *velo_to_cam, const sv_kitti_text *imu_to_velo,
                                         sv_kitti_calibration *out)
{
    sv_kitti_calibration k = empty_calibration();
    field fields[] = {{"P_rect_00", NULL, k.p0, 12, NULL, 0},
                      {"P_rect_01", NULL, k.p1, 12, NULL, 0},
                      {"P_rect_02", NULL, k.p2, 12, left_camera, 0},
                      {"P_rect_03", NULL, k.p3, 12, NULL, 0},
                      {"R_rect_00", NULL, k.r0_rect, 9, rectifying, 0}};
    *out = (sv_kitti_calibration){0};
    SV_TRY(parse_fields(c, cam_to_cam->data, cam_to_cam->size, cam_to_cam->name, fields,
                        sizeof fields / sizeof *fields));
    SV_TRY(parse_motion(c, velo_to_cam, to_camera, k.velo_to_cam));
    if (imu_to_velo)
        SV_TRY(parse_motion(c, imu_to_velo, "the way from the inertial unit to the LiDAR", k.imu_to_velo));
    SV_TRY(finish(c, cam_to_cam->name, fields, &k));
    *out = k;
    return SV_OK;
}

sv_status sv_kitti_read_raw_calibration(sv_ctx *c, const char *folder, sv_kitti_calibration *out)
{
    static const char *const names[3] = {"calib_cam_to_cam.txt", "calib_velo_to_cam.txt",
                                         "calib_imu_to_velo.txt"};
    char paths[3][4096];
    sv_kitti_text texts[3] = {0};
    bool there[3] = {true, true, false};
    sv_status status = SV_OK;
    *out = (sv_kitti_calibration){0};
    for (int i = 0; i < 3 && status == SV_OK; i++) {
        void *data = NULL;
        status = sv_dataset_path(c, paths[i], sizeof paths[i], "%s/%s", folder, names[i]);
        if (i == 2) there[i] = status == SV_OK && sv_dataset_is_file(paths[i]);
        if (status == SV_OK && there[i])
            status = sv_file_read(c, paths[i], SV_KITTI_TEXT_LIMIT, &data, &texts[i].size);
        texts[i].name = paths[i];
        texts[i].data = data;
    }
    if (status == SV_OK)
        status = sv_kitti_parse_raw_calibration(c, &texts[0], &texts[1], there[2] ? &texts[2] : NULL, out);
    for (int i = 0; i < 3; i++) free((void *)texts[i].data);
    return status;
}

sv_status sv_kitti_write_calibration(sv_ctx *c, const char *path, const sv_kitti_calibration *k)
{
    const struct {
        const char *key;
        const double *values;
        int count;
    } lines[] = {{"P0", k->p0, 12},
                 {"P1", k->p1, 12},
                 {"P2", k->p2, 12},
                 {"P3", k->p3, 12},
                 {"R0_rect", k->r0_rect, 9},
                 {"Tr_velo_to_cam", k->velo_to_cam, 12},
                 {"Tr_imu_to_velo", k->imu_to_velo, 12}};
    enum { LINES = sizeof lines / sizeof *lines };
    for (int i = 0; i < LINES; i++)
        for (int j = 0; j < lines[i].count; j++)
            SV_CHECK(c, isfinite(lines[i].values[j]), SV_BAD_INPUT,
                     "%s: %s of the calibration is not finite and was not written", path, lines[i].key);
    sv_output file;
    SV_TRY(sv_output_open(c, &file, path));
    for (int i = 0; i < LINES; i++) {
        fprintf(file.stream, "%s:", lines[i].key);
        for (int j = 0; j < lines[i].count; j++) sv_kitti_print(file.stream, " %.12e", lines[i].values[j]);
        fputc('\n', file.stream);
    }
    fputc('\n', file.stream);
    return sv_output_commit(c, &file);
}
