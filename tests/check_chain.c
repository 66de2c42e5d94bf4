/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU's convolution chain against the definition in double precision, and against itself: skipped or not,
 * for any number of threads, place in the batch and way to say which cells are occupied.
 */
#include "backbones/chain_cpu.h"
#include "oracle_conv.h"
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const sv_chain_options everything = {.winograd = true, .matrix = true, .skip = true};
static sv_precision precision = SV_FP32;

static void *get(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    ck_assert_ptr_nonnull(p);
    return p;
}

typedef struct net {
    sv_chain_def def;
    test_rng rng;
    int channels[SV_CHAIN_NODES + 1];
} net;

/* Append a node with random weights that keep values near 1; returns its slot. */
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
    const size_t count = (size_t)m->channels[in] * (size_t)channels * (size_t)kernel * (size_t)kernel;
    float *w = get(count * sizeof *w), *bias = get((size_t)channels * sizeof *bias);
    rng_fill(&m->rng, w, count, sqrt(2.0 / (taps * m->channels[in])));
    rng_fill(&m->rng, bias, (size_t)channels, 0.3);
    n->w = w;
    n->bias = bias;
    if (first + channels > m->channels[out]) m->channels[out] = first + channels;
    return out;
}

static net net_of(int channels, int height, int width, uint64_t seed)
{
    net m = {.def = {.in_channels = channels, .height = height, .width = width}, .rng = {seed}};
    m.channels[0] = channels;
    return m;
}

static void net_free(net *m)
{
    for (int i = 0; i < m->def.node_count; i++) {
        free((void *)(uintptr_t)m->def.nodes[i].w);
        free((void *)(uintptr_t)m->def.nodes[i].bias);
    }
}

/* BaseBEVBackbone and anchor head in small. */
static net kitti_like(int height, int width, uint64_t seed)
{
    net m = net_of(32, height, width, seed);
    int v = 0, next = 1;
    for (int i = 0; i < 3; i++) v = node(&m, SV_CHAIN_CONV, v, next++, 3, 1, 32, 0, -1, true);
    const int low = v;
    v = node(&m, SV_CHAIN_CONV, v, next++, 3, 2, 48, 0, -1, true);
    for (int i = 0; i < 2; i++) v = node(&m, SV_CHAIN_CONV, v, next++, 3, 1, 48, 0, -1, true);
    const int joined = next++;
    node(&m, SV_CHAIN_DECONV, low, joined, 1, 1, 24, 0, -1, true);
    node(&m, SV_CHAIN_DECONV, v, joined, 2, 2, 40, 24, -1, true);
    node(&m, SV_CHAIN_CONV, joined, next++, 1, 1, 18, 0, -1, false);
    node(&m, SV_CHAIN_CONV, joined, next++, 1, 1, 42, 0, -1, false);
    node(&m, SV_CHAIN_CONV, joined, next++, 1, 1, 12, 0, -1, false);
    return m;
}

/* BaseBEVResBackbone with an upsampling of 0.5, 1 and 2, and a head of 3x3 branches, in small. */
static net residual_like(int height, int width, uint64_t seed)
{
    net m = net_of(20, height, width, seed);
    static const int stride[3] = {1, 2, 2}, channels[3] = {20, 24, 40};
    int v = 0, next = 1, level[3];
    for (int i = 0; i < 3; i++) {
        const int side = node(&m, SV_CHAIN_CONV, v, next++, 1, stride[i], channels[i], 0, -1, false);
        int a = node(&m, SV_CHAIN_CONV, v, next++, 3, stride[i], channels[i], 0, -1, true);
        v = node(&m, SV_CHAIN_CONV, a, next++, 3, 1, channels[i], 0, side, true);
        a = node(&m, SV_CHAIN_CONV, v, next++, 3, 1, channels[i], 0, -1, true);
        v = node(&m, SV_CHAIN_CONV, a, next++, 3, 1, channels[i], 0, v, true);
        level[i] = v;
    }
    const int joined = next++;
    node(&m, SV_CHAIN_CONV, level[0], joined, 2, 2, 16, 0, -1, true);
    node(&m, SV_CHAIN_DECONV, level[1], joined, 1, 1, 17, 16, -1, true);
    node(&m, SV_CHAIN_DECONV, level[2], joined, 2, 2, 16, 33, -1, true);
    const int shared = node(&m, SV_CHAIN_CONV, joined, next++, 3, 1, 24, 0, -1, true);
    for (int i = 0; i < 3; i++) {
        const int a = node(&m, SV_CHAIN_CONV, shared, next++, 3, 1, 24, 0, -1, true);
        node(&m, SV_CHAIN_CONV, a, next++, 3, 1, 1 + i, 0, -1, false);
    }
    return m;
}

