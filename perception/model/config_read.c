/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading YAML into a tree:
 *
 *   text -> libyaml events -> one tree per file -> bases merged in -> --set pairs -> keys without value
 * dropped
 *
 * Merging follows the public pcdet/config.py: a map's _BASE_CONFIG_ supplies the
 * map's first content, its top-level keys replacing what another base put there
 * before; then the map's own keys follow, maps key by key, lists and scalars
 * replacing. Unlike there, a base may itself have a base, and a key without a
 * value ("KEY: ~") takes an inherited key away. Inside lists _BASE_CONFIG_ means
 * nothing.
 *
 * Nothing recurses deeper than the nesting limits, and work is bounded by the
 * limits of config_tree.h.
 */
#define _XOPEN_SOURCE 700
#include "config_tree.h"

#include "builtin.h"
#include "perception/core/file.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

static const char base_key[] = "_BASE_CONFIG_";

/* ---- one file -> one tree ------------------------------------------------------------------------------ */

typedef struct reader {
    sv_ctx *c;
    sv_config *config;
    const char *name; /* in the configuration's memory */
    bool lines;       /* false for --set values, where line numbers say nothing */
    yaml_parser_t yaml;
    yaml_event_t event;
} reader;

#define NO_MEMORY(c, name) SV_FAIL((c), SV_NO_MEMORY, "%s: no memory for the configuration", (name))

static int line_of(const reader *r, yaml_mark_t mark)
{
    return r->lines ? (int)mark.line + 1 : 0;
}

static sv_status advance(reader *r)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->yaml, &r->event)) return SV_OK;
    memset(&r->event, 0, sizeof r->event);
    if (r->yaml.error == YAML_MEMORY_ERROR) return NO_MEMORY(r->c, r->name);
    sv_place p;
    const char *problem = r->yaml.problem ? r->yaml.problem : "unknown problem";
    if (r->yaml.context)
        return SV_FAIL(r->c, SV_BAD_INPUT, "%s: not valid YAML: %s (%s)",
                       sv_tree_place(&p, r->name, line_of(r, r->yaml.problem_mark)), problem,
                       r->yaml.context);
    return SV_FAIL(r->c, SV_BAD_INPUT, "%s: not valid YAML: %s",
                   sv_tree_place(&p, r->name, line_of(r, r->yaml.problem_mark)), problem);
}

