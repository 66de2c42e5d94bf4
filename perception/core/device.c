/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include "context.h"

#include <stdlib.h>
#include <string.h>

const sv_device *sv_device_of(sv_device_kind kind)
{
    if (kind == SV_CPU) return &sv_device_cpu;
#ifdef SAVANNA_CUDA
    if (kind == SV_CUDA) return &sv_device_cuda;
#endif
    return NULL;
}

bool sv_device_parse(const char *text, sv_device_kind *kind, int *index)
{
    *index = 0;
    if (strcmp(text, "cpu") == 0) {
        *kind = SV_CPU;
        return true;
    }
    if (strncmp(text, "cuda", 4) != 0) return false;
    *kind = SV_CUDA;
    if (text[4] == '\0') return true;
    if (text[4] != ':' || text[5] == '\0') return false;
    char *end = NULL;
    const long number = strtol(text + 5, &end, 10);
    if (*end != '\0' || number < 0 || number > 255) return false;
    *index = (int)number;
    return true;
}

sv_status sv_aside_begin(sv_ctx *c)
{
    return c->device->aside_begin && !c->profile.on ? c->device->aside_begin(c) : SV_OK;
}
sv_status sv_aside_end(sv_ctx *c)
{
    return c->device->aside_end && !c->profile.on ? c->device->aside_end(c) : SV_OK;
}
sv_status sv_aside_join(sv_ctx *c)
{
    return c->device->aside_join ? c->device->aside_join(c) : SV_OK;
}
