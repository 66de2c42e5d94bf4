/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of ConvS5: layers, stacks, residual blocks, spectra, whole models. A group of a file is one case; its kind
 * is told by its datasets. Every case runs as a clip with the scan parallel in time, as a clip that is walked, and frame by
 * frame with the state carried, where the file has results for it.
 */
#include "check_convs5.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 200, STRETCH = 4 };

static const char *named(const convs5_case *k, char out[NAME], const char *name)
{
    snprintf(out, NAME, "%s%s", k->sub ? k->sub : "", name);
    return out;
}

static sv_status number_of(const convs5_case *k, const char *name, int *out)
{
    return check_video_int(k->run, k->file, k->group, name, out);
}

static bool flag_of(const convs5_case *k, const char *name, bool otherwise)
{
    int value = otherwise;
    if (number_of(k, name, &value) != SV_OK) sv_error_clear(k->run->c);
    return value != 0;
}

/* ---- states: files hold (re, im) pairs, the engine all real parts of a cell, then all imaginary ones ---------- */

static void split_pairs(float *to, const float *pairs, size_t cells, int states)
{
    for (size_t i = 0; i < cells; i++)
        for (int p = 0; p < states; p++) {
            to[i * 2 * (size_t)states + (size_t)p] = pairs[(i * (size_t)states + (size_t)p) * 2];
            to[i * 2 * (size_t)states + (size_t)(states + p)] =
                pairs[(i * (size_t)states + (size_t)p) * 2 + 1];
        }
}

/* The first 'keep' of 'states' as pairs. */
static void join_pairs(float *pairs, const float *from, size_t cells, int states, int keep)
{
    for (size_t i = 0; i < cells; i++)
        for (int p = 0; p < keep; p++) {
            pairs[(i * (size_t)keep + (size_t)p) * 2] = from[i * 2 * (size_t)states + (size_t)p];
            pairs[(i * (size_t)keep + (size_t)p) * 2 + 1] =
                from[i * 2 * (size_t)states + (size_t)(states + p)];
        }
}

static sv_status upload(sv_ctx *c, sv_tensor *out, const float *values, int rows, int columns)
{
    SV_TRY(sv_frame_alloc(c, out, "reference input", SV_F32, rows, columns, SV_NONE));
    SV_TRY(c->device->upload(c, out->data, values, sizeof *values * (size_t)rows * (size_t)columns));
    return c->device->queue_wait(c);
}

/* "GROUP/name" as a tensor of rows with the last dimension as columns; pairs of states are split. */
static sv_status read_rows(convs5_case *k, const char *name, bool pairs, sv_tensor *out, sv_h5_array *array)
{
    SV_TRY(check_video_read(k->run, k->file, k->group, name, array));
    sv_status status = SV_OK;
    const int last = array->ndim - (pairs ? 2 : 1);
    if (array->integer || last < 1 || array->count == 0 || (pairs && array->dim[last + 1] != 2))
        status = SV_FAIL(k->run->c, SV_BAD_INPUT, "%s: '%s/%s' is no map of %s numbers", k->file->path,
                         k->group, name, pairs ? "complex" : "real");
    const int columns = status == SV_OK ? (int)array->dim[last] : 1, all = pairs ? 2 * columns : columns;
    float *split = status == SV_OK && pairs ? malloc(sizeof *split * array->count) : NULL;
    if (status == SV_OK && pairs && !split) status = SV_FAIL(k->run->c, SV_NO_MEMORY, "no memory");
    if (split) split_pairs(split, array->f, array->count / (size_t)all, columns);
    if (status == SV_OK)
        status = upload(k->run->c, out, split ? split : array->f, (int)(array->count / (size_t)all), all);
    free(split);
    if (status != SV_OK) sv_h5_array_free(array);
    return status;
}

