/* SPDX-License-Identifier: Apache-2.0 */
#include "nuscenes_loader.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 1 << 28 };

/* ---- reading a row ------------------------------------------------------------------------------------ */

static bool read_texts(sv_json_scan *s, texts *out)
{
    sv_json_span span;
    *out = (texts){.count = 0};
    if (!sv_json_open(s, '[')) return false;
    while (sv_json_next(s))
        if (sv_json_read_text(s, &span) && out->count++ == 0) out->first = span;
    return s->state == SV_JSON_GOOD;
}

/* [] or three rows of three */
static bool read_matrix(sv_json_scan *s, matrix *out)
{
    int rows = 0;
    double more[3];
    if (!sv_json_open(s, '[')) return false;
    while (sv_json_next(s)) {
        sv_json_numbers(s, rows < 3 ? out->value + 3 * rows : more, 3);
        rows++;
    }
    out->empty = rows == 0;
    if (s->state == SV_JSON_GOOD && rows != 0 && rows != 3) sv_json_wrong(s, "a matrix has not three rows");
    return s->state == SV_JSON_GOOD;
}

static void read_field(sv_json_scan *s, const field *f, row *r)
{
    void *to = (char *)r + f->offset;
    switch (f->kind) {
    case TEXT:
        sv_json_read_text(s, to);
        break;
    case TEXTS:
        read_texts(s, to);
        break;
    case INTEGER:
        sv_json_read_integer(s, to);
        break;
    case FLAG:
        sv_json_read_bool(s, to);
        break;
    case NUMBERS:
        sv_json_numbers(s, to, f->count);
        break;
    case MATRIX:
        read_matrix(s, to);
    }
}

/* ---- the loader --------------------------------------------------------------------------------------- */

static bool is_field(sv_json_span key, const field *f)
{
    return key.size == f->letters && memcmp(key.at, f->name, f->letters) == 0;
}

static void read_fields(sv_json_scan *s, void *user)
{
    loader *l = user;
    sv_json_span key;
    uint32_t seen = 0;
    int expected = 0; /* records have their fields in the same order */
    memset(&l->row, 0, sizeof l->row);
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        int i = expected;
        if (i >= l->field_count || !is_field(key, &l->fields[i]))
            for (i = 0; i < l->field_count && !is_field(key, &l->fields[i]); i++) {
            }
        if (i == l->field_count) {
            sv_json_skip(s);
            continue;
        }
        if (seen & 1u << i) {
            sv_json_wrong(s, "a field stands twice");
            return;
        }
        seen |= 1u << i;
        expected = i + 1;
        read_field(s, &l->fields[i], &l->row);
    }
    if (s->state == SV_JSON_GOOD && seen != (1u << l->field_count) - 1)
        for (int i = 0; i < l->field_count; i++)
            if (!(seen & 1u << i)) {
                static _Thread_local char text[80];
                snprintf(text, sizeof text, "the field \"%s\" is missing", l->fields[i].name);
                sv_json_wrong(s, text);
            }
}

sv_status sv_nuscenes_rows_read(sv_ctx *c, loader *l, const char *name, const field *fields, int count,
                                sv_status (*take)(sv_ctx *c, void *user, int64_t row))
{
    char path[SV_NUSCENES_PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s.json", l->t->folder, name));
    l->path = path;
    l->fields = fields;
    l->field_count = count;
    const sv_json_rows rows = {.path = path, .user = l, .read = read_fields, .take = take};
    const sv_status status = sv_json_read_rows(c, &rows);
    l->path = NULL;
    return status;
}
sv_status sv_nuscenes_rows_room(sv_ctx *c, loader *l, void *pointer, int count, size_t size)
{
    void **data = pointer;
    SV_CHECK(c, count < MOST_ROWS, SV_BAD_INPUT, "%s: more than %d entries", l->path, MOST_ROWS);
    if (count > 0 && (count < 64 || (count & (count - 1)) != 0)) return SV_OK;
    void *grown = realloc(*data, size * (size_t)(count > 0 ? 2 * count : 64));
    SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d entries", l->path, count + 1);
    *data = grown;
    return SV_OK;
}

sv_status sv_nuscenes_row_token(sv_ctx *c, const loader *l, int64_t number, const char *what,
                                sv_json_span text, bool may_be_none, sv_nuscenes_token *out)
{
    if (sv_nuscenes_token_parse(text.at, text.size, out) && (may_be_none || text.size > 0)) return SV_OK;
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: entry %lld has the %s '%.*s', which is no token of 32 hexadecimal digits", l->path,
                   (long long)number, what, text.size < 40 ? (int)text.size : 40, text.at);
}

