/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of center-based heads: peaks, the best of maps and of sparse cells, attention to windows, decoding.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- centers ------------------------------------------------------------------------------------------- */

/* Scores as heat maps have them: many equal ones. */
static int add_heat(test_case *t, int rows, int channels)
{
    const int x = add_floats(t, "heat", rows, rows, channels, 1.0f);
    for (int n = 0; n < rows * channels; n++) floats(t, x)[n] = rintf(floats(t, x)[n] * 64) / 64;
    return x;
}

/* buffers: heat, y */
static sv_status run_local_peaks(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_peak_rule rule = {
        .height = t->shape[0], .width = t->shape[1], .radius = t->shape[2], .alone = (uint32_t)t->jobs};
    return sv_local_peaks(c, v[1], v[0], t->length, &rule);
}
void check_local_peaks(bench *k)
{
    for (int i = 0; i < 12; i++) {
        test_case t = {.run = run_local_peaks, .length = 1 + i % 3, .jobs = below(8)};
        t.shape[0] = 1 + below(40), t.shape[1] = 1 + below(40), t.shape[2] = below(4);
        const int rows = t.length * t.shape[0] * t.shape[1], channels = 1 + below(12);
        add_heat(&t, rows, channels);
        add(&t, "y", SV_F32, rows, channels);
        snprintf(t.label, sizeof t.label, "batch %d of %d x %d x %d, radius %d", t.length, t.shape[0],
                 t.shape[1], channels, t.shape[2]);
        check(k, &t);
    }
}

static sv_cell_picks picks_of(const sv_tensor *v, int first)
{
    return (sv_cell_picks){
        .row = v[first], .channel = v[first + 1], .score = v[first + 2], .place = v[first + 3]};
}
static void add_picks(test_case *t, int rows)
{
    add(t, "row", SV_I32, rows, 1);
    add(t, "channel", SV_I32, rows, 1);
    add(t, "score", SV_F32, rows, 1);
    add(t, "place", SV_F32, rows, 2);
}

/* buffers: heat, picks */
static sv_status run_top_cells(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_cell_order order = {
        .height = t->shape[0], .width = t->shape[1], .by_column = t->flag, .middle = t->flag ? 0.5f : 0};
    const sv_cell_picks out = picks_of(v, 1);
    return sv_top_cells(c, &out, v[0], t->length, &order);
}
void check_top_cells(bench *k)
{
    for (int i = 0; i < 14; i++) {
        test_case t = {.run = run_top_cells, .length = 1 + i % 3, .flag = i % 2 == 0};
        t.shape[0] = 4 + below(i == 13 ? 200 : 40), t.shape[1] = 4 + below(i == 13 ? 200 : 40);
        const int cells = t.shape[0] * t.shape[1], channels = 1 + below(10),
                  most = 1 + below(cells * channels);
        const int heat = add_heat(&t, t.length * cells, channels);
        if (i % 4 == 3) /* fewer peaks than wanted: zeros by number, of either sign */
            for (int n = 0; n < t.length * cells * channels; n++)
                if (below(50)) floats(&t, heat)[n] = below(2) ? 0.0f : -0.0f;
        add_picks(&t, t.length * (i % 3 ? (most < 500 ? most : 500) : most));
        snprintf(t.label, sizeof t.label, "best %d of batch %d of %d x %d x %d", t.buffers[1].rows / t.length,
                 t.length, t.shape[0], t.shape[1], channels);
        check(k, &t);
    }
}

/* Scores of cells that have no map: many equal ones, NaN and zeros of either sign; or, in a third of the cases,
 * close together as those of a model without training. buffers: offsets, coords, heat, picks */
static sv_status run_top_sparse(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_cell_picks out = picks_of(v, 3);
    return sv_top_sparse(c, &out, v[2], v[1], t->more);
}
void check_top_sparse(bench *k)
{
    static const int capacities[] = {1, 40, 300, 5000};
    enum { CAPACITIES = sizeof capacities / sizeof *capacities };
    for (int i = 0; i < 8 * CAPACITIES + 2; i++) {
        const bool huge = i >= 8 * CAPACITIES; /* more near keys than are sorted in shared memory */
        const int batch = 1 + i % 4, capacity = huge ? 40000 : capacities[i / 8] + below(30);
        sv_channel_groups groups = {.count = 1 + below(huge ? 6 : 8)};
        for (int g = 0; g < groups.count; g++)
            groups.end[g] = (g ? groups.end[g - 1] : 0) + 1 + below(g == 2 ? 9 : 3);
        test_case t = {.run = run_top_sparse, .more = &groups};
        t.shape[0] = 1 + below(2), t.shape[1] = 300, t.shape[2] = 200;
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets),
                  channels = groups.end[groups.count - 1];
        add_coords(&t, capacity, offsets, batch, t.shape);
        const int heat = add_floats(&t, "heat", capacity, rows, channels, 1.0f);
        with_offsets(&t, heat, offsets, batch);
        static const float special[] = {0.0f,     -0.0f,     0.5f, NAN,  -NAN,
                                        INFINITY, -INFINITY, 1.0f, 2.0f, 0.001f};
        for (int n = 0; n < rows * channels; n++) {
            float *x = &floats(&t, heat)[n];
            *x = 1.0f / (1.0f + expf(i % 3 ? 2.0f - *x * 3.0f : 2.0f - *x * 1e-3f));
            if (i % 3 == 1) *x = rintf(*x * 64) / 64;
            if (i % 3 == 1 && below(40) == 0) *x = special[below(10)];
            if (i == 8 * CAPACITIES) *x = 0.25f;
        }
        add_picks(&t, batch * groups.count * (i % 8 == 7 ? 0 : huge ? 500 : 1 + below(i % 2 ? 90 : 500)));
        snprintf(t.label, sizeof t.label, "best %d of %d groups of batch %d, %d of %d rows, %d channels",
                 t.buffers[3].rows / batch / groups.count, groups.count, batch, rows, capacity, channels);
        check(k, &t);
    }
}

