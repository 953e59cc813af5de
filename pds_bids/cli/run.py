"""``pds-bids``: from the command line to an exit code."""

import logging
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pds_bids.cli.environment import prepare_environment
from pds_bids.cli.parser import parse_args
from pds_bids.cli.validate import check_device
from pds_bids.config import RunConfig
from pds_bids.exceptions import PDSError
from pds_bids.options import AnalysisLevel

if TYPE_CHECKING:
    from pds_bids.plan import Plan

__all__ = ["main"]

LOGGER = logging.getLogger("pds_bids.cli")
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0 everything asked for is there; 1 a session failed, the others are complete; 2 usage; 16 not a BIDS
        dataset; 18 nothing selected; 70 an error of the program; 75 a device that is not there.
    """
    try:
        return _run(parse_args(argv))
    except PDSError as error:
        print(f"pds-bids: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pds-bids: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - the last resort: say that it is our fault, with the traceback
        traceback.print_exc()
        print(
            "pds-bids: error of the program, not of your data; please report the text above", file=sys.stderr
        )
        return EXIT_INTERNAL


def _run(config: RunConfig) -> int:
    levels = {0: logging.WARNING, 1: logging.INFO}
    logging.basicConfig(
        level=levels.get(config.verbose_count, logging.DEBUG), format="%(asctime)s %(name)s: %(message)s"
    )
    if config.reports_only:
        from pds_bids.cli.finish import rebuild_reports  # late: nipype

        # Neither the input nor a work folder is needed for that.
        return rebuild_reports(config)
    prepare_environment(config.work_dir, config.omp_nthreads or 1, verbosity=config.verbose_count)
    check_device(config.device)
    if config.analysis_level is AnalysisLevel.TRAIN:
        from pds_bids.cli.train import run_training  # late: torch and Lightning

        return run_training(config, preprocess=_participants)
    if config.analysis_level is AnalysisLevel.GROUP:
        from pds_bids.cli.group import run_group  # late: pandas and scikit-learn

        return run_group(config)
    return _participants(config)


def _participants(config: RunConfig) -> int:
    """Preprocess and synthesise; return the exit code."""
    from pds_bids.bids.dataset import check_output_dir  # late: pybids and pandas
    from pds_bids.bids.layout import check_dataset, select_participants
    from pds_bids.cli.completion import is_done
    from pds_bids.plan import Action
    from pds_bids.planning import make_plan

    check_dataset(config.bids_dir)
    check_output_dir(config.output_dir)
    participants = select_participants(config.bids_dir, config.participant_label)
    plan = make_plan(config, _validate(config, participants))
    plan = plan.with_done(lambda session: is_done(session, config))
    print(plan.table(), flush=True)
    if config.dry_run:
        path = config.output_dir / "logs" / "plan.json"
        plan.save(path)
        print(f"The plan is in {path}; nothing was computed.")
        return 0
    if all(session.action is Action.SKIP for session in plan.sessions):
        print("Nothing is missing, so nothing was synthesised.")
        return 0
    return _process(plan, config)


def _process(plan: "Plan", config: RunConfig) -> int:
    from pds_bids.cli.execute import execute  # late: nipype
    from pds_bids.cli.finish import begin, finish, write_methods
    from pds_bids.inference.card import checked_weights_sha256, default_model_dir
    from pds_bids.plan import Action
    from pds_bids.workflows.derivatives import required_outputs

    # Before hours of preprocessing, not after them.
    checked_weights_sha256(config.model_dir or default_model_dir(config.method))
    begin(plan, config)
    if config.boilerplate_only:
        write_methods(plan, config)
        print(f"The methods text is in {config.output_dir / 'logs'}; nothing was computed.")
        return 0
    outcome = execute(plan, config)
    missing = {
        session.name: [
            path
            for path in required_outputs(session, config.output_spaces)
            if not (config.output_dir / path).exists()
        ]
        for session in plan.with_action(Action.RUN)
    }
    code = finish(plan, config, outcome.failed, missing)
    if config.clean_workdir and code == 0:
        clean_work_dir(config.work_dir, [session.name for session in plan.with_action(Action.RUN)])
    return code


def clean_work_dir(work_dir: Path, sessions: Sequence[str]) -> None:
    """Delete what sessions have left in a work folder, which may hold work of others and files of the user.

    Parameters
    ----------
    work_dir : Path
        Of this run.
    sessions : sequence of str
        Names of the sessions of this run.
    """
    from pds_bids.workflows.base import WORKFLOW

    for name in sessions:
        shutil.rmtree(work_dir / WORKFLOW / name, ignore_errors=True)


def _validate(config: RunConfig, participants: list[str]) -> list[str]:
    """Return what the BIDS validator finds in the selected participants, unless it is skipped."""
    if config.skip_bids_validation:
        return []
    from pds_bids.bids.validate import validate_dataset

    return [str(finding) for finding in validate_dataset(config.bids_dir, participants)]


if __name__ == "__main__":
    sys.exit(main())
