"""Diagnosis from the features of a cohort: every scheme, with the source-only classifier beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pds_bids.evaluation.diagnosis import Cohort, make_folds, predict, source_only
from pds_bids.evaluation.leakage import check_duplicates
from pds_bids.evaluation.schemes import Blocks, Input, Origin, Scheme, default_schemes
from pds_bids.evaluation.statistics import holm
from pds_bids.exceptions import DataError
from pds_bids.group.controls import covariates_alone, cross_site, permuted_labels
from pds_bids.group.features import (
    acquired_courses,
    acquired_parcels,
    choose_parcels,
    gather_blocks,
    gather_voxels,
)
from pds_bids.group.participants import Measured
from pds_bids.group.rows import Question, result_row
from pds_bids.modalities import Modality
from pds_bids.options import Classifier

__all__ = ["Diagnosis", "diagnose"]

#: Schemes that are worth minutes of a network.
FOR_NETWORK = ("acquired bold", "acquired dwi", "hybrid: missing modality synthetic")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Results.

    Parameters
    ----------
    table : DataFrame
        One row per scheme and classifier.
    contrasts : dict of Modality to list of str
        Contrasts whose parcel means are the features of the schemes.
    labels : tuple of str
        Participants.
    groups : ndarray
        Their diagnoses.
    blocks : Blocks
        Parcel features.
    """

    table: pd.DataFrame
    contrasts: dict[Modality, list[str]]
    labels: tuple[str, ...]
    groups: np.ndarray
    blocks: Blocks


def diagnose(
    measured: Sequence[Measured], question: Question, progress: Callable[[str], None] | None = None
) -> Diagnosis:
    """Cross-validate every scheme with every classifier.

    Parameters
    ----------
    measured : sequence of Measured
        Participants whom nobody has excluded.
    question : Question
        What is asked.
    progress : callable, optional
        Is told what is done.

    Returns
    -------
    Diagnosis

    Raises
    ------
    DataError
        If there are fewer than two groups or too few people.
    LeakageError
        If two participants share images and are not said to be one person.
    """
    people = question.people
    own = [person for person in measured if people.group_of(person.label) and person.signals]
    if len(own) < 4:
        raise DataError(f"diagnosis: {len(own)} participants have both a diagnosis and images")
    labels = tuple(person.label for person in own)
    groups = np.array([people.group_of(label) for label in labels])
    blocks, contrasts = gather_blocks(own, people)
    digests = [frozenset(s.digest for s in person.signals if not s.scan.is_synthetic) for person in own]
    acquired = np.concatenate([t for (_, o), t in blocks.tables.items() if o is Origin.ACQUIRED], 1)
    # In all parcels, whichever are looked at.
    check_duplicates(blocks.people, acquired, digests=digests)
    if question.parcels:
        own = choose_parcels(own, question.parcels)
        blocks, contrasts = gather_blocks(own, people)
    patterns = [
        "+".join(sorted({str(s.scan.modality) for s in person.signals if not s.scan.is_synthetic}))
        for person in own
    ]
    families = tuple(people.family_of(label) for label in labels)
    folds = make_folds(
        blocks.people, groups, question.n_folds, question.seed, patterns=patterns, families=families
    )
    covariates, _ = people.design(labels)
    cohort = Cohort(blocks, groups, folds, covariates, families=families)
    rows: list[dict[str, Any]] = []
    for kind in question.classifiers:
        if progress:
            progress(f"classifier {kind}")
        features = cohort
        if kind.reads_voxels:
            if question.volume_mask is None:
                raise DataError("diagnosis: classifiers of voxels need the coarse volumes")
            n_voxels = int(question.volume_mask.sum())
            voxels = gather_voxels(own, people, contrasts, n_voxels)
            features = replace(cohort, blocks=voxels, volume_mask=question.volume_mask)
        rows += _all_schemes(features, kind, question)
        if not kind.reads_voxels:
            rows += _more_contrasts(own, cohort, contrasts, kind, question)
            rows += _single_contrasts(own, cohort, kind, question)
    rows += covariates_alone(cohort, question)
    rows += cross_site(own, cohort, question)
    if progress and question.n_permutations:
        progress(f"{question.n_permutations} orders of permuted labels")
    rows += permuted_labels(cohort, question)
    return Diagnosis(_with_holm(pd.DataFrame(rows)), contrasts, labels, groups, blocks)


def _all_schemes(cohort: Cohort, kind: Classifier, question: Question) -> list[dict[str, Any]]:
    from joblib import Parallel, delayed  # late: half a second

    schemes = [s for s in default_schemes() if kind is not Classifier.CNN or s.name in FOR_NETWORK]
    jobs = (delayed(predict)(cohort, scheme, kind, seed=question.seed) for scheme in schemes)
    found = dict(zip(schemes, Parallel(n_jobs=question.n_procs)(jobs), strict=True))
    singles = {
        scheme.test[0].modality: prediction
        for scheme, prediction in found.items()
        if scheme.name in ("acquired bold", "acquired dwi")
    }
    return [
        result_row(scheme, prediction, kind, cohort, question, source_only(scheme, prediction, singles))
        for scheme, prediction in found.items()
    ]


def _more_contrasts(
    measured: Sequence[Measured],
    cohort: Cohort,
    contrasts: Mapping[Modality, Sequence[str]],
    kind: Classifier,
    question: Question,
) -> list[dict[str, Any]]:
    """Return acquired schemes with contrasts that are not synthesised, such as FA and MD."""
    blocks, more = gather_blocks(measured, question.people, all_acquired=True)
    rows = []
    for modality, names in more.items():
        extra = [name for name in names if name not in contrasts[modality]]
        if extra:
            parts = (Input(modality, Origin.ACQUIRED),)
            scheme = Scheme(f"acquired {modality} with {', '.join(extra)}", parts, parts)
            wider = replace(cohort, blocks=blocks)
            found = predict(wider, scheme, kind, seed=question.seed)
            rows.append(result_row(scheme, found, kind, wider, question))
    return rows


def _single_contrasts(
    measured: Sequence[Measured], cohort: Cohort, kind: Classifier, question: Question
) -> list[dict[str, Any]]:
    """Return classifiers of one acquired contrast each: many features beside the telling ones hide these."""
    _, contrasts = gather_blocks(measured, question.people, all_acquired=True)
    courses = {f"bold {name}": table for name, table in acquired_courses(measured).items()}
    rows = []
    for modality, names in contrasts.items():
        parts = (Input(modality, Origin.ACQUIRED),)
        tables = {name: acquired_parcels(measured, name) for name in (names if len(names) > 1 else ())}
        for name, table in (tables | (courses if modality is Modality.BOLD else {})).items():
            if not np.isfinite(table).any():
                # Synthetic throughout.
                continue
            alone = replace(cohort, blocks=Blocks(cohort.blocks.people, {(modality, Origin.ACQUIRED): table}))
            scheme = Scheme(f"acquired {name} alone", parts, parts)
            found = predict(alone, scheme, kind, seed=question.seed)
            rows.append(result_row(scheme, found, kind, alone, question, family="single contrast"))
    return rows


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """Correct McNemar's tests for the number of schemes, within each classifier."""
    if "mcnemar_p" not in table:
        return table
    corrected = np.full(len(table), np.nan)
    for places in table.groupby(["family", "classifier"]).indices.values():
        corrected[places] = holm(table["mcnemar_p"].to_numpy(float)[places].tolist())
    return table.assign(mcnemar_p_holm=corrected)