sv_status sv_nuscenes_row_add(sv_ctx *c, loader *l, int64_t number, sv_nuscenes_index *index, int as,
                              sv_nuscenes_token *out)
{
    SV_TRY(sv_nuscenes_row_token(c, l, number, "token", l->row.token, false, out));
    const int32_t there = sv_nuscenes_index_add(index, *out, as);
    SV_CHECK(c, there >= 0, SV_NO_MEMORY, "%s: no memory for %d entries", l->path, as + 1);
    SV_CHECK(c, there == as, SV_BAD_INPUT, "%s: the token %.*s stands twice, again in entry %lld", l->path,
             (int)l->row.token.size, l->row.token.at, (long long)number);
    return SV_OK;
}

sv_status sv_nuscenes_row_follow(sv_ctx *c, const loader *l, int64_t number, const char *what,
                                 sv_json_span text, const sv_nuscenes_index *index, const char *table,
                                 int *out)
{
    sv_nuscenes_token token;
    SV_TRY(sv_nuscenes_row_token(c, l, number, what, text, false, &token));
    *out = sv_nuscenes_index_find(index, token);
    SV_CHECK(c, *out >= 0, SV_BAD_INPUT,
             "%s: entry %lld (token %.*s) has the %s %.*s, which is not in %s.json: the tables do not belong "
             "together or one is cut off",
             l->path, (long long)number, l->row.token.size < 40 ? (int)l->row.token.size : 40,
             l->row.token.at, what, (int)text.size, text.at, table);
    return SV_OK;
}

sv_status sv_nuscenes_row_finite(sv_ctx *c, const loader *l, int64_t number, const char *what,
                                 const double *value, int count)
{
    for (int i = 0; i < count; i++)
        SV_CHECK(c, isfinite(value[i]) && fabs(value[i]) < 1e12, SV_BAD_INPUT,
                 "%s: entry %lld (token %.*s): the %s holds %g, which is no place in the world", l->path,
                 (long long)number, l->row.token.size < 40 ? (int)l->row.token.size : 40, l->row.token.at,
                 what, value[i]);
    return SV_OK;
}

sv_status sv_nuscenes_row_rotation(sv_ctx *c, const loader *l, int64_t number)
{
    const double *q = l->row.rotation, n = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
    SV_TRY(sv_nuscenes_row_finite(c, l, number, "rotation", q, 4));
    SV_CHECK(c, n > 0.25 && n < 4, SV_BAD_INPUT,
             "%s: entry %lld (token %.*s): the rotation is no unit quaternion (w, x, y, z)", l->path,
             (long long)number, (int)l->row.token.size, l->row.token.at);
    return SV_OK;
}

sv_status sv_nuscenes_row_name(sv_ctx *c, const loader *l, int64_t number, const char *what,
                               sv_json_span text, char *out, size_t size)
{
    SV_CHECK(c, text.size > 0 && sv_json_span_copy(text, out, size), SV_BAD_INPUT,
             "%s: entry %lld has a %s of %zu letters; 1 to %zu are expected", l->path, (long long)number,
             what, text.size, size - 1);
    return SV_OK;
}
