#!/usr/bin/env bash
{{ mark }}; submits the arrays beside it.
set -eu
cd -- "$(dirname -- "$0")"
after=()
for name in {{ arrays | quote_all }}; do
  job=$(sbatch --parsable "${after[@]}" "$@" "$name.sh")
  job=${job%%;*}
  echo "$name: job $job"
  after=("--dependency=afterany:$job")
done
