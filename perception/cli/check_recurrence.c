/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of bare recurrences: cases "NAME/in/...", "NAME/out/...". The recurrence that lists the file's 'operator'
 * among its recordings says by its table of ports what each dataset is and in which order its dimensions lie; from that,
 * sizes are read, inputs are brought into rows, every form is run and compared.
 *
 * Tolerance: max(10 x f32_rel_maxerr, 1e-5) x the largest magnitude, f32_rel_maxerr being what the file's own authors
 * lost in float32 (an attribute of the case, where it was measured).
 */
#include "check.h"

#include "backbones/operator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has_inputs(const check_file *file)
{
    for (int i = 0; i < file->count; i++)
        if (strstr(file->names[i], "/in/")) return true;
    return false;
}

static bool is_recurrence(check_file *file)
{
    return sv_h5_has_attribute(file->h5, "operator") && sv_h5_has_attribute(file->h5, "layout") &&
           has_inputs(file);
}

static const sv_recurrence *find_recurrence(const char *name)
{
    for (int i = 0; sv_operator_at(i); i++) {
        const sv_recurrence *type = sv_operator_at(i)->recurrence;
        for (int k = 0; type && type->recordings && type->recordings[k]; k++)
            if (strcmp(type->recordings[k], name) == 0) return type;
    }
    return NULL;
}

/* ---- layouts ------------------------------------------------------------------------------------------ */

enum { MAX_AXES = 8 };

/* One dimension of a dataset: a letter, or several with the outermost first. */
typedef struct axis {
    char letters[4];
    int count;
} axis;

static int read_layout(const char *layout, axis *axes)
{
    int count = 0;
    bool inside = false;
    for (; *layout && count <= MAX_AXES; layout++) {
        if (*layout == '(' || *layout == ')') {
            inside = *layout == '(';
            if (inside) axes[count++] = (axis){.count = 0};
        } else if (inside && axes[count - 1].count < 4) {
            axes[count - 1].letters[axes[count - 1].count++] = *layout;
        } else {
            axes[count++] = (axis){.letters = {*layout}, .count = 1};
        }
    }
    return count;
}

typedef struct recurrence_case {
    check_run *run;
    check_file *file;
    char name[64]; /* "small" */
    sv_instance *self;
    int groups, length, form;
    double error; /* relative, of float32 */
} recurrence_case;

/* Tokens of a group. In layouts that speak of mini-batches T counts those, and t the tokens of one. */
static int tokens_of(const recurrence_case *k)
{
    const int batch = k->self->size['t'];
    return k->length * (batch > 0 ? batch : 1);
}

static int size_of(const recurrence_case *k, char letter)
{
    if (letter == 'B') return k->groups;
    if (letter == 'T') return k->length;
    return letter >= 'A' && letter <= 'z' ? k->self->size[(int)letter] : letter - '0';
}

/* The axes of an array: those of length 1 that a layout mentions may be missing. */
static int fit_layout(const char *layout, const sv_h5_array *array, axis *axes)
{
    int count = read_layout(layout, axes);
    for (int i = count - 1; i >= 0 && count > array->ndim; i--)
        if (axes[i].count == 1 && axes[i].letters[0] == '1') {
            memmove(axes + i, axes + i + 1, sizeof *axes * (size_t)(count - i - 1));
            count--;
        }
    return count;
}

