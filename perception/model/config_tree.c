/* SPDX-License-Identifier: Apache-2.0 */
#include "config_tree.h"

#include "perception/core/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 16384 };

struct sv_tree_block {
    sv_tree_block *next;
    size_t used, room;
    max_align_t data[];
};

void *sv_tree_take(sv_config *config, size_t bytes)
{
    bytes = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    sv_tree_block *b = config->blocks;
    if (!b || b->room - b->used < bytes) {
        const size_t room = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        b = malloc(sizeof *b + room);
        if (!b) return NULL;
        *b = (sv_tree_block){config->blocks, 0, room};
        config->blocks = b;
    }
    void *p = (char *)b->data + b->used;
    b->used += bytes;
    return p;
}

const char *sv_tree_copy(sv_config *config, const char *text, size_t length)
{
    char *copy = sv_tree_take(config, length + 1);
    if (!copy) return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

sv_node *sv_tree_node(sv_config *config, sv_node_kind kind, const char *file, int line)
{
    sv_node *node = sv_tree_take(config, sizeof *node);
    sv_tree_notes *marks = sv_tree_take(config, sizeof *marks);
    if (!node || !marks) return NULL;
    *marks = (sv_tree_notes){0};
    *node = (sv_node){.config = config, .notes = marks, .text = "", .file = file, .line = line, .kind = kind};
    return node;
}

bool sv_tree_append(sv_node *node, const char *key, sv_node *child)
{
    if (node->count == node->room) {
        const int room = node->room ? node->room * 2 : 8;
        sv_node **items = sv_tree_take(node->config, (size_t)room * sizeof *items);
        if (!items) return false;
        if (node->count) memcpy(items, node->items, (size_t)node->count * sizeof *items);
        node->items = items;
        node->room = room;
    }
    child->key = key;
    node->items[node->count++] = child;
    return true;
}

int sv_tree_index(const sv_node *map, const char *key)
{
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->items[i]->key, key) == 0) return i;
    return -1;
}

const char *sv_tree_place(sv_place *p, const char *file, int line)
{
    if (line > 0)
        snprintf(p->text, sizeof p->text, "%.300s:%d", file, line);
    else
        snprintf(p->text, sizeof p->text, "%.300s", file);
    return p->text;
}
const char *sv_tree_where(sv_place *p, const sv_node *node)
{
    return sv_tree_place(p, node->file, node->line);
}

const char *sv_tree_kind_name(const sv_node *node)
{
    if (node->null) return "empty";
    return node->kind == SV_NODE_MAP ? "a map" : node->kind == SV_NODE_LIST ? "a list" : "a single value";
}

static bool one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(text, *words) == 0) return true;
    return false;
}
bool sv_tree_is_null(const char *text)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};
    return one_of(text, words);
}
bool sv_tree_is_true(const char *text)
{
    static const char *const words[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", NULL};
    return one_of(text, words);
}
bool sv_tree_is_false(const char *text)
{
    static const char *const words[] = {"false", "False", "FALSE", "no",  "No",
                                        "NO",    "off",   "Off",   "OFF", NULL};
    return one_of(text, words);
}
bool sv_tree_looks_special(const char *text)
{
    double number;
    int64_t whole;
    return sv_tree_is_null(text) || sv_tree_is_true(text) || sv_tree_is_false(text) ||
           sv_text_number(text, &number) || sv_text_integer(text, &whole);
}

void sv_tree_nearer(const char *key, const char *word, const char **best, int *distance)
{
    const int d = sv_text_distance(key, word, *distance - 1);
    if (d < *distance && d > 0) {
        *best = word;
        *distance = d;
    }
}
/* One letter in three may differ, three at most. */
int sv_tree_near_enough(const char *key)
{
    const int n = (int)strlen(key) / 3;
    return (n < 1 ? 1 : n > 3 ? 3 : n) + 1;
}

sv_node *sv_tree_child(const sv_node *node, const char *word, size_t length)
{
    if (node->kind == SV_NODE_MAP) {
        for (int i = 0; i < node->count; i++)
            if (strncmp(node->items[i]->key, word, length) == 0 && node->items[i]->key[length] == '\0')
                return node->items[i];
    } else if (node->kind == SV_NODE_LIST && length > 0 && length < 7 &&
               strspn(word, "0123456789") >= length) {
        int index = 0;
        for (size_t i = 0; i < length; i++) index = index * 10 + (word[i] - '0');
        if (index < node->count) return node->items[index];
    }
    return NULL;
}

void sv_config_free(sv_config *config)
{
    if (!config) return;
    for (sv_tree_block *b = config->blocks; b;) {
        sv_tree_block *next = b->next;
        free(b);
        b = next;
    }
    free(config);
}
