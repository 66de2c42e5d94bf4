/* SPDX-License-Identifier: Apache-2.0
 *
 * The convolution chain on the GPU: implicit matrix products on tensor cores (perception/core/tile.cuh).
 *
 * Maps inside the chain hold 16-bit numbers, a cell's channels together: two halves per number for fp32
 * (value and remainder, three products: 2^-22 of a product is left out), one bfloat16 for bf16, one half for
 * fp16 and for tf32, whose mantissa it has. Weights are scaled by a power of two per output channel, so that their remainders stay
 * normal numbers. What lies beyond a half's 65504 becomes that (in fp32 the remainder holds as much again). A unit of
 * work is a tile of 8 x 16 cells by 32 (on Hopper), 64 or 128 output channels: 128 rows of patches, gathered tap by tap
 * while they are multiplied, never stored:
 *
 *     rows: cells of the tile      for each 64 input channels, for each tap:
 *     +----+   +----------+          A = the cells the tap looks at, zero outside the map
 *     | A  | x | W(tap)   |          B = the tap's weights, packed tile by tile at load
 *     +----+   +----------+          sums += A B
 *
 * Most of a BEV map is empty, and there the chain answers with what it answers to an empty map, which
 * depends on the distance to the border alone and is computed once, at load, on maps whose middle is cut
 * out. Per frame only tiles that a voxel reaches are computed ("live"); of the others those that a live
 * tile of the next layer looks at ("ring") are copied from that response, and all of them where the caller
 * asked for the map. A cell's sums have one order wherever it lies, so both ways give the same bytes.
 * What is decided before any frame is in chain_cuda_plan.h, the lists in chain_lists.cuh, what a step writes in chain_parts.cuh,
 * the products in chain_conv.cuh and, for Hopper, chain_stream.cuh, where a tile is two units of 8 x 8 cells whose patches all
 * taps share.
 */
#include "chain_conv.cuh"
#include "chain_stream.cuh"

#include <stdlib.h>
#include <string.h>

#include <type_traits>

struct chain_weights {
    void *w;
    float *bias; /* and the inverse of the scale behind it */
};

struct sv_chain {
    sv_precision precision;
    int multiprocessors;
    encode_map encode; /* NULL: conv_kernel does every step */
    sv_chain_plan plan;
    chain_weights weights[SV_PLAN_NODES]; /* of the steps */
    /* Responses to an empty map, [small cells] of cells as they are stored; NULL for slot 0: zeros. In float32 where
     * nobody reads the slot. */
    void *empty[SLOTS];
    float *empty_dense[SLOTS];
    int16_t *ranges; /* device */
};

