/* SPDX-License-Identifier: Apache-2.0 */
#include "lion.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const float NORM_EPS = 1e-5f, POSITION_BATCHNORM_EPS = 1e-5f;

/* ---- binding ------------------------------------------------------------------------------------------ */

static sv_status bind_row_norm(sv_binder *b, sv_row_norm *norm, const char *name, int channels, sv_map map)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    norm->eps = NORM_EPS;
    norm->map = map;
    SV_TRY(sv_bind_vector(b, &norm->weight, weight, SV_INIT(1), channels));
    return sv_bind_vector(b, &norm->bias, bias, SV_INIT(0), channels);
}

sv_status sv_lion_layer_bind(sv_binder *b, sv_lion_layer *layer, const sv_node *operator_cfg,
                             const sv_node *direction, int channels, int layer_id, int layer_count)
{
    sv_ctx *c = sv_binder_ctx(b);
    const char *name = NULL;
    SV_TRY(sv_node_string(c, operator_cfg, "NAME", &name));
    layer->type = sv_operator_find(name);
    if (!layer->type) {
        char known[640] = "";
        for (int i = 0; sv_operator_at(i); i++) {
            const size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", sv_operator_at(i)->name);
        }
        return SV_FAIL(c, SV_UNSUPPORTED, "%s.NAME: there is no operator '%s'; known: %s",
                       sv_node_path(operator_cfg), name, known);
    }
    layer->directions = direction ? sv_node_count(direction) : 2;
    SV_CHECK(c, layer->directions >= 1 && layer->directions <= SV_LION_DIRECTIONS, SV_UNSUPPORTED,
             "%s: %d directions; 1 to %d are supported", sv_node_path(direction), layer->directions,
             SV_LION_DIRECTIONS);
    for (int i = 0; i < layer->directions; i++) {
        layer->along_y[i] = i == 1;
        if (direction) {
            const char *axis = sv_node_text(sv_node_item(direction, i));
            SV_CHECK(c, strcmp(axis, "x") == 0 || strcmp(axis, "y") == 0, SV_UNSUPPORTED,
                     "%s: direction '%s' is not x or y", sv_node_path(direction), axis);
            layer->along_y[i] = axis[0] == 'y';
        }
        layer->self[i] = calloc(1, layer->type->bytes);
        SV_CHECK(c, layer->self[i], SV_NO_MEMORY, "no memory for operator %s", name);
        const sv_operator_spec spec = {.channels = channels,
                                       .layer = layer_id + i,
                                       .layers = layer_count,
                                       .cfg = sv_node_find(operator_cfg, "CFG"),
                                       .type = layer->type};
        sv_binder_push(b, "blocks.%d", i);
        SV_TRY(layer->type->bind(b, layer->self[i], &spec));
        sv_binder_pop(b);
    }
    return SV_OK;
}

void sv_lion_layer_free(sv_lion_layer *layer)
{
    for (int i = 0; i < SV_LION_DIRECTIONS; i++) {
        free(layer->self[i]);
        layer->self[i] = NULL;
    }
}

sv_status sv_patch_merging_bind(sv_binder *b, sv_patch_merging *merging, int channels)
{
    sv_tensor w;
    SV_TRY(sv_bind_host(b, &w, "sub_conv.0.weight", sv_init_fan_in(27 * channels), 5,
                        (int32_t[]){channels, 3, 3, 3, channels}));
    SV_TRY(sv_subm_prepare(sv_binder_ctx(b), &merging->conv, w));
    SV_TRY(bind_row_norm(b, &merging->conv.norm, "sub_conv.1", channels, SV_MAP_gelu));
    return bind_row_norm(b, &merging->norm, "norm", channels, SV_MAP_identity);
}

