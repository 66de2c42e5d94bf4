/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands on the ground, and which parts of it belong together.
 *
 * Points between GROUND.CLEARANCE and 4 m above the ground are gathered in columns (a quarter cell wide, 5 cm) and cells
 * (20 cm). A cell whose points reach from below SEGMENT.TOP to above it without a break of OVERHANG is "tall": wall, trunk,
 * pole, lorry. What hangs above a break (a crown, a bridge) is no part of the cell. Tall cells end segments: a car beside a
 * wall is a segment of its own.
 *
 * Segments are the connected components of the other cells, where two are connected when they lie no farther apart than
 * GAP + GAP_PER_METRE * distance to the sensor, since the spacing of the rays grows with it (range-dependent
 * connectivity; cf. Bogoslavskyi and Stachniss 2016, whose angle criterion has the same purpose). A segment longer than
 * LARGEST is taken apart into what is connected by touching cells.
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
    enum { DIGIT = 11, BUCKETS = 1 << DIGIT };
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

/* Obstacle points, packed; marks cells where the ground was seen. */
static int pack_points(const sv_cluster_rules *r, const sv_cluster_scene *s, const float *points, int count,
                       int columns, packed_point *out)
{
    const float inverse = 1 / s->cell;
    int n = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        if (!(p[0] >= r->range[0] && p[0] < r->range[3] && p[1] >= r->range[1] && p[1] < r->range[4] &&
              p[2] >= r->range[2] && p[2] < r->range[5]))
            continue;
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
                                  .x = (uint16_t)lrintf(fmaxf(rest_x, 0) * 1000),
                                  .y = (uint16_t)lrintf(fmaxf(rest_y, 0) * 1000),
                                  .height = (int32_t)lrintf(above * 1000)};
    }
    return n;
}

/* Whether the cell's points reach above 'top' without a break as high as 'overhang'; '*under': the height below which it is
 * an object otherwise. */
