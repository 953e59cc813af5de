"""Build the graph, run it, and say what became of every session."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline import engine as pe
from nipype.pipeline.engine.utils import generate_expanded_graph

from pds_bids.cli.gpu import GpuMemory
from pds_bids.cli.progress import Progress
from pds_bids.config import RunConfig
from pds_bids.devices import visible_gpus
from pds_bids.exceptions import UsageError
from pds_bids.options import Device
from pds_bids.plan import Action, Plan
from pds_bids.workflows.base import init_pds_bids_wf
from pds_bids.workflows.plugin import make_plugin

__all__ = ["Outcome", "execute", "write_graph"]

LOGGER = logging.getLogger("pds_bids.cli")


@dataclass(frozen=True)
class Outcome:
    """What the graph did.

    Parameters
    ----------
    failed : frozenset of str
        Names of session workflows with a failed or unreached node.
    executed : int
        Nodes that ran or were found in the cache.
    """

    failed: frozenset[str] = field(default_factory=frozenset)
    executed: int = 0


def execute(plan: Plan, config: RunConfig) -> Outcome:
    """Run every session of the plan whose action is ``run``.

    Parameters
    ----------
    plan : Plan
        What to do.
    config : RunConfig
        Options.

    Returns
    -------
    Outcome
        An error in one session does not stop the others, unless ``stop_on_first_crash`` is set.

    Raises
    ------
    UsageError
        If the file of ``--use-plugin`` cannot be read.
    """
    names = [session.name for session in plan.sessions if session.action is Action.RUN]
    if not names:
        return Outcome()
    _configure_nipype(config)
    workflow = init_pds_bids_wf(plan, config)
    if config.write_graph:
        write_graph(workflow, config.output_dir / "logs" / config.run_uuid)
    n_gpus = 0 if config.device is Device.CPU else len(visible_gpus())
    progress = Progress(_steps(workflow, names), gpu_memory=GpuMemory() if n_gpus else None)
    plugin, arguments = make_plugin(
        nprocs=config.nprocs,
        memory_gb=(config.mem_mb or 0) / 1024,
        n_gpu_procs=n_gpus,
        status_callback=progress,
        overrides=_read_plugin_file(config.use_plugin),
    )
    stopped = None
    try:
        workflow.run(plugin=plugin, plugin_args=arguments)
    except Exception as error:  # noqa: BLE001 - Nipype raises whatever a node raised; the crash files have it
        LOGGER.info("the graph ended with an error: %s", error)
        stopped = error
    finally:
        progress.close()
    failed = progress.unfinished() if stopped is not None else frozenset()
    return Outcome(failed=failed, executed=progress.executed)


def write_graph(workflow: pe.Workflow, folder: Path) -> None:
    """Write the graph as ``graph.dot``, and as a picture where Graphviz is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        workflow.write_graph(dotfilename=str(folder / "graph.dot"), graph2use="colored", simple_form=True)
    except OSError:
        LOGGER.warning("Graphviz (`dot`) is not installed: %s has the graph, but no picture of it", folder)


def _steps(workflow: pe.Workflow, names: list[str]) -> dict[str, list[str]]:
    """Return the nodes of each session that will run; identity nodes are gone by then."""
    steps: dict[str, list[str]] = {name: [] for name in names}
    for node in generate_expanded_graph(workflow._create_flat_graph()).nodes():
        for name in steps.keys() & set(node.fullname.split(".")):
            steps[name].append(node.name)
    return steps


def _configure_nipype(config: RunConfig) -> None:
    settings: dict[str, dict[str, object]] = {
        "execution": {
            "crashfile_format": "txt",
            "stop_on_first_crash": config.stop_on_first_crash,
            # Nodes take seconds; Nipype's own two seconds between looks would double a run.
            "poll_sleep_duration": 0.1,
            "check_version": False,
            "create_report": False,
            "remove_unnecessary_outputs": False,
            # A node of another run with other settings must not be mistaken for this one's.
            "stop_on_first_rerun": False,
        },
        "monitoring": {"enabled": config.resource_monitor},
    }
    nipype_config.update_config(
        {section: {k: str(v) for k, v in d.items()} for section, d in settings.items()}
    )
    nipype_logging.update_logging(nipype_config)


def _read_plugin_file(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        overrides = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"--use-plugin {path}: not a readable YAML file ({error})") from error
    if not isinstance(overrides, dict) or not set(overrides) <= {"plugin", "plugin_args"}:
        raise UsageError(f"--use-plugin {path}: expected the keys `plugin` and `plugin_args`, as in Nipype")
    return overrides
