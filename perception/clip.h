/* SPDX-License-Identifier: Apache-2.0
 *
 * What a camera brought, picture by picture: a list of picture files, a folder of them, or a video file.
 */
#ifndef SV_CLIP_H
#define SV_CLIP_H

#include "film.h"
#include "picture.h"

typedef struct sv_clip {
    const char *name; /* the caller's */
    int count;        /* pictures */
    char **paths;     /* of the files; NULL: a film */
    bool owned;       /* the paths are the clip's */
    sv_film *film;
    int next; /* picture of the film */
    sv_image image;
} sv_clip;

/* Pictures that stay the caller's, one clip together. */
sv_clip sv_clip_of_pictures(char **paths, int count);
/* Whether an input is a clip by itself: a folder, or a file named like a film. SV_IO where there is nothing. */
sv_status sv_clip_is_whole(sv_ctx *c, const char *input, bool *whole);
/* A folder or a video file. */
sv_status sv_clip_open(sv_ctx *c, const char *input, sv_clip *out);
void sv_clip_close(sv_clip *clip); /* may be called twice */
/* Picture 'index' by 'rule', and its own sides; of a film only the one that is next. */
sv_status sv_clip_read(sv_ctx *c, sv_clip *clip, int index, const sv_picture_rule *rule, float *out,
                       int *width, int *height);
/* "folder/012.png", or "clip.mp4, picture 12". */
const char *sv_clip_label(const sv_clip *clip, int index, char text[256]);

#endif
