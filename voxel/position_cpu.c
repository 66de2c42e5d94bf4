/* SPDX-License-Identifier: Apache-2.0
 *
 * Input of the learned position embedding (LIONBlock.get_pos_embed of the official code), with its order of float32
 * roundings: subtract half the size, divide by the size, times 2, times 3.1415.
 */
#include "perception/core/ops_cpu.h"

sv_status sv_cpu_positions(sv_ctx *c, sv_tensor y, sv_tensor coords, const int32_t *shape)
{
    const int rows = sv_live_rows(coords);
    for (int i = 0; i < rows; i++) {
        const int32_t *voxel = sv_i32(coords) + (size_t)i * 4;
        float *out = sv_f32(y) + (size_t)i * (size_t)y.pitch;
        for (int axis = 0; axis < 3; axis++) { /* x, y, z: the reverse of (z, y, x) */
            const float size = (float)shape[2 - axis];
            out[axis] = ((float)voxel[3 - axis] - size / 2.0f) / size * 2.0f * 3.1415f;
        }
    }
    sv_count_work(c, 4.0 * 3 * rows, 28.0 * rows);
    return SV_OK;
}
