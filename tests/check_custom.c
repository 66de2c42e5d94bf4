/* SPDX-License-Identifier: Apache-2.0
 *
 * Custom data: what is read, what is refused and with which sentence, everything that the validator finds;
 * average precision against a plain version of its rules that keeps whole matrices; the program on a small
 * set.
 */
#include "support_program.h"

#include "datasets/custom_dataset.h"
#include "datasets/evaluator.h"
#include "datasets/object_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- a small set -------------------------------------------------------------------------------------- */

static char root[300];

static void put(const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", root, name);
    write_file(path, text, strlen(text));
}

static void put_points(const char *name, int count)
{
    static float points[4 * 512];
    char path[600];
    for (int i = 0; i < count; i++) {
        points[4 * i] = 10 + 0.01f * (float)(i % 40);
        points[4 * i + 1] = 1 + 0.02f * (float)(i / 40);
        points[4 * i + 2] = -0.5f;
        points[4 * i + 3] = 0.25f;
    }
    snprintf(path, sizeof path, "%s/points/%s", root, name);
    write_file(path, points, 16 * (size_t)count);
}

static void make_set(const char *name)
{
    static const char *const folders[] = {"", "/points", "/labels", "/splits"};
    snprintf(root, sizeof root, "%s", test_path(name));
    for (size_t i = 0; i < 4; i++) {
        char path[400];
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        ck_assert_int_eq(mkdir(path, 0777), 0);
    }
    put("dataset.txt", "# made by hand\nlayout xyzi\nclass Car 0.7\nclass Walker\n");
    put_points("b2.bin", 300);
    put_points("a1.bin", 200);
    put_points("c3.bin", 0);
    put("labels/a1.txt", "Car 10 1 -0.5 4 2 1.5 0.1 3 -1\nWalker 5 5 0 0.6 0.6 1.8 0\n");
    put("labels/b2.txt", "# nobody\n\nCar 40.5 -3 0 4.2 1.8 1.6 -3.1\n");
    put("labels/c3.txt", "");
    put("poses.txt", "b2 north 1700000000.25 1 0 0 5 0 1 0 6 0 0 1 7\n"
                     "c3 south 2 0 -1 0 0 1 0 0 0 0 0 1 0\n"
                     "a1 north 1700000000.15 1 0 0 4 0 1 0 6 0 0 1 7\n");
    put("splits/val.txt", "a1\nb2\n");
}

static sv_dataset *open_set(sv_ctx *c, const char *split)
{
    sv_dataset *d = NULL;
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    def.split = split;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    return d;
}

START_TEST(a_set_is_read)
{
    sv_ctx *c = test_context(1);
    make_set("set");
    sv_dataset *d = open_set(c, NULL);
    ck_assert_str_eq(sv_dataset_name(d), "custom");
    ck_assert_str_eq(sv_dataset_split(d), "val");
    ck_assert_str_eq(sv_dataset_layout(d), "xyzi");
    ck_assert_int_eq(sv_dataset_count(d), 2);
    ck_assert_int_eq(sv_dataset_sequence_count(d), 1);
    ck_assert_str_eq(sv_dataset_id(d, 0), "a1"); /* the earlier one */
    sv_sample s = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &s));
    ck_assert_int_eq(s.frame->count, 200);
    ck_assert(s.has_pose && s.ego_to_world.t[0] == 4 && s.first && s.has_labels);
    ck_assert_double_eq(s.time, 1700000000.15);
    ck_assert_int_eq(s.label_count, 2);
    ck_assert(s.labels[0].box.label == 1 && s.labels[0].has_velocity && s.labels[0].box.vy == -1);
    ck_assert(s.labels[1].box.label == 2 && !s.labels[1].has_velocity && s.labels[1].points == -1);
    ck_assert_str_eq(s.labels[1].type, "Walker");
    sv_dataset_close(d);
    d = open_set(c, "all");
    ck_assert_int_eq(sv_dataset_count(d), 3);
    ck_assert_int_eq(sv_dataset_sequence_count(d), 2);
    ck_assert_str_eq(sv_dataset_sequence(d, 1)->name, "south");
    assert_ok(c, sv_dataset_read(c, d, 2, SV_READ_ALL, &s));
    ck_assert(s.frame->count == 0 && s.has_labels && s.label_count == 0);
    sv_dataset_close(d);
    const char *north = "north";
    sv_dataset_def def = sv_dataset_def_default("custom", root);
    def.split = "all";
    def.sequences = &north;
    def.sequence_count = 1;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 2);
    sv_dataset_close(d);
    sv_sample_free(&s);
    sv_ctx_close(c);
}
END_TEST

