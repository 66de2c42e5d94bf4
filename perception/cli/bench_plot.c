/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna bench operators --plot: time per token over the length, the fastest operators in the first panel.
 */
#include "bench_report.h"

#include "perception/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { LINES = 7, COLUMNS = 3, PANEL_WIDTH = 560, PANEL_HEIGHT = 400 };

typedef struct curve {
    const sv_bench_report *of;
    double x[SV_BENCH_MOST], y[SV_BENCH_MOST], last;
    int count;
} curve;

static int by_time(const void *a, const void *b)
{
    const double x = ((const curve *)a)->last, y = ((const curve *)b)->last;
    return (x > y) - (x < y);
}

static curve make_curve(const sv_bench_run *b, const sv_bench_report *r)
{
    curve out = {.of = r};
    for (int i = 0; i < r->point_count; i++) {
        const sv_bench_point *p = &r->points[i];
        if (p->channels != b->channels.value[0] || p->groups != b->groups.value[0]) continue;
        out.x[out.count] = p->length;
        out.last = out.y[out.count++] = sv_bench_token_us(p);
    }
    return out;
}

static void draw_panel(sv_image *image, const sv_bench_run *b, const curve *curves, int count, int panel,
                       const double *range)
{
    sv_plot_line lines[LINES];
    char title[96];
    for (int k = 0; k < count; k++)
        lines[k] = (sv_plot_line){.x = curves[k].x,
                                  .y = curves[k].y,
                                  .count = curves[k].count,
                                  .colour = sv_plot_colour(k),
                                  .points = true,
                                  .name = curves[k].of->type->name};
    sv_plot plot = sv_plot_default();
    snprintf(title, sizeof title, "%d channels, one block, places %d to %d", b->channels.value[0],
             panel * LINES + 1, panel * LINES + count);
    plot.title = title;
    plot.x = (sv_plot_axis){.label = "tokens of a group", .logarithmic = true};
    plot.y = (sv_plot_axis){
        .label = "microseconds per token", .logarithmic = true, .low = range[0], .high = range[1]};
    plot.lines = lines;
    plot.line_count = count;
    plot.legend = SV_PLOT_UPPER_RIGHT;
    sv_plot_draw(image, panel % COLUMNS * PANEL_WIDTH, panel / COLUMNS * PANEL_HEIGHT, PANEL_WIDTH,
                 PANEL_HEIGHT, &plot);
}

sv_status sv_bench_plot(sv_bench_run *b)
{
    const int panels = (b->count + LINES - 1) / LINES;
    sv_image image = {0};
    curve *curves = calloc((size_t)b->count, sizeof *curves);
    SV_CHECK(b->c, curves, SV_NO_MEMORY, "no memory for a picture");
    double range[2] = {HUGE_VAL, 0};
    for (int i = 0; i < b->count; i++) {
        curves[i] = make_curve(b, &b->reports[i]);
        for (int k = 0; k < curves[i].count; k++)
            range[0] = fmin(range[0], curves[i].y[k]), range[1] = fmax(range[1], curves[i].y[k]);
    }
    range[0] = pow(10, floor(log10(range[0]))), range[1] = pow(10, ceil(log10(range[1])) + 1);
    qsort(curves, (size_t)b->count, sizeof *curves, by_time);
    const int wide = panels < COLUMNS ? panels : COLUMNS, high = (panels + COLUMNS - 1) / COLUMNS;
    sv_status status =
        sv_image_new(b->c, &image, wide * PANEL_WIDTH, high * PANEL_HEIGHT, SV_PLOT_BACKGROUND);
    for (int n = 0; n < panels && status == SV_OK; n++) {
        const int left = b->count - n * LINES;
        draw_panel(&image, b, curves + n * LINES, left < LINES ? left : LINES, n, range);
    }
    if (status == SV_OK) status = sv_image_write_png(b->c, &image, b->grid->plot);
    sv_image_free(&image);
    free(curves);
    return status;
}
