/* SPDX-License-Identifier: Apache-2.0
 *
 * Small HDF5 reading and writing: reference data and stage dumps. Numbers of
 * any type are converted by the library. Everything read is malloc'ed.
 */
#ifndef SV_H5_H
#define SV_H5_H

#include "context.h"

enum { SV_H5_DIMS = 6 };

typedef struct sv_h5 sv_h5;

typedef struct sv_h5_array {
    int ndim;
    int64_t dim[SV_H5_DIMS];
    size_t count; /* product of dim */
    bool integer; /* the file's type: 'i' is set, else 'f' */
    float *f;
    int32_t *i;
} sv_h5_array;

/* True when the file's content begins like HDF5. */
bool sv_h5_is(const char *path);
sv_status sv_h5_open(sv_ctx *c, const char *path, sv_h5 **out);
/* Written to "path.tmp" and renamed by sv_h5_close(); without a close nothing appears. */
sv_status sv_h5_create(sv_ctx *c, const char *path, sv_h5 **out);
sv_status sv_h5_close(sv_ctx *c, sv_h5 *file); /* NULL is fine */
const char *sv_h5_path(const sv_h5 *file);

/* A dataset or group "a/b/c". */
bool sv_h5_has(sv_h5 *file, const char *name);
sv_status sv_h5_read(sv_ctx *c, sv_h5 *file, const char *name, sv_h5_array *out);
void sv_h5_array_free(sv_h5_array *array);
/* Dataset (not group) paths, sorted; free with sv_h5_names_free(). */
sv_status sv_h5_names(sv_ctx *c, sv_h5 *file, char ***names, int *count);
void sv_h5_names_free(char **names, int count);

/* Attributes: "name" of the file, "a/b@name" of a dataset or group. */
bool sv_h5_has_attribute(sv_h5 *file, const char *name);
sv_status sv_h5_number(sv_ctx *c, sv_h5 *file, const char *name, double *out);
sv_status sv_h5_numbers(sv_ctx *c, sv_h5 *file, const char *name, double *out,
                        int count);                                         /* exactly 'count' */
sv_status sv_h5_text(sv_ctx *c, sv_h5 *file, const char *name, char **out); /* free() it */

/* Write a dense array, making the groups of 'name'; dtype SV_F32, SV_I32 or SV_I64. */
sv_status sv_h5_write(sv_ctx *c, sv_h5 *file, const char *name, sv_dtype dtype, int ndim, const int64_t *dim,
                      const void *data);

#endif
