/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking a configuration, and writing it as text. Reading is in config_read.c.
 */
#include "config_tree.h"

#include "perception/core/text.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const sv_node *sv_config_root(const sv_config *config)
{
    return config->root;
}

/* ---- text ---------------------------------------------------------------------------------------------- */

typedef struct writer {
    char *text;
    size_t used, room;
    bool failed;
} writer;

static void put_bytes(writer *w, const char *bytes, size_t count)
{
    if (w->failed) return;
    if (w->room - w->used <= count) {
        const size_t room = (w->used + count + 1) * 2;
        char *text = realloc(w->text, room);
        if (!text) {
            w->failed = true;
            return;
        }
        w->text = text;
        w->room = room;
    }
    memcpy(w->text + w->used, bytes, count);
    w->used += count;
    w->text[w->used] = '\0';
}
static void put_text(writer *w, const char *text)
{
    put_bytes(w, text, strlen(text));
}
static void put_indent(writer *w, int columns)
{
    for (int i = 0; i < columns; i++) put_bytes(w, " ", 1);
}

/* Letters, digits and a few signs that mean nothing to YAML wherever they stand. */
static bool needs_no_quotes(const char *text)
{
    static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-/";
    return text[0] != '\0' && strspn(text, safe) == strlen(text) &&
           (text[0] != '-' || (text[1] != '\0' && text[1] != '-')) && strcmp(text, "...") != 0;
}

/* In double quotes, everything beyond ASCII escaped: YAML takes some of it for line breaks. */
static void put_quoted(writer *w, const char *text)
{
    put_text(w, "\"");
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        char escape[16];
        if (*p >= 0x20 && *p < 0x7f && *p != '"' && *p != '\\') {
            put_bytes(w, (const char *)p++, 1);
            continue;
        }
        uint32_t point = *p++;
        /* libyaml has checked the encoding: lead bytes are followed by what they promise */
        for (int more = point >= 0xf0   ? 3
                        : point >= 0xe0 ? 2
                        : point >= 0xc0 ? 1
                                        : 0,
                 first = 1;
             more > 0; more--, first = 0) {
            if (first) point &= more == 3 ? 0x07u : more == 2 ? 0x0fu : 0x1fu;
            point = point << 6 | (*p++ & 0x3fu);
        }
        if (point == '"' || point == '\\')
            snprintf(escape, sizeof escape, "\\%c", (char)point);
        else
            snprintf(escape, sizeof escape,
                     point < 0x100     ? "\\x%02X"
                     : point < 0x10000 ? "\\u%04X"
                                       : "\\U%08X",
                     (unsigned)point);
        put_text(w, escape);
    }
    put_text(w, "\"");
}

static void put_scalar(writer *w, const sv_node *node)
{
    if (node->null)
        put_text(w, "~");
    else if (!node->quoted && needs_no_quotes(node->text))
        put_text(w, node->text);
    else
        put_quoted(w, node->text);
}

static bool has_maps(const sv_node *list)
{
    for (int i = 0; i < list->count; i++)
        if (list->items[i]->kind == SV_NODE_MAP ||
            (list->items[i]->kind == SV_NODE_LIST && has_maps(list->items[i])))
            return true;
    return false;
}

/* On the rest of the line: [1, 2, [3]]. Only for what holds no maps. */
static void put_flow(writer *w, const sv_node *node)
{
    if (node->kind == SV_NODE_SCALAR) {
        put_scalar(w, node);
        return;
    }
    put_text(w, "[");
    for (int i = 0; i < node->count; i++) {
        if (i) put_text(w, ", ");
        put_flow(w, node->items[i]);
    }
    put_text(w, "]");
}

/* The lines of a map, or of a list with maps in it; the first line is indented already when 'inside'. */
static void put_block(writer *w, const sv_node *node, int indent, bool inside)
{
    for (int i = 0; i < node->count; i++) {
        const sv_node *child = node->items[i];
        if (i || !inside) put_indent(w, indent);
        const bool list = node->kind == SV_NODE_LIST;
        if (list) {
            put_text(w, "-");
        } else {
            if (needs_no_quotes(child->key))
                put_text(w, child->key);
            else
                put_quoted(w, child->key);
            put_text(w, ":");
        }
        if (child->kind == SV_NODE_MAP ? child->count == 0
                                       : child->kind == SV_NODE_SCALAR || !has_maps(child)) {
            put_text(w, " ");
            if (child->kind == SV_NODE_MAP)
                put_text(w, "{}");
            else
                put_flow(w, child);
            put_text(w, "\n");
        } else if (list) {
            put_text(w, " ");
            put_block(w, child, indent + 2, true);
        } else {
            put_text(w, "\n");
            put_block(w, child, indent + 2, false);
        }
    }
}

