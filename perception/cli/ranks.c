/* SPDX-License-Identifier: Apache-2.0 */
#include "ranks.h"

#include "ranks_mpi.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Every message begins with this; boxes, flags or a sentence follow. */
typedef struct head {
    enum { START, FLAGS, STOP, BOXES, END } kind;
    int32_t sample, count, status;
} head;

static const sv_mpi_shim *mpi;

/* ---- beginning and end --------------------------------------------------------------------------------- */

/* What launchers tell the programs that they start. */
static int told(const char *const *names, int otherwise)
{
    for (; *names; names++)
        if (getenv(*names)) return atoi(getenv(*names));
    return otherwise;
}

/* libsavanna_mpi.so lies beside the program, or in the folder of libraries beside the program's. */
static const sv_mpi_shim *load_shim(void)
{
#ifdef SAVANNA_MPI
    static const char *const places[] = {"libsavanna_mpi.so", SAVANNA_MPI "/libsavanna_mpi.so"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
        path[length > 0 ? length : 0] = '\0';
        char *slash = strrchr(path, '/');
        const size_t used = slash ? (size_t)(slash - path) + 1 : 0;
        if (used + strlen(places[i]) >= sizeof path) continue;
        memcpy(path + used, places[i], strlen(places[i]) + 1);
        /* global: MPI loads parts of its own that look for its symbols */
        void *module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        void *entry = module ? dlsym(module, "sv_mpi_shim_table") : NULL;
        const sv_mpi_shim *(*table)(void) = NULL;
        memcpy(&table, &entry, sizeof table);
        if (table) return table();
    }
#endif
    return NULL;
}

int ranks_begin(const sv_app *app, ranks **out)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", NULL};
    static const char *const numbers[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", NULL};
    *out = NULL;
    const int size = told(sizes, 1);
    if (size <= 1) return 0;
    mpi = load_shim();
    if (!mpi) {
        if (told(numbers, 0) > 0) return sv_status_exit_code(SV_UNSUPPORTED);
        char sentence[512];
        const char *why = dlerror();
        snprintf(sentence, sizeof sentence,
                 "a launcher started %d ranks, but this program has no MPI (%s): build it where an MPI is "
                 "installed "
                 "(libopenmpi-dev), or start it alone",
                 size, why ? why : "built without");
        return sv_app_fail(app, SV_UNSUPPORTED, sentence);
    }
    ranks *r = calloc(1, sizeof *r);
    bool *ended = calloc((size_t)size + 1, sizeof *ended);
    if (!r || !ended) {
        free(r);
        free(ended);
        return sv_app_fail(app, SV_NO_MEMORY, "no memory for the ranks");
    }
    mpi->begin(&r->rank, &r->count, &r->local);
    r->ended = ended;
    *out = r;
    return 0;
}

static void send_head(int to, head h)
{
    mpi->send(to, &h, sizeof h);
}

/* The next message of 'from', malloc'ed. */
static void *take_message(int from, head *h, size_t *bytes)
{
    const size_t count = mpi->next(from);
    unsigned char *message = malloc(count + 1);
    *bytes = 0;
    if (!message) abort(); /* ends all ranks; nothing can be told without memory */
    mpi->receive(from, message, count);
    message[count] = '\0';
    memcpy(h, message, sizeof *h);
    *bytes = count - sizeof *h;
    return message;
}

/* The next message of rank 0, malloc'ed; NULL where it is the stop. */
static void *take_order(ranks *r, size_t *bytes)
{
    head h;
    void *message = take_message(0, &h, bytes);
    if (h.kind != STOP) return message;
    r->stopped = true;
    r->code = h.status;
    free(message);
    return NULL;
}

