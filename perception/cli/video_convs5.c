/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna video with ConvS5: predicts the pictures that follow a clip. The clip's own pictures are shown to
 * the model (all at once in stretches, or one by one), then every prediction is fed back. The strip that -o
 * writes has the clip above and the predictions below; where --frames leaves pictures over, the true ones
 * stand above those that were generated, and the error is printed. A name that ends in .mp4 gives a film instead.
 */
#include "video.h"

#include "backbones/video/convs5.h"
#include "perception/json.h"
#include "perception/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    AT_ONCE = 16,
    SHOWN = 10,
    DEFAULT_PREDICTED = 10,
    MOST_PREDICTED = 10000,
    GAP = 2,
    MARGIN = 14,
    FILM_SIDE = 256,
    FILM_RATE = 10
};

typedef struct predictor {
    const video_job *job;
    sv_ctx *c;
    sv_convs5 *model;
    sv_picture_rule rule;
    sv_state *state;
    const sv_state_entry *carried;
    size_t numbers;   /* of a picture */
    int count, given; /* pictures there are; those the model sees */
    int predicted;    /* pictures generated behind them */
    float *real,
        *foreseen; /* [count], [given + predicted] pictures; 'foreseen' t is the prediction of picture t */
    double seen_ms, generated_ms;
} predictor;

/* ---- the model ---------------------------------------------------------------------------------------- */

/* INPUT may be left out: everything, cut to the model's aspect ratio. */
static sv_status read_rule(sv_ctx *c, const sv_config *config, sv_picture_rule *rule)
{
    const sv_node *input = sv_node_find(sv_config_root(config), "INPUT");
    *rule = (sv_picture_rule){.keep = {0, 0, 1, 1}};
    return input ? sv_picture_rule_read(c, input, rule) : SV_OK;
}

static sv_status init(sv_ctx *c, const sv_config *config, uint64_t seed, sv_weights *weights)
{
    sv_picture_rule rule;
    SV_TRY(read_rule(c, config, &rule));
    return sv_convs5_init(c, config, seed, weights);
}

static sv_status open_model(sv_ctx *c, const sv_config *config, const sv_weights *weights, sv_convs5 **model,
                            sv_picture_rule *rule)
{
    SV_TRY(read_rule(c, config, rule));
    SV_TRY(sv_convs5_open(c, config, weights, model));
    const sv_convs5 *m = *model;
    const bool fits = rule->height == 0 || (rule->height == m->height && rule->width == m->width);
    const int height = rule->height, width = rule->width;
    rule->height = m->height;
    rule->width = m->width;
    SV_CHECK(c, m->channels == 1 || m->channels == 3, SV_UNSUPPORTED,
             "the model takes pictures of %d channels; grey (1) and colour (3) ones can be read",
             m->channels);
    SV_CHECK(c, fits, SV_BAD_INPUT, "INPUT.SIZE: %d x %d, but the model takes pictures of %d x %d", height,
             width, m->height, m->width);
    return SV_OK;
}

static sv_status fits(sv_ctx *c, const sv_config *config, const sv_weights *weights, int64_t *parameters)
{
    sv_convs5 *model = NULL;
    sv_picture_rule rule;
    const sv_status status = open_model(c, config, weights, &model, &rule);
    if (status == SV_OK) *parameters = model->parameters;
    sv_convs5_close(model);
    return status;
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

/* A picture as numbers in -1..1; colour becomes grey by the weights of ITU-R BT.601. */
static sv_status read_picture(predictor *p, sv_clip *clip, int index, float *rgb, float *to)
{
    int width = 0, height = 0;
    SV_TRY(sv_clip_read(p->c, clip, index, &p->rule, rgb, &width, &height));
    const size_t pixels = p->numbers / (size_t)p->model->channels;
    for (size_t i = 0; i < pixels; i++) {
        const float *v = rgb + 3 * i;
        if (p->model->channels == 1) {
            const bool grey = v[0] == v[1] && v[1] == v[2];
            to[i] = 2 * (grey ? v[0] : 0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2]) - 1;
        } else {
            for (int k = 0; k < 3; k++) to[3 * i + (size_t)k] = 2 * v[k] - 1;
        }
    }
    return SV_OK;
}

