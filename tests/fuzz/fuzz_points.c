/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a point file; the first byte chooses the layout.
 */
#include "perception/points.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const layouts[] = {"xyzi", "xyzir", "xyzit:f16", "xyzie:f16"};
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
    } else if (points.data || points.count) {
        abort();
    }
    sv_points_free(&points);
    sv_error_clear(c);
    return 0;
}
