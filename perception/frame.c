/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <stdlib.h>

sv_frame *sv_frame_new(const sv_device *device, int capacity, int columns)
{
    sv_frame *frame = calloc(1, sizeof *frame);
    if (!frame) return NULL;
    frame->points =
        device->alloc_host(sizeof(float) * (size_t)(capacity > 0 ? capacity : 1) * (size_t)columns);
    if (!frame->points) {
        free(frame);
        return NULL;
    }
    frame->device = device;
    frame->capacity = capacity;
    frame->columns = columns;
    frame->references = 1;
    return frame;
}

sv_frame *sv_frame_retain(sv_frame *frame)
{
    __atomic_add_fetch(&frame->references, 1, __ATOMIC_RELAXED);
    return frame;
}

void sv_frame_release(sv_frame *frame)
{
    if (!frame || __atomic_sub_fetch(&frame->references, 1, __ATOMIC_ACQ_REL) > 0) return;
    if (frame->recycle) {
        frame->recycle(frame);
        return;
    }
    frame->device->free_host(frame->points);
    free(frame);
}
