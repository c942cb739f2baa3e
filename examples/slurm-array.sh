#!/bin/bash
#SBATCH --job-name=edit-clean
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=logs/%x-%A_%a.out
#
# One stage of the road as an array job: every task does its share of the shards.
#
#   sbatch examples/slurm-array.sh
#
# Resume: submit it again; finished shards are skipped. Retry the tasks that failed, and only those:
#
#   EDITTOOLS_TASKS=16 sbatch --array=3,7 examples/slurm-array.sh
#
# EDITTOOLS_TASKS says how the work was cut: Slurm itself would count two tasks.
#
# Deduplication needs decisions over everything, so it is three jobs, the second a single one:
#
#   fingerprint=$(STEP=fingerprint sbatch --parsable examples/slurm-array.sh)
#   decisions=$(sbatch --parsable --dependency=afterok:$fingerprint --wrap \
#       'edit dedup prints/ --phase decide -o decisions.parquet')
#   STEP=apply sbatch --dependency=afterok:$decisions examples/slurm-array.sh
set -euo pipefail

export EDITTOOLS_TASKS=${EDITTOOLS_TASKS:-${SLURM_ARRAY_TASK_COUNT:-1}}
jobs=${SLURM_CPUS_PER_TASK:-1}
raw=${RAW:-raw/}

case ${STEP:-apply} in
fingerprint)
    edit dedup "$raw" --phase fingerprint --task auto -j "$jobs" -o prints/
    ;;
apply)
    edit dedup "$raw" --decisions decisions.parquet --task auto -j "$jobs" |
        edit filter --min-side "${SIDE:-512}" -j "$jobs" -o clean/
    ;;
*)
    echo "STEP is fingerprint or apply" >&2
    exit 2
    ;;
esac
