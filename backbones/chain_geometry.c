/* SPDX-License-Identifier: Apache-2.0 */
#include "chain_geometry.h"

#include "perception/core/context.h"

int64_t sv_chain_divisor(int64_t a, int64_t b)
{
    return b == 0 ? a : sv_chain_divisor(b, a % b);
}

int64_t sv_chain_ceil(int64_t a, int64_t b)
{
    return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

sv_chain_scale sv_chain_scale_out(const sv_chain_node *n, sv_chain_scale in)
{
    sv_chain_scale out = in;
    if (n->kind == SV_CHAIN_DECONV) {
        out.up *= n->stride;
        out.low *= n->stride;
        out.high *= n->stride;
    } else {
        out.down *= n->stride;
        out.low = sv_chain_ceil(in.low + sv_chain_pad(n), n->stride);
        out.high = sv_chain_ceil(in.high + sv_chain_pad(n) - n->kernel + 1, n->stride);
    }
    const int64_t divisor = sv_chain_divisor(out.up, out.down);
    out.up /= divisor;
    out.down /= divisor;
    return out;
}

sv_chain_middle sv_chain_find_middle(const sv_chain_scale (*scales)[2], int which, int slots, int tile,
                                     const bool *left_out)
{
    int64_t unit = tile, from = 0, to = INT64_MAX;
    for (int v = 0; v < slots; v++) {
        const sv_chain_scale *s = &scales[v][which];
        if (left_out && left_out[v]) continue;
        const int64_t step = (int64_t)tile * s->down, low = sv_chain_ceil(s->low * s->down, s->up),
                      high = s->high > 0 ? s->high * s->down / s->up : 0;
        unit = unit / sv_chain_divisor(unit, step) * step;
        if (low > from) from = low;
        if (high < to) to = high;
    }
    from = sv_chain_ceil(from, unit) * unit;
    to = to / unit * unit;
    const int64_t removed = to - from > unit ? to - from - unit : 0;
    return (sv_chain_middle){.unit = unit, .from = removed > 0 ? from : 0, .removed = removed};
}

int sv_chain_size_out(const sv_chain_node *n, int in)
{
    if (n->kind == SV_CHAIN_DECONV) return in * n->stride;
    const int padded = in + 2 * sv_chain_pad(n);
    return padded < n->kernel ? 0 : (padded - n->kernel) / n->stride + 1;
}

void sv_chain_scale_meet(sv_chain_scale *to, sv_chain_scale from)
{
    if (!to->known) {
        *to = from;
        return;
    }
    if (to->up != from.up || to->down != from.down) to->high = to->low; /* no common middle */
    if (from.low > to->low) to->low = from.low;
    if (from.high < to->high) to->high = from.high;
}

sv_status sv_chain_check_node(sv_ctx *c, const sv_chain_def *def, int number)
{
    const sv_chain_node *n = &def->nodes[number];
    SV_CHECK(c, n->kind == SV_CHAIN_CONV || n->kind == SV_CHAIN_DECONV, SV_UNSUPPORTED,
             "chain: node %d is of kind %d", number, n->kind);
    SV_CHECK(
        c, n->kernel >= 1 && n->kernel <= SV_CHAIN_KERNEL && n->stride >= 1 && n->stride <= SV_CHAIN_STRIDE,
        SV_UNSUPPORTED, "chain: node %d has a kernel of %d and a stride of %d; up to %d and %d are supported",
        number, n->kernel, n->stride, (int)SV_CHAIN_KERNEL, (int)SV_CHAIN_STRIDE);
    SV_CHECK(c, n->kind != SV_CHAIN_DECONV || n->kernel == n->stride, SV_UNSUPPORTED,
             "chain: transposed node %d has a kernel of %d but a stride of %d", number, n->kernel, n->stride);
    SV_CHECK(c,
             n->in >= 0 && n->in <= SV_CHAIN_NODES && n->out >= 1 && n->out <= SV_CHAIN_NODES &&
                 n->in != n->out && n->add <= SV_CHAIN_NODES && n->add != n->out,
             SV_BAD_SHAPE, "chain: node %d reads slots %d and %d and writes slot %d", number, n->in, n->add,
             n->out);
    SV_CHECK(c, n->in_channels >= 1 && n->out_channels >= 1 && n->out_first >= 0 && n->w, SV_BAD_SHAPE,
             "chain: node %d has %d input and %d output channels from %d on", number, n->in_channels,
             n->out_channels, n->out_first);
    for (int later = number; later < def->node_count; later++) {
        const int out = def->nodes[later].out;
        SV_CHECK(c, out != n->in && out != n->add, SV_BAD_SHAPE,
                 "chain: node %d reads slot %d, which node %d writes later", number, out, later);
    }
    for (int j = 0; j < number; j++) {
        const sv_chain_node *o = &def->nodes[j];
        SV_CHECK(c,
                 o->out != n->out || o->out_first + o->out_channels <= n->out_first ||
                     n->out_first + n->out_channels <= o->out_first,
                 SV_BAD_SHAPE, "chain: nodes %d and %d write the same channels of slot %d", j, number,
                 n->out);
    }
    return SV_OK;
}

sv_status sv_chain_check_input(sv_ctx *c, const sv_chain_def *def, int number, int channels)
{
    const sv_chain_node *n = &def->nodes[number];
    SV_CHECK(c, channels == n->in_channels, SV_BAD_SHAPE, "chain: node %d reads %d channels, slot %d has %d",
             number, n->in_channels, n->in, channels);
    return SV_OK;
}

sv_status sv_chain_check_size(sv_ctx *c, const sv_chain_node *n, int number, sv_chain_map in,
                              const sv_chain_map *out, const sv_chain_map *add, int *height, int *width)
{
    const int y = sv_chain_size_out(n, in.height), x = sv_chain_size_out(n, in.width);
    SV_CHECK(c, y >= 1 && x >= 1 && y <= 1 << 14 && x <= 1 << 14, SV_BAD_SHAPE,
             "chain: node %d makes a map of %d x %d", number, y, x);
    SV_CHECK(c, !out || (out->height == y && out->width == x), SV_BAD_SHAPE,
             "chain: node %d makes %d x %d for slot %d of %d x %d", number, y, x, n->out, out->height,
             out->width);
    SV_CHECK(c, !add || (add->channels == n->out_channels && add->height == y && add->width == x),
             SV_BAD_SHAPE, "chain: node %d adds slot %d of %d x %d x %d to %d x %d x %d", number, n->add,
             add->height, add->width, add->channels, y, x, n->out_channels);
    *height = y;
    *width = x;
    return SV_OK;
}

sv_status sv_chain_check_maps(sv_ctx *c, const sv_chain_map *maps, int slots, int batch, sv_tensor in,
                              sv_tensor coords, const sv_chain_output *outputs, int count)
{
    const sv_chain_map *m = &maps[0];
    SV_CHECK(c, in.dim[0] == batch * m->height * m->width && in.dim[1] == m->channels, SV_BAD_SHAPE,
             "chain: input is [%d,%d], expected %d maps of %d x %d x %d", in.dim[0], in.dim[1], batch,
             m->height, m->width, m->channels);
    SV_CHECK(c,
             sv_is_none(coords) || (coords.ndim == 2 && coords.dtype == SV_I32 && coords.dim[1] == 4 &&
                                    coords.offsets && coords.batch == batch),
             SV_BAD_SHAPE, "chain: coords are [%d,%d] of %d samples, expected [N,4] with the offsets of %d",
             coords.dim[0], coords.dim[1], coords.batch, batch);
    for (int i = 0; i < count; i++) {
        const sv_chain_output *o = &outputs[i];
        SV_CHECK(c, o->slot >= 1 && o->slot < slots, SV_BAD_SHAPE, "chain: output %d is slot %d of %d", i,
                 o->slot, slots);
        m = &maps[o->slot];
        SV_CHECK(c,
                 o->map.ndim == 2 && o->map.dtype == SV_F32 &&
                     o->map.dim[0] == batch * m->height * m->width && o->map.dim[1] == m->channels,
                 SV_BAD_SHAPE, "chain: output %d is [%d,%d], expected %d maps of %d x %d x %d", i,
                 o->map.dim[0], o->map.dim[1], batch, m->height, m->width, m->channels);
        for (int j = 0; j < i; j++)
            SV_CHECK(c, outputs[j].slot != o->slot, SV_BAD_SHAPE, "chain: slot %d is asked for twice",
                     o->slot);
    }
    return SV_OK;
}
