"""Write the tables of the level group, each with a description of its columns."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pds_bids import __version__
from pds_bids.bids.names import bidsignore
from pds_bids.bids.write import write_json, write_text, write_tsv
from pds_bids.group.atlas import Atlas
from pds_bids.group.signals import table_sidecar

__all__ = ["write_atlas_files", "write_group_table"]

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "group_qc": {
        "state": "complete; incomplete: something planned is not there; failed: a crash or a plan that "
        "cannot be carried out; skipped: nothing was missing; no output: there is no folder",
        "reason": "Why the state is not complete",
        "input": "acquired: the row is about a scan; synthetic: about an image that a model predicted",
        "series": "Entities that tell several series of a session apart",
        "registration": "Worst verdict of the gates: passed, fallback (affine only), failed",
        "outliers": "Columns whose robust z, 0.6745 (x - median) / MAD within modality and input, is above "
        "3.5",
        "largest_z": "Largest absolute robust z of the row",
        "rating": "Worst verdict of the readers of this very image",
        "excluded": "Why the image does not enter fidelity and diagnosis",
        "fd_mean_mm": "Mean framewise displacement, mm",
        "fd_max_mm": "Largest framewise displacement, mm",
        "n_censored": "Volumes left out because of motion",
        "brain_volume_ml": "Volume of the brain mask, ml",
        "weighted_to_b0": "DWI: median signal of the brain from b = 500 s/mm2 on, relative to the b0s",
    },
    "group_synthetic": {
        "input": "Always synthetic",
        "made_from": "What the model read",
        "is_target_acquired": "Whether the modality was acquired too, so that the prediction can be judged",
        "uncertainty_median": "Median over the brain of the claimed standard deviation",
        "outliers": "As in group_qc.tsv, within target",
    },
    "group_fidelity": {
        "level": "participant; parcel: over people, per parcel; site and cohort: over people",
        "input": "What was judged: a synthetic image, or an acquired one that stands in for it",
        "reference": "What it was compared with",
        "predictor": "model; atlas, nearest, cubic, trees: baselines that are fitted to simulated people; "
        "source-*: the acquired source as it is",
        "region": "brain: both masks; whole: the volume with its zero background; grey, white, fluid; a "
        "parcel; gain: brain, after a smooth field that has seen the target",
        "ci_low": "95% interval, bootstrap over people; exact for the identification rate",
        "p": "Wilcoxon signed-rank over people",
        "p_holm": "Corrected for the number of baselines or perturbations",
        "effect_size": "Cohen's d_z",
    },
    "group_diagnosis": {
        "family": "scheme; single contrast; control; cross-site: trained on all other sites; permuted labels",
        "paper_scheme": "Number in Table V of arXiv 2511.04963, as far as its text tells",
        "train_input": "acquired or synthetic: acquired where there is a scan, synthetic elsewhere",
        "test_input": "As train_input",
        "n_test_acquired": "People whose test features were all acquired",
        "n_test_synthetic": "People whose test features were all synthetic",
        "n_test_mixed": "People with one acquired and one synthetic modality",
        "n_train": "People trained on, mean over folds",
        "accuracy_ci_low": "95%, exact (Clopper-Pearson); for permuted labels 2.5th percentile over orders",
        "balanced_accuracy": "Mean recall of the diagnoses (macro recall); 95% interval by bootstrap over "
        "people",
        "auc": "Mean over diagnoses, each against the others, from scores",
        "source_only_accuracy": "Of classifiers that see only the acquired images which the test input was "
        "made from, about the same people",
        "mcnemar_p": "Exact test that the scheme and the source-only classifier are right equally often",
        "mcnemar_p_holm": "Corrected for the schemes of a classifier",
    },
}


def write_group_table(output_dir: Path, name: str, table: pd.DataFrame) -> Path:
    """Write ``<name>.tsv`` and ``<name>.json``.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    name : str
        ``group_qc``, ``group_synthetic``, ``group_fidelity`` or ``group_diagnosis``.
    table : DataFrame
        What to write; columns without any value are left out.

    Returns
    -------
    Path
        Of the table.
    """
    table = table.dropna(axis=1, how="all")
    known = DESCRIPTIONS[name]
    path = output_dir / f"{name}.tsv"
    rows = table.astype(object).where(table.notna(), None).itertuples(index=False, name=None)
    write_tsv(path, [str(column) for column in table.columns], rows)
    columns = {
        str(column): {"Description": known.get(str(column), _described(str(column), name))}
        for column in table.columns
    }
    write_json(path.with_suffix(".json"), columns | {"GeneratedBy": f"pds-bids {__version__}, level group"})
    return path


def write_atlas_files(output_dir: Path, atlas: Atlas) -> None:
    """Write what describes parcels and tables once for the whole dataset, and ``.bidsignore``."""
    write_text(output_dir / ".bidsignore", bidsignore())
    write_json(
        output_dir / f"atlas-{atlas.name}_description.json",
        {"Name": atlas.name, "License": "see its origin", "Description": atlas.origin},
    )
    rows = [(index, atlas.labels[index]) for index in sorted(atlas.labels)]
    write_tsv(output_dir / f"atlas-{atlas.name}_dseg.tsv", ("index", "name"), rows)
    for key, name in (
        ("roi", "stat-mean_timeseries"),
        ("roi_coverage", "stat-coverage_qc"),
        ("connectivity", "stat-pearsoncorrelation_relmat"),
    ):
        write_json(output_dir / f"atlas-{atlas.name}_{name}.json", table_sidecar(key, atlas))


def _described(column: str, name: str) -> str:
    if name in ("group_qc", "group_synthetic") and "." in column:
        return f"{column} of the participant's quality file"
    return column.replace("_", " ")
