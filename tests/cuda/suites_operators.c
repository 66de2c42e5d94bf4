/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole operators: what the GPU does in a few kernels of its own against the CPU's composition of primitives, on
 * random weights, groups and samples, in place.
 */
#include "backbones/operator.h"
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct operator_case {
    const sv_operator *type;
    const sv_config *config;
    void *self;
    int channels, layer, length;
    const char
        *raised; /* a weight whose numbers are made larger: every other one by 3, every third by 6; or NULL */
} operator_case;

static sv_status bind_operator(sv_ctx *c, test_case *t)
{
    const operator_case *k = t->more;
    const sv_operator_spec spec = {.channels = k->channels,
                                   .layer = k->layer,
                                   .layers = 2,
                                   .cfg = sv_config_root(k->config),
                                   .type = k->type};
    sv_weights *weights = sv_weights_new();
    sv_binder *binder = NULL;
    memset(k->self, 0, k->type->bytes);
    sv_status status = sv_binder_open_init(c, weights, 7, &binder);
    if (status == SV_OK) status = k->type->bind(binder, k->self, &spec);
    if (status == SV_OK && k->raised) { /* once more, from changed ones */
        const sv_tensor raised = sv_weights_find(weights, k->raised);
        const int64_t count = sv_row_elements(raised) * raised.dim[0];
        for (int64_t i = 0; i < count; i++) sv_f32(raised)[i] += i % 2 * 3.0f + (i % 3 == 0 ? 6.0f : 0.0f);
        sv_binder_close(binder);
        binder = NULL;
        memset(k->self, 0, k->type->bytes);
        status = sv_binder_open(c, weights, &binder);
        if (status == SV_OK) status = k->type->bind(binder, k->self, &spec);
    }
    sv_binder_close(binder);
    sv_weights_free(weights);
    return status;
}

/* buffers: row offsets, slot offsets, slot rows, row slots, x */
static sv_status run_operator(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const operator_case *k = t->more;
    const sv_order order = {.slot_row = v[2], .row_slot = v[3]};
    return k->type->forward(c, k->self, v[4], v[4], &order, k->length, NULL);
}

static void check_one(bench *k, const operator_case *o, int batch, int most, double tolerance)
{
    test_case t = {.prepare = bind_operator, .run = run_operator, .more = o, .length = o->length};
    const order_case order = add_order(&t, batch, o->length, most);
    const int x = add_floats(&t, "x", order.capacity, order.rows, o->channels, 1.0f);
    with_offsets(&t, x, order.offsets, batch);
    t.buffers[x].tolerance = tolerance;
    snprintf(t.label, sizeof t.label, "%s of %d channels, layer %d, %d rows, groups of %d, batch %d",
             o->type->name, o->channels, o->layer, order.rows, o->length, batch);
    check(k, &t);
}

/* 'cfg' is an OPERATOR.CFG; channels and lengths end with 0. */
static void check_operator(bench *k, const char *name, const char *cfg, const char *raised,
                           const int *channels, const int *lengths, double tolerance)
{
    operator_case o = {.type = sv_operator_find(name), .raised = raised};
    sv_config *config = NULL;
    if (!o.type || sv_config_parse(k->cpu, cfg, strlen(cfg), name, NULL, 0, &config) != SV_OK) abort();
    o.config = config;
    o.self = calloc(1, o.type->bytes);
    if (!o.self) abort();
    for (int i = 0; channels[i]; i++)
        for (int j = 0; lengths[j]; j++) {
            o.channels = channels[i];
            o.length = lengths[j];
            o.layer = (i + j) % 2;
            /* the smallest cases, which slow tools see, are of the official shapes */
            const int more = o.length % 64 || o.channels % 64 ? 400 : 100;
            check_one(k, &o, 1 + (i + j) % 3, o.length * 2 + more, tolerance);
        }
    free(o.self);
    sv_config_free(config);
}

static const int widths[] = {64, 128, 0}, odd_widths[] = {32, 96, 0},
                 block_lengths[] = {64, 128, 256, 1024, 4096, 0}, odd_lengths[] = {48, 100, 0},
                 small_lengths[] = {128, 0};

/* The shapes of the official models, then others, which are composed on the GPU, too. */
static void check_shapes(bench *k, const char *name, const char *cfg, double tolerance)
{
    check_operator(k, name, cfg, NULL, widths, block_lengths, tolerance);
    check_operator(k, name, cfg, NULL, widths, odd_lengths, tolerance);
    check_operator(k, name, cfg, NULL, odd_widths, small_lengths, tolerance);
}

static const char rwkv[] = "{n_head: 4, shift_mode: time_shift, hidden_rate: 4, init_values: 0.00001}",
                  xlstm[] = "{d_model: 64}",
                  retnet[] =
                      "{mode: chunk, n_head: 2, expand_k: 1, expand_v: 2, hidden_rate: 4, used_MLP: True}",
                  ttt[] = "{n_head: 4, use_gate: False}";

void check_rwkv_operator(bench *k)
{
    check_shapes(k, "RWKV", rwkv, 1e-4);
    check_operator(k, "RWKV", rwkv, "att.time_decay", widths, block_lengths,
                   1e-4); /* much is forgotten at once */
}
void check_xlstm_operator(bench *k)
{
    check_shapes(k, "xLSTM", xlstm, 1e-4);
}
void check_retnet_operator(bench *k)
{
    check_shapes(k, "RetNet", retnet, 1e-4);
}
void check_ttt_operator(bench *k)
{
    check_shapes(k, "TTT", ttt, 2e-3); /* steps of descent feed back rounding */
}
