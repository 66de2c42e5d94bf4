/* SPDX-License-Identifier: Apache-2.0
 *
 * How the GPU runs a convolution chain (chain.cu), decided once at load, without a GPU: geometry of the maps, steps,
 * which tiles depend on what, and where every map lies while it is needed.
 *
 *     nodes of the definition -> pieces (chain_cuda_split.c) -> slots, steps, tile ranges (chain_cuda_plan.c) -> places (chain_cuda_place.c)
 *
 * Two things keep the memory of a run small. Maps share memory when they are not needed at the same time; where the
 * caller allows it (sv_chain_def.reuse_input) they also lie in the input's. And a concatenation whose readers are
 * convolutions is never stored: convolution is linear in its input channels, so every piece is multiplied as soon as
 * it is there and added to what the pieces before it gave:
 *
 *     y = relu(W [x1 x2 x3] + b)   =   s1 = W1 x1 + b,   s2 = W2 x2 + s1,   y = relu(W3 x3 + s2)
 */
#ifndef SV_CHAIN_CUDA_PLAN_H
#define SV_CHAIN_CUDA_PLAN_H

#include "chain_geometry.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SV_PLAN_NODES = 2 * SV_CHAIN_NODES,
    SV_PLAN_SLOTS = SV_PLAN_NODES + 1,
    SV_PLAN_PARTS = 16, /* nodes of one step */
    SV_PLAN_READERS = 16,
    SV_PLAN_TILE_Y = 8, /* cells of a tile */
    SV_PLAN_TILE_X = 16,
    SV_PLAN_ALIGN = 8,   /* channels are padded to this: 16 bytes */
    SV_PLAN_PIECE = 256, /* most channels of a piece of a concatenation */
};

/* A node of the definition, or what became of it. */
typedef struct sv_plan_node {
    sv_chain_node node;
    int in_first, in_total;   /* its inputs are these of the weights' ... */
    int out_start, out_total; /* ... and its outputs those from out_start on */
    int dense, dense_first; /* the definition's slot that it writes, and its first channel there; -1: none */
} sv_plan_node;

/* One axis of a slot: cells first..first+period-1 of the small map, on which the response to an empty map is computed,
 * stand for first..first+period+removed-1 of the full. */
typedef struct sv_plan_axis {
    int size, small, first, period, removed;
} sv_plan_axis;

typedef enum sv_plan_region {
    SV_PLAN_SCRATCH, /* the run's own memory */
    SV_PLAN_INPUT,   /* the caller's input */
} sv_plan_region;

typedef struct sv_plan_slot {
    int channels, pitch, writers; /* pitch: numbers of a cell, channels rounded up */
    bool joined;                  /* a concatenation that is not stored: its pieces have slots of their own */
    bool read;                    /* by a later node */
    bool sums;                    /* float32: what later pieces are added to */
    sv_plan_axis y, x;
    int reach; /* where the slot's tiles begin in 'ranges' */
    int readers;
    int touch[SV_PLAN_READERS]; /* per reader: where its ranges begin in 'ranges' */
    struct {
        int step, part;
        bool adds; /* reads it as what it adds, not as its input */
    } reader[SV_PLAN_READERS];
    size_t cell_bytes, offset; /* of a cell; of the map in its region, per sample */
    sv_plan_region region;
} sv_plan_slot;
static inline sv_chain_map sv_plan_map(const sv_plan_slot *s)
{
    const sv_chain_map map = {s->y.size, s->x.size, s->channels};
    return map;
}

typedef struct sv_plan_part { /* a node within a step */
    int node, out, out_first, channels, column, add, dense, dense_first;
    bool relu;
} sv_plan_part;

typedef struct sv_plan_step {
    sv_chain_kind kind;
    int in, kernel, stride, pad, taps, slabs, phases, columns;
    int tile, n_tiles; /* output channels of a tile, tiles */
    int parts;
    sv_plan_part part[SV_PLAN_PARTS];
} sv_plan_step;

typedef struct sv_plan_options {
    int planes;  /* 16-bit numbers of a number */
    int columns; /* most output channels of a tile */
    int slab;    /* input channels of a tile of weights */
    bool split;  /* concatenations into pieces */
    int narrow;  /* fewest output channels of a tile, to be doubled until a step fits; 0: 'columns' always */
} sv_plan_options;

typedef struct sv_chain_plan {
    sv_plan_options how;
    int nodes, slots, steps;
    sv_plan_node node[SV_PLAN_NODES];
    sv_plan_slot slot[SV_PLAN_SLOTS];
    sv_plan_step step[SV_PLAN_NODES];
    size_t input_bytes, scratch_bytes; /* of a sample: that may be used of the input, and that a run takes */
    /* Pairs (first, last) of cells and tiles; sv_plan_free() gives them back:
     *   reach  per slot: for each row of tiles, then each column, the input cells they depend on
     *   touch  per slot and reader: for each row of tiles, then each column, the reader's tiles that look at them */
    int16_t *ranges;
    size_t range_count;
} sv_chain_plan;

sv_status sv_plan_make(sv_ctx *c, sv_chain_plan *plan, const sv_chain_def *def, sv_plan_options how);
void sv_plan_free(sv_chain_plan *plan);

/* A weight of a node: of its outputs and inputs, at a tap (convolution) or phase (transposed). */
float sv_plan_weight(const sv_plan_node *n, int out, int in, int tap, int phase);

/* The steps of sv_plan_make(). */
void sv_plan_split(sv_chain_plan *plan);
void sv_plan_place(sv_chain_plan *plan, bool reuse_input);

static inline int sv_plan_tiles(int cells, int tile)
{
    return (cells + tile - 1) / tile;
}
static inline int sv_plan_round_up(int value, int to)
{
    return (value + to - 1) / to * to;
}

#ifdef __cplusplus
}
#endif

#endif
