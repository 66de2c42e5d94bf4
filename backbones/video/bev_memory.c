/* SPDX-License-Identifier: Apache-2.0 */
#include "bev_memory.h"

#include <string.h>

static sv_status read_spec(sv_ctx *c, const sv_node *cfg, sv_convs5_spec *s)
{
    const char *text = NULL;
    int size = 0, kernel = 0;
    SV_TRY(sv_node_string(c, cfg, "NAME", &text));
    SV_CHECK(c, strcmp(text, "ConvS5") == 0, SV_UNSUPPORTED, "%s.NAME: '%s' is not supported; ConvS5 is",
             sv_node_path(cfg), text);
    *s = (sv_convs5_spec){.blocks = 1, .clip_eigenvalues = true, .norm = true, .skip = true};
    SV_TRY(sv_node_int_or(c, cfg, "CHANNELS", &s->width, 32));
    SV_TRY(sv_node_int_or(c, cfg, "SSM_SIZE", &size, 64));
    SV_TRY(sv_node_int_or(c, cfg, "LAYERS", &s->layers, 1));
    SV_TRY(sv_node_int_or(c, cfg, "NUM_GROUPS", &s->groups, 8));
    SV_TRY(sv_node_int_or(c, cfg, "KERNEL_SIZE", &kernel, 3));
    SV_TRY(sv_node_number_or(c, cfg, "DT_MIN", &s->dt_min, 0.01));
    SV_TRY(sv_node_number_or(c, cfg, "DT_MAX", &s->dt_max, 0.5));
    SV_CHECK(c, s->width >= 1 && s->width <= 1024 && size >= 2 && size <= 2048 && size % 2 == 0, SV_BAD_INPUT,
             "%s: CHANNELS %d and SSM_SIZE %d; 1 to 1024 channels and an even size up to 2048 are possible",
             sv_node_path(cfg), s->width, size);
    SV_CHECK(c, kernel >= 1 && kernel <= 7 && kernel % 2 == 1, SV_UNSUPPORTED,
             "%s.KERNEL_SIZE: %d; 1, 3, 5 and 7 are supported", sv_node_path(cfg), kernel);
    SV_CHECK(c, s->dt_min > 0 && s->dt_max >= s->dt_min, SV_BAD_INPUT, "%s: DT_MIN %g, DT_MAX %g",
             sv_node_path(cfg), s->dt_min, s->dt_max);
    s->states = size / 2;
    s->kernel_b = s->kernel_c = s->kernel_d = kernel;
    SV_TRY(sv_node_string_or(c, cfg, "C_D_CONFIG", &text, "resnet"));
    SV_CHECK(c, sv_convs5_output_parse(text, &s->output), SV_UNSUPPORTED,
             "%s.C_D_CONFIG: '%s' is not supported; resnet, standard, half_glu and diag_resnet are",
             sv_node_path(cfg), text);
    SV_TRY(sv_node_string_or(c, cfg, "LAYER_ACTIVATION", &text, "gelu"));
    SV_CHECK(c, sv_convs5_activation_parse(text, &s->activation), SV_UNSUPPORTED,
             "%s.LAYER_ACTIVATION: '%s' is not supported; gelu, swish, relu and elu are", sv_node_path(cfg),
             text);
    return SV_OK;
}

static sv_status read_rule(sv_ctx *c, const sv_node *cfg, sv_motion_rule *rule)
{
    SV_TRY(sv_node_number_or(c, cfg, "MAX_GAP", &rule->max_gap, 1.0));
    SV_TRY(sv_node_number_or(c, cfg, "MAX_STEP", &rule->max_step, 20.0));
    SV_TRY(sv_node_number_or(c, cfg, "MAX_TURN", &rule->max_turn, 45.0));
    SV_CHECK(c, rule->max_gap > 0 && rule->max_step >= 0 && rule->max_turn >= 0 && rule->max_turn <= 180,
             SV_BAD_INPUT, "%s: MAX_GAP %g s, MAX_STEP %g m, MAX_TURN %g degrees", sv_node_path(cfg),
             rule->max_gap, rule->max_step, rule->max_turn);
    return SV_OK;
}

static bool any(sv_tensor t)
{
    const int64_t count = (int64_t)t.dim[0] * sv_row_elements(t);
    for (int64_t i = 0; i < count; i++)
        if (sv_f32(t)[i] != 0) return true;
    return false;
}

sv_status sv_bev_memory_bind(sv_binder *b, sv_bev_memory *m, const sv_node *cfg, int channels, int height,
                             int width)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_convs5_spec spec;
    sv_tensor w, bias;
    SV_TRY(read_spec(c, cfg, &spec));
    SV_TRY(read_rule(c, cfg, &m->rule));
    spec.height = height;
    spec.width_cells = width;
    sv_binder_push(b, "temporal");
    SV_TRY(sv_bind_host_optional(b, &w, "out.weight", true, SV_INIT(0), 2,
                                 (const int32_t[]){channels, spec.width}));
    m->active = !sv_is_none(w);
    if (m->active) {
        SV_TRY(sv_bind_host(b, &bias, "out.bias", SV_INIT(0), 1, &channels));
        m->adds = any(w) || any(bias);
        SV_TRY(sv_linear_prepare(c, &m->out, w, bias));
        SV_TRY(sv_bind_linear(b, &m->in, "in", spec.width, channels, true));
        SV_TRY(sv_convs5_stack_bind(b, &m->stack, &spec));
    } else {
        sv_log(c, SV_LOG_NOTE, "%s: the weights have no 'temporal' tensors, so it does nothing",
               sv_node_path(cfg));
    }
    sv_binder_pop(b);
    return SV_OK;
}

int sv_bev_memory_rows(const sv_bev_memory *m, int batch)
{
    const sv_convs5_spec *s = &m->stack.spec;
    return s->layers * batch * s->height * s->width_cells;
}

int sv_bev_memory_columns(const sv_bev_memory *m)
{
    return 2 * m->stack.spec.states;
}

static sv_tensor layer_of(sv_tensor t, int rows, int i)
{
    t.data = (float *)t.data + (size_t)i * (size_t)rows * (size_t)t.pitch;
    t.dim[0] = rows;
    return t;
}

sv_status sv_bev_memory_run(sv_ctx *c, const sv_bev_memory *m, int batch, sv_tensor map, sv_tensor now,
                            sv_tensor motion, sv_tensor next)
{
    const sv_convs5_spec *s = &m->stack.spec;
    const int rows = batch * s->height * s->width_cells;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor x = SV_NONE, u, added;
    if (!sv_is_none(now)) {
        SV_TRY(sv_scratch_alloc(c, &x, "moved state", SV_F32, now.dim[0], now.dim[1], SV_NONE));
        for (int i = 0; i < s->layers; i++)
            SV_TRY(sv_map_warp(c, layer_of(x, rows, i), layer_of(now, rows, i), motion, s->height,
                               s->width_cells));
        SV_TRY(sv_probe(c, "state", x));
    }
    SV_TRY(sv_scratch_alloc(c, &u, "sequence", SV_F32, rows, s->width, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &added, "added map", SV_F32, rows, map.dim[1], SV_NONE));
    SV_TRY(sv_linear(c, u, map, SV_NONE, &m->in, SV_MAP_identity));
    SV_TRY(sv_convs5_stack_run(c, &m->stack, u, u, 1, 1, x, next));
    SV_TRY(sv_linear(c, added, u, SV_NONE, &m->out, SV_MAP_identity));
    SV_TRY(sv_map2(c, map, map, added, SV_MAP_add));
    SV_TRY(sv_probe(c, "map", map));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
