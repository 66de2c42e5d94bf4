/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the native model file. libhdf5 writes it (hdf5_model.c) but does not
 * read it: one changed byte is enough to make libhdf5 1.10 free a wild pointer,
 * and model files come from outside. What Savanna writes is a small, fixed
 * part of HDF5, and this reader knows that part and nothing else:
 *
 *   superblock     version 2, 8-byte offsets, at offset 0
 *   object header  version 2: "OHDR", messages, checksum; continued in "OCHK" blocks
 *   messages       link (hard), attribute (text of fixed length, int32), dataspace, datatype, contiguous
 * layout; link info and attribute info only to say that nothing lies outside the header ("compact")
 *
 * Layouts and numbers follow the HDF5 File Format Specification, version 2.0. Every block's checksum
 * (Jenkins' lookup3) is verified, and the SHA-256 over the whole content at the end. Anything else that HDF5
 * knows (symbol tables, dense storage, chunks, filters, external files, soft links) is refused with its
 * message number.
 */
#include "weights_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUPERBLOCK = 48,
    MAX_PREFIX = 6 + 16 + 4 + 8,
    MAX_BLOCKS = 1 << 16
}; /* all parts of a header's prefix */
enum {
    NIL = 0x00,
    DATASPACE = 0x01,
    LINK_INFO = 0x02,
    DATATYPE = 0x03,
    FILL_VALUE = 0x05,
    LINK = 0x06,
    LAYOUT = 0x08,
    GROUP_INFO = 0x0a,
    ATTRIBUTE = 0x0c,
    CONTINUATION = 0x10,
    ATTRIBUTE_INFO = 0x15,
};
enum { SHARED = 2 }; /* message flag: the content lies in another object */
static const uint64_t NOWHERE = UINT64_MAX;

/* Encoded datatypes without the version in the upper half of the first byte. */
static const uint8_t f32_le[20] = {0x01, 0x20, 0x1f, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0};
static const uint8_t i32_le[12] = {0x00, 0x08, 0, 0, 4, 0, 0, 0, 0, 0, 32, 0};
static const uint8_t i64_le[12] = {0x00, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0};

typedef struct block {
    uint64_t at, size;
} block;

typedef struct reader {
    sv_ctx *c;
    sv_weights *w;
    const sv_source *source;
    const char *path;
    uint64_t header_bytes, data_bytes; /* read so far: together no more than the file has */
    uint64_t weights_at;               /* the group's header */
} reader;

typedef struct message {
    uint8_t type, flags;
    const uint8_t *data;
    size_t size;
} message;

typedef sv_status (*on_message)(reader *r, const message *m, void *user);

/* ---- blocks -------------------------------------------------------------------------------------------- */

static inline uint32_t rotate(uint32_t x, int by)
{
    return x << by | x >> (32 - by);
}

/* Bob Jenkins' lookup3 ("hashlittle", start value 0), a byte at a time at the end. */
static uint32_t lookup3(const uint8_t *p, size_t size)
{
    uint32_t a = 0xdeadbeefu + (uint32_t)size, b = a, c = a;
    for (; size > 12; p += 12, size -= 12) {
        a += sv_le32(p), b += sv_le32(p + 4), c += sv_le32(p + 8);
        a -= c, a ^= rotate(c, 4), c += b;
        b -= a, b ^= rotate(a, 6), a += c;
        c -= b, c ^= rotate(b, 8), b += a;
        a -= c, a ^= rotate(c, 16), c += b;
        b -= a, b ^= rotate(a, 19), a += c;
        c -= b, c ^= rotate(b, 4), b += a;
    }
    if (size == 0) return c;
    uint8_t last[12] = {0};
    memcpy(last, p, size);
    a += sv_le32(last), b += sv_le32(last + 4), c += sv_le32(last + 8);
    c ^= b, c -= rotate(b, 14);
    a ^= c, a -= rotate(c, 11);
    b ^= a, b -= rotate(a, 25);
    c ^= b, c -= rotate(b, 16);
    a ^= c, a -= rotate(c, 4);
    b ^= a, b -= rotate(a, 14);
    c ^= b, c -= rotate(b, 24);
    return c;
}

static sv_status damaged(reader *r, const char *what, uint64_t at)
{
    return SV_FAIL(r->c, SV_BAD_INPUT, "%s: the HDF5 %s at offset %llu is damaged", r->path, what,
                   (unsigned long long)at);
}

