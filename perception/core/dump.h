/* SPDX-License-Identifier: Apache-2.0
 *
 * Stage dumps: a probe that writes every named tensor of a frame to HDF5, under
 * its stage path ("backbone_3d/dow1/features"). A name seen again gets "#2".
 */
#ifndef SV_DUMP_H
#define SV_DUMP_H

#include "h5.h"

typedef struct sv_dump sv_dump;

sv_status sv_dump_open(sv_ctx *c, const char *path, sv_dump **out);
/* Set as the context's probe; 'user' is the sv_dump. */
sv_status sv_dump_probe(void *user, sv_ctx *c, const char *name, sv_tensor tensor);
sv_status sv_dump_close(sv_ctx *c, sv_dump *dump); /* the file appears now */

#endif
