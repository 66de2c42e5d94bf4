/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole detectors: NAME.h5 (recorded stages and boxes of a frame) beside NAME.yaml and its checkpoint NAME.pth.
 *
 * Stages are compared as the frame runs, through the probe. Where our choice of voxels to grow differs from
 * the recorded one only among scores closer than CHECK_MARGIN, the line says so and the recorded choice is
 * imposed, so that later stages stay comparable.
 */
#include "check_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_model(check_file *file)
{
    return check_has(file, "input/points_bxyz");
}

static sv_status beside(check_run *run, const check_file *file, const char *extension, char *out, size_t size)
{
    const char *dot = strrchr(file->path, '.');
    const int stem = dot ? (int)(dot - file->path) : (int)strlen(file->path);
    snprintf(out, size, "%.*s%s", stem, file->path, extension);
    SV_CHECK(run->c, access(out, R_OK) == 0, SV_IO,
             "%s: recorded stages of a detector need its %s beside them", file->path, extension);
    return SV_OK;
}

/* ---- one stage tensor --------------------------------------------------------------------------------- */

sv_status check_statistics(model_check *m, const char *mean_name, const char *std_name, const float *x,
                           int rows, int channels, const char *attribute)
{
    check_file *file = m->file;
    if (!check_has(file, mean_name) || rows == 0) return SV_OK;
    float *mean = calloc((size_t)channels, sizeof *mean),
          *deviation = calloc((size_t)channels, sizeof *deviation);
    SV_CHECK(m->run->c, mean && deviation, SV_NO_MEMORY, "no memory");
    for (int ch = 0; ch < channels; ch++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < rows; i++) sum += x[(size_t)i * (size_t)channels + (size_t)ch];
        for (int i = 0; i < rows; i++) {
            const double d = x[(size_t)i * (size_t)channels + (size_t)ch] - sum / rows;
            squares += d * d;
        }
        mean[ch] = (float)(sum / rows);
        deviation[ch] =
            (float)sqrt(squares / (rows > 1 ? rows - 1 : 1)); /* of a sample, as PyTorch takes it */
    }
    sv_status status = check_dataset(m->run, file, mean_name, mean, (size_t)channels, attribute);
    if (status == SV_OK && check_has(file, std_name))
        status = check_dataset(m->run, file, std_name, deviation, (size_t)channels, attribute);
    free(mean);
    free(deviation);
    return status;
}

/* Every row_stride-th row against "<stage>/<what>_rows", and the statistics of all rows. */
static sv_status compare_rows(model_check *m, const char *dataset, const char *attribute, const char *stage,
                              const float *x, int rows, int channels)
{
    if (check_has(m->file, dataset)) {
        const int kept = (rows + m->row_stride - 1) / m->row_stride;
        float *some = malloc(sizeof *some * (size_t)kept * (size_t)channels + 1);
        SV_CHECK(m->run->c, some, SV_NO_MEMORY, "no memory");
        for (int i = 0; i < kept; i++)
            memcpy(some + (size_t)i * (size_t)channels,
                   x + (size_t)i * (size_t)m->row_stride * (size_t)channels, sizeof *x * (size_t)channels);
        const sv_status status =
            check_dataset(m->run, m->file, dataset, some, (size_t)kept * (size_t)channels, attribute);
        free(some);
        SV_TRY(status);
    }
    char mean[128], deviation[128];
    snprintf(mean, sizeof mean, "%s/channel_mean", stage);
    snprintf(deviation, sizeof deviation, "%s/channel_std", stage);
    return check_statistics(m, mean, deviation, x, rows, channels, attribute);
}

