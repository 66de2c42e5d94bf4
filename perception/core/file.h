/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole files in, whole files out. Reading is bounded; writing goes to a
 * temporary file beside the target, which is renamed when everything is on
 * disk: a reader sees the old file or the new one, never half of one.
 */
#ifndef SV_FILE_H
#define SV_FILE_H

#include "context.h"

#include <stdio.h>

/* The content of 'path' in malloc'ed memory with a zero byte behind it. More than 'limit' bytes are refused.
 */
sv_status sv_file_read(sv_ctx *c, const char *path, size_t limit, void **out, size_t *bytes);

typedef struct sv_output {
    FILE *stream; /* write here; errors are found by sv_output_commit() */
    char *target; /* NULL: nothing to rename (a pipe or a device) */
    char *temporary;
} sv_output;

/* An existing pipe or device is written directly; a link is followed. */
sv_status sv_output_open(sv_ctx *c, sv_output *output, const char *path);
/* Flush, close and rename. On failure (a full disk) the temporary file is removed and the target is
 * untouched. */
sv_status sv_output_commit(sv_ctx *c, sv_output *output);
/* Give up; harmless after a commit. */
void sv_output_discard(sv_output *output);

#endif
