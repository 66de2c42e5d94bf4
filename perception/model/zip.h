/* SPDX-License-Identifier: Apache-2.0
 *
 * A minimal reader for zip archives (APPNOTE 6.3.10): central directory, zip64,
 * stored and deflated members, CRC-32. What PyTorch writes, plus recompressed
 * copies. Refused: encryption, several disks, other methods, duplicate names,
 * members that overlap each other or the directory, and declared sizes that no
 * honest checkpoint reaches. Reading takes memory for one member at a time.
 */
#ifndef SV_ZIP_H
#define SV_ZIP_H

#include "source.h"

typedef struct sv_zip_entry {
    const char *name;      /* zero-terminated, no control characters */
    uint64_t size, packed; /* bytes, unpacked and as stored */
    uint64_t data;         /* offset of the stored bytes */
    uint64_t header;       /* offset of the local header */
    uint32_t crc;
    bool deflated;
} sv_zip_entry;

typedef struct sv_zip {
    const sv_source *source;
    sv_zip_entry *entries; /* in name order */
    int count;
    uint64_t total; /* bytes of all members, unpacked */
    uint8_t *directory;
    char *names;
} sv_zip;

/* Also after a failure: sv_zip_close(). 'source' must live as long. */
sv_status sv_zip_open(sv_ctx *c, const sv_source *source, sv_zip *zip);
void sv_zip_close(sv_zip *zip);                                       /* may be called twice */
const sv_zip_entry *sv_zip_find(const sv_zip *zip, const char *name); /* NULL when absent */
/* 'bytes' has room for entry->size. */
sv_status sv_zip_read(sv_ctx *c, const sv_zip *zip, const sv_zip_entry *entry, void *bytes);

#endif
