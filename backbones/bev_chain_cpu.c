/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolution chains on the CPU.
 *
 * A map is cut into tiles of 4x4 cells; only tiles that hold something are stored, [tile][16][channels]. A
 * cell is 'live' when an occupied cell of the input lies in its receptive field. Every other cell has the
 * value that an empty input gives it, which depends only on where the map's border is: prepare() computes it
 * once, on a map whose middle (where all cells are alike, but for a period) is cut out, and run() reads it
 * from there. So
 *
 *     live cells   computed in blocks of tiles that hold one (3x3, stride 1: Winograd F(4,3); otherwise
 *                  products of gathered rows)
 *     other cells  copied within such tiles, not even stored elsewhere
 *
 * and a cell's bytes depend on its patch alone, not on which tiles run with it, on threads or on the batch.
 *
 * Steps: nodes that read the same slot with the same geometry become one product with all their columns. A
 * slot made and read by pointwise nodes only (KITTI's 512 channels between the deblocks and the 1x1 heads)
 * is never stored: its makers and readers run together on blocks of tiles.
 */
#include "backbones/bev_chain.h"
#include "backbones/chain_kernels.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <string.h>

SV_SIMD_TABLE(sv_chain_kernels);

enum {
    SLOTS = SV_CHAIN_NODES + 1,
    BLOCK_TILES = 96,          /* most tiles of a block */
    BLOCK_BYTES = 1650 * 1024, /* of A in a block: most of a second-level cache */
    STREAM_BYTES = 6 << 20,    /* of Winograd weights that matrix tiles in three parts are good for */
    MAX_KERNEL = 7,
    MAX_STRIDE = 4,
};

/* One axis of a slot. In tiles: first..first+period-1 stand for first..first+period+removed-1 of the full
 * map. */
typedef struct axis {
    int size, small; /* cells of the full map and of the map for the empty response */
    int first, period, removed;
    int low, high; /* cells of the small map that are alike, but for the period; none when low >= high */
} axis;

typedef struct slot {
    int channels, writers;
    axis y, x;
    float *empty; /* response to an empty map [small tiles][16][channels]; slot 0: one row of zeros */
} slot;

typedef struct part { /* a node within a step */
    int out, out_first, channels, column, add;
    bool relu;
} part;

typedef struct step {
    sv_chain_kind kind;
    bool winograd;
    const sv_chain_kernels *kernels;
    int in, in_channels, kernel, stride, pad;
    int k, n; /* padded; k of one tap */
    int parts;
    part part[SV_CHAIN_NODES];
    void *w;     /* Winograd [36][k, n], else [phases][taps*k, n], packed */
    float *bias; /* [n] */
} step;

struct sv_chain {
    sv_chain_kernels vector, matrix;
    bool skip;
    int slots, steps;
    slot slot[SLOTS];
    step step[SV_CHAIN_NODES];
    float *zero; /* a row of zeros as long as any slot's */
};

static int round_up(int value, int to)
{
    return (value + to - 1) / to * to;
}
static int tiles_of(int cells)
{
    return (cells + CHAIN_TILE - 1) / CHAIN_TILE;
}
static int taps_of(const step *s)
{
    return s->kind == SV_CHAIN_CONV ? s->kernel * s->kernel : 1;
}
static int phases_of(const step *s)
{
    return s->kind == SV_CHAIN_DECONV ? s->stride * s->stride : 1;
}
static int max_int(int a, int b)
{
    return a > b ? a : b;
}
static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* ---- maps during a run -------------------------------------------------------------------------------- */

typedef struct map {
    int height, width, tiles_y, tiles_x, channels;
    uint8_t *live;        /* [height*width] */
    float **tile;         /* [tiles] first cell of a stored tile; NULL: not stored */
    ptrdiff_t row, cell;  /* floats between rows and cells of a stored tile */
    int32_t *list, count; /* tiles with live cells */
    const float *empty;
    int empty_tiles_x;
    ptrdiff_t empty_row, empty_cell;
    const axis *y, *x;
    sv_tensor dense; /* the caller's tensor, when this slot is an output */
} map;

typedef struct item { /* what runs at once: one step, or the steps around a slot that is not stored */
    int local;        /* that slot, or -1 */
    int steps, step[SV_CHAIN_NODES];
} item;

typedef struct run {
    sv_ctx *c;
    const sv_chain *chain;
    bool whole; /* compute the response itself: every cell is live */
    map map[SLOTS];
    bool needed[SLOTS];
    int items;
    item item[SV_CHAIN_NODES];
    /* the running item */
    const item *now;
    int block;       /* tiles of a task */
    char *workspace; /* one per worker */
    size_t workspace_bytes, offset_staged, offset_c, offset_local;
} run;

static int small_tile(const axis *a, int t)
{
    if (t < a->first) return t;
    return t < a->first + a->period + a->removed ? a->first + (t - a->first) % a->period : t - a->removed;
}

/* The empty response's tile for tile (ty,tx). */
static const float *empty_tile(const map *m, int ty, int tx)
{
    if (m->empty_row == 0) return m->empty;
    const int t = small_tile(m->y, ty) * m->empty_tiles_x + small_tile(m->x, tx);
    return m->empty + (size_t)t * CHAIN_CELLS * (size_t)m->channels;
}

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

/* Floats between the 36 matrices of a block of m tiles: V[xi] lies one place further than the product M[xi],
 * which thus takes the room of V[xi-1]. */
static size_t xi_step(const step *s, int m)
{
    return (size_t)m * (size_t)max_int(s->k, s->n) + 48;
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

static void run_block(void *arg, int task, int worker)
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

/* ---- which cells are live ----------------------------------------------------------------------------- */

/* out |= in seen through the step's kernel. */
static void spread(const step *s, map *out, const map *in, uint8_t *line)
{
    if (s->kind == SV_CHAIN_DECONV) {
        for (int y = 0; y < out->height; y++)
            for (int x = 0; x < out->width; x++)
                out->live[y * out->width + x] |= in->live[y / s->stride * in->width + x / s->stride];
        return;
    }
    for (int y = 0; y < out->height; y++) {
        memset(line, 0, (size_t)(in->width + 2 * MAX_KERNEL));
        for (int k = 0; k < s->kernel; k++) {
            const int from = y * s->stride - s->pad + k;
            if (from < 0 || from >= in->height) continue;
            const uint8_t *row = in->live + (size_t)from * (size_t)in->width;
            for (int x = 0; x < in->width; x++) line[MAX_KERNEL + x] |= row[x];
        }
        uint8_t *to = out->live + (size_t)y * (size_t)out->width;
        for (int k = 0; k < s->kernel; k++) {
            const uint8_t *from = line + MAX_KERNEL - s->pad + k;
            if (s->stride == 1)
                for (int x = 0; x < out->width; x++) to[x] |= from[x];
            else
                for (int x = 0; x < out->width; x++) to[x] |= from[x * s->stride];
        }
    }
}

static void list_tiles(map *m, bool all)
{
    m->count = 0;
    for (int ty = 0; ty < m->tiles_y; ty++)
        for (int tx = 0; tx < m->tiles_x; tx++) {
            const int h = min_int(CHAIN_TILE, m->height - ty * CHAIN_TILE),
                      w = min_int(CHAIN_TILE, m->width - tx * CHAIN_TILE);
            bool any = all;
            for (int i = 0; i < h && !any; i++)
                for (int j = 0; j < w; j++)
                    any |= m->live[(ty * CHAIN_TILE + i) * m->width + tx * CHAIN_TILE + j] != 0;
            if (any) m->list[m->count++] = ty * m->tiles_x + tx;
        }
}

typedef struct scan {
    const float *rows;
    ptrdiff_t pitch;
    int channels, width;
    uint8_t *live;
} scan;

/* Live cells of one map row: those with a number that is not zero. */
static void scan_row(void *arg, int task, int worker)
{
    (void)worker;
    const scan *s = arg;
    for (int x = 0; x < s->width; x++) {
        const int64_t at = (int64_t)task * s->width + x;
        const float *row = s->rows + at * s->pitch;
        int found = 0;
        for (int ch = 0; ch < s->channels; ch++) found |= row[ch] != 0.0f;
        s->live[at] = (uint8_t)found;
    }
}

/* ---- the order of work -------------------------------------------------------------------------------- */

static bool pointwise(const step *s)
{
    return s->kind == SV_CHAIN_DECONV || (s->kernel == 1 && s->stride == 1);
}

/* Whether slot v can live within blocks: made and read by pointwise steps only, and wanted nowhere else. */
static bool is_local(const run *r, int v)
{
    const sv_chain *chain = r->chain;
    if (v == 0 || r->whole || !sv_is_none(r->map[v].dense) || !r->needed[v]) return false;
    int readers = 0, last_writer = -1;
    for (int i = 0; i < chain->steps; i++) {
        const step *s = &chain->step[i];
        bool writes = false;
        for (int q = 0; q < s->parts; q++) {
            writes |= s->part[q].out == v;
            if (s->part[q].add == v) return false;
            if (s->in == v && (s->part[q].add >= 0 || chain->slot[s->part[q].out].writers != 1)) return false;
        }
        if (writes) {
            if (!pointwise(s) || s->parts != 1) return false;
            for (int j = 0; j < r->items; j++)
                if (r->item[j].local == s->in) return false;
            last_writer = i;
        }
        if (s->in == v) {
            if (!pointwise(s) || s->kind != SV_CHAIN_CONV || last_writer < 0) return false;
            readers++;
        }
    }
    return readers > 0;
}

static bool step_needed(const run *r, const step *s)
{
    for (int q = 0; q < s->parts; q++)
        if (r->needed[s->part[q].out]) return true;
    return false;
}

static void arrange(run *r)
{
    const sv_chain *chain = r->chain;
    for (int i = chain->steps - 1; i >= 0; i--) {
        const step *s = &chain->step[i];
        for (int q = 0; q < s->parts; q++)
            if (r->needed[s->part[q].out]) {
                r->needed[s->in] = true;
                if (s->part[q].add >= 0) r->needed[s->part[q].add] = true;
            }
    }
    bool done[SV_CHAIN_NODES] = {false};
    for (int i = 0; i < chain->steps; i++) {
        const step *s = &chain->step[i];
        if (done[i] || !step_needed(r, s)) continue;
        item *it = &r->item[r->items];
        *it = (item){.local = -1, .steps = 1, .step = {i}};
        const int v = s->part[0].out;
        if (!is_local(r, v)) {
            r->items++;
            continue;
        }
        /* The makers wait for the last of them; the readers follow at once. */
        bool last = true;
        for (int j = i + 1; j < chain->steps; j++) last &= chain->step[j].part[0].out != v;
        if (!last) continue;
        it->local = v;
        it->steps = 0;
        for (int j = 0; j < chain->steps; j++)
            if (chain->step[j].part[0].out == v) it->step[it->steps++] = j;
        for (int j = 0; j < chain->steps; j++)
            if (chain->step[j].in == v && step_needed(r, &chain->step[j])) {
                it->step[it->steps++] = j;
                done[j] = true;
            }
        r->items++;
    }
}

/* ---- memory ------------------------------------------------------------------------------------------- */

static size_t tile_bytes(const map *m)
{
    return sizeof(float) * CHAIN_CELLS * (size_t)m->channels;
}

/* Tiles of a block and the parts of its workspace; returns the bytes of one worker's. */
static size_t lay_out(run *r, const item *it)
{
    const sv_chain *chain = r->chain;
    const int total = r->map[chain->step[it->step[it->steps - 1]].part[0].out].count;
    int block = BLOCK_TILES;
    for (int i = 0; i < it->steps; i++) {
        const step *s = &chain->step[it->step[i]];
        const int rows = s->kernels->rows;
        if (s->winograd) {
            const int fit = BLOCK_BYTES / (CHAIN_PATCH * max_int(s->k, s->n) * (int)sizeof(float));
            block = min_int(block, max_int(fit / rows, 1) * rows);
            block =
                min_int(block, round_up(max_int(total / 8, 1), rows)); /* several threads on a small map */
        } else {
            const int row =
                taps_of(s) * s->k * ((int)sizeof(float) + s->kernels->bytes) + s->n * (int)sizeof(float);
            block =
                min_int(block, min_int(max_int(BLOCK_BYTES / row / CHAIN_CELLS, 1), max_int(total / 8, 1)));
        }
        if (it->local >= 0)
            block = min_int(block, max_int((int)(BLOCK_BYTES / 2 / tile_bytes(&r->map[it->local])), 1));
    }
    size_t a = 0, staged = 0, c = 0;
    for (int i = 0; i < it->steps; i++) {
        const step *s = &chain->step[it->step[i]];
        const size_t m = (size_t)round_up(s->winograd ? block : block * CHAIN_CELLS, s->kernels->rows);
        const size_t k = (size_t)(s->winograd ? s->k : taps_of(s) * s->k);
        const size_t bytes_a = sizeof(float) * (s->winograd ? (CHAIN_PATCH + 1) * xi_step(s, (int)m) : m * k);
        if (bytes_a > a) a = bytes_a;
        const size_t bytes_staged = s->kernels->stage ? m * k * (size_t)s->kernels->bytes : 0;
        if (bytes_staged > staged) staged = bytes_staged;
        if (!s->winograd && m * (size_t)s->n * sizeof(float) > c) c = m * (size_t)s->n * sizeof(float);
    }
    r->block = block;
    r->offset_staged = (a + 255) / 256 * 256;
    r->offset_c = r->offset_staged + (staged + 255) / 256 * 256;
    r->offset_local = r->offset_c + (c + 255) / 256 * 256;
    const size_t inner = it->local >= 0 ? (size_t)block * tile_bytes(&r->map[it->local]) : 0;
    return (r->offset_local + inner + 4095) / 4096 * 4096;
}

static sv_status take(sv_ctx *c, const char *name, size_t bytes, void *out)
{
    return sv_arena_alloc(c, &c->scratch, name, bytes, (void **)out);
}

/* Place the stored tiles of all slots: a slot lives from the first item that writes it to the last that
 * reads it. */
static sv_status place_tiles(run *r)
{
    const sv_chain *chain = r->chain;
    int first[SLOTS], last[SLOTS];
    size_t offset[SLOTS], size[SLOTS], total = 0;
    for (int v = 0; v < chain->slots; v++) first[v] = -1, last[v] = -1, size[v] = 0, offset[v] = 0;
    for (int i = 0; i < r->items; i++)
        for (int j = 0; j < r->item[i].steps; j++) {
            const step *s = &chain->step[r->item[i].step[j]];
            last[s->in] = i;
            for (int q = 0; q < s->parts; q++) {
                const part *p = &s->part[q];
                if (!r->needed[p->out] || p->out == r->item[i].local) continue;
                if (first[p->out] < 0) first[p->out] = i;
                last[p->out] = i;
                if (p->add >= 0) last[p->add] = i;
            }
        }
    int order[SLOTS],
        count = 0; /* the largest first, as early as those before allow: near the least memory */
    for (int v = 1; v < chain->slots; v++) {
        if (first[v] < 0 || !sv_is_none(r->map[v].dense)) continue;
        size[v] = (size_t)r->map[v].count * tile_bytes(&r->map[v]);
        int at = count++;
        for (; at > 0 && size[order[at - 1]] < size[v]; at--) order[at] = order[at - 1];
        order[at] = v;
    }
    for (int i = 0; i < count; i++) {
        const int v = order[i];
        for (bool moved = true; moved;) {
            moved = false;
            for (int j = 0; j < i; j++) {
                const int u = order[j];
                if (last[u] < first[v] || last[v] < first[u]) continue;
                if (offset[u] >= offset[v] + size[v] || offset[v] >= offset[u] + size[u]) continue;
                offset[v] = offset[u] + size[u];
                moved = true;
            }
        }
        if (offset[v] + size[v] > total) total = offset[v] + size[v];
    }
    char *memory = NULL;
    SV_TRY(take(r->c, "chain maps", total, &memory));
    for (int v = 1; v < chain->slots; v++) {
        map *m = &r->map[v];
        if (size[v] == 0) continue;
        for (int i = 0; i < m->count; i++)
            m->tile[m->list[i]] = (float *)(void *)(memory + offset[v] + (size_t)i * tile_bytes(m));
    }
    return SV_OK;
}

/* ---- running ------------------------------------------------------------------------------------------ */

typedef struct fill {
    const map *map;
} fill;

/* The tiles of one row of tiles of an output that hold nothing live. */
static void fill_row(void *arg, int task, int worker)
{
    (void)worker;
    const map *m = ((const fill *)arg)->map;
    const int h = min_int(CHAIN_TILE, m->height - task * CHAIN_TILE);
    for (int tx = 0; tx < m->tiles_x; tx++) {
        if (m->tile[task * m->tiles_x + tx]) continue;
        const float *from = empty_tile(m, task, tx);
        const int w = min_int(CHAIN_TILE, m->width - tx * CHAIN_TILE);
        for (int i = 0; i < h; i++)
            for (int j = 0; j < w; j++) {
                const size_t at =
                    (size_t)(task * CHAIN_TILE + i) * (size_t)m->width + (size_t)(tx * CHAIN_TILE + j);
                memcpy(sv_f32(m->dense) + at * (size_t)m->dense.pitch,
                       from + i * m->empty_row + j * m->empty_cell, sizeof(float) * (size_t)m->channels);
            }
    }
}

static double live_cells(const map *m)
{
    double sum = 0;
    for (int i = 0; i < m->height * m->width; i++) sum += m->live[i];
    return sum;
}

/* The cell whose response to an empty map stands for that of cell i. */
static int representative(const axis *a, int i)
{
    if (i < a->low || i >= a->high) return i;
    const int first = a->first * CHAIN_TILE, period = a->period * CHAIN_TILE;
    return first + ((i - first) % period + period) % period;
}

/*
 * Where all cells are alike, Winograd's rounding still depends on what else a tile reads. One tile of the
 * middle stands for all, so that what is read for a cell does not depend on how much of the middle was cut
 * out.
 */
static void make_alike(const map *m)
{
    for (int y = 0; y < m->height; y++)
        for (int x = 0; x < m->width; x++) {
            const int from_y = representative(m->y, y), from_x = representative(m->x, x);
            if (from_y == y && from_x == x) continue;
            const float *from = m->tile[from_y / CHAIN_TILE * m->tiles_x + from_x / CHAIN_TILE];
            float *to = m->tile[y / CHAIN_TILE * m->tiles_x + x / CHAIN_TILE];
            memcpy(to + y % CHAIN_TILE * m->row + x % CHAIN_TILE * m->cell,
                   from + from_y % CHAIN_TILE * m->row + from_x % CHAIN_TILE * m->cell,
                   sizeof(float) * (size_t)m->channels);
        }
}

static sv_status run_items(run *r)
{
    sv_ctx *c = r->c;
    const sv_chain *chain = r->chain;
    for (int i = 0; i < r->items; i++) {
        const size_t bytes = lay_out(r, &r->item[i]);
        if (bytes > r->workspace_bytes) r->workspace_bytes = bytes;
    }
    SV_TRY(take(c, "chain blocks", r->workspace_bytes * (size_t)sv_pool_threads(c->pool), &r->workspace));
    for (int i = 0; i < r->items; i++) {
        const item *it = &r->item[i];
        const map *out = &r->map[chain->step[it->step[it->steps - 1]].part[0].out];
        lay_out(r, it);
        r->now = it;
        sv_pool_run(c->pool, run_block, r, (out->count + r->block - 1) / r->block);
        for (int j = 0; j < it->steps; j++) {
            const step *s = &chain->step[it->step[j]];
            for (int q = 0; q < s->parts; q++) {
                if (r->whole) make_alike(&r->map[s->part[q].out]);
                const double cells = c->profile.on ? live_cells(&r->map[s->part[q].out]) : 0;
                sv_count_work(c, 2 * cells * taps_of(s) * s->in_channels * s->part[q].channels,
                              4 * cells * (s->in_channels + s->part[q].channels));
            }
        }
    }
    return SV_OK;
}

/* Memory of a run and the sizes of its maps, of the full map or of the map for the empty response. */
static sv_status begin(sv_ctx *c, const sv_chain *chain, bool whole, run **out)
{
    SV_TRY(take(c, "chain run", sizeof(run), out));
    run *r = *out;
    memset(r, 0, sizeof *r);
    r->c = c;
    r->chain = chain;
    r->whole = whole;
    for (int v = 0; v < chain->slots; v++) {
        const slot *s = &chain->slot[v];
        map *m = &r->map[v];
        m->height = whole ? s->y.small : s->y.size;
        m->width = whole ? s->x.small : s->x.size;
        m->tiles_y = tiles_of(m->height);
        m->tiles_x = tiles_of(m->width);
        m->channels = s->channels;
        m->row = (ptrdiff_t)CHAIN_TILE * s->channels;
        m->cell = s->channels;
        m->empty = s->empty;
        m->empty_tiles_x = tiles_of(s->x.small);
        m->empty_row = v == 0 ? 0 : m->row;
        m->empty_cell = v == 0 ? 0 : m->cell;
        m->y = &s->y;
        m->x = &s->x;
        const size_t tiles = (size_t)m->tiles_y * (size_t)m->tiles_x;
        SV_TRY(take(c, "chain masks", (size_t)m->height * (size_t)m->width, &m->live));
        SV_TRY(take(c, "chain tiles", tiles * sizeof *m->tile, &m->tile));
        SV_TRY(take(c, "chain tile lists", tiles * sizeof *m->list, &m->list));
        memset(m->live, 0, (size_t)m->height * (size_t)m->width);
        memset(m->tile, 0, tiles * sizeof *m->tile);
    }
    return SV_OK;
}

/* The maps' response to an empty input, into slot.empty. */
static sv_status run_empty(sv_ctx *c, const sv_chain *chain)
{
    run *r = NULL;
    SV_TRY(begin(c, chain, true, &r));
    for (int v = 1; v < chain->slots; v++) {
        map *m = &r->map[v];
        r->needed[v] = true;
        memset(m->live, 1, (size_t)m->height * (size_t)m->width);
        list_tiles(m, true);
        for (int t = 0; t < m->count; t++)
            m->tile[t] = chain->slot[v].empty + (size_t)t * CHAIN_CELLS * (size_t)m->channels;
    }
    arrange(r);
    return run_items(r);
}

static sv_status mark_live(run *r, int sample, sv_tensor in, sv_tensor coords)
{
    sv_ctx *c = r->c;
    const sv_chain *chain = r->chain;
    map *m = &r->map[0];
    const size_t cells = (size_t)m->height * (size_t)m->width;
    const float *rows = sv_f32(in) + (size_t)sample * cells * (size_t)in.pitch;
    if (sv_is_none(coords)) {
        scan s = {
            .rows = rows, .pitch = in.pitch, .channels = m->channels, .width = m->width, .live = m->live};
        sv_pool_run(c->pool, scan_row, &s, m->height);
    } else {
        for (int i = coords.offsets[sample]; i < coords.offsets[sample + 1]; i++) {
            const int32_t *at = sv_i32(coords) + (size_t)i * (size_t)coords.pitch;
            SV_CHECK(c, at[0] == sample && at[2] >= 0 && at[2] < m->height && at[3] >= 0 && at[3] < m->width,
                     SV_BAD_INPUT,
                     "chain: row %d lies at sample %d, y %d, x %d, outside sample %d of a map of %d x %d", i,
                     at[0], at[2], at[3], sample, m->height, m->width);
            m->live[at[2] * m->width + at[3]] = 1;
        }
    }
    list_tiles(m, false);
    m->row = (ptrdiff_t)m->width * in.pitch;
    m->cell = in.pitch;
    for (int i = 0; i < m->count; i++) {
        const int y = m->list[i] / m->tiles_x * CHAIN_TILE, x = m->list[i] % m->tiles_x * CHAIN_TILE;
        m->tile[m->list[i]] =
            (float *)in.data +
            ((size_t)sample * cells + (size_t)y * (size_t)m->width + (size_t)x) * (size_t)in.pitch;
    }
    int widest = 0;
    for (int v = 0; v < chain->slots; v++) widest = max_int(widest, r->map[v].width);
    uint8_t *line = NULL;
    SV_TRY(take(c, "chain mask line", (size_t)(widest + 2 * MAX_KERNEL + MAX_STRIDE), &line));
    for (int i = 0; i < chain->steps; i++) {
        const step *s = &chain->step[i];
        for (int q = 0; q < s->parts; q++) {
            map *out = &r->map[s->part[q].out];
            spread(s, out, &r->map[s->in], line);
            if (s->part[q].add < 0) continue;
            const uint8_t *add = r->map[s->part[q].add].live;
            for (int k = 0; k < out->height * out->width; k++) out->live[k] |= add[k];
        }
    }
    for (int v = 1; v < chain->slots; v++) list_tiles(&r->map[v], !chain->skip);
    return SV_OK;
}

static sv_status run_sample(sv_ctx *c, const sv_chain *chain, int sample, sv_tensor in, sv_tensor coords,
                            const sv_chain_output *outputs, int count)
{
    run *r = NULL;
    SV_TRY(begin(c, chain, false, &r));
    SV_TRY(mark_live(r, sample, in, coords));
    for (int i = 0; i < count; i++) {
        map *m = &r->map[outputs[i].slot];
        r->needed[outputs[i].slot] = true;
        const size_t cells = (size_t)m->height * (size_t)m->width;
        m->dense = outputs[i].map;
        m->dense.data = (float *)m->dense.data + (size_t)sample * cells * (size_t)m->dense.pitch;
        m->row = (ptrdiff_t)m->width * m->dense.pitch;
        m->cell = m->dense.pitch;
        for (int k = 0; k < m->count; k++) {
            const int y = m->list[k] / m->tiles_x * CHAIN_TILE, x = m->list[k] % m->tiles_x * CHAIN_TILE;
            m->tile[m->list[k]] =
                sv_f32(m->dense) + ((size_t)y * (size_t)m->width + (size_t)x) * (size_t)m->dense.pitch;
        }
        fill f = {m};
        sv_pool_run(c->pool, fill_row, &f, m->tiles_y);
    }
    arrange(r);
    SV_TRY(place_tiles(r));
    return run_items(r);
}

sv_status sv_cpu_chain_run(sv_ctx *c, const sv_chain *chain, int batch, sv_tensor in, sv_tensor coords,
                           const sv_chain_output *outputs, int count)
{
    const slot *s = &chain->slot[0];
    SV_CHECK(c, in.dim[0] == batch * s->y.size * s->x.size && in.dim[1] == s->channels, SV_BAD_SHAPE,
             "chain: input is [%d,%d], expected %d maps of %d x %d x %d", in.dim[0], in.dim[1], batch,
             s->y.size, s->x.size, s->channels);
    SV_CHECK(c,
             sv_is_none(coords) || (coords.ndim == 2 && coords.dtype == SV_I32 && coords.dim[1] == 4 &&
                                    coords.offsets && coords.batch == batch),
             SV_BAD_SHAPE, "chain: coords are [%d,%d] of %d samples, expected [N,4] with the offsets of %d",
             coords.dim[0], coords.dim[1], coords.batch, batch);
    for (int i = 0; i < count; i++) {
        const sv_chain_output *o = &outputs[i];
        SV_CHECK(c, o->slot >= 1 && o->slot < chain->slots, SV_BAD_SHAPE, "chain: output %d is slot %d of %d",
                 i, o->slot, chain->slots);
        s = &chain->slot[o->slot];
        SV_CHECK(c,
                 o->map.ndim == 2 && o->map.dtype == SV_F32 &&
                     o->map.dim[0] == batch * s->y.size * s->x.size && o->map.dim[1] == s->channels,
                 SV_BAD_SHAPE, "chain: output %d is [%d,%d], expected %d maps of %d x %d x %d", i,
                 o->map.dim[0], o->map.dim[1], batch, s->y.size, s->x.size, s->channels);
        for (int j = 0; j < i; j++)
            SV_CHECK(c, outputs[j].slot != o->slot, SV_BAD_SHAPE, "chain: slot %d is asked for twice",
                     o->slot);
    }
    for (int b = 0; b < batch; b++) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        SV_TRY(run_sample(c, chain, b, in, coords, outputs, count));
        sv_arena_rewind(&c->scratch, mark);
    }
    return SV_OK;
}

/* ---- preparing ---------------------------------------------------------------------------------------- */

/* How the rows (or columns) of a slot relate to the input's: 'down' input cells are 'up' cells of the slot;
 * from 'low' to 'high' a cell's response to an empty map does not depend on the border. */
typedef struct scale {
    int64_t up, down, low, high;
    bool known;
} scale;

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    return b == 0 ? a : greatest_divisor(b, a % b);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

static scale scale_out(const sv_chain_node *n, scale in)
{
    scale out = in;
    if (n->kind == SV_CHAIN_DECONV) {
        out.up *= n->stride;
        out.low *= n->stride;
        out.high *= n->stride;
    } else {
        const int pad = n->kernel % 2 ? n->kernel / 2 : 0;
        out.down *= n->stride;
        out.low = ceil_div(in.low + pad, n->stride);
        out.high = ceil_div(in.high + pad - n->kernel + 1, n->stride);
    }
    const int64_t divisor = greatest_divisor(out.up, out.down);
    out.up /= divisor;
    out.down /= divisor;
    return out;
}

static int size_out(const sv_chain_node *n, int in)
{
    if (n->kind == SV_CHAIN_DECONV) return in * n->stride;
    const int pad = n->kernel % 2 ? n->kernel / 2 : 0;
    return in + 2 * pad < n->kernel ? 0 : (in + 2 * pad - n->kernel) / n->stride + 1;
}

static sv_status check_node(sv_ctx *c, const sv_chain *chain, const sv_chain_def *def, int number)
{
    const sv_chain_node *n = &def->nodes[number];
    SV_CHECK(c, n->kind == SV_CHAIN_CONV || n->kind == SV_CHAIN_DECONV, SV_UNSUPPORTED,
             "chain: node %d is of kind %d", number, n->kind);
    SV_CHECK(c, n->kernel >= 1 && n->kernel <= MAX_KERNEL && n->stride >= 1 && n->stride <= MAX_STRIDE,
             SV_UNSUPPORTED,
             "chain: node %d has a kernel of %d and a stride of %d; up to %d and %d are supported", number,
             n->kernel, n->stride, (int)MAX_KERNEL, (int)MAX_STRIDE);
    SV_CHECK(c, n->kind != SV_CHAIN_DECONV || n->kernel == n->stride, SV_UNSUPPORTED,
             "chain: transposed node %d has a kernel of %d but a stride of %d", number, n->kernel, n->stride);
    SV_CHECK(c,
             n->in >= 0 && n->in < SLOTS && n->out >= 1 && n->out < SLOTS && n->in != n->out &&
                 n->add < SLOTS && n->add != n->out,
             SV_BAD_SHAPE, "chain: node %d reads slots %d and %d and writes slot %d", number, n->in, n->add,
             n->out);
    SV_CHECK(c, n->in_channels >= 1 && n->out_channels >= 1 && n->out_first >= 0 && n->w, SV_BAD_SHAPE,
             "chain: node %d has %d input and %d output channels from %d on", number, n->in_channels,
             n->out_channels, n->out_first);
    SV_CHECK(c, chain->slot[n->in].channels == n->in_channels, SV_BAD_SHAPE,
             "chain: node %d reads %d channels, slot %d has %d", number, n->in_channels, n->in,
             chain->slot[n->in].channels);
    for (int later = number; later < def->node_count; later++) {
        const int out = def->nodes[later].out;
        SV_CHECK(c, out != n->in && out != n->add, SV_BAD_SHAPE,
                 "chain: node %d reads slot %d, which node %d writes later", number, out, later);
    }
    return SV_OK;
}

/* Slots with their channels and sizes along both axes, from the nodes. */
static sv_status find_slots(sv_ctx *c, sv_chain *chain, const sv_chain_def *def, scale (*scales)[2])
{
    chain->slot[0] =
        (slot){.channels = def->in_channels, .y.size = def->height, .x.size = def->width, .writers = 1};
    scales[0][0] = (scale){1, 1, 0, def->height, true};
    scales[0][1] = (scale){1, 1, 0, def->width, true};
    chain->slots = 1;
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        SV_TRY(check_node(c, chain, def, i));
        const slot *in = &chain->slot[n->in];
        slot *out = &chain->slot[n->out];
        const int y = size_out(n, in->y.size), x = size_out(n, in->x.size);
        SV_CHECK(c, y >= 1 && x >= 1 && y <= 1 << 14 && x <= 1 << 14, SV_BAD_SHAPE,
                 "chain: node %d makes a map of %d x %d", i, y, x);
        SV_CHECK(c, out->writers == 0 || (out->y.size == y && out->x.size == x), SV_BAD_SHAPE,
                 "chain: node %d makes %d x %d for slot %d of %d x %d", i, y, x, n->out, out->y.size,
                 out->x.size);
        out->y.size = y;
        out->x.size = x;
        out->writers++;
        out->channels = max_int(out->channels, n->out_first + n->out_channels);
        chain->slots = max_int(chain->slots, n->out + 1);
        for (int a = 0; a < 2; a++) {
            scale *to = &scales[n->out][a];
            const int sources[2] = {n->in, n->add};
            for (int k = 0; k < 2 && sources[k] >= 0; k++) {
                const scale from = k == 0 ? scale_out(n, scales[n->in][a]) : scales[n->add][a];
                if (!to->known) {
                    *to = from;
                    continue;
                }
                if (to->up != from.up || to->down != from.down) to->high = to->low; /* no common middle */
                if (from.low > to->low) to->low = from.low;
                if (from.high < to->high) to->high = from.high;
            }
        }
        if (n->add >= 0) {
            const slot *add = &chain->slot[n->add];
            SV_CHECK(c, add->channels == n->out_channels && add->y.size == y && add->x.size == x,
                     SV_BAD_SHAPE, "chain: node %d adds slot %d of %d x %d x %d to %d x %d x %d", i, n->add,
                     add->y.size, add->x.size, add->channels, y, x, n->out_channels);
        }
        for (int j = 0; j < i; j++) {
            const sv_chain_node *o = &def->nodes[j];
            SV_CHECK(c,
                     o->out != n->out || o->out_first + o->out_channels <= n->out_first ||
                         n->out_first + n->out_channels <= o->out_first,
                     SV_BAD_SHAPE, "chain: nodes %d and %d write the same channels of slot %d", j, i, n->out);
        }
    }
    for (int v = 0; v < chain->slots; v++)
        SV_CHECK(c, chain->slot[v].writers > 0, SV_BAD_SHAPE, "chain: no node writes slot %d", v);
    return SV_OK;
}

