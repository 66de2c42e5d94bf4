/* SPDX-License-Identifier: Apache-2.0
 *
 * The container: tensors and metadata in name order, the choice of a reader by
 * content, and the atomic replacement of files.
 */
#include "weights.h"

#include "legacy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "weights are read as little-endian numbers in place");

typedef struct entry {
    sv_tensor tensor;
    char name[]; /* the key */
} entry;

typedef struct meta {
    char *value;
    char key[];
} meta;

enum { MAX_META = 256, MAX_KEY = 128 };

struct sv_weights {
    char *path;
    const char *kind;
    entry **entries;
    meta **metas;
    int count, capacity, meta_count;
    uint64_t bytes;
};

/* ---- numbers ------------------------------------------------------------------------------------------- */

size_t sv_number_bytes(sv_number number)
{
    static const uint8_t bytes[] = {4, 8, 2, 2, 8, 4, 2, 1, 1};
    return bytes[number];
}

sv_dtype sv_number_kept_as(sv_number number)
{
    if (number <= SV_NUMBER_BF16) return SV_F32;
    return number == SV_NUMBER_I64 ? SV_I64 : SV_I32;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float from_half(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent > 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}

/* One loop per kind: 'type' is read, 'as' written, 'expression' converts x. */
#define WIDEN(type, as, expression)                                                                          \
    for (size_t i = 0; i < count; i++) {                                                                     \
        type x;                                                                                              \
        memcpy(&x, (const char *)from + (int64_t)i * stride * (int64_t)sizeof x, sizeof x);                  \
        ((as *)to)[i] = (expression);                                                                        \
    }                                                                                                        \
    break

void sv_number_widen(sv_number number, void *to, const void *from, size_t count, int64_t stride)
{
    if (stride == 1 && (number == SV_NUMBER_F32 || number == SV_NUMBER_I64 || number == SV_NUMBER_I32)) {
        memcpy(to, from, count * sv_number_bytes(number));
        return;
    }
    switch (number) {
    case SV_NUMBER_F32:
        WIDEN(float, float, x);
    case SV_NUMBER_F64:
        WIDEN(double, float, (float)x);
    case SV_NUMBER_F16:
        WIDEN(uint16_t, float, from_half(x));
    case SV_NUMBER_BF16:
        WIDEN(uint16_t, float, from_bits((uint32_t)x << 16));
    case SV_NUMBER_I64:
        WIDEN(int64_t, int64_t, x);
    case SV_NUMBER_I32:
        WIDEN(int32_t, int32_t, x);
    case SV_NUMBER_I16:
        WIDEN(int16_t, int32_t, x);
    case SV_NUMBER_I8:
        WIDEN(int8_t, int32_t, x);
    case SV_NUMBER_U8:
        WIDEN(uint8_t, int32_t, x);
    }
}

int64_t sv_elements(int ndim, const int64_t *dims)
{
    int64_t elements = 1;
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        if (dims[i] < 0 || dims[i] > INT32_MAX) return -1;
        if (dims[i] == 0)
            empty = true;
        else if (elements > INT32_MAX / dims[i])
            return -1;
        else
            elements *= dims[i];
    }
    return empty ? 0 : elements;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

sv_weights *sv_weights_new(void)
{
    sv_weights *w = calloc(1, sizeof *w);
    if (w) w->kind = "memory";
    return w;
}

void sv_weights_free(sv_weights *w)
{
    if (!w) return;
    for (int i = 0; i < w->count; i++) {
        free(w->entries[i]->tensor.data);
        free(w->entries[i]);
    }
    for (int i = 0; i < w->meta_count; i++) {
        free(w->metas[i]->value);
        free(w->metas[i]);
    }
    free(w->entries);
    free(w->metas);
    free(w->path);
    free(w);
}

int sv_weights_count(const sv_weights *w)
{
    return w->count;
}
const char *sv_weights_name(const sv_weights *w, int i)
{
    return w->entries[i]->name;
}
sv_tensor sv_weights_tensor(const sv_weights *w, int i)
{
    return w->entries[i]->tensor;
}
const char *sv_weights_kind(const sv_weights *w)
{
    return w->kind;
}
const char *sv_weights_path(const sv_weights *w)
{
    return w->path ? w->path : "(memory)";
}

/* The place of 'name', or where it belongs. */
static int place_of(const sv_weights *w, const char *name, bool *found)
{
    int low = 0, high = w->count;
    *found = false;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        const int order = strcmp(w->entries[middle]->name, name);
        if (order == 0) *found = true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int sv_weights_index(const sv_weights *w, const char *name)
{
    bool found;
    const int place = place_of(w, name, &found);
    return found ? place : -1;
}

sv_tensor sv_weights_find(const sv_weights *w, const char *name)
{
    const int i = sv_weights_index(w, name);
    return i >= 0 ? w->entries[i]->tensor : SV_NONE;
}

sv_status sv_weights_make(sv_ctx *c, sv_weights *w, const char *name, sv_dtype dtype, int ndim,
                          const int64_t *dims, void **data)
{
    *data = NULL;
    char shown[SV_SHOWN];
    const size_t length = strlen(name);
    const char *path = sv_weights_path(w);
    bool plain = length > 0 && length <= SV_WEIGHTS_MAX_NAME;
    for (size_t i = 0; plain && i < length; i++) plain = name[i] > 0x20 && name[i] < 0x7f;
    sv_shown(shown, name, length);
    SV_CHECK(c, plain, SV_BAD_INPUT,
             "%s: a tensor has the unusable name '%s' (%zu bytes; printable ASCII, at most %d)", path, shown,
             length, SV_WEIGHTS_MAX_NAME);
    SV_CHECK(c, ndim >= 0 && ndim <= SV_MAX_DIMS, SV_UNSUPPORTED,
             "%s: tensor '%s' has %d dimensions, at most %d are possible", path, shown, ndim, SV_MAX_DIMS);
    const int64_t elements = sv_elements(ndim, dims);
    const uint64_t left = SV_WEIGHTS_MAX_BYTES - w->bytes;
    SV_CHECK(c, elements >= 0 && (uint64_t)elements <= left / sv_dtype_bytes(dtype), SV_BAD_INPUT,
             "%s: with tensor '%s' its tensors exceed %llu bytes; no model is that large", path, shown,
             (unsigned long long)SV_WEIGHTS_MAX_BYTES);
    SV_CHECK(c, w->count < SV_WEIGHTS_MAX_TENSORS, SV_BAD_INPUT, "%s holds more than %d tensors", path,
             SV_WEIGHTS_MAX_TENSORS);
    bool found;
    const int place = place_of(w, name, &found);
    SV_CHECK(c, !found, SV_BAD_INPUT, "%s: tensor '%s' is there twice", path, shown);

    if (w->count == w->capacity) {
        const int capacity = w->capacity ? 2 * w->capacity : 256;
        entry **grown = realloc(w->entries, (size_t)capacity * sizeof(entry *));
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d tensors", path, capacity);
        w->entries = grown;
        w->capacity = capacity;
    }
    const size_t bytes = (size_t)elements * sv_dtype_bytes(dtype);
    entry *added = calloc(1, sizeof *added + length + 1);
    void *memory = malloc(bytes > 0 ? bytes : 1);
    if (!added || !memory) {
        free(added);
        free(memory);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for tensor '%s' of %zu bytes", path, shown, bytes);
    }
    memcpy(added->name, name, length + 1);
    sv_tensor *t = &added->tensor;
    t->data = memory;
    t->dtype = (uint8_t)dtype;
    t->ndim = (uint8_t)(ndim == 0 ? 1 : ndim);
    t->dim[0] = 1;
    for (int i = 0; i < ndim; i++) t->dim[i] = (int32_t)dims[i];
    t->pitch = (int32_t)sv_row_elements(*t);
    memmove(w->entries + place + 1, w->entries + place, (size_t)(w->count - place) * sizeof(entry *));
    w->entries[place] = added;
    w->count++;
    w->bytes += bytes;
    *data = memory;
    return SV_OK;
}

sv_status sv_weights_add(sv_ctx *c, sv_weights *w, const char *name, sv_tensor host)
{
    SV_CHECK(c, host.dtype == SV_F32 || host.dtype == SV_I64 || host.dtype == SV_I32, SV_UNSUPPORTED,
             "tensor '%s' is of type %d; weights are float32, int64 or int32", name, host.dtype);
    SV_CHECK(c, host.ndim >= 1 && host.pitch == sv_row_elements(host) && !host.offsets, SV_BAD_SHAPE,
             "tensor '%s' is not dense", name);
    int64_t dims[SV_MAX_DIMS];
    for (int i = 0; i < host.ndim; i++) dims[i] = host.dim[i];
    void *data = NULL;
    SV_TRY(sv_weights_make(c, w, name, (sv_dtype)host.dtype, host.ndim, dims, &data));
    memcpy(data, host.data, (size_t)sv_elements(host.ndim, dims) * sv_dtype_bytes((sv_dtype)host.dtype));
    return SV_OK;
}

/* ---- metadata ------------------------------------------------------------------------------------------ */

static int meta_place(const sv_weights *w, const char *key)
{
    int i = 0;
    while (i < w->meta_count && strcmp(w->metas[i]->key, key) < 0) i++;
    return i;
}

const char *sv_weights_meta(const sv_weights *w, const char *key)
{
    const int i = meta_place(w, key);
    return i < w->meta_count && strcmp(w->metas[i]->key, key) == 0 ? w->metas[i]->value : NULL;
}

int sv_weights_meta_count(const sv_weights *w)
{
    return w->meta_count;
}
const char *sv_weights_meta_key(const sv_weights *w, int i)
{
    return w->metas[i]->key;
}

bool sv_weights_own_meta(const char *key)
{
    return strcmp(key, "format") == 0 || strcmp(key, "format_version") == 0 || strcmp(key, "checksum") == 0;
}

/* Well-formed UTF-8 (RFC 3629): no overlong forms, surrogates or values above U+10FFFF. */
static bool is_utf8(const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        const int more = *p < 0x80                 ? 0
                         : *p >= 0xc2 && *p < 0xe0 ? 1
                         : *p >= 0xe0 && *p < 0xf0 ? 2
                         : *p >= 0xf0 && *p < 0xf5 ? 3
                                                   : -1;
        if (more < 0) return false;
        if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return false;
        if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return false;
        for (int i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80) return false;
        }
        p += more + 1;
    }
    return true;
}

