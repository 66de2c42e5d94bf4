/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of the video blocks: primitives on maps, attention among all tokens, features of cameras at voxels.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- maps ---------------------------------------------------------------------------------------------- */

typedef struct map_case {
    sv_map_conv_weights conv;
    int kernel, height, width, groups, frames;
} map_case;

static map_case *of(test_case *t)
{
    return (map_case *)(uintptr_t)t->more;
}

static sv_status prepare_map_conv(sv_ctx *c, test_case *t)
{
    map_case *m = of(t);
    return sv_map_conv_prepare(c, &m->conv, t->host_w, t->host_bias, m->kernel, m->height, m->width);
}
/* buffers: x, add, y, w, bias */
static sv_status run_map_conv(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_tensor add = t->jobs == 0 ? SV_NONE : t->jobs == 1 ? v[1] : v[2];
    return sv_map_conv(c, v[2], v[0], &of(t)->conv, add, t->map);
}
void check_map_conv(bench *k)
{
    static const int shapes[][5] = {{3, 16, 16, 64, 96},  {3, 7, 9, 1, 33},    {5, 12, 5, 20, 32},
                                    {1, 6, 6, 70, 8},     {3, 1, 30, 16, 130}, {7, 9, 9, 13, 17},
                                    {3, 16, 16, 256, 256}};
    for (int i = 0; i < 28; i++) {
        const int *s = shapes[i % 7], maps = 1 + below(4), cells = s[1] * s[2], taps = s[0] * s[0];
        map_case m = {.kernel = s[0], .height = s[1], .width = s[2]};
        test_case t = {.prepare = prepare_map_conv,
                       .run = run_map_conv,
                       .more = &m,
                       .jobs = i / 7 % 3,
                       .map = i % 2 ? SV_MAP_identity : SV_MAP_gelu_tanh};
        add_floats(&t, "x", maps * cells, maps * cells, s[3], 1.0f);
        add_floats(&t, "add", maps * cells, maps * cells, s[4], 1.0f);
        const int y = add_floats(&t, "y", maps * cells, maps * cells, s[4], 1.0f);
        t.buffers[y].tolerance = 1e-5;
        const int w = add_floats(&t, "w", taps * s[3], taps * s[3], s[4], sqrtf(1.0f / (float)(taps * s[3])));
        const int bias = add_floats(&t, "bias", 1, 1, s[4], 0.3f);
        t.host_w = sv_view(at(&t, w), SV_F32, taps * s[3], s[4]);
        t.host_bias = i % 3 ? sv_view(at(&t, bias), SV_F32, 1, s[4]) : SV_NONE;
        snprintf(t.label, sizeof t.label, "%d x %d, %d maps of %d x %d, %d -> %d, add %d", s[0], s[0], maps,
                 s[1], s[2], s[3], s[4], t.jobs);
        check(k, &t);
    }
}

/* buffers: x, weight, bias, y */
static sv_status run_map_norm(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const map_case *m = of(t);
    return sv_map_norm(c, t->flag ? v[0] : v[3], v[0], v[1], v[2], m->height * m->width, m->groups, 1e-6f,
                       t->map);
}
void check_map_norm(bench *k)
{
    for (int i = 0; i < 24; i++) {
        map_case m = {.height = 1 + below(40), .width = 1 + below(40), .groups = 1 + below(5)};
        test_case t = {
            .run = run_map_norm, .more = &m, .flag = i % 4 == 3, .map = i % 2 ? SV_MAP_identity : SV_MAP_elu};
        const int channels = m.groups * (1 + below(40)), rows = (1 + below(3)) * m.height * m.width;
        const int x = add_floats(&t, "x", rows, rows, channels, 3.0f);
        t.buffers[x].tolerance = t.flag ? 1e-5 : EXACT;
        for (int n = 0; n < rows * channels; n++) floats(&t, x)[n] += 2.0f;
        add_floats(&t, "weight", 1, 1, channels, 1.0f);
        add_floats(&t, "bias", 1, 1, channels, 1.0f);
        add_output(&t, "y", rows, channels, WHOLE, 0, 1e-5);
        snprintf(t.label, sizeof t.label, "%d rows of maps %d x %d, %d channels in %d groups%s", rows,
                 m.height, m.width, channels, m.groups, t.flag ? ", in place" : "");
        check(k, &t);
    }
}

