/* SPDX-License-Identifier: Apache-2.0 */
#include "check_trecvit.h"

#include <stdlib.h>
#include <string.h>

sv_status trecvit_with_weights(check_run *run, check_file *file, const char *group, sv_weights *weights,
                               trecvit_body body)
{
    trecvit_case k = {.run = run, .file = file, .c = run->c, .group = group, .weights = weights};
    sv_ctx *c = run->c;
    sv_arena_init(&k.arena, "reference weights", c->device);
    c->weights = &k.arena;
    sv_status status = weights ? SV_OK : check_video_weights(run, file, group, &k.weights);
    if (status == SV_OK) status = sv_binder_open(c, k.weights, &k.binder);
    if (status == SV_OK) status = trecvit_rewind(&k);
    if (status == SV_OK) status = body(&k);
    c->weights = NULL;
    c->probe = NULL;
    sv_binder_close(k.binder);
    sv_weights_free(k.weights);
    sv_arena_free(&k.arena);
    return status;
}

sv_status trecvit_rewind(trecvit_case *k)
{
    sv_profile_frame_begin(k->c);
    SV_TRY(sv_arena_reset(k->c, &k->c->frame));
    return sv_arena_reset(k->c, &k->c->scratch);
}

int trecvit_size(const trecvit_case *k, const char *weight, int dim)
{
    const sv_tensor t = sv_weights_find(k->weights, weight);
    return sv_is_none(t) || dim >= t.ndim ? 0 : t.dim[dim];
}

sv_status trecvit_input(trecvit_case *k, const char *name, sv_h5_array *array, sv_tensor *out)
{
    sv_ctx *c = k->c;
    SV_TRY(check_video_read(k->run, k->file, k->group, name, array));
    const int columns = array->ndim > 0 && !array->integer ? (int)array->dim[array->ndim - 1] : 1;
    const int rows = columns > 0 ? (int)(array->count / (size_t)columns) : 0;
    float *host = array->f;
    if (array->integer) {
        host = malloc(sizeof *host * array->count + 1);
        SV_CHECK(c, host, SV_NO_MEMORY, "no memory for '%s'", name);
        for (size_t i = 0; i < array->count; i++) host[i] = (float)array->i[i];
    }
    sv_status status = sv_frame_alloc(c, out, "reference input", SV_F32, rows, columns, SV_NONE);
    if (status == SV_OK) status = c->device->upload(c, out->data, host, sizeof *host * array->count);
    if (status == SV_OK) status = c->device->queue_wait(c);
    if (array->integer) free(host);
    return status;
}

sv_status trecvit_download(trecvit_case *k, sv_tensor t, float **out)
{
    void *host = NULL;
    int rows = 0;
    *out = NULL;
    SV_TRY(sv_download_rows(k->c, t, &host, &rows));
    *out = host;
    return SV_OK;
}

sv_status trecvit_compare(trecvit_case *k, const char *name, sv_tensor got)
{
    if (!check_video_has(k->file, k->group, name)) return SV_OK;
    float *host = NULL;
    SV_TRY(trecvit_download(k, got, &host));
    const size_t count = (size_t)got.dim[0] * (size_t)sv_row_elements(got);
    const sv_status status = check_video_compare(k->run, k->file, k->group, name, host, count);
    free(host);
    return status;
}

float *trecvit_swapped(const float *x, int a, int b, int width)
{
    float *out = malloc(sizeof *out * (size_t)a * (size_t)b * (size_t)width + 1);
    for (int i = 0; out && i < a; i++)
        for (int j = 0; j < b; j++)
            memcpy(out + ((size_t)j * (size_t)a + (size_t)i) * (size_t)width,
                   x + ((size_t)i * (size_t)b + (size_t)j) * (size_t)width, sizeof *out * (size_t)width);
    return out;
}
