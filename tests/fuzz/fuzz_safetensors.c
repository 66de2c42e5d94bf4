/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a safetensors file: as they are, or (first byte '{') as the header, with its length put before
 * it.
 */
#include "fuzz_weights.h"
#include "support_pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || data[0] != '{') {
        parse_weights(data, size);
        return 0;
    }
    /* The header ends at a zero byte; the numbers follow. */
    const uint8_t *end = memchr(data, 0, size);
    const size_t header = end ? (size_t)(end - data) : size;
    bytes file = {0};
    put_le(&file, header, 8);
    put(&file, data, header);
    if (end) put(&file, end + 1, size - header - 1);
    parse_weights(file.data, file.size);
    free(file.data);
    return 0;
}
