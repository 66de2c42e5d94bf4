/* SPDX-License-Identifier: Apache-2.0
 *
 * The native model file, HDF5:
 *   /            attributes: format "savanna-model", format_version 1 (int32), checksum (SHA-256 over
 * everything else, see sv_weights_checksum()), and every metadata entry as a text /weights     one contiguous
 * float32, int64 or int32 dataset per tensor, named like it Texts are zero-terminated UTF-8 of fixed length.
 * The bytes depend on the content alone: no time stamps, one fixed version of the file format (superblock 2,
 * whose metadata blocks carry checksums).
 *
 * libhdf5 parses the file, and it was not made for hostile ones. What reaches it is therefore kept small: the
 * superblock is checked here first (version, sizes, and that the file has the length it says, so cut-off
 * files never get further), older and newer superblocks are refused, and of a dataset only its description is
 * taken from libhdf5: the numbers are read directly at its offset, inside the file. Links to other files,
 * external storage, virtual, chunked and filtered datasets are refused.
 */
#include "weights_file.h"

#include <hdf5.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUPERBLOCK = 48, MAX_ATTRIBUTE = 60000, MAX_ATTRIBUTES = 512 };
static const char group_name[] = "weights";

/* libhdf5 prints its errors unless told otherwise; the setting of the application is put back afterwards. */
typedef struct quiet {
    H5E_auto2_t function;
    void *data;
} quiet;

