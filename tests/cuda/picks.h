/* SPDX-License-Identifier: Apache-2.0
 *
 * The voxels that a frame's merges pick (the best K), taken from one run and imposed on others. Where two scores differ by a rounding
 * two devices may pick differently, and with that every window behind has other voxels: boxes can be compared with
 * the same picks only.
 */
#ifndef PICKS_H
#define PICKS_H

#include "perception/core/context.h"
#include "perception/core/tensor.h"

enum { MERGES = 8 };

typedef struct choice {
    int32_t *rows[MERGES];
    int count[MERGES], merges;
    char first[160]; /* name of the first merge's: where it comes again, a frame is run again */
    bool imposed;
    int missing[MERGES]; /* of a merge's own picks those that were not among the imposed */
} choice;

/* A probe of a context, for a frame; 'user' is a choice, which learns the picks or, with 'imposed', gives them. Before each
 * frame: choice->merges = 0. */
sv_status see_picks(void *user, sv_ctx *c, const char *name, sv_tensor picks);
/* Rows of 'a' that 'b' has not; of 'all' picks. Picks that follow others differ where those do. */
int others(const choice *a, const choice *b, int *all);
void choice_free(choice *k);

#endif
