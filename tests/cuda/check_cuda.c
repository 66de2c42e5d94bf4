/* SPDX-License-Identifier: Apache-2.0
 *
 * Compares the GPU's primitives with the CPU's on random inputs of many shapes (harness.h). A plain program without a
 * test framework, so that it also runs on machines that have only a GPU.
 *
 *     check_cuda [--small] [--precision P] [primitive ...]
 *
 * --small      two small cases of each primitive, once, for tools that slow everything down
 * --precision  of the GPU (fp32); the CPU's is always fp32
 *
 * Exit code: 0 equal, 1 not, 2 wrong arguments, 77 no GPU.
 */
#include "harness.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    void (*check)(bench *k);
} suites[] = {
#define SUITE(name, check) {name, check},
#include "suites.def"
#undef SUITE
};

/* Relative to a buffer's largest number: inputs are rounded to 11 (bfloat16: 8) bits, and recurrences carry that on. */
static double tolerance_of(sv_precision precision)
{
    return precision == SV_FP32 ? 0 : precision == SV_BF16_MATH ? 3e-2 : 4e-3;
}

typedef struct arguments {
    bool small;
    sv_precision precision; /* of the GPU */
    int names;              /* those behind the options; none: all suites */
    char **name;
} arguments;

static bool parse(arguments *a, int argc, char **argv)
{
    *a = (arguments){.precision = SV_FP32};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--small") == 0)
            a->small = true;
        else if (strcmp(argv[i], "--precision") != 0 || ++i == argc ||
                 !sv_precision_parse(argv[i], &a->precision))
            return false;
    }
    a->names = argc - i;
    a->name = argv + i;
    return true;
}

static bool wanted(const arguments *a, const char *name)
{
    for (int i = 0; i < a->names; i++)
        if (strcmp(a->name[i], name) == 0) return true;
    return a->names == 0;
}

int main(int argc, char **argv)
{
    arguments a;
    if (!parse(&a, argc, argv)) {
        printf("usage: check_cuda [--small] [--precision fp32|tf32|bf16|fp16] [primitive ...]\n");
        return 2;
    }
    bench k = {.least_tolerance = tolerance_of(a.precision)};
    sv_ctx_def def = sv_ctx_def_default();
    if (sv_ctx_open(&def, &k.cpu) != SV_OK) {
        printf("the CPU context cannot be opened: %s\n", k.cpu ? sv_error_message(k.cpu) : "no memory");
        return 1;
    }
    def.device = SV_CUDA;
    def.precision = a.precision;
    const sv_status opened = sv_ctx_open(&def, &k.gpu);
    if (opened != SV_OK) {
        printf("skipped: %s\n", k.gpu ? sv_error_message(k.gpu) : "no memory");
        sv_ctx_close(k.gpu);
        sv_ctx_close(k.cpu);
        return opened == SV_USAGE || opened == SV_NO_KERNEL ? 77 : 1;
    }
    sv_arena_init(&k.cpu_weights, "weights", k.cpu->device);
    sv_arena_init(&k.gpu_weights, "weights", k.gpu->device);
    k.cpu->weights = &k.cpu_weights;
    k.gpu->weights = &k.gpu_weights;

    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++) {
        if (!wanted(&a, suites[i].name)) continue;
        current_op = suites[i].name;
        k.worst = 0;
        k.cases = 0;
        const int before = failures;
        if (a.small) {
            begin_suite(&k, current_op, MEASURE);
            suites[i].check(&k);
        }
        begin_suite(&k, current_op, a.small ? CHOSEN_CASES : EVERY_CASE);
        suites[i].check(&k);
        printf("%-16s %4d cases  %s  largest relative difference %.2g\n", current_op, k.cases,
               failures == before ? "ok    " : "FAILED", k.worst);
        fflush(stdout);
        passes += failures == before;
    }
    printf("%d primitives equal, %d differences\n", passes, failures);
    sv_arena_free(&k.cpu_weights);
    sv_arena_free(&k.gpu_weights);
    sv_ctx_close(k.gpu);
    sv_ctx_close(k.cpu);
    return failures > 0;
}
