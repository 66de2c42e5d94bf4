/* SPDX-License-Identifier: Apache-2.0
 *
 * JPEG files through libjpeg-turbo (or any libjpeg of version 8's interface). A build without it says so when a picture
 * is wanted. Files are not trusted: sides and scans are limited, and what the decoder warns of (a file that is cut off)
 * is an error.
 */
#include "image.h"

#include "perception/core/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 28, MOST_SCANS = 100 };

#ifdef SAVANNA_JPEG

#include <jpeglib.h>
#include <setjmp.h>

typedef struct decoder {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    int denominator;   /* of the scale; 0: only the sides are wanted */
    int width, height; /* as in the file */
    char message[JMSG_LENGTH_MAX];
} decoder;

static void give_up(j_common_ptr jpeg)
{
    decoder *d = jpeg->client_data;
    jpeg->err->format_message(jpeg, d->message);
    longjmp(d->back, 1);
}

static void hear(j_common_ptr jpeg, int level)
{
    if (level < 0) give_up(jpeg);
}

/* A progressive file may hold scans without end. */
static void count_scans(j_common_ptr jpeg)
{
    decoder *d = jpeg->client_data;
    if (d->jpeg.input_scan_number <= MOST_SCANS) return;
    snprintf(d->message, sizeof d->message, "more than %d scans", MOST_SCANS);
    longjmp(d->back, 1);
}

static void read_pixels(decoder *d, sv_image *out)
{
    d->jpeg.out_color_space = JCS_RGB;
    d->jpeg.scale_num = 1;
    d->jpeg.scale_denom = (unsigned)d->denominator;
    jpeg_calc_output_dimensions(&d->jpeg);
    const JDIMENSION width = d->jpeg.output_width, height = d->jpeg.output_height;
    out->width = (int)width;
    out->height = (int)height;
    out->rgb = malloc((size_t)width * height * 3);
    if (!out->rgb) {
        snprintf(d->message, sizeof d->message, "no memory for %u x %u pixels", width, height);
        longjmp(d->back, 1);
    }
    jpeg_start_decompress(&d->jpeg);
    while (d->jpeg.output_scanline < height) {
        JSAMPROW row = out->rgb + (size_t)d->jpeg.output_scanline * width * 3;
        jpeg_read_scanlines(&d->jpeg, &row, 1);
    }
    jpeg_finish_decompress(&d->jpeg);
}

/* False with a message. What must survive a jump back lies in 'd' and 'out'. */
static bool decode(decoder *d, const void *bytes, size_t size, sv_image *out)
{
    d->jpeg.err = jpeg_std_error(&d->errors);
    d->errors.error_exit = give_up;
    d->errors.emit_message = hear;
    d->jpeg.client_data = d;
    if (setjmp(d->back)) {
        jpeg_destroy_decompress(&d->jpeg);
        return false;
    }
    jpeg_create_decompress(&d->jpeg);
    d->progress.progress_monitor = count_scans;
    d->jpeg.progress = &d->progress;
    jpeg_mem_src(&d->jpeg, (unsigned char *)(uintptr_t)bytes, (unsigned long)size);
    jpeg_read_header(&d->jpeg, TRUE);
    const JDIMENSION width = d->jpeg.image_width, height = d->jpeg.image_height;
    if (width == 0 || height == 0 || width > SV_IMAGE_SIDE || height > SV_IMAGE_SIDE ||
        (size_t)width * height > SV_IMAGE_PIXELS) {
        snprintf(d->message, sizeof d->message, "%u x %u pixels are too many", width, height);
        longjmp(d->back, 1);
    }
    d->width = (int)width;
    d->height = (int)height;
    if (d->denominator > 0) read_pixels(d, out);
    jpeg_destroy_decompress(&d->jpeg);
    return true;
}

/* denominator 0: only the sides are read. */
static sv_status parse(sv_ctx *c, const void *bytes, size_t size, const char *name, int denominator,
                       sv_image *out, int *width, int *height)
{
    *out = (sv_image){0};
    SV_CHECK(c, size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0, SV_BAD_INPUT, "%s: is no JPEG picture",
             name);
    decoder *d = calloc(1, sizeof *d);
    SV_CHECK(c, d, SV_NO_MEMORY, "%s: no memory", name);
    d->denominator = denominator;
    sv_status status = SV_OK;
    if (!decode(d, bytes, size, out)) {
        sv_image_free(out);
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: the picture is damaged: %s", name, d->message);
    }
    *width = d->width;
    *height = d->height;
    free(d);
    return status;
}

typedef struct encoder {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf back;
    char message[JMSG_LENGTH_MAX];
    unsigned char *bytes; /* malloc'ed by the library */
    unsigned long size;
} encoder;

