/* SPDX-License-Identifier: Apache-2.0 */
#include "check_video.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 256 };

static void join(char out[NAME_BYTES], const char *group, char between, const char *name)
{
    snprintf(out, NAME_BYTES, "%s%c%s", group, between, name);
}

sv_status check_video_int(check_run *run, check_file *file, const char *group, const char *name, int *out)
{
    char full[NAME_BYTES];
    double value = 0;
    join(full, group, '@', name);
    if (!sv_h5_has_attribute(file->h5, full)) return SV_OK;
    SV_TRY(sv_h5_number(run->c, file->h5, full, &value));
    SV_CHECK(run->c, value >= -1e9 && value <= 1e9, SV_BAD_INPUT, "%s: attribute '%s' is %g", file->path,
             full, value);
    *out = (int)value;
    return SV_OK;
}

sv_status check_video_text(check_run *run, check_file *file, const char *group, const char *name,
                           char out[64])
{
    char full[NAME_BYTES], *text = NULL;
    join(full, group, '@', name);
    if (!sv_h5_has_attribute(file->h5, full)) return SV_OK;
    SV_TRY(sv_h5_text(run->c, file->h5, full, &text));
    snprintf(out, 64, "%s", text);
    free(text);
    return SV_OK;
}

bool check_video_has(check_file *file, const char *group, const char *name)
{
    char full[NAME_BYTES];
    join(full, group, '/', name);
    return check_has(file, full);
}

sv_status check_video_read(check_run *run, check_file *file, const char *group, const char *name,
                           sv_h5_array *out)
{
    char full[NAME_BYTES];
    join(full, group, '/', name);
    return check_read(run, file, full, out);
}

sv_status check_video_compare(check_run *run, check_file *file, const char *group, const char *name,
                              const float *got, size_t count)
{
    char full[NAME_BYTES], attribute[NAME_BYTES + 8];
    double tolerance = 0;
    sv_h5_array want;
    join(full, group, '/', name);
    if (!check_has(file, full)) return SV_OK;
    snprintf(attribute, sizeof attribute, "%s@tol", full);
    SV_TRY(sv_h5_number(run->c, file->h5, attribute, &tolerance));
    SV_TRY(check_read(run, file, full, &want));
    if (want.integer || want.count != count)
        check_result(run, file, full, false, "%zu values instead of %zu", count, want.count);
    else
        check_floats(run, file, full, got, want.f, count, tolerance);
    sv_h5_array_free(&want);
    return SV_OK;
}

sv_status check_video_skip_info(check_run *run, check_file *file)
{
    for (int i = 0; i < file->count; i++) {
        char attribute[NAME_BYTES + 8], *kind = NULL;
        snprintf(attribute, sizeof attribute, "%s@kind", file->names[i]);
        if (!sv_h5_has_attribute(file->h5, attribute)) continue;
        SV_TRY(sv_h5_text(run->c, file->h5, attribute, &kind));
        if (strcmp(kind, "info") == 0) file->seen[i] = true;
        free(kind);
    }
    return SV_OK;
}

static sv_status add_weight(check_run *run, check_file *file, const char *dataset, const char *key,
                            sv_weights *to)
{
    char name[NAME_BYTES];
    sv_h5_array array;
    SV_TRY(check_read(run, file, dataset, &array));
    sv_tensor t = {.data = array.f, .ndim = (uint8_t)(array.ndim > 0 ? array.ndim : 1), .dtype = SV_F32};
    t.dim[0] = 1;
    for (int k = 0; k < array.ndim && k < SV_MAX_DIMS; k++) t.dim[k] = (int32_t)array.dim[k];
    t.pitch = (int32_t)sv_row_elements(t);
    snprintf(name, sizeof name, "%s", key);
    for (char *p = name; *p; p++)
        if (*p == '/') *p = '.';
    const sv_status status =
        array.integer || array.ndim > SV_MAX_DIMS
            ? SV_FAIL(run->c, SV_BAD_INPUT, "%s: '%s' is no weight: %d dimensions of %s", file->path, dataset,
                      array.ndim, array.integer ? "integers" : "floats")
            : sv_weights_add(run->c, to, name, t);
    sv_h5_array_free(&array);
    return status;
}

sv_status check_video_weights(check_run *run, check_file *file, const char *group, sv_weights **out)
{
    char prefix[NAME_BYTES];
    join(prefix, group, '/', "w/");
    const size_t length = strlen(prefix);
    sv_weights *weights = sv_weights_new();
    *out = NULL;
    SV_CHECK(run->c, weights, SV_NO_MEMORY, "no memory for weights");
    sv_status status = SV_OK;
    for (int i = 0; i < file->count && status == SV_OK; i++)
        if (strncmp(file->names[i], prefix, length) == 0)
            status = add_weight(run, file, file->names[i], file->names[i] + length, weights);
    if (status == SV_OK)
        *out = weights;
    else
        sv_weights_free(weights);
    return status;
}
