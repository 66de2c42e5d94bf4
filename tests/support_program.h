/* SPDX-License-Identifier: Apache-2.0
 *
 * The program under test, run as a user runs it. The environment's SAVANNA_PROGRAM names it.
 */
#ifndef SUPPORT_PROGRAM_H
#define SUPPORT_PROGRAM_H

#include "support.h"

/* What the last run printed on both streams; the end is cut off. */
extern char output[1 << 20];

/* Runs it with these arguments and gives its exit code; ending by a signal fails the test. */
int savanna(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* 'code' is the wanted one, and 'text' was printed. */
void assert_says(int code, int wanted, const char *text);

#endif
