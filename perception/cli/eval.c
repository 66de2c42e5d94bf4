/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna eval: a dataset's official scores of a detector, of anybody's result files, or of the labels
 * themselves.
 */
#include "box_finder.h"
#include "report.h"
#include "run_record.h"

#include "datasets/evaluator.h"
#include "perception/core/file.h"
#include "perception/model/sha256.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const char *dataset_name, *root, *split, *fov, *version, *sweep_rule, *config, *weights, *results,
    *save, *output, *images, *curves, *rule, *cache, *report_path;
static bool self_check, resume, allow_missing;
static int batch_size = 1, sweeps;
static double picture_score = 0.3;

enum { PATH = 4096, PICTURES = 8, NAMED = 10 };

typedef struct evaluation {
    const sv_app *app;
    sv_ctx *c; /* everything but the detector */
    sv_dataset *dataset;
    sv_evaluator *evaluator;
    box_finder finder;        /* without a model: results come from elsewhere */
    sv_submission submission; /* --results, or what an interrupted run has saved */
    bool has_submission;
    int lock; /* of the folder of saved results */
    frame_loader *loader;
    frame_slot **group;        /* the samples at work */
    int group_size, drawn;     /* 'drawn' of them have their pictures */
    sv_ctx *artists[PICTURES]; /* one per picture of a group */
    report page;
    ranks *team; /* NULL: alone */
    int *owner;  /* of every sample, by rank; with a team */
    bool *elsewhere;
} evaluation;

/* ---- opening ------------------------------------------------------------------------------------------ */

static sv_status open_dataset(sv_ctx *c, sv_dataset **out)
{
    sv_dataset_def def = sv_dataset_def_default(dataset_name, root);
    def.split = split;
    def.fov = fov;
    def.version = version;
    def.sweeps = sweeps;
    def.sweep_rule = sweep_rule;
    def.cache = cache;
    SV_TRY(sv_dataset_open(c, &def, out));
    SV_CHECK(c, sv_dataset_count(*out) > 0, SV_BAD_INPUT, "%s: %s has no samples", root,
             sv_dataset_summary(*out));
    return SV_OK;
}

static sv_status open_evaluator(evaluation *v)
{
    sv_evaluator_def evaluator = sv_evaluator_def_default();
    evaluator.rule = rule;
    evaluator.self_check = self_check;
    evaluator.picture_score = picture_score;
    return sv_evaluator_open(v->c, v->dataset, &evaluator, &v->evaluator);
}

/* Which samples other ranks do. */
static sv_status share_out(evaluation *v)
{
    const int count = sv_dataset_count(v->dataset);
    v->owner = calloc((size_t)count, sizeof *v->owner);
    v->elsewhere = calloc((size_t)count, sizeof *v->elsewhere);
    SV_CHECK(v->c, v->owner && v->elsewhere, SV_NO_MEMORY, "no memory for %d samples", count);
    ranks_share_out(v->team, v->dataset, batch_size, v->owner);
    for (int i = 0; i < count; i++) v->elsewhere[i] = v->owner[i] != 0;
    return SV_OK;
}

static sv_status open_model(evaluation *v)
{
    sv_ctx *c = v->c;
    const box_finder *f = &v->finder;
    SV_TRY(box_finder_open(c, v->app, config, weights, batch_size, &v->finder));
    SV_CHECK(c, !f->state || (batch_size == 1 && !resume), SV_USAGE,
             "with MODEL.TEMPORAL or MODEL.CAMERA a frame needs the one before it: leave --batch and "
             "--resume out");
    /* Names decide what is compared with what. */
    for (int i = 0; i < sv_dataset_class_count(v->dataset); i++) {
        const char *wanted = sv_dataset_classes(v->dataset)[i];
        bool known = false;
        for (int k = 0; k < sv_model_class_count(v->finder.model); k++)
            known |= strcasecmp(sv_model_classes(v->finder.model)[k], wanted) == 0;
        if (!known)
            sv_log(c, SV_LOG_WARNING, "the detector has no class %s, which %s scores", wanted,
                   sv_dataset_name(v->dataset));
    }
    return SV_OK;
}