/* buffers: x, gate, y of means, gates, halves, doubles */
static sv_status run_map_sizes(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const map_case *m = of(t);
    SV_TRY(sv_map_mean(c, v[2], v[0], m->height * m->width));
    SV_TRY(sv_map_gate(c, t->flag ? v[0] : v[3], v[0], v[1], m->height * m->width));
    SV_TRY(sv_map_half(c, v[4], v[0], m->height, m->width));
    return sv_map_double(c, v[5], v[0], m->height, m->width);
}
void check_map_sizes(bench *k)
{
    for (int i = 0; i < 20; i++) {
        map_case m = {.height = 2 * (1 + below(20)), .width = 2 * (1 + below(20))};
        test_case t = {.run = run_map_sizes, .more = &m, .flag = i % 4 == 3};
        const int channels = 1 + below(100), maps = 1 + below(4), rows = maps * m.height * m.width;
        const int x = add_floats(&t, "x", rows, rows, channels, 1.0f);
        t.buffers[x].tolerance = t.flag ? 0 : EXACT;
        add_floats(&t, "gate", maps, maps, channels, 1.0f);
        add_output(&t, "means", maps, channels, WHOLE, 0, 1e-6);
        add_output(&t, "gated", rows, channels, WHOLE, 0, 0);
        add_output(&t, "halves", rows / 4, channels, WHOLE, 0, 1e-6);
        add_output(&t, "doubles", rows * 4, channels, WHOLE, 0, 0);
        snprintf(t.label, sizeof t.label, "%d maps of %d x %d, %d channels", maps, m.height, m.width,
                 channels);
        check(k, &t);
    }
}

/* buffers: x, powers, state in, state out, y */
static sv_status run_map_scan(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_map_scan(c, t->flag ? v[0] : v[4], v[0], v[1], of(t)->frames, t->jobs & 1 ? v[2] : SV_NONE,
                       t->jobs & 2 ? (t->jobs & 4 ? v[2] : v[3]) : SV_NONE);
}
void check_map_scan(bench *k)
{
    for (int i = 0; i < 40; i++) {
        map_case m = {.frames = 1 + below(70)};
        test_case t = {.run = run_map_scan, .more = &m, .flag = i % 4 == 3, .jobs = below(8)};
        const int p = 1 + below(40), rows = 1 + below(50), most = i % 2 ? 1 : 1 + below(32);
        const int x = add_floats(&t, "x", m.frames * rows, m.frames * rows, 2 * p, 1.0f);
        t.buffers[x].tolerance = t.flag ? 1e-5 : EXACT;
        const int powers = add(&t, "powers", SV_F32, most, 2 * p);
        for (int n = 0; n < p; n++) {
            const double size = 0.5 + 0.5 * (double)below(1000) / 1000, angle = (double)below(6283) / 1000;
            for (int e = 0; e < most; e++) {
                floats(&t, powers)[2 * p * e + n] = (float)(pow(size, e + 1) * cos(angle * (e + 1)));
                floats(&t, powers)[2 * p * e + p + n] = (float)(pow(size, e + 1) * sin(angle * (e + 1)));
            }
        }
        const int in = add_floats(&t, "state in", rows, rows, 2 * p, 1.0f);
        if (t.jobs & 4) t.buffers[in].tolerance = 1e-5;
        const int out = add_output(&t, "state out", rows, 2 * p, WHOLE, 0, 1e-5);
        (void)out;
        add_output(&t, "y", m.frames * rows, 2 * p, WHOLE, 0, 1e-5);
        snprintf(t.label, sizeof t.label, "%d frames of %d rows, %d numbers, stretches of %d, states %d%s",
                 m.frames, rows, p, most, t.jobs, t.flag ? ", in place" : "");
        check(k, &t);
    }
}

