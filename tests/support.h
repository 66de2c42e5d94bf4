/* SPDX-License-Identifier: Apache-2.0
 *
 * What the suites share: a context, seeded random numbers, comparison, temporary files, and the runner.
 */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "perception/core/context.h"
#include "perception/core/ops.h"

#include <check.h>
#include <stdbool.h>

/* Run a suite as a program: verbosity, TAP or XML from the environment, exit code = failures. 'fork' false: CK_NOFORK. */
int run_suite(Suite *suite, bool fork);

/* A CPU context with 'threads' threads; aborts the test when it cannot be had. */
sv_ctx *test_context(int threads);

/* splitmix64; the same seed gives the same numbers everywhere. */
typedef struct test_rng {
    uint64_t state;
} test_rng;
uint64_t rng_u64(test_rng *rng);
double rng_uniform(test_rng *rng, double from, double to);
double rng_normal(test_rng *rng);
void rng_fill(test_rng *rng, float *values, size_t count, double deviation);

/* Fails the test with the worst element unless |a-b| <= abs + rel*|b| everywhere (NaN never passes). */
void assert_close(const char *what, const float *a, const float *b, size_t count, double abs, double rel);

/* Assert SV_OK and show the context's message otherwise. */
#define assert_ok(c, expression)                                                                             \
    do {                                                                                                     \
        const sv_status status_ = (expression);                                                              \
        ck_assert_msg(status_ == SV_OK, "%s: %s (%s)", #expression, sv_error_message(c),                     \
                      sv_status_text(status_));                                                              \
    } while (0)
/* Assert a failure of this status whose sentence contains 'text', and clear it. */
#define assert_fails(c, expression, wanted, text)                                                            \
    do {                                                                                                     \
        const sv_status status_ = (expression);                                                              \
        ck_assert_msg(status_ == (wanted), "%s: %s instead of %s: %s", #expression, sv_status_text(status_), \
                      sv_status_text(wanted), sv_error_message(c));                                          \
        ck_assert_msg(strstr(sv_error_message(c), text) != NULL, "message '%s' lacks '%s'",                  \
                      sv_error_message(c), text);                                                            \
        sv_error_clear(c);                                                                                   \
    } while (0)

/* A fresh folder, removed with everything in it when the program ends. */
const char *test_folder(void);
/* folder/name in static memory (64 results live at a time) */
const char *test_path(const char *name);
void write_file(const char *path, const void *bytes, size_t count);
void *read_file(const char *path, size_t *count); /* malloc'ed, zero-terminated; NULL when unreadable */

/* Reference data folder (golden/, data/), or NULL: print the reason and skip. */
const char *reference_folder(void);

#endif
