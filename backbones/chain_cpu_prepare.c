/* SPDX-License-Identifier: Apache-2.0
 *
 * The plan of a convolution chain: nodes checked, slots measured, nodes with the same input and geometry joined to steps,
 * weights transformed (Winograd) and packed, and the response to an empty map. chain_cpu.c has the whole picture.
 */
#include "backbones/chain_cpu_plan.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <string.h>

SV_SIMD_TABLE(sv_chain_kernels);

/* ---- preparing ---------------------------------------------------------------------------------------- */

/* Slots with their channels and sizes along both axes, from the nodes. */
static sv_status find_slots(sv_ctx *c, sv_chain *chain, const sv_chain_def *def, sv_chain_scale (*scales)[2])
{
    chain->slot[0] =
        (slot){.channels = def->in_channels, .y.size = def->height, .x.size = def->width, .writers = 1};
    scales[0][0] = (sv_chain_scale){1, 1, 0, def->height, true};
    scales[0][1] = (sv_chain_scale){1, 1, 0, def->width, true};
    chain->slots = 1;
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        SV_TRY(sv_chain_check_node(c, def, i));
        SV_TRY(sv_chain_check_input(c, def, i, chain->slot[def->nodes[i].in].channels));
        slot *out = &chain->slot[n->out];
        const sv_chain_map made = map_of(out),
                           added = n->add >= 0 ? map_of(&chain->slot[n->add]) : (sv_chain_map){0};
        SV_TRY(sv_chain_check_size(c, n, i, map_of(&chain->slot[n->in]), out->writers ? &made : NULL,
                                   n->add >= 0 ? &added : NULL, &out->y.size, &out->x.size));
        out->writers++;
        out->channels = max_int(out->channels, n->out_first + n->out_channels);
        chain->slots = max_int(chain->slots, n->out + 1);
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
    for (int v = 0; v < chain->slots; v++)
        SV_CHECK(c, chain->slot[v].writers > 0, SV_BAD_SHAPE, "chain: no node writes slot %d", v);
    return SV_OK;
}

/* Cut out the middle of the map, in units that keep every slot's tiles and strides in step. */
static void find_middle(sv_chain *chain, const sv_chain_scale (*scales)[2], int which)
{
    const sv_chain_middle middle = sv_chain_find_middle(scales, which, chain->slots, CHAIN_TILE, NULL);
    for (int v = 0; v < chain->slots; v++) {
        const sv_chain_scale *s = &scales[v][which];
        axis *a = which == 0 ? &chain->slot[v].y : &chain->slot[v].x;
        a->first = (int)(middle.from * s->up / s->down / CHAIN_TILE);
        a->period = (int)(middle.unit * s->up / s->down / CHAIN_TILE);
        a->removed = (int)(middle.removed * s->up / s->down / CHAIN_TILE);
        a->small = a->size - a->removed * CHAIN_TILE;
        a->low = middle.removed == 0 ? 0 : (int)s->low;
        a->high = middle.removed == 0 ? 0 : (int)s->high - a->removed * CHAIN_TILE;
    }
}

/*
 * Matrix tiles where there are any, unless the weights of a Winograd step are so many that reading them
 * bounds the time: in three bfloat16 parts they are half as many bytes again as in float32.
 */
static const sv_chain_kernels *choose_kernels(const sv_chain *chain, const step *s, int columns)
{
    const bool heavy = s->winograd && chain->matrix.bytes > (int)sizeof(float) &&
                       CHAIN_PATCH * s->k * columns * chain->matrix.bytes > STREAM_BYTES;
    return chain->matrix.product && !heavy ? &chain->matrix : &chain->vector;
}

