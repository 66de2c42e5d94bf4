/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700
#include "check.h"

#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const check_kind *const kinds[] = {
#define KIND(name) &check_##name,
#include "check_kinds.def"
#undef KIND
};
static const check_folder *const folders[] = {
#define FOLDER(name) &check_##name,
#include "check_folders.def"
#undef FOLDER
};
enum { KINDS = sizeof kinds / sizeof *kinds, FOLDERS = sizeof folders / sizeof *folders };

/* ---- results ------------------------------------------------------------------------------------------ */

static void print_json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 0x20)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    }
    putchar('"');
}

static void report(check_run *run, const check_file *file, const char *name, const char *verdict,
                   const char *text)
{
    if (run->app->json) {
        printf("{\"file\":");
        print_json_text(file->path);
        printf(",\"tensor\":");
        print_json_text(name);
        printf(",\"verdict\":");
        print_json_text(verdict);
        printf(",\"text\":");
        print_json_text(text);
        printf("}\n");
    } else if (run->app->verbosity >= 0 || strcmp(verdict, "FAILED") == 0) {
        printf("  %-11s %-48s %s\n", verdict, name, text);
    }
    fflush(stdout);
}

void check_result(check_run *run, check_file *file, const char *name, bool passed, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (passed)
        run->passed++;
    else
        run->failed++;
    if (!passed && run->fail_fast) run->stop = true;
    report(run, file, name, passed ? "ok" : "FAILED", text);
}

static bool wanted(const check_run *run, const char *name)
{
    return !run->filter || strstr(name, run->filter);
}

static void mark_seen(check_file *file, const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->names[i], name) == 0) file->seen[i] = true;
}

void check_floats(check_run *run, check_file *file, const char *name, const float *got, const float *want,
                  size_t count, double tolerance)
{
    mark_seen(file, name);
    if (!wanted(run, name)) return;
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)got[i] - (double)want[i]);
        if (got[i] == want[i]) error = 0; /* infinities */
        if (isnan(error)) error = INFINITY;
        if (error > worst) {
            worst = error;
            at = i;
        }
    }
    if (worst <= tolerance) {
        check_result(run, file, name, true, "max error %.2e, tolerance %.2e, %zu values", worst, tolerance,
                     count);
    } else {
        check_result(run, file, name, false,
                     "max error %.2e, tolerance %.2e, at %zu of %zu: %.9g instead of %.9g", worst, tolerance,
                     at, count, (double)got[at], (double)want[at]);
    }
}

void check_doubles(check_run *run, check_file *file, const char *name, const double *got, const double *want,
                   size_t count, double tolerance)
{
    mark_seen(file, name);
    if (!wanted(run, name)) return;
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        double error = fabs(got[i] - want[i]);
        if (got[i] == want[i]) error = 0; /* infinities */
        if (isnan(error)) error = INFINITY;
        if (error > worst) {
            worst = error;
            at = i;
        }
    }
    if (worst <= tolerance) {
        check_result(run, file, name, true, "max error %.2e, tolerance %.2e, %zu values", worst, tolerance,
                     count);
    } else {
        check_result(run, file, name, false,
                     "max error %.2e, tolerance %.2e, at %zu of %zu: %.9g instead of %.9g", worst, tolerance,
                     at, count, got[at], want[at]);
    }
}

void check_ints(check_run *run, check_file *file, const char *name, const int32_t *got, const int32_t *want,
                size_t count)
{
    mark_seen(file, name);
    if (!wanted(run, name)) return;
    size_t wrong = 0, at = 0;
    for (size_t i = 0; i < count; i++) {
        if (got[i] == want[i]) continue;
        if (wrong++ == 0) at = i;
    }
    if (wrong == 0)
        check_result(run, file, name, true, "equal, %zu integers", count);
    else
        check_result(run, file, name, false, "%zu of %zu integers differ, first at %zu: %d instead of %d",
                     wrong, count, at, got[at], want[at]);
}

double check_tolerance(check_run *run, check_file *file, const char *attribute, const float *want,
                       size_t count)
{
    double error = 0, largest = 0;
    if (attribute && sv_h5_has_attribute(file->h5, attribute) &&
        sv_h5_number(run->c, file->h5, attribute, &error) != SV_OK) {
        sv_error_clear(run->c);
        error = 0;
    }
    for (size_t i = 0; i < count; i++)
        if (isfinite(want[i]) && fabs((double)want[i]) > largest) largest = fabs((double)want[i]);
    return fmax(10 * error, 1e-5 * largest);
}

