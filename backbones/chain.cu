/* SPDX-License-Identifier: Apache-2.0
 *
 * The convolution chain on the GPU: implicit matrix products on tensor cores (perception/core/tile.cuh).
 *
 * Maps inside the chain hold 16-bit numbers, a cell's channels together: two halves per number for fp32
 * (value and remainder, three products: 2^-22 of a product is left out), one bfloat16 for bf16, one half for
 * fp16 and for tf32, whose mantissa it has. Weights are scaled by a power of two per output channel, so that their remainders stay
 * normal numbers. A value beyond a half's 65504 becomes infinite, and shows as such in the boxes. A unit of
 * work is a tile of 8 x 16 cells by 64 or 128 output channels: 128 rows of patches, gathered tap by tap
 * while they are multiplied, never stored:
 *
 *     rows: cells of the tile      for each 64 input channels, for each tap:
 *     +----+   +----------+          A = the cells the tap looks at, zero outside the map
 *     | A  | x | W(tap)   |          B = the tap's weights, packed tile by tile at load
 *     +----+   +----------+          sums += A B
 *
 * Most of a BEV map is empty, and there the chain answers with what it answers to an empty map, which
 * depends on the distance to the border alone and is computed once, at load, on maps whose middle is cut
 * out. Per frame only tiles that a voxel reaches are computed ("live"); of the others those that a live
 * tile of the next layer looks at ("ring") are copied from that response, and all of them where the caller
 * asked for the map. A cell's sums have one order wherever it lies, so both ways give the same bytes.
 *
 *     bits of voxel cells -> live tiles of every slot, by the rectangles they depend on -> ring tiles, lists
 */
#include "perception/core/tile.cuh"

#include <stdlib.h>
#include <string.h>

#include <type_traits>

namespace {

enum {
    SLOTS = SV_CHAIN_NODES + 1,
    MAX_KERNEL = 7,
    MAX_STRIDE = 4,
    TILE_Y = 8,
    TILE_X = 16,
    TILE_ROWS = TILE_Y * TILE_X,
    THREADS = 256,
    MAX_PARTS = 16, /* nodes of one step */
    MAX_READERS = 16,
    LIST_HEAD = 2, /* counts of live and of ring tiles, then the tiles */
    LIST_THREADS = 1024,
    EMPTY_ALIGN = 8, /* channels are padded to this: 16 bytes */
};

/* One axis of a slot: cells first..first+period-1 of the small map stand for first..first+period+removed-1
 * of the full. */
struct axis {
    int size, small, first, period, removed;
};

struct slot {
    int channels, pitch, writers; /* pitch: numbers of a cell, channels rounded up */
    bool read;                    /* by a later node */
    axis y, x;
    void *empty;        /* response to an empty map, [small cells][planes][pitch]; NULL for slot 0: zeros */
    float *empty_dense; /* the same in float32 of a slot nobody reads */
    int reach;          /* where the slot's tiles begin in the chain's table 'reach' */
    int readers;
    int touch[MAX_READERS]; /* per reader: where its ranges begin in 'touch' */
    struct {
        int step, part;
        bool adds; /* reads it as what it adds, not as its input */
    } reader[MAX_READERS];
    size_t offset; /* of its map in the run's memory, per sample */
};

struct part { /* a node within a step */
    int out, out_first, channels, column, add;
    bool relu;
};

struct step {
    sv_chain_kind kind;
    int in, kernel, stride, pad, taps, slabs, phases, columns, n_tiles;
    int parts;
    part part[MAX_PARTS];
    void *w;
    float *bias;
};

} // namespace

struct sv_chain {
    sv_precision precision;
    int planes, columns; /* 16-bit planes of a number; output channels of a tile */
    int multiprocessors;
    int slots, steps;
    slot slot[SLOTS];
    step step[SV_CHAIN_NODES];
    int16_t *reach, *touch; /* device; see below */
    size_t bytes;           /* of a sample's maps */
};

namespace {

int round_up(int value, int to)
{
    return (value + to - 1) / to * to;
}
int tiles(int cells, int tile)
{
    return (cells + tile - 1) / tile;
}
size_t cell_bytes(const sv_chain *chain, const slot *s)
{
    return (size_t)chain->planes * (size_t)s->pitch * 2;
}

/* ---- geometry ------------------------------------------------------------------------------------------ */

/* How a slot's axis relates to the input's: 'down' input cells are 'up' cells of the slot; from 'low' to
 * 'high' a cell's response to an empty map does not depend on the border. */
struct scale {
    int64_t up, down, low, high;
    bool known;
};

int64_t greatest_divisor(int64_t a, int64_t b)
{
    return b == 0 ? a : greatest_divisor(b, a % b);
}
int64_t ceil_div(int64_t a, int64_t b)
{
    return a >= 0 ? (a + b - 1) / b : -(-a / b);
}
int pad_of(const sv_chain_node *n)
{
    return n->kind == SV_CHAIN_CONV && n->kernel % 2 ? n->kernel / 2 : 0;
}

scale scale_out(const sv_chain_node *n, scale in)
{
    scale out = in;
    if (n->kind == SV_CHAIN_DECONV) {
        out.up *= n->stride;
        out.low *= n->stride;
        out.high *= n->stride;
    } else {
        out.down *= n->stride;
        out.low = ceil_div(in.low + pad_of(n), n->stride);
        out.high = ceil_div(in.high + pad_of(n) - n->kernel + 1, n->stride);
    }
    const int64_t divisor = greatest_divisor(out.up, out.down);
    out.up /= divisor;
    out.down /= divisor;
    return out;
}

int size_out(const sv_chain_node *n, int in)
{
    if (n->kind == SV_CHAIN_DECONV) return in * n->stride;
    const int padded = in + 2 * pad_of(n);
    return padded < n->kernel ? 0 : (padded - n->kernel) / n->stride + 1;
}

sv_status check_node(sv_ctx *c, const sv_chain *chain, const sv_chain_def *def, int number)
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
    for (int j = 0; j < number; j++) {
        const sv_chain_node *o = &def->nodes[j];
        SV_CHECK(c,
                 o->out != n->out || o->out_first + o->out_channels <= n->out_first ||
                     n->out_first + n->out_channels <= o->out_first,
                 SV_BAD_SHAPE, "chain: nodes %d and %d write the same channels of slot %d", j, number,
                 n->out);
    }
    return SV_OK;
}