/* Learn or compare the sizes that a dataset's dimensions imply. 'products': those of several letters. */
static sv_status learn_sizes(recurrence_case *k, const char *name, const char *layout,
                             const sv_h5_array *array, bool products)
{
    sv_ctx *c = k->run->c;
    axis axes[MAX_AXES + 1];
    const int count = fit_layout(layout, array, axes);
    SV_CHECK(c, count == array->ndim, SV_BAD_INPUT, "%s: '%s' has %d dimensions; '%s' was expected",
             k->file->path, name, array->ndim, layout);
    for (int i = 0; i < count; i++) {
        if ((axes[i].count > 1) != products) continue;
        int64_t known = 1;
        char unknown = 0;
        for (int j = 0; j < axes[i].count; j++) {
            const char letter = axes[i].letters[j];
            if (size_of(k, letter) > 0)
                known *= size_of(k, letter);
            else
                unknown = letter;
        }
        const int64_t size = array->dim[i];
        if (unknown && size % known == 0) {
            if (unknown == 'B')
                k->groups = (int)size;
            else if (unknown == 'T')
                k->length = (int)(size / known);
            else
                k->self->size[(int)unknown] = (int)(size / known);
            continue;
        }
        SV_CHECK(c, known == size, SV_BAD_INPUT,
                 "%s: dimension %d of '%s' is %lld; %lld was expected from '%s'", k->file->path, i, name,
                 (long long)size, (long long)known, layout);
    }
    return SV_OK;
}

/* 'recorded' brought into the order 'core' (its letters; none given: B, T and the rest). malloc'ed. */
static float *reordered(const recurrence_case *k, const char *layout, const char *core,
                        const sv_h5_array *array)
{
    axis axes[MAX_AXES + 1];
    const int count = fit_layout(layout, array, axes);
    static const char leading[] = "BTt";
    char letters[32], order[32];
    int sizes[32], n = 0, m = 0;
    for (int i = 0; i < count; i++)
        for (int j = 0; j < axes[i].count; j++) {
            letters[n] = axes[i].letters[j];
            sizes[n++] = size_of(k, axes[i].letters[j]);
        }
    if (core) {
        for (; *core; core++)
            if (memchr(letters, *core, (size_t)n)) order[m++] = *core;
    } else {
        for (int pass = 0; pass < 4; pass++)
            for (int i = 0; i < n; i++) {
                const char *first = strchr(leading, letters[i]);
                if ((first ? first - leading : 3) == pass) order[m++] = letters[i];
            }
    }
    size_t stride[32];
    int extent[32], at[32] = {0};
    bool taken[32] = {false};
    for (int j = 0; j < m; j++) { /* a letter that stands twice is taken from left to right */
        int from = 0;
        while (letters[from] != order[j] || taken[from]) from++;
        taken[from] = true;
        stride[j] = 1;
        for (int i = n - 1; i > from; i--) stride[j] *= (size_t)sizes[i];
        extent[j] = sizes[from];
    }
    float *out = malloc(sizeof *out * array->count + 1);
    for (size_t i = 0; out && i < array->count; i++) {
        size_t from = 0;
        for (int j = 0; j < m; j++) from += (size_t)at[j] * stride[j];
        out[i] = array->integer ? (float)array->i[from] : array->f[from];
        for (int j = m - 1; j >= 0 && ++at[j] == extent[j]; j--) at[j] = 0;
    }
    return out;
}

/* ---- inputs ------------------------------------------------------------------------------------------- */

static void dataset_name(const recurrence_case *k, const char *side, const char *name, char out[160])
{
    snprintf(out, 160, "%s/%s/%s", k->name, side, name);
}

static bool has_input(const recurrence_case *k, const sv_port *port)
{
    char name[160];
    if (!port->name) return false;
    dataset_name(k, "in", port->name, name);
    return check_has(k->file, name);
}

