/* SPDX-License-Identifier: Apache-2.0
 *
 * Precision-recall curves of an evaluator: one picture with all panels, or a folder with a picture for each.
 */
#ifndef SV_CURVE_SHEET_H
#define SV_CURVE_SHEET_H

#include "perception/plot.h"

typedef struct sv_curve_sheet {
    const void *scores;
    int panels, columns, rows; /* of the one picture */
    /* Place of a panel in the one picture; false when it is not there, but for a file of its own. */
    bool (*place)(const void *scores, int panel, int *column, int *row);
    /* Name of its file without ending; false when there is none. */
    bool (*name)(const void *scores, int panel, char *out, size_t room);
    /* 'text' is the plot's size of letters. */
    void (*draw)(sv_image *image, int x, int y, int width, int height, const void *scores, int panel,
                 int text);
} sv_curve_sheet;

/* One picture when 'path' ends in .png, else a folder, made if need be. */
sv_status sv_curve_sheet_write(sv_ctx *c, const sv_curve_sheet *sheet, const char *path);
/* A plot of precision over recall, 0..1 both. */
sv_plot sv_curve_plot(const char *title, const sv_plot_line *lines, int count, int text);

#endif
