/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna detect: point files in, boxes out.
 */
#include "app.h"

#include "perception/core/dump.h"
#include "perception/detector.h"
#include "perception/points.h"
#include "perception/render.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *config, *weights, *output, *image, *layout, *dump_path;
static const char *format = "json", *colour = "height";
static int batch_size = 1;

typedef struct detection {
    const sv_app *app;
    sv_ctx *c; /* readers and writers; the detector has its own */
    sv_model *model;
    sv_detector *detector;
    sv_results results;
    bool one_file, begun; /* every frame into one JSON file or stdout, which begins with the first frame */
    sv_box *boxes;
    int counts[SV_MAX_BATCH];
} detection;

/* "dir/000134.bin" -> "000134" */
static void stem_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    snprintf(out, size, "%.*s", (int)(dot && dot > name ? (size_t)(dot - name) : strlen(name)), name);
}

static bool is_folder(const char *path)
{
    struct stat info;
    const size_t length = strlen(path);
    return (length > 0 && path[length - 1] == '/') || (stat(path, &info) == 0 && S_ISDIR(info.st_mode));
}

static void path_in(const char *folder, const char *stem, const char *extension, char *out, size_t size)
{
    const size_t length = strlen(folder);
    snprintf(out, size, "%s%s%s%s", folder, length > 0 && folder[length - 1] == '/' ? "" : "/", stem,
             extension);
}

static sv_status make_folder(sv_ctx *c, const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return SV_OK;
    SV_CHECK(c, mkdir(path, 0777) == 0, SV_IO, "%s: the folder cannot be made", path);
    return SV_OK;
}

static sv_status read_frame(detection *d, const char *path, sv_frame **out)
{
    sv_points points = {0};
    *out = NULL;
    SV_TRY(sv_points_read(d->c, path, layout ? layout : sv_model_point_layout(d->model), &points));
    sv_status status = SV_OK;
    const int columns = sv_model_point_columns(d->model);
    if (points.columns != columns) {
        status = SV_FAIL(d->c, SV_BAD_INPUT, "%s: layout '%s' has %d columns, the model takes %d (%s)", path,
                         layout ? layout : sv_model_point_layout(d->model), points.columns, columns,
                         sv_model_point_layout(d->model));
    } else {
        if (points.dropped > 0)
            sv_log(d->c, SV_LOG_WARNING, "%s: %d points that are not finite were left out", path,
                   points.dropped);
        *out = sv_frame_new(sv_detector_ctx(d->detector)->device, points.count, columns);
        if (!*out) status = SV_FAIL(d->c, SV_NO_MEMORY, "%s: no memory for %d points", path, points.count);
    }
    if (status == SV_OK) {
        if (points.count > 0)
            memcpy((*out)->points, points.data, sizeof(float) * (size_t)points.count * (size_t)columns);
        (*out)->count = points.count;
        stem_of(path, (*out)->id, sizeof(*out)->id);
    }
    sv_points_free(&points);
    return status;
}

static sv_status draw(detection *d, const sv_frame *frame, const sv_box *boxes, int count, const char *path)
{
    const sv_grid *grid = sv_model_grid(d->model);
    sv_bev_options options = sv_bev_options_default();
    options.x_min = grid->min[0];
    options.x_max = grid->max[0];
    options.y_min = grid->min[1];
    options.y_max = grid->max[1];
    options.colour_by = strcmp(colour, "intensity") == 0 ? SV_BEV_INTENSITY : SV_BEV_HEIGHT;
    options.title = frame->id;
    /* about 900 pixels along the longer side */
    const float longest = options.x_max - options.x_min > options.y_max - options.y_min
                              ? options.x_max - options.x_min
                              : options.y_max - options.y_min;
    options.pixels_per_metre = 900.0f / longest < 12 ? 900.0f / longest : 12;
    const sv_points points = {.data = frame->points, .count = frame->count, .columns = frame->columns};
    sv_image picture;
    SV_TRY(sv_render_bev(d->c, &picture, &points, boxes, count, sv_model_classes(d->model),
                         sv_model_class_count(d->model), &options));
    const sv_status status = sv_image_write_png(d->c, &picture, path);
    sv_image_free(&picture);
    return status;
}

