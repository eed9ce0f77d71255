srun --cpus-per-task=@@cores @@python @@program "${train[@]}" &
