/* SPDX-License-Identifier: Apache-2.0
 *
 * DynamicVoxelVFE with one to four layers against the layers as they are defined, in double precision:
 *
 *     y = relu(norm(W [point | maxima of its voxel]))      every layer; the first has the point's features only
 *     maxima of y over the voxel                           handed on, or the result of the last layer
 *
 * The engine takes maxima before it adds what a voxel's points share; here nothing is rearranged.
 */
#include "oracle_voxel.h"
#include "support.h"

#include "backbones/vfe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BATCH = 4, ROOM = 64 }; /* ROOM: voxels beyond those there are */

static const sv_grid grid = {
    .min = {-4, -3, -1}, .max = {4, 3, 1}, .size = {0.5f, 0.25f, 0.4f}, .cells = {16, 24, 5}};

/* ---- a module with random weights ---------------------------------------------------------------------- */

typedef struct module {
    sv_ctx *c;
    sv_arena arena;
    sv_config *config;
    sv_vfe vfe;
} module;

static module open_module(const char *filters, int threads)
{
    char text[256];
    module m = {.c = test_context(threads)};
    snprintf(text, sizeof text, "{NAME: DynamicVoxelVFE, NUM_FILTERS: %s}", filters);
    assert_ok(m.c, sv_config_parse(m.c, text, strlen(text), "test", NULL, 0, &m.config));
    return m;
}

/* The arena must not move once it is in use. */
static sv_status bind_module(module *m, sv_weights *weights, uint64_t seed, int columns)
{
    sv_arena_init(&m->arena, "model", m->c->device);
    m->c->weights = &m->arena;
    sv_binder *b = NULL;
    assert_ok(m->c, seed ? sv_binder_open_init(m->c, weights, seed, &b) : sv_binder_open(m->c, weights, &b));
    sv_status status = sv_vfe_bind(b, &m->vfe, sv_config_root(m->config), columns);
    if (status == SV_OK) status = sv_binder_finish(b);
    sv_binder_close(b);
    return status;
}

static void close_module(module *m)
{
    sv_config_free(m->config);
    sv_arena_free(&m->arena);
    sv_ctx_close(m->c);
}

/* Nothing is left at what it begins with: norms scale by either sign, and shift. */
static sv_weights *random_weights(const char *filters, int columns, test_rng *rng)
{
    module m = open_module(filters, 1);
    sv_weights *weights = sv_weights_new();
    assert_ok(m.c, bind_module(&m, weights, 3, columns));
    for (int i = 0; i < sv_weights_count(weights); i++) {
        const sv_tensor t = sv_weights_tensor(weights, i);
        const char *name = sv_weights_name(weights, i);
        const int count = t.dim[0] * (int)sv_row_elements(t);
        if (t.dtype != SV_F32) continue;
        const bool variance = strstr(name, "running_var") != NULL, linear = strstr(name, "linear") != NULL;
        for (int k = 0; k < count; k++)
            sv_f32(t)[k] = (float)(linear     ? rng_uniform(rng, -0.6, 0.6)
                                   : variance ? rng_uniform(rng, 0.3, 2)
                                              : rng_uniform(rng, -1, 1));
    }
    close_module(&m);
    return weights;
}

/* ---- the oracle ---------------------------------------------------------------------------------------- */

static const float *weight(const sv_weights *weights, int layer, const char *name)
{
    char path[96];
    snprintf(path, sizeof path, "vfe.pfn_layers.%d.%s", layer, name);
    const sv_tensor t = sv_weights_find(weights, path);
    ck_assert_msg(!sv_is_none(t), "no %s", path);
    return sv_f32(t);
}

/* [points, in] -> [points, out]; 'out' rows of W */
static void layer_of(double *y, const double *x, int points, int in, int out, const sv_weights *weights,
                     int layer)
{
    const float *w = weight(weights, layer, "linear.weight"), *scale = weight(weights, layer, "norm.weight"),
                *shift = weight(weights, layer, "norm.bias"),
                *mean = weight(weights, layer, "norm.running_mean"),
                *variance = weight(weights, layer, "norm.running_var");
    for (int p = 0; p < points; p++)
        for (int o = 0; o < out; o++) {
            double sum = 0;
            for (int i = 0; i < in; i++) sum += (double)w[o * in + i] * x[p * in + i];
            sum = (sum - (double)mean[o]) / sqrt((double)variance[o] + 1e-3) * (double)scale[o] +
                  (double)shift[o];
            y[p * out + o] = sum > 0 ? sum : 0;
        }
}

