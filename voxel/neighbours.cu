/* SPDX-License-Identifier: Apache-2.0
 *
 * Neighbour tables on the GPU: rows go into a hash table by a key of their cell (voxel.h), and each of the
 * 26 other cells around a row is looked up in it. Where in the table a row lands depends on the order of
 * arrival; what is found does not, for keys are distinct.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

typedef struct hash_table {
    unsigned long long *keys; /* all ones: free */
    int32_t *rows;
    uint32_t mask; /* places - 1; at most half of them are taken */
} hash_table;

typedef struct grid_shape {
    int32_t size[3]; /* z, y, x */
} grid_shape;

/* The finaliser of a 64-bit mixer: neighbouring keys land far apart. */
static __device__ __forceinline__ uint32_t first_place(uint64_t key, uint32_t mask)
{
    key = (key ^ (key >> 31)) * 0x7fb5d329728ea185ull;
    key = (key ^ (key >> 27)) * 0x81dadef4bc2dd44dull;
    return (uint32_t)(key >> 32) & mask;
}

static __global__ void insert_rows(hash_table table, sv_tensor coords,
                                   const __grid_constant__ grid_shape shape)
{
    const int row = (int)sv_thread();
    if (row >= sv_rows(coords)) return;
    const uint64_t key =
        (uint64_t)sv_neighbour_key(shape.size, (const int32_t *)coords.data + 4 * (int64_t)row);
    uint32_t place = first_place(key, table.mask);
    while (atomicCAS(&table.keys[place], ~0ull, (unsigned long long)key) != ~0ull)
        place = (place + 1) & table.mask;
    table.rows[place] = row;
}

static __global__ void look_up(sv_tensor out, sv_tensor coords, hash_table table,
                               const __grid_constant__ grid_shape shape)
{
    const int64_t item = sv_thread();
    const int64_t row = item / SV_SUBM_OFFSETS;
    const int k = (int)(item % SV_SUBM_OFFSETS);
    if (row >= sv_rows(coords)) return;
    int found = (int)row;
    if (k != SV_SUBM_CENTRE) {
        const uint64_t key = (uint64_t)(sv_neighbour_key(shape.size, (const int32_t *)coords.data + 4 * row) +
                                        sv_neighbour_step(shape.size, k));
        uint32_t place = first_place(key, table.mask);
        found = -1;
        for (;;) {
            const uint64_t here = table.keys[place];
            if (here == key) found = table.rows[place];
            if (here == key || here == ~0ull) break;
            place = (place + 1) & table.mask;
        }
    }
    ((int32_t *)out.data)[row * out.pitch + k] = found;
}

sv_status sv_cuda_neighbours(sv_ctx *c, sv_tensor out, sv_tensor coords, const int32_t *shape)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const grid_shape grid = {{shape[0], shape[1], shape[2]}};
    uint32_t places = 64;
    while (places < 2 * (uint32_t)coords.dim[0]) places *= 2;
    hash_table table;
    void *keys = NULL, *rows = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "neighbour keys", places * sizeof(uint64_t), &keys));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "neighbour rows", places * sizeof(int32_t), &rows));
    table.keys = (unsigned long long *)keys;
    table.rows = (int32_t *)rows;
    table.mask = places - 1;
    SV_CUDA_TRY(c, "neighbours", cudaMemsetAsync(keys, 0xff, places * sizeof(uint64_t), stream));
    insert_rows<<<sv_cuda_blocks(coords.dim[0]), SV_CUDA_THREADS, 0, stream>>>(table, coords, grid);
    look_up<<<sv_cuda_blocks((int64_t)coords.dim[0] * SV_SUBM_OFFSETS), SV_CUDA_THREADS, 0, stream>>>(
        out, coords, table, grid);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "neighbours");
}
