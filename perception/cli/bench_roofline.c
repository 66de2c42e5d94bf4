/* SPDX-License-Identifier: Apache-2.0
 *
 * A roofline: arithmetic intensity (FLOP per byte) across, GFLOP/s up, both logarithmic. Below the slanted roof
 * memory is the limit, rate = intensity x GB/s, below the level ones arithmetic. A stage is a dot whose area grows with its
 * time; of stages that lie in each other the innermost one that does the work is drawn. Stages of one kind
 * ("operators" of every block) share a colour. What counts no arithmetic stands below the diagram.
 */
#include "bench_roofline.h"

#include "perception/font.h"
#include "perception/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 1500, HEIGHT = 1000, TEXT = 2, MARGIN = 16, MOST_KINDS = 32, ROOFS = 3 };
enum { NOTE_COLOUR = 0x5a6270 };
static const float least_dot = 9, largest_dot = 44;
static const double least_share = 0.002, least_rate = 1e-5; /* of the time and of the ceiling, to be drawn */

typedef struct kind {
    const char *name;
    size_t length;
    int stages;
} kind;

typedef struct figure {
    const sv_roofline *of;
    kind kinds[MOST_KINDS];
    int kind_count;
    sv_plot_line lines[SV_PROFILE_STAGES + MOST_KINDS + ROOFS];
    int line_count;
    int order[SV_PROFILE_STAGES]; /* of the stages, the longest first: smaller dots lie upon larger ones */
    char names[MOST_KINDS][64], labels[SV_PROFILE_STAGES][64], roof_names[ROOFS][96];
    double x[SV_PROFILE_STAGES], y[SV_PROFILE_STAGES], roof_x[ROOFS][2], roof_y[ROOFS][2];
    double low_x, high_x, low_y, total_ms, unit; /* unit: GFLOP/s of a unit of the upward axis */
} figure;

const char *sv_roofline_products(const sv_ceilings *ceilings)
{
    return ceilings->matrix_products == 6   ? "6 products of 16 bits each"
           : ceilings->matrix_products == 3 ? "3 products of 16 bits each"
                                            : "products of 16 bits";
}

/* ---- which stages -------------------------------------------------------------------------------------- */

static bool lies_in(const char *name, const char *outer)
{
    const size_t length = strlen(outer);
    return strncmp(name, outer, length) == 0 && name[length] == '/';
}

/* Stages that take time and do most of their work themselves, not in others within. */
static bool is_drawn(const sv_roofline *r, int i, double total_ms)
{
    const sv_roofline_stage *s = &r->stages[i];
    double inner = 0;
    if (!(s->flops > 0 && s->bytes > 0 && s->ms > 0) || s->ms < least_share * total_ms ||
        1e-6 * s->flops / s->ms < least_rate * sv_ceiling_gflops(r->ceilings))
        return false;
    for (int k = 0; k < r->count; k++)
        if (lies_in(r->stages[k].name, s->name) && !strchr(r->stages[k].name + strlen(s->name) + 1, '/'))
            inner += r->stages[k].flops;
    return inner < 0.5 * s->flops;
}

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

static int kind_of(figure *f, const char *name)
{
    const char *last = last_part(name);
    for (int i = 0; i < f->kind_count; i++)
        if (strcmp(f->kinds[i].name, last) == 0) return i;
    if (f->kind_count == MOST_KINDS) return MOST_KINDS - 1;
    f->kinds[f->kind_count].name = last;
    return f->kind_count++;
}

/* A stage alone of its kind is labelled with the kind, others with what they are a part of. */
static void label(char out[64], const figure *f, const char *name, int k)
{
    const char *last = last_part(name);
    if (f->kinds[k].stages == 1 || last == name) {
        snprintf(out, 64, "%s", last);
        return;
    }
    const char *outer = last - 1;
    while (outer > name && outer[-1] != '/') outer--;
    snprintf(out, 64, "%.*s", (int)(last - 1 - outer), outer);
}

