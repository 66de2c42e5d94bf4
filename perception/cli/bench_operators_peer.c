/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna bench operators --peer: the same operators, shapes, direction, precision and device of another
 * implementation, in one table with ours.
 */
#include "bench_peer.h"
#include "bench_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = 64, SHAPE_ROOM = 48 };

static sv_bench_report *find_report(const sv_bench_run *b, const char *name)
{
    for (int i = 0; i < b->count; i++)
        if (strcmp(b->reports[i].type->name, name) == 0) return &b->reports[i];
    return NULL;
}

static sv_bench_point *find_point(sv_bench_report *r, int channels, int length, int groups)
{
    for (int i = 0; r && i < r->point_count; i++) {
        sv_bench_point *p = &r->points[i];
        if (p->channels == channels && p->length == length && p->groups == groups) return p;
    }
    return NULL;
}

/* "GLA,RWKV7" and "64x512x1,64x512x4": every operator was measured in the same shapes. */
static void write_lists(const sv_bench_run *b, char *names, char *shapes)
{
    names[0] = shapes[0] = '\0';
    for (int i = 0, at = 0; i < b->count; i++)
        at += snprintf(names + at, NAME_ROOM, "%s%s", i ? "," : "", b->reports[i].type->name);
    for (int i = 0, at = 0; i < b->reports[0].point_count; i++) {
        const sv_bench_point *p = &b->reports[0].points[i];
        at +=
            snprintf(shapes + at, SHAPE_ROOM, "%s%dx%dx%d", i ? "," : "", p->channels, p->length, p->groups);
    }
}

/* What the peer has measured to the points of ours; shapes that nobody asked for are passed over. */
static sv_status take(sv_bench_run *b, yajl_val root)
{
    yajl_val name = yajl_tree_get(root, (const char *[]){"name", NULL}, yajl_t_string);
    yajl_val list = yajl_tree_get(root, (const char *[]){"operators", NULL}, yajl_t_array);
    SV_CHECK(b->c, list, SV_BAD_INPUT, "%s/run: its last line has no list 'operators'", b->grid->peer);
    snprintf(b->peer_name, sizeof b->peer_name, "%s", name ? YAJL_GET_STRING(name) : b->grid->peer);
    for (size_t i = 0; i < YAJL_GET_ARRAY(list)->len; i++) {
        yajl_val at = YAJL_GET_ARRAY(list)->values[i];
        yajl_val of = yajl_tree_get(at, (const char *[]){"operator", NULL}, yajl_t_string);
        const double ms = sv_peer_number(at, "ms");
        SV_CHECK(b->c, of && ms > 0, SV_BAD_INPUT,
                 "%s/run: entry %zu of 'operators' has no operator's name or no ms", b->grid->peer, i);
        sv_bench_point *p =
            find_point(find_report(b, YAJL_GET_STRING(of)), (int)sv_peer_number(at, "channels"),
                       (int)sv_peer_number(at, "length"), (int)sv_peer_number(at, "groups"));
        if (!p) continue;
        p->peer_ms = ms;
        p->peer_launched_ms = sv_peer_number(at, "launched_ms");
    }
    return SV_OK;
}

sv_status sv_bench_ask_peer(sv_bench_run *b)
{
    char device[32], threads[16], rounds[16];
    char *names = malloc((size_t)b->count * NAME_ROOM),
         *shapes = malloc((size_t)SV_BENCH_POINTS * SHAPE_ROOM);
    sv_status status =
        names && shapes ? SV_OK : SV_FAIL(b->c, SV_NO_MEMORY, "no memory for what a peer is asked");
    yajl_val root = NULL;
    if (status == SV_OK) {
        write_lists(b, names, shapes);
        sv_peer_device(b->app, device);
        snprintf(threads, sizeof threads, "%d", sv_pool_threads(b->c->pool));
        snprintf(rounds, sizeof rounds, "%d", b->grid->rounds);
        const char *const arguments[] = {"--operators", names,
                                         "--shapes",    shapes,
                                         "--direction", b->grid->direction ? b->grid->direction : "both",
                                         "--precision", sv_precision_name(b->c->precision),
                                         "--device",    device,
                                         "--threads",   threads,
                                         "--rounds",    rounds,
                                         NULL};
        status = sv_peer_run(b->c, b->grid->peer, arguments, &root);
    }
    if (status == SV_OK) status = take(b, root);
    yajl_tree_free(root);
    free(names);
    free(shapes);
    return status;
}

static void print_ratio(double ours, double theirs)
{
    if (ours > 0 && theirs > 0)
        printf(" %10.4f %10.4f %8.2fx", ours, theirs, theirs / ours);
    else
        printf(" %10s %10s %9s", "-", "-", "-");
}

void sv_bench_print_peer(const sv_bench_run *b)
{
    const bool launches = b->c->device->capture_begin != NULL;
    double logs = 0;
    int compared = 0;
    printf("\npeer: %s\nmilliseconds a call%s\n", b->peer_name,
           launches ? ", replayed from a captured graph; launched call by call" : "");
    printf("  %-20s %8s %8s %6s %10s %10s %9s", "operator", "channels", "tokens", "groups", "savanna", "peer",
           "ratio");
    if (launches) printf(" %10s %10s %9s", "savanna", "peer", "ratio");
    putchar('\n');
    for (int i = 0; i < b->count; i++)
        for (int n = 0; n < b->reports[i].point_count; n++) {
            const sv_bench_point *p = &b->reports[i].points[n];
            if (p->peer_ms == 0) continue;
            printf("  %-20s %8d %8d %6d", b->reports[i].type->name, p->channels, p->length, p->groups);
            print_ratio(p->ms, p->peer_ms);
            if (launches) print_ratio(p->launched_ms, p->peer_launched_ms);
            putchar('\n');
            logs += log(p->peer_ms / p->ms);
            compared++;
        }
    if (compared > 0)
        printf("  geometric mean of %d ratios: %.2fx\n", compared, exp(logs / compared));
    else
        printf("  the peer has none of these operators\n");
}
