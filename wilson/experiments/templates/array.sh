case $SLURM_ARRAY_TASK_ID in
@@members
esac
if [ -n "$base" ] && ! grep -Eqs '^ *"state": "finished",?$' "$base/status.json"; then
  echo "wilson: not started: its base failed: $base" >&2
  exit 2
fi
