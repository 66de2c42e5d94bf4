/* SPDX-License-Identifier: Apache-2.0 */
#include "sort.h"

#include <string.h>

/* 2^DIGIT_BITS counters and as many write positions: both stay in the first two cache levels. */
enum { DIGIT_BITS = 12, DIGITS = 1 << DIGIT_BITS };

sv_status sv_sort_spaces(sv_ctx *c, sv_sort_space **out, int sets, int rows)
{
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "sort spaces", (size_t)sets * sizeof **out, &memory));
    *out = memory;
    for (int i = 0; i < sets; i++) {
        sv_pairs *const halves[2] = {&(*out)[i].a, &(*out)[i].b};
        for (int half = 0; half < 2; half++) {
            SV_TRY(sv_arena_alloc(c, &c->scratch, "sort keys", (size_t)rows * sizeof(uint64_t), &memory));
            halves[half]->key = memory;
            SV_TRY(sv_arena_alloc(c, &c->scratch, "sort rows", (size_t)rows * sizeof(int32_t), &memory));
            halves[half]->row = memory;
        }
    }
    return SV_OK;
}

static bool is_sorted(const uint64_t *key, int n)
{
    for (int i = 1; i < n; i++) {
        if (key[i - 1] > key[i]) return false;
    }
    return true;
}

/* One pass: 'to' receives 'from' ordered by the digit at 'shift', stably. False: all digits are equal,
 * nothing done. */
static bool order_by_digit(sv_pairs to, sv_pairs from, int n, int shift, int width)
{
    uint32_t place[DIGITS];
    const uint64_t mask = ((uint64_t)1 << width) - 1;
    memset(place, 0, sizeof *place << width);
    for (int i = 0; i < n; i++) place[from.key[i] >> shift & mask]++;
    if (place[from.key[0] >> shift & mask] == (uint32_t)n) return false;
    uint32_t before = 0;
    for (uint64_t digit = 0; digit <= mask; digit++) {
        const uint32_t count = place[digit];
        place[digit] = before;
        before += count;
    }
    for (int i = 0; i < n; i++) {
        const uint64_t key = from.key[i];
        const uint32_t at = place[key >> shift & mask]++;
        to.key[at] = key;
        to.row[at] = from.row[i];
    }
    return true;
}

sv_pairs sv_sort_pairs(const sv_sort_space *space, int n)
{
    sv_pairs from = space->a, to = space->b;
    if (n < 2 || is_sorted(from.key, n)) return from;
    uint64_t used = 0;
    for (int i = 0; i < n; i++) used |= from.key[i];
    int bits = 0;
    while (bits < 64 && used >> bits) bits++;
    const int passes = (bits + DIGIT_BITS - 1) / DIGIT_BITS;
    const int width = (bits + passes - 1) / passes;
    for (int shift = 0; shift < bits; shift += width) {
        if (order_by_digit(to, from, n, shift, width)) {
            const sv_pairs swap = from;
            from = to;
            to = swap;
        }
    }
    return from;
}
