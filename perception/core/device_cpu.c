/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU as a device: its queue is the calling thread, so every call is complete on return.
 */
#include "device.h"

#include "ops_cpu.h"

#include <stdlib.h>
#include <string.h>

static const sv_ops cpu_ops = {
#define OP(name, parameters, arguments) .name = sv_cpu_##name,
#include "ops.def"
#undef OP
};

static sv_status queue_open(sv_ctx *c, int index, void **queue)
{
    SV_CHECK(c, index == 0, SV_USAGE, "device cpu:%d: there is only one CPU device", index);
    SV_CHECK(c, c->precision != SV_FP16_MATH, SV_USAGE, "the CPU computes in fp32, tf32 or bf16, not in %s",
             sv_precision_name(c->precision));
    *queue = NULL;
    return SV_OK;
}
static void queue_close(void *queue)
{
    (void)queue;
}
static sv_status queue_wait(sv_ctx *c)
{
    (void)c;
    return SV_OK;
}

static void *alloc(size_t bytes)
{
    return aligned_alloc(256, (bytes + 255) / 256 * 256);
}

static sv_status copy(sv_ctx *c, void *to, const void *from, size_t bytes)
{
    (void)c;
    if (bytes > 0) memcpy(to, from, bytes);
    return SV_OK;
}

static sv_status fill(sv_ctx *c, void *memory, int byte, size_t bytes)
{
    (void)c;
    memset(memory, byte, bytes);
    return SV_OK;
}

const sv_device sv_device_cpu = {
    .kind = SV_CPU,
    .name = "cpu",
    .ops = &cpu_ops,
    .queue_open = queue_open,
    .queue_close = queue_close,
    .queue_wait = queue_wait,
    .alloc = alloc,
    .free = free,
    .alloc_host = alloc,
    .free_host = free,
    .upload = copy,
    .download = copy,
    .download_async = copy,
    .copy = copy,
    .fill = fill,
};
