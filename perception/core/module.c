/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "module.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

const void *sv_module_table(const char *file, const char *entry, const char *what, char *why,
                            size_t why_bytes)
{
    static const char here_is = 0; /* an address in this library */
    Dl_info here;
    char path[PATH_MAX];
    const char *slash = NULL;
    if (dladdr(&here_is, &here) && here.dli_fname) slash = strrchr(here.dli_fname, '/');
    const int folder = slash ? (int)(slash - here.dli_fname) + 1 : 0;
    const int length = snprintf(path, sizeof path, "%.*s%s", folder, slash ? here.dli_fname : "", file);
    void *module = length > 0 && (size_t)length < sizeof path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    void *symbol = module ? dlsym(module, entry) : NULL;
    const void *(*table)(void) = NULL;
    memcpy(&table, &symbol, sizeof table);
    if (table) return table();
    const char *error = dlerror();
    snprintf(why, why_bytes, "the module for %s cannot be loaded: %.240s", what, error ? error : path);
    return NULL;
}