namespace {

/* ---- weights ------------------------------------------------------------------------------------------- */

/* One tile of weights: [planes][columns][64], swizzled as shared memory wants it; with 'lanes' the columns lie as conv_stream
 * wants them. */
template <typename T>
void pack_tile(T *tile, bool lanes, int planes, int columns, const sv_plan_node *n, const sv_plan_part *p,
               const float *scale, int column0, int slab, int tap, int phase)
{
    for (int out = 0; out < p->channels; out++) {
        const int column = p->column + out - column0, row = lanes ? column_place(column) : column;
        if (column < 0 || column >= columns) continue;
        for (int k = 0; k < SV_TILE_K; k++) {
            const int in = slab * SV_TILE_K + k;
            if (in >= n->node.in_channels) break;
            const float w = sv_plan_weight(n, out, in, tap, phase) * scale[p->column + out];
            const int at = row * SV_TILE_K + ((k / 8) ^ (row & 7)) * 8 + k % 8;
            tile[at] = sv_narrow<T>(w);
            if (planes > 1) tile[columns * SV_TILE_K + at] = sv_narrow<T>(w - sv_widen(tile[at]));
        }
    }
}

/* A power of two that brings the largest weight of an output channel to 256..512; 1 for bfloat16, which
 * needs none. */
template <typename T> float scale_of(const sv_plan_node *n, int out)
{
    if (!std::is_same<T, __half>::value) return 1.0f;
    float most = 0;
    const bool conv = n->node.kind == SV_CHAIN_CONV;
    for (int in = 0; in < n->node.in_channels; in++)
        for (int k = 0; k < n->node.kernel * n->node.kernel; k++)
            most = fmaxf(most, fabsf(sv_plan_weight(n, out, in, conv ? k : 0, conv ? 0 : k)));
    int exponent = 0;
    if (!(most > 0) || !isfinite(most)) return 1.0f;
    frexpf(most, &exponent); /* most = 0.5..1 times 2^exponent */
    return ldexpf(1.0f, 9 - exponent);
}

/* [phase][n tile][slab][tap] tiles. */
template <typename T> sv_status pack_step(sv_ctx *c, sv_chain *chain, int number)
{
    const sv_plan_step *s = &chain->plan.step[number];
    chain_weights *to_keep = &chain->weights[number];
    const bool lanes = chain->encode != NULL;
    const int planes = chain->plan.how.planes, columns = s->tile;
    const size_t tile = (size_t)planes * columns * SV_TILE_K,
                 count = (size_t)s->phases * s->n_tiles * s->slabs * s->taps;
    T *host = (T *)calloc(count * tile, sizeof(T));
    /* bias, and the scale's inverse behind it */
    const size_t bias_count = (size_t)s->n_tiles * columns;
    float *bias = (float *)calloc(2 * bias_count, sizeof(float)), *scale = bias ? bias + bias_count : NULL;
    sv_status status =
        host && bias ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "chain: no memory for weights of %zu tiles", count);
    for (int q = 0; q < s->parts && status == SV_OK; q++) {
        T *to = host;
        const sv_plan_node *node = &chain->plan.node[s->part[q].node];
        for (int out = 0; out < s->part[q].channels; out++)
            scale[s->part[q].column + out] = scale_of<T>(node, out);
        for (int phase = 0; phase < s->phases; phase++)
            for (int n = 0; n < s->n_tiles; n++)
                for (int slab = 0; slab < s->slabs; slab++)
                    for (int tap = 0; tap < s->taps; tap++, to += tile)
                        pack_tile(to, lanes, planes, columns, node, &s->part[q], scale, n * columns, slab,
                                  tap, phase);
        if (node->node.bias)
            memcpy(bias + s->part[q].column, node->node.bias + node->out_start,
                   (size_t)s->part[q].channels * sizeof(float));
    }
    if (status == SV_OK)
        for (size_t i = 0; i < bias_count; i++) scale[i] = scale[i] > 0 ? 1.0f / scale[i] : 1.0f;
    const size_t bias_bytes = 2 * bias_count * sizeof(float);
    void *memory = NULL;
    if (status == SV_OK)
        status = sv_arena_alloc(c, c->weights, "chain weights", count * tile * sizeof(T), &to_keep->w);
    if (status == SV_OK) status = c->device->upload(c, to_keep->w, host, count * tile * sizeof(T));
    if (status == SV_OK) status = sv_arena_alloc(c, c->weights, "chain bias", bias_bytes, &memory);
    if (status == SV_OK) status = c->device->upload(c, memory, bias, bias_bytes);
    to_keep->bias = (float *)memory;
    free(host);
    free(bias);
    return status;
}

/* ---- running ------------------------------------------------------------------------------------------- */

struct run {
    const sv_chain *chain;
    int batch;
    bool whole;    /* the response itself: small maps, every tile live, results go to the slots' 'empty' */
    char *maps[2]; /* by region; of a response only the input's */
    const uint32_t *bits; /* of cells with a voxel, in lines of 'words' */
    int words;
    int32_t *lists;
    int list[SLOTS], work[SV_PLAN_NODES]; /* of slots; of steps that are transposed */
    sv_tensor dense[SLOTS];
};

template <typename T, int PLANES> sv_status allow_memory(sv_ctx *c, const sv_chain *chain)
{
    if (chain->encode) return allow_streams<T, PLANES>(c);
    SV_TRY(allow(c, conv_kernel<T, PLANES, 64>, conv_shape<T, PLANES, 64>::BYTES));
    return allow(c, conv_kernel<T, PLANES, 128>, conv_shape<T, PLANES, 128>::BYTES);
}

