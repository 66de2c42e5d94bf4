/* SPDX-License-Identifier: Apache-2.0
 *
 * The layer of ConvS5; convs5.h has its formulas.
 *
 * B is stored as [P, U*k*k, 2] (U slowest), C as [k,k,P,U,2]; the last axis is (re, im). As u is real, conv(u, B') is one real
 * convolution to 2P channels, and 2 Re conv(x, C) one from 2P channels with weights 2 Re C and -2 Im C.
 */
#include "convs5.h"
#include "flax.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool sv_convs5_output_parse(const char *text, sv_convs5_output *output)
{
    static const char *const names[] = {"resnet", "standard", "half_glu", "diag_resnet"};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(text, names[i]) == 0) {
            *output = (sv_convs5_output)i;
            return true;
        }
    return false;
}

bool sv_convs5_activation_parse(const char *text, sv_map *map)
{
    static const struct {
        const char *name;
        sv_map map;
    } known[] = {{"gelu", SV_MAP_gelu_tanh},
                 {"swish", SV_MAP_silu},
                 {"silu", SV_MAP_silu},
                 {"relu", SV_MAP_relu},
                 {"elu", SV_MAP_elu}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(text, known[i].name) == 0) {
            *map = known[i].map;
            return true;
        }
    return false;
}

/* ---- binding -------------------------------------------------------------------------------------------- */

typedef struct raw {
    sv_tensor re, im, step, b, c;
} raw;

/* Random weights that a trained model could begin with: HiPPO's spectrum, and steps that are spread logarithmically. */
static sv_status seed_spectrum(sv_binder *b, const sv_convs5_spec *spec, raw *r)
{
    sv_ctx *c = sv_binder_ctx(b);
    const float low = (float)log(spec->dt_min), high = (float)log(spec->dt_max);
    SV_TRY(sv_bind_host(b, &r->re, "Lambda_re", SV_INIT(-0.5f), 1, &spec->states));
    SV_TRY(sv_bind_host(b, &r->im, "Lambda_im", SV_INIT(NAN), 1, &spec->states));
    SV_TRY(sv_bind_host(b, &r->step, "log_step", (sv_init){SV_INIT_UNIFORM, low, high}, 2,
                        (const int32_t[]){spec->states, 1}));
    if (!isnan(sv_f32(r->im)[0])) return SV_OK; /* not a number: just made, or a file that will be refused */
    double *imaginary = malloc(sizeof *imaginary * (size_t)spec->states);
    SV_CHECK(c, imaginary, SV_NO_MEMORY, "no memory for a spectrum");
    const sv_status status = sv_convs5_hippo(c, spec->states, spec->blocks, imaginary);
    for (int p = 0; p < spec->states; p++) sv_f32(r->im)[p] = (float)imaginary[p];
    free(imaginary);
    return status;
}

static sv_status bind_raw(sv_binder *b, const sv_convs5_spec *spec, raw *r)
{
    const int kb = spec->kernel_b, kc = spec->kernel_c, in = spec->width * kb * kb;
    /* Two numbers of equal size in each complex one, so that a sum of 'in' of them has the size of its inputs. */
    const float size_b = sqrtf(0.5f / (float)in), size_c = sqrtf(0.5f / (float)(spec->states * kc * kc));
    SV_TRY(seed_spectrum(b, spec, r));
    SV_TRY(sv_bind_host(b, &r->b, "B", (sv_init){SV_INIT_NORMAL, 0, size_b * 8}, 3,
                        (const int32_t[]){spec->states, in, 2}));
    return sv_bind_host(b, &r->c, "C", (sv_init){SV_INIT_NORMAL, 0, size_c}, 5,
                        (const int32_t[]){kc, kc, spec->states, spec->width, 2});
}

/* e^(lambda t) */
static void exponential(const double lambda[2], double t, double out[2])
{
    const double size = exp(lambda[0] * t);
    out[0] = size * cos(lambda[1] * t);
    out[1] = size * sin(lambda[1] * t);
}

