/* SPDX-License-Identifier: Apache-2.0
 *
 * Short convolutions along a sequence and the selective scan.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>

/* ---- sequences ----------------------------------------------------------------------------------------- */

static const int lengths[] = {1, 2, 7, 63, 64, 65, 200, 512, 4096};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* buffers: slot offsets, index, x, w, bias, state in, state out, y */
static sv_status run_causal_conv(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = {.index = t->flag ? v[1] : SV_NONE,
                             .length = t->length,
                             .reverse = t->reverse,
                             .state_in = t->jobs & 1 ? v[5] : SV_NONE,
                             .state_out = t->jobs & 2 ? v[6] : SV_NONE};
    return sv_causal_conv(c, v[7], v[2], v[3], v[4], &seq, t->map);
}
void check_causal_conv(bench *k)
{
    static const sv_map maps[] = {SV_MAP_silu, SV_MAP_identity, SV_MAP_relu};
    for (int i = 0; i < 4 * LENGTHS; i++) {
        test_case t = {.run = run_causal_conv,
                       .length = lengths[i / 4],
                       .flag = i % 2 == 0,
                       .reverse = i / 2 % 2 == 0,
                       .map = maps[i % 3]};
        const int taps = i % 4 == 3 ? 1 + below(8) : 4, channels = 1 + below(140), batch = 1 + below(3);
        const int groups = 1 + below(4), capacity = groups * t.length;
        t.jobs = taps > 1 ? below(4) : 0;
        const int offsets = add_offsets(&t, capacity, batch, t.length), slots = live(&t, offsets),
                  rows = slots + 1;
        const int index = add_index(&t, "index", capacity, slots, rows, true);
        with_offsets(&t, index, offsets, batch);
        add_floats(&t, "x", t.flag ? rows : capacity, t.flag ? rows : slots, channels, 1.0f);
        add_floats(&t, "w", channels, channels, taps, 0.5f);
        add_floats(&t, "bias", 1, 1, channels, 0.5f);
        add_floats(&t, "state in", groups, slots / t.length, channels * (taps - 1) + (taps == 1), 1.0f);
        add(&t, "state out", SV_F32, groups, channels * (taps - 1) + (taps == 1));
        add_output(&t, "y", capacity, channels, offsets, batch, 2e-6);
        snprintf(t.label, sizeof t.label, "%d of %d slots, length %d, %d channels, %d taps, states %d%s%s",
                 slots, capacity, t.length, channels, taps, t.jobs, t.reverse ? ", reverse" : "",
                 t.flag ? ", indexed" : "");
        check(k, &t);
    }
}

/* buffers: slot offsets, index, u, delta, A, B, C, D, z, state in, state out, y */
static sv_status run_selective_scan(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = {.index = t->flag ? v[1] : SV_NONE,
                             .length = t->length,
                             .reverse = t->reverse,
                             .state_in = t->jobs & 1 ? v[9] : SV_NONE,
                             .state_out = t->jobs & 2 ? v[10] : SV_NONE};
    return sv_selective_scan(c, v[11], v[2], v[3], v[4], v[5], v[6], v[7], t->jobs & 4 ? v[8] : SV_NONE, &seq,
                             (t->jobs & 8) != 0);
}
void check_selective_scan(bench *k)
{
    for (int i = 0; i < 4 * LENGTHS; i++) {
        test_case t = {.run = run_selective_scan,
                       .length = lengths[i / 4],
                       .flag = i % 2 == 0,
                       .reverse = i / 2 % 2 == 0,
                       .jobs = below(16)};
        const int states = i % 4 < 2    ? 16
                           : i % 4 == 2 ? 1 + below(15)
                                        : 17 + below(48),
                  channels = 1 + below(300), batch = 1 + below(3);
        const int groups = 1 + below(4), capacity = groups * t.length;
        const int offsets = add_offsets(&t, capacity, batch, t.length), slots = live(&t, offsets),
                  rows = slots + 1;
        const int index = add_index(&t, "index", capacity, slots, rows, true);
        with_offsets(&t, index, offsets, batch);
        add_floats(&t, "u", capacity, slots, channels, 1.0f);
        const int delta = add_floats(&t, "delta", capacity, slots, channels, 1.0f);
        for (int s = 0; s < slots * channels; s++)
            floats(&t, delta)[s] = log1pf(expf(floats(&t, delta)[s] - 3.0f));
        const int a = add(&t, "A", SV_F32, channels, states);
        for (int s = 0; s < channels * states; s++) floats(&t, a)[s] = -uniform(0.01f, 16.0f);
        add_floats(&t, "B", capacity, slots, states, 1.0f);
        add_floats(&t, "C", capacity, slots, states, 1.0f);
        add_floats(&t, "D", 1, 1, channels, 1.0f);
        add_floats(&t, "z", t.flag ? rows : capacity, t.flag ? rows : slots, channels, 1.0f);
        add_floats(&t, "state in", groups, slots / t.length, channels * states, 1.0f);
        const int out = add(&t, "state out", SV_F32, groups, channels * states);
        t.buffers[out].tolerance = 4e-5; /* the slowest states remember two thousand tokens' roundings */
        const int y = add_floats(&t, "y", capacity, t.jobs & 8 ? slots : 0, channels, 1.0f);
        with_offsets(&t, y, offsets, batch);
        t.buffers[y].tolerance = 4e-5;
        snprintf(t.label, sizeof t.label, "%d of %d slots, length %d, %d channels, %d states, variant %d%s%s",
                 slots, capacity, t.length, channels, states, t.jobs, t.reverse ? ", reverse" : "",
                 t.flag ? ", indexed" : "");
        check(k, &t);
    }
}
