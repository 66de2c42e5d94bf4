/* SPDX-License-Identifier: Apache-2.0
 *
 * One loop per line of maps.def. The tail goes through the same vector expression as the rest, so an
 * element's value does not depend on its position.
 */
#include "map_cpu.h"

#define MAP(name, expression)                                                                                \
    static void run_##name(float *y, const float *pa, const float *pb, int64_t n)                            \
    {                                                                                                        \
        for (int64_t i = 0; i < n; i += SV_VL) {                                                             \
            const int lanes = n - i < SV_VL ? (int)(n - i) : SV_VL;                                          \
            const vf a = lanes == SV_VL ? vf_load(pa + i) : vf_load_n(pa + i, lanes);                        \
            const vf b = !pb ? a : lanes == SV_VL ? vf_load(pb + i) : vf_load_n(pb + i, lanes);              \
            (void)b;                                                                                         \
            const vf r = (expression);                                                                       \
            if (lanes == SV_VL)                                                                              \
                vf_store(y + i, r);                                                                          \
            else                                                                                             \
                vf_store_n(y + i, r, lanes);                                                                 \
        }                                                                                                    \
    }
#include "maps.def"
#undef MAP

const sv_map_kernels SV_SIMD(sv_map_kernels) = {.run = {
#define MAP(name, expression) [SV_MAP_##name] = run_##name,
#include "maps.def"
#undef MAP
                                                }};