static sv_status compare_rows(convs5_case *k, const char *name, sv_tensor t)
{
    char full[NAME];
    void *host = NULL;
    int rows = 0;
    if (!check_video_has(k->file, k->group, named(k, full, name))) return SV_OK;
    SV_TRY(sv_download_rows(k->run->c, t, &host, &rows));
    const sv_status status =
        check_video_compare(k->run, k->file, k->group, full, host, (size_t)rows * (size_t)sv_row_elements(t));
    free(host);
    return status;
}

/* States [rows, 2P] with as many leading ones as the file has. */
sv_status convs5_compare_states(convs5_case *k, const char *name, const float *host, size_t rows, int states)
{
    char full[NAME], path[NAME + 100];
    sv_h5_array want;
    if (!check_video_has(k->file, k->group, named(k, full, name))) return SV_OK;
    snprintf(path, sizeof path, "%s/%s", k->group, full);
    SV_TRY(check_read(k->run, k->file, path, &want));
    const int keep = want.ndim >= 2 ? (int)want.dim[want.ndim - 2] : 0;
    sv_h5_array_free(&want);
    SV_CHECK(k->run->c, keep >= 1 && keep <= states, SV_BAD_INPUT, "%s: '%s' has %d of %d states",
             k->file->path, path, keep, states);
    float *pairs = malloc(sizeof *pairs * rows * (size_t)keep * 2);
    SV_CHECK(k->run->c, pairs, SV_NO_MEMORY, "no memory");
    join_pairs(pairs, host, rows, states, keep);
    const sv_status status =
        check_video_compare(k->run, k->file, k->group, full, pairs, rows * (size_t)keep * 2);
    free(pairs);
    return status;
}

sv_status convs5_compare_state_tensor(convs5_case *k, const char *name, sv_tensor t)
{
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(k->run->c, t, &host, &rows));
    const sv_status status = convs5_compare_states(k, name, host, (size_t)rows, t.dim[1] / 2);
    free(host);
    return status;
}

/* ---- stacks and layers ---------------------------------------------------------------------------------- */

typedef sv_status (*run_fn)(sv_ctx *c, const void *model, sv_tensor y, sv_tensor u, int frames, int stretch,
                            sv_tensor state_in, sv_tensor state_out);

static sv_status run_layer(sv_ctx *c, const void *model, sv_tensor y, sv_tensor u, int frames, int stretch,
                           sv_tensor state_in, sv_tensor state_out)
{
    return sv_convs5_layer_run(c, model, y, u, frames, stretch, state_in, state_out);
}
static sv_status run_stack(sv_ctx *c, const void *model, sv_tensor y, sv_tensor u, int frames, int stretch,
                           sv_tensor state_in, sv_tensor state_out)
{
    return sv_convs5_stack_run(c, model, y, u, frames, stretch, state_in, state_out);
}

typedef struct sequence {
    run_fn run;
    const void *model;
    const char *last; /* name of the last states */
    sv_tensor u, y, x0, state;
} sequence;

/* Rows of frame t. */
static sv_tensor frame_of(const convs5_case *k, sv_tensor t, int frame)
{
    const int rows = t.dim[0] / k->frames;
    t.data = (float *)t.data + (size_t)frame * (size_t)rows * (size_t)t.pitch;
    t.dim[0] = rows;
    return t;
}

static sv_status compare_shown(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    convs5_case *k = user;
    const char *slash = strrchr(name, '/');
    (void)c;
    return k->showing ? compare_rows(k, slash ? slash + 1 : name, tensor) : SV_OK;
}

static sv_status run_clip(convs5_case *k, const sequence *s, const char *sub, int stretch, sv_tensor before)
{
    sv_ctx *c = k->run->c;
    k->sub = sub;
    k->showing = true;
    c->probe = compare_shown;
    c->probe_user = k;
    const sv_status status = s->run(c, s->model, s->y, s->u, k->frames, stretch, before, s->state);
    c->probe = NULL;
    SV_TRY(status);
    SV_TRY(compare_rows(k, "y", s->y));
    return convs5_compare_state_tensor(k, s->last, s->state);
}

