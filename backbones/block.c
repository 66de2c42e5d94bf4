/* SPDX-License-Identifier: Apache-2.0
 *
 * The block template: binding and running what block.h shows, for any recurrence.
 *
 * Names of weights below the block's prefix: norm.*, then per set of ports ("mixer", or "forward" and "backward")
 * PORT.weight (low rank: PORT.down.weight, PORT.up.weight), PORT.bias, PORT.conv.weight, PORT.conv.bias, PORT.A_log and
 * the recurrence's own weights by their names, then head_norm.weight, gate.weight, out.weight, ffn_norm.*, ffn.up.*,
 * ffn.down.*.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float NORM_EPS = 1e-5f, UNIT_EPS = 1e-6f;
/* 'savanna init': what is added to the residual stream begins at this share of its usual size */
static const float INIT_SHARE = 0.3f;
enum { MAX_TAPS = 8 };

typedef enum direction { FORWARD, BACKWARD, BOTH, SHARED, ALTERNATE, WHOLE } direction;
static const char *const direction_names[] = {"forward", "backward", "both", "shared", "alternate", "whole"};

typedef struct port_weights {
    sv_linear_weights down, up; /* up alone unless of low rank */
    sv_tensor conv_weight, conv_bias;
    sv_tensor scale;  /* per column; may be none */
    sv_tensor places; /* [places, columns] */
} port_weights;

typedef struct port_set {
    sv_instance instance;
    port_weights port[SV_MAX_PORTS];
} port_set;

typedef struct block {
    const sv_recurrence *type;
    direction direction;
    bool post_norm;
    int channels, inner, taps, hidden, form;
    bool backward[2]; /* of each walk */
    int walks, sets;
    sv_tensor norm_weight, norm_bias, head_weight, ffn_norm_weight, ffn_norm_bias;
    sv_linear_weights gate, out, ffn_up, ffn_down;
    port_set set[2];
} block;
_Static_assert(sizeof(block) <= SV_BLOCK_BYTES, "SV_BLOCK_BYTES holds a block");

/* ---- settings ------------------------------------------------------------------------------------------ */

static sv_status read_letters(sv_ctx *c, const block *m, sv_instance *self, const sv_node *cfg)
{
    for (const sv_letter *letter = m->type->letters; letter && letter->rule != SV_LETTER_END; letter++) {
        double value = letter->value;
        if (letter->key && letter->rule != SV_LETTER_SUM)
            SV_TRY(sv_node_number_or(c, cfg, letter->key, &value, value));
        const int heads = self->size['H'] > 0 ? self->size['H'] : 1;
        for (const char *of = letter->rule == SV_LETTER_SUM ? letter->key : ""; *of; of++)
            value += self->size[(int)*of];
        if (letter->rule == SV_LETTER_SHARE) value *= m->channels;
        if (letter->rule == SV_LETTER_PER_HEAD) value *= (double)m->channels / heads;
        SV_CHECK(c, value >= 1 && value <= 65536 && value == floor(value), SV_BAD_INPUT,
                 "%s: '%s' makes %g of %d channels in %d heads; a whole number of at least 1 is needed",
                 cfg ? sv_node_path(cfg) : "OPERATOR.CFG", letter->key ? letter->key : "?", value,
                 m->channels, heads);
        self->size[(int)letter->letter] = (int)value;
    }
    if (m->type->follow) m->type->follow(self);
    return SV_OK;
}

static sv_status read_numbers(sv_ctx *c, sv_instance *self, const sv_node *cfg)
{
    for (int i = 0; self->type->ports[i].kind != SV_PORT_END; i++) {
        const sv_port *port = &self->type->ports[i];
        if (port->kind == SV_PORT_NUMBER)
            SV_TRY(sv_node_number_or(c, cfg, port->name, &self->number[i], port->value));
    }
    return SV_OK;
}

