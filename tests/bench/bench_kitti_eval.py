#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The KITTI evaluator beside the common Python program, in one run on the same frames.

    bench_kitti_eval.py --peer DIR [--program build/ci/tests/bench_kitti_eval] [--frames 3769] [--seed 1]

DIR holds the peer's eval.py (kitti_object_eval_python, as in OpenPCDet); it is loaded as it is. Only its
rotated overlap, which needs a CUDA GPU, is replaced: by exact polygon clipping in double precision, compiled
by numba for the CPU with all its threads, with a test of the boxes' circles before the clipping. Compilation is
excluded by a run on some frames before. Frames are drawn with a seed (about 5 objects and 20 detections each)
and written in the official formats; both sides start from lists in memory. Needs python3-numpy and python3-numba.
"""
import argparse
import importlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import types
import warnings

import numba
import numpy as np

CLASSES = ["Car", "Pedestrian", "Cyclist"]
SIZES = {"Car": (1.5, 1.6, 3.9), "Van": (2.1, 1.9, 5.0), "Pedestrian": (1.75, 0.65, 0.8),
         "Person_sitting": (1.3, 0.6, 0.8), "Cyclist": (1.75, 0.6, 1.8), "Truck": (3.2, 2.6, 9.0)}
FOCAL, CENTRE, WIDTH, HEIGHT = 721.5, (609.6, 172.9), 1242, 375


# ---- frames -------------------------------------------------------------------------------------------


def image_box(h, w, l, x, y, z, ry):
    corners = [(0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5)]
    u, v = [], []
    for a, b in corners:
        cx = x + math.cos(ry) * a * l + math.sin(ry) * b * w
        cz = max(z - math.sin(ry) * a * l + math.cos(ry) * b * w, 1.0)
        for cy in (y, y - h):
            u.append(FOCAL * cx / cz + CENTRE[0])
            v.append(FOCAL * cy / cz + CENTRE[1])
    clip = lambda value, most: min(max(value, 0.0), most)
    return (clip(min(u), WIDTH - 1), clip(min(v), HEIGHT - 1),
            clip(max(u), WIDTH - 1), clip(max(v), HEIGHT - 1))


def wrap(angle):
    return (angle + math.pi) % (2 * math.pi) - math.pi


def make_frame(rng):
    """Lines of a label file and of a result file."""
    labels, results = [], []
    for _ in range(max(0, round(rng.gauss(5, 2.5)))):
        name = rng.choices(list(SIZES), [60, 5, 18, 2, 10, 5])[0]
        h, w, l = (s * rng.uniform(0.9, 1.1) for s in SIZES[name])
        z = rng.uniform(6, 60)
        x, y, ry = z * rng.uniform(-0.6, 0.6), rng.uniform(1.4, 1.9), rng.uniform(-math.pi, math.pi)
        box = image_box(h, w, l, x, y, z, ry)
        labels.append("%s %.2f %d %.2f %.2f %.2f %.2f %.2f %.2f %.2f %.2f %.2f %.2f %.2f %.2f" % (
            name, rng.choice([0, 0, 0, 0.2, 0.4]), rng.choice([0, 0, 1, 2, 3]), wrap(ry - math.atan2(x, z)),
            *box, h, w, l, x, y, z, ry))
        for copy in range(rng.choice([0, 1, 1, 1, 2])):
            spread = rng.choice([0.3, 1.0, 2.5])
            turn = math.pi if rng.random() < 0.05 else 0.0
            results.append(detection(
                rng, name if name in CLASSES else "Car", h, w, l, x + spread * rng.gauss(0, 0.12),
                y + spread * rng.gauss(0, 0.04), z + spread * rng.gauss(0, 0.15),
                ry + turn + spread * rng.gauss(0, 0.05), rng.betavariate(5, 2) / (1 + copy)))
    for _ in range(rng.choice([0, 1, 2])):
        x1, y1 = rng.uniform(0, 1100), rng.uniform(150, 200)
        labels.append("DontCare -1 -1 -10 %.2f %.2f %.2f %.2f -1 -1 -1 -1000 -1000 -1000 -10" % (
            x1, y1, x1 + rng.uniform(20, 120), y1 + rng.uniform(15, 60)))
    while len(results) < 20:
        name = rng.choice(CLASSES)
        z = rng.uniform(5, 65)
        results.append(detection(rng, name, *SIZES[name], z * rng.uniform(-0.7, 0.7), rng.uniform(1.3, 2.0),
                                 z, rng.uniform(-math.pi, math.pi), rng.betavariate(1.5, 6)))
    rng.shuffle(results)
    return labels, results


def detection(rng, name, h, w, l, x, y, z, ry, score):
    h, w, l = (s * rng.uniform(0.96, 1.04) for s in (h, w, l))
    return "%s -1 -1 %.4f %.4f %.4f %.4f %.4f %.4f %.4f %.4f %.4f %.4f %.4f %.4f %.4f" % (
        name, wrap(ry - math.atan2(x, z)), *image_box(h, w, l, x, y, z, ry), h, w, l, x, y, z, wrap(ry),
        score)


def make_folder(folder, frames, seed):
    rng = random.Random(seed)
    os.makedirs(os.path.join(folder, "label_2"))
    os.makedirs(os.path.join(folder, "result", "data"))
    counts = [0, 0]
    for i in range(frames):
        for kind, (place, lines) in enumerate(zip(("label_2", "result/data"), make_frame(rng))):
            counts[kind] += len(lines)
            with open(os.path.join(folder, place, "%06d.txt" % i), "w") as file:
                file.writelines(line + "\n" for line in lines)
    return counts


def read_annotations(path):
    """The peer's dictionary of one file: sizes as l, h, w."""
    with open(path) as file:
        rows = [line.split() for line in file]
    numbers = np.array([[float(v) for v in row[1:]] for row in rows], dtype=np.float64)
    if len(rows) == 0:
        numbers = np.zeros((0, 15))
    return {"name": np.array([row[0] for row in rows]), "truncated": numbers[:, 0],
            "occluded": numbers[:, 1].astype(int), "alpha": numbers[:, 2], "bbox": numbers[:, 3:7],
            "dimensions": numbers[:, 7:10][:, [2, 0, 1]],
            "location": numbers[:, 10:13], "rotation_y": numbers[:, 13],
            "score": numbers[:, 14] if numbers.shape[1] > 14 else np.zeros(len(rows))}


