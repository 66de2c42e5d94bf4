/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a file that is being parsed: read at an offset, never beyond
 * the end, from a descriptor or from memory. Nothing is mapped, so a file that
 * shrinks while it is read gives a sentence instead of a signal.
 */
#ifndef SV_SOURCE_H
#define SV_SOURCE_H

#include "perception/core/context.h"

typedef struct sv_source {
    const char *path; /* for messages; borrowed */
    uint64_t size;
    const uint8_t *memory; /* NULL: read from fd */
    int fd;                /* -1: read from memory */
} sv_source;

/* Regular files only. Close it also after a failure. */
sv_status sv_source_open(sv_ctx *c, const char *path, sv_source *out);
sv_source sv_source_memory(const char *name, const void *bytes, size_t size);
void sv_source_close(sv_source *source); /* may be called twice */
/* Exactly 'count' bytes. */
sv_status sv_source_read(sv_ctx *c, const sv_source *source, uint64_t offset, void *bytes, size_t count);

static inline uint32_t sv_le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline uint32_t sv_le32(const uint8_t *p)
{
    return sv_le16(p) | sv_le16(p + 2) << 16;
}
static inline uint64_t sv_le64(const uint8_t *p)
{
    return (uint64_t)sv_le32(p) | (uint64_t)sv_le32(p + 4) << 32;
}

/* A comparison of checksums. Fuzz targets are built without them: random changes would never get past. */
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#define SV_CHECKSUMS_MATCH(comparison) ((void)(comparison), true)
#else
#define SV_CHECKSUMS_MATCH(comparison) (comparison)
#endif

enum { SV_SHOWN = 96 };
/* Text from a file, fit for a message: at most 'length' bytes, shortened, control characters and others shown
 * as '?'. */
const char *sv_shown(char out[SV_SHOWN], const void *text, size_t length);

#endif
