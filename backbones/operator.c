/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators by name, from operators/operators.def.
 */
#include "backbones/trial.h"

#include <string.h>

static const sv_operator *const operators[] = {
#define OPERATOR(identifier) &sv_operator_##identifier,
#include "backbones/operators/operators.def"
#undef OPERATOR
    NULL,
};

const sv_operator *sv_operator_at(int i)
{
    const int count = (int)(sizeof operators / sizeof operators[0]) - 1;
    return i >= 0 && i < count ? operators[i] : NULL;
}

const sv_operator *sv_operator_find(const char *name)
{
    for (int i = 0; operators[i]; i++)
        if (strcmp(operators[i]->name, name) == 0) return operators[i];
    return NULL;
}

/* ---- what a block costs -------------------------------------------------------------------------------- */

static sv_status count_work(sv_ctx *c, const sv_trial *trial, int length, double *flops)
{
    sv_trial_tokens tokens;
    SV_TRY(sv_trial_tokens_alloc(c, &tokens, trial->channels, 1, length));
    SV_TRY(sv_trial_tokens_fill(c, &tokens, 1, false));
    const sv_profile before = c->profile;
    memset(&c->profile, 0, sizeof c->profile);
    c->profile.on = true;
    sv_profile_frame_begin(c);
    sv_status status = sv_stage_begin(c, "operator");
    if (status == SV_OK) status = sv_trial_run(c, trial, &tokens, NULL);
    if (status == SV_OK) status = sv_stage_end(c);
    if (status == SV_OK) status = sv_profile_frame_end(c);
    if (status == SV_OK) *flops = c->profile.stages[0].flops / length;
    c->profile = before;
    return status;
}

sv_status sv_operator_measure(sv_ctx *c, const sv_operator *type, const sv_node *cfg, int channels,
                              int length, sv_operator_facts *out)
{
    sv_trial trial;
    sv_status status = sv_trial_open(c, &trial, type, cfg, channels, 1);
    if (status == SV_OK) out->parameters = trial.parameters;
    if (status == SV_OK) status = count_work(c, &trial, length, &out->flops);
    sv_trial_close(&trial);
    return status;
}