sv_status check_crop(model_check *m, const char *dataset, const char *origin_name, const char *attribute,
                     const float *map, int width, int channels, check_layout layout)
{
    if (!check_has(m->file, dataset)) return SV_OK;
    sv_ctx *c = m->run->c;
    double origin[2];
    sv_h5_array want;
    SV_TRY(sv_h5_numbers(c, m->file->h5, origin_name, origin, 2));
    SV_TRY(check_read(m->run, m->file, dataset, &want));
    const bool turned = layout == CHECK_CWH;
    const int64_t *d = want.dim + want.ndim - 3;
    const int rows = (int)(layout == CHECK_HWC ? d[0] : d[1]),
              columns = (int)(layout == CHECK_HWC ? d[1] : d[2]),
              n = (int)(layout == CHECK_HWC ? d[2] : d[0]);
    float *crop = want.ndim >= 3 && n == channels ? malloc(sizeof *crop * want.count + 1) : NULL;
    sv_status status = SV_OK;
    if (!crop)
        status =
            SV_FAIL(c, SV_BAD_INPUT, "%s: '%s' does not hold %d channels", m->file->path, dataset, channels);
    for (int i = 0; crop && i < rows; i++) {
        for (int j = 0; j < columns; j++) {
            const size_t a = (size_t)(origin[0] + i), b = (size_t)(origin[1] + j);
            const float *cell =
                map + (turned ? b * (size_t)width + a : a * (size_t)width + b) * (size_t)channels;
            for (int ch = 0; ch < channels; ch++)
                crop[layout == CHECK_HWC
                         ? ((size_t)i * (size_t)columns + (size_t)j) * (size_t)channels + (size_t)ch
                         : ((size_t)ch * (size_t)rows + (size_t)i) * (size_t)columns + (size_t)j] = cell[ch];
        }
    }
    if (crop)
        check_floats(m->run, m->file, dataset, crop, want.f, want.count,
                     check_tolerance(m->run, m->file, attribute, want.f, want.count));
    free(crop);
    sv_h5_array_free(&want);
    return status;
}

static int by_value(const void *a, const void *b)
{
    return (*(const int32_t *)a > *(const int32_t *)b) - (*(const int32_t *)a < *(const int32_t *)b);
}

/* The picks as a set; a difference within CHECK_MARGIN of the cut is reported and the recorded picks are put in
 * place. */
static sv_status compare_picks(model_check *m, sv_ctx *c, const char *dataset, sv_tensor picks)
{
    sv_h5_array want;
    void *host = NULL;
    int count = 0;
    SV_TRY(check_read(m->run, m->file, dataset, &want));
    SV_TRY(sv_download_rows(c, picks, &host, &count));
    int32_t *ours = host, *mine = malloc(sizeof *mine * (size_t)count + 1),
            *theirs = malloc(sizeof *theirs * want.count + 1);
    sv_status status = mine && theirs ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory");
    if (status == SV_OK && (size_t)count != want.count) {
        check_result(m->run, m->file, dataset, false, "%d picks instead of %zu", count, want.count);
    } else if (status == SV_OK) {
        memcpy(mine, ours, sizeof *mine * (size_t)count);
        memcpy(theirs, want.i, sizeof *theirs * want.count);
        qsort(mine, (size_t)count, sizeof *mine, by_value);
        qsort(theirs, want.count, sizeof *theirs, by_value);
        float cut = count > 0 ? m->scores[ours[0]] : 0;
        for (int i = 1; i < count; i++) cut = m->scores[ours[i]] < cut ? m->scores[ours[i]] : cut;
        int differ = 0, a = 0, b = 0;
        float widest = 0;
        while (a < count || b < count) {
            if (a < count && b < count && mine[a] == theirs[b]) {
                a++, b++;
                continue;
            }
            const bool is_mine = b >= count || (a < count && mine[a] < theirs[b]);
            const int row = is_mine ? mine[a++] : theirs[b++];
            const float distance = row < m->score_count ? fabsf(m->scores[row] - cut) : INFINITY;
            if (distance > widest || isnan(distance)) widest = distance;
            differ += is_mine;
        }
        if (differ == 0) {
            check_result(m->run, m->file, dataset, true, "equal set of %d picks", count);
        } else {
            check_result(m->run, m->file, dataset, widest <= CHECK_MARGIN,
                         "%d of %d picks differ, scores within %.1e of the cut%s", differ, count,
                         (double)widest,
                         widest <= CHECK_MARGIN ? ": a rounding tie; the recorded choice is imposed" : "");
            status = c->device->upload(c, picks.data, want.i, sizeof *want.i * want.count);
            if (status == SV_OK) status = c->device->queue_wait(c);
        }
    }
    free(mine);
    free(theirs);
    free(host);
    sv_h5_array_free(&want);
    return status;
}

