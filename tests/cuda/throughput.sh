#!/usr/bin/env bash
# Frames a second of the three datasets' Mamba models on one GPU and on several, and how much of the several is used:
#
#     tests/cuda/throughput.sh PROGRAM [FOLDER [GPUS [BATCH [FRAMES [PRECISION [CLOUDS]]]]]]
#
# PROGRAM  the program savanna; beside it libsavanna_mpi.so, where ranks are to be started
# MPIRUN   (environment) what starts ranks, up to the option '-n'; as it stands, Open MPI's mpirun
# CLOUDS   folder with the scans of tests/cuda/run.sh, for 'detector'; without it KITTI only, on a simulated scan
# FOLDER   for simulated drives, models and results; kept, so that a second call finds the drives
# Two ways: 'detector' has the frame in memory ('savanna bench', one process per GPU at the same time), 'dataset' reads, detects
# and scores simulated drives ('mpirun savanna eval', one rank per GPU). Scores and boxes must be the same for any number of
# ranks: random weights hit no object, so scores alone would say little.
# Exit code: 0 when everything ran and scores and boxes are equal.
set -uo pipefail
program=$(readlink -f "$1") folder=${2:-$(mktemp -d)} gpus=${3:-2} batch=${4:-8} frames=${5:-320} precision=${6:-tf32} clouds=$(readlink -f "${7:-}")
failed=0
mkdir -p "$folder" && cd "$folder" || exit 3
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
launcher=${MPIRUN:-mpirun --oversubscribe --bind-to none}
ranks() { $launcher -n "$@"; }
efficiency() { awk -v one="$1" -v all="$2" -v n="$3" 'BEGIN {printf "%.1f and %.1f frames/s, %.0f %% of %d times one\n", one, all, (one > 0 ? 100 * all / (n * one) : 0), n}'; }

# Frames/s of 'n' benches at the same time: the sum.
detector() { # n, weights, scan, layout
    local n=$1 i
    for ((i = 0; i < n; i++)); do
        "$program" bench -q -w "$2" "$3" --layout "$4" --device cuda:$i --precision "$precision" --batch "$batch" --frames 60 --warmup 6 \
            >bench-$i.txt 2>&1 &
    done
    wait
    sed -n 's/.*(\([0-9.]*\) frames\/s).*/\1/p' $(seq -f 'bench-%.0f.txt' 0 $((n - 1))) | awk '{s += $1} END {print s + 0}'
}
# Frames/s of 'n' ranks over a dataset.
dataset() { # n, model, options of eval
    local n=$1 name=$2
    shift 2
    rm -rf "$name-$n" "$name-$n.json" # a run that fails must leave nothing to compare
    ranks "$n" "$program" eval -v "$@" --device cuda --precision "$precision" --batch "$batch" -o "$name-$n.json" \
        --save-results "$name-$n" >eval-$name-$n.txt 2>&1 ||
        tail -n 5 eval-$name-$n.txt >&2
    sed -n 's/.*: *\([0-9]*\) samples in \([0-9.]*\) s.*/\1 \2/p; s/^\([0-9]*\) samples in \([0-9.]*\) s.*/\1 \2/p' eval-$name-$n.txt |
        tail -n 1 | awk '{print ($2 > 0 ? $1 / $2 : 0)}'
}

one() { # format, model, options of eval
    local format=$1 name=$2 all single
    shift 2
    [ -e "$name.h5" ] || "$program" init -q -c "$name" --seed 1 -o "$name.h5" || return 1
    [ -e "$format/synth.txt" ] ||
        "$program" synth "$format" --format "$format" --frames "$frames" --drives 8 --no-images --seed 1 -q || return 1
    local scan= layout=xyzi
    case $format in
    nuscenes) [ -n "$clouds" ] && scan=$clouds/nuscenes_10sweeps_f16.bin layout=xyzit:f16 ;;
    waymo) [ -n "$clouds" ] && scan=$clouds/waymo_shaped_180k_f16.bin layout=xyzie:f16 ;;
    kitti) if [ -n "$clouds" ]; then scan=$clouds/000134.bin; else scan=$(find "$format" -name '*.bin' | sort | head -n 1); fi ;;
    esac
    if [ -n "$scan" ]; then
        single=$(detector 1 "$name.h5" "$scan" $layout) all=$(detector "$gpus" "$name.h5" "$scan" $layout)
        printf '%-22s detector, batch %s: ' "$name" "$batch"; efficiency "$single" "$all" "$gpus"
        [ "${all%.*}" -gt 0 ] || { failed=1; tail -n 3 bench-0.txt >&2; }
    fi
    command -v "${launcher%% *}" >/dev/null || { echo "${launcher%% *} is not here: the dataset is left out"; return; }
    single=$(dataset 1 "$name" --root "$format" -w "$name.h5" "$@") all=$(dataset "$gpus" "$name" --root "$format" -w "$name.h5" "$@")
    printf '%-22s dataset,  batch %s: ' "$name" "$batch"; efficiency "${single:-0}" "${all:-0}" "$gpus"
    cmp "$name-1.json" "$name-$gpus.json" && diff -rq "$name-1" "$name-$gpus" &&
        echo "$name: scores and boxes of $gpus ranks are those of one ($(find "$name-1" -type f | wc -l) files)" || failed=1
}
one kitti kitti_lion_mamba --fov all || failed=1
one nuscenes nuscenes_lion_mamba --dataset nuscenes || failed=1
one waymo waymo_lion_mamba_64 --dataset waymo || failed=1
exit $failed