static sv_status read_direction(sv_ctx *c, block *m, const sv_operator_spec *spec)
{
    const char *name = NULL;
    int found = -1;
    SV_TRY(sv_node_string_or(c, spec->cfg, "direction", &name, "both"));
    for (int i = 0; i <= WHOLE; i++)
        if (strcmp(name, direction_names[i]) == 0) found = i;
    SV_CHECK(c, found >= 0, SV_BAD_INPUT,
             "%s: direction is '%s'; forward, backward, both, shared, alternate and whole are known",
             spec->type->name, name);
    m->direction = (direction)found;
    SV_CHECK(c, m->direction != WHOLE || m->type->whole > 0, SV_UNSUPPORTED,
             "%s: direction is 'whole', which this operator has no form for", spec->type->name);
    m->sets = m->direction == BOTH ? 2 : 1;
    m->walks = m->direction == BOTH || m->direction == SHARED ? 2 : 1;
    m->backward[0] = m->direction == BACKWARD || (m->direction == ALTERNATE && spec->layer % 2 != 0);
    m->backward[1] = true;
    m->form = m->direction == WHOLE ? m->type->whole : m->type->form;
    return SV_OK;
}

static sv_status read_settings(sv_ctx *c, block *m, const sv_operator_spec *spec)
{
    const sv_node *cfg = spec->cfg;
    const char *norm = NULL;
    int rate = 0;
    SV_TRY(read_direction(c, m, spec));
    SV_TRY(sv_node_string_or(c, cfg, "norm", &norm, "pre"));
    SV_CHECK(c, strcmp(norm, "pre") == 0 || strcmp(norm, "post") == 0, SV_BAD_INPUT,
             "%s: norm is '%s'; pre and post are known", spec->type->name, norm);
    m->post_norm = strcmp(norm, "post") == 0;
    SV_TRY(sv_node_int_or(c, cfg, "ffn", &rate, 0));
    SV_CHECK(c, rate >= 0 && rate <= 64, SV_UNSUPPORTED, "%s: ffn is %d; 0 (none) to 64 are supported",
             spec->type->name, rate);
    m->hidden = rate * m->channels;
    SV_TRY(sv_node_int_or(c, cfg, "d_conv", &m->taps, m->type->taps > 0 ? m->type->taps : 4));
    SV_CHECK(c, m->taps >= 1 && m->taps <= MAX_TAPS, SV_UNSUPPORTED,
             "%s: d_conv is %d; 1 to %d are supported", spec->type->name, m->taps, MAX_TAPS);
    /* training only, or the layer's own */
    sv_node_ignore(c, cfg, "d_model", NULL);
    sv_node_ignore(c, cfg, "drop_path", NULL);
    sv_node_ignore(c, cfg, "with_cp", NULL);
    return SV_OK;
}

/* ---- binding ------------------------------------------------------------------------------------------- */

static bool is_made(const sv_port *port)
{
    return port->kind == SV_PORT_TOKEN && !port->optional;
}

/* gain * -e^A_log per column, whichever of the two there are. */
static sv_status bind_scale(sv_binder *b, port_weights *w, const sv_make *make, int columns)
{
    static const sv_init rates = {SV_INIT_UNIFORM, 0, 2.7725887f}; /* A in 1..16 */
    sv_ctx *c = sv_binder_ctx(b);
    const float gain = make->gain != 0 ? make->gain : 1;
    if (!make->rate && gain == 1) return SV_OK;
    sv_tensor log = SV_NONE;
    if (make->rate) SV_TRY(sv_bind_host(b, &log, "A_log", rates, 1, (const int32_t[]){columns}));
    float *scale = malloc((size_t)columns * sizeof *scale);
    SV_CHECK(c, scale, SV_NO_MEMORY, "no memory for a block's weights");
    for (int i = 0; i < columns; i++)
        scale[i] = make->rate ? gain * (float)-exp((double)sv_f32(log)[i]) : gain;
    const sv_status status = sv_prepare_row(c, &w->scale, scale, columns);
    free(scale);
    return status;
}

static sv_status bind_conv(sv_binder *b, port_weights *w, int columns, int taps)
{
    sv_tensor host;
    SV_TRY(
        sv_bind_host(b, &host, "conv.weight", sv_init_fan_in(taps), 3, (const int32_t[]){columns, 1, taps}));
    SV_TRY(sv_weight_upload(sv_binder_ctx(b), &w->conv_weight, sv_view(host.data, SV_F32, columns, taps)));
    return sv_bind_vector(b, &w->conv_bias, "conv.bias", sv_init_fan_in(taps), columns);
}

