/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_linear [REPEATS]: GFLOP/s of the library's matrix product (gemm.h) on one thread, for the shapes of LION,
 * beside the processor's multiply-add rate under the same conditions and, where it is built in, oneDNN's matmul with
 * packed weights: once for all rows, and in tiles of 192 rows as a pool task would call it. Best of the repeats, taken
 * in turns, so that a busy machine slows all of them alike.
 */
#include "perception/core/gemm.h"
#include "perception/core/simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHAPES = 12, TILE = 192 };

static const struct {
    int rows, k, n;
} shapes[SHAPES] = {
    {7000, 64, 64},   {7000, 64, 128},  {7000, 64, 256},   {7000, 128, 64},
    {7000, 128, 128}, {7000, 128, 256}, {28000, 128, 512}, {28000, 256, 128},
    {28000, 64, 256}, {28000, 128, 40}, {28000, 256, 512}, {7000, 8, 128},
};

static float *random_floats(size_t count)
{
    float *values = aligned_alloc(64, (count * sizeof *values + 63) / 64 * 64);
    if (!values) exit(4);
    for (size_t i = 0; i < count; i++) values[i] = (float)(i * 7919 % 1009) / 1009.0f - 0.5f;
    return values;
}

static double best(double ms, double least)
{
    return ms < least ? ms : least;
}

/* ---- oneDNN ------------------------------------------------------------------------------------------- */

#ifdef SAVANNA_ONEDNN
#include <dnnl.h>

extern void omp_set_num_threads(int threads) __attribute__((weak));

/* Memory descriptors are structures in version 2 and handles in version 3. */
#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t desc_ref;
#define REF(desc) (desc)
#else
typedef const dnnl_memory_desc_t *desc_ref;
#define REF(desc)                            (&(desc))
#define dnnl_memory_desc_create_with_strides dnnl_memory_desc_init_by_strides
#define dnnl_memory_desc_create_with_tag     dnnl_memory_desc_init_by_tag
#endif

static dnnl_engine_t engine;
static dnnl_stream_t stream;

typedef struct dnnl_product {
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y;
} dnnl_product;

static void must(dnnl_status_t status)
{
    if (status == dnnl_success) return;
    fprintf(stderr, "oneDNN failed with status %d\n", (int)status);
    exit(4);
}

/* y [rows,n] = x [rows,k] w^T, w [n,k] reordered to the layout that oneDNN chooses */
static dnnl_product prepare(int rows, int k, int n, float *w)
{
    dnnl_dims_t dims_x = {rows, k}, dims_w = {k, n}, dims_y = {rows, n};
    dnnl_dims_t strides_x = {k, 1}, strides_w = {1, k}, strides_y = {n, 1};
    dnnl_memory_desc_t x, any, plain, y;
    must(dnnl_memory_desc_create_with_strides(&x, 2, dims_x, dnnl_f32, strides_x));
    must(dnnl_memory_desc_create_with_strides(&plain, 2, dims_w, dnnl_f32, strides_w));
    must(dnnl_memory_desc_create_with_strides(&y, 2, dims_y, dnnl_f32, strides_y));
    must(dnnl_memory_desc_create_with_tag(&any, 2, dims_w, dnnl_f32, dnnl_format_tag_any));
    dnnl_primitive_desc_t desc, reorder_desc;
#if DNNL_VERSION_MAJOR >= 3
    must(dnnl_matmul_primitive_desc_create(&desc, engine, x, any, NULL, y, NULL));
#else
    dnnl_matmul_desc_t operation;
    must(dnnl_matmul_desc_init(&operation, &x, &any, NULL, &y));
    must(dnnl_primitive_desc_create(&desc, &operation, NULL, engine, NULL));
#endif
    const desc_ref packed = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    dnnl_product p;
    must(dnnl_primitive_create(&p.primitive, desc));
    must(dnnl_memory_create(&p.x, REF(x), engine, DNNL_MEMORY_NONE));
    must(dnnl_memory_create(&p.y, REF(y), engine, DNNL_MEMORY_NONE));
    must(dnnl_memory_create(&p.w, packed, engine, DNNL_MEMORY_ALLOCATE));
    dnnl_memory_t from;
    must(dnnl_memory_create(&from, REF(plain), engine, w));
    must(dnnl_reorder_primitive_desc_create(&reorder_desc, REF(plain), engine, packed, engine, NULL));
    dnnl_primitive_t reorder;
    must(dnnl_primitive_create(&reorder, reorder_desc));
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, p.w}};
    must(dnnl_primitive_execute(reorder, stream, 2, arguments));
    must(dnnl_stream_wait(stream));
    must(dnnl_primitive_destroy(reorder));
    must(dnnl_memory_destroy(from));
    must(dnnl_primitive_desc_destroy(reorder_desc));
    must(dnnl_primitive_desc_destroy(desc));
    return p;
}

