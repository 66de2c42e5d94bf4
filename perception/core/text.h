/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers as text, the same in every locale, and the distance of two words
 * (for "did you mean").
 */
#ifndef SV_TEXT_H
#define SV_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole of 'text' as a decimal number: 12, -0.5, .5, 3., 1e-3, 1_000. False when it is none or not
 * finite. */
bool sv_text_number(const char *text, double *out);
/* The whole of 'text' as a whole number: 12, -3, 1_000, 0x10. A leading zero (octal in YAML 1.1) is not
 * accepted. */
bool sv_text_integer(const char *text, int64_t *out);

enum { SV_NUMBER_TEXT = 32 };
/* 'value' in so many digits that reading them gives the same value again (9 for a float, 17 for a double),
 * with a point in every locale. Returns the length. Not for NaN and infinities, which every format writes
 * differently. */
int sv_text_from_float(char out[SV_NUMBER_TEXT], float value);
int sv_text_from_double(char out[SV_NUMBER_TEXT], double value);

/* Letters to insert, delete, replace or swap with their neighbour, not counting case; 'limit' + 1 when more
 * than 'limit'. */
int sv_text_distance(const char *a, const char *b, int limit);

#endif
