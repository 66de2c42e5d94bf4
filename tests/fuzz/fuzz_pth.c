/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a PyTorch checkpoint: as the archive itself, or (first byte 'P') as the pickle in a sound
 * archive.
 */
#include "fuzz_weights.h"
#include "support_pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || data[0] != 'P' || (size > 1 && data[1] == 'K')) {
        parse_weights(data, size);
        return 0;
    }
    bytes pickle = {0};
    put(&pickle, data + 1, size - 1);
    const bytes file = pth_around(&pickle);
    parse_weights(file.data, file.size);
    free(file.data);
    free(pickle.data);
    return 0;
}