/* Slots with their channels and sizes along both axes, from the nodes. */
sv_status find_slots(sv_ctx *c, sv_chain *chain, const sv_chain_def *def, scale (*scales)[2])
{
    slot *first = &chain->slot[0];
    first->channels = def->in_channels;
    first->y.size = def->height;
    first->x.size = def->width;
    first->writers = 1;
    scales[0][0] = {1, 1, 0, def->height, true};
    scales[0][1] = {1, 1, 0, def->width, true};
    chain->slots = 1;
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        SV_TRY(check_node(c, chain, def, i));
        slot *in = &chain->slot[n->in], *out = &chain->slot[n->out];
        const int y = size_out(n, in->y.size), x = size_out(n, in->x.size);
        SV_CHECK(c, y >= 1 && x >= 1 && y <= 1 << 14 && x <= 1 << 14, SV_BAD_SHAPE,
                 "chain: node %d makes a map of %d x %d", i, y, x);
        SV_CHECK(c, out->writers == 0 || (out->y.size == y && out->x.size == x), SV_BAD_SHAPE,
                 "chain: node %d makes %d x %d for slot %d of %d x %d", i, y, x, n->out, out->y.size,
                 out->x.size);
        out->y.size = y;
        out->x.size = x;
        out->writers++;
        if (n->out_first + n->out_channels > out->channels) out->channels = n->out_first + n->out_channels;
        if (n->out >= chain->slots) chain->slots = n->out + 1;
        in->read = true;
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
            slot *add = &chain->slot[n->add];
            add->read = true;
            SV_CHECK(c, add->channels == n->out_channels && add->y.size == y && add->x.size == x,
                     SV_BAD_SHAPE, "chain: node %d adds slot %d of %d x %d x %d to %d x %d x %d", i, n->add,
                     add->y.size, add->x.size, add->channels, y, x, n->out_channels);
        }
    }
    for (int v = 0; v < chain->slots; v++) {
        SV_CHECK(c, chain->slot[v].writers > 0, SV_BAD_SHAPE, "chain: no node writes slot %d", v);
        chain->slot[v].pitch = round_up(chain->slot[v].channels, EMPTY_ALIGN);
    }
    return SV_OK;
}

/* Cut out the middle of the map, in units that keep all slots' strides in step. */
void find_middle(sv_chain *chain, const scale (*scales)[2], int which)
{
    int64_t unit = 1, from = 0, to = INT64_MAX;
    for (int v = 0; v < chain->slots; v++) {
        const scale *s = &scales[v][which];
        unit = unit / greatest_divisor(unit, s->down) * s->down;
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
        a->first = (int)(from * s->up / s->down);
        a->period = (int)(unit * s->up / s->down);
        a->removed = (int)(removed * s->up / s->down);
        a->small = a->size - a->removed;
    }
}

/* Gather the nodes into steps: nodes with the same input and geometry are one product. */
sv_status find_steps(sv_ctx *c, sv_chain *chain, const sv_chain_def *def)
{
    bool done[SV_CHAIN_NODES] = {};
    for (int i = 0; i < def->node_count; i++) {
        if (done[i]) continue;
        const sv_chain_node *n = &def->nodes[i];
        step *s = &chain->step[chain->steps++];
        s->kind = n->kind;
        s->in = n->in;
        s->kernel = n->kernel;
        s->stride = n->stride;
        s->pad = pad_of(n);
        s->taps = n->kind == SV_CHAIN_CONV ? n->kernel * n->kernel : 1;
        s->phases = n->kind == SV_CHAIN_DECONV ? n->stride * n->stride : 1;
        s->slabs = tiles(n->in_channels, SV_TILE_K);
        for (int j = i; j < def->node_count && s->parts < MAX_PARTS; j++) {
            const sv_chain_node *o = &def->nodes[j];
            const bool alike =
                o->in == n->in && o->kind == n->kind && o->kernel == n->kernel && o->stride == n->stride;
            const bool alone = o->add < 0 && chain->slot[o->out].writers == 1;
            if (j > i && (done[j] || !alike || !alone || n->add >= 0 || chain->slot[n->out].writers != 1))
                continue;
            done[j] = true;
            part *p = &s->part[s->parts++];
            p->out = o->out;
            p->out_first = o->out_first;
            p->channels = o->out_channels;
            p->column = s->columns;
            p->add = o->add;
            p->relu = o->relu;
            s->columns = round_up(s->columns + o->out_channels, EMPTY_ALIGN);
        }
        s->n_tiles = tiles(s->columns, chain->columns);
    }
    for (int i = 0; i < chain->steps; i++) {
        const step *s = &chain->step[i];
        for (int q = 0; q < s->parts; q++)
            for (int k = 0; k < 2; k++) {
                const int from = k == 0 ? s->in : s->part[q].add;
                if (from < 0) continue;
                slot *read = &chain->slot[from];
                SV_CHECK(c, read->readers < MAX_READERS, SV_UNSUPPORTED,
                         "chain: more than %d nodes read slot %d", (int)MAX_READERS, from);
                read->reader[read->readers].step = i;
                read->reader[read->readers].part = q;
                read->reader[read->readers++].adds = k == 1;
            }
    }
    return SV_OK;
}

/* ---- which tiles depend on what ------------------------------------------------------------------------ */

struct span {
    int low, high; /* both included */
};

/* Input cells that cells s of slot 'v' depend on, along axis 'which' (0: y); through all paths. */
span depends_on(const sv_chain_def *def, int v, span s)
{
    if (v == 0) return s;
    span all = {INT32_MAX, INT32_MIN};
    for (int i = 0; i < def->node_count; i++) {
        const sv_chain_node *n = &def->nodes[i];
        if (n->out != v) continue;
        span in = {s.low * n->stride - pad_of(n), s.high * n->stride - pad_of(n) + n->kernel - 1};
        if (n->kind == SV_CHAIN_DECONV) in = {s.low / n->stride, s.high / n->stride};
        if (in.low < 0) in.low = 0; /* what lies outside is zero padding, but other paths may add to it */
        const span through = depends_on(def, n->in, in);
        if (through.low < all.low) all.low = through.low;
        if (through.high > all.high) all.high = through.high;
        if (n->add < 0) continue;
        const span beside = depends_on(def, n->add, s);
        if (beside.low < all.low) all.low = beside.low;
        if (beside.high > all.high) all.high = beside.high;
    }
    return all;
}

/*
 * Two tables of cell and tile ranges, in pairs (first, last):
 *   reach  per slot: for each row of tiles, then each column, the input cells they depend on
 *   touch  per slot and reader: for each row of tiles, then each column, the reader's tiles that look at them
 */
sv_status make_tables(sv_ctx *c, sv_chain *chain, const sv_chain_def *def)
{
    size_t reach = 0, touch = 0;
    for (int v = 0; v < chain->slots; v++) {
        slot *s = &chain->slot[v];
        const size_t pairs = 2 * (size_t)(tiles(s->y.size, TILE_Y) + tiles(s->x.size, TILE_X));
        s->reach = (int)reach;
        reach += pairs;
        for (int k = 0; k < s->readers; k++) {
            s->touch[k] = (int)touch;
            touch += pairs;
        }
    }
    int16_t *table = (int16_t *)malloc((reach + touch + 1) * sizeof *table);
    SV_CHECK(c, table, SV_NO_MEMORY, "chain: no memory for %zu tile ranges", reach + touch);
    for (int v = 0; v < chain->slots; v++) {
        const slot *s = &chain->slot[v];
        int16_t *out = table + s->reach;
        for (int which = 0; which < 2; which++) {
            const int size = which ? s->x.size : s->y.size, edge = which ? TILE_X : TILE_Y;
            const int input = which ? chain->slot[0].x.size : chain->slot[0].y.size;
            for (int t = 0; t < tiles(size, edge); t++) {
                span cells = {t * edge, t * edge + edge - 1};
                if (cells.high > size - 1) cells.high = size - 1;
                const span in = depends_on(def, v, cells);
                *out++ = (int16_t)(in.low < 0 ? 0 : in.low);
                *out++ = (int16_t)(in.high > input - 1 ? input - 1 : in.high);
            }
        }
        for (int k = 0; k < s->readers; k++) {
            const step *r = &chain->step[s->reader[k].step];
            const part *p = &r->part[s->reader[k].part];
            const bool added = s->reader[k].adds;
            const slot *to = &chain->slot[p->out];
            out = table + reach + s->touch[k];
            for (int which = 0; which < 2; which++) {
                const int size = which ? s->x.size : s->y.size, edge = which ? TILE_X : TILE_Y;
                const int last_tile = tiles(which ? to->x.size : to->y.size, edge) - 1;
                for (int t = 0; t < tiles(size, edge); t++) {
                    span cells = {t * edge, t * edge + edge - 1};
                    if (!added && r->kind == SV_CHAIN_DECONV) {
                        cells = {cells.low * r->stride, cells.high * r->stride + r->stride - 1};
                    } else if (!added) { /* o with o*stride - pad <= cell <= o*stride - pad + kernel - 1 */
                        cells = {(int)ceil_div(cells.low + r->pad - r->kernel + 1, r->stride),
                                 (cells.high + r->pad) / r->stride};
                    }
                    const int low = cells.low < 0 ? 0 : cells.low / edge, high = cells.high / edge;
                    *out++ = (int16_t)low;
                    *out++ = (int16_t)(high > last_tile ? last_tile : high);
                }
            }
        }
    }
    void *memory = NULL;
    sv_status status =
        sv_arena_alloc(c, c->weights, "chain tile ranges", (reach + touch + 1) * sizeof *table, &memory);
    if (status == SV_OK) status = c->device->upload(c, memory, table, (reach + touch) * sizeof *table);
    free(table); /* pageable memory: copied on return */
    chain->reach = (int16_t *)memory;
    chain->touch = chain->reach + reach;
    return status;
}