static double *maxima_of(const double *y, const oracle_voxels *v, int out)
{
    double *most = malloc(sizeof *most * ((size_t)v->count * (size_t)out + 1));
    ck_assert_ptr_nonnull(most);
    for (int i = 0; i < v->count * out; i++) most[i] = -INFINITY;
    for (int p = 0; p < v->points; p++)
        for (int o = 0; o < out; o++) {
            double *at = &most[v->voxel[p] * out + o];
            *at = fmax(*at, y[p * out + o]);
        }
    return most;
}

/* [points, columns + 6] */
static double *features_of(const float *points, int columns, const oracle_voxels *v)
{
    const int width = columns + 6;
    double *x = malloc(sizeof *x * ((size_t)v->points * (size_t)width + 1)),
           *sum = calloc((size_t)v->count * 4 + 1, sizeof *sum);
    ck_assert(x && sum);
    for (int p = 0; p < v->points; p++) {
        const float *from = points + (ptrdiff_t)v->row[p] * columns;
        for (int axis = 0; axis < 3; axis++) sum[4 * v->voxel[p] + axis] += (double)from[axis];
        sum[4 * v->voxel[p] + 3]++;
    }
    for (int p = 0; p < v->points; p++) {
        const float *from = points + (ptrdiff_t)v->row[p] * columns;
        const int32_t *coords = v->coords + 4 * v->voxel[p];
        for (int k = 0; k < columns; k++) x[p * width + k] = (double)from[k];
        for (int axis = 0; axis < 3; axis++) {
            const double size = (double)grid.size[axis];
            x[p * width + columns + axis] =
                (double)from[axis] - sum[4 * v->voxel[p] + axis] / sum[4 * v->voxel[p] + 3];
            x[p * width + columns + 3 + axis] =
                (double)from[axis] - ((double)grid.min[axis] + size * (coords[3 - axis] + 0.5));
        }
    }
    free(sum);
    return x;
}

/* [voxels, last width] */
static double *oracle_vfe(const float *points, int columns, const oracle_voxels *v, const sv_weights *weights,
                          const int *filters, int layers)
{
    double *x = features_of(points, columns, v), *most = NULL;
    int in = columns + 6;
    for (int l = 0; l < layers; l++) {
        const bool last = l == layers - 1;
        const int out = last ? filters[l] : filters[l] / 2;
        double *y = malloc(sizeof *y * ((size_t)v->points * (size_t)out + 1));
        ck_assert_ptr_nonnull(y);
        layer_of(y, x, v->points, in, out, weights, l);
        most = maxima_of(y, v, out);
        free(x);
        x = y;
        if (last) break;
        in = 2 * out;
        x = malloc(sizeof *x * ((size_t)v->points * (size_t)in + 1));
        ck_assert_ptr_nonnull(x);
        for (int p = 0; p < v->points; p++) {
            memcpy(x + p * in, y + p * out, sizeof *x * (size_t)out);
            memcpy(x + p * in + out, most + v->voxel[p] * out, sizeof *x * (size_t)out);
        }
        free(y);
        free(most);
    }
    free(x);
    return most;
}

/* ---- clouds -------------------------------------------------------------------------------------------- */

typedef struct cloud {
    float *points;
    int32_t offsets[MOST_BATCH + 1];
    int batch, columns;
} cloud;

/* A third of the points crowd into a few voxels, the others are mostly alone in theirs, some lie outside. */
static cloud random_cloud(test_rng *rng, int columns, int batch, const int *sizes)
{
    cloud out = {.batch = batch, .columns = columns};
    for (int b = 0; b < batch; b++) out.offsets[b + 1] = out.offsets[b] + sizes[b];
    out.points = malloc(sizeof(float) * ((size_t)out.offsets[batch] * (size_t)columns + 1));
    ck_assert_ptr_nonnull(out.points);
    for (int i = 0; i < out.offsets[batch]; i++) {
        float *p = out.points + (ptrdiff_t)i * columns;
        const bool crowd = i % 3 == 0;
        for (int axis = 0; axis < 3; axis++) {
            const double low = (double)grid.min[axis], high = (double)grid.max[axis];
            p[axis] = (float)(crowd ? low + (high - low) * (0.4 + 0.03 * rng_uniform(rng, 0, 1))
                                    : rng_uniform(rng, low - 0.1, high + 0.1));
        }
        for (int k = 3; k < columns; k++) p[k] = (float)rng_uniform(rng, 0, 1);
    }
    return out;
}

