/* SPDX-License-Identifier: Apache-2.0
 *
 * Range images: zlib streams that hold a message MatrixFloat {1: packed floats, 2: {1: sizes}}. waymo.h has
 * the geometry. The images are unpacked one per task, then turned into points one per task: the places of
 * their points follow from counts, so the order never depends on threads.
 */
#include "waymo_points.h"

#include "perception/core/simd.h"
#include "perception/model/source.h"
#include "waymo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

SV_SIMD_TABLE(sv_waymo_kernels);

enum { IMAGES = SV_WAYMO_LASERS * SV_WAYMO_RETURNS, POSE = IMAGES, TASKS = IMAGES + 1 };
enum { RANGE_CHANNELS = 4, POSE_CHANNELS = 6 };

/* ---- unpacking ---------------------------------------------------------------------------------------- */

typedef struct unpacking {
    const sv_waymo_frame *frame;
    sv_waymo_cloud *cloud;
    const char *fault[TASKS]; /* NULL: none */
} unpacking;

/* Largest first, so that the last task to finish is a small one. */
static const unsigned char task_order[TASKS] = {POSE, 0, 2, 4, 6, 8, 1, 3, 5, 7, 9};

static bool make_room(sv_waymo_image *image, size_t room)
{
    if (room <= image->room) return true;
    uint8_t *grown = realloc(image->data, room);
    if (!grown) return false;
    image->data = grown;
    image->room = room;
    return true;
}

/* The whole stream; what is larger than any image stops it. */
static const char *inflate_into(sv_bytes packed, sv_waymo_image *image, size_t most, size_t *size)
{
    if (packed.size > UINT32_MAX / 2) return "is too large";
    if (!make_room(image, 1 << 16)) return "has no memory";
    z_stream z = {.next_in = (Bytef *)(uintptr_t)packed.data, .avail_in = (uInt)packed.size};
    if (inflateInit(&z) != Z_OK) return "has no memory";
    size_t used = 0;
    const char *fault = NULL;
    for (int code = Z_OK; code != Z_STREAM_END && !fault;) {
        if (used == image->room && used >= most) {
            fault = "unpacks to more than any range image has (1048576 pixels)";
        } else if (used == image->room && !make_room(image, used < most / 2 ? 2 * used : most)) {
            fault = "has no memory";
        } else {
            z.next_out = image->data + used;
            z.avail_out = (uInt)(image->room - used);
            code = inflate(&z, Z_NO_FLUSH);
            used = (size_t)(z.next_out - image->data);
            if (code != Z_OK && code != Z_STREAM_END)
                fault = code == Z_BUF_ERROR ? "has a zlib stream that is cut off" : "is no sound zlib stream";
        }
    }
    inflateEnd(&z);
    *size = used;
    return fault;
}

/* Sizes, packed or one by one. */
static const char *parse_shape(sv_bytes message, int64_t sizes[3], int *count)
{
    sv_wire w = sv_wire_open(message);
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        uint64_t value = f.value;
        if (f.number != 1) continue;
        if (f.type != SV_WIRE_VARINT && f.type != SV_WIRE_BYTES) return "has a shape that is broken";
        const uint8_t *at = f.bytes.data, *end = at ? at + f.bytes.size : NULL;
        do {
            if (at && !sv_varint(&at, end, &value)) return "has a shape that is broken";
            if (*count == 3) return "has a shape of more than three sizes";
            sizes[(*count)++] = (int64_t)value;
        } while (at != end);
    }
    return w.fault ? "has a shape that is broken" : NULL;
}

