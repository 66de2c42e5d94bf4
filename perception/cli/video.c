/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna video: finds the model by --model, by the configuration or by what the weights file says of itself, and hands the
 * inputs to it.
 */
#include "video.h"

#include <stdlib.h>
#include <string.h>

static const video_model *const models[] = {
#define VIDEO(name) &video_##name,
#include "video_models.def"
#undef VIDEO
};
enum { MODELS = sizeof models / sizeof *models };

const video_model *video_model_of(const sv_config *config)
{
    const sv_node *model = sv_node_find(sv_config_root(config), "MODEL");
    const sv_node *name = model && sv_node_kind_of(model) == SV_NODE_MAP ? sv_node_find(model, "NAME") : NULL;
    for (int i = 0; name && i < MODELS; i++)
        if (strcmp(sv_node_text(name), models[i]->name) == 0) return models[i];
    const sv_node *official = model ? NULL : sv_node_find(sv_config_root(config), "model");
    for (int i = 0; official && i < MODELS; i++)
        if (models[i]->official && strcmp(sv_node_text(official), models[i]->official) == 0) return models[i];
    return NULL;
}

sv_status video_config(const sv_app *app, sv_ctx *c, const char *path, const sv_weights *weights,
                       sv_config **config, const video_model **model)
{
    *config = NULL;
    *model = NULL;
    const char *text = !path && weights ? sv_weights_meta(weights, "config") : NULL;
    if (path)
        SV_TRY(sv_config_load(c, path, app->sets.text, app->sets.count, config));
    else if (text)
        SV_TRY(sv_config_parse(c, text, strlen(text), sv_weights_path(weights), app->sets.text,
                               app->sets.count, config));
    else
        return SV_OK;
    *model = video_model_of(*config);
    if (*model) return SV_OK;
    sv_config_free(*config);
    *config = NULL;
    return SV_OK;
}

sv_status video_describe(sv_ctx *c, const sv_config *config, sv_weights *weights)
{
    char *text = NULL;
    SV_TRY(sv_config_text(c, config, &text));
    const sv_status status = sv_weights_set_meta(c, weights, "config", text);
    free(text);
    return status;
}

sv_status video_inputs(const video_job *job, bool *whole)
{
    int clips = 0;
    for (int i = 0; i < job->count; i++) {
        bool one = false;
        SV_TRY(sv_clip_is_whole(job->c, job->inputs[i], &one));
        clips += one;
    }
    SV_CHECK(
        job->c, clips == 0 || clips == job->count, SV_USAGE,
        "name folders and video files, or pictures, not both: pictures form one clip, a folder or a video is "
        "one");
    *whole = clips > 0;
    return SV_OK;
}

/* ---- the command -------------------------------------------------------------------------------------- */

static const char *model_name, *config_path, *weights_path, *output, *mode;
static int frames, top, predict;

static const video_model *find_model(const char *option)
{
    for (int i = 0; i < MODELS; i++)
        if (strcmp(models[i]->option, option) == 0) return models[i];
    return NULL;
}

static sv_status run_model(const sv_app *app, sv_ctx *c, int count, char **inputs)
{
    sv_weights *weights = NULL;
    sv_config *config = NULL;
    const video_model *wanted = model_name ? find_model(model_name) : NULL, *model = NULL;
    const char *path = config_path;
    sv_status status = sv_weights_open(c, weights_path, &weights);
    if (status == SV_OK && !path && !sv_weights_meta(weights, "config"))
        path = wanted ? wanted->config : models[0]->config;
    if (status == SV_OK) status = video_config(app, c, path, weights, &config, &model);
    if (status == SV_OK && !model)
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: MODEL.NAME is no model of 'savanna video'",
                         path ? path : weights_path);
    if (status == SV_OK && wanted && wanted != model)
        status = SV_FAIL(c, SV_BAD_INPUT, "--model %s, but %s is a configuration of %s", wanted->option,
                         path ? path : weights_path, model->name);
    const video_job job = {.app = app,
                           .c = c,
                           .config = config,
                           .weights = weights,
                           .output = output,
                           .mode = mode,
                           .count = count,
                           .inputs = inputs,
                           .frames = frames,
                           .top = top,
                           .predict = predict};
    if (status == SV_OK) status = model->run(&job);
    sv_config_free(config);
    sv_weights_free(weights);
    return status;
}

