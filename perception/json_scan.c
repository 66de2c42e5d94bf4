/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers: up to 19 digits m and a power of ten e within -19..0 are divided exactly in 128 bits,
 *   q = floor(m' 2^63 / d'), m' and d' = m and 10^-e shifted to 64 bits,
 * and rounded half to even by the bits of q below the 53rd and whether a remainder is left. Everything else goes
 * the slow way.
 */
#define _XOPEN_SOURCE 700
#include "json_scan.h"

#include "perception/core/text.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WINDOW = 1 << 20, LONGEST_ROW = 1 << 24, LONGEST_NUMBER = 100 };

__extension__ typedef unsigned __int128 wide;

sv_json_scan sv_json_scan_begin(const void *bytes, size_t size, bool whole)
{
    const char *begin = bytes;
    return (sv_json_scan){.begin = begin, .at = begin, .end = begin + size, .whole = whole};
}

void sv_json_wrong(sv_json_scan *s, const char *problem)
{
    if (s->state != SV_JSON_GOOD) return;
    s->state = SV_JSON_WRONG;
    s->problem = problem;
}

static bool wrong(sv_json_scan *s, const char *problem)
{
    sv_json_wrong(s, problem);
    return false;
}

static bool cut_off(sv_json_scan *s)
{
    if (s->state == SV_JSON_GOOD) s->state = SV_JSON_SHORT;
    return false;
}

static bool is_space(char letter)
{
    return letter == ' ' || letter == '\n' || letter == '\t' || letter == '\r';
}

/* To the next byte that is not space; false when there is none. */
static bool arrive(sv_json_scan *s)
{
    if (s->state != SV_JSON_GOOD) return false;
    const char *p = s->at;
    while (p < s->end && is_space(*p)) p++;
    s->at = p;
    return p < s->end ? true : cut_off(s);
}

char sv_json_peek(sv_json_scan *s)
{
    return arrive(s) ? *s->at : '\0';
}

bool sv_json_at_end(sv_json_scan *s)
{
    while (s->at < s->end && is_space(*s->at)) s->at++;
    return s->at == s->end;
}

bool sv_json_open(sv_json_scan *s, char bracket)
{
    if (!arrive(s)) return false;
    if (*s->at != bracket)
        return wrong(s, bracket == '{' ? "an object { is expected" : "a list [ is expected");
    if (s->depth >= SV_JSON_SCAN_DEPTH) return wrong(s, "it is nested too deeply");
    s->at++;
    s->filled &= ~(1u << s->depth);
    s->depth++;
    return true;
}

/* Behind the comma before the next thing; false at the closing bracket. */
static bool next_thing(sv_json_scan *s, char closing)
{
    if (!arrive(s)) return false;
    const uint32_t bit = 1u << (s->depth - 1);
    if (*s->at == closing) {
        s->at++;
        s->depth--;
        return false;
    }
    if (s->filled & bit) {
        if (*s->at != ',')
            return wrong(s, closing == '}' ? "a comma or } is missing" : "a comma or ] is missing");
        s->at++;
        if (!arrive(s)) return false;
        if (*s->at == closing) return wrong(s, "nothing follows a comma");
    }
    s->filled |= bit;
    return true;
}

bool sv_json_next(sv_json_scan *s)
{
    return next_thing(s, ']');
}

bool sv_json_next_key(sv_json_scan *s, sv_json_span *key)
{
    if (!next_thing(s, '}') || !sv_json_read_text(s, key) || !arrive(s)) return false;
    if (*s->at != ':') return wrong(s, "a colon is missing behind a key");
    s->at++;
    return true;
}

/* To the next quote, backslash or control character, eight bytes at a time: a byte of x is 0 where its highest bit
 * is set in (x - 01..01) & ~x & 80..80, below the first such byte exactly. */
static const char *to_special(const char *p, const char *end)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    while (end - p >= 8) {
        uint64_t w;
        memcpy(&w, p, sizeof w);
        const uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
        const uint64_t found =
            (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((w - ones * 0x20) & ~w)) & high;
        if (found) return p + __builtin_ctzll(found) / 8;
        p += 8;
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
    return p;
}

bool sv_json_read_text(sv_json_scan *s, sv_json_span *out)
{
    if (!arrive(s)) return false;
    if (*s->at != '"') return wrong(s, "a text is expected");
    const char *p = s->at + 1;
    bool escaped = false;
    for (;; p++) {
        p = to_special(p, s->end);
        if (p == s->end) return cut_off(s);
        if (*p == '"') break;
        if (*p != '\\') return wrong(s, "a text holds a control character");
        escaped = true;
        if (++p == s->end) return cut_off(s);
    }
    *out = (sv_json_span){s->at + 1, (size_t)(p - s->at - 1), escaped};
    s->at = p + 1;
    return true;
}

