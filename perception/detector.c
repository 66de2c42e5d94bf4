/* SPDX-License-Identifier: Apache-2.0 */
#include "detector.h"

#include "heads/head.h"
#include "points.h"

#include <stdlib.h>
#include <string.h>

enum { COOKIE = 0x53564453, MOST_RERUNS = 16, ROW_STEP = 1024, MOST_COLUMNS = 64 };

/* Which cameras brought a picture, and whose states start afresh. */
typedef struct camera_set {
    bool seen[SV_STATE_CAMERAS], fresh[SV_STATE_CAMERAS];
} camera_set;

struct sv_detector {
    sv_ctx *c;
    sv_model *model;
    bool replay, timed, stamped; /* stamped: the last frame was */
    sv_network_stage last;
    sv_bev_step step;

    int32_t capacity[SV_CAPACITIES];
    bool guessed; /* capacities that no frame has been measured for */
    int reruns, replays;

    /* Fixed addresses between growths: what a captured frame reads and writes. */
    int buffer_points, buffer_batch;
    float *points, *points_host; /* [capacity, columns] on the device; pinned, of frames with other columns */
    int32_t *offsets, *offsets_host; /* [SV_MAX_BATCH+1] */
    void *boxes_host;       /* batch * max_boxes candidates as sv_candidates_place() lays them out; pinned */
    int32_t *counters_host; /* [SV_COUNTERS] */
    int32_t *voxels_host;   /* [SV_MAX_BATCH+1] offsets of the voxels */
    sv_network_result result;

    /* MODEL.CAMERA */
    int camera_places; /* there is room for */
    float *patches, *patches_host, *views, *views_host, *picture;
    camera_set now, before; /* of this frame and the last */
    bool blind;             /* that no camera came was said */

    sv_graph *graph;
    int graph_batch;
    uint64_t graph_state; /* sv_state_identity() */
    camera_set graph_cameras;
};

sv_detector_def sv_detector_def_default(void)
{
    return (sv_detector_def){
        .ctx = sv_ctx_def_default(), .replay = true, .last = SV_STAGE_HEAD, .cookie = COOKIE};
}

static void drop_graph(sv_detector *d)
{
    if (d->graph) d->c->device->graph_free(d->graph);
    d->graph = NULL;
    d->c->frame.sealed = d->c->scratch.sealed = false;
}

static void free_buffers(sv_detector *d)
{
    const sv_device *device = d->c->device;
    device->free(d->points);
    device->free_host(d->points_host);
    device->free_host(d->boxes_host);
    d->points = d->points_host = NULL;
    d->boxes_host = NULL;
    d->buffer_points = d->buffer_batch = 0;
}

static void free_camera_buffers(sv_detector *d)
{
    const sv_device *device = d->c->device;
    device->free(d->patches);
    device->free(d->views);
    device->free_host(d->patches_host);
    device->free_host(d->views_host);
    free(d->picture);
    d->patches = d->patches_host = d->views = d->views_host = d->picture = NULL;
    d->camera_places = 0;
}

sv_status sv_detector_open(const sv_detector_def *def, sv_model *model, sv_detector **out)
{
    assert(def->cookie == COOKIE && "start from sv_detector_def_default()");
    sv_detector *d = calloc(1, sizeof *d);
    *out = d;
    if (!d) return SV_NO_MEMORY;
    SV_TRY(sv_ctx_open(&def->ctx, &d->c));
    SV_CHECK(d->c, sv_model_device(model) == d->c->device->kind, SV_USAGE,
             "the model was loaded for another device than '%s'", d->c->device->name);
    d->model = sv_model_retain(model);
    d->replay = def->replay && d->c->device->capture_begin;
    d->timed = def->timed && d->c->device->stamp;
    d->last = def->last;
    d->step = def->step;
    const sv_device *device = d->c->device;
    d->offsets = device->alloc(sizeof(int32_t) * (SV_MAX_BATCH + 1));
    d->offsets_host = device->alloc_host(sizeof(int32_t) * (SV_MAX_BATCH + 1));
    d->counters_host = device->alloc_host(sizeof(int32_t) * SV_COUNTERS);
    d->voxels_host = device->alloc_host(sizeof(int32_t) * (SV_MAX_BATCH + 1));
    SV_CHECK(d->c, d->offsets && d->offsets_host && d->counters_host && d->voxels_host, SV_NO_MEMORY,
             "no memory for a detector");
    return SV_OK;
}

