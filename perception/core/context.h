/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute context: device, queue, pool, arenas, profile, probe and the
 * first failure. Exactly one thread uses a context at a time. A detector has
 * one; loading a model needs one; parsers take one for its failure record.
 */
#ifndef SV_CONTEXT_H
#define SV_CONTEXT_H

#include "arena.h"
#include "device.h"
#include "pool.h"
#include "profile.h"
#include "status.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sv_precision { SV_FP32, SV_TF32, SV_BF16_MATH, SV_FP16_MATH } sv_precision;
/* "fp32", "tf32", "bf16", "fp16"; false when it is none of these. */
bool sv_precision_parse(const char *text, sv_precision *precision);
const char *sv_precision_name(sv_precision precision);

typedef enum sv_log_level { SV_LOG_WARNING, SV_LOG_NOTE, SV_LOG_DETAIL } sv_log_level;
typedef void (*sv_log_fn)(void *user, sv_log_level level, const char *sentence);

/*
 * A probe sees every named tensor of a frame (stage dumps, 'savanna check')
 * and may overwrite it (imposed top-K choices). It runs on the calling thread,
 * with the tensor's memory on the context's device; the queue is not waited
 * for. With a probe set frames are never captured or replayed, and operators
 * may compute extra intermediates for it.
 */
typedef sv_status (*sv_probe_fn)(void *user, sv_ctx *c, const char *name, sv_tensor tensor);

typedef struct sv_error {
    sv_status status;
    const char *file;
    int line;
    char message[768];
} sv_error;

/*
 * Capacities. Data-dependent row counts live on the device; an operation that
 * produces them writes the number of rows it needed to the counter it is
 * given, clamps its result to the capacity, and the owner of the frame
 * compares both after the frame: nothing is silently cut.
 */
enum { SV_COUNTERS = 32 };
/* Rows that had no place in a BEV map, counted by devices whose operations cannot fail in the middle of a frame. */
enum { SV_COUNTER_OUTSIDE = SV_COUNTERS - 2 };

struct sv_ctx {
    const sv_device *device;
    int device_index;
    void *queue; /* the device's own */
    sv_precision precision;
    sv_pool *pool;
    sv_arena *weights; /* where *_prepare operations allocate; NULL outside model loading */
    bool
        packed_only; /* linear_prepare keeps no copy of the weights as they were: nobody but sv_linear() reads them */
    sv_arena frame, scratch;
    int32_t *counters;                  /* [SV_COUNTERS] on the device */
    int32_t counters_host[SV_COUNTERS]; /* copy of the last frame */
    sv_profile profile;
    char stage_path[96]; /* names of the open stages, also used by probes */
    sv_probe_fn probe;
    void *probe_user;
    sv_log_fn log;
    void *log_user;
    bool capturing; /* a graph is being recorded: no allocation, no wait, no host read */
    sv_error error;
};

typedef struct sv_ctx_def {
    sv_device_kind device;  /* SV_CPU */
    int device_index;       /* 0 */
    int threads;            /* CPU threads; 0: as many as the process may use */
    sv_precision precision; /* SV_FP32 */
    sv_log_fn log;          /* NULL: silence */
    void *log_user;
    uint32_t cookie; /* set by sv_ctx_def_default() */
} sv_ctx_def;

sv_ctx_def sv_ctx_def_default(void);

/* On failure '*out' is NULL unless memory sufficed for a context that holds the error; close it in any case. */
sv_status sv_ctx_open(const sv_ctx_def *def, sv_ctx **out);
void sv_ctx_close(sv_ctx *c); /* NULL is fine */

/* The sentence of the first failure, or "" when there is none. Valid until the next sv_error_clear(). */
const char *sv_error_message(const sv_ctx *c);
void sv_error_clear(sv_ctx *c);
void sv_log(sv_ctx *c, sv_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Uninitialised rows x channels tensor. 'like' (may be SV_NONE) gives the live rows. */
sv_status sv_frame_alloc(sv_ctx *c, sv_tensor *out, const char *name, sv_dtype dtype, int rows, int channels,
                         sv_tensor like);
sv_status sv_scratch_alloc(sv_ctx *c, sv_tensor *out, const char *name, sv_dtype dtype, int rows,
                           int channels, sv_tensor like);
/* [batch+1] live-row offsets to be written by an operation. */
sv_status sv_frame_offsets(sv_ctx *c, int32_t **out, int batch);

/* Copy a host tensor to the weights arena of the device. */
sv_status sv_weight_upload(sv_ctx *c, sv_tensor *out, sv_tensor host);

/* Whether a probe is set (then intermediates are worth computing). */
static inline bool sv_probing(const sv_ctx *c)
{
    return c->probe != NULL;
}
/* Show 'tensor' to the probe as "<open stages>/<name>". */
sv_status sv_probe(sv_ctx *c, const char *name, sv_tensor tensor);

/* Copy the live rows of a 2-D tensor to malloc'ed dense host memory; '*rows' receives their number. Waits. */
sv_status sv_download_rows(sv_ctx *c, sv_tensor tensor, void **out, int *rows);

#ifdef __cplusplus
}
#endif

#endif