/* Fails with the current event's place in front. */
#define FAIL_HERE(r, ...) fail_at((r), __LINE__, __VA_ARGS__)
static sv_status fail_at(reader *r, int source_line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static sv_status fail_at(reader *r, int source_line, const char *format, ...)
{
    char sentence[512];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    sv_place p;
    return sv_fail(r->c, SV_BAD_INPUT, __FILE__, source_line, "%s: %s",
                   sv_tree_place(&p, r->name, line_of(r, r->event.start_mark)), sentence);
}

static sv_status plain_event(reader *r, const void *anchor, const void *tag)
{
    if (anchor) return FAIL_HERE(r, "anchors (&) and aliases (*) are not supported, write the value out");
    if (tag) return FAIL_HERE(r, "tags (!) are not supported, write the plain value");
    return SV_OK;
}

/* Reads the node that starts at the current event and ends on its last event. */
static sv_status read_node(reader *r, int depth, sv_node **out)
{
    sv_config *config = r->config;
    const int line = line_of(r, r->event.start_mark);
    if (depth > SV_TREE_DEPTH) return FAIL_HERE(r, "nested deeper than %d levels", SV_TREE_DEPTH);
    if (++config->nodes > SV_TREE_NODES) return FAIL_HERE(r, "more than %d values", SV_TREE_NODES);
    switch (r->event.type) {
    case YAML_SCALAR_EVENT: {
        const char *text = (const char *)r->event.data.scalar.value;
        const size_t length = r->event.data.scalar.length;
        SV_TRY(plain_event(r, r->event.data.scalar.anchor, r->event.data.scalar.tag));
        if (memchr(text, '\0', length)) return FAIL_HERE(r, "a value contains a zero byte");
        sv_node *node = sv_tree_node(config, SV_NODE_SCALAR, r->name, line);
        if (!node || !(node->text = sv_tree_copy(config, text, length))) return NO_MEMORY(r->c, r->name);
        const bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        node->null = plain && sv_tree_is_null(text);
        node->quoted = !plain && sv_tree_looks_special(text);
        if (node->null) node->text = "";
        *out = node;
        return SV_OK;
    }
    case YAML_SEQUENCE_START_EVENT: {
        SV_TRY(plain_event(r, r->event.data.sequence_start.anchor, r->event.data.sequence_start.tag));
        sv_node *node = sv_tree_node(config, SV_NODE_LIST, r->name, line), *item = NULL;
        if (!node) return NO_MEMORY(r->c, r->name);
        for (;;) {
            SV_TRY(advance(r));
            if (r->event.type == YAML_SEQUENCE_END_EVENT) break;
            SV_TRY(read_node(r, depth + 1, &item));
            if (!sv_tree_append(node, NULL, item)) return NO_MEMORY(r->c, r->name);
        }
        *out = node;
        return SV_OK;
    }
    case YAML_MAPPING_START_EVENT: {
        SV_TRY(plain_event(r, r->event.data.mapping_start.anchor, r->event.data.mapping_start.tag));
        sv_node *node = sv_tree_node(config, SV_NODE_MAP, r->name, line), *item = NULL;
        if (!node) return NO_MEMORY(r->c, r->name);
        for (;;) {
            SV_TRY(advance(r));
            if (r->event.type == YAML_MAPPING_END_EVENT) break;
            if (r->event.type != YAML_SCALAR_EVENT) {
                if (r->event.type == YAML_ALIAS_EVENT) return plain_event(r, r, NULL);
                return FAIL_HERE(r, "a key must be a single word, not a list or a map");
            }
            SV_TRY(plain_event(r, r->event.data.scalar.anchor, r->event.data.scalar.tag));
            const size_t length = r->event.data.scalar.length;
            const char *key = (const char *)r->event.data.scalar.value;
            if (length == 0 || length > SV_TREE_KEY_BYTES || memchr(key, '\0', length))
                return FAIL_HERE(r, "a key must have 1 to %d letters", SV_TREE_KEY_BYTES);
            if (strcmp(key, "<<") == 0)
                return FAIL_HERE(r, "the merge key '<<' is not supported, use %s", base_key);
            const int earlier = sv_tree_index(node, key);
            if (earlier >= 0) {
                if (r->lines)
                    return FAIL_HERE(r, "the key '%s' is here twice, first in line %d", key,
                                     node->items[earlier]->line);
                return FAIL_HERE(r, "the key '%s' is here twice", key);
            }
            if (node->count == SV_TREE_KEYS)
                return FAIL_HERE(r, "more than %d keys in one map", SV_TREE_KEYS);
            key = sv_tree_copy(config, key, length);
            if (!key) return NO_MEMORY(r->c, r->name);
            const int key_line = line_of(r, r->event.start_mark);
            SV_TRY(advance(r));
            SV_TRY(read_node(r, depth + 1, &item));
            item->line = key_line; /* where one would look for it, also when the value starts below */
            if (!sv_tree_append(node, key, item)) return NO_MEMORY(r->c, r->name);
        }
        *out = node;
        return SV_OK;
    }
    case YAML_ALIAS_EVENT:
        return plain_event(r, r, NULL);
    default:
        return FAIL_HERE(r, "a value is missing");
    }
}

/* '*out' is NULL when the document is empty. */
static sv_status read_document(reader *r, sv_node **out)
{
    *out = NULL;
    SV_TRY(advance(r)); /* stream start */
    SV_TRY(advance(r));
    if (r->event.type == YAML_STREAM_END_EVENT) return SV_OK;
    SV_TRY(advance(r)); /* document start */
    SV_TRY(read_node(r, 0, out));
    SV_TRY(advance(r)); /* document end */
    SV_TRY(advance(r));
    if (r->event.type != YAML_STREAM_END_EVENT) return FAIL_HERE(r, "more than one YAML document");
    return SV_OK;
}

static sv_status read_text(sv_ctx *c, sv_config *config, const char *text, size_t bytes, const char *name,
                           bool lines, sv_node **out)
{
    *out = NULL;
    SV_CHECK(c, bytes <= SV_TREE_FILE_BYTES, SV_BAD_INPUT, "%s: larger than the limit of %d bytes", name,
             SV_TREE_FILE_BYTES);
    SV_CHECK(c, bytes == 0 || !memchr(text, '\0', bytes), SV_BAD_INPUT,
             "%s: contains zero bytes, this is no YAML text in UTF-8", name);
    reader r = {.c = c, .config = config, .name = sv_tree_copy(config, name, strlen(name)), .lines = lines};
    if (!r.name || !yaml_parser_initialize(&r.yaml)) return NO_MEMORY(c, name);
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)(bytes ? text : ""), bytes);
    const sv_status status = read_document(&r, out);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    return status;
}

/* ---- bases --------------------------------------------------------------------------------------------- */

