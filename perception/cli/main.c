/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna COMMAND [options] [inputs]: finds the command, reads its options, runs it.
 */
#include "app.h"

#include "perception/film.h"
#include "voxel/pcl.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sv_command *const commands[] = {
#define COMMAND(name) &sv_command_##name,
#include "commands.def"
#undef COMMAND
};
enum { COMMANDS = sizeof commands / sizeof *commands, COMMON = 9 };

/* Where the common options land before they are checked. */
typedef struct common_values {
    const char *device, *precision;
    bool quiet;
    int verbose;
} common_values;

static void common_options(sv_option out[COMMON], sv_app *app, common_values *values)
{
    const sv_option options[COMMON] = {
        {"--device", 0, SV_OPTION_TEXT, &values->device, "cpu|cuda[:i]", "Where to compute; default cpu."},
        {"--precision", 0, SV_OPTION_TEXT, &values->precision, "fp32|tf32|bf16|fp16",
         "Arithmetic of dense products; default fp32. On a CPU with matrix tiles tf32 and bf16 take two "
         "bfloat16 parts of every factor instead of three; on others they are fp32. On CUDA "
         "tf32 and fp16 multiply half floats (whose mantissa is TF32's; what lies beyond their 65504 "
         "becomes that), bf16 bfloat16; sums and scans are float32."},
        {"--threads", 0, SV_OPTION_INT, &app->threads, "N",
         "CPU threads; default: all the process may use. The result does not depend on it."},
        {"--seed", 0, SV_OPTION_NUMBER, &app->seed, "S", "Seed of everything random; default 0."},
        {"--set", 0, SV_OPTION_PAIRS, &app->sets, "KEY VAL",
         "Override a configuration value, e.g. --set MODEL.POST_PROCESSING.SCORE_THRESH 0.3. May be "
         "repeated."},
        {"--json", 0, SV_OPTION_FLAG, &app->json, NULL, "Machine-readable output on stdout."},
        {"--verbose", 'v', SV_OPTION_COUNT, &values->verbose, NULL, "Say more; twice: details."},
        {"--quiet", 'q', SV_OPTION_FLAG, &values->quiet, NULL, "Only errors."},
        {"--help", 'h', SV_OPTION_FLAG, NULL, NULL, "This text."},
    };
    memcpy(out, options, sizeof options);
}

/* ---- help --------------------------------------------------------------------------------------------- */

/* Wrap 'text' at 90 columns, every line indented. */
static void print_wrapped(FILE *to, const char *text, int indent)
{
    while (*text) {
        const char *line = text, *end = strchr(text, '\n');
        if (!end) end = text + strlen(text);
        while (line < end) {
            const int room = 90 - indent;
            long length = end - line;
            if (length > room) {
                length = room;
                while (length > 0 && line[length] != ' ') length--;
                if (length == 0) length = room;
            }
            fprintf(to, "%*s%.*s\n", indent, "", (int)length, line);
            line += length;
            while (line < end && *line == ' ') line++;
        }
        if (end == text) fputc('\n', to);
        text = *end ? end + 1 : end;
    }
}

static void print_options(FILE *to, const sv_option *options, int count)
{
    for (int i = 0; i < count; i++) {
        const sv_option *o = &options[i];
        if (o->letter)
            fprintf(to, "  -%c, %s", o->letter, o->name);
        else
            fprintf(to, "      %s", o->name);
        fprintf(to, "%s%s\n", o->value ? " " : "", o->value ? o->value : "");
        print_wrapped(to, o->help, 10);
    }
}

static void print_overview(FILE *to)
{
    fprintf(to, "savanna - 3D object detection with linear group RNNs (LION), on a plain CPU or a "
                "GPU\n\nusage: savanna COMMAND [options] [inputs]\n\n");
    for (int i = 0; i < COMMANDS; i++) fprintf(to, "  %-9s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "  %-9s %s\n  %-9s %s\n", "help", "explain a command: savanna help COMMAND", "version",
            "print the version and what was built in");
    fprintf(to, "\nexit codes: 0 ok, 1 a result was not met, 2 wrong usage, 3 bad input, 4 internal error\n");
}

static void print_help(FILE *to, const sv_command *command)
{
    sv_app app = {0};
    common_values values;
    sv_option common[COMMON];
    common_options(common, &app, &values);
    fprintf(to, "savanna %s - %s\n\nUSAGE\n", command->name, command->summary);
    const char *usage = command->usage;
    while (*usage) {
        const char *end = strchr(usage, '\n');
        const int length = (int)(end ? end - usage : (long)strlen(usage));
        fprintf(to, "  savanna %s %.*s\n", command->name, length, usage);
        usage += length + (end != NULL);
    }
    fprintf(to, "\nDESCRIPTION\n");
    print_wrapped(to, command->description, 2);
    if (command->option_count > 0) {
        fprintf(to, "\nOPTIONS\n");
        print_options(to, command->options, command->option_count);
    }
    fprintf(to, "\nCOMMON OPTIONS\n");
    print_options(to, common, COMMON);
    fprintf(to,
            "\nEXAMPLES\n%s\nEXIT CODES\n  0 ok, 1 a result was not met, 2 wrong usage, 3 bad input, 4 "
            "internal error\n",
            command->examples);
}

