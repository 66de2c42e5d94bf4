/* SPDX-License-Identifier: Apache-2.0
 *
 * A small fixed-width font, for pictures made without a graphics library.
 */
#ifndef SV_FONT_H
#define SV_FONT_H

#include <stdint.h>

enum { SV_FONT_COLUMNS = 5, SV_FONT_ROWS = 9, SV_FONT_ADVANCE = 6, SV_FONT_LINE = 12, SV_FONT_CAPITAL = 7 };

/* SV_FONT_ROWS bytes, one per row from the top; the leftmost of the columns is bit 4. A frame for what is not
 * ASCII. */
const uint8_t *sv_font_glyph(char letter);

#endif
