/* SPDX-License-Identifier: Apache-2.0
 *
 * What the catalogue's scans share. Their token inputs lie in slots; a group is walked from its first token or, in
 * reverse, from its last; states are updated where the next call finds them: in state_out, or in scratch.
 */
#ifndef SV_WALK_H
#define SV_WALK_H

#include "perception/core/ops.h"

/* The row of 't' that walking step 'step' of a group reads or writes. A single row stands for all (a constant). */
static inline float *sv_walk_row(sv_tensor t, const sv_sequence *seq, int group, int step)
{
    const ptrdiff_t slot = (ptrdiff_t)group * seq->length + (seq->reverse ? seq->length - 1 - step : step);
    return (float *)t.data + slot * t.pitch;
}

static inline float *sv_walk_group(sv_tensor states, int group)
{
    return (float *)states.data + (ptrdiff_t)group * states.pitch;
}

/* A one-row tensor as one that gives this row for every slot. */
static inline sv_tensor sv_walk_constant(sv_tensor t)
{
    t.pitch = 0;
    return t;
}

/* Rows to update: state_out, or scratch when it is not wanted, holding state_in or zeros. */
sv_status sv_walk_states(sv_ctx *c, const sv_sequence *seq, int groups, int columns, sv_tensor *out);

#endif