static quiet be_quiet(void)
{
    quiet before = {0};
    H5Eget_auto2(H5E_DEFAULT, &before.function, &before.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return before;
}

static void be_as_before(quiet before)
{
    H5Eset_auto2(H5E_DEFAULT, before.function, before.data);
}

/* The innermost reason on libhdf5's error stack. */
static herr_t keep_reason(unsigned n, const H5E_error2_t *error, void *user)
{
    if (n == 0) sv_shown(user, error->desc, strlen(error->desc));
    return 0;
}

static const char *reason(char out[SV_SHOWN])
{
    snprintf(out, SV_SHOWN, "unknown reason");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_reason, out);
    return out;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

typedef struct reader {
    sv_ctx *c;
    sv_weights *w;
    const sv_source *source;
    const char *path;
    uint64_t bytes;   /* of the datasets so far */
    sv_status status; /* of the callbacks, which can only say "stop" */
} reader;

static sv_status check_superblock(reader *r)
{
    uint8_t p[SUPERBLOCK];
    SV_CHECK(r->c, r->source->size >= SUPERBLOCK, SV_BAD_INPUT,
             "%s is cut off: an HDF5 file has more than %llu bytes", r->path,
             (unsigned long long)r->source->size);
    SV_TRY(sv_source_read(r->c, r->source, 0, p, sizeof p));
    SV_CHECK(
        r->c, p[8] == 2 && p[9] == 8 && p[10] == 8 && sv_le64(p + 12) == 0, SV_UNSUPPORTED,
        "%s is an HDF5 file, but not a model file that Savanna wrote (superblock version %u, expected 2)",
        r->path, p[8]);
    const uint64_t end = sv_le64(p + 28);
    SV_CHECK(r->c, end == r->source->size, SV_BAD_INPUT,
             "%s has %llu bytes instead of %llu: it was cut off or damaged", r->path,
             (unsigned long long)r->source->size, (unsigned long long)end);
    SV_CHECK(r->c, p[11] == 0 && sv_le64(p + 20) == UINT64_MAX, SV_BAD_INPUT,
             "%s: its superblock is not as Savanna writes it (open for writing elsewhere, or damaged)",
             r->path);
    return SV_OK;
}

static sv_status read_text(reader *r, hid_t attribute, hid_t type, const char *key, const char *shown)
{
    char why[SV_SHOWN];
    const size_t size = H5Tget_size(type);
    SV_CHECK(r->c,
             H5Tis_variable_str(type) == 0 && size > 0 && size <= MAX_ATTRIBUTE + 1 &&
                 H5Aget_storage_size(attribute) == size,
             SV_BAD_INPUT, "%s: attribute '%s' is not a text of fixed length", r->path, shown);
    char *text = calloc(1, size + 1);
    SV_CHECK(r->c, text, SV_NO_MEMORY, "%s: no memory for attribute '%s'", r->path, shown);
    const sv_status status = H5Aread(attribute, type, text) >= 0
                                 ? sv_weights_set_meta(r->c, r->w, key, text)
                                 : SV_FAIL(r->c, SV_BAD_INPUT, "%s: attribute '%s' cannot be read: %s",
                                           r->path, shown, reason(why));
    free(text);
    return status;
}

static sv_status read_attribute(reader *r, hid_t attribute, hid_t type, hid_t space, const char *key,
                                const char *shown)
{
    SV_CHECK(r->c, H5Sget_simple_extent_type(space) == H5S_SCALAR, SV_BAD_INPUT,
             "%s: attribute '%s' is not a single value", r->path, shown);
    if (H5Tget_class(type) == H5T_STRING) return read_text(r, attribute, type, key, shown);
    int32_t value = 0;
    SV_CHECK(r->c,
             H5Tequal(type, H5T_STD_I32LE) > 0 && H5Aget_storage_size(attribute) == sizeof value &&
                 H5Aread(attribute, H5T_NATIVE_INT32, &value) >= 0,
             SV_BAD_INPUT, "%s: attribute '%s' is neither text nor an int32", r->path, shown);
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return sv_weights_set_meta(r->c, r->w, key, text);
}

static herr_t on_attribute(hid_t location, const char *key, const H5A_info_t *info, void *user)
{
    (void)info;
    reader *r = user;
    char shown[SV_SHOWN];
    sv_shown(shown, key, strlen(key));
    const hid_t attribute = H5Aopen(location, key, H5P_DEFAULT);
    const hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1,
                space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    r->status = type >= 0 && space >= 0
                    ? read_attribute(r, attribute, type, space, key, shown)
                    : SV_FAIL(r->c, SV_BAD_INPUT, "%s: attribute '%s' is damaged", r->path, shown);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return r->status == SV_OK ? 0 : -1;
}

static sv_status read_dataset(reader *r, hid_t set, hid_t type, hid_t space, hid_t layout, const char *name,
                              const char *shown)
{
    const bool f32 = H5Tequal(type, H5T_IEEE_F32LE) > 0, i64 = H5Tequal(type, H5T_STD_I64LE) > 0;
    SV_CHECK(r->c, f32 || i64 || H5Tequal(type, H5T_STD_I32LE) > 0, SV_UNSUPPORTED,
             "%s: tensor '%s' is not float32, int64 or int32 (little endian)", r->path, shown);
    const sv_number number = f32 ? SV_NUMBER_F32 : i64 ? SV_NUMBER_I64 : SV_NUMBER_I32;
    const int ndim = H5Sget_simple_extent_ndims(space);
    SV_CHECK(r->c, H5Sget_simple_extent_type(space) == H5S_SIMPLE && ndim >= 1 && ndim <= SV_MAX_DIMS,
             SV_UNSUPPORTED, "%s: tensor '%s' has %d dimensions, 1 to %d are possible", r->path, shown, ndim,
             SV_MAX_DIMS);
    hsize_t extent[SV_MAX_DIMS];
    H5Sget_simple_extent_dims(space, extent, NULL);
    int64_t dims[SV_MAX_DIMS];
    for (int i = 0; i < ndim; i++) dims[i] = extent[i] > INT32_MAX ? -1 : (int64_t)extent[i];
    const int64_t elements = sv_elements(ndim, dims);
    SV_CHECK(r->c, elements >= 0, SV_BAD_INPUT, "%s: tensor '%s' has impossible sizes", r->path, shown);
    SV_CHECK(r->c,
             H5Pget_layout(layout) == H5D_CONTIGUOUS && H5Pget_external_count(layout) == 0 &&
                 H5Pget_nfilters(layout) == 0,
             SV_UNSUPPORTED, "%s: tensor '%s' is not stored contiguously in this file", r->path, shown);
    const uint64_t bytes = (uint64_t)elements * sv_number_bytes(number);
    const haddr_t at = H5Dget_offset(set);
    r->bytes += bytes;
    SV_CHECK(r->c,
             bytes == 0 ||
                 (at != HADDR_UNDEF && H5Dget_storage_size(set) == bytes && r->bytes <= r->source->size),
             SV_BAD_INPUT, "%s: tensor '%s' of %llu bytes is not in the file", r->path, shown,
             (unsigned long long)bytes);
    void *data = NULL;
    SV_TRY(sv_weights_make(r->c, r->w, name, sv_number_kept_as(number), ndim, dims, &data));
    return bytes == 0 ? SV_OK : sv_source_read(r->c, r->source, at, data, (size_t)bytes);
}

static herr_t on_link(hid_t group, const char *name, const H5L_info_t *info, void *user)
{
    reader *r = user;
    char shown[SV_SHOWN], why[SV_SHOWN];
    sv_shown(shown, name, strlen(name));
    if (info->type != H5L_TYPE_HARD) {
        r->status = SV_FAIL(r->c, SV_UNSUPPORTED, "%s: '%s' is a link to somewhere else, which is refused",
                            r->path, shown);
        return -1;
    }
    const hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    const hid_t type = set >= 0 ? H5Dget_type(set) : -1, space = set >= 0 ? H5Dget_space(set) : -1;
    const hid_t layout = set >= 0 ? H5Dget_create_plist(set) : -1;
    r->status = type >= 0 && space >= 0 && layout >= 0
                    ? read_dataset(r, set, type, space, layout, name, shown)
                    : SV_FAIL(r->c, SV_BAD_INPUT, "%s: tensor '%s' cannot be opened: %s", r->path, shown,
                              reason(why));
    if (layout >= 0) H5Pclose(layout);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (set >= 0) H5Dclose(set);
    return r->status == SV_OK ? 0 : -1;
}

static sv_status read_file(reader *r, hid_t file)
{
    char why[SV_SHOWN];
    H5O_info_t info;
    SV_CHECK(r->c, H5Oget_info2(file, &info, H5O_INFO_NUM_ATTRS) >= 0 && info.num_attrs <= MAX_ATTRIBUTES,
             SV_BAD_INPUT, "%s: its attributes are damaged: %s", r->path, reason(why));
    herr_t result = H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, NULL, on_attribute, r);
    SV_TRY(r->status);
    SV_CHECK(r->c, result >= 0, SV_BAD_INPUT, "%s: its attributes cannot be read: %s", r->path, reason(why));
    const char *format = sv_weights_meta(r->w, "format"), *version = sv_weights_meta(r->w, "format_version");
    char wanted[16], shown[SV_SHOWN];
    snprintf(wanted, sizeof wanted, "%d", SV_WEIGHTS_FORMAT_VERSION);
    SV_CHECK(r->c, format && strcmp(format, SV_WEIGHTS_FORMAT) == 0, SV_BAD_INPUT,
             "%s is an HDF5 file, but not a model: its attribute 'format' is not '%s'", r->path,
             SV_WEIGHTS_FORMAT);
    SV_CHECK(r->c, version && strcmp(version, wanted) == 0, SV_UNSUPPORTED,
             "%s is a model file of version %s; this program reads version %s", r->path,
             version ? sv_shown(shown, version, strlen(version)) : "(none)", wanted);

    const hid_t group = H5Gopen2(file, group_name, H5P_DEFAULT);
    SV_CHECK(r->c, group >= 0, SV_BAD_INPUT, "%s: it has no group '%s': %s", r->path, group_name,
             reason(why));
    result = H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, on_link, r);
    if (result < 0) reason(why);
    H5Gclose(group);
    SV_TRY(r->status);
    SV_CHECK(r->c, result >= 0, SV_BAD_INPUT, "%s: its list of tensors cannot be read: %s", r->path, why);

    const char *checksum = sv_weights_meta(r->w, "checksum");
    char actual[SV_SHA256_TEXT];
    sv_weights_checksum(r->w, actual);
    SV_CHECK(
        r->c, checksum && strcmp(checksum, actual) == 0, SV_BAD_INPUT,
        "%s: its checksum does not match its content: the file is damaged or was changed by another program",
        r->path);
    return SV_OK;
}

