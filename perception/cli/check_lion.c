/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of LION's parts: operator blocks, window orders, patch merging, sub-manifold convolution, layers and
 * whole blocks. Shapes and settings come from the file (its weights where a setting is implied by them).
 */
#include "check.h"

#include "backbones/lion.h"
#include "voxel/voxel.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- settings ----------------------------------------------------------------------------------------- */

static sv_status attribute_int(check_run *run, check_file *file, const char *name, int *out)
{
    double value = 0;
    SV_TRY(sv_h5_number(run->c, file->h5, name, &value));
    *out = (int)value;
    return SV_OK;
}

static sv_status attribute_ints3(check_run *run, check_file *file, const char *name, int32_t out[3])
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

/* Bind with 'bind', keeping prepared weights in 'arena'. */
typedef struct bound {
    sv_weights *weights;
    sv_config *config;
    const sv_node *operator_cfg;
    sv_binder *binder;
    sv_arena arena;
} bound;

static sv_status open_bound(check_run *run, check_file *file, bound *b, bool with_operator)
{
    memset(b, 0, sizeof *b);
    sv_arena_init(&b->arena, "reference weights", run->c->device);
    SV_TRY(check_weights(run, file, &b->weights));
    if (with_operator) {
        SV_TRY(operator_config(run, file, b->weights, &b->config));
        SV_TRY(sv_node_require(run->c, sv_config_root(b->config), "OPERATOR", &b->operator_cfg));
    }
    run->c->weights = &b->arena;
    return sv_binder_open(run->c, b->weights, &b->binder);
}

static void close_bound(check_run *run, bound *b)
{
    run->c->weights = NULL;
    sv_binder_close(b->binder);
    sv_config_free(b->config);
    sv_weights_free(b->weights);
    sv_arena_free(&b->arena);
}

/* ---- probes ------------------------------------------------------------------------------------------- */

/* Compares every probed tensor that the file has a dataset of that name for. */
typedef struct probe_compare {
    check_run *run;
    check_file *file;
    const char *prefix; /* put before the probe's name */
} probe_compare;

static sv_status compare_probe(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    (void)c;
    probe_compare *p = user;
    char dataset[256], attribute[300];
    const char *tail = strrchr(name, '/'); /* stage names are not part of these files */
    snprintf(dataset, sizeof dataset, "%s%s", p->prefix, tail ? tail + 1 : name);
    if (!check_has(p->file, dataset)) return SV_OK;
    snprintf(attribute, sizeof attribute, "maxabs_f64_f32/%s", dataset);
    return check_tensor(p->run, p->file, dataset, tensor, attribute);
}

/* ---- operator blocks ---------------------------------------------------------------------------------- */

static bool is_operator(check_file *file)
{
    if (!sv_h5_has_attribute(file->h5, "operator") || !sv_h5_has_attribute(file->h5, "d_model")) return false;
    for (int i = 0; i < file->count; i++)
        if (strncmp(file->names[i], "weights/", 8) == 0) return true;
    return false;
}

typedef struct operator_case {
    check_run *run;
    check_file *file;
    char name[64]; /* "G1_L77" */
    int groups, length;
} operator_case;

/* Ours [G*L, heads*width] as [G, heads, L, width]; reversed: each group's time backwards. malloc'ed. */
static float *by_heads(const float *rows, int count, int length, int heads, int width, bool reversed)
{
    float *out = malloc(sizeof *out * (size_t)count * (size_t)heads * (size_t)width + 1);
    for (int i = 0; out && i < count; i++) {
        const int g = i / length, t = reversed ? length - 1 - i % length : i % length;
        for (int h = 0; h < heads; h++)
            memcpy(
                out + (((size_t)g * (size_t)heads + (size_t)h) * (size_t)length + (size_t)t) * (size_t)width,
                rows + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)width, sizeof *out * (size_t)width);
    }
    return out;
}

/*
 * Mamba's recordings lie [G, channels, L], those of its backward direction in reversed time; RetNet's q, k, v and
 * retention [G, heads, L, width]; the others [G, L, channels], xLSTM's second direction in reversed time but for its result.
 */
