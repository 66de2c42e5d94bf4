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
#include "backbones/chain_cpu_plan.h"
#include "perception/core/ops_cpu.h"

#include <string.h>

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
        memset(line, 0, (size_t)(in->width + 2 * SV_CHAIN_KERNEL));
        for (int k = 0; k < s->kernel; k++) {
            const int from = y * s->stride - s->pad + k;
            if (from < 0 || from >= in->height) continue;
            const uint8_t *row = in->live + (size_t)from * (size_t)in->width;
            for (int x = 0; x < in->width; x++) line[SV_CHAIN_KERNEL + x] |= row[x];
        }
        uint8_t *to = out->live + (size_t)y * (size_t)out->width;
        for (int k = 0; k < s->kernel; k++) {
            const uint8_t *from = line + SV_CHAIN_KERNEL - s->pad + k;
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
        sv_pool_run(c->pool, sv_chain_block, r, (out->count + r->block - 1) / r->block);
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
sv_status sv_chain_empty_response(sv_ctx *c, const sv_chain *chain)
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
    SV_TRY(take(c, "chain mask line", (size_t)(widest + 2 * SV_CHAIN_KERNEL + SV_CHAIN_STRIDE), &line));
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
    sv_chain_map maps[SLOTS];
    for (int i = 0; i < chain->slots; i++) maps[i] = map_of(&chain->slot[i]);
    SV_TRY(sv_chain_check_maps(c, maps, chain->slots, batch, in, coords, outputs, count));
    for (int b = 0; b < batch; b++) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        SV_TRY(run_sample(c, chain, b, in, coords, outputs, count));
        sv_arena_rewind(&c->scratch, mark);
    }
    return SV_OK;
}
