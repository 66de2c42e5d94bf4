/* SPDX-License-Identifier: Apache-2.0 */
#include "backbones/walk.h"

#include <string.h>

sv_status sv_walk_states(sv_ctx *c, const sv_sequence *seq, int groups, int columns, sv_tensor *out)
{
    *out = seq->state_out;
    if (sv_is_none(*out)) SV_TRY(sv_scratch_alloc(c, out, "scan states", SV_F32, groups, columns, SV_NONE));
    for (int g = 0; g < groups; g++) {
        float *row = sv_walk_group(*out, g);
        if (sv_is_none(seq->state_in))
            memset(row, 0, (size_t)columns * sizeof *row);
        else
            memmove(row, sv_walk_group(seq->state_in, g), (size_t)columns * sizeof *row);
    }
    return SV_OK;
}