/* ---- weights ------------------------------------------------------------------------------------------- */

float weight_of(const sv_chain_node *n, int out, int in, int tap, int phase)
{
    if (n->kind == SV_CHAIN_DECONV)
        return n->w[((size_t)in * n->out_channels + out) * (n->stride * n->stride) + phase];
    return n->w[((size_t)out * n->in_channels + in) * (n->kernel * n->kernel) + tap];
}

/* One tile of weights: [planes][columns][64], swizzled as shared memory wants it. */
template <typename T>
void pack_tile(T *tile, int planes, int columns, const sv_chain_node *n, const part *p, const float *scale,
               int column0, int slab, int tap, int phase)
{
    for (int out = 0; out < p->channels; out++) {
        const int row = p->column + out - column0;
        if (row < 0 || row >= columns) continue;
        for (int k = 0; k < SV_TILE_K; k++) {
            const int in = slab * SV_TILE_K + k;
            if (in >= n->in_channels) break;
            const float w = weight_of(n, out, in, tap, phase) * scale[p->column + out];
            const int at = row * SV_TILE_K + ((k / 8) ^ (row & 7)) * 8 + k % 8;
            tile[at] = sv_narrow<T>(w);
            if (planes > 1) tile[columns * SV_TILE_K + at] = sv_narrow<T>(w - sv_widen(tile[at]));
        }
    }
}

/* A power of two that brings the largest weight of an output channel to 256..512; 1 for bfloat16, which
 * needs none. */
template <typename T> float scale_of(const sv_chain_node *n, int out)
{
    if (!std::is_same<T, __half>::value) return 1.0f;
    float most = 0;
    const int taps = n->kind == SV_CHAIN_CONV ? n->kernel * n->kernel : 1,
              phases = n->kind == SV_CHAIN_DECONV ? n->stride * n->stride : 1;
    for (int in = 0; in < n->in_channels; in++)
        for (int k = 0; k < taps * phases; k++)
            most = fmaxf(most, fabsf(weight_of(n, out, in, n->kind == SV_CHAIN_CONV ? k : 0,
                                               n->kind == SV_CHAIN_CONV ? 0 : k)));
    int exponent = 0;
    if (!(most > 0) || !isfinite(most)) return 1.0f;
    frexpf(most, &exponent); /* most = 0.5..1 times 2^exponent */
    return ldexpf(1.0f, 9 - exponent);
}

/* [phase][n tile][slab][tap] tiles; node[q] is the node behind part q. */
template <typename T>
sv_status pack_step(sv_ctx *c, const sv_chain *chain, step *s, const sv_chain_node *const *node)
{
    const int planes = chain->planes, columns = chain->columns;
    const size_t tile = (size_t)planes * columns * SV_TILE_K,
                 count = (size_t)s->phases * s->n_tiles * s->slabs * s->taps;
    T *host = (T *)calloc(count * tile, sizeof(T));
    /* bias, and the scale's inverse behind it */
    const size_t bias_count = (size_t)s->n_tiles * columns;
    float *bias = (float *)calloc(2 * bias_count, sizeof(float)), *scale = bias ? bias + bias_count : NULL;
    sv_status status =
        host && bias ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "chain: no memory for weights of %zu tiles", count);
    for (int q = 0; q < s->parts && status == SV_OK; q++) {
        T *to = host;
        for (int out = 0; out < s->part[q].channels; out++)
            scale[s->part[q].column + out] = scale_of<T>(node[q], out);
        for (int phase = 0; phase < s->phases; phase++)
            for (int n = 0; n < s->n_tiles; n++)
                for (int slab = 0; slab < s->slabs; slab++)
                    for (int tap = 0; tap < s->taps; tap++, to += tile)
                        pack_tile(to, planes, columns, node[q], &s->part[q], scale, n * columns, slab, tap,
                                  phase);
        if (node[q]->bias)
            memcpy(bias + s->part[q].column, node[q]->bias, (size_t)s->part[q].channels * sizeof(float));
    }
    if (status == SV_OK)
        for (size_t i = 0; i < bias_count; i++) scale[i] = scale[i] > 0 ? 1.0f / scale[i] : 1.0f;
    const size_t bias_bytes = 2 * bias_count * sizeof(float);
    void *memory = NULL;
    if (status == SV_OK)
        status = sv_arena_alloc(c, c->weights, "chain weights", count * tile * sizeof(T), &s->w);
    if (status == SV_OK) status = c->device->upload(c, s->w, host, count * tile * sizeof(T));
    if (status == SV_OK) status = sv_arena_alloc(c, c->weights, "chain bias", bias_bytes, &memory);
    if (status == SV_OK) status = c->device->upload(c, memory, bias, bias_bytes);
    s->bias = (float *)memory;
    free(host);
    free(bias);
    return status;
}

/* ---- lists of tiles ------------------------------------------------------------------------------------ */

/* The tiles of a slot in a run. */
struct grid_job {
    int tiles_y, tiles_x;
    int first;  /* of its tiles among all slots' flags */
    int list;   /* where its list begins among all lists */
    bool whole; /* every tile that is not live is wanted */
    int reach, readers;
    int touch[MAX_READERS], reader[MAX_READERS];
};

/*
 * Tiles of work of a transposed convolution lie on its input's grid, but it must make what its result's
 * live tiles need, and those may be live through another writer of the slot.
 */
struct work_job {
    int slot, touch, reader,
        list; /* of whose tiles; ranges of the reader's tiles; the slot written; where the list begins */
};

struct list_job {
    bool all; /* every tile is live and of work */
    int works;
    work_job work[SV_CHAIN_NODES];
    int slots, batch, words, height, width, flags;
    const int16_t *reach, *touch;
    const uint32_t *bits; /* [batch][height][words] */
    uint8_t *live;        /* [batch][flags] */
    int32_t *lists;
    grid_job grid[SLOTS]; /* 11 KiB of kernel parameters */
};

