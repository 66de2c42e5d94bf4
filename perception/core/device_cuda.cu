/* SPDX-License-Identifier: Apache-2.0
 *
 * An NVIDIA GPU as a device: the queue is a stream with the events of the profile's time stamps; a frame is
 * captured from that stream into a CUDA graph. The owner of the frame seals the arenas meanwhile, so that
 * what a graph was recorded with is what every replay uses.
 */
#include "cuda.cuh"
#include "peak.h"
#include "room.h"

#include <math.h>
#include <stdlib.h>

extern "C" {
#define OP(name, parameters, arguments) sv_status sv_cuda_##name parameters __attribute__((weak));
#include "ops.def"
#undef OP
}

/* Missing functions stay NULL: the dispatcher answers SV_NO_KERNEL. */
static const sv_ops cuda_ops = {
#define OP(name, parameters, arguments) sv_cuda_##name,
#include "ops.def"
#undef OP
};

enum { ASIDE_PARTS = 4 };

typedef struct cuda_queue {
    int index;
    cudaStream_t stream, side;
    cudaEvent_t fork, parts[ASIDE_PARTS];
    bool aside;                            /* enqueueing goes to 'side' */
    int begun, joined;                     /* parts that went there, and those waited for */
    cudaEvent_t stamps[SV_PROFILE_STAMPS]; /* made when first used */
} cuda_queue;

struct sv_graph {
    cudaGraphExec_t exec;
    int kernels;
};

sv_status sv_cuda_check(sv_ctx *c, cudaError_t error, const char *what, const char *file, int line)
{
    if (error == cudaSuccess) return SV_OK;
    return sv_fail(c, SV_DEVICE, file, line, "%s: %s: %s", what, cudaGetErrorName(error),
                   cudaGetErrorString(error));
}

cudaStream_t sv_cuda_stream(sv_ctx *c)
{
    cuda_queue *queue = (cuda_queue *)c->queue;
    cudaSetDevice(
        queue->index); /* succeeded when the queue was opened; a failure shows in the call that follows */
    return queue->aside ? queue->side : queue->stream;
}

int sv_cuda_block_bytes(const sv_ctx *c)
{
    int bytes = 0;
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->device_index);
#ifdef SAVANNA_BLOCK_BYTES
    if (bytes > SAVANNA_BLOCK_BYTES) bytes = SAVANNA_BLOCK_BYTES;
#endif
    return bytes;
}

/* ---- parts that run aside
 * --------------------------------------------------------------------------------- */

static sv_status aside_begin(sv_ctx *c)
{
    cuda_queue *queue = (cuda_queue *)c->queue;
    SV_CHECK(c, !queue->aside && queue->begun - queue->joined < ASIDE_PARTS, SV_INTERNAL,
             "more than %d parts of a frame run aside", (int)ASIDE_PARTS);
    SV_CUDA_TRY(c, "leaving the stream", cudaEventRecord(queue->fork, sv_cuda_stream(c)));
    SV_CUDA_TRY(c, "leaving the stream", cudaStreamWaitEvent(queue->side, queue->fork, 0));
    queue->aside = c->scratch.held = true;
    return SV_OK;
}

static sv_status aside_end(sv_ctx *c)
{
    cuda_queue *queue = (cuda_queue *)c->queue;
    queue->aside = c->scratch.held = false;
    SV_CUDA_TRY(c, "ending a part aside",
                cudaEventRecord(queue->parts[queue->begun++ % ASIDE_PARTS], queue->side));
    return SV_OK;
}

static sv_status aside_join(sv_ctx *c)
{
    cuda_queue *queue = (cuda_queue *)c->queue;
    if (queue->joined == queue->begun) return SV_OK;
    SV_CUDA_TRY(c, "joining the stream",
                cudaStreamWaitEvent(queue->stream, queue->parts[queue->joined++ % ASIDE_PARTS], 0));
    return SV_OK;
}

/* ---- queue --------------------------------------------------------------------------------------------- */

