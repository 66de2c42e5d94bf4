/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading samples ahead: a few threads read, parse and decode while the caller computes on earlier samples.
 * Samples come in the dataset's order; so does the first failure. Only 'slots' of them are in memory.
 *
 *     frame_loader_begin(c, &def, &loader);
 *     for (int i = 0; status == SV_OK && i < count; i++) {
 *         const frame_slot *slot;
 *         status = frame_loader_wait(c, loader, i, &slot);
 *         ...
 *         frame_loader_release(loader, i + 1);       everything before i + 1 may be overwritten
 *     }
 *     frame_loader_end(loader);
 */
#ifndef SV_FRAME_LOADER_H
#define SV_FRAME_LOADER_H

#include "app.h"

#include "datasets/evaluator.h"

typedef struct frame_slot {
    sv_sample sample;
    sv_eval_result result;
    bool has_result; /* read from the submission */
} frame_slot;

typedef struct frame_loader_def {
    const sv_app *app;
    const sv_dataset *dataset;
    unsigned parts;        /* of every sample */
    unsigned absent_parts; /* in addition, of samples without results in the submission */
    /* Results that are read with their samples; NULL: none. */
    const sv_evaluator *evaluator;
    const sv_submission *submission;
    /* Samples of which elsewhere_parts are read instead of absent_parts (without any part: nothing); NULL: none. */
    const bool *elsewhere;
    unsigned elsewhere_parts;
    int slots, threads;
} frame_loader_def;

typedef struct frame_loader frame_loader;

sv_status frame_loader_begin(sv_ctx *c, const frame_loader_def *def, frame_loader **out);
/* Not more than 'slots' samples beyond the last release. The slot may be changed until it is released. */
sv_status frame_loader_wait(sv_ctx *c, frame_loader *loader, int sample, frame_slot **out);
void frame_loader_release(frame_loader *loader, int before);
void frame_loader_end(frame_loader *loader); /* NULL is fine; also in the middle */

#endif
