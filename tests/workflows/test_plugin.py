"""A worker that dies is a failed node; the rest goes on and the run ends."""

import gc
from itertools import pairwise

import pytest
from nipype import config
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from pds_bids.workflows.plugin import RobustMultiProc, make_plugin


def die():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def doze(after):
    from time import sleep

    sleep(0.7)
    return after


def write(path):
    from pathlib import Path

    Path(path).write_text("done")
    return path


def test_a_killed_worker_does_not_hang_the_run(tmp_path):
    config.set("execution", "poll_sleep_duration", "0.1")
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path)}
    bad = pe.Node(Function(function=die, output_names=["out"]), name="bad")
    good = pe.Node(Function(function=write, input_names=["path"], output_names=["out"]), name="good")
    good.inputs.path = str(tmp_path / "good.txt")
    workflow.add_nodes([bad, good])
    events = []
    plugin, arguments = make_plugin(
        nprocs=1,
        memory_gb=1,
        n_gpu_procs=0,
        status_callback=lambda node, status: events.append((node.name, status)),
    )
    with pytest.raises(Exception, match="worker process died"):
        workflow.run(plugin=plugin, plugin_args=arguments)
    assert ("bad", "exception") in events
    assert ("good", "end") in events
    assert (tmp_path / "good.txt").read_text() == "done"


def test_the_file_of_use_plugin_wins():
    plugin, arguments = make_plugin(
        nprocs=4,
        memory_gb=8,
        n_gpu_procs=0,
        status_callback=None,
        overrides={"plugin": "Linear", "plugin_args": {"n_procs": 1}},
    )
    assert plugin == "Linear"
    assert arguments["n_procs"] == 1
    assert arguments["memory_gb"] == 8


def test_the_manager_sleeps_while_a_worker_works(tmp_path, monkeypatch):
    looks = []
    own = RobustMultiProc._check_resources
    monkeypatch.setattr(
        RobustMultiProc, "_check_resources", lambda self, tasks: looks.append(len(tasks)) or own(self, tasks)
    )
    config.set("execution", "poll_sleep_duration", "0.01")
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    nodes = [
        pe.Node(Function(function=doze, input_names=["after"], output_names=["out"]), name=f"n{k}")
        for k in range(3)
    ]
    nodes[0].inputs.after = 0
    workflow.connect([(one, other, [("out", "after")]) for one, other in pairwise(nodes)])
    plugin, arguments = make_plugin(nprocs=2, memory_gb=1, n_gpu_procs=0, status_callback=None)
    workflow.run(plugin=plugin, plugin_args=arguments)
    # Nipype's own loop looks 200 times in two seconds.
    assert 3 <= len(looks) < 30
    assert gc.get_freeze_count() == 0


def test_sessions_take_turns_after_what_all_wait_for(tmp_path):
    config.set("execution", "poll_sleep_duration", "0.01")
    order = []
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    shared = pe.Node(Function(function=doze, input_names=["after"], output_names=["out"]), name="template")
    shared.inputs.after = 0
    for session in ("sub_01_wf", "sub_02_wf"):
        own = pe.Workflow(name=session)
        steps = [
            pe.Node(Function(function=write, input_names=["path"], output_names=["out"]), name=name)
            for name in ("a", "b")
        ]
        steps[0].inputs.path = str(tmp_path / session)
        own.connect(steps[0], "out", steps[1], "path")
        workflow.add_nodes([own])
    workflow.add_nodes([shared])
    plugin, arguments = make_plugin(
        nprocs=1,
        memory_gb=1,
        n_gpu_procs=0,
        status_callback=lambda node, status: status == "start" and order.append(node.fullname),
    )
    workflow.run(plugin=plugin, plugin_args=arguments)
    names = [f"wf.sub_0{k}_wf.{step}" for k in (1, 2) for step in "ab"]
    assert order == ["wf.template", *names]
