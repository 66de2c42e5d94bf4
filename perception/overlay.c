/* SPDX-License-Identifier: Apache-2.0
 *
 * A segment is cut at the near plane before it is projected (behind the camera the projection means nothing)
 * and at the edges of the picture afterwards, so that far ends do not cost drawing. A face of a box can be
 * seen when the camera's centre is on its outer side; an edge is hidden when neither of its faces can be
 * seen.
 */
#include "overlay.h"

#include "font.h"
#include "perception/geometry/box.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COOKIE = 0x5bca3e01, BACKGROUND = 0x0c0f14, GAP = 6 };

typedef struct canvas {
    sv_ctx *c;
    sv_image *image;
    const double *p; /* projection */
    double near_plane, centre[3];
    const sv_camera_options *o;
} canvas;

sv_camera_options sv_camera_options_default(void)
{
    return (sv_camera_options){.near_plane = 0.2f, .scores = true, .point_size = 2.5f, .cookie = COOKIE};
}

/* ---- lines -------------------------------------------------------------------------------------------- */

/* u w, v w, w */
static void project(const double p[12], const double x[3], double out[3])
{
    for (int i = 0; i < 3; i++)
        out[i] = p[4 * i] * x[0] + p[4 * i + 1] * x[1] + p[4 * i + 2] * x[2] + p[4 * i + 3];
}

/* The part of a segment before the near plane, as pixels; false when there is none. */
static bool before_camera(const canvas *v, const double a[3], const double b[3], double pixels[2][2])
{
    double q[2][3];
    project(v->p, a, q[0]);
    project(v->p, b, q[1]);
    const double w[2] = {q[0][2] - v->near_plane, q[1][2] - v->near_plane};
    if (!(w[0] >= 0 || w[1] >= 0)) return false;
    for (int end = 0; end < 2; end++) {
        if (w[end] >= 0) continue;
        const double t = w[end] / (w[end] - w[1 - end]);
        for (int i = 0; i < 3; i++) q[end][i] += t * (q[1 - end][i] - q[end][i]);
    }
    for (int end = 0; end < 2; end++)
        for (int i = 0; i < 2; i++) pixels[end][i] = q[end][i] / q[end][2];
    return true;
}

/* The part within the picture and a margin around it; false when there is none. */
static bool within_picture(const canvas *v, double s[2][2])
{
    const double margin = 8, most[2] = {v->image->width + margin, v->image->height + margin};
    double from = 0, to = 1;
    for (int i = 0; i < 2; i++) {
        const double d = s[1][i] - s[0][i];
        if (d == 0) {
            if (s[0][i] < -margin || s[0][i] > most[i]) return false;
            continue;
        }
        const double a = (-margin - s[0][i]) / d, b = (most[i] - s[0][i]) / d;
        from = fmax(from, fmin(a, b));
        to = fmin(to, fmax(a, b));
    }
    if (!(from < to)) return false;
    const double start[2] = {s[0][0], s[0][1]}, d[2] = {s[1][0] - start[0], s[1][1] - start[1]};
    for (int i = 0; i < 2; i++) {
        s[0][i] = start[i] + from * d[i];
        s[1][i] = start[i] + to * d[i];
    }
    return true;
}

static void draw_segment(const canvas *v, const double a[3], const double b[3], float width, bool dashed,
                         sv_paint paint)
{
    double s[2][2];
    if (!before_camera(v, a, b, s) || !within_picture(v, s)) return;
    const float x0 = (float)s[0][0], y0 = (float)s[0][1], x1 = (float)s[1][0], y1 = (float)s[1][1];
    if (dashed)
        sv_image_dashes(v->image, x0, y0, x1, y1, width, 6, 5, paint);
    else
        sv_image_line(v->image, x0, y0, x1, y1, width, paint);
}

/* ---- boxes -------------------------------------------------------------------------------------------- */

enum { BOTTOM, TOP, FRONT, RIGHT, REAR, LEFT, FACES };

/* Corners of each face, in order around it (numbers of sv_box_corners). */
static const unsigned char faces[FACES][4] = {{0, 1, 2, 3}, {4, 5, 6, 7}, {0, 1, 5, 4},
                                              {1, 2, 6, 5}, {2, 3, 7, 6}, {3, 0, 4, 7}};