/* Cut out the middle of the map, in units that keep every slot's tiles and strides in step. */
static void find_middle(sv_chain *chain, const scale (*scales)[2], int which)
{
    int64_t unit = CHAIN_TILE, from = 0, to = INT64_MAX;
    for (int v = 0; v < chain->slots; v++) {
        const scale *s = &scales[v][which];
        unit = unit / greatest_divisor(unit, CHAIN_TILE * s->down) * CHAIN_TILE * s->down;
    }
    for (int v = 0; v < chain->slots; v++) {
        const scale *s = &scales[v][which];
        const int64_t low = ceil_div(s->low * s->down, s->up),
                      high = s->high > 0 ? s->high * s->down / s->up : 0;
        if (low > from) from = low;
        if (high < to) to = high;
    }
    from = ceil_div(from, unit) * unit;
    to = to / unit * unit;
    const int64_t removed = to - from > unit ? to - from - unit : 0;
    if (removed == 0) from = 0;
    for (int v = 0; v < chain->slots; v++) {
        const scale *s = &scales[v][which];
        axis *a = which == 0 ? &chain->slot[v].y : &chain->slot[v].x;
        a->first = (int)(from * s->up / s->down / CHAIN_TILE);
        a->period = (int)(unit * s->up / s->down / CHAIN_TILE);
        a->removed = (int)(removed * s->up / s->down / CHAIN_TILE);
        a->small = a->size - a->removed * CHAIN_TILE;
        a->low = removed == 0 ? 0 : (int)s->low;
        a->high = removed == 0 ? 0 : (int)s->high - a->removed * CHAIN_TILE;
    }
}

