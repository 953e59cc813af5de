"""What the options of every group share: defaults from `RunConfig`, choices by name, files that exist."""

import argparse
import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Any

from pds_bids.config import RunConfig

__all__ = ["default_of", "existing_file", "values_of"]


def default_of(option: str) -> Any:
    """Return the default of an option of `RunConfig`."""
    return next(field.default for field in dataclasses.fields(RunConfig) if field.name == option)


def values_of(options: type[StrEnum]) -> list[str]:
    """Return the members as plain strings, which argparse shows as they are written."""
    return [member.value for member in options]


def existing_file(text: str) -> Path:
    """Read the path of a file.

    Raises
    ------
    ArgumentTypeError
        If it is not there.
    """
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path
