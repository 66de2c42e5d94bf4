/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const int row_counts[ROW_COUNTS] = {1, 3, 31, 64, 65, 300, 5000};

/* ---- random numbers ------------------------------------------------------------------------------------ */

/*
 * Shapes and what else a case is made of come from one stream, the numbers in its buffers from another: those of a
 * case that will not run are left out, and the next case is the same nevertheless.
 */
static uint64_t shape_state, number_state;
static bool numbers_wanted = true;

void seed_rng(uint64_t seed)
{
    shape_state = seed;
    number_state = ~seed;
}

/* Whether the case whose turn comes runs; it has not been made yet. */
static bool will_run(const bench *k)
{
    for (int i = 0; i < SMALL_CASES && k->turn == CHOSEN_CASES; i++)
        if (k->chosen[i] == k->number) return true;
    return k->turn == EVERY_CASE;
}

void begin_suite(bench *k, const char *name, turn how)
{
    uint64_t seed = 0xcbf29ce484222325u; /* each suite has numbers of its own, whichever run before */
    for (const char *p = name; *p; p++) seed = (seed ^ (unsigned char)*p) * 0x100000001b3u;
    seed_rng(seed);
    k->turn = how;
    k->number = 0;
    if (how == MEASURE)
        for (int i = 0; i < SMALL_CASES; i++) k->chosen[i] = -1, k->size[i] = 0;
    numbers_wanted = will_run(k);
}

