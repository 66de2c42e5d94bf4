/* SPDX-License-Identifier: Apache-2.0
 *
 * NumPy's .npz as a container of weights: a zip archive whose members are arrays, "a/b/kernel.npy" being the tensor
 * "a.b.kernel". A member:
 *
 *     "\x93NUMPY"  version (major, minor)  length of the header (2 bytes in version 1, 4 in 2 and 3)
 *     {'descr': '<f4', 'fortran_order': False, 'shape': (768, 12, 64), }     padded with spaces, ends in a newline
 *     the numbers
 *
 * The dictionary is read by a grammar of its own: three keys, each once, with a text, a truth value and a tuple of whole
 * numbers; nothing is evaluated, and arrays of objects (pickles) are refused.
 */
#include "weights_file.h"
#include "zip.h"

#include <stdlib.h>
#include <string.h>

enum { FIXED = 8, MAX_HEADER = 4096 };

typedef struct npy {
    sv_number number;
    bool fortran; /* the first axis runs fastest */
    int ndim;
    int64_t dims[SV_MAX_DIMS];
    size_t start; /* of the numbers */
} npy;

/* What is left of a header. */
typedef struct text {
    const char *at, *end;
} text;

static void skip_spaces(text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n')) t->at++;
}

static bool take(text *t, const char *word)
{
    skip_spaces(t);
    const size_t length = strlen(word);
    if ((size_t)(t->end - t->at) < length || memcmp(t->at, word, length) != 0) return false;
    t->at += length;
    return true;
}

/* 'abc' or "abc" into out[24]. */
static bool take_quoted(text *t, char out[24])
{
    skip_spaces(t);
    if (t->at == t->end || (*t->at != '\'' && *t->at != '"')) return false;
    const char *close = memchr(t->at + 1, *t->at, (size_t)(t->end - t->at - 1));
    if (!close || close - t->at > 23) return false;
    const size_t length = (size_t)(close - t->at - 1);
    memcpy(out, t->at + 1, length);
    out[length] = '\0';
    t->at = close + 1;
    return true;
}

/* (), (3,), (3, 4) */
static bool take_shape(text *t, npy *out)
{
    out->ndim = 0;
    if (!take(t, "(")) return false;
    while (!take(t, ")")) {
        int64_t value = 0;
        int digits = 0;
        skip_spaces(t);
        while (t->at < t->end && *t->at >= '0' && *t->at <= '9' && digits++ < 12)
            value = 10 * value + (*t->at++ - '0');
        if (digits == 0 || digits > 12 || out->ndim == SV_MAX_DIMS) return false;
        out->dims[out->ndim++] = value;
        if (take(t, ")")) return true;
        if (!take(t, ",")) return false;
    }
    return true;
}

static bool number_of(const char *descr, sv_number *out)
{
    static const struct {
        const char *name;
        sv_number number;
    } known[] = {{"<f4", SV_NUMBER_F32}, {"<f8", SV_NUMBER_F64}, {"<f2", SV_NUMBER_F16},
                 {"<i8", SV_NUMBER_I64}, {"<i4", SV_NUMBER_I32}, {"<i2", SV_NUMBER_I16},
                 {"|i1", SV_NUMBER_I8},  {"|u1", SV_NUMBER_U8},  {"|b1", SV_NUMBER_U8}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(descr, known[i].name) == 0) {
            *out = known[i].number;
            return true;
        }
    return false;
}

/* The dictionary; 'descr' is what it says of the kind of numbers. */
static bool read_dictionary(text t, npy *out, char descr[24])
{
    bool seen[3] = {false};
    descr[0] = '\0';
    if (!take(&t, "{")) return false;
    while (!take(&t, "}")) {
        char key[24];
        if (!take_quoted(&t, key) || !take(&t, ":")) return false;
        const int which = strcmp(key, "descr") == 0           ? 0
                          : strcmp(key, "fortran_order") == 0 ? 1
                          : strcmp(key, "shape") == 0         ? 2
                                                              : -1;
        if (which < 0 || seen[which]) return false;
        seen[which] = true;
        if (which == 0 && !take_quoted(&t, descr)) return false;
        if (which == 1) {
            out->fortran = take(&t, "True");
            if (!out->fortran && !take(&t, "False")) return false;
        }
        if (which == 2 && !take_shape(&t, out)) return false;
        if (!take(&t, ",")) {
            if (!take(&t, "}")) return false;
            break;
        }
    }
    skip_spaces(&t);
    return t.at == t.end && seen[0] && seen[1] && seen[2];
}

