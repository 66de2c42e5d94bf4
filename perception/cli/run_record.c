/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* flock */
#include "run_record.h"

#include "datasets/dataset_type.h"
#include "perception/core/file.h"
#include "perception/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yajl/yajl_tree.h>

static const char record_name[] = "savanna-run.json";
enum { PATH = 4096, RECORD_LIMIT = 1 << 20 };

void run_record_add(run_record *record, const char *name, const char *format, ...)
{
    if (record->count == RUN_FIELDS) return;
    va_list args;
    va_start(args, format);
    vsnprintf(record->fields[record->count].value, RUN_VALUE, format, args);
    va_end(args);
    record->fields[record->count++].name = name;
}

static sv_status write_record(sv_ctx *c, const char *path, const run_record *record)
{
    sv_output file;
    SV_TRY(sv_output_open(c, &file, path));
    sv_json j = sv_json_begin(file.stream);
    sv_json_object(&j, SV_JSON_LINES);
    for (int i = 0; i < record->count; i++) {
        sv_json_key(&j, record->fields[i].name);
        sv_json_text(&j, record->fields[i].value);
    }
    sv_json_end(&j);
    return sv_output_commit(c, &file);
}

/* A record made with other settings is an error that names the first of them. */
static sv_status compare_record(sv_ctx *c, const char *path, const run_record *record)
{
    void *text = NULL;
    size_t size = 0;
    char message[256];
    SV_TRY(sv_file_read(c, path, RECORD_LIMIT, &text, &size));
    yajl_val root = yajl_tree_parse(text, message, sizeof message);
    free(text);
    SV_CHECK(c, root, SV_BAD_INPUT, "%s: is no record of a run: %s", path, message);
    sv_status status = SV_OK;
    for (int i = 0; i < record->count && status == SV_OK; i++) {
        yajl_val value = yajl_tree_get(root, (const char *[]){record->fields[i].name, NULL}, yajl_t_string);
        const char *was = value ? YAJL_GET_STRING(value) : "not recorded";
        if (strcmp(was, record->fields[i].value) != 0)
            status = SV_FAIL(
                c, SV_BAD_INPUT,
                "%s: this run was made with another %s (%.80s) than now (%.80s): continue it with the "
                "same settings, or save to another folder",
                path, record->fields[i].name, was, record->fields[i].value);
    }
    yajl_tree_free(root);
    return status;
}

/* What a killed run was writing: NAME.part-PID-NUMBER. */
static sv_status remove_parts(sv_ctx *c, const char *folder)
{
    sv_names names;
    sv_status status = SV_OK;
    SV_TRY(sv_dataset_list(c, folder, "", &names));
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        char path[PATH];
        const char *part = strstr(names.data[i], ".part-");
        if (!part || strspn(part + 6, "0123456789-") != strlen(part + 6)) continue;
        status = sv_dataset_path(c, path, sizeof path, "%s/%s", folder, names.data[i]);
        if (status == SV_OK && unlink(path) != 0)
            status = SV_FAIL(c, SV_IO, "%s: cannot be removed: %s", path, strerror(errno));
    }
    sv_names_free(&names);
    return status;
}

static sv_status prepare(sv_ctx *c, const char *folder, const run_record *record, const char *suffix,
                         bool resume)
{
    char path[PATH];
    sv_names names;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s", folder, record_name));
    const bool recorded = sv_dataset_is_file(path);
    SV_TRY(sv_dataset_list(c, folder, suffix, &names));
    int results = names.count;
    for (int i = 0; i < names.count; i++) results -= strcmp(names.data[i], record_name) == 0;
    sv_names_free(&names);
    SV_CHECK(c, resume || (!recorded && results == 0), SV_BAD_INPUT,
             "%s: holds %d results of an earlier run: --resume continues it; else save to another folder",
             folder, results);
    SV_CHECK(c, recorded || results == 0, SV_BAD_INPUT,
             "%s: holds %d results, but no %s that says what they were made with: save to another folder "
             "(--results "
             "scores what is there)",
             folder, results, record_name);
    SV_TRY(remove_parts(c, folder));
    return recorded ? compare_record(c, path, record) : write_record(c, path, record);
}

sv_status run_folder_open(sv_ctx *c, const char *folder, const run_record *record, const char *suffix,
                          bool resume, int *lock)
{
    *lock = -1;
    SV_CHECK(c, sv_dataset_is_folder(folder) || mkdir(folder, 0777) == 0, SV_IO,
             "%s: the folder cannot be made: %s", folder, strerror(errno));
    const int handle = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SV_CHECK(c, handle >= 0, SV_IO, "%s: the folder cannot be opened: %s", folder, strerror(errno));
    /* File systems without locks are used without. */
    if (flock(handle, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(handle);
        return SV_FAIL(c, SV_IO, "%s: another run is writing there", folder);
    }
    const sv_status status = prepare(c, folder, record, suffix, resume);
    if (status == SV_OK)
        *lock = handle;
    else
        close(handle);
    return status;
}

void run_folder_close(int lock)
{
    if (lock >= 0) close(lock);
}
