/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a configuration; what parses must survive being written and read again.
 */
#include "perception/model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sv_ctx *c;
    if (!c) {
        sv_ctx_def def = sv_ctx_def_default();
        def.threads = 1;
        if (sv_ctx_open(&def, &c) != SV_OK) abort();
    }
    sv_config *config = NULL, *again = NULL;
    if (sv_config_parse(c, (const char *)data, size, "fuzz", NULL, 0, &config) == SV_OK) {
        char *text = NULL, *second = NULL;
        sv_config_check_used(c, config);
        sv_error_clear(c);
        /* the only reason to fail is the size limit */
        if (sv_config_text(c, config, &text) == SV_OK) {
            if (sv_config_parse(c, text, strlen(text), "again", NULL, 0, &again) != SV_OK) abort();
            if (sv_config_text(c, again, &second) != SV_OK || strcmp(text, second) != 0) abort();
        }
        free(text);
        free(second);
    }
    sv_config_free(config);
    sv_config_free(again);
    sv_error_clear(c);
    return 0;
}
