/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna bench operators: every registered operator as a block with its shipped settings and random weights.
 *
 * Time is the least of several rounds over all shapes of an operator, so that a busy moment spoils one
 * shape only. The exponent is the slope of log(time) over log(length) by least squares, one group at a
 * time; on the CPU of processor time, which a busy machine does not stretch as it does the clock's. A GPU
 * is given several calls behind each other and waited for once: replays of a captured graph, as in a
 * frame, and launches one by one (short calls are bound by the host then). The long stream (operators that
 * carry a state) asks what "Stuffed Mamba" (Chen et al. 2024) asks of long contexts: does the state grow,
 * do few channels outgrow the others, and is what came first ever forgotten? Its two groups differ in
 * their first 64 tokens only; the share of the state they differ by is what is left of those tokens (1 and
 * more: they were never forgotten, or blown up).
 */
#include "bench_report.h"

#include "backbones/block.h"
#include "backbones/trial.h"
#include "perception/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOW_MS = 500 };            /* shapes above are run once */
enum { CALLS = 20, LONE_MS = 10 }; /* calls that a GPU is given behind each other; alone above so much */
enum { PIECE = 256, FIRST = 64 };

static const char *const identifiers[] = {
#define OPERATOR(identifier) #identifier,
#include "backbones/operators/operators.def"
#undef OPERATOR
};
enum { OPERATORS = sizeof identifiers / sizeof *identifiers };

static bool read_list(const sv_app *app, const char *option, const char *text, int most, sv_bench_list *out)
{
    out->count = 0;
    for (const char *at = text; *at;) {
        char *end = NULL;
        const long value = strtol(at, &end, 10);
        const bool sound =
            end != at && (*end == ',' || !*end) && value >= 1 && value <= most && out->count < SV_BENCH_MOST;
        if (!sound) {
            sv_app_usage_error(app, "%s: '%s' is no list of up to %d whole numbers within 1..%d, as 64,128",
                               option, text, SV_BENCH_MOST, most);
            return false;
        }
        out->value[out->count++] = (int)value;
        at = *end ? end + 1 : end;
    }
    if (out->count == 0) sv_app_usage_error(app, "%s: an empty list", option);
    return out->count > 0;
}

/* The shipped configuration of operator 'i' with this direction (NULL: its own). */
static sv_status open_trial(sv_bench_run *b, int i, int channels, const char *direction, sv_trial *trial)
{
    char name[96];
    const sv_operator *type = sv_operator_at(i);
    const char *const sets[] = {"MODEL.BACKBONE_3D.OPERATOR.CFG.direction", direction};
    sv_config *config = NULL;
    snprintf(name, sizeof name, "%s_%s", type->recurrence ? "catalogue" : "kitti_lion", identifiers[i]);
    *trial = (sv_trial){.type = type};
    SV_TRY(sv_config_load(b->c, name, sets, direction ? 1 : 0, &config));
    const sv_node *cfg = sv_node_find(sv_config_root(config), "MODEL.BACKBONE_3D.OPERATOR.CFG");
    const sv_status status = sv_trial_open(b->c, trial, type, cfg, channels, (uint64_t)b->app->seed + 1);
    sv_config_free(config);
    return status;
}

/* ---- time ---------------------------------------------------------------------------------------------- */

/* Processor time of the process: other programs do not add to it. */
static double work_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static sv_status place_tokens(sv_ctx *c, const sv_bench_point *p, sv_trial_tokens *tokens)
{
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    SV_TRY(sv_trial_tokens_alloc(c, tokens, p->channels, p->groups, p->length));
    return sv_trial_tokens_fill(c, tokens, 1, false);
}

/* Lets the arenas grow and counts the work. */
static sv_status run_first(sv_ctx *c, const sv_trial *trial, const sv_trial_tokens *tokens, sv_bench_point *p)
{
    c->scratch.peak = 0;
    c->profile.on = true;
    sv_profile_frame_begin(c);
    SV_TRY(sv_stage_begin(c, "operator"));
    SV_TRY(sv_trial_run(c, trial, tokens, NULL));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_profile_frame_end(c));
    c->profile.on = false;
    p->flops = c->profile.stages[0].flops;
    p->work_bytes = c->scratch.peak;
    p->ms = p->work_ms = HUGE_VAL;
    return SV_OK;
}

