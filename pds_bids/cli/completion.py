"""What is already done: a record per session, written last, so that a second run repeats nothing.

The record holds a fingerprint of everything that decides the images (options, weights, version, input
files) and the size of every output. A session whose record matches is not touched; anything else is computed
again, from Nipype's cache where the work folder is still there.
"""

import hashlib
import json
from pathlib import Path

from pds_bids import __version__
from pds_bids.bids.write import write_json
from pds_bids.config import RunConfig
from pds_bids.inference.card import checked_weights_sha256, default_model_dir
from pds_bids.plan import SessionPlan

__all__ = ["is_done", "record_done"]


def is_done(session: SessionPlan, config: RunConfig) -> str:
    """Return why a session need not run again; empty when its record or its outputs do not agree."""
    try:
        record = json.loads(_record_path(session, config).read_text())
    except (OSError, ValueError):
        return ""
    sizes = record.get("outputs", {})
    intact = sizes and all(_size(config.output_dir / path) == size for path, size in sizes.items())
    if not intact or record.get("fingerprint") != fingerprint(session, config):
        return ""
    return "finished by an earlier run with the same settings"


def record_done(session: SessionPlan, config: RunConfig, outputs: list[Path]) -> None:
    """Write the record of a finished session.

    Parameters
    ----------
    session : SessionPlan
        What was done.
    config : RunConfig
        With which options.
    outputs : list of Path
        Files below the output folder, all of which exist.
    """
    sizes = {str(path.relative_to(config.output_dir)): path.stat().st_size for path in sorted(outputs)}
    record = {"fingerprint": fingerprint(session, config), "version": __version__, "outputs": sizes}
    path = _record_path(session, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def fingerprint(session: SessionPlan, config: RunConfig) -> str:
    """Hash everything that decides the images of a session."""
    parts = {
        "options": config.fingerprint(),
        "spaces": config.output_spaces,
        "version": __version__,
        "weights": checked_weights_sha256(config.model_dir or default_model_dir(config.method)),
        "directions": [str(direction) for direction in session.directions],
        "inputs": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in session.sources()],
        "metadata": [series.metadata for series in (session.bold, session.dwi) if series is not None],
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _record_path(session: SessionPlan, config: RunConfig) -> Path:
    stem = session.label.replace(" ", "_")
    return config.output_dir / f"sub-{session.participant}" / "log" / f"{stem}_completed.json"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
