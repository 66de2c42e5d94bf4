/* SPDX-License-Identifier: Apache-2.0
 *
 * Writers of PyTorch checkpoints, byte by byte: good ones as torch.save()
 * makes them, and every kind of bad one. Needs neither Check nor the library,
 * so that the seeds of the fuzz targets are made with it as well.
 */
#ifndef SUPPORT_PTH_H
#define SUPPORT_PTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- bytes --------------------------------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t *data; /* free() it */
    size_t size, room;
} bytes;

void put(bytes *b, const void *data, size_t count);
void put_text(bytes *b, const char *text); /* without a terminator */
void put_le(bytes *b, uint64_t value, int count);

/* ---- zip ----------------------------------------------------------------------------------------------- */

typedef struct zip_member {
    const char *name;
    const void *data;
    size_t size;
    bool deflate;
    uint64_t claimed;   /* size in the directory instead of the real one, when not 0 */
    uint32_t crc_error; /* added to the checksum */
} zip_member;

typedef struct zip_writer {
    bytes out, directory;
    int count;
} zip_writer;

void zip_put(zip_writer *zip, const zip_member *member);
/* With 'zip64' the end records of a large archive, as PyTorch always writes them. Frees the writer. */
bytes zip_end(zip_writer *zip, bool zip64);

/* ---- pickle -------------------------------------------------------------------------------------------- */

void pickle_text(bytes *p, const char *text);
void pickle_int(bytes *p, int64_t value); /* BININT1, BININT2, BININT or LONG1, as Python chooses */
void pickle_float(bytes *p, double value);
void pickle_global(bytes *p, const char *module, const char *name);
void pickle_ints(bytes *p, const int64_t *values, int count); /* a tuple */

enum { PTH_DIMS = 6 };
typedef struct pth_tensor {
    const char *name, *type, *key; /* "layer.weight", "FloatStorage", "0" */
    const char *location;          /* NULL: cpu */
    const void *data;              /* of the storage; NULL: another tensor has brought it */
    size_t bytes;
    int64_t numbers; /* of the storage */
    int64_t offset;
    int ndim;
    int64_t size[PTH_DIMS], stride[PTH_DIMS];
    bool parameter; /* wrapped in _rebuild_parameter */
    bool legacy;    /* its storage is described by six values, as before PyTorch 1.6 */
} pth_tensor;

/* The call that rebuilds a tensor. */
void pickle_tensor(bytes *p, const pth_tensor *t);

/* ---- checkpoints --------------------------------------------------------------------------------------- */

typedef struct pth_options {
    const char *prefix; /* NULL: "archive" */
    bool plain;         /* a state_dict with _metadata instead of OpenPCDet's dictionary */
    bool deflate;
    bool optimizer;        /* a nested optimizer_state with tensors that are not needed */
    const char *byteorder; /* NULL: no such member */
    bool legacy;           /* the stream of PyTorch before 1.6 instead of a zip archive */
    int protocol;          /* 0: 2; from 4 on with frames, MEMOIZE and short texts */
} pth_options;

bytes pth_checkpoint(const pth_tensor *tensors, int count, const pth_options *options);
/* An archive around any pickle. */
bytes pth_around(const bytes *pickle);
/* A small checkpoint: a.weight [2,3] = 0..5, a.bias [3] = 10..12 (the middle of its storage),
 * n.num_batches_tracked = 7. */
bytes pth_small(const pth_options *options);

#endif
