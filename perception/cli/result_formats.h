/* SPDX-License-Identifier: Apache-2.0
 *
 * Formats that 'savanna detect' writes results in: the program's own JSON, and those that datasets' servers
 * take. One more is an entry in result_formats.c.
 */
#ifndef SV_RESULT_FORMATS_H
#define SV_RESULT_FORMATS_H

#include "app.h"

#include "datasets/dataset.h"
#include "perception/results.h"

typedef struct result_writer {
    sv_ctx *c;
    const struct result_format *format;
    const char *path; /* NULL: stdout; else a file, or a folder with a file for every frame */
    bool folder;
    const sv_dataset *dataset; /* NULL: point files */
    const char *const *classes;
    int class_count;
    bool has_velocity;
    bool has_camera; /* pictures have a part in the boxes */
    int frames;      /* that are written */
    int other_class; /* boxes of classes that the dataset has not */
    void *own;       /* of the format; malloc'ed */
} result_writer;

typedef struct result_format {
    const char *name;
    const char *dataset; /* whose frames it needs; NULL: any */
    const char *needs;   /* of them, for a message */
    const char *file;    /* "FILE.bin": one file of all frames; NULL: see 'folder' */
    bool folder;         /* a file for every frame, always */
    unsigned parts;      /* of sv_read */
    sv_status (*open)(result_writer *w);
    sv_status (*add)(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count);
    sv_status (*close)(result_writer *w); /* all frames were added */
    /* Some frames could not be: what may stay of a file is kept. NULL: nothing is. */
    sv_status (*keep)(result_writer *w);
    void (*discard)(result_writer *w); /* behind closing, too; not when open() was not called */
} result_format;

/* NULL when there is none; result_format_names() has those there are. */
const result_format *result_format_find(const char *name);
const char *result_format_names(void); /* "json, kitti ..." */
/* 0, or the exit code of a usage error: dataset and -o do not go with the format. */
int result_format_check(const sv_app *app, const result_format *format, const char *dataset,
                        const char *output);

/* "DIR/", or a folder that is there. */
bool result_is_folder(const char *path);
/* Make the folder unless it is there. */
sv_status result_make_folder(sv_ctx *c, const char *path);
/* FOLDER/STEM.EXTENSION */
void result_path_in(const char *folder, const char *stem, const char *extension, char *out, size_t size);

/* w is filled but for 'folder' and 'own'. */
sv_status result_writer_open(result_writer *w);
sv_status result_writer_add(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count);
/* 'done': all frames were added; otherwise what can be kept is. */
sv_status result_writer_close(result_writer *w, bool done);
void result_writer_discard(result_writer *w); /* may be called twice, and without opening */

#endif
