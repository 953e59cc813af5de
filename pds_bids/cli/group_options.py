"""Options of the level ``group``; imports nothing heavy."""

import argparse

from pds_bids.cli.arguments import default_of, values_of
from pds_bids.options import Classifier

__all__ = ["add_group"]


def add_group(group: argparse._ArgumentGroup) -> None:
    """Add the options to a group of the parser."""
    group.add_argument(
        "--atlas",
        metavar="ATLAS",
        help="parcels: AAL (AAL2), a name of TemplateFlow's such as Schaefer2018_desc-100Parcels7Networks, "
        f"or a NIfTI file in MNI152NLin2009cAsym (default: {default_of('atlas')})",
    )
    group.add_argument(
        "--group-column",
        metavar="COLUMN",
        help=f"column of participants.tsv with the diagnosis (default: {default_of('group_column')})",
    )
    group.add_argument(
        "--covariates",
        nargs="*",
        metavar="COLUMN",
        help="columns of participants.tsv that are regressed out within each training fold; none without a "
        "name (default: those of age, sex and site that are there)",
    )
    group.add_argument(
        "--person-column",
        metavar="COLUMN",
        help="column of participants.tsv that says who is the same person under several labels, so that "
        "nobody is trained on and tested (default: everybody is another one)",
    )
    group.add_argument(
        "--family-column",
        metavar="COLUMN",
        help="column of participants.tsv that says who are relatives; nobody is tested by a classifier that "
        "was trained on a relative (default: family_id, family or anatomy, where there and not all the same; "
        "pds-bids-phantom writes anatomy, the head that people were made of)",
    )
    group.add_argument(
        "--exclude-rejected",
        action="store_true",
        help="leave out synthetic images that a reader of the reports has rejected; they are "
        "flagged in any case",
    )
    group.add_argument(
        "--regions",
        nargs="+",
        metavar="NAME",
        help="look for the diagnosis in those parcels alone whose names begin like this, such as Hippocampus "
        "Cingulate_Post; name them before you see results (default: all parcels)",
    )
    group.add_argument(
        "--classifiers",
        nargs="*",
        choices=values_of(Classifier),
        help="how diagnoses are told apart, by parcels or by voxels; cnn takes minutes on a CPU; none "
        f"without a name (default: {' '.join(default_of('classifiers'))})",
    )
    group.add_argument(
        "--n-folds",
        type=int,
        metavar="N",
        help=f"folds of the cross-validation over people (default: {default_of('n_folds')})",
    )
    group.add_argument(
        "--permutations",
        type=int,
        metavar="N",
        help=f"orders of permuted labels, the control (default: {default_of('permutations')})",
    )
