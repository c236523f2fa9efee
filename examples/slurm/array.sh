#!/usr/bin/env bash
# covct on Slurm: an archive in ten parts, an output tree each. Research use only. Not a medical device.
#
#   sbatch --export=ALL,COVCT_IN=/archive,COVCT_OUT=/results examples/slurm/array.sh
#
# Part N takes the studies whose UID ends with N, so that each study is in one part, the same one every time. Submitted
# again, it does what is left. For GPUs: sbatch --gres=gpu:1 --export=ALL,...,COVCT_DEVICE=gpu
#SBATCH --job-name=covct
#SBATCH --array=0-9%4
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output=covct-%A-%a.log
set -euo pipefail

: "${COVCT_IN:?the folder with the CT series}" "${COVCT_OUT:?the folder for the results}"
part=${SLURM_ARRAY_TASK_ID:?submit this file with sbatch}

# exec: a stop reaches covct itself, which keeps what is finished and ends with 130.
exec covct scan "$COVCT_IN" --out "$COVCT_OUT/part-$part" --select "StudyInstanceUID=$part\$" \
    --device "${COVCT_DEVICE:-cpu}" --log-format json