static void execute(const dnnl_product *p, float *x, float *y)
{
    must(dnnl_memory_set_data_handle(p->x, x));
    must(dnnl_memory_set_data_handle(p->y, y));
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, p->x}, {DNNL_ARG_WEIGHTS, p->w}, {DNNL_ARG_DST, p->y}};
    must(dnnl_primitive_execute(p->primitive, stream, 3, arguments));
    must(dnnl_stream_wait(stream));
}

static void release(dnnl_product *p)
{
    must(dnnl_primitive_destroy(p->primitive));
    must(dnnl_memory_destroy(p->x));
    must(dnnl_memory_destroy(p->y));
    must(dnnl_memory_destroy(p->w));
}
#endif

/* ---- the measurement ---------------------------------------------------------------------------------- */

/* A product that lives in L1 and fills whole register tiles: what the multiply-add units give right now. */
static double peak_gflops(void)
{
    enum { ROWS = 96, DEPTH = 64, COLUMNS = 64, TIMES = 40 };
    static float x[ROWS * DEPTH], y[ROWS * COLUMNS], *packed;
    if (!packed) {
        packed = random_floats(sv_gemm_packed_count(DEPTH, COLUMNS));
        sv_gemm_pack(packed, DEPTH, COLUMNS, random_floats((size_t)DEPTH * COLUMNS), 1, DEPTH);
    }
    const sv_gemm g = {
        .k = DEPTH, .n = COLUMNS, .b = packed, .x = x, .x_pitch = DEPTH, .y = y, .y_pitch = COLUMNS};
    const double began = sv_clock_ms();
    for (int i = 0; i < TIMES; i++) sv_gemm_run(&g, 0, ROWS);
    return 2e-6 * TIMES * ROWS * DEPTH * COLUMNS / (sv_clock_ms() - began);
}

int main(int count, char **arguments)
{
    const int repeats = count > 1 ? atoi(arguments[1]) : 20;
    printf("%s\n%-20s %10s", sv_isa_name(sv_simd_isa()), "rows x k x n", "own");
#ifdef SAVANNA_ONEDNN
    if (omp_set_num_threads) omp_set_num_threads(1);
    must(dnnl_engine_create(&engine, dnnl_cpu, 0));
    must(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    printf(" %10s %10s", "oneDNN", "in tiles");
#endif
    printf(" %10s   GFLOP/s\n", "in L1");
    for (int s = 0; s < SHAPES; s++) {
        const int rows = shapes[s].rows, k = shapes[s].k, n = shapes[s].n;
        float *x = random_floats((size_t)rows * (size_t)k), *w = random_floats((size_t)k * (size_t)n);
        float *y = random_floats((size_t)rows * (size_t)n),
              *packed = random_floats(sv_gemm_packed_count(k, n));
        sv_gemm_pack(packed, k, n, w, 1, k);
        const sv_gemm g = {.k = k, .n = n, .b = packed, .x = x, .x_pitch = k, .y = y, .y_pitch = n};
#ifdef SAVANNA_ONEDNN
        dnnl_product whole = prepare(rows, k, n, w), tile = prepare(TILE, k, n, w);
#endif
        double own = 1e30, peak = 0, one = 1e30, tiles = 1e30;
        for (int r = 0; r < repeats; r++) {
            double began = sv_clock_ms();
            sv_gemm_run(&g, 0, rows);
            own = best(sv_clock_ms() - began, own);
#ifdef SAVANNA_ONEDNN
            began = sv_clock_ms();
            execute(&whole, x, y);
            one = best(sv_clock_ms() - began, one);
            began = sv_clock_ms();
            int done = 0;
            for (; done + TILE <= rows; done += TILE)
                execute(&tile, x + (size_t)done * (size_t)k, y + (size_t)done * (size_t)n);
            tiles = best((sv_clock_ms() - began) * rows / done, tiles);
#endif
            const double now = peak_gflops();
            peak = now > peak ? now : peak;
        }
        const double work = 2e-6 * rows * k * n;
        char name[64];
        snprintf(name, sizeof name, "%d x %d x %d", rows, k, n);
        printf("%-20s %10.1f", name, work / own);
#ifdef SAVANNA_ONEDNN
        printf(" %10.1f %10.1f", work / one, work / tiles);
        release(&whole);
        release(&tile);
#endif
        (void)one, (void)tiles;
        printf(" %10.1f\n", peak);
        free(x);
        free(w);
        free(y);
        free(packed);
    }
    return 0;
}
