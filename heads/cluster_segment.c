/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands on the ground, and which parts of it belong together.
 *
 * Points between GROUND.CLEARANCE and 4 m above the ground are gathered in columns (a quarter cell wide, 5 cm) and cells
 * (20 cm). A cell whose points reach above SEGMENT.TOP without a break is "tall": wall, trunk, pole, lorry. What begins
 * higher than HANGING above a break of OVERHANG (a crown, a bridge) is no part of the cell. Tall cells end segments: a car
 * beside a wall is a segment of its own.
 *
 * Segments are the connected components of the other cells. Two are connected when one lies in an ellipse about the other
 * that grows with the distance to the sensor, since the spacing of the rays does, and that reaches farther along the ray
 * (DEPTH) than across it (GAP): a side seen at a sharp angle has few points far apart, but people beside each other are
 * two (range-dependent connectivity; cf. Bogoslavskyi and Stachniss 2016, whose angle criterion has the same purpose). A
 * segment longer than LARGEST is taken apart into what is connected by touching cells.
 *
 * For every direction the range of the farthest thing seen near the ground is kept: up to there nothing was in the way.
 */
#include "cluster.h"

#include <math.h>
#include <string.h>

enum { QUARTERS = 4, PARTS = QUARTERS * QUARTERS, MOST_LEVELS = 16 };

/* ---- columns and cells -------------------------------------------------------------------------------- */

/*
 * One point: place of its cell, part of the cell, and millimetres within that part and above the ground, in one number:
 *   place << 28 | part << 24 | x << 18 | y << 12 | height in 1/1024 of 4 m ... see pack(). Sorting by place and part
 * brings columns together; all sums are over whole millimetres.
 */
typedef struct packed_point {
    uint32_t key;   /* place * PARTS + part */
    uint16_t x, y;  /* millimetres from the corner of the cell */
    int32_t height; /* millimetres above the ground */
} packed_point;

static sv_status take(sv_ctx *c, const char *name, size_t bytes, void *out)
{
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, name, bytes, &memory));
    memcpy(out, &memory, sizeof memory);
    return SV_OK;
}

/* By key, least significant digit first; the order within a key does not matter. The result is in 'a'. */
static void sort_by_key(packed_point *a, packed_point *b, int count, uint32_t most)
{
    enum { DIGIT = 12, BUCKETS = 1 << DIGIT };
    packed_point *from = a, *to = b;
    for (int shift = 0; shift < 32 && most >> shift > 0; shift += DIGIT) {
        int start[BUCKETS + 1] = {0};
        for (int i = 0; i < count; i++) start[1 + (from[i].key >> shift & (BUCKETS - 1))]++;
        for (int k = 0; k < BUCKETS; k++) start[k + 1] += start[k];
        for (int i = 0; i < count; i++) to[start[from[i].key >> shift & (BUCKETS - 1)]++] = from[i];
        packed_point *swap = from;
        from = to;
        to = swap;
    }
    if (from != a) memcpy(a, from, sizeof *a * (size_t)count);
}

