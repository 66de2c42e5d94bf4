/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700
#include "picture.h"

#include "perception/core/file.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FILE_LIMIT = 1 << 28, MOST_HALVINGS = 3, MOST_SIDE = 4096 };

sv_status sv_picture_rule_read(sv_ctx *c, const sv_node *input, sv_picture_rule *rule)
{
    int size[2];
    const char *resize = NULL;
    *rule = (sv_picture_rule){.keep = {0, 0, 1, 1}};
    SV_TRY(sv_node_ints(c, input, "SIZE", size, 2));
    for (int i = 0; i < 2; i++)
        SV_CHECK(c, size[i] >= 1 && size[i] <= MOST_SIDE, SV_BAD_INPUT, "%s.SIZE: %d is not within 1..%d",
                 sv_node_path(input), size[i], MOST_SIDE);
    rule->height = size[0];
    rule->width = size[1];
    if (sv_node_find(input, "KEEP")) SV_TRY(sv_node_numbers(c, input, "KEEP", rule->keep, 4));
    for (int i = 0; i < 2; i++)
        SV_CHECK(c, rule->keep[i] >= 0 && rule->keep[2 + i] <= 1 && rule->keep[i] < rule->keep[2 + i],
                 SV_BAD_INPUT, "%s.KEEP: %g to %g is no part of 0..1 (top, left, bottom, right)",
                 sv_node_path(input), rule->keep[i], rule->keep[2 + i]);
    SV_TRY(sv_node_string_or(c, input, "RESIZE", &resize, "cover"));
    rule->stretch = strcmp(resize, "stretch") == 0;
    SV_CHECK(c, rule->stretch || strcmp(resize, "cover") == 0, SV_BAD_INPUT,
             "%s.RESIZE: '%s' is not cover or stretch", sv_node_path(input), resize);
    return SV_OK;
}

sv_picture_part sv_picture_part_of(const sv_picture_rule *rule, int width, int height)
{
    sv_picture_part p = {.x = rule->keep[1] * width,
                         .y = rule->keep[0] * height,
                         .width = (rule->keep[3] - rule->keep[1]) * width,
                         .height = (rule->keep[2] - rule->keep[0]) * height};
    if (rule->stretch) return p;
    const double wanted = p.height * rule->width / rule->height; /* width of the model's aspect */
    if (p.width > wanted) {
        p.x += (p.width - wanted) / 2;
        p.width = wanted;
    } else {
        const double tall = p.width * rule->height / rule->width;
        p.y += (p.height - tall) / 2;
        p.height = tall;
    }
    return p;
}

int sv_picture_halvings(const sv_picture_rule *rule, const sv_picture_part *part)
{
    int n = 0;
    while (n < MOST_HALVINGS && part->width >= (double)rule->width * (2 << n) &&
           part->height >= (double)rule->height * (2 << n))
        n++;
    return n;
}

/* Two pixels of a row or column and the share of the second. */
typedef struct blend {
    int from, to;
    float share;
} blend;

/* Where pixel i of 'count' lies among 'size' pixels, of which start..start+length are kept. */
static blend blend_at(int i, int count, double start, double length, int size)
{
    const double at = start + (i + 0.5) * (length / count) - 0.5, low = floor(at);
    const int first = (int)low;
    const int from = first < 0          ? 0
                     : first > size - 1 ? size - 1
                                        : first,
              to = first + 1 < 0          ? 0
                   : first + 1 > size - 1 ? size - 1
                                          : first + 1;
    return (blend){from, to, (float)(at - low)};
}

void sv_picture_resample(const sv_picture_rule *rule, const sv_image *image, int halvings, int width,
                         int height, float *out)
{
    const sv_picture_part part = sv_picture_part_of(rule, width, height);
    const double scale = 1.0 / (1 << halvings);
    blend columns[MOST_SIDE];
    for (int x = 0; x < rule->width; x++)
        columns[x] = blend_at(x, rule->width, part.x * scale, part.width * scale, image->width);
    for (int y = 0; y < rule->height; y++) {
        const blend row = blend_at(y, rule->height, part.y * scale, part.height * scale, image->height);
        const uint8_t *upper = image->rgb + 3 * (size_t)row.from * (size_t)image->width,
                      *lower = image->rgb + 3 * (size_t)row.to * (size_t)image->width;
        for (int x = 0; x < rule->width; x++)
            for (int k = 0; k < 3; k++) {
                const int a = 3 * columns[x].from + k, b = 3 * columns[x].to + k;
                const float share = columns[x].share;
                const float above = (float)upper[a] + share * (float)(upper[b] - upper[a]),
                            below = (float)lower[a] + share * (float)(lower[b] - lower[a]);
                *out++ = (above + row.share * (below - above)) / 255.0f;
            }
    }
}

