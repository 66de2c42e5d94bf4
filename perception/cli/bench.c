/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna bench: how long a frame takes, stage by stage, and, with --peer, beside another implementation in the same run.
 * "savanna bench operators" is bench_operators.c.
 */
#define _GNU_SOURCE
#include "bench_operators.h"
#include "bench_peer.h"
#include "bench_quantiles.h"
#include "bench_roofline.h"
#include "bench_side.h"

#include "perception/core/simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char *config, *weights, *layout, *csv, *plot, *peer, *until = "head";
static int frames = 20, warmup = 3, batch_size = 1;
static bool brief;
static sv_bench_grid grid = {
    .channels = "64,128", .lengths = "512,1024,2048,4096", .groups = "1,4,16", .rounds = 3, .stream = 16384};

enum { MOST_FRAMES = 10000 };

typedef struct bench {
    const sv_app *app;
    sv_bench_frame frame;
    sv_bench_side ours;
    double *ms;                          /* end to end, per call */
    double *upload_ms, *frame_ms;        /* of it on a device with a clock of its own, per call */
    double *gap_ms;                      /* and the rest, which is the host's */
    int timed;                           /* calls of which the three above are known */
    double *stage_ms[SV_PROFILE_STAGES]; /* per profiled call */
    sv_profile_stage work[SV_PROFILE_STAGES];
    int work_count;
    sv_ceilings ceilings;
    int kernels;   /* of a captured frame */
    long peak_kib; /* of this process, before a peer is started */
} bench;

/* ---- what is measured ---------------------------------------------------------------------------------- */

