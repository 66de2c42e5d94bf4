/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine: a stack of value numbers with MARKs in it, and a memo (a table
 * of value numbers). Opcodes and arguments follow Python's pickletools module;
 * persistent ids and the arguments of the rebuild functions follow
 * torch/serialization.py and torch/_utils.py:
 *   persistent id       ('storage', <type>Storage, key, location, numbers[, None])
 *   _rebuild_tensor_v2  (storage, offset, size, stride, requires_grad, hooks[, metadata])
 *   _rebuild_parameter  (tensor, requires_grad, hooks)      ..._with_state: one more
 */
#include "pickle.h"

#include <stdlib.h>
#include <string.h>

/* A large checkpoint with its optimizer has some 10^5 values and keeps fewer than 3000 on the stack. */
enum { MAX_VALUES = 1 << 22, MAX_STACK = 1 << 20, MAX_MEMO = 1 << 22, MAX_GLOBAL = 256, MAX_SIZES = 64 };

typedef enum global {
    NOT_KNOWN,
    ORDERED_DICT,
    REBUILD_TENSOR,
    REBUILD_PARAMETER,
    REBUILD_PARAMETER_WITH_STATE,
    INERT, /* its result is SV_PICKLE_OTHER */
    STORAGE,
} global;

static const struct known {
    const char *module, *name;
    global what;
    sv_number number;
} known[] = {
    {"collections", "OrderedDict", ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", REBUILD_PARAMETER_WITH_STATE, 0},
    {"torch", "FloatStorage", STORAGE, SV_NUMBER_F32},
    {"torch", "DoubleStorage", STORAGE, SV_NUMBER_F64},
    {"torch", "HalfStorage", STORAGE, SV_NUMBER_F16},
    {"torch", "BFloat16Storage", STORAGE, SV_NUMBER_BF16},
    {"torch", "LongStorage", STORAGE, SV_NUMBER_I64},
    {"torch", "IntStorage", STORAGE, SV_NUMBER_I32},
    {"torch", "ShortStorage", STORAGE, SV_NUMBER_I16},
    {"torch", "CharStorage", STORAGE, SV_NUMBER_I8},
    {"torch", "ByteStorage", STORAGE, SV_NUMBER_U8},
    {"torch", "BoolStorage", STORAGE, SV_NUMBER_U8},
    /* Learning rates in the optimizer's state of OpenPCDet are NumPy scalars: accepted, and nothing is made
       of them. */
    {"numpy.core.multiarray", "scalar", INERT, 0},
    {"numpy._core.multiarray", "scalar", INERT, 0},
    {"numpy", "dtype", INERT, 0},
    {"_codecs", "encode", INERT, 0},
};

typedef struct machine {
    sv_ctx *c;
    const char *path;
    const uint8_t *bytes;
    size_t size, at;
    sv_pickle *out;
    uint32_t *stack, *memo;
    uint32_t depth, stack_room, memo_room, memo_next;
    uint32_t mark; /* the value number that stands for every MARK */
} machine;

/* ---- room ---------------------------------------------------------------------------------------------- */

static sv_status make_room(machine *m, void **array, uint32_t *room, uint64_t need, uint32_t limit,
                           size_t item, const char *what)
{
    if (need <= *room) return SV_OK;
    SV_CHECK(m->c, need <= limit, SV_BAD_INPUT, "%s: its pickle has more than %u %s; no checkpoint has",
             m->path, limit, what);
    uint64_t want = *room < 256 ? 256 : (uint64_t)*room * 2;
    while (want < need) want *= 2;
    if (want > limit) want = limit;
    void *grown = realloc(*array, (size_t)want * item);
    SV_CHECK(m->c, grown, SV_NO_MEMORY, "%s: no memory for the %s of its pickle", m->path, what);
    *array = grown;
    *room = (uint32_t)want;
    return SV_OK;
}

static sv_status new_value(machine *m, sv_pickle_value value, uint32_t *number)
{
    sv_pickle *p = m->out;
    void *values = p->values;
    const sv_status status = make_room(m, &values, &p->value_room, (uint64_t)p->value_count + 1, MAX_VALUES,
                                       sizeof value, "values");
    p->values = values;
    SV_TRY(status);
    *number = p->value_count++;
    p->values[*number] = value;
    return SV_OK;
}

static sv_status push_number(machine *m, uint32_t number)
{
    void *stack = m->stack;
    const sv_status status = make_room(m, &stack, &m->stack_room, (uint64_t)m->depth + 1, MAX_STACK,
                                       sizeof *m->stack, "values on its stack");
    m->stack = stack;
    SV_TRY(status);
    m->stack[m->depth++] = number;
    return SV_OK;
}

static sv_status push(machine *m, sv_pickle_value value)
{
    uint32_t number = 0;
    SV_TRY(new_value(m, value, &number));
    return push_number(m, number);
}

static sv_status append(machine *m, uint32_t container, uint32_t value)
{
    sv_pickle *p = m->out;
    void *cells = p->cells;
    const sv_status status = make_room(m, &cells, &p->cell_room, (uint64_t)p->cell_count + 2, MAX_VALUES,
                                       sizeof *p->cells, "items in containers");
    p->cells = cells;
    SV_TRY(status);
    if (p->cell_count == 0) p->cell_count = 1; /* cell 0 ends chains */
    const uint32_t cell = p->cell_count++;
    p->cells[cell] = (sv_pickle_cell){.value = value};
    sv_pickle_value *to = &p->values[container];
    if (to->count == 0)
        to->a = cell;
    else
        p->cells[to->b].next = cell;
    to->b = cell;
    to->count++;
    return SV_OK;
}

/* ---- the stack ----------------------------------------------------------------------------------------- */

static sv_status damaged(machine *m, const char *why)
{
    return SV_FAIL(m->c, SV_BAD_INPUT, "%s: its pickle is damaged at byte %zu: %s", m->path, m->at, why);
}

static sv_status pop(machine *m, uint32_t *number)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == m->mark)
        return damaged(m, "a value is missing on its stack");
    *number = m->stack[--m->depth];
    return SV_OK;
}

