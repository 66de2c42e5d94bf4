/* SPDX-License-Identifier: Apache-2.0 */
#include "h5.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sv_h5 {
    hid_t id;
    bool writing;
    char path[512], temporary[520];
};

/* The largest dataset that is read: reference data are far smaller. */
static const size_t MOST_ELEMENTS = (size_t)1 << 29;

bool sv_h5_is(const char *path)
{
    static const unsigned char magic[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char head[8] = {0};
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    const size_t got = fread(head, 1, sizeof head, file);
    fclose(file);
    return got == sizeof head && memcmp(head, magic, sizeof head) == 0;
}

static sv_status new_file(sv_ctx *c, const char *path, sv_h5 **out)
{
    *out = NULL;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* failures are reported through the context */
    SV_CHECK(c, strlen(path) < sizeof(*out)->path, SV_IO, "%s: the path is too long", path);
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out, SV_NO_MEMORY, "%s: no memory", path);
    snprintf((*out)->path, sizeof(*out)->path, "%s", path);
    snprintf((*out)->temporary, sizeof(*out)->temporary, "%s.tmp", path);
    return SV_OK;
}

sv_status sv_h5_open(sv_ctx *c, const char *path, sv_h5 **out)
{
    SV_TRY(new_file(c, path, out));
    (*out)->id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if ((*out)->id >= 0) return SV_OK;
    free(*out);
    *out = NULL;
    return SV_FAIL(c, SV_IO, "%s: cannot be opened as HDF5", path);
}

