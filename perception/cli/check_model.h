/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two halves of the check of whole detectors share: check_model.c runs the frame and compares the
 * stages up to the head's maps, check_head.c what the head makes of them.
 */
#ifndef SV_CHECK_MODEL_H
#define SV_CHECK_MODEL_H

#include "check.h"

#include "perception/detector.h"

/* Two float32 runs may choose differently among scores that are no further apart. */
#define CHECK_MARGIN 2e-6f

/* A copy of a tensor of the head. */
typedef struct check_kept {
    char name[64]; /* "head/center" */
    float *values; /* [rows, channels]; integers as they are */
    int rows, channels;
    bool integer;
} check_kept;

enum { CHECK_KEPT = 24 };

typedef struct model_check {
    check_run *run;
    check_file *file;
    const sv_model *model;
    int row_stride, width;     /* cells along x of the BEV map */
    int map_height, map_width; /* cells of the head's maps */
    float *scores;             /* of the voxels to pick from, host */
    int score_count;
    check_kept kept[CHECK_KEPT];
    int kept_count;
    int ties; /* picks of the head that may be others: their heat is within the margin of the last one's */
} model_check;

typedef enum check_layout { CHECK_CHW, CHECK_HWC, CHECK_CWH } check_layout; /* CWH: x before y */

/* base/channel_mean and base/channel_std of rows x channels values; absent ones are passed over. */
sv_status check_statistics(model_check *m, const char *mean_name, const char *std_name, const float *x,
                           int rows, int channels, const char *attribute);
/* A crop of a map [H*W, C] against a dataset with these last dimensions; its first y and x in attribute
 * 'origin_name' (CWH: x and y). An absent dataset is passed over. */
sv_status check_crop(model_check *m, const char *dataset, const char *origin_name, const char *attribute,
                     const float *map, int width, int channels, check_layout layout);

/* A tensor of the head, "head/<name>", on the host: compare it or keep it for check_head_boxes(). */
sv_status check_head_tensor(model_check *m, const char *name, sv_tensor tensor, const void *host, int rows);
/* After the frame: candidates, queries, and the boxes. */
sv_status check_head_boxes(model_check *m, const sv_box *boxes, int count);
void check_head_free(model_check *m);

#endif
