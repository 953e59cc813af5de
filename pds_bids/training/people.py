"""Whom a method is trained on: people by split, and the template that they are aligned with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pds_bids.template import Template
from pds_bids.training.data import PairSource, Split

__all__ = ["People"]


@dataclass(frozen=True, eq=False)
class People:
    """People by split; no two of the streams share a person or a seed.

    Parameters
    ----------
    split : Split
        Their names.
    train, validation, test : PairSource
        Pairs of images.
    template : Template
        On the model grid.
    atlas_indices : sequence of int
        Pairs of `train` that make the mean person.
    n_validation : int
        Pairs of `validation` to look at.
    description : dict
        What the model card says about the data; holds ``data`` and ``fingerprint``.
    groups : sequence of str
        Diagnosis of every pair of `atlas_indices`, where it is known of all of them.
    """

    split: Split
    train: PairSource
    validation: PairSource
    test: PairSource
    template: Template
    atlas_indices: Sequence[int]
    n_validation: int
    description: dict[str, Any] = field(default_factory=dict)
    groups: Sequence[str] = ()
