/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_convs5 [THREADS] [REPEATS]: the Moving-MNIST ConvS5 models with random weights, per frame and batch 1.
 *
 *     MODEL clip       16 frames at once (encoder, layers, decoder)      MODEL stream   frame by frame, state carried
 *     MODEL stream@T   a frame behind T others: what length costs        scan ...       the scan over frames alone
 *
 * Printed: the best wall time, and the best processor time over the threads, which other programs on the machine disturb less.
 */
#define _POSIX_C_SOURCE 200809L
#include "backbones/video/convs5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLIP = 16, SIDE = 64, MOST_FRAMES = 256 };

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
    sv_tensor t;
    must(c, sv_frame_alloc(c, &t, "bench", SV_F32, rows, columns, SV_NONE));
    for (int64_t i = 0; i < (int64_t)rows * columns; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sv_f32(t)[i] = (float)(seed >> 40) * 0x1p-23f - 1;
    }
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
        must(c, sv_convs5_predict(c, m, out, in, frames, 1, 1, state, state));
        if (i > 0) keep(&b, sv_clock_ms() - wall, processor_ms() - processor);
    }
    return b;
}

static void bench_model(sv_ctx *c, const char *name, int threads, int repeats)
{
    sv_convs5 *m = open_model(c, name);
    sv_tensor in = filled(c, CLIP * SIDE * SIDE, 1), out = filled(c, CLIP * SIDE * SIDE, 1),
              state = filled(c, sv_convs5_state_rows(m, 1), sv_convs5_state_columns(m));
    print(name, "clip", time_model(c, m, out, in, state, CLIP, repeats), CLIP, threads);
    print(name, "stream", time_model(c, m, out, in, state, 1, 4 * repeats), 1, threads);
    for (int behind = 8; behind <= 128 && strstr(name, "600"); behind *= 4) {
        char what[24];
        snprintf(what, sizeof what, "stream@%d", behind);
        in.dim[0] = out.dim[0] = SIDE * SIDE;
        for (int t = 0; t < behind; t++) must(c, sv_convs5_predict(c, m, out, in, 1, 1, 1, state, state));
        print(name, what, time_model(c, m, out, in, state, 1, 4 * repeats), 1, threads);
    }
    printf("%-16s state %.2f MB, %lld parameters\n", name,
           4e-6 * sv_convs5_state_rows(m, 1) * sv_convs5_state_columns(m), (long long)m->parameters);
    sv_convs5_close(m);
}

/* ---- the scan alone ------------------------------------------------------------------------------------- */

static void bench_scan(sv_ctx *c, int cells, int threads, int repeats)
{
    enum { P = 128, STRETCH = 16 };
    sv_tensor x = filled(c, MOST_FRAMES * cells, 2 * P), y = filled(c, MOST_FRAMES * cells, 2 * P),
              powers = filled(c, STRETCH, 2 * P);
    for (int k = 0; k < STRETCH * 2 * P; k++) sv_f32(powers)[k] *= 0.5f;
    for (int stretch = 1; stretch <= STRETCH; stretch *= STRETCH) {
        best b = {0, 0};
        char what[32];
        powers.dim[0] = stretch;
        for (int i = 0; i < repeats + 1; i++) {
            const double wall = sv_clock_ms(), processor = processor_ms();
            must(c, sv_map_scan(c, y, x, powers, MOST_FRAMES, SV_NONE, SV_NONE));
            if (i > 0) keep(&b, sv_clock_ms() - wall, processor_ms() - processor);
        }
        snprintf(what, sizeof what, "%s %d", stretch == 1 ? "walked" : "parallel", cells);
        print("scan", what, b, MOST_FRAMES, threads);
    }
}

int main(int count, char **arguments)
{
    const int threads = count > 1 ? atoi(arguments[1]) : 2, repeats = count > 2 ? atoi(arguments[2]) : 5;
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = threads > 0 ? threads : 1;
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 4;
    bench_model(c, "convs5_mnist300", def.threads, repeats);
    bench_model(c, "convs5_mnist600", def.threads, repeats);
    bench_scan(c, 256, def.threads, repeats);
    bench_scan(c, 4, def.threads, repeats);
    sv_ctx_close(c);
    return 0;
}
