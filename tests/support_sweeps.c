/* SPDX-License-Identifier: Apache-2.0 */
#include "support_sweeps.h"

#include "backbones/video/bev_memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = DRIVE_FRAMES, SIDE = SWEEP_SIDE, CELLS = SWEEP_CELLS, MAP = SWEEP_MAP };

const char sweep_branch[] = "TEMPORAL: {NAME: ConvS5, CHANNELS: 8, SSM_SIZE: 12, C_D_CONFIG: diag_resnet}";

void sweep_numbers(sv_weights *w)
{
    test_rng rng = {77};
    const sv_tensor out = sv_weights_find(w, "temporal.out.weight"),
                    bias = sv_weights_find(w, "temporal.out.bias");
    ck_assert(!sv_is_none(out) && !sv_is_none(bias));
    rng_fill(&rng, out.data, (size_t)out.dim[0] * (size_t)out.dim[1], 0.4);
    rng_fill(&rng, bias.data, (size_t)bias.dim[0], 0.1);
}

/* The cell of the last frame's map under cell (r,q) of this one's, by way of the world. The small model's
 * grid: 0..12.8 by -6.4..6.4 metres. */
static void cell_before(const sv_frame *last, const sv_frame *now, int r, int q, double *row, double *column)
{
    double p[3] = {0.2 * (q + 0.5), -6.4 + 0.2 * (r + 0.5), 0};
    sv_pose back;
    sv_pose_apply(&now->to_world, p, p);
    ck_assert(sv_pose_invert(&last->to_world, &back));
    sv_pose_apply(&back, p, p);
    *column = p[0] / 0.2 - 0.5;
    *row = (p[1] + 6.4) / 0.2 - 0.5;
}

/* x of all frames [FRAMES*CELLS, 2P] from conv(u) in its place: move, turn, add. */
static void run_states(sv_frame *const *frames, sv_tensor x, const float *a, int states)
{
    const int columns = 2 * states;
    float *moved = malloc(sizeof *moved * (size_t)columns);
    for (int t = 1; t < FRAMES; t++)
        for (int i = 0; i < CELLS; i++) {
            double row, column;
            cell_before(frames[t - 1], frames[t], i / SIDE, i % SIDE, &row, &column);
            const int top = (int)floor(row), left = (int)floor(column);
            for (int k = 0; k < columns; k++) {
                double sum = 0;
                for (int d = 0; d < 4; d++) {
                    const int y = top + d / 2, z = left + d % 2;
                    if (y < 0 || y >= SIDE || z < 0 || z >= SIDE) continue;
                    sum += (d / 2 ? row - top : top + 1 - row) * (d % 2 ? column - left : left + 1 - column) *
                           (double)sv_f32(
                               x)[((size_t)(t - 1) * CELLS + (size_t)(y * SIDE + z)) * (size_t)columns +
                                  (size_t)k];
                }
                moved[k] = (float)sum;
            }
            float *to = sv_f32(x) + ((size_t)t * CELLS + (size_t)i) * (size_t)columns;
            for (int p = 0; p < states; p++) {
                const float re = a[2 * p], im = a[2 * p + 1];
                to[p] += re * moved[p] - im * moved[states + p];
                to[states + p] += re * moved[states + p] + im * moved[p];
            }
        }
    free(moved);
}

void sweep_batch(sv_ctx *c, const char *path, const sv_weights *w, sv_frame *const *frames, const float *maps,
                 float *out)
{
    sv_config *config = NULL;
    sv_binder *b = NULL;
    sv_bev_memory m = {0};
    sv_arena arena;
    assert_ok(c, sv_config_load(c, path, NULL, 0, &config));
    sv_arena_init(&arena, "test", c->device);
    c->weights = &arena;
    assert_ok(c, sv_binder_open(c, w, &b));
    assert_ok(c, sv_bev_memory_bind(b, &m, sv_node_find(sv_config_root(config), "MODEL.TEMPORAL"), MAP, SIDE,
                                    SIDE));
    c->weights = NULL;
    const sv_convs5_layer *layer = &m.stack.layer[0];
    const int rows = FRAMES * CELLS;
    sv_tensor u, x, y, added, in = sv_view((void *)(uintptr_t)maps, SV_F32, rows, MAP);
    assert_ok(c, sv_frame_alloc(c, &u, "test", SV_F32, rows, 8, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &y, "test", SV_F32, rows, 8, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &x, "test", SV_F32, rows, 12, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &added, "test", SV_F32, rows, MAP, SV_NONE));
    assert_ok(c, sv_linear(c, u, in, SV_NONE, &m.in, SV_MAP_identity));
    assert_ok(c, sv_video_conv_run(c, &layer->in, x, u, SV_NONE, SV_MAP_identity));
    run_states(frames, x, sv_f32(layer->host_a), 6);
    assert_ok(c, sv_video_conv_run(c, &layer->out, y, x, u, SV_MAP_identity));
    assert_ok(c, sv_norm(c, y, y, layer->norm.scale, layer->norm.bias, 1e-6f, SV_MAP_identity, SV_NONE));
    assert_ok(c, sv_linear(c, added, y, SV_NONE, &m.out, SV_MAP_identity));
    for (size_t i = 0; i < (size_t)rows * MAP; i++) out[i] = maps[i] + sv_f32(added)[i];
    sv_binder_close(b);
    sv_config_free(config);
    sv_arena_free(&arena);
}

sweep_maps sweep_maps_new(void)
{
    const size_t bytes = sizeof(float) * FRAMES * CELLS * MAP;
    const sweep_maps maps = {.before = malloc(bytes), .behind = malloc(bytes)};
    ck_assert(maps.before && maps.behind);
    return maps;
}

void sweep_maps_free(sweep_maps *maps)
{
    free(maps->before);
    free(maps->behind);
}

void sweep_maps_keep(sweep_maps *maps, const char *name, sv_tensor t)
{
    float *to = strcmp(name, "bev/spatial_features") == 0 ? maps->before
                : strcmp(name, "bev/temporal/map") == 0   ? maps->behind
                                                          : NULL;
    if (to) memcpy(to + (size_t)maps->frame * CELLS * MAP, t.data, sizeof(float) * CELLS * MAP);
}
