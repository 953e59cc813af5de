"""From the command line to a `RunConfig`; imports nothing heavy, so that ``--help`` is instant."""

import argparse
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pds_bids import __version__
from pds_bids.cli.arguments import default_of, existing_file, values_of
from pds_bids.cli.group_options import add_group
from pds_bids.cli.train_options import add_training
from pds_bids.config import RunConfig
from pds_bids.devices import available_memory_mb
from pds_bids.exceptions import UsageError
from pds_bids.inference.card import SHIPPED, shipped_bundle
from pds_bids.options import (
    DERIVATIVES,
    METHODS,
    OUTPUT_SPACES,
    AnalysisLevel,
    DenoiseMethod,
    Device,
    EchoCombination,
    Ignore,
    Runs,
    SegmentScheme,
    Synthesize,
    UnringingMethod,
)
from pds_bids.options_file import options_from_toml

__all__ = ["build_parser", "parse_args"]

LOGGER = logging.getLogger("pds_bids.cli")

MODEL_DIR_VARIABLE = "PDS_BIDS_MODEL_DIR"
MEGABYTES = {"K": 1e-3, "M": 1.0, "G": 1e3, "T": 1e6}
EPILOG = """\
Every option can be written with underscores in place of hyphens.
Exit codes: 0 all done; 1 some session failed, the others are complete; 2 usage; 16 the input is not BIDS;
18 nothing is left to process; 70 internal error; 75 the device asked for is not there.
"""


