/* SPDX-License-Identifier: Apache-2.0 */
#include "clip.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

sv_clip sv_clip_of_pictures(char **paths, int count)
{
    return (sv_clip){.name = paths[0], .count = count, .paths = paths};
}

sv_status sv_clip_is_whole(sv_ctx *c, const char *input, bool *whole)
{
    struct stat info;
    SV_CHECK(c, stat(input, &info) == 0, SV_IO, "%s: there is no such file or folder", input);
    *whole = S_ISDIR(info.st_mode) || sv_film_named(input);
    return SV_OK;
}

sv_status sv_clip_open(sv_ctx *c, const char *input, sv_clip *out)
{
    *out = (sv_clip){.name = input, .owned = true};
    struct stat info;
    if (stat(input, &info) == 0 && S_ISDIR(info.st_mode))
        return sv_pictures_of(c, input, &out->paths, &out->count);
    SV_TRY(sv_film_open(c, input, &out->film));
    out->count = sv_film_count(out->film);
    const sv_status status =
        sv_image_new(c, &out->image, sv_film_width(out->film), sv_film_height(out->film), 0);
    if (status != SV_OK) sv_clip_close(out);
    return status;
}

void sv_clip_close(sv_clip *clip)
{
    if (clip->owned) sv_pictures_free(clip->paths, clip->count);
    sv_film_close(clip->film);
    sv_image_free(&clip->image);
    *clip = (sv_clip){0};
}

static sv_status next_of_film(sv_ctx *c, sv_clip *clip, int index, const sv_picture_rule *rule, float *out)
{
    double time = 0;
    bool there = false;
    SV_CHECK(c, index == clip->next, SV_INTERNAL, "%s: picture %d is asked for, %d is next", clip->name,
             index, clip->next);
    SV_TRY(sv_film_next(c, clip->film, &clip->image, &time, &there));
    SV_CHECK(c, there, SV_BAD_INPUT, "%s: the film ends behind picture %d, it announces %d: it is cut off",
             clip->name, index, clip->count);
    clip->next++;
    return sv_picture_of_image(c, &clip->image, rule, out);
}

sv_status sv_clip_read(sv_ctx *c, sv_clip *clip, int index, const sv_picture_rule *rule, float *out,
                       int *width, int *height)
{
    if (!clip->film) return sv_picture_read(c, clip->paths[index], rule, out, width, height);
    *width = clip->image.width;
    *height = clip->image.height;
    return next_of_film(c, clip, index, rule, out);
}

const char *sv_clip_label(const sv_clip *clip, int index, char text[256])
{
    if (!clip->film) return clip->paths[index];
    snprintf(text, 256, "%.200s, picture %d", clip->name, index + 1);
    return text;
}
