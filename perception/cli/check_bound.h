/* SPDX-License-Identifier: Apache-2.0
 *
 * What reference files with weights share: settings from attributes and from the weights' shapes, and binding.
 */
#ifndef SV_CHECK_BOUND_H
#define SV_CHECK_BOUND_H

#include "check.h"

#include "perception/model/binder.h"

/* Attributes as whole numbers. */
sv_status check_int(check_run *run, check_file *file, const char *name, int *out);
sv_status check_ints3(check_run *run, check_file *file, const char *name, int32_t out[3]);

/* The datasets "weights/..." under a binder, and the operator's configuration when the file is about one. */
typedef struct check_bound {
    sv_weights *weights;
    sv_config *config;
    const sv_node *operator_cfg;
    sv_binder *binder;
    sv_arena arena;
} check_bound;

typedef sv_status (*check_body)(check_run *run, check_file *file, check_bound *b);
/* Open, run 'body', close. */
sv_status check_with_weights(check_run *run, check_file *file, bool with_operator, check_body body);

#endif
