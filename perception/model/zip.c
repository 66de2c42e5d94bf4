/* SPDX-License-Identifier: Apache-2.0
 *
 * Layout, from the end of the file:
 *   members: local header (30 + name + extra), data, [data descriptor]
 *   central directory: one record (46 + name + extra + comment) per member
 *   [zip64 end record (56 or more), zip64 locator (20)]   end record (22 + comment)
 * Sizes and offsets are taken from the central directory only; the local
 * header must name the same member and tells where its data begins.
 */
#include "zip.h"

#include "weights.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    END = 22,
    END64 = 56,
    LOCATOR64 = 20,
    RECORD = 46,
    LOCAL = 30,
    MAX_COMMENT = 65535,
    MAX_MEMBERS = 1 << 17
};
enum { MAX_NAME = 512 };
static const uint64_t MAX_DIRECTORY = (uint64_t)64 << 20;
/* Deflate reaches 1032:1; weights, even half of them zero, stay below 4:1. Small members may be anything. */
static const uint64_t MAX_RATIO = 64, RATIO_FREE = (uint64_t)1 << 20;

typedef struct directory {
    uint64_t offset, size, count;
} directory;

static sv_status find_directory(sv_ctx *c, const sv_source *source, directory *out)
{
    const char *path = source->path;
    SV_CHECK(c, source->size >= END, SV_BAD_INPUT, "%s has only %llu bytes: it was cut off", path,
             (unsigned long long)source->size);
    const size_t tail_size = source->size < END + MAX_COMMENT ? (size_t)source->size : END + MAX_COMMENT;
    const uint64_t tail_at = source->size - tail_size;
    uint8_t *tail = malloc(tail_size);
    SV_CHECK(c, tail, SV_NO_MEMORY, "%s: no memory for the end of the archive", path);
    const sv_status status = sv_source_read(c, source, tail_at, tail, tail_size);
    bool found = false;
    uint8_t end[END];
    uint64_t end_at = 0;
    for (size_t at = tail_size - END + 1; status == SV_OK && !found && at-- > 0;) {
        found = memcmp(tail + at, "PK\5\6", 4) == 0 && sv_le16(tail + at + 20) == tail_size - END - at;
        if (!found) continue;
        memcpy(end, tail + at, END);
        end_at = tail_at + at;
    }
    free(tail);
    SV_TRY(status);
    SV_CHECK(
        c, found, SV_BAD_INPUT,
        "%s begins like a zip archive but has no directory at its end: it was cut off (download it again)",
        path);
    uint32_t disk = sv_le16(end + 4), first_disk = sv_le16(end + 6);
    uint64_t here = sv_le16(end + 8);
    *out = (directory){.count = sv_le16(end + 10), .size = sv_le32(end + 12), .offset = sv_le32(end + 16)};
    uint64_t limit = end_at;

    uint8_t locator[LOCATOR64];
    if (end_at >= LOCATOR64) SV_TRY(sv_source_read(c, source, end_at - LOCATOR64, locator, LOCATOR64));
    if (end_at >= LOCATOR64 && memcmp(locator, "PK\6\7", 4) == 0) {
        const uint64_t at = sv_le64(locator + 8);
        SV_CHECK(c, at <= end_at - LOCATOR64 && end_at - LOCATOR64 - at >= END64, SV_BAD_INPUT,
                 "%s: the zip64 end record at offset %llu lies outside the file", path,
                 (unsigned long long)at);
        uint8_t end64[END64];
        SV_TRY(sv_source_read(c, source, at, end64, END64));
        SV_CHECK(c, memcmp(end64, "PK\6\6", 4) == 0, SV_BAD_INPUT,
                 "%s: there is no zip64 end record at offset %llu", path, (unsigned long long)at);
        disk = sv_le32(end64 + 16), first_disk = sv_le32(end64 + 20);
        here = sv_le64(end64 + 24);
        *out = (directory){
            .count = sv_le64(end64 + 32), .size = sv_le64(end64 + 40), .offset = sv_le64(end64 + 48)};
        limit = at;
    }
    SV_CHECK(c, disk == 0 && first_disk == 0 && here == out->count, SV_UNSUPPORTED,
             "%s is one part of an archive of several disks", path);
    SV_CHECK(c, out->offset <= limit && out->size <= limit - out->offset, SV_BAD_INPUT,
             "%s: the archive's directory (%llu bytes at offset %llu) lies outside the file", path,
             (unsigned long long)out->size, (unsigned long long)out->offset);
    SV_CHECK(c, out->count <= MAX_MEMBERS && out->size <= MAX_DIRECTORY && out->count * RECORD <= out->size,
             SV_BAD_INPUT, "%s: a directory of %llu bytes cannot hold %llu members (at most %d)", path,
             (unsigned long long)out->size, (unsigned long long)out->count, MAX_MEMBERS);
    return SV_OK;
}