/* The files being read right now, innermost first: a file among them twice is a cycle. */
typedef struct include {
    const struct include *outer;
    const char *path; /* NULL: from memory */
    bool builtin;     /* one of the configurations that ship: its bases are, too */
    dev_t device;
    ino_t inode;
    int depth;
} include;

static sv_status merge(sv_ctx *c, sv_node *into, const sv_node *from, const include *file);

static bool regular_file(const char *path, struct stat *info)
{
    return stat(path, info) == 0 && S_ISREG(info->st_mode);
}

/* Where a _BASE_CONFIG_ lies: as written, then below the folder of the including file, then below its
 * parents. */
static bool find_base(const char *name, const include *file, char *path, size_t room, struct stat *info)
{
    if (strlen(name) >= room) return false;
    snprintf(path, room, "%s", name);
    if (regular_file(path, info)) return true;
    if (name[0] == '/' || !file->path) return false;
    char *folder = realpath(file->path, NULL);
    bool found = false;
    while (folder && !found) {
        char *slash = strrchr(folder, '/');
        if (!slash) break;
        *slash = '\0';
        const int n = snprintf(path, room, "%s/%s", folder, name);
        found = n > 0 && (size_t)n < room && regular_file(path, info);
    }
    free(folder);
    return found;
}

/* Reads 'path', or takes the text of 'builtin', and merges it, with its bases, into the empty map '*out'. */
static sv_status load_file(sv_ctx *c, sv_config *config, const char *path, const struct stat *info,
                           const sv_builtin_file *builtin, const include *outer, sv_node **out)
{
    include file = {
        .outer = outer, .path = path, .builtin = builtin != NULL, .depth = outer ? outer->depth + 1 : 0};
    if (info) {
        file.device = info->st_dev;
        file.inode = info->st_ino;
    }
    SV_CHECK(c, ++config->files <= SV_TREE_FILES, SV_BAD_INPUT, "%s: more than %d files through %s", path,
             SV_TREE_FILES, base_key);
    sv_node *tree = NULL;
    if (builtin) {
        SV_TRY(read_text(c, config, (const char *)builtin->text, builtin->bytes, path, true, &tree));
    } else {
        void *text = NULL;
        size_t bytes = 0;
        SV_TRY(sv_file_read(c, path, SV_TREE_FILE_BYTES, &text, &bytes));
        const sv_status status = read_text(c, config, text, bytes, path, true, &tree);
        free(text);
        SV_TRY(status);
    }
    SV_CHECK(c, tree && tree->kind == SV_NODE_MAP, SV_BAD_INPUT,
             "%s: a map of keys was expected, the file is %s", path,
             tree ? sv_tree_kind_name(tree) : "empty");
    if (!(*out = sv_tree_node(config, SV_NODE_MAP, tree->file, tree->line))) return NO_MEMORY(c, path);
    return merge(c, *out, tree, &file);
}

static sv_status load_base(sv_ctx *c, const sv_node *name, const include *file, sv_node **out)
{
    sv_place p;
    char path[PATH_MAX];
    struct stat info;
    SV_CHECK(c, name->kind == SV_NODE_SCALAR && !name->null, SV_BAD_INPUT,
             "%s: %s must name one file, it is %s", sv_tree_where(&p, name), base_key,
             sv_tree_kind_name(name));
    SV_CHECK(c, file->depth < SV_TREE_INCLUDES, SV_BAD_INPUT, "%s: %s nested deeper than %d files",
             sv_tree_where(&p, name), base_key, SV_TREE_INCLUDES);
    const bool on_disk = !file->builtin && find_base(name->text, file, path, sizeof path, &info);
    const sv_builtin_file *builtin = on_disk ? NULL : sv_builtin_find(name->text);
    if (builtin) return load_file(c, name->config, builtin->name, NULL, builtin, file, out);
    SV_CHECK(c, on_disk, SV_BAD_INPUT,
             "%s: %s '%.200s' was not found, neither as written nor beside this file or in a folder above it",
             sv_tree_where(&p, name), base_key, name->text);
    for (const include *f = file; f; f = f->outer)
        SV_CHECK(c, !f->path || f->device != info.st_dev || f->inode != info.st_ino, SV_BAD_INPUT,
                 "%s: %s '%.200s' leads back to a file that is being read", sv_tree_where(&p, name), base_key,
                 name->text);
    return load_file(c, name->config, path, &info, NULL, file, out);
}