int height_of(const run *r, const sv_plan_slot *s)
{
    return r->whole ? s->y.small : s->y.size;
}
int width_of(const run *r, const sv_plan_slot *s)
{
    return r->whole ? s->x.small : s->x.size;
}

void *map_of(const run *r, int v)
{
    const sv_plan_slot *s = &r->chain->plan.slot[v];
    if (r->whole) return v > 0 ? r->chain->empty[v] : r->maps[SV_PLAN_INPUT];
    return r->maps[s->region] + s->offset * (size_t)r->batch;
}

part_job part_of(const run *r, const sv_plan_part *from)
{
    const sv_chain *chain = r->chain;
    const sv_plan_slot *out = &chain->plan.slot[from->out];
    part_job p = {};
    p.store = out->read ? map_of(r, from->out) : NULL;
    p.sums = out->sums;
    if (from->add >= 0) {
        p.add = map_of(r, from->add);
        p.add_pitch = chain->plan.slot[from->add].pitch;
        p.add_sums = chain->plan.slot[from->add].sums;
    }
    p.pitch = out->pitch;
    p.out_first = from->out_first;
    p.channels = from->channels;
    p.column = from->column;
    p.relu = from->relu;
    p.y = out->y;
    p.x = out->x;
    p.dense_first = from->dense_first;
    if (r->whole) {
        p.y.size = out->y.small;
        p.x.size = out->x.small;
        p.dense = chain->empty_dense[from->out];
        p.dense_pitch = out->channels;
    } else {
        p.empty = chain->empty[from->out];
        p.empty_dense = chain->empty_dense[from->out];
        p.empty_pitch = out->channels;
        if (from->dense >= 0) {
            p.dense = (float *)r->dense[from->dense].data;
            p.dense_pitch = r->dense[from->dense].pitch;
        }
        p.ring = r->lists + r->list[from->out];
    }
    return p;
}

template <typename T, int PLANES, int N> void launch(const conv_job &job, int blocks, cudaStream_t stream)
{
    conv_kernel<T, PLANES, N><<<blocks, THREADS, conv_shape<T, PLANES, N>::BYTES, stream>>>(job);
}
template <typename T, int PLANES>
void launch_columns(const conv_job &job, int columns, int blocks, cudaStream_t stream)
{
    columns == 64 ? launch<T, PLANES, 64>(job, blocks, stream) : launch<T, PLANES, 128>(job, blocks, stream);
}

sv_status run_step(sv_ctx *c, const run *r, int number)
{
    const sv_chain *chain = r->chain;
    const sv_chain_plan *plan = &chain->plan;
    const sv_plan_step *s = &plan->step[number];
    const sv_plan_slot *in = &plan->slot[s->in];
    const bool deconv = s->kind == SV_CHAIN_DECONV;
    const sv_plan_slot *work = deconv ? in : &plan->slot[s->part[0].out]; /* tiles of work lie on this grid */
    conv_job job = {};
    job.in = map_of(r, s->in);
    job.w = chain->weights[number].w;
    job.bias = chain->weights[number].bias;
    job.scale = job.bias + (size_t)s->n_tiles * s->tile;
    job.live = r->lists + (deconv ? r->work[number] : r->list[s->part[0].out]);
    job.in_height = height_of(r, in);
    job.in_width = width_of(r, in);
    job.in_channels = in->channels;
    job.in_pitch = in->pitch;
    job.work_height = height_of(r, work);
    job.work_width = width_of(r, work);
    job.work_tiles_x = sv_plan_tiles(job.work_width, TILE_X);
    job.work_tiles = sv_plan_tiles(job.work_height, TILE_Y) * job.work_tiles_x;
    job.kernel = deconv ? 1 : s->kernel;
    job.stride = deconv ? 1 : s->stride;
    job.pad = s->pad;
    job.taps = s->taps;
    job.slabs = s->slabs;
    job.n_tiles = s->n_tiles;
    job.phases = s->phases;
    job.up = deconv ? s->stride : 1;
    job.parts = s->parts;
    for (int q = 0; q < s->parts; q++) job.part[q] = part_of(r, &s->part[q]);
    const bool lists_are_old = !r->whole || number > 0;
    if (chain->encode && plan->how.planes > 1)
        return stream_columns<__half, 2>(c, chain->encode, chain->multiprocessors, job, r->batch, s->tile,
                                         lists_are_old);
    if (chain->encode && chain->precision == SV_BF16_MATH)
        return stream_columns<__nv_bfloat16, 1>(c, chain->encode, chain->multiprocessors, job, r->batch,
                                                s->tile, lists_are_old);
    if (chain->encode)
        return stream_columns<__half, 1>(c, chain->encode, chain->multiprocessors, job, r->batch, s->tile,
                                         lists_are_old);
    const int64_t most = (int64_t)job.work_tiles * r->batch * s->n_tiles * s->phases;
    const int64_t room = (int64_t)chain->multiprocessors * (plan->how.planes > 1 ? 1 : 2);
    const int blocks = (int)(most < room ? most : room);
    const cudaStream_t stream = sv_cuda_stream(c);
    if (plan->how.planes > 1)
        launch_columns<__half, 2>(job, s->tile, blocks, stream);
    else if (chain->precision == SV_BF16_MATH)
        launch_columns<__nv_bfloat16, 1>(job, s->tile, blocks, stream);
    else
        launch_columns<__half, 1>(job, s->tile, blocks, stream);
    return SV_CUDA_LAUNCHED(c, "chain_run");
}

