/* SPDX-License-Identifier: Apache-2.0
 *
 * PNG files. A file starts with eight fixed bytes and the chunk IHDR: length 13, "IHDR", width and height as
 * big-endian 32-bit numbers. The rest is libpng's; sizes are looked at before it decodes anything.
 */
#include "image.h"

#include "perception/core/file.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 24, FILE_LIMIT = 1 << 28 };

sv_status sv_image_write_png(sv_ctx *c, const sv_image *image, const char *path)
{
    sv_output file;
    SV_TRY(sv_output_open(c, &file, path));
    png_image png = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)image->width,
                     .height = (png_uint_32)image->height,
                     .format = PNG_FORMAT_RGB};
    if (!png_image_write_to_stdio(&png, file.stream, 0, image->rgb, 0, NULL)) {
        sv_output_discard(&file);
        return SV_FAIL(c, SV_IO, "%s: cannot be written: %s", path, png.message);
    }
    return sv_output_commit(c, &file);
}

sv_status sv_image_pack_png(sv_ctx *c, const sv_image *image, void **out, size_t *bytes)
{
    png_image png = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)image->width,
                     .height = (png_uint_32)image->height,
                     .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
    *bytes = 0;
    *out = malloc(size);
    SV_CHECK(c, *out, SV_NO_MEMORY, "no memory for a picture of %d x %d pixels", image->width, image->height);
    if (!png_image_write_to_memory(&png, *out, &size, 0, image->rgb, 0, NULL)) {
        free(*out);
        *out = NULL;
        return SV_FAIL(c, SV_NO_MEMORY, "a picture of %d x %d pixels cannot be packed: %s", image->width,
                       image->height, png.message);
    }
    *bytes = size;
    return SV_OK;
}

/* What a picture that is no PNG is; NULL when it cannot be told. */
static const char *other_format(const unsigned char *bytes, size_t size)
{
    static const struct {
        const char *start;
        size_t length;
        const char *name;
    } formats[] = {{"\xff\xd8\xff", 3, "a JPEG"},
                   {"GIF8", 4, "a GIF"},
                   {"BM", 2, "a BMP"},
                   {"RIFF", 4, "a WebP"},
                   {"II*\0", 4, "a TIFF"},
                   {"MM\0*", 4, "a TIFF"},
                   {"P6", 2, "a PPM"},
                   {"<", 1, "an HTML or XML"},
                   {"version https", 13, "a Git LFS"}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (size >= formats[i].length && memcmp(bytes, formats[i].start, formats[i].length) == 0)
            return formats[i].name;
    return NULL;
}

static uint32_t big_endian(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static sv_status check_header(sv_ctx *c, const unsigned char *bytes, size_t size, const char *name,
                              int *width, int *height)
{
    static const unsigned char start[16] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    SV_CHECK(c, size > 0, SV_BAD_INPUT, "%s: is empty, a PNG was expected", name);
    const char *other = other_format(bytes, size);
    SV_CHECK(c, !other, SV_BAD_INPUT,
             "%s: is %s file, not the PNG that its name or place says: convert it, keeping its size", name,
             other ? other : "");
    SV_CHECK(c, size >= HEADER && memcmp(bytes, start, sizeof start) == 0, SV_BAD_INPUT,
             "%s: does not start as a PNG does", name);
    const uint32_t w = big_endian(bytes + 16), h = big_endian(bytes + 20);
    SV_CHECK(c, w >= 1 && h >= 1 && w <= SV_IMAGE_SIDE && h <= SV_IMAGE_SIDE && w * h <= SV_IMAGE_PIXELS,
             SV_BAD_INPUT, "%s: a picture of %u x %u pixels: at most %d a side and %d in all are read", name,
             (unsigned)w, (unsigned)h, SV_IMAGE_SIDE, SV_IMAGE_PIXELS);
    *width = (int)w;
    *height = (int)h;
    return SV_OK;
}

sv_status sv_image_png_size(sv_ctx *c, const char *path, int *width, int *height)
{
    unsigned char bytes[HEADER];
    *width = *height = 0;
    FILE *file = fopen(path, "rb");
    SV_CHECK(c, file != NULL, SV_IO, "%s: cannot be opened: %s", path, strerror(errno));
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    const bool failed = ferror(file);
    fclose(file);
    SV_CHECK(c, !failed, SV_IO, "%s: cannot be read", path);
    return check_header(c, bytes, size, path, width, height);
}

sv_status sv_image_parse_png(sv_ctx *c, const void *bytes, size_t size, const char *name, sv_image *out)
{
    *out = (sv_image){0};
    int width, height;
    SV_TRY(check_header(c, bytes, size, name, &width, &height));
    png_image png = {.version = PNG_IMAGE_VERSION};
    SV_CHECK(c, png_image_begin_read_from_memory(&png, bytes, size), SV_BAD_INPUT, "%s: a broken PNG: %s",
             name, png.message);
    png.format = PNG_FORMAT_RGB;
    sv_status status = sv_image_new(c, out, width, height, 0);
    if (status == SV_OK && !png_image_finish_read(&png, NULL, out->rgb, 0, NULL))
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: a broken PNG: %s", name, png.message);
    png_image_free(&png);
    if (status != SV_OK) sv_image_free(out);
    return status;
}

sv_status sv_image_read_png(sv_ctx *c, const char *path, sv_image *out)
{
    void *bytes;
    size_t size;
    *out = (sv_image){0};
    SV_TRY(sv_file_read(c, path, FILE_LIMIT, &bytes, &size));
    const sv_status status = sv_image_parse_png(c, bytes, size, path, out);
    free(bytes);
    return status;
}