/* The container that items are added to: below 'items' values. */
static sv_status container_below(machine *m, uint32_t first, sv_pickle_kind kind, uint32_t *number)
{
    if (first == 0 || m->stack[first - 1] == m->mark)
        return damaged(m, "there is no container to add items to");
    *number = m->stack[first - 1];
    return m->out->values[*number].kind == kind
               ? SV_OK
               : damaged(m, "items are added to something else than a container");
}

/* The number of values below the newest MARK. */
static sv_status find_mark(machine *m, uint32_t *below)
{
    uint32_t at = m->depth;
    while (at > 0 && m->stack[at - 1] != m->mark) at--;
    if (at == 0) return damaged(m, "a MARK is missing");
    *below = at - 1;
    return SV_OK;
}

static sv_status remember(machine *m, uint64_t slot)
{
    if (m->depth == 0 || m->stack[m->depth - 1] == m->mark) return damaged(m, "there is nothing to memorise");
    void *memo = m->memo;
    const uint32_t before = m->memo_room;
    const sv_status status =
        make_room(m, &memo, &m->memo_room, slot + 1, MAX_MEMO, sizeof *m->memo, "memo entries");
    m->memo = memo;
    SV_TRY(status);
    for (uint32_t i = before; i < m->memo_room; i++)
        m->memo[i] = m->mark; /* the MARK's number: nothing is there */
    m->memo[slot] = m->stack[m->depth - 1];
    if (slot >= m->memo_next) m->memo_next = (uint32_t)slot + 1;
    return SV_OK;
}

static sv_status recall(machine *m, uint64_t slot)
{
    if (slot >= m->memo_room || m->memo[slot] == m->mark)
        return damaged(m, "it refers to a memo entry that was never made");
    return push_number(m, m->memo[slot]);
}

/* ---- arguments of opcodes ------------------------------------------------------------------------------ */

static sv_status take(machine *m, uint64_t count, const uint8_t **p)
{
    if (count > m->size - m->at)
        return damaged(m, "it ends in the middle of a value (was the file cut off?)");
    *p = m->bytes + m->at;
    m->at += (size_t)count;
    return SV_OK;
}

static sv_status take_text(machine *m, int length_bytes, sv_pickle_kind kind)
{
    const uint8_t *p = NULL;
    SV_TRY(take(m, (uint64_t)length_bytes, &p));
    const uint64_t length = length_bytes == 1 ? p[0] : length_bytes == 4 ? sv_le32(p) : sv_le64(p);
    SV_TRY(take(m, length, &p));
    return push(m, (sv_pickle_value){.kind = (uint8_t)kind, .count = (uint32_t)length, .text = p});
}

