"""The level ``train``: preprocess who has both modalities, then fit a method to them."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pds_bids.config import RunConfig
from pds_bids.devices import visible_gpus
from pds_bids.exceptions import UsageError
from pds_bids.inference.card import MODELS, TRAINING
from pds_bids.options import METHODS, Device, Synthesize, TrainingData

__all__ = ["run_training"]


def run_training(config: RunConfig, *, preprocess: Callable[[RunConfig], int]) -> int:
    """Train the method of the options, or go on where an earlier call stopped.

    Parameters
    ----------
    config : RunConfig
        Options.
    preprocess : callable
        Runs the level ``participant`` and returns its exit code.

    Returns
    -------
    int
        0 if the bundle is there; the code of `preprocess` if a session failed, though a bundle was made of
        the others.

    Raises
    ------
    UsageError
        If Lightning is not installed, or options contradict each other.
    """
    if importlib.util.find_spec("lightning") is None:
        raise UsageError("the level train needs Lightning: pip install 'pds-bids[train]'")
    from pds_bids.bids.dataset import check_output_dir  # late: pybids

    check_output_dir(config.output_dir)
    if config.dry_run or config.boilerplate_only:
        return _show(config, preprocess)
    import torch  # late: seconds

    from pds_bids.training.module import Machine, processes_from_environment
    from pds_bids.training.run import train

    torch.set_num_threads(config.omp_nthreads or 1)
    is_gpu = config.device is not Device.CPU and bool(visible_gpus()) and torch.cuda.is_available()
    launched = processes_from_environment()
    n_devices, n_nodes = launched or (config.devices, 1)
    # Simulating people takes as long as an update; files of a cohort are quickly read.
    n_workers = 1 if config.training_data is TrainingData.PHANTOM else 0
    machine = Machine("gpu" if is_gpu else "cpu", n_devices, n_nodes, n_workers)
    code, tree = 0, config.bids_dir
    if config.training_data is TrainingData.COHORT and not is_own_derivative(config.bids_dir):
        code, tree = _preprocess(config, preprocess, machine.n_processes), config.output_dir
    folder = config.output_dir / TRAINING / config.method
    bundle = config.output_dir / MODELS / config.method
    people = _people(config, tree, folder)
    train(people, _plan(config), folder, bundle, machine=machine, has_progress_bar=sys.stderr.isatty())
    print(f"The model is in {bundle}; use it with: participant --method {config.method} --model-dir {bundle}")
    return code


def is_own_derivative(folder: Path) -> bool:
    """Whether a folder is a derivative dataset that this app has written."""
    try:
        description = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
        names = [generator.get("Name") for generator in description.get("GeneratedBy", [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    return description.get("DatasetType") == "derivative" and "pds-bids" in names


def _preprocess(config: RunConfig, preprocess: Callable[[RunConfig], int], n_processes: int) -> int:
    """Run the level participant with both directions; what is done already is kept."""
    if n_processes > 1:
        from pds_bids.training.cohort import find_visits  # late: torch

        if not find_visits(config.output_dir, config.participant_label)[0]:
            raise UsageError(
                f"{config.output_dir} holds nobody preprocessed; several processes cannot do it together: "
                "run the same folders first with: participant --synthesize both"
            )
        return 0
    return preprocess(_as_participants(config))


def _as_participants(config: RunConfig) -> RunConfig:
    # The weights of the package: what is synthesised on the way is a by-product.
    return replace(config, synthesize=Synthesize.BOTH, method=METHODS[0], model_dir=None)


def _show(config: RunConfig, preprocess: Callable[[RunConfig], int]) -> int:
    """Show what would be preprocessed, or who is there to train on; nothing is trained."""
    if config.training_data is TrainingData.PHANTOM:
        print(f"{config.method} would be trained on simulated people; nothing was computed.")
        return 0
    if not is_own_derivative(config.bids_dir):
        return preprocess(_as_participants(config))
    from pds_bids.training.cohort import find_visits  # late: torch

    visits, left_out = find_visits(config.bids_dir, config.participant_label)
    for visit in visits:
        print(f"{visit.label}: both modalities")
    for label, reason in left_out:
        print(f"{label}: left out, {reason}")
    print("Nothing was computed.")
    return 0


def _people(config: RunConfig, tree: Path, folder: Path) -> Any:
    from pds_bids.template import MODEL_GRID, get_template, load_template
    from pds_bids.training.cohort import load_cohort, read_diagnoses, read_families
    from pds_bids.training.data import Split

    split = Split.load(config.splits) if config.splits else None
    if config.training_data is TrainingData.PHANTOM:
        from pds_bids.training.phantoms import load_phantoms

        return load_phantoms(config.labels_dir, config.work_dir, config.random_seed, split=split)
    template = load_template(get_template(config.work_dir), MODEL_GRID)
    return load_cohort(
        tree,
        template,
        config.random_seed,
        folder / "people.tsv",
        participants=config.participant_label,
        split=split,
        diagnoses=read_diagnoses(config.bids_dir),
        families=read_families(config.bids_dir),
    )


def _plan(config: RunConfig) -> Any:
    from pds_bids.training.run import Plan
    from pds_bids.training.schedule import TrainConfig

    schedule = TrainConfig(
        n_updates=config.max_updates,
        batch_size=config.batch_size,
        pass_size=config.pass_size,
        precision=config.precision,
        validate_every=config.validate_every,
        save_every=config.save_every,
        seed=config.random_seed,
    )
    return Plan(
        method=config.method,
        size=config.model_size,
        config=schedule,
        learning_rate=config.learning_rate,
        minutes=config.max_minutes,
        weights_from=config.weights_from,
        perceptual_weights=config.perceptual_weights,
        is_download_allowed=config.allow_download,
        must_resume=config.resume,
        has_tensorboard=config.tensorboard,
    )
