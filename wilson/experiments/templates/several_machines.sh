# Without this, a machine that comes back waits for an address that the agents exchange only once.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
srun --cpus-per-task=@@cores @@python @@agent \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node=@@processes --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$(hostname):$((20000 + SLURM_JOB_ID % 10000))" \
  --rdzv-id="$SLURM_JOB_ID" \
  --no-python @@python -u @@program "${train[@]}" &
