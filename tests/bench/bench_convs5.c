/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_convs5 [--device D] [--precision P] [THREADS] [REPEATS]: the Moving-MNIST ConvS5 models with random weights, batch 1, per frame.
 *
 *     MODEL clip       16 frames at once (encoder, layers, decoder)
 *     MODEL stream     frame by frame, the state carried
 *     MODEL stream@T   a frame behind T others: what length costs
 *     MODEL replayed   on a GPU: a frame of the stream, recorded once
 *     scan ...         the scan over frames alone, by number of cells
 *
 * Printed: the best wall time, and the best processor time over the threads, which other programs on the
 * machine disturb less.
 */
#define _POSIX_C_SOURCE 200809L
#include "device.h"

#include "backbones/video/convs5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLIP = 16, SIDE = 64, MOST_FRAMES = 256, STATES = 128, STRETCH = 16 };

static double processor_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void must(sv_ctx *c, sv_status status)
{
    if (status == SV_OK) return;
    fprintf(stderr, "bench_convs5: %s\n", sv_error_message(c));
    exit(4);
}

typedef struct best {
    double wall, processor;
} best;

static void keep(best *b, double wall, double processor)
{
    if (b->wall == 0 || wall < b->wall) b->wall = wall;
    if (b->processor == 0 || processor < b->processor) b->processor = processor;
}

static void print(const char *model, const char *what, best b, int frames, int threads)
{
    printf("%-16s %-12s %9.3f ms wall %9.3f ms of processors / %d threads\n", model, what, b.wall / frames,
           b.processor / frames / threads, threads);
    fflush(stdout);
}

static sv_tensor filled(sv_ctx *c, int rows, int columns)
{
    static uint64_t seed = 1;
    const size_t count = (size_t)rows * (size_t)columns;
    float *host = malloc(sizeof *host * count), scale = columns == 2 * STATES ? 0.5f : 1.0f;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        host[i] = scale * ((float)(seed >> 40) * 0x1p-23f - 1); /* numbers of states: powers below 1 */
    }
    const sv_tensor t = sv_view(c->device->alloc(sizeof *host * count), SV_F32, rows, columns);
    must(c, c->device->upload(c, t.data, host, sizeof *host * count));
    must(c, c->device->queue_wait(c));
    free(host);
    return t;
}

/* ---- models --------------------------------------------------------------------------------------------- */

static sv_convs5 *open_model(sv_ctx *c, const char *name)
{
    sv_config *config = NULL;
    sv_weights *w = sv_weights_new();
    sv_convs5 *m = NULL;
    must(c, sv_config_load(c, name, NULL, 0, &config));
    sv_node_ignore(c, sv_config_root(config), "INPUT", NULL);
    must(c, sv_convs5_init(c, config, 1, w));
    must(c, sv_convs5_open(c, config, w, &m));
    sv_weights_free(w);
    sv_config_free(config);
    return m;
}

static best time_model(sv_ctx *c, const sv_convs5 *m, sv_tensor out, sv_tensor in, sv_tensor state,
                       int frames, int repeats)
{
    best b = {0, 0};
    in.dim[0] = out.dim[0] = frames * SIDE * SIDE;
    for (int i = 0; i < repeats + 1; i++) {
        const double wall = sv_clock_ms(), processor = processor_ms();
        must(c, sv_arena_reset(c, &c->scratch));
        must(c, sv_convs5_predict(c, m, out, in, frames, 1, 1, state, state));
        must(c, c->device->queue_wait(c));
        if (i > 0) keep(&b, sv_clock_ms() - wall, processor_ms() - processor);
    }
    return b;
}

typedef struct stream_frame {
    sv_ctx *c;
    const sv_convs5 *m;
    sv_tensor out, in, state;
} stream_frame;

static sv_status predict_one(void *user)
{
    const stream_frame *f = user;
    return sv_convs5_predict(f->c, f->m, f->out, f->in, 1, 1, 1, f->state, f->state);
}

