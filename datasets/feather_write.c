/* SPDX-License-Identifier: Apache-2.0
 *
 * Flatbuffers front to back: a table follows its list of places (vtable), every field has eight bytes of its
 * own, and what a field refers to lies behind it. A larger one than other writers make, and as valid.
 */
#include "feather_write.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH_ROWS = 1 << 16, MESSAGE_SCHEMA = 1, MESSAGE_BATCH = 3, VERSION_5 = 4 };

/* Bytes that grow. After a failed allocation nothing more is added. */
typedef struct sv_feather_part {
    uint8_t *data; /* malloc'ed */
    size_t size, room;
    bool failed;
} part;

static size_t put(part *p, const void *data, size_t size)
{
    if (p->size + size > p->room) {
        const size_t room = 2 * (p->size + size) + 256;
        uint8_t *grown = p->failed ? NULL : realloc(p->data, room);
        if (!grown) {
            p->failed = true;
            return 0;
        }
        p->data = grown;
        p->room = room;
    }
    memcpy(p->data + p->size, data, size);
    p->size += size;
    return p->size - size;
}

static void set(part *p, size_t at, uint64_t value, int size)
{
    for (int i = 0; i < size && !p->failed; i++) p->data[at + (size_t)i] = (uint8_t)(value >> (8 * i));
}

static size_t put_number(part *p, uint64_t value, int size)
{
    const size_t at = put(p, "\0\0\0\0\0\0\0", (size_t)size);
    set(p, at, value, size);
    return at;
}

static void align(part *p)
{
    while (p->size % 8 && !p->failed) put(p, "", 1);
}

/* ---- flatbuffers -------------------------------------------------------------------------------------- */

enum { MOST_FIELDS = 6 };

/* A table; 'wanted' has a bit for each field that is there. Its fields' places come back. */
static size_t put_table(part *p, unsigned wanted, int count, size_t fields[MOST_FIELDS])
{
    align(p);
    const size_t places = p->size;
    uint64_t offset = 8;
    put_number(p, 4 + 2 * (uint64_t)count, 2);
    const size_t length = put_number(p, 0, 2);
    for (int i = 0; i < count; i++) {
        const bool there = wanted >> i & 1;
        put_number(p, there ? offset : 0, 2);
        fields[i] = (size_t)offset;
        offset += there ? 8 : 0;
    }
    set(p, length, offset, 2);
    align(p);
    const size_t table = put_number(p, p->size - places, 4);
    put_number(p, 0, 4);
    for (int i = 0; i < count; i++) {
        if (wanted >> i & 1) put_number(p, 0, 8);
        fields[i] += table;
    }
    return table;
}

/* The field refers to what stands at 'target'. */
static void refer(part *p, size_t field, size_t target)
{
    set(p, field, target - field, 4);
}

static size_t put_child(part *p, size_t field, unsigned wanted, int count, size_t fields[MOST_FIELDS])
{
    const size_t table = put_table(p, wanted, count, fields);
    refer(p, field, table);
    return table;
}

/* A list of zeros, whose elements begin at a multiple of eight. */
static size_t put_list(part *p, size_t field, size_t count, size_t size)
{
    align(p);
    put_number(p, 0, 4);
    refer(p, field, p->size);
    put_number(p, count, 4);
    const size_t at = p->size;
    for (size_t i = 0; i < count * size; i++) put(p, "", 1);
    return at;
}

static void put_text(part *p, size_t field, const char *text)
{
    align(p);
    refer(p, field, p->size);
    put_number(p, strlen(text), 4);
    put(p, text, strlen(text) + 1);
}

/* ---- messages ----------------------------------------------------------------------------------------- */

/* Schema: endianness (little, the default), fields. Field: name, nullable, type_type, type, dictionary,
 * children. */
