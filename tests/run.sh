#!/usr/bin/env bash
# Every test: the pages by nbdev_test, then pytest. Ends with both runners' counts. What fails is run once more, alone; what
# passes then is listed as unstable.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

pages=$(find nbs -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' | wc -l)
echo "== $pages notebooks by nbdev_test"
log=$(mktemp); trap 'rm -f "$log" "$log.again"' EXIT
# no AMX: precision=auto is float32 on every processor, and results are compared to the bit
export ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16
# one thread each: two pages at once on two cores, and results that do not depend on the cores
OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --do_print 2>&1 | tee "$log" || true
# nbdev_test is content with a path that matches nothing: count what it started
started=$(grep -c '^Starting ' "$log")
if [ "$started" != "$pages" ]; then echo "nbdev_test ran $started of $pages notebooks" >&2; exit 1; fi
unstable=""
if ! grep -q 'Success' "$log"; then
  failed=$(sed -n '/^nbdev Tests Failed/,$ s/^[[:space:]]\+\(.*\.ipynb\).*/\1/p' "$log")
  [ -n "$failed" ] || { echo "nbdev_test ended without success and names no notebook" >&2; exit 1; }
  for name in $failed; do
    find nbs -name "$name" -not -path '*/.ipynb_checkpoints/*' | while read -r page; do
      echo "== once more, alone: $page"
      OMP_NUM_THREADS=1 nbdev_test --path "$page" --n_workers 1 --do_print 2>&1 | tee "$log.again"
      grep -q 'Success' "$log.again"
    done
    unstable="$unstable $name"
  done
fi
echo "== nbdev_test: $started notebooks passed"

echo "== pytest"
# two processes, each with whole files: what a file starts for its tests (JupyterLab, Slurm, a browser) is started once
status=0
OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -o tmp_path_retention_policy=failed tests || status=$?
if [ "$status" = 1 ]; then  # tests failed: on a busy machine a time-out may have been too short
  echo "== once more, alone: the tests that failed"
  OMP_NUM_THREADS=1 python -m pytest -q -p no:xdist --last-failed --last-failed-no-failures none -rA tests
  unstable="$unstable the tests above"
elif [ "$status" != 0 ]; then
  exit "$status"
fi
if [ -n "$unstable" ]; then echo "UNSTABLE: passed only when run again:$unstable. Each is a defect to be found."; fi