/* Any kinds, sizes and joins. */
static net random_net(uint64_t seed)
{
    test_rng rng = {seed};
    net m = net_of(1 + (int)(rng_u64(&rng) % 40), 8 + (int)(rng_u64(&rng) % 30),
                   8 + (int)(rng_u64(&rng) % 30), seed + 99);
    int size[SV_CHAIN_NODES + 1][2] = {{m.def.height, m.def.width}}, slots = 1;
    for (int i = 0; i < 10; i++) {
        const int in = (int)(rng_u64(&rng) % (uint64_t)slots), channels = 1 + (int)(rng_u64(&rng) % 36);
        const bool up = rng_u64(&rng) % 4 == 0, relu = rng_u64(&rng) % 2;
        const int kernel = up ? 1 + (int)(rng_u64(&rng) % 4) : 1 + (int)(rng_u64(&rng) % 7);
        const int stride = up ? kernel : 1 + (int)(rng_u64(&rng) % (rng_u64(&rng) % 2 ? 4 : 1));
        const int pad = kernel % 2 ? kernel / 2 : 0;
        int out[2];
        for (int a = 0; a < 2; a++)
            out[a] = up ? size[in][a] * stride : (size[in][a] + 2 * pad - kernel) / stride + 1;
        if (out[0] < 2 || out[1] < 2 || out[0] > 40 || out[1] > 40) continue;
        int add = -1;
        for (int v = 0; v < slots; v++)
            if (size[v][0] == out[0] && size[v][1] == out[1] && m.channels[v] == channels) add = v;
        const int v = slots++;
        memcpy(size[v], out, sizeof out);
        node(&m, up ? SV_CHAIN_DECONV : SV_CHAIN_CONV, in, v, kernel, stride, channels, 0, add, relu);
        if (rng_u64(&rng) % 2) continue;
        /* a second part of the same slot, and a residual node on it */
        node(&m, SV_CHAIN_CONV, in, v, kernel == stride && kernel % 2 == 0 ? kernel : 1, 1, 3, channels, -1,
             relu);
        sv_chain_node *last = &m.def.nodes[m.def.node_count - 1];
        last->kernel = 1;
        last->stride = 1;
        if (out[0] != size[in][0] || out[1] != size[in][1]) {
            free((void *)(uintptr_t)last->w);
            free((void *)(uintptr_t)last->bias);
            m.def.node_count--;
            m.channels[v] = channels;
        }
        const int w = slots++;
        memcpy(size[w], out, sizeof out);
        node(&m, SV_CHAIN_CONV, v, w, 3, 1, m.channels[v], 0, v, relu);
    }
    if (m.def.node_count == 0) node(&m, SV_CHAIN_CONV, 0, 1, 3, 1, 20, 0, -1, true);
    return m;
}

/* A map where blobs of cells hold something. */
static float *sparse_input(const net *m, int batch, uint64_t seed, double share, int32_t *coords,
                           int32_t *offsets)
{
    const int h = m->def.height, w = m->def.width, channels = m->def.in_channels;
    float *in = get((size_t)batch * (size_t)h * (size_t)w * (size_t)channels * sizeof *in);
    test_rng rng = {seed};
    int rows = 0;
    offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                if (rng_uniform(&rng, 0, 1) >= share) continue;
                int32_t *at = coords + 4 * (size_t)rows++;
                at[0] = b, at[1] = 0, at[2] = y, at[3] = x;
                rng_fill(&rng,
                         in +
                             (((size_t)b * (size_t)h + (size_t)y) * (size_t)w + (size_t)x) * (size_t)channels,
                         (size_t)channels, 1);
            }
        offsets[b + 1] = rows;
    }
    return in;
}

