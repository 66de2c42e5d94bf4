/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the container of weights and the readers and writers of the file
 * formats. A reader checks what its format says about a tensor against the
 * file, asks for room with sv_weights_make() and fills it.
 */
#ifndef SV_WEIGHTS_FILE_H
#define SV_WEIGHTS_FILE_H

#include "sha256.h"
#include "source.h"
#include "weights.h"

/* Kinds of numbers in files. */
typedef enum sv_number {
    SV_NUMBER_F32,
    SV_NUMBER_F64,
    SV_NUMBER_F16,
    SV_NUMBER_BF16,
    SV_NUMBER_I64,
    SV_NUMBER_I32,
    SV_NUMBER_I16,
    SV_NUMBER_I8,
    SV_NUMBER_U8, /* bool as well */
} sv_number;

size_t sv_number_bytes(sv_number number);
sv_dtype sv_number_kept_as(sv_number number);
/* 'count' numbers that lie 'stride' apart at 'from' (any alignment) to dense numbers of the kept kind. */
void sv_number_widen(sv_number number, void *to, const void *from, size_t count, int64_t stride);

/* The elements of a tensor, or -1 when a size is negative or the non-zero sizes multiply to more than
 * INT32_MAX. */
int64_t sv_elements(int ndim, const int64_t *dims);
/* A new, uninitialised tensor in 'w'; refuses bad names, duplicates and too much of anything. */
sv_status sv_weights_make(sv_ctx *c, sv_weights *w, const char *name, sv_dtype dtype, int ndim,
                          const int64_t *dims, void **data);
/* The place of a tensor in name order, -1 when absent. */
int sv_weights_index(const sv_weights *w, const char *name);
/* The path in messages while a file is read or written. */
void sv_weights_set_file(sv_weights *w, const char *kind, const char *path);
/* The checksum over everything: metadata (without the writers' own), names, kinds, shapes and numbers. */
void sv_weights_checksum(const sv_weights *w, char out[SV_SHA256_TEXT]);
/* "format", "format_version", "checksum": written by the writers, not by users. */
bool sv_weights_own_meta(const char *key);

#define SV_WEIGHTS_FORMAT "savanna-model"
enum { SV_WEIGHTS_FORMAT_VERSION = 1 };

sv_status sv_pth_read(sv_ctx *c, const sv_source *source, bool legacy, sv_weights *w);
/* Whether a zip archive begins with an array, as numpy.savez() writes it. */
bool sv_npz_begins(const uint8_t *head, size_t n);
sv_status sv_npz_read(sv_ctx *c, const sv_source *source, sv_weights *w);
/* Legacy checkpoints of flax; whether a file begins like one. */
bool sv_flax_begins(const uint8_t *head, size_t n);
sv_status sv_flax_read(sv_ctx *c, const sv_source *source, sv_weights *w);
sv_status sv_safetensors_read(sv_ctx *c, const sv_source *source, sv_weights *w);
sv_status sv_hdf5_model_read(sv_ctx *c, const sv_source *source, sv_weights *w);
/* To a new file; the caller makes it durable and renames it. 'path' names the final file in messages. */
sv_status sv_safetensors_write(sv_ctx *c, const sv_weights *w, const char *temporary, const char *path);
sv_status sv_hdf5_model_write(sv_ctx *c, const sv_weights *w, const char *temporary, const char *path);

#endif
