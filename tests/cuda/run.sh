#!/usr/bin/env bash
# Everything that needs a GPU, in one go:
#
#     tests/cuda/run.sh PROGRAMS REFERENCE [POINTS.bin]
#
# PROGRAMS   folder with savanna, check_cuda and check_frame (build/bundle and build/bundle/tests/cuda, copied together)
# REFERENCE  folder with recorded reference data (or a part of it): operators/, window/, merge/, models/
# POINTS     a KITTI scan for the captured frame
# Exit code: 0 when everything held.
set -uo pipefail
programs=$1 reference=$2 points=${3:-}
failed=0
step() { printf '\n== %s\n' "$1"; shift; "$@" || { failed=1; echo "-- exit code $?"; }; }

nvidia-smi -L
step "primitives against the CPU" "$programs/check_cuda"
step "recorded reference data on the GPU" "$programs/savanna" check "$reference" --device cuda --quiet
for config in "$reference"/models/*.yaml; do
    stem=${config%.yaml}
    [ -n "$points" ] && [ -e "$stem.pth" ] || continue
    step "captured frame of $(basename "$stem")" "$programs/check_frame" "$config" "$stem.pth" "$points" 200
    step "stages of $(basename "$stem")" "$programs/savanna" bench -q -c "$config" -w "$stem.pth" "$points" --device cuda --until bev --frames 50
done
echo
if [ $failed = 0 ]; then echo "everything held on this GPU"; else echo "something did NOT hold on this GPU"; fi
exit $failed
