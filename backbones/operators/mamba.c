/* SPDX-License-Identifier: Apache-2.0
 *
 * Mamba as LION's group operator (Gu and Dao 2023; LION's mamba block: two directions that share in_proj and
 * out_proj, norm after the mixer):
 *
 *     [u | z] = in_proj x                                    N rows, before anything is put into groups
 *     per direction (backward: its own weights, the sequence walked from its end)
 *         v = SiLU(causal depthwise conv(u))                 S slots
 *         [dt | B | C] = x_proj v,  delta = softplus(dt_proj dt + bias)
 *         h = exp(delta A) h + delta B v,  out += (C.h + D v) * SiLU(z)       A = -exp(A_log)
 *     y = x + LayerNorm(out_proj out)
 *
 * Widths: C channels, inner = expand*C, rank = ceil(C/16), n = d_state. The backward direction reads and
 * writes the same slots in reverse order, so nothing is ever flipped, and its result is added in place.
 */
#include "backbones/operator.h"

#include <math.h>
#include <stdlib.h>

static const float NORM_EPS = 1e-5f;
enum { FORWARD, BACKWARD, DIRECTIONS };

typedef struct mamba {
    sv_mamba_weights w;
    sv_linear_weights dt_plain[DIRECTIONS]; /* dt_proj without bias, for a probe */
} mamba;

/* ---- binding ------------------------------------------------------------------------------------------ */

static sv_status bind_conv(sv_binder *b, sv_mamba_direction *w, const char *weight, const char *bias,
                           int inner, int taps)
{
    const int32_t dims[] = {inner, 1, taps};
    sv_tensor host;
    SV_TRY(sv_bind_host(b, &host, weight, sv_init_fan_in(taps), 3, dims));
    SV_TRY(sv_weight_upload(sv_binder_ctx(b), &w->conv_weight, sv_view(host.data, SV_F32, inner, taps)));
    return sv_bind_vector(b, &w->conv_bias, bias, sv_init_fan_in(taps), inner);
}

/* Initial steps softplus(bias) are log-uniform in 0.001..0.1; for numbers this small softplus is nearly exp,
 * so that the bias is uniform between the inverse softplus of both ends. */
static sv_status bind_dt(sv_binder *b, sv_linear_weights *dt, sv_linear_weights *plain, const char *weight,
                         const char *bias, int inner, int rank)
{
    static const sv_init steps = {SV_INIT_UNIFORM, -6.9072552f, -2.2521684f};
    sv_tensor host, host_bias;
    SV_TRY(sv_bind_host(b, &host, weight, sv_init_fan_in(rank), 2, (const int32_t[]){inner, rank}));
    SV_TRY(sv_bind_host(b, &host_bias, bias, steps, 1, (const int32_t[]){inner}));
    SV_TRY(sv_linear_prepare(sv_binder_ctx(b), dt, host, host_bias));
    return sv_linear_prepare(sv_binder_ctx(b), plain, host, SV_NONE);
}

static sv_status bind_decay(sv_binder *b, sv_mamba_direction *w, const char *name, int inner, int states)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor log;
    SV_TRY(
        sv_bind_host(b, &log, name, (sv_init){SV_INIT_LOG_RANGE, 0, 0}, 2, (const int32_t[]){inner, states}));
    const size_t count = (size_t)inner * (size_t)states;
    float *a = malloc(count * sizeof *a);
    SV_CHECK(c, a, SV_NO_MEMORY, "no memory for %s", name);
    for (size_t i = 0; i < count; i++) a[i] = (float)-exp((double)sv_f32(log)[i]);
    const sv_status status = sv_weight_upload(c, &w->a, sv_view(a, SV_F32, inner, states));
    free(a);
    return status;
}

