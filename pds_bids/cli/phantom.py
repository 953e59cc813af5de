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
    _add_people(parser.add_argument_group("who is scanned"))
    _add_scans(parser.add_argument_group("what is acquired"))
    _add_run(parser.add_argument_group("how it is written"))
    parser.add_argument("-v", "--version", action="version", version=f"pds-bids-phantom {__version__}")
    return parser


def _add_people(group: argparse._ArgumentGroup) -> None:
    """Add the options on people."""
    group.add_argument(
        "--participants", type=int, default=2, metavar="N", help="how many people (default: 2)"
    )
    group.add_argument("--sessions", type=int, default=1, metavar="S", help="sessions of each (default: 1)")
    group.add_argument(
        "--groups",
        type=_words,
        default=("NC",),
        metavar="LIST",
        help="diagnoses that are dealt out evenly, of NC, MCI and AD, for example NC,MCI,AD (default: NC)",
    )
    group.add_argument(
        "--ages",
        type=_ages,
        default=(55.0, 90.0),
        metavar="LOW-HIGH",
        help="youngest and oldest, in years (default: 55-90)",
    )
    group.add_argument(
        "--shuffle-labels",
        action="store_true",
        help="write the diagnoses in random order: a control cohort with the same images",
    )
    group.add_argument(
        "--labels",
        type=Path,
        default=os.environ.get("PDS_LABELS") or None,
        metavar="DIR",
        help="whole-head label maps with FreeSurfer numbers (default: the folder in PDS_LABELS; without "
        "one, the template's head)",
    )


def _add_scans(group: argparse._ArgumentGroup) -> None:
    """Add the options on acquisitions."""
    group.add_argument(
        "--missing",
        default="none",
        metavar="WHAT",
        help="modality that is left out: none, bold, dwi, random (each for a third of the people), or a "
        "comma list that participants take turns in, for example dwi,bold (default: none)",
    )
    group.add_argument(
        "--sites",
        type=int,
        default=1,
        metavar="N",
        help="scanners with protocols of their own (voxel size, TR, TE, flip angle, b-values, field "
        "strength, noise, coil, phase encoding), dealt out evenly in each group; 1 to 5 (default: 1)",
    )
    group.add_argument(
        "--bold-volumes", type=int, default=40, metavar="N", help="length of BOLD (default: 40)"
    )
    group.add_argument(
        "--dwi-directions",
        type=_counts,
        default=30,
        metavar="N",
        help="directions of every shell, or a comma list with one number for each (default: 30)",
    )
    group.add_argument(
        "--dwi-bvals",
        type=_numbers,
        metavar="LIST",
        help="shells in s/mm^2, for example 1000,2000 (default: those of the site, 1000 for the first)",
    )
    group.add_argument(
        "--opposite-phase-encoding",
        action="store_true",
        help="also write spin-echo volumes of both phase encodings for every series, in fmap/",
    )
    group.add_argument(
        "--motion",
        type=float,
        default=1.0,
        metavar="MM",
        help="slow head motion, mm and degrees (default: 1)",
    )
    group.add_argument(
        "--spikes",
        type=int,
        default=0,
        metavar="N",
        help="volumes per series with a jump of 5 mm (default: 0)",
    )
    group.add_argument("--voxel-size-mm", type=float, default=3.0, metavar="MM", help="in plane (default: 3)")
    group.add_argument("--no-t1w", action="store_true", help="write no T1w images")


def _add_run(group: argparse._ArgumentGroup) -> None:
    """Add the options on the run."""
    group.add_argument(
        "--seed", type=int, default=0, metavar="INT", help="the same seed writes the same bytes (default: 0)"
    )
    group.add_argument(
        "--truth",
        type=Path,
        metavar="DIR",
        help="write there what was planted: pose, warp, tissues, effects, motion, field, tensor, "
        "fluctuations",
    )
    group.add_argument(
        "--nprocs",
        "--n-procs",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        metavar="N",
        help="people who are simulated at a time, about 1 GB each (default: the number of cores)",
    )
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where anatomies are kept between calls (default: nowhere)",
    )
    group.add_argument("--quiet", action="store_true", help="do not report what is done")


def _words(text: str) -> tuple[str, ...]:
    """Read a comma list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[float, ...]:
    """Read a comma list of numbers."""
    return tuple(float(word) for word in _words(text))


def _counts(text: str) -> tuple[int, ...]:
    """Read a comma list of whole numbers."""
    return tuple(int(word) for word in _words(text))


def _ages(text: str) -> tuple[float, float]:
    """Read a range, or one number."""
    low, _, high = text.partition("-")
    return float(low), float(high or low)


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
        groups=args.groups,
        ages_years=args.ages,
        sites=args.sites,
        shuffle_labels=args.shuffle_labels,
        missing=args.missing,
        seed=args.seed,
        bold_volumes=args.bold_volumes,
        dwi_directions=args.dwi_directions,
        dwi_bvals=args.dwi_bvals,
        voxel_size_mm=args.voxel_size_mm,
        with_t1w=not args.no_t1w,
        with_fieldmaps=args.opposite_phase_encoding,
        max_motion=args.motion,
        spikes=args.spikes,
    )
    template = load_template(get_template(cache_dir), RES02_GRID)
    return write_cohort(
        args.out_dir,
        template,
        options,
        cache_dir=cache_dir,
        label_dir=args.labels,
        truth_dir=args.truth,
        n_procs=args.nprocs,
        progress=None if args.quiet else _report,
    )


def _report(line: str) -> None:
    """Say what has been done."""
    print(f"pds-bids-phantom: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
