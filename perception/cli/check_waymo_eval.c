/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of the Waymo evaluator: a folder with pairs of predictions and ground truth (Objects
 * messages), each with what the official program makes of them: average precisions (expected_NAME.json) and
 * the counts at every cutoff (expected_NAME_counts.csv). Precisions must be equal to 1e-5, counts exactly, sums of
 * heading accuracies to 1e-3.
 */
#include "check.h"

#include "datasets/waymo_eval.h"
#include "perception/core/file.h"
#include "perception/core/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yajl/yajl_tree.h>

enum { EXPECTED_LIMIT = 64 << 20, NAME = 160, PATH = 1200, COUNTS = 4 };

static const struct {
    const char *name, *prefix;
} sets[] = {{"official_fake", "official_fake_"}, {"synthetic", ""}};
enum { SETS = sizeof sets / sizeof *sets };

static bool has(const char *folder, const char *prefix, const char *name)
{
    char path[PATH];
    struct stat info;
    return snprintf(path, sizeof path, "%s/%s%s", folder, prefix, name) < (int)sizeof path &&
           stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static bool has_set(const char *folder, int set)
{
    char name[NAME];
    snprintf(name, sizeof name, "expected_%s.json", sets[set].name);
    return has(folder, sets[set].prefix, "predictions.bin") &&
           has(folder, sets[set].prefix, "ground_truths.bin") && has(folder, "", name);
}

static bool is_waymo_eval(const char *folder)
{
    for (int i = 0; i < SETS; i++)
        if (has_set(folder, i)) return true;
    return false;
}

/* ---- scores of a pair --------------------------------------------------------------------------------- */

/* Every frame of both files, in the official order. */
static sv_status judge(sv_ctx *c, const sv_waymo_file files[2], const sv_waymo_keys *keys,
                       sv_waymo_scores *out)
{
    sv_waymo_eval *e = NULL;
    int *order = malloc(sizeof *order * (size_t)(keys->count + 1));
    sv_status status =
        order && sv_waymo_keys_sort(keys, order) ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory");
    if (status == SV_OK) status = sv_waymo_eval_open(c, &e);
    for (int i = 0; i < keys->count && status == SV_OK; i++) {
        sv_waymo_object *objects[2] = {NULL, NULL};
        int counts[2] = {0, 0};
        for (int k = 0; k < 2 && status == SV_OK; k++)
            status = sv_waymo_file_read(c, &files[k], order[i], &objects[k], &counts[k]);
        const sv_waymo_eval_frame frame = {objects[1], objects[0], counts[1], counts[0]};
        if (status == SV_OK) status = sv_waymo_eval_add(c, e, &frame, 1);
        free(objects[0]);
        free(objects[1]);
    }
    if (status == SV_OK) status = sv_waymo_eval_finish(c, e, out);
    sv_waymo_eval_close(e);
    free(order);
    return status;
}

static sv_status evaluate(sv_ctx *c, const char *folder, int set, sv_waymo_scores *out)
{
    static const char *const names[2] = {"predictions.bin", "ground_truths.bin"};
    char paths[2][PATH];
    sv_waymo_file files[2] = {{.run_count = 0}, {.run_count = 0}};
    sv_waymo_keys keys = {0};
    sv_status status = SV_OK;
    for (int k = 0; k < 2 && status == SV_OK; k++) {
        snprintf(paths[k], PATH, "%s/%s%s", folder, sets[set].prefix, names[k]);
        status = sv_waymo_file_open(c, paths[k], sv_waymo_keys_number, &keys, &files[k]);
    }
    if (status == SV_OK && keys.failed) status = SV_FAIL(c, SV_NO_MEMORY, "no memory for frames");
    if (status == SV_OK) status = judge(c, files, &keys, out);
    for (int k = 0; k < 2; k++) sv_waymo_file_close(&files[k]);
    sv_waymo_keys_free(&keys);
    return status;
}

/* ---- the expectations --------------------------------------------------------------------------------- */

/* "OBJECT_TYPE_TYPE_VEHICLE_LEVEL_1", "RANGE_TYPE_SIGN_[0, 30)_LEVEL_2" */
static bool parse_breakdown(const char *text, int *waymo_class, int *range, int *level)
{
    static const char *const classes[SV_WAYMO_CLASSES] = {"VEHICLE", "PEDESTRIAN", "SIGN", "CYCLIST"};
    static const char *const ranges[SV_WAYMO_RANGES] = {"", "_[0, 30)", "_[30, 50)", "_[50, +inf)"};
    char name[NAME];
    for (int k = 0; k < SV_WAYMO_CLASSES; k++)
        for (int r = 0; r < SV_WAYMO_RANGES; r++)
            for (int l = 0; l < SV_WAYMO_LEVELS; l++) {
                snprintf(name, sizeof name, "%s_TYPE_%s%s_LEVEL_%d", r ? "RANGE" : "OBJECT_TYPE", classes[k],
                         ranges[r], l + 1);
                if (strcmp(name, text) != 0) continue;
                *waymo_class = k;
                *range = r;
                *level = l;
                return true;
            }
    return false;
}

static sv_status compare_scores(check_run *run, check_file *folder, int set, const sv_waymo_scores *scores)
{
    char path[PATH], message[256], name[NAME];
    void *text = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/expected_%s.json", folder->path, sets[set].name);
    SV_TRY(sv_file_read(run->c, path, EXPECTED_LIMIT, &text, &bytes));
    yajl_val root = yajl_tree_parse(text, message, sizeof message);
    free(text);
    SV_CHECK(run->c, root, SV_BAD_INPUT, "%s: not JSON: %s", path, message);
    yajl_val frames = yajl_tree_get(root, (const char *[]){"frames", NULL}, yajl_t_number);
    if (frames) {
        const double want = YAJL_GET_DOUBLE(frames), got = (double)scores->frames;
        snprintf(name, sizeof name, "%s/frames", sets[set].name);
        check_doubles(run, folder, name, &got, &want, 1, 0);
    }
    yajl_val metrics = yajl_tree_get(root, (const char *[]){"metrics", NULL}, yajl_t_object);
    for (size_t i = 0; metrics && i < YAJL_GET_OBJECT(metrics)->len; i++) {
        const char *key = YAJL_GET_OBJECT(metrics)->keys[i];
        yajl_val value = YAJL_GET_OBJECT(metrics)->values[i];
        yajl_val ap = yajl_tree_get(value, (const char *[]){"AP", NULL}, yajl_t_number),
                 aph = yajl_tree_get(value, (const char *[]){"APH", NULL}, yajl_t_number);
        int k, r, l;
        snprintf(name, sizeof name, "%s/%.80s", sets[set].name, key);
        if (!ap || !aph || !parse_breakdown(key, &k, &r, &l)) {
            check_not_covered(run, folder, name, "unknown breakdown");
            continue;
        }
        const double want[2] = {YAJL_GET_DOUBLE(ap), YAJL_GET_DOUBLE(aph)},
                     got[2] = {(double)scores->curve[k][r].ap[l], (double)scores->curve[k][r].aph[l]};
        check_doubles(run, folder, name, got, want, 2, 1e-5);
    }
    yajl_tree_free(root);
    SV_CHECK(run->c, metrics, SV_BAD_INPUT, "%s: holds no metrics", path);
    return SV_OK;
}

/* All cutoffs of a breakdown. */
typedef struct table {
    double want[SV_WAYMO_CUTOFFS * COUNTS], got[SV_WAYMO_CUTOFFS * COUNTS]; /* tp, fp, fn, cutoff */
    double want_heading[SV_WAYMO_CUTOFFS], got_heading[SV_WAYMO_CUTOFFS];
    char breakdown[NAME];
    int rows;
} table;

static void compare_table(check_run *run, check_file *folder, const char *set, table *t,
                          const sv_waymo_scores *scores)
{
    char name[NAME + 40];
    int k, r, l;
    if (t->rows == 0) return;
    snprintf(name, sizeof name, "%s/%s/counts", set, t->breakdown);
    if (t->rows != SV_WAYMO_CUTOFFS || !parse_breakdown(t->breakdown, &k, &r, &l)) {
        check_not_covered(run, folder, name, "not a breakdown at 101 cutoffs");
    } else {
        for (int i = 0; i < SV_WAYMO_CUTOFFS; i++) {
            const sv_waymo_counts *n = &scores->curve[k][r].at[i];
            const double row[COUNTS] = {(double)n->found, (double)n->false_alarms, (double)n->missed[l],
                                        (double)sv_waymo_cutoff(i)};
            memcpy(t->got + COUNTS * i, row, sizeof row);
            t->got_heading[i] = (double)n->heading;
            /* nine digits stand for a float */
            t->want[COUNTS * i + 3] = (double)(float)t->want[COUNTS * i + 3];
        }
        check_doubles(run, folder, name, t->got, t->want, SV_WAYMO_CUTOFFS * COUNTS, 0);
        snprintf(name, sizeof name, "%s/%s/heading", set, t->breakdown);
        check_doubles(run, folder, name, t->got_heading, t->want_heading, SV_WAYMO_CUTOFFS, 1e-3);
    }
    t->rows = 0;
}

/* A line: "breakdown",cutoff,tp,fp,fn,heading. */
static bool parse_line(char *line, char breakdown[NAME], double values[5])
{
    char *end = line[0] == '"' ? strchr(line + 1, '"') : NULL, *state = NULL;
    if (!end || end - line > NAME) return false;
    *end = '\0';
    snprintf(breakdown, NAME, "%s", line + 1);
    char *word = strtok_r(end + 1, ",\r", &state);
    for (int i = 0; i < 5; i++, word = strtok_r(NULL, ",\r", &state))
        if (!word || !sv_text_number(word, &values[i])) return false;
    return word == NULL;
}

static sv_status compare_counts(check_run *run, check_file *folder, int set, const sv_waymo_scores *scores)
{
    char path[PATH];
    void *text = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/expected_%s_counts.csv", folder->path, sets[set].name);
    struct stat info;
    if (stat(path, &info) != 0) return SV_OK;
    SV_TRY(sv_file_read(run->c, path, EXPECTED_LIMIT, &text, &bytes));
    table *t = calloc(1, sizeof *t);
    sv_status status = t ? SV_OK : SV_FAIL(run->c, SV_NO_MEMORY, "no memory for counts");
    char *state = NULL;
    int number = 1;
    strtok_r(text, "\n", &state); /* names of columns */
    for (char *line = strtok_r(NULL, "\n", &state); line && status == SV_OK;
         line = strtok_r(NULL, "\n", &state)) {
        char breakdown[NAME];
        double v[5];
        number++;
        if (!parse_line(line, breakdown, v)) {
            status =
                SV_FAIL(run->c, SV_BAD_INPUT, "%s: line %d is no breakdown with five numbers", path, number);
            break;
        }
        if (t->rows == SV_WAYMO_CUTOFFS || strcmp(breakdown, t->breakdown) != 0)
            compare_table(run, folder, sets[set].name, t, scores);
        memcpy(t->breakdown, breakdown, sizeof breakdown);
        const double row[COUNTS] = {v[1], v[2], v[3], v[0]};
        memcpy(t->want + COUNTS * t->rows, row, sizeof row);
        t->want_heading[t->rows++] = v[4];
    }
    if (status == SV_OK) compare_table(run, folder, sets[set].name, t, scores);
    free(t);
    free(text);
    return status;
}

static sv_status run_waymo_eval(check_run *run, check_file *folder)
{
    sv_waymo_scores *scores = malloc(sizeof *scores);
    sv_status status = scores ? SV_OK : SV_FAIL(run->c, SV_NO_MEMORY, "no memory for scores");
    for (int i = 0; i < SETS && status == SV_OK; i++) {
        if (!has_set(folder->path, i)) continue;
        status = evaluate(run->c, folder->path, i, scores);
        if (status == SV_OK) status = compare_scores(run, folder, i, scores);
        if (status == SV_OK) status = compare_counts(run, folder, i, scores);
    }
    free(scores);
    return status;
}

const check_folder check_waymo_eval = {"Waymo evaluation", is_waymo_eval, run_waymo_eval};
