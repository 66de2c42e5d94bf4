/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a Feather file whose every column is read as everything, and as an LZ4 frame.
 */
#include "datasets/feather.h"
#include "datasets/lz4.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Texts lie in memory that may be read to their end. */
static size_t touch(const sv_feather_text *texts, int64_t count)
{
    size_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        for (size_t k = 0; k < texts[i].size; k++) sum += (unsigned char)texts[i].at[k];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MOST = 4096 };
    static sv_ctx *c;
    static double floats[MOST];
    static int64_t integers[MOST];
    static sv_feather_text texts[MOST];
    static volatile size_t seen;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
    }
    uint8_t out[512];
    if (size > 2) sv_lz4_unpack_frame(data + 2, size - 2, out, (size_t)(data[0] + data[1]));
    sv_feather f;
    if (sv_feather_open(c, "fuzz", data, size, &f) == SV_OK) {
        for (int i = 0; i < f.column_count && f.rows <= MOST; i++) {
            sv_error_clear(c);
            sv_feather_floats(c, &f, f.columns[i].name, floats);
            sv_error_clear(c);
            sv_feather_integers(c, &f, f.columns[i].name, integers);
            sv_error_clear(c);
            if (sv_feather_texts(c, &f, f.columns[i].name, texts) == SV_OK) seen += touch(texts, f.rows);
        }
        sv_feather_free(&f);
    } else if (f.batches || f.texts) {
        abort();
    }
    sv_error_clear(c);
    return 0;
}
