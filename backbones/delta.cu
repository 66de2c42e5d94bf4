/* SPDX-License-Identifier: Apache-2.0
 *
 * The delta rule and its relatives on the GPU (formulas: sv_delta_rule and delta.simd.c). Groups are few and long, so a long
 * one is cut into chunks, all of which are walked at once from what delta_chunks.cu says they begin with. A short group is one chunk.
 */
#include "backbones/delta_walk.cuh"

namespace {

template <int KEYS, sv_delta_kind KIND>
__global__ void __launch_bounds__(SV_DELTA_THREADS) walk(const __grid_constant__ sv_delta_job job)
{
    constexpr int ROWS = sv_delta_shape<KEYS>::ROWS, LANES = sv_delta_shape<KEYS>::LANES,
                  COLUMNS = sv_delta_shape<KEYS>::COLUMNS;
    extern __shared__ __align__(16) float buffers[];
    const int chunk = blockIdx.x % job.chunks, warp = threadIdx.x / SV_WARP, lane = threadIdx.x % SV_WARP,
              part = lane % LANES, column = warp * sv_delta_shape<KEYS>::WIDE + lane / LANES * COLUMNS;
    sv_delta_span s;
    s.group = blockIdx.x / job.chunks;
    s.head = blockIdx.y;
    s.column = blockIdx.z << job.column_bits;
    s.first = chunk * job.chunk;
    if (!sv_delta_open(job, s, buffers)) return;
    sv_delta_state<KEYS> state;
    const int64_t own = (int64_t)s.head * job.keys * job.values;
    const int64_t cell = (s.group * job.rule.heads + s.head) * job.chunks + chunk;
    auto each = [&](auto f) {
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int key = 4 * (i / 4 * LANES + part) + i % 4, value = s.column + column + c;
                f(state.at[i][c], key, value, key < job.keys && value < job.values);
            }
    };
    each([&](float &x, int key, int value, bool used) {
        x = 0;
        if (!used || s.filler >= 0) return;
        if (job.chunks > 1)
            x = job.ends[(cell * job.values + value) * KEYS + key];
        else if (job.before.data)
            x = sv_walk_group(job.before, s.group)[own + key * job.values + value];
    });
    sv_delta_walk_all<KEYS, KIND, true>(job, s, min(s.first + job.chunk, job.walk.length), buffers, part,
                                        column, state);
    if (chunk < job.chunks - 1 || !job.after.data || s.filler >= 0) return;
    each([&](float &x, int key, int value, bool used) {
        if (used) sv_walk_group(job.after, s.group)[own + key * job.values + value] = x;
    });
}

template <int KEYS> sv_status launch(sv_ctx *c, sv_delta_job *job, int groups)
{
    const sv_delta_kind kind = sv_delta_kind_of(job);
    const int blocks = sv_delta_lay_out(job, job->values, true),
              threads =
                  (1 << job->column_bits) / sv_delta_shape<KEYS>::WIDE * SV_WARP + SV_DELTA_FILLERS * SV_WARP,
              bytes = 2 * job->rows.size * (int)sizeof(float);
    const dim3 grid((unsigned)(groups * job->chunks), (unsigned)job->rule.heads, (unsigned)blocks);
    return sv_launch_early(c, "delta_scan",
                           kind == SV_DELTA_ONE    ? walk<KEYS, SV_DELTA_ONE>
                           : kind == SV_DELTA_KEYS ? walk<KEYS, SV_DELTA_KEYS>
                                                   : walk<KEYS, SV_DELTA_PAIR>,
                           *job, grid, threads, bytes);
}

/*
 * By the length alone, so that a group's numbers do not depend on how many others there are. P takes as much room as the rows of a
 * chunk of as many tokens as there are keys, so chunks are not shorter than that but where keys are few.
 */
void choose_chunks(sv_delta_job *job)
{
    const int length = job->walk.length, padded = sv_delta_padded(job->keys),
              most = padded > 64 ? padded : 64;
    job->chunk = length <= 4 * most ? length : most == 64 && length <= 16 * most ? most / 2 : most;
    job->chunks = (length + job->chunk - 1) / job->chunk;
}

