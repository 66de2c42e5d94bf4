/* SPDX-License-Identifier: Apache-2.0
 *
 * The tree of a configuration, shared by its reader (config_read.c) and by
 * what asks it (config.c); nobody else includes this.
 *
 * All memory of a configuration is in blocks that are freed together, so no
 * error path has anything to undo. Strings and nodes never move. Reading marks
 * nodes, so a configuration is used by one thread at a time.
 */
#ifndef SV_CONFIG_TREE_H
#define SV_CONFIG_TREE_H

#include "config.h"

enum {
    SV_TREE_FILE_BYTES = 1 << 20,
    SV_TREE_NODES = 65536, /* of all files together */
    SV_TREE_DEPTH = 32,
    SV_TREE_KEYS = 1024,     /* of one map: lookups are linear */
    SV_TREE_KEY_BYTES = 128, /* quoted and escaped it still fits YAML's 1024 letters of a simple key */
    SV_TREE_FILES = 64,      /* opened for one configuration */
    SV_TREE_INCLUDES = 16,   /* bases of bases of ... */
    SV_TREE_MISSES = 512,    /* absent keys remembered for "did you mean" */
};

typedef struct sv_tree_block sv_tree_block;

/* What asking changes; behind a pointer so that askers can hold const nodes. */
typedef struct sv_tree_notes {
    bool used, noted;
    const char *path; /* made when first asked for */
} sv_tree_notes;

struct sv_node {
    sv_config *config;
    const sv_node *parent;
    sv_tree_notes *notes;
    const char *key;  /* in the parent map; NULL in a list */
    const char *text; /* scalars */
    const char *file;
    sv_node **items;
    int line; /* 1-based; 0: a --set pair */
    int index, count, room;
    sv_node_kind kind;
    bool null;   /* plain ~, null or nothing; after reading only found in lists */
    bool quoted; /* a text although it looks like a number, a truth value or null */
};

/* 'map' was asked for 'key' and does not have it. */
typedef struct sv_tree_miss {
    const sv_node *map;
    const char *key;
} sv_tree_miss;

struct sv_config {
    sv_tree_block *blocks;
    sv_node *root;
    int nodes, files, miss_count;
    sv_tree_miss misses[SV_TREE_MISSES];
};

/* Memory of the configuration, or NULL. */
void *sv_tree_take(sv_config *config, size_t bytes);
const char *sv_tree_copy(sv_config *config, const char *text, size_t length);
sv_node *sv_tree_node(sv_config *config, sv_node_kind kind, const char *file, int line);
/* Add 'child' at the end; false without memory. */
bool sv_tree_append(sv_node *node, const char *key, sv_node *child);

/* Place of 'key' in 'map', or -1. */
int sv_tree_index(const sv_node *map, const char *key);
/* The child named by the first 'length' letters of 'word' (list items by number), or NULL. */
sv_node *sv_tree_child(const sv_node *node, const char *word, size_t length);

/* "file.yaml:12" for messages, in memory of the caller. */
typedef struct sv_place {
    char text[320];
} sv_place;
const char *sv_tree_place(sv_place *place, const char *file, int line);
const char *sv_tree_where(sv_place *place, const sv_node *node);
const char *sv_tree_kind_name(const sv_node *node); /* "a map" */

/* What a plain scalar means: YAML 1.1 as PyYAML reads it. */
bool sv_tree_is_null(const char *text);
bool sv_tree_is_true(const char *text);
bool sv_tree_is_false(const char *text);
bool sv_tree_looks_special(const char *text); /* one of the above, or a number */

/* "Did you mean": start with sv_tree_near_enough(key) as distance, then offer words; '*best' is the nearest.
 */
int sv_tree_near_enough(const char *key);
void sv_tree_nearer(const char *key, const char *word, const char **best, int *distance);

#endif
