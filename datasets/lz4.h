/* SPDX-License-Identifier: Apache-2.0
 *
 * LZ4 frames (lz4_Frame_format.md, lz4_Block_format.md of the LZ4 project), as Arrow packs buffers with them. Checksums
 * of frames (xxHash) are not compared: a wrong byte shows in what is unpacked, or not at all.
 */
#ifndef SV_LZ4_H
#define SV_LZ4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No block of n bytes holds more than this many. */
#define SV_LZ4_MOST(n) ((n)*255 + 64)

/* False unless 'in' is one whole frame of exactly 'out_size' bytes. Never reads or writes outside. */
bool sv_lz4_unpack_frame(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size);

#endif
