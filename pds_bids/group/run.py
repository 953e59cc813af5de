"""The level ``group``: tables, fidelity, diagnosis, page."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pds_bids.bids.dataset import check_output_dir
from pds_bids.config import RunConfig
from pds_bids.exceptions import DataError, LeakageError, UsageError, WeightsError
from pds_bids.group.atlas import Atlas, load_atlas
from pds_bids.group.diagnose import Diagnosis, diagnose
from pds_bids.group.fidelity import Pairs, fidelity_table, pair_up
from pds_bids.group.gather import Gathered, gather
from pds_bids.group.page import write_page
from pds_bids.group.participants import Measured, Reading, coarse_mask, measure_participants
from pds_bids.group.people import People, read_people
from pds_bids.group.ratings import Exclusion, add_ratings, exclude, exclude_scores, exclusions
from pds_bids.group.rows import Question
from pds_bids.group.tables import write_atlas_files, write_group_table
from pds_bids.group.trained import trained_on
from pds_bids.inference.card import default_model_dir, read_card
from pds_bids.modalities import MAP_UNITS
from pds_bids.reports.ratings import Rating, read_ratings
from pds_bids.template import MODEL_GRID, Template, get_template, load_template

__all__ = ["Results", "analyse"]

LOGGER = logging.getLogger("pds_bids.group")


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that the page shows.

    Parameters
    ----------
    gathered : Gathered
        Quality of all participants, with ratings.
    people : People
        Diagnoses and covariates.
    atlas : Atlas
        Parcels.
    measured : tuple of Measured
        Without excluded images.
    pairs : tuple of Pairs
        People of whom a contrast was acquired and synthesised.
    fidelity : DataFrame
        ``group_fidelity.tsv``.
    excluded : dict
        Images that were left out, and why.
    ratings : tuple of Rating
        Of all readers.
    diagnosis : Diagnosis or None
        None when there was none.
    refusal : str
        Why there is no diagnosis.
    is_leaking : bool
        Whether it was refused because training would have seen who is tested.
    problems : tuple of str
        Images that could not be used.
    """

    gathered: Gathered
    people: People
    atlas: Atlas
    measured: tuple[Measured, ...]
    pairs: tuple[Pairs, ...]
    fidelity: pd.DataFrame
    excluded: Exclusion
    ratings: tuple[Rating, ...]
    diagnosis: Diagnosis | None = None
    refusal: str = ""
    is_leaking: bool = False
    problems: tuple[str, ...] = field(default=())


def analyse(config: RunConfig, tell: Callable[[str], None]) -> Results:
    """Run the whole level and write all of its files.

    Parameters
    ----------
    config : RunConfig
        Options.
    tell : callable
        Is told a line for every step.

    Returns
    -------
    Results
        What was written, for the exit code.

    Raises
    ------
    NothingSelectedError
        If the output folder holds nobody.
    UsageError
        If it holds another dataset, or a column or parcel that was named is not there.
    DataError
        If a rating cannot be read.
    TemplateError
        If the atlas cannot be had.
    """
    out = config.output_dir
    check_output_dir(out)
    people = read_people(
        config.bids_dir, config.group_column, config.covariates, config.person_column, config.family_column
    )
    listed = sorted(
        {path.name.removeprefix("sub-") for path in config.bids_dir.glob("sub-*") if path.is_dir()}
        | set(people.table.index)
    )
    gathered = gather(out, listed, config.participant_label)
    ratings = tuple(read_ratings(out))
    excluded = exclusions(gathered.quality, ratings, drop_rejected=config.exclude_rejected)
    excluded |= trained_on(out, gathered.synthetic)
    gathered = _with_ratings(gathered, people, ratings, excluded)
    tell(f"{gathered.quality['participant_id'].nunique()} participants gathered")
    write_group_table(out, "group_qc", gathered.quality)
    write_group_table(out, "group_synthetic", gathered.synthetic)
    template = load_template(get_template(config.work_dir), MODEL_GRID)
    atlas = load_atlas(config.atlas, template)
    parcels = _places(atlas, config.regions)
    write_atlas_files(out, atlas)
    measured = _measure(config, gathered, template, atlas, tell)
    usable = exclude(measured, excluded)
    pairs = tuple(pair_up(usable))
    tell("fidelity")
    fidelity = fidelity_table(pairs, gathered.fidelity, people, atlas, seed=config.random_seed)
    write_group_table(out, "group_fidelity", fidelity)
    question = _question(config, people, template, parcels)
    diagnosis, refusal, is_leaking = _diagnose(question, usable, config.group_column, tell)
    if diagnosis is not None:
        write_group_table(out, "group_diagnosis", diagnosis.table)
    else:
        # That of an earlier run must not look like this one's.
        for name in ("group_diagnosis.tsv", "group_diagnosis.json"):
            (out / name).unlink(missing_ok=True)
    results = Results(
        gathered,
        people,
        atlas,
        tuple(usable),
        pairs,
        fidelity,
        excluded,
        ratings,
        diagnosis,
        refusal,
        is_leaking,
        tuple(f"sub-{person.label}: {problem}" for person in measured for problem in person.problems),
    )
    tell(f"report: {write_page(out, results, config)}")
    return results