static sv_status bind_direction(sv_binder *b, mamba *m, int direction, int taps)
{
    static const struct {
        const char *conv_weight, *conv_bias, *x_proj, *dt_weight, *dt_bias, *a_log, *d;
    } names[DIRECTIONS] = {
        {"conv1d.weight", "conv1d.bias", "x_proj", "dt_proj.weight", "dt_proj.bias", "A_log", "D"},
        {"conv1d_b.weight", "conv1d_b.bias", "x_proj_b", "dt_proj_b.weight", "dt_proj_b.bias", "A_b_log",
         "D_b"},
    };
    sv_mamba_direction *w = &m->w.direction[direction];
    const int inner = m->w.inner, rank = m->w.rank, states = m->w.states;
    SV_TRY(bind_conv(b, w, names[direction].conv_weight, names[direction].conv_bias, inner, taps));
    SV_TRY(sv_bind_linear(b, &w->x_proj, names[direction].x_proj, rank + 2 * states, inner, false));
    SV_TRY(bind_dt(b, &w->dt_proj, &m->dt_plain[direction], names[direction].dt_weight,
                   names[direction].dt_bias, inner, rank));
    SV_TRY(bind_decay(b, w, names[direction].a_log, inner, states));
    return sv_bind_vector(b, &w->d, names[direction].d, SV_INIT(1), inner);
}

static sv_status read_number(sv_ctx *c, const sv_node *cfg, const char *key, int *out, int otherwise,
                             int most)
{
    SV_TRY(sv_node_int_or(c, cfg, key, out, otherwise));
    SV_CHECK(c, *out >= 1 && *out <= most, SV_UNSUPPORTED, "Mamba: %s is %d; 1 to %d are supported", key,
             *out, most);
    return SV_OK;
}

