/* SPDX-License-Identifier: Apache-2.0 */
#include "models.h"

#include "random.h"

#include <stdlib.h>
#include <string.h>

/* ---- solids ------------------------------------------------------------------------------------------- */

void sim_object(sv_sim_scene *scene, sv_sim_kind kind, uint64_t id, const sv_pose *pose, double length,
                double width, double height)
{
    if (scene->object_count == scene->object_room) {
        const int room = scene->object_room ? 2 * scene->object_room : 256;
        sv_sim_object *grown = realloc(scene->objects, sizeof *grown * (size_t)room);
        if (!grown) {
            scene->failed = true;
            return;
        }
        scene->objects = grown;
        scene->object_room = room;
    }
    scene->objects[scene->object_count++] = (sv_sim_object){.kind = kind,
                                                            .id = id,
                                                            .pose = *pose,
                                                            .length = length,
                                                            .width = width,
                                                            .height = height,
                                                            .first_part = scene->part_count};
}

/* The new part lies in the object's frame until it is placed. */
static sv_sim_part *add(sv_sim_scene *scene, sv_sim_shape shape, sv_sim_material material, uint32_t colour,
                        const sv_pose *local)
{
    static sv_sim_part spare; /* written and never read, when there is no memory */
    if (scene->part_count == scene->part_room) {
        const int room = scene->part_room ? 2 * scene->part_room : 2048;
        sv_sim_part *grown = realloc(scene->parts, sizeof *grown * (size_t)room);
        if (!grown) {
            scene->failed = true;
            return &spare;
        }
        scene->parts = grown;
        scene->part_room = room;
    }
    if (scene->object_count == 0) return &spare;
    sv_sim_object *object = &scene->objects[scene->object_count - 1];
    sv_sim_part *part = &scene->parts[scene->part_count++];
    object->part_count++;
    *part = (sv_sim_part){.shape = shape,
                          .material = material,
                          .colour = colour,
                          .object = scene->object_count - 1,
                          .pose = sv_pose_compose(&object->pose, local)};
    return part;
}

static sv_pose at(double x, double y, double z)
{
    return sv_pose_from_yaw(0, x, y, z);
}

/* A block whose upper face may be smaller and shifted: x from..to and half width below, the same above. */
typedef struct block {
    double low, high;                  /* z */
    double from, to, half;             /* of the lower face */
    double top_from, top_to, top_half; /* of the upper one */
} block;

static sv_sim_part *add_block(sv_sim_scene *scene, sv_sim_material material, uint32_t colour, block b)
{
    const double cx = 0.5 * (b.from + b.to), cz = 0.5 * (b.low + b.high), h = b.high - b.low;
    const sv_pose local = at(cx, 0, cz);
    sv_sim_part *part = add(scene, SV_SIM_CONVEX, material, colour, &local);
    /* outward normals in x-z of the slanted ends, and in y-z of the sides */
    const double ends[2][4] = {{h, b.to - b.top_to, b.to - cx, b.low - cz},
                               {-h, b.top_from - b.from, b.from - cx, b.low - cz}};
    for (int k = 0; k < 2; k++) {
        const double n = sqrt(ends[k][0] * ends[k][0] + ends[k][1] * ends[k][1]);
        part->plane[k][0] = (float)(ends[k][0] / n);
        part->plane[k][1] = 0;
        part->plane[k][2] = (float)(ends[k][1] / n);
        part->plane[k][3] = (float)((ends[k][0] * ends[k][2] + ends[k][1] * ends[k][3]) / n);
        const double side = k ? -1 : 1, rise = b.half - b.top_half, m = sqrt(h * h + rise * rise);
        part->plane[2 + k][0] = 0;
        part->plane[2 + k][1] = (float)(side * h / m);
        part->plane[2 + k][2] = (float)(rise / m);
        part->plane[2 + k][3] = (float)((h * b.half + rise * (b.low - cz)) / m);
        part->plane[4 + k][0] = part->plane[4 + k][1] = 0;
        part->plane[4 + k][2] = (float)side;
        part->plane[4 + k][3] = (float)(h / 2);
    }
    const double x = fmax(fmax(fabs(b.from - cx), fabs(b.to - cx)),
                          fmax(fabs(b.top_from - cx), fabs(b.top_to - cx))),
                 y = fmax(b.half, b.top_half);
    part->reach = (float)sqrt(x * x + y * y + h * h / 4);
    return part;
}