/* One file changed at a time: the sentence that opening or reading ends with. */
static const struct {
    const char *file, *text, *sentence;
} faults[] = {
    {"dataset.txt", "layout xyzi\n", "has no line 'class NAME'"},
    {"dataset.txt", "class Car\n", "has no line 'layout COLUMNS'"},
    {"dataset.txt", "layout xyzq\nclass Car\n", "line 1: 'xyzq' is no layout of points"},
    {"dataset.txt", "layout xyzi\nclass Car 1.5\n", "line 2: '1.5' is no overlap"},
    {"dataset.txt", "layout xyzi\nclass Car\nclass Car\n", "line 3: the class Car stands twice"},
    {"dataset.txt", "layout xyzi\nclass Car 0.5 x\n", "line 2: 'x' is one word too many"},
    {"dataset.txt", "layout xyzi\nlass Car\n", "line 2: 'lass' is not known here"},
    {"poses.txt", "a1 north 0 1 0 0\n", "line 1: 4 numbers behind the names, not 13"},
    {"poses.txt", "a1 north 0 1 0 0 5 0 2 0 6 0 0 1 7\n",
     "line 1: the first three numbers of each row are no rotation"},
    {"poses.txt", "a1 north x 1 0 0 5 0 1 0 6 0 0 1 7\n", "line 1: 'x' is no number"},
    {"poses.txt", "zz north 0 1 0 0 5 0 1 0 6 0 0 1 7\n", "the frame zz has no file in points/"},
    {"poses.txt", "a1 north 0 1 0 0 5 0 1 0 6 0 0 1 7\n", "the frame b2 has no line"},
    {"splits/val.txt", "a1\na1\n", "the frame a1 stands twice"},
    {"splits/val.txt", "a1\nx9\n", "the frame x9 has no file"},
    {"splits/val.txt", "a1 b2\n", "line 1: 'a1' is no name of a frame"},
    {"labels/a1.txt", "Car 1 2 3\n", "line 1: 3 numbers behind the class, not 7 or 9"},
    {"labels/a1.txt", "\n\nCar 1 2 3 4 0 1 0\n", "line 3: the size 4 x 0 x 1"},
    {"labels/a1.txt", "Car 1 2 3 4 five 1 0\n", "line 1: 'five' is no number"},
    {"labels/a1.txt", "Car 1 2 nan 4 5 1 0\n", "line 1: 'nan' is no number"},
    {"labels/a1.txt", "7 1 2 3 4 5 1 0\n", "line 1: '7' is no name of a class"},
    {"points/a1.bin", "123", "a1.bin"},
};

START_TEST(faults_are_named)
{
    sv_ctx *c = test_context(1);
    char name[20];
    snprintf(name, sizeof name, "fault%d", _i);
    make_set(name);
    put(faults[_i].file, faults[_i].text);
    sv_dataset *d = NULL;
    sv_sample s = {0};
    sv_dataset_def def = sv_dataset_def_default("custom", root);
    sv_status status = sv_dataset_open(c, &def, &d);
    if (status == SV_OK) status = sv_dataset_read(c, d, 0, SV_READ_ALL, &s);
    ck_assert_int_eq(status, SV_BAD_INPUT);
    ck_assert_ptr_nonnull(strstr(sv_error_message(c), faults[_i].sentence));
    ck_assert_ptr_nonnull(strstr(sv_error_message(c), faults[_i].file));
    sv_error_clear(c);
    sv_sample_free(&s);
    sv_dataset_close(d);
    /* the validator says it, too */
    sv_findings findings;
    assert_ok(c, sv_dataset_inspect(c, root, &findings));
    ck_assert_int_ge(findings.bad, 1);
    sv_findings_free(&findings);
    sv_ctx_close(c);
}
END_TEST

