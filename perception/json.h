/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing JSON: commas, indentation and escapes are looked after, the caller
 * gives keys and values in order.
 *
 *   sv_json j = sv_json_begin(stream);
 *   sv_json_object(&j, SV_JSON_LINES);                                   {
 *   sv_json_key(&j, "box"); sv_json_array(&j, SV_JSON_INLINE);             "box": [1, 2]
 *   sv_json_int(&j, 1); sv_json_int(&j, 2); sv_json_end(&j);             }
 *   sv_json_end(&j);
 *
 * Write errors stay in the stream: look at ferror() or sv_output_commit().
 */
#ifndef SV_JSON_H
#define SV_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { SV_JSON_DEPTH = 32 };
typedef enum sv_json_style {
    SV_JSON_LINES,
    SV_JSON_INLINE
} sv_json_style; /* inside an inline one everything is inline */

typedef struct sv_json {
    FILE *out;
    int depth;
    bool keyed; /* a key waits for its value */
    struct {
        bool object, lines, filled;
    } level[SV_JSON_DEPTH];
} sv_json;

sv_json sv_json_begin(FILE *out);
void sv_json_object(sv_json *j, sv_json_style style);
void sv_json_array(sv_json *j, sv_json_style style);
void sv_json_end(sv_json *j); /* of the innermost object or array; a newline behind the outermost */
void sv_json_key(sv_json *j, const char *key);
void sv_json_text(sv_json *j, const char *text); /* NULL is null; bytes that are no UTF-8 become U+FFFD */
void sv_json_int(sv_json *j, int64_t value);
void sv_json_float(sv_json *j, float value);   /* reads back to the same float; null when not finite */
void sv_json_double(sv_json *j, double value); /* likewise for doubles */
void sv_json_bool(sv_json *j, bool value);
void sv_json_null(sv_json *j);

/* 'text' in double quotes, for code that writes JSON without the rest. */
void sv_json_quote(FILE *out, const char *text);

#endif
