/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames of nuScenes, all in double precision: a sensor lies in the vehicle by its calibration, the vehicle in the
 * world by the ego pose of the very data. Between two exposures the vehicle moves, so a chain goes through the world.
 */
#include "nuscenes.h"

#include <math.h>

sv_pose sv_nuscenes_ego_pose(const sv_nuscenes_data *data)
{
    return sv_pose_from_quaternion(data->rotation, data->translation);
}

sv_pose sv_nuscenes_sensor_pose(const sv_nuscenes_tables *t, const sv_nuscenes_data *data)
{
    const sv_pose ego = sv_nuscenes_ego_pose(data);
    return sv_pose_compose(&ego, &t->calibrations[data->calibration].to_ego);
}

/* world to sensor: back to the vehicle first, so that large coordinates cancel */
static sv_pose to_sensor(const sv_nuscenes_tables *t, const sv_nuscenes_data *data, const sv_pose *in_world)
{
    const sv_pose ego = sv_nuscenes_ego_pose(data);
    sv_pose from_world, from_ego;
    /* rotations, which are never singular */
    sv_pose_invert(&ego, &from_world);
    sv_pose_invert(&t->calibrations[data->calibration].to_ego, &from_ego);
    const sv_pose in_ego = sv_pose_compose(&from_world, in_world);
    return sv_pose_compose(&from_ego, &in_ego);
}

/* a^-1 b, for unit quaternions */
static void turn_back(const double a[4], const double b[4], double out[4])
{
    const double w = a[0], x = -a[1], y = -a[2], z = -a[3];
    const double product[4] = {
        w * b[0] - x * b[1] - y * b[2] - z * b[3], w * b[1] + x * b[0] + y * b[3] - z * b[2],
        w * b[2] - x * b[3] + y * b[0] + z * b[1], w * b[3] + x * b[2] - y * b[1] + z * b[0]};
    for (int i = 0; i < 4; i++) out[i] = product[i];
}

static double yaw_of(const double q[4])
{
    const double n = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
    return atan2(2 * (q[0] * q[3] - q[1] * q[2]) / n, 1 - 2 * (q[2] * q[2] + q[3] * q[3]) / n);
}

void sv_nuscenes_lidar_box(const sv_nuscenes_tables *t, const sv_nuscenes_annotation *a, double box[7],
                           double velocity[3])
{
    const sv_nuscenes_data *lidar = &t->data[t->samples[a->sample].data[0]];
    const sv_pose in_world = sv_pose_from_quaternion(a->rotation, a->translation), none = sv_pose_identity();
    const sv_pose in_lidar = to_sensor(t, lidar, &in_world), turn = to_sensor(t, lidar, &none);
    for (int i = 0; i < 3; i++) box[i] = in_lidar.t[i];
    box[3] = a->size[1];
    box[4] = a->size[0];
    box[5] = a->size[2];
    double attitude[4];
    turn_back(lidar->rotation, a->rotation, attitude);
    turn_back(t->calibrations[lidar->calibration].rotation, attitude, attitude);
    box[6] = yaw_of(attitude);
    sv_pose_rotate(&turn, a->velocity, velocity);
}

/* ---- sweeps ------------------------------------------------------------------------------------------- */

static sv_nuscenes_sweep make_sweep(const sv_nuscenes_tables *t, const sv_nuscenes_data *key, int row)
{
    const sv_nuscenes_data *data = &t->data[row];
    const sv_pose in_world = sv_nuscenes_sensor_pose(t, data);
    return (sv_nuscenes_sweep){.data = row,
                               .lag = 1e-6 * (double)key->time - 1e-6 * (double)data->time,
                               .to_key = data == key ? sv_pose_identity() : to_sensor(t, key, &in_world),
                               .filtered = true};
}

int sv_nuscenes_choose_sweeps(const sv_nuscenes_tables *t, const sv_nuscenes_sample *sample, int sweeps,
                              sv_nuscenes_sweep_rule rule, sv_nuscenes_sweep out[SV_NUSCENES_MAX_SWEEPS])
{
    const int first = sample->data[0];
    const sv_nuscenes_data *key = &t->data[first];
    int count = 1;
    out[0] = make_sweep(t, key, first);
    for (int row = key->previous; row >= 0 && count < sweeps; row = t->data[row].previous)
        out[count++] = make_sweep(t, key, row);
    if (rule == SV_NUSCENES_DEVKIT) return count;
    for (; count < sweeps; count++) out[count] = out[count - 1];
    out[0].filtered = false;
    return count;
}

int sv_nuscenes_move_points(const sv_nuscenes_sweep *sweep, const float *points, int count, float *to,
                            int *dropped)
{
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + 5 * (size_t)i;
        if (!isfinite(p[0]) || !isfinite(p[1]) || !isfinite(p[2]) || !isfinite(p[3])) {
            (*dropped)++;
            continue;
        }
        if (sweep->filtered && fabsf(p[0]) < 1 && fabsf(p[1]) < 1) continue;
        const double in[3] = {(double)p[0], (double)p[1], (double)p[2]};
        double moved[3];
        sv_pose_apply(&sweep->to_key, in, moved);
        float *q = to + 5 * (size_t)kept++;
        for (int k = 0; k < 3; k++) q[k] = (float)moved[k];
        q[3] = p[3];
        q[4] = (float)sweep->lag;
    }
    return kept;
}