static sv_status read_sizes(recurrence_case *k, bool products)
{
    for (const sv_port *port = k->self->type->ports; port->kind != SV_PORT_END; port++) {
        if (port->kind != SV_PORT_TOKEN && port->kind != SV_PORT_WEIGHT && port->kind != SV_PORT_STATE)
            continue;
        char name[160];
        if (!has_input(k, port)) {
            SV_CHECK(k->run->c, port->optional || port->kind == SV_PORT_STATE, SV_BAD_INPUT,
                     "%s: %s has no 'in/%s'", k->file->path, k->name, port->name ? port->name : "?");
            continue;
        }
        dataset_name(k, "in", port->name, name);
        sv_h5_array array;
        SV_TRY(check_read(k->run, k->file, name, &array));
        const sv_status status = learn_sizes(k, name, port->layout, &array, products);
        sv_h5_array_free(&array);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status read_port(recurrence_case *k, const sv_port *port, float **out, size_t *count)
{
    char name[160];
    sv_h5_array array;
    dataset_name(k, "in", port->name, name);
    SV_TRY(check_read(k->run, k->file, name, &array));
    *out = reordered(k, port->layout, port->core, &array);
    *count = array.count;
    sv_h5_array_free(&array);
    SV_CHECK(k->run->c, *out, SV_NO_MEMORY, "no memory");
    return SV_OK;
}

static sv_status upload(sv_ctx *c, sv_tensor *out, const float *values, int rows, int columns)
{
    SV_TRY(sv_frame_alloc(c, out, "reference input", SV_F32, rows, columns, SV_NONE));
    SV_TRY(c->device->upload(c, out->data, values, sizeof *values * (size_t)rows * (size_t)columns));
    return c->device->queue_wait(c);
}

/* A state part's columns into the rows of all parts; parts of a head lie together where the recurrence says so. */
static void place_part(const recurrence_case *k, int port, const float *part, float *state, bool back,
                       float *out)
{
    const sv_recurrence *type = k->self->type;
    const int heads = type->state_per_head ? k->self->size['H'] : 1, all = sv_state_columns(k->self);
    const int width = sv_port_columns(k->self, port) / heads, first = sv_state_first(k->self, port) / heads;
    for (int g = 0; g < k->groups; g++)
        for (int h = 0; h < heads; h++) {
            float *here = state + (size_t)g * (size_t)all + (size_t)(h * (all / heads) + first);
            const size_t there = (size_t)(g * heads + h) * (size_t)width;
            if (back)
                memcpy(out + there, here, sizeof *out * (size_t)width);
            else
                memcpy(here, part + there, sizeof *here * (size_t)width);
        }
}

static sv_status read_state(recurrence_case *k, sv_tensor *out)
{
    sv_ctx *c = k->run->c;
    const sv_port *ports = k->self->type->ports;
    const int columns = sv_state_columns(k->self);
    bool any = false;
    *out = SV_NONE;
    float *state = calloc((size_t)k->groups * (size_t)columns + 1, sizeof *state);
    SV_CHECK(c, state, SV_NO_MEMORY, "no memory");
    sv_status status = SV_OK;
    for (int i = 0; ports[i].kind != SV_PORT_END && status == SV_OK; i++) {
        if (ports[i].kind != SV_PORT_STATE || !has_input(k, &ports[i])) continue;
        float *part = NULL;
        size_t count = 0;
        status = read_port(k, &ports[i], &part, &count);
        if (status == SV_OK) place_part(k, i, part, state, false, NULL);
        free(part);
        any = true;
    }
    if (status == SV_OK && any) status = upload(c, out, state, k->groups, columns);
    free(state);
    return status;
}

static sv_status read_inputs(recurrence_case *k, sv_tensor *in)
{
    sv_ctx *c = k->run->c;
    const sv_port *ports = k->self->type->ports;
    for (int i = 0; ports[i].kind != SV_PORT_END; i++) {
        char name[160];
        in[i] = SV_NONE;
        if (ports[i].kind == SV_PORT_NUMBER) {
            snprintf(name, sizeof name, "%s/in@%s", k->name, ports[i].name);
            k->self->number[i] = ports[i].value;
            if (sv_h5_has_attribute(k->file->h5, name))
                SV_TRY(sv_h5_number(c, k->file->h5, name, &k->self->number[i]));
        }
        if ((ports[i].kind != SV_PORT_TOKEN && ports[i].kind != SV_PORT_WEIGHT) || !has_input(k, &ports[i]))
            continue;
        float *values = NULL;
        size_t count = 0;
        SV_TRY(read_port(k, &ports[i], &values, &count));
        int rows = k->groups * tokens_of(k);
        if (ports[i].kind == SV_PORT_WEIGHT) {
            rows = size_of(k, sv_port_core(&ports[i])[0]);
            k->self->host[i] = sv_view(values, SV_F32, rows, (int)(count / (size_t)rows));
        }
        const sv_status status = upload(c, &in[i], values, rows, (int)(count / (size_t)rows));
        if (ports[i].kind == SV_PORT_WEIGHT)
            k->self->weight[i] = in[i];
        else
            free(values);
        SV_TRY(status);
    }
    return SV_OK;
}

/* ---- results ------------------------------------------------------------------------------------------ */

static double largest_of(const float *values, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++)
        if (isfinite(values[i])) most = fmax(most, fabs((double)values[i]));
    return most;
}

static sv_status compare(recurrence_case *k, const char *name, const char *layout, const char *core,
                         const float *got, size_t count)
{
    sv_h5_array want;
    SV_TRY(check_read(k->run, k->file, name, &want));
    float *values = NULL;
    sv_status status = SV_OK;
    if (want.count != count)
        check_result(k->run, k->file, name, false, "%zu values instead of %zu", count, want.count);
    else
        status = learn_sizes(k, name, layout, &want, true);
    if (want.count == count && status == SV_OK) {
        values = reordered(k, layout, core, &want);
        if (values)
            check_floats(k->run, k->file, name, got, values, count,
                         fmax(10 * k->error, 1e-5) * largest_of(values, count));
        else
            status = SV_FAIL(k->run->c, SV_NO_MEMORY, "no memory");
    }
    free(values);
    sv_h5_array_free(&want);
    return status;
}

static sv_status compare_tensor(recurrence_case *k, const char *name, const char *layout, const char *core,
                                sv_tensor tensor)
{
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(k->run->c, tensor, &host, &rows));
    const size_t count = (size_t)rows * (size_t)sv_row_elements(tensor);
    for (size_t i = 0; tensor.dtype == SV_I32 && i < count; i++) { /* whole numbers are compared as such */
        const float number = (float)((int32_t *)host)[i];
        memcpy((float *)host + i, &number, sizeof number);
    }
    const sv_status status = compare(k, name, layout, core, host, count);
    free(host);
    return status;
}