sv_status sv_weights_set_meta(sv_ctx *c, sv_weights *w, const char *key, const char *value)
{
    char shown[SV_SHOWN];
    const size_t length = strlen(key), size = strlen(value);
    const char *path = sv_weights_path(w);
    sv_shown(shown, key, length);
    bool plain = length > 0 && length <= MAX_KEY;
    for (size_t i = 0; plain && i < length; i++) plain = key[i] >= 0x20 && key[i] < 0x7f;
    SV_CHECK(c, plain, SV_BAD_INPUT, "%s: metadata has the unusable key '%s'", path, shown);
    SV_CHECK(c, size <= SV_WEIGHTS_MAX_META && is_utf8(value), SV_BAD_INPUT,
             "%s: metadata '%s' (%zu bytes) is not UTF-8 of at most %d bytes", path, shown, size,
             SV_WEIGHTS_MAX_META);
    const int place = meta_place(w, key);
    const bool there = place < w->meta_count && strcmp(w->metas[place]->key, key) == 0;
    SV_CHECK(c, there || w->meta_count < MAX_META, SV_BAD_INPUT, "%s has more than %d metadata entries", path,
             MAX_META);
    char *copy = malloc(size + 1);
    meta *added = there ? w->metas[place] : calloc(1, sizeof *added + length + 1);
    meta **grown = there ? w->metas : realloc(w->metas, (size_t)(w->meta_count + 1) * sizeof(meta *));
    if (grown) w->metas = grown;
    if (!copy || !added || !grown) {
        free(copy);
        if (!there) free(added);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for metadata '%s'", path, shown);
    }
    memcpy(copy, value, size + 1);
    if (there) {
        free(added->value);
    } else {
        memcpy(added->key, key, length + 1);
        memmove(w->metas + place + 1, w->metas + place, (size_t)(w->meta_count - place) * sizeof(meta *));
        w->metas[place] = added;
        w->meta_count++;
    }
    added->value = copy;
    return SV_OK;
}

