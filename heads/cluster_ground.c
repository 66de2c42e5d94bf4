/* SPDX-License-Identifier: Apache-2.0
 *
 * The ground under a scan, on a grid of cells of GROUND.CELL metres.
 *
 *   1. low(c): the lowest point of each cell. The ground at the sensor is the median of these heights around it.
 *   2. Heights that no road reaches (more than half a metre and GRADE * distance above or below that) and single low points
 *      without neighbours of like height (reflections) are left out.
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
#include <stdlib.h>
#include <string.h>

enum { LEVELS = 12 };

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

static int place_of(float metres, float inverse, int places)
{
    const float place = lesser(greater(metres * inverse, 0), (float)(places - 1));
    return (int)place;
}

/* The middle one of the low heights around the sensor: as many lie uphill as downhill, and most are ground. */
static float height_at_sensor(const sv_cluster_rules *r, const sv_cluster_ground *g, const float *low)
{
    enum { BINS = 1024 };
    const float bin = (r->range[5] - r->range[2]) / BINS;
    float lowest = INFINITY;
    for (float reach = 8; reach < 1000; reach *= 2) {
        int histogram[BINS] = {0}, total = 0;
        const int x0 = place_of(r->sensor[0] - reach - g->x0, g->inverse, g->nx),
                  x1 = place_of(r->sensor[0] + reach - g->x0, g->inverse, g->nx),
                  y0 = place_of(r->sensor[1] - reach - g->y0, g->inverse, g->ny),
                  y1 = place_of(r->sensor[1] + reach - g->y0, g->inverse, g->ny);
        for (int iy = y0; iy <= y1; iy++)
            for (int ix = x0; ix <= x1; ix++) {
                const float z = low[iy * g->nx + ix];
                if (!isfinite(z)) continue;
                lowest = lesser(lowest, z);
                histogram[place_of(z - r->range[2], 1 / bin, BINS)]++;
                total++;
            }
        if (total < 20) continue;
        int middle = 0;
        for (int below = histogram[0]; 2 * below < total; below += histogram[middle]) middle++;
        return r->range[2] + ((float)middle + 0.5f) * bin;
    }
    return isfinite(lowest) ? lowest : 0; /* hardly any point */
}

/* Whether the cell's low point has fewer than two others of like height around it, up to where six are far above. Ground
 * has more: the rays of one beam lie close together on it. */
static bool is_alone(const sv_cluster_ground *g, const float *low, int ix, int iy)
{
    const float most = low[iy * g->nx + ix] + 0.3f;
    int above = 0, like = 0;
    for (int reach = 1; reach <= 5 && above < 6; reach++) /* nearly always the first ring answers */
        for (int dy = -reach; dy <= reach; dy++)
            for (int dx = -reach; dx <= reach; dx += abs(dy) == reach ? 1 : 2 * reach) {
                const int x = ix + dx, y = iy + dy;
                if (x < 0 || y < 0 || x >= g->nx || y >= g->ny) continue;
                const float z = low[y * g->nx + x];
                if (z < most && ++like == 2) return false;
                above += z >= most && z < 1e9f;
            }
    return true;
}

/* How far from the height at the sensor the ground of a cell may be, without STEP: 'out' [ny][nx]. */
static void find_room(const sv_cluster_rules *r, const sv_cluster_ground *g, float *out)
{
    for (int iy = 0; iy < g->ny; iy++) {
        const float dy = g->y0 + ((float)iy + 0.5f) * g->cell - r->sensor[1];
        const float x0 = g->x0 + 0.5f * g->cell - r->sensor[0];
        float *row = out + (size_t)iy * (size_t)g->nx;
        for (int ix = 0; ix < g->nx; ix++) {
            const float dx = x0 + (float)ix * g->cell;
            row[ix] = r->ground.grade * sqrtf(dx * dx + dy * dy);
        }
    }
}

