/* SPDX-License-Identifier: Apache-2.0
 *
 * The interface of a linear group RNN operator, LION's exchangeable part. An
 * operator is one file in operators/ and one line in operators/operators.def.
 *
 * forward() takes a sequence, not gathered copies: voxel rows x [N,C], the
 * order that puts them into groups, and the group length; results go back to
 * the rows: y [N,C]. y may be x (in place). The operator includes residual and
 * norms, as the official blocks do.
 */
#ifndef SV_OPERATOR_H
#define SV_OPERATOR_H

#include "backbones/recurrence.h"
#include "perception/model/config.h"

typedef struct sv_operator_spec {
    int channels;       /* C */
    int layer, layers;  /* position in the backbone, as the official layer_id / n_layer */
    const sv_node *cfg; /* OPERATOR.CFG */
    const struct sv_operator *type;
} sv_operator_spec;

/* Carried state of streaming operators; LION's groups carry none. One row per group. */
typedef struct sv_operator_state {
    sv_tensor in, out;
} sv_operator_state;

typedef struct sv_operator {
    const char *name; /* OPERATOR.NAME in the configuration */
    size_t bytes;     /* of its bound form, zeroed before bind() */
    /* Ask the binder for every tensor (names below the block's prefix); keep prepared weights in 'self'. */
    sv_status (*bind)(sv_binder *b, void *self, const sv_operator_spec *spec);
    sv_status (*forward)(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length, const sv_operator_state *state);
    /* The catalogue's operators: bind and forward are the block template's (block.h), this is what it wraps. */
    const sv_recurrence *recurrence;
} sv_operator;

#define OPERATOR(identifier) extern const sv_operator sv_operator_##identifier;
#include "backbones/operators/operators.def"
#undef OPERATOR

/* What a block costs: found by running one with random weights over a group of 'length' tokens. */
typedef struct sv_operator_facts {
    int64_t parameters;
    double flops; /* per token, 2 per multiply-add, by the primitives' own count */
} sv_operator_facts;
sv_status sv_operator_measure(sv_ctx *c, const sv_operator *type, const sv_node *cfg, int channels,
                              int length, sv_operator_facts *out);

/* NULL when there is none of that name. */
const sv_operator *sv_operator_find(const char *name);
const sv_operator *sv_operator_at(int i); /* NULL behind the last */

#endif