START_TEST(the_validator_names_every_fault)
{
    sv_ctx *c = test_context(1);
    make_set("many");
    sv_findings findings;
    assert_ok(c, sv_dataset_inspect(c, root, &findings));
    ck_assert_int_eq(findings.bad, 1); /* a cloud without points */
    sv_findings_free(&findings);
    put("labels/a1.txt", "Car 1 2\nCar 1 2 3 4 2 1 0\nDog 1 2 3 4 2 1 0\nCar 1 2 3 4 2 1 x\n");
    put("labels/stray.txt", "");
    put("labels/notes.md", "");
    put("points/readme", "text");
    put("splits/val.txt", "a1\nb3\n");
    put("poses.txt", "b2 north 1 1 0 0 5 0 1 0 6 0 0 1 7\nb2 north 1 1 0 0 5 0 1 0 6 0 0 1 7\nbroken\n");
    char path[600];
    snprintf(path, sizeof path, "%s/labels/b2.txt", root);
    ck_assert_int_eq(remove(path), 0);
    assert_ok(c, sv_dataset_inspect(c, root, &findings));
    static const char *const wanted[] = {"a1.txt, line 1",
                                         "a1.txt, line 3: dataset.txt has no class Dog",
                                         "a1.txt, line 4",
                                         "stray.txt: points/ has no frame stray",
                                         "notes.md",
                                         "points/readme: is no file of points",
                                         "val.txt: points/ has no frame b3",
                                         "poses.txt, line 2: the frame b2 stands twice",
                                         "poses.txt, line 3",
                                         "poses.txt: has no line for the frame a1",
                                         "poses.txt: has no line for the frame c3",
                                         "labels/b2.txt: is not there",
                                         "c3.bin: holds no points"};
    enum { WANTED = sizeof wanted / sizeof *wanted };
    ck_assert_int_eq(findings.bad, WANTED);
    for (int k = 0; k < WANTED; k++) {
        bool said = false;
        for (int i = 0; i < findings.count; i++)
            said |= findings.data[i].bad && strstr(findings.data[i].text, wanted[k]);
        ck_assert_msg(said, "nothing says '%s'", wanted[k]);
    }
    sv_findings_free(&findings);
    sv_ctx_close(c);
}
END_TEST

START_TEST(the_program_detects_and_scores)
{
    char command[1500];
    make_set("program");
    put_points("c3.bin", 100);
    snprintf(command, sizeof command, "inspect %s", root);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "detect -q -c cluster --dataset custom --root %s -o %s", root,
             test_path("boxes.json"));
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "eval --root %s --self-check", root);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "100 where there are any"));
    snprintf(command, sizeof command,
             "eval -q --root %s -c cluster --save-results %s -o %s --curves %s --images %s", root,
             test_path("saved"), test_path("metrics.json"), test_path("curves.png"), test_path("pictures"));
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    size_t size = 0, again = 0;
    char *first = read_file(test_path("metrics.json"), &size);
    ck_assert_ptr_nonnull(first);
    snprintf(command, sizeof command, "eval -q --root %s --results %s -o %s", root, test_path("saved"),
             test_path("again.json"));
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    char *second = read_file(test_path("again.json"), &again);
    ck_assert(size == again && memcmp(first, second, size) == 0);
    free(first);
    free(second);
    /* the page holds all of it: table, curves, a picture of each sample, nothing left beside it */
    snprintf(command, sizeof command, "eval -q --root %s --results %s --report %s", root, test_path("saved"),
             test_path("page.html"));
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    char *page = read_file(test_path("page.html"), &size);
    ck_assert_ptr_nonnull(page);
    int figures = 0;
    for (const char *p = page; (p = strstr(p, "<figure>")); p++) figures++;
    ck_assert_int_eq(figures, 3);
    ck_assert_ptr_nonnull(strstr(page, "AP, 50 places of recall"));
    ck_assert_ptr_nonnull(strstr(page, "</html>"));
    free(page);
    snprintf(command, sizeof command, "ls %s.*", test_path("page.html"));
    ck_assert_int_ne(system(command), 0);
    put("labels/a1.txt", "Car 1 2\n");
    snprintf(command, sizeof command, "inspect %s", root);
    ck_assert_int_eq(savanna("%s", command), 1);
    snprintf(command, sizeof command, "eval --root %s --self-check -q", root);
    ck_assert_int_eq(savanna("%s", command), 3);
    ck_assert_ptr_nonnull(strstr(output, "a1.txt, line 1"));
    snprintf(command, sizeof command, "eval --root %s --split test --self-check -q", root);
    ck_assert_int_eq(savanna("%s", command), 2);
}
END_TEST

/* ---- average precision --------------------------------------------------------------------------------- */

enum { FRAMES = 12, MOST = 24, KINDS = 3 };
static sv_object truth[FRAMES][MOST], guess[FRAMES][MOST];
static int truths[FRAMES], guesses[FRAMES];
static double overlap[FRAMES][MOST][MOST];

