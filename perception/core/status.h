/* SPDX-License-Identifier: Apache-2.0
 *
 * Result codes and the way a failure travels.
 *
 * Every function that can fail returns sv_status. The first failure of a call
 * is kept in the context (sv_ctx) with file, line and a sentence that names
 * the values; later failures of the same call do not overwrite it. Functions
 * do not clean up on the error path: memory belongs to arenas, which the owner
 * resets. Data from outside never triggers an assert; assert is for broken
 * invariants of our own.
 */
#ifndef SV_STATUS_H
#define SV_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sv_ctx sv_ctx;

typedef enum sv_status {
#define STATUS(name, value, exit_code, text) SV_##name = value,
#include "status.def"
#undef STATUS
} sv_status;

/* "SV_BAD_INPUT" -> "the input is wrong". Never NULL. */
const char *sv_status_text(sv_status status);
/* The exit code the command line gives for 'status' (0 ok, 1 not met, 2 usage, 3 bad input, 4 internal). */
int sv_status_exit_code(sv_status status);

/*
 * Record a failure unless the context already holds one; returns 'status', so
 * that "return sv_fail(...)" reads naturally. 'c' may be NULL (nothing is kept).
 */
sv_status sv_fail(sv_ctx *c, sv_status status, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* SV_FAIL(c, SV_BAD_INPUT, "%s: %d columns, expected %d", path, n, 4) */
#define SV_FAIL(c, status, ...) sv_fail((c), (status), __FILE__, __LINE__, __VA_ARGS__)

/* Return a failure with a sentence when 'condition' does not hold. */
#define SV_CHECK(c, condition, status, ...)                                                                  \
    do {                                                                                                     \
        if (!(condition)) return SV_FAIL((c), (status), __VA_ARGS__);                                        \
    } while (0)

/* Pass a failure on. */
#define SV_TRY(expression)                                                                                   \
    do {                                                                                                     \
        const sv_status sv_try_status_ = (expression);                                                       \
        if (sv_try_status_ != SV_OK) return sv_try_status_;                                                  \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