/* The two faces of each edge (numbers of sv_box_edges). */
static const unsigned char faces_of_edge[12][2] = {
    {BOTTOM, FRONT}, {BOTTOM, RIGHT}, {BOTTOM, REAR}, {BOTTOM, LEFT}, {TOP, FRONT},  {TOP, RIGHT},
    {TOP, REAR},     {TOP, LEFT},     {LEFT, FRONT},  {FRONT, RIGHT}, {RIGHT, REAR}, {REAR, LEFT}};

static bool finite_box(const sv_box *b)
{
    const float sum = b->x + b->y + b->z + b->dx + b->dy + b->dz + b->heading;
    return isfinite(sum) && fabsf(b->x) < 1e6f && fabsf(b->y) < 1e6f && fabsf(b->z) < 1e6f && b->dx > 0 &&
           b->dy > 0 && b->dz > 0;
}

/* The camera is on the outer side: further along the face's outward normal than the face is. */
static void find_visible(const canvas *v, const sv_box *b, bool out[FACES])
{
    const double cosine = cos((double)b->heading), sine = sin((double)b->heading);
    const double d[3] = {v->centre[0] - (double)b->x, v->centre[1] - (double)b->y,
                         v->centre[2] - (double)b->z};
    const double along = d[0] * cosine + d[1] * sine, across = d[1] * cosine - d[0] * sine;
    const double length = (double)b->dx / 2, width = (double)b->dy / 2, height = (double)b->dz / 2;
    out[BOTTOM] = d[2] < -height;
    out[TOP] = d[2] > height;
    out[FRONT] = along > length;
    out[REAR] = along < -length;
    out[LEFT] = across > width;
    out[RIGHT] = across < -width;
}

/* A face cut at the near plane: at most one corner more than before. */
static void fill_face(const canvas *v, const double corners[8][3], int face, sv_paint paint)
{
    float polygon[8][2];
    int count = 0;
    for (int i = 0; i < 4; i++) {
        const double *a = corners[faces[face][i]], *b = corners[faces[face][(i + 1) % 4]];
        double s[2][2];
        if (!before_camera(v, a, b, s)) continue;
        for (int end = 0; end < 2; end++) {
            const float x = (float)s[end][0], y = (float)s[end][1];
            if (count > 0 && polygon[count - 1][0] == x && polygon[count - 1][1] == y) continue;
            polygon[count][0] = x;
            polygon[count++][1] = y;
        }
    }
    if (count > 1 && polygon[0][0] == polygon[count - 1][0] && polygon[0][1] == polygon[count - 1][1])
        count--;
    sv_image_polygon(v->image, (const float(*)[2])polygon, count, paint);
}

static void draw_box(const canvas *v, const sv_box *b, const sv_box_style *style)
{
    double corners[8][3];
    bool visible[FACES];
    sv_box_corners(b, corners);
    find_visible(v, b, visible);
    if (style->fill > 0)
        fill_face(v, (const double(*)[3])corners, FRONT, (sv_paint){style->colour, style->fill});
    /* hidden edges, dark rims of the others, then these */
    for (int layer = 0; layer < 3; layer++)
        for (int e = 0; e < 12; e++) {
            const bool hidden = !visible[faces_of_edge[e][0]] && !visible[faces_of_edge[e][1]];
            if (hidden != (layer == 0)) continue;
            const double *from = corners[sv_box_edges[e][0]], *to = corners[sv_box_edges[e][1]];
            const sv_paint paint = layer == 0   ? (sv_paint){style->colour, 0.35f}
                                   : layer == 1 ? (sv_paint){BACKGROUND, 0.45f}
                                                : (sv_paint){style->colour, 1};
            draw_segment(v, from, to,
                         style->width * (layer == 0   ? 0.8f
                                         : layer == 1 ? 2.0f
                                                      : 1.0f),
                         style->dashed, paint);
        }
}

/* ---- points ------------------------------------------------------------------------------------------- */

