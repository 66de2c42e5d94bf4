/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole TRecViT models: group "model" as one clip, with every recorded layer, and frame by frame with the state carried, whose
 * bytes must be those of the clip; group "clips" as several clips a video. Weights come from the file, from NAME.npz beside
 * it where that is, or from the rule.
 */
#include "check_trecvit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char model_group[] = "model", clips_group[] = "clips";

typedef struct model_case {
    trecvit_case *k;
    sv_trecvit model;
    int frames;           /* of the recorded clip, in patches */
    float *video;         /* [frames * pt, h, w, 3] */
    float *encoded;       /* of the clip, rows (token, frame) */
    size_t picture;       /* numbers of a frame */
    float *rep, *running; /* of the stream: [frames, rep], [frames, classes] */
} model_case;

bool trecvit_is_model(check_file *file, const char *group)
{
    char name[128];
    snprintf(name, sizeof name, "%s@state_multiplier", group);
    return strcmp(group, model_group) == 0 && check_video_has(file, group, "video_u8") &&
           sv_h5_has_attribute(file->h5, name);
}

/* ---- weights ------------------------------------------------------------------------------------------ */

static sv_status read_spec(check_run *run, check_file *file, sv_trecvit_spec *s)
{
    int multiplier = 2;
    double patch[3];
    sv_h5_array video;
    *s = (sv_trecvit_spec){.patch = {1, 16, 16}, .class_token = true, .taps = 4};
    const struct {
        const char *name;
        int *to;
    } numbers[] = {{"width", &s->width},
                   {"depth", &s->depth},
                   {"mlp_dim", &s->mlp},
                   {"num_heads", &s->heads},
                   {"rep_size", &s->rep},
                   {"num_classes", &s->classes},
                   {"state_multiplier", &multiplier},
                   {"conv1d_temporal_width", &s->taps},
                   {"frames_per_clip", &s->frames_per_clip}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        SV_TRY(check_video_int(run, file, model_group, numbers[i].name, numbers[i].to));
    s->lru_width = multiplier * s->width;
    if (sv_h5_has_attribute(file->h5, "model@patch_size")) {
        SV_TRY(sv_h5_numbers(run->c, file->h5, "model@patch_size", patch, 3));
        for (int i = 0; i < 3; i++) s->patch[i] = (int)patch[i];
    }
    SV_TRY(check_video_read(run, file, model_group, "video_u8", &video));
    const bool fits = video.ndim == 5 && video.integer && video.dim[0] == 1 && video.dim[4] == 3 &&
                      s->patch[0] > 0 && s->patch[1] > 0 && s->patch[2] > 0;
    for (int i = 0; fits && i < 2; i++) s->grid[i] = (int)video.dim[2 + i] / s->patch[1 + i];
    sv_h5_array_free(&video);
    SV_CHECK(run->c,
             fits && s->depth >= 1 && s->depth <= SV_TRECVIT_DEPTH && s->width >= 1 && s->classes >= 1,
             SV_BAD_INPUT, "%s: 'model' is no whole model with a [1,t,h,w,3] video", file->path);
    return SV_OK;
}

/* All tensors that the model asks for, filled by the rule. */
static sv_status weights_by_rule(check_run *run, check_file *file, const sv_trecvit_spec *spec,
                                 sv_weights **out)
{
    sv_ctx *c = run->c;
    char prefix[64] = "";
    sv_arena arena;
    sv_binder *b = NULL;
    sv_trecvit model;
    SV_TRY(check_video_text(run, file, model_group, "prefix", prefix));
    sv_weights *w = sv_weights_new();
    *out = NULL;
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for weights");
    sv_arena_init(&arena, "shapes of reference weights", c->device);
    c->weights = &arena;
    sv_status status = sv_binder_open_init(c, w, 0, &b);
    if (status == SV_OK) status = sv_trecvit_bind(b, &model, spec);
    c->weights = NULL;
    sv_binder_close(b);
    sv_arena_free(&arena);
    if (status == SV_OK) status = check_rule_fill(c, w, prefix);
    if (status == SV_OK) status = check_rule_keys(run, file, w);
    if (status == SV_OK)
        *out = w;
    else
        sv_weights_free(w);
    return status;
}

/* Whether two containers hold the same tensors; 'name' is the first that differs. */
static bool same_weights(const sv_weights *a, const sv_weights *b, const char **name)
{
    for (int i = 0; i < sv_weights_count(a); i++) {
        const sv_tensor x = sv_weights_tensor(a, i), y = sv_weights_find(b, sv_weights_name(a, i));
        *name = sv_weights_name(a, i);
        const size_t bytes = sizeof(float) * (size_t)x.dim[0] * (size_t)sv_row_elements(x);
        if (sv_is_none(y) || y.ndim != x.ndim || memcmp(x.dim, y.dim, sizeof x.dim[0] * x.ndim) != 0 ||
            memcmp(x.data, y.data, bytes) != 0)
            return false;
    }
    return sv_weights_count(a) == sv_weights_count(b);
}

/* The same weights three ways, where they are there: in the file, as NAME.npz, by the rule. The .npz is what runs. */
static sv_status compare_sources(check_run *run, check_file *file, const sv_trecvit_spec *spec,
                                 sv_weights **weights)
{
    char path[1024];
    const char *name = "";
    sv_weights *ruled = NULL, *npz = NULL;
    if (sv_h5_has_attribute(file->h5, "model@prefix")) {
        SV_TRY(weights_by_rule(run, file, spec, &ruled));
        const bool same = same_weights(*weights, ruled, &name);
        check_result(run, file, "model/w by rule", same, same ? "equal, %d tensors" : "%d tensors, not '%s'",
                     sv_weights_count(ruled), name);
        sv_weights_free(ruled);
    }
    const size_t length = strlen(file->path);
    snprintf(path, sizeof path, "%.*s.npz", (int)(length > 3 ? length - 3 : 0), file->path);
    FILE *there = fopen(path, "rb");
    if (!there) return SV_OK;
    fclose(there);
    SV_TRY(sv_weights_open(run->c, path, &npz));
    const bool same = same_weights(*weights, npz, &name);
    check_result(run, file, "model/w as .npz", same, same ? "equal, %d tensors" : "%d tensors, not '%s'",
                 sv_weights_count(npz), name);
    sv_weights_free(*weights);
    *weights = npz;
    return SV_OK;
}

/* ---- layers ------------------------------------------------------------------------------------------- */

/* frames [t, n, c] against a dataset [1, t, m, c'] of the first m tokens and c' channels. */
static sv_status compare_cut(trecvit_case *k, const char *name, const float *x, int t, int n, int width)
{
    char full[160];
    sv_h5_array want;
    if (!check_video_has(k->file, k->group, name)) return SV_OK;
    snprintf(full, sizeof full, "%s/%s", k->group, name);
    SV_TRY(sv_h5_read(k->c, k->file->h5, full, &want));
    const int m = want.ndim >= 2 ? (int)want.dim[want.ndim - 2] : 0,
              columns = want.ndim >= 1 ? (int)want.dim[want.ndim - 1] : 0;
    const size_t count = want.count;
    sv_h5_array_free(&want);
    SV_CHECK(k->c,
             m >= 1 && m <= n && columns >= 1 && columns <= width &&
                 count == (size_t)t * (size_t)m * (size_t)columns,
             SV_BAD_INPUT, "%s: '%s' has %zu values, ours is [%d,%d,%d]", k->file->path, full, count, t, n,
             width);
    float *cut = malloc(sizeof *cut * count + 1);
    SV_CHECK(k->c, cut, SV_NO_MEMORY, "no memory for '%s'", full);
    for (int f = 0; f < t; f++)
        for (int i = 0; i < m; i++)
            memcpy(cut + ((size_t)f * (size_t)m + (size_t)i) * (size_t)columns,
                   x + ((size_t)f * (size_t)n + (size_t)i) * (size_t)width, sizeof *cut * (size_t)columns);
    const sv_status status = check_video_compare(k->run, k->file, k->group, name, cut, count);
    free(cut);
    return status;
}

static sv_status compare_statistics(trecvit_case *k, const char *name, const float *x, size_t count)
{
    double sum = 0, square = 0, most = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i];
        most = fmax(most, fabs((double)x[i]));
    }
    const double mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    const float got[3] = {(float)mean, (float)sqrt(square / (double)count), (float)most};
    return check_video_compare(k->run, k->file, k->group, name, got, 3);
}

