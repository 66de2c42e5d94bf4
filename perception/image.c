/* SPDX-License-Identifier: Apache-2.0
 *
 * Antialiasing by distance: a pixel's share of a shape is taken from the
 * signed distance of its centre to the edge, cut to 0..1 over one pixel.
 */
#include "image.h"

#include "font.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

sv_status sv_image_new(sv_ctx *c, sv_image *out, int width, int height, uint32_t colour)
{
    *out = (sv_image){0};
    SV_CHECK(c, width >= 1 && height >= 1 && width <= SV_IMAGE_SIDE && height <= SV_IMAGE_SIDE, SV_BAD_INPUT,
             "a picture of %d x %d pixels: each side must have 1 to %d", width, height, SV_IMAGE_SIDE);
    const size_t pixels = (size_t)width * (size_t)height;
    uint8_t *rgb = malloc(pixels * 3);
    SV_CHECK(c, rgb != NULL, SV_NO_MEMORY, "no memory for a picture of %d x %d pixels", width, height);
    for (size_t i = 0; i < pixels; i++) {
        rgb[3 * i] = (uint8_t)(colour >> 16);
        rgb[3 * i + 1] = (uint8_t)(colour >> 8);
        rgb[3 * i + 2] = (uint8_t)colour;
    }
    *out = (sv_image){width, height, rgb};
    return SV_OK;
}

void sv_image_free(sv_image *image)
{
    free(image->rgb);
    *image = (sv_image){0};
}

void sv_image_blend(sv_image *image, int x, int y, sv_paint paint)
{
    if (x < 0 || y < 0 || x >= image->width || y >= image->height || !(paint.alpha > 0.0f)) return;
    const float alpha = paint.alpha < 1.0f ? paint.alpha : 1.0f;
    uint8_t *p = image->rgb + 3 * ((size_t)y * (size_t)image->width + (size_t)x);
    for (int k = 0; k < 3; k++) {
        const float value = (float)(paint.colour >> (16 - 8 * k) & 255u);
        p[k] = (uint8_t)lrintf((float)p[k] + alpha * (value - (float)p[k]));
    }
}

/* Pixels from..to-1 that [low, high] touches, within 0..size. */
static void pixels(float low, float high, int size, int *from, int *to)
{
    const float most = (float)size;
    *from = low > 0.0f ? (low < most ? (int)low : size) : 0;
    *to = high < most ? (high > 0.0f ? (int)high + 1 : 0) : size;
}

void sv_image_line(sv_image *image, float x0, float y0, float x1, float y1, float width, sv_paint paint)
{
    /* Far outside float arithmetic has nothing to say about pixels. */
    const float far = 1e6f;
    if (!(fabsf(x0) < far && fabsf(y0) < far && fabsf(x1) < far && fabsf(y1) < far && width > 0.0f)) return;
    const float dx = x1 - x0, dy = y1 - y0, length2 = dx * dx + dy * dy, reach = width / 2 + 1;
    int top, bottom;
    pixels(fminf(y0, y1) - reach, fmaxf(y0, y1) + reach, image->height, &top, &bottom);
    for (int y = top; y < bottom; y++) {
        /* only the stretch of the row that the line passes, so that long slanted lines cost their length */
        float low = fminf(x0, x1), high = fmaxf(x0, x1);
        if (fabsf(dy) > 1.0f) {
            const float a = ((float)y - reach - y0) / dy, b = ((float)y + 1 + reach - y0) / dy;
            const float ta = fminf(fmaxf(fminf(a, b), 0.0f), 1.0f),
                        tb = fminf(fmaxf(fmaxf(a, b), 0.0f), 1.0f);
            low = fminf(x0 + ta * dx, x0 + tb * dx);
            high = fmaxf(x0 + ta * dx, x0 + tb * dx);
        }
        int left, right;
        pixels(low - reach, high + reach, image->width, &left, &right);
        for (int x = left; x < right; x++) {
            const float px = (float)x + 0.5f - x0, py = (float)y + 0.5f - y0;
            float t = length2 > 0.0f ? (px * dx + py * dy) / length2 : 0.0f;
            t = fminf(fmaxf(t, 0.0f), 1.0f);
            const float ex = px - t * dx, ey = py - t * dy;
            const float share =
                fminf(fmaxf(width / 2 + 0.5f - sqrtf(ex * ex + ey * ey), 0.0f), fminf(width, 1.0f));
            sv_image_blend(image, x, y, (sv_paint){paint.colour, paint.alpha * share});
        }
    }
}

