#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Build and run one fuzz target:  tests/fuzz/run.sh fuzz_pth 60
# Inputs that are found stay in build/fuzz/corpus/TARGET; a failing one is written to build/fuzz/failures/TARGET-*.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 TARGET SECONDS [libFuzzer options]" >&2
    exit 2
fi
target=$1
seconds=$2
shift 2
cd "$(dirname "$0")/../.."
[ -f build/fuzz/build.ninja ] || cmake --preset fuzz
cmake --build --preset fuzz --target "$target" make_seeds
mkdir -p "build/fuzz/corpus/$target" build/fuzz/failures
build/fuzz/tests/fuzz/make_seeds build/fuzz/seeds
mkdir -p "build/fuzz/seeds/$target"
exec "build/fuzz/tests/fuzz/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/failures/$target-" "$@" "build/fuzz/corpus/$target" "build/fuzz/seeds/$target"
