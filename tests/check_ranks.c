/* SPDX-License-Identifier: Apache-2.0
 *
 * 'mpirun savanna eval': any number of ranks scores and saves what a single run does, byte by byte, continued runs too, and
 * when one rank fails all do. Skipped where there is no mpirun or the program was built without MPI.
 */
#include "support_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has_mpi(void)
{
    char module[1024];
    const char *program = getenv("SAVANNA_PROGRAM"), *slash = program ? strrchr(program, '/') : NULL;
    snprintf(module, sizeof module, "%.*s/libsavanna_mpi.so", slash ? (int)(slash - program) : 0,
             program ? program : "");
    return slash && access(module, R_OK) == 0 && system("command -v mpirun >/dev/null 2>&1") == 0;
}

/* The program under a launcher; mpirun's own words about codes that are not 0 are between the lines. */
static int ranks(int count, const char *arguments)
{
    static char program[1024];
    const char *plain = getenv("SAVANNA_PROGRAM");
    snprintf(program, sizeof program, "%s", plain);
    char launcher[1400];
    snprintf(launcher, sizeof launcher,
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to "
             "none -n %d %s",
             count, program);
    setenv("SAVANNA_PROGRAM", launcher, 1);
    const int code = savanna("%s", arguments);
    setenv("SAVANNA_PROGRAM", program, 1);
    return code;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t sizes[2] = {0, 0};
    void *bytes[2] = {read_file(a, &sizes[0]), read_file(b, &sizes[1])};
    ck_assert_msg(bytes[0] && bytes[1] && sizes[0] == sizes[1] && memcmp(bytes[0], bytes[1], sizes[0]) == 0,
                  "%s and %s differ", a, b);
    free(bytes[0]);
    free(bytes[1]);
}

static void assert_same_folder(const char *a, const char *b)
{
    char command[2048];
    snprintf(command, sizeof command, "diff -r '%s' '%s'", a, b);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(any_number_of_ranks_gives_the_same_bytes)
{
    char root[600], arguments[4000], saved[600], scores[600];
    snprintf(root, sizeof root, "%s", test_path("drive"));
    ck_assert_int_eq(savanna("synth %s --frames 20 --drives 4 --seed 1 --no-images -q", root), 0);
    snprintf(saved, sizeof saved, "%s", test_path("alone"));
    snprintf(scores, sizeof scores, "%s", test_path("alone.json"));
    static const char format[] =
        "eval -q --threads 1 --root %s -c cluster --fov all --batch %d --save-results %s -o %s %s";
    snprintf(arguments, sizeof arguments, format, root, 3, saved, scores, "");
    ck_assert_msg(savanna("%s", arguments) == 0, "%.3000s", output);
    for (int count = 1; count <= 3; count++) {
        char name[32], other[600], other_scores[600];
        snprintf(name, sizeof name, "ranks%d", count);
        snprintf(other, sizeof other, "%s", test_path(name));
        snprintf(name, sizeof name, "ranks%d.json", count);
        snprintf(other_scores, sizeof other_scores, "%s", test_path(name));
        snprintf(arguments, sizeof arguments, format, root, count, other, other_scores, "");
        ck_assert_msg(ranks(count, arguments) == 0, "%d ranks: %.3000s", count, output);
        assert_same_folder(saved, other);
        assert_same_file(scores, other_scores);
        /* some results are lost, and other ranks go on */
        char command[1400];
        snprintf(command, sizeof command, "ls '%s'/0*.txt | sed -n '1p;3p;4p;7p' | xargs rm", other);
        ck_assert_int_eq(system(command), 0);
        snprintf(arguments, sizeof arguments, format, root, 2, other, other_scores, "--resume");
        ck_assert_msg(ranks(4 - count, arguments) == 0, "%.3000s", output);
        assert_same_folder(saved, other);
        assert_same_file(scores, other_scores);
    }
}
END_TEST

START_TEST(one_rank_that_fails_ends_all)
{
    char root[600], arguments[3000];
    snprintf(root, sizeof root, "%s", test_path("broken"));
    ck_assert_int_eq(savanna("synth %s --frames 12 --drives 4 --seed 2 --no-images -q", root), 0);
    snprintf(arguments, sizeof arguments, "rm $(ls %s/training/velodyne/*.bin | tail -n 1)", root);
    ck_assert_int_eq(system(arguments), 0);
    snprintf(arguments, sizeof arguments, "eval -q --root %s -c cluster --fov all", root);
    for (int count = 1; count <= 3; count++) {
        assert_says(ranks(count, arguments), 3, "cannot be opened");
        const char *first = strstr(output, "savanna eval: ");
        ck_assert_msg(first && !strstr(first + 1, "savanna eval: "), "not one sentence: %.3000s", output);
    }
    assert_says(ranks(2, "eval -q --root nowhere -c cluster"), 3, "no such folder");
    assert_says(ranks(2, "eval -q --root nowhere --self-check"), 2,
                "several ranks share the work of a detector");
    assert_says(ranks(2, "eval -q --root nowhere --batch 0 -c cluster"), 2, "--batch: 0 is not within");
}
END_TEST

int main(void)
{
    if (!has_mpi()) {
        printf("skipped: there is no mpirun, or the program was built without MPI\n");
        return 77;
    }
    Suite *suite = suite_create("ranks");
    TCase *tests = tcase_create("ranks");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, any_number_of_ranks_gives_the_same_bytes);
    tcase_add_test(tests, one_rank_that_fails_ends_all);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
