/* SPDX-License-Identifier: Apache-2.0 */
#include "support_h5.h"

#include "perception/core/h5.h"
#include "support.h"

#include <stdlib.h>
#include <string.h>

struct h5_file {
    sv_ctx *c; /* keeps the message of a failure */
    sv_h5 *h5;
};

h5_file *h5_open(const char *path, bool must)
{
    h5_file *file = malloc(sizeof *file);
    ck_assert_ptr_nonnull(file);
    file->c = test_context(1);
    const sv_status status = sv_h5_open(file->c, path, &file->h5);
    ck_assert_msg(status == SV_OK || !must, "%s", sv_error_message(file->c));
    if (status == SV_OK) return file;
    sv_ctx_close(file->c);
    free(file);
    return NULL;
}

void h5_close(h5_file *file)
{
    if (!file) return;
    sv_h5_close(file->c, file->h5);
    sv_ctx_close(file->c);
    free(file);
}

bool h5_has(h5_file *file, const char *dataset)
{
    return sv_h5_has(file->h5, dataset);
}

static h5_array read_dataset(h5_file *file, const char *name, bool integers)
{
    sv_h5_array from;
    assert_ok(file->c, sv_h5_read(file->c, file->h5, name, &from));
    h5_array to = {.ndim = from.ndim, .count = from.count, .f = from.f, .i = from.i};
    for (int d = 0; d < from.ndim; d++) to.dim[d] = (int)from.dim[d];
    if (integers == from.integer) return to;
    /* the other kind was asked for: convert */
    void *values = malloc(to.count * 4 + 4);
    ck_assert_ptr_nonnull(values);
    for (size_t k = 0; k < to.count; k++) {
        if (integers)
            ((int32_t *)values)[k] = (int32_t)from.f[k];
        else
            ((float *)values)[k] = (float)from.i[k];
    }
    sv_h5_array_free(&from);
    to.f = integers ? NULL : values;
    to.i = integers ? values : NULL;
    return to;
}

h5_array h5_floats(h5_file *file, const char *dataset)
{
    return read_dataset(file, dataset, false);
}
h5_array h5_ints(h5_file *file, const char *dataset)
{
    return read_dataset(file, dataset, true);
}

void h5_free(h5_array *array)
{
    free(array->f);
    free(array->i);
    *array = (h5_array){0};
}

bool h5_has_attribute(h5_file *file, const char *name)
{
    return sv_h5_has_attribute(file->h5, name);
}

void h5_numbers(h5_file *file, const char *name, double *out, int count)
{
    assert_ok(file->c, sv_h5_numbers(file->c, file->h5, name, out, count));
}

double h5_number(h5_file *file, const char *name)
{
    double value = 0;
    h5_numbers(file, name, &value, 1);
    return value;
}

char *h5_text(h5_file *file, const char *name)
{
    char *text = NULL;
    assert_ok(file->c, sv_h5_text(file->c, file->h5, name, &text));
    return text;
}
