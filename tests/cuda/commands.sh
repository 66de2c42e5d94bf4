#!/usr/bin/env bash
# The program's commands on a GPU, as people start them, on drives that it simulates itself:
#
#     tests/cuda/commands.sh SAVANNA [FOLDER [DEVICE [PRECISIONS]]]
#
# SAVANNA     the program
# FOLDER      for drives, models and results; a new one by default, removed behind
# DEVICE      cuda; cpu tries the script itself
# PRECISIONS  "fp32 tf32 bf16 fp16"
# Asked are exit codes, sentences and that results do not depend on batches, interruptions or where they come from; that they
# are the CPU's is asked by check_cuda, check_boxes and check_frames. Exit code: 0 when everything held.
set -uo pipefail
program=$(readlink -f "$1") folder=${2:-} device=${3:-cuda} precisions=${4:-fp32 tf32 bf16 fp16}
[ -n "$folder" ] || { folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT; }
mkdir -p "$folder" && cd "$folder" || exit 3
passed=0 failed=0
held() { # sentence, command that must succeed
    local sentence=$1
    shift
    if "$@" >said.txt 2>&1; then
        passed=$((passed + 1)) && echo "ok      $sentence"
    else
        failed=$((failed + 1)) && echo "FAILED  $sentence" && tail -n 4 said.txt
    fi
}
fails() { # sentence, exit code, words that the message must have, command
    local sentence=$1 want=$2 words=$3 code=0
    shift 3
    "$@" >said.txt 2>&1 || code=$?
    if [ $code = "$want" ] && grep -qi -- "$words" said.txt; then
        passed=$((passed + 1)) && echo "ok      $sentence: $(tail -n 1 said.txt | cut -c1-140)"
    else
        failed=$((failed + 1)) && echo "FAILED  $sentence: exit code $code instead of $want, or not a word of '$words'" && tail -n 4 said.txt
    fi
}
fresh() { rm -rf "$1" && echo "$1"; }

for name in kitti_lion_mamba nuscenes_lion_mamba waymo_lion_mamba_64 argoverse2_lion_mamba; do
    "$program" init -q -c $name --seed 1 -o $name.h5 || exit 3
done
"$program" init -q -c trecvit_ti --seed 1 -o trecvit.safetensors || exit 3
[ -e kitti/synth.txt ] || "$program" synth kitti --frames 6 --drives 2 --seed 1 -q || exit 3
[ -e nuscenes/synth.txt ] || "$program" synth nuscenes --format nuscenes --frames 8 --drives 2 --no-images --seed 1 -q || exit 3
[ -e waymo/synth.txt ] || "$program" synth waymo --format waymo --frames 3 --drives 1 --no-images --seed 1 -q || exit 3
scans=(kitti/training/velodyne/00000[0-4].bin)

on=(--device "$device")
for precision in $precisions; do
    detect=("$program" detect -q -w kitti_lion_mamba.h5 "${on[@]}" --precision "$precision")
    held "$precision: five scans one by one" "${detect[@]}" "${scans[@]}" -o one.json
    held "$precision: five scans, three in a call" "${detect[@]}" "${scans[@]}" -o three.json --batch 3
    held "$precision: with the same bytes" cmp one.json three.json
    held "$precision: and with boxes" grep -q '"score"' one.json
    score=("$program" eval -q --root kitti --split training -w kitti_lion_mamba.h5 "${on[@]}" --precision "$precision")
    held "$precision: a drive is scored" "${score[@]}" --save-results "$(fresh whole)" -o whole.json
    held "$precision: in batches" "${score[@]}" --batch 4 --save-results "$(fresh parts)" -o parts.json
    held "$precision: with the same scores" cmp whole.json parts.json
    held "$precision: and boxes" diff -r whole parts
done
held "a drive with pictures of what was found" "${score[@]}" --images "$(fresh pictures)"
held "a picture per frame" test "$(find pictures -name '*.png' 2>/dev/null | wc -l)" -ge 6
held "frames of a dataset, as the benchmark wants them" "$program" detect -q -w kitti_lion_mamba.h5 "${on[@]}" --precision "${precisions##* }" \
    --dataset kitti --root kitti --split training --format kitti -o "$(fresh results)/"
held "which are what 'eval' kept" diff -r -x savanna-run.json results whole
timeout -s KILL 4 "${score[@]}" --save-results "$(fresh cut)" >said.txt 2>&1
held "a run that was killed goes on" "${score[@]}" --save-results cut --resume -o cut.json
held "to the same boxes" diff -r -x savanna-run.json cut whole
held "every tensor of a frame in a file" "${detect[@]}" "${scans[0]}" -o one.json --dump dump.h5
held "that can be looked at" "$program" inspect dump.h5
held "points and boxes from above" "${detect[@]}" "${scans[0]}" -o one.json --image above.png
for format in nuscenes waymo; do
    model=nuscenes_lion_mamba
    [ $format = waymo ] && model=waymo_lion_mamba_64
    score=("$program" eval -q --dataset $format --root $format -w $model.h5 "${on[@]}" --precision "${precisions##* }")
    [ $format = nuscenes ] && score+=(--split all)
    held "$format: frames are scored" "${score[@]}" --save-results "$(fresh whole)" -o whole.json
    held "$format: in a batch of more points than one cloud may have" "${score[@]}" --batch 8 --save-results "$(fresh parts)" -o parts.json
    held "$format: with the same scores" cmp whole.json parts.json
    held "$format: and boxes" diff -r -x savanna-run.json whole parts
done
held "stages, ceilings and a roofline" "$program" bench -q -w kitti_lion_mamba.h5 "${scans[0]}" "${on[@]}" --frames 3 --plot roofline.png --csv stages.csv
held "an operator's block" "$program" bench operators -q --only Mamba --channels 64 --lengths 512 --groups 1 --rounds 1 --stream 0 "${on[@]}"
held "a clip at once" "$program" video -q --json -w trecvit.safetensors "${on[@]}" kitti/training/image_2 --mode clip
cp said.txt clip.txt
held "a clip, picture by picture" "$program" video -q --json -w trecvit.safetensors "${on[@]}" kitti/training/image_2 --mode stream
cp said.txt stream.txt
same_classes() { grep -q '"class": ' clip.txt && diff <(grep -o '"class": [0-9]*' clip.txt) <(grep -o '"class": [0-9]*' stream.txt); }
held "has the same classes" same_classes

head -c 1000 "${scans[0]}" >short.bin
head -c 50000 kitti_lion_mamba.h5 >short.h5
fails "a scan with half a point" 3 short.bin "${detect[@]}" short.bin
fails "a model file that was cut off" 3 short.h5 "$program" detect -w short.h5 "${on[@]}" "${scans[0]}"
fails "a scan that is not there" 3 nowhere.bin "${detect[@]}" "${scans[0]}" nowhere.bin -o one.json
fails "a precision that does not exist" 2 fp12 "$program" detect -w kitti_lion_mamba.h5 "${on[@]}" --precision fp12 "${scans[0]}"
if [ "$device" = cuda ]; then
    fails "a card that is not there" 2 'cuda:63' "$program" detect -w kitti_lion_mamba.h5 --device cuda:63 "${scans[0]}"
    CUDA_VISIBLE_DEVICES='' fails "no card at all" 2 'use --device cpu' "$program" detect -w kitti_lion_mamba.h5 --device cuda "${scans[0]}"
fi
printf '%s passed, %s failed\n' $passed $failed
[ $failed = 0 ]
