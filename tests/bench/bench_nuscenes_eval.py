#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""savanna's nuScenes detection evaluation beside the official development kit, in one run on the same files.

    bench_nuscenes_eval.py --peer DIR [--path DIR] [--build build/ci] [--boxes 200] [--repeats 3] [--folder DIR]

DIR is a checkout of nutonomy/nuscenes-devkit; --path is searched for Python modules before the system's, for small
stand-ins of what the kit imports and this machine lacks. The tables (150 scenes of the split val, 6019 key frames, 190 000
labels) and the submission (--boxes in each) are made by bench_nuscenes_tables and kept in --folder if that is given.
Both sides do all of it: tables and submission from disk, filters, matching, scores; no pictures. The scores of both are
compared; the ratio is of whole times, ours the best of the repeats.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

PEER = """
import json, sys, time
start = time.time()
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
imported = time.time()
nusc = NuScenes(version="v1.0-trainval", dataroot=sys.argv[1], verbose=False)
tables = time.time()
evaluation = DetectionEval(nusc, config_factory("detection_cvpr_2019"), sys.argv[2], "val", sys.argv[3], verbose=False)
loaded = time.time()
metrics, _ = evaluation.evaluate()
done = time.time()
out = metrics.serialize()
out["seconds"] = {"tables": tables - imported, "load and filter": loaded - tables, "evaluate": done - loaded,
                  "whole": done - imported}
json.dump(out, sys.stdout)
"""


def run(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode != 0:
        sys.exit("%s\n%s failed" % (result.stderr[-2000:], command[0]))
    return result.stdout


def difference(ours, theirs, path=""):
    """The largest difference of the numbers that both have; a number on one side only is an error."""
    if isinstance(theirs, dict):
        return max(difference(ours[str(key)], value, path + "/" + str(key)) for key, value in theirs.items())
    if theirs is None or theirs != theirs:
        assert ours is None, path
        return 0.0
    return abs(ours - theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--path", default="")
    parser.add_argument("--build", default="build/ci")
    parser.add_argument("--boxes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or os.path.join(scratch, "nuscenes")
        results = os.path.join(folder, "results_%d.json" % options.boxes)
        maker = os.path.join(options.build, "tests", "bench_nuscenes_tables")
        if not os.path.exists(os.path.join(folder, "v1.0-trainval")):
            os.makedirs(folder, exist_ok=True)
            run([maker, "make", folder, "key"])
        os.makedirs(os.path.join(folder, "maps"), exist_ok=True)
        open(os.path.join(folder, "maps", "none.png"), "a").close()  # the kit wants it to be there
        if not os.path.exists(results):
            run([maker, "results", folder, str(options.boxes), results])
        print("submission: %.0f MB" % (os.path.getsize(results) / 1e6))

        command = [os.path.join(options.build, "savanna"), "eval", "--dataset", "nuscenes", "--root", folder, "--split",
                   "val", "--results", results, "-q", "-o", os.path.join(scratch, "metrics.json")]
        best = None
        for _ in range(options.repeats):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.time()
            run(command)
            seconds = time.time() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best = min(best or (seconds, cpu, 0), (seconds, cpu, after.ru_maxrss))
        with open(os.path.join(scratch, "metrics.json")) as file:
            ours = json.load(file)
        print("savanna: %.2f s (%.2f s of processors), %.0f MB" % (best[0], best[1], best[2] / 1024))

        path = os.pathsep.join(filter(None, [options.path, os.path.join(options.peer, "python-sdk")]))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        theirs = json.loads(run([sys.executable, "-c", PEER, folder, results, scratch],
                                env=dict(os.environ, PYTHONPATH=path)))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds = theirs["seconds"]
        print("development kit: %s (%.1f s of processors), %.0f MB" % (
            ", ".join("%s %.1f s" % item for item in seconds.items()), cpu, after.ru_maxrss / 1024))
        worst = max(difference(ours[key], theirs[key], key) for key in
                    ("label_aps", "mean_dist_aps", "mean_ap", "label_tp_errors", "tp_errors", "tp_scores", "nd_score"))
        print("mAP %.6f, NDS %.6f; largest difference of all scores %.1e" % (ours["mean_ap"], ours["nd_score"], worst))
        print("ratio %.0f (of processor time %.0f)" % (seconds["whole"] / best[0], cpu / best[1]))


if __name__ == "__main__":
    main()
