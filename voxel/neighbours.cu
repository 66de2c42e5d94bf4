/* SPDX-License-Identifier: Apache-2.0
 *
 * Neighbour tables on the GPU: rows go into a hash table by a key of their cell (voxel.h), and each of the
 * 26 other cells around a row is looked up in it. Where in the table a row lands depends on the order of
 * arrival; what is found does not, for keys are distinct.
 */
#include "voxel.h"

#include "perception/core/launch.cuh"

#include <cub/block/block_radix_sort.cuh>

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
    sv_wait_before();
    const int row = (int)sv_thread();
    if (row >= sv_rows(coords)) return;
    const uint64_t key =
        (uint64_t)sv_neighbour_key(shape.size, (const int32_t *)coords.data + 4 * (int64_t)row);
    uint32_t place = first_place(key, table.mask);
    while (atomicCAS(&table.keys[place], ~0ull, (unsigned long long)key) != ~0ull)
        place = (place + 1) & table.mask;
    table.rows[place] = row;
}

/*
 * Which neighbours a row has, in eight bits; rows of equal bits have most of them in common. Of 128 rows that follow each other in
 * space nearly every offset is some row's; sorted by these bits, within windows, two in five are nobody's.
 */
static __device__ __forceinline__ int kind_of(uint32_t present)
{
    const auto any = [&](uint32_t offsets) { return (present & offsets) != 0; };
    const uint32_t plane = 0x1ff; /* offsets of a z; three of them are a row of y */
    return any(plane) << 7 | any(plane << 18) << 6 | any(7u << 9) << 5 | any(7u << 15) << 4 |
           any(1u << 12) << 3 | any(1u << 14) << 2 | any(1u | 1u << 3 | 1u << 6) << 1 |
           any(1u << 20 | 1u << 23 | 1u << 26);
}

/* A warp to a row, a lane to each offset. 'kinds' (of rows; NULL: not wanted) are what order_rows() sorts by. */
static __global__ void look_up(sv_tensor out, int32_t *kinds, sv_tensor coords, hash_table table,
                               const __grid_constant__ grid_shape shape)
{
    sv_wait_before();
    const int64_t row = sv_thread() / 32;
    const int k = threadIdx.x % 32;
    if (row >= sv_rows(coords)) return;
    int found = k == SV_SUBM_CENTRE ? (int)row : -1;
    if (k < SV_SUBM_OFFSETS && k != SV_SUBM_CENTRE) {
        const uint64_t key = (uint64_t)(sv_neighbour_key(shape.size, (const int32_t *)coords.data + 4 * row) +
                                        sv_neighbour_step(shape.size, k));
        uint32_t place = first_place(key, table.mask);
        for (;;) {
            const uint64_t here = table.keys[place];
            if (here == key) found = table.rows[place];
            if (here == key || here == ~0ull) break;
            place = (place + 1) & table.mask;
        }
    }
    const uint32_t present = __ballot_sync(0xffffffffu, found >= 0);
    if (k < SV_SUBM_OFFSETS) ((int32_t *)out.data)[row * out.pitch + k] = found;
    if (kinds && k == 0) kinds[row] = kind_of(present);
}

/* Kinds of rows to rows by kind, within windows; rows of a kind keep their order. */
enum { ORDER_THREADS = 1024, ORDER_EACH = 4, ORDER_WINDOW = ORDER_THREADS * ORDER_EACH, KIND_BITS = 8 };
static __global__ void __launch_bounds__(ORDER_THREADS) order_rows(sv_tensor order)
{
    using block_sort = cub::BlockRadixSort<uint32_t, ORDER_THREADS, ORDER_EACH>;
    __shared__ typename block_sort::TempStorage room;
    sv_wait_before();
    const int first = blockIdx.x * ORDER_WINDOW, rows = min(sv_rows(order) - first, (int)ORDER_WINDOW);
    if (rows <= 0) return;
    int32_t *window = (int32_t *)order.data + first;
    uint32_t key[ORDER_EACH]; /* kind above row; rows that are not there come last of all */
#pragma unroll
    for (int i = 0; i < ORDER_EACH; i++) {
        const int row = threadIdx.x * ORDER_EACH + i;
        key[i] = (uint32_t)(row < rows ? window[row] : (1 << KIND_BITS) - 1) << 16 | (uint32_t)row;
    }
    block_sort(room).Sort(key, 16, 16 + KIND_BITS);
#pragma unroll
    for (int i = 0; i < ORDER_EACH; i++) {
        const int place = threadIdx.x * ORDER_EACH + i;
        if (place < rows) window[place] = first + (int32_t)(key[i] & 0xffff);
    }
}

sv_status sv_cuda_neighbours(sv_ctx *c, const sv_neighbourhood *out, sv_tensor coords, const int32_t *shape)
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
    sv_tensor order = out->order;
    order.offsets = coords.offsets;
    order.batch = coords.batch;
    SV_TRY(SV_CUDA_LAUNCHED(c, "neighbours"));
    SV_TRY(sv_launch_next(c, "neighbours", look_up, dim3(sv_cuda_blocks((int64_t)coords.dim[0] * 32)),
                          SV_CUDA_THREADS, 0, out->table, (int32_t *)order.data, coords, table, grid));
    if (order.data && coords.dim[0] > 0)
        SV_TRY(sv_launch_early(c, "neighbours", order_rows, order,
                               dim3((unsigned)(coords.dim[0] + ORDER_WINDOW - 1) / ORDER_WINDOW),
                               ORDER_THREADS, 0));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
