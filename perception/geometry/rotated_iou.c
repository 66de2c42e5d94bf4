/* SPDX-License-Identifier: Apache-2.0 */
#define SV_IOU_PUBLIC
#define SV_IOU_HELPER     static
#define SV_IOU_NAME(name) sv_##name
#define SV_IOU_ROLLED
#include "rotated_iou_rules.h"
