/* SPDX-License-Identifier: Apache-2.0 */
#include "support_h5.h"

#include <check.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct h5_file {
    hid_t id;
    char *path;
};

h5_file *h5_open(const char *path, bool must)
{
    hid_t id;
    H5E_BEGIN_TRY
    {
        id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    }
    H5E_END_TRY
    ck_assert_msg(id >= 0 || !must, "cannot open %s", path);
    if (id < 0) return NULL;
    h5_file *file = malloc(sizeof *file);
    ck_assert_ptr_nonnull(file);
    file->id = id;
    file->path = malloc(strlen(path) + 1);
    ck_assert_ptr_nonnull(file->path);
    strcpy(file->path, path);
    return file;
}

void h5_close(h5_file *file)
{
    if (!file) return;
    H5Fclose(file->id);
    free(file->path);
    free(file);
}

/* H5Lexists() wants every part of the path to exist. */
bool h5_has(h5_file *file, const char *dataset)
{
    char part[512];
    ck_assert_uint_lt(strlen(dataset), sizeof part);
    for (const char *end = dataset; end;) {
        end = strchr(end + 1, '/');
        const size_t length = end ? (size_t)(end - dataset) : strlen(dataset);
        memcpy(part, dataset, length);
        part[length] = '\0';
        if (H5Lexists(file->id, part, H5P_DEFAULT) <= 0) return false;
    }
    return true;
}

static h5_array read_dataset(h5_file *file, const char *name, hid_t type)
{
    ck_assert_msg(h5_has(file, name), "%s holds no '%s'", file->path, name);
    const hid_t set = H5Dopen2(file->id, name, H5P_DEFAULT);
    ck_assert_msg(set >= 0, "%s: '%s' is no dataset", file->path, name);
    const hid_t space = H5Dget_space(set);
    h5_array array = {.ndim = H5Sget_simple_extent_ndims(space), .count = 1};
    ck_assert_msg(array.ndim >= 0 && array.ndim <= H5_MAX_DIMS, "%s: '%s' has %d dimensions", file->path,
                  name, array.ndim);
    hsize_t dims[H5_MAX_DIMS];
    H5Sget_simple_extent_dims(space, dims, NULL);
    for (int d = 0; d < array.ndim; d++) {
        array.dim[d] = (int)dims[d];
        array.count *= (size_t)dims[d];
    }
    void *values = malloc(array.count * 4 + 4);
    ck_assert_ptr_nonnull(values);
    ck_assert_msg(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, "%s: cannot read '%s'",
                  file->path, name);
    H5Sclose(space);
    H5Dclose(set);
    if (type == H5T_NATIVE_FLOAT)
        array.f = values;
    else
        array.i = values;
    return array;
}

h5_array h5_floats(h5_file *file, const char *dataset)
{
    return read_dataset(file, dataset, H5T_NATIVE_FLOAT);
}
h5_array h5_ints(h5_file *file, const char *dataset)
{
    return read_dataset(file, dataset, H5T_NATIVE_INT32);
}

void h5_free(h5_array *array)
{
    free(array->f);
    free(array->i);
    *array = (h5_array){0};
}

bool h5_has_attribute(h5_file *file, const char *name)
{
    return H5Aexists(file->id, name) > 0;
}

static hid_t open_attribute(h5_file *file, const char *name)
{
    ck_assert_msg(h5_has_attribute(file, name), "%s has no attribute '%s'", file->path, name);
    return H5Aopen(file->id, name, H5P_DEFAULT);
}

void h5_numbers(h5_file *file, const char *name, double *out, int count)
{
    const hid_t attribute = open_attribute(file, name);
    const hid_t space = H5Aget_space(attribute);
    ck_assert_msg(H5Sget_simple_extent_npoints(space) == count,
                  "%s: attribute '%s' holds %lld numbers, expected %d", file->path, name,
                  (long long)H5Sget_simple_extent_npoints(space), count);
    ck_assert_msg(H5Aread(attribute, H5T_NATIVE_DOUBLE, out) >= 0, "%s: attribute '%s' is no number",
                  file->path, name);
    H5Sclose(space);
    H5Aclose(attribute);
}

double h5_number(h5_file *file, const char *name)
{
    double value = 0;
    h5_numbers(file, name, &value, 1);
    return value;
}

char *h5_text(h5_file *file, const char *name)
{
    const hid_t attribute = open_attribute(file, name);
    const hid_t type = H5Aget_type(attribute);
    ck_assert_msg(H5Tget_class(type) == H5T_STRING, "%s: attribute '%s' is no text", file->path, name);
    char *text = NULL;
    if (H5Tis_variable_str(type) > 0) {
        char *variable = NULL;
        ck_assert_int_ge(H5Aread(attribute, type, &variable), 0);
        text = malloc(strlen(variable) + 1);
        ck_assert_ptr_nonnull(text);
        strcpy(text, variable);
        H5free_memory(variable);
    } else {
        const size_t size = H5Tget_size(type);
        text = calloc(1, size + 1);
        ck_assert_ptr_nonnull(text);
        ck_assert_int_ge(H5Aread(attribute, type, text), 0);
    }
    H5Tclose(type);
    H5Aclose(attribute);
    return text;
}
