/* SPDX-License-Identifier: Apache-2.0 */
#include "object_submission.h"

#include <stdlib.h>
#include <string.h>

typedef struct place {
    int sample, row;
} place;

struct sv_object_submission {
    sv_object_line *lines; /* as they were added */
    place *places;         /* by sample, then row, once sorted */
    int count, room;
};

sv_status sv_object_submission_new(sv_ctx *c, sv_submission *out)
{
    out->own = calloc(1, sizeof(sv_object_submission));
    SV_CHECK(c, out->own, SV_NO_MEMORY, "%s: no memory", out->path);
    return SV_OK;
}

int sv_object_submission_sample(const sv_evaluator *e, const char *id, sv_submission *out)
{
    const int sample = sv_dataset_find(e->dataset, id);
    /* a part of an id is none */
    if (sample >= 0 && strcmp(sv_dataset_id(e->dataset, sample), id) == 0) return sample;
    if (out->extra++ == 0) snprintf(out->first_extra, sizeof out->first_extra, "%s", id);
    return -1;
}

sv_status sv_object_submission_add(sv_ctx *c, sv_submission *submission, int sample,
                                   const sv_object_line *line)
{
    sv_object_submission *s = submission->own;
    if (s->count == s->room) {
        const size_t room = 2 * (size_t)s->room + 1024;
        SV_CHECK(c, room < INT32_MAX, SV_UNSUPPORTED, "%s: more than %d boxes", submission->path, s->count);
        sv_object_line *lines = realloc(s->lines, sizeof *lines * room);
        if (lines) s->lines = lines;
        place *places = lines ? realloc(s->places, sizeof *places * room) : NULL;
        SV_CHECK(c, places, SV_NO_MEMORY, "%s: no memory for %zu boxes", submission->path, room);
        s->places = places;
        s->room = (int)room;
    }
    s->lines[s->count] = *line;
    s->places[s->count] = (place){sample, s->count};
    s->count++;
    return SV_OK;
}

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;
    return x->sample != y->sample ? (x->sample < y->sample ? -1 : 1) : x->row < y->row ? -1 : x->row > y->row;
}

void sv_object_submission_sort(sv_submission *submission)
{
    sv_object_submission *s = submission->own;
    if (s->count > 1) qsort(s->places, (size_t)s->count, sizeof *s->places, by_place);
}

void sv_object_submission_close(sv_submission *submission)
{
    sv_object_submission *s = submission->own;
    free(s->lines);
    free(s->places);
    free(s);
    submission->own = NULL;
}

sv_status sv_object_submission_read(sv_ctx *c, const sv_evaluator *e, const sv_submission *submission,
                                    int sample, sv_eval_result *out)
{
    (void)e;
    const sv_object_submission *s = submission->own;
    int low = 0, high = s->count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (s->places[middle].sample < sample)
            low = middle + 1;
        else
            high = middle;
    }
    int end = low;
    while (end < s->count && s->places[end].sample == sample) end++;
    sv_object_line *lines = calloc((size_t)(end - low) + 1, sizeof *lines);
    SV_CHECK(c, lines, SV_NO_MEMORY, "%s: no memory for %d boxes", submission->path, end - low);
    for (int i = low; i < end; i++) lines[i - low] = s->lines[s->places[i].row];
    *out = (sv_eval_result){lines, end - low};
    return SV_OK;
}
