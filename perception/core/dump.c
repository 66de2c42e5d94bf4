/* SPDX-License-Identifier: Apache-2.0 */
#include "dump.h"

#include <stdio.h>
#include <stdlib.h>

struct sv_dump {
    sv_h5 *file;
};

sv_status sv_dump_open(sv_ctx *c, const char *path, sv_dump **out)
{
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out, SV_NO_MEMORY, "%s: no memory", path);
    const sv_status status = sv_h5_create(c, path, &(*out)->file);
    if (status != SV_OK) {
        free(*out);
        *out = NULL;
    }
    return status;
}

sv_status sv_dump_probe(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    sv_dump *dump = user;
    void *data = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(c, tensor, &data, &rows));
    char unique[192];
    snprintf(unique, sizeof unique, "%s", name);
    for (int i = 2; sv_h5_has(dump->file, unique); i++) snprintf(unique, sizeof unique, "%s#%d", name, i);
    const int64_t dim[2] = {rows, sv_row_elements(tensor)};
    const sv_status status = sv_h5_write(c, dump->file, unique, (sv_dtype)tensor.dtype, 2, dim, data);
    free(data);
    return status;
}

sv_status sv_dump_close(sv_ctx *c, sv_dump *dump)
{
    if (!dump) return SV_OK;
    const sv_status status = sv_h5_close(c, dump->file);
    free(dump);
    return status;
}