static int print_version(void)
{
    printf("savanna %s\n", SAVANNA_VERSION);
    printf("cuda %s\n", sv_device_of(SV_CUDA) ? "yes" : "no");
    printf("pcl %s\n", sv_pcl_version() ? sv_pcl_version() : "no");
    printf("video files %s%s\n", sv_film_version() ? "by libavformat " : "no",
           sv_film_version() ? sv_film_version() : "");
    printf("hdf5 model format 1\n");
    return 0;
}

/* ---- options ------------------------------------------------------------------------------------------ */

static bool read_number(const char *text, double *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && isfinite(*out);
}

/* The value(s) of an option; false after the message was printed. */
static bool take_value(const sv_app *app, const sv_option *o, const char *const *values)
{
    double number = 0;
    switch (o->kind) {
    case SV_OPTION_FLAG:
        *(bool *)o->out = true;
        return true;
    case SV_OPTION_COUNT:
        ++*(int *)o->out;
        return true;
    case SV_OPTION_TEXT:
        *(const char **)o->out = values[0];
        return true;
    case SV_OPTION_PAIRS: {
        sv_pairs *pairs = o->out;
        if (pairs->count == 32) {
            sv_app_usage_error(app, "%s: at most 32 pairs", o->name);
            return false;
        }
        pairs->text[2 * pairs->count] = values[0];
        pairs->text[2 * pairs->count + 1] = values[1];
        pairs->count++;
        return true;
    }
    case SV_OPTION_TEXTS: {
        sv_texts *texts = o->out;
        if (texts->count == 64) {
            sv_app_usage_error(app, "%s: at most 64 of them", o->name);
            return false;
        }
        texts->text[texts->count++] = values[0];
        return true;
    }
    case SV_OPTION_INT:
        if (!read_number(values[0], &number) || number != nearbyint(number) || fabs(number) > INT_MAX) {
            sv_app_usage_error(app, "%s: '%s' is not a whole number", o->name, values[0]);
            return false;
        }
        *(int *)o->out = (int)number;
        return true;
    case SV_OPTION_NUMBER:
        if (!read_number(values[0], &number)) {
            sv_app_usage_error(app, "%s: '%s' is not a number", o->name, values[0]);
            return false;
        }
        *(double *)o->out = number;
        return true;
    }
    return false;
}

static const sv_option *find_option(const sv_option *options, int count, const char *word)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(options[i].name, word) == 0) return &options[i];
        if (word[0] == '-' && word[1] == options[i].letter && word[1] && !word[2]) return &options[i];
    }
    return NULL;
}

/* Options out, inputs left in 'inputs'. Returns -1, or an exit code. */
static int parse(sv_app *app, common_values *values, int argc, char **argv, char **inputs, int *input_count)
{
    sv_option common[COMMON];
    common_options(common, app, values);
    const sv_command *command = app->command;
    bool only_inputs = false;
    for (int i = 0; i < argc; i++) {
        if (only_inputs || argv[i][0] != '-' || strcmp(argv[i], "-") == 0) {
            inputs[(*input_count)++] = argv[i];
            continue;
        }
        if (strcmp(argv[i], "--") == 0) {
            only_inputs = true;
            continue;
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(stdout, command);
            return 0;
        }
        const sv_option *option = find_option(command->options, command->option_count, argv[i]);
        if (!option) option = find_option(common, COMMON, argv[i]);
        if (!option) return sv_app_usage_error(app, "unknown option '%s'", argv[i]);
        const int wanted = option->kind == SV_OPTION_FLAG || option->kind == SV_OPTION_COUNT ? 0
                           : option->kind == SV_OPTION_PAIRS                                 ? 2
                                                                                             : 1;
        if (i + wanted >= argc) return sv_app_usage_error(app, "%s needs %s", option->name, option->value);
        const char *const taken[2] = {wanted > 0 ? argv[i + 1] : NULL, wanted > 1 ? argv[i + 2] : NULL};
        if (!take_value(app, option, taken)) return 2;
        i += wanted;
    }
    if (values->device && !sv_device_parse(values->device, &app->device, &app->device_index))
        return sv_app_usage_error(app, "--device: '%s' is not cpu, cuda or cuda:N", values->device);
    if (values->precision && !sv_precision_parse(values->precision, &app->precision))
        return sv_app_usage_error(app, "--precision: '%s' is not fp32, tf32, bf16 or fp16",
                                  values->precision);
    if (app->threads < 0 || app->threads > 1024)
        return sv_app_usage_error(app, "--threads: %d is not within 1..1024", app->threads);
    app->verbosity = values->quiet ? -1 : values->verbose;
    return -1;
}

static const sv_command *find_command(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_overview(stderr);
        return 2;
    }
    const char *word = argv[1];
    const bool help = strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
    if (strcmp(word, "version") == 0 || strcmp(word, "--version") == 0) return print_version();
    if (help && argc < 3) {
        print_overview(stdout);
        return 0;
    }
    const sv_command *command = find_command(help ? argv[2] : word);
    if (!command) {
        fprintf(stderr, "savanna: there is no command '%s'\n\n", help ? argv[2] : word);
        print_overview(stderr);
        return 2;
    }
    if (help) {
        print_help(stdout, command);
        return 0;
    }
    sv_app app = {.command = command};
    common_values values = {0};
    char **inputs = calloc((size_t)argc, sizeof *inputs);
    int input_count = 0;
    if (!inputs) return sv_app_fail(&app, SV_NO_MEMORY, "out of memory");
    int code = parse(&app, &values, argc - 2, argv + 2, inputs, &input_count);
    if (code < 0) code = command->run(&app, input_count, inputs);
    free(inputs);
    return code;
}
