/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole model that predicts the next picture of a clip, without quantisation (published configurations: Moving-MNIST):
 *
 *     picture in -1..1 -> encoder -> [latent, action embedding] -> conv1x1 to d_model -> layers of ConvS5 -> decoder, tanh
 *
 * The action is the one channel that comes last; a model that is not told actions sees row 0 of the embedding everywhere,
 * which is a constant and goes into the bias of the 1x1 convolution.
 */
#include "convs5.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- configuration -------------------------------------------------------------------------------------- */

/* The official keys as they are, or in capitals below MODEL. */
typedef struct reader {
    sv_ctx *c;
    const sv_node *node;
    bool capitals;
    char path[96];
} reader;

static const char *key(reader *r, const char *official)
{
    snprintf(r->path, sizeof r->path, "%s", official);
    for (char *p = r->path; r->capitals && *p; p++) *p = (char)toupper((unsigned char)*p);
    return r->path;
}

static sv_status read_int(reader *r, const char *official, int low, int high, int *out)
{
    SV_TRY(sv_node_int(r->c, r->node, key(r, official), out));
    SV_CHECK(r->c, *out >= low && *out <= high, SV_UNSUPPORTED, "%s: %d; %d to %d is supported", r->path,
             *out, low, high);
    return SV_OK;
}

static sv_status read_depths(reader *r, const char *which, sv_video_codec *codec)
{
    char name[48];
    const sv_node *list = NULL;
    snprintf(name, sizeof name, "%s.depths", which);
    SV_TRY(sv_node_require(r->c, r->node, key(r, name), &list));
    codec->depths = sv_node_count(list);
    SV_CHECK(r->c, codec->depths >= 1 && codec->depths <= SV_CONVS5_DEPTHS, SV_UNSUPPORTED,
             "%s: %d depths; 1 to %d are supported", r->path, codec->depths, SV_CONVS5_DEPTHS);
    SV_TRY(sv_node_ints(r->c, r->node, r->path, codec->depth, codec->depths));
    for (int i = 0; i < codec->depths; i++)
        SV_CHECK(r->c, codec->depth[i] >= 1 && codec->depth[i] <= 1 << 14, SV_BAD_INPUT, "%s: a depth of %d",
                 r->path, codec->depth[i]);
    snprintf(name, sizeof name, "%s.blocks", which);
    return read_int(r, name, 1, strcmp(which, "encoder") == 0 ? SV_CONVS5_BLOCKS : 1, &codec->blocks);
}

static sv_status read_spec(reader *r, sv_convs5_spec *s)
{
    sv_ctx *c = r->c;
    const char *text = NULL;
    int size = 0;
    SV_TRY(read_int(r, "seq_model.n_layers", 1, SV_CONVS5_LAYERS, &s->layers));
    SV_TRY(read_int(r, "seq_model.num_groups", 1, 1 << 14, &s->groups));
    SV_TRY(sv_node_bool(c, r->node, key(r, "seq_model.use_norm"), &s->norm));
    SV_TRY(sv_node_bool(c, r->node, key(r, "seq_model.prenorm"), &s->norm_first));
    SV_TRY(sv_node_bool(c, r->node, key(r, "seq_model.per_layer_skip"), &s->skip));
    SV_TRY(sv_node_bool_or(c, r->node, key(r, "seq_model.skip_connections"), &s->long_skips, false));
    SV_TRY(sv_node_bool_or(c, r->node, key(r, "seq_model.squeeze_excite"), &s->squeeze_excite, false));
    SV_TRY(sv_node_string(c, r->node, key(r, "seq_model.layer_activation"), &text));
    SV_CHECK(c, sv_convs5_activation_parse(text, &s->activation), SV_UNSUPPORTED,
             "%s: '%s' is not supported; gelu, swish, relu and elu are", r->path, text);
    SV_CHECK(c, !s->long_skips || s->layers == 12, SV_UNSUPPORTED,
             "seq_model.skip_connections joins layers 3 and 8, 6 and 11: 12 layers are needed, not %d",
             s->layers);
    SV_TRY(read_int(r, "ssm.ssm_size", 2, 1 << 14, &size));
    SV_CHECK(c, size % 2 == 0, SV_BAD_INPUT, "%s: %d; states come in pairs", r->path, size);
    s->states = size / 2;
    SV_TRY(sv_node_int_or(c, r->node, key(r, "ssm.blocks"), &s->blocks, 1));
    SV_CHECK(c, s->blocks >= 1 && s->states % s->blocks == 0, SV_BAD_INPUT, "%s: %d blocks of %d states",
             r->path, s->blocks, s->states);
    SV_TRY(sv_node_bool(c, r->node, key(r, "ssm.clip_eigs"), &s->clip_eigenvalues));
    SV_TRY(read_int(r, "ssm.B_kernel_size", 1, 15, &s->kernel_b));
    SV_TRY(read_int(r, "ssm.C_kernel_size", 1, 15, &s->kernel_c));
    SV_TRY(read_int(r, "ssm.D_kernel_size", 1, 15, &s->kernel_d));
    SV_TRY(sv_node_number_or(c, r->node, key(r, "ssm.dt_min"), &s->dt_min, 0.001));
    SV_TRY(sv_node_number_or(c, r->node, key(r, "ssm.dt_max"), &s->dt_max, 0.1));
    SV_CHECK(c, s->dt_min > 0 && s->dt_max >= s->dt_min, SV_BAD_INPUT, "%s: steps from %g to %g", r->path,
             s->dt_min, s->dt_max);
    SV_TRY(sv_node_string(c, r->node, key(r, "ssm.C_D_config"), &text));
    SV_CHECK(c, sv_convs5_output_parse(text, &s->output), SV_UNSUPPORTED,
             "%s: '%s' is not supported; resnet, standard, half_glu and diag_resnet are", r->path, text);
    return SV_OK;
}

