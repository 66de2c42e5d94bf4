/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the text files of KITTI; the first byte chooses which. What is read must be finite, and what
 * is written of it must read back.
 */
#include "datasets/kitti.h"
#include "datasets/kitti_raw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds) abort();
}

/* Everything that is computed from an accepted calibration. */
static void use_calibration(const sv_kitti_calibration *k)
{
    for (int i = 0; i < 12; i++) must(isfinite(k->p2[i]) && isfinite(k->velo_to_cam[i]));
    for (int i = 0; i < 9; i++) must(isfinite(k->lidar_to_rect.r[i]) && isfinite(k->rect_to_lidar.r[i]));
    float points[8][4];
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++) points[i][j] = (float)((i * 7 + j * 3) % 11 - 5) * 10;
    const int kept = sv_kitti_filter_fov(k, SV_KITTI_FOV_TRAINING, 1242, 375, points[0], 8, 4);
    must(kept >= 0 && kept <= 8);
    const sv_box box = {.x = 10, .y = 2, .z = -1, .dx = 4, .dy = 2, .dz = 1.5f, .heading = 0.5f, .label = 1};
    sv_kitti_object object;
    if (sv_kitti_object_of_box(k, &box, "Car", 1242, 375, &object))
        must(object.x1 >= 0 && object.x1 <= object.x2 && object.x2 <= 1241 && object.y1 >= 0 &&
             object.y2 <= 374);
}

static void objects(sv_ctx *c, const char *text, size_t size, bool with_score)
{
    sv_kitti_objects list;
    if (sv_kitti_parse_objects(c, text, size, "fuzz", with_score, &list) != SV_OK) {
        must(list.data == NULL && list.count == 0);
        return;
    }
    for (int i = 0; i < list.count; i++) {
        const sv_kitti_object *o = &list.data[i];
        must(memchr(o->type, '\0', sizeof o->type) != NULL && o->type[0] != '\0');
        must(isfinite(o->x) && isfinite(o->ry) && isfinite(o->score) && o->occluded >= -1 &&
             o->occluded <= 3);
        must(!with_score || o->has_score);
    }
    sv_kitti_free_objects(&list);
}

static void raw(sv_ctx *c, const char *text, size_t size)
{
    /* three texts, separated by a byte that none of them has */
    sv_kitti_text texts[3] = {{"a", text, 0}, {"b", text, 0}, {"c", text, 0}};
    const char *end = text + size;
    for (int i = 0; i < 3; i++) {
        const char *stop = memchr(text, '|', (size_t)(end - text));
        texts[i].data = text;
        texts[i].size = (size_t)((stop ? stop : end) - text);
        text = stop ? stop + 1 : end;
    }
    sv_kitti_calibration k;
    if (sv_kitti_parse_raw_calibration(c, &texts[0], &texts[1], texts[2].size ? &texts[2] : NULL, &k) ==
        SV_OK)
        use_calibration(&k);
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
    const sv_kitti_text whole = {"fuzz", text, --size};
    sv_kitti_calibration k;
    sv_kitti_ids ids;
    double *times, oxts[6];
    int count;
    switch (data[0] % 6) {
    case 0:
        if (sv_kitti_parse_calibration(c, text, size, "fuzz", &k) == SV_OK) use_calibration(&k);
        break;
    case 1:
        objects(c, text, size, false);
        objects(c, text, size, true);
        break;
    case 2:
        if (sv_kitti_parse_ids(c, text, size, "fuzz", &ids) == SV_OK)
            for (int i = 0; i < ids.count; i++) must(ids.data[i][0] != '.' && !strchr(ids.data[i], '/'));
        sv_kitti_free_ids(&ids);
        break;
    case 3:
        raw(c, text, size);
        break;
    case 4:
        if (sv_kitti_parse_times(c, &whole, &times, &count) == SV_OK)
            for (int i = 0; i < count; i++) must(isfinite(times[i]));
        free(times);
        break;
    default:
        if (sv_kitti_parse_oxts(c, &whole, oxts) == SV_OK)
            for (int i = 0; i < 6; i++) must(isfinite(oxts[i]));
    }
    sv_error_clear(c);
    return 0;
}
