/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU's plan of a convolution chain, carried out here with plain loops in the very places it gives the maps, against
 * the definition in double precision: what is overwritten too early shows. Every map is asked for, joined ones too.
 */
#include "backbones/chain_cuda_plan.h"
#include "oracle_conv.h"
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *get(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* ---- networks ------------------------------------------------------------------------------------------ */

typedef struct net {
    sv_chain_def def;
    test_rng rng;
    int channels[SV_CHAIN_NODES + 1], next;
} net;

static int node(net *m, sv_chain_kind kind, int in, int out, int kernel, int stride, int channels, int first,
                int add, bool relu)
{
    sv_chain_node *n = &m->def.nodes[m->def.node_count++];
    ck_assert_int_le(m->def.node_count, SV_CHAIN_NODES);
    *n = (sv_chain_node){.kind = kind,
                         .in = in,
                         .out = out,
                         .kernel = kernel,
                         .stride = stride,
                         .in_channels = m->channels[in],
                         .out_channels = channels,
                         .out_first = first,
                         .add = add,
                         .relu = relu};
    const int taps = kind == SV_CHAIN_CONV ? kernel * kernel : 1;
    const size_t count = (size_t)(m->channels[in] * channels * kernel * kernel);
    float *w = get(count * sizeof *w), *bias = get((size_t)channels * sizeof *bias);
    rng_fill(&m->rng, w, count, sqrt(2.0 / (taps * m->channels[in])));
    rng_fill(&m->rng, bias, (size_t)channels, 0.3);
    n->w = w;
    n->bias = m->def.node_count % 5 ? bias : NULL;
    if (!n->bias) free(bias);
    if (first + channels > m->channels[out]) m->channels[out] = first + channels;
    return out;
}
static int conv(net *m, int in, int kernel, int stride, int channels, int add, bool relu)
{
    return node(m, SV_CHAIN_CONV, in, m->next++, kernel, stride, channels, 0, add, relu);
}

static void net_free(net *m)
{
    for (int i = 0; i < m->def.node_count; i++) {
        free((void *)(uintptr_t)m->def.nodes[i].w);
        free((void *)(uintptr_t)m->def.nodes[i].bias);
    }
}

static net net_of(int channels, int height, int width, uint64_t seed)
{
    net m = {.def = {.in_channels = channels, .height = height, .width = width}, .rng = {seed}, .next = 1};
    m.channels[0] = channels;
    return m;
}

/* Two plain levels, joined pieces of different widths, three maps that add up over the pieces. */
static net plain_net(uint64_t seed)
{
    net m = net_of(16, 12, 20, seed);
    int v = 0;
    for (int i = 0; i < 3; i++) v = conv(&m, v, 3, 1, 16, -1, true);
    const int low = v;
    v = conv(&m, v, 3, 2, 24, -1, true);
    v = conv(&m, v, 3, 1, 24, -1, true);
    const int joined = m.next++;
    node(&m, SV_CHAIN_DECONV, low, joined, 1, 1, 264, 0, -1, true); /* two pieces */
    node(&m, SV_CHAIN_DECONV, v, joined, 2, 2, 17, 264, -1, true);
    const int maps[3] = {6, 14, 4};
    for (int i = 0; i < 3; i++) conv(&m, joined, 1, 1, maps[i], -1, i == 1);
    return m;
}

/* Residual blocks, joined at half the size, a shared map and branches from it. */
static net residual_net(uint64_t seed)
{
    static const int stride[3] = {1, 2, 2}, channels[3] = {8, 16, 16};
    net m = net_of(8, 16, 24, seed);
    int v = 0, level[3];
    for (int i = 0; i < 3; i++) {
        const int side = conv(&m, v, 1, stride[i], channels[i], -1, false);
        int a = conv(&m, v, 3, stride[i], channels[i], -1, true);
        v = conv(&m, a, 3, 1, channels[i], side, true);
        a = conv(&m, v, 3, 1, channels[i], -1, true);
        v = conv(&m, a, 3, 1, channels[i], v, true);
        level[i] = v;
    }
    const int joined = m.next++;
    node(&m, SV_CHAIN_CONV, level[0], joined, 2, 2, 16, 0, -1, true);
    node(&m, SV_CHAIN_DECONV, level[1], joined, 1, 1, 9, 16, -1, true);
    node(&m, SV_CHAIN_DECONV, level[2], joined, 2, 2, 16, 25, -1, true);
    const int shared = conv(&m, joined, 3, 1, 24, -1, true);
    for (int i = 0; i < 6; i++) conv(&m, conv(&m, shared, 3, 1, 24, -1, true), 3, 1, 1 + i, -1, false);
    return m;
}

/* A concatenation that something adds has to stay in one piece, and so has one that is read transposed. */
static net whole_net(uint64_t seed)
{
    net m = net_of(5, 9, 11, seed);
    const int a = conv(&m, 0, 3, 1, 7, -1, true), joined = m.next++;
    node(&m, SV_CHAIN_CONV, 0, joined, 1, 1, 3, 0, -1, true);
    node(&m, SV_CHAIN_CONV, a, joined, 3, 1, 6, 3, -1, false);
    const int b = conv(&m, a, 3, 1, 9, joined, true), c = conv(&m, b, 5, 1, 9, joined, true), d = m.next++;
    node(&m, SV_CHAIN_CONV, c, d, 1, 1, 4, 0, -1, true);
    node(&m, SV_CHAIN_CONV, b, d, 3, 1, 4, 4, -1, true);
    node(&m, SV_CHAIN_DECONV, d, m.next++, 2, 2, 5, 0, -1, true);
    return m;
}

/* ---- the plan by plain loops --------------------------------------------------------------------------- */

typedef struct maps {
    const sv_chain_plan *plan;
    char *region[2];
    float **dense; /* by the definition's slots: [cells][channels] */
} maps;

static char *cell_of(const maps *m, int v, int cell)
{
    const sv_plan_slot *s = &m->plan->slot[v];
    return m->region[s->region] + s->offset + (size_t)cell * s->cell_bytes;
}
/* A number of a map: float32, or its upper half where a plane is 16 bits wide. */
static float read_number(const maps *m, int v, int cell, int channel)
{
    const bool whole = m->plan->slot[v].sums || m->plan->how.planes == 2;
    uint32_t bits = 0;
    const char *from = cell_of(m, v, cell) + (size_t)channel * (whole ? 4 : 2);
    memcpy((char *)&bits + (whole ? 0 : 2), from, whole ? 4 : 2);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static void write_number(const maps *m, int v, int cell, int channel, float value)
{
    const bool whole = m->plan->slot[v].sums || m->plan->how.planes == 2;
    memcpy(cell_of(m, v, cell) + (size_t)channel * (whole ? 4 : 2), (char *)&value + (whole ? 0 : 2),
           whole ? 4 : 2);
}

static double product(const maps *m, const sv_plan_step *s, const sv_plan_node *n, int y, int x, int channel)
{
    const sv_plan_slot *in = &m->plan->slot[s->in];
    double sum = n->node.bias ? (double)n->node.bias[n->out_start + channel] : 0;
    const bool up = s->kind == SV_CHAIN_DECONV;
    for (int tap = 0; tap < s->taps; tap++) {
        const int row = up ? y / s->stride : y * s->stride - s->pad + tap / s->kernel,
                  column = up ? x / s->stride : x * s->stride - s->pad + tap % s->kernel,
                  phase = up ? y % s->stride * s->stride + x % s->stride : 0;
        if (row < 0 || row >= in->y.size || column < 0 || column >= in->x.size) continue;
        for (int k = 0; k < n->node.in_channels; k++)
            sum += (double)sv_plan_weight(n, channel, k, tap, phase) *
                   (double)read_number(m, s->in, row * in->x.size + column, k);
    }
    return sum;
}

static void carry_out(const maps *m, const sv_plan_step *s, const sv_plan_part *p, int cell)
{
    const sv_plan_slot *out = &m->plan->slot[p->out];
    const int y = cell / out->x.size, x = cell % out->x.size;
    for (int first = 0; first < p->channels; first += 8) { /* a thread reads eight and then writes them */
        float value[8];
        const int last = first + 8 < p->channels ? first + 8 : p->channels;
        for (int k = first; k < last; k++) {
            double sum = product(m, s, &m->plan->node[p->node], y, x, k);
            if (p->add >= 0) sum += (double)read_number(m, p->add, cell, k);
            value[k - first] = (float)(p->relu && sum < 0 ? 0 : sum);
        }
        for (int k = first; k < last; k++) {
            if (out->read) write_number(m, p->out, cell, p->out_first + k, value[k - first]);
            if (p->dense < 0) continue;
            const int wide = m->plan->slot[p->dense].channels;
            m->dense[p->dense][(size_t)cell * (size_t)wide + (size_t)(p->dense_first + k)] = value[k - first];
        }
    }
}

static void run_plan(const maps *m, const float *in, int cells, int channels)
{
    for (int cell = 0; cell < cells; cell++)
        for (int k = 0; k < channels; k++)
            write_number(m, 0, cell, k, in[(size_t)cell * (size_t)channels + (size_t)k]);
    for (int i = 0; i < m->plan->steps; i++) {
        const sv_plan_step *s = &m->plan->step[i];
        for (int q = 0; q < s->parts; q++) {
            const sv_plan_slot *out = &m->plan->slot[s->part[q].out];
            for (int cell = 0; cell < out->y.size * out->x.size; cell++) carry_out(m, s, &s->part[q], cell);
        }
    }
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static size_t everything(const sv_chain_plan *plan)
{
    size_t bytes = 0;
    for (int v = 0; v < plan->slots; v++)
        if (plan->slot[v].read && !plan->slot[v].joined)
            bytes += (size_t)plan->slot[v].y.size * (size_t)plan->slot[v].x.size * plan->slot[v].cell_bytes;
    return bytes;
}

/* Returns the bytes of a run's own memory. */
static size_t check_plan(net *m, sv_plan_options how, bool reuse_input)
{
    sv_ctx *c = test_context(1);
    sv_chain_plan *plan = get(sizeof *plan);
    m->def.reuse_input = reuse_input;
    assert_ok(c, sv_plan_make(c, plan, &m->def, how));
    const int cells = m->def.height * m->def.width, channels = m->def.in_channels;
    float *in = get((size_t)(cells * channels) * sizeof *in);
    rng_fill(&m->rng, in, (size_t)(cells * channels), 1.0);
    oracle_map want[SV_CHAIN_NODES + 1];
    const int slots = oracle_chain(&m->def, 1, in, want);

    maps got = {.plan = plan, .dense = get((size_t)slots * sizeof(float *))};
    const size_t given = (size_t)(cells * channels) * sizeof(float);
    got.region[SV_PLAN_SCRATCH] = get(plan->scratch_bytes);
    got.region[SV_PLAN_INPUT] = get(given);
    ck_assert_uint_le(plan->input_bytes, reuse_input ? given : 0);
    memset(got.region[SV_PLAN_SCRATCH], 0xff, plan->scratch_bytes);
    for (int i = 0; i < plan->steps;
         i++) { /* tiles of the output channels: enough of them, and none too wide */
        const sv_plan_step *s = &plan->step[i];
        ck_assert_int_ge(s->tile * s->n_tiles, s->columns);
        ck_assert_int_lt(s->tile * (s->n_tiles - 1), s->columns);
        ck_assert_int_le(s->tile, how.columns);
        ck_assert(how.narrow > 0 ? s->tile == how.narrow || s->tile < 2 * s->columns
                                 : s->tile == how.columns);
    }
    for (int v = 0; v < plan->slots; v++) {
        const sv_plan_slot *s = &plan->slot[v];
        const size_t room = s->region == SV_PLAN_INPUT ? plan->input_bytes : plan->scratch_bytes;
        if (s->read && !s->joined)
            ck_assert_uint_le(s->offset + (size_t)s->y.size * (size_t)s->x.size * s->cell_bytes, room);
    }
    for (int v = 1; v < slots; v++) {
        const size_t count = (size_t)(want[v].height * want[v].width * want[v].channels);
        got.dense[v] = get(count * sizeof(float));
        memset(got.dense[v], 0xff, count * sizeof(float));
    }
    run_plan(&got, in, cells, channels);
    for (int v = 1; v < slots; v++) {
        const size_t count = (size_t)(want[v].height * want[v].width * want[v].channels);
        double most = 0, error = 0;
        for (size_t i = 0; i < count; i++) {
            most = fmax(most, fabs(want[v].values[i]));
            ck_assert_msg(isfinite((double)got.dense[v][i]), "slot %d, number %zu was not written", v, i);
            error = fmax(error, fabs((double)got.dense[v][i] - want[v].values[i]));
        }
        ck_assert_msg(error <= most * (how.planes == 2 ? 1e-5 : 0.1), "slot %d: error %g of %g", v, error,
                      most);
        free(got.dense[v]);
    }
    const size_t scratch = plan->scratch_bytes;
    ck_assert_uint_le(scratch, everything(plan) + (size_t)plan->slots * 1024);
    oracle_chain_free(want, slots);
    for (int r = 0; r < 2; r++) free(got.region[r]);
    free((void *)got.dense);
    free(in);
    sv_plan_free(plan);
    free(plan);
    sv_ctx_close(c);
    return scratch;
}

START_TEST(every_map_is_right_where_it_lies)
{
    net nets[3] = {plain_net(1), residual_net(2), whole_net(3)};
    for (int k = 0; k < 3; k++) {
        for (int how = 0; how < 16; how++) {
            const sv_plan_options options = {.planes = 1 + how % 2,
                                             .columns = how / 2 % 2 ? 128 : 64,
                                             .slab = 64,
                                             .split = how / 4 % 2 == 1,
                                             .narrow = how / 8 * 32};
            check_plan(&nets[k], options, how / 8 == 1);
        }
        net_free(&nets[k]);
    }
}
END_TEST

START_TEST(pieces_and_the_input_save_memory)
{
    net nets[2] = {plain_net(1), residual_net(2)};
    for (int k = 0; k < 2; k++) {
        sv_plan_options options = {.planes = 2, .columns = 128, .slab = 64};
        const size_t whole = check_plan(&nets[k], options, false);
        options.split = true;
        const size_t split = check_plan(&nets[k], options, false), both = check_plan(&nets[k], options, true);
        ck_assert_uint_le(split, whole);
        ck_assert_uint_lt(both, whole);
        net_free(&nets[k]);
    }
}
END_TEST

START_TEST(concatenations_that_must_stay_do)
{
    sv_ctx *c = test_context(1);
    sv_chain_plan *plan = get(sizeof *plan);
    net m = whole_net(7);
    assert_ok(c, sv_plan_make(c, plan, &m.def, (sv_plan_options){2, 128, 64, true, 32}));
    for (int v = 0; v < plan->slots; v++) ck_assert(!plan->slot[v].joined);
    sv_plan_free(plan);
    net_free(&m);
    m = plain_net(7);
    assert_ok(c, sv_plan_make(c, plan, &m.def, (sv_plan_options){2, 128, 64, true, 32}));
    int joined = 0, sums = 0;
    for (int v = 0; v < plan->slots; v++) joined += plan->slot[v].joined, sums += plan->slot[v].sums;
    ck_assert_int_eq(joined, 1);
    ck_assert_int_eq(sums, 3 * 2); /* three readers of three pieces */
    sv_plan_free(plan);
    m.def.nodes[2].in = m.def.nodes[2].out;
    assert_fails(c, sv_plan_make(c, plan, &m.def, (sv_plan_options){2, 128, 64, true, 32}), SV_BAD_SHAPE,
                 "slots");
    sv_plan_free(plan);
    net_free(&m);
    free(plan);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("chain plan");
    TCase *tests = tcase_create("chain plan");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, every_map_is_right_where_it_lies);
    tcase_add_test(tests, pieces_and_the_input_save_memory);
    tcase_add_test(tests, concatenations_that_must_stay_do);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
