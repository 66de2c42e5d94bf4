/* SPDX-License-Identifier: Apache-2.0 */
#include "curve_sheet.h"

#include "dataset_type.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { PATH = 4096, NAME = 80, SHEET_WIDTH = 380, SHEET_HEIGHT = 300, WIDTH = 960, HEIGHT = 720 };

static sv_status write_all(sv_ctx *c, const sv_curve_sheet *s, const char *path)
{
    sv_image image;
    SV_TRY(sv_image_new(c, &image, s->columns * SHEET_WIDTH, s->rows * SHEET_HEIGHT, SV_PLOT_BACKGROUND));
    for (int k = 0, column, row; k < s->panels; k++)
        if (s->place(s->scores, k, &column, &row))
            s->draw(&image, column * SHEET_WIDTH, row * SHEET_HEIGHT, SHEET_WIDTH, SHEET_HEIGHT, s->scores, k,
                    1);
    const sv_status status = sv_image_write_png(c, &image, path);
    sv_image_free(&image);
    return status;
}

static sv_status write_one(sv_ctx *c, const sv_curve_sheet *s, const char *folder, int panel)
{
    char path[PATH], name[NAME];
    sv_image image;
    if (!s->name(s->scores, panel, name, sizeof name)) return SV_OK;
    for (char *p = name; *p; p++) *p = *p == '/' ? '_' : *p; /* classes are named by people */
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s.png", folder, name));
    SV_TRY(sv_image_new(c, &image, WIDTH, HEIGHT, SV_PLOT_BACKGROUND));
    s->draw(&image, 0, 0, WIDTH, HEIGHT, s->scores, panel, 2);
    const sv_status status = sv_image_write_png(c, &image, path);
    sv_image_free(&image);
    return status;
}

sv_status sv_curve_sheet_write(sv_ctx *c, const sv_curve_sheet *sheet, const char *path)
{
    const size_t length = strlen(path);
    if (length > 4 && strcasecmp(path + length - 4, ".png") == 0) return write_all(c, sheet, path);
    SV_CHECK(c, sv_dataset_is_folder(path) || mkdir(path, 0777) == 0, SV_IO,
             "%s: the folder cannot be made: %s", path, strerror(errno));
    for (int k = 0; k < sheet->panels; k++) SV_TRY(write_one(c, sheet, path, k));
    return SV_OK;
}

sv_plot sv_curve_plot(const char *title, const sv_plot_line *lines, int count, int text)
{
    sv_plot plot = sv_plot_default();
    plot.title = title;
    plot.x = (sv_plot_axis){.label = "recall", .low = 0, .high = 1};
    plot.y = (sv_plot_axis){.label = "precision", .low = 0, .high = 1};
    plot.lines = lines;
    plot.line_count = count;
    plot.legend = SV_PLOT_LOWER_LEFT;
    plot.text = text;
    return plot;
}