static void make_objects(uint64_t seed)
{
    test_rng rng = {seed};
    for (int f = 0; f < FRAMES; f++) {
        truths[f] = f == 3 ? 0 : (int)rng_uniform(&rng, 1, MOST);
        guesses[f] = f == 4 ? 0 : (int)rng_uniform(&rng, 1, MOST);
        for (int i = 0; i < truths[f]; i++) {
            sv_object *o = &truth[f][i];
            *o = (sv_object){rng_uniform(&rng, -60, 60),      rng_uniform(&rng, -20, 20),
                             rng_uniform(&rng, -0.2, 0.2),    4,
                             rng_uniform(&rng, 1.6, 2.2),     1.6,
                             rng_uniform(&rng, -3.1, 3.1),    0,
                             (int)rng_uniform(&rng, 0, KINDS)};
        }
        for (int j = 0; j < guesses[f]; j++) {
            sv_object *o = &guess[f][j];
            if (truths[f] > 0 && j % 4 != 3) {
                *o = truth[f][j % truths[f]];
                o->x += rng_normal(&rng) * 0.3;
                o->y += rng_normal(&rng) * 0.2;
                o->heading += j % 7 == 0 ? 3.1 : rng_normal(&rng) * 0.05;
                if (j % 5 == 0) o->kind = (o->kind + 1) % KINDS;
            } else {
                *o = (sv_object){
                    rng_uniform(&rng, -60, 60), rng_uniform(&rng, -20, 20), 0, 4, 2, 1.6, 0, 0, j % KINDS};
            }
            o->score = floor(rng_uniform(&rng, 0, 1) * 50) / 50; /* with ties */
        }
        for (int i = 0; i < truths[f]; i++)
            for (int j = 0; j < guesses[f]; j++)
                overlap[f][i][j] = sv_object_overlap(&truth[f][i], &guess[f][j]);
    }
}

/* 1 ignored, 0 counts, -1 of another class: distance first, as in the official program. */
static int flag_of(const sv_object *o, int kind, int range)
{
    const double d = sqrt(o->x * o->x + o->y * o->y + o->z * o->z);
    const bool inside =
        range == 0 || (range == 1 && d < 30) || (range == 2 && d >= 30 && d < 50) || (range == 3 && d >= 50);
    return !inside ? 1 : o->kind == kind ? 0 : -1;
}

/* One pass over a frame, everything looked at: the number of true matches, whose scores are appended. */
static void plain_pass(int f, int kind, int range, double least, double threshold, bool by_overlap,
                       double *scores, int *right, int *wrong)
{
    bool used[MOST] = {false};
    for (int i = 0; i < truths[f]; i++) {
        const int own = flag_of(&truth[f][i], kind, range);
        if (own == -1) continue;
        int best = -1;
        for (int level = 0; level < 2 && (best < 0); level++) /* those in range first, when by overlap */
            for (int j = 0; j < guesses[f]; j++) {
                const int its = flag_of(&guess[f][j], kind, range);
                if (its == -1 || used[j] || guess[f][j].score < threshold || !(overlap[f][i][j] > least))
                    continue;
                if (by_overlap && its != level) continue;
                const bool better = by_overlap
                                        ? level == 0 && (best < 0 || overlap[f][i][j] > overlap[f][i][best])
                                        : best < 0 || guess[f][j].score > guess[f][best].score;
                if (better || (by_overlap && level == 1 && best < 0)) best = j;
            }
        if (best < 0) continue;
        used[best] = true;
        if (own == 0 && flag_of(&guess[f][best], kind, range) == 0) scores[(*right)++] = guess[f][best].score;
    }
    for (int j = 0; j < guesses[f]; j++)
        *wrong += !used[j] && guess[f][j].score >= threshold && flag_of(&guess[f][j], kind, range) == 0;
}

