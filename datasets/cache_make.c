/* SPDX-License-Identifier: Apache-2.0
 *
 * A part after the other. Its samples are read and packed in parallel, in groups, and written in their order, so that
 * memory holds a group and the bytes do not depend on the number of threads.
 */
#include "cache_part.h"
#include "dataset_type.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH = 1160, GROUP = 16, LEAST = 64, MOST_PARTS = 256 };

/* One sample on its way. */
typedef struct packed {
    sv_sample sample;
    sv_cache_chunk *chunks; /* malloc'ed */
    int chunk_count;
    sv_fingerprint source;
    sv_status status;
    int worker; /* whose context has the message */
} packed;

typedef struct maker {
    sv_ctx *c;
    const sv_dataset *dataset;
    sv_ctx **workers;
    int worker_count;
    packed group[GROUP];
    int first, count; /* of the group */
    sv_cache_tables tables;
    int box_room;
    sv_cache_summary *summary;
} maker;

/* ---- a sample ----------------------------------------------------------------------------------------- */

static void forget_chunks(packed *p)
{
    for (int i = 0; i < p->chunk_count; i++) free(p->chunks[i].bytes);
    free(p->chunks);
    p->chunks = NULL;
    p->chunk_count = 0;
}

static sv_status pack_sample(sv_ctx *c, const sv_dataset *d, int index, packed *p)
{
    forget_chunks(p);
    p->source = (sv_fingerprint){.whole = true};
    SV_TRY(d->type->fingerprint(c, d, index, &p->source));
    SV_TRY(sv_dataset_read(c, d, index, SV_READ_POINTS | SV_READ_LABELS, &p->sample));
    const sv_frame *frame = p->sample.frame;
    const int chunks = (frame->count + SV_CACHE_ROWS - 1) / SV_CACHE_ROWS * frame->columns;
    p->chunks = calloc((size_t)chunks + 1, sizeof *p->chunks);
    SV_CHECK(c, p->chunks, SV_NO_MEMORY, "%s: no memory", p->sample.id);
    for (; p->chunk_count < chunks; p->chunk_count++) {
        const int done = p->chunk_count / frame->columns * SV_CACHE_ROWS,
                  rows = frame->count - done < SV_CACHE_ROWS ? frame->count - done : SV_CACHE_ROWS;
        SV_TRY(sv_cache_pack(c, frame->points + (size_t)done * (size_t)frame->columns, rows, frame->columns,
                             p->chunk_count % frame->columns, &p->chunks[p->chunk_count]));
    }
    return SV_OK;
}

static void pack_task(void *arg, int task, int worker)
{
    maker *m = arg;
    packed *p = &m->group[task];
    p->worker = worker;
    p->status = pack_sample(m->workers[worker], m->dataset, m->first + task, p);
}

/* ---- a part ------------------------------------------------------------------------------------------- */

static sv_status room_for_boxes(maker *m, int more)
{
    sv_cache_tables *t = &m->tables;
    if (t->boxes + more <= m->box_room) return SV_OK;
    const size_t room = 2 * (size_t)(t->boxes + more);
    float *values = realloc(t->box_values, sizeof *values * SV_CACHE_BOX * room);
    if (values) t->box_values = values;
    int32_t *labels = realloc(t->labels, sizeof *labels * SV_CACHE_LABEL * room);
    if (labels) t->labels = labels;
    SV_CHECK(m->c, values && labels, SV_NO_MEMORY, "no memory for %zu boxes", room);
    m->box_room = (int)room;
    return SV_OK;
}

static void put_pose(const sv_pose *pose, double *out)
{
    for (int i = 0; i < 12; i++) out[i] = i % 4 < 3 ? pose->r[3 * (i / 4) + i % 4] : pose->t[i / 4];
}