static uint64_t next_of(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
uint64_t rng(void)
{
    return next_of(&shape_state);
}
int below(int n)
{
    return n > 0 ? (int)(rng() % (uint64_t)n) : 0;
}
float uniform(float from, float to)
{
    if (!numbers_wanted) return from;
    return from + (to - from) * (float)(next_of(&number_state) >> 40) / 16777216.0f;
}
float normal(void)
{
    if (!numbers_wanted) return 0;
    const double u = ((double)(next_of(&number_state) >> 11) + 1) / 9007199254740993.0,
                 v = (double)(next_of(&number_state) >> 11) / 9007199254740992.0;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* ---- cases --------------------------------------------------------------------------------------------- */

int failures, passes;
const char *current_op;

void fail(const test_case *t, const char *format, const char *what, const char *detail)
{
    printf("FAILED %s: %s: ", current_op, t->label);
    printf(format, what, detail);
    printf("\n");
    failures++;
}

size_t buffer_bytes(const buffer *b)
{
    return (size_t)b->rows * (size_t)b->pitch * sv_dtype_bytes(b->dtype);
}
void *at(const test_case *t, int i)
{
    return t->buffers[i].start + GUARD;
}
float *floats(const test_case *t, int i)
{
    return at(t, i);
}
int32_t *ints(const test_case *t, int i)
{
    return at(t, i);
}

/* A buffer of pattern bytes; returns its number. */
int add(test_case *t, const char *name, sv_dtype dtype, int rows, int columns)
{
    if (t->count == MAX_BUFFERS) abort();
    buffer *b = &t->buffers[t->count];
    *b = (buffer){.name = name,
                  .dtype = dtype,
                  .rows = rows,
                  .columns = columns,
                  .pitch = columns,
                  .offsets = WHOLE,
                  .tolerance = EXACT};
    b->start = malloc(buffer_bytes(b) + 2 * GUARD);
    if (!b->start) abort();
    memset(b->start, PATTERN, buffer_bytes(b) + 2 * GUARD);
    return t->count++;
}
int add_output(test_case *t, const char *name, int rows, int columns, int offsets, int batch,
               double tolerance)
{
    const int i = add(t, name, SV_F32, rows, columns);
    t->buffers[i].offsets = offsets;
    t->buffers[i].batch = batch;
    t->buffers[i].tolerance = tolerance;
    return i;
}
void with_offsets(test_case *t, int i, int offsets, int batch)
{
    t->buffers[i].offsets = offsets;
    t->buffers[i].batch = batch;
}

/* Prefix offsets of 'batch' samples, together at most 'capacity' rows in steps of 'unit'; samples may be
 * empty. */
int add_offsets(test_case *t, int capacity, int batch, int unit)
{
    const int i = add(t, "offsets", SV_I32, 1, batch + 1);
    int32_t *offsets = ints(t, i);
    offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        const int left = (capacity - offsets[b]) / unit;
        const int most = b == batch - 1 ? left : left / 2;
        int count = below(5) == 0 ? 0 : below(3) == 0 ? most : below(most + 1);
        if (b == batch - 1 && left >= 1000) count = left - below(50); /* a large case is large */
        offsets[b + 1] = offsets[b] + unit * count;
    }
    return i;
}
int live(const test_case *t, int offsets)
{
    return ints(t, offsets)[t->buffers[offsets].columns - 1];
}

/* Normal numbers in rows 0..rows-1; the rest stays pattern. */
int add_floats(test_case *t, const char *name, int capacity, int rows, int columns, float deviation)
{
    const int i = add(t, name, SV_F32, capacity, columns);
    for (int64_t k = 0; k < (int64_t)rows * columns; k++) floats(t, i)[k] = deviation * normal();
    return i;
}
/* Row numbers below 'range'; some are -1 when 'holes'. */
int add_index(test_case *t, const char *name, int capacity, int rows, int range, bool holes)
{
    const int i = add(t, name, SV_I32, capacity, 1);
    for (int k = 0; k < rows; k++) ints(t, i)[k] = range == 0 || (holes && below(6) == 0) ? -1 : below(range);
    return i;
}

/* Distinct voxels of each sample, in random order. 'offsets' must leave room: shape cells per sample. */
int add_coords(test_case *t, int capacity, int offsets, int batch, const int32_t *shape)
{
    const int i = add(t, "coords", SV_I32, capacity, 4);
    with_offsets(t, i, offsets, batch);
    const int cells = shape[0] * shape[1] * shape[2];
    unsigned char *taken = malloc((size_t)cells);
    if (!taken) abort();
    for (int b = 0; b < batch; b++) {
        memset(taken, 0, (size_t)cells);
        for (int row = ints(t, offsets)[b]; row < ints(t, offsets)[b + 1]; row++) {
            int cell = below(cells);
            while (taken[cell])
                cell = below(4) ? (cell + 1) % cells : below(cells); /* clusters: neighbours exist */
            taken[cell] = 1;
            int32_t *c = ints(t, i) + 4 * row;
            c[0] = b, c[1] = cell % shape[0], c[2] = cell / shape[0] % shape[1],
            c[3] = cell / shape[0] / shape[1];
        }
    }
    free(taken);
    return i;
}

/* Buffers 0 to 3: row offsets, slot offsets, slot rows, row slots. Repeats are at the end of a sample's last group. */
order_case add_order(test_case *t, int batch, int length, int most)
{
    order_case o = {.capacity = batch * most};
    const int room = o.capacity + batch * length, slots = (room + length - 1) / length * length;
    o.offsets = add_offsets(t, o.capacity, batch, 1);
    o.rows = live(t, o.offsets);
    const int slot_offsets = add(t, "slot offsets", SV_I32, 1, batch + 1);
    const int slot_row = add(t, "slot rows", SV_I32, slots, 1),
              row_slot = add(t, "row slots", SV_I32, o.capacity, 1);
    with_offsets(t, slot_row, slot_offsets, batch);
    with_offsets(t, row_slot, o.offsets, batch);
    ints(t, slot_offsets)[0] = 0;
    for (int sample = 0; sample < batch; sample++) {
        const int first = ints(t, o.offsets)[sample], n = ints(t, o.offsets)[sample + 1] - first,
                  slot0 = ints(t, slot_offsets)[sample], padded = (n + length - 1) / length * length;
        int32_t *to = ints(t, slot_row) + slot0;
        for (int s = 0; s < n; s++) to[s] = first + s;
        for (int s = n - 1; s > 0; s--) {
            const int other = below(s + 1), swap = to[s];
            to[s] = to[other];
            to[other] = swap;
        }
        for (int s = n; s < padded; s++) to[s] = s >= length ? to[s - length] : to[(s - n) % n];
        for (int s = 0; s < n; s++) ints(t, row_slot)[to[s]] = slot0 + s;
        ints(t, slot_offsets)[sample + 1] = slot0 + padded;
    }
    return o;
}

sv_candidates candidates_of(const sv_tensor *v, int first, int offsets, int batch)
{
    sv_candidates out = {.boxes = v[first],
                         .offsets = v[offsets].data,
                         .scores = v[first + 1],
                         .labels = v[first + 2],
                         .index = v[first + 3]};
    out.boxes.offsets = out.offsets;
    out.boxes.batch = (int16_t)batch;
    return out;
}
void add_candidates(test_case *t, int capacity, double tolerance)
{
    const int boxes = add(t, "boxes", SV_F32, capacity, SV_BOX_FIELDS),
              scores = add(t, "scores", SV_F32, capacity, 1);
    t->buffers[boxes].tolerance = tolerance;
    t->buffers[scores].tolerance = tolerance;
    add(t, "labels", SV_I32, capacity, 1);
    add(t, "index", SV_I32, capacity, 1);
}

void free_case(test_case *t)
{
    for (int i = 0; i < t->count; i++) free(t->buffers[i].start);
}

/* ---- running ------------------------------------------------------------------------------------------- */

void free_result(run_result *r)
{
    for (int i = 0; i < MAX_BUFFERS; i++) free(r->bytes[i]);
}

static sv_status upload_all(sv_ctx *c, const test_case *t, unsigned char *const *memory)
{
    for (int i = 0; i < t->count; i++)
        SV_TRY(
            c->device->upload(c, memory[i], t->buffers[i].start, buffer_bytes(&t->buffers[i]) + 2 * GUARD));
    return SV_OK;
}

static sv_status download_all(sv_ctx *c, const test_case *t, unsigned char *const *memory, run_result *r)
{
    for (int i = 0; i < t->count; i++) {
        const size_t bytes = buffer_bytes(&t->buffers[i]) + 2 * GUARD;
        free(r->bytes[i]);
        r->bytes[i] = malloc(bytes);
        if (!r->bytes[i]) abort();
        SV_TRY(c->device->download(c, r->bytes[i], memory[i], bytes));
    }
    return SV_OK;
}

static sv_status place_buffers(sv_ctx *c, const test_case *t, unsigned char **memory, sv_tensor *v)
{
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    for (int i = 0; i < t->count; i++) {
        const buffer *b = &t->buffers[i];
        void *data = NULL;
        SV_TRY(sv_arena_alloc(c, &c->frame, "test", buffer_bytes(b) + 2 * GUARD, &data));
        memory[i] = data;
        v[i] = sv_view(memory[i] + GUARD, b->dtype, b->rows, b->columns);
        v[i].pitch = b->pitch;
    }
    for (int i = 0; i < t->count; i++) {
        if (t->buffers[i].offsets == WHOLE) continue;
        v[i].offsets = v[t->buffers[i].offsets].data;
        v[i].batch = (int16_t)t->buffers[i].batch;
    }
    return upload_all(c, t, memory);
}

/* The device's own work; an operation's failure is a result, too. */
sv_status run_eagerly(sv_ctx *c, test_case *t, run_result *r)
{
    unsigned char *memory[MAX_BUFFERS];
    sv_tensor v[MAX_BUFFERS];
    SV_TRY(place_buffers(c, t, memory, v));
    r->status = t->run(c, t, v);
    if (r->status != SV_OK && r->status != SV_OVERFLOW) return r->status;
    sv_error_clear(c);
    SV_TRY(c->device->queue_wait(c));
    return download_all(c, t, memory, r);
}

static sv_status run_replayed(sv_ctx *c, test_case *t, run_result *first, run_result *second)
{
    unsigned char *memory[MAX_BUFFERS];
    sv_tensor v[MAX_BUFFERS];
    SV_TRY(place_buffers(c, t, memory, v));
    SV_TRY(c->device->queue_wait(c));
    c->frame.sealed = c->scratch.sealed = c->capturing = true;
    sv_graph *graph = NULL;
    sv_status status = c->device->capture_begin(c);
    if (status == SV_OK) {
        status = t->run(c, t, v);
        const sv_status ended = c->device->capture_end(c, &graph);
        if (status == SV_OK) status = ended;
    }
    c->frame.sealed = c->scratch.sealed = c->capturing = false;
    for (int i = 0; i < 2 && status == SV_OK; i++) {
        status = upload_all(c, t, memory);
        if (status == SV_OK) status = c->device->replay(c, graph);
        if (status == SV_OK) status = c->device->queue_wait(c);
        if (status == SV_OK) status = download_all(c, t, memory, i ? second : first);
    }
    c->device->graph_free(graph);
    return status;
}

static void same_bytes(const test_case *t, const run_result *a, const run_result *b, const char *what)
{
    for (int i = 0; i < t->count; i++) {
        if (memcmp(a->bytes[i], b->bytes[i], buffer_bytes(&t->buffers[i]) + 2 * GUARD) == 0) continue;
        fail(t, "'%s' differs between two runs on the GPU (%s)", t->buffers[i].name, what);
    }
}

bool is_pattern(const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != PATTERN) return false;
    return true;
}

