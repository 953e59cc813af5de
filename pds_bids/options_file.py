"""Options of a run as a TOML file, and back; what they mean is a matter of `pds_bids.config`."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pds_bids import __version__
from pds_bids.exceptions import UsageError

__all__ = ["options_from_toml", "options_to_toml"]

# Where each option stands in the TOML file.
SECTIONS: dict[str, tuple[str, ...]] = {
    "environment": ("run_uuid",),
    "execution": (
        "bids_dir",
        "output_dir",
        "analysis_level",
        "participant_label",
        "session_label",
        "task_id",
        "bids_filter_file",
        "bids_database_dir",
        "derivatives",
        "skip_bids_validation",
        "reports_only",
        "boilerplate_only",
        "dry_run",
        "stop_on_first_crash",
        "write_graph",
        "resource_monitor",
        "notrack",
        "work_dir",
        "clean_workdir",
        "verbose_count",
    ),
    "workflow": (
        "synthesize",
        "output_spaces",
        "dummy_scans",
        "fd_spike_threshold",
        "n_segments",
        "segment_scheme",
        "runs",
        "combine_echoes",
        "denoise_method",
        "unringing_method",
        "ignore",
        "sloppy",
    ),
    "model": ("method", "model_dir", "device"),
    "training": (
        "training_data",
        "labels_dir",
        "splits",
        "model_size",
        "max_updates",
        "max_minutes",
        "batch_size",
        "pass_size",
        "learning_rate",
        "precision",
        "validate_every",
        "save_every",
        "weights_from",
        "perceptual_weights",
        "allow_download",
        "resume",
        "devices",
        "tensorboard",
    ),
    "group": (
        "atlas",
        "group_column",
        "covariates",
        "person_column",
        "family_column",
        "exclude_rejected",
        "regions",
        "classifiers",
        "n_folds",
        "permutations",
    ),
    "seeds": ("random_seed",),
    "nipype": ("nprocs", "omp_nthreads", "mem_mb", "use_plugin"),
}


def options_to_toml(options: Mapping[str, Any]) -> str:
    """Return options as TOML, one table per section; options that are None are left out."""
    tables = {section: [f"[{section}]"] for section in SECTIONS}
    tables["environment"].append(f"version = {json.dumps(__version__)}")
    section_of = {name: section for section, names in SECTIONS.items() for name in names}
    for name, value in options.items():
        if value is not None:
            tables[section_of[name]].append(f"{name} = {_toml_value(value)}")
    return "\n\n".join("\n".join(lines) for lines in tables.values()) + "\n"


def options_from_toml(text: str) -> dict[str, Any]:
    """Read the options of a TOML file without filling in defaults.

    Raises
    ------
    UsageError
        If the text is not TOML or names an option that does not exist.
    """
    try:
        sections = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the configuration file is not TOML: {error}") from error
    options: dict[str, Any] = {}
    for section, table in sections.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"the configuration file has {section!r} outside of a section like [workflow]")
        for name, value in table.items():
            if section == "environment" and name == "version":
                continue
            if name not in SECTIONS.get(section, ()):
                raise UsageError(f"the configuration file has an unknown option {name!r} in [{section}]")
            options[name] = value
    return options


def _toml_value(value: Any) -> str:
    """Return one value as TOML; JSON strings, numbers and arrays of strings are TOML too."""
    if isinstance(value, tuple):
        return json.dumps(list(value))
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value)