/* MatrixFloat; its floats stay where they are, several lists of them are pushed together. */
static const char *parse_matrix(sv_waymo_image *image, size_t size, int channels)
{
    uint8_t *first = NULL;
    size_t length = 0;
    int64_t sizes[3];
    int dims = 0;
    sv_wire w = sv_wire_open((sv_bytes){image->data, size});
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        if (f.number == 1 && (f.type == SV_WIRE_BYTES || f.type == SV_WIRE_FIXED32)) {
            const bool one = f.type == SV_WIRE_FIXED32;
            uint8_t *from = image->data + ((one ? w.at - 4 : f.bytes.data) - image->data);
            const size_t more = one ? 4 : f.bytes.size;
            if (!first) first = from;
            memmove(first + length, from, more);
            length += more;
        } else if (f.number == 1) {
            return "has data of the wrong type";
        } else if (f.number == 2) {
            sv_bytes inner = {0};
            sv_wire_bytes(&w, &f, &inner);
            const char *fault = parse_shape(inner, sizes, &dims);
            if (fault) return fault;
        }
    }
    if (w.fault) return "holds a MatrixFloat that is broken";
    if (dims != 3 || sizes[2] != channels)
        return channels == 4 ? "is not of the shape rows x columns x 4"
                             : "is not of the shape rows x columns x 6";
    if (sizes[0] < 1 || sizes[0] > SV_WAYMO_BEAMS || sizes[1] < 1 || sizes[1] > SV_WAYMO_COLUMNS ||
        sizes[0] * sizes[1] > SV_WAYMO_PIXELS)
        return "has an absurd shape (at most 512 rows, 16384 columns and 1048576 pixels)";
    if (length != (size_t)(sizes[0] * sizes[1]) * (size_t)channels * sizeof(float))
        return "has a shape that its numbers do not fill";
    image->values = first;
    image->height = (int)sizes[0];
    image->width = (int)sizes[1];
    image->channels = channels;
    return NULL;
}

static float value_at(const uint8_t *p)
{
    float value;
    memcpy(&value, p, sizeof value);
    return value;
}

static const char *unpack_one(unpacking *u, int task)
{
    const int laser = task / SV_WAYMO_RETURNS, which = task % SV_WAYMO_RETURNS;
    const sv_bytes packed = task == POSE ? u->frame->lasers[0].pose : u->frame->lasers[laser].range[which];
    sv_waymo_image *image = task == POSE ? &u->cloud->pose : &u->cloud->range[laser][which];
    const int channels = task == POSE ? POSE_CHANNELS : RANGE_CHANNELS;
    size_t size = 0;
    image->height = image->width = 0;
    if (task != POSE) u->cloud->points[laser][which] = 0;
    if (packed.size == 0) return NULL;
    const char *fault =
        inflate_into(packed, image, (size_t)SV_WAYMO_PIXELS * (size_t)channels * sizeof(float) + 4096, &size);
    if (!fault) fault = parse_matrix(image, size, channels);
    if (fault || task == POSE) return fault;
    const int pixels = image->height * image->width;
    int points = 0;
    for (int i = 0; i < pixels; i++)
        points += value_at(image->values + (size_t)i * (RANGE_CHANNELS * sizeof(float))) > 0;
    u->cloud->points[laser][which] = points;
    return NULL;
}

static void unpack_task(void *arg, int task, int worker)
{
    (void)worker;
    unpacking *u = arg;
    const int which = task_order[task];
    u->fault[which] = unpack_one(u, which);
}

static sv_status check_laser(sv_ctx *c, const sv_waymo_frame *frame, const char *name,
                             const sv_waymo_cloud *cloud, int laser, int which)
{
    const sv_waymo_image *image = &cloud->range[laser][which];
    const sv_waymo_laser *l = &frame->lasers[laser];
    const char *shown = sv_waymo_laser_names[laser];
    if (image->height == 0) return SV_OK;
    SV_CHECK(c, l->calibrated, SV_BAD_INPUT, "%s: the laser %s has a range image, but no calibration", name,
             shown);
    SV_CHECK(c, l->beams == 0 || l->beams == image->height, SV_BAD_INPUT,
             "%s: the laser %s has %d beam inclinations for %d rows of its range image", name, shown,
             l->beams, image->height);
    if (laser != 0) return SV_OK;
    SV_CHECK(c, cloud->pose.height == image->height && cloud->pose.width == image->width, SV_BAD_INPUT,
             "%s: the laser %s has a range image of %d x %d and poses of %d x %d pixels", name, shown,
             image->height, image->width, cloud->pose.height, cloud->pose.width);
    return SV_OK;
}