static void put_schema(part *p, size_t field, const sv_feather_writer *w)
{
    size_t s[MOST_FIELDS], f[MOST_FIELDS], t[MOST_FIELDS];
    put_child(p, field, 2, 2, s);
    const size_t list = put_list(p, s[1], (size_t)w->field_count, 4);
    for (int k = 0; k < w->field_count; k++) {
        const sv_feather_kind kind = w->fields[k].kind;
        put_child(p, list + 4 * (size_t)k, 1 | 2 | 4 | 8 | 32, 6, f);
        put_text(p, f[0], w->fields[k].name);
        set(p, f[1], 1, 1);
        set(p, f[2], kind == SV_FEATHER_INTEGER ? 2 : kind == SV_FEATHER_FLOAT ? 3 : 5, 1);
        put_child(p, f[3],
                  kind == SV_FEATHER_INTEGER ? 3
                  : kind == SV_FEATHER_FLOAT ? 1
                                             : 0,
                  kind == SV_FEATHER_INTEGER ? 2
                  : kind == SV_FEATHER_FLOAT ? 1
                                             : 0,
                  t);
        if (kind == SV_FEATHER_INTEGER) set(p, t[0], 64, 4), set(p, t[1], 1, 1); /* signed */
        if (kind == SV_FEATHER_FLOAT) set(p, t[0], 2, 2);                        /* double */
        put_list(p, f[5], 0, 4);
    }
}

/* Message: version, header_type, header, bodyLength. Returns the header's field, and where the length stands.
 */
static size_t put_message(part *p, int kind, size_t *body)
{
    size_t f[MOST_FIELDS];
    put_number(p, 0, 4);
    set(p, 0, put_table(p, 15, 4, f), 4);
    set(p, f[0], VERSION_5, 2);
    set(p, f[1], (uint64_t)kind, 1);
    *body = f[3];
    return f[2];
}

/* A message with its body, to the file. Returns the length of its head. */
static size_t write_message(sv_feather_writer *w, part *message, const part *body)
{
    part head = {0};
    align(message);
    put_number(&head, 0xffffffff, 4);
    put_number(&head, message->size, 4);
    const size_t size = head.size + message->size;
    if (!head.failed && !message->failed) {
        fwrite(head.data, 1, head.size, w->file.stream);
        fwrite(message->data, 1, message->size, w->file.stream);
        if (body) fwrite(body->data, 1, body->size, w->file.stream);
        w->written += size + (body ? body->size : 0);
    }
    message->failed |= head.failed;
    free(head.data);
    return size;
}

static bool write_schema(sv_feather_writer *w)
{
    part message = {0};
    size_t body;
    const size_t header = put_message(&message, MESSAGE_SCHEMA, &body);
    put_schema(&message, header, w);
    write_message(w, &message, NULL);
    free(message.data);
    return !message.failed;
}

/* Parts of a column: values, or offsets and texts. */
static int parts_of(const sv_feather_field *field)
{
    return field->kind == SV_FEATHER_TEXT ? 2 : 1;
}

/* RecordBatch: length, nodes (rows, nulls), buffers (place, length): of each column which values there are
 * (all: empty), then its parts. */
static bool write_batch(sv_feather_writer *w)
{
    part message = {0}, body = {0};
    size_t length, r[MOST_FIELDS];
    int buffers = 0, at = 0;
    for (int k = 0; k < w->field_count; k++) buffers += 1 + parts_of(&w->fields[k]);
    put_child(&message, put_message(&message, MESSAGE_BATCH, &length), 7, 3, r);
    set(&message, r[0], (uint64_t)w->rows, 8);
    const size_t nodes = put_list(&message, r[1], (size_t)w->field_count, 16);
    size_t entry = put_list(&message, r[2], (size_t)buffers, 16);
    bool failed = false;
    for (int k = 0; k < w->field_count; k++, entry += 16) {
        set(&message, nodes + 16 * (size_t)k, (uint64_t)w->rows, 8);
        set(&message, entry, body.size, 8);
        for (int i = 0; i < parts_of(&w->fields[k]); i++) {
            part *from = &w->parts[at++];
            entry += 16;
            failed |= from->failed;
            set(&message, entry, body.size, 8);
            set(&message, entry + 8, from->size, 8);
            if (from->size > 0) put(&body, from->data, from->size);
            align(&body);
            from->size = 0;
        }
    }
    set(&message, length, body.size, 8);
    const uint64_t begins = w->written;
    const size_t head = write_message(w, &message, &body);
    put_number(w->blocks, begins, 8);
    put_number(w->blocks, head, 8);
    put_number(w->blocks, body.size, 8);
    w->block_count++;
    w->rows = 0;
    free(message.data);
    free(body.data);
    return !failed && !message.failed && !body.failed && !w->blocks->failed;
}

