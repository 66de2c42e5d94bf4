/* SPDX-License-Identifier: Apache-2.0
 *
 * Names and lists that nuScenes fixes once and for all, and its tokens.
 */
#include "nuscenes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *const sv_nuscenes_class_names[SV_NUSCENES_CLASSES] = {
    "car",        "truck",      "bus",     "trailer",      "construction_vehicle",
    "pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier"};
const double sv_nuscenes_class_range[SV_NUSCENES_CLASSES] = {50, 50, 50, 50, 50, 40, 40, 40, 30, 30};

const char *const sv_nuscenes_attribute_names[SV_NUSCENES_ATTRIBUTES] = {
    "cycle.with_rider",    "cycle.without_rider", "pedestrian.moving", "pedestrian.sitting_lying_down",
    "pedestrian.standing", "vehicle.moving",      "vehicle.parked",    "vehicle.stopped"};

const char *const sv_nuscenes_channels[SV_NUSCENES_CHANNELS] = {
    "LIDAR_TOP", "CAM_FRONT",     "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT",
    "CAM_BACK",  "CAM_BACK_LEFT", "CAM_FRONT_LEFT"};

/* ---- classes and attributes --------------------------------------------------------------------------- */

static int find(const char *const *names, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

int sv_nuscenes_class_of(const char *name)
{
    return find(sv_nuscenes_class_names, SV_NUSCENES_CLASSES, name);
}

int sv_nuscenes_class_of_category(const char *name)
{
    static const struct {
        const char *category;
        int name;
    } map[] = {{"vehicle.car", SV_NUSCENES_CAR},
               {"vehicle.truck", SV_NUSCENES_TRUCK},
               {"vehicle.bus.bendy", SV_NUSCENES_BUS},
               {"vehicle.bus.rigid", SV_NUSCENES_BUS},
               {"vehicle.trailer", SV_NUSCENES_TRAILER},
               {"vehicle.construction", SV_NUSCENES_CONSTRUCTION_VEHICLE},
               {"human.pedestrian.adult", SV_NUSCENES_PEDESTRIAN},
               {"human.pedestrian.child", SV_NUSCENES_PEDESTRIAN},
               {"human.pedestrian.construction_worker", SV_NUSCENES_PEDESTRIAN},
               {"human.pedestrian.police_officer", SV_NUSCENES_PEDESTRIAN},
               {"vehicle.motorcycle", SV_NUSCENES_MOTORCYCLE},
               {"vehicle.bicycle", SV_NUSCENES_BICYCLE},
               {"movable_object.trafficcone", SV_NUSCENES_TRAFFIC_CONE},
               {"movable_object.barrier", SV_NUSCENES_BARRIER},
               {"static_object.bicycle_rack", SV_NUSCENES_RACK}};
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if (strcmp(map[i].category, name) == 0) return map[i].name;
    return -1;
}

int sv_nuscenes_attribute_of(const char *name)
{
    if (!name[0]) return SV_NUSCENES_ATTRIBUTE_NONE;
    const int found = find(sv_nuscenes_attribute_names, SV_NUSCENES_ATTRIBUTES, name);
    return found < 0 ? SV_NUSCENES_ATTRIBUTE_OTHER : found;
}

int sv_nuscenes_attribute_guess(int nuscenes_class, double speed)
{
    enum { WITH_RIDER, WITHOUT_RIDER, WALKING, LYING, STANDING, MOVING, PARKED, STOPPED };
    const bool moves = speed > 0.2;
    switch (nuscenes_class) {
    case SV_NUSCENES_CAR:
    case SV_NUSCENES_TRUCK:
    case SV_NUSCENES_TRAILER:
    case SV_NUSCENES_CONSTRUCTION_VEHICLE:
        return moves ? MOVING : PARKED;
    case SV_NUSCENES_BUS:
        return moves ? MOVING : STOPPED;
    case SV_NUSCENES_PEDESTRIAN:
        return moves ? WALKING : STANDING;
    case SV_NUSCENES_MOTORCYCLE:
    case SV_NUSCENES_BICYCLE:
        return moves ? WITH_RIDER : WITHOUT_RIDER;
    default:
        return SV_NUSCENES_ATTRIBUTE_NONE;
    }
}

/* ---- splits ------------------------------------------------------------------------------------------- */

/* clang-format off */
static const short train_runs[][2] = {{1, 2}, {4, 11}, {19, 34}, {41, 76}, {120, 135}, {138, 139}, {149, 152}, {154, 155}, {157, 168}, {170, 185}, {187, 188}, {190, 196}, {199, 200}, {202, 204}, {206, 214}, {218, 220}, {222, 222}, {224, 264}, {283, 306}, {315, 318}, {321, 321}, {323, 324}, {328, 328}, {347, 386}, {388, 403}, {405, 408}, {410, 459}, {461, 465}, {467, 469}, {471, 472}, {474, 480}, {499, 502}, {504, 515}, {517, 518}, {525, 539}, {541, 546}, {566, 566}, {568, 568}, {570, 578}, {580, 580}, {582, 600}, {639, 679}, {681, 681}, {683, 689}, {695, 698}, {700, 701}, {703, 719}, {726, 728}, {730, 731}, {733, 741}, {744, 744}, {746, 747}, {749, 752}, {757, 765}, {767, 769}, {786, 787}, {789, 792}, {803, 806}, {808, 813}, {815, 817}, {819, 822}, {847, 856}, {858, 858}, {860, 866}, {868, 873}, {875, 878}, {880, 880}, {882, 903}, {945, 945}, {947, 947}, {949, 949}, {952, 953}, {955, 961}, {975, 984}, {988, 992}, {994, 1025}, {1044, 1058}, {1074, 1102}, {1104, 1110}};
static const short val_runs[][2] = {{3, 3}, {12, 18}, {35, 36}, {38, 39}, {92, 110}, {221, 221}, {268, 278}, {329, 332}, {344, 346}, {519, 524}, {552, 565}, {625, 627}, {629, 630}, {632, 638}, {770, 771}, {775, 775}, {777, 778}, {780, 784}, {794, 800}, {802, 802}, {904, 917}, {919, 931}, {962, 963}, {966, 969}, {971, 972}, {1059, 1073}};
static const short test_runs[][2] = {{77, 91}, {111, 119}, {140, 140}, {142, 148}, {265, 266}, {279, 282}, {307, 314}, {333, 343}, {481, 498}, {547, 551}, {601, 604}, {606, 624}, {827, 831}, {833, 842}, {844, 846}, {932, 933}, {935, 943}, {1026, 1043}};
static const short mini_train_runs[][2] = {{61, 61}, {553, 553}, {655, 655}, {757, 757}, {796, 796}, {1077, 1077}, {1094, 1094}, {1100, 1100}};
static const short mini_val_runs[][2] = {{103, 103}, {916, 916}};
/* clang-format on */

#define RUNS(runs) runs, (int)(sizeof(runs) / sizeof *(runs))
const sv_nuscenes_split sv_nuscenes_splits[SV_NUSCENES_SPLITS] = {
    {"mini_val", "mini", RUNS(mini_val_runs)}, {"mini_train", "mini", RUNS(mini_train_runs)},
    {"val", "trainval", RUNS(val_runs)},       {"train", "trainval", RUNS(train_runs)},
    {"test", "test", RUNS(test_runs)},
};
#undef RUNS

bool sv_nuscenes_split_has(const sv_nuscenes_split *split, const char *scene)
{
    if (strncmp(scene, "scene-", 6) != 0 || strlen(scene) != 10) return false;
    int number = 0;
    for (const char *p = scene + 6; *p; p++) {
        if (*p < '0' || *p > '9') return false;
        number = 10 * number + (*p - '0');
    }
    for (int i = 0; i < split->run_count; i++)
        if (number >= split->runs[i][0] && number <= split->runs[i][1]) return true;
    return false;
}

/* ---- tokens ------------------------------------------------------------------------------------------- */

/* Of '0'..'9' and 'a'..'f', one more than their value. */
static const unsigned char digits[256] = {
    ['0'] = 1, ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16};

bool sv_nuscenes_token_parse(const char *text, size_t size, sv_nuscenes_token *out)
{
    uint64_t half[2] = {0, 0};
    bool good = true;
    *out = (sv_nuscenes_token){0, 0};
    if (size == 0) return true;
    if (size != SV_NUSCENES_TOKEN_TEXT - 1) return false;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < 16; i++) {
            const unsigned digit = digits[(unsigned char)text[16 * k + i]];
            good &= digit != 0;
            half[k] = half[k] << 4 | ((digit - 1) & 15);
        }
    if (good) *out = (sv_nuscenes_token){half[0], half[1]};
    return good && !sv_nuscenes_token_none(*out);
}

