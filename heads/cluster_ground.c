/* SPDX-License-Identifier: Apache-2.0
 *
 * The ground under a scan, on a grid of cells of GROUND.CELL metres.
 *
 *   1. low(c): the lowest point of each cell. The ground near the sensor is the commonest of these heights there.
 *   2. Heights that no road reaches (beyond STEP + GRADE * distance above or below it) and single low points without a
 *      neighbour of like height (reflections) are left out.
 *   3. envelope(c) = the highest surface below every low(c) that nowhere rises faster than SLOPE: a lower envelope by
 *      cones, min over d of low(d) + SLOPE |c - d|, made by two sweeps over the grid (a distance transform with
 *      chamfer steps: Borgefors 1986). Cars, hedges and walls stand above it, hills and ramps do not.
 *   4. Cells whose low point is within STEP of the envelope carry the ground; the others take it from their surroundings,
 *      mean over ever larger squares (a pyramid filled from coarse to fine); then it is smoothed once.
 *
 * Only minima, and sums in a fixed order over cells: the order of the points does not matter.
 */
#include "cluster.h"

#include <math.h>
#include <string.h>

enum { MOST_CELLS = 1 << 22, LEVELS = 12 };

static float distance_to(const sv_cluster_rules *r, float x, float y)
{
    return hypotf(x - r->sensor[0], y - r->sensor[1]);
}

static float centre_x(const sv_cluster_ground *g, int ix)
{
    return g->x0 + ((float)ix + 0.5f) * g->cell;
}
static float centre_y(const sv_cluster_ground *g, int iy)
{
    return g->y0 + ((float)iy + 0.5f) * g->cell;
}

static void find_low_points(const sv_cluster_rules *r, const sv_cluster_ground *g, const float *points,
                            int count, int columns, float *low)
{
    for (int i = 0; i < g->nx * g->ny; i++) low[i] = INFINITY;
    const float inverse = 1 / g->cell;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        if (!(p[0] >= r->range[0] && p[0] < r->range[3] && p[1] >= r->range[1] && p[1] < r->range[4] &&
              p[2] >= r->range[2] && p[2] < r->range[5]))
            continue;
        int ix = (int)((p[0] - g->x0) * inverse), iy = (int)((p[1] - g->y0) * inverse);
        if (ix >= g->nx) ix = g->nx - 1;
        if (iy >= g->ny) iy = g->ny - 1;
        float *l = &low[iy * g->nx + ix];
        if (p[2] < *l) *l = p[2];
    }
}

/* The commonest low height around the sensor; where two are about as common, the lower one. */
static float height_at_sensor(const sv_cluster_rules *r, const sv_cluster_ground *g, const float *low)
{
    enum { BINS = 512 };
    const float bin = (r->range[5] - r->range[2]) / BINS;
    for (float reach = 15; reach < 1000; reach *= 2) {
        int histogram[BINS + 2] = {0}, total = 0;
        for (int iy = 0; iy < g->ny; iy++)
            for (int ix = 0; ix < g->nx; ix++) {
                const float z = low[iy * g->nx + ix];
                if (!isfinite(z) || distance_to(r, centre_x(g, ix), centre_y(g, iy)) > reach) continue;
                const int b = (int)((z - r->range[2]) / bin);
                histogram[1 + (b < 0 ? 0 : b >= BINS ? BINS - 1 : b)]++;
                total++;
            }
        if (total < 20) continue;
        /* windows of about 0.3 m, so that a road with some slope still is one hill of the histogram */
        const int half = (int)(0.15f / bin);
        int best = 0, best_bin = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int b = 1; b <= BINS; b++) {
                int sum = 0;
                for (int k = b - half; k <= b + half; k++)
                    if (k >= 1 && k <= BINS) sum += histogram[k];
                if (pass == 0 && sum > best) best = sum;
                if (pass == 1 && 10 * sum >= 7 * best) {
                    best_bin = b;
                    break;
                }
            }
        /* the middle of what lies in the window */
        int sum = 0;
        double weighted = 0;
        for (int k = best_bin - half; k <= best_bin + half; k++)
            if (k >= 1 && k <= BINS) {
                sum += histogram[k];
                weighted += (double)histogram[k] * (k - 0.5);
            }
        return r->range[2] + (float)(weighted / sum) * bin;
    }
    /* hardly any point: the lowest one */
    float lowest = INFINITY;
    for (int i = 0; i < g->nx * g->ny; i++) lowest = fminf(lowest, low[i]);
    return isfinite(lowest) ? lowest : 0;
}

