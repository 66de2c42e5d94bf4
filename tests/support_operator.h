/* SPDX-License-Identifier: Apache-2.0
 *
 * A group RNN operator on its own: bound to weights, run on recordings or on random layouts.
 */
#ifndef SUPPORT_OPERATOR_H
#define SUPPORT_OPERATOR_H

#include "support.h"
#include "support_h5.h"

#include "backbones/operator.h"

typedef struct test_operator {
    sv_ctx *c;
    sv_arena arena;
    void *self;
    const sv_operator *type;
    sv_config *config;
    int channels;
} test_operator;

/* 'cfg' is a YAML map, the operator's settings. */
test_operator operator_open(const char *name, const char *cfg, int channels, int threads);
void operator_close(test_operator *op);
/* Makes random weights of 'seed' in 'weights' (empty), or with seed 0 binds those it holds. Once per operator. */
void operator_bind(test_operator *op, sv_weights *weights, uint64_t seed);
/* Fails with this status and sentence while the operator reads its settings. */
void operator_refuses(const char *name, const char *cfg, int channels, sv_status status, const char *text);

/* Random weights of the operator with every number, constant ones too, moved a little. */
sv_weights *operator_random_weights(const char *name, const char *cfg, int channels, test_rng *rng);

/*
 * Runs the cases G1_L5, G1_L77 and G2_L192 of an operator's recordings: the result, and the intermediates of the
 * first two, of which there must be 'probes'. Recorded [G, L, channels]; 'reversed' (may be NULL) says which
 * intermediates lie in reversed time.
 */
void operator_equals_recordings(const char *path, const char *name, const char *cfg, int probes,
                                bool (*reversed)(const char *intermediate));

/* y of [groups][length][channels] in double precision. */
typedef void (*operator_oracle)(double *y, const double *x, const sv_weights *weights, int groups, int length,
                                int channels);
/*
 * Two samples of random size in a shuffled order, where the tail of each sample's last group repeats rows, as
 * window orders have it; against the oracle, and the same bytes with three threads and in place.
 */
void operator_equals_oracle(const char *name, const char *cfg, int channels, int length,
                            operator_oracle oracle, double tolerance, test_rng *rng);

#endif
