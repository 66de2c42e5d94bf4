/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna video with TRecViT: classifies clips, or a stream frame by frame. Each folder or video file is one input; pictures
 * that are named themselves form one together.
 *
 * Both modes cut an input into clips of FRAMES_PER_CLIP, each from an empty state, and average over them as the official code
 * does; frames left over at the end are not used (they are said). An input shorter than a clip is one clip. Mode clip holds a
 * whole clip's activations; mode stream those of one frame, with the state carried.
 */
#include "video.h"

#include "backbones/video/trecvit.h"
#include "perception/core/h5.h"
#include "perception/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct classifier {
    const video_job *job;
    sv_ctx *c;
    sv_trecvit model;
    sv_picture_rule rule;
    sv_arena arena;
    sv_state *state;
    bool stream;
    float *video, *patches; /* of one pass: a clip, or one step */
    float *rep, *logits;    /* [clips * length, rep], [clips, classes] of an input */
    double read_ms, run_ms;
} classifier;

/* ---- the model ---------------------------------------------------------------------------------------- */

static sv_status read_config(sv_ctx *c, const sv_config *config, sv_trecvit_spec *spec, sv_picture_rule *rule)
{
    const sv_node *root = sv_config_root(config), *model = NULL, *input = NULL;
    SV_TRY(sv_node_require(c, root, "MODEL", &model));
    SV_TRY(sv_node_require(c, root, "INPUT", &input));
    sv_node_ignore(c, model, "NAME", NULL);
    SV_TRY(sv_picture_rule_read(c, input, rule));
    const int size[2] = {rule->height, rule->width};
    SV_TRY(sv_trecvit_read_spec(c, model, size, spec));
    return sv_config_check_used(c, config);
}

/* Bind with 'b' into 'arena'. */
static sv_status bind(sv_ctx *c, const sv_config *config, sv_binder *b, sv_arena *arena, sv_trecvit *model,
                      sv_picture_rule *rule)
{
    sv_trecvit_spec spec;
    SV_TRY(read_config(c, config, &spec, rule));
    c->weights = arena;
    sv_status status = sv_trecvit_bind(b, model, &spec);
    if (status == SV_OK) status = sv_binder_finish(b);
    if (status == SV_OK) status = c->device->queue_wait(c);
    c->weights = NULL;
    return status;
}

static sv_status init(sv_ctx *c, const sv_config *config, uint64_t seed, sv_weights *weights)
{
    sv_binder *b = NULL;
    sv_arena arena;
    sv_trecvit model;
    sv_picture_rule rule;
    sv_arena_init(&arena, "new weights", c->device);
    sv_status status = sv_binder_open_init(c, weights, seed, &b);
    if (status == SV_OK) status = bind(c, config, b, &arena, &model, &rule);
    sv_binder_close(b);
    sv_arena_free(&arena);
    return status;
}

static sv_status open_model(classifier *m, const sv_config *config, const sv_weights *weights,
                            int64_t *parameters)
{
    sv_binder *b = NULL;
    sv_arena_init(&m->arena, "video model", m->c->device);
    sv_status status = sv_binder_open(m->c, weights, &b);
    if (status == SV_OK) status = bind(m->c, config, b, &m->arena, &m->model, &m->rule);
    if (status == SV_OK) *parameters = sv_binder_parameters(b);
    sv_binder_close(b);
    return status;
}

static sv_status fits(sv_ctx *c, const sv_config *config, const sv_weights *weights, int64_t *parameters)
{
    classifier m = {.c = c};
    const sv_status status = open_model(&m, config, weights, parameters);
    sv_arena_free(&m.arena);
    return status;
}

/* ---- one input ---------------------------------------------------------------------------------------- */

typedef struct clip_input {
    sv_clip source;
    int width, height;
    int clips, length; /* steps of a clip: frames over PATCH's frames */
} clip_input;

