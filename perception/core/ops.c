/* SPDX-License-Identifier: Apache-2.0 */
#include "ops.h"

#include "ops_check.h"

const char *sv_map_name(sv_map map)
{
    static const char *const names[] = {
#define MAP(name, expression) #name,
#include "maps.def"
#undef MAP
    };
    return names[map];
}

static sv_status no_kernel(sv_ctx *c, const char *op)
{
    return SV_FAIL(c, SV_NO_KERNEL, "%s has no kernel for '%s'", c->device->name, op);
}

#define OP(name, parameters, arguments)                                                                      \
    sv_status sv_##name parameters                                                                           \
    {                                                                                                        \
        SV_TRY(sv_check_##name arguments);                                                                   \
        if (!c->device->ops->name) return no_kernel(c, #name);                                               \
        return c->device->ops->name arguments;                                                               \
    }
#include "ops.def"
#undef OP
