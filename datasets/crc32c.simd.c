/* SPDX-License-Identifier: Apache-2.0
 *
 * Every processor with AVX2 has the instruction. It takes three cycles and may start every cycle, so three
 * parts of a long run are summed side by side; the first two are then shifted by the length of what follows,
 * which is linear: crc(a b) = shift(crc(a), |b|) ^ crc0(b).
 */
#include "crc32c.h"

#include "perception/core/simd.h"

#if SV_SIMD_ISA > 0
enum { PART = 16384 };

/* The remainder after a zero bit, and of it 'bits' times: x^bits mod P, by squaring. */
static uint32_t times(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (int i = 0; i < 32; i++) {
        if (a & 0x80000000u >> i) product ^= b;
        b = b >> 1 ^ (b & 1 ? 0x82f63b78u : 0);
    }
    return product;
}

/* x^(8 n) mod P for a power of two n. */
static uint32_t power(size_t n)
{
    uint32_t x = 0x00800000u; /* x^8 */
    for (; n > 1; n /= 2) x = times(x, x);
    return x;
}

static uint64_t word(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static uint32_t update(uint32_t crc, const uint8_t *p, size_t size)
{
    if (size >= (size_t)3 * PART) {
        const uint32_t one = power(PART), two = times(one, one);
        while (size >= (size_t)3 * PART) {
            uint64_t a = crc, b = 0, c = 0;
            for (int i = 0; i < PART; i += 8) {
                a = _mm_crc32_u64(a, word(p + i));
                b = _mm_crc32_u64(b, word(p + PART + i));
                c = _mm_crc32_u64(c, word(p + 2 * PART + i));
            }
            crc = times((uint32_t)a, two) ^ times((uint32_t)b, one) ^ (uint32_t)c;
            p += (size_t)3 * PART;
            size -= (size_t)3 * PART;
        }
    }
    uint64_t a = crc;
    for (; size >= 8; size -= 8, p += 8) a = _mm_crc32_u64(a, word(p));
    crc = (uint32_t)a;
    for (; size > 0; size--, p++) crc = _mm_crc32_u8(crc, *p);
    return crc;
}

#else
/* The entry for a byte with i bytes behind it, made when needed: 256 entries take a microsecond each run. */
static uint32_t update(uint32_t crc, const uint8_t *p, size_t size)
{
    uint32_t table[8][256];
    const int depth = size >= 64 ? 8 : 1;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int k = 0; k < 8; k++) value = value >> 1 ^ (value & 1 ? 0x82f63b78u : 0);
        table[0][i] = value;
    }
    for (int k = 1; k < depth; k++)
        for (int i = 0; i < 256; i++) table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 255];
    for (; depth == 8 && size >= 8; size -= 8, p += 8) {
        const uint32_t low =
            crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
              table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; size > 0; size--, p++) crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
    return crc;
}
#endif

extern const sv_crc32c_kernels SV_SIMD(sv_crc32c_kernels);
const sv_crc32c_kernels SV_SIMD(sv_crc32c_kernels) = {update};
