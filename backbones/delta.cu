/* SPDX-License-Identifier: Apache-2.0
 *
 * The delta rule and its relatives on the GPU; see sv_delta_rule and delta.simd.c. Columns (value channels) know nothing
 * of each other: a block has 32 of a head's, a column to each lane, and its eight warps every eighth key row of the
 * state, in registers. What a column sums over the keys goes through shared memory, warp by warp in order.
 */
#include "backbones/walk.cuh"

namespace {

enum { COLUMNS = 32, PARTS = 8, KEYS = 256, THREADS = COLUMNS * PARTS };

struct delta_job {
    sv_tensor y, states;
    sv_delta_inputs in;
    sv_delta_rule rule;
    sv_walk walk;
    int32_t keys, values;
};

/* What a token and step of a head gives each key row. */
struct key_rows {
    float q[KEYS], k[KEYS], a[KEYS], b[KEYS], factor[KEYS];
};

/* Sum of a column over the warps, in all of them. */
__device__ __forceinline__ float add_parts(float (*parts)[COLUMNS], float sum)
{
    const int column = threadIdx.x % COLUMNS;
    parts[threadIdx.x / COLUMNS][column] = sum;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int i = 0; i < PARTS; i++) total += parts[i][column];
    return total;
}

__device__ void load_keys(const delta_job &job, key_rows &rows, int64_t group, int head, int step, int part)
{
    const sv_delta_inputs &in = job.in;
    const int at = (part * job.rule.heads + head) * job.keys;
    for (int i = threadIdx.x; i < job.keys; i += THREADS) {
        rows.q[i] = sv_walk_row(in.q, job.walk, group, step)[head * job.keys + i];
        rows.k[i] = sv_walk_row(in.k, job.walk, group, step)[at + i];
        rows.a[i] = in.a.data ? sv_walk_row(in.a, job.walk, group, step)[at + i] : rows.k[i];
        rows.b[i] = in.b.data ? sv_walk_row(in.b, job.walk, group, step)[at + i] : 0.0f;
        float log = 0;
        if (part == 0 && job.rule.decay == SV_DECAY_CHANNEL)
            log = sv_walk_row(in.decay, job.walk, group, step)[head * job.keys + i];
        else if (part == 0 && job.rule.decay != SV_DECAY_NONE)
            log = sv_walk_row(in.decay, job.walk, group, step)[head];
        rows.factor[i] = log == 0 ? 1.0f : expf(log);
    }
}

/* ROWS: key rows of a warp. */
template <int ROWS> __global__ void __launch_bounds__(THREADS) scan(const __grid_constant__ delta_job job)
{
    __shared__ key_rows rows;
    __shared__ float sums[2][PARTS][COLUMNS];
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, part = threadIdx.x / COLUMNS,
              column = blockIdx.z * COLUMNS + threadIdx.x % COLUMNS;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool used = column < job.values, general = job.in.b.data != NULL;
    float *state =
        sv_walk_group(job.states, group) + (int64_t)head * job.keys * job.values + (used ? column : 0);
    float s[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int key = i * PARTS + part;
        s[i] = used && key < job.keys ? state[(int64_t)key * job.values] : 0.0f;
    }
    for (int step = 0; step < job.walk.length; step++) {
        const float weight = job.in.weight.data ? sv_walk_row(job.in.weight, job.walk, group, step)[0] : 1.0f;
        float *y = sv_walk_row(job.y, job.walk, group, step) + head * job.values + column;
        if (weight == 0.0f) { /* for all threads alike */
            if (!job.rule.accumulate && used && part == 0) *y = 0;
            continue;
        }
        for (int j = 0; j < job.rule.steps; j++) {
            __syncthreads(); /* everyone is done with the rows before */
            load_keys(job, rows, group, head, step, j);
            __syncthreads();
            const int at = j * job.rule.heads + head;
            const float v =
                used ? sv_walk_row(job.in.v, job.walk, group, step)[at * job.values + column] : 0.0f;
            float sum = 0;
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const int key = min(i * PARTS + part, job.keys - 1);
                const float before = s[i];
                s[i] *= rows.factor[key];
                if (i * PARTS + part < job.keys) sum = fmaf(rows.a[key], general ? before : s[i], sum);
            }
            const float read = add_parts(sums[0], sum);
            const float value =
                general ? v : sv_walk_row(job.in.beta, job.walk, group, step)[at] * (v - read);
            sum = 0;
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const int key = i * PARTS + part;
                if (key >= job.keys) break;
                s[i] = fmaf(rows.k[key], value, s[i]);
                if (general) s[i] = fmaf(rows.b[key], read, s[i]);
                sum = fmaf(rows.q[key], s[i], sum);
            }
            if (j < job.rule.steps - 1) continue;
            const float out = job.rule.scale * weight * add_parts(sums[1], sum);
            if (used && part == 0) *y = job.rule.accumulate ? *y + out : out;
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int key = i * PARTS + part;
        if (used && key < job.keys) state[(int64_t)key * job.values] = s[i];
    }
}

} // namespace

sv_status sv_cuda_delta_scan(sv_ctx *c, sv_tensor y, const sv_delta_inputs *in, const sv_delta_rule *rule,
                             const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    delta_job job = {};
    job.y = y;
    job.in = *in;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.keys = in->q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    SV_CHECK(c, job.keys <= KEYS, SV_UNSUPPORTED, "delta_scan: %d key channels of a head; at most %d",
             job.keys, (int)KEYS);
    if (rule->decay == SV_DECAY_HEAD) job.in.decay = sv_walk_constant(in->decay);
    SV_TRY(sv_cuda_walk_states(c, seq, groups, rule->heads * job.keys * job.values, &job.states));
    const dim3 grid((unsigned)groups, (unsigned)rule->heads,
                    (unsigned)((job.values + COLUMNS - 1) / COLUMNS));
    if (job.keys <= 8 * PARTS)
        scan<8><<<grid, THREADS, 0, sv_cuda_stream(c)>>>(job);
    else if (job.keys <= 16 * PARTS)
        scan<16><<<grid, THREADS, 0, sv_cuda_stream(c)>>>(job);
    else
        scan<32><<<grid, THREADS, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "delta_scan");
}
