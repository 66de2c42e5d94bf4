/* SPDX-License-Identifier: Apache-2.0
 *
 * sv_state: what a stream carries from frame to frame (recurrent states,
 * earlier sweeps, tracks). One per stream.
 *
 * Every entry has two buffers at fixed device addresses, so that a captured
 * frame can be replayed: the frame reads 'now' and writes 'next'. Only when
 * the frame succeeded does the detector commit (next is copied to now); a
 * frame that overflowed or failed leaves 'now' as it was.
 */
#ifndef SV_STATE_H
#define SV_STATE_H

#include "backbones/video/ego_motion.h"
#include "perception/core/context.h"

enum { SV_STATE_ENTRIES = 16, SV_STATE_CAMERAS = 8 * SV_MAX_BATCH };

typedef struct sv_camera_seen {
    bool ever;
    double time; /* seconds */
    int width, height;
} sv_camera_seen;

typedef struct sv_state sv_state;

typedef struct sv_state_entry {
    const char *name;    /* a string literal */
    sv_tensor now, next; /* the same shape */
} sv_state_entry;

/* Empty; the device is c's. */
sv_status sv_state_open(sv_ctx *c, sv_state **out);
void sv_state_close(sv_state *state); /* NULL is fine */
/* The entry 'name', made (f32 [rows, channels], zeroed) when it is not there yet. A different shape is SV_BAD_SHAPE. Not while capturing. */
sv_status sv_state_entry_get(sv_ctx *c, sv_state *state, const char *name, int rows, int channels,
                             const sv_state_entry **out);
/* Where sample 0..SV_MAX_BATCH-1 was at the last frame that succeeded, and is at this one. */
const sv_whereabouts *sv_state_last(const sv_state *state, int sample);
sv_whereabouts *sv_state_next(sv_state *state, int sample);
/* [SV_MAX_BATCH, 8] on the device, at a fixed address: how each sample moved, for sv_map_warp(). Made when first asked for,
 * not while capturing. */
sv_status sv_state_motion(sv_ctx *c, sv_state *state, sv_tensor *out);
/* next -> now for every entry, on c's queue. */
sv_status sv_state_commit(sv_ctx *c, sv_state *state);
/* Forget the past: zero 'now' (a gap or jump in the stream). */
sv_status sv_state_reset(sv_ctx *c, sv_state *state);
/* When and with what sides the cameras of a stream last brought pictures: [SV_STATE_CAMERAS], committed and reset like the entries. */
const sv_camera_seen *sv_state_cameras(const sv_state *state);
sv_camera_seen *sv_state_next_cameras(sv_state *state);
/* Never the same for two sets of addresses: changes with every new entry, and no two states ever share one. A captured
 * frame is only replayed with the state it was captured with, and a state's address may be taken again by another. */
uint64_t sv_state_identity(const sv_state *state); /* 0 for NULL */
size_t sv_state_bytes(const sv_state *state);
int sv_state_frames(const sv_state *state); /* commits since the last reset */

#endif