/* Attention's inputs lie frame by frame already. */
static bool by_frames(const char *name)
{
    const char *last = strrchr(name, '/');
    return last && (!strcmp(last, "/query") || !strcmp(last, "/key") || !strcmp(last, "/value"));
}

static sv_status compare_layer(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    model_case *m = user;
    trecvit_case *k = m->k;
    char dataset[160];
    const int n = m->model.tokenizer.tokens, t = m->frames, width = tensor.dim[1];
    (void)c;
    if (tensor.dim[0] != n * t) return SV_OK; /* the head's */
    float *rows = NULL;
    SV_TRY(trecvit_download(k, tensor, &rows));
    float *frames = by_frames(name) ? NULL : trecvit_swapped(rows, n, t, width);
    const float *turned = frames ? frames : rows;
    const size_t count = (size_t)n * (size_t)t * (size_t)width;
    sv_status status = compare_cut(k, name, turned, t, n, width); /* tokens, encoded */
    snprintf(dataset, sizeof dataset, "layers/%.120s", name);
    if (status == SV_OK) status = compare_cut(k, dataset, turned, t, n, width);
    snprintf(dataset, sizeof dataset, "layers/%.120s_tok3", name);
    if (status == SV_OK) status = compare_cut(k, dataset, turned, t, n, width);
    snprintf(dataset, sizeof dataset, "layers/%.120s_stats", name);
    if (status == SV_OK && check_video_has(k->file, k->group, dataset))
        status = compare_statistics(k, dataset, rows, count);
    snprintf(dataset, sizeof dataset, "inner/%.120s/_y", name);
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, dataset,
                                     strncmp(name, "residual", 8) == 0 ? rows : turned, count);
    free(rows);
    free(frames);
    return status;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* The patches of 'batch' clips of 'length' patch frames each, one behind the other in 'video'. */
