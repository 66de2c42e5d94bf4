/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands and moves in a street, built of solids. An object's frame: x
 * forward, y left, z up, origin in the middle of its bottom.
 */
#ifndef SV_SIM_MODELS_H
#define SV_SIM_MODELS_H

#include "sim.h"

/* A new object without parts. Without memory the scene is marked 'failed', here and below, and nothing is added. */
void sim_object(sv_sim_scene *scene, sv_sim_kind kind, uint64_t id, const sv_pose *pose, double length,
                double width, double height);

/* Parts of the scene's last object. 'key' draws proportions and colours. */
void sim_car(sv_sim_scene *scene, uint64_t key);
void sim_van(sv_sim_scene *scene, uint64_t key);
void sim_truck(sv_sim_scene *scene, uint64_t key);
void sim_pedestrian(sv_sim_scene *scene, uint64_t key, double stride); /* phase of the walk, radians */
void sim_sitting(sv_sim_scene *scene, uint64_t key);
void sim_cyclist(sv_sim_scene *scene, uint64_t key, double stride);
void sim_trailer(sv_sim_scene *scene, uint64_t key);
void sim_house(sv_sim_scene *scene, uint64_t key);
void sim_tree(sv_sim_scene *scene, uint64_t key);
void sim_hedge(sv_sim_scene *scene, uint64_t key);
void sim_fence(sv_sim_scene *scene, uint64_t key);
void sim_lamp(sv_sim_scene *scene, uint64_t key);
void sim_sign(sv_sim_scene *scene, uint64_t key);
void sim_bin(sv_sim_scene *scene, uint64_t key);
void sim_bench(sv_sim_scene *scene, uint64_t key);

#endif
