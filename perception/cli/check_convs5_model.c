/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of whole ConvS5 models: teacher-forced clip (tf/), the same frame by frame (stream/), open-loop generation
 * (gen/). The configuration is the official one, as JSON in an attribute. Weights: in the file, by rule, and, where a folder
 * NAME_checkpoints lies beside NAME.h5, those of its checkpoint, which must be the same numbers.
 *
 * Recordings of large models are cut: leading channels, and of the frames the last ones (encode, action_conv: the first).
 */
#include "check_convs5.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 200 };

typedef struct model_case {
    convs5_case *k;
    sv_convs5 *model;
    int total, batch, pixels; /* frames of the clip; of a picture, channels included */
    float *clip;              /* [frames, batch, pixels] in -1..1 */
    sv_tensor pictures, predicted, state;
} model_case;

/* ---- weights -------------------------------------------------------------------------------------------- */

/* The first checkpoint_* of the folder NAME_checkpoints; false when there is none. */
static bool find_checkpoint(const char *file, char *path, size_t room)
{
    const char *dot = strrchr(file, '.');
    const int stem = (int)(dot ? dot - file : (ptrdiff_t)strlen(file));
    char folder[1024];
    snprintf(folder, sizeof folder, "%.*s_checkpoints", stem, file);
    DIR *d = opendir(folder);
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));)
        if (strncmp(e->d_name, "checkpoint_", 11) == 0)
            found = snprintf(path, room, "%s/%s", folder, e->d_name) < (int)room;
    if (d) closedir(d);
    return found;
}

static void compare_checkpoint(convs5_case *k, const sv_weights *got, const sv_weights *want)
{
    int equal = 0;
    const char *wrong = NULL;
    for (int i = 0; i < sv_weights_count(want); i++) {
        const sv_tensor a = sv_weights_tensor(want, i), b = sv_weights_find(got, sv_weights_name(want, i));
        const size_t bytes = sizeof(float) * (size_t)a.dim[0] * (size_t)sv_row_elements(a);
        const bool same = !sv_is_none(b) && b.ndim == a.ndim &&
                          memcmp(a.dim, b.dim, sizeof a.dim[0] * a.ndim) == 0 && b.dtype == a.dtype &&
                          memcmp(a.data, b.data, bytes) == 0;
        if (same)
            equal++;
        else if (!wrong)
            wrong = sv_weights_name(want, i);
    }
    const bool all = !wrong && sv_weights_count(got) == equal;
    check_result(k->run, k->file, "checkpoint", all, "%d of %d tensors hold the same numbers%s%s", equal,
                 sv_weights_count(got), wrong ? ", first other one: " : "", wrong ? wrong : "");
}

static sv_status read_weights(convs5_case *k, const sv_config *config, sv_weights **out)
{
    sv_ctx *c = k->run->c;
    char path[1200], prefix[64] = "";
    if (check_video_has(k->file, k->group, "w/encoder/Conv_0/kernel")) {
        sv_weights *file = NULL, *checkpoint = NULL;
        SV_TRY(check_video_weights(k->run, k->file, k->group, &file));
        sv_status status = SV_OK;
        if (find_checkpoint(k->file->path, path, sizeof path)) {
            status = sv_weights_open(c, path, &checkpoint);
            if (status == SV_OK) compare_checkpoint(k, checkpoint, file);
        }
        *out = checkpoint ? checkpoint : file;
        if (checkpoint) sv_weights_free(file);
        return status;
    }
    SV_TRY(check_video_text(k->run, k->file, k->group, "prefix", prefix));
    SV_CHECK(c, prefix[0], SV_BAD_INPUT, "%s: '%s' has neither weights nor a prefix for the rule",
             k->file->path, k->group);
    sv_weights *w = sv_weights_new();
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for weights");
    sv_status status = sv_convs5_init(c, config, 0, w);
    if (status == SV_OK) status = check_rule_fill(c, w, prefix);
    if (status == SV_OK)
        *out = w;
    else
        sv_weights_free(w);
    return status;
}

