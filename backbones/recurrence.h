/* SPDX-License-Identifier: Apache-2.0
 *
 * A recurrence of the catalogue: an operator's formula over the cores of ops.def, without projections. One table
 * of ports says what it takes and gives; from that table
 *
 *   - 'savanna check' binds the datasets of a recording (layouts are written there, so no recording needs code),
 *   - the block template (block.h) makes each port from the layer's input, with weights of its own.
 *
 * Dimensions are letters. B counts groups and T tokens; all other letters are the recurrence's own (H heads, K key and
 * V value channels, N states ...). A token port is a tensor [S, product of its other letters], S = B*T slots; a state
 * part is as many columns of the state rows [B, *], in the order of the table; a weight is [first letter, the others].
 */
#ifndef SV_RECURRENCE_H
#define SV_RECURRENCE_H

#include "perception/core/ops.h"
#include "perception/model/binder.h"

enum { SV_MAX_PORTS = 40, SV_LETTERS = 128, SV_PREPARED_BYTES = 3072 };

typedef enum sv_port_kind {
    SV_PORT_END,    /* ends the table */
    SV_PORT_TOKEN,  /* an input row of each token */
    SV_PORT_WEIGHT, /* parameters */
    SV_PORT_NUMBER, /* one number; in recordings an attribute of in/ */
    SV_PORT_STATE,  /* a part of what is carried from token to token */
    SV_PORT_RESULT, /* the result; each line is a form of its own, run(form) */
    SV_PORT_SHOWN,  /* a quantity the probe is shown under this name */
} sv_port_kind;

/* How a block makes a token port from the layer's (normed) input n. */
typedef struct sv_make {
    int places; /* not made of n: 1/(p+1), p the place in mini-batches of so many tokens, plus a weight per place, not below 0 */
    bool input; /* n itself, without a projection */
    int rank;   /* projection through so many channels; 0: full */
    sv_map inner;     /* between the two products of a low-rank projection */
    bool bias;        /* of the (last) product */
    sv_init start;    /* of the bias */
    bool conv;        /* short causal convolution and SiLU behind it */
    sv_map map;       /* then this */
    bool unit;        /* then to unit length over the last letter */
    bool softmax;     /* or softmax over it */
    float gain;       /* then times this; 0: 1 */
    const char *like; /* then times this port, made before */
    bool rate;        /* and times -e^A_log, a weight per channel of the port */
} sv_make;

typedef struct sv_port {
    sv_port_kind kind;
    const char *name; /* of the dataset in a recording and of the weight; NULL: recordings do not have it */
    const char
        *layout; /* in a recording: "BTHK", "BHTK", "TBD"; (XY): one dimension of size X*Y, X outermost */
    const char
        *after; /* SV_PORT_STATE: the dataset with it after the last token; %s stands for the result's name */
    const char *core; /* the order here, where it differs from B, T and the rest as recorded: "BHNP" */
    bool optional;    /* may be absent */
    bool damped;  /* SV_PORT_WEIGHT: begins at a third of its size, for what ends in the residual stream */
    bool fresh;   /* SV_PORT_RESULT: this form starts from nothing, whatever state a recording has */
    int form;     /* SV_PORT_RESULT, SV_PORT_SHOWN: its number */
    double value; /* SV_PORT_NUMBER: when nobody says */
    sv_make make; /* SV_PORT_TOKEN */
    sv_init init; /* SV_PORT_WEIGHT */
    bool fan_in;  /* SV_PORT_WEIGHT: instead of init, uniform by the size of the last letter */
} sv_port;

/* Lines of a table. What follows a name are the fields behind it: the layout, of a state part also 'after'; then others by name. */
#define SV_TOKEN(called, as, ...)                                                                            \
    {                                                                                                        \
        .kind = SV_PORT_TOKEN, .name = (called), .layout = (as), .make = { __VA_ARGS__ }                     \
    }
#define SV_WEIGHT(called, ...)                                                                               \
    {                                                                                                        \
        .kind = SV_PORT_WEIGHT, .name = (called), __VA_ARGS__                                                \
    }
#define SV_NUMBER(called, otherwise)                                                                         \
    {                                                                                                        \
        .kind = SV_PORT_NUMBER, .name = (called), .value = (otherwise)                                       \
    }
#define SV_STATE(called, ...)                                                                                \
    {                                                                                                        \
        .kind = SV_PORT_STATE, .name = (called), __VA_ARGS__                                                 \
    }
#define SV_RESULT(number, called, ...)                                                                       \
    {                                                                                                        \
        .kind = SV_PORT_RESULT, .form = (number), .name = (called), __VA_ARGS__                              \
    }
#define SV_SHOWN(number, called, ...)                                                                        \
    {                                                                                                        \
        .kind = SV_PORT_SHOWN, .form = (number), .name = (called), __VA_ARGS__                               \
    }
#define SV_END                                                                                               \
    {                                                                                                        \
        .kind = SV_PORT_END                                                                                  \
    }