__global__ void mark_cells(uint32_t *bits, sv_tensor coords, int height, int width, int words)
{
    const int64_t row = sv_thread();
    if (row >= sv_rows(coords)) return;
    const int32_t *at = (const int32_t *)coords.data + row * coords.pitch;
    if (at[0] < 0 || at[0] >= coords.batch || at[2] < 0 || at[2] >= height || at[3] < 0 || at[3] >= width)
        return; /* counted when the map was made */
    atomicOr(&bits[((size_t)at[0] * height + at[2]) * words + at[3] / 32], 1u << at[3] % 32);
}

/* Without coordinates every cell that is not zero counts; a warp looks at one cell. */
__global__ void mark_values(uint32_t *bits, sv_tensor in, int height, int width, int words)
{
    const int64_t cell = sv_thread() / 32;
    if (cell >= in.dim[0]) return;
    const float *values = (const float *)in.data + cell * in.pitch;
    bool any = false;
    for (int i = threadIdx.x % 32; i < in.dim[1]; i += 32) any |= values[i] != 0.0f;
    if (!__any_sync(0xffffffffu, any) || threadIdx.x % 32) return;
    const int x = (int)(cell % width);
    atomicOr(&bits[cell / width * words + x / 32], 1u << x % 32);
}

__global__ void find_live(const __grid_constant__ list_job job)
{
    const int item = (int)sv_thread(), sample = blockIdx.y;
    if (item >= job.flags) return;
    int v = 0;
    while (v + 1 < job.slots && job.grid[v + 1].first <= item) v++;
    const grid_job *g = &job.grid[v];
    const int tile = item - g->first;
    const int16_t *y = job.reach + g->reach + 2 * (tile / g->tiles_x),
                  *x = job.reach + g->reach + 2 * (g->tiles_y + tile % g->tiles_x);
    const uint32_t *bits = job.bits + (size_t)sample * job.height * job.words;
    const int first = x[0] / 32, last = x[1] / 32;
    const uint32_t head = 0xffffffffu << x[0] % 32, tail = 0xffffffffu >> (31 - x[1] % 32);
    uint32_t any = 0;
    for (int row = y[0]; row <= y[1]; row++)
        for (int w = first; w <= last; w++)
            any |= bits[(size_t)row * job.words + w] & (w == first ? head : 0xffffffffu) &
                   (w == last ? tail : 0xffffffffu);
    job.live[(size_t)sample * job.flags + item] = any != 0;
}

__device__ bool is_looked_at(const list_job &job, const grid_job *g, int touch, int reader,
                             const uint8_t *live, int tile)
{
    const grid_job *to = &job.grid[reader];
    const int16_t *y = job.touch + touch + 2 * (tile / g->tiles_x),
                  *x = job.touch + touch + 2 * (g->tiles_y + tile % g->tiles_x);
    for (int i = y[0]; i <= y[1]; i++)
        for (int j = x[0]; j <= x[1]; j++)
            if (live[to->first + i * to->tiles_x + j]) return true;
    return false;
}

__device__ bool in_ring(const list_job &job, const grid_job *g, const uint8_t *live, int tile)
{
    if (g->whole) return true;
    for (int k = 0; k < g->readers; k++)
        if (is_looked_at(job, g, g->touch[k], g->reader[k], live, tile)) return true;
    return false;
}

/* One block per slot: live tiles in order, then ring tiles in order. A tile's number counts over the batch.
 * Then one block per transposed convolution: its tiles of work. */
__global__ void __launch_bounds__(LIST_THREADS) list_tiles(const __grid_constant__ list_job job)
{
    __shared__ int sums[LIST_THREADS / 32][2];
    const work_job *work = (int)blockIdx.x < job.slots ? NULL : &job.work[blockIdx.x - job.slots];
    const grid_job *g = &job.grid[work ? work->slot : blockIdx.x];
    const int count = g->tiles_y * g->tiles_x, total = count * job.batch, lane = threadIdx.x % 32,
              warp = threadIdx.x / 32;
    int32_t *list = job.lists + (work ? work->list : g->list);
    for (int kind = 0, base = 0; kind < 2; kind++) {
        const int start = base;
        for (int first = 0; first < total; first += LIST_THREADS) {
            const int item = first + threadIdx.x;
            bool wanted = false;
            if (item < total) {
                const uint8_t *live = job.live + (size_t)(item / count) * job.flags;
                const bool alive = job.all ? true
                                   : work
                                       ? is_looked_at(job, g, work->touch, work->reader, live, item % count)
                                       : live[g->first + item % count];
                wanted = kind == 0 ? alive : !alive && !work && in_ring(job, g, live, item % count);
            }
            const uint32_t ballot = __ballot_sync(0xffffffffu, wanted);
            if (lane == 0) sums[warp][0] = __popc(ballot);
            __syncthreads();
            if (warp == 0) {
                const int own = sums[lane][0];
                int sum = own;
                for (int d = 1; d < 32; d *= 2) {
                    const int before = __shfl_up_sync(0xffffffffu, sum, d);
                    if (lane >= d) sum += before;
                }
                sums[lane][1] = sum - own;
                if (lane == 31) sums[0][0] = sum; /* after every warp's own count was read */
            }
            __syncthreads();
            if (wanted) list[LIST_HEAD + base + sums[warp][1] + __popc(ballot & ((1u << lane) - 1))] = item;
            base += sums[0][0];
            __syncthreads();
        }
        if (threadIdx.x == 0) list[kind] = base - start;
    }
}

/* ---- the convolution ----------------------------------------------------------------------------------- */

struct part_job {
    void *store;       /* [batch][cells][planes][pitch]; NULL: nobody reads it */
    const void *add;   /* of the same layout; NULL: none */
    const void *empty; /* NULL with a whole run */
    const float *empty_dense;
    float *dense; /* the caller's map; NULL: not wanted */
    const int32_t *ring;
    int pitch, add_pitch, dense_pitch, empty_pitch;
    int out_first, channels, column;
    axis y, x; /* of the slot written */
    bool relu;
};

struct conv_job {
    const void *in, *w;
    const float *bias, *scale;
    const int32_t *live; /* list of the tiles of work */
    int in_height, in_width, in_channels, in_pitch;
    int work_height, work_width, work_tiles_x, work_tiles; /* of one sample */
    int kernel, stride, pad, taps, slabs, n_tiles, phases, up;
    int parts;
    part_job part[MAX_PARTS];
};

__device__ __forceinline__ int small_cell(const axis &a, int cell)
{
    if (cell < a.first) return cell;
    return cell < a.first + a.period + a.removed ? a.first + (cell - a.first) % a.period : cell - a.removed;
}