sv_status sv_lion_block_bind(sv_binder *b, sv_lion_block *block, const sv_node *operator_cfg,
                             const sv_node *direction, int channels, int layer_id, int layer_count)
{
    block->channels = channels;
    for (int i = 0; i < block->depth; i++) {
        sv_binder_push(b, "encoder.%d", i);
        SV_TRY(sv_lion_layer_bind(b, &block->encoder[i], operator_cfg, direction, channels, layer_id + 2 * i,
                                  layer_count));
        sv_binder_pop(b);
        sv_binder_push(b, "downsample_list.%d", i);
        SV_TRY(sv_patch_merging_bind(b, &block->down[i], channels));
        sv_binder_pop(b);
        sv_binder_push(b, "pos_emb_list.%d", i);
        sv_binder_push(b, "position_embedding_head");
        SV_TRY(sv_bind_linear_batchnorm(b, &block->position[i][0], "0", "1", POSITION_BATCHNORM_EPS, channels,
                                        3, true));
        SV_TRY(sv_bind_linear(b, &block->position[i][1], "3", channels, channels, true));
        sv_binder_pop(b);
        sv_binder_pop(b);
        sv_binder_push(b, "decoder.%d", i);
        SV_TRY(sv_lion_layer_bind(b, &block->decoder[i], operator_cfg, direction, channels,
                                  layer_id + 2 * (block->depth + i), layer_count));
        sv_binder_pop(b);
        sv_binder_push(b, "decoder_norm");
        char index[12];
        snprintf(index, sizeof index, "%d", i);
        SV_TRY(bind_row_norm(b, &block->decoder_norm[i], index, channels, SV_MAP_identity));
        sv_binder_pop(b);
    }
    return SV_OK;
}

void sv_lion_block_free(sv_lion_block *block)
{
    for (int i = 0; i < SV_LION_DEPTH; i++) {
        sv_lion_layer_free(&block->encoder[i]);
        sv_lion_layer_free(&block->decoder[i]);
    }
}

/* Those behind the blocks, as the official code fixes them. */
static const struct {
    const char *name;
    int32_t window[3], group;
} closing_layers[SV_LION_CLOSING] = {{"linear_out", {13, 13, 2}, 256},
                                     {"linear_bev1", {25, 25, 1}, 512},
                                     {"linear_bev2", {37, 37, 1}, 1024},
                                     {"linear_bev3", {51, 51, 1}, 2048}};

/* 'z' cells are left. */
static sv_status bind_closing(sv_binder *b, sv_lion *lion, const sv_node *operator_cfg, bool shift,
                              double diffusion, int z, int layer_count)
{
    lion->closing_count = lion->flat ? SV_LION_CLOSING : 1;
    for (int i = 0; i < lion->closing_count; i++) {
        sv_lion_closing *closing = &lion->closing[i];
        closing->name = closing_layers[i].name;
        closing->window = (sv_window){.group = closing_layers[i].group, .shift = shift};
        memcpy(closing->window.window, closing_layers[i].window, sizeof closing->window.window);
        sv_binder_push(b, "%s", closing->name);
        SV_TRY(sv_lion_layer_bind(b, &closing->layer, operator_cfg, NULL, lion->channels,
                                  8 * SV_LION_BLOCKS + 2 * i, layer_count));
        sv_binder_pop(b);
    }
    if (!lion->flat) return SV_OK;
    SV_CHECK(sv_binder_ctx(b), z == 2, SV_UNSUPPORTED,
             "%d z cells are left before dow_out, which makes one of two: the voxel grid needs 17 to 32", z);
    lion->dow_out.scale[0] = lion->dow_out.scale[1] = 1;
    lion->dow_out.scale[2] = 2;
    lion->dow_out.diffusion = diffusion;
    sv_binder_push(b, "dow_out");
    SV_TRY(sv_patch_merging_bind(b, &lion->dow_out, lion->channels));
    sv_binder_pop(b);
    return SV_OK;
}