# ---- the peer -----------------------------------------------------------------------------------------


@numba.njit
def clipped_area(a, b):
    """Area that two rectangles x, z, l, w, ry share: corners of b cut by the sides of a."""
    ca, sa, cb, sb = math.cos(a[4]), -math.sin(a[4]), math.cos(b[4]), -math.sin(b[4])
    px, py, qx, qy = np.empty(16), np.empty(16), np.empty(16), np.empty(16)
    count = 4
    for k in range(4):
        u = (0.5 if k in (1, 2) else -0.5) * b[2]
        v = (0.5 if k in (2, 3) else -0.5) * b[3]
        wx, wy = b[0] + u * cb - v * sb - a[0], b[1] + u * sb + v * cb - a[1]
        px[k], py[k] = wx * ca + wy * sa, -wx * sa + wy * ca
    for side in range(4):
        half = 0.5 * (a[2] if side < 2 else a[3])
        sign = -1.0 if side % 2 else 1.0
        kept = 0
        for k in range(count):
            n = (k + 1) % count
            here = half - sign * (px[k] if side < 2 else py[k])
            there = half - sign * (px[n] if side < 2 else py[n])
            if here >= 0:
                qx[kept], qy[kept] = px[k], py[k]
                kept += 1
            if (here < 0 and there > 0) or (here > 0 and there < 0):
                t = here / (here - there)
                qx[kept], qy[kept] = px[k] + t * (px[n] - px[k]), py[k] + t * (py[n] - py[k])
                kept += 1
        count = kept
        px, py, qx, qy = qx, qy, px, py
    area = 0.0
    for k in range(count):
        n = (k + 1) % count
        area += px[k] * py[n] - px[n] * py[k]
    return abs(area) / 2


@numba.njit(parallel=True)
def rotated_overlaps(boxes, others, criterion):
    out = np.zeros((boxes.shape[0], others.shape[0]))
    for i in numba.prange(boxes.shape[0]):
        reach = 0.5 * math.sqrt(boxes[i, 2] ** 2 + boxes[i, 3] ** 2)
        for j in range(others.shape[0]):
            far = reach + 0.5 * math.sqrt(others[j, 2] ** 2 + others[j, 3] ** 2)
            dx, dy = boxes[i, 0] - others[j, 0], boxes[i, 1] - others[j, 1]
            if dx * dx + dy * dy > far * far:
                continue
            shared = clipped_area(boxes[i], others[j])
            area, other = boxes[i, 2] * boxes[i, 3], others[j, 2] * others[j, 3]
            if criterion == -1:
                out[i, j] = shared / (area + other - shared)
            elif criterion == 0:
                out[i, j] = shared / area
            elif criterion == 1:
                out[i, j] = shared / other
            else:
                out[i, j] = shared
    return out


overlap_seconds = 0.0