static sv_status cut_clips(classifier *m, clip_input *in)
{
    const sv_trecvit_spec *s = &m->model.spec;
    const video_job *job = m->job;
    const int there = in->source.count;
    const int most = job->frames > 0 && job->frames < there ? job->frames : there, step = s->patch[0];
    SV_CHECK(m->c, most >= step, SV_BAD_INPUT, "%s: %d pictures, the model takes %d at a time",
             in->source.name, most, step);
    in->clips = most / s->frames_per_clip > 1 ? most / s->frames_per_clip : 1;
    in->length = (in->clips > 1 || most > s->frames_per_clip ? s->frames_per_clip : most) / step;
    SV_CHECK(m->c, in->length >= 1, SV_BAD_INPUT, "%s: clips of %d frames, the model takes %d at a time",
             in->source.name, s->frames_per_clip, step);
    const int used = in->clips * in->length * step;
    if (used < most)
        sv_log(m->c, SV_LOG_WARNING, "%s: %d pictures at the end are left out, clips have %d",
               in->source.name, most - used, s->frames_per_clip);
    return SV_OK;
}

/* 'count' pictures from 'first' on into m->video. */
static sv_status read_pictures(classifier *m, clip_input *in, int first, int count)
{
    const size_t numbers = 3 * (size_t)m->rule.height * (size_t)m->rule.width;
    const double began = sv_clock_ms();
    for (int i = 0; i < count; i++) {
        int width = 0, height = 0;
        char label[256];
        SV_TRY(sv_clip_read(m->c, &in->source, first + i, &m->rule, m->video + (size_t)i * numbers, &width,
                            &height));
        const bool begins = (first + i) % (in->length * m->model.spec.patch[0]) == 0;
        SV_CHECK(
            m->c, begins || (width == in->width && height == in->height), SV_BAD_INPUT,
            "%s has %d x %d pixels, the pictures before it %d x %d: a clip is of one camera in one mode; "
            "separate them",
            sv_clip_label(&in->source, first + i, label), width, height, in->width, in->height);
        in->width = width;
        in->height = height;
    }
    m->read_ms += sv_clock_ms() - began;
    return SV_OK;
}

/* m->video, 'length' steps, through the encoder; rep of every step to 'rep'. */
static sv_status encode(classifier *m, int length, const sv_trecvit_streams *streams, float *rep)
{
    sv_ctx *c = m->c;
    const sv_tokenizer *t = &m->model.tokenizer;
    const double began = sv_clock_ms();
    const int numbers = sv_tokenizer_patch_numbers(t);
    sv_tensor patches, encoded, frames;
    sv_profile_frame_begin(c);
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    SV_TRY(
        sv_frame_alloc(c, &patches, "patches", SV_F32, length * t->grid[0] * t->grid[1], numbers, SV_NONE));
    sv_tokenizer_patches(t, m->video, length * t->patch[0], m->patches);
    SV_TRY(c->device->upload(c, patches.data, m->patches,
                             sizeof(float) * (size_t)patches.dim[0] * (size_t)numbers));
    SV_TRY(sv_trecvit_encode(c, &m->model, &encoded, patches, 1, length, streams, 0, false));
    SV_TRY(sv_video_head_frames(c, &m->model.head, &frames, encoded, 1, length));
    SV_TRY(c->device->download(c, rep, frames.data, sizeof(float) * (size_t)length * (size_t)frames.dim[1]));
    if (streams) SV_TRY(sv_state_commit(c, m->state));
    m->run_ms += sv_clock_ms() - began;
    return SV_OK;
}

/* The clip's logits from rep [length, rep]. */
static sv_status classify(classifier *m, const float *rep, int length, float *logits)
{
    sv_ctx *c = m->c;
    sv_tensor frames, pooled, out;
    const size_t width = (size_t)m->model.spec.rep;
    SV_TRY(sv_frame_alloc(c, &frames, "representations", SV_F32, length, (int)width, SV_NONE));
    SV_TRY(c->device->upload(c, frames.data, rep, sizeof(float) * (size_t)length * width));
    SV_TRY(sv_video_head_clips(c, &m->model.head, &pooled, &out, frames, 1, length));
    return c->device->download(c, logits, out.data, sizeof(float) * (size_t)m->model.spec.classes);
}

