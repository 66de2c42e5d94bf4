/* SPDX-License-Identifier: Apache-2.0 */
#include "backbones/walk.cuh"

sv_status sv_cuda_walk_states(sv_ctx *c, const sv_sequence *seq, int groups, int columns, sv_tensor *out)
{
    *out = seq->state_out;
    if (sv_is_none(*out)) SV_TRY(sv_scratch_alloc(c, out, "scan states", SV_F32, groups, columns, SV_NONE));
    if (groups == 0 || columns == 0) return SV_OK;
    const size_t width = (size_t)columns * sizeof(float), to = (size_t)out->pitch * sizeof(float);
    const cudaStream_t stream = sv_cuda_stream(c);
    if (sv_is_none(seq->state_in)) {
        SV_CUDA_TRY(c, "empty states", cudaMemset2DAsync(out->data, to, 0, width, (size_t)groups, stream));
    } else if (seq->state_in.data != out->data) {
        SV_CUDA_TRY(c, "states before a scan",
                    cudaMemcpy2DAsync(out->data, to, seq->state_in.data,
                                      (size_t)seq->state_in.pitch * sizeof(float), width, (size_t)groups,
                                      cudaMemcpyDeviceToDevice, stream));
    }
    return SV_OK;
}

sv_status sv_cuda_walk_before(sv_ctx *c, const sv_sequence *seq, int groups, int columns, sv_tensor *out)
{
    sv_sequence before = *seq;
    before.state_out = sv_tensor{};
    return sv_cuda_walk_states(c, &before, groups, columns, out);
}
