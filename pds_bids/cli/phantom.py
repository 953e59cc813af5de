"""``pds-bids-phantom``: write a BIDS dataset of simulated people."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pds_bids import __version__
from pds_bids.exceptions import PDSError

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``pds-bids-phantom``."""
    parser = argparse.ArgumentParser(
        prog="pds-bids-phantom",
        description="Write a BIDS dataset of simulated people: BOLD, DWI and T1w from the same tissues.",
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT", help="new or empty folder")
    parser.add_argument(
        "--participants", type=int, default=2, metavar="N", help="how many people (default: 2)"
    )
    parser.add_argument("--sessions", type=int, default=1, metavar="S", help="sessions of each (default: 1)")
    parser.add_argument(
        "--missing",
        default="none",
        metavar="WHAT",
        help="modality that is left out: none, bold, dwi, random, or a comma list that participants take "
        "turns in, for example dwi,bold (default: none)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        default=os.environ.get("PDS_LABELS") or None,
        metavar="DIR",
        help="whole-head label maps with FreeSurfer numbers (default: the folder in PDS_LABELS; without "
        "one, the template's head)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="INT", help="the same seed writes the same bytes"
    )
    parser.add_argument(
        "--bold-volumes", type=int, default=40, metavar="N", help="length of BOLD (default: 40)"
    )
    parser.add_argument(
        "--dwi-directions", type=int, default=30, metavar="N", help="directions at b = 1000 (default: 30)"
    )
    parser.add_argument(
        "--voxel-size-mm", type=float, default=3.0, metavar="MM", help="in plane (default: 3)"
    )
    parser.add_argument("--no-t1w", action="store_true", help="write no T1w images")
    parser.add_argument(
        "--truth", type=Path, metavar="DIR", help="write motion, pose, warp, tissue and tensor maps there"
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where anatomies are kept between calls (default: nowhere)",
    )
    parser.add_argument("-v", "--version", action="version", version=f"pds-bids-phantom {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="pds-bids-phantom-") as scratch:
            names = _write(args, args.cache_dir or Path(scratch))
    except PDSError as error:
        print(f"pds-bids-phantom: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{args.out_dir}: {len(names)} simulated participants, seed {args.seed}")
    return 0


def _write(args: argparse.Namespace, cache_dir: Path) -> list[str]:
    """Write the cohort; imports are late so that ``--help`` is quick."""
    from pds_bids.phantom.cohort import CohortOptions, write_cohort
    from pds_bids.template import RES02_GRID, get_template, load_template

    options = CohortOptions(
        participants=args.participants,
        sessions=args.sessions,
        missing=args.missing,
        seed=args.seed,
        bold_volumes=args.bold_volumes,
        dwi_directions=args.dwi_directions,
        voxel_size_mm=args.voxel_size_mm,
        with_t1w=not args.no_t1w,
    )
    template = load_template(get_template(cache_dir), RES02_GRID)
    return write_cohort(
        args.out_dir,
        template,
        options,
        cache_dir=cache_dir,
        label_dir=args.labels,
        truth_dir=args.truth,
    )


if __name__ == "__main__":
    sys.exit(main())