static sv_status run_clips(classifier *m, clip_input *in, sv_progress *progress)
{
    const int step = m->model.spec.patch[0], at_once = m->stream ? 1 : in->length;
    sv_trecvit_streams streams;
    if (m->stream) SV_TRY(sv_trecvit_streams_of(m->c, &m->model, m->state, 1, &streams));
    for (int clip = 0; clip < in->clips; clip++) {
        float *rep = m->rep + (size_t)clip * (size_t)in->length * (size_t)m->model.spec.rep;
        if (m->stream) SV_TRY(sv_state_reset(m->c, m->state));
        for (int t = 0; t < in->length; t += at_once) {
            const int first = (clip * in->length + t) * step;
            SV_TRY(read_pictures(m, in, first, at_once * step));
            SV_TRY(
                encode(m, at_once, m->stream ? &streams : NULL, rep + (size_t)t * (size_t)m->model.spec.rep));
            sv_progress_step(progress, first + at_once * step);
        }
        SV_TRY(classify(m, rep, in->length, m->logits + (size_t)clip * (size_t)m->model.spec.classes));
    }
    return SV_OK;
}

/* ---- results ------------------------------------------------------------------------------------------ */

/* Place of the next best class that is not 'taken' yet. */
static int best_class(const float *probabilities, int classes, const bool *taken)
{
    int best = -1;
    for (int k = 0; k < classes; k++)
        if (!taken[k] && (best < 0 || probabilities[k] > probabilities[best])) best = k;
    return best;
}

static void print_result(const classifier *m, const clip_input *in, const float *probabilities, bool *taken)
{
    const int classes = m->model.spec.classes, frames = in->clips * in->length * m->model.spec.patch[0];
    const int wanted = m->job->top > 0 ? m->job->top : 5, top = wanted < classes ? wanted : classes;
    const double rate = m->run_ms > 0 ? 1e3 * frames / m->run_ms : 0;
    const size_t bytes = m->stream ? sv_state_bytes(m->state) / 2 : 0;
    sv_json j = sv_json_begin(stdout);
    if (m->job->app->json) {
        sv_json_object(&j, SV_JSON_LINES);
        sv_json_key(&j, "input"), sv_json_text(&j, in->source.name);
        sv_json_key(&j, "frames"), sv_json_int(&j, frames);
        sv_json_key(&j, "clips"), sv_json_int(&j, in->clips);
        sv_json_key(&j, "frames_per_second"), sv_json_double(&j, rate);
        sv_json_key(&j, "state_bytes"), sv_json_int(&j, (int64_t)bytes);
        sv_json_key(&j, "classes"), sv_json_array(&j, SV_JSON_LINES);
    } else {
        printf("%s: %d frames in %d clip%s\n", in->source.name, frames, in->clips, in->clips > 1 ? "s" : "");
    }
    for (int i = 0; i < top; i++) {
        const int k = best_class(probabilities, classes, taken);
        taken[k] = true;
        if (m->job->app->json) {
            sv_json_object(&j, SV_JSON_INLINE);
            sv_json_key(&j, "class"), sv_json_int(&j, k);
            sv_json_key(&j, "probability"), sv_json_float(&j, probabilities[k]);
            sv_json_end(&j);
        } else {
            printf("  class %-5d %8.5f\n", k, (double)probabilities[k]);
        }
    }
    if (m->job->app->json) {
        sv_json_end(&j);
        sv_json_end(&j);
    } else {
        printf("  %.2f frames/s (%.1f ms a frame, and %.1f ms to read it)", rate, m->run_ms / frames,
               m->read_ms / frames);
        if (m->stream) printf(", state %.2f MB", (double)bytes / 1e6);
        printf("\n");
    }
    fflush(stdout);
}

