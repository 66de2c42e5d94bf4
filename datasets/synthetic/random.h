/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers without a history: a number belongs to what it is drawn for
 * (a seed, a thing, a ray), so that the order of drawing, and with it the
 * number of threads, changes nothing. The mixing step is that of SplitMix64
 * (Steele, Lea and Flood, OOPSLA 2014).
 */
#ifndef SV_SIM_RANDOM_H
#define SV_SIM_RANDOM_H

#include <math.h>
#include <stdint.h>

static inline uint64_t sim_mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline uint64_t sim_key(uint64_t a, uint64_t b, uint64_t c)
{
    return sim_mix(sim_mix(sim_mix(a) ^ b) ^ c);
}

/* The next number of a key's own sequence, 0 <= x < 1. */
static inline double sim_uniform(uint64_t *key)
{
    *key = sim_mix(*key);
    return (double)(*key >> 11) * 0x1p-53;
}

static inline double sim_between(uint64_t *key, double low, double high)
{
    return low + (high - low) * sim_uniform(key);
}

/* Standard normal, by Box and Muller. */
static inline double sim_normal(uint64_t *key)
{
    const double u = 1 - sim_uniform(key), v = sim_uniform(key);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

#endif
