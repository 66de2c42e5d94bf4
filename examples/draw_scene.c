/* SPDX-License-Identifier: Apache-2.0
 *
 * A picture without data: a rotating sensor is ray-cast against ground, two walls and a few boxes, and the scan is drawn from
 * above with the boxes around it:  example_draw_scene OUT.png
 */
#include "perception/savanna.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BEAMS = 64, TURN = 1800, BOXES = 9 };

static const char *const classes[] = {"Car", "Pedestrian", "Cyclist"};
static const sv_box scene[BOXES] = {
    {.x = 9, .y = 2.5f, .z = -0.95f, .dx = 4.2f, .dy = 1.8f, .dz = 1.56f, .heading = 0.05f, .label = 1},
    {.x = 15, .y = -3.4f, .z = -0.95f, .dx = 4.0f, .dy = 1.7f, .dz = 1.5f, .heading = 3.1f, .label = 1},
    {.x = 23, .y = -3.6f, .z = -0.9f, .dx = 4.4f, .dy = 1.8f, .dz = 1.6f, .heading = 3.18f, .label = 1},
    {.x = 27, .y = 3.2f, .z = -0.9f, .dx = 4.1f, .dy = 1.7f, .dz = 1.6f, .heading = 0.0f, .label = 1},
    {.x = 19, .y = 9.0f, .z = -0.9f, .dx = 4.3f, .dy = 1.8f, .dz = 1.6f, .heading = 1.2f, .label = 1},
    {.x = 12, .y = 7.2f, .z = -0.83f, .dx = 0.7f, .dy = 0.6f, .dz = 1.75f, .heading = 1.6f, .label = 2},
    {.x = 18, .y = -8.0f, .z = -0.85f, .dx = 0.7f, .dy = 0.6f, .dz = 1.7f, .heading = -1.0f, .label = 2},
    {.x = 6, .y = -6.5f, .z = -0.85f, .dx = 1.8f, .dy = 0.6f, .dz = 1.7f, .heading = 0.3f, .label = 3},
    {.x = 33, .y = -0.5f, .z = -0.85f, .dx = 1.8f, .dy = 0.6f, .dz = 1.7f, .heading = 3.0f, .label = 3},
};

/* Distance along the ray (unit direction d from the origin) to a box, or 1e9. */
static float hit_box(const sv_box *b, const float d[3])
{
    const float c = cosf(b->heading), s = sinf(b->heading);
    const float from[3] = {-(b->x * c + b->y * s), b->x * s - b->y * c, -b->z};
    const float along[3] = {d[0] * c + d[1] * s, -d[0] * s + d[1] * c, d[2]},
                half[3] = {b->dx / 2, b->dy / 2, b->dz / 2};
    float near = 0, far = 1e9f;
    for (int i = 0; i < 3; i++) {
        const float inverse = 1.0f / (fabsf(along[i]) > 1e-9f ? along[i] : 1e-9f);
        const float t0 = (-half[i] - from[i]) * inverse, t1 = (half[i] - from[i]) * inverse;
        near = fmaxf(near, fminf(t0, t1));
        far = fminf(far, fmaxf(t0, t1));
    }
    return near <= far && near > 0 ? near : 1e9f;
}

static float hit(const float d[3])
{
    float t = d[2] < -1e-3f ? -1.73f / d[2] : 1e9f; /* ground */
    const float side =
        fabsf(d[1]) > 1e-6f ? (d[1] > 0 ? 14.0f : 12.0f) / fabsf(d[1]) : 1e9f; /* walls, 2.5 m high */
    if (side < t && side * d[2] < 0.8f) t = side;
    for (int i = 0; i < BOXES; i++) t = fminf(t, hit_box(&scene[i], d));
    return t;
}

int main(int argc, char **argv)
{
    if (argc != 2) return fprintf(stderr, "usage: %s OUT.png\n", argv[0]), 2;
    float *points = malloc(sizeof *points * 4 * BEAMS * TURN);
    if (!points) return 1;
    int count = 0;
    uint32_t noise = 1;
    for (int beam = 0; beam < BEAMS; beam++) {
        const float tilt = (2.0f - 26.8f * (float)beam / (BEAMS - 1)) * 0.0174533f;
        for (int step = 0; step < TURN; step++) {
            const float turn = 6.2831853f * (float)step / TURN,
                        d[3] = {cosf(tilt) * cosf(turn), cosf(tilt) * sinf(turn), sinf(tilt)};
            noise = noise * 1664525u + 1013904223u;
            const float t = hit(d) + 0.02f * ((float)(noise >> 8) * 0x1p-24f - 0.5f);
            if (t > 75) continue;
            for (int i = 0; i < 3; i++) points[4 * count + i] = t * d[i];
            points[4 * count++ + 3] = 0.3f;
        }
    }
    sv_ctx_def def = sv_ctx_def_default();
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 1;
    sv_bev_options options = sv_bev_options_default();
    options.x_min = -4, options.x_max = 40, options.y_min = -18, options.y_max = 18;
    options.pixels_per_metre = 20;
    options.title = "a street, ray-cast";
    const sv_points cloud = {.data = points, .count = count, .columns = 4};
    sv_image image;
    sv_status status = sv_render_bev(c, &image, &cloud, scene, BOXES, classes, 3, &options);
    if (status == SV_OK) {
        status = sv_image_write_png(c, &image, argv[1]);
        sv_image_free(&image);
    }
    if (status != SV_OK) fprintf(stderr, "%s\n", sv_error_message(c));
    sv_ctx_close(c);
    free(points);
    return status != SV_OK;
}
