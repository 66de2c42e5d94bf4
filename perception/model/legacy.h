/* SPDX-License-Identifier: Apache-2.0
 *
 * PyTorch's format before 1.6, which OpenPCDet's and LION's training code
 * still asks for (_use_new_zipfile_serialization=False). A stream without an
 * index and without checksums:
 *   pickle  the magic number 0x1950a86a20f9469cfc6c
 *   pickle  1001, the version of the format
 *   pickle  {protocol_version, little_endian, type_sizes}
 *   pickle  the object; storages are ('storage', type, key, location, numbers, None)
 *   pickle  the list of the storages' keys
 *   for each key: int64 numbers, then the numbers, little endian
 */
#ifndef SV_LEGACY_H
#define SV_LEGACY_H

#include "pickle.h"

typedef struct sv_legacy_storage {
    const sv_pickle_value *storage, *key;
    uint64_t offset; /* of the numbers in the file; 0: not in it */
} sv_legacy_storage;

typedef struct sv_legacy {
    sv_pickle pickle;            /* the object */
    uint8_t *head;               /* the beginning of the file, which the pickles' texts point into */
    sv_legacy_storage *storages; /* in key order */
    int count;
} sv_legacy;

/* Whether a file that begins like this is in this format. */
bool sv_legacy_begins(const uint8_t *head, size_t bytes);
/* Also after a failure: sv_legacy_close(). */
sv_status sv_legacy_open(sv_ctx *c, const sv_source *source, sv_legacy *out);
void sv_legacy_close(sv_legacy *legacy);
const sv_legacy_storage *sv_legacy_find(const sv_legacy *legacy,
                                        const sv_pickle_value *key); /* NULL when absent */

#endif
