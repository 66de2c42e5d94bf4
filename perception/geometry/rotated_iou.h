/* SPDX-License-Identifier: Apache-2.0
 *
 * Overlap of rotated rectangles seen from above. A rectangle is centre x, y,
 * size dx along its heading and dy across it (metres), heading in radians,
 * counter-clockwise from x.
 *
 * Two rules. The official one is what the CUDA kernels behind nms_gpu compute
 * in float32 (pcdet/ops/iou3d_nms/src/iou3d_nms_kernel.cu): crossings of the
 * edges, corners that lie within 'margin' of the other rectangle, sorted by
 * angle about their mean, shoelace sum; touching boxes overlap a little too
 * much because of the margin. The exact one clips polygons in double.
 */
#ifndef SV_ROTATED_IOU_H
#define SV_ROTATED_IOU_H

#include <stdbool.h>

/* Margins of the official kernels, metres. */
#define SV_NMS_MARGIN     1e-2f /* nms_gpu */
#define SV_NMS_BEV_MARGIN 1e-5f /* nms_gpu_bev */

typedef struct sv_rectangle {
    float x, y, dx, dy;
    float cosine, sine;
    float corner[4][2]; /* in float32, as the official kernel turns them */
    float reach;        /* half diagonal */
} sv_rectangle;

sv_rectangle sv_rectangle_make(float x, float y, float dx, float dy, float heading);
/* False only when the rectangles cannot touch, not even within 'margin'. */
bool sv_rectangles_near(const sv_rectangle *a, const sv_rectangle *b, float margin);
float sv_overlap_official(const sv_rectangle *a, const sv_rectangle *b, float margin);
double sv_overlap_exact(const sv_rectangle *a, const sv_rectangle *b);
/* The exact rule on doubles, for evaluators. */
typedef struct sv_rectangle64 {
    double x, y, dx, dy; /* dx, dy not negative */
    double cosine, sine; /* of the heading */
} sv_rectangle64;
double sv_overlap_exact64(const sv_rectangle64 *a, const sv_rectangle64 *b);
/* overlap / max(area a + area b - overlap, 1e-8); exact: the second rule. */
float sv_iou_bev(const sv_rectangle *a, const sv_rectangle *b, float margin, bool exact);

#endif
