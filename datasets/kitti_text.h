/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines and columns of KITTI's text files, for the readers of this folder.
 * Nothing here depends on the locale, and no byte of the text is trusted.
 */
#ifndef SV_KITTI_TEXT_H
#define SV_KITTI_TEXT_H

#include "perception/core/context.h"

#include <stdio.h>

enum { SV_KITTI_TEXT_LIMIT = 16 << 20 }; /* bytes of a file: half a million objects */

/* Where reading stands. 'line' counts from 1 once the first line was taken. */
typedef struct sv_kitti_lines {
    const char *name; /* of the file, for messages */
    const char *at, *end;
    const char *line_at, *line_end; /* what is left of the line */
    int line;
} sv_kitti_lines;

sv_kitti_lines sv_kitti_lines_of(const char *name, const char *text, size_t size);
/* The next line that is not blank; false at the end. */
bool sv_kitti_next_line(sv_kitti_lines *lines);

/* One column. Bytes that cannot be printed are '?', which no number and no name contains. */
typedef struct sv_kitti_word {
    char text[64];
    size_t length; /* in the file; longer than 'text' holds when >= sizeof text */
} sv_kitti_word;

/* The next column of the line; false at its end. */
bool sv_kitti_next_word(sv_kitti_lines *lines, sv_kitti_word *out);
/* A decimal number within +-1e9: larger ones mean a broken file and would not survive single precision. */
bool sv_kitti_number(const sv_kitti_word *word, double *out);

/* printf() of one number, with a point in every locale. */
void sv_kitti_print(FILE *to, const char *format, double value);

#endif
