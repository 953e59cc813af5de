"""Tables and a figure of `table2.py`, from the scores of its rows."""

import csv
import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from table2_rows import ABLATIONS

from pds_bids.evaluation.statistics import Interval, PairedComparison, bootstrap_interval, compare_paired

#: Metric -> its heading, decimals, and whether more is better.
METRICS = {
    "psnr": ("PSNR, dB", 2, True),
    "ssim": ("SSIM", 4, True),
    "nrmse": ("NRMSE", 4, False),
    "mae": ("MAE", 4, False),
    "own_r": ("own r", 3, True),
}
TASKS = {
    "bold": "BOLD from b = 0 and mean DWI",
    "dwi": "mean DWI from BOLD",
    "b0": "b = 0 from BOLD",
    "fa": "FA from BOLD",
    "md": "MD from BOLD",
}
REFERENCE = "pds"
SEED = 0
NOTE = (
    "PSNR, SSIM (Gaussian, 11 voxels, sigma 1.5), NRMSE (of the in-brain mean) and MAE inside the brain; "
    "data range from training people. Own r: correlation, per person, of what differs from the mean over "
    "people, in the image and in the truth; none for a row that gives everybody the same. Intervals: 95%, "
    "bootstrap over heads, then over people within heads. p: Wilcoxon over people, Holm over all rows of a "
    "column of a table."
)

# row -> contrast -> metric -> person -> value, averaged over seeds
Values = dict[str, dict[str, dict[str, np.ndarray]]]