static sv_status run_steps(convs5_case *k, const sequence *s)
{
    sv_ctx *c = k->run->c;
    const size_t count = (size_t)s->state.dim[0] * (size_t)s->state.dim[1];
    float *all = malloc(sizeof *all * count * (size_t)k->frames);
    SV_CHECK(c, all, SV_NO_MEMORY, "no memory");
    sv_status status = SV_OK;
    for (int t = 0; t < k->frames && status == SV_OK; t++) {
        status = s->run(c, s->model, frame_of(k, s->y, t), frame_of(k, s->u, t), 1, 1,
                        t == 0 ? s->x0 : s->state, s->state);
        if (status == SV_OK)
            status = c->device->download(c, all + (size_t)t * count, s->state.data, sizeof *all * count);
    }
    k->sub = "step/";
    if (status == SV_OK) status = compare_rows(k, "y", s->y);
    if (status == SV_OK)
        status = convs5_compare_states(k, "x_ri", all, (size_t)s->state.dim[0] * (size_t)k->frames,
                                       s->state.dim[1] / 2);
    free(all);
    if (status == SV_OK) status = convs5_compare_state_tensor(k, s->last, s->state);
    return status;
}

static sv_status run_sequence(convs5_case *k, sequence *s)
{
    sv_ctx *c = k->run->c;
    SV_TRY(sv_frame_alloc(c, &s->y, "output", SV_F32, s->u.dim[0], s->u.dim[1], SV_NONE));
    SV_TRY(sv_frame_alloc(c, &s->state, "state", SV_F32, s->x0.dim[0], s->x0.dim[1], SV_NONE));
    SV_TRY(run_clip(k, s, "", STRETCH, s->x0));
    SV_TRY(run_clip(k, s, "zero/", STRETCH, SV_NONE));
    SV_TRY(run_clip(k, s, "seq/", 1, s->x0));
    return run_steps(k, s);
}

/* What the attributes and the shapes of the weights say. 'prefix': of the first layer's weights. */
static sv_status read_spec(convs5_case *k, const sv_weights *w, const char *prefix, const sv_h5_array *u,
                           sv_convs5_spec *s)
{
    sv_ctx *c = k->run->c;
    char name[NAME], text[64] = "";
    int clip = 1;
    *s =
        (sv_convs5_spec){.layers = 1, .groups = 1, .blocks = 1, .kernel_d = 3, .dt_min = 1e-3, .dt_max = 0.1};
    SV_CHECK(c, u->ndim == 5, SV_BAD_INPUT, "%s: '%s/u' has %d dimensions, not 5", k->file->path, k->group,
             u->ndim);
    k->frames = (int)u->dim[0];
    k->batch = (int)u->dim[1];
    s->height = (int)u->dim[2];
    s->width_cells = (int)u->dim[3];
    s->width = (int)u->dim[4];
    SV_TRY(number_of(k, "P", &s->states));
    SV_TRY(number_of(k, "n_layers", &s->layers));
    SV_TRY(number_of(k, "num_groups", &s->groups));
    SV_TRY(number_of(k, "clip_eigs", &clip));
    s->clip_eigenvalues = clip != 0;
    s->squeeze_excite = flag_of(k, "squeeze_excite", false);
    s->norm = flag_of(k, "use_norm", false);
    s->norm_first = flag_of(k, "prenorm", false);
    s->skip = flag_of(k, "per_layer_skip", false);
    s->long_skips = flag_of(k, "skip_connections", false);
    SV_TRY(check_video_text(k->run, k->file, k->group, "C_D_config", text));
    SV_CHECK(c, sv_convs5_output_parse(text, &s->output), SV_UNSUPPORTED, "C_D_config '%s'", text);
    SV_TRY(check_video_text(k->run, k->file, k->group, "activation", text));
    SV_CHECK(c, sv_convs5_activation_parse(text, &s->activation), SV_UNSUPPORTED, "activation '%s'", text);
    snprintf(name, sizeof name, "%sB", prefix);
    sv_tensor t = sv_weights_find(w, name);
    s->kernel_b = sv_is_none(t) ? 3 : (int)lround(sqrt((double)t.dim[1] / s->width));
    snprintf(name, sizeof name, "%sC", prefix);
    t = sv_weights_find(w, name);
    s->kernel_c = sv_is_none(t) ? 3 : t.dim[0];
    snprintf(name, sizeof name, "%sC_D_conv.Conv_0.kernel", prefix);
    t = sv_weights_find(w, name);
    if (!sv_is_none(t)) s->kernel_d = t.dim[0];
    return SV_OK;
}

