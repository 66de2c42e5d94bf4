/* SPDX-License-Identifier: Apache-2.0
 *
 * One frame of the Waymo Open Dataset (perception, version 1): the message Frame of a TFRecord, and points
 * made of its range images. Field numbers are those of the official dataset.proto and label.proto.
 *
 * Everything is in the vehicle frame at the frame's time: x forward, y left, z up. A range image has a row
 * per beam, the highest first, and a column per direction, clockwise from behind:
 *
 *     azimuth(column) = ((W - column - 0.5) / W * 2 - 1) pi - atan2(E[1][0], E[0][0])
 *     p = E (cos azimuth cos inclination, sin azimuth cos inclination, sin inclination) range
 *
 * with E the laser's extrinsic. The laser on the roof turns while the car moves: its image has a pose of the
 * vehicle per pixel (roll, pitch, yaw, x, y, z in the world), and
 *
 *     p = inverse(frame pose) Rz(yaw) Ry(pitch) Rx(roll) p + ...
 *
 * in double precision: world coordinates are tens of kilometres, which a float resolves to 4 mm.
 */
#ifndef SV_WAYMO_H
#define SV_WAYMO_H

#include "perception/core/context.h"
#include "perception/geometry/pose.h"
#include "wire.h"

enum {
    SV_WAYMO_CAMERAS = 5, /* FRONT, FRONT_LEFT, FRONT_RIGHT, SIDE_LEFT, SIDE_RIGHT */
    SV_WAYMO_LASERS = 5,  /* TOP, FRONT, SIDE_LEFT, SIDE_RIGHT, REAR */
    SV_WAYMO_RETURNS = 2,
    SV_WAYMO_BEAMS = 512,       /* rows of a range image */
    SV_WAYMO_COLUMNS = 16384,   /* of a range image */
    SV_WAYMO_PIXELS = 1 << 20,  /* of a range image; the largest official one has 169600 */
    SV_WAYMO_LABELS = 1 << 13,  /* of a frame */
    SV_WAYMO_TYPES = 5,         /* Unknown, Vehicle, Pedestrian, Sign, Cyclist */
    SV_WAYMO_POINT_COLUMNS = 6, /* x, y, z, intensity, elongation, 1 within a no-label zone (else -1) */
};
enum { SV_WAYMO_UNKNOWN, SV_WAYMO_VEHICLE, SV_WAYMO_PEDESTRIAN, SV_WAYMO_SIGN, SV_WAYMO_CYCLIST };

extern const char *const sv_waymo_camera_names[SV_WAYMO_CAMERAS];
extern const char *const sv_waymo_laser_names[SV_WAYMO_LASERS];
extern const char *const sv_waymo_type_names[SV_WAYMO_TYPES];

typedef struct sv_waymo_camera {
    bool calibrated, has_image;
    double intrinsic[9];   /* f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3 */
    sv_pose camera_to_ego; /* the camera's frame has x forward, y left, z up */
    int width, height;
    sv_bytes jpeg;
    bool has_pose;
    sv_pose ego_to_world; /* when the picture was taken */
} sv_waymo_camera;

typedef struct sv_waymo_laser {
    bool calibrated, present;
    double inclination[SV_WAYMO_BEAMS]; /* radians, the lowest beam first */
    int beams;                          /* 0: evenly from inclination_min to inclination_max */
    double inclination_min, inclination_max;
    sv_pose laser_to_ego;
    sv_bytes range[SV_WAYMO_RETURNS]; /* zlib streams, empty where there is none */
    sv_bytes pose;                    /* of the pixels, both returns */
} sv_waymo_laser;

typedef struct sv_waymo_label {
    double x, y, z, length, width, height, heading;
    double speed[3], acceleration[3]; /* in the world's directions */
    bool has_speed;
    int type;                  /* SV_WAYMO_VEHICLE ... */
    int level, tracking_level; /* 0: not set */
    int points, top_points;    /* LiDAR points inside; 0: also not set */
    char id[64];
    char camera[24]; /* which sees most of it; "" */
} sv_waymo_label;

typedef struct sv_waymo_frame {
    char context[128]; /* of the drive */
    char time_of_day[24], location[40], weather[24];
    int64_t timestamp; /* microseconds */
    sv_pose ego_to_world;
    sv_waymo_camera cameras[SV_WAYMO_CAMERAS];
    sv_waymo_laser lasers[SV_WAYMO_LASERS];
    sv_waymo_label *labels; /* malloc'ed */
    int label_count, label_room;
    int zones; /* polygons of no-label zones */
} sv_waymo_frame;

/* A label alone, as it also stands in results. False with the fault in 'w'. */
bool sv_waymo_parse_label(sv_bytes message, sv_waymo_label *out, sv_wire *w);

/*
 * 'name' stands for the record in messages ("FILE, record 3"). The frame refers to the record's bytes, which
 * must stay. Memory of an earlier frame in 'out' is used again; zero it before the first one.
 */
sv_status sv_waymo_parse_frame(sv_ctx *c, sv_bytes record, const char *name, sv_waymo_frame *out);
void sv_waymo_free_frame(sv_waymo_frame *frame); /* may be called twice */

/* ---- points ---- */

/* Unpacked range images; memory is used again. Zero it before the first use. */
typedef struct sv_waymo_image {
    uint8_t *data; /* malloc'ed; what was unpacked */
    size_t room;
    const uint8_t *values; /* [height, width, channels] little-endian floats, not aligned */
    int height, width, channels;
} sv_waymo_image;

typedef struct sv_waymo_cloud {
    sv_waymo_image range[SV_WAYMO_LASERS][SV_WAYMO_RETURNS], pose;
    int points[SV_WAYMO_LASERS][SV_WAYMO_RETURNS]; /* returns with a range > 0 */
    int total;
    void *columns; /* room for what follows from the pose of a column */
    int column_room;
} sv_waymo_cloud;

/* Unpack the images and count the points. The pool of 'c' shares the work. */
sv_status sv_waymo_unpack(sv_ctx *c, const sv_waymo_frame *frame, const char *name, sv_waymo_cloud *out);
/*
 * [total, SV_WAYMO_POINT_COLUMNS], or with 'network' [total, 5]: x, y, z, tanh(intensity), tanh(elongation),
 * which the detectors take. Lasers in the order of their names, in each the first return before the second,
 * rows from above, columns from the left. The image's values are taken as they are: a point may be not
 * finite.
 */
sv_status sv_waymo_points(sv_ctx *c, const sv_waymo_frame *frame, const char *name, sv_waymo_cloud *cloud,
                          bool network, float *points);
void sv_waymo_free_cloud(sv_waymo_cloud *cloud); /* may be called twice */

#endif
