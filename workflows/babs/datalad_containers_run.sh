#!/bin/bash
# One participant with DataLad's record of image, command, inputs and outputs:
#   ./datalad_containers_run.sh DATASET 01
# DATASET is a DataLad dataset with the BIDS data in inputs/bids and the image pds-bids (datalad containers-add).
set -euo pipefail
cd "$1"
label=${2#sub-}
datalad containers-run --container-name pds-bids \
  --message "pds-bids: sub-$label" \
  --input "inputs/bids/sub-$label" --input inputs/bids/dataset_description.json \
  --output outputs/pds-bids \
  "inputs/bids outputs/pds-bids participant --participant-label $label -w /tmp/work --skip-bids-validation"