/* What saved results depend on. */
static sv_status describe_run(evaluation *v, run_record *record)
{
    char digest[SV_SHA256_TEXT] = "none";
    sv_sha256 hash;
    run_record_add(record, "format", "savanna results 1");
    run_record_add(record, "version", "%s", SAVANNA_VERSION);
    run_record_add(record, "dataset", "%s", sv_dataset_name(v->dataset));
    run_record_add(record, "split", "%s", sv_dataset_split(v->dataset));
    run_record_add(record, "fov", "%s", fov ? fov : "default");
    run_record_add(record, "sweeps", "%d, %s", sweeps, sweep_rule ? sweep_rule : "default");
    sv_sha256_begin(&hash);
    for (int i = 0; i < sv_dataset_count(v->dataset); i++) {
        const char *id = sv_dataset_id(v->dataset, i);
        sv_sha256_add(&hash, id, strlen(id) + 1);
    }
    sv_sha256_text(&hash, digest);
    run_record_add(record, "samples", "%d, sha256 %s", sv_dataset_count(v->dataset), digest);
    const char *text = sv_model_config_text(v->finder.model);
    sv_sha256_begin(&hash);
    sv_sha256_add(&hash, text, strlen(text));
    sv_sha256_text(&hash, digest);
    run_record_add(record, "configuration", "sha256 %s", digest);
    if (weights) SV_TRY(sv_sha256_file(v->c, weights, digest));
    run_record_add(record, "weights", "%s%s", weights ? "sha256 " : "none", weights ? digest : "");
    const sv_ctx *d = sv_detector_ctx(v->finder.detector);
    run_record_add(record, "device", "%s", d->device->name);
    run_record_add(record, "precision", "%s", sv_precision_name(d->precision));
    return SV_OK;
}

static sv_status open_save(evaluation *v)
{
    run_record record = {.count = 0};
    SV_TRY(describe_run(v, &record));
    SV_TRY(run_folder_open(v->c, save, &record, sv_eval_result_suffix(v->evaluator), resume, &v->lock));
    SV_TRY(sv_submission_open(v->c, v->evaluator, save, &v->submission));
    v->has_submission = true;
    const int there = sv_dataset_count(v->dataset) - v->submission.missing;
    if (resume)
        sv_app_say(v->app, "%s: %d of %d samples are done already", save, there,
                   sv_dataset_count(v->dataset));
    return SV_OK;
}

/* The first names of what is missing. */
static void name_missing(const evaluation *v, char *out, size_t room)
{
    int named = 0;
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < sv_dataset_count(v->dataset) && named < NAMED && used < room; i++) {
        if (v->submission.present[i]) continue;
        used += (size_t)snprintf(out + used, room - used, "%s%s", named ? ", " : "",
                                 sv_dataset_id(v->dataset, i));
        named++;
    }
    if (v->submission.missing > named && used < room)
        snprintf(out + used, room - used, " and %d more", v->submission.missing - named);
}

static sv_status open_results(evaluation *v)
{
    const sv_submission *s = &v->submission;
    SV_TRY(sv_submission_open(v->c, v->evaluator, results, &v->submission));
    v->has_submission = true;
    SV_CHECK(v->c, s->extra == 0 || allow_missing || !sv_evaluator_refuses_extra(v->evaluator), SV_BAD_INPUT,
             "%s: %d results belong to no sample of %s (first: %s), which the official program refuses "
             "(--allow-missing scores without them)",
             s->path, s->extra, sv_dataset_summary(v->dataset), s->first_extra);
    if (s->extra > 0)
        sv_log(v->c, SV_LOG_WARNING,
               "%s: %d results belong to no sample of the split and are not read (first: %s)", s->path,
               s->extra, s->first_extra);
    if (s->missing == 0) return SV_OK;
    char names[NAMED * 72];
    const int count = sv_dataset_count(v->dataset);
    name_missing(v, names, sizeof names);
    SV_CHECK(v->c, s->missing < count, SV_BAD_INPUT, "%s: holds no results (ID%s) of %s", s->path,
             sv_eval_result_suffix(v->evaluator), sv_dataset_summary(v->dataset));
    SV_CHECK(
        v->c, allow_missing, SV_BAD_INPUT,
        "%s: %d of %d samples have no results: %s (an empty file, or an empty list in a file of all, says "
        "that nothing was detected; --allow-missing scores without them)",
        s->path, s->missing, count, names);
    sv_log(v->c, SV_LOG_WARNING, "%s: %d of %d samples have no results: %s; %s", s->path, s->missing, count,
           names, sv_evaluator_missing_rule(v->evaluator));
    return SV_OK;
}

