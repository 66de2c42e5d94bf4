/* SPDX-License-Identifier: Apache-2.0
 *
 * What a convolution chain's nodes say, whatever plans it (chain_cpu_prepare.c for the CPU, chain_cuda_plan.c for the GPU): how large a
 * map each makes, and where in it the border is not felt.
 */
#ifndef SV_CHAIN_GEOMETRY_H
#define SV_CHAIN_GEOMETRY_H

#include "perception/core/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a slot's axis relates to the input's: 'down' input cells are 'up' cells of the slot; from 'low' to 'high' a
 * cell's response to an empty map does not depend on the border. */
typedef struct sv_chain_scale {
    int64_t up, down, low, high;
    bool known;
} sv_chain_scale;

int64_t sv_chain_divisor(int64_t a, int64_t b); /* the greatest common one */
int64_t sv_chain_ceil(int64_t a, int64_t b);    /* a / b, upwards */

/* Cells that a convolution of an odd kernel adds on either side. */
static inline int sv_chain_pad(const sv_chain_node *n)
{
    return n->kind == SV_CHAIN_CONV && n->kernel % 2 ? n->kernel / 2 : 0;
}
/* The axis behind a node, and its cells; 0: the kernel does not fit. */
sv_chain_scale sv_chain_scale_out(const sv_chain_node *n, sv_chain_scale in);
int sv_chain_size_out(const sv_chain_node *n, int in);
/* 'to' also is what 'from' gives. */
void sv_chain_scale_meet(sv_chain_scale *to, sv_chain_scale from);

/* The middle of a map that all slots can do without, in cells of slot 0: 'removed' cells from 'from' on, after which one 'unit' is left
 * that stands for them. Multiples of 'tile' in every slot, and of every stride. 'left_out[i]': slot i has no say; NULL: all have. */
typedef struct sv_chain_middle {
    int64_t unit, from, removed;
} sv_chain_middle;
sv_chain_middle sv_chain_find_middle(const sv_chain_scale (*scales)[2], int which, int slots, int tile,
                                     const bool *left_out);

enum { SV_CHAIN_KERNEL = 7, SV_CHAIN_STRIDE = 4 }; /* at most */

/* Whether node 'number' can be carried out: its kind, kernel, stride, slots and channels, and that nothing is read too early or
 * written twice. Then whether the slot that it reads has its channels. */
sv_status sv_chain_check_node(sv_ctx *c, const sv_chain_def *def, int number);
sv_status sv_chain_check_input(sv_ctx *c, const sv_chain_def *def, int number, int channels);

typedef struct sv_chain_map {
    int height, width, channels;
} sv_chain_map;
/* The size of what node 'number' makes of 'in'. 'out' is what other nodes have written to its slot, 'add' what it adds; NULL: nothing. */
sv_status sv_chain_check_size(sv_ctx *c, const sv_chain_node *n, int number, sv_chain_map in,
                              const sv_chain_map *out, const sv_chain_map *add, int *height, int *width);
/* Whether a run's maps are those of the chain; maps [slots], the input's first. */
sv_status sv_chain_check_maps(sv_ctx *c, const sv_chain_map *maps, int slots, int batch, sv_tensor in,
                              sv_tensor coords, const sv_chain_output *outputs, int count);

#ifdef __cplusplus
}
#endif

#endif
