/* SPDX-License-Identifier: Apache-2.0 */
#include "chain_cuda_plan.h"

#include "perception/core/context.h"

#include <stdlib.h>

/* ---- slots --------------------------------------------------------------------------------------------- */

/* What a node says about the size of the slot that it writes. */
static sv_status grow_slot(sv_ctx *c, sv_chain_plan *plan, const sv_chain_node *n, int number)
{
    sv_plan_slot *in = &plan->slot[n->in], *out = &plan->slot[n->out],
                 *add = &plan->slot[n->add >= 0 ? n->add : 0];
    const sv_chain_map made = sv_plan_map(out), added = sv_plan_map(add);
    SV_TRY(sv_chain_check_size(c, n, number, sv_plan_map(in), out->writers ? &made : NULL,
                               n->add >= 0 ? &added : NULL, &out->y.size, &out->x.size));
    out->writers++;
    if (n->out_first + n->out_channels > out->channels) out->channels = n->out_first + n->out_channels;
    if (n->out >= plan->slots) plan->slots = n->out + 1;
    in->read = true;
    if (n->add >= 0) add->read = true;
    return SV_OK;
}

/* The definition as it is: one node of the plan each. */
static sv_status take_nodes(sv_ctx *c, sv_chain_plan *plan, const sv_chain_def *def)
{
    plan->slot[0] = (sv_plan_slot){.channels = def->in_channels, .writers = 1};
    plan->slot[0].y.size = def->height;
    plan->slot[0].x.size = def->width;
    plan->slots = 1;
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        SV_TRY(sv_chain_check_node(c, def, i));
        SV_TRY(sv_chain_check_input(c, def, i, plan->slot[def->nodes[i].in].channels));
        SV_TRY(grow_slot(c, plan, n, i));
        plan->node[plan->nodes++] = (sv_plan_node){.node = *n,
                                                   .in_total = n->in_channels,
                                                   .out_total = n->out_channels,
                                                   .dense = n->out,
                                                   .dense_first = n->out_first};
    }
    for (int v = 0; v < plan->slots; v++)
        SV_CHECK(c, plan->slot[v].writers > 0, SV_BAD_SHAPE, "chain: no node writes slot %d", v);
    return SV_OK;
}

/* Slots once more, now of the pieces; and how far from the border each axis is alike. */
static sv_status find_slots(sv_ctx *c, sv_chain_plan *plan, sv_chain_scale (*scales)[2])
{
    for (int v = 1; v < plan->slots; v++) {
        sv_plan_slot *s = &plan->slot[v];
        s->writers = 0;
        s->read = false;
        for (int a = 0; a < 2; a++) scales[v][a] = (sv_chain_scale){.known = false};
    }
    scales[0][0] = (sv_chain_scale){1, 1, 0, plan->slot[0].y.size, true};
    scales[0][1] = (sv_chain_scale){1, 1, 0, plan->slot[0].x.size, true};
    for (int i = 0; i < plan->nodes; i++) {
        const sv_chain_node *n = &plan->node[i].node;
        SV_TRY(grow_slot(c, plan, n, i));
        for (int a = 0; a < 2; a++) {
            sv_chain_scale *to = &scales[n->out][a];
            const int sources[2] = {n->in, n->add};
            for (int k = 0; k < 2 && sources[k] >= 0; k++) {
                const sv_chain_scale from =
                    k == 0 ? sv_chain_scale_out(n, scales[n->in][a]) : scales[n->add][a];
                sv_chain_scale_meet(to, from);
            }
        }
    }
    for (int v = 0; v < plan->slots; v++) {
        sv_plan_slot *s = &plan->slot[v];
        s->pitch = sv_plan_round_up(s->channels, SV_PLAN_ALIGN);
        s->cell_bytes = (size_t)s->pitch * (s->sums ? sizeof(float) : 2 * (size_t)plan->how.planes);
    }
    return SV_OK;
}

/* Cut out the middle of the map, in units that keep all slots' strides in step. */
static void find_middle(sv_chain_plan *plan, sv_chain_scale (*scales)[2], int which)
{
    bool joined[SV_PLAN_SLOTS];
    for (int v = 0; v < plan->slots; v++) joined[v] = plan->slot[v].joined;
    const sv_chain_middle middle =
        sv_chain_find_middle((const sv_chain_scale(*)[2])scales, which, plan->slots, 1, joined);
    for (int v = 0; v < plan->slots; v++) {
        const sv_chain_scale *s = &scales[v][which];
        sv_plan_axis *a = which == 0 ? &plan->slot[v].y : &plan->slot[v].x;
        if (plan->slot[v].joined) continue;
        a->first = (int)(middle.from * s->up / s->down);
        a->period = (int)(middle.unit * s->up / s->down);
        a->removed = (int)(middle.removed * s->up / s->down);
        a->small = a->size - a->removed;
    }
}

/* ---- steps --------------------------------------------------------------------------------------------- */