static sv_status begin_loading(evaluation *v)
{
    const int threads = sv_pool_threads(v->c->pool);
    v->group_size = images && batch_size < PICTURES ? PICTURES : v->finder.model ? batch_size : 32;
    frame_loader_def def = {.app = v->app,
                            .dataset = v->dataset,
                            .parts = sv_evaluator_parts(v->evaluator),
                            .evaluator = v->evaluator,
                            .submission = v->has_submission ? &v->submission : NULL,
                            .threads = v->finder.model && !images ? 1 : threads,
                            .slots = 2 * v->group_size};
    if (images) def.parts |= SV_READ_POINTS | SV_READ_IMAGES | SV_READ_CAMERAS;
    if (v->finder.model)
        def.absent_parts = box_finder_parts(&v->finder) | sv_evaluator_box_parts(v->evaluator);
    def.elsewhere = v->elsewhere;
    def.elsewhere_parts = sv_evaluator_box_parts(v->evaluator);
    def.slots += def.threads;
    v->group = calloc((size_t)v->group_size, sizeof *v->group);
    SV_CHECK(v->c, v->group, SV_NO_MEMORY, "no memory for samples");
    for (int i = 0; images && i < PICTURES; i++) SV_TRY(sv_app_reader(v->c, v->app, &v->artists[i]));
    return frame_loader_begin(v->c, &def, &v->loader);
}

/* ---- the run ------------------------------------------------------------------------------------------ */

static sv_status take_boxes(evaluation *v, frame_slot *slot, const sv_box *boxes, int count)
{
    sv_ctx *c = v->c;
    SV_TRY(sv_eval_result_of_boxes(c, v->evaluator, &slot->sample, sv_model_classes(v->finder.model), boxes,
                                   count, &slot->result));
    slot->has_result = true;
    if (!save) return SV_OK;
    char path[PATH];
    const int length =
        snprintf(path, sizeof path, "%s/%s%s", save, slot->sample.id, sv_eval_result_suffix(v->evaluator));
    SV_CHECK(c, length < PATH, SV_USAGE, "%s: the path is too long", save);
    return sv_eval_result_write(c, v->evaluator, path, &slot->result);
}

/* Detects in 'count' slots that have no results yet. */
static sv_status detect(evaluation *v, frame_slot *const *slots, int count)
{
    int counts[SV_MAX_BATCH];
    const size_t most = (size_t)v->finder.most;
    SV_TRY(box_finder_run(&v->finder, slots, count, counts));
    for (int i = 0; i < count; i++)
        SV_TRY(take_boxes(v, slots[i], v->finder.boxes + (size_t)i * most, counts[i]));
    return SV_OK;
}

/* In the group that begins with sample 'first': own ones in batches, then what other ranks found in theirs. */
static sv_status detect_missing(evaluation *v, int first, int count)
{
    frame_slot *batch[SV_MAX_BATCH];
    int waiting = 0;
    for (int i = 0; i < count; i++) {
        if (!v->group[i]->has_result && !(v->elsewhere && v->elsewhere[first + i]))
            batch[waiting++] = v->group[i];
        if (waiting < batch_size && i < count - 1) continue;
        if (waiting > 0) SV_TRY(detect(v, batch, waiting));
        waiting = 0;
    }
    for (int i = 0; i < count && v->elsewhere; i++) {
        int found = 0;
        if (v->group[i]->has_result || !v->elsewhere[first + i]) continue;
        SV_TRY(ranks_take(v->c, v->team, v->owner[first + i], first + i, v->finder.boxes, v->finder.most,
                          &found));
        SV_TRY(take_boxes(v, v->group[i], v->finder.boxes, found));
    }
    return SV_OK;
}

