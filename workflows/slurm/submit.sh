#!/bin/bash
# A cohort on a Slurm cluster: an array with one task per participant, then the level group.
#   ./submit.sh BIDS_DIR OUT_DIR [OPTIONS]        everybody; OPTIONS go to pds-bids participant
#   ./submit.sh --retry JOB BIDS_DIR OUT_DIR [OPTIONS]   only those whose task of array JOB has failed
# Prints the numbers of both jobs. SBATCH_OPTIONS (such as "--partition=long --account=lab") go to sbatch.
# PDS_BIDS_AT_ONCE limits how many participants run at a time (default: 100).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
retry=
if [ "$1" = --retry ]; then retry=$2; shift 2; fi
bids=$(realpath "$1") out=$(realpath -m "$2")
shift 2
logs=$out/logs/slurm
mkdir -p "$logs"
list=$logs/participants.txt
if [ -z "$retry" ]; then
  find "$bids" -mindepth 1 -maxdepth 1 -type d -name 'sub-*' -printf '%f\n' | sort > "$list"
  tasks=1-$(wc -l < "$list")
else
  # Tasks by number in the list, which must be the one of that array.
  tasks=$(sacct -n -X -P -j "$retry" -o JobID,State | awk -F'[|_]' '$3 !~ /COMPLETED|RUNNING|PENDING/ {print $2}' | paste -sd,)
  if [ -z "$tasks" ]; then echo "no task of $retry has failed" >&2; exit 0; fi
fi
read -ra options <<< "${SBATCH_OPTIONS:-}"
array=$(sbatch --parsable "${options[@]}" --array="$tasks%${PDS_BIDS_AT_ONCE:-100}" \
  --output="$logs/pds-bids_%A_%a.log" "$here/participant_array.sbatch" "$bids" "$out" "$list" "$@")
# After any end of the array: the level group says whom it has not got.
group=$(sbatch --parsable "${options[@]}" --dependency="afterany:${array%%;*}" \
  --output="$logs/pds-bids-group_%j.log" "$here/group.sbatch" "$bids" "$out")
echo "${array%%;*} ${group%%;*}"
