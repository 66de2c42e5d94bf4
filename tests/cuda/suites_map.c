/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of what follows the bird's-eye-view map: convolution chains, anchor decoding, suppression. Those of
 * center-based heads are in suites_centers.c.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- convolution chains -------------------------------------------------------------------------------- */

typedef struct net {
    sv_chain_def def;
    int channels[SV_CHAIN_NODES + 1], size[SV_CHAIN_NODES + 1][2], slots;
    sv_chain_output outputs[4];
    int output_count;
} net;

static float *random_weights(size_t count, float deviation)
{
    float *w = malloc(count * sizeof *w);
    if (!w) abort();
    for (size_t i = 0; i < count; i++) w[i] = deviation * normal();
    return w;
}

static int node(net *m, sv_chain_kind kind, int in, int out, int kernel, int stride, int channels, int first,
                int add, bool relu)
{
    const int taps = kind == SV_CHAIN_CONV ? kernel * kernel : 1, pad = kernel % 2 ? kernel / 2 : 0;
    const size_t count = (size_t)m->channels[in] * (size_t)channels * (size_t)(kernel * kernel);
    m->def.nodes[m->def.node_count++] =
        (sv_chain_node){.kind = kind,
                        .in = in,
                        .out = out,
                        .kernel = kernel,
                        .stride = stride,
                        .in_channels = m->channels[in],
                        .out_channels = channels,
                        .out_first = first,
                        .add = add,
                        .relu = relu,
                        .w = random_weights(count, sqrtf(2.0f / (float)(taps * m->channels[in]))),
                        .bias = random_weights((size_t)channels, 0.3f)};
    if (first + channels > m->channels[out]) m->channels[out] = first + channels;
    for (int a = 0; a < 2; a++)
        m->size[out][a] = kind == SV_CHAIN_DECONV ? m->size[in][a] * stride
                                                  : (m->size[in][a] + 2 * pad - kernel) / stride + 1;
    if (out >= m->slots) m->slots = out + 1;
    return out;
}

static void begin_net(net *m, int channels, int height, int width)
{
    *m = (net){.def = {.in_channels = channels, .height = height, .width = width}, .slots = 1};
    m->channels[0] = channels;
    m->size[0][0] = height;
    m->size[0][1] = width;
}

/* The KITTI chain in small: two levels, joined, three maps of a head. */
static void kitti_like(net *m, int width, bool with_joined)
{
    int v = 0, next = 1;
    for (int i = 0; i < 3; i++) v = node(m, SV_CHAIN_CONV, v, next++, 3, 1, width, 0, -1, true);
    const int low = v;
    v = node(m, SV_CHAIN_CONV, v, next++, 3, 2, 2 * width, 0, -1, true);
    for (int i = 0; i < 2; i++) v = node(m, SV_CHAIN_CONV, v, next++, 3, 1, 2 * width, 0, -1, true);
    const int joined = next++;
    node(m, SV_CHAIN_DECONV, low, joined, 1, 1, 24, 0, -1, true);
    node(m, SV_CHAIN_DECONV, v, joined, 2, 2, 40, 24, -1, true);
    const int maps[3] = {18, 42, 12};
    for (int i = 0; i < 3; i++)
        m->outputs[i].slot = node(m, SV_CHAIN_CONV, joined, next++, 1, 1, maps[i], 0, -1, false);
    m->output_count = 3;
    if (with_joined) m->outputs[m->output_count++].slot = joined; /* one that is read, too */
}

/* Residual pairs, upsampling by 0.5, 1 and 2, a head of 3x3 branches. */
static void residual_like(net *m)
{
    static const int stride[3] = {1, 2, 2}, channels[3] = {20, 24, 40};
    int v = 0, next = 1, level[3];
    for (int i = 0; i < 3; i++) {
        const int side = node(m, SV_CHAIN_CONV, v, next++, 1, stride[i], channels[i], 0, -1, false);
        int a = node(m, SV_CHAIN_CONV, v, next++, 3, stride[i], channels[i], 0, -1, true);
        v = node(m, SV_CHAIN_CONV, a, next++, 3, 1, channels[i], 0, side, true);
        a = node(m, SV_CHAIN_CONV, v, next++, 3, 1, channels[i], 0, -1, true);
        v = node(m, SV_CHAIN_CONV, a, next++, 3, 1, channels[i], 0, v, true);
        level[i] = v;
    }
    const int joined = next++;
    node(m, SV_CHAIN_CONV, level[0], joined, 2, 2, 16, 0, -1, true);
    node(m, SV_CHAIN_DECONV, level[1], joined, 1, 1, 17, 16, -1, true);
    node(m, SV_CHAIN_DECONV, level[2], joined, 2, 2, 16, 33, -1, true);
    const int shared = node(m, SV_CHAIN_CONV, joined, next++, 3, 1, 24, 0, -1, true);
    for (int i = 0; i < 3; i++) {
        const int a = node(m, SV_CHAIN_CONV, shared, next++, 3, 1, 24, 0, -1, true);
        m->outputs[i].slot = node(m, SV_CHAIN_CONV, a, next++, 3, 1, 1 + i, 0, -1, false);
    }
    m->output_count = 3;
}

