/* SPDX-License-Identifier: Apache-2.0 */
#include "head.h"

#include <string.h>

#define HEAD(name) extern const sv_head_type sv_head_##name;
#include "heads.def"
#undef HEAD

static const sv_head_type *const heads[] = {
#define HEAD(name) &sv_head_##name,
#include "heads.def"
#undef HEAD
};

const sv_head_type *sv_head_find(const char *name)
{
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strcmp(heads[i]->name, name) == 0) return heads[i];
    return NULL;
}

sv_status sv_candidates_alloc(sv_ctx *c, sv_candidates *out, const char *name, int capacity, int batch)
{
    SV_TRY(sv_frame_offsets(c, &out->offsets, batch));
    SV_TRY(sv_frame_alloc(c, &out->boxes, name, SV_F32, capacity, SV_BOX_FIELDS, SV_NONE));
    out->boxes.offsets = out->offsets;
    out->boxes.batch = (int16_t)batch;
    SV_TRY(sv_frame_alloc(c, &out->scores, name, SV_F32, capacity, 1, out->boxes));
    SV_TRY(sv_frame_alloc(c, &out->labels, name, SV_I32, capacity, 1, out->boxes));
    return sv_frame_alloc(c, &out->index, name, SV_I32, capacity, 1, out->boxes);
}
