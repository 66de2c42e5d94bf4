/* SPDX-License-Identifier: Apache-2.0
 *
 * Points are gathered per pixel before anything is painted: the largest value
 * (colour) and the sum of their shares in 1/256 (opacity), which do not depend
 * on the order. Then grid, points, boxes and the explaining texts follow.
 *
 * Colours come from OKLCh, where equal steps look equal: the scale of the
 * points runs from a dim violet over blue and green to a bright yellow with
 * lightness rising evenly; classes share one lightness and differ in hue.
 */
#include "render.h"

#include "font.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COOKIE = 0x5bbe7001, BACKGROUND = 0x0c0f14, COLOURS = 256, BINS = 2048 };
static const float pi = 3.14159265f;

typedef struct view {
    sv_ctx *c;
    const sv_bev_options *o;
    sv_image image;
    float scale; /* pixels per metre */
    int text;    /* size of texts */
    uint32_t colour[COLOURS];
    float low, high; /* ends of the colour scale */
} view;

static float column_of(const view *v, float y)
{
    return (v->o->y_max - y) * v->scale;
}
static float row_of(const view *v, float x)
{
    return (v->o->x_max - x) * v->scale;
}

sv_bev_options sv_bev_options_default(void)
{
    return (sv_bev_options){.x_min = -50,
                            .y_min = -50,
                            .x_max = 50,
                            .y_max = 50,
                            .pixels_per_metre = 10,
                            .colour_by = SV_BEV_HEIGHT,
                            .point_size = 1.6f,
                            .legend = true,
                            .cookie = COOKIE};
}

uint32_t sv_class_colour(int label)
{
    /* The first ten as far apart as ten hues can be while neighbours in a class list differ most; then the
     * golden angle. */
    static const float hue[] = {52, 150, 350, 230, 95, 300, 195, 20, 125, 265};
    enum { KNOWN = sizeof hue / sizeof *hue };
    const int i = label > 0 ? label - 1 : 0;
    return sv_colour_oklch(0.80f, 0.17f, i < KNOWN ? hue[i] : fmodf(137.508f * (float)i, 360.0f));
}

uint32_t sv_scale_colour(float place)
{
    const float t = fminf(fmaxf(place, 0.0f), 1.0f);
    return sv_colour_oklch(0.40f + 0.48f * t, 0.105f + 0.03f * sinf(pi * t), 285.0f - 180.0f * t);
}

static void make_colours(view *v)
{
    for (int i = 0; i < COLOURS; i++) v->colour[i] = sv_scale_colour((float)i / (COLOURS - 1));
}

sv_box_style sv_style_of_class(int label)
{
    return (sv_box_style){.colour = sv_class_colour(label), .width = 1.7f, .fill = 0.22f};
}

sv_box_style sv_style_of_truth(void)
{
    return (sv_box_style){.colour = 0xffffff, .width = 1.2f};
}

/* ---- points
 * ------------------------------------------------------------------------------------------------- */

static bool shown(const view *v, const float *p)
{
    return p[0] >= v->o->x_min && p[0] < v->o->x_max && p[1] >= v->o->y_min && p[1] < v->o->y_max;
}

/* The values that leave 2 % of the points below and above: by counting, so that the order does not matter. */
static void choose_range(view *v, const sv_points *points, int value)
{
    v->low = v->o->colour_min;
    v->high = v->o->colour_max;
    if (v->low != v->high || points->count == 0) return;
    float least = INFINITY, most = -INFINITY;
    int count = 0;
    for (int i = 0; i < points->count; i++) {
        const float *p = points->data + (size_t)i * (size_t)points->columns;
        if (!shown(v, p)) continue;
        least = fminf(least, p[value]);
        most = fmaxf(most, p[value]);
        count++;
    }
    if (count == 0 || !(most > least)) return;
    int bins[BINS] = {0};
    const double width = ((double)most - (double)least) / BINS;
    for (int i = 0; i < points->count; i++) {
        const float *p = points->data + (size_t)i * (size_t)points->columns;
        if (!shown(v, p)) continue;
        const int bin = (int)(((double)p[value] - (double)least) / width);
        bins[bin < BINS ? bin : BINS - 1]++;
    }
    int below = 0, low = 0, above = 0, high = BINS - 1;
    for (; low < BINS - 1 && below + bins[low] <= count / 50; low++) below += bins[low];
    for (; high > low && above + bins[high] <= count / 50; high--) above += bins[high];
    v->low = (float)(least + low * width);
    v->high = (float)(least + (high + 1) * width);
}

