/* SPDX-License-Identifier: Apache-2.0
 *
 * The mLSTM cell on the GPU (formulas: mlstm.simd.c). A group is cut into chunks of 32 walking steps, all
 * walked at once:
 *
 *     1  each chunk but the last, from nothing: its C, n, running maximum m, and the sum F of its log
 * forget gates
 *     2  along the chunks: m' = max(F + m, m_end);  C' = e^(F + m - m') C + e^(m_end - m') C_end, n alike
 *     3  each chunk, from its C, n, m: the outputs
 *
 * A thread is a column of C with its key channels in registers; n is one column more, whose value is always
 * one. Gates of a chunk are prepared first: factors e^(differences of m) with the differences in double, as
 * on the CPU.
 */
#include "backbones/sequence.cuh"

namespace {

enum {
    CHUNK = 32,
    TOKENS = 8,
    SIDE = 256,
    MOST_COLUMNS = 256,
    MOST_THREADS = 288,
    MOST_HEADS = 16,
    AT_ONCE = 16
};
enum { BLOCK_COLUMNS = 68 }; /* heads share a block up to these */

/* Key channels of a head in shared memory, with zeros behind them where a state is in registers. */
template <int KEYS> constexpr bool held = KEYS <= 64;

struct cell_job {
    sv_tensor y, q, k, v, igate, fgate, state_in, state_out;
    const int32_t *index;
    float *ends;  /* [groups, chunks, heads, keys, values + 1] */
    float *most;  /* [groups, chunks, heads] m at the end, then at the start, of a chunk */
    double *sums; /* [groups, chunks, heads] F */
    int32_t length, chunks, heads, keys, values, heads_per_block;
    float scale, eps;
    bool reverse;
};

struct workspace {
    float forget[CHUNK][MOST_HEADS], input[CHUNK][MOST_HEADS], floor[CHUNK][MOST_HEADS];
    __align__(16) float q[TOKENS][SIDE], k[TOKENS][SIDE];
    float normaliser[TOKENS][MOST_HEADS];
    float own[TOKENS][MOST_THREADS]; /* each thread's values, then its results */
    float start[MOST_HEADS];
    int64_t row[CHUNK];
};

__device__ __forceinline__ float log_sigmoid(float x)
{
    return -(-x > 20.0f ? -x : log1pf(expf(-x)));
}

/* Factors of the chunk's steps from the maximum 'm' each head starts with; returns the last maximum to its
 * head's thread. */
__device__ __forceinline__ float prepare_gates(const cell_job &job, workspace *w, int64_t group, int begin,
                                               int steps, int first_head, int heads, float m, double *sum)
{
    if ((int)threadIdx.x < heads) w->start[threadIdx.x] = m;
    if ((int)threadIdx.x < steps)
        w->row[threadIdx.x] =
            sv_row_of(job.index, sv_slot_of(group, job.length, begin + threadIdx.x, job.reverse));
    __syncthreads();
    for (int i = threadIdx.x; i < steps * heads; i += blockDim.x) {
        const int step = i / heads, head = i % heads;
        const int64_t row = w->row[step];
        const float f =
            row < 0 ? 0.0f : ((const float *)job.fgate.data)[row * job.fgate.pitch + first_head + head];
        w->forget[step][head] = row < 0 ? -0.693147180559945309f : log_sigmoid(f);
        w->input[step][head] =
            row < 0 ? 0.0f : ((const float *)job.igate.data)[row * job.igate.pitch + first_head + head];
    }
    __syncthreads();
    if ((int)threadIdx.x < heads) {
        const int head = threadIdx.x;
        for (int step = 0; step < steps; step++) {
            const float log_forget = w->forget[step][head], input = w->input[step][head];
            const float kept = m + log_forget, next = kept > input ? kept : input;
            w->floor[step][head] = next;
            *sum += (double)log_forget;
            m = next;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < steps * heads; i += blockDim.x) {
        const int step = i / heads, head = i % heads;
        const float before = step > 0 ? w->floor[step - 1][head] : w->start[head], now = w->floor[step][head];
        w->forget[step][head] = expf((float)((double)before + (double)w->forget[step][head] - (double)now));
        w->input[step][head] = expf((float)((double)w->input[step][head] - (double)now));
    }
    return m;
}

template <int KEYS>
__device__ __forceinline__ void load_tokens(const cell_job &job, workspace *w, int first, int count,
                                            int first_head, int heads)
{
    const int pitch = held<KEYS> ? KEYS : job.keys, side = heads * pitch;
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < count * side; i += blockDim.x) {
        const int token = i / side, at = i % side, key = at % pitch,
                  channel = (first_head + at / pitch) * job.keys + key;
        const int64_t row = key < job.keys ? w->row[first + token] : -1;
        w->q[token][at] =
            row < 0 ? 0.0f : job.scale * ((const float *)job.q.data)[row * job.q.pitch + channel];
        w->k[token][at] = row < 0 ? 0.0f : ((const float *)job.k.data)[row * job.k.pitch + channel];
    }
    __syncthreads();
}

/* A token's turn on a column of the state; q's column. */
template <int KEYS, bool output>
__device__ __forceinline__ float turn(float (&s)[KEYS], const float *q, const float *k, float f, float in,
                                      int keys)
{
    if constexpr (held<KEYS>) {
        float sum[4] = {};
#pragma unroll
        for (int j = 0; j < KEYS; j += 4) {
            float of_q[4], of_k[4];
            *(float4 *)of_k = *(const float4 *)(k + j);
            if (output) *(float4 *)of_q = *(const float4 *)(q + j);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                s[j + n] = fmaf(f, s[j + n], in * of_k[n]);
                if (output) sum[n] = fmaf(of_q[n], s[j + n], sum[n]);
            }
        }
        return sum[0] + sum[1] + (sum[2] + sum[3]);
    } else {
        float sum = 0;
        for (int j = 0; j < keys; j++) {
            s[j] = fmaf(f, s[j], in * k[j]);
            if (output) sum = fmaf(q[j], s[j], sum);
        }
        return sum;
    }
}

