/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

sv_status sv_file_read(sv_ctx *c, const char *path, size_t limit, void **out, size_t *bytes)
{
    *out = NULL;
    *bytes = 0;
    FILE *file = fopen(path, "rb");
    SV_CHECK(c, file != NULL, SV_IO, "%s: cannot be opened: %s", path, strerror(errno));
    /* The size is a hint only: pipes have none, and a file may grow while it is read. */
    struct stat info;
    size_t room = 65536;
    if (fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0)
        room = (uintmax_t)info.st_size < limit ? (size_t)info.st_size + 1 : limit + 1;
    char *data = NULL;
    size_t used = 0;
    sv_status status = SV_OK;
    for (;;) {
        char *grown = realloc(data, room + 1);
        if (!grown) {
            status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %zu bytes", path, room + 1);
            break;
        }
        data = grown;
        errno = 0;
        used += fread(data + used, 1, room - used, file);
        if (used > limit) {
            status = SV_FAIL(c, SV_BAD_INPUT, "%s: larger than the limit of %zu bytes", path, limit);
            break;
        }
        if (ferror(file)) {
            status = SV_FAIL(c, SV_IO, "%s: cannot be read: %s", path, strerror(errno));
            break;
        }
        if (used < room) break;
        room = room < limit / 2 ? room * 2 : limit + 1;
    }
    fclose(file);
    if (status != SV_OK) {
        free(data);
        return status;
    }
    data[used] = '\0';
    *out = data;
    *bytes = used;
    return SV_OK;
}

void sv_output_discard(sv_output *output)
{
    if (output->stream) fclose(output->stream);
    if (output->temporary) unlink(output->temporary);
    free(output->temporary);
    free(output->target);
    *output = (sv_output){0};
}

sv_status sv_output_open(sv_ctx *c, sv_output *output, const char *path)
{
    static atomic_uint serial; /* two outputs of one process never share a temporary name */
    *output = (sv_output){0};
    struct stat info;
    const bool exists = stat(path, &info) == 0;
    SV_CHECK(c, !exists || !S_ISDIR(info.st_mode), SV_IO, "%s: is a folder, a file name is needed", path);
    if (exists && !S_ISREG(info.st_mode)) {
        output->target = strdup(path);
        SV_CHECK(c, output->target != NULL, SV_NO_MEMORY, "%s: no memory to write it", path);
        output->stream = fopen(path, "wb");
        if (output->stream) return SV_OK;
        const int refused = errno;
        sv_output_discard(output);
        return SV_FAIL(c, SV_IO, "%s: cannot be written: %s", path, strerror(refused));
    }
    output->target = exists ? realpath(path, NULL) : strdup(path);
    const size_t room = output->target ? strlen(output->target) + 48 : 0;
    output->temporary = output->target ? malloc(room) : NULL;
    if (!output->temporary) {
        sv_output_discard(output);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to write it", path);
    }
    int handle = -1;
    for (int attempt = 0; attempt < 100 && handle < 0; attempt++) {
        snprintf(output->temporary, room, "%s.part-%ld-%u", output->target, (long)getpid(),
                 atomic_fetch_add(&serial, 1));
        handle = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (handle < 0 && errno != EEXIST) break;
    }
    output->stream = handle < 0 ? NULL : fdopen(handle, "wb");
    if (output->stream) return SV_OK;
    const int reason = errno;
    if (handle >= 0) {
        close(handle);
        unlink(output->temporary);
    }
    free(output->temporary);
    output->temporary = NULL;
    sv_output_discard(output);
    return SV_FAIL(c, SV_IO, "%s: cannot be written: %s", path, strerror(reason));
}

sv_status sv_output_commit(sv_ctx *c, sv_output *output)
{
    bool good = !ferror(output->stream);
    errno = 0;
    good = fflush(output->stream) == 0 && good;
    /* The rename must not overtake the data when the machine loses power. */
    if (good && output->temporary) good = fsync(fileno(output->stream)) == 0;
    int reason = errno;
    if (fclose(output->stream) != 0 && good) {
        good = false;
        reason = errno;
    }
    output->stream = NULL;
    if (good && output->temporary && rename(output->temporary, output->target) != 0) {
        good = false;
        reason = errno;
    }
    sv_status status = SV_OK;
    if (!good)
        status = SV_FAIL(c, SV_IO, "%s: cannot be written: %s", output->target,
                         reason ? strerror(reason) : "a write failed");
    if (good) {
        free(output->temporary);
        output->temporary = NULL; /* it has become the target */
    }
    sv_output_discard(output);
    return status;
}