void sv_detector_close(sv_detector *d)
{
    if (!d) return;
    if (d->c) {
        drop_graph(d);
        free_buffers(d);
        free_camera_buffers(d);
        d->c->device->free(d->offsets);
        d->c->device->free_host(d->offsets_host);
        d->c->device->free_host(d->counters_host);
        d->c->device->free_host(d->voxels_host);
    }
    sv_model_release(d->model);
    sv_ctx_close(d->c);
    free(d);
}

const char *sv_detector_error(const sv_detector *d)
{
    return d && d->c ? sv_error_message(d->c) : "no memory for a detector";
}
sv_ctx *sv_detector_ctx(sv_detector *d)
{
    return d->c;
}
int sv_detector_capacity(const sv_detector *d, sv_capacity which)
{
    return d->capacity[which];
}
int sv_detector_needed(const sv_detector *d, sv_capacity which)
{
    return d->counters_host[which];
}
int sv_detector_reruns(const sv_detector *d)
{
    return d->reruns;
}
int sv_detector_replays(const sv_detector *d)
{
    return d->replays;
}
int sv_detector_kernels(const sv_detector *d)
{
    return d->graph ? d->c->device->graph_kernels(d->graph) : 0;
}

/* Where a frame's time stamps are taken; the profile, which uses the same slots, is off then. */
enum { STAMP_UPLOAD, STAMP_UPLOADED, STAMP_FRAME, STAMP_END };

static sv_status stamp(sv_detector *d, int slot)
{
    d->stamped = d->timed && !d->c->profile.on;
    return d->stamped ? d->c->device->stamp(d->c, slot) : SV_OK;
}
bool sv_detector_spans(const sv_detector *d, sv_device_spans *out)
{
    if (!d->stamped) return false;
    *out = (sv_device_spans){.upload = d->c->device->stamp_ms(d->c, STAMP_UPLOAD, STAMP_UPLOADED),
                             .frame = d->c->device->stamp_ms(d->c, STAMP_FRAME, STAMP_END)};
    return true;
}

void sv_detector_set_capacity(sv_detector *d, sv_capacity which, int rows)
{
    if (d->capacity[which] != rows) drop_graph(d);
    d->capacity[which] = rows;
    d->guessed = false;
}

sv_status sv_detector_stream(sv_detector *d, sv_state **out)
{
    sv_map_place place;
    *out = NULL;
    return sv_model_memory(d->model, &place) || sv_model_camera(d->model) ? sv_state_open(d->c, out) : SV_OK;
}

/* ---- capacities --------------------------------------------------------------------------------------- */

static int round_up(int64_t rows)
{
    return (int)((rows + ROW_STEP - 1) / ROW_STEP * ROW_STEP);
}

/*
 * Points are known to the host. A first guess for voxels: half of the points of small clouds and a fifth of large ones,
 * which fill voxels that others have filled (KITTI's views fill a third, ten sweeps of nuScenes a tenth), and growth by
 * voxel generation as seen on real frames (facts of the official runs: x1.5, 1.25, 1.2, 1.15); a wrong guess costs one
 * rerun, once.
 */
static sv_status fit_capacities(sv_detector *d, int points, int batch)
{
    sv_ctx *c = d->c;
    if (points > d->capacity[SV_CAP_POINTS])
        sv_detector_set_capacity(d, SV_CAP_POINTS, round_up((int64_t)points + points / 8));
    if (d->capacity[SV_CAP_VOXELS] == 0) {
        const int half = d->capacity[SV_CAP_POINTS] / 2,
                  fifth = 20000 * batch + d->capacity[SV_CAP_POINTS] / 5;
        sv_detector_set_capacity(d, SV_CAP_VOXELS, round_up(half < fifth ? half : fifth));
    }
    static const double growth[SV_CAPACITIES] = {0, 0, 1.5, 1.3, 1.2, 1.2, 1.2};
    for (int i = SV_CAP_DOW1; i < sv_model_capacities(d->model); i++)
        if (d->capacity[i] == 0) {
            sv_detector_set_capacity(d, (sv_capacity)i, round_up((int64_t)(d->capacity[i - 1] * growth[i])));
            d->guessed = true;
        }

    const int max_boxes = sv_model_max_boxes(d->model);
    if (d->buffer_points >= d->capacity[SV_CAP_POINTS] && d->buffer_batch >= batch) return SV_OK;
    drop_graph(d);
    free_buffers(d);
    const size_t bytes =
        sizeof(float) * (size_t)d->capacity[SV_CAP_POINTS] * (size_t)sv_model_point_columns(d->model);
    d->points = c->device->alloc(bytes);
    d->points_host = c->device->alloc_host(bytes);
    d->boxes_host = c->device->alloc_host(sv_candidates_bytes(batch * max_boxes, batch));
    SV_CHECK(c, d->points && d->points_host && d->boxes_host, SV_NO_MEMORY, "%s has no memory for %d points",
             c->device->name, d->capacity[SV_CAP_POINTS]);
    d->buffer_points = d->capacity[SV_CAP_POINTS];
    d->buffer_batch = batch;
    return SV_OK;
}

