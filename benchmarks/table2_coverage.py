"""Coverage of the intervals of rows that `table2.py` has trained, each head calibrated on all others.

    python benchmarks/table2_coverage.py OUT --labels LABELS --cache CACHE --reduced --methods unet pds

People are those that no row was trained on, with the options of `table2.py`. For every head, standard
deviations and intervals come from the people of the other heads: nobody is calibrated on himself.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from table2_people import N_TRAIN, table_people, table_window

from pds_bids.inference.bundle import load_bundle
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.training.data import Example, collate, make_example
from pds_bids.training.metrics import LEVELS, error_ratios


def left_out(heads: Mapping[str, Sequence[np.ndarray]]) -> dict[int, float]:
    """Return which share of voxels the intervals hold, each head's scaled on the people of all other heads.

    Parameters
    ----------
    heads : mapping of str to sequence of ndarray
        ``(V,)`` absolute errors over standard deviations, per person of a head.

    Returns
    -------
    dict of int to float
        By level in percent; every person counts the same.
    """
    shares = defaultdict(list)
    for head, people in heads.items():
        others = np.concatenate([ratios for name, each in heads.items() if name != head for ratios in each])
        for level in LEVELS:
            width = np.quantile(others, level / 100)
            shares[level] += [float((ratios <= width).mean()) for ratios in people]
    return {level: float(np.mean(each)) for level, each in shares.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of table2.py")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--methods", nargs="+", default=["unet", "pds", "residual-flow"])
    parser.add_argument("--seed", type=int, default=1, help="of the training")
    parser.add_argument("--n-train", type=int, default=N_TRAIN)
    parser.add_argument("--n-test", type=int, default=24)
    parser.add_argument("--n-validation", type=int, default=24)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    people = table_people(
        arguments.labels,
        arguments.cache,
        is_reduced=arguments.reduced,
        n_train=arguments.n_train,
        n_validation=arguments.n_validation,
        n_test=arguments.n_test,
    )
    window = table_window(is_reduced=arguments.reduced)
    heads: dict[str, list[Example]] = defaultdict(list)
    for pairs, n in ((people.validation, arguments.n_validation), (people.test, arguments.n_test)):
        for pair in map(pairs.pair, range(n)):
            heads[pair.name].append(collate([make_example(pair, window, way) for way in Direction]))
    print(f"| row, {len(heads)} heads | contrast | 50% | 80% | 95% |\n|---|---|---|---|---|")
    for name in arguments.methods:
        method = load_bundle(arguments.out / "models" / f"{name}_seed-{arguments.seed}").method
        ratios: dict[int, dict[str, list[np.ndarray]]] = defaultdict(dict)
        for head, examples in heads.items():
            for channel, found in error_ratios(method, examples).items():
                ratios[channel][head] = [each.numpy() for each in found]
        for channel, by_head in ratios.items():
            covered = left_out(by_head)
            cells = " | ".join(f"{100 * covered[level]:.1f}" for level in LEVELS)
            print(f"| {name} | {CONTRASTS[channel]} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