static bool ends_with(const char *text, const char *tail)
{
    const size_t a = strlen(text), b = strlen(tail);
    return a >= b && strcmp(text + a - b, tail) == 0;
}

static sv_status compare_bev(model_check *m, const float *map, int rows, int channels)
{
    SV_TRY(check_crop(m, "bev/spatial_features_crop", "bev/crop_origin_yx",
                      "maxabs_f64_f32/bev/spatial_features", map, m->width, channels, CHECK_CHW));
    double sum = 0, sum_abs = 0, want = 0;
    for (size_t i = 0; i < (size_t)rows * (size_t)channels; i++) {
        sum += map[i];
        sum_abs += fabs((double)map[i]);
    }
    if (!sv_h5_has_attribute(m->file->h5, "bev/sum_abs")) return SV_OK;
    SV_TRY(sv_h5_number(m->run->c, m->file->h5, "bev/sum_abs", &want));
    check_result(m->run, m->file, "bev/sum_abs", fabs(sum_abs - want) <= 1e-5 * want, "%.9g, recorded %.9g",
                 sum_abs, want);
    SV_TRY(sv_h5_number(m->run->c, m->file->h5, "bev/sum", &want));
    check_result(m->run, m->file, "bev/sum", fabs(sum - want) <= 1e-5 * sum_abs, "%.9g, recorded %.9g", sum,
                 want);
    return SV_OK;
}

static sv_status compare_stage(model_check *m, const char *name, sv_tensor tensor, const float *host,
                               int rows)
{
    const int channels = (int)sv_row_elements(tensor);
    char dataset[192], attribute[192], stage[96];
    snprintf(attribute, sizeof attribute, "maxabs_f64_f32/%s", name);
    if (strncmp(name, "backbone_3d/", 12) == 0 && ends_with(name, "/features")) {
        snprintf(stage, sizeof stage, "%.*s", (int)(strlen(name) - strlen("/features")), name);
        snprintf(dataset, sizeof dataset, "%s_rows", name);
        return compare_rows(m, dataset, attribute, stage, host, rows, channels);
    }
    if (strcmp(name, "vfe/voxel_features") == 0)
        return compare_rows(m, "vfe/voxel_features_rows", attribute, "vfe", host, rows, channels);
    if (strcmp(name, "bev/spatial_features") == 0) return compare_bev(m, host, rows, channels);
    if (strcmp(name, "backbone_2d/spatial_features_2d") == 0) {
        SV_TRY(check_crop(m, "backbone_2d/spatial_features_2d_crop", "backbone_2d/crop_origin_yx", attribute,
                          host, m->map_width, channels, CHECK_CHW));
        return check_statistics(m, "backbone_2d/channel_mean", "backbone_2d/channel_std", host, rows,
                                channels, attribute);
    }
    return SV_OK;
}

/* The scores of the voxels that compare_picks() judges by. */
static sv_status keep_scores(model_check *m, void **host, int rows)
{
    free(m->scores);
    m->scores = *host;
    m->score_count = rows;
    *host = NULL;
    return SV_OK;
}

/* 'c' is the detector's context: the tensor is written in its queue, and no other waits for that. */
static sv_status compare_probe(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    model_check *m = user;
    const bool head = strncmp(name, "head/", 5) == 0;
    if (m->run->stop) return SV_OK;
    if (tensor.dtype == SV_I32 && !head) {
        if (!check_has(m->file, name)) return SV_OK;
        if (ends_with(name, "topk_indices")) return compare_picks(m, c, name, tensor);
    } else if (tensor.dtype != SV_F32 && !head) {
        return SV_OK;
    }
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(c, tensor, &host, &rows));
    sv_status status = SV_OK;
    if (head)
        status = check_head_tensor(m, name, tensor, host, rows);
    else if (tensor.dtype == SV_I32)
        status =
            check_dataset(m->run, m->file, name, host, (size_t)rows * (size_t)sv_row_elements(tensor), NULL);
    else if (ends_with(name, "topk_scores"))
        status = keep_scores(m, &host, rows);
    else
        status = compare_stage(m, name, tensor, host, rows);
    free(host);
    return status;
}

