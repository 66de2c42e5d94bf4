/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT-Linear for heads of 16 channels and mini-batches of 16 tokens.
 */
#ifndef SV_TTT_SMALL_CUH
#define SV_TTT_SMALL_CUH

#include "perception/core/cuda.cuh"

bool sv_cuda_ttt_is_small(const sv_ttt_weights *weights, int width, const sv_tensor *inputs, int count);
sv_status sv_cuda_ttt_small(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor rate,
                            const sv_ttt_weights *weights, const sv_sequence *seq);

#endif