static sv_status open_and_read(reader *r, hid_t access)
{
    char why[SV_SHOWN];
    const sv_source *source = r->source;
    herr_t set = H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    if (source->memory) {
        if (set >= 0) set = H5Pset_fapl_core(access, 65536, 0);
        if (set >= 0)
            set = H5Pset_file_image(access, (void *)(uintptr_t)source->memory,
                                    (size_t)source->size); /* copies */
    }
    SV_CHECK(r->c, set >= 0, SV_NO_MEMORY, "%s cannot be opened: %s", r->path, reason(why));
    const hid_t file = H5Fopen(source->path, H5F_ACC_RDONLY, access);
    SV_CHECK(r->c, file >= 0, SV_BAD_INPUT, "%s cannot be opened as HDF5: %s", r->path, reason(why));
    const sv_status status = read_file(r, file);
    H5Fclose(file);
    return status;
}

sv_status sv_hdf5_model_read(sv_ctx *c, const sv_source *source, sv_weights *w)
{
    reader r = {.c = c, .w = w, .source = source, .path = source->path};
    SV_TRY(check_superblock(&r));
    const quiet before = be_quiet();
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    const sv_status status = access >= 0 ? open_and_read(&r, access)
                                         : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to open it", source->path);
    if (access >= 0) H5Pclose(access);
    be_as_before(before);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static bool put_text(hid_t file, hid_t space, const char *key, const char *value)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    bool good = type >= 0 && H5Tset_size(type, strlen(value) + 1) >= 0 &&
                H5Tset_strpad(type, H5T_STR_NULLTERM) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
    const hid_t attribute = good ? H5Acreate2(file, key, type, space, H5P_DEFAULT, H5P_DEFAULT) : -1;
    good = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    if (attribute >= 0 && H5Aclose(attribute) < 0) good = false;
    if (type >= 0) H5Tclose(type);
    return good;
}