static sv_status open_model(convs5_case *k, sv_convs5 **out)
{
    sv_ctx *c = k->run->c;
    char name[NAME], *text = NULL;
    sv_config *config = NULL;
    sv_weights *weights = NULL;
    snprintf(name, sizeof name, "%s@config", k->group);
    SV_TRY(sv_h5_text(c, k->file->h5, name, &text));
    sv_status status = sv_config_parse(c, text, strlen(text), k->file->path, NULL, 0, &config);
    if (status == SV_OK) status = read_weights(k, config, &weights);
    if (status == SV_OK) status = check_rule_keys(k->run, k->file, weights);
    if (status == SV_OK) status = sv_convs5_open(c, config, weights, out);
    sv_weights_free(weights);
    sv_config_free(config);
    free(text);
    return status;
}

/* ---- comparing ------------------------------------------------------------------------------------------ */

/* What we have: [frames, batch, H, W, C] in this order. */
typedef struct series {
    const float *values;
    int frames, batch, cells, channels;
    bool by_sample; /* the file has [batch, frames, ...] */
    bool last;      /* a cut recording has the last frames */
} series;

static sv_status compare_series(convs5_case *k, const char *name, const series *s)
{
    char full[NAME], path[NAME + 100];
    sv_h5_array want;
    snprintf(full, sizeof full, "%s%s", k->sub, name);
    if (!check_video_has(k->file, k->group, full)) return SV_OK;
    snprintf(path, sizeof path, "%s/%s", k->group, full);
    SV_TRY(check_read(k->run, k->file, path, &want));
    const int frames = want.ndim == 5 ? (int)want.dim[s->by_sample] : 0,
              channels = want.ndim == 5 ? (int)want.dim[4] : 0;
    const bool fits = want.ndim == 5 && want.dim[!s->by_sample] == s->batch && frames <= s->frames &&
                      channels <= s->channels && want.dim[2] * want.dim[3] == s->cells;
    const size_t count = want.count;
    sv_h5_array_free(&want);
    SV_CHECK(k->run->c, fits, SV_BAD_SHAPE,
             "'%s' does not fit %d frames of %d samples with %d cells of %d channels", path, s->frames,
             s->batch, s->cells, s->channels);
    float *cut = malloc(sizeof *cut * count);
    SV_CHECK(k->run->c, cut, SV_NO_MEMORY, "no memory");
    const int first = s->last ? s->frames - frames : 0;
    for (int t = 0; t < frames; t++)
        for (int b = 0; b < s->batch; b++)
            for (int i = 0; i < s->cells; i++) {
                const int at = s->by_sample ? b * frames + t : t * s->batch + b;
                memcpy(cut + ((size_t)at * (size_t)s->cells + (size_t)i) * (size_t)channels,
                       s->values + (((size_t)(first + t) * (size_t)s->batch + (size_t)b) * (size_t)s->cells +
                                    (size_t)i) *
                                       (size_t)s->channels,
                       sizeof *cut * (size_t)channels);
            }
    const sv_status status = check_video_compare(k->run, k->file, k->group, full, cut, count);
    free(cut);
    return status;
}

static sv_status compare_tensor(model_case *m, const char *name, sv_tensor t, int frames, bool by_sample,
                                bool last)
{
    convs5_case *k = m->k;
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(k->run->c, t, &host, &rows));
    const series s = {.values = host,
                      .frames = frames,
                      .batch = m->batch,
                      .cells = rows / frames / m->batch,
                      .channels = t.dim[1],
                      .by_sample = by_sample,
                      .last = last};
    char cut[NAME];
    snprintf(cut, sizeof cut, "%s_c8", name);
    sv_status status = compare_series(k, name, &s);
    if (status == SV_OK) status = compare_series(k, cut, &s);
    free(host);
    return status;
}

static sv_status compare_shown(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    model_case *m = user;
    const char *slash = strrchr(name, '/'), *leaf = slash ? slash + 1 : name;
    const bool layer = strncmp(leaf, "layer", 5) == 0, deter = strcmp(leaf, "deter") == 0;
    (void)c;
    if (!layer && !deter && strcmp(leaf, "action_conv") != 0) return SV_OK;
    return compare_tensor(m, leaf, tensor, m->total - 1, deter, layer || deter);
}

