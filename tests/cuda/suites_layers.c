/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers of points and voxels that a device may have as one operation, beside the same layer by layer.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Two layers on the host, and what the device made of them. */
typedef struct layers_case {
    int in, hidden, out, layers;
    bool last_bias;
    float *host[4]; /* w, bias of both */
    sv_linear_weights mlp[2];
} layers_case;

static void make_layers(layers_case *l)
{
    const int counts[] = {l->hidden * l->in, l->hidden, l->out * l->hidden, l->out};
    for (int part = 0; part < 4; part++) {
        l->host[part] = malloc(sizeof(float) * (size_t)counts[part]);
        if (!l->host[part]) abort();
        for (int n = 0; n < counts[part]; n++)
            l->host[part][n] = normal() * (part == 2 ? 1.0f / sqrtf((float)l->hidden) : 0.5f);
    }
}
static void free_layers(layers_case *l)
{
    for (int part = 0; part < 4; part++) free(l->host[part]);
}

static sv_status prepare_layers(sv_ctx *c, test_case *t)
{
    layers_case *l = (layers_case *)(uintptr_t)t->more;
    SV_TRY(sv_linear_prepare(c, &l->mlp[0], sv_view(l->host[0], SV_F32, l->hidden, l->in),
                             sv_view(l->host[1], SV_F32, 1, l->hidden)));
    return sv_linear_prepare(c, &l->mlp[1], sv_view(l->host[2], SV_F32, l->out, l->hidden),
                             l->last_bias ? sv_view(l->host[3], SV_F32, 1, l->out) : SV_NONE);
}

/* buffers: offsets, coords, x; as lion.c composes it where the device has no operation of its own */
static sv_status run_embed(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const layers_case *l = t->more;
    if (sv_position_embed_fits(c, l->mlp)) return sv_position_embed(c, v[2], v[1], t->shape, l->mlp);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor in, hidden, out;
    SV_TRY(sv_scratch_alloc(c, &in, "in", SV_F32, v[2].dim[0], 3, v[2]));
    SV_TRY(sv_scratch_alloc(c, &hidden, "hidden", SV_F32, v[2].dim[0], l->hidden, v[2]));
    SV_TRY(sv_scratch_alloc(c, &out, "out", SV_F32, v[2].dim[0], l->out, v[2]));
    SV_TRY(sv_positions(c, in, v[1], t->shape));
    SV_TRY(sv_linear(c, hidden, in, SV_NONE, &l->mlp[0], SV_MAP_relu));
    SV_TRY(sv_linear(c, out, hidden, SV_NONE, &l->mlp[1], SV_MAP_identity));
    SV_TRY(sv_map2(c, v[2], v[2], out, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
void check_position_embed(bench *k)
{
    static const int widths[] = {64, 128, 32}, rows[] = {1, 3, 31, 64, 65, 300, 5000};
    for (int i = 0; i < 21; i++) {
        const int width = widths[i % 3];
        layers_case l = {.in = 3, .hidden = width, .out = width, .layers = 2, .last_bias = true};
        make_layers(&l);
        test_case t = {.prepare = prepare_layers, .run = run_embed, .more = &l, .shape = {7, 53, 61}};
        const int capacity = rows[i / 3] + below(70), batch = 1 + i % 3;
        const int offsets = add_offsets(&t, capacity, batch, 1);
        add_coords(&t, capacity, offsets, batch, t.shape);
        const int x = add_floats(&t, "x", capacity, live(&t, offsets), width, 1.0f);
        with_offsets(&t, x, offsets, batch);
        t.buffers[x].tolerance = 3e-6;
        snprintf(t.label, sizeof t.label, "%d of %d rows of %d, %d samples", live(&t, offsets), capacity,
                 width, batch);
        check(k, &t);
        free_layers(&l);
    }
}

/* buffers: offsets of points, offsets of voxels, x, voxel, start, y; as vfe.c composes it */
static sv_status run_maxima(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const layers_case *l = t->more;
    if (sv_point_maxima_fits(c, l->mlp, l->layers))
        return sv_point_maxima(c, v[5], v[2], v[3], l->mlp, l->layers);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor hidden, out;
    SV_TRY(sv_scratch_alloc(c, &hidden, "hidden", SV_F32, v[2].dim[0], l->hidden, v[2]));
    SV_TRY(sv_linear(c, hidden, v[2], SV_NONE, &l->mlp[0], SV_MAP_relu));
    if (l->layers > 1) {
        SV_TRY(sv_scratch_alloc(c, &out, "out", SV_F32, v[2].dim[0], l->out, v[2]));
        SV_TRY(sv_linear(c, out, hidden, SV_NONE, &l->mlp[1], SV_MAP_identity));
    }
    SV_TRY(sv_segment_max(c, v[5], l->layers > 1 ? out : hidden, v[4], SV_NONE));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
void check_point_maxima(bench *k)
{
    static const int outs[] = {128, 64, 96, 30, 1}, points[] = {1, 50, 256, 700, 12000};
    for (int i = 0; i < 30; i++) {
        layers_case l = {.in = 7 + i % 10, .hidden = i % 3 ? 64 : 24, .layers = 1 + i % 2};
        l.out = l.layers > 1 ? outs[i / 2 % 5] : l.hidden;
        make_layers(&l);
        test_case t = {.prepare = prepare_layers, .run = run_maxima, .more = &l};
        const int capacity = points[i % 5] + below(40), batch = 1 + i % 3;
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        const int voxel_offsets = add(&t, "voxel offsets", SV_I32, 1, batch + 1);
        const int x = add_floats(&t, "x", capacity, rows, l.in, 1.0f);
        const int voxel = add(&t, "voxel", SV_I32, capacity, 1),
                  start = add(&t, "start", SV_I32, capacity + 1, 1);
        with_offsets(&t, x, offsets, batch);
        with_offsets(&t, voxel, offsets, batch);
        /* voxels of one point, of a few, and some of more than a block takes; a sample begins a new one */
        int voxels = 0, left = 0, sample = 0;
        ints(&t, voxel_offsets)[0] = 0;
        for (int row = 0; row < rows; row++) {
            for (; sample < batch - 1 && row >= ints(&t, offsets)[sample + 1]; sample++, left = 0)
                ints(&t, voxel_offsets)[sample + 1] = voxels;
            if (left-- == 0) {
                ints(&t, start)[voxels++] = row;
                left = below(4) ? below(12) : below(30) ? 0 : below(1500);
            }
            ints(&t, voxel)[row] = voxels - 1;
        }
        for (; sample < batch; sample++) ints(&t, voxel_offsets)[sample + 1] = voxels;
        ints(&t, start)[voxels] = rows;
        add_output(&t, "y", capacity, l.out, voxel_offsets, batch, 2e-6);
        snprintf(t.label, sizeof t.label, "%d of %d points in %d voxels, %d to %d to %d", rows, capacity,
                 voxels, l.in, l.hidden, l.layers > 1 ? l.out : 0);
        check(k, &t);
        free_layers(&l);
    }
}