sv_status check_dataset(check_run *run, check_file *file, const char *name, const void *got, size_t got_count,
                        const char *attribute)
{
    sv_h5_array want;
    SV_TRY(check_read(run, file, name, &want));
    if (want.count != got_count) {
        check_result(run, file, name, false, "%zu values instead of %zu", got_count, want.count);
    } else if (want.integer) {
        check_ints(run, file, name, got, want.i, want.count);
    } else {
        check_floats(run, file, name, got, want.f, want.count,
                     check_tolerance(run, file, attribute, want.f, want.count));
    }
    sv_h5_array_free(&want);
    return SV_OK;
}

sv_status check_tensor(check_run *run, check_file *file, const char *name, sv_tensor got,
                       const char *attribute)
{
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(run->c, got, &host, &rows));
    const sv_status status =
        check_dataset(run, file, name, host, (size_t)rows * (size_t)sv_row_elements(got), attribute);
    free(host);
    return status;
}

/* ---- inputs ------------------------------------------------------------------------------------------- */

bool check_has(check_file *file, const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->names[i], name) == 0) return true;
    return false;
}

sv_status check_read(check_run *run, check_file *file, const char *name, sv_h5_array *out)
{
    mark_seen(file, name);
    return sv_h5_read(run->c, file->h5, name, out);
}

sv_status check_upload(check_run *run, const sv_h5_array *array, sv_tensor *out)
{
    sv_ctx *c = run->c;
    const int rows = array->ndim > 0 ? (int)array->dim[0] : 1;
    const int columns = rows > 0 ? (int)(array->count / (size_t)rows) : 1;
    SV_TRY(
        sv_frame_alloc(c, out, "reference input", array->integer ? SV_I32 : SV_F32, rows, columns, SV_NONE));
    SV_TRY(c->device->upload(c, out->data, array->integer ? (const void *)array->i : array->f,
                             array->count * 4));
    return c->device->queue_wait(c);
}

static sv_status attach(check_run *run, sv_tensor *tensor, const int32_t *offsets, int batch)
{
    sv_ctx *c = run->c;
    int32_t *device = NULL;
    SV_TRY(sv_frame_offsets(c, &device, batch));
    SV_TRY(c->device->upload(c, device, offsets, sizeof *offsets * ((size_t)batch + 1)));
    SV_TRY(c->device->queue_wait(c));
    tensor->offsets = device;
    tensor->batch = (int16_t)batch;
    return SV_OK;
}

sv_status check_attach_samples(check_run *run, sv_tensor *tensor, const sv_h5_array *coords, int batch)
{
    int32_t offsets[SV_MAX_BATCH + 1] = {0};
    SV_CHECK(run->c, batch >= 1 && batch <= SV_MAX_BATCH && coords->integer, SV_BAD_INPUT,
             "batch of %d samples", batch);
    const int64_t rows = coords->dim[0], columns = (int64_t)coords->count / (rows > 0 ? rows : 1);
    int b = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int32_t sample = coords->i[i * columns];
        SV_CHECK(run->c, sample >= b && sample < batch, SV_BAD_INPUT,
                 "row %lld belongs to sample %d after sample %d of %d", (long long)i, sample, b, batch);
        while (b < sample) offsets[++b] = (int32_t)i;
    }
    while (b < batch) offsets[++b] = (int32_t)rows;
    return attach(run, tensor, offsets, batch);
}

sv_status check_attach_rows(check_run *run, sv_tensor *tensor, int rows)
{
    const int32_t offsets[2] = {0, rows};
    return attach(run, tensor, offsets, 1);
}

sv_status check_weights(check_run *run, check_file *file, sv_weights **out)
{
    static const char prefix[] = "weights/";
    *out = sv_weights_new();
    SV_CHECK(run->c, *out, SV_NO_MEMORY, "no memory for weights");
    for (int i = 0; i < file->count; i++) {
        if (strncmp(file->names[i], prefix, sizeof prefix - 1) != 0) continue;
        sv_h5_array array;
        SV_TRY(check_read(run, file, file->names[i], &array));
        sv_tensor t = {.data = array.integer ? (void *)array.i : array.f,
                       .ndim = (uint8_t)(array.ndim > 0 ? array.ndim : 1),
                       .dtype = array.integer ? SV_I32 : SV_F32};
        for (int k = 0; k < t.ndim && k < SV_MAX_DIMS; k++)
            t.dim[k] = array.ndim > 0 ? (int32_t)array.dim[k] : 1;
        sv_status status = SV_OK;
        if (array.ndim > SV_MAX_DIMS)
            status = SV_FAIL(run->c, SV_UNSUPPORTED, "%s has %d dimensions", file->names[i], array.ndim);
        t.pitch = (int32_t)sv_row_elements(t);
        if (status == SV_OK) status = sv_weights_add(run->c, *out, file->names[i] + sizeof prefix - 1, t);
        sv_h5_array_free(&array);
        SV_TRY(status);
    }
    return SV_OK;
}

