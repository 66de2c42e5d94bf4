/* SPDX-License-Identifier: Apache-2.0
 *
 * A restricted reader of Python pickles: the opcodes that torch.save() writes
 * (protocols 2 to 5) and nothing else. It builds plain data (numbers, text,
 * lists, dictionaries, descriptions of tensors) and cannot call, import or
 * construct anything: a global is looked up in a closed list of names that
 * have a fixed meaning here, every other one is refused by name.
 *
 * Values are indices into one array, so shared and cyclic containers cost
 * nothing and nobody walks them recursively. The work is linear in the number
 * of bytes.
 */
#ifndef SV_PICKLE_H
#define SV_PICKLE_H

#include "weights_file.h"

typedef enum sv_pickle_kind {
    SV_PICKLE_NONE,
    SV_PICKLE_BOOL,
    SV_PICKLE_INT,
    SV_PICKLE_FLOAT,
    SV_PICKLE_TEXT,
    SV_PICKLE_BYTES,
    SV_PICKLE_TUPLE,
    SV_PICKLE_LIST,
    SV_PICKLE_DICT,
    SV_PICKLE_GLOBAL,
    SV_PICKLE_STORAGE,
    SV_PICKLE_TENSOR,
    SV_PICKLE_OTHER, /* harmless, and of no use here: a NumPy scalar, an integer beyond 64 bits */
} sv_pickle_kind;

typedef struct sv_pickle_value {
    uint8_t kind;
    uint8_t what;   /* GLOBAL: which; STORAGE: sv_number */
    uint32_t count; /* items (a dictionary counts keys and values); bytes of TEXT and BYTES */
    uint32_t a, b;  /* containers: first and last cell; STORAGE: key; TENSOR: storage, sizes (tuple) */
    uint32_t d;     /* TENSOR: strides (tuple) */
    union {
        int64_t integer; /* INT, BOOL; STORAGE: numbers; TENSOR: offset of its first number in the storage */
        double number;
        const uint8_t *text; /* TEXT, BYTES: inside the pickle, not terminated */
    };
} sv_pickle_value;

typedef struct sv_pickle_cell {
    uint32_t value, next; /* next: 0 ends the chain */
} sv_pickle_cell;

typedef struct sv_pickle {
    sv_pickle_value *values;
    sv_pickle_cell *cells;
    uint32_t root;
    uint32_t value_count, value_room, cell_count, cell_room;
    size_t used; /* bytes up to its end; what follows was not looked at */
} sv_pickle;

enum { SV_PICKLE_MAX_BYTES = 32 << 20 };

/* 'bytes' must live as long as the result. Also after a failure: sv_pickle_free(). */
sv_status sv_pickle_read(sv_ctx *c, const char *path, const uint8_t *bytes, size_t size, sv_pickle *out);
void sv_pickle_free(sv_pickle *pickle);

static inline const sv_pickle_value *sv_pickle_at(const sv_pickle *p, uint32_t value)
{
    return &p->values[value];
}
/* Walk the items of a container: for (cell = first; cell; cell = next) */
static inline uint32_t sv_pickle_next(const sv_pickle *p, uint32_t cell)
{
    return p->cells[cell].next;
}
static inline const sv_pickle_value *sv_pickle_item(const sv_pickle *p, uint32_t cell)
{
    return &p->values[p->cells[cell].value];
}
/* The value of 'key' in a dictionary (the last one, as in Python), or NULL. */
const sv_pickle_value *sv_pickle_lookup(const sv_pickle *p, const sv_pickle_value *dict, const char *key);
bool sv_pickle_is_text(const sv_pickle_value *value, const char *text);
const char *sv_pickle_kind_name(const sv_pickle_value *value); /* "a dictionary" */

#endif