static sv_status bind(sv_binder *b, void *self, const sv_operator_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    mamba *m = self;
    int taps = 0, expand = 0;
    SV_TRY(read_number(c, spec->cfg, "d_state", &m->w.states, 16, 64));
    SV_TRY(read_number(c, spec->cfg, "d_conv", &taps, 4, 8));
    SV_TRY(read_number(c, spec->cfg, "expand", &expand, 2, 16));
    sv_node_ignore(c, spec->cfg, "d_model",
                   NULL); /* the official code overwrites it with the layer's channels */
    sv_node_ignore(c, spec->cfg, "drop_path", NULL); /* training only, as is with_cp */
    sv_node_ignore(c, spec->cfg, "with_cp", NULL);
    m->w.inner = expand * spec->channels;
    m->w.rank = (spec->channels + 15) / 16;
    m->w.eps = NORM_EPS;

    sv_binder_push(b, "mamba");
    SV_TRY(sv_bind_linear(b, &m->w.in_proj, "in_proj", 2 * m->w.inner, spec->channels, false));
    for (int direction = 0; direction < DIRECTIONS; direction++)
        SV_TRY(bind_direction(b, m, direction, taps));
    SV_TRY(sv_bind_linear(b, &m->w.out_proj, "out_proj", spec->channels, m->w.inner, false));
    sv_binder_pop(b);
    if (c->device->ops->mamba_prepare) SV_TRY(sv_mamba_prepare(c, &m->w));
    SV_TRY(sv_bind_vector(b, &m->w.norm_weight, "norm.weight", SV_INIT(1), spec->channels));
    return sv_bind_vector(b, &m->w.norm_bias, "norm.bias", SV_INIT(0), spec->channels);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* What one direction works on; z none leaves the gate out. */
typedef struct direction_input {
    sv_tensor conv, delta, b, c, z;
} direction_input;

static sv_status scan(sv_ctx *c, sv_tensor out, const sv_mamba_direction *w, const direction_input *in,
                      const sv_sequence *seq, bool accumulate)
{
    return sv_selective_scan(c, out, in->conv, in->delta, w->a, in->b, in->c, w->d, in->z, seq, accumulate);
}

/* Quantities that are stored nowhere, made for the probe alone. */
static sv_status show(sv_ctx *c, const mamba *m, int direction, direction_input in, sv_tensor dt,
                      const sv_sequence *seq)
{
    static const char *const names[DIRECTIONS][6] = {
        {"fwd/conv", "fwd/delta", "fwd/B", "fwd/C", "fwd/scan", "fwd/out_z"},
        {"bwd/conv", "bwd/delta", "bwd/B", "bwd/C", "bwd/scan", "bwd/out_z"},
    };
    const char *const *name = names[direction];
    const sv_mamba_direction *w = &m->w.direction[direction];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor extra;
    SV_TRY(sv_scratch_alloc(c, &extra, "mamba probe", SV_F32, in.conv.dim[0], m->w.inner, in.conv));
    SV_TRY(sv_probe(c, name[0], in.conv));
    SV_TRY(sv_linear(c, extra, dt, SV_NONE, &m->dt_plain[direction], SV_MAP_identity));
    SV_TRY(sv_probe(c, name[1], extra));
    SV_TRY(sv_probe(c, name[2], in.b));
    SV_TRY(sv_probe(c, name[3], in.c));
    const sv_tensor z = in.z;
    in.z = SV_NONE;
    SV_TRY(scan(c, extra, w, &in, seq, false));
    SV_TRY(sv_probe(c, name[4], extra));
    in.z = z;
    SV_TRY(scan(c, extra, w, &in, seq, false));
    SV_TRY(sv_probe(c, name[5], extra));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* mixed = out_proj of both directions' results, one primitive after the other. */
static sv_status compose(sv_ctx *c, const mamba *m, sv_tensor mixed, sv_tensor x, const sv_order *order,
                         int length)
{
    const sv_mamba_weights *w = &m->w;
    const int rows = x.dim[0], slots = order->slot_row.dim[0], wide = w->rank + 2 * w->states;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor xz, conv, projected, delta, out;
    SV_TRY(sv_scratch_alloc(c, &xz, "mamba xz", SV_F32, rows, 2 * w->inner, x));
    SV_TRY(sv_scratch_alloc(c, &conv, "mamba conv", SV_F32, slots, w->inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &projected, "mamba dt, B, C", SV_F32, slots, wide, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &delta, "mamba delta", SV_F32, slots, w->inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &out, "mamba out", SV_F32, slots, w->inner, order->slot_row));

    SV_TRY(sv_linear(c, xz, x, SV_NONE, &w->in_proj, SV_MAP_identity));
    const sv_tensor u = sv_columns(xz, 0, w->inner);
    const direction_input in = {.conv = conv,
                                .delta = delta,
                                .b = sv_columns(projected, w->rank, w->states),
                                .c = sv_columns(projected, w->rank + w->states, w->states),
                                .z = sv_columns(xz, w->inner, w->inner)};
    for (int i = 0; i < DIRECTIONS; i++) {
        const sv_mamba_direction *d = &w->direction[i];
        const sv_sequence seq = {.index = order->slot_row, .length = length, .reverse = i == BACKWARD};
        const sv_tensor dt = sv_columns(projected, 0, w->rank);
        SV_TRY(sv_causal_conv(c, conv, u, d->conv_weight, d->conv_bias, &seq, SV_MAP_silu));
        SV_TRY(sv_linear(c, projected, conv, SV_NONE, &d->x_proj, SV_MAP_identity));
        SV_TRY(sv_linear(c, delta, dt, SV_NONE, &d->dt_proj, SV_MAP_softplus));
        if (sv_probing(c)) SV_TRY(show(c, m, i, in, dt, &seq));
        SV_TRY(scan(c, out, d, &in, &seq, i == BACKWARD));
    }
    SV_TRY(sv_linear(c, mixed, out, order->row_slot, &w->out_proj, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* Where the device does it all in one go, a probe sees the intermediates of the composition and the result of that. */
static sv_status forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length, const sv_operator_state *state)
{
    const mamba *m = self;
    const sv_mamba_weights *w = &m->w;
    SV_CHECK(c, !state || (sv_is_none(state->in) && sv_is_none(state->out)), SV_UNSUPPORTED,
             "Mamba walks its groups both ways here and carries no state");
    const bool whole = sv_mamba_block_fits(c, w, length);
    if (!whole || sv_probing(c)) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_tensor mixed;
        SV_TRY(sv_scratch_alloc(c, &mixed, "mamba mixed", SV_F32, x.dim[0], x.dim[1], x));
        SV_TRY(compose(c, m, mixed, x, order, length));
        SV_TRY(sv_probe(c, "mixer_out", mixed));
        if (!whole) SV_TRY(sv_norm(c, y, mixed, w->norm_weight, w->norm_bias, w->eps, SV_MAP_identity, x));
        sv_arena_rewind(&c->scratch, mark);
    }
    return whole ? sv_mamba_block(c, y, x, w, order, length) : SV_OK;
}

const sv_operator sv_operator_mamba = {
    .name = "Mamba", .bytes = sizeof(mamba), .bind = bind, .forward = forward};