/* Phases 1 and 3. */
template <int KEYS, bool output>
__global__ void __launch_bounds__(MOST_THREADS) walk_chunks(const __grid_constant__ cell_job job)
{
    constexpr int UNROLLED = KEYS > 64 ? 1 : KEYS; /* wide heads keep their state in local memory */
    __shared__ workspace w;
    const int64_t group = blockIdx.x / job.chunks;
    const int chunk = blockIdx.x % job.chunks;
    if (group >= sv_rows(job.y) / job.length || (!output && chunk == job.chunks - 1)) return;
    const int first_head = blockIdx.y * job.heads_per_block,
              heads = min(job.heads_per_block, job.heads - first_head);
    const int columns = job.values + 1, local = threadIdx.x / columns, value = threadIdx.x % columns;
    const int head = first_head + local;
    const bool used = local < heads, normalises = value == job.values;
    const int begin = chunk * CHUNK, steps = min((int)CHUNK, job.length - begin);
    const int64_t state_size = (int64_t)job.keys * job.values + job.keys + 1;

    /* where this column of the state lies in the caller's layout, and its key channels' distance */
    const int64_t place = head * state_size + (normalises ? (int64_t)job.keys * job.values : value);
    const int stride = normalises ? 1 : job.values;
    float *ends = job.ends + ((int64_t)blockIdx.x * job.heads + head) * job.keys * columns + value;
    const float *from = NULL;
    int apart = stride;
    if (output && used && job.chunks > 1) {
        from = ends;
        apart = columns;
    } else if (output && used && job.state_in.data) {
        from = (const float *)job.state_in.data + group * job.state_in.pitch + place;
    }
    float s[KEYS];
#pragma unroll(UNROLLED)
    for (int j = 0; j < KEYS; j++) {
        s[j] = from && j < job.keys ? *from : 0.0f;
        from += from ? apart : 0;
    }
    float m = -INFINITY;
    const int own = first_head + threadIdx.x; /* the head whose gates this thread walks */
    if (output && (int)threadIdx.x < heads) {
        if (job.chunks > 1)
            m = job.most[(int64_t)blockIdx.x * job.heads + own];
        else if (job.state_in.data)
            m = ((const float *)job.state_in.data)[group * job.state_in.pitch + (own + 1) * state_size - 1];
    }
    double sum = 0;
    m = prepare_gates(job, &w, group, begin, steps, first_head, heads, m, &sum);
    for (int first = 0; first < steps; first += TOKENS) {
        const int count = min((int)TOKENS, steps - first);
        if (used)
#pragma unroll
            for (int token = 0; token < TOKENS; token++) {
                const int64_t row = token < count && !normalises ? w.row[first + token] : -1;
                float v = normalises ? 1.0f : 0.0f;
                if (row >= 0) v = ((const float *)job.v.data)[row * job.v.pitch + head * job.values + value];
                w.own[token][threadIdx.x] = v;
            }
        load_tokens<KEYS>(job, &w, first, count, first_head, heads);
        if (used)
#pragma unroll 2
            for (int token = 0; token < count; token++) {
                const int step = first + token, at = local * (held<KEYS> ? KEYS : job.keys);
                const float y =
                    turn<KEYS, output>(s, &w.q[token][at], &w.k[token][at], w.forget[step][local],
                                       w.input[step][local] * w.own[token][threadIdx.x], job.keys);
                w.own[token][threadIdx.x] = y;
                if (output && normalises) w.normaliser[token][local] = y;
            }
        if (!output) continue;
        __syncthreads();
        if (used && !normalises)
#pragma unroll 2
            for (int token = 0; token < count; token++) {
                const int step = first + token;
                const float below =
                    fmaxf(fabsf(w.normaliser[token][local]), expf(-w.floor[step][local])) + job.eps;
                const int64_t slot = sv_slot_of(group, job.length, begin + step, job.reverse);
                ((float *)job.y.data)[slot * job.y.pitch + head * job.values + value] =
                    w.own[token][threadIdx.x] / below;
            }
    }
    if (!output) {
        if ((int)threadIdx.x < heads) {
            job.most[(int64_t)blockIdx.x * job.heads + own] = m;
            job.sums[(int64_t)blockIdx.x * job.heads + own] = sum;
        }
        if (!used) return;
#pragma unroll(UNROLLED)
        for (int j = 0; j < KEYS; j++, ends += columns)
            if (j < job.keys) *ends = s[j];
    } else if (chunk == job.chunks - 1 && job.state_out.data) {
        float *out = (float *)job.state_out.data + group * job.state_out.pitch;
        if ((int)threadIdx.x < heads) out[(own + 1) * state_size - 1] = m;
        if (!used) return;
        out += place;
#pragma unroll(UNROLLED)
        for (int j = 0; j < KEYS; j++, out += stride)
            if (j < job.keys) *out = s[j];
    }
}