def parse_args(argv: Sequence[str] | None = None) -> RunConfig:
    """Read the command line; options of ``--config-file`` hold where the command line is silent.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None for those of the process.

    Returns
    -------
    RunConfig
        Validated options.

    Raises
    ------
    SystemExit
        With code 2 and a message after a usage error; with code 0 after ``--help`` and ``--version``.
    """
    parser = build_parser()
    given = vars(parser.parse_args(_with_hyphens(argv)))
    options: dict[str, Any] = {}
    if os.environ.get(MODEL_DIR_VARIABLE):
        options["model_dir"] = _bundle(os.environ[MODEL_DIR_VARIABLE])
    try:
        config_file = given.pop("config_file", None)
        if config_file is not None:
            options |= options_from_toml(config_file.read_text(encoding="utf-8"))
            # A run that repeats another one's options is still another run.
            options.pop("run_uuid", None)
        config = RunConfig(**(options | given))
        _check_folders(config)
    except (UsageError, UnicodeDecodeError) as error:
        parser.error(str(error))
    if "mem_mb" in given and given["mem_mb"] > available_memory_mb():
        LOGGER.warning(
            "--mem-mb %d is more than the %d MB that this machine or container has",
            given["mem_mb"],
            available_memory_mb(),
        )
    return config


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options that are not given leave no trace, the defaults are those of `RunConfig`."""
    parser = argparse.ArgumentParser(
        prog="pds-bids",
        description="Synthesise the missing one of BOLD and diffusion MRI in every session of a dataset.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=Path, help="folder of a BIDS dataset; never written to")
    parser.add_argument("output_dir", type=Path, help="folder of the derivative dataset to write")
    parser.add_argument(
        "analysis_level",
        choices=values_of(AnalysisLevel),
        help="participant: preprocess and synthesise; group: gather the outputs of all participants, "
        "fidelity and diagnosis; train: fit a method to people who have both modalities",
    )
    parser.add_argument("--version", action="version", version=f"pds-bids {__version__}")
    _add_selection(parser.add_argument_group("Options to select and check the input"))
    _add_synthesis(parser.add_argument_group("Options of the synthesis"))
    _add_preprocessing(parser.add_argument_group("Options of the preprocessing"))
    add_group(parser.add_argument_group("Options of the level group"))
    add_training(parser.add_argument_group("Options of the level train"))
    _add_performance(parser.add_argument_group("Options to handle performance"))
    _add_modes(parser.add_argument_group("Options to do less"))
    _add_other(parser.add_argument_group("Other options"))
    return parser


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--participant-label",
        nargs="+",
        type=_label("sub"),
        metavar="LABEL",
        help="participants to process, with or without sub- (default: all)",
    )
    group.add_argument(
        "--session-label",
        "--session-id",
        nargs="+",
        type=_label("ses"),
        metavar="LABEL",
        help="sessions to process, with or without ses- (default: all); T1w may come from another one",
    )
    group.add_argument(
        "-t",
        "--task-id",
        nargs="+",
        type=_label("task"),
        metavar="TASK",
        help="tasks whose BOLD series may be read, with or without task- (default: all)",
    )
    group.add_argument(
        "--bids-filter-file",
        type=existing_file,
        metavar="FILE",
        help='JSON file of PyBIDS filters for bold, dwi and t1w: {"bold": {"run": 2}, "t1w": {"acquisition": '
        'null}}; null means that a name lacks the entity, "*" that it has it',
    )
    group.add_argument(
        "--bids-database-dir",
        type=Path,
        metavar="DIR",
        help="folder to keep the index of the dataset in between runs; made when it is not there "
        "(default: index the selected participants in memory)",
    )
    group.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        metavar="PACKAGE=PATH",
        help="outputs of other packages that replace the steps they cover (reference, mask, head motion, "
        f"registration, preprocessed series); packages: {', '.join(DERIVATIVES)}. A series that is not "
        "there fails its session, with a list of what was looked for and found",
    )
    group.add_argument(
        "--runs",
        choices=values_of(Runs),
        help="when a session has several runs of a modality: read the one with the most volumes, average all "
        f"that differ in run- only, or synthesise from each on its own (default: {default_of('runs')})",
    )
    group.add_argument(
        "--skip-bids-validation",
        "--skip-bids-validator",
        action="store_true",
        help="do not run the BIDS validator on the input",
    )


def _add_synthesis(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--synthesize",
        choices=values_of(Synthesize),
        help="what to synthesise: the modality that a session is missing, or one or both whether they were "
        f"acquired or not, to compare (default: {default_of('synthesize')})",
    )
    group.add_argument(
        "--output-spaces",
        nargs="+",
        metavar="SPACE",
        help="grids to write images on; the network has one grid, so the choice is between "
        f"{' and '.join(OUTPUT_SPACES)} (default: both)",
    )
    group.add_argument(
        "--n-segments",
        type=int,
        metavar="N",
        help="segments to cut the time or gradient axis into; short series get fewer "
        f"(default: {default_of('n_segments')})",
    )
    group.add_argument(
        "--segment-scheme",
        choices=values_of(SegmentScheme),
        help="how gradient directions go to segments: each segment gets a like spread of directions, or "
        f"in the order of acquisition (default: {default_of('segment_scheme')})",
    )
    group.add_argument(
        "--method", choices=METHODS, help=f"synthesis method (default: {default_of('method')})"
    )
    group.add_argument(
        "--model-dir",
        "--weights",
        type=_bundle,
        metavar="NAME|DIR",
        help="model bundle: a folder, or the name of one of the package: default, or small for slow machines "
        f"(default: ${MODEL_DIR_VARIABLE}, or else that of the package for the method)",
    )
    group.add_argument(
        "--random-seed",
        type=int,
        metavar="SEED",
        help="master seed; every random draw derives its own seed from it by name, so that neither order nor "
        f"number of processes changes an image (default: {default_of('random_seed')})",
    )


def _add_preprocessing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dummy-scans",
        type=int,
        metavar="N",
        help="volumes to drop at the start of every BOLD series (default: detect the non-steady state)",
    )
    group.add_argument(
        "--fd-spike-threshold",
        type=float,
        metavar="MM",
        help="framewise displacement above which a volume is left out of averages "
        f"(default: {default_of('fd_spike_threshold')})",
    )
    group.add_argument(
        "--combine-echoes",
        choices=values_of(EchoCombination),
        help="multi-echo BOLD: weight echoes by T2*, average them, or read the one nearest to T2* of grey "
        f"matter (default: {default_of('combine_echoes')})",
    )
    group.add_argument(
        "--denoise-method",
        choices=values_of(DenoiseMethod),
        help="how to denoise diffusion series before anything is interpolated: Marchenko-Pastur PCA or "
        f"Patch2Self (default: {default_of('denoise_method')})",
    )
    group.add_argument(
        "--unringing-method",
        choices=values_of(UnringingMethod),
        help="remove Gibbs ringing from diffusion series; not for images that the scanner interpolated or "
        f"that were acquired with partial Fourier below 7/8 (default: {default_of('unringing_method')})",
    )
    group.add_argument(
        "--ignore",
        nargs="+",
        choices=values_of(Ignore),
        help="what not to use although it is there; fieldmaps: do not correct susceptibility distortion; "
        "eddy: do not correct eddy currents of diffusion gradients",
    )


def _add_performance(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--nprocs",
        "--nthreads",
        "--n-cpus",
        "--n-jobs",
        type=int,
        metavar="N",
        help="CPUs for the whole run (default: all that this process may use)",
    )
    group.add_argument(
        "--omp-nthreads",
        type=int,
        metavar="N",
        help="threads per process (default: one less than --nprocs, from 1 to 8)",
    )
    group.add_argument(
        "--mem-mb",
        "--mem",
        type=_memory_mb,
        metavar="SIZE",
        help="memory for the whole run in MB, or with a suffix K, M, G or T (default: all of the machine or "
        "container)",
    )
    group.add_argument(
        "--device",
        choices=values_of(Device),
        help="where the network runs; cuda fails when there is no GPU, auto takes one when there is one "
        f"(default: {default_of('device')})",
    )
    group.add_argument(
        "--use-plugin",
        "--nipype-plugin-file",
        type=existing_file,
        metavar="FILE",
        help="YAML file with Nipype's plugin and plugin_args (default: MultiProc with --nprocs and --mem-mb)",
    )
    group.add_argument(
        "--resource-monitor",
        action="store_true",
        help="record memory and CPU use of every node",
    )
    group.add_argument(
        "--sloppy",
        action="store_true",
        help="trade quality for speed; for tests only, outputs are marked as such",
    )


def _add_modes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done for every session and why not, then stop; computes nothing and "
        "writes nothing but that plan, into logs/",
    )
    group.add_argument(
        "--reports-only", action="store_true", help="only assemble the reports again, from existing figures"
    )
    group.add_argument(
        "--boilerplate-only", action="store_true", help="only write the description of the methods"
    )


def _add_other(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-w",
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="folder for intermediate files; keep it to resume (default: work in the current folder)",
    )
    group.add_argument(
        "--clean-workdir",
        action="store_true",
        help="delete intermediate files of the sessions of this run if none failed; all else there stays",
    )
    group.add_argument(
        "--config-file",
        type=existing_file,
        metavar="FILE",
        help="TOML file with options, such as the one saved beside the outputs; the command line wins",
    )
    group.add_argument(
        "--stop-on-first-crash",
        action="store_true",
        help="stop at the first failing session instead of completing the others",
    )
    group.add_argument("--write-graph", action="store_true", help="save the workflow graph beside the logs")
    group.add_argument(
        "--notrack", action="store_true", help="accepted and without effect: nothing is ever sent anywhere"
    )
    group.add_argument(
        "-v",
        "--verbose",
        dest="verbose_count",
        action="count",
        help="say more: once what is decided, twice every step of Nipype",
    )


def _bundle(text: str) -> Path:
    """Return the folder of a model bundle; `SHIPPED` names come before folders of that name."""
    return shipped_bundle(text) if text in SHIPPED else Path(text)


def _check_folders(config: RunConfig) -> None:
    folders = {
        f"--model-dir or ${MODEL_DIR_VARIABLE}": config.model_dir,
        "--weights-from": config.weights_from,
    }
    for option, folder in (folders | {"--labels-dir": config.labels_dir}).items():
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{option}: there is no folder {folder}")


def _with_hyphens(argv: Sequence[str] | None) -> list[str] | None:
    """Replace underscores in the names of long options."""
    if argv is None:
        import sys

        argv = sys.argv[1:]
    return [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), argument) for argument in argv]


def _label(prefix: str) -> Any:
    """Return a type that strips a BIDS prefix and checks the rest."""

    def label(text: str) -> str:
        stripped = text.removeprefix(f"{prefix}-")
        if not re.fullmatch(r"[0-9A-Za-z+]+", stripped):
            raise argparse.ArgumentTypeError(f"{text!r} is not a BIDS label: letters and digits only")
        return stripped

    return label


def _memory_mb(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: expected a number with K, M, G or T")
    return int(float(match[1]) * MEGABYTES[match[2] or "M"])