void sv_image_dashes(sv_image *image, float x0, float y0, float x1, float y1, float width, float on,
                     float off, sv_paint paint)
{
    const float length = hypotf(x1 - x0, y1 - y0);
    if (!(length < 1e5f && on > 0.5f && off >= 0.0f)) return;
    for (float at = 0; at < length; at += on + off) {
        const float a = at / length, b = fminf(at + on, length) / length;
        sv_image_line(image, x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0),
                      width, paint);
    }
}

void sv_image_polygon(sv_image *image, const float (*corners)[2], int count, sv_paint paint)
{
    enum { MOST = 16 };
    const float far = 1e6f;
    float left = far, right = -far, top = far, bottom = -far, area = 0;
    if (count < 3 || count > MOST) return;
    for (int i = 0; i < count; i++) {
        const float *a = corners[i], *b = corners[(i + 1) % count];
        if (!(fabsf(a[0]) < far && fabsf(a[1]) < far)) return;
        left = fminf(left, a[0]), right = fmaxf(right, a[0]);
        top = fminf(top, a[1]), bottom = fmaxf(bottom, a[1]);
        area += a[0] * b[1] - a[1] * b[0];
    }
    /* unit normals that point inwards, whichever way the corners turn */
    float normal[MOST][2];
    for (int i = 0; i < count; i++) {
        const float *a = corners[i], *b = corners[(i + 1) % count];
        const float dx = b[0] - a[0], dy = b[1] - a[1], length = sqrtf(dx * dx + dy * dy);
        const float unit = length > 0.0f ? (area > 0.0f ? 1.0f : -1.0f) / length : 0.0f;
        normal[i][0] = -dy * unit;
        normal[i][1] = dx * unit;
    }
    int x0, x1, y0, y1;
    pixels(left - 1, right + 1, image->width, &x0, &x1);
    pixels(top - 1, bottom + 1, image->height, &y0, &y1);
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            float share = 1.0f;
            for (int i = 0; i < count; i++) {
                const float depth = ((float)x + 0.5f - corners[i][0]) * normal[i][0] +
                                    ((float)y + 0.5f - corners[i][1]) * normal[i][1];
                share = fminf(share, depth + 0.5f);
            }
            if (share > 0.0f) sv_image_blend(image, x, y, (sv_paint){paint.colour, paint.alpha * share});
        }
}

void sv_image_rectangle(sv_image *image, float x, float y, float width, float height, sv_paint paint)
{
    const float corners[4][2] = {{x, y}, {x + width, y}, {x + width, y + height}, {x, y + height}};
    sv_image_polygon(image, corners, 4, paint);
}

void sv_image_text(sv_image *image, int x, int y, int scale, const char *text, sv_paint paint)
{
    for (; *text; text++, x += SV_FONT_ADVANCE * scale) {
        const uint8_t *glyph = sv_font_glyph(*text);
        for (int row = 0; row < SV_FONT_ROWS * scale; row++)
            for (int column = 0; column < SV_FONT_COLUMNS * scale; column++)
                if (glyph[row / scale] >> (SV_FONT_COLUMNS - 1 - column / scale) & 1)
                    sv_image_blend(image, x + column, y + row, paint);
    }
}

int sv_image_text_width(const char *text, int scale)
{
    const int letters = (int)strlen(text);
    return letters ? (letters * SV_FONT_ADVANCE - (SV_FONT_ADVANCE - SV_FONT_COLUMNS)) * scale : 0;
}

