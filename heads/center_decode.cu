/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of center-based heads to scored boxes, on the GPU (formulas: center_decode_cpu.c). A thread decodes
 * a pick; then the kept ones of a sample are sorted by one block. Compiled without fused multiply-adds, in
 * the order of the CPU's operations.
 */
#include "best_keys.cuh"

namespace {

struct decode_job {
    sv_candidates out;
    sv_cell_picks picks;
    sv_center_codes codes;
    sv_center_rule rule;
    int most; /* picks of a sample */
    float *boxes, *scores;
    best_keys list;
};

__device__ __forceinline__ const float *at(const sv_tensor &t, int64_t row)
{
    return t.data ? (const float *)t.data + row * t.pitch : NULL;
}

__global__ void decode(const __grid_constant__ decode_job job)
{
    const int i = (int)sv_thread(), b = blockIdx.y;
    if (i >= job.most) return;
    const int64_t pick = (int64_t)b * job.most + i;
    const sv_center_codes &codes = job.codes;
    const sv_center_rule &rule = job.rule;
    const int64_t row =
        codes.gathered ? pick : ((const int32_t *)job.picks.row.data)[pick * job.picks.row.pitch];
    const int channel = ((const int32_t *)job.picks.channel.data)[pick * job.picks.channel.pitch];
    const float *center = at(codes.center, row), *place = at(job.picks.place, pick),
                *size = at(codes.size, row), *turn = at(codes.rotation, row),
                *velocity = at(codes.velocity, row), *overlap = at(codes.overlap, row),
                *confidence = at(codes.confidence, row);
    float *box = job.boxes + pick * SV_BOX_FIELDS;
    for (int axis = 0; axis < 2; axis++) {
        box[axis] = (center[axis] + place[axis]) * rule.stride * rule.cell[axis] + rule.origin[axis];
        box[7 + axis] = velocity ? velocity[axis] : 0;
    }
    for (int axis = 0; axis < 3; axis++) box[3 + axis] = expf(size[axis]);
    box[2] = *at(codes.z, row);
    if (rule.top_face) box[2] -= box[5] * 0.5f;
    box[6] = rule.sine_first ? atan2f(turn[0], turn[1]) : atan2f(turn[1], turn[0]);

    float score = *at(job.picks.score, pick);
    if (confidence) score *= 1.0f / (1.0f + expf(-confidence[channel]));
    bool kept = score > rule.min_score;
    for (int axis = 0; axis < 3; axis++)
        kept &= box[axis] >= rule.range_min[axis] && box[axis] <= rule.range_max[axis];
    if (rule.rescore) {
        const float a = rule.rectifier[channel];
        float iou = (*overlap + 1.0f) * 0.5f;
        iou = iou < 0.0f ? 0.0f : iou > 1.0f ? 1.0f : iou;
        score = powf(score, 1.0f - a) * powf(iou, a);
    }
    job.scores[pick] = score;
    if (!kept) return;
    const uint32_t bits = __float_as_uint(score + 0.0f);
    uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (isnan(score)) ascending = 0xffffffffu;
    job.list.best[(int64_t)b * job.most + atomicAdd(&job.list.near[b], 1)] =
        (uint64_t)~ascending << 32 | (uint32_t)i;
}

__global__ void write_boxes(const __grid_constant__ decode_job job)
{
    const int i = (int)sv_thread(), b = blockIdx.y;
    int first = 0;
    for (int s = 0; s < b; s++) first += job.list.near[s];
    if (i == 0) {
        job.out.offsets[b + 1] = first + job.list.near[b];
        if (b == 0) job.out.offsets[0] = 0;
    }
    if (i >= job.list.near[b]) return;
    const int index = (int)(uint32_t)job.list.keys[(int64_t)b * job.most + i], row = first + i;
    const int64_t pick = (int64_t)b * job.most + index;
    for (int k = 0; k < SV_BOX_FIELDS; k++)
        ((float *)job.out.boxes.data)[(int64_t)row * SV_BOX_FIELDS + k] = job.boxes[pick * SV_BOX_FIELDS + k];
    ((float *)job.out.scores.data)[row] = job.scores[pick];
    ((int32_t *)job.out.labels.data)[row] =
        ((const int32_t *)job.picks.channel.data)[pick * job.picks.channel.pitch] + 1;
    if (job.out.index.data) ((int32_t *)job.out.index.data)[row] = index;
}

} // namespace

sv_status sv_cuda_center_decode(sv_ctx *c, const sv_candidates *out, const sv_cell_picks *picks,
                                const sv_center_codes *codes, int batch, const sv_center_rule *rule)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    decode_job job = {};
    job.out = *out;
    job.picks = *picks;
    job.codes = *codes;
    job.rule = *rule;
    job.most = picks->row.dim[0] / batch;
    void *boxes = NULL, *scores = NULL;
    const size_t rows = (size_t)picks->row.dim[0];
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decoded boxes", sizeof(float) * SV_BOX_FIELDS * rows, &boxes));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decoded scores", sizeof(float) * rows, &scores));
    job.boxes = (float *)boxes;
    job.scores = (float *)scores;
    SV_TRY(alloc_keys(c, &job.list, job.most, batch, job.most, picks->row.dim[0]));
    const dim3 grid(sv_cuda_blocks(job.most), (unsigned)batch);
    decode<<<grid, SV_CUDA_THREADS, 0, stream>>>(job);
    SV_TRY(order_keys(c, job.list, put_key()));
    write_boxes<<<grid, SV_CUDA_THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "center_decode");
}