/* logits, probabilities and every step's representation, for tools. */
static sv_status write_result(const classifier *m, const clip_input *in, const float *mean,
                              const float *probs)
{
    sv_ctx *c = m->c;
    sv_h5 *file = NULL;
    const int64_t classes = m->model.spec.classes,
                  rep[2] = {(int64_t)in->clips * in->length, m->model.spec.rep};
    SV_TRY(sv_h5_create(c, m->job->output, &file));
    SV_TRY(sv_h5_write(c, file, "logits", SV_F32, 1, &classes, mean));
    SV_TRY(sv_h5_write(c, file, "probs", SV_F32, 1, &classes, probs));
    SV_TRY(sv_h5_write(c, file, "frame_rep", SV_F32, 2, rep, m->rep));
    return sv_h5_close(c, file);
}

static sv_status run_input(classifier *m, clip_input *in)
{
    const sv_trecvit_spec *s = &m->model.spec;
    SV_TRY(cut_clips(m, in));
    const size_t frames = (size_t)(m->stream ? 1 : in->length) * (size_t)s->patch[0],
                 numbers = 3 * (size_t)m->rule.height * (size_t)m->rule.width, classes = (size_t)s->classes;
    m->video = malloc(sizeof(float) * frames * numbers);
    m->patches = malloc(sizeof(float) * frames * numbers);
    m->rep = malloc(sizeof(float) * (size_t)in->clips * (size_t)in->length * (size_t)s->rep);
    m->logits = malloc(sizeof(float) * ((size_t)in->clips + 2) * classes);
    bool *taken = calloc(classes, sizeof *taken);
    m->read_ms = m->run_ms = 0;
    sv_status status =
        m->video && m->patches && m->rep && m->logits && taken
            ? SV_OK
            : SV_FAIL(m->c, SV_NO_MEMORY, "%s: no memory for clips of %zu frames", in->source.name, frames);
    sv_progress progress;
    sv_progress_begin(&progress, m->job->app, in->source.name, "frames",
                      (long)in->clips * in->length * m->model.spec.patch[0]);
    if (status == SV_OK) status = run_clips(m, in, &progress);
    sv_progress_end(&progress);
    if (status == SV_OK) {
        float *mean = m->logits + (size_t)in->clips * classes, *probs = mean + classes;
        sv_video_average(m->logits, in->clips, s->classes, mean, probs);
        print_result(m, in, probs, taken);
        if (m->job->output) status = write_result(m, in, mean, probs);
    }
    free(m->video);
    free(m->patches);
    free(m->rep);
    free(m->logits);
    free(taken);
    return status;
}

static sv_status run_inputs(classifier *m)
{
    const video_job *job = m->job;
    bool whole = false;
    SV_TRY(video_inputs(job, &whole));
    SV_CHECK(m->c, !job->output || !whole || job->count == 1, SV_USAGE,
             "-o writes the result of one input; run 'savanna video' once for each");
    if (!whole) {
        clip_input in = {.source = sv_clip_of_pictures(job->inputs, job->count)};
        return run_input(m, &in);
    }
    for (int i = 0; i < job->count; i++) {
        clip_input in = {.width = 0};
        SV_TRY(sv_clip_open(m->c, job->inputs[i], &in.source));
        const sv_status status = run_input(m, &in);
        sv_clip_close(&in.source);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status run(const video_job *job)
{
    classifier m = {.job = job, .c = job->c};
    int64_t parameters = 0;
    SV_CHECK(job->c, !job->mode || strcmp(job->mode, "clip") == 0 || strcmp(job->mode, "stream") == 0,
             SV_USAGE, "--mode: '%s' is not clip or stream", job->mode);
    m.stream = job->mode && strcmp(job->mode, "stream") == 0;
    const double began = sv_clock_ms();
    sv_status status = open_model(&m, job->config, job->weights, &parameters);
    if (status == SV_OK)
        sv_log(job->c, SV_LOG_NOTE, "TRecViT: %lld parameters, bound in %.1f s", (long long)parameters,
               (sv_clock_ms() - began) / 1e3);
    if (status == SV_OK) status = sv_state_open(job->c, &m.state);
    if (status == SV_OK) status = run_inputs(&m);
    sv_state_close(m.state);
    sv_arena_free(&m.arena);
    return status;
}

const video_model video_trecvit = {
    .option = "trecvit", .name = "TRecViT", .config = "trecvit_b", .init = init, .fits = fits, .run = run};