/* Milliseconds a call of CALLS behind each other: replays of 'graph', or launches where there is none. */
static sv_status time_queued(sv_ctx *c, const sv_trial *trial, const sv_trial_tokens *tokens, sv_graph *graph,
                             double *ms)
{
    const double began = sv_clock_ms();
    for (int i = 0; i < CALLS; i++)
        SV_TRY(graph ? c->device->replay(c, graph) : sv_trial_run(c, trial, tokens, NULL));
    SV_TRY(c->device->queue_wait(c));
    *ms = fmin(*ms, (sv_clock_ms() - began) / CALLS);
    return SV_OK;
}

/* As in a captured frame. */
static sv_status time_replayed(sv_ctx *c, const sv_trial *trial, const sv_trial_tokens *tokens, double *ms)
{
    sv_graph *graph = NULL;
    c->frame.sealed = c->scratch.sealed = c->capturing = true;
    sv_status status = c->device->capture_begin(c);
    if (status == SV_OK) {
        status = sv_trial_run(c, trial, tokens, NULL);
        const sv_status ended = c->device->capture_end(c, &graph);
        if (status == SV_OK) status = ended;
    }
    c->frame.sealed = c->scratch.sealed = c->capturing = false;
    if (status == SV_OK) status = c->device->replay(c, graph);
    if (status == SV_OK) status = c->device->queue_wait(c);
    if (status == SV_OK) status = time_queued(c, trial, tokens, graph, ms);
    if (graph) c->device->graph_free(graph);
    return status;
}

static sv_status time_once(sv_bench_run *b, const sv_trial *trial, sv_bench_point *p)
{
    sv_ctx *c = b->c;
    sv_trial_tokens tokens;
    SV_TRY(place_tokens(c, p, &tokens));
    if (p->ms == 0) {
        SV_TRY(run_first(c, trial, &tokens, p));
        SV_TRY(place_tokens(c, p, &tokens));
    }
    if (p->ms < HUGE_VAL && p->ms > SLOW_MS) return SV_OK;
    const double began = sv_clock_ms(), worked = work_clock_ms();
    SV_TRY(sv_trial_run(c, trial, &tokens, NULL));
    SV_TRY(c->device->queue_wait(c));
    const double alone = sv_clock_ms() - began;
    p->work_ms = fmin(p->work_ms, work_clock_ms() - worked);
    p->ms = fmin(p->ms, alone);
    if (!c->device->capture_begin || alone > LONE_MS) return SV_OK;
    if (p->launched_ms == 0) p->launched_ms = HUGE_VAL;
    SV_TRY(time_queued(c, trial, &tokens, NULL, &p->launched_ms));
    return time_replayed(c, trial, &tokens, &p->ms);
}

static void choose_points(const sv_bench_run *b, int channels, sv_bench_report *r)
{
    for (int l = 0; l < b->lengths.count; l++)
        for (int g = 0; g < b->groups.count; g++)
            if (b->grid->full || l == 0 || g == 0)
                r->points[r->point_count++] = (sv_bench_point){
                    .channels = channels, .length = b->lengths.value[l], .groups = b->groups.value[g]};
}

/* Slope of log y over log x. */
static double slope(const double *x, const double *y, int count)
{
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (int i = 0; i < count; i++) {
        const double a = log(x[i]), v = log(y[i]);
        sx += a, sy += v, sxx += a * a, sxy += a * v;
    }
    const double spread = count * sxx - sx * sx;
    return count > 1 && spread > 0 ? (count * sxy - sx * sy) / spread : NAN;
}

static double fit_exponent(const sv_bench_run *b, const sv_bench_report *r, int channels)
{
    double x[SV_BENCH_MOST], y[SV_BENCH_MOST];
    int count = 0;
    for (int i = 0; i < r->point_count; i++)
        if (r->points[i].channels == channels && r->points[i].groups == b->groups.value[0]) {
            const sv_bench_point *p = &r->points[i];
            x[count] = p->length;
            y[count++] = b->c->device->kind == SV_CPU ? p->work_ms : p->ms;
        }
    return slope(x, y, count);
}

static sv_status measure_times(sv_bench_run *b, int i, sv_bench_report *r)
{
    for (int k = 0; k < b->channels.count; k++) {
        const int first = r->point_count, channels = b->channels.value[k];
        sv_trial trial;
        const char *direction =
            sv_operator_at(i)->recurrence ? b->grid->direction : NULL; /* LION's own have one */
        sv_status status = open_trial(b, i, channels, direction, &trial);
        choose_points(b, channels, r);
        for (int round = 0; round < b->grid->rounds; round++)
            for (int p = first; p < r->point_count && status == SV_OK; p++)
                status = time_once(b, &trial, &r->points[p]);
        r->parameters[k] = trial.parameters;
        sv_trial_close(&trial);
        SV_TRY(status);
        r->exponent[k] = fit_exponent(b, r, channels);
    }
    return SV_OK;
}