/* Gather the nodes into steps. */
static void find_steps(sv_chain *chain, const sv_chain_def *def, bool winograd)
{
    bool done[SV_CHAIN_NODES] = {false};
    for (int i = 0; i < def->node_count; i++) {
        if (done[i]) continue;
        const sv_chain_node *n = &def->nodes[i];
        step *s = &chain->step[chain->steps++];
        s->kind = n->kind;
        s->in = n->in;
        s->in_channels = n->in_channels;
        s->kernel = n->kernel;
        s->stride = n->stride;
        s->pad = n->kind == SV_CHAIN_CONV && n->kernel % 2 ? n->kernel / 2 : 0;
        s->k = round_up(n->in_channels, CHAIN_SLAB);
        int columns = 0;
        for (int j = i; j < def->node_count; j++) {
            const sv_chain_node *o = &def->nodes[j];
            const bool alike =
                o->in == n->in && o->kind == n->kind && o->kernel == n->kernel && o->stride == n->stride;
            const bool alone = o->add < 0 && chain->slot[o->out].writers == 1;
            if (j > i && (done[j] || !alike || !alone || n->add >= 0 || chain->slot[n->out].writers != 1))
                continue;
            done[j] = true;
            s->part[s->parts++] = (part){.out = o->out,
                                         .out_first = o->out_first,
                                         .channels = o->out_channels,
                                         .column = columns,
                                         .add = o->add,
                                         .relu = o->relu};
            columns = round_up(columns + o->out_channels, CHAIN_ALIGN);
        }
        s->winograd = winograd && n->kind == SV_CHAIN_CONV && n->kernel == 3 && n->stride == 1 &&
                      n->in_channels >= CHAIN_ALIGN && columns >= CHAIN_ALIGN;
        s->kernels = choose_kernels(chain, s, columns);
        s->n = round_up(columns, s->kernels->columns);
    }
}

/* G g G' of a 3x3 kernel. */
static void winograd_kernel(const float *g, double u[6][6])
{
    const double a = CHAIN_POINT_A, b = CHAIN_POINT_B, fa = 1 / (2 * a * a * (a * a - b * b)),
                 fb = 1 / (2 * b * b * (b * b - a * a));
    const double rows[6][3] = {{1 / (a * a * b * b), 0, 0}, {fa, fa * a, fa * a * a},
                               {fa, -fa * a, fa * a * a},   {fb, fb * b, fb * b * b},
                               {fb, -fb * b, fb * b * b},   {0, 0, 1}};
    double half[6][3];
    for (int i = 0; i < 6; i++)
        for (int x = 0; x < 3; x++)
            half[i][x] =
                rows[i][0] * (double)g[x] + rows[i][1] * (double)g[3 + x] + rows[i][2] * (double)g[6 + x];
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++)
            u[i][j] = half[i][0] * rows[j][0] + half[i][1] * rows[j][1] + half[i][2] * rows[j][2];
}

/* Weights of one step; nodes[q] is the node behind part q. */
static sv_status pack_step(sv_ctx *c, step *s, const sv_chain_node *const *nodes)
{
    const sv_chain_kernels *kernels = s->kernels;
    const size_t k = (size_t)s->k, n = (size_t)s->n, taps = (size_t)taps_of(s), phases = (size_t)phases_of(s);
    const size_t products = s->winograd ? CHAIN_PATCH : phases * taps, bytes = (size_t)kernels->bytes;
    SV_TRY(sv_arena_alloc(c, c->weights, "chain weights", products * k * n * bytes, &s->w));
    SV_TRY(sv_arena_alloc(c, c->weights, "chain bias", n * sizeof(float), (void **)&s->bias));
    memset(s->bias, 0, n * sizeof(float));
    float *plain = NULL; /* [products][k][n] */
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain plain weights", products * k * n * sizeof(float),
                          (void **)&plain));
    memset(plain, 0, products * k * n * sizeof(float));
    for (int q = 0; q < s->parts; q++) {
        const part *p = &s->part[q];
        const float *w = nodes[q]->w;
        if (nodes[q]->bias) memcpy(s->bias + p->column, nodes[q]->bias, sizeof(float) * (size_t)p->channels);
        for (int out = 0; out < p->channels; out++)
            for (int in = 0; in < s->in_channels; in++) {
                float *to = plain + (size_t)in * n + (size_t)(p->column + out);
                if (s->winograd) {
                    double u[6][6];
                    winograd_kernel(w + ((size_t)out * (size_t)s->in_channels + (size_t)in) * 9, u);
                    for (size_t xi = 0; xi < CHAIN_PATCH; xi++) to[xi * k * n] = (float)u[xi / 6][xi % 6];
                } else if (s->kind == SV_CHAIN_CONV) {
                    for (size_t tap = 0; tap < taps; tap++)
                        to[tap * k * n] = w[((size_t)out * (size_t)s->in_channels + (size_t)in) * taps + tap];
                } else {
                    for (size_t phase = 0; phase < phases; phase++)
                        to[phase * k * n] =
                            w[((size_t)in * (size_t)p->channels + (size_t)out) * phases + phase];
                }
            }
    }
    const size_t count = s->winograd ? CHAIN_PATCH : phases, depth = s->winograd ? k : taps * k;
    for (size_t i = 0; i < count; i++)
        kernels->pack((char *)s->w + i * depth * n * bytes, plain + i * depth * n, (int)depth, s->n);
    return SV_OK;
}

