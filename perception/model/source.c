/* SPDX-License-Identifier: Apache-2.0 */
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

sv_status sv_source_open(sv_ctx *c, const char *path, sv_source *out)
{
    *out = (sv_source){.path = path, .fd = -1};
    /* Not blocking: a pipe without a writer must not hang before it is refused. */
    out->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    SV_CHECK(c, out->fd >= 0, SV_IO, "%s cannot be opened: %s", path, strerror(errno));
    struct stat info;
    SV_CHECK(c, fstat(out->fd, &info) == 0, SV_IO, "%s cannot be examined: %s", path, strerror(errno));
    SV_CHECK(c, S_ISREG(info.st_mode), SV_IO, "%s is %s, not a file", path,
             S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    out->size = (uint64_t)info.st_size;
    return SV_OK;
}

sv_source sv_source_memory(const char *name, const void *bytes, size_t size)
{
    return (sv_source){.path = name, .size = size, .memory = bytes, .fd = -1};
}

void sv_source_close(sv_source *source)
{
    if (source->fd >= 0) close(source->fd);
    source->fd = -1;
}

sv_status sv_source_read(sv_ctx *c, const sv_source *source, uint64_t offset, void *bytes, size_t count)
{
    SV_CHECK(c, offset <= source->size && count <= source->size - offset, SV_BAD_INPUT,
             "%s ends too early: %zu bytes wanted at offset %llu, the file has %llu", source->path, count,
             (unsigned long long)offset, (unsigned long long)source->size);
    if (source->memory) {
        if (count > 0) memcpy(bytes, source->memory + offset, count);
        return SV_OK;
    }
    size_t done = 0;
    while (done < count) {
        const ssize_t got = pread(source->fd, (char *)bytes + done, count - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        SV_CHECK(c, got >= 0, SV_IO, "%s cannot be read: %s", source->path, strerror(errno));
        SV_CHECK(c, got > 0, SV_IO, "%s became shorter while it was read", source->path);
        done += (size_t)got;
    }
    return SV_OK;
}

const char *sv_shown(char out[SV_SHOWN], const void *text, size_t length)
{
    const unsigned char *from = text;
    size_t n = length < SV_SHOWN ? length : SV_SHOWN - 4;
    for (size_t i = 0; i < n; i++) out[i] = from[i] >= 0x20 && from[i] < 0x7f ? (char)from[i] : '?';
    if (n < length) {
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = '\0';
    return out;
}
