"""How the graph runs: Nipype's MultiProc, made safe against workers that the system kills."""

import gc
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import numpy as np
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node

__all__ = ["RobustMultiProc", "make_plugin"]

#: Longest time without a look at the queue.
LONGEST_WAIT_S = 10.0


class RobustMultiProc(MultiProcPlugin):
    """MultiProc that reports a dead worker as a failed node and goes on with the others.

    Nipype asks the future for its result inside a callback; when the system has killed the worker (usually
    for want of memory) that raises where nobody listens, and the run waits for ever.
    """

    pool: ProcessPoolExecutor

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run the graph.

        Nipype collects garbage before every node. With the 4,000 nodes of 60 people each collection looks at
        millions of objects, half a second that no worker uses: what is there now is kept out of it.
        """
        gc.collect()
        gc.freeze()
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            gc.unfreeze()

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Submit what can run, then sleep until something ends.

        Nipype looks at the whole graph ten times a second; with thousands of nodes that is half a CPU.
        """
        before = self._n_finished()
        super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        # A node that was found in the cache or ran here may have made others ready.
        if self.pending_tasks and self._n_finished() == before:
            futures = [self._task_obj[taskid] for taskid, _ in self.pending_tasks]
            wait(futures, timeout=LONGEST_WAIT_S, return_when=FIRST_COMPLETED)

    def _sort_jobs(self, jobids: Sequence[int], scheduler: str | None = "tsort") -> Sequence[int]:
        """Put the first sessions first: an interrupted run then has some complete, instead of none."""
        if scheduler == "mem_thread":
            return super()._sort_jobs(jobids, scheduler=scheduler)

        def turn(job: int) -> tuple[int, str, int]:
            """Return what is sorted by: what all sessions wait for (the template) comes before them."""
            names = self.procs[job].fullname.split(".")
            return min(len(names), 3), names[1] if len(names) > 1 else "", job

        return sorted(jobids, key=turn)

    def _n_finished(self) -> int:
        return int(np.sum(self.proc_done & ~self.proc_pending))

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        try:
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        except BrokenProcessPool:
            self.pool = ProcessPoolExecutor(
                max_workers=self.processors,
                initializer=process_initializer,
                initargs=(self._cwd,),
                mp_context=multiprocessing.get_context(self.plugin_args.get("mp_context")),
            )
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        future.add_done_callback(partial(self._finished, self._taskid))
        self._task_obj[self._taskid] = future
        return self._taskid

    def _finished(self, taskid: int, future: Future) -> None:
        error = future.exception()
        if error is None:
            self._taskresult[taskid] = future.result()
            return
        if isinstance(error, BrokenProcessPool):
            hint = "a worker process died, most often for want of memory; lower --nprocs or find more memory"
            error = BrokenProcessPool(hint).with_traceback(error.__traceback__)
        text = traceback.format_exception(error)
        self._taskresult[taskid] = {"result": None, "traceback": text, "taskid": taskid}


def make_plugin(
    *,
    nprocs: int,
    memory_gb: float,
    n_gpu_procs: int,
    status_callback: Callable[[Any, str], None] | None,
    overrides: dict[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the Nipype plugin and its arguments.

    Parameters
    ----------
    nprocs : int
        Processes at a time.
    memory_gb : float
        Memory that all nodes together may claim.
    n_gpu_procs : int
        Nodes at a time on the GPUs.
    status_callback : callable or None
        Called with the node and ``start``, ``end`` or ``exception``.
    overrides : dict, optional
        Content of the file of ``--use-plugin``: ``plugin`` and ``plugin_args``.

    Returns
    -------
    plugin : RobustMultiProc or str
        What ``Workflow.run(plugin=...)`` takes.
    plugin_args : dict
        Its arguments.
    """
    arguments: dict[str, Any] = {
        "n_procs": nprocs,
        "memory_gb": memory_gb,
        "n_gpu_procs": n_gpu_procs,
        # An estimate above the limit runs alone instead of stopping the whole cohort.
        "raise_insufficient": False,
        # Never fork: a forked worker inherits locks of OpenMP, ITK and CUDA.
        "mp_context": "forkserver",
    }
    if status_callback is not None:
        arguments["status_callback"] = status_callback
    overrides = overrides or {}
    arguments |= overrides.get("plugin_args", {})
    name = overrides.get("plugin", "MultiProc")
    return (RobustMultiProc(plugin_args=arguments) if name == "MultiProc" else name), arguments