/* ---- the long stream ----------------------------------------------------------------------------------- */

static sv_status look(sv_bench_run *b, sv_tensor state, int memory, sv_bench_report *r, int at)
{
    float *rows = NULL;
    int count = 0;
    SV_TRY(sv_download_rows(b->c, sv_columns(state, state.dim[1] - memory, memory), (void **)&rows, &count));
    double square = 0, most = 0, apart = 0;
    for (int i = 0; i < memory; i++) {
        const double v = rows[i];
        square += v * v, most = fmax(most, fabs(v)), apart += pow(v - (double)rows[memory + i], 2);
    }
    free(rows);
    r->norm[at] = sqrt(square / memory);
    r->outlier[at] = square > 0 ? most / r->norm[at] : 0;
    r->kept[at] = square > 0 ? sqrt(apart / square) : 0;
    return SV_OK;
}

static sv_status stream(sv_bench_run *b, const sv_trial *trial, sv_bench_report *r)
{
    sv_ctx *c = b->c;
    const int columns = sv_block_state_columns(trial->self);
    r->memory = sv_block_memory_columns(trial->self);
    if (r->memory == 0 || b->grid->stream == 0) return SV_OK;
    const int pieces = b->grid->stream / PIECE;
    sv_trial_tokens head, rest, tokens;
    sv_tensor state;
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    SV_TRY(sv_trial_tokens_alloc(c, &head, trial->channels, 2, FIRST));
    SV_TRY(sv_trial_tokens_alloc(c, &rest, trial->channels, 2, PIECE));
    SV_TRY(sv_frame_alloc(c, &state, "operator state", SV_F32, 2, columns, SV_NONE));
    sv_operator_state carried = {.out = state};
    const int looks[SV_BENCH_LOOKS] = {1, pieces / 4 > 1 ? pieces / 4 : 1, pieces};
    for (int piece = 0, at = 0; piece <= pieces; piece++) {
        tokens = piece == 0 ? head : rest; /* the groups differ in piece 0 */
        SV_TRY(sv_trial_tokens_fill(c, &tokens, (uint32_t)piece + 2, piece > 0));
        SV_TRY(sv_trial_run(c, trial, &tokens, &carried));
        carried.in = state;
        for (; at < SV_BENCH_LOOKS && looks[at] == piece; at++) {
            r->seen[at] = FIRST + piece * PIECE;
            SV_TRY(look(b, state, r->memory, r, at));
        }
    }
    const double seen[] = {r->seen[1], r->seen[2]};
    r->growth = slope(seen, r->norm + 1, 2);
    return SV_OK;
}

static sv_status measure_stream(sv_bench_run *b, int i, sv_bench_report *r)
{
    if (!r->type->recurrence) return SV_OK; /* LION's own carry none */
    sv_trial trial;
    sv_status status = open_trial(b, i, b->channels.value[0], "forward", &trial);
    if (status == SV_OK) status = stream(b, &trial, r);
    sv_trial_close(&trial);
    return status;
}

/* ---- what is printed ----------------------------------------------------------------------------------- */

static const sv_bench_point *largest(const sv_bench_run *b, const sv_bench_report *r, int channels)
{
    const sv_bench_point *best = NULL;
    for (int i = 0; i < r->point_count; i++)
        if (r->points[i].channels == channels && r->points[i].groups == b->groups.value[0] &&
            (!best || r->points[i].length > best->length))
            best = &r->points[i];
    return best;
}

double sv_bench_token_us(const sv_bench_point *p)
{
    return 1e3 * p->ms / p->length / p->groups;
}

static void print_times(const sv_bench_run *b)
{
    for (int k = 0; k < b->channels.count; k++) {
        const int channels = b->channels.value[k];
        const sv_bench_point *shape = largest(b, &b->reports[0], channels);
        printf("\n%d channels, %d group%s of %d tokens; exponent of the processor time with the length\n",
               channels, shape->groups, shape->groups > 1 ? "s" : "", shape->length);
        printf("  %-20s %10s %9s %9s %9s %8s %9s\n", "operator", "parameters", "kFLOP/tok", "us/token",
               "GFLOP/s", "MiB", "exponent");
        for (int i = 0; i < b->count; i++) {
            const sv_bench_report *r = &b->reports[i];
            const sv_bench_point *p = largest(b, r, channels);
            char exponent[32] = "-"; /* of a single length there is none */
            if (isfinite(r->exponent[k])) snprintf(exponent, sizeof exponent, "%.2f", r->exponent[k]);
            char work[32] = "-", rate[32] = "-"; /* a GPU's is not counted */
            if (p->flops > 0) {
                snprintf(work, sizeof work, "%.1f", 1e-3 * p->flops / p->length / p->groups);
                snprintf(rate, sizeof rate, "%.2f", 1e-6 * p->flops / p->ms);
            }
            printf("  %-20s %10lld %9s %9.3f %9s %8.2f %9s%s\n", r->type->name, (long long)r->parameters[k],
                   work, sv_bench_token_us(p), rate, (double)p->work_bytes / 1048576, exponent,
                   r->quadratic ? "  quadratic" : "");
        }
    }
}

