/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT: a causal video transformer that mixes space by attention and time by a linear recurrence.
 *
 *   video [B,T,h,w,3] -> tokenizer -> depth x (temporal residual block, spatial block) -> LayerNorm -> classification head
 *
 *   tokenizer   patches (pt,ph,pw), row-major in (y,x), through one linear layer; plus a position (learned, or sines and
 *               cosines); then a class token in front, which has no position
 *   head        class token (or the mean over tokens) -> Linear -> tanh -> mean over the clip's frames -> Linear
 *   clips       a video of t frames is max(1, t / frames_per_clip) clips, each from an empty state; their logits, and their
 *               probabilities, are averaged
 *
 * Rows of token tensors are (sequence b, token, frame t): the recurrence walks along t, the attention gathers its frames.
 * Whole clips and single frames with the state carried give the same bytes: every row's products and every step of the scan
 * are computed the same way for any number of frames.
 *
 * Source: github.com/google-deepmind/trecvit, trecvit/modules.py; V. Patraucean et al., arXiv 2412.14294.
 */
#ifndef SV_TRECVIT_H
#define SV_TRECVIT_H

#include "perception/model/config.h"
#include "perception/state.h"
#include "spatial.h"
#include "temporal.h"

enum { SV_TRECVIT_DEPTH = 64 };

typedef struct sv_trecvit_spec {
    int width, depth, mlp, heads;
    int patch[3]; /* frames, rows, columns */
    int grid[2];  /* patches along y and x */
    bool class_token, sines;
    int lru_width, taps;
    bool gated_mlp, complex_numbers; /* of the temporal half; the official models have neither */
    int rep, classes;                /* classes 0: no head */
    int frames_per_clip;
} sv_trecvit_spec;

/* "Ti", "S", "B", ... of the official code: width, depth, mlp, heads; the rest as its get_model() has it. False: no such one. */
bool sv_trecvit_variant(const char *name, sv_trecvit_spec *spec);
/* MODEL of a configuration (see trecvit_b.yaml) and 'size', the height and width of the pictures. */
sv_status sv_trecvit_read_spec(sv_ctx *c, const sv_node *model, const int size[2], sv_trecvit_spec *spec);

/* ---- tokenizer ----------------------------------------------------------------------------------------- */

typedef struct sv_tokenizer {
    int width, patch[3], grid[2], tokens; /* tokens of a frame, the class token included */
    bool class_token;
    sv_linear_weights embedding; /* without bias */
    sv_tensor table;             /* [tokens, width] what is added: class token, or bias and position */
    sv_tensor patch_of;          /* i32 [tokens] of one frame: its patch, -1 for the class token */
} sv_tokenizer;

/* "embedding", "pos_embedding" and "cls" below the prefix. */
sv_status sv_tokenizer_bind(sv_binder *b, sv_tokenizer *tokenizer, const sv_trecvit_spec *spec);
/* Numbers in a patch. */
int sv_tokenizer_patch_numbers(const sv_tokenizer *tokenizer);
/* Host: video [frames, h, w, 3] -> out [frames / pt * grid, patch numbers]. frames is a multiple of pt. */
void sv_tokenizer_patches(const sv_tokenizer *tokenizer, const float *video, int frames, float *out);
/* patches [batch * length * grid, patch numbers] -> tokens [batch * tokens * length, width] in the frame arena. */
sv_status sv_tokenizer_forward(sv_ctx *c, const sv_tokenizer *tokenizer, sv_tensor *tokens, sv_tensor patches,
                               int batch, int length);

/* ---- head ---------------------------------------------------------------------------------------------- */

typedef struct sv_video_head {
    int width, rep, classes, tokens;
    bool class_token;
    sv_linear_weights pre_logits, classifier;
} sv_video_head;

/* "pre_logits" and "cls_head" below the prefix. */
sv_status sv_video_head_bind(sv_binder *b, sv_video_head *head, const sv_trecvit_spec *spec);
/* encoded [batch * tokens * length, width] -> rep [batch * length, rep] = tanh of every frame, in the frame arena. */
sv_status sv_video_head_frames(sv_ctx *c, const sv_video_head *head, sv_tensor *rep, sv_tensor encoded,
                               int batch, int length);
/* rep [batch * length, rep] -> pooled [batch, rep], the mean over frames, and logits [batch, classes]. */
sv_status sv_video_head_clips(sv_ctx *c, const sv_video_head *head, sv_tensor *pooled, sv_tensor *logits,
                              sv_tensor rep, int batch, int length);
/* Host: the mean of logits and the mean of their softmaxes over 'clips' rows of 'classes'. */
void sv_video_average(const float *logits, int clips, int classes, float *mean, float *probabilities);

/* ---- model --------------------------------------------------------------------------------------------- */

typedef struct sv_trecvit {
    sv_trecvit_spec spec;
    sv_tokenizer tokenizer;
    sv_temporal *temporal; /* [depth], host memory of the weights arena */
    sv_spatial *spatial;
    sv_tensor norm, norm_bias;
    sv_video_head head;
} sv_trecvit;

/* tokenizer, encoder and decoder below the prefix; into the context's weights arena. */
sv_status sv_trecvit_bind(sv_binder *b, sv_trecvit *model, const sv_trecvit_spec *spec);

/* What 'streams' streams carry: h, the convs' inputs and the number of frames so far, of which 0 makes the next frame a first
 * one; a state that was reset is all zero. Entry 0 'now', entry 1 'next' of sv_state. Rows: layer, stream, token. */
typedef struct sv_trecvit_streams {
    int streams;
    sv_tensor position[2], h[2], conv[2];
} sv_trecvit_streams;

sv_status sv_trecvit_streams_of(sv_ctx *c, const sv_trecvit *model, sv_state *state, int streams,
                                sv_trecvit_streams *out);
/* This stream stays as it is: next = now. */
sv_status sv_trecvit_keep(sv_ctx *c, const sv_trecvit *model, const sv_trecvit_streams *streams, int stream);
/*
 * patches of 'batch' sequences of 'length' frames -> encoded [batch * tokens * length, width] in the frame arena. With
 * 'streams' (NULL: every sequence begins empty and nothing is kept) sequence b is stream first + b: 'now' is read (not with
 * 'fresh': then the streams begin anew with this frame), 'next' written.
 */
sv_status sv_trecvit_encode(sv_ctx *c, const sv_trecvit *model, sv_tensor *encoded, sv_tensor patches,
                            int batch, int length, const sv_trecvit_streams *streams, int first, bool fresh);

#endif
