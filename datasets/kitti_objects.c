/* SPDX-License-Identifier: Apache-2.0
 *
 * Labels, results and lists of names.
 *
 *   type truncated occluded alpha x1 y1 x2 y2 h w l x y z ry [score]
 *
 * Of a region nobody labelled only the image box is known:
 *   DontCare -1 -1 -10 x1 y1 x2 y2 -1 -1 -1 -1000 -1000 -1000 -10
 */
#include "kitti.h"

#include "kitti_text.h"
#include "perception/core/file.h"
#include "perception/core/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 15 }; /* behind the type, with the score */

static const char *const columns[NUMBERS] = {"truncated", "occluded", "alpha", "x1", "y1", "x2", "y2",   "h",
                                             "w",         "l",        "x",     "y",  "z",  "ry", "score"};

/* Room for one more of 'size' bytes each in an array that doubles. */
static void *grow(void *data, int count, size_t size)
{
    if (count > 0 && (count & (count - 1)) != 0) return data;
    return realloc(data, size * (size_t)(count > 0 ? 2 * count : 1));
}

static sv_status parse_line(sv_ctx *c, sv_kitti_lines *lines, bool with_score, sv_kitti_object *out)
{
    sv_kitti_word word;
    double v[NUMBERS] = {0};
    int count = 0;
    sv_kitti_next_word(lines, &word);
    SV_CHECK(c, word.length < sizeof out->type, SV_BAD_INPUT,
             "%s, line %d: a type of %zu letters, '%s...': at most %zu are kept", lines->name, lines->line,
             word.length, word.text, sizeof out->type - 1);
    double number;
    SV_CHECK(c, !sv_kitti_number(&word, &number), SV_BAD_INPUT,
             "%s, line %d: starts with the number %s, a line starts with the type of the object", lines->name,
             lines->line, word.text);
    *out = (sv_kitti_object){0};
    memcpy(out->type, word.text, word.length);
    while (sv_kitti_next_word(lines, &word)) {
        if (count < NUMBERS)
            SV_CHECK(c, sv_kitti_number(&word, &v[count]), SV_BAD_INPUT,
                     "%s, line %d: '%s' (%s) is not a number that such a file can have", lines->name,
                     lines->line, word.text, columns[count]);
        count++;
    }
    const bool fits = count == NUMBERS || (count == NUMBERS - 1 && !with_score);
    SV_CHECK(
        c, fits, SV_BAD_INPUT,
        "%s, line %d: %d columns, a %s has %d (type truncated occluded alpha x1 y1 x2 y2 h w l x y z ry%s)",
        lines->name, lines->line, count + 1, with_score ? "result" : "label", with_score ? 16 : 15,
        with_score ? " score" : ", and may have a score");
    SV_CHECK(c, v[1] >= -1 && v[1] <= 3 && v[1] == nearbyint(v[1]), SV_BAD_INPUT,
             "%s, line %d: %g (occluded) is none of -1, 0, 1, 2, 3", lines->name, lines->line, v[1]);
    out->truncated = v[0];
    out->occluded = (int)v[1];
    out->alpha = v[2];
    out->x1 = v[3], out->y1 = v[4], out->x2 = v[5], out->y2 = v[6];
    out->h = v[7], out->w = v[8], out->l = v[9];
    out->x = v[10], out->y = v[11], out->z = v[12];
    out->ry = v[13];
    out->score = v[14];
    out->has_score = count == NUMBERS;
    return SV_OK;
}

sv_status sv_kitti_parse_objects(sv_ctx *c, const char *text, size_t size, const char *name, bool with_score,
                                 sv_kitti_objects *out)
{
    *out = (sv_kitti_objects){0};
    sv_kitti_objects objects = {0};
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    sv_status status = SV_OK;
    while (status == SV_OK && sv_kitti_next_line(&lines)) {
        sv_kitti_object object;
        status = parse_line(c, &lines, with_score, &object);
        if (status != SV_OK) break;
        sv_kitti_object *grown = grow(objects.data, objects.count, sizeof object);
        if (!grown) {
            status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d objects", name, objects.count + 1);
            break;
        }
        objects.data = grown;
        objects.data[objects.count++] = object;
    }
    if (status == SV_OK)
        *out = objects;
    else
        sv_kitti_free_objects(&objects);
    return status;
}

sv_status sv_kitti_read_objects(sv_ctx *c, const char *path, bool with_score, sv_kitti_objects *out)
{
    *out = (sv_kitti_objects){0};
    void *text;
    size_t size;
    SV_TRY(sv_file_read(c, path, SV_KITTI_TEXT_LIMIT, &text, &size));
    const sv_status status = sv_kitti_parse_objects(c, text, size, path, with_score, out);
    free(text);
    return status;
}