/* Returns the largest difference relative to the largest magnitude (0 for exact buffers). */
static double compare_buffer(const test_case *t, int number, double least_tolerance, const unsigned char *cpu,
                             const unsigned char *gpu)
{
    const buffer *b = &t->buffers[number];
    const double tolerance =
        b->tolerance >= 0 && b->tolerance < least_tolerance ? least_tolerance : b->tolerance;
    const size_t size = sv_dtype_bytes(b->dtype), bytes = buffer_bytes(b);
    char detail[200];
    if (!is_pattern(gpu, GUARD) || !is_pattern(gpu + GUARD + bytes, GUARD)) {
        fail(t, "the GPU wrote outside '%s'%s", b->name, "");
        return 0;
    }
    double largest = 0, worst = 0;
    if (tolerance >= 0) {
        for (size_t i = 0; i < bytes / size; i++) {
            const unsigned char *p = cpu + GUARD + i * size;
            float x;
            memcpy(&x, p, sizeof x);
            if (isfinite(x) && fabs((double)x) > largest) largest = fabs((double)x);
        }
    }
    for (size_t i = 0; i < bytes / size; i++) {
        const unsigned char *p = cpu + GUARD + i * size, *q = gpu + GUARD + i * size;
        if (memcmp(p, q, size) == 0) continue;
        float x = 0, y = 0;
        int32_t m = 0, n = 0;
        if (size == 4) memcpy(&x, p, 4), memcpy(&y, q, 4), memcpy(&m, p, 4), memcpy(&n, q, 4);
        const double difference = isnan(x) && isnan(y) ? 0 : fabs((double)x - (double)y);
        if (tolerance < 0 || is_pattern(p, size) || is_pattern(q, size) ||
            !(difference <= tolerance * largest)) {
            snprintf(detail, sizeof detail, "row %zu column %zu: CPU %.9g (%d), GPU %.9g (%d), largest %.9g",
                     i / (size_t)b->pitch, i % (size_t)b->pitch, (double)x, (int)m, (double)y, (int)n,
                     largest);
            fail(t, "'%s' %s", b->name, detail);
            return 0;
        }
        if (difference > worst) worst = difference;
    }
    return largest > 0 ? worst / largest : 0;
}

