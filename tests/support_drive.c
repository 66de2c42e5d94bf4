/* SPDX-License-Identifier: Apache-2.0 */
#include "support_drive.h"

#include "datasets/synthetic/sim.h"

#include <stdio.h>
#include <string.h>

void drive_simulate(sv_ctx *c, uint64_t seed, int columns, sv_frame *frames[DRIVE_FRAMES])
{
    const sv_sim_world world = sv_sim_world_make(seed);
    sv_sim_scene scene = {0};
    sv_sim_scan scan = {0};
    sv_sim_lidar_def sensor = *sv_sim_lidar_find("hdl64");
    sensor.columns = 360;
    sensor.range = 30;
    for (int t = 0; t < DRIVE_FRAMES; t++) {
        assert_ok(c, sv_sim_scene_at(c, &world, 2 + 0.1 * t, &scene));
        const sv_pose up = sv_pose_from_yaw(0.03 * t, 0, 0, 1.73), pose = sv_pose_compose(&scene.ego, &up);
        assert_ok(c, sv_sim_lidar(c, &scene, &sensor, &pose, 100 + (uint64_t)t, &scan));
        frames[t] = sv_frame_new(&sv_device_cpu, scan.count, columns);
        for (int i = 0; i < scan.count; i++) {
            const sv_sim_return *r = &scan.returns[i];
            float *p = frames[t]->points + (size_t)i * (size_t)columns;
            const float values[5] = {r->x, r->y, r->z, r->intensity, 0};
            memcpy(p, values, sizeof *p * (size_t)columns);
        }
        frames[t]->count = scan.count;
        frames[t]->time = 1000 + 0.1 * t;
        frames[t]->has_pose = true;
        frames[t]->to_world = pose;
        snprintf(frames[t]->id, sizeof frames[t]->id, "%03d", t);
    }
    sv_sim_scan_free(&scan);
    sv_sim_scene_free(&scene);
}

void drive_release(sv_frame *frames[DRIVE_FRAMES])
{
    for (int t = 0; t < DRIVE_FRAMES; t++) sv_frame_release(frames[t]);
}
