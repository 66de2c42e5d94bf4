/* SPDX-License-Identifier: Apache-2.0
 *
 * ATLAS' memory over monomials on the GPU for heads of up to 8 channels and windows of up to 8 tokens
 * (deep_memory.simd.c has the formulas), in double. A warp has a head of a group: lane (r, j) of 4 x 8 has
 * column j of rows r, r + 4 ... of the memory and of its momentum in registers.
 *
 * Newton-Schulz' steps X -> X (a + b X'X + c (X'X)^2) are polynomials of X'X, which stay polynomials of the
 * first one: so the product Q of all steps' factors is found with matrices of 8 x 8 alone, G -> P G P from
 * step to step, and X Q is taken once.
 */
#include "backbones/deep_memory_walk.cuh"

namespace {

enum {
    WIDTH = SV_DEEP_NARROW,
    WINDOW = SV_DEEP_WINDOW,
    FEATURES = 1 + WIDTH + WIDTH * (WIDTH + 1) / 2,
    PARTS = 4,
    ROWS = (FEATURES + PARTS - 1) / PARTS,
    PITCH = WIDTH + 2,
    TURNS = 5
};
constexpr unsigned ALL = 0xffffffffu;

struct alignas(16) square {
    double at[WIDTH][PITCH];
};
struct alignas(16) omega {
    double phi[WINDOW][ROWS * PARTS], asked[ROWS * PARTS], x[ROWS * PARTS][PITCH];
    double v[WINDOW][WIDTH], gamma[WINDOW], one[WIDTH + 1]; /* a token's channels, and 1 */
    square gram, power, factor, product, spare;
    uint8_t left[ROWS * PARTS], right[ROWS * PARTS]; /* the two channels of a monomial; WIDTH: 1 */
};

struct place {
    const sv_deep_walk_job *job;
    int64_t group;
    int head, lane, row, column; /* of the first number */
};

__device__ __forceinline__ const float *token(const place &p, const sv_tensor &t, int step)
{
    return sv_walk_row(t, p.job->walk, p.group, step) + p.head * p.job->width;
}
__device__ __forceinline__ double number(const place &p, const sv_tensor &t, int step)
{
    return (double)sv_walk_row(t, p.job->walk, p.group, step)[p.head];
}

/* Over the lanes of a column. */
__device__ __forceinline__ double sum_column(double x)
{
    x += __shfl_xor_sync(ALL, x, WIDTH);
    return x + __shfl_xor_sync(ALL, x, 2 * WIDTH);
}

/* Which channels monomial n is made of: 1, x_i, then x_i x_j with i <= j. */
__device__ void name_monomials(omega *m, const place &p)
{
    const int width = p.job->width;
    for (int n = p.lane; n < ROWS * PARTS; n += SV_WARP) m->left[n] = m->right[n] = WIDTH;
    __syncwarp();
    for (int i = p.lane; i < width; i += SV_WARP) {
        m->left[1 + i] = (uint8_t)i;
        for (int j = i; j < width; j++) {
            const int n = 1 + width + i * width - i * (i - 1) / 2 + j - i;
            m->left[n] = (uint8_t)i;
            m->right[n] = (uint8_t)j;
        }
    }
    __syncwarp();
}

/* The monomials of a token, zeros behind them. */
__device__ __forceinline__ void monomials(omega *m, const place &p, double *phi, const float *x)
{
    const int width = p.job->width, features = 1 + width + width * (width + 1) / 2;
    __syncwarp();
    if (p.lane <= WIDTH) m->one[p.lane] = p.lane < width ? (double)x[p.lane] : 1.0;
    __syncwarp();
    for (int n = p.lane; n < ROWS * PARTS; n += SV_WARP)
        phi[n] = n < features ? m->one[m->left[n]] * m->one[m->right[n]] : 0.0;
    __syncwarp();
}

__device__ __forceinline__ void remember(omega *m, const place &p, int at, const float *k, const float *v,
                                         double gamma)
{
    monomials(m, p, m->phi[at], k);
    if (p.lane < WIDTH) m->v[at][p.lane] = p.lane < p.job->width ? (double)v[p.lane] : 0.0;
    if (p.lane == 0) m->gamma[at] = gamma;
    __syncwarp();
}

/* phi'M, this lane's column. */
__device__ __forceinline__ double ask(const place &p, const double *phi, const double (&m)[ROWS])
{
    double sum[2] = {};
#pragma unroll
    for (int i = 0; i < ROWS; i++) sum[i % 2] = fma(phi[p.row + PARTS * i], m[i], sum[i % 2]);
    return sum_column(sum[0] + sum[1]);
}

/* s = theta s + the gradient of the window's loss at m */
__device__ __forceinline__ void learn(const omega *o, const place &p, double (&s)[ROWS],
                                      const double (&m)[ROWS], double theta)
{
#pragma unroll
    for (int i = 0; i < ROWS; i++) s[i] *= theta;
#pragma unroll 2
    for (int at = 0; at < p.job->rule.batch; at++) {
        const double by = o->gamma[at] * (ask(p, o->phi[at], m) - o->v[at][p.column]);
#pragma unroll
        for (int i = 0; i < ROWS; i++) s[i] = fma(o->phi[at][p.row + PARTS * i], by, s[i]);
    }
}

/* c = a b, all of them symmetric; a lane has rows 2 r and 2 r + 1 of a column. */
__device__ __forceinline__ void multiply(square *c, const square &a, const square &b, const place &p)
{
    double sum[2] = {};
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        sum[0] = fma(a.at[2 * p.row][k], b.at[k][p.column], sum[0]);
        sum[1] = fma(a.at[2 * p.row + 1][k], b.at[k][p.column], sum[1]);
    }
    c->at[2 * p.row][p.column] = sum[0];
    c->at[2 * p.row + 1][p.column] = sum[1];
}

