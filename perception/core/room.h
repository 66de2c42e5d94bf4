/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared memory, on a GPU's multiprocessor, of a block of threads: 99 KB on cards for work stations and games (8.6, 8.9, 12.x),
 * 163 KB on an A100, 227 KB on Hopper and data-centre Blackwell. Fused kernels that take more than a card has are composed
 * of primitives there (the ..._fits() of ops.h), and primitives work on smaller tiles.
 *
 * To try a smaller card on a larger one, configure with -DSAVANNA_BLOCK_BYTES=101376: nothing takes more, then.
 */
#ifndef SV_ROOM_H
#define SV_ROOM_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes that fused blocks take at most; their kernels assert it. */
enum {
    SV_ROOM_MAMBA_128 = 105 << 10,
    SV_ROOM_RWKV_128 = 188 << 10,
    SV_ROOM_RETNET = 119 << 10,
    SV_ROOM_XLSTM = 143 << 10,
};

/* Bytes that a block may have on the context's GPU. */
int sv_cuda_block_bytes(const sv_ctx *c);

#ifdef __cplusplus
}
#endif

#endif
