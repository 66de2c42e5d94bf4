/* SPDX-License-Identifier: Apache-2.0
 *
 * dataset.txt and poses.txt of custom data.
 */
#include "custom_dataset.h"
#include "dataset_type.h"
#include "kitti_text.h"
#include "object_text.h"
#include "perception/core/text.h"
#include "perception/points.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- dataset.txt -------------------------------------------------------------------------------------- */

static sv_status take_class(sv_ctx *c, sv_kitti_lines *lines, sv_object_measure *m)
{
    sv_kitti_word name, value;
    double overlap = 0.5, number;
    const bool named = sv_kitti_next_word(lines, &name);
    SV_CHECK(c, named && name.length < sizeof m->names[0] && !sv_kitti_number(&name, &number), SV_BAD_INPUT,
             "%s, line %d: a class is 'class NAME' with a name of 1 to %zu letters that is no number",
             lines->name, lines->line, sizeof m->names[0] - 1);
    for (int i = 0; i < m->count; i++)
        SV_CHECK(c, strcmp(m->names[i], name.text) != 0, SV_BAD_INPUT,
                 "%s, line %d: the class %s stands twice", lines->name, lines->line, name.text);
    SV_CHECK(c, m->count < SV_OBJECT_CLASSES, SV_BAD_INPUT, "%s, line %d: more than %d classes", lines->name,
             lines->line, SV_OBJECT_CLASSES);
    if (sv_kitti_next_word(lines, &value))
        SV_CHECK(c, sv_kitti_number(&value, &overlap) && overlap > 0 && overlap < 1, SV_BAD_INPUT,
                 "%s, line %d: '%.40s' is no overlap: a number between 0 and 1", lines->name, lines->line,
                 value.text);
    memcpy(m->names[m->count], name.text, name.length + 1);
    m->overlaps[m->count++] = overlap;
    return SV_OK;
}

sv_status sv_custom_parse_description(sv_ctx *c, const char *name, const char *text, size_t size,
                                      sv_custom_description *out)
{
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    *out = (sv_custom_description){.layout = ""};
    while (sv_kitti_next_line(&lines)) {
        sv_kitti_word key, value;
        if (!sv_object_line_counts(&lines)) continue;
        sv_kitti_next_word(&lines, &key);
        if (strcmp(key.text, "layout") == 0) {
            SV_CHECK(c, !out->layout[0], SV_BAD_INPUT, "%s, line %d: the layout stands twice", name,
                     lines.line);
            const bool there = sv_kitti_next_word(&lines, &value);
            int columns;
            const bool known = there && value.length < sizeof out->layout &&
                               sv_points_layout(c, value.text, &columns, NULL) == SV_OK;
            if (!known) sv_error_clear(c);
            SV_CHECK(c, known, SV_BAD_INPUT,
                     "%s, line %d: '%.40s' is no layout of points: xyz, xyzi, xyzir, xyzit or xyzie", name,
                     lines.line, there ? value.text : "");
            memcpy(out->layout, value.text, value.length + 1);
        } else if (strcmp(key.text, "class") == 0) {
            SV_TRY(take_class(c, &lines, &out->measure));
        } else {
            return SV_FAIL(c, SV_BAD_INPUT,
                           "%s, line %d: '%.40s' is not known here: a line is 'layout COLUMNS' or 'class "
                           "NAME [OVERLAP]'",
                           name, lines.line, key.text);
        }
        SV_CHECK(c, !sv_kitti_next_word(&lines, &value), SV_BAD_INPUT,
                 "%s, line %d: '%.40s' is one word too many", name, lines.line, value.text);
    }
    SV_CHECK(c, out->layout[0] && out->measure.count > 0, SV_BAD_INPUT, "%s: has no %s", name,
             out->layout[0] ? "line 'class NAME'" : "line 'layout COLUMNS' (xyzi for one)");
    return SV_OK;
}

/* ---- poses.txt ---------------------------------------------------------------------------------------- */

