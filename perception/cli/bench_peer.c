/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "bench_peer.h"

#include "bench_quantiles.h"

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

/* ---- whole frames -------------------------------------------------------------------------------------- */

static sv_status run_frames(const sv_app *app, sv_ctx *c, const sv_bench_peer *peer, yajl_val *out)
{
    char threads[16], repeats[16], device[32];
    snprintf(threads, sizeof threads, "%d", peer->threads);
    snprintf(repeats, sizeof repeats, "%d", peer->repeats);
    sv_peer_device(app, device);
    const char *const arguments[] = {"--config",
                                     peer->config,
                                     "--weights",
                                     peer->weights,
                                     "--points",
                                     peer->points,
                                     "--layout",
                                     peer->layout,
                                     "--threads",
                                     threads,
                                     "--repeats",
                                     repeats,
                                     app->device == SV_CPU ? NULL : "--device",
                                     device,
                                     "--precision",
                                     peer->precision,
                                     NULL};
    return sv_peer_run(c, peer->folder, arguments, out);
}

static void print_beside(const char *what, double ours, double theirs)
{
    printf("  %-24s %12.2f %12.2f %9.2fx\n", what, ours, theirs, theirs / ours);
}

static sv_status compare(sv_ctx *c, const sv_bench_peer *ours, yajl_val root)
{
    yajl_val ms = yajl_tree_get(root, (const char *[]){"frame_ms", NULL}, yajl_t_array);
    yajl_val name = yajl_tree_get(root, (const char *[]){"name", NULL}, yajl_t_string);
    yajl_val boxes = yajl_tree_get(root, (const char *[]){"boxes", NULL}, yajl_t_number);
    yajl_val stages = yajl_tree_get(root, (const char *[]){"stages", NULL}, yajl_t_object);
    const double memory = sv_peer_number(root, "peak_rss_kib"), device = sv_peer_number(root, "device_mib");
    double *values =
        ms && YAJL_GET_ARRAY(ms)->len > 0 ? calloc(YAJL_GET_ARRAY(ms)->len, sizeof *values) : NULL;
    SV_CHECK(c, values, SV_BAD_INPUT, "%s/run: its last line has no frame_ms", ours->folder);
    const int count = (int)YAJL_GET_ARRAY(ms)->len;
    for (int i = 0; i < count; i++) {
        yajl_val v = YAJL_GET_ARRAY(ms)->values[i];
        values[i] = YAJL_IS_NUMBER(v) ? YAJL_GET_DOUBLE(v) : 0;
    }
    printf("\npeer: %s\n", name ? YAJL_GET_STRING(name) : ours->folder);
    printf("  %-24s %12s %12s %10s\n", "", "savanna", "peer", "ratio");
    print_beside("frame, ms (median)", ours->frame_ms, sv_quantiles_of(values, count).p50);
    if (memory > 0) print_beside("peak memory, MiB", (double)ours->peak_kib / 1024, memory / 1024);
    if (device > 0 && ours->device_mib > 0) print_beside("device memory, MiB", ours->device_mib, device);
    if (boxes) printf("  %-24s %12d %12.0f\n", "boxes", ours->boxes, YAJL_GET_DOUBLE(boxes));
    for (size_t i = 0; stages && i < YAJL_GET_OBJECT(stages)->len; i++)
        printf("  %-24s %12s %12.2f\n", YAJL_GET_OBJECT(stages)->keys[i], "",
               YAJL_GET_DOUBLE(YAJL_GET_OBJECT(stages)->values[i]));
    free(values);
    return SV_OK;
}

sv_status sv_bench_beside_peer(const sv_app *app, sv_ctx *c, const sv_bench_peer *peer)
{
    yajl_val root = NULL;
    SV_TRY(run_frames(app, c, peer, &root));
    const sv_status status = compare(c, peer, root);
    yajl_tree_free(root);
    return status;
}