def rotate_iou_gpu_eval(boxes, query_boxes, criterion=-1, device_id=0):
    global overlap_seconds
    began = time.perf_counter()
    out = rotated_overlaps(np.ascontiguousarray(boxes, dtype=np.float64),
                           np.ascontiguousarray(query_boxes, dtype=np.float64), criterion)
    overlap_seconds += time.perf_counter() - began
    return out


def load_peer(folder):
    package = types.ModuleType("peer_kitti_eval")
    package.__path__ = [folder]
    overlaps = types.ModuleType("peer_kitti_eval.rotate_iou")
    overlaps.rotate_iou_gpu_eval = rotate_iou_gpu_eval
    sys.modules["peer_kitti_eval"] = package
    sys.modules["peer_kitti_eval.rotate_iou"] = overlaps
    return importlib.import_module("peer_kitti_eval.eval")


def peer_scores(curves):
    """R40 then R11 of three difficulties, by names like ours."""
    scores = {}
    for metric, value in curves.items():  # [class, difficulty, set, 41]
        for k, name in enumerate(CLASSES):
            for o, which in enumerate(("official", "loose")):
                p = value[k, :, o, :]
                r40, r11 = p[:, 1:].sum(1) / 40 * 100, p[:, ::4].sum(1) / 11 * 100
                scores["%s/%s/%s" % (which, name, metric)] = list(r40) + list(r11)
    return scores


# ---- side by side -------------------------------------------------------------------------------------


def run_ours(program, folder, repeats):
    run = subprocess.run([program, folder, str(repeats), "0", "python"], check=True, capture_output=True)
    return json.loads(run.stdout)


def main():
    global overlap_seconds
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--peer", required=True, help="folder with the peer's eval.py")
    parser.add_argument("--program", default=os.path.join(here, "../../build/ci/tests/bench_kitti_eval"))
    parser.add_argument("--frames", type=int, default=3769)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="of both sides in turns; the best counts")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    peer = load_peer(os.path.abspath(arguments.peer))
    with tempfile.TemporaryDirectory() as folder:
        counts = make_folder(folder, arguments.frames, arguments.seed)
        print("%d frames, seed %d: %d labels, %d detections" % (arguments.frames, arguments.seed, *counts))
        began = time.perf_counter()
        names = ["%06d.txt" % i for i in range(arguments.frames)]
        labels = [read_annotations(os.path.join(folder, "label_2", name)) for name in names]
        results = [read_annotations(os.path.join(folder, "result/data", name)) for name in names]
        python_read = time.perf_counter() - began
        some = min(arguments.frames, 120)
        peer.get_official_eval_result(labels[:some], results[:some], CLASSES, {})  # compiles
        best = None
        for _ in range(arguments.repeats):
            ours = run_ours(arguments.program, folder, 5)
            curves = {}
            overlap_seconds = 0.0
            began = time.perf_counter()
            _, official = peer.get_official_eval_result(labels, results, CLASSES, curves)
            seconds = time.perf_counter() - began
            print("  savanna %8.2f ms   peer %10.2f ms, of which rotated overlaps %.2f" % (
                ours["ms"], seconds * 1e3, overlap_seconds * 1e3))
            if best is None:
                best = [math.inf] * 4
            best = [min(a, b) for a, b in zip(best, (ours["ms"], seconds * 1e3, ours["read_ms"],
                                                     (seconds - overlap_seconds) * 1e3))]
    theirs = peer_scores(curves)
    scores = ours["scores"]
    worst = max((abs(a - b), name) for name, values in theirs.items() for a, b in zip(scores[name], values))
    printed = max(abs(official["%s_%s/moderate_R40" % (name, "image" if m == "bbox" else m)] -
                      scores["official/%s/%s" % (name, m)][1])
                  for name in CLASSES for m in ("bbox", "bev", "3d"))
    print("scores: %d values, largest difference %.2e (%s); in its own table %.2e" % (
        6 * len(theirs), worst[0], worst[1], printed))
    for name in CLASSES:
        print("  %-11s 3d R40 %8.4f %8.4f %8.4f" % (name, *scores["official/%s/3d" % name][:3]))
    line = "evaluation, from lists in memory: savanna %.2f ms (%d threads), peer %.2f ms (%d threads): %.0fx"
    print(line % (
        best[0], ours["threads"], best[1], numba.get_num_threads(), best[1] / best[0]))
    print("were the rotated overlaps free, as on a GPU:   peer %.2f ms: %.0fx" % (best[3], best[3] / best[0]))
    print("with reading the files:           savanna %.2f ms, peer %.2f ms: %.0fx" % (
        best[0] + best[2], best[1] + python_read * 1e3, (best[1] + python_read * 1e3) / (best[0] + best[2])))
    if max(worst[0], printed) > 1e-6:
        sys.exit("the scores differ by more than 1e-6")


main()
