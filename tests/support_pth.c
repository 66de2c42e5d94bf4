/* SPDX-License-Identifier: Apache-2.0 */
#include "support_pth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- bytes --------------------------------------------------------------------------------------------- */

void put(bytes *b, const void *data, size_t count)
{
    if (b->size + count > b->room) {
        b->room = (b->size + count) * 2 + 64;
        b->data = realloc(b->data, b->room);
        if (!b->data) abort();
    }
    if (count > 0) memcpy(b->data + b->size, data, count);
    b->size += count;
}

void put_text(bytes *b, const char *text)
{
    put(b, text, strlen(text));
}

void put_le(bytes *b, uint64_t value, int count)
{
    for (int i = 0; i < count; i++) {
        const uint8_t byte = (uint8_t)(i < 8 ? value >> 8 * i : 0);
        put(b, &byte, 1);
    }
}

/* ---- zip ----------------------------------------------------------------------------------------------- */

static bytes deflated(const void *data, size_t size)
{
    z_stream stream = {0};
    if (deflateInit2(&stream, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK) abort();
    bytes out = {0};
    out.room = deflateBound(&stream, (uLong)size);
    out.data = malloc(out.room);
    stream.next_in = (Bytef *)(uintptr_t)data;
    stream.avail_in = (uInt)size;
    stream.next_out = out.data;
    stream.avail_out = (uInt)out.room;
    if (!out.data || deflate(&stream, Z_FINISH) != Z_STREAM_END) abort();
    out.size = stream.total_out;
    deflateEnd(&stream);
    return out;
}

void zip_put(zip_writer *zip, const zip_member *m)
{
    bytes packed = {0};
    if (m->deflate)
        packed = deflated(m->data, m->size);
    else
        put(&packed, m->data, m->size);
    const uint32_t crc = (uint32_t)crc32(0, m->data, (uInt)m->size) + m->crc_error;
    const size_t name = strlen(m->name), header = zip->out.size;
    const uint64_t size = m->claimed ? m->claimed : m->size;

    put_text(&zip->out, "PK\3\4");
    put_le(&zip->out, 0, 2);
    put_le(&zip->out, 0x800, 2);
    put_le(&zip->out, m->deflate ? 8 : 0, 2);
    put_le(&zip->out, 0, 4);
    put_le(&zip->out, crc, 4);
    put_le(&zip->out, packed.size, 4);
    put_le(&zip->out, size, 4);
    put_le(&zip->out, name, 2);
    put_le(&zip->out, 4, 2); /* an extra field that only pads, as PyTorch's */
    put_text(&zip->out, m->name);
    put_le(&zip->out, 0x4246, 4);
    put(&zip->out, packed.data, packed.size);

    bytes *d = &zip->directory;
    put_text(d, "PK\1\2");
    put_le(d, 0, 4);
    put_le(d, 0x800, 2);
    put_le(d, m->deflate ? 8 : 0, 2);
    put_le(d, 0, 4);
    put_le(d, crc, 4);
    put_le(d, packed.size, 4);
    put_le(d, size, 4);
    put_le(d, name, 2);
    put_le(d, 0, 12);
    put_le(d, header, 4);
    put_text(d, m->name);
    zip->count++;
    free(packed.data);
}

bytes zip_end(zip_writer *zip, bool zip64)
{
    bytes *out = &zip->out;
    const size_t at = out->size;
    put(out, zip->directory.data, zip->directory.size);
    const size_t end64 = out->size;
    if (zip64) {
        put_text(out, "PK\6\6");
        put_le(out, 44, 8);
        put_le(out, 0, 12);
        put_le(out, (uint64_t)zip->count, 8);
        put_le(out, (uint64_t)zip->count, 8);
        put_le(out, zip->directory.size, 8);
        put_le(out, at, 8);
        put_text(out, "PK\6\7");
        put_le(out, 0, 4);
        put_le(out, end64, 8);
        put_le(out, 1, 4);
    }
    put_text(out, "PK\5\6");
    put_le(out, 0, 4);
    put_le(out, zip64 ? 0xffff : (uint64_t)zip->count, 2);
    put_le(out, zip64 ? 0xffff : (uint64_t)zip->count, 2);
    put_le(out, zip->directory.size, 4);
    put_le(out, zip64 ? 0xffffffff : at, 4);
    put_le(out, 0, 2);
    free(zip->directory.data);
    const bytes result = *out;
    *zip = (zip_writer){0};
    return result;
}

/* ---- pickle -------------------------------------------------------------------------------------------- */

void pickle_text(bytes *p, const char *text)
{
    put_text(p, "X");
    put_le(p, strlen(text), 4);
    put_text(p, text);
}

void pickle_int(bytes *p, int64_t value)
{
    if (value >= 0 && value < 256) {
        put_text(p, "K");
        put_le(p, (uint64_t)value, 1);
    } else if (value >= 0 && value < 65536) {
        put_text(p, "M");
        put_le(p, (uint64_t)value, 2);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        put_text(p, "J");
        put_le(p, (uint64_t)value, 4);
    } else {
        put_text(p, "\x8a\x08");
        put_le(p, (uint64_t)value, 8);
    }
}

void pickle_float(bytes *p, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_text(p, "G");
    for (int i = 7; i >= 0; i--) put_le(p, bits >> 8 * i, 1);
}

void pickle_global(bytes *p, const char *module, const char *name)
{
    put_text(p, "c");
    put_text(p, module);
    put_text(p, "\n");
    put_text(p, name);
    put_text(p, "\n");
}

void pickle_ints(bytes *p, const int64_t *values, int count)
{
    if (count == 0) {
        put_text(p, ")");
        return;
    }
    if (count > 3) put_text(p, "(");
    for (int i = 0; i < count; i++) pickle_int(p, values[i]);
    static const char *const ends[] = {"", "\x85", "\x86", "\x87", "t"};
    put_text(p, ends[count > 3 ? 4 : count]);
}

void pickle_tensor(bytes *p, const pth_tensor *t)
{
    if (t->parameter) {
        pickle_global(p, "torch._utils", "_rebuild_parameter");
        put_text(p, "(");
    }
    pickle_global(p, "torch._utils", "_rebuild_tensor_v2");
    put_text(p, "((");
    pickle_text(p, "storage");
    pickle_global(p, "torch", t->type);
    pickle_text(p, t->key);
    pickle_text(p, t->location ? t->location : "cpu");
    pickle_int(p, t->numbers);
    put_text(p, t->legacy ? "NtQ" : "tQ");
    pickle_int(p, t->offset);
    pickle_ints(p, t->size, t->ndim);
    pickle_ints(p, t->stride, t->ndim);
    put_text(p, "\x89");
    pickle_global(p, "collections", "OrderedDict");
    put_text(p, ")RtR");
    if (t->parameter) {
        put_text(p, "\x88");
        pickle_global(p, "collections", "OrderedDict");
        put_text(p, ")RtR");
    }
}

/* ---- checkpoints --------------------------------------------------------------------------------------- */

static void put_state(bytes *p, const pth_tensor *tensors, int count, bool legacy)
{
    pickle_global(p, "collections", "OrderedDict");
    put_text(p, ")R(");
    for (int i = 0; i < count; i++) {
        pickle_text(p, tensors[i].name);
        pth_tensor t = tensors[i];
        t.legacy = legacy;
        pickle_tensor(p, &t);
    }
    put_text(p, "u");
}

/* What Adam with OpenPCDet's one-cycle schedule leaves: tensors, numbers, and a learning rate that is a NumPy
 * scalar. */
static void put_optimizer(bytes *p, const char *key, bool legacy)
{
    put_text(p, "}(");
    pickle_text(p, "state");
    put_text(p, "}K");
    put_le(p, 0, 1);
    put_text(p, "}(");
    pickle_text(p, "step");
    pickle_int(p, 74240);
    pickle_text(p, "exp_avg");
    pickle_tensor(p, &(pth_tensor){.type = "FloatStorage",
                                   .key = key,
                                   .legacy = legacy,
                                   .location = "cuda:0",
                                   .numbers = 6,
                                   .ndim = 2,
                                   .size = {2, 3},
                                   .stride = {3, 1}});
    put_text(p, "us");
    pickle_text(p, "param_groups");
    put_text(p, "](}(");
    pickle_text(p, "lr");
    pickle_global(p, "numpy.core.multiarray", "scalar");
    pickle_global(p, "numpy", "dtype");
    pickle_text(p, "f8");
    put_text(p, "\x89\x88\x87R(K");
    put_le(p, 3, 1);
    pickle_text(p, "<");
    put_text(p, "NNNJ");
    put_le(p, 0xffffffff, 4);
    put_text(p, "J");
    put_le(p, 0xffffffff, 4);
    put_text(p, "K");
    put_le(p, 0, 1);
    put_text(p, "tb");
    pickle_global(p, "_codecs", "encode");
    pickle_text(p, "12345678");
    pickle_text(p, "latin1");
    put_text(p, "\x86R\x86R");
    pickle_text(p, "betas");
    pickle_float(p, 0.95);
    pickle_float(p, 0.99);
    put_text(p, "\x86");
    pickle_text(p, "seed");
    pickle_int(p, (int64_t)1 << 40);
    pickle_text(p, "amsgrad");
    put_text(p, "\x89ue");
    put_text(p, "u");
}

static void put_pickle(bytes *p, const pth_tensor *tensors, int count, const pth_options *o)
{
    const int protocol = o->protocol ? o->protocol : 2;
    put_le(p, 0x80, 1);
    put_le(p, (uint64_t)protocol, 1);
    if (protocol >= 4) {
        put_le(p, 0x95, 1);
        put_le(p, 1000, 8); /* only a hint */
    }
    if (o->plain) {
        put_state(p, tensors, count, o->legacy);
        put_text(p, "}");
        pickle_text(p, "_metadata");
        pickle_global(p, "collections", "OrderedDict");
        put_text(p, ")Rsb.");
        return;
    }
    put_text(p, "}");
    if (protocol >= 4)
        put_le(p, 0x94, 1); /* MEMOIZE */
    else
        put_text(p, "q"), put_le(p, 0, 1);
    put_text(p, "(");
    if (protocol >= 4) { /* the same text, in the newer forms */
        put_le(p, 0x8c, 1);
        put_le(p, 5, 1);
        put_text(p, "epoch");
    } else {
        pickle_text(p, "epoch");
    }
    pickle_int(p, 80);
    pickle_text(p, "it");
    pickle_int(p, 74240);
    pickle_text(p, "model_state");
    put_state(p, tensors, count, o->legacy);
    pickle_text(p, "optimizer_state");
    if (o->optimizer)
        put_optimizer(p, "9", o->legacy);
    else
        put_text(p, "N");
    pickle_text(p, "version");
    pickle_text(p, "pcdet+0.6.0");
    put_text(p, "u.");
}

/* Magic number, version, machine, object, keys; then each storage with its count before it. */
static bytes legacy_checkpoint(const pth_tensor *tensors, int count, const pth_options *o)
{
    static const float moments[6] = {0};
    bytes out = {0};
    put(&out, "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 15);
    put(&out, "\x80\x02M\xe9\x03.", 6);
    put_text(&out, "\x80\x02}q");
    put_le(&out, 0, 1);
    put_text(&out, "(");
    pickle_text(&out, "protocol_version");
    pickle_int(&out, 1001);
    pickle_text(&out, "little_endian");
    put_text(&out, o->byteorder && strcmp(o->byteorder, "big") == 0 ? "\x89" : "\x88");
    pickle_text(&out, "type_sizes");
    put_text(&out, "}(");
    pickle_text(&out, "short");
    pickle_int(&out, 2);
    put_text(&out, "uu.");
    put_pickle(&out, tensors, count, o);
    put_text(&out, "\x80\x02](");
    for (int i = 0; i < count; i++) {
        if (tensors[i].data) pickle_text(&out, tensors[i].key);
    }
    if (o->optimizer) pickle_text(&out, "9");
    put_text(&out, "e.");
    for (int i = 0; i < count; i++) {
        if (!tensors[i].data) continue;
        put_le(&out, (uint64_t)tensors[i].numbers, 8);
        put(&out, tensors[i].data, tensors[i].bytes);
    }
    if (o->optimizer) {
        put_le(&out, 6, 8);
        put(&out, moments, sizeof moments);
    }
    return out;
}

bytes pth_checkpoint(const pth_tensor *tensors, int count, const pth_options *o)
{
    const char *prefix = o->prefix ? o->prefix : "archive";
    if (o->legacy) return legacy_checkpoint(tensors, count, o);
    bytes p = {0};
    put_pickle(&p, tensors, count, o);
    zip_writer zip = {0};
    char name[600];
    snprintf(name, sizeof name, "%s/data.pkl", prefix);
    zip_put(&zip, &(zip_member){.name = name, .data = p.data, .size = p.size, .deflate = o->deflate});
    if (o->byteorder) {
        snprintf(name, sizeof name, "%s/byteorder", prefix);
        zip_put(&zip, &(zip_member){.name = name, .data = o->byteorder, .size = strlen(o->byteorder)});
    }
    for (int i = 0; i < count; i++) {
        if (!tensors[i].data) continue;
        snprintf(name, sizeof name, "%s/data/%s", prefix, tensors[i].key);
        zip_put(&zip,
                &(zip_member){
                    .name = name, .data = tensors[i].data, .size = tensors[i].bytes, .deflate = o->deflate});
    }
    static const char *const others[] = {"version", ".format_version", ".storage_alignment",
                                         ".data/serialization_id"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        snprintf(name, sizeof name, "%s/%s", prefix, others[i]);
        zip_put(&zip, &(zip_member){.name = name, .data = "3\n", .size = 2});
    }
    free(p.data);
    return zip_end(&zip, !o->deflate);
}

bytes pth_around(const bytes *pickle)
{
    zip_writer zip = {0};
    zip_put(&zip, &(zip_member){.name = "a/data.pkl", .data = pickle->data, .size = pickle->size});
    zip_put(&zip, &(zip_member){.name = "a/data/0", .data = "abcdefghabcdefghabcdefgh", .size = 24});
    return zip_end(&zip, false);
}

bytes pth_small(const pth_options *options)
{
    static const float weight[6] = {0, 1, 2, 3, 4, 5}, bias[5] = {-1, 10, 11, 12, -1};
    static const int64_t tracked = 7;
    const pth_tensor tensors[3] = {
        {.name = "a.weight",
         .type = "FloatStorage",
         .key = "0",
         .data = weight,
         .bytes = sizeof weight,
         .numbers = 6,
         .ndim = 2,
         .size = {2, 3},
         .stride = {3, 1},
         .location = "cuda:1",
         .parameter = true},
        {.name = "a.bias",
         .type = "FloatStorage",
         .key = "1",
         .data = bias,
         .bytes = sizeof bias,
         .numbers = 5,
         .offset = 1,
         .ndim = 1,
         .size = {3},
         .stride = {1}},
        {.name = "n.num_batches_tracked",
         .type = "LongStorage",
         .key = "2",
         .data = &tracked,
         .bytes = 8,
         .numbers = 1},
    };
    return pth_checkpoint(tensors, 3, options);
}