static sv_status queue_open(sv_ctx *c, int index, void **out)
{
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    SV_CHECK(c,
             error != cudaErrorNoDevice && error != cudaErrorInsufficientDriver &&
                 (error != cudaSuccess || count > 0),
             SV_USAGE, "no usable NVIDIA GPU or driver (%s: %s); use --device cpu", cudaGetErrorName(error),
             cudaGetErrorString(error));
    SV_CUDA_TRY(c, "looking for GPUs", error);
    SV_CHECK(c, index < count, SV_USAGE, "device cuda:%d: the last of this machine's GPUs is cuda:%d", index,
             count - 1);
    cuda_queue *queue = (cuda_queue *)calloc(1, sizeof *queue);
    SV_CHECK(c, queue, SV_NO_MEMORY, "cuda:%d: no memory for a queue", index);
    queue->index = index;
    *out = queue;
    SV_CUDA_TRY(c, "choosing the GPU", cudaSetDevice(index));
    SV_CUDA_TRY(c, "opening a stream", cudaStreamCreateWithFlags(&queue->stream, cudaStreamNonBlocking));
    SV_CUDA_TRY(c, "opening a stream", cudaStreamCreateWithFlags(&queue->side, cudaStreamNonBlocking));
    SV_CUDA_TRY(c, "making an event", cudaEventCreateWithFlags(&queue->fork, cudaEventDisableTiming));
    for (int i = 0; i < ASIDE_PARTS; i++)
        SV_CUDA_TRY(c, "making an event", cudaEventCreateWithFlags(&queue->parts[i], cudaEventDisableTiming));
    return SV_OK;
}

static void queue_close(void *memory)
{
    cuda_queue *queue = (cuda_queue *)memory;
    cudaSetDevice(queue->index);
    for (int i = 0; i < SV_PROFILE_STAMPS; i++)
        if (queue->stamps[i]) cudaEventDestroy(queue->stamps[i]);
    if (queue->fork) cudaEventDestroy(queue->fork);
    for (int i = 0; i < ASIDE_PARTS; i++)
        if (queue->parts[i]) cudaEventDestroy(queue->parts[i]);
    if (queue->side) cudaStreamDestroy(queue->side);
    if (queue->stream) cudaStreamDestroy(queue->stream);
    free(queue);
}

static sv_status queue_wait(sv_ctx *c)
{
    SV_CHECK(c, !c->capturing, SV_INTERNAL, "waiting for the GPU while a frame is captured");
    cuda_queue *queue = (cuda_queue *)c->queue;
    while (queue->joined != queue->begun) SV_TRY(aside_join(c)); /* after a frame that failed midway */
    SV_CUDA_TRY(c, "waiting for the GPU", cudaStreamSynchronize(sv_cuda_stream(c)));
    return SV_OK;
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void *device_alloc(size_t bytes)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, bytes > 0 ? bytes : 1) == cudaSuccess) return memory;
    cudaGetLastError(); /* the caller reports it; do not let the next launch report it again */
    return NULL;
}

static void device_free(void *memory)
{
    if (memory) cudaFree(memory);
}

static void *pinned_alloc(size_t bytes)
{
    void *memory = NULL;
    if (cudaHostAlloc(&memory, bytes > 0 ? bytes : 1, cudaHostAllocPortable) == cudaSuccess) return memory;
    cudaGetLastError();
    return NULL;
}

static void pinned_free(void *memory)
{
    if (memory) cudaFreeHost(memory);
}

/*
 * From pageable memory CUDA copies to a buffer of its own before it returns, so the host memory is free at
 * once. Pinned memory must keep its contents until the queue has passed the copy, and for as long as a
 * graph with the copy is replayed.
 */
static sv_status upload(sv_ctx *c, void *device, const void *host, size_t bytes)
{
    if (bytes == 0) return SV_OK;
    SV_CUDA_TRY(c, "upload", cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, sv_cuda_stream(c)));
    return SV_OK;
}

static sv_status download_async(sv_ctx *c, void *host, const void *device, size_t bytes)
{
    if (bytes == 0) return SV_OK;
    SV_CUDA_TRY(c, "download",
                cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, sv_cuda_stream(c)));
    return SV_OK;
}

static sv_status download(sv_ctx *c, void *host, const void *device, size_t bytes)
{
    SV_TRY(download_async(c, host, device, bytes));
    return queue_wait(c);
}