/* An upright box: middle x, y, lower face z, length, width, height. */
static sv_sim_part *add_box(sv_sim_scene *scene, sv_sim_material material, uint32_t colour, double x,
                            double y, double z, double length, double width, double height)
{
    sv_sim_part *part = add_block(scene, material, colour,
                                  (block){z, z + height, x - length / 2, x + length / 2, width / 2,
                                          x - length / 2, x + length / 2, width / 2});
    /* moved sideways in the object's frame */
    if (scene->object_count > 0) {
        const double shift[3] = {0, y, 0};
        double turned[3];
        sv_pose_rotate(&scene->objects[scene->object_count - 1].pose, shift, turned);
        for (int k = 0; k < 3; k++) part->pose.t[k] += turned[k];
    }
    return part;
}

static sv_sim_part *add_ball(sv_sim_scene *scene, sv_sim_material material, uint32_t colour, double x,
                             double y, double z, double a, double b, double h)
{
    const sv_pose local = at(x, y, z);
    sv_sim_part *part = add(scene, SV_SIM_ELLIPSOID, material, colour, &local);
    part->size[0] = (float)a, part->size[1] = (float)b, part->size[2] = (float)h;
    part->reach = (float)fmax(a, fmax(b, h));
    return part;
}

/* A frame at the middle of a..b whose z axis runs along it. */
static sv_pose along(const double a[3], const double b[3], double *length)
{
    double z[3], x[3], y[3];
    for (int k = 0; k < 3; k++) z[k] = b[k] - a[k];
    *length = sqrt(z[0] * z[0] + z[1] * z[1] + z[2] * z[2]);
    for (int k = 0; k < 3; k++) z[k] /= *length;
    const double other[3] = {fabs(z[0]) < 0.9, fabs(z[0]) >= 0.9, 0};
    for (int k = 0; k < 3; k++)
        x[k] = other[(k + 1) % 3] * z[(k + 2) % 3] - other[(k + 2) % 3] * z[(k + 1) % 3];
    const double n = sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
    for (int k = 0; k < 3; k++) x[k] /= n;
    for (int k = 0; k < 3; k++) y[k] = z[(k + 1) % 3] * x[(k + 2) % 3] - z[(k + 2) % 3] * x[(k + 1) % 3];
    sv_pose p;
    for (int k = 0; k < 3; k++) {
        p.r[3 * k] = x[k], p.r[3 * k + 1] = y[k], p.r[3 * k + 2] = z[k];
        p.t[k] = 0.5 * (a[k] + b[k]);
    }
    return p;
}

static sv_sim_part *add_limb(sv_sim_scene *scene, sv_sim_shape shape, sv_sim_material material,
                             uint32_t colour, double radius, double ax, double ay, double az, double bx,
                             double by, double bz)
{
    const double a[3] = {ax, ay, az}, b[3] = {bx, by, bz};
    double length;
    const sv_pose local = along(a, b, &length);
    sv_sim_part *part = add(scene, shape, material, colour, &local);
    part->size[0] = part->size[1] = (float)radius;
    part->size[2] = (float)(length / 2);
    part->reach =
        (float)(shape == SV_SIM_CAPSULE ? length / 2 + radius : sqrt(length * length / 4 + radius * radius));
    return part;
}

