/* SPDX-License-Identifier: Apache-2.0 */
#include "cache.h"

#include "cache_part.h"
#include "dataset_type.h"
#include "perception/model/sha256.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 1400, OPEN = 4 };

/* A part: its tables stay, its file is open while it is used. */
typedef struct part {
    char path[PATH];
    int first; /* sample */
    sv_cache_tables tables;
} part;

typedef struct open_part {
    int part, users;
    uint64_t used;
    sv_cache_reader reader;
} open_part;

struct sv_cache {
    const sv_dataset *dataset;
    part *parts;
    int count, columns;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t free_place;
    open_part open[OPEN];
    uint64_t clock;
};

/* ---- settings ----------------------------------------------------------------------------------------- */

sv_status sv_cache_settings(sv_ctx *c, const sv_dataset *d, char *out, size_t room)
{
    char digest[SV_SHA256_TEXT];
    sv_sha256 hash;
    SV_CHECK(c, d->type->fingerprint, SV_UNSUPPORTED, "the dataset %s has no cache", d->type->name);
    sv_sha256_begin(&hash);
    for (int i = 0; i < d->count; i++) sv_sha256_add(&hash, d->samples[i].id, strlen(d->samples[i].id) + 1);
    sv_sha256_text(&hash, digest);
    const int length = snprintf(out, room, "%s, split %s, %s, columns %s, %d samples %s", d->type->name,
                                d->split[0] ? d->split : "-", d->options, d->layout, d->count, digest);
    SV_CHECK(c, length > 0 && (size_t)length < room, SV_INTERNAL, "the settings of a cache are too long");
    return SV_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static sv_status load_part(sv_ctx *c, sv_cache *cache, part *p, const char *settings)
{
    char there[SV_CACHE_SETTINGS];
    sv_cache_reader reader;
    SV_TRY(sv_cache_reader_open(c, p->path, &reader));
    sv_status status = sv_cache_reader_settings(c, &reader, p->path, there);
    if (status == SV_OK && strcmp(there, settings) != 0)
        status = SV_FAIL(c, SV_BAD_INPUT,
                         "%s: was made of other data (%s) than now (%s): name another cache, or make it anew",
                         p->path, there, settings);
    if (status == SV_OK) status = sv_cache_reader_tables(c, &reader, p->path, &p->tables);
    cache->columns = reader.columns;
    sv_cache_reader_close(&reader);
    return status;
}

/* Every sample is there, and made of as much as there is now. */
static sv_status compare_sources(sv_ctx *c, const sv_cache *cache, const part *p)
{
    const sv_dataset *d = cache->dataset;
    for (int i = 0; i < p->tables.samples; i++) {
        const int64_t *f = p->tables.frames + (size_t)SV_CACHE_FRAME * (size_t)i;
        sv_fingerprint now = {0};
        SV_CHECK(c,
                 p->first + i < d->count && strcmp(p->tables.ids + (size_t)SV_CACHE_ID * (size_t)i,
                                                   d->samples[p->first + i].id) == 0,
                 SV_BAD_INPUT,
                 "%s: holds other samples than its name says: remove it and make the cache again", p->path);
        SV_TRY(d->type->fingerprint(c, d, p->first + i, &now));
        SV_CHECK(c, now.bytes == f[SV_CACHE_BYTES] && (int64_t)now.values == f[SV_CACHE_VALUES], SV_BAD_INPUT,
                 "%s: sample %s has changed since the cache was made (%lld bytes then, %lld now%s): remove "
                 "this file and "
                 "make the cache again",
                 p->path, d->samples[p->first + i].id, (long long)f[SV_CACHE_BYTES], (long long)now.bytes,
                 now.bytes == f[SV_CACHE_BYTES] ? ", other poses or calibration" : "");
    }
    return SV_OK;
}

static sv_status open_parts(sv_ctx *c, sv_cache *cache, const char *folder)
{
    char settings[SV_CACHE_SETTINGS];
    sv_names names;
    SV_CHECK(c, sv_dataset_is_folder(folder), SV_IO, "%s: there is no such cache; 'savanna cache' makes one",
             folder);
    SV_TRY(sv_cache_settings(c, cache->dataset, settings, sizeof settings));
    SV_TRY(sv_dataset_list(c, folder, ".h5", &names));
    cache->parts = calloc((size_t)names.count + 1, sizeof *cache->parts);
    sv_status status = cache->parts ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", folder);
    int samples = 0;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        part *p = &cache->parts[cache->count++];
        int first = -1;
        p->first = samples;
        status = sv_dataset_path(c, p->path, sizeof p->path, "%s/%s", folder, names.data[i]);
        if (status == SV_OK && (sscanf(names.data[i], "part-%d.h5", &first) != 1 || first != samples))
            status = SV_FAIL(
                c, SV_BAD_INPUT,
                "%s: the part that begins with sample %d is missing: continue 'savanna cache' with the same "
                "settings",
                folder, samples);
        if (status == SV_OK) status = load_part(c, cache, p, settings);
        if (status == SV_OK) status = compare_sources(c, cache, p);
        samples += p->tables.samples;
    }
    sv_names_free(&names);
    SV_TRY(status);
    SV_CHECK(c, samples == cache->dataset->count, SV_BAD_INPUT,
             "%s: holds %d of %d samples: continue 'savanna cache' with the same settings", folder, samples,
             cache->dataset->count);
    return SV_OK;
}

