/* SPDX-License-Identifier: Apache-2.0
 *
 * What is fixed about nuScenes: tokens, classes, attributes, splits, and the tables of the official folder
 *
 *     ROOT/v1.0-{mini,trainval,test}/{scene,sample,sample_data,ego_pose,sample_annotation,...}.json
 *     ROOT/{samples,sweeps}/LIDAR_TOP/....pcd.bin      ROOT/samples/CAM_.../....jpg
 *
 * Tables are arrays of objects that name each other by tokens of 32 hexadecimal digits, in any order. They are read
 * in one pass each; only what belongs to the chosen scenes and is used here is kept (LiDAR sweeps, key frames of
 * cameras, annotations), so memory grows with the split and not with the tables.
 */
#ifndef SV_NUSCENES_H
#define SV_NUSCENES_H

#include "perception/geometry/pose.h"
#include "perception/json_scan.h"

/* ---- tokens ------------------------------------------------------------------------------------------- */

typedef struct sv_nuscenes_token {
    uint64_t high, low; /* both 0: none, "" in the tables */
} sv_nuscenes_token;

enum { SV_NUSCENES_TOKEN_TEXT = 33 };
/* 32 hexadecimal digits in lower case, or nothing at all. */
bool sv_nuscenes_token_parse(const char *text, size_t size, sv_nuscenes_token *out);
void sv_nuscenes_token_text(sv_nuscenes_token token, char out[SV_NUSCENES_TOKEN_TEXT]);
static inline bool sv_nuscenes_token_none(sv_nuscenes_token t)
{
    return t.high == 0 && t.low == 0;
}
static inline bool sv_nuscenes_token_same(sv_nuscenes_token a, sv_nuscenes_token b)
{
    return a.high == b.high && a.low == b.low;
}

/* Numbers by token: hashed with a seed of the process, so that no file can be made slow to read. */
typedef struct sv_nuscenes_index {
    struct sv_nuscenes_entry *slots;
    size_t room, count;
    uint64_t seed;
} sv_nuscenes_index;
bool sv_nuscenes_index_open(sv_nuscenes_index *index); /* false without memory */
void sv_nuscenes_index_close(sv_nuscenes_index *index);
/* The number of the token if it is there already, 'number' after adding it; -1 without memory. */
int32_t sv_nuscenes_index_add(sv_nuscenes_index *index, sv_nuscenes_token token, int32_t number);
int32_t sv_nuscenes_index_find(const sv_nuscenes_index *index, sv_nuscenes_token token); /* -1: not there */

/* ---- classes, attributes, splits ---------------------------------------------------------------------- */

enum { SV_NUSCENES_CLASSES = 10 };
typedef enum sv_nuscenes_class {
    SV_NUSCENES_CAR,
    SV_NUSCENES_TRUCK,
    SV_NUSCENES_BUS,
    SV_NUSCENES_TRAILER,
    SV_NUSCENES_CONSTRUCTION_VEHICLE,
    SV_NUSCENES_PEDESTRIAN,
    SV_NUSCENES_MOTORCYCLE,
    SV_NUSCENES_BICYCLE,
    SV_NUSCENES_TRAFFIC_CONE,
    SV_NUSCENES_BARRIER
} sv_nuscenes_class;
extern const char *const sv_nuscenes_class_names[SV_NUSCENES_CLASSES];
/* Objects and detections farther away from the vehicle are not scored, metres. */
extern const double sv_nuscenes_class_range[SV_NUSCENES_CLASSES];
int sv_nuscenes_class_of(const char *name); /* -1: none of them */
/* "vehicle.bus.rigid" -> bus; -1: not detected, RACK: objects in it are not scored */
enum { SV_NUSCENES_RACK = -2 };
int sv_nuscenes_class_of_category(const char *name);

/* ATTRIBUTE_NONE is "", ATTRIBUTE_OTHER a name that detections cannot have. */
enum { SV_NUSCENES_ATTRIBUTES = 8, SV_NUSCENES_ATTRIBUTE_NONE = -1, SV_NUSCENES_ATTRIBUTE_OTHER = 8 };
extern const char *const sv_nuscenes_attribute_names[SV_NUSCENES_ATTRIBUTES];
int sv_nuscenes_attribute_of(const char *name); /* -1 for "", 8 for an unknown one */
/* The attribute of a detection by its class and speed (m/s): the rule of the framework that trains the models. */
int sv_nuscenes_attribute_guess(int nuscenes_class, double speed);

/* A split is a list of scenes. NULL: no such split. */
typedef struct sv_nuscenes_split {
    const char *name, *version; /* "val", "trainval" */
    const short (*runs)[2];     /* scene-FIRST to scene-LAST */
    int run_count;
} sv_nuscenes_split;
enum { SV_NUSCENES_SPLITS = 5 };
extern const sv_nuscenes_split sv_nuscenes_splits[SV_NUSCENES_SPLITS];
bool sv_nuscenes_split_has(const sv_nuscenes_split *split, const char *scene);

/* ---- tables ------------------------------------------------------------------------------------------- */

enum { SV_NUSCENES_CAMERAS = 6, SV_NUSCENES_CHANNELS = 7 };
/* LIDAR_TOP, then the cameras clockwise from CAM_FRONT. */
extern const char *const sv_nuscenes_channels[SV_NUSCENES_CHANNELS];

typedef struct sv_nuscenes_calibration {
    int channel; /* of sv_nuscenes_channels; -1: another sensor */
    sv_pose to_ego;
    double rotation[4]; /* of to_ego: w x y z */
    double intrinsic[9];
    bool has_intrinsic;
} sv_nuscenes_calibration;