static void add_stages(figure *f)
{
    const sv_roofline *r = f->of;
    for (int i = 0; i < r->count; i++) {
        int at = i;
        for (; at > 0 && r->stages[f->order[at - 1]].ms < r->stages[i].ms; at--)
            f->order[at] = f->order[at - 1];
        f->order[at] = i;
        if (!strchr(r->stages[i].name, '/')) f->total_ms += r->stages[i].ms;
    }
    for (int i = 0; i < r->count; i++)
        if (is_drawn(r, i, f->total_ms)) f->kinds[kind_of(f, r->stages[i].name)].stages++;
    f->low_x = f->low_y = HUGE_VAL;
    for (int n = 0; n < r->count; n++) {
        const int i = f->order[n];
        const sv_roofline_stage *s = &r->stages[i];
        if (!is_drawn(r, i, f->total_ms)) continue;
        const int k = kind_of(f, s->name);
        f->x[i] = s->flops / s->bytes;
        f->y[i] = 1e-6 * s->flops / s->ms / f->unit;
        f->low_x = fmin(f->low_x, f->x[i]), f->high_x = fmax(f->high_x, f->x[i]);
        f->low_y = fmin(f->low_y, f->y[i]);
        label(f->labels[i], f, s->name, k);
        f->lines[f->line_count++] = (sv_plot_line){
            .x = &f->x[i],
            .y = &f->y[i],
            .count = 1,
            .colour = sv_plot_colour(k),
            .points = true,
            .dot = least_dot + (largest_dot - least_dot) * (float)sqrt(s->ms / fmax(f->total_ms, s->ms)),
            .label = f->labels[i],
        };
    }
}

/* ---- roofs and legend ---------------------------------------------------------------------------------- */

static void add_roof(figure *f, int i, double from_x, double from_y, double to_x, double to_y,
                     uint32_t colour)
{
    f->roof_x[i][0] = from_x, f->roof_x[i][1] = to_x;
    f->roof_y[i][0] = from_y / f->unit, f->roof_y[i][1] = to_y / f->unit;
    f->lines[f->line_count++] = (sv_plot_line){
        .x = f->roof_x[i], .y = f->roof_y[i], .count = 2, .colour = colour, .name = f->roof_names[i]};
}

/* 1234 GFLOP/s as "1.23 TFLOP/s". */
static void rate_text(char *out, size_t room, double giga, const char *unit)
{
    const bool tera = giga >= 1000;
    snprintf(out, room, "%.3g %c%s", tera ? giga / 1000 : giga, tera ? 'T' : 'G', unit);
}

static void add_roofs(figure *f)
{
    const sv_ceilings *most = f->of->ceilings;
    const double top = sv_ceiling_gflops(most), copy = most->copy_gb, ridge = top / copy;
    char rate[32];
    if (!(f->low_x <= f->high_x)) f->low_x = 1, f->high_x = 10, f->low_y = copy / f->unit;
    f->low_x = fmin(0.5 * f->low_x, 0.1 * ridge);
    f->high_x = fmax(3 * f->high_x, 4 * ridge);
    f->low_y = fmin(0.4 * f->low_y, 0.05 * top / f->unit);
    rate_text(rate, sizeof rate, copy, "B/s");
    snprintf(f->roof_names[0], sizeof f->roof_names[0], "memory: %s copied", rate);
    add_roof(f, 0, f->low_x, f->low_x * copy, ridge, top, 0x20242c);
    if (most->matrix_products > 0) {
        rate_text(rate, sizeof rate, most->matrix_gflops, "FLOP/s");
        snprintf(f->roof_names[1], sizeof f->roof_names[1], "%s, %s: %s", f->of->matrix_units,
                 f->of->precision, rate);
        add_roof(f, 1, most->matrix_gflops / copy, most->matrix_gflops, f->high_x, most->matrix_gflops,
                 0x56698a);
    }
    rate_text(rate, sizeof rate, most->vector_gflops, "FLOP/s");
    snprintf(f->roof_names[2], sizeof f->roof_names[2], "multiply-adds, fp32: %s", rate);
    add_roof(f, 2, most->vector_gflops / copy, most->vector_gflops, f->high_x, most->vector_gflops, 0x9aa2ae);
}