static bool is_alike(const sv_chain_node *a, const sv_chain_node *b)
{
    return a->in == b->in && a->kind == b->kind && a->kernel == b->kernel && a->stride == b->stride;
}

/* Can a node be made in a step that begins before it? What it adds must have been made in an earlier one. */
static bool can_move(const sv_chain_plan *plan, const bool *done, const sv_chain_node *n)
{
    if (plan->slot[n->out].writers != 1) return false;
    for (int k = 0; k < plan->nodes && n->add >= 0; k++)
        if (plan->node[k].node.out == n->add && !done[k]) return false;
    return true;
}

static void add_part(sv_chain_plan *plan, sv_plan_step *s, int number)
{
    const sv_plan_node *n = &plan->node[number];
    s->part[s->parts++] = (sv_plan_part){.node = number,
                                         .out = n->node.out,
                                         .out_first = n->node.out_first,
                                         .channels = n->node.out_channels,
                                         .column = s->columns,
                                         .add = n->node.add,
                                         .dense = n->dense,
                                         .dense_first = n->dense_first,
                                         .relu = n->node.relu};
    s->columns = sv_plan_round_up(s->columns + n->node.out_channels, SV_PLAN_ALIGN);
}

/* Gather the nodes into steps: nodes with the same input and geometry are one product. Results that have to be kept
 * for later steps join one only as far as it fills a tile: more would be kept at once, and gain nothing. */
static void find_steps(sv_chain_plan *plan)
{
    bool done[SV_PLAN_NODES] = {false};
    for (int i = 0; i < plan->nodes; i++) {
        if (done[i]) continue;
        const sv_chain_node *n = &plan->node[i].node;
        sv_plan_step *s = &plan->step[plan->steps++];
        *s = (sv_plan_step){.kind = n->kind,
                            .in = n->in,
                            .kernel = n->kernel,
                            .stride = n->stride,
                            .pad = sv_chain_pad(n),
                            .taps = n->kind == SV_CHAIN_CONV ? n->kernel * n->kernel : 1,
                            .phases = n->kind == SV_CHAIN_DECONV ? n->stride * n->stride : 1,
                            .slabs = sv_plan_tiles(n->in_channels, plan->how.slab)};
        const bool alone = plan->slot[n->out].writers != 1;
        bool chosen[SV_PLAN_NODES] = {false};
        for (int j = i; j < plan->nodes && s->parts < SV_PLAN_PARTS; j++) {
            const sv_chain_node *o = &plan->node[j].node;
            const bool kept = plan->slot[o->out].read;
            if (done[j] || (j > i && (alone || !is_alike(n, o) || !can_move(plan, done, o)))) continue;
            if (j > i && kept && s->columns + o->out_channels > plan->how.columns) continue;
            chosen[j] = true;
            add_part(plan, s, j);
        }
        for (int j = i; j < plan->nodes; j++) done[j] |= chosen[j];
        s->tile = plan->how.narrow > 0 ? plan->how.narrow : plan->how.columns;
        while (s->tile < s->columns && s->tile < plan->how.columns) s->tile *= 2;
        s->n_tiles = sv_plan_tiles(s->columns, s->tile);
    }
}

static sv_status find_readers(sv_ctx *c, sv_chain_plan *plan)
{
    for (int i = 0; i < plan->steps; i++) {
        const sv_plan_step *s = &plan->step[i];
        for (int q = 0; q < s->parts; q++)
            for (int k = 0; k < 2; k++) {
                const int from = k == 0 ? s->in : s->part[q].add;
                if (from < 0) continue;
                sv_plan_slot *read = &plan->slot[from];
                SV_CHECK(c, read->readers < SV_PLAN_READERS, SV_UNSUPPORTED,
                         "chain: more than %d nodes read slot %d", (int)SV_PLAN_READERS, from);
                read->reader[read->readers].step = i;
                read->reader[read->readers].part = q;
                read->reader[read->readers++].adds = k == 1;
            }
    }
    return SV_OK;
}

/* ---- which tiles depend on what ------------------------------------------------------------------------ */

typedef struct span {
    int low, high; /* both included */
} span;

/* Input cells that cells s of slot 'v' depend on along one axis, through all paths. */
static span depends_on(const sv_chain_plan *plan, int v, span s)
{
    if (v == 0) return s;
    span all = {INT32_MAX, INT32_MIN};
    for (int i = 0; i < plan->nodes; i++) {
        const sv_chain_node *n = &plan->node[i].node;
        if (n->out != v) continue;
        span in = {s.low * n->stride - sv_chain_pad(n), s.high * n->stride - sv_chain_pad(n) + n->kernel - 1};
        if (n->kind == SV_CHAIN_DECONV) in = (span){s.low / n->stride, s.high / n->stride};
        if (in.low < 0) in.low = 0; /* what lies outside is zero padding, but other paths may add to it */
        const span through = depends_on(plan, n->in, in);
        if (through.low < all.low) all.low = through.low;
        if (through.high > all.high) all.high = through.high;
        if (n->add < 0) continue;
        const span beside = depends_on(plan, n->add, s);
        if (beside.low < all.low) all.low = beside.low;
        if (beside.high > all.high) all.high = beside.high;
    }
    return all;
}