/* ---- the frame ---------------------------------------------------------------------------------------- */

static sv_status read_frame(model_check *m, const sv_device *device, sv_frame **out)
{
    sv_ctx *c = m->run->c;
    sv_h5_array points;
    SV_TRY(check_read(m->run, m->file, "input/points_bxyz", &points));
    const int columns = sv_model_point_columns(m->model);
    sv_status status = SV_OK;
    *out = NULL;
    if (points.ndim != 2 || points.integer || points.dim[1] != columns + 1)
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: input/points_bxyz is not [N,%d]", m->file->path, columns + 1);
    else if (!(*out = sv_frame_new(device, (int)points.dim[0], columns)))
        status = SV_FAIL(c, SV_NO_MEMORY, "no memory for the points");
    for (int64_t i = 0; status == SV_OK && i < points.dim[0]; i++) {
        const float *row = points.f + i * (columns + 1);
        if (row[0] != 0)
            status = SV_FAIL(c, SV_UNSUPPORTED, "recorded detectors with more than one sample");
        else
            memcpy((*out)->points + (size_t)i * (size_t)columns, row + 1, sizeof *row * (size_t)columns);
    }
    if (status == SV_OK) (*out)->count = (int)points.dim[0];
    sv_h5_array_free(&points);
    return status;
}

static sv_status run_frame(model_check *m, sv_detector *d)
{
    sv_ctx *c = m->run->c;
    sv_frame *frame = NULL;
    double stride = 16;
    if (sv_h5_has_attribute(m->file->h5, "row_stride"))
        SV_TRY(sv_h5_number(c, m->file->h5, "row_stride", &stride));
    m->row_stride = (int)stride;
    m->width = sv_model_grid(m->model)->cells[0];
    sv_model_map_size(m->model, &m->map_height, &m->map_width);
    SV_TRY(read_frame(m, c->device, &frame));
    sv_box *boxes = malloc(sizeof *boxes * (size_t)sv_model_max_boxes(m->model));
    int count = 0;
    /* Once without the probe: the capacities settle, so that the compared run is not interrupted by a rerun. */
    sv_status status = boxes ? sv_detect(d, &frame, 1, NULL, boxes, &count) : SV_NO_MEMORY;
    sv_detector_ctx(d)->probe = compare_probe;
    sv_detector_ctx(d)->probe_user = m;
    if (status == SV_OK) status = sv_detect(d, &frame, 1, NULL, boxes, &count);
    if (status != SV_OK) SV_FAIL(c, status, "%s", sv_detector_error(d));
    if (status == SV_OK && c->device->ops->nms && !m->run->stop) {
        status = check_head_boxes(m, boxes, count);
    }
    free(boxes);
    sv_frame_release(frame);
    return status;
}

static sv_status run_model(check_run *run, check_file *file)
{
    char config[1024], weights[1024];
    SV_TRY(beside(run, file, ".yaml", config, sizeof config));
    SV_TRY(beside(run, file, ".pth", weights, sizeof weights));
    sv_model *model = NULL;
    SV_TRY(sv_app_model(run->app, run->c, config, weights, &model));
    sv_detector_def def = sv_detector_def_default();
    def.ctx = sv_app_ctx_def(run->app);
    if (!run->c->device->ops->chain_run)
        def.last = SV_STAGE_BEV; /* a device without the 2-D part: its stages so far */
    model_check m = {.run = run, .file = file, .model = model};
    sv_detector *detector = NULL;
    sv_status status = sv_detector_open(&def, model, &detector);
    if (status != SV_OK)
        SV_FAIL(run->c, status, "%s", sv_detector_error(detector));
    else
        status = run_frame(&m, detector);
    sv_detector_close(detector);
    sv_model_release(model);
    free(m.scores);
    check_head_free(&m);
    return status;
}

const check_kind check_model = {"detector", is_model, run_model};