/*
 * Matrix tiles where there are any, unless the weights of a Winograd step are so many that reading them
 * bounds the time: in three bfloat16 parts they are half as many bytes again as in float32.
 */
static const sv_chain_kernels *choose_kernels(const sv_chain *chain, const step *s, int columns)
{
    const bool heavy = s->winograd && chain->matrix.bytes > (int)sizeof(float) &&
                       CHAIN_PATCH * s->k * columns * chain->matrix.bytes > STREAM_BYTES;
    return chain->matrix.product && !heavy ? &chain->matrix : &chain->vector;
}

/* Gather the nodes into steps. */
static void find_steps(sv_chain *chain, const sv_chain_def *def, bool winograd)
{
    bool done[SV_CHAIN_NODES] = {false};
    for (int i = 0; i < def->node_count; i++) {
        if (done[i]) continue;
        const sv_chain_node *n = &def->nodes[i];
        step *s = &chain->step[chain->steps++];
        s->kind = n->kind;
        s->in = n->in;
        s->in_channels = n->in_channels;
        s->kernel = n->kernel;
        s->stride = n->stride;
        s->pad = n->kind == SV_CHAIN_CONV && n->kernel % 2 ? n->kernel / 2 : 0;
        s->k = round_up(n->in_channels, CHAIN_SLAB);
        int columns = 0;
        for (int j = i; j < def->node_count; j++) {
            const sv_chain_node *o = &def->nodes[j];
            const bool alike =
                o->in == n->in && o->kind == n->kind && o->kernel == n->kernel && o->stride == n->stride;
            const bool alone = o->add < 0 && chain->slot[o->out].writers == 1;
            if (j > i && (done[j] || !alike || !alone || n->add >= 0 || chain->slot[n->out].writers != 1))
                continue;
            done[j] = true;
            s->part[s->parts++] = (part){.out = o->out,
                                         .out_first = o->out_first,
                                         .channels = o->out_channels,
                                         .column = columns,
                                         .add = o->add,
                                         .relu = o->relu};
            columns = round_up(columns + o->out_channels, CHAIN_ALIGN);
        }
        s->winograd = winograd && n->kind == SV_CHAIN_CONV && n->kernel == 3 && n->stride == 1 &&
                      n->in_channels >= CHAIN_ALIGN && columns >= CHAIN_ALIGN;
        s->kernels = choose_kernels(chain, s, columns);
        s->n = round_up(columns, s->kernels->columns);
    }
}

