/* SPDX-License-Identifier: Apache-2.0
 *
 * What mlstm_cpu.c hands to the vector code of mlstm.simd.c. Slots of group g are g*length ..
 * g*length+length-1; 'pitch' fields count floats.
 */
#ifndef SV_MLSTM_KERNELS_H
#define SV_MLSTM_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_MLSTM_TOKENS = 16, /* of a chunk, for every instruction set */
    SV_MLSTM_WIDTH = 256, /* most key and value channels of a head */
    SV_MLSTM_VALUES = 32, /* value channels of one task */
};

typedef struct sv_mlstm_job {
    float *y;
    const float *q, *k, *v, *igate, *fgate;
    const int32_t *index;  /* of the inputs; NULL: they lie in slots */
    const float *state_in; /* [groups][heads * (keys*values + keys + 1)]; NULL: empty */
    float *state_out;      /* NULL: not wanted; may be state_in */
    /* [groups][heads][keys + 1]: normaliser and maximum of state_in, apart so that value blocks of a head may
     * update a state in place at the same time */
    const float *normaliser;
    ptrdiff_t y_pitch, q_pitch, k_pitch, v_pitch, igate_pitch, fgate_pitch, in_pitch, out_pitch;
    int length, heads, keys, values;
    bool reverse;
    float scale, eps; /* of the queries; of the normaliser */
} sv_mlstm_job;

typedef struct sv_mlstm_kernels {
    /* All tokens of a group, value channels first .. first+count-1 of a head, count <= SV_MLSTM_VALUES. */
    void (*run)(const sv_mlstm_job *job, int group, int head, int first, int count);
} sv_mlstm_kernels;

#endif