static sv_status read_all(predictor *p, sv_clip *clip)
{
    float *rgb = malloc(sizeof *rgb * 3 * (size_t)p->rule.height * (size_t)p->rule.width);
    sv_status status = rgb ? SV_OK : SV_FAIL(p->c, SV_NO_MEMORY, "no memory for a picture");
    for (int t = 0; t < p->count && status == SV_OK; t++)
        status = read_picture(p, clip, t, rgb, p->real + (size_t)t * p->numbers);
    free(rgb);
    return status;
}

/* ---- running ------------------------------------------------------------------------------------------ */

/* 'count' pictures through the model; predictions of those behind them. */
static sv_status step(predictor *p, const float *pictures, int count, bool first, float *predictions)
{
    sv_ctx *c = p->c;
    sv_tensor in, out;
    const size_t bytes = sizeof(float) * p->numbers * (size_t)count;
    const int rows = count * p->model->height * p->model->width;
    sv_profile_frame_begin(c);
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    SV_TRY(sv_frame_alloc(c, &in, "pictures", SV_F32, rows, p->model->channels, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out, "predictions", SV_F32, rows, p->model->channels, SV_NONE));
    SV_TRY(c->device->upload(c, in.data, pictures, bytes));
    SV_TRY(sv_convs5_predict(c, p->model, out, in, count, 1, 1, first ? SV_NONE : p->carried->now,
                             p->carried->next));
    SV_TRY(c->device->download(c, predictions, out.data, bytes));
    return sv_state_commit(c, p->state);
}

static sv_status run_clip(predictor *p, bool stream, sv_progress *progress)
{
    const int at_once = stream ? 1 : AT_ONCE;
    float *next = p->foreseen + p->numbers; /* nothing foresees the first picture */
    double began = sv_clock_ms();
    for (int t = 0; t < p->given; t += at_once) {
        const int count = p->given - t < at_once ? p->given - t : at_once;
        SV_TRY(step(p, p->real + (size_t)t * p->numbers, count, t == 0, next + (size_t)t * p->numbers));
        sv_progress_step(progress, t + count);
    }
    p->seen_ms = sv_clock_ms() - began;
    began = sv_clock_ms();
    for (int t = p->given; t + 1 < p->given + p->predicted; t++) {
        SV_TRY(step(p, p->foreseen + (size_t)t * p->numbers, 1, false,
                    p->foreseen + (size_t)(t + 1) * p->numbers));
        sv_progress_step(progress, t + 1);
    }
    p->generated_ms = sv_clock_ms() - began;
    return SV_OK;
}

/* ---- results ------------------------------------------------------------------------------------------ */

static void paint(sv_image *image, const predictor *p, const float *picture, int x, int y, int scale)
{
    const int channels = p->model->channels, width = p->model->width;
    for (int i = 0; i < p->model->height * scale; i++)
        for (int k = 0; k < width * scale; k++) {
            const float *v = picture + (size_t)(i / scale * width + k / scale) * (size_t)channels;
            uint8_t *to = image->rgb + ((size_t)(y + i) * (size_t)image->width + (size_t)(x + k)) * 3;
            for (int ch = 0; ch < 3; ch++) {
                const float level = (v[channels == 1 ? 0 : ch] + 1) / 2;
                to[ch] = (uint8_t)(255 * fminf(fmaxf(level, 0), 1) + 0.5f);
            }
        }
}

/* The last pictures of the clip and all predictions, side by side. */
static sv_status write_strip(const predictor *p)
{
    const int scale = p->model->width < 96 ? 2 : 1;
    const int side = p->model->width * scale + GAP, tall = p->model->height * scale + GAP;
    const int shown = p->given < SHOWN ? p->given : SHOWN, first = p->given - shown;
    const int columns = shown + p->predicted;
    sv_image image;
    SV_CHECK(p->c, columns * side <= SV_IMAGE_SIDE, SV_USAGE,
             "%s: %d pictures side by side are too many; --predict less", p->job->output, columns);
    SV_TRY(sv_image_new(p->c, &image, columns * side + GAP, 2 * tall + 2 * MARGIN + GAP, 0x202428));
    sv_image_text(&image, GAP, 3, 1, p->count > p->given ? "the clip, and what followed" : "the clip",
                  (sv_paint){0xffffff, 1});
    sv_image_text(&image, GAP, tall + MARGIN + 3, 1, "predicted from the pictures before",
                  (sv_paint){0xffffff, 1});
    sv_image_text(&image, GAP + shown * side, tall + MARGIN + 3, 1, "generated", (sv_paint){0xffc040, 1});
    for (int i = 0; i < columns; i++) {
        const int t = first + i, x = GAP + i * side;
        if (t < p->count) paint(&image, p, p->real + (size_t)t * p->numbers, x, MARGIN, scale);
        if (t > 0) paint(&image, p, p->foreseen + (size_t)t * p->numbers, x, tall + 2 * MARGIN, scale);
    }
    sv_image_line(&image, (float)(shown * side) + 1, 0, (float)(shown * side) + 1, (float)image.height, 2,
                  (sv_paint){0xffc040, 1});
    const sv_status status = sv_image_write_png(p->c, &image, p->job->output);
    sv_image_free(&image);
    return status;
}

