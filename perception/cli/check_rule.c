/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights by rule, and what NAME_keys.txt says about them. A line of that file:
 *
 *     encoder/encoder_norm/bias [64] sum=0.705682572 first=[0.08185998350381851, -0.025269079953432083, 0.0426977276802063]
 */
#include "check_video.h"

#include "perception/core/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 300, FILE_LIMIT = 1 << 24, SLICE = 1 << 16 };

/* Value i is middle + spread * (2u - 1). */
typedef struct range {
    double middle, spread;
} range;

static uint64_t name_seed(const char *prefix, const char *key)
{
    uint64_t hash = 14695981039346656037u;
    for (const char *p = prefix; *p; p++) hash = (hash ^ (unsigned char)*p) * 1099511628211u;
    hash = (hash ^ (unsigned char)'/') * 1099511628211u;
    for (const char *p = key; *p; p++) hash = (hash ^ (unsigned char)*p) * 1099511628211u;
    return hash;
}

static bool ends_in(const char *text, size_t length, const char *tail)
{
    const size_t n = strlen(tail);
    return length >= n && memcmp(text + length - n, tail, n) == 0;
}

/* False for a key the rule says nothing about. */
static bool range_of(const char *key, sv_tensor t, range *out)
{
    const char *slash = strrchr(key, '/'), *leaf = slash ? slash + 1 : key;
    const size_t above = slash ? (size_t)(slash - key) : 0; /* the parent ends there */
    const char *parent = key + above;
    while (parent > key && parent[-1] != '/') parent--;
    const double rows = t.dim[0], axis1 = t.ndim > 1 ? t.dim[1] : 1;
    double fan = 1;
    for (int i = 0; i + 1 < t.ndim; i++) fan *= t.dim[i];
    char name[KEY_BYTES];
    snprintf(name, sizeof name, "%.*s", (int)(key + above - parent), parent);
    const bool projection = !strcmp(name, "query") || !strcmp(name, "key") || !strcmp(name, "value");
    const bool less_one = strstr(name, "pre_norm") != NULL; /* scales that are stored minus one */
    const struct {
        const char *leaf;
        range of;
    } rules[] = {
        {"kernel", {0, sqrt(3 / (projection ? rows : fan))}},
        {"w", {0, t.ndim == 3 ? sqrt(3 / axis1) : 0.6}},
        {"a_param", {-3.5, 3.5}},
        {"scale", {less_one ? 0 : 1, less_one ? 0.3 : 0.2}},
        {"bias", {0, 0.1}},
        {"b", {0, 0.1}},
        {"pos_embedding", {0, 0.3}},
        {"cls", {0, 0.5}},
        {"embedding", {0, 1}},
        {"Lambda_re", {-0.25, 0.35}},
        {"Lambda_im", {-4 * rows, 4 * rows}},
        {"log_step", {-4.605, 2.3}},
        {"B", {0, 20 * sqrt(3 / axis1)}},
        {"C", {0, t.ndim > 2 ? sqrt(3 / (rows * axis1 * t.dim[2])) : 1}},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(leaf, rules[i].leaf) == 0) {
            *out = rules[i].of;
            return true;
        }
    return false;
}

typedef struct filling {
    float *to;
    int64_t count;
    uint64_t seed;
    range range;
} filling;

static void fill_slice(void *arg, int task, int worker)
{
    (void)worker;
    const filling *f = arg;
    const int64_t first = (int64_t)task * SLICE, end = first + SLICE < f->count ? first + SLICE : f->count;
    for (int64_t i = first; i < end; i++) {
        uint64_t z = f->seed + ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        const double u = (double)(z >> 40) * 0x1p-24;
        f->to[i] = (float)(f->range.middle + f->range.spread * (2 * u - 1));
    }
}

static void key_of(char key[KEY_BYTES], const char *name)
{
    snprintf(key, KEY_BYTES, "%s", name);
    for (char *p = key; *p; p++)
        if (*p == '.') *p = '/';
}

sv_status check_rule_fill(sv_ctx *c, sv_weights *weights, const char *prefix)
{
    for (int i = 0; i < sv_weights_count(weights); i++) {
        const sv_tensor t = sv_weights_tensor(weights, i);
        char key[KEY_BYTES];
        key_of(key, sv_weights_name(weights, i));
        filling f = {.to = sv_f32(t), .count = (int64_t)t.dim[0] * sv_row_elements(t)};
        SV_CHECK(c, range_of(key, t, &f.range), SV_UNSUPPORTED, "the rule for weights has no line for '%s'",
                 key);
        f.seed = name_seed(prefix, key);
        sv_pool_run(c->pool, fill_slice, &f, (int)((f.count + SLICE - 1) / SLICE));
    }
    return SV_OK;
}

/* ---- NAME_keys.txt ------------------------------------------------------------------------------------ */

/* One line against its tensor; false when it differs. */
static bool line_fits(const char *line, const char *key, sv_tensor t)
{
    char shape[64];
    int used = snprintf(shape, sizeof shape, " [");
    for (int k = 0; k < t.ndim; k++)
        used += snprintf(shape + used, sizeof shape - (size_t)used, k ? ", %d" : "%d", t.dim[k]);
    snprintf(shape + used, sizeof shape - (size_t)used, "] ");
    line += strlen(key);
    if (strncmp(line, shape, strlen(shape)) != 0) return false;
    double sum = 0, largest = 0;
    const int64_t count = (int64_t)t.dim[0] * sv_row_elements(t);
    for (int64_t i = 0; i < count; i++) {
        sum += (double)sv_f32(t)[i];
        largest = fmax(largest, fabs((double)sv_f32(t)[i]));
    }
    const char *p = strstr(line, "sum=");
    if (!p || !(fabs(strtod(p + 4, NULL) - sum) <= 1e-7 * largest * (double)count + 1e-6)) return false;
    p = strstr(line, "first=[");
    if (!p) return false;
    char *at = (char *)(uintptr_t)(p + 6);
    for (int i = 0; i < 3 && i < count; i++)
        if ((float)strtod(at + 1, &at) != sv_f32(t)[i]) return false;
    return true;
}

sv_status check_rule_keys(check_run *run, check_file *file, const sv_weights *weights)
{
    char path[1024];
    void *text = NULL;
    size_t bytes = 0;
    const size_t length = strlen(file->path), stem = length - (ends_in(file->path, length, ".h5") ? 3 : 0);
    snprintf(path, sizeof path, "%.*s_keys.txt", (int)stem, file->path);
    FILE *there = fopen(path, "r");
    if (!there) return SV_OK;
    fclose(there);
    SV_TRY(sv_file_read(run->c, path, FILE_LIMIT, &text, &bytes));
    int lines = 0;
    char wrong[KEY_BYTES] = "";
    for (char *line = text, *next; *line; line = next) {
        char *end = strchr(line, '\n');
        next = end ? end + 1 : line + strlen(line);
        if (end) *end = '\0';
        char name[KEY_BYTES];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(line, " "), line);
        for (char *p = name; *p; p++)
            if (*p == '/') *p = '.';
        const sv_tensor t = sv_weights_find(weights, name);
        lines++;
        if (!wrong[0] && (sv_is_none(t) || !line_fits(line, name, t)))
            snprintf(wrong, sizeof wrong, "%s", name);
    }
    free(text);
    const int count = sv_weights_count(weights);
    if (wrong[0])
        check_result(run, file, "weights", false, "'%s' is not as %s says", wrong, path);
    else
        check_result(run, file, "weights", lines == count, "%d of %d tensors are as listed in the keys' file",
                     lines, count);
    return SV_OK;
}