static void print_streams(const sv_bench_run *b)
{
    if (b->grid->stream == 0) return;
    printf("\nStates over a long stream, %d channels: root mean square after so many tokens, its exponent at "
           "the end; the "
           "largest number beside it; what the state still holds of the first %d tokens\n",
           b->channels.value[0], FIRST);
    bool named = false;
    for (int i = 0; i < b->count; i++) {
        const sv_bench_report *r = &b->reports[i];
        if (r->seen[0] == 0) continue;
        if (!named)
            printf("  %-20s %8s %9d %9d %9d %9s %8s %9s\n", "operator", "floats", r->seen[0], r->seen[1],
                   r->seen[2], "exponent", "largest", "held");
        named = true;
        const char *verdict = !isfinite(r->norm[2]) ? "not finite"
                              : r->norm[2] == 0     ? "vanishes"
                              : r->growth > 0.25    ? "grows"
                                                    : "settles";
        printf("  %-20s %8d %9.3g %9.3g %9.3g %9.2f %8.1f %9.1e  %s%s\n", r->type->name, r->memory,
               r->norm[0], r->norm[1], r->norm[2], r->growth, r->outlier[2], r->kept[2], verdict,
               r->outlier[2] > 2 * r->outlier[0] ? ", few channels outgrow the rest" : "");
    }
}

static void print_json(const sv_bench_run *b)
{
    sv_json j = sv_json_begin(stdout);
    sv_json_array(&j, SV_JSON_LINES);
    for (int i = 0; i < b->count; i++) {
        const sv_bench_report *r = &b->reports[i];
        sv_json_object(&j, SV_JSON_INLINE);
        sv_json_key(&j, "operator"), sv_json_text(&j, r->type->name);
        sv_json_key(&j, "quadratic"), sv_json_bool(&j, r->quadratic);
        sv_json_key(&j, "channels"), sv_json_int(&j, b->channels.value[0]);
        sv_json_key(&j, "parameters"), sv_json_int(&j, r->parameters[0]);
        sv_json_key(&j, "exponent"), sv_json_double(&j, r->exponent[0]);
        sv_json_key(&j, "us_per_token"),
            sv_json_double(&j, sv_bench_token_us(largest(b, r, b->channels.value[0])));
        const sv_bench_point *p = largest(b, r, b->channels.value[0]);
        sv_json_key(&j, "ms"), sv_json_double(&j, p->ms);
        if (p->launched_ms > 0) sv_json_key(&j, "launched_ms"), sv_json_double(&j, p->launched_ms);
        if (p->peer_ms > 0) sv_json_key(&j, "peer_ms"), sv_json_double(&j, p->peer_ms);
        sv_json_key(&j, "state_floats"), sv_json_int(&j, r->memory);
        if (r->seen[0] > 0) {
            sv_json_key(&j, "state_growth"), sv_json_double(&j, r->growth);
            sv_json_key(&j, "state_rms"), sv_json_double(&j, r->norm[2]);
            sv_json_key(&j, "held"), sv_json_double(&j, r->kept[2]);
        }
        sv_json_end(&j);
    }
    sv_json_end(&j);
}