/* ---- passes --------------------------------------------------------------------------------------------- */

/* Frames first..first+count-1 of the clip on the device. */
static sv_status upload_frames(model_case *m, sv_tensor *out, int first, int count)
{
    sv_ctx *c = m->k->run->c;
    const size_t frame = (size_t)m->batch * (size_t)m->pixels;
    *out = m->pictures;
    out->dim[0] = count * m->batch * m->model->height * m->model->width;
    SV_TRY(c->device->upload(c, out->data, m->clip + (size_t)first * frame,
                             sizeof(float) * frame * (size_t)count));
    return c->device->queue_wait(c);
}

/* 'count' frames' predictions. */
static sv_tensor predictions(const model_case *m, int first, int count)
{
    sv_tensor t = m->predicted;
    const int rows = m->batch * m->model->height * m->model->width;
    t.data = (float *)t.data + (size_t)first * (size_t)rows * (size_t)t.pitch;
    t.dim[0] = count * rows;
    return t;
}

static sv_status check_losses(model_case *m)
{
    convs5_case *k = m->k;
    void *host = NULL;
    int rows = 0;
    double squares = 0, sizes = 0;
    SV_TRY(sv_download_rows(k->run->c, predictions(m, 0, m->total - 1), &host, &rows));
    const size_t frame = (size_t)m->batch * (size_t)m->pixels, count = (size_t)(m->total - 1) * frame;
    for (size_t i = 0; i < count; i++) {
        const double off = (double)((float *)host)[i] - (double)m->clip[frame + i];
        squares += off * off;
        sizes += fabs(off);
    }
    free(host);
    /* Summed over a line, averaged over everything else. */
    const double lines = (double)(m->total - 1) * m->batch * m->model->height;
    const float losses[3] = {(float)(0.5 * (squares + sizes) / lines), (float)(squares / lines),
                             (float)(sizes / lines)};
    return check_video_compare(k->run, k->file, k->group, "losses_loss_mse_l1", losses, 3);
}

static sv_status teacher_forced(model_case *m)
{
    sv_ctx *c = m->k->run->c;
    const sv_convs5 *model = m->model;
    sv_tensor pictures, latent;
    const int cells = model->latent_height * model->latent_width;
    m->k->sub = "tf/";
    SV_TRY(upload_frames(m, &pictures, 0, m->total));
    SV_TRY(sv_frame_alloc(c, &latent, "latent", SV_F32, m->total * m->batch * cells,
                          model->encoder.depth[model->encoder.depths - 1], SV_NONE));
    SV_TRY(sv_video_encode(c, &model->encoder, latent, pictures));
    SV_TRY(compare_tensor(m, "encode", latent, m->total, true, false));
    SV_TRY(upload_frames(m, &pictures, 0, m->total - 1));
    c->probe = compare_shown;
    c->probe_user = m;
    const sv_status status =
        sv_convs5_predict(c, model, predictions(m, 0, m->total - 1), pictures, m->total - 1, m->batch,
                          SV_CONVS5_STRETCH / 4, SV_NONE, m->state);
    c->probe = NULL;
    SV_TRY(status);
    SV_TRY(compare_tensor(m, "recon", predictions(m, 0, m->total - 1), m->total - 1, true, true));
    SV_TRY(convs5_compare_state_tensor(m->k, "last_states_ri", m->state));
    return check_losses(m);
}

static sv_status streamed(model_case *m)
{
    sv_ctx *c = m->k->run->c;
    m->k->sub = "stream/";
    for (int t = 0; t + 1 < m->total; t++) {
        sv_tensor picture;
        SV_TRY(upload_frames(m, &picture, t, 1));
        SV_TRY(sv_convs5_predict(c, m->model, predictions(m, t, 1), picture, 1, m->batch, 1,
                                 t == 0 ? SV_NONE : m->state, m->state));
    }
    SV_TRY(compare_tensor(m, "recon", predictions(m, 0, m->total - 1), m->total - 1, true, true));
    return convs5_compare_state_tensor(m->k, "last_states_ri", m->state);
}

