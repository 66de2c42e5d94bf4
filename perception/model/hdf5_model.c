/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing the native model file, HDF5 through libhdf5:
 *   /            attributes: format "savanna-model", format_version 1 (int32), checksum (SHA-256 over
 * everything else, see sv_weights_checksum()), and every metadata entry as a text /weights     one contiguous
 * float32, int64 or int32 dataset per tensor, named like it Texts are zero-terminated UTF-8 of fixed length.
 * The bytes depend on the content alone: no time stamps, one fixed version of the file format. Attributes and
 * links are kept in the object headers ("compact"), whose blocks carry checksums; hdf5_model_read.c reads
 * exactly this much of HDF5.
 */
#include "weights_file.h"

#include <hdf5.h>

#include <stdio.h>
#include <string.h>

enum { MAX_ATTRIBUTE = 60000, ALWAYS_COMPACT = 65535 };
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

/*
 * With room for all links from the start the group's header is one block; grown link by link it would be
 * many, and libhdf5 searches all of them for every new one.
 */
static unsigned average_name(const sv_weights *w)
{
    size_t total = 0;
    const size_t count = (size_t)sv_weights_count(w);
    for (size_t i = 0; i < count; i++) total += strlen(sv_weights_name(w, (int)i));
    return (unsigned)(count > 0 ? total / count + 8 : 8);
}

static bool make_lists(lists *l, const sv_weights *w)
{
    const int count = sv_weights_count(w);
    *l = (lists){H5Pcreate(H5P_FILE_ACCESS), H5Pcreate(H5P_FILE_CREATE), H5Pcreate(H5P_GROUP_CREATE),
                 H5Pcreate(H5P_DATASET_CREATE), H5Screate(H5S_SCALAR)};
    return l->access >= 0 && l->file >= 0 && l->group >= 0 && l->dataset >= 0 && l->scalar >= 0 &&
           H5Pset_libver_bounds(l->access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
           H5Pset_fclose_degree(l->access, H5F_CLOSE_STRONG) >= 0 &&
           H5Pset_obj_track_times(l->file, 0) >= 0 && H5Pset_obj_track_times(l->group, 0) >= 0 &&
           H5Pset_obj_track_times(l->dataset, 0) >= 0 &&
           H5Pset_attr_phase_change(l->file, ALWAYS_COMPACT, 0) >= 0 &&
           H5Pset_link_phase_change(l->group, ALWAYS_COMPACT, 0) >= 0 &&
           H5Pset_est_link_info(l->group, (unsigned)count, average_name(w)) >= 0 &&
           H5Pset_layout(l->dataset, H5D_CONTIGUOUS) >= 0 &&
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
    const hid_t file = make_lists(&l, w) ? H5Fcreate(temporary, H5F_ACC_TRUNC, l.file, l.access) : -1;
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