/* Copy a tile of the response to an empty map. */
template <typename T, int PLANES> __device__ void fill_tile(const part_job &p, int item)
{
    const int tiles_x = (p.x.size + TILE_X - 1) / TILE_X, count = (p.y.size + TILE_Y - 1) / TILE_Y * tiles_x;
    const int sample = item / count, tile = item % count;
    const int y0 = tile / tiles_x * TILE_Y, x0 = tile % tiles_x * TILE_X;
    if (p.store) {
        const int pieces = p.channels / 8; /* whole ones at aligned channels, else one by one */
        const bool aligned = p.channels % 8 == 0 && p.out_first % 8 == 0;
        const int per_cell = PLANES * (aligned ? pieces : p.channels);
        for (int i = threadIdx.x; i < TILE_ROWS * per_cell; i += THREADS) {
            const int row = i / per_cell, piece = i % per_cell;
            const int y = y0 + row / TILE_X, x = x0 + row % TILE_X;
            if (y >= p.y.size || x >= p.x.size) continue;
            const int64_t to = ((int64_t)sample * p.y.size + y) * p.x.size + x,
                          from = (int64_t)small_cell(p.y, y) * p.x.small + small_cell(p.x, x);
            const int unit = aligned ? pieces : p.channels, plane = piece / unit, at = piece % unit;
            if (aligned) {
                const int64_t offset = (int64_t)plane * p.pitch + p.out_first + 8 * at;
                *(uint4 *)((T *)p.store + to * PLANES * p.pitch + offset) =
                    *(const uint4 *)((const T *)p.empty + from * PLANES * p.pitch + offset);
            } else {
                const int64_t offset = (int64_t)plane * p.pitch + p.out_first + at;
                ((T *)p.store)[to * PLANES * p.pitch + offset] =
                    ((const T *)p.empty)[from * PLANES * p.pitch + offset];
            }
        }
    }
    if (!p.dense) return;
    for (int i = threadIdx.x; i < TILE_ROWS * p.channels; i += THREADS) {
        const int row = i / p.channels, channel = i % p.channels;
        const int y = y0 + row / TILE_X, x = x0 + row % TILE_X;
        if (y >= p.y.size || x >= p.x.size) continue;
        const int64_t to = ((int64_t)sample * p.y.size + y) * p.x.size + x,
                      from = (int64_t)small_cell(p.y, y) * p.x.small + small_cell(p.x, x);
        float value = 0;
        if (p.empty_dense) {
            value = p.empty_dense[from * p.empty_pitch + p.out_first + channel];
        } else {
            const T *empty = (const T *)p.empty + from * PLANES * p.pitch + p.out_first + channel;
            value = sv_widen(empty[0]);
            if (PLANES > 1) value += sv_widen(empty[p.pitch]);
        }
        p.dense[to * p.dense_pitch + p.out_first + channel] = value;
    }
}

/* One number or eight at once from the sums in shared memory to a part's maps. */
template <typename T, int PLANES, int COUNT>
__device__ __forceinline__ void put(const part_job &p, const float *sums, const float *bias,
                                    const float *scale, int64_t cell, int channel)
{
    float value[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) value[i] = fmaf(sums[i], scale[i], bias[i]);
    if (p.add) {
        const T *add = (const T *)p.add + cell * PLANES * p.add_pitch + channel;
        __align__(16) T high[COUNT], low[COUNT];
        if (COUNT == 8) {
            *(uint4 *)high = *(const uint4 *)add;
            if (PLANES > 1) *(uint4 *)low = *(const uint4 *)(add + p.add_pitch);
        } else {
            high[0] = add[0];
            if (PLANES > 1) low[0] = add[p.add_pitch];
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            value[i] += sv_widen(high[i]);
            if (PLANES > 1) value[i] += sv_widen(low[i]);
        }
    }
    if (p.relu) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) value[i] = 0.0f > value[i] ? 0.0f : value[i]; /* passes NaN on */
    }
    const int at = p.out_first + channel;
    if (p.store) {
        T *out = (T *)p.store + cell * PLANES * p.pitch + at;
        __align__(16) T high[COUNT], low[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            high[i] = sv_narrow<T>(value[i]);
            if (PLANES > 1) low[i] = sv_narrow<T>(value[i] - sv_widen(high[i]));
            /* what the next layer sees, and what a copy of the empty response gives */
            value[i] = PLANES > 1 ? sv_widen(high[i]) + sv_widen(low[i]) : sv_widen(high[i]);
        }
        if (COUNT == 8) {
            *(uint4 *)out = *(const uint4 *)high;
            if (PLANES > 1) *(uint4 *)(out + p.pitch) = *(const uint4 *)low;
        } else {
            out[0] = high[0];
            if (PLANES > 1) out[p.pitch] = low[0];
        }
    }
    if (p.dense) {
        float *out = p.dense + cell * p.dense_pitch + at;
#pragma unroll
        for (int i = 0; i < COUNT; i++) out[i] = value[i];
    }
}

template <typename T, int PLANES, int N> struct conv_shape {
    enum {
        A_BYTES = PLANES * TILE_ROWS * SV_TILE_ROW_BYTES,
        B_BYTES = PLANES * N * SV_TILE_ROW_BYTES,
        STAGES = 3,
        AHEAD = STAGES - 1, /* stages that are loaded before they are needed */
        SUM_PITCH = N + 4,
        PIPE_BYTES = STAGES * (A_BYTES + B_BYTES),
        SUM_BYTES = TILE_ROWS * SUM_PITCH * 4,
        BYTES = (PIPE_BYTES > SUM_BYTES ? PIPE_BYTES : SUM_BYTES) + 1024,
    };
};

