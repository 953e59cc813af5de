"""Whom a model was trained on: what it makes of them says nothing about new people."""

import json
from pathlib import Path

import pandas as pd

from pds_bids.group.ratings import Exclusion
from pds_bids.inference.card import CARD, MODELS, TRAINING, WEIGHTS
from pds_bids.modalities import Modality

__all__ = ["trained_on"]

REASONS = {
    "train": "its model was trained on this person",
    "validation": "its model was chosen and calibrated on this person",
}


def trained_on(output_dir: Path, synthetic: pd.DataFrame) -> Exclusion:
    """Return synthetic images of people whose acquired target their model has seen.

    Such an image may hold what only the target could tell: it is no function of its source alone.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset, in which the level ``train`` has left its models and splits.
    synthetic : DataFrame
        See `pds_bids.group.gather.Gathered`.

    Returns
    -------
    dict
        Nothing for models of other datasets, whose people are not known by name.
    """
    parts = {}
    for path in sorted(output_dir.glob(f"{TRAINING}/*/splits.json")):
        card = output_dir / MODELS / path.parent.name / CARD
        try:
            sha256 = json.loads(card.read_text(encoding="utf-8"))["sha256"][WEIGHTS]
            split = json.loads(path.read_text(encoding="utf-8"))
            parts[sha256] = {str(name).removeprefix("sub-"): p for p in REASONS for name in split[p]}
        except (OSError, ValueError, KeyError, TypeError):
            # A training that was stopped has no bundle yet, so no image was made with it.
            continue
    found: Exclusion = {}
    for row in synthetic.to_dict("records"):
        label = row["participant_id"].removeprefix("sub-")
        if part := parts.get(row["weights_sha256"], {}).get(label):
            session = row["session_id"].removeprefix("ses-") if isinstance(row["session_id"], str) else ""
            found[label, session, Modality(row["target"]), True] = REASONS[part]
    return found
