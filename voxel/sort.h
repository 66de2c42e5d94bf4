/* SPDX-License-Identifier: Apache-2.0
 *
 * Stable sort of (key, row) pairs, the one sort of this folder: least significant digit first, digits as wide
 * as the keys' length asks for. Runs on one thread; callers sort samples and directions side by side.
 */
#ifndef SV_VOXEL_SORT_H
#define SV_VOXEL_SORT_H

#include "perception/core/context.h"

typedef struct sv_pairs {
    uint64_t *key;
    int32_t *row;
} sv_pairs;

/* Two pairs of arrays to sort between, one set per task or thread. */
typedef struct sv_sort_space {
    sv_pairs a, b;
} sv_sort_space;

/* 'sets' spaces of 'rows' pairs from the scratch arena; '*out' is an array of them, in scratch too. */
sv_status sv_sort_spaces(sv_ctx *c, sv_sort_space **out, int sets, int rows);
/* A space whose arrays begin at pair 'first' of this one. */
static inline sv_sort_space sv_sort_space_from(sv_sort_space space, int first)
{
    space.a.key += first, space.a.row += first;
    space.b.key += first, space.b.row += first;
    return space;
}

/* Sort the n pairs in space->a by ascending key, equal keys in the order they have; returns where they lie
 * then. */
sv_pairs sv_sort_pairs(const sv_sort_space *space, int n);

#endif
