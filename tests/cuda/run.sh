#!/usr/bin/env bash
# Everything that needs a GPU, in one go:
#
#     tests/cuda/run.sh PROGRAMS REFERENCE POINTS.bin [RESULTS [FRAMES [CLOUDS]]]
#
# PROGRAMS   folder with savanna, check_cuda, check_frame, check_frames, check_boxes and check_stream (build/bundle and build/bundle/tests/cuda,
#            copied together)
#            and, for traces of replayed frames, trace.c, and commands.sh for all that people start
# REFERENCE  folder with recorded reference data (or a part of it): lion/models, lion/operators, operators ...
# POINTS     a KITTI scan for the captured frames
# RESULTS    folder for what is measured: tables as text and CSV
# CLOUDS     folder with the scans that latencies are measured on: 000134.bin and 000008.bin (KITTI), nuscenes_10sweeps_f16.bin
#            (xyzit), waymo_shaped_180k_f16.bin (xyzie), in half floats
# PRECISIONS (environment, "fp32 tf32 bf16 fp16"): those that latencies are measured in
# SANITIZER_SECONDS (environment, 300): how long each tool of compute-sanitizer may take; 0: they are left out
# FRAMES_FOLDER (environment): more scans whose boxes are compared, in folders by what recorded them: kitti (xyzi), nuscenes (xyzit) and
#            waymo (xyzie), float32
# Exit code: 0 when everything held.
set -uo pipefail
programs=$1 reference=$2 points=$3 results=${4:-$(mktemp -d)} frames=${5:-200} clouds=${6:-}
failed=0
mkdir -p "$results"
step() { printf '\n== %s\n' "$1"; shift; "$@" && return; local code=$?; failed=1; echo "-- exit code $code"; return $code; }

nvidia-smi -L
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total --format=csv,noheader
# What is compared, not timed, runs together; most of its time is the CPU's.
declare -A together
beside() { local name=$1; shift; "$@" >"$results/$name.txt" 2>&1 & together[$name]=$!; }
finished() { local code=0; wait "${together[$1]}" || code=$?; cat "$results/$1.txt"; return $code; }
for precision in fp32 tf32 bf16 fp16; do beside "primitives-$precision" "$programs/check_cuda" --precision $precision; done
beside reference "$programs/savanna" check "$reference" --device cuda --precision fp32 --quiet
for precision in fp32 tf32 bf16 fp16; do step "primitives in $precision against the CPU" finished "primitives-$precision"; done
step "recorded reference data on the GPU" finished reference
for config in $(find -L "$reference" -path '*models/*.yaml' | sort); do
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
    step "a drive with states, cameras and all, on $name" "$programs/check_stream" "$config"
    for precision in fp32 bf16; do
        step "stages of $name, $precision" "$programs/savanna" bench -q -c "$config" -w "$weights" "$points" --device cuda \
            --precision $precision --frames "$frames" --csv "$results/stages-$name-$precision.csv" \
            --plot "$results/roofline-$name-$precision.png" | tee "$results/stages-$name-$precision.txt"
    done
    scans=("$points")
    [ -d "${FRAMES_FOLDER:-}/kitti" ] && scans+=("$FRAMES_FOLDER/kitti")
    step "frames of $name beside the CPU's" "$programs/check_frames" "$config" "$weights" - "${scans[@]}"
done
# The other operators and detectors, with random weights.
for name in kitti_lion_{rwkv,retnet,xlstm,ttt} nuscenes_lion_mamba waymo_lion_mamba_64; do
    scans=${FRAMES_FOLDER:-}/${name%%_*}
    [ -d "$scans" ] || continue
    "$programs/savanna" init -q -c $name --seed 1 -o "$results/$name.h5" &&
        step "frames of $name beside the CPU's" "$programs/check_frames" - "$results/$name.h5" - "$scans" || failed=1
