/* SPDX-License-Identifier: Apache-2.0
 *
 * Mamba's mixer on the CPU in three passes over tiles that stay in the second-level cache (operators/mamba.c has the
 * formulas and composes the same from primitives):
 *
 *     tiles of TOKENS slots of a group   u = the first half of in_proj x (with taps - 1 neighbours on either side),
 *                                        per direction v = SiLU(conv u), [dt | B | C] = x_proj v
 *     16 channels of a group             delta = softplus(dt_proj dt + bias); the scan forwards, then backwards, added
 *     tiles of TOKENS rows               z = the second half of in_proj x; out_proj (y SiLU(z))
 *
 * What goes through memory is v, y (in blocks of 16 channels, as the scan takes them) and [dt | B | C]; u, z, delta and the
 * gated results never leave the cache. All tasks follow from sizes alone.
 */
#include "backbones/mamba_kernels.h"
#include "backbones/scan_kernels.h"
#include "perception/core/gemm.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <math.h>
#include <string.h>

SV_SIMD_TABLE(sv_mamba_kernels);
SV_SIMD_TABLE(sv_scan_kernels);

enum { TOKENS = 128, LANES = SV_SCAN_CHANNELS, DIRECTIONS = 2 };

/* Everything has its channels rounded up to LANES and zeros behind the last. */
typedef struct direction {
    float *conv_weight, *conv_bias; /* [taps][width] in the order in which rows lie, [width] */
    float *x_proj;                  /* packed, inner -> wide */
    float *dt_weight, *dt_bias;     /* [rank][width], [width] */
    float *a, *reach, *d; /* A log2(e) [states][width]; the largest |A log2(e)| of a channel; [width] */
} direction;

typedef struct packed {
    int width, wide; /* inner channels rounded up; numbers of a row of [dt | B | C], rounded up */
    float *in_u, *in_z, *out;
    direction direction[DIRECTIONS];
} packed;

/* ---- weights ------------------------------------------------------------------------------------------ */

static int round_up(int n)
{
    return (n + LANES - 1) / LANES * LANES;
}

static sv_status zeroed(sv_ctx *c, float **out, size_t count)
{
    SV_TRY(sv_arena_alloc(c, c->weights, "mamba weights", count * sizeof(float), (void **)out));
    memset(*out, 0, count * sizeof(float));
    return SV_OK;
}

