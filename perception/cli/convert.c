/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna convert: a point file of one kind into one of another.
 */
#include "app.h"

#include "perception/points.h"

#include <string.h>

static const char *layout, *encoding = "binary";

static int find_encoding(void)
{
    static const char *const names[] = {"binary", "ascii", "compressed"};
    for (int i = 0; i < 3; i++)
        if (strcmp(encoding, names[i]) == 0) return i;
    return -1;
}

static sv_status convert(const sv_app *app, sv_ctx *c, const char *from, const char *to)
{
    sv_points points;
    SV_TRY(sv_points_read(c, from, layout, &points));
    const sv_status status = sv_points_write(c, to, &points, (sv_points_encoding)find_encoding());
    if (status == SV_OK && points.dropped > 0)
        sv_log(c, SV_LOG_WARNING, "%s: %d points that are not finite were left out", from, points.dropped);
    if (status == SV_OK) sv_app_say(app, "%s: %d points, %s", to, points.count, points.layout);
    sv_points_free(&points);
    return status;
}

static int run_convert(sv_app *app, int count, char **inputs)
{
    if (count != 2) return sv_app_usage_error(app, "name two files, to read and to write");
    if (find_encoding() < 0)
        return sv_app_usage_error(app, "--encoding: '%s' is not binary, ascii or compressed", encoding);
    if (!sv_points_name(inputs[1]))
        return sv_app_usage_error(app, "%s: points are written to .bin, .npy, .pcd or .ply", inputs[1]);
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    const sv_status status = convert(app, c, inputs[0], inputs[1]);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--layout", 0, SV_OPTION_TEXT, &layout, "LAYOUT",
     "Columns: xyz, xyzi, xyzir, xyzit or xyzie. Needed for .bin and .npy (with :f16: half floats); of PCD "
     "and PLY it "
     "takes these, by default what there is."},
    {"--encoding", 0, SV_OPTION_TEXT, &encoding, "binary|ascii|compressed",
     "Of the file written: .pcd knows all three, .ply the first two. Default binary."},
};

const sv_command sv_command_convert = {
    .name = "convert",
    .summary = "turn a point file into one of another kind",
    .usage = "IN OUT.bin|OUT.npy|OUT.pcd|OUT.ply [--layout L] [--encoding E]",
    .description =
        "Reads a point cloud (.bin, .npy, PCD, PLY; told by content, but for .bin) and writes it as the kind "
        "that the name of OUT ends with. Values are float32. Points that are not finite are left out and "
        "counted. A PCD file's viewpoint is not applied; fields other than x, y, z, intensity, ring, time "
        "lag "
        "and elongation are not carried over.",
    .examples = "  savanna convert 000134.bin 000134.pcd --layout xyzi\n"
                "  savanna convert cloud.ply cloud.bin\n"
                "  savanna convert cloud.pcd small.pcd --layout xyz --encoding compressed\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_convert,
};