static void draw_one(void *arg, int task, int worker)
{
    (void)worker;
    const evaluation *v = arg;
    const frame_slot *slot = v->group[v->drawn + task];
    sv_ctx *c = v->artists[task];
    char path[PATH];
    sv_image picture;
    const int length = snprintf(path, sizeof path, "%s/%s.png", images, slot->sample.id);
    if (length >= PATH) {
        SV_FAIL(c, SV_USAGE, "%s: the path is too long", images);
        return;
    }
    if (sv_evaluator_picture(c, v->evaluator, &slot->sample, slot->has_result ? &slot->result : NULL,
                             &picture) != SV_OK)
        return;
    if (sv_image_write_png(c, &picture, path) != SV_OK) SV_FAIL(c, SV_IO, "%s: cannot be written", path);
    sv_image_free(&picture);
}

static sv_status draw_group(evaluation *v, int count)
{
    sv_pool_run(v->c->pool, draw_one, v, count);
    for (int i = 0; i < count; i++) {
        const sv_error *error = &v->artists[i]->error;
        SV_CHECK(v->c, error->message[0] == '\0', error->status, "%s", error->message);
    }
    return SV_OK;
}

static sv_status run_group(evaluation *v, int first, int count)
{
    for (int i = 0; i < count; i++) SV_TRY(frame_loader_wait(v->c, v->loader, first + i, &v->group[i]));
    if (v->finder.model) SV_TRY(detect_missing(v, first, count));
    for (int i = 0; i < count; i++) {
        const frame_slot *slot = v->group[i];
        const sv_eval_result *result = slot->has_result ? &slot->result : NULL;
        SV_TRY(sv_evaluator_add(v->c, v->evaluator, &slot->sample, result));
        if (!self_check) SV_TRY(report_sample(v->c, &v->page, v->dataset, v->evaluator, first + i, result));
    }
    for (v->drawn = 0; images && v->drawn < count; v->drawn += PICTURES)
        SV_TRY(draw_group(v, count - v->drawn < PICTURES ? count - v->drawn : PICTURES));
    frame_loader_release(v->loader, first + count);
    return SV_OK;
}

static sv_status run_samples(evaluation *v)
{
    const int count = sv_dataset_count(v->dataset);
    sv_progress progress;
    sv_status status = begin_loading(v);
    const double began = sv_clock_ms();
    sv_progress_begin(&progress, v->app, "eval", "samples", count);
    for (int i = 0; i < count && status == SV_OK; i += v->group_size) {
        const int more = count - i < v->group_size ? count - i : v->group_size;
        status = run_group(v, i, more);
        if (status == SV_OK) sv_progress_step(&progress, i + more);
    }
    sv_progress_end(&progress);
    frame_loader_end(v->loader);
    v->loader = NULL;
    if (status == SV_OK) status = sv_evaluator_finish(v->c, v->evaluator);
    if (status == SV_OK && v->app->verbosity > 0)
        sv_app_say(v->app, "%d samples in %.2f s", count, (sv_clock_ms() - began) * 1e-3);
    return status;
}

/* ---- what comes out ----------------------------------------------------------------------------------- */

static sv_status write_metrics(evaluation *v)
{
    sv_output file;
    SV_TRY(sv_output_open(v->c, &file, output));
    sv_json j = sv_json_begin(file.stream);
    sv_evaluator_json(v->evaluator, &j);
    return sv_output_commit(v->c, &file);
}

/* False when the self-check does not reach what it should. */
static bool print_scores(const evaluation *v)
{
    bool reached = true;
    if (v->app->json) {
        sv_json j = sv_json_begin(stdout);
        sv_evaluator_json(v->evaluator, &j);
    } else if (!self_check && v->app->verbosity >= 0) {
        sv_evaluator_print(v->evaluator, stdout);
    }
    if (self_check) reached = sv_evaluator_self_check(v->evaluator, v->app->json ? stderr : stdout);
    fflush(stdout);
    return reached;
}

static sv_status write_report(evaluation *v)
{
    report *r = &v->page;
    report_fact(r, "dataset", "%s, %d samples", root, sv_dataset_count(v->dataset));
    if (results) report_fact(r, "results", "%s", results);
    if (self_check) report_fact(r, "scored", "the labels themselves (self-check)");
    if (v->finder.model) {
        const sv_ctx *d = sv_detector_ctx(v->finder.detector);
        report_fact(r, "configuration", "%s", config ? config : "of the model file");
        report_fact(r, "weights", "%s", weights ? weights : "none");
        report_fact(r, "device", "%s, %s", d->device->name, sv_precision_name(d->precision));
    }
    report_fact(r, "made by", "savanna %s", SAVANNA_VERSION);
    return report_write(v->c, r, v->dataset, v->evaluator, self_check);
}

