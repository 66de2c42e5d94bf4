/* SPDX-License-Identifier: Apache-2.0
 *
 * Concatenations of a chain in pieces: a slot that several nodes write and only convolutions read becomes a slot per
 * piece, and each reader a node per piece, which adds to the sums of the piece before (chain_cuda_plan.h).
 */
#include "chain_cuda_plan.h"

typedef struct split {
    sv_chain_plan *plan;
    sv_plan_node from[SV_CHAIN_NODES];
    int count;
    int pieces[SV_PLAN_SLOTS];  /* of a concatenation in pieces; 0: stays */
    int written[SV_PLAN_SLOTS]; /* pieces so far */
    int sums[SV_CHAIN_NODES];   /* per reader: the slot of its sums so far */
} split;

static int pieces_of(const sv_plan_node *n)
{
    return sv_plan_tiles(n->node.out_channels, SV_PLAN_PIECE);
}

/* Pieces that slot v falls into; 0 when it has to stay in one. */
static int find_pieces(const split *s, int v)
{
    int pieces = 0, writers = 0;
    for (int i = 0; i < s->count; i++) {
        const sv_chain_node *n = &s->from[i].node;
        if (n->out == v) pieces += pieces_of(&s->from[i]), writers++;
        if (n->add == v) return 0;
        if (n->in == v && (n->kind != SV_CHAIN_CONV || n->add >= 0 || s->plan->slot[n->out].writers > 1))
            return 0;
    }
    return writers > 1 && s->plan->slot[v].read ? pieces : 0;
}

static int new_slot(split *s, int channels, bool sums)
{
    const int v = s->plan->slots++;
    s->plan->slot[v] = (sv_plan_slot){.channels = channels, .sums = sums};
    return v;
}

/* The share of every reader of concatenation v that its newest piece has. */
static void add_readers(split *s, int v, int piece_slot, int first, int channels)
{
    const bool begins = s->written[v] == 1, ends = s->written[v] == s->pieces[v];
    for (int i = 0; i < s->count; i++) {
        if (s->from[i].node.in != v) continue;
        sv_plan_node *n = &s->plan->node[s->plan->nodes++];
        *n = s->from[i];
        n->node.in = piece_slot;
        n->node.in_channels = channels;
        n->in_first = first;
        if (!begins) {
            n->node.bias = NULL;
            n->node.add = s->sums[i];
        }
        if (ends) continue;
        n->node.relu = false;
        n->node.out = s->sums[i] = new_slot(s, n->node.out_channels, true);
        n->dense = -1;
    }
}

static void add_pieces(split *s, const sv_plan_node *writer)
{
    const int v = writer->node.out, pieces = pieces_of(writer), channels = writer->node.out_channels;
    const int width = sv_plan_round_up(sv_plan_tiles(channels, pieces), SV_PLAN_ALIGN);
    for (int p = 0; p < pieces; p++) {
        const int first = p * width, count = channels - first < width ? channels - first : width;
        sv_plan_node *n = &s->plan->node[s->plan->nodes++];
        *n = *writer;
        n->out_start += first;
        n->dense_first += first;
        n->node.out_channels = count;
        n->node.out_first = 0;
        n->node.out = new_slot(s, count, false);
        s->written[v]++;
        add_readers(s, v, n->node.out, n->dense_first, count);
    }
}

void sv_plan_split(sv_chain_plan *plan)
{
    split s = {.plan = plan, .count = plan->nodes};
    for (int i = 0; i < s.count; i++) s.from[i] = plan->node[i];
    int nodes = plan->nodes, slots = plan->slots;
    for (int v = 1; v < plan->slots; v++) {
        const int pieces = find_pieces(&s, v);
        int readers = 0, writers = 0;
        for (int i = 0; i < s.count; i++) {
            readers += s.from[i].node.in == v;
            writers += s.from[i].node.out == v;
        }
        const int more = (pieces - writers) + readers * (pieces - 1);
        if (pieces == 0 || nodes + more > SV_PLAN_NODES || slots + pieces * (readers + 1) > SV_PLAN_SLOTS)
            continue; /* what does not fit the plan's tables stays in one */
        s.pieces[v] = pieces;
        plan->slot[v].joined = true;
        nodes += more;
        slots += pieces + readers * (pieces - 1);
    }
    plan->nodes = 0;
    for (int i = 0; i < s.count; i++) {
        const sv_plan_node *n = &s.from[i];
        if (s.pieces[n->node.in] > 0) continue; /* came with the pieces */
        if (s.pieces[n->node.out] > 0)
            add_pieces(&s, n);
        else
            plan->node[plan->nodes++] = *n;
    }
}