void sv_nuscenes_token_text(sv_nuscenes_token t, char out[SV_NUSCENES_TOKEN_TEXT])
{
    out[0] = '\0';
    if (!sv_nuscenes_token_none(t))
        snprintf(out, SV_NUSCENES_TOKEN_TEXT, "%016llx%016llx", (unsigned long long)t.high,
                 (unsigned long long)t.low);
}

typedef struct sv_nuscenes_entry {
    sv_nuscenes_token token;
    int32_t number;
} entry;

enum { FIRST_ROOM = 1024 };

bool sv_nuscenes_index_open(sv_nuscenes_index *index)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *index = (sv_nuscenes_index){.slots = calloc(FIRST_ROOM, sizeof(entry)), .room = FIRST_ROOM};
    index->seed = ((uint64_t)now.tv_nsec << 20) ^ (uint64_t)now.tv_sec ^ (uint64_t)(uintptr_t)index->slots;
    return index->slots != NULL;
}

void sv_nuscenes_index_close(sv_nuscenes_index *index)
{
    free(index->slots);
    *index = (sv_nuscenes_index){0};
}

/* The token's place, or the empty one where it belongs. */
static entry *place(entry *slots, size_t room, uint64_t seed, sv_nuscenes_token token)
{
    uint64_t h = (token.low ^ seed) * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 32) ^ token.high ^ (seed << 7)) * 0xd6e8feb86659fd93u;
    for (size_t i = (size_t)(h ^ (h >> 32)) & (room - 1);; i = (i + 1) & (room - 1))
        if (sv_nuscenes_token_none(slots[i].token) || sv_nuscenes_token_same(slots[i].token, token))
            return &slots[i];
}

static bool grow(sv_nuscenes_index *index)
{
    const size_t room = 2 * index->room;
    entry *slots = calloc(room, sizeof *slots);
    if (!slots) return false;
    for (size_t i = 0; i < index->room; i++)
        if (!sv_nuscenes_token_none(index->slots[i].token))
            *place(slots, room, index->seed, index->slots[i].token) = index->slots[i];
    free(index->slots);
    index->slots = slots;
    index->room = room;
    return true;
}

int32_t sv_nuscenes_index_add(sv_nuscenes_index *index, sv_nuscenes_token token, int32_t number)
{
    if (3 * (index->count + 1) > 2 * index->room && !grow(index)) return -1;
    entry *e = place(index->slots, index->room, index->seed, token);
    if (!sv_nuscenes_token_none(e->token)) return e->number;
    *e = (entry){token, number};
    index->count++;
    return number;
}

int32_t sv_nuscenes_index_find(const sv_nuscenes_index *index, sv_nuscenes_token token)
{
    if (sv_nuscenes_token_none(token)) return -1;
    const entry *e = place(index->slots, index->room, index->seed, token);
    return sv_nuscenes_token_none(e->token) ? -1 : e->number;
}