static void add_legend(figure *f)
{
    static const double none = NAN;
    for (int k = 0; k < f->kind_count; k++) {
        if (f->kinds[k].stages < 2) continue; /* its dot says its name */
        snprintf(f->names[k], sizeof f->names[k], "%s", f->kinds[k].name);
        f->lines[f->line_count++] = (sv_plot_line){
            .x = &none, .y = &none, .count = 1, .colour = sv_plot_colour(k), .name = f->names[k]};
    }
}

/* ---- what stands below --------------------------------------------------------------------------------- */

static bool moves_only(const sv_roofline *r, int i)
{
    if (r->stages[i].flops > 0 || !(r->stages[i].bytes > 0) || !(r->stages[i].ms > 0)) return false;
    for (int k = 0; k < r->count; k++) /* then that one is named */
        if (lies_in(r->stages[k].name, r->stages[i].name) && r->stages[k].bytes > 0) return false;
    return true;
}

static void write_notes(sv_image *image, const sv_roofline *r, int y)
{
    const sv_paint paint = {NOTE_COLOUR, 1};
    char line[(WIDTH - 2 * MARGIN) / (SV_FONT_ADVANCE * TEXT) + 1];
    bool named[SV_PROFILE_STAGES] = {false};
    sv_image_text(
        image, MARGIN, y, TEXT,
        "The area of a dot grows with the time of its stage; below 0.2 % of the frame there is none.", paint);
    int used = snprintf(line, sizeof line, "Without arithmetic:");
    const int empty = used;
    for (int i = 0; i < r->count; i++) {
        const char *last = last_part(r->stages[i].name);
        double ms = 0, bytes = 0;
        if (named[i] || !moves_only(r, i)) continue;
        for (int k = i; k < r->count; k++) { /* all of the kind */
            if (strcmp(last_part(r->stages[k].name), last) != 0 || !moves_only(r, k)) continue;
            named[k] = true;
            ms += r->stages[k].ms, bytes += r->stages[k].bytes;
        }
        char entry[96], rate[32];
        rate_text(rate, sizeof rate, 1e-6 * bytes / ms, "B/s");
        const int length = snprintf(entry, sizeof entry, "%s %s %s", used > empty ? "," : "", last, rate);
        if ((size_t)(used + length) >= sizeof line) continue;
        memcpy(line + used, entry, (size_t)length + 1);
        used += length;
    }
    if (used > empty) sv_image_text(image, MARGIN, y + SV_FONT_LINE * TEXT + 4, TEXT, line, paint);
}

sv_status sv_roofline_write(sv_ctx *c, const sv_roofline *roofline, const char *path)
{
    enum { NOTES = 2 * (SV_FONT_LINE * TEXT + 4) + MARGIN };
    figure *f = calloc(1, sizeof *f);
    SV_CHECK(c, f, SV_NO_MEMORY, "no memory for a picture");
    f->of = roofline;
    f->unit = sv_ceiling_gflops(roofline->ceilings) >= 10000 ? 1000 : 1;
    add_stages(f);
    add_roofs(f);
    add_legend(f);
    sv_plot plot = sv_plot_default();
    plot.title = roofline->title;
    plot.text = TEXT;
    plot.x =
        (sv_plot_axis){.label = "FLOP per byte", .low = f->low_x, .high = f->high_x, .logarithmic = true};
    plot.y = (sv_plot_axis){.label = f->unit > 1 ? "TFLOP/s" : "GFLOP/s",
                            .low = f->low_y,
                            .high = 1.7 * sv_ceiling_gflops(roofline->ceilings) / f->unit,
                            .logarithmic = true};
    plot.lines = f->lines;
    plot.line_count = f->line_count;
    plot.legend = SV_PLOT_LOWER_RIGHT;
    sv_image image = {0};
    sv_status status = sv_image_new(c, &image, WIDTH, HEIGHT, SV_PLOT_BACKGROUND);
    if (status == SV_OK) {
        sv_plot_draw(&image, MARGIN / 2, MARGIN / 2, WIDTH - MARGIN, HEIGHT - NOTES - MARGIN, &plot);
        write_notes(&image, roofline, HEIGHT - NOTES);
        status = sv_image_write_png(c, &image, path);
    }
    sv_image_free(&image);
    free(f);
    return status;
}
