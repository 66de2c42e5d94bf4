/* SPDX-License-Identifier: Apache-2.0
 *
 * Scores and candidate numbers in one integer: ascending keys are descending scores, equal scores by
 * ascending number, NaN before everything, -0 equal to +0. And the smallest of many keys, kept in a heap
 * whose first entry is the greatest of them.
 */
#ifndef SV_SCORE_KEY_H
#define SV_SCORE_KEY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t sv_score_key;

static inline sv_score_key sv_score_key_of(float score, int32_t number)
{
    uint32_t bits, ascending = UINT32_MAX;
    score += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &score, sizeof bits);
    if (score == score) ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)~ascending << 32 | (uint32_t)number;
}

static inline int32_t sv_score_key_number(sv_score_key key)
{
    return (int32_t)(uint32_t)key;
}

static inline float sv_score_key_score(sv_score_key key)
{
    const uint32_t ascending = ~(uint32_t)(key >> 32);
    const uint32_t bits = ascending >> 31 ? ascending & 0x7fffffffu : ~ascending;
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Put 'key' in the place of entry 'at' and let it sink. */
static inline void sv_score_heap_sink(sv_score_key *heap, int count, int at, sv_score_key key)
{
    for (int child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] > heap[child]) child++;
        if (heap[child] <= key) break;
        heap[at] = heap[child];
    }
    heap[at] = key;
}

/* Add a key to the smallest 'most' (> 0) so far; returns their count. */
static inline int sv_score_heap_add(sv_score_key *heap, int count, int most, sv_score_key key)
{
    if (count == most) {
        if (key < heap[0]) sv_score_heap_sink(heap, count, 0, key);
        return count;
    }
    int at = count;
    for (int parent; at > 0 && heap[parent = (at - 1) / 2] < key; at = parent) heap[at] = heap[parent];
    heap[at] = key;
    return count + 1;
}

/* Turn the heap into ascending keys. */
static inline void sv_score_heap_sort(sv_score_key *heap, int count)
{
    for (int last = count - 1; last > 0; last--) {
        const sv_score_key greatest = heap[0], key = heap[last];
        sv_score_heap_sink(heap, last, 0, key);
        heap[last] = greatest;
    }
}

#endif