/* ---- files and folders -------------------------------------------------------------------------------- */

void check_not_covered(check_run *run, const check_file *file, const char *name, const char *why)
{
    run->uncovered++;
    if (run->strict && run->fail_fast) run->stop = true;
    report(run, file, name, "not covered", why);
}

static void check_hdf5(check_run *run, const char *path)
{
    check_file file = {.path = path};
    sv_error_clear(run->c);
    if (!run->app->json && run->app->verbosity >= 0) printf("%s\n", path);
    sv_status status = sv_h5_open(run->c, path, &file.h5);
    if (status == SV_OK) status = sv_h5_names(run->c, file.h5, &file.names, &file.count);
    if (status == SV_OK) {
        file.seen = calloc((size_t)file.count + 1, sizeof *file.seen);
        if (!file.seen) status = SV_FAIL(run->c, SV_NO_MEMORY, "no memory");
    }
    const check_kind *kind = NULL;
    for (int i = 0; status == SV_OK && i < KINDS && !kind; i++)
        if (kinds[i]->recognise(&file)) kind = kinds[i];
    if (status == SV_OK && !kind) {
        check_not_covered(run, &file, "(file)", "no check of this kind of reference data");
    } else if (status == SV_OK) {
        run->files++;
        status = sv_arena_reset(run->c, &run->c->frame);
        if (status == SV_OK) status = sv_arena_reset(run->c, &run->c->scratch);
        if (status == SV_OK) status = kind->run(run, &file);
        if (status == SV_UNSUPPORTED) {
            check_not_covered(run, &file, kind->name, sv_error_message(run->c));
            status = SV_OK;
        } else if (status == SV_OK && !run->filter) {
            for (int i = 0; i < file.count && !run->stop; i++)
                if (!file.seen[i])
                    check_not_covered(run, &file, file.names[i], "nothing compares this dataset");
        }
    }
    if (status != SV_OK)
        check_result(run, &file, kind ? kind->name : "(file)", false, "%s", sv_error_message(run->c));
    sv_error_clear(run->c);
    sv_h5_close(run->c, file.h5);
    sv_h5_names_free(file.names, file.count);
    free(file.seen);
}