template <typename T, int PLANES, int N>
__global__ void __launch_bounds__(THREADS, PLANES > 1 ? 1 : 2)
    conv_kernel(const __grid_constant__ conv_job job)
{
    using shape = conv_shape<T, PLANES, N>;
    extern __shared__ unsigned char dynamic[];
    const uint32_t unaligned = sv_shared_address(dynamic), base = (unaligned + 1023) & ~1023u;
    float *sums = (float *)(dynamic + (base - unaligned));
    const int tid = threadIdx.x, group = tid / 128;
    const int piece = tid % 8, first_row = tid / 8; /* loading: rows first_row + 32 i */
    const int per_tile = job.n_tiles * job.phases, steps = job.taps * job.slabs;
    const int live = job.live[0] * per_tile;

    for (int item = blockIdx.x; item < live; item += gridDim.x) {
        const int tile = job.live[LIST_HEAD + item / per_tile], n_tile = item % per_tile % job.n_tiles,
                  phase = item % per_tile / job.n_tiles;
        const int sample = tile / job.work_tiles, place = tile % job.work_tiles;
        const int y0 = place / job.work_tiles_x * TILE_Y, x0 = place % job.work_tiles_x * TILE_X;
        const T *in =
            (const T *)job.in + (int64_t)sample * job.in_height * job.in_width * PLANES * job.in_pitch;
        const unsigned char *w =
            (const unsigned char *)job.w + (int64_t)(phase * job.n_tiles + n_tile) * steps * shape::B_BYTES;
        int row_y[4], row_x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = first_row + 32 * i;
            row_y[i] = (y0 + row / TILE_X) * job.stride - job.pad;
            row_x[i] = (x0 + row % TILE_X) * job.stride - job.pad;
        }
        int slab = 0, ky = 0, kx = 0, loaded = 0; /* of the next stage to load */
        auto load = [&]() {
            if (loaded < steps) {
                const uint32_t a = base + loaded % shape::STAGES * (shape::A_BYTES + shape::B_BYTES),
                               b = a + shape::A_BYTES;
                const int channel = slab * SV_TILE_K + piece * 8;
                const int wanted = min(max((job.in_channels - channel) * 2, 0), 16);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = first_row + 32 * i, y = row_y[i] + ky, x = row_x[i] + kx;
                    const bool inside = (unsigned)y < (unsigned)job.in_height &&
                                        (unsigned)x < (unsigned)job.in_width && wanted > 0;
                    const T *from =
                        inside ? in + ((int64_t)y * job.in_width + x) * PLANES * job.in_pitch + channel : in;
                    const uint32_t to = a + row * SV_TILE_ROW_BYTES + ((piece ^ (row & 7)) << 4);
#pragma unroll
                    for (int p = 0; p < PLANES; p++)
                        sv_copy_near(to + p * TILE_ROWS * SV_TILE_ROW_BYTES,
                                     inside ? from + p * job.in_pitch : in, inside ? wanted : 0);
                }
#pragma unroll
                for (int i = tid * 16; i < shape::B_BYTES; i += THREADS * 16)
                    sv_copy_far(b + i, w + (int64_t)loaded * shape::B_BYTES + i);
                loaded++;
                if (++kx == job.kernel) {
                    kx = 0;
                    if (++ky == job.kernel) ky = 0, slab++;
                }
            }
            sv_copies_end();
        };

        float d[N / 2], total[PLANES > 1 ? N / 2 : 1];
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            d[i] = 0.0f;
            if constexpr (PLANES > 1) total[i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < shape::AHEAD; i++) load();
        for (int s = 0; s < steps; s++) {
            sv_copies_wait<shape::AHEAD - 1>();
            sv_tile_publish();
            __syncthreads(); /* also: everyone's products of stage s-1 are done, its room is free */
            const uint32_t a = base + s % shape::STAGES * (shape::A_BYTES + shape::B_BYTES) +
                               group * 64 * SV_TILE_ROW_BYTES,
                           b = base + s % shape::STAGES * (shape::A_BYTES + shape::B_BYTES) + shape::A_BYTES;
            sv_tile_begin();
            sv_tile_multiply<T, N>(d, a, b);
            if constexpr (PLANES > 1) {
                sv_tile_multiply<T, N>(d, a, b + N * SV_TILE_ROW_BYTES);
                sv_tile_multiply<T, N>(d, a + TILE_ROWS * SV_TILE_ROW_BYTES, b);
            }
            sv_tile_end();
            load(); /* while the tensor cores work */
            sv_tile_wait<0>();
            if constexpr (PLANES > 1) { /* tensor cores cut their sums off: they add up one stage only */
#pragma unroll
                for (int i = 0; i < N / 2; i++) {
                    total[i] += d[i];
                    d[i] = 0.0f;
                }
            }
        }
        if constexpr (PLANES > 1) {
#pragma unroll
            for (int i = 0; i < N / 2; i++) d[i] = total[i];
        }
        sv_copies_wait<0>();
        __syncthreads();

        const int lane = tid % 32, at_row = group * 64 + tid / 32 % 4 * 16 + lane / 4,
                  at_column = lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(float2 *)&sums[(at_row + 8 * h) * shape::SUM_PITCH + 8 * j + at_column] =
                    make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
        __syncthreads();
        const int column0 = n_tile * N;
        for (int q = 0; q < job.parts; q++) {
            const part_job &p = job.part[q];
            const int first = max(p.column, column0), last = min(p.column + p.channels, column0 + N);
            if (first >= last) continue;
            const int pieces = (last - first) / 8;
            const bool aligned = p.channels % 8 == 0 && p.out_first % 8 == 0;
            const int units = aligned ? pieces : last - first;
            for (int i = tid; i < TILE_ROWS * units; i += THREADS) {
                const int row = i / units, unit = i % units;
                int y = y0 + row / TILE_X, x = x0 + row % TILE_X;
                if (y >= job.work_height || x >= job.work_width) continue;
                y = y * job.up + phase / job.up;
                x = x * job.up + phase % job.up;
                const int64_t cell = ((int64_t)sample * p.y.size + y) * p.x.size + x;
                const int column = first + (aligned ? 8 * unit : unit);
                const float *from = &sums[row * shape::SUM_PITCH + column - column0];
                if (aligned)
                    put<T, PLANES, 8>(p, from, job.bias + column, job.scale + column, cell,
                                      column - p.column);
                else
                    put<T, PLANES, 1>(p, from, job.bias + column, job.scale + column, cell,
                                      column - p.column);
            }
        }
        __syncthreads();
    }

    for (int q = 0; q < job.parts; q++) {
        const part_job &p = job.part[q];
        if (!p.ring) continue;
        const int ring = p.ring[1], before = p.ring[0];
        for (int i = blockIdx.x; i < ring; i += gridDim.x)
            fill_tile<T, PLANES>(p, p.ring[LIST_HEAD + before + i]);
    }
}

/* The caller's float32 map as the chain holds it: tiles of the list 'wanted', live and ring. */
template <typename T, int PLANES>
__global__ void convert_input(T *out, int pitch, sv_tensor in, const int32_t *wanted, int height, int width,
                              int work_tiles, int work_tiles_x)
{
    const int count = wanted[0] + wanted[1], pieces = pitch / 8;
    for (int item = blockIdx.x; item < count; item += gridDim.x) {
        const int tile = wanted[LIST_HEAD + item], sample = tile / work_tiles, place = tile % work_tiles;
        const int y0 = place / work_tiles_x * TILE_Y, x0 = place % work_tiles_x * TILE_X;
        for (int i = threadIdx.x; i < TILE_ROWS * pieces; i += THREADS) {
            const int row = i / pieces, channel = i % pieces * 8;
            const int y = y0 + row / TILE_X, x = x0 + row % TILE_X;
            if (y >= height || x >= width) continue;
            const int64_t cell = ((int64_t)sample * height + y) * width + x;
            const float *from = (const float *)in.data + cell * in.pitch;
            __align__(16) T high[8], low[8];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float value = channel + k < in.dim[1] ? from[channel + k] : 0.0f;
                high[k] = sv_narrow<T>(value);
                if (PLANES > 1) low[k] = sv_narrow<T>(value - sv_widen(high[k]));
            }
            T *to = out + cell * PLANES * pitch + channel;
            *(uint4 *)to = *(const uint4 *)high;
            if (PLANES > 1) *(uint4 *)(to + pitch) = *(const uint4 *)low;
        }
    }
}

/* ---- running ------------------------------------------------------------------------------------------- */

struct run {
    const sv_chain *chain;
    int batch;
    bool whole; /* the response itself: small maps, every tile live, results go to the slots' 'empty' */
    char *maps;
    int32_t *lists;
    int list[SLOTS], work[SV_CHAIN_NODES]; /* of slots; of steps that are transposed */
    sv_tensor dense[SLOTS];
};

template <typename T, int PLANES, int N> sv_status allow_memory(sv_ctx *c)
{
    SV_CUDA_TRY(c, "chain",
                cudaFuncSetAttribute(conv_kernel<T, PLANES, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     conv_shape<T, PLANES, N>::BYTES));
    return SV_OK;
}

template <typename T, int PLANES, int N> void launch(const conv_job &job, int blocks, cudaStream_t stream)
{
    conv_kernel<T, PLANES, N><<<blocks, THREADS, conv_shape<T, PLANES, N>::BYTES, stream>>>(job);
}

int height_of(const run *r, const slot *s)
{
    return r->whole ? s->y.small : s->y.size;
}
int width_of(const run *r, const slot *s)
{
    return r->whole ? s->x.small : s->x.size;
}

void *map_of(const run *r, int v)
{
    const slot *s = &r->chain->slot[v];
    if (r->whole && v > 0) return s->empty;
    return r->maps + s->offset * (size_t)r->batch;
}