/* Every pixel takes the nearest point that touches it, so that the order does not matter. */
static sv_status draw_points(const canvas *v, const sv_points *points)
{
    const int width = v->image->width, height = v->image->height;
    const size_t pixels = (size_t)width * (size_t)height;
    float *nearest = malloc(sizeof *nearest * pixels);
    SV_CHECK(v->c, nearest != NULL, SV_NO_MEMORY, "no memory for a picture of %d x %d pixels", width, height);
    for (size_t i = 0; i < pixels; i++) nearest[i] = INFINITY;
    const double radius = (double)v->o->point_size / 2;
    for (int i = 0; i < points->count; i++) {
        const float *p = points->data + (size_t)i * (size_t)points->columns;
        const double lidar[3] = {(double)p[0], (double)p[1], (double)p[2]};
        double q[3];
        project(v->p, lidar, q);
        if (!(q[2] >= v->near_plane)) continue;
        const double cx = q[0] / q[2], cy = q[1] / q[2];
        if (!(cx > -radius && cy > -radius && cx < width + radius && cy < height + radius)) continue;
        for (int y = (int)floor(cy - radius); y <= (int)(cy + radius); y++)
            for (int x = (int)floor(cx - radius); x <= (int)(cx + radius); x++) {
                if (x < 0 || y < 0 || x >= width || y >= height) continue;
                const double ex = x + 0.5 - cx, ey = y + 0.5 - cy;
                if (ex * ex + ey * ey > radius * radius) continue;
                float *at = &nearest[(size_t)y * (size_t)width + (size_t)x];
                *at = fminf(*at, (float)q[2]);
            }
    }
    const float begin = 4, end = 80; /* metres, on a logarithmic scale */
    for (size_t i = 0; i < pixels; i++)
        if (nearest[i] < INFINITY)
            sv_image_blend(
                v->image, (int)(i % (size_t)width), (int)(i / (size_t)width),
                (sv_paint){sv_scale_colour(1 - logf(nearest[i] / begin) / logf(end / begin)), 0.85f});
    free(nearest);
    return SV_OK;
}

/* ---- a camera ----------------------------------------------------------------------------------------- */

typedef struct ranked {
    double distance;
    int box; /* number; truth is counted from -1 down */
} ranked;

/* The farthest first; at the same distance truth before others, and the better of these last. */
static int compare_ranks(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? 1 : -1;
    if ((x->box < 0) != (y->box < 0)) return x->box < 0 ? -1 : 1;
    return (x->box < y->box) - (x->box > y->box);
}

static int rank(const canvas *v, const sv_box *boxes, int count, bool truth, ranked *out)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        const sv_box *b = &boxes[i];
        if (!finite_box(b)) continue;
        const double at[3] = {(double)b->x, (double)b->y, (double)b->z};
        double q[3];
        project(v->p, at, q);
        const double reach = ((double)b->dx + (double)b->dy + (double)b->dz) / 2;
        if (q[2] + reach > v->near_plane) out[n++] = (ranked){q[2], truth ? -1 - i : i};
    }
    return n;
}

static sv_box_style style_of(const canvas *v, const sv_box *boxes, int i)
{
    return v->o->styles ? v->o->styles[i] : sv_style_of_class(boxes[i].label);
}

static sv_status draw_boxes(const canvas *v, const sv_box *boxes, int count)
{
    const sv_camera_options *o = v->o;
    ranked *order = malloc(sizeof *order * ((size_t)count + (size_t)o->truth_count + 1));
    SV_CHECK(v->c, order != NULL, SV_NO_MEMORY, "no memory for %d boxes", count + o->truth_count);
    int n = rank(v, o->truth, o->truth_count, true, order);
    n += rank(v, boxes, count, false, order + n);
    qsort(order, (size_t)n, sizeof *order, compare_ranks);
    for (int i = 0; i < n; i++) {
        const int box = order[i].box;
        const sv_box_style style = box < 0 ? sv_style_of_truth() : style_of(v, boxes, box);
        draw_box(v, box < 0 ? &o->truth[-1 - box] : &boxes[box], &style);
    }
    free(order);
    return SV_OK;
}

/* ---- texts -------------------------------------------------------------------------------------------- */

typedef struct frame_of_text {
    int x, y, width, height;
} frame_of_text;

/* Where the text of a box goes: above its uppermost corner, within the picture. False when there is no
 * place. */
static bool place_text(const canvas *v, const sv_box *b, const char *text, int scale, frame_of_text *out)
{
    double corners[8][3], top = INFINITY, left = 0;
    sv_box_corners(b, corners);
    for (int i = 0; i < 8; i++) {
        double q[3];
        project(v->p, corners[i], q);
        if (!(q[2] >= v->near_plane))
            return false; /* beside or around the camera: there is no place above it */
        if (q[1] / q[2] < top) {
            top = q[1] / q[2];
            left = q[0] / q[2];
        }
    }
    const int pad = 2 * scale, width = sv_image_text_width(text, scale) + 2 * pad,
              height = SV_FONT_CAPITAL * scale + 2 * pad;
    if (!(left > -width && left < v->image->width + width && top > -4 * height && top < v->image->height))
        return false;
    const int x = (int)left - width / 2, y = (int)top - height - pad, most = v->image->width - width;
    *out = (frame_of_text){x > most ? most : x < 0 ? 0 : x, y < 0 ? 0 : y, width, height};
    return true;
}

