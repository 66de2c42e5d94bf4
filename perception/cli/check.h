/* SPDX-License-Identifier: Apache-2.0
 *
 * 'savanna check': reference files are recognised by what they hold, run, and
 * compared tensor by tensor. A kind is a function that recognises a file and
 * one that runs it; check_kinds.def lists them.
 *
 * Tolerances are those of the reference data: the file says how far float32
 * and float64 runs of the original differ ("maxabs_f64_f32/<name>"), and a
 * result must stay within max(10 x that, 1e-5 x largest magnitude). Integers
 * must be equal.
 */
#ifndef SV_CHECK_H
#define SV_CHECK_H

#include "app.h"
#include "perception/core/h5.h"

typedef struct check_run {
    sv_app *app;
    sv_ctx *c;
    const char *filter; /* only dataset paths that contain this; NULL: all */
    bool strict, fail_fast;
    int passed, failed, uncovered, files; /* tensors; files that were run */
    bool stop;                            /* --fail-fast was met */
} check_run;

typedef struct check_file {
    const char *path;
    sv_h5 *h5;
    char **names; /* datasets */
    bool *seen;   /* compared or used as input */
    int count;
} check_file;

typedef struct check_kind {
    const char *name;
    bool (*recognise)(check_file *file);
    /* Adds its results to 'run'. A returned failure counts as one failed tensor named after the file. */
    sv_status (*run)(check_run *run, check_file *file);
} check_kind;

#define KIND(name) extern const check_kind check_##name;
#include "check_kinds.def"
#undef KIND

/* Reference data that is a folder of other files: evaluators. Its check_file has only a path. */
typedef struct check_folder {
    const char *name;
    bool (*recognise)(const char *folder);
    sv_status (*run)(check_run *run, check_file *folder);
} check_folder;

#define FOLDER(name) extern const check_folder check_##name;
#include "check_folders.def"
#undef FOLDER

/* ---- for the kinds ------------------------------------------------------------------------------------ */

bool check_has(check_file *file, const char *name);
/* Read a dataset and mark it seen. */
sv_status check_read(check_run *run, check_file *file, const char *name, sv_h5_array *out);
/* Copy of an array on the device, in the frame arena: [dim0, rest]. */
sv_status check_upload(check_run *run, const sv_h5_array *array, sv_tensor *out);
/* Per-sample offsets of rows whose first column is the (non-decreasing) sample; attached to 'tensor'. */
sv_status check_attach_samples(check_run *run, sv_tensor *tensor, const sv_h5_array *coords, int batch);
/* As above for 'rows' rows of one sample. */
sv_status check_attach_rows(check_run *run, sv_tensor *tensor, int rows);
/* The datasets "weights/..." as a weights container. */
sv_status check_weights(check_run *run, check_file *file, sv_weights **out);

/* max(10 x attribute, 1e-5 x max|want|); 'attribute' may be absent. */
double check_tolerance(check_run *run, check_file *file, const char *attribute, const float *want,
                       size_t count);
/* Compare and print one line. 'name' is the dataset; it is marked seen. */
void check_floats(check_run *run, check_file *file, const char *name, const float *got, const float *want,
                  size_t count, double tolerance);
void check_ints(check_run *run, check_file *file, const char *name, const int32_t *got, const int32_t *want,
                size_t count);
/* The same against a whole dataset; 'got' must have its element count ('got_count', else a failure is counted). */
sv_status check_dataset(check_run *run, check_file *file, const char *name, const void *got, size_t got_count,
                        const char *attribute);
/* The live rows of a device tensor against a whole dataset. */
sv_status check_tensor(check_run *run, check_file *file, const char *name, sv_tensor got,
                       const char *attribute);
/* Doubles; for what is in no HDF5 file. */
void check_doubles(check_run *run, check_file *file, const char *name, const double *got, const double *want,
                   size_t count, double tolerance);
/* A recorded value that nothing compares. */
void check_not_covered(check_run *run, const check_file *file, const char *name, const char *why);
/* A line that is not about one dataset. */
void check_result(check_run *run, check_file *file, const char *name, bool passed, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