static sv_status write_csv(sv_bench_run *b)
{
    FILE *file = fopen(b->grid->csv, "w");
    SV_CHECK(b->c, file, SV_IO, "%s: cannot be written", b->grid->csv);
    fprintf(file,
            "operator,channels,length,groups,ms,processor_ms,us_per_token,gflop_per_s,flop_per_token,"
            "work_bytes,parameters,exponent,quadratic,state_floats,state_rms,state_exponent,state_largest,"
            "state_held,launched_ms,peer_ms,peer_launched_ms\n");
    for (int i = 0; i < b->count; i++) {
        const sv_bench_report *r = &b->reports[i];
        for (int n = 0; n < r->point_count; n++) {
            const sv_bench_point *p = &r->points[n];
            int k = 0;
            while (b->channels.value[k] != p->channels) k++;
            fprintf(file, "%s,%d,%d,%d,%.4f,%.4f,%.4f,%.3f,%.1f,%zu,%lld,%.3f,%d,%d", r->type->name,
                    p->channels, p->length, p->groups, p->ms, p->work_ms, sv_bench_token_us(p),
                    1e-6 * p->flops / p->ms, p->flops / p->length / p->groups, p->work_bytes,
                    (long long)r->parameters[k], r->exponent[k], r->quadratic, r->memory);
            if (r->seen[0] > 0)
                fprintf(file, ",%.4g,%.3f,%.2f,%.3g", r->norm[2], r->growth, r->outlier[2], r->kept[2]);
            else
                fprintf(file, ",,,,");
            const double more[] = {p->launched_ms, p->peer_ms, p->peer_launched_ms};
            for (int m = 0; m < 3; m++) more[m] > 0 ? fprintf(file, ",%.4f", more[m]) : fprintf(file, ",");
            fputc('\n', file);
        }
    }
    SV_CHECK(b->c, fclose(file) == 0, SV_IO, "%s: cannot be written", b->grid->csv);
    return SV_OK;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static bool wanted(const sv_texts *only, const char *name)
{
    for (int i = 0; i < only->count; i++)
        if (strcmp(only->text[i], name) == 0) return true;
    return only->count == 0;
}

static sv_status measure_all(sv_bench_run *b)
{
    sv_progress progress;
    int total = 0;
    for (int i = 0; i < OPERATORS; i++) total += wanted(&b->grid->only, sv_operator_at(i)->name);
    sv_progress_begin(&progress, b->app, "bench", "operators", total);
    for (int i = 0; i < OPERATORS; i++) {
        const sv_operator *type = sv_operator_at(i);
        if (!wanted(&b->grid->only, type->name)) continue;
        sv_bench_report *r = &b->reports[b->count];
        *r = (sv_bench_report){.type = type, .quadratic = type->recurrence && type->recurrence->quadratic};
        SV_TRY(measure_times(b, i, r));
        SV_TRY(measure_stream(b, i, r));
        sv_progress_step(&progress, ++b->count);
    }
    sv_progress_end(&progress);
    return SV_OK;
}

static sv_status run_all(sv_bench_run *b)
{
    SV_TRY(measure_all(b));
    if (b->grid->peer) SV_TRY(sv_bench_ask_peer(b));
    if (b->app->json) {
        print_json(b);
    } else {
        printf("%d operators on %s, %d threads, %s; least of %d rounds\n", b->count, b->c->device->name,
               sv_pool_threads(b->c->pool), sv_precision_name(b->c->precision), b->grid->rounds);
        print_times(b);
        print_streams(b);
        if (b->grid->peer) sv_bench_print_peer(b);
    }
    if (b->grid->csv) SV_TRY(write_csv(b));
    if (b->grid->plot) SV_TRY(sv_bench_plot(b));
    return SV_OK;
}

int sv_bench_operators(const sv_app *app, const sv_bench_grid *grid)
{
    sv_bench_run b = {.app = app, .grid = grid};
    if (!read_list(app, "--channels", grid->channels, 1024, &b.channels) ||
        !read_list(app, "--lengths", grid->lengths, 1 << 20, &b.lengths) ||
        !read_list(app, "--groups", grid->groups, 1024, &b.groups))
        return 2;
    if (grid->rounds < 1 || grid->rounds > 1000)
        return sv_app_usage_error(app, "--rounds: %d is not within 1..1000", grid->rounds);
    if (grid->stream != 0 && (grid->stream < 4 * PIECE || grid->stream > 1 << 24))
        return sv_app_usage_error(app, "--stream: %d is neither 0 nor within %d..%d", grid->stream, 4 * PIECE,
                                  1 << 24);
    for (int i = 0; i < grid->only.count; i++)
        if (!sv_operator_find(grid->only.text[i]))
            return sv_app_usage_error(app,
                                      "--only: there is no operator '%s'; OPERATOR.NAME as in configurations",
                                      grid->only.text[i]);
    int code = 0;
    b.c = sv_app_ctx(app, &code);
    if (!b.c) return code;
    b.reports = calloc(OPERATORS, sizeof *b.reports);
    const sv_status status =
        b.reports ? run_all(&b) : SV_FAIL(b.c, SV_NO_MEMORY, "no memory for the figures");
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(b.c));
    free(b.reports);
    sv_ctx_close(b.c);
    return code;
}
