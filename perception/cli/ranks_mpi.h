/* SPDX-License-Identifier: Apache-2.0
 *
 * What ranks.c needs of MPI. The functions lie in a module of its own, libsavanna_mpi.so, which is loaded when a launcher
 * has started several ranks: the program itself also runs where there is no MPI. Messages between two ranks keep their
 * order. What goes wrong inside MPI ends all ranks, as MPI does by itself.
 */
#ifndef SV_RANKS_MPI_H
#define SV_RANKS_MPI_H

#include <stdbool.h>
#include <stddef.h>

typedef struct sv_mpi_shim {
    void (*begin)(int *rank, int *count, int *local); /* local: number among the ranks of this machine */
    void (*end)(void);
    void (*send)(int to, const void *bytes, size_t count); /* copies; does not wait for the receiver */
    bool (*arrived)(int from);
    size_t (*next)(int from); /* waits for a message; its bytes */
    void (*receive)(int from, void *bytes, size_t count);
} sv_mpi_shim;

/* The module's only symbol. */
const sv_mpi_shim *sv_mpi_shim_table(void);

#endif
