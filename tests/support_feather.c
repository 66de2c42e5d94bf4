/* SPDX-License-Identifier: Apache-2.0 */
#include "support_feather.h"

#include <stdlib.h>
#include <string.h>

typedef struct bytes {
    uint8_t *data;
    size_t size;
} bytes;

static size_t put(bytes *b, const void *data, size_t size)
{
    uint8_t *grown = realloc(b->data, b->size + size + 1);
    if (!grown) abort();
    b->data = grown;
    if (size > 0) memcpy(grown + b->size, data, size);
    b->size += size;
    return b->size - size;
}

static void align(bytes *b, size_t to)
{
    while (b->size % to) put(b, "", 1);
}

static void set(bytes *b, size_t at, uint64_t value, int size)
{
    for (int i = 0; i < size; i++) b->data[at + (size_t)i] = (uint8_t)(value >> (8 * i));
}

static size_t put_number(bytes *b, uint64_t value, int size)
{
    const size_t at = put(b, "\0\0\0\0\0\0\0\0", (size_t)size);
    set(b, at, value, size);
    return at;
}

/* A table: a size (0: left out) for each field; their places come back. */
static size_t put_table(bytes *b, const int *sizes, int count, size_t *fields)
{
    align(b, 8);
    size_t offset = 8, list = b->size;
    put_number(b, 4 + 2 * (uint64_t)count, 2);
    const size_t length = put_number(b, 0, 2);
    for (int i = 0; i < count; i++) {
        put_number(b, sizes[i] ? offset : 0, 2);
        fields[i] = offset;
        offset += sizes[i] ? 8 : 0;
    }
    set(b, length, offset, 2);
    align(b, 8);
    const size_t table = put_number(b, b->size - list, 4);
    put_number(b, 0, 4);
    for (int i = 0; i < count; i++) {
        if (sizes[i]) put_number(b, 0, 8);
        fields[i] += table;
    }
    return table;
}

/* What lies at the end of 'b' is what the field refers to. */
static void refer(bytes *b, size_t field)
{
    set(b, field, b->size - field, 4);
}

static size_t put_list(bytes *b, size_t field, size_t count, size_t size)
{
    align(b, 8);
    put_number(b, 0, 4); /* so that the elements are aligned to 8 */
    refer(b, field);
    put_number(b, count, 4);
    const size_t at = b->size;
    for (size_t i = 0; i < count * size; i++) put(b, "", 1);
    return at;
}

/* The table that is written next begins behind its list of places. */
static size_t put_child(bytes *b, size_t field, const int *sizes, int count, size_t *fields)
{
    const size_t table = put_table(b, sizes, count, fields);
    set(b, field, table - field, 4);
    return table;
}

static void put_column(bytes *b, const feather_column *c)
{
    size_t f[6], t[2];
    const int sizes[6] = {4, 1, 1, 4, 0, 4};
    put_table(b, sizes, 6, f);
    set(b, f[2], c->kind == 't' ? 5 : c->kind == 'f' ? 3 : c->kind == 'd' ? 7 : 2, 1);
    align(b, 4);
    refer(b, f[0]);
    put_number(b, strlen(c->name), 4);
    put(b, c->name, strlen(c->name) + 1);
    put_child(b, f[3], c->kind == 'f' ? (const int[]){2} : (const int[]){4, 1}, c->kind == 'f' ? 1 : 2, t);
    if (c->kind == 'f') set(b, t[0], c->bytes == 2 ? 0 : c->bytes == 4 ? 1 : 2, 2);
    if (c->kind == 'i' || c->kind == 'u') {
        set(b, t[0], 8 * (uint64_t)c->bytes, 4);
        set(b, t[1], c->kind == 'i', 1);
    }
    put_list(b, f[5], 0, 4);
}

uint8_t *lz4_frame_make(const uint8_t *data, size_t size, size_t *out_size)
{
    bytes b = {0}, block = {0};
    put_number(&b, 0x184d2204, 4);
    put(&b, "\x60\x40\x82", 3); /* version 1, blocks of their own; 64 kB; a checksum that nobody compares */
    size_t from = 0;
    while (from < size) {
        /* literals up to a run of at least 20 equal bytes, whose first is a literal, too */
        size_t run = from;
        while (run < size) {
            size_t end = run + 1;
            while (end < size && data[end] == data[run]) end++;
            if (end - run >= 20 && end + 8 < size) break;
            run = end;
        }
        const size_t literals = run < size ? run + 1 - from : size - from;
        size_t match = 0;
        if (run < size)
            while (run + 1 + match < size - 8 && data[run + 1 + match] == data[run]) match++;
        put_number(&block,
                   (literals < 15 ? literals : 15) << 4 | (match == 0       ? 0
                                                           : match - 4 < 15 ? match - 4
                                                                            : 15),
                   1);
        if (literals >= 15) {
            size_t rest = literals - 15;
            for (; rest >= 255; rest -= 255) put_number(&block, 255, 1);
            put_number(&block, rest, 1);
        }
        put(&block, data + from, literals);
        from += literals + match;
        if (match == 0) break;
        put_number(&block, 1, 2); /* one byte back */
        if (match - 4 >= 15) {
            size_t rest = match - 4 - 15;
            for (; rest >= 255; rest -= 255) put_number(&block, 255, 1);
            put_number(&block, rest, 1);
        }
    }
    if (block.size > 0) {
        put_number(&b, block.size, 4);
        put(&b, block.data, block.size);
    }
    put_number(&b, 0, 4);
    free(block.data);
    *out_size = b.size;
    return b.data;
}