/* The zip64 extra field holds, in this order, those of size, packed and offset that are saturated in the
 * record. */
static sv_status read_zip64(sv_ctx *c, const char *path, const uint8_t *extra, size_t bytes,
                            sv_zip_entry *entry)
{
    uint64_t *const wanted[3] = {entry->size == UINT32_MAX ? &entry->size : NULL,
                                 entry->packed == UINT32_MAX ? &entry->packed : NULL,
                                 entry->header == UINT32_MAX ? &entry->header : NULL};
    if (!wanted[0] && !wanted[1] && !wanted[2]) return SV_OK;
    while (bytes >= 4) {
        const size_t length = sv_le16(extra + 2);
        if (length > bytes - 4) break;
        if (sv_le16(extra) == 1) {
            size_t at = 0;
            for (int i = 0; i < 3; i++) {
                if (!wanted[i]) continue;
                SV_CHECK(c, at + 8 <= length, SV_BAD_INPUT, "%s: member '%s' has a zip64 field of %zu bytes",
                         path, entry->name, length);
                *wanted[i] = sv_le64(extra + 4 + at);
                at += 8;
            }
            return SV_OK;
        }
        extra += 4 + length;
        bytes -= 4 + length;
    }
    return SV_OK; /* really 4294967295: the checks against the file's size decide */
}

