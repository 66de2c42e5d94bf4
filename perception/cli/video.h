/* SPDX-License-Identifier: Apache-2.0
 *
 * 'savanna video': models that take pictures in time. video_models.def lists them, one line each; a model is a video_model
 * in video_<name>.c. What has to do with no particular model (options, configuration, weights, messages) is in video.c.
 */
#ifndef SV_VIDEO_H
#define SV_VIDEO_H

#include "app.h"

#include "perception/clip.h"
#include "perception/model/config.h"
#include "perception/model/weights.h"

/* One call of the command. */
typedef struct video_job {
    const sv_app *app;
    sv_ctx *c;
    const sv_config *config;
    const sv_weights *weights;
    const char *output; /* -o; NULL: nothing is written */
    const char *mode;   /* --mode; NULL: the model's own choice */
    int count;          /* inputs */
    char **inputs;
    int frames, top, predict; /* options of these names; 0: not given */
} video_job;

typedef struct video_model {
    const char *option;   /* --model OPTION */
    const char *name;     /* MODEL.NAME of its configurations */
    const char *official; /* 'model' of official configurations, which have no MODEL; NULL: there are none */
    const char *config;   /* the one that ships and is taken where none is named */
    sv_status (*init)(sv_ctx *c, const sv_config *config, uint64_t seed, sv_weights *weights);
    /* Refuses weights that do not fit the configuration; '*parameters' counts them. */
    sv_status (*fits)(sv_ctx *c, const sv_config *config, const sv_weights *weights, int64_t *parameters);
    sv_status (*run)(const video_job *job);
} video_model;

#define VIDEO(name) extern const video_model video_##name;
#include "video_models.def"
#undef VIDEO

/* Whether every input is a clip of its own (a folder or a video file), or they are pictures that form one together. */
sv_status video_inputs(const video_job *job, bool *whole);

/* The model of a configuration by its MODEL.NAME or model; NULL: none of these. */
const video_model *video_model_of(const sv_config *config);

/* For 'savanna init' and 'savanna import': whether the configuration (a file; NULL: that inside 'weights') is a video model's.
 * If so '*config' is to be freed with sv_config_free(). */
sv_status video_config(const sv_app *app, sv_ctx *c, const char *path, const sv_weights *weights,
                       sv_config **config, const video_model **model);
/* Metadata "config": the file describes itself. */
sv_status video_describe(sv_ctx *c, const sv_config *config, sv_weights *weights);

#endif
