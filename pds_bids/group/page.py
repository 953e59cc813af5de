"""The page of a cohort: ``OUT/group.html`` and its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pds_bids.config import RunConfig
from pds_bids.evaluation.individual import correlate_people, identify_people
from pds_bids.evaluation.schemes import Origin
from pds_bids.group.gather import OUTLIER_Z
from pds_bids.group.ratings import Exclusion
from pds_bids.modalities import Modality
from pds_bids.reports import cohort_charts as charts
from pds_bids.reports import cohort_maps as maps
from pds_bids.reports.canvas import save_figure
from pds_bids.reports.group import write_group_page
from pds_bids.seeds import derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pds_bids.group.run import Results

__all__ = ["write_page"]

#: Quality that is drawn, with its unit, where it is there.
DRAWN = {
    "fd_mean_mm": "mean FD (mm)",
    "registration.mask_dice": "mask Dice",
    "registration.correlation": "correlation with the template",
    "registration.jacobian_min": "smallest Jacobian",
    "brain_volume_ml": "brain mask (ml)",
    "coverage.brain": "share of brain acquired",
    "n_censored": "volumes left out",
    "uncertainty_median": "median claimed SD",
}
#: Best, middle and worst of single people, for each contrast.
QUANTILES = (1.0, 0.5, 0.0)
MOST_CONTRASTS = 5
#: How maps are drawn: factor and unit.
SHOWN = {"md": (1e3, "md (µm²/ms)")}
#: Fewer people have no differences to speak of.
FEWEST = 3

Records = list[dict[Any, Any]]


def write_page(output_dir: Path, results: "Results", config: RunConfig) -> Path:
    """Draw all figures and write the page.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    results : Results
        Everything that was computed.
    config : RunConfig
        Options, for the section on the run.

    Returns
    -------
    Path
        ``group.html``, complete.
    """
    drawn = {**_quality_figures(results), **_fidelity_figures(results)}
    drawn |= {**_profile_figures(results), **_diagnosis_figures(results, config.random_seed)}
    for left in (output_dir / "figures").glob("group_*.png"):
        # That of a classifier of an earlier run would look like this one's.
        left.unlink()
    figures = {}
    for name, figure in drawn.items():
        path = save_figure(figure, output_dir / "figures" / f"group_{name}.png")
        width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
        figures[name] = {"path": path.relative_to(output_dir), "size": (width, height)}
    return write_group_page(output_dir, _view(results, config) | {"figures": figures})


def _view(results: "Results", config: RunConfig) -> dict[str, Any]:
    """Return what the template shows besides figures."""
    quality = results.gathered.quality
    outliers = quality[quality["outliers"].astype(str) != ""]
    flagged = outliers.sort_values("largest_z", ascending=False).to_dict("records")
    synthetic = results.gathered.synthetic
    rejected = [r for r in results.ratings if str(r.verdict) == "reject"]
    diagnosis = results.diagnosis
    return {
        "dataset": config.bids_dir.name,
        "n_participants": quality["participant_id"].nunique(),
        "states": quality.groupby("state")["participant_id"].nunique().to_dict(),
        "acquired": {
            name: int(own["participant_id"].nunique())
            for name, own in quality[quality["input"] == "acquired"].groupby("modality")
        },
        "synthetic": {
            name: int(own["participant_id"].nunique())
            for name, own in (synthetic.groupby("target") if len(synthetic) else ())
        },
        "incomplete": results.gathered.incomplete.to_dict("records"),
        "problems": results.problems,
        "flagged": flagged,
        "outlier_z": OUTLIER_Z,
        "participants": _participants(quality),
        "n_rated": len({(r.participant, r.image) for r in results.ratings}),
        "rejected": rejected,
        "is_rejected_dropped": config.exclude_rejected,
        "excluded": _excluded_lines(results.excluded),
        "atlas": results.atlas,
        "fidelity": _fidelity_summary(results.fidelity),
        "beyond": _beyond_summary(results.fidelity),
        "n_pairs": {own.contrast: len(own.labels) for own in results.pairs},
        "refusal": results.refusal,
        "is_leaking": results.is_leaking,
        "diagnosis": {
            kind: [row for row in rows if row["family"] != "permuted labels"]
            for kind, rows in (_by_classifier(diagnosis.table) if diagnosis else {}).items()
        },
        "permuted": _records(diagnosis.table, "permuted labels") if diagnosis else [],
        "groups": _counts(diagnosis.groups) if diagnosis else {},
        "n_tested": int(diagnosis.table["n_test"].max()) if diagnosis else 0,
        "n_undiagnosed": sum(not results.people.group_of(person.label) for person in results.measured),
        "contrasts": {str(m): names for m, names in diagnosis.contrasts.items()} if diagnosis else {},
        "covariates": results.people.covariates,
        "family_column": results.people.family_column,
        "config": config,
    }


def _excluded_lines(excluded: Exclusion) -> Records:
    """Return one line per reason and kind of image, with names."""
    lines: dict[tuple[str, Modality, str], list[str]] = {}
    for (label, session, modality, is_made), why in excluded.items():
        key = ("synthetic" if is_made else "acquired", modality, why)
        lines.setdefault(key, []).append(f"sub-{label}" + (f" ses-{session}" if session else ""))
    return [
        {"input": kind, "modality": modality, "why": why, "names": names}
        for (kind, modality, why), names in lines.items()
    ]


def _participants(quality: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one line per participant, for the index."""
    lines = []
    for name, own in quality.groupby("participant_id", sort=True):
        states = own["state"].unique().tolist()
        lines.append(
            {
                "name": name,
                "state": next((state for state in states if state != "complete"), "complete"),
                "diagnosis": own["diagnosis"].dropna().iloc[0] if own["diagnosis"].notna().any() else "",
                "acquired": sorted(own.loc[own["input"] == "acquired", "modality"].dropna().unique()),
                "synthetic": sorted(own.loc[own["input"] == "synthetic", "modality"].dropna().unique()),
                "n_outliers": int((own["outliers"].astype(str) != "").sum()),
                "rating": next((r for r in ("reject", "doubt", "accept") if (own["rating"] == r).any()), ""),
            }
        )
    return lines