/* The same as a film: the clip beside what was predicted for the same moment. */
static sv_status write_film(const predictor *p)
{
    const int side = p->model->width > p->model->height ? p->model->width : p->model->height;
    const int scale = side < FILM_SIDE ? FILM_SIDE / side : 1;
    const int width = p->model->width * scale, height = p->model->height * scale;
    sv_film_writer *film = NULL;
    sv_image image;
    SV_TRY(sv_image_new(p->c, &image, (2 * width + GAP + 1) / 2 * 2, (height + MARGIN + 1) / 2 * 2, 0));
    sv_status status = sv_film_create(p->c, p->job->output, image.width, image.height, FILM_RATE, &film);
    for (int t = 0; t < p->given + p->predicted && status == SV_OK; t++) {
        const bool known = t < p->given;
        sv_image_rectangle(&image, 0, 0, (float)image.width, (float)image.height, (sv_paint){0x202428, 1});
        sv_image_text(&image, GAP, 3, 1,
                      known          ? "the clip"
                      : t < p->count ? "what followed"
                                     : "",
                      (sv_paint){0xffffff, 1});
        sv_image_text(&image, width + GAP, 3, 1, known ? "predicted" : "generated",
                      (sv_paint){known ? 0xffffff : 0xffc040, 1});
        if (t < p->count) paint(&image, p, p->real + (size_t)t * p->numbers, 0, MARGIN, scale);
        if (t > 0) paint(&image, p, p->foreseen + (size_t)t * p->numbers, width + GAP, MARGIN, scale);
        status = sv_film_add(p->c, film, &image);
    }
    if (status == SV_OK) status = sv_film_finish(p->c, film);
    sv_film_writer_close(film);
    sv_image_free(&image);
    return status;
}

/* Mean squared error of pictures first..end-1, of levels 0..1. */
static double error_of(const predictor *p, int first, int end)
{
    double sum = 0;
    for (size_t i = (size_t)first * p->numbers; i < (size_t)end * p->numbers; i++) {
        const double off = ((double)p->foreseen[i] - (double)p->real[i]) / 2;
        sum += off * off;
    }
    return sum / ((double)(end - first) * (double)p->numbers);
}

static void print_result(const predictor *p, const char *name)
{
    const double seen = p->seen_ms > 0 ? 1e3 * p->given / p->seen_ms : 0;
    const double generated = p->generated_ms > 0 ? 1e3 * (p->predicted - 1) / p->generated_ms : 0;
    const size_t bytes = sv_state_bytes(p->state) / 2;
    const int known = p->count - p->given < p->predicted ? p->count - p->given : p->predicted;
    if (p->job->app->json) {
        sv_json j = sv_json_begin(stdout);
        sv_json_object(&j, SV_JSON_LINES);
        sv_json_key(&j, "input"), sv_json_text(&j, name);
        sv_json_key(&j, "frames"), sv_json_int(&j, p->given);
        sv_json_key(&j, "predicted"), sv_json_int(&j, p->predicted);
        sv_json_key(&j, "frames_per_second"), sv_json_double(&j, seen);
        sv_json_key(&j, "generated_per_second"), sv_json_double(&j, generated);
        sv_json_key(&j, "state_bytes"), sv_json_int(&j, (int64_t)bytes);
        if (p->given > 1) sv_json_key(&j, "mse"), sv_json_double(&j, error_of(p, 1, p->given));
        if (known > 0)
            sv_json_key(&j, "generated_mse"), sv_json_double(&j, error_of(p, p->given, p->given + known));
        sv_json_end(&j);
    } else {
        printf("%s: %d pictures seen, %d predicted\n", name, p->given, p->predicted);
        printf("  %.2f frames/s seen", seen);
        if (p->predicted > 1) printf(", %.2f frames/s generated", generated);
        printf(", state %.2f MB\n", (double)bytes / 1e6);
        if (p->given > 1) printf("  mean squared error one picture ahead %.5f\n", error_of(p, 1, p->given));
        if (known > 0)
            printf("  and of %d generated ones %.5f\n", known, error_of(p, p->given, p->given + known));
    }
    fflush(stdout);
}

