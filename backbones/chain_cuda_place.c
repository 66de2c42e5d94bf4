/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the maps of a chain lie. A map is needed from the step that writes it to the last that reads it; the
 * conversion of the input counts as step -1. Maps whose times meet get places of their own, the largest first, each at
 * the lowest place that is free, in the input's memory where it fits and in the run's own otherwise:
 *
 *     bytes ^  +-------+  +---------+
 *           |  |   1   |  |    4    |        a step that adds a map which nobody reads later writes its
 *           |  +---+---+--+--+------+        sums over it: every cell is read and written by the same
 *           |  | 0 |    2    |  3   |        thread
 *           +--------------------------> steps
 */
#include "chain_cuda_plan.h"

enum {
    PLACE_ALIGN = 1024,
    IN_PLACE = 2048, /* most channels of a cell that a block of threads converts at once */
};

typedef struct place {
    int from, to, owner; /* owner: the slot whose place it shares; itself where it shares none */
    size_t size;
    bool placed;
} place;

static void find_times(const sv_chain_plan *plan, place *p)
{
    for (int v = 0; v < plan->slots; v++) {
        const sv_plan_slot *s = &plan->slot[v];
        p[v] = (place){.from = v == 0 ? -1 : plan->steps, .to = v == 0 ? 0 : -1, .owner = v};
        if (s->read && !s->joined)
            p[v].size = ((size_t)s->y.size * (size_t)s->x.size * s->cell_bytes + PLACE_ALIGN - 1) /
                        PLACE_ALIGN * PLACE_ALIGN;
    }
    for (int i = 0; i < plan->steps; i++) {
        const sv_plan_step *s = &plan->step[i];
        if (p[s->in].to < i) p[s->in].to = i;
        for (int q = 0; q < s->parts; q++) {
            const sv_plan_part *part = &s->part[q];
            if (part->add >= 0 && p[part->add].to < i) p[part->add].to = i;
            if (p[part->out].from > i) p[part->out].from = i;
            if (p[part->out].to < i) p[part->out].to = i;
        }
    }
}

/* Can a part's result lie where the map lies that it adds? */
static bool writes_over(const sv_chain_plan *plan, const place *p, int step, const sv_plan_part *part)
{
    const sv_plan_step *s = &plan->step[step];
    if (part->add < 0 || s->in == part->add || p[part->add].to != step) return false;
    const sv_plan_slot *from = &plan->slot[part->add], *to = &plan->slot[part->out];
    int adding = 0;
    for (int q = 0; q < s->parts; q++) adding += s->part[q].add == part->add;
    return adding == 1 && to->writers == 1 && to->read && p[part->add].size == p[part->out].size &&
           from->cell_bytes == to->cell_bytes && from->pitch == to->pitch && from->sums == to->sums;
}

static void share_places(const sv_chain_plan *plan, place *p)
{
    for (int i = 0; i < plan->steps; i++)
        for (int q = 0; q < plan->step[i].parts; q++) {
            const sv_plan_part *part = &plan->step[i].part[q];
            if (!writes_over(plan, p, i, part)) continue;
            const int owner = p[part->add].owner;
            p[part->out].owner = owner;
            if (p[owner].to < p[part->out].to) p[owner].to = p[part->out].to;
        }
}

/* The lowest place of a region that is free for slot v all the time. */
static size_t lowest(const sv_chain_plan *plan, const place *p, int v, sv_plan_region region)
{
    size_t at = 0;
    for (bool moved = true; moved;) { /* past every map that is needed at the same time */
        moved = false;
        for (int u = 0; u < plan->slots; u++) {
            const size_t begin = plan->slot[u].offset;
            if (!p[u].placed || plan->slot[u].region != region || p[u].to < p[v].from ||
                p[v].to < p[u].from || begin + p[u].size <= at || at + p[v].size <= begin)
                continue;
            at = begin + p[u].size;
            moved = true;
        }
    }
    return at;
}

void sv_plan_place(sv_chain_plan *plan, bool reuse_input)
{
    place p[SV_PLAN_SLOTS];
    find_times(plan, p);
    /* An input that is converted in place keeps its cells' size. */
    sv_plan_slot *in = &plan->slot[0];
    const size_t given = (size_t)in->y.size * (size_t)in->x.size * (size_t)in->channels * sizeof(float);
    plan->input_bytes = reuse_input ? given / PLACE_ALIGN * PLACE_ALIGN : 0;
    const bool in_place = in->channels <= IN_PLACE && plan->input_bytes == p[0].size &&
                          plan->input_bytes == given &&
                          in->cell_bytes == (size_t)in->channels * sizeof(float);
    plan->scratch_bytes = 0;
    share_places(plan, p);
    if (in_place) {
        in->region = SV_PLAN_INPUT;
        in->offset = 0;
        p[0].placed = true;
    }
    for (;;) {
        int v = -1;
        for (int u = 0; u < plan->slots; u++)
            if (!p[u].placed && p[u].owner == u && p[u].size > 0 && (v < 0 || p[u].size > p[v].size)) v = u;
        if (v < 0) break;
        sv_plan_slot *s = &plan->slot[v];
        s->region = SV_PLAN_INPUT;
        s->offset = lowest(plan, p, v, SV_PLAN_INPUT);
        if (v == 0 || s->offset + p[v].size > plan->input_bytes) {
            s->region = SV_PLAN_SCRATCH;
            s->offset = lowest(plan, p, v, SV_PLAN_SCRATCH);
            if (s->offset + p[v].size > plan->scratch_bytes) plan->scratch_bytes = s->offset + p[v].size;
        }
        p[v].placed = true;
    }
    for (int v = 0; v < plan->slots; v++) {
        plan->slot[v].region = plan->slot[p[v].owner].region;
        plan->slot[v].offset = plan->slot[p[v].owner].offset;
    }
}
