/* SPDX-License-Identifier: Apache-2.0
 *
 * Bump allocators over a device's memory.
 *
 * Three live in a context: 'model' (weights and prepared weights, freed with
 * the model), 'frame' (activations, reset at the start of a frame) and
 * 'scratch' (mark/rewind inside a layer). The same sequence of calls gives the
 * same addresses, which is what lets a frame be replayed as a CUDA graph.
 *
 *   block 0 (the high-water mark of earlier frames)   overflow blocks
 *   +------------------------------------------+      +-----------+
 *   | voxels | pad | features | pad | free ... |  ->  | too large |  -> ...
 *   +------------------------------------------+      +-----------+
 *
 * When block 0 is full, further blocks are taken from the device (an
 * allocation, so only during warm-up); sv_arena_reset() then merges them into
 * one block of the high-water mark. While 'sealed' (graph capture) an arena
 * that is full fails with SV_NO_MEMORY instead. A rewind gives overflow blocks back. Every allocation carries a
 * name; per name the largest size is kept for the memory table. On the CPU
 * under ASan the gaps between allocations and rewound memory are poisoned.
 */
#ifndef SV_ARENA_H
#define SV_ARENA_H

#include "status.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sv_device sv_device;
typedef struct sv_arena_block sv_arena_block;
typedef struct sv_arena_host sv_arena_host;

typedef struct sv_arena_name {
    const char *name; /* a string literal */
    size_t bytes;     /* largest single allocation under this name */
    int count;        /* allocations under this name, in total */
} sv_arena_name;

enum { SV_ARENA_NAMES = 192 };

typedef struct sv_arena {
    const char *name;
    const sv_device *device;
    sv_arena_block *blocks; /* newest first */
    sv_arena_host *host;    /* what sv_arena_describe() gave out */
    size_t used, peak;      /* bytes, alignment gaps included */
    size_t reserved;        /* bytes held from the device */
    bool sealed;
    bool held; /* rewinding does nothing: work that was enqueued aside still uses what lies behind the mark */
    int name_count;
    sv_arena_name names[SV_ARENA_NAMES];
} sv_arena;

typedef struct sv_mark {
    sv_arena_block *block;
    size_t block_used, used;
} sv_mark;

void sv_arena_init(sv_arena *arena, const char *name, const sv_device *device);
void sv_arena_free(sv_arena *arena); /* gives everything back to the device; may be called twice */
void sv_arena_forget(sv_arena *arena); /* also forgets how large frames were; the next one begins anew */

/* 256-byte aligned; 'name' must be a string literal. NULL in '*out' only with an error. Zero bytes are fine. */
sv_status sv_arena_alloc(sv_ctx *c, sv_arena *arena, const char *name, size_t bytes, void **out);
/* Zeroed host memory that is freed with the arena: descriptions of what lies in it. */
sv_status sv_arena_describe(sv_ctx *c, sv_arena *arena, size_t bytes, void **out);
/* Forget every allocation; merges overflow blocks into one (may allocate, never while sealed). */
sv_status sv_arena_reset(sv_ctx *c, sv_arena *arena);
sv_mark sv_arena_mark(const sv_arena *arena);
void sv_arena_rewind(sv_arena *arena, sv_mark mark); /* marks must nest */

#ifdef __cplusplus
}
#endif

#endif
