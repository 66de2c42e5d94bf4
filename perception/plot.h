/* SPDX-License-Identifier: Apache-2.0
 *
 * Line diagrams: axes with round numbers, lines, a legend. Several can share a picture.
 *
 *     sv_plot plot = sv_plot_default();
 *     plot.title = "precision", plot.lines = lines, plot.line_count = 3;
 *     sv_plot_draw(&image, 0, 0, 640, 480, &plot);
 */
#ifndef SV_PLOT_H
#define SV_PLOT_H

#include "image.h"

typedef struct sv_plot_line {
    const double *x, *y; /* what is not finite (or not positive, on a logarithmic axis) leaves a gap */
    int count;
    uint32_t colour;
    bool points;       /* a dot at every place, too */
    float dot;         /* diameter of the dots in pixels; 0: by the width of lines */
    const char *name;  /* in the legend; NULL: not there */
    const char *label; /* beside the last place, clear of other labels and dots; NULL: none */
} sv_plot_line;

typedef struct sv_plot_axis {
    const char *label;
    double low, high; /* equal: from the lines, to round numbers */
    bool logarithmic;
} sv_plot_axis;

typedef enum sv_plot_corner {
    SV_PLOT_UPPER_RIGHT,
    SV_PLOT_UPPER_LEFT,
    SV_PLOT_LOWER_LEFT,
    SV_PLOT_LOWER_RIGHT
} sv_plot_corner;

typedef struct sv_plot {
    const char *title;
    sv_plot_axis x, y;
    const sv_plot_line *lines;
    int line_count;
    sv_plot_corner legend;
    int text;        /* size of texts; 1 */
    uint32_t cookie; /* set by sv_plot_default() */
} sv_plot;

enum { SV_PLOT_BACKGROUND = 0xffffff };

sv_plot sv_plot_default(void);
/* Into this rectangle of the picture, which is painted over. Less than 120 x 90 pixels stay as they are. */
void sv_plot_draw(sv_image *image, int x, int y, int width, int height, const sv_plot *plot);
/* Colours that can be told apart, also by those who see few. */
uint32_t sv_plot_colour(int line);

#endif
