/* SPDX-License-Identifier: Apache-2.0
 *
 * PyTorch checkpoints: the zip format (PyTorch 1.6 and later), and the stream
 * before it (legacy.h), in which LION's own training code saves.
 *
 * Members of the zip, below a folder whose name is anything: data.pkl (the
 * pickled object), data/<key> (the numbers of a storage, exactly numbers x size
 * bytes), byteorder ("little", newer versions), version and others that say
 * nothing about the tensors. The object is the dictionary of OpenPCDet's
 * training code {epoch, it, model_state, optimizer_state, version} or a plain
 * state_dict. Only the tensors of model_state are read; what the optimizer left
 * is parsed as part of the pickle and never loaded.
 *
 * A tensor is a strided view of its storage: number (i, j, ...) lies at
 * offset + i*stride[0] + j*stride[1] + ... Views are copied out dense. Refused:
 * negative strides, views beyond the storage, and views that show one number
 * twice (so a small file cannot describe a large tensor).
 */
#include "legacy.h"
#include "zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEY = 64, MAX_BYTEORDER = 16, MAX_SHARING = 4 };

/* One tensor of the state dict: what the pickle says about it. */
typedef struct wanted {
    const sv_pickle_value *name, *tensor, *storage, *key;
} wanted;

typedef struct reader {
    sv_ctx *c;
    sv_weights *w;
    const sv_source *source;
    sv_zip zip;
    sv_legacy legacy;
    sv_pickle unzipped;      /* of data.pkl */
    const sv_pickle *pickle; /* the one of the two that is used */
    uint64_t total;          /* bytes that the file can hold, unpacked */
    uint8_t *pickle_bytes, *storage_bytes;
    wanted *list;
    int count;
    char prefix[512 + 1]; /* "" or "folder/" */
    const char *path;
} reader;

static sv_status find_pickle(reader *r, const sv_zip_entry **out)
{
    static const char name[] = "data.pkl";
    *out = NULL;
    char shown[2][SV_SHOWN];
    for (int i = 0; i < r->zip.count; i++) {
        const sv_zip_entry *entry = &r->zip.entries[i];
        const char *slash = strrchr(entry->name, '/');
        if (strcmp(slash ? slash + 1 : entry->name, name) != 0) continue;
        SV_CHECK(r->c, !*out, SV_BAD_INPUT, "%s holds '%s' and '%s': it is not one checkpoint", r->path,
                 sv_shown(shown[0], (*out)->name, strlen((*out)->name)),
                 sv_shown(shown[1], entry->name, strlen(entry->name)));
        *out = entry;
    }
    SV_CHECK(r->c, *out, SV_BAD_INPUT,
             "%s is a zip archive without a member data.pkl: not a PyTorch checkpoint%s", r->path,
             sv_zip_find(&r->zip, "[Content_Types].xml") ? " (an office document)" : "");
    const size_t length = strlen((*out)->name) - strlen(name);
    snprintf(r->prefix, sizeof r->prefix, "%.*s", (int)length, (*out)->name);
    return SV_OK;
}

static const sv_zip_entry *find_member(const reader *r, const char *name, size_t length)
{
    char full[sizeof r->prefix + MAX_KEY + 8];
    snprintf(full, sizeof full, "%s%.*s", r->prefix, (int)length, name);
    return sv_zip_find(&r->zip, full);
}

static sv_status check_members(reader *r)
{
    char order[MAX_BYTEORDER + 1] = "little", shown[SV_SHOWN];
    const sv_zip_entry *entry = find_member(r, "byteorder", 9);
    if (entry) {
        SV_CHECK(r->c, entry->size <= MAX_BYTEORDER, SV_BAD_INPUT,
                 "%s: its member 'byteorder' has %llu bytes", r->path, (unsigned long long)entry->size);
        memset(order, 0, sizeof order);
        SV_TRY(sv_zip_read(r->c, &r->zip, entry, order));
    }
    SV_CHECK(r->c, strcmp(order, "little") == 0, SV_UNSUPPORTED,
             "%s was saved on a machine with byte order '%s'; only little-endian checkpoints are read",
             r->path, sv_shown(shown, order, strlen(order)));
    SV_CHECK(r->c, !find_member(r, "constants.pkl", 13), SV_UNSUPPORTED,
             "%s is a TorchScript program, not a checkpoint: save the module's state_dict() instead",
             r->path);
    return SV_OK;
}

