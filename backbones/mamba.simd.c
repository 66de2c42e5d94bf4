/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code around Mamba's scan: the short convolution on a tile of tokens, and the gate. mamba_cpu.c has the picture.
 */
#include "backbones/scan_core.h"

#include "backbones/mamba_kernels.h"
#include "backbones/scan_kernels.h"

enum { TAPS = SV_CONV_TAPS };

/* One vector of channels; 'taps' is a constant where it matters. */
SV_SCAN_INLINE void conv_lanes(const sv_mamba_conv *job, int at, int taps)
{
    vf w[TAPS];
    const vf bias = vf_load(job->bias + at);
    for (int j = 0; j < taps; j++) w[j] = vf_load(job->w + j * job->width + at);
    const float *u = job->u + at;
    float *row = job->rows + at;
    float *block = job->blocks + at / SV_SCAN_CHANNELS * job->block_step + at % SV_SCAN_CHANNELS;
    for (int t = 0; t < job->count; t++, u += job->width, row += job->width, block += SV_SCAN_CHANNELS) {
        vf sum = bias;
        for (int j = 0; j < taps; j++) sum = m_fma(w[j], vf_load(u + j * job->width), sum);
        sum = sv_scan_silu(sum);
        vf_store(row, sum);
        vf_store(block, sum);
    }
}

static void conv(const sv_mamba_conv *job)
{
    for (int at = 0; at < job->width; at += SV_VL) {
        if (job->taps == 4)
            conv_lanes(job, at, 4);
        else
            conv_lanes(job, at, job->taps);
    }
}

static void gate(const sv_mamba_gate *job)
{
    for (int i = 0; i < job->count; i++) {
        float *z = job->z + (ptrdiff_t)i * job->width;
        if (job->slots[i] < 0) {
            memset(z, 0, (size_t)job->width * sizeof *z);
            continue;
        }
        const float *y = job->blocks + (ptrdiff_t)job->slots[i] * SV_SCAN_CHANNELS;
        for (int at = 0; at < job->width; at += SV_VL) {
            const float *from = y + at / SV_SCAN_CHANNELS * job->block_step + at % SV_SCAN_CHANNELS;
            vf_store(z + at, vf_load(from) * sv_scan_silu(vf_load(z + at)));
        }
    }
}

extern const sv_mamba_kernels SV_SIMD(sv_mamba_kernels);
const sv_mamba_kernels SV_SIMD(sv_mamba_kernels) = {.conv = conv, .gate = gate};