/* A and B' as the file has them: [P,2] and [k,k,U,P,2]. */
static sv_status compare_discrete(convs5_case *k, const sv_convs5_layer *layer)
{
    const int states = layer->spec->states;
    const size_t rows = (size_t)layer->host_b.dim[0];
    k->sub = "";
    SV_TRY(check_video_compare(k->run, k->file, k->group, "A_bar_ri", sv_f32(layer->host_a),
                               2 * (size_t)states));
    return convs5_compare_states(k, "B_bar_ri", sv_f32(layer->host_b), rows, states);
}

static sv_status run_layers(convs5_case *k, bool stack)
{
    sv_ctx *c = k->run->c;
    sv_weights *w = NULL;
    sv_binder *b = NULL;
    sv_h5_array u = {0}, x0 = {0};
    sv_convs5_spec spec;
    sequence s = {.run = stack ? run_stack : run_layer, .last = stack ? "last_states_ri" : "x_last_ri"};
    sv_convs5_stack *model = calloc(1, sizeof *model);
    SV_CHECK(c, model, SV_NO_MEMORY, "no memory");
    sv_status status = check_video_weights(k->run, k->file, k->group, &w);
    if (status == SV_OK) status = read_rows(k, "u", false, &s.u, &u);
    if (status == SV_OK) status = read_rows(k, "x0_ri", true, &s.x0, &x0);
    if (status == SV_OK) status = read_spec(k, w, stack ? "layers_0.seq." : "", &u, &spec);
    if (status == SV_OK) status = sv_binder_open(c, w, &b);
    if (status == SV_OK && stack) status = sv_convs5_stack_bind(b, model, &spec);
    if (status == SV_OK && !stack) status = sv_convs5_layer_bind(b, &model->layer[0], &spec);
    if (status == SV_OK) status = sv_binder_finish(b);
    if (status == SV_OK && !stack) status = compare_discrete(k, &model->layer[0]);
    s.model = stack ? (const void *)model : &model->layer[0];
    if (status == SV_OK) status = run_sequence(k, &s);
    sv_binder_close(b);
    sv_weights_free(w);
    sv_h5_array_free(&u);
    sv_h5_array_free(&x0);
    free(model);
    return status;
}

/* ---- residual blocks and spectra ------------------------------------------------------------------------ */

static sv_status run_block(convs5_case *k)
{
    sv_ctx *c = k->run->c;
    sv_weights *w = NULL;
    sv_binder *b = NULL;
    sv_h5_array x = {0};
    sv_tensor in, y;
    sv_video_block block;
    sv_status status = check_video_weights(k->run, k->file, k->group, &w);
    if (status == SV_OK) status = read_rows(k, "x", false, &in, &x);
    if (status == SV_OK && x.ndim != 4)
        status = SV_FAIL(c, SV_BAD_INPUT, "'%s/x' is no batch of maps", k->group);
    if (status == SV_OK) status = sv_binder_open(c, w, &b);
    if (status == SV_OK) {
        const sv_tensor bias = sv_weights_find(w, "AddBias_0.bias");
        status = sv_video_block_bind(b, &block, (int)x.dim[3], bias.dim[0], (int)x.dim[1], (int)x.dim[2]);
    }
    if (status == SV_OK) status = sv_binder_finish(b);
    if (status == SV_OK) status = sv_frame_alloc(c, &y, "output", SV_F32, in.dim[0], block.out, SV_NONE);
    if (status == SV_OK) status = sv_video_block_run(c, &block, y, in);
    k->sub = "";
    if (status == SV_OK) status = compare_rows(k, "y", y);
    sv_binder_close(b);
    sv_weights_free(w);
    sv_h5_array_free(&x);
    return status;
}

