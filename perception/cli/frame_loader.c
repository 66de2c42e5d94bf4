/* SPDX-License-Identifier: Apache-2.0 */
#include "frame_loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_THREADS = 16 };

typedef struct cell {
    frame_slot slot;
    bool ready;
    sv_status status;
    char message[sizeof(((sv_error *)0)->message)];
} cell;

struct frame_loader {
    frame_loader_def def;
    pthread_mutex_t lock;
    pthread_cond_t filled, freed;
    cell *cells;
    int count;    /* samples */
    int next;     /* the first that no thread has taken */
    int released; /* everything before may be overwritten */
    bool stop;
    pthread_t threads[MOST_THREADS];
    sv_ctx *contexts[MOST_THREADS];
    int thread_count;
};

typedef struct reader {
    frame_loader *loader;
    sv_ctx *c;
} reader;

static sv_status load(sv_ctx *c, const frame_loader_def *d, int sample, frame_slot *slot)
{
    slot->has_result = d->submission && d->submission->present[sample];
    const bool elsewhere = d->elsewhere && d->elsewhere[sample];
    const unsigned parts = d->parts | (slot->has_result ? 0
                                       : elsewhere      ? d->elsewhere_parts
                                                        : d->absent_parts);
    if (elsewhere && parts == 0) return SV_OK;
    SV_TRY(sv_dataset_read(c, d->dataset, sample, parts, &slot->sample));
    return slot->has_result ? sv_submission_read(c, d->evaluator, d->submission, sample, &slot->result)
                            : SV_OK;
}

static void *read_ahead(void *arg)
{
    const reader self = *(reader *)arg;
    frame_loader *l = self.loader;
    free(arg);
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->next < l->count && l->next - l->released >= l->def.slots)
            pthread_cond_wait(&l->freed, &l->lock);
        if (l->stop || l->next >= l->count) break;
        const int sample = l->next++;
        cell *to = &l->cells[sample % l->def.slots];
        pthread_mutex_unlock(&l->lock);
        to->status = load(self.c, &l->def, sample, &to->slot);
        if (to->status != SV_OK) snprintf(to->message, sizeof to->message, "%s", sv_error_message(self.c));
        sv_error_clear(self.c);
        pthread_mutex_lock(&l->lock);
        to->ready = true;
        pthread_cond_broadcast(&l->filled);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

sv_status frame_loader_begin(sv_ctx *c, const frame_loader_def *def, frame_loader **out)
{
    frame_loader *l = calloc(1, sizeof *l);
    *out = l;
    SV_CHECK(c, l, SV_NO_MEMORY, "no memory to read ahead");
    l->def = *def;
    l->count = sv_dataset_count(def->dataset);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_cond_init(&l->freed, NULL);
    l->cells = calloc((size_t)def->slots, sizeof *l->cells);
    SV_CHECK(c, l->cells, SV_NO_MEMORY, "no memory to read %d samples ahead", def->slots);
    const int threads = def->threads < MOST_THREADS ? def->threads : MOST_THREADS;
    for (int i = 0; i < threads; i++) {
        SV_TRY(sv_app_reader(c, def->app, &l->contexts[i])); /* detectors copy the points from there */
        reader *r = malloc(sizeof *r);
        SV_CHECK(c, r, SV_NO_MEMORY, "no memory to read ahead");
        *r = (reader){l, l->contexts[i]};
        if (pthread_create(&l->threads[i], NULL, read_ahead, r) != 0) {
            free(r);
            return SV_FAIL(c, SV_NO_MEMORY, "no thread to read ahead can be started");
        }
        l->thread_count = i + 1;
    }
    return SV_OK;
}

sv_status frame_loader_wait(sv_ctx *c, frame_loader *l, int sample, frame_slot **out)
{
    cell *from = &l->cells[sample % l->def.slots];
    pthread_mutex_lock(&l->lock);
    while (!from->ready) pthread_cond_wait(&l->filled, &l->lock);
    pthread_mutex_unlock(&l->lock);
    *out = &from->slot;
    SV_CHECK(c, from->status == SV_OK, from->status, "%s", from->message);
    return SV_OK;
}

void frame_loader_release(frame_loader *l, int before)
{
    pthread_mutex_lock(&l->lock);
    for (int i = l->released; i < before; i++) l->cells[i % l->def.slots].ready = false;
    l->released = before;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
}

void frame_loader_end(frame_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->thread_count; i++) pthread_join(l->threads[i], NULL);
    for (int i = 0; i < MOST_THREADS; i++) sv_ctx_close(l->contexts[i]);
    for (int i = 0; l->cells && i < l->def.slots; i++) {
        sv_sample_free(&l->cells[i].slot.sample);
        sv_eval_result_free(&l->cells[i].slot.result);
    }
    free(l->cells);
    pthread_cond_destroy(&l->freed);
    pthread_cond_destroy(&l->filled);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
