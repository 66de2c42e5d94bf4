/* SPDX-License-Identifier: Apache-2.0 */
#include "ego_motion.h"

#include <math.h>
#include <string.h>

/* A millionth of a cell is rounding: a sensor at rest keeps its state bit by bit. */
static float snapped(double value)
{
    const double whole = nearbyint(value);
    return (float)(fabs(value - whole) < 1e-6 ? whole : value);
}

static bool plausible(const sv_whereabouts *last, const sv_whereabouts *now, const sv_motion_rule *rule,
                      const sv_pose *step)
{
    const double gap = now->time - last->time;
    const bool timed = last->time != 0 || now->time != 0;
    if (timed && !(gap > 0 && gap <= rule->max_gap)) return false;
    const double *t = step->t, *r = step->r;
    if (!(sqrt(t[0] * t[0] + t[1] * t[1] + t[2] * t[2]) <= rule->max_step)) return false;
    /* The angle of a rotation is in its trace. */
    const double cosine = (r[0] + r[4] + r[8] - 1) / 2;
    return cosine >= cos(rule->max_turn * (3.14159265358979323846 / 180));
}

bool sv_ego_motion(const sv_whereabouts *last, const sv_whereabouts *now, const sv_motion_rule *rule,
                   const sv_map_place *place, float motion[8])
{
    static const float afresh[8] = {1, 0, 0, 0, 1, 0, 0, 0};
    sv_pose back;
    memcpy(motion, afresh, sizeof afresh);
    if (!last->known || !now->known || !sv_pose_invert(&last->to_world, &back)) return false;
    const sv_pose step = sv_pose_compose(&back, &now->to_world);
    if (!plausible(last, now, rule, &step)) return false;
    const double *r = step.r, sx = place->x_step, sy = place->y_step;
    const double x = place->x_min + sx / 2, y = place->y_min + sy / 2; /* the centre of cell (0, 0) */
    motion[0] = snapped(r[0]);
    motion[1] = snapped(r[1] * sy / sx);
    motion[2] = snapped((r[0] * x + r[1] * y + step.t[0] - x) / sx);
    motion[3] = snapped(r[3] * sx / sy);
    motion[4] = snapped(r[4]);
    motion[5] = snapped((r[3] * x + r[4] * y + step.t[1] - y) / sy);
    motion[6] = 1;
    return true;
}
