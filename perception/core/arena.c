/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

#include "context.h"
#include "device.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define SV_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SV_ASAN 1
#endif
#endif
#ifdef SV_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { ALIGNMENT = 256, REDZONE = 256 };
/* Overflow blocks are no larger than needed, but hold many small allocations: a first frame touches little more than its peak. */
static const size_t SMALLEST_BLOCK = (size_t)2 << 20;

struct sv_arena_block {
    sv_arena_block *older;
    char *memory;
    size_t size, used;
};

struct sv_arena_host {
    sv_arena_host *older;
    max_align_t memory[];
};

static void poison(const sv_arena *arena, void *memory, size_t bytes)
{
#ifdef SV_ASAN
    if (arena->device->kind == SV_CPU) __asan_poison_memory_region(memory, bytes);
#else
    (void)arena, (void)memory, (void)bytes;
#endif
}

static void unpoison(const sv_arena *arena, void *memory, size_t bytes)
{
#ifdef SV_ASAN
    if (arena->device->kind == SV_CPU) __asan_unpoison_memory_region(memory, bytes);
#else
    (void)arena, (void)memory, (void)bytes;
#endif
}

void sv_arena_init(sv_arena *arena, const char *name, const sv_device *device)
{
    memset(arena, 0, sizeof *arena);
    arena->name = name;
    arena->device = device;
}

static void free_newest(sv_arena *arena)
{
    sv_arena_block *block = arena->blocks;
    arena->blocks = block->older;
    arena->reserved -= block->size;
    unpoison(arena, block->memory, block->size);
    arena->device->free(block->memory);
    free(block);
}

static void free_blocks(sv_arena *arena)
{
    while (arena->blocks) free_newest(arena);
}

static void free_host(sv_arena *arena)
{
    while (arena->host) {
        sv_arena_host *newest = arena->host;
        arena->host = newest->older;
        free(newest);
    }
}

void sv_arena_free(sv_arena *arena)
{
    if (!arena->device) return;
    free_blocks(arena);
    arena->used = 0;
    free_host(arena);
}

void sv_arena_forget(sv_arena *arena)
{
    sv_arena_free(arena);
    arena->peak = 0;
    arena->name_count = 0;
}

sv_status sv_arena_describe(sv_ctx *c, sv_arena *arena, size_t bytes, void **out)
{
    *out = NULL;
    sv_arena_host *host = calloc(1, sizeof *host + bytes);
    SV_CHECK(c, host, SV_NO_MEMORY, "%s arena: no host memory for a description of %zu bytes", arena->name,
             bytes);
    host->older = arena->host;
    arena->host = host;
    *out = host->memory;
    return SV_OK;
}

static sv_status add_block(sv_ctx *c, sv_arena *arena, size_t bytes, const char *wanted_for)
{
    sv_arena_block *block = calloc(1, sizeof *block);
    SV_CHECK(c, block, SV_NO_MEMORY, "%s arena: no memory for a block record", arena->name);
    block->memory = arena->device->alloc(bytes);
    if (!block->memory) {
        free(block);
        return SV_FAIL(c, SV_NO_MEMORY, "%s arena: %s has no %.1f MiB left for '%s' (%.1f MiB in use)",
                       arena->name, arena->device->name, (double)bytes / 1048576.0, wanted_for,
                       (double)arena->reserved / 1048576.0);
    }
    block->size = bytes;
    block->older = arena->blocks;
    arena->blocks = block;
    arena->reserved += bytes;
    poison(arena, block->memory, bytes);
    return SV_OK;
}

static void note_name(sv_arena *arena, const char *name, size_t bytes)
{
    int i = 0;
    while (i < arena->name_count && arena->names[i].name != name && strcmp(arena->names[i].name, name) != 0)
        i++;
    if (i == SV_ARENA_NAMES) return;
    if (i == arena->name_count) {
        arena->names[i] = (sv_arena_name){.name = name};
        arena->name_count++;
    }
    arena->names[i].count++;
    if (bytes > arena->names[i].bytes) arena->names[i].bytes = bytes;
}

sv_status sv_arena_alloc(sv_ctx *c, sv_arena *arena, const char *name, size_t bytes, void **out)
{
    *out = NULL;
    SV_CHECK(c, bytes <= (size_t)1 << 46, SV_NO_MEMORY, "%s arena: '%s' asks for %zu bytes", arena->name,
             name, bytes);
#ifdef SV_ASAN
    const size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + REDZONE;
#else
    const size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + (bytes == 0 ? ALIGNMENT : 0);
#endif
    sv_arena_block *block = arena->blocks;
    if (!block || block->size - block->used < padded) {
        SV_CHECK(
            c, !arena->sealed, SV_NO_MEMORY,
            "%s arena: '%s' (%zu bytes) does not fit the %zu bytes reserved before the frame was captured",
            arena->name, name, bytes, arena->reserved);
        SV_TRY(add_block(c, arena, padded > SMALLEST_BLOCK ? padded : SMALLEST_BLOCK, name));
        block = arena->blocks;
    }
    *out = block->memory + block->used;
    unpoison(arena, *out, bytes);
    block->used += padded;
    arena->used += padded;
    if (arena->used > arena->peak) arena->peak = arena->used;
    note_name(arena, name, bytes);
    return SV_OK;
}

sv_status sv_arena_reset(sv_ctx *c, sv_arena *arena)
{
    arena->used = 0;
    free_host(arena);
    /* Room for a slightly larger frame; the space that was lost at block ends is not needed any more. */
    const size_t want = (arena->peak + arena->peak / 16 + 4095) / 4096 * 4096;
    const bool one_block = arena->blocks && !arena->blocks->older && arena->blocks->size >= arena->peak;
    if (arena->peak > 0 && !one_block && !arena->sealed) {
        free_blocks(arena);
        SV_TRY(add_block(c, arena, want, "the next frame"));
    }
    for (sv_arena_block *block = arena->blocks; block; block = block->older) {
        block->used = 0;
        poison(arena, block->memory, block->size);
    }
    return SV_OK;
}

sv_mark sv_arena_mark(const sv_arena *arena)
{
    return (sv_mark){
        .block = arena->blocks, .block_used = arena->blocks ? arena->blocks->used : 0, .used = arena->used};
}

/* Overflow blocks taken since the mark go back to the device: kept, they would only be reused by allocations that fit the
 * newest one. (Device memory may be given back while enqueued work still uses it: freeing waits for that work.) */
void sv_arena_rewind(sv_arena *arena, sv_mark mark)
{
    if (arena->held) return;
    while (arena->blocks && arena->blocks != mark.block) free_newest(arena);
    if (mark.block) {
        poison(arena, mark.block->memory + mark.block_used, mark.block->size - mark.block_used);
        mark.block->used = mark.block_used;
    }
    arena->used = mark.used;
}
