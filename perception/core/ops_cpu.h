/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU's functions, one per primitive of ops.def, defined beside the code they belong to.
 */
#ifndef SV_OPS_CPU_H
#define SV_OPS_CPU_H

#include "ops.h"

#define OP(name, parameters, arguments) sv_status sv_cpu_##name parameters;
#include "ops.def"
#undef OP

#endif