/* Phase 2: a thread per group, head, key channel and column. Then 'ends' and 'most' hold what each chunk
 * starts from; the maxima of a head are all walked by each of its threads, and written by one to 'starts'.
 * */
__global__ void carry_chunks(const __grid_constant__ cell_job job, float *starts)
{
    const int64_t item = sv_thread();
    const int columns = job.values + 1, cells = job.keys * columns, at = (int)(item % cells);
    const int head = (int)(item / cells % job.heads), value = at % columns, key = at / columns;
    const int64_t group = item / cells / job.heads;
    if (group >= sv_rows(job.y) / job.length) return;
    const int64_t state_size = (int64_t)job.keys * job.values + job.keys + 1;
    float s = 0.0f, m = -INFINITY;
    if (job.state_in.data) {
        const float *in = (const float *)job.state_in.data + group * job.state_in.pitch + head * state_size;
        s = value == job.values ? in[(int64_t)job.keys * job.values + key]
                                : in[(int64_t)key * job.values + value];
        m = in[state_size - 1];
    }
    for (int first = 0; first < job.chunks; first += AT_ONCE) {
        float lasts[AT_ONCE], mosts[AT_ONCE];
        double sums[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int64_t row = (group * job.chunks + first + i) * job.heads + head;
            const bool there = first + i < job.chunks - 1;
            lasts[i] = there ? job.ends[row * cells + at] : 0.0f;
            mosts[i] = there ? job.most[row] : 0.0f;
            sums[i] = there ? job.sums[row] : 0.0;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i >= job.chunks) break;
            const int64_t row = (group * job.chunks + first + i) * job.heads + head;
            job.ends[row * cells + at] = s;
            if (at == 0) starts[row] = m;
            if (first + i == job.chunks - 1) break;
            const double kept = (double)m + sums[i];
            const float most = mosts[i], next = (float)kept > most ? (float)kept : most;
            const float f = expf((float)(kept - (double)next)),
                        in = expf((float)((double)most - (double)next));
            s = fmaf(f, s, in * lasts[i]);
            m = next;
        }
    }
}

