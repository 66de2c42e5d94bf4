/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of LION's parts around the operators: window orders, patch merging, sub-manifold convolution, layers and
 * whole blocks.
 */
#include "check_bound.h"

#include "backbones/lion.h"
#include "voxel/voxel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    SV_TRY(check_ints3(run, file, "sparse_shape_zyx", shape));
    SV_TRY(check_ints3(run, file, "window_shape_xyz", window));
    SV_TRY(check_int(run, file, "group_size", &group));
    SV_TRY(check_int(run, file, "shift", &shift));
    SV_TRY(check_int(run, file, "batch_size", &batch));
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
    SV_TRY(check_ints3(run, file, "sparse_shape_zyx", x->shape));
    if (sv_h5_has_attribute(file->h5, "batch_size")) SV_TRY(check_int(run, file, "batch_size", &batch));
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

/* ---- sub-manifold convolution ------------------------------------------------------------------------- */

static bool is_subm(check_file *file)
{
    return check_has(file, "weights/weight") && check_has(file, "in_coords_bzyx") &&
           check_has(file, "out_features");
}

static sv_status run_subm_bound(check_run *run, check_file *file, check_bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x;
    sv_neighbourhood around;
    sv_tensor y;
    sv_subm_weights conv;
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(sv_subm_prepare(c, &conv, sv_weights_find(b->weights, "weight")));
    SV_TRY(sv_neighbourhood_find(c, &around, x.coords, x.shape));
    SV_TRY(sv_frame_alloc(c, &y, "output", SV_F32, x.x.dim[0], conv.out, x.coords));
    SV_TRY(sv_subm_conv(c, y, x.x, &around, &conv));
    return check_tensor(run, file, "out_features", y, "maxabs_f64_f32/out_features");
}

static sv_status run_subm(check_run *run, check_file *file)
{
    return check_with_weights(run, file, false, run_subm_bound);
}

const check_kind check_subm = {"sub-manifold convolution", is_subm, run_subm};

/* ---- patch merging ------------------------------------------------------------------------------------ */

static bool is_merging(check_file *file)
{
    return check_has(file, "weights/sub_conv.0.weight") && check_has(file, "unq_inv") &&
           sv_h5_has_attribute(file->h5, "down_scale_xyz");
}

static sv_status run_merging_bound(check_run *run, check_file *file, check_bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x, out;
    sv_neighbourhood around;
    sv_patch_merging merging = {0};
    double diffusion = 0, share = 0.2;
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(check_ints3(run, file, "down_scale_xyz", merging.scale));
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
    SV_TRY(sv_neighbourhood_find(c, &around, x.coords, x.shape));
    probe_compare probe = {run, file, ""};
    c->probe = compare_probe;
    c->probe_user = &probe;
    const int32_t capacity = 2 * x.x.dim[0] + 16;
    const sv_status status =
        sv_patch_merging_forward(c, &merging, &out, &x, &around, capacity, &c->counters[0]);
    c->probe = NULL;
    SV_TRY(status);
    SV_TRY(check_tensor(run, file, "out_coords_bzyx", out.coords, NULL));
    SV_TRY(check_tensor(run, file, "out_features", out.x, "maxabs_f64_f32/out_features"));
    return check_dataset(run, file, "out_shape_zyx", out.shape, 3, NULL);
}

static sv_status run_merging(check_run *run, check_file *file)
{
    return check_with_weights(run, file, false, run_merging_bound);
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

static sv_status run_layer_bound(check_run *run, check_file *file, check_bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x;
    sv_window_job job;
    int32_t window[3];
    int group = 0, shift = 0;
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(check_ints3(run, file, "window_shape_xyz", window));
    SV_TRY(check_int(run, file, "group_size", &group));
    SV_TRY(check_int(run, file, "shift", &shift));
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
    return check_with_weights(run, file, true, run_layer_bound);
}

const check_kind check_layer = {"LION layer", is_layer, run_layer};

static sv_status run_block_bound(check_run *run, check_file *file, check_bound *b)
{
    sv_ctx *c = run->c;
    sv_sparse x;
    sv_lion_block block = {.depth = 0, .shift = {false, true}};
    int32_t scale[3];
    SV_TRY(sparse_input(run, file, &x));
    SV_TRY(check_ints3(run, file, "window_shape_xyz", block.window));
    SV_TRY(check_int(run, file, "group_size", &block.group));
    SV_TRY(check_ints3(run, file, "down_scales", scale));
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
    return check_with_weights(run, file, true, run_block_bound);
}

const check_kind check_block = {"LION block", is_block, run_block};