static sv_status read_header(sv_ctx *c, const char *path, const char *name, const uint8_t *bytes, size_t size,
                             npy *out)
{
    SV_CHECK(c, size >= FIXED + 4 && memcmp(bytes, "\x93NUMPY", 6) == 0, SV_BAD_INPUT,
             "%s: member '%s' is no NumPy array", path, name);
    const int major = bytes[6];
    SV_CHECK(c, major >= 1 && major <= 3, SV_UNSUPPORTED, "%s: member '%s' is of NumPy's format version %d",
             path, name, major);
    const size_t length = major == 1 ? sv_le16(bytes + FIXED) : sv_le32(bytes + FIXED),
                 start = FIXED + (major == 1 ? 2 : 4);
    SV_CHECK(c, length <= MAX_HEADER && length <= size - start, SV_BAD_INPUT,
             "%s: member '%s' says that its header has %zu bytes", path, name, length);
    const text header = {(const char *)bytes + start, (const char *)bytes + start + length};
    char descr[24], shown[SV_SHOWN];
    SV_CHECK(
        c, read_dictionary(header, out, descr), SV_BAD_INPUT,
        "%s: member '%s' has the header \"%s\", which says no kind, order and shape (at most %d axes) of "
        "numbers",
        path, name, sv_shown(shown, header.at, length), SV_MAX_DIMS);
    SV_CHECK(c, number_of(descr, &out->number), SV_UNSUPPORTED,
             "%s: member '%s' holds '%s'; little-endian floats of 2, 4 and 8 bytes and integers can be read",
             path, name, sv_shown(shown, descr, strlen(descr)));
    out->start = start + length;
    return SV_OK;
}

/* Numbers of an array whose first axis runs fastest, in our order. */
static void from_fortran(const npy *a, void *to, const uint8_t *from, int64_t count)
{
    int64_t step[SV_MAX_DIMS], index[SV_MAX_DIMS] = {0}, stride = 1;
    const size_t bytes = sv_number_bytes(a->number), kept = sv_dtype_bytes(sv_number_kept_as(a->number));
    for (int i = 0; i < a->ndim; i++) {
        step[i] = stride;
        stride *= a->dims[i];
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t at = 0;
        for (int k = 0; k < a->ndim; k++) at += index[k] * step[k];
        sv_number_widen(a->number, (char *)to + (size_t)i * kept, from + (size_t)at * bytes, 1, 1);
        for (int k = a->ndim - 1; k >= 0 && ++index[k] == a->dims[k]; k--) index[k] = 0;
    }
}

static sv_status read_member(sv_ctx *c, const sv_zip *zip, const sv_zip_entry *entry, uint8_t *bytes,
                             sv_weights *w)
{
    const char *path = zip->source->path;
    char name[SV_WEIGHTS_MAX_NAME + 1], shown[SV_SHOWN];
    const size_t length = strlen(entry->name);
    sv_shown(shown, entry->name, length);
    SV_CHECK(c, length > 4 && strcmp(entry->name + length - 4, ".npy") == 0, SV_BAD_INPUT,
             "%s: member '%s' is no .npy array: this is no archive of weights", path, shown);
    SV_CHECK(c, length - 4 < sizeof name, SV_BAD_INPUT, "%s: member '%s' has a name of %zu letters", path,
             shown, length);
    memcpy(name, entry->name, length - 4);
    name[length - 4] = '\0';
    for (char *p = name; *p; p++)
        if (*p == '/') *p = '.';
    SV_TRY(sv_zip_read(c, zip, entry, bytes));
    npy array = {.ndim = 0};
    SV_TRY(read_header(c, path, shown, bytes, (size_t)entry->size, &array));
    const int64_t count = sv_elements(array.ndim, array.dims);
    const uint64_t there = entry->size - array.start, wanted = sv_number_bytes(array.number);
    SV_CHECK(c, count >= 0 && (uint64_t)count <= there / wanted && (uint64_t)count * wanted == there,
             SV_BAD_INPUT, "%s: member '%s' should hold %lld numbers of %d bytes, but has %llu bytes", path,
             shown, (long long)count, (int)wanted, (unsigned long long)there);
    void *data = NULL;
    SV_TRY(sv_weights_make(c, w, name, sv_number_kept_as(array.number), array.ndim, array.dims, &data));
    if (array.fortran && array.ndim > 1)
        from_fortran(&array, data, bytes + array.start, count);
    else
        sv_number_widen(array.number, data, bytes + array.start, (size_t)count, 1);
    return SV_OK;
}

static sv_status read_members(sv_ctx *c, const sv_zip *zip, sv_weights *w)
{
    uint64_t largest = 0;
    for (int i = 0; i < zip->count; i++)
        if (zip->entries[i].size > largest) largest = zip->entries[i].size;
    SV_CHECK(c, largest <= SV_WEIGHTS_MAX_BYTES, SV_BAD_INPUT,
             "%s: a member has %llu bytes; no model is that large", zip->source->path,
             (unsigned long long)largest);
    uint8_t *bytes = malloc((size_t)largest + 1);
    SV_CHECK(c, bytes, SV_NO_MEMORY, "%s: no memory for a member of %llu bytes", zip->source->path,
             (unsigned long long)largest);
    sv_status status = SV_OK;
    for (int i = 0; i < zip->count && status == SV_OK; i++)
        status = read_member(c, zip, &zip->entries[i], bytes, w);
    free(bytes);
    return status;
}

bool sv_npz_begins(const uint8_t *head, size_t n)
{
    if (n < 30 || memcmp(head, "PK\3\4", 4) != 0) return false;
    const size_t name = sv_le16(head + 26);
    return name > 4 && 30 + name <= n && memcmp(head + 30 + name - 4, ".npy", 4) == 0;
}

sv_status sv_npz_read(sv_ctx *c, const sv_source *source, sv_weights *w)
{
    sv_zip zip;
    sv_status status = sv_zip_open(c, source, &zip);
    if (status == SV_OK) status = read_members(c, &zip, w);
    sv_zip_close(&zip);
    return status;
}
