/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators by name, from operators/operators.def.
 */
#include "backbones/operator.h"

#include <string.h>

static const sv_operator *const operators[] = {
#define OPERATOR(identifier) &sv_operator_##identifier,
#include "backbones/operators/operators.def"
#undef OPERATOR
    NULL,
};

const sv_operator *sv_operator_at(int i)
{
    const int count = (int)(sizeof operators / sizeof operators[0]) - 1;
    return i >= 0 && i < count ? operators[i] : NULL;
}

const sv_operator *sv_operator_find(const char *name)
{
    for (int i = 0; operators[i]; i++)
        if (strcmp(operators[i]->name, name) == 0) return operators[i];
    return NULL;
}
