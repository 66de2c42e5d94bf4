/* SPDX-License-Identifier: Apache-2.0
 *
 * FIPS 180-4, section 6.2. The round constants are the first 32 bits of the
 * fractional parts of the cube roots of the first 64 primes, the initial state
 * those of the square roots of the first 8.
 */
#include "sha256.h"

#include "source.h"

#include <string.h>

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotate(uint32_t x, int by)
{
    return x >> by | x << (32 - by);
}

/* One of the 64 steps. The eight variables change their roles from step to step instead of being moved. */
#define STEP(a, b, c, d, e, f, g, h, i)                                                                      \
    do {                                                                                                     \
        const uint32_t t1 =                                                                                  \
            h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i]; \
        d += t1;                                                                                             \
        h = t1 + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));             \
    } while (0)

static void add_block(uint32_t state[8], const uint8_t *p)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
               p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        const uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i += 8) {
        STEP(a, b, c, d, e, f, g, h, i);
        STEP(h, a, b, c, d, e, f, g, i + 1);
        STEP(g, h, a, b, c, d, e, f, i + 2);
        STEP(f, g, h, a, b, c, d, e, i + 3);
        STEP(e, f, g, h, a, b, c, d, i + 4);
        STEP(d, e, f, g, h, a, b, c, i + 5);
        STEP(c, d, e, f, g, h, a, b, i + 6);
        STEP(b, c, d, e, f, g, h, a, i + 7);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void sv_sha256_begin(sv_sha256 *hash)
{
    *hash = (sv_sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                                  0x1f83d9ab, 0x5be0cd19}};
}

void sv_sha256_add(sv_sha256 *hash, const void *bytes, size_t count)
{
    const uint8_t *p = bytes;
    const size_t held = hash->bytes % 64;
    hash->bytes += count;
    if (held > 0) {
        const size_t part = count < 64 - held ? count : 64 - held;
        memcpy(hash->block + held, p, part);
        if (held + part < 64) return;
        add_block(hash->state, hash->block);
        p += part;
        count -= part;
    }
    for (; count >= 64; p += 64, count -= 64) add_block(hash->state, p);
    if (count > 0) memcpy(hash->block, p, count);
}

void sv_sha256_text(sv_sha256 *hash, char out[SV_SHA256_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    const uint64_t bits = hash->bytes * 8;
    uint8_t tail[72] = {0x80};
    const size_t zeros = (119 - hash->bytes % 64) % 64; /* so that 8 bytes of length end a block */
    for (int i = 0; i < 8; i++) tail[1 + zeros + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    sv_sha256_add(hash, tail, 1 + zeros + 8);
    for (int i = 0; i < 64; i++) out[i] = digits[hash->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    out[64] = '\0';
}

sv_status sv_sha256_file(sv_ctx *c, const char *path, char out[SV_SHA256_TEXT])
{
    sv_source source;
    sv_status status = sv_source_open(c, path, &source);
    sv_sha256 hash;
    sv_sha256_begin(&hash);
    uint8_t part[16384];
    for (uint64_t at = 0; status == SV_OK && at < source.size; at += sizeof part) {
        const size_t count = source.size - at < sizeof part ? (size_t)(source.size - at) : sizeof part;
        status = sv_source_read(c, &source, at, part, count);
        sv_sha256_add(&hash, part, status == SV_OK ? count : 0);
    }
    sv_source_close(&source);
    sv_sha256_text(&hash, out);
    return status;
}
