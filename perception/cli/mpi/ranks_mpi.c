/* SPDX-License-Identifier: Apache-2.0 */
#include "perception/cli/ranks_mpi.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

/* Messages on their way, with their copies. */
typedef struct letter {
    struct letter *older;
    MPI_Request request;
    unsigned char bytes[];
} letter;

static letter *sent;

/* Gives back what has left; with 'all' after waiting for it. */
static void reap(bool all)
{
    for (letter **at = &sent; *at;) {
        letter *l = *at;
        int done = 0;
        if (all)
            MPI_Wait(&l->request, MPI_STATUS_IGNORE);
        else
            MPI_Test(&l->request, &done, MPI_STATUS_IGNORE);
        if (all || done) {
            *at = l->older;
            free(l);
        } else {
            at = &l->older;
        }
    }
}

static void begin(int *rank, int *count, int *local)
{
    int provided = 0;
    MPI_Comm machine;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, count);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Comm_rank(machine, local);
    MPI_Comm_free(&machine);
}

static void end(void)
{
    reap(true);
    MPI_Finalize();
}

static void send_bytes(int to, const void *bytes, size_t count)
{
    reap(false);
    letter *l = malloc(sizeof *l + count);
    if (!l) MPI_Abort(MPI_COMM_WORLD, 4);
    memcpy(l->bytes, bytes, count);
    MPI_Isend(l->bytes, (int)count, MPI_BYTE, to, 0, MPI_COMM_WORLD, &l->request);
    l->older = sent;
    sent = l;
}

static bool arrived(int from)
{
    int there = 0;
    MPI_Iprobe(from, 0, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
    return there;
}

static size_t next(int from)
{
    MPI_Status status;
    int count = 0;
    MPI_Probe(from, 0, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &count);
    return (size_t)count;
}

static void receive(int from, void *bytes, size_t count)
{
    MPI_Recv(bytes, (int)count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

const sv_mpi_shim *sv_mpi_shim_table(void)
{
    static const sv_mpi_shim shim = {begin, end, send_bytes, arrived, next, receive};
    return &shim;
}