static sv_status measure_calls(bench *b, sv_progress *progress)
{
    for (int i = 0; i < warmup; i++) {
        SV_TRY(sv_bench_side_detect(&b->ours));
        sv_progress_step(progress, i + 1);
    }
    for (int i = 0; i < frames; i++) {
        const double began = sv_clock_ms();
        SV_TRY(sv_bench_side_detect(&b->ours));
        b->ms[i] = sv_clock_ms() - began;
        sv_device_spans spans;
        if (sv_detector_spans(b->ours.detector, &spans)) {
            b->upload_ms[b->timed] = spans.upload;
            b->frame_ms[b->timed] = spans.frame;
            b->gap_ms[b->timed++] = b->ms[i] - spans.upload - spans.frame;
        }
        sv_progress_step(progress, warmup + i + 1);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    b->peak_kib = usage.ru_maxrss;
    b->kernels = sv_detector_kernels(b->ours.detector);
    return SV_OK;
}

static sv_status measure_stages(bench *b, sv_progress *progress)
{
    sv_ctx *d = sv_detector_ctx(b->ours.detector);
    d->profile.on = true;
    for (int i = 0; i < frames; i++) {
        SV_TRY(sv_bench_side_detect(&b->ours));
        for (int s = 0; s < d->profile.stage_count; s++) {
            if (!b->stage_ms[s]) b->stage_ms[s] = calloc((size_t)frames, sizeof(double));
            SV_CHECK(b->ours.c, b->stage_ms[s], SV_NO_MEMORY, "no memory");
            b->stage_ms[s][i] = d->profile.stages[s].ms;
        }
        sv_progress_step(progress, warmup + frames + i + 1);
    }
    d->profile.on = false;
    return SV_OK;
}

static sv_status count_on(bench *b, const sv_ctx_def *ctx, sv_bench_side *s)
{
    SV_TRY(sv_bench_side_open(b->app, ctx, &b->frame, s));
    sv_profile *p = &sv_detector_ctx(s->detector)->profile;
    p->on = true;
    SV_TRY(sv_bench_side_detect(s));
    b->work_count = p->stage_count;
    memcpy(b->work, p->stages, sizeof *p->stages * (size_t)p->stage_count);
    return SV_OK;
}

/* What the stages have to do. On a GPU it depends on counts that never leave it, so the CPU does the same frame once and
 * counts. */
static sv_status count_work(bench *b)
{
    const sv_profile *p = &sv_detector_ctx(b->ours.detector)->profile;
    if (sv_detector_ctx(b->ours.detector)->device->kind == SV_CPU) {
        b->work_count = p->stage_count;
        memcpy(b->work, p->stages, sizeof *p->stages * (size_t)p->stage_count);
        return SV_OK;
    }
    sv_bench_side cpu = {0};
    const sv_ctx_def ctx = sv_app_cpu_def(b->app);
    sv_status status = sv_ctx_open(&ctx, &cpu.c);
    if (status == SV_OK) status = count_on(b, &ctx, &cpu);
    if (status != SV_OK)
        status = SV_FAIL(b->ours.c, status, "counting the work of the stages on the CPU: %s",
                         cpu.c ? sv_error_message(cpu.c) : "no memory");
    sv_bench_side_close(&cpu);
    return status;
}

static const sv_profile_stage *work_of(const bench *b, const char *stage)
{
    static const sv_profile_stage nothing;
    for (int i = 0; i < b->work_count; i++)
        if (strcmp(b->work[i].name, stage) == 0) return &b->work[i];
    return &nothing;
}

static sv_status measure(bench *b)
{
    sv_progress progress;
    sv_progress_begin(&progress, b->app, "bench", "frames", warmup + (brief ? 1 : 2) * frames);
    SV_TRY(measure_calls(b, &progress));
    if (!brief) SV_TRY(measure_stages(b, &progress));
    sv_progress_end(&progress);
    if (brief) return SV_OK;
    SV_TRY(count_work(b));
    return sv_measure_ceilings(b->ours.c, &b->ceilings);
}

/* ---- the table ---------------------------------------------------------------------------------------- */

static double ratio(double value, double of)
{
    return of > 0 ? value / of : 0;
}

static void print_stage(const bench *b, FILE *csv_file, const sv_profile_stage *stage, sv_quantiles q)
{
    const sv_profile_stage *work = work_of(b, stage->name);
    const double rate = ratio(1e-6 * work->flops, q.p50), bandwidth = ratio(1e-6 * work->bytes, q.p50),
                 of_peak = ratio(rate, sv_ceiling_gflops(&b->ceilings)),
                 of_copy = ratio(bandwidth, b->ceilings.copy_gb);
    const char *slash = strrchr(stage->name, '/');
    if (!b->app->json) {
        printf("%*s%-*s %9.2f %8.2f %8.2f", 2 * stage->depth, "", 34 - 2 * stage->depth,
               slash ? slash + 1 : stage->name, q.p50, q.p90, q.p99);
        if (work->flops > 0)
            printf(" %9.3f %9.1f %7.1f%%", 1e-9 * work->flops, rate, 100 * of_peak);
        else if (work->bytes > 0)
            printf(" %9s %9s %8s", "", "", "");
        else
            printf("  not counted");
        if (work->bytes > 0) printf(" %8.1f %7.1f%%", bandwidth, 100 * of_copy);
        putchar('\n');
    }
    if (!csv_file) return;
    fprintf(csv_file, "%s,%.4f,%.4f,%.4f,", stage->name, q.p50, q.p90, q.p99);
    if (work->flops > 0)
        fprintf(csv_file, "%.6f,%.6g,%.6g", 1e-9 * work->flops, rate, of_peak);
    else
        fprintf(csv_file, ",,");
    if (work->bytes > 0)
        fprintf(csv_file, ",%.6g,%.6g,", bandwidth, of_copy);
    else
        fprintf(csv_file, ",,,");
    if (work->flops > 0 && work->bytes > 0) fprintf(csv_file, "%.6g", work->flops / work->bytes);
    fputc('\n', csv_file);
}

static void write_quantiles(FILE *csv_file, const char *name, sv_quantiles q)
{
    fprintf(csv_file, "%s,%.4f,%.4f,%.4f,,,,,,\n", name, q.p50, q.p90, q.p99);
}

static void print_stages(bench *b, FILE *csv_file, sv_quantiles total)
{
    const sv_profile *p = &sv_detector_ctx(b->ours.detector)->profile;
    if (!b->app->json && p->stage_count > 0)
        printf("%-34s %9s %8s %8s %9s %9s %8s %8s %8s\n", "stage", "p50 ms", "p90", "p99", "GFLOP", "GFLOP/s",
               "of peak", "GB/s", "of copy");
    if (csv_file)
        fprintf(csv_file, "stage,p50_ms,p90_ms,p99_ms,gflop,gflops,share_of_peak,gb_per_s,share_of_copy,"
                          "flop_per_byte\n");
    for (int s = 0; s < p->stage_count; s++)
        print_stage(b, csv_file, &p->stages[s], sv_quantiles_of(b->stage_ms[s], frames));
    if (!csv_file) return;
    write_quantiles(csv_file, "end_to_end", total);
    if (b->timed > 0) {
        write_quantiles(csv_file, "upload", sv_quantiles_of(b->upload_ms, b->timed));
        write_quantiles(csv_file, "device", sv_quantiles_of(b->frame_ms, b->timed));
        write_quantiles(csv_file, "host_gaps", sv_quantiles_of(b->gap_ms, b->timed));
    }
    if (brief) return;
    fprintf(csv_file, "ceiling_vector,,,,,%.6g,,,,\n", b->ceilings.vector_gflops);
    if (b->ceilings.matrix_gflops > 0)
        fprintf(csv_file, "ceiling_matrix,,,,,%.6g,,,,\n", b->ceilings.matrix_gflops);
    fprintf(csv_file, "ceiling_copy,,,,,,,%.6g,,\n", b->ceilings.copy_gb);
}

static sv_status draw(bench *b, sv_quantiles total)
{
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    const sv_profile *p = &d->profile;
    char title[256], threads[64] = "";
    if (d->device->kind == SV_CPU)
        snprintf(threads, sizeof threads, " (%s, %d threads)", sv_isa_name(sv_simd_isa()),
                 sv_pool_threads(d->pool));
    snprintf(title, sizeof title, "%s with %s on %s%s, %s, batch %d: %d points, %d voxels, p50 %.4g ms",
             sv_model_name(b->ours.model), sv_model_operator(b->ours.model), d->device->name, threads,
             sv_precision_name(d->precision), batch_size, b->ours.points,
             sv_detector_needed(b->ours.detector, SV_CAP_VOXELS), total.p50);
    sv_roofline roofline = {.title = title,
                            .ceilings = &b->ceilings,
                            .precision = sv_precision_name(d->precision),
                            .matrix_units = d->device->kind == SV_CPU ? "matrix tiles" : "tensor cores"};
    for (int s = 0; s < p->stage_count; s++) {
        const sv_profile_stage *work = work_of(b, p->stages[s].name);
        roofline.stages[roofline.count++] =
            (sv_roofline_stage){.name = p->stages[s].name,
                                .ms = sv_quantiles_of(b->stage_ms[s], frames).p50,
                                .flops = work->flops,
                                .bytes = work->bytes};
    }
    return sv_roofline_write(b->ours.c, &roofline, plot);
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

/* ---- the command -------------------------------------------------------------------------------------- */

static void print_json(const bench *b, sv_quantiles total)
{
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    printf("{\"model\":\"%s\",\"operator\":\"%s\",\"device\":\"%s\",\"threads\":%d,\"batch\":%d,"
           "\"points\":%d,\"voxels\":%d,\"boxes\":%d,"
           "\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f,\"peak_kib\":%ld",
           sv_model_name(b->ours.model), sv_model_operator(b->ours.model), d->device->name,
           sv_pool_threads(d->pool), batch_size, b->ours.points,
           sv_detector_needed(b->ours.detector, SV_CAP_VOXELS), b->ours.counts[0], total.p50, total.p90,
           total.p99, b->peak_kib);
    if (b->timed > 0)
        printf(",\"upload_ms\":%.4f,\"device_ms\":%.4f,\"host_gaps_ms\":%.4f",
               sv_quantiles_of(b->upload_ms, b->timed).p50, sv_quantiles_of(b->frame_ms, b->timed).p50,
               sv_quantiles_of(b->gap_ms, b->timed).p50);
    if (!brief)
        printf(",\"vector_gflops\":%.1f,\"matrix_gflops\":%.1f,\"copy_gb_per_s\":%.2f",
               b->ceilings.vector_gflops, b->ceilings.matrix_gflops, b->ceilings.copy_gb);
    printf("}\n");
}

/* What the detector holds on a GPU; 0: it runs on the CPU. */
static double device_mib(const bench *b)
{
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    if (d->device->kind == SV_CPU) return 0;
    return (double)(d->frame.reserved + d->scratch.reserved + sv_model_weight_bytes(b->ours.model)) / 1048576;
}

static void print_device(const bench *b)
{
    if (b->timed > 0) {
        const sv_quantiles upload = sv_quantiles_of(b->upload_ms, b->timed),
                           frame = sv_quantiles_of(b->frame_ms, b->timed),
                           gap = sv_quantiles_of(b->gap_ms, b->timed);
        printf("of it on the device: p50 %.3f ms from the first kernel to the last download, %.3f ms upload; "
               "host gaps, the rest: p50 %.3f ms, p90 %.3f, p99 %.3f\n",
               frame.p50, upload.p50, gap.p50, gap.p90, gap.p99);
    }
    if (b->kernels > 0)
        printf("device memory: %.1f MiB; %d kernels in the captured frame; the stages below are timed "
               "without capture, one behind the other\n",
               device_mib(b), b->kernels);
}

static void print_ceilings(const bench *b)
{
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    const sv_ceilings *most = &b->ceilings;
    printf("ceilings, measured now: %.0f GFLOP/s by float32 multiply-adds", most->vector_gflops);
    if (most->matrix_products > 0)
        printf(", %.0f by %s in %s (%s)", most->matrix_gflops,
               d->device->kind == SV_CPU ? "matrix tiles" : "tensor cores", sv_precision_name(d->precision),
               sv_roofline_products(most));
    printf("; %.1f GB/s copied, read plus written\n", most->copy_gb);
    if (d->device->kind != SV_CPU) printf("work of the stages: as the CPU counts it on this frame in fp32\n");
}

static void print_head(const bench *b, const char *title, sv_quantiles total)
{
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    printf("%s, %d boxes\n", title, b->ours.counts[0]);
    printf("end to end, points in memory to %s: p50 %.2f ms, p90 %.2f, p99 %.2f over %d calls (%.2f "
           "frames/s)\n",
           strcmp(until, "head") == 0 ? "boxes in memory" : until, total.p50, total.p90, total.p99, frames,
           1000 * batch_size / total.p50);
    printf("memory: %.1f MiB process peak, %.1f MiB weights on the device\n", (double)b->peak_kib / 1024,
           (double)sv_model_weight_bytes(b->ours.model) / 1048576);
    print_device(b);
    print_arena("frame", &d->frame);
    print_arena("scratch", &d->scratch);
    if (!brief) print_ceilings(b);
}

static sv_status beside_peer(const bench *b, sv_quantiles total)
{
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    const bool slow = d->device->kind == SV_CPU; /* a peer there may take long */
    const sv_bench_peer beside = {
        .folder = peer,
        .config = config,
        .weights = weights,
        .points = b->frame.points,
        .layout = layout ? layout : sv_model_point_layout(b->ours.model),
        .precision = sv_precision_name(d->precision),
        .threads = sv_pool_threads(d->pool),
        .repeats = frames > 5 && slow ? 5 : frames,
        .frame_ms = total.p50,
        .device_mib = device_mib(b),
        .peak_kib = b->peak_kib,
        .boxes = b->ours.counts[0],
    };
    return sv_bench_beside_peer(b->app, b->ours.c, &beside);
}

static sv_status run_all(bench *b)
{
    const sv_ctx_def ctx = sv_app_ctx_def(b->app);
    char title[256];
    SV_TRY(sv_bench_side_open(b->app, &ctx, &b->frame, &b->ours));
    double **const lists[] = {&b->ms, &b->upload_ms, &b->frame_ms, &b->gap_ms};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        *lists[i] = calloc((size_t)frames, sizeof(double));
        SV_CHECK(b->ours.c, *lists[i], SV_NO_MEMORY, "no memory");
    }
    SV_TRY(measure(b));
    const sv_quantiles total = sv_quantiles_of(b->ms, frames);
    const sv_ctx *d = sv_detector_ctx(b->ours.detector);
    snprintf(title, sizeof title, "%s with %s on %s (%s), %d threads, %s, batch %d: %d points, %d voxels",
             sv_model_name(b->ours.model), sv_model_operator(b->ours.model), d->device->name,
             d->device->kind == SV_CPU ? sv_isa_name(sv_simd_isa()) : "graph replay",
             sv_pool_threads(d->pool), sv_precision_name(d->precision), batch_size, b->ours.points,
             sv_detector_needed(b->ours.detector, SV_CAP_VOXELS));
    if (b->app->json)
        print_json(b, total);
    else
        print_head(b, title, total);

    FILE *csv_file = csv ? fopen(csv, "w") : NULL;
    SV_CHECK(b->ours.c, !csv || csv_file, SV_IO, "%s: cannot be written", csv);
    if (!b->app->json && !brief) printf("\n");
    print_stages(b, csv_file, total);
    SV_CHECK(b->ours.c, !csv_file || fclose(csv_file) == 0, SV_IO, "%s: cannot be written", csv);
    if (plot) SV_TRY(draw(b, total));
    return peer ? beside_peer(b, total) : SV_OK;
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
        grid.plot = plot;
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
    if (brief && plot) return sv_app_usage_error(app, "--plot draws the stages, which --brief leaves out");
    int code = 0;
    bench *b = calloc(1, sizeof *b);
    if (!b) return sv_app_fail(app, SV_NO_MEMORY, "no memory");
    b->app = app;
    b->frame = (sv_bench_frame){.config = config,
                                .weights = weights,
                                .points = inputs[0],
                                .layout = layout,
                                .until = until,
                                .batch = batch_size};
    b->ours.c = sv_app_ctx(app, &code);
    if (b->ours.c) {
        const sv_status status = run_all(b);
        if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(b->ours.c));
    }
    for (int s = 0; s < SV_PROFILE_STAGES; s++) free(b->stage_ms[s]);
    free(b->ms);
    free(b->upload_ms);
    free(b->frame_ms);
    free(b->gap_ms);
    sv_bench_side_close(&b->ours);
    free(b);
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
    {"--csv", 0, SV_OPTION_TEXT, &csv, "FILE",
     "Write the table as CSV, with rows for the ceilings and, of a GPU, for upload, device and host gaps."},
    {"--plot", 0, SV_OPTION_TEXT, &plot, "OUT.png",
     "Draw the stages' rates over FLOP per byte beneath the ceilings (a roofline). operators: time per token "
     "over the length."},
    {"--brief", 0, SV_OPTION_FLAG, &brief, NULL, "End to end only: no stages, no ceilings."},
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
    .usage = "-c CFG.yaml -w WEIGHTS POINTS [--frames N] [--csv FILE] [--plot OUT.png] [--peer DIR]\n"
             "operators [--only NAME]... [--full] [--csv FILE] [--plot OUT.png] [--peer DIR]",
    .description =
        "Times whole calls, from points in host memory to boxes in host memory, then the stages "
        "in a second round with the profile on. "
        "Rates are given as shares of what the device does at most, measured in the same run: arithmetic by "
        "multiply-adds from registers and by matrix tiles or tensor cores in the precision that is used "
        "(the higher counts; convolutions by Winograd's algorithm may exceed it), memory by a large copy. "
        "FLOPs are those of the direct computation on the rows that are there, bytes the inputs read and the "
        "outputs written once, so that caches may exceed the copy. "
        "On a GPU 'host gaps' are what a call takes beyond its upload and the replayed frame.\n"
        "'operators' measures every registered operator instead, as a block with its shipped settings "
        "and random weights (on a GPU as replayed graphs, and launched call by call): time per token, "
        "working memory, GFLOP/s, the exponent by which time grows "
        "with the length of a group (1: linear; quadratic ones are marked), and, for those that carry a "
        "state, whether it settles over a long stream, whether few channels outgrow the others, and what "
        "it still holds of the first tokens.",
    .examples =
        "  savanna bench -w lion.h5 000134.bin\n  savanna bench -c cfg.yaml -w lion.pth 000134.bin "
        "--peer ~/pytorch-lion --csv stages.csv\n  savanna bench -w lion.h5 000134.bin --device cuda --plot "
        "roofline.png\n  savanna bench operators --only GLA --only RetNet "
        "--csv operators.csv --plot operators.png\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_bench,
};
