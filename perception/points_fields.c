/* SPDX-License-Identifier: Apache-2.0 */
#include "points_fields.h"

#include "perception/core/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Names that stand for a column, most exact first. Case does not matter. A time must be a lag, not a clock. */
static const struct {
    char letter;
    const char *names[8];
} known[] = {{'x', {"x"}},
             {'y', {"y"}},
             {'z', {"z"}},
             {'i',
              {"intensity", "i", "reflectivity", "reflectance", "remission", "scalar_intensity",
               "scalar_reflectance"}},
             {'r', {"ring", "laser", "laser_id", "scalar_ring"}},
             {'t', {"time_lag", "lag"}},
             {'e', {"elongation"}}};
enum { KNOWN = sizeof known / sizeof *known, NAMES = 8 };

/* Number of the field that stands for 'letter', or -1. Lists are no columns. */
static int find_field(const sv_point_fields *fields, char letter)
{
    for (int k = 0; k < KNOWN; k++) {
        if (known[k].letter != letter) continue;
        for (int n = 0; n < NAMES && known[k].names[n]; n++)
            for (int i = 0; i < fields->count; i++)
                if (!fields->field[i].list_kind && strcasecmp(fields->field[i].name, known[k].names[n]) == 0)
                    return i;
    }
    return -1;
}

static sv_status missing(sv_ctx *c, const char *name, const sv_point_fields *fields, char letter)
{
    char names[256] = "", has[256] = "";
    for (int k = 0; k < KNOWN; k++)
        for (int n = 0; known[k].letter == letter && n < NAMES && known[k].names[n]; n++) {
            const size_t used = strlen(names);
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", known[k].names[n]);
        }
    for (int i = 0; i < fields->count; i++) {
        const size_t used = strlen(has);
        snprintf(has + used, sizeof has - used, "%s%s", used ? " " : "", fields->field[i].name);
    }
    return SV_FAIL(c, SV_BAD_INPUT, "%s: no field is named %s; the file has: %s", name, names, has);
}

/* x y z, then the intensity, then one of ring, time lag and elongation, where they are. */
static void layout_of(const sv_point_fields *fields, char out[SV_POINTS_COLUMNS + 1])
{
    int n = 3;
    memcpy(out, "xyz", 4);
    if (find_field(fields, 'i') < 0) return;
    out[n++] = 'i';
    for (const char *letter = "rte"; *letter && n == 4; letter++)
        if (find_field(fields, *letter) >= 0) out[n++] = *letter;
    out[n] = '\0';
}

sv_status sv_point_rows_begin(sv_ctx *c, const char *name, const sv_point_fields *fields, const char *layout,
                              int least, size_t count, sv_point_rows *out)
{
    *out = (sv_point_rows){.points = {0}};
    char *letters = out->points.layout;
    if (layout)
        snprintf(letters, sizeof out->points.layout, "%.*s", (int)strcspn(layout, ":"), layout);
    else
        layout_of(fields, letters);
    const int columns = (int)strlen(letters);
    for (int k = 0; k < columns; k++) {
        out->field[k] = find_field(fields, letters[k]);
        if (out->field[k] < 0 && (k < least || !layout)) return missing(c, name, fields, letters[k]);
    }
    SV_CHECK(c, count <= SV_POINTS_MAX, SV_BAD_INPUT, "%s: %zu points, at most %d are read", name, count,
             SV_POINTS_MAX);
    out->points.columns = columns;
    out->points.data = malloc((count ? count : 1) * (size_t)columns * sizeof(float));
    SV_CHECK(c, out->points.data, SV_NO_MEMORY, "%s: no memory for %zu points", name, count);
    return SV_OK;
}

void sv_point_rows_add(sv_point_rows *rows, const float *values)
{
    sv_points *p = &rows->points;
    bool finite = true;
    for (int k = 0; k < p->columns; k++) finite = finite && isfinite(values[k]);
    if (!finite) {
        p->dropped++;
        return;
    }
    memcpy(p->data + (size_t)p->count * (size_t)p->columns, values, sizeof(float) * (size_t)p->columns);
    p->count++;
}

float sv_point_value(const unsigned char *p, char kind, int bytes, bool swap)
{
    uint64_t bits = 0;
    for (int i = 0; i < bytes; i++) bits |= (uint64_t)p[swap ? bytes - 1 - i : i] << (8 * i);
    if (kind == 'F' && bytes == 8) {
        double d;
        memcpy(&d, &bits, sizeof d);
        return (float)d; /* too large for float: infinite, and dropped */
    }
    if (kind == 'F') {
        const uint32_t low = (uint32_t)bits;
        float f;
        memcpy(&f, &low, sizeof f);
        return f;
    }
    if (kind == 'U') return (float)bits;
    const uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    return (float)((int64_t)(bits ^ sign) - (int64_t)sign);
}

bool sv_point_next_word(const char **text, const char *end, sv_point_word *word)
{
    const char *p = *text;
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r')) p++;
    word->at = p;
    while (p < end && *p != ' ' && *p != '\t' && *p != '\r') p++;
    word->length = (size_t)(p - word->at);
    *text = p;
    return word->length > 0;
}

bool sv_point_word_is(sv_point_word word, const char *text)
{
    return strlen(text) == word.length && memcmp(word.at, text, word.length) == 0;
}

bool sv_point_number(sv_point_word word, float *out)
{
    char text[64];
    if (word.length == 0 || word.length >= sizeof text) return false;
    memcpy(text, word.at, word.length);
    text[word.length] = '\0';
    double value = 0;
    if (!strchr(text, '_') && sv_text_number(text, &value)) {
        *out = (float)value;
        return true;
    }
    const char *plain = text[0] == '-' || text[0] == '+' ? text + 1 : text;
    if (strcasecmp(plain, "nan") != 0 && strcasecmp(plain, "inf") != 0 && strcasecmp(plain, "infinity") != 0)
        return false;
    *out = NAN; /* dropped all the same */
    return true;
}

bool sv_point_whole(sv_point_word word, size_t most, size_t *out)
{
    size_t value = 0;
    if (word.length == 0) return false;
    for (size_t i = 0; i < word.length; i++) {
        if (word.at[i] < '0' || word.at[i] > '9') return false;
        const size_t digit = (size_t)(word.at[i] - '0');
        if (value > (most - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *out = value;
    return value <= most;
}