/* Keys of the official files that only training, logging and the evaluation use. */
static void ignore_training(reader *r)
{
    static const char *const keys[] = {"seed",
                                       "cache",
                                       "multinode",
                                       "batch_size",
                                       "eval_size",
                                       "num_workers",
                                       "lr",
                                       "lr_schedule",
                                       "weight_decay",
                                       "total_steps",
                                       "warmup_steps",
                                       "save_interval",
                                       "viz_interval",
                                       "log_interval",
                                       "data_path",
                                       "eval_seq_len_1",
                                       "eval_seq_len_2",
                                       "eval_seq_len_3",
                                       "seq_len",
                                       "num_shards",
                                       "rng_keys",
                                       "batch_keys",
                                       "loss_weight",
                                       "seq_model.dropout",
                                       "n_cond",
                                       "drop_loss_rate",
                                       "causal_masking",
                                       "action_dim",
                                       "action_embed_dim",
                                       "dropout_actions",
                                       "action_dropout_rate",
                                       "action_mask_id",
                                       "open_loop_ctx",
                                       "open_loop_ctx_1",
                                       "action_conditioned_1",
                                       "open_loop_ctx_2",
                                       "action_conditioned_2",
                                       "open_loop_ctx_3",
                                       "action_conditioned_3"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        sv_node_ignore(r->c, r->node, key(r, keys[i]), NULL);
}

static sv_status read_config(sv_ctx *c, sv_convs5 *m, sv_convs5_spec *s, const sv_config *config)
{
    const sv_node *root = sv_config_root(config), *model = sv_node_find(root, "MODEL");
    const char *name = NULL;
    reader r = {.c = c, .node = model ? model : root, .capitals = model != NULL};
    bool actions = false;
    int size = 0, latent[2] = {0};
    SV_TRY(sv_node_string(c, r.node, model ? "NAME" : "model", &name));
    SV_CHECK(c, strcmp(name, model ? "ConvS5" : "convS5_noVQ") == 0, SV_UNSUPPORTED,
             "%s: '%s' is not supported; %s is", model ? "MODEL.NAME" : "model", name,
             model ? "ConvS5" : "convS5_noVQ");
    SV_TRY(read_int(&r, "image_size", 1, 1 << 12, &size));
    SV_TRY(read_int(&r, "channels", 1, 4, &m->channels));
    m->height = m->width = size;
    SV_TRY(read_depths(&r, "encoder", &m->encoder));
    SV_TRY(read_depths(&r, "decoder", &m->decoder));
    SV_TRY(read_int(&r, "d_model", 1, 1 << 14, &m->decoder.d_model));
    SV_TRY(read_spec(&r, s));
    const int halvings = m->encoder.depths - 1;
    SV_CHECK(c, m->decoder.depths == m->encoder.depths && size % (1 << halvings) == 0, SV_BAD_INPUT,
             "pictures of %d x %d, %d depths of the encoder and %d of the decoder do not fit together", size,
             size, m->encoder.depths, m->decoder.depths);
    SV_TRY(sv_node_int_or(c, r.node, key(&r, "latent_height"), &latent[0], size >> halvings));
    SV_TRY(sv_node_int_or(c, r.node, key(&r, "latent_width"), &latent[1], size >> halvings));
    SV_CHECK(c, latent[0] == size >> halvings && latent[1] == latent[0], SV_BAD_INPUT,
             "latent_height and latent_width: %d x %d, but the encoder gives %d x %d", latent[0], latent[1],
             size >> halvings, size >> halvings);
    SV_TRY(sv_node_bool_or(c, r.node, key(&r, "use_actions"), &actions, false));
    SV_CHECK(c, !actions, SV_UNSUPPORTED, "%s: models that are told actions are not supported", r.path);
    ignore_training(&r);
    m->latent_height = s->height = latent[0];
    m->latent_width = s->width_cells = latent[1];
    m->encoder.height = m->decoder.height = m->height;
    m->encoder.width = m->decoder.width = m->width;
    m->encoder.channels = m->decoder.channels = m->channels;
    s->width = m->encoder.d_model = m->decoder.d_model;
    return sv_config_check_used(c, config);
}

/* ---- binding -------------------------------------------------------------------------------------------- */

static sv_status bind_action(sv_binder *b, sv_convs5 *m)
{
    const int in = m->encoder.depth[m->encoder.depths - 1], out = m->decoder.d_model;
    sv_tensor embedding, w, bias;
    float *turned = NULL, *offset = NULL;
    sv_binder_push(b, "action_embeds");
    SV_TRY(sv_bind_host(b, &embedding, "embedding", (sv_init){SV_INIT_NORMAL, 0, 1}, 2,
                        (const int32_t[]){2, 1}));
    sv_binder_pop(b);
    sv_binder_push(b, "action_conv.Conv_0");
    const sv_init init = sv_init_fan_in(in + 1);
    SV_TRY(sv_bind_host(b, &w, "kernel", init, 4, (const int32_t[]){1, 1, in + 1, out}));
    SV_TRY(sv_bind_host(b, &bias, "bias", init, 1, &out));
    sv_binder_pop(b);
    SV_TRY(sv_bind_memory(b, &turned, (int64_t)in * out));
    SV_TRY(sv_bind_memory(b, &offset, out));
    for (int o = 0; o < out; o++) {
        for (int i = 0; i < in; i++) turned[(size_t)o * (size_t)in + (size_t)i] = sv_f32(w)[i * out + o];
        offset[o] =
            (float)((double)sv_f32(bias)[o] + (double)sv_f32(w)[in * out + o] * (double)sv_f32(embedding)[0]);
    }
    sv_tensor folded = sv_view(offset, SV_F32, out, 1);
    return sv_linear_prepare(sv_binder_ctx(b), &m->action, sv_view(turned, SV_F32, out, in), folded);
}

static sv_status bind_model(sv_binder *b, sv_convs5 *m, const sv_config *config)
{
    sv_convs5_spec spec = {0};
    SV_TRY(read_config(sv_binder_ctx(b), m, &spec, config));
    sv_binder_push(b, "encoder");
    SV_TRY(sv_video_encoder_bind(b, &m->encoder));
    sv_binder_pop(b);
    SV_TRY(bind_action(b, m));
    sv_binder_push(b, "sequence_model");
    SV_TRY(sv_convs5_stack_bind(b, &m->stack, &spec));
    sv_binder_pop(b);
    sv_binder_push(b, "decoder");
    SV_TRY(sv_video_decoder_bind(b, &m->decoder));
    sv_binder_pop(b);
    SV_TRY(sv_binder_finish(b));
    m->parameters = sv_binder_parameters(b);
    return SV_OK;
}

/* Loads 'weights', or fills them where 'fill' is set. */
static sv_status open_model(sv_ctx *c, const sv_config *config, const sv_weights *weights, sv_weights *fill,
                            uint64_t seed, sv_convs5 **out)
{
    sv_binder *b = NULL;
    sv_convs5 *m = calloc(1, sizeof *m);
    *out = NULL;
    SV_CHECK(c, m, SV_NO_MEMORY, "no memory for a model");
    sv_arena_init(&m->weights, "model", c->device);
    sv_arena *before = c->weights;
    c->weights = &m->weights;
    sv_status status = fill ? sv_binder_open_init(c, fill, seed, &b) : sv_binder_open(c, weights, &b);
    if (status == SV_OK) status = bind_model(b, m, config);
    if (status == SV_OK) status = c->device->queue_wait(c);
    c->weights = before;
    sv_binder_close(b);
    if (status == SV_OK)
        *out = m;
    else
        sv_convs5_close(m);
    return status;
}

sv_status sv_convs5_open(sv_ctx *c, const sv_config *config, const sv_weights *weights, sv_convs5 **out)
{
    return open_model(c, config, weights, NULL, 0, out);
}

void sv_convs5_close(sv_convs5 *m)
{
    if (!m) return;
    sv_arena_free(&m->weights);
    free(m);
}

sv_status sv_convs5_init(sv_ctx *c, const sv_config *config, uint64_t seed, sv_weights *weights)
{
    sv_convs5 *m = NULL;
    const sv_status status = open_model(c, config, NULL, weights, seed, &m);
    sv_convs5_close(m);
    return status;
}

/* ---- running -------------------------------------------------------------------------------------------- */

int sv_convs5_state_rows(const sv_convs5 *m, int batch)
{
    return m->stack.spec.layers * batch * m->latent_height * m->latent_width;
}

int sv_convs5_state_columns(const sv_convs5 *m)
{
    return 2 * m->stack.spec.states;
}

/* Pictures that encoder and decoder take at once: few, so that what passes between their layers stays in caches. */
enum { SLICE_CELLS = 8192 };

/* 'count' maps of 'cells' rows from map 'first' on. */
static sv_tensor maps_of(sv_tensor t, int cells, int first, int count)
{
    t.data = (float *)t.data + (size_t)first * (size_t)cells * (size_t)t.pitch;
    t.dim[0] = count * cells;
    return t;
}

static sv_status in_slices(sv_ctx *c, const sv_convs5 *m, sv_tensor latent, sv_tensor pictures, int maps,
                           bool encode)
{
    const int pixels = m->height * m->width, cells = m->latent_height * m->latent_width;
    const int most = pixels < SLICE_CELLS ? SLICE_CELLS / pixels : 1;
    for (int first = 0; first < maps; first += most) {
        const int count = maps - first < most ? maps - first : most;
        const sv_tensor inside = maps_of(latent, cells, first, count),
                        outside = maps_of(pictures, pixels, first, count);
        SV_TRY(encode ? sv_video_encode(c, &m->encoder, inside, outside)
                      : sv_video_decode(c, &m->decoder, outside, inside));
    }
    return SV_OK;
}

sv_status sv_convs5_predict(sv_ctx *c, const sv_convs5 *m, sv_tensor predicted, sv_tensor pictures,
                            int frames, int batch, int stretch, sv_tensor state_in, sv_tensor state_out)
{
    const int cells = m->latent_height * m->latent_width, maps = frames * batch;
    SV_CHECK(c, pictures.dim[0] == maps * m->height * m->width && pictures.dim[1] == m->channels,
             SV_BAD_SHAPE, "pictures are [%d,%d]; %d of %d x %d x %d were announced", pictures.dim[0],
             pictures.dim[1], maps, m->height, m->width, m->channels);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor latent, x;
    SV_TRY(sv_stage_begin(c, "encoder"));
    SV_TRY(sv_scratch_alloc(c, &latent, "latent maps", SV_F32, maps * cells,
                            m->encoder.depth[m->encoder.depths - 1], SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &x, "sequence", SV_F32, maps * cells, m->stack.spec.width, SV_NONE));
    SV_TRY(in_slices(c, m, latent, pictures, maps, true));
    SV_TRY(sv_probe(c, "encode", latent));
    SV_TRY(sv_linear(c, x, latent, SV_NONE, &m->action, SV_MAP_identity));
    SV_TRY(sv_probe(c, "action_conv", x));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_begin(c, "sequence"));
    SV_TRY(sv_convs5_stack_run(c, &m->stack, x, x, frames, stretch, state_in, state_out));
    SV_TRY(sv_probe(c, "deter", x));
    SV_TRY(sv_stage_end(c));
    if (!sv_is_none(predicted)) {
        SV_TRY(sv_stage_begin(c, "decoder"));
        SV_TRY(in_slices(c, m, x, predicted, maps, false));
        SV_TRY(sv_stage_end(c));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
