/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data in HDF5: datasets and attributes as malloc'ed arrays. Whatever is missing or of another kind
 * fails the test with file and name.
 */
#ifndef SUPPORT_H5_H
#define SUPPORT_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { H5_MAX_DIMS = 6 };

typedef struct h5_array {
    int ndim;
    int dim[H5_MAX_DIMS];
    size_t count; /* product of dim */
    float *f;     /* one of the two; free() it or h5_free() the array */
    int32_t *i;
} h5_array;

typedef struct h5_file h5_file;

/* NULL when the file cannot be opened and 'must' is false. */
h5_file *h5_open(const char *path, bool must);
void h5_close(h5_file *file);

bool h5_has(h5_file *file, const char *dataset);
/* Numbers of any type, converted by the library. */
h5_array h5_floats(h5_file *file, const char *dataset);
h5_array h5_ints(h5_file *file, const char *dataset);
void h5_free(h5_array *array);

/* Attributes of the root group. */
bool h5_has_attribute(h5_file *file, const char *name);
double h5_number(h5_file *file, const char *name);
/* exactly 'count' numbers */
void h5_numbers(h5_file *file, const char *name, double *out, int count);
/* malloc'ed, zero-terminated */
char *h5_text(h5_file *file, const char *name);

#endif
