/* SPDX-License-Identifier: Apache-2.0
 *
 * Savanna: 3D object detection with linear group RNNs (LION). This header brings the whole public interface; examples/
 * shows it at work. Link with pkg-config savanna, or find_package(savanna) and savanna::savanna.
 *
 *   network.h    sv_model: a network with its weights        detector.h   sv_detector, sv_detect(): points to boxes
 *   frame.h      sv_frame: one moment of a sensor            results.h    sv_box, JSON
 *   points.h     point files                                 render.h     pictures from above
 *   state.h      what a stream carries from frame to frame   core/        context, devices, tensors, primitives
 */
#ifndef SV_SAVANNA_H
#define SV_SAVANNA_H

#include "perception/detector.h"
#include "perception/frame.h"
#include "perception/network.h"
#include "perception/points.h"
#include "perception/render.h"
#include "perception/results.h"
#include "perception/state.h"

#endif