/* Footer: version, schema, dictionaries, recordBatches. */
static bool write_footer(sv_feather_writer *w)
{
    part p = {0};
    size_t f[MOST_FIELDS];
    put_number(&p, 0, 4);
    set(&p, 0, put_table(&p, 1 | 2 | 8, 4, f), 4);
    set(&p, f[0], VERSION_5, 2);
    put_schema(&p, f[1], w);
    const size_t list = put_list(&p, f[3], (size_t)w->block_count, 24);
    if (!p.failed && w->block_count > 0) memcpy(p.data + list, w->blocks->data, w->blocks->size);
    align(&p);
    const size_t size = p.size;
    put_number(&p, size, 4);
    put(&p, "ARROW1", 6);
    if (!p.failed) {
        fwrite("\xff\xff\xff\xff\0\0\0\0", 1, 8, w->file.stream); /* no more messages */
        fwrite(p.data, 1, p.size, w->file.stream);
    }
    free(p.data);
    return !p.failed;
}

/* ---- the file ----------------------------------------------------------------------------------------- */

sv_status sv_feather_writer_open(sv_ctx *c, const char *path, const sv_feather_field *fields, int count,
                                 sv_feather_writer *out)
{
    *out = (sv_feather_writer){.fields = fields, .field_count = count};
    out->parts = calloc(2 * (size_t)count + 1, sizeof *out->parts);
    out->blocks = calloc(1, sizeof *out->blocks);
    sv_status status = out->parts && out->blocks
                           ? sv_output_open(c, &out->file, path)
                           : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to write it", path);
    if (status == SV_OK) {
        out->written = fwrite("ARROW1\0", 1, 8, out->file.stream);
        if (!write_schema(out)) status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to write it", path);
    }
    if (status != SV_OK) sv_feather_writer_discard(out);
    return status;
}

sv_status sv_feather_writer_add(sv_ctx *c, sv_feather_writer *w, const sv_feather_value *row)
{
    int at = 0;
    for (int k = 0; k < w->field_count; k++) {
        part *to = &w->parts[at];
        at += parts_of(&w->fields[k]);
        if (w->fields[k].kind == SV_FEATHER_TEXT) {
            if (w->rows == 0) put_number(to, 0, 4);
            put(to + 1, row[k].text, strlen(row[k].text));
            put_number(to, to[1].size, 4);
        } else {
            put(to, &row[k], 8);
        }
    }
    if (++w->rows < BATCH_ROWS) return SV_OK;
    SV_CHECK(c, write_batch(w), SV_NO_MEMORY, "%s: no memory for %d rows", w->file.target, BATCH_ROWS);
    return SV_OK;
}

sv_status sv_feather_writer_close(sv_ctx *c, sv_feather_writer *w)
{
    const bool good = (w->rows == 0 || write_batch(w)) && write_footer(w);
    sv_status status = good ? sv_output_commit(c, &w->file)
                            : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to write it", w->file.target);
    sv_feather_writer_discard(w);
    return status;
}

void sv_feather_writer_discard(sv_feather_writer *w)
{
    int parts = 0;
    for (int k = 0; k < w->field_count; k++) parts += parts_of(&w->fields[k]);
    for (int i = 0; w->parts && i < parts; i++) free(w->parts[i].data);
    if (w->blocks) free(w->blocks->data);
    free(w->parts);
    free(w->blocks);
    sv_output_discard(&w->file);
    *w = (sv_feather_writer){0};
}
