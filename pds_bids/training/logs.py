"""Lightning loggers of a training."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from pds_bids.exceptions import UsageError

__all__ = ["TableLogger", "append_row", "forget_rows", "tensorboard"]


class TableLogger(Logger):
    """One CSV file per kind of row, to which a resumed training appends; Lightning's own starts anew.

    Metrics whose names start with ``validation/`` go into ``validation.csv``; others into ``losses.csv``, or
    into ``losses-<stage>.csv`` where there are several stages, whose losses differ.

    Parameters
    ----------
    folder : Path
        Made when missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.table = "losses"

    @property
    def name(self) -> str:
        """Nothing: files lie in the folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Nothing, as for the name."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Leave it to the record of the run."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row."""
        self.folder.mkdir(parents=True, exist_ok=True)
        is_validation = all(name.startswith("validation/") for name in metrics)
        table = "validation" if is_validation else self.table
        row = {name.removeprefix("validation/"): value for name, value in metrics.items()}
        append_row(self.folder / f"{table}.csv", {"update": step or 0, **row})


def tensorboard(folder: Path) -> list[Logger]:
    """Return a TensorBoard logger.

    Raises
    ------
    UsageError
        If TensorBoard is not installed.
    """
    try:
        return [TensorBoardLogger(save_dir=folder, name="tensorboard", version="")]
    except ModuleNotFoundError as error:
        raise UsageError(
            "--tensorboard: the package is not installed; pip install tensorboard, or leave the option out"
        ) from error


def forget_rows(path: Path, last_update: int) -> None:
    """Drop the rows of updates after `last_update`, which a resumed training makes again."""
    if path.exists() and path.stat().st_size:
        header, *rows = path.read_text().splitlines(keepends=True)
        # A process that was killed may have left half a row.
        whole = [row for row in rows if row.endswith("\n")]
        kept = [row for row in whole if int(row.split(",")[0]) <= last_update]
        path.write_text(header + "".join(kept))


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a line to a CSV file, with a header when the file is new."""
    is_new = not path.exists() or not path.stat().st_size
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