/* X'X of what lies in o->x. */
__device__ __forceinline__ void find_gram(omega *o, const place &p)
{
    double g[WIDTH] = {};
#pragma unroll 2
    for (int i = 0; i < ROWS; i++) {
        const double *row = o->x[p.row + PARTS * i], own = row[p.column];
#pragma unroll
        for (int k = 0; k < WIDTH; k++) g[k] = fma(row[k], own, g[k]);
    }
#pragma unroll
    for (int k = 0; k < WIDTH; k++) g[k] = sum_column(g[k]);
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        if (k / 2 == p.row) o->gram.at[k][p.column] = g[k];
    __syncwarp();
}

/* The product of the steps' factors, coefficients of Jordan et al. (2024), to o->product. */
__device__ void find_product(omega *o, const place &p)
{
    const double a = 3.4445, b = -4.7750, c = 2.0315;
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn++) {
        multiply(&o->power, o->gram, o->gram, p);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = 2 * p.row + i;
            o->factor.at[row][p.column] =
                (row == p.column ? a : 0.0) + b * o->gram.at[row][p.column] + c * o->power.at[row][p.column];
            if (turn == 0) o->product.at[row][p.column] = o->factor.at[row][p.column];
        }
        __syncwarp();
        multiply(&o->power, o->gram, o->factor, p);
        if (turn > 0) multiply(&o->spare, o->product, o->factor, p);
        __syncwarp();
        multiply(&o->gram, o->power, o->factor, p);
#pragma unroll
        for (int i = 0; i < 2 && turn > 0; i++)
            o->product.at[2 * p.row + i][p.column] = o->spare.at[2 * p.row + i][p.column];
        __syncwarp();
    }
}

/* m = keep m - eta NS(s) */
__device__ __forceinline__ void step_on(omega *o, const place &p, double (&m)[ROWS], const double (&s)[ROWS],
                                        double keep, double eta)
{
    double sum = 0;
#pragma unroll
    for (int i = 0; i < ROWS; i++) sum = fma(s[i], s[i], sum);
    sum = sv_warp_sum(sum);
    const double by = sum > 0 ? 1 / sqrt(sum) : 0;
#pragma unroll
    for (int i = 0; i < ROWS; i++) o->x[p.row + PARTS * i][p.column] = by * s[i];
    __syncwarp();
    find_gram(o, p);
    find_product(o, p);
    double q[WIDTH];
#pragma unroll
    for (int k = 0; k < WIDTH; k++) q[k] = o->product.at[k][p.column];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        double x[2] = {};
#pragma unroll
        for (int k = 0; k < WIDTH; k++) x[k % 2] = fma(o->x[p.row + PARTS * i][k], q[k], x[k % 2]);
        m[i] = keep * m[i] - eta * (x[0] + x[1]);
    }
    __syncwarp();
}

