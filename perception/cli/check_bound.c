/* SPDX-License-Identifier: Apache-2.0 */
#include "check_bound.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sv_status check_int(check_run *run, check_file *file, const char *name, int *out)
{
    double value = 0;
    SV_TRY(sv_h5_number(run->c, file->h5, name, &value));
    *out = (int)value;
    return SV_OK;
}

sv_status check_ints3(check_run *run, check_file *file, const char *name, int32_t out[3])
{
    double value[3];
    SV_TRY(sv_h5_numbers(run->c, file->h5, name, value, 3));
    for (int i = 0; i < 3; i++) out[i] = (int32_t)value[i];
    return SV_OK;
}

/* A growing YAML text. */
typedef struct settings {
    char text[768];
    size_t used;
} settings;

static void say(settings *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(settings *s, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    const int count = vsnprintf(s->text + s->used, sizeof s->text - s->used, format, list);
    va_end(list);
    s->used += count < 0 || (size_t)count >= sizeof s->text - s->used ? 0 : (size_t)count;
    s->text[s->used] = 0;
}

/*
 * Dimension 'dim' of the first tensor whose name is or ends in '.'name, 0 when there is none: names end alike in files of
 * an operator, a layer and a block, and the first block's shapes speak for all.
 */
static int shape_of(const sv_weights *weights, const char *name, int dim)
{
    const size_t length = strlen(name);
    for (int i = 0; i < sv_weights_count(weights); i++) {
        const char *key = sv_weights_name(weights, i);
        const size_t whole = strlen(key);
        if (whole < length || strcmp(key + whole - length, name) != 0) continue;
        if (whole > length && key[whole - length - 1] != '.') continue;
        const sv_tensor t = sv_weights_tensor(weights, i);
        return dim < t.ndim ? t.dim[dim] : 0;
    }
    return 0;
}

static void say_ratio(settings *s, const char *key, int width, int of)
{
    if (width > 0 && of > 0) say(s, "    %s: %d\n", key, width / of);
}

static void mamba_settings(settings *s, const sv_weights *weights)
{
    say(s, "    d_state: %d\n    d_conv: %d\n", shape_of(weights, "mamba.A_log", 1),
        shape_of(weights, "mamba.conv1d.weight", 2));
    say_ratio(s, "expand", shape_of(weights, "mamba.A_log", 0), shape_of(weights, "mamba.in_proj.weight", 1));
}

/* No weight tells the number of heads: recorded q does, [G,heads,L,*]; without, heads are as wide as in the official models. */
static sv_status retnet_settings(check_run *run, check_file *file, settings *s, const sv_weights *weights)
{
    const int channels = shape_of(weights, "multi_scale_retention.q_proj.weight", 1);
    int heads = channels > 64 ? 4 : 2;
    for (int i = 0; i < file->count; i++) {
        const char *slash = strrchr(file->names[i], '/');
        if (!slash || strcmp(slash, "/q") != 0) continue;
        sv_h5_array q;
        SV_TRY(sv_h5_read(run->c, file->h5, file->names[i], &q));
        if (q.ndim == 4) heads = (int)q.dim[1];
        sv_h5_array_free(&q);
        break;
    }
    say(s, "    mode: chunk\n    n_head: %d\n", heads);
    say_ratio(s, "expand_k", shape_of(weights, "multi_scale_retention.q_proj.weight", 0), channels);
    say_ratio(s, "expand_v", shape_of(weights, "multi_scale_retention.v_proj.weight", 0), channels);
    say_ratio(s, "hidden_rate", shape_of(weights, "ffn.fc1.weight", 0), channels);
    return SV_OK;
}

static void rwkv_settings(settings *s, const sv_weights *weights)
{
    say(s, "    shift_mode: time_shift\n    n_head: %d\n", shape_of(weights, "att.time_faaaa", 0));
    say_ratio(s, "hidden_rate", shape_of(weights, "ffn.key.weight", 0),
              shape_of(weights, "ffn.key.weight", 1));
    if (shape_of(weights, "gamma1", 0) > 0) say(s, "    init_values: 0.00001\n");
}

/* The operator's configuration, with what its weights' shapes imply. Free with sv_config_free(). */
static sv_status operator_config(check_run *run, check_file *file, const sv_weights *weights, sv_config **out)
{
    char *name = NULL;
    settings s = {.used = 0};
    SV_TRY(sv_h5_text(run->c, file->h5, "operator", &name));
    say(&s, "OPERATOR:\n  NAME: '%.40s'\n  CFG:\n    drop_path: 0\n", name);
    free(name);
    if (shape_of(weights, "mamba.A_log", 0) > 0) mamba_settings(&s, weights);
    if (shape_of(weights, "multi_scale_retention.q_proj.weight", 0) > 0)
        SV_TRY(retnet_settings(run, file, &s, weights));
    if (shape_of(weights, "att.time_faaaa", 0) > 0) rwkv_settings(&s, weights);
    const int ttt_heads = shape_of(weights, "seq_modeling_block.learnable_ttt_lr_bias", 0);
    if (ttt_heads > 0) say(&s, "    n_head: %d\n", ttt_heads);
    return sv_config_parse(run->c, s.text, s.used, file->path, NULL, 0, out);
}

static sv_status open_bound(check_run *run, check_file *file, check_bound *b, bool with_operator)
{
    SV_TRY(check_weights(run, file, &b->weights));
    if (with_operator) {
        SV_TRY(operator_config(run, file, b->weights, &b->config));
        SV_TRY(sv_node_require(run->c, sv_config_root(b->config), "OPERATOR", &b->operator_cfg));
    }
    run->c->weights = &b->arena;
    return sv_binder_open(run->c, b->weights, &b->binder);
}

sv_status check_with_weights(check_run *run, check_file *file, bool with_operator, check_body body)
{
    check_bound b = {.weights = NULL};
    sv_arena_init(&b.arena, "reference weights", run->c->device);
    sv_status status = open_bound(run, file, &b, with_operator);
    if (status == SV_OK) status = body(run, file, &b);
    run->c->weights = NULL;
    sv_binder_close(b.binder);
    sv_config_free(b.config);
    sv_weights_free(b.weights);
    sv_arena_free(&b.arena);
    return status;
}
