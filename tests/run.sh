#!/usr/bin/env bash
# Every test: the pages by nbdev_test, then pytest. Ends with both runners' counts.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

pages=$(find nbs -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' | wc -l)
echo "== $pages notebooks by nbdev_test"
log=$(mktemp); trap 'rm -f "$log"' EXIT
# one thread each: two pages at once on two cores, and results that do not depend on the cores
OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --do_print 2>&1 | tee "$log"
grep -q 'Success' "$log"
# nbdev_test is content with a path that matches nothing: count what it started
started=$(grep -c '^Starting ' "$log")
if [ "$started" != "$pages" ]; then echo "nbdev_test ran $started of $pages notebooks" >&2; exit 1; fi
echo "== nbdev_test: $started notebooks passed"

echo "== pytest"
# two processes, each with whole files: what a file starts for its tests (JupyterLab, Slurm, a browser) is started once
OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -o tmp_path_retention_policy=failed tests
