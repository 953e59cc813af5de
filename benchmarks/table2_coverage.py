"""Coverage of the intervals of rows that `table2.py` has trained, each head calibrated on all others.

    python benchmarks/table2_coverage.py OUT --labels LABELS --cache CACHE --reduced --methods unet pds

People are those that no row was trained on, with the options of `table2.py`. For every head, standard
deviations and intervals come from the people of the other heads: nobody is calibrated on himself.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from table2_people import N_TRAIN, table_people, table_window
from torch import Tensor, nn

from pds_bids.inference.bundle import load_bundle
from pds_bids.methods import Condition, Method, SampleResult
from pds_bids.modalities import Direction
from pds_bids.training.data import Example, collate, make_example
from pds_bids.training.metrics import LEVELS, calibrate, coverage


class Remembered(nn.Module):
    """A method that samples every person once, with a calibration of its own.

    Parameters
    ----------
    method : Method
        Its factors are replaced by 1.
    """

    calibration: Tensor

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        method.calibration.fill_(1)
        self.register_buffer("calibration", torch.ones_like(method.calibration))
        self.made: dict[int, SampleResult] = {}

    def sample(self, condition: Condition, generators: list[torch.Generator]) -> SampleResult:
        """Return what the method makes of these images, deviations scaled."""
        key = condition.source.data_ptr()
        if key not in self.made:
            self.made[key] = self.method.sample(condition, generators)
        made = self.made[key]
        return SampleResult(made.mean, made.std * self.calibration.view(-1, 1, 1, 1))


def left_out(method: Remembered, heads: dict[str, list[Example]]) -> dict[str, float]:
    """Return mean coverage over people, each head by the others."""
    found = defaultdict(list)
    for head, people in heads.items():
        others = [example for name, examples in heads.items() if name != head for example in examples]
        method.calibration.fill_(1)
        report = calibrate(method, others)  # type: ignore[arg-type]
        for name, share in coverage(method, people, report).items():  # type: ignore[arg-type]
            found[name] += [share] * len(people)
    return {name: float(np.mean(shares)) for name, shares in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of table2.py")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--methods", nargs="+", default=["unet", "pds", "residual-flow"])
    parser.add_argument("--n-train", type=int, default=N_TRAIN)
    parser.add_argument("--n-test", type=int, default=24)
    parser.add_argument("--n-validation", type=int, default=12)
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
    print(f"| row, {len(heads)} heads | level | covered, percent |\n|---|---|---|")
    for name in arguments.methods:
        bundle = load_bundle(arguments.out / "models" / f"{name}_seed-1")
        shares = left_out(Remembered(bundle.method), heads)
        for level in LEVELS:
            kinds = {key.split("_", 2)[2]: share for key, share in shares.items() if f"_{level}_" in key}
            cells = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in kinds.items())
            print(f"| {name} | {level} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
