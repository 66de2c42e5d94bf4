/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a flax checkpoint: as they are, or (behind a first byte 0xff) as what follows its "params".
 */
#include "fuzz_weights.h"
#include "support_pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || data[0] != 0xff) {
        parse_weights(data, size);
        return 0;
    }
    bytes file = {0};
    put(&file, "\x81\xa6params", 8);
    put(&file, data + 1, size - 1);
    parse_weights(file.data, file.size);
    free(file.data);
    return 0;
}
