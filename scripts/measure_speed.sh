#!/usr/bin/env bash
# Measure the tables of docs/performance.md on this machine, which should be idle. Results: speed/*.json and speed/*.txt.
#
#   scripts/measure_speed.sh            on the CPU, about an hour on two cores; on CUDA too, if there is a device
set -euo pipefail

OUT=${OUT:-speed}
SWIN=swin_tiny_patch4_window7_224
THREADS=${THREADS:-2}
mkdir -p "$OUT"

measure() { # NAME ARGUMENTS...
  local name=$1
  shift
  echo "== $name: dat-bench $*"
  dat-bench "$@" json="$OUT/$name.json" | tee "$OUT/$name.txt"
}

for dtype in fp32 bf16; do
  measure "cpu-dat_t-$dtype" model=dat_t baseline=$SWIN device=cpu dtype=$dtype threads="$THREADS" repeats=10
  measure "cpu-datpp_t-$dtype" model=datpp_t baseline=$SWIN device=cpu dtype=$dtype threads="$THREADS" repeats=6
  # eager and compiled, DAT-T, DAT-T++ and Swin-T
  measure "cpu-compiled-$dtype" model=dat_t others="[datpp_tiny,$SWIN]" device=cpu dtype=$dtype threads="$THREADS" \
    batch_size=8 repeats=6 compile='[false,true]'
  measure "cpu-attention-$dtype" attention device=cpu dtype=$dtype threads="$THREADS"
done

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  for batch in 128 256; do
    measure "cuda-models-$batch" model=dat_t others='[dat_base,datpp_tiny]' baseline=$SWIN device=cuda dtype=bf16 \
      batch_size=$batch compile='[false,true]' repeats=20
    for kernels in triton flex; do
      measure "cuda-$kernels-$batch" model=dat_t others='[datpp_tiny]' baseline=$SWIN device=cuda dtype=bf16 \
        batch_size=$batch kernels=$kernels repeats=20
    done
  done
  measure cuda-attention attention device=cuda dtype=bf16 batch_size=64
fi
