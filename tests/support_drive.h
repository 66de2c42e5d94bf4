/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated drives as frames with times and poses.
 */
#ifndef SUPPORT_DRIVE_H
#define SUPPORT_DRIVE_H

#include "perception/frame.h"
#include "support.h"

enum { DRIVE_FRAMES = 20 };

/* Ten frames a second through a street of the simulator; the sensor also turns on its mast. 4 or 5 columns. */
void drive_simulate(sv_ctx *c, uint64_t seed, int columns, sv_frame *frames[DRIVE_FRAMES]);
void drive_release(sv_frame *frames[DRIVE_FRAMES]);

#endif
