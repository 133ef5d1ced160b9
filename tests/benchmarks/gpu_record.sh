#!/usr/bin/env bash
# Everything that is measured and checked on GPUs: bash tests/benchmarks/gpu_record.sh OUT [STEP...]
#
# Steps run in the order of what matters most, each within a time of its own; one that no longer fits into what is left
# of SECONDS_IN_ALL (default 585) is skipped, one that fails or takes too long does not end the others. Without names
# they are, with two GPUs or more: tests-gpu tests-ranks variants decode-bf16 http-bf16 decode-fp8 decode-fp8-alone
# decode-chosen tests-kernels; with one that holds the model in fp8 (105 GB): tests-gpu decode-fp8 http-fp8 decode-int4
# tests-kernels ways kernels; with a smaller one: tests-gpu decode-int4 layers-bf16 layers-fp8 tests-kernels ways
# kernels. There are also http-int4 quant-error talker. The last line names what is left for another call, in which
# http-* need the file of their decode-* in OUT and decode-chosen that of variants.
#
# OUT gets a JSON file for each measurement as soon as there is a figure in it, tests.txt with a line for each test as
# soon as it has ended, report.txt with what was found, and logs.tar.gz with every log, test report and sweep; where that
# would be more than eight files, json.tar.gz holds the JSON files. Tests run in PROCESSES at once (by default one for
# each two cores, 14 at most), since compiling takes most of their time. A further call with the same OUT adds to what is
# there.
# What becomes of them: results/record/README.md. COMMIT says what git does not know where the tree travelled without it.
# STEP_SECONDS bounds each step. DEVICE=cpu rehearses all of it with a small geometry, of which only the steps mean
# anything. Packages that python3 lacks may stand in PYTHONPATH.
set -u
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { echo "usage: gpu_record.sh OUT [STEP...]" >&2; exit 2; }
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
shift
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
IN_ALL=${SECONDS_IN_ALL:-585}
STEP_SECONDS=${STEP_SECONDS:-$IN_ALL}
COMMIT=${COMMIT:-$(git rev-parse --short HEAD 2>/dev/null)}
CORES=$(nproc)
PROCESSES=${PROCESSES:-$((CORES > 28 ? 14 : (CORES + 1) / 2))}
LEFT=()
WORK=$(mktemp -d)
LOGS=$WORK/logs
mkdir -p "$LOGS"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
# A compile cache of this call's own: its first step starts cold, the others warm.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$WORK/triton}
trap 'rm -rf "$WORK"' EXIT

say() { echo "$*" | tee -a "$OUT/report.txt"; }

keep_logs() {
  tar -czf "$WORK/logs.tar.gz" -C "$WORK" logs && mv "$WORK/logs.tar.gz" "$OUT/logs.tar.gz"
}

unpack() { # what an earlier call has left: its figures are compared with, and its logs kept
  [ ! -f "$OUT/logs.tar.gz" ] || tar -xzf "$OUT/logs.tar.gz" -C "$WORK"
  [ ! -f "$OUT/json.tar.gz" ] || (cd "$OUT" && tar -xzf json.tar.gz && rm -- json.tar.gz)
}

pack() { # few files are easily fetched from elsewhere
  [ "$(ls "$OUT" | wc -l)" -le 8 ] || (cd "$OUT" && tar -czf json.tar.gz -- *.json && rm -- *.json)
}

step() { # NAME LEAST MOST COMMAND...: seconds without which it is not begun, and those it may take
  local name=$1 least=$2 most=$3 left=$((IN_ALL - SECONDS)) began=$SECONDS code=0
  shift 3
  if [ "$left" -lt "$least" ]; then
    say "== $name: skipped, $left s are left and it wants $least"
    LEFT+=("$name")
    return
  fi
  most=$((most < left ? most : left))
  # -k: what ignores the first signal is killed; children too, since timeout signals its whole process group.
  timeout -k 8 "$((most < STEP_SECONDS ? most : STEP_SECONDS))" "$@" >"$LOGS/$name.log" 2>&1 || code=$?
  say "== $name: exit code $code after $((SECONDS - began)) s$([ "$code" = 124 ] && echo ", its time was up")"
  [ "$code" -lt 124 ] || LEFT+=("$name")
  grep -hE "tok/s|RTF|first token|passed|failed|skipped|^(FAILED|ERROR)|logits|MISSED|choice:|equal for|out:|Error:|error:" \
    "$LOGS/$name.log" | cut -c1-180 | tail -n 32 | tee -a "$OUT/report.txt"
  keep_logs
}

