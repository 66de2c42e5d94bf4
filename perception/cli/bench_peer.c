/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "bench_peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_OUTPUT = 1 << 20, MOST_ARGUMENTS = 32 };

void sv_peer_device(const sv_app *app, char out[32])
{
    if (app->device == SV_CPU)
        snprintf(out, 32, "cpu");
    else
        snprintf(out, 32, app->device_index > 0 ? "cuda:%d" : "cuda", app->device_index);
}

static sv_status start(sv_ctx *c, const char *program, const char *const *arguments, pid_t *child, int *from)
{
    int pipes[2];
    char *list[MOST_ARGUMENTS] = {(char *)(uintptr_t)program};
    for (int i = 0; arguments[i] && i < MOST_ARGUMENTS - 2; i++)
        list[i + 1] = (char *)(uintptr_t)arguments[i];
    SV_CHECK(c, pipe(pipes) == 0, SV_IO, "%s: no pipe", program);
    *child = fork();
    if (*child == 0) {
        dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        execv(program, list);
        _exit(127);
    }
    close(pipes[1]);
    *from = pipes[0];
    if (*child < 0) close(pipes[0]);
    SV_CHECK(c, *child > 0, SV_IO, "%s: it cannot be started", program);
    return SV_OK;
}

static const char *last_line(char *text)
{
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) text[--length] = '\0';
    char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

sv_status sv_peer_run(sv_ctx *c, const char *folder, const char *const *arguments, yajl_val *out)
{
    char program[1024], message[256] = "";
    pid_t child = 0;
    int from = 0, state = 0;
    snprintf(program, sizeof program, "%s/run", folder);
    SV_CHECK(c, access(program, X_OK) == 0, SV_IO,
             "%s: a peer is a folder with an executable 'run' (see 'savanna help bench')", program);
    char *text = malloc(MOST_OUTPUT);
    SV_CHECK(c, text, SV_NO_MEMORY, "no memory for what a peer prints");
    const sv_status status = start(c, program, arguments, &child, &from);
    size_t used = 0;
    ssize_t got = 0;
    while (status == SV_OK && used < MOST_OUTPUT - 1 &&
           (got = read(from, text + used, MOST_OUTPUT - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    if (status == SV_OK) {
        close(from);
        waitpid(child, &state, 0);
    }
    const bool ended = status == SV_OK && WIFEXITED(state) && WEXITSTATUS(state) == 0;
    *out = ended ? yajl_tree_parse(last_line(text), message, sizeof message) : NULL;
    free(text);
    SV_TRY(status);
    SV_CHECK(c, ended, SV_NOT_MET, "%s: the peer ended with %d", program,
             WIFEXITED(state) ? WEXITSTATUS(state) : -1);
    SV_CHECK(c, *out, SV_BAD_INPUT, "%s: its last line is not JSON: %s", program, message);
    return SV_OK;
}

double sv_peer_number(yajl_val object, const char *key)
{
    yajl_val value = yajl_tree_get(object, (const char *[]){key, NULL}, yajl_t_number);
    return value ? YAJL_GET_DOUBLE(value) : 0;
}
