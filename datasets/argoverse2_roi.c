/* SPDX-License-Identifier: Apache-2.0 */
#include "argoverse2_roi.h"

#include "dataset_type.h"
#include "perception/core/file.h"
#include "perception/json_scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATH = 4096,
    FILE_LIMIT = 1 << 28,
    CELLS_PER_METRE = 10,
    REACH = 50,
    MOST_SIDE = 1 << 15,
    MOST_CELLS = 1 << 28
};

/* Corners of all areas; area i ends before corner ends[i]. */
typedef struct areas {
    double (*corners)[2]; /* malloc'ed, as the next */
    int *ends;
    int corner_count, corner_room, count, room;
    bool no_memory;
} areas;

static void free_areas(areas *a)
{
    free(a->corners);
    free(a->ends);
    *a = (areas){0};
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static void *grow(areas *a, void *data, int count, int *room, size_t bytes)
{
    if (count < *room) return data;
    void *grown = realloc(data, 2 * bytes * (size_t)(count + 32));
    if (grown)
        *room = 2 * (count + 32);
    else
        a->no_memory = true;
    return grown ? grown : data;
}

static void read_corner(sv_json_scan *s, areas *a)
{
    double at[2] = {NAN, NAN};
    sv_json_span key;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        if (sv_json_span_is(key, "x"))
            sv_json_read_number(s, &at[0]);
        else if (sv_json_span_is(key, "y"))
            sv_json_read_number(s, &at[1]);
        else
            sv_json_skip(s);
    }
    if (s->state == SV_JSON_GOOD && !(fabs(at[0]) < 1e8 && fabs(at[1]) < 1e8))
        sv_json_wrong(s, "a corner of a drivable area has no x and y within 1e8 m");
    a->corners = grow(a, a->corners, a->corner_count, &a->corner_room, sizeof *a->corners);
    if (s->state != SV_JSON_GOOD || a->no_memory) return;
    a->corners[a->corner_count][0] = at[0];
    a->corners[a->corner_count++][1] = at[1];
}

static void read_area(sv_json_scan *s, areas *a)
{
    const int first = a->corner_count;
    sv_json_span key;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        if (!sv_json_span_is(key, "area_boundary")) {
            sv_json_skip(s);
            continue;
        }
        if (!sv_json_open(s, '[')) return;
        while (sv_json_next(s) && !a->no_memory) read_corner(s, a);
    }
    if (s->state == SV_JSON_GOOD && a->corner_count < first + 2)
        sv_json_wrong(s, "a drivable area has no area_boundary of at least two corners");
    a->ends = grow(a, a->ends, a->count, &a->room, sizeof *a->ends);
    if (s->state == SV_JSON_GOOD && !a->no_memory) a->ends[a->count++] = a->corner_count;
}

static sv_status read_areas(sv_ctx *c, const char *name, const void *bytes, size_t size, areas *out)
{
    sv_json_scan s = sv_json_scan_begin(bytes, size, true);
    sv_json_span key;
    if (sv_json_open(&s, '{'))
        while (sv_json_next_key(&s, &key)) {
            if (!sv_json_span_is(key, "drivable_areas")) {
                sv_json_skip(&s);
                continue;
            }
            if (!sv_json_open(&s, '{')) break;
            while (sv_json_next_key(&s, &key) && !out->no_memory) read_area(&s, out);
        }
    SV_CHECK(c, !out->no_memory, SV_NO_MEMORY, "%s: no memory for its drivable areas", name);
    SV_CHECK(c, s.state == SV_JSON_GOOD, SV_BAD_INPUT, "%s: byte %lld: %s", name, (long long)(s.at - s.begin),
             s.state == SV_JSON_SHORT ? "the file ends early" : s.problem);
    SV_CHECK(c, out->count > 0, SV_BAD_INPUT, "%s: it has no drivable_areas, by which boxes are judged",
             name);
    return SV_OK;
}

/* ---- drawing ------------------------------------------------------------------------------------------ */