sv_status run_step(sv_ctx *c, const run *r, const step *s)
{
    const sv_chain *chain = r->chain;
    const slot *in = &chain->slot[s->in];
    const bool deconv = s->kind == SV_CHAIN_DECONV;
    const slot *work = deconv ? in : &chain->slot[s->part[0].out]; /* tiles of work lie on this grid */
    conv_job job = {};
    job.in = map_of(r, s->in);
    job.w = s->w;
    job.bias = s->bias;
    job.scale = s->bias + (size_t)s->n_tiles * chain->columns;
    job.live = r->lists + (deconv ? r->work[s - chain->step] : r->list[s->part[0].out]);
    job.in_height = height_of(r, in);
    job.in_width = width_of(r, in);
    job.in_channels = in->channels;
    job.in_pitch = in->pitch;
    job.work_height = height_of(r, work);
    job.work_width = width_of(r, work);
    job.work_tiles_x = tiles(job.work_width, TILE_X);
    job.work_tiles = tiles(job.work_height, TILE_Y) * job.work_tiles_x;
    job.kernel = deconv ? 1 : s->kernel;
    job.stride = deconv ? 1 : s->stride;
    job.pad = s->pad;
    job.taps = s->taps;
    job.slabs = s->slabs;
    job.n_tiles = s->n_tiles;
    job.phases = s->phases;
    job.up = deconv ? s->stride : 1;
    job.parts = s->parts;
    for (int q = 0; q < s->parts; q++) {
        const part *from = &s->part[q];
        const slot *out = &chain->slot[from->out];
        part_job *p = &job.part[q];
        p->store = out->read || (r->whole && out->empty) ? map_of(r, from->out) : NULL;
        p->add = from->add >= 0 ? map_of(r, from->add) : NULL;
        p->add_pitch = from->add >= 0 ? chain->slot[from->add].pitch : 0;
        p->pitch = out->pitch;
        p->out_first = from->out_first;
        p->channels = from->channels;
        p->column = from->column;
        p->relu = from->relu;
        p->y = out->y;
        p->x = out->x;
        if (r->whole) {
            p->y.size = out->y.small;
            p->x.size = out->x.small;
            p->dense = out->empty_dense;
            p->dense_pitch = out->channels;
        } else {
            p->empty = out->empty;
            p->empty_dense = out->empty_dense;
            p->empty_pitch = out->channels;
            p->dense = (float *)r->dense[from->out].data;
            p->dense_pitch = r->dense[from->out].pitch;
            p->ring = r->lists + r->list[from->out];
        }
    }
    const int64_t most = (int64_t)job.work_tiles * r->batch * s->n_tiles * s->phases;
    const int64_t room = (int64_t)chain->multiprocessors * (chain->planes > 1 ? 1 : 2);
    const int blocks = (int)(most < room ? most : room);
    const cudaStream_t stream = sv_cuda_stream(c);
    if (chain->planes == 1 && chain->precision != SV_BF16_MATH)
        chain->columns == 64 ? launch<__half, 1, 64>(job, blocks, stream)
                             : launch<__half, 1, 128>(job, blocks, stream);
    else if (chain->planes == 1)
        chain->columns == 64 ? launch<__nv_bfloat16, 1, 64>(job, blocks, stream)
                             : launch<__nv_bfloat16, 1, 128>(job, blocks, stream);
    else
        chain->columns == 64 ? launch<__half, 2, 64>(job, blocks, stream)
                             : launch<__half, 2, 128>(job, blocks, stream);
    return SV_CUDA_LAUNCHED(c, "chain_run");
}

/* Live and ring tiles of every slot. With 'whole' all tiles of the small maps are live. */
sv_status make_lists(sv_ctx *c, run *r, sv_tensor in, sv_tensor coords)
{
    const sv_chain *chain = r->chain;
    const cudaStream_t stream = sv_cuda_stream(c);
    list_job job = {};
    int lists = 0;
    for (int v = 0; v < chain->slots; v++) {
        const slot *s = &chain->slot[v];
        grid_job *g = &job.grid[v];
        g->tiles_y = tiles(height_of(r, s), TILE_Y);
        g->tiles_x = tiles(width_of(r, s), TILE_X);
        g->first = job.flags;
        g->list = r->list[v] = lists;
        g->whole = !sv_is_none(r->dense[v]);
        g->reach = s->reach;
        g->readers = s->readers;
        for (int k = 0; k < s->readers; k++) {
            g->touch[k] = s->touch[k];
            g->reader[k] = chain->step[s->reader[k].step].part[s->reader[k].part].out;
        }
        job.flags += g->tiles_y * g->tiles_x;
        lists += LIST_HEAD + g->tiles_y * g->tiles_x * r->batch;
    }
    for (int v = 0; v < chain->slots; v++) {
        const slot *s = &chain->slot[v];
        for (int k = 0; k < s->readers; k++) {
            const int reader = s->reader[k].step;
            if (s->reader[k].adds || chain->step[reader].kind != SV_CHAIN_DECONV || s->reader[k].part > 0)
                continue;
            work_job *w = &job.work[job.works++];
            w->slot = v;
            w->touch = s->touch[k];
            w->reader = job.grid[v].reader[k];
            w->list = r->work[reader] = lists;
            lists += LIST_HEAD + job.grid[v].tiles_y * job.grid[v].tiles_x * r->batch;
        }
    }
    job.all = r->whole;
    job.slots = chain->slots;
    job.batch = r->batch;
    job.height = chain->slot[0].y.size;
    job.width = chain->slot[0].x.size;
    job.words = (job.width + 31) / 32;
    job.reach = chain->reach;
    job.touch = chain->touch;
    const size_t bits = (size_t)r->batch * job.height * job.words * sizeof(uint32_t),
                 flags = (size_t)r->batch * job.flags;
    void *cells = NULL, *live = NULL, *lists_memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain cells", bits, &cells));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain live tiles", flags, &live));
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "chain tile lists", (size_t)lists * sizeof(int32_t), &lists_memory));
    job.bits = (const uint32_t *)cells;
    job.live = (uint8_t *)live;
    job.lists = r->lists = (int32_t *)lists_memory;
    if (!r->whole) {
        SV_CUDA_TRY(c, "chain_run", cudaMemsetAsync(cells, 0, bits, stream));
        if (sv_is_none(coords))
            mark_values<<<sv_cuda_blocks((int64_t)in.dim[0] * 32), SV_CUDA_THREADS, 0, stream>>>(
                (uint32_t *)cells, in, job.height, job.width, job.words);
        else
            mark_cells<<<sv_cuda_blocks(coords.dim[0]), SV_CUDA_THREADS, 0, stream>>>(
                (uint32_t *)cells, coords, job.height, job.width, job.words);
        const dim3 blocks(sv_cuda_blocks(job.flags), (unsigned)r->batch);
        find_live<<<blocks, SV_CUDA_THREADS, 0, stream>>>(job);
    }
    list_tiles<<<chain->slots + job.works, LIST_THREADS, 0, stream>>>(job);
    return SV_CUDA_LAUNCHED(c, "chain_run");
}