static void fill_reach(const sv_chain_plan *plan, int v)
{
    const sv_plan_slot *s = &plan->slot[v];
    int16_t *out = plan->ranges + s->reach;
    for (int which = 0; which < 2; which++) {
        const int size = which ? s->x.size : s->y.size, edge = which ? SV_PLAN_TILE_X : SV_PLAN_TILE_Y;
        const int input = which ? plan->slot[0].x.size : plan->slot[0].y.size;
        for (int t = 0; t < sv_plan_tiles(size, edge); t++) {
            span cells = {t * edge, t * edge + edge - 1};
            if (cells.high > size - 1) cells.high = size - 1;
            const span in = depends_on(plan, v, cells);
            *out++ = (int16_t)(in.low < 0 ? 0 : in.low);
            *out++ = (int16_t)(in.high > input - 1 ? input - 1 : in.high);
        }
    }
}

static void fill_touch(const sv_chain_plan *plan, int v, int reader)
{
    const sv_plan_slot *s = &plan->slot[v];
    const sv_plan_step *r = &plan->step[s->reader[reader].step];
    const sv_plan_slot *to = &plan->slot[r->part[s->reader[reader].part].out];
    const bool added = s->reader[reader].adds;
    int16_t *out = plan->ranges + s->touch[reader];
    for (int which = 0; which < 2; which++) {
        const int size = which ? s->x.size : s->y.size, edge = which ? SV_PLAN_TILE_X : SV_PLAN_TILE_Y;
        const int last_tile = sv_plan_tiles(which ? to->x.size : to->y.size, edge) - 1;
        for (int t = 0; t < sv_plan_tiles(size, edge); t++) {
            span cells = {t * edge, t * edge + edge - 1};
            if (!added && r->kind == SV_CHAIN_DECONV) {
                cells = (span){cells.low * r->stride, cells.high * r->stride + r->stride - 1};
            } else if (!added) { /* o with o*stride - pad <= cell <= o*stride - pad + kernel - 1 */
                cells = (span){(int)sv_chain_ceil(cells.low + r->pad - r->kernel + 1, r->stride),
                               (cells.high + r->pad) / r->stride};
            }
            const int low = cells.low < 0 ? 0 : cells.low / edge, high = cells.high / edge;
            *out++ = (int16_t)low;
            *out++ = (int16_t)(high > last_tile ? last_tile : high);
        }
    }
}

static sv_status make_ranges(sv_ctx *c, sv_chain_plan *plan)
{
    for (int v = 0; v < plan->slots; v++) {
        sv_plan_slot *s = &plan->slot[v];
        if (s->joined) continue;
        const size_t pairs =
            2 * (size_t)(sv_plan_tiles(s->y.size, SV_PLAN_TILE_Y) + sv_plan_tiles(s->x.size, SV_PLAN_TILE_X));
        s->reach = (int)plan->range_count;
        plan->range_count += pairs;
        for (int k = 0; k < s->readers; k++) {
            s->touch[k] = (int)plan->range_count;
            plan->range_count += pairs;
        }
    }
    plan->ranges = malloc((plan->range_count + 1) * sizeof *plan->ranges);
    SV_CHECK(c, plan->ranges, SV_NO_MEMORY, "chain: no memory for %zu tile ranges", plan->range_count);
    for (int v = 0; v < plan->slots; v++) {
        if (plan->slot[v].joined) continue;
        fill_reach(plan, v);
        for (int k = 0; k < plan->slot[v].readers; k++) fill_touch(plan, v, k);
    }
    return SV_OK;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

float sv_plan_weight(const sv_plan_node *n, int out, int in, int tap, int phase)
{
    const sv_chain_node *o = &n->node;
    const size_t output = (size_t)(n->out_start + out), input = (size_t)(n->in_first + in);
    const size_t cells = (size_t)(o->kernel * o->kernel);
    if (o->kind == SV_CHAIN_DECONV)
        return o->w[(input * (size_t)n->out_total + output) * cells + (size_t)phase];
    return o->w[(output * (size_t)n->in_total + input) * cells + (size_t)tap];
}

sv_status sv_plan_make(sv_ctx *c, sv_chain_plan *plan, const sv_chain_def *def, sv_plan_options how)
{
    sv_chain_scale scales[SV_PLAN_SLOTS][2];
    *plan = (sv_chain_plan){.how = how};
    SV_TRY(take_nodes(c, plan, def));
    if (how.split) sv_plan_split(plan);
    SV_TRY(find_slots(c, plan, scales));
    for (int a = 0; a < 2; a++) find_middle(plan, scales, a);
    find_steps(plan);
    SV_TRY(find_readers(c, plan));
    SV_TRY(make_ranges(c, plan));
    sv_plan_place(plan, def->reuse_input);
    return SV_OK;
}

void sv_plan_free(sv_chain_plan *plan)
{
    free(plan->ranges);
    plan->ranges = NULL;
}
