"""Run one tool on one case in a process of its own, on one thread, and measure what it costs.

As a script this is the child: it loads the case, lets one tool estimate the motion, and saves the maps. It
imports neither pds_bids nor anything else that the tool does not need, so that a peer can live in another
environment (antspyx caps numpy).

    python benchmarks/peers.py TOOL CASE_DIR OUT.npy
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Cost:
    """What a child process took, its start and imports included.

    Parameters
    ----------
    cpu_s : float
        User and system time of the process and its own children, s.
    wall_s : float
        s.
    peak_mb : float
        Largest resident set, MB; of `estimate` only.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float


class ToolError(RuntimeError):
    """A tool that is missing, or failed; the message is its own last line."""


def measure(command: list[str], **environment: str) -> Cost:
    """Run a command on one thread.

    Raises
    ------
    ToolError
        If it ends with another code than 0.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=os.environ | ONE_THREAD | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        message = child.stderr.read().decode(errors="replace")
        # The usage of this child alone; RUSAGE_CHILDREN would sum over all tools so far.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise ToolError((message.strip().splitlines() or [f"exit code {child.returncode}"])[-1])
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / 1024)


def estimate(python: str, tool: str, case_dir: Path, out: Path) -> tuple[np.ndarray, Cost]:
    """Let a tool estimate the motion of a case in a process of its own.

    Returns
    -------
    ref2volume : ndarray
        ``(n, 4, 4)`` RAS+ point maps of the first n volumes.
    cost : Cost
    """
    out.unlink(missing_ok=True)
    cost = measure([python, __file__, tool, str(case_dir), str(out)])
    # What the system reports as the peak of a child starts at the size of its parent.
    peak_mb = int(out.with_suffix(".kb").read_text()) / 1024
    return np.load(out), replace(cost, peak_mb=peak_mb)


@dataclass(frozen=True, eq=False)
class _Input:
    """A case as the child reads it; `series` is a memory map."""

    series: np.ndarray
    vox2ras: np.ndarray
    reference: np.ndarray
    bvals: np.ndarray | None
    bvecs_ras: np.ndarray | None


def _read(case_dir: Path) -> _Input:
    meta = dict(np.load(case_dir / "meta.npz"))
    series = np.load(case_dir / "series.npy", mmap_mode="r")
    return _Input(
        series[..., : int(meta["n_volumes"])],
        meta["vox2ras"],
        meta["reference"],
        meta.get("bvals"),
        meta.get("bvecs_ras"),
    )


def _ours(case: _Input) -> np.ndarray:
    from pds_bids.imaging.dwi import check_gradients
    from pds_bids.imaging.motion import estimate_dwi_motion, estimate_motion

    if case.bvals is None:
        return estimate_motion(case.series, case.vox2ras, case.reference).ref2volume
    table = check_gradients(len(case.bvals), case.bvals, case.bvecs_ras)
    # The phantoms are distorted along A, if they are. Peers know no eddy currents.
    return estimate_dwi_motion(case.series, case.vox2ras, table, phase_axis=1).ref2seen


def _itk_image(volume: np.ndarray, vox2ras: np.ndarray) -> Any:
    """Return a volume as an image of SimpleITK, in LPS."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T, np.float32))
    columns = (FLIP @ vox2ras)[:3]
    zooms = np.linalg.norm(columns[:, :3], axis=0)
    image.SetSpacing(zooms.tolist())
    image.SetOrigin(columns[:, 3].tolist())
    image.SetDirection((columns[:, :3] / zooms).ravel().tolist())
    return image


