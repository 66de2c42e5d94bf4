/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "film.h"

#include "film_shim.h"
#include "perception/core/module.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- the module --------------------------------------------------------------------------------------- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const sv_film_shim *shim; /* NULL: there is none */
static char why_not[320];

static void load_shim(void)
{
#ifdef SAVANNA_FFMPEG
    shim =
        sv_module_table("libsavanna_film.so", "sv_film_shim_table", "video files", why_not, sizeof why_not);
#else
    snprintf(why_not, sizeof why_not,
             "this build reads and writes no video files: install libavformat-dev, libavcodec-dev and "
             "libswscale-dev (./run build --with-ffmpeg does) and build again, or give a folder of pictures");
#endif
}

sv_status sv_film_need(sv_ctx *c)
{
    pthread_once(&once, load_shim);
    SV_CHECK(c, shim, SV_UNSUPPORTED, "%s", why_not);
    return SV_OK;
}

const char *sv_film_version(void)
{
    pthread_once(&once, load_shim);
    return shim ? shim->version : NULL;
}

bool sv_film_named(const char *path)
{
    static const char *const endings[] = {".mp4", ".m4v", ".mov",  ".mkv", ".webm", ".avi",
                                          ".ts",  ".mpg", ".mpeg", ".ogv", ".flv"};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot, endings[i]) == 0) return true;
    return false;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

struct sv_film {
    char *path;
    void *inside;
    sv_film_facts facts;
    int done; /* pictures */
};

sv_status sv_film_open(sv_ctx *c, const char *path, sv_film **out)
{
    char why[SV_FILM_WHY] = "";
    *out = NULL;
    SV_TRY(sv_film_need(c));
    SV_CHECK(c, access(path, R_OK) == 0, SV_IO, "%s: the file cannot be read", path);
    sv_film *film = calloc(1, sizeof *film);
    if (film) film->path = strdup(path);
    sv_status status =
        film && film->path ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for a film", path);
    if (status == SV_OK && shim->open(path, SV_IMAGE_SIDE, &film->inside, &film->facts, why))
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: %s", path, why);
    if (status == SV_OK && (int64_t)film->facts.width * film->facts.height > SV_IMAGE_PIXELS)
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: pictures of %d x %d pixels are too large", path,
                         film->facts.width, film->facts.height);
    if (status == SV_OK)
        *out = film;
    else
        sv_film_close(film);
    return status;
}

void sv_film_close(sv_film *film)
{
    if (!film) return;
    if (film->inside) shim->close(film->inside);
    free(film->path);
    free(film);
}

int sv_film_width(const sv_film *film)
{
    return film->facts.width;
}
int sv_film_height(const sv_film *film)
{
    return film->facts.height;
}
int sv_film_count(const sv_film *film)
{
    return film->facts.count;
}
double sv_film_rate(const sv_film *film)
{
    return film->facts.rate;
}

sv_status sv_film_next(sv_ctx *c, sv_film *film, sv_image *image, double *time, bool *there)
{
    char why[SV_FILM_WHY] = "";
    int found = 0;
    SV_CHECK(c, image->width == film->facts.width && image->height == film->facts.height, SV_BAD_SHAPE,
             "%s: its pictures have %d x %d pixels, there is room for %d x %d", film->path, film->facts.width,
             film->facts.height, image->width, image->height);
    SV_CHECK(c, !shim->next(film->inside, image->rgb, time, &found, why), SV_BAD_INPUT, "%s, picture %d: %s",
             film->path, film->done + 1, why);
    *there = found != 0;
    film->done += found;
    return SV_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

struct sv_film_writer {
    char *path, *temporary; /* temporary NULL: renamed */
    void *inside;
    int width, height;
};

sv_status sv_film_create(sv_ctx *c, const char *path, int width, int height, int rate, sv_film_writer **out)
{
    char why[SV_FILM_WHY] = "";
    const size_t bytes = strlen(path) + 32;
    *out = NULL;
    SV_TRY(sv_film_need(c));
    SV_CHECK(c,
             width >= 2 && height >= 2 && width % 2 == 0 && height % 2 == 0 && width <= SV_IMAGE_SIDE &&
                 height <= SV_IMAGE_SIDE && rate >= 1 && rate <= 1000,
             SV_USAGE, "%s: films have even sides, not %d x %d, and 1 to 1000 pictures a second, not %d",
             path, width, height, rate);
    sv_film_writer *w = calloc(1, sizeof *w);
    if (w) {
        w->width = width;
        w->height = height;
        w->path = strdup(path);
        w->temporary = malloc(bytes);
    }
    if (!w || !w->path || !w->temporary) {
        sv_film_writer_close(w);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for a film", path);
    }
    snprintf(w->temporary, bytes, "%s.%ld.part", path, (long)getpid());
    if (shim->create(w->temporary, width, height, rate, &w->inside, why)) {
        sv_film_writer_close(w);
        return SV_FAIL(c, SV_IO, "%s: %s", path, why);
    }
    *out = w;
    return SV_OK;
}

sv_status sv_film_add(sv_ctx *c, sv_film_writer *w, const sv_image *image)
{
    char why[SV_FILM_WHY] = "";
    SV_CHECK(c, image->width == w->width && image->height == w->height, SV_BAD_SHAPE,
             "%s: a picture of %d x %d pixels in a film of %d x %d", w->path, image->width, image->height,
             w->width, w->height);
    SV_CHECK(c, !shim->add(w->inside, image->rgb, why), SV_IO, "%s: %s", w->path, why);
    return SV_OK;
}

sv_status sv_film_finish(sv_ctx *c, sv_film_writer *w)
{
    char why[SV_FILM_WHY] = "";
    SV_CHECK(c, !shim->finish(w->inside, why), SV_IO, "%s: %s", w->path, why);
    SV_CHECK(c, rename(w->temporary, w->path) == 0, SV_IO, "%s: the finished film cannot be put there",
             w->path);
    free(w->temporary);
    w->temporary = NULL;
    return SV_OK;
}

void sv_film_writer_close(sv_film_writer *w)
{
    if (!w) return;
    if (w->inside) shim->discard(w->inside);
    if (w->temporary) unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    free(w);
}