done
# Models of the official sizes with random weights: a row per model, scan and precision.
latency() { # name of a configuration that ships, scan, layout, options of bench
    local name=$1 scan=$2 layout=$3 precision
    shift 3
    [ -e "$results/$name.h5" ] || "$programs/savanna" init -q -c "$name" --seed 1 -o "$results/$name.h5" || return
    for precision in ${PRECISIONS:-fp32 tf32 bf16 fp16}; do
        "$programs/savanna" bench -q --brief -w "$results/$name.h5" "$clouds/$scan" --layout "$layout" --device cuda --precision $precision \
            --frames "$frames" "$@" >"$results/latency.txt" || return
        printf '%-22s %-28s %-5s %-10s %s; %s\n' "$name" "$scan" $precision "$*" "$(sed -n 's/.*boxes in memory: //p' "$results/latency.txt")" \
            "$(sed -n 's/^\(device memory: [^;]*; [0-9]* kernels\).*/\1/p' "$results/latency.txt")"
    done | tee -a "$results/latencies.txt"
}
if [ -n "$clouds" ]; then
    printf '\n== latencies, points in memory to boxes in memory\n'
    for name in mamba rwkv retnet xlstm ttt; do latency kitti_lion_$name 000134.bin xyzi || failed=1; done
    latency kitti_lion_mamba 000008.bin xyzi || failed=1
    latency kitti_lion_mamba 000134.bin xyzi --batch 8 || failed=1
    for name in mamba rwkv; do latency nuscenes_lion_$name nuscenes_10sweeps_f16.bin xyzit:f16 || failed=1; done
    for size in 64 128; do latency waymo_lion_mamba_$size waymo_shaped_180k_f16.bin xyzie:f16 || failed=1; done
    # A model without a map: what check_frame sees of the others is in check_boxes, too.
    latency argoverse2_lion_mamba nuscenes_10sweeps_f16.bin xyzit:f16 || failed=1
    step "boxes of argoverse2_lion_mamba" "$programs/check_boxes" argoverse2_lion_mamba "$results/argoverse2_lion_mamba.h5" \
        "$clouds/nuscenes_10sweeps_f16.bin" "$frames" xyzit:f16 | tee "$results/boxes-argoverse2_lion_mamba.txt"
    [ ${PIPESTATUS[0]} = 0 ] || failed=1
fi
[ -e "$programs/commands.sh" ] && { step "commands, as people start them" "$programs/commands.sh" "$programs/savanna" || failed=1; }
# Where the time of replayed frames goes, kernel by kernel, where CUPTI is there.
cupti=$(find /usr/local/cuda*/ -name cupti.h 2>/dev/null | head -n 1)
if [ -n "$clouds" ] && [ -n "$cupti" ] && [ -e "$programs/trace.c" ]; then
    include=${cupti%/*}
    cc -O2 -shared -fPIC -DKERNEL=CUpti_ActivityKernel10 -I"$include" "$programs/trace.c" -o "$results/trace.so" \
        -L"$include/../lib" -lcupti -Wl,-rpath,"$include/../lib" &&
        CUDA_INJECTION64_PATH=$results/trace.so SAVANNA_TRACE=$results/trace.csv "$programs/savanna" bench -q \
            -w "$results/kitti_lion_mamba.h5" "$clouds/000134.bin" --device cuda --precision bf16 --frames 6 >/dev/null
fi
# Tools that slow everything down see the small suites only.
for tool in memcheck synccheck racecheck initcheck; do
    command -v compute-sanitizer >/dev/null || { echo "== compute-sanitizer is not here: $tool is left out"; continue; }
    [ "${SANITIZER_SECONDS:-300}" != 0 ] || { echo "== compute-sanitizer $tool: left out"; continue; }
    step "compute-sanitizer $tool" timeout "${SANITIZER_SECONDS:-300}" compute-sanitizer --tool $tool --print-limit 10 \
        --show-backtrace no --error-exitcode 9 --log-file "$results/$tool.txt" "$programs/check_cuda" --small
    tail -n 1 "$results/$tool.txt"
done
echo
if [ $failed = 0 ]; then echo "everything held on this GPU"; else echo "something did NOT hold on this GPU"; fi
exit $failed