void sv_weights_set_file(sv_weights *w, const char *kind, const char *path)
{
    w->kind = kind;
    free(w->path);
    w->path = strdup(path); /* only for messages: without memory they say "(memory)" */
}

void sv_weights_checksum(const sv_weights *w, char out[SV_SHA256_TEXT])
{
    sv_sha256 hash;
    sv_sha256_begin(&hash);
    for (int i = 0; i < w->meta_count; i++) {
        if (sv_weights_own_meta(w->metas[i]->key)) continue;
        sv_sha256_add(&hash, w->metas[i]->key, strlen(w->metas[i]->key) + 1);
        sv_sha256_add(&hash, w->metas[i]->value, strlen(w->metas[i]->value) + 1);
    }
    sv_sha256_add(&hash, "", 1); /* an empty key ends the metadata */
    for (int i = 0; i < w->count; i++) {
        const sv_tensor t = w->entries[i]->tensor;
        int32_t shape[SV_MAX_DIMS + 2] = {t.dtype, t.ndim};
        for (int k = 0; k < t.ndim; k++) shape[2 + k] = t.dim[k];
        sv_sha256_add(&hash, w->entries[i]->name, strlen(w->entries[i]->name) + 1);
        sv_sha256_add(&hash, shape, (size_t)(2 + t.ndim) * sizeof shape[0]);
        sv_sha256_add(&hash, t.data, (size_t)t.dim[0] * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype));
    }
    sv_sha256_text(&hash, out);
}

