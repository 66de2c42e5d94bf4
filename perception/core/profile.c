/* SPDX-License-Identifier: Apache-2.0 */
#include "profile.h"

#include "context.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

double sv_clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void sv_profile_frame_begin(sv_ctx *c)
{
    sv_profile *p = &c->profile;
    for (int i = 0; i < p->stage_count; i++) {
        p->stages[i].calls = 0;
        p->stages[i].ms = p->stages[i].flops = p->stages[i].bytes = 0;
    }
    p->depth = p->stamps = p->pair_count = 0;
    c->stage_path[0] = '\0';
}

sv_status sv_profile_frame_end(sv_ctx *c)
{
    sv_profile *p = &c->profile;
    if (!p->on || p->pair_count == 0) return SV_OK;
    SV_TRY(c->device->queue_wait(c));
    for (int i = 0; i < p->pair_count; i++)
        p->stages[p->pairs[i].stage].ms += c->device->stamp_ms(c, p->pairs[i].from, p->pairs[i].to);
    p->pair_count = 0;
    return SV_OK;
}

static int find_stage(sv_profile *p, const char *path, int depth)
{
    for (int i = 0; i < p->stage_count; i++)
        if (strcmp(p->stages[i].name, path) == 0) return i;
    if (p->stage_count == SV_PROFILE_STAGES) return -1;
    sv_profile_stage *stage = &p->stages[p->stage_count];
    memset(stage, 0, sizeof *stage);
    snprintf(stage->name, sizeof stage->name, "%s", path);
    stage->depth = depth;
    return p->stage_count++;
}

sv_status sv_stage_begin(sv_ctx *c, const char *name)
{
    sv_profile *p = &c->profile;
    const size_t length = strlen(c->stage_path);
    snprintf(c->stage_path + length, sizeof c->stage_path - length, "%s%s", length ? "/" : "", name);
    SV_CHECK(c, p->depth < SV_PROFILE_DEPTH, SV_INTERNAL, "stage %s: nested deeper than %d", name,
             SV_PROFILE_DEPTH);
    const int level = p->depth++;
    p->open[level] = -1;
    if (!p->on) return SV_OK;
    p->open[level] = find_stage(p, c->stage_path, level);
    p->open_stamp[level] = -1;
    if (c->device->stamp && p->stamps < SV_PROFILE_STAMPS - 1 && p->open[level] >= 0) {
        p->open_stamp[level] = p->stamps++;
        SV_TRY(c->device->stamp(c, p->open_stamp[level]));
    }
    p->began[level] = sv_clock_ms();
    return SV_OK;
}

sv_status sv_stage_end(sv_ctx *c)
{
    sv_profile *p = &c->profile;
    SV_CHECK(c, p->depth > 0, SV_INTERNAL, "a stage is closed that was not opened");
    const int level = --p->depth;
    char *slash = strrchr(c->stage_path, '/');
    *(slash ? slash : c->stage_path) = '\0';
    const int stage = p->open[level];
    if (!p->on || stage < 0) return SV_OK;
    p->stages[stage].calls++;
    if (!c->device->stamp) {
        p->stages[stage].ms += sv_clock_ms() - p->began[level];
    } else if (p->open_stamp[level] >= 0 && p->stamps < SV_PROFILE_STAMPS && p->pair_count < 256) {
        p->pairs[p->pair_count].stage = (int16_t)stage;
        p->pairs[p->pair_count].from = (int16_t)p->open_stamp[level];
        p->pairs[p->pair_count].to = (int16_t)p->stamps;
        p->pair_count++;
        SV_TRY(c->device->stamp(c, p->stamps++));
    }
    return SV_OK;
}

void sv_count_work(sv_ctx *c, double flops, double bytes)
{
    sv_profile *p = &c->profile;
    if (!p->on) return;
    for (int level = 0; level < p->depth; level++) {
        if (p->open[level] < 0) continue;
        p->stages[p->open[level]].flops += flops;
        p->stages[p->open[level]].bytes += bytes;
    }
}