/* ---- the command -------------------------------------------------------------------------------------- */

static sv_status run_input(predictor *p, sv_clip *clip)
{
    const video_job *job = p->job;
    const char *name = clip->name;
    const int count = clip->count;
    const bool stream = job->mode && strcmp(job->mode, "stream") == 0;
    p->count = count;
    p->given = job->frames > 0 && job->frames < count ? job->frames : count;
    SV_CHECK(p->c, p->given >= 1, SV_BAD_INPUT, "%s: there are no pictures (.jpg, .jpeg, .png) in it", name);
    const size_t all = (size_t)(p->given + p->predicted) * p->numbers;
    p->real = malloc(sizeof(float) * (size_t)count * p->numbers);
    p->foreseen = calloc(all, sizeof(float));
    sv_status status = p->real && p->foreseen
                           ? SV_OK
                           : SV_FAIL(p->c, SV_NO_MEMORY, "%s: no memory for %d pictures", name, count);
    if (status == SV_OK) status = read_all(p, clip);
    sv_progress progress;
    sv_progress_begin(&progress, job->app, name, "frames", p->given + p->predicted - 1);
    if (status == SV_OK) status = sv_state_reset(p->c, p->state);
    if (status == SV_OK) status = run_clip(p, stream, &progress);
    sv_progress_end(&progress);
    if (status == SV_OK) print_result(p, name);
    if (status == SV_OK && job->output) status = sv_film_named(job->output) ? write_film(p) : write_strip(p);
    free(p->real);
    free(p->foreseen);
    return status;
}

static sv_status run_inputs(predictor *p)
{
    const video_job *job = p->job;
    bool whole = false;
    SV_TRY(video_inputs(job, &whole));
    SV_CHECK(p->c, !job->output || !whole || job->count == 1, SV_USAGE,
             "-o writes the pictures of one input; run 'savanna video' once for each");
    if (!whole) {
        sv_clip clip = sv_clip_of_pictures(job->inputs, job->count);
        return run_input(p, &clip);
    }
    for (int i = 0; i < job->count; i++) {
        sv_clip clip;
        SV_TRY(sv_clip_open(p->c, job->inputs[i], &clip));
        const sv_status status = run_input(p, &clip);
        sv_clip_close(&clip);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status run(const video_job *job)
{
    predictor p = {.job = job, .c = job->c};
    sv_ctx *c = job->c;
    const char *dot = job->output ? strrchr(job->output, '.') : NULL;
    SV_CHECK(c, !job->mode || strcmp(job->mode, "clip") == 0 || strcmp(job->mode, "stream") == 0, SV_USAGE,
             "--mode: '%s' is not clip or stream", job->mode);
    SV_CHECK(c, !job->output || (dot && (strcmp(dot, ".png") == 0 || strcmp(dot, ".mp4") == 0)), SV_USAGE,
             "%s: name it .png for a strip of pictures, .mp4 for a film", job->output);
    if (dot && strcmp(dot, ".mp4") == 0) SV_TRY(sv_film_need(c));
    p.predicted = job->predict > 0 ? job->predict : DEFAULT_PREDICTED;
    SV_CHECK(c, p.predicted <= MOST_PREDICTED, SV_USAGE, "--predict: %d; at most %d are possible",
             p.predicted, MOST_PREDICTED);
    sv_status status = open_model(c, job->config, job->weights, &p.model, &p.rule);
    if (status == SV_OK) status = sv_state_open(c, &p.state);
    if (status == SV_OK)
        status = sv_state_entry_get(c, p.state, "convs5", sv_convs5_state_rows(p.model, 1),
                                    sv_convs5_state_columns(p.model), &p.carried);
    if (status == SV_OK) {
        p.numbers = (size_t)p.model->height * (size_t)p.model->width * (size_t)p.model->channels;
        sv_log(c, SV_LOG_NOTE, "ConvS5: %lld parameters", (long long)p.model->parameters);
        status = run_inputs(&p);
    }
    sv_state_close(p.state);
    sv_convs5_close(p.model);
    return status;
}

const video_model video_convs5 = {.option = "convs5",
                                  .name = "ConvS5",
                                  .official = "convS5_noVQ",
                                  .config = "convs5_mnist300",
                                  .init = init,
                                  .fits = fits,
                                  .run = run};