/* The grids of all slots, and where their lists and those of transposed steps begin; returns the lists' numbers. */
int lay_out_lists(run *r, list_job *job)
{
    const sv_chain_plan *plan = &r->chain->plan;
    int lists = 0;
    for (int v = 0; v < plan->slots; v++) {
        const sv_plan_slot *s = &plan->slot[v];
        grid_job *g = &job->grid[v];
        g->tiles_y = s->joined ? 0 : sv_plan_tiles(height_of(r, s), TILE_Y);
        g->tiles_x = s->joined ? 0 : sv_plan_tiles(width_of(r, s), TILE_X);
        g->first = job->flags;
        g->list = r->list[v] = lists;
        g->reach = s->reach;
        g->readers = s->readers;
        for (int k = 0; k < s->readers; k++) {
            g->touch[k] = s->touch[k];
            g->reader[k] = plan->step[s->reader[k].step].part[s->reader[k].part].out;
        }
        job->flags += g->tiles_y * g->tiles_x;
        lists += LIST_HEAD + g->tiles_y * g->tiles_x * r->batch;
    }
    for (int i = 0; i < plan->nodes; i++) {
        const sv_plan_node *n = &plan->node[i];
        if (n->dense >= 0 && !sv_is_none(r->dense[n->dense])) job->grid[n->node.out].whole = true;
    }
    for (int v = 0; v < plan->slots; v++) {
        const sv_plan_slot *s = &plan->slot[v];
        for (int k = 0; k < s->readers; k++) {
            const int reader = s->reader[k].step;
            if (s->reader[k].adds || plan->step[reader].kind != SV_CHAIN_DECONV || s->reader[k].part > 0)
                continue;
            work_job *w = &job->work[job->works++];
            w->slot = v;
            w->touch = s->touch[k];
            w->reader = job->grid[v].reader[k];
            w->list = r->work[reader] = lists;
            lists += LIST_HEAD + job->grid[v].tiles_y * job->grid[v].tiles_x * r->batch;
        }
    }
    return lists;
}