/* ---- the state dict ------------------------------------------------------------------------------------ */

static sv_status find_state(reader *r, const sv_pickle_value **state)
{
    const sv_pickle *p = r->pickle;
    const sv_pickle_value *root = sv_pickle_at(p, p->root);
    SV_CHECK(r->c, root->kind == SV_PICKLE_DICT, SV_BAD_INPUT,
             "%s holds %s instead of a dictionary of tensors", r->path, sv_pickle_kind_name(root));
    *state = sv_pickle_lookup(p, root, "model_state");
    if (*state) {
        SV_CHECK(r->c, (*state)->kind == SV_PICKLE_DICT, SV_BAD_INPUT,
                 "%s: model_state is %s instead of a dictionary of tensors", r->path,
                 sv_pickle_kind_name(*state));
        return SV_OK;
    }
    *state = root;
    char keys[256] = "", shown[SV_SHOWN];
    bool tensors = true;
    int shown_keys = 0;
    for (uint32_t cell = root->a; cell; cell = sv_pickle_next(p, sv_pickle_next(p, cell))) {
        const sv_pickle_value *key = sv_pickle_item(p, cell);
        tensors = tensors && sv_pickle_item(p, sv_pickle_next(p, cell))->kind == SV_PICKLE_TENSOR;
        if (key->kind != SV_PICKLE_TEXT || shown_keys == 6) continue;
        const size_t used = strlen(keys);
        sv_shown(shown, key->text, key->count < 40 ? key->count : 40);
        snprintf(keys + used, sizeof keys - used, "%s%s", shown_keys > 0 ? ", " : "", shown);
        shown_keys++;
    }
    SV_CHECK(
        r->c, tensors, SV_BAD_INPUT,
        "%s holds neither a model_state (as OpenPCDet saves it) nor a plain state_dict; its keys are: %s",
        r->path, keys);
    return SV_OK;
}

static int by_storage(const void *a, const void *b)
{
    const wanted *x = a, *y = b;
    const uint32_t n = x->key->count < y->key->count ? x->key->count : y->key->count;
    const int order = n > 0 ? memcmp(x->key->text, y->key->text, n) : 0;
    if (order != 0) return order;
    return (x->key->count > y->key->count) - (x->key->count < y->key->count);
}

