/* SPDX-License-Identifier: Apache-2.0
 *
 * xLSTM and TTT-Linear in plain double precision, written from the published formulas in another form than the
 * library's: the mLSTM as sums over all pairs of tokens, TTT-Linear in its primal form with the model of every
 * token spelled out. What check_gated.c and check_gated_blocks.c compare with. Everything dense, row-major.
 */
#ifndef ORACLE_GATED_H
#define ORACLE_GATED_H

#include "oracle_scan.h"
#include "perception/model/weights.h"

typedef struct oracle_heads {
    int heads, keys, values; /* of a head */
} oracle_heads;

/*
 * y[slot][heads*values]; q, k [row][heads*keys], v [row][heads*values], gates [row][heads]; state per group and
 * head: C [keys][values], n [keys], m. 'noise' [slot][heads] (may be NULL) receives what a relative error of 1
 * in each term of the sums would do to the largest component of y: the scale of rounding errors.
 */
void oracle_mlstm(double *y, double *noise, const double *q, const double *k, const double *v,
                  const double *igate, const double *fgate, oracle_heads size, double eps,
                  const oracle_sequence *seq);

typedef struct oracle_ttt_model {
    int heads, width, batch;
    double eps;
    const double *w, *b;                   /* [heads][width][width], [heads][width] */
    const double *norm_weight, *norm_bias; /* [heads][width] */
    const double *token;                   /* [batch] */
    const double *angle;                   /* [batch][width/2]; NULL: nothing is turned */
} oracle_ttt_model;

/* y[slot][heads*width]; q, k, v [row][heads*width], rate [row][heads]; state per group and head: W, b. */
void oracle_ttt(double *y, const double *q, const double *k, const double *v, const double *rate,
                const oracle_ttt_model *model, const oracle_sequence *seq);

/* Within 'groups' equal parts of a row, in place. */
void oracle_head_norm(double *x, int rows, int channels, int groups, bool centred, double eps,
                      const double *weight, const double *bias);

/* Whole operators on [groups][length][width], weights by their official names. */
void oracle_xlstm_block(double *y, const double *x, const sv_weights *weights, int groups, int length,
                        int width);
void oracle_ttt_block(double *y, const double *x, const sv_weights *weights, int groups, int length,
                      int width);

#endif
