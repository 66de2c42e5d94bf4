/* SPDX-License-Identifier: Apache-2.0 */
#include "object_text.h"

#include "perception/core/file.h"
#include "perception/core/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NUMBERS = 10 };

bool sv_object_line_counts(const sv_kitti_lines *lines)
{
    const char *p = lines->line_at;
    while (p < lines->line_end && (*p == ' ' || *p == '\t')) p++;
    return p < lines->line_end && *p != '#';
}

sv_status sv_object_line_parse(sv_ctx *c, sv_kitti_lines *lines, bool result, sv_object_line *out)
{
    const char *form =
        result ? "CLASS score x y z dx dy dz heading [vx vy]" : "CLASS x y z dx dy dz heading [vx vy]";
    const int least = result ? 8 : 7;
    sv_kitti_word word;
    double v[MOST_NUMBERS] = {0}, number;
    int count = 0;
    sv_kitti_next_word(lines, &word);
    SV_CHECK(c, word.length < sizeof out->type && !sv_kitti_number(&word, &number), SV_BAD_INPUT,
             "%s, line %d: '%.40s' is no name of a class (at most %zu letters): a line is %s", lines->name,
             lines->line, word.text, sizeof out->type - 1, form);
    *out = (sv_object_line){0};
    memcpy(out->type, word.text, word.length);
    for (; sv_kitti_next_word(lines, &word); count++)
        if (count < MOST_NUMBERS)
            SV_CHECK(c, sv_kitti_number(&word, &v[count]), SV_BAD_INPUT,
                     "%s, line %d: '%.40s' is no number: a line is %s", lines->name, lines->line, word.text,
                     form);
    SV_CHECK(c, count == least || count == least + 2, SV_BAD_INPUT,
             "%s, line %d: %d numbers behind the class, not %d or %d: a line is %s", lines->name, lines->line,
             count, least, least + 2, form);
    const double *b = v + (result ? 1 : 0);
    SV_CHECK(c, b[3] > 0 && b[4] > 0 && b[5] > 0, SV_BAD_INPUT,
             "%s, line %d: the size %g x %g x %g: length, width and height are greater than 0", lines->name,
             lines->line, b[3], b[4], b[5]);
    out->box = (sv_box){.x = (float)b[0],
                        .y = (float)b[1],
                        .z = (float)b[2],
                        .dx = (float)b[3],
                        .dy = (float)b[4],
                        .dz = (float)b[5],
                        .heading = (float)b[6],
                        .score = result ? (float)v[0] : 0};
    out->has_velocity = count == least + 2;
    if (out->has_velocity) out->box.vx = (float)b[7], out->box.vy = (float)b[8];
    return SV_OK;
}

sv_status sv_object_lines_parse(sv_ctx *c, const char *name, const char *text, size_t size, bool result,
                                sv_object_lines *out)
{
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    int room = 0;
    sv_status status = SV_OK;
    *out = (sv_object_lines){0};
    while (status == SV_OK && sv_kitti_next_line(&lines)) {
        if (!sv_object_line_counts(&lines)) continue;
        if (out->count == room) {
            room = room ? 2 * room : 16;
            void *grown = realloc(out->data, sizeof *out->data * (size_t)room);
            if (!grown) {
                status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d objects", name, room);
                break;
            }
            out->data = grown;
        }
        status = sv_object_line_parse(c, &lines, result, &out->data[out->count]);
        out->count += status == SV_OK;
    }
    if (status != SV_OK) sv_object_lines_free(out);
    return status;
}

sv_status sv_object_lines_read(sv_ctx *c, const char *path, bool result, sv_object_lines *out)
{
    void *text;
    size_t size;
    *out = (sv_object_lines){0};
    SV_TRY(sv_file_read(c, path, SV_KITTI_TEXT_LIMIT, &text, &size));
    const sv_status status = sv_object_lines_parse(c, path, text, size, result, out);
    free(text);
    return status;
}

void sv_object_lines_free(sv_object_lines *lines)
{
    free(lines->data);
    *lines = (sv_object_lines){0};
}

sv_status sv_object_lines_write(sv_ctx *c, const char *path, const sv_object_line *lines, int count)
{
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    for (int i = 0; i < count; i++) {
        const sv_box *b = &lines[i].box;
        const float numbers[MOST_NUMBERS] = {b->score, b->x,  b->y,       b->z,  b->dx,
                                             b->dy,    b->dz, b->heading, b->vx, b->vy};
        fputs(lines[i].type, output.stream);
        for (int k = 0; k < (lines[i].has_velocity ? MOST_NUMBERS : MOST_NUMBERS - 2); k++) {
            char text[SV_NUMBER_TEXT];
            sv_text_from_float(text, numbers[k]);
            fprintf(output.stream, " %s", text);
        }
        fputc('\n', output.stream);
    }
    const sv_status status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}