/* ---- files --------------------------------------------------------------------------------------------- */

static sv_status refuse(sv_ctx *c, const sv_source *source, const uint8_t *head, size_t n)
{
    const char *path = source->path;
    SV_CHECK(c, n > 0, SV_BAD_INPUT, "%s is empty", path);
    const bool pickle = n >= 2 && head[0] == 0x80 && head[1] <= 5;
    SV_CHECK(c, !pickle, SV_UNSUPPORTED, "%s is a bare pickle, not a checkpoint that torch.save() wrote",
             path);
    const bool tar = n >= 262 && memcmp(head + 257, "ustar", 5) == 0;
    SV_CHECK(c, !tar, SV_UNSUPPORTED,
             "%s is a tar archive, as the first versions of PyTorch saved: open it in PyTorch and "
             "torch.save() it again",
             path);
    const bool packed =
        n >= 4 && (memcmp(head, "\x1f\x8b", 2) == 0 || memcmp(head, "\x28\xb5\x2f\xfd", 4) == 0 ||
                   memcmp(head, "\xfd\x37zX", 4) == 0);
    SV_CHECK(c, !packed, SV_UNSUPPORTED, "%s is compressed as a whole (gzip, zstd or xz): unpack it first",
             path);
    const bool pointer = n >= 20 && memcmp(head, "version https://git-", 20) == 0;
    SV_CHECK(c, !pointer, SV_BAD_INPUT, "%s is a Git LFS pointer, not the file itself: run 'git lfs pull'",
             path);
    size_t first = 0;
    while (first < n &&
           (head[first] == ' ' || head[first] == '\n' || head[first] == '\r' || head[first] == '\t'))
        first++;
    SV_CHECK(c, first == n || head[first] != '<', SV_BAD_INPUT,
             "%s is a web page, not a checkpoint: the download went wrong (a login or confirmation page)",
             path);
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s (%llu bytes) is none of the formats that hold weights: PyTorch zip .pth, safetensors, "
                   "NumPy .npz, HDF5 model file, flax checkpoint",
                   path, (unsigned long long)source->size);
}