typedef struct result {
    int slots;
    float *values[SV_CHAIN_NODES + 1];
    size_t count[SV_CHAIN_NODES + 1];
} result;

/* Run and return the slots of 'wanted' (NULL: all). */
static result run_chain(const net *m, const oracle_map *maps, int slots, const bool *wanted,
                        sv_chain_options options, int threads, int batch, float *in, const int32_t *coords,
                        const int32_t *offsets)
{
    sv_ctx *c = test_context(threads);
    c->precision = precision;
    sv_arena weights;
    sv_arena_init(&weights, "weights", c->device);
    c->weights = &weights;
    sv_chain *chain = NULL;
    assert_ok(c, sv_chain_cpu_prepare(c, &chain, &m->def, options));
    c->weights = NULL;
    result r = {.slots = slots};
    sv_chain_output outputs[SV_CHAIN_NODES];
    int count = 0;
    for (int v = 1; v < slots; v++) {
        if (wanted && !wanted[v]) continue;
        const int rows = batch * maps[v].height * maps[v].width;
        r.count[v] = (size_t)rows * (size_t)maps[v].channels;
        r.values[v] = get(r.count[v] * sizeof(float));
        memset(r.values[v], 0xff, r.count[v] * sizeof(float));
        outputs[count++] = (sv_chain_output){v, sv_view(r.values[v], SV_F32, rows, maps[v].channels)};
    }
    sv_tensor list = SV_NONE;
    if (coords) {
        list = sv_view((void *)(uintptr_t)coords, SV_I32, offsets[batch], 4);
        list.offsets = offsets;
        list.batch = (int16_t)batch;
    }
    const sv_tensor map = sv_view(in, SV_F32, batch * m->def.height * m->def.width, m->def.in_channels);
    for (int round = 0; round < 2; round++)
        assert_ok(c, sv_chain_run(c, chain, batch, map, list, outputs, count));
    ck_assert_uint_eq(c->scratch.used, 0);
    sv_arena_free(&weights);
    sv_ctx_close(c);
    return r;
}

static void result_free(result *r)
{
    for (int v = 0; v < r->slots; v++) free(r->values[v]);
}

static void assert_near(const char *what, const result *r, const oracle_map *maps, double tolerance)
{
    for (int v = 1; v < r->slots; v++) {
        double greatest = 0, worst = 0;
        for (size_t i = 0; i < r->count[v]; i++) {
            const double error = fabs((double)r->values[v][i] - maps[v].values[i]);
            greatest = fmax(greatest, fabs(maps[v].values[i]));
            if (!(error <= worst)) worst = error;
        }
        ck_assert_msg(worst <= tolerance * fmax(greatest, 1), "%s: slot %d [%dx%dx%d] is off by %g of %g",
                      what, v, maps[v].height, maps[v].width, maps[v].channels, worst, greatest);
    }
}

static void assert_same(const char *what, const result *a, const result *b)
{
    for (int v = 1; v < a->slots; v++) {
        if (!a->values[v] || !b->values[v]) continue;
        for (size_t i = 0; i < a->count[v]; i++)
            if (memcmp(&a->values[v][i], &b->values[v][i], 4) != 0)
                ck_abort_msg("%s: slot %d differs at %zu: %.9g and %.9g", what, v, i, (double)a->values[v][i],
                             (double)b->values[v][i]);
    }
}

