/* SPDX-License-Identifier: Apache-2.0
 *
 * What scan_cpu.c hands to the vector code of scan.simd.c. Slots of group g
 * are g*length .. g*length+length-1; 'pitch' fields count floats.
 */
#ifndef SV_SCAN_KERNELS_H
#define SV_SCAN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_CONV_TAPS = 8,      /* most taps of the causal convolution */
    SV_SCAN_STATES = 64,   /* most states of a channel */
    SV_SCAN_CHANNELS = 16, /* channels of one task, for every instruction set */
    SV_CONV_TOKENS = 128,  /* tokens of one task */
};

typedef struct sv_conv_job {
    float *y;
    const float *x, *w, *bias; /* w [channels][taps] */
    const int32_t *index;      /* NULL: x lies in slots */
    const float *zeros;        /* [channels], the row of an index below 0 */
    const float *state;        /* [groups][(taps-1)*channels], oldest input first; NULL: zero */
    ptrdiff_t y_pitch, x_pitch, w_pitch, state_pitch;
    int length, channels, taps;
    bool reverse, silu;
} sv_conv_job;

typedef struct sv_scan_job {
    float *y;
    const float *u, *b, *c, *d;
    const float *delta; /* NULL: softplus(dt_bias + dt dt_weight) */
    /* dt [slots][rank]; the others have channels rounded up to SV_SCAN_CHANNELS: dt_weight [rank][channels], dt_bias */
    const float *dt, *dt_weight, *dt_bias;
    /* Channels rounded up to SV_SCAN_CHANNELS, zero behind: A log2(e) as [states][channels], and the largest
     * of a channel's |A log2(e)|. */
    const float *a, *reach;
    const float *z;        /* NULL: no gate */
    const int32_t *index;  /* of z; NULL: z lies in slots */
    const float *state_in; /* [groups][channels*states]; NULL: zero */
    float *state_out;      /* NULL: not wanted; may be state_in */
    ptrdiff_t y_pitch, u_pitch, delta_pitch, dt_pitch, b_pitch, c_pitch, z_pitch, in_pitch, out_pitch;
    int length, channels, states, rank;
    bool reverse, accumulate;
} sv_scan_job;

typedef struct sv_scan_kernels {
    /* Tokens first .. first+count-1 (in walking order) of a group, all channels. */
    void (*conv)(const sv_conv_job *job, int group, int first, int count);
    /* All tokens of a group, channels first .. first+count-1, count <= SV_SCAN_CHANNELS. */
    void (*scan)(const sv_scan_job *job, int group, int first, int count);
} sv_scan_kernels;

#endif