sv_status sv_chain_cpu_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def, sv_chain_options options)
{
    SV_CHECK(c, c->weights, SV_INTERNAL, "chain: prepared outside model loading");
    sv_chain *chain = NULL;
    SV_TRY(sv_arena_alloc(c, c->weights, "chain", sizeof *chain, (void **)&chain));
    memset(chain, 0, sizeof *chain);
    chain->vector = *SV_SIMD_PICK(sv_chain_kernels);
    if (options.matrix && !sv_chain_matrix_kernels(&chain->matrix, c->precision == SV_FP32 ? 3 : 2))
        memset(&chain->matrix, 0, sizeof chain->matrix);
    chain->skip = options.skip;
    sv_chain_scale scales[SLOTS][2] = {{{0}}};
    SV_TRY(find_slots(c, chain, def, scales));
    for (int a = 0; a < 2; a++) find_middle(chain, (const sv_chain_scale(*)[2])scales, a);
    find_steps(chain, def, options.winograd);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    for (int i = 0; i < chain->steps; i++) {
        step *s = &chain->step[i];
        const sv_chain_node *nodes[SV_CHAIN_NODES];
        for (int q = 0; q < s->parts; q++)
            for (int j = 0; j < def->node_count; j++)
                if (def->nodes[j].out == s->part[q].out && def->nodes[j].out_first == s->part[q].out_first)
                    nodes[q] = &def->nodes[j];
        SV_TRY(pack_step(c, s, nodes));
        sv_arena_rewind(&c->scratch, mark);
    }
    int widest = 0;
    for (int v = 0; v < chain->slots; v++) {
        slot *s = &chain->slot[v];
        widest = max_int(widest, s->channels);
        const size_t tiles = (size_t)tiles_of(s->y.small) * (size_t)tiles_of(s->x.small);
        if (v > 0)
            SV_TRY(sv_arena_alloc(c, c->weights, "chain empty response",
                                  tiles * CHAIN_CELLS * (size_t)s->channels * sizeof(float),
                                  (void **)&s->empty));
    }
    SV_TRY(
        sv_arena_alloc(c, c->weights, "chain zeros", (size_t)widest * sizeof(float), (void **)&chain->zero));
    memset(chain->zero, 0, (size_t)widest * sizeof(float));
    chain->slot[0].empty = chain->zero;
    SV_TRY(sv_chain_empty_response(c, chain));
    sv_arena_rewind(&c->scratch, mark);
    *out = chain;
    return SV_OK;
}

sv_status sv_cpu_chain_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def)
{
    return sv_chain_cpu_prepare(c, out, def,
                                (sv_chain_options){.winograd = true, .matrix = true, .skip = true});
}
