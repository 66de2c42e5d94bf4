/* SPDX-License-Identifier: Apache-2.0 */
#include "match_picture.h"

#include "perception/overlay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRUTH_FOUND, TRUTH_MISSED, FOUND, FALSE_ALARM, STYLES };
static const struct {
    sv_box_style style;
    const char *name;
} looks[STYLES] = {
    [TRUTH_FOUND] = {{.colour = 0xe8edf5, .dashed = true, .width = 1.4f}, "label, found"},
    [TRUTH_MISSED] = {{.colour = 0xffd24a, .dashed = true, .width = 2.4f, .fill = 0.25f}, "label, missed"},
    [FOUND] = {{.colour = 0x35d07f, .width = 1.8f, .fill = 0.15f}, "detection, right"},
    [FALSE_ALARM] = {{.colour = 0xff4d5e, .width = 1.8f, .fill = 0.22f}, "detection, false"},
};

typedef struct drawing {
    sv_box *boxes;
    sv_box_style *styles;
    char (*texts)[48];
    int counts[STYLES];
} drawing;

static void set_box(drawing *d, int i, const sv_match_box *from)
{
    const int look = from->label ? from->good ? TRUTH_FOUND : TRUTH_MISSED : from->good ? FOUND : FALSE_ALARM;
    d->boxes[i] = from->box;
    d->boxes[i].label = 1;
    d->styles[i] = looks[look].style;
    if (from->label)
        snprintf(d->texts[i], sizeof d->texts[i], "%.31s", look == TRUTH_MISSED ? from->type : "");
    else
        snprintf(d->texts[i], sizeof d->texts[i], "%.31s %.2f", from->type, (double)from->box.score);
    d->styles[i].text = d->texts[i];
    d->counts[look]++;
}

static sv_status draw(sv_ctx *c, const sv_sample *sample, const drawing *d, int count, float reach,
                      sv_image *out)
{
    static const char *const classes[] = {"object"};
    sv_legend_line lines[STYLES];
    sv_camera_picture cameras[SV_DATASET_MAX_CAMERAS];
    int seen = 0;
    for (int k = 0; k < STYLES; k++) lines[k] = (sv_legend_line){looks[k].style, looks[k].name, d->counts[k]};
    for (int i = 0; i < sample->camera_count; i++)
        if (sample->cameras[i].image.rgb)
            cameras[seen++] = (sv_camera_picture){sample->cameras[i].name, &sample->cameras[i].image,
                                                  sample->cameras[i].projection};
    sv_bev_options options = sv_bev_options_default();
    options.x_min = options.y_min = -reach;
    options.x_max = options.y_max = reach;
    options.title = sample->id;
    options.styles = d->styles;
    options.lines = lines;
    options.line_count = STYLES;
    const sv_points points = {
        .data = sample->frame->points, .count = sample->frame->count, .columns = sample->frame->columns};
    return sv_render_frame(c, out, &points, d->boxes, count, classes, 1, &options, cameras, seen);
}

sv_status sv_match_picture(sv_ctx *c, const sv_sample *sample, const sv_match_box *boxes, int count,
                           float reach, sv_image *out)
{
    const size_t room = (size_t)count + 1;
    SV_CHECK(c, sample->frame, SV_INTERNAL, "a picture needs the points of its sample");
    drawing d = {.boxes = calloc(room, sizeof *d.boxes),
                 .styles = calloc(room, sizeof *d.styles),
                 .texts = calloc(room, sizeof *d.texts)};
    sv_status status = d.boxes && d.styles && d.texts
                           ? SV_OK
                           : SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for a picture", sample->id);
    for (int i = 0; i < count && status == SV_OK; i++) set_box(&d, i, &boxes[i]);
    if (status == SV_OK) status = draw(c, sample, &d, count, reach, out);
    free(d.boxes);
    free(d.styles);
    free(d.texts);
    return status;
}