/* Obstacle points, packed; marks cells where the ground was seen, and finds the steepest ray. */
static int pack_points(const sv_cluster_rules *r, sv_cluster_scene *s, const float *points, int count,
                       int columns, packed_point *out)
{
    const float inverse = 1 / s->cell;
    float steepest = 0; /* squared */
    int n = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        if (!(p[0] >= r->range[0] && p[0] < r->range[3] && p[1] >= r->range[1] && p[1] < r->range[4] &&
              p[2] >= r->range[2] && p[2] < r->range[5]))
            continue;
        const float dx = p[0] - r->sensor[0], dy = p[1] - r->sensor[1], dz = p[2] - r->sensor[2];
        if (dz > 0) steepest = greater(steepest, dz * dz / greater(dx * dx + dy * dy, 1));
        const float above = p[2] - sv_cluster_ground_at(&s->ground, p[0], p[1]);
        if (above >= SV_CLUSTER_LEVEL * MOST_LEVELS) continue;
        const float fx = p[0] - s->x0, fy = p[1] - s->y0;
        int ix = (int)(fx * inverse), iy = (int)(fy * inverse);
        if (ix >= s->nx) ix = s->nx - 1;
        if (iy >= s->ny) iy = s->ny - 1;
        const int place = iy * s->nx + ix;
        if (above < r->ground.clearance) {
            s->kind[place] = SV_CLUSTER_FLOOR;
            continue;
        }
        const float rest_x = fx - (float)ix * s->cell, rest_y = fy - (float)iy * s->cell;
        int px = (int)(rest_x * inverse * QUARTERS), py = (int)(rest_y * inverse * QUARTERS);
        px = px < 0 ? 0 : px >= QUARTERS ? QUARTERS - 1 : px;
        py = py < 0 ? 0 : py >= QUARTERS ? QUARTERS - 1 : py;
        out[n++] = (packed_point){.key = (uint32_t)place * PARTS + (uint32_t)(py * QUARTERS + px),
                                  .x = (uint16_t)lrintf(greater(rest_x, 0) * 1000),
                                  .y = (uint16_t)lrintf(greater(rest_y, 0) * 1000),
                                  .height = (int32_t)lrintf(above * 1000)};
    }
    s->ceiling = sqrtf(steepest);
    return n;
}

/* Whether the cell's points reach above TOP without a break. '*under': what begins higher hangs above free space. */
static bool is_tall(const sv_cluster_rules *r, uint32_t levels, float *under)
{
    const int most_empty = (int)(r->segment.overhang / SV_CLUSTER_LEVEL);
    int empty = 0;
    *under = SV_CLUSTER_LEVEL * MOST_LEVELS;
    for (int i = 0; i < MOST_LEVELS; i++) {
        const float height = (float)i * SV_CLUSTER_LEVEL;
        empty++;
        if (!(levels >> i & 1)) continue;
        if (empty > most_empty && height >= r->segment.hanging) {
            *under = height;
            return false;
        }
        if (height >= r->segment.top) return true;
        empty = 0;
    }
    return false;
}

/* Cells and columns of sorted points. */
static void gather(const sv_cluster_rules *r, sv_cluster_scene *s, const packed_point *points, int count)
{
    for (int first = 0; first < count;) {
        const uint32_t place = points[first].key / PARTS;
        int last = first;
        uint32_t levels = 0;
        for (; last < count && points[last].key / PARTS == place; last++)
            levels |= 1u << (points[last].height / (int)(SV_CLUSTER_LEVEL * 1000)) % 32;
        float under = 0;
        const bool tall = is_tall(r, levels, &under);
        sv_cluster_cell cell = {
            .place = (int32_t)place, .columns = {s->column_count, 0}, .segment = -1, .low = INFINITY};
        const float x0 = s->x0 + (float)((int)place % s->nx) * s->cell,
                    y0 = s->y0 + (float)((int)place / s->nx) * s->cell;
        const int limit = (int)lrintf(under * 1000);
        for (int i = first; i < last;) {
            const uint32_t key = points[i].key;
            int64_t x = 0, y = 0;
            int32_t low = INT32_MAX, high = 0, n = 0;
            for (; i < last && points[i].key == key; i++) {
                if (!tall && points[i].height >= limit) continue; /* above a break */
                x += points[i].x;
                y += points[i].y;
                if (points[i].height < low) low = points[i].height;
                if (points[i].height > high) high = points[i].height;
                n++;
            }
            if (n == 0) continue;
            s->columns[s->column_count++] = (sv_cluster_column){.x = x0 + (float)x / (float)n * 1e-3f,
                                                                .y = y0 + (float)y / (float)n * 1e-3f,
                                                                .low = (float)low * 1e-3f,
                                                                .high = (float)high * 1e-3f,
                                                                .points = n,
                                                                .cell = s->cell_count};
            cell.points += n;
            cell.low = lesser(cell.low, (float)low * 1e-3f);
            cell.high = greater(cell.high, (float)high * 1e-3f);
        }
        first = last;
        if (cell.points == 0) continue;
        cell.columns[1] = s->column_count;
        cell.levels = levels;
        s->kind[place] = tall ? SV_CLUSTER_TALL : SV_CLUSTER_OBSTACLE;
        s->row[place] = s->cell_count;
        s->cells[s->cell_count++] = cell;
    }
}