static bool put_version(hid_t file, hid_t space)
{
    const int32_t version = SV_WEIGHTS_FORMAT_VERSION;
    const hid_t attribute =
        H5Acreate2(file, "format_version", H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT);
    const bool good = attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_INT32, &version) >= 0;
    return (attribute < 0 || H5Aclose(attribute) >= 0) && good;
}

static bool put_tensor(hid_t group, hid_t creation, const char *name, sv_tensor t)
{
    hsize_t dims[SV_MAX_DIMS];
    for (int i = 0; i < t.ndim; i++) dims[i] = (hsize_t)t.dim[i];
    const hid_t type = t.dtype == SV_F32 ? H5T_IEEE_F32LE : t.dtype == SV_I64 ? H5T_STD_I64LE : H5T_STD_I32LE;
    const hid_t space = H5Screate_simple(t.ndim, dims, NULL);
    const hid_t set =
        space >= 0 ? H5Dcreate2(group, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT) : -1;
    const bool empty = t.dim[0] == 0 || t.pitch == 0;
    bool good = set >= 0 && (empty || H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, t.data) >= 0);
    if (set >= 0 && H5Dclose(set) < 0) good = false;
    if (space >= 0) H5Sclose(space);
    return good;
}

/* Property lists of a file of always the same format version, and of objects without time stamps. */
typedef struct lists {
    hid_t access, file, group, dataset, scalar;
} lists;

