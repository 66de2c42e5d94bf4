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
    uint32_t cookie; /* set by sv_bev_options_default() */
} sv_bev_options;

sv_bev_options sv_bev_options_default(void);

/* Draw 'points' (NULL: none) and 'boxes' (label 1 is classes[0]) into a new picture, to be freed by the
 * caller. */
sv_status sv_render_bev(sv_ctx *c, sv_image *out, const sv_points *points, const sv_box *boxes, int count,
                        const char *const *classes, int class_count, const sv_bev_options *options);

/* The colour of a class (1-based label), for other pictures of the same boxes. */
uint32_t sv_class_colour(int label);

#endif