/* A row of sample_data: a LiDAR sweep, or a camera's picture of a key frame. */
typedef struct sv_nuscenes_data {
    sv_nuscenes_token token;
    int64_t time;                       /* microseconds */
    double rotation[4], translation[3]; /* ego pose at that time: w x y z, metres */
    uint32_t file;                      /* its name, in 'names' */
    int32_t previous;                   /* LiDAR: the sweep before; -1 none */
    int32_t calibration, sample;
    int32_t width, height;
    bool key, placed; /* 'placed' while reading: its pose was found */
} sv_nuscenes_data;

typedef struct sv_nuscenes_annotation {
    sv_nuscenes_token token, instance;
    double translation[3], size[3], rotation[4]; /* global; size is width, length, height */
    double velocity[3];                          /* global; NaN when it is not known */
    int32_t sample, category;
    int32_t lidar_points, radar_points;
    signed char detection_class; /* -1: none, or SV_NUSCENES_RACK */
    signed char attribute;       /* the first one */
    unsigned char attributes;    /* how many; a scored object has at most one */
} sv_nuscenes_annotation;

typedef struct sv_nuscenes_sample {
    sv_nuscenes_token token;
    int64_t time; /* microseconds */
    int32_t scene;
    int32_t data[SV_NUSCENES_CHANNELS]; /* key frames; -1: none */
    int32_t first, count;               /* annotations, in the table's order */
} sv_nuscenes_sample;

typedef struct sv_nuscenes_scene {
    sv_nuscenes_token token;
    char name[64];
    bool chosen;
} sv_nuscenes_scene;

typedef struct sv_nuscenes_tables {
    char folder[1100]; /* ROOT/v1.0-mini */
    char split[64];
    sv_nuscenes_scene *scenes; /* all of them */
    char (*categories)[64];
    sv_nuscenes_calibration *calibrations;
    /* of the chosen scenes */
    sv_nuscenes_sample *samples; /* scene after scene, by time */
    sv_nuscenes_annotation *annotations;
    sv_nuscenes_data *data;
    char *names;
    int scene_count, category_count, calibration_count, sample_count, annotation_count, data_count;
    bool labelled; /* there are annotations, if perhaps none in these scenes */
} sv_nuscenes_tables;

typedef struct sv_nuscenes_tables_def {
    const char *root, *version, *split; /* version and split may be NULL */
    const char *const *scenes;          /* only these; NULL: all of the split */
    int scene_count;
} sv_nuscenes_tables_def;

/* Everything that an entry names must be there: a token that leads nowhere or stands twice is an error that names
 * it. After a failure the tables are empty. */
sv_status sv_nuscenes_tables_open(sv_ctx *c, const sv_nuscenes_tables_def *def, sv_nuscenes_tables *out);
void sv_nuscenes_tables_close(sv_nuscenes_tables *tables); /* may be called twice */
/* "v1.0-mini" of 'root': the only folder of tables, or the one that 'split' belongs to. */
sv_status sv_nuscenes_version(sv_ctx *c, const char *root, const char *version, const char *split, char *out,
                              size_t room);

/* ---- geometry ----------------------------------------------------------------------------------------- */

/* Vehicle to world, sensor to world, at the time of the data. */
sv_pose sv_nuscenes_ego_pose(const sv_nuscenes_data *data);
sv_pose sv_nuscenes_sensor_pose(const sv_nuscenes_tables *tables, const sv_nuscenes_data *data);

/* The box of an annotation in the LiDAR frame of its sample: x, y, z, length, width, height, yaw; and its velocity
 * there, NaN when it is not known. The LiDAR is tilted a little, and so is the box in its frame: yaw is the first
 * angle of published boxes, atan2(2 (wz - xy), 1 - 2 (yy + zz)) of the attitude w, x, y, z, which is within a
 * thousandth of the heading of the box's axis. */
void sv_nuscenes_lidar_box(const sv_nuscenes_tables *tables, const sv_nuscenes_annotation *annotation,
                           double box[7], double velocity[3]);

/* ---- sweeps ------------------------------------------------------------------------------------------- */

/*
 * Sweeps of the LiDAR before a key frame, moved into its frame; columns x, y, z, intensity (0..255), time lag in
 * seconds (0 for the key frame). Returns of the vehicle itself, |x| < 1 m and |y| < 1 m in the sweep's own frame,
 * are left out. Two rules:
 *   training   the framework's: the key frame keeps them; where sweeps are missing, the last one is repeated (the
 *              key frame without returns of the vehicle, where there is none at all)
 *   devkit     the official development kit's: every sweep loses them; missing sweeps are missing
 */
typedef enum sv_nuscenes_sweep_rule { SV_NUSCENES_TRAINING, SV_NUSCENES_DEVKIT } sv_nuscenes_sweep_rule;

enum { SV_NUSCENES_MAX_SWEEPS = 60 };

typedef struct sv_nuscenes_sweep {
    int32_t data; /* row */
    double lag;   /* seconds */
    sv_pose to_key;
    bool filtered; /* without returns of the vehicle */
} sv_nuscenes_sweep;

/* Which sweeps, in order; returns their number, at most 'sweeps'. */
int sv_nuscenes_choose_sweeps(const sv_nuscenes_tables *tables, const sv_nuscenes_sample *sample, int sweeps,
                              sv_nuscenes_sweep_rule rule, sv_nuscenes_sweep out[SV_NUSCENES_MAX_SWEEPS]);
/* Points [count, 5] of a file, moved, appended to 'to' [*, 5]; returns how many. Points that are not finite are left
 * out and counted. */
int sv_nuscenes_move_points(const sv_nuscenes_sweep *sweep, const float *points, int count, float *to,
                            int *dropped);

#endif
