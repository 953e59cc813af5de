"""Fidelity of a cohort: scores against baselines, and what is left beyond the mean person."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pds_bids.evaluation.individual import (
    bland_altman,
    correlate_people,
    disturb_pattern,
    identify_people,
)
from pds_bids.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    cohens_dz,
    compare_paired,
    exact_interval,
    holm,
    signed_rank_p,
)
from pds_bids.group.atlas import Atlas
from pds_bids.group.compare import Comparison
from pds_bids.group.participants import Measured
from pds_bids.group.people import People
from pds_bids.modalities import MODALITIES
from pds_bids.seeds import derive_seed

__all__ = ["COLUMNS", "Pairs", "fidelity_table", "pair_up"]

COLUMNS = (
    "level",
    "participant_id",
    "session_id",
    "site",
    "contrast",
    "input",
    "reference",
    "predictor",
    "metric",
    "region",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "p",
    "p_holm",
    "effect_size",
)
FEWEST = 3
#: A bootstrap over fewer people returns little more than the smallest and the largest of them.
FEWEST_FOR_INTERVAL = 5
#: Metrics in which the model is tested against baselines; others are only described.
TESTED = ("psnr_brain", "ssim_brain", "mae_brain")


@dataclass(frozen=True, eq=False)
class Pairs:
    """People of whom a contrast was acquired and synthesised; one session of each.

    Parameters
    ----------
    contrast : str
        Which.
    labels : tuple of str
        Participants.
    acquired, synthetic : ndarray
        ``(N, P)`` parcel means.
    source : ndarray
        ``(N, P)`` acquired parcel means of the modality that the synthetic image was made from.
    squared_error, n_voxels : ndarray
        ``(N, P)``.
    comparisons : tuple of Comparison
        All of it.
    """

    contrast: str
    labels: tuple[str, ...]
    acquired: np.ndarray
    synthetic: np.ndarray
    source: np.ndarray
    squared_error: np.ndarray
    n_voxels: np.ndarray
    comparisons: tuple[Comparison, ...]


def pair_up(measured: Sequence[Measured]) -> list[Pairs]:
    """Collect the comparisons of all people by contrast, from the session that has most of each."""
    by_contrast: dict[str, list[tuple[Measured, Comparison]]] = {}
    for person in measured:
        seen = set()
        for own in person.comparisons:
            if own.scan.session == person.session and own.scan.contrast not in seen:
                seen.add(own.scan.contrast)
                by_contrast.setdefault(own.scan.contrast, []).append((person, own))
    pairs = []
    for contrast, members in by_contrast.items():
        comparisons = tuple(own for _, own in members)
        source = comparisons[0].scan.modality.other
        main = str(MODALITIES[source].contrasts[0])
        n_parcels = len(comparisons[0].means[0])
        sources = []
        for person, _ in members:
            found = person.chosen(main, "acquired")
            sources.append(found[0].means if found else np.full(n_parcels, np.nan))
        pairs.append(
            Pairs(
                contrast,
                tuple(person.label for person, _ in members),
                np.array([own.means[0] for own in comparisons]),
                np.array([own.means[1] for own in comparisons]),
                np.array(sources),
                np.array([own.squared_error for own in comparisons]),
                np.array([own.n_voxels for own in comparisons]),
                comparisons,
            )
        )
    return sorted(pairs, key=lambda each: each.contrast)


def fidelity_table(
    pairs: Sequence[Pairs], reported: pd.DataFrame, people: People, atlas: Atlas, *, seed: int
) -> pd.DataFrame:
    """Return all figures of fidelity, one per row.

    Parameters
    ----------
    pairs : sequence of Pairs
        From `pair_up`.
    reported : DataFrame
        Scores of the model and of baselines in the quality files, see `Gathered.fidelity`.
    people : People
        Diagnoses and sites.
    atlas : Atlas
        Names of parcels.
    seed : int
        Master seed.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`. ``level`` is ``participant``, ``parcel``, ``site`` or ``cohort``.
    """
    rows = list(_participant_rows(pairs, reported, people))
    described = pd.DataFrame(rows, columns=list(COLUMNS))
    rows += _summary_rows(described, seed)
    rows += _tests_against_baselines(reported, seed)
    for own in pairs:
        rows += _parcel_rows(own, people, atlas)
        rows += _individual_rows(own, seed)
        rows += _pattern_rows(own, seed)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _base(level: str, contrast: str, metric: str, **more: Any) -> dict[str, Any]:
    fixed = {"level": level, "contrast": contrast, "metric": metric, "predictor": "model", "region": "brain"}
    return dict.fromkeys(COLUMNS) | fixed | {"input": "synthetic", "reference": "acquired"} | more


def _participant_rows(
    pairs: Sequence[Pairs], reported: pd.DataFrame, people: People
) -> Iterable[dict[str, Any]]:
    for row in reported.to_dict("records"):
        metric, _, region = str(row["metric"]).rpartition("_")
        label = str(row["participant_id"]).removeprefix("sub-")
        is_source = str(row["predictor"]).startswith("source-")
        yield _base("participant", row["contrast"], metric) | {
            "participant_id": row["participant_id"],
            "session_id": row["session_id"],
            "site": people.site_of(label) or None,
            "input": "acquired" if is_source else "synthetic",
            "predictor": row["predictor"],
            "region": region,
            "value": row["value"],
            "n": 1,
        }
    known = set()
    if len(reported):
        model = reported[reported["predictor"] == "model"]
        names = model["metric"].str.rpartition("_")
        known = set(
            zip(
                model["participant_id"],
                model["session_id"],
                model["contrast"],
                names[0],
                names[2],
                strict=True,
            )
        )
    for own in pairs:
        for label, comparison in zip(own.labels, own.comparisons, strict=True):
            session = f"ses-{comparison.scan.session}" if comparison.scan.session else None
            for name, value in comparison.scores.items():
                metric, _, region = name.partition(".")
                if (f"sub-{label}", session, own.contrast, metric, region) in known:
                    continue
                yield _base("participant", own.contrast, metric) | {
                    "participant_id": f"sub-{label}",
                    "session_id": session,
                    "site": people.site_of(label) or None,
                    "region": region,
                    "value": value,
                    "n": 1,
                }


def _summary_rows(described: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return means over people with intervals: of the cohort, and of each site where there are several."""
    rows = []
    keys = ["contrast", "input", "predictor", "metric", "region"]
    is_tested = (described["metric"] + "_" + described["region"]).isin(TESTED)
    described = described[(described["predictor"] == "model") | is_tested]
    finite = described[np.isfinite(described["value"].astype(float))]
    sites = sorted(finite["site"].dropna().unique())
    parts: list[tuple[str, str | None, pd.DataFrame]] = [("cohort", None, finite)]
    if len(sites) > 1:
        parts += [("site", site, finite[finite["site"] == site]) for site in sites]
    for level, site, part in parts:
        is_shown = is_tested.loc[part.index] | (level == "cohort")
        for names, own in part[is_shown].groupby(keys, sort=False):
            # A person with several sessions counts once.
            values = own.groupby("participant_id")["value"].mean().to_numpy(float)
            found = _interval(values, derive_seed(seed, "fidelity", level, str(site), *map(str, names)))
            fixed = dict(zip(keys, names, strict=True))
            rows.append(_base(level, "", "", site=site) | fixed | found)
    return rows


def _interval(values: np.ndarray, seed: int) -> dict[str, Any]:
    if len(values) < FEWEST_FOR_INTERVAL:
        return {"value": float(values.mean()) if len(values) else np.nan, "n": len(values)}
    found = bootstrap_interval(values, seed=seed, n_resamples=2000)
    return _as_row(found) | {"n": len(values)}


def _as_row(found: Interval) -> dict[str, float]:
    return {"value": found.estimate, "ci_low": found.low, "ci_high": found.high}


def _tests_against_baselines(reported: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return paired tests of the model against every baseline, corrected within contrast and metric."""
    rows: list[dict[str, Any]] = []
    if not len(reported):
        return rows
    wide = reported[reported["metric"].isin(TESTED)].pivot_table(
        index="participant_id", columns=["contrast", "metric", "predictor"], values="value", aggfunc="mean"
    )
    for contrast, metric in sorted({(str(c[0]), str(c[1])) for c in wide.columns.to_list()}):
        part = wide[contrast][metric]
        if "model" not in part or len(part) < FEWEST:
            continue
        others = {str(name): part[name].to_numpy(float) for name in part.columns if name != "model"}
        own_seed = derive_seed(seed, "baselines", contrast, metric)
        name, _, region = metric.rpartition("_")
        for found in compare_paired(part["model"].to_numpy(float), others, seed=own_seed):
            row = _base("cohort", contrast, f"{name} difference to {found.name}", region=region)
            row |= _as_row(found.difference) | {"n": found.n_subjects, "p": found.p}
            rows.append(row | {"p_holm": found.p_holm, "effect_size": found.effect_size})
    return rows


def _parcel_rows(own: Pairs, people: People, atlas: Atlas) -> list[dict[str, Any]]:
    """Return figures of every parcel over people."""
    if len(own.labels) < FEWEST:
        return []
    diagnoses = np.array([people.group_of(label) for label in own.labels])
    agreement = bland_altman(own.acquired, own.synthetic)
    columns: Mapping[str, np.ndarray] = {
        "correlation over people": correlate_people(own.acquired, own.synthetic),
        "correlation over people, diagnosis removed": correlate_people(
            own.acquired, own.synthetic, diagnoses
        ),
        "bias": agreement.bias,
        "limit of agreement, lower": agreement.lower,
        "limit of agreement, upper": agreement.upper,
        "slope of difference on mean": agreement.slope,
        "mae": _column_means([c.absolute_error for c in own.comparisons]),
    }
    source = correlate_people(own.acquired, own.source)
    rows = []
    for place, parcel in enumerate(atlas.names):
        for metric, values in columns.items():
            rows.append(_base("parcel", own.contrast, metric, region=parcel) | {"value": values[place]})
        rows.append(
            _base("parcel", own.contrast, "correlation over people", region=parcel)
            | {"predictor": "source as it is", "input": "acquired", "value": source[place]}
        )
    return [row | {"n": len(own.labels)} for row in rows]


def _individual_rows(own: Pairs, seed: int) -> list[dict[str, Any]]:
    """Return how well people are recognised, by the synthetic image and by its source."""
    if len(own.labels) < FEWEST:
        return []
    rows = []
    # Contrasts may be inverted: each parcel of the source gets the sign of its correlation with the target,
    # which has seen the target and so favours the source.
    signs = np.sign(np.nan_to_num(correlate_people(own.acquired, own.source)))
    for predictor, kind, table in (
        ("model", "synthetic", own.synthetic),
        ("source as it is", "acquired", own.source * signs),
    ):
        found = identify_people(own.acquired, table)
        base = {"predictor": predictor, "input": kind, "n": len(own.labels)}
        rate = exact_interval(int(found.is_found.sum()), len(found.is_found))
        rows.append(_base("cohort", own.contrast, "identification rate") | base | _as_row(rate))
        rank = _interval(found.rank, derive_seed(seed, "rank", own.contrast, predictor))
        rows.append(_base("cohort", own.contrast, "identification rank") | base | rank)
        correlations = np.abs(correlate_people(own.acquired, table))
        if predictor == "model":
            correlations = correlate_people(own.acquired, table)
        middle = float(np.nanmedian(correlations)) if np.isfinite(correlations).any() else np.nan
        rows.append(
            _base("cohort", own.contrast, "median correlation over people") | base | {"value": middle}
        )
    return rows


def _pattern_rows(own: Pairs, seed: int) -> list[dict[str, Any]]:
    """Return what is lost when the person's own parcel pattern is taken out of the synthetic image."""
    rng = np.random.default_rng(derive_seed(seed, "pattern", own.contrast))
    errors = disturb_pattern(own.acquired, own.synthetic, own.squared_error, own.n_voxels, rng)
    rows, p_values = [], []
    for name in ("removed", "randomised"):
        with np.errstate(divide="ignore", invalid="ignore"):
            loss_db = 10 * np.log10(errors[name] / errors["own"])
        loss_db = loss_db[np.isfinite(loss_db)]
        if len(loss_db) < FEWEST:
            continue
        found = _interval(loss_db, derive_seed(seed, "pattern", own.contrast, name))
        p_values.append(signed_rank_p(loss_db))
        row = _base("cohort", own.contrast, f"psnr lost, pattern {name} (dB)", region="parcels")
        rows.append(row | found | {"p": p_values[-1], "effect_size": cohens_dz(loss_db)})
    return [row | {"p_holm": p} for row, p in zip(rows, holm(p_values), strict=True)]


def _column_means(tables: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.array(tables)
    n = np.isfinite(stacked).sum(0)
    return np.divide(np.nansum(stacked, 0), n, out=np.full(stacked.shape[1], np.nan), where=n > 0)