static sv_status take_line(machine *m, const uint8_t **text, size_t *length)
{
    const uint8_t *from = m->bytes + m->at;
    const size_t left = m->size - m->at;
    const uint8_t *end = left > 0 ? memchr(from, '\n', left < MAX_GLOBAL ? left : MAX_GLOBAL) : NULL;
    if (!end) return damaged(m, "the name of a global does not end");
    *text = from;
    *length = (size_t)(end - from);
    m->at += *length + 1;
    return SV_OK;
}

/* Little-endian two's complement of 'length' bytes. */
static sv_status push_long(machine *m, uint64_t length)
{
    const uint8_t *p = NULL;
    SV_TRY(take(m, length, &p));
    if (length > 8) return push(m, (sv_pickle_value){.kind = SV_PICKLE_OTHER});
    uint64_t value = length > 0 && p[length - 1] & 0x80 ? UINT64_MAX : 0;
    for (uint64_t i = length; i-- > 0;) value = value << 8 | p[i];
    return push(m, (sv_pickle_value){.kind = SV_PICKLE_INT, .integer = (int64_t)value});
}

static sv_status push_float(machine *m)
{
    const uint8_t *p = NULL;
    SV_TRY(take(m, 8, &p));
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    sv_pickle_value value = {.kind = SV_PICKLE_FLOAT};
    memcpy(&value.number, &bits, sizeof bits);
    return push(m, value);
}

/* ---- globals and what they stand for ------------------------------------------------------------------- */

static bool equals(const uint8_t *text, size_t length, const char *wanted)
{
    return strlen(wanted) == length && memcmp(text, wanted, length) == 0;
}

static sv_status push_global(machine *m, const uint8_t *module, size_t module_length, const uint8_t *name,
                             size_t name_length)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!equals(module, module_length, known[i].module) || !equals(name, name_length, known[i].name))
            continue;
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_GLOBAL, .what = (uint8_t)i});
    }
    char shown[2][SV_SHOWN];
    return SV_FAIL(m->c, SV_BAD_INPUT,
                   "%s: its pickle asks for '%s.%s', which has no place among weights; the file is refused "
                   "and nothing was "
                   "executed",
                   m->path, sv_shown(shown[0], module, module_length), sv_shown(shown[1], name, name_length));
}

static sv_status stack_global(machine *m)
{
    uint32_t name = 0, module = 0;
    SV_TRY(pop(m, &name));
    SV_TRY(pop(m, &module));
    const sv_pickle_value *n = &m->out->values[name], *from = &m->out->values[module];
    if (n->kind != SV_PICKLE_TEXT || from->kind != SV_PICKLE_TEXT)
        return damaged(m, "the name of a global is not text");
    return push_global(m, from->text, from->count, n->text, n->count);
}

/* The first 'count' items of a tuple. */
static void items_of(const machine *m, const sv_pickle_value *tuple, uint32_t count, uint32_t *items)
{
    uint32_t cell = tuple->a;
    for (uint32_t i = 0; i < count; i++, cell = sv_pickle_next(m->out, cell))
        items[i] = m->out->cells[cell].value;
}

static sv_status push_storage(machine *m)
{
    uint32_t id = 0, items[6];
    SV_TRY(pop(m, &id));
    const sv_pickle_value *v = m->out->values;
    const uint32_t count = v[id].count;
    if (v[id].kind != SV_PICKLE_TUPLE || count < 5 || count > 6)
        return damaged(m, "a storage is not described by five or six values");
    items_of(m, &v[id], count, items);
    if (count == 6 && v[items[5]].kind != SV_PICKLE_NONE)
        return damaged(m, "a storage is a view of another one, as PyTorch before 0.4 saved them");
    const bool fits = sv_pickle_is_text(&v[items[0]], "storage") && v[items[1]].kind == SV_PICKLE_GLOBAL &&
                      known[v[items[1]].what].what == STORAGE && v[items[2]].kind == SV_PICKLE_TEXT &&
                      v[items[3]].kind == SV_PICKLE_TEXT && v[items[4]].kind == SV_PICKLE_INT &&
                      v[items[4]].integer >= 0;
    if (!fits) return damaged(m, "the description of a storage is not (storage, type, key, location, count)");
    return push(m, (sv_pickle_value){.kind = SV_PICKLE_STORAGE,
                                     .what = (uint8_t)known[v[items[1]].what].number,
                                     .a = items[2],
                                     .integer = v[items[4]].integer});
}

