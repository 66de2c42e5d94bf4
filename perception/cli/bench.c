/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna bench: how long a frame takes, stage by stage, and, with --peer, beside another implementation in the same run.
 * "savanna bench operators" is bench_operators.c.
 */
#define _GNU_SOURCE
#include "bench_operators.h"
#include "bench_peer.h"

#include "perception/core/peak.h"
#include "perception/core/simd.h"
#include "perception/detector.h"
#include "perception/points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char *config, *weights, *layout, *csv, *peer, *until = "head";
static int frames = 20, warmup = 3, batch_size = 1;
static sv_bench_grid grid = {
    .channels = "64,128", .lengths = "512,1024,2048,4096", .groups = "1,4,16", .rounds = 3, .stream = 16384};

enum { MOST_FRAMES = 10000 };

typedef struct bench {
    const sv_app *app;
    sv_ctx *c;
    sv_model *model;
    sv_detector *detector;
    sv_frame *frame[SV_MAX_BATCH];
    sv_box *boxes;
    int counts[SV_MAX_BATCH], points;
    double *ms;                          /* end to end, per call */
    double *stage_ms[SV_PROFILE_STAGES]; /* per profiled call */
    double peak_gflops;
    int kernels;   /* of a captured frame */
    long peak_kib; /* of this process, before a peer is started */
} bench;

typedef struct quantiles {
    double p50, p90, p99;
} quantiles;

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest-rank quantiles; sorts 'values'. */
static quantiles quantiles_of(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    const int p90 = (count * 90 + 99) / 100 - 1, p99 = (count * 99 + 99) / 100 - 1;
    return (quantiles){values[(count - 1) / 2], values[p90], values[p99]};
}

static sv_status read_frame(bench *b, const char *path)
{
    sv_points points = {0};
    SV_TRY(sv_points_read_least(b->c, path, layout ? layout : sv_model_point_layout(b->model),
                                sv_model_least_columns(b->model), &points));
    const int columns = sv_model_point_columns(b->model);
    sv_status status = SV_OK;
    if (points.columns < sv_model_least_columns(b->model))
        status = SV_FAIL(b->c, SV_BAD_INPUT, "%s: %d columns, the model takes %d (%s)", path, points.columns,
                         columns, sv_model_point_layout(b->model));
    const int kept = points.columns < columns ? points.columns : columns;
    for (int k = 0; k < batch_size && status == SV_OK; k++) {
        b->frame[k] = sv_frame_new(sv_detector_ctx(b->detector)->device, points.count, kept);
        if (!b->frame[k]) status = SV_FAIL(b->c, SV_NO_MEMORY, "no memory for the points");
        for (int i = 0; status == SV_OK && i < points.count; i++)
            memcpy(b->frame[k]->points + (size_t)i * (size_t)kept,
                   points.data + (size_t)i * (size_t)points.columns, sizeof(float) * (size_t)kept);
        if (status == SV_OK) b->frame[k]->count = points.count;
    }
    b->points = points.count;
    sv_points_free(&points);
    return status;
}

static sv_status detect(bench *b)
{
    const sv_status status = sv_detect(b->detector, b->frame, batch_size, NULL, b->boxes, b->counts);
    return status == SV_OK ? SV_OK : SV_FAIL(b->c, status, "%s", sv_detector_error(b->detector));
}