/* (a - 1) / lambda, which is dt where lambda is 0. */
static void gain_of(const double a[2], const double lambda[2], double dt, double out[2])
{
    const double square = lambda[0] * lambda[0] + lambda[1] * lambda[1], re = a[0] - 1, im = a[1];
    out[0] = square > 0 ? (re * lambda[0] + im * lambda[1]) / square : dt;
    out[1] = square > 0 ? (im * lambda[0] - re * lambda[1]) / square : 0;
}

/* A and its powers, B' and C as weights of real convolutions. */
static sv_status discretise(sv_binder *b, sv_convs5_layer *layer, const raw *r, float **b_out, float **c_out)
{
    const sv_convs5_spec *s = layer->spec;
    const int states = s->states, taps_b = s->kernel_b * s->kernel_b, taps_c = s->kernel_c * s->kernel_c;
    float *a = NULL, *powers = NULL, *in = NULL, *out = NULL;
    SV_TRY(sv_bind_memory(b, &a, 2 * states));
    SV_TRY(sv_bind_memory(b, &powers, 2 * states * SV_CONVS5_STRETCH));
    SV_TRY(sv_bind_memory(b, &in, (int64_t)taps_b * s->width * 2 * states));
    SV_TRY(sv_bind_memory(b, &out, (int64_t)taps_c * s->width * 2 * states));
    for (int p = 0; p < states; p++) {
        double re = (double)sv_f32(r->re)[p];
        if (s->clip_eigenvalues && !(re < -1e-4)) re = -1e-4;
        const double lambda[2] = {re, (double)sv_f32(r->im)[p]}, dt = exp((double)sv_f32(r->step)[p]);
        double bar[2], gain[2];
        exponential(lambda, dt, bar);
        gain_of(bar, lambda, dt, gain);
        SV_CHECK(sv_binder_ctx(b),
                 isfinite(bar[0]) && isfinite(bar[1]) && isfinite(gain[0]) && isfinite(gain[1]), SV_BAD_INPUT,
                 "ConvS5: Lambda (%g, %g) and log_step %g of state %d give no finite step", lambda[0],
                 lambda[1], (double)sv_f32(r->step)[p], p);
        a[2 * p] = (float)bar[0];
        a[2 * p + 1] = (float)bar[1];
        for (int k = 0; k < SV_CONVS5_STRETCH; k++) {
            double power[2];
            exponential(lambda, dt * (k + 1), power);
            powers[(size_t)k * 2 * (size_t)states + (size_t)p] = (float)power[0];
            powers[(size_t)k * 2 * (size_t)states + (size_t)(states + p)] = (float)power[1];
        }
        for (int u = 0; u < s->width; u++)
            for (int tap = 0; tap < taps_b; tap++) {
                const float *from =
                    sv_f32(r->b) +
                    (((size_t)p * (size_t)s->width + (size_t)u) * (size_t)taps_b + (size_t)tap) * 2;
                float *to = in + ((size_t)tap * (size_t)s->width + (size_t)u) * 2 * (size_t)states;
                to[p] = (float)(gain[0] * (double)from[0] - gain[1] * (double)from[1]);
                to[states + p] = (float)(gain[0] * (double)from[1] + gain[1] * (double)from[0]);
            }
        for (int tap = 0; tap < taps_c; tap++)
            for (int u = 0; u < s->width; u++) {
                const float *from =
                    sv_f32(r->c) +
                    (((size_t)tap * (size_t)states + (size_t)p) * (size_t)s->width + (size_t)u) * 2;
                float *to = out + (size_t)tap * 2 * (size_t)states * (size_t)s->width + (size_t)u;
                to[(size_t)p * (size_t)s->width] = 2 * from[0];
                to[(size_t)(states + p) * (size_t)s->width] = -2 * from[1];
            }
    }
    layer->host_a = sv_view(a, SV_F32, states, 2);
    layer->host_b = sv_view(in, SV_F32, taps_b * s->width, 2 * states);
    *b_out = in;
    *c_out = out;
    SV_TRY(sv_weight_upload(sv_binder_ctx(b), &layer->powers,
                            sv_view(powers, SV_F32, SV_CONVS5_STRETCH, 2 * states)));
    return SV_OK;
}