static bool are_sizes(const machine *m, uint32_t tuple)
{
    const sv_pickle_value *v = &m->out->values[tuple];
    if (v->kind != SV_PICKLE_TUPLE || v->count > MAX_SIZES) return false;
    uint32_t cell = v->a;
    for (uint32_t i = 0; i < v->count; i++, cell = sv_pickle_next(m->out, cell)) {
        if (sv_pickle_item(m->out, cell)->kind != SV_PICKLE_INT) return false;
    }
    return true;
}

static sv_status push_tensor(machine *m, const sv_pickle_value *arguments)
{
    uint32_t items[7] = {0};
    const sv_pickle_value *v = m->out->values;
    if (arguments->count != 6 && arguments->count != 7)
        return damaged(m, "a tensor is not described by six or seven values");
    items_of(m, arguments, arguments->count, items);
    const bool fits = v[items[0]].kind == SV_PICKLE_STORAGE && v[items[1]].kind == SV_PICKLE_INT &&
                      are_sizes(m, items[2]) && are_sizes(m, items[3]) &&
                      v[items[2]].count == v[items[3]].count;
    if (!fits) return damaged(m, "the description of a tensor is not (storage, offset, sizes, strides, ...)");
    return push(m, (sv_pickle_value){.kind = SV_PICKLE_TENSOR,
                                     .a = items[0],
                                     .b = items[2],
                                     .d = items[3],
                                     .integer = v[items[1]].integer});
}

static sv_status reduce(machine *m)
{
    uint32_t arguments = 0, function = 0;
    SV_TRY(pop(m, &arguments));
    SV_TRY(pop(m, &function));
    const sv_pickle_value from = m->out->values[arguments];
    const sv_pickle_value *f = &m->out->values[function];
    if (f->kind != SV_PICKLE_GLOBAL || from.kind != SV_PICKLE_TUPLE)
        return damaged(m, "a function call names no function or has no argument tuple");
    switch (known[f->what].what) {
    case ORDERED_DICT:
        if (from.count != 0)
            return damaged(m, "an OrderedDict is made from values, which torch.save() never writes");
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_DICT});
    case REBUILD_TENSOR:
        return push_tensor(m, &from);
    case REBUILD_PARAMETER:
    case REBUILD_PARAMETER_WITH_STATE:
        if (from.count < 1 || sv_pickle_item(m->out, from.a)->kind != SV_PICKLE_TENSOR)
            return damaged(m, "a parameter is not made from a tensor");
        return push_number(m, m->out->cells[from.a].value);
    case INERT:
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_OTHER});
    case STORAGE:
    case NOT_KNOWN:
        break;
    }
    return damaged(m, "something that is not a function is called");
}

/* ---- containers ---------------------------------------------------------------------------------------- */

/* The topmost 'count' values become a tuple, as do all above the newest MARK. */
static sv_status make_tuple(machine *m, uint32_t first)
{
    uint32_t tuple = 0;
    SV_TRY(new_value(m, (sv_pickle_value){.kind = SV_PICKLE_TUPLE}, &tuple));
    for (uint32_t i = first; i < m->depth; i++) SV_TRY(append(m, tuple, m->stack[i]));
    m->depth = first;
    return push_number(m, tuple);
}

static sv_status make_short_tuple(machine *m, uint32_t count)
{
    if (m->depth < count) return damaged(m, "a value is missing on its stack");
    for (uint32_t i = 0; i < count; i++) {
        if (m->stack[m->depth - 1 - i] == m->mark) return damaged(m, "a value is missing on its stack");
    }
    return make_tuple(m, m->depth - count);
}

static sv_status add_items(machine *m, uint32_t first, sv_pickle_kind kind)
{
    uint32_t container = 0;
    SV_TRY(container_below(m, first, kind, &container));
    if (kind == SV_PICKLE_DICT && (m->depth - first) % 2 != 0)
        return damaged(m, "a dictionary has a key without a value");
    for (uint32_t i = first; i < m->depth; i++) SV_TRY(append(m, container, m->stack[i]));
    m->depth = first;
    return SV_OK;
}

static sv_status add_one(machine *m, uint32_t values, sv_pickle_kind kind)
{
    if (m->depth < values) return damaged(m, "a value is missing on its stack");
    for (uint32_t i = 0; i < values; i++) {
        if (m->stack[m->depth - 1 - i] == m->mark) return damaged(m, "a value is missing on its stack");
    }
    return add_items(m, m->depth - values, kind);
}

