/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT's settings from a configuration.
 */
#include "trecvit.h"

#include <string.h>

/* Table 2 of "Scaling Vision Transformers" (X. Zhai et al. 2021) and its successors. */
static const struct {
    const char *name;
    int width, depth, mlp, heads;
} variants[] = {
    {"mu", 32, 1, 128, 2},          {"Ti", 192, 12, 768, 3},   {"S", 384, 12, 1536, 6},
    {"M", 512, 12, 2048, 8},        {"B", 768, 12, 3072, 12},  {"L", 1024, 24, 4096, 16},
    {"So400m", 1152, 27, 4304, 16}, {"H", 1280, 32, 5120, 16}, {"g", 1408, 40, 6144, 16},
    {"g-opt", 1536, 40, 6144, 16},  {"G", 1664, 48, 8192, 16}, {"G-opt", 1536, 48, 8192, 16},
    {"e", 1792, 56, 15360, 16},
};

bool sv_trecvit_variant(const char *name, sv_trecvit_spec *spec)
{
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        if (strcmp(name, variants[i].name) != 0) continue;
        *spec = (sv_trecvit_spec){.width = variants[i].width,
                                  .depth = variants[i].depth,
                                  .mlp = variants[i].mlp,
                                  .heads = variants[i].heads,
                                  .patch = {1, 16, 16},
                                  .grid = {14, 14},
                                  .class_token = true,
                                  .lru_width = 2 * variants[i].width,
                                  .taps = 4,
                                  .rep = 3072,
                                  .classes = 400,
                                  .frames_per_clip = 32};
        return true;
    }
    return false;
}

static sv_status read_choice(sv_ctx *c, const sv_node *model, const char *key, const char *first,
                             const char *second, bool otherwise, bool *is_second)
{
    const char *text = NULL;
    SV_TRY(sv_node_string_or(c, model, key, &text, otherwise ? second : first));
    *is_second = strcmp(text, second) == 0;
    SV_CHECK(c, *is_second || strcmp(text, first) == 0, SV_BAD_INPUT, "%s.%s: '%s' is not %s or %s",
             sv_node_path(model), key, text, first, second);
    return SV_OK;
}

sv_status sv_trecvit_read_spec(sv_ctx *c, const sv_node *model, const int size[2], sv_trecvit_spec *s)
{
    const char *variant = NULL;
    bool mean = false;
    int multiplier = 0;
    SV_TRY(sv_node_string_or(c, model, "VARIANT", &variant, "B"));
    SV_CHECK(c, sv_trecvit_variant(variant, s), SV_BAD_INPUT,
             "%s.VARIANT: there is no '%s'; mu, Ti, S, M, B, L, So400m, H, g, g-opt, G, G-opt, e are",
             sv_node_path(model), variant);
    const struct {
        const char *key;
        int *value, most;
    } numbers[] = {{"WIDTH", &s->width, 8192},      {"DEPTH", &s->depth, SV_TRECVIT_DEPTH},
                   {"MLP", &s->mlp, 65536},         {"HEADS", &s->heads, SV_VIDEO_HEADS},
                   {"TAPS", &s->taps, 8},           {"REP_SIZE", &s->rep, 65536},
                   {"CLASSES", &s->classes, 65536}, {"FRAMES_PER_CLIP", &s->frames_per_clip, 4096}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        SV_TRY(sv_node_int_or(c, model, numbers[i].key, numbers[i].value, *numbers[i].value));
        SV_CHECK(c, *numbers[i].value >= 1 && *numbers[i].value <= numbers[i].most, SV_BAD_INPUT,
                 "%s.%s: %d is not within 1..%d", sv_node_path(model), numbers[i].key, *numbers[i].value,
                 numbers[i].most);
    }
    SV_TRY(sv_node_int_or(c, model, "STATE_MULTIPLIER", &multiplier, 2));
    SV_CHECK(c, multiplier >= 1 && multiplier <= 16, SV_BAD_INPUT,
             "%s.STATE_MULTIPLIER: %d is not within 1..16", sv_node_path(model), multiplier);
    s->lru_width = multiplier * s->width;
    SV_TRY(read_choice(c, model, "POOL", "tok", "gap", false, &mean));
    s->class_token = !mean;
    SV_TRY(read_choice(c, model, "POSITIONS", "learn", "sincos2d", false, &s->sines));
    SV_TRY(sv_node_bool_or(c, model, "GATED_MLP", &s->gated_mlp, false));
    SV_TRY(sv_node_bool_or(c, model, "COMPLEX", &s->complex_numbers, false));
    if (sv_node_find(model, "PATCH")) SV_TRY(sv_node_ints(c, model, "PATCH", s->patch, 3));
    for (int i = 0; i < 3; i++)
        SV_CHECK(c, s->patch[i] >= 1 && s->patch[i] <= 256, SV_BAD_INPUT, "%s.PATCH: %d is not within 1..256",
                 sv_node_path(model), s->patch[i]);
    for (int axis = 0; axis < 2; axis++) {
        SV_CHECK(c, size[axis] >= 1 && size[axis] <= 4096 && size[axis] % s->patch[1 + axis] == 0,
                 SV_BAD_INPUT, "pictures of %d x %d (height x width) do not divide into patches of %d x %d",
                 size[0], size[1], s->patch[1], s->patch[2]);
        s->grid[axis] = size[axis] / s->patch[1 + axis];
    }
    return SV_OK;
}
