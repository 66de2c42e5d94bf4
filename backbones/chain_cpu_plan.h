/* SPDX-License-Identifier: Apache-2.0
 *
 * What the three parts of the CPU's convolution chain share (chain_cpu.c runs, chain_cpu_block.c computes blocks of
 * tiles, chain_cpu_prepare.c makes the plan): the plan itself and the maps of a run. Included by nobody else.
 */
#ifndef SV_CHAIN_CPU_PLAN_H
#define SV_CHAIN_CPU_PLAN_H

#include "backbones/chain_geometry.h"
#include "backbones/chain_cpu.h"
#include "backbones/chain_kernels.h"

enum {
    SLOTS = SV_CHAIN_NODES + 1,
    BLOCK_TILES = 96,          /* most tiles of a block */
    BLOCK_BYTES = 1650 * 1024, /* of A in a block: most of a second-level cache */
    STREAM_BYTES = 6 << 20,    /* of Winograd weights that matrix tiles in three parts are good for */
};

/* One axis of a slot. In tiles: first..first+period-1 stand for first..first+period+removed-1 of the full
 * map. */
typedef struct axis {
    int size, small; /* cells of the full map and of the map for the empty response */
    int first, period, removed;
    int low, high; /* cells of the small map that are alike, but for the period; none when low >= high */
} axis;

typedef struct slot {
    int channels, writers;
    axis y, x;
    float *empty; /* response to an empty map [small tiles][16][channels]; slot 0: one row of zeros */
} slot;
static inline sv_chain_map map_of(const slot *s)
{
    return (sv_chain_map){s->y.size, s->x.size, s->channels};
}

typedef struct part { /* a node within a step */
    int out, out_first, channels, column, add;
    bool relu;
} part;

typedef struct step {
    sv_chain_kind kind;
    bool winograd;
    const sv_chain_kernels *kernels;
    int in, in_channels, kernel, stride, pad;
    int k, n; /* padded; k of one tap */
    int parts;
    part part[SV_CHAIN_NODES];
    void *w;     /* Winograd [36][k, n], else [phases][taps*k, n], packed */
    float *bias; /* [n] */
} step;

struct sv_chain {
    sv_chain_kernels vector, matrix;
    bool skip;
    int slots, steps;
    slot slot[SLOTS];
    step step[SV_CHAIN_NODES];
    float *zero; /* a row of zeros as long as any slot's */
};

static inline int round_up(int value, int to)
{
    return (value + to - 1) / to * to;
}
static inline int tiles_of(int cells)
{
    return (cells + CHAIN_TILE - 1) / CHAIN_TILE;
}
static inline int taps_of(const step *s)
{
    return s->kind == SV_CHAIN_CONV ? s->kernel * s->kernel : 1;
}
static inline int phases_of(const step *s)
{
    return s->kind == SV_CHAIN_DECONV ? s->stride * s->stride : 1;
}
static inline int max_int(int a, int b)
{
    return a > b ? a : b;
}
static inline int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* ---- maps during a run -------------------------------------------------------------------------------- */

typedef struct map {
    int height, width, tiles_y, tiles_x, channels;
    uint8_t *live;        /* [height*width] */
    float **tile;         /* [tiles] first cell of a stored tile; NULL: not stored */
    ptrdiff_t row, cell;  /* floats between rows and cells of a stored tile */
    int32_t *list, count; /* tiles with live cells */
    const float *empty;
    int empty_tiles_x;
    ptrdiff_t empty_row, empty_cell;
    const axis *y, *x;
    sv_tensor dense; /* the caller's tensor, when this slot is an output */
} map;

typedef struct item { /* what runs at once: one step, or the steps around a slot that is not stored */
    int local;        /* that slot, or -1 */
    int steps, step[SV_CHAIN_NODES];
} item;

typedef struct run {
    sv_ctx *c;
    const sv_chain *chain;
    bool whole; /* compute the response itself: every cell is live */
    map map[SLOTS];
    bool needed[SLOTS];
    int items;
    item item[SV_CHAIN_NODES];
    /* the running item */
    const item *now;
    int block;       /* tiles of a task */
    char *workspace; /* one per worker */
    size_t workspace_bytes, offset_staged, offset_c, offset_local;
} run;

static inline int small_tile(const axis *a, int t)
{
    if (t < a->first) return t;
    return t < a->first + a->period + a->removed ? a->first + (t - a->first) % a->period : t - a->removed;
}

/* The empty response's tile for tile (ty,tx). */
static inline const float *empty_tile(const map *m, int ty, int tx)
{
    if (m->empty_row == 0) return m->empty;
    const int t = small_tile(m->y, ty) * m->empty_tiles_x + small_tile(m->x, tx);
    return m->empty + (size_t)t * CHAIN_CELLS * (size_t)m->channels;
}

/* Floats between the 36 matrices of a block of m tiles: V[xi] lies one place further than the product M[xi],
 * which thus takes the room of V[xi-1]. */
static inline size_t xi_step(const step *s, int m)
{
    return (size_t)m * (size_t)max_int(s->k, s->n) + 48;
}

/* Tiles task*block.. of the running item; a task of the thread pool, 'arg' is the run. */
void sv_chain_block(void *arg, int task, int worker);
/* Compute every slot's response to an empty input, on the maps whose middle is cut out. */
sv_status sv_chain_empty_response(sv_ctx *c, const sv_chain *chain);

#endif
