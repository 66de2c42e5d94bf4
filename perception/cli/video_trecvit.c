/* SPDX-License-Identifier: Apache-2.0 */
#include "video.h"

static sv_status init(sv_ctx *c, const sv_config *config, uint64_t seed, sv_weights *weights)
{
    (void)config, (void)seed, (void)weights;
    return SV_FAIL(c, SV_UNSUPPORTED, "in work");
}
static sv_status fits(sv_ctx *c, const sv_config *config, const sv_weights *weights, int64_t *parameters)
{
    (void)config, (void)weights, (void)parameters;
    return SV_FAIL(c, SV_UNSUPPORTED, "in work");
}
static sv_status run(const video_job *job)
{
    return SV_FAIL(job->c, SV_UNSUPPORTED, "in work");
}
const video_model video_trecvit = {
    .option = "trecvit", .name = "TRecViT", .config = "trecvit_b", .init = init, .fits = fits, .run = run};
