#!/usr/bin/env bash
{% for line in directives %}
{{ line }}
{% endfor %}
{{ mark }}; the same training goes on at every sitting until it is finished.
{% for line in setup %}
{{ line }}
{% endfor %}
cd {{ root | quote }} || exit 1
# no bars in a log
export TQDM_DISABLE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-{{ threads }}}
export PYTHONSAFEPATH=1  # no module is taken from the working directory
{% if copies %}
# code of yours as it was when this script was written
export WILSON_CODE_COPIES={{ copies | quote }}
{% endif %}
{% include "commands.sh" %}

# Slurm tells this shell when time is nearly up (USR1) or the machine is wanted (TERM); the step must hear.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
now() { squeue --noheader --jobs="$job" --Format="$1" | tr -d ' '; }
told="" signals=0
tell() {
  told=$1 signals=$((signals + 1))
  [ "$(now State)" != RUNNING ] || scancel --signal="$2" "$job"
}
trap 'tell USR1 {{ usr1 }}' USR1
trap 'tell TERM TERM' TERM

{% if nodes == 1 %}
srun --cpus-per-task={{ cores }} {{ python | quote }} {{ program | quote_all }} "${train[@]}" &
{% else %}
# Without this, a machine that comes back waits for an address that the agents exchange only once.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
srun --cpus-per-task={{ cores }} {{ python | quote }} {{ agent | quote_all }} \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={{ processes }} --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$(hostname):$((20000 + SLURM_JOB_ID % 10000))" \
  --rdzv-id="$SLURM_JOB_ID" \
  --no-python {{ python | quote }} -u {{ program | quote_all }} "${train[@]}" &
{% endif %}
step=$!
while true; do  # a signal ends wait before the step has ended
  before=$signals
  wait "$step"
  code=$?
  [ "$signals" != "$before" ] || break
done

# Asked to stop, and Slurm is not ending the job itself: back into the queue, to go on from there.
asked() { [ -n "$told" ] || [ "$code" = 138 ] || [ "$code" = 143 ] || [ "$(now PreemptTime)" != N/A ]; }
if [ "$code" != 0 ] && [ "$(now State)" = RUNNING ] && asked; then
  echo "job $job was interrupted and goes back into the queue"
  scontrol requeue "$job"
fi

# Finished is what the folders of the steps say, not an exit code. A network file system may lag behind.
finished() {
  for folder in "${folders[@]}"; do
    missing=$folder
    grep -Eqs '^ *"state": "finished",?$' "$folder/status.json" || return 1
  done
}
if [ "$code" = 0 ]; then
  for pause in 0 1 2 5 10 20 30; do
    sleep "$pause"
    finished && break
  done
  finished || { echo "wilson: the training ended, but this step is not finished: $missing" >&2; code=1; }
fi
exit "$code"
