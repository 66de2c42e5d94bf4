/* SPDX-License-Identifier: Apache-2.0 */
#include "app.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void print_log(void *user, sv_log_level level, const char *sentence)
{
    const sv_app *app = user;
    if (app->verbosity < 0 || (int)level > app->verbosity) return;
    static const char *const names[] = {"warning", "note", "detail"};
    fprintf(stderr, "savanna: %s: %s\n", names[level], sentence);
}

sv_ctx_def sv_app_ctx_def(const sv_app *app)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.device = app->device;
    def.device_index = app->device_index;
    def.threads = app->threads;
    def.precision = app->precision;
    def.log = print_log;
    def.log_user = (void *)app;
    return def;
}

sv_ctx_def sv_app_cpu_def(const sv_app *app)
{
    sv_ctx_def def = sv_app_ctx_def(app);
    def.device = SV_CPU;
    def.device_index = 0;
    def.precision = SV_FP32;
    return def;
}

sv_status sv_app_reader(sv_ctx *c, const sv_app *app, sv_ctx **out)
{
    sv_ctx_def def = sv_app_cpu_def(app);
    def.threads = 1;
    const sv_status status = sv_ctx_open(&def, out);
    SV_CHECK(c, status == SV_OK, status, "%s", *out ? sv_error_message(*out) : "no memory for a context");
    return SV_OK;
}

sv_ctx *sv_app_ctx(const sv_app *app, int *code)
{
    const sv_ctx_def def = sv_app_ctx_def(app);
    sv_ctx *c = NULL;
    const sv_status status = sv_ctx_open(&def, &c);
    if (status == SV_OK) return c;
    *code = sv_app_fail(app, status, c ? sv_error_message(c) : "out of memory");
    sv_ctx_close(c);
    return NULL;
}

int sv_app_fail(const sv_app *app, sv_status status, const char *sentence)
{
    fprintf(stderr, "savanna %s: %s\n", app->command ? app->command->name : "",
            sentence[0] ? sentence : sv_status_text(status));
    return sv_status_exit_code(status);
}

int sv_app_usage_error(const sv_app *app, const char *format, ...)
{
    fprintf(stderr, "savanna %s: ", app->command->name);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry 'savanna help %s'.\n", app->command->name);
    return 2;
}

void sv_app_say(const sv_app *app, const char *format, ...)
{
    if (app->verbosity < 0) return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

sv_status sv_app_model(const sv_app *app, sv_ctx *c, const char *config, const char *weights, sv_model **out)
{
    const sv_model_def def = {
        .config = config, .weights = weights, .sets = app->sets.text, .set_count = app->sets.count};
    return sv_model_open(c, &def, out);
}

/* ---- progress ----------------------------------------------------------------------------------------- */

void sv_progress_begin(sv_progress *p, const sv_app *app, const char *what, const char *unit, long total)
{
    *p = (sv_progress){
        .app = app, .what = what, .unit = unit, .total = total, .began = sv_clock_ms(), .tenth = -1};
    p->terminal = isatty(STDERR_FILENO);
}

static void format_seconds(char *out, size_t size, double seconds)
{
    if (seconds < 90)
        snprintf(out, size, "%.0f s", seconds);
    else if (seconds < 5400)
        snprintf(out, size, "%.0f min", seconds / 60);
    else
        snprintf(out, size, "%.1f h", seconds / 3600);
}

void sv_progress_step(sv_progress *p, long done)
{
    p->done = done;
    if (p->app->verbosity < 0 || p->total <= 1) return;
    const double now = sv_clock_ms(), seconds = (now - p->began) * 1e-3,
                 rate = seconds > 0 ? (double)done / seconds : 0;
    char left[32];
    format_seconds(left, sizeof left, rate > 0 ? (double)(p->total - done) / rate : 0);
    if (p->terminal) {
        if (now - p->shown < 100 && done < p->total) return;
        char bar[31];
        const int filled = (int)(30 * done / p->total);
        for (int i = 0; i < 30; i++) bar[i] = i < filled ? '#' : '.';
        bar[30] = '\0';
        fprintf(stderr, "\r%s [%s] %ld/%ld, %.3g %s/s, %s left \033[K", p->what, bar, done, p->total, rate,
                p->unit, left);
        p->shown = now;
        return;
    }
    const int tenth = (int)(10 * done / p->total);
    if (tenth == p->tenth) return;
    p->tenth = tenth;
    fprintf(stderr, "%s: %ld of %ld, %.3g %s/s, %s left\n", p->what, done, p->total, rate, p->unit, left);
}

void sv_progress_end(sv_progress *p)
{
    if (p->app->verbosity >= 0 && p->total > 1 && p->terminal) fprintf(stderr, "\r\033[K");
}