/* ---- numbers ------------------------------------------------------------------------------------------ */

static const uint64_t powers[20] = {1,
                                    10,
                                    100,
                                    1000,
                                    10000,
                                    100000,
                                    1000000,
                                    10000000,
                                    100000000,
                                    1000000000,
                                    10000000000,
                                    100000000000,
                                    1000000000000,
                                    10000000000000,
                                    100000000000000,
                                    1000000000000000,
                                    10000000000000000,
                                    100000000000000000,
                                    1000000000000000000,
                                    10000000000000000000u};

/* 2^n for n of normal doubles. */
static double power_of_two(int n)
{
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* m / 10^k, k within 1..19 */
static double divide(uint64_t m, int k)
{
    const uint64_t d = powers[k];
    if (m <= (uint64_t)1 << 53 && d <= (uint64_t)1 << 53)
        return (double)m / (double)d; /* both exact: one rounding */
    const int shift_m = __builtin_clzll(m), shift_d = __builtin_clzll(d);
    const wide numerator = (wide)(m << shift_m) << 63;
    const uint64_t divisor = d << shift_d, q = (uint64_t)(numerator / divisor);
    const bool left = (uint64_t)(numerator - (wide)q * divisor) != 0;
    const int drop = 64 - __builtin_clzll(q) - 53;
    const uint64_t half = (uint64_t)1 << (drop - 1), low = q & (2 * half - 1);
    uint64_t kept = q >> drop;
    kept += low > half || (low == half && (left || (kept & 1)));
    return (double)kept * power_of_two(drop - 63 + shift_d - shift_m);
}

static bool slow_number(const char *from, const char *to, double *out)
{
    char text[LONGEST_NUMBER + 1];
    if (to - from > LONGEST_NUMBER) return false;
    memcpy(text, from, (size_t)(to - from));
    text[to - from] = '\0';
    /* what is beyond a double is infinite, as in Python */
    if (!sv_text_number(text, out)) *out = text[0] == '-' ? -INFINITY : INFINITY;
    return true;
}

static bool is_digit(char letter)
{
    return letter >= '0' && letter <= '9';
}

static bool read_word(sv_json_scan *s, const char *word)
{
    const size_t length = strlen(word), left = (size_t)(s->end - s->at);
    if (memcmp(s->at, word, left < length ? left : length) != 0) return false;
    if (left < length) return cut_off(s);
    s->at += length;
    return true;
}

static bool odd_number(sv_json_scan *s, double *out)
{
    const bool minus = *s->at == '-';
    *out = *s->at == 'N' ? (double)NAN : minus ? -INFINITY : INFINITY;
    if (read_word(s, *s->at == 'N' ? "NaN" : minus ? "-Infinity" : "Infinity")) return true;
    return wrong(s, "a number is expected");
}

bool sv_json_read_number(sv_json_scan *s, double *out)
{
    if (!arrive(s)) return false;
    const char *p = s->at, *end = s->end;
    const bool minus = *p == '-';
    p += minus;
    if (p < end && (*p == 'N' || *p == 'I')) return odd_number(s, out);
    const char *digits = p;
    uint64_t m = 0;
    int used = 0, exponent = 0;
    for (; p < end && is_digit(*p); p++, used += m != 0) m = used < 19 ? 10 * m + (uint64_t)(*p - '0') : m;
    if (p == digits && p < end) return wrong(s, "a number is expected");
    if (p < end && *p == '.') {
        const char *fraction = ++p;
        for (; p < end && is_digit(*p); p++, used += m != 0)
            m = used < 19 ? 10 * m + (uint64_t)(*p - '0') : m;
        if (p == fraction && p < end) return wrong(s, "a number ends with a point");
        exponent = (int)(fraction - p);
    }
    bool plain = used <= 19 && exponent >= -19;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        int more = 0;
        const bool down = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) p++;
        const char *power = p;
        for (; p < end && is_digit(*p); p++) more = more < 10000 ? 10 * more + (*p - '0') : more;
        if (p == power && p < end) return wrong(s, "a number ends with e");
        exponent += down ? -more : more;
        plain = used <= 19 && exponent >= -19 && exponent <= 0;
    }
    /* a number that ends where the bytes end may go on */
    if (p == end && (!s->whole || !is_digit(p[-1]))) return cut_off(s);
    if (plain) {
        const double value = exponent == 0 || m == 0 ? (double)m : divide(m, -exponent);
        *out = minus ? -value : value;
    } else if (!slow_number(s->at, p, out)) {
        return wrong(s, "a number is longer than 100 letters");
    }
    s->at = p;
    return true;
}

