#!/bin/bash
#SBATCH --job-name=edit-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=logs/%x-%j.out
#
# Training on several nodes: one torchrun per node, one process per GPU.
#
#   FEATURES=features/ sbatch examples/slurm-train.sh
#
# What the frozen encoders say is computed beforehand, by an array job whose tasks share the rows:
#
#   sbatch --array=0-31 --gpus=1 --wrap \
#       'edit train pairs/ --recipe firered-sft --precompute --task auto --device cuda -o features/'
#
# Two minutes before its time is up the job gets SIGTERM: the step is finished and saved. Submitted again, or put
# back into the queue, it goes on from there, on any number of nodes that divides the recipe's `batches`.
set -euo pipefail

data=${DATA:-pairs/}
recipe=${RECIPE:-firered-sft}
features=${FEATURES:-features/}
run=${RUN:-run/}
device=${DEVICE:-cuda}
nodes=${SLURM_NNODES:-1}
gpus=${SLURM_GPUS_ON_NODE:-8}
head=$(scontrol show hostnames "${SLURM_JOB_NODELIST}" | head -n 1)

# torchrun passes the signal on and then waits so many seconds; it would kill after 30, in the middle of saving.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110

# hsdp: the model is sharded within a node and copied across nodes. --processes fails where fewer have come.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$nodes" --nproc-per-node "$gpus" \
    --rdzv-backend c10d --rdzv-endpoint "$head:${PORT:-29500}" --rdzv-id "$SLURM_JOB_ID" \
    -m edittools train "$data" --recipe "$recipe" --feature-dir "$features" \
    --device "$device" --parallel hsdp --processes "$((nodes * gpus))" -o "$run"