#define SV_RECORDED(...) ((const char *const[]){__VA_ARGS__, NULL})

/* How a block chooses the size of a letter. */
typedef enum sv_letter_rule {
    SV_LETTER_END,
    SV_LETTER_COUNT,    /* the value itself */
    SV_LETTER_SHARE,    /* value * channels */
    SV_LETTER_PER_HEAD, /* value * channels / H */
    SV_LETTER_SUM,      /* of the letters that stand as the key */
} sv_letter_rule;
typedef struct sv_letter {
    sv_letter_rule rule;
    char letter;
    const char *key; /* in OPERATOR.CFG; NULL: fixed */
    double value;    /* by default */
} sv_letter;

/* A recurrence with sizes, numbers and weights. */
typedef struct sv_instance {
    const struct sv_recurrence *type;
    int size[SV_LETTERS]; /* by letter; B and T are not set */
    double number[SV_MAX_PORTS];
    sv_tensor host[SV_MAX_PORTS];                           /* weights; valid during prepare() only */
    sv_tensor weight[SV_MAX_PORTS];                         /* the same on the device */
    _Alignas(16) unsigned char prepared[SV_PREPARED_BYTES]; /* prepare()'s, zeroed before */
} sv_instance;

/* One run over S slots. The state columns are those of sv_state_columns(). */
typedef struct sv_call {
    const sv_instance *of;
    const sv_tensor *in; /* by port: tokens; none where absent */
    int form;
    sv_tensor y;
    sv_sequence seq; /* without an index: everything lies in slots */
} sv_call;

typedef enum sv_finish {
    SV_FINISH_GATED,  /* norm of heads, SiLU gate, output projection */
    SV_FINISH_PLAIN,  /* output projection */
    SV_FINISH_DIRECT, /* nothing: it is C channels wide and has its own output projection */
} sv_finish;

typedef struct sv_recurrence {
    const char *const *recordings; /* 'operator' attributes of its recordings; ends with NULL */
    const sv_port *ports;
    const sv_letter *letters;
    const char *heads; /* the letter that counts the heads of the result's norm; NULL: one for all channels */
    int form;          /* of the result in a block */
    int whole;         /* the form in which every token sees its whole group; 0: there is none */
    sv_finish finish;  /* what the block does with the result */
    int taps;          /* of short convolutions; 0: 4 */
    bool quadratic;    /* tokens ask tokens: the cost grows with the square of the length */
    bool state_per_head;               /* the parts of a head lie together, not those of all heads */
    void (*follow)(sv_instance *self); /* sizes of letters that follow from the others' (optional) */
    /* Derived weights (optional); host weights, sizes and numbers are there. */
    sv_status (*prepare)(sv_ctx *c, sv_instance *self);
    sv_status (*run)(sv_ctx *c, const sv_call *call);
} sv_recurrence;

int sv_port_count(const sv_recurrence *type);
/* Product of the letters' sizes but for B and T; 1 for "". */
int sv_layout_columns(const sv_instance *self, const char *layout);
/* The layout a port has here: its 'core', or what was recorded. */
const char *sv_port_core(const sv_port *port);
/* Columns of a port, and where a state part begins (not with state_per_head). */
int sv_port_columns(const sv_instance *self, int port);
int sv_state_first(const sv_instance *self, int port);
int sv_state_columns(const sv_instance *self);
/* The state of the part alone: columns of seq's states, for composing cores. */
sv_sequence sv_part_of(const sv_call *call, int port);

/* Letters must fit: sets a size or, when it is set already, compares; false when it differs. */
bool sv_letter_fits(sv_instance *self, char letter, int64_t size);

/* ---- for the recurrences ------------------------------------------------------------------------------ */

/* [S, columns] in scratch, live as the result. */
sv_status sv_call_scratch(sv_ctx *c, const sv_call *call, sv_tensor *out, const char *name, int columns);
/* Ones [S, columns]. */
sv_status sv_call_ones(sv_ctx *c, const sv_call *call, sv_tensor *out, int columns);
/* A weight port (host) [n,k], or with 'transposed' [k,n], as a prepared product; bias: its port, or -1. */
sv_status sv_prepare_port(sv_ctx *c, const sv_instance *self, sv_linear_weights *out, int weight, int bias,
                          bool transposed);
/* Zeros for a group's states, for cores whose empty state is another. */
sv_status sv_call_zero_states(sv_ctx *c, const sv_call *call, sv_tensor *out);
/* 'count' numbers to the device as one row. */
sv_status sv_prepare_row(sv_ctx *c, sv_tensor *out, const float *numbers, int count);
/* What prepare() made. */
#define SV_PREPARED(type, self)       ((type *)(void *)(self)->prepared)
#define SV_PREPARED_CONST(type, self) ((const type *)(const void *)(self)->prepared)

sv_status sv_recurrence_run(sv_ctx *c, const sv_call *call);

#endif
