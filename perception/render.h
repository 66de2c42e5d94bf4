/* SPDX-License-Identifier: Apache-2.0
 *
 * A bird's-eye view of a frame, drawn in software: x (forward) is up, y (left)
 * is left, as one stands behind the sensor. The same input gives the same
 * picture, whatever the order of the points.
 */
#ifndef SV_RENDER_H
#define SV_RENDER_H

#include "image.h"
#include "points.h"
#include "results.h"

typedef enum sv_bev_colour { SV_BEV_HEIGHT, SV_BEV_INTENSITY } sv_bev_colour;

/* How one box is drawn, in every picture. */
typedef struct sv_box_style {
    uint32_t colour; /* 0xRRGGBB */
    bool dashed;
    float width; /* of its lines, pixels */
    float fill;  /* share of the colour inside (from above) or on the front face (from a camera); 0: none */
    const char *text; /* beside it; NULL: none */
} sv_box_style;

/* How boxes are drawn that have no style of their own, and labelled ones. */
sv_box_style sv_style_of_class(int label);
sv_box_style sv_style_of_truth(void);

/* A line of a legend. */
typedef struct sv_legend_line {
    sv_box_style style;
    const char *text;
    int count;
} sv_legend_line;

typedef struct sv_bev_options {
    float x_min, y_min, x_max, y_max; /* what is shown, metres; -50..50 */
    float pixels_per_metre;           /* 10 */
    sv_bev_colour colour_by;          /* column z or column 3 (intensity); SV_BEV_HEIGHT */
    float colour_min, colour_max; /* ends of the colour scale; equal: the middle 96 % of the points shown */
    float point_size;             /* pixels; 1.6 */
    bool legend;                  /* grid numbers, scale bar, colour scale, classes with counts; true */
    bool scores;                  /* the score beside each box; false */
    const char *title;            /* NULL: none */
    const sv_box *truth;          /* labelled boxes, in white beneath the others; NULL: none */
    int truth_count;
    const sv_box_style *styles;  /* one per box; NULL: the colour of its class */
    const sv_legend_line *lines; /* in place of the classes; NULL: classes */
    int line_count;
    uint32_t cookie; /* set by sv_bev_options_default() */
} sv_bev_options;

sv_bev_options sv_bev_options_default(void);

/* Draw 'points' (NULL: none) and 'boxes' (label 1 is classes[0]) into a new picture, to be freed by the
 * caller. */
sv_status sv_render_bev(sv_ctx *c, sv_image *out, const sv_points *points, const sv_box *boxes, int count,
                        const char *const *classes, int class_count, const sv_bev_options *options);

/* The colour of a class (1-based label), for other pictures of the same boxes. */
uint32_t sv_class_colour(int label);
/* The scale from low (0: dim violet) to high (1: bright yellow) that colours points. */
uint32_t sv_scale_colour(float place);

#endif