sv_status sv_waymo_unpack(sv_ctx *c, const sv_waymo_frame *frame, const char *name, sv_waymo_cloud *out)
{
    unpacking u = {.frame = frame, .cloud = out};
    sv_pool_run(c->pool, unpack_task, &u, TASKS);
    for (int i = 0; i < IMAGES; i++)
        SV_CHECK(c, !u.fault[i], SV_BAD_INPUT, "%s: the range image of the laser %s, return %d, %s", name,
                 sv_waymo_laser_names[i / SV_WAYMO_RETURNS], i % SV_WAYMO_RETURNS + 1, u.fault[i]);
    SV_CHECK(c, !u.fault[POSE], SV_BAD_INPUT, "%s: the image of the laser TOP's poses %s", name,
             u.fault[POSE]);
    out->total = 0;
    for (int laser = 0; laser < SV_WAYMO_LASERS; laser++)
        for (int which = 0; which < SV_WAYMO_RETURNS; which++) {
            SV_TRY(check_laser(c, frame, name, out, laser, which));
            out->total += out->points[laser][which];
        }
    return SV_OK;
}

/* ---- points ------------------------------------------------------------------------------------------- */

/* What follows from a column of an image: its direction, and for the turning laser the motion of the pose
 * that its last pixel had, which is often that of the next, too. */
typedef struct column {
    double cosine, sine; /* of the azimuth */
    float pose[POSE_CHANNELS];
    bool moved;
    double m[12]; /* inverse(frame pose) pixel pose E */
} column;

typedef struct conversion {
    const sv_waymo_frame *frame;
    const sv_waymo_cloud *cloud;
    sv_pose world_to_ego;
    bool network;
    float *points;
    int first[IMAGES]; /* point of each image */
    int first_column[IMAGES];
} conversion;

static void rows_of(const sv_pose *pose, double m[12])
{
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) m[4 * i + k] = pose->r[3 * i + k];
        m[4 * i + 3] = pose->t[i];
    }
}

/* R = Rz(yaw) Ry(pitch) Rx(roll); the world's origin is far, so the difference of places is taken first. */
static void turn_column(const conversion *v, column *k)
{
    const double roll = (double)k->pose[0], pitch = (double)k->pose[1], yaw = (double)k->pose[2];
    const double cr = cos(roll), sr = sin(roll), cp = cos(pitch), sp = sin(pitch), cy = cos(yaw),
                 sy = sin(yaw);
    const sv_pose pixel = {{cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, sy * cp,
                            sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, -sp, cp * sr, cp * cr},
                           {(double)k->pose[3], (double)k->pose[4], (double)k->pose[5]}};
    const sv_pose ego = sv_pose_compose(&v->world_to_ego, &pixel),
                  whole = sv_pose_compose(&ego, &v->frame->lasers[0].laser_to_ego);
    rows_of(&whole, k->m);
}

/* A row of an image; returns the points it gave. */
static int convert_row(const conversion *v, const sv_waymo_image *image, const sv_waymo_image *pose, int row,
                       double inclination, const double still[12], column *columns, float *out)
{
    const double up = sin(inclination), along = cos(inclination);
    const uint8_t *pixel =
        image->values + (size_t)row * (size_t)image->width * RANGE_CHANNELS * sizeof(float);
    const uint8_t *place =
        pose ? pose->values + (size_t)row * (size_t)image->width * POSE_CHANNELS * sizeof(float) : NULL;
    const int stride = v->network ? 5 : SV_WAYMO_POINT_COLUMNS;
    float *p = out;
    for (int i = 0; i < image->width; i++, pixel += RANGE_CHANNELS * sizeof(float)) {
        float value[RANGE_CHANNELS];
        memcpy(value, pixel, sizeof value);
        if (!(value[0] > 0)) continue;
        column *k = &columns[i];
        const double *m = still;
        if (place) {
            const uint8_t *at = place + (size_t)i * POSE_CHANNELS * sizeof(float);
            if (!k->moved || memcmp(k->pose, at, sizeof k->pose) != 0) {
                memcpy(k->pose, at, sizeof k->pose);
                k->moved = true;
                turn_column(v, k);
            }
            m = k->m;
        }
        const double range = (double)value[0], x = k->cosine * along * range, y = k->sine * along * range,
                     z = up * range;
        p[0] = (float)(m[0] * x + m[1] * y + m[2] * z + m[3]);
        p[1] = (float)(m[4] * x + m[5] * y + m[6] * z + m[7]);
        p[2] = (float)(m[8] * x + m[9] * y + m[10] * z + m[11]);
        p[3] = value[1];
        p[4] = value[2];
        if (!v->network) p[5] = value[3];
        p += stride;
    }
    return (int)((p - out) / stride);
}

