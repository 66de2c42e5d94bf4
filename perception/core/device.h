/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core needs from a device: memory, copies, and replay of a captured
 * frame, plus the table of primitives generated from ops.def. A device is a
 * constant table; its mutable part (stream, handles) is 'queue', one per
 * context, so that detectors on the same device do not share anything.
 *
 * All device work of a context is ordered on its queue. Functions that move
 * data to the host ('download') wait for the queue; everything else returns at
 * once. On the CPU the queue does nothing and every call is complete on return.
 */
#ifndef SV_DEVICE_H
#define SV_DEVICE_H

#include "status.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sv_device_kind { SV_CPU, SV_CUDA } sv_device_kind;

typedef struct sv_ops sv_ops; /* ops.h */
typedef struct sv_ceilings sv_ceilings;
typedef struct sv_graph sv_graph;

typedef struct sv_device {
    sv_device_kind kind;
    const char *name;
    const sv_ops *ops;

    sv_status (*queue_open)(sv_ctx *c, int index, void **queue);
    void (*queue_close)(void *queue);
    sv_status (*queue_wait)(sv_ctx *c);

    void *(*alloc)(size_t bytes);      /* device memory, 256-byte aligned; NULL when there is none */
    void (*free)(void *memory);        /* NULL is fine */
    void *(*alloc_host)(size_t bytes); /* host memory the device copies fast (pinned) */
    void (*free_host)(void *memory);

    sv_status (*upload)(sv_ctx *c, void *device, const void *host, size_t bytes);
    sv_status (*download)(sv_ctx *c, void *host, const void *device, size_t bytes); /* waits */
    sv_status (*download_async)(sv_ctx *c, void *host, const void *device, size_t bytes);
    sv_status (*copy)(sv_ctx *c, void *to, const void *from, size_t bytes); /* within the device */
    sv_status (*fill)(sv_ctx *c, void *device, int byte, size_t bytes);

    /* Record what is enqueued between begin and end, then launch it any number of times. NULL on the CPU. */
    sv_status (*capture_begin)(sv_ctx *c);
    sv_status (*capture_end)(sv_ctx *c, sv_graph **out);
    sv_status (*replay)(sv_ctx *c, sv_graph *graph);
    void (*graph_free)(sv_graph *graph);
    int (*graph_kernels)(const sv_graph *graph); /* launches in a replay */

    /* What is enqueued between begin and end runs beside what is enqueued after it, until join. Several such parts run one
     * behind the other; each join waits for the oldest not yet waited for. Within them scratch memory is not given back
     * (sv_arena.held). NULL where everything runs in order. */
    sv_status (*aside_begin)(sv_ctx *c);
    sv_status (*aside_end)(sv_ctx *c);
    sv_status (*aside_join)(sv_ctx *c);

    /* Time stamps on the queue for the profile; 'slot' < SV_PROFILE_STAMPS. Milliseconds are valid after a wait. */
    sv_status (*stamp)(sv_ctx *c, int slot);
    double (*stamp_ms)(sv_ctx *c, int from, int to);

    sv_status (*ceilings)(sv_ctx *c, sv_ceilings *out); /* peak.h */
} sv_device;

enum { SV_PROFILE_STAMPS = 512 };

extern const sv_device sv_device_cpu;
#ifdef SAVANNA_CUDA
extern const sv_device sv_device_cuda;
#endif

/* Parts of a frame that may run beside others; in order where nothing can, and while the profile is on. */
sv_status sv_aside_begin(sv_ctx *c);
sv_status sv_aside_end(sv_ctx *c);
sv_status sv_aside_join(sv_ctx *c); /* fine when there is nothing to wait for */

/* The device by kind, or NULL when it was not built in. */
const sv_device *sv_device_of(sv_device_kind kind);
/* "cpu", "cuda", "cuda:1" -> kind and index; false when it is none of these. */
bool sv_device_parse(const char *text, sv_device_kind *kind, int *index);

#ifdef __cplusplus
}
#endif

#endif