/* Everything that cannot work later is refused here, naming the key. */
sv_status sv_lion_bind(sv_binder *b, sv_lion *lion, const sv_node *cfg, const int32_t *shape)
{
    sv_ctx *c = sv_binder_ctx(b);
    const char *name = NULL;
    SV_TRY(sv_node_string(c, cfg, "NAME", &name));
    lion->flat = strcmp(name, "LION3DBackboneOneStride_Sparse") == 0;
    SV_CHECK(c, lion->flat || strcmp(name, "LION3DBackboneOneStride") == 0, SV_UNSUPPORTED,
             "%s.NAME: %s is not supported; LION3DBackboneOneStride and LION3DBackboneOneStride_Sparse are",
             sv_node_path(cfg), name);
    int depths[SV_LION_BLOCKS], dims[SV_LION_BLOCKS], groups[SV_LION_BLOCKS];
    bool shift = false, diffusion = false;
    double share = 0;
    SV_TRY(sv_node_int(c, cfg, "FEATURE_DIM", &lion->channels));
    SV_TRY(sv_node_int(c, cfg, "NUM_LAYERS", &lion->blocks));
    SV_CHECK(c, lion->blocks == SV_LION_BLOCKS, SV_UNSUPPORTED, "%s.NUM_LAYERS: %d; the architecture has %d",
             sv_node_path(cfg), lion->blocks, SV_LION_BLOCKS);
    SV_TRY(sv_node_ints(c, cfg, "LAYER_DIM", dims, SV_LION_BLOCKS));
    SV_TRY(sv_node_ints(c, cfg, "DEPTHS", depths, SV_LION_BLOCKS));
    SV_TRY(sv_node_ints(c, cfg, "GROUP_SIZE", groups, SV_LION_BLOCKS));
    SV_TRY(sv_node_bool(c, cfg, "SHIFT", &shift));
    SV_TRY(sv_node_bool(c, cfg, "DIFFUSION", &diffusion));
    SV_TRY(sv_node_number(c, cfg, "DIFF_SCALE", &share));
    SV_CHECK(c, share >= 0 && share <= 1, SV_BAD_INPUT, "%s.DIFF_SCALE: %g is not within 0..1",
             sv_node_path(cfg), share);
    SV_CHECK(c, lion->channels >= 1 && lion->channels <= 4096, SV_BAD_INPUT, "%s.FEATURE_DIM: %d",
             sv_node_path(cfg), lion->channels);
    const sv_node *direction = NULL, *operator_cfg = NULL, *windows = NULL, *scales = NULL;
    SV_TRY(sv_node_require(c, cfg, "DIRECTION", &direction));
    SV_TRY(sv_node_require(c, cfg, "OPERATOR", &operator_cfg));
    SV_TRY(sv_node_require(c, cfg, "WINDOW_SHAPE", &windows));
    SV_TRY(sv_node_require(c, cfg, "LAYER_DOWN_SCALES", &scales));
    SV_CHECK(c, sv_node_count(windows) == SV_LION_BLOCKS && sv_node_count(scales) == SV_LION_BLOCKS,
             SV_BAD_INPUT, "%s: WINDOW_SHAPE has %d entries and LAYER_DOWN_SCALES %d, expected %d",
             sv_node_path(cfg), sv_node_count(windows), sv_node_count(scales), SV_LION_BLOCKS);

    const int layer_count = SV_LION_BLOCKS * depths[0] * 4 + 2 * (lion->flat ? SV_LION_CLOSING : 1);
    int32_t z = shape[0];
    sv_binder_push(b, "backbone_3d");
    for (int k = 0; k < SV_LION_BLOCKS; k++) {
        sv_lion_block *block = &lion->block[k];
        SV_CHECK(c, dims[k] == lion->channels, SV_UNSUPPORTED,
                 "%s.LAYER_DIM: width %d differs from FEATURE_DIM %d", sv_node_path(cfg), dims[k],
                 lion->channels);
        SV_CHECK(c, depths[k] >= 1 && depths[k] <= SV_LION_DEPTH, SV_UNSUPPORTED,
                 "%s.DEPTHS: %d; 1 or %d are supported", sv_node_path(cfg), depths[k], SV_LION_DEPTH);
        SV_CHECK(c, groups[k] >= 1 && groups[k] <= 1 << 16, SV_BAD_INPUT, "%s.GROUP_SIZE: %d",
                 sv_node_path(cfg), groups[k]);
        block->depth = depths[k];
        block->group = groups[k];
        block->shift[0] = false;
        block->shift[1] = shift;
        char path[32];
        snprintf(path, sizeof path, "WINDOW_SHAPE.%d", k);
        int window[3];
        SV_TRY(sv_node_ints(c, cfg, path, window, 3));
        int32_t level_shape[3] = {z, shape[1], shape[2]};
        for (int axis = 0; axis < 3; axis++) {
            SV_CHECK(c, window[axis] >= 1 && window[axis] <= 1 << 14, SV_BAD_INPUT, "%s: window of %d", path,
                     window[axis]);
            block->window[axis] = window[axis];
        }
        for (int i = 0; i < block->depth; i++) {
            int scale[3];
            snprintf(path, sizeof path, "LAYER_DOWN_SCALES.%d.%d", k, i);
            SV_TRY(sv_node_ints(c, cfg, path, scale, 3));
            SV_CHECK(c, level_shape[0] > 1, SV_UNSUPPORTED,
                     "%s.%s: the grid has one z cell left at this level", sv_node_path(cfg), path);
            for (int axis = 0; axis < 3; axis++) {
                SV_CHECK(c, scale[axis] >= 1 && scale[axis] <= level_shape[2 - axis], SV_BAD_INPUT,
                         "%s.%s: scale %d of a grid of %d", sv_node_path(cfg), path, scale[axis],
                         level_shape[2 - axis]);
                block->down[i].scale[axis] = scale[axis];
                level_shape[2 - axis] = (level_shape[2 - axis] + scale[axis] - 1) / scale[axis];
            }
        }
        sv_binder_push(b, "linear_%d", k + 1);
        SV_TRY(sv_lion_block_bind(b, block, operator_cfg, direction, lion->channels, 8 * k, layer_count));
        sv_binder_pop(b);
        lion->dow[k].scale[0] = lion->dow[k].scale[1] = 1;
        lion->dow[k].scale[2] = 2;
        lion->dow[k].diffusion = diffusion ? share : 0;
        sv_binder_push(b, "dow%d", k + 1);
        SV_TRY(sv_patch_merging_bind(b, &lion->dow[k], lion->channels));
        sv_binder_pop(b);
        SV_CHECK(c, z >= 2, SV_UNSUPPORTED, "the voxel grid has %d z cells; four merges of z by 2 follow",
                 shape[0]);
        z = (z + 1) / 2;
    }
    SV_TRY(bind_closing(b, lion, operator_cfg, shift, diffusion ? share : 0, z, layer_count));
    sv_binder_pop(b);
    return SV_OK;
}

