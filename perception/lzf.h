/* SPDX-License-Identifier: Apache-2.0
 *
 * The LZF format (Marc Lehmann's liblzf), as PCD files of kind binary_compressed hold it. A stream of
 *
 *   000LLLLL                     L+1 bytes follow as they are
 *   LLLooooo oooooooo            L+2 bytes (L = 1..6) from o+1 bytes back; copies may overlap
 *   111ooooo LLLLLLLL oooooooo   L+9 bytes from o+1 bytes back
 */
#ifndef SV_LZF_H
#define SV_LZF_H

#include <stdbool.h>
#include <stddef.h>

/* No stream of n bytes holds more than this many. */
#define SV_LZF_MOST(n) ((n)*88)

/* False unless 'in' is a whole stream of exactly 'out_size' bytes. Never reads or writes outside. */
bool sv_lzf_expand(const unsigned char *in, size_t in_size, unsigned char *out, size_t out_size);
/* Bytes written to 'out', which needs room for sv_lzf_room(in_size). The same input gives the same bytes. */
size_t sv_lzf_pack(const unsigned char *in, size_t in_size, unsigned char *out);
size_t sv_lzf_room(size_t in_size);

#endif
