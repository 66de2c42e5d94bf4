/* SPDX-License-Identifier: Apache-2.0
 *
 * Decays of value channels, and of pairs of a key and a value channel (see sv_decay), walked token by token: a block has
 * 32 value columns of a head, a lane each, and its eight warps every eighth key row of the state, in registers.
 */
#include "backbones/decay_values.cuh"
#include "backbones/walk.cuh"

namespace {

enum { COLUMNS = 32, PARTS = 8, KEYS = 256, ROWS = KEYS / PARTS, THREADS = COLUMNS * PARTS };

struct value_job {
    sv_tensor y, q, k, v, decay, states;
    const float *bonus;
    const int32_t *index;
    sv_walk walk;
    sv_decay_rule rule;
    int32_t keys, values;
    bool accumulate;
};

/* The row of 't' behind a slot, or NULL where a row of zeros stands. */
__device__ __forceinline__ const float *row_at(const sv_tensor &t, int64_t row)
{
    return row < 0 ? NULL : (const float *)t.data + row * t.pitch;
}

__global__ void __launch_bounds__(THREADS) walk_values(const __grid_constant__ value_job job)
{
    __shared__ float q[KEYS], k[KEYS], lost[KEYS], sums[PARTS][COLUMNS];
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, part = threadIdx.x / COLUMNS, lane = threadIdx.x % COLUMNS,
              column = blockIdx.z * COLUMNS + lane;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool used = column < job.values, pairs = job.rule.decay == SV_DECAY_PAIR,
               before = job.rule.read == SV_READ_BEFORE;
    float *state =
        sv_walk_group(job.states, group) + (int64_t)head * job.keys * job.values + (used ? column : 0);
    float s[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int key = i * PARTS + part;
        s[i] = used && key < job.keys ? state[(int64_t)key * job.values] : 0.0f;
    }
    for (int step = 0; step < job.walk.length; step++) {
        const int64_t slot = sv_slot_of(group, job.walk.length, step, job.walk.reverse),
                      row = sv_row_of(job.index, slot);
        const float *queries = row_at(job.q, row), *keys = row_at(job.k, row), *values = row_at(job.v, row),
                    *decays = row_at(job.decay, row);
        __syncthreads();
        for (int i = threadIdx.x; i < job.keys; i += THREADS) {
            q[i] = queries ? queries[head * job.keys + i] : 0.0f;
            k[i] = keys ? keys[head * job.keys + i] : 0.0f;
            lost[i] = pairs && decays ? decays[head * job.keys + i] : 0.0f;
        }
        __syncthreads();
        const float v = used && values ? values[head * job.values + column] : 0.0f;
        float rate = pairs ? 0.0f : 1.0f; /* of this column: b, or what it keeps */
        if (used && decays)
            rate = pairs ? decays[job.rule.heads * job.keys + head * job.values + column]
                         : expf(decays[head * job.values + column]);
        float sum = 0;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int key = i * PARTS + part;
            if (key >= job.keys) break;
            if (before) {
                sum = fmaf(q[key], s[i], sum);
                if (job.bonus) sum = fmaf(q[key] * job.bonus[head * job.keys + key] * k[key], v, sum);
            }
            s[i] = fmaf(k[key], v, pairs ? fmaf(-lost[key] * rate, s[i], s[i]) : rate * s[i]);
            if (!before) sum = fmaf(q[key], s[i], sum);
        }
        sums[part][lane] = sum;
        __syncthreads();
        if (part > 0 || !used) continue;
        float total = 0;
        for (int i = 0; i < PARTS; i++) total += sums[i][lane];
        float *y = (float *)job.y.data + slot * job.y.pitch + head * job.values + column;
        *y = job.accumulate ? fmaf(job.rule.scale, total, *y) : job.rule.scale * total;
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int key = i * PARTS + part;
        if (used && key < job.keys) state[(int64_t)key * job.values] = s[i];
    }
}

} // namespace

sv_status sv_cuda_decay_values(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay,
                               sv_tensor bonus, const sv_decay_rule *rule, const sv_sequence *seq,
                               bool accumulate)
{
    const int groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    value_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.decay = decay;
    job.bonus = (const float *)bonus.data;
    job.index = (const int32_t *)seq->index.data;
    job.walk = sv_walk_of(seq);
    job.rule = *rule;
    job.keys = q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    job.accumulate = accumulate;
    SV_CHECK(c, job.keys <= KEYS, SV_UNSUPPORTED, "decay_scan: %d key channels of a head; at most %d",
             job.keys, (int)KEYS);
    SV_TRY(sv_cuda_walk_states(c, seq, groups, rule->heads * job.keys * job.values, &job.states));
    walk_values<<<dim3((unsigned)groups, (unsigned)rule->heads,
                       (unsigned)((job.values + COLUMNS - 1) / COLUMNS)),
                  THREADS, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "decay_scan");
}
