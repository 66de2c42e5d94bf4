#!/usr/bin/env bash
# Everything that needs a GPU, in one go:
#
#     tests/cuda/run.sh PROGRAMS REFERENCE POINTS.bin [RESULTS [FRAMES]]
#
# PROGRAMS   folder with savanna, check_cuda, check_frame and check_boxes (build/bundle and build/bundle/tests/cuda, copied together)
# REFERENCE  folder with recorded reference data (or a part of it): operators/, window/, merge/, models/
# POINTS     a KITTI scan for the captured frames
# RESULTS    folder for what is measured: tables as text and CSV
# Exit code: 0 when everything held.
set -uo pipefail
programs=$1 reference=$2 points=$3 results=${4:-$(mktemp -d)} frames=${5:-200}
failed=0
mkdir -p "$results"
step() { printf '\n== %s\n' "$1"; shift; "$@" && return; local code=$?; failed=1; echo "-- exit code $code"; return $code; }

nvidia-smi -L
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total --format=csv,noheader
step "primitives against the CPU" "$programs/check_cuda"
step "recorded reference data on the GPU" "$programs/savanna" check "$reference" --device cuda --precision fp32 --quiet
for config in "$reference"/models/*.yaml; do
    stem=${config%.yaml} name=$(basename "${config%.yaml}")
    case $name in kitti*) ;; *) continue ;; esac
    weights=$stem.pth
    if [ ! -e "$weights" ]; then # without its checkpoint a model is timed with random weights
        weights=$results/$name.h5
        "$programs/savanna" init -q -c "$config" --seed 1 -o "$weights" || continue
    fi
    step "captured frame of $name" "$programs/check_frame" "$config" "$weights" "$points" 100
    step "boxes of $name" "$programs/check_boxes" "$config" "$weights" "$points" "$frames" | tee "$results/boxes-$name.txt"
    [ ${PIPESTATUS[0]} = 0 ] || failed=1 # the step ran in a shell of its own
    for precision in fp32 bf16; do
        step "stages of $name, $precision" "$programs/savanna" bench -q -c "$config" -w "$weights" "$points" --device cuda \
            --precision $precision --frames "$frames" --csv "$results/stages-$name-$precision.csv" | tee "$results/stages-$name-$precision.txt"
    done
done
# Tools that slow everything down see the small suites only.
for tool in memcheck racecheck synccheck initcheck; do
    command -v compute-sanitizer >/dev/null || { echo "== compute-sanitizer is not here: $tool is left out"; continue; }
    step "compute-sanitizer $tool" timeout 240 compute-sanitizer --tool $tool --error-exitcode 9 --log-file "$results/$tool.txt" \
        "$programs/check_cuda" head_norm block_linear token_mix anchor_decode nms chain_small mamba_small
    tail -n 1 "$results/$tool.txt"
done
echo
if [ $failed = 0 ]; then echo "everything held on this GPU"; else echo "something did NOT hold on this GPU"; fi
exit $failed