/* A block with its checksum in the last four bytes; free() the result. */
static sv_status read_block(reader *r, block where, const char *what, uint8_t **out)
{
    *out = NULL;
    const uint64_t size = r->source->size;
    if (where.at > size || where.size > size - where.at || where.size < 8) return damaged(r, what, where.at);
    r->header_bytes += where.size;
    if (r->header_bytes > size) return damaged(r, what, where.at); /* blocks that contain each other */
    uint8_t *bytes = malloc((size_t)where.size);
    SV_CHECK(r->c, bytes, SV_NO_MEMORY, "%s: no memory for a header of %llu bytes", r->path,
             (unsigned long long)where.size);
    sv_status status = sv_source_read(r->c, r->source, where.at, bytes, (size_t)where.size);
    const size_t body = (size_t)where.size - 4;
    if (status == SV_OK && !SV_CHECKSUMS_MATCH(lookup3(bytes, body) == sv_le32(bytes + body)))
        status = damaged(r, what, where.at);
    if (status == SV_OK)
        *out = bytes;
    else
        free(bytes);
    return status;
}

/* ---- object headers ------------------------------------------------------------------------------------ */

typedef struct header {
    block *blocks; /* the continuations found so far, each with its whole extent */
    int count, room;
    bool ordered; /* messages carry a creation order of two bytes */
} header;

static sv_status add_continuation(reader *r, header *h, const message *m, uint64_t at)
{
    if (m->size != 16 || h->count == MAX_BLOCKS) return damaged(r, "continuation", at);
    if (h->count == h->room) {
        const int room = h->room ? 2 * h->room : 16;
        block *grown = realloc(h->blocks, (size_t)room * sizeof *grown);
        SV_CHECK(r->c, grown, SV_NO_MEMORY, "%s: no memory for %d blocks", r->path, room);
        h->blocks = grown;
        h->room = room;
    }
    h->blocks[h->count++] = (block){sv_le64(m->data), sv_le64(m->data + 8)};
    return SV_OK;
}

static sv_status walk_messages(reader *r, header *h, const uint8_t *p, size_t size, uint64_t at,
                               on_message see, void *user)
{
    const size_t prefix = h->ordered ? 6 : 4;
    while (size >= prefix) { /* less is a gap */
        const message m = {.type = p[0], .flags = p[3], .data = p + prefix, .size = sv_le16(p + 1)};
        if (m.size > size - prefix) return damaged(r, "object header", at);
        SV_CHECK(r->c, !(m.flags & SHARED), SV_UNSUPPORTED, "%s: a shared message of type %u is not read",
                 r->path, m.type);
        if (m.type == CONTINUATION)
            SV_TRY(add_continuation(r, h, &m, at));
        else if (m.type != NIL)
            SV_TRY(see(r, &m, user));
        p += prefix + m.size;
        size -= prefix + m.size;
    }
    return SV_OK;
}

/* The first block: its extent depends on flags in its first bytes. */
static sv_status find_first(reader *r, uint64_t at, header *h, block *whole, size_t *prefix)
{
    const uint64_t size = r->source->size;
    uint8_t p[MAX_PREFIX] = {0};
    if (at >= size) return damaged(r, "object header", at);
    SV_TRY(sv_source_read(r->c, r->source, at, p, size - at < MAX_PREFIX ? (size_t)(size - at) : MAX_PREFIX));
    if (memcmp(p, "OHDR\2", 5) != 0) return damaged(r, "object header", at);
    const uint8_t flags = p[5];
    h->ordered = (flags & 4) != 0;
    size_t n = 6;
    if (flags & 32) n += 16; /* times */
    if (flags & 16) n += 4;  /* when attributes become dense */
    const size_t width = (size_t)1 << (flags & 3);
    uint64_t messages = 0;
    for (size_t i = width; i-- > 0;) messages = messages << 8 | p[n + i];
    n += width;
    if (messages > size) return damaged(r, "object header", at);
    *prefix = n;
    *whole = (block){at, n + messages + 4};
    return SV_OK;
}