/* Run 'folder' as reference data; false when it is none. */
static bool check_as_folder(check_run *run, const char *path)
{
    const check_folder *kind = NULL;
    for (int i = 0; i < FOLDERS && !kind; i++)
        if (folders[i]->recognise(path)) kind = folders[i];
    if (!kind) return false;
    check_file file = {.path = path};
    if (!run->app->json && run->app->verbosity >= 0) printf("%s\n", path);
    run->files++;
    sv_error_clear(run->c);
    const sv_status status = kind->run(run, &file);
    if (status == SV_UNSUPPORTED)
        check_not_covered(run, &file, kind->name, sv_error_message(run->c));
    else if (status != SV_OK)
        check_result(run, &file, kind->name, false, "%s", sv_error_message(run->c));
    sv_error_clear(run->c);
    return true;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool has_suffix(const char *text, const char *suffix)
{
    const size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

/* Recorded expectations that are not HDF5: evaluator goldens. */
static bool is_expectation(const char *name)
{
    return strncmp(name, "expected", 8) == 0 && (has_suffix(name, ".json") || has_suffix(name, ".csv"));
}

static sv_status check_path(check_run *run, const char *path, bool named)
{
    struct stat info;
    SV_CHECK(run->c, stat(path, &info) == 0, SV_IO, "%s: there is no such file or folder", path);
    if (!S_ISDIR(info.st_mode)) {
        const char *slash = strrchr(path, '/');
        check_file file = {.path = path};
        if (sv_h5_is(path))
            check_hdf5(run, path);
        else if (is_expectation(slash ? slash + 1 : path)) {
            char folder[1024];
            const int length = slash ? (int)(slash - path) : 1;
            snprintf(folder, sizeof folder, "%.*s", length, slash ? path : ".");
            if (named && check_as_folder(run, folder)) return SV_OK;
            if (!run->app->json && run->app->verbosity >= 0) printf("%s\n", path);
            check_not_covered(run, &file, "(file)",
                              "evaluator results: no check of this kind of reference data");
        } else {
            SV_CHECK(run->c, !named, SV_BAD_INPUT,
                     "%s is not reference data: HDF5 files with recorded tensors are (see its README)", path);
        }
        return SV_OK;
    }
    if (check_as_folder(run, path)) return SV_OK;
    struct dirent **entries = NULL;
    const int count = scandir(path, &entries, NULL, by_name);
    SV_CHECK(run->c, count >= 0, SV_IO, "%s: the folder cannot be read", path);
    sv_status status = SV_OK;
    for (int i = 0; i < count; i++) {
        char child[1024];
        const int length = snprintf(child, sizeof child, "%s/%s", path, entries[i]->d_name);
        if (status == SV_OK && !run->stop && entries[i]->d_name[0] != '.' && length < (int)sizeof child)
            status = check_path(run, child, false);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* ---- the command -------------------------------------------------------------------------------------- */

static bool strict, fail_fast;
static const char *filter;

static int run_check(sv_app *app, int count, char **inputs)
{
    if (count == 0) return sv_app_usage_error(app, "name the reference files or folders to check");
    int code = 0;
    check_run run = {.app = app, .strict = strict, .fail_fast = fail_fast, .filter = filter};
    run.c = sv_app_ctx(app, &code);
    if (!run.c) return code;
    sv_status status = SV_OK;
    for (int i = 0; i < count && status == SV_OK && !run.stop; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s", inputs[i]);
        for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--) path[n - 1] = '\0';
        status = check_path(&run, path, true);
    }
    if (status != SV_OK) {
        code = sv_app_fail(app, status, sv_error_message(run.c));
    } else {
        const bool nothing = run.passed + run.failed + run.uncovered == 0;
        if (app->json)
            printf("{\"files\":%d,\"passed\":%d,\"failed\":%d,\"not_covered\":%d}\n", run.files, run.passed,
                   run.failed, run.uncovered);
        else
            printf("%d files run: %d tensors ok, %d failed, %d not covered%s\n", run.files, run.passed,
                   run.failed, run.uncovered, nothing ? " (nothing was found)" : "");
        code = run.failed > 0 || nothing || (strict && run.uncovered > 0) ? 1 : 0;
    }
    sv_ctx_close(run.c);
    return code;
}

static const sv_option options[] = {
    {"--strict", 0, SV_OPTION_FLAG, &strict, NULL,
     "Reference data or datasets that nothing compares count as a failure (exit code 1)."},
    {"--fail-fast", 0, SV_OPTION_FLAG, &fail_fast, NULL, "Stop at the first tensor out of tolerance."},
    {"--filter", 0, SV_OPTION_TEXT, &filter, "TEXT", "Compare only datasets whose path contains TEXT."},
};

const sv_command sv_command_check = {
    .name = "check",
    .summary = "compare with recorded reference data, tensor by tensor",
    .usage = "PATH... [--strict] [--fail-fast] [--filter TEXT] [--device D] [--precision P]",
    .description =
        "Runs recorded reference data and prints, for every tensor, the largest error beside its "
        "tolerance. Files are recognised by what they "
        "hold, wherever they lie; folders are searched. Covered: LION operator blocks, "
        "recurrences of the catalogue, window "
        "orders, patch merging, sub-manifold "
        "convolution, LION layers and blocks, non-maximum suppression, video models, and whole detectors (a "
        "recording NAME.h5 beside NAME.yaml and "
        "NAME.pth). KITTI evaluations are folders with label_2, result/data and expected.json.\n"
        "Tolerance: max(10 x the recorded float32-float64 difference, 1e-5 x the largest "
        "magnitude); integers must be equal. Where a "
        "selection of voxels differs only by scores closer than 2e-6, the line says so and the "
        "recorded choice is imposed on what follows.",
    .examples = "  savanna check golden/lion\n  savanna check golden/lion/models/kitti_mamba_full.h5 "
                "--filter backbone_3d\n"
                "  savanna check golden/lion --device cuda --strict\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_check,
};
