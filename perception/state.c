/* SPDX-License-Identifier: Apache-2.0 */
#include "state.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct sv_state {
    const sv_device *device;
    int count, frames;
    uint64_t identity;
    sv_state_entry entry[SV_STATE_ENTRIES];
    sv_whereabouts last[SV_MAX_BATCH], next[SV_MAX_BATCH];
    sv_camera_seen cameras[SV_STATE_CAMERAS], next_cameras[SV_STATE_CAMERAS];
    sv_tensor motion;
};

static uint64_t next_identity(void)
{
    static atomic_uint_fast64_t last;
    return atomic_fetch_add(&last, 1) + 1;
}

static size_t entry_bytes(const sv_state_entry *entry)
{
    return sizeof(float) * (size_t)entry->now.dim[0] * (size_t)entry->now.dim[1];
}

sv_status sv_state_open(sv_ctx *c, sv_state **out)
{
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out, SV_NO_MEMORY, "no memory for a stream's state");
    (*out)->device = c->device;
    (*out)->identity = next_identity();
    return SV_OK;
}

void sv_state_close(sv_state *state)
{
    if (!state) return;
    if (state->motion.data) state->device->free(state->motion.data);
    for (int i = 0; i < state->count; i++) {
        state->device->free(state->entry[i].now.data);
        state->device->free(state->entry[i].next.data);
    }
    free(state);
}

sv_status sv_state_entry_get(sv_ctx *c, sv_state *state, const char *name, int rows, int channels,
                             const sv_state_entry **out)
{
    *out = NULL;
    for (int i = 0; i < state->count; i++) {
        sv_state_entry *entry = &state->entry[i];
        if (strcmp(entry->name, name) != 0) continue;
        SV_CHECK(c, entry->now.dim[0] == rows && entry->now.dim[1] == channels, SV_BAD_SHAPE,
                 "state '%s' is %d x %d, the frame needs %d x %d: the stream was opened for another model or "
                 "batch",
                 name, entry->now.dim[0], entry->now.dim[1], rows, channels);
        *out = entry;
        return SV_OK;
    }
    SV_CHECK(c, !c->capturing, SV_INTERNAL, "state '%s' is asked for first while a frame is captured", name);
    SV_CHECK(c, state->count < SV_STATE_ENTRIES, SV_INTERNAL, "more than %d state entries", SV_STATE_ENTRIES);
    sv_state_entry entry = {.name = name};
    const size_t bytes = sizeof(float) * (size_t)rows * (size_t)channels;
    entry.now = sv_view(c->device->alloc(bytes), SV_F32, rows, channels);
    entry.next = sv_view(c->device->alloc(bytes), SV_F32, rows, channels);
    if (!entry.now.data || !entry.next.data) {
        c->device->free(entry.now.data);
        c->device->free(entry.next.data);
        return SV_FAIL(c, SV_NO_MEMORY, "%s has no %zu bytes for state '%s'", c->device->name, 2 * bytes,
                       name);
    }
    state->entry[state->count] = entry;
    SV_TRY(c->device->fill(c, entry.now.data, 0, bytes));
    SV_TRY(c->device->fill(c, entry.next.data, 0, bytes));
    *out = &state->entry[state->count++];
    state->identity = next_identity();
    return SV_OK;
}

sv_status sv_state_commit(sv_ctx *c, sv_state *state)
{
    for (int i = 0; i < state->count; i++)
        SV_TRY(c->device->copy(c, state->entry[i].now.data, state->entry[i].next.data,
                               entry_bytes(&state->entry[i])));
    memcpy(state->last, state->next, sizeof state->last);
    memcpy(state->cameras, state->next_cameras, sizeof state->cameras);
    state->frames++;
    return SV_OK;
}

sv_status sv_state_reset(sv_ctx *c, sv_state *state)
{
    for (int i = 0; i < state->count; i++)
        SV_TRY(c->device->fill(c, state->entry[i].now.data, 0, entry_bytes(&state->entry[i])));
    memset(state->last, 0, sizeof state->last);
    memset(state->cameras, 0, sizeof state->cameras);
    state->frames = 0;
    return SV_OK;
}

const sv_camera_seen *sv_state_cameras(const sv_state *state)
{
    return state->cameras;
}
sv_camera_seen *sv_state_next_cameras(sv_state *state)
{
    return state->next_cameras;
}
const sv_whereabouts *sv_state_last(const sv_state *state, int sample)
{
    return &state->last[sample];
}
sv_whereabouts *sv_state_next(sv_state *state, int sample)
{
    return &state->next[sample];
}

sv_status sv_state_motion(sv_ctx *c, sv_state *state, sv_tensor *out)
{
    enum { COLUMNS = 8 };
    if (sv_is_none(state->motion)) {
        SV_CHECK(c, !c->capturing, SV_INTERNAL,
                 "a state's motion is asked for first while a frame is captured");
        const size_t bytes = sizeof(float) * SV_MAX_BATCH * COLUMNS;
        state->motion = sv_view(c->device->alloc(bytes), SV_F32, SV_MAX_BATCH, COLUMNS);
        SV_CHECK(c, state->motion.data, SV_NO_MEMORY, "%s has no %zu bytes for a stream's motion",
                 c->device->name, bytes);
        SV_TRY(c->device->fill(c, state->motion.data, 0, bytes));
        state->identity = next_identity();
    }
    *out = state->motion;
    return SV_OK;
}

size_t sv_state_bytes(const sv_state *state)
{
    size_t bytes = 0;
    for (int i = 0; i < state->count; i++) bytes += 2 * entry_bytes(&state->entry[i]);
    return bytes;
}

uint64_t sv_state_identity(const sv_state *state)
{
    return state ? state->identity : 0;
}
int sv_state_frames(const sv_state *state)
{
    return state->frames;
}