static sv_status compare_intermediate(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    operator_case *k = user;
    char dataset[256], attribute[128];
    snprintf(dataset, sizeof dataset, "%s/%s", k->name, name);
    if (!check_has(k->file, dataset)) return SV_OK;
    snprintf(attribute, sizeof attribute, "%s_maxabs_f64_f32", k->name);
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(c, tensor, &host, &rows));
    const int channels = (int)sv_row_elements(tensor);
    const bool transposed = strncmp(name, "bwd/", 4) == 0 || strncmp(name, "fwd/", 4) == 0;
    const bool backward = strncmp(name, "bwd/", 4) == 0 ||
                          (strncmp(name, "rowwise_from_bot_right/", 23) == 0 && !strstr(name, "layer_out"));
    int heads = transposed ? channels : 1;
    sv_h5_array recorded;
    sv_status status = sv_h5_read(c, k->file->h5, dataset, &recorded);
    if (status == SV_OK) {
        if (recorded.ndim == 4 && recorded.dim[1] >= 1 && channels % recorded.dim[1] == 0)
            heads = (int)recorded.dim[1];
        sv_h5_array_free(&recorded);
        float *turned = by_heads(host, rows, k->length, heads, channels / heads, backward);
        status = turned ? check_dataset(k->run, k->file, dataset, turned, (size_t)rows * (size_t)channels,
                                        attribute)
                        : SV_FAIL(c, SV_NO_MEMORY, "no memory");
        free(turned);
    }
    free(host);
    return status;
}

static sv_status run_case(operator_case *k, const sv_operator *type, const void *self)
{
    sv_ctx *c = k->run->c;
    char name[160];
    sv_h5_array input;
    snprintf(name, sizeof name, "%s/input", k->name);
    SV_TRY(check_read(k->run, k->file, name, &input));
    SV_CHECK(c, input.ndim == 3 && !input.integer, SV_BAD_INPUT, "%s: '%s' is not [G,L,C]", k->file->path,
             name);
    k->groups = (int)input.dim[0];
    k->length = (int)input.dim[1];
    const int slots = k->groups * k->length, channels = (int)input.dim[2];
    sv_tensor x, y, identity;
    SV_TRY(sv_frame_alloc(c, &x, "reference input", SV_F32, slots, channels, SV_NONE));
    SV_TRY(c->device->upload(c, x.data, input.f, sizeof(float) * input.count));
    SV_TRY(check_attach_rows(k->run, &x, slots));
    SV_TRY(sv_frame_alloc(c, &y, "output", SV_F32, slots, channels, x));
    SV_TRY(sv_frame_alloc(c, &identity, "identity order", SV_I32, slots, 1, x));
    int32_t *host = malloc(sizeof *host * (size_t)slots + 1);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory");
    for (int i = 0; i < slots; i++) host[i] = i;
    sv_status status = c->device->upload(c, identity.data, host, sizeof *host * (size_t)slots);
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(host);
    sv_h5_array_free(&input);
    SV_TRY(status);
    const sv_order order = {.slot_row = identity, .row_slot = identity};
    c->probe = compare_intermediate;
    c->probe_user = k;
    status = type->forward(c, self, y, x, &order, k->length, NULL);
    c->probe = NULL;
    SV_TRY(status);
    char attribute[128];
    snprintf(name, sizeof name, "%s/output", k->name);
    snprintf(attribute, sizeof attribute, "%s_maxabs_f64_f32", k->name);
    return check_tensor(k->run, k->file, name, y, attribute);
}