/* Everything that has to hold for one network and one input. */
static void check_net(net *m, int batch, double share, uint64_t seed)
{
    const size_t cells = (size_t)batch * (size_t)m->def.height * (size_t)m->def.width;
    int32_t *coords = get(cells * 16), *offsets = get(((size_t)batch + 1) * 4);
    float *in = sparse_input(m, batch, seed, share, coords, offsets);
    oracle_map maps[SV_CHAIN_NODES + 1];
    const int slots = oracle_chain(&m->def, batch, in, maps);

    result all = run_chain(m, maps, slots, NULL, everything, 1, batch, in, coords, offsets);
    assert_near("all fast paths", &all, maps, precision == SV_FP32 ? 2e-5 : 2e-4);
    sv_chain_options plain = {.winograd = false, .matrix = false, .skip = false};
    result direct = run_chain(m, maps, slots, NULL, plain, 1, batch, in, coords, offsets);
    assert_near("direct", &direct, maps, 2e-6);
    result_free(&direct);
    plain.winograd = true;
    result winograd = run_chain(m, maps, slots, NULL, plain, 1, batch, in, coords, offsets);
    assert_near("Winograd", &winograd, maps, 2e-5);
    result_free(&winograd);

    sv_chain_options full = everything;
    full.skip = false;
    result computed = run_chain(m, maps, slots, NULL, full, 1, batch, in, coords, offsets);
    assert_same("skipped and computed", &all, &computed);
    result_free(&computed);
    result threads = run_chain(m, maps, slots, NULL, everything, 3, batch, in, coords, offsets);
    assert_same("1 and 3 threads", &all, &threads);
    result_free(&threads);
    result scanned = run_chain(m, maps, slots, NULL, everything, 2, batch, in, NULL, NULL);
    assert_same("coords and scan", &all, &scanned);
    result_free(&scanned);
    /* only what nothing reads: the other slots are placed, reused or never stored */
    bool wanted[SV_CHAIN_NODES + 1];
    for (int v = 0; v < slots; v++) wanted[v] = true;
    for (int i = 0; i < m->def.node_count; i++) {
        wanted[m->def.nodes[i].in] = false;
        if (m->def.nodes[i].add >= 0) wanted[m->def.nodes[i].add] = false;
    }
    result ends = run_chain(m, maps, slots, wanted, everything, 2, batch, in, coords, offsets);
    assert_same("all slots and the last ones", &all, &ends);
    result_free(&ends);
    /* the last sample alone */
    const size_t skip =
        (size_t)(batch - 1) * (size_t)m->def.height * (size_t)m->def.width * (size_t)m->def.in_channels;
    result alone = run_chain(m, maps, slots, NULL, everything, 2, 1, in + skip, NULL, NULL);
    result tail = all;
    for (int v = 1; v < slots; v++) {
        tail.count[v] /= (size_t)batch;
        tail.values[v] += tail.count[v] * (size_t)(batch - 1);
    }
    assert_same("in a batch and alone", &tail, &alone);
    result_free(&alone);
    result_free(&all);
    oracle_chain_free(maps, slots);
    free(coords);
    free(offsets);
    free(in);
}

static const char *const isa_names[3] = {"scalar", "avx2", "avx512"};

START_TEST(kitti_shape)
{
    setenv("SAVANNA_ISA", _i == 3 ? "" : isa_names[_i], 1);
    net m = kitti_like(48, 38, 5);
    check_net(&m, 2, 0.004, 6);
    net_free(&m);
}
END_TEST

START_TEST(kitti_shape_at_lower_precision)
{
    precision = SV_TF32;
    net m = kitti_like(36, 38, 25);
    check_net(&m, 1, 0.01, 26);
    net_free(&m);
}
END_TEST

START_TEST(residual_shape)
{
    setenv("SAVANNA_ISA", _i == 3 ? "" : isa_names[_i], 1);
    net m = residual_like(32, 28, 7);
    check_net(&m, 1, 0.01, 8);
    net_free(&m);
}
END_TEST

START_TEST(random_shapes)
{
    net m = random_net(1000 + (uint64_t)_i);
    check_net(&m, 1 + _i % 2, _i % 5 == 0 ? 0.0 : _i % 5 == 1 ? 1.0 : 0.02, 2000 + (uint64_t)_i);
    net_free(&m);
}
END_TEST