void sv_lion_free(sv_lion *lion)
{
    for (int k = 0; k < SV_LION_BLOCKS; k++) sv_lion_block_free(&lion->block[k]);
    for (int i = 0; i < lion->closing_count; i++) sv_lion_layer_free(&lion->closing[i].layer);
}

/* ---- what follows from coordinates -------------------------------------------------------------------- */

static sv_status alloc_order(sv_ctx *c, sv_order *order, sv_tensor coords, int slots)
{
    void *offsets = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "slot offsets", sizeof(int32_t) * ((size_t)coords.batch + 1),
                          &offsets));
    order->slot_offsets = offsets;
    SV_TRY(sv_scratch_alloc(c, &order->slot_row, "slot rows", SV_I32, slots, 1, SV_NONE));
    order->slot_row.offsets = order->slot_offsets;
    order->slot_row.batch = coords.batch;
    return sv_scratch_alloc(c, &order->row_slot, "row slots", SV_I32, coords.dim[0], 1, coords);
}

sv_status sv_window_job_alloc(sv_ctx *c, sv_window_job *job, sv_tensor coords, const int32_t *shape,
                              const int32_t *window, int group, bool shift)
{
    *job = (sv_window_job){.coords = coords, .window = {.group = group, .shift = shift}};
    memcpy(job->window.window, window, sizeof job->window.window);
    memcpy(job->window.grid, shape, sizeof job->window.grid);
    const int slots = sv_window_slots(coords.dim[0], coords.batch, group);
    SV_TRY(alloc_order(c, &job->x, coords, slots));
    return alloc_order(c, &job->y, coords, slots);
}

/* In the scratch arena, except for coordinates, which go where 'arena' says. */
static sv_status alloc_merge(sv_ctx *c, sv_merge *merge, sv_arena *arena, sv_tensor coords, int copies,
                             int capacity)
{
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, arena, "merged offsets", sizeof(int32_t) * ((size_t)coords.batch + 1), &memory));
    merge->offsets = memory;
    SV_TRY(sv_arena_alloc(c, arena, "merged coords", sizeof(int32_t) * 4 * (size_t)capacity, &memory));
    merge->coords = sv_view(memory, SV_I32, capacity, 4);
    merge->coords.offsets = merge->offsets;
    merge->coords.batch = coords.batch;
    SV_TRY(sv_scratch_alloc(c, &merge->inverse, "merge map", SV_I32, coords.dim[0] + copies, 1, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &merge->start, "merge starts", SV_I32, capacity + 1, 1, SV_NONE));
    return sv_scratch_alloc(c, &merge->rows, "merge rows", SV_I32, coords.dim[0], 1, SV_NONE);
}

static void merged_shape(int32_t *out, const int32_t *shape, const int32_t *scale)
{
    for (int axis = 0; axis < 3; axis++) out[axis] = (shape[axis] + scale[2 - axis] - 1) / scale[2 - axis];
}

