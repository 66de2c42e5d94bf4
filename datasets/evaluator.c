/* SPDX-License-Identifier: Apache-2.0 */
#include "evaluator.h"

#include "dataset_type.h"
#include "evaluator_type.h"

#include <stdlib.h>
#include <string.h>

enum { COOKIE = 0x5be7a102, PATH = 4096 };

sv_evaluator_def sv_evaluator_def_default(void)
{
    return (sv_evaluator_def){.picture_score = 0.3, .cookie = COOKIE};
}

static sv_status find_rule(sv_ctx *c, const sv_evaluator *e, const char *name, int *out)
{
    char known[160] = "";
    *out = 0;
    if (!name) return SV_OK;
    for (int i = 0; i < e->type->rule_count; i++) {
        if (strcmp(e->type->rules[i], name) == 0) {
            *out = i;
            return SV_OK;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? " or " : "", e->type->rules[i]);
    }
    return SV_FAIL(c, SV_USAGE, "the evaluation of %s has no rule '%.40s': it is %s",
                   sv_dataset_name(e->dataset), name, known[0] ? known : "the only one");
}

sv_status sv_evaluator_open(sv_ctx *c, const sv_dataset *dataset, const sv_evaluator_def *def,
                            sv_evaluator **out)
{
    *out = NULL;
    SV_CHECK(c, def->cookie == COOKIE, SV_INTERNAL,
             "an evaluator's def must come from sv_evaluator_def_default()");
    SV_CHECK(c, dataset->type->evaluator, SV_UNSUPPORTED, "the dataset %s has no evaluation here",
             sv_dataset_name(dataset));
    sv_evaluator *e = calloc(1, sizeof *e);
    SV_CHECK(c, e, SV_NO_MEMORY, "no memory for the evaluator");
    *e = (sv_evaluator){.type = dataset->type->evaluator,
                        .dataset = dataset,
                        .self_check = def->self_check,
                        .picture_score = def->picture_score};
    sv_status status = find_rule(c, e, def->rule, &e->rule);
    if (status == SV_OK) status = e->type->open(c, e);
    if (status == SV_OK)
        *out = e;
    else
        sv_evaluator_close(e);
    return status;
}

void sv_evaluator_close(sv_evaluator *e)
{
    if (!e) return;
    e->type->close(e);
    free(e);
}

const char *sv_evaluator_rule(const sv_evaluator *e)
{
    return e->type->rules ? e->type->rules[e->rule] : "";
}
unsigned sv_evaluator_parts(const sv_evaluator *e)
{
    return e->type->parts;
}
unsigned sv_evaluator_box_parts(const sv_evaluator *e)
{
    return e->type->box_parts;
}

/* ---- results of a sample ------------------------------------------------------------------------------ */

void sv_eval_result_free(sv_eval_result *result)
{
    free(result->data);
    *result = (sv_eval_result){0};
}

sv_status sv_eval_result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                  const char *const *classes, const sv_box *boxes, int count,
                                  sv_eval_result *out)
{
    sv_eval_result_free(out);
    return e->type->result_of_boxes(c, e, sample, classes, boxes, count, out);
}

const char *sv_eval_result_suffix(const sv_evaluator *e)
{
    return e->type->suffix;
}
sv_status sv_eval_result_write(sv_ctx *c, const sv_evaluator *e, const char *path,
                               const sv_eval_result *result)
{
    return e->type->write_result(c, path, result);
}
sv_status sv_eval_result_read(sv_ctx *c, const sv_evaluator *e, const char *path, sv_eval_result *out)
{
    sv_eval_result_free(out);
    return e->type->read_result(c, path, out);
}

/* ---- submissions -------------------------------------------------------------------------------------- */

/* Marks the samples whose files lie in the folder. */
static sv_status look_into(sv_ctx *c, const sv_evaluator *e, const char *folder, sv_submission *out,
                           int *files)
{
    sv_names names;
    const size_t tail = strlen(e->type->suffix);
    SV_TRY(sv_dataset_list(c, folder, e->type->suffix, &names));
    *files = names.count;
    for (int i = 0; i < names.count; i++) {
        char *name = names.data[i];
        char shown[sizeof out->first_extra];
        snprintf(shown, sizeof shown, "%s", name);
        if (strncmp(name, "savanna-", 8) == 0) { /* what a run writes beside its results */
            (*files)--;
            continue;
        }
        name[strlen(name) - tail] = '\0';
        const int sample = sv_dataset_find(e->dataset, name);
        /* a part of an id is no name of a file */
        if (sample >= 0 && strcmp(sv_dataset_id(e->dataset, sample), name) == 0)
            out->present[sample] = true;
        else if (out->extra++ == 0)
            memcpy(out->first_extra, shown, sizeof shown);
    }
    sv_names_free(&names);
    return SV_OK;
}