static sv_status list_tensors(reader *r, const sv_pickle_value *state)
{
    const sv_pickle *p = r->pickle;
    const size_t count = state->count / 2;
    SV_CHECK(r->c, count > 0, SV_BAD_INPUT, "%s holds an empty model_state: there are no weights in it",
             r->path);
    SV_CHECK(r->c, count <= SV_WEIGHTS_MAX_TENSORS, SV_BAD_INPUT,
             "%s holds %zu tensors, at most %d are possible", r->path, count, SV_WEIGHTS_MAX_TENSORS);
    r->list = calloc(count, sizeof *r->list);
    SV_CHECK(r->c, r->list, SV_NO_MEMORY, "%s: no memory for a list of %zu tensors", r->path, count);
    char shown[SV_SHOWN];
    for (uint32_t cell = state->a; cell; cell = sv_pickle_next(p, sv_pickle_next(p, cell))) {
        wanted *one = &r->list[r->count++];
        one->name = sv_pickle_item(p, cell);
        one->tensor = sv_pickle_item(p, sv_pickle_next(p, cell));
        SV_CHECK(r->c, one->name->kind == SV_PICKLE_TEXT, SV_BAD_INPUT,
                 "%s: a key of model_state is %s instead of text", r->path, sv_pickle_kind_name(one->name));
        sv_shown(shown, one->name->text, one->name->count);
        SV_CHECK(r->c, one->name->count <= SV_WEIGHTS_MAX_NAME, SV_BAD_INPUT,
                 "%s: the tensor name '%s' has %u characters, at most %d are possible", r->path, shown,
                 one->name->count, SV_WEIGHTS_MAX_NAME);
        SV_CHECK(r->c, one->tensor->kind == SV_PICKLE_TENSOR, SV_BAD_INPUT,
                 "%s: '%s' is %s instead of a tensor", r->path, shown, sv_pickle_kind_name(one->tensor));
        one->storage = sv_pickle_at(p, one->tensor->a);
        one->key = sv_pickle_at(p, one->storage->a);
        SV_CHECK(r->c,
                 one->key->count > 0 && one->key->count <= MAX_KEY &&
                     !memchr(one->key->text, 0, one->key->count),
                 SV_BAD_INPUT, "%s: the storage of '%s' has an unusable name", r->path, shown);
    }
    /* Tensors that share a storage become neighbours, so that each storage is read once. */
    qsort(r->list, (size_t)r->count, sizeof *r->list, by_storage);
    return SV_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

typedef struct view {
    int ndim;
    int64_t size[SV_MAX_DIMS], stride[SV_MAX_DIMS], offset, elements;
} view;

static sv_status read_view(const reader *r, const wanted *one, const char *name, view *out)
{
    const sv_pickle *p = r->pickle;
    const sv_pickle_value *sizes = sv_pickle_at(p, one->tensor->b),
                          *strides = sv_pickle_at(p, one->tensor->d);
    SV_CHECK(r->c, sizes->count <= SV_MAX_DIMS, SV_UNSUPPORTED,
             "%s: tensor '%s' has %u dimensions, at most %d are possible", r->path, name, sizes->count,
             SV_MAX_DIMS);
    *out = (view){.ndim = (int)sizes->count, .offset = one->tensor->integer};
    uint32_t size_cell = sizes->a, stride_cell = strides->a;
    for (int i = 0; i < out->ndim; i++) {
        out->size[i] = sv_pickle_item(p, size_cell)->integer;
        out->stride[i] = out->size[i] == 1 ? 0 : sv_pickle_item(p, stride_cell)->integer;
        size_cell = sv_pickle_next(p, size_cell);
        stride_cell = sv_pickle_next(p, stride_cell);
    }
    out->elements = sv_elements(out->ndim, out->size);
    SV_CHECK(r->c, out->elements >= 0, SV_BAD_INPUT, "%s: tensor '%s' has impossible sizes", r->path, name);
    if (out->elements == 0) return SV_OK;

    /* From the smallest stride to the largest: each must step over everything below it, and the last number
     * exists. */
    const int64_t numbers = one->storage->integer;
    bool inside = out->offset >= 0 && out->offset < numbers, distinct = true, done[SV_MAX_DIMS] = {false};
    int64_t extent = 1; /* numbers from the first to the last of the dimensions done */
    for (int round = 0; round < out->ndim && inside && distinct; round++) {
        int next = -1;
        for (int i = 0; i < out->ndim; i++) {
            if (!done[i] && out->size[i] > 1 && (next < 0 || out->stride[i] < out->stride[next])) next = i;
        }
        if (next < 0) break;
        done[next] = true;
        distinct = out->stride[next] >= extent; /* also refuses negative and zero strides */
        if (!distinct) break;
        inside =
            out->stride[next] <= numbers && (out->size[next] - 1) <= (numbers - extent) / out->stride[next];
        if (inside) extent += (out->size[next] - 1) * out->stride[next];
    }
    SV_CHECK(r->c, distinct, SV_BAD_INPUT,
             "%s: tensor '%s' shows numbers of its storage more than once or backwards (expanded view); save "
             "a contiguous "
             "copy of it",
             r->path, name);
    SV_CHECK(r->c, inside && extent <= numbers - out->offset, SV_BAD_INPUT,
             "%s: tensor '%s' reaches beyond its storage of %lld numbers", r->path, name, (long long)numbers);
    return SV_OK;
}

/* Row by row over the last dimension; 'at' counts the others like an odometer. */
static void copy_view(const view *v, sv_number number, const uint8_t *storage, void *to)
{
    const size_t out_bytes = sv_dtype_bytes(sv_number_kept_as(number)), in_bytes = sv_number_bytes(number);
    bool dense = true;
    int64_t below = 1;
    for (int i = v->ndim; i-- > 0;) {
        if (v->size[i] != 1 && v->stride[i] != below) dense = false;
        below *= v->size[i];
    }
    if (dense || v->elements == 0) {
        sv_number_widen(number, to, storage + (size_t)v->offset * in_bytes, (size_t)v->elements, 1);
        return;
    }
    const int last = v->ndim - 1;
    int64_t at[SV_MAX_DIMS] = {0}, from = v->offset;
    for (int64_t made = 0; made < v->elements; made += v->size[last]) {
        sv_number_widen(number, (char *)to + (size_t)made * out_bytes, storage + (size_t)from * in_bytes,
                        (size_t)v->size[last], v->stride[last]);
        for (int i = last - 1; i >= 0; i--) {
            from += v->stride[i];
            if (++at[i] < v->size[i]) break;
            from -= at[i] * v->stride[i];
            at[i] = 0;
        }
    }
}

/* Where the numbers of a storage lie. */
typedef struct place {
    bool there;
    uint64_t bytes, offset;
    const sv_zip_entry *entry; /* NULL: at the offset */
} place;

static place find_storage(const reader *r, const wanted *one)
{
    if (r->legacy.head) {
        const sv_legacy_storage *found = sv_legacy_find(&r->legacy, one->key);
        const uint64_t bytes =
            (uint64_t)one->storage->integer * sv_number_bytes((sv_number)one->storage->what);
        return (place){
            .there = found && found->offset > 0, .bytes = bytes, .offset = found ? found->offset : 0};
    }
    char member[MAX_KEY + 8];
    const int length =
        snprintf(member, sizeof member, "data/%.*s", (int)one->key->count, (const char *)one->key->text);
    const sv_zip_entry *entry = find_member(r, member, (size_t)length);
    return (place){.there = entry != NULL, .bytes = entry ? entry->size : 0, .entry = entry};
}

static sv_status load_storage(reader *r, const wanted *one, const char *name)
{
    char shown[SV_SHOWN];
    free(r->storage_bytes);
    r->storage_bytes = NULL;
    const place at = find_storage(r, one);
    sv_shown(shown, one->key->text, one->key->count);
    SV_CHECK(r->c, at.there, SV_BAD_INPUT, "%s: the numbers of tensor '%s' (storage '%s') are missing",
             r->path, name, shown);
    SV_CHECK(r->c, at.bytes <= SV_WEIGHTS_MAX_BYTES, SV_BAD_INPUT,
             "%s: storage '%s' has %llu bytes; no model is that large", r->path, shown,
             (unsigned long long)at.bytes);
    r->storage_bytes = malloc((size_t)at.bytes + 1);
    SV_CHECK(r->c, r->storage_bytes, SV_NO_MEMORY, "%s: no memory for storage '%s' of %llu bytes", r->path,
             shown, (unsigned long long)at.bytes);
    return at.entry ? sv_zip_read(r->c, &r->zip, at.entry, r->storage_bytes)
                    : sv_source_read(r->c, r->source, at.offset, r->storage_bytes, (size_t)at.bytes);
}

/* Tensors of one storage may differ in what they say about it. */
static sv_status check_storage(const reader *r, const wanted *one, const char *name)
{
    char shown[SV_SHOWN];
    const place at = find_storage(r, one);
    const uint64_t bytes = sv_number_bytes((sv_number)one->storage->what);
    const uint64_t numbers = (uint64_t)one->storage->integer;
    SV_CHECK(r->c, numbers <= at.bytes / bytes && numbers * bytes == at.bytes, SV_BAD_INPUT,
             "%s: the storage of tensor '%s' should be %llu numbers of %llu bytes, but storage '%s' has %llu "
             "bytes",
             r->path, name, (unsigned long long)numbers, (unsigned long long)bytes,
             sv_shown(shown, one->key->text, one->key->count), (unsigned long long)at.bytes);
    return SV_OK;
}

static sv_status load_tensors(reader *r)
{
    uint64_t made = 0;
    for (int i = 0; i < r->count; i++) {
        const wanted *one = &r->list[i];
        char name[SV_WEIGHTS_MAX_NAME + 1], shown[SV_SHOWN];
        memcpy(name, one->name->text, one->name->count);
        name[one->name->count] = '\0';
        sv_shown(shown, name, one->name->count);
        SV_CHECK(r->c, strlen(name) == one->name->count, SV_BAD_INPUT,
                 "%s: the tensor name '%s' contains a zero byte", r->path, shown);
        if (i == 0 || by_storage(one, one - 1) != 0) SV_TRY(load_storage(r, one, shown));
        SV_TRY(check_storage(r, one, shown));
        view v;
        SV_TRY(read_view(r, one, shown, &v));
        const sv_number number = (sv_number)one->storage->what;
        made += (uint64_t)v.elements * sv_number_bytes(number);
        SV_CHECK(r->c, made / MAX_SHARING <= r->total, SV_BAD_INPUT,
                 "%s: its tensors show the same numbers more than %d times over", r->path, MAX_SHARING);
        void *data = NULL;
        SV_TRY(sv_weights_make(r->c, r->w, name, sv_number_kept_as(number), v.ndim, v.size, &data));
        copy_view(&v, number, r->storage_bytes, data);
    }
    return SV_OK;
}

/* What the training code noted beside the weights. */
static sv_status note_training(reader *r)
{
    static const struct {
        const char *key, *meta;
    } notes[] = {{"epoch", "epoch"}, {"it", "iteration"}, {"version", "trained_with"}};
    const sv_pickle_value *root = sv_pickle_at(r->pickle, r->pickle->root);
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++) {
        const sv_pickle_value *value = sv_pickle_lookup(r->pickle, root, notes[i].key);
        char text[SV_SHOWN] = "";
        if (value && value->kind == SV_PICKLE_TEXT) sv_shown(text, value->text, value->count);
        if (value && value->kind == SV_PICKLE_INT)
            snprintf(text, sizeof text, "%lld", (long long)value->integer);
        if (text[0]) SV_TRY(sv_weights_set_meta(r->c, r->w, notes[i].meta, text));
    }
    return SV_OK;
}