static sv_status evaluate(evaluation *v, bool *reached)
{
    SV_TRY(open_dataset(v->c, &v->dataset));
    SV_TRY(open_evaluator(v));
    if (v->team) SV_TRY(share_out(v));
    if (config || weights) SV_TRY(open_model(v));
    if (save) SV_TRY(open_save(v));
    if (results) SV_TRY(open_results(v));
    if (v->team) ranks_tell(v->team, save ? v->submission.present : NULL, sv_dataset_count(v->dataset));
    struct stat info;
    if (images && stat(images, &info) != 0)
        SV_CHECK(v->c, mkdir(images, 0777) == 0, SV_IO, "%s: the folder cannot be made: %s", images,
                 strerror(errno));
    report_begin(&v->page, report_path, sv_dataset_count(v->dataset));
    SV_TRY(run_samples(v));
    if (report_path) SV_TRY(write_report(v));
    if (output) SV_TRY(write_metrics(v));
    if (curves) SV_TRY(sv_evaluator_curves(v->c, v->evaluator, curves));
    *reached = print_scores(v);
    return SV_OK;
}

/* ---- the command -------------------------------------------------------------------------------------- */

static int check_options(const sv_app *app, int count, char **inputs)
{
    const int sources = (config || weights) + (results != NULL) + self_check;
    if (count > 0)
        return sv_app_usage_error(app, "'%s': the frames come from --root, there are no inputs", inputs[0]);
    if (!root) return sv_app_usage_error(app, "name the folder of the dataset: --root DIR");
    if (sources != 1)
        return sv_app_usage_error(
            app, "choose what is scored: a detector (-c and -w), --results PATH, or --self-check");
    if (resume && !save)
        return sv_app_usage_error(app, "--resume continues --save-results DIR: name the folder");
    if (save && !(config || weights))
        return sv_app_usage_error(app, "--save-results keeps what a detector finds: name one with -c and -w");
    if (allow_missing && !results) return sv_app_usage_error(app, "--allow-missing belongs to --results");
    if (images && self_check)
        return sv_app_usage_error(app, "--images: a self-check has nothing to tell apart");
    if (batch_size < 1 || batch_size > SV_MAX_BATCH)
        return sv_app_usage_error(app, "--batch: %d is not within 1..%d", batch_size, SV_MAX_BATCH);
    return 0;
}

static void close_evaluation(evaluation *v)
{
    frame_loader_end(v->loader);
    report_end(&v->page);
    for (int i = 0; i < PICTURES; i++) sv_ctx_close(v->artists[i]);
    free(v->group);
    if (v->has_submission) sv_submission_close(v->evaluator, &v->submission);
    run_folder_close(v->lock);
    sv_evaluator_close(v->evaluator);
    sv_dataset_close(v->dataset);
    free(v->owner);
    free(v->elsewhere);
    box_finder_close(&v->finder);
    sv_ctx_close(v->c);
}

/* All ranks but the first. */
static int help_rank_0(const sv_app *app, ranks *team)
{
    if (!ranks_wait(team)) return ranks_end(team, 0, SV_OK, "");
    const sv_ctx_def def = sv_app_ctx_def(app);
    sv_ctx *c = NULL;
    sv_dataset *dataset = NULL;
    box_finder finder = {.c = NULL};
    sv_status status = sv_ctx_open(&def, &c);
    if (status == SV_OK) status = open_dataset(c, &dataset);
    if (status == SV_OK) status = box_finder_open(c, app, config, weights, batch_size, &finder);
    if (status == SV_OK) status = box_finder_share(&finder, app, team, dataset);
    char sentence[sizeof c->error.message];
    snprintf(sentence, sizeof sentence, "%s", c ? sv_error_message(c) : "out of memory");
    box_finder_close(&finder);
    sv_dataset_close(dataset);
    sv_ctx_close(c);
    return ranks_end(team, 0, status, sentence);
}