static sv_status upload_patches(model_case *m, const float *video, int batch, int length, sv_tensor *out)
{
    sv_ctx *c = m->k->c;
    const sv_tokenizer *t = &m->model.tokenizer;
    const int numbers = sv_tokenizer_patch_numbers(t), frames = batch * length * t->patch[0];
    SV_TRY(sv_frame_alloc(c, out, "patches", SV_F32, batch * length * t->grid[0] * t->grid[1], numbers,
                          SV_NONE));
    const size_t count = (size_t)out->dim[0] * (size_t)numbers;
    float *host = malloc(sizeof *host * count + 1);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory for patches");
    sv_tokenizer_patches(t, video, frames, host);
    sv_status status = c->device->upload(c, out->data, host, sizeof *host * count);
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(host);
    return status;
}

/* 'batch' clips: results of the head on the host, malloc'ed; encoded may be NULL. */
static sv_status run_clips(model_case *m, const float *video, int batch, int length, float **encoded,
                           float **pooled, float **logits)
{
    sv_ctx *c = m->k->c;
    sv_tensor patches, x, rep, mean, out;
    SV_TRY(trecvit_rewind(m->k));
    SV_TRY(upload_patches(m, video, batch, length, &patches));
    SV_TRY(sv_trecvit_encode(c, &m->model, &x, patches, batch, length, NULL, 0, false));
    if (encoded) SV_TRY(trecvit_download(m->k, x, encoded));
    SV_TRY(sv_video_head_frames(c, &m->model.head, &rep, x, batch, length));
    SV_TRY(sv_video_head_clips(c, &m->model.head, &mean, &out, rep, batch, length));
    if (pooled) SV_TRY(trecvit_download(m->k, mean, pooled));
    return trecvit_download(m->k, out, logits);
}

/* logits [videos, clips, classes] to the averages, against "GROUP/logits" and "GROUP/probs". */
static sv_status compare_averages(trecvit_case *k, const char *group, const float *logits, int videos,
                                  int clips, int classes)
{
    const size_t count = (size_t)videos * (size_t)classes;
    float *mean = calloc(2 * count, sizeof *mean);
    SV_CHECK(k->c, mean, SV_NO_MEMORY, "no memory for %zu numbers", count);
    for (int v = 0; v < videos; v++)
        sv_video_average(logits + (size_t)v * (size_t)clips * (size_t)classes, clips, classes,
                         mean + (size_t)v * (size_t)classes, mean + count + (size_t)v * (size_t)classes);
    sv_status status = check_video_compare(k->run, k->file, group, "logits", mean, count);
    if (status == SV_OK) status = check_video_compare(k->run, k->file, group, "probs", mean + count, count);
    free(mean);
    return status;
}

