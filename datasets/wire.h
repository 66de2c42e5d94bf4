/* SPDX-License-Identifier: Apache-2.0
 *
 * Protocol buffers as bytes: a reader of fields that copies nothing, and a writer. A message is a list of
 * fields, each a tag (number << 3 | type) and a value; values are varints, 4 or 8 fixed bytes, or a length
 * with so many bytes (text, nested messages, packed lists).
 *
 *     sv_wire w = sv_wire_open(message);
 *     sv_field f;
 *     while (sv_wire_next(&w, &f))
 *         switch (f.number) {
 *         case 1: sv_wire_text(&w, &f, name, sizeof name); break;
 *         case 2: sv_wire_double(&w, &f, &x); break;
 *         }
 *     if (w.fault) ...      what is wrong with the field w.number; nothing more is read after a fault
 *
 * Fields that nobody asks for are skipped by their length, so a frame of some megabytes costs as many steps
 * as it has fields. Nothing outside the message is ever read.
 */
#ifndef SV_WIRE_H
#define SV_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct sv_bytes {
    const uint8_t *data;
    size_t size;
} sv_bytes;

typedef enum sv_wire_type {
    SV_WIRE_VARINT = 0,
    SV_WIRE_FIXED64 = 1,
    SV_WIRE_BYTES = 2,
    SV_WIRE_FIXED32 = 5
} sv_wire_type;

typedef struct sv_field {
    int number;
    sv_wire_type type;
    uint64_t value; /* of a varint, or the bits of a fixed one */
    sv_bytes bytes;
} sv_field;

typedef struct sv_wire {
    const uint8_t *at, *end;
    const char *fault; /* NULL: none so far */
    int number;        /* of the last field */
} sv_wire;

sv_wire sv_wire_open(sv_bytes message);
/* False at the end, and at a fault. */
bool sv_wire_next(sv_wire *w, sv_field *out);
/* A varint at *at, which moves behind it; false when it is longer than ten bytes or than what is there. */
bool sv_varint(const uint8_t **at, const uint8_t *end, uint64_t *out);

/* The value of a field as what it should be; another wire type is a fault. */
void sv_wire_double(sv_wire *w, const sv_field *f, double *out);
void sv_wire_float(sv_wire *w, const sv_field *f, float *out);
void sv_wire_int(sv_wire *w, const sv_field *f, int64_t *out);
/* Also a fault: a value outside low..high. */
void sv_wire_int_within(sv_wire *w, const sv_field *f, int64_t low, int64_t high, int *out);
void sv_wire_bytes(sv_wire *w, const sv_field *f, sv_bytes *out);
/* Ends with a zero byte. Also a fault: text that has no room, and zero bytes in it. */
void sv_wire_text(sv_wire *w, const sv_field *f, char *out, size_t room);
/* Repeated doubles, packed or not, appended to out[*count]; more than 'room' is a fault. */
void sv_wire_doubles(sv_wire *w, const sv_field *f, double *out, int room, int *count);

/* ---- writing ---- */

/* Bytes that grow; a failed allocation is remembered, and everything after it ignored. */
typedef struct sv_wire_out {
    uint8_t *data; /* malloc'ed */
    size_t size, room;
    bool failed;
} sv_wire_out;

void sv_wire_free(sv_wire_out *o); /* may be called twice */
void sv_wire_put_varint(sv_wire_out *o, uint64_t value);
void sv_wire_put_int(sv_wire_out *o, int number, int64_t value);
void sv_wire_put_double(sv_wire_out *o, int number, double value);
void sv_wire_put_float(sv_wire_out *o, int number, float value);
void sv_wire_put_bytes(sv_wire_out *o, int number, const void *bytes, size_t size);

#endif
