/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "fingerprint.h"

#include "crc32c.h"
#include "dataset_type.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { BLOCK = 1 << 20 };

static uint32_t chain(uint32_t before, const void *bytes, size_t size)
{
    const uint32_t both[2] = {before, sv_crc32c(bytes, size)};
    return sv_crc32c(both, sizeof both);
}

void sv_fingerprint_values(sv_fingerprint *f, const void *bytes, size_t size)
{
    f->values = chain(f->values, bytes, size);
}

static sv_status add_content(sv_ctx *c, sv_fingerprint *f, const char *path, int64_t offset, int64_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *block = malloc(BLOCK);
    bool good = file && block && fseeko(file, (off_t)offset, SEEK_SET) == 0;
    while (good && size > 0) {
        const size_t wanted = size < BLOCK ? (size_t)size : BLOCK;
        good = fread(block, 1, wanted, file) == wanted;
        if (good) f->content = chain(f->content, block, wanted);
        size -= (int64_t)wanted;
    }
    free(block);
    if (file) fclose(file);
    SV_CHECK(c, good, SV_IO, "%s: cannot be read, or is shorter than it was", path);
    return SV_OK;
}

sv_status sv_fingerprint_file(sv_ctx *c, sv_fingerprint *f, const char *path, int64_t offset, int64_t size)
{
    const long long there = sv_dataset_file_size(path);
    SV_CHECK(c, there >= 0, SV_IO, "%s: is not there", path);
    if (size < 0) size = there - offset;
    SV_CHECK(c, offset >= 0 && size >= 0 && offset + size <= there, SV_IO, "%s: is shorter than it was",
             path);
    f->bytes += size;
    return f->whole ? add_content(c, f, path, offset, size) : SV_OK;
}
