/* SPDX-License-Identifier: Apache-2.0
 *
 * A Mamba block of LION on the GPU in three kernels (formulas: mamba.c):
 *
 *     1  mamba_project.cuh  in_proj (the u half), short convolutions, x_proj, dt_proj: v, delta, B and C
 *     2  mamba_walk.cuh     the scans of both directions: y. Where samples of few groups may come, groups
 *                           are cut and this kernel runs twice (mamba_cut.cuh)
 *     3  mamba_gate.cuh     in_proj (the z half), gate, out_proj, LayerNorm, residual
 *
 * In fp32 all numbers between the kernels are floats and products are made of three TF32 products. In all
 * other precisions they are half floats, as are the weights of 1 and 3, and sums are floats
 * (perception/core/matrix.cuh); 1 is mamba_project_half.cuh there, but on cards with less shared memory
 * (perception/core/room.h). How groups are cut follows from the channels, the length and the number of
 * groups of the sample they belong to.
 */
#include "perception/core/launch.cuh"

#include "mamba_gate.cuh"
#include "mamba_project.cuh"
#include "mamba_project_half.cuh"
#include "mamba_walk.cuh"

namespace {

/* Kernel 1 in half floats is another where a block's shared memory holds its weights. */
template <int C, int PRODUCTS> sv_status run_project(sv_ctx *c, const block_job &job)
{
    using shape = project_shape<C, PRODUCTS>;
    using half_shape = project_half_shape<C>;
    const int slots = job.slots.dim[0];
    if (PRODUCTS == 1 && sv_cuda_block_bytes(c) >= half_shape::BYTES)
        return sv_launch_resident(c, "mamba_block", project_half<C>, job, slots / half_shape::TOKENS,
                                  half_shape::THREADS, half_shape::BYTES);
    return sv_launch_resident(c, "mamba_block", project<C, PRODUCTS>, job, slots / shape::CHUNK,
                              shape::THREADS, shape::BYTES);
}

template <int C, int PRODUCTS> sv_status run_block(sv_ctx *c, const block_job &job)
{
    using walks = walk_shape<C, PRODUCTS>;
    using gates = gate_shape<C, PRODUCTS>;
    const int slots = job.slots.dim[0], pieces = job.slots.batch * job.most_pieces,
              groups = slots / job.length;
    SV_TRY((run_project<C, PRODUCTS>(c, job)));
    SV_TRY(sv_launch_resident(c, "mamba_block", walk<C, PRODUCTS, false>, job,
                              (groups + pieces) * 2 * walks::SLABS, walks::THREADS, walks::BYTES));
    if (pieces > 0)
        SV_TRY(sv_launch_resident(c, "mamba_block", walk<C, PRODUCTS, true>, job, pieces * 2 * walks::SLABS,
                                  walks::THREADS, walks::BYTES));
    return sv_launch_resident(c, "mamba_block", gate<C, PRODUCTS>, job, slots / chunk_of(C, PRODUCTS),
                              gates::THREADS, gates::BYTES);
}

__global__ void pack_halves(uint2 *out, const float *packed, int pieces)
{
    const int64_t item = sv_thread();
    if (item >= pieces) return;
    out[item] = sv_matrix_halves(packed + item / 32 * 128, (int)(item % 32));
}

/* Where the halves of in_proj, both x_proj and out_proj begin; the last: how many pieces there are. */
struct packed_places {
    size_t in_proj, x_proj[2], out_proj, count;
    explicit packed_places(const sv_mamba_weights *w)
    {
        in_proj = 0;
        x_proj[0] = sv_matrix_floats(w->in_proj.n, w->in_proj.k) / 4;
        x_proj[1] = x_proj[0] + sv_matrix_floats(w->direction[0].x_proj.n, w->direction[0].x_proj.k) / 4;
        out_proj = x_proj[1] + sv_matrix_floats(w->direction[1].x_proj.n, w->direction[1].x_proj.k) / 4;
        count = out_proj + sv_matrix_floats(w->out_proj.n, w->out_proj.k) / 4;
    }
};

} // namespace