static sv_status write_frame(detection *d, const sv_frame *frame, const sv_box *boxes, int count)
{
    char path[1024];
    if (d->one_file) {
        const char *const *classes = sv_model_classes(d->model);
        const int class_count = sv_model_class_count(d->model);
        if (!d->begun && output)
            SV_TRY(sv_results_open(d->c, &d->results, output, classes, class_count));
        else if (!d->begun)
            sv_results_begin(&d->results, stdout, classes, class_count);
        d->begun = true;
        SV_TRY(sv_results_add(d->c, &d->results, frame->id, boxes, count, sv_model_has_velocity(d->model)));
    } else {
        path_in(output, frame->id, ".json", path, sizeof path);
        SV_TRY(sv_results_open(d->c, &d->results, path, sv_model_classes(d->model),
                               sv_model_class_count(d->model)));
        sv_status status =
            sv_results_add(d->c, &d->results, frame->id, boxes, count, sv_model_has_velocity(d->model));
        if (status == SV_OK) status = sv_results_close(d->c, &d->results);
        sv_results_discard(&d->results);
        SV_TRY(status);
    }
    if (!image) return SV_OK;
    if (!is_folder(image)) return draw(d, frame, boxes, count, image);
    path_in(image, frame->id, ".png", path, sizeof path);
    return draw(d, frame, boxes, count, path);
}

static sv_status detect_batch(detection *d, char **inputs, int count)
{
    sv_frame *frames[SV_MAX_BATCH] = {0};
    sv_status status = SV_OK;
    for (int i = 0; i < count && status == SV_OK; i++) status = read_frame(d, inputs[i], &frames[i]);
    if (status == SV_OK) {
        status = sv_detect(d->detector, frames, count, NULL, d->boxes, d->counts);
        if (status != SV_OK) SV_FAIL(d->c, status, "%s", sv_detector_error(d->detector));
    }
    for (int i = 0; i < count && status == SV_OK; i++)
        status = write_frame(d, frames[i], d->boxes + (size_t)i * (size_t)sv_model_max_boxes(d->model),
                             d->counts[i]);
    for (int i = 0; i < count; i++) sv_frame_release(frames[i]);
    return status;
}

static sv_status detect_all(detection *d, int count, char **inputs)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx = sv_app_ctx_def(d->app);
    SV_TRY(sv_app_model(d->app, d->c, config, weights, &d->model));
    if (sv_detector_open(&def, d->model, &d->detector) != SV_OK)
        return SV_FAIL(d->c, sv_detector_ctx(d->detector)->error.status, "%s",
                       sv_detector_error(d->detector));
    d->boxes = malloc(sizeof *d->boxes * (size_t)sv_model_max_boxes(d->model) * (size_t)batch_size);
    SV_CHECK(d->c, d->boxes, SV_NO_MEMORY, "no memory for boxes");
    if (image && (count > 1 || is_folder(image))) SV_TRY(make_folder(d->c, image));
    d->one_file = !output || !is_folder(output);
    if (!d->one_file) SV_TRY(make_folder(d->c, output));

    sv_dump *dump = NULL;
    if (dump_path) {
        SV_TRY(sv_dump_open(d->c, dump_path, &dump));
        sv_detector_ctx(d->detector)->probe = sv_dump_probe;
        sv_detector_ctx(d->detector)->probe_user = dump;
    }
    sv_progress progress;
    sv_progress_begin(&progress, d->app, "detect", "frames", count);
    sv_status status = SV_OK;
    for (int i = 0; i < count && status == SV_OK; i += batch_size) {
        const int n = count - i < batch_size ? count - i : batch_size;
        status = detect_batch(d, inputs + i, n);
        sv_progress_step(&progress, i + n);
    }
    sv_progress_end(&progress);
    if (status == SV_OK) status = sv_dump_close(d->c, dump);
    /* Frames that were done are kept when a later one fails. */
    if (d->begun) {
        const sv_status closed = sv_results_close(d->c, &d->results);
        if (status == SV_OK) status = closed;
    }
    return status;
}