def write_report(out: Path) -> None:
    """Write ``table2.tsv``, ``table2.md`` and ``table2.png`` from whatever rows are there."""
    records = [
        record for path in sorted((out / "scores").glob("*.json")) for record in json.loads(path.read_text())
    ]
    values, heads = gather(records)
    trained = {record["row"]: record for record in records if "method" in record}
    parts = [NOTE]
    rows: list[dict[str, Any]] = []
    main = [row for row in values if not _is_ablation(row)]
    for contrast, title in tasks_of(values).items():
        compared = _compare(values, contrast, heads, [row for row in main if row != REFERENCE])
        parts += [f"### {title}", main_table(values, contrast, main, trained, compared)]
        rows += [_tsv_row(values, contrast, row, trained, compared) for row in values]
    ablations = [row for row in values if _is_ablation(row)]
    if ablations and REFERENCE in values:
        parts += ["### PDS without each of its parts", ablation_table(records, ablations)]
    if trained:
        parts += ["### Uncertainty", coverage_table(trained), "### Cost", cost_table(records)]
    (out / "table2.md").write_text("\n\n".join(parts) + "\n")
    with (out / "table2.tsv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(values, main, out / "table2.png")


def gather(records: list[dict[str, Any]]) -> tuple[Values, list[str]]:
    """Return values per person, averaged over seeds, and the head of every person."""
    collected: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    heads: list[str] = []
    for record in records:
        for contrast in TASKS:
            people = [score for score in record["scores"] if score["contrast"] == contrast]
            if not people:
                continue
            heads = [score["head"] for score in people]
            for metric in METRICS:
                each = [np.nan if score[metric] is None else score[metric] for score in people]
                collected[record["row"], contrast, metric].append(each)
    values: Values = defaultdict(lambda: defaultdict(dict))
    for (row, contrast, metric), seeds in collected.items():
        values[row][contrast][metric] = np.mean(seeds, 0)
    return values, heads


def tasks_of(values: Values) -> dict[str, str]:
    """Return the contrasts that some row has, with their headings."""
    return {key: title for key, title in TASKS.items() if any(key in row for row in values.values())}


def main_table(
    values: Values,
    contrast: str,
    rows: list[str],
    trained: dict[str, Any],
    compared: dict[str, dict[str, PairedComparison]],
) -> str:
    """Return one direction: means of all metrics, and what PDS has more than each row."""
    there = [row for row in rows if contrast in values[row]]
    there.sort(key=lambda row: -values[row][contrast]["psnr"].mean())
    headings = [heading for heading, *_ in METRICS.values()]
    lines = ["| row | " + " | ".join(headings) + " | PDS minus row, dB | p | PDS minus row, SSIM | p |"]
    lines.append("|" + "---|" * (len(headings) + 5))
    for row in there:
        cells = [f"**{row}**" if row in trained else f"*{row}*"]
        for metric, (_, digits, _) in METRICS.items():
            mean = float(np.mean(values[row][contrast][metric]))
            cells.append("" if np.isnan(mean) else f"{mean:.{digits}f}")
        cells += _difference_cells(compared, row, "psnr", 2) + _difference_cells(compared, row, "ssim", 4)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablation_table(records: list[dict[str, Any]], rows: list[str]) -> str:
    """Return what PDS gains by each part, in dB, and whether that part helps; seeds that both have."""
    tasks = tasks_of(gather(records)[0])
    lines = ["| switched off | " + " | ".join(tasks.values()) + " | seeds | verdict |"]
    lines.append("|" + "---|" * (len(tasks) + 3))
    for row in rows:
        seeds = {record["seed"] for record in records if record["row"] == row}
        pair = [r for r in records if r["row"] in (row, REFERENCE) and r["seed"] in seeds]
        values, heads = gather(pair)
        found = [_compare(values, contrast, heads, [row])["psnr"][row] for contrast in tasks]
        cells = [row, *(_interval_text(each.difference, 2) for each in found), str(len(seeds))]
        helps = [each.difference.low > 0 for each in found]
        harms = [each.difference.high < 0 for each in found]
        verdict = (
            "helps" if all(helps) else "harms" if all(harms) else "mixed" if any(helps) else "does not help"
        )
        lines.append("| " + " | ".join([*cells, verdict]) + " |")
    return "PSNR of PDS minus PSNR without the part, dB.\n\n" + "\n".join(lines)


def coverage_table(trained: dict[str, Any]) -> str:
    """Return coverage on tested people, in percent, and how far off it is at most."""
    levels = (50, 80, 95)
    first = next(iter(trained.values()))["coverage"]
    tasks = [contrast for contrast in TASKS if f"covered_{levels[0]}_{contrast}" in first]
    lines = ["| row | " + " | ".join(tasks) + " | largest error, points |", "|" + "---|" * (len(tasks) + 2)]
    for row, record in trained.items():
        cells, errors = [row], []
        for contrast in tasks:
            shares = [100 * record["coverage"][f"covered_{level}_{contrast}"] for level in levels]
            cells.append(" / ".join(f"{share:.1f}" for share in shares))
            errors += [abs(share - level) for share, level in zip(shares, levels, strict=True)]
        lines.append("| " + " | ".join([*cells, f"{max(errors):.1f}"]) + " |")
    return "Voxels of tested people inside the 50 / 80 / 95% intervals, percent.\n\n" + "\n".join(lines)


def cost_table(records: list[dict[str, Any]]) -> str:
    """Return parameters, updates and seconds of every training."""
    lines = ["| row | seed | parameters, M | updates | training, s | one image, s | passes per image |"]
    lines.append("|" + "---|" * 7)
    for record in records:
        if "method" in record:
            cells = [record["row"], str(record["seed"]), f"{record['n_parameters'] / 1e6:.2f}"]
            cells += [str(record["n_updates"]), f"{record['training_s']} ({record['clock']})"]
            cells += [f"{record['sampling_s']:.2f}", str(record["steps"])]
            lines.append("| " + " | ".join(cells) + " |")
    return "Parameters of all networks that make the image.\n\n" + "\n".join(lines)


def draw(values: Values, rows: list[str], path: Path) -> None:
    """Draw PSNR of every person by row, one panel per direction and contrast."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tasks = tasks_of(values)
    size = (4.3 * len(tasks), 0.35 * len(rows) + 1.5)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, squeeze=False)
    for axis, (contrast, title) in zip(axes[0], tasks.items(), strict=True):
        there = [row for row in rows if contrast in values[row]]
        there.sort(key=lambda row: values[row][contrast]["psnr"].mean())
        axis.boxplot([values[row][contrast]["psnr"] for row in there], orientation="horizontal", widths=0.6)
        axis.set_yticks(range(1, len(there) + 1), there)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("PSNR in the brain, dB")
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _compare(
    values: Values, contrast: str, heads: list[str], rows: list[str]
) -> dict[str, dict[str, PairedComparison]]:
    """Compare PDS with rows; empty where PDS is not there yet."""
    if contrast not in values.get(REFERENCE, {}):
        return {}
    compared = {}
    for metric in ("psnr", "ssim"):
        others = {row: values[row][contrast][metric] for row in rows if contrast in values[row]}
        with warnings.catch_warnings():
            # A row without an effect is printed as such.
            warnings.simplefilter("ignore", RuntimeWarning)
            found = compare_paired(values[REFERENCE][contrast][metric], others, seed=SEED, clusters=heads)
        compared[metric] = {each.name: each for each in found}
    return compared


def _difference_cells(
    compared: dict[str, dict[str, PairedComparison]], row: str, metric: str, digits: int
) -> list[str]:
    if row not in compared.get(metric, {}):
        return ["", ""]
    found = compared[metric][row]
    return [_interval_text(found.difference, digits), f"{found.p_holm:.2g}"]


def _interval_text(interval: Interval, digits: int) -> str:
    return f"{interval.estimate:+.{digits}f} ({interval.low:+.{digits}f} to {interval.high:+.{digits}f})"


def _tsv_row(
    values: Values,
    contrast: str,
    row: str,
    trained: dict[str, Any],
    compared: dict[str, dict[str, PairedComparison]],
) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "contrast": contrast,
        "row": row,
        "n_updates": trained.get(row, {}).get("n_updates", 0),
    }
    for metric in METRICS:
        each = values[row].get(contrast, {}).get(metric)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = Interval(np.nan, np.nan, np.nan) if each is None else bootstrap_interval(each, seed=SEED)
        cells |= {metric: found.estimate, f"{metric}_low": found.low, f"{metric}_high": found.high}
    for metric in ("psnr", "ssim"):
        found_pair = compared.get(metric, {}).get(row)
        ends = found_pair.difference if found_pair else Interval(np.nan, np.nan, np.nan)
        cells |= {f"pds_minus_row_{metric}": ends.estimate}
        cells |= {f"pds_minus_row_{metric}_low": ends.low, f"pds_minus_row_{metric}_high": ends.high}
        cells[f"p_holm_{metric}"] = found_pair.p_holm if found_pair else np.nan
        cells[f"dz_{metric}"] = found_pair.effect_size if found_pair else np.nan
    rounded = {key: round(v, 5) if isinstance(v, float) else v for key, v in cells.items()}
    return {key: "n/a" if isinstance(v, float) and np.isnan(v) else v for key, v in rounded.items()}


def _is_ablation(row: str) -> bool:
    return row in ABLATIONS