static sv_status draw_points(view *v, const sv_points *points)
{
    const int value = v->o->colour_by == SV_BEV_HEIGHT ? 2 : 3, width = v->image.width,
              height = v->image.height;
    SV_CHECK(v->c, points->columns > value, SV_BAD_INPUT,
             "points of %d columns cannot be coloured by column %d", points->columns, value);
    choose_range(v, points, value);
    const size_t pixels = (size_t)width * (size_t)height;
    uint32_t *share = calloc(pixels, sizeof *share);
    float *top = malloc(pixels * sizeof *top);
    if (!share || !top) {
        free(share);
        free(top);
        return SV_FAIL(v->c, SV_NO_MEMORY, "no memory for a picture of %d x %d pixels", width, height);
    }
    const float radius = v->o->point_size / 2;
    const int reach = (int)ceilf(radius + 0.5f);
    for (int i = 0; i < points->count; i++) {
        const float *p = points->data + (size_t)i * (size_t)points->columns;
        if (!shown(v, p)) continue;
        const float cx = column_of(v, p[1]), cy = row_of(v, p[0]);
        for (int y = (int)cy - reach; y <= (int)cy + reach; y++)
            for (int x = (int)cx - reach; x <= (int)cx + reach; x++) {
                if (x < 0 || y < 0 || x >= width || y >= height) continue;
                const float ex = (float)x + 0.5f - cx, ey = (float)y + 0.5f - cy;
                const float part = radius + 0.5f - sqrtf(ex * ex + ey * ey);
                if (part <= 0.0f) continue;
                const size_t at = (size_t)y * (size_t)width + (size_t)x;
                if (share[at] == 0 || p[value] > top[at]) top[at] = p[value];
                share[at] += (uint32_t)(256 * fminf(part, 1.0f)) + 1;
            }
    }
    const float unit = v->high > v->low ? (COLOURS - 1) / (v->high - v->low) : 0.0f;
    for (size_t at = 0; at < pixels; at++) {
        if (share[at] == 0) continue;
        const float place = fminf(fmaxf((top[at] - v->low) * unit, 0.0f), (float)(COLOURS - 1));
        const float alpha =
            1.0f - expf(-(float)share[at] / 256 * 1.2f); /* several thin shares add up to a full pixel */
        sv_image_blend(&v->image, (int)(at % (size_t)width), (int)(at / (size_t)width),
                       (sv_paint){v->colour[(int)place], alpha});
    }
    free(share);
    free(top);
    return SV_OK;
}

/* ---- grid
 * --------------------------------------------------------------------------------------------------- */

/* The step of 1, 2, 5, 10, ... metres that is at least 'pixels' wide. */
static float grid_step(const view *v, float pixels)
{
    static const float steps[] = {0.1f, 0.2f, 0.5f, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i] * v->scale >= pixels) return steps[i];
    return 1000;
}

static void draw_grid(view *v)
{
    const sv_paint line = {0x8fa3bf, 0.13f}, axis = {0x8fa3bf, 0.34f};
    const float step = grid_step(v, 60), width = (float)v->image.width, height = (float)v->image.height;
    for (float i = ceilf(v->o->y_min / step); i * step <= v->o->y_max; i++) {
        const float x = column_of(v, i * step);
        sv_image_line(&v->image, x, -2, x, height + 2, 1, i == 0 ? axis : line);
    }
    for (float i = ceilf(v->o->x_min / step); i * step <= v->o->x_max; i++) {
        const float y = row_of(v, i * step);
        sv_image_line(&v->image, -2, y, width + 2, y, 1, i == 0 ? axis : line);
    }
}