static void draw_row(sv_argoverse2_roi *r, int y, float from, float to)
{
    if (y < 0 || y >= r->height) return;
    /* to the nearest cell, halves inwards */
    const int first = from > 0 ? (int)floorf(from + 0.5f) : 0;
    const int last = to < (float)r->width ? (int)ceilf(to - 0.5f) : r->width - 1;
    if (first <= last) memset(r->cells + (size_t)y * (size_t)r->width + first, 1, (size_t)(last - first) + 1);
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Row by row between crossings with the edges, in single precision, as Pillow fills polygons: an edge has
 * both its ends, the lower one twice unless it is the polygon's last row, so that crossings pair up; level
 * edges are drawn by themselves. 'crossings' has room for two per corner. */
static void fill_polygon(sv_argoverse2_roi *r, const int32_t (*corner)[2], int count, float *crossings)
{
    int low = r->height, high = 0;
    for (int i = 0; i < count; i++) {
        if (corner[i][1] < low) low = corner[i][1];
        if (corner[i][1] > high) high = corner[i][1];
    }
    for (int y = low; y <= high; y++) {
        int n = 0;
        for (int i = 0; i < count; i++) {
            const int32_t *a = corner[i], *b = corner[(i + 1) % count];
            const int top = a[1] < b[1] ? a[1] : b[1], bottom = a[1] < b[1] ? b[1] : a[1];
            if (y < top || y > bottom) continue;
            if (top == bottom) {
                draw_row(r, y, (float)(a[0] < b[0] ? a[0] : b[0]), (float)(a[0] < b[0] ? b[0] : a[0]));
                continue;
            }
            const float slope = (float)(b[0] - a[0]) / (float)(b[1] - a[1]);
            const float x = (float)(y - a[1]) * slope + (float)a[0];
            crossings[n++] = x;
            if (y == bottom && y < high) crossings[n++] = x;
        }
        qsort(crossings, (size_t)n, sizeof *crossings, by_value);
        for (int k = 1; k < n; k += 2) draw_row(r, y, crossings[k - 1], crossings[k]);
    }
}

/* The raster of the areas. */
static sv_status draw_areas(sv_ctx *c, const char *name, const areas *a, sv_argoverse2_roi *out)
{
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
    for (int i = 0; i < a->corner_count; i++)
        for (int axis = 0; axis < 2; axis++) {
            low[axis] = fmin(low[axis], floor(a->corners[i][axis]));
            high[axis] = fmax(high[axis], ceil(a->corners[i][axis]));
        }
    const double cells[2] = {(high[0] - low[0] + 1) * CELLS_PER_METRE,
                             (high[1] - low[1] + 1) * CELLS_PER_METRE};
    SV_CHECK(c, cells[0] <= MOST_SIDE && cells[1] <= MOST_SIDE && cells[0] * cells[1] <= MOST_CELLS,
             SV_UNSUPPORTED, "%s: its drivable areas cover %.0f x %.0f m, which is too large a raster", name,
             high[0] - low[0], high[1] - low[1]);
    *out = (sv_argoverse2_roi){
        .x_min = low[0], .y_min = low[1], .width = (int)cells[0], .height = (int)cells[1]};
    out->cells = calloc((size_t)out->width * (size_t)out->height, 1);
    int32_t(*corner)[2] = malloc(sizeof *corner * (size_t)a->corner_count);
    float *crossings = malloc(2 * sizeof *crossings * (size_t)a->corner_count);
    const bool good = out->cells && corner && crossings;
    for (int i = 0; good && i < a->corner_count; i++)
        for (int axis = 0; axis < 2; axis++)
            corner[i][axis] = (int32_t)nearbyint((a->corners[i][axis] - low[axis]) * CELLS_PER_METRE);
    for (int k = 0, first = 0; good && k < a->count; first = a->ends[k++]) {
        fill_polygon(out, (const int32_t(*)[2])corner + first, a->ends[k] - first, crossings);
    }
    free(corner);
    free(crossings);
    SV_CHECK(c, good, SV_NO_MEMORY, "%s: no memory for a raster of %d x %d cells", name, out->width,
             out->height);
    return SV_OK;
}

/* Every cell within REACH of one of an area, along the two axes after each other: a cell whose column has one
 * 'far' cells away reaches as far along its row as the circle is wide there. */
static sv_status widen(sv_ctx *c, const char *name, sv_argoverse2_roi *r)
{
    const size_t width = (size_t)r->width, cells = width * (size_t)r->height;
    int reach[REACH + 1];
    for (int far = 0; far <= REACH; far++) reach[far] = (int)sqrt((double)(REACH * REACH - far * far));
    uint8_t *far = malloc(cells);
    int32_t *change = calloc(width + 1, sizeof *change);
    const bool good = far && change;
    for (size_t x = 0; good && x < width; x++) {
        int since = REACH + 1;
        for (size_t at = x; at < cells; at += width) {
            since = r->cells[at] ? 0 : since + (since <= REACH);
            far[at] = (uint8_t)since;
        }
        since = REACH + 1;
        for (size_t at = cells + x; at > x;) {
            at -= width;
            since = r->cells[at] ? 0 : since + (since <= REACH);
            if (since < far[at]) far[at] = (uint8_t)since;
        }
    }
    for (size_t row = 0; good && row < cells; row += width) {
        memset(change, 0, sizeof *change * (width + 1));
        for (size_t x = 0; x < width; x++) {
            if (far[row + x] > REACH) continue;
            const size_t way = (size_t)reach[far[row + x]], end = x + way + 1;
            change[x > way ? x - way : 0]++;
            change[end < width ? end : width]--;
        }
        for (size_t x = 0, inside = 0; x < width; x++) {
            inside += (size_t)change[x];
            r->cells[row + x] = inside > 0;
        }
    }
    free(far);
    free(change);
    SV_CHECK(c, good, SV_NO_MEMORY, "%s: no memory for a raster of %d x %d cells", name, r->width, r->height);
    return SV_OK;
}

/* ---- the region --------------------------------------------------------------------------------------- */

sv_status sv_argoverse2_roi_parse(sv_ctx *c, const char *name, const void *bytes, size_t size,
                                  sv_argoverse2_roi *out)
{
    areas a = {0};
    *out = (sv_argoverse2_roi){0};
    sv_status status = read_areas(c, name, bytes, size, &a);
    if (status == SV_OK) status = draw_areas(c, name, &a, out);
    if (status == SV_OK) status = widen(c, name, out);
    free_areas(&a);
    if (status != SV_OK) sv_argoverse2_roi_free(out);
    return status;
}

sv_status sv_argoverse2_roi_read(sv_ctx *c, const char *folder, sv_argoverse2_roi *out)
{
    sv_names names = {0};
    char path[PATH] = "";
    void *bytes;
    size_t size;
    *out = (sv_argoverse2_roi){0};
    sv_status status = sv_dataset_is_folder(folder) ? sv_dataset_list(c, folder, ".json", &names) : SV_OK;
    int found = 0;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        if (strncmp(names.data[i], "log_map_archive_", 16) != 0) continue;
        found++;
        status = sv_dataset_path(c, path, sizeof path, "%s/%s", folder, names.data[i]);
    }
    sv_names_free(&names);
    SV_TRY(status);
    SV_CHECK(
        c, found == 1, SV_BAD_INPUT,
        "%s: holds %d files log_map_archive_*.json instead of one: without maps the rule is 'everywhere'",
        folder, found);
    SV_TRY(sv_file_read(c, path, FILE_LIMIT, &bytes, &size));
    status = sv_argoverse2_roi_parse(c, path, bytes, size, out);
    free(bytes);
    return status;
}

void sv_argoverse2_roi_free(sv_argoverse2_roi *roi)
{
    free(roi->cells);
    *roi = (sv_argoverse2_roi){0};
}

bool sv_argoverse2_roi_holds(const sv_argoverse2_roi *roi, double x, double y)
{
    /* cut towards zero, as the official tools do: the first cells are a little wider */
    const double column = trunc((x - roi->x_min) * CELLS_PER_METRE),
                 row = trunc((y - roi->y_min) * CELLS_PER_METRE);
    if (!(column >= 0 && row >= 0 && column < roi->width && row < roi->height)) return false;
    return roi->cells[(size_t)row * (size_t)roi->width + (size_t)column] != 0;
}
