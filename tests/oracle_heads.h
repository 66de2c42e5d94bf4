/* SPDX-License-Identifier: Apache-2.0
 *
 * What center-based heads do behind their convolutions, by the definition and one element at a time: what
 * check_heads.c compares with.
 */
#ifndef ORACLE_HEADS_H
#define ORACLE_HEADS_H

#include <stdbool.h>
#include <stdint.h>

/* Dense maps [batch][height][width][channels]. A cell is kept where it is the greatest of its window and the
 * window lies inside. */
void oracle_local_peaks(float *y, const float *x, int batch, int height, int width, int channels, int radius,
                        uint32_t alone);

/* Numbers channel * height * width + cell of one map in the order of their scores, all of them. */
void oracle_order_cells(int32_t *numbers, const float *x, int height, int width, int channels,
                        bool by_column);

/*
 * Attention of one query at (x, y) of a square map, as the official head states it: cells are counted column
 * by column, n = x * width + y; keys are n + ox * width + oy for all offsets up to 'radius', but those that
 * are no cell's number. k, v [width*width][heads*d], row y * width + x. '*keys' receives how many there were.
 */
void oracle_window_attention(double *out, const double *q, const float *k, const float *v, int heads, int d,
                             int width, int radius, double scale, int x, int y, int *keys);

typedef struct oracle_code {
    double center[2], place[2], z, size[3], rotation[2], velocity[2], overlap, confidence, heat;
    bool has_overlap, has_confidence;
} oracle_code;

typedef struct oracle_rule {
    double stride, cell[2], origin[2], range_min[3], range_max[3], min_score, rectifier;
    bool sine_first, top_face, rescore;
} oracle_rule;

/* x, y, z, dx, dy, dz, heading, vx, vy; '*score' after rescoring. '*doubt': how far the nearest of the tests
 * for keeping is from its limit. Returns whether the box is kept. */
bool oracle_center_decode(double *box, double *score, double *doubt, const oracle_code *code,
                          const oracle_rule *rule);

#endif