static bool make_lists(lists *l)
{
    *l = (lists){H5Pcreate(H5P_FILE_ACCESS), H5Pcreate(H5P_FILE_CREATE), H5Pcreate(H5P_GROUP_CREATE),
                 H5Pcreate(H5P_DATASET_CREATE), H5Screate(H5S_SCALAR)};
    return l->access >= 0 && l->file >= 0 && l->group >= 0 && l->dataset >= 0 && l->scalar >= 0 &&
           H5Pset_libver_bounds(l->access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
           H5Pset_fclose_degree(l->access, H5F_CLOSE_STRONG) >= 0 &&
           H5Pset_obj_track_times(l->file, 0) >= 0 && H5Pset_obj_track_times(l->group, 0) >= 0 &&
           H5Pset_obj_track_times(l->dataset, 0) >= 0 && H5Pset_layout(l->dataset, H5D_CONTIGUOUS) >= 0 &&
           H5Pset_alloc_time(l->dataset, H5D_ALLOC_TIME_EARLY) >= 0 &&
           H5Pset_fill_time(l->dataset, H5D_FILL_TIME_NEVER) >= 0;
}

static void close_lists(const lists *l)
{
    if (l->access >= 0) H5Pclose(l->access);
    if (l->file >= 0) H5Pclose(l->file);
    if (l->group >= 0) H5Pclose(l->group);
    if (l->dataset >= 0) H5Pclose(l->dataset);
    if (l->scalar >= 0) H5Sclose(l->scalar);
}

static bool put_all(hid_t file, const lists *l, const sv_weights *w, const char *checksum)
{
    bool good = put_text(file, l->scalar, "format", SV_WEIGHTS_FORMAT) && put_version(file, l->scalar) &&
                put_text(file, l->scalar, "checksum", checksum);
    for (int i = 0; good && i < sv_weights_meta_count(w); i++) {
        const char *key = sv_weights_meta_key(w, i);
        good = sv_weights_own_meta(key) || put_text(file, l->scalar, key, sv_weights_meta(w, key));
    }
    const hid_t group = good ? H5Gcreate2(file, group_name, H5P_DEFAULT, l->group, H5P_DEFAULT) : -1;
    good = group >= 0;
    for (int i = 0; good && i < sv_weights_count(w); i++)
        good = put_tensor(group, l->dataset, sv_weights_name(w, i), sv_weights_tensor(w, i));
    if (group >= 0 && H5Gclose(group) < 0) good = false;
    return good;
}

static sv_status check_names(sv_ctx *c, const sv_weights *w, const char *path)
{
    for (int i = 0; i < sv_weights_meta_count(w); i++) {
        const char *key = sv_weights_meta_key(w, i);
        const size_t size = strlen(sv_weights_meta(w, key));
        SV_CHECK(c, size <= MAX_ATTRIBUTE, SV_UNSUPPORTED,
                 "%s: metadata '%s' has %zu bytes, an HDF5 model file holds at most %d; write .safetensors "
                 "instead",
                 path, key, size, MAX_ATTRIBUTE);
    }
    for (int i = 0; i < sv_weights_count(w); i++) {
        const char *name = sv_weights_name(w, i);
        SV_CHECK(c, !strchr(name, '/') && strcmp(name, ".") != 0, SV_UNSUPPORTED,
                 "%s: a tensor cannot be named '%s' in an HDF5 model file", path, name);
    }
    return SV_OK;
}

sv_status sv_hdf5_model_write(sv_ctx *c, const sv_weights *w, const char *temporary, const char *path)
{
    SV_TRY(check_names(c, w, path));
    char checksum[SV_SHA256_TEXT], why[SV_SHOWN] = "out of memory";
    sv_weights_checksum(w, checksum);
    const quiet before = be_quiet();
    lists l;
    const hid_t file = make_lists(&l) ? H5Fcreate(temporary, H5F_ACC_TRUNC, l.file, l.access) : -1;
    bool good = file >= 0 && put_all(file, &l, w, checksum);
    if (!good) reason(why);
    if (file >= 0 && H5Fclose(file) < 0) {
        if (good) reason(why);
        good = false;
    }
    close_lists(&l);
    be_as_before(before);
    SV_CHECK(c, good, SV_IO, "%s cannot be written: %s", path, why);
    return SV_OK;
}
