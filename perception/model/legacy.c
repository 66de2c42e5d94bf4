/* SPDX-License-Identifier: Apache-2.0 */
#include "legacy.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 1001, MAGIC_WITHIN = 32 };
static const uint8_t magic[10] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

bool sv_legacy_begins(const uint8_t *head, size_t bytes)
{
    if (bytes < 2 || head[0] != 0x80) return false;
    for (size_t at = 2; at + sizeof magic <= bytes && at < MAGIC_WITHIN; at++) {
        if (memcmp(head + at, magic, sizeof magic) == 0) return true;
    }
    return false;
}

static int compare_keys(const sv_pickle_value *a, const sv_pickle_value *b)
{
    const uint32_t n = a->count < b->count ? a->count : b->count;
    const int order = n > 0 ? memcmp(a->text, b->text, n) : 0;
    return order != 0 ? order : (a->count > b->count) - (a->count < b->count);
}

static int by_key(const void *a, const void *b)
{
    return compare_keys(((const sv_legacy_storage *)a)->key, ((const sv_legacy_storage *)b)->key);
}

const sv_legacy_storage *sv_legacy_find(const sv_legacy *legacy, const sv_pickle_value *key)
{
    const sv_legacy_storage wanted = {.key = key};
    const size_t count = (size_t)legacy->count;
    return count == 0 ? NULL : bsearch(&wanted, legacy->storages, count, sizeof wanted, by_key);
}

/* Every storage that the object mentions, once. */
static sv_status list_storages(sv_ctx *c, const char *path, sv_legacy *out)
{
    const sv_pickle *p = &out->pickle;
    size_t count = 0;
    for (uint32_t i = 0; i < p->value_count; i++) count += p->values[i].kind == SV_PICKLE_STORAGE;
    out->storages = calloc(count + 1, sizeof *out->storages);
    SV_CHECK(c, out->storages, SV_NO_MEMORY, "%s: no memory for a list of %zu storages", path, count);
    size_t used = 0;
    for (uint32_t i = 0; i < p->value_count; i++) {
        if (p->values[i].kind == SV_PICKLE_STORAGE)
            out->storages[used++] = (sv_legacy_storage){&p->values[i], sv_pickle_at(p, p->values[i].a), 0};
    }
    qsort(out->storages, used, sizeof *out->storages, by_key);
    for (size_t i = 0; i < used; i++) {
        sv_legacy_storage *last = out->count > 0 ? &out->storages[out->count - 1] : NULL;
        const sv_legacy_storage *one = &out->storages[i];
        if (!last || by_key(last, one) != 0) {
            out->storages[out->count++] = *one;
            continue;
        }
        char shown[SV_SHOWN];
        SV_CHECK(c,
                 last->storage->what == one->storage->what && last->storage->integer == one->storage->integer,
                 SV_BAD_INPUT, "%s: storage '%s' is described in two ways", path,
                 sv_shown(shown, one->key->text, one->key->count));
    }
    return SV_OK;
}