static sv_status compare_shown(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    recurrence_case *k = user;
    (void)c;
    for (const sv_port *port = k->self->type->ports; port->kind != SV_PORT_END; port++) {
        char dataset[160];
        if (port->kind != SV_PORT_SHOWN || strcmp(port->name, name) != 0 || port->form != k->form) continue;
        dataset_name(k, "out", name, dataset);
        if (check_has(k->file, dataset)) return compare_tensor(k, dataset, port->layout, port->core, tensor);
    }
    return SV_OK;
}

static sv_status compare_states(recurrence_case *k, const sv_port *result, sv_tensor after)
{
    const sv_port *ports = k->self->type->ports;
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(k->run->c, after, &host, &rows));
    sv_status status = SV_OK;
    for (int i = 0; ports[i].kind != SV_PORT_END && status == SV_OK; i++) {
        char part[96], name[160];
        if (ports[i].kind != SV_PORT_STATE || !ports[i].after) continue;
        const char *mark = strstr(ports[i].after, "%s");
        if (!mark && k->form != 0) continue;
        if (mark)
            snprintf(part, sizeof part, "%.*s%s%s", (int)(mark - ports[i].after), ports[i].after,
                     result->name, mark + 2);
        else
            snprintf(part, sizeof part, "%s", ports[i].after);
        dataset_name(k, "out", part, name);
        if (!check_has(k->file, name)) continue;
        const size_t count = (size_t)rows * (size_t)sv_port_columns(k->self, i);
        float *values = malloc(sizeof *values * count + 1);
        if (!values) {
            status = SV_FAIL(k->run->c, SV_NO_MEMORY, "no memory");
            break;
        }
        place_part(k, i, NULL, host, true, values);
        status = compare(k, name, ports[i].layout, ports[i].core, values, count);
        free(values);
    }
    free(host);
    return status;
}