void sv_image_paste(sv_image *image, const sv_image *from, int x, int y)
{
    const int left = x < 0 ? -x : 0, room = image->width - x,
              width = (from->width < room ? from->width : room) - left;
    for (int row = 0; row < from->height && width > 0; row++)
        if (row + y >= 0 && row + y < image->height)
            memcpy(image->rgb + 3 * ((size_t)(row + y) * (size_t)image->width + (size_t)(x + left)),
                   from->rgb + 3 * ((size_t)row * (size_t)from->width + (size_t)left), 3 * (size_t)width);
}

/* Means over the stretch [i, i + 1) * from / to of a row or column, with shares at its ends. */
static void mean_of(const float *in, int from, int step, float *out, int to, int channels)
{
    const double ratio = (double)from / to;
    for (int i = 0; i < to; i++) {
        const double low = i * ratio, high = (i + 1) * ratio;
        const int first = (int)low, last = high > from ? from : (int)ceil(high);
        for (int k = 0; k < channels; k++) {
            double sum = 0;
            for (int j = first; j < last; j++)
                sum += (fmin(high, j + 1) - fmax(low, j)) * (double)in[(size_t)j * (size_t)step + (size_t)k];
            out[(size_t)i * (size_t)channels + (size_t)k] = (float)(sum / ratio);
        }
    }
}

sv_status sv_image_resize(sv_ctx *c, const sv_image *from, int width, int height, sv_image *out)
{
    SV_TRY(sv_image_new(c, out, width, height, 0));
    /* rows first, then columns */
    const size_t row = 3 * (size_t)width;
    float *line = malloc(sizeof *line * 3 * (size_t)from->width),
          *rows = malloc(sizeof *rows * row * (size_t)from->height),
          *column = malloc(sizeof *column * 3 * (size_t)height);
    sv_status status = SV_OK;
    if (!line || !rows || !column) {
        sv_image_free(out);
        status = SV_FAIL(c, SV_NO_MEMORY, "no memory for a picture of %d x %d pixels", width, height);
    }
    for (int y = 0; y < from->height && status == SV_OK; y++) {
        const uint8_t *p = from->rgb + 3 * (size_t)y * (size_t)from->width;
        for (int i = 0; i < 3 * from->width; i++) line[i] = p[i];
        mean_of(line, from->width, 3, rows + row * (size_t)y, width, 3);
    }
    for (int x = 0; x < width && status == SV_OK; x++) {
        mean_of(rows + 3 * (size_t)x, from->height, (int)row, column, height, 3);
        for (int y = 0; y < height; y++)
            for (int k = 0; k < 3; k++)
                out->rgb[row * (size_t)y + 3 * (size_t)x + (size_t)k] = (uint8_t)lrintf(column[3 * y + k]);
    }
    free(line);
    free(rows);
    free(column);
    return status;
}

/* OKLab (B. Ottosson, 2020) to linear RGB to sRGB. */
uint32_t sv_colour_oklch(float lightness, float chroma, float hue)
{
    const double h = (double)hue * (3.14159265358979323846 / 180), a = (double)chroma * cos(h),
                 b = (double)chroma * sin(h);
    const double L = (double)lightness;
    const double l_ = L + 0.3963377774 * a + 0.2158037573 * b, m_ = L - 0.1055613458 * a - 0.0638541728 * b,
                 s_ = L - 0.0894841775 * a - 1.2914855480 * b;
    const double l = l_ * l_ * l_, m = m_ * m_ * m_, s = s_ * s_ * s_;
    const double linear[3] = {4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
                              -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
                              -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
    uint32_t colour = 0;
    for (int k = 0; k < 3; k++) {
        const double x = linear[k] < 0 ? 0 : linear[k] > 1 ? 1 : linear[k];
        const double y = x <= 0.0031308 ? 12.92 * x : 1.055 * pow(x, 1 / 2.4) - 0.055;
        colour = colour << 8 | (uint32_t)lrint(255 * y);
    }
    return colour;
}