/* G g G' of a 3x3 kernel. */
static void winograd_kernel(const float *g, double u[6][6])
{
    const double a = CHAIN_POINT_A, b = CHAIN_POINT_B, fa = 1 / (2 * a * a * (a * a - b * b)),
                 fb = 1 / (2 * b * b * (b * b - a * a));
    const double rows[6][3] = {{1 / (a * a * b * b), 0, 0}, {fa, fa * a, fa * a * a},
                               {fa, -fa * a, fa * a * a},   {fb, fb * b, fb * b * b},
                               {fb, -fb * b, fb * b * b},   {0, 0, 1}};
    double half[6][3];
    for (int i = 0; i < 6; i++)
        for (int x = 0; x < 3; x++)
            half[i][x] =
                rows[i][0] * (double)g[x] + rows[i][1] * (double)g[3 + x] + rows[i][2] * (double)g[6 + x];
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++)
            u[i][j] = half[i][0] * rows[j][0] + half[i][1] * rows[j][1] + half[i][2] * rows[j][2];
}

/* Weights of one step; nodes[q] is the node behind part q. */
static sv_status pack_step(sv_ctx *c, step *s, const sv_chain_node *const *nodes)
{
    const sv_chain_kernels *kernels = s->kernels;
    const size_t k = (size_t)s->k, n = (size_t)s->n, taps = (size_t)taps_of(s), phases = (size_t)phases_of(s);
    const size_t products = s->winograd ? CHAIN_PATCH : phases * taps, bytes = (size_t)kernels->bytes;
    SV_TRY(sv_arena_alloc(c, c->weights, "chain weights", products * k * n * bytes, &s->w));
    SV_TRY(sv_arena_alloc(c, c->weights, "chain bias", n * sizeof(float), (void **)&s->bias));
    memset(s->bias, 0, n * sizeof(float));
    float *plain = NULL; /* [products][k][n] */
    SV_TRY(take(c, "chain plain weights", products * k * n * sizeof(float), &plain));
    memset(plain, 0, products * k * n * sizeof(float));
    for (int q = 0; q < s->parts; q++) {
        const part *p = &s->part[q];
        const float *w = nodes[q]->w;
        if (nodes[q]->bias) memcpy(s->bias + p->column, nodes[q]->bias, sizeof(float) * (size_t)p->channels);
        for (int out = 0; out < p->channels; out++)
            for (int in = 0; in < s->in_channels; in++) {
                float *to = plain + (size_t)in * n + (size_t)(p->column + out);
                if (s->winograd) {
                    double u[6][6];
                    winograd_kernel(w + ((size_t)out * (size_t)s->in_channels + (size_t)in) * 9, u);
                    for (size_t xi = 0; xi < CHAIN_PATCH; xi++) to[xi * k * n] = (float)u[xi / 6][xi % 6];
                } else if (s->kind == SV_CHAIN_CONV) {
                    for (size_t tap = 0; tap < taps; tap++)
                        to[tap * k * n] = w[((size_t)out * (size_t)s->in_channels + (size_t)in) * taps + tap];
                } else {
                    for (size_t phase = 0; phase < phases; phase++)
                        to[phase * k * n] =
                            w[((size_t)in * (size_t)p->channels + (size_t)out) * phases + phase];
                }
            }
    }
    const size_t count = s->winograd ? CHAIN_PATCH : phases, depth = s->winograd ? k : taps * k;
    for (size_t i = 0; i < count; i++)
        kernels->pack((char *)s->w + i * depth * n * bytes, plain + i * depth * n, (int)depth, s->n);
    return SV_OK;
}

