/* SPDX-License-Identifier: Apache-2.0 */
#include "picks.h"

#include "perception/core/device.h"
#include "perception/core/dump.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_row(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Of a's rows those that b has not. */
static int missing_rows(const int32_t *a, int a_count, const int32_t *b, int b_count)
{
    int32_t *sorted = malloc(sizeof *sorted * ((size_t)b_count + 1));
    if (!sorted) exit(1);
    memcpy(sorted, b, sizeof *sorted * (size_t)b_count);
    qsort(sorted, (size_t)b_count, sizeof *sorted, by_row);
    int missing = 0;
    for (int k = 0; k < a_count; k++)
        missing += !bsearch(&a[k], sorted, (size_t)b_count, sizeof *sorted, by_row);
    free(sorted);
    return missing;
}

sv_status see_picks(void *user, sv_ctx *c, const char *name, sv_tensor picks)
{
    choice *k = user;
    const char *last = strrchr(name, '/');
    if (strcmp(last ? last + 1 : name, "topk_indices") != 0) return SV_OK;
    if (k->merges == 0) snprintf(k->first, sizeof k->first, "%s", name);
    if (strcmp(name, k->first) == 0) k->merges = 0;
    SV_CHECK(c, k->merges < MERGES, SV_INTERNAL, "more than %d merges pick voxels", MERGES);
    const int i = k->merges++;
    void *rows = NULL;
    int live = 0;
    SV_TRY(sv_download_rows(c, picks, &rows, &live));
    if (!k->imposed) {
        free(k->rows[i]);
        k->rows[i] = rows;
        k->count[i] = live;
        return SV_OK;
    }
    k->missing[i] = missing_rows(rows, live, k->rows[i], k->count[i]);
    free(rows);
    if (live != k->count[i]) return SV_OK; /* a run that was cut, and will be made again */
    return c->device->upload(c, picks.data, k->rows[i], sizeof(int32_t) * (size_t)live);
}

int others(const choice *a, const choice *b, int *all)
{
    int missing = 0;
    *all = 0;
    for (int i = 0; i < a->merges && i < b->merges; i++) {
        missing += missing_rows(a->rows[i], a->count[i], b->rows[i], b->count[i]);
        *all += a->count[i];
    }
    return missing;
}

void choice_free(choice *k)
{
    for (int i = 0; i < MERGES; i++) free(k->rows[i]);
}