static sv_status run_operator_bound(check_run *run, check_file *file, bound *b)
{
    sv_ctx *c = run->c;
    const char *name = NULL;
    sv_operator_spec spec = {.layers = 34, .cfg = sv_node_find(b->operator_cfg, "CFG")};
    SV_TRY(attribute_int(run, file, "d_model", &spec.channels));
    if (sv_h5_has_attribute(file->h5, "layer_id")) SV_TRY(attribute_int(run, file, "layer_id", &spec.layer));
    SV_TRY(sv_node_string(c, b->operator_cfg, "NAME", &name));
    const sv_operator *type = sv_operator_find(name);
    SV_CHECK(c, type, SV_UNSUPPORTED, "operator '%s' is not built in", name);
    void *self = calloc(1, type->bytes);
    SV_CHECK(c, self, SV_NO_MEMORY, "no memory");
    sv_status status = type->bind(b->binder, self, &spec);
    if (status == SV_OK) status = sv_binder_finish(b->binder);
    for (int i = 0; i < file->count && status == SV_OK; i++) {
        operator_case k = {.run = run, .file = file};
        const char *slash = strchr(file->names[i], '/');
        if (!slash || strcmp(slash, "/input") != 0) continue;
        snprintf(k.name, sizeof k.name, "%.*s", (int)(slash - file->names[i]), file->names[i]);
        status = run_case(&k, type, self);
    }
    free(self);
    return status;
}

static sv_status run_operator(check_run *run, check_file *file)
{
    bound b;
    sv_status status = open_bound(run, file, &b, true);
    if (status == SV_OK) status = run_operator_bound(run, file, &b);
    close_bound(run, &b);
    return status;
}

const check_kind check_operator = {"LION operator block", is_operator, run_operator};

/* ---- window orders ------------------------------------------------------------------------------------ */

static bool is_window(check_file *file)
{
    return check_has(file, "coords_bzyx") && check_has(file, "flat2win") && check_has(file, "win2flat") &&
           sv_h5_has_attribute(file->h5, "window_shape_xyz");
}

/* Samples of rows in any order: counted, for the official outputs put samples one after another. */
static sv_status window_arrays(check_run *run, check_file *file, const sv_window_job *job,
                               const sv_order *order, const char *axis, const int32_t *coords, int rows)
{
    sv_ctx *c = run->c;
    char name[40];
    void *host = NULL;
    int count = 0;
    SV_TRY(sv_download_rows(c, order->order, &host, &count));
    int32_t *rank_row = host, *row_rank = calloc((size_t)rows + 1, sizeof *row_rank);
    void *slots = NULL;
    int slot_count = 0;
    sv_status status = row_rank ? sv_download_rows(c, order->slot_row, &slots, &slot_count) : SV_NO_MEMORY;
    if (status == SV_OK) {
        snprintf(name, sizeof name, "order_%s", axis);
        status = check_dataset(run, file, name, rank_row, (size_t)rows, NULL);
    }
    if (status == SV_OK) {
        /* The official window index: the key without the place in the window, with the sample's windows before. */
        int32_t *window = malloc(sizeof *window * (size_t)rows + 1);
        for (int i = 0; window && i < rows; i++) {
            const int32_t volume = job->window.window[0] * job->window.window[1] * job->window.window[2];
            window[i] =
                (int32_t)(sv_window_key(&job->window, axis[0] == 'x' ? SV_DIRECTION_X : SV_DIRECTION_Y,
                                        coords + (size_t)i * 4) /
                          volume);
        }
        snprintf(name, sizeof name, "win_index_%s", axis);
        if (check_has(file, name)) status = check_dataset(run, file, name, window, (size_t)rows, NULL);
        free(window);
    }
    if (status == SV_OK) {
        /* flat2win and win2flat are the same for both directions; each direction's own arrays are compared with them. */
        for (int i = 0; i < rows; i++) row_rank[rank_row[i]] = i;
        int32_t *flat2win = slots, *win2flat = calloc((size_t)rows + 1, sizeof *win2flat);
        void *row_slot = NULL;
        int n = 0;
        for (int i = 0; i < slot_count; i++) flat2win[i] = row_rank[flat2win[i]];
        status = win2flat ? sv_download_rows(c, order->row_slot, &row_slot, &n) : SV_NO_MEMORY;
        for (int i = 0; status == SV_OK && i < rows; i++) win2flat[row_rank[i]] = ((int32_t *)row_slot)[i];
        if (status == SV_OK)
            status = check_dataset(run, file, "flat2win", flat2win, (size_t)slot_count, NULL);
        if (status == SV_OK) status = check_dataset(run, file, "win2flat", win2flat, (size_t)rows, NULL);
        free(win2flat);
        free(row_slot);
    }
    free(slots);
    free(row_rank);
    free(host);
    return status;
}

