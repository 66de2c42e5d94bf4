/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna detect: point files in, boxes out.
 */
#include "frames.h"
#include "result_formats.h"

#include "perception/core/dump.h"
#include "perception/detector.h"
#include "perception/overlay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *config, *weights, *output, *image, *dump_path;
static const char *format = "json", *colour = "height";
static sv_frames_def where;
static int batch_size = 1;

typedef struct detection {
    const sv_app *app;
    sv_ctx *c; /* readers and writers; the detector has its own, on the same device */
    sv_model *model;
    sv_detector *detector;
    sv_state *state; /* of a model with MODEL.TEMPORAL */
    sv_frames input;
    sv_sample samples[SV_MAX_BATCH];
    unsigned parts; /* of a sample that are needed */
    result_writer results;
    sv_box *boxes;
    int counts[SV_MAX_BATCH];
} detection;

static sv_status read_sample(detection *d, int index, sv_sample *out)
{
    const int columns = sv_model_point_columns(d->model);
    SV_TRY(sv_frames_read(d->c, &d->input, index, d->parts, out));
    const bool all =
        sv_model_least_columns(d->model) == columns; /* a detector without a network takes what it needs */
    SV_CHECK(d->c, out->frame->columns == columns || !all, SV_BAD_INPUT,
             "%s: layout '%s' has %d columns, the model takes %d (%s)",
             d->input.files ? d->input.files[index] : out->id, d->input.def.layout ? d->input.def.layout : "",
             out->frame->columns, columns, sv_model_point_layout(d->model));
    return SV_OK;
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

/* Of the model's range, what points and boxes fill: scans cut to a camera's view fill little of it. */
typedef struct extent {
    float low[2], high[2];
} extent;

static void include(extent *e, float x, float y)
{
    const float at[2] = {x, y};
    for (int i = 0; i < 2; i++) {
        if (at[i] < e->low[i]) e->low[i] = at[i];
        if (at[i] > e->high[i]) e->high[i] = at[i];
    }
}

/* In steps of ten metres, with the sensor; never beyond the model's range. */
static void fit_range(const sv_sample *sample, const sv_box *boxes, int count, sv_bev_options *o)
{
    extent e = {{0, 0}, {0, 0}};
    const sv_frame *frame = sample->frame;
    for (int i = 0; i < frame->count; i++) {
        const float *p = frame->points + (size_t)i * (size_t)frame->columns;
        include(&e, p[0], p[1]);
    }
    for (int i = 0; i < count; i++) include(&e, boxes[i].x, boxes[i].y);
    for (int i = 0; i < o->truth_count; i++) include(&e, o->truth[i].x, o->truth[i].y);
    o->x_min = fmaxf(o->x_min, 10 * floorf((e.low[0] - 1) / 10));
    o->y_min = fmaxf(o->y_min, 10 * floorf((e.low[1] - 1) / 10));
    o->x_max = fminf(o->x_max, 10 * ceilf((e.high[0] + 1) / 10));
    o->y_max = fminf(o->y_max, 10 * ceilf((e.high[1] + 1) / 10));
}

static sv_status draw(detection *d, const sv_sample *sample, const sv_box *boxes, int count, const char *path)
{
    const sv_grid *grid = sv_model_grid(d->model);
    sv_bev_options options = sv_bev_options_default();
    options.x_min = grid->min[0];
    options.x_max = grid->max[0];
    options.y_min = grid->min[1];
    options.y_max = grid->max[1];
    options.colour_by = strcmp(colour, "intensity") == 0 ? SV_BEV_INTENSITY : SV_BEV_HEIGHT;
    options.title = sample->id;
    sv_box *truth = malloc(sizeof *truth * (size_t)(sample->label_count + 1));
    SV_CHECK(d->c, truth != NULL, SV_NO_MEMORY, "no memory for %d labels", sample->label_count);
    for (int i = 0; i < sample->label_count; i++)
        if (sample->labels[i].has_box) truth[options.truth_count++] = sample->labels[i].box;
    options.truth = truth;
    if (d->input.dataset) fit_range(sample, boxes, count, &options);
    /* about 900 pixels along the longer side */
    const float longest = options.x_max - options.x_min > options.y_max - options.y_min
                              ? options.x_max - options.x_min
                              : options.y_max - options.y_min;
    options.pixels_per_metre = 900.0f / longest < 12 ? 900.0f / longest : 12;
    sv_camera_picture cameras[SV_DATASET_MAX_CAMERAS];
    for (int i = 0; i < sample->camera_count; i++)
        cameras[i] = (sv_camera_picture){sample->cameras[i].name, &sample->cameras[i].image,
                                         sample->cameras[i].projection};
    const sv_frame *frame = sample->frame;
    const sv_points points = {.data = frame->points, .count = frame->count, .columns = frame->columns};
    sv_image picture;
    sv_status status =
        sv_render_frame(d->c, &picture, &points, boxes, count, sv_model_classes(d->model),
                        sv_model_class_count(d->model), &options, cameras, sample->camera_count);
    free(truth);
    if (status == SV_OK) status = sv_image_write_png(d->c, &picture, path);
    sv_image_free(&picture);
    return status;
}

/* ---- frames -------------------------------------------------------------------------------------------- */

static sv_status write_sample(detection *d, const sv_sample *sample, const sv_box *boxes, int count)
{
    char path[1024];
    SV_TRY(result_writer_add(&d->results, sample, boxes, count));
    if (!image) return SV_OK;
    if (!result_is_folder(image)) return draw(d, sample, boxes, count, image);
    result_path_in(image, sample->id, ".png", path, sizeof path);
    return draw(d, sample, boxes, count, path);
}

static sv_status detect_batch(detection *d, int first, int count)
{
    sv_frame *frames[SV_MAX_BATCH] = {0};
    for (int i = 0; i < count; i++) {
        SV_TRY(read_sample(d, first + i, &d->samples[i]));
        frames[i] = d->samples[i].frame;
        frames[i]->cameras = d->samples[i].cameras;
        frames[i]->camera_count = d->samples[i].camera_count;
    }
    if (d->state && d->samples[0].first) SV_TRY(sv_state_reset(sv_detector_ctx(d->detector), d->state));
    const sv_status status = sv_detect(d->detector, frames, count, d->state, d->boxes, d->counts);
    SV_CHECK(d->c, status == SV_OK, status, "%s", sv_detector_error(d->detector));
    for (int i = 0; i < count; i++)
        SV_TRY(write_sample(d, &d->samples[i], d->boxes + (size_t)i * (size_t)sv_model_max_boxes(d->model),
                            d->counts[i]));
    return SV_OK;
}

static sv_status detect_all(detection *d, int input_count, char **inputs)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx = sv_app_ctx_def(d->app);
    SV_TRY(sv_app_model(d->app, d->c, config, weights, &d->model));
    if (sv_detector_open(&def, d->model, &d->detector) != SV_OK)
        return SV_FAIL(d->c, sv_detector_ctx(d->detector)->error.status, "%s",
                       sv_detector_error(d->detector));
    SV_TRY(sv_detector_stream(d->detector, &d->state));
    SV_CHECK(
        d->c, !d->state || batch_size == 1, SV_USAGE,
        "--batch %d: with MODEL.TEMPORAL or MODEL.CAMERA a frame needs the one before it; leave --batch out",
        batch_size);
    SV_TRY(sv_frames_open(d->c, &where, inputs, input_count, sv_model_point_layout(d->model),
                          sv_model_least_columns(d->model), &d->input));
    const int count = d->input.count;
    SV_CHECK(d->c, !dump_path || count == 1, SV_USAGE, "--dump takes one frame, not %d", count);
    d->parts = SV_READ_POINTS | d->results.format->parts | (image ? SV_READ_IMAGES | SV_READ_LABELS : 0) |
               (sv_model_camera(d->model) ? SV_READ_IMAGES : 0);
    d->boxes = malloc(sizeof *d->boxes * (size_t)sv_model_max_boxes(d->model) * (size_t)batch_size);
    SV_CHECK(d->c, d->boxes, SV_NO_MEMORY, "no memory for boxes");
    if (image && (count > 1 || result_is_folder(image))) SV_TRY(result_make_folder(d->c, image));
    d->results.c = d->c;
    d->results.path = output;
    d->results.dataset = d->input.dataset;
    d->results.classes = sv_model_classes(d->model);
    d->results.class_count = sv_model_class_count(d->model);
    d->results.has_velocity = sv_model_has_velocity(d->model);
    d->results.has_camera = sv_model_camera(d->model) != NULL;
    SV_TRY(result_writer_open(&d->results));

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
        status = detect_batch(d, i, n);
        sv_progress_step(&progress, i + n);
    }
    sv_progress_end(&progress);
    if (status == SV_OK) status = sv_dump_close(d->c, dump);
    /* Frames that were done are kept when a later one fails, where half a file is of use. */
    const sv_status closed = result_writer_close(&d->results, status == SV_OK);
    return status == SV_OK ? closed : status;
}

