"""Options of the level ``train``; imports nothing heavy."""

import argparse
from pathlib import Path

from pds_bids.cli.arguments import default_of, existing_file, values_of
from pds_bids.options import ModelSize, Precision, TrainingData

__all__ = ["add_training"]


def add_training(group: argparse._ArgumentGroup) -> None:
    """Add the options to a group of the parser; ``--method`` and ``--random-seed`` count as well."""
    _add_data(group)
    _add_schedule(group)
    _add_start(group)


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--training-data",
        choices=values_of(TrainingData),
        help="cohort: the people of BIDS_DIR who have both modalities, preprocessed if need be, or the "
        "derivatives themselves if this app has written BIDS_DIR; phantom: simulated people "
        f"(default: {default_of('training_data')})",
    )
    group.add_argument(
        "--labels-dir",
        type=Path,
        metavar="DIR",
        help="phantom: label maps that people are made from (default: the template alone)",
    )
    group.add_argument(
        "--splits",
        type=existing_file,
        metavar="FILE",
        help="JSON with lists train, validation and test of people, such as splits.json of an earlier "
        "training (default: drawn at random, by person)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model-size",
        choices=values_of(ModelSize),
        help=f"size of the networks; paper needs a GPU (default: {default_of('model_size')})",
    )
    group.add_argument(
        "--max-updates",
        type=int,
        metavar="N",
        help=f"updates of all stages together (default: {default_of('max_updates')})",
    )
    group.add_argument(
        "--max-minutes",
        type=float,
        metavar="MIN",
        help="time that fixes the number of updates, from the first few of each stage; --max-updates remains "
        "the largest number (default: no limit)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"examples per update, over all processes (default: {default_of('batch_size')})",
    )
    group.add_argument(
        "--pass-size",
        type=int,
        metavar="N",
        help="examples in memory at once; gradients of several passes, in all processes, are "
        f"added to one update (default: {default_of('pass_size')})",
    )
    group.add_argument(
        "--learning-rate", type=float, metavar="RATE", help="peak (default: what suits the method)"
    )
    group.add_argument(
        "--precision",
        choices=values_of(Precision),
        help="of the passes through the networks; weights are always fp32 "
        f"(default: {default_of('precision')})",
    )
    group.add_argument(
        "--validate-every",
        type=int,
        metavar="N",
        help="updates between two looks at held-out people, with pictures "
        f"(default: {default_of('validate_every')})",
    )
    group.add_argument(
        "--save-every",
        type=int,
        metavar="N",
        help=f"updates between two checkpoints (default: {default_of('save_every')})",
    )
    group.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="GPUs, or processes on CPUs, of this machine; torchrun and srun decide themselves "
        f"(default: {default_of('devices')})",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="log for TensorBoard as well; it has to be installed"
    )


def _add_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights-from",
        type=Path,
        metavar="DIR",
        help="model bundle of the same method to start from (fine-tuning)",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="fail when there is no checkpoint (default: go on from one that is there, or start)",
    )
    group.add_argument(
        "--perceptual-weights",
        type=existing_file,
        metavar="FILE",
        help="VGG16 weights for methods with a perceptual loss (default: an encoder of that layout, trained "
        "on projections of the training split)",
    )
    group.add_argument(
        "--allow-download", action="store_true", help="fetch VGG16's ImageNet weights (528 MB) for it"
    )