/* The response to an empty map comes from a smaller map: long maps, where its middle is cut out, with
 * every period. */
START_TEST(long_maps)
{
    net m = net_of(16, 120 + _i, 11, 11);
    int v = node(&m, SV_CHAIN_CONV, 0, 1, 3, 1, 16, 0, -1, true);
    v = node(&m, SV_CHAIN_CONV, v, 2, 3, 1 + _i % 3, 16, 0, -1, true);
    v = node(&m, SV_CHAIN_CONV, v, 3, 5, 1, 16, 0, -1, true);
    v = node(&m, SV_CHAIN_DECONV, v, 4, 2 + _i % 3, 2 + _i % 3, 5, 0, -1, true);
    node(&m, SV_CHAIN_CONV, v, 5, 3, 1, 16, 0, -1, true);
    check_net(&m, 1, 0.0005, 12);
    net_free(&m);
}
END_TEST

START_TEST(wrong_chains_are_refused)
{
    sv_ctx *c = test_context(1);
    sv_arena weights;
    sv_arena_init(&weights, "weights", c->device);
    c->weights = &weights;
    sv_chain *chain = NULL;
    net m = net_of(4, 9, 9, 1);
    node(&m, SV_CHAIN_CONV, 0, 1, 3, 1, 8, 0, -1, true);
    node(&m, SV_CHAIN_CONV, 1, 2, 3, 2, 8, 0, -1, true);
    sv_chain_node *last = &m.def.nodes[1];
    last->in_channels = 7;
    assert_fails(c, sv_chain_prepare(c, &chain, &m.def), SV_BAD_SHAPE, "reads 7 channels, slot 1 has 8");
    last->in_channels = 8;
    last->add = 1;
    assert_fails(c, sv_chain_prepare(c, &chain, &m.def), SV_BAD_SHAPE, "adds slot 1");
    last->add = -1;
    last->kernel = 8;
    assert_fails(c, sv_chain_prepare(c, &chain, &m.def), SV_UNSUPPORTED, "kernel of 8");
    last->kernel = 3;
    last->out = 3;
    assert_fails(c, sv_chain_prepare(c, &chain, &m.def), SV_BAD_SHAPE, "no node writes slot 2");
    last->out = 1;
    assert_fails(c, sv_chain_prepare(c, &chain, &m.def), SV_BAD_SHAPE, "slots");
    last->out = 2;
    assert_ok(c, sv_chain_prepare(c, &chain, &m.def));
    float in[81 * 4] = {0}, out[81 * 8];
    const sv_tensor map = sv_view(in, SV_F32, 81, 4);
    sv_chain_output output = {2, sv_view(out, SV_F32, 81, 8)};
    assert_fails(c, sv_chain_run(c, chain, 1, map, SV_NONE, &output, 1), SV_BAD_SHAPE, "output 0");
    output.map.dim[0] = 25;
    assert_fails(c, sv_chain_run(c, chain, 2, map, SV_NONE, &output, 1), SV_BAD_SHAPE, "input");
    int32_t coords[4] = {0, 0, 9, 0}, offsets[2] = {0, 1};
    sv_tensor list = sv_view(coords, SV_I32, 1, 4);
    list.offsets = offsets;
    list.batch = 1;
    assert_fails(c, sv_chain_run(c, chain, 1, map, list, &output, 1), SV_BAD_INPUT, "y 9");
    coords[2] = 8;
    assert_ok(c, sv_chain_run(c, chain, 1, map, list, &output, 1));
    net_free(&m);
    sv_arena_free(&weights);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("chain");
    TCase *tests = tcase_create("chain");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, kitti_shape, 0, 4);
    tcase_add_test(tests, kitti_shape_at_lower_precision);
    tcase_add_loop_test(tests, residual_shape, 0, 4);
    tcase_add_loop_test(tests, random_shapes, 0, 14);
    tcase_add_loop_test(tests, long_maps, 0, 6);
    tcase_add_test(tests, wrong_chains_are_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