static sv_status put_tables(maker *m, const packed *p, int64_t first_row)
{
    const sv_sample *s = &p->sample;
    sv_cache_tables *t = &m->tables;
    SV_TRY(room_for_boxes(m, s->label_count));
    int64_t *f = t->frames + (size_t)SV_CACHE_FRAME * (size_t)t->samples;
    f[SV_CACHE_FIRST_ROW] = first_row;
    f[SV_CACHE_POINTS] = s->frame->count;
    f[SV_CACHE_DROPPED] = s->dropped;
    f[SV_CACHE_FIRST_BOX] = t->boxes;
    f[SV_CACHE_BOXES] = s->label_count;
    f[SV_CACHE_FLAGS] = (s->has_pose ? 1 : 0) | (s->has_labels ? 2 : 0);
    f[SV_CACHE_BYTES] = p->source.bytes;
    f[SV_CACHE_VALUES] = p->source.values;
    f[SV_CACHE_CONTENT] = p->source.content;
    f[SV_CACHE_RESERVED] = 0;
    double *pose = t->poses + (size_t)SV_CACHE_POSE * (size_t)t->samples;
    put_pose(&s->lidar_to_ego, pose);
    put_pose(&s->ego_to_world, pose + 12);
    t->times[t->samples] = s->time;
    snprintf(t->ids + (size_t)SV_CACHE_ID * (size_t)t->samples, SV_CACHE_ID, "%s", s->id);
    for (int i = 0; i < s->label_count; i++, t->boxes++) {
        const sv_label *l = &s->labels[i];
        const float values[SV_CACHE_BOX] = {l->box.x,  l->box.y,       l->box.z,  l->box.dx, l->box.dy,
                                            l->box.dz, l->box.heading, l->box.vx, l->box.vy};
        const int32_t label[SV_CACHE_LABEL] = {l->box.label, l->points,
                                               (l->has_box ? 1 : 0) | (l->has_velocity ? 2 : 0)};
        memcpy(t->box_values + (size_t)SV_CACHE_BOX * (size_t)t->boxes, values, sizeof values);
        memcpy(t->labels + (size_t)SV_CACHE_LABEL * (size_t)t->boxes, label, sizeof label);
    }
    t->samples++;
    m->summary->points += s->frame->count;
    m->summary->boxes += s->label_count;
    m->summary->bytes += (long long)s->frame->count * s->frame->columns * 4;
    return SV_OK;
}

static sv_status new_tables(maker *m, int samples)
{
    const size_t n = (size_t)samples;
    sv_cache_free_tables(&m->tables);
    m->box_room = 0;
    m->tables.frames = calloc(n, sizeof(int64_t) * SV_CACHE_FRAME);
    m->tables.poses = calloc(n, sizeof(double) * SV_CACHE_POSE);
    m->tables.times = calloc(n, sizeof(double));
    m->tables.ids = calloc(n, SV_CACHE_ID);
    SV_CHECK(m->c, m->tables.frames && m->tables.poses && m->tables.times && m->tables.ids, SV_NO_MEMORY,
             "no memory for %d samples", samples);
    return room_for_boxes(m, 1);
}

static sv_status write_group(maker *m, sv_cache_writer *w)
{
    sv_pool_run(m->c->pool, pack_task, m, m->count);
    for (int i = 0; i < m->count; i++) {
        packed *p = &m->group[i];
        SV_CHECK(m->c, p->status == SV_OK, p->status, "%s", sv_error_message(m->workers[p->worker]));
        SV_CHECK(m->c, p->sample.frame->columns == w->columns, SV_INTERNAL, "%s: %d columns", p->sample.id,
                 p->sample.frame->columns);
        SV_TRY(put_tables(m, p, w->rows));
        for (int k = 0; k < p->chunk_count; k += w->columns)
            SV_TRY(sv_cache_writer_rows(m->c, w, &p->chunks[k]));
        for (int k = 0; k < p->chunk_count; k++) m->summary->stored += (long long)p->chunks[k].size;
    }
    return SV_OK;
}

static sv_status write_part(maker *m, const char *path, const char *settings, int first, int count,
                            const sv_cache_progress *progress)
{
    sv_cache_writer w;
    SV_TRY(new_tables(m, count));
    SV_TRY(sv_cache_writer_open(m->c, path, (int)strlen(m->dataset->layout), &w));
    sv_status status = SV_OK;
    for (int done = 0; done < count && status == SV_OK; done += GROUP) {
        m->first = first + done;
        m->count = count - done < GROUP ? count - done : GROUP;
        status = write_group(m, &w);
        if (status == SV_OK && progress && progress->step)
            progress->step(progress->user, m->first + m->count);
    }
    if (status == SV_OK) status = sv_cache_writer_close(m->c, &w, settings, &m->tables);
    sv_cache_writer_discard(&w);
    return status;
}