/* Exchanges points within each sample. */
static void shuffle(test_rng *rng, cloud *points)
{
    float spare[16];
    const size_t bytes = sizeof(float) * (size_t)points->columns;
    for (int b = 0; b < points->batch; b++)
        for (int i = points->offsets[b + 1] - 1; i > points->offsets[b]; i--) {
            const int j = points->offsets[b] + (int)(rng_u64(rng) % (uint64_t)(i - points->offsets[b] + 1));
            float *p = points->points + (ptrdiff_t)i * points->columns,
                  *q = points->points + (ptrdiff_t)j * points->columns;
            memcpy(spare, p, bytes);
            memcpy(p, q, bytes);
            memcpy(q, spare, bytes);
        }
}

/* ---- the engine ---------------------------------------------------------------------------------------- */

/* Runs on a fresh module; the features, malloc'ed, after the coordinates were compared. */
static float *run(const char *filters, sv_weights *weights, const cloud *points, const oracle_voxels *want,
                  int threads, int channels)
{
    module m = open_module(filters, threads);
    sv_ctx *c = m.c;
    int32_t *offsets = NULL, needed = -1;
    assert_ok(c, bind_module(&m, weights, 0, points->columns));
    assert_ok(c, sv_config_check_used(c, m.config));
    ck_assert_int_eq(m.vfe.channels, channels);
    sv_tensor in = sv_view(points->points, SV_F32, points->offsets[points->batch], points->columns);
    assert_ok(c, sv_frame_offsets(c, &offsets, points->batch));
    memcpy(offsets, points->offsets, sizeof *offsets * ((size_t)points->batch + 1));
    in.offsets = offsets;
    in.batch = (int16_t)points->batch;
    sv_sparse out = {0};
    assert_ok(c, sv_vfe_forward(c, &m.vfe, &out, in, &grid, want->count + ROOM, &needed));
    ck_assert_int_eq(needed, want->count);
    ck_assert(out.shape[0] == 5 && out.shape[1] == 24 && out.shape[2] == 16);
    void *coords = NULL, *features = NULL;
    int count = 0;
    assert_ok(c, sv_download_rows(c, out.coords, &coords, &count));
    ck_assert_int_eq(count, want->count);
    ck_assert_int_eq(memcmp(coords, want->coords, sizeof(int32_t) * 4 * (size_t)count), 0);
    free(coords);
    assert_ok(c, sv_download_rows(c, out.x, &features, &count));
    ck_assert_int_eq(count, want->count);
    close_module(&m);
    return features;
}

static void equals_oracle(const char *what, const float *got, const double *want, int count)
{
    double most = 1, worst = 0;
    for (int i = 0; i < count; i++) most = fmax(most, fabs(want[i]));
    for (int i = 0; i < count; i++) {
        const double off = fabs((double)got[i] - want[i]);
        if (!(off <= 2e-6 * most)) ck_abort_msg("%s: [%d] is %g, not %g", what, i, (double)got[i], want[i]);
        worst = fmax(worst, off / most);
    }
    printf("%s: %d numbers, worst %.1e of the largest\n", what, count, worst);
}

typedef struct shape {
    const char *filters;
    int layers, width[SV_VFE_LAYERS], columns;
} shape;