typedef struct block_plan {
    sv_tensor coords[SV_LION_DEPTH + 1];
    int32_t shape[SV_LION_DEPTH + 1][3];
    sv_merge merge[SV_LION_DEPTH];              /* level i -> i+1 */
    sv_neighbourhood neighbours[SV_LION_DEPTH]; /* of level i */
    sv_window_job encoder[SV_LION_DEPTH + 1];   /* order of encoder i; entry 'depth': decoder 0 */
} block_plan;

/*
 * Orders: encoder i runs at level i, decoder i at level depth-i, each with shift[i]. For depth 2 decoder 1
 * shares level 1 and shift[1] with encoder 1, for depth 1 decoder 0 has level 1 alone: either way one
 * partition per level is needed.
 */
static sv_status alloc_level(sv_ctx *c, block_plan *plan, const sv_lion_block *block, int level)
{
    return sv_window_job_alloc(c, &plan->encoder[level], plan->coords[level], plan->shape[level],
                               block->window, block->group,
                               level < block->depth ? block->shift[level] : block->shift[0]);
}

sv_status sv_neighbourhood_find(sv_ctx *c, sv_neighbourhood *out, sv_tensor coords, const int32_t *shape)
{
    SV_TRY(sv_scratch_alloc(c, &out->table, "neighbours", SV_I32, coords.dim[0], 27, coords));
    SV_TRY(sv_scratch_alloc(c, &out->order, "order of neighbourhoods", SV_I32, coords.dim[0], 1, coords));
    return sv_neighbours(c, out, coords, shape);
}

static sv_status plan_neighbours(sv_ctx *c, block_plan *plan, int i)
{
    return sv_neighbourhood_find(c, &plan->neighbours[i], plan->coords[i], plan->shape[i]);
}

/* How level i becomes level i+1. */
static sv_status plan_merge(sv_ctx *c, block_plan *plan, const sv_lion_block *block, int i)
{
    sv_merge *merge = &plan->merge[i];
    SV_TRY(alloc_merge(c, merge, &c->scratch, plan->coords[i], 0, plan->coords[i].dim[0]));
    /* Without voxel generation there are never more rows than before: this counter cannot overflow. */
    SV_TRY(sv_merge_map(c, merge, plan->coords[i], plan->shape[i], block->down[i].scale, SV_NONE,
                        &c->counters[SV_COUNTERS - 1]));
    plan->coords[i + 1] = merge->coords;
    merged_shape(plan->shape[i + 1], plan->shape[i], block->down[i].scale);
    return SV_OK;
}

/* The levels below the first: the rest of the merges, and all their orders. */
static sv_status plan_below(sv_ctx *c, block_plan *plan, const sv_lion_block *block)
{
    for (int i = 1; i < block->depth; i++) {
        SV_TRY(plan_neighbours(c, plan, i));
        SV_TRY(plan_merge(c, plan, block, i));
    }
    for (int level = 1; level <= block->depth; level++) SV_TRY(alloc_level(c, plan, block, level));
    return sv_window_orders(c, plan->encoder + 1, block->depth);
}

/* Made while the features get their positions and the first layer runs, in parts that sv_aside_join() waits for: the
 * orders of the first layer, its neighbours, the first merge, then what the levels below need. */
static sv_status plan_part(sv_ctx *c, block_plan *plan, const sv_lion_block *block, int part)
{
    if (part == 0) {
        SV_TRY(alloc_level(c, plan, block, 0));
        return sv_window_orders(c, plan->encoder, 1);
    }
    return part == 1   ? plan_neighbours(c, plan, 0)
           : part == 2 ? plan_merge(c, plan, block, 0)
                       : plan_below(c, plan, block);
}