static sv_status read_source(sv_ctx *c, const sv_source *source, sv_weights *w)
{
    uint8_t head[512];
    const size_t n = source->size < sizeof head ? (size_t)source->size : sizeof head;
    SV_TRY(sv_source_read(c, source, 0, head, n));
    sv_weights_set_file(w, "memory", source->path);
    const char *kind = NULL;
    if (n >= 4 && (memcmp(head, "PK\3\4", 4) == 0 || memcmp(head, "PK\5\6", 4) == 0)) kind = "pth";
    if (kind && sv_npz_begins(head, n)) kind = "npz";
    if (n >= 8 && memcmp(head, "\x89HDF\r\n\x1a\n", 8) == 0) kind = "hdf5";
    if (n >= 9 && head[8] == '{' && sv_le64(head) >= 2) kind = "safetensors";
    const bool legacy = !kind && sv_legacy_begins(head, n);
    if (legacy) kind = "pth";
    if (!kind && sv_flax_begins(head, n)) kind = "flax";
    if (!kind) return refuse(c, source, head, n);
    sv_weights_set_file(w, kind, source->path);
    switch (kind[0]) {
    case 'n':
        return sv_npz_read(c, source, w);
    case 'p':
        return sv_pth_read(c, source, legacy, w);
    case 'f':
        return sv_flax_read(c, source, w);
    case 'h':
        return sv_hdf5_model_read(c, source, w);
    default:
        return sv_safetensors_read(c, source, w);
    }
}

static sv_status open_source(sv_ctx *c, const sv_source *source, sv_weights **out)
{
    sv_weights *w = sv_weights_new();
    SV_CHECK(c, w, SV_NO_MEMORY, "%s: no memory for its weights", source->path);
    const sv_status status = read_source(c, source, w);
    if (status == SV_OK)
        *out = w;
    else
        sv_weights_free(w);
    return status;
}

sv_status sv_weights_open(sv_ctx *c, const char *path, sv_weights **out)
{
    *out = NULL;
    sv_source source;
    sv_status status = sv_source_open(c, path, &source);
    if (status == SV_OK) status = open_source(c, &source, out);
    sv_source_close(&source);
    return status;
}

sv_status sv_weights_parse(sv_ctx *c, const char *name, const void *bytes, size_t size, sv_weights **out)
{
    *out = NULL;
    const sv_source source = sv_source_memory(name, bytes, size);
    return open_source(c, &source, out);
}

/* Flush a file or folder to the disk. */
static sv_status make_durable(sv_ctx *c, const char *file, const char *path, bool folder)
{
    const int fd = open(file, (folder ? O_RDONLY | O_DIRECTORY : O_RDWR) | O_CLOEXEC);
    const bool done =
        fd >= 0 && (fsync(fd) == 0 || (folder && errno == EINVAL)); /* some file systems cannot */
    const int reason = errno;
    if (fd >= 0) close(fd);
    SV_CHECK(c, done, SV_IO, "%s cannot be written: %s", path, strerror(reason));
    return SV_OK;
}

sv_status sv_weights_write(sv_ctx *c, const sv_weights *w, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *dot = strrchr(slash ? slash : path, '.');
    const bool hdf5 = dot && (strcmp(dot, ".h5") == 0 || strcmp(dot, ".hdf5") == 0);
    SV_CHECK(c, hdf5 || (dot && strcmp(dot, ".safetensors") == 0), SV_USAGE,
             "%s: a model file is named .h5, .hdf5 or .safetensors", path);
    const size_t length = strlen(path);
    char *temporary = malloc(length + 32), *folder = malloc(length + 2);
    if (!temporary || !folder) {
        free(temporary);
        free(folder);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for its name", path);
    }
    snprintf(temporary, length + 32, "%s.part-%ld", path, (long)getpid());
    snprintf(folder, length + 2, "%.*s",
             slash == path ? 1
             : slash       ? (int)(slash - path)
                           : 1,
             slash ? path : ".");
    sv_status status =
        hdf5 ? sv_hdf5_model_write(c, w, temporary, path) : sv_safetensors_write(c, w, temporary, path);
    if (status == SV_OK) status = make_durable(c, temporary, path, false);
    if (status == SV_OK && rename(temporary, path) != 0)
        status = SV_FAIL(c, SV_IO, "%s cannot be put in place: %s", path, strerror(errno));
    if (status == SV_OK)
        status = make_durable(c, folder, path, true);
    else
        unlink(temporary);
    free(temporary);
    free(folder);
    return status;
}
