/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests against the container: find, check, note what does not fit, go on.
 *
 * Folding y = (W x + b - mean) / sqrt(var + eps) * gamma + beta into W' x + b':
 *   s = gamma / sqrt(var + eps),  W' = s W (per output),  b' = beta + s (b - mean)      all in double
 * SubM weights: spconv 2.x has [out,kz,ky,kx,in], 1.x [kz,ky,kx,in,out]; the
 * second is recognised by its shape and rearranged, as the official loader does.
 */
#include "binder.h"

#include "weights_file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PREFIX = 512, MAX_LEVELS = 32, MAX_FULL = MAX_PREFIX + 256, NAMED = 3 };

/* Memory that lives as long as the binder: folded weights, zeros for what is missing, rearranged copies. */
typedef struct block {
    struct block *older;
    float numbers[];
} block;

typedef enum problem { MISSING, MISSHAPED, NOT_FINITE, EXTRA, PROBLEMS } problem;

struct sv_binder {
    sv_ctx *c;
    const sv_weights *weights;
    sv_weights *fill; /* init mode: the same container, to be filled; else NULL */
    uint64_t seed;
    float damping; /* of random convolution weights */
    bool *used;    /* [weights], bind mode */
    block *blocks;
    int64_t parameters;
    int problems[PROBLEMS], rearranged;
    char first[PROBLEMS][400]; /* the first ones of each kind, for the sentence */
    char prefix[MAX_PREFIX];
    size_t levels[MAX_LEVELS]; /* prefix length before each push */
    int depth;
};

/* ---- opening and the sentence at the end --------------------------------------------------------------- */

static sv_status open_binder(sv_ctx *c, const sv_weights *weights, sv_binder **out)
{
    *out = NULL;
    sv_binder *b = calloc(1, sizeof *b);
    bool *used = calloc((size_t)sv_weights_count(weights) + 1, sizeof *used);
    if (!b || !used) {
        free(b);
        free(used);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to bind its tensors", sv_weights_path(weights));
    }
    b->c = c;
    b->weights = weights;
    b->used = used;
    b->damping = 1;
    *out = b;
    return SV_OK;
}

sv_status sv_binder_open(sv_ctx *c, const sv_weights *weights, sv_binder **out)
{
    return open_binder(c, weights, out);
}

sv_status sv_binder_open_init(sv_ctx *c, sv_weights *weights, uint64_t seed, sv_binder **out)
{
    *out = NULL;
    SV_CHECK(c, sv_weights_count(weights) == 0, SV_USAGE,
             "%s: there are weights already; new ones are made from nothing", sv_weights_path(weights));
    SV_TRY(open_binder(c, weights, out));
    (*out)->fill = weights;
    (*out)->seed = seed;
    return SV_OK;
}

void sv_binder_close(sv_binder *b)
{
    if (!b) return;
    while (b->blocks) {
        block *older = b->blocks->older;
        free(b->blocks);
        b->blocks = older;
    }
    free(b->used);
    free(b);
}

sv_ctx *sv_binder_ctx(sv_binder *b)
{
    return b->c;
}
int64_t sv_binder_parameters(const sv_binder *b)
{
    return b->parameters;
}