static sv_status bind_projection(sv_binder *b, port_weights *w, const sv_make *make, int columns,
                                 int channels)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor weight, bias = SV_NONE;
    const int from = make->rank > 0 ? make->rank : channels;
    if (make->rank > 0) SV_TRY(sv_bind_linear(b, &w->down, "down", make->rank, channels, false));
    SV_TRY(sv_bind_host(b, &weight, make->rank > 0 ? "up.weight" : "weight", sv_init_fan_in(from), 2,
                        (const int32_t[]){columns, from}));
    if (make->bias) SV_TRY(sv_bind_host(b, &bias, "bias", make->start, 1, (const int32_t[]){columns}));
    return sv_linear_prepare(c, &w->up, weight, bias);
}

/* 1/(p+1) + learned, not below 0, as rows of equal columns. */
static sv_status bind_places(sv_binder *b, port_weights *w, int places, int columns)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor learned;
    SV_TRY(sv_bind_host(b, &learned, "places", SV_INIT(0), 1, (const int32_t[]){places}));
    float *rows = malloc(sizeof *rows * (size_t)places * (size_t)columns);
    SV_CHECK(c, rows, SV_NO_MEMORY, "no memory for a block's weights");
    for (int p = 0; p < places; p++)
        for (int i = 0; i < columns; i++)
            rows[p * columns + i] = (float)fmax(0, 1.0 / (p + 1) + (double)sv_f32(learned)[p]);
    const sv_status status = sv_weight_upload(c, &w->places, sv_view(rows, SV_F32, places, columns));
    free(rows);
    return status;
}

static sv_status bind_token(sv_binder *b, const block *m, port_set *set, int port)
{
    const sv_port *p = &m->type->ports[port];
    port_weights *w = &set->port[port];
    const int columns = sv_port_columns(&set->instance, port);
    SV_CHECK(sv_binder_ctx(b), !p->make.input || columns == m->channels, SV_UNSUPPORTED,
             "'%s' is the layer's own input of %d channels, not of %d", p->name, m->channels, columns);
    sv_binder_push(b, "%s", p->name);
    if (p->make.places > 0)
        SV_TRY(bind_places(b, w, p->make.places, columns));
    else if (!p->make.input)
        SV_TRY(bind_projection(b, w, &p->make, columns, m->channels));
    if (p->make.conv && m->taps > 1) SV_TRY(bind_conv(b, w, columns, m->taps));
    SV_TRY(bind_scale(b, w, &p->make, columns));
    sv_binder_pop(b);
    return SV_OK;
}

static sv_status bind_own_weight(sv_binder *b, port_set *set, int port)
{
    sv_instance *self = &set->instance;
    const sv_port *p = &self->type->ports[port];
    const char *layout = sv_port_core(p);
    int32_t dims[SV_MAX_DIMS];
    int count = 0;
    sv_init init = p->init;
    for (; layout[count]; count++)
        dims[count] = layout[count] >= 'A' ? self->size[(int)layout[count]] : layout[count] - '0';
    if (p->fan_in) init = sv_init_fan_in(dims[count - 1]);
    if (p->damped) init.a *= INIT_SHARE, init.b *= INIT_SHARE;
    sv_tensor host;
    SV_TRY(sv_bind_host(b, &host, p->name, init, count, dims));
    self->host[port] = sv_view(host.data, SV_F32, dims[0], sv_port_columns(self, port) / dims[0]);
    return sv_weight_upload(sv_binder_ctx(b), &self->weight[port], self->host[port]);
}

static sv_status bind_set(sv_binder *b, block *m, port_set *set, const sv_node *cfg)
{
    sv_ctx *c = sv_binder_ctx(b);
    set->instance.type = m->type;
    SV_TRY(read_letters(c, m, &set->instance, cfg));
    SV_TRY(read_numbers(c, &set->instance, cfg));
    for (int i = 0; m->type->ports[i].kind != SV_PORT_END; i++) {
        if (is_made(&m->type->ports[i])) SV_TRY(bind_token(b, m, set, i));
        if (m->type->ports[i].kind == SV_PORT_WEIGHT && !m->type->ports[i].optional)
            SV_TRY(bind_own_weight(b, set, i));
    }
    if (m->type->prepare) SV_TRY(m->type->prepare(c, &set->instance));
    memset(set->instance.host, 0, sizeof set->instance.host);
    return SV_OK;
}

/* What is added to the residual stream: no bias. */
static sv_status bind_branch(sv_binder *b, sv_linear_weights *out, const char *name, int n, int k)
{
    sv_init init = sv_init_fan_in(k);
    init.a *= INIT_SHARE, init.b *= INIT_SHARE;
    sv_tensor w;
    SV_TRY(sv_bind_host(b, &w, name, init, 2, (const int32_t[]){n, k}));
    return sv_linear_prepare(sv_binder_ctx(b), out, w, SV_NONE);
}