/* The keys name the storages in the order in which they follow from 'at' to the end of the file. */
static sv_status place_storages(sv_ctx *c, const sv_source *source, const sv_pickle *keys, uint64_t at,
                                sv_legacy *out)
{
    const char *path = source->path;
    char shown[SV_SHOWN];
    const sv_pickle_value *list = sv_pickle_at(keys, keys->root);
    SV_CHECK(c, list->kind == SV_PICKLE_LIST, SV_BAD_INPUT, "%s: its list of storages is %s", path,
             sv_pickle_kind_name(list));
    for (uint32_t cell = list->a; cell; cell = sv_pickle_next(keys, cell)) {
        const sv_pickle_value *key = sv_pickle_item(keys, cell);
        SV_CHECK(c, key->kind == SV_PICKLE_TEXT, SV_BAD_INPUT, "%s: the key of a storage is %s", path,
                 sv_pickle_kind_name(key));
        sv_shown(shown, key->text, key->count);
        sv_legacy_storage *one = (sv_legacy_storage *)(uintptr_t)sv_legacy_find(out, key);
        SV_CHECK(c, one && one->offset == 0, SV_BAD_INPUT,
                 "%s: storage '%s' belongs to no tensor or is there twice", path, shown);
        uint8_t head[8];
        SV_CHECK(c, source->size - at >= sizeof head, SV_BAD_INPUT, "%s is cut off before storage '%s'", path,
                 shown);
        SV_TRY(sv_source_read(c, source, at, head, sizeof head));
        const uint64_t numbers = sv_le64(head), wanted = (uint64_t)one->storage->integer;
        const uint64_t size = sv_number_bytes((sv_number)one->storage->what);
        SV_CHECK(c, numbers == wanted, SV_BAD_INPUT,
                 "%s: storage '%s' should hold %llu numbers but holds %llu", path, shown,
                 (unsigned long long)wanted, (unsigned long long)numbers);
        at += sizeof head;
        SV_CHECK(c, numbers <= (source->size - at) / size, SV_BAD_INPUT,
                 "%s is cut off in storage '%s' of %llu numbers (copy or download it again)", path, shown,
                 (unsigned long long)numbers);
        one->offset = at;
        at += numbers * size;
    }
    SV_CHECK(c, at == source->size, SV_BAD_INPUT,
             "%s has %llu bytes after its last storage that belong to none", path,
             (unsigned long long)(source->size - at));
    return SV_OK;
}

static sv_status check_system(sv_ctx *c, const char *path, int part, const sv_pickle *p)
{
    const sv_pickle_value *root = sv_pickle_at(p, p->root);
    if (part == 1)
        SV_CHECK(c, root->kind == SV_PICKLE_INT && root->integer == VERSION, SV_UNSUPPORTED,
                 "%s: it is not of version %d of PyTorch's old format", path, VERSION);
    if (part == 2) {
        const sv_pickle_value *little =
            root->kind == SV_PICKLE_DICT ? sv_pickle_lookup(p, root, "little_endian") : NULL;
        SV_CHECK(c, little && little->kind == SV_PICKLE_BOOL && little->integer, SV_UNSUPPORTED,
                 "%s was not saved on a little-endian machine; only little-endian checkpoints are read",
                 path);
    }
    return SV_OK;
}

sv_status sv_legacy_open(sv_ctx *c, const sv_source *source, sv_legacy *out)
{
    *out = (sv_legacy){0};
    const char *path = source->path;
    const size_t size = source->size < SV_PICKLE_MAX_BYTES ? (size_t)source->size : SV_PICKLE_MAX_BYTES;
    out->head = malloc(size + 1);
    SV_CHECK(c, out->head, SV_NO_MEMORY, "%s: no memory for its beginning", path);
    SV_TRY(sv_source_read(c, source, 0, out->head, size));
    size_t at = 0;
    for (int part = 0; part < 3; part++) {
        sv_pickle p;
        sv_status status = sv_pickle_read(c, path, out->head + at, size - at, &p);
        if (status == SV_OK) status = check_system(c, path, part, &p);
        at += p.used;
        sv_pickle_free(&p);
        SV_TRY(status);
    }
    SV_TRY(sv_pickle_read(c, path, out->head + at, size - at, &out->pickle));
    at += out->pickle.used;
    SV_TRY(list_storages(c, path, out));
    sv_pickle keys;
    sv_status status = sv_pickle_read(c, path, out->head + at, size - at, &keys);
    if (status == SV_OK) status = place_storages(c, source, &keys, at + keys.used, out);
    sv_pickle_free(&keys);
    return status;
}

void sv_legacy_close(sv_legacy *legacy)
{
    sv_pickle_free(&legacy->pickle);
    free(legacy->storages);
    free(legacy->head);
    *legacy = (sv_legacy){0};
}
