/* SPDX-License-Identifier: Apache-2.0
 *
 * Named host tensors of a checkpoint or model file, with metadata. The file
 * kind is told by its content, never by its name: PyTorch .pth (zip, or the
 * stream of older versions), NumPy .npz ('/' in names becomes '.'), safetensors,
 * HDF5 model file, flax checkpoint. Everything in the file is hostile until
 * checked: sizes, offsets, names and counts are verified before memory is
 * taken, and the total is bounded by the file's own size (stored) or by
 * SV_WEIGHTS_MAX_BYTES (compressed).
 */
#ifndef SV_WEIGHTS_H
#define SV_WEIGHTS_H

#include "perception/core/context.h"

typedef struct sv_weights sv_weights;

/* What one file may make us hold: tensors, their bytes in memory, characters of a name and of a metadata
 * value. */
#define SV_WEIGHTS_MAX_BYTES ((uint64_t)1 << 31)
enum { SV_WEIGHTS_MAX_TENSORS = 16384, SV_WEIGHTS_MAX_NAME = 255, SV_WEIGHTS_MAX_META = 1 << 20 };

/* f32, f64, f16 and bf16 tensors are widened to f32; i64 and i32 keep their kind (counters), smaller integers
 * become i32. */
sv_status sv_weights_open(sv_ctx *c, const char *path, sv_weights **out);
/* The same from memory; 'name' stands for the file in messages. */
sv_status sv_weights_parse(sv_ctx *c, const char *name, const void *bytes, size_t size, sv_weights **out);
sv_weights *sv_weights_new(void);    /* empty, to be filled; NULL without memory */
void sv_weights_free(sv_weights *w); /* NULL is fine */

int sv_weights_count(const sv_weights *w);
const char *sv_weights_name(const sv_weights *w, int i); /* in name order */
sv_tensor sv_weights_tensor(const sv_weights *w,
                            int i); /* host, dense, up to SV_MAX_DIMS dims (0-d: dim {1}) */
sv_tensor sv_weights_find(const sv_weights *w, const char *name); /* SV_NONE when absent */
/* Copies (f32, i64 or i32). Fails on a name that is there already; names are printable ASCII without spaces.
 */
sv_status sv_weights_add(sv_ctx *c, sv_weights *w, const char *name, sv_tensor host);

/* Metadata: "config" (resolved YAML), "classes", "source", "source_sha256", "license", "format_version", ...
 * NULL when absent. The writers put "format", "format_version" and "checksum" in themselves. Values are
 * UTF-8. */
const char *sv_weights_meta(const sv_weights *w, const char *key);
sv_status sv_weights_set_meta(sv_ctx *c, sv_weights *w, const char *key, const char *value);
int sv_weights_meta_count(const sv_weights *w);
const char *sv_weights_meta_key(const sv_weights *w, int i); /* in key order */
const char *sv_weights_kind(const sv_weights *w); /* "pth", "npz", "safetensors", "hdf5", "flax", "memory" */
const char *sv_weights_path(const sv_weights *w);

/* Written to a temporary file beside 'path' and renamed: the file is whole or absent. The same content gives
 * the same bytes. By extension: .h5/.hdf5 the model file, .safetensors. */
sv_status sv_weights_write(sv_ctx *c, const sv_weights *w, const char *path);

#endif