/* Heights no road reaches, and points below the ground, become "nothing". */
static void drop_outliers(const sv_cluster_ground *g, const float *room, float z0, float *low, float *kept)
{
    const int cells = g->nx * g->ny;
    for (int i = 0; i < cells; i++) low[i] = fabsf(low[i] - z0) > room[i] + 0.5f ? INFINITY : low[i];
    for (int iy = 0; iy < g->ny; iy++)
        for (int ix = 0; ix < g->nx; ix++) {
            const int c = iy * g->nx + ix;
            kept[c] = low[c] < 1e9f && is_alone(g, low, ix, iy) ? INFINITY : low[c];
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
            if (ix > 0) v = lesser(v, p[-1] + straight);
            if (iy > 0) {
                v = lesser(v, p[-nx] + straight);
                if (ix > 0) v = lesser(v, p[-nx - 1] + diagonal);
                if (ix + 1 < nx) v = lesser(v, p[-nx + 1] + diagonal);
            }
            *p = v;
        }
    for (int iy = ny - 1; iy >= 0; iy--)
        for (int ix = nx - 1; ix >= 0; ix--) {
            float *p = &z[iy * nx + ix], v = *p;
            if (ix + 1 < nx) v = lesser(v, p[1] + straight);
            if (iy + 1 < ny) {
                v = lesser(v, p[nx] + straight);
                if (ix + 1 < nx) v = lesser(v, p[nx + 1] + diagonal);
                if (ix > 0) v = lesser(v, p[nx - 1] + diagonal);
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
                w[l][y * nx[l] + x] = lesser(sum, 1);
                h[l][y * nx[l] + x] = sum > 0 ? product / sum : otherwise;
            }
    }
    for (int l = levels - 2; l >= 0; l--)
        for (int y = 0; y < ny[l]; y++)
            for (int x = 0; x < nx[l]; x++) {
                if (w[l][y * nx[l] + x] > 0) continue;
                /* between the four nearest of the coarser level */
                const float fx = greater(0, ((float)x - 0.5f) / 2), fy = greater(0, ((float)y - 0.5f) / 2);
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

/* 1 2 1 along the rows, then along the columns, in place; 'work' is a row. */
static void blur(const sv_cluster_ground *g, float *map, float *work)
{
    const int nx = g->nx, ny = g->ny;
    for (int iy = 0; iy < ny; iy++) {
        float *p = map + (size_t)iy * (size_t)nx;
        memcpy(work, p, sizeof *work * (size_t)nx);
        for (int ix = 1; ix + 1 < nx; ix++) p[ix] = work[ix - 1] + work[ix + 1] + 2 * work[ix];
        p[0] = 2 * work[0] + (nx > 1 ? work[1] : 0);
        p[nx - 1] = 2 * work[nx - 1] + (nx > 1 ? work[nx - 2] : 0);
    }
    memset(work, 0, sizeof *work * (size_t)nx);
    for (int iy = 0; iy < ny; iy++) { /* 'work' is the row before as it was */
        float *p = map + (size_t)iy * (size_t)nx;
        const float *behind = iy + 1 < ny ? p + nx : NULL;
        for (int ix = 0; ix < nx; ix++) {
            const float here = p[ix];
            p[ix] = work[ix] + 2 * here + (behind ? behind[ix] : 0);
            work[ix] = here;
        }
    }
}

sv_status sv_cluster_find_ground(sv_ctx *c, const sv_cluster_rules *r, const float *points, int count,
                                 int columns, sv_cluster_ground *out)
{
    *out = (sv_cluster_ground){
        .x0 = r->range[0], .y0 = r->range[1], .cell = r->ground.cell, .inverse = 1 / r->ground.cell};
    out->nx = (int)ceilf((r->range[3] - r->range[0]) / out->cell);
    out->ny = (int)ceilf((r->range[4] - r->range[1]) / out->cell);
    const size_t cells = (size_t)out->nx * (size_t)out->ny;
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ground", cells * sizeof(float), &memory));
    out->height = memory;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ground work", 4 * cells * sizeof(float), &memory));
    float *low = memory, *kept = low + cells, *envelope = kept + cells, *room = envelope + cells;

    find_low_points(r, out, points, count, columns, low);
    const float z0 = height_at_sensor(r, out, low);
    find_room(r, out, room);
    drop_outliers(out, room, z0, low, kept);
    for (size_t i = 0; i < cells; i++) envelope[i] = lesser(kept[i], z0 + r->ground.step + room[i]);
    make_envelope(out, r->ground.slope, envelope);
    float *weight = low; /* not needed any more */
    for (size_t i = 0; i < cells; i++) {
        weight[i] = kept[i] <= envelope[i] + r->ground.step ? 1 : 0;
        if (weight[i] == 0) kept[i] = 0;
    }
    SV_TRY(fill_gaps(c, out, weight, kept, z0));
    /* smooth; what was filled in hardly counts beside what was seen */
    for (size_t i = 0; i < cells; i++) {
        weight[i] = weight[i] > 0 ? 1 : 0.02f;
        out->height[i] = weight[i] * kept[i];
    }
    blur(out, weight, room);
    blur(out, out->height, room);
    for (size_t i = 0; i < cells; i++) out->height[i] /= weight[i];
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