/*
 * After a frame: grow what was too small. '*grew' tells whether the frame must be run again. Behind a stage that was cut the
 * counts are too low, so what follows grows at least in the same proportion: that saves a rerun per stage.
 */
static sv_status grow_capacities(sv_detector *d, bool *grew)
{
    *grew = false;
    const bool guessed = d->guessed; /* the capacities that need not grow still are */
    double proportion = 1;
    for (int i = SV_CAP_VOXELS; i < sv_model_capacities(d->model); i++) {
        const int counted = d->counters_host[i], scaled = (int)(d->capacity[i] * proportion);
        const int needed = proportion > 1 && scaled > counted ? scaled : counted;
        if (needed <= d->capacity[i]) continue;
        if (counted > d->capacity[i] && (double)counted / d->capacity[i] > proportion)
            proportion = (double)counted / d->capacity[i];
        const int rows = round_up((int64_t)needed + needed / 8);
        sv_log(d->c, SV_LOG_DETAIL, "capacity '%s' grows from %d to %d: the frame needs %d",
               sv_capacity_name((sv_capacity)i), d->capacity[i], rows, needed);
        sv_detector_set_capacity(d, (sv_capacity)i, rows);
        *grew = true;
    }
    d->guessed = guessed;
    return SV_OK;
}

/*
 * After the first frame on guesses: capacities that are far too large are made to fit, and the memory behind them is given
 * back. On a GPU rows that are not there cost time, too. '*tightened' tells whether the frame must be run again.
 */
static void tighten_capacities(sv_detector *d, bool *tightened)
{
    *tightened = false;
    if (!d->guessed || !d->replay || sv_probing(d->c)) return;
    d->guessed = false;
    for (int i = SV_CAP_VOXELS; i < sv_model_capacities(d->model); i++) {
        const int needed = d->counters_host[i], rows = round_up((int64_t)needed + needed / 4);
        if (rows >= d->capacity[i]) continue;
        sv_detector_set_capacity(d, (sv_capacity)i, rows);
        *tightened = true;
    }
    if (!*tightened) return;
    sv_arena_forget(&d->c->frame);
    sv_arena_forget(&d->c->scratch);
}

/* ---- one frame ---------------------------------------------------------------------------------------- */

/* The frame's points with the model's columns; what a frame brings beyond them, or lacks, a model that takes such frames
 * does not look at. */
static void fit_columns(float *to, int columns, const sv_frame *frame)
{
    for (int i = 0; i < frame->count; i++)
        for (int k = 0; k < columns; k++)
            to[(size_t)i * (size_t)columns + (size_t)k] =
                k < frame->columns ? frame->points[(size_t)i * (size_t)frame->columns + (size_t)k] : 0;
}