static bool overlap(const frame_of_text *a, const frame_of_text *b)
{
    return a->x < b->x + b->width && b->x < a->x + a->width && a->y < b->y + b->height &&
           b->y < a->y + a->height;
}

/* The best boxes first; a text that would cover another one moves up, or is left out after three tries. */
static sv_status draw_texts(const canvas *v, const sv_box *boxes, int count, const char *const *classes,
                            int class_count)
{
    const int scale = v->image->width < 1600 ? 1 : 2, pad = 2 * scale;
    frame_of_text *placed = malloc(sizeof *placed * (size_t)(count + 1));
    SV_CHECK(v->c, placed != NULL, SV_NO_MEMORY, "no memory for %d boxes", count);
    int n = 0;
    char line[96];
    for (int i = 0; i < count; i++) {
        const sv_box *b = &boxes[i];
        const sv_box_style style = style_of(v, boxes, i);
        if (!finite_box(b) || !(style.text || v->o->scores)) continue;
        const bool known = b->label >= 1 && b->label <= class_count;
        snprintf(line, sizeof line, "%.60s %.2f", known ? classes[b->label - 1] : "", (double)b->score);
        const char *text = style.text ? style.text : line;
        frame_of_text *f = &placed[n];
        if (!place_text(v, b, text, scale, f)) continue;
        bool free_place = false;
        for (int attempt = 0; attempt < 3 && !free_place; attempt++) {
            if (attempt > 0) f->y -= f->height;
            free_place = f->y >= 0;
            for (int k = 0; k < n && free_place; k++) free_place = !overlap(f, &placed[k]);
        }
        if (!free_place) continue;
        n++;
        sv_image_rectangle(v->image, (float)f->x, (float)f->y, (float)f->width, (float)f->height,
                           (sv_paint){BACKGROUND, 0.6f});
        sv_image_text(v->image, f->x + pad, f->y + pad, scale, text, (sv_paint){style.colour, 1});
    }
    free(placed);
    return SV_OK;
}

static void darken(sv_image *image, float share)
{
    const size_t bytes = 3 * (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < bytes && share > 0; i++)
        image->rgb[i] = (uint8_t)((float)image->rgb[i] * (1 - share));
}

sv_status sv_render_camera(sv_ctx *c, sv_image *picture, const double projection[12], const sv_box *boxes,
                           int count, const char *const *classes, int class_count,
                           const sv_camera_options *options)
{
    SV_CHECK(c, options->cookie == COOKIE, SV_INTERNAL, "options must come from sv_camera_options_default()");
    SV_CHECK(c,
             options->near_plane > 0 && options->dim >= 0 && options->dim <= 1 && options->point_size > 0 &&
                 options->point_size <= 64,
             SV_BAD_INPUT,
             "a camera with its near plane at %g m, points of %g pixels, darkened by %g cannot be drawn",
             (double)options->near_plane, (double)options->point_size, (double)options->dim);
    const sv_pose pose = sv_pose_from_rows(projection);
    sv_pose back;
    SV_CHECK(c, sv_pose_invert(&pose, &back), SV_BAD_INPUT, "the projection of the camera is singular");
    canvas v = {
        .c = c, .image = picture, .p = projection, .near_plane = (double)options->near_plane, .o = options};
    memcpy(v.centre, back.t, sizeof v.centre); /* what the projection maps to nothing */
    darken(picture, options->dim);
    if (options->points) SV_TRY(draw_points(&v, options->points));
    SV_TRY(draw_boxes(&v, boxes, count));
    SV_TRY(draw_texts(&v, boxes, count, classes, class_count));
    if (options->title) {
        const int s = picture->width < 1600 ? 1 : 2, pad = 4 * s;
        sv_image_rectangle(picture, 0, 0, (float)(sv_image_text_width(options->title, s) + 2 * pad),
                           (float)(SV_FONT_ROWS * s + 2 * pad), (sv_paint){BACKGROUND, 0.78f});
        sv_image_text(picture, pad, pad, s, options->title, (sv_paint){0xf2f5fa, 1});
    }
    return SV_OK;
}