static sv_status add_marked(machine *m, sv_pickle_kind kind)
{
    uint32_t below = 0;
    SV_TRY(find_mark(m, &below));
    /* Close the gap that the MARK leaves, so that the items lie directly above their container. */
    memmove(m->stack + below, m->stack + below + 1, (size_t)(m->depth - below - 1) * sizeof *m->stack);
    m->depth--;
    return add_items(m, below, kind);
}

/* Attributes of an OrderedDict (a state_dict's _metadata) and the state of a NumPy dtype: read and dropped.
 */
static sv_status drop_state(machine *m)
{
    uint32_t state = 0;
    SV_TRY(pop(m, &state));
    if (m->depth == 0 || m->stack[m->depth - 1] == m->mark)
        return damaged(m, "a value is missing on its stack");
    const uint8_t of = m->out->values[m->stack[m->depth - 1]].kind;
    return of == SV_PICKLE_DICT || of == SV_PICKLE_OTHER ? SV_OK
                                                         : damaged(m, "attributes are set on a plain value");
}

/* ---- the loop ------------------------------------------------------------------------------------------ */

static sv_status refuse(machine *m, uint8_t opcode)
{
    static const struct {
        uint8_t code;
        const char *name;
    } names[] = {{'i', "INST"},
                 {'o', "OBJ"},
                 {0x81, "NEWOBJ"},
                 {0x92, "NEWOBJ_EX"},
                 {0x82, "EXT1"},
                 {0x83, "EXT2"},
                 {0x84, "EXT4"},
                 {'P', "PERSID"},
                 {'I', "INT"},
                 {'L', "LONG"},
                 {'S', "STRING"},
                 {'T', "BINSTRING"},
                 {'V', "UNICODE"},
                 {'F', "FLOAT"},
                 {'d', "DICT"},
                 {'l', "LIST"},
                 {'p', "PUT"},
                 {'g', "GET"},
                 {'0', "POP"},
                 {'1', "POP_MARK"},
                 {'2', "DUP"},
                 {0x8f, "EMPTY_SET"},
                 {0x90, "ADDITEMS"},
                 {0x91, "FROZENSET"},
                 {'U', "SHORT_BINSTRING"},
                 {0x96, "BYTEARRAY8"},
                 {0x97, "NEXT_BUFFER"},
                 {0x98, "READONLY_BUFFER"}};
    const char *name = "an unknown one";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].code == opcode) name = names[i].name;
    }
    return SV_FAIL(m->c, SV_BAD_INPUT,
                   "%s: its pickle uses opcode 0x%02x (%s) at byte %zu, which torch.save() does not write "
                   "for weights; the "
                   "file is refused and nothing was executed",
                   m->path, opcode, name, m->at - 1);
}

