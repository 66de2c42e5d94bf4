/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT on the CPU with random weights: frames per second of a stream and of whole clips, and how the cost of a frame grows
 * with the length of the clip beside a spatio-temporal attention of the same width, which the recurrence replaces.
 *
 *     bench_video [VARIANT [THREADS [ROUNDS [PEER...]]]]        bench_video Ti 2 3 python3 peer.py
 *
 * PEER is a program that runs the same model another way: it is called with the variant, the threads and the word "stream" or
 * "clip" behind its own words and prints milliseconds per frame. Ours and the peer's runs alternate; minima are compared.
 */
#include "backbones/video/trecvit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIP = 8, STREAM = 6, ATTENTION_MOST = 8 };

static void must(sv_ctx *c, sv_status status)
{
    if (status == SV_OK) return;
    fprintf(stderr, "bench_video: %s\n", sv_error_message(c));
    exit(1);
}

typedef struct bench {
    sv_ctx *c;
    sv_trecvit model;
    sv_arena arena;
    sv_state *state;
    sv_trecvit_streams streams;
    float *patches;
} bench;

static void open_model(bench *b, const char *variant, int threads)
{
    sv_ctx_def def = sv_ctx_def_default();
    sv_trecvit_spec spec;
    sv_binder *binder = NULL;
    def.threads = threads;
    must(b->c, sv_ctx_open(&def, &b->c));
    if (!sv_trecvit_variant(variant, &spec)) {
        fprintf(stderr, "bench_video: there is no variant '%s'\n", variant);
        exit(2);
    }
    sv_weights *w = sv_weights_new();
    sv_arena_init(&b->arena, "model", b->c->device);
    b->c->weights = &b->arena;
    must(b->c, sv_binder_open_init(b->c, w, 1, &binder));
    must(b->c, sv_trecvit_bind(binder, &b->model, &spec));
    sv_binder_close(binder);
    sv_weights_free(w);
    b->c->weights = NULL;
    must(b->c, sv_state_open(b->c, &b->state));
    must(b->c, sv_trecvit_streams_of(b->c, &b->model, b->state, 1, &b->streams));
    const sv_tokenizer *t = &b->model.tokenizer;
    const size_t count = (size_t)(CLIP * t->grid[0] * t->grid[1]) * (size_t)sv_tokenizer_patch_numbers(t);
    b->patches = malloc(sizeof *b->patches * count);
    for (size_t i = 0; i < count; i++) b->patches[i] = (float)(i * 2654435761u % 256) / 255.0f;
}

/* Milliseconds of 'length' frames through encoder and head. */
static double run(bench *b, int length, bool stream)
{
    sv_ctx *c = b->c;
    const sv_tokenizer *t = &b->model.tokenizer;
    const double began = sv_clock_ms();
    sv_tensor x, rep, pooled, logits;
    must(c, sv_arena_reset(c, &c->frame));
    must(c, sv_arena_reset(c, &c->scratch));
    const sv_tensor patches =
        sv_view(b->patches, SV_F32, length * t->grid[0] * t->grid[1], sv_tokenizer_patch_numbers(t));
    sv_profile_frame_begin(c);
    must(c, sv_trecvit_encode(c, &b->model, &x, patches, 1, length, stream ? &b->streams : NULL, 0, false));
    must(c, sv_video_head_frames(c, &b->model.head, &rep, x, 1, length));
    must(c, sv_video_head_clips(c, &b->model.head, &pooled, &logits, rep, 1, length));
    if (stream) must(c, sv_state_commit(c, b->state));
    return sv_clock_ms() - began;
}

/* The least of several runs, a frame. */
static double per_frame(bench *b, int length, bool stream, int runs)
{
    double best = 1e30;
    for (int i = 0; i < runs; i++) {
        const double ms = run(b, length, stream) / length;
        if (i > 0 && ms < best) best = ms; /* the first allocates */
    }
    return best;
}

