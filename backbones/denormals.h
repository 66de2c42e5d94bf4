/* SPDX-License-Identifier: Apache-2.0
 *
 * States that die away pass through the denormals, where arithmetic is a hundred times slower: scans flush
 * them to zero while they run.
 */
#ifndef SV_DENORMALS_H
#define SV_DENORMALS_H

#if defined(__SSE__)
#include <xmmintrin.h>
static inline unsigned sv_flush_denormals(void)
{
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u); /* flush to zero, denormals are zero */
    return before;
}
static inline void sv_restore_denormals(unsigned before)
{
    _mm_setcsr(before);
}
#else
static inline unsigned sv_flush_denormals(void)
{
    return 0;
}
static inline void sv_restore_denormals(unsigned before)
{
    (void)before;
}
#endif

#endif