static sv_status step(machine *m, uint8_t opcode)
{
    const uint8_t *p = NULL;
    uint32_t below = 0;
    switch (opcode) {
    case 'N':
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_NONE});
    case 0x88:
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_BOOL, .integer = 1});
    case 0x89:
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_BOOL});
    case 'K': /* BININT1 */
        SV_TRY(take(m, 1, &p));
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_INT, .integer = p[0]});
    case 'M': /* BININT2 */
        SV_TRY(take(m, 2, &p));
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_INT, .integer = sv_le16(p)});
    case 'J': /* BININT */
        SV_TRY(take(m, 4, &p));
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_INT, .integer = (int32_t)sv_le32(p)});
    case 0x8a: /* LONG1 */
        SV_TRY(take(m, 1, &p));
        return push_long(m, p[0]);
    case 0x8b: /* LONG4 */
        SV_TRY(take(m, 4, &p));
        return push_long(m, sv_le32(p));
    case 'G':
        return push_float(m);
    case 'X':
        return take_text(m, 4, SV_PICKLE_TEXT);
    case 0x8c:
        return take_text(m, 1, SV_PICKLE_TEXT);
    case 0x8d:
        return take_text(m, 8, SV_PICKLE_TEXT);
    case 'B':
        return take_text(m, 4, SV_PICKLE_BYTES);
    case 'C':
        return take_text(m, 1, SV_PICKLE_BYTES);
    case 0x8e:
        return take_text(m, 8, SV_PICKLE_BYTES);
    case '(':
        return push_number(m, m->mark);
    case ')':
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_TUPLE});
    case ']':
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_LIST});
    case '}':
        return push(m, (sv_pickle_value){.kind = SV_PICKLE_DICT});
    case 't': /* TUPLE */
        SV_TRY(find_mark(m, &below));
        memmove(m->stack + below, m->stack + below + 1, (size_t)(m->depth - below - 1) * sizeof *m->stack);
        m->depth--;
        return make_tuple(m, below);
    case 0x85:
        return make_short_tuple(m, 1);
    case 0x86:
        return make_short_tuple(m, 2);
    case 0x87:
        return make_short_tuple(m, 3);
    case 'a':
        return add_one(m, 1, SV_PICKLE_LIST);
    case 's':
        return add_one(m, 2, SV_PICKLE_DICT);
    case 'e':
        return add_marked(m, SV_PICKLE_LIST);
    case 'u':
        return add_marked(m, SV_PICKLE_DICT);
    case 'q': /* BINPUT */
        SV_TRY(take(m, 1, &p));
        return remember(m, p[0]);
    case 'r': /* LONG_BINPUT */
        SV_TRY(take(m, 4, &p));
        return remember(m, sv_le32(p));
    case 0x94:
        return remember(m, m->memo_next); /* MEMOIZE */
    case 'h':                             /* BINGET */
        SV_TRY(take(m, 1, &p));
        return recall(m, p[0]);
    case 'j': /* LONG_BINGET */
        SV_TRY(take(m, 4, &p));
        return recall(m, sv_le32(p));
    case 'c': { /* GLOBAL */
        const uint8_t *module = NULL, *name = NULL;
        size_t module_length = 0, name_length = 0;
        SV_TRY(take_line(m, &module, &module_length));
        SV_TRY(take_line(m, &name, &name_length));
        return push_global(m, module, module_length, name, name_length);
    }
    case 0x93:
        return stack_global(m);
    case 'R':
        return reduce(m);
    case 'b':
        return drop_state(m);
    case 'Q':
        return push_storage(m);
    case 0x95:
        return take(m, 8, &p); /* FRAME: its length only helps to read ahead */
    default:
        return refuse(m, opcode);
    }
}

static sv_status run(machine *m)
{
    const uint8_t *p = NULL;
    SV_TRY(take(m, 2, &p));
    SV_CHECK(m->c, p[0] == 0x80 && p[1] >= 2 && p[1] <= 5, SV_UNSUPPORTED,
             "%s: its pickle is not of protocol 2 to 5 (first bytes %02x %02x)", m->path, p[0], p[1]);
    SV_TRY(new_value(m, (sv_pickle_value){.kind = SV_PICKLE_NONE}, &m->mark));
    for (;;) {
        SV_TRY(take(m, 1, &p));
        if (*p == '.') break; /* STOP */
        SV_TRY(step(m, *p));
    }
    SV_TRY(pop(m, &m->out->root));
    return m->depth == 0 ? SV_OK : damaged(m, "values are left on its stack");
}

sv_status sv_pickle_read(sv_ctx *c, const char *path, const uint8_t *bytes, size_t size, sv_pickle *out)
{
    *out = (sv_pickle){0};
    SV_CHECK(c, size <= SV_PICKLE_MAX_BYTES, SV_BAD_INPUT,
             "%s: its pickle has %zu bytes, at most %d are read", path, size, SV_PICKLE_MAX_BYTES);
    machine m = {.c = c, .path = path, .bytes = bytes, .size = size, .out = out};
    const sv_status status = run(&m);
    out->used = m.at;
    free(m.stack);
    free(m.memo);
    return status;
}

void sv_pickle_free(sv_pickle *pickle)
{
    free(pickle->values);
    free(pickle->cells);
    *pickle = (sv_pickle){0};
}

const sv_pickle_value *sv_pickle_lookup(const sv_pickle *p, const sv_pickle_value *dict, const char *key)
{
    const sv_pickle_value *found = NULL;
    for (uint32_t cell = dict->a; cell; cell = sv_pickle_next(p, sv_pickle_next(p, cell))) {
        if (sv_pickle_is_text(sv_pickle_item(p, cell), key))
            found = sv_pickle_item(p, sv_pickle_next(p, cell));
    }
    return found;
}

bool sv_pickle_is_text(const sv_pickle_value *value, const char *text)
{
    return value->kind == SV_PICKLE_TEXT && equals(value->text, value->count, text);
}

const char *sv_pickle_kind_name(const sv_pickle_value *value)
{
    static const char *const names[] = {
        "None",   "a truth value", "an integer",          "a number",  "text",     "bytes",         "a tuple",
        "a list", "a dictionary",  "a class or function", "a storage", "a tensor", "another object"};
    return names[value->kind];
}
