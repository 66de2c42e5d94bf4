/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT with random weights: frames per second of a stream and of whole clips, and how the cost of a frame grows
 * with the length of the clip beside a spatio-temporal attention of the same width, which the recurrence replaces.
 *
 *     bench_video [--device D] [--precision P] [VARIANT [THREADS [ROUNDS [PEER...]]]]
 *     bench_video Ti 2 3 python3 peer.py
 *
 * On a GPU a frame of the stream is also recorded and replayed, and times by length are those of the clock.
 *
 * PEER is a program that runs the same model another way: it is called with the variant, the threads and the word "stream" or
 * "clip" behind its own words and prints milliseconds per frame, by the clock and of processor time. Ours and the peer's runs
 * alternate; minima are compared. On a busy machine look at the processor time of one thread.
 */
#include "device.h"

#include "backbones/video/trecvit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
    float *patches; /* on the device */
    sv_graph *graph;
} bench;

static void open_model(bench *b, const char *variant, sv_ctx_def def)
{
    sv_trecvit_spec spec;
    sv_binder *binder = NULL;
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
    float *host = malloc(sizeof *host * count);
    for (size_t i = 0; i < count; i++) host[i] = (float)(i * 2654435761u % 256) / 255.0f;
    b->patches = b->c->device->alloc(sizeof *host * count);
    must(b->c, b->c->device->upload(b->c, b->patches, host, sizeof *host * count));
    must(b->c, b->c->device->queue_wait(b->c));
    free(host);
}

/* Milliseconds, by the clock and of the processor, all threads together. */
typedef struct cost {
    double wall, cpu;
} cost;

static cost now(void)
{
    return (cost){sv_clock_ms(), 1e3 * (double)clock() / CLOCKS_PER_SEC};
}

static void keep_least(cost *best, cost one)
{
    if (one.wall < best->wall) best->wall = one.wall;
    if (one.cpu < best->cpu) best->cpu = one.cpu;
}

/* 'length' frames through encoder and head. */
static sv_status forward(bench *b, int length, bool stream)
{
    sv_ctx *c = b->c;
    const sv_tokenizer *t = &b->model.tokenizer;
    sv_tensor x, rep, pooled, logits;
    const sv_tensor patches =
        sv_view(b->patches, SV_F32, length * t->grid[0] * t->grid[1], sv_tokenizer_patch_numbers(t));
    SV_TRY(sv_trecvit_encode(c, &b->model, &x, patches, 1, length, stream ? &b->streams : NULL, 0, false));
    SV_TRY(sv_video_head_frames(c, &b->model.head, &rep, x, 1, length));
    /* A stream's classes are asked for once in a clip. */
    if (!stream) SV_TRY(sv_video_head_clips(c, &b->model.head, &pooled, &logits, rep, 1, length));
    return stream ? sv_state_commit(c, b->state) : SV_OK;
}

static sv_status forward_stream(void *user)
{
    return forward(user, 1, true);
}

/* The cost of each frame. */
static cost run(bench *b, int length, bool stream)
{
    sv_ctx *c = b->c;
    const cost began = now();
    if (b->graph) {
        must(c, c->device->replay(c, b->graph));
    } else {
        must(c, sv_arena_reset(c, &c->frame));
        must(c, sv_arena_reset(c, &c->scratch));
        sv_profile_frame_begin(c);
        must(c, forward(b, length, stream));
    }
    must(c, c->device->queue_wait(c));
    const cost end = now();
    return (cost){(end.wall - began.wall) / length, (end.cpu - began.cpu) / length};
}

/* The least of several runs. */
static cost per_frame(bench *b, int length, bool stream, int runs)
{
    cost best = {1e30, 1e30};
    for (int i = 0; i < runs; i++) {
        const cost one = run(b, length, stream);
        if (i > 0) keep_least(&best, one); /* the first allocates */
    }
    return best;
}

