"""Compare each preprocessing step with its peers on phantoms of known truth, in one command.

Every tool, pds-bids included, runs in a process of its own on one thread; its CPU time, wall time and peak
memory count from start to end, imports included. A peer that is missing is named and skipped.

    python benchmarks/preprocessing.py --steps motion dwi-motion --peers-python PEERS/bin/python
        --labels LABELS --write docs/benchmarks.md

``--labels`` is a folder of whole-head label maps (environment PDS_LABELS); without it the head is made from
the template's tissue maps. A step is a function that returns rows with ``step``, ``tool``, ``case``,
``error``, ``unit``, ``cpu_s``, ``wall_s``, ``peak_mb`` and, where a series was shortened, ``n``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmark:{} -->", "<!-- end benchmark:{} -->"
Rows = list[dict[str, Any]]


def _motion(args: argparse.Namespace, out_dir: Path) -> Rows:
    from head_motion import run_bold

    sizes = {"n_volumes": args.volumes, "n_peer_volumes": args.peer_volumes}
    return run_bold(out_dir, args.peers_python, args.labels, **sizes)


def _dwi_motion(args: argparse.Namespace, out_dir: Path) -> Rows:
    from head_motion import run_dwi

    sizes = {"n_volumes": args.dwi_volumes, "n_peer_volumes": args.peer_volumes}
    return run_dwi(out_dir, args.peers_python, args.labels, **sizes)


def _registration(args: argparse.Namespace, out_dir: Path) -> Rows:
    try:
        step = importlib.import_module("registration_warp")
    except ModuleNotFoundError as error:
        print(f"SKIPPED registration: {error}")
        return []
    rows: Rows = step.run(out_dir, args.peers_python)
    return rows


STEPS: dict[str, Callable[[argparse.Namespace, Path], Rows]] = {
    "motion": _motion,
    "dwi-motion": _dwi_motion,
    "registration": _registration,
}


def table(rows: Rows, own: str = "pds-bids") -> str:
    """Return rows as Markdown; the last column is CPU time (per item) over that of pds-bids."""
    lines = [
        "| case | tool | n | error | p95 | same items | unit | CPU s | each | wall s | peak MB | CPU ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = {row["case"]: row["cpu_s"] / row.get("n", 1) for row in rows if row["tool"] == own}
    for row in rows:
        per_item = row["cpu_s"] / row.get("n", 1)
        ratio = f"{per_item / base[row['case']]:.1f}" if row["case"] in base and row["tool"] != "none" else ""
        more = [f"{row[key]:.3f}" if key in row else "" for key in ("error_p95", "error_same")]
        cells = [row["case"], row["tool"], row.get("n", 1), f"{row['error']:.3f}", *more, row["unit"]]
        cells += [
            f"{row['cpu_s']:.1f}",
            f"{per_item:.3f}",
            f"{row['wall_s']:.1f}",
            f"{row['peak_mb']:.0f}",
            ratio,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write_between(path: Path, step: str, text: str) -> None:
    """Replace what stands between the markers of a step, or append it."""
    begin, end = BEGIN.format(step), END.format(step)
    content = path.read_text() if path.exists() else "# Benchmarks\n"
    block = f"{begin}\n{text}\n{end}"
    if begin in content:
        before, rest = content.split(begin, 1)
        content = before + block + rest.split(end, 1)[1]
    else:
        content = f"{content.rstrip()}\n\n## {step}\n\n{block}\n"
    path.write_text(content)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--peers-python", metavar="PATH", help="Python of an environment with antspyx")
    parser.add_argument("--labels", type=Path, default=os.environ.get("PDS_LABELS"), metavar="DIR")
    parser.add_argument("--volumes", type=int, default=200, help="length of BOLD")
    parser.add_argument("--dwi-volumes", type=int, default=65, help="length of DWI")
    parser.add_argument("--peer-volumes", type=int, default=10**6, help="shorten the series for slow peers")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep phantoms and anatomies here")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Markdown file that gets the tables")
    args = parser.parse_args(argv)
    args.labels = Path(args.labels) if args.labels else None
    command = "python benchmarks/preprocessing.py " + " ".join(
        Path(word).name if Path(word).is_absolute() else word for word in (argv or sys.argv[1:])
    )
    with tempfile.TemporaryDirectory(prefix="pds-bids-benchmark-") as scratch:
        out_dir = args.out or Path(scratch)
        for step in args.steps:
            rows = STEPS[step](args, out_dir)
            if not rows:
                continue
            day = dt.datetime.now(dt.UTC).date()
            where = f"{day}, {platform.machine()}, {os.cpu_count()} cores, one thread each"
            text = f"{where}: `{command}`\n\n{table(rows)}"
            print(text, flush=True)
            if args.write:
                write_between(args.write, step, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
