/* SPDX-License-Identifier: Apache-2.0
 *
 * Small Waymo recordings: frames with a few pixels, boxes and records, made field by field.
 */
#ifndef SUPPORT_WAYMO_H
#define SUPPORT_WAYMO_H

#include "datasets/waymo.h"

enum { SMALL_TOP_ROWS = 4, SMALL_TOP_COLUMNS = 24, SMALL_ROWS = 3, SMALL_COLUMNS = 8 };

typedef struct small_box {
    double x, y, z, length, width, height, heading;
    int type, points, level;
    bool moves;
} small_box;

typedef struct small_frame {
    const char *context;
    int64_t timestamp;
    double pose[16];
    const small_box *boxes;
    int box_count;
    bool unpacked; /* repeated doubles and floats one by one */
    bool no_lasers;
    const void *jpeg; /* of the camera FRONT; NULL: no pictures */
    size_t jpeg_size;
} small_frame;

/* A place on a plane in the world, kilometres from its origin, turned by 'yaw'. */
void small_pose(double yaw, double x, double y, double out[16]);
/* Pixel values: the laser (0..4), return, row and column decide. Range 0 or less: no return. */
float small_range(int laser, int which, int row, int column);
float small_intensity(int laser, int row, int column);
/* [roll pitch yaw x y z] of a pixel of the laser on the roof. */
void small_pixel_pose(const small_frame *frame, int row, int column, float out[6]);
void small_extrinsic(int laser, double out[16]);
double small_inclination(int laser, int row); /* rows from above */

/* The message Frame. */
void small_message(const small_frame *frame, sv_wire_out *out);
/* A range image's zlib stream, of any shape and with any number of floats. */
void small_image(const float *values, size_t count, int rows, int columns, int channels, bool unpacked,
                 sv_wire_out *out);
/* Append a record to what will be a file. */
void small_record(sv_wire_out *file, const void *data, size_t size);

#endif