def _simpleitk(case: _Input) -> np.ndarray:
    """Euler3D from the volume before: mean squares for BOLD, Mattes MI for DWI."""
    import SimpleITK as sitk

    fixed = _itk_image(case.reference, case.vox2ras)
    transform = sitk.Euler3DTransform()
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    transform.SetCenter(centre)
    poses = []
    for k in range(case.series.shape[3]):
        method = sitk.ImageRegistrationMethod()
        if case.bvals is None:
            method.SetMetricAsMeanSquares()
        else:
            method.SetMetricAsMattesMutualInformation(32)
            head = sitk.BinaryDilate(sitk.OtsuThreshold(fixed, 0, 1), [2] * 3)
            method.SetMetricFixedMask(head)
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(0.25, 1)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, 0.6, 1e-8)
        # With scales from physical shift it stops 0.3 to 0.7 mm from the truth.
        method.SetOptimizerScales([625.0] * 3 + [1.0] * 3)
        method.SetShrinkFactorsPerLevel([2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1])
        method.SetInterpolator(sitk.sitkLinear)
        method.SetNumberOfThreads(1)
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(fixed, _itk_image(case.series[..., k], case.vox2ras))
        poses.append(_from_lps(transform.TransformPoint))
    return np.array(poses)


def _ants(case: _Input) -> np.ndarray:
    """`ants.motion_correction` as it comes (BOLDRigid)."""
    import ants

    columns = FLIP @ case.vox2ras
    zooms = np.linalg.norm(columns[:3, :3], axis=0)
    geometry = {"origin": columns[:3, 3].tolist(), "spacing": zooms.tolist()}
    fixed = ants.from_numpy(case.reference.astype(np.float32), direction=columns[:3, :3] / zooms, **geometry)
    direction = np.eye(4)
    direction[:3, :3] = columns[:3, :3] / zooms
    series = ants.from_numpy(
        np.ascontiguousarray(case.series, np.float32),
        origin=[*geometry["origin"], 0.0],
        spacing=[*geometry["spacing"], 1.0],
        direction=direction,
    )
    found = ants.motion_correction(series, fixed=fixed)
    transforms = [ants.read_transform(parts[0]) for parts in found["motion_parameters"]]
    return np.array([_from_lps(t.apply_to_point) for t in transforms])


def _dipy(case: _Input) -> np.ndarray:
    """`dipy.align.motion_correction` without its affine stage, which a rigid head does not need."""
    from dipy.align import motion_correction
    from dipy.core.gradients import gradient_table

    table = gradient_table(case.bvals, bvecs=case.bvecs_ras)
    steps = ["center_of_mass", "translation", "rigid"]
    _, affines = motion_correction(np.asarray(case.series), table, affine=case.vox2ras, pipeline=steps)
    return np.moveaxis(affines, -1, 0)


def _greedy(case: _Input) -> np.ndarray:
    """Rigid picsl-greedy from rest: SSD for BOLD, NMI for DWI."""
    from picsl_greedy import Greedy3D

    metric = "SSD" if case.bvals is None else "NMI"
    fixed = _itk_image(case.reference, case.vox2ras)
    poses = []
    for k in range(case.series.shape[3]):
        greedy = Greedy3D()
        command = f"-i fixed moving -a -dof 6 -n 40x20x10 -m {metric} -ia-identity -o found -threads 1"
        found = {"found": None}
        greedy.execute(command, fixed=fixed, moving=_itk_image(case.series[..., k], case.vox2ras), **found)
        poses.append(np.asarray(greedy["found"]))
    return np.array(poses)


def _rest(case: _Input) -> np.ndarray:
    """No correction."""
    return np.tile(np.eye(4), (case.series.shape[3], 1, 1))


def _from_lps(transform_point) -> np.ndarray:
    """Return the RAS+ matrix of an affine map of LPS+ points."""
    origin = np.asarray(transform_point((0.0, 0.0, 0.0)))
    columns = [np.asarray(transform_point(tuple(axis))) - origin for axis in 100 * np.eye(3)]
    lps = np.eye(4)
    lps[:3, :3] = np.stack(columns, 1) / 100
    lps[:3, 3] = origin
    return FLIP @ lps @ FLIP


TOOLS = {
    "pds-bids": _ours,
    "SimpleITK": _simpleitk,
    "ANTs": _ants,
    "dipy": _dipy,
    "greedy": _greedy,
    "none": _rest,
}


if __name__ == "__main__":
    name, folder, target = sys.argv[1:]
    np.save(target, TOOLS[name](_read(Path(folder))))
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kb = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    Path(target).with_suffix(".kb").write_text(peak_kb)