static const shape shapes[] = {
    {"[16]", 1, {16}, 4},
    {"[30]", 1, {30}, 5},
    {"[64, 64]", 2, {64, 64}, 4},
    {"[10, 24]", 2, {10, 24}, 5},
    {"[8, 6, 32]", 3, {8, 6, 32}, 4},
    {"[32, 64, 18]", 3, {32, 64, 18}, 5},
    {"[4, 8, 6, 20]", 4, {4, 8, 6, 20}, 4},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

START_TEST(layers_equal_the_oracle)
{
    static const int sizes[][MOST_BATCH] = {{700}, {301, 0, 523}, {0, 1, 90, 0}, {0}};
    static const int batches[] = {1, 3, 4, 1};
    const shape *s = &shapes[_i];
    const int channels = s->width[s->layers - 1];
    test_rng rng = {.state = 100 + (uint64_t)_i};
    sv_weights *weights = random_weights(s->filters, s->columns, &rng);
    for (int k = 0; k < 4; k++) {
        cloud points = random_cloud(&rng, s->columns, batches[k], sizes[k]);
        oracle_voxels v = oracle_voxelize(points.points, s->columns, points.offsets, points.batch, &grid);
        double *want = oracle_vfe(points.points, s->columns, &v, weights, s->width, s->layers);
        float *one = run(s->filters, weights, &points, &v, 1, channels);
        equals_oracle(s->filters, one, want, v.count * channels);
        const size_t bytes = sizeof *one * (size_t)v.count * (size_t)channels;
        for (int order = 0; order < 2; order++) {
            float *other = run(s->filters, weights, &points, &v, 3, channels);
            ck_assert_msg(memcmp(one, other, bytes) == 0, "%s: other bytes with three threads%s", s->filters,
                          order ? " and another order of points" : "");
            free(other);
            shuffle(&rng, &points);
        }
        free(one);
        free(want);
        free(points.points);
        oracle_voxels_free(&v);
    }
    sv_weights_free(weights);
}
END_TEST

/* The clouds are what the test above needs: voxels with one point and with many. */
START_TEST(clouds_have_lonely_and_crowded_voxels)
{
    static const int sizes[] = {700};
    test_rng rng = {.state = 100};
    cloud points = random_cloud(&rng, 4, 1, sizes);
    oracle_voxels v = oracle_voxelize(points.points, 4, points.offsets, 1, &grid);
    int lonely = 0, most = 0;
    for (int p = 0, run_length = 0; p < v.points; p++) {
        run_length = p > 0 && v.voxel[p] == v.voxel[p - 1] ? run_length + 1 : 1;
        most = run_length > most ? run_length : most;
        const bool ends = p + 1 == v.points || v.voxel[p + 1] != v.voxel[p];
        lonely += ends && run_length == 1;
    }
    ck_assert_int_gt(lonely, 100);
    ck_assert_int_gt(most, 40);
    ck_assert_int_lt(v.points, 700); /* some lie outside */
    free(points.points);
    oracle_voxels_free(&v);
}
END_TEST

START_TEST(other_settings_are_refused)
{
    static const struct {
        const char *filters, *text;
        sv_status status;
    } cases[] = {{"[8, 8, 8, 8, 8]", "5 layers; 1 to 4 are supported", SV_UNSUPPORTED},
                 {"[]", "0 layers; 1 to 4 are supported", SV_UNSUPPORTED},
                 {"[16, 15]", "width 15 is not even within 2..4096", SV_BAD_INPUT},
                 {"[16], WITH_DISTANCE: true", "WITH_DISTANCE false", SV_UNSUPPORTED},
                 {"[16], USE_NORM: false", "USE_NORM true", SV_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        module m = open_module(cases[i].filters, 1);
        sv_weights *weights = sv_weights_new();
        assert_fails(m.c, bind_module(&m, weights, 1, 4), cases[i].status, cases[i].text);
        sv_weights_free(weights);
        close_module(&m);
    }
    /* points of another width */
    module m = open_module("[16]", 1);
    sv_weights *weights = sv_weights_new();
    assert_ok(m.c, bind_module(&m, weights, 1, 4));
    float points[10] = {0};
    int32_t offsets[] = {0, 2}, needed;
    sv_tensor in = sv_view(points, SV_F32, 2, 5);
    in.offsets = offsets, in.batch = 1;
    sv_sparse out;
    assert_fails(m.c, sv_vfe_forward(m.c, &m.vfe, &out, in, &grid, ROOM, &needed), SV_BAD_INPUT,
                 "the points have 5 columns, the model takes 4");
    sv_weights_free(weights);
    close_module(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vfe");
    TCase *tests = tcase_create("vfe");
    tcase_add_loop_test(tests, layers_equal_the_oracle, 0, SHAPES);
    tcase_add_test(tests, clouds_have_lonely_and_crowded_voxels);
    tcase_add_test(tests, other_settings_are_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
