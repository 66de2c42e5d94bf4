/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU's functions, one per primitive of ops.def, defined in the .cu file beside the code they belong to.
 */
#ifndef SV_OPS_CUDA_H
#define SV_OPS_CUDA_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OP(name, parameters, arguments) sv_status sv_cuda_##name parameters;
#include "ops.def"
#undef OP

#ifdef __cplusplus
}
#endif

#endif
