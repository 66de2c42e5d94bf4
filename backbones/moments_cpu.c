/* SPDX-License-Identifier: Apache-2.0
 *
 * Second moments of keys, and attention, on the CPU. Tasks are (group, head), for attention 16 queries of one; the
 * arithmetic is in moments.simd.c.
 */
#include "backbones/moments_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_moments_kernels);

typedef struct work {
    const sv_moments_kernels *kernels;
    void (*run)(const sv_moments_job *job, int group, int head, float *work);
    sv_moments_job job;
} work;

static void run_head(void *arg, int task, int worker)
{
    const work *w = arg;
    w->run(&w->job, task / w->job.heads, task % w->job.heads, sv_walk_group(w->job.work, worker));
}

static sv_status run_heads(sv_ctx *c, work *w, int state, int working, int groups)
{
    SV_TRY(sv_walk_states(c, w->job.seq, groups, state, &w->job.states));
    SV_TRY(sv_scratch_alloc(c, &w->job.work, "moments work", SV_F32, sv_pool_threads(c->pool), working,
                            SV_NONE));
    sv_pool_run(c->pool, run_head, w, groups * w->job.heads);
    return SV_OK;
}

sv_status sv_cpu_second_order_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                   const sv_second_order *rule, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), heads = rule->heads, keys = q.dim[1] / heads,
              values = y.dim[1] / heads;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_moments_kernels)};
    w.run = w.kernels->second_order;
    w.job = (sv_moments_job){.y = y,
                             .q = q,
                             .k = k,
                             .v = v,
                             .second = rule,
                             .seq = seq,
                             .heads = heads,
                             .keys = keys,
                             .values = values};
    SV_TRY(run_heads(c, &w, heads * keys * (keys + 2 * values), keys + 2 * values, slots / seq->length));
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, (double)slots * heads * keys * (5.0 * keys + 12.0 * values),
                  8.0 * slots * (q.dim[1] + y.dim[1]));
    return SV_OK;
}

sv_status sv_cpu_taylor_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                             const sv_taylor *rule, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), heads = rule->heads, keys = q.dim[1] / heads,
              values = y.dim[1] / heads;
    const int features = 1 + keys + keys * (keys + 1) / 2;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_moments_kernels)};
    w.run = w.kernels->taylor;
    w.job = (sv_moments_job){.y = y,
                             .q = q,
                             .k = k,
                             .v = v,
                             .taylor = rule,
                             .seq = seq,
                             .heads = heads,
                             .keys = keys,
                             .values = values};
    SV_TRY(run_heads(c, &w, heads * features * (values + 1), features + keys + values, slots / seq->length));
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c,
                  (double)slots * heads *
                      (4.0 * features * (values + 1) + SV_TAYLOR_TOKENS * (double)(keys + values)),
                  8.0 * slots * (q.dim[1] + y.dim[1]));
    return SV_OK;
}

sv_status sv_cpu_mesa_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor g,
                           sv_tensor beta, sv_tensor lamb, int heads, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), keys = q.dim[1] / heads, values = y.dim[1] / heads;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_moments_kernels)};
    w.run = w.kernels->mesa;
    w.job = (sv_moments_job){.y = y,
                             .q = q,
                             .k = k,
                             .v = v,
                             .g = g,
                             .beta = beta,
                             .lamb = lamb,
                             .seq = seq,
                             .heads = heads,
                             .keys = keys,
                             .values = values};
    SV_TRY(run_heads(c, &w, heads * keys * (keys + values), keys * keys + keys, slots / seq->length));
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, (double)slots * heads * keys * (keys * keys / 3.0 + 5.0 * keys + 5.0 * values),
                  8.0 * slots * (q.dim[1] + y.dim[1]));
    return SV_OK;
}

/* ---- attention --------------------------------------------------------------------------------------- */

static void run_queries(void *arg, int task, int worker)
{
    const work *w = arg;
    const int first = task % w->job.tasks * SV_QUERIES, left = w->job.seq->length - first,
              head = task / w->job.tasks;
    w->kernels->attention(&w->job, head / w->job.heads, head % w->job.heads, first,
                          left < SV_QUERIES ? left : SV_QUERIES, sv_walk_group(w->job.work, worker));
}

/* Running sums of decay in double: their differences are what counts. */
static sv_status sum_decays(sv_ctx *c, work *w, sv_tensor decay, int groups)
{
    const int length = w->job.seq->length, heads = w->job.heads;
    sv_tensor sums;
    SV_TRY(sv_scratch_alloc(c, &sums, "decay sums", SV_F64, groups * heads, length, SV_NONE));
    double *since = sums.data;
    w->job.since = since;
    for (int g = 0; g < groups; g++)
        for (int h = 0; h < heads; h++, since += length) {
            double sum = 0;
            for (int t = 0; t < length; t++) since[t] = sum += sv_walk_row(decay, w->job.seq, g, t)[h];
        }
    return SV_OK;
}

sv_status sv_cpu_attention_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                sv_tensor decay, int heads, float scale, int window, int stride,
                                const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, length = seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_moments_kernels)};
    w.job = (sv_moments_job){.y = y,
                             .q = q,
                             .k = k,
                             .v = v,
                             .seq = seq,
                             .heads = heads,
                             .keys = q.dim[1] / heads,
                             .values = y.dim[1] / heads,
                             .window = window,
                             .stride = stride,
                             .scale = scale};
    w.job.tasks = (length + SV_QUERIES - 1) / SV_QUERIES;
    if (!sv_is_none(decay)) SV_TRY(sum_decays(c, &w, decay, groups));
    SV_TRY(sv_scratch_alloc(c, &w.job.work, "attention scores", SV_F32, sv_pool_threads(c->pool), length,
                            SV_NONE));
    sv_pool_run(c->pool, run_queries, &w, groups * heads * w.job.tasks);
    sv_arena_rewind(&c->scratch, mark);
    const double seen = 1 + (window > 0 && window < length ? window : length / 2.0) / stride;
    sv_count_work(c, slots * seen * (2.0 * q.dim[1] + 2.0 * y.dim[1] + 15.0 * heads),
                  8.0 * slots * (q.dim[1] + y.dim[1]));
    return SV_OK;
}