static sv_status open_folder(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out)
{
    char inner[PATH];
    int files = 0;
    SV_CHECK(c, sv_dataset_is_folder(path), SV_IO, "%s: there is no such folder of results (ID%s)", path,
             e->type->suffix);
    SV_TRY(look_into(c, e, path, out, &files));
    SV_TRY(sv_dataset_path(c, inner, sizeof inner, "%s/data", path));
    if (files > 0 || !sv_dataset_is_folder(inner)) return SV_OK;
    SV_TRY(sv_dataset_path(c, out->path, sizeof out->path, "%s", inner));
    return look_into(c, e, inner, out, &files);
}

sv_status sv_submission_open(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out)
{
    *out = (sv_submission){0};
    const int count = sv_dataset_count(e->dataset);
    sv_status status = sv_dataset_path(c, out->path, sizeof out->path, "%s", path);
    out->present = calloc((size_t)count + 1, sizeof *out->present);
    if (status == SV_OK && !out->present) status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", path);
    const bool whole = e->type->open_submission && !sv_dataset_is_folder(path);
    if (status == SV_OK)
        status = whole ? e->type->open_submission(c, e, path, out) : open_folder(c, e, path, out);
    for (int i = 0; status == SV_OK && i < count; i++) out->missing += !out->present[i];
    if (status != SV_OK) sv_submission_close(e, out);
    return status;
}

void sv_submission_close(const sv_evaluator *e, sv_submission *submission)
{
    if (submission->own && e->type->close_submission) e->type->close_submission(submission);
    free(submission->present);
    *submission = (sv_submission){0};
}

sv_status sv_submission_read(sv_ctx *c, const sv_evaluator *e, const sv_submission *submission, int sample,
                             sv_eval_result *out)
{
    sv_eval_result_free(out);
    if (submission->own) return e->type->read_submission(c, e, submission, sample, out);
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s%s", submission->path,
                           sv_dataset_id(e->dataset, sample), e->type->suffix));
    return e->type->read_result(c, path, out);
}

const char *sv_evaluator_missing_rule(const sv_evaluator *e)
{
    return e->type->missing_rule(e);
}
bool sv_evaluator_refuses_extra(const sv_evaluator *e)
{
    return e->type->refuses_extra;
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

sv_status sv_evaluator_add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result)
{
    SV_CHECK(c, sample->has_labels, SV_BAD_INPUT,
             "%s: sample %s has no labels (split '%s'), so nothing can be scored",
             sv_dataset_root(e->dataset), sample->id, sv_dataset_split(e->dataset));
    return e->type->add(c, e, sample, result);
}
sv_status sv_evaluator_finish(sv_ctx *c, sv_evaluator *e)
{
    return e->type->finish(c, e);
}
void sv_evaluator_print(const sv_evaluator *e, FILE *to)
{
    e->type->print(e, to);
}

void sv_evaluator_json(const sv_evaluator *e, sv_json *json)
{
    sv_json_object(json, SV_JSON_LINES);
    sv_json_key(json, "dataset");
    sv_json_text(json, sv_dataset_name(e->dataset));
    sv_json_key(json, "split");
    sv_json_text(json, sv_dataset_split(e->dataset));
    if (e->type->rules) {
        sv_json_key(json, "rule");
        sv_json_text(json, sv_evaluator_rule(e));
    }
    e->type->json(e, json);
    sv_json_end(json);
}

sv_status sv_evaluator_curves(sv_ctx *c, const sv_evaluator *e, const char *path)
{
    return e->type->curves(c, e, path);
}
bool sv_evaluator_self_check(const sv_evaluator *e, FILE *to)
{
    return e->type->self_check(e, to);
}
sv_status sv_evaluator_picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                               const sv_eval_result *result, sv_image *out)
{
    return e->type->picture(c, e, sample, result, out);
}