static sv_status measure(bench *b)
{
    sv_ctx *d = sv_detector_ctx(b->detector);
    sv_progress progress;
    sv_progress_begin(&progress, b->app, "bench", "frames", warmup + 2 * frames);
    for (int i = 0; i < warmup; i++) {
        SV_TRY(detect(b));
        sv_progress_step(&progress, i + 1);
    }
    for (int i = 0; i < frames; i++) {
        const double began = sv_clock_ms();
        SV_TRY(detect(b));
        b->ms[i] = sv_clock_ms() - began;
        sv_progress_step(&progress, warmup + i + 1);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    b->peak_kib = usage.ru_maxrss;
    b->kernels = sv_detector_kernels(b->detector);
    d->profile.on = true;
    for (int i = 0; i < frames; i++) {
        SV_TRY(detect(b));
        for (int s = 0; s < d->profile.stage_count; s++) {
            if (!b->stage_ms[s]) b->stage_ms[s] = calloc((size_t)frames, sizeof(double));
            SV_CHECK(b->c, b->stage_ms[s], SV_NO_MEMORY, "no memory");
            b->stage_ms[s][i] = d->profile.stages[s].ms;
        }
        sv_progress_step(&progress, warmup + frames + i + 1);
    }
    d->profile.on = false;
    sv_progress_end(&progress);
    b->peak_gflops = d->device->kind == SV_CPU ? sv_peak_gflops(d->pool) : 0;
    return SV_OK;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

static void print_stages(bench *b, FILE *csv_file, quantiles total)
{
    const sv_profile *p = &sv_detector_ctx(b->detector)->profile;
    const char *heading[] = {"stage", "p50 ms", "p90", "p99", "GFLOP", "GFLOP/s", "of peak", "GB/s"};
    if (!b->app->json)
        printf("%-34s %9s %8s %8s %9s %8s %8s %7s\n", heading[0], heading[1], heading[2], heading[3],
               heading[4], heading[5], heading[6], heading[7]);
    if (csv_file) fprintf(csv_file, "stage,p50_ms,p90_ms,p99_ms,gflop,gflops,share_of_peak,gb_per_s\n");
    for (int s = 0; s < p->stage_count; s++) {
        const sv_profile_stage *stage = &p->stages[s];
        const quantiles q = quantiles_of(b->stage_ms[s], frames);
        const double gflop = stage->flops * 1e-9, rate = q.p50 > 0 ? gflop / (q.p50 * 1e-3) : 0,
                     share = b->peak_gflops > 0 ? rate / b->peak_gflops : 0,
                     bandwidth = q.p50 > 0 ? stage->bytes * 1e-6 / q.p50 : 0;
        const char *slash = strrchr(stage->name, '/');
        if (!b->app->json) {
            printf("%*s%-*s %9.2f %8.2f %8.2f", 2 * stage->depth, "", 34 - 2 * stage->depth,
                   slash ? slash + 1 : stage->name, q.p50, q.p90, q.p99);
            if (stage->flops > 0)
                printf(" %9.3f %8.1f %7.1f%%", gflop, rate, 100 * share);
            else
                printf(" %9s %8s %8s", "", "",
                       ""); /* a GPU's work depends on counts that stay on the device */
            if (stage->bytes > 0) printf(" %7.1f", bandwidth);
            putchar('\n');
        }
        if (csv_file)
            fprintf(csv_file, "%s,%.4f,%.4f,%.4f,%.4f,%.2f,%.4f,%.2f\n", stage->name, q.p50, q.p90, q.p99,
                    gflop, rate, share, bandwidth);
    }
    if (csv_file) fprintf(csv_file, "end_to_end,%.4f,%.4f,%.4f,,,,\n", total.p50, total.p90, total.p99);
}

/* What the detector holds on a GPU; 0: it runs on the CPU. */
static double device_mib(const bench *b)
{
    const sv_ctx *d = sv_detector_ctx(b->detector);
    if (d->device->kind == SV_CPU) return 0;
    return (double)(d->frame.reserved + d->scratch.reserved + sv_model_weight_bytes(b->model)) / 1048576;
}

static void print_arena(const char *name, const sv_arena *arena)
{
    printf("%s arena: %.1f MiB; largest:", name, (double)arena->peak / 1048576);
    bool shown[SV_ARENA_NAMES] = {false};
    for (int n = 0; n < 4; n++) {
        int best = -1;
        for (int i = 0; i < arena->name_count; i++)
            if (!shown[i] && (best < 0 || arena->names[i].bytes > arena->names[best].bytes)) best = i;
        if (best < 0) break;
        shown[best] = true;
        printf("%s %s %.1f MiB", n ? "," : "", arena->names[best].name,
               (double)arena->names[best].bytes / 1048576);
    }
    printf("\n");
}

/* ---- the peer ----------------------------------------------------------------------------------------- */

static sv_status run_peer(bench *b, const char *points, yajl_val *out)
{
    sv_ctx *d = sv_detector_ctx(b->detector);
    char threads[16], repeats[16], device[32];
    const bool gpu = d->device->kind != SV_CPU;
    snprintf(threads, sizeof threads, "%d", sv_pool_threads(d->pool));
    snprintf(repeats, sizeof repeats, "%d",
             frames < 5 || gpu ? frames : 5); /* a peer on the CPU may take long */
    sv_peer_device(b->app, device);
    const char *const arguments[] = {"--config",
                                     config,
                                     "--weights",
                                     weights,
                                     "--points",
                                     points,
                                     "--layout",
                                     layout ? layout : sv_model_point_layout(b->model),
                                     "--threads",
                                     threads,
                                     "--repeats",
                                     repeats,
                                     gpu ? "--device" : NULL,
                                     device,
                                     "--precision",
                                     sv_precision_name(d->precision),
                                     NULL};
    return sv_peer_run(b->c, peer, arguments, out);
}

static void print_beside(const char *what, double ours, double theirs)
{
    printf("  %-24s %12.2f %12.2f %9.2fx\n", what, ours, theirs, theirs / ours);
}

static sv_status compare_peer(bench *b, yajl_val root, quantiles ours)
{
    yajl_val ms = yajl_tree_get(root, (const char *[]){"frame_ms", NULL}, yajl_t_array);
    yajl_val name = yajl_tree_get(root, (const char *[]){"name", NULL}, yajl_t_string);
    yajl_val boxes = yajl_tree_get(root, (const char *[]){"boxes", NULL}, yajl_t_number);
    yajl_val stages = yajl_tree_get(root, (const char *[]){"stages", NULL}, yajl_t_object);
    const double memory = sv_peer_number(root, "peak_rss_kib"), device = sv_peer_number(root, "device_mib");
    double *values =
        ms && YAJL_GET_ARRAY(ms)->len > 0 ? calloc(YAJL_GET_ARRAY(ms)->len, sizeof *values) : NULL;
    SV_CHECK(b->c, values, SV_BAD_INPUT, "%s/run: its last line has no frame_ms", peer);
    const int count = (int)YAJL_GET_ARRAY(ms)->len;
    for (int i = 0; i < count; i++) {
        yajl_val v = YAJL_GET_ARRAY(ms)->values[i];
        values[i] = YAJL_IS_NUMBER(v) ? YAJL_GET_DOUBLE(v) : 0;
    }
    const quantiles theirs = quantiles_of(values, count);
    printf("\npeer: %s\n", name ? YAJL_GET_STRING(name) : peer);
    printf("  %-24s %12s %12s %10s\n", "", "savanna", "peer", "ratio");
    print_beside("frame, ms (median)", ours.p50, theirs.p50);
    if (memory > 0) print_beside("peak memory, MiB", (double)b->peak_kib / 1024, memory / 1024);
    if (device > 0 && device_mib(b) > 0) print_beside("device memory, MiB", device_mib(b), device);
    if (boxes) printf("  %-24s %12d %12.0f\n", "boxes", b->counts[0], YAJL_GET_DOUBLE(boxes));
    for (size_t i = 0; stages && i < YAJL_GET_OBJECT(stages)->len; i++)
        printf("  %-24s %12s %12.2f\n", YAJL_GET_OBJECT(stages)->keys[i], "",
               YAJL_GET_DOUBLE(YAJL_GET_OBJECT(stages)->values[i]));
    free(values);
    return SV_OK;
}

/* ---- the command -------------------------------------------------------------------------------------- */

static sv_status run_all(bench *b, const char *path)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx = sv_app_ctx_def(b->app);
    def.last = strcmp(until, "vfe") == 0           ? SV_STAGE_VFE
               : strcmp(until, "backbone_3d") == 0 ? SV_STAGE_BACKBONE_3D
               : strcmp(until, "bev") == 0         ? SV_STAGE_BEV
                                                   : SV_STAGE_HEAD;
    SV_TRY(sv_app_model(b->app, b->c, config, weights, &b->model));
    if (sv_detector_open(&def, b->model, &b->detector) != SV_OK)
        return SV_FAIL(b->c, sv_detector_ctx(b->detector)->error.status, "%s",
                       sv_detector_error(b->detector));
    b->boxes = malloc(sizeof *b->boxes * (size_t)sv_model_max_boxes(b->model) * (size_t)batch_size);
    b->ms = calloc((size_t)frames, sizeof *b->ms);
    SV_CHECK(b->c, b->boxes && b->ms, SV_NO_MEMORY, "no memory");
    SV_TRY(read_frame(b, path));
    SV_TRY(measure(b));
    const quantiles total = quantiles_of(b->ms, frames);
    FILE *csv_file = csv ? fopen(csv, "w") : NULL;
    SV_CHECK(b->c, !csv || csv_file, SV_IO, "%s: cannot be written", csv);

    sv_ctx *d = sv_detector_ctx(b->detector);
    if (b->app->json) {
        printf("{\"model\":\"%s\",\"operator\":\"%s\",\"device\":\"%s\",\"threads\":%d,\"batch\":%d,"
               "\"points\":%d,\"voxels\":%d,\"boxes\":%d,"
               "\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f,\"peak_kib\":%ld,\"peak_gflops\":%.1f}\n",
               sv_model_name(b->model), sv_model_operator(b->model), d->device->name,
               sv_pool_threads(d->pool), batch_size, b->points,
               sv_detector_needed(b->detector, SV_CAP_VOXELS), b->counts[0], total.p50, total.p90, total.p99,
               b->peak_kib, b->peak_gflops);
    } else {
        printf("%s with %s on %s (%s), %d threads, %s, batch %d: %d points, %d voxels, %d boxes\n",
               sv_model_name(b->model), sv_model_operator(b->model), d->device->name,
               d->device->kind == SV_CPU ? sv_isa_name(sv_simd_isa()) : "graph replay",
               sv_pool_threads(d->pool), sv_precision_name(d->precision), batch_size, b->points,
               sv_detector_needed(b->detector, SV_CAP_VOXELS), b->counts[0]);
        printf("end to end, points in memory to %s: p50 %.2f ms, p90 %.2f, p99 %.2f over %d calls (%.2f "
               "frames/s)\n",
               strcmp(until, "head") == 0 ? "boxes in memory" : until, total.p50, total.p90, total.p99,
               frames, 1000 * batch_size / total.p50);
        printf("memory: %.1f MiB process peak, %.1f MiB weights on the device\n", (double)b->peak_kib / 1024,
               (double)sv_model_weight_bytes(b->model) / 1048576);
        if (b->kernels > 0)
            printf("device memory: %.1f MiB; %d kernels in the captured frame; the stages below are timed "
                   "without "
                   "capture\n",
                   device_mib(b), b->kernels);
        print_arena("frame", &d->frame);
        print_arena("scratch", &d->scratch);
        if (b->peak_gflops > 0)
            printf("machine: %.0f GFLOP/s measured peak (float32 multiply-add, all threads)\n",
                   b->peak_gflops);
        printf("\n");
    }
    print_stages(b, csv_file, total);
    SV_CHECK(b->c, !csv_file || fclose(csv_file) == 0, SV_IO, "%s: cannot be written", csv);
    if (!peer) return SV_OK;
    yajl_val root = NULL;
    SV_TRY(run_peer(b, path, &root));
    const sv_status status = compare_peer(b, root, total);
    yajl_tree_free(root);
    return status;
}

static int run_bench(sv_app *app, int count, char **inputs)
{
    if (count > 0 && strcmp(inputs[0], "operators") == 0) {
        if (count > 1)
            return sv_app_usage_error(
                app,
                "operators: '%s' is left over; lists have commas and names are repeated, as in "
                "--lengths 512,1024 --only GLA --only RWKV7",
                inputs[1]);
        grid.csv = csv;
        grid.peer = peer;
        return sv_bench_operators(app, &grid);
    }
    if (count != 1) return sv_app_usage_error(app, "name one point file, not %d", count);
    if (!weights && !config)
        return sv_app_usage_error(app, "name a detector: -w FILE, or -c cluster, which needs no weights");
    if (peer && (!config || !weights))
        return sv_app_usage_error(app, "--peer needs -c CFG.yaml and -w FILE: the peer reads them too");
    if (frames < 1 || frames > MOST_FRAMES || warmup < 0 || warmup > MOST_FRAMES)
        return sv_app_usage_error(app, "--frames %d --warmup %d: 1..%d and 0..%d are possible", frames,
                                  warmup, MOST_FRAMES, MOST_FRAMES);
    if (batch_size < 1 || batch_size > SV_MAX_BATCH)
        return sv_app_usage_error(app, "--batch: %d is not within 1..%d", batch_size, SV_MAX_BATCH);
    if (strcmp(until, "vfe") && strcmp(until, "backbone_3d") && strcmp(until, "bev") && strcmp(until, "head"))
        return sv_app_usage_error(app, "--until: '%s' is not vfe, backbone_3d, bev or head", until);
    int code = 0;
    bench b = {.app = app};
    b.c = sv_app_ctx(app, &code);
    if (!b.c) return code;
    const sv_status status = run_all(&b, inputs[0]);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(b.c));
    for (int k = 0; k < SV_MAX_BATCH; k++) sv_frame_release(b.frame[k]);
    for (int s = 0; s < SV_PROFILE_STAGES; s++) free(b.stage_ms[s]);
    free(b.ms);
    free(b.boxes);
    sv_detector_close(b.detector);
    sv_model_release(b.model);
    sv_ctx_close(b.c);
    return code;
}