static double peer_per_frame(char **words, int count, const char *variant, int threads, const char *mode)
{
    char command[2048] = "";
    double ms = 0;
    for (int i = 0; i < count; i++) {
        const size_t used = strlen(command);
        snprintf(command + used, sizeof command - used, "%s ", words[i]);
    }
    const size_t used = strlen(command);
    snprintf(command + used, sizeof command - used, "%s %d %s", variant, threads, mode);
    FILE *pipe = popen(command, "r");
    if (!pipe || fscanf(pipe, "%lf", &ms) != 1) {
        fprintf(stderr, "bench_video: '%s' printed no milliseconds\n", command);
        exit(1);
    }
    pclose(pipe);
    return ms;
}

/* Attention of all tokens of all frames so far, as a video transformer without recurrence has it: one layer's, times depth. */
static double attention_per_frame(bench *b, int length)
{
    sv_ctx *c = b->c;
    const sv_trecvit_spec *s = &b->model.spec;
    const int rows = length * b->model.tokenizer.tokens;
    sv_tensor x, y;
    double best = 1e30;
    must(c, sv_arena_reset(c, &c->frame));
    must(c, sv_frame_alloc(c, &x, "tokens", SV_F32, rows, s->width, SV_NONE));
    must(c, sv_frame_alloc(c, &y, "attended", SV_F32, rows, s->width, SV_NONE));
    must(c, sv_fill(c, x, 0.01f));
    for (int i = 0; i < 3; i++) {
        const double began = sv_clock_ms();
        must(c, sv_dense_attention(c, y, x, x, x, s->heads, 0.125f, rows));
        const double ms = (sv_clock_ms() - began) * s->depth / length;
        if (ms < best) best = ms;
    }
    return best;
}

int main(int argc, char **argv)
{
    const char *variant = argc > 1 ? argv[1] : "Ti";
    const int threads = argc > 2 ? atoi(argv[2]) : 2, rounds = argc > 3 ? atoi(argv[3]) : 3;
    bench b = {.c = NULL};
    open_model(&b, variant, threads);
    double best[2] = {1e30, 1e30}, peer[2] = {1e30, 1e30};
    for (int round = 0; round < rounds; round++)
        for (int stream = 0; stream < 2; stream++) {
            const double ours = stream ? per_frame(&b, 1, true, STREAM) : per_frame(&b, CLIP, false, 3);
            if (ours < best[stream]) best[stream] = ours;
            if (argc <= 4) continue;
            const double theirs =
                peer_per_frame(argv + 4, argc - 4, variant, threads, stream ? "stream" : "clip");
            if (theirs < peer[stream]) peer[stream] = theirs;
        }
    printf("TRecViT-%s, %d threads, minima of %d rounds\n", variant, threads, rounds);
    for (int stream = 1; stream >= 0; stream--) {
        printf("  %-7s %8.2f ms a frame, %6.2f frames/s", stream ? "stream" : "clip", best[stream],
               1e3 / best[stream]);
        if (argc > 4) printf("; peer %8.2f ms: %.2fx", peer[stream], peer[stream] / best[stream]);
        printf("\n");
    }
    printf("  state %.2f MB a stream\n", (double)sv_state_bytes(b.state) / 2e6);
    printf(
        "  ms a frame by length of the clip (recurrence and all; attention over all tokens of it alone)\n");
    for (int length = 1; length <= ATTENTION_MOST; length *= 2)
        printf("    %2d frames   %8.2f   %8.2f\n", length, per_frame(&b, length, false, 3),
               attention_per_frame(&b, length));
    b.c->profile.on = true;
    run(&b, 1, true);
    double part[3] = {0};
    for (int i = 0; i < b.c->profile.stage_count; i++) {
        const sv_profile_stage *s = &b.c->profile.stages[i];
        part[strncmp(s->name, "residual", 8) == 0  ? 0
             : strncmp(s->name, "encoder", 7) == 0 ? 1
                                                   : 2] += s->depth == 0 ? s->ms : 0;
    }
    printf("  a frame of the stream: %.2f ms in time, %.2f ms in space, %.2f ms tokenizer\n", part[0],
           part[1], part[2]);
    return 0;
}
