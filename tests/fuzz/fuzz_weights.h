/* SPDX-License-Identifier: Apache-2.0
 *
 * What the targets for files of weights have in common.
 */
#ifndef FUZZ_WEIGHTS_H
#define FUZZ_WEIGHTS_H

#include "perception/model/weights.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Parse; what is accepted must be whole: named in order, every byte readable, and findable. */
static inline void parse_weights(const void *data, size_t size)
{
    static sv_ctx *c;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
    }
    sv_weights *w = NULL;
    const sv_status status = sv_weights_parse(c, "fuzz", data, size, &w);
    if ((status == SV_OK) != (w != NULL) || (status != SV_OK) != (sv_error_message(c)[0] != '\0')) abort();
    if (status == SV_INTERNAL) abort();
    volatile uint8_t sum = 0;
    for (int i = 0; w && i < sv_weights_count(w); i++) {
        const sv_tensor t = sv_weights_tensor(w, i);
        const size_t bytes = (size_t)t.dim[0] * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype);
        for (size_t k = 0; k < bytes; k++) sum = (uint8_t)(sum + ((const uint8_t *)t.data)[k]);
        if (i > 0 && strcmp(sv_weights_name(w, i - 1), sv_weights_name(w, i)) >= 0) abort();
        if (sv_weights_find(w, sv_weights_name(w, i)).data != t.data) abort();
    }
    for (int i = 0; w && i < sv_weights_meta_count(w); i++) {
        if (!sv_weights_meta(w, sv_weights_meta_key(w, i))) abort();
    }
    sv_weights_free(w);
    sv_error_clear(c);
}

#endif