static const sv_option options[] = {
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml",
     "Configuration. Not needed with a native model file."},
    {"--weights", 'w', SV_OPTION_TEXT, &weights, "FILE", "Checkpoint or model file."},
    {"--layout", 0, SV_OPTION_TEXT, &layout, "LAYOUT",
     "Columns of the point file; default: what the model takes. Further columns are left out."},
    {"--frames", 'n', SV_OPTION_INT, &frames, "N", "Measured calls; default 20."},
    {"--warmup", 0, SV_OPTION_INT, &warmup, "N", "Calls before; default 3."},
    {"--batch", 0, SV_OPTION_INT, &batch_size, "N", "Copies of the frame in one call; default 1."},
    {"--until", 0, SV_OPTION_TEXT, &until, "STAGE",
     "Stop after vfe, backbone_3d or bev; default head: the whole detector."},
    {"--csv", 0, SV_OPTION_TEXT, &csv, "FILE", "Write the table as CSV."},
    {"--only", 0, SV_OPTION_TEXTS, &grid.only, "NAME", "operators: this one; may be repeated. Default: all."},
    {"--channels", 0, SV_OPTION_TEXT, &grid.channels, "LIST", "operators: block widths; default 64,128."},
    {"--lengths", 0, SV_OPTION_TEXT, &grid.lengths, "LIST",
     "operators: tokens of a group; default 512,1024,2048,4096."},
    {"--groups", 0, SV_OPTION_TEXT, &grid.groups, "LIST",
     "operators: groups; default 1,4,16. The first number of groups runs with every length and the first "
     "length "
     "with every number of groups."},
    {"--full", 0, SV_OPTION_FLAG, &grid.full, NULL, "operators: every length with every number of groups."},
    {"--rounds", 0, SV_OPTION_INT, &grid.rounds, "N", "operators: times each shape is run; default 3."},
    {"--stream", 0, SV_OPTION_INT, &grid.stream, "N",
     "operators: tokens of the stream over which states are watched; default 16384; 0: none."},
    {"--direction", 0, SV_OPTION_TEXT, &grid.direction, "D",
     "operators: forward, backward, both, shared, alternate or whole; default: as shipped, both."},
    {"--plot", 0, SV_OPTION_TEXT, &grid.plot, "OUT.png", "operators: draw time per token over the length."},
    {"--peer", 0, SV_OPTION_TEXT, &peer, "DIR",
     "Run another implementation after ours and print the ratio. DIR/run gets --config, --weights, --points, "
     "--layout, --threads and --repeats, on a GPU --device and --precision too, and prints as its last line "
     "a "
     "JSON object with name, frame_ms (list), stages (name: ms), peak_rss_kib, device_mib and boxes. For "
     "operators it gets --operators (names), --shapes (CHANNELSxTOKENSxGROUPS), both lists with commas, "
     "--direction, --precision, --device, --threads and --rounds; its object has name and operators: a list "
     "of objects with operator, channels, length, groups, ms and, where ms is a replayed graph, launched_ms. "
     "What it lacks it leaves out."},
};