sv_status sv_config_text(sv_ctx *c, const sv_config *config, char **out)
{
    *out = NULL;
    writer w = {0};
    if (config->root->count == 0)
        put_text(&w, "{}\n");
    else
        put_block(&w, config->root, 0, false);
    if (w.failed) {
        free(w.text);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for the text of the configuration",
                       config->root->file);
    }
    if (w.used > SV_TREE_FILE_BYTES) {
        free(w.text);
        return SV_FAIL(c, SV_UNSUPPORTED, "%s: resolved it is larger than %d bytes", config->root->file,
                       SV_TREE_FILE_BYTES);
    }
    *out = w.text;
    return SV_OK;
}

/* ---- asking -------------------------------------------------------------------------------------------- */

static void mark(const sv_node *node)
{
    node->notes->used = true;
}

static void mark_below(const sv_node *node)
{
    mark(node);
    for (int i = 0; i < node->count; i++) mark_below(node->items[i]);
}

static void remember_miss(const sv_node *map, const char *word, size_t length)
{
    sv_config *config = map->config;
    if (map->kind != SV_NODE_MAP || config->miss_count == SV_TREE_MISSES || length > SV_TREE_KEY_BYTES)
        return;
    for (int i = 0; i < config->miss_count; i++) {
        const sv_tree_miss *m = &config->misses[i];
        if (m->map == map && strncmp(m->key, word, length) == 0 && m->key[length] == '\0') return;
    }
    const char *key = sv_tree_copy(config, word, length);
    if (key) config->misses[config->miss_count++] = (sv_tree_miss){map, key};
}

/* The node at 'path', or NULL with '*last' the deepest one there is and '*rest' what it lacks. */
static const sv_node *walk(const sv_node *node, const char *path, bool reading, const sv_node **last,
                           const char **rest)
{
    if (last) *last = node;
    if (rest) *rest = path ? path : "";
    if (!node) return NULL;
    if (reading) mark(node);
    for (const char *word = path; word && *word;) {
        const size_t length = strcspn(word, ".");
        const sv_node *child = sv_tree_child(node, word, length);
        if (!child) {
            if (reading) remember_miss(node, word, length);
            if (last) *last = node;
            if (rest) *rest = word;
            return NULL;
        }
        if (reading) mark(child);
        node = child;
        word += length + (word[length] == '.');
    }
    return node->null ? NULL : node;
}

const sv_node *sv_node_find(const sv_node *node, const char *path)
{
    return walk(node, path, true, NULL, NULL);
}

sv_status sv_node_require(sv_ctx *c, const sv_node *node, const char *path, const sv_node **out)
{
    const sv_node *last;
    const char *rest;
    *out = walk(node, path, true, &last, &rest);
    if (*out) return SV_OK;
    SV_CHECK(c, last != NULL, SV_BAD_INPUT, "%s is missing", path ? path : "a value");
    /* A key nobody asked for yet, spelled nearly so, is likely the one that was meant. */
    char key[SV_TREE_KEY_BYTES + 1];
    const size_t length = strcspn(rest, ".");
    snprintf(key, sizeof key, "%.*s", (int)(length < SV_TREE_KEY_BYTES ? length : SV_TREE_KEY_BYTES), rest);
    const char *best = NULL;
    int distance = sv_tree_near_enough(key);
    for (int i = 0; last->kind == SV_NODE_MAP && i < last->count; i++)
        if (!last->items[i]->notes->used) sv_tree_nearer(key, last->items[i]->key, &best, &distance);
    sv_place p;
    const char *above = sv_node_path(last);
    return SV_FAIL(c, SV_BAD_INPUT, "%s: %s%s%s is missing%s%s%s", sv_tree_where(&p, last), above,
                   *above && *rest ? "." : "", rest, best ? ", did you mean '" : "", best ? best : "",
                   best ? "' there?" : "");
}