static void give_up_writing(j_common_ptr jpeg)
{
    encoder *e = jpeg->client_data;
    jpeg->err->format_message(jpeg, e->message);
    longjmp(e->back, 1);
}

/* False with a message; what must survive a jump back lies in 'e'. */
static bool encode(encoder *e, const sv_image *image, int quality)
{
    e->jpeg.err = jpeg_std_error(&e->errors);
    e->errors.error_exit = give_up_writing;
    e->jpeg.client_data = e;
    if (setjmp(e->back)) {
        jpeg_destroy_compress(&e->jpeg);
        return false;
    }
    jpeg_create_compress(&e->jpeg);
    jpeg_mem_dest(&e->jpeg, &e->bytes, &e->size);
    e->jpeg.image_width = (JDIMENSION)image->width;
    e->jpeg.image_height = (JDIMENSION)image->height;
    e->jpeg.input_components = 3;
    e->jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&e->jpeg);
    jpeg_set_quality(&e->jpeg, quality, TRUE);
    jpeg_start_compress(&e->jpeg, TRUE);
    while (e->jpeg.next_scanline < e->jpeg.image_height) {
        JSAMPROW row = image->rgb + (size_t)e->jpeg.next_scanline * (size_t)image->width * 3;
        jpeg_write_scanlines(&e->jpeg, &row, 1);
    }
    jpeg_finish_compress(&e->jpeg);
    jpeg_destroy_compress(&e->jpeg);
    return true;
}

sv_status sv_image_pack_jpeg(sv_ctx *c, const sv_image *image, int quality, void **out, size_t *bytes)
{
    *out = NULL;
    *bytes = 0;
    encoder *e = calloc(1, sizeof *e);
    SV_CHECK(c, e, SV_NO_MEMORY, "no memory for a picture of %d x %d pixels", image->width, image->height);
    sv_status status = SV_OK;
    if (encode(e, image, quality)) {
        *out = e->bytes;
        *bytes = e->size;
    } else {
        free(e->bytes);
        status = SV_FAIL(c, SV_NO_MEMORY, "a picture of %d x %d pixels cannot be packed: %s", image->width,
                         image->height, e->message);
    }
    free(e);
    return status;
}

#else

sv_status sv_image_pack_jpeg(sv_ctx *c, const sv_image *image, int quality, void **out, size_t *bytes)
{
    (void)quality;
    *out = NULL;
    *bytes = 0;
    return SV_FAIL(
        c, SV_UNSUPPORTED,
        "this build writes no JPEG pictures (one of %d x %d pixels): install libjpeg-dev and build "
        "again",
        image->width, image->height);
}

static sv_status parse(sv_ctx *c, const void *bytes, size_t size, const char *name, int denominator,
                       sv_image *out, int *width, int *height)
{
    (void)bytes, (void)size, (void)denominator;
    *out = (sv_image){0};
    *width = *height = 0;
    return SV_FAIL(c, SV_UNSUPPORTED,
                   "%s: this build reads no JPEG pictures: install libjpeg-dev and build again", name);
}

#endif

sv_status sv_image_parse_jpeg(sv_ctx *c, const void *bytes, size_t size, const char *name, sv_image *out)
{
    int width, height;
    return parse(c, bytes, size, name, 1, out, &width, &height);
}

sv_status sv_image_parse_jpeg_small(sv_ctx *c, const void *bytes, size_t size, const char *name,
                                    int denominator, sv_image *out)
{
    int width, height;
    return parse(c, bytes, size, name, denominator, out, &width, &height);
}

sv_status sv_image_jpeg_size(sv_ctx *c, const void *bytes, size_t size, const char *name, int *width,
                             int *height)
{
    sv_image none;
    return parse(c, bytes, size, name, 0, &none, width, height);
}

bool sv_image_has_jpeg(void)
{
#ifdef SAVANNA_JPEG
    return true;
#else
    return false;
#endif
}

sv_status sv_image_write_jpeg(sv_ctx *c, const sv_image *image, int quality, const char *path)
{
    void *bytes;
    size_t size;
    SV_TRY(sv_image_pack_jpeg(c, image, quality, &bytes, &size));
    sv_output output;
    sv_status status = sv_output_open(c, &output, path);
    if (status == SV_OK) {
        fwrite(bytes, 1, size, output.stream);
        status = sv_output_commit(c, &output);
        sv_output_discard(&output);
    }
    free(bytes);
    return status;
}

sv_status sv_image_read_jpeg(sv_ctx *c, const char *path, sv_image *out)
{
    void *bytes = NULL;
    size_t size = 0;
    *out = (sv_image){0};
    SV_TRY(sv_file_read(c, path, FILE_LIMIT, &bytes, &size));
    const sv_status status = sv_image_parse_jpeg(c, bytes, size, path, out);
    free(bytes);
    return status;
}