static int run_detect(sv_app *app, int count, char **inputs)
{
    if (count == 0) return sv_app_usage_error(app, "name at least one point file");
    if (!weights)
        return sv_app_usage_error(app,
                                  "a detector needs weights: -w FILE ('savanna init' makes random ones)");
    if (strcmp(format, "json") != 0) return sv_app_usage_error(app, "--format: '%s' is not json", format);
    if (strcmp(colour, "height") != 0 && strcmp(colour, "intensity") != 0)
        return sv_app_usage_error(app, "--colour: '%s' is not height or intensity", colour);
    if (batch_size < 1 || batch_size > SV_MAX_BATCH)
        return sv_app_usage_error(app, "--batch: %d is not within 1..%d", batch_size, SV_MAX_BATCH);
    if (dump_path && count > 1) return sv_app_usage_error(app, "--dump takes one frame, not %d", count);
    int code = 0;
    detection d = {.app = app};
    d.c = sv_app_ctx(app, &code);
    if (!d.c) return code;
    const sv_status status = detect_all(&d, count, inputs);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(d.c));
    sv_results_discard(&d.results);
    free(d.boxes);
    sv_detector_close(d.detector);
    sv_model_release(d.model);
    sv_ctx_close(d.c);
    return code;
}

static const sv_option options[] = {
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml",
     "OpenPCDet/LION configuration. Not needed with a native model file."},
    {"--weights", 'w', SV_OPTION_TEXT, &weights, "FILE",
     "Checkpoint (.pth), .safetensors or native model file."},
    {"--layout", 0, SV_OPTION_TEXT, &layout, "LAYOUT",
     "Columns of the point files: xyzi, xyzir, xyzit or xyzie; with :f16 behind it, half floats. Default: "
     "what the model takes."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "FILE|DIR",
     "One JSON file for all frames, or a folder (existing, or ending in /) for one file each. Default: "
     "stdout."},
    {"--format", 0, SV_OPTION_TEXT, &format, "json", "Format of the results."},
    {"--image", 0, SV_OPTION_TEXT, &image, "OUT.png|DIR",
     "Draw points and boxes from above; a folder when there are several frames."},
    {"--colour", 0, SV_OPTION_TEXT, &colour, "height|intensity",
     "What colours the points of --image; default height."},
    {"--batch", 0, SV_OPTION_INT, &batch_size, "N",
     "Frames per call; the results do not depend on it. Default 1."},
    {"--dump", 0, SV_OPTION_TEXT, &dump_path, "FILE.h5",
     "Write every named tensor of the (one) frame to HDF5."},
};

const sv_command sv_command_detect = {
    .name = "detect",
    .summary = "find objects in point clouds",
    .usage = "-c CFG.yaml -w WEIGHTS POINTS... [-o FILE|DIR] [--image OUT.png]\n-w MODEL.h5 POINTS...",
    .description = "Reads point clouds (.bin, .npy), runs the detector and writes boxes as JSON: label, "
                   "score, and x, y, z (centre), dx, dy, dz, "
                   "heading in metres and radians in the LiDAR frame (x forward, y left, z up; heading "
                   "counter-clockwise from x).\n"
                   "An empty cloud gives no boxes. Points that are not finite are left out and counted. The "
                   "order of the points, the number of "
                   "threads and the batch do not change a byte of the result.",
    .examples =
        "  savanna detect -c kitti_lion_mamba.yaml -w lion.pth 000134.bin --image boxes.png\n"
        "  savanna detect -w lion.h5 scans/*.bin -o results/ --image pictures/\n"
        "  savanna detect -w lion.h5 cloud.npy --layout xyzi --set MODEL.POST_PROCESSING.SCORE_THRESH 0.3\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_detect,
};