static void number(char *text, size_t room, float metres, float step)
{
    snprintf(text, room, step < 1 ? "%.1f" : "%.0f", (double)metres);
}

/* Distances along the left and lower edge. */
static void draw_grid_numbers(view *v)
{
    const sv_paint paint = {0x9fb0c8, 0.75f};
    const float step = grid_step(v, 60);
    const int line = SV_FONT_LINE * v->text;
    char text[24];
    for (float i = ceilf(v->o->x_min / step); i * step <= v->o->x_max; i++) {
        const int y = (int)row_of(v, i * step) - (SV_FONT_CAPITAL + 2) * v->text;
        number(text, sizeof text, i * step, step);
        if (y > 4 * line && y < v->image.height - 5 * line)
            sv_image_text(&v->image, 4 * v->text, y, v->text, text, paint);
    }
    for (float i = ceilf(v->o->y_min / step); i * step <= v->o->y_max; i++) {
        number(text, sizeof text, i * step, step);
        const int x = (int)column_of(v, i * step) + 3 * v->text;
        const bool sensor =
            i == 0 && row_of(v, 0) > (float)(v->image.height - 2 * line); /* would be drawn over */
        if (!sensor && x > 4 * line && x + sv_image_text_width(text, v->text) < v->image.width - 2)
            sv_image_text(&v->image, x, v->image.height - (SV_FONT_CAPITAL + 3) * v->text, v->text, text,
                          paint);
    }
}

/* The sensor: a small arrow head that points forward. */
static void draw_sensor(view *v)
{
    const float x = column_of(v, 0), y = row_of(v, 0), s = 5.0f * (float)v->text;
    const float corners[3][2] = {{x, y - 1.5f * s}, {x + s, y + s}, {x - s, y + s}};
    sv_image_polygon(&v->image, corners, 3, (sv_paint){0xffffff, 0.9f});
}

/* ---- boxes
 * -------------------------------------------------------------------------------------------------- */

static bool finite_box(const sv_box *b)
{
    return isfinite(b->x) && isfinite(b->y) && isfinite(b->dx) && isfinite(b->dy) && isfinite(b->heading);
}

/* Front left, front right, rear right, rear left, in pixels. */
static void corners_of(const view *v, const sv_box *b, float out[4][2])
{
    static const float along[4] = {0.5f, 0.5f, -0.5f, -0.5f}, across[4] = {0.5f, -0.5f, -0.5f, 0.5f};
    const float cosine = cosf(b->heading), sine = sinf(b->heading);
    for (int k = 0; k < 4; k++) {
        const float u = along[k] * b->dx, w = across[k] * b->dy;
        out[k][0] = column_of(v, b->y + u * sine + w * cosine);
        out[k][1] = row_of(v, b->x + u * cosine - w * sine);
    }
}

static void stroke(view *v, float x0, float y0, float x1, float y1, float width, bool dashed, sv_paint paint)
{
    if (dashed)
        sv_image_dashes(&v->image, x0, y0, x1, y1, width, 5, 4, paint);
    else
        sv_image_line(&v->image, x0, y0, x1, y1, width, paint);
}

static void draw_outline(view *v, const sv_box *b, float width, bool dashed, sv_paint paint)
{
    float p[4][2];
    corners_of(v, b, p);
    for (int k = 0; k < 4; k++)
        stroke(v, p[k][0], p[k][1], p[(k + 1) % 4][0], p[(k + 1) % 4][1], width, dashed, paint);
    /* heading: from the centre through the front, a little further */
    const float reach = b->dx / 2 + 8.0f / v->scale,
                front[2] = {(p[0][0] + p[1][0]) / 2, (p[0][1] + p[1][1]) / 2};
    stroke(v, front[0], front[1], column_of(v, b->y + reach * sinf(b->heading)),
           row_of(v, b->x + reach * cosf(b->heading)), width, dashed, paint);
}

