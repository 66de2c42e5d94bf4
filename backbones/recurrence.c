/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading tables of ports.
 */
#include "backbones/recurrence.h"

#include <stdlib.h>
#include <string.h>

int sv_port_count(const sv_recurrence *type)
{
    int count = 0;
    while (type->ports[count].kind != SV_PORT_END) count++;
    return count;
}

static int size_of(const sv_instance *self, char letter)
{
    if (letter >= '1' && letter <= '9') return letter - '0';
    return letter >= 'A' && letter <= 'z' ? self->size[(int)letter] : 1;
}

int sv_layout_columns(const sv_instance *self, const char *layout)
{
    int columns = 1;
    for (; *layout; layout++)
        if (*layout != 'B' && *layout != 'T' && *layout != 't') columns *= size_of(self, *layout);
    return columns;
}

const char *sv_port_core(const sv_port *port)
{
    return port->core ? port->core : port->layout;
}

int sv_port_columns(const sv_instance *self, int port)
{
    return sv_layout_columns(self, sv_port_core(&self->type->ports[port]));
}

int sv_state_first(const sv_instance *self, int port)
{
    int first = 0;
    for (int i = 0; i < port; i++)
        if (self->type->ports[i].kind == SV_PORT_STATE) first += sv_port_columns(self, i);
    return first;
}

int sv_state_columns(const sv_instance *self)
{
    return sv_state_first(self, sv_port_count(self->type));
}

sv_sequence sv_part_of(const sv_call *call, int port)
{
    sv_sequence seq = call->seq;
    const int first = sv_state_first(call->of, port), count = sv_port_columns(call->of, port);
    if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(seq.state_in, first, count);
    if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(seq.state_out, first, count);
    return seq;
}

bool sv_letter_fits(sv_instance *self, char letter, int64_t size)
{
    if (letter < 'A' || letter > 'z') return letter - '0' == size;
    int *known = &self->size[(int)letter];
    if (*known == 0 && size > 0 && size <= INT32_MAX) *known = (int)size;
    return *known == size;
}

sv_status sv_call_scratch(sv_ctx *c, const sv_call *call, sv_tensor *out, const char *name, int columns)
{
    return sv_scratch_alloc(c, out, name, SV_F32, call->y.dim[0], columns, call->y);
}

sv_status sv_call_ones(sv_ctx *c, const sv_call *call, sv_tensor *out, int columns)
{
    SV_TRY(sv_call_scratch(c, call, out, "ones", columns));
    return sv_fill(c, *out, 1);
}

sv_status sv_call_zero_states(sv_ctx *c, const sv_call *call, sv_tensor *out)
{
    SV_TRY(sv_scratch_alloc(c, out, "zero states", SV_F32, call->y.dim[0] / call->seq.length,
                            sv_state_columns(call->of), SV_NONE));
    return sv_fill(c, *out, 0);
}

sv_status sv_prepare_port(sv_ctx *c, const sv_instance *self, sv_linear_weights *out, int weight, int bias,
                          bool transposed)
{
    const sv_tensor w = self->host[weight];
    const int n = transposed ? w.dim[1] : w.dim[0], k = transposed ? w.dim[0] : w.dim[1];
    sv_tensor offset = SV_NONE;
    if (bias >= 0) offset = sv_view(self->host[bias].data, SV_F32, 1, n);
    if (!transposed) return sv_linear_prepare(c, out, w, offset);
    float *turned = malloc((size_t)n * (size_t)k * sizeof *turned);
    SV_CHECK(c, turned, SV_NO_MEMORY, "no memory to prepare weights");
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++) turned[(size_t)i * (size_t)k + (size_t)j] = sv_f32(w)[j * n + i];
    const sv_status status = sv_linear_prepare(c, out, sv_view(turned, SV_F32, n, k), offset);
    free(turned);
    return status;
}

sv_status sv_prepare_row(sv_ctx *c, sv_tensor *out, const float *numbers, int count)
{
    float *copy = malloc((size_t)count * sizeof *copy);
    SV_CHECK(c, copy, SV_NO_MEMORY, "no memory to prepare weights");
    memcpy(copy, numbers, (size_t)count * sizeof *copy);
    const sv_status status = sv_weight_upload(c, out, sv_view(copy, SV_F32, 1, count));
    free(copy);
    return status;
}

sv_status sv_recurrence_run(sv_ctx *c, const sv_call *call)
{
    const sv_sequence *seq = &call->seq;
    const int columns = sv_state_columns(call->of);
    SV_CHECK(c, seq->length >= 1 && call->y.dim[0] % seq->length == 0, SV_BAD_SHAPE,
             "%d slots are no whole number of groups of %d", call->y.dim[0], seq->length);
    const sv_tensor states[] = {seq->state_in, seq->state_out};
    for (int i = 0; i < 2; i++)
        SV_CHECK(c,
                 sv_is_none(states[i]) ||
                     (states[i].dim[0] >= call->y.dim[0] / seq->length && states[i].dim[1] == columns),
                 SV_BAD_SHAPE, "states are [%d,%d]; [%d,%d] was expected", states[i].dim[0], states[i].dim[1],
                 call->y.dim[0] / seq->length, columns);
    return call->of->type->run(c, call);
}