static void shape_text(char *out, size_t room, int ndim, const int32_t *dims)
{
    size_t used = (size_t)snprintf(out, room, "[");
    for (int i = 0; i < ndim; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%d", i > 0 ? "," : "", dims[i]);
    snprintf(out + used, room - used, "]");
}

/* Log 'what' about one tensor, and keep the first few for the sentence of sv_binder_finish(). */
static void note(sv_binder *b, problem kind, const char *what)
{
    static const char *const words[] = {"missing", "of another shape", "not finite",
                                        "not used by the configuration"};
    sv_log(b->c, SV_LOG_NOTE, "%s: tensor %s: %s", sv_weights_path(b->weights), words[kind], what);
    const size_t used = strlen(b->first[kind]);
    if (b->problems[kind] < NAMED)
        snprintf(b->first[kind] + used, sizeof b->first[kind] - used, "%s%s", used > 0 ? ", " : "", what);
    b->problems[kind]++;
}

static bool may_be_left(const char *name)
{
    static const char tracked[] = "num_batches_tracked";
    const size_t length = strlen(name), tail = strlen(tracked);
    if (strcmp(name, "global_step") == 0) return true;
    return length >= tail && strcmp(name + length - tail, tracked) == 0 &&
           (length == tail || name[length - tail - 1] == '.');
}

sv_status sv_binder_finish(sv_binder *b)
{
    assert(b->depth == 0 && "every push has its pop");
    if (b->fill) return SV_OK;
    for (int i = 0; i < sv_weights_count(b->weights); i++) {
        const char *name = sv_weights_name(b->weights, i);
        if (!b->used[i] && !may_be_left(name)) note(b, EXTRA, name);
    }
    if (b->rearranged > 0)
        sv_log(b->c, SV_LOG_NOTE, "%s: %d convolution weights of spconv 1.x layout were rearranged",
               sv_weights_path(b->weights), b->rearranged);
    char text[PROBLEMS][480];
    static const char *const words[] = {"missing", "of another shape", "with NaN or infinite numbers",
                                        "that the configuration does not use"};
    int total = 0, shown = 0;
    for (int kind = 0; kind < PROBLEMS; kind++) {
        const int count = b->problems[kind];
        text[kind][0] = '\0';
        total += count;
        if (count == 0) continue;
        /* With several kinds at once each gets its share of the sentence. */
        snprintf(text[kind], sizeof text[kind], "%s%d %s (%.*s%s)", shown++ > 0 ? "; " : "", count,
                 words[kind], 150, b->first[kind],
                 count > NAMED || strlen(b->first[kind]) > 150 ? ", ..." : "");
    }
    SV_CHECK(b->c, total == 0, SV_BAD_INPUT,
             "%s does not fit the configuration, tensors: %s%s%s%s (-v lists all)",
             sv_weights_path(b->weights), text[MISSING], text[MISSHAPED], text[NOT_FINITE], text[EXTRA]);
    return SV_OK;
}

/* ---- names --------------------------------------------------------------------------------------------- */

void sv_binder_push(sv_binder *b, const char *format, ...)
{
    assert(b->depth < MAX_LEVELS);
    const size_t used = strlen(b->prefix);
    b->levels[b->depth++] = used;
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(b->prefix + used, MAX_PREFIX - used, format, args);
    va_end(args);
    assert(length > 0 && used + (size_t)length + 1 < MAX_PREFIX && "prefixes come from our own code");
    snprintf(b->prefix + used + (size_t)length, MAX_PREFIX - used - (size_t)length, ".");
}

void sv_binder_pop(sv_binder *b)
{
    assert(b->depth > 0);
    b->prefix[b->levels[--b->depth]] = '\0';
}

void sv_binder_damp(sv_binder *b, float factor)
{
    b->damping = factor;
}

static const char *full_name(const sv_binder *b, char out[MAX_FULL], const char *name, const char *suffix)
{
    const int length = snprintf(out, MAX_FULL, "%s%s%s", b->prefix, name, suffix);
    assert(length > 0 && length < MAX_FULL && "names come from our own code");
    (void)length;
    return out;
}

static bool is_statistic(const char *name)
{
    const char *dot = strrchr(name, '.');
    const char *last = dot ? dot + 1 : name;
    return strcmp(last, "running_mean") == 0 || strcmp(last, "running_var") == 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

sv_init sv_init_fan_in(int fan_in)
{
    const float bound = 1.0f / sqrtf((float)(fan_in > 0 ? fan_in : 1));
    return (sv_init){SV_INIT_UNIFORM, -bound, bound};
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double next_uniform(uint64_t *state)
{
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

/* The sum of twelve uniform numbers less six: variance 1, bounded, and the same bits on every machine. */
static double next_normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += next_uniform(state);
    return sum;
}

/* A tensor's numbers follow from the seed and its name alone, not from the order of requests. */
static uint64_t seed_of(uint64_t seed, const char *name)
{
    uint64_t state = seed;
    for (const char *p = name; *p; p++) state = next_random(&state) ^ (uint64_t)(unsigned char)*p;
    return state;
}

static void fill(float *to, sv_init init, int64_t count, int64_t columns, uint64_t state)
{
    for (int64_t i = 0; i < count; i++) {
        switch (init.kind) {
        case SV_INIT_CONSTANT:
            to[i] = init.a;
            break;
        case SV_INIT_UNIFORM:
            to[i] = (float)(init.a + ((double)init.b - init.a) * next_uniform(&state));
            break;
        case SV_INIT_NORMAL:
            to[i] = (float)(init.a + init.b * next_normal(&state));
            break;
        case SV_INIT_LOG_RANGE:
            to[i] = (float)log((double)(i % columns + 1));
            break;
        }
    }
}

static sv_status take(sv_binder *b, int64_t count, float **out)
{
    block *added = calloc(1, sizeof *added + (size_t)(count > 0 ? count : 1) * sizeof(float));
    SV_CHECK(b->c, added, SV_NO_MEMORY, "%s: no memory for %lld prepared numbers",
             sv_weights_path(b->weights), (long long)count);
    added->older = b->blocks;
    b->blocks = added;
    *out = added->numbers;
    return SV_OK;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static sv_tensor shaped(void *data, int ndim, const int32_t *dims)
{
    sv_tensor t = {.data = data, .ndim = (uint8_t)ndim, .dtype = SV_F32};
    for (int i = 0; i < ndim; i++) t.dim[i] = dims[i];
    t.pitch = (int32_t)sv_row_elements(t);
    return t;
}

static bool same_dims(sv_tensor t, int ndim, const int32_t *dims)
{
    return t.ndim == ndim && memcmp(t.dim, dims, (size_t)ndim * sizeof dims[0]) == 0;
}

/* Equal when sizes of 1 are left out: [n,1,k] or [n,k,1,1] is a matrix [n,k]. */
static bool same_but_ones(sv_tensor t, int ndim, const int32_t *dims)
{
    int i = 0, k = 0;
    for (;;) {
        while (i < t.ndim && t.dim[i] == 1) i++;
        while (k < ndim && dims[k] == 1) k++;
        if (i == t.ndim || k == ndim) return i == t.ndim && k == ndim;
        if (t.dim[i++] != dims[k++]) return false;
    }
}

/* [kz,ky,kx,in,out] for a request of [out,kz,ky,kx,in]. */
static bool is_old_spconv(sv_tensor t, int ndim, const int32_t *dims)
{
    return ndim == 5 && t.ndim == 5 && memcmp(t.dim, dims + 1, 4 * sizeof dims[0]) == 0 &&
           t.dim[4] == dims[0];
}

static sv_status rearrange(sv_binder *b, sv_tensor t, sv_tensor *out)
{
    const int64_t n = t.dim[4], rest = (int64_t)t.dim[0] * t.pitch / n;
    float *to = NULL;
    SV_TRY(take(b, n * rest, &to));
    for (int64_t i = 0; i < rest; i++) {
        for (int64_t o = 0; o < n; o++) to[o * rest + i] = sv_f32(t)[i * n + o];
    }
    const int32_t dims[5] = {t.dim[4], t.dim[0], t.dim[1], t.dim[2], t.dim[3]};
    *out = shaped(to, 5, dims);
    b->rearranged++;
    return SV_OK;
}

static bool all_finite(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) return false;
    }
    return true;
}

typedef struct request {
    const char *name; /* full */
    sv_init init;
    int ndim;
    const int32_t *dims;
    bool loose;    /* sizes of 1 do not matter */
    bool optional; /* absence is no problem */
    bool wanted;   /* an optional tensor is made in init mode */
} request;

static int64_t elements_of(const request *q)
{
    int64_t elements = 1;
    for (int i = 0; i < q->ndim; i++) elements *= q->dims[i];
    return elements;
}

static sv_status make(sv_binder *b, sv_tensor *out, const request *q)
{
    const int64_t elements = elements_of(q);
    *out = sv_weights_find(b->weights, q->name);
    if (sv_is_none(*out)) {
        int64_t dims[SV_MAX_DIMS];
        for (int i = 0; i < q->ndim; i++) dims[i] = q->dims[i];
        void *data = NULL;
        SV_TRY(sv_weights_make(b->c, b->fill, q->name, SV_F32, q->ndim, dims, &data));
        fill(data, q->init, elements, q->dims[q->ndim - 1], seed_of(b->seed, q->name));
        *out = sv_weights_find(b->weights, q->name);
        if (!is_statistic(q->name)) b->parameters += elements;
    }
    SV_CHECK(b->c, same_dims(*out, q->ndim, q->dims), SV_INTERNAL, "tensor '%s' is asked for in two shapes",
             q->name);
    return SV_OK;
}

static sv_status find(sv_binder *b, sv_tensor *out, const request *q)
{
    assert(q->ndim >= 1 && q->ndim <= SV_MAX_DIMS);
    *out = SV_NONE;
    if (b->fill) return q->optional && !q->wanted ? SV_OK : make(b, out, q);

    char expected[80], found[80], what[MAX_FULL + 200];
    shape_text(expected, sizeof expected, q->ndim, q->dims);
    const int i = sv_weights_index(b->weights, q->name);
    if (i < 0 && q->optional) return SV_OK;
    const int64_t elements = elements_of(q);
    if ((i < 0 || !b->used[i]) && !is_statistic(q->name)) b->parameters += elements;
    if (i < 0) {
        snprintf(what, sizeof what, "%s %s", q->name, expected);
        note(b, MISSING, what);
    } else {
        const bool again = b->used[i];
        b->used[i] = true;
        const sv_tensor t = sv_weights_tensor(b->weights, i);
        const bool number = t.dtype == SV_F32;
        if (number && !again && !all_finite(sv_f32(t), (int64_t)t.dim[0] * t.pitch))
            note(b, NOT_FINITE, q->name);
        if (number && (same_dims(t, q->ndim, q->dims) || (q->loose && same_but_ones(t, q->ndim, q->dims)))) {
            *out = shaped(t.data, q->ndim, q->dims);
            return SV_OK;
        }
        if (number && is_old_spconv(t, q->ndim, q->dims)) return rearrange(b, t, out);
        shape_text(found, sizeof found, t.ndim, t.dim);
        snprintf(what, sizeof what, "%s %s%s, expected %s", q->name, found, number ? "" : " of integers",
                 expected);
        if (!again) note(b, MISSHAPED, what);
    }
    float *zeros = NULL;
    SV_TRY(take(b, elements, &zeros));
    *out = shaped(zeros, q->ndim, q->dims);
    return SV_OK;
}

sv_status sv_bind_host(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int ndim,
                       const int32_t *dims)
{
    char full[MAX_FULL];
    return find(b, out,
                &(request){.name = full_name(b, full, name, ""), .init = init, .ndim = ndim, .dims = dims});
}

sv_status sv_bind_host_optional(sv_binder *b, sv_tensor *out, const char *name, bool wanted, sv_init init,
                                int ndim, const int32_t *dims)
{
    char full[MAX_FULL];
    return find(b, out,
                &(request){.name = full_name(b, full, name, ""),
                           .init = init,
                           .ndim = ndim,
                           .dims = dims,
                           .optional = true,
                           .wanted = wanted});
}

/* A vector or matrix: sizes of 1 in the file do not matter. */
static sv_status find_loose(sv_binder *b, sv_tensor *out, const char *name, const char *suffix, sv_init init,
                            int ndim, const int32_t *dims)
{
    char full[MAX_FULL];
    return find(b, out,
                &(request){.name = full_name(b, full, name, suffix),
                           .init = init,
                           .ndim = ndim,
                           .dims = dims,
                           .loose = true});
}

sv_status sv_bind_vector(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int n)
{
    sv_tensor host;
    SV_TRY(find_loose(b, &host, name, "", init, 1, &n));
    return sv_weight_upload(b->c, out, host);
}

sv_status sv_bind_matrix(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int rows, int columns)
{
    sv_tensor host;
    SV_TRY(find_loose(b, &host, name, "", init, 2, (const int32_t[]){rows, columns}));
    return sv_weight_upload(b->c, out, host);
}

sv_status sv_bind_linear(sv_binder *b, sv_linear_weights *out, const char *name, int n, int k, bool bias)
{
    sv_tensor w, offset = SV_NONE;
    SV_TRY(find_loose(b, &w, name, ".weight", sv_init_fan_in(k), 2, (const int32_t[]){n, k}));
    if (bias) SV_TRY(find_loose(b, &offset, name, ".bias", sv_init_fan_in(k), 1, &n));
    return sv_linear_prepare(b->c, out, w, offset);
}

/* ---- BatchNorm ----------------------------------------------------------------------------------------- */

/* Before a ReLU, this deviation keeps the size of activations through the layers (He et al. 2015). */
static sv_init he(int fan_in)
{
    return (sv_init){SV_INIT_NORMAL, 0, sqrtf(2.0f / (float)fan_in)};
}

/* scale[n] and shift[n] such that norm(y) = scale*y + shift. Random ones are near the identity, but not it.
 */
static sv_status bind_norm(sv_binder *b, const char *norm, float eps, int n, double *scale, double *shift)
{
    static const struct {
        const char *suffix;
        sv_init init;
    } parts[4] = {{".weight", {SV_INIT_UNIFORM, 0.9f, 1.1f}},
                  {".bias", {SV_INIT_UNIFORM, -0.1f, 0.1f}},
                  {".running_mean", {SV_INIT_UNIFORM, -0.1f, 0.1f}},
                  {".running_var", {SV_INIT_UNIFORM, 0.9f, 1.1f}}};
    sv_tensor t[4];
    for (int i = 0; i < 4; i++) SV_TRY(find_loose(b, &t[i], norm, parts[i].suffix, parts[i].init, 1, &n));
    bool positive = true;
    for (int i = 0; i < n; i++) {
        const double var = (double)sv_f32(t[3])[i] + (double)eps;
        if (!(var > 0)) positive = false;
        scale[i] = (double)sv_f32(t[0])[i] / sqrt(var > 0 ? var : 1);
        shift[i] = (double)sv_f32(t[1])[i] - (double)sv_f32(t[2])[i] * scale[i];
    }
    char full[MAX_FULL], what[MAX_FULL + 32];
    snprintf(what, sizeof what, "%s (a variance below 0)", full_name(b, full, norm, ".running_var"));
    if (!positive) note(b, NOT_FINITE, what);
    return SV_OK;
}

/* Folded copies of w (outputs 'outer' rows apart of 'inner' numbers, repeated 'repeat' times) and bias. */
static sv_status fold(sv_binder *b, const char *norm, float eps, int n, const float *w, int64_t repeat,
                      int64_t inner, const float *bias, float **w_out, float **bias_out)
{
    SV_TRY(take(b, repeat * n * inner, w_out));
    SV_TRY(take(b, n, bias_out));
    double *scale = calloc((size_t)n * 2, sizeof *scale);
    SV_CHECK(b->c, scale, SV_NO_MEMORY, "no memory to fold '%s'", norm);
    double *shift = scale + n;
    const sv_status status = bind_norm(b, norm, eps, n, scale, shift);
    for (int64_t r = 0; status == SV_OK && r < repeat; r++) {
        for (int64_t o = 0; o < n; o++) {
            const int64_t at = (r * n + o) * inner;
            for (int64_t i = 0; i < inner; i++) (*w_out)[at + i] = (float)((double)w[at + i] * scale[o]);
        }
    }
    for (int64_t o = 0; status == SV_OK && o < n; o++)
        (*bias_out)[o] = (float)(shift[o] + (bias ? (double)bias[o] * scale[o] : 0));
    free(scale);
    return status;
}

sv_status sv_bind_linear_host(sv_binder *b, const float **w, const float **bias, const char *linear,
                              const char *norm, float eps, int n, int k, bool has_bias)
{
    sv_tensor weight, offset = SV_NONE;
    *w = *bias = NULL;
    SV_TRY(find_loose(b, &weight, linear, ".weight", norm ? he(k) : sv_init_fan_in(k), 2,
                      (const int32_t[]){n, k}));
    if (has_bias) SV_TRY(find_loose(b, &offset, linear, ".bias", sv_init_fan_in(k), 1, &n));
    *w = sv_f32(weight);
    *bias = has_bias ? sv_f32(offset) : NULL;
    if (!norm) return SV_OK;
    float *folded = NULL, *folded_bias = NULL;
    SV_TRY(fold(b, norm, eps, n, *w, 1, k, *bias, &folded, &folded_bias));
    *w = folded;
    *bias = folded_bias;
    return SV_OK;
}

sv_status sv_bind_linear_batchnorm(sv_binder *b, sv_linear_weights *out, const char *linear, const char *norm,
                                   float eps, int n, int k, bool bias)
{
    const float *w = NULL, *offset = NULL;
    SV_TRY(sv_bind_linear_host(b, &w, &offset, linear, norm, eps, n, k, bias));
    return sv_linear_prepare(b->c, out, shaped((void *)(uintptr_t)w, 2, (const int32_t[]){n, k}),
                             shaped((void *)(uintptr_t)offset, 1, &n));
}

sv_status sv_bind_batchnorm(sv_binder *b, float *scale, float *shift, const char *name, float eps, int n)
{
    double *values = calloc((size_t)n * 2, sizeof *values);
    SV_CHECK(b->c, values, SV_NO_MEMORY, "no memory for '%s'", name);
    const sv_status status = bind_norm(b, name, eps, n, values, values + n);
    for (int i = 0; status == SV_OK && i < n; i++) {
        scale[i] = (float)values[i];
        shift[i] = (float)values[n + i];
    }
    free(values);
    return status;
}

sv_status sv_bind_subm_plane(sv_binder *b, float *w, const char *name, int out_channels, int in_channels)
{
    sv_tensor plane;
    const int32_t dims[4] = {out_channels, 3, 3, in_channels};
    const int64_t layer = 9 * (int64_t)in_channels;
    char full[MAX_FULL];
    SV_TRY(find(b, &plane,
                &(request){.name = full_name(b, full, name, ".weight"),
                           .init = he(9 * in_channels),
                           .ndim = 4,
                           .dims = dims}));
    for (int o = 0; o < out_channels; o++)
        memcpy(w + (3 * o + 1) * layer, sv_f32(plane) + o * layer, (size_t)layer * sizeof *w);
    return SV_OK;
}

sv_status sv_bind_memory(sv_binder *b, float **out, int64_t count)
{
    return take(b, count, out);
}

sv_status sv_bind_conv(sv_binder *b, const float **w, const float **bias, const char *name, const char *norm,
                       float eps, int out_channels, int in_channels, int kernel, bool transposed,
                       bool has_bias)
{
    *w = *bias = NULL;
    const int32_t dims[4] = {transposed ? in_channels : out_channels, transposed ? out_channels : in_channels,
                             kernel, kernel};
    /* With stride = kernel each output of a transposed convolution sees one tap of each input. */
    const int fan_in = transposed ? in_channels : in_channels * kernel * kernel;
    char full[MAX_FULL];
    sv_init init = norm ? he(fan_in) : sv_init_fan_in(fan_in);
    init.a *= b->damping;
    init.b *= b->damping;
    sv_tensor weight, offset = SV_NONE;
    SV_TRY(
        find(b, &weight,
             &(request){.name = full_name(b, full, name, ".weight"), .init = init, .ndim = 4, .dims = dims}));
    if (has_bias) SV_TRY(find_loose(b, &offset, name, ".bias", sv_init_fan_in(fan_in), 1, &out_channels));
    if (!norm) {
        *w = sv_f32(weight);
        *bias = has_bias ? sv_f32(offset) : NULL;
        return SV_OK;
    }
    float *folded = NULL, *folded_bias = NULL;
    SV_TRY(fold(b, norm, eps, out_channels, sv_f32(weight), transposed ? in_channels : 1,
                (int64_t)kernel * kernel * (transposed ? 1 : in_channels), has_bias ? sv_f32(offset) : NULL,
                &folded, &folded_bias));
    *w = folded;
    *bias = folded_bias;
    return SV_OK;
}