sv_status sv_cuda_mamba_prepare(sv_ctx *c, sv_mamba_weights *w)
{
    w->packed = NULL; /* the float weights' own layouts do */
    if (c->precision == SV_FP32) return SV_OK;
    const packed_places at(w);
    SV_TRY(sv_arena_alloc(c, c->weights, "mamba halves", at.count * sizeof(uint2), &w->packed));
    const sv_linear_weights *from[] = {&w->in_proj, &w->direction[0].x_proj, &w->direction[1].x_proj,
                                       &w->out_proj};
    const size_t first[] = {at.in_proj, at.x_proj[0], at.x_proj[1], at.out_proj, at.count};
    for (int i = 0; i < 4; i++) {
        const int pieces = (int)(first[i + 1] - first[i]);
        pack_halves<<<sv_cuda_blocks(pieces), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
            (uint2 *)w->packed + first[i], (const float *)from[i]->packed, pieces);
        SV_TRY(SV_CUDA_LAUNCHED(c, "mamba_prepare"));
    }
    /* kernel 1 reads weights before it waits for the kernels before it */
    SV_CUDA_TRY(c, "mamba_prepare", cudaStreamSynchronize(sv_cuda_stream(c)));
    return SV_OK;
}

sv_status sv_cuda_mamba_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_mamba_weights *w,
                              const sv_order *order, int length)
{
    const int slots = order->slot_row.dim[0], channels = x.dim[1];
    if (slots == 0) return SV_OK;
    SV_CHECK(c, order->slot_row.offsets, SV_BAD_SHAPE, "mamba_block: slots without offsets per sample");
    SV_CHECK(c, x.pitch % 4 == 0, SV_BAD_SHAPE, "mamba_block: rows of %d numbers lie %d apart", channels,
             x.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_job job = {};
    job.x = x;
    job.y = y;
    job.slots = order->slot_row;
    job.row_slot = (const int32_t *)order->row_slot.data;
    const bool exact = c->precision == SV_FP32;
    SV_CHECK(c, exact || w->packed, SV_BAD_SHAPE,
             "mamba_block: weights that were not prepared for this precision");
    const packed_places at(w);
    const uint2 *halves = (const uint2 *)w->packed;
    job.in_proj = exact ? w->in_proj.packed : halves + at.in_proj;
    job.out_proj = exact ? w->out_proj.packed : halves + at.out_proj;
    for (int i = 0; i < 2; i++) {
        weights *to = &job.direction[i];
        to->conv_weight = (const float *)w->direction[i].conv_weight.data;
        to->conv_bias = (const float *)w->direction[i].conv_bias.data;
        to->dt_weight = (const float *)w->direction[i].dt_proj.w.data;
        to->dt_bias = (const float *)w->direction[i].dt_proj.bias.data;
        to->a = (const float *)w->direction[i].a.data;
        to->d = (const float *)w->direction[i].d.data;
        to->x_proj = exact ? w->direction[i].x_proj.packed : halves + at.x_proj[i];
    }
    job.norm_weight = (const float *)w->norm_weight.data;
    job.norm_bias = (const float *)w->norm_bias.data;
    job.tiles = slots / TILE;
    job.length = length;
    choose_cuts(&job, channels);
    job.rank = w->rank;
    job.eps = w->eps;
    const size_t cells = 2 * (size_t)slots * (size_t)w->inner;
    void *wide = NULL, *ends = NULL, *sums = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba v, delta",
                          2 * cells * (exact ? sizeof(float) : sizeof(__half)), &job.pairs));
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "mamba B, C", 2 * (size_t)slots * 2 * STATES * sizeof(float), &wide));
    const size_t states = 2 * (size_t)job.slots.batch * (size_t)job.most_pieces * (size_t)w->inner;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba segment states", states * STATES * sizeof(float), &ends));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba segment sums", states * sizeof(float), &sums));
    job.wide = (float *)wide;
    job.ends = (float *)ends;
    job.sums = (float *)sums;
    if (channels == 32)
        SV_TRY((exact ? run_block<32, 3>(c, job) : run_block<32, 1>(c, job)));
    else if (channels == 64)
        SV_TRY((exact ? run_block<64, 3>(c, job) : run_block<64, 1>(c, job)));
    else
        SV_TRY((exact ? run_block<128, 3>(c, job) : run_block<128, 1>(c, job)));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
