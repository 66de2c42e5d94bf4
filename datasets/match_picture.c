/* SPDX-License-Identifier: Apache-2.0 */
#include "match_picture.h"

#include "perception/overlay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of the legend. */
static const struct {
    sv_match_look look;
    sv_box_style style;
    const char *name;
} looks[SV_MATCH_LOOKS] = {
    {SV_LABEL_FOUND, {.colour = 0xe8edf5, .dashed = true, .width = 1.4f}, "label, found"},
    {SV_LABEL_MISSED, {.colour = 0xffd24a, .dashed = true, .width = 2.4f, .fill = 0.25f}, "label, missed"},
    {SV_LABEL_IGNORED, {.colour = 0x8794a8, .dashed = true, .width = 1.0f}, "label, not counted"},
    {SV_DETECTION_RIGHT, {.colour = 0x35d07f, .width = 1.8f, .fill = 0.15f}, "detection, right"},
    {SV_DETECTION_FALSE, {.colour = 0xff4d5e, .width = 1.8f, .fill = 0.22f}, "detection, false"},
    {SV_DETECTION_IGNORED, {.colour = 0x8794a8, .width = 1.2f}, "detection, not counted"},
};

typedef struct drawing {
    sv_box *boxes;
    sv_box_style *styles;
    char (*texts)[48];
    int counts[SV_MATCH_LOOKS];
} drawing;

static void set_box(drawing *d, int i, const sv_match_box *from)
{
    d->boxes[i] = from->box;
    d->boxes[i].label = 1;
    for (int k = 0; k < SV_MATCH_LOOKS; k++)
        if (looks[k].look == from->look) d->styles[i] = looks[k].style;
    if (from->look == SV_LABEL_MISSED)
        snprintf(d->texts[i], sizeof d->texts[i], "%.31s", from->type);
    else if (from->look == SV_DETECTION_RIGHT || from->look == SV_DETECTION_FALSE)
        snprintf(d->texts[i], sizeof d->texts[i], "%.31s %.2f", from->type, (double)from->box.score);
    d->styles[i].text = d->texts[i];
    d->counts[from->look]++;
}

static sv_status draw(sv_ctx *c, const sv_sample *sample, const drawing *d, int count,
                      const sv_match_view *view, sv_image *out)
{
    static const char *const classes[] = {"object"};
    sv_legend_line lines[SV_MATCH_LOOKS];
    sv_camera_picture cameras[SV_DATASET_MAX_CAMERAS];
    int seen = 0, line_count = 0;
    for (int k = 0; k < SV_MATCH_LOOKS; k++)
        if (view->ignored || looks[k].look < SV_LABEL_IGNORED)
            lines[line_count++] = (sv_legend_line){looks[k].style, looks[k].name, d->counts[looks[k].look]};
    for (int i = 0; i < sample->camera_count; i++)
        if (sample->cameras[i].image.rgb)
            cameras[seen++] = (sv_camera_picture){sample->cameras[i].name, &sample->cameras[i].image,
                                                  sample->cameras[i].projection};
    sv_bev_options options = sv_bev_options_default();
    options.x_min = view->x_min, options.x_max = view->x_max;
    options.y_min = view->y_min, options.y_max = view->y_max;
    options.title = view->title;
    options.styles = d->styles;
    options.lines = lines;
    options.line_count = line_count;
    const sv_points points = {
        .data = sample->frame->points, .count = sample->frame->count, .columns = sample->frame->columns};
    return sv_render_frame(c, out, &points, d->boxes, count, classes, 1, &options, cameras, seen);
}

sv_match_view sv_match_view_around(const sv_sample *sample, float reach, bool ignored)
{
    return (sv_match_view){sample->id, -reach, reach, -reach, reach, ignored};
}

sv_status sv_match_picture(sv_ctx *c, const sv_sample *sample, const sv_match_box *boxes, int count,
                           const sv_match_view *view, sv_image *out)
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
    if (status == SV_OK) status = draw(c, sample, &d, count, view, out);
    free(d.boxes);
    free(d.styles);
    free(d.texts);
    return status;
}