static void add_wheel(sv_sim_scene *scene, double x, double y, double radius, double width)
{
    add_limb(scene, SV_SIM_CYLINDER, SV_SIM_RUBBER, 0x1c1c1e, radius, x, y - width / 2, radius, x,
             y + width / 2, radius);
    const double out = y > 0 ? y + width / 2 : y - width / 2; /* the rim */
    add_limb(scene, SV_SIM_CYLINDER, SV_SIM_METAL, 0x8c9096, 0.62 * radius, x, out - 0.01, radius, x,
             out + 0.01, radius);
}

static const sv_sim_object *last(const sv_sim_scene *scene)
{
    static const sv_sim_object none = {.length = 1, .width = 1, .height = 1};
    return scene->object_count > 0 ? &scene->objects[scene->object_count - 1] : &none;
}

/* ---- vehicles ----------------------------------------------------------------------------------------- */

static uint32_t car_colour(uint64_t *key)
{
    static const uint32_t colours[] = {0xd9dbdd, 0xb4b8bd, 0x2a2c30, 0x17181b, 0x555a60, 0x8b1e1e,
                                       0x1f3a68, 0x2f5d8a, 0x6d7a5a, 0xc4b79a, 0xa33a24, 0x0e4a3a};
    return colours[(int)(sim_uniform(key) * 11.99)];
}

/* Plates, headlights and rear lights: they send light back where it came from. */
static void add_lamps(sv_sim_scene *scene, double half, double width, double z)
{
    add_box(scene, SV_SIM_MIRROR, 0xf2f2e8, half, 0, z - 0.18, 0.03, 0.50, 0.11);
    add_box(scene, SV_SIM_MIRROR, 0xf2f2e8, -half, 0, z - 0.12, 0.03, 0.50, 0.11);
    for (int side = -1; side <= 1; side += 2) {
        add_box(scene, SV_SIM_MIRROR, 0xe8ecf2, half - 0.08, side * (width / 2 - 0.22), z - 0.02, 0.14, 0.30,
                0.13);
        add_box(scene, SV_SIM_MIRROR, 0xc01818, -half + 0.05, side * (width / 2 - 0.16), z, 0.10, 0.20, 0.18);
    }
}

void sim_car(sv_sim_scene *scene, uint64_t key)
{
    const double l = last(scene)->length, w = last(scene)->width, h = last(scene)->height, half = l / 2;
    const uint32_t paint = car_colour(&key);
    const int form = (int)(sim_uniform(&key) * 3); /* saloon, hatchback, estate */
    const double belt = h * sim_between(&key, 0.58, 0.63), hood = belt - sim_between(&key, 0.06, 0.14);
    const double windscreen = l * sim_between(&key, 0.20, 0.27), roof_front = windscreen - l * 0.17;
    const double rear = form == 0 ? -l * 0.33 : -half + 0.06, roof_rear = form == 0   ? -l * 0.19
                                                                          : form == 1 ? -l * 0.34
                                                                                      : -l * 0.42;
    add_block(scene, SV_SIM_PAINT, paint,
              (block){0.20, 0.46, -half + 0.06, half - 0.06, w / 2 - 0.06, -half, half, w / 2});
    add_block(scene, SV_SIM_PAINT, paint,
              (block){0.46, hood, -half, half, w / 2, -half + 0.08, half - 0.22, w / 2 - 0.06});
    add_block(scene, SV_SIM_PAINT, paint,
              (block){hood, belt, -half + 0.08, windscreen + 0.25, w / 2 - 0.06,
                      -half + (form == 0 ? 0.14 : 0.10), windscreen, w / 2 - 0.10});
    add_block(scene, SV_SIM_GLASS, 0x2b3a44,
              (block){belt, h - 0.07, rear, windscreen, w / 2 - 0.11, roof_rear, roof_front, w / 2 - 0.26});
    add_block(scene, SV_SIM_PAINT, paint,
              (block){h - 0.07, h, roof_rear - 0.02, roof_front + 0.02, w / 2 - 0.25, roof_rear + 0.10,
                      roof_front - 0.12, w / 2 - 0.34});
    for (int side = -1; side <= 1; side += 2) {
        /* pillars between the windows */
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_PAINT, paint, 0.05, -l * 0.06, side * (w / 2 - 0.12), belt,
                 -l * 0.07, side * (w / 2 - 0.27), h - 0.05);
        add_wheel(scene, l * 0.315, side * (w / 2 - 0.12), 0.31, 0.21);
        add_wheel(scene, -l * 0.295, side * (w / 2 - 0.12), 0.31, 0.21);
        add_box(scene, SV_SIM_PAINT, paint, windscreen - 0.15, side * (w / 2 - 0.02), belt, 0.12, 0.10,
                0.12); /* mirrors */
    }
    add_lamps(scene, half, w, 0.68 * belt);
}