static sv_status run_window_arrays(check_run *run, check_file *file, const sv_h5_array *coords)
{
    sv_ctx *c = run->c;
    int32_t shape[3], window[3];
    int group = 0, shift = 0, batch = 1;
    SV_TRY(attribute_ints3(run, file, "sparse_shape_zyx", shape));
    SV_TRY(attribute_ints3(run, file, "window_shape_xyz", window));
    SV_TRY(attribute_int(run, file, "group_size", &group));
    SV_TRY(attribute_int(run, file, "shift", &shift));
    SV_TRY(attribute_int(run, file, "batch_size", &batch));
    const int rows = (int)coords->dim[0];
    /* Rows may come unsorted: count the samples instead of expecting blocks. */
    int32_t offsets[SV_MAX_BATCH + 1] = {0};
    SV_CHECK(c, batch >= 1 && batch <= SV_MAX_BATCH, SV_BAD_INPUT, "batch of %d samples", batch);
    for (int i = 0; i < rows; i++) {
        const int32_t sample = coords->i[4 * i];
        SV_CHECK(c, sample >= 0 && sample < batch, SV_BAD_INPUT, "row %d belongs to sample %d of %d", i,
                 sample, batch);
        offsets[sample + 1]++;
    }
    for (int b = 0; b < batch; b++) offsets[b + 1] += offsets[b];
    sv_tensor device;
    SV_TRY(check_upload(run, coords, &device));
    int32_t *device_offsets = NULL;
    SV_TRY(sv_frame_offsets(c, &device_offsets, batch));
    SV_TRY(c->device->upload(c, device_offsets, offsets, sizeof *offsets * ((size_t)batch + 1)));
    SV_TRY(c->device->queue_wait(c));
    device.offsets = device_offsets;
    device.batch = (int16_t)batch;
    sv_window_job job;
    SV_TRY(sv_window_job_alloc(c, &job, device, shape, window, group, shift != 0));
    SV_TRY(sv_scratch_alloc(c, &job.x.order, "order x", SV_I32, rows, 1, device));
    SV_TRY(sv_scratch_alloc(c, &job.y.order, "order y", SV_I32, rows, 1, device));
    SV_TRY(sv_window_orders(c, &job, 1));
    SV_TRY(window_arrays(run, file, &job, &job.x, "x", coords->i, rows));
    SV_TRY(window_arrays(run, file, &job, &job.y, "y", coords->i, rows));
    if (check_has(file, "coors_in_win_zyx")) {
        int32_t *place = malloc(sizeof *place * 3 * (size_t)rows + 1);
        SV_CHECK(c, place, SV_NO_MEMORY, "no memory");
        for (int i = 0; i < rows; i++) {
            /* the place within the window is what the key of direction x leaves after whole windows */
            const int64_t volume = (int64_t)window[0] * window[1] * window[2];
            const int64_t rest =
                sv_window_key(&job.window, SV_DIRECTION_X, coords->i + (size_t)i * 4) % volume;
            place[3 * i] = (int32_t)(rest % window[2]);
            place[3 * i + 1] = (int32_t)(rest / window[2] % window[1]);
            place[3 * i + 2] = (int32_t)(rest / window[2] / window[1]);
        }
        const sv_status status = check_dataset(run, file, "coors_in_win_zyx", place, 3 * (size_t)rows, NULL);
        free(place);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status run_window(check_run *run, check_file *file)
{
    sv_h5_array coords;
    SV_TRY(check_read(run, file, "coords_bzyx", &coords));
    const sv_status status = run_window_arrays(run, file, &coords);
    sv_h5_array_free(&coords);
    return status;
}

const check_kind check_window = {"window order", is_window, run_window};

/* ---- sparse inputs ------------------------------------------------------------------------------------ */

static sv_status sparse_input(check_run *run, check_file *file, sv_sparse *x)
{
    sv_h5_array features, coords;
    int batch = 1;
    SV_TRY(attribute_ints3(run, file, "sparse_shape_zyx", x->shape));
    if (sv_h5_has_attribute(file->h5, "batch_size")) SV_TRY(attribute_int(run, file, "batch_size", &batch));
    SV_TRY(check_read(run, file, "in_features", &features));
    sv_status status = check_read(run, file, "in_coords_bzyx", &coords);
    if (status == SV_OK) status = check_upload(run, &features, &x->x);
    if (status == SV_OK) status = check_upload(run, &coords, &x->coords);
    if (status == SV_OK) status = check_attach_samples(run, &x->coords, &coords, batch);
    x->x = sv_with_rows_of(x->x, x->coords);
    sv_h5_array_free(&features);
    sv_h5_array_free(&coords);
    return status;
}

static sv_status neighbours_of(sv_ctx *c, const sv_sparse *x, sv_tensor *table)
{
    SV_TRY(sv_frame_alloc(c, table, "neighbours", SV_I32, x->x.dim[0], 27, x->coords));
    return sv_neighbours(c, *table, x->coords, x->shape);
}

/* ---- sub-manifold convolution ------------------------------------------------------------------------- */

static bool is_subm(check_file *file)
{
    return check_has(file, "weights/weight") && check_has(file, "in_coords_bzyx") &&
           check_has(file, "out_features");
}

static sv_status run_subm_bound(check_run *run, check_file *file, bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x;
    sv_tensor table, y;
    sv_subm_weights conv;
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(sv_subm_prepare(c, &conv, sv_weights_find(b->weights, "weight")));
    SV_TRY(neighbours_of(c, &x, &table));
    SV_TRY(sv_frame_alloc(c, &y, "output", SV_F32, x.x.dim[0], conv.out, x.coords));
    SV_TRY(sv_subm_conv(c, y, x.x, table, &conv));
    return check_tensor(run, file, "out_features", y, "maxabs_f64_f32/out_features");
}

static sv_status run_subm(check_run *run, check_file *file)
{
    bound b;
    sv_status status = open_bound(run, file, &b, false);
    if (status == SV_OK) status = run_subm_bound(run, file, &b);
    close_bound(run, &b);
    return status;
}

const check_kind check_subm = {"sub-manifold convolution", is_subm, run_subm};

/* ---- patch merging ------------------------------------------------------------------------------------ */

static bool is_merging(check_file *file)
{
    return check_has(file, "weights/sub_conv.0.weight") && check_has(file, "unq_inv") &&
           sv_h5_has_attribute(file->h5, "down_scale_xyz");
}

static sv_status run_merging_bound(check_run *run, check_file *file, bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x, out;
    sv_tensor table;
    sv_patch_merging merging = {0};
    double diffusion = 0, share = 0.2;
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(attribute_ints3(run, file, "down_scale_xyz", merging.scale));
    SV_TRY(sv_h5_number(c, file->h5, "diffusion", &diffusion));
    if (sv_h5_has_attribute(file->h5, "diff_scale")) SV_TRY(sv_h5_number(c, file->h5, "diff_scale", &share));
    double copies = 4, cells = 1;
    if (sv_h5_has_attribute(file->h5, "diffusion_scale"))
        SV_TRY(sv_h5_number(c, file->h5, "diffusion_scale", &copies));
    if (sv_h5_has_attribute(file->h5, "coords_shift"))
        SV_TRY(sv_h5_number(c, file->h5, "coords_shift", &cells));
    SV_CHECK(c, diffusion == 0 || (copies == 4 && cells == 1), SV_UNSUPPORTED,
             "voxel generation with %g copies at %g cells", copies, cells);
    merging.diffusion = diffusion != 0 ? share : 0;
    SV_TRY(sv_patch_merging_bind(b->binder, &merging, x.x.dim[1]));
    SV_TRY(sv_binder_finish(b->binder));
    SV_TRY(neighbours_of(c, &x, &table));
    probe_compare probe = {run, file, ""};
    c->probe = compare_probe;
    c->probe_user = &probe;
    const int32_t capacity = 2 * x.x.dim[0] + 16;
    const sv_status status =
        sv_patch_merging_forward(c, &merging, &out, &x, table, capacity, &c->counters[0]);
    c->probe = NULL;
    SV_TRY(status);
    SV_TRY(check_tensor(run, file, "out_coords_bzyx", out.coords, NULL));
    SV_TRY(check_tensor(run, file, "out_features", out.x, "maxabs_f64_f32/out_features"));
    return check_dataset(run, file, "out_shape_zyx", out.shape, 3, NULL);
}

static sv_status run_merging(check_run *run, check_file *file)
{
    bound b;
    sv_status status = open_bound(run, file, &b, false);
    if (status == SV_OK) status = run_merging_bound(run, file, &b);
    close_bound(run, &b);
    return status;
}

const check_kind check_merging = {"patch merging", is_merging, run_merging};

/* ---- LION layers and blocks --------------------------------------------------------------------------- */

static bool is_layer(check_file *file)
{
    return sv_h5_has_attribute(file->h5, "operator") && sv_h5_has_attribute(file->h5, "window_shape_xyz") &&
           check_has(file, "in_features") && !sv_h5_has_attribute(file->h5, "down_scales");
}

static bool is_block(check_file *file)
{
    return sv_h5_has_attribute(file->h5, "operator") && sv_h5_has_attribute(file->h5, "down_scales") &&
           check_has(file, "in_features");
}

static sv_status run_layer_bound(check_run *run, check_file *file, bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x;
    sv_window_job job;
    int32_t window[3];
    int group = 0, shift = 0;
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(attribute_ints3(run, file, "window_shape_xyz", window));
    SV_TRY(attribute_int(run, file, "group_size", &group));
    SV_TRY(attribute_int(run, file, "shift", &shift));
    sv_lion_layer layer = {0};
    sv_status status = sv_lion_layer_bind(b->binder, &layer, b->operator_cfg, NULL, x.x.dim[1], 0, 34);
    if (status == SV_OK) status = sv_binder_finish(b->binder);
    if (status == SV_OK) status = sv_window_job_alloc(c, &job, x.coords, x.shape, window, group, shift != 0);
    if (status == SV_OK) status = sv_window_orders(c, &job, 1);
    if (status == SV_OK) status = sv_lion_layer_forward(c, &layer, x.x, &job);
    if (status == SV_OK) status = check_tensor(run, file, "out_features", x.x, "maxabs_f64_f32/out_features");
    sv_lion_layer_free(&layer);
    return status;
}

static sv_status run_layer(check_run *run, check_file *file)
{
    bound b;
    sv_status status = open_bound(run, file, &b, true);
    if (status == SV_OK) status = run_layer_bound(run, file, &b);
    close_bound(run, &b);
    return status;
}

const check_kind check_layer = {"LION layer", is_layer, run_layer};

static sv_status run_block_bound(check_run *run, check_file *file, bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x;
    sv_lion_block block = {.depth = 0, .shift = {false, true}};
    int32_t scale[3];
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(attribute_ints3(run, file, "window_shape_xyz", block.window));
    SV_TRY(attribute_int(run, file, "group_size", &block.group));
    SV_TRY(attribute_ints3(run, file, "down_scales", scale));
    while (block.depth < SV_LION_DEPTH) {
        char name[48];
        snprintf(name, sizeof name, "encoder_%d_out", block.depth);
        if (!check_has(file, name)) break;
        memcpy(block.down[block.depth++].scale, scale, sizeof scale);
    }
    sv_status status = sv_lion_block_bind(b->binder, &block, b->operator_cfg, NULL, x.x.dim[1], 0, 34);
    if (status == SV_OK) status = sv_binder_finish(b->binder);
    probe_compare probe = {run, file, ""};
    c->probe = compare_probe;
    c->probe_user = &probe;
    if (status == SV_OK) status = sv_lion_block_forward(c, &block, &x);
    c->probe = NULL;
    if (status == SV_OK) status = check_tensor(run, file, "out_features", x.x, "maxabs_f64_f32/out_features");
    sv_lion_block_free(&block);
    return status;
}

static sv_status run_block(check_run *run, check_file *file)
{
    bound b;
    sv_status status = open_bound(run, file, &b, true);
    if (status == SV_OK) status = run_block_bound(run, file, &b);
    close_bound(run, &b);
    return status;
}

const check_kind check_block = {"LION block", is_block, run_block};