/* buffers: x, motion, y */
static sv_status run_map_warp(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_map_warp(c, v[2], v[0], v[1], of(t)->height, of(t)->width);
}
void check_map_warp(bench *k)
{
    for (int i = 0; i < 24; i++) {
        map_case m = {.height = 1 + below(40), .width = 1 + below(40)};
        test_case t = {.run = run_map_warp, .more = &m};
        const int maps = 1 + below(3), channels = 1 + below(70), rows = maps * m.height * m.width;
        const int x = add_floats(&t, "x", rows, rows, channels, 1.0f);
        const int motion = add(&t, "motion", SV_F32, maps, 8);
        for (int b = 0; b < maps; b++) {
            float *row = floats(&t, motion) + 8 * b;
            const float angle = i % 3 ? 0.3f * normal() : 0.0f;
            row[0] = row[4] = cosf(angle), row[1] = -sinf(angle), row[3] = sinf(angle);
            row[2] = i % 3 ? 4 * normal() : (float)(below(9) - 4);
            row[5] = i % 3 ? 4 * normal() : (float)(below(9) - 4);
            row[6] = below(6) ? 1.0f : 0.0f, row[7] = 0;
            if (i == 5) row[2] = NAN;
        }
        if (i % 4 == 1) floats(&t, x)[below(rows * channels)] = NAN; /* stays where it is looked at */
        add_output(&t, "y", rows, channels, WHOLE, 0, i % 3 ? 1e-5 : 0);
        snprintf(t.label, sizeof t.label, "%d maps of %d x %d, %d channels", maps, m.height, m.width,
                 channels);
        check(k, &t);
    }
}

/* ---- attention ----------------------------------------------------------------------------------------- */

/* buffers: q, k, v, y; with 'flag' the first three are columns of one */
static sv_status run_attention(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const int keys = v[0].dim[1];
    if (t->flag)
        return sv_dense_attention(c, v[3], sv_columns(v[1], 0, keys), sv_columns(v[1], keys, keys), v[2],
                                  t->jobs, 0.2f, t->length);
    return sv_dense_attention(c, v[3], v[0], sv_columns(v[1], 0, keys), v[2], t->jobs, 0.2f, t->length);
}
void check_dense_attention(bench *k)
{
    static const int lengths[] = {1, 7, 16, 17, 32, 50, 197, 500},
                     widths[][2] = {{64, 64}, {16, 16}, {5, 9}, {72, 72}, {96, 130}, {256, 256}, {33, 40}};
    for (int i = 0; i < 42; i++) {
        test_case t = {
            .run = run_attention, .length = lengths[i % 8], .jobs = 1 + below(12), .flag = i % 3 == 0};
        const int groups = 1 + below(4), rows = groups * t.length, *w = widths[i % 7];
        /* some see one token only, unless scores are then more than 16 bits tell apart */
        const float deviation = i % 5 || k->least_tolerance > 0 ? 1.0f : 20.0f;
        add_floats(&t, "q", rows, rows, t.jobs * w[0], deviation);
        add_floats(&t, "k", rows, rows, 2 * t.jobs * w[0], 1.0f);
        add_floats(&t, "v", rows, rows, t.jobs * w[1], 1.0f);
        add_output(&t, "y", rows, t.jobs * w[1], WHOLE, 0, i % 5 ? 5e-6 : 1e-4);
        snprintf(t.label, sizeof t.label, "%d groups of %d, %d heads of %d and %d", groups, t.length, t.jobs,
                 w[0], w[1]);
        check(k, &t);
    }
}

/* ---- cameras ------------------------------------------------------------------------------------------- */

/* buffers: offsets, coords, features, views, y */
static sv_status run_camera_sample(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_camera_sample(c, v[4], v[1], v[2], v[3], &t->grid, t->more);
}
void check_camera_sample(bench *k)
{
    for (int i = 0; i < 30; i++) {
        const sv_camera_rule rule = {.views = 1 + below(6),
                                     .rows = 1 + below(14),
                                     .columns = 1 + below(14),
                                     .nearest = 0.5f,
                                     .farthest = 60,
                                     .hidden = i % 3 ? 1.0f : 0.0f};
        test_case t = {.run = run_camera_sample, .more = &rule, .shape = {4, 40, 50}};
        const int batch = 1 + below(3), capacity = 1 + below(i % 5 == 4 ? 6000 : 500),
                  channels = 1 + below(140);
        t.grid = (sv_grid){.min = {-20, -20, -3}, .size = {0.8f, 1.0f, 1.5f}, .cells = {50, 40, 4}};
        const int offsets = add_offsets(&t, capacity, batch, 1);
        add_coords(&t, capacity, offsets, batch, t.shape);
        const int tokens = batch * rule.views * rule.rows * rule.columns;
        add_floats(&t, "features", tokens, tokens, channels, 1.0f);
        const int views = add(&t, "views", SV_F32, batch * rule.views, SV_CAMERA_VIEW);
        for (int n = 0; n < batch * rule.views; n++) { /* looks along a direction in the plane */
            const float angle = 6.2831853f * (float)below(1000) / 1000, x = cosf(angle), y = sinf(angle);
            const float cx = (float)rule.columns / 2, cy = (float)rule.rows / 2, across = cx, down = cy;
            const float m[SV_CAMERA_VIEW] = {across * y + cx * x,
                                             -across * x + cx * y,
                                             0,
                                             0.3f,
                                             cy * x,
                                             cy * y,
                                             -down,
                                             0.2f,
                                             x,
                                             y,
                                             0,
                                             0.1f,
                                             below(6) ? 1.0f : 0.0f,
                                             below(2) ? across : 0.0f, /* a lens */
                                             down,
                                             cx,
                                             cy,
                                             -0.1f,
                                             0.02f,
                                             0.003f,
                                             -0.002f,
                                             0.001f};
            memcpy(floats(&t, views) + SV_CAMERA_VIEW * n, m, sizeof m);
        }
        const int y = add_floats(&t, "y", capacity, live(&t, offsets), channels, 1.0f);
        with_offsets(&t, y, offsets, batch);
        t.buffers[y].tolerance = 1e-6;
        snprintf(t.label, sizeof t.label, "%d of %d voxels, %d views of %d x %d, %d channels, hidden %g",
                 live(&t, offsets), capacity, rule.views, rule.rows, rule.columns, channels,
                 (double)rule.hidden);
        check(k, &t);
    }
}

