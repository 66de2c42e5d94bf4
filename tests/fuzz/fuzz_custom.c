/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the text files of custom data, as results, as a sequence of ONCE, and as a chunk of a frame cache; the
 * first byte chooses which. What is read must be finite and lie where the reader says.
 */
#include "datasets/cache_part.h"
#include "datasets/custom_dataset.h"
#include "datasets/object_text.h"
#include "datasets/once.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds) abort();
}

static void description(sv_ctx *c, const char *text, size_t size)
{
    sv_custom_description d;
    if (sv_custom_parse_description(c, "fuzz", text, size, &d) != SV_OK) return;
    must(d.measure.count > 0 && d.measure.count <= SV_OBJECT_CLASSES && d.layout[0]);
    for (int i = 0; i < d.measure.count; i++) {
        must(memchr(d.measure.names[i], '\0', sizeof d.measure.names[i]) != NULL);
        must(d.measure.overlaps[i] > 0 && d.measure.overlaps[i] < 1);
    }
}

static void poses(sv_ctx *c, const char *text, size_t size)
{
    sv_custom_poses list;
    if (sv_custom_parse_poses(c, "fuzz", text, size, &list) != SV_OK) {
        must(list.data == NULL && list.count == 0);
        return;
    }
    for (int i = 0; i < list.count; i++) {
        sv_pose inverse;
        must(isfinite(list.data[i].time) && sv_pose_invert(&list.data[i].to_world, &inverse));
    }
    sv_custom_free_poses(&list);
}

static void objects(sv_ctx *c, const char *text, size_t size, bool result)
{
    sv_object_lines lines;
    if (sv_object_lines_parse(c, "fuzz", text, size, result, &lines) != SV_OK) {
        must(lines.data == NULL && lines.count == 0);
        return;
    }
    for (int i = 0; i < lines.count; i++) {
        const sv_box *b = &lines.data[i].box;
        must(isfinite(b->x) && isfinite(b->heading) && isfinite(b->score) && b->dx >= 0 && b->dy >= 0 &&
             b->dz >= 0);
    }
    sv_object_lines_free(&lines);
}

static void once(sv_ctx *c, const char *text, size_t size)
{
    sv_once_sequence s;
    if (sv_once_parse(c, "fuzz", text, size, &s) != SV_OK) {
        must(s.frames == NULL && s.boxes == NULL);
        return;
    }
    for (int i = 0; i < s.frame_count; i++) {
        const sv_once_frame *f = &s.frames[i];
        must(f->first >= 0 && f->count >= 0 && f->count <= s.box_count && f->first <= s.box_count - f->count);
        for (int k = f->first; k < f->first + f->count; k++)
            must(isfinite(s.boxes[k].value[6]) && s.boxes[k].value[3] > 0 &&
                 memchr(s.boxes[k].type, '\0', sizeof s.boxes[k].type) != NULL);
    }
    sv_once_free(&s);
}

static void chunk(sv_ctx *c, const uint8_t *bytes, size_t size)
{
    static float points[3 * SV_CACHE_ROWS];
    if (size < 3) return;
    void *copy = malloc(size - 2);
    if (!copy) abort();
    memcpy(copy, bytes + 2, size - 2);
    const sv_cache_chunk packed = {.bytes = copy, .size = size - 2, .mask = bytes[0]};
    sv_cache_unpack(c, "fuzz", &packed, bytes[1] * 32, 3, bytes[1] % 3, points);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sv_ctx *c;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
    }
    if (size == 0) return 0;
    const char *text = (const char *)data + 1;
    sv_names names;
    size--;
    switch (data[0] % 7) {
    case 0:
        description(c, text, size);
        break;
    case 1:
        poses(c, text, size);
        break;
    case 2:
        if (sv_custom_parse_names(c, "fuzz", text, size, &names) == SV_OK) sv_names_free(&names);
        break;
    case 3:
        objects(c, text, size, false);
        break;
    case 4:
        objects(c, text, size, true);
        break;
    case 5:
        once(c, text, size);
        break;
    default:
        chunk(c, data + 1, size);
    }
    sv_error_clear(c);
    return 0;
}
