"""Print how many simulated pairs per second the training stream makes on one thread, and its memory.

    python benchmarks/stream.py --cache CACHE [--labels LABELS] [--device cuda]

Seconds are CPU seconds on the CPU, so that a busy machine does not matter much, and wall seconds on a GPU.
With ``--against FOLDER`` the package in another checkout (for example one from before a change) runs first,
in a process of its own, on the same anatomies.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.stream import PairStream
from pds_bids.template import MODEL_GRID, RES02_GRID, get_template, load_template

N_WARM_UP = 1


def measure(labels: Path | None, cache: Path, device: str, count: int) -> None:
    """Print one line per grid."""
    files = get_template(cache / "template")
    only = None if labels is None else [0]
    heads = build_anatomies(labels, cache / "anatomies", load_template(files, RES02_GRID), only=only)
    # Not given for the CPU, so that checkouts from before there was a choice can be measured.
    options: dict[str, Any] = {} if device == "cpu" else {"device": device}
    for grid in (MODEL_GRID, RES02_GRID):
        stream = PairStream(heads, 1, template=load_template(files, grid), **options)
        for index in range(N_WARM_UP):
            stream.pair(index)
        clock = time.process_time if device == "cpu" else time.perf_counter
        start = clock()
        for index in range(count):
            pair = stream.pair(index)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = clock() - start
        channels = f"{len(pair.source)} + {len(pair.target)} channels"
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{grid.zooms[0]:.0f} mm, {channels}, {device}: {count / seconds:.2f} pairs/s, "
            f"peak so far {peak_gb:.2f} GB",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for anatomies")
    parser.add_argument("--labels", type=Path, help="label maps; without them the head of the template")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=10, help="pairs per grid")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.against:
        # First: a child inherits the peak memory of its parent.
        command = [sys.executable, __file__, "--cache", str(arguments.cache), "--count", str(arguments.count)]
        command += ["--labels", str(arguments.labels)] if arguments.labels else []
        print(f"{arguments.against}:", flush=True)
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(arguments.against)}, check=True)
        print("this checkout:", flush=True)
    measure(arguments.labels, arguments.cache, arguments.device, arguments.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