static sv_status make_plan(sv_ctx *c, block_plan *plan, const sv_lion_block *block, const sv_sparse *x)
{
    plan->coords[0] = x->coords;
    memcpy(plan->shape[0], x->shape, sizeof x->shape);
    for (int part = 0; part < 4; part++) {
        SV_TRY(sv_aside_begin(c));
        const sv_status status = plan_part(c, plan, block, part), ended = sv_aside_end(c);
        if (status != SV_OK || ended != SV_OK) return status != SV_OK ? status : ended;
    }
    return SV_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

sv_status sv_lion_layer_forward(sv_ctx *c, const sv_lion_layer *layer, sv_tensor x,
                                const sv_window_job *orders)
{
    SV_TRY(sv_stage_begin(c, "operators"));
    for (int i = 0; i < layer->directions; i++)
        SV_TRY(layer->type->forward(c, layer->self[i], x, x, layer->along_y[i] ? &orders->y : &orders->x,
                                    orders->window.group, NULL));
    return sv_stage_end(c);
}

/* f = GELU(LayerNorm(SubM(x))), scratch */
static sv_status merging_features(sv_ctx *c, const sv_patch_merging *merging, sv_tensor *f, sv_tensor x,
                                  const sv_neighbourhood *neighbours)
{
    SV_TRY(sv_stage_begin(c, "subm_conv"));
    SV_TRY(sv_scratch_alloc(c, f, "sub-manifold features", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(sv_subm_conv(c, *f, x, neighbours, &merging->conv));
    SV_TRY(sv_stage_end(c));
    return sv_probe(c, "after_subconv_norm_gelu", *f);
}

/* y = LayerNorm(sum of the rows that share a coarse cell) */
static sv_status merge_rows(sv_ctx *c, const sv_patch_merging *merging, sv_tensor y, sv_tensor f,
                            const sv_merge *merge)
{
    return sv_segment_sum(c, y, f, merge->start, merge->rows, &merging->norm);
}

typedef struct scored_row {
    float score;
    int32_t row;
} scored_row;

/* Descending scores, NaN first, as the official code orders them. */
static int by_score(const void *a, const void *b)
{
    const scored_row *x = a, *y = b;
    if (isnan(x->score) != isnan(y->score)) return isnan(x->score) ? -1 : 1;
    if (x->score != y->score && !isnan(x->score)) return x->score > y->score ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* Picks in the official order, which decides nothing but what a probe sees of their copies. */
static sv_status order_picks(sv_ctx *c, sv_tensor picks, sv_tensor scores)
{
    int32_t offsets[SV_MAX_BATCH + 1];
    void *rows = NULL, *values = NULL;
    int count = 0, scored = 0;
    SV_TRY(c->device->download(c, offsets, picks.offsets, sizeof *offsets * ((size_t)picks.batch + 1)));
    sv_status status = sv_download_rows(c, picks, &rows, &count);
    if (status == SV_OK) status = sv_download_rows(c, scores, &values, &scored);
    scored_row *list = malloc(sizeof *list * ((size_t)count + 1));
    if (status == SV_OK && !list) status = SV_FAIL(c, SV_NO_MEMORY, "no memory for %d picks", count);
    if (status == SV_OK) {
        int32_t *row = rows;
        for (int i = 0; i < count; i++) list[i] = (scored_row){((const float *)values)[row[i]], row[i]};
        for (int b = 0; b < picks.batch; b++)
            qsort(list + offsets[b], (size_t)(offsets[b + 1] - offsets[b]), sizeof *list, by_score);
        for (int i = 0; i < count; i++) row[i] = list[i].row;
        status = c->device->upload(c, picks.data, row, sizeof *row * (size_t)count);
        if (status == SV_OK) status = c->device->queue_wait(c);
    }
    free(list);
    free(values);
    free(rows);
    return status;
}

sv_status sv_patch_merging_forward(sv_ctx *c, const sv_patch_merging *merging, sv_sparse *out,
                                   const sv_sparse *x, const sv_neighbourhood *neighbours, int capacity,
                                   int32_t *needed)
{
    SV_TRY(sv_frame_alloc(c, &out->x, "merged features", SV_F32, capacity, x->x.dim[1], SV_NONE));
    merged_shape(out->shape, x->shape, merging->scale);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor f, picks = SV_NONE;
    SV_TRY(merging_features(c, merging, &f, x->x, neighbours));
    if (merging->diffusion > 0) {
        const int most = (int)(x->x.dim[0] * merging->diffusion);
        sv_tensor scores;
        void *offsets = NULL;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "pick offsets", sizeof(int32_t) * ((size_t)x->coords.batch + 1),
                              &offsets));
        SV_TRY(sv_scratch_alloc(c, &scores, "voxel scores", SV_F32, x->x.dim[0], 1, x->x));
        SV_TRY(sv_scratch_alloc(c, &picks, "picked voxels", SV_I32, most, 1, SV_NONE));
        picks.offsets = offsets;
        picks.batch = x->coords.batch;
        SV_TRY(sv_row_mean(c, scores, f));
        SV_TRY(sv_top_rows(c, picks, offsets, scores, merging->diffusion));
        if (sv_probing(c)) SV_TRY(order_picks(c, picks, scores));
        SV_TRY(sv_probe(c, "topk_scores", scores));
        SV_TRY(sv_probe(c, "topk_indices", picks)); /* a probe may impose recorded picks here */
    }
    sv_merge merge;
    SV_TRY(alloc_merge(c, &merge, &c->frame, x->coords, sv_is_none(picks) ? 0 : 4 * picks.dim[0], capacity));
    SV_TRY(sv_merge_map(c, &merge, x->coords, x->shape, merging->scale, picks, needed));
    SV_TRY(sv_probe(c, "unq_inv", merge.inverse));
    out->coords = merge.coords;
    out->x = sv_with_rows_of(out->x, out->coords);
    SV_TRY(merge_rows(c, merging, out->x, f, &merge));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_probe(c, "coords_bzyx", out->coords));
    return sv_probe(c, "features", out->x);
}

static sv_status probe_level(sv_ctx *c, const char *format, int i, sv_tensor tensor)
{
    if (!sv_probing(c)) return SV_OK;
    char name[32];
    snprintf(name, sizeof name, format, i);
    return sv_probe(c, name, tensor);
}

/* What a level's rows are after expansion, before the norm, as the official expanding module gives it; only a
 * probe sees it. */
static sv_status probe_expanded(sv_ctx *c, int i, sv_tensor level, sv_tensor below, sv_tensor inverse)
{
    if (!sv_probing(c)) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor expanded;
    SV_TRY(sv_scratch_alloc(c, &expanded, "expanded features", SV_F32, level.dim[0], level.dim[1], level));
    SV_TRY(sv_gather(c, expanded, below, inverse, level));
    SV_TRY(probe_level(c, "up_%d_out", i, expanded));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* out = MLP(positions), primitive by primitive */
static sv_status compose_positions(sv_ctx *c, const sv_linear_weights *mlp, sv_tensor out, sv_tensor coords,
                                   const int32_t *shape, int level)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor in, hidden;
    SV_TRY(sv_scratch_alloc(c, &in, "positions", SV_F32, out.dim[0], 3, out));
    SV_TRY(sv_scratch_alloc(c, &hidden, "position hidden", SV_F32, out.dim[0], mlp[0].n, out));
    SV_TRY(sv_positions(c, in, coords, shape));
    SV_TRY(probe_level(c, "pos_in_%d", level, in));
    SV_TRY(sv_linear(c, hidden, in, SV_NONE, &mlp[0], SV_MAP_relu));
    SV_TRY(sv_linear(c, out, hidden, SV_NONE, &mlp[1], SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return probe_level(c, "pos_emb_%d", level, out);
}

/* x += MLP(positions) */
static sv_status add_positions(sv_ctx *c, const sv_linear_weights *mlp, sv_tensor x, sv_tensor coords,
                               const int32_t *shape, int level)
{
    const bool whole = sv_position_embed_fits(c, mlp);
    if (whole && !sv_probing(c)) return sv_position_embed(c, x, coords, shape, mlp);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor out;
    SV_TRY(sv_scratch_alloc(c, &out, "position embedding", SV_F32, x.dim[0], mlp[1].n, x));
    SV_TRY(compose_positions(c, mlp, out, coords, shape, level));
    /* A probe changes nothing: the device's own operation gives x here too. */
    SV_TRY(whole ? sv_position_embed(c, x, coords, shape, mlp) : sv_map2(c, x, x, out, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* In place: the features of 'x' become the block's result. 'plan' lives in scratch. */
static sv_status block_forward(sv_ctx *c, const sv_lion_block *block, const block_plan *plan, sv_tensor x)
{
    sv_tensor level[SV_LION_DEPTH + 1]; /* features per level: encoder results, then refined upwards */
    level[0] = x;
    for (int i = 0; i < block->depth; i++) {
        if (i == 1) SV_TRY(sv_aside_join(c)); /* the levels below */
        SV_TRY(add_positions(c, block->position[i], level[i], plan->coords[i], plan->shape[i], i));
        if (i == 0) SV_TRY(sv_aside_join(c)); /* the first layer's orders */
        SV_TRY(sv_lion_layer_forward(c, &block->encoder[i], level[i], &plan->encoder[i]));
        SV_TRY(probe_level(c, "encoder_%d_out", i, level[i]));
        SV_TRY(sv_scratch_alloc(c, &level[i + 1], "level features", SV_F32, plan->coords[i + 1].dim[0],
                                block->channels, plan->coords[i + 1]));
        if (i == 0) SV_TRY(sv_aside_join(c)); /* its neighbours */
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_tensor f;
        SV_TRY(merging_features(c, &block->down[i], &f, level[i], &plan->neighbours[i]));
        if (i == 0) SV_TRY(sv_aside_join(c)); /* the first merge */
        SV_TRY(merge_rows(c, &block->down[i], level[i + 1], f, &plan->merge[i]));
        sv_arena_rewind(&c->scratch, mark);
        SV_TRY(probe_level(c, "down_%d_features", i, level[i + 1]));
        SV_TRY(probe_level(c, "down_%d_coords_bzyx", i, plan->coords[i + 1]));
        SV_TRY(probe_level(c, "down_%d_unq_inv", i, sv_with_rows_of(plan->merge[i].inverse, level[i])));
    }
    if (block->depth == 1) SV_TRY(sv_aside_join(c));
    for (int i = 0; i < block->depth; i++) {
        const int below = block->depth - i, above = below - 1;
        SV_TRY(sv_lion_layer_forward(c, &block->decoder[i], level[below], &plan->encoder[below]));
        SV_TRY(probe_level(c, "decoder_%d_out", i, level[below]));
        SV_TRY(probe_expanded(c, i, level[above], level[below], plan->merge[above].inverse));
        SV_TRY(sv_gather_norm(c, level[above], level[below], plan->merge[above].inverse, level[above],
                              &block->decoder_norm[i]));
    }
    return SV_OK;
}

sv_status sv_lion_block_forward(sv_ctx *c, const sv_lion_block *block, sv_sparse *x)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_plan plan;
    SV_TRY(make_plan(c, &plan, block, x));
    SV_TRY(block_forward(c, block, &plan, x->x));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status closing_forward(sv_ctx *c, const sv_lion_closing *closing, const sv_sparse *x)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_stage_begin(c, closing->name));
    sv_window_job job;
    SV_TRY(sv_window_job_alloc(c, &job, x->coords, x->shape, closing->window.window, closing->window.group,
                               closing->window.shift));
    SV_TRY(sv_window_orders(c, &job, 1));
    SV_TRY(sv_lion_layer_forward(c, &closing->layer, x->x, &job));
    SV_TRY(sv_probe(c, "features", x->x));
    SV_TRY(sv_stage_end(c));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* The last two z cells become one. */
static sv_status flatten(sv_ctx *c, const sv_lion *lion, sv_sparse *x, int capacity, int32_t *needed)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_neighbourhood neighbours;
    sv_sparse flat;
    SV_TRY(sv_stage_begin(c, "dow_out"));
    SV_TRY(sv_neighbourhood_find(c, &neighbours, x->coords, x->shape));
    SV_TRY(sv_patch_merging_forward(c, &lion->dow_out, &flat, x, &neighbours, capacity, needed));
    SV_TRY(sv_stage_end(c));
    *x = flat;
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_lion_forward(sv_ctx *c, const sv_lion *lion, sv_sparse *x, const int32_t *capacity,
                          int32_t *needed)
{
    char name[24];
    for (int k = 0; k < lion->blocks; k++) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        block_plan plan;
        snprintf(name, sizeof name, "linear_%d", k + 1);
        SV_TRY(sv_stage_begin(c, name));
        SV_TRY(sv_stage_begin(c, "plan"));
        SV_TRY(make_plan(c, &plan, &lion->block[k], x));
        SV_TRY(sv_stage_end(c));
        SV_TRY(block_forward(c, &lion->block[k], &plan, x->x));
        SV_TRY(sv_probe(c, "features", x->x));
        SV_TRY(sv_stage_end(c));

        snprintf(name, sizeof name, "dow%d", k + 1);
        SV_TRY(sv_stage_begin(c, name));
        sv_sparse next;
        SV_TRY(sv_patch_merging_forward(c, &lion->dow[k], &next, x, &plan.neighbours[0], capacity[k],
                                        &needed[k]));
        SV_TRY(sv_stage_end(c));
        *x = next;
        sv_arena_rewind(&c->scratch, mark);
    }
    SV_TRY(closing_forward(c, &lion->closing[0], x));
    if (lion->flat) SV_TRY(flatten(c, lion, x, capacity[SV_LION_BLOCKS], &needed[SV_LION_BLOCKS]));
    for (int i = 1; i < lion->closing_count; i++) SV_TRY(closing_forward(c, &lion->closing[i], x));
    return SV_OK;
}
