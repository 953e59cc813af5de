"""Time and memory of synthesis alone: the mean and ten segments of one simulated person, each direction.

python benchmarks/synthesis_speed.py --cache CACHE [--bundles default small] [--threads 2]
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pds_bids.inference.bundle import load_bundle
from pds_bids.inference.card import SHIPPED, shipped_bundle
from pds_bids.inference.synthesize import synthesize
from pds_bids.modalities import MODALITIES, Direction
from pds_bids.phantom.pair import template_channels
from pds_bids.template import MODEL_GRID, get_template, load_template

N_VOLUMES = 11


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder for the template")
    parser.add_argument(
        "--bundles", nargs="+", default=list(SHIPPED), help="names in the package, or folders"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    template = np.moveaxis(template_channels(load_template(get_template(arguments.cache), MODEL_GRID)), 0, -1)
    print("| bundle | direction | seconds | CPU s | peak memory of the process, GB |\n|---|---|---|---|---|")
    for name in arguments.bundles:
        folder = Path(name)
        bundle = load_bundle(folder if folder.is_dir() else shipped_bundle(name))
        for direction in Direction:
            source = {
                contrast: np.repeat(bundle.bank.volume(values)[..., None], N_VOLUMES, 3)
                for contrast in MODALITIES[direction.source].sources
                for values in [bundle.bank.person(0, contrast, is_source=True)]
            }
            cpu, wall = time.process_time(), time.monotonic()
            synthesize(
                source,
                bundle.bank.mask,
                template,
                bundle.grid,
                bundle,
                direction=direction,
                seeds=range(N_VOLUMES),
            )
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(f"| {name} | {direction} | {wall:.1f} | {cpu:.1f} | {memory:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