void sim_van(sv_sim_scene *scene, uint64_t key)
{
    const double l = last(scene)->length, w = last(scene)->width, h = last(scene)->height, half = l / 2;
    const uint32_t paint = sim_uniform(&key) < 0.6 ? 0xdcdedf : car_colour(&key);
    const bool windows = sim_uniform(&key) < 0.5;
    const double belt = 1.15, nose = half - l * 0.17;
    add_block(scene, SV_SIM_PAINT, paint,
              (block){0.25, belt, -half, half, w / 2, -half, half - 0.35, w / 2 - 0.03});
    add_block(scene, SV_SIM_PAINT, paint,
              (block){belt, h, -half, nose - 0.12, w / 2 - 0.03, -half + 0.08, nose - 0.45, w / 2 - 0.16});
    add_block(scene, SV_SIM_GLASS, 0x25323b,
              (block){belt, h - 0.25, nose - 0.5, half - 0.42, w / 2 - 0.06, nose - 0.55, nose - 0.18,
                      w / 2 - 0.17});
    for (int side = -1; side <= 1; side += 2) {
        if (windows)
            add_box(scene, SV_SIM_GLASS, 0x25323b, -l * 0.18, side * (w / 2 - 0.07), belt + 0.08, l * 0.42,
                    0.06, (h - belt) * 0.5);
        add_wheel(scene, half - 0.85, side * (w / 2 - 0.13), 0.34, 0.23);
        add_wheel(scene, -half + 0.95, side * (w / 2 - 0.13), 0.34, 0.23);
    }
    add_lamps(scene, half, w, 0.82);
}

void sim_truck(sv_sim_scene *scene, uint64_t key)
{
    const double l = last(scene)->length, w = last(scene)->width, h = last(scene)->height, half = l / 2;
    const uint32_t cab = car_colour(&key), load = sim_uniform(&key) < 0.5 ? 0xd8d8d4 : car_colour(&key);
    const double cab_length = 1.9, cab_height = fmin(h - 0.2, 2.9), door = half - cab_length;
    add_block(scene, SV_SIM_PAINT, cab,
              (block){0.45, 1.5, door, half, w / 2 - 0.05, door, half - 0.05, w / 2 - 0.05});
    add_block(scene, SV_SIM_GLASS, 0x25323b,
              (block){1.5, cab_height - 0.35, door + 0.5, half - 0.06, w / 2 - 0.07, door + 0.5, half - 0.3,
                      w / 2 - 0.12});
    add_block(scene, SV_SIM_PAINT, cab,
              (block){1.5, cab_height, door, half - 0.7, w / 2 - 0.06, door, half - 0.8, w / 2 - 0.1});
    add_block(scene, SV_SIM_PAINT, cab,
              (block){cab_height - 0.35, cab_height, door + 0.4, half - 0.3, w / 2 - 0.12, door + 0.4,
                      half - 0.6, w / 2 - 0.2});
    add_box(scene, SV_SIM_METAL, 0x3a3c40, 0, 0, 0.55, l - 0.4, 0.9, 0.35);
    add_box(scene, SV_SIM_PAINT, load, -cab_length / 2 - 0.1, 0, 0.95, l - cab_length - 0.2, w, h - 0.95);
    for (int side = -1; side <= 1; side += 2) {
        add_wheel(scene, half - 1.1, side * (w / 2 - 0.17), 0.48, 0.3);
        add_wheel(scene, -half + 1.2, side * (w / 2 - 0.17), 0.48, 0.32);
        if (l > 8) add_wheel(scene, -half + 2.5, side * (w / 2 - 0.17), 0.48, 0.32);
    }
    add_lamps(scene, half, w, 0.85);
}

