/* SPDX-License-Identifier: Apache-2.0
 *
 * Points to boxes in one page:  example_detect_file MODEL.h5 POINTS.bin
 */
#include "perception/savanna.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: %s MODEL.h5 POINTS.bin\n", argv[0]), 2;

    /* A context loads the model; afterwards the detector has its own. */
    sv_ctx_def ctx = sv_ctx_def_default();
    sv_ctx *c = NULL;
    sv_model *model = NULL;
    sv_points points = {0};
    const sv_model_def model_def = {.weights = argv[1]};
    if (sv_ctx_open(&ctx, &c) != SV_OK || sv_model_open(c, &model_def, &model) != SV_OK ||
        sv_points_read(c, argv[2], sv_model_point_layout(model), &points) != SV_OK)
        return fprintf(stderr, "%s\n", c ? sv_error_message(c) : "no memory"), 1;

    sv_detector_def def = sv_detector_def_default();
    sv_detector *detector = NULL;
    if (sv_detector_open(&def, model, &detector) != SV_OK)
        return fprintf(stderr, "%s\n", sv_detector_error(detector)), 1;

    sv_frame *frame = sv_frame_new(sv_device_of(SV_CPU), points.count, points.columns);
    sv_box *boxes = malloc(sizeof *boxes * (size_t)sv_model_max_boxes(model));
    if (!frame || !boxes) return fprintf(stderr, "no memory\n"), 1;
    if (points.count > 0)
        memcpy(frame->points, points.data, sizeof(float) * (size_t)points.count * (size_t)points.columns);
    frame->count = points.count;

    int count = 0;
    if (sv_detect(detector, &frame, 1, NULL, boxes, &count) != SV_OK)
        return fprintf(stderr, "%s\n", sv_detector_error(detector)), 1;
    for (int i = 0; i < count; i++)
        printf("%-12s %.2f  at %6.2f %6.2f %6.2f m, %.2f x %.2f x %.2f m, heading %.2f rad\n",
               sv_model_classes(model)[boxes[i].label - 1], (double)boxes[i].score, (double)boxes[i].x,
               (double)boxes[i].y, (double)boxes[i].z, (double)boxes[i].dx, (double)boxes[i].dy,
               (double)boxes[i].dz, (double)boxes[i].heading);

    free(boxes);
    sv_frame_release(frame);
    sv_detector_close(detector);
    sv_points_free(&points);
    sv_model_release(model);
    sv_ctx_close(c);
    return 0;
}