static sv_status walk_blocks(reader *r, header *h, uint64_t at, on_message see, void *user)
{
    block where = {0};
    size_t prefix = 0;
    SV_TRY(find_first(r, at, h, &where, &prefix));
    for (int i = -1; i < h->count; i++) {
        if (i >= 0) {
            where = h->blocks[i];
            prefix = 4;
        }
        uint8_t *bytes = NULL;
        SV_TRY(read_block(r, where, "object header", &bytes));
        const sv_status status =
            i >= 0 && memcmp(bytes, "OCHK", 4) != 0
                ? damaged(r, "continuation", where.at)
                : walk_messages(r, h, bytes + prefix, (size_t)where.size - prefix - 4, where.at, see, user);
        free(bytes);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status walk_header(reader *r, uint64_t at, on_message see, void *user)
{
    header h = {0};
    const sv_status status = walk_blocks(r, &h, at, see, user);
    free(h.blocks);
    return status;
}

static sv_status refuse(reader *r, const message *m, const char *where)
{
    return SV_FAIL(r->c, SV_UNSUPPORTED,
                   "%s: %s uses a feature of HDF5 (message type %u) that model files do not have", r->path,
                   where, m->type);
}

/* Link info and attribute info: the addresses of a heap and its indices, none of which may exist. */
static sv_status check_compact(reader *r, const message *m, const char *where)
{
    const size_t order = m->type == LINK_INFO ? 8 : 2;
    const size_t at = 2 + (m->size >= 2 && m->data[1] & 1 ? order : 0);
    if (m->size < at + 16 || m->data[0] != 0) return refuse(r, m, where);
    return sv_le64(m->data + at) == NOWHERE && sv_le64(m->data + at + 8) == NOWHERE ? SV_OK
                                                                                    : refuse(r, m, where);
}

/* The name and the object header of a hard link; the name is not terminated. */
static sv_status read_link(reader *r, const message *m, const uint8_t **name, size_t *length, uint64_t *at)
{
    const uint8_t *p = m->data;
    if (m->size < 2 || p[0] != 1) return refuse(r, m, "a link");
    const uint8_t flags = p[1];
    size_t n = 2;
    const bool typed = (flags & 8) != 0;
    if (typed && (m->size < 3 || p[2] != 0))
        return SV_FAIL(r->c, SV_UNSUPPORTED, "%s: it contains a link to somewhere else, which is refused",
                       r->path);
    n += (typed ? 1u : 0u) + (flags & 4 ? 8u : 0u) + (flags & 16 ? 1u : 0u);
    const size_t width = (size_t)1 << (flags & 3);
    if (m->size < n + width) return refuse(r, m, "a link");
    uint64_t size = 0;
    for (size_t i = width; i-- > 0;) size = size << 8 | p[n + i];
    n += width;
    if (size == 0 || size > SV_WEIGHTS_MAX_NAME || m->size != n + size + 8 || memchr(p + n, 0, (size_t)size))
        return refuse(r, m, "a link");
    *name = p + n;
    *length = (size_t)size;
    *at = sv_le64(p + n + size);
    return SV_OK;
}

/* ---- the root group ------------------------------------------------------------------------------------ */

static bool is_type(const uint8_t *p, size_t size, const uint8_t *type, size_t type_size)
{
    return size == type_size && (p[0] & 15) == type[0] && memcmp(p + 1, type + 1, type_size - 1) == 0;
}

/* Version 3: flags, sizes of name, type and space, character set, then those three without padding, then the
 * value. */
static sv_status read_attribute(reader *r, const message *m)
{
    const uint8_t *p = m->data;
    if (m->size < 9 || p[0] != 3 || p[1] != 0) return refuse(r, m, "an attribute");
    const size_t name_size = sv_le16(p + 2), type_size = sv_le16(p + 4), space_size = sv_le16(p + 6);
    const size_t fixed = 9 + name_size + type_size + space_size;
    const uint8_t *name = p + 9;
    if (fixed > m->size || name_size == 0 || memchr(name, 0, name_size) != name + name_size - 1)
        return refuse(r, m, "an attribute");
    const uint8_t *type = name + name_size, *space = type + type_size, *value = space + space_size;
    const size_t size = m->size - fixed;
    const char *key = (const char *)name;
    char shown[SV_SHOWN];
    sv_shown(shown, key, name_size - 1);
    const bool scalar = space_size == 4 && space[0] == 2 && space[1] == 0 && space[2] == 0 && space[3] == 0;
    const bool text = type_size == 8 && (type[0] & 15) == 3 && (type[1] & 15) == 0 &&
                      sv_le32(type + 4) == size && size > 0 && value[size - 1] == 0;
    const bool number = is_type(type, type_size, i32_le, sizeof i32_le) && size == 4;
    SV_CHECK(r->c, scalar && (text || number), SV_UNSUPPORTED,
             "%s: attribute '%s' is neither a text of fixed length nor an int32", r->path, shown);
    SV_CHECK(r->c, !sv_weights_meta(r->w, key), SV_BAD_INPUT, "%s: attribute '%s' is there twice", r->path,
             shown);
    char digits[16];
    if (number) snprintf(digits, sizeof digits, "%d", (int)(int32_t)sv_le32(value));
    return sv_weights_set_meta(r->c, r->w, key, number ? digits : (const char *)value);
}

static sv_status on_root(reader *r, const message *m, void *user)
{
    (void)user;
    const uint8_t *name = NULL;
    size_t length = 0;
    uint64_t at = 0;
    char shown[SV_SHOWN];
    switch (m->type) {
    case ATTRIBUTE:
        return read_attribute(r, m);
    case LINK:
        SV_TRY(read_link(r, m, &name, &length, &at));
        SV_CHECK(r->c, length == 7 && memcmp(name, "weights", 7) == 0 && r->weights_at == NOWHERE,
                 SV_UNSUPPORTED, "%s: it contains '%s', which is no part of a model file", r->path,
                 sv_shown(shown, name, length));
        r->weights_at = at;
        return SV_OK;
    case LINK_INFO:
    case ATTRIBUTE_INFO:
        return check_compact(r, m, "the root group");
    case GROUP_INFO:
        return SV_OK;
    default:
        return refuse(r, m, "the root group");
    }
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

typedef struct dataset {
    bool has_space, has_type, has_layout;
    sv_number number;
    int ndim;
    int64_t dims[SV_MAX_DIMS];
    uint64_t at, size;
} dataset;

static sv_status on_dataset(reader *r, const message *m, void *user)
{
    dataset *d = user;
    const uint8_t *p = m->data;
    switch (m->type) {
    case DATASPACE: { /* version, rank, flags (1: maximum sizes follow), type (1: simple), sizes */
        if (d->has_space || m->size < 4 || p[0] != 2 || p[3] != 1 || p[1] == 0)
            return refuse(r, m, "a dataspace");
        SV_CHECK(r->c, p[1] <= SV_MAX_DIMS, SV_UNSUPPORTED,
                 "%s: a tensor has %u dimensions, at most %d are possible", r->path, p[1], SV_MAX_DIMS);
        d->ndim = p[1];
        if (m->size != 4 + 8 * (size_t)d->ndim * (p[2] & 1 ? 2 : 1)) return refuse(r, m, "a dataspace");
        for (int i = 0; i < d->ndim; i++) {
            const uint64_t size = sv_le64(p + 4 + 8 * i);
            d->dims[i] = size > INT32_MAX ? -1 : (int64_t)size;
        }
        d->has_space = true;
        return SV_OK;
    }
    case DATATYPE: {
        const bool f32 = is_type(p, m->size, f32_le, sizeof f32_le),
                   i64 = is_type(p, m->size, i64_le, sizeof i64_le);
        SV_CHECK(r->c, !d->has_type && (f32 || i64 || is_type(p, m->size, i32_le, sizeof i32_le)),
                 SV_UNSUPPORTED, "%s: a tensor is not float32, int64 or int32 (little endian)", r->path);
        d->number = f32 ? SV_NUMBER_F32 : i64 ? SV_NUMBER_I64 : SV_NUMBER_I32;
        d->has_type = true;
        return SV_OK;
    }
    case LAYOUT: /* version, class (1: contiguous), address, size */
        if (d->has_layout || m->size != 18 || p[0] != 3 || p[1] != 1)
            return refuse(r, m, "a tensor's storage");
        d->at = sv_le64(p + 2);
        d->size = sv_le64(p + 10);
        d->has_layout = true;
        return SV_OK;
    case ATTRIBUTE_INFO:
        return check_compact(r, m, "a tensor");
    case FILL_VALUE:
        return SV_OK;
    default:
        return refuse(r, m, "a tensor");
    }
}

static sv_status on_weight(reader *r, const message *m, void *user)
{
    (void)user;
    if (m->type == LINK_INFO || m->type == ATTRIBUTE_INFO) return check_compact(r, m, "the group of weights");
    if (m->type == GROUP_INFO) return SV_OK;
    if (m->type != LINK) return refuse(r, m, "the group of weights");
    const uint8_t *text = NULL;
    size_t length = 0;
    uint64_t at = 0;
    SV_TRY(read_link(r, m, &text, &length, &at));
    char name[SV_WEIGHTS_MAX_NAME + 1], shown[SV_SHOWN];
    memcpy(name, text, length);
    name[length] = '\0';
    sv_shown(shown, name, length);
    dataset d = {0};
    SV_TRY(walk_header(r, at, on_dataset, &d));
    SV_CHECK(r->c, d.has_space && d.has_type && d.has_layout, SV_BAD_INPUT, "%s: '%s' is not a dataset",
             r->path, shown);
    const int64_t elements = sv_elements(d.ndim, d.dims);
    SV_CHECK(r->c, elements >= 0, SV_BAD_INPUT, "%s: tensor '%s' has impossible sizes", r->path, shown);
    const uint64_t bytes = (uint64_t)elements * sv_number_bytes(d.number);
    r->data_bytes += bytes;
    const uint64_t size = r->source->size;
    SV_CHECK(r->c,
             bytes == 0 || (d.size == bytes && d.at <= size && bytes <= size - d.at && r->data_bytes <= size),
             SV_BAD_INPUT, "%s: tensor '%s' of %llu bytes is not in the file", r->path, shown,
             (unsigned long long)bytes);
    void *data = NULL;
    SV_TRY(sv_weights_make(r->c, r->w, name, sv_number_kept_as(d.number), d.ndim, d.dims, &data));
    return bytes == 0 ? SV_OK : sv_source_read(r->c, r->source, d.at, data, (size_t)bytes);
}

/* ---- the file ------------------------------------------------------------------------------------------ */

static sv_status check_superblock(reader *r, uint64_t *root)
{
    uint8_t p[SUPERBLOCK] = {0};
    SV_CHECK(r->c, r->source->size >= SUPERBLOCK, SV_BAD_INPUT,
             "%s is cut off: an HDF5 file has more than %llu bytes", r->path,
             (unsigned long long)r->source->size);
    SV_TRY(sv_source_read(r->c, r->source, 0, p, sizeof p));
    SV_CHECK(
        r->c, p[8] == 2 && p[9] == 8 && p[10] == 8, SV_UNSUPPORTED,
        "%s is an HDF5 file, but not a model file written by Savanna (superblock version %u, expected 2)",
        r->path, p[8]);
    if (!SV_CHECKSUMS_MATCH(lookup3(p, 44) == sv_le32(p + 44))) return damaged(r, "superblock", 0);
    const uint64_t end = sv_le64(p + 28);
    SV_CHECK(r->c, end == r->source->size, SV_BAD_INPUT,
             "%s has %llu bytes instead of %llu: it was cut off (copy it again)", r->path,
             (unsigned long long)r->source->size, (unsigned long long)end);
    SV_CHECK(r->c, sv_le64(p + 12) == 0 && sv_le64(p + 20) == NOWHERE, SV_UNSUPPORTED,
             "%s is an HDF5 file, but not a model file written by Savanna (it has a superblock extension)",
             r->path);
    *root = sv_le64(p + 36);
    return SV_OK;
}

sv_status sv_hdf5_model_read(sv_ctx *c, const sv_source *source, sv_weights *w)
{
    reader r = {.c = c, .w = w, .source = source, .path = source->path, .weights_at = NOWHERE};
    uint64_t root = 0;
    SV_TRY(check_superblock(&r, &root));
    SV_TRY(walk_header(&r, root, on_root, NULL));
    const char *format = sv_weights_meta(w, "format"), *version = sv_weights_meta(w, "format_version");
    const char *checksum = sv_weights_meta(w, "checksum");
    char wanted[16], shown[SV_SHOWN], actual[SV_SHA256_TEXT];
    snprintf(wanted, sizeof wanted, "%d", SV_WEIGHTS_FORMAT_VERSION);
    SV_CHECK(c, format && strcmp(format, SV_WEIGHTS_FORMAT) == 0, SV_BAD_INPUT,
             "%s is an HDF5 file, but not a model: its attribute 'format' is not '%s'", r.path,
             SV_WEIGHTS_FORMAT);
    SV_CHECK(c, version && strcmp(version, wanted) == 0, SV_UNSUPPORTED,
             "%s is a model file of version %s; this program reads version %s", r.path,
             version ? sv_shown(shown, version, strlen(version)) : "(none)", wanted);
    SV_CHECK(c, r.weights_at != NOWHERE, SV_BAD_INPUT, "%s: the group 'weights' is missing", r.path);
    SV_TRY(walk_header(&r, r.weights_at, on_weight, NULL));
    sv_weights_checksum(w, actual);
    SV_CHECK(
        c, checksum && SV_CHECKSUMS_MATCH(strcmp(checksum, actual) == 0), SV_BAD_INPUT,
        "%s: its checksum does not match its content: the file is damaged or was changed by another program",
        r.path);
    return SV_OK;
}