/* ---- all parts ---------------------------------------------------------------------------------------- */

/* A part that is there is kept when it is of the same data. */
static sv_status look_at_part(sv_ctx *c, const char *path, const char *settings, int count)
{
    char there[SV_CACHE_SETTINGS];
    sv_cache_reader reader;
    sv_cache_tables tables = {0};
    SV_TRY(sv_cache_reader_open(c, path, &reader));
    sv_status status = sv_cache_reader_settings(c, &reader, path, there);
    if (status == SV_OK) status = sv_cache_reader_tables(c, &reader, path, &tables);
    if (status == SV_OK && (strcmp(there, settings) != 0 || tables.samples != count))
        status = SV_FAIL(
            c, SV_BAD_INPUT,
            "%s: was made of other data (%s, %d samples in this part) than now (%s, %d): name another folder",
            path, there, tables.samples, settings, count);
    sv_cache_free_tables(&tables);
    sv_cache_reader_close(&reader);
    return status;
}

static sv_status make_parts(maker *m, const char *folder, int per_part, const sv_cache_progress *progress)
{
    char settings[SV_CACHE_SETTINGS], path[PATH];
    const int count = m->dataset->count;
    SV_TRY(sv_cache_settings(m->c, m->dataset, settings, sizeof settings));
    SV_CHECK(m->c, count > 0, SV_BAD_INPUT, "%s has no samples", m->dataset->summary);
    SV_CHECK(m->c, sv_dataset_is_folder(folder) || mkdir(folder, 0777) == 0, SV_IO,
             "%s: the folder cannot be made: %s", folder, strerror(errno));
    for (int first = 0; first < count; first += per_part) {
        const int samples = count - first < per_part ? count - first : per_part;
        SV_TRY(sv_dataset_path(m->c, path, sizeof path, "%s/part-%06d.h5", folder, first));
        if (sv_dataset_is_file(path)) {
            SV_TRY(look_at_part(m->c, path, settings, samples));
            m->summary->kept += samples;
            if (progress && progress->step) progress->step(progress->user, first + samples);
            continue;
        }
        SV_TRY(write_part(m, path, settings, first, samples, progress));
        m->summary->written += samples;
    }
    return SV_OK;
}

sv_status sv_cache_make(sv_ctx *c, const sv_dataset *dataset, const char *folder, int samples_per_part,
                        const sv_cache_progress *progress, sv_cache_summary *out)
{
    *out = (sv_cache_summary){0};
    const int even = (dataset->count + MOST_PARTS - 1) / MOST_PARTS;
    const int per_part = samples_per_part > 0 ? samples_per_part : even > LEAST ? even : LEAST;
    maker *m = calloc(1, sizeof *m);
    SV_CHECK(c, m, SV_NO_MEMORY, "no memory for a cache");
    *m = (maker){.c = c, .dataset = dataset, .summary = out, .worker_count = sv_pool_threads(c->pool)};
    m->workers = calloc((size_t)m->worker_count, sizeof(sv_ctx *));
    sv_status status = m->workers ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for a cache");
    for (int i = 0; i < m->worker_count && status == SV_OK; i++) {
        sv_ctx_def alone = sv_ctx_def_default();
        alone.threads = 1;
        status = sv_ctx_open(&alone, &m->workers[i]);
        if (status != SV_OK) SV_FAIL(c, status, "no context for worker %d", i);
    }
    if (status == SV_OK) status = make_parts(m, folder, per_part, progress);
    for (int i = 0; i < GROUP; i++) {
        forget_chunks(&m->group[i]);
        sv_sample_free(&m->group[i].sample);
    }
    for (int i = 0; m->workers && i < m->worker_count; i++) sv_ctx_close(m->workers[i]);
    sv_cache_free_tables(&m->tables);
    free(m->workers);
    free(m);
    return status;
}
