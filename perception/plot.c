/* SPDX-License-Identifier: Apache-2.0 */
#include "plot.h"

#include "font.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { COOKIE = 0x5b107001, LEAST_WIDTH = 120, LEAST_HEIGHT = 90 };
enum { FEW_POWERS = 3, FINE_POWERS = 8 }; /* of ten on an axis: 2 and 5 are named, too; all have a line */
enum { INK = 0x20242c, PALE = 0x5a6270, GRID = 0xd8dce3, FINE_GRID = 0xf0f2f5 };

sv_plot sv_plot_default(void)
{
    return (sv_plot){.text = 1, .cookie = COOKIE};
}

/* Hues of Okabe and Ito's palette (2008), dark enough for white paper. */
uint32_t sv_plot_colour(int line)
{
    static const uint32_t colours[] = {0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x000000};
    enum { COLOURS = sizeof colours / sizeof *colours };
    return colours[line >= 0 ? line % COLOURS : 0];
}

/* ---- axes --------------------------------------------------------------------------------------------- */

/* An axis at work: pixel = at + (value - low) * unit, of logarithms where it is logarithmic. */
typedef struct scale {
    double low, high, step;
    bool logarithmic;
    double at, unit;
} scale;

static double shown(const scale *s, double value)
{
    return s->logarithmic ? log10(value) : value;
}
static float pixel(const scale *s, double value)
{
    return (float)(s->at + (shown(s, value) - s->low) * s->unit);
}
static bool drawable(const scale *s, double value)
{
    return isfinite(value) && (!s->logarithmic || value > 0);
}

/* 1, 2 or 5 times a power of ten, at least 'least'. */
static double round_step(double least)
{
    const double power = pow(10, floor(log10(least)));
    for (int k = 0; k < 3; k++) {
        const double step = (const double[]){1, 2, 5}[k] * power;
        if (step >= least * (1 - 1e-9)) return step;
    }
    return 10 * power;
}

/* Ends of the axis, and steps of which at most 'most' fit. */
static scale make_scale(const sv_plot *plot, const sv_plot_axis *axis, bool is_x, int most)
{
    scale s = {.low = axis->low, .high = axis->high, .logarithmic = axis->logarithmic};
    const bool given = axis->high > axis->low && (!axis->logarithmic || axis->low > 0);
    if (!given) {
        s.low = INFINITY, s.high = -INFINITY;
        for (int i = 0; i < plot->line_count; i++)
            for (int k = 0; k < plot->lines[i].count; k++) {
                const double value = is_x ? plot->lines[i].x[k] : plot->lines[i].y[k];
                if (!drawable(&s, value)) continue;
                s.low = fmin(s.low, value);
                s.high = fmax(s.high, value);
            }
        if (!(s.high >= s.low)) s.low = 1, s.high = 10;
    }
    if (s.logarithmic) {
        s.low = given ? log10(s.low) : floor(log10(s.low));
        s.high = given ? log10(s.high) : ceil(log10(s.high));
        if (!(s.high > s.low)) s.high = s.low + 1;
        s.step = fmax(1, ceil((s.high - s.low) / most));
        return s;
    }
    if (!(s.high > s.low)) {
        const double room = s.high != 0 ? fabs(s.high) / 2 : 1;
        s.low -= room, s.high += room;
    }
    s.step = round_step((s.high - s.low) / (most > 1 ? most : 1));
    if (!given) {
        s.low = floor(s.low / s.step + 1e-9) * s.step;
        s.high = ceil(s.high / s.step - 1e-9) * s.step;
    }
    return s;
}