/* The child 'key' of 'map' becomes 'child' (added when it is new). */
static sv_status put(sv_ctx *c, sv_node *map, const char *key, sv_node *child)
{
    const int at = sv_tree_index(map, key);
    if (at >= 0) {
        child->key = key;
        map->items[at] = child;
        return SV_OK;
    }
    sv_place p;
    SV_CHECK(c, map->count < SV_TREE_KEYS, SV_BAD_INPUT, "%s: more than %d keys in one map",
             sv_tree_where(&p, child), SV_TREE_KEYS);
    return sv_tree_append(map, key, child) ? SV_OK : NO_MEMORY(c, child->file);
}

static sv_status merge(sv_ctx *c, sv_node *into, const sv_node *from, const include *file)
{
    const int at = sv_tree_index(from, base_key);
    if (at >= 0) {
        sv_node *base = NULL;
        SV_TRY(load_base(c, from->items[at], file, &base));
        for (int i = 0; i < base->count; i++) SV_TRY(put(c, into, base->items[i]->key, base->items[i]));
    }
    for (int i = 0; i < from->count; i++) {
        sv_node *child = from->items[i];
        if (i == at) continue;
        if (child->kind != SV_NODE_MAP) {
            SV_TRY(put(c, into, child->key, child));
            continue;
        }
        const int old = sv_tree_index(into, child->key);
        sv_node *target = old >= 0 ? into->items[old] : NULL;
        if (!target || target->null) {
            if (!(target = sv_tree_node(into->config, SV_NODE_MAP, child->file, child->line)))
                return NO_MEMORY(c, child->file);
            SV_TRY(put(c, into, child->key, target));
        }
        sv_place here, there;
        SV_CHECK(c, target->kind == SV_NODE_MAP, SV_BAD_INPUT, "%s: '%s' is a map here, but %s in %s",
                 sv_tree_where(&here, child), child->key, sv_tree_kind_name(target),
                 sv_tree_where(&there, target));
        target->file = child->file;
        target->line = child->line;
        SV_TRY(merge(c, target, child, file));
    }
    return SV_OK;
}

/* ---- --set --------------------------------------------------------------------------------------------- */

static sv_status set_value(sv_ctx *c, sv_config *config, const char *path, const char *value)
{
    char name[SV_TREE_KEY_BYTES + 16];
    snprintf(name, sizeof name, "--set %.*s", SV_TREE_KEY_BYTES, path);
    sv_node *parent = NULL, *node = config->root;
    for (const char *word = path;;) {
        const size_t length = strcspn(word, ".");
        parent = node;
        node = sv_tree_child(parent, word, length);
        if (!node) {
            char key[SV_TREE_KEY_BYTES + 1];
            snprintf(key, sizeof key, "%.*s", (int)(length < SV_TREE_KEY_BYTES ? length : SV_TREE_KEY_BYTES),
                     word);
            const char *best = NULL;
            int distance = sv_tree_near_enough(key);
            for (int i = 0; parent->kind == SV_NODE_MAP && i < parent->count; i++)
                sv_tree_nearer(key, parent->items[i]->key, &best, &distance);
            return SV_FAIL(c, SV_BAD_INPUT, "%s: the configuration has no such key ('%s' is unknown%s%s%s)",
                           name, key, best ? ", did you mean '" : "", best ? best : "", best ? "'?" : "");
        }
        word += length;
        if (*word == '\0') break;
        word++;
    }
    sv_node *fresh = NULL;
    SV_TRY(read_text(c, config, value, strlen(value), name, false, &fresh));
    if (!fresh) {
        const char *file = sv_tree_copy(config, name, strlen(name));
        fresh = file ? sv_tree_node(config, SV_NODE_SCALAR, file, 0) : NULL;
        if (!fresh) return NO_MEMORY(c, name);
        fresh->null = true;
    }
    if (node->kind == SV_NODE_LIST && fresh->kind == SV_NODE_SCALAR && strchr(fresh->text, ',')) {
        /* 1,2,3 stands for [1,2,3], as in the official tools. */
        const size_t room = strlen(value) + 3;
        char *list = malloc(room);
        if (!list) return NO_MEMORY(c, name);
        snprintf(list, room, "[%s]", value);
        const sv_status status = read_text(c, config, list, room - 1, name, false, &fresh);
        free(list);
        SV_TRY(status);
    }
    sv_place p;
    SV_CHECK(c, node->null || fresh->null || node->kind == fresh->kind, SV_BAD_INPUT,
             "%s: the value is %s, but the key is %s in %s", name, sv_tree_kind_name(fresh),
             sv_tree_kind_name(node), sv_tree_where(&p, node));
    const include nothing = {.depth = 0};
    if (node->kind == SV_NODE_MAP && fresh->kind == SV_NODE_MAP) return merge(c, node, fresh, &nothing);
    for (int i = 0; i < parent->count; i++) {
        if (parent->items[i] != node) continue;
        fresh->key = node->key;
        parent->items[i] = fresh;
    }
    return SV_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

/* Drop keys without value, link parents, and check the depth that merging made. */
static sv_status finish_tree(sv_ctx *c, sv_node *node, int depth)
{
    sv_place p;
    SV_CHECK(c, depth <= SV_TREE_DEPTH, SV_BAD_INPUT, "%s: nested deeper than %d levels",
             sv_tree_where(&p, node), SV_TREE_DEPTH);
    int kept = 0;
    for (int i = 0; i < node->count; i++) {
        sv_node *child = node->items[i];
        if (node->kind == SV_NODE_MAP && child->null) continue;
        child->parent = node;
        child->index = kept;
        node->items[kept++] = child;
        SV_TRY(finish_tree(c, child, depth + 1));
    }
    node->count = kept;
    return SV_OK;
}

static sv_status finish(sv_ctx *c, sv_config *config, const char *const *sets, int set_count)
{
    for (int i = 0; i < set_count; i++) SV_TRY(set_value(c, config, sets[2 * i], sets[2 * i + 1]));
    return finish_tree(c, config->root, 0);
}

/* The configuration that ships under the bare name 'path'; NULL when 'path' is to be taken for a file. */
static sv_status find_builtin(sv_ctx *c, const char *path, const sv_builtin_file **out)
{
    struct stat info;
    *out = strpbrk(path, "./") ? NULL : sv_builtin_find(path);
    if (*out || strpbrk(path, "./") || stat(path, &info) == 0 || strlen(path) > SV_TREE_KEY_BYTES)
        return SV_OK;
    const char *best = NULL;
    int distance = sv_tree_near_enough(path);
    char name[SV_TREE_KEY_BYTES], nearest[SV_TREE_KEY_BYTES] = "";
    for (int i = 0; i < sv_builtin_file_count; i++) {
        if (strchr(sv_builtin_files[i].name, '/')) continue;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(sv_builtin_files[i].name, "."),
                 sv_builtin_files[i].name);
        sv_tree_nearer(path, name, &best, &distance);
        if (best == name) {
            memcpy(nearest, name, sizeof nearest);
            best = nearest;
        }
    }
    return SV_FAIL(c, SV_IO, "%s: no file of this name, and no such configuration ships%s%s%s", path,
                   best ? " (did you mean '" : "", best ? best : "", best ? "'?)" : "");
}

