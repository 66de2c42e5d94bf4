/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna import: a checkpoint and its configuration become one self-describing model file.
 * savanna init lives in init.c.
 */
#include "video.h"

#include "perception/model/sha256.h"

#include <stdio.h>
#include <string.h>

static const char *config, *output, *license = "";

static bool known_extension(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (strcmp(dot, ".h5") == 0 || strcmp(dot, ".hdf5") == 0 || strcmp(dot, ".safetensors") == 0);
}

static sv_status import(const sv_app *app, sv_ctx *c, const char *path)
{
    const sv_model_def def = {
        .config = config, .weights = path, .sets = app->sets.text, .set_count = app->sets.count};
    sv_weights *w = NULL;
    sv_model *model = NULL;
    sv_config *video_cfg = NULL;
    const video_model *video = NULL;
    int64_t parameters = 0;
    char digest[SV_SHA256_TEXT];
    SV_TRY(sv_sha256_file(c, path, digest));
    sv_status status = sv_weights_open(c, path, &w);
    if (status == SV_OK) status = video_config(app, c, config, w, &video_cfg, &video);
    /* Either refuses what does not fit. */
    if (status == SV_OK && video) {
        status = video->fits(c, video_cfg, w, &parameters);
        if (status == SV_OK) status = video_describe(c, video_cfg, w);
    } else if (status == SV_OK) {
        status = sv_model_open_weights(c, &def, w, &model);
        if (status == SV_OK) status = sv_model_describe(c, model, w);
        if (status == SV_OK) parameters = sv_model_parameters(model);
    }
    const char *slash = strrchr(path, '/');
    if (status == SV_OK) status = sv_weights_set_meta(c, w, "source", slash ? slash + 1 : path);
    if (status == SV_OK) status = sv_weights_set_meta(c, w, "source_sha256", digest);
    if (status == SV_OK && license[0]) status = sv_weights_set_meta(c, w, "license", license);
    if (status == SV_OK) status = sv_weights_write(c, w, output);
    if (status == SV_OK)
        sv_app_say(app, "%s: %s%s%s, %lld parameters, %d tensors", output,
                   model ? sv_model_name(model) : video->name, model ? " with " : "",
                   model ? sv_model_operator(model) : "", (long long)parameters, sv_weights_count(w));
    sv_config_free(video_cfg);
    sv_model_release(model);
    sv_weights_free(w);
    return status;
}

static int run_import(sv_app *app, int count, char **inputs)
{
    if (count != 1) return sv_app_usage_error(app, "name one checkpoint, not %d", count);
    if (!output) return sv_app_usage_error(app, "name the model file to write: -o MODEL.h5");
    if (!known_extension(output))
        return sv_app_usage_error(app, "-o %s: the name must end in .h5, .hdf5 or .safetensors", output);
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    const sv_status status = import(app, c, inputs[0]);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml",
     "The checkpoint's configuration. Not needed when the input describes itself."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "MODEL", "The file to write: .h5 (native) or .safetensors."},
    {"--license", 0, SV_OPTION_TEXT, &license, "TEXT", "Licence of the weights, kept in the file."},
};

const sv_command sv_command_import = {
    .name = "import",
    .summary = "turn a checkpoint into a self-describing model file",
    .usage = "CHECKPOINT -c CFG.yaml -o MODEL.h5|MODEL.safetensors",
    .description =
        "Reads a checkpoint (PyTorch, of which nothing is executed; .npz of TRecViT), checks every tensor "
        "against the "
        "configuration and writes one file "
        "that holds weights, resolved configuration, classes, point features, box convention and the "
        "source's checksum. Missing, "
        "extra and mis-shaped tensors are listed and refused. The same input gives the same bytes.",
    .examples = "  savanna import lion_kitti.pth -c kitti_lion_mamba.yaml -o lion.h5\n  savanna detect -w "
                "lion.h5 000134.bin\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_import,
};