static void tick_text(const scale *s, double value, char *out, size_t room)
{
    if (s->logarithmic) {
        snprintf(out, room, value > 2.5 && value < 6.5 ? "%.0f" : "%.3g", pow(10, value));
        return;
    }
    int decimals = 0;
    for (double step = s->step; decimals < 6 && fabs(step - nearbyint(step)) > 1e-6 * s->step; step *= 10)
        decimals++;
    if (fabs(value) < 1e-9 * s->step) value = 0;
    if (fabs(s->high) >= 1e6 || fabs(s->low) >= 1e6)
        snprintf(out, room, "%.4g", value);
    else
        snprintf(out, room, "%.*f", decimals, value);
}

enum { MOST_TICKS = 64 };
static int ticks_of(const scale *s, double out[MOST_TICKS])
{
    int count = 0;
    if (s->logarithmic && s->high - s->low < FEW_POWERS) {
        for (double power = floor(s->low); power <= s->high; power++)
            for (int k = 0; k < 3; k++) {
                const double at = power + log10((const double[]){1, 2, 5}[k]);
                if (at >= s->low - 1e-9 && at <= s->high + 1e-9 && count < MOST_TICKS) out[count++] = at;
            }
        return count;
    }
    const double first = ceil(s->low / s->step - 1e-9);
    for (double k = first; count < MOST_TICKS && k * s->step <= s->high + 1e-9 * s->step; k++)
        out[count++] = k * s->step;
    return count;
}

/* ---- parts -------------------------------------------------------------------------------------------- */

/* Where the lines are. */
typedef struct field {
    float left, top, right, bottom;
} field;

/* 2 to 9 times every power of ten. */
static void draw_fine_grid(sv_image *image, const field *f, const scale *s, bool is_x)
{
    if (!s->logarithmic || s->high - s->low > FINE_POWERS) return;
    for (double power = floor(s->low); power <= s->high; power++)
        for (int k = 2; k < 10; k++) {
            const double value = power + log10(k);
            const float at = (float)(s->at + (value - s->low) * s->unit);
            if (value < s->low || value > s->high) continue;
            if (is_x)
                sv_image_line(image, at, f->top, at, f->bottom, 1, (sv_paint){FINE_GRID, 1});
            else
                sv_image_line(image, f->left, at, f->right, at, 1, (sv_paint){FINE_GRID, 1});
        }
}

static void draw_axes(sv_image *image, const field *f, const scale *x, const scale *y, int text)
{
    const sv_paint grid = {GRID, 1}, ink = {PALE, 1};
    double ticks[MOST_TICKS];
    char name[32];
    draw_fine_grid(image, f, x, true);
    draw_fine_grid(image, f, y, false);
    int count = ticks_of(x, ticks);
    for (int i = 0; i < count; i++) {
        const float at = (float)(x->at + (ticks[i] - x->low) * x->unit);
        sv_image_line(image, at, f->top, at, f->bottom, 1, grid);
        tick_text(x, ticks[i], name, sizeof name);
        sv_image_text(image, (int)at - sv_image_text_width(name, text) / 2, (int)f->bottom + 4 * text, text,
                      name, ink);
    }
    count = ticks_of(y, ticks);
    for (int i = 0; i < count; i++) {
        const float at = (float)(y->at + (ticks[i] - y->low) * y->unit);
        sv_image_line(image, f->left, at, f->right, at, 1, grid);
        tick_text(y, ticks[i], name, sizeof name);
        sv_image_text(image, (int)f->left - sv_image_text_width(name, text) - 4 * text,
                      (int)at - SV_FONT_CAPITAL * text / 2, text, name, ink);
    }
    sv_image_line(image, f->left, f->bottom, f->right, f->bottom, 1.2f, ink);
    sv_image_line(image, f->left, f->top, f->left, f->bottom, 1.2f, ink);
}