/* Heights no road reaches, and points below the ground, become "nothing". */
static void drop_outliers(const sv_cluster_rules *r, const sv_cluster_ground *g, float z0, float *low,
                          float *kept)
{
    for (int iy = 0; iy < g->ny; iy++)
        for (int ix = 0; ix < g->nx; ix++) {
            const int c = iy * g->nx + ix;
            const float room = 0.5f + r->ground.grade * distance_to(r, centre_x(g, ix), centre_y(g, iy));
            if (fabsf(low[c] - z0) > room) low[c] = INFINITY;
        }
    for (int iy = 0; iy < g->ny; iy++)
        for (int ix = 0; ix < g->nx; ix++) {
            const int c = iy * g->nx + ix;
            kept[c] = low[c];
            if (!isfinite(low[c])) continue;
            int neighbours = 0, like = 0;
            for (int dy = -2; dy <= 2; dy++)
                for (int dx = -2; dx <= 2; dx++) {
                    const int x = ix + dx, y = iy + dy;
                    if ((dx == 0 && dy == 0) || x < 0 || y < 0 || x >= g->nx || y >= g->ny) continue;
                    const float z = low[y * g->nx + x];
                    if (!isfinite(z)) continue;
                    neighbours++;
                    like += z < low[c] + 0.25f;
                }
            if (neighbours >= 4 && like == 0) kept[c] = INFINITY;
        }
}

/* Lower envelope by cones of SLOPE, in place. */
static void make_envelope(const sv_cluster_ground *g, float slope, float *z)
{
    const float straight = slope * g->cell, diagonal = straight * 1.41421356f;
    const int nx = g->nx, ny = g->ny;
    for (int iy = 0; iy < ny; iy++)
        for (int ix = 0; ix < nx; ix++) {
            float *p = &z[iy * nx + ix], v = *p;
            if (ix > 0) v = fminf(v, p[-1] + straight);
            if (iy > 0) {
                v = fminf(v, p[-nx] + straight);
                if (ix > 0) v = fminf(v, p[-nx - 1] + diagonal);
                if (ix + 1 < nx) v = fminf(v, p[-nx + 1] + diagonal);
            }
            *p = v;
        }
    for (int iy = ny - 1; iy >= 0; iy--)
        for (int ix = nx - 1; ix >= 0; ix--) {
            float *p = &z[iy * nx + ix], v = *p;
            if (ix + 1 < nx) v = fminf(v, p[1] + straight);
            if (iy + 1 < ny) {
                v = fminf(v, p[nx] + straight);
                if (ix + 1 < nx) v = fminf(v, p[nx + 1] + diagonal);
                if (ix > 0) v = fminf(v, p[nx - 1] + diagonal);
            }
            *p = v;
        }
}