/* Means of 2 x 2 pixels, in place. */
static void halve(sv_image *image)
{
    const int width = image->width / 2, height = image->height / 2;
    for (int y = 0; y < height; y++) {
        const uint8_t *upper = image->rgb + 6 * (size_t)y * (size_t)image->width,
                      *lower = upper + 3 * (size_t)image->width;
        uint8_t *to = image->rgb + 3 * (size_t)y * (size_t)width;
        for (int x = 0; x < width; x++)
            for (int k = 0; k < 3; k++) {
                const int a = 6 * x + k, b = a + 3;
                to[3 * x + k] = (uint8_t)((upper[a] + upper[b] + lower[a] + lower[b] + 2) / 4);
            }
    }
    image->width = width;
    image->height = height;
}

/* As often as the rule allows; returns how often. */
static int halve_by(const sv_picture_rule *rule, sv_image *image)
{
    const sv_picture_part part = sv_picture_part_of(rule, image->width, image->height);
    const int halvings = sv_picture_halvings(rule, &part);
    for (int i = 0; i < halvings; i++) halve(image);
    return halvings;
}

sv_status sv_picture_of_image(sv_ctx *c, const sv_image *image, const sv_picture_rule *rule, float *out)
{
    sv_image copy = {0};
    SV_TRY(sv_image_new(c, &copy, image->width, image->height, 0));
    memcpy(copy.rgb, image->rgb, 3 * (size_t)image->width * (size_t)image->height);
    const int halvings = halve_by(rule, &copy);
    sv_picture_resample(rule, &copy, halvings, image->width, image->height, out);
    sv_image_free(&copy);
    return SV_OK;
}

sv_status sv_picture_parse(sv_ctx *c, const void *bytes, size_t size, const char *name,
                           const sv_picture_rule *rule, float *out, int *width, int *height)
{
    sv_image image = {0};
    int halvings = 0;
    if (size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0) {
        SV_TRY(sv_image_jpeg_size(c, bytes, size, name, width, height));
        const sv_picture_part part = sv_picture_part_of(rule, *width, *height);
        halvings = sv_picture_halvings(rule, &part);
        SV_TRY(sv_image_parse_jpeg_small(c, bytes, size, name, 1 << halvings, &image));
    } else {
        SV_TRY(sv_image_parse_png(c, bytes, size, name, &image));
        *width = image.width;
        *height = image.height;
        halvings = halve_by(rule, &image);
    }
    sv_picture_resample(rule, &image, halvings, *width, *height, out);
    sv_image_free(&image);
    return SV_OK;
}

sv_status sv_picture_read(sv_ctx *c, const char *path, const sv_picture_rule *rule, float *out, int *width,
                          int *height)
{
    void *bytes = NULL;
    size_t size = 0;
    SV_TRY(sv_file_read(c, path, FILE_LIMIT, &bytes, &size));
    const sv_status status = sv_picture_parse(c, bytes, size, path, rule, out, width, height);
    free(bytes);
    return status;
}

/* ---- folders ------------------------------------------------------------------------------------------ */

static int is_picture(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot &&
           (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0 || strcasecmp(dot, ".png") == 0);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

sv_status sv_pictures_of(sv_ctx *c, const char *folder, char ***paths, int *count)
{
    struct dirent **entries = NULL;
    *paths = NULL;
    *count = 0;
    const int found = scandir(folder, &entries, is_picture, by_name);
    SV_CHECK(c, found >= 0, SV_IO, "%s: the folder cannot be read", folder);
    char **out = calloc((size_t)found + 1, sizeof *out);
    bool whole = out != NULL;
    for (int i = 0; i < found; i++) {
        const size_t bytes = strlen(folder) + strlen(entries[i]->d_name) + 2;
        char *path = whole ? malloc(bytes) : NULL;
        whole = path != NULL;
        if (path) {
            snprintf(path, bytes, "%s/%s", folder, entries[i]->d_name);
            out[i] = path;
        }
        free(entries[i]);
    }
    free(entries);
    if (!whole) {
        if (out) sv_pictures_free(out, found);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d names", folder, found);
    }
    if (found == 0) {
        sv_pictures_free(out, 0);
        return SV_FAIL(c, SV_BAD_INPUT, "%s: the folder holds no pictures (.jpg, .jpeg, .png)", folder);
    }
    *paths = out;
    *count = found;
    return SV_OK;
}

void sv_pictures_free(char **paths, int count)
{
    for (int i = 0; paths && i < count; i++) free(paths[i]);
    free(paths);
}