static sv_status copy(sv_ctx *c, void *to, const void *from, size_t bytes)
{
    if (bytes == 0) return SV_OK;
    SV_CUDA_TRY(c, "copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, sv_cuda_stream(c)));
    return SV_OK;
}

static sv_status fill(sv_ctx *c, void *device, int byte, size_t bytes)
{
    if (bytes == 0) return SV_OK;
    SV_CUDA_TRY(c, "fill", cudaMemsetAsync(device, byte, bytes, sv_cuda_stream(c)));
    return SV_OK;
}

/* ---- capture and replay -------------------------------------------------------------------------------- */

static sv_status capture_begin(sv_ctx *c)
{
    SV_CUDA_TRY(c, "beginning a capture",
                cudaStreamBeginCapture(sv_cuda_stream(c), cudaStreamCaptureModeThreadLocal));
    return SV_OK;
}

static int count_kernels(cudaGraph_t graph)
{
    size_t count = 0;
    int kernels = 0;
    if (cudaGraphGetNodes(graph, NULL, &count) != cudaSuccess || count == 0) return 0;
    cudaGraphNode_t *nodes = (cudaGraphNode_t *)calloc(count, sizeof *nodes);
    if (nodes && cudaGraphGetNodes(graph, nodes, &count) == cudaSuccess)
        for (size_t i = 0; i < count; i++) {
            cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
            kernels +=
                cudaGraphNodeGetType(nodes[i], &type) == cudaSuccess && type == cudaGraphNodeTypeKernel;
        }
    free(nodes);
    return kernels;
}

static sv_status capture_end(sv_ctx *c, sv_graph **out)
{
    *out = NULL;
    cudaGraph_t recorded = NULL;
    const cudaError_t ended = cudaStreamEndCapture(sv_cuda_stream(c), &recorded);
    if (ended != cudaSuccess) cudaGetLastError();
    SV_CUDA_TRY(c, "ending a capture", ended);
    sv_graph *graph = (sv_graph *)calloc(1, sizeof *graph);
    if (graph) graph->kernels = count_kernels(recorded);
    const cudaError_t made =
        graph ? cudaGraphInstantiate(&graph->exec, recorded, 0) : cudaErrorMemoryAllocation;
    cudaGraphDestroy(recorded);
    if (made != cudaSuccess) {
        free(graph);
        return sv_cuda_check(c, made, "making a graph of the captured frame", __FILE__, __LINE__);
    }
    *out = graph;
    /* Now, so that the first replay is as fast as the others. */
    SV_CUDA_TRY(c, "placing the graph on the GPU", cudaGraphUpload(graph->exec, sv_cuda_stream(c)));
    return SV_OK;
}

static sv_status replay(sv_ctx *c, sv_graph *graph)
{
    SV_CUDA_TRY(c, "replaying a frame", cudaGraphLaunch(graph->exec, sv_cuda_stream(c)));
    return SV_OK;
}

static void graph_free(sv_graph *graph)
{
    if (!graph) return;
    cudaGraphExecDestroy(graph->exec);
    free(graph);
}

/* ---- time stamps --------------------------------------------------------------------------------------- */

static sv_status stamp(sv_ctx *c, int slot)
{
    cuda_queue *queue = (cuda_queue *)c->queue;
    const cudaStream_t stream = sv_cuda_stream(c);
    if (!queue->stamps[slot]) SV_CUDA_TRY(c, "making a time stamp", cudaEventCreate(&queue->stamps[slot]));
    /* In a captured frame 'external' makes the stamp a node that every replay records. */
    const unsigned flags = c->capturing ? cudaEventRecordExternal : cudaEventRecordDefault;
    SV_CUDA_TRY(c, "time stamp", cudaEventRecordWithFlags(queue->stamps[slot], stream, flags));
    return SV_OK;
}

static double stamp_ms(sv_ctx *c, int from, int to)
{
    cuda_queue *queue = (cuda_queue *)c->queue;
    float ms = 0;
    if (cudaEventElapsedTime(&ms, queue->stamps[from], queue->stamps[to]) == cudaSuccess) return ms;
    cudaGetLastError();
    return NAN;
}

static int graph_kernels(const sv_graph *graph)
{
    return graph->kernels;
}

/* In the order of sv_device (C++17 has no designated initialisers). */
extern "C" const sv_device sv_device_cuda = {
    SV_CUDA,
    "cuda",
    &cuda_ops, /* what it is */
    queue_open,
    queue_close,
    queue_wait, /* queue */
    device_alloc,
    device_free,
    pinned_alloc,
    pinned_free, /* memory */
    upload,
    download,
    download_async,
    copy,
    fill, /* copies */
    capture_begin,
    capture_end,
    replay,
    graph_free,
    graph_kernels, /* graphs */
    aside_begin,
    aside_end,
    aside_join, /* parts that run aside */
    stamp,
    stamp_ms, /* profile */
    sv_cuda_ceilings,
};