/* The part of a stretch that lies inside the field; false when none does. */
static bool cut(const field *f, float p[2], float q[2])
{
    const float low[2] = {f->left, f->top}, high[2] = {f->right, f->bottom};
    float from = 0, to = 1;
    for (int k = 0; k < 2; k++) {
        const float d = q[k] - p[k];
        if (d == 0) {
            if (p[k] < low[k] || p[k] > high[k]) return false;
            continue;
        }
        const float a = (low[k] - p[k]) / d, b = (high[k] - p[k]) / d;
        from = fmaxf(from, fminf(a, b));
        to = fminf(to, fmaxf(a, b));
    }
    if (!(from <= to)) return false;
    const float x = p[0], y = p[1], dx = q[0] - x, dy = q[1] - y;
    p[0] = x + from * dx, p[1] = y + from * dy;
    q[0] = x + to * dx, q[1] = y + to * dy;
    return true;
}

static void draw_line(sv_image *image, const field *f, const scale *x, const scale *y,
                      const sv_plot_line *line, int text)
{
    const sv_paint paint = {line->colour, 1};
    const float width = 1.2f + 0.6f * (float)text;
    for (int i = 0; i < line->count; i++) {
        if (!drawable(x, line->x[i]) || !drawable(y, line->y[i])) continue;
        float here[2] = {pixel(x, line->x[i]), pixel(y, line->y[i])};
        if (line->points && here[0] >= f->left && here[0] <= f->right && here[1] >= f->top &&
            here[1] <= f->bottom) {
            if (line->dot > 0) /* a rim, so that dots that cover each other can be told apart */
                sv_image_line(image, here[0], here[1], here[0], here[1], line->dot + 3,
                              (sv_paint){SV_PLOT_BACKGROUND, 1});
            sv_image_line(image, here[0], here[1], here[0], here[1], line->dot > 0 ? line->dot : 2.6f * width,
                          paint);
        }
        if (i + 1 >= line->count || !drawable(x, line->x[i + 1]) || !drawable(y, line->y[i + 1])) continue;
        float there[2] = {pixel(x, line->x[i + 1]), pixel(y, line->y[i + 1])};
        if (cut(f, here, there)) sv_image_line(image, here[0], here[1], there[0], there[1], width, paint);
    }
}

/* ---- labels ------------------------------------------------------------------------------------------- */

enum { MOST_BOXES = 512 };

/* What labels keep clear of. */
typedef struct boxes {
    field box[MOST_BOXES];
    int count;
} boxes;

static float shared(float a0, float a1, float b0, float b1)
{
    return fmaxf(0, fminf(a1, b1) - fmaxf(a0, b0));
}
/* Area of 'f' that is taken, and what of it lies outside the field. */
static float taken(const boxes *b, const field *f, const field *inside)
{
    const float area = (f->right - f->left) * (f->bottom - f->top);
    float sum = area - shared(f->left, f->right, inside->left, inside->right) *
                           shared(f->top, f->bottom, inside->top, inside->bottom);
    for (int i = 0; i < b->count; i++)
        sum += shared(f->left, f->right, b->box[i].left, b->box[i].right) *
               shared(f->top, f->bottom, b->box[i].top, b->box[i].bottom);
    return sum;
}
static void take(boxes *b, field f)
{
    if (b->count < MOST_BOXES) b->box[b->count++] = f;
}

/* Where the line ends; false where nothing of it is in the field. */
static bool last_place(const field *f, const scale *x, const scale *y, const sv_plot_line *line, float at[2])
{
    const int i = line->count - 1;
    if (i < 0 || !drawable(x, line->x[i]) || !drawable(y, line->y[i])) return false;
    at[0] = pixel(x, line->x[i]), at[1] = pixel(y, line->y[i]);
    return at[0] >= f->left && at[0] <= f->right && at[1] >= f->top && at[1] <= f->bottom;
}

