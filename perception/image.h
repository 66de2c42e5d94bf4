/* SPDX-License-Identifier: Apache-2.0
 *
 * An RGB picture in memory with the few drawing operations that overlays
 * need, all antialiased, and PNG files. Coordinates are pixels from the upper
 * left corner, pixel (0, 0) covering 0..1; everything is clipped, and what is
 * not finite is not drawn.
 */
#ifndef SV_IMAGE_H
#define SV_IMAGE_H

#include "perception/core/context.h"

enum { SV_IMAGE_SIDE = 16384 };

typedef struct sv_image {
    int width, height;
    uint8_t *rgb; /* [height, width, 3], malloc'ed */
} sv_image;

/* Colour 0xRRGGBB, and how much of it: 0 nothing, 1 all. */
typedef struct sv_paint {
    uint32_t colour;
    float alpha;
} sv_paint;

/* Sides of 1..SV_IMAGE_SIDE pixels, filled with 'colour'. */
sv_status sv_image_new(sv_ctx *c, sv_image *out, int width, int height, uint32_t colour);
void sv_image_free(sv_image *image); /* may be called twice */

void sv_image_blend(sv_image *image, int x, int y, sv_paint paint);
/* Round ends. 'width' in pixels. */
void sv_image_line(sv_image *image, float x0, float y0, float x1, float y1, float width, sv_paint paint);
/* The same in strokes of 'on' pixels with gaps of 'off' between them. */
void sv_image_dashes(sv_image *image, float x0, float y0, float x1, float y1, float width, float on,
                     float off, sv_paint paint);
/* A filled convex polygon, corners in either direction. */
void sv_image_polygon(sv_image *image, const float (*corners)[2], int count, sv_paint paint);
void sv_image_rectangle(sv_image *image, float x, float y, float width, float height, sv_paint paint);
/* ASCII; 'scale' whole pixels per font pixel; (x, y) is the upper left corner of the capitals. */
void sv_image_text(sv_image *image, int x, int y, int scale, const char *text, sv_paint paint);
int sv_image_text_width(const char *text, int scale);

/* 'from' at (x, y) of 'image', what fits. */
void sv_image_paste(sv_image *image, const sv_image *from, int x, int y);
/* A copy with other sides: every pixel is the mean of what it covers. */
sv_status sv_image_resize(sv_ctx *c, const sv_image *from, int width, int height, sv_image *out);

/* Written whole or not at all. */
sv_status sv_image_write_png(sv_ctx *c, const sv_image *image, const char *path);
/* A picture as the bytes of a PNG file, malloc'ed. */
sv_status sv_image_pack_png(sv_ctx *c, const sv_image *image, void **out, size_t *bytes);
/* Any PNG as RGB, transparent parts black. Anything else, broken files and pictures of more than
 * SV_IMAGE_PIXELS are errors, after which '*out' is empty; another picture format is named. */
enum { SV_IMAGE_PIXELS = 1 << 26 };
sv_status sv_image_read_png(sv_ctx *c, const char *path, sv_image *out);
sv_status sv_image_parse_png(sv_ctx *c, const void *bytes, size_t size, const char *name, sv_image *out);
/* The sides of a PNG from its first 24 bytes, without decoding it. */
sv_status sv_image_png_size(sv_ctx *c, const char *path, int *width, int *height);
/* A JPEG picture; a damaged one is an error. SV_UNSUPPORTED in a build without libjpeg. */
sv_status sv_image_read_jpeg(sv_ctx *c, const char *path, sv_image *out);
sv_status sv_image_parse_jpeg(sv_ctx *c, const void *bytes, size_t size, const char *name, sv_image *out);
/* A picture as the bytes of a JPEG file, malloc'ed; quality 1..100. SV_UNSUPPORTED in a build without libjpeg. */
sv_status sv_image_pack_jpeg(sv_ctx *c, const sv_image *image, int quality, void **out, size_t *bytes);
/* Written whole or not at all. */
sv_status sv_image_write_jpeg(sv_ctx *c, const sv_image *image, int quality, const char *path);
/* Decoded at 1, 1/2, 1/4 or 1/8 of its sides (rounded up), which costs as much less. */
sv_status sv_image_parse_jpeg_small(sv_ctx *c, const void *bytes, size_t size, const char *name,
                                    int denominator, sv_image *out);
/* The sides of a JPEG picture, without decoding it. */
sv_status sv_image_jpeg_size(sv_ctx *c, const void *bytes, size_t size, const char *name, int *width,
                             int *height);
bool sv_image_has_jpeg(void);

/* A colour of the OKLCh space (lightness 0..1, chroma, hue in degrees), as 0xRRGGBB clipped to what screens
 * can show. */
uint32_t sv_colour_oklch(float lightness, float chroma, float hue);

#endif