sv_status sv_h5_create(sv_ctx *c, const char *path, sv_h5 **out)
{
    SV_TRY(new_file(c, path, out));
    (*out)->writing = true;
    (*out)->id = H5Fcreate((*out)->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if ((*out)->id >= 0) return SV_OK;
    free(*out);
    *out = NULL;
    return SV_FAIL(c, SV_IO, "%s: cannot be written", path);
}

sv_status sv_h5_close(sv_ctx *c, sv_h5 *file)
{
    if (!file) return SV_OK;
    sv_status status = SV_OK;
    const bool closed = H5Fclose(file->id) >= 0;
    if (file->writing && (!closed || rename(file->temporary, file->path) != 0)) {
        unlink(file->temporary);
        status = SV_FAIL(c, SV_IO, "%s: cannot be written", file->path);
    }
    free(file);
    return status;
}

const char *sv_h5_path(const sv_h5 *file)
{
    return file->path;
}

bool sv_h5_has(sv_h5 *file, const char *name)
{
    /* H5Lexists() wants every parent to exist */
    char part[512];
    for (const char *slash = strchr(name, '/');; slash = strchr(slash + 1, '/')) {
        const size_t length = slash ? (size_t)(slash - name) : strlen(name);
        if (length >= sizeof part) return false;
        memcpy(part, name, length);
        part[length] = '\0';
        if (H5Lexists(file->id, part, H5P_DEFAULT) <= 0) return false;
        if (!slash) return true;
    }
}

static sv_status read_dataset(sv_ctx *c, const char *path, const char *name, hid_t dataset, sv_h5_array *out)
{
    hsize_t dims[SV_H5_DIMS];
    const hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
    const int ndim = H5Sget_simple_extent_ndims(space);
    const H5T_class_t class = H5Tget_class(type);
    sv_status status = SV_OK;
    if (ndim < 0 || ndim > SV_H5_DIMS || (class != H5T_INTEGER && class != H5T_FLOAT)) {
        status =
            SV_FAIL(c, SV_BAD_INPUT, "%s: dataset '%s' is not an array of numbers with up to %d dimensions",
                    path, name, SV_H5_DIMS);
    } else {
        H5Sget_simple_extent_dims(space, dims, NULL);
        out->ndim = ndim;
        out->count = 1;
        for (int i = 0; i < ndim; i++) {
            out->dim[i] = (int64_t)dims[i];
            if (dims[i] > MOST_ELEMENTS || (dims[i] && out->count > MOST_ELEMENTS / dims[i])) {
                status = SV_FAIL(c, SV_BAD_INPUT, "%s: dataset '%s' is too large", path, name);
                break;
            }
            out->count *= dims[i];
        }
    }
    if (status == SV_OK) {
        out->integer = class == H5T_INTEGER;
        void *data = malloc(out->count * 4 + 1);
        if (!data) {
            status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for dataset '%s'", path, name);
        } else if (out->count > 0 && H5Dread(dataset, out->integer ? H5T_NATIVE_INT32 : H5T_NATIVE_FLOAT,
                                             H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
            free(data);
            status = SV_FAIL(c, SV_IO, "%s: dataset '%s' cannot be read", path, name);
        } else if (out->integer) {
            out->i = data;
        } else {
            out->f = data;
        }
    }
    H5Tclose(type);
    H5Sclose(space);
    return status;
}

sv_status sv_h5_read(sv_ctx *c, sv_h5 *file, const char *name, sv_h5_array *out)
{
    memset(out, 0, sizeof *out);
    SV_CHECK(c, sv_h5_has(file, name), SV_BAD_INPUT, "%s: there is no dataset '%s'", file->path, name);
    const hid_t dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    SV_CHECK(c, dataset >= 0, SV_BAD_INPUT, "%s: '%s' is not a dataset", file->path, name);
    const sv_status status = read_dataset(c, file->path, name, dataset, out);
    H5Dclose(dataset);
    return status;
}

void sv_h5_array_free(sv_h5_array *array)
{
    free(array->f);
    free(array->i);
    memset(array, 0, sizeof *array);
}

typedef struct name_list {
    char **names;
    int count, room;
    bool failed;
} name_list;

static herr_t add_name(hid_t group, const char *name, const H5O_info_t *info, void *user)
{
    (void)group;
    name_list *list = user;
    if (info->type != H5O_TYPE_DATASET) return 0;
    if (list->count == list->room) {
        const int room = list->room ? 2 * list->room : 64;
        char **names = realloc(list->names, sizeof *names * (size_t)room);
        if (!names) {
            list->failed = true;
            return 1;
        }
        list->names = names;
        list->room = room;
    }
    list->names[list->count] = strdup(name);
    if (!list->names[list->count]) {
        list->failed = true;
        return 1;
    }
    list->count++;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

sv_status sv_h5_names(sv_ctx *c, sv_h5 *file, char ***names, int *count)
{
    name_list list = {0};
    const herr_t visited =
        H5Ovisit2(file->id, H5_INDEX_NAME, H5_ITER_NATIVE, add_name, &list, H5O_INFO_BASIC);
    *names = list.names;
    *count = list.count;
    if (visited < 0 || list.failed) {
        sv_h5_names_free(list.names, list.count);
        *names = NULL;
        *count = 0;
        return SV_FAIL(c, SV_IO, "%s: its contents cannot be listed", file->path);
    }
    if (list.count > 0) qsort(list.names, (size_t)list.count, sizeof *list.names, by_name);
    return SV_OK;
}

void sv_h5_names_free(char **names, int count)
{
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
}

/* The attribute "name" of the file, or "path@name" of an object in it. Negative when there is none. */
static hid_t open_attribute(sv_h5 *file, const char *name)
{
    const char *at = strchr(name, '@');
    if (!at) return H5Aexists(file->id, name) > 0 ? H5Aopen(file->id, name, H5P_DEFAULT) : -1;
    char path[256];
    snprintf(path, sizeof path, "%.*s", (int)(at - name), name);
    if (!sv_h5_has(file, path) || H5Aexists_by_name(file->id, path, at + 1, H5P_DEFAULT) <= 0) return -1;
    return H5Aopen_by_name(file->id, path, at + 1, H5P_DEFAULT, H5P_DEFAULT);
}

bool sv_h5_has_attribute(sv_h5 *file, const char *name)
{
    const hid_t attribute = open_attribute(file, name);
    if (attribute >= 0) H5Aclose(attribute);
    return attribute >= 0;
}

sv_status sv_h5_numbers(sv_ctx *c, sv_h5 *file, const char *name, double *out, int count)
{
    SV_CHECK(c, sv_h5_has_attribute(file, name), SV_BAD_INPUT, "%s: there is no attribute '%s'", file->path,
             name);
    const hid_t attribute = open_attribute(file, name), space = H5Aget_space(attribute),
                type = H5Aget_type(attribute);
    const H5T_class_t class = H5Tget_class(type);
    const hssize_t have = H5Sget_simple_extent_npoints(space);
    sv_status status = SV_OK;
    /* h5py writes booleans as an enumeration of integers */
    if ((class != H5T_INTEGER && class != H5T_FLOAT && class != H5T_ENUM) || have != count) {
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: attribute '%s' is not %d numbers", file->path, name, count);
    } else if (class == H5T_ENUM) {
        int8_t value = 0;
        if (count != 1 || H5Tget_size(type) != 1 || H5Aread(attribute, type, &value) < 0)
            status = SV_FAIL(c, SV_BAD_INPUT, "%s: attribute '%s' is not a truth value", file->path, name);
        out[0] = value;
    } else if (H5Aread(attribute, H5T_NATIVE_DOUBLE, out) < 0) {
        status = SV_FAIL(c, SV_IO, "%s: attribute '%s' cannot be read", file->path, name);
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(attribute);
    return status;
}

sv_status sv_h5_number(sv_ctx *c, sv_h5 *file, const char *name, double *out)
{
    return sv_h5_numbers(c, file, name, out, 1);
}

sv_status sv_h5_text(sv_ctx *c, sv_h5 *file, const char *name, char **out)
{
    *out = NULL;
    SV_CHECK(c, sv_h5_has_attribute(file, name), SV_BAD_INPUT, "%s: there is no attribute '%s'", file->path,
             name);
    const hid_t attribute = open_attribute(file, name), type = H5Aget_type(attribute);
    if (H5Tget_class(type) == H5T_STRING) {
        if (H5Tis_variable_str(type) > 0) {
            char *text = NULL;
            const hid_t memory = H5Tcopy(H5T_C_S1);
            H5Tset_size(memory, H5T_VARIABLE);
            H5Tset_cset(memory, H5Tget_cset(type));
            if (H5Aread(attribute, memory, &text) >= 0 && text) {
                *out = strdup(text);
                H5free_memory(text);
            }
            H5Tclose(memory);
        } else {
            const size_t size = H5Tget_size(type);
            *out = size < 1 << 20 ? calloc(1, size + 1) : NULL;
            if (*out && H5Aread(attribute, type, *out) < 0) {
                free(*out);
                *out = NULL;
            }
        }
    }
    H5Tclose(type);
    H5Aclose(attribute);
    SV_CHECK(c, *out, SV_BAD_INPUT, "%s: attribute '%s' is not a text", file->path, name);
    return SV_OK;
}

sv_status sv_h5_write(sv_ctx *c, sv_h5 *file, const char *name, sv_dtype dtype, int ndim, const int64_t *dim,
                      const void *data)
{
    hsize_t dims[SV_H5_DIMS];
    SV_CHECK(c, ndim >= 1 && ndim <= SV_H5_DIMS && (dtype == SV_F32 || dtype == SV_I32 || dtype == SV_I64),
             SV_INTERNAL, "%s: '%s' has %d dimensions of type %d", file->path, name, ndim, dtype);
    for (int i = 0; i < ndim; i++) dims[i] = (hsize_t)dim[i];
    const hid_t stored = dtype == SV_F32 ? H5T_IEEE_F32LE : dtype == SV_I32 ? H5T_STD_I32LE : H5T_STD_I64LE;
    const hid_t memory = dtype == SV_F32   ? H5T_NATIVE_FLOAT
                         : dtype == SV_I32 ? H5T_NATIVE_INT32
                                           : H5T_NATIVE_INT64;
    const hid_t links = H5Pcreate(H5P_LINK_CREATE), creation = H5Pcreate(H5P_DATASET_CREATE),
                space = H5Screate_simple(ndim, dims, NULL);
    H5Pset_create_intermediate_group(links, 1);
    H5Pset_obj_track_times(creation, false); /* the same content gives the same bytes */
    const hid_t dataset = H5Dcreate2(file->id, name, stored, space, links, creation, H5P_DEFAULT);
    const bool written = dataset >= 0 && H5Dwrite(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    if (dataset >= 0) H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(creation);
    H5Pclose(links);
    SV_CHECK(c, written, SV_IO, "%s: '%s' cannot be written", file->path, name);
    return SV_OK;
}
