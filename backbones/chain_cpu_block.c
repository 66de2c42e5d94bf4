/* SPDX-License-Identifier: Apache-2.0
 *
 * One block of tiles of a convolution chain: Winograd F(4x4,3x3) or products of gathered rows, then bias, addition and
 * ReLU into the stored tiles. chain_cpu.c has the whole picture.
 */
#include "backbones/chain_cpu_plan.h"

#include <string.h>

/* Pointers to the h x w cells from (y,x); cells outside the map are zeros. */
static void window(const map *m, const float *zero, int y, int x, int h, int w, const float **out)
{
    for (int i = 0; i < h; i++, y++) {
        if (y < 0 || y >= m->height) {
            for (int j = 0; j < w; j++) *out++ = zero;
            continue;
        }
        const int ty = y / CHAIN_TILE, in_y = y % CHAIN_TILE;
        int last = -1;
        const float *row = NULL;
        ptrdiff_t cell = 0;
        for (int j = 0; j < w; j++) {
            const int at = x + j;
            if (at < 0 || at >= m->width) {
                *out++ = zero;
                continue;
            }
            const int tx = at / CHAIN_TILE;
            if (tx != last) {
                const float *tile = m->tile[ty * m->tiles_x + tx];
                last = tx;
                cell = tile ? m->cell : m->empty_cell;
                row = tile ? tile + in_y * m->row : empty_tile(m, ty, tx) + in_y * m->empty_row;
            }
            *out++ = row + at % CHAIN_TILE * cell;
        }
    }
}

/* ---- one block of tiles ------------------------------------------------------------------------------- */

/* Where the cells of tile t of 'part' go: NULL outside the map. Unless 'every' cell is wanted, those that
 * are not live get the empty response and NULL ('local' ones nothing: nobody reads them). */
static void targets(const run *r, const part *p, int t, bool every, float *local, float **to)
{
    const map *m = &r->map[p->out];
    const int ty = t / m->tiles_x, tx = t % m->tiles_x;
    float *tile = local ? local : m->tile[t];
    const ptrdiff_t row = local ? (ptrdiff_t)CHAIN_TILE * m->channels : m->row;
    const ptrdiff_t next = local ? m->channels : m->cell;
    const float *empty = every ? NULL : empty_tile(m, ty, tx);
    for (int i = 0; i < CHAIN_TILE; i++)
        for (int j = 0; j < CHAIN_TILE; j++) {
            const int y = ty * CHAIN_TILE + i, x = tx * CHAIN_TILE + j;
            float **cell = &to[i * CHAIN_TILE + j];
            *cell = NULL;
            if (y >= m->height || x >= m->width) continue;
            float *at = tile + i * row + j * next + p->out_first;
            if (every || m->live[y * m->width + x])
                *cell = at;
            else if (!local)
                memcpy(at, empty + i * m->empty_row + j * m->empty_cell + p->out_first,
                       sizeof(float) * (size_t)p->channels);
        }
}

/* A as the product reads it. */
static const void *staged(const run *r, const step *s, char *work, const float *a, int m, int k)
{
    if (!s->kernels->stage) return a;
    s->kernels->stage(work + r->offset_staged, a, m, k);
    return work + r->offset_staged;
}

static void winograd_block(const run *r, const step *s, const int32_t *tiles, int count, char *work)
{
    const sv_chain_kernels *kernels = s->kernels;
    const map *in = &r->map[s->in];
    const int m = round_up(count, kernels->rows);
    const size_t apart = xi_step(s, m);
    float *products = (float *)(void *)work, *v = products + apart;
    for (int i = 0; i < count; i++) {
        const float *from[CHAIN_PATCH];
        window(in, r->chain->zero, tiles[i] / in->tiles_x * CHAIN_TILE - 1,
               tiles[i] % in->tiles_x * CHAIN_TILE - 1, 6, 6, from);
        kernels->winograd_in(v, apart, m, i, from, s->in_channels, s->k);
    }
    const char *w = s->w;
    for (size_t xi = 0; xi < CHAIN_PATCH; xi++, w += (size_t)s->k * (size_t)s->n * (size_t)kernels->bytes)
        kernels->product(products + xi * apart, s->n, staged(r, s, work, v + xi * apart, m, s->k), w, m, s->n,
                         s->k);
    for (int q = 0; q < s->parts; q++) {
        const part *p = &s->part[q];
        if (!r->needed[p->out]) continue;
        for (int i = 0; i < count; i++) {
            float *cells[CHAIN_CELLS];
            const float *add[CHAIN_CELLS];
            targets(r, p, tiles[i], r->whole, NULL, cells);
            if (p->add >= 0)
                window(&r->map[p->add], r->chain->zero, tiles[i] / in->tiles_x * CHAIN_TILE,
                       tiles[i] % in->tiles_x * CHAIN_TILE, CHAIN_TILE, CHAIN_TILE, add);
            kernels->winograd_out(cells, p->add >= 0 ? add : NULL,
                                  products + (size_t)i * (size_t)s->n + p->column, apart, s->bias + p->column,
                                  p->relu, p->channels);
        }
    }
}