if [ "$DEVICE" = cuda ]; then
  read -r GPUS GIB < <("$PYTHON" -c 'import torch as t
print(t.cuda.device_count(), t.cuda.get_device_properties(0).total_memory >> 30 if t.cuda.is_available() else 0)')
  [ "$GPUS" -ge 1 ] || { echo "no GPU here; DEVICE=cpu rehearses" >&2; exit 2; }
  SIZES=() HTTP=() TALKER=() SERVED=(--load-format generated)
else
  GPUS=${GPUS:-2} GIB=141
  MODEL=$WORK/model
  "$PYTHON" -m tests.benchmarks.small_geometry "$MODEL" || exit
  SIZES=(--model "$MODEL" --max-model-len 1024 --batches 1,2 --output-tokens 40 --repeats 1)
  HTTP=(--device cpu --most 2) TALKER=(--device cpu --tiny --patches 12 --repeats 1) SERVED=(--model "$MODEL" --load-format generated)
fi
unpack
TP=$((GPUS >= 2 ? 2 : 1))
# The whole geometry in bfloat16 takes 105 GB of each of two GPUs; 20 of its 32 layers fit into 2 x 80 GB.
LAYERS=${LAYERS-$([ "$GIB" -lt 120 ] && echo 20)}
say "$(date -u +%FT%TZ) $GPUS GPU(s) of $GIB GiB, device $DEVICE, ${COMMIT:-no commit}, $IN_ALL s"

bench() { # NAME LEAST MOST OPTIONS...
  local name=$1 least=$2 most=$3
  shift 3
  step "$name" "$least" "$most" "$PYTHON" -m engine.bench --device "$DEVICE" --json "$OUT/gpu-$name.json" \
    ${COMMIT:+--commit "$COMMIT"} "$@" "${SIZES[@]}"
}

http() { # NAME OFFLINE LEAST MOST ENGINE-OPTIONS...: against the offline run that must be there
  local name=$1 offline=$OUT/gpu-$2.json least=$3 most=$4
  shift 4
  if [ ! -f "$offline" ]; then
    say "== $name: skipped, there is no $(basename "$offline") to compare with"
    LEFT+=("$name")
    return
  fi
  step "$name" "$least" "$most" "$PYTHON" -m tests.benchmarks.http_against_offline "$offline" "$OUT/$name.json" \
    --results "$LOGS/$name" "${HTTP[@]}" -- "$@"
}

kernels() { # NAME LEAST MOST OPTIONS...
  local name=$1 least=$2 most=$3
  shift 3
  step "$name" "$least" "$most" "$PYTHON" -m engine.kernels.bench --json "$OUT/$name.json" ${COMMIT:+--commit "$COMMIT"} "$@"
}

tests() { # NAME LEAST MOST PYTEST-ARGUMENTS: PROCESSES at once divide the tests, each with one GPU
  step "$1" "$2" "$3" "$PYTHON" -m tests.benchmarks.side_by_side --processes "$PROCESSES" --gpus "${GPUS_EACH-$GPUS}" \
    "$LOGS" "$1" "$OUT/tests.txt" "$4"
}

# The first budget is the default; larger ones waste fewer rows of the experts' tiles.
PREFILL=(--prefill 8x3500,1x1024,1x3500 --prefill-steps 8192,2048,16384,28672) PROFILE=(--profile "1,32")
PACKED=(--prefill 8x3500,1x3500 --prefill-steps 8192,28672)
[ "$DEVICE" = cuda ] || PREFILL=(--prefill 2x64 --prefill-steps 64,128) PACKED=(--prefill 2x64) PROFILE=()
GPU_TESTS=(tests/engine/runtime/test_gpus.py tests/engine/runtime/test_constraint.py tests/engine/runtime/test_tower_graphs.py)
GPU_TESTS+=(tests/engine/goldens/test_gpu_goldens.py tests/engine/models/test_vision.py tests/engine/models/test_audio_encoder.py)
GPU_TESTS+=(tests/engine/stages/test_recorder.py tests/engine/runtime/test_packed_graphs.py)

chosen() { # the whole geometry by the way that the variants speak for, where that is not what serves
  local way served
  way=$("$PYTHON" -m engine.bench.choose "$OUT/gpu-variants.json" --name 2>/dev/null)
  served=$("$PYTHON" -c 'from engine.kernels.paths import DEFAULT; print(DEFAULT)')
  case $way in
    "") say "== decode-chosen: skipped, no variants speak for a way" ;;
    "$served") say "== decode-chosen: skipped, $way serves already" ;;
    *) bench decode-chosen 60 160 --paths "$way" "$@" ;;
  esac
}

