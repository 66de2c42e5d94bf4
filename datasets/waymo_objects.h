/* SPDX-License-Identifier: Apache-2.0
 *
 * Results in the official format: the message Objects {1: Object}, an Object being {1: Label, 2: score,
 * 3: overlap_with_nlz, 4: context_name, 5: frame_timestamp_micros} (metrics.proto), also inside a Submission
 * (field 11; submission.proto). A file of them may be larger than memory: it is walked over once, and the
 * objects of a frame are read when they are wanted.
 */
#ifndef SV_WAYMO_OBJECTS_H
#define SV_WAYMO_OBJECTS_H

#include "perception/model/source.h"
#include "perception/results.h"
#include "waymo.h"

typedef struct sv_waymo_object {
    double x, y, z, length, width, height, heading;
    float score;
    int type;   /* SV_WAYMO_VEHICLE ... */
    int points; /* of a label */
    int level;  /* of a label; 0: by its points */
    bool in_zone;
} sv_waymo_object;

/* What frame an object belongs to. */
typedef struct sv_waymo_key {
    char context[128];
    int64_t timestamp;
} sv_waymo_key;

/* 'name' (of the file) and 'number' are for messages. A score that is not finite and a type that is
 * none are errors. */
sv_status sv_waymo_parse_object(sv_ctx *c, sv_bytes message, const char *name, int64_t number,
                                sv_waymo_object *out, sv_waymo_key *key);
/* An entry of Objects, with its tag. */
void sv_waymo_put_object(sv_wire_out *out, const sv_waymo_object *object, const char *context,
                         int64_t timestamp);

/* A detection as an object. Car, as other datasets call it, is a Vehicle; the type is SV_WAYMO_UNKNOWN for a
 * class that Waymo has not. */
sv_waymo_object sv_waymo_object_of_box(const sv_box *box, const char *class_name);
sv_box sv_waymo_box_of_object(const sv_waymo_object *object);

/* Where the objects of a file lie. */
typedef struct sv_waymo_run {
    uint64_t offset; /* of the first one's tag */
    uint32_t size;   /* of all of them, tags included; they are neighbours in the file and of one frame */
    int frame;       /* number from whoever counts frames */
    int number;      /* of the first object in the file */
} sv_waymo_run;

typedef struct sv_waymo_file {
    sv_source source;
    sv_waymo_run *runs; /* malloc'ed; sorted by frame, then by place */
    int run_count, run_room;
    int64_t objects;
} sv_waymo_file;

/* The number of a frame; objects of a negative one are not kept. */
typedef int (*sv_waymo_frame_fn)(void *arg, const sv_waymo_key *key);

/* Frames numbered as they come. Zero it, free it. */
typedef struct sv_waymo_keys {
    sv_waymo_key *data; /* malloc'ed, as the next */
    int *slots;         /* a hash table of numbers + 1 */
    int count, slot_count;
    bool failed; /* no memory */
} sv_waymo_keys;
int sv_waymo_keys_number(void *keys, const sv_waymo_key *key); /* an sv_waymo_frame_fn */
/* Their numbers by context, then time, which is the order of the official program; false without memory. */
bool sv_waymo_keys_sort(const sv_waymo_keys *keys, int *order);
void sv_waymo_keys_free(sv_waymo_keys *keys); /* may be called twice */

/* Close it also after a failure. 'path' must stay. */
sv_status sv_waymo_file_open(sv_ctx *c, const char *path, sv_waymo_frame_fn frame_of, void *arg,
                             sv_waymo_file *out);
/* The same of a source, which belongs to the file then. */
sv_status sv_waymo_file_scan(sv_ctx *c, const sv_source *source, sv_waymo_frame_fn frame_of, void *arg,
                             sv_waymo_file *out);
void sv_waymo_file_close(sv_waymo_file *file); /* may be called twice */
/* The objects of a frame in the file's order, malloc'ed. From several threads at a time with a context
 * each. */
sv_status sv_waymo_file_read(sv_ctx *c, const sv_waymo_file *file, int frame, sv_waymo_object **out,
                             int *count);

#endif