/* buffers: q, k, v, cell, y */
static sv_status run_window_attention(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_cell_window window = {
        .heads = t->shape[0], .radius = t->shape[1], .width = t->shape[2], .scale = 0.25f};
    return sv_window_attention(c, v[4], v[0], v[1], v[2], v[3], &window);
}
void check_window_attention(bench *k)
{
    for (int i = 0; i < 12; i++) {
        test_case t = {.run = run_window_attention};
        t.shape[0] = 1 + below(8), t.shape[1] = below(6), t.shape[2] = 12 + below(30);
        const int channels = t.shape[0] * (1 + below(20)), batch = 1 + i % 2,
                  queries = batch * (1 + below(60)), rows = batch * t.shape[2] * t.shape[2];
        add_floats(&t, "q", queries, queries, channels, 1.0f);
        add_floats(&t, "k", rows, rows, channels, 1.0f);
        add_floats(&t, "v", rows, rows, channels, 1.0f);
        add_index(&t, "cell", queries, queries, rows, false);
        const int y = add(&t, "y", SV_F32, queries, channels);
        t.buffers[y].tolerance = 2e-6;
        snprintf(t.label, sizeof t.label, "%d queries, %d heads of %d, radius %d on %d x %d", queries,
                 t.shape[0], channels / t.shape[0], t.shape[1], t.shape[2], t.shape[2]);
        check(k, &t);
    }
}

/* buffers: picks 0..3, center, z, size, rotation, velocity, overlap, confidence, offsets, boxes, scores,
 * labels, index */
static sv_status run_center_decode(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_cell_picks picks = picks_of(v, 0);
    const sv_candidates out = candidates_of(v, 12, 11, t->length);
    const sv_center_codes codes = {.gathered = t->flag,
                                   .center = v[4],
                                   .z = v[5],
                                   .size = v[6],
                                   .rotation = v[7],
                                   .velocity = t->jobs & 1 ? v[8] : SV_NONE,
                                   .overlap = t->jobs & 2 ? v[9] : SV_NONE,
                                   .confidence = t->jobs & 4 ? v[10] : SV_NONE};
    sv_center_rule rule = {.channels = 5,
                           .stride = 2,
                           .cell = {0.3f, 0.3f},
                           .origin = {-10, -12},
                           .range_min = {-9, -11, -3},
                           .range_max = {9, 11, 3},
                           .min_score = 0.1f,
                           .sine_first = t->reverse,
                           .top_face = t->reverse,
                           .rescore = (t->jobs & 2) != 0};
    for (int n = 0; n < 5; n++) rule.rectifier[n] = 0.15f * (float)n;
    return sv_center_decode(c, &out, &picks, &codes, t->length, &rule);
}
void check_center_decode(bench *k)
{
    for (int i = 0; i < 16; i++) {
        test_case t = {.run = run_center_decode,
                       .length = 1 + i % 3,
                       .flag = i % 2 == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(8)};
        const int most = 1 + below(i == 15 ? 2000 : 300), rows = t.length * most, cells = 40 * 40,
                  from = t.flag ? rows : t.length * cells;
        const int picked = add_index(&t, "row", rows, rows, cells, false),
                  channel = add_index(&t, "channel", rows, rows, 5, false);
        for (int n = 0; n < rows; n++) ints(&t, picked)[n] += n / most * cells;
        const int score = add(&t, "score", SV_F32, rows, 1), place = add(&t, "place", SV_F32, rows, 2);
        (void)channel;
        for (int n = 0; n < rows; n++) { /* apart, so that rounding cannot swap them */
            floats(&t, score)[n] = 0.02f + 0.9f * (float)((n * 37) % most + 1) / (float)(most + 1);
            for (int a = 0; a < 2; a++) floats(&t, place)[2 * n + a] = (float)below(40);
        }
        add_floats(&t, "center", from, from, 2, 0.5f);
        add_floats(&t, "z", from, from, 1, 1.0f);
        add_floats(&t, "size", from, from, 3, 0.5f);
        add_floats(&t, "rotation", from, from, 2, 1.0f);
        add_floats(&t, "velocity", from, from, 2, 1.0f);
        const int overlap = add_floats(&t, "overlap", from, from, 1, 0.0f);
        for (int n = 0; n < from; n++) floats(&t, overlap)[n] = 0.8f;
        const int confidence = add_floats(&t, "confidence", from, from, 5, 0.0f);
        for (int n = 0; n < from * 5; n++) floats(&t, confidence)[n] = 1.5f;
        if (t.jobs & 2) /* rescoring by class may bring scores together: one class */
            for (int n = 0; n < rows; n++) ints(&t, channel)[n] = 2;
        add(&t, "offsets", SV_I32, 1, t.length + 1);
        add_candidates(&t, rows, 2e-6);
        snprintf(t.label, sizeof t.label, "%d picks of batch %d, variant %d%s%s", most, t.length, t.jobs,
                 t.flag ? ", gathered" : "", t.reverse ? ", sine first, top face" : "");
        check(k, &t);
    }
}