static sv_status read_zip(reader *r)
{
    SV_TRY(sv_zip_open(r->c, r->source, &r->zip));
    const sv_zip_entry *entry = NULL;
    SV_TRY(find_pickle(r, &entry));
    SV_TRY(check_members(r));
    SV_CHECK(r->c, entry->size <= SV_PICKLE_MAX_BYTES, SV_BAD_INPUT,
             "%s: its pickle has %llu bytes, at most %d are read", r->path, (unsigned long long)entry->size,
             SV_PICKLE_MAX_BYTES);
    r->pickle_bytes = malloc((size_t)entry->size + 1);
    SV_CHECK(r->c, r->pickle_bytes, SV_NO_MEMORY, "%s: no memory for its pickle", r->path);
    SV_TRY(sv_zip_read(r->c, &r->zip, entry, r->pickle_bytes));
    r->pickle = &r->unzipped;
    r->total = r->zip.total;
    return sv_pickle_read(r->c, r->path, r->pickle_bytes, (size_t)entry->size, &r->unzipped);
}

static sv_status read_legacy(reader *r)
{
    r->pickle = &r->legacy.pickle;
    r->total = r->source->size;
    return sv_legacy_open(r->c, r->source, &r->legacy);
}

static sv_status read_all(reader *r, bool legacy)
{
    SV_TRY(legacy ? read_legacy(r) : read_zip(r));
    const sv_pickle_value *state = NULL;
    SV_TRY(find_state(r, &state));
    SV_TRY(list_tensors(r, state));
    SV_TRY(load_tensors(r));
    return note_training(r);
}

sv_status sv_pth_read(sv_ctx *c, const sv_source *source, bool legacy, sv_weights *w)
{
    reader r = {.c = c, .w = w, .source = source, .path = source->path};
    const sv_status status = read_all(&r, legacy);
    sv_zip_close(&r.zip);
    sv_legacy_close(&r.legacy);
    sv_pickle_free(&r.unzipped);
    free(r.pickle_bytes);
    free(r.storage_bytes);
    free(r.list);
    return status;
}