/* "hippo_N_blocks" */
static sv_status run_spectrum(convs5_case *k)
{
    sv_ctx *c = k->run->c;
    int n = 0, blocks = 0;
    SV_CHECK(c, sscanf(k->group, "hippo_%d_%d", &n, &blocks) == 2 && n >= 2 && n <= 1 << 11 && blocks >= 1,
             SV_UNSUPPORTED, "the spectrum '%s' is not named hippo_N_BLOCKS", k->group);
    const int states = n / 2;
    double *exact = malloc(sizeof *exact * (size_t)states);
    float *values = malloc(sizeof *values * (size_t)states);
    sv_status status = exact && values ? sv_convs5_hippo(c, states, blocks, exact) : SV_NO_MEMORY;
    for (int i = 0; i < states && status == SV_OK; i++) values[i] = (float)exact[i];
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, "Lambda_im", values, (size_t)states);
    for (int i = 0; i < states && status == SV_OK; i++) values[i] = -0.5f;
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, "Lambda_re", values, (size_t)states);
    free(exact);
    free(values);
    return status;
}

/* ---- the kind ------------------------------------------------------------------------------------------- */

/* Whether the group has a dataset of this name; a file may know one array by several names and list only one. */
static bool holds(const convs5_case *k, const char *name)
{
    char path[NAME];
    snprintf(path, sizeof path, "%s/%s", k->group, name);
    return sv_h5_has(k->file->h5, path);
}

typedef enum case_kind { OTHER, LAYER, STACK, BLOCK, MODEL, SPECTRUM } case_kind;

static case_kind kind_of(const convs5_case *k)
{
    static const char *const marks[] = {[LAYER] = "A_bar_ri",
                                        [STACK] = "w/layers_0/seq/B",
                                        [BLOCK] = "w/AddBias_0/bias",
                                        [MODEL] = "tf/deter",
                                        [SPECTRUM] = "Lambda_im"};
    for (int i = LAYER; i <= SPECTRUM; i++)
        if (holds(k, marks[i])) return (case_kind)i;
    return OTHER;
}

static sv_status run_group(convs5_case *k)
{
    switch (kind_of(k)) {
    case LAYER:
        return run_layers(k, false);
    case STACK:
        return run_layers(k, true);
    case BLOCK:
        return run_block(k);
    case MODEL:
        return convs5_check_model(k);
    case SPECTRUM:
        return run_spectrum(k);
    case OTHER:
        break; /* its datasets are reported as not covered */
    }
    return SV_OK;
}

static bool next_group(const check_file *file, int *i, char group[96])
{
    for (; *i < file->count; (*i)++) {
        const size_t length = strcspn(file->names[*i], "/");
        if (length >= 96 || (strncmp(group, file->names[*i], length) == 0 && group[length] == '\0')) continue;
        snprintf(group, 96, "%.*s", (int)length, file->names[*i]);
        return true;
    }
    return false;
}

static bool is_convs5(check_file *file)
{
    convs5_case k = {.file = file};
    for (int i = 0; next_group(file, &i, k.group);)
        if (kind_of(&k) != OTHER) return true;
    return false;
}

static sv_status run_convs5(check_run *run, check_file *file)
{
    sv_ctx *c = run->c;
    convs5_case k = {.run = run, .file = file};
    sv_status status = SV_OK;
    for (int i = 0; !run->stop && status == SV_OK && next_group(file, &i, k.group);) {
        sv_arena arena;
        sv_arena_init(&arena, "reference weights", c->device);
        c->weights = &arena;
        status = run_group(&k);
        c->weights = NULL;
        sv_arena_free(&arena);
        if (status == SV_OK) status = sv_arena_reset(c, &c->frame);
        if (status == SV_OK) status = sv_arena_reset(c, &c->scratch);
    }
    return status;
}

const check_kind check_convs5 = {"ConvS5", is_convs5, run_convs5};
