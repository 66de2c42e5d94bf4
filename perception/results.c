/* SPDX-License-Identifier: Apache-2.0 */
#include "results.h"

#include <math.h>

void sv_results_begin(sv_results *r, FILE *stream, const char *const *classes, int class_count)
{
    *r = (sv_results){.json = sv_json_begin(stream), .classes = classes, .class_count = class_count};
    sv_json_object(&r->json, SV_JSON_LINES);
    sv_json_key(&r->json, "frames");
    sv_json_array(&r->json, SV_JSON_LINES);
}

sv_status sv_results_open(sv_ctx *c, sv_results *r, const char *path, const char *const *classes,
                          int class_count)
{
    sv_output file;
    *r = (sv_results){0};
    SV_TRY(sv_output_open(c, &file, path));
    sv_results_begin(r, file.stream, classes, class_count);
    r->file = file;
    return SV_OK;
}

sv_status sv_results_add(sv_ctx *c, sv_results *r, const char *frame, const sv_box *boxes, int count,
                         bool has_velocity)
{
    for (int i = 0; i < count; i++) {
        const sv_box *b = &boxes[i];
        const float values[] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading, b->score, b->vx, b->vy};
        for (int k = 0; k < (has_velocity ? 10 : 8); k++)
            SV_CHECK(c, isfinite(values[k]), SV_BAD_INPUT,
                     "frame '%s': box %d has a value that is not finite", frame, i);
        SV_CHECK(c, b->label >= 1 && b->label <= r->class_count, SV_BAD_INPUT,
                 "frame '%s': box %d has label %d of %d classes", frame, i, b->label, r->class_count);
    }
    sv_json *j = &r->json;
    sv_json_object(j, SV_JSON_LINES);
    sv_json_key(j, "frame");
    sv_json_text(j, frame);
    sv_json_key(j, "boxes");
    sv_json_array(j, SV_JSON_LINES);
    for (int i = 0; i < count; i++) {
        const sv_box *b = &boxes[i];
        const float values[] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading};
        sv_json_object(j, SV_JSON_INLINE);
        sv_json_key(j, "label");
        sv_json_text(j, r->classes[b->label - 1]);
        sv_json_key(j, "score");
        sv_json_float(j, b->score);
        sv_json_key(j, "box");
        sv_json_array(j, SV_JSON_INLINE);
        for (int k = 0; k < 7; k++) sv_json_float(j, values[k]);
        sv_json_end(j);
        if (has_velocity) {
            sv_json_key(j, "velocity");
            sv_json_array(j, SV_JSON_INLINE);
            sv_json_float(j, b->vx);
            sv_json_float(j, b->vy);
            sv_json_end(j);
        }
        sv_json_end(j);
    }
    sv_json_end(j);
    sv_json_end(j);
    return SV_OK;
}

sv_status sv_results_close(sv_ctx *c, sv_results *r)
{
    sv_json_end(&r->json);
    sv_json_end(&r->json);
    if (r->file.stream) return sv_output_commit(c, &r->file);
    const bool good = fflush(r->json.out) == 0 && !ferror(r->json.out);
    SV_CHECK(c, good, SV_IO, "the results cannot be written");
    return SV_OK;
}

void sv_results_discard(sv_results *r)
{
    sv_output_discard(&r->file);
}
