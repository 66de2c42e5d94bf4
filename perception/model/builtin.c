/* SPDX-License-Identifier: Apache-2.0 */
#include "builtin.h"

#include <string.h>

const sv_builtin_file *sv_builtin_find(const char *name)
{
    const size_t length = strlen(name);
    const char *ending = strpbrk(name, "./") ? "" : ".yaml";
    for (int i = 0; i < sv_builtin_file_count; i++)
        if (strncmp(sv_builtin_files[i].name, name, length) == 0 &&
            strcmp(sv_builtin_files[i].name + length, ending) == 0)
            return &sv_builtin_files[i];
    return NULL;
}