static int score(const sv_app *app, ranks *team)
{
    int code = 0;
    evaluation v = {.app = app, .lock = -1, .team = team};
    bool reached = true;
    v.c = sv_app_ctx(app, &code);
    if (!v.c) return code;
    const sv_status status = evaluate(&v, &reached);
    if (status != SV_OK)
        code = sv_app_fail(app, status, sv_error_message(v.c));
    else if (!reached)
        code = 1;
    close_evaluation(&v);
    return code;
}

static int run_eval(sv_app *app, int count, char **inputs)
{
    ranks *team = NULL;
    int code = ranks_begin(app, &team);
    if (code) return code;
    sv_app own = *app;
    if (team && own.device == SV_CUDA) own.device_index += team->local;
    if (team && team->rank > 0) return help_rank_0(&own, team);
    code = check_options(app, count, inputs);
    if (!code && team && !config && !weights)
        code = sv_app_usage_error(app, "several ranks share the work of a detector: name one with -c and -w");
    if (!code && team) ranks_start(team);
    if (!code) code = score(&own, team);
    return ranks_end(team, code, SV_OK, "");
}

static const sv_option options[] = {
    {"--dataset", 0, SV_OPTION_TEXT, &dataset_name, "kitti|nuscenes|waymo|once|argoverse2|custom",
     "Which dataset; default: the one that the folder looks like."},
    {"--root", 0, SV_OPTION_TEXT, &root, "DIR", "Folder of the dataset."},
    {"--split", 0, SV_OPTION_TEXT, &split, "S",
     "KITTI: a list in ImageSets (val, train, ...), or 'training' for every scan there is. nuScenes: val, "
     "train, "
     "test, mini_val, mini_train, or all. Default val, or what the tables' version has of it. "
     "Waymo: a folder of TFRecords; default validation."},
    {"--version", 0, SV_OPTION_TEXT, &version, "V",
     "nuScenes: which tables, v1.0-mini for one. Default: the only ones there, or those the split belongs "
     "to."},
    {"--sweeps", 0, SV_OPTION_INT, &sweeps, "N",
     "nuScenes: sweeps gathered into a frame, with the key frame; default 10."},
    {"--sweep-rule", 0, SV_OPTION_TEXT, &sweep_rule, "training|devkit",
     "nuScenes: how they are gathered, see 'savanna help detect'."},
    {"--fov", 0, SV_OPTION_TEXT, &fov, "training|devkit|all",
     "KITTI: which points of a full scan the detector gets, see 'savanna help detect'."},
    {"--cache", 0, SV_OPTION_TEXT, &cache, "FOLDER",
     "Take points from this cache of the split, which 'savanna cache' made; the results are the same."},
    {"--config", 'c', SV_OPTION_TEXT, &config, "CFG.yaml|NAME",
     "Configuration of the detector, or the name of one that ships (cluster, kitti_lion_mamba ...)."},
    {"--weights", 'w', SV_OPTION_TEXT, &weights, "FILE",
     "Checkpoint (.pth), .safetensors or native model file. The classical detectors have none."},
    {"--results", 0, SV_OPTION_TEXT, &results, "PATH",
     "Score these result files instead, whoever made them. KITTI: a folder of ID.txt, or one that holds "
     "data/. nuScenes: the submission (JSON), or a folder of TOKEN.json with one sample each. Waymo: a file "
     "of Objects or a "
     "Submission (.bin), or a folder of ID.bin."},
    {"--self-check", 0, SV_OPTION_FLAG, &self_check, NULL,
     "Score the labels themselves, beside the best score that their number allows. Exit code 1 where it is "
     "not reached."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "metrics.json", "Write all numbers and curves as JSON."},
    {"--curves", 0, SV_OPTION_TEXT, &curves, "DIR|FILE.png",
     "Precision-recall curves: one picture of all, or a folder with one for each class and metric."},
    {"--report", 0, SV_OPTION_TEXT, &report_path, "FILE.html",
     "One page with the table, the curves and pictures of twelve samples; it needs no other file."},
    {"--images", 0, SV_OPTION_TEXT, &images, "DIR",
     "A picture of every frame, camera and view from above: labels dashed (white found, yellow missed), "
     "detections "
     "green where right and red where false, grey what does not count either way. The matching is the "
     "official one in "
     "space at moderate difficulty, at the score of --image-score."},
    {"--image-score", 0, SV_OPTION_NUMBER, &picture_score, "S",
     "Detections below this score are neither in the pictures nor in KITTI's table of recall and precision "
     "by "
     "distance; default 0.3."},
    {"--save-results", 0, SV_OPTION_TEXT, &save, "DIR",
     "Keep every frame's results, each file written whole or not at all, in the format of the official "
     "server."},
    {"--resume", 0, SV_OPTION_FLAG, &resume, NULL,
     "Continue a run that was interrupted, from the frames in --save-results. Refused when it was made with "
     "another "
     "configuration, weights, dataset, device or precision."},
    {"--allow-missing", 0, SV_OPTION_FLAG, &allow_missing, NULL,
     "Score although --results lacks frames. KITTI: they are left out (rule devkit), or have no detections "
     "(python). nuScenes: they have no detections, and results of other samples are not read."},
    {"--rule", 0, SV_OPTION_TEXT, &rule, "devkit|python|roi|everywhere",
     "KITTI: the official development kit (default), or the common Python program, which differ for labels "
     "exactly as "
     "high as a difficulty's limit and in when orientation is left out. Argoverse 2: roi (default) counts "
     "boxes "
     "in the region of interest of the maps, as the leaderboard does; everywhere needs no maps."},
    {"--batch", 0, SV_OPTION_INT, &batch_size, "N",
     "Frames per call of the detector; the scores do not depend on it. Default 1."},
};