/* Live and ring tiles of every slot. With 'whole' all tiles of the small maps are live. */
sv_status make_lists(sv_ctx *c, run *r, sv_tensor in, sv_tensor coords)
{
    const sv_chain_plan *plan = &r->chain->plan;
    const cudaStream_t stream = sv_cuda_stream(c);
    list_job job = {};
    const int lists = lay_out_lists(r, &job);
    job.all = r->whole;
    job.slots = plan->slots;
    job.batch = r->batch;
    job.height = plan->slot[0].y.size;
    job.width = plan->slot[0].x.size;
    job.words = (job.width + 31) / 32;
    job.ranges = r->chain->ranges;
    const size_t bits = (size_t)r->batch * job.height * job.words * sizeof(uint32_t),
                 flags = (size_t)r->batch * job.flags;
    void *cells = NULL, *live = NULL, *lists_memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain cells", bits, &cells));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain live tiles", flags, &live));
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "chain tile lists", (size_t)lists * sizeof(int32_t), &lists_memory));
    job.bits = r->bits = (const uint32_t *)cells;
    r->words = job.words;
    job.live = (uint8_t *)live;
    job.lists = r->lists = (int32_t *)lists_memory;
    if (!r->whole) {
        SV_CUDA_TRY(c, "chain_run", cudaMemsetAsync(cells, 0, bits, stream));
        if (sv_is_none(coords))
            mark_values<<<sv_cuda_blocks((int64_t)in.dim[0] * 32), SV_CUDA_THREADS, 0, stream>>>(
                (uint32_t *)cells, in, job.height, job.width, job.words);
        else
            mark_cells<<<sv_cuda_blocks(coords.dim[0]), SV_CUDA_THREADS, 0, stream>>>(
                (uint32_t *)cells, coords, job.height, job.width, job.words);
        const dim3 blocks(sv_cuda_blocks((int64_t)job.flags * 32), (unsigned)r->batch);
        find_live<<<blocks, SV_CUDA_THREADS, 0, stream>>>(job);
    }
    list_tiles<<<plan->slots + job.works, LIST_THREADS, 0, stream>>>(job);
    return SV_CUDA_LAUNCHED(c, "chain_run");
}

/* Every slot's response to an empty map, on the small maps. */
sv_status find_empty_response(sv_ctx *c, sv_chain *chain)
{
    const sv_chain_plan *plan = &chain->plan;
    for (int v = 1; v < plan->slots; v++) {
        const sv_plan_slot *s = &plan->slot[v];
        if (s->joined) continue;
        const size_t cells = (size_t)s->y.small * s->x.small;
        const size_t bytes = cells * (s->read ? s->cell_bytes : (size_t)s->channels * sizeof(float));
        void *memory = NULL;
        SV_TRY(sv_arena_alloc(c, c->weights, "chain empty response", bytes, &memory));
        if (s->read)
            chain->empty[v] = memory;
        else
            chain->empty_dense[v] = (float *)memory;
    }
    const sv_mark mark = sv_arena_mark(&c->scratch);
    run r = {};
    r.chain = chain;
    r.batch = 1;
    r.whole = true;
    const sv_plan_slot *in = &plan->slot[0];
    const size_t bytes = (size_t)in->y.small * in->x.small * in->cell_bytes;
    void *zeros = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain empty map", bytes, &zeros));
    SV_CUDA_TRY(c, "chain_prepare", cudaMemsetAsync(zeros, 0, bytes, sv_cuda_stream(c)));
    r.maps[SV_PLAN_INPUT] = (char *)zeros;
    SV_TRY(make_lists(c, &r, SV_NONE, SV_NONE));
    for (int i = 0; i < plan->steps; i++) SV_TRY(run_step(c, &r, i));
    SV_TRY(c->device->queue_wait(c));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status check_maps(sv_ctx *c, const sv_chain *chain, int batch, sv_tensor in, sv_tensor coords,
                     const sv_chain_output *outputs, int count)
{
    sv_chain_map maps[SV_PLAN_SLOTS];
    const sv_chain_plan *plan = &chain->plan;
    for (int i = 0; i < plan->slots; i++) maps[i] = sv_plan_map(&plan->slot[i]);
    return sv_chain_check_maps(c, maps, plan->slots, batch, in, coords, outputs, count);
}

} // namespace

