/* SPDX-License-Identifier: Apache-2.0 */
#include "support_program.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

char output[1 << 20];

int savanna(const char *format, ...)
{
    char command[6144], arguments[5000];
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    ck_assert(length >= 0 && (size_t)length < sizeof arguments);
    const char *program = getenv("SAVANNA_PROGRAM");
    ck_assert_msg(program != NULL, "SAVANNA_PROGRAM names the program under test");
    snprintf(command, sizeof command, "%.1000s %s 2>&1", program, arguments);
    FILE *pipe = popen(command, "r");
    ck_assert_ptr_nonnull(pipe);
    output[fread(output, 1, sizeof output - 1, pipe)] = '\0';
    const int state = pclose(pipe);
    ck_assert_msg(WIFEXITED(state), "'%.1000s' did not exit by itself: %.3000s", command, output);
    return WEXITSTATUS(state);
}

void assert_says(int code, int wanted, const char *text)
{
    ck_assert_msg(code == wanted, "exit code %d instead of %d: %.3000s", code, wanted, output);
    ck_assert_msg(strstr(output, text) != NULL, "'%.1000s' is not in: %.3000s", text, output);
}