void sv_kitti_free_objects(sv_kitti_objects *objects)
{
    free(objects->data);
    *objects = (sv_kitti_objects){0};
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static void numbers_of(const sv_kitti_object *o, double v[NUMBERS])
{
    const double values[NUMBERS] = {o->truncated, o->occluded, o->alpha, o->x1, o->y1,
                                    o->x2,        o->y2,       o->h,     o->w,  o->l,
                                    o->x,         o->y,        o->z,     o->ry, o->has_score ? o->score : 0};
    memcpy(v, values, sizeof values);
}

/* What would be read back as something else is refused. */
static sv_status check_object(sv_ctx *c, const char *path, int index, const sv_kitti_object *o)
{
    double v[NUMBERS];
    numbers_of(o, v);
    for (int i = 0; i < NUMBERS; i++)
        SV_CHECK(c, fabs(v[i]) <= 1e9, SV_BAD_INPUT, "%s: %s of object %d is %g and was not written", path,
                 columns[i], index, v[i]);
    bool sane = memchr(o->type, '\0', sizeof o->type) != NULL && o->type[0] != '\0';
    for (const char *p = o->type; sane && *p; p++) sane = *p > ' ' && *p <= '~';
    SV_CHECK(c, sane, SV_BAD_INPUT, "%s: the type of object %d, '%.23s', is not one word", path, index,
             o->type);
    SV_CHECK(c, o->occluded >= -1 && o->occluded <= 3, SV_BAD_INPUT,
             "%s: occluded of object %d is %d, none of -1, 0, 1, 2, 3", path, index, o->occluded);
    return SV_OK;
}

/* The marks for "unknown" (-1, -10, -1000) stand without decimals where the official files have them so. */
static void print_label(FILE *to, const sv_kitti_object *o)
{
    const bool unknown = strcmp(o->type, "DontCare") == 0;
    double v[NUMBERS];
    numbers_of(o, v);
    fputs(o->type, to);
    for (int i = 0; i < NUMBERS - 1; i++) {
        const bool mark = i == 1 || (unknown && (v[i] == -1 || v[i] == -10 || v[i] == -1000));
        sv_kitti_print(to, mark ? " %.0f" : " %.2f", v[i]);
    }
    fputc('\n', to);
}

static void print_result(FILE *to, const sv_kitti_object *o)
{
    double v[NUMBERS];
    numbers_of(o, v);
    fputs(o->type, to);
    for (int i = 0; i < NUMBERS; i++) {
        char text[SV_NUMBER_TEXT];
        sv_text_from_float(text, (float)v[i]);
        fprintf(to, " %s", text);
    }
    fputc('\n', to);
}

sv_status sv_kitti_write_objects(sv_ctx *c, const char *path, const sv_kitti_object *objects, int count)
{
    for (int i = 0; i < count; i++) SV_TRY(check_object(c, path, i, &objects[i]));
    sv_output file;
    SV_TRY(sv_output_open(c, &file, path));
    for (int i = 0; i < count; i++)
        if (objects[i].has_score)
            print_result(file.stream, &objects[i]);
        else
            print_label(file.stream, &objects[i]);
    return sv_output_commit(c, &file);
}

/* ---- lists of names ----------------------------------------------------------------------------------- */

/* A name becomes part of a path: one plain word. */
static bool plain_name(const char *text)
{
    if (text[0] == '.') return false;
    return strspn(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.") == strlen(text);
}

static sv_status parse_ids(sv_ctx *c, const char *text, size_t size, const char *name, sv_kitti_ids *ids)
{
    sv_kitti_lines lines = sv_kitti_lines_of(name, text, size);
    sv_kitti_word word, more;
    while (sv_kitti_next_line(&lines)) {
        sv_kitti_next_word(&lines, &word);
        SV_CHECK(c, word.length < sizeof *ids->data && plain_name(word.text), SV_BAD_INPUT,
                 "%s, line %d: '%s' is no name of a frame (letters, digits, '_', '-', '.'; at most %zu)",
                 name, lines.line, word.text, sizeof *ids->data - 1);
        SV_CHECK(c, !sv_kitti_next_word(&lines, &more), SV_BAD_INPUT,
                 "%s, line %d: '%s' behind '%s': one name per line", name, lines.line, more.text, word.text);
        void *grown = grow(ids->data, ids->count, sizeof *ids->data);
        SV_CHECK(c, grown != NULL, SV_NO_MEMORY, "%s: no memory for %d names", name, ids->count + 1);
        ids->data = grown;
        memcpy(ids->data[ids->count++], word.text, word.length + 1);
    }
    return SV_OK;
}

sv_status sv_kitti_parse_ids(sv_ctx *c, const char *text, size_t size, const char *name, sv_kitti_ids *out)
{
    *out = (sv_kitti_ids){0};
    const sv_status status = parse_ids(c, text, size, name, out);
    if (status != SV_OK) sv_kitti_free_ids(out);
    return status;
}

sv_status sv_kitti_read_ids(sv_ctx *c, const char *path, sv_kitti_ids *out)
{
    *out = (sv_kitti_ids){0};
    void *text;
    size_t size;
    SV_TRY(sv_file_read(c, path, SV_KITTI_TEXT_LIMIT, &text, &size));
    const sv_status status = sv_kitti_parse_ids(c, text, size, path, out);
    free(text);
    return status;
}

void sv_kitti_free_ids(sv_kitti_ids *ids)
{
    free(ids->data);
    *ids = (sv_kitti_ids){0};
}
