/* SPDX-License-Identifier: Apache-2.0 */
#include "status.h"

#include "context.h"

#include <stdarg.h>
#include <stdio.h>

const char *sv_status_text(sv_status status)
{
    switch (status) {
#define STATUS(name, value, exit_code, text)                                                                 \
    case SV_##name:                                                                                          \
        return text;
#include "status.def"
#undef STATUS
    }
    return "unknown status";
}

int sv_status_exit_code(sv_status status)
{
    switch (status) {
#define STATUS(name, value, exit_code, text)                                                                 \
    case SV_##name:                                                                                          \
        return exit_code;
#include "status.def"
#undef STATUS
    }
    return 4;
}

sv_status sv_fail(sv_ctx *c, sv_status status, const char *file, int line, const char *format, ...)
{
    if (!c || c->error.status != SV_OK) return status;
    c->error.status = status;
    c->error.file = file;
    c->error.line = line;
    va_list args;
    va_start(args, format);
    vsnprintf(c->error.message, sizeof c->error.message, format, args);
    va_end(args);
    return status;
}
