/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows of greatest score of each sample: scores [N,1] -> picks [sum of K_b], K_b = (int)(n_b * share), ascending.
 *
 * Scores become integers that sort the other way round: descending scores, NaN before everything and -0 equal to
 * +0 as in the reference. The integer of the K-th is the cut; of the rows that lie on it the first are taken.
 */
#include "perception/core/ops_cpu.h"
#include "sort.h"

#include <math.h>
#include <string.h>

typedef struct top_task {
    sv_tensor picks, scores;
    sv_sort_space space; /* [N]; a sample uses the part of its rows */
} top_task;

static uint64_t descending_key(float score)
{
    if (isnan(score)) return 0;
    uint32_t bits;
    score += 0.0f; /* -0 becomes +0 */
    memcpy(&bits, &score, sizeof bits);
    const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

static void pick_sample(void *arg, int sample, int worker)
{
    (void)worker;
    const top_task *t = arg;
    const int first = t->scores.offsets[sample], rows = t->scores.offsets[sample + 1] - first;
    const int place = t->picks.offsets[sample], count = t->picks.offsets[sample + 1] - place;
    if (count == 0) return;
    const sv_sort_space space = sv_sort_space_from(t->space, first);
    const float *scores = sv_f32(t->scores) + (ptrdiff_t)first * t->scores.pitch;
    for (int i = 0; i < rows; i++) {
        space.a.key[i] = descending_key(scores[(ptrdiff_t)i * t->scores.pitch]);
        space.a.row[i] = first + i;
    }
    const sv_pairs sorted = sv_sort_pairs(&space, rows);
    const uint64_t cut = sorted.key[count - 1];
    int on_cut = 0;
    for (int i = count; i > 0 && sorted.key[i - 1] == cut; i--) on_cut++;
    int32_t *pick = sv_i32(t->picks) + place;
    for (int i = 0; i < rows; i++) {
        const uint64_t key = descending_key(scores[(ptrdiff_t)i * t->scores.pitch]);
        if (key < cut || (key == cut && on_cut-- > 0)) *pick++ = first + i;
    }
}

sv_status sv_cpu_top_rows(sv_ctx *c, sv_tensor picks, int32_t *picks_offsets, sv_tensor scores, double share)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    picks_offsets[0] = 0;
    for (int b = 0; b < scores.batch; b++)
        picks_offsets[b + 1] = picks_offsets[b] + (int)((scores.offsets[b + 1] - scores.offsets[b]) * share);
    top_task task = {.picks = picks, .scores = scores};
    sv_sort_space *space = NULL;
    SV_TRY(sv_sort_spaces(c, &space, 1, scores.dim[0]));
    task.space = *space;
    sv_pool_run(c->pool, pick_sample, &task, scores.batch);
    sv_count_work(c, 0, 4.0 * (sv_live_rows(scores) + picks_offsets[scores.batch]));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