/* The nearest place that is free, looked for in rings; from right over below and above to left. */
static field place_label(const boxes *b, const field *inside, const float at[2], float radius, float width,
                         float height)
{
    enum { RINGS = 40, TURNS = 24 };
    field best = {0};
    float least = INFINITY;
    for (int ring = 0; ring < RINGS; ring++)
        for (int turn = 0; turn < TURNS; turn++) {
            const float angle = (float)((turn + 1) / 2 * (turn % 2 ? 1 : -1)) * 6.2831853f / TURNS,
                        reach = radius + 3 + 7 * (float)ring, dx = cosf(angle), dy = sinf(angle);
            const float mx = at[0] + dx * (reach + width / 2), my = at[1] + dy * (reach + height / 2);
            const field f = {mx - width / 2, my - height / 2, mx + width / 2, my + height / 2};
            const float bad = taken(b, &f, inside);
            if (bad >= least) continue;
            least = bad;
            best = f;
            if (bad == 0) return best;
        }
    return best;
}

/* A line in pieces that a label hardly hides. */
static void take_line(boxes *b, const field *f, const scale *x, const scale *y, const sv_plot_line *line)
{
    enum { STEP = 12 };
    for (int i = 0; i + 1 < line->count; i++) {
        if (!drawable(x, line->x[i]) || !drawable(y, line->y[i]) || !drawable(x, line->x[i + 1]) ||
            !drawable(y, line->y[i + 1]))
            continue;
        float p[2] = {pixel(x, line->x[i]), pixel(y, line->y[i])},
              q[2] = {pixel(x, line->x[i + 1]), pixel(y, line->y[i + 1])};
        if (!cut(f, p, q)) continue;
        const int steps = 1 + (int)(hypotf(q[0] - p[0], q[1] - p[1]) / STEP);
        for (int k = 0; k <= steps; k++) {
            const float at = (float)k / (float)steps, px = p[0] + at * (q[0] - p[0]),
                        py = p[1] + at * (q[1] - p[1]);
            take(b, (field){px - 2, py - 2, px + 2, py + 2});
        }
    }
}

static void draw_labels(sv_image *image, const field *f, const scale *x, const scale *y, const sv_plot *plot,
                        const field *legend)
{
    const int s = plot->text;
    const float height = (float)((SV_FONT_CAPITAL + 4) * s);
    boxes b = {.count = 0};
    float at[2];
    take(&b, *legend);
    for (int i = 0; i < plot->line_count; i++) {
        const float r = plot->lines[i].dot / 2;
        take_line(&b, f, x, y, &plot->lines[i]);
        if (last_place(f, x, y, &plot->lines[i], at) && plot->lines[i].points)
            take(&b, (field){at[0] - r, at[1] - r, at[0] + r, at[1] + r});
    }
    for (int i = 0; i < plot->line_count; i++) {
        const sv_plot_line *line = &plot->lines[i];
        if (!line->label || !last_place(f, x, y, line, at)) continue;
        const float width = (float)(sv_image_text_width(line->label, s) + 4 * s), radius = line->dot / 2;
        const field place = place_label(&b, f, at, radius, width, height);
        const float px = fmaxf(place.left, fminf(at[0], place.right)),
                    py = fmaxf(place.top, fminf(at[1], place.bottom)), far = hypotf(px - at[0], py - at[1]);
        if (far > radius + 5) { /* a thread to its dot */
            const float k = radius / far;
            sv_image_line(image, at[0] + k * (px - at[0]), at[1] + k * (py - at[1]), px, py, 1.2f,
                          (sv_paint){line->colour, 0.7f});
        }
        sv_image_text(image, (int)place.left + 2 * s, (int)place.top + 2 * s, s, line->label,
                      (sv_paint){line->colour, 1});
        take(&b, place);
    }
}

