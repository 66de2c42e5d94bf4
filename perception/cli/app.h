/* SPDX-License-Identifier: Apache-2.0
 *
 * What the subcommands share: options from one table per command (parsing and
 * help come from the same lines), messages, progress, exit codes.
 */
#ifndef SV_APP_H
#define SV_APP_H

#include "perception/core/context.h"
#include "perception/network.h"

typedef enum sv_option_kind {
    SV_OPTION_FLAG,   /* bool */
    SV_OPTION_INT,    /* int */
    SV_OPTION_NUMBER, /* double */
    SV_OPTION_TEXT,   /* const char * */
    SV_OPTION_COUNT,  /* int, one more each time */
    SV_OPTION_PAIRS,  /* sv_pairs: two values each time */
    SV_OPTION_TEXTS,  /* sv_texts: one more value each time */
} sv_option_kind;

typedef struct sv_pairs {
    const char *text[64];
    int count; /* pairs */
} sv_pairs;

typedef struct sv_texts {
    const char *text[64];
    int count;
} sv_texts;

typedef struct sv_option {
    const char *name; /* "--layout" */
    char letter;      /* 'o', or 0 */
    sv_option_kind kind;
    void *out;
    const char *value; /* placeholder in the help, "FILE"; NULL for flags */
    const char *help;  /* one sentence or more; wrapped by the printer */
} sv_option;

typedef struct sv_app {
    /* common options */
    sv_device_kind device;
    int device_index, threads, verbosity; /* -1 quiet, 0 normal, 1 notes, 2 details */
    sv_precision precision;
    double seed;
    sv_pairs sets;
    bool json;
    const struct sv_command *command;
} sv_app;

typedef struct sv_command {
    const char *name, *summary;
    const char *usage;       /* after "savanna NAME " */
    const char *description; /* paragraphs separated by \n */
    const char *examples;    /* lines */
    const sv_option *options;
    int option_count;
    int (*run)(sv_app *app, int count, char **inputs); /* exit code */
} sv_command;

#define COMMAND(name) extern const sv_command sv_command_##name;
#include "commands.def"
#undef COMMAND

/* A context with the common options, or NULL after the message was printed ('*code' is then the exit code). */
sv_ctx *sv_app_ctx(const sv_app *app, int *code);
sv_ctx_def sv_app_ctx_def(const sv_app *app);
sv_ctx_def sv_app_cpu_def(const sv_app *app); /* the CPU in fp32, whatever device and precision were chosen */
/* For what reads files or paints beside a detector: one thread of the CPU. Closed with sv_ctx_close, also after an
 * error, whose sentence is 'c's. */
sv_status sv_app_reader(sv_ctx *c, const sv_app *app, sv_ctx **out);

/* "savanna detect: SENTENCE" on stderr; returns the exit code of 'status'. */
int sv_app_fail(const sv_app *app, sv_status status, const char *sentence);
int sv_app_usage_error(const sv_app *app, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* On stderr unless -q. */
void sv_app_say(const sv_app *app, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Load -c and -w with --set; closes nothing. */
sv_status sv_app_model(const sv_app *app, sv_ctx *c, const char *config, const char *weights, sv_model **out);

/* A bar with rate and time left on a terminal, a line every ten percent elsewhere, nothing with -q. */
typedef struct sv_progress {
    const sv_app *app;
    const char *what, *unit;
    long total, done;
    double began, shown;
    bool terminal;
    int tenth;
} sv_progress;
void sv_progress_begin(sv_progress *p, const sv_app *app, const char *what, const char *unit, long total);
void sv_progress_step(sv_progress *p, long done);
void sv_progress_end(sv_progress *p);

#endif
