/* SPDX-License-Identifier: Apache-2.0
 *
 * Between film.c and FFmpeg's libraries: plain bytes in, plain bytes out. The shim is a module of its own
 * (libsavanna_film.so), which film.c loads when it is first needed: those libraries bring a hundred others along, which
 * no other command should wait for. Nobody else includes this.
 *
 * Every function returns 0, or another number with a sentence in 'why'.
 */
#ifndef SV_FILM_SHIM_H
#define SV_FILM_SHIM_H

#include <stdint.h>

enum { SV_FILM_WHY = 240 };

typedef struct sv_film_facts {
    int width, height, count; /* pictures that the file announces */
    double rate;              /* pictures a second; 0: not known */
} sv_film_facts;

typedef struct sv_film_shim {
    const char *version;
    /* The first stream of pictures. */
    int (*open)(const char *path, int most_side, void **film, sv_film_facts *facts, char why[SV_FILM_WHY]);
    /* rgb [height, width, 3]; '*there' 0: the film is over. */
    int (*next)(void *film, uint8_t *rgb, double *time, int *there, char why[SV_FILM_WHY]);
    void (*close)(void *film);
    /* An MP4 file; both sides even. */
    int (*create)(const char *path, int width, int height, int rate, void **out, char why[SV_FILM_WHY]);
    int (*add)(void *out, const uint8_t *rgb, char why[SV_FILM_WHY]);
    int (*finish)(void *out, char why[SV_FILM_WHY]); /* what is left, and the index; then discard it */
    void (*discard)(void *out);
} sv_film_shim;

/* The only symbol of the module. */
const sv_film_shim *sv_film_shim_table(void);

#endif
