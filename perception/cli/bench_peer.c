/* SPDX-License-Identifier: Apache-2.0
 *
 * DIR/run --config YAML --weights FILE --points FILE --layout L --threads N --repeats R prints, as its last line, one JSON
 * object: name, frame_ms (a list), stages (name: ms), peak_rss_kib, boxes.
 */
#define _GNU_SOURCE
#include "bench_peer.h"

#include "bench_quantiles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <yajl/yajl_tree.h>

enum { PEER_OUTPUT = 1 << 20 };

static sv_status run_peer(sv_ctx *c, const sv_bench_peer *peer, char **output)
{
    char program[1024], threads[16], repeats[16];
    snprintf(program, sizeof program, "%s/run", peer->folder);
    SV_CHECK(c, access(program, X_OK) == 0, SV_IO,
             "%s: a peer is a folder with an executable 'run' (see 'savanna help bench')", program);
    snprintf(threads, sizeof threads, "%d", peer->threads);
    snprintf(repeats, sizeof repeats, "%d", peer->repeats);
    int pipes[2];
    SV_CHECK(c, pipe(pipes) == 0, SV_IO, "%s: no pipe", program);
    const pid_t child = fork();
    SV_CHECK(c, child >= 0, SV_IO, "%s: it cannot be started", program);
    if (child == 0) {
        dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        execl(program, program, "--config", peer->config, "--weights", peer->weights, "--points",
              peer->points, "--layout", peer->layout, "--threads", threads, "--repeats", repeats,
              (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    char *text = malloc(PEER_OUTPUT);
    size_t used = 0;
    ssize_t got = 0;
    while (text && used < PEER_OUTPUT - 1 && (got = read(pipes[0], text + used, PEER_OUTPUT - 1 - used)) > 0)
        used += (size_t)got;
    close(pipes[0]);
    int state = 0;
    waitpid(child, &state, 0);
    if (text) text[used] = '\0';
    if (!text || !WIFEXITED(state) || WEXITSTATUS(state) != 0) {
        free(text);
        return SV_FAIL(c, SV_NOT_MET, "%s: the peer ended with %d", program,
                       WIFEXITED(state) ? WEXITSTATUS(state) : -1);
    }
    *output = text;
    return SV_OK;
}

static const char *last_line(char *text)
{
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) text[--length] = '\0';
    char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

static sv_status compare(sv_ctx *c, const sv_bench_peer *ours, char *output)
{
    char message[256];
    yajl_val root = yajl_tree_parse(last_line(output), message, sizeof message);
    SV_CHECK(c, root, SV_BAD_INPUT, "%s/run: its last line is not JSON: %s", ours->folder, message);
    yajl_val ms = yajl_tree_get(root, (const char *[]){"frame_ms", NULL}, yajl_t_array);
    yajl_val memory = yajl_tree_get(root, (const char *[]){"peak_rss_kib", NULL}, yajl_t_number);
    yajl_val name = yajl_tree_get(root, (const char *[]){"name", NULL}, yajl_t_string);
    yajl_val boxes = yajl_tree_get(root, (const char *[]){"boxes", NULL}, yajl_t_number);
    yajl_val stages = yajl_tree_get(root, (const char *[]){"stages", NULL}, yajl_t_object);
    double *values =
        ms && YAJL_GET_ARRAY(ms)->len > 0 ? calloc(YAJL_GET_ARRAY(ms)->len, sizeof *values) : NULL;
    if (!values) {
        yajl_tree_free(root);
        return SV_FAIL(c, SV_BAD_INPUT, "%s/run: its last line has no frame_ms", ours->folder);
    }
    const int count = (int)YAJL_GET_ARRAY(ms)->len;
    for (int i = 0; i < count; i++) {
        yajl_val v = YAJL_GET_ARRAY(ms)->values[i];
        values[i] = YAJL_IS_NUMBER(v) ? YAJL_GET_DOUBLE(v) : 0;
    }
    const double theirs = sv_quantiles_of(values, count).p50;
    printf("\npeer: %s\n", name ? YAJL_GET_STRING(name) : ours->folder);
    printf("  %-24s %12s %12s %10s\n", "", "savanna", "peer", "ratio");
    printf("  %-24s %12.1f %12.1f %9.2fx\n", "frame, ms (median)", ours->frame_ms, theirs,
           theirs / ours->frame_ms);
    if (memory) {
        const double kib = YAJL_GET_DOUBLE(memory);
        printf("  %-24s %12.1f %12.1f %9.2fx\n", "peak memory, MiB", (double)ours->peak_kib / 1024,
               kib / 1024, kib / (double)ours->peak_kib);
    }
    if (boxes) printf("  %-24s %12d %12.0f\n", "boxes", ours->boxes, YAJL_GET_DOUBLE(boxes));
    for (size_t i = 0; stages && i < YAJL_GET_OBJECT(stages)->len; i++)
        printf("  %-24s %12s %12.1f\n", YAJL_GET_OBJECT(stages)->keys[i], "",
               YAJL_GET_DOUBLE(YAJL_GET_OBJECT(stages)->values[i]));
    free(values);
    yajl_tree_free(root);
    return SV_OK;
}

sv_status sv_bench_beside_peer(sv_ctx *c, const sv_bench_peer *peer)
{
    char *output = NULL;
    SV_TRY(run_peer(c, peer, &output));
    const sv_status status = compare(c, peer, output);
    free(output);
    return status;
}