static sv_status stage_points(sv_detector *d, sv_frame *const *frames, int batch)
{
    sv_ctx *c = d->c;
    const int columns = sv_model_point_columns(d->model), least = sv_model_least_columns(d->model);
    SV_CHECK(c, batch >= 1 && batch <= SV_MAX_BATCH, SV_USAGE, "batch of %d frames: 1 to %d are possible",
             batch, SV_MAX_BATCH);
    int points = 0; /* SV_MAX_BATCH * SV_POINTS_MAX fit */
    for (int b = 0; b < batch; b++) {
        SV_CHECK(c, frames[b]->count <= SV_POINTS_MAX, SV_BAD_INPUT,
                 "frame '%s' has %d points; at most %d are possible", frames[b]->id, frames[b]->count,
                 SV_POINTS_MAX);
        SV_CHECK(c,
                 frames[b]->columns == columns ||
                     (least < columns && frames[b]->columns >= least && frames[b]->columns <= MOST_COLUMNS),
                 SV_BAD_INPUT, "frame '%s' has %d point columns, the model takes %d (%s)", frames[b]->id,
                 frames[b]->columns, columns, sv_model_point_layout(d->model));
        points += frames[b]->count;
    }
    SV_TRY(fit_capacities(d, points, batch));
    d->offsets_host[0] = 0;
    for (int b = 0; b < batch; b++) {
        if (frames[b]->columns != columns)
            fit_columns(d->points_host + (size_t)d->offsets_host[b] * (size_t)columns, columns, frames[b]);
        d->offsets_host[b + 1] = d->offsets_host[b] + frames[b]->count;
    }
    return SV_OK;
}

/* From where the frames have them: a call returns when the device is done. */
static sv_status upload_points(sv_detector *d, sv_frame *const *frames, int batch)
{
    const int columns = sv_model_point_columns(d->model);
    for (int b = 0; b < batch; b++) {
        const size_t first = (size_t)d->offsets_host[b] * (size_t)columns;
        const float *from = frames[b]->columns == columns ? frames[b]->points : d->points_host + first;
        SV_TRY(d->c->device->upload(d->c, d->points + first, from,
                                    sizeof *from * (size_t)frames[b]->count * (size_t)columns));
    }
    return SV_OK;
}

/* How far the sensor of each sample has moved since the state's last frame, or that its state starts afresh. */
static sv_status stage_motion(sv_detector *d, sv_frame *const *frames, int batch, sv_state *state)
{
    sv_map_place place;
    const sv_bev_memory *memory = sv_model_memory(d->model, &place);
    float rows[SV_MAX_BATCH][8];
    sv_tensor motion;
    if (!memory || !state) return SV_OK;
    SV_TRY(sv_state_motion(d->c, state, &motion));
    for (int b = 0; b < batch; b++) {
        sv_whereabouts *now = sv_state_next(state, b);
        *now = (sv_whereabouts){
            .known = frames[b]->has_pose, .time = frames[b]->time, .to_world = frames[b]->to_world};
        sv_ego_motion(sv_state_last(state, b), now, &memory->rule, &place, rows[b]);
    }
    SV_TRY(d->c->device->upload(d->c, motion.data, rows, sizeof rows[0] * (size_t)batch));
    return d->c->device->queue_wait(d->c); /* the rows are on this stack */
}

static sv_status fit_camera_buffers(sv_detector *d, const sv_camera_branch *camera, int places)
{
    if (d->camera_places >= places) return SV_OK;
    const sv_device *device = d->c->device;
    const size_t patches = sizeof(float) * sv_camera_patch_numbers(camera) * (size_t)places,
                 views = sizeof(float) * SV_CAMERA_VIEW * (size_t)places;
    drop_graph(d);
    free_camera_buffers(d);
    d->patches = device->alloc(patches);
    d->views = device->alloc(views);
    d->patches_host = device->alloc_host(patches);
    d->views_host = device->alloc_host(views);
    d->picture = malloc(sizeof(float) * sv_camera_patch_numbers(camera));
    SV_CHECK(d->c, d->patches && d->views && d->patches_host && d->views_host && d->picture, SV_NO_MEMORY,
             "%s has no memory for the pictures of %d cameras", device->name, places);
    memset(d->patches_host, 0, patches);
    d->camera_places = places;
    return SV_OK;
}