sv_status sv_cuda_chain_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def)
{
    SV_CHECK(c, c->weights, SV_INTERNAL, "chain: prepared outside model loading");
    void *memory = NULL;
    SV_TRY(sv_arena_describe(c, c->weights, sizeof(sv_chain), &memory));
    sv_chain *chain = (sv_chain *)memory;
    chain->precision = c->precision;
    SV_CUDA_TRY(
        c, "chain_prepare",
        cudaDeviceGetAttribute(&chain->multiprocessors, cudaDevAttrMultiProcessorCount, c->device_index));
    SV_TRY(find_encode(c, &chain->encode));
    SV_TRY((allow_memory<__half, 2>(c, chain)));
    SV_TRY((allow_memory<__nv_bfloat16, 1>(c, chain)));
    SV_TRY((allow_memory<__half, 1>(c, chain)));
    int widest = 0;
    for (int i = 0; i < def->node_count; i++)
        if (def->nodes[i].out_channels > widest) widest = def->nodes[i].out_channels;
    sv_plan_options how = {};
    how.planes = c->precision == SV_FP32 ? 2 : 1; /* one half float has TF32's mantissa */
    how.columns = widest <= 64 ? 64 : 128;
    how.narrow = chain->encode ? 32 : 64;
    how.slab = SV_TILE_K;
    /* Sums are stored between pieces, which takes time: where half floats keep the maps small, they stay whole. */
    how.split = how.planes > 1;
    sv_status status = sv_plan_make(c, &chain->plan, def, how);
    const size_t bytes = chain->plan.range_count * sizeof(int16_t);
    if (status == SV_OK) status = sv_arena_alloc(c, c->weights, "chain tile ranges", bytes, &memory);
    if (status == SV_OK) status = c->device->upload(c, memory, chain->plan.ranges, bytes);
    sv_plan_free(&chain->plan); /* pageable memory: copied on return */
    SV_TRY(status);
    chain->ranges = (int16_t *)memory;
    for (int i = 0; i < chain->plan.steps; i++) {
        if (c->precision != SV_BF16_MATH)
            SV_TRY(pack_step<__half>(c, chain, i));
        else
            SV_TRY(pack_step<__nv_bfloat16>(c, chain, i));
    }
    SV_TRY(find_empty_response(c, chain));
    *out = chain;
    return SV_OK;
}

template <typename T, int PLANES> void convert(const run *r, sv_tensor in, cudaStream_t stream)
{
    const sv_plan_slot *s = &r->chain->plan.slot[0];
    const int tiles_x = sv_plan_tiles(s->x.size, TILE_X), count = sv_plan_tiles(s->y.size, TILE_Y) * tiles_x;
    const int room = 8 * r->chain->multiprocessors, most = count * r->batch;
    const int blocks = most < room ? most : room;
    T *out = (T *)map_of(r, 0);
    const int32_t *wanted = r->lists + r->list[0];
    convert_input<T, PLANES><<<blocks, THREADS, 0, stream>>>(out, s->pitch, in, wanted, r->bits, r->words,
                                                             s->y.size, s->x.size, count, tiles_x);
}

sv_status sv_cuda_chain_run(sv_ctx *c, const sv_chain *chain, int batch, sv_tensor in, sv_tensor coords,
                            const sv_chain_output *outputs, int count)
{
    SV_TRY(check_maps(c, chain, batch, in, coords, outputs, count));
    const sv_chain_plan *plan = &chain->plan;
    SV_CHECK(c, plan->input_bytes == 0 || in.pitch == in.dim[1], SV_BAD_SHAPE,
             "chain: an input whose memory is to be used has %d numbers between its rows of %d", in.pitch,
             in.dim[1]);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    run r = {};
    r.chain = chain;
    r.batch = batch;
    for (int i = 0; i < count; i++) r.dense[outputs[i].slot] = outputs[i].map;
    void *maps = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain maps", plan->scratch_bytes * (size_t)batch, &maps));
    r.maps[SV_PLAN_SCRATCH] = (char *)maps;
    r.maps[SV_PLAN_INPUT] = (char *)in.data;
    SV_TRY(make_lists(c, &r, in, coords));
    const cudaStream_t stream = sv_cuda_stream(c);
    if (plan->how.planes > 1)
        convert<__half, 2>(&r, in, stream);
    else if (chain->precision == SV_BF16_MATH)
        convert<__nv_bfloat16, 1>(&r, in, stream);
    else
        convert<__half, 1>(&r, in, stream);
    for (int i = 0; i < plan->steps; i++) SV_TRY(run_step(c, &r, i));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "chain_run");
}
