#!/usr/bin/env bash
# Builds inplace-abn beside the installed torch; where it cannot, says why in one line and goes on:
# the plain-PyTorch ABN computes the same function. WILSON_STRICT=1 makes a failed build an error.
set -u
python=$1; shift
version=$(sed -n 's/^inplace_requirements = //p' settings.ini)
"$python" -c 'import inplace_abn' 2>/dev/null && exit 0

why=""
command -v c++ >/dev/null || command -v g++ >/dev/null || why="no C++ compiler (install g++)"
cuda=$("$python" -c 'import torch; print(torch.version.cuda or "")')
if [ -z "$why" ] && [ -n "$cuda" ]; then
  nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
  if [ -x "$nvcc" ]; then
    # only pip's CUDA runtime may be there, under a name the linker does not look for
    runtime=$("$python" -c 'import glob, site; print(next((f for s in site.getsitepackages()
      for f in glob.glob(s + "/nvidia/cu*/lib/libcudart.so.*")), ""))')
    if [ -n "$runtime" ]; then
      links=$(mktemp -d); trap 'rm -rf "$links"' EXIT
      ln -s "$runtime" "$links/libcudart.so"
      export LIBRARY_PATH="$links${LIBRARY_PATH:+:$LIBRARY_PATH}"
    fi
  else
    why="torch is built for CUDA $cuda but there is no nvcc (install the CUDA $cuda compiler, or set CUDA_HOME)"
  fi
fi
if [ -z "$why" ]; then
  log=$(mktemp)
  echo "building $version (minutes, once) …"
  if "$python" -m pip install -q "$@" --no-build-isolation "$version" >"$log" 2>&1 &&
     "$python" -c 'import inplace_abn' 2>>"$log"; then rm -f "$log"; exit 0; fi
  why="the build failed: $(grep -m1 -iE '(^|[^a-z])error' "$log" || tail -n1 "$log") (all of it in $log)"
fi
echo "in-place ABN left out: $why. The plain ABN gives the same numbers with more memory."
[ "${WILSON_STRICT:-}" != 1 ]