static sv_status bind_output(sv_binder *b, sv_convs5_layer *layer)
{
    const sv_convs5_spec *s = layer->spec;
    const int width = s->width, h = s->height, w = s->width_cells;
    const int reduced = width / 16 > 4 ? width / 16 : 4;
    sv_binder_push(b, "C_D_conv");
    if (s->output == SV_CONVS5_HALF_GLU) {
        SV_TRY(sv_video_norm_bind(b, &layer->glu, "norm", width));
        SV_TRY(sv_flax_bind_dense(b, &layer->dense, "Dense_0", width, width));
    } else if (s->output != SV_CONVS5_DIAG_RESNET) {
        static const char *const norms[] = {"GroupNorm_0", "GroupNorm_1"},
                                 *const convs[] = {"Conv_0", "Conv_1"},
                                 *const biases[] = {"Conv_0.bias", "Conv_1.bias"};
        for (int i = 0; i < (s->output == SV_CONVS5_RESNET ? 2 : 1); i++) {
            SV_TRY(sv_video_norm_bind(b, &layer->group[i], norms[i], width));
            SV_TRY(
                sv_video_conv_bind(b, &layer->d[i], convs[i], biases[i], s->kernel_d, width, width, h, w, 1));
        }
        if (s->squeeze_excite) {
            SV_TRY(sv_flax_bind_dense(b, &layer->squeeze, "SEBlock_0.reduce", width, reduced));
            SV_TRY(sv_flax_bind_dense(b, &layer->expand, "SEBlock_0.expand", reduced, width));
        }
    }
    sv_binder_pop(b);
    return SV_OK;
}

sv_status sv_convs5_layer_bind(sv_binder *b, sv_convs5_layer *layer, const sv_convs5_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    raw r;
    float *in = NULL, *out = NULL;
    layer->spec = spec;
    SV_CHECK(c, spec->width >= 1 && spec->states >= 1 && spec->groups >= 1, SV_BAD_INPUT,
             "ConvS5: %d channels, %d states, %d groups", spec->width, spec->states, spec->groups);
    SV_CHECK(c, spec->output >= SV_CONVS5_HALF_GLU || spec->width % spec->groups == 0, SV_BAD_INPUT,
             "ConvS5: %d channels do not divide into num_groups = %d", spec->width, spec->groups);
    SV_TRY(bind_raw(b, spec, &r));
    SV_TRY(discretise(b, layer, &r, &in, &out));
    SV_TRY(sv_video_conv_prepare(
        c, &layer->in, sv_view(in, SV_F32, spec->kernel_b * spec->kernel_b * spec->width, 2 * spec->states),
        SV_NONE, spec->kernel_b, spec->height, spec->width_cells));
    SV_TRY(sv_video_conv_prepare(
        c, &layer->out, sv_view(out, SV_F32, spec->kernel_c * spec->kernel_c * 2 * spec->states, spec->width),
        SV_NONE, spec->kernel_c, spec->height, spec->width_cells));
    return bind_output(b, layer);
}

/* ---- forward -------------------------------------------------------------------------------------------- */

/* x times a gate per map and channel, made from the map's mean. */
static sv_status squeeze(sv_ctx *c, const sv_convs5_layer *layer, sv_tensor x)
{
    const int cells = layer->spec->height * layer->spec->width_cells, maps = x.dim[0] / cells;
    const int width = layer->spec->width;
    sv_tensor mean, small, gate;
    SV_TRY(sv_scratch_alloc(c, &mean, "mean of maps", SV_F32, maps, width, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &small, "squeezed", SV_F32, maps, layer->squeeze.n, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &gate, "gates", SV_F32, maps, width, SV_NONE));
    SV_TRY(sv_map_mean(c, mean, x, cells));
    SV_TRY(sv_linear(c, small, mean, SV_NONE, &layer->squeeze, SV_MAP_relu));
    SV_TRY(sv_linear(c, gate, small, SV_NONE, &layer->expand, SV_MAP_sigmoid));
    return sv_map_gate(c, x, x, gate, cells);
}