/* To the upper right of the box. */
static void draw_text_beside(view *v, const sv_box *b, const char *text, uint32_t colour)
{
    float p[4][2];
    corners_of(v, b, p);
    float right = p[0][0], top = p[0][1];
    for (int k = 1; k < 4; k++) {
        right = fmaxf(right, p[k][0]);
        top = fminf(top, p[k][1]);
    }
    if (fabsf(right) < 1e6f && fabsf(top) < 1e6f)
        sv_image_text(&v->image, (int)right + 3, (int)top - 3, 1, text, (sv_paint){colour, 0.95f});
}

static void draw_box(view *v, const sv_box *b, const sv_box_style *style)
{
    float p[4][2];
    corners_of(v, b, p);
    sv_image_polygon(&v->image, (const float(*)[2])p, 4, (sv_paint){style->colour, style->fill});
    /* a dark rim keeps it apart from the points */
    draw_outline(v, b, 2 * style->width, style->dashed, (sv_paint){BACKGROUND, 0.55f});
    draw_outline(v, b, style->width, style->dashed, (sv_paint){style->colour, 1.0f});
    if (style->text) {
        draw_text_beside(v, b, style->text, style->colour);
    } else if (v->o->scores) {
        char text[16];
        snprintf(text, sizeof text, "%.2f", (double)b->score);
        draw_text_beside(v, b, text, style->colour);
    }
}

/* ---- legend
 * ------------------------------------------------------------------------------------------------- */

static void panel(view *v, int x, int y, int width, int height)
{
    sv_image_rectangle(&v->image, (float)x, (float)y, (float)width, (float)height,
                       (sv_paint){BACKGROUND, 0.78f});
}

static void draw_title(view *v, const sv_points *points, int boxes)
{
    const int s = v->text, pad = 6 * s, big = s + 1;
    char line[96];
    snprintf(line, sizeof line, "%d points, %d %s", points ? points->count : 0, boxes,
             boxes == 1 ? "box" : "boxes");
    const int title = v->o->title ? sv_image_text_width(v->o->title, big) : 0,
              below = sv_image_text_width(line, s);
    const int rise = v->o->title ? (SV_FONT_LINE + 1) * big : 0;
    panel(v, 0, 0, (title > below ? title : below) + 2 * pad, rise + SV_FONT_ROWS * s + 2 * pad);
    if (v->o->title) sv_image_text(&v->image, pad, pad, big, v->o->title, (sv_paint){0xf2f5fa, 1});
    sv_image_text(&v->image, pad, pad + rise, s, line, (sv_paint){0x9fb0c8, 1});
}

/* The sample of a style: a filled square, its outline for what is not filled, dashed or not. */
static void draw_swatch(view *v, int x, int y, const sv_box_style *style, float light)
{
    const float s = (float)(7 * v->text), left = (float)x, top = (float)y;
    const sv_paint paint = {style->colour, light};
    if (style->fill > 0 && !style->dashed) {
        sv_image_rectangle(&v->image, left, top, s, s, paint);
        return;
    }
    const float low = 0.75f, far = s - 0.75f;
    const float corners[4][2] = {{low, low}, {far, low}, {far, far}, {low, far}};
    for (int k = 0; k < 4; k++) {
        const float *a = corners[k], *b = corners[(k + 1) % 4];
        if (style->dashed)
            sv_image_dashes(&v->image, left + a[0], top + a[1], left + b[0], top + b[1], 1.5f, 2, 2.5f,
                            paint);
        else
            sv_image_line(&v->image, left + a[0], top + a[1], left + b[0], top + b[1], 1.5f, paint);
    }
}

