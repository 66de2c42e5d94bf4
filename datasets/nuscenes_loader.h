/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files that read nuScenes' tables share: nuscenes_rows.c reads rows, nuscenes_links.c keeps what
 * samples point to, nuscenes_tables.c says which tables there are. The order in which they are read stands
 * there.
 */
#ifndef SV_NUSCENES_LOADER_H
#define SV_NUSCENES_LOADER_H

#include "dataset_type.h"
#include "nuscenes.h"

#include <stddef.h>

enum { SV_NUSCENES_PATH = 1300 };

/* ---- a row -------------------------------------------------------------------------------------------- */

typedef enum kind { TEXT, TEXTS, INTEGER, FLAG, NUMBERS, MATRIX } kind;

/* A list of texts: how many, and the first. */
typedef struct texts {
    sv_json_span first;
    int count;
} texts;
typedef struct matrix {
    double value[9];
    bool empty;
} matrix;

typedef struct field {
    const char *name;
    size_t letters;
    kind kind;
    size_t offset; /* in 'row' */
    int count;     /* of NUMBERS */
} field;

/* All fields of all tables that are used. */
typedef struct row {
    sv_json_span token, name, scene, sample, category, instance, sensor, channel, calibration, pose, previous,
        next, file;
    texts attributes;
    int64_t time, width, height, lidar_points, radar_points;
    bool key;
    double translation[3], size[3], rotation[4];
    matrix intrinsic;
} row;

#define FIELD(name, kind, member, count)                                                                     \
    {                                                                                                        \
        name, sizeof name - 1, kind, offsetof(row, member), count                                            \
    }

/* ---- the loader --------------------------------------------------------------------------------------- */

/* What is needed only while reading. */
typedef struct loader {
    sv_nuscenes_tables *t;
    const sv_nuscenes_tables_def *def;
    const sv_nuscenes_split *split; /* NULL: every scene */
    const char *path;               /* of the table at work */
    const field *fields;
    int field_count;
    row row;
    int64_t number;

    sv_nuscenes_index scenes, samples, categories, attributes, instances, sensors, calibrations, data, poses,
        annotations;
    int *sensor_channels;
    signed char *attribute_names;
    int *category_classes, *instance_categories;
    sv_nuscenes_token *instance_tokens;
    sv_nuscenes_token *data_previous; /* of the kept rows of sample_data, as the next */
    sv_nuscenes_token *data_pose;
    int32_t *same_pose;            /* the next row with the same pose; -1 */
    sv_nuscenes_token *neighbours; /* of annotations: previous, next */
    sv_nuscenes_sample *all_samples;
    int all_sample_count, sensor_count, attribute_count, instance_count, chosen_scenes;
    int32_t *sample_numbers; /* of all samples: the number of a chosen one; -1 */
    size_t name_bytes, name_room;
} loader;

/* Every row of a table: into l->row, then 'take'. */
sv_status sv_nuscenes_rows_read(sv_ctx *c, loader *l, const char *name, const field *fields, int count,
                                sv_status (*take)(sv_ctx *c, void *user, int64_t row));
#define READ_TABLE(c, l, name, fields, take)                                                                 \
    sv_nuscenes_rows_read(c, l, name, fields, (int)(sizeof(fields) / sizeof *(fields)), take)
/* Room for one more in an array that doubles. */
sv_status sv_nuscenes_rows_room(sv_ctx *c, loader *l, void *pointer, int count, size_t size);
sv_status sv_nuscenes_row_token(sv_ctx *c, const loader *l, int64_t number, const char *what,
                                sv_json_span text, bool may_be_none, sv_nuscenes_token *out);
/* The entry's own token, new in 'index'. */
sv_status sv_nuscenes_row_add(sv_ctx *c, loader *l, int64_t number, sv_nuscenes_index *index, int as,
                              sv_nuscenes_token *out);
/* What another table has under a token. */
sv_status sv_nuscenes_row_follow(sv_ctx *c, const loader *l, int64_t number, const char *what,
                                 sv_json_span text, const sv_nuscenes_index *index, const char *table,
                                 int *out);
sv_status sv_nuscenes_row_finite(sv_ctx *c, const loader *l, int64_t number, const char *what,
                                 const double *value, int count);
sv_status sv_nuscenes_row_rotation(sv_ctx *c, const loader *l, int64_t number);
sv_status sv_nuscenes_row_name(sv_ctx *c, const loader *l, int64_t number, const char *what,
                               sv_json_span text, char *out, size_t size);

/* ---- nuscenes_links.c --------------------------------------------------------------------------------- */

/* Rows of sample_data and ego_pose that chosen samples need, then what they point to. */
sv_status sv_nuscenes_take_data(sv_ctx *c, void *user, int64_t number);
sv_status sv_nuscenes_take_pose(sv_ctx *c, void *user, int64_t number);
/* Poses are all there, sweeps know the ones before them, samples have their LiDAR. */
sv_status sv_nuscenes_link_data(sv_ctx *c, loader *l);
/* The same of annotations. */
sv_status sv_nuscenes_take_annotation(sv_ctx *c, void *user, int64_t number);
/* By sample, each in the table's order, with velocities. */
sv_status sv_nuscenes_link_annotations(sv_ctx *c, loader *l);

#endif
