/* SPDX-License-Identifier: Apache-2.0
 *
 * Start and end of every kernel, copy and fill of a program on the GPU, replayed graphs included, as CSV on the
 * file named by SAVANNA_TRACE: start us, microseconds, stream, name, bytes of shared memory of a block. Loaded by the
 * driver itself:
 *
 *     cc -shared -fPIC -I$CUPTI/include trace.c -o trace.so -L$CUPTI/lib -lcupti
 *     CUDA_INJECTION64_PATH=./trace.so SAVANNA_TRACE=trace.csv savanna bench ...
 */
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef KERNEL
#define KERNEL CUpti_ActivityKernel9
#endif

enum { BUFFER_BYTES = 8 << 20 };

int InitializeInjection(void); /* the name that the driver looks for */

static FILE *file;

static void CUPTIAPI requested(uint8_t **buffer, size_t *size, size_t *records)
{
    *size = BUFFER_BYTES;
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    *records = 0; /* as many as fit */
}

static void line(uint64_t start, uint64_t end, unsigned stream, const char *name, int shared)
{
    fprintf(file, "%.3f,%.3f,%u,\"%s\",%d\n", (double)start / 1e3, (double)(end - start) / 1e3, stream, name,
            shared);
}

static void CUPTIAPI completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid)
{
    (void)context, (void)stream, (void)size;
    for (CUpti_Activity *record = NULL;
         cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS;) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const KERNEL *kernel = (const void *)record;
            line(kernel->start, kernel->end, kernel->streamId, kernel->name,
                 kernel->staticSharedMemory + kernel->dynamicSharedMemory);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy5 *copy = (const void *)record;
            line(copy->start, copy->end, copy->streamId, "(copy)", 0);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            const CUpti_ActivityMemset4 *fill = (const void *)record;
            line(fill->start, fill->end, fill->streamId, "(fill)", 0);
        }
    }
    free(buffer);
}

static void finish(void)
{
    cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    fclose(file);
}

int InitializeInjection(void)
{
    const char *path = getenv("SAVANNA_TRACE");
    file = path ? fopen(path, "w") : NULL;
    if (!file) return 0;
    cuptiActivityRegisterCallbacks(requested, completed);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
    atexit(finish);
    return 1;
}
