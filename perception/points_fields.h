/* SPDX-License-Identifier: Apache-2.0
 *
 * What PCD and PLY files have in common: points whose values have names and types. Shared by their readers; nobody else
 * includes this.
 */
#ifndef SV_POINTS_FIELDS_H
#define SV_POINTS_FIELDS_H

#include "points.h"

enum { SV_FIELDS = 64, SV_FIELD_NAME = 40 };

typedef struct sv_point_field {
    char name[SV_FIELD_NAME]; /* cut when longer */
    char kind;                /* 'I' signed, 'U' unsigned, 'F' floating */
    int bytes;                /* of a value: 1, 2, 4, 8 */
    size_t count;             /* values; the first one counts */
    size_t offset;            /* in a binary record of fixed size */
    char list_kind;           /* PLY: of the number before the values; 0: no list */
    int list_bytes;
} sv_point_field;

typedef struct sv_point_fields {
    sv_point_field field[SV_FIELDS];
    int count;
    size_t record; /* bytes of a point in a binary file; 0 with lists */
} sv_point_fields;

/* Points being collected: those with a value that is not finite are dropped and counted. */
typedef struct sv_point_rows {
    sv_points points;
    int field[SV_POINTS_COLUMNS]; /* of each column; -1: zero */
} sv_point_rows;

/*
 * Choose the columns by 'layout' (its first 'least' letters must be there; what lacks behind them becomes zero), or, when
 * it is NULL, by what the file has, and get room for 'count' points. A field that is missing is a sentence that names
 * those there are.
 */
sv_status sv_point_rows_begin(sv_ctx *c, const char *name, const sv_point_fields *fields, const char *layout,
                              int least, size_t count, sv_point_rows *out);
/* One more point, with all columns. */
void sv_point_rows_add(sv_point_rows *rows, const float *values);

/* The value at 'p'; 'swap': it is big-endian. */
float sv_point_value(const unsigned char *p, char kind, int bytes, bool swap);
/* A line's next word in 'text' (not behind 'end'); false at its end. */
typedef struct sv_point_word {
    const char *at;
    size_t length;
} sv_point_word;
bool sv_point_next_word(const char **text, const char *end, sv_point_word *word);
/* The word as a number, NaN and infinities included; false when it is none. */
bool sv_point_number(sv_point_word word, float *out);
bool sv_point_word_is(sv_point_word word, const char *text);
/* A whole number without sign, at most 'most'. */
bool sv_point_whole(sv_point_word word, size_t most, size_t *out);

/* The two readers. 'layout' may be NULL. */
sv_status sv_points_parse_pcd(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                              int least, sv_points *out);
sv_status sv_points_parse_ply(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                              int least, sv_points *out);
bool sv_points_is_pcd(const void *bytes, size_t size);
bool sv_points_is_ply(const void *bytes, size_t size);

#endif