static sv_status check_clip(model_case *m)
{
    trecvit_case *k = m->k;
    float *pooled = NULL, *logits = NULL;
    k->c->probe = compare_layer;
    k->c->probe_user = m;
    sv_status status = run_clips(m, m->video, 1, m->frames, &m->encoded, &pooled, &logits);
    k->c->probe = NULL;
    if (status == SV_OK)
        status =
            check_video_compare(k->run, k->file, k->group, "pre_logits", pooled, (size_t)m->model.spec.rep);
    if (status == SV_OK) status = compare_averages(k, k->group, logits, 1, 1, m->model.spec.classes);
    free(pooled);
    free(logits);
    return status;
}

/* Groups "prefixN": the clip's first N frames alone. */
static sv_status check_prefixes(model_case *m)
{
    trecvit_case *k = m->k;
    for (int n = 1; n <= m->frames; n++) {
        char name[64];
        float *logits = NULL;
        snprintf(name, sizeof name, "prefix%d/logits", n);
        if (!check_video_has(k->file, k->group, name)) continue;
        sv_status status = run_clips(m, m->video, 1, n, NULL, NULL, &logits);
        if (status == SV_OK)
            status =
                check_video_compare(k->run, k->file, k->group, name, logits, (size_t)m->model.spec.classes);
        free(logits);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status check_several_clips(model_case *m)
{
    trecvit_case *k = m->k;
    if (!check_video_has(k->file, clips_group, "video_u8")) return SV_OK;
    sv_h5_array video;
    int per_clip = m->model.spec.frames_per_clip;
    float *pooled = NULL, *logits = NULL;
    SV_TRY(check_video_int(k->run, k->file, clips_group, "frames_per_clip", &per_clip));
    SV_TRY(check_video_read(k->run, k->file, clips_group, "video_u8", &video));
    const int videos = (int)video.dim[0], frames = (int)video.dim[1];
    const int clips = per_clip > 0 && frames / per_clip > 1 ? frames / per_clip : 1, length = frames / clips;
    float *numbers = malloc(sizeof *numbers * video.count + 1);
    const bool fits = video.integer && numbers &&
                      video.count == (size_t)videos * (size_t)frames * m->picture &&
                      length % m->model.spec.patch[0] == 0;
    for (size_t i = 0; fits && i < video.count; i++) numbers[i] = (float)video.i[i] / 255.0f;
    sv_h5_array_free(&video);
    sv_status status = fits ? SV_OK
                            : SV_FAIL(k->c, SV_BAD_INPUT, "%s: the videos of '%s' are not for this model",
                                      k->file->path, clips_group);
    if (status == SV_OK)
        status =
            run_clips(m, numbers, videos * clips, length / m->model.spec.patch[0], NULL, &pooled, &logits);
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, clips_group, "pre_logits", pooled,
                                     (size_t)(videos * clips) * (size_t)m->model.spec.rep);
    if (status == SV_OK)
        status = compare_averages(k, clips_group, logits, videos, clips, m->model.spec.classes);
    free(numbers);
    free(pooled);
    free(logits);
    return status;
}

/* ---- stream ------------------------------------------------------------------------------------------- */

/* What the stream leaves after each frame, gathered for comparison. */
typedef struct stream_record {
    float *encoded, *h, *conv; /* [frames, n, c], [frames, depth, n, L], [frames, depth, n, (K-1) L] */
} stream_record;

static sv_status download_to(trecvit_case *k, sv_tensor t, float *to)
{
    float *host = NULL;
    SV_TRY(trecvit_download(k, t, &host));
    memcpy(to, host, sizeof *to * (size_t)t.dim[0] * (size_t)t.dim[1]);
    free(host);
    return SV_OK;
}

static sv_status run_stream(model_case *m, sv_state *state, stream_record *r)
{
    sv_ctx *c = m->k->c;
    const sv_trecvit *model = &m->model;
    const size_t n = (size_t)model->tokenizer.tokens, layers = (size_t)model->spec.depth * n,
                 inner = (size_t)model->spec.lru_width, kept = (size_t)model->spec.taps - 1,
                 step = m->picture * (size_t)model->spec.patch[0];
    sv_trecvit_streams streams;
    SV_TRY(sv_trecvit_streams_of(c, model, state, 1, &streams));
    for (int t = 0; t < m->frames; t++) {
        sv_tensor patches, x, rep, pooled, logits, so_far;
        SV_TRY(trecvit_rewind(m->k));
        SV_TRY(upload_patches(m, m->video + (size_t)t * step, 1, 1, &patches));
        SV_TRY(sv_trecvit_encode(c, model, &x, patches, 1, 1, &streams, 0, false));
        SV_TRY(sv_state_commit(c, state));
        SV_TRY(download_to(m->k, x, r->encoded + (size_t)t * n * (size_t)model->spec.width));
        SV_TRY(download_to(m->k, streams.h[0], r->h + (size_t)t * layers * inner));
        if (kept > 0) SV_TRY(download_to(m->k, streams.conv[0], r->conv + (size_t)t * layers * kept * inner));
        SV_TRY(sv_video_head_frames(c, &model->head, &rep, x, 1, 1));
        SV_TRY(download_to(m->k, rep, m->rep + (size_t)t * (size_t)model->spec.rep));
        SV_TRY(sv_frame_alloc(c, &so_far, "frames so far", SV_F32, t + 1, model->spec.rep, SV_NONE));
        SV_TRY(c->device->upload(c, so_far.data, m->rep,
                                 sizeof(float) * (size_t)(t + 1) * (size_t)model->spec.rep));
        SV_TRY(sv_video_head_clips(c, &model->head, &pooled, &logits, so_far, 1, t + 1));
        SV_TRY(download_to(m->k, logits, m->running + (size_t)t * (size_t)model->spec.classes));
    }
    return SV_OK;
}

static sv_status compare_stream(model_case *m, const stream_record *r)
{
    trecvit_case *k = m->k;
    const sv_trecvit_spec *s = &m->model.spec;
    const int n = m->model.tokenizer.tokens, t = m->frames, kept = s->taps - 1;
    const size_t state = (size_t)s->depth * (size_t)n * (size_t)s->lru_width, last = (size_t)(t - 1) * state;
    SV_TRY(compare_cut(k, "stream/encoded", r->encoded, t, n, s->width));
    SV_TRY(check_video_compare(k->run, k->file, k->group, "stream/rg_lru_state", r->h, (size_t)t * state));
    SV_TRY(check_video_compare(k->run, k->file, k->group, "stream/conv1d_state", r->conv,
                               (size_t)t * state * (size_t)kept));
    SV_TRY(compare_cut(k, "stream/rg_lru_state_last_tok3", r->h + last, s->depth, n, s->lru_width));
    if (check_video_has(k->file, k->group, "stream/conv1d_state_last_tok3")) {
        /* [depth, m, taps - 1, L] */
        sv_h5_array want;
        SV_TRY(check_video_read(k->run, k->file, k->group, "stream/conv1d_state_last_tok3", &want));
        const int m3 = want.ndim == 4 ? (int)want.dim[1] : 0;
        const size_t count = want.count, row = (size_t)kept * (size_t)s->lru_width;
        sv_h5_array_free(&want);
        SV_CHECK(k->c, m3 >= 1 && m3 <= n && count == (size_t)s->depth * (size_t)m3 * row, SV_BAD_INPUT,
                 "%s: the conv state of %d tokens has %zu values", k->file->path, m3, count);
        float *cut = malloc(sizeof *cut * count);
        SV_CHECK(k->c, cut, SV_NO_MEMORY, "no memory for a state");
        for (int i = 0; i < s->depth; i++)
            memcpy(cut + (size_t)i * (size_t)m3 * row,
                   r->conv + last * (size_t)kept + (size_t)i * (size_t)n * row,
                   sizeof *cut * (size_t)m3 * row);
        const sv_status status =
            check_video_compare(k->run, k->file, k->group, "stream/conv1d_state_last_tok3", cut, count);
        free(cut);
        SV_TRY(status);
    }
    SV_TRY(compare_cut(k, "stream/frame_rep", m->rep, 1, t, s->rep));
    SV_TRY(compare_cut(k, "stream/running_logits", m->running, 1, t, s->classes));
    float *frames = trecvit_swapped(m->encoded, n, t, s->width);
    SV_CHECK(k->c, frames, SV_NO_MEMORY, "no memory for tokens");
    const bool same =
        memcmp(frames, r->encoded, sizeof *frames * (size_t)n * (size_t)t * (size_t)s->width) == 0;
    free(frames);
    check_result(k->run, k->file, "model stream = clip", same,
                 same ? "the same bytes, %d frames" : "other bytes, %d frames", t);
    return SV_OK;
}

static sv_status check_stream(model_case *m)
{
    sv_ctx *c = m->k->c;
    const sv_trecvit_spec *s = &m->model.spec;
    const size_t t = (size_t)m->frames, tokens = (size_t)m->model.tokenizer.tokens,
                 cells = t * (size_t)s->depth * tokens * (size_t)s->lru_width;
    sv_state *state = NULL;
    stream_record r = {.encoded = malloc(sizeof(float) * t * tokens * (size_t)s->width + 1),
                       .h = malloc(sizeof(float) * cells + 1),
                       .conv = malloc(sizeof(float) * cells * (size_t)(s->taps - 1) + 1)};
    m->rep = malloc(sizeof(float) * t * (size_t)s->rep + 1);
    m->running = malloc(sizeof(float) * t * (size_t)s->classes + 1);
    sv_status status = r.encoded && r.h && r.conv && m->rep && m->running
                           ? sv_state_open(c, &state)
                           : SV_FAIL(c, SV_NO_MEMORY, "no memory for %zu frames of states", t);
    if (status == SV_OK) status = run_stream(m, state, &r);
    if (status == SV_OK) status = compare_stream(m, &r);
    sv_state_close(state);
    free(r.encoded);
    free(r.h);
    free(r.conv);
    free(m->rep);
    free(m->running);
    return status;
}

/* ---- all of it ---------------------------------------------------------------------------------------- */

static sv_status read_video(model_case *m)
{
    trecvit_case *k = m->k;
    sv_h5_array video;
    SV_TRY(check_video_read(k->run, k->file, k->group, "video_u8", &video));
    m->picture = video.count / (size_t)video.dim[1];
    m->frames = (int)video.dim[1] / m->model.spec.patch[0];
    m->video = malloc(sizeof *m->video * video.count + 1);
    for (size_t i = 0; m->video && i < video.count; i++) m->video[i] = (float)video.i[i] / 255.0f;
    sv_h5_array_free(&video);
    SV_CHECK(k->c, m->video, SV_NO_MEMORY, "no memory for a video");
    return SV_OK;
}

static sv_status run_model(trecvit_case *k)
{
    sv_trecvit_spec spec;
    model_case m = {.k = k};
    SV_TRY(read_spec(k->run, k->file, &spec));
    SV_TRY(sv_trecvit_bind(k->binder, &m.model, &spec));
    SV_TRY(sv_binder_finish(k->binder));
    int parameters = (int)sv_binder_parameters(k->binder), wanted = parameters;
    SV_TRY(check_video_int(k->run, k->file, k->group, "n_params", &wanted));
    check_result(k->run, k->file, "model@n_params", parameters == wanted, "%d parameters, %d recorded",
                 parameters, wanted);
    sv_status status = read_video(&m);
    if (status == SV_OK) status = check_clip(&m);
    if (status == SV_OK) status = check_prefixes(&m);
    if (status == SV_OK) status = check_several_clips(&m);
    if (status == SV_OK) status = check_stream(&m);
    free(m.video);
    free(m.encoded);
    return status;
}

sv_status trecvit_run_model(check_run *run, check_file *file)
{
    sv_trecvit_spec spec;
    sv_weights *weights = NULL;
    if (!trecvit_is_model(file, model_group)) return SV_OK;
    SV_TRY(read_spec(run, file, &spec));
    sv_status status = check_video_weights(run, file, model_group, &weights);
    if (status == SV_OK && sv_weights_count(weights) > 0) {
        status = compare_sources(run, file, &spec, &weights);
    } else if (status == SV_OK) {
        sv_weights_free(weights);
        weights = NULL;
        status = weights_by_rule(run, file, &spec, &weights);
    }
    if (status != SV_OK) {
        sv_weights_free(weights);
        return status;
    }
    return trecvit_with_weights(run, file, model_group, weights, run_model);
}
