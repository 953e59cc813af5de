#!/bin/bash
# A cohort under BABS (DataLad provenance for every participant), from an image to merged results:
#   ./run.sh pds-bids.sif BIDS_DATALAD_DATASET PROJECT
set -euo pipefail
sif=$(realpath "$1") bids=$2 project=$3
config=$(cd "$(dirname "$0")/../../descriptors" && pwd)/babs.yaml
datalad create -D "pds-bids image" "$project-container"
datalad containers-add --dataset "$project-container" --url "$sif" pds-bids-0-1-0
sed "s|/path/to/BIDS|$bids|" "$config" > "$project.yaml"
babs init --container_ds "$project-container" --container_name pds-bids-0-1-0 --container_config "$project.yaml" \
  --processing_level session --queue slurm "$project"
babs check-setup "$project" --job-test
babs submit "$project"
babs status "$project"
# When all jobs have ended: babs merge "$project"
