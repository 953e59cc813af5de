"""Simulated people to train on."""

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path

from pds_bids import __version__
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.stream import PairStream
from pds_bids.seeds import derive_seed
from pds_bids.template import MODEL_GRID, RES02_GRID, get_template, load_template
from pds_bids.training.data import ContrastPairs, Split, split_subjects
from pds_bids.training.people import People

__all__ = ["load_phantoms"]

LOGGER = logging.getLogger("pds_bids.training")
# Index of the first pair of the atlas and the bank, far beyond those that training uses.
ATLAS_FIRST = 1_000_000_000


def load_phantoms(
    labels: Path | None,
    cache: Path,
    seed: int,
    *,
    split: Split | None = None,
    n_atlas: int = 150,
    n_validation: int = 4,
    note: str = "",
) -> People:
    """Build the anatomies (cached) and split them.

    Parameters
    ----------
    labels : Path, optional
        Folder of label maps; without it one person is varied from the template alone, in all splits, so
        that held-out figures say little.
    cache : Path
        Folder for aligned anatomies and the template.
    seed : int
        Master seed of the split and of all pairs.
    split : Split, optional
        Names of anatomies; drawn at random by default.
    n_atlas, n_validation : int
        Pairs that are averaged into the mean person, and that training is judged by.
    note : str
        Label maps and their licence, for the card.

    Returns
    -------
    People
        Streams that can make any number of pairs.
    """
    template = load_template(files := get_template(cache), MODEL_GRID)
    heads = build_anatomies(labels, cache / "anatomies", load_template(files, RES02_GRID))
    anatomies = {anatomy.name: anatomy for anatomy in heads}
    if split is None and len(anatomies) < 6:
        names = tuple(sorted(anatomies))
        split = Split(names, names, names)
        LOGGER.warning("%d anatomies are too few to hold any out; scores will be optimistic", len(names))
    elif split is None:
        split = split_subjects(list(anatomies), seed)
    train, validation, test = (
        ContrastPairs(
            PairStream([anatomies[name] for name in names], derive_seed(seed, part), template=template)
        )
        for part, names in asdict(split).items()
    )
    key = f"{__version__} {seed} {sorted(anatomies)}"
    description = {
        "data": note or "simulated people",
        "generator": "pds_bids.phantom.stream.PairStream",
        "fingerprint": hashlib.sha256(key.encode()).hexdigest(),
    }
    atlas_indices = range(ATLAS_FIRST, ATLAS_FIRST + n_atlas)
    return People(split, train, validation, test, template, atlas_indices, n_validation, description)