/* Where a head's parts of a state lie. */
struct parts {
    float *memory, *momentum, *k, *v, *gamma;
};
__device__ __forceinline__ parts parts_of(const place &p, const sv_tensor &states)
{
    const int width = p.job->width, heads = p.job->rule.heads, kept = p.job->rule.batch - 1,
              size = (1 + width + width * (width + 1) / 2) * width;
    float *state = sv_walk_group(states, p.group), *rows = state + 2 * (int64_t)heads * size;
    return {state + (int64_t)p.head * size, state + (int64_t)(heads + p.head) * size,
            rows + (int64_t)p.head * kept * width, rows + (int64_t)(heads + p.head) * kept * width,
            rows + 2 * (int64_t)heads * kept * width + (int64_t)p.head * kept};
}

/* What of the state before and of this walk the next one's window begins with. */
__device__ void keep_window(const place &p, const parts &before, const parts &after)
{
    const int kept = p.job->rule.batch - 1, width = p.job->width, length = p.job->walk.length;
    for (int i = p.lane; i < kept * width; i += SV_WARP) {
        const int step = length - kept + i / width, at = i % width;
        const int64_t row = (int64_t)(kept + step) * width + at; /* of the state, where the walk is short */
        after.k[i] = step < 0 ? before.k[row] : token(p, p.job->in.k, step)[at];
        after.v[i] = step < 0 ? before.v[row] : token(p, p.job->in.v, step)[at];
    }
    for (int i = p.lane; i < kept; i += SV_WARP) {
        const int step = length - kept + i;
        after.gamma[i] = step < 0 ? before.gamma[kept + step] : (float)number(p, p.job->in.gamma, step);
    }
}

__global__ void __launch_bounds__(SV_WARP) walk_window(const __grid_constant__ sv_deep_walk_job job)
{
    __shared__ omega shared;
    omega *o = &shared;
    place p;
    p.job = &job;
    p.group = blockIdx.x / job.rule.heads;
    p.head = (int)(blockIdx.x % job.rule.heads);
    p.lane = threadIdx.x;
    p.row = p.lane / WIDTH;
    p.column = p.lane % WIDTH;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    const int width = job.width, batch = job.rule.batch, features = 1 + width + width * (width + 1) / 2;
    const bool used = p.column < width;
    const parts before = parts_of(p, job.before);
    double m[ROWS], s[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int at = (p.row + PARTS * i) * width + p.column;
        const bool there = used && p.row + PARTS * i < features;
        m[i] = there ? (double)before.memory[at] : 0.0;
        s[i] = there ? (double)before.momentum[at] : 0.0;
    }
    name_monomials(o, p);
    for (int i = 0; i < batch - 1; i++) /* steps 1 - batch .. -1 */
        remember(o, p, i + 1, before.k + i * width, before.v + i * width, (double)before.gamma[i]);
#pragma unroll 1
    for (int step = 0; step < job.walk.length; step++) {
        remember(o, p, step % batch, token(p, job.in.k, step), token(p, job.in.v, step),
                 number(p, job.in.gamma, step));
        learn(o, p, s, m, number(p, job.in.theta, step));
        step_on(o, p, m, s, 1 - number(p, job.in.alpha, step), number(p, job.in.eta, step));
        monomials(o, p, o->asked, token(p, job.in.q, step));
        const double y = ask(p, o->asked, m);
        if (used && p.row == 0)
            sv_walk_row(job.y, job.walk, p.group, step)[p.head * width + p.column] = (float)y;
    }
    if (!job.after.data) return;
    const parts after = parts_of(p, job.after);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int at = (p.row + PARTS * i) * width + p.column;
        if (!used || p.row + PARTS * i >= features) continue;
        after.memory[at] = (float)m[i];
        after.momentum[at] = (float)s[i];
    }
    keep_window(p, before, after);
}

} // namespace

bool sv_cuda_deep_window_fits(const sv_deep_memory *rule, int width)
{
    return rule->kind == SV_DEEP_OMEGA && width <= WIDTH && rule->batch <= WINDOW;
}

sv_status sv_cuda_deep_window(sv_ctx *c, const sv_deep_walk_job *job, int groups, cudaStream_t stream)
{
    walk_window<<<(unsigned)(groups * job->rule.heads), SV_WARP, 0, stream>>>(*job);
    return SV_CUDA_LAUNCHED(c, "deep_memory_scan");
}
