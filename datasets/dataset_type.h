/* SPDX-License-Identifier: Apache-2.0
 *
 * For those who write a dataset: what it fills in, and helpers for its folders.
 */
#ifndef SV_DATASET_TYPE_H
#define SV_DATASET_TYPE_H

#include "dataset.h"
#include "fingerprint.h"

typedef struct sv_dataset_type {
    const char *name, *summary;
    /* Options of sv_dataset_def that it takes; others that are set are refused with its name. */
    bool takes_split, takes_version, takes_sequences, takes_fov, takes_sweeps;
    bool (*recognise)(const char *root);
    /* Fill the dataset; sv_dataset_close() follows a failure, too. */
    sv_status (*open)(sv_ctx *c, const sv_dataset_def *def, sv_dataset *dataset);
    void (*close)(sv_dataset *dataset); /* own memory only; may be NULL */
    /* Fill what 'parts' asks for; index, sequence, id, time and first are set already, poses are identities.
     * */
    sv_status (*read)(sv_ctx *c, const sv_dataset *dataset, unsigned parts, sv_sample *out);
    sv_status (*inspect)(sv_ctx *c, const char *root, sv_findings *findings);
    /* What the points of a sample are made from: files, and values of tables. NULL: there are no caches of it. */
    sv_status (*fingerprint)(sv_ctx *c, const sv_dataset *dataset, int sample, sv_fingerprint *out);
    const struct sv_evaluator_type *evaluator; /* evaluator_type.h; NULL: none */
} sv_dataset_type;

#define DATASET(name) extern const sv_dataset_type sv_dataset_type_##name;
#include "datasets.def"
#undef DATASET

typedef struct sv_dataset_entry {
    char id[64];
    int sequence;
    double time;
} sv_dataset_entry;

typedef struct sv_dataset_key {
    const char *id;
    int sample;
} sv_dataset_key;

struct sv_dataset {
    const sv_dataset_type *type;
    char root[1024], summary[240], split[64];
    char options[160]; /* of the def that decide what points are, for caches */
    struct sv_cache *cache;
    const char *layout;
    const char *const *classes;
    int class_count;
    sv_dataset_entry *samples; /* malloc'ed, as the next */
    int count;
    sv_sample_sequence *sequences;
    int sequence_count;
    sv_dataset_key *by_id; /* sorted */
    void *own;             /* of the type */
};

/* Samples and sequences are added in order; a sample belongs to the last sequence. */
sv_status sv_dataset_add_sequence(sv_ctx *c, sv_dataset *dataset, const char *name);
sv_status sv_dataset_add_sample(sv_ctx *c, sv_dataset *dataset, const char *id, double time);

/* 'count' labels, zeroed. */
sv_status sv_sample_labels(sv_ctx *c, sv_sample *sample, int count);

/* "a/b" */
sv_status sv_dataset_path(sv_ctx *c, char *out, size_t room, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool sv_dataset_is_file(const char *path);
bool sv_dataset_is_folder(const char *path);
long long sv_dataset_file_size(const char *path); /* -1 when there is none */
/* Names in a folder that end with 'suffix' ("" for all; folders when 'suffix' is "/"), sorted, without
 * hidden ones. */
typedef struct sv_names {
    char **data;
    int count;
} sv_names;
sv_status sv_dataset_list(sv_ctx *c, const char *folder, const char *suffix, sv_names *out);
void sv_names_free(sv_names *names);
/* The first names as "a, b, c and 7 more", "nothing" for none: for messages. */
void sv_names_say(const sv_names *names, char *out, size_t room);

sv_status sv_findings_add(sv_ctx *c, sv_findings *findings, bool bad, const char *key, const char *format,
                          ...) __attribute__((format(printf, 5, 6)));

#endif