static bool is_tall(uint32_t levels, float top, float overhang, float *under)
{
    const int most_empty = (int)(overhang / SV_CLUSTER_LEVEL);
    int empty = 0;
    *under = SV_CLUSTER_LEVEL * MOST_LEVELS;
    bool begun = false;
    for (int i = 0; i < MOST_LEVELS; i++) {
        if (levels >> i & 1) {
            if (empty > most_empty && (begun || i > most_empty)) {
                *under = (float)(i - empty) * SV_CLUSTER_LEVEL;
                return false;
            }
            if ((float)i * SV_CLUSTER_LEVEL >= top) return true;
            empty = 0;
            begun = true;
        } else {
            empty++;
        }
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
        const bool tall = is_tall(levels, r->segment.top, r->segment.overhang, &under);
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
            cell.low = fminf(cell.low, (float)low * 1e-3f);
            cell.high = fmaxf(cell.high, (float)high * 1e-3f);
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
    memset(out->kind, SV_CLUSTER_EMPTY, places);
    memset(out->row, -1, places * sizeof *out->row);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    packed_point *packed = NULL, *other = NULL;
    SV_TRY(take(c, "obstacle points", n * sizeof *packed, &packed));
    SV_TRY(take(c, "obstacle points", n * sizeof *packed, &other));
    const int found = pack_points(r, out, points, count, columns, packed);
    sort_by_key(packed, other, found, (uint32_t)places * PARTS - 1);
    gather(r, out, packed, found);
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

/* Join cells within the gap; 'tight' (per root, may be NULL): where it is set, only those that touch. */
static void connect(const sv_cluster_rules *r, const sv_cluster_scene *s, int32_t *parent,
                    const int32_t *group, const uint8_t *taken_apart)
{
    for (int i = 0; i < s->cell_count; i++) {
        const int ix = s->cells[i].place % s->nx, iy = s->cells[i].place / s->nx;
        if (s->kind[s->cells[i].place] == SV_CLUSTER_TALL) continue;
        if (taken_apart && !taken_apart[group[i]]) continue;
        const float x = s->x0 + ((float)ix + 0.5f) * s->cell, y = s->y0 + ((float)iy + 0.5f) * s->cell;
        const float range = hypotf(x - r->sensor[0], y - r->sensor[1]);
        /* distance between cells: from centre to centre, less one cell */
        const float gap = taken_apart ? 0.42f * s->cell : r->segment.gap + r->segment.gap_per_metre * range;
        const float reach = gap / s->cell + 1;
        const int most = (int)reach;
        for (int dy = 0; dy <= most; dy++) {
            if (iy + dy >= s->ny) break;
            for (int dx = dy == 0 ? 1 : -most; dx <= most; dx++) {
                if (ix + dx < 0 || ix + dx >= s->nx || (float)(dx * dx + dy * dy) > reach * reach) continue;
                const int32_t other = s->row[(iy + dy) * s->nx + ix + dx];
                if (other < 0 || s->kind[s->cells[other].place] == SV_CLUSTER_TALL) continue;
                join(parent, i, other);
            }
        }
    }
}

typedef struct extent {
    int x[2], y[2];
} extent;

static void measure(const sv_cluster_scene *s, int32_t *parent, extent *of)
{
    for (int i = 0; i < s->cell_count; i++) of[i] = (extent){{s->nx, -1}, {s->ny, -1}};
    for (int i = 0; i < s->cell_count; i++) {
        const int ix = s->cells[i].place % s->nx, iy = s->cells[i].place / s->nx;
        extent *e = &of[root_of(parent, i)];
        if (ix < e->x[0]) e->x[0] = ix;
        if (ix > e->x[1]) e->x[1] = ix;
        if (iy < e->y[0]) e->y[0] = iy;
        if (iy > e->y[1]) e->y[1] = iy;
    }
}

sv_status sv_cluster_find_segments(sv_ctx *c, const sv_cluster_rules *r, sv_cluster_scene *s)
{
    const size_t n = (size_t)(s->cell_count > 0 ? s->cell_count : 1);
    SV_TRY(take(c, "segment members", n * sizeof *s->members, &s->members));
    SV_TRY(take(c, "segments", (n + 1) * sizeof *s->segments, &s->segments));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    int32_t *parent = NULL, *group = NULL;
    uint8_t *taken_apart = NULL;
    extent *extents = NULL;
    SV_TRY(take(c, "segment parents", n * sizeof *parent, &parent));
    SV_TRY(take(c, "segment groups", n * sizeof *group, &group));
    SV_TRY(take(c, "segment flags", n, &taken_apart));
    SV_TRY(take(c, "segment extents", n * sizeof *extents, &extents));

    for (int i = 0; i < s->cell_count; i++) parent[i] = i;
    connect(r, s, parent, NULL, NULL);
    measure(s, parent, extents);
    const int most = (int)(r->segment.largest / s->cell);
    for (int i = 0; i < s->cell_count; i++) {
        const extent *e = &extents[i];
        taken_apart[i] = e->x[1] - e->x[0] > most || e->y[1] - e->y[0] > most;
        group[i] = root_of(parent, i);
    }
    for (int i = 0; i < s->cell_count; i++)
        if (taken_apart[group[i]]) parent[i] = i;
    connect(r, s, parent, group, taken_apart);
    measure(s, parent, extents);

    /* Number the segments by their first cell; leave out tall cells, noise and what is too long all the same. */
    int32_t *points = group, *size = group;
    memset(points, 0, n * sizeof *points);
    for (int i = 0; i < s->cell_count; i++) points[root_of(parent, i)] += s->cells[i].points;
    s->segment_count = 0;
    for (int i = 0; i < s->cell_count; i++) {
        const int root = root_of(parent, i);
        const extent *e = &extents[root];
        s->cells[i].segment = -1;
        if (s->kind[s->cells[i].place] == SV_CLUSTER_TALL || points[root] < r->segment.least_points ||
            e->x[1] - e->x[0] > most || e->y[1] - e->y[0] > most)
            continue;
        s->cells[i].segment = root == i ? s->segment_count++ : s->cells[root].segment;
    }
    memset(size, 0, n * sizeof *size);
    for (int i = 0; i < s->cell_count; i++)
        if (s->cells[i].segment >= 0) size[s->cells[i].segment]++;
    s->segments[0] = 0;
    for (int i = 0; i < s->segment_count; i++) {
        s->segments[i + 1] = s->segments[i] + size[i];
        size[i] = s->segments[i];
    }
    for (int i = 0; i < s->cell_count; i++)
        if (s->cells[i].segment >= 0) s->members[size[s->cells[i].segment]++] = i;
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