sv_status sv_chain_cpu_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def, sv_chain_options options)
{
    SV_CHECK(c, c->weights, SV_INTERNAL, "chain: prepared outside model loading");
    sv_chain *chain = NULL;
    SV_TRY(sv_arena_alloc(c, c->weights, "chain", sizeof *chain, (void **)&chain));
    memset(chain, 0, sizeof *chain);
    chain->vector = *SV_SIMD_PICK(sv_chain_kernels);
    if (options.matrix && !sv_chain_matrix_kernels(&chain->matrix, c->precision == SV_FP32 ? 3 : 2))
        memset(&chain->matrix, 0, sizeof chain->matrix);
    chain->skip = options.skip;
    scale scales[SLOTS][2] = {{{0}}};
    SV_TRY(find_slots(c, chain, def, scales));
    for (int a = 0; a < 2; a++) find_middle(chain, (const scale(*)[2])scales, a);
    find_steps(chain, def, options.winograd);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    for (int i = 0; i < chain->steps; i++) {
        step *s = &chain->step[i];
        const sv_chain_node *nodes[SV_CHAIN_NODES];
        for (int q = 0; q < s->parts; q++)
            for (int j = 0; j < def->node_count; j++)
                if (def->nodes[j].out == s->part[q].out && def->nodes[j].out_first == s->part[q].out_first)
                    nodes[q] = &def->nodes[j];
        SV_TRY(pack_step(c, s, nodes));
        sv_arena_rewind(&c->scratch, mark);
    }
    int widest = 0;
    for (int v = 0; v < chain->slots; v++) {
        slot *s = &chain->slot[v];
        widest = max_int(widest, s->channels);
        const size_t tiles = (size_t)tiles_of(s->y.small) * (size_t)tiles_of(s->x.small);
        if (v > 0)
            SV_TRY(sv_arena_alloc(c, c->weights, "chain empty response",
                                  tiles * CHAIN_CELLS * (size_t)s->channels * sizeof(float),
                                  (void **)&s->empty));
    }
    SV_TRY(
        sv_arena_alloc(c, c->weights, "chain zeros", (size_t)widest * sizeof(float), (void **)&chain->zero));
    memset(chain->zero, 0, (size_t)widest * sizeof(float));
    chain->slot[0].empty = chain->zero;
    SV_TRY(run_empty(c, chain));
    sv_arena_rewind(&c->scratch, mark);
    *out = chain;
    return SV_OK;
}

sv_status sv_cpu_chain_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def)
{
    return sv_chain_cpu_prepare(c, out, def,
                                (sv_chain_options){.winograd = true, .matrix = true, .skip = true});
}
