/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensor views. A view never owns memory and is passed by value.
 *
 * Legend used in shape comments throughout: B samples of a batch, N voxels,
 * P points, S padded sequence slots, G groups, L tokens of a group, C
 * channels, H W map height and width. Row-major; dim[0] counts rows.
 *
 * Rows whose number is only known on the device ("live rows"): dim[0] is then
 * the capacity, fixed per model and batch, and 'offsets' points to B+1 prefix
 * offsets in the memory of the tensor's device: sample b owns rows
 * offsets[b]..offsets[b+1]-1 and offsets[B] rows are live. Rows beyond are
 * undefined; no kernel reads or writes them.
 */
#ifndef SV_TENSOR_H
#define SV_TENSOR_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum sv_dtype { SV_F32, SV_I32, SV_I64, SV_U8, SV_F16, SV_BF16, SV_F64 } sv_dtype;

enum { SV_MAX_DIMS = 5, SV_MAX_BATCH = 64 };

typedef struct sv_tensor {
    void *data;             /* NULL: no tensor */
    const int32_t *offsets; /* [batch+1] live-row prefix offsets on the device; NULL: all rows of dim[0] */
    int32_t dim[SV_MAX_DIMS];
    int32_t pitch; /* elements between consecutive rows; the product of the other dims when dense */
    int16_t batch; /* samples that 'offsets' describes; 0 when offsets is NULL */
    uint8_t ndim, dtype;
} sv_tensor;

#ifdef __cplusplus
#define SV_NONE (sv_tensor{})
#else
#define SV_NONE ((sv_tensor){.data = NULL})
#endif

static inline bool sv_is_none(sv_tensor t)
{
    return t.data == NULL;
}

static inline size_t sv_dtype_bytes(sv_dtype dtype)
{
    static const uint8_t bytes[] = {4, 4, 8, 1, 2, 2, 8};
    return bytes[dtype];
}

/* Elements of one row (product of dim[1..]); pitch may be larger. */
static inline int64_t sv_row_elements(sv_tensor t)
{
    int64_t n = 1;
    for (int i = 1; i < t.ndim; i++) n *= t.dim[i];
    return n;
}

/* A dense 2-D view [rows, channels] of memory the caller owns. */
static inline sv_tensor sv_view(void *data, sv_dtype dtype, int rows, int channels)
{
    sv_tensor t = SV_NONE;
    t.data = data;
    t.dim[0] = rows;
    t.dim[1] = t.pitch = channels;
    t.ndim = 2;
    t.dtype = (uint8_t)dtype;
    return t;
}

/* Channels first..first+count-1 of a 2-D tensor; shares memory and live rows. */
static inline sv_tensor sv_columns(sv_tensor t, int first, int count)
{
    assert(t.ndim == 2 && first >= 0 && first + count <= t.dim[1]);
    t.data = (char *)t.data + (size_t)first * sv_dtype_bytes((sv_dtype)t.dtype);
    t.dim[1] = count;
    return t;
}

/* The same view with the live rows of another tensor. */
static inline sv_tensor sv_with_rows_of(sv_tensor t, sv_tensor other)
{
    t.offsets = other.offsets;
    t.batch = other.batch;
    return t;
}

/* Live rows, for code that runs where the tensor lies (CPU kernels). */
static inline int sv_live_rows(sv_tensor t)
{
    return t.offsets ? t.offsets[t.batch] : t.dim[0];
}

static inline float *sv_f32(sv_tensor t)
{
    assert(t.dtype == SV_F32);
    return (float *)t.data;
}
static inline int32_t *sv_i32(sv_tensor t)
{
    assert(t.dtype == SV_I32);
    return (int32_t *)t.data;
}

#endif