/* ---- products of few rows ------------------------------------------------------------------------------- */

static sv_status prepare_linear(sv_ctx *c, test_case *t)
{
    return sv_linear_prepare(c, &t->linear, t->host_w, t->host_bias);
}
/* buffers: x, y, y of the first rows alone, how they differ, w, bias */
static sv_status run_few(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    sv_tensor x = v[0], y = v[1];
    x.dim[0] = y.dim[0] = v[2].dim[0];
    SV_TRY(sv_linear(c, v[1], v[0], SV_NONE, &t->linear, t->map));
    SV_TRY(sv_linear(c, v[2], x, SV_NONE, &t->linear, t->map));
    return sv_map2(c, v[3], y, v[2], SV_MAP_sub);
}
void check_linear_few(bench *k)
{
    static const int shapes[][2] = {{192, 3072}, {40, 900}, {128, 64}, {33, 7}, {768, 768}, {2, 3}};
    for (int i = 0; i < 12; i++) {
        test_case t = {
            .prepare = prepare_linear, .run = run_few, .map = i % 2 ? SV_MAP_identity : SV_MAP_gelu_tanh};
        /* enough rows for the kernel that many blocks are needed for */
        const int n = shapes[i % 6][0], inputs = shapes[i % 6][1], rows = 64 * (300 / ((n + 63) / 64) + 1),
                  few = 1 + below(200);
        add_floats(&t, "x", rows, rows, inputs, 1.0f);
        add_output(&t, "y", rows, n, WHOLE, 0, 1e-5);
        add_output(&t, "y of few", few, n, WHOLE, 0, 1e-5);
        add_output(&t, "difference", few, n, WHOLE, 0, 0);
        const int w = add_floats(&t, "w", n, n, inputs, sqrtf(1.0f / (float)inputs)),
                  bias = add_floats(&t, "bias", 1, 1, n, 0.3f);
        t.host_w = sv_view(at(&t, w), SV_F32, n, inputs);
        t.host_bias = sv_view(at(&t, bias), SV_F32, 1, n);
        snprintf(t.label, sizeof t.label, "%d -> %d, %d of %d rows", inputs, n, few, rows);
        check(k, &t);
    }
}

/* buffers: offsets, x, index, w, bias, y */
static sv_status run_diagonal(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_block_linear(c, v[5], v[1], t->flag ? v[2] : SV_NONE, v[3], t->jobs ? v[4] : SV_NONE);
}
void check_block_gates(bench *k)
{
    for (int i = 0; i < 16; i++) {
        test_case t = {.run = run_diagonal, .flag = i % 3 == 0, .jobs = i % 5 != 0};
        const int size = 32 << i % 4, n = size * (1 + below(4)), capacity = 1 + below(400),
                  batch = 1 + below(3);
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        add_floats(&t, "x", capacity, rows, n, 1.0f);
        add_index(&t, "index", capacity, rows, rows, true);
        add_floats(&t, "w", n, n, size, sqrtf(1.0f / (float)size));
        add_floats(&t, "bias", 1, 1, n, 0.3f);
        add_output(&t, "y", capacity, n, offsets, batch, 2e-6);
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d channels, blocks of %d", rows, capacity, n,
                 size);
        check(k, &t);
    }
}
