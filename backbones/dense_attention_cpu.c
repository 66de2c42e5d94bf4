/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention among all tokens of a group, on the CPU, as two matrix products per head with the softmax between them:
 *
 *     s = Q K'   [queries, length]      w = e^(scale (s - max))      y = w V / sum w
 *
 * K' and V of a head are packed once; then tasks of QUERIES rows share them. Groups are taken a few at a time, which bounds the
 * memory of packed heads whatever the batch.
 */
#include "dense_attention_kernels.h"
#include "perception/core/gemm.h"
#include "perception/core/ops_cpu.h"

enum { QUERIES = 64, PACKED_HEADS = 64 };

typedef struct job {
    sv_tensor y, q, k, v;
    int heads, length, keys, values; /* channels of a head */
    int first;                       /* group */
    int blocks;                      /* of queries in a group */
    float scale;
    float *packed, *scores;
    size_t key_floats, head_floats;
} job;

static float *packed_of(const job *j, int head)
{
    return j->packed + (size_t)head * j->head_floats;
}

static void pack(void *arg, int task, int worker)
{
    (void)worker;
    const job *j = arg;
    const int64_t row = (int64_t)(j->first + task / j->heads) * j->length;
    const int head = task % j->heads;
    float *to = packed_of(j, task);
    sv_gemm_pack(to, j->keys, j->length, sv_f32(j->k) + row * j->k.pitch + (int64_t)head * j->keys, 1,
                 j->k.pitch);
    sv_gemm_pack(to + j->key_floats, j->length, j->values,
                 sv_f32(j->v) + row * j->v.pitch + (int64_t)head * j->values, j->v.pitch, 1);
}

static void attend(void *arg, int task, int worker)
{
    const job *j = arg;
    const sv_dense_attention_kernels *kernels = SV_SIMD_PICK(sv_dense_attention_kernels);
    const int unit = task / j->blocks, head = unit % j->heads, start = task % j->blocks * QUERIES;
    const int rows = j->length - start < QUERIES ? j->length - start : QUERIES;
    const int64_t row = (int64_t)(j->first + unit / j->heads) * j->length + start;
    float *scores = j->scores + (size_t)worker * QUERIES * (size_t)j->length;
    float *y = sv_f32(j->y) + row * j->y.pitch + (int64_t)head * j->values;
    const sv_gemm similar = {.k = j->keys,
                             .n = j->length,
                             .b = packed_of(j, unit),
                             .x = sv_f32(j->q) + row * j->q.pitch + (int64_t)head * j->keys,
                             .x_pitch = j->q.pitch,
                             .y = scores,
                             .y_pitch = j->length,
                             .map = SV_MAP_identity};
    const sv_gemm gather = {.k = j->length,
                            .n = j->values,
                            .b = packed_of(j, unit) + j->key_floats,
                            .x = scores,
                            .x_pitch = j->length,
                            .y = y,
                            .y_pitch = j->y.pitch,
                            .map = SV_MAP_identity};
    float sums[QUERIES];
    sv_gemm_run(&similar, 0, rows);
    for (int i = 0; i < rows; i++)
        sums[i] = kernels->weigh(scores + (size_t)i * (size_t)j->length, j->length, j->scale);
    sv_gemm_run(&gather, 0, rows);
    for (int i = 0; i < rows; i++) kernels->scale(y + (int64_t)i * j->y.pitch, j->values, 1.0f / sums[i]);
}

/* A multiple of 16 floats, so that what follows is aligned for vectors. */
static size_t whole_lines(size_t floats)
{
    return (floats + 15) / 16 * 16;
}

sv_status sv_cpu_dense_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, int heads,
                                 float scale, int length)
{
    const int groups = sv_live_rows(y) / length, batch = heads < PACKED_HEADS ? PACKED_HEADS / heads : 1;
    job j = {.y = y,
             .q = q,
             .k = k,
             .v = v,
             .heads = heads,
             .length = length,
             .keys = q.dim[1] / heads,
             .values = y.dim[1] / heads,
             .blocks = (length + QUERIES - 1) / QUERIES,
             .scale = scale};
    j.key_floats = whole_lines(sv_gemm_packed_count(j.keys, length));
    j.head_floats = j.key_floats + whole_lines(sv_gemm_packed_count(length, j.values));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int at_once = groups < batch ? groups : batch;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "packed keys and values",
                          sizeof(float) * j.head_floats * (size_t)at_once * (size_t)heads, &memory));
    j.packed = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "attention scores",
                          sizeof(float) * (size_t)sv_pool_threads(c->pool) * QUERIES * (size_t)length,
                          &memory));
    j.scores = memory;
    for (j.first = 0; j.first < groups; j.first += batch) {
        const int now = groups - j.first < batch ? groups - j.first : batch;
        sv_pool_run(c->pool, pack, &j, now * heads);
        sv_pool_run(c->pool, attend, &j, now * heads * j.blocks);
    }
    sv_arena_rewind(&c->scratch, mark);
    const double pairs = (double)groups * length * length;
    sv_count_work(c, pairs * (2.0 * (q.dim[1] + y.dim[1]) + 20.0 * heads),
                  4.0 * groups * length * (2.0 * q.dim[1] + 2.0 * y.dim[1]));
    return SV_OK;
}