sv_status sv_cache_open(sv_ctx *c, const sv_dataset *dataset, const char *folder, sv_cache **out)
{
    *out = NULL;
    sv_cache *cache = calloc(1, sizeof *cache);
    SV_CHECK(c, cache, SV_NO_MEMORY, "%s: no memory", folder);
    cache->dataset = dataset;
    pthread_mutex_init(&cache->lock, NULL);
    pthread_cond_init(&cache->free_place, NULL);
    for (int i = 0; i < OPEN; i++) cache->open[i] = (open_part){.part = -1};
    const sv_status status = open_parts(c, cache, folder);
    if (status == SV_OK)
        *out = cache;
    else
        sv_cache_close(cache);
    return status;
}

void sv_cache_close(sv_cache *cache)
{
    if (!cache) return;
    for (int i = 0; i < OPEN; i++)
        if (cache->open[i].part >= 0) sv_cache_reader_close(&cache->open[i].reader);
    for (int i = 0; i < cache->count; i++) sv_cache_free_tables(&cache->parts[i].tables);
    free(cache->parts);
    pthread_mutex_destroy(&cache->lock);
    pthread_cond_destroy(&cache->free_place);
    free(cache);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* The place of an open part, opened if need be in that of the one unused for longest. */
static sv_status take_part(sv_ctx *c, sv_cache *cache, int number, open_part **out)
{
    sv_status status = SV_OK;
    pthread_mutex_lock(&cache->lock);
    for (*out = NULL; !*out;) {
        open_part *oldest = NULL;
        for (int i = 0; i < OPEN && !*out; i++) {
            open_part *o = &cache->open[i];
            if (o->part == number) *out = o;
            if (o->users == 0 && (!oldest || o->used < oldest->used)) oldest = o;
        }
        if (*out) break;
        if (!oldest) {
            pthread_cond_wait(&cache->free_place, &cache->lock);
            continue;
        }
        if (oldest->part >= 0) sv_cache_reader_close(&oldest->reader);
        oldest->part = -1;
        status = sv_cache_reader_open(c, cache->parts[number].path, &oldest->reader);
        if (status != SV_OK) break;
        oldest->part = number;
        *out = oldest;
    }
    if (*out) {
        (*out)->users++;
        (*out)->used = ++cache->clock;
    }
    pthread_mutex_unlock(&cache->lock);
    return status;
}

static void give_part(sv_cache *cache, open_part *o)
{
    pthread_mutex_lock(&cache->lock);
    o->users--;
    pthread_cond_signal(&cache->free_place);
    pthread_mutex_unlock(&cache->lock);
}

static bool same(double a, double b)
{
    return fabs(a - b) <= 1e-3 || (isnan(a) && isnan(b));
}

/* What was read from the dataset beside the points is what the cache was made with. */
static sv_status compare(sv_ctx *c, const part *p, int place, const sv_sample *s)
{
    const int64_t *f = p->tables.frames + (size_t)SV_CACHE_FRAME * (size_t)place;
    const double *pose = p->tables.poses + (size_t)SV_CACHE_POSE * (size_t)place;
    bool good = s->has_pose == ((f[SV_CACHE_FLAGS] & 1) != 0);
    for (int i = 0; i < 12 && good; i++) {
        const int row = i / 4, column = i % 4;
        good = same(pose[i], column < 3 ? s->lidar_to_ego.r[3 * row + column] : s->lidar_to_ego.t[row]) &&
               same(pose[12 + i], column < 3 ? s->ego_to_world.r[3 * row + column] : s->ego_to_world.t[row]);
    }
    if (s->has_labels) {
        good = good && s->label_count == f[SV_CACHE_BOXES];
        const float *v = p->tables.box_values + (size_t)SV_CACHE_BOX * (size_t)f[SV_CACHE_FIRST_BOX];
        for (int i = 0; i < s->label_count && good; i++, v += SV_CACHE_BOX) {
            const sv_box *b = &s->labels[i].box;
            const float now[7] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading};
            for (int k = 0; k < 7; k++) good = good && same((double)v[k], (double)now[k]);
        }
    }
    SV_CHECK(c, good, SV_BAD_INPUT,
             "%s: boxes or poses of sample %s have changed since the cache was made: remove this file and "
             "make the cache "
             "again",
             p->path, s->id);
    return SV_OK;
}