static int down(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

static double plain_ap(int kind, int range, double least)
{
    static double scores[FRAMES * MOST], rest[FRAMES * MOST];
    double threshold[200], precision[200], level = 0;
    int found = 0, ignored = 0, labels = 0, taken = 0;
    for (int f = 0; f < FRAMES; f++) {
        int count = 0;
        plain_pass(f, kind, range, least, -1, false, scores + found, &count, &ignored);
        found += count;
        for (int i = 0; i < truths[f]; i++) labels += flag_of(&truth[f][i], kind, range) == 0;
    }
    qsort(scores, (size_t)found, sizeof *scores, down);
    for (int i = 0; i < found; i++) {
        const double l = (i + 1.0) / labels, r = i + 1 < found ? (i + 2.0) / labels : l;
        if (r + l < 2 * level && i + 1 < found) continue;
        do {
            threshold[taken++] = scores[i];
            level += 0.02;
        } while (r + l + 1e-6 > 2 * level);
    }
    for (int k = 0; k < taken; k++) {
        int right = 0, wrong = 0;
        for (int f = 0; f < FRAMES; f++) {
            int count = 0;
            plain_pass(f, kind, range, least, threshold[k], true, rest, &count, &wrong);
            right += count;
        }
        precision[k] = right + wrong > 0 ? (double)right / (right + wrong) : 0;
    }
    double sum = 0;
    for (int k = 1; k < taken && k < 51; k++) {
        double best = 0;
        for (int m = k; m < taken; m++) best = fmax(best, precision[m]);
        sum += best;
    }
    return 2 * sum;
}

START_TEST(precision_is_that_of_the_plain_rules)
{
    sv_object_measure measure = {
        .names = {"one", "two", "three"}, .overlaps = {0.7, 0.3, 0.5}, .count = KINDS};
    make_objects(100 + (uint64_t)_i);
    sv_object_scores *scores[2];
    for (int threads = 0; threads < 2; threads++) {
        sv_ctx *c = test_context(threads ? 3 : 1);
        sv_object_eval *eval = NULL;
        scores[threads] = calloc(1, sizeof **scores);
        assert_ok(c, sv_object_eval_open(c, &measure, &eval));
        for (int f = 0; f < FRAMES; f++)
            assert_ok(c, sv_object_eval_add(c, eval, "frame", truth[f], truths[f], guess[f], guesses[f]));
        assert_ok(c, sv_object_eval_finish(c, eval, scores[threads]));
        sv_object_eval_close(eval);
        sv_ctx_close(c);
    }
    ck_assert_mem_eq(scores[0], scores[1], sizeof **scores);
    int scored = 0;
    for (int k = 0; k < KINDS; k++)
        for (int r = 0; r < SV_OBJECT_RANGES; r++) {
            const double plain = plain_ap(k, r, measure.overlaps[k]);
            ck_assert_double_eq_tol(scores[0]->curve[k][r].ap, plain, 1e-9);
            scored += plain > 5 && plain < 100;
        }
    ck_assert_int_gt(scored, 5);
    free(scores[0]);
    free(scores[1]);
}
END_TEST

START_TEST(overlaps_know_headings_and_heights)
{
    const sv_object a = {0, 0, 0, 4, 2, 2, 0, 0, 0};
    sv_object b = a;
    ck_assert_double_eq_tol(sv_object_overlap(&a, &b), 1, 1e-12);
    b.heading = 3.1; /* the other way round */
    ck_assert_double_eq(sv_object_overlap(&a, &b), 0);
    b.heading = 6.2831853;
    ck_assert_double_eq_tol(sv_object_overlap(&a, &b), 1, 1e-6);
    b.heading = 0, b.z = 1;
    ck_assert_double_eq_tol(sv_object_overlap(&a, &b), 1.0 / 3, 1e-12);
    b.z = 2.5;
    ck_assert_double_eq(sv_object_overlap(&a, &b), 0);
    b = a, b.x = 2;
    ck_assert_double_eq_tol(sv_object_overlap(&a, &b), 1.0 / 3, 1e-12);
}
END_TEST

START_TEST(values_that_are_none_are_refused)
{
    sv_ctx *c = test_context(1);
    sv_object_measure measure = {.names = {"one"}, .overlaps = {0.5}, .count = 1};
    sv_object_eval *eval = NULL;
    assert_ok(c, sv_object_eval_open(c, &measure, &eval));
    sv_object bad = {0, 0, 0, 1, 1, 1, 0, (double)NAN, 0};
    assert_fails(c, sv_object_eval_add(c, eval, "frame 7", NULL, 0, &bad, 1), SV_BAD_INPUT,
                 "frame 7: detection 0");
    sv_object_eval_close(eval);
    sv_object_lines lines;
    static const char text[] = "Car 0.5 1 2 3 4 2 1.5 0\nCar 1 2 3 4 2 1.5 0\n";
    assert_fails(c, sv_object_lines_parse(c, "results.txt", text, strlen(text), true, &lines), SV_BAD_INPUT,
                 "results.txt, line 2: 7 numbers behind the class, not 8 or 10");
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("custom");
    TCase *cases = tcase_create("custom data");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, a_set_is_read);
    tcase_add_loop_test(cases, faults_are_named, 0, (int)(sizeof faults / sizeof *faults));
    tcase_add_test(cases, the_validator_names_every_fault);
    tcase_add_test(cases, the_program_detects_and_scores);
    tcase_add_loop_test(cases, precision_is_that_of_the_plain_rules, 0, 6);
    tcase_add_test(cases, overlaps_know_headings_and_heights);
    tcase_add_test(cases, values_that_are_none_are_refused);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
