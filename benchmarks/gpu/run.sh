#!/usr/bin/env bash
# Build, test, sanitize and benchmark on a machine with an NVIDIA GPU: its own python3, no network, at most 9 minutes.
# Results go to $OUT if that is set, else to benchmarks/results/gpu. A stage that fails does not stop the others; the exit
# status says whether any did. DRY=1: without a GPU, every stage starts and reads its arguments, and no more than that.
set -u
cd "$(dirname "$0")/../.." || exit 1
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$PWD/benchmarks/results/gpu}
mkdir -p "$OUT"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
unset TRITON_INTERPRET REGFAST_BACKEND
if [ -n "${DRY:-}" ]; then
  export REGFAST_GPU_SECONDS=3600
  build=(--name) collect=(--collect-only) help=(--help) kernels=(-c 'import benchmarks.gpu.every_kernel') sanitizer=$(type -P echo)
else
  build=(-q build_ext --inplace) collect=() help=() kernels=(-m benchmarks.gpu.every_kernel)
fi
END=$((SECONDS + ${REGFAST_GPU_SECONDS:-520}))
failed=()
log=$OUT/log.txt
: > "$log"

# stage NAME SECONDS COMMAND…: run it with that limit, or with what is left of the whole.
stage() {
  local name=$1 limit=$2 left=$((END - SECONDS)) begin=$SECONDS status
  shift 2
  if ((left < 5)); then
    echo "=== $name: skipped, no time left" | tee -a "$log"
    failed+=("$name (no time)")
    return
  fi
  if ((limit > left)) || [ -n "${DRY:-}" ]; then limit=$left; fi
  echo "=== $name (at most $limit s)" | tee -a "$log"
  timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  ((status == 124 || status == 137)) && echo "--- $name ran past its $limit s" | tee -a "$log"
  ((status != 0)) && failed+=("$name ($status)")
  echo "--- $name: status $status after $((SECONDS - begin)) s" | tee -a "$log"
}

if [ -n "${DRY:-}" ]; then
  TORCH_CUDA_ARCH_LIST=9.0
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "make gpu: $PYTHON has no torch that sees a CUDA device; nothing to build, test or measure here" | tee -a "$log"
  exit 1
else  # only for the GPU that is here: three architectures take three times as long
  TORCH_CUDA_ARCH_LIST=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
fi
export TORCH_CUDA_ARCH_LIST
if [ -z "${CUDA_HOME:-}" ] && [ -x /usr/local/cuda/bin/nvcc ]; then export CUDA_HOME=/usr/local/cuda; fi
export PATH=${CUDA_HOME:+$CUDA_HOME/bin:}$PATH MAX_JOBS=${MAX_JOBS:-16}

stage build 170 env REGFAST_REQUIRE_NATIVE=1 "$PYTHON" setup.py "${build[@]}"
stage config 40 "$PYTHON" -c 'import regfast; print(regfast.show_config())'

workers=()
"$PYTHON" -c 'import xdist' 2>/dev/null && workers=(-n 12)
timeouts=()
"$PYTHON" -c 'import pytest_timeout' 2>/dev/null && timeouts=(--timeout=120)
stage tests 150 "$PYTHON" -m pytest tests/gpu -q -o addopts= "${collect[@]}" "${workers[@]}" "${timeouts[@]}" --maxfail=60 --tb=short -p no:cacheprovider

stage benchmarks 130 "$PYTHON" -m benchmarks.gpu --out "$OUT" --seconds 115 "${help[@]}"
stage attacks 60 "$PYTHON" -m benchmarks.attacks.gpu --out "$OUT" --seconds 40 "${help[@]}"

# The kernels once without the sanitizer, so that Triton has compiled them; then each tool at the same time as the others.
: "${sanitizer:=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")}"
if [ -x "$sanitizer" ]; then
  stage kernels 60 "$PYTHON" "${kernels[@]}"
  sanitize() {
    local tool pids=() status=0
    for tool in memcheck racecheck initcheck synccheck; do
      env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 \
        "$PYTHON" -m benchmarks.gpu.every_kernel > "$OUT/sanitizer-$tool.tmp" 2>&1 &
      pids+=("$tool:$!")
    done
    for tool in "${pids[@]}"; do
      wait "${tool#*:}" || { echo "${tool%%:*} failed with status $?"; status=1; }
      sed "s/^/${tool%%:*}: /" "$OUT/sanitizer-${tool%%:*}.tmp" | tail -n 60
      rm -f "$OUT/sanitizer-${tool%%:*}.tmp"
    done
    return "$status"
  }
  export -f sanitize
  export sanitizer PYTHON OUT
  stage sanitizer 110 bash -c sanitize
else
  echo "=== sanitizer: skipped, no compute-sanitizer here" | tee -a "$log"
fi
for rest in "$OUT"/sanitizer-*.tmp; do  # of a tool that the limit ended
  [ -f "$rest" ] && { echo "$(basename "$rest" .tmp), unfinished:"; tail -n 40 "$rest"; } | tee -a "$log"
  rm -f "$rest"
done

if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]}" | tee -a "$log"
  exit 1
fi
echo "all stages passed, $SECONDS s" | tee -a "$log"