static void convert_task(void *arg, int task, int worker)
{
    (void)worker;
    const conversion *v = arg;
    const int laser = task / SV_WAYMO_RETURNS, which = task % SV_WAYMO_RETURNS;
    const sv_waymo_image *image = &v->cloud->range[laser][which];
    const sv_waymo_laser *l = &v->frame->lasers[laser];
    if (image->height == 0) return;
    const int height = image->height, width = image->width;
    column *columns = (column *)v->cloud->columns + v->first_column[task];
    double still[12];
    rows_of(&l->laser_to_ego, still);
    const double turned = atan2(l->laser_to_ego.r[3], l->laser_to_ego.r[0]), pi = 3.14159265358979323846;
    for (int i = 0; i < width; i++) {
        const double azimuth = ((width - i - 0.5) / width * 2 - 1) * pi - turned;
        columns[i] = (column){.cosine = cos(azimuth), .sine = sin(azimuth)};
    }
    float *const begin = v->points + (size_t)v->first[task] * (v->network ? 5 : SV_WAYMO_POINT_COLUMNS);
    float *out = begin;
    for (int row = 0; row < height; row++) {
        const int beam = height - 1 - row;
        const double inclination =
            l->beams ? l->inclination[beam]
                     : l->inclination_min + (beam + 0.5) / height * (l->inclination_max - l->inclination_min);
        const int made =
            convert_row(v, image, laser == 0 ? &v->cloud->pose : NULL, row, inclination, still, columns, out);
        out += (size_t)made * (v->network ? 5 : SV_WAYMO_POINT_COLUMNS);
    }
    if (v->network) SV_SIMD_PICK(sv_waymo_kernels)->squash(begin, (int)((out - begin) / 5));
}

sv_status sv_waymo_points(sv_ctx *c, const sv_waymo_frame *frame, const char *name, sv_waymo_cloud *cloud,
                          bool network, float *points)
{
    conversion v = {.frame = frame, .cloud = cloud, .network = network, .points = points};
    SV_CHECK(c, sv_pose_invert(&frame->ego_to_world, &v.world_to_ego), SV_BAD_INPUT,
             "%s: Frame.pose is singular", name);
    int point = 0, columns = 0;
    for (int i = 0; i < IMAGES; i++) {
        v.first[i] = point;
        v.first_column[i] = columns;
        point += cloud->points[i / SV_WAYMO_RETURNS][i % SV_WAYMO_RETURNS];
        columns += cloud->range[i / SV_WAYMO_RETURNS][i % SV_WAYMO_RETURNS].width;
    }
    if (columns > cloud->column_room) {
        void *grown = realloc(cloud->columns, sizeof(column) * (size_t)columns);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d columns of range images", name, columns);
        cloud->columns = grown;
        cloud->column_room = columns;
    }
    sv_pool_run(c->pool, convert_task, &v, IMAGES);
    return SV_OK;
}

void sv_waymo_free_cloud(sv_waymo_cloud *cloud)
{
    for (int i = 0; i < IMAGES; i++) free(cloud->range[i / SV_WAYMO_RETURNS][i % SV_WAYMO_RETURNS].data);
    free(cloud->pose.data);
    free(cloud->columns);
    *cloud = (sv_waymo_cloud){0};
}