def _records(table: pd.DataFrame, family: str) -> Records:
    return table[table["family"] == family].to_dict("records")


def _by_classifier(table: pd.DataFrame) -> dict[str, Records]:
    """Return the rows of each classifier; covariates alone have one of their own and stand with the first."""
    is_control = table["family"] == "control"
    rows = {
        str(kind): own.to_dict("records")
        for kind, own in table[~is_control].groupby("classifier", sort=False)
    }
    controls = [
        r | {"scheme": f"{r['scheme']} ({r['classifier']})"} for r in table[is_control].to_dict("records")
    ]
    first = next(iter(rows))
    place = next((k for k, r in enumerate(rows[first]) if r["family"] == "permuted labels"), len(rows[first]))
    rows[first][place:place] = controls
    return rows


def _counts(groups: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(groups, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _fidelity_summary(table: pd.DataFrame) -> Records:
    """Return one row per contrast and predictor: means in the brain, and how much better the model is."""
    own = table[(table["level"] == "cohort") & (table["region"] == "brain")]
    found = {(r["contrast"], r["predictor"], r["metric"]): r for r in own.to_dict("records")}
    rows = []
    for contrast, predictor, metric in found:
        if metric == "psnr":
            row = {name: found.get((contrast, predictor, name)) for name in ("psnr", "ssim", "mae")}
            row["difference"] = found.get((contrast, "model", f"psnr difference to {predictor}"))
            rows.append(found[contrast, predictor, metric] | row)
    return sorted(rows, key=lambda row: (row["contrast"], row["predictor"] != "model"))


def _beyond_summary(table: pd.DataFrame) -> Records:
    """Return one row per contrast and predictor: what is left beyond the mean person."""
    own = table[(table["level"] == "cohort") & table["region"].isin(["brain", "parcels"])]
    found = {(r["contrast"], r["predictor"], r["metric"]): r for r in own.to_dict("records")}
    names = {
        "identified": "identification rate",
        "correlation": "median correlation over people",
        "removed": "psnr lost, pattern removed (dB)",
        "randomised": "psnr lost, pattern randomised (dB)",
    }
    rows = []
    for (contrast, predictor, metric), row in found.items():
        if metric == names["identified"]:
            more: dict[str, Any] = {k: found.get((contrast, predictor, name)) for k, name in names.items()}
            levels = [found.get((contrast, predictor, f"coverage{level}")) for level in (50, 80, 95)]
            rows.append(row | more | {"covered": [level for level in levels if level]})
    return rows


def _quality_figures(results: "Results") -> dict[str, "Figure"]:
    table = results.gathered.quality
    measures = {}
    for column, name in DRAWN.items():
        if column not in table or not table[column].notna().any():
            continue
        kinds = {}
        for (modality, origin), own in table[table[column].notna()].groupby(["modality", "input"]):
            label = (
                f"{str(modality).upper()}" if origin == "acquired" else f"synthetic {str(modality).upper()}"
            )
            is_far = own["outliers"].astype(str).str.contains(f"{column} (z", regex=False)
            kinds[label] = (own[column].to_numpy(float), is_far.to_numpy(), own["participant_id"].tolist())
        measures[name] = kinds
    if not measures:
        return {}
    return {"quality": charts.distribution_figure(measures, title="Quality of all images")}


def _fidelity_figures(results: "Results") -> dict[str, "Figure"]:
    figures: dict[str, Figure] = {}
    reported = results.gathered.fidelity
    if len(reported):
        own = reported[reported["metric"] == "psnr_brain"]
        scores: dict[str, dict[str, np.ndarray]] = {}
        for contrast, part in own.groupby("contrast"):
            names = sorted(part["predictor"].unique(), key=lambda name: (name != "model", name))
            scores[str(contrast)] = {
                name: part.loc[part["predictor"] == name, "value"].to_numpy(float) for name in names
            }
        if scores:
            figures["fidelity"] = charts.fidelity_figure(scores, metric="PSNR in the brain (dB)")
    pairs = {own.contrast: own for own in results.pairs[:MOST_CONTRASTS] if len(own.labels) >= FEWEST}
    if pairs:
        figures["correlation"] = charts.parcel_correlation_figure(
            {
                name: (
                    correlate_people(own.acquired, own.synthetic),
                    correlate_people(own.acquired, own.source),
                )
                for name, own in pairs.items()
            }
        )
        figures["agreement"] = charts.agreement_figure(
            {
                unit: (factor * own.acquired, factor * own.synthetic)
                for (factor, unit), own in ((_shown(name), own) for name, own in pairs.items())
            }
        )
        alike = {n: identify_people(own.acquired, own.synthetic).similarity for n, own in pairs.items()}
        if known := {name: (own, pairs[name].labels) for name, own in alike.items() if own.size}:
            figures["identification"] = charts.similarity_figure(known)
        if shares := _coverages(results):
            figures["uncertainty"] = charts.coverage_figure(shares)
    return figures


def _shown(contrast: str) -> tuple[float, str]:
    """Return what values of a contrast are multiplied by in figures, and its name with the unit."""
    return SHOWN.get(contrast, (1.0, contrast))


def _coverages(results: "Results") -> dict[str, dict[int, np.ndarray]]:
    shares: dict[str, dict[int, np.ndarray]] = {}
    for own in results.pairs:
        levels = {
            level: np.array([c.scores.get(f"coverage{level}.brain", np.nan) for c in own.comparisons])
            for level in (50, 80, 95)
        }
        known = {level: values[np.isfinite(values)] for level, values in levels.items()}
        if all(len(values) for values in known.values()):
            shares[own.contrast] = known
    return shares


def _profile_figures(results: "Results") -> dict[str, "Figure"]:
    profiles: dict[tuple[str, str, str], list[np.ndarray]] = {}
    unknown = "no diagnosis" if results.people.group_column else "everybody"
    for person in results.measured:
        group = results.people.group_of(person.label) or unknown
        for own in person.signals:
            if own.scan.session == person.session:
                profiles.setdefault((own.scan.contrast, group, own.scan.origin), []).append(own.means)
    if not profiles:
        return {}
    contrasts = {contrast: _shown(contrast) for contrast in sorted({contrast for contrast, _, _ in profiles})}
    groups = sorted({group for _, group, _ in profiles})
    figures = {
        "profiles": maps.profile_figure(
            {
                (contrasts[name][1], group, origin): contrasts[name][0] * np.array(rows)
                for (name, group, origin), rows in profiles.items()
            },
            groups,
            [name for _, name in contrasts.values()],
            names=results.atlas.names,
        )
    }
    people = []
    for pair in results.pairs[:MOST_CONTRASTS]:
        rank = identify_people(pair.acquired, pair.synthetic).similarity.diagonal().argsort()
        if not rank.size:
            continue
        mean = np.nanmean(pair.acquired, 0)
        for quantile in QUANTILES:
            k = int(rank[round(quantile * (len(rank) - 1))])
            factor, name = _shown(pair.contrast)
            tables = (factor * values for values in (pair.acquired[k], pair.synthetic[k], mean))
            people.append((name, f"sub-{pair.labels[k]}", *tables))
    if people:
        figures["people"] = maps.person_profile_figure(people, n_parcels=len(results.atlas.names))
    return figures


def _diagnosis_figures(results: "Results", seed: int) -> dict[str, "Figure"]:
    if results.diagnosis is None:
        return {}
    found = results.diagnosis
    planes: dict[str, Mapping[str, np.ndarray]] = {}
    origins: dict[str, Sequence[str]] = {}
    groups: dict[str, Sequence[str]] = {}
    for modality in found.contrasts:
        rows, own_origins, own_groups = [], [], []
        for origin in (Origin.ACQUIRED, Origin.SYNTHETIC):
            features = found.blocks.tables.get((modality, origin))
            if features is None or not (there := np.isfinite(features).any(1)).any():
                continue
            rows.append(features[there])
            own_origins += [str(origin)] * int(there.sum())
            own_groups += found.groups[there].tolist()
        plane = maps.embed(np.concatenate(rows), seed=derive_seed(seed, "map", str(modality))) if rows else {}
        if plane:
            name = str(modality).upper()
            planes[name], origins[name], groups[name] = plane, own_origins, own_groups
    figures = {"maps": maps.map_figure(planes, origins, groups)} if planes else {}
    for kind, rows in _by_classifier(found.table).items():
        lines = [_forest_row(row) for row in rows if np.isfinite(row["accuracy"])]
        if lines:
            chance = float(found.table["chance"].iloc[0])
            name = f"Diagnosis by {kind}"
            figures[f"diagnosis-{kind}"] = charts.forest_figure(lines, chance=chance, title=name)
    return figures


def _forest_row(row: Mapping[Any, Any]) -> dict[str, float | str]:
    is_control = row["family"] in ("control", "permuted labels")
    is_synthetic = "synthetic" in f"{row['train_input']} {row['test_input']}"
    kind = "control" if is_control else "synthetic" if is_synthetic else "acquired"
    prefix = "permuted labels: " if row["family"] == "permuted labels" else ""
    return {
        "name": f"{prefix}{row['scheme']}",
        "kind": kind,
        "family": row["family"],
        "accuracy": row["accuracy"],
        "low": row["accuracy_ci_low"],
        "high": row["accuracy_ci_high"],
        "n": str(int(row["n_test"])),
        "source": row.get("source_only_accuracy", np.nan),
        "source_low": row.get("source_only_ci_low", np.nan),
        "source_high": row.get("source_only_ci_high", np.nan),
    }
