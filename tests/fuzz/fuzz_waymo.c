/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as Waymo's files; the first byte chooses: records with frames, a frame alone, results. What is
 * read must be within its bounds, and every point that is counted is made.
 */
#include "datasets/tfrecord.h"
#include "datasets/waymo.h"
#include "datasets/waymo_eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds) abort();
}

static void frame(sv_ctx *c, const uint8_t *data, size_t size)
{
    static sv_waymo_frame f;
    static sv_waymo_cloud cloud;
    if (sv_waymo_parse_frame(c, (sv_bytes){data, size}, "fuzz", &f) != SV_OK) return;
    must(f.label_count <= SV_WAYMO_LABELS && memchr(f.context, '\0', sizeof f.context) != NULL);
    for (int i = 0; i < f.label_count; i++) {
        const sv_waymo_label *l = &f.labels[i];
        must(isfinite(l->x) && isfinite(l->heading) && isfinite(l->length) && l->type >= 0 &&
             l->type < SV_WAYMO_TYPES);
        must(memchr(l->id, '\0', sizeof l->id) != NULL);
    }
    if (sv_waymo_unpack(c, &f, "fuzz", &cloud) != SV_OK) return;
    must(cloud.total >= 0 && cloud.total <= 10 * SV_WAYMO_PIXELS);
    float *points = malloc(sizeof *points * SV_WAYMO_POINT_COLUMNS * ((size_t)cloud.total + 1));
    if (points && sv_waymo_points(c, &f, "fuzz", &cloud, size % 2, points) == SV_OK && cloud.total > 0) {
        /* written to the end */
        const size_t columns = size % 2 ? 5 : SV_WAYMO_POINT_COLUMNS;
        volatile float last = points[columns * (size_t)cloud.total - 1];
        (void)last;
    }
    free(points);
}

static void records(sv_ctx *c, const uint8_t *data, size_t size)
{
    const sv_source source = sv_source_memory("fuzz", data, size);
    uint64_t at = 0;
    for (int k = 0; k < 8 && size - at >= SV_TFRECORD_HEAD; k++) {
        sv_tfrecord record;
        if (sv_tfrecord_head(c, &source, at, k, data + at, &record) != SV_OK) break;
        uint8_t *bytes = malloc((size_t)record.length + SV_TFRECORD_TAIL);
        must(bytes && sv_tfrecord_read(c, &source, &record, bytes) == SV_OK);
        frame(c, bytes, record.length);
        sv_error_clear(c);
        free(bytes);
        at = sv_tfrecord_end(&record);
        must(at <= size);
    }
}

static void results(sv_ctx *c, const uint8_t *data, size_t size)
{
    sv_source source = sv_source_memory("fuzz", data, size);
    sv_waymo_file file;
    sv_waymo_keys keys = {0};
    if (sv_waymo_file_scan(c, &source, sv_waymo_keys_number, &keys, &file) == SV_OK) {
        int64_t sum = 0;
        sv_waymo_eval *e;
        sv_waymo_scores *scores = malloc(sizeof *scores);
        must(scores && sv_waymo_eval_open(c, &e) == SV_OK);
        for (int i = 0; i < keys.count && i < 16; i++) {
            sv_waymo_object *objects;
            int count;
            if (sv_waymo_file_read(c, &file, i, &objects, &count) != SV_OK) break;
            sum += count;
            /* the same as labels and detections, but not so many that it takes long */
            const sv_waymo_eval_frame f = {objects, objects, count < 64 ? count : 64,
                                           count < 64 ? count : 64};
            must(sv_waymo_eval_add(c, e, &f, 1) == SV_OK);
            free(objects);
        }
        must(sum <= file.objects);
        must(sv_waymo_eval_finish(c, e, scores) == SV_OK);
        for (int k = 0; k < SV_WAYMO_CLASSES; k++)
            must(scores->curve[k][0].ap[0] >= 0 && scores->curve[k][0].ap[0] <= 1.0001f);
        sv_waymo_eval_close(e);
        free(scores);
    }
    sv_waymo_file_close(&file);
    sv_waymo_keys_free(&keys);
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
    switch (data[0] % 3) {
    case 0:
        records(c, data + 1, size - 1);
        break;
    case 1:
        frame(c, data + 1, size - 1);
        break;
    default:
        results(c, data + 1, size - 1);
    }
    sv_error_clear(c);
    return 0;
}
