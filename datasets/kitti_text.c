/* SPDX-License-Identifier: Apache-2.0 */
#include "kitti_text.h"

#include "perception/core/text.h"

#include <locale.h>
#include <math.h>
#include <string.h>

sv_kitti_lines sv_kitti_lines_of(const char *name, const char *text, size_t size)
{
    return (sv_kitti_lines){.name = name, .at = text, .end = text + size};
}

static bool blank(char x)
{
    return x == ' ' || x == '\t' || x == '\r';
}

bool sv_kitti_next_line(sv_kitti_lines *lines)
{
    while (lines->at < lines->end) {
        const char *end = memchr(lines->at, '\n', (size_t)(lines->end - lines->at));
        lines->line_at = lines->at;
        lines->line_end = end ? end : lines->end;
        lines->at = end ? end + 1 : lines->end;
        lines->line++;
        for (const char *p = lines->line_at; p < lines->line_end; p++)
            if (!blank(*p)) return true;
    }
    return false;
}

bool sv_kitti_next_word(sv_kitti_lines *lines, sv_kitti_word *out)
{
    const char *p = lines->line_at, *end = lines->line_end;
    while (p < end && blank(*p)) p++;
    const char *start = p;
    while (p < end && !blank(*p)) p++;
    lines->line_at = p;
    out->length = (size_t)(p - start);
    const size_t kept = out->length < sizeof out->text ? out->length : sizeof out->text - 1;
    for (size_t i = 0; i < kept; i++) out->text[i] = start[i] > ' ' && start[i] <= '~' ? start[i] : '?';
    out->text[kept] = '\0';
    return out->length > 0;
}

bool sv_kitti_number(const sv_kitti_word *word, double *out)
{
    /* the underscores that YAML allows between digits are no part of these files */
    return word->length < sizeof word->text && !strchr(word->text, '_') && sv_text_number(word->text, out) &&
           fabs(*out) <= 1e9;
}

void sv_kitti_print(FILE *to, const char *format, double value)
{
    char text[64];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, format, value);
#pragma GCC diagnostic pop
    const char *local = localeconv()->decimal_point;
    char *point = strcmp(local, ".") == 0 ? NULL : strstr(text, local);
    if (point) {
        *point = '.';
        memmove(point + 1, point + strlen(local), strlen(point + strlen(local)) + 1);
    }
    fputs(text, to);
}
