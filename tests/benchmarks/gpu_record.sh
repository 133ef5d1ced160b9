#!/usr/bin/env bash
# Check and time everything that needs GPUs, in one call: bash tests/benchmarks/gpu_record.sh OUT
#
# With two GPUs about eight minutes; what needs two is left out with one. Every file is written as soon as there is
# something in it, and a part that fails or takes too long does not end the others. The last lines say what was found.
set -u
cd "$(dirname "$0")/../.."
OUT=$(mkdir -p "${1:?usage: gpu_record.sh OUT}" && cd "$1" && pwd)
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
GPUS=$(python3 -c 'import torch; print(torch.cuda.device_count())')

part() { # NAME SECONDS COMMAND...: its output goes to OUT/NAME.log
  local name=$1 seconds=$2
  shift 2
  timeout -k 5 "$seconds" "$@" >"$OUT/$name.log" 2>&1
  echo "$name: exit code $? after $SECONDS s"
  grep -E "tok/s|RTF|passed|failed|logits" "$OUT/$name.log" | cut -c1-150 | tail -n 12
}

bench() { # NAME SECONDS OPTIONS...
  local name=$1 seconds=$2
  shift 2
  part "$name" "$seconds" python3 -m engine.bench --json "$OUT/$name.json" "$@"
}

part tests 240 python3 -m pytest -q -p no:cacheprovider tests/engine/runtime/test_gpus.py tests/engine/kernels/device
part kernels 240 python3 -m engine.kernels.bench --json "$OUT/kernels.json"
bench talker 90 --talker
bench quant-error 60 --quant-error --layers 4
bench gpu-decode-int4 120 --quant int4 --prefill 8x3500
if [ "$GPUS" -ge 2 ]; then
  # The whole geometry in bfloat16 needs 2 x 141 GB; LAYERS=20 fits into 2 x 80 GB.
  bench gpu-decode 150 --tp 2 ${LAYERS:+--layers "$LAYERS"} --prefill 1x1024,1x3500,8x3500 --profile 1,32
  bench gpu-decode-fp8 120 --tp 2 --quant fp8 --prefill 8x3500
else
  bench gpu-decode-fp8 120 --quant fp8 --prefill 8x3500
fi