/* atan2 to a few ten-thousandths of a radian (Abramowitz and Stegun 4.4.49 gives the odd polynomial), many times faster
 * than the exact one. */
int sv_cluster_ray(float x, float y)
{
    const float ax = fabsf(x), ay = fabsf(y), most = greater(greater(ax, ay), 1e-6f);
    const float t = lesser(ax, ay) / most, q = t * t;
    float angle =
        t * (0.9998660f + q * (-0.3302995f + q * (0.1801410f + q * (-0.0851330f + q * 0.0208351f))));
    if (ay > ax) angle = 1.57079633f - angle;
    if (x < 0) angle = 3.14159265f - angle;
    if (y < 0) angle = -angle;
    const int ray = (int)((angle + 3.14159265f) * (SV_CLUSTER_RAYS / 6.2831853f));
    return ray < 0 ? 0 : ray >= SV_CLUSTER_RAYS ? SV_CLUSTER_RAYS - 1 : ray;
}

/* A quarter degree may lie between two rays: what was found in a direction counts for its neighbours. */
static void look_along_rays(const sv_cluster_rules *r, sv_cluster_scene *s)
{
    for (int i = 0; i < SV_CLUSTER_RAYS; i++) s->farthest[i] = 0;
    for (int iy = 0; iy < s->ny; iy++)
        for (int ix = 0; ix < s->nx; ix++) {
            const int place = iy * s->nx + ix;
            uint64_t eight = 1;
            if (ix + 8 <= s->nx) memcpy(&eight, s->kind + place, sizeof eight);
            if (eight == 0) ix += 7; /* most places are empty */
            if (eight == 0 || s->kind[place] == SV_CLUSTER_EMPTY) continue;
            if (s->kind[place] != SV_CLUSTER_FLOOR && s->cells[s->row[place]].low > 1) continue;
            const float x = s->x0 + ((float)ix + 0.5f) * s->cell - r->sensor[0],
                        y = s->y0 + ((float)iy + 0.5f) * s->cell - r->sensor[1];
            const float range = sqrtf(x * x + y * y), width = 0.5f * s->cell / greater(range, s->cell);
            const int first = sv_cluster_ray(x, y), half = 1 + (int)(width * (SV_CLUSTER_RAYS / 6.2831853f));
            for (int k = -half; k <= half; k++) {
                const int ray = (first + k + SV_CLUSTER_RAYS) % SV_CLUSTER_RAYS;
                if (range > s->farthest[ray]) s->farthest[ray] = range;
            }
        }
}

