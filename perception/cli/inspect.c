/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna inspect: what is this file, and is it sane?
 */
#include "app.h"

#include "datasets/dataset.h"
#include "backbones/operator.h"
#include "perception/core/h5.h"
#include "perception/json.h"
#include "perception/model/builtin.h"
#include "perception/points.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *layout, *config;
static bool tensors;

static bool has_suffix(const char *text, const char *suffix)
{
    const size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

/* ---- configurations ----------------------------------------------------------------------------------- */

static void print_config(const sv_app *app, const char *path, const sv_model *model, int tensor_count,
                         const sv_operator_facts *facts)
{
    if (app->json) {
        sv_json j = sv_json_begin(stdout);
        sv_json_object(&j, SV_JSON_LINES);
        sv_json_key(&j, "kind"), sv_json_text(&j, "configuration");
        sv_json_key(&j, "model"), sv_json_text(&j, sv_model_name(model));
        sv_json_key(&j, "operator"), sv_json_text(&j, sv_model_operator(model));
        sv_json_key(&j, "parameters"), sv_json_int(&j, sv_model_parameters(model));
        sv_json_key(&j, "tensors"), sv_json_int(&j, tensor_count);
        sv_json_key(&j, "point_features"), sv_json_text(&j, sv_model_point_layout(model));
        if (facts->parameters > 0) {
            sv_json_key(&j, "operator_parameters"), sv_json_int(&j, facts->parameters);
            sv_json_key(&j, "operator_flop_per_token"), sv_json_double(&j, facts->flops);
        }
        sv_json_end(&j);
        return;
    }
    const sv_grid *grid = sv_model_grid(model);
    if (tensor_count > 0) {
        printf("%s: configuration of %s with operator %s\n", path, sv_model_name(model),
               sv_model_operator(model));
        printf("  parameters      %lld in %d tensors\n", (long long)sv_model_parameters(model), tensor_count);
    } else {
        printf("%s: configuration of %s by %s, which needs no weights\n", path, sv_model_name(model),
               sv_model_operator(model));
    }
    printf("  points          %s\n", sv_model_point_layout(model));
    if (tensor_count > 0)
        printf("  voxel grid      %d x %d x %d cells of %g x %g x %g m (x, y, z)\n", grid->cells[0],
               grid->cells[1], grid->cells[2], (double)grid->size[0], (double)grid->size[1],
               (double)grid->size[2]);
    printf("  range           %g..%g, %g..%g, %g..%g m (x, y, z)\n", (double)grid->min[0],
           (double)grid->max[0], (double)grid->min[1], (double)grid->max[1], (double)grid->min[2],
           (double)grid->max[2]);
    printf("  classes        ");
    for (int i = 0; i < sv_model_class_count(model); i++) printf(" %s", sv_model_classes(model)[i]);
    printf("\n  every key is understood\n");
}

/* What one block of the configured operator costs, in a group of 1024 tokens. */
static sv_status measure_operator(const sv_app *app, sv_ctx *c, const char *path, sv_operator_facts *facts)
{
    sv_config *loaded = NULL;
    const sv_node *backbone = NULL;
    const char *name = NULL;
    int channels = 0;
    SV_TRY(sv_config_load(c, path, app->sets.text, app->sets.count, &loaded));
    sv_status status = sv_node_require(c, sv_config_root(loaded), "MODEL.BACKBONE_3D", &backbone);
    if (status == SV_OK) status = sv_node_string(c, backbone, "OPERATOR.NAME", &name);
    if (status == SV_OK) status = sv_node_int(c, backbone, "FEATURE_DIM", &channels);
    const sv_operator *type = status == SV_OK ? sv_operator_find(name) : NULL;
    if (type)
        status = sv_operator_measure(c, type, sv_node_find(backbone, "OPERATOR.CFG"), channels, 1024, facts);
    sv_config_free(loaded);
    return status;
}

static sv_status inspect_config(const sv_app *app, sv_ctx *c, const char *path)
{
    const sv_model_def def = {.config = path, .sets = app->sets.text, .set_count = app->sets.count};
    sv_model *model = NULL;
    bool network = true;
    SV_TRY(sv_model_needs_weights(c, &def, &network));
    if (!network) {
        SV_TRY(sv_model_open(c, &def, &model));
        print_config(app, path, model, 0, &(sv_operator_facts){.parameters = 0});
        sv_model_release(model);
        return SV_OK;
    }
    /* Binding random weights reads every key: unknown and unsupported ones are found, and parameters counted. */
    sv_weights *w = sv_weights_new();
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory");
    sv_status status = sv_model_init(c, &def, 0, w);
    const sv_model_def open = {.sets = NULL};
    if (status == SV_OK) status = sv_model_open_weights(c, &open, w, &model);
    sv_operator_facts facts = {.parameters = 0};
    if (status == SV_OK) status = measure_operator(app, c, path, &facts);
    if (status == SV_OK) print_config(app, path, model, sv_weights_count(w), &facts);
    if (status == SV_OK && !app->json && facts.parameters > 0)
        printf("  operator        %lld parameters a block, %.1f kFLOP a token\n", (long long)facts.parameters,
               facts.flops * 1e-3);
    sv_model_release(model);
    sv_weights_free(w);
    return status;
}

/* ---- weights ------------------------------------------------------------------------------------------ */

typedef struct tensor_facts {
    size_t count, not_finite;
    double smallest, largest;
} tensor_facts;

static tensor_facts look_at(sv_tensor t)
{
    tensor_facts facts = {
        .count = (size_t)t.dim[0] * (size_t)sv_row_elements(t), .smallest = INFINITY, .largest = -INFINITY};
    for (size_t i = 0; t.dtype == SV_F32 && i < facts.count; i++) {
        const double v = sv_f32(t)[i];
        if (!isfinite(v))
            facts.not_finite++;
        else {
            if (v < facts.smallest) facts.smallest = v;
            if (v > facts.largest) facts.largest = v;
        }
    }
    return facts;
}

static void print_shape(FILE *to, sv_tensor t)
{
    for (int i = 0; i < t.ndim; i++) fprintf(to, "%s%d", i ? "x" : "", t.dim[i]);
}

static sv_status inspect_weights(const sv_app *app, sv_ctx *c, const char *path)
{
    sv_weights *w = NULL;
    sv_model *model = NULL;
    SV_TRY(sv_weights_open(c, path, &w));
    size_t numbers = 0, not_finite = 0;
    for (int i = 0; i < sv_weights_count(w); i++) {
        const tensor_facts facts = look_at(sv_weights_tensor(w, i));
        numbers += facts.count;
        not_finite += facts.not_finite;
    }
    sv_status status = SV_OK;
    if (config || sv_weights_meta(w, "config")) {
        const sv_model_def def = {
            .config = config, .weights = path, .sets = app->sets.text, .set_count = app->sets.count};
        status = sv_model_open_weights(c, &def, w, &model);
    }
    if (status == SV_OK && app->json) {
        sv_json j = sv_json_begin(stdout);
        sv_json_object(&j, SV_JSON_LINES);
        sv_json_key(&j, "kind"), sv_json_text(&j, sv_weights_kind(w));
        sv_json_key(&j, "tensors"), sv_json_int(&j, sv_weights_count(w));
        sv_json_key(&j, "numbers"), sv_json_int(&j, (int64_t)numbers);
        sv_json_key(&j, "not_finite"), sv_json_int(&j, (int64_t)not_finite);
        if (model) sv_json_key(&j, "parameters"), sv_json_int(&j, sv_model_parameters(model));
        sv_json_key(&j, "metadata"), sv_json_object(&j, SV_JSON_LINES);
        for (int i = 0; i < sv_weights_meta_count(w); i++) {
            sv_json_key(&j, sv_weights_meta_key(w, i));
            sv_json_text(&j, sv_weights_meta(w, sv_weights_meta_key(w, i)));
        }
        sv_json_end(&j);
        sv_json_end(&j);
    } else if (status == SV_OK) {
        printf("%s: weights (%s), %d tensors, %zu numbers\n", path, sv_weights_kind(w), sv_weights_count(w),
               numbers);
        for (int i = 0; i < sv_weights_meta_count(w); i++) {
            const char *key = sv_weights_meta_key(w, i), *value = sv_weights_meta(w, key);
            if (strcmp(key, "config") == 0)
                printf("  %-15s %zu bytes of YAML\n", key, strlen(value));
            else
                printf("  %-15s %s\n", key, value);
        }
        if (model)
            printf("  fits            %s with operator %s, %lld parameters\n", sv_model_name(model),
                   sv_model_operator(model), (long long)sv_model_parameters(model));
        else
            printf("  no configuration inside: name one with -c to see whether the tensors fit it\n");
        if (not_finite > 0) printf("  NOT FINITE      %zu numbers\n", not_finite);
        for (int i = 0; tensors && i < sv_weights_count(w); i++) {
            const sv_tensor t = sv_weights_tensor(w, i);
            const tensor_facts facts = look_at(t);
            printf("  %-64s ", sv_weights_name(w, i));
            print_shape(stdout, t);
            if (t.dtype == SV_F32 && facts.count > 0) printf("  %.4g..%.4g", facts.smallest, facts.largest);
            if (facts.not_finite > 0) printf("  %zu NOT FINITE", facts.not_finite);
            printf("\n");
        }
    }
    sv_model_release(model);
    sv_weights_free(w);
    SV_TRY(status);
    SV_CHECK(c, not_finite == 0, SV_NOT_MET, "%s: %zu weights are not finite", path, not_finite);
    return SV_OK;
}

/* ---- point clouds ------------------------------------------------------------------------------------- */

static sv_status inspect_points(const sv_app *app, sv_ctx *c, const char *path)
{
    sv_points points;
    const bool named = has_suffix(path, ".pcd") || has_suffix(path, ".ply"); /* by the file itself */
    SV_TRY(sv_points_read(c, path, layout || named ? layout : "xyzi", &points));
    const char *columns = points.layout;
    if (app->json)
        printf("{\"kind\":\"points\",\"layout\":\"%s\",\"points\":%d,\"dropped\":%d}\n", columns,
               points.count, points.dropped);
    else {
        printf("%s: %d points, layout %s%s", path, points.count, columns,
               layout || named ? "" : " (the default; name another with --layout)");
        if (points.dropped > 0) printf(", %d not finite and left out", points.dropped);
        printf("\n");
        for (int k = 0; k < points.columns && points.count > 0; k++) {
            float low = points.data[k], high = points.data[k];
            for (int i = 1; i < points.count; i++) {
                const float v = points.data[(size_t)i * (size_t)points.columns + (size_t)k];
                if (v < low) low = v;
                if (v > high) high = v;
            }
            printf("  %c  %10.4g .. %.4g\n", columns[k], (double)low, (double)high);
        }
    }
    sv_points_free(&points);
    return SV_OK;
}

/* ---- recordings and dumps ----------------------------------------------------------------------------- */

static sv_status inspect_h5(const sv_app *app, sv_ctx *c, const char *path)
{
    sv_h5 *file = NULL;
    char **names = NULL;
    int count = 0;
    SV_TRY(sv_h5_open(c, path, &file));
    sv_status status = sv_h5_names(c, file, &names, &count);
    if (status == SV_OK && app->json)
        printf("{\"kind\":\"hdf5\",\"datasets\":%d}\n", count);
    else if (status == SV_OK)
        printf("%s: HDF5 with %d datasets; not a model file%s\n", path, count,
               tensors ? "" : " (--tensors lists them)");
    for (int i = 0; status == SV_OK && tensors && !app->json && i < count; i++) {
        sv_h5_array array;
        status = sv_h5_read(c, file, names[i], &array);
        if (status != SV_OK) break;
        printf("  %-56s ", names[i]);
        for (int k = 0; k < array.ndim; k++) printf("%s%lld", k ? "x" : "", (long long)array.dim[k]);
        printf(" %s\n", array.integer ? "integers" : "floats");
        sv_h5_array_free(&array);
    }
    sv_h5_names_free(names, count);
    sv_h5_close(c, file);
    return status;
}

/* ---- datasets ----------------------------------------------------------------------------------------- */

static sv_status inspect_dataset(const sv_app *app, sv_ctx *c, const char *path)
{
    sv_findings findings;
    SV_TRY(sv_dataset_inspect(c, path, &findings));
    if (app->json) {
        sv_json j = sv_json_begin(stdout);
        sv_json_object(&j, SV_JSON_LINES);
        sv_json_key(&j, "kind"), sv_json_text(&j, "dataset");
        sv_json_key(&j, "dataset"), sv_json_text(&j, findings.dataset);
        sv_json_key(&j, "problems"), sv_json_int(&j, findings.bad);
        sv_json_key(&j, "findings"), sv_json_array(&j, SV_JSON_LINES);
        for (int i = 0; i < findings.count; i++) {
            sv_json_object(&j, SV_JSON_INLINE);
            sv_json_key(&j, "of"), sv_json_text(&j, findings.data[i].key);
            sv_json_key(&j, "finding"), sv_json_text(&j, findings.data[i].text);
            sv_json_key(&j, "problem"), sv_json_bool(&j, findings.data[i].bad);
            sv_json_end(&j);
        }
        sv_json_end(&j);
        sv_json_end(&j);
    } else {
        printf("%s: dataset %s\n", path, findings.dataset);
        for (int i = 0; i < findings.count; i++)
            printf("  %-15s %s%s\n", findings.data[i].key, findings.data[i].bad ? "PROBLEM: " : "",
                   findings.data[i].text);
    }
    const int bad = findings.bad;
    sv_findings_free(&findings);
    SV_CHECK(c, bad == 0, SV_NOT_MET, "%s: %d %s, see above", path, bad, bad == 1 ? "problem" : "problems");
    return SV_OK;
}

static sv_status inspect(const sv_app *app, sv_ctx *c, const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return inspect_dataset(app, c, path);
    if (has_suffix(path, ".yaml") || has_suffix(path, ".yml") ||
        (sv_builtin_find(path) && !strchr(path, '.')))
        return inspect_config(app, c, path);
    if (sv_points_name(path)) return inspect_points(app, c, path);
    if (sv_h5_is(path)) {
        sv_h5 *file = NULL;
        SV_TRY(sv_h5_open(c, path, &file));
        const bool model = sv_h5_has_attribute(file, "format_version");
        sv_h5_close(c, file);
        if (!model) return inspect_h5(app, c, path);
    }
    return inspect_weights(app, c, path);
}

static int run_inspect(sv_app *app, int count, char **inputs)
{
    if (count == 0) return sv_app_usage_error(app, "name the file to look at");
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    for (int i = 0; i < count && code == 0; i++) {
        const sv_status status = inspect(app, c, inputs[i]);
        if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    }
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml", "Check a checkpoint against this configuration."},
    {"--layout", 0, SV_OPTION_TEXT, &layout, "LAYOUT",
     "Columns of a point file: xyz, xyzi (default of .bin and .npy), xyzir, xyzit, xyzie; with :f16, half "
     "floats."},
    {"--tensors", 0, SV_OPTION_FLAG, &tensors, NULL, "List every tensor with shape and range."},
};

const sv_command sv_command_inspect = {
    .name = "inspect",
    .summary = "say what a file or a dataset is and whether it is sane",
    .usage = "PATH... [-c CFG.yaml] [--layout L] [--tensors]",
    .description =
        "Looks at configurations (.yaml), weights (.pth, .safetensors, model files; told by "
        "content), point clouds (.bin, .npy, .pcd, .ply) and HDF5 "
        "recordings, and at folders of datasets (kitti: every scan's calibration, picture "
        "and label are looked for and read; custom, your own data: every file is read, and every fault "
        "is named with its line). The custom layout is dataset.txt (lines 'layout xyzi' and 'class NAME "
        "[OVERLAP]'), points/NAME.bin|npy|pcd|ply, and where they are known labels/NAME.txt (lines 'CLASS x "
        "y "
        "z dx dy dz heading [vx vy]'), poses.txt (lines 'NAME SEQUENCE TIME' and 12 numbers, LiDAR to world) "
        "and splits/SPLIT.txt (names). A configuration is bound to random weights, so that "
        "every unknown or "
        "unsupported key is found; a checkpoint is "
        "checked for numbers that are not finite and, with -c, for tensors that do not fit. Exit "
        "code 1: weights that are not finite, or problems of a dataset.",
    .examples =
        "  savanna inspect kitti_lion_mamba.yaml\n  savanna inspect lion.pth -c "
        "kitti_lion_mamba.yaml --tensors\n  savanna inspect 000134.bin\n  savanna inspect /data/kitti\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_inspect,
};
