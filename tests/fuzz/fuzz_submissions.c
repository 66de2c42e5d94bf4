/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a map of Argoverse 2 and as results of ONCE; the first byte chooses which. A region holds what
 * it says, and results are of frames and classes that there are.
 */
#define _XOPEN_SOURCE 700
#include "datasets/argoverse2_roi.h"
#include "datasets/object_text.h"
#include "datasets/once_results.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds) abort();
}

static void map(sv_ctx *c, const void *bytes, size_t size)
{
    sv_argoverse2_roi roi;
    if (sv_argoverse2_roi_parse(c, "fuzz", bytes, size, &roi) != SV_OK) {
        must(roi.cells == NULL);
        return;
    }
    must(roi.width > 0 && roi.height > 0);
    int inside = 0;
    for (int i = -2; i < 100; i++)
        inside += sv_argoverse2_roi_holds(&roi, roi.x_min + 0.01 * i * (roi.width + 1) / 10,
                                          roi.y_min + 0.01 * i * (roi.height + 1) / 10);
    must(inside <= 102 && !sv_argoverse2_roi_holds(&roi, roi.x_min - 1, roi.y_min));
    sv_argoverse2_roi_free(&roi);
}

static char folder[64], path[128];
static sv_dataset *dataset;
static sv_evaluator *evaluator;

static void save(const char *name, const void *bytes, size_t size)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    must(file && fwrite(bytes, 1, size, file) == size);
    must(fclose(file) == 0);
}

static void remove_folder(void)
{
    static const char *const parts[] = {
        "results.json",           "ImageSets/val.txt", "ImageSets", "data/000076/000076.json",
        "data/000076/lidar_roof", "data/000076",       "data",      "."};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        remove(i + 1 < sizeof parts / sizeof *parts ? path : folder);
    }
}

/* A sequence of one annotated frame. */
static void make_set(sv_ctx *c)
{
    static const char sequence[] = "{\"meta_info\": {}, \"calib\": {}, \"frames\": [{\"frame_id\": \"100\", "
                                   "\"pose\": [0, 0, 0, 1, 0, 0, 0], \"annos\": "
                                   "{\"names\": [\"Car\"], \"boxes_3d\": [[1, 2, 3, 4, 2, 1.5, 0]]}}]}";
    static const char *const folders[] = {"ImageSets", "data", "data/000076", "data/000076/lidar_roof"};
    strcpy(folder, "/tmp/savanna-fuzz-XXXXXX");
    must(mkdtemp(folder) != NULL && atexit(remove_folder) == 0);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
        must(mkdir(path, 0700) == 0);
    }
    save("ImageSets/val.txt", "000076", 6);
    save("data/000076/000076.json", sequence, strlen(sequence));
    const sv_dataset_def def = sv_dataset_def_default("once", folder);
    const sv_evaluator_def how = sv_evaluator_def_default();
    must(sv_dataset_open(c, &def, &dataset) == SV_OK);
    must(sv_evaluator_open(c, dataset, &how, &evaluator) == SV_OK);
}

static void results(sv_ctx *c, const void *bytes, size_t size)
{
    sv_submission s;
    sv_eval_result read = {0};
    save("results.json", bytes, size);
    if (sv_submission_open(c, evaluator, path, &s) != SV_OK) {
        must(s.own == NULL && s.present == NULL);
        return;
    }
    must(sv_submission_read(c, evaluator, &s, 0, &read) == SV_OK);
    const sv_object_line *lines = read.data;
    for (int i = 0; i < read.count; i++)
        must(isfinite(lines[i].box.x) && isfinite(lines[i].box.score) && lines[i].box.dx >= 0 &&
             memchr(lines[i].type, '\0', sizeof lines[i].type) != NULL);
    sv_eval_result_free(&read);
    sv_submission_close(evaluator, &s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sv_ctx *c;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
        make_set(c);
    }
    if (size == 0) return 0;
    if (data[0] % 2)
        results(c, data + 1, size - 1);
    else
        map(c, data + 1, size - 1);
    sv_error_clear(c);
    return 0;
}