/* A buffer of the body, and its place in the batch's list. */
static void put_buffer(bytes *body, bytes *message, size_t *entry, const void *data, size_t size, bool packed)
{
    align(body, 8);
    const size_t at = body->size;
    if (packed && size > 0) {
        size_t smaller;
        uint8_t *frame = lz4_frame_make(data, size, &smaller);
        put_number(body, size, 8);
        put(body, frame, smaller);
        free(frame);
    } else {
        put(body, data, size);
    }
    set(message, *entry, at, 8);
    set(message, *entry + 8, body->size - at, 8);
    *entry += 16;
}

static void put_columns(const feather_def *d, int first, int rows, bytes *body, bytes *message, size_t entry)
{
    for (int k = 0; k < d->column_count; k++) {
        const feather_column *c = &d->columns[k];
        put_buffer(body, message, &entry, "", 0, false);
        if (c->kind != 't') {
            put_buffer(body, message, &entry, (const uint8_t *)c->data + (size_t)first * (size_t)c->bytes,
                       (size_t)rows * (size_t)c->bytes, d->packed);
            continue;
        }
        const char *const *texts = (const char *const *)c->data + first;
        bytes offsets = {0}, text = {0};
        put_number(&offsets, 0, 4);
        for (int i = 0; i < rows; i++) {
            put(&text, texts[i], strlen(texts[i]));
            put_number(&offsets, text.size, 4);
        }
        put_buffer(body, message, &entry, offsets.data, offsets.size, d->packed);
        put_buffer(body, message, &entry, text.data, text.size, d->packed);
        free(offsets.data);
        free(text.data);
    }
}

static void put_batch(bytes *file, const feather_def *d, int first, int rows, bytes *blocks)
{
    bytes message = {0}, body = {0};
    size_t f[4], r[4], p[2];
    int buffers = 0;
    put_number(&message, 0, 4);
    const size_t root = put_table(&message, (const int[]){2, 1, 4, 8}, 4, f);
    set(&message, 0, root, 4);
    set(&message, f[0], 4, 2);
    set(&message, f[1], 3, 1);
    put_child(&message, f[2], (const int[]){8, 4, 4, d->packed ? 4 : 0}, 4, r);
    set(&message, r[0], (uint64_t)rows, 8);
    const size_t nodes = put_list(&message, r[1], (size_t)d->column_count, 16);
    for (int k = 0; k < d->column_count; k++) {
        set(&message, nodes + 16 * (size_t)k, (uint64_t)rows, 8);
        set(&message, nodes + 16 * (size_t)k + 8, k == 0 ? (uint64_t)d->null_count : 0, 8);
        buffers += d->columns[k].kind == 't' ? 3 : 2;
    }
    const size_t entry = put_list(&message, r[2], (size_t)buffers, 16);
    put_columns(d, first, rows, &body, &message, entry);
    if (d->packed) {
        put_child(&message, r[3], (const int[]){1, 1}, 2, p);
        set(&message, p[0], (uint64_t)d->codec, 1);
    }
    align(&message, 8);
    align(&body, 8);
    set(&message, f[3], body.size, 8);
    align(file, 8);
    put_number(blocks, file->size, 8);
    put_number(blocks, message.size + 8, 8);
    put_number(blocks, body.size, 8);
    put_number(file, 0xffffffff, 4);
    put_number(file, message.size, 4);
    put(file, message.data, message.size);
    put(file, body.data, body.size);
    free(message.data);
    free(body.data);
}

uint8_t *feather_make(const feather_def *d, size_t *size)
{
    bytes file = {0}, footer = {0}, blocks = {0};
    size_t f[4], s[2];
    const int batches = d->batches ? d->batches : 1, each = (d->rows + batches - 1) / batches;
    put(&file, "ARROW1\0", 8);
    for (int i = 0; i < batches; i++) {
        const int first = i * each < d->rows ? i * each : d->rows;
        put_batch(&file, d, first, d->rows - first < each ? d->rows - first : each, &blocks);
    }
    put_number(&footer, 0, 4);
    const size_t root = put_table(&footer, (const int[]){2, 4, 0, 4}, 4, f);
    set(&footer, 0, root, 4);
    set(&footer, f[0], 4, 2);
    put_child(&footer, f[1], (const int[]){2, 4}, 2, s);
    const size_t list = put_list(&footer, s[1], (size_t)d->column_count, 4);
    for (int k = 0; k < d->column_count; k++) {
        /* the table lies behind its list of places: look where it begins */
        align(&footer, 8);
        const size_t places = footer.size, length = 4 + 2 * 6;
        set(&footer, list + 4 * (size_t)k, (places + length + 7) / 8 * 8 - (list + 4 * (size_t)k), 4);
        put_column(&footer, &d->columns[k]);
    }
    const size_t at = put_list(&footer, f[3], (size_t)batches, 24);
    memcpy(footer.data + at, blocks.data, blocks.size);
    align(&footer, 8);
    put(&file, footer.data, footer.size);
    put_number(&file, footer.size, 4);
    put(&file, "ARROW1", 6);
    free(footer.data);
    free(blocks.data);
    *size = file.size;
    return file.data;
}
