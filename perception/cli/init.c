/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna init: seeded random weights for a configuration.
 */
#include "video.h"

#include <string.h>

static const char *config, *output;

static sv_status init(const sv_app *app, sv_ctx *c)
{
    const sv_model_def def = {.config = config, .sets = app->sets.text, .set_count = app->sets.count};
    sv_weights *w = sv_weights_new();
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for weights");
    sv_config *video = NULL;
    const video_model *model = NULL;
    sv_status status = video_config(app, c, config, NULL, &video, &model);
    if (status == SV_OK && model) {
        status = model->init(c, video, (uint64_t)app->seed, w);
        if (status == SV_OK) status = video_describe(c, video, w);
    } else if (status == SV_OK) {
        status = sv_model_init(c, &def, (uint64_t)app->seed, w);
    }
    sv_config_free(video);
    if (status == SV_OK) status = sv_weights_set_meta(c, w, "source", "savanna init");
    if (status == SV_OK) status = sv_weights_write(c, w, output);
    if (status == SV_OK) sv_app_say(app, "%s: %d tensors, seed %.0f", output, sv_weights_count(w), app->seed);
    sv_weights_free(w);
    return status;
}

static int run_init(sv_app *app, int count, char **inputs)
{
    if (count > 0) return sv_app_usage_error(app, "'%s' is not expected here", inputs[0]);
    if (!config || !output)
        return sv_app_usage_error(app, "name a configuration and the file to write: -c CFG.yaml -o MODEL.h5");
    if (app->seed < 0 || app->seed > 9007199254740992.0 || app->seed != (double)(uint64_t)app->seed)
        return sv_app_usage_error(app, "--seed: %g is not a whole number within 0..2^53", app->seed);
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    const sv_status status = init(app, c);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml", "The network to make weights for."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "MODEL", "The file to write: .h5 (native) or .safetensors."},
};

const sv_command sv_command_init = {
    .name = "init",
    .summary = "make random weights for a configuration",
    .usage = "-c CFG.yaml --seed S -o MODEL.h5|MODEL.safetensors",
    .description = "Writes a self-describing model file with random weights, drawn as the network's parts "
                   "ask for (residual branches damped, so that "
                   "activations stay of order one). The same seed gives the same bytes. Such a model detects "
                   "nothing sensible; it is for tests and benchmarks.",
    .examples = "  savanna init -c kitti_lion_mamba.yaml --seed 1 -o random.h5\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_init,
};
