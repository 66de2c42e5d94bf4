/* SPDX-License-Identifier: Apache-2.0 */
#include "lzf.h"

#include <stdint.h>
#include <string.h>

enum { LITERALS = 32, OFFSETS = 1 << 13, LONGEST = 264, TABLE_BITS = 15, WORD = 8 };

bool sv_lzf_expand(const unsigned char *in, size_t in_size, unsigned char *out, size_t out_size)
{
    size_t i = 0, o = 0;
    while (i < in_size) {
        const unsigned control = in[i++];
        if (control < LITERALS) {
            const size_t length = control + 1;
            if (length > in_size - i || length > out_size - o) return false;
            if (in_size - i >= LITERALS && out_size - o >= LITERALS)
                memcpy(out + o, in + i,
                       LITERALS); /* a constant number is copied faster; the rest is written over */
            else
                memcpy(out + o, in + i, length);
            i += length;
            o += length;
            continue;
        }
        size_t length = control >> 5;
        if (length == 7) {
            if (i == in_size) return false;
            length += in[i++];
        }
        length += 2;
        if (i == in_size) return false;
        const size_t back = ((size_t)(control & 31) << 8 | in[i++]) + 1;
        if (back > o || length > out_size - o) return false;
        if (back >= WORD && out_size - o >= LONGEST + WORD)
            for (size_t k = 0; k < length; k += WORD) memcpy(out + o + k, out + o + k - back, WORD);
        else if (back >= length)
            memcpy(out + o, out + o - back, length);
        else if (back == 1)
            memset(out + o, out[o - 1], length);
        else
            for (size_t k = o; k < o + length; k++) out[k] = out[k - back]; /* one by one: it overlaps */
        o += length;
    }
    return o == out_size;
}

size_t sv_lzf_room(size_t in_size)
{
    return in_size + in_size / LITERALS + 1;
}

static size_t put_literals(const unsigned char *in, size_t count, unsigned char *out)
{
    size_t o = 0;
    while (count > 0) {
        const size_t run = count < LITERALS ? count : LITERALS;
        out[o++] = (unsigned char)(run - 1);
        memcpy(out + o, in, run);
        o += run;
        in += run;
        count -= run;
    }
    return o;
}

static unsigned slot(const unsigned char *p)
{
    const uint32_t three = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
    return three * 2654435761u >> (32 - TABLE_BITS);
}

size_t sv_lzf_pack(const unsigned char *in, size_t in_size, unsigned char *out)
{
    uint32_t last[1 << TABLE_BITS]; /* place + 1 of the last three bytes with this hash, modulo 2^32 */
    memset(last, 0, sizeof last);
    size_t i = 0, o = 0, literals = 0; /* 'literals' bytes before i are not written yet */
    while (i + 2 < in_size) {
        const unsigned s = slot(in + i);
        /* distance to the remembered place; a wrong one (another hash, 4 GiB ago) is found by comparing */
        const size_t back = (size_t)((uint32_t)(i + 1) - last[s]);
        const bool known = last[s] != 0 && back >= 1 && back <= OFFSETS && back <= i;
        last[s] = (uint32_t)(i + 1);
        size_t length = 0;
        if (known) {
            const size_t most = in_size - i < LONGEST ? in_size - i : LONGEST;
            while (length < most && in[i + length] == in[i + length - back]) length++;
        }
        if (length < 3) {
            i++;
            literals++;
            continue;
        }
        o += put_literals(in + i - literals, literals, out + o);
        literals = 0;
        const size_t code = length - 2, offset = back - 1;
        if (code < 7) {
            out[o++] = (unsigned char)(code << 5 | offset >> 8);
        } else {
            out[o++] = (unsigned char)(7u << 5 | offset >> 8);
            out[o++] = (unsigned char)(code - 7);
        }
        out[o++] = (unsigned char)offset;
        i += length;
    }
    return o + put_literals(in + i - literals, literals + (in_size - i), out + o);
}