static sv_status run_form(recurrence_case *k, const sv_port *result, const sv_tensor *in, sv_tensor state)
{
    sv_ctx *c = k->run->c;
    const int columns = sv_layout_columns(k->self, sv_port_core(result));
    sv_call call = {.of = k->self, .in = in, .form = result->form, .seq = {.length = tokens_of(k)}};
    k->form = result->form;
    SV_TRY(sv_frame_alloc(c, &call.y, "output", SV_F32, k->groups * tokens_of(k), columns, SV_NONE));
    if (!result->fresh) call.seq.state_in = state;
    if (sv_state_columns(k->self) > 0)
        SV_TRY(sv_frame_alloc(c, &call.seq.state_out, "state", SV_F32, k->groups, sv_state_columns(k->self),
                              SV_NONE));
    c->probe = compare_shown;
    c->probe_user = k;
    const sv_status status = sv_recurrence_run(c, &call);
    c->probe = NULL;
    SV_TRY(status);
    char name[160];
    dataset_name(k, "out", result->name, name);
    SV_TRY(compare_tensor(k, name, result->layout, result->core, call.y));
    return sv_is_none(call.seq.state_out) ? SV_OK : compare_states(k, result, call.seq.state_out);
}

static sv_status run_case(recurrence_case *k)
{
    sv_ctx *c = k->run->c;
    const sv_recurrence *type = k->self->type;
    char name[160];
    snprintf(name, sizeof name, "%s@f32_rel_maxerr", k->name);
    if (sv_h5_has_attribute(k->file->h5, name)) SV_TRY(sv_h5_number(c, k->file->h5, name, &k->error));
    if (!isfinite(k->error)) k->error = 0;
    SV_TRY(read_sizes(k, false));
    SV_TRY(read_sizes(k, true));
    if (k->groups == 0) k->groups = 1;
    sv_tensor in[SV_MAX_PORTS], state;
    SV_TRY(read_inputs(k, in));
    SV_TRY(read_state(k, &state));
    if (type->prepare) SV_TRY(type->prepare(c, k->self));
    for (const sv_port *port = type->ports; port->kind != SV_PORT_END; port++) {
        if (port->kind != SV_PORT_RESULT || !port->name) continue;
        dataset_name(k, "out", port->name, name);
        if (check_has(k->file, name)) SV_TRY(run_form(k, port, in, state));
    }
    return SV_OK;
}

/* Every case once: the prefix of its first input. */
static sv_status run_cases(check_run *run, check_file *file, const sv_recurrence *type, sv_instance *self)
{
    char last[64] = "";
    for (int i = 0; i < file->count && !run->stop; i++) {
        const char *inputs = strstr(file->names[i], "/in/");
        recurrence_case k = {.run = run, .file = file, .self = self};
        if (!inputs || inputs - file->names[i] >= (ptrdiff_t)sizeof k.name) continue;
        snprintf(k.name, sizeof k.name, "%.*s", (int)(inputs - file->names[i]), file->names[i]);
        if (strcmp(k.name, last) == 0) continue;
        snprintf(last, sizeof last, "%s", k.name);
        memset(self, 0, sizeof *self);
        self->type = type;
        const sv_status status = run_case(&k);
        for (int p = 0; p < SV_MAX_PORTS; p++) free(self->host[p].data);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status run_recurrence(check_run *run, check_file *file)
{
    char *name = NULL;
    sv_ctx *c = run->c;
    SV_TRY(sv_h5_text(c, file->h5, "operator", &name));
    const sv_recurrence *type = find_recurrence(name);
    sv_status status = SV_OK;
    if (!type) status = SV_FAIL(c, SV_UNSUPPORTED, "operator '%s' is not built in", name);
    free(name);
    SV_TRY(status);
    sv_instance *self = calloc(1, sizeof *self);
    SV_CHECK(c, self, SV_NO_MEMORY, "no memory");
    sv_arena arena;
    sv_arena_init(&arena, "reference weights", c->device);
    c->weights = &arena;
    status = run_cases(run, file, type, self);
    c->weights = NULL;
    sv_arena_free(&arena);
    free(self);
    return status;
}

const check_kind check_recurrence = {"recurrence", is_recurrence, run_recurrence};