bool sv_json_read_integer(sv_json_scan *s, int64_t *out)
{
    if (!arrive(s)) return false;
    const char *p = s->at;
    const bool minus = *p == '-';
    p += minus;
    const char *digits = p;
    int64_t value = 0;
    for (; p < s->end && is_digit(*p) && p - digits < 18; p++) value = 10 * value + (*p - '0');
    if (p == s->end && (!s->whole || p == digits)) return cut_off(s);
    if (p == digits) return wrong(s, "a whole number is expected");
    if (p < s->end && (is_digit(*p) || *p == '.' || *p == 'e' || *p == 'E'))
        return wrong(s, "a whole number of at most 18 digits is expected");
    *out = minus ? -value : value;
    s->at = p;
    return true;
}

bool sv_json_read_bool(sv_json_scan *s, bool *out)
{
    if (!arrive(s)) return false;
    *out = *s->at == 't';
    if (read_word(s, *out ? "true" : "false")) return true;
    return wrong(s, "true or false is expected");
}

bool sv_json_numbers(sv_json_scan *s, double *out, int count)
{
    int n = 0;
    double more;
    if (!sv_json_open(s, '[')) return false;
    while (sv_json_next(s))
        if (sv_json_read_number(s, n < count ? &out[n] : &more)) n++;
    if (s->state != SV_JSON_GOOD) return false;
    return n == count ? true : wrong(s, "a list has another number of numbers than it should");
}

bool sv_json_skip(sv_json_scan *s)
{
    sv_json_span span;
    double number;
    bool flag;
    switch (sv_json_peek(s)) {
    case '{':
        if (sv_json_open(s, '{'))
            while (sv_json_next_key(s, &span)) sv_json_skip(s);
        break;
    case '[':
        if (sv_json_open(s, '['))
            while (sv_json_next(s)) sv_json_skip(s);
        break;
    case '"':
        sv_json_read_text(s, &span);
        break;
    case 't':
    case 'f':
        sv_json_read_bool(s, &flag);
        break;
    case 'n':
        if (!read_word(s, "null")) wrong(s, "a value is expected");
        break;
    default:
        sv_json_read_number(s, &number);
    }
    return s->state == SV_JSON_GOOD;
}

/* ---- texts -------------------------------------------------------------------------------------------- */

static bool hex(const char *p, const char *end, unsigned *out)
{
    *out = 0;
    if (end - p < 4) return false;
    for (int i = 0; i < 4; i++) {
        const char letter = p[i];
        const int value = is_digit(letter)                 ? letter - '0'
                          : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10
                          : letter >= 'A' && letter <= 'F' ? letter - 'A' + 10
                                                           : -1;
        if (value < 0) return false;
        *out = *out * 16 + (unsigned)value;
    }
    return true;
}

/* One letter of the text, as UTF-8; returns its bytes, 0 when the escape is wrong. */
static int letter_of(const char **from, const char *end, char out[4])
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *p = *from;
    if (*p != '\\') {
        out[0] = *p;
        *from = p + 1;
        return 1;
    }
    if (++p == end) return 0;
    const char *known = *p ? strchr(names, *p) : NULL;
    if (known) {
        out[0] = values[known - names];
        *from = p + 1;
        return 1;
    }
    unsigned code, low;
    if (*p != 'u' || !hex(p + 1, end, &code) || code == 0) return 0;
    p += 5;
    if (code >= 0xd800 && code < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' &&
        hex(p + 2, end, &low) && low >= 0xdc00 && low < 0xe000) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        p += 6;
    }
    *from = p;
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const int bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = bytes - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((bytes == 2 ? 0xc0u : bytes == 3 ? 0xe0u : 0xf0u) | code);
    return bytes;
}

bool sv_json_span_copy(sv_json_span span, char *out, size_t room)
{
    size_t used = 0;
    const char *p = span.at, *end = p + span.size;
    out[0] = '\0';
    while (p < end) {
        char letter[4];
        const int bytes = letter_of(&p, end, letter);
        if (bytes == 0 || used + (size_t)bytes >= room) return false;
        memcpy(out + used, letter, (size_t)bytes);
        used += (size_t)bytes;
        out[used] = '\0';
    }
    return strlen(out) == used;
}

/* ---- rows of a file ----------------------------------------------------------------------------------- */

