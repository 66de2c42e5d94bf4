/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures as a model wants them: which part of a camera's picture, resized how, as numbers 0..1.
 *
 *   1. KEEP cuts a part out, as shares of the sides; then RESIZE "cover" cuts the larger side of what is left, equally at both
 *      ends, until it has the model's aspect ratio; "stretch" does not, and changes the aspect instead.
 *   2. The picture is halved while that part stays at least as large as the model's sides: JPEG by decoding at 1/2, 1/4 or 1/8,
 *      others by means of 2 x 2 pixels (a last odd row or column is left out).
 *   3. Bilinear: the centre of pixel (i, j) of the model lies at the same share of the part as of the model's picture; beyond
 *      the picture's edge its last row or column is repeated.
 *   4. Divided by 255.
 *
 * A picture of exactly the model's sides passes unchanged through all of it.
 */
#ifndef SV_PICTURE_H
#define SV_PICTURE_H

#include "image.h"
#include "perception/model/config.h"

typedef struct sv_picture_rule {
    int height, width;
    double keep[4]; /* top, left, bottom, right; 0, 0, 1, 1: everything */
    bool stretch;
} sv_picture_rule;

/* The part that is kept, in pixels of the picture as it lies in the file; x to the right, y down, pixel (0,0) covers 0..1. */
typedef struct sv_picture_part {
    double x, y, width, height;
} sv_picture_part;

/* INPUT of a configuration: SIZE [height, width], KEEP [top, left, bottom, right], RESIZE cover | stretch. */
sv_status sv_picture_rule_read(sv_ctx *c, const sv_node *input, sv_picture_rule *rule);
sv_picture_part sv_picture_part_of(const sv_picture_rule *rule, int width, int height);
/* How many times the sides of a picture may be halved: 0..3. */
int sv_picture_halvings(const sv_picture_rule *rule, const sv_picture_part *part);

/* 'image' is a picture of width x height pixels, already halved 'halvings' times; out [rule height, rule width, 3]. */
void sv_picture_resample(const sv_picture_rule *rule, const sv_image *image, int halvings, int width,
                         int height, float *out);
/* The same from a picture in memory, which stays as it is: halved as one that is no JPEG. */
sv_status sv_picture_of_image(sv_ctx *c, const sv_image *image, const sv_picture_rule *rule, float *out);
/* A JPEG or PNG file, told by its content. '*width' and '*height' are its own. */
sv_status sv_picture_read(sv_ctx *c, const char *path, const sv_picture_rule *rule, float *out, int *width,
                          int *height);
sv_status sv_picture_parse(sv_ctx *c, const void *bytes, size_t size, const char *name,
                           const sv_picture_rule *rule, float *out, int *width, int *height);

/* The pictures (.jpg, .jpeg, .png in any case) of a folder in the order of their names: paths; free with sv_pictures_free(). */
sv_status sv_pictures_of(sv_ctx *c, const char *folder, char ***paths, int *count);
void sv_pictures_free(char **paths, int count);

#endif