void sim_trailer(sv_sim_scene *scene, uint64_t key)
{
    const double l = last(scene)->length, w = last(scene)->width, h = last(scene)->height;
    add_box(scene, SV_SIM_METAL, sim_uniform(&key) < 0.5 ? 0x8a8d90 : 0x5a4632, -0.3, 0, 0.45, l - 0.6, w,
            h - 0.45);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, 0x404246, 0.05, l / 2 - 0.7, 0, 0.5, l / 2 - 0.05, 0, 0.45);
    add_wheel(scene, -0.3, w / 2 - 0.1, 0.3, 0.18);
    add_wheel(scene, -0.3, -w / 2 + 0.1, 0.3, 0.18);
}

/* ---- people ------------------------------------------------------------------------------------------- */

typedef struct outfit {
    uint32_t skin, top, trousers, hair, shoes;
} outfit;

static outfit dress(uint64_t *key)
{
    static const uint32_t tops[] = {0x9c2f2f, 0x2f4f7c, 0x3f6b3f, 0xd9d4c8,
                                    0x26262a, 0xc7a23a, 0x7d4f86, 0x5f7f93},
                          trousers[] = {0x20242c, 0x35435c, 0x4d4438, 0x15161a, 0x6b6f75},
                          skins[] = {0xe3b898, 0xc68f6a, 0x8a5a3c, 0xf0cdb2},
                          hair[] = {0x2a1d14, 0x5b4028, 0x14110f, 0xb09a6a};
    outfit o;
    o.top = tops[(int)(sim_uniform(key) * 7.99)];
    o.trousers = trousers[(int)(sim_uniform(key) * 4.99)];
    o.skin = skins[(int)(sim_uniform(key) * 3.99)];
    o.hair = hair[(int)(sim_uniform(key) * 3.99)];
    o.shoes = 0x202020;
    return o;
}

static void add_head(sv_sim_scene *scene, const outfit *o, double x, double z, double s)
{
    add_ball(scene, SV_SIM_SKIN, o->skin, x, 0, z - 0.115 * s, 0.095 * s, 0.078 * s, 0.115 * s);
    add_ball(scene, SV_SIM_CLOTH, o->hair, x - 0.012 * s, 0, z - 0.085 * s, 0.100 * s, 0.084 * s, 0.088 * s);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_SKIN, o->skin, 0.05 * s, x, 0, z - 0.27 * s, x, 0, z - 0.2 * s);
}

