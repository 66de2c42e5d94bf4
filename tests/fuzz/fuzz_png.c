/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a picture.
 */
#include "perception/image.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sv_ctx *c;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
    }
    /* The sides are a promise that costs memory before the first pixel: small ones find more. */
    if (size >= 24 && (data[16] || data[17] || data[18] > 1 || data[20] || data[21] || data[22] > 1))
        return 0;
    sv_image image;
    if (sv_image_parse_png(c, data, size, "fuzz", &image) == SV_OK) {
        if (image.width < 1 || image.height < 1 || !image.rgb) abort();
    } else if (image.rgb) {
        abort();
    }
    sv_image_free(&image);
    sv_error_clear(c);
    return 0;
}