/* W [n,k] of a linear layer, rows first .. first + n - 1, with 'columns' >= n columns. */
static sv_status pack_linear(sv_ctx *c, float **out, sv_tensor w, int first, int n, int columns)
{
    const int k = w.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor plain;
    SV_TRY(sv_scratch_alloc(c, &plain, "mamba plain weights", SV_F32, columns, k, SV_NONE));
    memset(plain.data, 0, (size_t)columns * (size_t)plain.pitch * sizeof(float));
    for (int i = 0; i < n; i++)
        memcpy(sv_f32(plain) + (ptrdiff_t)i * plain.pitch, sv_f32(w) + (ptrdiff_t)(first + i) * w.pitch,
               (size_t)k * sizeof(float));
    SV_TRY(zeroed(c, out, sv_gemm_packed_count(k, columns)));
    sv_gemm_pack(*out, k, columns, sv_f32(plain), 1, plain.pitch);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status pack_direction(sv_ctx *c, direction *p, const sv_mamba_weights *w, int which, int wide)
{
    const sv_mamba_direction *from = &w->direction[which];
    const int inner = w->inner, width = round_up(inner), taps = from->conv_weight.dim[1];
    SV_TRY(pack_linear(c, &p->x_proj, from->x_proj.w, 0, w->rank + 2 * w->states, wide));
    SV_TRY(zeroed(c, &p->conv_weight, (size_t)taps * (size_t)width));
    SV_TRY(zeroed(c, &p->conv_bias, (size_t)width));
    SV_TRY(zeroed(c, &p->dt_weight, (size_t)w->rank * (size_t)width));
    SV_TRY(zeroed(c, &p->dt_bias, (size_t)width));
    SV_TRY(zeroed(c, &p->a, (size_t)w->states * (size_t)width));
    SV_TRY(zeroed(c, &p->reach, (size_t)width));
    SV_TRY(zeroed(c, &p->d, (size_t)width));
    memcpy(p->conv_bias, sv_f32(from->conv_bias), (size_t)inner * sizeof(float));
    memcpy(p->dt_bias, sv_f32(from->dt_proj.bias), (size_t)inner * sizeof(float));
    memcpy(p->d, sv_f32(from->d), (size_t)inner * sizeof(float));
    for (int i = 0; i < inner; i++) {
        /* a walk from the end meets the rows in the opposite order */
        for (int j = 0; j < taps; j++)
            p->conv_weight[(which == 0 ? j : taps - 1 - j) * width + i] =
                sv_f32(from->conv_weight)[(ptrdiff_t)i * from->conv_weight.pitch + j];
        for (int r = 0; r < w->rank; r++)
            p->dt_weight[r * width + i] = sv_f32(from->dt_proj.w)[(ptrdiff_t)i * from->dt_proj.w.pitch + r];
        for (int s = 0; s < w->states; s++) {
            const float a =
                (float)((double)sv_f32(from->a)[(ptrdiff_t)i * from->a.pitch + s] * 1.4426950408889634);
            p->a[s * width + i] = a;
            if (isnan(a) || fabsf(a) > p->reach[i]) p->reach[i] = fabsf(a); /* NaN stays */
        }
    }
    return SV_OK;
}

sv_status sv_cpu_mamba_prepare(sv_ctx *c, sv_mamba_weights *w)
{
    packed *p = NULL;
    SV_TRY(sv_arena_alloc(c, c->weights, "mamba weights", sizeof *p, (void **)&p));
    *p = (packed){.width = round_up(w->inner), .wide = round_up(w->rank + 2 * w->states)};
    SV_TRY(pack_linear(c, &p->in_u, w->in_proj.w, 0, w->inner, p->width));
    SV_TRY(pack_linear(c, &p->in_z, w->in_proj.w, w->inner, w->inner, p->width));
    SV_TRY(pack_linear(c, &p->out, w->out_proj.w, 0, w->out_proj.n, w->out_proj.n));
    for (int i = 0; i < DIRECTIONS; i++) SV_TRY(pack_direction(c, &p->direction[i], w, i, p->wide));
    w->packed = p;
    return SV_OK;
}

/* ---- a run -------------------------------------------------------------------------------------------- */

typedef struct run {
    const sv_mamba_kernels *kernels;
    const sv_scan_kernels *scan;
    const packed *p;
    int channels, inner, rank, states, taps;
    const float *x;
    ptrdiff_t x_pitch;
    const int32_t *slot_row, *row_slot;
    int length, groups, slots, rows;
    int tiles;                     /* of a group */
    float *v[DIRECTIONS], *blocks; /* v and y, [block][slots][LANES] */
    float *projected[DIRECTIONS];  /* [slots][wide] */
    float *y;
    ptrdiff_t y_pitch;
    float *workspace; /* one per worker */
    size_t workspace_count;
} run;

static int least(int a, int b)
{
    return a < b ? a : b;
}

static void tile_task(void *arg, int task, int worker)
{
    const run *r = arg;
    const packed *p = r->p;
    const int group = task / r->tiles, first = task % r->tiles * TOKENS, halo = r->taps - 1;
    const int count = least(TOKENS, r->length - first);
    const int from = first < halo ? 0 : first - halo, to = least(first + count + halo, r->length);
    float *u = r->workspace + (size_t)worker * r->workspace_count;
    float *rows = u + (ptrdiff_t)(TOKENS + 2 * halo) * p->width;
    float *inside = u + (ptrdiff_t)(from - (first - halo)) * p->width;
    const size_t row_bytes = (size_t)p->width * sizeof(float);
    memset(u, 0, (size_t)(from - (first - halo)) * row_bytes);
    memset(inside + (ptrdiff_t)(to - from) * p->width, 0, (size_t)(first + count + halo - to) * row_bytes);
    const ptrdiff_t slot = (ptrdiff_t)group * r->length + first;
    sv_gemm_run(&(sv_gemm){.k = r->channels,
                           .n = p->width,
                           .b = p->in_u,
                           .x = r->x,
                           .x_pitch = r->x_pitch,
                           .index = r->slot_row + slot - (first - from),
                           .index_pitch = 1,
                           .y = inside,
                           .y_pitch = p->width,
                           .map = SV_MAP_identity},
                0, to - from);
    for (int i = 0; i < DIRECTIONS; i++) {
        const direction *d = &p->direction[i];
        r->kernels->conv(&(sv_mamba_conv){.u = i == 0 ? u : u + (ptrdiff_t)halo * p->width,
                                          .w = d->conv_weight,
                                          .bias = d->conv_bias,
                                          .rows = rows,
                                          .blocks = r->v[i] + slot * LANES,
                                          .block_step = (ptrdiff_t)r->slots * LANES,
                                          .width = p->width,
                                          .taps = r->taps,
                                          .count = count});
        sv_gemm_run(&(sv_gemm){.k = r->inner,
                               .n = p->wide,
                               .b = d->x_proj,
                               .x = rows,
                               .x_pitch = p->width,
                               .y = r->projected[i] + slot * p->wide,
                               .y_pitch = p->wide,
                               .map = SV_MAP_identity},
                    0, count);
    }
}

static void scan_task(void *arg, int task, int worker)
{
    (void)worker;
    const run *r = arg;
    const packed *p = r->p;
    const int blocks = p->width / LANES, block = task % blocks, at = block * LANES;
    /* the kernel adds 'at' to every row */
    const ptrdiff_t offset = (ptrdiff_t)block * r->slots * LANES - at;
    for (int i = 0; i < DIRECTIONS; i++) {
        const direction *d = &p->direction[i];
        const sv_scan_job job = {
            .y = r->blocks + offset,
            .u = r->v[i] + offset,
            .b = r->projected[i] + r->rank,
            .c = r->projected[i] + r->rank + r->states,
            .d = d->d,
            .dt = r->projected[i],
            .dt_weight = d->dt_weight,
            .dt_bias = d->dt_bias,
            .a = d->a,
            .reach = d->reach,
            .y_pitch = LANES,
            .u_pitch = LANES,
            .dt_pitch = p->wide,
            .b_pitch = p->wide,
            .c_pitch = p->wide,
            .length = r->length,
            .channels = p->width,
            .states = r->states,
            .rank = r->rank,
            .reverse = i == 1,
            .accumulate = i == 1,
        };
        r->scan->scan(&job, task / blocks, at, LANES);
    }
}

static void row_task(void *arg, int task, int worker)
{
    const run *r = arg;
    const packed *p = r->p;
    const int first = task * TOKENS, count = least(TOKENS, r->rows - first);
    float *z = r->workspace + (size_t)worker * r->workspace_count;
    sv_gemm_run(&(sv_gemm){.k = r->channels,
                           .n = p->width,
                           .b = p->in_z,
                           .x = r->x + first * r->x_pitch,
                           .x_pitch = r->x_pitch,
                           .y = z,
                           .y_pitch = p->width,
                           .map = SV_MAP_identity},
                0, count);
    r->kernels->gate(&(sv_mamba_gate){.z = z,
                                      .blocks = r->blocks,
                                      .slots = r->row_slot + first,
                                      .block_step = (ptrdiff_t)r->slots * LANES,
                                      .width = p->width,
                                      .count = count});
    sv_gemm_run(&(sv_gemm){.k = r->inner,
                           .n = r->channels,
                           .b = p->out,
                           .x = z,
                           .x_pitch = p->width,
                           .y = r->y + first * r->y_pitch,
                           .y_pitch = r->y_pitch,
                           .map = SV_MAP_identity},
                0, count);
}

static sv_status take(sv_ctx *c, const char *name, size_t count, float **out)
{
    return sv_arena_alloc(c, &c->scratch, name, count * sizeof(float), (void **)out);
}

/* y = out_proj of both directions' results */
static sv_status mix(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_mamba_weights *w, const sv_order *order,
                     int length)
{
    const packed *p = w->packed;
    run r = {
        .kernels = SV_SIMD_PICK(sv_mamba_kernels),
        .scan = SV_SIMD_PICK(sv_scan_kernels),
        .p = p,
        .channels = w->in_proj.k,
        .inner = w->inner,
        .rank = w->rank,
        .states = w->states,
        .taps = w->direction[0].conv_weight.dim[1],
        .x = sv_f32(x),
        .x_pitch = x.pitch,
        .slot_row = sv_i32(order->slot_row),
        .row_slot = sv_i32(order->row_slot),
        .length = length,
        .slots = sv_live_rows(order->slot_row),
        .rows = sv_live_rows(x),
        .tiles = (length + TOKENS - 1) / TOKENS,
        .y = sv_f32(y),
        .y_pitch = y.pitch,
    };
    r.groups = r.slots / length;
    /* memory for as many slots as there can be, so that a frame's arena does not depend on the frame */
    const size_t most = (size_t)order->slot_row.dim[0], width = (size_t)p->width;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    for (int i = 0; i < DIRECTIONS; i++) {
        SV_TRY(take(c, "mamba conv", most * width, &r.v[i]));
        SV_TRY(take(c, "mamba dt, B, C", most * (size_t)p->wide, &r.projected[i]));
    }
    SV_TRY(take(c, "mamba scanned", most * width, &r.blocks));
    r.workspace_count = (size_t)(2 * TOKENS + 2 * (r.taps - 1)) * width;
    SV_TRY(take(c, "mamba tiles", r.workspace_count * (size_t)sv_pool_threads(c->pool), &r.workspace));

    sv_pool_run(c->pool, tile_task, &r, r.groups * r.tiles);
    sv_pool_run(c->pool, scan_task, &r, r.groups * (p->width / LANES));
    sv_pool_run(c->pool, row_task, &r, (r.rows + TOKENS - 1) / TOKENS);
    sv_arena_rewind(&c->scratch, mark);

    const double slots = r.slots, rows = r.rows, inner = r.inner, channels = r.channels, wide = p->wide;
    const double scan = inner * (7.0 * r.states + 3 + 2 * r.rank), in_out = 2 * channels * inner;
    sv_count_work(c,
                  slots * (in_out + 2 * (2 * inner * (r.taps + r.rank + 2 * r.states) + scan)) +
                      rows * (2 * in_out + 4 * inner),
                  4 * (slots * (channels + 7 * inner + 4 * wide) + rows * (2 * channels + inner)));
    return SV_OK;
}

sv_status sv_cpu_mamba_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_mamba_weights *w,
                             const sv_order *order, int length)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor mixed;
    SV_TRY(sv_scratch_alloc(c, &mixed, "mamba mixed", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(mix(c, mixed, x, w, order, length));
    SV_TRY(sv_cpu_norm(c, y, mixed, w->norm_weight, w->norm_bias, w->eps, SV_MAP_identity, x));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
