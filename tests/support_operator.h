/* SPDX-License-Identifier: Apache-2.0
 *
 * A group RNN operator on its own: bound to weights, run on recordings or on random layouts.
 */
#ifndef SUPPORT_OPERATOR_H
#define SUPPORT_OPERATOR_H

#include "support.h"
#include "support_h5.h"

#include "backbones/operator.h"

typedef struct operator_setting {
    const char *name, *cfg; /* OPERATOR.NAME and a YAML map, its settings */
    int channels, layer;    /* layer: some operators begin with a block of another shape */
    int heads;              /* for the oracle, where its weights do not tell */
} operator_setting;

typedef struct test_operator {
    sv_ctx *c;
    sv_arena arena;
    void *self;
    const sv_operator *type;
    sv_config *config;
    operator_setting setting;
} test_operator;

test_operator operator_open(const operator_setting *setting, int threads);
void operator_close(test_operator *op);
/* Makes random weights of 'seed' in 'weights' (empty), or with seed 0 binds those it holds. Once per operator. */
void operator_bind(test_operator *op, sv_weights *weights, uint64_t seed);

/* Fails with this status and sentence while the operator reads its settings. */
void operator_refuses(const operator_setting *setting, sv_status status, const char *text);
/* Binding empty weights names how many tensors are missing: 'text'. */
void operator_misses_tensors(const operator_setting *setting, const char *text);
/* A sequence with a carried state is refused with 'text'. */
void operator_refuses_state(const operator_setting *setting, const char *text);
/* Random weights are damped: the block changes a random input, but not by much. */
void operator_init_is_damped(const operator_setting *setting);

/* Random weights of the operator with every number, constant ones too, moved a little. */
sv_weights *operator_random_weights(const operator_setting *setting, test_rng *rng);

/* How an intermediate was recorded. Heads [G, heads, L, width] show by their four dimensions. */
typedef struct recorded_as {
    bool reversed;       /* in reversed time */
    bool channels_first; /* [G, channels, L] instead of [G, L, channels] */
} recorded_as;

/*
 * Runs the cases G1_L5, G1_L77 and G2_L192 of an operator's recordings (golden/lion/operators/<file>.h5): the result, and
 * the intermediates of the first two, of which there must be 'probes'. 'layout' NULL: all [G, L, channels].
 * Does nothing, visibly, without the reference data.
 */
void operator_equals_recordings(const char *file, const operator_setting *setting, int probes,
                                recorded_as (*layout)(const char *intermediate));

/* y of [groups][length][channels] in double precision. */
typedef void (*operator_oracle)(double *y, const double *x, const sv_weights *weights,
                                const operator_setting *setting, int groups, int length);
/*
 * Two samples of random size in a shuffled order, where the tail of each sample's last group repeats rows, as
 * window orders have it; against the oracle, and the same bytes with three threads and in place.
 */
void operator_equals_oracle(const operator_setting *setting, int length, operator_oracle oracle,
                            double tolerance, test_rng *rng);

#endif