/* 'inner' (or NULL): the stored-nowhere slot's cells of these tiles, [count][16][channels]. */
static void direct_block(const run *r, const step *s, const int32_t *tiles, int count, char *work,
                         float *inner)
{
    const sv_chain_kernels *kernels = s->kernels;
    const map *in = &r->map[s->in], *out = &r->map[s->part[0].out];
    const bool in_local = inner && s->in == r->now->local,
               out_local = inner && s->part[0].out == r->now->local;
    const int taps = taps_of(s), phases = phases_of(s), k = taps * s->k;
    const int steps_y = s->kind == SV_CHAIN_DECONV ? s->stride : 1;
    const bool every = r->whole || !r->chain->skip;
    float *a = (float *)(void *)work, *c = (float *)(void *)(work + r->offset_c);
    for (int phase = 0; phase < phases; phase++) {
        enum { MOST = BLOCK_TILES * CHAIN_CELLS };
        int rows = 0;
        int16_t tile[MOST];
        int8_t cell[MOST];
        for (int i = 0; i < count; i++) {
            const int y0 = tiles[i] / out->tiles_x * CHAIN_TILE, x0 = tiles[i] % out->tiles_x * CHAIN_TILE;
            for (int j = 0; j < CHAIN_CELLS; j++) {
                const int y = y0 + j / CHAIN_TILE, x = x0 + j % CHAIN_TILE;
                if (y >= out->height || x >= out->width) continue;
                if (y % steps_y * steps_y + x % steps_y != phase) continue;
                if (!every && !out->live[y * out->width + x]) continue;
                tile[rows] = (int16_t)i;
                cell[rows++] = (int8_t)j;
            }
        }
        const int m = round_up(rows, kernels->rows);
        const float *from[MOST];
        for (int tap = 0; tap < taps && rows; tap++) {
            for (int i = 0; i < rows; i++) {
                if (in_local) {
                    from[i] =
                        inner + ((size_t)tile[i] * CHAIN_CELLS + (size_t)cell[i]) * (size_t)in->channels;
                    continue;
                }
                const int t = tiles[tile[i]];
                const int y = t / out->tiles_x * CHAIN_TILE + cell[i] / CHAIN_TILE;
                const int x = t % out->tiles_x * CHAIN_TILE + cell[i] % CHAIN_TILE;
                if (s->kind == SV_CHAIN_DECONV)
                    window(in, r->chain->zero, y / s->stride, x / s->stride, 1, 1, &from[i]);
                else
                    window(in, r->chain->zero, y * s->stride - s->pad + tap / s->kernel,
                           x * s->stride - s->pad + tap % s->kernel, 1, 1, &from[i]);
            }
            kernels->gather(a, m, tap * s->k, from, rows, s->in_channels, s->k);
        }
        if (rows > 0) {
            const char *w = s->w;
            kernels->product(c, s->n, staged(r, s, work, a, m, k),
                             w + (size_t)phase * (size_t)k * (size_t)s->n * (size_t)kernels->bytes, m, s->n,
                             k);
        }
        for (int q = 0; q < s->parts; q++) {
            const part *p = &s->part[q];
            if (!r->needed[p->out]) continue;
            float *to[MOST];
            for (int i = 0, row = 0; i < count; i++) {
                float *cells[CHAIN_CELLS];
                targets(r, p, tiles[i], every,
                        out_local ? inner + (size_t)i * CHAIN_CELLS * (size_t)out->channels : NULL, cells);
                for (; row < rows && tile[row] == i; row++) to[row] = cells[cell[row]];
            }
            if (p->add >= 0)
                for (int i = 0; i < rows; i++) {
                    const int t = tiles[tile[i]];
                    window(&r->map[p->add], r->chain->zero,
                           t / out->tiles_x * CHAIN_TILE + cell[i] / CHAIN_TILE,
                           t % out->tiles_x * CHAIN_TILE + cell[i] % CHAIN_TILE, 1, 1, &from[i]);
                }
            kernels->finish(to, p->add >= 0 ? from : NULL, c + p->column, s->n, s->bias + p->column, p->relu,
                            rows, p->channels);
        }
    }
}

void sv_chain_block(void *arg, int task, int worker)
{
    const run *r = arg;
    const item *it = r->now;
    const step *last = &r->chain->step[it->step[it->steps - 1]];
    const map *out = &r->map[last->part[0].out];
    const int first = task * r->block, count = min_int(r->block, out->count - first);
    char *work = r->workspace + (size_t)worker * r->workspace_bytes;
    float *inner = it->local >= 0 ? (float *)(void *)(work + r->offset_local) : NULL;
    void (*const begin)(void) = r->chain->matrix.begin, (*const end)(void) = r->chain->matrix.end;
    if (begin) begin();
    for (int i = 0; i < it->steps; i++) {
        const step *s = &r->chain->step[it->step[i]];
        if (s->winograd)
            winograd_block(r, s, out->list + first, count, work);
        else
            direct_block(r, s, out->list + first, count, work, inner);
    }
    if (end) end();
}
