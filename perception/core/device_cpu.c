/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU as a device: its queue is the calling thread, so every call is complete on return.
 */
#define _GNU_SOURCE
#include "device.h"

#include "ops_cpu.h"
#include "peak.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* Operators that are composed here, and of a few kernels elsewhere, stay NULL. */
#pragma weak sv_cpu_rwkv_block
#pragma weak sv_cpu_xlstm_block
#pragma weak sv_cpu_retnet_block
#pragma weak sv_cpu_ttt_block
#pragma weak sv_cpu_position_embed
#pragma weak sv_cpu_point_maxima

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

/* Large blocks ask for large pages: convolution weights and maps take megabytes in strides that small pages' tables miss. */
static void *alloc(size_t bytes)
{
    enum { LINE = 256, LARGE_PAGE = 2 << 20 };
    char *memory = aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);
#ifdef MADV_HUGEPAGE
    const size_t before = memory ? (LARGE_PAGE - (uintptr_t)memory % LARGE_PAGE) % LARGE_PAGE : 0;
    if (memory && bytes >= before + LARGE_PAGE) /* a wish: refusal changes nothing */
        madvise(memory + before, (bytes - before) / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
    return memory;
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
    .ceilings = sv_cpu_ceilings,
};
