#!/usr/bin/env bash
# Every figure that needs a GPU, in one go, into runs/bench/: `bash benchmarks/bench_gpu.sh [PEER]`, PEER a checkout of the published implementation.
# About ten minutes on one large GPU. Each part is independent: one that fails is named, and the others go on.
set -u
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD"
python -c 'import torch, sys; sys.exit(not torch.cuda.is_available() and "no GPU: torch.cuda.is_available() is False; the CPU figures are those of make bench")' || exit 1
mkdir -p runs/bench
part() {  # name, command…
  echo "== $1"
  "${@:2}" 2>&1 | tee "runs/bench/$1.txt" | grep -v '^USDT\|it/s\|cell/s'
  [ "${PIPESTATUS[0]}" = 0 ] || echo "$1 failed: runs/bench/$1.txt" >&2
}
part refinement python benchmarks/bench_pamr.py cuda
part losses python benchmarks/bench_losses.py cuda
part stages python -m papermill nbs/guide/bench.ipynb runs/bench/stages.ipynb --log-output -p device cuda -p backbone resnet101 -p output_stride 16 \
  -p crop_size 512 -p batch_size 24 -p batch_sizes "8;16;24" -p crop_sizes "256;384;512" -p processes "1;2;4;8" -p workers "0;4;8" -p evaluated 96 -p out runs/bench/stages.json
part tries python -m papermill nbs/guide/what_did_not_help.ipynb runs/bench/tries.ipynb --log-output -p device cuda -p backbone resnet101 \
  -p output_stride 16 -p crop_size 512 -p batch_size 24
part start python benchmarks/bench_start.py
if [ $# -gt 0 ]; then
  part beside python benchmarks/bench_step.py "$1" --crop 512 --batch 12 --rounds 10 --steps 30 --workers 8 --out runs/bench/beside.json
fi
echo "All in runs/bench/."
