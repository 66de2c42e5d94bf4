/* SPDX-License-Identifier: Apache-2.0
 *
 * Running one case of a primitive on the CPU and on the GPU, and comparing. Every case runs
 *
 *     on the CPU | on the GPU | on the GPU again | captured in a graph and replayed twice
 *
 * The CPU and the GPU must agree: integers exactly, floats to a tolerance relative to the buffer's largest
 * magnitude. The runs on the GPU must give the same bytes. Buffers lie between guards and start out as a
 * pattern, dead rows of inputs hold garbage: what the CPU leaves untouched the GPU must leave untouched,
 * too.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include "perception/core/ops.h"

enum { MAX_BUFFERS = 24, GUARD = 512, PATTERN = 0xA5, EXACT = -1, WHOLE = -1 };

/* ---- cases --------------------------------------------------------------------------------------------- */

typedef struct buffer {
    const char *name;
    sv_dtype dtype;
    int rows, columns, pitch;
    int offsets, batch;   /* number of the buffer that holds the live rows' offsets, or WHOLE */
    double tolerance;     /* EXACT, or relative to the largest magnitude */
    unsigned char *start; /* rows * pitch elements between two guards: what every run begins with */
} buffer;

typedef struct test_case test_case;
struct test_case {
    char label[160];
    int count;
    buffer buffers[MAX_BUFFERS];
    sv_status (*prepare)(sv_ctx *c, test_case *t); /* weights; not captured. May be NULL */
    sv_status (*run)(sv_ctx *c, test_case *t, const sv_tensor *v);
    /* what the run functions take besides buffers */
    sv_map map;
    double share;
    bool flag, reverse;
    int length, jobs;
    int32_t shape[3], scale[3];
    sv_grid grid;
    sv_window window[8];
    sv_tensor host_w, host_bias;
    sv_linear_weights linear;
    sv_subm_weights subm;
    const void *more; /* what a suite adds for itself */
    sv_chain *chain;
};

/* For tools that slow everything down, a suite runs twice: the first time its cases are only measured. */
enum { SMALL_CASES = 2, SMALL_BYTES = 16 << 10 };
typedef enum turn { EVERY_CASE, MEASURE, CHOSEN_CASES } turn;

typedef struct bench {
    sv_ctx *cpu, *gpu;
    sv_arena cpu_weights, gpu_weights;
    double worst;           /* of the current primitive */
    double least_tolerance; /* of floats that may differ at all: what the GPU's precision does to them */
    int cases;
    turn turn;
    int number;              /* of the case within its suite */
    int chosen[SMALL_CASES]; /* the largest up to SMALL_BYTES, or the smallest; -1: none */
    size_t size[SMALL_CASES];
} bench;

/* Whether a case runs in this turn; to be asked once for each. */
bool takes_turn(bench *k, const test_case *t);

typedef struct run_result {
    sv_status status;
    unsigned char *bytes[MAX_BUFFERS]; /* guards included */
} run_result;

/* Of the whole program. */
extern int failures, passes;
extern const char *current_op; /* the suite that runs */

void seed_rng(uint64_t seed);
/* Before the cases of a suite are made; the same ones each time. */
void begin_suite(bench *k, const char *name, turn how);
uint64_t rng(void);
int below(int n);
float uniform(float from, float to);
float normal(void);
void fail(const test_case *t, const char *format, const char *what, const char *detail);
size_t buffer_bytes(const buffer *b);
void *at(const test_case *t, int i);
float *floats(const test_case *t, int i);
int32_t *ints(const test_case *t, int i);
int add(test_case *t, const char *name, sv_dtype dtype, int rows, int columns);
int add_output(test_case *t, const char *name, int rows, int columns, int offsets, int batch,
               double tolerance);
void with_offsets(test_case *t, int i, int offsets, int batch);
int add_offsets(test_case *t, int capacity, int batch, int unit);
int live(const test_case *t, int offsets);
int add_floats(test_case *t, const char *name, int capacity, int rows, int columns, float deviation);
int add_index(test_case *t, const char *name, int capacity, int rows, int range, bool holes);
int add_coords(test_case *t, int capacity, int offsets, int batch, const int32_t *shape);
/* Rows of several samples in the order of their groups. */
typedef struct order_case {
    int offsets, rows, capacity; /* the buffer of the rows' offsets */
} order_case;
order_case add_order(test_case *t, int batch, int length, int most);
/* Candidates in four buffers from 'first' on: boxes, scores, labels, index; their offsets in buffer 'offsets'. */
sv_candidates candidates_of(const sv_tensor *v, int first, int offsets, int batch);
void add_candidates(test_case *t, int capacity, double tolerance);
void free_case(test_case *t);
void free_result(run_result *r);
sv_status run_eagerly(sv_ctx *c, test_case *t, run_result *r);
bool is_pattern(const unsigned char *bytes, size_t count);
bool device_ok(const test_case *t, sv_ctx *c, sv_status status, const char *what);
void check(bench *k, test_case *t);

/* Rows of most cases: few, around a warp, around a tile, many. */
enum { ROW_COUNTS = 7 };
extern const int row_counts[ROW_COUNTS];

/* The suites, in files by what they are about. */
#define SUITE(name, check) void check(bench *k);
#include "suites.def"
#undef SUITE

#endif