static void draw_lines(view *v, const sv_legend_line *lines, int count)
{
    const int s = v->text, pad = 6 * s, line = (SV_FONT_LINE + 3) * s;
    int widest = 0;
    char text[96];
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1)
            panel(v, v->image.width - widest - 4 * pad, 0, widest + 4 * pad, count * line + 2 * pad - 3 * s);
        for (int k = 0; k < count; k++) {
            snprintf(text, sizeof text, "%.60s %d", lines[k].text, lines[k].count);
            const int width = sv_image_text_width(text, s);
            if (pass == 0) {
                widest = width > widest ? width : widest;
                continue;
            }
            const int x = v->image.width - widest - 3 * pad, y = pad + k * line;
            const float light = lines[k].count ? 1.0f : 0.4f;
            draw_swatch(v, x, y, &lines[k].style, light);
            sv_image_text(&v->image, x + 12 * s, y, s, text, (sv_paint){0xf2f5fa, 0.35f + 0.6f * light});
        }
    }
}

static void draw_classes(view *v, const sv_box *boxes, int count, const char *const *classes, int class_count)
{
    enum { MOST = 256 };
    const int line = (SV_FONT_LINE + 3) * v->text, room = (v->image.height / 2 - 12 * v->text) / line;
    int lines = 0, found[MOST] = {0};
    sv_legend_line legend[MOST];
    for (int i = 0; i < count; i++)
        if (boxes[i].label >= 1 && boxes[i].label <= class_count && boxes[i].label <= MOST)
            found[boxes[i].label - 1]++;
    /* all classes when they are few, otherwise those that were found */
    const bool all = class_count <= 10 && class_count <= room;
    for (int k = 0; k < class_count && k < MOST && lines < room; k++)
        if (all || found[k] > 0)
            legend[lines++] = (sv_legend_line){sv_style_of_class(k + 1), classes[k], found[k]};
    if (v->o->truth_count > 0 && lines < room && lines < MOST)
        legend[lines++] = (sv_legend_line){sv_style_of_truth(), "labelled", v->o->truth_count};
    if (lines > 0) draw_lines(v, legend, lines);
}

static void draw_scale(view *v)
{
    const int s = v->text, pad = 6 * s, rise = 2 * SV_FONT_LINE * s + pad;
    const float metres = grid_step(v, 60), length = metres * v->scale;
    const float x = (float)(4 * pad), y = (float)(v->image.height - rise);
    const sv_paint paint = {0xf2f5fa, 0.9f};
    char text[32];
    number(text, sizeof text, metres, metres);
    strcat(text, " m");
    const int label = sv_image_text_width(text, s);
    panel(v, (int)x - pad, v->image.height - rise - SV_FONT_LINE * s - pad / 2, (int)length + 2 * pad,
          SV_FONT_LINE * s + pad + 5 * s);
    sv_image_line(&v->image, x, y, x + length, y, 1.6f, paint);
    sv_image_line(&v->image, x, y - 4 * (float)s, x, y + 4 * (float)s, 1.6f, paint);
    sv_image_line(&v->image, x + length, y - 4 * (float)s, x + length, y + 4 * (float)s, 1.6f, paint);
    sv_image_text(&v->image, (int)(x + length / 2) - label / 2, (int)y - (SV_FONT_LINE - 1) * s, s, text,
                  paint);
}

static void draw_colour_scale(view *v)
{
    const int s = v->text, pad = 6 * s, thick = 6 * s;
    const bool height = v->o->colour_by == SV_BEV_HEIGHT;
    const char *name = height ? "height" : "intensity";
    char low[32], high[32];
    snprintf(low, sizeof low, height ? "%.1f m" : "%.2f", (double)v->low);
    snprintf(high, sizeof high, height ? "%.1f m" : "%.2f", (double)v->high);
    const int low_width = sv_image_text_width(low, s), high_width = sv_image_text_width(high, s),
              name_width = sv_image_text_width(name, s);
    const int length = low_width + name_width + high_width + 4 * pad;
    const int x = v->image.width - length - 3 * pad, y = v->image.height - 2 * SV_FONT_LINE * s - pad;
    panel(v, x - pad, y - SV_FONT_LINE * s - pad / 2, length + 2 * pad, SV_FONT_LINE * s + thick + pad);
    for (int i = 0; i < length; i++)
        sv_image_rectangle(&v->image, (float)(x + i), (float)y, 1, (float)thick,
                           (sv_paint){v->colour[i * (COLOURS - 1) / (length - 1)], 1});
    const sv_paint paint = {0xf2f5fa, 0.9f}, dim = {0x9fb0c8, 1};
    const int text = y - (SV_FONT_LINE - 1) * s;
    sv_image_text(&v->image, x, text, s, low, paint);
    sv_image_text(&v->image, x + low_width + 2 * pad, text, s, name, dim);
    sv_image_text(&v->image, x + length - high_width, text, s, high, paint);
}

