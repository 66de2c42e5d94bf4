/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a native model file.
 */
#include "fuzz_weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse_weights(data, size);
    return 0;
}