/* Pictures and calibrations, as MODEL.CAMERA takes them, onto the device. */
static sv_status stage_cameras(sv_detector *d, sv_frame *const *frames, int batch, sv_state *state)
{
    const sv_camera_branch *camera = sv_model_camera(d->model);
    if (!camera) return SV_OK;
    const int slots = camera->slots, places = batch * slots;
    const size_t numbers = sv_camera_patch_numbers(camera);
    bool any = false;
    d->before = d->now;
    memset(&d->now, 0, sizeof d->now);
    SV_TRY(fit_camera_buffers(d, camera, places));
    for (int b = 0; b < batch; b++) {
        const int at = b * slots;
        SV_TRY(sv_camera_stage(d->c, camera, frames[b], d->patches_host + (size_t)at * numbers,
                               d->views_host + (size_t)at * SV_CAMERA_VIEW, d->now.seen + at,
                               d->now.fresh + at, d->picture, state ? sv_state_cameras(state) + at : NULL,
                               state ? sv_state_next_cameras(state) + at : NULL));
    }
    for (int i = 0; i < places; i++) any = any || d->now.seen[i];
    if (!any && !d->blind)
        sv_log(
            d->c, SV_LOG_WARNING,
            "frame '%s' comes without a picture of any camera in MODEL.CAMERA.CAMERAS ('%s'...): boxes are "
            "found by points alone",
            frames[0]->id, camera->names[0]);
    d->blind = !any;
    SV_TRY(d->c->device->upload(d->c, d->patches, d->patches_host, sizeof(float) * numbers * (size_t)places));
    return d->c->device->upload(d->c, d->views, d->views_host,
                                sizeof(float) * SV_CAMERA_VIEW * (size_t)places);
}

/* Everything on the device between the uploaded points and the downloaded boxes; captured as a whole. */
static sv_status enqueue(sv_detector *d, int batch, sv_state *state)
{
    sv_ctx *c = d->c;
    SV_TRY(stamp(d, STAMP_FRAME));
    SV_TRY(c->device->fill(c, c->counters, 0, sizeof(int32_t) * SV_COUNTERS));
    sv_tensor points =
        sv_view(d->points, SV_F32, d->capacity[SV_CAP_POINTS], sv_model_point_columns(d->model));
    points.offsets = d->offsets;
    points.batch = (int16_t)batch;
    const sv_camera_branch *camera = sv_model_camera(d->model);
    sv_camera_input cameras = {.seen = d->now.seen, .fresh = d->now.fresh};
    if (camera) {
        const int places = batch * camera->slots, patches = camera->rule.rows * camera->rule.columns;
        cameras.views = sv_view(d->views, SV_F32, places, SV_CAMERA_VIEW);
        cameras.patches = sv_view(d->patches, SV_F32, places * patches,
                                  (int)(sv_camera_patch_numbers(camera) / (size_t)patches));
    }
    SV_TRY(sv_network_forward(c, d->model, points, d->capacity, d->last, &d->step, camera ? &cameras : NULL,
                              state, &d->result));
    if (d->last == SV_STAGE_HEAD) {
        const sv_candidates *found = &d->result.boxes;
        SV_TRY(c->device->download_async(c, d->boxes_host, found->offsets,
                                         sv_candidates_bytes(found->boxes.dim[0], batch)));
    }
    SV_TRY(c->device->download_async(c, d->voxels_host, d->result.voxel_offsets,
                                     sizeof(int32_t) * ((size_t)batch + 1)));
    SV_TRY(c->device->download_async(c, d->counters_host, c->counters, sizeof(int32_t) * SV_COUNTERS));
    return stamp(d, STAMP_END);
}

static sv_status run_eagerly(sv_detector *d, int batch, sv_state *state)
{
    sv_ctx *c = d->c;
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    return enqueue(d, batch, state);
}

/* Record the frame once the arenas have their size. The recorded work has not run yet. */
static sv_status capture(sv_detector *d, int batch, sv_state *state)
{
    sv_ctx *c = d->c;
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    c->frame.sealed = c->scratch.sealed = c->capturing = true;
    sv_status status = c->device->capture_begin(c);
    if (status == SV_OK) {
        status = enqueue(d, batch, state);
        sv_graph *graph = NULL;
        const sv_status ended = c->device->capture_end(c, &graph);
        if (status == SV_OK) status = ended;
        d->graph = graph;
    }
    c->capturing = d->stamped = false; /* the stamps are the graph's from now on */
    if (status != SV_OK) drop_graph(d);
    d->graph_batch = batch;
    d->graph_state = sv_state_identity(state);
    d->graph_cameras = d->now;
    return status;
}

static sv_status run_frame(sv_detector *d, int batch, sv_state *state)
{
    sv_ctx *c = d->c;
    const bool replay = d->replay && !sv_probing(c) && !c->profile.on;
    if (d->graph && (!replay || d->graph_batch != batch || d->graph_state != sv_state_identity(state) ||
                     memcmp(&d->graph_cameras, &d->now, sizeof d->now) != 0))
        drop_graph(d);
    if (d->graph) {
        SV_TRY(c->device->replay(c, d->graph));
        d->replays++;
        return c->device->queue_wait(c);
    }
    SV_TRY(run_eagerly(d, batch, state));
    SV_TRY(c->device->queue_wait(c));
    return SV_OK;
}