/* Cells without ground (weight 0) take the mean of their square on the finest level that has any. */
static sv_status fill_gaps(sv_ctx *c, const sv_cluster_ground *g, const float *weight, float *height,
                           float otherwise)
{
    float *w[LEVELS], *h[LEVELS];
    int nx[LEVELS], ny[LEVELS], levels = 1;
    nx[0] = g->nx, ny[0] = g->ny;
    w[0] = (float *)weight, h[0] = height;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    for (; levels < LEVELS && (nx[levels - 1] > 1 || ny[levels - 1] > 1); levels++) {
        const int l = levels;
        nx[l] = (nx[l - 1] + 1) / 2, ny[l] = (ny[l - 1] + 1) / 2;
        void *memory = NULL;
        const size_t cells = (size_t)nx[l] * (size_t)ny[l];
        SV_TRY(sv_arena_alloc(c, &c->scratch, "ground pyramid", 2 * cells * sizeof(float), &memory));
        w[l] = memory, h[l] = w[l] + cells;
        for (int y = 0; y < ny[l]; y++)
            for (int x = 0; x < nx[l]; x++) {
                float sum = 0, product = 0;
                for (int k = 0; k < 4; k++) {
                    const int fx = 2 * x + (k & 1), fy = 2 * y + (k >> 1);
                    if (fx >= nx[l - 1] || fy >= ny[l - 1]) continue;
                    const int f = fy * nx[l - 1] + fx;
                    sum += w[l - 1][f];
                    product += w[l - 1][f] * h[l - 1][f];
                }
                w[l][y * nx[l] + x] = fminf(sum, 1);
                h[l][y * nx[l] + x] = sum > 0 ? product / sum : otherwise;
            }
    }
    for (int l = levels - 2; l >= 0; l--)
        for (int y = 0; y < ny[l]; y++)
            for (int x = 0; x < nx[l]; x++) {
                if (w[l][y * nx[l] + x] > 0) continue;
                /* between the four nearest of the coarser level */
                const float fx = fmaxf(0, ((float)x - 0.5f) / 2), fy = fmaxf(0, ((float)y - 0.5f) / 2);
                const int x0 = (int)fx, y0 = (int)fy;
                const int x1 = x0 + 1 < nx[l + 1] ? x0 + 1 : x0, y1 = y0 + 1 < ny[l + 1] ? y0 + 1 : y0;
                const float tx = fx - (float)x0, ty = fy - (float)y0, *coarse = h[l + 1];
                const float top = coarse[y0 * nx[l + 1] + x0] * (1 - tx) + coarse[y0 * nx[l + 1] + x1] * tx,
                            bottom =
                                coarse[y1 * nx[l + 1] + x0] * (1 - tx) + coarse[y1 * nx[l + 1] + x1] * tx;
                h[l][y * nx[l] + x] = top * (1 - ty) + bottom * ty;
            }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static void smooth(const sv_cluster_ground *g, const float *in, float *out)
{
    for (int iy = 0; iy < g->ny; iy++)
        for (int ix = 0; ix < g->nx; ix++) {
            float sum = 0, weights = 0;
            for (int dy = -1; dy <= 1; dy++)
                for (int dx = -1; dx <= 1; dx++) {
                    const int x = ix + dx, y = iy + dy;
                    if (x < 0 || y < 0 || x >= g->nx || y >= g->ny) continue;
                    const float w = (float)((2 - (dx != 0)) * (2 - (dy != 0)));
                    sum += w * in[y * g->nx + x];
                    weights += w;
                }
            out[iy * g->nx + ix] = sum / weights;
        }
}

sv_status sv_cluster_find_ground(sv_ctx *c, const sv_cluster_rules *r, const float *points, int count,
                                 int columns, sv_cluster_ground *out)
{
    *out = (sv_cluster_ground){.x0 = r->range[0], .y0 = r->range[1], .cell = r->ground.cell};
    out->nx = (int)ceilf((r->range[3] - r->range[0]) / out->cell);
    out->ny = (int)ceilf((r->range[4] - r->range[1]) / out->cell);
    const size_t cells = (size_t)out->nx * (size_t)out->ny;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ground", cells * sizeof(float), &memory));
    out->height = memory;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ground work", 3 * cells * sizeof(float), &memory));
    float *low = memory, *kept = low + cells, *envelope = kept + cells;

    find_low_points(r, out, points, count, columns, low);
    const float z0 = height_at_sensor(r, out, low);
    drop_outliers(r, out, z0, low, kept);
    for (int iy = 0; iy < out->ny; iy++)
        for (int ix = 0; ix < out->nx; ix++) {
            const float most =
                z0 + r->ground.step + r->ground.grade * distance_to(r, centre_x(out, ix), centre_y(out, iy));
            envelope[iy * out->nx + ix] = fminf(kept[iy * out->nx + ix], most);
        }
    make_envelope(out, r->ground.slope, envelope);
    float *weight = low; /* not needed any more */
    for (size_t i = 0; i < cells; i++) {
        weight[i] = kept[i] <= envelope[i] + r->ground.step ? 1 : 0;
        if (weight[i] == 0) kept[i] = 0;
    }
    SV_TRY(fill_gaps(c, out, weight, kept, z0));
    smooth(out, kept, out->height);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

float sv_cluster_ground_at(const sv_cluster_ground *g, float x, float y)
{
    const float fx = fminf(fmaxf((x - g->x0) / g->cell - 0.5f, 0), (float)(g->nx - 1)),
                fy = fminf(fmaxf((y - g->y0) / g->cell - 0.5f, 0), (float)(g->ny - 1));
    const int x0 = (int)fx, y0 = (int)fy;
    const int x1 = x0 + 1 < g->nx ? x0 + 1 : x0, y1 = y0 + 1 < g->ny ? y0 + 1 : y0;
    const float tx = fx - (float)x0, ty = fy - (float)y0;
    const float near = g->height[y0 * g->nx + x0] * (1 - tx) + g->height[y0 * g->nx + x1] * tx,
                far = g->height[y1 * g->nx + x0] * (1 - tx) + g->height[y1 * g->nx + x1] * tx;
    return near * (1 - ty) + far * ty;
}
