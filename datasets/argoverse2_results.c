/* SPDX-License-Identifier: Apache-2.0 */
#include "argoverse2_results.h"

#include "argoverse2.h"
#include "object_result.h"
#include "object_submission.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 30, NUMBERS = 11 };

/* Numbers of a row, in the file's order. */
enum number { X, Y, Z, LENGTH, WIDTH, HEIGHT, QW, QX, QY, QZ, SCORE };
static const sv_feather_field fields[] = {{"tx_m", SV_FEATHER_FLOAT},
                                          {"ty_m", SV_FEATHER_FLOAT},
                                          {"tz_m", SV_FEATHER_FLOAT},
                                          {"length_m", SV_FEATHER_FLOAT},
                                          {"width_m", SV_FEATHER_FLOAT},
                                          {"height_m", SV_FEATHER_FLOAT},
                                          {"qw", SV_FEATHER_FLOAT},
                                          {"qx", SV_FEATHER_FLOAT},
                                          {"qy", SV_FEATHER_FLOAT},
                                          {"qz", SV_FEATHER_FLOAT},
                                          {"score", SV_FEATHER_FLOAT},
                                          {"log_id", SV_FEATHER_TEXT},
                                          {"timestamp_ns", SV_FEATHER_INTEGER},
                                          {"category", SV_FEATHER_TEXT}};
enum { FIELDS = sizeof fields / sizeof *fields };

/* ---- reading ------------------------------------------------------------------------------------------ */

/* Columns of a file; malloc'ed. */
typedef struct table {
    double *numbers[NUMBERS];
    int64_t *times;
    sv_feather_text *types, *logs;
} table;

static void free_table(table *t)
{
    for (int k = 0; k < NUMBERS; k++) free(t->numbers[k]);
    free(t->times);
    free(t->types);
    free(t->logs);
}

static sv_status read_table(sv_ctx *c, sv_feather *f, table *t)
{
    const size_t rows = (size_t)f->rows + 1;
    bool good = true;
    for (int k = 0; k < NUMBERS; k++) good &= (t->numbers[k] = malloc(sizeof **t->numbers * rows)) != NULL;
    t->times = malloc(sizeof *t->times * rows);
    t->types = malloc(sizeof *t->types * rows);
    t->logs = malloc(sizeof *t->logs * rows);
    SV_CHECK(c, good && t->times && t->types && t->logs, SV_NO_MEMORY, "%s: no memory for %lld rows", f->name,
             (long long)f->rows);
    for (int k = 0; k < NUMBERS; k++) SV_TRY(sv_feather_floats(c, f, fields[k].name, t->numbers[k]));
    SV_TRY(sv_feather_texts(c, f, "category", t->types));
    SV_TRY(sv_feather_texts(c, f, "log_id", t->logs));
    return sv_feather_integers(c, f, "timestamp_ns", t->times);
}

static sv_status take_row(sv_ctx *c, const sv_evaluator *e, const sv_feather *f, const table *t, int64_t row,
                          sv_object_line *line)
{
    double v[NUMBERS];
    bool good = t->types[row].size < sizeof line->type;
    for (int k = 0; k < NUMBERS; k++) {
        v[k] = t->numbers[k][row];
        good = good && isfinite(v[k]);
    }
    for (int k = LENGTH; k <= HEIGHT; k++) good = good && v[k] > 0;
    SV_CHECK(c, good, SV_BAD_INPUT,
             "%s: row %lld has a value that is not finite, a side that is not greater than 0, or no category",
             f->name, (long long)row);
    const sv_pose pose = sv_pose_from_quaternion(&v[QW], &v[X]);
    *line = (sv_object_line){.box = {.x = (float)v[X],
                                     .y = (float)v[Y],
                                     .z = (float)v[Z],
                                     .dx = (float)v[LENGTH],
                                     .dy = (float)v[WIDTH],
                                     .dz = (float)v[HEIGHT],
                                     .heading = (float)sv_argoverse2_heading(&pose),
                                     .score = (float)v[SCORE]}};
    memcpy(line->type, t->types[row].at, t->types[row].size);
    SV_CHECK(c, sv_object_class_like(e->dataset, line->type) >= 0, SV_BAD_INPUT,
             "%s: row %lld is of the category '%.40s', which the dataset has not", f->name, (long long)row,
             line->type);
    return SV_OK;
}

static sv_status take_rows(sv_ctx *c, const sv_evaluator *e, const sv_feather *f, const table *t,
                           sv_submission *out)
{
    for (int64_t i = 0; i < f->rows; i++) {
        sv_object_line line;
        char id[64];
        SV_TRY(take_row(c, e, f, t, i, &line));
        snprintf(id, sizeof id, "%.*s_%lld", (int)(t->logs[i].size < 63 ? t->logs[i].size : 63),
                 t->logs[i].at, (long long)t->times[i]);
        const int sample = sv_object_submission_sample(e, id, out);
        if (sample >= 0) SV_TRY(sv_object_submission_add(c, out, sample, &line));
    }
    /* one file holds all: a sweep without a row has no detections */
    for (int i = 0; i < sv_dataset_count(e->dataset); i++) out->present[i] = true;
    sv_object_submission_sort(out);
    return SV_OK;
}

sv_status sv_argoverse2_submission_open(sv_ctx *c, const sv_evaluator *e, const char *path,
                                        sv_submission *out)
{
    void *bytes;
    size_t size;
    sv_feather f = {0};
    table t = {0};
    SV_TRY(sv_object_submission_new(c, out));
    SV_TRY(sv_file_read(c, path, FILE_LIMIT, &bytes, &size));
    sv_status status = sv_feather_open(c, path, bytes, size, &f);
    if (status == SV_OK) {
        status = read_table(c, &f, &t);
        if (status == SV_OK) status = take_rows(c, e, &f, &t, out);
        free_table(&t);
        sv_feather_free(&f);
    }
    free(bytes);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

sv_status sv_argoverse2_writer_open(sv_ctx *c, const char *path, sv_feather_writer *out)
{
    return sv_feather_writer_open(c, path, fields, FIELDS, out);
}

sv_status sv_argoverse2_writer_add(sv_ctx *c, sv_feather_writer *writer, const sv_dataset *dataset,
                                   int sample, const char *const *classes, const sv_box *boxes, int count,
                                   int *other_class)
{
    const char *id = sv_dataset_id(dataset, sample);
    char log[64];
    snprintf(log, sizeof log, "%.*s", (int)(strrchr(id, '_') - id), id);
    for (int i = 0; i < count; i++) {
        const sv_box *b = &boxes[i];
        const int k = sv_object_class_like(dataset, classes[b->label - 1]);
        if (k < 0) {
            ++*other_class;
            continue;
        }
        const double half = (double)b->heading / 2;
        const double v[NUMBERS] = {(double)b->x,
                                   (double)b->y,
                                   (double)b->z,
                                   (double)b->dx,
                                   (double)b->dy,
                                   (double)b->dz,
                                   cos(half),
                                   0,
                                   0,
                                   sin(half),
                                   (double)b->score};
        sv_feather_value row[FIELDS];
        for (int n = 0; n < NUMBERS; n++) row[n].number = v[n];
        row[NUMBERS].text = log;
        row[NUMBERS + 1].integer = sv_argoverse2_time(dataset, sample);
        row[NUMBERS + 2].text = sv_dataset_classes(dataset)[k];
        SV_TRY(sv_feather_writer_add(c, writer, row));
    }
    return SV_OK;
}