static void bench_replays(stream_frame f, const char *name, int threads, int repeats)
{
    sv_ctx *c = f.c;
    sv_graph *graph = NULL;
    best b = {0, 0};
    f.in.dim[0] = f.out.dim[0] = SIDE * SIDE;
    must(c, bench_capture(c, predict_one, &f, &graph));
    for (int i = 0; graph && i < repeats; i++) {
        const double wall = sv_clock_ms(), processor = processor_ms();
        must(c, c->device->replay(c, graph));
        must(c, c->device->queue_wait(c));
        if (i > 0) keep(&b, sv_clock_ms() - wall, processor_ms() - processor);
    }
    if (!graph) return;
    print(name, "replayed", b, 1, threads);
    printf("%-16s %d launches a frame\n", name, c->device->graph_kernels(graph));
    c->device->graph_free(graph);
}

static void bench_model(sv_ctx *c, const char *name, int threads, int repeats)
{
    sv_convs5 *m = open_model(c, name);
    sv_tensor in = filled(c, CLIP * SIDE * SIDE, 1), out = filled(c, CLIP * SIDE * SIDE, 1),
              state = filled(c, sv_convs5_state_rows(m, 1), sv_convs5_state_columns(m));
    print(name, "clip", time_model(c, m, out, in, state, CLIP, repeats), CLIP, threads);
    print(name, "stream", time_model(c, m, out, in, state, 1, 4 * repeats), 1, threads);
    bench_replays((stream_frame){c, m, out, in, state}, name, threads, 20 * repeats);
    for (int behind = 8; behind <= 128 && strstr(name, "600"); behind *= 4) {
        char what[24];
        snprintf(what, sizeof what, "stream@%d", behind);
        in.dim[0] = out.dim[0] = SIDE * SIDE;
        for (int t = 0; t < behind; t++) {
            must(c, sv_arena_reset(c, &c->scratch));
            must(c, sv_convs5_predict(c, m, out, in, 1, 1, 1, state, state));
        }
        print(name, what, time_model(c, m, out, in, state, 1, 4 * repeats), 1, threads);
    }
    printf("%-16s state %.2f MB, %lld parameters\n", name,
           4e-6 * sv_convs5_state_rows(m, 1) * sv_convs5_state_columns(m), (long long)m->parameters);
    c->device->free(in.data), c->device->free(out.data), c->device->free(state.data);
    sv_convs5_close(m);
}

/* ---- the scan alone ------------------------------------------------------------------------------------- */

static void bench_scan(sv_ctx *c, int cells, int threads, int repeats)
{
    sv_tensor x = filled(c, MOST_FRAMES * cells, 2 * STATES), y = filled(c, MOST_FRAMES * cells, 2 * STATES),
              powers = filled(c, STRETCH, 2 * STATES);
    for (int stretch = 1; stretch <= STRETCH; stretch *= STRETCH) {
        best b = {0, 0};
        char what[32];
        powers.dim[0] = stretch;
        for (int i = 0; i < repeats + 1; i++) {
            const double wall = sv_clock_ms(), processor = processor_ms();
            must(c, sv_map_scan(c, y, x, powers, MOST_FRAMES, SV_NONE, SV_NONE));
            must(c, c->device->queue_wait(c));
            if (i > 0) keep(&b, sv_clock_ms() - wall, processor_ms() - processor);
        }
        snprintf(what, sizeof what, "%s %d", stretch == 1 ? "walked" : "parallel", cells);
        print("scan", what, b, MOST_FRAMES, threads);
    }
    c->device->free(x.data), c->device->free(y.data), c->device->free(powers.data);
}

int main(int count, char **arguments)
{
    sv_ctx_def def = bench_device(&count, &arguments);
    const int threads = count > 1 ? atoi(arguments[1]) : 2, repeats = count > 2 ? atoi(arguments[2]) : 5;
    def.threads = threads > 0 ? threads : 1;
    sv_ctx *c = NULL;
    must(c, sv_ctx_open(&def, &c));
    printf("%s, %s\n", c->device->name, sv_precision_name(def.precision));
    bench_model(c, "convs5_mnist300", def.threads, repeats);
    bench_model(c, "convs5_mnist600", def.threads, repeats);
    bench_scan(c, 256, def.threads, repeats);
    bench_scan(c, 4, def.threads, repeats);
    sv_ctx_close(c);
    return 0;
}