bool device_ok(const test_case *t, sv_ctx *c, sv_status status, const char *what)
{
    if (status == SV_OK) return true;
    fail(t, "%s: %s", what, sv_error_message(c));
    sv_error_clear(c);
    return false;
}

bool takes_turn(bench *k, const test_case *t)
{
    const bool runs = will_run(k);
    const int number = k->number++;
    numbers_wanted = will_run(k); /* of the next case */
    if (k->turn != MEASURE) return runs;
    size_t size = 0;
    for (int i = 0; i < t->count; i++) size += buffer_bytes(&t->buffers[i]);
    int worst = 0;
    for (int i = 0; i < SMALL_CASES; i++) {
        if (k->chosen[i] < 0) {
            worst = i;
            break;
        }
        const bool large = k->size[i] > SMALL_BYTES, worst_large = k->size[worst] > SMALL_BYTES;
        if (large != worst_large ? large : large ? k->size[i] > k->size[worst] : k->size[i] < k->size[worst])
            worst = i;
    }
    const bool better =
        size <= SMALL_BYTES ? k->size[worst] > SMALL_BYTES || size > k->size[worst] : k->size[worst] > size;
    if (k->chosen[worst] < 0 || better) {
        k->chosen[worst] = number;
        k->size[worst] = size;
    }
    return false;
}

/* Runs the case everywhere; frees it. */
void check(bench *k, test_case *t)
{
    if (!takes_turn(k, t)) {
        free_case(t);
        return;
    }
    run_result cpu = {.status = SV_OK}, gpu[4] = {{.status = SV_OK}};
    k->cases++;
    bool ok = device_ok(t, k->cpu, sv_arena_reset(k->cpu, &k->cpu_weights), "weights") &&
              device_ok(t, k->gpu, sv_arena_reset(k->gpu, &k->gpu_weights), "weights");
    if (ok && t->prepare) ok = device_ok(t, k->cpu, t->prepare(k->cpu, t), "preparing on the CPU");
    ok = ok && device_ok(t, k->cpu, run_eagerly(k->cpu, t, &cpu), "CPU");
    if (ok && t->prepare) ok = device_ok(t, k->gpu, t->prepare(k->gpu, t), "preparing on the GPU");
    ok = ok && device_ok(t, k->gpu, run_eagerly(k->gpu, t, &gpu[0]), "GPU");
    const bool repeat = k->turn == EVERY_CASE;
    if (repeat) ok = ok && device_ok(t, k->gpu, run_eagerly(k->gpu, t, &gpu[1]), "GPU, second run");
    if (repeat) ok = ok && device_ok(t, k->gpu, run_replayed(k->gpu, t, &gpu[2], &gpu[3]), "GPU, captured");
    if (ok) {
        for (int i = 0; i < t->count; i++) {
            const double difference = compare_buffer(t, i, k->least_tolerance, cpu.bytes[i], gpu[0].bytes[i]);
            if (difference > k->worst) k->worst = difference;
        }
        if (repeat) same_bytes(t, &gpu[0], &gpu[1], "repeated");
        if (repeat) same_bytes(t, &gpu[0], &gpu[2], "replayed");
        if (repeat) same_bytes(t, &gpu[0], &gpu[3], "replayed again");
    }
    free_result(&cpu);
    for (int i = 0; i < 4; i++) free_result(&gpu[i]);
    free_case(t);
}
