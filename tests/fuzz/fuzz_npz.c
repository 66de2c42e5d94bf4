/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a NumPy archive of weights: as the archive itself, or (first byte 0x93) as an array in a sound archive.
 */
#include "fuzz_weights.h"
#include "support_pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || data[0] != 0x93) {
        parse_weights(data, size);
        return 0;
    }
    zip_writer zip = {0};
    zip_put(&zip, &(zip_member){.name = "a/b.npy", .data = data, .size = size});
    const bytes file = zip_end(&zip, false);
    parse_weights(file.data, file.size);
    free(file.data);
    return 0;
}