static field draw_legend(sv_image *image, const field *f, const sv_plot *plot)
{
    const int s = plot->text, pad = 5 * s, rise = (SV_FONT_LINE + 1) * s, stroke = 16 * s;
    int lines = 0, widest = 0;
    for (int i = 0; i < plot->line_count; i++) {
        if (!plot->lines[i].name) continue;
        const int width = sv_image_text_width(plot->lines[i].name, s);
        widest = width > widest ? width : widest;
        lines++;
    }
    if (lines == 0) return (field){0};
    const int width = widest + stroke + 3 * pad, height = lines * rise + pad;
    const bool right = plot->legend == SV_PLOT_UPPER_RIGHT || plot->legend == SV_PLOT_LOWER_RIGHT;
    const bool upper = plot->legend == SV_PLOT_UPPER_RIGHT || plot->legend == SV_PLOT_UPPER_LEFT;
    const int left = right ? (int)f->right - width - pad : (int)f->left + pad;
    const int top = upper ? (int)f->top + pad : (int)f->bottom - height - pad;
    sv_image_rectangle(image, (float)left, (float)top, (float)width, (float)height,
                       (sv_paint){SV_PLOT_BACKGROUND, 0.85f});
    int y = top + pad;
    for (int i = 0; i < plot->line_count; i++) {
        const sv_plot_line *line = &plot->lines[i];
        if (!line->name) continue;
        const float middle = (float)(y + SV_FONT_CAPITAL * s / 2);
        sv_image_line(image, (float)(left + pad), middle, (float)(left + pad + stroke), middle,
                      1.2f + 0.6f * (float)s, (sv_paint){line->colour, 1});
        sv_image_text(image, left + 2 * pad + stroke, y, s, line->name, (sv_paint){INK, 1});
        y += rise;
    }
    return (field){(float)left, (float)top, (float)(left + width), (float)(top + height)};
}

void sv_plot_draw(sv_image *image, int x, int y, int width, int height, const sv_plot *plot)
{
    if (plot->cookie != COOKIE || width < LEAST_WIDTH || height < LEAST_HEIGHT) return;
    const int s = plot->text > 0 ? plot->text : 1, line = SV_FONT_LINE * s, pad = 6 * s;
    sv_image_rectangle(image, (float)x, (float)y, (float)width, (float)height,
                       (sv_paint){SV_PLOT_BACKGROUND, 1});
    field f = {.top = (float)(y + pad + (plot->title ? line + 3 * s : 0) + (plot->y.label ? line : 0)),
               .right = (float)(x + width - 3 * pad),
               .bottom = (float)(y + height - pad - line - (plot->x.label ? line + 2 * s : 0))};
    scale down = make_scale(plot, &plot->y, false, (int)(f.bottom - f.top) / (3 * line) + 1);
    double ticks[MOST_TICKS];
    char name[32];
    int widest = 0;
    const int count = ticks_of(&down, ticks);
    for (int i = 0; i < count; i++) {
        tick_text(&down, ticks[i], name, sizeof name);
        const int wide = sv_image_text_width(name, s);
        widest = wide > widest ? wide : widest;
    }
    f.left = (float)(x + pad + widest + 5 * s);
    scale across = make_scale(plot, &plot->x, true, (int)(f.right - f.left) / (8 * SV_FONT_ADVANCE * s) + 1);
    across.at = (double)f.left;
    across.unit = (double)(f.right - f.left) / (across.high - across.low);
    down.at = (double)f.bottom;
    down.unit = -(double)(f.bottom - f.top) / (down.high - down.low);

    draw_axes(image, &f, &across, &down, s);
    for (int i = 0; i < plot->line_count; i++) draw_line(image, &f, &across, &down, &plot->lines[i], s);
    const field legend = draw_legend(image, &f, plot);
    draw_labels(image, &f, &across, &down, plot, &legend);
    const sv_paint ink = {INK, 1}, pale = {PALE, 1};
    if (plot->title) sv_image_text(image, (int)f.left, y + pad, s, plot->title, ink);
    if (plot->y.label) sv_image_text(image, x + pad, (int)f.top - line - 2 * s, s, plot->y.label, pale);
    if (plot->x.label)
        sv_image_text(image, (int)f.right - sv_image_text_width(plot->x.label, s),
                      (int)f.bottom + line + 6 * s, s, plot->x.label, pale);
}