void sim_pedestrian(sv_sim_scene *scene, uint64_t key, double stride)
{
    const double h = last(scene)->height, s = h / 1.75; /* everything scales with the height */
    const outfit o = dress(&key);
    const double swing = 0.24 * s * sin(stride), arm = 0.2 * s * sin(stride);
    for (int side = -1; side <= 1; side += 2) {
        const double foot = side * swing, knee = 0.55 * foot + 0.06 * s * fabs(sin(stride));
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.trousers, 0.078 * s, 0, side * 0.09 * s, 0.86 * s,
                 knee, side * 0.09 * s, 0.48 * s);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.trousers, 0.058 * s, knee, side * 0.09 * s, 0.48 * s,
                 foot, side * 0.09 * s, 0.10 * s);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_RUBBER, o.shoes, 0.045 * s, foot - 0.04, side * 0.09 * s,
                 0.05 * s, foot + 0.14 * s, side * 0.09 * s, 0.05 * s);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.top, 0.05 * s, 0, side * 0.21 * s, 1.40 * s,
                 -0.5 * side * arm, side * 0.24 * s, 1.12 * s);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_SKIN, o.skin, 0.038 * s, -0.5 * side * arm, side * 0.24 * s,
                 1.12 * s, -side * arm + 0.05, side * 0.23 * s, 0.86 * s);
    }
    add_ball(scene, SV_SIM_CLOTH, o.top, 0, 0, 1.18 * s, 0.125 * s, 0.205 * s, 0.34 * s);
    if (sim_uniform(&key) < 0.25) /* a rucksack */
        add_ball(scene, SV_SIM_CLOTH, 0x334433, -0.17 * s, 0, 1.22 * s, 0.12 * s, 0.16 * s, 0.23 * s);
    add_head(scene, &o, 0.02 * s, h, s);
}

void sim_sitting(sv_sim_scene *scene, uint64_t key)
{
    const double h = last(scene)->height, s = h / 1.28;
    const outfit o = dress(&key);
    for (int side = -1; side <= 1; side += 2) {
        const double y = side * 0.1 * s;
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.trousers, 0.08 * s, -0.12, y, 0.50 * s, 0.28, y,
                 0.50 * s);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.trousers, 0.06 * s, 0.28, y, 0.48 * s, 0.30, y,
                 0.08 * s);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.top, 0.05 * s, -0.12, side * 0.22 * s, 0.95 * s, 0.10,
                 side * 0.2 * s, 0.62 * s);
    }
    add_ball(scene, SV_SIM_CLOTH, o.top, -0.12, 0, 0.74 * s, 0.13 * s, 0.2 * s, 0.32 * s);
    add_head(scene, &o, -0.10, h, s);
}

void sim_cyclist(sv_sim_scene *scene, uint64_t key, double stride)
{
    const double h = last(scene)->height, s = h / 1.72;
    const outfit o = dress(&key);
    const uint32_t frame = car_colour(&key);
    for (int end = -1; end <= 1; end += 2) {
        sv_sim_part *wheel = add_limb(scene, SV_SIM_CYLINDER, SV_SIM_RUBBER, 0x222222, 0.34, end * 0.52,
                                      -0.02, 0.34, end * 0.52, 0.02, 0.34);
        wheel->porosity = 0.7f; /* spokes */
    }
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, frame, 0.022, -0.52, 0, 0.34, -0.18, 0, 0.82);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, frame, 0.022, -0.16, 0, 0.75, 0.40, 0, 0.82);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, frame, 0.022, -0.05, 0, 0.30, 0.40, 0, 0.80);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, frame, 0.022, 0.52, 0, 0.34, 0.38, 0, 1.00);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, 0x303030, 0.018, 0.36, -0.26, 1.02, 0.36, 0.26, 1.02);
    for (int side = -1; side <= 1; side += 2) {
        const double pedal = 0.17 * sin(stride + (side > 0 ? 3.14159265 : 0)),
                     lift = 0.17 * cos(stride + (side > 0 ? 3.14159265 : 0));
        const double y = side * 0.1, foot_x = -0.02 + pedal, foot_z = 0.34 + lift;
        const double knee_x = 0.5 * (foot_x - 0.2) + 0.27, knee_z = 0.5 * (foot_z + 0.92) + 0.08;
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.trousers, 0.075, -0.2, y, 0.92 * s, knee_x, y,
                 knee_z);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.trousers, 0.055, knee_x, y, knee_z, foot_x, y,
                 foot_z);
        add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.top, 0.048, 0.10, side * 0.2, 1.36 * s, 0.34,
                 side * 0.24, 1.06);
    }
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_CLOTH, o.top, 0.15 * s, -0.17, 0, 1.0 * s, 0.09, 0, 1.33 * s);
    add_head(scene, &o, 0.20, h, s);
    if (sim_uniform(&key) < 0.5)
        add_ball(scene, SV_SIM_PAINT, car_colour(&key), 0.19, 0, h - 0.07 * s, 0.13 * s, 0.1 * s, 0.075 * s);
}

