/* SPDX-License-Identifier: Apache-2.0
 *
 * What ttt_cpu.c hands to the vector code of ttt.simd.c. Slots of group g are g*length ..
 * g*length+length-1; 'pitch' fields count floats.
 */
#ifndef SV_TTT_KERNELS_H
#define SV_TTT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_TTT_TOKENS = 16, /* most tokens of a mini-batch */
    SV_TTT_WIDTH = 128, /* most channels of a head */
};

typedef struct sv_ttt_job {
    float *y;
    const float *q, *k, *v, *rate;
    const int32_t *index; /* of the inputs; NULL: they lie in slots */
    /* as sv_ttt_weights, dense */
    const float *w, *b, *norm_weight, *norm_bias, *token, *rotary;
    const float *state_in; /* [groups][heads * (width*width + width)]; NULL: w and b */
    float *state_out;      /* NULL: not wanted; may be state_in */
    ptrdiff_t y_pitch, q_pitch, k_pitch, v_pitch, rate_pitch, in_pitch, out_pitch;
    int length, heads, width, batch;
    bool reverse;
    float eps;
} sv_ttt_job;

typedef struct sv_ttt_kernels {
    /* All tokens of a group, one head. */
    void (*run)(const sv_ttt_job *job, int group, int head);
} sv_ttt_kernels;

#endif