/* Recorded frames of a stream one behind the other, nobody waiting in between but at the end. */
static void bench_replays(bench *b, int count)
{
    sv_ctx *c = b->c;
    must(c, bench_capture(c, forward_stream, b, &b->graph));
    if (!b->graph) return;
    const cost alone = per_frame(b, 1, true, count);
    double began = sv_clock_ms();
    for (int i = 0; i < count; i++) must(c, c->device->replay(c, b->graph));
    must(c, c->device->queue_wait(c));
    began = (sv_clock_ms() - began) / count;
    printf("  replayed %7.3f ms a frame, %6.1f frames/s; back to back %.3f ms, %.1f frames/s; %d launches\n",
           alone.wall, 1e3 / alone.wall, began, 1e3 / began, c->device->graph_kernels(b->graph));
    c->device->graph_free(b->graph);
    b->graph = NULL;
}

static cost peer_per_frame(char **words, int count, const char *variant, int threads, const char *mode)
{
    char command[2048] = "";
    cost ms = {0, 0};
    for (int i = 0; i < count; i++) {
        const size_t used = strlen(command);
        snprintf(command + used, sizeof command - used, "%s ", words[i]);
    }
    const size_t used = strlen(command);
    snprintf(command + used, sizeof command - used, "%s %d %s", variant, threads, mode);
    FILE *pipe = popen(command, "r");
    if (!pipe || fscanf(pipe, "%lf %lf", &ms.wall, &ms.cpu) != 2) {
        fprintf(stderr, "bench_video: '%s' printed no two numbers of milliseconds\n", command);
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
    const bool cpu = c->device->kind == SV_CPU;
    for (int i = 0; i < 3; i++) {
        const cost began = now();
        must(c, sv_dense_attention(c, y, x, x, x, s->heads, 0.125f, rows));
        must(c, c->device->queue_wait(c));
        const double took = cpu ? now().cpu - began.cpu : now().wall - began.wall;
        const double ms = took * s->depth / length;
        if (ms < best) best = ms;
    }
    return best;
}

int main(int argc, char **argv)
{
    sv_ctx_def def = bench_device(&argc, &argv);
    const char *variant = argc > 1 ? argv[1] : "Ti";
    const int threads = argc > 2 ? atoi(argv[2]) : 2, rounds = argc > 3 ? atoi(argv[3]) : 3;
    bench b = {.c = NULL};
    def.threads = threads;
    open_model(&b, variant, def);
    const bool cpu = b.c->device->kind == SV_CPU;
    cost best[2] = {{1e30, 1e30}, {1e30, 1e30}}, peer[2] = {{1e30, 1e30}, {1e30, 1e30}};
    for (int round = 0; round < rounds; round++)
        for (int stream = 0; stream < 2; stream++) {
            keep_least(&best[stream],
                       stream ? per_frame(&b, 1, true, STREAM) : per_frame(&b, CLIP, false, 3));
            if (argc > 4)
                keep_least(&peer[stream],
                           peer_per_frame(argv + 4, argc - 4, variant, threads, stream ? "stream" : "clip"));
        }
    printf("TRecViT-%s on %s, %s, %d threads, minima of %d rounds\n", variant, b.c->device->name,
           sv_precision_name(def.precision), threads, rounds);
    for (int stream = 1; stream >= 0; stream--) {
        printf("  %-7s %8.2f ms a frame, %6.2f frames/s, %8.2f ms of processor time\n",
               stream ? "stream" : "clip", best[stream].wall, 1e3 / best[stream].wall, best[stream].cpu);
        if (argc > 4)
            printf("  peer    %8.2f ms: %.2fx; %25.2f ms of processor time: %.2fx\n", peer[stream].wall,
                   peer[stream].wall / best[stream].wall, peer[stream].cpu,
                   peer[stream].cpu / best[stream].cpu);
    }
    bench_replays(&b, 40);
    printf("  state %.2f MB a stream\n", (double)sv_state_bytes(b.state) / 2e6);
    printf("  %s ms a frame by length of the clip (all of TRecViT; attention over all tokens of the clip "
           "alone)\n",
           cpu ? "processor" : "clock");
    for (int length = 1; length <= ATTENTION_MOST; length *= 2) {
        const cost whole = per_frame(&b, length, false, 3);
        printf("    %2d frames   %8.2f   %8.2f\n", length, cpu ? whole.cpu : whole.wall,
               attention_per_frame(&b, length));
    }
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
