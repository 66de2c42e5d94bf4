/* SPDX-License-Identifier: Apache-2.0
 *
 * sv_check_NAME(): what the arguments of each primitive must look like, the
 * same for every device. Called by the dispatcher before the device's kernel.
 */
#ifndef SV_OPS_CHECK_H
#define SV_OPS_CHECK_H

#include "ops.h"

#define OP(name, parameters, arguments) sv_status sv_check_##name parameters;
#include "ops.def"
#undef OP

#endif