const sv_command sv_command_bench = {
    .name = "bench",
    .summary = "time a detector, stage by stage, alone or beside a peer",
    .usage = "-c CFG.yaml -w WEIGHTS POINTS [--frames N] [--csv FILE] [--peer DIR]\n"
             "operators [--only NAME]... [--full] [--csv FILE] [--plot OUT.png] [--peer DIR]",
    .description =
        "Times whole calls, from points in host memory to boxes in host memory, then the stages "
        "in a second round with the profile on. "
        "Rates are given as shares of the processor's peak, measured in the same run.\n"
        "'operators' measures every registered operator instead, as a block with its shipped settings "
        "and random weights (on a GPU as replayed graphs, and launched call by call): time per token, "
        "working memory, GFLOP/s, the exponent by which time grows "
        "with the length of a group (1: linear; quadratic ones are marked), and, for those that carry a "
        "state, whether it settles over a long stream, whether few channels outgrow the others, and what "
        "it still holds of the first tokens.",
    .examples = "  savanna bench -w lion.h5 000134.bin\n  savanna bench -c cfg.yaml -w lion.pth 000134.bin "
                "--peer ~/pytorch-lion --csv stages.csv\n  savanna bench operators --only GLA --only RetNet "
                "--csv operators.csv --plot operators.png\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_bench,
};
