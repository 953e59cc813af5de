"""The page of a cohort from plain values; what it shows is computed in `pds_bids.group`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pds_bids import __version__
from pds_bids.bids.write import write_text
from pds_bids.reports.assemble import page_environment

__all__ = ["write_group_page"]


def write_group_page(output_dir: Path, view: Mapping[str, Any]) -> Path:
    """Render ``group.html``.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    view : mapping
        Values of the template ``group.html.j2``.

    Returns
    -------
    Path
        The page, complete.
    """
    page = output_dir / "group.html"
    write_text(page, page_environment().get_template("group.html.j2").render(version=__version__, **view))
    return page