static int run_detect(sv_app *app, int count, char **inputs)
{
    const int wrong = sv_frames_check(app, &where, count);
    if (wrong) return wrong;
    if (!weights && !config)
        return sv_app_usage_error(app, "name a detector: -w FILE, or -c cluster, which needs no weights");
    const result_format *results = result_format_find(format);
    if (!results) return sv_app_usage_error(app, "--format: '%s' is not %s", format, result_format_names());
    if (output && strcmp(output, "-") == 0) output = NULL; /* stdout, as without */
    const int unfit = result_format_check(app, results, where.dataset, output);
    if (unfit) return unfit;
    if (strcmp(colour, "height") != 0 && strcmp(colour, "intensity") != 0)
        return sv_app_usage_error(app, "--colour: '%s' is not height or intensity", colour);
    if (batch_size < 1 || batch_size > SV_MAX_BATCH)
        return sv_app_usage_error(app, "--batch: %d is not within 1..%d", batch_size, SV_MAX_BATCH);
    int code = 0;
    detection d = {.app = app, .results.format = results};
    d.c = sv_app_ctx(app, &code);
    if (!d.c) return code;
    const sv_status status = detect_all(&d, count, inputs);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(d.c));
    result_writer_discard(&d.results);
    for (int i = 0; i < SV_MAX_BATCH; i++) sv_sample_free(&d.samples[i]);
    sv_frames_close(&d.input);
    free(d.boxes);
    sv_state_close(d.state);
    sv_detector_close(d.detector);
    sv_model_release(d.model);
    sv_ctx_close(d.c);
    return code;
}