sv_status sv_custom_parse_pose(sv_ctx *c, sv_kitti_lines *lines, sv_custom_pose *out)
{
    static const char form[] = "NAME SEQUENCE TIME and the 12 numbers of [R | t], row by row";
    sv_kitti_word words[2], word;
    double v[13];
    int count = 0;
    for (int i = 0; i < 2; i++)
        SV_CHECK(c, sv_kitti_next_word(lines, &words[i]), SV_BAD_INPUT, "%s, line %d: a line is %s",
                 lines->name, lines->line, form);
    SV_CHECK(c, words[0].length < sizeof words[0].text && words[1].length < sizeof words[1].text,
             SV_BAD_INPUT, "%s, line %d: names have at most %zu letters", lines->name, lines->line,
             sizeof words[0].text - 1);
    for (; sv_kitti_next_word(lines, &word); count++)
        if (count < 13) /* the time may be seconds since 1970 */
            SV_CHECK(c, sv_kitti_number(&word, &v[count]) || (count == 0 && sv_text_number(word.text, &v[0])),
                     SV_BAD_INPUT, "%s, line %d: '%.40s' is no number: a line is %s", lines->name,
                     lines->line, word.text, form);
    SV_CHECK(c, count == 13, SV_BAD_INPUT, "%s, line %d: %d numbers behind the names, not 13: a line is %s",
             lines->name, lines->line, count, form);
    *out = (sv_custom_pose){.time = v[0], .to_world = sv_pose_from_rows(v + 1)};
    memcpy(out->name, words[0].text, words[0].length + 1);
    memcpy(out->sequence, words[1].text, words[1].length + 1);
    const double *r = out->to_world.r;
    double worst = 0;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            worst = fmax(worst, fabs(r[3 * i] * r[3 * k] + r[3 * i + 1] * r[3 * k + 1] +
                                     r[3 * i + 2] * r[3 * k + 2] - (i == k)));
    SV_CHECK(c, worst < 1e-3, SV_BAD_INPUT,
             "%s, line %d: the first three numbers of each row are no rotation (rows of length 1, at right "
             "angles; off "
             "by %.3g)",
             lines->name, lines->line, worst);
    return SV_OK;
}

sv_status sv_custom_parse_poses(sv_ctx *c, const char *name, const char *text, size_t size,
                                sv_custom_poses *out)
{
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    sv_status status = SV_OK;
    int room = 0;
    *out = (sv_custom_poses){0};
    while (status == SV_OK && sv_kitti_next_line(&lines)) {
        if (!sv_object_line_counts(&lines)) continue;
        if (out->count == room) {
            room = room ? 2 * room : 64;
            void *grown = realloc(out->data, sizeof *out->data * (size_t)room);
            if (!grown) {
                status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d poses", name, room);
                break;
            }
            out->data = grown;
        }
        status = sv_custom_parse_pose(c, &lines, &out->data[out->count]);
        out->count += status == SV_OK;
    }
    if (status != SV_OK) sv_custom_free_poses(out);
    return status;
}

void sv_custom_free_poses(sv_custom_poses *poses)
{
    free(poses->data);
    *poses = (sv_custom_poses){0};
}

/* ---- splits/NAME.txt ---------------------------------------------------------------------------------- */

sv_status sv_custom_parse_names(sv_ctx *c, const char *name, const char *text, size_t size, sv_names *out)
{
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    int room = 0;
    *out = (sv_names){0};
    while (sv_kitti_next_line(&lines)) {
        sv_kitti_word word, more;
        if (!sv_object_line_counts(&lines)) continue;
        sv_kitti_next_word(&lines, &word);
        const bool good = word.length < sizeof word.text && !sv_kitti_next_word(&lines, &more);
        if (good && out->count == room) {
            room = room ? 2 * room : 64;
            void *grown = realloc(out->data, sizeof *out->data * (size_t)room);
            if (grown) out->data = grown;
            room = grown ? room : out->count;
        }
        char *copy = good && out->count < room ? strdup(word.text) : NULL;
        if (!copy) {
            sv_names_free(out);
            SV_CHECK(c, good, SV_BAD_INPUT, "%s, line %d: '%.60s' is no name of a frame: one a line", name,
                     lines.line, word.text);
            return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for its names", name);
        }
        out->data[out->count++] = copy;
    }
    return SV_OK;
}
