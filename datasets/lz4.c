/* SPDX-License-Identifier: Apache-2.0 */
#include "lz4.h"

#include <string.h>

enum {
    VERSION = 0x40,
    BLOCK_CHECKSUMS = 0x10,
    SIZE = 0x08,
    CHECKSUM = 0x04,
    DICTIONARY = 0x01,
    LEAST_MATCH = 4
};
static const uint32_t magic = 0x184d2204, raw_block = 0x80000000;

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A length of four bits that goes on in bytes while they are 255. */
static bool read_length(const uint8_t *in, size_t size, size_t *at, unsigned first, size_t *out)
{
    *out = first;
    if (first < 15) return true;
    uint8_t byte;
    do {
        if (*at == size) return false;
        byte = in[(*at)++];
        *out += byte;
    } while (byte == 255);
    return true;
}

/* A block behind the *done bytes that are there; matches may reach into them. */
static bool unpack_block(const uint8_t *in, size_t size, uint8_t *out, size_t out_size, size_t *done)
{
    size_t i = 0, o = *done, length;
    while (i < size) {
        const unsigned token = in[i++];
        if (!read_length(in, size, &i, token >> 4, &length) || length > size - i || length > out_size - o)
            return false;
        if (length > 0) memcpy(out + o, in + i, length);
        i += length;
        o += length;
        if (i == size) break; /* the last sequence has literals only */
        if (size - i < 2) return false;
        const size_t back = (size_t)in[i] | (size_t)in[i + 1] << 8;
        i += 2;
        if (!read_length(in, size, &i, token & 15, &length)) return false;
        length += LEAST_MATCH;
        if (back == 0 || back > o || length > out_size - o) return false;
        if (back >= length)
            memcpy(out + o, out + o - back, length);
        else
            for (size_t k = o; k < o + length; k++) out[k] = out[k - back]; /* it overlaps */
        o += length;
    }
    *done = o;
    return true;
}

bool sv_lz4_unpack_frame(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    if (in_size < 7 || le32(in) != magic) return false;
    const unsigned flags = in[4];
    if ((flags & 0xc0) != VERSION || (flags & DICTIONARY)) return false;
    size_t i = 6 + (flags & SIZE ? 8 : 0) + 1, done = 0; /* descriptor and its checksum */
    for (;;) {
        if (i > in_size || in_size - i < 4) return false;
        const uint32_t head = le32(in + i), size = head & ~raw_block;
        i += 4;
        if (head == 0) break;
        if (size > in_size - i) return false;
        if (head & raw_block) {
            if (size > out_size - done) return false;
            memcpy(out + done, in + i, size);
            done += size;
        } else if (!unpack_block(in + i, size, out, out_size, &done)) {
            return false;
        }
        i += size;
        if (flags & BLOCK_CHECKSUMS) i += 4;
    }
    return done == out_size && i <= in_size && in_size - i >= (flags & CHECKSUM ? 4u : 0u);
}