bool rows_in_fours(const sv_delta_job *job)
{
    const sv_delta_inputs *in = &job->in;
    const sv_tensor rows[] = {in->q, in->k, in->v, in->a, in->b, job->y};
    for (const sv_tensor &t : rows)
        if (t.data && !sv_cuda_in_fours(t)) return false;
    return job->keys % 4 == 0 && job->values % 4 == 0 &&
           (job->rule.decay != SV_DECAY_CHANNEL || sv_cuda_in_fours(in->decay));
}

sv_status scan(sv_ctx *c, sv_delta_job *job, int groups)
{
    if (job->chunks > 1) SV_TRY(sv_cuda_delta_begin_chunks(c, job, groups));
    switch (sv_delta_padded(job->keys)) {
    case 16:
        return launch<16>(c, job, groups);
    case 32:
        return launch<32>(c, job, groups);
    case 64:
        return launch<64>(c, job, groups);
    case 128:
        return launch<128>(c, job, groups);
    default:
        return launch<256>(c, job, groups);
    }
}

} // namespace

/* Columns of a warp; see sv_delta_shape. */
static int warp_columns(int padded)
{
    switch (padded) {
    case 16:
        return sv_delta_shape<16>::WIDE;
    case 32:
        return sv_delta_shape<32>::WIDE;
    case 64:
        return sv_delta_shape<64>::WIDE;
    case 128:
        return sv_delta_shape<128>::WIDE;
    default:
        return sv_delta_shape<256>::WIDE;
    }
}

int sv_delta_lay_out(sv_delta_job *job, int columns, bool outputs)
{
    enum { BYTES = 48 << 10 }; /* that a block has without asking */
    const int padded = sv_delta_padded(job->keys), most = warp_columns(padded) * SV_DELTA_WARPS;
    const sv_delta_kind kind = sv_delta_kind_of(job);
    int wide = warp_columns(padded);
    while (wide < columns && wide < most) wide *= 2;
    for (job->column_bits = 0; 1 << job->column_bits < wide;) job->column_bits++;
    sv_delta_rows *rows = &job->rows;
    for (job->tokens = SV_DELTA_TOKENS;; job->tokens /= 2) {
        const int steps =
            (job->tokens * job->rule.steps + SV_DELTA_BATCH - 1) / SV_DELTA_BATCH * SV_DELTA_BATCH;
        int at = 0;
        auto place = [&](int size) {
            const int here = at;
            at += size;
            return here;
        };
        rows->q = place(outputs ? steps * padded : 0);
        rows->k = place(steps * padded);
        rows->a = place(kind == SV_DELTA_PAIR ? steps * padded : 0);
        rows->b = place(kind == SV_DELTA_PAIR ? steps * padded : 0);
        rows->factor = place(kind == SV_DELTA_ONE ? steps : steps * padded);
        rows->v = place(steps * wide);
        rows->before = place(outputs && job->rule.accumulate ? steps * wide : 0);
        rows->beta = place(steps);
        rows->weight = place(steps);
        rows->size = at + (padded > wide ? padded : wide); /* a step is read beyond the last one */
        if (job->tokens == 1 || 2 * at * (int)sizeof(float) <= BYTES) break;
    }
    return (columns + wide - 1) / wide;
}

sv_status sv_cuda_delta_scan(sv_ctx *c, sv_tensor y, const sv_delta_inputs *in, const sv_delta_rule *rule,
                             const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_delta_job job = {};
    job.y = y;
    job.in = *in;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.keys = in->q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    SV_CHECK(c, job.keys <= SV_DELTA_MOST_KEYS, SV_UNSUPPORTED,
             "delta_scan: %d key channels of a head; at most %d", job.keys, (int)SV_DELTA_MOST_KEYS);
    if (rule->decay == SV_DECAY_HEAD) job.in.decay = sv_walk_constant(in->decay);
    job.before = seq->state_in;
    if (!sv_is_none(seq->state_out)) {
        SV_TRY(sv_cuda_walk_states(c, seq, groups, rule->heads * job.keys * job.values, &job.after));
        job.before = job.after;
    }
    job.fours = rows_in_fours(&job);
    choose_chunks(&job);
    SV_TRY(scan(c, &job, groups));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "delta_scan");
}
