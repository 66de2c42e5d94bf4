/* SPDX-License-Identifier: Apache-2.0
 *
 * Mamba in plain double precision, written from the published formulas and independent of the library: what
 * check_scan.c and check_mamba.c compare with. Everything dense, row-major.
 */
#ifndef ORACLE_SCAN_H
#define ORACLE_SCAN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct oracle_sequence {
    int groups, length;
    const int32_t *index; /* NULL: slot i reads row i; negative: zeros */
    bool reverse;
    const double *state_in; /* per group; NULL: zero */
    double *state_out;      /* NULL: not wanted */
} oracle_sequence;

double oracle_silu(double x);
double oracle_softplus(double x);

/* y[slot][channel]; w [channels][taps]; state [groups][taps-1][channels], oldest first. */
void oracle_causal_conv(double *y, const double *x, const double *w, const double *bias, int channels,
                        int taps, const oracle_sequence *seq);
/* y[slot][channel], without the gate when z is NULL; a [channels][states], b and c [slot][states]; state
 * [groups][channels][states]. */
void oracle_selective_scan(double *y, const double *u, const double *delta, const double *a, const double *b,
                           const double *c, const double *d, const double *z, int channels, int states,
                           const oracle_sequence *seq);

/* One direction of the mixer, weights as the checkpoint has them. */
typedef struct oracle_direction {
    const float *conv_weight, *conv_bias; /* [inner][taps], [inner] */
    const float *x_proj;                  /* [rank + 2*states][inner] */
    const float *dt_weight, *dt_bias;     /* [inner][rank], [inner] */
    const float *a_log, *d;               /* [inner][states], [inner] */
} oracle_direction;
typedef struct oracle_mamba {
    int width, inner, rank, states, taps;
    const float *in_proj, *out_proj; /* [2*inner][width], [width][inner] */
    oracle_direction direction[2];   /* forward, backward */
    const float *norm_weight, *norm_bias;
} oracle_mamba;

/* y = x + LayerNorm(mixer(x)) for x [groups][length][width]. */
void oracle_mamba_block(double *y, const double *x, const oracle_mamba *m, int groups, int length);

#endif