static sv_status read_record(sv_ctx *c, sv_zip *zip, const uint8_t *p, uint64_t left, const directory *where,
                             sv_zip_entry *entry, char **names, uint64_t *used)
{
    const char *path = zip->source->path;
    char shown[SV_SHOWN];
    SV_CHECK(c, left >= RECORD && memcmp(p, "PK\1\2", 4) == 0, SV_BAD_INPUT,
             "%s: the archive's directory is damaged", path);
    const size_t name = sv_le16(p + 28), extra = sv_le16(p + 30), comment = sv_le16(p + 32);
    *used = RECORD + name + extra + comment;
    SV_CHECK(c, *used <= left, SV_BAD_INPUT, "%s: a record of the archive's directory runs past its end",
             path);
    const uint8_t *text = p + RECORD;
    bool plain = name > 0 && name <= MAX_NAME;
    for (size_t i = 0; plain && i < name; i++) plain = text[i] >= 0x20 && text[i] != 0x7f;
    SV_CHECK(c, plain, SV_BAD_INPUT, "%s: the archive has a member with the unusable name '%s'", path,
             sv_shown(shown, text, name));
    entry->name = *names;
    memcpy(*names, text, name);
    (*names)[name] = '\0';
    *names += name + 1;
    sv_shown(shown, text, name);

    entry->crc = sv_le32(p + 16);
    entry->packed = sv_le32(p + 20);
    entry->size = sv_le32(p + 24);
    entry->header = sv_le32(p + 42);
    SV_TRY(read_zip64(c, path, text + name, extra, entry));
    const uint32_t flags = sv_le16(p + 8), method = sv_le16(p + 10);
    SV_CHECK(c, !(flags & 1), SV_UNSUPPORTED, "%s: member '%s' is encrypted", path, shown);
    SV_CHECK(c, method == 0 || method == 8, SV_UNSUPPORTED,
             "%s: member '%s' uses compression method %u; only stored and deflated members can be read", path,
             shown, method);
    entry->deflated = method == 8;
    SV_CHECK(c, entry->deflated || entry->size == entry->packed, SV_BAD_INPUT,
             "%s: stored member '%s' has two sizes, %llu and %llu bytes", path, shown,
             (unsigned long long)entry->size, (unsigned long long)entry->packed);
    SV_CHECK(c, !entry->deflated || entry->size <= RATIO_FREE || entry->size / MAX_RATIO <= entry->packed,
             SV_BAD_INPUT, "%s: member '%s' claims to unpack %llu bytes into %llu: a zip bomb, refused", path,
             shown, (unsigned long long)entry->packed, (unsigned long long)entry->size);
    zip->total += entry->size < UINT64_MAX - zip->total ? entry->size : UINT64_MAX - zip->total;
    SV_CHECK(c, !entry->deflated || zip->total <= SV_WEIGHTS_MAX_BYTES, SV_BAD_INPUT,
             "%s: its members claim to unpack to more than %llu bytes, refused", path,
             (unsigned long long)SV_WEIGHTS_MAX_BYTES);

    uint8_t local[LOCAL + MAX_NAME];
    SV_CHECK(c, entry->header <= where->offset && where->offset - entry->header >= LOCAL + name, SV_BAD_INPUT,
             "%s: member '%s' begins at offset %llu, beyond the archive's data", path, shown,
             (unsigned long long)entry->header);
    SV_TRY(sv_source_read(c, zip->source, entry->header, local, LOCAL + name));
    SV_CHECK(c,
             memcmp(local, "PK\3\4", 4) == 0 && sv_le16(local + 26) == name &&
                 memcmp(local + LOCAL, text, name) == 0,
             SV_BAD_INPUT, "%s: there is no member '%s' at offset %llu, where the directory says it is", path,
             shown, (unsigned long long)entry->header);
    entry->data = entry->header + LOCAL + name + sv_le16(local + 28);
    SV_CHECK(c, entry->data <= where->offset && entry->packed <= where->offset - entry->data, SV_BAD_INPUT,
             "%s: member '%s' (%llu bytes) runs past the archive's data", path, shown,
             (unsigned long long)entry->packed);
    return SV_OK;
}

static int by_header(const void *a, const void *b)
{
    const uint64_t x = ((const sv_zip_entry *)a)->header, y = ((const sv_zip_entry *)b)->header;
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const sv_zip_entry *)a)->name, ((const sv_zip_entry *)b)->name);
}

sv_status sv_zip_open(sv_ctx *c, const sv_source *source, sv_zip *zip)
{
    *zip = (sv_zip){.source = source};
    const char *path = source->path;
    directory where = {0};
    SV_TRY(find_directory(c, source, &where));
    const size_t count = (size_t)where.count;
    zip->directory = malloc((size_t)where.size + 1);
    zip->names =
        malloc((size_t)where.size + count + 1); /* a name and its terminator fit the record they come from */
    zip->entries = calloc(count + 1, sizeof *zip->entries);
    SV_CHECK(c, zip->directory && zip->names && zip->entries, SV_NO_MEMORY,
             "%s: no memory for a directory of %zu members", path, count);
    SV_TRY(sv_source_read(c, source, where.offset, zip->directory, (size_t)where.size));
    char *names = zip->names;
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t used = 0;
        SV_TRY(read_record(c, zip, zip->directory + at, where.size - at, &where, &zip->entries[i], &names,
                           &used));
        at += used;
        zip->count++;
    }
    char shown[2][SV_SHOWN];
    qsort(zip->entries, count, sizeof *zip->entries, by_header);
    for (size_t i = 1; i < count; i++) {
        const sv_zip_entry *before = &zip->entries[i - 1], *entry = &zip->entries[i];
        SV_CHECK(c, before->data + before->packed <= entry->header, SV_BAD_INPUT,
                 "%s: members '%s' and '%s' overlap: a zip bomb or a damaged file, refused", path,
                 sv_shown(shown[0], before->name, strlen(before->name)),
                 sv_shown(shown[1], entry->name, strlen(entry->name)));
    }
    qsort(zip->entries, count, sizeof *zip->entries, by_name);
    for (size_t i = 1; i < count; i++) {
        SV_CHECK(c, strcmp(zip->entries[i - 1].name, zip->entries[i].name) != 0, SV_BAD_INPUT,
                 "%s: member '%s' is there twice", path,
                 sv_shown(shown[0], zip->entries[i].name, strlen(zip->entries[i].name)));
    }
    return SV_OK;
}

