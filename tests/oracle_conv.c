/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_conv.h"

#include <check.h>
#include <stdlib.h>

static double *zeros(size_t count)
{
    double *p = calloc(count ? count : 1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* Sum of a node at output cell (y,x), channel o. */
static double at(const sv_chain_node *n, const oracle_map *in, int b, int y, int x, int o)
{
    double sum = 0;
    const int k = n->kernel, s = n->stride;
    if (n->kind == SV_CHAIN_DECONV) {
        const double *cell =
            in->values +
            (((size_t)b * (size_t)in->height + (size_t)(y / s)) * (size_t)in->width + (size_t)(x / s)) *
                (size_t)in->channels;
        for (int i = 0; i < n->in_channels; i++)
            sum +=
                cell[i] *
                (double)
                    n->w[(((size_t)i * (size_t)n->out_channels + (size_t)o) * (size_t)k + (size_t)(y % s)) *
                             (size_t)k +
                         (size_t)(x % s)];
        return sum;
    }
    const int pad = k % 2 ? (k - 1) / 2 : 0;
    for (int ky = 0; ky < k; ky++)
        for (int kx = 0; kx < k; kx++) {
            const int iy = y * s - pad + ky, ix = x * s - pad + kx;
            if (iy < 0 || iy >= in->height || ix < 0 || ix >= in->width) continue;
            const double *cell =
                in->values +
                (((size_t)b * (size_t)in->height + (size_t)iy) * (size_t)in->width + (size_t)ix) *
                    (size_t)in->channels;
            for (int i = 0; i < n->in_channels; i++)
                sum +=
                    cell[i] *
                    (double)n->w[(((size_t)o * (size_t)n->in_channels + (size_t)i) * (size_t)k + (size_t)ky) *
                                     (size_t)k +
                                 (size_t)kx];
        }
    return sum;
}

int oracle_chain(const sv_chain_def *def, int batch, const float *in, oracle_map *maps)
{
    int slots = 1;
    for (int v = 0; v <= SV_CHAIN_NODES; v++) maps[v] = (oracle_map){0};
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        if (n->out + 1 > slots) slots = n->out + 1;
        if (n->out_first + n->out_channels > maps[n->out].channels)
            maps[n->out].channels = n->out_first + n->out_channels;
    }
    const size_t cells = (size_t)batch * (size_t)def->height * (size_t)def->width,
                 count = cells * (size_t)def->in_channels;
    maps[0] = (oracle_map){def->height, def->width, def->in_channels, zeros(count)};
    for (size_t i = 0; i < count; i++) maps[0].values[i] = (double)in[i];
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        const oracle_map *from = &maps[n->in];
        oracle_map *to = &maps[n->out];
        const int pad = n->kernel % 2 ? (n->kernel - 1) / 2 : 0;
        const bool up = n->kind == SV_CHAIN_DECONV;
        to->height = up ? from->height * n->stride : (from->height + 2 * pad - n->kernel) / n->stride + 1;
        to->width = up ? from->width * n->stride : (from->width + 2 * pad - n->kernel) / n->stride + 1;
        if (!to->values)
            to->values = zeros((size_t)batch * (size_t)to->height * (size_t)to->width * (size_t)to->channels);
        for (int b = 0; b < batch; b++)
            for (int y = 0; y < to->height; y++)
                for (int x = 0; x < to->width; x++)
                    for (int o = 0; o < n->out_channels; o++) {
                        const size_t cell =
                            ((size_t)b * (size_t)to->height + (size_t)y) * (size_t)to->width + (size_t)x;
                        double v = at(n, from, b, y, x, o) + (n->bias ? (double)n->bias[o] : 0);
                        if (n->add >= 0)
                            v += maps[n->add].values[cell * (size_t)maps[n->add].channels + (size_t)o];
                        to->values[cell * (size_t)to->channels + (size_t)(n->out_first + o)] =
                            n->relu && v < 0 ? 0 : v;
                    }
    }
    return slots;
}

void oracle_chain_free(oracle_map *maps, int slots)
{
    for (int v = 0; v < slots; v++) free(maps[v].values);
}