static sv_status generated(model_case *m)
{
    sv_ctx *c = m->k->run->c;
    int context = 0, total = 0;
    sv_tensor picture;
    m->k->sub = "gen/";
    SV_TRY(check_video_int(m->k->run, m->k->file, m->k->group, "open_loop_ctx", &context));
    SV_TRY(check_video_int(m->k->run, m->k->file, m->k->group, "total", &total));
    SV_CHECK(c, context >= 2 && context <= m->total && total > context && total <= 1 << 12, SV_BAD_INPUT,
             "%s: %d frames of context, %d in all", m->k->file->path, context, total);
    SV_TRY(upload_frames(m, &picture, 0, context - 1));
    SV_TRY(sv_convs5_predict(c, m->model, SV_NONE, picture, context - 1, m->batch, 1, SV_NONE, m->state));
    SV_TRY(convs5_compare_state_tensor(m->k, "observe_states_ri", m->state));
    SV_TRY(sv_frame_alloc(c, &m->predicted, "generated", SV_F32,
                          (total - context) * m->batch * m->model->height * m->model->width,
                          m->model->channels, SV_NONE));
    SV_TRY(upload_frames(m, &picture, context - 1, 1));
    for (int t = 0; t < total - context; t++) {
        const sv_tensor next = predictions(m, t, 1);
        SV_TRY(sv_convs5_predict(c, m->model, next, picture, 1, m->batch, 1, m->state, m->state));
        picture = next;
    }
    SV_TRY(compare_tensor(m, "frames", predictions(m, 0, total - context), total - context, true, true));
    return convs5_compare_state_tensor(m->k, "states_final_ri", m->state);
}

/* ---- the case ------------------------------------------------------------------------------------------- */

static sv_status read_clip(model_case *m)
{
    convs5_case *k = m->k;
    sv_ctx *c = k->run->c;
    sv_h5_array video;
    const sv_convs5 *model = m->model;
    SV_TRY(check_video_read(k->run, k->file, k->group, "video_u8", &video));
    const bool fits = video.integer && video.ndim == 5 && video.dim[0] >= 1 && video.dim[1] >= 2 &&
                      video.dim[2] == model->height && video.dim[3] == model->width &&
                      video.dim[4] == model->channels;
    if (fits) {
        m->batch = (int)video.dim[0];
        m->total = (int)video.dim[1];
        m->pixels = model->height * model->width * model->channels;
        m->clip = malloc(sizeof *m->clip * video.count);
    }
    for (int b = 0; m->clip && b < m->batch; b++)
        for (int t = 0; t < m->total; t++)
            for (int i = 0; i < m->pixels; i++)
                m->clip[((size_t)t * (size_t)m->batch + (size_t)b) * (size_t)m->pixels + (size_t)i] =
                    2.0f *
                        ((float)video
                             .i[((size_t)b * (size_t)m->total + (size_t)t) * (size_t)m->pixels + (size_t)i] /
                         255.0f) -
                    1.0f;
    sv_h5_array_free(&video);
    SV_CHECK(c, fits, SV_BAD_SHAPE, "%s: video_u8 is no clip of pictures of %d x %d", k->file->path,
             model->height, model->width);
    SV_CHECK(c, m->clip, SV_NO_MEMORY, "no memory for a clip");
    const int rows = m->total * m->batch * model->height * model->width;
    SV_TRY(sv_frame_alloc(c, &m->pictures, "pictures", SV_F32, rows, model->channels, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &m->predicted, "predictions", SV_F32, rows, model->channels, SV_NONE));
    return sv_frame_alloc(c, &m->state, "state", SV_F32, sv_convs5_state_rows(model, m->batch),
                          sv_convs5_state_columns(model), SV_NONE);
}

sv_status convs5_check_model(convs5_case *k)
{
    model_case m = {.k = k};
    sv_status status = open_model(k, &m.model);
    if (status == SV_OK) status = read_clip(&m);
    if (status == SV_OK) status = teacher_forced(&m);
    if (status == SV_OK) status = streamed(&m);
    if (status == SV_OK) status = generated(&m);
    free(m.clip);
    sv_convs5_close(m.model);
    return status;
}
