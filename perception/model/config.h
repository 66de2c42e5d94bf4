/* SPDX-License-Identifier: Apache-2.0
 *
 * Model configuration: the YAML files of OpenPCDet and LION, read as they are.
 *
 * _BASE_CONFIG_ is looked up as written (from the working folder), then from
 * the including file's folder and its parents; maps merge key by key, lists
 * and scalars replace, and "KEY: ~" takes an inherited key away. '--set KEY VAL'
 * pairs (KEY with dots, list items by number) come last and must name a key
 * that exists.
 *
 * A component reads its own node. Every read marks the key as used;
 * sv_config_check_used() then fails on the first key that nobody read, naming
 * it with file and line: a typo, or a setting Savanna does not support. Keys
 * that the official code itself never reads at inference are marked with
 * sv_node_ignore().
 */
#ifndef SV_CONFIG_H
#define SV_CONFIG_H

#include "perception/core/context.h"

typedef struct sv_config sv_config;
typedef struct sv_node sv_node; /* scalar, list or map; owned by its sv_config */

typedef enum sv_node_kind { SV_NODE_SCALAR, SV_NODE_LIST, SV_NODE_MAP } sv_node_kind;

/* 'path' without folder and ending ("cluster") names one of the configurations that ship; as a base, such a name is
 * looked up last. 'sets': 2*set_count strings KEY, VAL, ... On failure '*out' is NULL. Files above 1 MiB, aliases, nesting deeper
 * than 32 and more than 65536 nodes are refused. */
sv_status sv_config_load(sv_ctx *c, const char *path, const char *const *sets, int set_count,
                         sv_config **out);
/* The same from memory; 'name' stands for the file in messages. _BASE_CONFIG_ is looked up from the working folder. */
sv_status sv_config_parse(sv_ctx *c, const char *text, size_t bytes, const char *name,
                          const char *const *sets, int set_count, sv_config **out);
void sv_config_free(sv_config *config); /* NULL is fine */
/* The resolved configuration as YAML that sv_config_parse() reads back to the same tree; free() it. */
sv_status sv_config_text(sv_ctx *c, const sv_config *config, char **out);
const sv_node *sv_config_root(const sv_config *config);

/* SV_BAD_INPUT naming up to five keys that were neither read nor ignored (all of them are logged as notes). */
sv_status sv_config_check_used(sv_ctx *c, const sv_config *config);

/* "MODEL.BACKBONE_3D.DIRECTION" below 'node'; NULL when absent. Marks the nodes on the way, not their children. */
const sv_node *sv_node_find(const sv_node *node, const char *path);
/* As sv_node_find(), but absence is an error that names the full path and the file. */
sv_status sv_node_require(sv_ctx *c, const sv_node *node, const char *path, const sv_node **out);
/* Mark 'path' and everything below as read. 'note': why, logged once when the key is there; NULL: silently. */
void sv_node_ignore(sv_ctx *c, const sv_node *node, const char *path, const char *note);
sv_node_kind sv_node_kind_of(const sv_node *node);
const char *sv_node_text(const sv_node *scalar); /* "" for lists and maps */
const char *sv_node_path(const sv_node *node);   /* full dotted path, for messages */
int sv_node_count(const sv_node *list_or_map);
const sv_node *sv_node_item(const sv_node *list_or_map, int index);
const char *sv_node_key(const sv_node *map, int index);

/* Typed reads. A value of the wrong kind is an error naming key, value and what was expected.
 * The _or forms give 'otherwise' when the key is absent. Numbers in YAML 1.1 spelling (1e-3, .5, 0x10, ~ is absent). */
sv_status sv_node_int(sv_ctx *c, const sv_node *node, const char *path, int *out);
sv_status sv_node_int_or(sv_ctx *c, const sv_node *node, const char *path, int *out, int otherwise);
sv_status sv_node_number(sv_ctx *c, const sv_node *node, const char *path, double *out);
sv_status sv_node_number_or(sv_ctx *c, const sv_node *node, const char *path, double *out, double otherwise);
sv_status sv_node_bool(sv_ctx *c, const sv_node *node, const char *path, bool *out);
sv_status sv_node_bool_or(sv_ctx *c, const sv_node *node, const char *path, bool *out, bool otherwise);
sv_status sv_node_string(sv_ctx *c, const sv_node *node, const char *path, const char **out);
sv_status sv_node_string_or(sv_ctx *c, const sv_node *node, const char *path, const char **out,
                            const char *otherwise);
/* Exactly 'count' numbers. */
sv_status sv_node_ints(sv_ctx *c, const sv_node *node, const char *path, int *out, int count);
sv_status sv_node_numbers(sv_ctx *c, const sv_node *node, const char *path, double *out, int count);

#endif