int ranks_end(ranks *r, int code, sv_status status, const char *sentence)
{
    if (!r) return code;
    head h = {.kind = STOP, .status = code};
    size_t bytes;
    for (int other = 1; r->rank == 0 && other < r->count; other++) send_head(other, h);
    for (int other = 1; r->rank == 0 && other < r->count; other++)
        while (!r->ended[other]) {
            free(take_message(other, &h, &bytes));
            r->ended[other] = h.kind == END;
        }
    if (r->rank > 0) {
        const head last = {.kind = END, .status = (int32_t)status};
        const size_t length = strlen(sentence);
        unsigned char *message = malloc(sizeof last + length);
        if (!message) abort();
        memcpy(message, &last, sizeof last);
        memcpy(message + sizeof last, sentence, length);
        mpi->send(0, message, sizeof last + length);
        free(message);
        while (!r->stopped) free(take_order(r, &bytes));
        code = r->code;
    }
    mpi->end();
    free(r->ended);
    free(r);
    return code;
}

/* ---- shares -------------------------------------------------------------------------------------------- */

void ranks_share_out(const ranks *r, const sv_dataset *dataset, int batch, int *owner)
{
    int turn = 0, filled = 0;
    for (int s = 0; s < sv_dataset_sequence_count(dataset); s++) {
        const sv_sample_sequence *sequence = sv_dataset_sequence(dataset, s);
        for (int i = 0; i < sequence->count; i++) owner[sequence->first + i] = turn % r->count;
        filled += sequence->count;
        if (filled < batch) continue;
        turn++;
        filled = 0;
    }
}

void ranks_start(const ranks *r)
{
    for (int other = 1; other < r->count; other++) send_head(other, (head){.kind = START});
}

void ranks_tell(const ranks *r, const bool *flags, int count)
{
    const head h = {.kind = FLAGS, .count = count};
    unsigned char *message = calloc(sizeof h + (size_t)count, 1);
    if (!message) abort();
    memcpy(message, &h, sizeof h);
    for (int i = 0; flags && i < count; i++) message[sizeof h + (size_t)i] = flags[i];
    for (int other = 1; other < r->count; other++) mpi->send(other, message, sizeof h + (size_t)count);
    free(message);
}

sv_status ranks_take(sv_ctx *c, ranks *r, int from, int sample, sv_box *boxes, int room, int *count)
{
    head h;
    size_t bytes;
    unsigned char *message = take_message(from, &h, &bytes);
    r->ended[from] = h.kind == END;
    sv_status status = SV_OK;
    if (h.kind == END)
        status = SV_FAIL(c, h.status == SV_OK ? SV_INTERNAL : (sv_status)h.status, "rank %d of %d: %s", from,
                         r->count, h.status == SV_OK ? "it ended early" : (const char *)message + sizeof h);
    else if (h.kind != BOXES || h.sample != sample || h.count < 0 || h.count > room ||
             bytes != (size_t)h.count * sizeof *boxes)
        status = SV_FAIL(c, SV_INTERNAL,
                         "rank %d of %d sent sample %d, expected %d: do all ranks see the same files?", from,
                         r->count, (int)h.sample, sample);
    else
        memcpy(boxes, message + sizeof h, bytes);
    *count = status == SV_OK ? h.count : 0;
    free(message);
    return status;
}

/* ---- the others ---------------------------------------------------------------------------------------- */

bool ranks_wait(ranks *r)
{
    size_t bytes;
    free(take_order(r, &bytes));
    return !r->stopped;
}

bool ranks_hear(ranks *r, bool *flags, int count)
{
    size_t bytes;
    unsigned char *message = take_order(r, &bytes);
    /* another number of flags shows when rank 0 takes the boxes */
    for (int i = 0; message && i < count; i++)
        flags[i] = (size_t)i < bytes && message[sizeof(head) + (size_t)i];
    free(message);
    return !r->stopped;
}

bool ranks_go_on(ranks *r)
{
    return !r->stopped && (!mpi->arrived(0) || ranks_wait(r));
}

void ranks_give(const ranks *r, int sample, const sv_box *boxes, int count)
{
    (void)r;
    const head h = {.kind = BOXES, .sample = sample, .count = count};
    unsigned char *message = malloc(sizeof h + (size_t)count * sizeof *boxes);
    if (!message) abort();
    memcpy(message, &h, sizeof h);
    if (count > 0) memcpy(message + sizeof h, boxes, (size_t)count * sizeof *boxes);
    mpi->send(0, message, sizeof h + (size_t)count * sizeof *boxes);
    free(message);
}
