/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers on the CPU: y[i] = map(W x[index[i]] + b), W [n,k] packed once by gemm.h.
 *
 * Why not oneDNN: tests/bench/bench_linear.c on one thread of an AVX-512 Xeon that was busy with other work;
 * GFLOP/s of gemm.h / oneDNN 2.6.3 on all rows / oneDNN in tiles of 192 rows, where a product that lives in
 * L1 reached 128:
 *
 *     7000 x 64 x 64     128 / 131 / 127        28000 x 64 x 256     75 /  64 /  74
 *     7000 x 128 x 128   105 / 110 / 111        28000 x 256 x 128   108 /  80 /  95
 *     7000 x 128 x 256   112 / 113 / 113        28000 x 128 x 40     59 /  49 /  50
 *
 * Equal within the noise for small layers and ahead for large ones; and gemm.h gathers rows and applies the map
 * in the same pass, makes no objects per call, and gives a row the same bytes in every tile. Where the processor
 * has matrix tiles, gemm_amx.c is up to 1.8 times as fast again, as exact as float32.
 */
#include "ops_cpu.h"

#include "gemm.h"

/*
 * Large layers are packed in stripes of outputs that stay in a core's own cache while all rows pass: otherwise every tile of
 * rows fetches all weights from memory anew. A stripe is a number of outputs that fills vectors and matrix tiles.
 */
enum { STRIPE_FLOATS = 1 << 18, STRIPE_STEP = 64 };

static int stripe_outputs(int k, int n)
{
    const int fit = STRIPE_FLOATS / k / STRIPE_STEP * STRIPE_STEP;
    if ((int64_t)k * n <= STRIPE_FLOATS) return n;
    return fit < STRIPE_STEP ? STRIPE_STEP : fit;
}

sv_status sv_cpu_linear_prepare(sv_ctx *c, sv_linear_weights *out, sv_tensor w, sv_tensor bias)
{
    sv_linear_weights r = {.n = w.dim[0], .k = w.dim[1]};
    const int stripe = stripe_outputs(r.k, r.n), whole = r.n / stripe, rest = r.n % stripe;
    const size_t floats = sv_gemm_packed_count(r.k, stripe),
                 last = rest > 0 ? sv_gemm_packed_count(r.k, rest) : 0;
    if (!c->packed_only) SV_TRY(sv_weight_upload(c, &r.w, w));
    if (!sv_is_none(bias)) SV_TRY(sv_weight_upload(c, &r.bias, bias));
    SV_TRY(sv_arena_alloc(c, c->weights, "packed linear weights",
                          (floats * (size_t)whole + last) * sizeof(float), &r.packed));
    for (int first = 0, i = 0; first < r.n; first += stripe, i++)
        sv_gemm_pack((float *)r.packed + (size_t)i * floats, r.k, first + stripe <= r.n ? stripe : rest,
                     sv_f32(w) + (ptrdiff_t)first * w.pitch, 1, w.pitch);
    *out = r;
    return SV_OK;
}

typedef struct product {
    sv_gemm gemm; /* of the first stripe */
    int rows, tile, tiles, n, stripe;
    size_t stripe_floats;
} product;

/* Tasks are (stripe, tile of rows): what runs at the same time shares a stripe. */
static void run_tile(void *arg, int task, int worker)
{
    (void)worker;
    const product *p = arg;
    const int first = task % p->tiles * p->tile, i = task / p->tiles, column = i * p->stripe;
    sv_gemm gemm = p->gemm;
    gemm.n = p->n - column < p->stripe ? p->n - column : p->stripe;
    gemm.b += (size_t)i * p->stripe_floats;
    gemm.y += column;
    if (gemm.bias) gemm.bias += column;
    sv_gemm_run(&gemm, first, p->rows - first < p->tile ? p->rows - first : p->tile);
}

/* Rows of a task: about a million multiply-adds, ten microseconds. */
static int tile_rows(int k, int n)
{
    const int block = sv_gemm_row_block(k, n);
    const int64_t blocks = 1000000 / ((int64_t)k * n * block + 1);
    return block * (int)(blocks < 1 ? 1 : blocks > 16 ? 16 : blocks);
}

sv_status sv_cpu_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_linear_weights *w,
                        sv_map map)
{
    const int stripe = stripe_outputs(w->k, w->n);
    product p = {.rows = sv_live_rows(y),
                 .tile = tile_rows(w->k, stripe),
                 .n = w->n,
                 .stripe = stripe,
                 .stripe_floats = sv_gemm_packed_count(w->k, stripe)};
    p.tiles = (p.rows + p.tile - 1) / p.tile;
    p.gemm = (sv_gemm){
        .k = w->k,
        .n = w->n,
        .b = w->packed,
        .x = sv_f32(x),
        .x_pitch = x.pitch,
        .index = sv_is_none(index) ? NULL : sv_i32(index),
        .index_pitch = sv_is_none(index) ? 0 : index.pitch,
        .y = sv_f32(y),
        .y_pitch = y.pitch,
        .bias = sv_is_none(w->bias) ? NULL : sv_f32(w->bias),
        .map = map,
    };
    sv_pool_run(c->pool, run_tile, &p, p.tiles * ((w->n + stripe - 1) / stripe));
    sv_count_work(c, 2.0 * p.rows * w->k * w->n,
                  4.0 * ((double)p.rows * (w->k + w->n) + (double)w->k * w->n));
    return SV_OK;
}