static sv_status bind_finish(sv_binder *b, block *m)
{
    const int channels = m->channels;
    if (m->type->finish == SV_FINISH_GATED) {
        SV_TRY(sv_bind_vector(b, &m->head_weight, "head_norm.weight", SV_INIT(1), m->inner));
        SV_TRY(sv_bind_linear(b, &m->gate, "gate", m->inner, channels, false));
    }
    if (m->type->finish == SV_FINISH_DIRECT)
        SV_CHECK(sv_binder_ctx(b), m->inner == channels, SV_BAD_SHAPE,
                 "a result of %d channels where %d are due", m->inner, channels);
    else
        SV_TRY(bind_branch(b, &m->out, "out.weight", channels, m->inner));
    if (m->hidden == 0) return SV_OK;
    SV_TRY(sv_bind_vector(b, &m->ffn_norm_weight, "ffn_norm.weight", SV_INIT(1), channels));
    SV_TRY(sv_bind_vector(b, &m->ffn_norm_bias, "ffn_norm.bias", SV_INIT(0), channels));
    SV_TRY(sv_bind_linear(b, &m->ffn_up, "ffn.up", m->hidden, channels, true));
    return bind_branch(b, &m->ffn_down, "ffn.down.weight", channels, m->hidden);
}

static int result_columns(const block *m)
{
    for (const sv_port *port = m->type->ports; port->kind != SV_PORT_END; port++)
        if (port->kind == SV_PORT_RESULT && port->form == m->form)
            return sv_layout_columns(&m->set[0].instance, sv_port_core(port));
    return 0;
}

