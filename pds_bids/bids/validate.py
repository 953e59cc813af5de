"""Run the BIDS validator and tell what stops the run from what stops one participant."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pds_bids.exceptions import InvalidBIDSError

__all__ = ["Finding", "validate_dataset"]

LOGGER = logging.getLogger("pds_bids.bids")
EXECUTABLE = "bids-validator-deno"
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One error of the validator.

    Parameters
    ----------
    code : str
        The validator's code, for example ``DWI_MISSING_BVEC``.
    location : str
        File below the dataset, with a leading slash; empty for the dataset as a whole.
    message : str
        The validator's words.
    """

    code: str
    location: str
    message: str = ""

    @property
    def participant(self) -> str | None:
        """Label of the participant whose file it is about; None for the dataset as a whole."""
        first = next(iter(PurePosixPath(self.location.lstrip("/")).parts), "")
        return first[4:] if first.startswith("sub-") and "/" in self.location.lstrip("/") else None

    def __str__(self) -> str:
        return f"{self.location or 'dataset'}: {self.code}" + (f" ({self.message})" if self.message else "")


def validate_dataset(bids_dir: Path, participants: Iterable[str]) -> tuple[Finding, ...]:
    """Validate a dataset.

    Errors about one participant's files are returned, as another participant may be in order; whether they
    matter for what is read is decided by the plan.

    Parameters
    ----------
    bids_dir : Path
        Folder of the dataset.
    participants : iterable of str
        Labels of those that are processed; errors about others are dropped.

    Returns
    -------
    tuple of Finding
        Errors about files of the participants; empty with a warning when the validator cannot be run.

    Raises
    ------
    InvalidBIDSError
        If an error is about the dataset as a whole.
    """
    report = _run_validator(bids_dir)
    if report is None:
        return ()
    messages = report.get("codeMessages", {})
    findings = [
        Finding(
            issue.get("code", "?"),
            issue.get("location", ""),
            str(messages.get(issue.get("code"), "")).split(". ")[0].strip(),
        )
        for issue in report.get("issues", [])
        if issue.get("severity") == "error"
    ]
    of_dataset = [finding for finding in findings if finding.participant is None]
    if of_dataset:
        more = len(of_dataset) - SHOWN
        raise InvalidBIDSError(
            f"{bids_dir} is not valid BIDS: "
            + "; ".join(map(str, of_dataset[:SHOWN]))
            + (f"; and {more} more" if more > 0 else "")
            + f". Run {EXECUTABLE} on it and repair it, name files to ignore in .bidsignore, "
            "or use --skip-bids-validation"
        )
    selected = set(participants)
    own = tuple(finding for finding in findings if finding.participant in selected)
    for finding in own:
        LOGGER.warning("BIDS validator: %s", finding)
    return own


def _run_validator(bids_dir: Path) -> dict[str, Any] | None:
    """Return the validator's issues, or None, with a warning, when there is no report."""
    # The validator belongs to this environment even when the environment is not on the PATH.
    beside = Path(sys.executable).with_name(EXECUTABLE)
    command = str(beside) if beside.exists() else shutil.which(EXECUTABLE)
    if command is None:
        LOGGER.warning("%s is not installed: the input is not validated", EXECUTABLE)
        return None
    run = subprocess.run(
        [command, "--format", "json", "--ignoreWarnings", str(bids_dir)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        return json.loads(run.stdout)["issues"]
    except (ValueError, KeyError, TypeError):
        LOGGER.warning(
            "%s gave no report (exit code %d): the input is not validated. %s",
            EXECUTABLE,
            run.returncode,
            run.stderr.strip()[-500:],
        )
        return None
