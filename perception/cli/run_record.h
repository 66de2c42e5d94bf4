/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder of results that a long run fills: what the run was made with stands in savanna-run.json beside the
 * results, so that a run which was interrupted is only continued with the same settings. The folder is locked
 * against a second run while it is open.
 */
#ifndef SV_RUN_RECORD_H
#define SV_RUN_RECORD_H

#include "perception/core/context.h"

enum { RUN_FIELDS = 16, RUN_VALUE = 96 };

/* Everything that the results depend on, as names and texts. */
typedef struct run_record {
    struct {
        const char *name;
        char value[RUN_VALUE];
    } fields[RUN_FIELDS];
    int count;
} run_record;

void run_record_add(run_record *record, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Make the folder if need be, lock it, and write the record. A folder that holds results or a record already
 * is an error without 'resume'; with it the record must be the same (the first difference is named), and what
 * a killed run left half written is removed. '*lock' is to be given to run_folder_close().
 */
sv_status run_folder_open(sv_ctx *c, const char *folder, const run_record *record, const char *suffix,
                          bool resume, int *lock);
void run_folder_close(int lock); /* negative is fine */

#endif