static sv_status prepare_chain(sv_ctx *c, test_case *t)
{
    return sv_chain_prepare(c, &t->chain, &((const net *)t->more)->def);
}
/* buffers: offsets, in, coords, outputs */
static sv_status run_chain(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const net *m = t->more;
    sv_chain_output outputs[4];
    for (int i = 0; i < m->output_count; i++)
        outputs[i] = (sv_chain_output){.slot = m->outputs[i].slot, .map = v[3 + i]};
    sv_tensor in = v[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    if (m->def.reuse_input) { /* the buffer itself must stay */
        SV_TRY(sv_scratch_alloc(c, &in, "in", SV_F32, v[1].dim[0], v[1].dim[1], SV_NONE));
        SV_TRY(sv_map1(c, in, v[1], SV_MAP_identity));
    }
    SV_TRY(sv_chain_run(c, t->chain, t->length, in, t->flag ? v[2] : SV_NONE, outputs, m->output_count));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
void check_chain(bench *k)
{
    net *m = malloc(sizeof *m);
    if (!m) abort();
    /* The last two are what slow tools see. */
    for (int i = 0; i < 18; i++) {
        test_case t = {.prepare = prepare_chain, .run = run_chain, .more = m, .flag = i % 3 != 2};
        /* multiples of 4 where maps of two levels meet; some with a middle that is cut out */
        const bool small = i >= 16, residual = i % 2 && !small;
        const int batch = t.length = small ? i - 15 : 1 + i % 3;
        const int height = small ? 8 : 4 * (3 + below(i % 4 == 0 ? 40 : 12)),
                  width = small ? 8 : 4 * (3 + below(i % 4 == 0 ? 40 : 12));
        begin_net(m, small ? 16 : i % 4 < 2 ? 8 * (1 + below(8)) : 1 + below(70), height, width);
        m->def.reuse_input = i % 3 < 2;
        if (residual)
            residual_like(m);
        else
            kitti_like(m, !small && i % 4 == 0 ? 72 : 32, !small && below(2));
        t.shape[0] = 2, t.shape[1] = height, t.shape[2] = width;
        const int cells = height * width, most = i % 5 == 4 ? 1 : 60, capacity = batch * most;
        const int offsets = add_offsets(&t, capacity, batch, 1);
        for (int b = 0; b < batch; b++) /* at most 'most' of each sample */
            if (ints(&t, offsets)[b + 1] > ints(&t, offsets)[b] + most)
                ints(&t, offsets)[b + 1] = ints(&t, offsets)[b] + most;
            else if (ints(&t, offsets)[b + 1] < ints(&t, offsets)[b])
                ints(&t, offsets)[b + 1] = ints(&t, offsets)[b];
        const int in = add(&t, "in", SV_F32, batch * cells, m->channels[0]);
        memset(at(&t, in), 0, sizeof(float) * (size_t)(batch * cells) * (size_t)m->channels[0]);
        const int coords = add_coords(&t, capacity, offsets, batch, t.shape);
        for (int row = 0; row < live(&t, offsets); row++) {
            const int32_t *place = ints(&t, coords) + 4 * row;
            float *cell = floats(&t, in) + (size_t)((place[0] * height + place[2]) * width + place[3]) *
                                               (size_t)m->channels[0];
            for (int n = 0; n < m->channels[0]; n++) cell[n] = normal();
        }
        for (int n = 0; n < m->output_count; n++) {
            const int slot = m->outputs[n].slot;
            const int y =
                add(&t, "map", SV_F32, batch * m->size[slot][0] * m->size[slot][1], m->channels[slot]);
            t.buffers[y].tolerance = 1e-4;
        }
        snprintf(t.label, sizeof t.label, "%s, batch %d of %d x %d x %d, %d voxels%s",
                 residual ? "residual" : "plain", batch, height, width, m->channels[0], live(&t, offsets),
                 t.flag ? "" : ", no coordinates");
        if (m->def.reuse_input)
            strncat(t.label, ", in the input's memory", sizeof t.label - strlen(t.label) - 1);
        check(k, &t);
        for (int n = 0; n < m->def.node_count; n++) {
            free((void *)(uintptr_t)m->def.nodes[n].w);
            free((void *)(uintptr_t)m->def.nodes[n].bias);
        }
    }
    free(m);
}

/* ---- anchors ------------------------------------------------------------------------------------------- */

typedef struct anchor_case {
    sv_anchor_grid grid;
    int batch, most;
    float min_score;
} anchor_case;

/* buffers: cls, box, dir, offsets, boxes, scores, labels, index */
static sv_status run_anchor_decode(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const anchor_case *a = t->more;
    const sv_candidates out = candidates_of(v, 4, 3, a->batch);
    return sv_anchor_decode(c, &out, v[0], v[1], a->grid.direction_bins ? v[2] : SV_NONE, a->batch, &a->grid,
                            a->min_score, a->most);
}
void check_anchor_decode(bench *k)
{
    for (int i = 0; i < 16; i++) {
        static const float scores[] = {0.1f, 0.0f, 0.97f, 0.4f};
        anchor_case a = {
            .batch = 1 + i % 3, .most = i % 5 == 4 ? 5000 : 1 + below(600), .min_score = scores[i % 4]};
        a.grid = (sv_anchor_grid){.height = 10 + below(60),
                                  .width = 10 + below(60),
                                  .classes = 1 + below(4),
                                  .x_step = 0.5f,
                                  .y_step = 0.5f,
                                  .direction_offset = 0.78539f,
                                  .direction_bins = i % 4 == 3 ? 0 : 2};
        a.grid.per_cell = 2 * a.grid.classes;
        for (int n = 0; n < a.grid.per_cell; n++) {
            for (int axis = 0; axis < 3; axis++) a.grid.size[n][axis] = uniform(0.5f, 4.0f);
            a.grid.rotation[n] = n % 2 ? 1.57f : 0.0f;
        }
        test_case t = {.run = run_anchor_decode, .more = &a};
        const int cells = a.batch * a.grid.height * a.grid.width, anchors = a.grid.per_cell;
        const int cls = add_floats(&t, "cls", cells, cells, anchors * a.grid.classes, 1.5f);
        /* scores of both devices must be told apart, and some must be equal: logits on a coarse grid */
        for (int n = 0; n < cells * anchors * a.grid.classes; n++)
            floats(&t, cls)[n] = rintf(floats(&t, cls)[n] * 16) / 16;
        add_floats(&t, "box", cells, cells, anchors * 7, 0.5f);
        add_floats(&t, "dir", cells, cells, anchors * (a.grid.direction_bins ? a.grid.direction_bins : 1),
                   1.0f);
        add(&t, "offsets", SV_I32, 1, a.batch + 1);
        add_candidates(&t, a.most * a.batch, 1e-6);
        snprintf(t.label, sizeof t.label, "batch %d of %d x %d, %d classes, best %d above %g", a.batch,
                 a.grid.height, a.grid.width, a.grid.classes, a.most, (double)a.min_score);
        check(k, &t);
    }
}

/* ---- suppression --------------------------------------------------------------------------------------- */

typedef struct nms_case {
    sv_nms_rule rule;
    int batch;
} nms_case;

/* buffers: offsets in, boxes, scores, labels, index, offsets out, boxes, scores, labels, index */
static sv_status run_nms(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const nms_case *n = t->more;
    const sv_candidates in = candidates_of(v, 1, 0, n->batch), out = candidates_of(v, 6, 5, n->batch);
    return sv_nms(c, &out, &in, &n->rule);
}
void check_nms(bench *k)
{
    for (int i = 0; i < 32; i++) {
        const bool many = i >= 24 || i == 1; /* the first of them are walked before the others */
        nms_case n = {.batch = 1 + i % 3};
        const int classes = i % 2 && !many ? 1 + below(5) : 0;
        n.rule.classes = classes;
        n.rule.exact = i % 4 == 2;
        n.rule.quarter_turn = i % 4 == 1;
        n.rule.by_index = i % 5 == 3;
        for (int label = 0; label < (classes ? classes : 1); label++) {
            n.rule.threshold[label] = i % 7 == 6 ? INFINITY : uniform(0.01f, 0.5f);
            n.rule.pre_max[label] = many ? 1025 + below(4000) : 1 + below(700);
            n.rule.post_max[label] = 1 + below(many ? 600 : 200);
        }
        test_case t = {.run = run_nms, .more = &n};
        const int capacity = n.batch * (many ? 1025 + below(3000) : 1 + below(i % 6 == 5 ? 3000 : 300)),
                  room = n.batch * (1 + below(many ? 600 : 200));
        const int offsets = add_offsets(&t, capacity, n.batch, 1), rows = live(&t, offsets);
        const int boxes = add(&t, "boxes", SV_F32, capacity, SV_BOX_FIELDS);
        for (int row = 0; row < rows; row++) {
            float *b = floats(&t, boxes) + SV_BOX_FIELDS * row;
            for (int f = 0; f < SV_BOX_FIELDS; f++) b[f] = normal();
            b[0] *= i % 3 ? 15 : 40, b[1] *= i % 3 ? 15 : 40;
            b[3] = uniform(0.5f, 5.0f), b[4] = uniform(0.5f, 3.0f), b[6] *= 2;
        }
        add_floats(&t, "scores", capacity, rows, 1, 1.0f);
        const int labels = add(&t, "labels", SV_I32, capacity, 1),
                  index = add(&t, "index", SV_I32, capacity, 1);
        for (int row = 0; row < rows; row++)
            ints(&t, labels)[row] = 1 + below(classes ? classes : 3), ints(&t, index)[row] = below(100000);
        add(&t, "offsets", SV_I32, 1, n.batch + 1);
        add_candidates(&t, room, 0);
        snprintf(t.label, sizeof t.label, "batch %d of %d rows, %d classes%s%s, room for %d", n.batch, rows,
                 classes, n.rule.exact ? ", exact" : "", n.rule.quarter_turn ? ", turned" : "", room);
        check(k, &t);
    }
}