void sv_zip_close(sv_zip *zip)
{
    free(zip->directory);
    free(zip->names);
    free(zip->entries);
    *zip = (sv_zip){0};
}

const sv_zip_entry *sv_zip_find(const sv_zip *zip, const char *name)
{
    const sv_zip_entry key = {.name = name};
    return zip->count == 0 ? NULL : bsearch(&key, zip->entries, (size_t)zip->count, sizeof key, by_name);
}

static sv_status unpack(sv_ctx *c, const sv_zip *zip, const sv_zip_entry *entry, const char *shown,
                        uint8_t *to)
{
    z_stream stream = {0};
    SV_CHECK(c, inflateInit2(&stream, -15) == Z_OK, SV_NO_MEMORY, "%s: no memory to unpack '%s'",
             zip->source->path, shown);
    uint8_t part[16384];
    uint64_t read = 0, made = 0;
    sv_status status = SV_OK;
    int result = Z_OK;
    while (status == SV_OK && result == Z_OK) {
        if (stream.avail_in == 0 && read < entry->packed) {
            const uint64_t left = entry->packed - read;
            const size_t count = left < sizeof part ? (size_t)left : sizeof part;
            status = sv_source_read(c, zip->source, entry->data + read, part, count);
            if (status != SV_OK) break;
            read += count;
            stream.next_in = part;
            stream.avail_in = (uInt)count;
        }
        /* One byte of room beyond the end tells an entry that is longer than it says from one that fits. */
        uint8_t beyond;
        const uint64_t room = entry->size - made;
        const uInt want = room == 0 ? 1 : room > (1u << 30) ? 1u << 30 : (uInt)room;
        stream.next_out = room == 0 ? &beyond : to + made;
        stream.avail_out = want;
        result = inflate(&stream, Z_NO_FLUSH);
        const uInt got = want - stream.avail_out;
        if (room == 0 && got > 0) result = Z_DATA_ERROR;
        made += room == 0 ? 0 : got;
    }
    inflateEnd(&stream);
    SV_TRY(status);
    SV_CHECK(c,
             result == Z_STREAM_END && made == entry->size && read == entry->packed && stream.avail_in == 0,
             SV_BAD_INPUT, "%s: the compressed data of member '%s' is damaged or not as long as it says",
             zip->source->path, shown);
    return SV_OK;
}

sv_status sv_zip_read(sv_ctx *c, const sv_zip *zip, const sv_zip_entry *entry, void *bytes)
{
    char shown[SV_SHOWN];
    sv_shown(shown, entry->name, strlen(entry->name));
    if (entry->deflated)
        SV_TRY(unpack(c, zip, entry, shown, bytes));
    else
        SV_TRY(sv_source_read(c, zip->source, entry->data, bytes, (size_t)entry->size));
    uLong crc = 0;
    for (uint64_t at = 0; at < entry->size;) {
        const uint64_t left = entry->size - at;
        const uInt count = left > (1u << 30) ? 1u << 30 : (uInt)left;
        crc = crc32(crc, (const Bytef *)bytes + at, count);
        at += count;
    }
    SV_CHECK(c, SV_CHECKSUMS_MATCH(crc == entry->crc), SV_BAD_INPUT,
             "%s: member '%s' has checksum %08lx instead of %08x: the file is damaged (download it again)",
             zip->source->path, shown, (unsigned long)crc, entry->crc);
    return SV_OK;
}