static int run_video(sv_app *app, int count, char **inputs)
{
    if (model_name && !find_model(model_name))
        return sv_app_usage_error(app, "--model: there is no model '%s'; 'savanna help video' lists them",
                                  model_name);
    if (!weights_path)
        return sv_app_usage_error(app, "name the weights: -w FILE ('savanna init' makes some)");
    if (count == 0) return sv_app_usage_error(app, "name pictures, a folder of them, or a video file");
    if (frames < 0 || top < 0 || predict < 0)
        return sv_app_usage_error(app, "--frames, --top and --predict are not negative");
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    const sv_status status = run_model(app, c, count, inputs);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--model", 0, SV_OPTION_TEXT, &model_name, "trecvit|convs5",
     "Which model, where neither -c nor the weights say."},
    {"--config", 'c', SV_OPTION_TEXT, &config_path, "CFG.yaml",
     "The model's configuration; default: that inside the weights file, else the model's own that ships."},
    {"--weights", 'w', SV_OPTION_TEXT, &weights_path, "FILE",
     "An official checkpoint (.npz of TRecViT, flax checkpoint of ConvS5) or a model file of 'savanna init' "
     "or 'savanna import'."},
    {"--mode", 0, SV_OPTION_TEXT, &mode, "clip|stream",
     "Whole clips (convs5: 16 frames) at once, or frame by frame with the state carried; the result is the "
     "same, the memory constant. Default clip."},
    {"--frames", 0, SV_OPTION_INT, &frames, "N", "Use only the first N frames of each input."},
    {"--top", 0, SV_OPTION_INT, &top, "K", "trecvit: print the K best classes. Default 5."},
    {"--predict", 0, SV_OPTION_INT, &predict, "N",
     "convs5: generate N pictures behind the clip. Default 10."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "FILE", "Write the result there; what, depends on the model."},
};

const sv_command sv_command_video = {
    .name = "video",
    .summary = "classify clips and camera streams, predict what follows",
    .usage = "[--model trecvit] -w WEIGHTS PICTURE...|FOLDER...|VIDEO... [--mode clip|stream]\n"
             "--model convs5 -w WEIGHTS PICTURE...|FOLDER|VIDEO [--predict N] [-o STRIP.png|FILM.mp4]",
    .description =
        "Runs a model on pictures in time. A folder stands for one camera or clip: its JPEG and PNG files in "
        "the order of their names; a video file (.mp4, .mkv, .avi ...; in builds with FFmpeg) is one, too; "
        "single "
        "pictures that are named form one clip together.\n"
        "trecvit: classifies clips. Every picture is cut and resized as the configuration says (INPUT). "
        "Prints the best classes, frames per second and the size of the state.\n"
        "convs5: predicts the next pictures of a clip. The pictures before --frames are shown to the model, "
        "then its "
        "predictions are fed back. Where --frames leaves pictures over, the generated ones are compared with "
        "them. -o "
        "writes the clip and below it the predictions, side by side in one PNG, or as an MP4 film (in builds "
        "with "
        "FFmpeg).",
    .examples =
        "  savanna init -c trecvit_ti -o ti.safetensors --seed 1\n"
        "  savanna video -w ti.safetensors clips/drive/ --mode stream\n"
        "  savanna video --model trecvit -w trecvit_B_k400.npz frames/\n"
        "  savanna video -w ti.safetensors front.mp4\n"
        "  savanna video --model convs5 -w checkpoint_300000 digits/ --frames 20 --predict 30 -o strip.png\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_video,
};
