/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear attention with decay, and LION's RetNet and RWKV-6 blocks, in plain double precision: sums over
 * pairs of tokens as the formulas have them. What check_decay.c and check_decay_blocks.c compare with.
 * Everything dense, row-major.
 */
#ifndef ORACLE_DECAY_H
#define ORACLE_DECAY_H

#include "perception/core/ops.h"
#include "perception/model/weights.h"

typedef struct oracle_decay {
    int groups, length, heads, keys, values; /* keys and values of a head */
    const int32_t *index;                    /* NULL: slot i reads row i; negative: zeros */
    bool reverse;
    sv_decay_read read;
    int chunk;
    double scale;
    /* [rows][heads*keys], [rows][heads*keys], [rows][heads*values] */
    const double *q, *k, *v;
    const double *log;   /* of decay, [rows][heads*keys]; a row of zeros decays nothing unless 'always' */
    bool always;         /* 'log' is one row for all tokens */
    const double *bonus; /* [heads*keys]; NULL: none */
    const double *state_in;
    double *state_out; /* [groups][heads][keys][values]; NULL: none, not wanted */
} oracle_decay;

/* y[slot][heads*values] */
void oracle_decay_scan(double *y, const oracle_decay *in);

/* y[slot][mixture*channels + i], m likewise; state [groups][channels]. */
void oracle_token_mix(double *y, const double *x, const double *m, int channels, int mixtures, int groups,
                      int length, const int32_t *index, bool reverse, const double *state_in,
                      double *state_out);

/* y = block(x) for x [groups][length][width], weights by their official names. */
void oracle_retnet_block(double *y, const double *x, const sv_weights *weights, int heads, int groups,
                         int length, int width);
void oracle_rwkv_block(double *y, const double *x, const sv_weights *weights, int heads, int groups,
                       int length, int width);

#endif