static void copy_boxes(sv_detector *d, int batch, sv_box *boxes, int *counts)
{
    const int most = sv_model_max_boxes(d->model);
    sv_candidates found;
    sv_candidates_place(&found, d->boxes_host, batch * most, batch);
    for (int b = 0; b < batch; b++) {
        const int first = found.offsets[b];
        counts[b] = found.offsets[b + 1] - first;
        /* The heads answer an empty map too, with whatever their biases say: where there is nothing, nothing is detected. */
        if (d->voxels_host[b + 1] == d->voxels_host[b]) counts[b] = 0;
        for (int i = 0; i < counts[b]; i++) {
            const float *f = sv_f32(found.boxes) + (size_t)(first + i) * SV_BOX_FIELDS;
            boxes[(size_t)b * (size_t)most + (size_t)i] = (sv_box){.x = f[0],
                                                                   .y = f[1],
                                                                   .z = f[2],
                                                                   .dx = f[3],
                                                                   .dy = f[4],
                                                                   .dz = f[5],
                                                                   .heading = f[6],
                                                                   .vx = f[7],
                                                                   .vy = f[8],
                                                                   .score = sv_f32(found.scores)[first + i],
                                                                   .label = sv_i32(found.labels)[first + i]};
        }
    }
}

sv_status sv_detect(sv_detector *d, sv_frame *const *frames, int batch, sv_state *state, sv_box *boxes,
                    int *counts)
{
    sv_ctx *c = d->c;
    sv_error_clear(c);
    for (int b = 0; b < batch; b++) counts[b] = 0;
    SV_TRY(stage_points(d, frames, batch));
    SV_TRY(stage_motion(d, frames, batch, state));
    SV_TRY(stage_cameras(d, frames, batch, state));
    for (int attempt = 0;; attempt++) {
        sv_profile_frame_begin(c);
        SV_TRY(stamp(d, STAMP_UPLOAD));
        SV_TRY(upload_points(d, frames, batch));
        SV_TRY(c->device->upload(c, d->offsets, d->offsets_host, sizeof(int32_t) * ((size_t)batch + 1)));
        SV_TRY(stamp(d, STAMP_UPLOADED));
        const sv_status status = run_frame(d, batch, state);
        if (status == SV_OVERFLOW) {
            /* A device whose counts the host can see stops at the first full capacity; its counters are up to date. */
            SV_TRY(c->device->download(c, d->counters_host, c->counters, sizeof(int32_t) * SV_COUNTERS));
        } else if (status != SV_OK) {
            return status;
        }
        bool grew = false;
        SV_TRY(grow_capacities(d, &grew));
        if (!grew) {
            if (status != SV_OK) return status; /* an overflow that no capacity explains */
            tighten_capacities(d, &grew);
            if (!grew) break;
            continue;
        }
        sv_error_clear(c);
        d->reruns++;
        SV_CHECK(c, attempt < MOST_RERUNS, SV_OVERFLOW, "the capacities did not settle after %d reruns",
                 attempt);
    }
    SV_CHECK(c, d->counters_host[SV_COUNTER_OUTSIDE] == 0, SV_UNSUPPORTED,
             "%d voxels lie outside the BEV map; a grid that the down scales divide avoids this",
             d->counters_host[SV_COUNTER_OUTSIDE]);
    SV_TRY(sv_profile_frame_end(c));
    if (state) SV_TRY(sv_state_commit(c, state));
    memcpy(c->counters_host, d->counters_host, sizeof c->counters_host);
    if (d->last == SV_STAGE_HEAD) copy_boxes(d, batch, boxes, counts);
    /* Capture behind a frame that fitted: the arenas now have the size the next frame will need; and behind one with the
     * cameras of the frame before, since the next one will most likely have them, too. */
    const bool settled = memcmp(&d->before, &d->now, sizeof d->now) == 0;
    if (d->replay && !d->graph && settled && !sv_probing(c) && !c->profile.on)
        SV_TRY(capture(d, batch, state));
    return c->device->queue_wait(c);
}