/* ---- the street's furniture --------------------------------------------------------------------------- */

void sim_house(sv_sim_scene *scene, uint64_t key)
{
    static const uint32_t walls[] = {0xd8cdb8, 0xc9b28c, 0xb9a9a0, 0xe2ded4,
                                     0xa8604a, 0x9a8f86, 0xcfc3a0, 0x8fa0a8};
    const double l = last(scene)->length, w = last(scene)->width, h = last(scene)->height;
    const bool brick = sim_uniform(&key) < 0.3;
    const uint32_t wall = brick ? 0x96503c : walls[(int)(sim_uniform(&key) * 7.99)];
    const bool gable = sim_uniform(&key) < 0.6;
    const double eaves = gable ? h - 2.6 : h;
    add_box(scene, brick ? SV_SIM_BRICK : SV_SIM_PLASTER, wall, 0, 0, 0, l, w, eaves);
    if (gable) /* the ridge runs along the street */
        add_block(scene, SV_SIM_BRICK, 0x6b3a2c,
                  (block){eaves, h, -l / 2 - 0.2, l / 2 + 0.2, w / 2 + 0.3, -l / 2 - 0.2, l / 2 + 0.2, 0.15});
    /* storeys of windows on the street's side (+y of the object looks at the street), and a door */
    const int columns = (int)(l / 2.6), storeys = (int)((eaves - 0.6) / 2.9);
    for (int s = 0; s < storeys; s++)
        for (int k = 0; k < columns; k++) {
            const double x = (k + 0.5) * l / columns - l / 2;
            if (s == 0 && k == columns / 2) {
                add_box(scene, SV_SIM_WOOD, 0x4a3524, x, w / 2, 0, 1.1, 0.08, 2.2);
                continue;
            }
            add_box(scene, SV_SIM_GLASS, 0x38464f, x, w / 2, 0.95 + 2.9 * s, 1.15, 0.05, 1.45);
            add_box(scene, SV_SIM_PLASTER, 0xece8de, x, w / 2, 0.86 + 2.9 * s, 1.35, 0.22, 0.09);
        }
    if (sim_uniform(&key) < 0.35 && storeys > 1) /* a balcony */
        add_box(scene, SV_SIM_PLASTER, 0xd0ccc4, l * sim_between(&key, -0.25, 0.25), w / 2 + 0.6, 3.5, 2.6,
                1.2, 1.0);
}

void sim_tree(sv_sim_scene *scene, uint64_t key)
{
    static const uint32_t greens[] = {0x4a6b2a, 0x5d7a34, 0x3c5a2a, 0x6f8038, 0x7c7a36};
    const double h = last(scene)->height, trunk = h * sim_between(&key, 0.28, 0.42), crown = h - trunk;
    const uint32_t green = greens[(int)(sim_uniform(&key) * 4.99)];
    const double radius = sim_between(&key, 0.09, 0.2);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_BARK, 0x4d4034, radius, 0, 0, 0, sim_between(&key, -0.2, 0.2), 0,
             trunk + 0.3 * crown);
    const int balls = 4 + (int)(sim_uniform(&key) * 4);
    for (int k = 0; k < balls; k++) {
        const double angle = 6.28318 * (k + sim_uniform(&key)) / balls,
                     r = k == 0 ? 0 : crown * sim_between(&key, 0.12, 0.24);
        const double a = crown * sim_between(&key, 0.2, 0.34), b = crown * sim_between(&key, 0.2, 0.34),
                     c = crown * sim_between(&key, 0.22, 0.38);
        sv_sim_part *leaves = add_ball(scene, SV_SIM_LEAVES, green, r * cos(angle), r * sin(angle),
                                       trunk + crown * sim_between(&key, 0.3, 0.72), a, b, c);
        leaves->porosity = (float)sim_between(&key, 0.35, 0.6);
    }
}

