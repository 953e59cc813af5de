"""Files at the top of the output folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pds_bids.bids.names import bidsignore
from pds_bids.bids.sidecars import (
    INTENDED_USE_WARNING,
    container_from_environment,
    dataset_description,
    descriptions,
)
from pds_bids.bids.write import write_json, write_text, write_tsv
from pds_bids.exceptions import UsageError

__all__ = ["check_output_dir", "write_dataset_files"]

README = f"""\
# Outputs of pds-bids

Files with `desc-synthetic` in their name are **synthetic**. {INTENDED_USE_WARNING}

- `sub-*.html`: one report per participant. Look at it before you use an image.
- `descriptions.tsv`: what the `desc-` labels mean.
- `*_desc-synthetic_boldref`, `*_desc-synthetic_dwiref`: predicted images; `+segments` along time or
  gradients, `+std` their uncertainty.
- `*_qc.json`: quality of registration, and of the prediction where the modality was acquired too.
- `logs/CITATION.md`: a description of the methods.
"""


def check_output_dir(output_dir: Path) -> None:
    """Check that a folder can take the outputs: empty, not there, or written by an earlier run.

    Raises
    ------
    UsageError
        If it is a file or holds another dataset.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"the output folder {output_dir} is a file; name a folder")
    description_file = output_dir / "dataset_description.json"
    if not description_file.exists():
        return
    try:
        generators = json.loads(description_file.read_text(encoding="utf-8")).get("GeneratedBy", [])
        names = [generator.get("Name") for generator in generators]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{description_file} cannot be read ({error}); remove it or name another output folder"
        ) from error
    if "pds-bids" not in names:
        raise UsageError(
            f"the output folder {output_dir} holds another dataset (GeneratedBy: {names or 'nothing'}); "
            "name an empty one"
        )


def write_dataset_files(
    output_dir: Path,
    bids_dir: Path,
    source: Mapping[str, Any],
    derivatives: Mapping[str, Path] | None = None,
) -> None:
    """Write the description, README, labels and ``.bidsignore``; any number of jobs may do so at once.

    Parameters
    ----------
    output_dir : Path
        Output folder.
    bids_dir : Path
        Input dataset.
    source : Mapping
        Its ``dataset_description.json``.
    derivatives : Mapping or None
        Folders of other pipelines that are read, by name.

    Raises
    ------
    UsageError
        If the output folder holds another dataset.
    """
    check_output_dir(output_dir)
    write_text(output_dir / ".bidsignore", bidsignore())
    write_json(
        output_dir / "dataset_description.json",
        dataset_description(bids_dir, source, container_from_environment(), derivatives),
    )
    write_tsv(output_dir / "descriptions.tsv", ("desc_id", "description"), descriptions())
    write_text(output_dir / "README.md", README)
