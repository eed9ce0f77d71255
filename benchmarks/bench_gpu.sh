#!/usr/bin/env bash
# Every figure that needs a GPU, in one go, into runs/bench/: `bash benchmarks/bench_gpu.sh [PEER]`, PEER a checkout of the published implementation.
# About ten minutes on one large GPU. Each part is independent: one that fails is named, the others go on, and the exit code is 1.
# `SMALL=1 OUT=folder` runs every part on the CPU at a small size, in about a minute: figures without meaning, by which a test sees that each still runs.
set -u
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD"
out=${OUT:-runs/bench}
if [ "${SMALL:-}" = 1 ]; then
  device=cpu small=--small norm=plain
  stages=(-p seconds 0.01 -p crop_size 32 -p batch_size 2 -p batch_sizes 2 -p crop_sizes "" -p class_counts "" -p processes "" -p workers "" -p evaluated 2
          -p loaded 4 -p load_crop 64 -p rounds 1 -p norm_backbones shapes_net -p norm_crop 32)
  tries=(-p crop_size 32 -p batch_size 2 -p rounds 1 -p compiles 0)
  beside=(--backbone resnet50 --crop 64 --batch 2 --rounds 1 --steps 1)
else
  device=cuda small="" norm=auto
  python -c 'import torch, sys; sys.exit(not torch.cuda.is_available() and "no GPU: torch.cuda.is_available() is False; the CPU figures are those of make bench")' || exit 1
  stages=(-p backbone resnet101 -p output_stride 16 -p crop_size 512 -p batch_size 24 -p batch_sizes "8;16;24" -p crop_sizes "256;384;512"
          -p processes "1;2;4;8" -p workers "0;4;8" -p evaluated 96)
  tries=(-p backbone resnet101 -p output_stride 16 -p crop_size 512 -p batch_size 24)
  beside=(--crop 512 --batch 12 --rounds 10 --steps 30 --workers 8)
fi
mkdir -p "$out"
failed=0
part() {  # name, command…
  echo "== $1"
  "${@:2}" 2>&1 | tee "$out/$1.txt" | grep -v '^USDT\|it/s\|cell/s'
  [ "${PIPESTATUS[0]}" = 0 ] || { echo "$1 failed: $out/$1.txt" >&2; failed=1; }
}
part refinement python benchmarks/bench_pamr.py $device $small
part losses python benchmarks/bench_losses.py $device $small
part stages python -m papermill nbs/guide/bench.ipynb "$out/stages.ipynb" --log-output -p device $device "${stages[@]}" -p out "$out/stages.json"
part tries python -m papermill nbs/guide/what_did_not_help.ipynb "$out/tries.ipynb" --log-output -p device $device "${tries[@]}"
[ -n "$small" ] || part start python benchmarks/bench_start.py  # needs no GPU, and has no small size
if [ $# -gt 0 ]; then
  part beside python benchmarks/bench_step.py "$1" --device $device --norm $norm "${beside[@]}" --out "$out/beside.json"
fi
echo "All in $out/."
exit $failed
