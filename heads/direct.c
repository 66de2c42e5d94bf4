/* SPDX-License-Identifier: Apache-2.0 */
#include "direct.h"

#include <string.h>

#define DIRECT(name) extern const sv_direct_type sv_direct_##name;
#include "direct.def"
#undef DIRECT

static const sv_direct_type *const types[] = {
#define DIRECT(name) &sv_direct_##name,
#include "direct.def"
#undef DIRECT
};

const sv_direct_type *sv_direct_find(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i]->name, name) == 0) return types[i];
    return NULL;
}