static const sv_option options[] = {
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml|NAME",
     "OpenPCDet/LION configuration, or the name of one that ships (cluster, kitti_lion_mamba ...). Not "
     "needed "
     "with a native model file."},
    {"--weights", 'w', SV_OPTION_TEXT, &weights, "FILE",
     "Checkpoint (.pth), .safetensors or native model file. The classical detectors have none."},
    {"--layout", 0, SV_OPTION_TEXT, &where.layout, "LAYOUT",
     "Columns of the point files: xyz, xyzi, xyzir, xyzit or xyzie; with :f16 behind it, half floats. PCD "
     "and "
     "PLY files have names for them. Default: what the model takes."},
#define FRAMES where
#include "frame_options.def"
#undef FRAMES
    {"--output", 'o', SV_OPTION_TEXT, &output, "FILE|DIR",
     "One JSON file for all frames, or a folder (existing, or ending in /) for one file each. Default, or -: "
     "stdout."},
    {"--format", 0, SV_OPTION_TEXT, &format, "json|kitti|nuscenes|waymo|once|argoverse2",
     "Format of the results; default json. nuscenes: the submission of all frames, one JSON file -o. kitti: "
     "a text file ID.txt per frame in the folder -o, as the benchmark's server wants it, empty where nothing "
     "was found. waymo: one file -o FILE.bin of Objects, which the official metrics and create_submission "
     "take. once: one JSON file -o, a list of frames. argoverse2: the submission, one file -o FILE.feather."},
    {"--image", 0, SV_OPTION_TEXT, &image, "OUT.png|DIR",
     "Draw points and boxes from above; a folder when there are several frames. With --dataset, cameras "
     "with the boxes stand beside it, and labelled boxes are white."},
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
    .usage =
        "-c CFG.yaml -w WEIGHTS POINTS... [-o FILE|DIR] [--image OUT.png]\n-w MODEL.h5 POINTS...\n-c "
        "cluster POINTS...\n"
        "-w MODEL.h5 --dataset kitti|nuscenes|... --root DIR [--split S] [--frame ID...] [-o PATH --format "
        "kitti|nuscenes|...]",
    .description =
        "Reads point clouds (.bin, .npy, PCD, PLY) or frames of a dataset, runs the detector and writes "
        "boxes as JSON: label, "
        "score, and x, y, z (centre), dx, dy, dz, "
        "heading in metres and radians in the LiDAR frame (x forward, y left, z up; heading "
        "counter-clockwise from x).\n"
        "An empty cloud gives no boxes. Points that are not finite are left out and counted. The "
        "order of the points, the number of "
        "threads and the batch do not change a byte of the result.\n"
        "-c cluster is the classical detector: ground removal, connected components, oriented "
        "boxes. It needs no weights, and is a baseline.",
    .examples =
        "  savanna detect -c cluster 000134.bin --image boxes.png\n"
        "  savanna detect -c kitti_lion_mamba.yaml -w lion.pth 000134.bin --image boxes.png\n"
        "  savanna detect -w lion.h5 scans/*.bin -o results/ --image pictures/\n"
        "  savanna detect -w lion.h5 cloud.npy --layout xyzi --set MODEL.POST_PROCESSING.SCORE_THRESH 0.3\n"
        "  savanna detect -w lion.h5 --dataset kitti --root /data/kitti --frame 000008 --image boxes.png\n"
        "  savanna detect -w lion.h5 --dataset kitti --root /data/kitti --split val --format kitti -o "
        "results/\n"
        "  savanna detect -w lion.h5 --dataset nuscenes --root /data/nuscenes --format nuscenes -o "
        "results.json\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_detect,
};
