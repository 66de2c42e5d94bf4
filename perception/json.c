/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include "perception/core/text.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

/* Length of the valid UTF-8 sequence at 'p' (1 to 4), 0 when there is none. */
static int sequence(const unsigned char *p)
{
    if (p[0] < 0x80) return 1;
    const int n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    uint32_t point = p[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        point = point << 6 | (p[i] & 0x3fu);
    }
    /* too long for its value, half of a surrogate pair, beyond Unicode */
    if ((n == 3 && point < 0x800) || (n == 4 && (point < 0x10000 || point > 0x10ffff)) ||
        (point >= 0xd800 && point < 0xe000))
        return 0;
    return n;
}

void sv_json_quote(FILE *out, const char *text)
{
    putc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        const int n = sequence(p);
        if (n == 0) {
            fputs("\\ufffd", out);
            p++;
            continue;
        }
        if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else if (*p == '\n')
            fputs("\\n", out);
        else if (*p == '\t')
            fputs("\\t", out);
        else if (*p < 0x20 || *p == 0x7f)
            fprintf(out, "\\u%04x", *p);
        else
            fwrite(p, 1, (size_t)n, out);
        p += n;
    }
    putc('"', out);
}

sv_json sv_json_begin(FILE *out)
{
    return (sv_json){.out = out};
}

static void new_line(sv_json *j)
{
    putc('\n', j->out);
    for (int i = 0; i < j->depth; i++) fputs("  ", j->out);
}

/* What stands between the last value and the next one. */
static void separate(sv_json *j)
{
    if (j->keyed || j->depth == 0) {
        j->keyed = false;
        return;
    }
    const int top = j->depth - 1;
    if (j->level[top].filled) putc(',', j->out);
    if (j->level[top].lines)
        new_line(j);
    else if (j->level[top].filled)
        putc(' ', j->out);
    j->level[top].filled = true;
}

static void open_level(sv_json *j, bool object, sv_json_style style)
{
    assert(j->depth < SV_JSON_DEPTH);
    assert(j->depth == 0 || !j->level[j->depth - 1].object || j->keyed);
    separate(j);
    const bool lines = style == SV_JSON_LINES && (j->depth == 0 || j->level[j->depth - 1].lines);
    putc(object ? '{' : '[', j->out);
    j->level[j->depth].object = object;
    j->level[j->depth].lines = lines;
    j->level[j->depth].filled = false;
    j->depth++;
}

void sv_json_object(sv_json *j, sv_json_style style)
{
    open_level(j, true, style);
}
void sv_json_array(sv_json *j, sv_json_style style)
{
    open_level(j, false, style);
}

void sv_json_end(sv_json *j)
{
    assert(j->depth > 0 && !j->keyed);
    j->depth--;
    if (j->level[j->depth].lines && j->level[j->depth].filled) new_line(j);
    putc(j->level[j->depth].object ? '}' : ']', j->out);
    if (j->depth == 0) putc('\n', j->out);
}

void sv_json_key(sv_json *j, const char *key)
{
    assert(j->depth > 0 && j->level[j->depth - 1].object && !j->keyed);
    separate(j);
    sv_json_quote(j->out, key);
    fputs(": ", j->out);
    j->keyed = true;
}

void sv_json_text(sv_json *j, const char *text)
{
    separate(j);
    if (text)
        sv_json_quote(j->out, text);
    else
        fputs("null", j->out);
}

void sv_json_int(sv_json *j, int64_t value)
{
    separate(j);
    fprintf(j->out, "%" PRId64, value);
}

void sv_json_float(sv_json *j, float value)
{
    char text[SV_NUMBER_TEXT] = "null";
    separate(j);
    if (isfinite(value)) sv_text_from_float(text, value);
    fputs(text, j->out);
}

void sv_json_double(sv_json *j, double value)
{
    char text[SV_NUMBER_TEXT] = "null";
    separate(j);
    if (isfinite(value)) sv_text_from_double(text, value);
    fputs(text, j->out);
}

void sv_json_bool(sv_json *j, bool value)
{
    separate(j);
    fputs(value ? "true" : "false", j->out);
}

void sv_json_null(sv_json *j)
{
    separate(j);
    fputs("null", j->out);
}
