/* SPDX-License-Identifier: Apache-2.0 */
#include "check_video.h"

static bool is_trecvit(check_file *file)
{
    return check_has(file, "model/w/tokenizer/cls");
}
static sv_status run_trecvit(check_run *run, check_file *file)
{
    return SV_FAIL(run->c, SV_UNSUPPORTED, "%s: in work", file->path);
}
const check_kind check_trecvit = {"TRecViT", is_trecvit, run_trecvit};
