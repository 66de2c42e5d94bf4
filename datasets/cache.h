/* SPDX-License-Identifier: Apache-2.0
 *
 * A cache of decoded frames: points as the dataset gives them (sweeps gathered, range images unpacked, the
 * field of view cut), with boxes and poses, so that the next evaluation does not make them again. A folder of
 * HDF5 files
 *
 *     CACHE/part-000000.h5 ...     some samples each
 *         points  [rows, columns]  float32, chunks of SV_CACHE_ROWS rows of a column, shuffled and packed
 *                                  (LZF) where that saves half; every sample begins a chunk
 *         frames  [samples, 10]    int64: first row, points, dropped ones, first box, boxes, has a pose (1)
 *                                  or labels (2); of the source: bytes, checksums of values and of content
 *         poses   [samples, 24]    float64: LiDAR to vehicle, vehicle to world, each as the rows of [R | t]
 *         times   [samples]        float64, seconds
 *         boxes   [boxes, 9]       float32: x y z dx dy dz heading vx vy
 *         labels  [boxes, 3]       int32: class (from 1, 0 none), points inside (-1 unknown), has a
 *                                  box (1), a velocity (2)
 *         ids     [samples, 64]    letters
 *         @format, @settings       what it is, and what of
 *
 * A part is written under another name and renamed when it is whole, so a killed run leaves whole parts, and
 * the next one makes the others. Opening compares the settings and, for every sample, the number of bytes it
 * was made from; sv_cache_verify() also their checksums (CRC-32C).
 *
 * A cache stands beside its dataset, it does not replace it: pictures, calibration and what evaluations know
 * beyond boxes still come from there; boxes and poses are compared with it.
 */
#ifndef SV_CACHE_H
#define SV_CACHE_H

#include "dataset.h"

enum { SV_CACHE_ROWS = 8192 };

typedef struct sv_cache sv_cache;

/* Missing or foreign parts, other settings, and sources of another size are errors that say what to do. */
sv_status sv_cache_open(sv_ctx *c, const sv_dataset *dataset, const char *folder, sv_cache **out);
void sv_cache_close(sv_cache *cache); /* NULL is fine */
/* The points of a sample; what else was read of it from the dataset is compared. From several threads at a
 * time. */
sv_status sv_cache_read(sv_ctx *c, sv_cache *cache, sv_sample *sample);

typedef struct sv_cache_progress {
    void (*step)(void *user, int done); /* samples; may be NULL */
    void *user;
} sv_cache_progress;

typedef struct sv_cache_summary {
    int written, kept;       /* samples; kept: in parts that were there */
    long long points, boxes; /* of what was written */
    long long bytes, stored; /* of these points in memory and in the files */
} sv_cache_summary;

/* What a cache of this dataset depends on, one line. */
sv_status sv_cache_settings(sv_ctx *c, const sv_dataset *dataset, char *out, size_t room);
/* All parts that are not there, over the threads of 'c'. 'samples_per_part' 0: a good number. */
sv_status sv_cache_make(sv_ctx *c, const sv_dataset *dataset, const char *folder, int samples_per_part,
                        const sv_cache_progress *progress, sv_cache_summary *out);
/* Compare the content of everything the cache was made from. */
sv_status sv_cache_verify(sv_ctx *c, const sv_dataset *dataset, const char *folder,
                          const sv_cache_progress *progress);

#endif
