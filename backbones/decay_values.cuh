/* SPDX-License-Identifier: Apache-2.0
 *
 * The decayed outer-product scan whose value channels decay, which decay.cu's chunks along time do not cover.
 */
#ifndef SV_DECAY_VALUES_CUH
#define SV_DECAY_VALUES_CUH

#include "perception/core/cuda.cuh"

sv_status sv_cuda_decay_values(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay,
                               sv_tensor bonus, const sv_decay_rule *rule, const sv_sequence *seq,
                               bool accumulate);

#endif
