/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700
#include "support.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int run_suite(Suite *suite, bool fork)
{
    SRunner *runner = srunner_create(suite);
    if (!fork) srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

sv_ctx *test_context(int threads)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = threads;
    sv_ctx *c = NULL;
    assert_ok(c, sv_ctx_open(&def, &c));
    return c;
}

uint64_t rng_u64(test_rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

double rng_uniform(test_rng *rng, double from, double to)
{
    return from + (to - from) * (double)(rng_u64(rng) >> 11) * 0x1p-53;
}

double rng_normal(test_rng *rng)
{
    const double u = 1.0 - rng_uniform(rng, 0, 1), v = rng_uniform(rng, 0, 1);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

void rng_fill(test_rng *rng, float *values, size_t count, double deviation)
{
    for (size_t i = 0; i < count; i++) values[i] = (float)(deviation * rng_normal(rng));
}

void assert_close(const char *what, const float *a, const float *b, size_t count, double abs, double rel)
{
    size_t worst = 0;
    double excess = -1;
    for (size_t i = 0; i < count; i++) {
        const double difference = fabs((double)a[i] - (double)b[i]);
        const double over = difference - (abs + rel * fabs((double)b[i]));
        if (!(over <= excess) && !(a[i] == b[i])) {
            excess = over;
            worst = i;
            if (isnan(over)) break;
        }
    }
    ck_assert_msg(excess <= 0, "%s: element %zu of %zu is %.9g, expected %.9g (tolerance %g + %g relative)",
                  what, worst, count, (double)a[worst], (double)b[worst], abs, rel);
}

static char folder[64];

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info, (void)type, (void)walk;
    return remove(path);
}

static pid_t folder_owner;
static void remove_folder(void)
{
    if (getpid() == folder_owner) nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_folder(void)
{
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "/tmp/savanna-test-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(folder));
        folder_owner = getpid();
        atexit(remove_folder);
    }
    return folder;
}

const char *test_path(const char *name)
{
    static char paths[64][256];
    static int next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder(), name);
    return path;
}

void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(bytes, 1, count, file), count);
    ck_assert_int_eq(fclose(file), 0);
}

void *read_file(const char *path, size_t *count)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    const long size = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)size + 1);
    ck_assert_ptr_nonnull(bytes);
    *count = fread(bytes, 1, (size_t)size, file);
    bytes[*count] = '\0';
    fclose(file);
    return bytes;
}

const char *reference_folder(void)
{
    const char *path = getenv("SAVANNA_REFERENCE");
    struct stat info;
    if (path && stat(path, &info) == 0) return path;
    printf("SKIPPED: no reference data at '%s' (set SAVANNA_REFERENCE)\n", path ? path : "");
    return NULL;
}