/* Where each slot's map lies while it is needed: from the step that writes it to the last that reads it. */
void place_maps(sv_chain *chain)
{
    int from[SLOTS], to[SLOTS], order[SLOTS];
    size_t size[SLOTS];
    for (int v = 0; v < chain->slots; v++) {
        const slot *s = &chain->slot[v];
        from[v] = v == 0 ? -1 : SV_CHAIN_NODES;
        to[v] = v == 0 ? 0 : -1;
        size[v] = s->read ? ((size_t)s->y.size * s->x.size * cell_bytes(chain, s) + 1023) / 1024 * 1024 : 0;
        order[v] = v;
    }
    for (int i = 0; i < chain->steps; i++) {
        const step *s = &chain->step[i];
        if (to[s->in] < i) to[s->in] = i;
        for (int q = 0; q < s->parts; q++) {
            const part *p = &s->part[q];
            if (p->add >= 0 && to[p->add] < i) to[p->add] = i;
            if (from[p->out] > i) from[p->out] = i;
            if (to[p->out] < i) to[p->out] = i;
        }
    }
    for (int i = 1; i < chain->slots; i++) /* the largest first */
        for (int k = i; k > 0 && size[order[k]] > size[order[k - 1]]; k--) {
            const int swap = order[k];
            order[k] = order[k - 1];
            order[k - 1] = swap;
        }
    chain->bytes = 0;
    for (int i = 0; i < chain->slots; i++) {
        const int v = order[i];
        size_t at = 0;
        for (bool moved = true; moved;) { /* past every map that is needed at the same time */
            moved = false;
            for (int k = 0; k < i; k++) {
                const int u = order[k];
                const size_t begin = chain->slot[u].offset;
                if (to[u] < from[v] || to[v] < from[u] || begin + size[u] <= at || at + size[v] <= begin)
                    continue;
                at = begin + size[u];
                moved = true;
            }
        }
        chain->slot[v].offset = at;
        if (at + size[v] > chain->bytes) chain->bytes = at + size[v];
    }
}

/* Every slot's response to an empty map, on the small maps. */
sv_status find_empty_response(sv_ctx *c, sv_chain *chain)
{
    for (int v = 1; v < chain->slots; v++) {
        slot *s = &chain->slot[v];
        const size_t cells = (size_t)s->y.small * s->x.small;
        void *memory = NULL;
        if (s->read) {
            SV_TRY(
                sv_arena_alloc(c, c->weights, "chain empty response", cells * cell_bytes(chain, s), &memory));
            s->empty = memory;
        } else {
            SV_TRY(sv_arena_alloc(c, c->weights, "chain empty response",
                                  cells * (size_t)s->channels * sizeof(float), &memory));
            s->empty_dense = (float *)memory;
        }
    }
    const sv_mark mark = sv_arena_mark(&c->scratch);
    run r = {};
    r.chain = chain;
    r.batch = 1;
    r.whole = true;
    const slot *in = &chain->slot[0];
    const size_t bytes = (size_t)in->y.small * in->x.small * cell_bytes(chain, in);
    void *zeros = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain empty map", bytes, &zeros));
    SV_CUDA_TRY(c, "chain_prepare", cudaMemsetAsync(zeros, 0, bytes, sv_cuda_stream(c)));
    r.maps = (char *)zeros - in->offset;
    SV_TRY(make_lists(c, &r, SV_NONE, SV_NONE));
    for (int i = 0; i < chain->steps; i++) SV_TRY(run_step(c, &r, &chain->step[i]));
    SV_TRY(c->device->queue_wait(c));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status check_maps(sv_ctx *c, const sv_chain *chain, int batch, sv_tensor in, sv_tensor coords,
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
    return SV_OK;
}

} // namespace

sv_status sv_cuda_chain_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def)
{
    SV_CHECK(c, c->weights, SV_INTERNAL, "chain: prepared outside model loading");
    void *memory = NULL;
    SV_TRY(sv_arena_describe(c, c->weights, sizeof(sv_chain), &memory));
    sv_chain *chain = (sv_chain *)memory;
    chain->precision = c->precision;
    chain->planes = c->precision == SV_FP32 ? 2 : 1; /* one half float has TF32's mantissa */
    int widest = 0;
    for (int i = 0; i < def->node_count; i++)
        if (def->nodes[i].out_channels > widest) widest = def->nodes[i].out_channels;
    chain->columns = widest <= 64 ? 64 : 128;
    SV_CUDA_TRY(
        c, "chain_prepare",
        cudaDeviceGetAttribute(&chain->multiprocessors, cudaDevAttrMultiProcessorCount, c->device_index));
    SV_TRY((allow_memory<__half, 2, 64>(c)));
    SV_TRY((allow_memory<__half, 2, 128>(c)));
    SV_TRY((allow_memory<__nv_bfloat16, 1, 64>(c)));
    SV_TRY((allow_memory<__nv_bfloat16, 1, 128>(c)));
    SV_TRY((allow_memory<__half, 1, 64>(c)));
    SV_TRY((allow_memory<__half, 1, 128>(c)));
    scale scales[SLOTS][2] = {};
    SV_TRY(find_slots(c, chain, def, scales));
    for (int a = 0; a < 2; a++) find_middle(chain, scales, a);
    SV_TRY(find_steps(c, chain, def));
    SV_TRY(make_tables(c, chain, def));
    for (int i = 0; i < chain->steps; i++) {
        step *s = &chain->step[i];
        const sv_chain_node *nodes[MAX_PARTS] = {};
        for (int q = 0; q < s->parts; q++)
            for (int j = 0; j < def->node_count; j++)
                if (def->nodes[j].out == s->part[q].out && def->nodes[j].out_first == s->part[q].out_first)
                    nodes[q] = &def->nodes[j];
        if (c->precision != SV_BF16_MATH)
            SV_TRY(pack_step<__half>(c, chain, s, nodes));
        else
            SV_TRY(pack_step<__nv_bfloat16>(c, chain, s, nodes));
    }
    place_maps(chain);
    SV_TRY(find_empty_response(c, chain));
    *out = chain;
    return SV_OK;
}

sv_status sv_cuda_chain_run(sv_ctx *c, const sv_chain *chain, int batch, sv_tensor in, sv_tensor coords,
                            const sv_chain_output *outputs, int count)
{
    SV_TRY(check_maps(c, chain, batch, in, coords, outputs, count));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    run r = {};
    r.chain = chain;
    r.batch = batch;
    for (int i = 0; i < count; i++) r.dense[outputs[i].slot] = outputs[i].map;
    void *maps = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chain maps", chain->bytes * (size_t)batch, &maps));
    r.maps = (char *)maps;
    SV_TRY(make_lists(c, &r, in, coords));

    const slot *s = &chain->slot[0];
    const int tiles_x = tiles(s->x.size, TILE_X), count_tiles = tiles(s->y.size, TILE_Y) * tiles_x;
    const int room = 8 * chain->multiprocessors, most = count_tiles * batch,
              blocks = most < room ? most : room;
    const cudaStream_t stream = sv_cuda_stream(c);
    const int32_t *wanted = r.lists + r.list[0];
    void *to = map_of(&r, 0);
    if (chain->planes == 1 && chain->precision != SV_BF16_MATH)
        convert_input<__half, 1><<<blocks, THREADS, 0, stream>>>((__half *)to, s->pitch, in, wanted,
                                                                 s->y.size, s->x.size, count_tiles, tiles_x);
    else if (chain->planes == 1)
        convert_input<__nv_bfloat16, 1><<<blocks, THREADS, 0, stream>>>(
            (__nv_bfloat16 *)to, s->pitch, in, wanted, s->y.size, s->x.size, count_tiles, tiles_x);
    else
        convert_input<__half, 2><<<blocks, THREADS, 0, stream>>>((__half *)to, s->pitch, in, wanted,
                                                                 s->y.size, s->x.size, count_tiles, tiles_x);
    for (int i = 0; i < chain->steps; i++) SV_TRY(run_step(c, &r, &chain->step[i]));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "chain_run");
}
