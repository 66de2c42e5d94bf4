/* SPDX-License-Identifier: Apache-2.0 */
#include "dataset.h"

#include "cache.h"
#include "dataset_type.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { COOKIE = 0x5bda7a01, LONGEST_LIST = 1 << 24 };

static const sv_dataset_type *const types[] = {
#define DATASET(name) &sv_dataset_type_##name,
#include "datasets.def"
#undef DATASET
};
enum { TYPES = sizeof types / sizeof *types };

int sv_dataset_type_count(void)
{
    return TYPES;
}
const char *sv_dataset_type_name(int type)
{
    return types[type]->name;
}
const char *sv_dataset_type_summary(int type)
{
    return types[type]->summary;
}

/* ---- folders ------------------------------------------------------------------------------------------ */

bool sv_dataset_is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}
bool sv_dataset_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}
long long sv_dataset_file_size(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) ? (long long)info.st_size : -1;
}

sv_status sv_dataset_path(sv_ctx *c, char *out, size_t room, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(out, room, format, args);
    va_end(args);
    SV_CHECK(c, length >= 0 && (size_t)length < room, SV_USAGE, "a path is longer than %zu letters: %.80s...",
             room - 1, out);
    return SV_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool wanted(const char *folder, const char *name, const char *suffix)
{
    const size_t length = strlen(name), tail = strlen(suffix);
    if (name[0] == '.') return false;
    if (strcmp(suffix, "/") != 0) return length >= tail && strcmp(name + length - tail, suffix) == 0;
    char path[4096];
    return (size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path &&
           sv_dataset_is_folder(path);
}

sv_status sv_dataset_list(sv_ctx *c, const char *folder, const char *suffix, sv_names *out)
{
    *out = (sv_names){0};
    DIR *handle = opendir(folder);
    SV_CHECK(c, handle != NULL, SV_IO, "%s: the folder cannot be read: %s", folder, strerror(errno));
    sv_status status = SV_OK;
    for (struct dirent *entry; status == SV_OK && (entry = readdir(handle)) != NULL;) {
        if (!wanted(folder, entry->d_name, suffix)) continue;
        const int n = out->count;
        char **grown = out->data;
        if (n == 0 || (n & (n - 1)) == 0) grown = realloc(out->data, sizeof *grown * (size_t)(n ? 2 * n : 1));
        if (grown) out->data = grown;
        char *name = grown && n < LONGEST_LIST ? strdup(entry->d_name) : NULL;
        if (name)
            out->data[out->count++] = name;
        else
            status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d names", folder, n + 1);
    }
    closedir(handle);
    if (status != SV_OK)
        sv_names_free(out);
    else if (out->count > 0)
        qsort(out->data, (size_t)out->count, sizeof *out->data, compare_names);
    return status;
}

void sv_names_free(sv_names *names)
{
    for (int i = 0; i < names->count; i++) free(names->data[i]);
    free(names->data);
    *names = (sv_names){0};
}

void sv_names_say(const sv_names *names, char *out, size_t room)
{
    enum { SHOWN = 6 };
    size_t used = (size_t)snprintf(out, room, "%s", names->count ? "" : "nothing");
    for (int i = 0; i < names->count && i < SHOWN && used < room; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%s", i ? ", " : "", names->data[i]);
    if (names->count > SHOWN && used < room)
        snprintf(out + used, room - used, " and %d more", names->count - SHOWN);
}

/* ---- opening ------------------------------------------------------------------------------------------ */

sv_dataset_def sv_dataset_def_default(const char *name, const char *root)
{
    return (sv_dataset_def){.name = name, .root = root, .cookie = COOKIE};
}

const char *sv_dataset_recognise(const char *root)
{
    for (int i = 0; i < TYPES; i++)
        if (types[i]->recognise(root)) return types[i]->name;
    return NULL;
}

static sv_status find_type(sv_ctx *c, const char *name, const char *root, const sv_dataset_type **out)
{
    char known[240] = "";
    for (int i = 0; i < TYPES; i++) {
        if (name ? strcmp(types[i]->name, name) == 0 : types[i]->recognise(root)) {
            *out = types[i];
            return SV_OK;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", types[i]->name);
    }
    SV_CHECK(c, !name, SV_USAGE, "'%.60s' is no dataset: %s", name, known);
    return SV_FAIL(c, SV_BAD_INPUT, "%s: is the folder of none of the known datasets (%s)", root, known);
}

static sv_status check_options(sv_ctx *c, const sv_dataset_type *type, const sv_dataset_def *def)
{
    const struct {
        const char *what;
        bool set, taken;
    } options[] = {{"a split", def->split != NULL, type->takes_split},
                   {"a version", def->version != NULL, type->takes_version},
                   {"sequences", def->sequence_count > 0, type->takes_sequences},
                   {"a field of view", def->fov != NULL, type->takes_fov},
                   {"a number of sweeps", def->sweeps != 0, type->takes_sweeps},
                   {"a rule for sweeps", def->sweep_rule != NULL, type->takes_sweeps}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        SV_CHECK(c, !options[i].set || options[i].taken, SV_USAGE, "the dataset %s does not take %s",
                 type->name, options[i].what);
    return SV_OK;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const sv_dataset_key *)a)->id, ((const sv_dataset_key *)b)->id);
}

/* The index by id; a second sample with the same id is an error. */
static sv_status sort_ids(sv_ctx *c, sv_dataset *d)
{
    d->by_id = malloc(sizeof *d->by_id * (size_t)(d->count ? d->count : 1));
    SV_CHECK(c, d->by_id != NULL, SV_NO_MEMORY, "%s: no memory for %d samples", d->root, d->count);
    for (int i = 0; i < d->count; i++) d->by_id[i] = (sv_dataset_key){d->samples[i].id, i};
    qsort(d->by_id, (size_t)d->count, sizeof *d->by_id, compare_keys);
    for (int i = 1; i < d->count; i++)
        SV_CHECK(c, strcmp(d->by_id[i - 1].id, d->by_id[i].id) != 0, SV_BAD_INPUT,
                 "%s: the sample %s is listed twice (%s)", d->root, d->by_id[i].id, d->summary);
    return SV_OK;
}

sv_status sv_dataset_open(sv_ctx *c, const sv_dataset_def *def, sv_dataset **out)
{
    *out = NULL;
    SV_CHECK(c, def->cookie == COOKIE, SV_INTERNAL,
             "a dataset's def must come from sv_dataset_def_default()");
    SV_CHECK(c, def->root && def->root[0], SV_USAGE, "the dataset %s needs its root folder",
             def->name ? def->name : "");
    const sv_dataset_type *type = NULL;
    SV_CHECK(c, sv_dataset_is_folder(def->root), SV_IO, "%s: there is no such folder", def->root);
    SV_TRY(find_type(c, def->name, def->root, &type));
    SV_TRY(check_options(c, type, def));
    sv_dataset *d = calloc(1, sizeof *d);
    SV_CHECK(c, d != NULL, SV_NO_MEMORY, "%s: no memory", def->root);
    d->type = type;
    sv_status status = sv_dataset_path(c, d->root, sizeof d->root, "%s", def->root);
    for (size_t n = strlen(d->root); n > 1 && d->root[n - 1] == '/'; n--) d->root[n - 1] = '\0';
    if (status == SV_OK) status = type->open(c, def, d);
    if (status == SV_OK) status = sort_ids(c, d);
    snprintf(d->options, sizeof d->options, "fov %.40s, sweeps %d, rule %.40s", def->fov ? def->fov : "-",
             def->sweeps, def->sweep_rule ? def->sweep_rule : "-");
    if (status == SV_OK && def->cache) status = sv_cache_open(c, d, def->cache, &d->cache);
    if (status == SV_OK)
        *out = d;
    else
        sv_dataset_close(d);
    return status;
}

void sv_dataset_close(sv_dataset *d)
{
    if (!d) return;
    sv_cache_close(d->cache);
    if (d->type->close) d->type->close(d);
    free(d->samples);
    free(d->sequences);
    free(d->by_id);
    free(d);
}

/* An array that doubles: room for one more. */
static bool grow(void **data, int count, size_t size)
{
    if (count > 0 && (count & (count - 1)) != 0) return true;
    void *grown = realloc(*data, size * (size_t)(count > 0 ? 2 * count : 1));
    if (grown) *data = grown;
    return grown != NULL;
}

sv_status sv_dataset_add_sequence(sv_ctx *c, sv_dataset *d, const char *name)
{
    void *data = d->sequences;
    const bool room =
        d->sequence_count < LONGEST_LIST && grow(&data, d->sequence_count, sizeof *d->sequences);
    d->sequences = data;
    SV_CHECK(c, room, SV_NO_MEMORY, "%s: no memory for %d sequences", d->root, d->sequence_count + 1);
    sv_sample_sequence *s = &d->sequences[d->sequence_count];
    *s = (sv_sample_sequence){.first = d->count};
    SV_CHECK(c, strlen(name) < sizeof s->name, SV_BAD_INPUT, "%s: the name of the sequence %s is too long",
             d->root, name);
    memcpy(s->name, name, strlen(name) + 1);
    d->sequence_count++;
    return SV_OK;
}

sv_status sv_dataset_add_sample(sv_ctx *c, sv_dataset *d, const char *id, double time)
{
    void *data = d->samples;
    const bool room = d->count < LONGEST_LIST && grow(&data, d->count, sizeof *d->samples);
    d->samples = data;
    SV_CHECK(c, room, SV_NO_MEMORY, "%s: no memory for %d samples", d->root, d->count + 1);
    sv_dataset_entry *s = &d->samples[d->count];
    SV_CHECK(c, strlen(id) < sizeof s->id, SV_BAD_INPUT, "%s: the id %s is too long", d->root, id);
    SV_CHECK(c, d->sequence_count > 0, SV_INTERNAL, "a sample needs a sequence");
    *s = (sv_dataset_entry){.sequence = d->sequence_count - 1, .time = time};
    memcpy(s->id, id, strlen(id) + 1);
    d->count++;
    d->sequences[d->sequence_count - 1].count++;
    return SV_OK;
}

/* ---- what there is ------------------------------------------------------------------------------------ */

const char *sv_dataset_name(const sv_dataset *d)
{
    return d->type->name;
}
const char *sv_dataset_summary(const sv_dataset *d)
{
    return d->summary;
}
const char *sv_dataset_root(const sv_dataset *d)
{
    return d->root;
}
const char *sv_dataset_split(const sv_dataset *d)
{
    return d->split;
}
const char *sv_dataset_layout(const sv_dataset *d)
{
    return d->layout;
}
int sv_dataset_class_count(const sv_dataset *d)
{
    return d->class_count;
}
const char *const *sv_dataset_classes(const sv_dataset *d)
{
    return d->classes;
}
int sv_dataset_count(const sv_dataset *d)
{
    return d->count;
}
const char *sv_dataset_id(const sv_dataset *d, int sample)
{
    return d->samples[sample].id;
}
int sv_dataset_sequence_count(const sv_dataset *d)
{
    return d->sequence_count;
}
const sv_sample_sequence *sv_dataset_sequence(const sv_dataset *d, int sequence)
{
    return &d->sequences[sequence];
}
int sv_dataset_sequence_of(const sv_dataset *d, int sample)
{
    return d->samples[sample].sequence;
}

int sv_dataset_find(const sv_dataset *d, const char *id)
{
    const sv_dataset_key key = {id, 0};
    const sv_dataset_key *found = bsearch(&key, d->by_id, (size_t)d->count, sizeof key, compare_keys);
    if (found) return found->sample;
    const size_t tail = strlen(id);
    int only = -1;
    for (int i = 0; tail > 0 && i < d->count; i++) {
        const size_t length = strlen(d->samples[i].id);
        if (length < tail || strcmp(d->samples[i].id + length - tail, id) != 0) continue;
        if (only >= 0) return -1;
        only = i;
    }
    return only;
}

/* ---- samples ------------------------------------------------------------------------------------------ */

static void forget_images(sv_sample *sample)
{
    for (int i = 0; i < SV_DATASET_MAX_CAMERAS; i++) sv_image_free(&sample->cameras[i].image);
}

sv_status sv_dataset_read(sv_ctx *c, const sv_dataset *d, int index, unsigned parts, sv_sample *out)
{
    SV_CHECK(c, index >= 0 && index < d->count, SV_INTERNAL, "sample %d of %d", index, d->count);
    forget_images(out);
    const sv_dataset_entry *entry = &d->samples[index];
    /* what is used again: the frame, the room for labels, the reader's memory */
    *out = (sv_sample){.index = index,
                       .sequence = entry->sequence,
                       .time = entry->time,
                       .first = d->sequences[entry->sequence].first == index,
                       .frame = out->frame,
                       .lidar_to_ego = sv_pose_identity(),
                       .ego_to_world = sv_pose_identity(),
                       .labels = out->labels,
                       .memory = out->memory,
                       .free_memory = out->free_memory};
    memcpy(out->id, entry->id, sizeof out->id);
    if (!(parts & SV_READ_POINTS)) {
        sv_frame_release(out->frame);
        out->frame = NULL;
    }
    if (parts & SV_READ_IMAGES) parts |= SV_READ_CAMERAS;
    const bool cached = d->cache && (parts & SV_READ_POINTS);
    sv_status status = d->type->read(c, d, cached ? parts & ~(unsigned)SV_READ_POINTS : parts, out);
    if (status == SV_OK && cached) status = sv_cache_read(c, d->cache, out);
    if (status != SV_OK) {
        sv_sample_free(out);
        return status;
    }
    if (out->frame) {
        memcpy(out->frame->id, out->id, sizeof out->frame->id);
        out->frame->time = out->time;
        out->frame->has_pose = out->has_pose;
        out->frame->to_world = sv_pose_compose(&out->ego_to_world, &out->lidar_to_ego);
    }
    return SV_OK;
}

void sv_sample_free(sv_sample *sample)
{
    forget_images(sample);
    sv_frame_release(sample->frame);
    free(sample->labels);
    if (sample->free_memory) sample->free_memory(sample->memory);
    *sample = (sv_sample){0};
}

sv_status sv_sample_frame(sv_ctx *c, sv_sample *sample, int capacity, int columns)
{
    sv_frame *frame = sample->frame;
    const bool ours = frame && __atomic_load_n(&frame->references, __ATOMIC_ACQUIRE) == 1;
    if (ours && frame->device == c->device && frame->columns == columns && frame->capacity >= capacity) {
        frame->count = 0;
        return SV_OK;
    }
    sv_frame_release(frame);
    /* a little more, so that scans of about the same size fit */
    sample->frame = sv_frame_new(c->device, capacity + capacity / 8, columns);
    SV_CHECK(c, sample->frame != NULL, SV_NO_MEMORY, "%s: no memory for %d points", sample->id, capacity);
    return SV_OK;
}

sv_status sv_sample_labels(sv_ctx *c, sv_sample *sample, int count)
{
    sv_label *grown = realloc(sample->labels, sizeof *grown * (size_t)(count ? count : 1));
    SV_CHECK(c, grown != NULL, SV_NO_MEMORY, "%s: no memory for %d labels", sample->id, count);
    memset(grown, 0, sizeof *grown * (size_t)count);
    sample->labels = grown;
    sample->label_count = count;
    return SV_OK;
}

/* ---- findings ----------------------------------------------------------------------------------------- */

sv_status sv_findings_add(sv_ctx *c, sv_findings *findings, bool bad, const char *key, const char *format,
                          ...)
{
    void *data = findings->data;
    const bool room = grow(&data, findings->count, sizeof *findings->data);
    findings->data = data;
    SV_CHECK(c, room, SV_NO_MEMORY, "no memory for %d findings", findings->count + 1);
    sv_finding *f = &findings->data[findings->count++];
    *f = (sv_finding){.bad = bad};
    snprintf(f->key, sizeof f->key, "%s", key);
    va_list args;
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    findings->bad += bad;
    return SV_OK;
}

sv_status sv_dataset_inspect(sv_ctx *c, const char *root, sv_findings *out)
{
    *out = (sv_findings){0};
    const sv_dataset_type *type = NULL;
    SV_TRY(find_type(c, NULL, root, &type));
    out->dataset = type->name;
    const sv_status status = type->inspect(c, root, out);
    if (status != SV_OK) sv_findings_free(out);
    return status;
}

void sv_findings_free(sv_findings *findings)
{
    free(findings->data);
    *findings = (sv_findings){0};
}
