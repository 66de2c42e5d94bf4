/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a PCD or PLY file; the first byte chooses what is asked of it. What was read must be finite and read back
 * the same after it was written with our own compression.
 */
#include "perception/lzf.h"
#include "perception/points.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_compression(const sv_points *points)
{
    const size_t size = sizeof(float) * (size_t)points->count * (size_t)points->columns;
    const unsigned char *bytes = (const unsigned char *)points->data;
    unsigned char *packed = malloc(sv_lzf_room(size)), *out = malloc(size + 1);
    if (!packed || !out) abort();
    const size_t used = sv_lzf_pack(bytes, size, packed);
    if (used > sv_lzf_room(size) || !sv_lzf_expand(packed, used, out, size) || memcmp(out, bytes, size) != 0)
        abort();
    free(packed);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const layouts[] = {NULL, "xyz", "xyzi", "xyzir"};
    static sv_ctx *c;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
    }
    if (size == 0) return 0;
    sv_points points;
    if (sv_points_parse(c, data + 1, size - 1, "fuzz", layouts[data[0] % 4], &points) == SV_OK) {
        for (int i = 0; i < points.count * points.columns; i++)
            if (!isfinite(points.data[i])) abort();
        check_compression(&points);
    } else if (points.data || points.count || sv_error_message(c)[0] == '\0') {
        abort();
    }
    sv_points_free(&points);
    sv_error_clear(c);
    return 0;
}
