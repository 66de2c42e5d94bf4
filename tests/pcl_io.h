/* SPDX-License-Identifier: Apache-2.0
 *
 * PCL's own readers and writers, the other side of our tests (tests/pcl_io.cpp). libpcl_io brings VTK and much else, so only
 * this test has it.
 */
#ifndef PCL_IO_H
#define PCL_IO_H

#ifdef __cplusplus
extern "C" {
#endif

/* kind: "ascii.pcd", "binary.pcd", "compressed.pcd", "ascii.ply", "binary.ply". xyzi [count*4]. 0 when it worked. */
int pcl_io_save(const char *path, const char *kind, const float *xyzi, int count);
/* By the ending of the name; returns the number of points, or -1; at most 'room' are copied. */
int pcl_io_load(const char *path, float *xyzi, int room);

#ifdef __cplusplus
}
#endif

#endif
