/* SPDX-License-Identifier: Apache-2.0 */
#include "text.h"

#include <assert.h>
#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool digit(char x)
{
    return x >= '0' && x <= '9';
}

/* Copy without '_' between digits; false when too long for any sensible number. */
static bool plain_digits(const char *text, char *out, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; text[i]; i++) {
        if (text[i] == '_' && i > 0 && isxdigit((unsigned char)text[i - 1]) &&
            isxdigit((unsigned char)text[i + 1]))
            continue;
        if (n + 1 >= room) return false;
        out[n++] = text[i];
    }
    out[n] = '\0';
    return true;
}

bool sv_text_number(const char *text, double *out)
{
    char buffer[128];
    if (!plain_digits(text, buffer, sizeof buffer - 8)) return false;
    const char *p = buffer;
    char *point = NULL;
    int digits = 0;
    if (*p == '+' || *p == '-') p++;
    for (; digit(*p); p++) digits++;
    if (*p == '.') point = buffer + (p++ - buffer);
    for (; digit(*p); p++) digits++;
    if (digits == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') p++;
        if (!digit(*p)) return false;
        while (digit(*p)) p++;
    }
    if (*p != '\0') return false;
    /* strtod() wants the point of the process's locale, which may be a comma. */
    const char *local = localeconv()->decimal_point;
    const size_t length = strlen(local);
    if (point && length >= 1 && length <= 8 && strcmp(local, ".") != 0) {
        memmove(point + length, point + 1, strlen(point + 1) + 1);
        memcpy(point, local, length);
    }
    const double value = strtod(buffer, NULL);
    if (!isfinite(value)) return false;
    *out = value;
    return true;
}

bool sv_text_integer(const char *text, int64_t *out)
{
    char buffer[64];
    if (!plain_digits(text, buffer, sizeof buffer)) return false;
    const char *p = buffer;
    const bool negative = *p == '-';
    if (*p == '+' || *p == '-') p++;
    const bool hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    if (hex) p += 2;
    if (*p == '\0' || (!hex && p[0] == '0' && p[1] != '\0')) return false;
    uint64_t value = 0;
    for (; *p; p++) {
        if (hex ? !isxdigit((unsigned char)*p) : !digit(*p)) return false;
        const unsigned next =
            digit(*p) ? (unsigned)(*p - '0') : (unsigned)(tolower((unsigned char)*p) - 'a' + 10);
        if (value > (uint64_t)INT64_MAX / (hex ? 16 : 10)) return false;
        value = value * (hex ? 16 : 10) + next;
        if (value > (uint64_t)INT64_MAX) return false;
    }
    *out = negative ? -(int64_t)value : (int64_t)value;
    return true;
}

static int from_number(char out[SV_NUMBER_TEXT], double value, int digits)
{
    assert(isfinite(value));
    char buffer[48];
    int n = snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    const char *local = localeconv()->decimal_point;
    char *point = strcmp(local, ".") == 0 ? NULL : strstr(buffer, local);
    if (point) {
        const size_t length = strlen(local);
        *point = '.';
        memmove(point + 1, point + length, strlen(point + length) + 1);
        n -= (int)length - 1;
    }
    assert(n < SV_NUMBER_TEXT); /* -1.2345678901234567e-308 has 24 letters */
    memcpy(out, buffer, (size_t)n + 1);
    return n;
}

int sv_text_from_float(char out[SV_NUMBER_TEXT], float value)
{
    return from_number(out, (double)value, 9);
}

int sv_text_from_double(char out[SV_NUMBER_TEXT], double value)
{
    return from_number(out, value, 17);
}

int sv_text_distance(const char *a, const char *b, int limit)
{
    enum { MOST = 64 };
    const size_t m = strlen(a), n = strlen(b);
    if (m > MOST || n > MOST || (m > n ? m - n : n - m) > (size_t)limit) return limit + 1;
    /* Three rows of the edit distance with swaps (optimal string alignment). */
    int rows[3][MOST + 1];
    for (size_t j = 0; j <= n; j++) rows[0][j] = (int)j;
    for (size_t i = 1; i <= m; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= n; j++) {
            const int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            int best = above[j - 1] + (x != y);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]) && two_above[j - 2] + 1 < best)
                best = two_above[j - 2] + 1;
            row[j] = best;
        }
    }
    const int distance = rows[m % 3][n];
    return distance <= limit ? distance : limit + 1;
}
