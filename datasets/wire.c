/* SPDX-License-Identifier: Apache-2.0 */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

static bool fault(sv_wire *w, const char *what)
{
    if (!w->fault) w->fault = what;
    return false;
}

sv_wire sv_wire_open(sv_bytes message)
{
    static const uint8_t nothing;
    const uint8_t *data = message.data ? message.data : &nothing;
    return (sv_wire){.at = data, .end = data + message.size};
}

bool sv_varint(const uint8_t **at, const uint8_t *end, uint64_t *out)
{
    uint64_t value = 0;
    const uint8_t *p = *at;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (p == end) return false;
        value |= (uint64_t)(*p & 0x7f) << (shift < 64 ? shift : 0);
        if (*p++ & 0x80) continue;
        *at = p;
        *out = value;
        return true;
    }
    return false;
}

static uint64_t little(const uint8_t *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)p[i] << (8 * i);
    return value;
}

bool sv_wire_next(sv_wire *w, sv_field *out)
{
    uint64_t tag, length;
    if (w->fault || w->at == w->end) return false;
    if (!sv_varint(&w->at, w->end, &tag)) return fault(w, "its tag has no end");
    const uint64_t number = tag >> 3;
    w->number = number <= 0x1fffffff ? (int)number : 0;
    if (w->number == 0) return fault(w, "its number is none that a field can have");
    *out = (sv_field){.number = w->number, .type = (sv_wire_type)(tag & 7)};
    const size_t left = (size_t)(w->end - w->at);
    switch (tag & 7) {
    case SV_WIRE_VARINT:
        if (!sv_varint(&w->at, w->end, &out->value)) return fault(w, "its number has no end");
        return true;
    case SV_WIRE_FIXED64:
        if (left < 8) return fault(w, "its 8 bytes reach beyond the message");
        out->value = little(w->at, 8);
        w->at += 8;
        return true;
    case SV_WIRE_FIXED32:
        if (left < 4) return fault(w, "its 4 bytes reach beyond the message");
        out->value = little(w->at, 4);
        w->at += 4;
        return true;
    case SV_WIRE_BYTES:
        if (!sv_varint(&w->at, w->end, &length)) return fault(w, "its length has no end");
        if (length > (uint64_t)(w->end - w->at))
            return fault(w, "its length reaches beyond the message it is in");
        out->bytes = (sv_bytes){w->at, (size_t)length};
        w->at += length;
        return true;
    default:
        return fault(w, "its type is none that is in use");
    }
}

static bool has_type(sv_wire *w, const sv_field *f, sv_wire_type type)
{
    return f->type == type || fault(w, "its type is not that of this field");
}

void sv_wire_double(sv_wire *w, const sv_field *f, double *out)
{
    if (has_type(w, f, SV_WIRE_FIXED64)) memcpy(out, &f->value, sizeof *out);
}

void sv_wire_float(sv_wire *w, const sv_field *f, float *out)
{
    const uint32_t bits = (uint32_t)f->value;
    if (has_type(w, f, SV_WIRE_FIXED32)) memcpy(out, &bits, sizeof *out);
}

void sv_wire_int(sv_wire *w, const sv_field *f, int64_t *out)
{
    if (has_type(w, f, SV_WIRE_VARINT)) *out = (int64_t)f->value;
}

void sv_wire_int_within(sv_wire *w, const sv_field *f, int64_t low, int64_t high, int *out)
{
    int64_t value = low;
    sv_wire_int(w, f, &value);
    if (value < low || value > high)
        fault(w, "its value is outside what is possible");
    else
        *out = (int)value;
}

void sv_wire_bytes(sv_wire *w, const sv_field *f, sv_bytes *out)
{
    if (has_type(w, f, SV_WIRE_BYTES)) *out = f->bytes;
}

void sv_wire_text(sv_wire *w, const sv_field *f, char *out, size_t room)
{
    if (!has_type(w, f, SV_WIRE_BYTES)) return;
    if (f->bytes.size >= room) {
        fault(w, "its text is longer than any such text is");
    } else if (memchr(f->bytes.data, '\0', f->bytes.size)) {
        fault(w, "its text has a zero byte");
    } else {
        memcpy(out, f->bytes.data, f->bytes.size);
        out[f->bytes.size] = '\0';
    }
}

void sv_wire_doubles(sv_wire *w, const sv_field *f, double *out, int room, int *count)
{
    if (f->type == SV_WIRE_FIXED64) {
        if (*count >= room)
            fault(w, "it has more numbers than it should");
        else
            sv_wire_double(w, f, &out[(*count)++]);
        return;
    }
    if (!has_type(w, f, SV_WIRE_BYTES)) return;
    if (f->bytes.size % 8 != 0 || f->bytes.size / 8 > (size_t)(room - *count)) {
        fault(w, "it has more numbers than it should, or a part of one");
        return;
    }
    for (size_t i = 0; i < f->bytes.size; i += 8) {
        const uint64_t bits = little(f->bytes.data + i, 8);
        memcpy(&out[(*count)++], &bits, sizeof *out);
    }
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static uint8_t *grow(sv_wire_out *o, size_t more)
{
    if (!o->failed && more > o->room - o->size) {
        const size_t room = 2 * (o->size + more) + 64;
        uint8_t *grown = realloc(o->data, room);
        o->failed = grown == NULL;
        if (grown) {
            o->data = grown;
            o->room = room;
        }
    }
    if (o->failed) return NULL;
    o->size += more;
    return o->data + o->size - more;
}

void sv_wire_free(sv_wire_out *o)
{
    free(o->data);
    *o = (sv_wire_out){0};
}

void sv_wire_put_varint(sv_wire_out *o, uint64_t value)
{
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value > 0);
    uint8_t *at = grow(o, n);
    if (at) memcpy(at, bytes, n);
}

static void put_tag(sv_wire_out *o, int number, sv_wire_type type)
{
    sv_wire_put_varint(o, (uint64_t)number << 3 | (uint64_t)type);
}

static void put_little(sv_wire_out *o, uint64_t bits, size_t bytes)
{
    uint8_t *at = grow(o, bytes);
    for (size_t i = 0; at && i < bytes; i++) at[i] = (uint8_t)(bits >> (8 * i));
}

void sv_wire_put_int(sv_wire_out *o, int number, int64_t value)
{
    put_tag(o, number, SV_WIRE_VARINT);
    sv_wire_put_varint(o, (uint64_t)value);
}

void sv_wire_put_double(sv_wire_out *o, int number, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_tag(o, number, SV_WIRE_FIXED64);
    put_little(o, bits, 8);
}

void sv_wire_put_float(sv_wire_out *o, int number, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_tag(o, number, SV_WIRE_FIXED32);
    put_little(o, bits, 4);
}

void sv_wire_put_bytes(sv_wire_out *o, int number, const void *bytes, size_t size)
{
    put_tag(o, number, SV_WIRE_BYTES);
    sv_wire_put_varint(o, size);
    uint8_t *at = grow(o, size);
    if (at && size > 0) memcpy(at, bytes, size);
}
