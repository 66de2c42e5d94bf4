/* SPDX-License-Identifier: Apache-2.0
 *
 * Boxes as lines of text: the results of one sample.
 */
#include "object_result.h"

#include "object_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

int sv_object_class_like(const sv_dataset *d, const char *name)
{
    for (int k = 0; k < sv_dataset_class_count(d); k++)
        if (strcasecmp(sv_dataset_classes(d)[k], name) == 0) return k;
    return -1;
}

sv_status sv_object_result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                    const char *const *classes, const sv_box *boxes, int count,
                                    int *other_class, sv_eval_result *out)
{
    sv_object_line *lines = calloc((size_t)count + 1, sizeof *lines);
    SV_CHECK(c, lines, SV_NO_MEMORY, "sample %s: no memory for %d boxes", sample->id, count);
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const int k = sv_object_class_like(e->dataset, classes[boxes[i].label - 1]);
        if (k < 0) continue;
        lines[kept].box = boxes[i];
        lines[kept].has_velocity = boxes[i].vx != 0 || boxes[i].vy != 0;
        snprintf(lines[kept++].type, sizeof lines->type, "%s", sv_dataset_classes(e->dataset)[k]);
    }
    if (kept < count && __atomic_fetch_add(other_class, count - kept, __ATOMIC_RELAXED) == 0)
        sv_log(c, SV_LOG_WARNING,
               "sample %s: %d boxes are of classes that the dataset has not, and are left out, here and in "
               "later samples",
               sample->id, count - kept);
    *out = (sv_eval_result){lines, kept};
    return SV_OK;
}

sv_status sv_object_result_write(sv_ctx *c, const char *path, const sv_eval_result *result)
{
    return sv_object_lines_write(c, path, result->data, result->count);
}

sv_status sv_object_result_read(sv_ctx *c, const char *path, sv_eval_result *out)
{
    sv_object_lines lines;
    SV_TRY(sv_object_lines_read(c, path, true, &lines));
    *out = (sv_eval_result){lines.data, lines.count};
    return SV_OK;
}
