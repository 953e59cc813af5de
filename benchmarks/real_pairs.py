"""Print fidelity on people who have both modalities, from output folders of pds-bids.

Reads the ``fidelity`` records that the app writes where the target was acquired, too, and prints one table
per direction and contrast: every person, and the mean with a bootstrap interval over people.

    python benchmarks/real_pairs.py OUT [OUT ...]
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from pds_bids.bids.names import find_outputs

METRICS = ("psnr_brain", "ssim_brain", "psnr_gain", "ssim_gain", "psnr_whole", "ssim_whole", "mae_brain")
N_BOOTSTRAP = 2000

# (direction, contrast) -> predictor -> metric -> person -> values, one per session
Tables = dict[tuple[str, str], dict[str, dict[str, dict[str, list[float]]]]]


def read_tables(folders: list[Path]) -> Tables:
    """Collect all records."""
    tables: Tables = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for folder in folders:
        for path, name in find_outputs(folder):
            if name.key != "synthetic_qc":
                continue
            content = json.loads(path.read_text())
            person = f"{folder.name}:{name.entities['sub']}"
            for record in content.get("fidelity", []):
                rows = tables[content["direction"], record["target"]][record["predictor"]]
                for metric in METRICS:
                    rows[metric][person].append(record[metric])
    return tables


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over people."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (N_BOOTSTRAP, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def print_tables(tables: Tables) -> None:
    """Print all tables, the model first, as the app wrote them."""
    for (direction, contrast), predictors in tables.items():
        print(f"\n{direction} -> {contrast}")
        print(
            f"{'predictor':14s}{'people':>7s}  "
            + "".join(f"{metric:>12s}" for metric in METRICS)
            + "  95% of psnr"
        )
        for predictor, rows in predictors.items():
            people = {metric: np.array([np.mean(v) for v in rows[metric].values()]) for metric in METRICS}
            n_people = len(people[METRICS[0]])
            cells = "".join(f"{people[metric].mean():12.3f}" for metric in METRICS)
            low, high = interval(people["psnr_brain"])
            print(f"{predictor:14s}{n_people:7d}  {cells}  {low:.2f} to {high:.2f}")
        for person in predictors["model"]["psnr_brain"]:
            cells = "  ".join(
                f"{p} {np.mean(rows['psnr_brain'][person]):.2f}" for p, rows in predictors.items()
            )
            print(f"    {person}: {cells}")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("outputs", type=Path, nargs="+", metavar="OUT", help="output folder of pds-bids")
    tables = read_tables(parser.parse_args(argv).outputs)
    if not tables:
        print("no person has both modalities: nothing to compare", file=sys.stderr)
        return 1
    print_tables(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