run() {
  local tp=(--tp "$TP")
  case $1 in
    # rows of the decode table, prefill, and the kernels of a step; its start is the cold one
    decode-bf16) bench decode-bf16 60 210 "${tp[@]}" ${LAYERS:+--layers "$LAYERS"} "${PREFILL[@]}" "${PROFILE[@]}" ;;
    http-bf16) http http-bf16 decode-bf16 70 170 "${tp[@]}" "${SERVED[@]}" ;;  # its start is the warm one
    decode-chosen) chosen "${tp[@]}" ${LAYERS:+--layers "$LAYERS"} ;;
    decode-fp8-alone) bench decode-fp8-alone 50 140 --quant fp8 "${PACKED[@]}" ;;
    decode-fp8) bench decode-fp8 50 140 "${tp[@]}" --quant fp8 "${PACKED[@]}" "${PROFILE[@]}" ;;
    http-fp8) http http-fp8 decode-fp8 60 160 "${tp[@]}" "${SERVED[@]}" --quant fp8 ;;
    decode-int4) bench decode-int4 50 120 --quant int4 "${PACKED[@]}" ;;
    http-int4) http http-int4 decode-int4 60 160 "${SERVED[@]}" --quant int4 ;;
    # one GPU's share of 8 layers in both formats, minutes apart: the ratio where the whole does not fit
    layers-bf16) bench layers-bf16 30 80 --layers 8 --batches 1,8,32,64 ;;
    layers-fp8) bench layers-fp8 30 80 --layers 8 --quant fp8 --batches 1,8,32,64 ;;
    # what a captured step may do instead of what is served, side by side: the engine with few layers, and one layer alone
    variants) bench variants 60 240 "${tp[@]}" --layers 8 --batches 1,2,8,32,64 --variants "lean,lean but keys,lean but heads,lean but programmatic,plain" ;;
    ways) kernels ways 30 120 --only step ;;
    # tp 2 = tp 1: greedy in float32 and logits in bfloat16, through shared memory and NCCL, at full width
    tests-ranks) GPUS_EACH=0 PROCESSES=1 tests tests-ranks 60 200 "-m multi_gpu tests/engine/runtime/test_gpu_ranks.py" ;;
    # goldens a b d e g in float32 and bfloat16, graphs = eager, 1,000 requests with aborts, schemas, the recorder
    tests-gpu) tests tests-gpu 40 200 "-m gpu ${GPU_TESTS[*]}" ;;
    tests-kernels) tests tests-kernels 40 200 tests/engine/kernels/device ;;
    kernels) kernels kernels 30 200 ;;
    quant-error) bench quant-error 20 70 --quant-error --layers 4 ;;
    talker) step talker 30 90 "$PYTHON" -m engine.stages.bench --json "$OUT/talker.json" ${COMMIT:+--commit "$COMMIT"} \
      "${TALKER[@]}" ;;
    *)
      say "== $1: no such step"
      UNKNOWN=2
      ;;
  esac
}

if [ $# -eq 0 ]; then
  if [ "$GPUS" -ge 2 ]; then
    set -- tests-gpu tests-ranks variants decode-bf16 http-bf16 decode-fp8 decode-fp8-alone decode-chosen tests-kernels
  elif [ "$GIB" -ge 120 ]; then
    set -- tests-gpu decode-fp8 http-fp8 decode-int4 tests-kernels ways kernels
  else
    set -- tests-gpu decode-int4 layers-bf16 layers-fp8 tests-kernels ways kernels
  fi
fi
for name; do run "$name"; done
say "done after $SECONDS s${LEFT:+, left: ${LEFT[*]}}"
pack
exit "${UNKNOWN:-0}"