static sv_status group_norm(sv_ctx *c, const sv_convs5_layer *layer, int which, sv_tensor y, sv_tensor x)
{
    const sv_convs5_spec *s = layer->spec;
    const sv_video_norm *norm = &layer->group[which];
    return sv_map_norm(c, y, x, norm->scale, norm->bias, s->height * s->width_cells, s->groups, SV_VIDEO_EPS,
                       s->activation);
}

/* The output block, y in place. */
static sv_status run_output(sv_ctx *c, const sv_convs5_layer *layer, sv_tensor y, sv_tensor u)
{
    const sv_convs5_spec *s = layer->spec;
    sv_tensor p, q;
    SV_TRY(sv_scratch_alloc(c, &p, "output block", SV_F32, y.dim[0], s->width, SV_NONE));
    switch (s->output) {
    case SV_CONVS5_RESNET:
        SV_TRY(sv_scratch_alloc(c, &q, "output block", SV_F32, y.dim[0], s->width, SV_NONE));
        SV_TRY(group_norm(c, layer, 0, p, y));
        SV_TRY(sv_video_conv_run(c, &layer->d[0], q, p, SV_NONE, SV_MAP_identity));
        SV_TRY(group_norm(c, layer, 1, q, q));
        if (!s->squeeze_excite) return sv_video_conv_run(c, &layer->d[1], y, q, y, s->activation);
        SV_TRY(sv_video_conv_run(c, &layer->d[1], p, q, SV_NONE, SV_MAP_identity));
        SV_TRY(squeeze(c, layer, p));
        SV_TRY(sv_map2(c, y, y, p, SV_MAP_add));
        return sv_map1(c, y, y, s->activation);
    case SV_CONVS5_STANDARD:
        SV_TRY(sv_video_conv_run(c, &layer->d[0], p, u, y, SV_MAP_identity));
        SV_TRY(group_norm(c, layer, 0, y, p));
        return s->squeeze_excite ? squeeze(c, layer, y) : SV_OK;
    case SV_CONVS5_HALF_GLU:
        SV_TRY(sv_norm(c, y, y, layer->glu.scale, layer->glu.bias, SV_VIDEO_EPS, SV_MAP_gelu_tanh, SV_NONE));
        SV_TRY(sv_linear(c, p, y, SV_NONE, &layer->dense, SV_MAP_identity));
        return sv_map2(c, y, y, p, SV_MAP_mul_sigmoid);
    case SV_CONVS5_DIAG_RESNET:
        return SV_OK;
    }
    return SV_OK;
}

sv_status sv_convs5_layer_run(sv_ctx *c, const sv_convs5_layer *layer, sv_tensor y, sv_tensor u, int frames,
                              int stretch, sv_tensor state_in, sv_tensor state_out)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor x, powers = layer->powers;
    SV_CHECK(c, stretch >= 1 && stretch <= SV_CONVS5_STRETCH, SV_USAGE,
             "ConvS5 scans stretches of 1 to %d frames, not %d", SV_CONVS5_STRETCH, stretch);
    powers.dim[0] = stretch;
    SV_TRY(sv_scratch_alloc(c, &x, "ConvS5 states", SV_F32, u.dim[0], 2 * layer->spec->states, SV_NONE));
    SV_TRY(sv_video_conv_run(c, &layer->in, x, u, SV_NONE, SV_MAP_identity));
    SV_TRY(sv_map_scan(c, x, x, powers, frames, state_in, state_out));
    SV_TRY(sv_video_conv_run(c, &layer->out, y, x, SV_NONE, SV_MAP_identity));
    SV_TRY(sv_probe(c, "y_ssm", y));
    SV_TRY(run_output(c, layer, y, u));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
