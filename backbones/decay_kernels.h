/* SPDX-License-Identifier: Apache-2.0
 *
 * What decay_cpu.c hands to the vector code of decay.simd.c. Slots of group g are g*length ..
 * g*length+length-1; 'pitch' fields count floats.
 */
#ifndef SV_DECAY_KERNELS_H
#define SV_DECAY_KERNELS_H

#include "perception/core/ops.h"

enum {
    SV_DECAY_KEYS = 256,  /* most key channels of a head */
    SV_DECAY_VALUES = 32, /* value channels of one task, for every instruction set */
    SV_DECAY_TOKENS = 64, /* of a block; a chunk is one block */
    SV_MIX_TOKENS = 128,  /* tokens of one task of the token shift */
};

typedef struct sv_decay_job {
    float *y;
    const float *q, *k, *v;
    /* e^decay - 1 of each head for SV_DECAY_NONE and _HEAD, the logarithms themselves for the others */
    const float *decay;
    const float *bonus;    /* [heads*keys]; NULL: none */
    const int32_t *index;  /* of q, k, v and decay; NULL: they lie in slots */
    const float *zeros;    /* the row of an index below 0 */
    const float *state_in; /* [groups][heads*keys*values]; NULL: zero */
    float *state_out;      /* NULL: not wanted; may be state_in */
    ptrdiff_t y_pitch, q_pitch, k_pitch, v_pitch, decay_pitch, in_pitch, out_pitch;
    int length, heads, keys, values; /* keys and values of a head */
    int block;                       /* tokens that are walked at once */
    sv_decay kind;
    sv_decay_read read;
    float scale;
    bool reverse, accumulate;
} sv_decay_job;

typedef struct sv_mix_job {
    float *y;
    const float *x, *m;
    const int32_t *index;
    const float *zeros; /* [channels] */
    const float *state; /* [groups][channels]; NULL: zero */
    ptrdiff_t y_pitch, x_pitch, m_pitch, state_pitch;
    int length, channels, mixtures;
    bool reverse;
} sv_mix_job;

typedef struct sv_decay_kernels {
    /* All tokens of a head of a group, values first .. first+count-1, count <= SV_DECAY_VALUES. */
    void (*scan)(const sv_decay_job *job, int group, int head, int first, int count);
    /* Tokens first .. first+count-1 (in walking order) of a group. */
    void (*mix)(const sv_mix_job *job, int group, int first, int count);
} sv_decay_kernels;

#endif
