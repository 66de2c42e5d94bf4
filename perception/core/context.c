/* SPDX-License-Identifier: Apache-2.0 */
#include "context.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COOKIE = 0x53561c0d };

static const char *const precision_names[] = {"fp32", "tf32", "bf16", "fp16"};

bool sv_precision_parse(const char *text, sv_precision *precision)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, precision_names[i]) == 0) {
            *precision = (sv_precision)i;
            return true;
        }
    }
    return false;
}

const char *sv_precision_name(sv_precision precision)
{
    return precision_names[precision];
}

sv_ctx_def sv_ctx_def_default(void)
{
    return (sv_ctx_def){.device = SV_CPU, .precision = SV_FP32, .cookie = COOKIE};
}

sv_status sv_ctx_open(const sv_ctx_def *def, sv_ctx **out)
{
    assert(def->cookie == COOKIE && "start from sv_ctx_def_default()");
    sv_ctx *c = calloc(1, sizeof *c);
    *out = c;
    if (!c) return SV_NO_MEMORY;
    c->log = def->log;
    c->log_user = def->log_user;
    c->precision = def->precision;
    c->device = sv_device_of(def->device);
    if (!c->device) {
        c->device = &sv_device_cpu; /* so that closing works */
        return SV_FAIL(c, SV_USAGE,
                       "this build has no CUDA: configure with -DSAVANNA_CUDA=ON or use --device cpu");
    }
    sv_arena_init(&c->frame, "frame", c->device);
    sv_arena_init(&c->scratch, "scratch", c->device);
    c->device_index = def->device_index;
    c->pool = sv_pool_open(def->threads);
    SV_CHECK(c, c->pool, SV_NO_MEMORY, "cannot start %d threads", def->threads);
    SV_TRY(c->device->queue_open(c, def->device_index, &c->queue));
    c->counters = c->device->alloc(sizeof *c->counters * SV_COUNTERS);
    SV_CHECK(c, c->counters, SV_NO_MEMORY, "%s: no memory for %d counters", c->device->name, SV_COUNTERS);
    SV_TRY(c->device->fill(c, c->counters, 0, sizeof *c->counters * SV_COUNTERS));
    return SV_OK;
}

void sv_ctx_close(sv_ctx *c)
{
    if (!c) return;
    sv_arena_free(&c->frame);
    sv_arena_free(&c->scratch);
    c->device->free(c->counters);
    if (c->queue) c->device->queue_close(c->queue);
    sv_pool_close(c->pool);
    free(c);
}

const char *sv_error_message(const sv_ctx *c)
{
    return c->error.status == SV_OK ? "" : c->error.message;
}
void sv_error_clear(sv_ctx *c)
{
    memset(&c->error, 0, sizeof c->error);
}

void sv_log(sv_ctx *c, sv_log_level level, const char *format, ...)
{
    if (!c || !c->log) return;
    char sentence[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    c->log(c->log_user, level, sentence);
}

static sv_status tensor_alloc(sv_ctx *c, sv_arena *arena, sv_tensor *out, const char *name, sv_dtype dtype,
                              int rows, int channels, sv_tensor like)
{
    SV_CHECK(c, rows >= 0 && channels >= 0, SV_INTERNAL, "%s: %d x %d elements", name, rows, channels);
    void *data = NULL;
    SV_TRY(sv_arena_alloc(c, arena, name, (size_t)rows * (size_t)channels * sv_dtype_bytes(dtype), &data));
    *out = sv_with_rows_of(sv_view(data, dtype, rows, channels), like);
    return SV_OK;
}

sv_status sv_frame_alloc(sv_ctx *c, sv_tensor *out, const char *name, sv_dtype dtype, int rows, int channels,
                         sv_tensor like)
{
    return tensor_alloc(c, &c->frame, out, name, dtype, rows, channels, like);
}

sv_status sv_scratch_alloc(sv_ctx *c, sv_tensor *out, const char *name, sv_dtype dtype, int rows,
                           int channels, sv_tensor like)
{
    return tensor_alloc(c, &c->scratch, out, name, dtype, rows, channels, like);
}

sv_status sv_frame_offsets(sv_ctx *c, int32_t **out, int batch)
{
    SV_CHECK(c, batch >= 1 && batch <= SV_MAX_BATCH, SV_USAGE, "batch of %d frames: 1 to %d are possible",
             batch, SV_MAX_BATCH);
    void *data = NULL;
    SV_TRY(sv_arena_alloc(c, &c->frame, "row offsets", (size_t)(batch + 1) * sizeof(int32_t), &data));
    *out = data;
    return SV_OK;
}

sv_status sv_weight_upload(sv_ctx *c, sv_tensor *out, sv_tensor host)
{
    assert(c->weights && "weights are prepared while a model is loaded");
    const size_t bytes =
        (size_t)host.dim[0] * (size_t)sv_row_elements(host) * sv_dtype_bytes((sv_dtype)host.dtype);
    assert(host.pitch == sv_row_elements(host));
    void *data = NULL;
    SV_TRY(sv_arena_alloc(c, c->weights, "weights", bytes, &data));
    SV_TRY(c->device->upload(c, data, host.data, bytes));
    *out = host;
    out->data = data;
    out->offsets = NULL;
    out->batch = 0;
    return SV_OK;
}

sv_status sv_probe(sv_ctx *c, const char *name, sv_tensor tensor)
{
    if (!c->probe) return SV_OK;
    char path[160];
    snprintf(path, sizeof path, "%s%s%s", c->stage_path, c->stage_path[0] ? "/" : "", name);
    return c->probe(c->probe_user, c, path, tensor);
}

sv_status sv_download_rows(sv_ctx *c, sv_tensor tensor, void **out, int *rows)
{
    *out = NULL;
    assert(tensor.ndim >= 1);
    int32_t offsets[SV_MAX_BATCH + 1];
    *rows = tensor.dim[0];
    if (tensor.offsets) {
        SV_TRY(c->device->download(c, offsets, tensor.offsets, sizeof(int32_t) * ((size_t)tensor.batch + 1)));
        *rows = offsets[tensor.batch] < tensor.dim[0] ? offsets[tensor.batch] : tensor.dim[0];
    }
    const size_t row = (size_t)sv_row_elements(tensor) * sv_dtype_bytes((sv_dtype)tensor.dtype);
    const size_t pitch = (size_t)tensor.pitch * sv_dtype_bytes((sv_dtype)tensor.dtype);
    char *host = malloc((size_t)*rows * row + 1);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory for %d rows of %zu bytes", *rows, row);
    sv_status status = SV_OK;
    if (pitch == row) {
        status = c->device->download(c, host, tensor.data, (size_t)*rows * row);
    } else {
        for (int i = 0; i < *rows && status == SV_OK; i++)
            status =
                c->device->download(c, host + (size_t)i * row, (char *)tensor.data + (size_t)i * pitch, row);
    }
    if (status != SV_OK) {
        free(host);
        return status;
    }
    *out = host;
    return SV_OK;
}