/* ---- the picture
 * -------------------------------------------------------------------------------------------- */

static sv_status draw(view *v, const sv_points *points, const sv_box *boxes, int count,
                      const char *const *classes, int class_count)
{
    make_colours(v);
    draw_grid(v);
    if (points) SV_TRY(draw_points(v, points));
    draw_sensor(v);
    const sv_box_style truth = sv_style_of_truth();
    for (int i = 0; i < v->o->truth_count; i++)
        if (finite_box(&v->o->truth[i]))
            draw_outline(v, &v->o->truth[i], truth.width, truth.dashed, (sv_paint){truth.colour, 0.75f});
    /* detectors list the best first: the best on top */
    for (int i = count - 1; i >= 0; i--) {
        const sv_box_style style = v->o->styles ? v->o->styles[i] : sv_style_of_class(boxes[i].label);
        if (finite_box(&boxes[i])) draw_box(v, &boxes[i], &style);
    }
    if (v->o->legend) {
        draw_grid_numbers(v);
        draw_scale(v);
        if (v->high > v->low) draw_colour_scale(v);
        if (v->o->lines)
            draw_lines(v, v->o->lines, v->o->line_count);
        else
            draw_classes(v, boxes, count, classes, class_count);
    }
    if (v->o->legend || v->o->title) draw_title(v, points, count);
    return SV_OK;
}

sv_status sv_render_bev(sv_ctx *c, sv_image *out, const sv_points *points, const sv_box *boxes, int count,
                        const char *const *classes, int class_count, const sv_bev_options *options)
{
    *out = (sv_image){0};
    SV_CHECK(c, options->cookie == COOKIE, SV_INTERNAL, "options must come from sv_bev_options_default()");
    const sv_bev_options *o = options;
    const bool sane = o->x_max > o->x_min && o->y_max > o->y_min && o->pixels_per_metre > 0 &&
                      o->point_size > 0 && o->point_size <= 64 && isfinite(o->colour_min) &&
                      isfinite(o->colour_max) && fabsf(o->x_min) < 1e5f && fabsf(o->x_max) < 1e5f &&
                      fabsf(o->y_min) < 1e5f && fabsf(o->y_max) < 1e5f;
    SV_CHECK(c, sane, SV_BAD_INPUT,
             "a picture of x %g..%g, y %g..%g at %g pixels per metre and points of %g pixels cannot be drawn",
             (double)o->x_min, (double)o->x_max, (double)o->y_min, (double)o->y_max,
             (double)o->pixels_per_metre, (double)o->point_size);
    const float width = (o->y_max - o->y_min) * o->pixels_per_metre,
                height = (o->x_max - o->x_min) * o->pixels_per_metre;
    SV_CHECK(c, width < SV_IMAGE_SIDE && height < SV_IMAGE_SIDE, SV_BAD_INPUT,
             "a picture of %.0f x %.0f pixels is larger than %d a side: fewer pixels per metre",
             (double)width, (double)height, SV_IMAGE_SIDE);
    view v = {.c = c, .o = options, .scale = o->pixels_per_metre};
    SV_TRY(
        sv_image_new(c, &v.image, (int)fmaxf(roundf(width), 1), (int)fmaxf(roundf(height), 1), BACKGROUND));
    const int side = v.image.width < v.image.height ? v.image.width : v.image.height;
    v.text = side < 1100 ? 1 : side < 2200 ? 2 : 3;
    const sv_status status = draw(&v, points, boxes, count, classes, class_count);
    if (status == SV_OK)
        *out = v.image;
    else
        sv_image_free(&v.image);
    return status;
}