typedef struct window {
    const char *path;
    int file;
    char *data;
    size_t room, used; /* bytes in memory */
    int64_t offset;    /* of data[0] in the file */
    bool whole;        /* the file ends with them */
} window;

/* Forget the first 'done' bytes and read on. */
static sv_status refill(sv_ctx *c, window *w, size_t done)
{
    memmove(w->data, w->data + done, w->used - done);
    w->used -= done;
    w->offset += (int64_t)done;
    if (w->used == w->room) {
        SV_CHECK(c, w->room < LONGEST_ROW, SV_BAD_INPUT,
                 "%s: one entry, at byte %lld, is longer than %d bytes", w->path, (long long)w->offset,
                 LONGEST_ROW);
        char *grown = realloc(w->data, 2 * w->room);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for an entry of %zu bytes", w->path, w->used);
        w->data = grown;
        w->room *= 2;
    }
    while (w->used < w->room && !w->whole) {
        const ssize_t got = read(w->file, w->data + w->used, w->room - w->used);
        if (got < 0 && errno == EINTR) continue;
        SV_CHECK(c, got >= 0, SV_IO, "%s: cannot be read: %s", w->path, strerror(errno));
        w->whole = got == 0;
        w->used += (size_t)got;
    }
    return SV_OK;
}

static sv_status complain(sv_ctx *c, const window *w, const sv_json_scan *s, int64_t row)
{
    const long long byte = (long long)(w->offset + (s->at - s->begin));
    if (s->state == SV_JSON_SHORT)
        return SV_FAIL(c, SV_BAD_INPUT,
                       "%s: ends in the middle of entry %lld (byte %lld): copy the file again", w->path,
                       (long long)row, byte);
    return SV_FAIL(c, SV_BAD_INPUT, "%s: entry %lld is wrong at byte %lld: %s", w->path, (long long)row, byte,
                   s->problem);
}

/* One row, or the end of the list. */
static sv_status read_row(sv_ctx *c, const sv_json_rows *rows, window *w, sv_json_scan *s, int64_t row,
                          bool *more)
{
    for (;;) {
        const sv_json_scan before = *s;
        if (row < 0)
            *more = sv_json_open(s, '[');
        else if ((*more = sv_json_next(s)))
            rows->read(s, rows->user);
        if (s->state == SV_JSON_GOOD) return SV_OK;
        if (s->state == SV_JSON_WRONG || w->whole) return complain(c, w, s, row < 0 ? 0 : row);
        const size_t done = (size_t)(before.at - before.begin);
        SV_TRY(refill(c, w, done));
        *s = before;
        s->begin = s->at = w->data;
        s->end = w->data + w->used;
        s->whole = w->whole;
    }
}

static sv_status read_all(sv_ctx *c, const sv_json_rows *rows, window *w)
{
    bool more = true;
    SV_TRY(refill(c, w, 0));
    sv_json_scan s = sv_json_scan_begin(w->data, w->used, w->whole);
    SV_CHECK(c, w->used > 0, SV_BAD_INPUT, "%s: is empty; it should hold a list of entries, [] at least",
             w->path);
    SV_TRY(read_row(c, rows, w, &s, -1, &more));
    for (int64_t row = 0;; row++) {
        SV_TRY(read_row(c, rows, w, &s, row, &more));
        if (!more) break;
        SV_TRY(rows->take(c, rows->user, row));
    }
    for (;;) {
        SV_CHECK(c, sv_json_at_end(&s), SV_BAD_INPUT, "%s: something follows behind the list, at byte %lld",
                 w->path, (long long)(w->offset + (s.at - s.begin)));
        if (w->whole) return SV_OK;
        SV_TRY(refill(c, w, w->used));
        s = sv_json_scan_begin(w->data, w->used, w->whole);
    }
}

sv_status sv_json_read_rows(sv_ctx *c, const sv_json_rows *rows)
{
    window w = {.path = rows->path, .room = WINDOW, .file = open(rows->path, O_RDONLY | O_CLOEXEC)};
    struct stat info;
    SV_CHECK(c, w.file >= 0, SV_IO, "%s: cannot be opened: %s", w.path, strerror(errno));
    sv_status status = fstat(w.file, &info) == 0 && S_ISREG(info.st_mode)
                           ? SV_OK
                           : SV_FAIL(c, SV_IO, "%s: is no file", w.path);
    w.data = malloc(w.room);
    if (status == SV_OK && !w.data) status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", w.path);
    if (status == SV_OK) status = read_all(c, rows, &w);
    free(w.data);
    close(w.file);
    return status;
}
