#!/usr/bin/env bash
# Installs dist/*.whl with everything it needs into fresh environments, once with the oldest and once with the newest
# torch that the package index gives, writes a workbench and trains in it by the user's command. About 12 GB, minutes.
set -eu
cd "$(dirname "$0")/.."
wheel=$(ls "$PWD"/dist/wilson_wilss-*.whl)
oldest=$(sed -n 's/^requirements = torch>=\([0-9.]*\).*/\1/p' settings.ini)
versions=$(.venv/bin/pip index versions torch 2>/dev/null | sed -n 's/^Available versions: //p' | tr -d ',')
first=$(printf '%s\n' $versions | sort -V | awk -v least="$oldest" '{ split($1, a, "."); split(least, b, "."); if (a[1] * 1000 + a[2] >= b[1] * 1000 + b[2]) { print; exit } }')
last=$(printf '%s\n' $versions | sort -V | tail -n 1)
for torch in ${*:-"$first" "$last"}; do
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  echo "== torch $torch in $place"
  "${PYTHON:-python3}" -m venv "$place/venv"
  "$place/venv/bin/pip" install -q --disable-pip-version-check "$wheel[notebook,export,coco]" "torch==$torch"
  cd "$place"
  venv/bin/wilson new bench
  cd bench
  env -u PYTHON -u MAKEFLAGS -u MAKEOVERRIDES make setup  # its own Python, not the one that made the environment
  ../venv/bin/papermill nbs/train.ipynb -p task 15-5 -p dataset shapes -p epochs 1 -p crop_size 48 -p pseudo_epoch 0 -p device cpu >"$place/log" 2>&1 ||
    { tail -n 40 "$place/log"; exit 1; }
  ../venv/bin/wilson runs
  # torch 2.5 and 2.6 write no ONNX file of any size, and wilson says so
  formats="torch-export onnx"
  case "$torch" in 2.5*|2.6*) formats="torch-export" ;; esac
  for format in $formats; do
    ../venv/bin/wilson export shapes-15-5-overlap/wilson-s42 --format "$format"
  done
  ../venv/bin/wilson predict runs/shapes-15-5-overlap/wilson-s42/step1 'data/shapes/JPEGImages/val_0000*.jpg' --format coco --out predicted --json
  cd "$(dirname "$wheel")/.."
  rm -rf "$place"
done
echo "dist-check: passed"