template <int KEYS> void run_cell(cell_job job, int64_t groups, float *starts, cudaStream_t stream)
{
    const int columns = job.values + 1, threads = (job.heads_per_block * columns + 31) / 32 * 32;
    const dim3 grid((unsigned)(groups * job.chunks),
                    (unsigned)((job.heads + job.heads_per_block - 1) / job.heads_per_block));
    /* the gates of a chunk need as many threads as it has steps */
    const int walkers = threads < CHUNK ? (int)CHUNK : threads;
    if (job.chunks > 1) {
        walk_chunks<KEYS, false><<<grid, walkers, 0, stream>>>(job);
        carry_chunks<<<sv_cuda_blocks(groups * job.heads * job.keys * columns), SV_CUDA_THREADS, 0, stream>>>(
            job, starts);
        job.most = starts;
    }
    walk_chunks<KEYS, true><<<grid, walkers, 0, stream>>>(job);
}

} // namespace

sv_status sv_cuda_mlstm(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor igate,
                        sv_tensor fgate, int heads, float eps, const sv_sequence *seq)
{
    const int64_t groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    cell_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.igate = igate;
    job.fgate = fgate;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.chunks = (seq->length + CHUNK - 1) / CHUNK;
    job.heads = heads;
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.scale = (float)(1.0 / sqrt((double)job.keys));
    job.eps = eps;
    job.reverse = seq->reverse;
    const int padded = job.keys <= 16 ? 16 : job.keys <= 32 ? 32 : job.keys <= 64 ? 64 : job.keys;
    const int by_columns = BLOCK_COLUMNS / (job.values + 1), by_keys = SIDE / padded;
    job.heads_per_block = by_columns < by_keys ? by_columns : by_keys;
    if (job.heads_per_block > MOST_HEADS) job.heads_per_block = MOST_HEADS;
    if (job.heads_per_block > heads) job.heads_per_block = heads;
    if (job.heads_per_block < 1) job.heads_per_block = 1;
    void *ends = NULL, *most = NULL, *sums = NULL, *starts = NULL;
    if (job.chunks > 1) {
        const size_t cells = (size_t)groups * (size_t)job.chunks * (size_t)heads;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "mlstm chunk states",
                              cells * (size_t)job.keys * (size_t)(job.values + 1) * sizeof(float), &ends));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "mlstm chunk maxima", cells * sizeof(float), &most));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "mlstm chunk starts", cells * sizeof(float), &starts));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "mlstm chunk sums", cells * sizeof(double), &sums));
        job.ends = (float *)ends;
        job.most = (float *)most;
        job.sums = (double *)sums;
    }
    const cudaStream_t stream = sv_cuda_stream(c);
    if (job.keys <= 16)
        run_cell<16>(job, groups, (float *)starts, stream);
    else if (job.keys <= 32)
        run_cell<32>(job, groups, (float *)starts, stream);
    else if (job.keys <= 64)
        run_cell<64>(job, groups, (float *)starts, stream);
    else
        run_cell<256>(job, groups, (float *)starts, stream);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "mlstm");
}
