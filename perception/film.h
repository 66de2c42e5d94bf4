/* SPDX-License-Identifier: Apache-2.0
 *
 * Video files: their pictures in order, and pictures as an MP4 file, by FFmpeg's libraries where a build has them (CMake
 * option SAVANNA_FFMPEG). Without them every function but sv_film_version() and sv_film_named() fails with a sentence that
 * says how to get them.
 */
#ifndef SV_FILM_H
#define SV_FILM_H

#include "image.h"

typedef struct sv_film sv_film;
typedef struct sv_film_writer sv_film_writer;

const char *sv_film_version(void);    /* of libavformat: "59"; NULL: there is none */
bool sv_film_named(const char *path); /* whether the name ends like a film's: .mp4, .mkv, .avi ... */
sv_status sv_film_need(sv_ctx *c);    /* SV_OK, or the sentence that all others would fail with */

/* A local file. Sounds are passed over; a picture that is damaged, or has other sides than the first, is an error. */
sv_status sv_film_open(sv_ctx *c, const char *path, sv_film **out);
void sv_film_close(sv_film *film); /* NULL is fine */
int sv_film_width(const sv_film *film);
int sv_film_height(const sv_film *film);
int sv_film_count(const sv_film *film);   /* pictures that the file announces; it may break off before */
double sv_film_rate(const sv_film *film); /* pictures a second; 0: not known */
/* Into 'image', which has the film's sides; '*there' tells whether there was one. 'time' in seconds from its beginning. */
sv_status sv_film_next(sv_ctx *c, sv_film *film, sv_image *image, double *time, bool *there);

/* An MP4 file with so many pictures a second, all of these sides, which are even; written whole or not at all. */
sv_status sv_film_create(sv_ctx *c, const char *path, int width, int height, int rate, sv_film_writer **out);
sv_status sv_film_add(sv_ctx *c, sv_film_writer *writer, const sv_image *image);
sv_status sv_film_finish(sv_ctx *c, sv_film_writer *writer); /* renames the file into place; close it, too */
void sv_film_writer_close(sv_film_writer *writer); /* what is not finished leaves nothing; NULL is fine */

#endif
