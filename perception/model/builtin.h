/* SPDX-License-Identifier: Apache-2.0
 *
 * The configurations that ship (perception/model/configs) as part of the library, so that '-c cluster' works wherever
 * the program lies. The table behind this is written by CMake.
 */
#ifndef SV_BUILTIN_H
#define SV_BUILTIN_H

#include <stddef.h>

typedef struct sv_builtin_file {
    const char *name; /* below the folder: "cluster.yaml", "lion_base/kitti.yaml" */
    const unsigned char *text;
    size_t bytes;
} sv_builtin_file;

extern const sv_builtin_file sv_builtin_files[];
extern const int sv_builtin_file_count;

/* "cluster" (a bare name, without folder and ending) or "lion_base/kitti.yaml"; NULL: no such file. */
const sv_builtin_file *sv_builtin_find(const char *name);

#endif