sv_status sv_cache_read(sv_ctx *c, sv_cache *cache, sv_sample *s)
{
    int number = cache->count - 1;
    while (number > 0 && cache->parts[number].first > s->index) number--;
    const part *p = &cache->parts[number];
    const int place = s->index - p->first;
    const int64_t *f = p->tables.frames + (size_t)SV_CACHE_FRAME * (size_t)place;
    SV_TRY(compare(c, p, place, s));
    const int points = (int)f[SV_CACHE_POINTS];
    SV_TRY(sv_sample_frame(c, s, points, cache->columns));
    open_part *o;
    SV_TRY(take_part(c, cache, number, &o));
    uint8_t *bytes = malloc(sv_cache_rows_room(cache->columns));
    sv_cache_chunk chunks[SV_CACHE_COLUMNS];
    sv_status status = bytes ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", p->path);
    if (status == SV_OK && o->reader.columns != cache->columns)
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: has changed while it was read", p->path);
    for (int done = 0; done < points && status == SV_OK; done += SV_CACHE_ROWS) {
        const int rows = points - done < SV_CACHE_ROWS ? points - done : SV_CACHE_ROWS;
        status = sv_cache_reader_rows(c, &o->reader, p->path, f[SV_CACHE_FIRST_ROW] + done, bytes, chunks);
        for (int k = 0; k < cache->columns && status == SV_OK; k++)
            status = sv_cache_unpack(c, p->path, &chunks[k], rows, cache->columns, k,
                                     s->frame->points + (size_t)done * (size_t)cache->columns);
    }
    give_part(cache, o);
    free(bytes);
    SV_TRY(status);
    s->frame->count = points;
    s->dropped = (int)f[SV_CACHE_DROPPED];
    return SV_OK;
}

/* ---- verifying ---------------------------------------------------------------------------------------- */

sv_status sv_cache_verify(sv_ctx *c, const sv_dataset *dataset, const char *folder,
                          const sv_cache_progress *progress)
{
    sv_cache *cache;
    SV_TRY(sv_cache_open(c, dataset, folder, &cache));
    sv_status status = SV_OK;
    for (int n = 0; n < cache->count && status == SV_OK; n++) {
        const part *p = &cache->parts[n];
        for (int i = 0; i < p->tables.samples && status == SV_OK; i++) {
            sv_fingerprint now = {.whole = true};
            status = dataset->type->fingerprint(c, dataset, p->first + i, &now);
            if (status == SV_OK &&
                (int64_t)now.content !=
                    p->tables.frames[(size_t)SV_CACHE_FRAME * (size_t)i + SV_CACHE_CONTENT])
                status = SV_FAIL(c, SV_BAD_INPUT,
                                 "%s: the files of sample %s have another content than when the cache was "
                                 "made: remove this "
                                 "part and make the cache again",
                                 p->path, dataset->samples[p->first + i].id);
            if (progress && progress->step) progress->step(progress->user, p->first + i + 1);
        }
    }
    sv_cache_close(cache);
    return status;
}
