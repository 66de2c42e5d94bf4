/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading JSON that is too large for a tree: the caller asks for what should come next and gets it, nothing
 * is allocated. Numbers are rounded correctly to doubles in every locale; NaN, Infinity and -Infinity are
 * read as Python writes them, and it is the caller's business to refuse them.
 *
 *     sv_json_scan s = sv_json_scan_begin(bytes, size, true);
 *     sv_json_span key;
 *     double x[3];
 *     if (sv_json_open(&s, '{'))
 *         while (sv_json_next_key(&s, &key))
 *             if (sv_json_span_is(key, "centre")) sv_json_numbers(&s, x, 3); else sv_json_skip(&s);
 *     if (s.state != SV_JSON_GOOD) ...
 *
 * After the first problem every function returns false and changes nothing. A scan of part of a file ends with
 * SV_JSON_SHORT where the part ends: read more and begin the value again.
 */
#ifndef SV_JSON_SCAN_H
#define SV_JSON_SCAN_H

#include "perception/core/context.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SV_JSON_SCAN_DEPTH = 32 };

typedef enum sv_json_state {
    SV_JSON_GOOD,
    SV_JSON_SHORT, /* the bytes end in the middle of a value */
    SV_JSON_WRONG
} sv_json_state;

typedef struct sv_json_scan {
    const char *begin, *at, *end;
    sv_json_state state;
    const char *problem; /* of SV_JSON_WRONG: "a comma or ] is missing" */
    int depth;
    uint32_t filled; /* a bit per depth: something came before */
    bool whole;      /* nothing follows behind 'end' */
} sv_json_scan;

/* A text between its quotes, as it stands in the file. */
typedef struct sv_json_span {
    const char *at;
    size_t size;
    bool escaped; /* it holds backslashes */
} sv_json_span;

sv_json_scan sv_json_scan_begin(const void *bytes, size_t size, bool whole);
bool sv_json_open(sv_json_scan *s, char bracket); /* '{' or '[' */
/* The next key of the open object, or the next element of the open array; false behind the last one, which closes
 * it, and after a problem. */
bool sv_json_next_key(sv_json_scan *s, sv_json_span *key);
bool sv_json_next(sv_json_scan *s);

bool sv_json_read_text(sv_json_scan *s, sv_json_span *out);
bool sv_json_read_number(sv_json_scan *s, double *out);
bool sv_json_read_integer(sv_json_scan *s, int64_t *out);
bool sv_json_read_bool(sv_json_scan *s, bool *out);
/* A list of exactly 'count' numbers. */
bool sv_json_numbers(sv_json_scan *s, double *out, int count);
bool sv_json_skip(sv_json_scan *s);   /* any value */
char sv_json_peek(sv_json_scan *s);   /* the first byte of the next value; 0 at the end */
bool sv_json_at_end(sv_json_scan *s); /* nothing but space is left */
/* For what the caller finds wrong. */
void sv_json_wrong(sv_json_scan *s, const char *problem);

static inline bool sv_json_span_is(sv_json_span span, const char *text)
{
    return strlen(text) == span.size && memcmp(text, span.at, span.size) == 0;
}
/* The text without escapes, cut to fit. False when it was cut or its escapes are wrong. */
bool sv_json_span_copy(sv_json_span span, char *out, size_t room);

/* ---- files that are one long array -------------------------------------------------------------------- */

typedef struct sv_json_rows {
    const char *path;
    void *user;
    /* Read one value. May be called several times for the same row, when it straddles what is in memory: so it
     * writes to its own place only. */
    void (*read)(sv_json_scan *s, void *user);
    /* The row that was read. A failure ends the reading; row numbers count from 0. */
    sv_status (*take)(sv_ctx *c, void *user, int64_t row);
} sv_json_rows;

/* Every value of the array that the file holds, in order, with bounded memory. */
sv_status sv_json_read_rows(sv_ctx *c, const sv_json_rows *rows);

#endif
