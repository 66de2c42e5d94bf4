/* SPDX-License-Identifier: Apache-2.0
 *
 * The region of interest of a log of Argoverse 2: what lies within 5 m of a drivable area, in the raster that
 * the official tools draw (map_api.py of av2), as only boxes there count:
 *
 *   - drivable areas are polygons of LOG/map/log_map_archive_*.json, in city coordinates
 *   - corners go to the nearest cell of 10 cm, seen from the lowest whole metre of all corners, and are
 *     filled as Pillow does it
 *   - a cell belongs to the region when a cell of an area is within 50 cells of it
 *   - a place belongs to the cell it falls in
 */
#ifndef SV_ARGOVERSE2_ROI_H
#define SV_ARGOVERSE2_ROI_H

#include "perception/core/context.h"

typedef struct sv_argoverse2_roi {
    double x_min, y_min; /* city, metres */
    int width, height;   /* cells */
    uint8_t *cells;      /* malloc'ed [height][width]; 1: of the region */
} sv_argoverse2_roi;

/* 'folder' is LOG/map. */
sv_status sv_argoverse2_roi_read(sv_ctx *c, const char *folder, sv_argoverse2_roi *out);
/* The same from the JSON's bytes; 'name' stands for the file in messages. After a failure it is empty. */
sv_status sv_argoverse2_roi_parse(sv_ctx *c, const char *name, const void *bytes, size_t size,
                                  sv_argoverse2_roi *out);
void sv_argoverse2_roi_free(sv_argoverse2_roi *roi); /* may be called twice */
bool sv_argoverse2_roi_holds(const sv_argoverse2_roi *roi, double x, double y);

#endif