sv_status sv_block_bind(sv_binder *b, void *self, const sv_operator_spec *spec)
{
    block *m = self;
    SV_CHECK(sv_binder_ctx(b), spec->type && spec->type->recurrence, SV_BAD_INPUT,
             "a block needs the operator it is of: sv_operator_spec.type is not set");
    m->type = spec->type->recurrence;
    m->channels = spec->channels;
    SV_TRY(read_settings(sv_binder_ctx(b), m, spec));
    SV_TRY(sv_bind_vector(b, &m->norm_weight, "norm.weight", SV_INIT(1), m->channels));
    SV_TRY(sv_bind_vector(b, &m->norm_bias, "norm.bias", SV_INIT(0), m->channels));
    for (int i = 0; i < m->sets; i++) {
        sv_binder_push(b, "%s", m->sets == 1 ? "mixer" : direction_names[i]);
        SV_TRY(bind_set(b, m, &m->set[i], spec->cfg));
        sv_binder_pop(b);
    }
    m->inner = result_columns(m);
    return bind_finish(b, m);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

int sv_block_state_columns(const void *self)
{
    const block *m = self;
    if (m->direction != FORWARD && m->direction != BACKWARD) return 0;
    int columns = sv_state_columns(&m->set[0].instance);
    for (int i = 0; m->type->ports[i].kind != SV_PORT_END; i++)
        if (is_made(&m->type->ports[i]) && m->type->ports[i].make.conv && m->taps > 1)
            columns += sv_port_columns(&m->set[0].instance, i) * (m->taps - 1);
    return columns;
}

int sv_block_memory_columns(const void *self)
{
    const block *m = self;
    return sv_block_state_columns(self) > 0 ? sv_state_columns(&m->set[0].instance) : 0;
}

/* The walk of one convolution or of the recurrence: 'count' columns of the block's state from *first on. */
static sv_sequence part_of_state(const sv_operator_state *state, int length, bool reverse, int *first,
                                 int count)
{
    sv_sequence seq = {.length = length, .reverse = reverse};
    if (state && count > 0 && !sv_is_none(state->in)) seq.state_in = sv_columns(state->in, *first, count);
    if (state && count > 0 && !sv_is_none(state->out)) seq.state_out = sv_columns(state->out, *first, count);
    *first += count;
    return seq;
}

typedef struct walk {
    const sv_order *order;
    const sv_operator_state *state;
    int length, first; /* state columns handed out so far */
    bool reverse;
    sv_tensor normed;
    sv_tensor port[SV_MAX_PORTS];
} walk;

static sv_status project(sv_ctx *c, const port_weights *w, const sv_make *make, sv_tensor y, const walk *at)
{
    const sv_sequence seq = {.length = at->length, .reverse = at->reverse};
    if (make->places > 0) return sv_place_rows(c, y, w->places, &seq);
    if (make->input) return sv_gather(c, y, at->normed, at->order->slot_row, SV_NONE);
    const sv_map map = make->conv ? SV_MAP_identity : make->map;
    if (make->rank == 0) return sv_linear(c, y, at->normed, at->order->slot_row, &w->up, map);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor low;
    SV_TRY(sv_scratch_alloc(c, &low, "block low rank", SV_F32, y.dim[0], make->rank, y));
    SV_TRY(sv_linear(c, low, at->normed, at->order->slot_row, &w->down, make->inner));
    SV_TRY(sv_linear(c, y, low, SV_NONE, &w->up, map));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status convolve(sv_ctx *c, const block *m, const port_weights *w, sv_tensor y, walk *at)
{
    const sv_sequence seq =
        part_of_state(at->state, at->length, at->reverse, &at->first, y.dim[1] * (m->taps - 1));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor raw;
    SV_TRY(sv_scratch_alloc(c, &raw, "block before convolution", SV_F32, y.dim[0], y.dim[1], y));
    SV_TRY(sv_map1(c, raw, y, SV_MAP_identity));
    SV_TRY(sv_causal_conv(c, y, raw, w->conv_weight, w->conv_bias, &seq, SV_MAP_silu));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* The port called 'name', made before. */
static sv_tensor made_before(const block *m, const walk *at, const char *name)
{
    for (int i = 0; m->type->ports[i].kind != SV_PORT_END; i++)
        if (m->type->ports[i].name && strcmp(m->type->ports[i].name, name) == 0) return at->port[i];
    return SV_NONE;
}

static sv_status make_port(sv_ctx *c, const block *m, const port_set *set, int port, walk *at)
{
    const sv_make *make = &m->type->ports[port].make;
    const port_weights *w = &set->port[port];
    const sv_tensor slots = at->order->slot_row;
    const int columns = sv_port_columns(&set->instance, port);
    const char *layout = sv_port_core(&m->type->ports[port]);
    const int last = set->instance.size[(int)layout[strlen(layout) - 1]];
    sv_tensor y;
    SV_TRY(sv_scratch_alloc(c, &y, "block port", SV_F32, slots.dim[0], columns, slots));
    SV_TRY(project(c, w, make, y, at));
    if (make->conv) {
        if (m->taps > 1)
            SV_TRY(convolve(c, m, w, y, at));
        else
            SV_TRY(sv_map1(c, y, y, SV_MAP_silu));
        if (make->map != SV_MAP_identity) SV_TRY(sv_map1(c, y, y, make->map));
    }
    if (make->unit) SV_TRY(sv_head_map(c, y, y, columns / last, SV_HEAD_UNIT, UNIT_EPS));
    if (make->softmax) SV_TRY(sv_head_map(c, y, y, columns / last, SV_HEAD_SOFTMAX, 1));
    if (make->like) SV_TRY(sv_map2(c, y, y, made_before(m, at, make->like), SV_MAP_mul));
    if (!sv_is_none(w->scale)) SV_TRY(sv_column_scale(c, y, y, w->scale, SV_NONE));
    at->port[port] = y;
    return SV_OK;
}

static sv_status run_walk(sv_ctx *c, const block *m, int number, sv_tensor y, sv_tensor normed,
                          const sv_order *order, int length, const sv_operator_state *state)
{
    const port_set *set = &m->set[m->sets == 2 ? number : 0];
    walk at = {
        .order = order, .state = state, .length = length, .reverse = m->backward[number], .normed = normed};
    for (int i = 0; m->type->ports[i].kind != SV_PORT_END; i++) {
        if (is_made(&m->type->ports[i])) SV_TRY(make_port(c, m, set, i, &at));
        if (m->type->ports[i].kind == SV_PORT_WEIGHT) at.port[i] = set->instance.weight[i];
    }
    const sv_call call = {
        .of = &set->instance,
        .in = at.port,
        .form = m->form,
        .y = y,
        .seq = part_of_state(state, length, at.reverse, &at.first, sv_state_columns(&set->instance))};
    return sv_recurrence_run(c, &call);
}

/* result [S, inner]: one walk, or the sum of two */
static sv_status run_walks(sv_ctx *c, const block *m, sv_tensor result, sv_tensor normed,
                           const sv_order *order, int length, const sv_operator_state *state)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(run_walk(c, m, 0, result, normed, order, length, state));
    sv_arena_rewind(&c->scratch, mark);
    if (m->walks == 1) return SV_OK;
    sv_tensor other;
    SV_TRY(sv_scratch_alloc(c, &other, "block second walk", SV_F32, result.dim[0], m->inner, result));
    SV_TRY(run_walk(c, m, 1, other, normed, order, length, state));
    SV_TRY(sv_map2(c, result, result, other, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* branch [N,C] from the slots' result */
static sv_status finish(sv_ctx *c, const block *m, sv_tensor branch, sv_tensor result, sv_tensor normed,
                        const sv_order *order)
{
    if (m->type->finish == SV_FINISH_DIRECT) return sv_gather(c, branch, result, order->row_slot, SV_NONE);
    if (m->type->finish == SV_FINISH_PLAIN)
        return sv_linear(c, branch, result, order->row_slot, &m->out, SV_MAP_identity);
    const sv_instance *self = &m->set[0].instance;
    sv_tensor gate, gated;
    SV_TRY(sv_scratch_alloc(c, &gate, "block gate", SV_F32, branch.dim[0], m->inner, branch));
    SV_TRY(sv_scratch_alloc(c, &gated, "block gated", SV_F32, branch.dim[0], m->inner, branch));
    SV_TRY(sv_linear(c, gate, normed, SV_NONE, &m->gate, SV_MAP_identity));
    const sv_head_norm_spec how = {.groups = m->type->heads ? self->size[(int)m->type->heads[0]] : 1,
                                   .eps = NORM_EPS,
                                   .weight = m->head_weight,
                                   .gate = gate};
    SV_TRY(sv_head_norm(c, gated, result, order->row_slot, &how));
    return sv_linear(c, branch, gated, SV_NONE, &m->out, SV_MAP_identity);
}

static sv_status feed_forward(sv_ctx *c, const block *m, sv_tensor y)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor normed, hidden, branch;
    SV_TRY(sv_scratch_alloc(c, &normed, "block ffn norm", SV_F32, y.dim[0], m->channels, y));
    SV_TRY(sv_scratch_alloc(c, &hidden, "block ffn hidden", SV_F32, y.dim[0], m->hidden, y));
    SV_TRY(sv_scratch_alloc(c, &branch, "block ffn branch", SV_F32, y.dim[0], m->channels, y));
    SV_TRY(sv_norm(c, normed, y, m->ffn_norm_weight, m->ffn_norm_bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(sv_linear(c, hidden, normed, SV_NONE, &m->ffn_up, SV_MAP_gelu));
    SV_TRY(sv_linear(c, branch, hidden, SV_NONE, &m->ffn_down, SV_MAP_identity));
    SV_TRY(sv_map2(c, y, y, branch, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_block_forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                           int length, const sv_operator_state *state)
{
    const block *m = self;
    SV_CHECK(c, !state || sv_block_state_columns(self) > 0, SV_UNSUPPORTED,
             "direction '%s' of a block carries no state; 'forward' does", direction_names[m->direction]);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const sv_tensor slots = order->slot_row;
    sv_tensor normed = x, result, branch;
    SV_TRY(sv_scratch_alloc(c, &result, "block result", SV_F32, slots.dim[0], m->inner, slots));
    SV_TRY(sv_scratch_alloc(c, &branch, "block branch", SV_F32, x.dim[0], m->channels, x));
    if (!m->post_norm) {
        SV_TRY(sv_scratch_alloc(c, &normed, "block norm", SV_F32, x.dim[0], m->channels, x));
        SV_TRY(sv_norm(c, normed, x, m->norm_weight, m->norm_bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    }
    SV_TRY(run_walks(c, m, result, normed, order, length, state));
    SV_TRY(finish(c, m, branch, result, normed, order));
    if (m->post_norm)
        SV_TRY(sv_norm(c, y, branch, m->norm_weight, m->norm_bias, NORM_EPS, SV_MAP_identity, x));
    else
        SV_TRY(sv_map2(c, y, x, branch, SV_MAP_add));
    if (m->hidden > 0) SV_TRY(feed_forward(c, m, y));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