def _with_ratings(
    gathered: Gathered, people: People, ratings: Sequence[Rating], excluded: Exclusion
) -> Gathered:
    """Return the tables with diagnosis, site, ratings and exclusions, and no score of an excluded image."""

    def describe(table: pd.DataFrame, column: str) -> pd.DataFrame:
        """Add ratings and what ``participants.tsv`` says of the people."""
        if not len(table):
            return table
        labels = table["participant_id"].str.removeprefix("sub-")
        table = add_ratings(table, ratings, column)
        sessions = table["session_id"].fillna("").astype(str).str.removeprefix("ses-")
        keys = zip(labels, sessions, table[column], table["input"] == "synthetic", strict=True)
        more = {
            "diagnosis": [people.group_of(label) or None for label in labels],
            "site": [people.site_of(label) or None for label in labels],
            "excluded": [excluded.get(key) for key in keys],
        }
        return table.assign(**{name: pd.Series(own, table.index, object) for name, own in more.items()})

    return Gathered(
        describe(gathered.quality, "modality"),
        describe(gathered.synthetic, "target"),
        exclude_scores(gathered.fidelity, excluded),
        gathered.incomplete,
    )


def _measure(
    config: RunConfig, gathered: Gathered, template: Template, atlas: Atlas, tell: Callable[[str], None]
) -> list[Measured]:
    there = gathered.quality[gathered.quality["state"] != "no output"]
    labels = list(dict.fromkeys(there["participant_id"].str.removeprefix("sub-")))
    reading = Reading(
        config.output_dir,
        atlas,
        template,
        _data_range(config),
        with_volumes=any(kind.reads_voxels for kind in config.classifiers),
    )

    def progress(done: int) -> None:
        if done % 100 == 0 or done == len(labels):
            tell(f"images of {done} of {len(labels)} participants")

    return measure_participants(labels, reading, config.nprocs, progress)


def _data_range(config: RunConfig) -> dict[str, float]:
    """Return the ranges for PSNR and SSIM of the model's card; none when there is no model at hand."""
    units = {str(contrast): unit for contrast, unit in MAP_UNITS.items()}
    try:
        card = read_card(config.model_dir or default_model_dir(config.method))
    except WeightsError as error:
        LOGGER.warning("no data range for PSNR and SSIM beyond those in the quality files: %s", error)
        return {}
    ranges = {str(name): float(value) for name, value in card.get("data_range", {}).items()}
    # A card speaks of maps in the units of a network.
    return {name: value * units.get(name, 1.0) for name, value in ranges.items()}


def _places(atlas: Atlas, regions: Sequence[str]) -> tuple[int, ...]:
    """Return the columns of the parcels that are named by how they begin; none for all."""
    places: set[int] = set()
    for name in regions:
        if not (found := {k for k, own in enumerate(atlas.names) if own.startswith(name)}):
            some = ", ".join(atlas.names[:8])
            raise UsageError(
                f"--regions {name}: no parcel of {atlas.name} begins like this; it has {some}, ..."
            )
        places |= found
    return tuple(sorted(places))


def _question(config: RunConfig, people: People, template: Template, parcels: tuple[int, ...]) -> Question:
    return Question(
        people,
        config.classifiers,
        n_folds=config.n_folds,
        n_permutations=config.permutations,
        seed=config.random_seed,
        n_procs=config.nprocs,
        volume_mask=coarse_mask(template),
        parcels=parcels,
    )


def _diagnose(
    question: Question, measured: Sequence[Measured], group_column: str, tell: Callable[[str], None]
) -> tuple[Diagnosis | None, str, bool]:
    """Return the diagnosis, or why there is none."""
    if not question.people.group_column:
        return None, f"participants.tsv has no column {group_column} (--group-column)", False
    if not question.classifiers:
        return None, "no classifier was asked for (--classifiers)", False
    try:
        return diagnose(measured, question, tell), "", False
    except LeakageError as error:
        return None, str(error), True
    except DataError as error:
        return None, str(error), False
