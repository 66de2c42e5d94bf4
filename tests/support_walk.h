/* SPDX-License-Identifier: Apache-2.0
 *
 * Recurrences against naive double-precision forms written from their definitions: random problems, and the
 * comparison.
 */
#ifndef SUPPORT_WALK_H
#define SUPPORT_WALK_H

#include "support.h"

#include "perception/core/ops.h"

typedef struct problem {
    test_rng rng;
    int groups, length, heads, keys, values, slots;
    bool reverse, with_state;
    sv_ctx *one, *three;
    float *pool[64]; /* to be freed */
    int used;
} problem;

/* A problem's shape, the same for the same number; finish() frees what came from it. */
problem begin(int round);
void finish(problem *p);
int pick(problem *p, int from, int to);
float *uniform(problem *p, size_t count, double from, double to);
float *per_slot(problem *p, int columns, double from, double to);

sv_tensor view(float *x, int rows, int columns);
sv_tensor slots(const problem *p, float *x, int columns);

/* Rows in walking order, in double. */
double *walked(const problem *p, const float *x, int group, int columns);
/* q_i.k_j of a head. */
double match(const double *q, const double *k, int heads, int keys, int head, int i, int j);

/* A primitive under test: 'call' runs it with states and output of its own. */
typedef sv_status (*caller)(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq);

/* 'want' [length][columns] and 'state' (in: before; out: after) of a group, inputs in walking order. */
typedef void (*oracle)(const problem *p, const void *arg, int group, double *want, double *state);

/* Results and states of one thread and of three, with states in place, and the oracle's. */
void compare(problem *p, const char *what, caller call, oracle naive, const void *arg, int columns,
             int states, double state_from, double state_to, double tolerance);

#endif