sv_status sv_config_load(sv_ctx *c, const char *path, const char *const *sets, int set_count, sv_config **out)
{
    *out = NULL;
    struct stat info;
    const sv_builtin_file *builtin = NULL;
    SV_TRY(find_builtin(c, path, &builtin));
    sv_config *config = calloc(1, sizeof *config);
    if (!config) return NO_MEMORY(c, path);
    sv_status status =
        load_file(c, config, builtin ? builtin->name : path,
                  !builtin && stat(path, &info) == 0 ? &info : NULL, builtin, NULL, &config->root);
    if (status == SV_OK) status = finish(c, config, sets, set_count);
    if (status == SV_OK)
        *out = config;
    else
        sv_config_free(config);
    return status;
}

static sv_status parse_whole(sv_ctx *c, sv_config *config, const char *text, size_t bytes, const char *name,
                             const char *const *sets, int set_count)
{
    sv_node *tree = NULL;
    SV_TRY(read_text(c, config, text, bytes, name, true, &tree));
    SV_CHECK(c, tree && tree->kind == SV_NODE_MAP, SV_BAD_INPUT,
             "%s: a map of keys was expected, the text is %s", name,
             tree ? sv_tree_kind_name(tree) : "empty");
    if (!(config->root = sv_tree_node(config, SV_NODE_MAP, tree->file, tree->line)))
        return NO_MEMORY(c, name);
    const include memory = {.depth = 0};
    SV_TRY(merge(c, config->root, tree, &memory));
    return finish(c, config, sets, set_count);
}

sv_status sv_config_parse(sv_ctx *c, const char *text, size_t bytes, const char *name,
                          const char *const *sets, int set_count, sv_config **out)
{
    *out = NULL;
    sv_config *config = calloc(1, sizeof *config);
    if (!config) return NO_MEMORY(c, name);
    const sv_status status = parse_whole(c, config, text, bytes, name, sets, set_count);
    if (status == SV_OK)
        *out = config;
    else
        sv_config_free(config);
    return status;
}