void sv_node_ignore(sv_ctx *c, const sv_node *node, const char *path, const char *note)
{
    const sv_node *found = walk(node, path, false, NULL, NULL);
    if (!found) return;
    mark_below(found);
    if (!note || found->notes->noted) return;
    found->notes->noted = true;
    sv_place p;
    sv_log(c, SV_LOG_NOTE, "%s: %s: %s", sv_tree_where(&p, found), sv_node_path(found), note);
}

sv_node_kind sv_node_kind_of(const sv_node *node)
{
    return node->kind;
}
const char *sv_node_text(const sv_node *scalar)
{
    return scalar->text;
}
int sv_node_count(const sv_node *list_or_map)
{
    return list_or_map->count;
}

const char *sv_node_path(const sv_node *node)
{
    if (node->notes->path) return node->notes->path;
    if (!node->parent) return "";
    char number[16];
    snprintf(number, sizeof number, "%d", node->index);
    const char *own = node->key ? node->key : number, *above = sv_node_path(node->parent);
    const size_t room = strlen(above) + strlen(own) + 2;
    char *path = sv_tree_take(node->config, room);
    if (!path) return node->key ? node->key : "";
    snprintf(path, room, "%s%s%s", above, *above ? "." : "", own);
    return node->notes->path = path;
}

const sv_node *sv_node_item(const sv_node *list_or_map, int index)
{
    if (index < 0 || index >= list_or_map->count) return NULL;
    mark(list_or_map);
    mark(list_or_map->items[index]);
    return list_or_map->items[index];
}

const char *sv_node_key(const sv_node *map, int index)
{
    return map->kind == SV_NODE_MAP && index >= 0 && index < map->count ? map->items[index]->key : "";
}

/* ---- what nobody asked for ----------------------------------------------------------------------------- */

typedef struct unread {
    sv_ctx *c;
    int count;
    char names[640];
    size_t used;
} unread;

static const char *meant(const sv_node *node)
{
    if (!node->key) return NULL;
    const char *best = NULL;
    int distance = sv_tree_near_enough(node->key);
    const sv_config *config = node->config;
    for (int i = 0; i < config->miss_count; i++)
        if (config->misses[i].map == node->parent)
            sv_tree_nearer(node->key, config->misses[i].key, &best, &distance);
    return best;
}

static void collect_unread(unread *u, const sv_node *node)
{
    if (node->notes->used) {
        for (int i = 0; i < node->count; i++) collect_unread(u, node->items[i]);
        return;
    }
    sv_place p;
    const char *word = meant(node);
    char line[768];
    snprintf(line, sizeof line, "%.300s (%s%s%s%s)", sv_node_path(node), sv_tree_where(&p, node),
             word ? "; did you mean '" : "", word ? word : "", word ? "'?" : "");
    sv_log(u->c, SV_LOG_NOTE, "not used: %s", line);
    if (u->count++ < 5) {
        const int n =
            snprintf(u->names + u->used, sizeof u->names - u->used, "%s%s", u->used ? ", " : "", line);
        u->used = u->used + (size_t)n < sizeof u->names ? u->used + (size_t)n : sizeof u->names - 1;
    }
}

sv_status sv_config_check_used(sv_ctx *c, const sv_config *config)
{
    unread u = {.c = c};
    for (int i = 0; i < config->root->count; i++) collect_unread(&u, config->root->items[i]);
    SV_CHECK(c, u.count <= 5, SV_BAD_INPUT,
             "%d keys of the configuration are unknown or not supported: %s, and %d more", u.count, u.names,
             u.count - 5);
    SV_CHECK(c, u.count == 0, SV_BAD_INPUT, "unknown or not supported in the configuration: %s", u.names);
    return SV_OK;
}

/* ---- typed reads --------------------------------------------------------------------------------------- */