/* ---- a frame ------------------------------------------------------------------------------------------ */

typedef struct page {
    sv_ctx *c;
    sv_image image;
    const sv_points *points;
    const sv_box *boxes;
    int count, class_count;
    const char *const *classes;
    const sv_bev_options *bev;
} page;

/* A camera drawn at its own size and pasted at (x, y), made 'width' x 'height' if it is not that already. */
static sv_status place_camera(page *g, const sv_camera_picture *camera, bool with_points, int x, int y,
                              int width, int height)
{
    sv_camera_options options = sv_camera_options_default();
    char title[96];
    snprintf(title, sizeof title, "%.60s%s", camera->name, with_points ? ", points near to far" : "");
    options.title = title;
    options.truth = g->bev->truth;
    options.truth_count = g->bev->truth_count;
    options.styles = g->bev->styles;
    if (with_points) {
        options.points = g->points;
        options.dim = 0.55f;
        options.scores = false;
    }
    sv_image drawn, fitted = {0};
    SV_TRY(sv_image_new(g->c, &drawn, camera->image->width, camera->image->height, 0));
    sv_image_paste(&drawn, camera->image, 0, 0);
    sv_status status = sv_render_camera(g->c, &drawn, camera->projection, g->boxes, g->count, g->classes,
                                        g->class_count, &options);
    const bool fits = drawn.width == width && drawn.height == height;
    if (status == SV_OK && !fits) status = sv_image_resize(g->c, &drawn, width, height, &fitted);
    if (status == SV_OK) sv_image_paste(&g->image, fits ? &drawn : &fitted, x, y);
    sv_image_free(&drawn);
    sv_image_free(&fitted);
    return status;
}

/* One camera: as it is above, with points below. */
static sv_status place_one(page *g, const sv_camera_picture *camera, int x)
{
    const int width = camera->image->width, height = camera->image->height;
    SV_TRY(place_camera(g, camera, false, x, 0, width, height));
    return place_camera(g, camera, true, x, height + GAP, width, height);
}

/* Several: two rows of equal height, each as wide as it comes out. */
static sv_status place_several(page *g, const sv_camera_picture *cameras, int count, int x, int row,
                               bool measure, int *right)
{
    const int columns = (count + 1) / 2;
    int at = x;
    *right = x;
    for (int i = 0; i < count; i++) {
        if (i == columns) at = x;
        const sv_image *image = cameras[i].image;
        const int width = (int)((int64_t)image->width * row / image->height);
        if (!measure)
            SV_TRY(place_camera(g, &cameras[i], false, at, i < columns ? 0 : row + GAP, width < 1 ? 1 : width,
                                row));
        at += width + GAP;
        if (at - GAP > *right) *right = at - GAP;
    }
    return SV_OK;
}

sv_status sv_render_frame(sv_ctx *c, sv_image *out, const sv_points *points, const sv_box *boxes, int count,
                          const char *const *classes, int class_count, const sv_bev_options *bev,
                          const sv_camera_picture *cameras, int camera_count)
{
    *out = (sv_image){0};
    if (camera_count == 0) return sv_render_bev(c, out, points, boxes, count, classes, class_count, bev);
    sv_bev_options options = *bev;
    const float depth = bev->x_max - bev->x_min;
    const int height = camera_count == 1 ? 2 * cameras[0].image->height + GAP : 0;
    if (height > 0 && depth > 0) options.pixels_per_metre = fminf(fmaxf((float)height / depth, 4), 16);
    page g = {c, {0}, points, boxes, count, class_count, classes, &options};
    sv_image above;
    SV_TRY(sv_render_bev(c, &above, points, boxes, count, classes, class_count, &options));
    const int x = above.width + GAP, row = (above.height - GAP) / 2;
    int right = camera_count == 1 ? x + cameras[0].image->width : x;
    sv_status status = SV_OK;
    if (camera_count > 1) status = place_several(&g, cameras, camera_count, x, row, true, &right);
    if (status == SV_OK)
        status = sv_image_new(c, &g.image, right, height > above.height ? height : above.height, BACKGROUND);
    if (status == SV_OK) {
        sv_image_paste(&g.image, &above, 0, 0);
        status = camera_count == 1 ? place_one(&g, &cameras[0], x)
                                   : place_several(&g, cameras, camera_count, x, row, false, &right);
    }
    sv_image_free(&above);
    if (status == SV_OK)
        *out = g.image;
    else
        sv_image_free(&g.image);
    return status;
}
