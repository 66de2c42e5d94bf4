/* SPDX-License-Identifier: Apache-2.0
 *
 * A detector on several GPUs: ranks of an MPI launcher (mpirun -n 4 savanna eval ...) that share a dataset's samples.
 * Rank 0 does what a single run does, in the same order, but takes the boxes of other ranks' samples from them; so its
 * results have the same bytes. Whoever fails ends the others, and rank 0 says why.
 *
 *     rank 0     start -> | flags -> | own samples, boxes of the others in order  | stop -> | wait for their ends
 *     others     -> start | -> flags | own samples: boxes ->, until a stop arrives | end -> | -> stop
 */
#ifndef SV_RANKS_H
#define SV_RANKS_H

#include "app.h"

#include "datasets/dataset.h"
#include "perception/results.h"

typedef struct ranks {
    int rank, count;
    int local;    /* number among the ranks of this machine: chooses the GPU */
    bool *ended;  /* rank 0: who has sent its end */
    bool stopped; /* the others: rank 0 wants them to end, with 'code' */
    int code;
} ranks;

/* '*out' NULL: the program was started alone. Other than 0 is an exit code; the message was printed. */
int ranks_begin(const sv_app *app, ranks **out);
/* The last call. Rank 0: tells the others 'code' and waits for them. Others: tell rank 0 how they ended, and return its
 * code. NULL is fine: returns 'code'. */
int ranks_end(ranks *r, int code, sv_status status, const char *sentence);

/* Whose a sample is: sequences in turn, of single frames 'batch' at a time. */
void ranks_share_out(const ranks *r, const sv_dataset *dataset, int batch, int *owner);

/* Rank 0. Flags: samples that have results already, or NULL. */
void ranks_start(const ranks *r);
void ranks_tell(const ranks *r, const bool *flags, int count);
/* The boxes that rank 'from' found in 'sample'. */
sv_status ranks_take(sv_ctx *c, ranks *r, int from, int sample, sv_box *boxes, int room, int *count);

/* The others. False: rank 0 wants them to stop. */
bool ranks_wait(ranks *r);
bool ranks_hear(ranks *r, bool *flags, int count);
bool ranks_go_on(ranks *r);
void ranks_give(const ranks *r, int sample, const sv_box *boxes, int count);

#endif
