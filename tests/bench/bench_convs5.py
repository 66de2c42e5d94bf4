#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Moving-MNIST ConvS5 models beside another implementation, in turns in one run.

    bench_convs5.py --peer DIR [--program build/ci/tests/bench_convs5] [--threads 2] [--rounds 3] [--repeats 3]

DIR holds peer.py with a function measure(states, width, layers, depths, frames, threads, repeats) that returns the best
milliseconds a frame (wall, processors) of the model with so many complex states, channels and layers, on pictures of
64 x 64, for clips of so many frames at once; frames = 1 is a stream. Printed are the best of all rounds, and ratios.
"""
import argparse
import subprocess
import sys

MODELS = {"convs5_mnist300": (128, 256, 8, (64, 128, 256)), "convs5_mnist600": (64, 128, 8, (64, 128, 256))}
FRAMES = {"clip": 16, "stream": 1}


def ours(program, threads, repeats):
    """{(model, what): (wall, processors)} and the other lines."""
    found, rest = {}, []
    text = subprocess.run([program, str(threads), str(repeats)], check=True, capture_output=True, text=True).stdout
    for line in text.splitlines():
        words = line.split()
        if "wall" in words and words[1] in FRAMES:
            found[words[0], words[1]] = float(words[2]), float(words[5])
        else:
            rest.append(line)
    return found, rest


def best(a, b):
    return b if a is None else (min(a[0], b[0]), min(a[1], b[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--program", default="build/ci/tests/bench_convs5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sys.path.insert(0, options.peer)
    import peer  # pylint: disable=import-error,import-outside-toplevel

    mine, theirs, rest = {}, {}, []
    for _ in range(options.rounds):
        found, rest = ours(options.program, options.threads, options.repeats)
        for name, figures in found.items():
            mine[name] = best(mine.get(name), figures)
        for model, shape in MODELS.items():
            for what, frames in FRAMES.items():
                figures = peer.measure(*shape, frames, options.threads, options.repeats)
                theirs[model, what] = best(theirs.get((model, what)), figures)
    print(f"best of {options.rounds} rounds in turns, {options.threads} threads; ms a frame: wall, processors / threads")
    for name, figures in mine.items():
        other = theirs[name]
        print(f"{name[0]:16} {name[1]:7} savanna {figures[0]:8.2f} {figures[1]:8.2f}   peer {other[0]:8.2f} {other[1]:8.2f}"
              f"   {other[0] / figures[0]:5.2f}x {other[1] / figures[1]:5.2f}x")
    print("\n".join(rest))


if __name__ == "__main__":
    main()