sv_status sv_cluster_find_obstacles(sv_ctx *c, const sv_cluster_rules *r, const float *points, int count,
                                    int columns, const sv_cluster_ground *ground, sv_cluster_scene *out)
{
    *out =
        (sv_cluster_scene){.ground = *ground, .x0 = r->range[0], .y0 = r->range[1], .cell = r->segment.cell};
    out->nx = (int)ceilf((r->range[3] - r->range[0]) / out->cell);
    out->ny = (int)ceilf((r->range[4] - r->range[1]) / out->cell);
    const size_t places = (size_t)out->nx * (size_t)out->ny, n = (size_t)(count > 0 ? count : 1);
    SV_TRY(take(c, "obstacle kinds", places, &out->kind));
    SV_TRY(take(c, "obstacle rows", places * sizeof *out->row, &out->row));
    SV_TRY(take(c, "obstacle cells", n * sizeof *out->cells, &out->cells));
    SV_TRY(take(c, "obstacle columns", n * sizeof *out->columns, &out->columns));
    SV_TRY(take(c, "obstacle rays", SV_CLUSTER_RAYS * sizeof(float), &out->farthest));
    memset(out->kind, SV_CLUSTER_EMPTY, places);
    memset(out->row, -1, places * sizeof *out->row);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    packed_point *packed = NULL, *other = NULL;
    SV_TRY(take(c, "obstacle points", n * sizeof *packed, &packed));
    SV_TRY(take(c, "obstacle points", n * sizeof *packed, &other));
    const int found = pack_points(r, out, points, count, columns, packed);
    sort_by_key(packed, other, found, (uint32_t)places * PARTS - 1);
    gather(r, out, packed, found);
    look_along_rays(r, out);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- segments ----------------------------------------------------------------------------------------- */

static int32_t root_of(int32_t *parent, int32_t i)
{
    while (parent[i] != i) {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    return i;
}
/* The smaller row is the root: the numbering of segments follows from the cells alone. */
static void join(int32_t *parent, int32_t a, int32_t b)
{
    a = root_of(parent, a);
    b = root_of(parent, b);
    if (a < b)
        parent[b] = a;
    else
        parent[a] = b;
}

/* Join cells within the gap; with 'only' (per cell) those of them that it marks, where they touch. */
static void connect(const sv_cluster_rules *r, const sv_cluster_scene *s, int32_t *parent,
                    const uint8_t *only)
{
    for (int i = 0; i < s->cell_count; i++) {
        const int ix = s->cells[i].place % s->nx, iy = s->cells[i].place / s->nx;
        if (s->kind[s->cells[i].place] == SV_CLUSTER_TALL) continue;
        if (only && !only[i]) continue;
        const float x = s->x0 + ((float)ix + 0.5f) * s->cell - r->sensor[0],
                    y = s->y0 + ((float)iy + 0.5f) * s->cell - r->sensor[1];
        const float range = sqrtf(x * x + y * y), inverse = range > 0 ? 1 / range : 0;
        /* an ellipse along the ray; distances between cells count from centre to centre, less one cell */
        float across = (r->segment.gap[0] + r->segment.gap[1] * range) / s->cell + 1,
              along = (r->segment.depth[0] + r->segment.depth[1] * range) / s->cell + 1;
        if (only) across = along = 1.42f;
        const int most = (int)greater(across, along);
        const float ux = x * inverse / along, uy = y * inverse / along, vx = -y * inverse / across,
                    vy = x * inverse / across;
        for (int dy = 0; dy <= most; dy++) {
            if (iy + dy >= s->ny) break;
            const int32_t *row = s->row + (size_t)(iy + dy) * (size_t)s->nx;
            for (int dx = dy == 0 ? 1 : -most; dx <= most; dx++) {
                if (ix + dx < 0 || ix + dx >= s->nx || row[ix + dx] < 0) continue;
                const float u = (float)dx * ux + (float)dy * uy, v = (float)dx * vx + (float)dy * vy;
                if (u * u + v * v > 1) continue;
                const int32_t other = row[ix + dx];
                if (s->kind[s->cells[other].place] != SV_CLUSTER_TALL) join(parent, i, other);
            }
        }
    }
}

typedef struct extent {
    int x[2], y[2], points;
} extent;

/* Of every segment number on the cells, below 'numbers'. */
static void measure(const sv_cluster_scene *s, int numbers, extent *of)
{
    for (int i = 0; i < numbers; i++) of[i] = (extent){{s->nx, -1}, {s->ny, -1}, 0};
    for (int i = 0; i < s->cell_count; i++) {
        if (s->cells[i].segment < 0) continue;
        const int ix = s->cells[i].place % s->nx, iy = s->cells[i].place / s->nx;
        extent *e = &of[s->cells[i].segment];
        if (ix < e->x[0]) e->x[0] = ix;
        if (ix > e->x[1]) e->x[1] = ix;
        if (iy < e->y[0]) e->y[0] = iy;
        if (iy > e->y[1]) e->y[1] = iy;
        e->points += s->cells[i].points;
    }
}

static bool too_long(const sv_cluster_rules *r, const sv_cluster_scene *s, const extent *e)
{
    const int most = (int)(r->segment.largest / s->cell);
    return e->x[1] - e->x[0] > most || e->y[1] - e->y[0] > most;
}

sv_status sv_cluster_list_segments(sv_ctx *c, const sv_cluster_rules *r, sv_cluster_scene *s, int numbers)
{
    const size_t n = (size_t)(s->cell_count > 0 ? s->cell_count : 1);
    SV_TRY(take(c, "segment members", n * sizeof *s->members, &s->members));
    SV_TRY(take(c, "segments", (n + 1) * sizeof *s->segments, &s->segments));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    extent *extents = NULL;
    int32_t *fresh = NULL, *next = NULL;
    SV_TRY(take(c, "segment extents", ((size_t)numbers + 1) * sizeof *extents, &extents));
    SV_TRY(take(c, "segment numbers", ((size_t)numbers + 1) * sizeof *fresh, &fresh));
    SV_TRY(take(c, "segment places", (n + 1) * sizeof *next, &next));
    measure(s, numbers, extents);
    for (int i = 0; i < numbers; i++) fresh[i] = -1;
    s->segment_count = 0;
    memset(next, 0, (n + 1) * sizeof *next);
    for (int i = 0; i < s->cell_count; i++) {
        int32_t *segment = &s->cells[i].segment;
        if (*segment < 0) continue;
        const extent *e = &extents[*segment];
        if (e->points < r->segment.least_points || too_long(r, s, e)) {
            *segment = -1;
            continue;
        }
        if (fresh[*segment] < 0) fresh[*segment] = s->segment_count++;
        *segment = fresh[*segment];
        next[*segment + 1]++;
    }
    for (int i = 0; i < s->segment_count; i++) next[i + 1] += next[i];
    for (int i = 0; i <= s->segment_count; i++) s->segments[i] = next[i];
    for (int i = 0; i < s->cell_count; i++)
        if (s->cells[i].segment >= 0) s->members[next[s->cells[i].segment]++] = i;
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_cluster_find_segments(sv_ctx *c, const sv_cluster_rules *r, sv_cluster_scene *s)
{
    const size_t n = (size_t)(s->cell_count > 0 ? s->cell_count : 1);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    int32_t *parent = NULL;
    uint8_t *taken_apart = NULL;
    extent *extents = NULL;
    SV_TRY(take(c, "segment parents", n * sizeof *parent, &parent));
    SV_TRY(take(c, "segment flags", n, &taken_apart));
    SV_TRY(take(c, "segment extents", n * sizeof *extents, &extents));

    for (int i = 0; i < s->cell_count; i++) parent[i] = i;
    connect(r, s, parent, NULL);
    for (int i = 0; i < s->cell_count; i++) s->cells[i].segment = root_of(parent, i);
    measure(s, s->cell_count, extents);
    for (int i = 0; i < s->cell_count; i++) {
        taken_apart[i] = too_long(r, s, &extents[s->cells[i].segment]);
        if (taken_apart[i]) parent[i] = i;
    }
    connect(r, s, parent, taken_apart);
    for (int i = 0; i < s->cell_count; i++)
        s->cells[i].segment = s->kind[s->cells[i].place] == SV_CLUSTER_TALL ? -1 : root_of(parent, i);
    sv_arena_rewind(&c->scratch, mark);
    return sv_cluster_list_segments(c, r, s, s->cell_count);
}