const sv_command sv_command_eval = {
    .name = "eval",
    .summary = "score a detector on a dataset, with the official numbers",
    .usage = "--root DIR [--dataset D] [--split S] -c CFG -w WEIGHTS [-o metrics.json] [--save-results DIR "
             "[--resume]]\n--root DIR --results PATH [-o metrics.json]\n--root DIR --self-check",
    .description =
        "Runs a detector over a split, or reads result files, and prints the dataset's official table. "
        "KITTI: average precision of image boxes (bbox), boxes from above (bev) and in space (3d), and "
        "orientation (aos), at 40 and 11 places of recall, for easy, moderate and hard objects; equal to the "
        "development kit's numbers. nuScenes: average precision at four distances of centres, five errors of "
        "the "
        "matches at 2 m, mAP and NDS (detection_cvpr_2019), equal to the development kit's to 1e-9. Waymo: "
        "AP "
        "and APH at both levels, of all objects and by range, equal to the official metrics library's. ONCE "
        "and "
        "custom data: AP at 50 places of recall, overall and by distance. Argoverse 2: AP, ATE, ASE, AOE and "
        "CDS, "
        "without regions of interest.\n"
        "Frames are read ahead and forgotten, so memory does not grow with the split. With --save-results a "
        "run can be interrupted at any moment and continued with --resume; it ends with the same bytes.\n"
        "Started by 'mpirun -n N', N processes share the samples, sequence by sequence, each on a GPU of its "
        "own "
        "(--device cuda: the first takes cuda:0, the next of the same machine cuda:1, ...). The first one "
        "scores and "
        "writes; the result has the bytes of a single run.\n"
        "KITTI: a score of 100 needs at least 41 objects per class and difficulty, because 41 places of the "
        "curve "
        "are looked at; --self-check prints what is attainable.",
    .examples =
        "  savanna eval --root kitti -c kitti_lion_mamba -w lion.pth --save-results out -o metrics.json\n"
        "  mpirun -n 4 savanna eval --root kitti -c kitti_lion_mamba -w lion.pth --device cuda --batch 8\n"
        "  savanna eval --root kitti -c cluster --images pictures --curves curves.png\n"
        "  savanna eval --root kitti --results somebody/data --report summary.html\n"
        "  savanna eval --root kitti --split train --self-check\n"
        "  savanna eval --root nuscenes --results results_nusc.json -o metrics.json --curves curves.png\n"
        "  savanna eval --root nuscenes -c nuscenes_lion_mamba -w lion.pth --save-results out\n"
        "  savanna eval --dataset waymo --root /data/waymo --results submission.bin --curves curves.png\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_eval,
};
