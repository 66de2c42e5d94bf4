/* SPDX-License-Identifier: Apache-2.0
 *
 * What is wrong with custom data: every file and every line of it, not only the first. Each fault is a finding that
 * names where it is; what cannot be read is left out of what follows.
 */
#include "custom_dataset.h"

#include "object_text.h"
#include "perception/core/file.h"
#include "perception/points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, LIMIT = 1 << 28 };

typedef struct inspection {
    sv_ctx *c;
    const char *root;
    sv_findings *findings;
    sv_custom_description description;
    sv_names stems; /* of the point files, sorted */
    int *labels;    /* objects by class; the last: of none */
    long long points;
    int objects;
} inspection;

/* The context's failure as a finding. */
static sv_status found(inspection *v, const char *key)
{
    const sv_status status = sv_findings_add(v->c, v->findings, true, key, "%s", sv_error_message(v->c));
    sv_error_clear(v->c);
    return status;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool has_points(const inspection *v, const char *name)
{
    return v->stems.count > 0 && bsearch(&name, v->stems.data, (size_t)v->stems.count, sizeof *v->stems.data,
                                         compare_texts) != NULL;
}

/* ---- points ------------------------------------------------------------------------------------------- */

static sv_status inspect_cloud(inspection *v, const char *path)
{
    sv_points points;
    if (sv_points_read(v->c, path, v->description.layout, &points) != SV_OK) return found(v, "points");
    sv_status status = SV_OK;
    if (points.dropped > 0)
        status =
            sv_findings_add(v->c, v->findings, true, "points", "%s: %d of %d points are not finite numbers",
                            path, points.dropped, points.dropped + points.count);
    if (status == SV_OK && points.count == 0)
        status = sv_findings_add(v->c, v->findings, true, "points", "%s: holds no points", path);
    v->points += points.count;
    sv_points_free(&points);
    return status;
}

/* The names lose their extensions; a frame that is there twice is told. */
static sv_status inspect_points(inspection *v)
{
    char folder[PATH], path[PATH];
    SV_TRY(sv_dataset_path(v->c, folder, sizeof folder, "%s/points", v->root));
    SV_TRY(sv_dataset_list(v->c, folder, "", &v->stems));
    int kept = 0;
    for (int i = 0; i < v->stems.count; i++) {
        char *name = v->stems.data[i];
        SV_TRY(sv_dataset_path(v->c, path, sizeof path, "%s/%s", folder, name));
        char *dot = strrchr(name, '.');
        const bool cloud = sv_points_name(name) && dot;
        if (!cloud || dot == name || dot - name > 63 || strpbrk(name, " \t")) {
            SV_TRY(sv_findings_add(v->c, v->findings, true, "points",
                                   cloud ? "%s: the name of a frame has 1 to 63 letters and no spaces"
                                         : "%s: is no file of points (.bin, .npy, .pcd, .ply)",
                                   path));
            continue;
        }
        SV_TRY(inspect_cloud(v, path));
        *dot = '\0';
        v->stems.data[i] = v->stems.data[kept];
        v->stems.data[kept++] = name;
    }
    for (int i = kept; i < v->stems.count; i++) free(v->stems.data[i]);
    v->stems.count = kept;
    if (kept > 0) qsort(v->stems.data, (size_t)kept, sizeof *v->stems.data, compare_texts);
    for (int i = 1; i < kept; i++)
        if (strcmp(v->stems.data[i - 1], v->stems.data[i]) == 0)
            SV_TRY(sv_findings_add(v->c, v->findings, true, "points", "%s/%s: is there in two formats",
                                   folder, v->stems.data[i]));
    return sv_findings_add(v->c, v->findings, kept == 0, "points", "%d frames, %lld points of %s", kept,
                           v->points, v->description.layout);
}

/* ---- labels ------------------------------------------------------------------------------------------- */

static sv_status inspect_line(inspection *v, sv_kitti_lines *lines)
{
    const sv_object_measure *m = &v->description.measure;
    sv_object_line line;
    if (sv_object_line_parse(v->c, lines, false, &line) != SV_OK) return found(v, "labels");
    int k = 0;
    while (k < m->count && strcmp(m->names[k], line.type) != 0) k++;
    v->labels[k]++;
    v->objects++;
    if (k < m->count) return SV_OK;
    return sv_findings_add(v->c, v->findings, true, "labels",
                           "%s, line %d: dataset.txt has no class %s (add 'class %s', or correct the name)",
                           lines->name, lines->line, line.type, line.type);
}

static sv_status inspect_label_file(inspection *v, const char *path)
{
    void *text;
    size_t size;
    if (sv_file_read(v->c, path, SV_KITTI_TEXT_LIMIT, &text, &size) != SV_OK) return found(v, "labels");
    sv_kitti_lines lines = sv_kitti_lines_of(path, text, size);
    sv_status status = SV_OK;
    while (status == SV_OK && sv_kitti_next_line(&lines))
        if (sv_object_line_counts(&lines)) status = inspect_line(v, &lines);
    free(text);
    return status;
}

static sv_status inspect_labels(inspection *v)
{
    char folder[PATH], path[PATH];
    SV_TRY(sv_dataset_path(v->c, folder, sizeof folder, "%s/labels", v->root));
    if (!sv_dataset_is_folder(folder))
        return sv_findings_add(v->c, v->findings, false, "labels", "none: detection, but no evaluation");
    sv_names names;
    SV_TRY(sv_dataset_list(v->c, folder, "", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        char *name = names.data[i], *dot = strrchr(name, '.');
        status = sv_dataset_path(v->c, path, sizeof path, "%s/%s", folder, name);
        if (status == SV_OK && (!dot || strcmp(dot, ".txt") != 0)) {
            status =
                sv_findings_add(v->c, v->findings, true, "labels", "%s: labels are files NAME.txt", path);
            continue;
        }
        *dot = '\0';
        if (status == SV_OK && !has_points(v, name))
            status =
                sv_findings_add(v->c, v->findings, true, "labels", "%s: points/ has no frame %s", path, name);
        if (status == SV_OK) status = inspect_label_file(v, path);
    }
    sv_names_free(&names);
    for (int i = 0; i < v->stems.count && status == SV_OK; i++) {
        status = sv_dataset_path(v->c, path, sizeof path, "%s/%s.txt", folder, v->stems.data[i]);
        if (status == SV_OK && !sv_dataset_is_file(path))
            status =
                sv_findings_add(v->c, v->findings, true, "labels",
                                "%s: is not there (an empty file says that a frame has no objects)", path);
    }
    SV_TRY(status);
    char counts[160] = "";
    const sv_object_measure *m = &v->description.measure;
    for (int k = 0; k < m->count; k++) {
        const size_t used = strlen(counts);
        snprintf(counts + used, sizeof counts - used, "%s%s %d", k ? ", " : "", m->names[k], v->labels[k]);
    }
    return sv_findings_add(v->c, v->findings, false, "labels", "%d objects: %s", v->objects, counts);
}

/* ---- poses and splits --------------------------------------------------------------------------------- */

/* One line at a time, so that a wrong one does not hide the next. */
static sv_status inspect_poses(inspection *v)
{
    char path[PATH];
    void *text;
    size_t size;
    SV_TRY(sv_dataset_path(v->c, path, sizeof path, "%s/poses.txt", v->root));
    if (!sv_dataset_is_file(path))
        return sv_findings_add(v->c, v->findings, false, "poses",
                               "none: every frame is a sequence of its own");
    if (sv_file_read(v->c, path, LIMIT, &text, &size) != SV_OK) return found(v, "poses");
    char *seen = calloc((size_t)v->stems.count + 1, 1);
    sv_status status = seen ? SV_OK : SV_FAIL(v->c, SV_NO_MEMORY, "%s: no memory", path);
    sv_kitti_lines lines = sv_kitti_lines_of(path, text, size);
    int count = 0;
    while (status == SV_OK && sv_kitti_next_line(&lines)) {
        sv_custom_pose pose;
        if (!sv_object_line_counts(&lines)) continue;
        if (sv_custom_parse_pose(v->c, &lines, &pose) != SV_OK) {
            status = found(v, "poses");
            continue;
        }
        const char *name = pose.name;
        char **place = v->stems.count
                           ? bsearch(&name, v->stems.data, (size_t)v->stems.count, sizeof name, compare_texts)
                           : NULL;
        count++;
        if (!place || seen[place - v->stems.data])
            status = sv_findings_add(v->c, v->findings, true, "poses",
                                     place ? "%s, line %d: the frame %s stands twice"
                                           : "%s, line %d: points/ has no frame %s",
                                     path, lines.line, name);
        if (place) seen[place - v->stems.data] = 1;
    }
    for (int i = 0; i < v->stems.count && status == SV_OK; i++)
        if (!seen[i])
            status = sv_findings_add(v->c, v->findings, true, "poses", "%s: has no line for the frame %s",
                                     path, v->stems.data[i]);
    free(seen);
    free(text);
    return status == SV_OK ? sv_findings_add(v->c, v->findings, false, "poses", "%d", count) : status;
}

static sv_status inspect_split(inspection *v, const char *path, const char *name)
{
    void *text;
    size_t size;
    sv_names names;
    if (sv_file_read(v->c, path, LIMIT, &text, &size) != SV_OK) return found(v, "splits");
    const sv_status parsed = sv_custom_parse_names(v->c, path, text, size, &names);
    free(text);
    if (parsed != SV_OK) return found(v, "splits");
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++)
        if (!has_points(v, names.data[i]))
            status = sv_findings_add(v->c, v->findings, true, "splits", "%s: points/ has no frame %s", path,
                                     names.data[i]);
    if (names.count > 0) qsort(names.data, (size_t)names.count, sizeof *names.data, compare_texts);
    for (int i = 1; i < names.count && status == SV_OK; i++)
        if (strcmp(names.data[i - 1], names.data[i]) == 0)
            status = sv_findings_add(v->c, v->findings, true, "splits", "%s: the frame %s stands twice", path,
                                     names.data[i]);
    if (status == SV_OK)
        status = sv_findings_add(v->c, v->findings, false, "splits", "%s: %d frames", name, names.count);
    sv_names_free(&names);
    return status;
}

static sv_status inspect_splits(inspection *v)
{
    char folder[PATH], path[PATH];
    SV_TRY(sv_dataset_path(v->c, folder, sizeof folder, "%s/splits", v->root));
    if (!sv_dataset_is_folder(folder))
        return sv_findings_add(v->c, v->findings, false, "splits", "none: all frames");
    sv_names names;
    SV_TRY(sv_dataset_list(v->c, folder, ".txt", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        status = sv_dataset_path(v->c, path, sizeof path, "%s/%s", folder, names.data[i]);
        if (status == SV_OK) status = inspect_split(v, path, names.data[i]);
    }
    sv_names_free(&names);
    return status;
}

/* ---- the folder --------------------------------------------------------------------------------------- */

static sv_status inspect_all(inspection *v)
{
    char path[PATH];
    void *text;
    size_t size;
    SV_TRY(sv_dataset_path(v->c, path, sizeof path, "%s/dataset.txt", v->root));
    if (sv_file_read(v->c, path, LIMIT, &text, &size) != SV_OK) return found(v, "dataset.txt");
    const sv_status parsed = sv_custom_parse_description(v->c, path, text, size, &v->description);
    free(text);
    /* without it nothing else can be judged */
    if (parsed != SV_OK) return found(v, "dataset.txt");
    v->labels = calloc((size_t)v->description.measure.count + 1, sizeof *v->labels);
    SV_CHECK(v->c, v->labels, SV_NO_MEMORY, "%s: no memory", path);
    SV_TRY(
        sv_findings_add(v->c, v->findings, false, "dataset.txt", "%d classes", v->description.measure.count));
    SV_TRY(inspect_points(v));
    SV_TRY(inspect_labels(v));
    SV_TRY(inspect_poses(v));
    return inspect_splits(v);
}

sv_status sv_custom_inspect(sv_ctx *c, const char *root, sv_findings *findings)
{
    inspection v = {.c = c, .root = root, .findings = findings};
    const sv_status status = inspect_all(&v);
    sv_names_free(&v.stems);
    free(v.labels);
    return status;
}