static sv_status wrong(sv_ctx *c, const sv_node *node, const char *wanted)
{
    sv_place p;
    if (node->kind == SV_NODE_SCALAR && !node->null)
        return SV_FAIL(c, SV_BAD_INPUT, "%s: %s is %s%.60s%s, expected %s", sv_tree_where(&p, node),
                       sv_node_path(node), node->quoted ? "the text '" : "'", node->text, "'", wanted);
    return SV_FAIL(c, SV_BAD_INPUT, "%s: %s is %s, expected %s", sv_tree_where(&p, node), sv_node_path(node),
                   sv_tree_kind_name(node), wanted);
}

static bool plain_scalar(const sv_node *node)
{
    return node->kind == SV_NODE_SCALAR && !node->null && !node->quoted;
}

static bool as_int(const sv_node *node, int *out)
{
    int64_t value;
    if (!plain_scalar(node) || !sv_text_integer(node->text, &value) || value < INT_MIN || value > INT_MAX)
        return false;
    *out = (int)value;
    return true;
}

static bool as_number(const sv_node *node, double *out)
{
    int64_t value;
    if (!plain_scalar(node)) return false;
    if (sv_text_integer(node->text, &value)) {
        *out = (double)value;
        return true;
    }
    /* 012 is ten in YAML 1.1 and twelve in 1.2: neither */
    const char *digits = node->text + (node->text[0] == '-' || node->text[0] == '+');
    if (digits[0] == '0' && digits[1] != '\0' && strspn(digits, "0123456789_") == strlen(digits))
        return false;
    return sv_text_number(node->text, out);
}

static bool as_bool(const sv_node *node, bool *out)
{
    if (!plain_scalar(node)) return false;
    const bool yes = sv_tree_is_true(node->text) || strcmp(node->text, "1") == 0;
    if (!yes && !sv_tree_is_false(node->text) && strcmp(node->text, "0") != 0) return false;
    *out = yes;
    return true;
}

static bool as_string(const sv_node *node, const char **out)
{
    if (node->kind != SV_NODE_SCALAR || node->null) return false;
    *out = node->text;
    return true;
}

/* sv_node_TYPE and sv_node_TYPE_or. */
#define TYPED(name, type, convert, wanted)                                                                   \
    sv_status sv_node_##name(sv_ctx *c, const sv_node *node, const char *path, type *out)                    \
    {                                                                                                        \
        const sv_node *found;                                                                                \
        SV_TRY(sv_node_require(c, node, path, &found));                                                      \
        return convert(found, out) ? SV_OK : wrong(c, found, wanted);                                        \
    }                                                                                                        \
    sv_status sv_node_##name##_or(sv_ctx *c, const sv_node *node, const char *path, type *out,               \
                                  type otherwise)                                                            \
    {                                                                                                        \
        const sv_node *found = sv_node_find(node, path);                                                     \
        *out = otherwise;                                                                                    \
        return !found || convert(found, out) ? SV_OK : wrong(c, found, wanted);                              \
    }
TYPED(int, int, as_int, "a whole number")
TYPED(number, double, as_number, "a number")
TYPED(bool, bool, as_bool, "True or False")
TYPED(string, const char *, as_string, "a single word or text")

static sv_status numbers(sv_ctx *c, const sv_node *node, const char *path, int *whole, double *real,
                         int count)
{
    const sv_node *found;
    SV_TRY(sv_node_require(c, node, path, &found));
    char wanted[64];
    snprintf(wanted, sizeof wanted, "a list of %d %s", count, whole ? "whole numbers" : "numbers");
    if (found->kind != SV_NODE_LIST) return wrong(c, found, wanted);
    sv_place p;
    SV_CHECK(c, found->count == count, SV_BAD_INPUT, "%s: %s has %d entries, expected %s",
             sv_tree_where(&p, found), sv_node_path(found), found->count, wanted);
    for (int i = 0; i < count; i++) {
        const sv_node *item = sv_node_item(found, i);
        if (!(whole ? as_int(item, &whole[i]) : as_number(item, &real[i])))
            return wrong(c, item, whole ? "a whole number" : "a number");
    }
    return SV_OK;
}

sv_status sv_node_ints(sv_ctx *c, const sv_node *node, const char *path, int *out, int count)
{
    return numbers(c, node, path, out, NULL, count);
}

sv_status sv_node_numbers(sv_ctx *c, const sv_node *node, const char *path, double *out, int count)
{
    return numbers(c, node, path, NULL, out, count);
}