void sim_hedge(sv_sim_scene *scene, uint64_t key)
{
    const sv_sim_object *o = last(scene);
    sv_sim_part *part = add_box(scene, SV_SIM_LEAVES, sim_uniform(&key) < 0.5 ? 0x3f5e2c : 0x556b2f, 0, 0, 0,
                                o->length, o->width, o->height);
    part->porosity = 0.15f;
}

void sim_fence(sv_sim_scene *scene, uint64_t key)
{
    const sv_sim_object *o = last(scene);
    const bool wall = sim_uniform(&key) < 0.4;
    sv_sim_part *part = add_box(scene, wall ? SV_SIM_BRICK : SV_SIM_WOOD, wall ? 0x9a8a7a : 0x6b5a44, 0, 0, 0,
                                o->length, wall ? o->width : 0.05, o->height);
    if (!wall) part->porosity = 0.45f;
}

void sim_lamp(sv_sim_scene *scene, uint64_t key)
{
    const double h = last(scene)->height;
    (void)key;
    add_limb(scene, SV_SIM_CYLINDER, SV_SIM_METAL, 0x5c6066, 0.075, 0, 0, 0, 0, 0, h);
    add_limb(scene, SV_SIM_CAPSULE, SV_SIM_METAL, 0x5c6066, 0.04, 0, 0, h - 0.1, 0, 1.3, h);
    add_box(scene, SV_SIM_METAL, 0xc8c8c0, 0, 1.5, h - 0.08, 0.25, 0.6, 0.14);
}

void sim_sign(sv_sim_scene *scene, uint64_t key)
{
    const double h = last(scene)->height;
    add_limb(scene, SV_SIM_CYLINDER, SV_SIM_METAL, 0x83878c, 0.035, 0, 0, 0, 0, 0, h - 0.2);
    const uint32_t colour = sim_uniform(&key) < 0.5 ? 0xb82020 : 0x2050a8;
    if (sim_uniform(&key) < 0.6)
        add_limb(scene, SV_SIM_CYLINDER, SV_SIM_MIRROR, colour, 0.3, 0.03, 0, h - 0.3, 0.06, 0, h - 0.3);
    else
        add_box(scene, SV_SIM_MIRROR, colour, 0.05, 0, h - 0.6, 0.03, 0.6, 0.6);
}

void sim_bin(sv_sim_scene *scene, uint64_t key)
{
    static const uint32_t colours[] = {0x2f3a30, 0x24477a, 0x7a5a24, 0x3a3a3d};
    const sv_sim_object *o = last(scene);
    const double l = o->length / 2, w = o->width / 2;
    add_block(scene, SV_SIM_RUBBER, colours[(int)(sim_uniform(&key) * 3.99)],
              (block){0, o->height, -l * 0.85, l * 0.85, w * 0.85, -l, l, w});
}

void sim_bench(sv_sim_scene *scene, uint64_t key)
{
    const sv_sim_object *o = last(scene);
    (void)key;
    add_box(scene, SV_SIM_WOOD, 0x7a5a3a, 0, 0, 0.40, 0.45, o->width, 0.06);
    add_box(scene, SV_SIM_WOOD, 0x7a5a3a, -0.25, 0, 0.46, 0.05, o->width, 0.4);
    for (int side = -1; side <= 1; side += 2)
        add_box(scene, SV_SIM_METAL, 0x404448, 0, side * (o->width / 2 - 0.2), 0, 0.4, 0.06, 0.4);
}
